"""Somebody's own tables: any csv, parquet or feather, with a mapping that says what its columns mean.

The mapping (`pipelines.mapping`) gives one kind per set of files. A line may speak for several tables: every section
of the same files whose `where` it meets, and whose cells are not all empty on it, makes a candidate row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath

import polars as pl

from features.schema import CANONICAL, polars_schema
from pipelines.adapters.adapter import (
    SILENT,
    VENUE_NAME,
    Adapter,
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    reasons,
    silent,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.cells import as_moment, as_number, as_text, as_truth, as_whole, is_naive
from pipelines.adapters.gaps import MEMORY, with_interval_h
from pipelines.adapters.rows import Columnar, Delimited, Layout
from pipelines.errors import InputError
from pipelines.mapping import (
    SIZES,
    SPLIT,
    WORD,
    WORKING,
    Later,
    Stamp,
    Table,
    Value,
    mapping_text,
    name_of,
    parse_mapping,
)

GIVEN, READ = "_given_", "_read_"  # prefixes: the cell that a value is made of was not empty, and could be read
INT32_MAX = 2**31 - 1


@dataclass
class _Reading:
    """One section while it reads one file: the words of its name, and the last settlement of every market."""

    table: Table
    item: int
    origin: Origin
    words: Mapping[str, str]
    memory: pl.DataFrame = field(default_factory=MEMORY.to_frame)

    @property
    def has_symbol(self) -> bool:
        return "symbol" in polars_schema(CANONICAL[self.table.table])


# --- values ----------------------------------------------------------------------------------------------------------


def _text(name: str, reading: _Reading, piece: pl.DataFrame) -> pl.Expr:
    """A word of the file's name, else the text of a column."""
    if name in reading.words:
        return pl.lit(reading.words[name])
    called = reading.table.called(name)
    return as_text(called, piece.schema[called])


def _filled(template: str, reading: _Reading, piece: pl.DataFrame) -> pl.Expr:
    """The template with its words; null where one of them is empty."""
    parts = [part for part in SPLIT.split(template) if part]
    texts = [_text(part[1:-1], reading, piece) if WORD.fullmatch(part) else pl.lit(part) for part in parts]
    return pl.concat_str(texts)


def _of_column(name: str, value: Value, dtype: pl.DataType, given: pl.DataType) -> pl.Expr:
    """The cells of one column in the canonical type, null where they are none of it."""
    if dtype == pl.String:
        return as_text(name, given)
    if dtype == pl.Boolean:
        return as_truth(name, given)
    if not dtype.is_integer():
        number = as_number(name, given)
        return number if value.scale is None else number * value.scale
    whole = as_whole(name, given)
    if value.scale is not None:
        product = as_number(name, given) * value.scale
        whole = pl.when((product - product.round()).abs() < 1e-6).then(product.round()).cast(pl.Int64, strict=False)
    return pl.when(whole.abs() <= INT32_MAX).then(whole) if dtype == pl.Int32 else whole


def _value(name: str, value: Value, reading: _Reading, piece: pl.DataFrame) -> list[pl.Expr]:
    """The value's expression, and whether its cell was given and could be read."""
    dtype = {**polars_schema(CANONICAL[reading.table.table]), "price": pl.Float64()}[name]
    if value.constant is not None:
        return _certain(name, pl.lit(value.constant).cast(dtype))
    if value.gap:
        return _certain(name, pl.lit(None, dtype))
    if value.template is not None:
        found = given = _filled(value.template, reading, piece)
    elif value.base is not None:
        found = given = _text(value.base, reading, piece)
    else:
        called = reading.table.called(str(value.column))
        given = as_text(called, piece.schema[called])
        found = _of_column(called, value, dtype, piece.schema[called])
    if value.map is not None:
        found = found.replace_strict(dict(value.map), default=None, return_dtype=pl.String)
    there = (given.is_not_null().alias(GIVEN + name), found.is_not_null().alias(READ + name))
    return [found.alias(name), *there]


def _certain(name: str, value: pl.Expr) -> list[pl.Expr]:
    """A value that is the same on every line."""
    return [value.alias(name), pl.lit(True).alias(GIVEN + name), pl.lit(True).alias(READ + name)]


def _venue(reading: _Reading) -> list[pl.Expr]:
    """The venue that the user named, where the mapping does not read it from a column."""
    mapped, named = reading.table.values.get("venue"), reading.origin.venue
    return _named_by_user("venue", mapped, named, "--venue", reading)


def _named_by_user(name: str, mapped: Value | None, named: str | None, option: str, reading: _Reading) -> list[pl.Expr]:
    if named is not None and (mapped is None or mapped.constant is not None):
        return _certain(name, pl.lit(named))
    if named is not None:
        raise InputError(
            f"the mapping reads the {name} from the file", where=reading.origin.name, mend=f"omit {option}"
        )
    if mapped is None:
        mend = f"name it with {option}, or as `values.{name}` in the mapping"
        raise InputError(f"neither file nor mapping tell the {name}", where=reading.origin.name, mend=mend)
    return []


def _mapped(reading: _Reading, piece: pl.DataFrame) -> pl.DataFrame:
    """Every value of the section, `line`, `ragged`, `item`, and the columns that its stamps are read from."""
    columns = [expr for name, value in reading.table.values.items() for expr in _value(name, value, reading, piece)]
    named = _venue(reading)
    if reading.has_symbol:
        named += _named_by_user(
            "symbol", reading.table.values.get("symbol"), reading.origin.symbol, "--symbol", reading
        )
    placed = [pl.col("line"), (pl.col("ragged") if "ragged" in piece.columns else pl.lit(False)).alias("ragged")]
    replaced = {expr.meta.output_name() for expr in named}
    kept = [expr for expr in columns if expr.meta.output_name() not in replaced]
    return piece.select(*placed, pl.lit(reading.item).alias("item"), *kept, *named, *_stamps(reading, piece))


# --- moments and markets ---------------------------------------------------------------------------------------------


def _stamp(stamp: Stamp, reading: _Reading, piece: pl.DataFrame) -> tuple[pl.Expr, pl.Expr]:
    called = reading.table.called(stamp.column)
    dtype = piece.schema[called]
    if is_naive(dtype) and stamp.zone is None:
        mend = 'say `zone` in the mapping, for example zone = "UTC"'
        raise InputError(f"stamps of column {called} have no zone", where=reading.origin.name, mend=mend)
    moment, readable = as_moment(called, dtype, stamp.unit, stamp.format, stamp.zone)
    return moment + pl.duration(microseconds=round(stamp.shift_s * 1_000_000)), readable


def _stamps(reading: _Reading, piece: pl.DataFrame) -> list[pl.Expr]:
    """`ts`, `known_at` (default: ts), and whether each could be read."""
    ts, readable = _stamp(reading.table.ts, reading, piece)
    known = reading.table.known_at
    known_at, known_readable = (ts, readable) if known is None else (pl.lit(None), readable)
    if isinstance(known, Later):
        known_at = ts + pl.duration(microseconds=round(known.plus_s * 1_000_000))
    elif known is not None:
        known_at, known_readable = _stamp(known, reading, piece)
    return [
        ts.alias("ts"),
        known_at.alias("known_at"),
        readable.alias("_ts_readable"),
        known_readable.alias("_known_at_readable"),
    ]


def _with_market(rows: pl.DataFrame, value: Value, origin: Origin) -> pl.DataFrame:
    """`symbol` from the base in it: what the venue calls its market, in the first of `quotes` that it has."""
    markets = rows.select("venue", "symbol").unique().drop_nulls()
    asked = [(venue, base, _symbol(origin, venue, base, value)) for venue, base in markets.iter_rows()]
    known = pl.DataFrame(asked, {"venue": pl.String, "symbol": pl.String, "_symbol": pl.String}, orient="row")
    joined = rows.join(known, on=["venue", "symbol"], how="left", maintain_order="left")
    return joined.drop("symbol").rename({"_symbol": "symbol"})


def _symbol(origin: Origin, venue: str, base: str, value: Value) -> str | None:
    found = (origin.instruments.symbol_of(venue, base, quote, value.settlement) for quote in value.quotes)
    return next((symbol for symbol in found if symbol is not None), None)


# --- sizes -----------------------------------------------------------------------------------------------------------


def _sized(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Sizes in base units, dollars from sizes and sizes from dollars, each where the mapping does not give it.

    base: usd = qty * price. contracts: inverse usd = qty * contract_size, qty = usd / price; else
    qty * contract_size, usd = that * price. usd: qty = usd / price. Null where what it takes is null.
    """
    for size, price, money in SIZES.get(table.table, ()):
        rows = rows.with_columns(_both(rows.columns, size, price, money, table.qty_unit or "base"))
    return rows


def _both(columns: Sequence[str], size: str, price: str, money: str | None, unit: str) -> list[pl.Expr]:
    at = pl.col(price) if price in columns else pl.lit(None, pl.Float64)
    at = pl.when(at > 0).then(at)
    given = money is not None and money in columns
    if size not in columns:
        return [(pl.col(money) / at).alias(size)] if given and money is not None else []
    amount = pl.col(size)
    base = {"base": amount, "contracts": base_units(amount, at), "usd": amount / at}[unit]
    usd = {"base": amount * at, "contracts": dollars(amount, at), "usd": amount}[unit]
    return [base.alias(size), *([usd.alias(money)] if money is not None and not given else [])]


# --- judging ---------------------------------------------------------------------------------------------------------


def _checks(reading: _Reading, rows: pl.DataFrame) -> list[tuple[str, pl.Expr]]:
    """Everything that the section's own words and the canonical schema say against a row, strictest first."""
    checks: list[tuple[str, pl.Expr]] = []
    for name in ("ts", "known_at"):
        readable, there = pl.col(f"_{name}_readable"), pl.col(name).is_not_null()
        if name == "ts" or reading.table.known_at is not None:
            checks += [(f"unreadable_{name}", readable), (f"{name}_out_of_range", there | ~readable)]
    if reading.has_symbol:
        checks.append(("unknown_symbol", pl.col("contract_size").is_not_null() | pl.col("ts").is_null()))
    schema = CANONICAL[reading.table.table].columns()
    for name in (*schema, *WORKING.get(reading.table.table, ())):
        checks += _value_checks(name, schema.get(name), reading, rows)
    return checks


def _value_checks(name: str, column: object, reading: _Reading, rows: pl.DataFrame) -> list[tuple[str, pl.Expr]]:
    value, there = reading.table.values.get(name), pl.col(name).is_not_null()
    if name in ("ts", "known_at") or (name == "seq" and value is None):
        return []
    nullable = getattr(column, "nullable", True)
    if name not in rows.columns:
        return [] if nullable else [(f"missing_{name}", pl.lit(False))]
    if GIVEN + name not in rows.columns:  # follows from others
        return [*([] if nullable else [(f"missing_{name}", there)]), *_domain_checks(name, column, there)]
    given, read = pl.col(GIVEN + name), pl.col(READ + name)
    checks = _cell_checks(name, value, there, read | ~given)
    if not nullable and name in _sizes(reading.table):
        checks.append((f"missing_{name}", there | (given & ~read)))
    elif not nullable:
        checks.append((f"missing_{name}", given))
    return checks + _domain_checks(name, column, there)


def _sizes(table: Table) -> set[str]:
    return {size for size, _, _ in SIZES.get(table.table, ())}


def _cell_checks(name: str, value: Value | None, there: pl.Expr, readable: pl.Expr) -> list[tuple[str, pl.Expr]]:
    if name == "symbol" and value is not None and value.base is not None:
        return []  # a base without a market is an unknown symbol
    if value is not None and value.gap:
        return [("unknown_interval", there | pl.col("ts").is_null())]
    word = "unmapped" if value is not None and value.map is not None else "unreadable"
    checks = [(f"{word}_{name}", readable)]
    if name == "venue":
        checks.append(("bad_venue_name", ~there | pl.col(name).str.contains(f"^{VENUE_NAME.pattern}$")))
    return checks


def _domain_checks(name: str, column: object, there: pl.Expr) -> list[tuple[str, pl.Expr]]:
    """The bounds and the choices of the canonical schema, in words."""
    cell, checks = pl.col(name), []
    if getattr(column, "min_exclusive", None) == 0:
        checks.append((f"{name}_not_positive", ~there | (cell > 0)))
    elif getattr(column, "min", None) == 0:
        checks.append((f"{name}_negative", ~there | (cell >= 0)))
    choices = getattr(column, "check", None)
    if isinstance(choices, dict):
        checks += [(f"unknown_{name}", ~there | holds(cell)) for holds in choices.values()]
    return checks


# --- sections, lines, files ------------------------------------------------------------------------------------------


def _selected(reading: _Reading, piece: pl.DataFrame) -> pl.Expr:
    """Lines that meet `where`."""
    conditions = []
    for name, wanted in reading.table.where.items():
        called = reading.table.called(name)
        cell = as_text(called, piece.schema[called])
        conditions.append(cell.is_in([wanted] if isinstance(wanted, str) else list(wanted)).fill_null(False))
    return pl.all_horizontal(conditions) if conditions else pl.lit(True)


def _speaks(reading: _Reading, piece: pl.DataFrame) -> pl.Expr:
    """Lines on which one of the section's cells is not empty."""
    cells = [as_text(name, piece.schema[name]).is_not_null() for name in reading.table.measures()]
    return pl.any_horizontal(cells) if cells else pl.lit(True)


def _converted(reading: _Reading, piece: pl.DataFrame) -> pl.DataFrame:
    """Candidate rows of one section from the lines that it takes."""
    rows = _mapped(reading, piece)
    symbol = reading.table.values.get("symbol")
    if symbol is not None and symbol.base is not None and reading.origin.symbol is None:
        rows = _with_market(rows, symbol, reading.origin)
    if reading.has_symbol:
        rows = with_instrument(rows, reading.origin.instruments)
    if any(value.gap for value in reading.table.values.values()):
        rows, reading.memory = with_interval_h(rows.drop("interval_h"), reading.memory)
    sized = _sized(rows, reading.table)
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in sized.columns if _is_float(sized, name)]
    sized = sized.with_columns(finite)
    return candidates(reading.table.table, sized, unless_ragged(reasons(*_checks(reading, sized))))


def _is_float(rows: pl.DataFrame, name: str) -> bool:
    return rows.schema[name].is_float()


def _batch(piece: pl.DataFrame, readings: Sequence[_Reading]) -> Batch:
    """The candidates of every section, and the lines that no section takes, with the reason."""
    ragged = pl.col("ragged") if "ragged" in piece.columns else pl.lit(False)
    batch: dict[str, list[pl.DataFrame]] = {}
    chosen, taken = pl.lit(False), pl.lit(False)
    for nth, reading in enumerate(readings):
        selected = _selected(reading, piece)
        takes = selected & _speaks(reading, piece) if len(readings) > 1 else selected
        takes = (takes & ~ragged) | (ragged if nth == 0 else pl.lit(False))
        chosen, taken = chosen | selected, taken | takes
        batch.setdefault(reading.table.table, []).append(_converted(reading, piece.filter(takes)))
    mute = piece.with_columns(chosen.alias("_chosen")).filter(~taken)
    batch[SILENT] = [
        silent(mute.filter(~pl.col("_chosen")), "not_selected"),
        silent(mute.filter(pl.col("_chosen")), "empty"),
    ]
    return {name: pl.concat(frames) for name, frames in batch.items()}


def _readings(group: Sequence[Table], origin: Origin) -> list[_Reading]:
    name = PurePath(origin.name).name
    words = group[0].words_of(name)
    if words is None:
        mend = f"the mapping reads files called {group[0].files}"
        raise InputError("file name does not fit the mapping", where=name, mend=mend)
    tables = [table.table for table in group]
    return [_Reading(table, tables[:nth].count(table.table), origin, words) for nth, table in enumerate(group)]


def _without_header(piece: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The piece without a first line that repeats the names of `columns`, and that line."""
    names = table.columns or ()
    is_header = pl.all_horizontal(pl.col(name).str.to_lowercase() == name.lower() for name in names)
    first = pl.int_range(pl.len()) == 0
    marked = piece.with_columns((is_header & first & ~pl.col("ragged")).fill_null(False).alias("_header"))
    return marked.filter(~pl.col("_header")).drop("_header"), marked.filter("_header")


def _convert(pieces: Iterator[pl.DataFrame], origin: Origin, group: Sequence[Table]) -> Iterator[Batch]:
    readings = _readings(group, origin)
    by_place = group[0].header and group[0].columns is not None
    for nth, piece in enumerate(pieces):
        rows, header = _without_header(piece, group[0]) if by_place and nth == 0 else (piece, piece.clear())
        batch = _batch(rows, readings)
        yield {**batch, SILENT: pl.concat([silent(header, "header"), batch[SILENT]])}


def _never(_: Sequence[str]) -> bool:
    """The first line is a row: its columns are named by place."""
    return False


def _layout(group: Sequence[Table]) -> Layout:
    table = group[0]
    needed = tuple(dict.fromkeys(name for item in group for name in item.needed()))
    if table.columnar:
        return Columnar(needed)
    if table.columns is None:
        return Delimited(needed, separator=table.separator)
    return Delimited(table.columns, header=_never, separator=table.separator)


def _recognises(name: str, fields: Sequence[str], group: Sequence[Table], layout: Layout) -> bool:
    table = group[0]
    if table.words_of(PurePath(name).name) is None:
        return False
    if table.columns is None or table.columnar:
        return isinstance(layout, (Columnar, Delimited)) and set(layout.columns) <= set(fields)
    named = tuple(column.lower() for column in table.columns)
    return tuple(fields) == named if table.header else len(fields) == len(named)


def _kind(group: Sequence[Table]) -> Kind:
    layout = _layout(group)
    tables = tuple(dict.fromkeys(str(table.table) for table in group))
    unnumbered = tuple(
        dict.fromkeys(
            str(table.table)
            for table in group
            if "seq" in polars_schema(CANONICAL[table.table]) and "seq" not in table.values
        )
    )
    convert: Callable[[Iterator[pl.DataFrame], Origin], Iterator[Batch]] = partial(_convert, group=group)
    recognises: Callable[[str, Sequence[str]], bool] = partial(_recognises, group=group, layout=layout)
    return Kind(name_of(group), tables, layout, recognises, convert, content_seq=unnumbered)


def table_adapter(mapping: Path | str) -> Adapter:
    """The adapter `table` for a mapping: a file, the name of a shipped one, or the TOML text itself.

    One kind per set of files, called by its section's `name` or its tables. Raises InputError that lists every
    violation of the mapping at once.
    """
    is_text = isinstance(mapping, str) and "\n" in mapping
    text = str(mapping) if is_text else mapping_text(mapping)
    groups = parse_mapping(text, "mapping" if is_text else str(mapping))
    return Adapter("table", tuple(_kind(group) for group in groups))
