"""Stylised facts: the measures by which a simulated market is held against real ones.

Every measure is a plain function of numbers; a value that the data cannot give is None, never a guess. Estimates from
short series are biased (a week's kurtosis, a week's autocorrelation), so both sides are cut into windows of one length
and the simulated figure is judged against what real windows of that length show: `judged`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import rankdata

from models.branching import borel_pmf, cluster_variance

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TAIL_SHARE = 0.05  # of all returns, on each side
TAIL_MIN = 10  # order statistics below which a tail index says nothing
PAIRS_MIN = 10
LAGS = 60
RETURN_S = 300
HOUR_RETURNS = 3600 // RETURN_S
CLUSTER_GAP_S = 60.0
REGIME_S = 3600.0
CLUSTERS_MIN = 10
CLUSTER_TAIL_SHARE = 0.25  # of all clusters; a smaller part of the few hundred that feeds tell says nothing
NEAR = 0.05  # relative distance from the trades within which book events are counted
RANGE_QUANTILES = (0.05, 0.95)
QUANTILES_MIN = 20  # real values below which the range is from the smallest to the largest
WITHIN = "within the real range"
DAYS_MIN = 5  # fewer clusters than that make no error of a slope over days


# --- returns ---


def tail_index(losses: Floats, share: float = TAIL_SHARE) -> float | None:
    """Hill's estimate of the tail exponent of the largest `share` of all finite values.

        k = floor(share * n);  x[1] >= x[2] >= ...  the values, falling
        out = k / sum(log(x[i] / x[k + 1]) for i in 1..k)

    Pass returns for the right tail, their negatives for the left. None where k < TAIL_MIN, x[k + 1] <= 0, or the tail
    is one single value. A smaller exponent is a heavier tail. Source: Hill (1975), Annals of Statistics 3.

    >>> x = np.concatenate([np.exp(np.arange(11.0)), np.ones(189)])  # k = 10 over e^0: logs 1..10
    >>> round(tail_index(x), 6)  # 10 / 55
    0.181818
    """
    known = losses[np.isfinite(losses)]
    k = math.floor(share * known.size)
    if k < TAIL_MIN:
        return None
    largest = np.sort(known)[::-1][: k + 1]
    if not largest[k] > 0:
        return None
    spread = float(np.log(largest[:k] / largest[k]).sum())
    return k / spread if spread > 0 else None


def autocorrelation(values: Floats, lags: int) -> Floats:
    """Autocorrelation at lags 1..`lags`, shape (lags,).

        d = values - mean(values)
        out[l - 1] = mean(d[t] * d[t + l]) / mean(d ** 2)

    over the pairs in which both are finite; NaN where fewer than PAIRS_MIN are, or the values do not vary.

    >>> autocorrelation(np.tile([1.0, -1.0], 20), 2).tolist()
    [-1.0, 1.0]
    """
    out = np.full(lags, np.nan)
    known = np.isfinite(values)
    if known.sum() < PAIRS_MIN:
        return out
    d = np.where(known, values - values[known].mean(), 0.0)
    variance = float((d**2).sum() / known.sum())
    if not variance > 0:
        return out
    for lag in range(1, min(lags, values.size - 1) + 1):
        pairs = int((known[:-lag] & known[lag:]).sum())
        if pairs >= PAIRS_MIN:
            out[lag - 1] = float(d[:-lag] @ d[lag:]) / pairs / variance
    return out


def decay_exponent(correlations: Floats) -> float | None:
    """`b` of `acf(l) ~ l ** -b`: minus the slope of log acf on log lag, over the lags where acf > 0.

    None where fewer than half of the lags are positive. Source: Cont (2001), Quantitative Finance 1: 0.2 to 0.4 daily.

    >>> round(decay_exponent(0.5 * np.arange(1.0, 61.0) ** -0.3), 9)
    0.3
    """
    positive = np.isfinite(correlations) & (correlations > 0)
    if positive.sum() < max(2, correlations.size / 2):
        return None
    lag = np.log(np.arange(1, correlations.size + 1)[positive])
    centred = lag - lag.mean()
    return -float(centred @ np.log(correlations[positive]) / (centred @ centred))


def excess_kurtosis(values: Floats) -> float | None:
    """`mean(d ** 4) / mean(d ** 2) ** 2 - 3` of the finite values; None below PAIRS_MIN of them or without variance.

    >>> excess_kurtosis(np.tile([1.0, -1.0], 10))
    -2.0
    """
    known = values[np.isfinite(values)]
    if known.size < PAIRS_MIN:
        return None
    d2 = (known - known.mean()) ** 2
    variance = float(d2.mean())
    return float((d2**2).mean()) / variance**2 - 3 if variance > 0 else None


def summed(returns: Floats, many: int) -> Floats:
    """Sums of `many` returns each, one after the other without overlap; NaN where one is missing, the rest is left out.

    >>> summed(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2).tolist()
    [3.0, 7.0]
    """
    whole = returns.size // many * many
    return np.asarray(returns[:whole].reshape(-1, many).sum(axis=1))


def rank_correlation(one: Floats, other: Floats) -> float | None:
    """Spearman's rank correlation over the pairs in which both are finite; None below PAIRS_MIN or without variation.

    >>> rank_correlation(np.arange(10.0), np.arange(10.0) ** 3)
    1.0
    """
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < PAIRS_MIN:
        return None
    a, b = (rankdata(values[both]) for values in (one, other))
    da, db = a - a.mean(), b - b.mean()
    scale = float((da @ da) * (db @ db))
    return round(float(da @ db) / math.sqrt(scale), 12) if scale > 0 else None


@dataclass(frozen=True)
class Series:
    """Log returns of `RETURN_S` seconds of one symbol and window, in order of time, and the dollars traded with them.

    NaN where there is none: a gap, or an interval without a trade.
    """

    returns: Floats
    volume_usd: Floats


def _absolute(lag: int) -> Callable[[Series], float | None]:
    def measure(series: Series) -> float | None:
        value = float(autocorrelation(np.abs(series.returns), lag)[-1])
        return value if math.isfinite(value) else None

    return measure


def _kurtosis_ratio(series: Series) -> float | None:
    fine, coarse = (excess_kurtosis(summed(series.returns, many)) for many in (1, HOUR_RETURNS))
    return None if fine is None or coarse is None or not fine > 0 else coarse / fine


def _first(values: Floats) -> float | None:
    return float(values[0]) if math.isfinite(values[0]) else None


@dataclass(frozen=True)
class Fact:
    """A fact's name, what it is in words, and its measure over a `Series`; facts of other tables have none."""

    name: str
    says: str
    measure: Callable[[Series], float | None] | None = None


FACTS: tuple[Fact, ...] = (
    Fact("tail_index_left", "Hill exponent of the worst 5 % of 5 min returns", lambda s: tail_index(-s.returns)),
    Fact("tail_index_right", "Hill exponent of the best 5 % of 5 min returns", lambda s: tail_index(s.returns)),
    Fact("kurtosis_5min", "excess kurtosis of 5 min returns", lambda s: excess_kurtosis(s.returns)),
    Fact("kurtosis_hour_ratio", "excess kurtosis of hourly over that of 5 min returns", _kurtosis_ratio),
    Fact("return_acf_1", "autocorrelation of 5 min returns, lag 1", lambda s: _first(autocorrelation(s.returns, 1))),
    Fact("volatility_acf_1", "autocorrelation of |5 min return|, lag 5 min", _absolute(1)),
    Fact("volatility_acf_12", "the same, lag 1 h", _absolute(12)),
    Fact("volatility_acf_60", "the same, lag 5 h", _absolute(LAGS)),
    Fact(
        "volatility_decay", "b of acf(l) ~ l ** -b over lags 5 min to 5 h",
        lambda s: decay_exponent(autocorrelation(np.abs(s.returns), LAGS)),
    ),
    Fact(
        "volume_volatility", "rank correlation of dollars traded and |5 min return|",
        lambda s: rank_correlation(s.volume_usd, np.abs(s.returns)),
    ),
    Fact("funding_acf_1", "autocorrelation of 8 h funding rates, lag 8 h"),
    Fact("funding_acf_3", "the same, lag 24 h"),
    Fact("cancel_to_trade_orders", "book rows cancelled per row traded, within 5 % of the trades"),
    Fact("cancel_to_trade_usd", "dollars cancelled per dollar traded, within 5 % of the trades"),
    Fact("depth_volatility_day", "slope of log depth within 100 bps on log volatility of the past hour, within a day"),
    Fact("depth_volatility_slope", "the same over all days, its error clustered by day"),
    Fact("cluster_size_mean", "forced orders less than 60 s apart: mean number"),
    Fact("cluster_size_variance", "the same: variance of the number"),
    Fact("cluster_single_share", "the same: share of clusters of one"),
    Fact("cluster_borel_variance", "variance over that of the Borel law of the same mean"),
    Fact("cluster_regime_mean", "mean size over that of a Poisson process with a rate for every hour"),
    Fact("cluster_usd_log_sd", "standard deviation of log dollars per cluster (lognormal body)"),
    Fact("cluster_usd_tail", "Hill exponent of the largest quarter of clusters, in dollars"),
)  # fmt: skip


def regular(candles: pl.DataFrame) -> pl.DataFrame:
    """Candles of any length up to `RETURN_S` as `RETURN_S` intervals with log return and dollars traded.

    `candles`: venue, symbol, ts (the end), close, volume. Out: venue, symbol, ts, ret, volume_usd, a row per interval
    that has candles. `ret = log(close / close before)`, null unless the interval before is there and both had trades;
    `volume_usd = sum(volume * close)`.
    """
    key = ["venue", "symbol"]
    end = (pl.col("ts") - pl.duration(microseconds=1)).dt.truncate(f"{RETURN_S}s") + pl.duration(seconds=RETURN_S)
    usd = pl.col("volume") * pl.col("close")
    bars = candles.sort(*key, "ts").group_by(*key, end.alias("ts"), maintain_order=True)
    joined = bars.agg(close=pl.col("close").last(), volume_usd=usd.sum())
    step = pl.col("ts").diff().over(key) == pl.duration(seconds=RETURN_S)
    traded = (pl.col("volume_usd") > 0) & (pl.col("volume_usd").shift().over(key) > 0)
    ret = (pl.col("close") / pl.col("close").shift().over(key)).log()
    return joined.select(*key, "ts", pl.when(step & traded).then(ret).alias("ret"), "volume_usd")


# --- book and funding ---


def cancel_to_trade(events: pl.DataFrame) -> dict[str, float] | None:
    """Cancels over trades of one symbol's book events, in rows (`orders`) and in dollars (`usd`).

        near = |price / median price of the minute's trades - 1| <= NEAR
        orders = rows cancelled and near / rows traded;  usd = dollars cancelled and near / dollars traded

    A minute without trades is left out on both sides. None where nothing was traded. An L2 cancel is a fall of a level
    that no trade explains. `events`: ts, event, price, qty.
    """
    minute = pl.col("ts").dt.truncate("1m")
    middle = events.filter(pl.col("event") == "trade").group_by(minute=minute).agg(middle=pl.col("price").median())
    near = events.with_columns(minute=minute).join(middle, on="minute")
    near = near.filter((pl.col("price") / pl.col("middle") - 1).abs() <= NEAR)
    usd = (pl.col("price") * pl.col("qty")).sum()
    both = near.group_by("event").agg(orders=pl.len(), usd=usd)
    found = {row["event"]: row for row in both.to_dicts()}
    if "trade" not in found or not found["trade"]["usd"] > 0:
        return None
    cancelled = found.get("cancel", {"orders": 0, "usd": 0.0})
    return {name: cancelled[name] / found["trade"][name] for name in ("orders", "usd")}


@dataclass(frozen=True)
class Slope:
    """A regression slope, its standard error clustered over `clusters` groups, and the rows it stands on."""

    value: float
    error: float
    clusters: int
    rows: int


def clustered_slope(y: Floats, x: Floats, cluster: Ints) -> Slope | None:
    """Slope of `y` on `x` with intercept; its error allows any dependence inside a cluster.

        c = x - mean(x);  slope = sum(c * y) / sum(c ** 2);  e = residuals
        error ** 2 = C / (C - 1) * (n - 1) / (n - 2) * sum_g (sum(c * e in g)) ** 2 / sum(c ** 2) ** 2

    over rows in which both are finite. None where there are fewer than 2 clusters or PAIRS_MIN rows, or x does not
    vary. Source: Liang and Zeger (1986), the CR1 form. On overlapping windows independent errors are far too small.
    """
    known = np.isfinite(y) & np.isfinite(x)
    groups, group = np.unique(cluster[known], return_inverse=True)
    n, c = int(known.sum()), x[known] - x[known].mean() if known.any() else np.empty(0)
    spread = float(c @ c)
    if n < PAIRS_MIN or groups.size < 2 or not spread > 0:
        return None
    value = float(c @ y[known]) / spread
    residual = y[known] - y[known].mean() - value * c
    scores = np.bincount(group, weights=c * residual)
    correction = groups.size / (groups.size - 1) * (n - 1) / (n - 2)
    return Slope(value, math.sqrt(correction * float(scores @ scores)) / spread, int(groups.size), n)


def depth_volatility(depth: pl.DataFrame, returns: pl.DataFrame, unit: str) -> Slope | None:
    """Slope of log depth on log realised volatility of one symbol.

        depth[t] = mean over samples in (t - RETURN_S, t] of the dollars within 100 bps, both sides
        volatility[t] = sqrt(sum of ret ** 2 over the hour up to t), t the end of a RETURN_S interval

    `depth`: ts, side, band_bps, depth_usd; `returns`: rows of `regular`. Errors are clustered by `unit`, "1d" or "1h".
    None as `clustered_slope`; an hour with a missing return is left out.
    """
    end = (pl.col("ts") - pl.duration(microseconds=1)).dt.truncate(f"{RETURN_S}s") + pl.duration(seconds=RETURN_S)
    both = depth.filter(pl.col("band_bps") == 100).group_by("ts").agg(usd=pl.col("depth_usd").sum(), sides=pl.len())
    mean = both.filter(pl.col("sides") == 2).group_by(ts=end).agg(usd=pl.col("usd").mean())
    hour = pl.col("ret").pow(2).rolling_sum(HOUR_RETURNS).sqrt().alias("volatility")
    rows = returns.sort("ts").select("ts", hour).join(mean, on="ts").drop_nulls()
    rows = rows.filter(pl.col("volatility") > 0, pl.col("usd") > 0).sort("ts")
    cluster = rows["ts"].dt.truncate(unit).dt.timestamp("us").to_numpy()
    return clustered_slope(np.log(rows["usd"].to_numpy()), np.log(rows["volatility"].to_numpy()), cluster)


# --- clusters of liquidations ---


def clusters(ts_s: Floats, usd: Floats, gap_s: float = CLUSTER_GAP_S) -> tuple[Floats, Floats]:
    """Sizes of clusters, in orders and in dollars; an order belongs to the one before if less than `gap_s` after it.

    >>> [part.tolist() for part in clusters(np.array([0.0, 59.0, 119.0, 500.0]), np.array([1.0, 2.0, 4.0, 8.0]))]
    [[2.0, 1.0, 1.0], [3.0, 4.0, 8.0]]
    """
    label = np.concatenate([[0], np.cumsum(np.diff(ts_s) >= gap_s)]) if ts_s.size else np.empty(0, dtype=np.int64)
    many = np.bincount(label.astype(np.int64)).astype(np.float64)
    return many, np.bincount(label.astype(np.int64), weights=usd).astype(np.float64)


@dataclass(frozen=True)
class Null:
    """What a law says of the sizes of clusters; `variance` is None where the law is not asked for it."""

    mean: float
    single_share: float
    variance: float | None = None


def borel_law(mean: float) -> Null | None:
    """Cluster sizes of a branching process of the same mean: `n = 1 - 1 / mean` children for every order.

        single_share = P(1) = exp(-n);  variance = n / (1 - n) ** 3    # see models.branching

    None where `mean` is below 1 or not finite.

    >>> law = borel_law(2.0)  # n = 1/2
    >>> round(law.single_share, 6), law.variance
    (0.606531, 4.0)
    """
    if not 1 <= mean < math.inf:
        return None
    n = 1 - 1 / mean
    return Null(mean, float(borel_pmf(1, n)), cluster_variance(n))


def regime_law(ts_s: Floats, gap_s: float = CLUSTER_GAP_S, block_s: float = REGIME_S) -> Null | None:
    """Cluster sizes if orders came independently, at a rate of its own in every block of time: no branching at all.

        rate_b = n_b / block_s;  q_b = exp(-rate_b * gap_s)    # that the next order is at least a gap away
        mean = sum(n_b) / sum(n_b * q_b);  single_share = sum(n_b * q_b ** 2) / sum(n_b * q_b)

    Effects at the blocks' edges are left out. A mean far above this one is not explained by busy hours. None without
    orders.

    >>> law = regime_law(np.zeros(60))  # a busy hour: one a minute, q = 1 / e
    >>> round(law.mean, 6), round(law.single_share, 6)
    (2.718282, 0.367879)
    """
    if not ts_s.size:
        return None
    _, many = np.unique(np.floor(ts_s / block_s), return_counts=True)
    apart = np.exp(-many / block_s * gap_s)
    begun = float(many @ apart)
    return Null(float(many.sum()) / begun, float(many @ apart**2) / begun)


def forced_orders(liquidations: pl.DataFrame) -> pl.DataFrame:
    """Fills of one symbol, stamp and side are one order: venue, symbol, ts, notional_usd, in order of time.

    Auto-deleveraging does not reach the book and is left out.
    """
    forced = liquidations.filter(pl.col("path") != "adl")
    orders = forced.group_by("venue", "symbol", "ts", "position_side").agg(pl.col("notional_usd").sum())
    return orders.sort("venue", "symbol", "ts", "position_side")


def cluster_facts(orders: pl.DataFrame) -> dict[str, float]:
    """The facts `cluster_*` of one symbol's `forced_orders`; empty below CLUSTERS_MIN clusters."""
    ts_s = orders["ts"].dt.timestamp("us").to_numpy() / 1e6
    many, usd = clusters(ts_s, orders["notional_usd"].to_numpy().astype(np.float64))
    if many.size < CLUSTERS_MIN:
        return {}
    mean, variance = float(many.mean()), float(many.var())
    found = {
        "cluster_size_mean": mean,
        "cluster_size_variance": variance,
        "cluster_single_share": float((many == 1).mean()),
        "cluster_usd_log_sd": float(np.log(usd).std()),
    }
    borel, regime = borel_law(mean), regime_law(ts_s)
    tail = tail_index(usd, CLUSTER_TAIL_SHARE)
    more = {
        "cluster_borel_variance": variance / borel.variance if borel is not None and borel.variance else None,
        "cluster_regime_mean": mean / regime.mean if regime is not None else None,
        "cluster_usd_tail": tail,
    }
    return found | {name: value for name, value in more.items() if value is not None}


# --- real against simulated ---


def real_range(values: Floats, error: float | None = None) -> tuple[float, float] | None:
    """The band that real values span.

    5 to 95 % quantiles from QUANTILES_MIN values on, smallest to largest from 2 on, value -+ 2 `error` for one; None
    without values, or for one value of unknown error.

    >>> real_range(np.array([2.0, 1.0])), real_range(np.array([1.0]), 0.25), real_range(np.array([1.0]))
    ((1.0, 2.0), (0.5, 1.5), None)
    """
    if values.size >= QUANTILES_MIN:
        low, high = np.quantile(values, RANGE_QUANTILES)
        return float(low), float(high)
    if values.size >= 2:
        return float(values.min()), float(values.max())
    return (float(values[0]) - 2 * error, float(values[0]) + 2 * error) if values.size and error is not None else None


def judged(simulated: float | None, band: tuple[float, float] | None) -> str:
    """How a simulated value stands to the real range, in words.

    >>> judged(1.5, (1.0, 2.0)), judged(4.0, (1.0, 2.0)), judged(0.5, (1.0, 2.0))
    ('within the real range', 'above it by a factor of 2.00', 'below it by a factor of 2.00')
    >>> judged(-0.5, (0.1, 0.2)), judged(None, (1.0, 2.0)), judged(1.0, None)
    ('below it by 0.6', 'not measured', 'nothing real to hold it against')
    """
    if band is None:
        return "nothing real to hold it against"
    if simulated is None or not math.isfinite(simulated):
        return "not measured"
    low, high = band
    if low <= simulated <= high:
        return WITHIN
    side, bound = ("above", high) if simulated > high else ("below", low)
    if simulated * bound > 0:
        ratio = simulated / bound
        return f"{side} it by a factor of {max(ratio, 1 / ratio):.2f}"
    return f"{side} it by {abs(simulated - bound):.3g}"
