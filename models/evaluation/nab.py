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


def raw_score(detected: Bools, windows: Windows, profile: Profile) -> float:
    """S of one file: `detected` by row; `windows` in order of time, apart from one another."""
    rows = np.flatnonzero(detected)
    rows = rows[rows >= probation(detected.size)]
    first, last = (np.array([window[side] for window in windows], dtype=np.int64) for side in (0, 1))
    inside = np.searchsorted(first, rows, side="right") - 1  # the newest window that has begun
    begun = inside >= 0
    within = begun & (rows <= np.where(begun, last[inside] if last.size else 0, -1)) if last.size else begun
    total = 0.0
    for number in range(len(windows)):  # windows are few
        mine = rows[within & (inside == number)]
        width = last[number] - first[number] + 1
        earned = sigma(-(last[number] - mine + 1) / width) / sigma(np.array(-1.0))
        total += profile.a_tp * float(earned.max()) if mine.size else -profile.a_fn
    after = rows[begun & ~within]
    of = inside[begun & ~within]
    width = np.maximum(last[of] - first[of], 1) if after.size else np.zeros(0)
    total += profile.a_fp * float(sigma((after - last[of]) / width).sum()) if after.size else 0.0
    return total - profile.a_fp * float((~begun).sum())


def normalised(raw: float, windows: int, profile: Profile) -> float | None:
    """Null without a window.

    >>> normalised(-2.0, 2, PROFILES["standard"]), normalised(2.0, 2, PROFILES["standard"])
    (0.0, 100.0)
    """
    null, perfect = -profile.a_fn * windows, profile.a_tp * windows
    return 100 * (raw - null) / (perfect - null) if windows else None
