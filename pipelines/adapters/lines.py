"""Text files as frames of numbered lines, read piece by piece: plain, gzip or zip, and never half of one.

A table's line is one row, whatever it holds: a stray quote cannot swallow its neighbours, and a refused row can be
shown as it stood. Memory is bounded by `piece_bytes`, not by the file.
"""

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import polars as pl

from pipelines.errors import InputError

PIECE_BYTES = 1 << 23
PROBE_BYTES = 1 << 16  # enough for a header
LINE_BYTES_MAX = 1 << 20
GZIP_MAGIC, ZIP_MAGIC = b"\x1f\x8b", b"PK\x03\x04"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = " \t\r"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _opened(path: Path) -> Iterator["_Readable"]:
    """The decompressed bytes of `path`; the content decides, not the file's name."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(GZIP_MAGIC):
            with gzip.open(file) as text:
                yield text
        elif magic == ZIP_MAGIC:
            with zipfile.ZipFile(file) as archive, archive.open(_only_member(archive, path)) as text:
                yield text
        else:
            yield file


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise InputError(f"a zip must hold one file, this holds {len(members)}", where=path, mend="unpack it")
    return members[0]


def _pieces(path: Path, piece_bytes: int) -> Iterator[bytes]:
    """Runs of whole lines without the last line feed."""
    with _opened(path) as file:
        rest = b""
        while block := file.read(piece_bytes):
            head, feed, tail = block.rpartition(b"\n")
            if feed:
                yield rest + head
                rest = tail
            else:
                rest += block
            if len(rest) > LINE_BYTES_MAX:
                raise InputError(f"a line is longer than {LINE_BYTES_MAX} bytes, this is no table", where=path)
        if rest:
            yield rest


def _text(piece: bytes, path: Path) -> str:
    if b"\0" in piece:
        raise InputError("file is not text", where=path, mend="give a csv, csv.gz or zip of a csv")
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("file is not UTF-8 text", where=path, mend="give a csv, csv.gz or zip of a csv") from None


def numbered_lines(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[pl.DataFrame]:
    """Frames of `line` (Int64, 1 is the file's first line) and `raw`; blank lines count but are not handed out.

    Raises InputError for a file that is missing, unreadable, truncated, corrupt or not text. The frames before such a
    fault have been handed out by then: use nothing before the end is reached.
    """
    first, mark = 1, BYTE_ORDER_MARK
    try:
        for piece in _pieces(path, piece_bytes):
            lines = (
                pl.Series("raw", [_text(piece.removeprefix(mark), path)])
                .str.split("\n")
                .explode()
                .str.strip_suffix("\r")
            )
            frame = lines.to_frame().select(pl.int_range(first, first + len(lines)).alias("line"), "raw")
            first, mark = first + len(lines), b""
            yield frame.filter(pl.col("raw").str.strip_chars(BLANKS) != "")
    except _BROKEN as error:
        raise InputError(
            f"file is truncated or corrupt ({type(error).__name__}: {error})", where=path, mend="fetch it again"
        ) from None
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except OSError as error:
        raise InputError(f"file cannot be read ({error.strerror or error})", where=path) from None


def first_fields(path: Path) -> tuple[int, tuple[str, ...]]:
    """Number and fields of the first line that is not blank. Raises InputError for an empty file."""
    for frame in numbered_lines(path, PROBE_BYTES):
        if frame.height:
            line, raw = frame.row(0)
            return line, tuple(_bare(field) for field in raw.split(","))
    raise InputError("file is empty", where=path, mend="fetch it again")


def _bare(field: str) -> str:
    return field.strip(BLANKS).strip('"').strip(BLANKS)


def with_fields(lines: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Split `raw` at commas into text columns `names`, and say in `ragged` where their number is another.

    Blanks and double quotes around a field are dropped; a comma inside quotes makes the line ragged.

    >>> with_fields(pl.DataFrame({"line": [1, 2], "raw": ['a, "b"', "a,b,c"]}), ("x", "y")).rows()
    [(1, False, 'a', 'b'), (2, True, 'a', 'b')]
    """
    # split_exact(by, 1) is the shortest polars allows: a single column is not split at all.
    commas = len(names) - 1
    fields = pl.col("raw").str.split_exact(",", max(commas, 1)).struct
    bare = (fields.field(f"field_{place}").str.strip_chars(BLANKS) for place in range(len(names)))
    unquoted = (field.str.strip_chars('"').str.strip_chars(BLANKS) for field in bare)
    return lines.select(
        "line",
        (pl.col("raw").str.count_matches(",", literal=True) != commas).alias("ragged"),
        *(field.alias(name) for field, name in zip(unquoted, names, strict=True)),
    )
