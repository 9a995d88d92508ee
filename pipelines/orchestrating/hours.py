"""Hours: which interval a partition is, and what has to be judged along with it."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from pipelines.config import ScheduleConfig
from pipelines.errors import InputError
from pipelines.operating.due import floor_to, holding
from pipelines.times import Interval, show_time

HOUR = timedelta(hours=1)
ASLEEP = timedelta(days=7)  # a venue whose newest row is older has no partitions behind it


def key_of(start: datetime) -> str:
    """The partition that begins at `start`, as Dagster names it."""
    return start.strftime("%Y-%m-%d-%H:%M")


def hours_of(span: Interval) -> Iterator[Interval]:
    """The whole hours inside `span`, which begins with one.

    >>> from pipelines.times import parse_time
    >>> span = Interval(parse_time("2025-01-02T05:00Z"), parse_time("2025-01-02T07:25Z"))
    >>> [key_of(hour.start) for hour in hours_of(span)]
    ['2025-01-02-05:00', '2025-01-02-06:00']
    """
    for nth in range((span.end - span.start) // HOUR):
        yield Interval(span.start + nth * HOUR, span.start + (nth + 1) * HOUR)


def known_hours(held: Interval, now: datetime) -> tuple[datetime, datetime | None]:
    """Where the partitions of a venue begin and end: with its rows, and open where the newest is younger than ASLEEP.

    >>> from pipelines.times import parse_time
    >>> held = Interval(parse_time("2025-01-02T05:07Z"), parse_time("2025-01-02T07:25Z"))
    >>> [str(moment) for moment in known_hours(held, parse_time("2025-01-03"))]
    ['2025-01-02 05:00:00+00:00', 'None']
    >>> str(known_hours(held, parse_time("2025-02-01"))[1])
    '2025-01-02 08:00:00+00:00'
    """
    first = floor_to(held.start, HOUR)
    return first, None if now - held.end < ASLEEP else holding(held.end, HOUR).end


def with_what_follows(span: Interval, judged: datetime | None, settings: ScheduleConfig, now: datetime) -> Interval:
    """`span` and everything behind it up to `judged`, the newest minute with limits: that follows from its state.

    InputError where `span` has not settled at `now`, and where more than `late_h_max` lies behind it: so much is
    nothing to be done along without a word.
    """
    if now < span.end + timedelta(seconds=settings.settle_s):
        mend = f"it can be made {settings.settle_s:.0f} s after {show_time(span.end)}"
        raise InputError("the hour is not over, or its rows have not settled", where=str(span), mend=mend)
    if judged is None or judged <= span.end:
        return span
    if judged - span.end > timedelta(hours=settings.late_h_max):
        last = floor_to(judged, HOUR) - HOUR
        raise InputError(
            f"everything up to {show_time(judged)} was judged from the state that these hours leave",
            where=str(span),
            mend=f"choose {key_of(span.start)} to {key_of(last)}, which is one run",
        )
    return Interval(span.start, judged)
