"""An alert threshold that promises a miss rate, by what past events would have scored in time.

Split conformal prediction with the event as its unit: of an event only the highest score counts that was seen while an
alert would still have been in time. If past events and the next one are exchangeable, the next is missed no more often
than promised, whatever the model is worth. The price is paid in false alarms, and is not bounded here.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NO_SCORE = -np.inf  # an event nobody scored in time is missed at any threshold
ASSUMPTION = (
    "The next event is exchangeable with the calibration events: none of them told how the model was fitted, and "
    "events do not change. The rate is an average over calibration sets, not a bound for this one; one cascade over "
    "many symbols counts as many events but tells little more than one."
)


@dataclass(frozen=True)
class MissControl:
    """Alert at `score >= threshold`. Null where no threshold can promise `miss_rate_max`; then `promised` is False."""

    threshold: float | None
    events: int
    miss_rate_max: float
    promised: bool
    assumption: str = ASSUMPTION

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MissControl":
        """The inverse of `to_dict`; floats survive JSON exactly."""
        return cls(**values)


def best_scores(scores: pl.DataFrame, events: pl.DataFrame, *, horizon_min: int, lead_min: int = 1) -> pl.DataFrame:
    """Per event the highest score of its symbol while an alert would have been in time.

        best = max score with ts in [onset - horizon_min, onset - lead_min]

    `scores` has `symbol, ts, score`, `events` has `symbol, onset`. Null and NaN scores do not count; an event without
    any gets NO_SCORE. Returns `symbol, onset, best` in the order of `events`. An event is hit, as `count_alarms` judges
    it, by alerts at `score >= threshold` exactly if best >= threshold.

    Raises ValueError unless 0 < lead_min <= horizon_min.
    """
    if not 0 < lead_min <= horizon_min:
        raise ValueError(f"lead_min must be in [1, horizon_min={horizon_min}], was {lead_min}")
    numbered = events.select("symbol", "onset").with_row_index("event")
    first = pl.col("onset") - pl.duration(minutes=horizon_min)
    windows = numbered.with_columns(first=first, last=pl.col("onset") - pl.duration(minutes=lead_min))
    seen = scores.select("symbol", "ts", pl.col("score").fill_nan(None)).drop_nulls()
    within = (pl.col("symbol") == pl.col("symbol_right")) & pl.col("ts").is_between("first", "last")
    best = windows.join_where(seen, within).group_by("event").agg(best=pl.col("score").max())
    return (
        numbered.join(best, on="event", how="left", maintain_order="left")
        .with_columns(pl.col("best").fill_null(NO_SCORE))
        .select("symbol", "onset", "best")
    )


def control_misses(best: Floats, miss_rate_max: float) -> MissControl:
    """The highest threshold that misses at most `miss_rate_max` of exchangeable events.

        n = events,  k = floor(miss_rate_max (n + 1))
        threshold = k-th smallest of best
        P(best of the next event < threshold) <= k / (n + 1) <= miss_rate_max

    `best` holds one score per calibration event, NO_SCORE for an event without any; NaN counts as NO_SCORE. No
    threshold can promise the rate if k = 0, that is n < 1 / miss_rate_max - 1, or if k events or more had no score.
    Given the calibration events, the miss rate still varies, for scores without ties as Beta(k, n + 1 - k).

    Raises ValueError unless 0 < miss_rate_max < 1. Source: Vovk, Gammerman and Shafer 2005; Angelopoulos et al. 2024
    (conformal risk control).

    >>> control_misses(np.array([0.5, 0.2, 0.9, 0.4]), miss_rate_max=0.4).threshold
    0.4
    >>> control_misses(np.array([0.5, 0.2, 0.9, 0.4]), miss_rate_max=0.1).promised
    False
    """
    if not 0 < miss_rate_max < 1:
        raise ValueError(f"miss_rate_max must be in (0, 1), was {miss_rate_max}")
    ordered = np.sort(np.where(np.isnan(best), NO_SCORE, best))
    k = int(Fraction(str(float(miss_rate_max))) * (ordered.size + 1))  # exact: 0.29 * 100 is below 29 in floats
    if not (k > 0 and np.isfinite(ordered[k - 1])):
        return MissControl(None, ordered.size, miss_rate_max, promised=False)
    return MissControl(float(ordered[k - 1]), ordered.size, miss_rate_max, promised=True)
