"""freqtrade files: what a row says by hand arithmetic, every reason, nothing lost, and the real folders."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.adapters.adapter import SILENT, Kind, Origin
from pipelines.adapters.freqtrade import ADAPTER
from pipelines.adapters.gaps import MEMORY, with_interval_h
from pipelines.adapters.rows import fields, pieces
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments

BOOK = load_instruments(Config())
REAL = Path(__file__).parents[4] / "shared" / "data"
T0 = datetime(2025, 10, 10, tzinfo=UTC)
real_data = pytest.mark.real_data


def _kind(path: Path) -> Kind:
    for kind in ADAPTER.kinds:
        try:
            if kind.recognises(path.name, fields(path, kind.layout)):
                return kind
        except InputError:
            continue
    raise AssertionError(f"no kind recognises {path.name}")


def _tables(path: Path, venue: str | None = "bybit", symbol: str | None = None) -> dict[str, pl.DataFrame]:
    """Every table's candidates of one file."""
    kind = _kind(path)
    found: dict[str, list[pl.DataFrame]] = {}
    for batch in kind.convert(pieces(path, kind.layout), Origin(path.name, venue, BOOK, symbol)):
        for table, rows in batch.items():
            found.setdefault(table, []).append(rows)
    return {table: pl.concat(frames) for table, frames in found.items()}


def _candle(**changes: Any) -> dict[str, Any]:
    values = {"date": T0, "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 3.0}
    return values | changes


def _feather(folder: Path, name: str, *rows: Mapping[str, Any], unit: str = "ms") -> Path:
    path = folder / name
    frame = pl.DataFrame(list(rows))
    if frame.schema["date"] == pl.Datetime:
        frame = frame.with_columns(pl.col("date").dt.cast_time_unit(unit))  # type: ignore[arg-type] # ms, us or ns
    frame.write_ipc(path)
    return path


def _json(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_candle_stamped_with_its_start_is_known_at_its_end(tmp_path: Path, unit: str) -> None:
    path = _feather(tmp_path, "BTC_USDT_USDT-5m-futures.feather", _candle(), unit=unit)
    row = _tables(path)["candles"].row(0, named=True)
    end = T0 + timedelta(minutes=5)
    assert (row["reason"], row["venue"], row["symbol"], row["line"]) == (None, "bybit", "BTCUSDT", 1)
    assert (row["ts"], row["known_at"], row["interval_s"]) == (end, end, 300)
    assert [row[name] for name in ("open", "high", "low", "close", "volume")] == [10.0, 12.0, 9.0, 11.0, 3.0]
    assert row["taker_buy_volume"] is None


@pytest.mark.parametrize("name", ["BTC_USDT_USDT-1h-futures.json", "BTC_USDT_USDT-1h-futures.json.gz"])
def test_the_json_form_says_the_same_as_the_feather(tmp_path: Path, name: str) -> None:
    ms = round(T0.timestamp() * 1000)
    path = _json(tmp_path, name, json.dumps([[ms, 10.0, 12.0, 9.0, 11.0, 3.0]]))
    feather = _feather(tmp_path, "BTC_USDT_USDT-1h-futures.feather", _candle())
    assert _tables(path)["candles"].equals(_tables(feather)["candles"])


def test_spot_pairs_are_the_spot_market(tmp_path: Path) -> None:
    row = _tables(_feather(tmp_path, "TRX_USDT-1d.feather", _candle()), venue="binance")["candles"].row(0, named=True)
    assert (row["symbol"], row["interval_s"], row["reason"]) == ("TRXUSDT", 86_400, None)


@pytest.mark.parametrize(("candle", "column"), [("mark", "mark"), ("index", "index")])
def test_the_close_of_a_mark_candle_is_the_mark_at_its_end(tmp_path: Path, candle: str, column: str) -> None:
    path = _feather(tmp_path, f"BTC_USDT_USDT-8h-{candle}.feather", _candle(volume=None))
    row = _tables(path)["marks"].row(0, named=True)
    assert (row["reason"], row[column], row["ts"]) == (None, 11.0, T0 + timedelta(hours=8))
    assert row["known_at"] == row["ts"]
    assert sum(row[name] is not None for name in ("mark", "index", "last")) == 1


def test_the_rate_stands_in_open_and_the_interval_in_the_gaps_not_in_the_name(tmp_path: Path) -> None:
    """Hours after T0: 0, 8, 16 (two gaps of 8), 20, 24 (two of 4); the name says 1h; stamps are ms late."""
    jitter = timedelta(milliseconds=7)
    stamps = [T0, T0 + timedelta(hours=8) + jitter, *(T0 + timedelta(hours=hour) for hour in (16, 20, 24))]
    rows = [_candle(date=stamp, open=1e-4 * nth) for nth, stamp in enumerate(stamps)]
    found = _tables(_feather(tmp_path, "BTC_USDT_USDT-1h-funding_rate.feather", *rows))["funding"]
    assert found["interval_h"].to_list() == [8.0, 8.0, 8.0, 4.0, 4.0]
    assert found["ts"].to_list() == found["known_at"].to_list() == stamps  # the settlement, jitter and all
    assert found["rate"].to_list() == pytest.approx([0.0, 1e-4, 2e-4, 3e-4, 4e-4])
    assert found["reason"].null_count() == 5


@pytest.mark.parametrize(
    ("hours", "intervals"),
    [
        ([0, 1, 2, 4, 5], [1, 1, 1, 1, 1]),  # one row is missing: a gap that grows alone is a hole
        ([0, 8, 24, 32], [8, 8, 8, 8]),  # 16 h is no interval
        ([0, 1, 2, 6, 10], [1, 1, 1, 4, 4]),  # a longer interval repeats
        ([0, 8, 16, 17, 18], [8, 8, 8, 1, 1]),
        ([0, 0, 1], [1, 1, 1]),  # a stamp twice is no gap
        ([0, 8], [8, 8]),
        ([0], [None]),
        ([0, 3], [None, None]),
    ],
)
def test_the_interval_is_the_gap_unless_the_gap_is_a_hole(hours: list[int], intervals: list[float | None]) -> None:
    rows = pl.DataFrame({"ts": [T0 + timedelta(hours=hour) for hour in hours]})
    rows = rows.with_columns(
        pl.col("ts").dt.cast_time_unit("us"), pl.lit("v").alias("venue"), pl.lit("s").alias("symbol")
    )
    found, _ = with_interval_h(rows, MEMORY.to_frame())
    assert found["interval_h"].to_list() == intervals


@given(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=3, max_size=12), st.data())
@settings(max_examples=40, deadline=None)
def test_the_gap_before_a_piece_is_remembered_per_market(gaps: list[int], data: st.DataObject) -> None:
    """Both markets agree wherever the cut is; where no gap grows, the cut changes nothing at all."""
    stamps = [T0 + timedelta(hours=sum(gaps[:nth])) for nth in range(len(gaps) + 1)]
    markets = [{"ts": stamp, "venue": "v", "symbol": symbol} for stamp in stamps for symbol in ("a", "b")]
    rows = pl.DataFrame(markets).with_columns(pl.col("ts").dt.cast_time_unit("us"))
    whole, _ = with_interval_h(rows, MEMORY.to_frame())
    cut = 2 * data.draw(st.integers(2, len(gaps)))
    head, memory = with_interval_h(rows[:cut], MEMORY.to_frame())
    tail, _ = with_interval_h(rows[cut:], memory)
    parts = pl.concat([head, tail])
    assert parts.filter(pl.col("symbol") == "a")["interval_h"].equals(
        parts.filter(pl.col("symbol") == "b")["interval_h"]
    )
    if all(gap <= before for before, gap in pairwise(gaps)):
        assert parts["interval_h"].equals(whole["interval_h"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"date": None}, "unreadable_ts"),
        ({"date": datetime(1999, 1, 1, tzinfo=UTC)}, "ts_out_of_range"),
        ({"date": datetime(2018, 1, 1, tzinfo=UTC)}, "unknown_symbol"),  # before the contract was in force
        ({"open": None}, "unreadable_open"),
        ({"open": float("nan")}, "unreadable_open"),
        ({"high": float("inf")}, "unreadable_high"),
        ({"low": 0.0}, "low_not_positive"),
        ({"close": -1.0}, "close_not_positive"),
        ({"volume": None}, "unreadable_volume"),
        ({"volume": -0.1}, "volume_negative"),
        ({"open": -1.0, "volume": -1.0}, "open_not_positive; volume_negative"),
    ],
)
def test_a_bad_candle_is_refused_for_what_is_bad_and_its_neighbours_are_not(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = _feather(tmp_path, "BTC_USDT_USDT-5m-futures.feather", _candle(), _candle(**changes), _candle(volume=0.0))
    assert _tables(path)["candles"]["reason"].to_list() == [None, reason, None]


def test_a_json_row_with_too_few_cells_is_ragged_and_nothing_else(tmp_path: Path) -> None:
    ms = round(T0.timestamp() * 1000)
    good = [ms, 10, 12, 9, 11, 3]
    path = _json(tmp_path, "BTC_USDT_USDT-5m-futures.json", json.dumps([good, good[:5], "x", good]))
    assert _tables(path)["candles"]["reason"].to_list() == [None, "ragged_line", "ragged_line", None]


def test_a_rate_that_is_none_and_an_interval_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    path = _feather(tmp_path, "BTC_USDT_USDT-8h-funding_rate.feather", _candle(open=None))
    assert _tables(path)["funding"]["reason"].to_list() == ["unreadable_rate; unknown_interval"]


def test_a_mark_without_a_close_is_refused_and_not_a_row_of_nulls(tmp_path: Path) -> None:
    path = _feather(tmp_path, "BTC_USDT_USDT-1h-mark.feather", _candle(close=None), _candle(close=0.0))
    assert _tables(path)["marks"]["reason"].to_list() == ["unreadable_close", "close_not_positive"]


@pytest.mark.parametrize(
    ("name", "venue", "said"),
    [
        ("BTC_USDT_USDT-5m-futures.feather", None, "--venue"),
        ("BTC_USDT_USDT-5m-futures.feather", "nowhere", "no linear market of BTC in USDT is known at nowhere"),
        ("ZZZ_USDT_USDT-5m-futures.feather", "okx", "no linear market of ZZZ in USDT is known at okx"),
        ("BTC_EUR_EUR-5m-futures.feather", "bybit", "no linear market"),
        ("BTC_USD_ETH-5m-futures.feather", "bybit", "no None market"),
    ],
)
def test_a_file_whose_market_is_not_told_is_refused_as_a_whole(
    tmp_path: Path, name: str, venue: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        _tables(_feather(tmp_path, name, _candle()), venue)


def test_a_forced_kind_does_not_guess_a_market_from_another_name() -> None:
    kind = ADAPTER.kinds[0]
    with pytest.raises(InputError, match="file name does not tell the market"):
        list(kind.convert(iter([pl.DataFrame([{"line": 1, **_candle()}])]), Origin("x.feather", "bybit", BOOK)))


@pytest.mark.parametrize(
    "name",
    [
        "BTC_USDT-trades.feather",
        "BTC_USDT_USDT-5m.feather",
        "BTC_USDT-5m-futures.feather",
        "x.feather",
        "BTC_USDT-1Mo.feather",
    ],
)
def test_other_files_are_not_recognised(tmp_path: Path, name: str) -> None:
    path = _feather(tmp_path, name, _candle())
    assert not any(kind.recognises(name, fields(path, kind.layout)) for kind in ADAPTER.kinds[::2])


CELL = st.one_of(
    st.none(), st.floats(), st.integers(), st.text(max_size=6), st.sampled_from(["1e999", "-0", "nan", ""])
)


@given(st.lists(st.lists(CELL, min_size=0, max_size=7), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_json_cells_are_every_row_comes_out_once(tmp_path: Path, rows: list[list[Any]]) -> None:
    for name in ("BTC_USDT_USDT-5m-futures.json", "BTC_USDT_USDT-8h-funding_rate.json"):
        found = _tables(_json(tmp_path, name, json.dumps(rows)))
        assert sorted(line for table in found.values() for line in table["line"]) == list(range(1, len(rows) + 1))
        sound = pl.concat([table.select("ts", "known_at", "reason") for table in found.values()])
        assert sound.filter(pl.col("reason").is_null() & pl.col("ts").is_null()).is_empty()


TYPES = st.sampled_from(
    [
        pl.String,
        pl.Float32,
        pl.Int64,
        pl.UInt64,
        pl.Boolean,
        pl.Date,
        pl.Datetime("ns"),
        pl.List(pl.Int8),
        pl.Binary,
        pl.Null,
    ]
)


@given(st.lists(TYPES, min_size=6, max_size=6), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_column_types_are_every_row_comes_out_once(tmp_path: Path, types: list[Any], date: int) -> None:
    names = ("date", "open", "high", "low", "close", "volume")
    columns = [pl.Series(name, [None, None], dtype=kind) for name, kind in zip(names, types, strict=True)]
    stamped = pl.Series("date", [date, 0]).cast(pl.Datetime("ms", "UTC"))
    for first in (columns[0], stamped):
        path = tmp_path / "BTC_USDT_USDT-5m-futures.feather"
        pl.DataFrame([first, *columns[1:]]).write_ipc(path)
        assert _tables(path)["candles"]["line"].to_list() == [1, 2]


# --- real folders ----------------------------------------------------------------------------------------------------


def _folder(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is absent")
    return REAL / name


@real_data
@pytest.mark.parametrize(
    ("folder", "venue", "counts"),
    [
        ("bybit-5m-2025-2026", "bybit", {"candles": 322_560, "marks": 26_880, "funding": 3_352}),
        ("okx-5m-2022", "okx", {"candles": 493_493, "marks": 162_731}),
        ("binance-5m-2023-2024", "binance-usdm", {"candles": 431_703, "marks": 4_494, "funding": 4_494}),
        ("binance-btc-5m-oct2025", "binance-usdm", {"candles": 8_688, "marks": 90, "funding": 90}),
        ("hyperliquid-5m-2025", "hyperliquid", {"candles": 231_047, "funding": 99_478}),
    ],
)
def test_every_row_of_the_real_folders_is_accepted(folder: str, venue: str, counts: dict[str, int]) -> None:
    found = dict.fromkeys(counts, 0)
    for path in sorted(_folder(folder).iterdir()):
        for table, rows in _tables(path, venue).items():
            assert table != SILENT
            assert rows["reason"].null_count() == rows.height
            found[table] += rows.height
    assert found == counts


@real_data
def test_a_real_candle_mark_and_rate_are_those_of_the_file() -> None:
    """bybit BTC, 2025-09-24: the candle of 00:00 opens at 111937.5, known at 00:05; a rate of 0.00001004."""
    folder = _folder("bybit-5m-2025-2026")
    candle = _tables(folder / "BTC_USDT_USDT-5m-futures.feather")["candles"].row(0, named=True)
    assert (candle["ts"], candle["open"]) == (datetime(2025, 9, 24, 0, 5, tzinfo=UTC), 111937.5)
    assert (candle["close"], candle["volume"]) == (111920.0, 124.406)
    mark = _tables(folder / "BTC_USDT_USDT-1h-mark.feather")["marks"].row(0, named=True)
    assert (mark["ts"], mark["mark"]) == (datetime(2025, 9, 24, 1, tzinfo=UTC), 112157.76)
    rate = _tables(folder / "BTC_USDT_USDT-1h-funding_rate.feather")["funding"].row(0, named=True)
    assert (rate["ts"], rate["rate"], rate["interval_h"]) == (datetime(2025, 9, 24, 8, tzinfo=UTC), 0.00001004, 8.0)


@real_data
def test_hyperliquids_change_from_eight_hours_to_one_is_seen_and_its_holes_are_not_intervals() -> None:
    folder = _folder("hyperliquid-5m-2025")
    rates = _tables(folder / "BTC_USDC_USDC-1h-funding_rate.feather", "hyperliquid")["funding"]
    assert dict(rates.group_by("interval_h").len().iter_rows()) == {8.0: 82, 1.0: 18_696}


@real_data
def test_okx_volumes_are_base_units_and_their_steps_are_the_contract_sizes() -> None:
    """The unit decides a factor of 100 for BTC: volumes are whole multiples of the contract size, not whole numbers."""
    folder = _folder("okx-5m-2022")
    for path in sorted(folder.glob("*-futures.feather")):
        rows = _tables(path, "okx")["candles"]
        size = BOOK.of(rows.select("venue", "symbol").head(1))["contract_size"][0]
        contracts = rows["volume"] / size
        assert (contracts - contracts.round()).abs().max() < 1e-5
