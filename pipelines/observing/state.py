"""How the runs stand: what the lake tells, kept with the versions of its tables, and judged at any later moment.

| state | when |
|---|---|
| failing | no interval of a venue was ever done well, or its newest attempt failed |
| | a sink takes no alerts, or alerts were given up; the disk is full |
| late | the last good interval of a venue ended more than `lag_min_max` ago |
| ok | otherwise; what the market does is no reason to be unwell |

Nothing here imports the lake: `status` is asked every minute, and reading tables costs a second of imports alone.
"""

import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.alerting.listing import listed
from pipelines.alerting.outbox import opened, outbox_path
from pipelines.config import Config, MlflowConfig
from pipelines.reporting import words

OK, LATE, FAILING = "ok", "late", "failing"
RECENT = timedelta(hours=24)
READ = ("runs", "limits", "decisions", "guard_state", "scores", "ingest_log")  # tables that `Facts` stand on


@dataclass(frozen=True)
class Tripped:
    """A breaker that is open or on probation, with the sentence of the decision that opened it."""

    symbol: str
    rule: str
    state: str
    action: str
    since: datetime | None
    reason: str
    decision_id: str


@dataclass(frozen=True)
class VenueFacts:
    """What the lake tells of one venue."""

    venue: str
    last_good: datetime | None  # end of the last interval done well
    failures: tuple[datetime, ...]  # when attempts of the last week failed
    last_error: str | None  # of the newest attempt, null where that went well
    seconds: float | None  # of the last interval done well
    steps: Mapping[str, float]
    rows_ingested: int
    episodes: int
    decisions: tuple[tuple[str, str, int], ...]  # rule, action, how many
    limits_until: datetime | None  # when the newest limits expire
    symbols: Mapping[str, int]  # by action
    leverage_cap_min: float | None
    faults: int  # symbols with a missing input or a blocked action
    tripped: tuple[Tripped, ...]


@dataclass(frozen=True)
class Facts:
    """What the lake tells, at these versions of its tables; other versions may tell something else."""

    versions: Mapping[str, int]
    venues: tuple[VenueFacts, ...]
    rows: Mapping[str, tuple[int, int]]  # table -> accepted, quarantined, of the whole lake
    scored_by: str  # the model that the newest scores name


@dataclass(frozen=True)
class Snapshot:
    """Everything that is known of the runs at `now`."""

    now: datetime
    state: str
    reasons: tuple[str, ...]
    facts: Facts
    champion: tuple[str, str]  # name and version, empty where it is not known
    standing: Mapping[tuple[str, str], int]  # alerts that last, by venue and severity
    undelivered: Mapping[str, tuple[int, str]]  # sink -> messages that wait, last error
    given_up: Mapping[str, int]  # sink -> messages given up in the last 24 h
    disk_free_bytes: int
    sinks: tuple[str, ...]

    def lag_s(self, one: VenueFacts) -> float | None:
        return None if one.last_good is None else (self.now - one.last_good).total_seconds()

    def failed_24h(self, one: VenueFacts) -> int:
        return sum(moment > self.now - RECENT for moment in one.failures)


def length(seconds: float | None) -> str:
    """A length of time as people say it.

    >>> length(90.0), length(47 * 3600.0), length(9.6 * 86_400)
    ('1 min 30 s', '47 h 0 min', '10 days')
    """
    days = 0.0 if seconds is None else seconds / 86_400
    return words.duration(seconds) if days < 2 else f"{days:,.0f} days"


def versions_of(root: Path) -> dict[str, int]:
    """The newest commit of every table that `Facts` stand on, -1 without one: a listing, no table is opened."""
    return {table: _newest_commit(root / "tables" / table / "_delta_log") for table in READ}


def _newest_commit(log: Path) -> int:
    try:
        names = [entry.name for entry in os.scandir(log)]
    except FileNotFoundError:
        return -1
    return max((int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit()), default=-1)


def snapshot(root: Path, facts: Facts, config: Config, now: datetime) -> Snapshot:
    """Judge `facts` at `now`, with what stands beside the lake: the outbox, the registry's file, the disk."""
    standing, undelivered, given_up = _alerts(root, now)
    free = shutil.disk_usage(root if root.exists() else Path()).free
    champion = config.mlflow.warning_name, _alias(root, config.mlflow)
    sinks = tuple(sink.name for sink in config.alerts.sinks)
    found = Snapshot(now, OK, (), facts, champion, standing, undelivered, given_up, free, sinks)
    failing, late = _failing(found, config), _late(found, config)
    state = FAILING if failing else LATE if late else OK
    return Snapshot(now, state, (*failing, *late), facts, champion, standing, undelivered, given_up, free, sinks)


def _failing(found: Snapshot, config: Config) -> list[str]:
    said = [] if found.facts.venues else ["nothing was ever run on this lake"]
    for one in found.facts.venues:
        said += [f"{one.venue}: no interval was done well yet"] if one.last_good is None else []
        said += [f"{one.venue}: the last attempt failed: {one.last_error}"] if one.last_error is not None else []
    said += [f"sink {sink} takes no alerts: {why}" for sink, (_, why) in found.undelivered.items() if why]
    said += [f"sink {sink}: {count} alerts given up in 24 h" for sink, count in found.given_up.items()]
    if found.disk_free_bytes < config.observe.disk_free_gb_min * 1e9:
        said.append(f"{found.disk_free_bytes / 1e9:.1f} GB free on the lake's disk")
    return said


def _late(found: Snapshot, config: Config) -> list[str]:
    lags = [(one.venue, found.lag_s(one)) for one in found.facts.venues]
    allowed_s = 60 * config.observe.lag_min_max
    return [
        f"{venue}: the last good interval ended {length(lag)} ago"
        for venue, lag in lags
        if lag is not None and lag > allowed_s
    ]


def _alias(root: Path, settings: MlflowConfig) -> str:
    """The champion's version in an embedded store, by SQL: MLflow takes seconds to import. Empty with a server."""
    path = root / "mlflow" / "mlflow.db"
    if settings.tracking_uri or not path.exists():
        return ""
    query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'champion'"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)) as store:
            row = store.execute(query, (settings.warning_name,)).fetchone()
    except sqlite3.Error:
        return ""
    return "" if row is None else str(row[0])


def _alerts(root: Path, now: datetime) -> tuple[dict[tuple[str, str], int], dict[str, tuple[int, str]], dict[str, int]]:
    """What lasts, what waits, what was given up; an outbox that cannot be read is a sink that takes nothing."""
    if not outbox_path(root).exists():
        return {}, {}, {}
    try:
        lasting = [(row["venue"], row["severity"]) for row in listed(root, now)["alerts"]]
        with opened(root) as box:
            waiting, gone = box.open_letters(), box.expired(now - RECENT)
    except (sqlite3.Error, OSError) as error:
        return {}, {"outbox": (1, f"cannot be read: {error}")}, {}
    errors = {one.sink: one.error for one in waiting if one.error}
    waits, lost = [one.sink for one in waiting], [one.sink for one in gone]
    return (
        _counted(lasting),
        {sink: (count, errors.get(sink, "")) for sink, count in _counted(waits).items()},
        _counted(lost),
    )


def _counted(names: Sequence[Any]) -> dict[Any, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}
