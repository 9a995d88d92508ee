"""Thin books: how little stands in the way, and how far each dollar moves the price.

Depth features need a book feed; Amihud, Kyle and range features read the same from trades alone. Depth also collapses
*because* of a cascade: these features describe, the evaluation decides whether they warn.
"""

from typing import Literal

import polars as pl

from features.exact import checked, rolling_mean, rolling_usd, standard_score, steps
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance
from features.volatility import RETURN_STEP, log_return, range_steps, return_steps

Side = Literal["bid", "ask"]
SIDES: tuple[Side, Side] = ("bid", "ask")
BPS = 1e-4
LOG_SIGMA_FLOOR = 0.1
FLOW_STEP = 1e-4  # of a square-root million dollars; a minute saturates at 62.5 billion
MOVE_STEP_BPS = 5e-3  # a minute's move saturates at 125 %
FLOW_VARIANCE_FLOOR = 0.01  # million dollars per bar; 10 000 USD of signed flow is silence
SLOPE_FLOOR = 0.1  # bps per square-root million dollars
BASELINE_FULL = 0.8


def _log_depth(side: Side) -> pl.Expr:
    return (pl.col(f"depth_{side}_100bps_usd") + DEPTH_FLOOR_USD).log()


def _worse(bid: pl.Expr, ask: pl.Expr) -> pl.Expr:
    """The larger of two, null where either is null."""
    return (bid + ask + (bid - ask).abs()) / 2


def depth_drop(baseline: int) -> pl.Expr:
    """How far the thinner side within 100 bps has fallen below its own usual.

        d = log(depth + DEPTH_FLOOR_USD), b = bars (t - 1 - baseline, t - 1]
        out[t] = max over sides of mean(d[b]) - d[t]

    Returns `depth_drop_{baseline}`: Float64, .69 when the thinner side has halved. Null without a fresh book on both
    sides and until 80 % of the baseline is there. Raises ValueError if `baseline` < 2.
    """
    checked("baseline", baseline, 2)
    now = {side: _log_depth(side) for side in SIDES}
    bid, ask = (rolling_mean(d.shift(1), baseline, full=BASELINE_FULL) - d for d in now.values())
    return _worse(bid, ask).alias(f"depth_drop_{baseline}")


def depth_drain(window: int) -> pl.Expr:
    """Log fall of depth within 100 bps over `(t - window, t]`, the side that lost more.

        out[t] = max over sides of log((depth[t - window] + DEPTH_FLOOR_USD) / (depth[t] + DEPTH_FLOOR_USD))

    Returns `depth_drain_{window}`: Float64. Null without a fresh book on both sides at both ends.
    Raises ValueError if `window` < 1.
    """
    checked("window", window)
    bid, ask = (_log_depth(side).shift(window) - _log_depth(side) for side in SIDES)
    return _worse(bid, ask).alias(f"depth_drain_{window}")


def depth_imbalance() -> pl.Expr:
    """`(bid - ask) / (bid + ask + DEPTH_FLOOR_USD)` of the depth within 100 bps.

    Returns `depth_imbalance`: Float64 in (-1, 1), negative when bids are thin. Null without a fresh book.
    """
    return balance(pl.col("depth_bid_100bps_usd"), pl.col("depth_ask_100bps_usd"), DEPTH_FLOOR_USD).alias(
        "depth_imbalance"
    )


def touch_share() -> pl.Expr:
    """Share of the depth within 100 bps that stands within 20 bps.

        out[t] = D20 / (D100 + DEPTH_FLOOR_USD), both sides together

    Returns `touch_share`: Float64 in [0, 1], low when the touch has been left. Null without a fresh book.
    """
    near = pl.col("depth_bid_20bps_usd") + pl.col("depth_ask_20bps_usd")
    return (
        (near / (pl.col("depth_bid_100bps_usd") + pl.col("depth_ask_100bps_usd") + DEPTH_FLOOR_USD))
        .clip(0.0, 1.0)
        .alias("touch_share")
    )


def _move_per_dollar(move: pl.Expr, window: int) -> pl.Expr:
    """`log((sum(move) in bps + 1) / (USD traded + FLOW_FLOOR_USD))` over `(t - window, t]`; `move` in RETURN_STEP."""
    path_bps = move.rolling_sum(window).cast(pl.Float64) * (RETURN_STEP / BPS)
    traded = rolling_usd(pl.col("volume_usd"), window) + FLOW_FLOOR_USD
    return ((path_bps + 1) / traded).log()


def amihud_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of illiquidity, the absolute return per dollar traded (after Amihud, 2002).

        x[t] = log((sum(abs(r)) in bps + 1) / (USD traded + FLOW_FLOOR_USD)) over (t - window, t]
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), LOG_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `amihud_score_{window}`: Float64, standard deviations. Null until the window and 80 % of the baseline are
    there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = _move_per_dollar(return_steps().abs(), window)
    return standard_score(x, window, baseline, LOG_SIGMA_FLOOR).alias(f"amihud_score_{window}")


def range_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of the high-low range per dollar traded, a proxy of the spread.

        x[t] = log((sum(log(high / low)) in bps + 1) / (USD traded + FLOW_FLOOR_USD)) over (t - window, t]
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), LOG_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `range_score_{window}`: Float64, standard deviations. Null until the window and 80 % of the baseline are
    there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = _move_per_dollar(range_steps(), window)
    return standard_score(x, window, baseline, LOG_SIGMA_FLOOR).alias(f"range_score_{window}")


def _slope(window: int) -> pl.Expr:
    flow = pl.col("buy_usd") - pl.col("sell_usd")
    q = steps(flow.sign() * (flow.abs() / 1e6).sqrt(), FLOW_STEP)
    r = steps(log_return() / BPS, MOVE_STEP_BPS)
    product, mean_r, mean_q, mean_q2 = (x.rolling_mean(window) for x in (r * q, r, q, q.pow(2)))
    covariance = (product - mean_r * mean_q) * (MOVE_STEP_BPS * FLOW_STEP)
    variance = (mean_q2 - mean_q.pow(2)).clip(lower_bound=0.0) * FLOW_STEP**2
    return covariance / (variance + FLOW_VARIANCE_FLOOR)


def kyle_slope(window: int) -> pl.Expr:
    """How far one signed dollar moves the price (Kyle's lambda on square-root flow, after Hasbrouck, 2009).

        q = sign(buy - sell) * sqrt(abs(buy - sell) / 1e6), r = one-minute log return in bps, over (t - window, t]
        out[t] = cov(r, q) / (var(q) + FLOW_VARIANCE_FLOOR)

    Returns `kyle_slope_{window}`: Float64, bps per square-root million dollars. Null until the window is full and
    where it holds a null. Raises ValueError if `window` < 2.
    """
    return _slope(checked("window", window, 2)).alias(f"kyle_slope_{window}")


def kyle_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of the log slope against its own past.

        x[t] = log(max(kyle_slope, 0) + SLOPE_FLOOR)
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), LOG_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `kyle_score_{window}`: Float64, standard deviations. Null until the window and 80 % of the baseline are
    there. Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window, 2) + 1)
    x = (_slope(window).clip(lower_bound=0.0) + SLOPE_FLOOR).log()
    return standard_score(x, window, baseline, LOG_SIGMA_FLOOR).alias(f"kyle_score_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("depth_drop_240", depth_drop(m(240)), 240),
        Feature("depth_drain_5", depth_drain(m(5)), 5),
        Feature("depth_imbalance", depth_imbalance(), 0, "both", "flip"),
        Feature("touch_share", touch_share(), 0, "low"),
        Feature("amihud_score_15", amihud_score(m(15), m(240)), 269),
        Feature("range_score_15", range_score(m(15), m(240)), 268),
        Feature("kyle_slope_60", kyle_slope(m(60)), 60, scale="1/root"),
        Feature("kyle_score_60", kyle_score(m(60), m(240)), 359, scale="stated"),
    )
