"""Checks of the doctor on one feed: silences, grids, latency, ids, sequences, books. Counts are worked out by hand."""

import random
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.doctoring.candles import empty_candles
from pipelines.doctoring.checks import CHECKS, examined
from pipelines.doctoring.crossed import anchored_books, crossed_messages, crossed_quotes
from pipelines.doctoring.frozen import frozen_feeds
from pipelines.doctoring.grid import off_grid
from pipelines.doctoring.latency import latencies, latency_counts, percentiles
from pipelines.doctoring.lopsided import lopsided_depth
from pipelines.doctoring.refused import refused_rows
from pipelines.doctoring.repeats import repeated_events
from pipelines.doctoring.sequences import sequence_gaps
from pipelines.doctoring.silence import ends_apart, silences
from pipelines.doctoring.strays import stray_rows
from pipelines.doctoring.trade_ids import lost_trades, missing_ids
from tests.pipelines.doctor_worlds import at, candles, evidence, open_interest, refusal, table, trades

HOUR = 3600.0


def only(found: pl.DataFrame) -> dict[str, object]:
    assert found.height == 1, found["what"].to_list()
    return found.row(0, named=True)


def steady(hours: int, leave_out: frozenset[int] = frozenset()) -> pl.DataFrame:
    rows = [{"t": HOUR * n, "oi_usd": 100.0 + n, "oi_base": 1.0 + n} for n in range(hours) if n not in leave_out]
    return open_interest(rows)


def test_sound_feeds_give_no_finding_at_all() -> None:
    dice = random.Random(1)
    moments = sorted(dice.uniform(0, 4 * HOUR) for _ in range(2000))
    sound = evidence(trades=trades(moments), open_interest=steady(20), candles=candles([1.0, 2.0] * 24))
    assert examined(sound).is_empty()


# --- silences --------------------------------------------------------------------------------------------------------


def test_a_gap_of_a_regular_series_counts_the_stamps_that_are_missing() -> None:
    row = only(silences(evidence(open_interest=steady(48, frozenset(range(10, 13)) | {30}))))
    assert (row["check"], row["severity"], row["rows"]) == ("gaps", "defect", 4)  # 10, 11, 12 and 30
    assert "4 stamps missing from a 1 h series" in str(row["what"])
    assert "in 2 gaps; the longest 4 h from 2025-01-01 09:00:00Z to 2025-01-01 13:00:00Z" in str(row["what"])


def test_hours_beside_five_minute_candles_are_no_gaps_of_them() -> None:
    both = pl.concat([candles([1.0] * 288), candles([1.0] * 24, 3600)])
    assert silences(evidence(candles=both)).is_empty()
    holed = both.filter((pl.col("ts") <= at(3000)) | (pl.col("ts") > at(6000)) | (pl.col("interval_s") == 3600))
    assert "10 stamps missing from a 5 min series" in str(only(silences(evidence(candles=holed)))["what"])


def test_the_silence_of_an_irregular_feed_is_held_against_its_own_spacing() -> None:
    dice = random.Random(2)
    busy = [t for t in sorted(dice.uniform(0, 2 * HOUR) for _ in range(7200)) if not 3000 < t < 3600]
    row = only(silences(evidence(trades=trades(busy))))
    assert (row["check"], row["rows"]) == ("stale spells", 1)
    assert at(2990) <= row["first"] <= at(3000) < at(3600) <= row["last"] <= at(3610)  # type: ignore[operator]  # times
    sparse = [t for t in sorted(dice.uniform(0, 200 * HOUR) for _ in range(720)) if not 3000 < t < 3600]
    assert silences(evidence(trades=trades(sparse))).is_empty()  # ten minutes are nothing where trades come so rarely


def test_a_liquidation_feed_is_silent_only_if_every_symbol_is() -> None:
    rows = [{"t": 10.0 * n, "symbol": "A" if n % 2 else "B"} for n in range(400)] + [{"t": 90_000.0, "symbol": "A"}]
    plain = {"position_side": "long", "qty": 1.0, "price": 1.0, "notional_usd": 1.0, "path": "market"}
    row = only(silences(evidence(liquidations=table("liquidations", rows, **plain))))
    assert (row["symbol"], row["first"], row["last"]) == ("*", at(3990), at(90_000))


def test_a_table_that_ends_days_before_another_of_its_symbol_is_noted() -> None:
    row = only(ends_apart(evidence(open_interest=steady(24 * 5), trades=trades([0.0, 10.0, 20.0]))))
    assert row["table"] == "trades"
    assert "ends up to 5 d before" in str(row["what"])


def test_a_handful_of_rows_days_away_from_a_recording_is_stray_and_a_second_recording_is_not() -> None:
    recording = [3 * 24 * HOUR + 10.0 * n for n in range(2000)]
    row = only(stray_rows(evidence(trades=trades([0.0, *recording]))))
    assert (row["rows"], row["first"]) == (1, at(0))
    assert "3 d away from the nearest 2,000 rows" in str(row["what"])
    long = [3 * 24 * HOUR + 1.0 * n for n in range(15_000)]
    assert only(stray_rows(evidence(trades=trades([*(10.0 * n for n in range(10)), *long]))))["rows"] == 10
    assert stray_rows(evidence(trades=trades([*(10.0 * n for n in range(11)), *long]))).is_empty()
    assert stray_rows(evidence(trades=trades([*(10.0 * n for n in range(3)), *recording]))).is_empty()


# --- stamps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("off_s", "severity"), [(0.004, "note"), (2.0, "note"), (120.0, "suspicion")])
def test_stamps_off_the_grid_are_a_note_while_they_still_name_their_point(off_s: float, severity: str) -> None:
    rows = [{"t": 300.0 * n + (off_s if n in (7, 8) else 0.0), "oi_usd": float(n)} for n in range(100)]
    row = only(off_grid(evidence(open_interest=open_interest(rows))))
    assert (row["rows"], row["severity"], row["first"]) == (2, severity, at(2100 + off_s))


def test_a_poll_that_drifts_has_no_grid_to_be_off_from() -> None:
    rows = [{"t": 30.7 * n, "oi_usd": float(n)} for n in range(500)]
    assert off_grid(evidence(open_interest=open_interest(rows))).is_empty()


def test_latency_percentiles_are_those_of_the_sorted_list() -> None:
    delays_ms = [*range(1, 100), 5000]  # 1 .. 99 ms and one of 5 s
    rows = [{"t": float(n), "known_at": at(n) + timedelta(milliseconds=ms)} for n, ms in enumerate(delays_ms)]
    feed = evidence(open_interest=open_interest(rows))
    found = percentiles(latency_counts(feed)).row(0, named=True)
    assert [found[f"{name}_ms"] for name in ("min", "p50", "p95", "p99", "max")] == [1.0, 50.0, 95.0, 99.0, 5000.0]
    row = only(latencies(feed))
    assert (row["check"], row["rows"], row["first"]) == ("late capture", 1, at(99))


def test_rows_known_before_they_happened_are_a_defect() -> None:
    rows = [{"t": float(n), "known_at": at(n) - timedelta(milliseconds=1260)} for n in range(100)]
    row = only(latencies(evidence(open_interest=open_interest(rows))))
    assert (row["check"], row["severity"], row["rows"]) == ("negative latency", "defect", 100)
    assert "median latency -1.26 s" in str(row["what"])


def test_an_archive_that_always_publishes_an_hour_later_is_not_late() -> None:
    rows = [{"t": float(n), "known_at": at(n + HOUR)} for n in range(100)]
    assert latencies(evidence(open_interest=open_interest(rows))).is_empty()


# --- ids and sequences -----------------------------------------------------------------------------------------------


def numbered(ids: list[int], every_s: float = 60.0, **same: object) -> pl.DataFrame:
    rows = [{"t": every_s * n, "trade_id": str(number)} for n, number in enumerate(ids)]
    return table("trades", rows, side="buy", price=1.0, qty=1.0, notional_usd=1.0, **same)


def slow_missing(ids: list[int]) -> int:
    return sum(after - before - 1 for before, after in zip(sorted(ids), sorted(ids)[1:], strict=False))


@given(st.sets(st.integers(1, 400), min_size=60, max_size=300), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_missing_ids_are_the_holes_between_all_ids_in_any_order_of_arrival(ids: set[int], dice: random.Random) -> None:
    order = sorted(ids)
    swapped = [order[n] for n in sorted(range(len(order)), key=lambda n: n + dice.uniform(0, 5))]
    found = missing_ids(numbered(swapped).lazy())
    expected = slow_missing(order)
    kept = 0 < expected <= len(order)
    assert found["ids_missing"].to_list() == [expected] * kept


def test_an_id_that_arrives_alone_an_hour_late_is_not_missing() -> None:
    rows = numbered([*range(59), 60, *[59]])  # 59 comes with minute 60, after 60
    assert missing_ids(rows.lazy()).is_empty()
    lost = missing_ids(numbered([*range(50), *range(52, 62), 51]).lazy())
    assert lost["ids_missing"].to_list() == [1]


def test_the_hour_in_which_most_trade_ids_are_missing_is_named() -> None:
    ids = [*range(60), *range(100, 160), *range(170, 230)]  # 40 lost on the way into hour 1, 10 into hour 2
    row = only(lost_trades(evidence(trades=numbered(ids))))
    assert (row["rows"], row["first"]) == (50, at(HOUR))
    assert "80.0 % of them in the hour from 2025-01-01 01:00:00Z" in str(row["what"])


def test_ids_that_count_the_whole_venue_are_left_alone() -> None:
    assert lost_trades(evidence(trades=numbered(list(range(0, 3000, 7))))).is_empty()


def levels(messages: list[tuple[float, int, int | None, bool]]) -> pl.DataFrame:
    """Two levels per message `(t, seq, seq_before, snapshot)`."""
    rows = [
        {"t": t, "seq": seq, "seq_before": before, "snapshot": whole, "side": side, "price": price, "qty": 1.0}
        for t, seq, before, whole in messages
        for side, price in (("bid", 99.0), ("ask", 101.0))
    ]
    return table("book_levels", rows)


CHAIN: list[tuple[float, int, int | None, bool]] = [
    (1.0, 10, 5, False), (2.0, 20, 10, False), (2.5, 22, None, True), (3.0, 30, 20, False), (4.0, 40, 30, False),
]  # fmt: skip


def test_an_unbroken_chain_of_messages_has_no_gap_and_a_snapshot_does_not_break_it() -> None:
    assert sequence_gaps(evidence(book_levels=levels(CHAIN))).is_empty()


def test_a_message_that_does_not_follow_the_one_before_is_a_gap() -> None:
    row = only(sequence_gaps(evidence(book_levels=levels([*CHAIN[:3], *CHAIN[4:]]))))
    assert (row["rows"], row["first"]) == (1, at(4.0))
    assert "1 of 3 messages" in str(row["what"])


def test_a_message_that_follows_an_older_one_than_the_last_is_a_gap_too() -> None:
    assert only(sequence_gaps(evidence(book_levels=levels([*CHAIN[:2], (3.0, 30, 15, False)]))))["rows"] == 1


def test_a_gap_across_midnight_is_seen_although_days_are_read_apart() -> None:
    day = 24 * HOUR
    broken = levels([(day - 2, 10, 5, False), (day - 1, 20, 10, False), (day + 1, 40, 30, False)])
    row = only(sequence_gaps(evidence(book_levels=broken, piece_rows_max=1)))
    assert row["first"] == at(day + 1)


# --- books -----------------------------------------------------------------------------------------------------------


def quotes(rows: list[tuple[float, float, float]]) -> pl.DataFrame:
    return table("quotes", [{"t": t, "bid": bid, "ask": ask, "bid_qty": t, "ask_qty": 1.0} for t, bid, ask in rows])


def test_crossed_and_locked_quotes_are_counted_apart() -> None:
    row = only(crossed_quotes(evidence(quotes=quotes([(1, 99, 101), (2, 101, 101), (3, 102, 101)]))))
    assert row["rows"] == 2
    assert "1 of them equal" in str(row["what"])


def test_a_message_that_restates_a_bid_above_its_ask_is_crossed_unless_the_level_is_gone() -> None:
    crossed = table("book_levels", [
        {"t": 1, "seq": 1, "side": side, "price": price, "qty": qty, "snapshot": False}
        for side, price, qty in (("bid", 102.0, 1.0), ("ask", 101.0, 1.0))
    ])  # fmt: skip
    assert only(crossed_messages(evidence(book_levels=crossed)))["rows"] == 1
    gone = crossed.with_columns(qty=pl.when(pl.col("side") == "bid").then(0.0).otherwise(1.0))
    assert crossed_messages(evidence(book_levels=gone)).is_empty()


def test_a_bid_that_rests_above_every_trade_for_minutes_is_a_ghost() -> None:
    bids = [(60.0 * n + 1, 103.0 if 3 <= n < 10 else 99.0, 104.0) for n in range(20)]
    market = trades([60.0 * n + 2 for n in range(20)])
    row = only(anchored_books(evidence(quotes=quotes(bids), trades=market)))
    assert (row["check"], row["severity"], row["rows"]) == ("anchored book", "defect", 7)
    assert "a bid rests more than 2% above" in str(row["what"])
    alive = [(t, min(bid, 101.9), ask) for t, bid, ask in bids]
    assert not anchored_books(evidence(quotes=quotes(alive), trades=market))["what"].str.contains("a bid").any()


def depth(bid_usd: list[float], ask_usd: list[float]) -> pl.DataFrame:
    rows = [
        {"t": 30.0 * n, "side": side, "band_bps": band, "depth_usd": usd * (1 + band / 100)}
        for n, both in enumerate(zip(bid_usd, ask_usd, strict=True))
        for side, usd in zip(("bid", "ask"), both, strict=True)
        for band in (100, 200)
    ]
    return table("book_depth", rows)


def test_a_side_of_the_depth_that_stands_still_while_the_other_moves_is_anchored() -> None:
    bid = [5.0 if 40 <= n < 60 else 5.0 + n for n in range(100)]
    row = only(frozen_feeds(evidence(book_depth=depth(bid, [6.0 + n for n in range(100)]))))
    assert (row["check"], row["severity"], row["rows"]) == ("anchored book", "defect", 20)
    assert (row["first"], row["last"]) == (at(1200), at(1770))


def test_a_book_whose_two_sides_stand_still_is_frozen() -> None:
    still = [5.0 if 40 <= n < 60 else 5.0 + n for n in range(100)]
    found = frozen_feeds(evidence(book_depth=depth(still, still)))
    assert found["check"].to_list() == ["frozen feed"] * 2


def test_a_value_that_often_repeats_itself_is_not_frozen_by_a_repeat() -> None:
    dice = random.Random(3)
    restless = [float(n) for n in range(300)]
    lazy = [restless[n - dice.randrange(3)] if n > 3 else 0.0 for n in range(300)]
    lazy[100:106] = [7.0] * 6
    rows = [{"t": 60.0 * n, "oi_usd": value, "oi_base": value} for n, value in enumerate(lazy)]
    assert frozen_feeds(evidence(open_interest=open_interest(rows))).is_empty()
    restless[100:106] = [7.0] * 6
    rows = [{"t": 60.0 * n, "oi_usd": value, "oi_base": value} for n, value in enumerate(restless)]
    assert only(frozen_feeds(evidence(open_interest=open_interest(rows))))["rows"] == 6


def test_a_side_that_holds_less_than_a_fiftieth_of_the_other_is_lopsided_from_ten_snapshots_on() -> None:
    def thin(count: int) -> pl.DataFrame:
        return depth([1.0 + n / 100 if n < count else 100.0 + n for n in range(100)], [100.0 + n for n in range(100)])

    row = only(lopsided_depth(evidence(book_depth=thin(12))))
    assert (row["rows"], row["first"], row["last"]) == (12, at(0), at(330))
    assert lopsided_depth(evidence(book_depth=thin(9))).is_empty()


# --- candles, repeats, refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("empty", "severity"), [((3, 9, 20), "note"), ((3, 4, 5), "suspicion")])
def test_empty_candles_are_an_outage_when_three_stand_in_a_row(empty: tuple[int, ...], severity: str) -> None:
    row = only(empty_candles(evidence(candles=candles([0.0 if n in empty else 1.0 for n in range(50)]))))
    assert (row["rows"], row["severity"]) == (3, severity)


def test_an_order_event_that_stands_twice_is_found_however_far_apart_the_two_are() -> None:
    event = {"t": 1.0, "side": "bid", "event": "cancel", "price": 9.0, "qty": 1.0, "order_id": "7"}
    other = event | {"order_id": "8"}
    rows = [event, *(other | {"order_id": str(n)} for n in range(10, 30)), event]
    assert only(repeated_events(evidence(book_events=table("book_events", rows))))["rows"] == 1
    l2 = [row | {"order_id": None} for row in rows]
    assert repeated_events(evidence(book_events=table("book_events", l2))).is_empty()


def test_refused_rows_are_told_reason_by_reason_and_duplicates_are_a_note() -> None:
    refused = [
        refusal(1, 1, "crossed_book; frozen_book"),
        refusal(2, 2, "crossed_book"),
        refusal(3, 3, "duplicate_key"),
    ]
    found = refused_rows(evidence(refused=refused)).sort("rows", "what", descending=[True, False])
    told = found.select("check", "severity", "rows").rows()
    assert told == [("refused rows", "defect", 2), ("duplicate rows", "note", 1), ("refused rows", "defect", 1)]
    assert "the best bid stands above the best ask" in found["what"][0]


# --- the whole -------------------------------------------------------------------------------------------------------


def messy(piece_rows_max: int) -> pl.DataFrame:
    """Three days of everything, with faults on and around midnight."""
    day = 24 * HOUR
    hours = [n for n in range(72) if n not in (23, 24, 50)]
    still = [{"t": HOUR * n, "oi_usd": 9.0 if 20 <= n <= 30 else float(n), "oi_base": 1.0} for n in hours]
    chain = [(day + 60.0 * n, 10 * n, 10 * (n - 1) if n % 7 else 3, False) for n in range(-30, 30)]
    return examined(
        evidence(
            open_interest=open_interest(still).sample(fraction=1.0, shuffle=True, seed=1),
            book_levels=levels(chain),
            trades=numbered([n + n // 50 for n in range(4000)]),
            candles=candles([0.0 if 280 <= n < 295 else 1.0 for n in range(600)]),
            piece_rows_max=piece_rows_max,
        )
    )


def test_what_is_found_does_not_depend_on_the_size_of_the_pieces() -> None:
    whole = messy(1_000_000)
    assert {"gaps", "sequence gaps", "frozen feed", "missing trade ids", "zero-volume candles"} <= set(whole["check"])
    assert messy(1).equals(whole)
    assert messy(100).equals(whole)


def test_no_check_stands_in_the_list_twice_and_each_gives_the_shape_of_findings() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
    nothing = evidence()
    assert all(check(nothing).is_empty() for check in CHECKS)
