import gzip
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.schema import IngestLog, Quarantine, Trades
from pipelines.bars import build_pending
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.ingest import FILES_AHEAD, Choice, IngestSummary, ingest
from pipelines.lake import Lake

T0 = 1760054400_000000  # 2025-10-10T00:00:00Z
HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
TABLES = ("instruments", "quarantine", "pending", "trades", "ingest_log")
CONFIG = Config()


def _line(number: int, symbol: str = "AVAXUSD_PERP", exchange: str = "binance-delivery", **changes: object) -> str:
    values: dict[str, object] = {"ts": T0 + number * 1000, "id": number, "side": "buy", "price": 20.5, "amount": 3}
    values |= changes
    stamps = f"{values['ts']},{int(str(values['ts'])) + 5000}"
    return f"{exchange},{symbol},{stamps},{values['id']},{values['side']},{values['price']},{values['amount']}"


def _file(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def _run(lake: Lake, *paths: Path, **options: Any) -> IngestSummary:
    progress = options.pop("progress", None)
    return ingest("tardis", list(paths), lake, CONFIG, Choice(**options), progress=progress)


def _content(lake: Lake, tables: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    """The tables of the lake in an order of their own, so that equal content is equal."""
    frames = {name: lake.scan(name).collect() for name in tables}
    keys = {"instruments": ["venue", "symbol", "effective_from"]}
    return {name: frame.sort(keys.get(name, frame.columns)) for name, frame in frames.items()}


def _assert_same(one: Lake, other: Lake, tables: tuple[str, ...] = TABLES) -> None:
    mine, theirs = _content(one, tables), _content(other, tables)
    for name in tables:
        assert mine[name].height > 0
        assert_frame_equal(mine[name], theirs[name])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files with sound, broken and repeated rows, also repeated between the files."""
    root = tmp_path / "in"
    _file(root / "a.csv", [*(_line(i) for i in range(40)), _line(7), "broken", _line(90, side="unknown")])
    _file(root / "sub" / "b.csv.gz", [_line(i, "BCHUSD_PERP") for i in range(30)] + [_line(99, "NOPE")])
    _file(root / "sub" / "c.csv.gz", [_line(i) for i in range(35, 60)])
    return root


# --- what is taken, what is refused ----------------------------------------------------------------------------------


def test_rows_are_accepted_or_quarantined_with_reason_place_and_text(lake: Lake, tmp_path: Path) -> None:
    rows = [_line(2), _line(1), "", _line(3, price="-1"), _line(1, price=99), "a,b", _line(10)]
    path = _file(tmp_path / "a.csv", rows)

    summary = _run(lake, path)

    assert (summary.files, summary.rows_read, summary.rows_accepted, summary.rows_quarantined) == (1, 6, 3, 3)
    assert summary.reasons == {"duplicate_key": 1, "price_not_positive": 1, "ragged_line": 1}
    assert summary.symbols == ("binance-coinm:AVAXUSD_PERP",)
    stored = Trades.validate(lake.scan("trades").collect())
    assert stored["trade_id"].to_list() == ["1", "2", "10"]  # by number: as text 10 would come before 2
    assert stored["price"].to_list() == [20.5, 20.5, 20.5]  # the first of the two trades numbered 1 is kept
    refused = Quarantine.validate(lake.scan("quarantine").sort("line").collect())
    # line 1 is the header, line 4 is blank: no row, but it counts as a line
    assert refused.select("line", "reason", "raw").rows() == [
        (5, "price_not_positive", rows[3]),
        (6, "duplicate_key", rows[4]),
        (7, "ragged_line", "a,b"),
    ]
    assert refused["venue"].to_list()[:2] == ["binance-coinm"] * 2
    assert refused["ts"].is_null().to_list() == [False, False, True]
    log = IngestLog.validate(lake.scan("ingest_log").collect()).row(0, named=True)
    assert (log["source"], log["adapter"], log["rows_read"]) == ("a.csv", "tardis/trades", 6)


def test_trades_of_one_microsecond_are_stored_by_the_number_of_their_id(lake: Lake, tmp_path: Path) -> None:
    _run(lake, _file(tmp_path / "a.csv", [_line(0, id=name) for name in (10, 9, 100, "x")]))
    assert lake.scan("trades").collect()["trade_id"].to_list() == ["9", "10", "100", "x"]


def test_rows_that_the_lake_already_holds_are_duplicates_and_the_first_is_kept(lake: Lake, tmp_path: Path) -> None:
    _run(lake, _file(tmp_path / "a.csv", [_line(1), _line(2)]))
    summary = _run(lake, _file(tmp_path / "b.csv", [_line(2, price=99), _line(3), _line(2, "BCHUSD_PERP")]))
    assert summary.reasons == {"duplicate_key": 1}
    stored = lake.scan("trades").sort("symbol", "ts").collect()
    assert stored.select("symbol", "trade_id", "price").rows() == [
        ("AVAXUSD_PERP", "1", 20.5),
        ("AVAXUSD_PERP", "2", 20.5),
        ("AVAXUSD_PERP", "3", 20.5),
        ("BCHUSD_PERP", "2", 20.5),
    ]


def test_the_canonical_schema_is_the_last_gate(lake: Lake, tmp_path: Path) -> None:
    """Price and amount are each a number, their product is not: only the schema sees it."""
    lines = [_line(1, "BTCUSDT", "binance-futures"), _line(2, "BTCUSDT", "binance-futures", price=1e200, amount=1e200)]
    summary = _run(lake, _file(tmp_path / "a.csv", lines))
    assert summary.rows_accepted == 1
    assert list(summary.reasons) == ["notional_usd|inf"]
    assert lake.scan("quarantine").collect()["line"].to_list() == [3]


def test_a_depth_file_is_stored_without_its_unsound_snapshots(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-bookDepth-2025-10-10.csv"
    sound = ["2025-10-10 00:00:07,-1.00,2,198", "2025-10-10 00:00:07,1.00,3,306"]  # averages 99 and 102
    crossed = ["2025-10-10 00:00:37,-1.00,2,210", "2025-10-10 00:00:37,1.00,3,309"]  # averages 105 and 103
    path.write_text("\n".join([*sound, *crossed]) + "\n")  # no header

    summary = ingest("binance-archive", [tmp_path], lake, CONFIG)

    assert (list(summary.tables), summary.rows_accepted, summary.reasons) == (["book_depth"], 2, {"crossed_book": 2})
    stored = lake.scan("book_depth", "binance-usdm", symbol="BTCUSDT").sort("side").collect()
    assert stored.select("side", "band_bps", "depth_usd").rows() == [("ask", 100, 306.0), ("bid", 100, 198.0)]
    assert lake.scan("quarantine").sort("line").collect()["raw"].to_list() == crossed


@pytest.mark.parametrize(
    ("role", "market", "said"),
    [
        ("spot", ("AVAXUSD_PERP", "binance-delivery"), "settlement is inverse.*leave out --role spot"),
        ("spot", ("BTCUSDT", "binance-futures"), "settlement is linear"),
        ("perp", ("AVAX-USD", "coinbase"), "settlement is spot.*use --role spot"),
    ],
)
def test_the_role_must_fit_the_settlement(
    lake: Lake, tmp_path: Path, role: str, market: tuple[str, str], said: str
) -> None:
    path = _file(tmp_path / "a.csv", [_line(1, *market)])
    with pytest.raises(InputError, match=said):
        _run(lake, path, role=role)
    assert not lake.has("trades")


def test_spot_trades_are_taken_in_the_role_spot(lake: Lake, tmp_path: Path) -> None:
    summary = _run(lake, _file(tmp_path / "a.csv", [_line(1, "AVAX-USD", "coinbase")]), role="spot")
    assert summary.symbols == ("coinbase:AVAX-USD",)


def test_the_venue_option_names_the_venue(lake: Lake, tmp_path: Path) -> None:
    summary = _run(lake, _file(tmp_path / "a.csv", [_line(1, exchange="?")]), venue="binance-coinm")
    assert summary.symbols == ("binance-coinm:AVAXUSD_PERP",)


# --- files that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", None, "no such file"),
        ("a.csv", b"", "file is empty"),
        ("a.csv", b"\n \n", "file is empty"),
        ("a.csv", HEADER.encode(), "a header and no row"),
        ("a.csv", HEADER.replace("id,side,", "").encode() + b"\n1", "missing columns id, side"),
        ("a.csv", HEADER.replace(",price", "").encode() + b"\n1", "missing column price"),
        ("a.csv", (HEADER + ",price\n1").encode(), "stands twice"),
        ("a.csv", b"\x00\x01\x02" * 50, "not text"),
        ("a.csv", b"\x89PNG\r\n\xff\xfe", "not UTF-8"),
        ("a.csv.gz", gzip.compress(f"{HEADER}\n{_line(1)}\n".encode(), mtime=0)[:-5], "truncated or corrupt"),
        ("a.csv.gz", gzip.compress(HEADER.encode(), mtime=0)[:12], "truncated or corrupt"),
        ("a.zip", b"PK\x03\x04 this is no zip", "truncated or corrupt"),
        ("a.csv", b"a,b\n1,2\n", "not a tardis file by its name and columns"),
        ("a.csv", f"{HEADER}\n{_line(1, 'NOPE')}\n".encode(), "every one of 1 rows.*unknown_symbol.*instruments"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_stores_nothing(
    lake: Lake, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        _run(lake, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(lake.has(table) for table in ("trades", "quarantine", "ingest_log"))


def test_a_gzip_cut_in_its_last_bytes_is_never_half_read(lake: Lake, tmp_path: Path) -> None:
    """All rows are there, only the checksum is not: a lenient reader would take the file."""
    path = _file(tmp_path / "a.csv.gz", [_line(i) for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        _run(lake, path)
    assert not lake.has("trades")


def test_one_bad_file_does_not_keep_the_others_out(lake: Lake, folder: Path) -> None:
    (folder / "bad.csv.gz").write_bytes(b"\x1f\x8b\x08")
    _file(folder / "worse.csv", [_line(1, "NOPE")])
    absent = folder / "absent.csv"
    with pytest.raises(InputError) as error:
        _run(lake, folder, absent)
    text = str(error.value)
    assert "3 files refused, 3 others ingested" in text
    assert all(name in text for name in ("bad.csv.gz", "worse.csv", "absent.csv"))
    assert lake.scan("ingest_log").collect().height == 3
    (folder / "bad.csv.gz").unlink()
    (folder / "worse.csv").unlink()
    assert len(_run(lake, folder).skipped) == 3


def test_a_directory_gives_the_files_of_this_kind_and_says_what_it_ignored(lake: Lake, folder: Path) -> None:
    _file(folder / "quotes.csv", ["1,2"], header="exchange,symbol")
    (folder / "notes.txt").write_text("no data")
    summary = _run(lake, folder)
    assert summary.files == 3
    assert [Path(path).name for path in summary.ignored] == ["notes.txt", "quotes.csv"]


def test_a_directory_without_any_such_file_is_an_input_error(lake: Lake, tmp_path: Path) -> None:
    root = tmp_path / "in"
    _file(root / "quotes.csv", ["1,2"], header="exchange,symbol")
    with pytest.raises(InputError, match=r"no tardis file in directory, 1 of other kinds"):
        _run(lake, root)
    assert not lake.root.exists()


@pytest.mark.parametrize("venue", ["", "Binance", "a b", "../x", "-a", "a'b"])
def test_a_bad_venue_name_is_an_input_error(lake: Lake, folder: Path, venue: str) -> None:
    with pytest.raises(InputError, match="venue must match"):
        _run(lake, folder, venue=venue)


def test_bad_arguments_are_input_errors(lake: Lake, folder: Path) -> None:
    with pytest.raises(InputError, match="`role` must be one of perp, spot"):
        _run(lake, folder, role="future")
    with pytest.raises(InputError, match="no file to ingest"):
        _run(lake)
    with pytest.raises(InputError, match="unknown adapter"):
        ingest("nope", [folder], lake, CONFIG)


def test_a_file_that_changes_while_it_is_read_is_refused(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path / "a.csv", [_line(1)])
    real = Lake.committed

    def grow(self: Lake, table: str, source_sha256: str) -> bool:
        path.write_text(path.read_text() + _line(2) + "\n")
        return real(self, table, source_sha256)

    monkeypatch.setattr(Lake, "committed", grow)
    with pytest.raises(InputError, match="changed while it was read"):
        _run(lake, path)
    assert not lake.has("trades")


# --- exactly once ----------------------------------------------------------------------------------------------------


def test_ingesting_twice_changes_nothing(lake: Lake, folder: Path, tmp_path: Path) -> None:
    first = _run(lake, folder)
    versions = {table: lake.version(table) for table in TABLES}
    copy = tmp_path / "copy.csv"
    copy.write_bytes((folder / "a.csv").read_bytes())

    again = _run(lake, folder, copy)

    # a: 40 sound, 3 refused; b: 30 and 1; c: 20 new, 5 that a had
    assert (first.files, first.rows_read, first.rows_accepted, first.rows_quarantined) == (3, 99, 90, 9)
    assert first.reasons == {"duplicate_key": 6, "ragged_line": 1, "unknown_side": 1, "unknown_symbol": 1}
    assert (again.files, again.rows_read, len(again.skipped)) == (0, 0, 4)
    assert {table: lake.version(table) for table in TABLES} == versions


def test_the_same_bytes_under_two_names_are_one_file(lake: Lake, tmp_path: Path) -> None:
    paths = [_file(tmp_path / name, [_line(1)]) for name in ("a.csv", "b.csv")]
    summary = _run(lake, *paths)
    assert (summary.files, summary.skipped) == (1, (str(paths[1]),))


def test_files_that_are_read_ahead_are_stored_in_order_and_few_wait_on_disk(tmp_path: Path) -> None:
    """Workers that are done in the wrong order: one key in all files, so that the first file decides."""
    waiting: list[int] = []

    class Backwards:
        workers = 2

        def map(self, lake: Lake, work: Any, items: Any) -> Iterator[Any]:
            read = [(item, work(lake, item)) for item in items]
            for pair in reversed(read):
                waiting.append(sum(found.staging.folder.exists() for _, found in read))
                yield pair

    count = 2 * FILES_AHEAD * Backwards.workers + 3
    files = [_file(tmp_path / f"{n:02}.csv", [_line(0, price=n + 1), _line(n + 1)]) for n in range(count)]
    straight, backwards = Lake(tmp_path / "straight"), Lake(tmp_path / "backwards")
    ingest("tardis", files, straight, CONFIG)
    ingest("tardis", files, backwards, CONFIG, pool=Backwards())
    _assert_same(straight, backwards)
    assert backwards.scan("trades").filter(trade_id="0").collect()["price"].to_list() == [1.0]
    assert max(waiting) == FILES_AHEAD * Backwards.workers


def test_progress_names_every_file(lake: Lake, folder: Path) -> None:
    seen: list[str] = []
    _run(lake, folder, progress=seen.append)
    assert seen == ["a.csv", "b.csv.gz", "c.csv.gz"]


class _KilledError(Exception):
    """Stands for the end of the process."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Let `commits` appends through, then end."""
    real, left = Lake.append, iter(range(commits))

    def append(self: Lake, table: str, frame: pl.DataFrame, source_sha256: str) -> None:
        if next(left, None) is None:
            raise _KilledError
        real(self, table, frame, source_sha256)

    monkeypatch.setattr(Lake, "append", append)


@pytest.fixture
def undisturbed(tmp_path: Path, folder: Path) -> Lake:
    lake = Lake(tmp_path / "undisturbed")
    _run(lake, folder)
    return lake


def test_a_run_killed_between_any_two_commits_is_completed_by_the_next(
    undisturbed: Lake, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    while True:
        lake = Lake(tmp_path / f"killed{commits}")
        with monkeypatch.context() as patch:
            _kill_at(patch, commits)
            try:
                _run(lake, folder)
                break  # all commits went through
            except _KilledError:
                pass
        _run(lake, folder)
        _assert_same(lake, undisturbed)
        commits += 1
    assert commits == 14  # instruments of two symbols; quarantine, pending bars, table and log of three files


def test_a_killed_file_counts_exactly_even_if_another_came_in_between(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a is killed after its quarantine; b then brings a row of a: on the rerun of a it is one more refusal."""
    a = _file(tmp_path / "a.csv", [_line(1), _line(2), "broken"])
    b = _file(tmp_path / "b.csv", [_line(2), _line(3)])
    with monkeypatch.context() as patch:
        _kill_at(patch, 2)  # instruments, quarantine of a
        with pytest.raises(_KilledError):
            _run(lake, a)
    _run(lake, b)
    summary = _run(lake, a)
    assert (summary.rows_accepted, summary.rows_quarantined) == (1, 2)
    assert lake.scan("quarantine").sort("line").collect().select("line", "reason").rows() == [
        (3, "duplicate_key"),
        (4, "ragged_line"),
    ]
    assert Trades.validate(lake.scan("trades").collect())["trade_id"].sort().to_list() == ["1", "2", "3"]


def test_what_a_killed_run_has_refused_stays_refused(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The symbol becomes known between the two runs: its row must not be in quarantine and in the table as well."""
    path = _file(tmp_path / "a.csv", [_line(1), _line(2, "NEW-PERP")])
    with monkeypatch.context() as patch:
        _kill_at(patch, 2)  # instruments, quarantine
        with pytest.raises(_KilledError):
            _run(lake, path)
    new = tmp_path / "new.toml"
    new.write_text(
        '[[instrument]]\nvenue = "binance-coinm"\nsymbol = "NEW-PERP"\nbase = "NEW"\nquote = "USD"\n'
        'settlement = "inverse"\ncontract_size = 10\neffective_from = 2020-01-01T00:00:00Z\n'
    )
    summary = ingest("tardis", [path], lake, Config(instruments=(new,)))
    assert (summary.rows_accepted, summary.rows_quarantined) == (1, 1)
    assert lake.scan("trades").collect()["symbol"].to_list() == ["AVAXUSD_PERP"]
    assert lake.scan("quarantine").collect()["reason"].to_list() == ["unknown_symbol"]


PRIVATE = """
[[table]]
table = "collateral"
files = "col*.csv"
ts = { column = "t", unit = "us" }
[table.values]
venue = { constant = "hyperliquid" }
account = "user"
asset = "asset"
amount = "amount"

[[table]]
table = "positions"
files = "pos*.csv"
ts = { column = "t", unit = "us" }
[table.values]
venue = { constant = "hyperliquid" }
account = "user"
symbol = "coin"
qty = "size"
entry_price = "entry"
margin_mode = "mode"
isolated_margin = "margin"
"""


def test_deposits_and_positions_come_from_a_table_and_a_deposit_has_no_symbol(lake: Lake, tmp_path: Path) -> None:
    mapping = tmp_path / "own.toml"
    mapping.write_text(PRIVATE)
    rows = [f"{T0},0xa,USDC,1000.5", f"{T0},0xb,USDC,much", f"{T0},0xa,USDC,7"]
    deposits = _file(tmp_path / "col.csv", rows, "t,user,asset,amount")
    held = [f"{T0},0xa,BTC,-0.5,100000,cross,", f"{T0},0xb,ETH,3,2500,isolated,500"]
    positions = _file(tmp_path / "pos.csv", held, "t,user,coin,size,entry,mode,margin")
    summary = ingest("table", [deposits, positions], lake, CONFIG, Choice(mapping=mapping))
    assert (summary.rows_accepted, summary.reasons) == (3, {"duplicate_key": 1, "unreadable_amount": 1})
    assert lake.scan("collateral").select("account", "asset", "amount").collect().rows() == [("0xa", "USDC", 1000.5)]
    assert lake.scan("positions").collect()["qty"].to_list() == [-0.5, 3.0]
    again = _file(tmp_path / "col2.csv", [rows[0], f"{T0 + 1},0xa,USDC,8"], "t,user,asset,amount")
    assert ingest("table", [again], lake, CONFIG, Choice(mapping=mapping)).reasons == {"duplicate_key": 1}


MORTAL = """
import os, signal, sys, time
from pathlib import Path
from pipelines.bars import build_pending
from pipelines.config import Config
from pipelines.ingest import ingest
from pipelines.lake import Lake
folder, root, plans = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
real = Lake.append
def mortal(commits):
    left = iter(range(commits))
    def append(self, *args):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *args)
    Lake.append = append
for plan in plans:
    kind, _, value = plan.partition(":")
    child = os.fork()  # nothing has started a thread yet: all was imported, nothing was run
    if child == 0:
        if kind == "commits":
            mortal(int(value))
        ingest("tardis", [folder], Lake(root / plan), Config())
        build_pending(Lake(root / plan), "binance-coinm")
        os._exit(0)
    if kind == "seconds":
        time.sleep(float(value))
        os.kill(child, signal.SIGKILL)
    print(plan, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_real_kill_leaves_nothing_that_a_rerun_does_not_mend(undisturbed: Lake, folder: Path, tmp_path: Path) -> None:
    """Ten points: before a commit, and at any moment of ingest or bars, lock held or not."""
    dice = random.Random(11)
    plans = [f"commits:{dice.randint(low, low + 2)}" for low in (1, 4, 7, 10)]
    plans += [f"seconds:{dice.uniform(0.02, 1.5):.3f}" for _ in range(6)]
    arguments = [sys.executable, "-c", MORTAL, str(folder), str(tmp_path), *plans]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=True)
    fates = dict(line.split() for line in ended.stdout.splitlines())
    assert list(fates) == plans
    assert [fates[plan] for plan in plans[:4]] == ["-9"] * 4
    build_pending(undisturbed, "binance-coinm")
    for plan in plans:
        lake = Lake(tmp_path / plan)
        _run(lake, folder)
        build_pending(lake, "binance-coinm")
        _assert_same(lake, undisturbed, ("instruments", "quarantine", "trades", "ingest_log", "bars"))
        assert lake.scan("pending").collect().is_empty()


numbers = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@settings(max_examples=8, deadline=None)
@given(ids=numbers, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_any_split_of_the_rows_into_files_accepts_the_same_rows(ids: list[int], cuts: list[int]) -> None:
    lines = [_line(number, "AVAXUSD_PERP" if number % 3 else "BCHUSD_PERP") for number in ids]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole, split = Lake(root / "whole"), Lake(root / "split")
        _run(whole, _file(root / "all.csv", lines))
        bounds = sorted({0, len(lines), *(cut for cut in cuts if cut < len(lines))})
        parts = [_file(root / f"part{start}.csv", lines[start:end]) for start, end in pairwise(bounds)]
        for part in parts:
            with suppress(InputError):  # a part that brings nothing new is refused whole
                _run(split, part)
        expected = whole.scan("trades").sort("symbol", "ts").collect()
        assert expected.height == len(set(ids))
        assert_frame_equal(split.scan("trades").sort("symbol", "ts").collect(), expected)
