"""Which rows a detector learns from: the trailing window, and never an event."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detectors.reference import trailing_reference

T0 = datetime(2025, 1, 1, tzinfo=UTC)
STAMP = pl.Datetime("us", "UTC")
Event = tuple[str, int, int | None]


def after(minute: int) -> datetime:
    return T0 + timedelta(minutes=minute)


def matrix(length: int = 100, symbols: tuple[str, ...] = ("A", "B")) -> pl.DataFrame:
    rows = [
        {"venue": "v", "symbol": symbol, "ts": after(i), "x": float(i)} for symbol in symbols for i in range(length)
    ]
    return pl.DataFrame(rows, schema_overrides={"ts": STAMP})


def events(*found: Event) -> pl.DataFrame:
    rows = [(symbol, after(onset), None if end is None else after(end)) for symbol, onset, end in found]
    return pl.DataFrame(rows, schema={"symbol": pl.String, "onset": STAMP, "end": STAMP}, orient="row")


def kept(*found: Event, at: int = 90, window: int = 60, gap: int = 10, refractory: int = 5) -> dict[str, list[int]]:
    rows = trailing_reference(
        matrix(),
        events(*found),
        after(at),
        timedelta(minutes=window),
        timedelta(minutes=gap),
        refractory=timedelta(minutes=refractory),
    )
    return {symbol: [int(x) for x in rows.filter(symbol=symbol)["x"]] for symbol in ("A", "B")}


def test_the_window_is_half_open_and_ends_before_the_gap() -> None:
    assert kept() == {"A": list(range(21, 81)), "B": list(range(21, 81))}


@pytest.mark.parametrize(
    ("event", "gone_from_a", "gone_from_b"),
    [
        (("A", 40, 42), range(40, 48), ()),  # onset .. end + 5, both ends
        (("*", 40, 42), range(40, 48), range(40, 48)),  # the venue's event is everyone's
        (("A", 10, 18), range(21, 24), ()),  # begun before the window
        (("A", 79, 95), range(79, 81), ()),  # still going on at the end of it
        (("A", 50, None), range(50, 81), ()),  # no end is known
        (("A", 85, 88), (), ()),  # in the gap: no row of it could be there
        (("C", 40, 42), (), ()),
    ],
)
def test_no_minute_of_an_event_is_in_the_reference(event: Event, gone_from_a: range, gone_from_b: range) -> None:
    assert kept(event) == {
        "A": [i for i in range(21, 81) if i not in gone_from_a],
        "B": [i for i in range(21, 81) if i not in gone_from_b],
    }


def test_events_that_overlap_take_each_row_once_and_all_rows_may_go() -> None:
    assert kept(("A", 40, 45), ("A", 43, 44), ("*", 44, 45))["A"] == [*range(21, 40), *range(51, 81)]
    assert kept(("*", 0, 99)) == {"A": [], "B": []}


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", "*"]), st.integers(-20, 110), st.none() | st.integers(0, 40)), max_size=6
    ),
    st.integers(0, 120),
)
@settings(max_examples=60, deadline=None)
def test_an_event_never_enters_its_own_reference_or_any(drawn: list[Event], at: int) -> None:
    found: list[Event] = [(s, onset, None if lasts is None else onset + lasts) for s, onset, lasts in drawn]
    rows = kept(*found, at=at)
    for symbol, left in rows.items():
        hit = {
            i
            for s, onset, end in found
            if s in {symbol, "*"}
            for i in range(max(onset, 0), 100 if end is None else min(end + 5, 99) + 1)
        }
        assert left == [i for i in range(100) if at - 70 < i <= at - 10 and i not in hit]


def test_the_rows_come_in_their_order_with_all_their_columns() -> None:
    shuffled = matrix().sample(fraction=1.0, shuffle=True, seed=1)
    hour = timedelta(hours=1)
    rows = trailing_reference(shuffled, events(("A", 40, 42)), after(80), hour, timedelta(0), refractory=timedelta(0))
    assert rows.columns == shuffled.columns
    busy = (pl.col("symbol") == "A") & pl.col("x").is_between(40, 42)
    assert rows.equals(shuffled.filter((pl.col("x") > 20) & (pl.col("x") <= 80) & ~busy))


@pytest.mark.parametrize(("window", "gap", "refractory"), [(0, 0, 0), (-1, 0, 0), (1, -1, 0), (1, 0, -1)])
def test_impossible_windows_are_refused(window: int, gap: int, refractory: int) -> None:
    with pytest.raises(ValueError, match="window must be positive, gap and refractory not negative"):
        kept(window=window, gap=gap, refractory=refractory)
