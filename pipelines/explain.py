"""One decision in a minute: what was seen, the limit, what is allowed, why, what clears it, what stood around it."""

import textwrap
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from guardrails.facts import KEY, NUMBERS, market_facts
from guardrails.ladder import MEANING
from guardrails.policy import LOOKBACK_MIN, PolicyError, parse_policy
from guardrails.wording import percent
from pipelines.amendments import amendments_of
from pipelines.audit import entries, kept_policy
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.times import show_time

WIDTH = 110  # of a line of `explain`
CAP_SETTINGS = {  # how the settings of a cap begin in the section that caps share
    "leverage_cap": ("leverage_", "sigmas_", "depth_", "oi_", "loosen_"),
    "exposure_cap": ("exposure_", "loosen_"),
}
SHOWN = (  # facts of a minute, in the order they are told
    ("price", "price", "USD"),
    ("move_fast", "against its short mean", "share"),
    ("move_slow", "against its long mean", "share"),
    ("mark", "mark", "USD"),
    ("index", "index", "USD"),
    ("divergence", "mark from index", "share"),
    ("depth_usd", "thinner side", "USD"),
    ("depth_ratio", "of its median", "share"),
    ("oi_usd", "open interest", "USD"),
    ("volatility_1h", "volatility of an hour", "share"),
    ("feed_age_s", "oldest feed", "s"),
)


def explain_decision(lake: Lake, decision_id: str) -> dict[str, Any]:
    """One decision with what stood around it: the facts of its minute, the one before it, the policy as it stood.

    Read from the lake; where a later run has replaced it there, from the audit log. InputError where neither has it.
    """
    rows = lake.scan("decisions").filter(pl.col("decision_id") == decision_id).collect()
    decision = rows.row(0, named=True) if rows.height else _from_log(lake, decision_id)
    text = kept_policy(lake, decision["policy_sha256"])
    return {
        "decision": decision,
        "superseded": not rows.height,
        "amendments": amendments_of(lake, decision_id),
        "before": _before(lake, decision),
        "limits": _limits(lake, decision),
        "facts": _facts(lake, decision, text),
        "policy": None if text is None else section(text, decision["rule"]),
    }


def _from_log(lake: Lake, decision_id: str) -> dict[str, Any]:
    found = next((entry for entry in entries(lake) if entry.get("decision_id") == decision_id), None)
    if found is None:
        mend = "ids are in the report, in `guard --json` and in the audit log"
        raise InputError("no such decision", where=decision_id, mend=mend)
    return found | {name: datetime.fromisoformat(found[name]) for name in ("ts", "expires_at")}


def _before(lake: Lake, decision: Mapping[str, Any]) -> dict[str, Any] | None:
    """The decision before, of the same entity and rule."""
    same = (pl.col(name) == decision[name] for name in ("scope", "entity", "rule"))
    earlier = lake.scan("decisions", decision["venue"], end=decision["ts"]).filter(*same, pl.col("ts") < decision["ts"])
    rows = earlier.sort("ts").tail(1).collect()
    return rows.row(0, named=True) if rows.height else None


def _limits(lake: Lake, decision: Mapping[str, Any]) -> dict[str, Any] | None:
    """The limits in force in the decision's minute, of all rules together."""
    minute = decision["ts"] - timedelta(minutes=1), decision["ts"]
    rows = lake.scan("limits", decision["venue"], *minute).filter(pl.col("symbol") == decision["entity"]).collect()
    return rows.row(0, named=True) if rows.height else None


def _facts(lake: Lake, decision: Mapping[str, Any], text: str | None) -> dict[str, Any] | None:
    """The facts of the decision's minute as the lake gives them now; None without bars or a readable policy."""
    end = decision["ts"]
    bars = lake.scan("bars", decision["venue"], end - timedelta(minutes=LOOKBACK_MIN), end).select(*KEY, *NUMBERS)
    try:
        rows = market_facts(bars.collect(), parse_policy(text or ""))
    except PolicyError:
        return None
    here = rows.filter(pl.col("symbol") == decision["entity"], pl.col("ts") == end)
    return here.row(0, named=True) if here.height else None


def section(text: str, rule: str) -> list[str]:
    """The settings of a rule as they stand in a policy's text, without comments: its section, else its part of `caps`.

    >>> section("[breakers.price_band]\\nenter = 0.05 # share\\n[caps]\\nleverage_floor = 2", "price_band")
    ['enter = 0.05']
    """
    own, inside, found = f"[breakers.{rule}]", False, []
    head, names = (own, ("",)) if own in text else ("[caps]", CAP_SETTINGS.get(rule, ("",)))
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.split("#")[0].strip() == head
        elif inside and "=" in line and line.startswith(names):
            found.append(" ".join(line.split("#")[0].split()))
    return found


def _wrapped(label: str, text: str) -> str:
    """`label` in a column of its own, the text beside it."""
    return textwrap.fill(text, WIDTH, initial_indent=f"{label:<13}", subsequent_indent=" " * 13)


def _amount(value: float | None, unit: str, nothing: str) -> str:
    """A number with its unit, as the reasons say it: a share in percent, the rest with a thousands separator."""
    if value is None:
        return nothing
    if unit == "share":
        return percent(value)
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.6g}{'' if unit.startswith('x') else ' '}{unit}"


def _in_force(limits: Mapping[str, Any] | None) -> str:
    """What all rules together allow in the minute."""
    if limits is None:
        return "the lake holds no limits of this minute any more"
    caps = f"leverage {limits['leverage_cap']:g}x, exposure {limits['exposure_cap_usd']:,} USD an account"
    blocked = "" if limits["blocked"] is None else f"; blocked: {limits['blocked']}: {limits['blocked_why']}"
    return f"{limits['action']} by {limits['binding']}; {caps}{blocked}"


def _seen(facts: Mapping[str, Any] | None) -> str:
    """The facts of the minute in one breath; what is missing says why."""
    if facts is None:
        return "the lake holds no bars of this minute any more"
    if not facts["present"]:
        return "no bar of the symbol in this minute"
    told = [f"{words} {_amount(facts[name], unit, '')}" for name, words, unit in SHOWN if facts[name] is not None]
    faults = [facts[name] for name in facts if name.endswith("_fault") and facts[name] is not None]
    return "; ".join([*told, *dict.fromkeys(faults)])


def _amended(decision_id: str, told: Mapping[str, Any]) -> str:
    """One amendment, from the side of the decision that is told."""
    when = "" if told["amended_at"] is None else f", {show_time(told['amended_at'])}"
    if told["before"] == decision_id:
        by = "taken back" if told["after"] is None else f"replaced by {told['after']}"
        return f"{by}{when}: {told['why']}"
    instead = "added later" if told["before"] is None else f"stands in the place of {told['before']}"
    return f"{instead}{when}: {told['why']}"


def explain_sentence(found: Mapping[str, Any]) -> str:
    """The decision on one screen."""
    one, before = found["decision"], found["before"]
    state = f"{one['state_before'] or 'new'} -> {one['state_after']}"
    limit = " -> ".join(_amount(one[name], one["limit_unit"], "none") for name in ("limit_before", "limit_after"))
    value, threshold = (_amount(one[name], one["unit"], "nothing") for name in ("observed", "threshold"))
    past = "the first of this rule for it" if before is None else (
        f"{before['decision_id']} {show_time(before['ts'])}: {before['state_after']}, {before['reason']}"
    )  # fmt: skip
    policy = ", ".join(found["policy"]) if found["policy"] else "its text is not kept in the audit folder"
    lines = [
        f"{show_time(one['ts'])} {one['venue']} {one['entity']}: {one['rule']} {state}, action {one['action']}",
        _wrapped("seen:", f"{value}; threshold {threshold}"),
        _wrapped("limit:", limit),
        _wrapped("allowed:", MEANING[one["action"]]),
        _wrapped("why:", one["reason"]),
        _wrapped("clears:", one["clears_when"].removeprefix("clears ")),
        _wrapped("reset by:", f"{one['reset_authority']}; expires {show_time(one['expires_at'])}"),
        _wrapped("data health:", one["data_health"]),
        _wrapped("in force:", _in_force(found["limits"])),
        _wrapped("minute:", _seen(found["facts"])),
        _wrapped("before:", past),
        _wrapped("policy:", f"version {one['policy_version']} ({one['policy_sha256'][:12]}): {policy}"),
    ]
    if found["superseded"]:
        lines.append(_wrapped("note:", "a later run over this minute decided otherwise; this is what the log holds"))
    lines += [_wrapped("amended:", _amended(one["decision_id"], told)) for told in found["amendments"]]
    return "\n".join(lines)
