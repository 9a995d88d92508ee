"""Person-periods: a minute that can still see an onset, once for every interval it has lived through.

    horizons   5   15   30   60   240 min
    intervals  (0, 5] (5, 15] (15, 30] (30, 60] (60, 240]

A row at `t` is at risk in an interval if no onset fell into the ones before; what happened there is the target of one
hazard. Whatever the hazards are, `p(h) = 1 - prod (1 - hazard)` over the intervals up to h never falls with h.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.calibration import Floats

HORIZONS_MIN = (5, 15, 30, 60, 240)
INTERVALS = tuple(f"{low}_{high}" for low, high in pairwise((0, *HORIZONS_MIN)))
TARGETS = tuple(f"y_{horizon}m" for horizon in HORIZONS_MIN)

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Periods:
    """`row` of the frame, `interval` (place in INTERVALS) and `happened` (0 or 1), all of one length."""

    row: Rows
    interval: Rows
    happened: Floats

    def __len__(self) -> int:
        return self.row.size

    def at(self, chosen: Rows) -> "Periods":
        return Periods(self.row[chosen], self.interval[chosen], self.happened[chosen])

    def of(self, interval: int) -> "Periods":
        return self.at(np.flatnonzero(self.interval == interval))


def periods(targets: pl.DataFrame) -> Periods:
    """Every row of `targets` (`y_5m` .. `y_240m`: 1, 0 or null) in every interval in which it is at risk.

    At risk in an interval: the target of the horizon before it is 0, its own is known. By interval, then by row.

    >>> y = {"y_5m": [0, 1], "y_15m": [1, 1], "y_30m": [1, 1], "y_60m": [1, None], "y_240m": [1, None]}
    >>> found = periods(pl.DataFrame(y))
    >>> found.row.tolist(), found.interval.tolist(), found.happened.tolist()
    ([0, 1, 0], [0, 0, 1], [0.0, 1.0, 1.0])
    """
    known = targets.select(pl.col(TARGETS).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    before = np.column_stack([np.zeros(known.shape[0]), known[:, :-1]])
    at_risk = [np.flatnonzero((before[:, j] == 0) & np.isfinite(known[:, j])) for j in range(len(HORIZONS_MIN))]
    return Periods(
        np.concatenate(at_risk),
        np.repeat(np.arange(len(at_risk)), [rows.size for rows in at_risk]),
        np.concatenate([known[rows, j] for j, rows in enumerate(at_risk)]),
    )


def thin(found: Periods, share: float, seed: int) -> tuple[Periods, Floats]:
    """All that happened and `share` of what did not, drawn interval by interval; and the log-odds correction of each.

        kept[j]  = max(1, round(share * quiet[j])), drawn without replacement
        shift[j] = log(kept[j] / quiet[j])           # odds among kept = true odds / (kept / quiet), exactly

    Order is kept. An interval without a quiet row has shift 0. Raises ValueError if `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], was {share}")
    rng = np.random.default_rng(seed)
    shift, chosen = np.zeros(len(INTERVALS)), [np.flatnonzero(found.happened > 0)]
    for interval in range(len(INTERVALS)):
        quiet = np.flatnonzero((found.interval == interval) & (found.happened == 0))
        if quiet.size:
            kept = max(1, round(share * quiet.size))
            chosen.append(rng.choice(quiet, size=kept, replace=False))
            shift[interval] = np.log(kept / quiet.size)
    return found.at(np.sort(np.concatenate(chosen))), shift


def by_horizon(hazards: Floats) -> Floats:
    """`p(h) = 1 - prod (1 - hazard)` over the intervals up to each horizon; shape (rows, horizons) in and out.

    >>> by_horizon(np.array([[0.5, 0.5, 0.0, 0.0, 1.0]])).tolist()
    [[0.5, 0.75, 0.75, 0.75, 1.0]]
    """
    # added up rather than multiplied, so that rounding cannot let a longer horizon fall below a shorter one
    survived = np.cumprod(np.column_stack([np.ones(hazards.shape[0]), 1.0 - hazards[:, :-1]]), axis=1)
    return np.asarray(np.minimum(np.cumsum(survived * hazards, axis=1), 1.0), dtype=np.float64)


def count_events(rows: pl.DataFrame, target: str) -> int:
    """Runs of 1 in `target` along each symbol: rows before one onset are one event.

    >>> count_events(pl.DataFrame({"symbol": ["A"] * 5, "ts": range(5), "y": [1, 1, 0, 1, None]}), "y")
    2
    """
    now = pl.col(target).fill_null(0) == 1
    opens = now & ~now.shift(1, fill_value=False).over("symbol")
    return int(rows.sort("symbol", "ts").select(opens.sum()).item())
