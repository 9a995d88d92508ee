"""Thin books: how little stands in the way, and how far each dollar moves the price.

Depth features need a book feed; Amihud, Kyle and range features read the same from trades alone. Depth also collapses
*because* of a cascade: these features describe, the evaluation decides whether they warn.
"""

import math
from functools import reduce
from typing import Literal

import polars as pl

from features.exact import checked, once, rolling_mean, rolling_quantile, rolling_usd, standard_score, steps
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance
from features.leverage import fuel_over_depth
from features.norms import measure
from features.schema import DEPTH_BANDS_BPS
from features.volatility import RETURN_STEP, SIGMA_FLOOR, log_return, range_steps, realised_sigma, return_steps

Side = Literal["bid", "ask"]
SIDES: tuple[Side, Side] = ("bid", "ask")
BPS = 1e-4
LOG_SIGMA_FLOOR = 0.1
FLOW_STEP = 1e-4  # of a square-root million dollars; a minute saturates at 62.5 billion
MOVE_STEP_BPS = 5e-3  # a minute's move saturates at 125 %
FLOW_VARIANCE_FLOOR = 0.01  # million dollars per bar; 10 000 USD of signed flow is silence
SLOPE_FLOOR = 0.1  # bps per square-root million dollars
BASELINE_FULL = 0.8
GAP_TIMES = 3.0  # spreads; a bar whose widest spread exceeds this many usual ones has a hole in its book
DEPTH_STEP = 1e-4  # log depth
PHI_MIN, PHI_MAX = 0.01, 0.99  # a half-life of 9 s and of 69 min at bars of a minute
CLIFF_NONE_BPS = 1_000.0  # stands for: no band within 500 bps


def _log_depth(side: Side) -> pl.Expr:
    return (pl.col(f"depth_{side}_100bps_usd") + DEPTH_FLOOR_USD).log()


def _worse(bid: pl.Expr, ask: pl.Expr) -> pl.Expr:
    """The larger of two, null where either is null."""
    one, two = once(bid), once(ask)
    return (one + two + (one - two).abs()) / 2


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
    q = once(steps(flow.sign() * (flow.abs() * 1e-6).sqrt(), FLOW_STEP))
    r = once(steps(log_return() * 1e4, MOVE_STEP_BPS))
    product, mean_r, mean_q, mean_q2 = (once(x.rolling_mean(window)) for x in (r * q, r, q, q.pow(2)))
    covariance = (product - mean_r * mean_q) * (MOVE_STEP_BPS * FLOW_STEP)
    variance = (mean_q2 - mean_q.pow(2)).clip(lower_bound=0.0) * FLOW_STEP**2
    return once(covariance / (variance + FLOW_VARIANCE_FLOOR))


def kyle_slope(window: int) -> pl.Expr:
    """How far one signed dollar moves the price (Kyle's lambda on square-root flow, after Hasbrouck, 2009).

        q = sign(buy - sell) * sqrt(abs(buy - sell) / 1e6), r = one-minute log return in bps, over (t - window, t]
        out[t] = cov(r, q) / (var(q) + FLOW_VARIANCE_FLOOR)

    Both are counted in whole steps, `r` of MOVE_STEP_BPS and `q` of FLOW_STEP, so that sums are exact.

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


# --- against the norm of this hour of the day ---


def below_norm(name: str) -> pl.Expr:
    """How far a depth stands below its norm for this hour, in standard deviations of its minutes there.

        out[t] = (norm_{name}_mean - x[t]) / max(norm_{name}_sd, LOG_SIGMA_FLOOR), x = norms.measure(name)

    Returns `{name}_norm`: Float64, high when thinner than this hour usually is. Null without a fresh book, and until
    three days of the hour are known.
    """
    sigma = pl.col(f"norm_{name}_sd").clip(lower_bound=LOG_SIGMA_FLOOR)
    return ((pl.col(f"norm_{name}_mean") - measure(name)) / sigma).alias(f"{name}_norm")


def spread_norm() -> pl.Expr:
    """How far the log spread stands above its norm for this hour: as `below_norm`, with the other sign.

    Returns `spread_norm`: Float64, standard deviations. Null without a fresh quote, and until three days are known.
    """
    return (-below_norm("spread")).alias("spread_norm")


# --- the shape of the book ---


def _log_both(band_bps: int) -> pl.Expr:
    return (pl.col(f"depth_bid_{band_bps}bps_usd") + pl.col(f"depth_ask_{band_bps}bps_usd") + DEPTH_FLOOR_USD).log()


def depth_slope() -> pl.Expr:
    """How fast the book thickens away from the touch: `(log D500 - log D100) / log 5`, both sides together.

    Returns `depth_slope`: Float64; 1 = evenly spread, below 1 = crowded near the mid, above 1 = hollow near it.
    Null without a fresh book.
    """
    return ((_log_both(500) - _log_both(100)) * (1 / math.log(5))).alias("depth_slope")


def depth_curve() -> pl.Expr:
    """Slope near the touch less slope far from it: `(log D100 - log D20) / log 5 - (log D500 - log D100) / log 5`.

    Returns `depth_curve`: Float64; positive: empty at the touch, with a wall behind. Null without a fresh book.
    """
    return ((2 * _log_both(100) - _log_both(20) - _log_both(500)) * (1 / math.log(5))).alias("depth_curve")


def _log_spread() -> pl.Expr:
    return measure("spread")


def spread_over_vol(window: int) -> pl.Expr:
    """What makers ask for the risk they take: `log((spread + floor) / max(rms one-bar return, half a bp))`.

        spread in bps at t, return in bps over (t - window, t]

    Returns `spread_over_vol_{window}`: Float64. Null without a fresh quote and until the window is full.
    Raises ValueError if `window` < 2.
    """
    sigma = (realised_sigma(checked("window", window, 2)).clip(lower_bound=SIGMA_FLOOR) * 1e4).log()
    return (_log_spread() - sigma).alias(f"spread_over_vol_{window}")


def spread_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of the mean log spread against its own past.

        x[t] = mean(log(spread in bps + floor) over (t - window, t])
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), LOG_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `spread_score_{window}`: Float64, standard deviations. Null until the window and 80 % of the baseline are
    there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = rolling_mean(_log_spread(), window)
    return standard_score(x, window, baseline, LOG_SIGMA_FLOOR).alias(f"spread_score_{window}")


def gap_burst(window: int, baseline: int) -> pl.Expr:
    """Gap clustering: share of bars in which the book tore open.

        torn[i] = widest spread in bar i > GAP_TIMES * median(spread over the baseline bars before i)
        out[t] = mean(torn over (t - window, t])

    Returns `gap_burst_{window}`: Float64 in [0, 1]. Null until the window and its baselines are full.
    Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    usual = rolling_quantile(pl.col("spread_bps").shift(), 0.5, baseline)
    torn = (pl.col("spread_bps_max") > GAP_TIMES * usual).cast(pl.Int64)
    return (torn.rolling_sum(window) * (1 / window)).alias(f"gap_burst_{window}")


def quote_imbalance(window: int) -> pl.Expr:
    """Mean imbalance at the touch, `(bid qty - ask qty) / (bid qty + ask qty)`, over `(t - window, t]`.

    Returns `quote_imbalance_{window}`: Float64 in [-1, 1], negative when bids are thin. Null until the window is full
    and where it holds a null. Raises ValueError if `window` < 1.
    """
    return rolling_mean(pl.col("imbalance"), checked("window", window)).alias(f"quote_imbalance_{window}")


def volume_imbalance(window: int) -> pl.Expr:
    """Which side takes: `(buys - sells) / (buys + sells + FLOW_FLOOR_USD)` of taker dollars over `(t - window, t]`.

    Returns `volume_imbalance_{window}`: Float64 in (-1, 1), negative when takers sell. Null until the window is full
    and where it holds a null. Raises ValueError if `window` < 1.
    """
    buys = rolling_usd(pl.col("buy_usd"), checked("window", window))
    return balance(buys, rolling_usd(pl.col("sell_usd"), window), FLOW_FLOOR_USD).alias(f"volume_imbalance_{window}")


# --- walking the book ---


def _rings(side: Side) -> list[pl.Expr]:
    """Dollars of each ring between neighbouring DEPTH_BANDS_BPS; a band that tells less than a nearer one adds none."""
    columns = [pl.col(f"depth_{side}_{band}bps_usd").cast(pl.Float64) for band in DEPTH_BANDS_BPS]
    inner: pl.Expr = pl.lit(0.0)
    found = []
    for column in columns:
        ring = once((column - inner).clip(lower_bound=0.0))
        found.append(ring)
        inner = once(inner + ring)
    return found


def _held(side: Side) -> pl.Expr:
    """Dollars within the widest band."""
    first, *others = _rings(side)
    return reduce(lambda total, ring: total + ring, others, first)


def _walk_bps(side: Side, usd: int) -> pl.Expr:
    """Average distance in bps of the nearest `usd` dollars of one side; within a ring they lie evenly."""
    cost, inner, near_bps = pl.lit(0.0), pl.lit(0.0), 0
    for band, ring in zip(DEPTH_BANDS_BPS, _rings(side), strict=True):
        taken = once((usd - inner).clip(0.0, ring))
        cost = cost + taken * (near_bps + (band - near_bps) / 2 * taken / ring.clip(lower_bound=1.0))
        inner, near_bps = once(inner + ring), band
    filled = inner.clip(upper_bound=usd)
    return pl.when(filled > 0).then(cost / filled)


def slippage_bps(usd: int) -> pl.Expr:
    """What an order of a stated size pays on average against the mid, by walking the bands; the worse side.

        within a band dollars lie evenly; beyond 500 bps nothing is known: the order is filled in part

    Returns `slip_{usd}_bps`: Float64 in bps, of the part that is filled. Null without a fresh book, and where a side
    is empty. Raises ValueError if `usd` < 1.
    """
    if usd < 1:
        raise ValueError(f"usd must be at least 1, was {usd}")
    return _worse(*(_walk_bps(side, usd) for side in SIDES)).alias(f"slip_{usd}_bps")


def slippage_short(usd: int) -> pl.Expr:
    """Exhaustion: the share of an order of a stated size that the book within 500 bps does not hold; the worse side.

    Returns `slip_{usd}_short`: Float64 in [0, 1], 0 = all of it can be filled. Null without a fresh book.
    Raises ValueError if `usd` < 1.
    """
    if usd < 1:
        raise ValueError(f"usd must be at least 1, was {usd}")
    return _worse(*(1 - (_held(side) * (1 / usd)).clip(0.0, 1.0) for side in SIDES)).alias(f"slip_{usd}_short")


def resilience(window: int, bar_min: float) -> pl.Expr:
    """Half-life of a dent in the book, in minutes: how long until half of a deviation of log depth is gone.

        x = log depth of the thinner side within 100 bps, over (t - window, t]
        phi = cov(x[i], x[i - 1]) / var(x[i - 1]), within [PHI_MIN, PHI_MAX]
        out[t] = bar_min * log(1 / 2) / log(phi)

    A book that no longer refills has a long half-life. Returns `resilience_{window}`: Float64, minutes. Null until the
    window and the bar before it are there, and where depth did not move. Raises ValueError if `window` < 3.
    """
    checked("window", window, 3)
    x = once(steps(measure("depth"), DEPTH_STEP))
    past = x.shift()
    parts = (x * past, x, past, past.pow(2))
    product, mean_x, mean_past, squares = (once(part.rolling_mean(window)) for part in parts)
    variance = once(squares - mean_past.pow(2))
    phi = ((product - mean_x * mean_past) / variance).clip(PHI_MIN, PHI_MAX)
    half_life = bar_min * math.log(0.5) / phi.log()
    return pl.when(variance > 0).then(half_life).alias(f"resilience_{window}")


# --- all books at once, and the flow that would meet them ---


def thin_share() -> pl.Expr:
    """Correlated thinness: share of the venue's symbols whose depth is below its 5 % quantile for this hour.

    Returns `thin_share`: Float64 in [0, 1]; .05 is chance. Null where fewer than two symbols have a norm.
    """
    return pl.col("market_thin_share").alias("thin_share")


def depth_eigen() -> pl.Expr:
    """Share of the largest eigenvalue in the correlation of one-bar changes of log depth over an hour.

    Returns `depth_eigen_60`: Float64 in (0, 1], 1 where all books breathe as one. Null where fewer than two symbols
    have an hour of depth.
    """
    return pl.col("market_depth_eigen_share").alias("depth_eigen_60")


def cliff_bps() -> pl.Expr:
    """Distance to the cliff: the nearest band in which fuel outweighs the book that takes it; the nearer side.

        rings (0, 100], (100, 200], (200, 500] bps; ratio = fuel in the ring / max(depth in the ring, DEPTH_FLOOR_USD)
        out[t] = far edge of the first ring with ratio >= 1, CLIFF_NONE_BPS where there is none

    Returns `cliff_bps`: Float64, one of 100, 200, 500, CLIFF_NONE_BPS; low is risk. Null without a recent structure or
    a fresh book.
    """
    return pl.min_horizontal(_cliff("long", "bid"), _cliff("short", "ask")).alias("cliff_bps")


def _cliff(held: str, side: Side) -> pl.Expr:
    bands = DEPTH_BANDS_BPS[1:]
    both = [(f"fuel_long_{band}bps_usd", f"fuel_short_{band}bps_usd") for band in bands]
    both += [(f"depth_bid_{band}bps_usd", f"depth_ask_{band}bps_usd") for band in bands]
    known = pl.all_horizontal(pl.col(name).is_not_null() for pair in both for name in pair)
    edges, burnt_usd, near_usd = [], pl.lit(0), pl.lit(0)
    for band in bands:
        fuel, depth = pl.col(f"fuel_{held}_{band}bps_usd"), pl.col(f"depth_{side}_{band}bps_usd")
        eaten = fuel - burnt_usd >= (depth - near_usd).clip(lower_bound=DEPTH_FLOOR_USD)
        edges.append(pl.when(eaten).then(pl.lit(float(band))))
        burnt_usd, near_usd = fuel, depth
    return pl.when(known).then(pl.coalesce(*edges, pl.lit(CLIFF_NONE_BPS)))


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("depth_norm", below_norm("depth"), 0),
        Feature("touch_norm", below_norm("touch"), 0),
        Feature("spread_norm", spread_norm(), 0),
        Feature("depth_drop_240", depth_drop(m(240)), 240),
        Feature("depth_drain_5", depth_drain(m(5)), 5),
        Feature("depth_imbalance", depth_imbalance(), 0, "both", "flip"),
        Feature("touch_share", touch_share(), 0, "low"),
        Feature("depth_slope", depth_slope(), 0, "both"),
        Feature("depth_curve", depth_curve(), 0),
        Feature("spread_over_vol_15", spread_over_vol(m(15)), 15),
        Feature("spread_score_15", spread_score(m(15), m(240)), 268),
        Feature("gap_burst_15", gap_burst(m(15), m(240)), 254),
        Feature("quote_imbalance_5", quote_imbalance(m(5)), 4, "both", "flip"),
        Feature("volume_imbalance_15", volume_imbalance(m(15)), 14, "both", "flip"),
        Feature("slip_100k_bps", slippage_bps(100_000), 0, scale="stated"),
        Feature("slip_1m_bps", slippage_bps(1_000_000), 0, scale="stated"),
        Feature("slip_1m_short", slippage_short(1_000_000), 0, scale="stated"),
        Feature("resilience_60", resilience(m(60), step.bar_s / 60), 60),
        Feature("amihud_score_15", amihud_score(m(15), m(240)), 269),
        Feature("range_score_15", range_score(m(15), m(240)), 268),
        Feature("kyle_slope_60", kyle_slope(m(60)), 60, scale="1/root"),
        Feature("kyle_score_60", kyle_score(m(60), m(240)), 359, scale="stated"),
        Feature("thin_share", thin_share(), 0),
        Feature("depth_eigen_60", depth_eigen(), 60),
        Feature("fuel_over_depth_100", fuel_over_depth(100), 0),
        Feature("cliff_bps", cliff_bps(), 0, "low"),
    )
