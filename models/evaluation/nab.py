"""The published score of the Numenta Anomaly Benchmark, for comparison only: an alarm every 600 rows already earns 26.

    sigma(y) = 2 / (1 + exp(5 y)) - 1, and -1 beyond y = 3
    a row in a window of W rows that ends at r earns        a_tp sigma(-(r - i + 1) / W) / sigma(-1), the best counts
    a row after a window of W' rows that ended at r' costs  a_fp sigma((i - r') / (W' - 1)); before any window -a_fp
    a window without a detection costs                      a_fn
    score = 100 (S - S_null) / (S_perfect - S_null)

Detections in the first min(15 % of the rows, 750) rows do not count. Source: Lavin and Ahmad 2015, and its scorer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Windows = Sequence[tuple[int, int]]  # first and last row

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750


@dataclass(frozen=True)
class Profile:
    a_tp: float
    a_fp: float
    a_fn: float


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_fp": Profile(1.0, 0.22, 1.0),
    "reward_low_fn": Profile(1.0, 0.11, 2.0),
}


def sigma(y: Floats) -> Floats:
    """
    >>> sigma(np.array([-1.0, 0.0, 4.0])).round(6).tolist()
    [0.986614, 0.0, -1.0]
    """
    return np.where(y > 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(y, 3.0))) - 1)


def probation(rows: int) -> int:
    """
    >>> probation(4032), probation(20_000)
    (604, 750)
    """
    return min(int(PROBATION_SHARE * rows), PROBATION_ROWS)


@dataclass(frozen=True)
class Gains:
    """What S of one file gains with each row that is detected too, from the highest score down: S = null + the sum."""

    score: Floats
    gain: Floats
    null: float

    def at(self, threshold: float) -> float:
        """S where every row with a score of at least `threshold` is a detection."""
        return self.null + float(self.gain[self.score >= threshold].sum())


def gains(score: Floats, windows: Windows, profile: Profile) -> Gains:
    """The gains of one file: `score` by row, NaN for none; `windows` in order of time, apart from one another."""
    rows = np.arange(probation(score.size), score.size)
    rows = rows[~np.isnan(score[rows])]
    rows = rows[np.argsort(-score[rows], kind="stable")]
    first, last = (np.array([window[side] for window in windows], dtype=np.int64) for side in (0, 1))
    of = np.searchsorted(first, rows, side="right") - 1  # the newest window that has begun
    gain = np.full(rows.size, -profile.a_fp)  # before any window
    begun = np.flatnonzero(of >= 0)
    past = rows[begun] - last[of[begun]]
    after, inside = begun[past > 0], begun[past <= 0]
    width = np.maximum(last - first, 1)
    gain[after] = profile.a_fp * sigma((rows[after] - last[of[after]]) / width[of[after]])
    for number in range(len(windows)):  # windows are few
        mine = inside[of[inside] == number]
        gain[mine] = _bettered(rows[mine], windows[number], profile)
    return Gains(score[rows], gain, -profile.a_fn * len(windows))


def _bettered(rows: Ints, window: tuple[int, int], profile: Profile) -> Floats:
    """How far each of `rows`, in this order, betters what a window earns: the miss that the first one spares too."""
    first, last = window
    earned = profile.a_tp * sigma(-(last - rows + 1) / (last - first + 1)) / sigma(np.array(-1.0))
    best = np.maximum.accumulate(earned)
    return np.diff(best, prepend=-profile.a_fn)


def raw_score(detected: Bools, windows: Windows, profile: Profile) -> float:
    """S of one file: `detected` by row; `windows` in order of time, apart from one another."""
    return gains(detected.astype(np.float64), windows, profile).at(1.0)


def best_threshold(files: Sequence[Gains]) -> float:
    """The threshold with the highest sum of S over `files`, the highest of equal ones; infinite where none gains."""
    score, gain = (np.concatenate([getattr(one, name) for one in files]) for name in ("score", "gain"))
    order = np.argsort(-score, kind="stable")
    total = np.cumsum(gain[order])
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # rows of one level are detected together
    most = ends[np.argmax(total[ends])] if ends.size else 0
    return float(score[order][most]) if ends.size and total[most] > 0 else float("inf")


def normalised(raw: float, windows: int, profile: Profile) -> float | None:
    """Null without a window.

    >>> normalised(-2.0, 2, PROFILES["standard"]), normalised(2.0, 2, PROFILES["standard"])
    (0.0, 100.0)
    """
    null, perfect = -profile.a_fn * windows, profile.a_tp * windows
    return 100 * (raw - null) / (perfect - null) if windows else None
