"""Rolling statistics whose value depends on the window's content alone, to the last bit.

Floating-point rolling sums carry residue from values that have left the window: a scheduled run that reads the last
day and a backfill that reads a year would differ, and a z-score would amplify the difference. Here a quantity becomes
a whole number of small steps; whole numbers below 2 ** 53 add up exactly in floats too, and only the last division
rounds.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from features import kernels
from features.kernels import Window

WINDOW_MAX = 1_440  # bars
STEPS_MAX = 2_500_000  # magnitude at which a value saturates; STEPS_MAX ** 2 * WINDOW_MAX < 2 ** 53
STEP = 2e-5  # the default step; logarithms saturate at 50
LOOKS_BACK = "window"  # how the names of columns begin that a kernel computes from earlier bars, too

# Polars computes a repeated subexpression once only while no rolling window stands above it.
Rule = Callable[[pl.Series], pl.Series]


class _Column(NamedTuple):
    name: str
    expr: pl.Expr
    rule: Rule | None  # what was asked of `x`: two expressions that call Python never look the same
    x: pl.Expr


_ONCE: ContextVar[list[_Column] | None] = ContextVar("once", default=None)


def once(x: pl.Expr) -> pl.Expr:
    """`x`, to be computed once: inside `collecting` the column that stands for it, else `x` itself.

    A score reads its input three times, and several features read the same rolling sum: as columns they are computed
    one time each. What a feature says is the same either way.
    """
    return _standing_for("once", x, None, x)


def _windowed(x: pl.Expr, rule: Rule) -> pl.Expr:
    """`rule` of the column `x`, computed once; inside `collecting` a column whose name says that it looks back."""
    return _standing_for(LOOKS_BACK, x.map_batches(rule, return_dtype=pl.Float64), rule, x)


def _standing_for(kind: str, expr: pl.Expr, rule: Rule | None, x: pl.Expr) -> pl.Expr:
    found = _ONCE.get()
    if found is None:
        return expr
    for column in found:
        if column.rule == rule and column.x.meta.eq(x):
            return pl.col(column.name)
    found.append(_Column(f"{kind}_{len(found)}", expr, rule, x))
    return pl.col(found[-1].name)


@contextmanager
def collecting() -> Iterator[dict[str, pl.Expr]]:
    """Expressions built inside read columns in place of what `once` marks; yields those columns, inner ones first.

    >>> with collecting() as columns:
    ...     y = once(once(pl.col("x") + 1) * 2) - once(pl.col("x") + 1)
    >>> list(columns), sorted(y.meta.root_names())
    (['once_0', 'once_1'], ['once_0', 'once_1'])
    """
    found: list[_Column] = []
    columns: dict[str, pl.Expr] = {}
    token = _ONCE.set(found)
    try:
        yield columns
    finally:
        _ONCE.reset(token)
        columns.update((column.name, column.expr) for column in found)


def checked(name: str, minutes: int, least: int = 1) -> int:
    """Return `minutes` if it can be a window.

    Raises ValueError outside [least, WINDOW_MAX].

    >>> checked("window", 5)
    5
    """
    if not least <= minutes <= WINDOW_MAX:
        raise ValueError(f"{name} must be from {least} to {WINDOW_MAX}, was {minutes}")
    return minutes


def finite(x: pl.Expr) -> pl.Expr:
    """`x` where it is a finite number, else null. Keeps the name of `x`."""
    return pl.when(x.is_finite()).then(x)


def steps(x: pl.Expr, step: float = STEP, limit: int = STEPS_MAX) -> pl.Expr:
    """`x` as a whole number of `step`, saturating at +-`limit`; Float64, null where `x` is.

    >>> frame = pl.DataFrame({"x": [0.5, None, -1e9]})
    >>> frame.select(steps(pl.col("x")))["x"].to_list()
    [25000.0, None, -2500000.0]
    """
    return (x * (1 / step)).clip(-limit, limit).round()


def samples_min(window: int, full: float = 1.0) -> int:
    """Smallest number of values that make a window of `window` bars usable, at least 2 for windows above 1.

    >>> samples_min(240, 0.8), samples_min(5), samples_min(1)
    (192, 5, 1)
    """
    return max(min(2, window), math.ceil(window * full))


def rolling_usd(usd: pl.Expr, window: int) -> pl.Expr:
    """Exact sum over `(t - window, t]` of an Int64 column, as Float64; null until full and where one is null."""
    return once(usd.rolling_sum(window).cast(pl.Float64))


@dataclass(frozen=True)
class _Moment:
    """A rule of columns: what `kernels.moments` says of a window."""

    what: int
    window: Window

    def __call__(self, x: pl.Series) -> pl.Series:
        values, known = x.cast(pl.Float64).to_numpy(), x.is_not_null().to_numpy()
        out, told = kernels.moments(values, known, self.window, self.what)
        return pl.select(pl.when(pl.Series(told)).then(pl.Series(out)).alias(x.name)).to_series()


@dataclass(frozen=True)
class _Quantile:
    """A rule of columns: a quantile of a window."""

    q: float
    window: int
    least: int

    def __call__(self, x: pl.Series) -> pl.Series:
        out = kernels.quantiles(x.cast(pl.Float64).to_numpy(), self.window, self.least, self.q)
        return pl.Series(x.name, out, nan_to_null=True)


def _moment(what: int, x: pl.Expr, bars: int, step: float, full: float) -> pl.Expr:
    return _windowed(x, _Moment(what, Window(bars, samples_min(bars, full), step, float(STEPS_MAX))))


def rolling_mean(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Mean of `x` over `(t - window, t]`, exact in steps of `step`; null below `full` of the window.

    >>> frame = pl.DataFrame({"x": [1.0, 2.0, 4.0]})
    >>> frame.select(rolling_mean(pl.col("x"), 2).round(9))["x"].to_list()
    [None, 1.5, 3.0]
    """
    return _moment(kernels.MEAN, x, window, step, full)


def rolling_rms(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Root mean square of `x` over `(t - window, t]`, exact in steps of `step`; null below `full` of the window."""
    return _moment(kernels.RMS, x, window, step, full)


def rolling_std(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Standard deviation of `x` over `(t - window, t]`, exact in steps; null below `full` of the window.

    `sqrt(mean((x - mean(x)) ** 2) * window / (window - 1))`: the sample deviation of a full window. Needs window > 1.

    >>> frame = pl.DataFrame({"x": [1.0, 2.0, 4.0]})
    >>> frame.select(rolling_std(pl.col("x"), 3).round(6))["x"].to_list()
    [None, None, 1.527525]
    """
    return _moment(kernels.SIGMA, x, window, step, full)


def rolling_quantile(x: pl.Expr, q: float, window: int, *, full: float = 1.0) -> pl.Expr:
    """Quantile `q` of `x` over `(t - window, t]`, linear between neighbours; null below `full` of the window.

    >>> frame = pl.DataFrame({"x": [4.0, 1.0, 2.0, None]})
    >>> frame.select(rolling_quantile(pl.col("x"), 0.75, 3, full=0.6))["x"].to_list()
    [None, 3.25, 3.0, 1.75]
    """
    return _windowed(x, _Quantile(q, window, samples_min(window, full)))


def standard_score(
    x: pl.Expr, lag: int, baseline: int, sigma_floor: float, *, step: float = STEP, full: float = 0.8
) -> pl.Expr:
    """How far `x` stands above its own past, in standard deviations.

        b = bars (t - lag - baseline, t - lag]
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), sigma_floor)

    `sigma_floor` is in units of `x` and keeps a score out of silence large but finite. Null where `x[t]` is null or
    less than `full` of the baseline is there.
    """
    window = Window(baseline, samples_min(baseline, full), step, float(STEPS_MAX), lag, sigma_floor)
    return _windowed(x, _Moment(kernels.SCORE, window))
