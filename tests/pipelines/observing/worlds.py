"""Lakes with runs, made by hand."""

import json
from datetime import datetime, timedelta
from typing import Any

from pipelines.lake import RUNS_SCHEMA, Lake
from tests.pipelines.alerting.letters import at
from tests.pipelines.alerting.worlds import VENUE, Market, decision, limit, table

STEPS = {"bars": {"rows": 5, "s": 0.5}, "score": {"s": 1.25}, "guard": {"s": 0.75}}


def run_row(start: float, end: float, state: str = "ok", venue: str = VENUE, **more: Any) -> dict[str, Any]:
    made = {
        "venue": venue, "ts": at(end), "start": at(start), "run_id": "ab", "token": 1, "kind": "due", "state": state,
        "started_at": at(end + 0.5), "finished_at": at(end + 1), "steps": json.dumps(STEPS), "rows_ingested": 12,
        "alerts": 2, "decisions": 1, "notes": [], "error": None if state == "ok" else "no disk",
    }  # fmt: skip
    return made | more


def ran(lake: Lake, *rows: dict[str, Any]) -> None:
    with lake.writer():
        lake.append("runs", table("runs", rows).select(RUNS_SCHEMA.names()), None)


def tripped(market: Market) -> None:
    """Two intervals done well, a breaker open in the second."""
    market.guarded(0, 5)
    market.guarded(
        5, 10, [decision(7, "AAA", "closed", "open", "reduce_only")], [("AAA", "price_band", "open")],
        limits=[limit(10, "AAA", action="reduce_only", leverage_cap_effective=2.0),
                limit(10, "BBB", missing="depth missing")],
    )  # fmt: skip
    ran(market.lake, run_row(0, 5), run_row(5, 10))


def days(count: float) -> datetime:
    return at(0) + timedelta(days=count)
