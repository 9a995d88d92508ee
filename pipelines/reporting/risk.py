"""What is at risk at the end of the interval: one row per symbol, the venues first, the most severe next.

A symbol is at risk while its alert episode is open, or while a breaker is open on a breach that was observed. A limit
that is tight only because an input is missing says nothing about risk; the page shows it, and does not count it.
"""

from typing import Any, Protocol

import polars as pl

from guardrails.ladder import ACTIONS, MEANING
from pipelines.reporting import words
from pipelines.reporting.gather import KEY
from pipelines.reporting.rules import LATCHED, in_force

CAPS = ("leverage_cap", "exposure_cap")  # their sentences begin with their names
RATIO_FULL = 4.0  # the anomaly bar is full at this multiple of the threshold


class Standing(Protocol):
    """How things stand: the last score and limit of every symbol, and the decisions up to then."""

    @property
    def last_scores(self) -> pl.DataFrame: ...
    @property
    def last_limits(self) -> pl.DataFrame: ...
    @property
    def decisions(self) -> pl.DataFrame: ...


def _scored(last_scores: pl.DataFrame) -> pl.DataFrame:
    return last_scores.select(
        *KEY, "status", "anomaly", "anomaly_threshold", "p_15m", "p_60m", "p_threshold", "alert", "lead_family",
        "reasons", "missing_inputs", scored_at="ts", ratio=pl.col("anomaly") / pl.col("anomaly_threshold"),
    )  # fmt: skip


def _limited(last_limits: pl.DataFrame) -> pl.DataFrame:
    severity = pl.col("action").replace_strict(list(ACTIONS), list(range(len(ACTIONS))), return_dtype=pl.Int64)
    return last_limits.select(
        *KEY, "action", "binding", "reason", "missing", "exposure_cap_usd", "leverage_cap_hard",
        "leverage_cap_effective", "proposal", "expires_at", "throttle_reason", limited_at="ts",
        severity=severity, blocked=pl.concat_str("blocked", pl.lit(": "), "blocked_why"),
    )  # fmt: skip


def _binding(force: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """Per symbol and rule what the binding rule's decision says: its state, since when, what clears it.

    A rule of the venue binds every symbol of `keys` that the venue has.
    """
    own = force.select(
        "venue",
        symbol="entity",
        binding="rule",
        binding_state="state_after",
        binding_since="since",
        clears="clears_when",
    )
    whole = own.filter(pl.col("symbol") == "*").drop("symbol")
    everywhere = whole.join(keys.filter(pl.col("symbol") != "*"), on="venue").select(own.columns)
    return pl.concat([own, everywhere])


def _breakers(force: pl.DataFrame) -> pl.DataFrame:
    opened, latched = pl.col("state_after") == "open", pl.col("state_after").is_in(LATCHED)
    return (
        force.filter(latched)
        .group_by("venue", symbol="entity")
        .agg(
            breakers_open=opened.sum().cast(pl.Int64),
            breached_since=pl.col("since").filter(opened).min(),
            open_rules=pl.col("rule").filter(opened).sort(),
        )
    )


def symbol_states(material: Standing, found: pl.DataFrame) -> pl.DataFrame:
    """One row per venue and symbol (`*` first) that was scored or limited, the most severe first.

    `found` are the alert episodes. `at_risk`, `since` (the earlier of alert and breach), and what scores, limits and
    decisions in force say. A venue's own action is the strictest of its symbols.
    """
    force = in_force(material.decisions)
    scored, limited = _scored(material.last_scores), _limited(material.last_limits)
    alerting = (
        found.filter("open")
        .group_by(KEY)
        .agg(
            alert_since=pl.col("start").min(), alert_last=pl.col("end").max(), alert_lead=pl.col("lead_family").first()
        )
    )
    keys = pl.concat([scored.select(KEY), limited.select(KEY)]).unique()
    strictest = limited.group_by("venue").agg(venue_severity=pl.col("severity").max())
    whole = pl.col("symbol") == "*"
    wide = (
        keys.join(scored, on=KEY, how="left")
        .join(limited, on=KEY, how="left")
        .join(alerting, on=KEY, how="left")
        .join(_breakers(force), on=KEY, how="left")
        .join(_binding(force, keys), on=[*KEY, "binding"], how="left")
        .join(strictest, on="venue", how="left")
    )
    breached = pl.col("binding_state").is_in(LATCHED).fill_null(value=False)
    repeated = pl.col("venue").n_unique().over("symbol") > 1
    return wide.with_columns(
        whole_venue=whole,
        name=pl.when(repeated & ~whole).then(pl.format("{} ({})", "symbol", "venue")).otherwise("symbol"),
        severity=pl.when(whole).then("venue_severity").otherwise("severity"),
        breakers_open=pl.col("breakers_open").fill_null(0),
        at_risk=pl.col("alert_since").is_not_null() | (pl.col("breakers_open").fill_null(0) > 0),
        since=pl.min_horizontal("alert_since", "breached_since"),
    ).sort(
        ~whole, "at_risk", pl.col("severity").fill_null(-1), breached, pl.col("ratio").fill_null(-1.0), *KEY,
        descending=[False, True, True, True, True, False, False],
    )  # fmt: skip


def _bar(row: dict[str, Any]) -> dict[str, Any] | None:
    ratio = row["ratio"]
    if ratio is None:
        return None
    return {
        "width": round(100 * min(ratio / RATIO_FULL, 1.0), 1),
        "over": ratio >= 1,
        "text": f"{words.decimal(row['anomaly'])} / {words.decimal(row['anomaly_threshold'])}",
        "times": f"{words.times(ratio)} threshold",
    }


def _below(cap: float, hard: float) -> str:
    """A cap below the hard one, with as many digits as show that.

    >>> _below(1.5, 2.0), _below(1.96, 2.0)
    ('1.5×', '1.96×')
    """
    return words.times(cap) if words.times(cap) != words.times(hard) else f"{cap:.3g}×"


def _leverage(row: dict[str, Any]) -> dict[str, str] | None:
    hard, effective = row["leverage_cap_hard"], row["leverage_cap_effective"]
    if hard is None:
        return None
    tightened = effective is not None and effective < hard
    return {
        "hard": words.times(hard),
        "effective": _below(effective, hard) if tightened else "",
        "note": words.PROPOSALS.get(row["proposal"], "") if tightened else "",
    }


def _cause(row: dict[str, Any]) -> str:
    """What put the symbol at risk first; of an alert that has fallen silent, when it last spoke."""
    alert, breach = row["alert_since"], row["breached_since"]
    if alert is None or (breach is not None and breach < alert):
        return "breach" if breach is not None else ""
    return "alert" if row["alert"] else f"alert, last {words.until(alert, row['alert_last'])}"


def _kind(row: dict[str, Any]) -> str:
    return "" if row["binding_state"] is None else words.spaced(row["binding_state"], words.KINDS)


def _missing(row: dict[str, Any], common: tuple[str, ...]) -> list[str]:
    own = [words.missing(name) for text in (row["missing_inputs"], row["missing"]) if text for name in text.split(", ")]
    return [name for name in dict.fromkeys(own) if name not in common]


def common_missing(states: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Per venue of more than one symbol, the inputs that every one of its symbols lacks, told once."""
    symbols = states.filter(~pl.col("whole_venue"))
    both = pl.concat_str("missing_inputs", "missing", separator=", ", ignore_nulls=True)
    each = symbols.select("venue", "symbol", name=both.str.split(", ")).explode("name").drop_nulls("name")
    names = each["name"].unique().to_list()
    said = each.with_columns(pl.col("name").replace(names, [words.missing(name) for name in names])).unique()
    count = symbols.group_by("venue").agg(symbols=pl.len()).filter(pl.col("symbols") > 1)
    shared = said.group_by("venue", "name").agg(pl.len()).join(count, on="venue")
    shared = shared.filter(pl.col("len") == pl.col("symbols"), pl.col("name") != "").sort("venue", "name")
    return {venue: tuple(part["name"]) for (venue,), part in shared.partition_by("venue", as_dict=True).items()}


def common_blocked(states: pl.DataFrame) -> dict[str, str]:
    """Per venue of more than one symbol, what is blocked for the same reason in every one of its symbols, told once."""
    symbols = states.filter(~pl.col("whole_venue"))
    each = symbols.group_by("venue").agg(pl.len(), pl.col("blocked").n_unique().alias("kinds"), pl.first("blocked"))
    shared = each.filter(pl.col("len") > 1, pl.col("kinds") == 1, pl.col("blocked").is_not_null())
    return dict(shared.select("venue", "blocked").iter_rows())


def _blocked(row: dict[str, Any], common: str | None) -> str:
    """What a data fault blocks and why; on the row of the venue what it blocks in every symbol."""
    said = common if row["whole_venue"] else row["blocked"]
    return said if said is not None and (row["whole_venue"] or said != common) else ""


def _action(row: dict[str, Any]) -> tuple[str, str, str]:
    """The action's machine word, its word on the page and what it means; empty where nothing was guarded."""
    if row["severity"] is None:
        return "", "", ""
    action = ACTIONS[row["severity"]]
    return action, words.spaced(action, words.ACTIONS), MEANING[action]


def risk_rows(states: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of the table "At risk now"."""
    common, blocked = common_missing(states), common_blocked(states)
    rows = []
    for row in states.to_dicts():
        action, action_word, meaning = _action(row)
        shared = common.get(row["venue"], ())
        rows.append(
            {
                "venue": row["venue"],
                "symbol": row["symbol"],
                "whole_venue": row["whole_venue"],
                "at_risk": row["at_risk"],
                "since": words.moment(row["since"]),
                "cause": _cause(row),
                "bar": _bar(row),
                "status": (row["status"] or "not scored").split("; ")[0],
                "p_15m": words.percent(row["p_15m"]),
                "p_60m": words.percent(row["p_60m"]),
                "p_over": bool(row["p_60m"] is not None and row["p_threshold"] is not None)
                and row["p_60m"] >= row["p_threshold"],
                "lead_then": words.spaced(row["alert_lead"] or "", words.FAMILIES),
                "reasons": words.reasons(row["reasons"]),
                "action": action,
                "action_word": action_word,
                "meaning": meaning,
                "leverage": _leverage(row),
                "exposure": words.whole(row["exposure_cap_usd"]),
                "rule": "" if row["binding"] in (None, "none", *CAPS) else words.spaced(row["binding"], words.RULES),
                "kind": _kind(row),
                "kind_since": words.moment(row["binding_since"]) if row["binding_state"] in LATCHED else "",
                "why": words.without_clearing(row["reason"]) if row["binding"] not in (None, "none") else "",
                "clears": (row["clears"] or "").removeprefix("clears "),
                "blocked": _blocked(row, blocked.get(row["venue"])),
                "throttle": row["throttle_reason"] or "",
                "missing": list(shared) if row["whole_venue"] else _missing(row, shared),
            }
        )
    return rows
