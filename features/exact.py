"""Rolling statistics whose value depends on the window's content alone, to the last bit.

Floating-point rolling sums carry residue from values that have left the window: a scheduled run that reads the last
day and a backfill that reads a year would differ, and a z-score would amplify the difference. Here a quantity becomes
a whole number of small steps; whole numbers below 2 ** 53 add up exactly in floats too, and only the last division
rounds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import polars as pl

WINDOW_MAX = 1_440  # bars
STEPS_MAX = 2_500_000  # magnitude at which a value saturates; STEPS_MAX ** 2 * WINDOW_MAX < 2 ** 53
STEP = 2e-5  # the default step; logarithms saturate at 50


# Polars computes a repeated subexpression once only while no rolling window stands above it.
_ONCE: ContextVar[list[tuple[str, pl.Expr]] | None] = ContextVar("once", default=None)


def once(x: pl.Expr) -> pl.Expr:
    """`x`, to be computed once: inside `collecting` the column that stands for it, else `x` itself.

    A score reads its input three times, and several features read the same rolling sum: as columns they are computed
    one time each. What a feature says is the same either way.
    """
    found = _ONCE.get()
    if found is None:
        return x
    for name, known in found:
        if known.meta.eq(x):
            return pl.col(name)
    found.append((f"once_{len(found)}", x))
    return pl.col(found[-1][0])


@contextmanager
def collecting() -> Iterator[list[tuple[str, pl.Expr]]]:
    """Expressions built inside read columns in place of what `once` marks; yields those columns, inner ones first.

    >>> with collecting() as columns:
    ...     y = once(once(pl.col("x") + 1) * 2) - once(pl.col("x") + 1)
    >>> [name for name, _ in columns], sorted(y.meta.root_names())
    (['once_0', 'once_1'], ['once_0', 'once_1'])
    """
    found: list[tuple[str, pl.Expr]] = []
    token = _ONCE.set(found)
    try:
        yield found
    finally:
        _ONCE.reset(token)


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


def _mean(whole: pl.Expr, window: int, full: float) -> pl.Expr:
    return whole.rolling_mean(window, min_samples=samples_min(window, full))


def rolling_mean(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Mean of `x` over `(t - window, t]`, exact in steps of `step`; null below `full` of the window.

    >>> frame = pl.DataFrame({"x": [1.0, 2.0, 4.0]})
    >>> frame.select(rolling_mean(pl.col("x"), 2).round(9))["x"].to_list()
    [None, 1.5, 3.0]
    """
    return once(_mean(steps(x, step), window, full) * step)


def rolling_rms(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Root mean square of `x` over `(t - window, t]`, exact in steps of `step`; null below `full` of the window."""
    return once(_mean(steps(x, step).pow(2), window, full).sqrt() * step)


def rolling_std(x: pl.Expr, window: int, *, step: float = STEP, full: float = 1.0) -> pl.Expr:
    """Standard deviation of `x` over `(t - window, t]`, exact in steps; null below `full` of the window.

    `sqrt(mean((x - mean(x)) ** 2) * window / (window - 1))`: the sample deviation of a full window. Needs window > 1.

    >>> frame = pl.DataFrame({"x": [1.0, 2.0, 4.0]})
    >>> frame.select(rolling_std(pl.col("x"), 3).round(6))["x"].to_list()
    [None, None, 1.527525]
    """
    whole = once(steps(x, step))
    variance = _mean(whole.pow(2), window, full) - _mean(whole, window, full).pow(2)
    return once(variance.clip(lower_bound=0.0).sqrt() * (step * math.sqrt(window / (window - 1))))


def standard_score(
    x: pl.Expr, lag: int, baseline: int, sigma_floor: float, *, step: float = STEP, full: float = 0.8
) -> pl.Expr:
    """How far `x` stands above its own past, in standard deviations.

        b = bars (t - lag - baseline, t - lag]
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), sigma_floor)

    `sigma_floor` is in units of `x` and keeps a score out of silence large but finite. Null where `x[t]` is null or
    less than `full` of the baseline is there.
    """
    now = once(x)
    past = now.shift(lag)
    sigma = rolling_std(past, baseline, step=step, full=full).clip(lower_bound=sigma_floor)
    return once((now - rolling_mean(past, baseline, step=step, full=full)) / sigma)
