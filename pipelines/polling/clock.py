"""The time of a run as three arguments: what the clock says, how long it has been going, and how to wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Clock:
    """`now` stamps what arrives, `elapsed_s` measures the run's budget whatever happens to `now`, `sleep_s` waits."""

    now: Callable[[], datetime]
    elapsed_s: Callable[[], float]
    sleep_s: Callable[[float], None]


def real_clock(start: datetime | None = None) -> Clock:
    """The machine's clock; with `start`, one that says so now and goes on from there."""
    began = time.monotonic()

    def since() -> float:
        return time.monotonic() - began

    def now() -> datetime:
        return datetime.now(UTC) if start is None else start + timedelta(seconds=since())

    return Clock(now, since, time.sleep)
