"""Questions about the health of an interval: sound or not, and why, in one sentence. What cannot be known is not sound.

A check of what we made is an error: making it again mends it, or somebody must look. A check of what a venue sent is a
warning: guardrails are on the safe side already, and nothing here mends it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import polars as pl

from pipelines.audit import verify_audit
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import SCHEMAS, Lake
from pipelines.operating.backfill import judged_until
from pipelines.operating.due import floor_to
from pipelines.orchestrating.hours import HOUR
from pipelines.times import Interval

MICROSECOND = timedelta(microseconds=1)
SAID_MAX = 5  # things that a sentence names
UNSOUND = ("stale", "frozen", "crossed", "implausible")  # absent is what a venue does not publish


@dataclass(frozen=True)
class Found:
    """The answer to a question about an interval."""

    sound: bool
    says: str
    numbers: Mapping[str, int] = field(default_factory=dict)


Question: TypeAlias = "Callable[[Lake, str, Interval, Config], Found]"


@dataclass(frozen=True)
class Check:
    name: str
    asset: str
    asks: Question
    error: bool  # else a warning
    sound_when: str


def newest_hour(lake: Lake, venue: str) -> Interval | None:
    """The newest whole hour that was judged; null where none was."""
    until = judged_until(lake, venue)
    end = None if until is None else floor_to(until, HOUR)
    return None if end is None else Interval(end - HOUR, end)


# --- what we made


def bars_complete(lake: Lake, venue: str, span: Interval, config: Config) -> Found:
    """Per UTC day of `span`: a bar for every step since the symbol's first one, which may lie in the hour before."""
    bar = timedelta(seconds=config.bars.interval_s)
    lacking = _by_day(span, lambda day: _lacking(lake, venue, day, bar))
    held = _height(lake, "bars", venue, span)
    numbers = {"bars": held, "bars that lack": _sum(lacking)}
    if not held:
        return Found(False, f"there is no bar in {span}", numbers)
    return Found(lacking.is_empty(), _told("bars lack", lacking) or "every minute has its bar", numbers)


def _lacking(lake: Lake, venue: str, day: Interval, bar: timedelta) -> pl.LazyFrame:
    """Symbols that lack bars in a part of one day: bars are made day by day, for symbols alive."""
    midnight = day.start.replace(hour=0, minute=0, second=0, microsecond=0)
    bars = lake.scan("bars", venue, max(midnight, day.start - HOUR), day.end)
    counted = bars.group_by("symbol").agg(pl.col("ts").min(), held=(pl.col("ts") > day.start).sum())
    first = pl.max_horizontal("ts", pl.lit(day.start + bar, SCHEMAS["bars"]["ts"]))
    wanted = (pl.lit(day.end) - first).dt.total_microseconds() // (bar // MICROSECOND) + 1
    return counted.select(what="symbol", count=wanted - pl.col("held")).filter(pl.col("count") > 0)


def limits_complete(lake: Lake, venue: str, span: Interval, _config: Config) -> Found:
    """Limits for every bar of `span`."""
    without = _by_day(span, lambda day: _without_limits(lake, venue, day))
    held = _height(lake, "limits", venue, span)
    numbers = {"symbol minutes with limits": held, "without": _sum(without)}
    if not held:
        return Found(False, f"there are no limits in {span}", numbers)
    return Found(without.is_empty(), _told("minutes have no limits", without) or "all have limits", numbers)


def _without_limits(lake: Lake, venue: str, day: Interval) -> pl.LazyFrame:
    key = ["symbol", "ts"]
    bars, limits = (lake.scan(table, venue, day.start, day.end).select(key) for table in ("bars", "limits"))
    return bars.join(limits, on=key, how="anti").group_by(what="symbol").len("count")


def log_intact(lake: Lake, _venue: str, _span: Interval, _config: Config) -> Found:
    """The whole audit log, whatever the interval: a chain holds or breaks as one."""
    try:
        told = verify_audit(lake)
    except InputError as error:
        return Found(False, str(error))
    return Found(True, f"the log follows to {told['last_hash'][:12]}", {"entries": told["entries"]})


# --- what came in


def feeds_fresh(lake: Lake, venue: str, span: Interval, _config: Config) -> Found:
    """No input was unsound in any symbol minute of `span`, as the features' own health tells it."""
    held = _height(lake, "feature_health", venue, span)
    if not held:
        return Found(False, f"nothing is known of the feeds in {span}: there are no features")
    faults = _by_day(span, lambda day: _faults(lake, venue, day))
    numbers = {"symbol minutes": held, "faults": _sum(faults)}
    return Found(faults.is_empty(), _told("minutes of input are unsound", faults) or "all are sound", numbers)


def _faults(lake: Lake, venue: str, day: Interval) -> pl.LazyFrame:
    columns = [name for name in SCHEMAS["feature_health"].names() if name.endswith("_fault")]
    health = lake.scan("feature_health", venue, day.start, day.end).select("symbol", *columns)
    told = health.unpivot(columns, index="symbol", variable_name="input", value_name="fault")
    said = pl.format("{} {} of {}", pl.col("input").str.strip_suffix("_fault"), "fault", "symbol")
    return told.filter(pl.col("fault").is_in(UNSOUND)).group_by(what=said).len("count")


def nothing_waits(lake: Lake, venue: str, span: Interval, _config: Config) -> Found:
    """No row waits whose own time lies in `span`, or begins before and ends behind its start."""
    waiting = lake.scan("pending", venue).filter(pl.col("ts") <= span.end, pl.col("last") > span.start).collect()
    numbers = {"marks": waiting.height}
    first, last = waiting["ts"].min(), waiting["last"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return Found(True, "no row waits", numbers)
    tables, since = ", ".join(waiting["table"].unique().sort()), Interval(first, last)
    return Found(False, f"rows of {tables} in {since} wait for the bars that take them in", numbers)


# --- counting


def _by_day(span: Interval, counted: Callable[[Interval], pl.LazyFrame]) -> pl.DataFrame:
    """`what, count` over all days of `span`, the most first; memory holds one day at a time."""
    days = [counted(day).select("what", pl.col("count").cast(pl.Int64)).collect() for day in span.days()]
    summed = pl.concat(days).group_by("what").agg(pl.col("count").sum())
    return summed.sort("count", "what", descending=[True, False])


def _height(lake: Lake, table: str, venue: str, span: Interval) -> int:
    return int(lake.scan(table, venue, span.start, span.end).select(pl.len()).collect().item())


def _sum(counts: pl.DataFrame) -> int:
    return int(counts["count"].sum())


def _told(of_what: str, counts: pl.DataFrame) -> str:
    """`N of_what: one n, another n, ...`; empty where nothing is."""
    if counts.is_empty():
        return ""
    named = [f"{what} {number:,}" for what, number in counts.head(SAID_MAX).iter_rows()]
    more = ["..."] if counts.height > SAID_MAX else []
    return f"{_sum(counts):,} {of_what}: {', '.join([*named, *more])}"


CHECKS = (
    Check("bars_complete", "bars", bars_complete, True, "every symbol has a bar for every minute since its first"),
    Check("nothing_waits", "bars", nothing_waits, False, "no rows wait that came after the bars of their time"),
    Check("feeds_fresh", "features", feeds_fresh, False, "no input is stale, frozen, crossed or implausible"),
    Check("limits_complete", "decisions", limits_complete, True, "every symbol minute with a bar has limits"),
    Check("log_intact", "decisions", log_intact, True, "the audit log follows and holds every decision"),
)
