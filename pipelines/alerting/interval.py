"""One interval recorded: what the lake shows, what stood before, and what that makes to be told."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import structlog

from pipelines.alerting import seen
from pipelines.alerting.alert import SEVERITIES, News, Standing
from pipelines.alerting.deliver import cry
from pipelines.alerting.lifecycle import Step, advance, chosen
from pipelines.alerting.message import Message, messages
from pipelines.alerting.outbox import Outbox, opened, outbox_path
from pipelines.alerting.seen import LATCHED, Sight
from pipelines.config import AlertsConfig, Config
from pipelines.lake import Lake
from pipelines.observing.secrets import hidden, values_of
from pipelines.times import Interval

log = structlog.get_logger()


@dataclass(frozen=True)
class AlertingSummary:
    """What is to be told of an interval. `problems` are for people; none of them is a reason to stop a run."""

    venue: str
    interval: str
    news: dict[str, int] = field(default_factory=dict)  # event -> conditions
    standing: dict[str, int] = field(default_factory=dict)  # severity -> conditions
    recorded: int = 0  # messages
    problems: list[str] = field(default_factory=list)


def record_interval(lake: Lake, config: Config, venue: str, interval: Interval, now: datetime) -> AlertingSummary:
    """Record what is new of `interval`; `pipelines.alerting.deliver.tried` sends it. Never raises.

    Call it once the interval was guarded; again for the same interval changes nothing. An interval that ends before
    the last one told is an amendment of the past: what it changed of the present shows in the newest interval.
    """
    try:
        with _sound(lake.root) as box:
            return _record(lake, config, box, venue, interval, now=now)
    except (Exception, pl.exceptions.PanicException) as error:
        return _broken(config, venue, interval, error, now)


def record_failure(
    lake: Lake, config: Config, venue: str, interval: Interval, *, error: str, now: datetime
) -> AlertingSummary:
    """Record that the run over `interval` failed with `error`; the next one that goes well ends it. Never raises."""
    said = hidden(error, values_of(config, os.environ))
    try:
        with _sound(lake.root) as box:
            count = box.failures(venue, interval.end)
            alert = seen.failed(venue, interval, said, count, config.alerts.failures_critical)
            step = advance(box.standing(venue), {"run": Sight((alert,), None)}, interval.end, None, config.alerts)
            new = box.record_failure(venue, step, interval.end, _outgoing(box, step.news, config.alerts), now)
            return _summary(venue, interval, step, new)
    except (Exception, pl.exceptions.PanicException) as fault:
        return _broken(config, venue, interval, fault, now)


# --- recording


def _record(
    lake: Lake, config: Config, box: Outbox, venue: str, interval: Interval, *, now: datetime
) -> AlertingSummary:
    until, standing = box.told_until(venue), box.standing(venue)
    if until is not None and interval.end < until:
        return AlertingSummary(venue, str(interval), standing=_counted(standing))  # amends the past
    # What was missed since is looked at too: a run that died here told nothing.
    told = Interval(min(until, interval.start) if until is not None else interval.start, interval.end)
    sights = {
        "breaker": _breakers(lake, venue, told, standing),
        "episode": _episodes(lake, config, venue, told),
        "data": seen.data_faults(_limits(lake, venue, told, interval), venue, interval),
        "run": seen.late(venue, interval, now, config.observe.lag_min_max),
    }
    step = advance(standing, sights, interval.end, until, config.alerts)
    new = box.record(venue, step, interval.end, _outgoing(box, step.news, config.alerts), now)
    return _summary(venue, interval, step, new)


def _outgoing(box: Outbox, news: tuple[News, ...], settings: AlertsConfig) -> list[Message]:
    found = []
    for sink in settings.sinks:
        wanted = chosen(news, SEVERITIES.index(sink.severity_min), sink.kinds)
        found += messages(box.fresh(wanted, sink.name), sink.name)
    return found


def _breakers(lake: Lake, venue: str, told: Interval, standing: Mapping[str, Standing]) -> Sight:
    """Of the decisions of the interval alone, unless a breaker is in force that neither they nor we know of."""
    state = lake.scan("guard_state", venue, told.start, told.end).collect()
    newest = state.filter(pl.col("ts") == pl.col("ts").max())
    found = seen.breakers(lake.scan("decisions", venue, told.start, told.end).collect(), newest, told.end)
    known = {*standing, *(alert.key for alert in found.alerts)}
    if found.in_force is None or found.in_force <= known:
        return found
    earlier = _spells_in_force(lake, venue, newest, told.end)
    strangers = tuple(alert for alert in earlier.alerts if alert.key in found.in_force - known)
    return Sight((*found.alerts, *strangers), found.in_force)


def _spells_in_force(lake: Lake, venue: str, state: pl.DataFrame, end: datetime) -> Sight:
    held = state.filter(pl.col("state").is_in(LATCHED)).select("rule", entity="symbol")
    past = lake.scan("decisions", venue, end=end).join(held.lazy(), on=["rule", "entity"], how="semi")
    return seen.breakers(past.collect(), state, end)


def _episodes(lake: Lake, config: Config, venue: str, told: Interval) -> Sight:
    quiet = config.detector.refractory_min
    scores = lake.scan("scores", venue, told.start - timedelta(minutes=quiet), told.end).collect()
    rules = config.alerts
    return seen.alert_episodes(scores, told, quiet, rules.probability_critical, rules.anomaly_ratio_warning)


def _limits(lake: Lake, venue: str, told: Interval, interval: Interval) -> pl.DataFrame:
    """Limits since the last telling; none where the interval itself has none."""
    rows = lake.scan("limits", venue, told.start, told.end)
    wanted = rows.select("venue", "symbol", "ts", "action", "missing", "blocked", "blocked_why").collect()
    return wanted if (wanted["ts"] > interval.start).any() else wanted.clear()


# --- summing up


def _counted(standing: Mapping[str, Standing]) -> dict[str, int]:
    lasting = [one.alert.severity for one in standing.values() if one.until is None]
    return {word: lasting.count(severity) for severity, word in enumerate(SEVERITIES) if severity in lasting}


def _summary(venue: str, interval: Interval, step: Step, new: int) -> AlertingSummary:
    events = [one.event for one in step.news]
    counts = {event: events.count(event) for event in dict.fromkeys(events)}
    return AlertingSummary(venue, str(interval), counts, _counted(step.standing), new)


def _broken(config: Config, venue: str, interval: Interval, error: BaseException, now: datetime) -> AlertingSummary:
    """Nothing could be recorded. To say nothing would be worse than to say it twice: every sink hears of that."""
    why = hidden(" ".join(f"{type(error).__name__}: {error}".split())[:300], values_of(config, os.environ))
    log.error("alerts could not be recorded", venue=venue, interval=str(interval), error=why)
    cry(config.alerts, os.environ, f"alerts of {venue} could not be recorded", f"{why}, at {interval}", now)
    return AlertingSummary(venue, str(interval), problems=[f"alerts could not be recorded: {why}"])


@contextmanager
def _sound(root: Path) -> Iterator[Outbox]:
    """The outbox; one that is no database any more is moved aside, and what lasts is told anew."""
    try:
        with opened(root) as box:
            box.check()
    except sqlite3.OperationalError:
        raise  # locked, or a full disk: the file itself may be sound
    except sqlite3.DatabaseError as error:
        path = outbox_path(root)
        log.error("the outbox of alerts was broken and is begun anew", file=str(path), error=str(error))
        for part in (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))):
            if part.exists():
                part.replace(part.with_name(part.name + ".broken"))
    with opened(root) as box:
        yield box
