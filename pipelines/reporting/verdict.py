"""The verdict: one headline, two sentences, a row of tiles, and what the reader must know about their limits."""

from typing import Any

import polars as pl

from guardrails.ladder import ACTIONS, MEANING, NORMAL
from pipelines.reporting import words
from pipelines.reporting.gather import Material
from pipelines.reporting.rules import LATCHED, in_force


def _symbols(states: pl.DataFrame) -> pl.DataFrame:
    return states.filter(~pl.col("whole_venue"))


def headline(states: pl.DataFrame, end: str, *, scored: bool, guarded: bool) -> str:
    """How many symbols are at risk; "none" only where alerts and breakers are both known."""
    symbols = _symbols(states)
    at_risk = int(symbols["at_risk"].sum())
    if not at_risk:
        if scored and guarded:
            return f"No symbol is at risk at {end}"
        seen, unseen = ("alert episode", "guarded") if scored else ("breaker", "scored")
        return f"No {seen} is open at {end}, but nothing was {unseen}"
    known = words.plural(symbols.height, "symbol")
    return f"{at_risk:,} of {known} {'is' if at_risk == 1 else 'are'} at risk at {end}"


def _led(row: dict[str, Any]) -> str:
    lead = row["lead_family"] or row["alert_lead"]
    return f" ({words.spaced(lead, words.FAMILIES)})" if lead else ""


def risk_sentence(states: pl.DataFrame) -> str:
    """What is at risk, since when, led by what."""
    symbols = _symbols(states).filter("at_risk")
    if symbols.is_empty():
        return "No alert episode is open and no breaker is open on an observed breach."
    named = f"Most severe: {words.joined(symbols['name'].to_list())}."
    venues = states.filter("whole_venue", pl.col("alert_since").is_not_null()).to_dicts()
    if venues:
        since = [f"{row['venue']} since {words.moment(row['alert_since'])}{_led(row)}" for row in venues]
        return f"In alert as a whole: {words.joined(since)}. {named}"
    first = symbols.sort("since", "symbol").row(0, named=True)
    return f"{first['name']} is at risk longest, since {words.moment(first['since'])}{_led(first)}. {named}"


def guardrail_sentence(states: pl.DataFrame) -> str:
    """The strictest guardrail in force, on which symbols, and whether a breach or a missing input put it there."""
    symbols = _symbols(states).filter(pl.col("severity").is_not_null())
    if symbols.is_empty():
        return "No guardrail decision covers this interval."
    strictest = int(symbols["severity"].max())  # type: ignore[arg-type]  # whole numbers, not empty
    action = ACTIONS[strictest]
    if action == NORMAL:
        return "No guardrail restricts trading: the caps apply."
    bound = symbols.filter(pl.col("severity") == strictest)
    breached = bound.filter(pl.col("binding_state").is_in(LATCHED))
    why = (
        f"after observed breaches of the rule {_rules(breached)}"
        if breached.height == bound.height
        else f"after observed breaches on {breached.height:,} of them, on the others because inputs are missing"
        if breached.height
        else "because inputs are missing, not because of an observed breach"
    )
    since = breached["binding_since"].min() if breached.height else None
    when = f" since {words.moment(since)}" if since is not None else ""  # type: ignore[arg-type]  # a time
    named = words.joined(bound["name"].to_list())
    return (
        f"The strictest guardrail in force is “{words.spaced(action, words.ACTIONS)}” ({MEANING[action]}) on "
        f"{words.plural(bound.height, 'symbol')}{when}, {why}: {named}."
    )


def _rules(bound: pl.DataFrame) -> str:
    counted = bound.group_by("binding").len().sort("len", "binding", descending=[True, False])
    return words.joined([words.spaced(rule, words.RULES) for rule in counted["binding"]], most=3)


def _stopped(material: Material, last: pl.DataFrame, what: str) -> list[str]:
    """Venues whose newest row is older than the end of the interval."""
    newest = last.group_by("venue").agg(pl.col("ts").max()).filter(pl.col("ts") < material.interval.end).sort("venue")
    return [f"{what} of {row['venue']} end at {words.moment(row['ts'])}." for row in newest.to_dicts()]


def _silent(material: Material) -> list[str]:
    """Symbols that end the interval without an anomaly, and why."""
    silent = material.last_scores.filter(pl.col("anomaly").is_null(), pl.col("symbol") != "*")
    status = pl.col("status").str.split("; ").list.first()
    why = silent.group_by(status=status).agg(pl.col("symbol").sort()).sort("status")
    return [
        f"No anomaly at the end for {words.plural(len(row['symbol']), 'symbol')} ({row['status']}): "
        f"{words.joined(row['symbol'])}."
        for row in why.to_dicts()
    ]


def notes(material: Material) -> list[str]:
    """What limits the verdict, one line each."""
    said = []
    if material.last_scores.is_empty():
        said.append(
            "Nothing was scored in this interval: run `cascadeguard score`. Alerts and anomalies are not known."
        )
    if material.last_limits.is_empty():
        said.append("Nothing was guarded in this interval: run `cascadeguard guard`. Limits are not known.")
    scored, limited = set(material.last_scores["venue"]), set(material.last_limits["venue"])
    if scored and limited:
        said += [f"{venue} was scored and not guarded." for venue in sorted(scored - limited)]
        said += [f"{venue} was guarded and not scored." for venue in sorted(limited - scored)]
    said += _silent(material) + _stopped(material, material.last_scores, "Scores")
    expired = material.last_limits.group_by("venue").agg(pl.col("expires_at").max()).sort("venue")
    said += [
        f"Limits of {row['venue']} expired at {words.moment(row['expires_at'])}; they may not be relied on."
        for row in expired.to_dicts()
        if row["expires_at"] < material.interval.end
    ]
    return said + _stopped(material, material.last_limits, "Limits")


def _tile(value: str, label: str, note: str = "", tone: str = "") -> dict[str, str]:
    return {"value": value, "label": label, "note": note, "tone": tone}


def tiles(material: Material, states: pl.DataFrame, found: pl.DataFrame, refused: int) -> list[dict[str, str]]:
    """The row of figures under the verdict."""
    symbols = _symbols(states)
    at_risk, unscored = int(symbols["at_risk"].sum()), material.last_scores.is_empty()
    unguarded = material.last_limits.is_empty()
    counted = dict(in_force(material.decisions).group_by("state_after").len().iter_rows())
    opened, trial = counted.get("open", 0), counted.get("half_open", 0)
    missing = int((symbols["binding_state"] == "missing").sum())
    strict = symbols["severity"].max()
    action = "" if strict is None else ACTIONS[int(strict)]  # type: ignore[arg-type]  # whole numbers
    on = int((symbols["severity"] == strict).sum()) if strict is not None else 0
    still = int(found["open"].sum())
    return [
        _tile(f"{at_risk:,}", "symbols at risk", f"of {symbols.height:,}", "risk" if at_risk else "calm"),
        _tile(words.NOTHING if unscored else f"{found.height:,}", "alert episodes",
              "not scored" if unscored else f"{still:,} still open"),
        _tile(words.spaced(action, words.ACTIONS) or words.NOTHING, "strictest guardrail",
              "not guarded" if unguarded else f"on {words.plural(on, 'symbol')}", action),
        _tile(words.NOTHING if unguarded else f"{opened:,}", "breakers open",
              "not guarded" if unguarded else f"observed breaches; {trial:,} on probation"),
        _tile(words.NOTHING if unguarded else f"{missing:,}", "held by missing data",
              "not guarded" if unguarded else "symbols, no breach observed"),
        _tile(f"{refused:,}", "refused rows", "kept in quarantine"),
    ]  # fmt: skip


def verdict_view(material: Material, states: pl.DataFrame, found: pl.DataFrame, refused: int) -> dict[str, Any]:
    at_risk = bool(_symbols(states)["at_risk"].any())
    scored, guarded = not material.last_scores.is_empty(), not material.last_limits.is_empty()
    return {
        "headline": headline(states, words.moment(material.interval.end), scored=scored, guarded=guarded),
        "sentences": [risk_sentence(states), guardrail_sentence(states)],
        "tone": "danger" if at_risk else "calm" if scored and guarded else "unknown",
        "tiles": tiles(material, states, found, refused),
        "notes": notes(material),
    }
