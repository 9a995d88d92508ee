"""One file on its way into the lake: staged, judged row by row, stored exactly once.

The order of commits makes a run that was killed anywhere repeatable: quarantine, pending bars, table, and last of all
the ingest log. A file is done when the log has it.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dataframely as dy
import numpy as np
import polars as pl

from features.schema import CANONICAL, UTC_US, IngestLog, Quarantine, polars_schema
from pipelines.adapters import Adapter, Kind, Origin
from pipelines.adapters.rows import pieces, texts
from pipelines.errors import InputError
from pipelines.instruments import InstrumentBook, write_instruments
from pipelines.lake import Lake, row_order
from pipelines.pending import mark_pending
from pipelines.staging import NAMES, WHERE_FROM_SCHEMA, Staging, fresh_staging

PLACE = ("line", "item")
SPANS = pl.Schema({"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US, "last": UTC_US, "rows": pl.Int64()})
COMPLETING = {"marks": ("mark", "index", "last")}  # a row may tell what another of the same stamp does not
MENDS = {
    "unknown_symbol": "add it to a file named by the setting `instruments`, or correct --venue",
    "duplicate_key": "these rows are in the lake already",
    "ts_out_of_range": "the stamps are of another unit, or of another format",
}


@dataclass(frozen=True)
class Source:
    """One file as one kind of one adapter: what is taken exactly once."""

    path: Path
    sha256: str
    adapter: Adapter
    kind: Kind

    @property
    def label(self) -> str:
        return f"{self.adapter.name}/{self.kind.name}"

    @property
    def known_as(self) -> tuple[str, str]:
        """What the log of the lake knows it by."""
        return self.sha256, self.label

    def key(self, table: str) -> str:
        """Name of this source's transaction on `table`."""
        return f"{self.sha256}:{self.label}:{table}"


@dataclass(frozen=True)
class FileReport:
    """What became of one file; `reasons` counts rows per reason, a row with two reasons under both.

    `silent` counts accepted lines that say nothing for any table, by why. `tables` has the counts of every table.
    """

    path: str
    sha256: str
    kind: str
    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    tables: dict[str, dict[str, int]]
    reasons: dict[str, int]
    silent: dict[str, int]
    symbols: tuple[str, ...]  # as `venue:symbol`


# --- staging ---------------------------------------------------------------------------------------------------------


def stage(source: Source, origin: Origin, lake: Lake) -> Staging:
    """Every row of the file, converted and spilled; needs no lock.

    Raises InputError, and leaves nothing behind, if the file is not whole or holds no row.
    """
    staging = fresh_staging(lake.root)
    try:
        for batch in source.kind.convert(pieces(source.path, source.kind.layout), origin):
            staging.add(batch)
        if not staging.rows_read.total() and not staging.silent.total():
            raise InputError("file holds a header and no row", where=source.path)
    except InputError:
        staging.remove()
        raise
    return staging


def _check_role(staging: Staging, source: Source, role: str, book: InstrumentBook) -> None:
    """Spot files must hold spot instruments only, perp files none: a mixed-up leg would poison the basis."""
    spot = pl.col("settlement") == "spot"
    wrong = book.of(staging.names).filter(~spot if role == "spot" else spot)
    if wrong.is_empty():
        return
    name, settlement = ":".join(wrong.select(NAMES).row(0)), wrong["settlement"][0]
    mend = "leave out --role spot" if role == "spot" else "use --role spot"
    raise InputError(
        f"--role {role} does not fit {name}, whose settlement is {settlement}", where=source.path, mend=mend
    )


# --- judging one chunk -----------------------------------------------------------------------------------------------


def _bits(values: pl.Series) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """Sixty-four bits of every cell, the same for equal cells whatever the machine or the library's version."""
    if values.dtype == pl.Float64:
        return values.fill_null(0.0).to_numpy().view(np.uint64)
    if values.dtype == pl.String:
        words = values.unique().drop_nulls().to_list()
        numbers = {word: zlib.crc32(word.encode()) + 1 for word in words}
        return values.replace_strict(numbers, default=0, return_dtype=pl.UInt64).fill_null(0).to_numpy()
    return values.to_physical().cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64)


def _content_seq(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """Give every row a `seq` made of its content; equal rows of one stamp count on from it by occurrence.

    The number does not depend on the file a row came in or on its neighbours, so that a row told twice has one key and
    different rows of one moment have two.
    """
    facts = [name for name in polars_schema(CANONICAL[table]).names() if name not in ("seq", "known_at")]
    rows = rows.sort(PLACE)
    mixed = np.full(rows.height, 14_695_981_039_346_656_037, dtype=np.uint64)  # FNV-1a, a cell at a time
    for name in facts:
        mixed = (mixed ^ _bits(rows[name])) * np.uint64(1_099_511_628_211)
        mixed ^= mixed >> np.uint64(32)
    numbered = rows.with_columns(pl.Series("seq", (mixed >> np.uint64(2)).astype(np.int64)))
    told = pl.int_range(pl.len()).over(*NAMES, "ts", "seq").cast(pl.Int64)
    return numbered.with_columns((pl.col("seq") + told).alias("seq"))


def _refused(rows: pl.DataFrame, found: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split `rows` into those not in `found` (line, item, reason) and those in it, with their reason."""
    if found.is_empty():
        return rows, rows.clear().with_columns(pl.lit(None, pl.String).alias("reason"))
    hit = rows.join(
        found.unique(PLACE, keep="first", maintain_order=True), on=PLACE, how="inner", maintain_order="left"
    )
    return rows.join(found, on=PLACE, how="anti", maintain_order="left"), hit


def _because(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select(*PLACE, pl.lit(reason).alias("reason"))


def _in_order(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """Rows by venue and then in the order of the lake, equal keys in file order."""
    told = [pl.col(name).is_null() for name in COMPLETING.get(table, ())]
    return rows.sort([pl.col("venue"), *row_order(table), *told, *PLACE], nulls_last=True)


def _key(table: str) -> list[pl.Expr]:
    """What tells rows apart: the key of the table; of `marks`, also which prices a row tells."""
    told = [pl.col(name).is_null().alias(f"no_{name}") for name in COMPLETING.get(table, ())]
    return [*(pl.col(name) for name in CANONICAL[table].primary_key()), *told]


def _repeated(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """Rows whose key the row before has: the first is kept. `rows` are in order."""
    same = pl.all_horizontal(key.eq_missing(key.shift()) for key in reversed(_key(table)))
    return _because(rows.filter(same & (pl.int_range(pl.len()) > 0)), "duplicate_key")


def _moment(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"a time stamp was expected, was {value!r}")
    return value


def _stored_keys(rows: pl.DataFrame, table: str, lake: Lake) -> list[pl.LazyFrame]:
    """Keys that the lake holds for the same venues in the rows' span; none where no file reaches into it."""
    before, last = _moment(rows["ts"].min()) - timedelta(microseconds=1), _moment(rows["ts"].max())
    names = rows.select(NAMES).unique()
    venues = names["venue"].unique()
    by_symbol = names.height == 1 and "symbol" in polars_schema(CANONICAL[table])
    symbol = names["symbol"][0] if by_symbol else None
    overlapped = [venue for venue in venues if lake.reaches(table, venue, before, last, symbol)]
    return [lake.scan(table, venue, before, last, symbol).select(_key(table)) for venue in overlapped]


def _in_lake(rows: pl.DataFrame, table: str, lake: Lake) -> pl.DataFrame:
    """Rows whose key the lake holds."""
    stored = _stored_keys(rows, table, lake) if rows.height else []
    if not stored:
        return _because(rows.clear(), "duplicate_key")
    keys = pl.concat(stored).collect()
    told = rows.select(*_key(table), *PLACE)
    return _because(told.join(keys, on=keys.columns, how="semi"), "duplicate_key")


@cache
def _keyless(schema: type[dy.Schema]) -> type[dy.Schema]:
    """`schema` without the rule that keys are unique, which is dear and has been proved by then."""
    columns = {name: column for name, column in schema.columns().items() if column.primary_key}
    copies = {}
    for name, column in columns.items():
        copies[name] = column.__class__.__new__(column.__class__)
        copies[name].__dict__ = column.__dict__ | {"primary_key": False}
    return type(f"Keyless{schema.__name__}", (schema,), copies)


def _off_schema(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """Rows that the canonical schema refuses, with its rule names: the last gate."""
    schema = _keyless(CANONICAL[table])
    names = polars_schema(CANONICAL[table]).names()
    _, failure = schema.filter(rows.select(names))
    if not failure.counts():
        return _because(rows.clear(), "")
    details = failure.details()
    rules = [name for name in details.columns if name not in names]
    words = [pl.when(pl.col(rule) == "invalid").then(pl.lit(rule)) for rule in rules]
    named = details.select(*names, pl.concat_str(words, separator="; ", ignore_nulls=True).alias("reason"))
    return rows.select(*names, *PLACE).join(named, on=names, how="inner", nulls_equal=True).select(*PLACE, "reason")


@dataclass(frozen=True)
class _Judge:
    """What every chunk of one table of one source is judged by."""

    source: Source
    lake: Lake
    table: str
    standing: pl.DataFrame  # line, item, reason: refused by an earlier, killed run
    final: bool  # that run had stored the rest

    def split(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows to store, in order, and rows refused with their reason.

        What an earlier run has refused stays refused; where it had already stored the rest, that is final and nothing
        is checked again (the rows would only find themselves in the lake).
        """
        table = self.table
        numbered = _content_seq(rows, table) if table in self.source.kind.content_seq else rows
        ordered, refused = _refused(_in_order(numbered, table), self.standing)
        if self.final:
            return ordered, refused
        found = [refused]
        for check in (self._repeated, self._neighbours, self._in_lake, self._off_schema):
            ordered, refused = _refused(ordered, check(ordered))
            found.append(refused)
        return ordered, pl.concat(found)

    def _repeated(self, rows: pl.DataFrame) -> pl.DataFrame:
        return _repeated(rows, self.table)

    def _neighbours(self, rows: pl.DataFrame) -> pl.DataFrame:
        judge = self.source.kind.judge
        days = rows.with_columns(pl.col("ts").dt.date().alias("_day")).partition_by(*NAMES, "_day", include_key=True)
        found = [judge(self.table, day.drop("_day")).select(*PLACE, "reason") for day in days]
        return pl.concat(found) if found else _because(rows.clear(), "")

    def _in_lake(self, rows: pl.DataFrame) -> pl.DataFrame:
        return _in_lake(rows, self.table, self.lake)

    def _off_schema(self, rows: pl.DataFrame) -> pl.DataFrame:
        return _off_schema(rows, self.table)


# --- storing ---------------------------------------------------------------------------------------------------------


def _standing(source: Source, lake: Lake, table: str) -> pl.DataFrame:
    """Rows of this very file that an earlier, killed run has put into quarantine, with their reasons."""
    mine = (pl.col("source_sha256") == source.sha256) & (pl.col("table") == table)
    return lake.scan("quarantine").filter(mine).select(*PLACE, "reason").collect()


def _quarantine(refused: pl.DataFrame, source: Source, table: str) -> pl.DataFrame:
    """Refused rows in the shape of `Quarantine`; the file is read a second time for their text."""
    if refused.is_empty():
        return Quarantine.create_empty()
    raw = texts(source.path, source.kind.layout, refused.select("line").unique())
    constants = {"table": table, "source": source.path.name, "source_sha256": source.sha256}
    told = refused.join(raw, on="line", how="left").with_columns(
        pl.col("raw").fill_null(""), *(pl.lit(value).alias(name) for name, value in constants.items())
    )
    return Quarantine.validate(told.select(polars_schema(Quarantine).names()).sort(PLACE))


@dataclass(frozen=True)
class _Judged:
    """What one table of one source came to; the accepted rows wait in `folder`."""

    table: str
    folder: Path
    spans: pl.DataFrame  # venue, symbol, ts (first), last, rows of what was accepted
    refused: pl.DataFrame
    standing: pl.DataFrame

    @property
    def accepted(self) -> int:
        return int(self.spans["rows"].sum())


def _judged(source: Source, staging: Staging, lake: Lake, table: str) -> _Judged:
    """Judge every chunk of one table; nothing is committed yet."""
    standing = _standing(source, lake, table)
    judge = _Judge(source, lake, table, standing, lake.committed(table, source.key(table)))
    folder = staging.folder / "accepted" / table
    folder.mkdir(parents=True)
    spans = [pl.DataFrame(schema=SPANS)]
    for nth, chunk in enumerate(staging.chunks(table)):
        accepted, refused = judge.split(chunk)
        staging.refuse(table, refused)
        accepted.select(polars_schema(CANONICAL[table]).names()).write_parquet(folder / f"{nth:06d}.parquet")
        spans.append(_spans(accepted))
    return _Judged(table, folder, pl.concat(spans), staging.refused(table), standing)


def _spans(rows: pl.DataFrame) -> pl.DataFrame:
    """First and last stamp and number of rows per symbol."""
    by_symbol = rows.group_by(NAMES).agg(pl.col("ts").min(), pl.col("ts").max().alias("last"), pl.len().alias("rows"))
    return by_symbol.cast(SPANS)


def _read_back(folder: Path) -> Iterator[pl.DataFrame]:
    for path in sorted(folder.iterdir()):
        yield pl.read_parquet(path)


def _commit(found: _Judged, source: Source, lake: Lake) -> None:
    """Quarantine, pending bars, rows; each commit does nothing where an earlier run made it."""
    new = found.refused.join(found.standing, on=PLACE, how="anti")
    key = source.key(found.table)
    if new.height:
        lake.append("quarantine", _quarantine(new, source, found.table), f"{key}+{found.standing.height}")
    if found.accepted:
        mark_pending(lake, found.table, found.spans, key)
        lake.append(found.table, _read_back(found.folder), key)


def _log(found: list[_Judged], source: Source, silent: int, lake: Lake) -> None:
    """One line per table; lines that say nothing for any table are counted with the first."""
    rows = [
        {
            "table": judged.table,
            "source": source.path.name,
            "source_sha256": source.sha256,
            "adapter": source.label,
            "rows_read": judged.accepted + judged.refused.height + (silent if place == 0 else 0),
            "rows_accepted": judged.accepted + (silent if place == 0 else 0),
            "rows_quarantined": judged.refused.height,
            "rows_silent": silent if place == 0 else 0,
        }
        for place, judged in enumerate(found)
    ]
    lake.append(
        "ingest_log", IngestLog.validate(pl.DataFrame(rows, schema=polars_schema(IngestLog))), source.key("log")
    )


# --- one file --------------------------------------------------------------------------------------------------------


def _reasons(found: list[_Judged]) -> dict[str, int]:
    words: Counter[str] = Counter()
    for judged in found:
        words.update(judged.refused.select(pl.col("reason").str.split("; ").explode())["reason"].to_list())
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))


def _refuse_all(found: list[_Judged], source: Source, reasons: dict[str, int]) -> InputError:
    worst = next(iter(reasons))
    rows = pl.concat([judged.refused for judged in found])
    example = rows.filter(pl.col("reason").str.contains(worst, literal=True)).sort(PLACE).row(0, named=True)
    what = f"every one of {rows.height} rows was refused, most often {worst} ({reasons[worst]} rows, first line "
    what += f"{example['line']}, {example['venue']}:{example['symbol']})"
    return InputError(what, where=source.path, mend=MENDS.get(worst))


def _report(found: list[_Judged], source: Source, staging: Staging, reasons: dict[str, int]) -> FileReport:
    accepted, refused = sum(judged.accepted for judged in found), sum(judged.refused.height for judged in found)
    silent = staging.silent.total()
    spans = pl.concat([pl.DataFrame(schema=SPANS), *(judged.spans for judged in found)])
    names = spans.select(NAMES).unique().sort(NAMES)
    return FileReport(
        path=str(source.path),
        sha256=source.sha256,
        kind=source.kind.name,
        rows_read=accepted + refused + silent,
        rows_accepted=accepted + silent,
        rows_quarantined=refused,
        tables={j.table: {"accepted": j.accepted, "quarantined": j.refused.height} for j in found},
        reasons=reasons,
        silent=dict(staging.silent.most_common()),
        symbols=tuple(":".join(name) for name in names.iter_rows()),
    )


def take(  # noqa: PLR0917 - a file, its rows, and what they are judged by
    source: Source, staging: Staging, origin: Origin, lake: Lake, role: str, unchanged: Callable[[], None]
) -> FileReport:
    """Judge and store one staged file; the caller holds the writer's lock, and removes `staging` afterwards.

    `unchanged` raises InputError if the file is no longer what was hashed. Raises InputError, with nothing of the file
    stored, if the file is not whole or if nothing in it can be accepted.
    """
    _check_role(staging, source, role, origin.instruments)
    found = [_judged(source, staging, lake, table) for table in source.kind.tables if staging.rows_read[table]]
    reasons = _reasons(found)
    if not any(judged.accepted for judged in found) and not staging.silent.total():
        raise _refuse_all(found, source, reasons)
    unchanged()
    write_instruments(lake, origin.instruments.of(staging.names))
    for judged in found:
        _commit(judged, source, lake)
    _log(found or [_silent_only(source, staging)], source, staging.silent.total(), lake)
    return _report(found, source, staging, reasons)


def _silent_only(source: Source, staging: Staging) -> _Judged:
    """Stands in the log for a file that has no row for any table."""
    nothing = pl.DataFrame(schema=WHERE_FROM_SCHEMA)
    return _Judged(source.kind.tables[0], staging.folder, pl.DataFrame(schema=SPANS), nothing, nothing)
