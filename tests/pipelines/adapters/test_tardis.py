"""The tardis adapter, kind by kind: hand arithmetic, every reason, nothing lost, any text survived."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schema import CANONICAL, polars_schema
from pipelines.adapters.adapter import SILENT, Batch, Kind, Origin
from pipelines.adapters.lines import with_fields
from pipelines.adapters.rows import fields, pieces
from pipelines.adapters.tardis import ADAPTER
from pipelines.config import Config
from pipelines.instruments import load_instruments

BOOK = load_instruments(Config())
KINDS = {kind.name: kind for kind in ADAPTER.kinds}
T0 = 1760054400_000000  # 2025-10-10T00:00:00Z
HOUR = 3_600_000_000
FIRST_LINE = 2


def _file(kind: Kind, lines: Sequence[str], cut: int | None = None) -> Iterable[pl.DataFrame]:
    """Pieces of a file with a header and `lines`, `cut` lines a piece."""
    size = cut or max(len(lines), 1)
    for start in range(0, len(lines), size):
        some = list(lines[start : start + size])
        raw = pl.DataFrame({"line": range(FIRST_LINE + start, FIRST_LINE + start + len(some)), "raw": some})
        yield with_fields(raw.with_columns(pl.col("line").cast(pl.Int64)), kind.layout.columns)


def _batches(
    name: str, lines: Sequence[str], venue: str | None = None, symbol: str | None = None, cut: int | None = None
) -> list[Batch]:
    kind = KINDS[name]
    return list(kind.convert(iter(_file(kind, lines, cut)), Origin("t.csv", venue, BOOK, symbol)))


def _table(batches: list[Batch], table: str) -> pl.DataFrame:
    return pl.concat([batch[table] for batch in batches if table in batch]).sort("line", "item")


def _csv(kind: str, changes: dict[str, object], **values: object) -> str:
    unknown = changes.keys() - set(KINDS[kind].layout.columns)
    assert not unknown
    filled = IDENTITY | values | changes
    return ",".join(str(filled.get(name, "")) for name in KINDS[kind].layout.columns)


IDENTITY: dict[str, object] = {
    "exchange": "binance-delivery",
    "symbol": "AVAXUSD_PERP",
    "timestamp": T0,
    "local_timestamp": T0 + 4000,
}


def _trade(**changes: object) -> str:
    return _csv("trades", changes, id="7", side="buy", price="20", amount="3")


def _change(**changes: object) -> str:
    return _csv("incremental_book_L2", changes, is_snapshot="false", side="bid", price="20", amount="3")


LINEAR = {"exchange": "binance-futures", "symbol": "BTCUSDT"}

# --- which file is what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ADAPTER.kinds, ids=lambda kind: kind.name)
def test_a_file_is_of_exactly_one_kind(kind: Kind) -> None:
    name = f"binance-delivery_{kind.name}_2025-10-10_AVAXUSD_PERP.csv.gz"
    header = [column.lower() for column in kind.layout.columns]
    assert [other.name for other in ADAPTER.kinds if other.recognises(name, header)] == [kind.name]
    assert [other.name for other in ADAPTER.kinds if other.recognises(name, [*header, "more"])] == [kind.name]


def test_liquidations_are_told_from_trades_by_the_files_name_alone() -> None:
    header = KINDS["trades"].layout.columns
    assert KINDS["trades"].layout.columns == KINDS["liquidations"].layout.columns
    assert KINDS["trades"].recognises("deribit_trades_2025.csv.gz", header)
    assert KINDS["liquidations"].recognises("deribit_Liquidations_2025.csv.gz", header)


def test_columns_in_another_order_and_further_columns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "note,amount,price,side,id,local_timestamp,timestamp,Symbol,exchange\n"
        f'x, "3",20 ,buy,7,{T0 + 4000},{T0},AVAXUSD_PERP,binance-delivery\n'
    )
    layout = KINDS["trades"].layout
    assert KINDS["trades"].recognises(path.name, fields(path, layout))
    (batch,) = KINDS["trades"].convert(pieces(path, layout), Origin(path.name, None, BOOK))
    assert batch["trades"].equals(_batches("trades", [_trade()])[0]["trades"])


# --- trades ----------------------------------------------------------------------------------------------------------


def test_inverse_contracts_are_dollars_and_become_base_units_at_the_price() -> None:
    row = _table(_batches("trades", [_trade()]), "trades").row(0, named=True)
    assert (row["reason"], row["line"], row["item"]) == (None, 2, 0)
    assert (row["venue"], row["symbol"], row["side"], row["trade_id"]) == ("binance-coinm", "AVAXUSD_PERP", "buy", "7")
    assert row["notional_usd"] == 30.0  # 3 contracts of 10 USD
    assert row["qty"] == 1.5  # 30 USD at 20 USD
    assert row["ts"] == datetime(2025, 10, 10, tzinfo=UTC)
    assert row["known_at"] - row["ts"] == timedelta(microseconds=4000)


@pytest.mark.parametrize(
    ("symbol", "notional_usd"),
    [("BTCUSD_PERP", 300.0), ("ETHUSD_PERP", 30.0), ("1000SHIBUSD_PERP", 30.0)],  # 3 contracts of 100 and of 10 USD
)
def test_a_coin_margined_contract_is_100_dollars_for_btc_and_10_for_the_rest(symbol: str, notional_usd: float) -> None:
    row = _table(_batches("trades", [_trade(symbol=symbol)]), "trades").row(0, named=True)
    assert (row["reason"], row["notional_usd"], row["qty"]) == (None, notional_usd, notional_usd / 20)


@pytest.mark.parametrize(
    ("exchange", "symbol"),
    [("coinbase", "AVAX-USD"), ("coinbase", "NEWCOIN-USD"), ("binance", "TRXUSDT"), ("binance-futures", "BTCUSDT")],
)
def test_linear_and_spot_amounts_are_base_units(exchange: str, symbol: str) -> None:
    row = _table(_batches("trades", [_trade(exchange=exchange, symbol=symbol)]), "trades").row(0, named=True)
    assert (row["reason"], row["qty"], row["notional_usd"]) == (None, 3.0, 60.0)


def test_the_venue_and_symbol_that_the_user_names_win_over_the_columns() -> None:
    batches = _batches("trades", [_trade(exchange="x", symbol="y")], venue="binance-coinm", symbol="ETHUSD_PERP")
    row = _table(batches, "trades").row(0, named=True)
    assert (row["venue"], row["symbol"], row["reason"]) == ("binance-coinm", "ETHUSD_PERP", None)


PLACE_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"timestamp": "x"}, "unreadable_ts"),
    ({"timestamp": ""}, "unreadable_ts"),
    ({"timestamp": T0 // 1000}, "ts_out_of_range"),  # milliseconds
    ({"timestamp": "4000000000000000000"}, "ts_out_of_range"),
    ({"timestamp": "9223372036854775807"}, "unreadable_ts"),
    ({"timestamp": "99999999999999999999"}, "unreadable_ts"),
    ({"local_timestamp": "1.5e15"}, "unreadable_known_at"),
    ({"local_timestamp": T0 * 1000}, "known_at_out_of_range"),  # nanoseconds
    ({"exchange": "No Venue"}, "bad_venue_name; unknown_symbol"),
    ({"exchange": ""}, "bad_venue_name; unknown_symbol"),
    ({"symbol": "NOPE"}, "unknown_symbol"),
    ({"symbol": ""}, "unknown_symbol"),
    ({"timestamp": 1420070400_000000}, "unknown_symbol"),  # 2015: before the instrument was in force
]
PRICE_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"side": "unknown"}, "unknown_side"),
    ({"side": "BUY"}, "unknown_side"),
    ({"price": "1_0"}, "unreadable_price"),
    ({"price": ""}, "unreadable_price"),
    ({"price": "0"}, "price_not_positive"),
    ({"price": "-1"}, "price_not_positive"),
    ({"price": "nan"}, "price_not_positive"),
    ({"price": "inf"}, "price_not_positive"),
    ({"price": "1e999"}, "price_not_positive"),
    ({"amount": "abc"}, "unreadable_qty"),
    ({"side": "", "price": "-1"}, "unknown_side; price_not_positive"),
    ({"amount": "3,4"}, "ragged_line"),
]
AMOUNT_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"amount": "0"}, "qty_not_positive"),
    ({"amount": "-0"}, "qty_not_positive"),
    ({"amount": "NaN"}, "qty_not_positive"),
    ({"amount": "-inf"}, "qty_not_positive"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), [*PLACE_FAULTS, *PRICE_FAULTS, *AMOUNT_FAULTS, ({"id": ""}, "missing_trade_id")]
)
@pytest.mark.parametrize("kind", ["trades", "liquidations"])
def test_a_bad_fill_is_refused_for_what_is_bad_and_its_neighbour_is_not(
    kind: str, changes: dict[str, object], reason: str | None
) -> None:
    if kind == "liquidations" and "id" in changes:
        reason = None  # most exchanges give a forced order no id
    rows = _table(_batches(kind, [_trade(), _trade(**changes), _trade(id="8")]), kind)
    assert rows["reason"].to_list() == [None, reason, None]
    assert rows["line"].to_list() == [2, 3, 4]


def test_a_capture_stamp_before_the_trade_is_kept_as_it_stands() -> None:
    row = _table(_batches("trades", [_trade(local_timestamp=T0 - 5_000_000)]), "trades").row(0, named=True)
    assert row["reason"] is None
    assert row["ts"] - row["known_at"] == timedelta(seconds=5)


# --- liquidations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "position"), [("sell", "long"), ("buy", "short")])
def test_a_forced_sale_closes_a_long_and_a_forced_purchase_a_short(side: str, position: str) -> None:
    row = _table(_batches("liquidations", [_trade(id="", side=side)]), "liquidations").row(0, named=True)
    assert (row["reason"], row["position_side"], row["path"]) == (None, position, "unknown")
    assert (row["qty"], row["price"], row["notional_usd"], row["seq"]) == (1.5, 20.0, 30.0, None)
    assert KINDS["liquidations"].content_seq == ("liquidations",)


# --- book changes ----------------------------------------------------------------------------------------------------


def test_a_level_is_restated_in_base_units_under_the_capture_stamp() -> None:
    lines = [_change(is_snapshot="true"), _change(side="ask", amount="0"), _change(**LINEAR, price="120000.1")]
    rows = _table(_batches("incremental_book_L2", lines), "book_levels")
    assert rows["reason"].to_list() == [None, None, None]
    assert rows["qty"].to_list() == [1.5, 0.0, 3.0]  # 3 x 10 USD at 20 USD; gone; 3 BTC
    assert rows["snapshot"].to_list() == [True, False, False]
    assert rows["side"].to_list() == ["bid", "ask", "bid"]
    assert rows["price"].to_list() == [20.0, 20.0, 120000.1]
    assert rows["seq"].to_list() == [T0 + 4000] * 3
    assert rows["seq_before"].to_list() == [None] * 3


def test_the_sequence_number_does_not_depend_on_where_the_file_is_cut() -> None:
    lines = [_change(local_timestamp=T0 + step // 2) for step in range(6)]
    whole = _table(_batches("incremental_book_L2", lines), "book_levels")
    assert whole["seq"].to_list() == [T0, T0, T0 + 1, T0 + 1, T0 + 2, T0 + 2]
    assert _table(_batches("incremental_book_L2", lines, cut=1), "book_levels").equals(whole)


LEVEL_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"is_snapshot": "maybe"}, "unreadable_snapshot_mark"),
    ({"is_snapshot": ""}, "unreadable_snapshot_mark"),
    ({"side": "buy"}, "unknown_side"),
    ({"price": "0"}, "price_not_positive"),
    ({"price": ""}, "unreadable_price"),
    ({"amount": ""}, "unreadable_qty"),
    ({"amount": "-1"}, "qty_negative"),
    ({"amount": "nan"}, "qty_negative"),
    ({"amount": "inf"}, "qty_negative"),
    ({"amount": "1,2"}, "ragged_line"),
]


@pytest.mark.parametrize(("changes", "reason"), [*PLACE_FAULTS, *LEVEL_FAULTS])
def test_a_bad_level_is_refused_for_what_is_bad(changes: dict[str, object], reason: str) -> None:
    rows = _table(_batches("incremental_book_L2", [_change(), _change(**changes), _change()]), "book_levels")
    assert rows["reason"].to_list() == [None, reason, None]


# --- book snapshots --------------------------------------------------------------------------------------------------

ASKS = ((100.1, 10), (100.5, 20), (101.0, 30), (102.2, 40), (103.0, 50))
BIDS = ((99.9, 11), (99.5, 21), (99.0, 31), (97.8, 41), (96.5, 51))


def _picture(levels: int = 5, **changes: object) -> str:
    """A book around 100 with contracts of 10 USD; changes name cells as `asks_0_price`."""
    cells: dict[str, object] = {}
    for side, book in (("asks", ASKS), ("bids", BIDS)):
        for level, (price, amount) in enumerate(book):
            cells |= {f"{side}[{level}].price": price, f"{side}[{level}].amount": amount}
    named = {}
    for key, value in changes.items():
        side, _, rest = key.partition("_")
        level, _, part = rest.partition("_")
        named[f"{side}[{level}].{part}" if side in ("asks", "bids") else key] = value
    return _csv(f"book_snapshot_{levels}", named, **cells)


def test_a_snapshot_gives_the_best_quote_in_base_units() -> None:
    row = _table(_batches("book_snapshot_5", [_picture()]), "quotes").row(0, named=True)
    assert (row["reason"], row["bid"], row["ask"], row["seq"]) == (None, 99.9, 100.1, T0 + 4000)
    assert row["bid_qty"] == 11 * 10 / 99.9
    assert row["ask_qty"] == 10 * 10 / 100.1


@pytest.mark.parametrize("levels", [5, 25])
def test_depth_is_told_for_the_bands_that_the_levels_reach_across_on_both_sides(levels: int) -> None:
    """Mid 100. 20 bps: 99.8 .. 100.2; 100: 99 .. 101; 200: 98 .. 102; 500: 95 .. 105, which no side reaches."""
    rows = _table(_batches(f"book_snapshot_{levels}", [_picture(levels)]), "book_depth")
    found = {(row["side"], row["band_bps"]): row["depth_usd"] for row in rows.iter_rows(named=True)}
    assert found == {
        ("ask", 20): 100.0,  # 10 contracts
        ("bid", 20): 110.0,
        ("ask", 100): 600.0,  # 10 + 20 + 30, the level on the edge included
        ("bid", 100): 630.0,
        ("ask", 200): 600.0,  # 102.2 lies outside, and proves that nothing is missing inside
        ("bid", 200): 630.0,
    }
    assert rows["item"].is_unique().all()
    assert rows["known_at"].to_list() == [datetime(2025, 10, 10, 0, 0, 0, 4000, UTC)] * 6


def test_a_band_that_one_side_does_not_reach_is_told_for_neither() -> None:
    rows = _table(_batches("book_snapshot_5", [_picture(asks_3_price=101.5, asks_4_price=101.9)]), "book_depth")
    assert sorted(set(rows["band_bps"])) == [20, 100]


def test_linear_depth_is_base_units_at_the_level_s_price() -> None:
    rows = _table(_batches("book_snapshot_5", [_picture(**LINEAR)]), "book_depth")
    assert rows.filter(band_bps=20).sort("side")["depth_usd"].to_list() == [10 * 100.1, 11 * 99.9]


def test_depth_is_told_once_per_stamp_and_quotes_every_time_wherever_the_file_is_cut() -> None:
    lines = [_picture(local_timestamp=T0 + step, asks_0_amount=step + 1) for step in range(4)]
    lines.append(_picture(timestamp=T0 + 1, local_timestamp=T0 + 9, asks_0_amount=7))
    for cut in (None, 1, 3):
        batches = _batches("book_snapshot_5", lines, cut=cut)
        assert _table(batches, "quotes").height == 5
        depth = _table(batches, "book_depth").filter(side="ask", band_bps=20)
        assert depth["depth_usd"].to_list() == [10.0, 70.0]  # the first line of each stamp


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *PLACE_FAULTS,
        ({"asks_0_price": "", "asks_0_amount": ""}, "one_sided_book; levels_out_of_order"),
        ({"bids_4_price": "x"}, "unreadable_level"),
        ({"bids_4_price": ""}, "unreadable_level"),
        ({"bids_4_amount": ""}, "unreadable_level"),
        ({"bids_4_amount": "-1"}, "level_not_positive"),
        ({"bids_4_amount": "nan"}, "level_not_positive"),
        ({"bids_4_price": "-3"}, "level_not_positive"),
        ({"bids_4_price": "97.8"}, "levels_out_of_order"),  # twice the same level
        ({"asks_4_price": "102.1"}, "levels_out_of_order"),
        ({"bids_0_price": "100.1"}, "crossed_book"),
        ({"bids_3_price": "", "bids_3_amount": ""}, "levels_out_of_order"),  # a hole
        ({"bids_3_price": "1,2"}, "ragged_line"),
    ],
)
def test_a_bad_picture_is_refused_whole(changes: dict[str, object], reason: str) -> None:
    batches = _batches("book_snapshot_5", [_picture(), _picture(**changes), _picture(timestamp=T0 + 1)])
    assert _table(batches, "quotes")["reason"].to_list() == [None, reason, None]
    assert set(_table(batches, "book_depth")["line"]) == {2, 4}


def test_empty_cells_are_the_end_of_the_book_and_prove_no_depth() -> None:
    ends = {f"asks_{level}_{part}": "" for level in (2, 3, 4) for part in ("price", "amount")}
    batches = _batches("book_snapshot_5", [_picture(**ends)])
    assert _table(batches, "quotes")["reason"].to_list() == [None]
    assert set(_table(batches, "book_depth")["band_bps"]) == {20}  # asks are visible to 100.5


# --- derivative ticker -----------------------------------------------------------------------------------------------


def _tick(**changes: object) -> str:
    values: dict[str, object] = {
        "funding_timestamp": T0 + 8 * HOUR,
        "funding_rate": "0.0001",
        "predicted_funding_rate": "",
        "open_interest": "1000",
        "last_price": "19.9",
        "index_price": "20.1",
        "mark_price": "20",
    }
    return _csv("derivative_ticker", changes, **values)


def _tables(lines: Sequence[str], cut: int | None = None) -> dict[str, pl.DataFrame]:
    batches = _batches("derivative_ticker", lines, cut=cut)
    return {table: _table(batches, table) for table in (*KINDS["derivative_ticker"].tables, SILENT)}


def test_one_ticker_line_speaks_for_marks_funding_and_open_interest() -> None:
    tables = _tables([_tick()])
    marks, funding, interest = (tables[name].row(0, named=True) for name in ("marks", "funding", "open_interest"))
    assert (marks["mark"], marks["index"], marks["last"], marks["reason"]) == (20.0, 20.1, 19.9, None)
    assert (funding["rate"], funding["interval_h"], funding["reason"]) == (0.0001, 8.0, None)
    assert (interest["oi_base"], interest["oi_usd"], interest["reason"]) == (
        500.0,
        10_000.0,
        None,
    )  # 10 USD each, at 20
    for row in (marks, funding, interest):
        assert row["ts"] == datetime(2025, 10, 10, tzinfo=UTC)
        assert row["known_at"] - row["ts"] == timedelta(microseconds=4000)
    assert tables[SILENT].is_empty()


def test_linear_open_interest_is_base_units_at_the_mark_else_at_the_last_price() -> None:
    lines = [_tick(**LINEAR), _tick(**LINEAR, timestamp=T0 + 1, mark_price="")]
    rows = _tables(lines)["open_interest"]
    assert rows["oi_base"].to_list() == [1000.0, 1000.0]
    assert rows["oi_usd"].to_list() == [20_000.0, 19_900.0]


NOTHING = dict.fromkeys(("funding_rate", "open_interest", "last_price", "index_price", "mark_price"), "")


@pytest.mark.parametrize(
    ("changes", "spoken"),
    [
        ({}, {"marks", "funding", "open_interest"}),
        (NOTHING, {SILENT}),
        (NOTHING | {"funding_rate": "0"}, {"funding"}),
        (NOTHING | {"last_price": "3"}, {"marks"}),
        (NOTHING | {"open_interest": "3"}, {"open_interest"}),
        ({"open_interest": ""}, {"marks", "funding"}),
    ],
)
def test_an_empty_cell_says_nothing_and_a_line_of_empty_cells_is_silent(
    changes: dict[str, object], spoken: set[str]
) -> None:
    tables = _tables([_tick(**changes)])
    assert {name for name, rows in tables.items() if rows.height} == spoken
    if SILENT in spoken:
        assert tables[SILENT]["reason"].to_list() == ["no_value"]


def test_an_inverse_contract_needs_no_price_to_be_dollars_and_a_linear_one_does() -> None:
    priceless = NOTHING | {"open_interest": "3"}
    rows = _tables([_tick(**priceless), _tick(**priceless, **LINEAR)])["open_interest"]
    assert rows.select("oi_base", "oi_usd", "reason").rows() == [(None, 30.0, None), (3.0, None, "missing_price")]


@pytest.mark.parametrize(
    ("changes", "table", "reason"),
    [
        *((changes, table, reason) for changes, reason in PLACE_FAULTS for table in ("marks", "open_interest")),
        *((changes, "funding", reason) for changes, reason in PLACE_FAULTS),
        ({"mark_price": "x"}, "marks", "unreadable_mark"),
        ({"mark_price": "0"}, "marks", "mark_not_positive"),
        ({"index_price": "inf"}, "marks", "index_not_positive"),
        ({"last_price": "nan"}, "marks", "last_not_positive"),
        ({"index_price": "", "last_price": "-1"}, "marks", "last_not_positive"),
        ({"funding_rate": "x"}, "funding", "unreadable_rate"),
        ({"funding_rate": "nan"}, "funding", "rate_out_of_range"),
        ({"funding_rate": "1.5"}, "funding", "rate_out_of_range"),
        ({"funding_timestamp": "soon"}, "funding", "unreadable_funding_timestamp"),
        ({"funding_timestamp": "0"}, "funding", "unreadable_funding_timestamp"),
        ({"funding_timestamp": T0 + 16 * HOUR}, "funding", "funding_interval_contradicted"),
        ({"funding_timestamp": T0 + 4 * HOUR}, "funding", "unknown_funding_interval"),  # off the standard grid
        ({"open_interest": "x"}, "open_interest", "unreadable_open_interest"),
        ({"open_interest": "-1"}, "open_interest", "open_interest_negative"),
        ({"open_interest": "1e999"}, "open_interest", "open_interest_negative"),
    ],
)
def test_a_bad_value_is_refused_where_it_would_have_been_told(
    changes: dict[str, object], table: str, reason: str
) -> None:
    assert _tables([_tick(**changes)])[table]["reason"].to_list() == [reason]


def test_a_ragged_ticker_line_is_one_refused_row() -> None:
    tables = _tables([_tick(mark_price="1,2"), "", "x"])
    assert tables["marks"]["reason"].to_list() == ["ragged_line"] * 3
    assert tables["funding"].is_empty()
    assert tables["open_interest"].is_empty()
    assert tables[SILENT].is_empty()


@pytest.mark.parametrize("cut", [None, 1, 2])
def test_a_stamp_is_told_once_per_table_and_the_lines_after_it_are_silent(cut: int | None) -> None:
    """Open interest is polled: its line repeats the stamp of the one before, and the next stamp restates it."""
    lines = [
        _tick(**NOTHING | {"mark_price": "20"}),
        _tick(mark_price="20", open_interest="1001"),  # same stamp: open interest and funding are new to it
        _tick(open_interest="1002"),
        _tick(timestamp=T0 + 1, open_interest="1002"),
        _tick(timestamp=T0 + 1, open_interest="1003"),
    ]
    tables = _tables(lines, cut)
    assert tables["marks"]["line"].to_list() == [2, 5]
    assert tables["open_interest"]["oi_usd"].to_list() == [10_010.0, 10_020.0]
    assert tables[SILENT].select("line", "reason").rows() == [(line, "stamp_told_before") for line in (4, 6)]


def test_a_refused_line_does_not_silence_the_sound_one_after_it() -> None:
    tables = _tables([_tick(local_timestamp="x"), _tick(mark_price="20,1"), _tick()])
    assert tables["marks"]["reason"].to_list() == ["unreadable_known_at", "ragged_line", None]
    assert tables["open_interest"]["reason"].to_list() == ["unreadable_known_at", None]


def _funded(*moments_h: tuple[float, float], symbol: str = "AVAXUSD_PERP", cut: int | None = None) -> list[float | str]:
    """Interval or reason of ticker lines at `(hour, hour at which funding is due)`."""
    lines = [
        _tick(symbol=symbol, timestamp=T0 + int(at * HOUR), funding_timestamp=T0 + int(due * HOUR))
        for at, due in moments_h
    ]
    rows = _tables(lines, cut)["funding"]
    assert rows["line"].to_list() == list(range(FIRST_LINE, FIRST_LINE + len(lines)))
    return [interval if reason is None else reason for interval, reason in rows.select("interval_h", "reason").rows()]


@pytest.mark.parametrize("cut", [None, 1, 2])
def test_the_funding_interval_is_the_move_of_the_moment_at_which_funding_is_due(cut: int | None) -> None:
    assert _funded((7.5, 8), (8, 12), (11, 12), (12.01, 16), cut=cut) == [4.0] * 4
    assert _funded((7.5, 8), (8, 12), (9, 12), cut=cut) == [4.0] * 3  # told once, it counts on


@pytest.mark.parametrize("cut", [None, 1])
def test_an_interval_that_the_venue_shortens_is_told_from_its_first_payment_on(cut: int | None) -> None:
    assert _funded((1, 8), (8, 16), (16, 20), (20, 24), cut=cut) == [8.0, 8.0, 4.0, 4.0]


def test_a_feed_that_slept_through_a_payment_does_not_double_the_interval() -> None:
    """From due 8 to due 16 first seen at 12:30: two intervals of four hours cannot be told from one of eight."""
    assert _funded((3, 4), (4, 8), (12.5, 16)) == [4.0, 4.0, 4.0]
    assert _funded((3, 4), (12.5, 16)) == ["unknown_funding_interval", 8.0]  # only the standard is left


def test_a_moment_that_jumps_back_and_forth_moves_nothing() -> None:
    assert _funded((0.5, 8), (0.6, 4), (0.7, 8), (8, 16)) == [8.0] * 4


def test_each_market_has_its_own_interval() -> None:
    lines = [
        _tick(symbol=symbol, timestamp=T0 + at * HOUR, funding_timestamp=T0 + due * HOUR)
        for symbol, at, due in [
            ("AVAXUSD_PERP", 3, 4),
            ("AVAXUSD_PERP", 4, 8),
            ("ETHUSD_PERP", 5, 8),  # no move of its own yet
            ("ETHUSD_PERP", 8, 16),
        ]
    ]
    assert _tables(lines)["funding"]["interval_h"].to_list() == [4.0, 4.0, 8.0, 8.0]


def test_without_a_moment_the_venue_s_standard_counts_and_an_unknown_venue_has_none() -> None:
    lines = [_tick(funding_timestamp=""), _tick(exchange="coinbase", symbol="AVAX-USD", funding_timestamp="")]
    rows = _tables(lines)["funding"]
    assert rows.select("interval_h", "reason").rows() == [(8.0, None), (None, "unknown_funding_interval")]


# --- nothing is lost, whatever the text ------------------------------------------------------------------------------

SAMPLES = {
    "trades": _trade(),
    "liquidations": _trade(id=""),
    "incremental_book_L2": _change(),
    "book_snapshot_5": _picture(),
    "derivative_ticker": _tick(),
}
JUNK = st.sampled_from(
    ["", "nan", "inf", "-inf", "1e999", "-0", "0", "-1", "x", '"', " ", "é", "9" * 30, str(T0), str(-(2**63)), "a,b"]
)
MANGLED = st.tuples(st.integers(0, 120), JUNK)


def _mangled(line: str, faults: Sequence[tuple[int, str]], cut: int | None) -> str:
    cells = line.split(",")
    for place, junk in faults:
        cells[place % len(cells)] = junk
    return ",".join(cells)[:cut]


def _lines_out(batches: list[Batch]) -> list[int]:
    return sorted({line for batch in batches for frame in batch.values() for line in frame["line"]})


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=12)
@given(
    mangled=st.lists(st.tuples(st.lists(MANGLED, max_size=3), st.none() | st.integers(0, 80)), min_size=1, max_size=6),
    cut=st.integers(1, 6),
)
def test_every_line_comes_out_once_and_what_is_taken_fits_the_schema_however_it_is_mangled(
    name: str, mangled: list[tuple[list[tuple[int, str]], int | None]], cut: int
) -> None:
    lines = [SAMPLES[name], *(_mangled(SAMPLES[name], faults, length) for faults, length in mangled)]
    batches = _batches(name, lines, cut=cut)
    assert _lines_out(batches) == list(range(FIRST_LINE, FIRST_LINE + len(lines)))
    for table, rows in [told for batch in batches for told in batch.items()]:
        assert not rows.select("line", "item").is_duplicated().any()
        if table == SILENT:
            assert not rows["reason"].null_count()
        else:
            schema = CANONICAL[table]
            _, failure = schema.filter(rows.filter(pl.col("reason").is_null()).select(polars_schema(schema).names()))
            assert set(failure.counts()) <= {"primary_key", "seq|nullability"}  # ingest sees to these two


@settings(max_examples=12)
@given(
    stamps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=12), cut=st.integers(1, 12)
)
def test_the_pieces_of_a_file_make_no_difference(stamps: list[tuple[int, int]], cut: int) -> None:
    moments = list(itertools.accumulate(step for step, _ in stamps))
    lines = [
        _tick(timestamp=T0 + at * HOUR, funding_timestamp=T0 + (at // 8 + 1) * 8 * HOUR, open_interest=interest)
        for at, (_, interest) in zip(moments, stamps, strict=True)
    ]
    whole, parts = _tables(lines), _tables(lines, cut)
    assert all(parts[table].equals(whole[table]) for table in whole)
    assert set(whole["funding"]["reason"]) == {None}


# --- real data -------------------------------------------------------------------------------------------------------


def _counts(folder: Path) -> tuple[int, int, set[tuple[str, str]], list[datetime]]:
    """Rows, refused rows, markets and the first and last `ts` of every trades file."""
    kind, read, refused = KINDS["trades"], 0, 0
    markets: set[tuple[str, str]] = set()
    span: list[datetime] = []
    for path in sorted(folder.iterdir()):
        assert kind.recognises(path.name, fields(path, kind.layout))
        for batch in kind.convert(pieces(path, kind.layout), Origin(path.name, None, BOOK)):
            rows = batch["trades"]
            read += rows.height
            refused += rows["reason"].count()
            markets.update(rows.select("venue", "symbol").unique().rows())
            span += [rows["ts"].min(), rows["ts"].max()]
    return read, refused, markets, [min(span), max(span)]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "rows", "markets"),
    [("oct10-binance-coinm-trades", 2_174_469, 12), ("oct10-spot-trades", 1_032_393, 19)],
)
def test_every_trade_of_the_real_day_is_taken(real_data: Path, folder: str, rows: int, markets: int) -> None:
    read, refused, found, span = _counts(real_data / folder)
    assert (read, refused, len(found)) == (rows, 0, markets)
    assert {venue for venue, _ in found} <= {"binance-coinm", "binance", "coinbase", "gemini"}
    assert all(moment.date().isoformat() == "2025-10-10" for moment in span)


@pytest.mark.real_data
def test_a_real_trade_is_what_it_is_by_hand(real_data: Path) -> None:
    """105 contracts of 10 USD at 28.41: 1,050 USD, 36.9588 AVAX; captured 4.753 ms after it happened."""
    path = real_data / "oct10-binance-coinm-trades" / "binance-delivery_trades_2025-10-10_AVAXUSD_PERP.csv.gz"
    kind = KINDS["trades"]
    first = next(iter(kind.convert(pieces(path, kind.layout), Origin(path.name, None, BOOK))))["trades"]
    row = first.row(0, named=True)
    assert (row["line"], row["trade_id"], row["side"], row["price"]) == (2, "54966950", "buy", 28.41)
    assert (row["notional_usd"], round(row["qty"], 4)) == (1050.0, 36.9588)
    assert row["known_at"] - row["ts"] == timedelta(microseconds=4753)
