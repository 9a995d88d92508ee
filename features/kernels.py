"""Compiled passes over the windows of a column: moments in whole steps, and quantiles.

A polars expression for a standard score walks a column a dozen times; here one pass does. Moments are sums of whole
numbers below 2 ** 53, added and taken away without rounding: whatever the order, the last bit is that of a sum over the
window alone. A null is left out of its windows. `features.exact` makes expressions of these.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
F = TypeVar("F", bound=Callable[..., Any])

MEAN, RMS, SIGMA, SCORE = range(4)  # what is told of a window


class Window(NamedTuple):
    """Bars `(t - lag - bars, t - lag]`, of which `least` must be there, in whole `step`s up to `limit` of them."""

    bars: int
    least: int
    step: float
    limit: float
    lag: int = 0
    sigma_floor: float = 0.0


def _compiled(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@_compiled
def moments(x: Floats, known: Flags, window: Window, what: int) -> tuple[Floats, Flags]:
    """What is asked of the window of each bar, and whether it is told.

        whole = round(clip(x / step, -limit, limit)), half to even
        mean = step * mean(whole), rms = step * sqrt(mean(whole ** 2))
        sigma = step * sqrt((mean(whole ** 2) - mean(whole) ** 2) * bars / (bars - 1))
        score = (x - mean) / max(sigma, sigma_floor)

    Told where at least `least` values of the window are `known`, a score where `x` is known, too; NaN where one of
    those is NaN. Exact while `bars * limit ** 2 < 2 ** 53`.
    """
    n, per_unit = len(x), 1 / window.step
    sigma_step = window.step * np.sqrt(window.bars / max(window.bars - 1, 1))
    recent = np.zeros(window.bars)  # whole steps of the window, in turn
    out, told = np.full(n, np.nan), np.zeros(n, np.bool_)
    total, squares, count, faults = 0.0, 0.0, 0, 0
    for end in range(n - window.lag):
        place, gone = end % window.bars, end - window.bars
        if gone >= 0 and known[gone]:
            count -= 1
            faults -= np.isnan(x[gone])
            total -= recent[place]
            squares -= recent[place] * recent[place]
        recent[place] = 0.0
        if known[end]:
            count += 1
            if np.isnan(x[end]):
                faults += 1
            else:
                recent[place] = np.rint(min(max(x[end] * per_unit, -window.limit), window.limit))
                total += recent[place]
                squares += recent[place] * recent[place]
        t = end + window.lag
        told[t] = count >= window.least and (what != SCORE or known[t])
        if not told[t] or faults > 0:
            continue
        mean, square = total / count, squares / count
        if what == MEAN:
            out[t] = mean * window.step
        elif what == RMS:
            out[t] = np.sqrt(square) * window.step
        else:
            sigma = np.sqrt(max(square - mean * mean, 0.0)) * sigma_step
            out[t] = sigma if what == SIGMA else (x[t] - mean * window.step) / max(sigma, window.sigma_floor)
    return out, told


@_compiled
def _place(ordered: Floats, size: int, value: float) -> int:
    """Where `value` is, or would be, among the first `size` of `ordered`."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def _replace(ordered: Floats, size: int, old: float, new: float) -> None:
    """Put `new` in the place of `old` among the first `size` of `ordered`; only what lies between them moves."""
    place = _place(ordered, size, old)
    while place + 1 < size and ordered[place + 1] < new:
        ordered[place] = ordered[place + 1]
        place += 1
    while place > 0 and ordered[place - 1] > new:
        ordered[place] = ordered[place - 1]
        place -= 1
    ordered[place] = new


@_compiled
def quantiles(x: Floats, window: int, least: int, q: float) -> Floats:
    """Quantile `q` of `x` over `(t - window, t]`, linear between neighbours; NaN below `least` numbers in it.

    NaN counts as missing.
    """
    out, ordered, size = np.full(len(x), np.nan), np.full(window, np.inf), 0
    for t in range(len(x)):
        old = x[t - window] if t >= window else np.nan
        was, comes = not np.isnan(old), not np.isnan(x[t])
        if was or comes:  # beyond `size` lie infinities: a place that is empty
            _replace(ordered, window, old if was else np.inf, x[t] if comes else np.inf)
        size += comes - was
        if size >= least:
            at = (size - 1) * q
            low = int(at)
            value = ordered[low]
            out[t] = value if low == at else (at - low) * (ordered[low + 1] - value) + value
    return out
