"""How good are scores and alerts: by bar (ranking, probability) and by event (warned in time, false alarms)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.evaluation.alarms import HIT, LATE, MISS, judged_episodes, judged_events

LOG_LOSS_FLOOR = 1e-15

Floats = NDArray[np.float64]


def average_precision(happened: Floats, score: Floats) -> float | None:
    """Sum over distinct scores, from the highest down, of precision times the gain in recall. Null without an event.

    Ties are taken together, infinite ones too, so a constant score earns exactly the prevalence.

    >>> average_precision(np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.8, 0.7, 0.1]))
    0.8333333333333333
    """
    if not happened.sum() > 0:
        return None
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last_of_tie = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), score.size - 1)
    hits = np.cumsum(happened[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    return float(np.sum(precision * np.diff(hits, prepend=0.0)) / hits[-1])


def average_precision_lift(happened: Floats, score: Floats) -> float | None:
    """Average precision over prevalence: 1 is chance. Null without an event.

    >>> average_precision_lift(np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.9, 0.8, 0.7, 0.1]))
    4.0
    """
    precision = average_precision(happened, score)
    return None if precision is None else precision / float(happened.mean())


def brier(happened: Floats, p: Floats) -> float | None:
    """Mean of (p - happened)^2; null without rows.

    >>> brier(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    0.25
    """
    return float(np.mean((p - happened) ** 2)) if p.size else None


def log_loss(happened: Floats, p: Floats) -> float | None:
    """Mean of -log of the probability given to what happened; null without rows.

    p is held LOG_LOSS_FLOOR away from 0 and 1.

    >>> round(log_loss(np.array([1.0, 0.0]), np.array([0.5, 0.5])), 6)
    0.693147
    """
    held = np.clip(p, LOG_LOSS_FLOOR, 1 - LOG_LOSS_FLOOR)
    return float(-np.mean(np.where(happened > 0, np.log(held), np.log1p(-held)))) if p.size else None


class Corp(NamedTuple):
    """Brier score, split: `miscalibration - discrimination + uncertainty`."""

    miscalibration: float
    discrimination: float
    uncertainty: float


def _recalibrated(happened: Floats, p: Floats) -> Floats:
    """Isotonic regression of `happened` on `p`, row by row; equal p get equal values."""
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - a second to import; only this split needs it

    _, inverse, count = np.unique(p, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=happened) / count
    return np.asarray(isotonic_regression(mean, weights=count).x[inverse], dtype=np.float64)


def corp(happened: Floats, p: Floats) -> Corp | None:
    """Where a Brier score comes from, with isotonic regression of `happened` on p as the best recalibration.

        S(q)           = mean((q - happened)^2)
        miscalibration = S(p) - S(isotonic)               # >= 0; 0 where no non-decreasing map of p does better
        discrimination = S(prevalence) - S(isotonic)      # >= 0; 0 where the ranking is worth nothing
        uncertainty    = S(prevalence) = prevalence (1 - prevalence)

    Null without rows. The isotonic fit sees the rows it is judged on: with few events miscalibration is above 0 also
    for a perfect p. Source: Dimitriadis, Gneiting and Jordan 2021.

    >>> corp(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    Corp(miscalibration=0.0, discrimination=0.0, uncertainty=0.25)
    """
    if not p.size:
        return None
    best = float(np.mean((_recalibrated(happened, p) - happened) ** 2))
    uncertainty = float(np.mean((happened.mean() - happened) ** 2))
    return Corp(float(np.mean((p - happened) ** 2)) - best, uncertainty - best, uncertainty)


def roc_auc(happened: Floats, score: Floats) -> float | None:
    """Share of pairs (event row, quiet row) in which the event row scores higher; a tie counts half.

    Null unless there are rows of both kinds. A persistent score on overlapping labels flatters it: never alone.

    >>> roc_auc(np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.8, 0.7, 0.1]))
    0.75
    """
    events = float(happened.sum())
    quiet = happened.size - events
    if not (events > 0 and quiet > 0):
        return None
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(count) - (count - 1) / 2
    above = float((middle_rank[inverse] * happened).sum()) - events * (events + 1) / 2
    return above / (events * quiet)


def calibration_in_the_large(happened: Floats, p: Floats) -> float | None:
    """Mean of p less the share of rows that happened: above 0, the alarm is too loud. Null without rows.

    >>> calibration_in_the_large(np.array([1.0, 0.0]), np.array([0.5, 0.75]))
    0.125
    """
    return float(np.mean(p - happened)) if p.size else None


@dataclass(frozen=True)
class AlarmCount:
    """Events and alarms at one threshold. `hits + late + missed == events`."""

    events: int
    hits: int
    late: int
    missed: int
    episodes: int
    false_alarms: int
    symbol_days: float

    @property
    def recall(self) -> float | None:
        return self.hits / self.events if self.events else None

    @property
    def false_alarms_per_symbol_day(self) -> float:
        return self.false_alarms / self.symbol_days


def count_alarms(
    alerts: pl.DataFrame,
    events: pl.DataFrame,
    *,
    symbol_days: float,
    horizon_min: int,
    refractory_min: int,
    lead_min: int = 1,
) -> AlarmCount:
    """Judge `alerts` (`symbol, ts`, one row per alerting minute) against `events` (`symbol, onset, end`).

        hit   = event with an alert whose lead, onset - ts, lies in [lead_min, horizon_min] minutes
        late  = no hit, but an alert with a smaller lead, or up to the event's end
        false = episode (alerts closer than refractory_min are one) without an event whose onset lies in
                [start, end + horizon_min]; alerts in [onset, end + refractory_min] of an event open no episode

    Raises ValueError if `symbol_days` or `lead_min` is not positive.
    """
    if not (symbol_days > 0 and lead_min > 0):
        raise ValueError(f"symbol_days and lead_min must be positive, were {symbol_days} and {lead_min}")
    alerts, events = alerts.select("symbol", "ts"), events.select("symbol", "onset", "end")
    told = judged_events(alerts, events, horizon_min=horizon_min, lead_min=lead_min)
    runs = judged_episodes(
        alerts, events, horizon_min=horizon_min, refractory_min=refractory_min, merge_min=refractory_min
    )
    count = dict(told.group_by("outcome").len().iter_rows())
    return AlarmCount(
        events=told.height,
        hits=count.get(HIT, 0),
        late=count.get(LATE, 0),
        missed=count.get(MISS, 0),
        episodes=runs.height,
        false_alarms=int(runs["false"].sum()),
        symbol_days=symbol_days,
    )
