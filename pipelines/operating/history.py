"""The table `runs`: one row per attempt at an interval, appended and never changed; and what it says of a venue.

An attempt that is killed cannot write its row: it leaves its intention behind (`schedule/attempt.json`), from which the
next run writes it. So an interval that kills its process is not tried for ever.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.config import Config
from pipelines.lake import RUNS_SCHEMA, Lake
from pipelines.operating.due import History, floor_to, grid
from pipelines.operating.lease import schedule_folder, write_json
from pipelines.times import Interval, parse_time

OK, FAILED = "ok", "failed"
DUE, CAUGHT_UP, AMENDED, BACKFILL = "due", "caught_up", "amended", "backfill"
PACKAGES = ("features", "guardrails", "models", "pipelines")
READ = (
    "trades", "book_events", "book_levels", "quotes", "book_depth", "marks", "funding", "open_interest", "liquidations",
    "candles", "positions", "collateral", "instruments", "resets",
)  # fmt: skip
KILLED = "the process was killed, or the machine went down, while it was at work on this interval"


@dataclass(frozen=True)
class Attempt:
    """An attempt at neighbouring intervals of one venue: what is about to be done."""

    venue: str
    span: Interval  # all that is computed
    ends: tuple[Interval, ...]  # the intervals it answers for
    kind: str
    token: int
    started_at: datetime
    run_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt; `error` is null where it went well."""

    attempt: Attempt
    finished_at: datetime
    steps: Mapping[str, Any] = field(default_factory=dict)
    rows_ingested: int = 0
    alerts: int = 0
    decisions: int = 0
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def state(self) -> str:
        return OK if self.error is None else FAILED


# --- reading


def read_history(lake: Lake, venue: str, after: datetime, step: timedelta) -> History:
    """How the intervals of `venue` stand that end after `after`: the newest row of each, by token, says so."""
    files = lake.files("runs").filter(pl.col("venue") == venue)
    if files.is_empty():
        return History()
    rows = lake.scan("runs", venue, after).select("ts", "start", "kind", "state", "token").sort("token").collect()
    done: set[datetime] = set()
    failed: Counter[datetime] = Counter()
    for end, start, kind, state, _ in rows.iter_rows():  # a few hundred: the window of catching up
        inside = grid(floor_to(start, step) + step, end, step) if kind == BACKFILL else [Interval(start, end)]
        for one in inside:
            if state == OK:
                done.add(one.end)
                failed.pop(one.end, None)
            else:
                done.discard(one.end)
                failed[one.end] += 1
    lately = rows.lazy().filter(pl.col("kind") != BACKFILL)
    told = lately.filter(pl.col("state") == OK).head(1).collect().height
    own = lately if told else lake.scan("runs", venue).filter(pl.col("kind") != BACKFILL)
    return History(*_ends(own), frozenset(done), dict(failed))


def _ends(rows: pl.LazyFrame) -> tuple[datetime | None, datetime | None]:
    """The end of the first interval that was ever tried, and of the newest that went well."""
    good = pl.col("ts").filter(pl.col("state") == OK)
    first, newest = rows.select(pl.col("ts").min(), good.max().alias("newest")).collect().row(0)
    return first, newest


# --- writing


def append_outcome(lake: Lake, outcome: Outcome) -> None:
    """One row per interval that the attempt answers for, in one commit, once per attempt."""
    made = outcome.attempt
    shared = {
        "venue": made.venue,
        "run_id": made.run_id,
        "token": made.token,
        "kind": made.kind,
        "state": outcome.state,
        "started_at": made.started_at,
        "finished_at": outcome.finished_at,
        "steps": json.dumps(outcome.steps, sort_keys=True),
        "rows_ingested": outcome.rows_ingested,
        "alerts": outcome.alerts,
        "decisions": outcome.decisions,
        "notes": list(outcome.notes),
        "error": outcome.error,
    }
    rows = [shared | {"ts": one.end, "start": one.start} for one in made.ends]
    key = hash_of([made.venue, made.token, made.kind, [str(one) for one in made.ends], outcome.state])
    with lake.writer():
        lake.append("runs", pl.DataFrame(rows, schema=RUNS_SCHEMA), key)


# --- an attempt that is under way


def _attempt_path(lake: Lake) -> Path:
    return schedule_folder(lake.root) / "attempt.json"


def begin(lake: Lake, attempt: Attempt) -> None:
    """Say durably what is about to be done, before anything of it is."""
    told = {
        "venue": attempt.venue,
        "span": _shown(attempt.span),
        "ends": [_shown(one) for one in attempt.ends],
        "kind": attempt.kind,
        "token": attempt.token,
        "started_at": attempt.started_at.isoformat(),
        "run_id": attempt.run_id,
    }
    write_json(_attempt_path(lake), told)


def ended(lake: Lake) -> None:
    _attempt_path(lake).unlink(missing_ok=True)


def settle_killed(lake: Lake, now: datetime) -> Attempt | None:
    """Write the row of the attempt that a killed run has left behind; null where there is none."""
    try:
        told = json.loads(_attempt_path(lake).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    ends = tuple(_interval(one) for one in told["ends"])
    started = parse_time(told["started_at"])
    attempt = Attempt(
        told["venue"], _interval(told["span"]), ends, told["kind"], told["token"], started, told["run_id"]
    )
    append_outcome(lake, Outcome(attempt, max(now, started), error=KILLED))
    ended(lake)
    return attempt


def _shown(interval: Interval) -> list[str]:
    return [interval.start.isoformat(), interval.end.isoformat()]


def _interval(told: Sequence[str]) -> Interval:
    return Interval(parse_time(told[0]), parse_time(told[1]))


# --- what makes a run that run


def run_id(
    step: str, lake: Lake, venue: str, interval: Interval, config: Config, *, tables: Iterable[str] = READ
) -> str:
    """Hash of step, venue, interval, the files that `tables` hold of it, code and settings."""
    inputs = {table: reaching(lake, table, venue, interval) for table in tables}
    return hash_of([step, venue, _shown(interval), inputs, code_sha256(), config_sha256(config)])


def reaching(lake: Lake, table: str, venue: str, interval: Interval) -> list[str]:
    """The files of `table` that may hold rows of `interval`: files are never changed, their names are their content."""
    files = lake.files(table).filter(
        pl.col("venue") == venue,
        (pl.col("ts_max") > interval.start).fill_null(value=True),
        (pl.col("ts_min") <= interval.end).fill_null(value=True),
    )
    return files["path"].sort().to_list()


@cache
def code_sha256() -> str:
    """Hash of all our source: what was computed by other code is computed again."""
    hashed = hashlib.sha256()
    for package in PACKAGES:
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*.py")):
            hashed.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return hashed.hexdigest()


def config_sha256(config: Config) -> str:
    """Hash of the settings that change what is computed: not where the lake, the registry or the files lie."""
    told = config.model_dump(mode="json", include={"instruments", "policy", "seed", "bars", "detector", "warning",
                                                   "label", "schedule"})  # fmt: skip
    return hash_of(told)


def hash_of(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
