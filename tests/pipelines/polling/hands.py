"""A clock in the hands of a test."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipelines.polling.asking import Patience
from pipelines.polling.clock import Clock

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Hands:
    """A clock that moves when somebody waits, or is told to; it remembers every wait."""

    now: datetime = T0
    elapsed_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.on(seconds)

    def on(self, seconds: float) -> None:
        self.elapsed_s += seconds
        self.now += timedelta(seconds=seconds)

    def ms(self) -> int:
        """The time as venues write it."""
        return round(self.now.timestamp() * 1000)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.elapsed_s, self.wait)

    def patience(self, *, timeout_s: float = 5.0, attempts_max: int = 3, seconds_max: float = 100.0) -> Patience:
        return Patience(timeout_s, attempts_max, self.elapsed_s + seconds_max, self.clock(), random.Random(1))
