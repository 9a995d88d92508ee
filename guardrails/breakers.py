"""The breakers: what each one observes, when that is a breach or clean, and the sentence that says so.

Every breaker is the same machine (`guardrails.machine`) over one observed quantity. It opens at `enter`, its clean
condition is `exit`, and whatever keeps the quantity from being observed is its fault: the safe side, with that reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from guardrails import machine, wording
from guardrails.facts import UTC_US, Shape
from guardrails.ladder import ACTIONS, MEANING, REDUCE_ONLY, severity
from guardrails.policy import FALLING, Breaker, Policy

CLEAR, MISSING = "clear", "missing"
NEW_CARRY = {"clean_min": 0, "probation_min": None, "latched": False, "present_min": machine.NEVER}


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """One breaker's own part: `fact` is the column of `market_facts` it judges (its size counts, not its sign)."""

    name: str
    fact: str
    unit: str
    faults: tuple[str, ...]  # columns that name what keeps the fact from being observed
    short: str  # the fault where every input is there but its window is not yet half full
    seen: Callable[[Policy], pl.Expr]  # "price moved -7.2 % against its 5-min mean"
    says: Callable[[float], str]  # a threshold in words
    bound: str = "band"  # what its threshold is called

    def limit(self, rule: Breaker) -> str:
        """The threshold that opens it: "band is 5.0 %"."""
        return f"{'floor' if self.name in FALLING else self.bound} is {self.says(rule.enter)}"

    def clean(self, rule: Breaker) -> str:
        """The clean condition: "within 2.5 %"."""
        side = "at or above" if self.name in FALLING else "within"
        return f"{side} {self.says(rule.exit)}"


def _moved(fact: str, window: str) -> Callable[[Policy], pl.Expr]:
    return lambda policy: wording.sentence(
        "price moved {} against its {}-min mean",
        wording.percent_expr(pl.col(fact)),
        pl.lit(str(getattr(policy.inputs, window))),
    )


def _diverged(_: Policy) -> pl.Expr:
    mark = pl.when(pl.col("mark_source") == "venue").then(pl.lit("mark")).otherwise(pl.lit("last trade (no mark)"))
    return wording.sentence("{} is {} from the index", mark, wording.percent_expr(pl.col("divergence")))


def _thinned(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "depth within 100 bps is {}, {} of its {}-min median",
        wording.usd_expr(pl.col("depth_usd")),
        wording.percent_expr(pl.col("depth_ratio")),
        pl.lit(str(policy.inputs.depth_normal_min)),
    )


def _aged(_: Policy) -> pl.Expr:
    return wording.sentence("oldest feed is {} old", wording.seconds_expr(pl.col("feed_age_s")))


PRICE = ("price_fault",)
RULES = (
    BreakerRule("price_band", "move_fast", "share", PRICE, "price history short",
                _moved("move_fast", "reference_fast_min"), wording.percent),
    BreakerRule("price_band_hour", "move_slow", "share", PRICE, "price history short",
                _moved("move_slow", "reference_slow_min"), wording.percent),
    BreakerRule("price_halt", "move_slow", "share", PRICE, "price history short",
                _moved("move_slow", "reference_slow_min"), wording.percent),
    BreakerRule("mark_index_divergence", "divergence", "share", ("mark_fault", "index_fault"), "divergence missing",
                _diverged, wording.percent, "limit"),
    BreakerRule("depth_collapse", "depth_ratio", "share", ("depth_fault",), "depth history short",
                _thinned, wording.percent),
    BreakerRule("stale_feed", "feed_age_s", "s", ("feed_fault",), "feed age missing", _aged, wording.seconds, "limit"),
)  # fmt: skip


def signals(facts: pl.DataFrame, card: BreakerRule, rule: Breaker) -> pl.DataFrame:
    """`facts` with `observed`, `fault`, and the exclusive Booleans `trip`, `clean`, `missing` of one breaker.

    Written as the conditions that allow: what is not observed is missing, and what is not clean does not loosen.
    """
    observed = pl.col(card.fact).abs()
    fault = pl.coalesce(*card.faults, pl.when(observed.is_null()).then(pl.lit(card.short)))
    falling = card.name in FALLING
    trip = observed <= rule.enter if falling else observed >= rule.enter
    clean = observed >= rule.exit if falling else observed <= rule.exit
    valid = fault.is_null() & observed.is_finite().fill_null(False)
    return facts.with_columns(
        observed=pl.when(valid).then(observed),
        fault=pl.when(valid).then(None).otherwise(pl.coalesce(fault, pl.lit(card.short))),
        trip=(valid & trip).fill_null(False),
        clean=(valid & clean).fill_null(False),
        missing=~valid,
    )


def resets_by_minute(resets: pl.DataFrame | None, venue: str) -> pl.DataFrame:
    """Reset rows that somebody signed, as `rule, symbol, ts`: the first full minute not before they were made."""
    schema: Shape = {"rule": pl.String, "symbol": pl.String, "ts": UTC_US}
    if resets is None or resets.is_empty():
        return pl.DataFrame(schema=schema)
    here = resets.filter(pl.col("venue") == venue) if "venue" in resets.columns else resets
    signed = here.filter(pl.col("by").cast(pl.String).str.strip_chars().str.len_chars() > 0)
    minute = (pl.col("ts") - pl.duration(microseconds=1)).dt.truncate("1m") + pl.duration(minutes=1)
    return signed.select("rule", "symbol", minute.cast(UTC_US).alias("ts")).drop_nulls().unique()


def _with_resets(rows: pl.DataFrame, name: str, resets: pl.DataFrame) -> pl.DataFrame:
    own = resets.filter(pl.col("rule") == name)
    everywhere = own.filter(pl.col("symbol") == "*")["ts"].implode()
    here = own.select("symbol", "ts", pl.lit(True).alias("reset"))
    joined = rows.join(here, on=["symbol", "ts"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("reset").fill_null(False) | pl.col("ts").is_in(everywhere))


def _with_carry(rows: pl.DataFrame, state: pl.DataFrame) -> pl.DataFrame:
    carried = rows.join(state.select("symbol", *machine.CARRY), on="symbol", how="left", maintain_order="left")
    default = [
        pl.col(name).cast(dtype) if NEW_CARRY[name] is None else pl.col(name).cast(dtype).fill_null(NEW_CARRY[name])
        for name, dtype in machine.CARRY.items()
    ]
    return carried.with_columns(default)


def _allowed(leverage_floor: float) -> pl.Expr:
    """Leverage of new positions under this verdict alone: null where it sets no limit."""
    paused = pl.col("severity") >= severity(REDUCE_ONLY)
    return pl.when(paused).then(0.0).when(pl.col("severity") > 0).then(leverage_floor)


def _severity(rule: Breaker) -> pl.Expr:
    by_state = (
        pl.when(pl.col("state") == machine.OPEN)
        .then(severity(rule.action))
        .when(pl.col("state") == machine.HALF_OPEN)
        .then(severity(rule.probation_action))
        .otherwise(0)
    )
    by_fault = pl.when("missing_held").then(severity(rule.missing_action)).otherwise(0)
    return pl.max_horizontal(by_state, by_fault)


def _reset_words(rule: Breaker) -> str:
    return " and a person's reset" if rule.reset == "person" else ""


def clears_when(card: BreakerRule, rule: Breaker) -> pl.Expr:
    """What would clear the verdict, in one sentence; null where there is nothing to clear."""
    back = f"after {rule.cool_down_min} min {card.clean(rule)}{_reset_words(rule)}"
    return (
        pl.when(pl.col("state") == machine.OPEN)
        .then(pl.lit(f"clears {back}, then {rule.probation_min} min of probation"))
        .when(pl.col("state") == machine.HALF_OPEN)
        .then(pl.lit(f"clears after {rule.probation_min} min of probation {card.clean(rule)}"))
        .when("missing_held")
        .then(pl.lit(f"clears after {rule.missing_hold_min} min with the input present"))
    )


def _reason(card: BreakerRule, rule: Breaker, policy: Policy) -> pl.Expr:
    seen = pl.when(pl.col("fault").is_null()).then(card.seen(policy)).otherwise(pl.col("fault"))
    meaning = pl.col("severity").replace_strict(list(range(len(ACTIONS))), [MEANING[word] for word in ACTIONS])
    back = f"clears after {rule.cool_down_min} min {card.clean(rule)}{_reset_words(rule)}"
    returned = wording.sentence(
        "input present for {} of {} min", pl.col("present_min"), pl.lit(str(rule.missing_hold_min))
    )
    return (
        pl.when(pl.col("state") == machine.OPEN)
        .then(wording.sentence("{}; {}; {}; {}", seen, pl.lit(card.limit(rule)), meaning, pl.lit(back)))
        .when(pl.col("state") == machine.HALF_OPEN)
        .then(wording.sentence("{}; {}; on probation, {}", seen, pl.lit(card.limit(rule)), meaning))
        .when("missing_held")
        .then(wording.sentence("{}; safe side: {}", pl.coalesce("fault", returned), meaning))
    )


def judge(
    facts: pl.DataFrame,
    card: BreakerRule,
    policy: Policy,
    *,
    state: pl.DataFrame,
    resets: pl.DataFrame,
    after: datetime | None,
) -> pl.DataFrame:
    """The verdict of one breaker for every row of `facts` with `ts` after `after`.

    Returns the facts' key with `rule, state, verdict` (clear, missing, tripped), `severity`, `limit` (leverage of new
    positions, null = no limit), `observed, threshold, unit, fault, reason, clears_when, reset_authority` and the carry.
    """
    rule = policy.breakers[card.name]
    rows = signals(facts, card, rule)
    rows = rows if after is None else rows.filter(pl.col("ts") > after)
    own = state.filter(pl.col("rule") == card.name)
    stepped = machine.step(_with_carry(_with_resets(rows, card.name, resets), own), rule)
    ranked = stepped.with_columns(severity=_severity(rule))
    tripped = pl.col("state") != machine.CLOSED
    return ranked.select(
        "venue", "symbol", "ts",
        rule=pl.lit(card.name),
        state=pl.when(tripped).then("state").when("missing_held").then(pl.lit(MISSING)).otherwise("state"),
        verdict=pl.when(tripped).then(pl.lit("tripped")).when("missing_held").then(pl.lit(MISSING)).otherwise(pl.lit(CLEAR)),
        severity="severity",
        limit=_allowed(policy.caps.leverage_floor),
        limit_unit=pl.lit("x of new positions"),
        observed="observed", threshold=pl.lit(rule.enter), unit=pl.lit(card.unit), fault="fault",
        reason=_reason(card, rule, policy), clears_when=clears_when(card, rule),
        reset_authority=pl.lit(rule.reset),
        **{name: pl.col(name) for name in machine.CARRY},
    )  # fmt: skip
