"""The breakers: what each one observes, when that is a breach or clean, and the sentence that says so.

Every breaker is the same machine (`guardrails.machine`) over one observed quantity. It opens at `enter`, its clean
condition is `exit`, and whatever keeps the quantity from being observed is its fault: the safe side, with that reason.
A breaker of scope venue judges one row per minute, symbol `*`, and its verdict counts for every symbol.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import polars as pl

from guardrails import machine, wording
from guardrails.facts import ALL, KEY, UTC_US, Shape
from guardrails.ladder import ACTIONS, MEANING, REDUCE_ONLY, severity
from guardrails.policy import FALLING, Breaker, Policy

CLEAR, MISSING, OFF = "clear", "missing", "off"
SYMBOL, VENUE = "symbol", "venue"
ROWS_AT_ONCE = 500_000  # what is worked on together: a call costs a fixed time, a row memory
Item = TypeVar("Item")
NEW_CARRY = {"clean_min": 0, "probation_min": None, "latched": False, "present_min": machine.NEVER}


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """One breaker's own part: `fact` is the column of `market_facts`, or for a venue of `venue_facts`, that it judges
    (its size counts, not its sign).
    """

    name: str
    fact: str
    unit: str
    faults: tuple[str, ...]  # columns that name what keeps the fact from being observed
    short: str  # the fault where every input is there but its window is not yet half full
    seen: Callable[[Policy], pl.Expr]  # "price moved -7.2 % against its 5-min mean"
    says: Callable[[float], str]  # a threshold in words
    bound: str = "band"  # what its threshold is called
    needs: tuple[str, ...] = ()  # tables without which it is off where the policy says the venue does not publish them
    scope: str = SYMBOL
    at_least: bool = False  # what is observed beside a fault is the least it can be: it may open, it never clears

    def lacks(self, policy: Policy) -> str:
        """The tables it needs that the venue is declared not to publish, "" where there is none."""
        return " and ".join(name.replace("_", " ") for name in self.needs if name in policy.inputs.not_published)

    def told_by(self, policy: Policy) -> list[str]:
        """The columns that its sentence reads."""
        return sorted(set(self.seen(policy).meta.root_names()))

    def limit(self, rule: Breaker) -> str:
        """The threshold that opens it: "band is 5.0 %"."""
        return f"{'floor' if self.name in FALLING else self.bound} is {self.says(rule.enter)}"

    def clean(self, rule: Breaker) -> str:
        """The clean condition: "within 2.5 %"."""
        side = "at or above" if self.name in FALLING else "within"
        return f"{side} {self.says(rule.exit)}"


def _moved(fact: str, window: str) -> Callable[[Policy], pl.Expr]:
    price = pl.when(pl.col("price").is_null()).then(pl.lit("mark (no trade)")).otherwise(pl.lit("price"))
    return lambda policy: wording.sentence(
        "{} moved {} against its {}-min mean",
        price,
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


def _ran(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "price moved {} in {} min, {} of the hour before",
        wording.percent_expr(pl.col("move_horizon")),
        pl.lit(str(policy.inputs.sigma_horizon_min)),
        wording.deviations_expr(pl.col("move_sigmas").abs()),
    )


def _forced(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "{} liquidated in {} min, {} the median depth within 100 bps",
        wording.usd_expr(pl.col("liq_window_usd").cast(pl.Float64)),
        pl.lit(str(policy.inputs.liquidation_window_min)),
        wording.times_expr(pl.col("liq_per_depth")),
    )


def _closed(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "open interest is {} below its {}-min maximum",
        wording.percent_expr(pl.col("oi_drop")),
        pl.lit(str(policy.inputs.oi_window_min)),
    )


def _faulty(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "the book was crossed, frozen or unchecked in {} of the last {} min",
        wording.percent_expr(pl.col("book_fault_share")),
        pl.lit(str(policy.inputs.book_window_min)),
    )


def _feeds_itself(_: Policy) -> pl.Expr:
    return wording.sentence(
        "a 1 % move would force {} of what the book within 1 % takes", wording.times_expr(pl.col("loop_gain"))
    )


def _silenced(_: Policy) -> pl.Expr:
    return wording.sentence("no symbol of the venue was heard for {}", wording.minutes_expr(pl.col("outage_min")))


def _depegged(_: Policy) -> pl.Expr:
    return wording.sentence(
        "collateral {} is {} below its peg",
        pl.col("asset").fill_null("of no name"),
        wording.percent_expr(pl.col("depeg")),
    )


def _drawn(policy: Policy) -> pl.Expr:
    hours, rest = divmod(policy.fund.window_min, 60)
    return wording.sentence(
        "the insurance fund is {} below its {} maximum",
        wording.percent_expr(pl.col("fund_drawdown")),
        pl.lit(f"{policy.fund.window_min}-min" if rest else f"{hours}-h"),
    )


def _spread(policy: Policy) -> pl.Expr:
    return wording.sentence(
        "{} of {} symbols are paused by their own breakers, {} of at least {}",
        pl.col("tripped").cast(pl.Int64),
        pl.col("listed").cast(pl.Int64),
        wording.percent_expr(pl.col("tripped_share")),
        pl.lit(str(policy.inputs.venue_symbols_min)),
    )


def _crowded(fact: str, whose: str) -> Callable[[Policy], pl.Expr]:
    return lambda _: wording.sentence(
        "open interest of {} is {} the depth within 100 bps", pl.lit(whose), wording.times_expr(pl.col(fact))
    )


PRICE, BAND = ("price_fault",), ("band_fault",)
RULES = (
    BreakerRule("price_band", "move_fast", "share", BAND, "price history short",
                _moved("move_fast", "reference_fast_min"), wording.percent),
    BreakerRule("price_band_hour", "move_slow", "share", BAND, "price history short",
                _moved("move_slow", "reference_slow_min"), wording.percent),
    BreakerRule("price_halt", "move_slow", "share", BAND, "price history short",
                _moved("move_slow", "reference_slow_min"), wording.percent),
    BreakerRule("mark_index_divergence", "divergence", "share", ("mark_fault", "index_fault"), "divergence missing",
                _diverged, wording.percent, "limit", needs=("index",)),
    BreakerRule("depth_collapse", "depth_ratio", "share", ("depth_fault",), "depth history short",
                _thinned, wording.percent, needs=("depth",)),
    BreakerRule("stale_feed", "feed_age_s", "s", ("feed_fault",), "feed age missing", _aged, wording.seconds, "limit"),
    BreakerRule("price_band_sigma", "move_sigmas", "sd", PRICE, "price history short", _ran, wording.deviations),
    BreakerRule("liquidation_rate", "liq_per_depth", "x", ("liq_fault",), "liquidations or depth history short",
                _forced, wording.times, "limit", needs=("liquidations", "depth")),
    BreakerRule("oi_drop", "oi_drop", "share", ("oi_fault",), "open interest history short", _closed,
                wording.percent, "limit", needs=("open_interest",)),
    BreakerRule("book_fault", "book_fault_share", "share", ("book_fault",), "book history short", _faulty,
                wording.percent, "limit", needs=("depth",)),
    BreakerRule("loop_gain", "loop_gain", "x", ("loop_fault",), "loop gain missing", _feeds_itself, wording.times,
                "limit", needs=("positions", "depth")),
    BreakerRule("outage", "outage_min", "min", (), "no feed heard", _silenced, wording.minutes, "limit", scope=VENUE),
    BreakerRule("collateral_depeg", "depeg", "share", ("depeg_fault",), "peg missing", _depegged, wording.percent,
                "limit", needs=("collateral",), scope=VENUE, at_least=True),
    BreakerRule("fund_drawdown", "fund_drawdown", "share", ("fund_fault",), "insurance fund missing", _drawn,
                wording.percent, "limit", needs=("fund",), scope=VENUE),
    BreakerRule("venue_wide", "tripped_share", "share", (), "no symbol listed", _spread, wording.percent, "limit",
                scope=VENUE),
    BreakerRule("open_interest_cap", "oi_per_book", "x", ("oi_fault", "depth_fault"), "open interest missing",
                _crowded("oi_per_book", "the symbol"), wording.times, "cap", needs=("open_interest", "depth")),
    BreakerRule("venue_cap", "venue_oi_per_book", "x", ("venue_fault",), "open interest missing",
                _crowded("venue_oi_per_book", "all symbols"), wording.times, "cap",
                needs=("open_interest", "depth")),
)  # fmt: skip


def in_groups(items: Sequence[Item], rows: int) -> Iterator[Sequence[Item]]:
    """`items` of `rows` rows each, in order, as many at once as keep to `ROWS_AT_ONCE` rows; one at least.

    >>> [len(group) for group in in_groups("abcde", 200_000)], len(list(in_groups("abcde", 900_000)))
    ([2, 2, 1], 5)
    >>> list(in_groups("abcde", 0))
    ['abcde']
    """
    size = max(ROWS_AT_ONCE // max(rows, 1), 1)
    for first in range(0, len(items), size):
        yield items[first : first + size]


def signals(facts: pl.DataFrame, card: BreakerRule, rule: Breaker) -> pl.DataFrame:
    """The key of `facts` with `rule`, `observed`, `fault`, and the exclusive Booleans `trip`, `clean`, `missing`.

    Beside them stands what the policy says of the rule: `WAITS`, how strict each state is, and what a verdict repeats.
    Written as the conditions that allow: what is not observed is missing, and what is not clean does not loosen.
    """
    observed = pl.col(card.fact).abs()
    fault = pl.coalesce(*card.faults, pl.when(observed.is_null()).then(pl.lit(card.short)))
    falling = card.name in FALLING
    trip = observed <= rule.enter if falling else observed >= rule.enter
    clean = observed >= rule.exit if falling else observed <= rule.exit
    finite = observed.is_finite().fill_null(False)
    valid = fault.is_null() & finite
    told = valid | (finite & trip) if card.at_least else valid
    return facts.select(
        *KEY,
        rule=pl.lit(card.name),
        observed=pl.when(told).then(observed.cast(pl.Float64)),
        fault=pl.when(told).then(None).otherwise(pl.coalesce(fault, pl.lit(card.short))),
        trip=(told & trip).fill_null(False),
        clean=(valid & clean).fill_null(False),
        missing=~told,
        **{name: pl.lit(value, machine.WAITS[name]) for name, value in machine.waits(rule).items()},
        severity_open=pl.lit(severity(rule.action), pl.Int64),
        severity_probation=pl.lit(severity(rule.probation_action), pl.Int64),
        severity_missing=pl.lit(severity(rule.missing_action), pl.Int64),
        threshold=pl.lit(rule.enter),
        unit=pl.lit(card.unit),
        reset_authority=pl.lit(rule.reset),
    )


def resets_by_minute(resets: pl.DataFrame | None, venue: str) -> pl.DataFrame:
    """Reset rows that somebody signed, as `rule, symbol, ts`: the first full minute not before they were made."""
    schema: Shape = {"rule": pl.String, "symbol": pl.String, "ts": UTC_US}
    if resets is None or resets.is_empty():
        return pl.DataFrame(schema=schema)
    here = resets.filter(pl.col("venue") == venue) if "venue" in resets.columns else resets
    signed = here.filter(pl.col("by").cast(pl.String).str.strip_chars().str.len_chars() > 0)
    minute = (pl.col("ts").cast(UTC_US) - pl.duration(microseconds=1)).dt.truncate("1m") + pl.duration(minutes=1)
    return signed.select("rule", "symbol", minute.alias("ts")).drop_nulls().unique()


def _with_resets(rows: pl.DataFrame, resets: pl.DataFrame) -> pl.DataFrame:
    if resets.is_empty():
        return rows.with_columns(reset=False)
    everywhere = resets.filter(pl.col("symbol") == ALL).select("rule", "ts", reset_all=True)
    here = resets.with_columns(reset=True)
    joined = rows.join(here, on=["rule", "symbol", "ts"], how="left", maintain_order="left").join(
        everywhere, on=["rule", "ts"], how="left", maintain_order="left"
    )
    return joined.with_columns(reset=pl.any_horizontal("reset", "reset_all").fill_null(False)).drop("reset_all")


def _with_carry(rows: pl.DataFrame, state: pl.DataFrame) -> pl.DataFrame:
    new = {name: pl.lit(NEW_CARRY[name], dtype) for name, dtype in machine.CARRY.items()}
    if state.is_empty():
        return rows.with_columns(**new)
    left = state.select("rule", "symbol", *(pl.col(name).cast(dtype) for name, dtype in machine.CARRY.items()))
    carried = rows.join(left, on=["rule", "symbol"], how="left", maintain_order="left")
    return carried.with_columns(pl.col(name).fill_null(default) for name, default in new.items())


def allowed(leverage_floor: float) -> pl.Expr:
    """Leverage of new positions under this verdict alone: null where it sets no limit."""
    paused = pl.col("severity") >= severity(REDUCE_ONLY)
    return pl.when(paused).then(0.0).when(pl.col("severity") > 0).then(leverage_floor)


def _severity() -> pl.Expr:
    by_state = (
        pl.when(pl.col("state") == machine.OPEN)
        .then("severity_open")
        .when(pl.col("state") == machine.HALF_OPEN)
        .then("severity_probation")
        .otherwise(0)
    )
    return pl.max_horizontal(by_state, pl.when("missing_held").then("severity_missing").otherwise(0))


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


def _told(verdicts: pl.DataFrame, facts: pl.DataFrame, cards: Sequence[BreakerRule], policy: Policy) -> pl.DataFrame:
    """`verdicts` with `reason` and `clears_when`; of every card, one row per row of `facts`.

    Sentences cost more than verdicts: only rows that need one get one.
    """
    numbered = verdicts.with_row_index("_row")
    speaking = numbered.filter((pl.col("state") != machine.CLOSED) | pl.col("missing_held"))
    by_rule = speaking.partition_by("rule", as_dict=True)
    told = [pl.DataFrame(schema={"_row": numbered.schema["_row"], "reason": pl.String, "clears_when": pl.String})]
    for card in cards:
        own = by_rule.get((card.name,))
        if own is not None:
            rule = policy.breakers[card.name]
            words = {"reason": _reason(card, rule, policy), "clears_when": clears_when(card, rule)}
            seen = facts.select(card.told_by(policy))[own["_row"] % facts.height]
            told.append(
                pl.concat([own.drop(seen.columns, strict=False), seen], how="horizontal").select("_row", **words)
            )
    return numbered.join(pl.concat(told), on="_row", how="left", maintain_order="left").drop("_row")


def _off(rows: pl.DataFrame, card: BreakerRule, rule: Breaker) -> pl.DataFrame:
    """Verdicts of a breaker whose table the venue does not publish: clear, with a carry as if it had never judged."""
    nothing: dict[str, pl.DataType | type[pl.DataType]] = {
        "limit": pl.Float64, "observed": pl.Float64,
        **dict.fromkeys(("fault", "reason", "clears_when"), pl.String),
    }  # fmt: skip
    return rows.select(
        *KEY,
        rule=pl.lit(card.name), state=pl.lit(OFF), verdict=pl.lit(CLEAR), severity=pl.lit(0, pl.Int64),
        limit_unit=pl.lit("x of new positions"), threshold=pl.lit(rule.enter), unit=pl.lit(card.unit),
        reset_authority=pl.lit(rule.reset),
        **{name: pl.lit(None, dtype) for name, dtype in nothing.items()},
        **{name: pl.lit(NEW_CARRY[name], dtype) for name, dtype in machine.CARRY.items()},
    )  # fmt: skip


def _judged(
    facts: pl.DataFrame,
    cards: Sequence[BreakerRule],
    policy: Policy,
    *,
    state: pl.DataFrame,
    resets: pl.DataFrame,
) -> dict[str, pl.DataFrame]:
    """The verdicts of `cards` in one table of machines, cut into one table per card."""
    rows = pl.concat([signals(facts, card, policy.breakers[card.name]) for card in cards])
    stepped = machine.step(_with_carry(_with_resets(rows, resets), state))
    told = _told(stepped.with_columns(severity=_severity()), facts, cards, policy)
    tripped = pl.col("state") != machine.CLOSED
    verdicts = told.select(
        *KEY, "rule",
        state=pl.when(tripped).then("state").when("missing_held").then(pl.lit(MISSING)).otherwise("state"),
        verdict=pl.when(tripped).then(pl.lit("tripped")).when("missing_held").then(pl.lit(MISSING)).otherwise(pl.lit(CLEAR)),
        severity="severity",
        limit=allowed(policy.caps.leverage_floor),
        limit_unit=pl.lit("x of new positions"),
        observed="observed", threshold="threshold", unit="unit", fault="fault",
        reason="reason", clears_when="clears_when", reset_authority="reset_authority",
        **{name: pl.col(name) for name in machine.CARRY},
    )  # fmt: skip
    return {card.name: verdicts.slice(number * facts.height, facts.height) for number, card in enumerate(cards)}


def judge(
    facts: pl.DataFrame,
    cards: Sequence[BreakerRule],
    policy: Policy,
    *,
    state: pl.DataFrame,
    resets: pl.DataFrame,
    after: datetime | None,
) -> dict[str, pl.DataFrame]:
    """By the name of each of `cards`, its verdict for every row of `facts` with `ts` after `after`, in their order.

    Returns the facts' key with `rule, state, verdict` (clear, missing, tripped), `severity`, `limit` (leverage of new
    positions, null = no limit), `observed, threshold, unit, fault, reason, clears_when, reset_authority` and the carry.

    Where the policy says that the venue does not publish a table the breaker needs, its state is `off` and its verdict
    clear, whatever `facts` hold. As many cards are judged at once as keep the rows below `ROWS_AT_ONCE`.
    """
    rows = facts if after is None else facts.filter(pl.col("ts") > after)
    off = [card for card in cards if card.lacks(policy)]
    judged = [card for card in cards if not card.lacks(policy)]
    verdicts = {card.name: _off(rows, card, policy.breakers[card.name]) for card in off}
    for some in in_groups(judged, rows.height):
        verdicts |= _judged(rows, some, policy, state=state, resets=resets)
    return {card.name: verdicts[card.name] for card in cards}
