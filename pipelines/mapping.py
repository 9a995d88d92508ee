"""Mappings: what the columns of somebody's own table mean, read from a TOML file and validated whole.

A file holds `[[table]]` sections; each says which files it reads and what every canonical column is made of. Sections
with the same `files` read the same rows: one line may speak for several tables.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import polars as pl
from pydantic import Field, ValidationError, field_validator, model_validator

from features.schema import CANONICAL, polars_schema
from pipelines.config import Section
from pipelines.errors import InputError

TABLES = tuple(name for name in CANONICAL if name != "instruments")
WORD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SPLIT = re.compile(r"(\{[A-Za-z_][A-Za-z0-9_]*\})")  # the same word, kept by a split
SUFFIXES_COLUMNAR = (".parquet", ".feather", ".arrow")
# table -> (size, price, dollars) columns that follow from one another; `price` of open interest is no column of it
SIZES: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "trades": (("qty", "price", "notional_usd"),),
    "liquidations": (("qty", "price", "notional_usd"),),
    "open_interest": (("oi_base", "price", "oi_usd"),),
    "candles": (("volume", "close", None), ("taker_buy_volume", "close", None)),
    "quotes": (("bid_qty", "bid", None), ("ask_qty", "ask", None)),
    "book_events": (("qty", "price", None),),
    "book_levels": (("qty", "price", None),),
}
WORKING = {"open_interest": ("price",)}


def has_offset(text_format: str) -> bool:
    """True if stamps of this format say their own distance to UTC.

    >>> has_offset("%Y-%m-%d %H:%M:%S%.f%z"), has_offset("%Y-%m-%d")
    (True, False)
    """
    return "%z" in text_format or "%:z" in text_format or "%#z" in text_format or "%+" in text_format


class Stamp(Section):
    """A moment in a column: numbers that count `unit` since 1970, text of a `format`, or a date-time column."""

    column: str = Field(min_length=1)
    unit: Literal["s", "ms", "us", "ns"] | None = None
    format: str | None = Field(None, min_length=1)
    zone: str | None = Field(None, description="of wall-clock stamps, for example Asia/Kolkata")
    shift_s: float = Field(0.0, description="added: the interval where the stamp is its start")

    @model_validator(mode="after")
    def _told(self) -> "Stamp":
        if self.unit is not None and self.format is not None:
            raise ValueError("`unit` is for numbers, `format` for text: give one of them")
        if self.format is not None and has_offset(self.format) == (self.zone is not None):
            raise ValueError("`zone` is needed where the `format` has no offset (%z), and only there")
        return self

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            return value if value is None else ZoneInfo(value).key
        except (OSError, ValueError, KeyError):
            raise ValueError("is no time zone") from None


class Later(Section):
    """`known_at` that follows `ts` by a known delay."""

    plus_s: float = Field(ge=0)


class Value(Section):
    """What a canonical column is made of: one of a column, a constant, a template, a market's base, the gaps."""

    column: str | None = Field(None, min_length=1)
    constant: bool | int | float | str | None = None
    template: str | None = Field(None, min_length=1, description="text with {words} of the file's name or columns")
    base: str | None = Field(None, min_length=1, description="column or word with the base: the venue's own symbol")
    gap: bool = Field(False, description="interval_h: hours between neighbouring rows")
    map: Mapping[str, str] | None = Field(None, min_length=1)
    scale: float | None = Field(None, description="the number is multiplied by this: 0.01 for percent")
    quotes: tuple[Literal["USD", "USDT", "USDC"], ...] = Field(("USDT", "USDC", "USD"), min_length=1)
    settlement: Literal["spot", "linear", "inverse"] = "linear"

    @model_validator(mode="after")
    def _one_source(self) -> "Value":
        sources = [self.column, self.constant, self.template, self.base, self.gap or None]
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give one of `column`, `constant`, `template`, `base`, `gap`")
        if self.map is not None and self.column is None and self.template is None:
            raise ValueError("`map` needs a `column` or a `template`")
        if self.scale is not None and (self.column is None or self.map is not None or self.scale == 0):
            raise ValueError("`scale` needs a `column` of numbers, and is not 0")
        return self

    def names(self) -> tuple[str, ...]:
        """Columns or words that this is made of."""
        found = [self.column, self.base, *(WORD.findall(self.template) if self.template is not None else ())]
        return tuple(name for name in found if name is not None)


class Table(Section):
    """One `[[table]]` section."""

    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    table: Literal[TABLES]  # type: ignore[valid-type] # the registry of canonical tables is the list of choices
    files: str = Field(
        min_length=1, description="name pattern: * any text, ? a character, {word} text used in templates"
    )
    format: Literal["auto", "csv", "columnar"] = "auto"
    header: bool = True
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="names by place, as they shall be called here"
    )
    separator: str = Field(",", min_length=1, max_length=1)
    where: Mapping[str, str | tuple[str, ...]] = Field(default_factory=dict)
    qty_unit: Literal["base", "contracts", "usd"] | None = None
    ts: Stamp
    known_at: Stamp | Later | None = None
    values: Mapping[str, Value]

    @field_validator("values", mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        """A bare text names a column."""
        if not isinstance(values, dict):
            return values
        return {name: {"column": item} if isinstance(item, str) else item for name, item in values.items()}

    @property
    def columnar(self) -> bool:
        return self.format == "columnar" or (self.format == "auto" and self.files.endswith(SUFFIXES_COLUMNAR))

    @property
    def reading(self) -> tuple[object, ...]:
        """How the file is read: equal for all sections of the same files."""
        return self.columnar, self.header, self.columns, self.separator

    def words(self) -> tuple[str, ...]:
        """Names of the words that the file's name holds."""
        return tuple(WORD.findall(self.files))

    def called(self, name: str) -> str:
        """What a column is called in the rows that were read: the header of a text file is read in lower case."""
        return name if self.columnar or self.columns is not None else name.lower()

    def needed(self) -> tuple[str, ...]:
        """Columns that the file must have, as they are called in the rows that were read."""
        stamps = [stamp.column for stamp in (self.ts, self.known_at) if isinstance(stamp, Stamp)]
        named = [name for value in self.values.values() for name in value.names() if name not in self.words()]
        return tuple(dict.fromkeys(self.called(name) for name in (*stamps, *named, *self.where)))

    def measures(self) -> tuple[str, ...]:
        """Columns whose cells are what a line says: all of them empty, and the section says nothing on that line."""
        key = set(CANONICAL[self.table].primary_key())
        sources = [value.column for name, value in self.values.items() if name not in key]
        return tuple(self.called(name) for name in sources if name is not None)

    def words_of(self, name: str) -> dict[str, str] | None:
        """The words in a file's name; null if it is no name of this section.

        `{word}` and `*` take as little as they can; a name without the pattern's text around them does not fit.
        """
        pieces = [part for text in SPLIT.split(self.files) for part in re.split(r"([*?])", text)]
        special = {"*": ".*?", "?": "."}
        pattern = "".join(
            f"(?P<{piece[1:-1]}>.+?)" if WORD.fullmatch(piece) else special.get(piece, re.escape(piece))
            for piece in pieces
        )
        found = re.fullmatch(pattern, name)
        return None if found is None else found.groupdict()


# --- what pydantic cannot see ----------------------------------------------------------------------------------------


def _reading_faults(table: Table) -> Iterator[str]:
    words = table.words()
    if len(set(words)) < len(words):
        yield f"`files`: a word may stand once, was {table.files!r}"
    if table.columnar and (not table.header or table.columns is not None or table.separator != ","):
        yield "`header`, `columns` and `separator` are for text files"
    if not table.columnar and not table.header and table.columns is None:
        yield "`columns` must name the columns of a file without a header"
    if not table.columnar and table.separator in '"\n\r':
        yield f"`separator` must not be a quote or a line feed, was {table.separator!r}"
    if table.columns is not None:
        if len(set(table.columns)) < len(table.columns):
            yield "`columns`: a name stands twice"
        missing = [name for name in table.needed() if name not in table.columns]
        if missing:
            yield f"`columns` must name {', '.join(missing)}"
    for name in ("ts", "known_at"):
        stamp = getattr(table, name)
        if isinstance(stamp, Stamp) and not table.columnar and stamp.unit is None and stamp.format is None:
            yield f"`{name}`: a text file's stamp needs `unit` or `format`"


def _value_faults(table: Table) -> Iterator[str]:
    types = dict(polars_schema(CANONICAL[table.table])) | dict.fromkeys(WORKING.get(table.table, ()), pl.Float64())
    for name, value in table.values.items():
        dtype = types.get(name)
        if dtype is None or name in ("ts", "known_at"):
            yield f"`values.{name}` is no value of {table.table}"
            continue
        textual = dtype == pl.String
        if value.base is not None and name != "symbol":
            yield f"`values.{name}`: `base` is for the symbol"
        if value.gap and name != "interval_h":
            yield f"`values.{name}`: `gap` is for `interval_h`"
        if value.scale is not None and not dtype.is_numeric():
            yield f"`values.{name}`: `scale` is for numbers"
        if not textual and (value.template is not None or value.map is not None):
            yield f"`values.{name}`: `template` and `map` make text, this is {dtype}"
        if value.constant is not None and not _fits(value.constant, dtype):
            yield f"`values.{name}`: `constant` must be {dtype}, was {value.constant!r}"


def _fits(constant: object, dtype: pl.DataType) -> bool:
    if dtype == pl.Boolean or isinstance(constant, bool):
        return dtype == pl.Boolean and isinstance(constant, bool)
    if dtype.is_integer():
        return isinstance(constant, int) and abs(constant) < 2**31
    return isinstance(constant, (int, float) if dtype.is_numeric() else str)


def _size_faults(table: Table) -> Iterator[str]:
    sizes = SIZES.get(table.table, ())
    given = set(table.values)
    if table.qty_unit is not None and not given & {size for size, _, _ in sizes}:
        yield "`qty_unit` needs a size among `values`"
    for size, _, dollars in sizes:
        if dollars is not None and not given & {size, dollars}:
            yield f"`values` must hold {size} or {dollars}"
        if table.qty_unit == "usd" and {size, dollars} <= given:
            yield f"`qty_unit` usd: {size} would be dollars as {dollars} is, map it as {dollars} alone"


def _required_faults(table: Table) -> Iterator[str]:
    """Columns that nothing else can stand in for. Venue and symbol may be named on the command line."""
    derived = {
        name for size in SIZES.get(table.table, ()) for name in size if name is not None and name in _dollars(size)
    }
    free = {"venue", "symbol", "ts", "known_at", "seq", *derived}
    for name, column in CANONICAL[table.table].columns().items():
        if not column.nullable and name not in free and name not in table.values:
            yield f"`values` must hold {name}"


def _dollars(size: tuple[str, str, str | None]) -> tuple[str, ...]:
    """Size and dollars where they follow from each other."""
    return (size[0], size[2]) if size[2] is not None else ()


def _said(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a setting of a table"
    message = error["msg"].removeprefix("Value error, ")
    was = "" if error["type"] == "missing" or isinstance(error["input"], (dict, list)) else f", was {error['input']!r}"
    return f"`{name}`: {message}{was}" if name else f"{message}{was}"


def _parsed(content: Mapping[str, Any]) -> Iterator[Table | str]:
    tables = content.get("table")
    if set(content) - {"table", "description"} or not isinstance(content.get("description", ""), str):
        yield f"holds only `description` and [[table]] sections, was {sorted(content)}"
    if not isinstance(tables, list) or not tables:
        yield "holds no [[table]] section"
        return
    for nth, values in enumerate(tables, start=1):
        where = f"table {nth}"
        try:
            table = Table.model_validate(values)
        except ValidationError as error:
            yield from (f"{where}: {_said(item)}" for item in error.errors(include_url=False))
            continue
        for check in (_reading_faults, _value_faults, _size_faults, _required_faults):
            yield from (f"{where} ({table.table}): {fault}" for fault in check(table))
        yield table


def _cross_faults(groups: Sequence[tuple[Table, ...]]) -> Iterator[str]:
    names = [name_of(group) for group in groups]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two kinds of files are called {name}: give each a `name`"
    for group in groups:
        if len({table.reading for table in group}) > 1:
            yield f"`files` {group[0].files!r}: the sections differ in `format`, `header`, `columns` or `separator`"


def grouped(tables: Sequence[Table]) -> tuple[tuple[Table, ...], ...]:
    """Sections by their `files`, in order."""
    patterns = dict.fromkeys(table.files for table in tables)
    return tuple(tuple(table for table in tables if table.files == pattern) for pattern in patterns)


def name_of(group: Sequence[Table]) -> str:
    """What the kind of files is called: the first `name` of its sections, else their tables."""
    named = [table.name for table in group if table.name is not None]
    return named[0] if named else "+".join(dict.fromkeys(str(table.table) for table in group))


def parse_mapping(text: str, where: str) -> tuple[tuple[Table, ...], ...]:
    """The sections of a mapping, grouped by the files they read.

    Raises InputError that lists every violation at once.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"mapping is not TOML ({error})", where=where) from None
    parsed = list(_parsed(content))
    faults = [item for item in parsed if isinstance(item, str)]
    groups = grouped([item for item in parsed if isinstance(item, Table)])
    faults += _cross_faults(groups)
    if faults:
        what = f"{len(faults)} fault{'s' * (len(faults) > 1)} in mapping: " + " | ".join(faults)
        raise InputError(what, where=where)
    return groups


# --- files -----------------------------------------------------------------------------------------------------------


def shipped_mappings() -> dict[str, str]:
    """Name -> text of the mappings that come with the package."""
    folder = resources.files("pipelines").joinpath("mapping_files")
    found = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return {item.name.removesuffix(".toml"): item.read_text(encoding="utf-8") for item in found}


def mapping_text(mapping: Path | str) -> str:
    """The text of a mapping: a shipped one by its name, else a file. Raises InputError where there is none."""
    shipped = shipped_mappings()
    if str(mapping) in shipped:
        return shipped[str(mapping)]
    try:
        return Path(mapping).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        mend = f"name a mapping file, or one of: {', '.join(shipped)}"
        raise InputError(f"mapping cannot be read ({error})", where=mapping, mend=mend) from None
