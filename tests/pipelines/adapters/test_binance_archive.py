"""The archive's files, kind by kind: hand arithmetic, every reason word, and nothing lost whatever the text."""

import gzip
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schema import CANONICAL
from pipelines.adapters.adapter import SILENT, Kind, Origin
from pipelines.adapters.binance_archive import ADAPTER
from pipelines.adapters.binance_archive.files import file_name
from pipelines.adapters.rows import fields, pieces
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments

BOOK = load_instruments(Config())
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
MS = int(NOON.timestamp()) * 1000
MS_2025 = int(datetime(2025, 6, 1, 12, tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True)
class Sample:
    """A sound file of one kind: its name, its header and one line."""

    file: str
    header: str
    line: str


SAMPLES: Mapping[str, Sample] = {
    "aggTrades": Sample(
        "BTCUSDT-aggTrades-2024-06-01.csv",
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
        f"7,60000,0.5,10,12,{MS},true",
    ),
    "trades": Sample(
        "BTCUSDT-trades-2024-06-01.csv",
        "id,price,qty,quote_qty,time,is_buyer_maker",
        f"7,60000,0.5,30000,{MS},false",
    ),
    "trades-coinm": Sample(
        "AVAXUSD_PERP-trades-2024-06-01.csv",
        "id,price,qty,base_qty,time,is_buyer_maker",
        f"7,20,3,1.5,{MS},true",
    ),
    "bookDepth": Sample(
        "BTCUSDT-bookDepth-2024-06-01.csv", "timestamp,percentage,depth,notional", "2024-06-01 12:00:00,-1,2,120000.5"
    ),
    "bookTicker": Sample(
        "BTCUSDT-bookTicker-2024-06-01.csv",
        "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
        f"99,60000,1.5,60001,2,{MS},{MS + 5}",
    ),
    "klines": Sample(
        "BTCUSDT-1m-2025-06-01.csv",
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore",
        f"{MS_2025},10,12,9,11,100,{MS_2025 + 59_999},1050,7,40,420,0",
    ),
    "markPriceKlines": Sample(
        "BTCUSDT-markPriceKlines-1m-2025-06-01.csv",
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore",
        f"{MS_2025},10,12,9,11,0,{MS_2025 + 59_999},0,60,0,0,0",
    ),
    "fundingRate": Sample(
        "BTCUSDT-fundingRate-2024-06.csv",
        "calc_time,funding_interval_hours,last_funding_rate",
        f"{MS + 2},8,-0.00012",
    ),
    "metrics": Sample(
        "BTCUSDT-metrics-2024-06-01.csv",
        "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
        "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio",
        '2024-06-01 12:00:00,BTCUSDT,82795.5,4967730000,1.2,"",1.1,0.9',
    ),
    "liquidationSnapshot": Sample(
        "AVAXUSD_PERP-liquidationSnapshot-2024-06-01.csv",
        "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,"
        "last_fill_quantity,accumulated_fill_quantity",
        f"{MS},SELL,LIMIT,IOC,8,19,20,FILLED,1,3",
    ),
    "forceOrders": Sample("capture.csv", "", f"BTC,BUY,LIMIT,IOC,2,61000,60000,FILLED,1,2,{MS},122000"),
}
KINDS = {kind.name: kind for kind in ADAPTER.kinds}


def _written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _converted(path: Path, kind: Kind, venue: str | None = None, symbol: str | None = None) -> dict[str, pl.DataFrame]:
    """All candidates by table, and the silent lines."""
    found: dict[str, list[pl.DataFrame]] = {}
    for batch in kind.convert(pieces(path, kind.layout), Origin(path.name, venue, BOOK, symbol)):
        for table, rows in batch.items():
            found.setdefault(table, []).append(rows)
    return {table: pl.concat(rows) for table, rows in found.items()}


def _kind_of(path: Path) -> Kind:
    return next(kind for kind in ADAPTER.kinds if kind.recognises(path.name, fields(path, kind.layout)))


def _changed(kind: str, **changes: object) -> str:
    """The sample line of `kind` with the named columns changed."""
    sample = SAMPLES[kind]
    values = dict(zip(sample.header.split(","), sample.line.split(","), strict=True))
    return ",".join(str(value) for value in (values | changes).values())


def _read(folder: Path, kind: str, *lines: str, file: str | None = None, venue: str | None = None) -> pl.DataFrame:
    """Candidates of the kind's only table: the header, if it has one, and `lines`."""
    sample = SAMPLES[kind]
    path = _written(folder, file or sample.file, *([sample.header] if sample.header else []), *lines)
    return _converted(path, KINDS[kind], venue)[KINDS[kind].tables[0]]


# --- kinds, names and venues -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("BTCUSDT-aggTrades-2024-06-01.zip", ("aggTrades", "BTCUSDT", None)),
        ("BTCUSD_PERP-trades-2024-06.csv", ("trades", "BTCUSD_PERP", None)),
        ("BTCUSDT-1m-2024-06.zip", ("klines", "BTCUSDT", 60)),
        ("BTCUSDT-12h-2024-06-01.csv.gz", ("klines", "BTCUSDT", 43_200)),
        ("BTCUSDT-1mo-2024-06.zip", ("klines", "BTCUSDT", None)),
        ("markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-06.zip", ("markPriceKlines", "BTCUSDT", 60)),
        ("BTCUSDT-indexPriceKlines-1h-2024-06.zip", ("indexPriceKlines", "BTCUSDT", 3600)),
        ("币安人生USDT-metrics-2025-12-27.zip", ("metrics", "币安人生USDT", None)),
        ("BTCUSDT-aggTrades-2024-06-01.zip.CHECKSUM", None),
        ("BTC_USDT_USDT-5m-futures.feather", None),
        ("trades.csv", None),
    ],
)
def test_a_name_tells_kind_symbol_and_interval_or_nothing(name: str, told: tuple[str, str, int | None] | None) -> None:
    found = file_name(name)
    assert (None if found is None else (found.kind, found.symbol, found.interval_s)) == told


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_sample_is_taken_for_its_kind_and_no_other(tmp_path: Path, kind: str) -> None:
    sample = SAMPLES[kind]
    path = _written(tmp_path, sample.file, *([sample.header] if sample.header else []), sample.line)
    assert [item.name for item in ADAPTER.kinds if item.recognises(path.name, fields(path, item.layout))] == [kind]


def test_a_file_without_a_telling_name_is_taken_by_its_header_and_needs_a_symbol(tmp_path: Path) -> None:
    sample = SAMPLES["bookTicker"]
    path = _written(tmp_path, "mine.csv", sample.header, sample.line)
    assert _kind_of(path).name == "bookTicker"
    with pytest.raises(InputError, match="does not tell the symbol"):
        _converted(path, _kind_of(path))
    rows = _converted(path, _kind_of(path), symbol="ETHUSDT")["quotes"]
    assert rows.select("symbol", "reason").rows() == [("ETHUSDT", None)]


def test_a_checksum_beside_its_file_is_of_no_kind(tmp_path: Path) -> None:
    path = _written(tmp_path, "BTCUSDT-aggTrades-2024-06-01.zip.CHECKSUM", "0a1b  BTCUSDT-aggTrades-2024-06-01.zip")
    assert not any(kind.recognises(path.name, fields(path, kind.layout)) for kind in ADAPTER.kinds)


def _plain(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def _gzipped(path: Path, text: bytes) -> None:
    path.write_bytes(gzip.compress(text))


def _zipped(path: Path, text: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", text)


@pytest.mark.parametrize("pack", [_plain, _gzipped, _zipped])
@pytest.mark.parametrize("kind", [name for name, sample in SAMPLES.items() if sample.header and name != "trades-coinm"])
def test_packing_and_the_header_change_nothing_but_the_line_number(
    tmp_path: Path, kind: str, pack: Callable[[Path, bytes], None]
) -> None:
    sample = SAMPLES[kind]
    path = tmp_path / sample.file
    pack(path, f"{sample.header}\n{sample.line}\n".encode())
    (with_header,) = [rows for rows in _converted(path, _kind_of(path)).values() if rows.height]
    pack(path, f"{sample.line}\n".encode())
    (without,) = [rows for rows in _converted(path, _kind_of(path)).values() if rows.height]
    assert with_header["reason"].to_list() == [None]
    assert (with_header["line"].to_list(), without["line"].to_list()) == ([2], [1])
    assert with_header.drop("line").equals(without.drop("line"))


def test_every_sample_passes_the_canonical_schema(tmp_path: Path) -> None:
    for kind, sample in SAMPLES.items():
        rows = _read(tmp_path, kind, sample.line)
        table = KINDS[kind].tables[0]
        numbered = rows.with_columns(pl.col("seq").fill_null(0)) if table in KINDS[kind].content_seq else rows
        assert rows["reason"].to_list() == [None]
        assert CANONICAL[table].validate(numbered.select(list(CANONICAL[table].columns()))).height == 1


# --- trades ----------------------------------------------------------------------------------------------------------


def test_a_linear_trade_is_base_units_and_a_buyer_who_was_maker_means_the_taker_sold(tmp_path: Path) -> None:
    row = _read(tmp_path, "aggTrades", SAMPLES["aggTrades"].line).row(0, named=True)
    assert (row["venue"], row["symbol"], row["trade_id"], row["side"]) == ("binance-usdm", "BTCUSDT", "7", "sell")
    assert (row["price"], row["qty"], row["notional_usd"]) == (60_000.0, 0.5, 30_000.0)  # 0.5 * 60,000
    assert row["ts"] == row["known_at"] == NOON
    assert _read(tmp_path, "trades", SAMPLES["trades"].line)["side"].to_list() == ["buy"]


def test_a_coin_margined_trade_counts_contracts_of_ten_dollars(tmp_path: Path) -> None:
    row = _read(tmp_path, "trades-coinm", SAMPLES["trades-coinm"].line).row(0, named=True)
    assert row["venue"] == "binance-coinm"
    assert (row["notional_usd"], row["qty"]) == (30.0, 1.5)  # 3 contracts of 10 USD, at 20 USD
    file = "AVAXUSD_PERP-aggTrades-2024-06-01.csv"
    row = _read(tmp_path, "aggTrades", f"7,20,3,1,1,{MS},true", file=file).row(0, named=True)
    assert (row["venue"], row["notional_usd"], row["qty"]) == ("binance-coinm", 30.0, 1.5)


@pytest.mark.parametrize("stamp", [MS, MS * 1000], ids=["ms", "us"])
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("BTCUSDT-trades-2024-06-01.csv", "7,60000,0.5,30000,{},True,True"),
        ("BTCUSDT-aggTrades-2024-06-01.csv", "7,60000,0.5,10,12,{},True,False"),
    ],
)
def test_a_best_match_column_means_spot_whatever_the_unit_of_the_stamp(
    tmp_path: Path, file: str, line: str, stamp: int
) -> None:
    path = _written(tmp_path, file, line.format(stamp))
    row = _converted(path, _kind_of(path))["trades"].row(0, named=True)
    assert (row["venue"], row["ts"], row["qty"], row["side"], row["reason"]) == ("binance", NOON, 0.5, "sell", None)


def test_the_named_venue_and_the_folder_win_over_what_the_columns_say(tmp_path: Path) -> None:
    line = SAMPLES["trades"].line
    assert _read(tmp_path, "trades", line, venue="binance")["venue"].to_list() == ["binance"]
    path = _written(tmp_path, SAMPLES["trades"].file, line)
    origin = Origin(f"data/spot/daily/trades/BTCUSDT/{path.name}", None, BOOK)
    (batch,) = KINDS["trades"].convert(pieces(path, KINDS["trades"].layout), origin)
    assert batch["trades"]["venue"].to_list() == ["binance"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time": "x"}, "unreadable_ts"),
        ({"time": f"{MS}.5"}, "unreadable_ts"),
        ({"time": MS // 1000}, "ts_out_of_range"),  # seconds
        ({"time": MS * 1_000_000}, "ts_out_of_range"),  # nanoseconds
        ({"time": -MS}, "ts_out_of_range"),
        ({"time": 1_500_000_000_000}, "unknown_symbol"),  # 2017: before the instrument was in force
        ({"id": ""}, "missing_trade_id"),
        ({"id": "x7"}, "unreadable_trade_id"),
        ({"id": "-1"}, "unreadable_trade_id"),
        ({"is_buyer_maker": "maybe"}, "unknown_side"),
        ({"price": "1_0"}, "unreadable_price"),
        ({"price": "0"}, "price_not_positive"),
        ({"price": "-0"}, "price_not_positive"),
        ({"price": "nan"}, "price_not_positive"),
        ({"price": "1e999"}, "price_not_positive"),
        ({"qty": ""}, "unreadable_amount"),
        ({"qty": "-inf"}, "amount_not_positive"),
        ({"qty": "1e300", "price": "1e300"}, "size_out_of_range"),
        ({"is_buyer_maker": "", "price": "-1"}, "unknown_side; price_not_positive"),
        ({"qty": "0.5,1"}, "ragged_line"),
    ],
)
def test_a_bad_trade_is_refused_for_what_is_bad_and_its_neighbours_are_not(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    rows = _read(tmp_path, "trades", _changed("trades"), _changed("trades", **changes), _changed("trades", id="8"))
    assert rows["reason"].to_list() == [None, reason, None]


def test_a_symbol_of_an_unknown_quote_is_refused(tmp_path: Path) -> None:
    rows = _read(tmp_path, "trades", SAMPLES["trades"].line, file="BTCFDUSD-trades-2024-06-01.csv")
    assert rows["reason"].to_list() == ["unknown_symbol"]


# --- quotes ----------------------------------------------------------------------------------------------------------


def test_a_quote_is_known_when_the_venue_sent_it_and_ordered_by_its_update_number(tmp_path: Path) -> None:
    row = _read(tmp_path, "bookTicker", SAMPLES["bookTicker"].line).row(0, named=True)
    assert (row["seq"], row["bid"], row["bid_qty"], row["ask"], row["ask_qty"]) == (99, 60_000.0, 1.5, 60_001.0, 2.0)
    assert (row["ts"], row["known_at"]) == (NOON, NOON + timedelta(milliseconds=5))


def test_coin_margined_quotes_become_base_units_at_their_own_price(tmp_path: Path) -> None:
    line = f"99,20,4,25,5,{MS},{MS}"
    row = _read(tmp_path, "bookTicker", line, file="AVAXUSD_PERP-bookTicker-2024-06-01.csv").row(0, named=True)
    assert (row["bid_qty"], row["ask_qty"]) == (2.0, 2.0)  # 4 * 10 USD / 20 USD, 5 * 10 USD / 25 USD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transaction_time": ""}, "unreadable_ts"),
        ({"transaction_time": MS // 1000}, "ts_out_of_range"),
        ({"event_time": "x"}, "unreadable_known_at"),
        ({"event_time": MS // 1000}, "known_at_out_of_range"),
        ({"update_id": "1.5"}, "unreadable_seq"),
        ({"best_bid_price": ""}, "unreadable_bid"),
        ({"best_bid_price": "0"}, "bid_not_positive"),
        ({"best_ask_price": "x"}, "unreadable_ask"),
        ({"best_ask_price": "-1"}, "ask_not_positive"),
        ({"best_bid_qty": ""}, "unreadable_bid_amount"),
        ({"best_bid_qty": "-1"}, "bid_amount_negative"),
        ({"best_ask_qty": "x"}, "unreadable_ask_amount"),
        ({"best_ask_qty": "nan"}, "ask_amount_negative"),
        ({"best_bid_price": "60001"}, "crossed_quote"),
    ],
)
def test_a_bad_quote_is_refused_for_what_is_bad(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    assert _read(tmp_path, "bookTicker", _changed("bookTicker", **changes))["reason"].to_list() == [reason]


# --- klines ----------------------------------------------------------------------------------------------------------


def test_a_candle_is_stamped_with_the_end_of_its_interval_and_known_then(tmp_path: Path) -> None:
    row = _read(tmp_path, "klines", SAMPLES["klines"].line).row(0, named=True)
    assert row["ts"] == row["known_at"] == datetime(2025, 6, 1, 12, 1, tzinfo=UTC)
    assert (row["interval_s"], row["venue"]) == (60, "binance-usdm")
    assert [row[name] for name in ("open", "high", "low", "close")] == [10.0, 12.0, 9.0, 11.0]
    assert (row["volume"], row["taker_buy_volume"]) == (100.0, 40.0)


def test_coin_margined_volume_is_the_base_volume_not_the_contracts(tmp_path: Path) -> None:
    # 206 contracts of 10 USD around 20 USD are 103 AVAX, 119 of them bought: 59.5
    line = f"{MS},20,21,19,20,206,{MS + 299_999},103,48,119,59.5,0"
    row = _read(tmp_path, "klines", line, file="AVAXUSD_PERP-5m-2024-06-01.csv").row(0, named=True)
    assert (row["venue"], row["interval_s"]) == ("binance-coinm", 300)
    assert (row["volume"], row["taker_buy_volume"]) == (103.0, 59.5)


def test_microseconds_are_spot_and_the_candle_ends_on_the_minute(tmp_path: Path) -> None:
    us = MS_2025 * 1000
    line = f"{us},10,12,9,11,100,{us + 59_999_999},1050,7,40,420,0"
    row = _read(tmp_path, "klines", line).row(0, named=True)
    assert (row["venue"], row["interval_s"], row["reason"]) == ("binance", 60, None)
    assert row["ts"] == datetime(2025, 6, 1, 12, 1, tzinfo=UTC)


def test_older_klines_must_be_told_their_venue(tmp_path: Path) -> None:
    line = f"{MS},10,12,9,11,100,{MS + 59_999},1050,7,40,420,0"
    with pytest.raises(InputError, match=r"do not tell spot from usd-m.*--venue binance or"):
        _read(tmp_path, "klines", line)
    assert _read(tmp_path, "klines", line, venue="binance")["reason"].to_list() == [None]


def test_a_month_has_the_length_its_stamps_say(tmp_path: Path) -> None:
    start, end = (int(datetime(2025, month, 1, tzinfo=UTC).timestamp()) * 1000 for month in (6, 7))
    line = f"{start},10,12,9,11,100,{end - 1},1050,7,40,420,0"
    row = _read(tmp_path, "klines", line, file="BTCUSDT-1mo-2025-06.csv").row(0, named=True)
    assert (row["interval_s"], row["ts"]) == (30 * 86_400, datetime(2025, 7, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"open_time": "x"}, "unreadable_ts"),
        ({"close_time": ""}, "unreadable_ts"),
        ({"close_time": 59_999}, "ts_out_of_range"),
        ({"close_time": MS_2025 + 60_000}, "bad_interval"),  # 60.001 s
        ({"close_time": MS_2025 + 299_999}, "bad_interval"),  # the name says one minute
        ({"close_time": MS_2025 - 1}, "bad_interval"),
        ({"open": ""}, "unreadable_open"),
        ({"high": "0"}, "high_not_positive"),
        ({"low": "nan"}, "low_not_positive"),
        ({"close": "-1"}, "close_not_positive"),
        ({"volume": ""}, "unreadable_volume; taker_buy_exceeds_volume"),
        ({"volume": "-1"}, "volume_negative; taker_buy_exceeds_volume"),
        ({"taker_buy_volume": "x"}, "unreadable_taker_buy_volume"),
        ({"taker_buy_volume": "-1"}, "taker_buy_volume_negative"),
        ({"taker_buy_volume": "101"}, "taker_buy_exceeds_volume"),
        ({"volume": "0", "taker_buy_volume": "0"}, "not_trade_candles"),
    ],
)
def test_a_bad_candle_is_refused_for_what_is_bad(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    rows = _read(tmp_path, "klines", _changed("klines"), _changed("klines", **changes))
    assert rows["reason"].to_list() == [None, reason]


def test_a_candle_without_taker_volume_has_none_and_a_quiet_one_is_a_candle(tmp_path: Path) -> None:
    quiet = _changed("klines", open=11, high=11, low=11, close=11, volume=0, count=0, taker_buy_volume="")
    rows = _read(tmp_path, "klines", _changed("klines"), quiet)
    assert rows.select("reason", "volume", "taker_buy_volume").rows() == [(None, 100.0, 40.0), (None, 0.0, None)]


def test_mark_price_klines_are_never_taken_for_candles(tmp_path: Path) -> None:
    """A folder of mark prices read as candles would have given every symbol a market without volume."""
    moving = SAMPLES["markPriceKlines"].line
    still = moving.replace(",10,12,9,11,", ",11,11,11,11,").replace(",60,", ",0,")
    for line in (moving, moving.replace(",60,", ",0,")):
        assert set(_read(tmp_path, "klines", line, still)["reason"]) == {"not_trade_candles"}


def test_mark_and_index_price_are_the_close_at_the_end_of_the_interval(tmp_path: Path) -> None:
    sample = SAMPLES["markPriceKlines"]
    row = _read(tmp_path, "markPriceKlines", sample.line).row(0, named=True)
    assert (row["mark"], row["index"], row["last"]) == (11.0, None, None)
    assert row["ts"] == row["known_at"] == datetime(2025, 6, 1, 12, 1, tzinfo=UTC)
    path = _written(tmp_path, "BTCUSDT-1m-2025-06-01.csv", sample.line)
    row = _converted(path, KINDS["indexPriceKlines"])["marks"].row(0, named=True)
    assert (row["symbol"], row["mark"], row["index"], row["reason"]) == ("BTCUSDT", None, 11.0, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"open_time": ""}, "unreadable_ts"),
        ({"close_time": MS_2025 + 1}, "bad_interval"),
        ({"close": "x"}, "unreadable_close"),
        ({"close": "0"}, "close_not_positive"),
    ],
)
def test_a_bad_mark_is_refused_for_what_is_bad(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    assert _read(tmp_path, "markPriceKlines", _changed("markPriceKlines", **changes))["reason"].to_list() == [reason]


@pytest.mark.parametrize(
    ("pair", "venue", "symbol"),
    [
        ("AVAXUSD", "binance-coinm", "AVAXUSD_PERP"),
        ("BNBUSD", "binance-coinm", "BNBUSD_PERP"),
        ("BTCBUSD", "binance-usdm", "BTCBUSD"),
        ("BTCUSDT", "binance-usdm", "BTCUSDT"),
    ],
)
def test_the_index_of_a_coin_margined_pair_stands_for_its_perpetual(
    tmp_path: Path, pair: str, venue: str, symbol: str
) -> None:
    path = _written(tmp_path, f"{pair}-1m-2025-06-01.csv", SAMPLES["markPriceKlines"].line)
    rows = _converted(path, KINDS["indexPriceKlines"])["marks"]
    assert rows.select("venue", "symbol").rows() == [(venue, symbol)]


def test_the_premium_index_is_read_and_says_nothing(tmp_path: Path) -> None:
    path = _written(tmp_path, "BTCUSDT-premiumIndexKlines-1m-2025-06-01.csv", SAMPLES["markPriceKlines"].line)
    assert _kind_of(path).name == "premiumIndexKlines"
    found = _converted(path, _kind_of(path))
    assert list(found) == [SILENT]
    assert found[SILENT].rows() == [(1, 0, "premium_has_no_table")]


# --- funding and open interest ---------------------------------------------------------------------------------------


def test_a_funding_rate_stands_for_its_interval_of_hours(tmp_path: Path) -> None:
    row = _read(tmp_path, "fundingRate", SAMPLES["fundingRate"].line).row(0, named=True)
    assert (row["rate"], row["interval_h"], row["venue"]) == (-0.00012, 8.0, "binance-usdm")
    assert row["ts"] == row["known_at"] == NOON + timedelta(milliseconds=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"calc_time": "2024-06-01"}, "unreadable_ts"),
        ({"last_funding_rate": ""}, "unreadable_rate"),
        ({"last_funding_rate": "1.5"}, "rate_out_of_range"),
        ({"last_funding_rate": "nan"}, "rate_out_of_range"),
        ({"funding_interval_hours": "x"}, "unreadable_interval_h"),
        ({"funding_interval_hours": "0"}, "interval_h_not_positive"),
    ],
)
def test_a_bad_funding_row_is_refused_for_what_is_bad(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    assert _read(tmp_path, "fundingRate", _changed("fundingRate", **changes))["reason"].to_list() == [reason]


def test_linear_open_interest_is_base_units_and_dollars(tmp_path: Path) -> None:
    row = _read(tmp_path, "metrics", SAMPLES["metrics"].line).row(0, named=True)
    assert (row["venue"], row["oi_base"], row["oi_usd"]) == ("binance-usdm", 82_795.5, 4_967_730_000.0)
    assert row["ts"] == row["known_at"] == NOON


def test_inverse_open_interest_is_contracts_and_base_units(tmp_path: Path) -> None:
    line = _changed("metrics", symbol="AVAXUSD_PERP", sum_open_interest="400", sum_open_interest_value="200.5")
    row = _read(tmp_path, "metrics", line).row(0, named=True)
    assert (row["venue"], row["oi_base"], row["oi_usd"]) == ("binance-coinm", 200.5, 4000.0)  # 400 contracts of 10 USD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"create_time": "2024-06-01"}, "unreadable_ts"),
        ({"create_time": "1999-06-01 00:00:00"}, "ts_out_of_range"),
        ({"symbol": "NOPE"}, "unknown_symbol"),
        ({"sum_open_interest": ""}, None),  # dollars alone are an open interest
        ({"sum_open_interest": "x"}, "unreadable_oi_base"),
        ({"sum_open_interest": "-1"}, "oi_base_negative"),
        ({"sum_open_interest_value": '""'}, "unreadable_oi_usd"),
        ({"sum_open_interest_value": "inf"}, "oi_usd_negative"),
    ],
)
def test_a_bad_open_interest_is_refused_for_what_is_bad(
    tmp_path: Path, changes: dict[str, object], reason: str | None
) -> None:
    assert _read(tmp_path, "metrics", _changed("metrics", **changes))["reason"].to_list() == [reason]


def test_a_line_of_ratios_alone_is_silent(tmp_path: Path) -> None:
    empty = _changed("metrics", sum_open_interest='""', sum_open_interest_value="")
    path = _written(tmp_path, SAMPLES["metrics"].file, SAMPLES["metrics"].line, empty)
    found = _converted(path, KINDS["metrics"])
    assert found["open_interest"]["line"].to_list() == [1]
    assert found[SILENT].rows() == [(2, 0, "no_open_interest")]


# --- forced orders ---------------------------------------------------------------------------------------------------


def test_a_forced_sale_closed_a_long_of_what_was_filled_at_the_average_price(tmp_path: Path) -> None:
    row = _read(tmp_path, "liquidationSnapshot", SAMPLES["liquidationSnapshot"].line).row(0, named=True)
    assert (row["venue"], row["position_side"], row["path"]) == ("binance-coinm", "long", "market")
    assert (row["price"], row["notional_usd"], row["qty"]) == (20.0, 30.0, 1.5)  # 3 filled contracts of 10 USD
    assert row["seq"] is None


def test_a_captured_forced_purchase_closed_a_short(tmp_path: Path) -> None:
    row = _read(tmp_path, "forceOrders", SAMPLES["forceOrders"].line).row(0, named=True)
    assert (row["venue"], row["symbol"], row["position_side"]) == ("binance-usdm", "BTCUSDT", "short")
    assert (row["price"], row["notional_usd"], row["qty"]) == (60_000.0, 120_000.0, 2.0)
    assert row["ts"] == NOON


@pytest.mark.parametrize("average", ["None", ""])
def test_without_an_average_price_the_limit_stands_in(tmp_path: Path, average: str) -> None:
    line = SAMPLES["forceOrders"].line.replace(",60000,", f",{average},")
    assert _read(tmp_path, "forceOrders", line).select("price", "reason").rows() == [(61_000.0, None)]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (f"{MS}", "soon", "unreadable_ts"),
        (f"{MS}", f"{MS // 1000}", "ts_out_of_range"),
        ("BTC,", "ETH_250627,", "unknown_symbol"),
        ("BUY", "HOLD", "unknown_side"),
        (",60000,", ",abc,", "unreadable_price"),
        (",60000,", ",0,", "price_not_positive"),
        (",1,2,", ",1,x,", "unreadable_filled"),
        (",1,2,", ",1,-2,", "filled_not_positive"),
        (",1,2,", ",1,1e308,", "size_out_of_range"),
        (",122000", ",122000,100", "ragged_line"),
    ],
)
def test_a_bad_forced_order_is_refused_for_what_is_bad(tmp_path: Path, old: str, new: str, reason: str) -> None:
    good = SAMPLES["forceOrders"].line
    rows = _read(tmp_path, "forceOrders", good, good.replace(old, new, 1))
    assert rows["reason"].to_list() == [None, reason]


def test_an_order_of_which_nothing_was_filled_is_silent(tmp_path: Path) -> None:
    good = SAMPLES["forceOrders"].line
    path = _written(tmp_path, "capture.csv", good.replace(",1,2,", ",0,0,"), good)
    found = _converted(path, KINDS["forceOrders"])
    assert found[SILENT].rows() == [(1, 0, "nothing_filled")]
    assert found["liquidations"]["line"].to_list() == [2]


def test_an_order_told_again_is_refused_even_where_the_capture_multiplied_its_dollars_otherwise(tmp_path: Path) -> None:
    """A capture that ran twice wrote 1,673 orders twice; counting both would have doubled its liquidations."""
    good = SAMPLES["forceOrders"].line
    other = good.replace(",61000,", ",61001,")
    rows = _read(tmp_path, "forceOrders", good, other, good.replace("122000", "0.122"), other)
    assert rows["reason"].null_count() == 4
    found = KINDS["forceOrders"].judge("liquidations", rows.reverse())
    assert found.sort("line").rows() == [(3, 0, "duplicate_row"), (4, 0, "duplicate_row")]
    assert KINDS["liquidationSnapshot"].judge("liquidations", rows).height == 2


# --- book depth ------------------------------------------------------------------------------------------------------

SOUND = {-5: (30.0, 95.0), -1: (10.0, 99.5), 1: (12.0, 100.5), 5: (40.0, 104.0)}  # percent -> (depth, average price)
Levels = Mapping[float, tuple[float, float]]


def _snapshot(second: int, book: Levels) -> list[str]:
    stamp = f"2025-10-10 00:{second // 60:02d}:{second % 60:02d}"
    return [f"{stamp},{share},{depth!r},{depth * average!r}" for share, (depth, average) in book.items()]


def _moved(step: int) -> dict[float, tuple[float, float]]:
    """A sound book whose every figure differs from step to step."""
    return {share: (depth + 0.001 * (step + 1), average) for share, (depth, average) in SOUND.items()}


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., dict[int, set[str]]]:
    def judge(*books: Levels) -> dict[int, set[str]]:
        """Reasons by number of the snapshot; a refused snapshot must be refused with all its rows."""
        rows = _read(
            tmp_path, "bookDepth", *(line for nth, book in enumerate(books) for line in _snapshot(30 * nth, book))
        )
        assert rows["reason"].null_count() == rows.height
        found = KINDS["bookDepth"].judge("book_depth", rows).join(rows.select("line", "ts"), on="line")
        firsts = sorted(rows["ts"].unique().to_list())
        for ts, group in found.group_by("ts"):
            assert group.height == len(books[firsts.index(ts[0])])
        return {firsts.index(ts[0]): set(group["reason"]) for ts, group in found.group_by("ts")}

    return judge


@pytest.mark.parametrize(
    ("share", "side", "band_bps"),
    [("-1", "bid", 100), ("-1.00", "bid", 100), ("0.20", "ask", 20), ("5", "ask", 500), ("-0.2", "bid", 20)],
)
def test_a_percentage_is_a_side_and_a_band(tmp_path: Path, share: str, side: str, band_bps: int) -> None:
    row = _read(tmp_path, "bookDepth", f"2025-10-10 00:00:07,{share},2,240000.5").row(0, named=True)
    assert (row["side"], row["band_bps"], row["depth_usd"], row["reason"]) == (side, band_bps, 240000.5, None)
    assert row["known_at"] == row["ts"] == datetime(2025, 10, 10, 0, 0, 7, tzinfo=UTC)
    assert row["venue"] == "binance-usdm"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2025-10-10,1,2,3", "unreadable_ts"),
        ("1825-10-10 00:00:07,1,2,3", "unreadable_ts"),
        ("2025-10-10 00:00:07,0,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,0.123,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,x,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,1,x,3", "unreadable_depth"),
        ("2025-10-10 00:00:07,1,-2,3", "depth_negative"),
        ("2025-10-10 00:00:07,1,2,", "unreadable_notional"),
        ("2025-10-10 00:00:07,1,2,nan", "notional_negative"),
        ("2025-10-10 00:00:07,1,2", "ragged_line"),
        ("2018-10-10 00:00:07,1,2,3", "unknown_symbol"),
    ],
)
def test_a_bad_depth_row_is_refused_for_what_is_bad(tmp_path: Path, line: str, reason: str) -> None:
    assert _read(tmp_path, "bookDepth", line)["reason"].to_list() == [reason]


def test_sound_snapshots_pass(judged: Callable[..., dict[int, set[str]]]) -> None:
    assert judged(_moved(0), _moved(1), _moved(2)) == {}


def test_a_snapshot_whose_bids_cost_as_much_as_its_asks_is_crossed(judged: Callable[..., dict[int, set[str]]]) -> None:
    ghost = SOUND | {-1: (10.0, 100.5)}  # bid average equals the ask average: nothing proves it uncrossed
    assert judged(_moved(0), ghost, _moved(2)) == {1: {"crossed_book"}}


def test_a_side_that_stands_still_to_the_last_digit_is_frozen_until_it_moves(
    judged: Callable[..., dict[int, set[str]]],
) -> None:
    still = _moved(1) | {-1: SOUND[-1], -5: (30.7, 95.0)}  # the bids within 1 % are those of snapshot 0
    assert judged(SOUND, still, _moved(2)) == {1: {"frozen_book"}}


def test_a_book_is_not_frozen_when_one_near_band_moved_or_only_depth_did_not(
    judged: Callable[..., dict[int, set[str]]],
) -> None:
    near = {-0.2: (1.0, 99.9), 0.2: (1.0, 100.1)}
    assert judged(SOUND | near, SOUND | near | {-0.2: (1.1, 99.9), 0.2: (1.1, 100.1)}) == {}
    assert judged(SOUND, SOUND | {-1: (10.0, 99.4), 1: (12.0, 100.4)}) == {}  # same depth, another price


def test_a_book_is_not_frozen_when_the_snapshot_before_lacked_the_band_or_nothing_rests_near(
    judged: Callable[..., dict[int, set[str]]],
) -> None:
    """Equal figures two snapshots apart prove nothing, and neither does an empty band that stays empty."""
    wide = {share: level for share, level in _moved(1).items() if share != -1} | {-2: (15.0, 98.0)}
    assert judged(SOUND, wide, _moved(2) | {-1: SOUND[-1]}) == {}
    empty = {-1: (0.0, 99.5)}
    assert judged(_moved(0) | empty, _moved(1) | empty) == {}


def test_depth_that_falls_with_a_wider_band_is_refused(judged: Callable[..., dict[int, set[str]]]) -> None:
    assert judged(_moved(0), SOUND | {5: (11.9, 104.0)}) == {1: {"non_monotone_depth"}}


def test_a_book_without_a_side_is_refused_because_nothing_proves_it_uncrossed(
    judged: Callable[..., dict[int, set[str]]],
) -> None:
    bids = {share: level for share, level in SOUND.items() if share < 0}
    assert judged(_moved(0), bids) == {1: {"one_sided_book"}}
    assert judged(_moved(0), SOUND | {1: (0.0, 1.0), 5: (0.0, 1.0)}) == {1: {"one_sided_book"}}


def test_an_inverse_book_in_the_wrong_units_comes_out_crossed(tmp_path: Path) -> None:
    """Depth in contracts of 10 USD and notional in coins is taken; notional in dollars would be off by the price."""
    file, judge = "AVAXUSD_PERP-bookDepth-2025-10-10.csv", KINDS["bookDepth"].judge
    right = [
        f"2025-10-10 00:00:00,{share},{contracts},{contracts * 10.0 / average!r}"
        for share, (contracts, average) in SOUND.items()
    ]
    rows = _read(tmp_path, "bookDepth", *right, file=file)
    assert rows["venue"].unique().to_list() == ["binance-coinm"]
    assert rows["depth_usd"].to_list() == [300.0, 100.0, 120.0, 400.0]
    assert judge("book_depth", rows).is_empty()
    wrong = _read(tmp_path, "bookDepth", *_snapshot(0, SOUND), file=file)
    assert set(judge("book_depth", wrong)["reason"]) == {"crossed_book"}


# --- whatever the text -----------------------------------------------------------------------------------------------

ODD = ("", "nan", "inf", "-inf", "1e999", "-0", "0", "9" * 30, "-9223372036854775808", "None", "x", "1,2", '"', "\x07")


def _mangled(line: str, place: int, value: str) -> str:
    cells = line.split(",")
    cells[place % len(cells)] = value
    return ",".join(cells)


@pytest.mark.parametrize("kind", [*SAMPLES, "indexPriceKlines", "premiumIndexKlines"])
@settings(max_examples=max(8, settings.default.max_examples // 5))
@given(
    faults=st.lists(
        st.tuples(st.integers(0, 12), st.one_of(st.sampled_from(ODD), st.text(max_size=8))), min_size=1, max_size=30
    ),
    header=st.booleans(),
)
def test_every_line_comes_out_once_accepted_refused_or_silent(
    tmp_path_factory: pytest.TempPathFactory, kind: str, faults: Sequence[tuple[int, str]], header: bool
) -> None:
    sample = SAMPLES.get(kind, SAMPLES["markPriceKlines"])
    lines = [sample.line, *(_mangled(sample.line, place, value) for place, value in faults)]
    text = "\n".join([sample.header, *lines] if header and sample.header else lines)
    path = tmp_path_factory.getbasetemp() / f"{kind}-{sample.file}"
    path.write_text(text, encoding="utf-8")
    layout = KINDS[kind].layout
    try:
        lines_in = [line for piece in pieces(path, layout) for line in piece["line"]]
        found = {} if not lines_in else _converted(path, KINDS[kind], symbol="BTCUSDT")
    except InputError:
        return
    assert sorted(line for rows in found.values() for line in rows["line"]) == lines_in
    for table, rows in found.items():
        if table != SILENT:
            accepted = rows.filter(pl.col("reason").is_null())
            KINDS[kind].judge(table, accepted)
            assert accepted.select("ts", "known_at", "venue", "symbol").null_count().sum_horizontal().item() == 0


# --- real files ------------------------------------------------------------------------------------------------------


def _outcome(path: Path) -> tuple[Kind, pl.DataFrame, dict[str, int]]:
    """Kind, accepted rows, and refused rows by reason; every line is one or the other."""
    kind = _kind_of(path)
    rows = _converted(path, kind)[kind.tables[0]]
    sound = rows.filter(pl.col("reason").is_null())
    judged = pl.concat([kind.judge(kind.tables[0], part) for part in sound.partition_by("symbol")])
    accepted = sound.join(judged, on=["line", "item"], how="anti")
    refused = pl.concat([rows.filter(pl.col("reason").is_not_null())["reason"], judged["reason"]])
    assert accepted.height + len(refused) == rows.height == sum(part.height for part in pieces(path, kind.layout))
    return kind, accepted, dict(refused.value_counts().rows())


@pytest.mark.real_data
def test_the_real_depth_day_is_split_at_the_ghost_bid(real_data: Path) -> None:
    kind, accepted, refused = _outcome(real_data / "oct10-binance-bookdepth" / "BTCUSDT-bookDepth-2025-10-10.csv.gz")
    assert (kind.name, accepted.height, sum(refused.values())) == ("bookDepth", 19_100, 9_690)
    assert refused == {"crossed_book": 470, "crossed_book; frozen_book": 9_220}
    first = accepted.sort("line").row(0, named=True)  # 2025-10-10 00:00:07,-5,8243.012,979983314.2056,...
    assert (first["side"], first["band_bps"], first["depth_usd"]) == ("bid", 500, 979_983_314.2056)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "accepted", "refused"),
    [
        ("2024-08-17_bandsthobaby.csv", 456, {}),
        ("2025-01-26_2025-02-06_pauliusminialga.csv", 1_837, {"duplicate_row": 1_673}),
        ("2025-06-23_neoparth.csv", 699, {"unknown_symbol": 1}),
        ("2025-12-27_2025-12-28_riftfern.csv", 1_999, {"ragged_line": 46}),
    ],
)
def test_real_captures_are_taken_up_to_their_broken_lines(
    real_data: Path, file: str, accepted: int, refused: dict[str, int]
) -> None:
    kind, rows, found = _outcome(real_data / "binance-forceorder-sessions" / file)
    assert (kind.name, rows.height, found) == ("forceOrders", accepted, refused)
    days = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in file.split("_")[:-1]]
    assert days[0] <= rows["ts"].min() <= rows["ts"].max() < days[-1] + timedelta(days=1)


@pytest.mark.real_data
def test_a_real_forced_order_comes_out_as_computed_by_hand(real_data: Path) -> None:
    _, rows, _ = _outcome(real_data / "binance-forceorder-sessions" / "2024-08-17_bandsthobaby.csv")
    row = rows.filter(pl.col("line") == 1).row(0, named=True)
    # RARE,BUY,LIMIT,IOC,4421,0.2226588,0.2185000,FILLED,3750,4421,1723895903305,984.37...
    assert (row["symbol"], row["position_side"], row["qty"], row["price"]) == ("RAREUSDT", "short", 4421.0, 0.2185)
    assert row["notional_usd"] == pytest.approx(965.9885)  # 4421 * 0.2185, not the 984.37 at the limit price
