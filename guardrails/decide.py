"""From bars to limits and decisions: every rule is judged, the strictest wins, every reason is kept.

No score enters here: the only inputs are what was observed, what the policy says, and what a person has reset.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import polars as pl

from guardrails import accounts, associated, breakers, caps, exposures, machine, validity
from guardrails import holdings as observed
from guardrails.facts import ALL, KEY, UTC_US, Shape, checked, facts_on, first_rows, on_every_minute
from guardrails.known import LOOP_GAIN, with_told
from guardrails.ladder import ACTIONS
from guardrails.policy import LOOKBACK_MIN, Policy
from guardrails.reported import with_account_faults
from guardrails.throttle import throttle
from guardrails.venue import venue_facts, with_tripped_share

RULES = (*(card.name for card in breakers.RULES), associated.ASSOCIATED, caps.LEVERAGE_CAP, caps.EXPOSURE_CAP)
LIMITS: Shape = {
    "venue": pl.String,
    "symbol": pl.String,
    "ts": UTC_US,
    "action": pl.String,
    "leverage_cap": pl.Float64,
    "exposure_cap_usd": pl.Int64,
    "binding": pl.String,  # the rule that decides
    "reason": pl.String,  # its sentence
    "reasons": pl.String,  # the sentences of all rules that are not clear, by rule name, joined by " | "
    "missing": pl.String,  # the inputs that are missing now, joined by ", "
    "expires_at": UTC_US,
    "policy_version": pl.Int64,
    "policy_sha256": pl.String,
    "throttle_usd_min": pl.Int64,  # dollars that may be forced in the next minute
    "throttle_reason": pl.String,  # why, where it is not the most
    **validity.COLUMNS,  # the actions that a data fault blocks, joined by ", ", and why
}
DECISIONS: Shape = {
    "decision_id": pl.String,
    "venue": pl.String,
    "scope": pl.String,  # symbol, or venue: it counts for every symbol of it
    "entity": pl.String,  # the symbol; `*` where the scope is the venue
    "ts": UTC_US,
    "rule": pl.String,
    "state_before": pl.String,  # null: the rule had no verdict on this symbol before
    "state_after": pl.String,
    "action": pl.String,
    "limit_before": pl.Float64,
    "limit_after": pl.Float64,  # null: this rule sets no limit
    "limit_unit": pl.String,
    "observed": pl.Float64,
    "threshold": pl.Float64,
    "unit": pl.String,
    "reason": pl.String,
    "clears_when": pl.String,
    "reset_authority": pl.String,
    "expires_at": UTC_US,
    "data_health": pl.String,
    "policy_version": pl.Int64,
    "policy_sha256": pl.String,
}
STATE: Shape = {
    "venue": pl.String,
    "symbol": pl.String,  # `*` for the rules of the venue
    "rule": pl.String,
    "ts": UTC_US,
    "state": pl.String,
    "severity": pl.Int64,
    "limit": pl.Float64,
    **machine.CARRY,
    "first_ts": UTC_US,  # the symbol's first minute ever: after it, a minute without a bar is a gap
}
COMPARED = ("state", "severity", "limit")  # of a verdict: where one of them changes, that is a decision
CLEAR_WORDS = "all rules are clear"
MINUTE = timedelta(minutes=1)
Verdicts: TypeAlias = dict[str, pl.DataFrame]  # by rule


@dataclass(frozen=True, slots=True)
class Decided:
    """What `decide` returns; columns are `LIMITS`, `DECISIONS`, `accounts.SCHEMA`, `exposures.SCHEMA`, `STATE`."""

    limits: pl.DataFrame
    decisions: pl.DataFrame
    account_decisions: pl.DataFrame
    exposure_decisions: pl.DataFrame
    state: pl.DataFrame


def empty_state() -> pl.DataFrame:
    """The state before the first run."""
    return pl.DataFrame(schema=STATE)


def _first_minutes(bars: pl.DataFrame, state: pl.DataFrame) -> pl.DataFrame:
    """The first minute ever of every symbol of `bars` and of `state`: `symbol, first_ts`."""
    seen = first_rows(bars).select("symbol", first_ts=pl.col("start").cast(UTC_US))
    known = state.filter(pl.col("symbol") != ALL).select("symbol", first_ts=pl.coalesce("first_ts", "ts"))
    return pl.concat([seen, known]).group_by("symbol").agg(pl.col("first_ts").min()).sort("symbol")


def _starts(firsts: pl.DataFrame, after: datetime | None, since: datetime | None) -> pl.DataFrame:
    """The first minute to compute for every symbol: `symbol, start`.

    With a state, the first of the `LOOKBACK_MIN` minutes before `since`, or the symbol's own first if that is later: a
    minute without a bar is a gap there, and must hold back a cap as long as it does in one run over the whole.
    """
    if after is None:
        return firsts.select("symbol", start="first_ts")
    earliest = min(after + MINUTE, (after if since is None else since) - timedelta(minutes=LOOKBACK_MIN) + MINUTE)
    return firsts.select("symbol", start=pl.max_horizontal("first_ts", pl.lit(earliest, UTC_US)))


def _resume_after(state: pl.DataFrame, since: datetime | None, venue: str) -> datetime | None:
    """The minute the state speaks for; None without a state.

    Raises ValueError where the state is another venue's, holds more than one minute, or is later than `since`.
    """
    if state.is_empty():
        return None
    if state["venue"].unique().to_list() != [venue]:
        raise ValueError(f"`state` must be of venue {venue}, was of {state['venue'].unique().sort().to_list()}")
    stamps = state["ts"].unique().to_list()
    if len(stamps) != 1:
        raise ValueError(f"`state` must speak for one minute, spoke for {len(stamps)}")
    after: datetime = stamps[0]
    if since is not None and since < after:
        raise ValueError(f"`since` must not be before the state's {after}, was {since}")
    return after


def _with_strictest(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """`rows` with `decides`, the name of the one of `names` that decides the action; null where every severity is 0.

    The strictest action first; a breach before a missing input; then by name, so that the order of rules is
    irrelevant.
    """
    ordered = sorted(names)
    ranks = [
        pl.col(f"{name}:severity") * 2 + (pl.col(f"{name}:verdict") == "tripped").cast(pl.Int64) for name in ordered
    ]
    ranked = rows.with_columns(top=pl.max_horizontal(ranks))
    first = pl.min_horizontal(
        pl.when((rank == pl.col("top")) & (pl.col(f"{name}:severity") > 0)).then(number)
        for number, (name, rank) in enumerate(zip(ordered, ranks, strict=True))
    )
    named = first.replace_strict(range(len(ordered)), ordered, return_dtype=pl.String)
    return ranked.with_columns(decides=named).drop("top")


def _own(verdicts: Verdicts) -> pl.DataFrame:
    """`venue, symbol, ts`, `severity` of the strictest of every symbol's own breakers, and what tells which that is."""
    wide = _beside(verdicts, ("severity", "verdict"))
    return wide.with_columns(severity=pl.max_horizontal(*(f"{name}:severity" for name in verdicts)))


def _leads(own: pl.DataFrame, names: list[str], policy: Policy) -> pl.DataFrame:
    """The rows of the symbols that lead others, with the `rule` that decides; null where they are normal."""
    mine = own.filter(pl.col("symbol").is_in(list(policy.associated.leads)))
    return _with_strictest(mine, names).select("symbol", "ts", "severity", rule="decides")


def _observed(facts: pl.DataFrame, given: Mapping[str, pl.DataFrame | None], policy: Policy) -> dict[str, pl.DataFrame]:
    """What positions and collateral say where nothing else is `given`; `peg_prices` is what the margin add-on reads."""
    minutes, positions, collateral = facts["ts"], given["positions"], given["collateral"]
    found = {"peg_prices": observed.pegs(collateral, None, minutes, policy)}
    if given["holdings"] is None and positions is not None and not positions.is_empty():
        found["holdings"] = observed.loop_gain(positions, collateral, given["tiers"], facts, policy)
    if collateral is not None and not collateral.is_empty():
        found |= {"pegs": found["peg_prices"]} if given["pegs"] is None else {}
        found |= {"fund": observed.fund(collateral, minutes, policy)} if given["fund"] is None else {}
    return found


def _judged(
    facts: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame | None],
    policy: Policy,
    *,
    state: pl.DataFrame,
    resets: pl.DataFrame,
    after: datetime | None,
) -> tuple[Verdicts, Verdicts]:
    """Verdicts by rule: of the symbols' rules, every table with the same rows in the same order, and of the venue's.

    First every symbol's own breakers; then what follows from them: the venue as a whole and associated symbols.
    """

    def judged(scope: str, rows: pl.DataFrame) -> Verdicts:
        cards = [card for card in breakers.RULES if card.scope == scope]
        return breakers.judge(rows, cards, policy, state=state, resets=resets, after=after)

    rows = with_told(facts, tables["holdings"], LOOP_GAIN, policy.inputs.positions_age_min_max)
    symbol = judged(breakers.SYMBOL, rows)
    own = _own(symbol)
    whole = venue_facts(facts, policy, pegs=tables["pegs"], fund=tables["fund"])
    whole = with_tripped_share(whole, facts, own, policy)
    venue = judged(breakers.VENUE, whole)
    leverage, exposure = caps.judge(facts, tables["tiers"], policy, after, tables["peg_prices"])
    symbol[associated.ASSOCIATED] = associated.judge(own, _leads(own, list(symbol), policy), policy)
    return {**symbol, caps.LEVERAGE_CAP: leverage, caps.EXPOSURE_CAP: exposure}, venue


def _with_binding(wide: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """`wide` with `binding` and `reason`, name and sentence of the rule that decides.

    With no action it is the first cap that is not clear, and "none" without one.
    """
    bound = pl.coalesce(
        "decides",
        *(
            pl.when(pl.col(f"{cap}:verdict") != breakers.CLEAR).then(pl.lit(cap))
            for cap in (caps.LEVERAGE_CAP, caps.EXPOSURE_CAP)
        ),
        pl.lit("none"),
    )
    reason = pl.lit(CLEAR_WORDS)
    for name in names:
        reason = pl.when(pl.col("binding") == name).then(f"{name}:reason").otherwise(reason)
    return _with_strictest(wide, names).with_columns(binding=bound).with_columns(reason=reason)


def _beside(verdicts: Verdicts, columns: tuple[str, ...]) -> pl.DataFrame:
    """The verdicts' common key, and beside it their columns as `rule:column`."""
    frames = [frame.select(pl.col(columns).name.prefix(f"{name}:")) for name, frame in sorted(verdicts.items())]
    return pl.concat([next(iter(verdicts.values())).select(KEY), *frames], how="horizontal")


def _wide(symbol: Verdicts, venue: Verdicts) -> pl.DataFrame:
    """One row per symbol and minute with the verdicts of all rules; the venue's stand on every symbol's row."""
    columns = ("severity", "verdict", "reason", "limit", "fault")
    whole = _beside(venue, columns).drop("venue", "symbol")
    return _beside(symbol, columns).join(whole, on="ts", how="left", maintain_order="left")


def _missing_inputs(names: list[str]) -> pl.Expr:
    """Every fault once, in the order of rule names."""
    joined = pl.concat_str(*(f"{name}:fault" for name in names), separator=", ", ignore_nulls=True)
    once = joined.str.split(", ").list.unique(maintain_order=True).list.join(", ")
    return pl.when(joined.str.len_chars() > 0).then(once)


def _stamp(policy: Policy) -> dict[str, pl.Expr]:
    return {
        "expires_at": pl.col("ts") + pl.duration(minutes=policy.ttl_min),
        "policy_version": pl.lit(policy.version),
        "policy_sha256": pl.lit(policy.sha256),
    }


def _limits(
    wide: pl.DataFrame, names: list[str], facts: pl.DataFrame, flow: pl.DataFrame, policy: Policy
) -> pl.DataFrame:
    worst = pl.max_horizontal(*(f"{name}:severity" for name in names))
    leverage = pl.col(f"{caps.LEVERAGE_CAP}:limit")
    floored = pl.min_horizontal(leverage, policy.caps.leverage_floor)
    reasons = pl.concat_str(*(f"{name}:reason" for name in names), separator=" | ", ignore_nulls=True)
    return (
        validity.with_validity(_with_binding(wide, names), facts, policy)
        .join(flow, on=list(KEY), how="left", maintain_order="left")
        .with_columns(
            action=worst.replace_strict(list(range(len(ACTIONS))), list(ACTIONS), return_dtype=pl.String),
            leverage_cap=pl.when(worst > 0).then(floored).otherwise(leverage),
            exposure_cap_usd=f"{caps.EXPOSURE_CAP}:limit",
            reasons=pl.when(reasons.str.len_chars() > 0).then(reasons).otherwise(pl.lit(CLEAR_WORDS)),
            missing=_missing_inputs(names),
            **_stamp(policy),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in LIMITS.items())
    )  # fmt: skip


def _together(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """`frames` of verdicts in as few tables as their size allows."""
    rows = max(frame.height for frame in frames)
    return [_stacked(some) for some in breakers.in_groups(frames, rows)]


def _stacked(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """`frames` of verdicts below each other; what only breakers carry is null for the others."""
    return pl.concat(frames, how="diagonal_relaxed")


def _changed(verdicts: pl.DataFrame, state: pl.DataFrame) -> pl.DataFrame:
    """The rows whose state, severity or limit is not that of the row before, which stands beside as `state_before` ...

    Before the first row of a rule and symbol stands what `state` carries. `verdicts`: together what is of one rule, in
    it what is of one symbol, by time.
    """

    def changes() -> pl.Expr:
        return pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in COMPARED)

    beside = verdicts.with_columns(pl.col(COMPARED).shift(1).name.suffix("_before"), first=machine.first_of_each())
    left = state.select("rule", "symbol", pl.col(COMPARED).name.suffix("_left"))
    few = beside.filter(pl.col("first") | changes()).join(left, on=["rule", "symbol"], how="left")
    return few.with_columns(
        pl.when("first").then(f"{name}_left").otherwise(f"{name}_before").alias(f"{name}_before") for name in COMPARED
    ).filter(changes())


def _ids(changes: pl.DataFrame) -> pl.Series:
    """A hash of what makes a decision that decision; one per change, of which there are few."""
    named = ("venue", "entity", "rule", "state_before", "state_after", "action", "limit_before", "limit_after")
    parts = [pl.col(name).cast(pl.String).fill_null("null") for name in (*named, "policy_sha256")]
    content = changes.select(pl.concat_str(pl.col("ts").dt.epoch("us"), *parts, separator="|")).to_series()
    return pl.Series("decision_id", [hashlib.sha256(text.encode()).hexdigest()[:20] for text in content], pl.String)


def _said_of_clear(policy: Policy) -> pl.Expr:
    """What is said of a verdict that has no reason of its own: that the rule is clear, or why it is off."""
    lacking = {card.name: card.lacks(policy) for card in breakers.RULES if card.lacks(policy)}
    off = pl.lit("off: ") + pl.col("rule").replace_strict(lacking, default=None, return_dtype=pl.String)
    said = pl.coalesce(off + " not published here", pl.lit("clear"))
    return pl.col("rule").str.replace_all("_", " ", literal=True) + " is " + said


def _decisions(changes: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    action = pl.col("severity").replace_strict(list(range(len(ACTIONS))), list(ACTIONS), return_dtype=pl.String)
    told = changes.with_columns(
        scope=pl.when(pl.col("symbol") == ALL).then(pl.lit(breakers.VENUE)).otherwise(pl.lit(breakers.SYMBOL)),
        entity="symbol", state_after="state", limit_after="limit", action=action,
        reason=pl.col("reason").fill_null(_said_of_clear(policy)),
        clears_when=pl.col("clears_when").fill_null("nothing to clear"),
        data_health=pl.when(pl.col("fault").is_null()).then(pl.lit("ok")).otherwise("fault"),
        **_stamp(policy),
    )  # fmt: skip
    ordered = told.sort("ts", "symbol", "rule")
    identified = ordered.with_columns(_ids(ordered))
    return identified.select(pl.col(name).cast(dtype) for name, dtype in DECISIONS.items())


def _state(last: pl.DataFrame, firsts: pl.DataFrame) -> pl.DataFrame:
    dated = last.join(firsts, on="symbol", how="left")
    return dated.select(pl.col(name).cast(dtype) for name, dtype in STATE.items()).sort("symbol", "rule")


def _nothing(state: pl.DataFrame) -> Decided:
    return Decided(
        pl.DataFrame(schema=LIMITS),
        pl.DataFrame(schema=DECISIONS),
        pl.DataFrame(schema=accounts.SCHEMA),
        pl.DataFrame(schema=exposures.SCHEMA),
        state,
    )


def decide(
    bars: pl.DataFrame,
    policy: Policy,
    *,
    positions: pl.DataFrame | None = None,
    collateral: pl.DataFrame | None = None,
    tiers: pl.DataFrame | None = None,
    holdings: pl.DataFrame | None = None,
    pegs: pl.DataFrame | None = None,
    fund: pl.DataFrame | None = None,
    state: pl.DataFrame | None = None,
    resets: pl.DataFrame | None = None,
    since: datetime | None = None,
) -> Decided:
    """Judge one venue's bars: limits for every symbol and minute, and a decision wherever a verdict changes.

    - `bars`: rows of the bars table; with `since`, `LOOKBACK_MIN` minutes before it too, which serve the windows.
    - `positions`, `collateral`: rows of these tables; `collateral` may carry `price_usd` for assets not at par.
    - `tiers`: `symbol, leverage_max, maintenance_rate, deduction_usd`, one row per tier.
    - `holdings`: `symbol, ts, loop_gain, loop_fault`, USD that a move of 1 % would force per USD of book that takes it;
      `pegs`: `ts, depeg, depeg_fault, asset`, the share of its peg that the worst collateral in use has lost;
      `fund`: `ts, fund_drawdown, fund_fault`, the share of the insurance fund's 24-hour maximum that is gone.
      Each is known at its `ts` and counts until the next row or its age limit; with `since`, the rows of its age limit
      before it too. Absent, it is taken from positions and collateral, and without those it is missing, unless the
      policy says that the venue does not publish it.
    - `state`: what the call before returned. Two calls over (a, b] and (b, c] give the rows of one call over (a, c].
    - `resets`: `rule, symbol, ts, by`; symbol `*` means all. A reset counts in its minute only: once cool-down is over.
    - `since`: only rows after it are given out (default: all, or all after the state).

    A minute counts when any symbol of the venue has a bar in it; a symbol without one is judged on missing inputs.

    Raises ValueError for bars with null or repeated keys, several venues or times off the minute, for `holdings`,
    `pegs` and `fund` with null or repeated keys, and for a state of another venue or later than `since`.
    """
    carried = empty_state() if state is None else state
    if bars.is_empty():
        return _nothing(carried)
    venue = checked(bars)["venue"][0]
    after = _resume_after(carried, since, venue)
    end: datetime = bars["ts"].max()  # type: ignore[assignment]  # a datetime: the table is not empty
    if after is not None and end <= after:
        return _nothing(carried)
    firsts = _first_minutes(bars, carried)
    facts = exposures.with_open_interest(facts_on(on_every_minute(bars, _starts(firsts, after, since)), policy), policy)
    told = {"holdings": holdings, "pegs": pegs, "fund": fund}
    given = told | {"positions": positions, "collateral": collateral, "tiers": tiers}
    tables = given | _observed(facts, given, policy)
    signed = breakers.resets_by_minute(resets, venue)
    symbol, whole = _judged(facts, tables, policy, state=carried, resets=signed, after=after)
    ticks = bars["ts"].unique()
    flow = throttle(facts, bars, policy).select(*KEY, throttle_usd_min="left_usd", throttle_reason="reason")
    reported = with_account_faults(facts, positions, collateral, policy)
    ticked = pl.col("ts").is_in(ticks.implode())
    groups = _together([*symbol.values(), *whole.values()])
    limits = _limits(_wide(symbol, whole).filter(ticked), sorted([*symbol, *whole]), reported, flow, policy)
    decisions = _decisions(_stacked(_changed(rows.filter(ticked), carried) for rows in groups), policy)
    if since is not None:
        limits, decisions = limits.filter(pl.col("ts") > since), decisions.filter(pl.col("ts") > since)
    priced = limits.join(facts.select(*KEY, "price"), on=KEY, how="left")
    new = since if since is not None else after
    over = accounts.over_caps(positions, collateral, priced, ticks, policy, since=new)
    crowded = exposures.over_limits(positions, collateral, facts, ticks, policy, since=new)
    return Decided(
        limits.sort(KEY),
        decisions,
        over,
        crowded,
        _state(_stacked(rows.filter(pl.col("ts") == end) for rows in groups), firsts),
    )
