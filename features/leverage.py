"""Leverage: positions being built, borrowed against, and the fuel they would become.

Open interest is read in base units, so that a falling price alone never looks like deleveraging.
"""

import polars as pl

from features.exact import checked, rolling_usd, standard_score
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance
from features.volatility import log_return

OI_SIGMA_FLOOR = 0.002  # log open interest; a fifth of a percent is everyday noise
OI_STEP = 1e-6  # log open interest; a change saturates at 2.5
OI_MOVE_MIN = 0.001  # smaller changes of log open interest have no direction
RETURN_MOVE_MIN = 0.001  # smaller log returns have no direction
FUEL_OVER_DEPTH_MAX = 1e6


def oi_log_change(minutes: int) -> pl.Expr:
    """`log(oi_base[t] / oi_base[t - minutes])`; null where either is missing, zero or stale."""
    oi = pl.col("oi_base")
    return (oi / oi.shift(minutes)).log()


def oi_change(window: int) -> pl.Expr:
    """Log change of open interest over `(t - window, t]`.

    Returns `oi_change_{window}`: Float64, positive when positions are built. Null until the window is full and where
    open interest is missing, zero or older than OI_AGE_S_MAX at either end. Raises ValueError if `window` < 1.
    """
    return oi_log_change(checked("window", window)).alias(f"oi_change_{window}")


def oi_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of the change of open interest against its own past.

        x[t] = log(oi_base[t] / oi_base[t - window])
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), OI_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `oi_score_{window}`: Float64, standard deviations. Null where `x[t]` is and until 80 % of the baseline is
    there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = oi_log_change(window)
    return standard_score(x, window, baseline, OI_SIGMA_FLOOR, step=OI_STEP).alias(f"oi_score_{window}")


def oi_over_volume(window: int) -> pl.Expr:
    """How much open interest stands on how little trading.

        out[t] = log((oi_usd[t] + FLOW_FLOOR_USD) / (V + FLOW_FLOOR_USD)), V = USD traded in (t - window, t]

    Returns `oi_over_volume_{window}`: Float64. Null until the window is full and where open interest is missing or
    stale. Raises ValueError if `window` < 1.
    """
    traded = rolling_usd(pl.col("volume_usd"), checked("window", window)) + FLOW_FLOOR_USD
    held = pl.col("oi_usd") + FLOW_FLOOR_USD
    return (held / traded).log().alias(f"oi_over_volume_{window}")


def oi_quadrant(window: int) -> pl.Expr:
    """Who is moving the price: positions opened or positions closed.

        2 longs build (price up, OI up)      1 shorts cover (price up, OI down)
       -2 shorts build (price down, OI up)  -1 longs unwind (price down, OI down)
        0 where the move over (t - window, t] is below RETURN_MOVE_MIN or that of open interest below OI_MOVE_MIN

    Returns `oi_quadrant_{window}`: Float64; the sign is that of the price, 2 means that risk is being added.
    Null until the window is full and where price or open interest is missing. Raises ValueError if `window` < 1.
    """
    oi, move = oi_log_change(checked("window", window)), log_return(window)
    weight = pl.when(oi >= OI_MOVE_MIN).then(2.0).when(oi <= -OI_MOVE_MIN).then(1.0).otherwise(0.0)
    side = pl.when(move.abs() >= RETURN_MOVE_MIN).then(move.sign()).otherwise(0.0)
    known = oi.is_not_null() & move.is_not_null()
    return pl.when(known).then(side * weight + 0.0).alias(f"oi_quadrant_{window}")


def fuel_over_depth() -> pl.Expr:
    """Dollars that 5 % would force to trade, over the dollars that stand to take them; the worse side.

        long side  fuel_long_500bps_usd / max(depth_bid_500bps_usd, DEPTH_FLOOR_USD)
        short side fuel_short_500bps_usd / max(depth_ask_500bps_usd, DEPTH_FLOOR_USD)

    Returns `fuel_over_depth`: Float64 in [0, FUEL_OVER_DEPTH_MAX]; 1 means that the forced flow eats the book.
    Null without a recent structure or with a stale book on either side.
    """
    long = pl.col("fuel_long_500bps_usd") / pl.col("depth_bid_500bps_usd").clip(lower_bound=DEPTH_FLOOR_USD)
    short = pl.col("fuel_short_500bps_usd") / pl.col("depth_ask_500bps_usd").clip(lower_bound=DEPTH_FLOOR_USD)
    worse = pl.when(long >= short).then(long).when(short > long).then(short)
    return worse.clip(0.0, FUEL_OVER_DEPTH_MAX).alias("fuel_over_depth")


def fuel_side() -> pl.Expr:
    """Which side would be forced: `(long - short) / (long + short + FLOW_FLOOR_USD)` of the fuel within 5 %.

    Returns `fuel_side`: Float64 in (-1, 1), positive when longs would be sold. Null without a recent structure.
    """
    long, short = pl.col("fuel_long_500bps_usd"), pl.col("fuel_short_500bps_usd")
    return balance(long, short, FLOW_FLOOR_USD).alias("fuel_side")


def leverage_p90() -> pl.Expr:
    """Account leverage that a tenth of the notional exceeds, `leverage_p90` of the structure.

    Returns `leverage_p90_now`: Float64, times equity. Null without a recent structure.
    """
    return pl.col("leverage_p90").alias("leverage_p90_now")


def leverage_change(window: int) -> pl.Expr:
    """Log change of the 90 % account leverage over `(t - window, t]`: `log((l[t] + .1) / (l[t - window] + .1))`.

    Returns `leverage_change_{window}`: Float64. Null without a recent structure at either end.
    Raises ValueError if `window` < 1.
    """
    level = pl.col("leverage_p90") + 0.1
    return (level / level.shift(checked("window", window))).log().alias(f"leverage_change_{window}")


def largest_account() -> pl.Expr:
    """The largest account's share of gross notional, `largest_share` of the structure.

    Returns `largest_account`: Float64 in [0, 1]. Null without a recent structure.
    """
    return pl.col("largest_share").alias("largest_account")


def liq_over_volume(window: int) -> pl.Expr:
    """Share of forced flow in trading.

        out[t] = log((L + V + F) / (V + F)), L = USD liquidated, V = USD traded in (t - window, t], F = FLOW_FLOOR_USD

    Returns `liq_over_volume_{window}`: Float64, 0 without liquidations. Null until the window is full and where it
    holds a null. Raises ValueError if `window` < 1.
    """
    forced = rolling_usd(pl.col("liq_long_usd") + pl.col("liq_short_usd"), checked("window", window))
    traded = rolling_usd(pl.col("volume_usd"), window) + FLOW_FLOOR_USD
    return ((forced + traded) / traded).log().alias(f"liq_over_volume_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("oi_change_30", oi_change(m(30)), 30, "both"),
        Feature("oi_score_30", oi_score(m(30), m(1440)), 1499, "both"),
        Feature("oi_over_volume_60", oi_over_volume(m(60)), 59),
        Feature("oi_quadrant_30", oi_quadrant(m(30)), 30, "both", "flip"),
        Feature("fuel_over_depth", fuel_over_depth(), 0),
        Feature("fuel_side", fuel_side(), 0, "both", "flip"),
        Feature("leverage_p90_now", leverage_p90(), 0),
        Feature("leverage_change_60", leverage_change(m(60)), 60, "both"),
        Feature("largest_account", largest_account(), 0),
        Feature("liq_over_volume_15", liq_over_volume(m(15)), 14),
    )
