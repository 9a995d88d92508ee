"""Drift: whether the market still is what the last week was.

A model has learned a market; where the market has changed, its scores mean less. Each measure of `features/norms.py`
is tested against the same hours of the days before. A day counts as one observation, however many bars it has: bars of
a day share its mood, and a test that counted them as independent would call every day a drift.

`psi`, `ks` and `drift_table` compare whole matrices, as an alarm and as a reason to abstain. What they report under no
drift depends on how many rows there are and on how much neighbouring rows repeat each other; so do their thresholds.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from features.exact import checked, once, rolling_mean
from features.feature import Feature, Step
from features.norms import measure
from features.schema import MEASURES

SURPRISE_MAX: Final = 6.0  # p below a millionth is not told apart
SURPRISE_ALARM: Final = 2.0  # p < .01
TOLD_SHARE_MIN: Final = 0.8
DEV_STEP: Final = 1e-4  # that of the norms
# Days that agree better than this agree by chance: 5 % of a log measure, 1 bp of basis, 1 % a year of funding.
DAY_SD_FLOOR: Final = {"basis": 0.01, "funding": 0.1}
DAY_SD_FLOOR_LOG: Final = 0.05
_SIGNED: Final = ("basis", "funding")


def _two_sided(parts: pl.Series) -> pl.Series:
    """P(|T| >= t) of Student's t, from a struct of `t` and `df`; element by element."""
    t, df = (parts.struct.field(name).cast(pl.Float64).to_numpy() for name in ("t", "df"))
    with np.errstate(invalid="ignore"):
        return pl.Series(parts.name, 2 * special.stdtr(df, -np.abs(t)), dtype=pl.Float64, nan_to_null=True)


def surprise(name: str, window: int) -> pl.Expr:
    """How unlikely the last hour's mean of a measure is, by the means of the same hours on the days before.

        x = measure(name), k = norm_{name}_days
        gap[t] = mean(x - norm_{name}_mean over (t - window, t])
        sd[t]  = max(mean(norm_{name}_day_sd over (t - window, t]), floor)
        T = gap / (sd * sqrt(1 + 1 / k)), Student's t with k - 1 degrees of freedom
        out[t] = sign(T) * -log10(P(|T| this large)), within +-SURPRISE_MAX

    Each bar is held against the norm of its own hour, so that a window over two hours sees no drift in the usual
    course of a day. In whole hours T is exact for normal days; across two hours `sd` takes them for one, which is
    careful. Floors of `sd`: DAY_SD_FLOOR, else DAY_SD_FLOOR_LOG.

    Returns `drift_{name}_{window}`: Float64, 2 = one in a hundred, above the usual. Null until the window is full,
    below TOLD_SHARE_MIN of its bars with measure and norm, and where the hour has no norm. Raises ValueError if
    `window` < 1.
    """
    checked("window", window)
    mean, day_sd, days = (pl.col(f"norm_{name}_{what}") for what in ("mean", "day_sd", "days"))
    away = measure(name) - mean
    # Over the bars that have both, as the gap.
    spread = pl.when(away.is_not_null()).then(day_sd)
    gap = rolling_mean(away, window, step=DEV_STEP, full=TOLD_SHARE_MIN)
    sd = rolling_mean(spread, window, step=DEV_STEP, full=TOLD_SHARE_MIN)
    k = pl.when(days >= 2).then(days).cast(pl.Float64)
    t = gap / (sd.clip(lower_bound=DAY_SD_FLOOR.get(name, DAY_SD_FLOOR_LOG)) * (1 + 1 / k).sqrt())
    full = once(pl.col("ts").shift(window - 1).is_not_null())
    asked = pl.when(t.is_not_null() & full).then(pl.struct(t.alias("t"), (k - 1).alias("df")))
    p = asked.map_batches(_two_sided, return_dtype=pl.Float64, is_elementwise=True)
    told = -p.clip(10**-SURPRISE_MAX, 1.0).log10()
    return once((t.sign() * told).clip(-SURPRISE_MAX, SURPRISE_MAX)).alias(f"drift_{name}_{window}")


def drift_count(surprises: Sequence[pl.Expr]) -> pl.Expr:
    """How many measures have drifted: those with p < .01, `|surprise| > SURPRISE_ALARM`.

    Returns `drift_count`: Float64, 0 to 8. Null where no measure has a surprise. Without drift .08 on average.
    """
    alarms = [x.abs() > SURPRISE_ALARM for x in surprises]
    told = pl.any_horizontal(alarm.is_not_null() for alarm in alarms)
    return pl.when(told).then(pl.sum_horizontal(alarms).cast(pl.Float64)).alias("drift_count")


def drift_share(surprises: Sequence[pl.Expr]) -> pl.Expr:
    """The same as a share of the measures that are told.

    Returns `drift_share`: Float64 in [0, 1]. Null where no measure has a surprise.
    """
    alarms = [x.abs() > SURPRISE_ALARM for x in surprises]
    told = pl.sum_horizontal(alarm.is_not_null() for alarm in alarms)
    share = pl.sum_horizontal(alarms).cast(pl.Float64) / told
    return pl.when(told > 0).then(share).alias("drift_share")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    # Made once and handed on: polars does not recognise two calls of the same function as one column.
    surprises = {name: surprise(name, step.bars(60)) for name in MEASURES}
    return (
        *(
            Feature(f"drift_{name}_60", expr, 59, "both", "flip" if name in _SIGNED else "same")
            for name, expr in surprises.items()
        ),
        Feature("drift_count", drift_count([*surprises.values()]), 59),
        Feature("drift_share", drift_share([*surprises.values()]), 59),
    )


# --- whole matrices ---

Floats = npt.NDArray[np.float64]
BINS: Final = 10
ROWS_PER_BIN: Final = 5  # effective rows of the smaller sample; with fewer, chi-square is no longer the null
EFFECTIVE_MIN: Final = 15  # with fewer effective rows nothing is said
RHO_MAX: Final = 0.999
TABLE: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "feature": pl.String(),
        "psi": pl.Float64(),
        "psi_null_99": pl.Float64(),
        "ks": pl.Float64(),
        "ks_p": pl.Float64(),
        "drifted": pl.Boolean(),
    }
)


class Sizes(NamedTuple):
    """Of two samples, feature by feature: told rows, and how much neighbouring rows repeat each other."""

    n: Floats  # of the reference
    m: Floats  # of what is compared with it
    rho_n: Floats
    rho_m: Floats

    def least(self) -> Floats:
        """Effective rows of the smaller one."""
        return np.minimum(effective_rows(self.n, self.rho_n), effective_rows(self.m, self.rho_m))


class _Pooled(NamedTuple):
    """Two samples sorted together: one row per feature, one column per place in that order, what is not told last."""

    below_n: Floats  # how many rows of the reference stand up to a place
    below_m: Floats
    tie_end: npt.NDArray[np.int64]  # the last place that holds the same value
    sizes: Sizes


def effective_rows(n: Floats, rho: Floats) -> Floats:
    """How many independent rows `n` rows are worth whose neighbours correlate by `rho`: n (1 - rho) / (1 + rho).

    >>> effective_rows(np.array([190.0]), np.array([0.9])).round(6).tolist()
    [10.0]
    """
    return n * (1 - rho) / (1 + rho)


def _rho(ranks: Floats) -> Floats:
    """Correlation of neighbouring rows as that of the Gaussian process with these ranks, feature by feature.

    `2 sin(pi r / 6)` of the ranks' correlation r, plus `(1 + 3 rho) / n` for what a short series understates (Kendall
    1954), within [0, RHO_MAX]: rows that avoid each other are not taken for more rows than there are.
    """
    both = ~(np.isnan(ranks[:, :-1]) | np.isnan(ranks[:, 1:]))
    n = np.maximum(both.sum(axis=1), 1)
    told = [np.where(both, rows, 0.0) for rows in (ranks[:, :-1], ranks[:, 1:])]
    x, y = (np.where(both, rows - (rows.sum(axis=1) / n)[:, None], 0.0) for rows in told)
    xx, yy, xy = (np.einsum("ij,ij->i", one, two) for one, two in ((x, x), (y, y), (x, y)))
    scale = np.sqrt(xx * yy)
    rho = 2 * np.sin(np.pi / 6 * np.divide(xy, scale, out=np.zeros_like(scale), where=scale > 0))
    return np.where(scale > 0, np.clip(rho + (1 + 3 * rho) / n, 0.0, RHO_MAX), 0.0)


def _pool(reference: Floats, current: Floats) -> _Pooled:
    """Samples as one row per feature, in the order of time; NaN and infinities are not told."""
    both = np.concatenate([reference, current], axis=1)
    both = np.where(np.isfinite(both), both, np.nan)
    order = np.argsort(both, axis=1, kind="stable")
    ordered = np.take_along_axis(both, order, axis=1)
    told, is_current = ~np.isnan(ordered), order >= reference.shape[1]
    below_n, below_m = ((told & side).cumsum(axis=1).astype(np.float64) for side in (~is_current, is_current))
    place = np.arange(both.shape[1])
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(both), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0), axis=1)
    last = np.where(np.hstack([differs, edge]), place, both.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(both)
    np.put_along_axis(ranks, order, np.where(told, (first + last) / 2, np.nan), axis=1)
    rho_n, rho_m = _rho(ranks[:, : reference.shape[1]]), _rho(ranks[:, reference.shape[1] :])
    return _Pooled(below_n, below_m, last, Sizes(below_n[:, -1], below_m[:, -1], rho_n, rho_m))


def _bins(sizes: Sizes, bins: int) -> Floats:
    return np.clip(sizes.least() // ROWS_PER_BIN, 2, bins)


def _some(rows: Floats) -> Floats:
    """`rows`, 1 where there are none: what is not told is divided too, and left out later."""
    return np.where(rows > 0, rows, 1.0)


def _psi(pooled: _Pooled, bins: Floats) -> tuple[Floats, Floats]:
    """PSI of every feature, and how many of its bins hold a row."""
    edges = np.minimum(np.arange(1, int(bins.max(initial=2)) + 1) / bins[:, None], 1.0)
    told = pooled.sizes.n + pooled.sizes.m
    places = np.maximum(np.ceil(told[:, None] * edges).astype(np.int64) - 1, 0)
    ends = np.take_along_axis(pooled.tie_end, places, axis=1)
    counts = [
        np.diff(np.take_along_axis(below, ends, axis=1), axis=1, prepend=0.0)
        for below in (pooled.below_n, pooled.below_m)
    ]
    held = counts[0] + counts[1] > 0
    filled = held.sum(axis=1)
    # A bin that nobody is in has the same share twice, and adds nothing.
    p, q = (np.where(held, (count + 0.5) / _some(count.sum(axis=1) + filled / 2)[:, None], 1.0) for count in counts)
    return ((p - q) * np.log(p / q)).sum(axis=1), filled.astype(np.float64)


def psi_null(sizes: Sizes, bins: Floats, level: float) -> Floats:
    """The quantile `level` of PSI of `bins` bins between two samples of one and the same market.

    Independent rows: (1 / n + 1 / m) chi-square of bins - 1. In a Gaussian process the part of a distribution's shape
    of order j (location, width, skewness, ..) repeats itself by rho ** j from row to row, so that

        w[j] = (1 + rho_n ** j) / (1 - rho_n ** j) / n + (1 + rho_m ** j) / (1 - rho_m ** j) / m,   j = 1 .. bins - 1

    and PSI is a sum of w[j] chi-squares of 1; its quantile is Satterthwaite's, with mean and variance of that sum.
    One effective sample size n (1 - rho) / (1 + rho) for all j would be the first term alone: an alarm that never
    rings. 0 for one bin.

    >>> sizes = Sizes(*(np.array([x]) for x in (100.0, 100.0, 0.0, 0.0)))
    >>> psi_null(sizes, np.array([10.0]), 0.99).round(4).tolist()  # 2 / 100 of 21.666, chi-square of 9
    [0.4333]
    """
    order = np.arange(1, max(int(bins.max(initial=2)), 2))[:, None]
    weights = sum(
        (1 + rho**order) / (1 - rho**order) / np.maximum(rows, 1)
        for rows, rho in ((sizes.n, sizes.rho_n), (sizes.m, sizes.rho_m))
    )
    weights = np.where(order < bins, weights, 0.0)
    total, squares = weights.sum(axis=0), (weights**2).sum(axis=0)
    some = total > 0
    freedom = np.divide(total**2, squares, out=np.ones_like(total), where=some)
    scale = np.divide(squares, total, out=np.zeros_like(total), where=some)
    return np.asarray(scale * special.chdtri(freedom, 1 - level), dtype=np.float64)


def _ks(pooled: _Pooled) -> tuple[Floats, Floats]:
    """Kolmogorov-Smirnov distance of every feature and its p, by what rows at the median are worth.

    Signs around the median correlate by 2 / pi asin(rho ** k) at a distance of k rows: less than the values do.
    """
    sizes = pooled.sizes
    n, m = np.maximum(sizes.n, 1), np.maximum(sizes.m, 1)
    apart = np.abs(pooled.below_n / n[:, None] - pooled.below_m / m[:, None])
    distance = np.take_along_axis(apart, pooled.tie_end, axis=1).max(axis=1)
    rows = 1 / (_median_inflation(sizes.rho_n) / n + _median_inflation(sizes.rho_m) / m)
    root = np.sqrt(rows)
    return distance, np.asarray(special.kolmogorov((root + 0.12 + 0.11 / root) * distance), dtype=np.float64)


def _median_inflation(rho: Floats) -> Floats:
    """`1 + 4 / pi * sum over k of asin(rho ** k)`, k summed before the series of asin."""
    place = np.arange(60)
    factors = special.binom(2 * place, place) / (4.0**place * (2 * place + 1))
    powers = rho ** (2 * place[:, None] + 1)
    return np.asarray(1 + 4 / np.pi * (factors[:, None] * powers / (1 - powers)).sum(axis=0), dtype=np.float64)


def _row(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(1, -1)


def psi(reference: npt.ArrayLike, current: npt.ArrayLike, bins: int = BINS) -> tuple[float, float]:
    """Population stability index of two series, rows in the order of time, and its 99 % quantile under no drift.

        p, q = shares of reference and current in `bins` bins of equal numbers of both together, equal values in one
               bin, (count + 1/2) / (rows + bins / 2)
        psi  = sum((p - q) log(p / q))

    Fewer bins where the smaller sample has under ROWS_PER_BIN effective rows a bin. NaN is left out. The quantile is
    that of `psi_null`. Raises ValueError if `bins` < 2 or a series has no value.

    >>> same, null = psi(np.arange(200.0), np.arange(200.0) + 0.5)
    >>> same < null
    True
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, was {bins}")
    pooled = _told(reference, current)
    value, filled = _psi(pooled, _bins(pooled.sizes, bins))
    return float(value[0]), float(psi_null(pooled.sizes, filled, 0.99)[0])


def ks(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two series, rows in the order of time, and its p.

    NaN is left out; p allows for neighbouring rows that repeat each other. Raises ValueError if a series has no value.

    >>> ks([1.0, 2.0, 3.0], [2.5, 3.5, 4.5])[0].__round__(4)
    0.6667
    """
    distance, p = _ks(_told(reference, current))
    return float(distance[0]), float(p[0])


def _told(reference: npt.ArrayLike, current: npt.ArrayLike) -> _Pooled:
    one, two = _row(reference), _row(current)
    if not (np.isfinite(one).any() and np.isfinite(two).any()):
        raise ValueError("each series must have a value, one had none")
    return _pool(one, two)


def drift_table(matrix_now: pl.DataFrame, matrix_reference: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """`symbol, feature, psi, psi_null_99, ks, ks_p, drifted`: every feature of every symbol in both matrices.

    `drifted` is `psi > psi_null_99`: without drift one in a hundred, whatever the number of rows. KS is a second
    opinion. All five are null where a side has under EFFECTIVE_MIN effective rows: a day of a slow feature can be a
    single excursion, and is no evidence. Rows by symbol, features in the order of `names`.
    """
    old = matrix_reference.sort("symbol", "ts").partition_by("symbol", as_dict=True)
    new = matrix_now.sort("symbol", "ts").partition_by("symbol", as_dict=True)
    parts = [_compared(str(key[0]), new[key], old[key], names) for key in sorted(set(new) & set(old), key=str) if names]
    return pl.concat(parts) if parts else pl.DataFrame(schema=TABLE)


def _compared(symbol: str, new: pl.DataFrame, old: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    reference, current = (frame.select(pl.col(names).cast(pl.Float64)).to_numpy().T for frame in (old, new))
    pooled = _pool(reference, current)
    value, filled = _psi(pooled, _bins(pooled.sizes, BINS))
    null = psi_null(pooled.sizes, filled, 0.99)
    distance, p = _ks(pooled)
    found = pl.DataFrame({"feature": list(names), "psi": value, "psi_null_99": null, "ks": distance, "ks_p": p})
    found = found.with_columns(symbol=pl.lit(symbol), drifted=pl.col("psi") > pl.col("psi_null_99"))
    enough = pl.Series(pooled.sizes.least() >= EFFECTIVE_MIN)
    told = (pl.when(enough).then(pl.col(name)).alias(name) for name in TABLE.names()[2:])
    return found.with_columns(told).select(TABLE.names())
