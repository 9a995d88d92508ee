"""What an adapter is: kinds of venue files, and pure functions from their rows to canonical rows.

An adapter never opens a file. It is handed frames of the file's rows (`pipelines.adapters.rows`) and hands back, per
canonical table, candidate rows: the canonical columns, `line` (where the row stands in the file, 1 is the first line
or row), `item` (0 for the first thing a line says), and `reason` (null where the row is acceptable). Reasons are
machine words, strictest first, joined by "; ".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from features.schema import CANONICAL, UTC_US, polars_schema
from pipelines.adapters.rows import Layout
from pipelines.instruments import InstrumentBook

VENUE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TS_MIN = datetime(2009, 1, 3, tzinfo=UTC)  # the first block of the first chain: no market is older
TS_MAX = datetime(2100, 1, 1, tzinfo=UTC)
RAGGED = "ragged_line"
SILENT = "silent"

Batch = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Origin:
    """What is known about a file besides its rows: its name, and the venue and symbol that the user named, if any."""

    name: str
    venue: str | None
    instruments: InstrumentBook
    symbol: str | None = None


def _no_judgement(_: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Refuse nothing: rows of this kind stand alone."""
    return rows.select("line", "item", pl.lit(None, pl.String).alias("reason")).clear()


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    `recognises(name, fields)` says whether a file is of this kind, by its name and the fields of its first line (of a
    file without a header, its first row; of a columnar file, its column names). `convert(pieces, origin)` turns the
    file's frames, in order, into batches: table name -> candidate rows. It may raise InputError where the file as a
    whole cannot be read, such as a name that does not tell the symbol. Every line of a piece must appear in a batch; a
    line that says nothing for any table goes to `SILENT` with its `line`, `item` and the `reason` why it is silent.

    `judge(table, rows)` sees the acceptable rows of one symbol, in time order, a day or less at a time, and returns
    `line, item, reason` of those to refuse because of their neighbours. It gets every column that `convert` gave.

    `content_seq` names the tables whose source has no sequence number: their `seq` is made of the row's content.
    """

    name: str
    tables: tuple[str, ...]
    layout: Layout
    recognises: Callable[[str, Sequence[str]], bool]
    convert: Callable[[Iterator[pl.DataFrame], Origin], Iterator[Batch]]
    judge: Callable[[str, pl.DataFrame], pl.DataFrame] = _no_judgement
    content_seq: tuple[str, ...] = ()
    by_folder: bool = False  # `recognises` and `Origin.name` get the path with its folders, not the name alone

    def name_of(self, path: Path) -> str:
        """What this kind knows a file by."""
        return path.as_posix() if self.by_folder else path.name


@dataclass(frozen=True)
class Adapter:
    """A family of files of one origin, known to the command line by `name`; a file is of the first kind that fits."""

    name: str
    kinds: tuple[Kind, ...]

    def only(self, kind: Kind) -> "Adapter":
        """The adapter with one kind alone, which takes every file that has its layout."""
        return replace(self, kinds=(replace(kind, recognises=lambda _, fields: bool(fields)),))


def each(
    convert: Callable[[pl.DataFrame, Origin], Batch],
) -> Callable[[Iterator[pl.DataFrame], Origin], Iterator[Batch]]:
    """A `Kind.convert` that treats every piece by itself."""

    def converted(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
        for piece in pieces:
            yield convert(piece, origin)

    return converted


def candidates(table: str, rows: pl.DataFrame, reason: pl.Expr, working: Iterable[str] = ()) -> pl.DataFrame:
    """`rows` in the shape of candidates of `table`: its columns in their types, `line`, `item`, `reason`.

    A canonical column that `rows` lacks is null (its schema refuses it, unless it may be null); `item` is 0 if absent.
    """
    given = rows.columns
    columns = [
        (pl.col(name) if name in given else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in polars_schema(CANONICAL[table]).items()
    ]
    item = (pl.col("item") if "item" in given else pl.lit(0)).cast(pl.Int64).alias("item")
    place = pl.col("line").cast(pl.Int64)
    return rows.select(*columns, place, item, *working, reason.alias("reason"))


def silent(rows: pl.DataFrame, why: str) -> pl.DataFrame:
    """Lines that say nothing for any table, with the reason, for the batch entry `SILENT`."""
    item = (pl.col("item") if "item" in rows.columns else pl.lit(0)).cast(pl.Int64).alias("item")
    return rows.select(pl.col("line").cast(pl.Int64), item, pl.lit(why).alias("reason"))


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


def epoch(column: str, unit_us: float) -> pl.Expr:
    """The whole number in the text of `column`, in units of `unit_us` microseconds since 1970, as a moment.

    Nanoseconds (`unit_us` 0.001) are cut to microseconds. Null where it is no whole number.

    >>> frame = pl.DataFrame({"ms": ["1000", "1.5", ""]})
    >>> frame.select(epoch("ms", 1000)).to_series().dt.epoch("us").to_list()
    [1000000, None, None]
    """
    whole = pl.col(column).cast(pl.Int64, strict=False)
    if unit_us >= 1:
        inside = whole.abs() < 2**62 // round(unit_us)  # whole numbers wrap silently when they overflow
        us = pl.when(inside).then(whole) * round(unit_us)
    else:
        us = whole // round(1 / unit_us)
    return us.cast(UTC_US).alias(column)


def plausible(moment: pl.Expr) -> pl.Expr:
    """`moment` where it lies in [TS_MIN, TS_MAX), else null: milliseconds read as microseconds fall out here."""
    return pl.when((moment >= TS_MIN) & (moment < TS_MAX)).then(moment)


def with_instrument(rows: pl.DataFrame, instruments: InstrumentBook) -> pl.DataFrame:
    """Add `settlement`, `contract_size`, `base`, `quote` of the instrument in force.

    In force is the latest `effective_from` <= `ts`. Null where venue and symbol are unknown, or known only later, or
    `ts` is null. Rows keep their order.
    """
    known = instruments.of(rows.select("venue", "symbol")).select(
        "venue", "symbol", "effective_from", "settlement", "contract_size", "base", "quote"
    )
    if not known.select(pl.struct("venue", "symbol").is_duplicated().any()).item():
        return _in_force(rows, known)
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


def _in_force(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The same where every symbol has one version: a plain join, which needs no order."""
    joined = rows.join(known, on=["venue", "symbol"], how="left", maintain_order="left")
    late = (pl.col("ts") >= pl.col("effective_from")).fill_null(False)
    added = [name for name in known.columns if name not in ("venue", "symbol", "effective_from")]
    return joined.with_columns(pl.when(late).then(name).alias(name) for name in added).drop("effective_from")


def base_units(amount: pl.Expr, price: pl.Expr) -> pl.Expr:
    """Base units of an `amount` in the venue's unit: contracts of a derivative, base units of a spot market.

    inverse: amount * contract_size / price (a contract is that many dollars); else amount * contract_size.
    Needs the columns of `with_instrument`; null where the instrument is unknown.
    """
    contracts = amount * pl.col("contract_size")
    return pl.when(pl.col("settlement") == "inverse").then(contracts / price).otherwise(contracts)


def dollars(amount: pl.Expr, price: pl.Expr) -> pl.Expr:
    """Dollars of an `amount` in the venue's unit.

    inverse: amount * contract_size; else amount * contract_size * price.
    """
    contracts = amount * pl.col("contract_size")
    return pl.when(pl.col("settlement") == "inverse").then(contracts).otherwise(contracts * price)
