"""Runs: how the schedule keeps up. The newest attempt at an interval says how the interval stands."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pipelines.lake import SCHEMAS, Lake
from pipelines.reporting import words
from pipelines.serving.reading import ends

BACK = timedelta(days=7)
ROWS_MAX = 100
KINDS = {"due": "on time", "caught_up": "caught up", "amended": "amended: data came late", "backfill": "backfill"}


def run_rows(lake: Lake) -> pl.DataFrame:
    """The attempts of the last `BACK`, the newest first."""
    parts = [lake.scan("runs", venue, end - BACK, end).collect() for venue, end in ends(lake, "runs").items()]
    rows = pl.concat([pl.DataFrame(schema=SCHEMAS["runs"]), *parts])
    return rows.sort("started_at", "ts", "venue", descending=[True, True, False])


def chosen(rows: pl.DataFrame, venue: str, state: str) -> pl.DataFrame:
    """The attempts asked for; "" is any."""
    wanted = {"venue": venue, "state": state}
    return rows.filter(*(pl.col(column) == value for column, value in wanted.items() if value))


def steps_of(text: str | None) -> list[dict[str, Any]]:
    """`steps` of a run: name, seconds, what it says; whatever cannot be read is left out.

    >>> steps_of('{"bars": {"s": 1.25, "rows": 40}, "guard": {"s": 0.5, "says": ["a halt", "a cap"]}}')
    [{'name': 'bars', 'seconds': 1.25, 'said': '40 rows'}, {'name': 'guard', 'seconds': 0.5, 'said': 'a halt; a cap'}]
    >>> steps_of("not json"), steps_of(None)
    ([], [])
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return []
    pairs = found.items() if isinstance(found, dict) else ()
    return [step for name, told in pairs if (step := _step(str(name), told)) is not None]


def _step(name: str, told: Any) -> dict[str, Any] | None:
    values = told if isinstance(told, dict) else {}
    seconds, rows, says = values.get("s"), values.get("rows"), values.get("says")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    counted = [words.plural(rows, "row")] if isinstance(rows, int) else []
    sentences = [str(one) for one in says] if isinstance(says, list) else []
    return {"name": name, "seconds": float(seconds), "said": "; ".join([*counted, *sentences])}


def run_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One attempt in words, its steps as parts of a bar 120 wide."""
    steps = steps_of(row["steps"])
    total = sum(step["seconds"] for step in steps) or 1.0
    x, parts = 0.0, []
    for place, step in enumerate(steps):
        width = 120 * step["seconds"] / total
        parts.append(
            step | {"x": round(x, 1), "width": round(width, 1), "shade": place % 6, "took": _seconds(step["seconds"])}
        )
        x += width
    return {
        "venue": row["venue"],
        "interval": f"{words.moment(row['start'])} to {words.until(row['start'], row['ts'])}",
        "kind": KINDS.get(row["kind"], row["kind"] or words.NOTHING),
        "state": row["state"] or "unknown",
        "started": words.moment(row["started_at"], seconds=True),
        "took": _between(row["started_at"], row["finished_at"]),
        "lag": _between(row["ts"], row["finished_at"]),
        "steps": parts,
        "rows": words.whole(row["rows_ingested"]),
        "alerts": words.whole(row["alerts"]),
        "decisions": words.whole(row["decisions"]),
        "notes": row["notes"] or [],
        "error": row["error"] or "",
        "run_id": (row["run_id"] or "")[:12],
        "token": row["token"],
    }


def _between(start: datetime | None, end: datetime | None) -> str:
    return words.NOTHING if start is None or end is None else _seconds((end - start).total_seconds())


def _seconds(value: float) -> str:
    """
    >>> _seconds(0.21), _seconds(1.25), _seconds(75.0)
    ('0.2 s', '1.2 s', '1 min 15 s')
    """
    return f"{value:.1f} s" if 0 <= value < 10 else words.duration(value)


def standing(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Per venue: the last good interval, how many stand as failed, median and worst lag."""
    newest = rows.sort("started_at").group_by("venue", "ts").last()
    lag_s = (pl.col("finished_at") - pl.col("ts")).dt.total_seconds()
    told = newest.group_by("venue").agg(
        good=pl.col("ts").filter(pl.col("state") == "ok").max(),
        failed=(pl.col("state") == "failed").sum(),
        intervals=pl.len(),
        lag=lag_s.filter(pl.col("kind") == "due").median(),
        worst=lag_s.filter(pl.col("kind") == "due").max(),
    )
    return [
        {"venue": row["venue"], "good": words.moment(row["good"]), "failed": row["failed"],
         "intervals": words.whole(row["intervals"]), "lag": words.duration(row["lag"]),
         "worst": words.duration(row["worst"])}
        for row in told.sort("venue").to_dicts()
    ]  # fmt: skip
