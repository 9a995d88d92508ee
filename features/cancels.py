"""Cancel bursts: liquidity leaving faster than it normally does.

Resting orders are pulled before a cascade prints. We measure how far the dollars cancelled in the last window sit
above the instrument's own recent normal, above trading, above what is being added, and from which side they leave.
"""

import math

import numpy as np
import polars as pl
from scipy.special import betainc, gammainc

from features.exact import checked, once, rolling_mean, rolling_quantile, rolling_std, rolling_usd, standard_score
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance

SIGMA_FLOOR = 0.1  # log-dollars; keeps a burst out of dead silence large but finite
QUARTILE_SIGMA = 0.6745  # upper quartile of a normal distribution, in standard deviations
NEAR_WEIGHT_DROPS = ((20, 0.5), (100, 0.25), (200, 0.15), (500, 0.1))  # cumulative bands: by how much the weight falls
SURPRISE_MAX = 12.0  # -log10 p; beyond it a fitted tail means nothing
COUNT_MAX = 1_000_000  # cancels of one bar
BRANCHING_Z_MIN = 2.33  # one Poisson window in a hundred looks like branching
BURST_MAX = 5.0
DRAIN_MAX = 100.0  # times the depth; beyond it a drain is a fault of the feed


def cancel_usd() -> pl.Expr:
    """Dollars cancelled in a bar, both sides; null where either side is."""
    return pl.col("cancel_bid_usd") + pl.col("cancel_ask_usd")


def cancel_burst(window: int, baseline: int) -> pl.Expr:
    """Standard score of log cancelled dollars against the trailing baseline.

        x[t] = log(1 + USD cancelled in bars (t - window, t])
        b = bars (t - window - baseline, t - window]     # ends where the burst window begins
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), SIGMA_FLOOR)

    Returns `cancel_burst_{window}`: Float64, one value per bar, in standard deviations. Null until
    both windows are full and wherever one holds a null. Never NaN, never infinite.

    Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = rolling_usd(cancel_usd(), window).log1p()
    return standard_score(x, window, baseline, SIGMA_FLOOR, full=1.0).alias(f"cancel_burst_{window}")


def cancel_to_trade(window: int) -> pl.Expr:
    """Log ratio of orders cancelled to trades.

        out[t] = log((C + 1) / (N + 1)), orders cancelled and trades counted over (t - window, t]

    Counts, not dollars: where half of every order is missing, as many are pulled. Returns `cancel_to_trade_{window}`:
    Float64. Null until the window is full and where it holds a null. Raises ValueError if `window` < 1.
    Source: the cancel-to-trade ratio of the SEC's MIDAS.
    """
    cancelled = rolling_usd(pl.col("cancels"), checked("window", window)) + 1
    return (cancelled / (rolling_usd(pl.col("trades"), window) + 1)).log().alias(f"cancel_to_trade_{window}")


def net_fleeting(window: int) -> pl.Expr:
    """Dollars cancelled beyond those added, over the depth that stood when the window began.

        out[t] = max(net, 0) / max(depth within 100 bps at t - window, DEPTH_FLOOR_USD)
        net = sum(cancel - add over (t - window, t])

    Returns `net_fleeting_{window}`: Float64 in [0, DRAIN_MAX], above 0 when the book empties; by how much more is added
    than cancelled `cancel_to_add` tells: over the depth it would be safest where the book is thinnest.
    Null until the window is full, where it holds a null, and where the book was stale.
    Raises ValueError if `window` < 1.
    """
    added = pl.col("add_bid_usd") + pl.col("add_ask_usd")
    net = rolling_usd(cancel_usd() - added, checked("window", window))
    before = (
        (pl.col("depth_bid_100bps_usd") + pl.col("depth_ask_100bps_usd"))
        .shift(window)
        .clip(lower_bound=DEPTH_FLOOR_USD)
    )
    return (net / before).clip(0.0, DRAIN_MAX).alias(f"net_fleeting_{window}")


def cancel_side(window: int) -> pl.Expr:
    """From which side the orders leave.

        out[t] = (B - A) / (B + A + FLOW_FLOOR_USD), bid and ask dollars cancelled in (t - window, t]

    Returns `cancel_side_{window}`: Float64 in (-1, 1), positive when bids leave. Null until the window is full and
    where it holds a null. Raises ValueError if `window` < 1.
    """
    bid = rolling_usd(pl.col("cancel_bid_usd"), checked("window", window))
    ask = rolling_usd(pl.col("cancel_ask_usd"), window)
    return balance(bid, ask, FLOW_FLOOR_USD).alias(f"cancel_side_{window}")


def cancel_rate_score(window: int, baseline: int) -> pl.Expr:
    """Robust z of the cancelled value rate: far above the median of its own past, in units of its upper half.

        x[t] = log(1 + USD cancelled in (t - window, t]), b = bars (t - window - baseline, t - window]
        out[t] = (x[t] - median(x[b])) / max((q75(x[b]) - median(x[b])) / QUARTILE_SIGMA, SIGMA_FLOOR)

    A past that holds a burst of its own does not hide the next one, as it does from a mean and a deviation. Returns
    `cancel_rate_score_{window}`: Float64, standard deviations of a normal distribution. Null where `x[t]` is and until
    80 % of the baseline is there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = once(rolling_usd(cancel_usd(), window).log1p())
    past = x.shift(window)
    middle, high = (rolling_quantile(past, q, baseline, full=0.8) for q in (0.5, 0.75))
    sigma = ((high - middle) * (1 / QUARTILE_SIGMA)).clip(lower_bound=SIGMA_FLOOR)
    return ((x - middle) / sigma).alias(f"cancel_rate_score_{window}")


def cancel_to_add(window: int) -> pl.Expr:
    """Log ratio of dollars cancelled to dollars added: above 0 the book is being taken down.

        out[t] = log((C + FLOW_FLOOR_USD) / (A + FLOW_FLOOR_USD)), C and A summed over (t - window, t]

    Returns `cancel_to_add_{window}`: Float64. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    cancelled = rolling_usd(cancel_usd(), checked("window", window)) + FLOW_FLOOR_USD
    added = rolling_usd(pl.col("add_bid_usd") + pl.col("add_ask_usd"), window) + FLOW_FLOOR_USD
    return (cancelled / added).log().alias(f"cancel_to_add_{window}")


def _both_sides(event: str, band_bps: int) -> pl.Expr:
    return pl.col(f"{event}_bid_{band_bps}bps_usd") + pl.col(f"{event}_ask_{band_bps}bps_usd")


def cancel_near_share(window: int) -> pl.Expr:
    """How near the touch the cancelled orders stood: 1 = all within 20 bps, 0 = all beyond 500 bps.

        out[t] = sum(weight * USD cancelled in the ring) / (USD cancelled + FLOW_FLOOR_USD), over (t - window, t]
        weight 1 within 20 bps, .5 to 100, .25 to 200, .1 to 500, 0 beyond

    Far orders come and go by habit; near ones are somebody's decision. Returns `cancel_near_share_{window}`: Float64 in
    [0, 1). Null until the window is full, where it holds a null and where a cancel met no quote.
    Raises ValueError if `window` < 1.
    """
    checked("window", window)
    near = [rolling_usd(_both_sides("cancel", band), window) * drop for band, drop in NEAR_WEIGHT_DROPS]
    weighted = near[0] + near[1] + near[2] + near[3]
    return (weighted / (rolling_usd(cancel_usd(), window) + FLOW_FLOOR_USD)).alias(f"cancel_near_share_{window}")


def _tail_surprise(columns: pl.Series) -> pl.Series:
    """-log10 P(N >= n) of a negative binomial with the mean and variance given; Poisson where that is no wider."""
    count, mean, variance = (columns.struct.field(name).to_numpy() for name in ("count", "mean", "variance"))
    out = np.where(np.isfinite(count) & np.isfinite(mean) & np.isfinite(variance), 0.0, np.nan)
    above = count > mean  # below the mean nothing is a burst, and a beta function is dear
    n, m, v = count[above], mean[above], variance[above]
    wide = v > m * (1 + 1e-9)
    tail = np.empty(n.size)
    odds = m[wide] / v[wide]
    tail[wide] = betainc(n[wide], m[wide] * odds / (1 - odds), 1 - odds)
    tail[~wide] = gammainc(n[~wide], m[~wide])
    with np.errstate(divide="ignore"):
        out[above] = np.clip(-np.log10(tail), 0.0, SURPRISE_MAX)
    return pl.Series(out).fill_nan(None)


def cancel_tail(window: int, baseline: int) -> pl.Expr:
    """How unlikely so many cancels are, by a negative binomial of the trailing baseline.

        n[t] = orders cancelled in (t - window, t], b = bars (t - window - baseline, t - window]
        out[t] = -log10 P(N >= n[t]), N negative binomial with mean(n[b]) and var(n[b]); Poisson if var <= mean
        out[t] = 0 where n[t] <= mean(n[b])

    Order flow is far more uneven than a Poisson process, which would call every busy minute a miracle. Returns
    `cancel_tail_{window}`: Float64 in [0, SURPRISE_MAX], 2 = one window in a hundred. Null where `n[t]` is, until 80 %
    of the baseline is there, and where nothing was cancelled in it. Raises ValueError as `cancel_burst`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    count = rolling_usd(pl.col("cancels"), window)
    past = count.shift(window)
    mean = rolling_mean(past, baseline, step=1.0, full=0.8)
    variance = rolling_std(past, baseline, step=1.0, full=0.8).pow(2)
    told = pl.struct(count=count, mean=mean, variance=variance)
    surprise = told.map_batches(_tail_surprise, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(mean > 0).then(surprise).alias(f"cancel_tail_{window}")


def cancel_branching(window: int) -> pl.Expr:
    """Branching ratio: how many further cancels a cancel sets off within its bar, changes of the rate taken out.

        d[i] = c[i] - c[i - 1], c = orders cancelled in bar i
        F = -mean(d[i] * d[i - 1]) / mean(c) over i in (t - window, t]      1 if Poisson, 1 / (1 - n)^2 if Hawkes
        out[t] = 1 - 1 / sqrt(F) where (F - 1) / sqrt(7 / window) > Z_MIN, else 0

    A rate that drifts or jumps between regimes makes counts uneven although no order answers another (n = 0); it takes
    naive fits to n near 1. Neighbouring differences have nothing in common but the noise of the bar between them, so
    neither a trend nor a single jump enters F (regimes of a few minutes do). `sqrt(7 / window)`
    is the standard error of F for Poisson counts. Returns
    `cancel_branching_{window}`: Float64 in [0, 1). What is set off later than a bar is not seen. Null until the window
    is full, where it holds a null, and where nothing was cancelled. Raises ValueError if `window` < 10.
    """
    checked("window", window, 10)
    count = pl.col("cancels").clip(upper_bound=COUNT_MAX)
    change = count.diff()
    noise = once(-(change * change.shift()).rolling_sum(window).cast(pl.Float64))
    total = rolling_usd(count, window)
    dispersion = once(noise / total)
    significant = (dispersion - 1) * math.sqrt(window / 7) > BRANCHING_Z_MIN
    ratio = pl.when(significant).then(1 - 1 / dispersion.sqrt()).otherwise(0.0)
    return pl.when((total > 0) & noise.is_not_null()).then(ratio).alias(f"cancel_branching_{window}")


def cancel_sync() -> pl.Expr:
    """Share of the venue's symbols that are in a cancel burst at this bar (`market_cancel_burst_share`).

    Returns `cancel_sync`: Float64 in [0, 1]. Null where fewer than two symbols have a burst score.
    """
    return pl.col("market_cancel_burst_share").alias("cancel_sync")


def cancel_follow(window: int, baseline: int) -> pl.Expr:
    """A burst here after bursts elsewhere: contagion of withdrawal, with a lag.

        out[t] = clip(cancel_burst[t], 0, BURST_MAX) * market_cancel_burst_share_before[t]

    Returns `cancel_follow_{window}`: Float64 in [0, BURST_MAX]. Null where either is. Raises ValueError as
    `cancel_burst`.
    """
    burst = cancel_burst(window, baseline).clip(0.0, BURST_MAX)
    return (burst * pl.col("market_cancel_burst_share_before")).alias(f"cancel_follow_{window}")


def replenish(window: int) -> pl.Expr:
    """How much of what was taken or pulled near the touch has come back since.

        taken = USD traded against the book + USD cancelled within 100 bps over (t - 2 window, t - window]
        out[t] = log((USD added within 100 bps over (t - window, t] + FLOW_FLOOR_USD) / (taken + FLOW_FLOOR_USD))

    Returns `replenish_{window}`: Float64, 0 when all of it came back; low is risk. Null until both windows are full and
    where they hold a null. Raises ValueError if `window` < 1.
    """
    checked("window", window)
    traded = pl.col("book_trade_bid_usd") + pl.col("book_trade_ask_usd")
    taken = rolling_usd(traded + _both_sides("cancel", 100), window).shift(window) + FLOW_FLOOR_USD
    added = rolling_usd(_both_sides("add", 100), window) + FLOW_FLOOR_USD
    return (added / taken).log().alias(f"replenish_{window}")


def quote_stuffing(window: int) -> pl.Expr:
    """Messages per trade: `log((adds + cancels + 1) / (trades + 1))`, counts over `(t - window, t]`.

    A level, not a score: what is usual differs by venue, and a model or detector learns that.

    Returns `quote_stuffing_{window}`: Float64. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    messages = rolling_usd(pl.col("adds") + pl.col("cancels"), checked("window", window)) + 1
    return (messages / (rolling_usd(pl.col("trades"), window) + 1)).log().alias(f"quote_stuffing_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("cancel_burst_5", cancel_burst(m(5), m(240)), 248),
        Feature("cancel_rate_score_15", cancel_rate_score(m(15), m(240)), 268),
        Feature("cancel_tail_5", cancel_tail(m(5), m(240)), 248),
        Feature("cancel_to_trade_5", cancel_to_trade(m(5)), 4),
        Feature("cancel_to_add_5", cancel_to_add(m(5)), 4),
        Feature("cancel_near_share_5", cancel_near_share(m(5)), 4),
        Feature("net_fleeting_5", net_fleeting(m(5)), 5),
        Feature("cancel_side_5", cancel_side(m(5)), 4, "both", "flip"),
        Feature("cancel_branching_60", cancel_branching(m(60)), 61),
        Feature("cancel_sync", cancel_sync(), 248),
        Feature("cancel_follow_5", cancel_follow(m(5), m(240)), 253),
        Feature("replenish_5", replenish(m(5)), 9, "low"),
        Feature("quote_stuffing_5", quote_stuffing(m(5)), 4),
    )
