"""Guardrail decisions: what is in force at the end, what was breached first, and every change."""

from typing import Any

import polars as pl

from pipelines.reporting import words
from pipelines.reporting.gather import Material

ENTITY = ("venue", "entity", "rule")
LATCHED = ("open", "half_open")  # states of a breaker that has seen a breach and has not been cleared since
CHANGES_MAX = 2_000
ACCOUNTS_MAX = 20


def in_force(decisions: pl.DataFrame) -> pl.DataFrame:
    """The newest decision per symbol and rule, with `since`: when its present condition began.

    A breaker's condition begins with the breach, not with a later change from probation back to open.
    """
    latched, before = pl.col("state_after").is_in(LATCHED), pl.col("state_before").is_in(LATCHED).fill_null(value=False)
    same = pl.col("state_after").eq_missing(pl.col("state_before")) | (latched & before)
    began = decisions.sort("ts").with_columns(since=pl.when(~same).then("ts").forward_fill().over(ENTITY))
    return began.group_by(ENTITY).last().sort(ENTITY)


def first_breaches(decisions: pl.DataFrame) -> pl.DataFrame:
    """The first observed breach per symbol and rule, in order of time."""
    before = pl.col("state_before").is_in(LATCHED).fill_null(value=False)
    opened = decisions.filter(pl.col("state_after") == "open", ~before)
    return opened.sort("ts").group_by(ENTITY, maintain_order=True).first().sort("ts", *ENTITY)


def decision_row(row: dict[str, Any]) -> dict[str, Any]:
    """One decision in words."""
    observed, threshold = (words.amount(row[name], row["unit"]) for name in ("observed", "threshold"))
    return {
        "id": row["decision_id"],
        "ts": words.moment(row["ts"]),
        "venue": row["venue"],
        "symbol": row["entity"],
        "rule": words.spaced(row["rule"], words.RULES),
        "before": (row["state_before"] or "new").replace("_", " "),
        "after": row["state_after"].replace("_", " "),
        "kind": words.spaced(row["state_after"], words.KINDS),
        "state": row["state_after"],
        "action": row["action"],
        "action_word": words.spaced(row["action"], words.ACTIONS),
        "observed": observed,
        "threshold": threshold,
        "measured": row["observed"] is not None,
        "limit": words.limit(row["limit_after"], row["limit_unit"]),
        "reason": words.without_clearing(row["reason"]),
        "clears": row["clears_when"],
    }


def _accounts(accounts: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "venue": row["venue"],
            "account": row["account"],
            "symbol": "all symbols" if row["symbol"] == "*" else row["symbol"],
            "rule": words.spaced(row["rule"], words.RULES),
            "missing": row["verdict"] == "missing",
            "excess": words.whole(row["excess_usd"]),
            "reason": row["reason"],
        }
        for row in accounts.head(ACCOUNTS_MAX).to_dicts()
    ]


def decision_view(material: Material) -> dict[str, Any]:
    """First breaches, all changes of the interval (the newest `CHANGES_MAX`), counts by kind, accounts over a cap."""
    inside = material.decisions.filter(pl.col("ts") > material.interval.start)
    counted = dict(inside.group_by("state_after").len().iter_rows())
    kinds: dict[str, int] = {}
    for state, rows in sorted(counted.items()):
        kind = words.spaced(state, words.KINDS)
        kinds[kind] = kinds.get(kind, 0) + rows
    accounts = material.accounts
    return {
        "first": [decision_row(row) for row in first_breaches(inside).to_dicts()],
        "changes": [decision_row(row) for row in inside.tail(CHANGES_MAX).to_dicts()],
        "total": inside.height,
        "older": max(0, inside.height - CHANGES_MAX),
        "kinds": [f"{kind} {words.whole(rows)}" for kind, rows in sorted(kinds.items(), key=lambda item: -item[1])],
        "accounts": _accounts(accounts),
        "accounts_total": accounts["account"].n_unique(),
        "accounts_at": words.moment(accounts["ts"].max()) if accounts.height else "",  # type: ignore[arg-type]  # a time
    }
