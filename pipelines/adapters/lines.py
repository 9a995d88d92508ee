"""Text files as frames of numbered lines, read piece by piece: plain, gzip, xz or zip, and never half of one.

A table's line is one row, whatever it holds: a stray quote cannot swallow its neighbours, and a refused row can be
shown as it stood. Memory is bounded by `piece_bytes`, not by the file.
"""

import gzip
import lzma
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
LINE_BYTES_MAX = 1 << 26  # a venue's block of a crash is one line of many megabytes
UNPACKED_FREE_BYTES, UNPACKED_RATIO_MAX = 1 << 30, 500  # xz brings a table of one repeated row to a hundredth
GZIP_MAGIC, ZIP_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zX"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = " \t\r"
PADDING = r'[ \t\r"]'
_BROKEN = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)


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
        elif magic == XZ_MAGIC:
            with lzma.open(file) as unpacked:
                yield unpacked
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
    """Runs of whole lines without the last line feed; InputError once a file unpacks to more than any table does."""
    most = max(UNPACKED_FREE_BYTES, UNPACKED_RATIO_MAX * path.stat().st_size)
    with _opened(path) as file:
        rest, seen = b"", 0
        while block := file.read(piece_bytes):
            seen += len(block)
            if seen > most:
                what = f"file unpacks to more than {UNPACKED_RATIO_MAX} times its size, this is no table"
                raise InputError(what, where=path, mend="unpack it yourself and look at it")
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


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the many ways in which a file can be unreadable into one InputError."""
    try:
        yield
    except _BROKEN as error:
        raise InputError(
            f"file is truncated or corrupt ({type(error).__name__}: {error})", where=path, mend="fetch it again"
        ) from None
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except OSError as error:
        raise InputError(f"file cannot be read ({error.strerror or error})", where=path) from None


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
    with _explained(path):
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


def first_line(path: Path) -> tuple[int, str]:
    """Number and text of the first line that is not blank. Raises InputError for an empty file."""
    for frame in numbered_lines(path, PROBE_BYTES):
        if frame.height:
            line, raw = frame.row(0)
            return line, raw
    raise InputError("file is empty", where=path, mend="fetch it again")


def whole_text(path: Path, bytes_max: int | None = None) -> str:
    """The text of `path`, or its first `bytes_max` bytes. Raises InputError as `numbered_lines` does."""
    with _explained(path), _opened(path) as file:
        return _text(file.read(-1 if bytes_max is None else bytes_max).removeprefix(BYTE_ORDER_MARK), path)


def split_fields(raw: str, separator: str = ",") -> tuple[str, ...]:
    """The fields of one line without the blanks and double quotes around them.

    >>> split_fields(' a,"b" ,c')
    ('a', 'b', 'c')
    """
    return tuple(field.strip(BLANKS).strip('"').strip(BLANKS) for field in raw.split(separator))


def with_fields(lines: pl.DataFrame, names: Sequence[str], separator: str = ",") -> pl.DataFrame:
    """Split `raw` into text columns `names`, and say in `ragged` where their number is another.

    Blanks and double quotes around a field are dropped; a separator inside quotes makes the line ragged.

    >>> with_fields(pl.DataFrame({"line": [1, 2], "raw": ['a, "b"', "a,b,c"]}), ("x", "y")).rows()
    [(1, False, 'a', 'b'), (2, True, 'a', 'b')]
    """
    # split_exact(by, 1) is the shortest polars allows: a single column is not split at all.
    separators = len(names) - 1
    cells = pl.col("raw").str.split_exact(separator, max(separators, 1)).struct
    fields = [cells.field(f"field_{place}") for place in range(len(names))]
    if lines["raw"].str.contains(PADDING).any():  # most files have none, and looking costs a fraction of stripping
        fields = [field.str.strip_chars(BLANKS).str.strip_chars('"').str.strip_chars(BLANKS) for field in fields]
    return lines.select(
        "line",
        (pl.col("raw").str.count_matches(separator, literal=True) != separators).alias("ragged"),
        *(field.alias(name) for field, name in zip(fields, names, strict=True)),
    )
