"""Captured websocket messages: what each event says, in base units, at which moment, and that no line is lost."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.adapters.adapter import SILENT, Origin
from pipelines.adapters.json_text import decoded
from pipelines.adapters.rows import fields, pieces
from pipelines.adapters.ws_capture import ADAPTER
from pipelines.config import Config
from pipelines.instruments import load_instruments, parse_instruments

COIN_M = """
[[instrument]]
venue = "binance-coinm"
symbol = "{base}USD_PERP"
effective_from = 2020-08-10T00:00:00Z
quote = "USD"
settlement = "inverse"
contract_size = 100.0

[[instrument]]
venue = "binance-usdm"
symbol = "{base}USDT"
effective_from = 2019-09-08T00:00:00Z
quote = "USDT"
settlement = "linear"
contract_size = 1.0

[[instrument]]
venue = "binance"
symbol = "{base}USDT"
effective_from = 2017-07-14T00:00:00Z
quote = "USDT"
settlement = "spot"
contract_size = 1.0
"""
INSTRUMENTS = parse_instruments([("test.toml", COIN_M)])
NS = 1723161256_000000123  # 2024-08-08T23:54:16.000000123Z
MS = 1723161257_250  # the exchange's clock is 1.25 s ahead
(KIND,) = ADAPTER.kinds


def _line(message: object, ns: object = NS) -> str:
    return f"{ns} {message if isinstance(message, str) else json.dumps(message)}"


def _batches(lines: Iterable[str], name: str = "capture.gz", **origin: Any) -> dict[str, pl.DataFrame]:
    raw = list(lines)
    piece = pl.DataFrame({"line": range(1, len(raw) + 1), "raw": raw}, schema={"line": pl.Int64, "raw": pl.String})
    venue, symbol = origin.get("venue"), origin.get("symbol")
    batches = list(KIND.convert(iter([piece]), Origin(name, venue, INSTRUMENTS, symbol)))
    tables = {table for batch in batches for table in batch}
    return {table: pl.concat([batch[table] for batch in batches if table in batch]) for table in tables}


def _one(table: str, message: object, **origin: Any) -> dict[str, Any]:
    batch = _batches([_line(message)], **origin)
    assert set(batch) - {SILENT} == {table}
    return batch[table].row(0, named=True)


def _depth(**changes: Any) -> dict[str, Any]:
    message = {"e": "depthUpdate", "E": MS + 8, "T": MS, "s": "BTCUSDT", "U": 11, "u": 15, "pu": 10}
    return message | {"b": [["100.5", "2"], ["99", "0"]], "a": [["101", "0.25"]]} | changes


def _trade(**changes: Any) -> dict[str, Any]:
    message = {"e": "trade", "E": MS, "T": MS, "s": "BTCUSDT", "t": 7, "p": "100.5", "q": "2", "X": "MARKET"}
    return message | {"m": True} | changes


def _quote(**changes: Any) -> dict[str, Any]:
    quote = {"e": "bookTicker", "u": 9, "s": "BTCUSD_PERP", "ps": "BTCUSD", "b": "50000", "B": "5", "a": "50001"}
    return quote | {"A": "0", "T": MS, "E": MS + 1} | changes


def _mark(**changes: Any) -> dict[str, Any]:
    due = MS // 28_800_000 * 28_800_000 + 28_800_000  # the next multiple of 8 h
    mark = {"e": "markPriceUpdate", "E": MS, "s": "BTCUSDT", "p": "100.5", "i": "100.25", "P": "100", "r": "0.0001"}
    return mark | {"T": due} | changes


def _forced(**changes: Any) -> dict[str, Any]:
    order = {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "q": "3", "p": "99", "ap": "100.5", "X": "FILLED", "z": "2"}
    return {"e": "forceOrder", "E": MS + 5, "o": order | {"T": MS} | changes}


def test_a_depth_message_restates_each_of_its_levels_and_says_what_it_follows() -> None:
    rows = _batches([_line({"stream": "btcusdt@depth@0ms", "data": _depth()})])["book_levels"].sort("item")
    assert rows.select("side", "price", "qty", "item").rows() == [
        ("bid", 100.5, 2.0, 0),
        ("bid", 99.0, 0.0, 1),  # gone
        ("ask", 101.0, 0.25, 2),
    ]
    row = rows.row(0, named=True)
    assert (row["venue"], row["symbol"], row["seq"], row["seq_before"], row["snapshot"]) == (
        "binance-usdm",
        "BTCUSDT",
        15,
        10,
        False,
    )
    assert row["ts"] == datetime(2024, 8, 8, 23, 54, 17, 250_000, UTC)  # T, not E
    assert row["known_at"] == datetime(2024, 8, 8, 23, 54, 16, 0, UTC)  # kept though it is before ts; ns cut
    assert rows["reason"].to_list() == [None] * 3


def test_spot_depth_has_no_transaction_time_and_follows_the_number_before_its_first() -> None:
    message = _depth()
    del message["T"], message["pu"]
    row = _one("book_levels", message)
    assert (row["venue"], row["seq_before"], row["reason"]) == ("binance", 10, None)  # U - 1
    assert row["ts"] == datetime(2024, 8, 8, 23, 54, 17, 258_000, UTC)  # E


def test_a_stream_of_the_top_of_the_book_is_a_snapshot_each_time() -> None:
    row = _one("book_levels", {"stream": "btcusdt@depth20@100ms", "data": _depth()})
    assert (row["snapshot"], row["seq_before"], row["reason"]) == (True, None, None)


def test_inverse_contracts_are_worth_dollars() -> None:
    row = _one("quotes", _quote())
    assert (row["venue"], row["symbol"], row["seq"], row["bid"], row["ask"]) == (
        "binance-coinm",
        "BTCUSD_PERP",
        9,
        50000.0,
        50001.0,
    )
    assert (row["bid_qty"], row["ask_qty"], row["reason"]) == (0.01, 0.0, None)  # 5 contracts of 100 USD at 50,000
    trade = _one("trades", _trade(s="BTCUSD_PERP", p="50000", q="5"))
    assert (trade["venue"], trade["qty"], trade["notional_usd"]) == ("binance-coinm", 0.01, 500.0)


def test_a_spot_quote_has_neither_event_nor_moment_and_happened_when_it_came() -> None:
    row = _one("quotes", {"u": 9, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"})
    assert (row["venue"], row["ts"], row["reason"]) == ("binance", row["known_at"], None)


def test_a_buyer_who_rested_means_that_the_taker_sold() -> None:
    rows = [_one("trades", _trade(m=maker)) for maker in (True, False)]
    assert [row["side"] for row in rows] == ["sell", "buy"]
    assert (rows[0]["trade_id"], rows[0]["qty"], rows[0]["notional_usd"]) == ("7", 2.0, 201.0)
    assert _one("trades", _trade(M=True))["venue"] == "binance"  # only spot has the key M


def test_the_user_names_the_venue_over_what_the_message_says() -> None:
    assert _one("trades", _trade(), venue="binance")["venue"] == "binance"


def test_fills_of_the_insurance_fund_are_no_trades() -> None:
    batch = _batches([_line(_trade(X="INSURANCE_FUND"))])
    assert batch[SILENT]["reason"].to_list() == ["fill_off_the_book"]
    assert "trades" not in batch


def test_aggregates_of_trades_that_are_there_one_by_one_are_not_counted_twice() -> None:
    aggregate = _trade(e="aggTrade", a=99)
    both = _batches([_line(aggregate), _line(_trade())])
    assert both["trades"]["trade_id"].to_list() == ["7"]
    assert both[SILENT].rows() == [(1, 0, "aggregate_of_stored_trades")]
    assert _one("trades", aggregate)["trade_id"] == "99"  # alone it is the trade


def test_a_forced_order_that_sells_closes_a_long_for_what_was_filled() -> None:
    row = _one("liquidations", _forced())
    assert (row["position_side"], row["qty"], row["price"], row["notional_usd"], row["path"]) == (
        "long",
        2.0,  # z, not q
        100.5,  # ap, not p
        201.0,
        "market",
    )
    assert _one("liquidations", _forced(S="BUY"))["position_side"] == "short"
    assert _batches([_line(_forced(z="0"))])[SILENT]["reason"].to_list() == ["nothing_filled"]
    assert KIND.content_seq == ("liquidations",)
    assert row["seq"] is None


def test_a_mark_message_fills_marks_and_funding() -> None:
    batch = _batches([_line(_mark())])
    mark, rate = batch["marks"].row(0, named=True), batch["funding"].row(0, named=True)
    assert (mark["mark"], mark["index"], mark["last"], mark["reason"]) == (100.5, 100.25, None, None)
    assert (rate["rate"], rate["interval_h"], rate["reason"]) == (0.0001, 8.0, None)
    assert rate["ts"] == mark["ts"] == datetime(2024, 8, 8, 23, 54, 17, 250_000, UTC)  # E, not the due time T


def test_a_funding_interval_off_the_8_h_grid_is_refused_and_no_rate_is_no_funding() -> None:
    off = _batches([_line(_mark(T=_mark()["T"] - 4 * 3_600_000))])
    assert off["funding"]["reason"].to_list() == ["funding_interval_unknown"]
    assert off["marks"]["reason"].to_list() == [None]
    assert set(_batches([_line(_mark(r="", T=0))])) == {"marks"}


def test_an_array_of_messages_is_many() -> None:
    many = {"stream": "!markPrice@arr", "data": [_mark(), _mark(s="ETHUSDT", p="7")]}
    rows = _batches([_line(many)])["marks"].sort("item")
    assert rows.select("symbol", "mark", "item", "reason").rows() == [
        ("BTCUSDT", 100.5, 0, None),
        ("ETHUSDT", 7.0, 1, None),
    ]


SNAPSHOT = {"lastUpdateId": 42, "E": MS + 8, "T": MS, "bids": [["100", "1"]], "asks": [["101", "2"]]}


def test_a_snapshot_takes_its_number_and_names_its_symbol_or_the_file_does() -> None:
    coin = _one("book_levels", SNAPSHOT | {"symbol": "BTCUSD_PERP", "pair": "BTCUSD", "bids": [["50000", "5"]]})
    assert (coin["venue"], coin["symbol"], coin["seq"], coin["snapshot"], coin["qty"]) == (
        "binance-coinm",
        "BTCUSD_PERP",
        42,
        True,
        0.01,
    )
    named = _one("book_levels", SNAPSHOT, name="ethusdt_20240808.gz")
    assert (named["venue"], named["symbol"], named["seq_before"], named["reason"]) == (
        "binance-usdm",
        "ETHUSDT",
        None,
        None,
    )


def test_a_snapshot_whose_symbol_is_in_doubt_is_refused() -> None:
    def symbols(*messages: object, **origin: Any) -> set[tuple[Any, ...]]:
        rows = _batches([_line(SNAPSHOT), *map(_line, messages)], **origin)["book_levels"]
        return set(rows.select("symbol", "reason").rows())

    assert symbols() == {(None, "missing_symbol")}
    assert symbols(_trade()) == {("BTCUSDT", None)}  # the only one in the file
    assert symbols(_trade(), _trade(s="ETHUSDT")) == {(None, "missing_symbol")}
    assert symbols(_trade(), _trade(s="ETHUSDT"), symbol="ETHUSDT") == {("ETHUSDT", None)}
    assert symbols(_trade(), _trade(s="ETHUSDT"), name="ethusdt.gz") == {("ETHUSDT", None)}
    assert symbols(_trade(), name="ethusdt.gz") == {("BTCUSDT", None)}  # the name contradicts the messages


@pytest.mark.parametrize(
    ("table", "message", "reason"),
    [
        ("trades", _trade(T="x"), "unreadable_ts"),
        ("trades", _trade(T=MS * 1000), "ts_out_of_range"),  # microseconds
        ("trades", _trade(s="NOPE"), "unknown_symbol"),
        ("trades", _trade(t=None), "missing_trade_id"),
        ("trades", _trade(m=None), "unknown_side"),
        ("trades", _trade(p="x"), "unreadable_price"),
        ("trades", _trade(p="-1"), "price_not_positive"),
        ("trades", _trade(p="nan"), "price_not_positive"),
        ("trades", _trade(q=""), "unreadable_qty"),
        ("trades", _trade(q="0"), "qty_not_positive"),
        ("trades", _trade(s=None), "missing_symbol"),
        ("quotes", _quote(u="x"), "unreadable_seq"),
        ("quotes", _quote(A="-1"), "qty_negative"),
        ("quotes", _quote(b="inf"), "price_not_positive"),
        ("book_levels", _depth(b=[["100.5", "-2"]], a=[]), "qty_negative"),
        ("book_levels", _depth(b=[["100.5"]], a=[]), "unreadable_qty"),
        ("book_levels", _depth(b=[["0", "1"]], a=[]), "price_not_positive"),
        ("book_levels", _depth(u=None), "unreadable_seq"),
        ("book_levels", _depth(pu="x", U=None), "unreadable_seq_before"),
        ("book_levels", _depth(b=None, a=None), "unreadable_levels"),
        ("liquidations", _forced(S="HOLD"), "unknown_side"),
        ("marks", _mark(p="0", r=""), "price_not_positive"),
        ("marks", _mark(i="0", r=""), "index_not_positive"),
        ("marks", _mark(E=None, r=""), "missing_ts"),
    ],
)
def test_a_bad_message_is_refused_by_name(table: str, message: object, reason: str) -> None:
    assert _one(table, message)["reason"] == reason


def test_a_rate_must_be_a_rate() -> None:
    bad = [_line(_mark(r=rate)) for rate in ("x", "2", "nan")]
    said = _batches(bad)["funding"].sort("line")["reason"].to_list()
    assert said == ["unreadable_rate", "rate_out_of_range", "rate_out_of_range"]


def test_the_stamp_of_the_capture_must_be_nanoseconds() -> None:
    batch = _batches([_line(_trade(), ns) for ns in (NS, NS // 1000, "x")])["trades"].sort("line")
    assert batch["reason"].to_list() == [None, "known_at_out_of_range", "unreadable_json"]
    assert _batches([json.dumps(_trade())])["trades"]["reason"].to_list() == ["unreadable_known_at"]


def test_broken_json_is_refused_and_its_neighbours_are_not() -> None:
    whole = json.dumps(_trade())
    texts = [whole, whole[:40], whole, whole[:-1] + ',"T":{"x":1}}', "{}x", whole]
    batch = _batches([_line(text) for text in texts])
    said = dict(pl.concat([frame.select("line", "reason") for frame in batch.values()]).rows())
    assert said == {1: None, 2: "unreadable_json", 3: None, 4: None, 5: "unreadable_json", 6: None}


def test_what_no_table_holds_is_silent_under_its_name() -> None:
    lines = [{"result": None, "id": 1}, {"e": "24hrTicker", "s": "BTCUSDT"}, {"e": "kline"}, _depth(b=[], a=[])]
    said = _batches([_line(line) for line in lines])[SILENT].sort("line")["reason"].to_list()
    assert said == ["event:unnamed", "event:24hrTicker", "event:kline", "no_levels"]


def test_a_line_that_is_json_only_together_with_its_neighbours_is_none() -> None:
    texts = ['{"e":"a"', '"b":1}', '{"e":[{}', "{}]}", "{},{}", '{"e":"a}', '{","e":1}', '{"e":1},"x":{}', '{"e":"g"}']
    lines = pl.DataFrame({"line": range(len(texts)), "text": texts}, schema_overrides={"line": pl.Int64})
    assert decoded(lines, {"e": pl.String})["broken"].to_list() == [True] * 8 + [False]


MESSAGES = [_depth(), _trade(), _quote(), _mark(), _forced(), SNAPSHOT, {"result": None}, {"stream": "x", "data": {}}]
JUNK = st.text(alphabet=st.sampled_from('{}[]",:0123456789.-eEnulinfba \\'), max_size=6)


@given(st.lists(st.tuples(st.sampled_from(MESSAGES), st.integers(0, 400), JUNK, st.booleans()), max_size=12))
def test_every_line_is_accounted_for_whatever_was_done_to_it(cuts: list[tuple[Any, int, str, bool]]) -> None:
    lines = []
    for message, place, junk, cut in cuts:
        line = _line(message)
        lines.append(line[:place] if cut else line[:place] + junk + line[place + 2 :])
    batch = _batches(lines, symbol="BTCUSDT")
    told = {line for frame in batch.values() for line in frame["line"]}
    assert told == set(range(1, len(lines) + 1))


def test_values_of_any_kind_are_refused_not_raised() -> None:
    dice, odd = random.Random(1), ["nan", "inf", "1e999", "-0", 10**30, "", None, [], {}, True, -1, 1e300, "x" * 50]
    lines = []
    for _ in range(400):
        message = dict(dice.choice(MESSAGES))
        message[dice.choice([*message, "e"])] = dice.choice(odd)
        lines.append(_line(message))
    batch = _batches(lines)
    assert {line for frame in batch.values() for line in frame["line"]} == set(range(1, 401))
    for table, frame in batch.items():
        if table != SILENT:
            good = frame.filter(pl.col("reason").is_null())
            floats = good.select(pl.selectors.float())
            assert all(floats[name].drop_nulls().is_finite().all() for name in floats.columns), table


REAL = {
    # name: messages, levels, quotes, trades, venue
    "btcusd_perp_20240808.gz": (48_270, 298_013, 19_136, 2_286, "binance-coinm"),
    "btcusd_perp_20240809.gz": (50_116, 363_658, 29_219, 2_949, "binance-coinm"),
    "btcusdt_20240808.gz": (93_954, 445_521, 66_089, 21_313, "binance-usdm"),
    "ethusdt_20240808.gz": (74_655, 430_662, 53_992, 14_076, "binance-usdm"),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_the_captures_of_august_2024_are_read_whole(real_data: Path, name: str) -> None:
    path = real_data / "binance-l2-diffs-2024" / name
    assert KIND.recognises(name, fields(path, KIND.layout))
    lines: set[int] = set()
    told: set[int] = set()
    counts: Counter[str] = Counter()
    venues: set[str] = set()

    def tee(frames: Iterable[pl.DataFrame]) -> Iterable[pl.DataFrame]:
        for frame in frames:
            lines.update(frame["line"])
            yield frame

    origin = Origin(name, None, INSTRUMENTS)
    for batch in KIND.convert(iter(tee(pieces(path, KIND.layout))), origin):
        for table, frame in batch.items():
            counts[table] += frame.height
            venues.update(frame["venue"].unique())
            told.update(frame["line"].unique())
            assert frame["reason"].null_count() == frame.height
    messages, levels, quotes, trades, venue = REAL[name]
    assert lines == told
    assert len(lines) == messages
    assert dict(counts) == {"book_levels": levels, "quotes": quotes, "trades": trades}
    assert venues == {venue}


@pytest.mark.real_data
def test_the_captures_of_august_2024_follow_each_other_without_a_gap(real_data: Path) -> None:
    path = real_data / "binance-l2-diffs-2024" / "ethusdt_20240808.gz"
    batches = KIND.convert(pieces(path, KIND.layout), Origin(path.name, None, load_instruments(Config())))
    levels = pl.concat([batch["book_levels"] for batch in batches])
    diffs = levels.filter(~pl.col("snapshot")).unique("seq").sort("seq")
    assert diffs.height > 6_000
    assert (diffs["seq_before"][1:] == diffs["seq"][:-1]).all()
    first = levels.sort("line", "item").row(0, named=True)
    assert (first["price"], first["qty"], first["seq"], first["seq_before"]) == (
        200.0,
        10.229,
        5123107837896,
        5123107832175,
    )
    assert first["known_at"] == datetime(2024, 8, 8, 23, 54, 15, 88_156, UTC)
    assert first["ts"] == datetime(2024, 8, 8, 23, 54, 16, 302_000, UTC)
    (snapshot,) = levels.filter("snapshot")["symbol"].unique()
    assert snapshot == "ETHUSDT"  # from the file's name: the message does not say it
