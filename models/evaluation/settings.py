"""How a scorer is judged, and the time in which it is."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.evaluation.alarm_time import Window
from models.evaluation.alarms import AlarmPolicy
from models.evaluation.decision import STATED, Costs

DAY_S = 86_400


@dataclass(frozen=True)
class Settings:
    """How a scorer is judged.

    `threshold` None: chosen within `budget` (episodes per symbol-day) on the rows up to `fit_until`, which are then not
    judged. Raises ValueError that lists every violation at once.
    """

    horizon_min: int = 60
    lead_min: float = 2.0
    refractory_min: int = 240
    bar_s: float = 60.0
    threshold: float | None = None
    budget: float = 0.5
    fit_until: datetime | None = None
    persistence: int = 1
    episodes_per_symbol_day_max: int | None = None
    cost_false_alarm: float = 1.0
    cost_missed: float = 50.0
    costs: Costs = STATED
    confidence: float = 0.95
    replicates: int = 1_000
    seed: int = 7

    def __post_init__(self) -> None:
        wrong = [
            f"`{name}` must be {what}, was {value}"
            for name, value, what, right in (
                ("horizon_min", self.horizon_min, "at least 1", self.horizon_min >= 1),
                ("lead_min", self.lead_min, "from 0 to the horizon", 0 <= self.lead_min <= self.horizon_min),
                ("refractory_min", self.refractory_min, "at least 1", self.refractory_min >= 1),
                ("bar_s", self.bar_s, "above 0", self.bar_s > 0),
                ("budget", self.budget, "above 0", self.budget > 0),
                ("persistence", self.persistence, "at least 1", self.persistence >= 1),
                ("confidence", self.confidence, "in (0, 1)", 0 < self.confidence < 1),
                ("replicates", self.replicates, "at least 100", self.replicates >= 100),
            )
            if not right
        ]
        if self.threshold is None and self.fit_until is None:
            wrong.append("`fit_until` must be given where `threshold` is not")
        if wrong:
            raise ValueError(" | ".join(wrong))

    def policy(self, threshold: float) -> AlarmPolicy:
        return AlarmPolicy(threshold, self.persistence, self.refractory_min, self.episodes_per_symbol_day_max)

    def window(self) -> Window:
        return Window.of(self.lead_min, self.horizon_min, self.bar_s)


@dataclass(frozen=True)
class Span:
    """The judged bars: `start` is the end of the first one, `bars` how many there are in time."""

    start: datetime
    bars: int
    bar_s: float

    def place(self, ts: pl.Series) -> NDArray[np.int64]:
        """The number of the bar that a stamp lies in, from 0; a bar holds `(end - bar, end]`."""
        after_us = (ts - self.start).dt.total_microseconds().to_numpy()
        return np.asarray(-(-after_us // round(self.bar_s * 1e6)), dtype=np.int64)


@dataclass(frozen=True)
class Judging:
    """What every symbol of an evaluation is judged by; `exact`: scores are counted as they are."""

    settings: Settings
    policy: AlarmPolicy
    span: Span
    exact: bool
