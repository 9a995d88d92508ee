"""Hyperliquid files: funding, fills with their liquidations, asset contexts. The lines are made after public ones."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.adapters.adapter import SILENT, Kind, Origin
from pipelines.adapters.hyperliquid import ADAPTER
from pipelines.adapters.lines import split_fields, with_fields
from pipelines.config import Config
from pipelines.instruments import load_instruments

INSTRUMENTS = load_instruments(Config())
CONTEXTS, FUNDING, FILLS, _ = ADAPTER.kinds
HEADER = (
    "time,coin,funding,open_interest,prev_day_px,day_ntl_vlm,premium,oracle_px,mark_px,mid_px,"
    "impact_bid_px,impact_ask_px"
)
MS = 1760130964831  # 2025-10-10T21:16:04.831Z
TS = datetime(2025, 10, 10, 21, 16, 4, 831_000, UTC)
VAULT, TRADER = "0x2e3d94f0562703b25c83308a05046ddaf9a8dd14", "0xe92d2041199b18f611b137457f3acee8bedb22d3"


def _batch(kind: Kind, lines: Sequence[str]) -> dict[str, pl.DataFrame]:
    numbers = pl.Series("line", range(1, len(lines) + 1), pl.Int64)
    raw = pl.DataFrame([numbers, pl.Series("raw", lines, pl.String)])
    piece = with_fields(raw, HEADER.split(",")) if kind is CONTEXTS else raw
    (batch,) = kind.convert(iter([piece]), Origin("file", None, INSTRUMENTS))
    return {table: frame for table, frame in batch.items() if frame.height}


def _fill(**changes: Any) -> dict[str, Any]:
    fill = {
        "coin": "AVAX",
        "px": "22.5",
        "sz": "10",
        "side": "A",
        "time": MS,
        "startPosition": "10",
        "dir": "Close Long",
    }
    return fill | {"closedPnl": "0", "hash": "0x9", "oid": 1, "crossed": True, "fee": "0.0", "tid": 77} | changes


def _liquidation(user: str, method: str = "market") -> dict[str, str]:
    return {"liquidatedUser": user, "markPx": "22.4", "method": method}


def _block(*events: tuple[str, dict[str, Any]], **changes: Any) -> str:
    told = {"local_time": "2025-10-10T21:16:05.000123456", "block_time": "2025-10-10T21:16:04.831874687"}
    return json.dumps(told | {"block_number": 758800641, "events": [list(event) for event in events]} | changes)


# --- funding ---------------------------------------------------------------------------------------------------------

RATE = {"coin": "BTC", "fundingRate": "0.0000125", "premium": "0.0003", "time": MS}


@pytest.mark.parametrize("line", [json.dumps(RATE), json.dumps([RATE]), f" {json.dumps(RATE)} "])
def test_a_funding_record_is_the_rate_of_one_hour(line: str) -> None:
    assert FUNDING.recognises("x", (line,))
    row = _batch(FUNDING, [line])["funding"].row(0, named=True)
    assert (row["venue"], row["symbol"], row["ts"], row["known_at"]) == ("hyperliquid", "BTC", TS, TS)
    assert (row["rate"], row["interval_h"], row["item"], row["reason"]) == (0.0000125, 1.0, 0, None)


def test_a_funding_answer_holds_many_records() -> None:
    rows = _batch(FUNDING, [json.dumps([RATE, RATE | {"coin": "ETH"}]), "[]"])
    assert rows["funding"].select("symbol", "line", "item").rows() == [("BTC", 1, 0), ("ETH", 1, 1)]
    assert rows[SILENT].rows() == [(2, 0, "no_records")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time": "x"}, "unreadable_ts"),
        ({"time": MS // 1000}, "ts_out_of_range"),  # seconds
        ({"coin": "@107"}, "unknown_symbol"),  # a spot pair
        ({"coin": None}, "missing_symbol"),
        ({"fundingRate": "x"}, "unreadable_rate"),
        ({"fundingRate": "nan"}, "rate_out_of_range"),
        ({"fundingRate": "1.5"}, "rate_out_of_range"),
    ],
)
def test_a_bad_funding_record_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    assert _batch(FUNDING, [json.dumps(RATE | changes)])["funding"]["reason"].to_list() == [reason]


# --- fills -----------------------------------------------------------------------------------------------------------


def test_a_fill_stands_there_twice_and_is_one_trade() -> None:
    maker = _fill(side="B", crossed=False, dir="Open Long")
    batch = _batch(FILLS, [_block((TRADER, maker), (VAULT, _fill()))])
    row = batch["trades"].row(0, named=True)
    assert batch["trades"].height == 1
    assert (row["side"], row["price"], row["qty"], row["notional_usd"], row["trade_id"]) == (
        "sell",  # the taker's
        22.5,
        10.0,
        225.0,
        "77",
    )
    assert (row["ts"], row["known_at"]) == (TS, datetime(2025, 10, 10, 21, 16, 5, 123, UTC))
    assert batch[SILENT].rows() == [(1, 0, "other_leg")]
    assert "liquidations" not in batch


def test_the_forms_of_a_fill_say_the_same() -> None:
    fill = _fill(liquidation=_liquidation(TRADER))
    lines = [
        _block((TRADER, fill), local_time=None),
        json.dumps([TRADER, fill]),
        json.dumps(fill),
        json.dumps(fill | {"user": TRADER}),
        json.dumps([fill]),
    ]
    assert all(FILLS.recognises("x", (line,)) for line in lines)
    batch = _batch(FILLS, lines)
    for table in ("trades", "liquidations"):
        rows = batch[table]
        assert rows["line"].sort().to_list() == [1, 2, 3, 4, 5]
        assert rows.drop("line").unique().height == 1
        assert rows["reason"].null_count() == 5


def test_both_legs_carry_the_liquidation_and_the_liquidated_users_counts() -> None:
    """The maker bought 10 from a long that was liquidated."""
    told = _liquidation(TRADER.upper().replace("0X", "0x"))
    maker = _fill(side="B", crossed=False, dir="Open Long", liquidation=told)
    batch = _batch(FILLS, [_block((VAULT, maker), (TRADER.replace("e92d", "E92D"), _fill(liquidation=told)))])
    row = batch["liquidations"].row(0, named=True)
    assert batch["liquidations"].height == 1
    assert (row["position_side"], row["qty"], row["notional_usd"], row["path"], row["seq"], row["item"]) == (
        "long",
        10.0,
        225.0,
        "market",
        77,
        1,
    )
    assert batch["trades"].height == 1  # it was also a trade in the book
    short = _fill(side="B", dir="Close Short", liquidation=_liquidation(TRADER))
    assert _batch(FILLS, [_block((TRADER, short))])["liquidations"]["position_side"].to_list() == ["short"]


def test_deleveraging_and_the_backstop_meet_no_order_of_the_book() -> None:
    adl = _fill(side="B", dir="Auto-Deleveraging", liquidation=_liquidation(VAULT, "backstop"))
    stop = _fill(dir="Liquidated Cross Long", liquidation=_liquidation(TRADER, "backstop"), tid=78)
    batch = _batch(FILLS, [_block((VAULT, adl), (TRADER, adl | {"side": "A"})), _block((TRADER, stop))])
    assert "trades" not in batch
    rows = batch["liquidations"].sort("line")
    assert rows.select("line", "position_side", "path").rows() == [(1, "short", "adl"), (2, "long", "unknown")]
    assert batch[SILENT].rows() == [(1, 1, "other_leg")]


def test_a_block_without_fills_is_silent() -> None:
    assert _batch(FILLS, [_block()])[SILENT].rows() == [(1, 0, "no_fills")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time": None}, "unreadable_ts"),
        ({"time": MS * 1000}, "ts_out_of_range"),
        ({"coin": "xyz:TSLA"}, "unknown_symbol"),
        ({"tid": None}, "missing_trade_id"),
        ({"crossed": None}, "unknown_taker"),
        ({"side": "S"}, "unknown_side"),
        ({"px": "x"}, "unreadable_price"),
        ({"px": "inf"}, "price_not_positive"),
        ({"sz": ""}, "unreadable_qty"),
        ({"sz": "0"}, "qty_not_positive"),
    ],
)
def test_a_bad_fill_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    assert _batch(FILLS, [json.dumps(_fill(**changes))])["trades"]["reason"].to_list() == [reason]


def test_an_unreadable_capture_stamp_is_refused() -> None:
    line = _block((TRADER, _fill()), local_time="yesterday")
    assert _batch(FILLS, [line])["trades"]["reason"].to_list() == ["unreadable_known_at"]


def test_broken_json_is_refused() -> None:
    whole = json.dumps(_fill())
    rows = _batch(FILLS, [whole, whole[:50], "[]", '"x"'])
    said = pl.concat([frame.select("line", "reason") for frame in rows.values()]).sort("line")
    assert said.rows() == [(1, None), (2, "unreadable_json"), (3, "no_fills"), (4, "unreadable_json")]


# --- contexts --------------------------------------------------------------------------------------------------------


def _context(**changes: str) -> str:
    cells = dict.fromkeys(HEADER.split(","), "1") | {"time": "2025-11-13T00:01:00Z", "coin": "SOL", "mark_px": "150.5"}
    return ",".join((cells | {"oracle_px": "150", "open_interest": "1000"} | changes).values())


@pytest.mark.parametrize("time", ["2025-11-13T00:01:00Z", "2025-11-13 00:01:00", "2025-11-13 00:01:00.000"])
def test_a_context_is_a_mark_and_an_open_interest(time: str) -> None:
    assert CONTEXTS.recognises("x", split_fields(HEADER))
    batch = _batch(CONTEXTS, [_context(time=time)])
    mark, held = batch["marks"].row(0, named=True), batch["open_interest"].row(0, named=True)
    assert (mark["mark"], mark["index"], mark["last"], mark["reason"]) == (150.5, 150.0, None, None)
    assert mark["ts"] == held["ts"] == mark["known_at"] == datetime(2025, 11, 13, tzinfo=UTC) + timedelta(minutes=1)
    assert (held["oi_base"], held["oi_usd"], held["reason"]) == (1000.0, 150_500.0, None)


def test_an_empty_cell_says_nothing() -> None:
    lines = [_context(mark_px=""), _context(open_interest=""), _context(mark_px="null", oracle_px="", open_interest="")]
    batch = _batch(CONTEXTS, lines)
    assert batch["marks"].select("line", "mark", "index", "reason").rows() == [
        (1, None, 150.0, None),
        (2, 150.5, 150.0, None),
    ]
    assert batch["open_interest"].select("line", "reason").rows() == [(1, "missing_price")]
    assert batch[SILENT].rows() == [(3, 0, "empty_row")]


@pytest.mark.parametrize(
    ("table", "changes", "reason"),
    [
        ("marks", {"time": "2025-13-01"}, "unreadable_ts"),
        ("marks", {"coin": ""}, "missing_symbol"),
        ("marks", {"coin": "xyz:TSLA"}, "unknown_symbol"),
        ("marks", {"mark_px": "x"}, "unreadable_mark"),
        ("marks", {"mark_px": "0.0"}, "mark_not_positive"),
        ("marks", {"oracle_px": "-1"}, "index_not_positive"),
        ("open_interest", {"open_interest": "x"}, "unreadable_qty"),
        ("open_interest", {"open_interest": "-1"}, "qty_negative"),
        ("open_interest", {"mark_px": "0"}, "missing_price"),
    ],
)
def test_a_bad_context_is_refused_by_name(table: str, changes: dict[str, str], reason: str) -> None:
    assert _batch(CONTEXTS, [_context(**changes)])[table]["reason"].to_list() == [reason]


def test_a_ragged_context_is_refused_once() -> None:
    batch = _batch(CONTEXTS, [_context() + ",9"])
    assert {table: frame["reason"].to_list() for table, frame in batch.items()} == {"marks": ["ragged_line"]}


# --- all -------------------------------------------------------------------------------------------------------------

WHOLE = {
    CONTEXTS.name: [_context(), _context(mark_px="")],
    FUNDING.name: [json.dumps(RATE), json.dumps([RATE, RATE])],
    FILLS.name: [
        json.dumps(_fill()),
        json.dumps([TRADER, _fill(crossed=False)]),
        _block((TRADER, _fill(liquidation=_liquidation(TRADER))), (VAULT, _fill())),
    ],
}
JUNK = st.text(alphabet=st.sampled_from('{}[]",:0123456789.-eEnulinfba \\'), max_size=6)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), JUNK, st.booleans()), max_size=12))
def test_every_line_is_accounted_for_whatever_was_done_to_it(cuts: list[tuple[int, int, str, bool]]) -> None:
    for kind in (CONTEXTS, FUNDING, FILLS):
        lines = []
        for pick, place, junk, cut in cuts:
            line = WHOLE[kind.name][pick % len(WHOLE[kind.name])]
            lines.append(line[:place] if cut else line[:place] + junk + line[place + 2 :])
        told = {line for frame in _batch(kind, lines).values() for line in frame["line"]}
        assert told == set(range(1, len(lines) + 1)), kind.name
