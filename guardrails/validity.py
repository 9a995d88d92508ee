"""Validity x action: what each fault of each safety input blocks, and why.

Tightening is never blocked: no fault is a reason to stay looser. Reducing is blocked only where there is no price at
all. No sale is forced at a price nobody can defend. What loosens needs every input.

Source: the form of Drift's `is_oracle_valid_for_action`: which faults of the oracle each action bears.
"""

from dataclasses import dataclass

import polars as pl

from guardrails import wording
from guardrails.facts import KEY, Shape
from guardrails.policy import Policy

RAISE_LEVERAGE, OPEN, REDUCE, LIQUIDATE, LOOSEN, TIGHTEN = (
    "raise leverage", "open", "reduce", "liquidate", "loosen", "tighten",
)  # fmt: skip
ACTIONS = (RAISE_LEVERAGE, OPEN, REDUCE, LIQUIDATE, LOOSEN, TIGHTEN)
COLUMNS: Shape = {"blocked": pl.String, "blocked_why": pl.String}


@dataclass(frozen=True, slots=True)
class Fault:
    """What one fault of some of the safety inputs blocks."""

    name: str
    inputs: tuple[str, ...]
    blocks: tuple[str, ...]
    why: str


LOOSER = (RAISE_LEVERAGE, LOOSEN)
RISKIER = (RAISE_LEVERAGE, OPEN, LOOSEN)
FORCED = (RAISE_LEVERAGE, OPEN, LIQUIDATE, LOOSEN)
ALL_TRADES = (RAISE_LEVERAGE, OPEN, REDUCE, LIQUIDATE, LOOSEN)
ACCOUNT = ("positions", "collateral")
REST = ("index", "depth", "open interest")
HISTORY = ("price history", "depth history")
NO_PRICE = "there is no price at all: no fill could be valued, not even a reduction"
NO_MARK = "no forced sale at a price nobody can defend; a holder may close at the market's own"
NO_ACCOUNT = "nobody is sold on a position or a margin that nobody knows; a holder may close"
FLOORED = "nothing loosens on it; the caps are at their floor, which is what may be opened"
OLD_PRICE = "no new risk at an old price; the mark is another input and stands for itself"
LYING_BOOK = "a book that cannot be is no price to open at; what must be closed may be"
TABLE = (
    Fault("outage", ("price", "mark", *REST), ALL_TRADES, NO_PRICE),
    Fault("non-positive", ("price",), ALL_TRADES, NO_PRICE),
    Fault("non-positive", ("mark",), FORCED, NO_MARK),
    Fault("non-positive", ACCOUNT, FORCED, NO_ACCOUNT),
    Fault("non-positive", REST, LOOSER, FLOORED),
    Fault("insufficient", ("price",), ALL_TRADES, NO_PRICE),
    Fault("insufficient", ("mark",), FORCED, NO_MARK),
    Fault("insufficient", ACCOUNT, FORCED, NO_ACCOUNT),
    Fault("insufficient", (*REST, *HISTORY), LOOSER, FLOORED),
    Fault("stale", ("price",), RISKIER, OLD_PRICE),
    Fault("stale", ("mark",), FORCED, NO_MARK),
    Fault("stale", ACCOUNT, FORCED, NO_ACCOUNT),
    Fault("stale", REST, LOOSER, FLOORED),
    Fault("crossed", ("depth",), RISKIER, LYING_BOOK),
    Fault("frozen", ("depth",), RISKIER, LYING_BOOK),
    Fault("too uncertain", ("mark",), FORCED, NO_MARK),
    Fault("too volatile", ("price",), RISKIER,
          "no new risk that a margin cannot cover; in a cascade a sale that waits leaves a debt"),
)  # fmt: skip
COLUMN_OF = {  # the column that names an input's fault; those of positions and collateral come from `reported`
    "price": "price_fault", "mark": "mark_fault", "index": "index_fault", "depth": "depth_fault",
    "open interest": "oi_fault", "positions": "positions_fault", "collateral": "collateral_fault",
}  # fmt: skip
WORDS = {"invalid": "non-positive", "age missing": "stale", "stale": "stale", "crossed": "crossed", "frozen": "frozen"}
PAIRS = tuple((fault, name) for fault in TABLE for name in fault.inputs)


def blocks(fault: str, name: str, action: str) -> bool:
    """Whether `fault` of the input `name` blocks `action`. Raises ValueError for what the table does not hold.

    >>> blocks("stale", "mark", "liquidate"), blocks("stale", "mark", "reduce"), blocks("outage", "price", "tighten")
    (True, False, False)
    """
    if action not in ACTIONS:
        raise ValueError(f"`action` must be one of {', '.join(ACTIONS)}, was {action}")
    for row, owner in PAIRS:
        if (row.name, owner) == (fault, name):
            return action in row.blocks
    raise ValueError(f"`fault` must be one that the table holds for {name}, was {fault}")


def markdown() -> str:
    """The table as it stands in the README: one line per group of cells, `x` where the action is blocked."""
    head = ["fault", "of", *ACTIONS, "why"]
    lines = [head, ["---", "---", *(":-:" for _ in ACTIONS), "---"]]
    for row in TABLE:
        cells = ["x" if action in row.blocks else "" for action in ACTIONS]
        lines.append([row.name, ", ".join(row.inputs), *cells, row.why])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _column(fault: str, name: str) -> str:
    return f"{name} {fault}"


def _worded(name: str) -> pl.Expr:
    """The fault that an input's fault column speaks of; whatever the table does not hold of it is `insufficient`."""
    text = pl.col(COLUMN_OF[name])
    held = {row.name for row, owner in PAIRS if owner == name}
    found: pl.Expr = pl.when(text.is_not_null()).then(pl.lit("insufficient"))
    for ending, fault in ((ending, fault) for ending, fault in WORDS.items() if fault in held):
        found = pl.when(text.str.ends_with(ending)).then(pl.lit(fault)).otherwise(found)
    return found


def _measured(policy: Policy) -> dict[tuple[str, str], pl.Expr]:
    """The faults that are told by a number or a flag of the facts, beside those that their fault columns name."""
    chosen = policy.validity
    calm = (pl.col("volatility_1h") <= chosen.volatility_1h_max).fill_null(True)
    unknown = pl.col("mark_fault").is_not_null() | pl.col("index_fault").is_not_null()
    agreed = (pl.col("divergence") <= chosen.divergence_max).fill_null(unknown)
    return {
        ("too volatile", "price"): ~calm,
        ("too uncertain", "mark"): ~agreed,
        ("crossed", "depth"): pl.col("crossed").fill_null(False),
        ("frozen", "depth"): pl.col("frozen").fill_null(False),
        ("insufficient", "price history"): pl.col("volatility_1h").is_null(),
        ("insufficient", "depth history"): pl.col("depth_ratio").is_null() & pl.col("depth_fault").is_null(),
    }


def faults(facts: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Which fault each safety input has, per symbol and minute.

        outage        = the venue has no bar of the symbol in the minute; said of the price, it stands for all inputs
        non-positive  = there is a value, and it is not a positive finite number of a sane size
        insufficient  = no value, or one that nobody could check; of a history: too short for volatility, depth ratio
        stale         = older than the policy's maximum, or of unknown age
        crossed, frozen = of the book
        too volatile  = not (volatility_1h <= volatility_1h_max), where there is a volatility
        too uncertain = not (divergence <= divergence_max), where mark and index are both usable

    `facts`: rows of `market_facts`, which may carry `positions_fault` and `collateral_fault` ("collateral stale").
    Returns their key and one Boolean column `<input> <fault>` for every pair of `TABLE`, without nulls.
    """
    present = pl.col("present").fill_null(False)
    measured = _measured(policy)
    told = []
    for row, name in PAIRS:
        if row.name == "outage":
            told.append((~present).alias(_column(row.name, name)))
            continue
        known = COLUMN_OF.get(name) in facts.columns
        worded = (_worded(name) == row.name).fill_null(False) if known else pl.lit(False)
        own = measured.get((row.name, name), pl.lit(False))
        told.append((present & (worded | own)).alias(_column(row.name, name)))
    return facts.select(*KEY, *told)


def _sentence(row: Fault, name: str) -> pl.Expr:
    verb = "are" if name == "positions" else "is"
    return pl.when(_column(row.name, name)).then(pl.lit(f"{name} {verb} {row.name}"))


def _why() -> pl.Expr:
    """One sentence per group of cells whose faults hold, in the table's order: what is at fault, and why that blocks.

    An outage says it alone.
    """
    silent = pl.col(_column("outage", "price"))
    groups = []
    for row in TABLE:
        if row.name != "outage":
            names = [_sentence(row, name) for name in row.inputs]
            said = pl.concat_str(*names, separator=", ", ignore_nulls=True)
            groups.append(pl.when(said.str.len_chars() > 0).then(wording.sentence("{} ({})", said, pl.lit(row.why))))
    joined = pl.concat_str(*groups, separator="; ", ignore_nulls=True)
    outage = pl.lit(f"outage, no bar in this minute ({NO_PRICE})")
    return pl.when(silent).then(outage).when(joined.str.len_chars() > 0).then(joined)


def blocked(found: pl.DataFrame) -> pl.DataFrame:
    """What the faults of `faults` block: their key, one Boolean column per action of `ACTIONS`, and two of words.

    <action>    = any fault that holds blocks it by `TABLE`
    blocked     = the blocked actions in the order of `ACTIONS`, joined by ", "; null where nothing is blocked
    blocked_why = what is at fault and why that blocks; null where nothing is blocked
    """
    holds = {
        action: pl.any_horizontal(
            pl.lit(False), *(_column(row.name, name) for row, name in PAIRS if action in row.blocks)
        )
        for action in ACTIONS
    }
    names = [pl.when(allowed).then(pl.lit(action)) for action, allowed in holds.items()]
    joined = pl.concat_str(*names, separator=", ", ignore_nulls=True)
    some = pl.any_horizontal(*holds.values())
    return found.select(
        *KEY,
        *(flag.alias(action) for action, flag in holds.items()),
        blocked=pl.when(some).then(joined),
        blocked_why=pl.when(some).then(_why()),
    )


def with_validity(limits: pl.DataFrame, facts: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`limits` with `blocked` and `blocked_why` of each row's symbol and minute; the rows and their order stay.

    A row of `limits` without facts is blocked as in an outage.
    """
    here = limits.select(KEY).join(facts, on=KEY, how="left", maintain_order="left")
    said = blocked(faults(here, policy))
    return limits.with_columns(said["blocked"], said["blocked_why"])
