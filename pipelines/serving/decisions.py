"""Decisions: the newest first, filtered and paged; each opens its minute."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pipelines.explain import explain_decision, explain_sentence
from pipelines.lake import SCHEMAS, Lake
from pipelines.reporting import words
from pipelines.reporting.rules import decision_row
from pipelines.serving.reading import ends

PAGE_ROWS = 50
BACK = timedelta(days=7)  # shown where no time is asked for
EXPORT_ROWS_MAX = 100_000
RUN_MAX = timedelta(days=1)  # no interval is longer


@dataclass(frozen=True)
class Wanted:
    """What the reader asked for; `start` exclusive, `end` inclusive, None: the last `BACK`."""

    venue: str = ""
    symbol: str = ""
    rule: str = ""
    action: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True)
class Listed:
    rows: list[dict[str, Any]]
    total: int
    page: int
    pages: int
    start: datetime | None
    end: datetime | None
    rules: list[str]  # those that decided anything in the time asked for


def span_of(lake: Lake, wanted: Wanted) -> tuple[datetime, datetime] | None:
    """The time asked for, else the last `BACK` up to the newest decision; None where there is no decision at all."""
    newest = max(ends(lake, "decisions").values(), default=None)
    if newest is None:
        return None
    end = newest if wanted.end is None else wanted.end
    return (end - BACK if wanted.start is None else wanted.start), end


def found(lake: Lake, wanted: Wanted) -> pl.LazyFrame:
    """The decisions asked for, the newest first. Reads no partition outside of the time asked for."""
    span = span_of(lake, wanted)
    if span is None:
        return pl.LazyFrame(schema=SCHEMAS["decisions"])
    venues = [wanted.venue] if wanted.venue else list(ends(lake, "decisions"))
    rows = pl.concat([lake.scan("decisions", venue, *span) for venue in venues])
    named = {"entity": wanted.symbol, "rule": wanted.rule, "action": wanted.action}
    same = [pl.col(column) == value for column, value in named.items() if value]
    return rows.filter(*same).sort("ts", "venue", "entity", "rule", descending=[True, False, False, False])


def listed(lake: Lake, wanted: Wanted, page: int) -> Listed:
    """One page of the decisions asked for; a page beyond the last is the last."""
    span = span_of(lake, wanted) or (None, None)
    rows = found(lake, wanted).collect()
    pages = max(1, -(-rows.height // PAGE_ROWS))
    shown = min(max(page, 1), pages)
    part = rows.slice((shown - 1) * PAGE_ROWS, PAGE_ROWS)
    again = _amendments(lake, part)
    said = [decision_row(row) | _amended(row, again) for row in part.to_dicts()]
    return Listed(said, rows.height, shown, pages, span[0], span[1], sorted(rows["rule"].unique()))


def _amendments(lake: Lake, decisions: pl.DataFrame) -> pl.DataFrame:
    """Runs that computed the time of `decisions` again, because data came late: `venue, start, ts, finished_at`."""
    runs = pl.DataFrame(schema=SCHEMAS["runs"])
    if decisions.height:
        venues = decisions["venue"].unique()
        first, last = decisions.select(first=pl.col("ts").min(), last=pl.col("ts").max()).row(0)
        around = first - timedelta(minutes=1), last + RUN_MAX
        runs = pl.concat([runs, *(lake.scan("runs", venue, *around).collect() for venue in venues)])
    good = runs.filter(pl.col("kind") == "amended", pl.col("state") == "ok")
    return good.select("venue", "start", "ts", "finished_at")


def _amended(row: dict[str, Any], amendments: pl.DataFrame) -> dict[str, Any]:
    again = amendments.filter(pl.col("venue") == row["venue"], pl.col("start") < row["ts"], pl.col("ts") >= row["ts"])[
        "finished_at"
    ].max()
    return {"amended": words.moment(again) if again is not None else ""}  # type: ignore[arg-type]  # a time


def minute_of(lake: Lake, decision_id: str) -> dict[str, Any]:
    """One decision told whole, in the text of `cascadeguard explain`. InputError where there is none of this id."""
    told = explain_decision(lake, decision_id)
    one = told["decision"]
    return {
        "id": decision_id,
        "text": explain_sentence(told),
        "venue": one["venue"],
        "symbol": one["entity"],
        "rule": words.spaced(one["rule"], words.RULES),
        "ts": words.moment(one["ts"]),
        "superseded": told["superseded"],
    }
