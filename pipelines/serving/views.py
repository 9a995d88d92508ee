"""What each page shows, as plain values for its template: the lake read, the reader's wishes applied."""

from collections.abc import Mapping

import polars as pl

from guardrails.ladder import ACTIONS
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.reporting import words
from pipelines.serving import breakers, contagion, decisions, overview, runs, symbol
from pipelines.serving.desk import Desk, View
from pipelines.serving.freshness import age, freshness
from pipelines.times import parse_time

REASONS_MAX = 100


def overview_view(desk: Desk, chosen: overview.Chosen) -> View:
    board = desk.board()
    stood, rows = board.standing, board.rows
    return {
        "chosen": chosen, "rows": overview.chosen_rows(rows, chosen),
        "wholes": overview.venue_rows(rows, chosen.venue), "verdict": board.verdict,
        "known": sum(not row["whole_venue"] for row in rows), "venues": stood.venues, "shows": overview.SHOWN,
        "orders": {name: said for name, (said, _) in overview.ORDERS.items()},
        "fresh": freshness(stood, desk.now(), desk.config.serve.stale_min, chosen.venue),
        "probabilities": any(row["p_60m_value"] is not None for row in rows),
    }  # fmt: skip


def breakers_view(desk: Desk, text: str, venue: str, *, holding: bool) -> View:
    board = desk.board()
    stood, rows = board.standing, board.breakers
    shown = breakers.chosen(rows, text, venue, holding=holding)
    reasons = breakers.reasons(shown)
    return {
        "text": text, "venue": venue, "holding": holding, "venues": sorted(stood.guarded), "rows": shown,
        "known": len(rows), "headings": board.headings, "reasons": reasons[:REASONS_MAX],
        "more": len(reasons) - REASONS_MAX,
        "fresh": freshness(stood, desk.now(), desk.config.serve.stale_min, venue), "absent": not rows,
    }  # fmt: skip


def wanted_of(asked: Mapping[str, str]) -> decisions.Wanted:
    """Raises InputError for a time that is none."""
    moments = {name: parse_time(asked[name]) if asked[name] else None for name in ("start", "end")}
    return decisions.Wanted(asked["venue"], asked["symbol"], asked["rule"], asked["action"], **moments)


def decisions_view(desk: Desk, asked: Mapping[str, str], page: int) -> View:
    wanted = wanted_of(asked)
    found = desk.reader.kept(
        "decisions", ("decisions", "runs"), lambda lake: decisions.listed(lake, wanted, page), (wanted, page)
    )
    return {
        "found": found, "asked": asked, "venues": sorted(desk.board().standing.guarded), "actions": ACTIONS,
        "action_words": words.ACTIONS, "rule_words": words.RULES,
        "rules": sorted({*found.rules, *([wanted.rule] if wanted.rule else [])}),
        "span": f"{words.moment(found.start)} to {words.moment(found.end)}" if found.end else "",
    }  # fmt: skip


def decision_view(desk: Desk, decision_id: str) -> View:
    try:
        told = desk.reader.kept(
            "decision",
            ("decisions", "limits", "bars"),
            lambda lake: decisions.minute_of(lake, decision_id),
            decision_id,
        )
    except InputError as error:
        return {"told": None, "why": str(error), "id": decision_id}
    return {"told": told, "why": "", "id": decision_id}


def symbol_view(desk: Desk, venue: str, name: str) -> View:
    """Looked up among the symbols that there are: a name never becomes a path."""
    known = desk.symbols()
    nothing: View = {"look": None, "venue": venue, "symbol": name, "row": None}
    if name not in known.get(venue, []):
        return nothing
    hours = desk.config.serve.history_h
    found = desk.reader.kept("symbol", symbol.TABLES, lambda lake: _look(lake, venue, name, hours), (venue, name))
    if found is None:
        return nothing
    own = next((row for row in desk.board().rows if (row["venue"], row["symbol"]) == (venue, name)), None)
    stale = desk.now() - found["end"]
    is_stale = stale.total_seconds() > 60 * desk.config.serve.stale_min
    return {**nothing, "look": found, "row": own, "hours": hours, "stale": age(stale) if is_stale else ""}


def _look(lake: Lake, venue: str, name: str, hours: int) -> View | None:
    found = symbol.look(lake, venue, name, hours)
    if found is None:
        return None
    return {
        "plots": symbol.plots(found), "strips": symbol.strips(found), "map": symbol.liquidation_map(found),
        "decisions": found.decisions, "end": found.interval.end, "until": words.moment(found.interval.end),
    }  # fmt: skip


def graph_view(desk: Desk, venue: str) -> View:
    held = desk.reader.read(contagion.positions_at)
    chosen = venue if venue in held else min(held, default="")
    nothing: View = {"venues": sorted(held), "chosen": chosen, "graph": None}
    if not chosen:
        return nothing
    graph = desk.reader.kept("graph", contagion.TABLES, lambda lake: contagion.graph_view(lake, chosen), chosen)
    return nothing | {"graph": graph}


def runs_view(desk: Desk, venue: str, state: str) -> View:
    rows = desk.runs()
    shown = runs.chosen(rows, venue, state)
    return {
        "rows": [runs.run_row(row) for row in shown.head(runs.ROWS_MAX).to_dicts()], "total": shown.height,
        "standing": runs.standing(rows), "venues": sorted(rows["venue"].unique()), "venue": venue, "state": state,
        "absent": rows.is_empty(),
    }  # fmt: skip


def symbol_minutes(lake: Lake, venue: str, name: str, hours: int) -> pl.DataFrame:
    """The minutes behind the plots of a symbol, for export."""
    found = symbol.look(lake, venue, name, hours)
    rows = pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC")}) if found is None else found.minutes
    return rows.select(venue=pl.lit(venue), symbol=pl.lit(name), **{column: column for column in rows.columns})
