"""What scheduled runs call when they are done: every outcome is recorded in its order, then there is one delivery."""

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from pipelines.alerting.deliver import tried
from pipelines.alerting.interval import AlertingSummary, record_failure, record_interval
from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.times import Interval


class Tried(Protocol):
    """An attempt at neighbouring intervals of one venue."""

    @property
    def venue(self) -> str: ...

    @property
    def span(self) -> Interval: ...


class Done(Protocol):
    """What came of an attempt; `error` is None where it went well."""

    @property
    def attempt(self) -> Tried: ...

    @property
    def error(self) -> str | None: ...


def alert_outcomes(lake: Lake, config: Config, outcomes: Iterable[Done], now: datetime) -> list[str]:
    """Tell what these attempts found, those of a catch-up in one go; returns what went wrong, in words. Never raises.

    Without any outcome, what could not be delivered before is tried again.
    """
    told = [_recorded(lake, config, one, now) for one in outcomes]
    problems = [problem for one in told for problem in one.problems]
    return list(dict.fromkeys([*problems, *tried(lake.root, config, os.environ, now)]))


def _recorded(lake: Lake, config: Config, one: Done, now: datetime) -> AlertingSummary:
    venue, span = one.attempt.venue, one.attempt.span
    if one.error is not None:
        return record_failure(lake, config, venue, span, error=one.error, now=now)
    return record_interval(lake, config, venue, span, now)
