"""The leverage ladder that open interest leaves behind, for venues that publish no positions.

Whoever opened in the last hours did so near the price of then, and is liquidated a leverage's distance away from it.
With what leverage is not known: two mixes, a careful and a bold one, say how much that matters. Going back from bar t
in steps of STEP_MIN (open interest is published no more often):

    built[s]   = max(oi[s] - oi[s - step], 0), half of it long and half short, at close[s]
    left[s, t] = product over later steps u of min(oi[u] / oi[u - step], 1)        what closes, closes in proportion
    distance   = 1 / leverage - MAINTENANCE, as a log distance from close[s]
    alive      = the long's (short's) trip price was not touched by a low (high) of the bars (s, t]
    fuel[t]    = sum over s in (t - window, t] of built * left * shares of the leverages alive within REACH of close[t]

What was opened before the window is not seen: fuel is of what was built lately. Own; the shares are assumptions. The
columns are told to the features as inputs: one pass makes all three.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.feature import Step

Floats = NDArray[np.float64]

WINDOW_MIN: Final = 240
STEP_MIN: Final = 5
LEVERAGES: Final = (5.0, 10.0, 25.0, 50.0, 100.0)
CAREFUL: Final = (0.40, 0.30, 0.20, 0.07, 0.03)  # assumed shares of what is opened
BOLD: Final = (0.10, 0.20, 0.30, 0.25, 0.15)
MAINTENANCE: Final = 0.005  # assumed; the lowest tiers of large venues are 0.4 to 0.5 %
REACH: Final = 0.05  # log distance within which fuel counts
DOUBT_FLOOR: Final = 1e-3  # of open interest; keeps the ratio of two small estimates calm
SIDE_FLOOR: Final = 1e-3
READS: Final = ("oi_base", "close", "high", "low")
LADDER: Final = pl.Schema(
    {
        "ladder_share": pl.Float64(),  # fuel of both sides within REACH over open interest, mean of the two mixes
        "ladder_side": pl.Float64(),  # (long - short) / (long + short + SIDE_FLOOR); positive: longs would be sold
        "ladder_doubt": pl.Float64(),  # log((bold + DOUBT_FLOOR) / (careful + DOUBT_FLOOR))
    }
)


class _Opened(NamedTuple):
    """What each bar says of the step that ends with it, whatever bar asks."""

    known: NDArray[np.int64]  # how many steps back from here, this one first, hold numbers alone
    built: Floats  # half of what was opened in the step; 0 or less: nothing was
    left: Floats  # share of what was open before that was not closed in it
    low: Floats
    high: Floats
    long: Floats  # trip prices, by bar and leverage
    short: Floats


def _opened_rows(oi, close, high, low, start, step, away):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba
    n, rungs = len(oi), len(away)
    known, built, left = np.zeros(n, np.int64), np.zeros(n), np.ones(n)
    lowest, highest = np.full(n, np.nan), np.full(n, np.nan)
    long, short = np.empty((n, rungs)), np.empty((n, rungs))
    for s in range(n):
        for rung in range(rungs):
            long[s, rung], short[s, rung] = close[s] * away[rung], close[s] / away[rung]
        before = s - step
        if before < start[s] or not (oi[s] > 0 and oi[before] > 0 and close[s] > 0):
            continue
        lowest[s], highest[s], numbers = np.inf, -np.inf, True
        for i in range(before + 1, s + 1):
            numbers = numbers and low[i] > 0 and high[i] > 0
            lowest[s], highest[s] = min(lowest[s], low[i]), max(highest[s], high[i])
        if numbers:
            known[s] = known[before] + 1
            built[s], left[s] = 0.5 * (oi[s] - oi[before]), oi[s] / oi[before]
    return known, built, left, lowest, highest, long, short


_opened: Callable[..., Any] = numba.njit(cache=True)(_opened_rows)


def _fuel_rows(opened, oi, close, asked, steps, step, weights, reach):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba
    """Fuel over open interest of the bars `asked`: a row of longs and shorts of the careful mix, then of the bold one.

    NaN until the window is full of numbers.
    """
    out = np.full((len(asked), 4), np.nan)
    for place, t in enumerate(asked):
        if opened.known[t] < steps:
            continue
        left, lowest, highest = 1.0, np.inf, -np.inf
        near = (close[t] * reach, close[t], close[t] / reach)
        found = (0.0, 0.0, 0.0, 0.0)
        for s in range(t, t - steps * step, -step):
            if opened.built[s] > 0:
                built = opened.built[s] / oi[t] * left
                found = _with_rungs(found, built, opened, s, lowest, highest, near, weights)
            else:
                left *= opened.left[s]
            lowest, highest = min(lowest, opened.low[s]), max(highest, opened.high[s])
        out[place, 0], out[place, 1], out[place, 2], out[place, 3] = found
    return out


def _rung_rows(found, built, opened, s, lowest, highest, near, weights):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba
    careful_long, careful_short, bold_long, bold_short = found
    below, now, above = near
    for rung in range(weights.shape[1]):
        long, short = opened.long[s, rung], opened.short[s, rung]
        if below <= long <= now and long < lowest:
            careful_long += built * weights[0, rung]
            bold_long += built * weights[1, rung]
        if now <= short <= above and short > highest:
            careful_short += built * weights[0, rung]
            bold_short += built * weights[1, rung]
    return careful_long, careful_short, bold_long, bold_short


_with_rungs: Callable[..., tuple[float, float, float, float]] = numba.njit(cache=True, inline="always")(_rung_rows)
_fuel: Callable[..., Floats] = numba.njit(cache=True)(_fuel_rows)


def with_ladder(rows: pl.DataFrame, step: Step, wanted: pl.Series | None = None) -> pl.DataFrame:
    """Usable `rows` (symbol and READS, by symbol and ts) with the columns of `LADDER` over `(t - WINDOW_MIN, t]`.

    Null until the window is full, where it holds no price or no open interest, and where it is not `wanted`.

    >>> bars = {"oi_base": [100.0] * 236 + [110.0] * 5, "close": [9.0] * 241, "high": [9.0] * 241, "low": [9.0] * 241}
    >>> rows = with_ladder(pl.DataFrame({"symbol": ["A"] * 241} | bars), Step(60))
    >>> rows["ladder_share"].tail(2).round(6).to_list()  # 10 of 110 are new, half of the leverages lie within 5 %
    [None, 0.045455]
    """
    oi, close, high, low = (rows[name].cast(pl.Float64).to_numpy() for name in READS)
    changes = rows["symbol"].ne_missing(rows["symbol"].shift())
    start = pl.select(pl.when(changes).then(pl.int_range(rows.height)).forward_fill()).to_series().to_numpy()
    asked = np.arange(rows.height) if wanted is None else wanted.arg_true().to_numpy().astype(np.int64)
    bars, steps = step.bars(STEP_MIN), step.bars(WINDOW_MIN) // step.bars(STEP_MIN)
    distances, weights = np.exp(-(1 / np.array(LEVERAGES) - MAINTENANCE)), np.array([CAREFUL, BOLD])
    opened = _Opened(*_opened(oi, close, high, low, start, bars, distances))
    fuel = _fuel(opened, oi, close, asked, steps, bars, weights, float(np.exp(-REACH)))
    careful, bold = fuel[:, 0] + fuel[:, 1], fuel[:, 2] + fuel[:, 3]
    long, short = (fuel[:, 0] + fuel[:, 2]) / 2, (fuel[:, 1] + fuel[:, 3]) / 2
    told = {
        "ladder_share": (careful + bold) / 2,
        "ladder_side": (long - short) / (long + short + SIDE_FLOOR),
        "ladder_doubt": np.log((bold + DOUBT_FLOOR) / (careful + DOUBT_FLOOR)),
    }
    return rows.with_columns(_spread(name, values, asked, rows.height) for name, values in told.items())


def _spread(name: str, values: Floats, places: NDArray[np.int64], height: int) -> pl.Series:
    """`values` at `places` of a column that is null elsewhere, and where they are NaN."""
    column = np.full(height, np.nan)
    column[places] = values
    return pl.Series(name, column, nan_to_null=True)
