"""Leverage: positions being built, borrowed against, and the fuel they would become.

Open interest is read in base units, so that a falling price alone never looks like deleveraging.
"""

from functools import reduce

import polars as pl

from features.exact import checked, once, rolling_usd, standard_score, steps
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance
from features.volatility import log_return

OI_SIGMA_FLOOR = 0.002  # log open interest; a fifth of a percent is everyday noise
OI_STEP = 1e-6  # log open interest; a change saturates at 2.5
OI_MOVE_MIN = 0.001  # smaller changes of log open interest have no direction
RETURN_MOVE_MIN = 0.001  # smaller log returns have no direction
FUEL_OVER_DEPTH_MAX = 1e6
LEVERAGE_FLOOR = 0.1  # times equity; keeps the log of an unlevered account calm


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


def fuel_over_depth(band_bps: int = 500) -> pl.Expr:
    """Dollars that a move of `band_bps` would force to trade, over the dollars that stand to take them; the worse side.

        long side  fuel_long_{band}bps_usd / max(depth_bid_{band}bps_usd, DEPTH_FLOOR_USD)
        short side fuel_short_{band}bps_usd / max(depth_ask_{band}bps_usd, DEPTH_FLOOR_USD)

    Returns `fuel_over_depth`: Float64 in [0, FUEL_OVER_DEPTH_MAX]; 1 means that the forced flow eats the book.
    Null without a recent structure or with a stale book on either side. Raises ValueError for other bands than 100,
    200 and 500.
    """
    if band_bps not in (100, 200, 500):
        raise ValueError(f"band_bps must be 100, 200 or 500, was {band_bps}")
    sides = (("long", "bid"), ("short", "ask"))
    long, short = (
        pl.col(f"fuel_{held}_{band_bps}bps_usd")
        / pl.col(f"depth_{side}_{band_bps}bps_usd").clip(lower_bound=DEPTH_FLOOR_USD)
        for held, side in sides
    )
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


def oi_over_depth() -> pl.Expr:
    """How much open interest stands before how thin a book: `log((oi_usd + F) / (thinner side within 100 bps + D))`.

    Returns `oi_over_depth`: Float64. Null where open interest is missing or stale, and without a fresh book.
    """
    bid, ask = pl.col("depth_bid_100bps_usd"), pl.col("depth_ask_100bps_usd")
    thinner = (bid + ask - (bid - ask).abs()) / 2 + DEPTH_FLOOR_USD
    return ((pl.col("oi_usd") + FLOW_FLOOR_USD) / thinner).log().alias("oi_over_depth")


def oi_build_side(window: int, move_bars: int) -> pl.Expr:
    """Who built what is open: increases of open interest while the price rose against those while it fell.

        d[i] = max(log(oi[i] / oi[i - 1]), 0), m[i] = sign of the price move over the `move_bars` to i
        out[t] = sum(m * d) / (sum(d) + OI_MOVE_MIN) over (t - window, t]

    Returns `oi_build_side_{window}`: Float64 in (-1, 1), positive when longs opened. Null until the window is full and
    where price or open interest is missing. Raises ValueError if a window is < 1.
    """
    checked("window", window)
    built = once(steps(oi_log_change(1), OI_STEP).clip(lower_bound=0.0).cast(pl.Int64))
    side = log_return(checked("move_bars", move_bars)).sign().cast(pl.Int64)
    signed, whole = (side * built).rolling_sum(window), built.rolling_sum(window)
    return (signed / (whole + OI_MOVE_MIN / OI_STEP)).alias(f"oi_build_side_{window}")


def oi_drawdown(window: int) -> pl.Expr:
    """How far open interest has come down from its highest: `log(max(oi over (t - window, t]) / oi[t])`.

    Returns `oi_drawdown_{window}`: Float64, 0 at the high; .0101 when 1 % has been closed. Null until the window is
    full and where open interest is missing or stale. Raises ValueError if `window` < 1.
    """
    oi = pl.col("oi_base")
    return (oi.rolling_max(checked("window", window)) / oi).log().alias(f"oi_drawdown_{window}")


def ladder(part: str, window: int) -> pl.Expr:
    """One column of the reconstructed leverage ladder (`features/ladder.py`): `share`, `side` or `doubt`.

    Returns `ladder_{part}_{window}`: Float64. Null until the window is full, and where it holds no price or no open
    interest.
    """
    return pl.col(f"ladder_{part}").alias(f"ladder_{part}_{window}")


QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99)  # of account leverage that a structure holds


def _quantile_changes(window: int) -> list[tuple[pl.Expr, float]]:
    """Log change of each quantile of leverage over the window, and its weight under the trapezoid rule."""
    logs = [(pl.col(f"leverage_p{round(100 * q)}") + LEVERAGE_FLOOR).log() for q in QUANTILES]
    ends = (QUANTILES[0], *QUANTILES, QUANTILES[-1])
    span = QUANTILES[-1] - QUANTILES[0]
    weights = [(after - before) / 2 / span for before, after in zip(ends, ends[2:], strict=False)]
    return [(once(log - log.shift(window)), weight) for log, weight in zip(logs, weights, strict=True)]


def leverage_shift(window: int) -> pl.Expr:
    """Wasserstein-1 distance between the distributions of account leverage now and `window` bars ago.

        out[t] = integral over u of abs(Q_t(u) - Q_{t - window}(u)) / .89, Q = log(quantile + LEVERAGE_FLOOR)

    from the quantiles that a structure holds, 10 to 99 %, by the trapezoid rule. Returns `leverage_shift_{window}`:
    Float64, 0 or more; .1 = levers changed by a tenth on average. Null without a recent structure at either end.
    Raises ValueError if `window` < 1.
    """
    changes = _quantile_changes(checked("window", window))
    return _weighted([(change.abs(), weight) for change, weight in changes]).alias(f"leverage_shift_{window}")


def leverage_tilt(window: int) -> pl.Expr:
    """The signed version: mean log change of the quantiles; positive when accounts lever up.

    Returns `leverage_tilt_{window}`: Float64. Null without a recent structure at either end.
    Raises ValueError if `window` < 1.
    """
    return _weighted(_quantile_changes(checked("window", window))).alias(f"leverage_tilt_{window}")


def _weighted(parts: list[tuple[pl.Expr, float]]) -> pl.Expr:
    first, *others = (part * weight for part, weight in parts)
    return reduce(lambda total, part: total + part, others, first)


def over_20x() -> pl.Expr:
    """Share of the notional held at an account leverage above 20, `over_20x_share` of the structure.

    Returns `over_20x`: Float64 in [0, 1]. Null without a recent structure.
    """
    return pl.col("over_20x_share").alias("over_20x")


def margin_used() -> pl.Expr:
    """Mean share of equity that maintenance margin takes, by notional (`margin_used` of the structure).

    Returns `margin_used_now`: Float64 in [0, 1]; at 1 an account is liquidated. Null without a recent structure.
    """
    return pl.col("margin_used").alias("margin_used_now")


def _over_positions(usd: pl.Expr) -> pl.Expr:
    """Share of gross notional; null without positions."""
    return pl.when(pl.col("position_usd") > 0).then((usd / pl.col("position_usd")).clip(0.0, 1.0))


def at_risk(band_bps: int) -> pl.Expr:
    """At-risk notional: what a move of `band_bps` either way would push to maintenance, over all positions.

    Returns `at_risk_{band}`: Float64 in [0, 1]. Null without a recent structure or positions.
    """
    both = pl.col(f"fuel_long_{band_bps}bps_usd") + pl.col(f"fuel_short_{band_bps}bps_usd")
    return _over_positions(both).alias(f"at_risk_{band_bps}")


def overdue() -> pl.Expr:
    """Share of positions whose account is short of margin already and not yet closed.

    Returns `overdue_share`: Float64 in [0, 1]. Null without a recent structure or positions.
    """
    return _over_positions(pl.col("overdue_usd")).alias("overdue_share")


def collateral_other() -> pl.Expr:
    """Share of the collateral of cross accounts that is neither dollars nor stablecoins: it falls with the market.

    Returns `collateral_other`: Float64 in [0, 1]. Null without a recent structure.
    """
    return pl.col("collateral_other_share").alias("collateral_other")


def peg_sensitivity() -> pl.Expr:
    """Stablecoins that holders rely on, over what their equity exceeds maintenance: `log(1 + stable_over_room)`.

    Returns `peg_sensitivity`: Float64, 0 without stablecoins; at log(1 + 100) a lost percent of the peg takes all room.
    Null without a recent structure.
    """
    return pl.col("stable_over_room").log1p().alias("peg_sensitivity")


def accounts_effective() -> pl.Expr:
    """Effective number of accounts, `log(1 / sum of squared shares)`: log(10) = as concentrated as ten equal ones.

    Returns `accounts_effective_log`: Float64, low is risk. Null without a recent structure.
    """
    return pl.col("accounts_effective").log().alias("accounts_effective_log")


def top_long_side() -> pl.Expr:
    """Which side the ten largest accounts are on: `2 * top10_long_share - 1`.

    Returns `top_long_side`: Float64 in [-1, 1], positive when they are long. Null without a recent structure.
    """
    return (2 * pl.col("top10_long_share") - 1).alias("top_long_side")


def top_side_change(window: int) -> pl.Expr:
    """Change of `top_long_side` over `window` bars: large accounts turning.

    Returns `top_side_change_{window}`: Float64 in [-2, 2]. Null without a recent structure at either end.
    Raises ValueError if `window` < 1.
    """
    side = top_long_side()
    return (side - side.shift(checked("window", window))).alias(f"top_side_change_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("oi_change_30", oi_change(m(30)), 30, "both"),
        Feature("oi_score_30", oi_score(m(30), m(1440)), 1499, "both"),
        Feature("oi_over_volume_60", oi_over_volume(m(60)), 59),
        Feature("oi_over_depth", oi_over_depth(), 0),
        Feature("oi_quadrant_30", oi_quadrant(m(30)), 30, "both", "flip"),
        Feature("oi_build_side_240", oi_build_side(m(240), m(5)), 244, "both", "flip"),
        Feature("oi_drawdown_240", oi_drawdown(m(240)), 239),
        Feature("ladder_share_240", ladder("share", 240), 240),
        Feature("ladder_side_240", ladder("side", 240), 240, "both", "flip"),
        Feature("ladder_doubt_240", ladder("doubt", 240), 240, "both"),
        Feature("fuel_over_depth", fuel_over_depth(), 0),
        Feature("fuel_side", fuel_side(), 0, "both", "flip"),
        Feature("leverage_p90_now", leverage_p90(), 0),
        Feature("leverage_change_60", leverage_change(m(60)), 60, "both"),
        Feature("leverage_shift_60", leverage_shift(m(60)), 60),
        Feature("leverage_tilt_60", leverage_tilt(m(60)), 60, "both"),
        Feature("over_20x", over_20x(), 0),
        Feature("margin_used_now", margin_used(), 0),
        Feature("at_risk_200", at_risk(200), 0),
        Feature("overdue_share", overdue(), 0),
        Feature("collateral_other", collateral_other(), 0),
        Feature("peg_sensitivity", peg_sensitivity(), 0),
        Feature("largest_account", largest_account(), 0),
        Feature("accounts_effective_log", accounts_effective(), 0, "low"),
        Feature("top_long_side", top_long_side(), 0, "both", "flip"),
        Feature("top_side_change_60", top_side_change(m(60)), 60, "both", "flip"),
        Feature("liq_over_volume_15", liq_over_volume(m(15)), 14),
    )
