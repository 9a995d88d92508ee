"""Breakers: every rule of every symbol in the newest guarded minute, and what clears those that hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from guardrails.decide import RULES
from pipelines.reporting import words
from pipelines.serving.overview import mark_of
from pipelines.serving.standing import QUIET, Standing

CELLS = {  # state -> what stands in its cell
    "open": "open", "half_open": "trial", "missing": "no data", "tight": "tight",
    "closed": "·", "clear": "·", "off": "–",
}  # fmt: skip

SHARED = ("rule", "state", "reason", "clears", "action", "since")  # cells alike in these are told in one sentence


def breaker_rows(standing: Standing) -> list[dict[str, Any]]:
    """One row per venue and entity (`*`: the venue's own rules), its cells in the order of `rules_of`."""
    joined = _with_decisions(standing)
    rules = rules_of(joined["rule"].to_list())
    rows = []
    for (venue, symbol), part in joined.partition_by("venue", "symbol", as_dict=True, maintain_order=True).items():
        found = {cell["rule"]: cell for cell in map(_cell, part.to_dicts())}
        cells = [found.get(rule) for rule in rules]
        held = [cell for cell in cells if cell is not None and cell["holds"]]
        rows.append(
            {"venue": venue, "symbol": symbol, "whole_venue": symbol == "*", "mark": mark_of(str(venue), str(symbol)),
             "cells": cells, "held": held, "haystack": _haystack(str(venue), str(symbol), held)}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (not row["whole_venue"], -_worst(row["held"]), row["venue"], row["symbol"]))


def rules_of(named: Sequence[str]) -> list[str]:
    """The rules that have a verdict, in the order of the policy; unknown ones behind."""
    seen = set(named)
    return [rule for rule in RULES if rule in seen] + sorted(seen - set(RULES))


def headings(standing: Standing) -> list[str]:
    return [words.spaced(rule, words.RULES) for rule in rules_of(standing.state["rule"].to_list())]


def _with_decisions(standing: Standing) -> pl.DataFrame:
    """The state of every breaker beside the decision that put it there, where one is known."""
    said = standing.force.select(
        "venue", "rule", "decision_id", "reason", "clears_when", "reset_authority", "since", "action", symbol="entity"
    )
    state = standing.state.select("venue", "symbol", "rule", "state", "severity").sort("venue", "symbol", "rule")
    return state.join(said, on=["venue", "symbol", "rule"], how="left", maintain_order="left")


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    clears = (row["clears_when"] or "").removeprefix("clears ")
    return {
        "rule": row["rule"],
        "name": words.spaced(row["rule"], words.RULES),
        "state": row["state"],
        "text": CELLS.get(row["state"], row["state"]),
        "kind": words.spaced(row["state"], words.KINDS),
        "holds": row["state"] not in QUIET,
        "severity": row["severity"] or 0,
        "action": words.spaced(row["action"] or "", words.ACTIONS),
        "id": row["decision_id"] or "",
        "reason": words.without_clearing(row["reason"]) if row["reason"] else "",
        "clears": "" if clears == "nothing to clear" else clears,
        "reset": row["reset_authority"] or "",
        "since": words.moment(row["since"]) if row["since"] is not None else "earlier",
    }


def _worst(held: Sequence[Mapping[str, Any]]) -> int:
    """Observed breaches before missing inputs, then by severity."""
    return max((2 * cell["severity"] + 10 * (cell["state"] in ("open", "half_open")) for cell in held), default=-1)


def _haystack(venue: str, symbol: str, held: Sequence[Mapping[str, Any]]) -> str:
    return " ".join((symbol, venue, *(f"{cell['name']} {cell['kind']}" for cell in held))).lower()


def chosen(rows: Sequence[Mapping[str, Any]], text: str, venue: str, *, holding: bool) -> list[Mapping[str, Any]]:
    """The rows asked for; with `holding` those alone in which something holds."""
    wanted = text.lower().split()
    return [
        row
        for row in rows
        if venue in ("", row["venue"]) and (row["held"] or not holding) and all(w in row["haystack"] for w in wanted)
    ]


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What holds in `rows`, told in sentences, the observed breaches first; one sentence for all that share it."""
    told: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        for cell in row["held"]:
            same = (row["venue"], *(str(cell[name]) for name in SHARED))
            one = told.setdefault(same, {**cell, "venue": row["venue"], "whole_venue": row["whole_venue"], "names": []})
            one["names"].append(row["symbol"])
    shown = [{**one, "who": words.joined(one["names"], most=2), "count": len(one["names"])} for one in told.values()]
    return sorted(shown, key=lambda one: -_worst([one]))


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Every cell of `rows` as a row of its own, for export."""
    names = ("rule", "state", "action", "reason", "clears", "reset", "since", "id")
    told = [
        {"venue": row["venue"], "symbol": row["symbol"], **{name: cell[name] for name in names}}
        for row in rows
        for cell in row["cells"]
        if cell is not None
    ]
    return pl.DataFrame(told, schema=dict.fromkeys(("venue", "symbol", *names), pl.String))
