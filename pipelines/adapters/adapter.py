"""What an adapter is: the description of a venue's file, and pure functions from its text to canonical rows.

An adapter never opens a file. It is handed frames of text columns and hands back candidate rows: the canonical
columns, `line` (where the row stands in the file), `settlement` (of the row's instrument, null where unknown) and
`reason` (null where the row is acceptable). Reasons are machine words, strictest first, joined by "; ".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

TS_MIN = datetime(2009, 1, 3, tzinfo=UTC)  # the first block of the first chain: no market is older
TS_MAX = datetime(2100, 1, 1, tzinfo=UTC)
RAGGED = "ragged_line"


@dataclass(frozen=True)
class Origin:
    """What is known about a file besides its text; a null `venue` or `symbol` is read from the rows."""

    name: str
    venue: str | None
    symbol: str | None
    instruments: pl.DataFrame


@dataclass(frozen=True)
class Adapter:
    """One kind of file.

    `header(fields)` says whether a file's first line names its columns. `recognises(name, fields)` says whether the
    file is of this kind at all. `symbol_of(name)` reads the symbol from a file name (null where rows carry it) and
    raises InputError when it should be there and is not. `candidates` works on any run of lines, `judge` on the whole
    file: it returns `line, reason` of rows to refuse because of their neighbours.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    columns_optional: tuple[str, ...]
    header: Callable[[Sequence[str]], bool]
    recognises: Callable[[str, Sequence[str]], bool]
    symbol_of: Callable[[str], str | None]
    candidates: Callable[[pl.DataFrame, Origin], pl.DataFrame]
    judge: Callable[[pl.DataFrame], pl.DataFrame]


def no_judgement(rows: pl.DataFrame) -> pl.DataFrame:
    """Refuse nothing: rows of this kind stand alone."""
    return rows.select("line", pl.lit(None, pl.String).alias("reason")).clear()


def reasons(*checks: tuple[str, pl.Expr]) -> pl.Expr:
    """Words of the checks that do not hold, joined by "; "; null where all hold. A null check does not hold.

    >>> frame = pl.DataFrame({"price": [1.0, -1.0, None]})
    >>> checks = ("no_price", pl.col("price").is_not_null()), ("low", pl.col("price") > 0)
    >>> frame.select(reasons(*checks))["reason"].to_list()
    [None, 'low', 'no_price; low']
    """
    words = [pl.when(holds.fill_null(False)).then(None).otherwise(pl.lit(word)) for word, holds in checks]
    joined = pl.concat_str(words, separator="; ", ignore_nulls=True)
    return pl.when(joined != "").then(joined).alias("reason")


def unless_ragged(reason: pl.Expr) -> pl.Expr:
    """`reason`, but a line with too few or too many fields is that and nothing else: its fields mean nothing."""
    return pl.when(pl.col("ragged")).then(pl.lit(RAGGED)).otherwise(reason).alias("reason")


def number(column: str) -> pl.Expr:
    """The text of `column` as Float64, null where it is none ("inf" and "nan" are numbers here: check them)."""
    return pl.col(column).cast(pl.Float64, strict=False)


def positive(column: str) -> pl.Expr:
    """True for a finite number above zero; null stays null."""
    return (pl.col(column) > 0) & pl.col(column).is_finite()


def not_negative(column: str) -> pl.Expr:
    """True for a finite number of at least zero; null stays null."""
    return (pl.col(column) >= 0) & pl.col(column).is_finite()


def plausible(moment: pl.Expr) -> pl.Expr:
    """`moment` where it lies in [TS_MIN, TS_MAX), else null: milliseconds read as microseconds fall out here."""
    return pl.when((moment >= TS_MIN) & (moment < TS_MAX)).then(moment)


def with_instrument(rows: pl.DataFrame, instruments: pl.DataFrame) -> pl.DataFrame:
    """Add `settlement` and `contract_size` of the instrument in force: the latest `effective_from` <= `ts`.

    Null where venue and symbol are unknown, or known only later, or `ts` is null. Rows keep their order.
    """
    known = instruments.select("venue", "symbol", "effective_from", "settlement", "contract_size")
    dated = rows.with_row_index("_place").sort("ts", nulls_last=False)
    joined = dated.join_asof(
        known.sort("effective_from"),
        left_on="ts",
        right_on="effective_from",
        by=["venue", "symbol"],
        strategy="backward",
        check_sortedness=False,  # both sides are sorted on the line above; per-group checks only warn
    )
    return joined.sort("_place").drop("_place", "effective_from")
