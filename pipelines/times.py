"""Times and intervals as the command line writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.errors import InputError

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Interval:
    """A half-open interval `(start, end]` of bar ends, in UTC."""

    start: datetime
    end: datetime

    def days(self) -> Iterator["Interval"]:
        """The interval cut at UTC midnights.

        >>> day = Interval(parse_time("2025-01-01T12:00Z"), parse_time("2025-01-02T06:00Z"))
        >>> [str(part) for part in day.days()]
        ['2025-01-01T12:00Z..2025-01-02T00:00Z', '2025-01-02T00:00Z..2025-01-02T06:00Z']
        """
        start = self.start
        while start < self.end:
            midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
            yield Interval(start, min(midnight, self.end))
            start = min(midnight, self.end)

    def __str__(self) -> str:
        return f"{show_time(self.start)}..{show_time(self.end)}"


def show_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


def parse_time(text: str) -> datetime:
    """An ISO 8601 date or time; without a zone it is UTC.

    >>> parse_time("2025-10-10") == parse_time("2025-10-10T05:30+05:30")
    True
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError("not a time", where=repr(text), mend="write it like 2025-10-10T00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def parse_interval(start: str, end: str) -> Interval:
    """`--from` and `--to`, whole minutes, start before end."""
    interval = Interval(parse_time(start), parse_time(end))
    if not interval.start < interval.end:
        raise InputError("--from must be before --to", where=str(interval))
    if interval.start.second or interval.start.microsecond or interval.end.second or interval.end.microsecond:
        raise InputError("--from and --to must be whole minutes", where=f"{start} and {end}")
    return interval
