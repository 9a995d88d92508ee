"""Order-level captures: the story of each order as adds, cancels and trades, in both layouts."""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.adapters.adapter import SILENT, Kind, Origin
from pipelines.adapters.lines import with_fields
from pipelines.adapters.order_log import ADAPTER, COLUMNS
from pipelines.adapters.rows import fields, pieces
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments

INSTRUMENTS = load_instruments(Config())
ORDERS, LOG = ADAPTER.kinds
ORIGIN = Origin("orders.csv", None, INSTRUMENTS, "BTCUSD")
MS = 1430438404518  # 2015-05-01T00:00:04.518Z
LOTS = 100_000_000  # one bitcoin


def _joined(kind: Kind, frames: Sequence[pl.DataFrame], origin: Origin = ORIGIN) -> dict[str, pl.DataFrame]:
    batches = list(kind.convert(iter(frames), origin))
    tables = {table for batch in batches for table in batch}
    return {table: pl.concat([batch[table] for batch in batches if table in batch]) for table in tables}


def _raw(lines: Sequence[str], first: int = 1) -> pl.DataFrame:
    numbers = pl.Series("line", range(first, first + len(lines)), pl.Int64)
    return pl.DataFrame([numbers, pl.Series("raw", lines, pl.String)])


def _row(
    action: str, lots: object, *, order: object = 1, price: object = 100, side: str = "bid", at: object = MS
) -> str:
    return f"{order},{at},{MS // 1000 * 1000},{price},{lots},{action},{side}"


def _orders(*lines: str) -> dict[str, pl.DataFrame]:
    return _joined(ORDERS, [with_fields(_raw(lines, 2), COLUMNS)])


def _story(*lines: str) -> list[tuple[Any, ...]]:
    """`line, event, side, price, qty` of the accepted events."""
    events = _orders(*lines)["book_events"].filter(pl.col("reason").is_null()).sort("line", "item")
    return events.select("line", "event", "side", "price", "qty").rows()


def _reasons(*lines: str) -> list[tuple[Any, ...]]:
    batch = _orders(*lines)
    said = pl.concat([frame.select("line", "reason") for frame in batch.values()])
    return said.filter(pl.col("reason").is_not_null()).sort("line").rows()


def test_an_order_that_shrinks_was_filled_and_one_that_vanishes_with_volume_was_cancelled() -> None:
    assert _story(
        _row("created", 3 * LOTS),
        _row("changed", 2 * LOTS, at=MS + 1),
        _row("deleted", 2 * LOTS, at=MS + 2),
    ) == [
        (2, "add", "bid", 100.0, 3.0),
        (3, "trade", "bid", 100.0, 1.0),  # 3 - 2
        (4, "cancel", "bid", 100.0, 2.0),
    ]


def test_an_order_deleted_empty_traded_what_had_rested() -> None:
    assert _story(
        _row("created", 3 * LOTS, side="ask"), _row("changed", LOTS, side="ask"), _row("deleted", 0, side="ask")
    ) == [
        (2, "add", "ask", 100.0, 3.0),
        (3, "trade", "ask", 100.0, 2.0),
        (4, "trade", "ask", 100.0, 1.0),
    ]


def test_an_order_that_moves_leaves_the_old_price_and_rests_at_the_new_one() -> None:
    assert _story(_row("created", 3 * LOTS), _row("changed", 2 * LOTS, price=101)) == [
        (2, "add", "bid", 100.0, 3.0),
        (3, "trade", "bid", 100.0, 1.0),
        (3, "cancel", "bid", 100.0, 2.0),
        (3, "add", "bid", 101.0, 2.0),
    ]


def test_nothing_is_invented_about_orders_older_than_the_file() -> None:
    assert _reasons(_row("changed", LOTS), _row("deleted", 0, order=2)) == [
        (2, "order_not_seen_before"),
        (3, "order_not_seen_before"),
    ]
    assert _story(_row("deleted", LOTS)) == [(2, "cancel", "bid", 100.0, 1.0)]  # the row itself says it all


def test_adds_less_cancels_and_trades_is_what_rests() -> None:
    dice = random.Random(5)
    lines, rest = [], {}
    for order in range(1, 200):
        rest[order] = dice.randint(2, 1000)
        lines.append(_row("created", rest[order], order=order))
        for other in dice.sample(sorted(rest), k=min(2, len(rest))):
            less = dice.randint(0, rest[other] - 1)
            if dice.random() < 0.3:
                lines.append(_row("deleted", dice.choice((0, rest[other])), order=other))
                del rest[other]
            elif less > 0:
                lines.append(_row("changed", less, order=other, price=dice.choice((100, 101))))
                rest[other] = less
    sign = pl.when(pl.col("event") == "add").then(1).otherwise(-1)
    events = _orders(*lines)["book_events"].with_columns((pl.col("qty") * LOTS * sign).round().alias("lots"))
    sums = dict(events.group_by(pl.col("order_id").cast(pl.Int64)).agg(pl.col("lots").sum().cast(pl.Int64)).rows())
    assert {order: lots for order, lots in sums.items() if lots} == rest
    assert rest
    assert events.group_by("event").len().height == 3


def test_the_moment_is_the_capture_and_the_size_is_exact() -> None:
    row = _orders(_row("created", 865238172, order=65595261))["book_events"].row(0, named=True)
    assert row["ts"] == row["known_at"] == datetime(2015, 5, 1, 0, 0, 4, 518_000, UTC)
    assert (row["qty"], row["order_id"], row["venue"], row["symbol"]) == (8.65238172, "65595261", "bitstamp", "BTCUSD")


def test_an_order_dies_once_but_a_repeated_row_is_the_same_event() -> None:
    start = _row("created", LOTS)
    twice = _row("deleted", LOTS, at=MS + 5)
    assert _reasons(start, twice, _row("deleted", LOTS, at=MS + 9)) == [(4, "already_deleted")]
    assert _reasons(start, twice, _row("changed", LOTS)) == [(4, "changed_after_deleted")]
    events = _orders(start, twice, twice)["book_events"].filter(pl.col("line") > 2)
    assert events["reason"].to_list() == [None, None]
    assert events.drop("line").unique().height == 1  # so it is refused as a duplicate


def test_what_was_filled_or_rests_is_not_created_again() -> None:
    assert _reasons(_row("deleted", 0), _row("created", LOTS)) == [
        (2, "order_not_seen_before"),
        (3, "created_after_filled"),
    ]
    assert _reasons(_row("created", LOTS), _row("created", LOTS, at=MS + 1)) == [(3, "created_twice")]
    assert _story(_row("deleted", LOTS), _row("created", LOTS))[1][1] == "add"  # it came late, but it was there


def test_the_number_of_an_event_does_not_depend_on_where_the_file_was_cut() -> None:
    """The order rests untouched through a whole piece."""
    other = _row("created", LOTS, order=2)
    lines = [_row("created", 3 * LOTS), other, _row("changed", 2 * LOTS, price=99), _row("deleted", 2 * LOTS, price=99)]
    frame = with_fields(_raw(lines, 2), COLUMNS)
    whole = _joined(ORDERS, [frame])["book_events"].sort("line", "item")
    cut = _joined(ORDERS, [frame[:1], frame[1:2], frame[2:3], frame[3:]])["book_events"].sort("line", "item")
    assert whole.equals(cut)
    assert whole["seq"].n_unique() == whole.height == 6


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row("created", LOTS, at="x"), "unreadable_ts"),
        (_row("created", LOTS, at=MS * 1000), "ts_out_of_range"),
        (_row("created", LOTS, order=""), "missing_order_id"),
        (_row("moved", LOTS), "unknown_action"),
        (_row("created", LOTS, side="buy"), "unknown_side"),
        (_row("created", LOTS, price=""), "unreadable_price"),
        (_row("created", LOTS, price="nan"), "price_not_positive"),
        (_row("created", "1.5"), "unreadable_qty"),
        (_row("created", -1), "qty_negative"),
        (_row("created", 0), "created_empty"),
        (_row("created", LOTS) + ",1", "ragged_line"),
    ],
)
def test_a_bad_row_is_refused_by_name(row: str, reason: str) -> None:
    assert _reasons(row) == [(2, reason)]


def test_the_symbol_must_be_named() -> None:
    with pytest.raises(InputError, match="symbol"):
        _joined(ORDERS, [with_fields(_raw([_row("created", 1)]), COLUMNS)], Origin("o.csv", None, INSTRUMENTS))


# --- the log ---------------------------------------------------------------------------------------------------------


def _log(*lines: str) -> dict[str, pl.DataFrame]:
    return _joined(LOG, [_raw(lines)])


def _order(what: str, amount: str, order: int, side: int, price: str = "236.47") -> str:
    told = f'{{"price": "{price}", "amount": "{amount}", "datetime": "1", "id": {order}, "order_type": {side}}}'
    return f"{MS} order_{what} {told}"


def test_both_layouts_tell_the_same_events() -> None:
    log = _log(
        _order("created", "2.00000000", 7, 0), _order("changed", "1.78855669", 7, 0), _order("deleted", "0", 5, 1)
    )
    csv = _orders(
        _row("created", 200000000, order=7, price="236.47"), _row("changed", 178855669, order=7, price="236.47")
    )
    columns = ["ts", "seq", "side", "event", "price", "qty", "order_id"]
    assert log["book_events"].select(columns).sort("seq").equals(csv["book_events"].select(columns).sort("seq"))
    assert log[SILENT].rows() == [(3, 0, "order_not_seen_before")]


def test_the_younger_of_the_two_orders_took() -> None:
    trade = f'{MS} trade {{"price": 236.47, "amount": 0.5, "id": 81}}'
    maker, taker = _order("created", "0.5", 7, 1), _order("created", "2", 9, 0)
    fills = [_order("changed", "1.5", 9, 0), _order("deleted", "0", 7, 1)]
    row = _log(maker, taker, *fills, trade)["trades"].row(0, named=True)
    assert (row["side"], row["trade_id"], row["qty"], row["notional_usd"], row["reason"]) == (
        "buy",
        "81",
        0.5,
        118.235,
        None,
    )
    assert _log(trade)["trades"]["reason"].to_list() == ["unknown_side"]  # nobody to ask
    told = f'{MS} trade {{"price": 236.47, "amount": 0.5, "id": 81, "type": 1}}'
    assert _log(maker, taker, *fills, told)["trades"]["side"].to_list() == ["sell"]  # the capture says it


def test_the_top_of_the_book_is_a_snapshot() -> None:
    rows = _log(f'{MS} order_book {{"bids": [["99", "1"], ["98", "2"]], "asks": [["100", "3"]]}}')["book_levels"]
    assert rows.sort("item").select("side", "price", "qty", "item").rows() == [
        ("bid", 99.0, 1.0, 0),
        ("bid", 98.0, 2.0, 1),
        ("ask", 100.0, 3.0, 2),
    ]
    assert rows.select("seq", "snapshot", "seq_before", "reason").unique().rows() == [(MS, True, None, None)]


def test_other_lines_are_silent_and_broken_ones_refused() -> None:
    batch = _log(f"{MS} heartbeat {{}}", f"{MS} order_created {{", f'{MS} trade {{"id": 1', "nonsense")
    assert batch[SILENT].rows() == [(1, 0, "other_message")]
    said = pl.concat([batch["book_events"], batch["trades"]], how="diagonal").sort("line")
    assert said.select("line", "reason").rows() == [(line, "unreadable_json") for line in (2, 3, 4)]


JUNK = st.text(alphabet=st.sampled_from('{}[]",:0123456789.-eEnulinfba \\'), max_size=6)
LINES = [
    _order("created", "2", 7, 0),
    _order("changed", "1", 7, 0),
    _order("deleted", "0", 7, 0),
    f'{MS} trade {{"price": 236.47, "amount": 1, "id": 81}}',
    f'{MS} order_book {{"bids": [["99", "1"]], "asks": [["100", "3"]]}}',
]
ROWS = [_row("created", 3), _row("changed", 2), _row("changed", 2, price=101), _row("deleted", 2), _row("deleted", 0)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120), JUNK, st.booleans()), max_size=12))
def test_every_line_is_accounted_for_whatever_was_done_to_it(cuts: list[tuple[int, int, str, bool]]) -> None:
    for kind, whole in ((ORDERS, ROWS), (LOG, LINES)):
        lines = []
        for pick, place, junk, cut in cuts:
            line = whole[pick]
            lines.append((line[:place] if cut else line[:place] + junk + line[place + 2 :]).replace("\n", ""))
        raw = _raw(lines)
        batch = _joined(kind, [with_fields(raw, COLUMNS) if kind is ORDERS else raw])
        told = {line for frame in batch.values() for line in frame["line"]}
        assert told == set(range(1, len(lines) + 1))


# --- real data -------------------------------------------------------------------------------------------------------


def _real(path: Path) -> tuple[dict[str, pl.DataFrame], int]:
    (kind,) = (kind for kind in ADAPTER.kinds if kind.recognises(path.name, fields(path, kind.layout)))
    frames = list(pieces(path, kind.layout))
    lines = {line for frame in frames for line in frame["line"]}
    batch = _joined(kind, frames)
    assert {line for frame in batch.values() for line in frame["line"]} == lines
    return batch, len(lines)


@pytest.mark.real_data
def test_the_capture_of_may_2015_is_read_whole_in_both_layouts(real_data: Path) -> None:
    orders, rows = _real(real_data / "bitstamp-l3-2015" / "orders.csv.xz")
    log, lines = _real(real_data / "bitstamp-l3-2015" / "2015-05-01.log.xz")
    assert (rows, lines) == (50_414, 56_000)
    refused = {None: 50_419, "already_deleted": 20, "changed_after_deleted": 1}
    assert Counter(orders["book_events"]["reason"]) == Counter(log["book_events"]["reason"]) == refused
    assert orders[SILENT].height == log[SILENT].height == 25
    assert log["book_levels"].height == 2 * 20 * 5_011
    assert Counter(log["trades"]["reason"]) == {None: 575}
    place = ("ts", "order_id", "event", "item", "side", "price")
    both = [batch["book_events"].filter(pl.col("reason").is_null()).sort(place) for batch in (orders, log)]
    assert both[0].select(place).equals(both[1].select(place))
    assert (both[0]["qty"] - both[1]["qty"]).abs().max() < 1.5e-8  # the csv's writer cut off a unit here and there
    repeated = both[0].filter(pl.struct("ts", "seq").is_duplicated())
    assert repeated["line"].to_list() == [4863, 4864]  # the duplicate row, and nothing else


@pytest.mark.real_data
def test_the_first_minute_of_may_2015_by_hand(real_data: Path) -> None:
    """Line 2 creates 2 BTC at 236.47, line 3 leaves 1.78855669 of it: 0.21144331 traded, as the trade after it says."""
    log, _ = _real(real_data / "bitstamp-l3-2015" / "2015-05-01.log.xz")
    first = log["book_events"].filter(pl.col("order_id") == "65595247").sort("line")
    assert first.select("event", "qty").head(2).rows() == [("add", 2.0), ("trade", 0.21144331)]
    trade = log["trades"].row(0, named=True)
    assert (trade["line"], trade["trade_id"], trade["qty"], trade["side"]) == (4, "8111041", 0.21144331, "buy")
