"""The level-by-level book: hand-made tables, a slow twin, conservation, cuts into pieces, real captures."""

import gzip
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.book import Derived, Market, Tally, derive_levels, derive_orders, unknown_book
from features.schema import (
    DEPTH_BANDS_BPS,
    BookDepth,
    BookEvents,
    BookLevels,
    BookState,
    Quotes,
    Trades,
    polars_schema,
)

T0 = datetime(2024, 8, 8, tzinfo=UTC)
MARKET = Market("v", "X-PERP")
Row = tuple[Any, ...]


def at(ms: float) -> datetime:
    return T0 + timedelta(milliseconds=ms)


def levels(*rows: Row) -> pl.DataFrame:
    """Rows `ms, seq, seq_before, side, price, qty` and, for a snapshot, True."""
    names = ("ms", "seq", "seq_before", "side", "price", "qty")
    plain_rows = pl.DataFrame([row[:6] for row in rows], schema=names, orient="row", infer_schema_length=None)
    ts = T0 + pl.duration(microseconds=pl.col("ms").cast(pl.Float64) * 1_000)
    return plain_rows.select(
        pl.lit("v").alias("venue"),
        pl.lit("X-PERP").alias("symbol"),
        ts.alias("ts"),
        (ts + pl.duration(milliseconds=7)).alias("known_at"),
        "seq",
        "seq_before",
        "side",
        pl.col("price", "qty").cast(pl.Float64),
        snapshot=pl.Series([len(row) > 6 for row in rows], dtype=pl.Boolean),
    ).select(pl.col(name).cast(dtype) for name, dtype in polars_schema(BookLevels).items())


def trades(*rows: Row) -> pl.DataFrame:
    """Rows `ms, side, price, qty`."""
    given = [
        {"venue": "v", "symbol": "X-PERP", "ts": at(r[0]), "trade_id": str(k), "known_at": at(r[0]), "side": r[1]}
        | {"price": float(r[2]), "qty": float(r[3]), "notional_usd": float(r[2] * r[3])}
        for k, r in enumerate(rows)
    ]
    return pl.DataFrame(given, schema=dict(polars_schema(Trades)), orient="row")


def orders(*rows: Row) -> pl.DataFrame:
    """Rows `ms, side, event, price, qty`."""
    given = [
        {"venue": "v", "symbol": "X-PERP", "ts": at(r[0]), "seq": k, "known_at": at(r[0]), "side": r[1], "event": r[2]}
        | {"price": float(r[3]), "qty": float(r[4]), "order_id": str(k)}
        for k, r in enumerate(rows)
    ]
    return pl.DataFrame(given, schema=dict(polars_schema(BookEvents)), orient="row")


def derive(rows: pl.DataFrame, prints: pl.DataFrame | None = None, end_ms: float = 3_600_000) -> Derived:
    return derive_levels(rows, trades() if prints is None else prints, unknown_book(), MARKET, at(end_ms))


def told(found: Derived) -> list[Row]:
    """Events but for the snapshot's rows, with times in ms."""
    frame = found.events.filter(pl.col("event") != "snapshot")
    ms = (frame["ts"] - T0).dt.total_milliseconds()
    return list(zip(ms, frame["side"], frame["event"], frame["price"], frame["qty"], strict=True))


def quoted(found: Derived) -> list[Row]:
    frame = found.quotes
    ms = (frame["ts"] - T0).dt.total_milliseconds()
    return list(zip(ms, frame["bid"], frame["bid_qty"], frame["ask"], frame["ask_qty"], strict=True))


SNAPSHOT = (
    (0, 10, None, "bid", 99, 5, True),
    (0, 10, None, "bid", 98, 5, True),
    (0, 10, None, "ask", 101, 5, True),
    (0, 10, None, "ask", 102, 5, True),
)


# --- why a level changed ---


def test_a_rise_is_an_add_and_a_fall_that_no_trade_explains_is_a_cancel() -> None:
    found = derive(levels(*SNAPSHOT, (100, 11, 10, "bid", 99, 8), (200, 12, 11, "bid", 99, 6)))
    assert told(found) == [(100, "bid", "add", 99.0, 3.0), (200, "bid", "cancel", 99.0, 2.0)]


def test_a_fall_is_a_trade_as_far_as_trades_explain_it_and_a_cancel_beyond() -> None:
    found = derive(levels(*SNAPSHOT, (100, 11, 10, "ask", 101, 1)), trades((90, "buy", 101, 1), (100, "buy", 101, 2)))
    # 5 -> 1: fell 4, of which 1 + 2 were bought.
    assert told(found) == [(100, "ask", "trade", 101.0, 3.0), (100, "ask", "cancel", 101.0, 1.0)]
    assert found.tally.traded_usd == found.tally.explained_usd == 303.0


@pytest.mark.parametrize(
    ("print_row", "explains"),
    [
        ((100, "buy", 101, 2), True),
        ((101, "buy", 101, 2), False),  # after the fall
        ((-149, "buy", 101, 2), True),  # 249 ms before it
        ((-150, "buy", 101, 2), False),  # 250 ms before it
        ((90, "sell", 101, 2), False),  # takes the bid
        ((90, "buy", 102, 2), False),  # another level
    ],
)
def test_a_trade_explains_falls_at_its_price_and_side_within_a_quarter_second(print_row: Row, explains: bool) -> None:
    early = [(ms - 500, *rest) for ms, *rest in SNAPSHOT]
    found = derive(levels(*early, (100, 11, 10, "ask", 101, 3)), trades(print_row))
    assert told(found) == [(100, "ask", "trade" if explains else "cancel", 101.0, 2.0)]


def test_a_traded_unit_explains_one_fallen_unit_once() -> None:
    rows = levels(*SNAPSHOT, (100, 11, 10, "ask", 101, 3), (110, 12, 11, "ask", 101, 1))
    assert told(derive(rows, trades((90, "buy", 101, 3)))) == [
        (100, "ask", "trade", 101.0, 2.0),
        (110, "ask", "trade", 101.0, 1.0),
        (110, "ask", "cancel", 101.0, 1.0),
    ]


def test_trades_before_a_snapshot_are_settled_by_it() -> None:
    later = [(50, 20, None, *rest) for _, _, _, *rest in SNAPSHOT]
    rows = levels(*SNAPSHOT, *later, (60, 21, 20, "ask", 101, 3))
    assert told(derive(rows, trades((40, "buy", 101, 2)))) == [(60, "ask", "cancel", 101.0, 2.0)]


def test_decimal_and_inverse_quantities_leave_no_crumbs() -> None:
    inverse = 10 / 61_668.7  # base units of one contract of 10 dollars
    rows = levels(
        (0, 10, None, "bid", 99, 1.211, True),
        (0, 10, None, "ask", 101, 7 * inverse, True),
        (100, 11, 10, "bid", 99, 0.93),
        (100, 11, 10, "ask", 101, 4 * inverse),
    )
    found = derive(rows, trades((90, "buy", 101, 3 * inverse)))
    assert told(found)[0] == (100, "ask", "trade", 101.0, pytest.approx(3 * inverse, rel=1e-12))
    assert told(found)[1:] == [(100, "bid", "cancel", 99.0, 0.281)]  # not 0.28100000000000003


# --- snapshots and the chain of messages ---


def test_the_difference_between_a_snapshot_and_the_book_before_explains_nothing() -> None:
    found = derive(levels(*SNAPSHOT, (100, 20, None, "bid", 97, 1, True), (100, 20, None, "ask", 103, 2, True)))
    assert told(found) == []
    last = found.events.filter(pl.col("ts") == at(100)).select("side", "event", "price", "qty").rows()
    assert last == [("ask", "snapshot", 103.0, 2.0), ("bid", "snapshot", 97.0, 1.0)]
    assert quoted(found)[-1] == (100, 97.0, 1.0, 103.0, 2.0)  # the old levels are gone


def test_messages_at_or_before_the_snapshot_are_skipped_and_the_next_must_straddle_it() -> None:
    rows = levels(*SNAPSHOT, (1, 9, 8, "bid", 99, 9), (2, 10, 9, "bid", 99, 9), (3, 13, 8, "bid", 99, 6))
    found = derive(rows)
    assert told(found) == [(3, "bid", "add", 99.0, 1.0)]
    assert (found.tally.stale, found.tally.gaps) == (2, 0)


def test_a_first_message_beyond_the_snapshot_is_a_gap() -> None:
    found = derive(levels(*SNAPSHOT, (3, 13, 11, "bid", 99, 6)))
    assert told(found) == []
    assert found.tally.gaps == 1


def test_after_a_gap_a_level_explains_nothing_until_it_has_been_restated_once() -> None:
    rows = levels(
        *SNAPSHOT,
        (100, 20, 15, "bid", 99, 8),  # messages 11..15 are missing
        (200, 21, 20, "bid", 99, 9),
        (300, 22, 21, "ask", 101, 4),
        (400, 23, 22, "ask", 101, 3),
    )
    found = derive(rows)
    assert told(found) == [(200, "bid", "add", 99.0, 1.0), (400, "ask", "cancel", 101.0, 1.0)]
    assert quoted(found) == [(0, 99.0, 5.0, 101.0, 5.0)]  # withheld from the gap on
    assert found.tally.gaps == 1


def test_quotes_come_back_after_five_unbroken_seconds_of_a_restated_touch() -> None:
    rows = levels(
        *SNAPSHOT,
        (1_000, 20, 15, "bid", 99, 8),
        (2_000, 21, 20, "ask", 101, 4),  # now both sides have been restated
        (6_999, 22, 21, "bid", 98, 1),
        (7_000, 23, 22, "bid", 98, 2),
    )
    assert quoted(derive(rows)) == [(0, 99.0, 5.0, 101.0, 5.0), (7_000, 99.0, 8.0, 101.0, 4.0)]


def test_without_a_snapshot_the_first_mention_of_a_level_explains_nothing() -> None:
    found = derive(levels((0, 2, 1, "bid", 99, 5), (10, 3, 2, "bid", 99, 7), (20, 4, 3, "ask", 101, 0)))
    assert told(found) == [(10, "bid", "add", 99.0, 2.0)]
    assert found.quotes.is_empty()


def test_a_level_within_the_snapshot_that_it_did_not_list_was_empty_and_one_beyond_is_unknown() -> None:
    rows = levels(*SNAPSHOT, (100, 11, 10, "bid", 98.5, 2), (200, 12, 11, "bid", 97, 2), (300, 13, 12, "ask", 103, 2))
    assert told(derive(rows)) == [(100, "bid", "add", 98.5, 2.0)]


def test_a_snapshot_that_comes_late_fills_in_only_what_was_not_restated_since() -> None:
    rows = levels(
        (0, 10, 9, "bid", 99, 5),
        (10, 12, 10, "bid", 99, 6),
        (20, 11, None, "bid", 99, 5, True),  # a picture of message 11, stamped when it was received
        (20, 11, None, "bid", 98, 3, True),
        (20, 11, None, "ask", 101, 4, True),
        (30, 13, 12, "bid", 98, 2),
    )
    found = derive(rows)
    assert told(found) == [(10, "bid", "add", 99.0, 1.0), (30, "bid", "cancel", 98.0, 1.0)]
    assert quoted(found) == [(20, 99.0, 6.0, 101.0, 4.0)]
    assert found.tally == Tally(messages=4, doubted=2)


def test_a_source_without_numbers_has_one_message_per_time_stamp() -> None:
    rows = levels(
        (0, 1, None, "bid", 99, 5, True),
        (0, 2, None, "ask", 101, 5, True),
        (50, 3, None, "bid", 102, 5),  # crossed but for the next row of the same time
        (50, 4, None, "ask", 101, 0),
        (50, 5, None, "ask", 103, 1),
    )
    found = derive(rows)
    assert quoted(found) == [(0, 99.0, 5.0, 101.0, 5.0), (50, 102.0, 5.0, 103.0, 1.0)]
    assert found.tally.crossed == 0


def test_a_crossed_book_is_withheld_and_loses_its_older_level_after_a_second() -> None:
    rows = levels(
        *SNAPSHOT,
        (1_000, 11, 10, "ask", 99, 2),  # the bid at 99 should have gone
        (1_999, 12, 11, "bid", 97.5, 1),
        (2_000, 13, 12, "bid", 97.5, 2),
        (2_100, 14, 13, "bid", 99, 0),
    )
    found = derive(rows)
    assert quoted(found) == [(0, 99.0, 5.0, 101.0, 5.0), (2_000, 98.0, 5.0, 99.0, 2.0)]
    assert (found.tally.crossed, found.tally.dropped) == (2, 1)
    assert (2_100, "bid", "cancel", 99.0, 5.0) not in told(found)


def test_two_crossing_levels_of_the_same_time_keep_the_book_withheld() -> None:
    rows = levels(
        (0, 1, None, "bid", 103, 5, True),
        (0, 1, None, "ask", 101, 5, True),
        (9_000, 2, 1, "ask", 105, 1),
        (10_000, 3, 2, "ask", 105, 2),
    )
    found = derive(rows)
    assert found.quotes.is_empty()
    assert found.depth.is_empty()
    assert found.tally.crossed == 3


# --- depth ---


def test_depth_is_the_last_state_of_each_second_within_each_covered_band() -> None:
    rows = levels(
        (0, 10, None, "bid", 99.99, 1, True),
        (0, 10, None, "bid", 99.0, 2, True),
        (0, 10, None, "bid", 90.0, 3, True),
        (0, 10, None, "ask", 100.01, 4, True),
        (0, 10, None, "ask", 100.5, 5, True),
        (500, 11, 10, "bid", 99.0, 6),
        (1_000, 12, 11, "bid", 99.0, 7),  # the last state in (0 s, 1 s]
        (1_001, 13, 12, "bid", 99.0, 8),
    )
    found = derive(rows)
    keys = found.depth.select((pl.col("ts") - T0).dt.total_milliseconds(), "side", "band_bps").rows()
    got = dict(zip(keys, found.depth["depth_usd"], strict=True))
    # mid 100: bids reach to 90, so every band; asks reach to 100.5: 20 bps only.
    near = 99.99
    assert got == {
        (0, "bid", 20): near,
        (0, "bid", 100): near + 2 * 99,
        (0, "bid", 200): near + 2 * 99,
        (0, "bid", 500): near + 2 * 99,
        (0, "ask", 20): pytest.approx(400.04),
        (1_000, "bid", 20): near,
        (1_000, "bid", 100): near + 7 * 99,
        (1_000, "bid", 200): near + 7 * 99,
        (1_000, "bid", 500): near + 7 * 99,
        (1_000, "ask", 20): pytest.approx(400.04),
        (1_001, "bid", 20): near,
        (1_001, "bid", 100): near + 8 * 99,
        (1_001, "bid", 200): near + 8 * 99,
        (1_001, "bid", 500): near + 8 * 99,
        (1_001, "ask", 20): pytest.approx(400.04),
    }


def test_without_a_snapshot_depth_waits_for_five_minutes_and_then_reaches_to_the_farthest_level() -> None:
    rows = levels(
        (0, 1, 0, "bid", 99.99, 1),
        (0, 1, 0, "ask", 100.01, 1),
        (0, 1, 0, "ask", 101, 1),
        (299_999, 2, 1, "bid", 99.98, 1),
        (301_000, 3, 2, "bid", 99.98, 2),
    )
    found = derive(rows).depth.filter(pl.col("ts") > T0)
    assert found.select("ts", "side", "band_bps").rows() == [
        (at(301_000), "ask", 20),
        (at(301_000), "ask", 100),
    ]
    # 101 lies exactly on the 100 bps edge: 100.01 + 101.
    assert found["depth_usd"].to_list() == [pytest.approx(100.01), pytest.approx(201.01)]


# --- order logs ---


def test_an_order_log_gives_levels_as_sums_of_orders() -> None:
    rows = orders(
        (0, "bid", "add", 99, 2),
        (1, "bid", "add", 99, 3),
        (2, "ask", "add", 101, 1),
        (5_002, "ask", "add", 102, 1),  # five settled seconds
        (5_100, "bid", "cancel", 99, 2),
        (5_200, "ask", "trade", 101, 1),
    )
    found = derive_orders(rows, unknown_book(), MARKET, at(10_000))
    assert quoted(found) == [
        (5_002, 99.0, 5.0, 101.0, 1.0),
        (5_100, 99.0, 3.0, 101.0, 1.0),
        (5_200, 99.0, 3.0, 102.0, 1.0),
    ]
    assert found.events.is_empty()


def test_nothing_in_is_nothing_out() -> None:
    found = derive(levels())
    assert [part.height for part in found[:4]] == [0, 0, 0, 0]
    assert found.state.schema == polars_schema(BookState)


def test_the_state_carries_trades_unclaimed_levels_known_empty_and_the_last_quote() -> None:
    rows = levels(
        (0, 1, 0, "ask", 101, 5),
        (0, 1, 0, "bid", 97, 0),  # known to be empty
        (10, 5, None, "bid", 99, 5, True),
        (10, 5, None, "ask", 102, 5, True),
        (20, 6, 5, "ask", 103, 4),
        (30, 7, 6, "bid", 98, 0),
        (40, 8, 7, "ask", 103, 0),
        (1_100, 9, 8, "bid", 98, 2),
        (1_100, 9, 8, "bid", 99, 2),
        (1_100, 9, 8, "ask", 103, 1),
    )
    first = derive_levels(
        rows.filter(pl.col("ts") <= at(1_000)), trades((900, "sell", 99, 2)), unknown_book(), MARKET, at(1_000)
    )
    second = derive_levels(rows.filter(pl.col("ts") > at(1_000)), trades(), first.state, MARKET, at(2_000))
    # 99 fell by 3, of which the trade before the cut explains 2; 98 and 103 were empty before.
    assert sorted(told(second)) == [
        (1_100, "ask", "add", 103.0, 1.0),
        (1_100, "bid", "add", 98.0, 2.0),
        (1_100, "bid", "cancel", 99.0, 1.0),
        (1_100, "bid", "trade", 99.0, 2.0),
    ]
    idle = derive_levels(levels((1_500, 9, 8, "ask", 103, 1)), trades(), first.state, MARKET, at(2_000))
    assert idle.quotes.is_empty()  # the touch is what it was


# --- a slow twin ---


@dataclass
class Level:
    qty: float = 0.0
    since: int = 0
    sure: bool = False  # restated since the last loss


@dataclass
class Twin:
    """The rules of `book.py` over dictionaries, one message at a time, in whole milliseconds."""

    book: dict[str, dict[float, Level]] = field(default_factory=lambda: {"bid": {}, "ask": {}})
    seq: int | None = None
    chain_start: int | None = None
    chained: bool = False
    fresh: bool = False
    begun: bool = False
    since: int = 0
    reach: tuple[float, float] | None = None
    settled: bool = False
    clean: int | None = None
    crossed: int | None = None
    floor: int = -(10**12)
    pending: list[list[Any]] = field(default_factory=list)
    last_quote: tuple[float, ...] | None = None
    events: list[Row] = field(default_factory=list)
    quotes: list[Row] = field(default_factory=list)
    depth: dict[int, list[Row]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def lose(self, ts: int, seq_before: int | None) -> None:
        for side in self.book.values():
            for level in side.values():
                level.sure = False
        self.begun, self.since, self.chain_start = True, ts, seq_before
        self.reach, self.settled, self.clean, self.crossed = None, False, None, None

    def within(self, side: str, price: float) -> bool:
        return self.reach is not None and (price >= self.reach[0] if side == "bid" else price <= self.reach[1])

    def snapshot(self, ts: int, seq: int, rows: list[Row]) -> bool:
        if self.chained and self.seq is not None and seq < self.seq:
            if self.reach is not None or not (self.chain_start is None or self.chain_start <= seq):
                return False
            self.book = {s: {p: v for p, v in self.book[s].items() if v.sure} for s in self.book}
        else:
            self.lose(ts, seq)
            self.book = {"bid": {}, "ask": {}}
            self.floor, self.seq, self.fresh = ts, seq, True
        for side, price, qty in rows:
            if price not in self.book[side]:
                self.book[side][price] = Level(qty, ts, True)
                if qty:
                    self.events.append((ts, side, "snapshot", price, qty))
        bids, asks = ([p for s, p, _ in rows if s == side] for side in ("bid", "ask"))
        self.reach = min(bids, default=math.inf), max(asks, default=-math.inf)
        return True

    def admitted(self, ts: int, seq: int, before: int | None) -> bool:
        self.chained = before is not None
        if before is None:
            if not self.begun:
                self.lose(ts, None)
            return True
        if self.seq is None:
            self.lose(ts, before)
        elif before != self.seq and not (self.fresh and before <= self.seq < seq):
            if seq <= self.seq:
                return False
            self.counts["gaps"] += 1
            self.lose(ts, before)
        return True

    def change(self, ts: int, side: str, price: float, qty: float) -> None:
        level = self.book[side].get(price)
        known = self.within(side, price) or (
            level is not None and level.sure and (level.qty > 0 or level.since > ts - 86_400_000)
        )
        before = 0.0 if level is None else level.qty
        if known and qty > before:
            self.events.append((ts, side, "add", price, qty - before))
        elif known and qty < before:
            fall = before - qty
            for trade in self.pending:
                if trade[1:3] == [side, price] and max(ts - 250, self.floor) < trade[0] <= ts:
                    taken = min(fall, trade[3])
                    trade[3] -= taken
                    fall -= taken
            if fall < before - qty:
                self.events.append((ts, side, "trade", price, before - qty - fall))
            if fall:
                self.events.append((ts, side, "cancel", price, fall))
        self.book[side][price] = Level(qty, ts, True)

    def touch(self) -> tuple[float | None, float | None]:
        bids, asks = ([p for p, v in self.book[s].items() if v.qty > 0] for s in ("bid", "ask"))
        return max(bids, default=None), min(asks, default=None)

    def is_crossed(self) -> bool:
        bid, ask = self.touch()
        return bid is not None and ask is not None and bid >= ask

    def judge(self, ts: int) -> bool:
        if not self.is_crossed():
            self.crossed = None
        else:
            self.crossed = ts if self.crossed is None else self.crossed
            while self.is_crossed() and ts - self.crossed >= 1_000:
                bid, ask = self.touch()
                assert bid is not None
                assert ask is not None
                ages = self.book["bid"][bid].since, self.book["ask"][ask].since
                if ages[0] == ages[1]:
                    break
                self.book["bid" if ages[0] < ages[1] else "ask"].pop(bid if ages[0] < ages[1] else ask)
                self.counts["dropped"] += 1
        bid, ask = self.touch()
        crossed = self.is_crossed()
        self.counts["crossed"] += crossed
        clean = (
            bid is not None
            and ask is not None
            and not crossed
            and self.book["bid"][bid].sure
            and self.book["ask"][ask].sure
        )
        self.clean = None if not clean else ts if self.clean is None else self.clean
        self.settled |= self.clean is not None and ts - self.clean >= 5_000
        sure = clean and (self.reach is not None or self.settled)
        self.counts["doubted"] += not sure and not crossed
        return sure

    def publish(self, ts: int, seq: int, sure: bool) -> None:
        second = (ts - 1) // 1_000
        self.depth.pop(second, None)
        if not sure:
            self.last_quote = None
            return
        bid, ask = self.touch()
        assert bid is not None
        assert ask is not None
        quote = (bid, self.book["bid"][bid].qty, ask, self.book["ask"][ask].qty)
        if quote != self.last_quote:
            self.quotes.append((ts, seq, *quote))
        self.last_quote = quote
        self.depth[second] = list(self.bands(ts, (bid + ask) / 2))

    def bands(self, ts: int, mid: float) -> Any:
        for side, sign in (("bid", -1), ("ask", 1)):
            known = {p: v.qty for p, v in self.book[side].items() if v.sure and v.qty > 0}
            for band in DEPTH_BANDS_BPS:
                edge = mid * (1 + sign * (band / 10_000))
                beyond = any(sign * p >= sign * edge for p in known)
                if self.within(side, edge) or (ts - self.since >= 300_000 and beyond):
                    yield ts, side, band, sum(p * q for p, q in known.items() if sign * p <= sign * edge)

    def message(self, ts: int, seq: int, before: int | None, snapshot: bool, rows: list[Row]) -> None:
        self.counts["messages"] += 1
        if snapshot:
            taken = self.snapshot(ts, seq, rows)
        else:
            taken = self.admitted(ts, seq, before)
            if taken:
                for row in rows:
                    self.change(ts, *row)
                self.seq, self.fresh = seq, False
        if not taken:
            self.counts["stale"] += 1
            return
        self.publish(ts, seq, self.judge(ts))


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Messages `ms, seq, seq_before, snapshot, [(side, price, qty)]`: mostly a chain; gaps, repeats, snapshots."""
    numbered = draw(st.integers(0, 4)) > 0
    ms, seq, found = 1, 100, []
    level = st.tuples(st.sampled_from(("bid", "ask")), st.integers(0, 9), st.integers(0, 12))
    for _ in range(draw(st.integers(1, 25))):
        ms += draw(st.sampled_from((1, 10, 100, 240, 600, 1_000, 3_000, 6_000, 310_000)))
        kind = draw(st.sampled_from(("chain",) * 12 + ("gap", "old", "snapshot", "late snapshot")))
        before = seq
        if kind in {"chain", "gap", "snapshot"}:
            seq += draw(st.integers(1, 3))
        before += (kind == "gap") - 2 * (kind == "old")
        number = seq - 1 if kind in {"old", "late snapshot"} else seq
        rows = {(side, step): qty for side, step, qty in draw(st.lists(level, min_size=1, max_size=6))}
        # Bids mostly below 100, asks mostly above, sometimes crossed.
        shaped = [
            (side, 99.75 + step / 16 - 0.4375 * (side == "bid"), qty / 8)
            for (side, step), qty in sorted(rows.items(), key=lambda item: (item[0][0], item[0][1]))
        ]
        picture = "snapshot" in kind
        found.append((ms, number, before if numbered and not picture else None, picture, shaped))
    return found


@st.composite
def printed(draw: st.DrawFn, messages: list[Row]) -> list[Row]:
    """Trades near the messages, at their levels."""
    found = []
    for _ in range(draw(st.integers(0, 12))):
        ms, *_, rows = draw(st.sampled_from(messages))
        side, price, _ = draw(st.sampled_from(rows))
        ms = max(ms - draw(st.sampled_from((0, 1, 100, 249, 250, 400, -5))), 1)
        found.append((ms, "buy" if side == "ask" else "sell", price, draw(st.integers(1, 8)) / 8))
    return found


worlds = streams().flatmap(lambda messages: st.tuples(st.just(messages), printed(messages)))


def as_rows(messages: list[Row]) -> pl.DataFrame:
    return levels(
        *(
            (ms, seq, before, *row, *((True,) if picture else ()))
            for ms, seq, before, picture, rows in messages
            for row in rows
        )
    )


def plain(found: Derived) -> tuple[list[Row], list[Row], list[Row]]:
    def ms(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns((pl.col("ts") - T0).dt.total_milliseconds())

    return (
        ms(found.events).select("ts", "side", "event", "price", "qty").rows(),
        ms(found.quotes).select("ts", "seq", "bid", "bid_qty", "ask", "ask_qty").rows(),
        ms(found.depth).select("ts", "side", "band_bps", pl.col("depth_usd").round(6)).rows(),
    )


END_MS = 10_000_000


@given(worlds)
def test_the_pass_does_what_its_slow_twin_does(world: tuple[list[Row], list[Row]]) -> None:
    messages, prints = world
    twin = Twin()
    twin.pending = [
        [ms, "ask" if side == "buy" else "bid", price, qty]
        for ms, side, price, qty in sorted(prints, key=lambda row: row[0])
    ]
    for ms, seq, before, picture, rows in messages:
        twin.message(ms, seq, before, picture, rows)
    found = derive(as_rows(messages), trades(*prints), END_MS)
    events, quotes, depth = plain(found)
    assert events == twin.events
    assert quotes == twin.quotes
    slow = [(*row[:3], round(row[3], 6)) for rows in twin.depth.values() for row in rows]
    assert depth == slow
    for name in ("messages", "gaps", "stale", "crossed", "dropped", "doubted"):
        assert getattr(found.tally, name) == twin.counts[name], name


@given(worlds, st.lists(st.integers(0, 2_000), max_size=4), st.randoms())
def test_any_cut_into_whole_seconds_and_any_order_of_rows_gives_the_same(
    world: tuple[list[Row], list[Row]], cuts: list[int], dice: Any
) -> None:
    messages, prints = world
    rows, sold = as_rows(messages), trades(*prints)
    whole = derive(rows, sold, END_MS)
    ends = sorted({*(at(second * 1_000) for second in cuts), at(END_MS)})
    state, start, parts = unknown_book(), T0 - timedelta(days=1), []
    for end in ends:
        inside = (pl.col("ts") > start) & (pl.col("ts") <= end)
        piece = rows.filter(inside).sample(fraction=1.0, shuffle=True, seed=dice.randrange(1_000))
        parts.append(derive_levels(piece, sold.filter(inside), state, MARKET, end))
        state, start = parts[-1].state, end
    for k, name in enumerate(("events", "quotes", "depth")):
        assert pl.concat([part[k] for part in parts]).equals(whole[k]), name
    assert state.equals(whole.state)
    counted = sum((part.tally for part in parts), Tally())
    assert (counted.messages, counted.gaps, counted.crossed) == (
        whole.tally.messages,
        whole.tally.gaps,
        whole.tally.crossed,
    )


@given(worlds)
def test_rows_are_canonical_and_cutting_the_future_off_changes_nothing_before(
    world: tuple[list[Row], list[Row]],
) -> None:
    messages, prints = world
    whole = derive(as_rows(messages), trades(*prints), END_MS)
    for schema, frame in ((BookEvents, whole.events), (Quotes, whole.quotes), (BookDepth, whole.depth)):
        schema.validate(frame)
    BookState.validate(whole.state)
    cut = messages[len(messages) // 2][0]
    past = derive(as_rows([m for m in messages if m[0] <= cut]), trades(*(p for p in prints if p[0] <= cut)), END_MS)
    assert past.events.equals(whole.events.filter(pl.col("ts") <= at(cut)))
    assert past.quotes.equals(whole.quotes.filter(pl.col("ts") <= at(cut)))


def conserved(rows: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Per level listed by the snapshot: what the events sum to, and what the last row says rests."""
    sign = pl.col("event").replace_strict({"add": 1, "snapshot": 1, "cancel": -1, "trade": -1}, return_dtype=pl.Int8)
    flows = events.group_by("side", "price").agg((sign * pl.col("qty")).sum().alias("sum"))
    first = rows.filter("snapshot").select("side", "price")
    last = rows.sort("ts", "seq", maintain_order=True).group_by("side", "price").agg(pl.col("qty").last())
    return last.join(first, on=["side", "price"], how="semi").join(flows, on=["side", "price"], how="left").fill_null(0)


@given(worlds)
def test_what_came_less_what_was_cancelled_and_traded_rests(world: tuple[list[Row], list[Row]]) -> None:
    messages, prints = world
    every = [(side, 99.3125 + step / 16, 1.0) for side in ("bid", "ask") for step in range(17)]
    chain = [(0, 1, None, True, every)]
    chain += [(m[0], k + 2, k + 1, False, m[4]) for k, m in enumerate(messages)]  # no gaps, no second picture
    found = derive(as_rows(chain), trades(*prints), END_MS)
    if found.tally.dropped == 0:  # a dropped level has lost a message
        sums = conserved(as_rows(chain), found.events)
        assert sums.height == 34
        assert sums["sum"].to_list() == sums["qty"].to_list()  # eighths: exact


# --- real captures ---

CAPTURES = ("btcusd_perp_20240808", "ethusdt_20240808", "btcusd_perp_20240809")  # the last without a snapshot
LINES = 25_000


def capture(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Levels, trades and best quotes of the first LINES of one capture; quantities in the venue's units."""
    rows, prints, tickers = [], [], []
    start_ms = T0.timestamp() * 1_000
    with gzip.open(path, "rt") as lines:
        for line in islice(lines, LINES):
            message = json.loads(line.partition(" ")[2])
            data = message.get("data", message)
            ms = data["T"] - start_ms
            if "lastUpdateId" in data or data.get("e") == "depthUpdate":
                picture = "lastUpdateId" in data
                sides = ("bid", data["bids" if picture else "b"]), ("ask", data["asks" if picture else "a"])
                seq, before = (data["lastUpdateId"], None) if picture else (data["u"], data["pu"])
                rows += [
                    (ms, seq, before, side, *level, *((True,) * picture)) for side, given in sides for level in given
                ]
            elif data["e"] == "trade":
                prints.append((ms, "sell" if data["m"] else "buy", float(data["p"]), float(data["q"])))
            else:
                tickers.append((data["u"], *(float(data[name]) for name in "bBaA")))
    names = ("seq", "t_bid", "t_bid_qty", "t_ask", "t_ask_qty")
    return levels(*rows), trades(*prints), pl.DataFrame(tickers, schema=names, orient="row").sort("seq")


@pytest.mark.real_data
@pytest.mark.parametrize("name", CAPTURES)
def test_real_captures_quote_what_the_venue_quoted_and_add_up_level_by_level(real_data: Path, name: str) -> None:
    rows, prints, tickers = capture(real_data / "binance-l2-diffs-2024" / f"{name}.gz")
    found = derive(rows, prints, 2 * 86_400_000)
    assert (found.tally.crossed, found.tally.dropped, found.tally.gaps) == (0, 0, 0)
    assert found.tally.explained_usd / found.tally.traded_usd > 0.92
    both = found.quotes.join_asof(tickers, on="seq", strategy="backward").drop_nulls("t_bid")
    assert both.height > 1_000
    same = [pl.col(part) == pl.col(f"t_{part}") for part in ("bid", "bid_qty", "ask", "ask_qty")]
    assert both.select(pl.all_horizontal(same).all()).item()
    if rows["snapshot"].any():
        kept = rows.filter(pl.col("snapshot") | (pl.col("seq") > rows.filter("snapshot")["seq"][0]))
        sums = conserved(kept, found.events.filter(pl.col("ts") >= rows.filter("snapshot")["ts"][0]))
        assert sums.height > 1_900
        assert (sums["sum"] - sums["qty"]).abs().max() < 1e-9
