"""What the lake tells of the runs: a few scans of newest rows, whatever its age. No model library is imported."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from guardrails.ladder import ACTIONS
from pipelines.lake import SCHEMAS, Lake
from pipelines.observing.state import Facts, Tripped, VenueFacts, versions_of

LOOKED_BACK = timedelta(days=7)  # a venue that did nothing for longer costs one look at the whole table
LATCHED = ("open", "half_open")
BREACH = ("rule", "entity")


def look(lake: Lake, now: datetime) -> Facts:
    """Versions are taken first: what is written meanwhile makes the facts old, never wrong."""
    versions = versions_of(lake.root)
    runs = _runs(lake, now)
    names = sorted({*runs["venue"], *_venues_of(lake, "limits")})
    venues = tuple(_venue(lake, name, runs.filter(pl.col("venue") == name)) for name in names)
    return Facts(versions, venues, _rows(lake), _scored_by(lake))


def _venues_of(lake: Lake, table: str) -> list[str]:
    return lake.files(table)["venue"].drop_nulls().unique().to_list()


def _runs(lake: Lake, now: datetime) -> pl.DataFrame:
    """Attempts at intervals of the last week; of a venue without a good one, its last good one too."""
    recent = lake.scan("runs", start=now - LOOKED_BACK).collect()
    quiet = sorted(set(_venues_of(lake, "runs")) - set(recent.filter(pl.col("state") == "ok")["venue"]))
    older = [lake.scan("runs", name).filter(pl.col("state") == "ok").sort("ts").tail(1).collect() for name in quiet]
    return pl.concat([*older, recent]).sort("ts", "started_at")


def _steps(text: str | None) -> dict[str, float]:
    """Seconds by step, of what a run wrote about itself.

    >>> _steps('{"bars": {"rows": 3, "s": 0.5}, "guard": {}}'), _steps("?"), _steps(None)
    ({'bars': 0.5}, {}, {})
    """
    try:
        told = json.loads(text or "{}")
    except ValueError:
        return {}
    found = {name: one.get("s") for name, one in told.items() if isinstance(one, dict)}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _venue(lake: Lake, venue: str, runs: pl.DataFrame) -> VenueFacts:
    newest = runs.group_by("ts", maintain_order=True).last().filter(pl.col("state") == "ok").tail(1).to_dicts()
    latest = runs.sort("finished_at", maintain_order=True).tail(1).to_dicts()
    last: dict[str, Any] = newest[0] if newest else {}
    limits = _newest(lake, "limits", venue)
    faulty = pl.col("missing").is_not_null() | pl.col("blocked").is_not_null()
    return VenueFacts(
        venue=venue,
        last_good=last.get("ts"),
        failures=tuple(runs.filter(pl.col("state") != "ok")["finished_at"].sort()),
        last_error=latest[0]["error"] or "no reason given" if latest and latest[0]["state"] != "ok" else None,
        seconds=(last["finished_at"] - last["started_at"]).total_seconds() if last else None,
        steps=_steps(last.get("steps")),
        rows_ingested=last.get("rows_ingested") or 0,
        episodes=last.get("alerts") or 0,
        decisions=_decisions(lake, venue, last),
        limits_until=limits["expires_at"].max(),  # type: ignore[arg-type]  # a time
        symbols=dict(limits.group_by("action").len().sort("action").iter_rows()),
        leverage_cap_min=limits["leverage_cap_effective"].min(),  # type: ignore[arg-type]  # a number
        faults=limits.filter(faulty).height,
        tripped=_tripped(lake, venue),
    )


def _newest(lake: Lake, table: str, venue: str | None) -> pl.DataFrame:
    """The rows of the newest minute of a venue, or of all; only the newest files are read."""
    files = lake.files(table)
    own = files if venue is None else files.filter(pl.col("venue") == venue)
    newest: datetime | None = own["ts_max"].max()  # type: ignore[assignment]  # a time
    if newest is None:
        return pl.DataFrame(schema=SCHEMAS[table])
    return lake.scan(table, venue, newest - timedelta(microseconds=1), newest).collect()


def _decisions(lake: Lake, venue: str, last: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    if not last:
        return ()
    rows = lake.scan("decisions", venue, last["start"], last["ts"]).group_by("rule", "action").len().collect()
    return tuple(rows.sort("rule", "action").iter_rows())


def _tripped(lake: Lake, venue: str) -> tuple[Tripped, ...]:
    """Breakers that are latched in the newest state of the guard, the strictest first."""
    held = _newest(lake, "guard_state", venue).filter(pl.col("state").is_in(LATCHED))
    if held.is_empty():
        return ()
    keys = held.select("rule", "state", "severity", entity="symbol")
    last = _breaches(lake, venue, keys, held["ts"][0] - LOOKED_BACK)
    last = last if last.height == keys.height else _breaches(lake, venue, keys, None)
    rows = keys.join(last, on=BREACH, how="left").sort(-pl.col("severity"), "ts", "entity", "rule")
    return tuple(_as_tripped(row) for row in rows.to_dicts())


def _breaches(lake: Lake, venue: str, keys: pl.DataFrame, start: datetime | None) -> pl.DataFrame:
    """The last breach after `start` of every breaker of `keys` that has one: its time, sentence and decision."""
    latched, before = (pl.col(name).is_in(LATCHED).fill_null(value=False) for name in ("state_after", "state_before"))
    rows = lake.scan("decisions", venue, start).filter(latched, ~before)
    known = rows.join(keys.lazy(), on=BREACH, how="semi").sort("ts").group_by(BREACH).last()
    return known.select(*BREACH, "ts", "reason", "decision_id").collect()


def _as_tripped(row: Mapping[str, Any]) -> Tripped:
    action = ACTIONS[row["severity"]]
    said = row["reason"] or "", row["decision_id"] or ""
    return Tripped(row["entity"], row["rule"], row["state"], action, row["ts"], *said)


def _rows(lake: Lake) -> dict[str, tuple[int, int]]:
    sums = pl.col("rows_accepted", "rows_quarantined").sum()
    rows = lake.scan("ingest_log").group_by("table").agg(sums).sort("table").collect()
    return {table: (accepted, refused) for table, accepted, refused in rows.iter_rows()}


def _scored_by(lake: Lake) -> str:
    named = _newest(lake, "scores", None)["model_uri"].drop_nulls()
    return str(named[0]) if named.len() else ""
