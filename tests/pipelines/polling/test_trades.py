"""New trades of a page, pages that join, and the cursor; none of it needs a venue."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.polling.trades import OVERLAP_MS, Cursor, Trade, moved, oldest


def trade(name: str | None, ts_ms: int | None) -> Trade:
    return {"id": name, "timestamp": ts_ms, "side": "buy", "price": 1.0, "amount": 1.0}


def names(page: list[Trade]) -> list[str]:
    return [str(one["id"]) for one in page]


def test_numbers_decide_what_is_new_also_where_stamps_stand_still_or_run_back() -> None:
    cursor = Cursor("99", 1000)
    page = [trade("98", 1000), trade("99", 1000), trade("100", 1000), trade("101", 990)]
    assert names(cursor.unknown(page)) == ["100", "101"]


def test_pages_of_numbers_join_when_the_next_number_is_there_and_not_one_later() -> None:
    cursor = Cursor("99", 1000)
    assert cursor.reached([trade("101", 1002), trade("100", 1001)])
    assert not cursor.reached([trade("101", 1002), trade("102", 1003)])
    assert not cursor.reached([])


def test_words_are_known_by_themselves_and_join_by_one_that_is_known_or_an_earlier_time() -> None:
    cursor = moved(None, [trade("b", 1000), trade("a", 1000), trade("c", 999)])
    assert cursor == Cursor("b", 1000, (("a", 1000), ("b", 1000), ("c", 999)))
    late = trade("d", 998)  # published after the page was taken, with an earlier stamp
    assert names(cursor.unknown([late, trade("a", 1000), trade("e", 1001)])) == ["d", "e"]
    assert cursor.reached([trade("a", 1000), trade("e", 1001)])
    assert cursor.reached([late])
    assert not cursor.reached([trade("e", 1001), trade("f", 1000)])


def test_words_older_than_the_overlap_are_known_for_they_were_there_before() -> None:
    cursor = Cursor("b", 100_000, (("b", 100_000),))
    assert names(cursor.unknown([trade("x", 100_000 - OVERLAP_MS - 1), trade("y", 100_000 - OVERLAP_MS)])) == ["y"]


def test_a_venue_that_counts_from_one_again_loses_no_trade_and_joins_nothing() -> None:
    cursor = Cursor("1000000", 1000)
    page = [trade("1", 1001 + OVERLAP_MS), trade("2", 1002 + OVERLAP_MS)]
    assert names(cursor.unknown(page)) == ["1", "2"]
    assert not cursor.reached(page)
    assert moved(cursor, page) == Cursor("2", 1002 + OVERLAP_MS)


def test_trades_without_id_or_stamp_are_handed_on_and_move_nothing() -> None:
    assert moved(None, [trade(None, 5), trade("7", None)]) is None
    cursor = Cursor("9", 1000)
    assert moved(cursor, [trade(None, 2000)]) == cursor
    assert len(cursor.unknown([trade(None, 2000), trade("10", None)])) == 2


def test_the_page_before_ends_at_the_smallest_number_else_at_the_earliest() -> None:
    assert oldest([trade("10", 5), trade("9", 6)]) == trade("9", 6)
    assert oldest([trade("b", 6), trade("a", 5)]) == trade("a", 5)
    assert oldest([]) is None


@given(st.data())
def test_whatever_overlapping_pages_say_every_trade_is_new_exactly_once(data: st.DataObject) -> None:
    """Runs that each look at the latest trades, numbered or not, far enough back to meet the last look."""
    numbered = data.draw(st.booleans())
    steps = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40))
    ts_ms, trades = 1_000_000, []
    for n, step in enumerate(steps):
        ts_ms += step
        trades.append(trade(str(n + 10) if numbered else f"t{n * 7919 % 1000:03d}", ts_ms))
    cursor, got, end = None, [], 0
    while end < len(trades):
        begin, end = data.draw(st.integers(0, end)), data.draw(st.integers(end + 1, len(trades)))
        page = data.draw(st.permutations(trades[begin:end]))
        new = page if cursor is None else cursor.unknown(page)
        assert cursor is None or numbered or begin == len(got) or cursor.reached(page)
        got += names(new) if cursor is not None else names(list(trades[:end]))
        cursor = moved(cursor, trades[:end] if cursor is None else page)
    assert sorted(got) == sorted(names(trades))
