"""Worked examples: comment lines of a policy that say what a rule does with a number, run through that rule.

    #> price_band: observed 5 % -> open, reduce_only
    #> price_band: observed 5 % then observed 2 % for 10 min -> half_open, cautious
    #> leverage_cap: tier 20, volatility_1h 5 %, depth_ratio 100 %, oi_per_depth 50 -> 5 x

A line is `#> RULE: MINUTES [then MINUTES]... -> RESULT`. `MINUTES` is what is seen in one minute, or `for N min`: every
input of the rule by name with a number and its unit, or `missing`; after `then` only what changes, and `reset` for a
person's signature in these minutes. The rule starts closed. `RESULT` is what holds after the last minute.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl

from guardrails import accounts, breakers, caps, machine
from guardrails.facts import UTC_US, Shape, market_facts
from guardrails.ladder import ACTIONS
from guardrails.policy import Policy

START = datetime(2000, 1, 1, tzinfo=UTC)  # any minute: a rule counts minutes, it does not know dates
MINUTES_MAX = 10_080
VENUE, SYMBOL, PERSON = "example", "example", "example"
HOLDS_NOTHING = "inside"
ACCOUNT_CEILING = "account_ceiling"
LINE = re.compile(r"\s*#\s*>(?P<text>.*)")
SHAPE = re.compile(r"(?P<rule>\w+): (?P<seen>.+?) -> (?P<result>.+)")
PART = re.compile(r"(?P<inputs>.+?)(?: for (?P<minutes>\d+) min)?")
INPUT = re.compile(r"(?P<name>\w+) (?P<value>.+)")
AMOUNT = re.compile(r"(?P<number>-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?) ?(?P<unit>[a-zA-Z%]*)")
HOW = "write `#> rule: input value, input value -> result`"


class ExampleError(ValueError):
    """An example that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What one minute of an example shows: every input of the rule (None: missing), and whether a person resets."""

    inputs: Mapping[str, float | None]
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example of a policy's comments; `line` is 1 for the first line of the text."""

    line: int
    rule: str
    seen: str
    minutes: tuple[Minute, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Checked:
    """`held`: how many examples of a rule came out as written; `violations`: a sentence for each of the others."""

    held: Mapping[str, int]
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """How examples of one rule are read and run: units of its inputs, its result as written, the rule itself.

    `run` is given the policy, the minutes, and a table of facts without rows, whose columns it fills.
    """

    inputs: Mapping[str, str]
    says: Callable[[str], str]
    run: Callable[[Policy, Sequence[Minute], pl.DataFrame], str]


# --- reading ---


def amount(text: str, unit: str) -> float:
    """The number `text` says, in `unit`; the unit may be left out, a share may be written in percent.

    >>> amount("5 %", "share"), amount("0.05", "share"), amount("25_000_000 USD", "USD"), amount("20x", "x")
    (0.05, 0.05, 25000000.0, 20.0)

    Raises ExampleError for a text that is no finite number and for another unit.
    """
    found = AMOUNT.fullmatch(text)
    if found is None:
        raise ExampleError(f"`{text}` is not a number")
    percent = unit == "share" and found["unit"] == "%"
    if found["unit"] not in ("", unit) and not percent:
        raise ExampleError(f"`{text}` must be in {'% or a share' if unit == 'share' else unit}")
    number = float(Decimal(found["number"]) / (100 if percent else 1))  # 0.35 % is 0.0035 to the last bit
    if not math.isfinite(number):
        raise ExampleError(f"`{text}` is too large")
    return number


def _input(text: str, units: Mapping[str, str]) -> tuple[str, float | None]:
    found = INPUT.fullmatch(text)
    if found is None or found["name"] not in units:
        raise ExampleError(f"`{text}` is not an input with its value; inputs: {', '.join(units)}")
    return found["name"], None if found["value"] == "missing" else amount(found["value"], units[found["name"]])


def _part(text: str, units: Mapping[str, str], before: Mapping[str, float | None]) -> list[Minute]:
    found = PART.fullmatch(text)
    if found is None:
        raise ExampleError(f"nothing is seen between two `then`; {HOW}")
    words = [word.strip() for word in found["inputs"].split(",")]
    given = [_input(word, units) for word in words if word != "reset"]
    inputs = {**before, **dict(given)}
    if len({name for name, _ in given}) < len(given):
        raise ExampleError(f"`{text}` names an input twice")
    if lacking := [name for name in units if name not in inputs]:
        raise ExampleError(f"`{text}` lacks {', '.join(lacking)}")
    minutes = int(found["minutes"] or 1)
    if not 1 <= minutes <= MINUTES_MAX:
        raise ExampleError(f"`{text}` must last from 1 to {MINUTES_MAX} min")
    return [Minute(inputs, "reset" in words)] * minutes


def _read(line: int, text: str, kinds: Mapping[str, Kind]) -> Example:
    found = SHAPE.fullmatch(text)
    if found is None:
        raise ExampleError(f"`{text}` is not an example; {HOW}")
    if found["rule"] not in kinds:
        raise ExampleError(f"`{found['rule']}` is not a rule; rules: {', '.join(kinds)}")
    kind, minutes = kinds[found["rule"]], list[Minute]()
    for part in found["seen"].split(" then "):
        minutes += _part(part.strip(), kind.inputs, minutes[-1].inputs if minutes else {})
    return Example(line, found["rule"], found["seen"], tuple(minutes), kind.says(found["result"]))


def read_examples(text: str) -> tuple[list[Example], list[str]]:
    """The worked examples in the comments of a policy's `text`, and a sentence for each that cannot be read."""
    read, violations = list[Example](), list[str]()
    for line, found in enumerate(map(LINE.fullmatch, text.splitlines()), 1):
        if found is not None:
            try:
                read.append(_read(line, found["text"].strip(), KINDS))
            except ExampleError as error:
                violations.append(f"line {line}: {error}")
    return read, violations


# --- running ---


def _facts(blank: pl.DataFrame, columns: Mapping[str, Sequence[float | str | None]]) -> pl.DataFrame:
    """Facts of one symbol, minute by minute: `columns`, and null in every other."""
    length = len(next(iter(columns.values())))
    stamps = [START + timedelta(minutes=minute) for minute in range(1, length + 1)]
    shape: Shape = {name: blank.schema.get(name, pl.Float64()) for name in columns}
    return blank.clear(length).with_columns(
        pl.lit(VENUE).alias("venue"), pl.lit(SYMBOL).alias("symbol"), pl.Series("ts", stamps, UTC_US),
        *(pl.Series(name, values, shape[name]) for name, values in columns.items()),
    )  # fmt: skip


def _column(minutes: Sequence[Minute], name: str, times: float = 1.0) -> list[float | None]:
    values = [minute.inputs[name] for minute in minutes]
    return [None if value is None else value * times for value in values]


def _fault(minutes: Sequence[Minute], name: str, fault: str) -> list[str | None]:
    return [fault if minute.inputs[name] is None else None for minute in minutes]


def _breaker(card: breakers.BreakerRule) -> Kind:
    def run(policy: Policy, minutes: Sequence[Minute], blank: pl.DataFrame) -> str:
        facts = _facts(blank, {card.fact: _column(minutes, "observed")})
        absent: Shape = dict.fromkeys(card.told_by(policy), pl.Float64())
        absent |= dict.fromkeys(card.faults, pl.String())
        facts = facts.with_columns(
            pl.lit(None, dtype).alias(name) for name, dtype in absent.items() if name not in facts.columns
        )
        signed = facts.filter(pl.Series([minute.reset for minute in minutes])).select("ts", "symbol", "venue")
        resets = breakers.resets_by_minute(signed.with_columns(rule=pl.lit(card.name), by=pl.lit(PERSON)), VENUE)
        state = pl.DataFrame(schema={"symbol": pl.String, "rule": pl.String, **machine.CARRY})
        verdicts = breakers.judge(facts, [card], policy, state=state, resets=resets, after=None)[card.name]
        last = verdicts.row(-1, named=True)
        return f"{last['state']}, {ACTIONS[last['severity']]}"

    return Kind({"observed": card.unit}, _state_and_action, run)


def _state_and_action(text: str) -> str:
    words = [word.strip() for word in text.split(",")]
    states = (machine.CLOSED, machine.OPEN, machine.HALF_OPEN, breakers.MISSING)
    if len(words) != 2 or words[0] not in states or words[1] not in ACTIONS:
        raise ExampleError(f"`{text}` must be a state ({', '.join(states)}) and an action ({', '.join(ACTIONS)})")
    return ", ".join(words)


def _leverage(policy: Policy, minutes: Sequence[Minute], blank: pl.DataFrame) -> str:
    tier = minutes[0].inputs["tier"]
    if any(minute.inputs["tier"] != tier for minute in minutes):
        raise ExampleError("`tier` must not change within an example")
    depth_usd = 1e6  # open interest over depth counts, so the depth may be anything
    facts = _facts(blank, {
        "volatility_1h": _column(minutes, "volatility_1h"), "depth_ratio": _column(minutes, "depth_ratio"),
        "oi_usd": _column(minutes, "oi_per_depth", depth_usd), "depth_usd": [depth_usd] * len(minutes),
        "oi_fault": _fault(minutes, "oi_per_depth", "open interest missing"), "divergence": [0.0] * len(minutes),
    })  # fmt: skip
    tiers = pl.DataFrame({"symbol": [SYMBOL], "leverage_max": [tier]}, schema_overrides={"leverage_max": pl.Float64})
    return _said_x(caps.leverage_cap(facts, tiers, policy)["limit"][-1])


def _exposure(policy: Policy, minutes: Sequence[Minute], blank: pl.DataFrame) -> str:
    facts = _facts(blank, {
        "depth_usd": _column(minutes, "depth_usd"), "depth_fault": _fault(minutes, "depth_usd", "depth missing"),
        "oi_usd": _column(minutes, "oi_usd"), "oi_fault": _fault(minutes, "oi_usd", "open interest missing"),
    })  # fmt: skip
    return _said_usd(caps.exposure_cap(facts, policy)["limit"][-1])


def _account(policy: Policy, minutes: Sequence[Minute], _: pl.DataFrame) -> str:
    """Whether an account with this gross notional, all of it one dollar a unit, may only reduce."""
    now = pl.DataFrame({"venue": [VENUE], "symbol": [SYMBOL], "ts": [START]}, schema_overrides={"ts": UTC_US})
    limits = now.with_columns(
        price=pl.lit(1.0), leverage_cap=pl.lit(1.0), exposure_cap_usd=pl.lit(policy.caps.account_ceiling_usd)
    )
    held = now.with_columns(
        account=pl.lit("example"), known_at="ts", margin_mode=pl.lit("cross"), entry_price=pl.lit(1.0),
        qty=pl.lit(minutes[-1].inputs["notional_usd"], pl.Float64), isolated_margin=pl.lit(None, pl.Float64),
    )  # fmt: skip
    over = accounts.over_caps(held, None, limits, now["ts"], policy, since=None)
    found = over.filter(pl.col("rule") == ACCOUNT_CEILING)["action"].to_list()
    return found[0] if found else HOLDS_NOTHING


def _account_words(text: str) -> str:
    if text not in ("reduce", HOLDS_NOTHING):
        raise ExampleError(f"`{text}` must be reduce or {HOLDS_NOTHING}")
    return text


def _said_x(leverage: float) -> str:
    return f"{leverage:.10g} x"


def _said_usd(usd: float) -> str:
    return f"{usd:,.15g} USD"


KINDS: Mapping[str, Kind] = {
    **{card.name: _breaker(card) for card in breakers.RULES},
    caps.LEVERAGE_CAP: Kind(
        {"tier": "x", "volatility_1h": "share", "depth_ratio": "share", "oi_per_depth": "x"},
        lambda text: _said_x(amount(text, "x")),
        _leverage,
    ),
    caps.EXPOSURE_CAP: Kind(
        {"depth_usd": "USD", "oi_usd": "USD"}, lambda text: _said_usd(amount(text, "USD")), _exposure
    ),
    ACCOUNT_CEILING: Kind({"notional_usd": "USD"}, _account_words, _account),
}


def _violation(example: Example, policy: Policy, blank: pl.DataFrame) -> str | None:
    where = f"line {example.line}: {example.rule}"
    try:
        came = KINDS[example.rule].run(policy, example.minutes, blank)
    except ExampleError as error:
        return f"{where}: {error}"
    if came == example.result:
        return None
    return f"{where}: `{example.seen}` gives {came}, the example says {example.result}"


def check_examples(text: str, policy: Policy) -> Checked:
    """Every worked example in the comments of `text` run through the real rules with the numbers of `policy`.

    A violation names the line, the rule, what came out and what the example says; an example that cannot be read is
    one too, in the order of lines. Rules are run as where every table is published: a rule that is off says nothing.
    """
    policy = replace(policy, inputs=replace(policy.inputs, not_published=()))
    read, unread = read_examples(text)
    blank = market_facts(pl.DataFrame(), policy)
    held, wrong = dict[str, int](), list[str]()
    for example in read:
        found = _violation(example, policy, blank)
        if found is None:
            held[example.rule] = held.get(example.rule, 0) + 1
        else:
            wrong.append(found)
    in_order = sorted(unread + wrong, key=lambda violation: int(violation.split(":")[0].removeprefix("line ")))
    return Checked(held, tuple(in_order))
