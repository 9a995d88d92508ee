"""Late rows: which intervals that are done they touch, and from where decisions must be judged again.

Every new row leaves a mark in `pending` before it is stored. A mark of a minute that was judged already is late data:
bars from there on are computed again, scores and decisions from the interval that holds it to the newest one that is
done, since features, breakers and caps carry what they have seen. Decisions that no longer follow are amended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.operating.due import History, grid, holding
from pipelines.times import Interval, show_time

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Late:
    """The intervals, done already, that hold late rows, oldest first; the tables of those rows; what is too old."""

    touched: tuple[Interval, ...] = ()
    tables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        return f"late rows of {', '.join(self.tables)}" if self.tables else ""


def floor_of(end: datetime, config: Config) -> datetime:
    """The midnight before which late rows are left to a backfill."""
    since = end - timedelta(hours=config.schedule.late_h_max)
    return since.replace(hour=0, minute=0, second=0, microsecond=0)


def late_rows(marks: pl.DataFrame, history: History, floor: datetime, step: timedelta) -> Late:
    """What `marks` (rows of `pending`) say of the done intervals of `history`. Rows up to `floor` are named only."""
    if history.newest is None or marks.is_empty():
        return Late()
    old = marks.filter(pl.col("ts") <= floor)
    inside = marks.filter(pl.col("ts") <= history.newest, pl.col("last") > floor)
    first = pl.max_horizontal("ts", pl.lit(floor + MICROSECOND, marks.schema["ts"]))
    spans = inside.select(first.alias("ts"), pl.min_horizontal("last", pl.lit(history.newest, marks.schema["last"])))
    held = {one for begin, last in spans.unique().iter_rows() for one in _holding(begin, last, step)}
    touched = sorted((one for one in held if one.end in history.done), key=lambda one: one.end)
    tables = inside["table"].unique().sort().to_list() if touched else []
    return Late(tuple(touched), tuple(tables), _too_old(old, floor))


def _holding(first: datetime, last: datetime, step: timedelta) -> Sequence[Interval]:
    return list(grid(holding(first, step).end, holding(last, step).end, step))


def _too_old(marks: pl.DataFrame, floor: datetime) -> tuple[str, ...]:
    first = marks["ts"].min()
    if not isinstance(first, datetime):
        return ()
    tables = ", ".join(marks["table"].unique().sort())
    return (
        f"rows of {tables} back to {show_time(first)} came too late to be amended: "
        f"`cascadeguard backfill --from {show_time(first)} --to {show_time(floor)}` judges them",
    )


def judged_from(lake: Lake, venue: str, start: datetime) -> datetime:
    """From where to judge again so that `start` is reached in the state it was reached in: the newest state stored."""
    states = lake.files("guard_state").filter(pl.col("venue") == venue, pl.col("ts_min") <= start)
    first = states["ts_min"].max()
    if not isinstance(first, datetime):
        return start
    newest = lake.scan("guard_state", venue, first - MICROSECOND, start)
    found = newest.select(pl.col("ts").max()).collect().item()
    return found if isinstance(found, datetime) else start


def pieces(span: Interval, step: timedelta) -> list[Interval]:
    """`span` cut at full hours, its last hour at ends of intervals: every piece leaves a state to go on from.

    Late rows mostly touch the newest intervals: from there one goes on from a state nearby, elsewhere from the hour.

    >>> from pipelines.times import parse_time
    >>> at = parse_time("2025-01-01T10:00Z")
    >>> cut = pieces(Interval(at, at + timedelta(hours=1, minutes=20)), timedelta(minutes=10))
    >>> [f"{one.end:%H:%M}" for one in cut]
    ['11:00', '11:10', '11:20']
    """
    hour = timedelta(hours=1)
    last = holding(span.end, hour).start
    ends = [one.end for one in grid(holding(span.start + MICROSECOND, hour).end, last, hour)]
    near = max(span.start, last)
    ends += [one.end for one in grid(holding(near + MICROSECOND, step).end, span.end, step)]
    starts = [span.start, *ends[:-1]]
    return [Interval(start, end) for start, end in zip(starts, ends, strict=True)]
