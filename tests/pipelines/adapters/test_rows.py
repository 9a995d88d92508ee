"""Files as frames of rows: every layout, however packed and cut; and the registry with its cards."""

import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.adapters import ADAPTERS, adapter_named
from pipelines.adapters.lines import numbered_lines, with_fields
from pipelines.adapters.rows import Columnar, Delimited, JsonDocument, JsonLines, JsonTable, fields, pieces, texts
from pipelines.errors import InputError

README = Path(__file__).parents[3] / "pipelines" / "adapters" / "README.md"


def _plain(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def _gzip(path: Path, text: bytes) -> None:
    path.write_bytes(gzip.compress(text, mtime=0))


def _xz(path: Path, text: bytes) -> None:
    path.write_bytes(lzma.compress(text))


def _zip(path: Path, text: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", text)


@pytest.mark.parametrize("write", [_plain, _gzip, _xz, _zip])
@pytest.mark.parametrize("piece_bytes", [1, 3, 1 << 20])
def test_lines_keep_their_numbers_however_the_file_is_packed_and_cut(
    tmp_path: Path, write: Callable[[Path, bytes], None], piece_bytes: int
) -> None:
    path = tmp_path / "a.bin"
    write(path, b'\xef\xbb\xbfa,b\r\n\r\n"x,\xc3\xa9\n \nlast')
    lines = pl.concat(list(numbered_lines(path, piece_bytes)))
    assert lines.rows() == [(1, "a,b"), (3, '"x,é'), (5, "last")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "truncated or corrupt"),
        (lambda data: data[:-4], "truncated or corrupt"),
        (lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:], "truncated or corrupt"),
        (lambda data: data + b"rubbish", "truncated or corrupt"),
        (lambda data: b"\x00" * 100, "not text"),
        (lambda data: b"\xff\xfe" + data, "not (UTF-8 )?text"),
        (lambda data: lzma.compress(data)[:-9], "truncated or corrupt"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_an_input_error(
    tmp_path: Path, spoil: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(spoil(gzip.compress("\n".join(str(i * i) for i in range(5000)).encode(), mtime=0)))
    with pytest.raises(InputError, match=said) as error:
        list(numbered_lines(path))
    assert str(path) in str(error.value)


def test_a_line_without_end_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.adapters.lines.LINE_BYTES_MAX", 1000)
    (tmp_path / "a").write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="a line is longer"):
        list(numbered_lines(tmp_path / "a", 100))


@pytest.mark.parametrize(("lines", "refused"), [(10_000, False), (10_001, True)])
def test_a_file_that_unpacks_to_more_than_any_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, refused: bool
) -> None:
    monkeypatch.setattr("pipelines.adapters.lines.UNPACKED_FREE_BYTES", 40_000)
    monkeypatch.setattr("pipelines.adapters.lines.UNPACKED_RATIO_MAX", 10)
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(b"a,b\n" * lines))
    assert path.stat().st_size * 10 < 40_000
    if not refused:
        assert sum(frame.height for frame in numbered_lines(path, 100)) == lines
        return
    with pytest.raises(InputError, match="unpacks to more than 10 times its size"):
        list(numbered_lines(path, 100))


def test_a_truncated_or_crowded_zip_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    _zip(path, b"a,b\n" * 1000)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated or corrupt"):
        list(numbered_lines(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.csv", "a")
        archive.writestr("two.csv", "b")
    with pytest.raises(InputError, match="must hold one file, this holds 2"):
        list(numbered_lines(path))


@pytest.mark.parametrize("padding", ["", " ", '"', "\t"])
def test_blanks_and_quotes_around_a_field_do_not_matter(padding: str) -> None:
    lines = pl.DataFrame({"line": [1, 2], "raw": [f"{padding}a{padding},b", "a,b,c"]})
    assert with_fields(lines, ("x", "y")).rows() == [(1, False, "a", "b"), (2, True, "a", "b")]


# --- layouts ---------------------------------------------------------------------------------------------------------

STAMPS = [datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)]


def _columnar(frame: pl.DataFrame, how: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer) if how == "parquet" else frame.write_ipc(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["parquet", "feather"])
def test_columns_keep_their_types_and_rows_their_place(tmp_path: Path, how: str) -> None:
    path = tmp_path / f"a.{how}"
    path.write_bytes(_columnar(pl.DataFrame({"date": STAMPS, "open": [1.5, None]}), how))
    layout = Columnar(("date",))
    assert fields(path, layout) == ("date", "open")
    (frame,) = pieces(path, layout)
    assert frame.select("line", "open").rows() == [(1, 1.5), (2, None)]
    assert isinstance(frame.schema["date"], pl.Datetime)
    told = texts(path, layout, pl.DataFrame({"line": [2]}))
    assert told.rows() == [(2, '{"date":"2025-01-02 00:00:00.000000+00:00","open":null}')]


@pytest.mark.parametrize("how", ["parquet", "feather"])
@pytest.mark.parametrize("cut", [0, 3, 40, -1, -20])
def test_a_cut_columnar_file_is_an_input_error(tmp_path: Path, how: str, cut: int) -> None:
    path = tmp_path / f"a.{how}"
    path.write_bytes(_columnar(pl.DataFrame({"date": STAMPS}), how)[:cut])
    with pytest.raises(InputError, match=r"truncated|neither feather"):
        list(pieces(path, Columnar(("date",))))


def test_a_moment_that_no_calendar_holds_is_shown_as_the_number_it_is(tmp_path: Path) -> None:
    """Formatting such a moment panics; a refused row must be shown all the same."""
    path = tmp_path / "a.feather"
    wild = pl.Series("date", [2**62, 0], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    path.write_bytes(_columnar(pl.DataFrame([wild]), "feather"))
    told = texts(path, Columnar(("date",)), pl.DataFrame({"line": [1]}))
    assert told.rows() == [(1, f'{{"date":"{2**62}"}}')]


def test_a_json_table_says_which_rows_are_ragged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[[1, 0.1], [2], 7, [3, null]]")
    (frame,) = pieces(path, JsonTable(("t", "x")))
    assert frame.rows() == [(1, False, "1", "0.1"), (2, True, None, None), (3, True, None, None), (4, False, "3", None)]


def test_a_json_document_hands_out_its_records_with_the_facts_about_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"when": "now", "rows": [{"a": 1.50}, 2], "other": [3]}')
    layout = JsonDocument("rows")
    assert fields(path, layout) == ("when", "rows", "other")
    (frame,) = pieces(path, layout)
    assert frame["raw"].to_list() == ['{"a": "1.50"}', '"2"']  # numbers keep their text
    assert frame["head"].unique().to_list() == ['{"when": "now"}']
    with pytest.raises(InputError, match="no list `when`"):
        list(pieces(path, JsonDocument("when")))


@pytest.mark.parametrize("text", ["{", "[1, ", '{"a": }', "nonsense"])
def test_broken_json_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError):
        list(pieces(tmp_path / "a.json", JsonTable(("a",))))
    with pytest.raises(InputError):
        list(pieces(tmp_path / "a.json", JsonDocument("a")))


def test_a_missing_or_doubled_column_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,b\n1,2,3\n")
    with pytest.raises(InputError, match="missing column c"):
        list(pieces(tmp_path / "a.csv", Delimited(("a", "c"))))
    with pytest.raises(InputError, match="stands twice"):
        list(pieces(tmp_path / "a.csv", Delimited(("a", "b"))))
    (tmp_path / "b.csv").write_text("x;y\n1;2\n")
    (frame,) = pieces(tmp_path / "b.csv", Delimited(("x", "y"), separator=";"))
    assert frame.rows() == [(2, False, "1", "2")]
    assert fields(tmp_path / "b.csv", JsonLines()) == ("x;y",)


# --- the registry ----------------------------------------------------------------------------------------------------


def test_every_adapter_has_its_card_and_the_card_names_its_kinds() -> None:
    cards = README.read_text().split("\n## ")
    for adapter in ADAPTERS:
        (card,) = [card for card in cards if card.startswith(f"`{adapter.name}`")]
        for kind in adapter.kinds:
            assert kind.name.removesuffix("-json") in card, f"{adapter.name}: {kind.name}"
            assert all(f"`{table}`" in card for table in kind.tables), f"{adapter.name}: {kind.tables}"


def test_kinds_of_an_adapter_have_different_names() -> None:
    for adapter in ADAPTERS:
        names = [kind.name for kind in adapter.kinds]
        assert len(set(names)) == len(names)


def test_an_unknown_adapter_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"tardis, binance-archive.*table"):
        adapter_named("kaiko")
    with pytest.raises(InputError, match="needs a mapping"):
        adapter_named("table")
    with pytest.raises(InputError, match="is for the adapter table"):
        adapter_named("tardis", Path("a.toml"))
