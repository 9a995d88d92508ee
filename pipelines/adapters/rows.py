"""The rows of a file as frames, piece by piece, whatever the file's layout: text, json lines, columnar, json table.

Every piece has `line` (Int64: the line of a text file, the row of a columnar one, both counted from 1). `texts` gives a
refused row back as it stood.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from pipelines.adapters.lines import first_line, numbered_lines, split_fields, whole_text, with_fields
from pipelines.errors import InputError

ROWS_PER_PIECE = 200_000
YEAR_2100_S = 4_102_444_800
PER_S = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
PARQUET_MAGIC, FEATHER_MAGIC = b"PAR1", b"ARROW1"


def always(_: Sequence[str]) -> bool:
    """Every file of this layout has a header."""
    return True


@dataclass(frozen=True)
class Delimited:
    """Text with a separator. Pieces: `line`, `ragged`, and a text column per field, named in lower case.

    `header(fields)` says whether the first line names the columns; without one they are `columns` and then
    `columns_optional`, as many as there are. A header may hold more columns, in any order.
    """

    columns: tuple[str, ...]
    columns_optional: tuple[str, ...] = ()
    header: Callable[[Sequence[str]], bool] = always
    separator: str = ","


@dataclass(frozen=True)
class JsonLines:
    """One json value a line, perhaps after a stamp. Pieces: `line`, `raw` (the text of the line)."""


@dataclass(frozen=True)
class Columnar:
    """Feather or parquet. Pieces: `line` and the file's columns with their own types; `columns` must be there."""

    columns: tuple[str, ...]


@dataclass(frozen=True)
class JsonTable:
    """One json array of arrays. Pieces: `line` (place in the array), `ragged`, and text columns `columns`.

    The file is read whole: such files hold candles, not events.
    """

    columns: tuple[str, ...]


@dataclass(frozen=True)
class JsonDocument:
    """One json object that holds a list of objects under `records`, beside facts about all of them.

    Pieces: `line` (place in the list), `raw` (the element as json), `head` (the object without its lists and objects,
    as json). The file is read whole: such files hold summaries, not events.
    """

    records: str


Layout = Delimited | JsonLines | Columnar | JsonTable | JsonDocument


def fields(path: Path, layout: Layout, first: Callable[[Path], tuple[int, str]] = first_line) -> tuple[str, ...]:
    """What a file is recognised by: the fields of its first line, or its column names. Empty for json lines.

    `first` gives the first line; who asks for many layouts of a file may keep it. Raises InputError where the file
    cannot be read in this layout at all.
    """
    if isinstance(layout, Columnar):
        return _column_names(path)
    if isinstance(layout, JsonTable):
        return layout.columns if whole_text(path, 64).lstrip().startswith("[") else ()
    if isinstance(layout, JsonDocument):
        return tuple(_document(path)) if whole_text(path, 64).lstrip().startswith("{") else ()
    _, raw = first(path)
    if isinstance(layout, JsonLines):
        return (raw,)
    return tuple(field.lower() for field in split_fields(raw, layout.separator))


def pieces(path: Path, layout: Layout) -> Iterator[pl.DataFrame]:
    """The rows of `path` in order. Raises InputError for a broken file or a missing column; see `numbered_lines`."""
    if isinstance(layout, Delimited):
        return _delimited(path, layout)
    if isinstance(layout, JsonLines):
        return numbered_lines(path)
    if isinstance(layout, Columnar):
        return _columnar(path, layout)
    if isinstance(layout, JsonTable):
        return _json_table(path, layout)
    return _json_document(path, layout)


def texts(path: Path, layout: Layout, lines: pl.DataFrame) -> pl.DataFrame:
    """`line, raw` of the rows named by `lines` (column `line`, unique), as they stood in the file."""
    if isinstance(layout, (Delimited, JsonLines)):
        found = [frame.join(lines, on="line", how="semi") for frame in numbered_lines(path)]
    elif isinstance(layout, JsonDocument):
        found = [frame.join(lines, on="line", how="semi") for frame in pieces(path, layout)]
    else:
        found = [_as_text(frame.join(lines, on="line", how="semi")) for frame in pieces(path, layout)]
    return pl.concat(found).select("line", "raw")


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    shown = frame.drop("line", "ragged", strict=False)
    cells = [_shown(name, dtype) for name, dtype in shown.schema.items()]
    return frame.select("line", pl.struct(cells).struct.json_encode().alias("raw"))


def _shown(name: str, dtype: pl.DataType) -> pl.Expr:
    """A cell as json can show it; a moment that no calendar holds as the number it is."""
    if not isinstance(dtype, pl.Datetime):
        return pl.col(name)
    count = pl.col(name).to_physical()
    inside = (count >= 0) & (count < YEAR_2100_S * PER_S[dtype.time_unit])
    return pl.coalesce(pl.when(inside).then(pl.col(name)).dt.to_string("iso"), count.cast(pl.String)).alias(name)


# --- text ------------------------------------------------------------------------------------------------------------


def _checked(path: Path, names: Sequence[str], layout: Delimited | Columnar) -> tuple[str, ...]:
    missing = [name for name in layout.columns if name not in names]
    expected = f"expected are {','.join(layout.columns)}"
    if missing:
        raise InputError(f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, mend=expected)
    if len(set(names)) < len(names):
        raise InputError("a column name stands twice in the header", where=path, mend=expected)
    return tuple(names)


def _names(path: Path, layout: Delimited) -> tuple[int, tuple[str, ...]]:
    """Line number of the header (0 without one) and the names of the file's columns."""
    line, raw = first_line(path)
    found = tuple(field.lower() for field in split_fields(raw, layout.separator))
    if layout.header(found):
        return line, _checked(path, found, layout)
    return 0, _checked(path, (*layout.columns, *layout.columns_optional)[: len(found)], layout)


def _delimited(path: Path, layout: Delimited) -> Iterator[pl.DataFrame]:
    header, names = _names(path, layout)
    for lines in numbered_lines(path):
        yield with_fields(lines.filter(pl.col("line") != header), names, layout.separator)


# --- columns ---------------------------------------------------------------------------------------------------------

_BROKEN = (pa.ArrowException, OSError, ValueError)


def _column_names(path: Path) -> tuple[str, ...]:
    try:
        with pa.OSFile(str(path)) as file:
            return tuple(_reader(file, path).schema.names)
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except _BROKEN as error:
        raise _corrupt(path, error) from None


def _reader(file: pa.NativeFile, path: Path) -> "pa.ipc.RecordBatchFileReader | _ParquetBatches":
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(FEATHER_MAGIC):
        return pa.ipc.open_file(file)
    if magic.startswith(PARQUET_MAGIC):
        return _ParquetBatches(pa.parquet.ParquetFile(file))
    raise InputError("neither feather nor parquet", where=path, mend="give a feather (version 2) or parquet file")


def _corrupt(path: Path, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:200]
    return InputError(f"file is truncated or corrupt ({said})", where=path, mend="fetch it again")


@dataclass(frozen=True)
class _ParquetBatches:
    """A parquet file read like a feather file: batch by batch."""

    file: pa.parquet.ParquetFile

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file:
        reader = _reader(file, path)
        if isinstance(reader, _ParquetBatches):
            yield from reader.file.iter_batches(batch_size=ROWS_PER_PIECE)
        else:
            for nth in range(reader.num_record_batches):
                yield reader.get_batch(nth)


def _columnar(path: Path, layout: Columnar) -> Iterator[pl.DataFrame]:
    _checked(path, _column_names(path), layout)
    first = 1
    try:
        for batch in _batches(path):
            batch.validate(full=True)  # a damaged feather file can promise what it does not hold
            frame = pl.DataFrame(pa.table([*batch.columns], names=batch.schema.names))
            yield frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias("line"))
            first += frame.height
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (*_BROKEN, pl.exceptions.PolarsError) as error:
        raise _corrupt(path, error) from None


# --- json table ------------------------------------------------------------------------------------------------------


def _loaded(path: Path) -> Any:
    """The file as json, numbers left as the text they are."""
    try:
        return json.loads(whole_text(path), parse_float=str, parse_int=str)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"file is not json ({error})", where=path, mend="fetch it again") from None


def _document(path: Path) -> dict[str, Any]:
    found = _loaded(path)
    return found if isinstance(found, dict) else {}


def _json_document(path: Path, layout: JsonDocument) -> Iterator[pl.DataFrame]:
    document = _document(path)
    records = document.get(layout.records)
    if not isinstance(records, list):
        raise InputError(f"file holds no list `{layout.records}`", where=path)
    head = json.dumps({name: value for name, value in document.items() if not isinstance(value, (dict, list))})
    texts_ = pl.Series("raw", [json.dumps(record) for record in records], dtype=pl.String)
    line = pl.int_range(1, len(records) + 1, dtype=pl.Int64, eager=True).alias("line")
    yield pl.DataFrame([line, texts_]).with_columns(pl.lit(head).alias("head"))


def _json_table(path: Path, layout: JsonTable) -> Iterator[pl.DataFrame]:
    rows = _loaded(path)
    if not isinstance(rows, list):
        raise InputError("file is not a json array of rows", where=path, mend=f"expected are {layout.columns}")
    width = len(layout.columns)
    even = [row if isinstance(row, list) and len(row) == width else [None] * width for row in rows]
    columns = {
        name: pl.Series(name, [_cell(row[place]) for row in even], dtype=pl.String)
        for place, name in enumerate(layout.columns)
    }
    ragged = pl.Series("ragged", [not (isinstance(row, list) and len(row) == width) for row in rows], dtype=pl.Boolean)
    line = pl.int_range(1, len(rows) + 1, dtype=pl.Int64, eager=True).alias("line")
    yield pl.DataFrame([line, ragged, *columns.values()])


def _cell(value: object) -> str | None:
    return None if value is None else str(value)
