"""Symbols that follow a lead: while its own breakers pause it, they are paused too. No state but the lead's."""

import polars as pl

from guardrails import machine, wording
from guardrails.breakers import CLEAR, MISSING, allowed
from guardrails.ladder import ACTIONS, MEANING, REDUCE_ONLY, severity
from guardrails.policy import Associated, Policy

ASSOCIATED = "associated"
PAIRS = {"symbol": pl.String, "lead": pl.String}


def leads_of(policy: Policy) -> pl.DataFrame:
    """`symbol, lead`: one row per symbol and lead it follows."""
    rows = [(symbol, lead) for lead, followers in policy.associated.leads.items() for symbol in followers]
    return pl.DataFrame(rows, schema=PAIRS, orient="row")


def _strictest_lead(rows: pl.DataFrame, leads: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Per row of `rows` that has leads, the one that decides: a paused one, the strictest first; then a missing one."""
    pairs = rows.join(leads_of(policy), on="symbol")
    known = leads.select("ts", lead="symbol", lead_severity="severity", lead_rule="rule")
    joined = pairs.join(known, on=["lead", "ts"], how="left")
    paused = pl.col("lead_severity") >= severity(REDUCE_ONLY)
    urgency = pl.when(paused).then(pl.col("lead_severity") + 1).when(pl.col("lead_severity").is_null()).then(1)
    ranked = joined.with_columns(urgency=urgency.otherwise(0)).sort(
        "symbol", "ts", "urgency", "lead", descending=[False, False, True, False]
    )
    return ranked.unique(["symbol", "ts"], keep="first", maintain_order=True)


def _worded(rule: Associated) -> dict[str, pl.Expr]:
    paused, lost = pl.col("urgency") > 1, pl.col("urgency") == 1
    says = pl.col("lead_severity").replace_strict(list(range(len(ACTIONS))), list(ACTIONS), return_dtype=pl.String)
    return {
        "fault": pl.when(lost).then(wording.sentence("lead {} missing", "lead")),
        "reason": pl.when(paused)
        .then(wording.sentence(
            "its lead {} is {} by {}; limit is {}; " + MEANING[rule.action] + "; clears after its lead",
            "lead", says, "lead_rule", pl.lit(REDUCE_ONLY)))
        .when(lost)
        .then(wording.sentence("lead {} missing; safe side: " + MEANING[rule.missing_action], "lead")),
        "clears_when": pl.when(paused)
        .then(wording.sentence("clears when the breakers of {} are milder than " + REDUCE_ONLY, "lead"))
        .when(lost)
        .then(wording.sentence("clears when {} has bars again", "lead")),
    }  # fmt: skip


def judge(rows: pl.DataFrame, leads: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """The verdict for every row of `rows` (`venue, symbol, ts`), in their order, as `breakers.judge` gives it.

    `leads`: `symbol, ts, severity, rule` of the leads, from their own breakers alone: what follows never leads. A lead
    without a row is missing: the safe side, `missing_action`.
    """
    rule = policy.associated
    found = rows.select("venue", "symbol", "ts").join(
        _strictest_lead(rows.select("symbol", "ts"), leads, policy),
        on=["symbol", "ts"],
        how="left",
        maintain_order="left",
    )
    paused, lost = (pl.col("urgency") > 1).fill_null(False), (pl.col("urgency") == 1).fill_null(False)
    ranked = found.with_columns(
        severity=pl.when(paused).then(severity(rule.action)).when(lost).then(severity(rule.missing_action)).otherwise(0)
    )
    return ranked.select(
        "venue", "symbol", "ts",
        rule=pl.lit(ASSOCIATED),
        state=pl.when(paused).then(pl.lit(machine.OPEN)).when(lost).then(pl.lit(MISSING)).otherwise(pl.lit(machine.CLOSED)),
        verdict=pl.when(paused).then(pl.lit("tripped")).when(lost).then(pl.lit(MISSING)).otherwise(pl.lit(CLEAR)),
        severity=pl.col("severity").cast(pl.Int64),
        limit=allowed(policy.caps.leverage_floor),
        limit_unit=pl.lit("x of new positions"),
        observed=pl.col("lead_severity").cast(pl.Float64), threshold=pl.lit(float(severity(REDUCE_ONLY))),
        unit=pl.lit("rung of the ladder"), reset_authority=pl.lit("the lead's"), **_worded(rule),
    )  # fmt: skip
