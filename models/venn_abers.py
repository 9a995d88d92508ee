"""Venn-Abers band: a calibrated probability as two numbers, whose distance says how little the calibration knows.

The row to be judged is added to the calibration rows twice, once as quiet and once as an event, and isotonic
regression is fitted to each. Guaranteed, if calibration rows and the new row are exchangeable: of the two values, the
one that goes with what then happens is perfectly calibrated (among rows where it is v, a share v happens, in
expectation, at any number of rows). Not guaranteed: that the true probability of a row lies within the band, nor which
end is the calibrated one. And minutes before one cascade are near copies of one another, hence not exchangeable with
those of the next: the band is as narrow as the number of rows says, and as wide as it should be only for as many
independent facts. The number of events is what counts; copied rows narrow the band without telling anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Band:
    """Two non-decreasing step functions of the raw score, low < high everywhere.

    `low[j]` holds for raw in [low_from[j], low_from[j + 1]), 0 before the first. `high[j]` holds for raw in
    (high_upto[j - 1], high_upto[j]], 1 beyond the last. Without a step the band is (0, 1): nothing is known.
    """

    low_from: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high_upto: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __call__(self, raw: Floats) -> tuple[Floats, Floats]:
        """(low, high), each of the shape of `raw`; NaN where `raw` is NaN."""
        unknown = np.isnan(raw)
        low = np.array((0.0, *self.low))[np.searchsorted(self.low_from, raw, side="right")]
        high = np.array((*self.high, 1.0))[np.searchsorted(self.high_upto, raw, side="left")]
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def middle(self, raw: Floats) -> Floats:
        """One probability within the band, high / (1 - low + high): the minimax choice under log loss."""
        low, high = self(raw)
        return np.asarray(high / (1.0 - low + high), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in ("low_from", "low", "high_upto", "high")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Band":
        """The inverse of `to_dict`; floats survive JSON exactly."""
        return cls(**{name: tuple(knots) for name, knots in values.items()})


def _bridge_rows(rows, events):  # type: ignore[no-untyped-def]  # compiled by numba, which infers types
    """Per distinct score i = 1..k: rise and run of the isotonic level there once an event is added at it.

    `rows` and `events` are cumulative, from 0. The level is the slope at i of the greatest convex minorant of the
    points j >= i and of the points j < i moved by (-1, -1). A stack holds the corners right of the newest moved
    point, so that every corner is pushed and popped once.
    """
    k = rows.size - 1
    x, y = np.empty(k + 2, dtype=np.int64), np.empty(k + 2, dtype=np.int64)
    rise, run = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    top = -1
    for step in range(2 * k):  # k points from the right, then k moved ones from the left
        moved = step >= k
        i = step - k if moved else k - step
        new_x, new_y = rows[i] - moved, events[i] - moved
        corner = step <= k or (new_y - y[top]) * (x[top - 1] - x[top]) < (y[top - 1] - y[top]) * (new_x - x[top])
        if corner:
            if step > k:
                top -= 1
            while top >= 1 and (y[top] - new_y) * (x[top - 1] - x[top]) >= (y[top - 1] - y[top]) * (x[top] - new_x):
                top -= 1
            top += 1
            x[top], y[top] = new_x, new_y
        if moved:
            rise[i], run[i] = y[top - 1] - y[top], x[top - 1] - x[top]
    return rise, run


_bridges: Callable[[Ints, Ints], tuple[Ints, Ints]] = numba.njit(cache=True)(_bridge_rows)


def _cumulative(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _levels(values: Floats, share: float) -> Floats:
    """Equal numbers for values to be stored as one: the values themselves, or steps of 1 + `share` between them."""
    if share == 0:
        return values
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    return np.asarray(np.floor(logs / np.log1p(share)), dtype=np.float64)


def fit_band(raw: Floats, happened: Floats, widen_share: float = 0.0) -> Band:
    """Inductive Venn-Abers predictor, all rows precomputed: one sort and two passes, not n isotonic fits.

        high(s) = isotonic fit to the rows and (s, 1), at s
        low(s)  = isotonic fit to the rows and (s, 0), at s
        between two distinct scores: high of the upper, low of the lower one

    `raw` and `happened` (0 or 1) are of equal length, without NaN; any scale, higher is riskier. No rows give (0, 1).
    Equal steps are stored once. With `widen_share` steps within a factor of 1 + widen_share are too: low never rises,
    high never falls, either by less than that factor (100,000 rows: hundreds of steps instead of thousands).

    Raises ValueError on unequal lengths, NaN, an outcome that is neither 0 nor 1, or a negative share. Source: Vovk,
    Petej and Fedorova 2015, "Large-scale probabilistic predictors with and without guarantees of validity", algorithms
    1 to 6.

    >>> low, high = fit_band(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 1.0]))(np.array([0.1, 0.3]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.5], [0.333, 1.0])
    """
    if raw.shape != happened.shape:
        raise ValueError(f"raw and happened must be of equal length, were {raw.size} and {happened.size}")
    if not np.isfinite(raw).all():
        raise ValueError("raw must be finite")
    if not np.isin(happened, (0.0, 1.0)).all():
        raise ValueError("happened must be 0 or 1")
    if not 0 <= widen_share < np.inf:
        raise ValueError(f"widen_share must be 0 or more, was {widen_share}")
    if not raw.size:
        return Band()
    x, inverse, count = np.unique(raw, return_inverse=True, return_counts=True)
    events = np.bincount(inverse, weights=happened).astype(np.int64)
    rise, run = _bridges(_cumulative(count), _cumulative(events))
    high = rise / run
    rise, run = _bridges(_cumulative(count[::-1]), _cumulative((count - events)[::-1]))
    low = ((run - rise) / run)[::-1]
    starts = np.diff(_levels(np.append(0.0, low), widen_share)) != 0
    ends = np.diff(_levels(np.append(high, 1.0), widen_share)) != 0
    return Band(
        tuple(x[starts].tolist()), tuple(low[starts].tolist()), tuple(x[ends].tolist()), tuple(high[ends].tolist())
    )
