"""Which intervals are due: a pure function of the settings, what was done before, and the clock.

Intervals `(end - interval_min, end]` lie on a grid that holds every full UTC hour. One is due once `settle_s` has
passed after its end, and until an attempt at it has gone well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from pipelines.config import ScheduleConfig
from pipelines.times import Interval, show_time


@dataclass(frozen=True)
class History:
    """What is known of a venue's intervals, by their ends: done, or failed so many times since they were done last."""

    since: datetime | None = None  # end of the first interval ever tried
    newest: datetime | None = None  # end of the newest one that is done
    done: frozenset[datetime] = frozenset()
    failed: Mapping[datetime, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Due:
    """What to run, oldest first, and what will not be run, with the sentences that say so."""

    intervals: tuple[Interval, ...] = ()
    given_up: tuple[Interval, ...] = ()
    too_old: Interval | None = None
    notes: tuple[str, ...] = ()


def step_of(settings: ScheduleConfig) -> timedelta:
    return timedelta(minutes=settings.interval_min)


def floor_to(moment: datetime, step: timedelta) -> datetime:
    """The last end of an interval at or before `moment`.

    >>> floor_to(datetime(2025, 1, 1, 12, 7, 59, tzinfo=UTC), timedelta(minutes=5)).minute
    5
    """
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // step * step


def holding(moment: datetime, step: timedelta) -> Interval:
    """The interval that holds `moment`: a stamp on an end belongs to the interval that ends there."""
    end = floor_to(moment - timedelta(microseconds=1), step) + step
    return Interval(end - step, end)


def grid(first: datetime, last: datetime, step: timedelta) -> Iterator[Interval]:
    """The intervals with ends from `first` to `last`, both on the grid."""
    for nth in range((last - first) // step + 1):
        end = first + nth * step
        yield Interval(end - step, end)


def due(settings: ScheduleConfig, history: History, now: datetime) -> Due:
    """The intervals of one venue to run now.

    The first run of a venue takes the last whole interval. Later ones take every interval since then that is not done:
    oldest first, ends at most `catch_up_h_max` before `now`, each at most `attempts_max` times. What is done is never
    due again, whatever the clock says.
    """
    step = step_of(settings)
    last = floor_to(now - timedelta(seconds=settings.settle_s), step)
    oldest = floor_to(now - timedelta(hours=settings.catch_up_h_max), step) + step
    first = max(min(history.since or last, last), oldest)
    open_ = [one for one in grid(first, last, step) if one.end not in history.done]
    tried = settings.attempts_max
    given_up = tuple(one for one in open_ if history.failed.get(one.end, 0) >= tried)
    wanted = tuple(one for one in open_ if history.failed.get(one.end, 0) < tried)
    too_old = _hole(history, oldest - step)
    notes = [*_jumped(history, last, now), *_told_old(too_old, settings), *_told_given_up(given_up, tried)]
    return Due(wanted, given_up, too_old, tuple(notes))


def _hole(history: History, before: datetime) -> Interval | None:
    """From the newest interval that is done to where catching up begins; null where nothing is between."""
    reached = history.newest or history.since
    return Interval(reached, before) if reached is not None and reached < before else None


def _jumped(history: History, last: datetime, now: datetime) -> Iterator[str]:
    if history.newest is not None and history.newest > last:
        yield (
            f"the clock stands at {show_time(now)}, the interval up to {show_time(history.newest)} is done already: "
            "the clock was put back, or had run ahead; nothing is done twice"
        )


def _told_old(hole: Interval | None, settings: ScheduleConfig) -> Iterator[str]:
    if hole is not None:
        start, end = show_time(hole.start), show_time(hole.end)
        yield (
            f"{hole} was missed longer than {settings.catch_up_h_max} h ago and is not caught up: "
            f"`cascadeguard backfill --from {start} --to {end}` does it"
        )


def _told_given_up(given_up: tuple[Interval, ...], attempts: int) -> Iterator[str]:
    for one in given_up:
        yield (
            f"{one} FAILED {attempts} times and is passed over: mend the cause, then "
            f"`cascadeguard backfill --from {show_time(one.start)} --to {show_time(one.end)}`"
        )


def together(intervals: tuple[Interval, ...], failed: Mapping[datetime, int]) -> list[tuple[Interval, ...]]:
    """Neighbours that may run as one: of one UTC day, none of which has failed before; a failed one runs alone.

    A run over several intervals gives the rows that one run each would give, at the price of one.
    """
    groups: list[list[Interval]] = [[one] for one in intervals[:1]]
    for before, one in pairwise(intervals):
        near = before.end == one.start and before.start.date() == one.start.date()
        if near and not (failed.get(before.end) or failed.get(one.end)):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [tuple(group) for group in groups]
