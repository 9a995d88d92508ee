"""The step `book`: day by day equals at once, twice equals once, other markets stay, an order log needs no levels."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import pipelines.book
from features.mechanics.book import Market, derive_levels, unknown_book
from features.schema import BookEvents, BookLevels, Trades, polars_schema
from pipelines.book import derive_book
from pipelines.lake import Lake
from pipelines.times import Interval

NIGHT = datetime(2024, 8, 9, tzinfo=UTC)
SPAN = Interval(NIGHT - timedelta(days=1), NIGHT + timedelta(days=1))
DERIVED = ("l2_events", "l2_quotes", "l2_depth")


def levels(symbol: str) -> pl.DataFrame:
    """A snapshot ten minutes before midnight, then a level a second; bid and ask quantities go up and down."""
    k = pl.int_range(1, 1_201, eager=True)
    changes = pl.DataFrame({"seq": k}).select(
        ts=pl.lit(NIGHT) + pl.duration(seconds=pl.col("seq") - 600),
        seq="seq",
        seq_before=pl.col("seq") - 1,
        side=pl.when(pl.col("seq") % 2 == 0).then(pl.lit("bid")).otherwise(pl.lit("ask")),
        price=pl.when(pl.col("seq") % 2 == 0).then(99.0).otherwise(101.0),
        qty=(pl.col("seq") * 7 % 5 + 1).cast(pl.Float64),
        snapshot=pl.lit(False),
    )
    picture = pl.DataFrame(
        {
            "ts": [NIGHT - timedelta(seconds=600)] * 4,
            "seq": [0] * 4,
            "seq_before": pl.Series([None] * 4, dtype=pl.Int64),
        }
        | {"side": ["ask", "ask", "bid", "bid"], "price": [101.0, 110.0, 90.0, 99.0], "qty": [1.0] * 4}
        | {"snapshot": [True] * 4}
    ).cast({"ts": pl.Datetime("us", "UTC"), "seq": pl.Int64})
    rows = pl.concat([picture, changes.with_columns(pl.col("ts").dt.cast_time_unit("us"))], how="vertical_relaxed")
    rows = rows.with_columns(venue=pl.lit("v"), symbol=pl.lit(symbol), known_at="ts")
    return rows.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(BookLevels).items())


def trades(symbol: str) -> pl.DataFrame:
    """A buyer every seven seconds, 100 ms before the level row of that second."""
    k = pl.int_range(1, 170, eager=True)
    ts = pl.lit(NIGHT) + pl.duration(milliseconds=pl.col("k") * 7_000 - 600_100)
    rows = pl.DataFrame({"k": k}).select(ts=ts, known_at=ts, trade_id=pl.col("k").cast(pl.String))
    rows = rows.with_columns(
        venue=pl.lit("v"), symbol=pl.lit(symbol), side=pl.lit("buy"), price=101.0, qty=1.0, notional_usd=101.0
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(Trades).items())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    for symbol in ("AAA", "BBB"):
        for part, rows in enumerate(levels(symbol).sample(fraction=1.0, shuffle=True, seed=1).iter_slices(500)):
            lake.append("book_levels", rows, f"{symbol}-{part}")
        lake.append("trades", trades(symbol), f"{symbol}-trades")
    return lake


def stored(lake: Lake, table: str, symbol: str = "AAA") -> pl.DataFrame:
    rows = lake.scan(table, "v", symbol=symbol).collect()
    return rows.sort([name for name in ("ts", "seq", "side", "band_bps", "row") if name in rows.columns])


def test_day_by_day_in_small_pieces_gives_what_one_pass_over_all_gives(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.book, "PIECE_ROWS_MAX", 130)
    found = derive_book(lake, "v", "AAA", SPAN)
    whole = derive_levels(levels("AAA"), trades("AAA"), unknown_book(), Market("v", "AAA"), SPAN.end)
    for table, frame in zip(DERIVED, whole[:3], strict=True):
        keys = [name for name in ("ts", "seq", "side", "band_bps") if name in frame.columns]
        assert stored(lake, table).equals(frame.sort(keys)), table
        assert found.rows[table] == frame.height > 1_000
    assert set(stored(lake, "l2_events")["event"]) == {"add", "cancel", "trade", "snapshot"}
    assert found.tally == whole.tally
    assert stored(lake, "book_state")["ts"].unique().sort().to_list() == [NIGHT, SPAN.end]


def test_a_second_run_changes_nothing_and_other_markets_stay(lake: Lake) -> None:
    derive_book(lake, "v", "BBB", SPAN)
    other = stored(lake, "l2_events", "BBB")
    first = derive_book(lake, "v", "AAA", SPAN)
    before = {table: stored(lake, table) for table in (*DERIVED, "book_state")}
    again = derive_book(lake, "v", "AAA", SPAN)
    assert all(stored(lake, table).equals(rows) for table, rows in before.items())
    assert (first.end_changed, again.end_changed) == (True, False)
    assert first.rows == again.rows
    assert other.height > 1_000
    assert stored(lake, "l2_events", "BBB").equals(other)


@pytest.mark.parametrize("day_before", [True, False])
def test_a_later_day_goes_on_from_the_state_before_it_or_from_the_first_row(lake: Lake, day_before: bool) -> None:
    derive_book(lake, "v", "BBB", SPAN)
    if day_before:
        derive_book(lake, "v", "AAA", Interval(SPAN.start, NIGHT))
    derive_book(lake, "v", "AAA", Interval(NIGHT, SPAN.end))
    after = pl.col("ts") > NIGHT
    for table in DERIVED:
        expected = stored(lake, table, "BBB").filter(after).drop("symbol")
        assert expected.height > 500
        assert stored(lake, table).filter(after).drop("symbol").equals(expected), table


def test_an_order_log_gives_quotes_and_depth_and_no_events(lake: Lake) -> None:
    orders = stored(lake, "book_levels").head(3).drop("snapshot", "seq_before")
    prices = {"side": ["bid", "ask", "ask"], "price": [99.0, 101.0, 102.0], "seq": [1, 2, 3]}
    moved = orders.with_columns(
        pl.Series("ts", [NIGHT + timedelta(seconds=s) for s in (1, 2, 9)], dtype=orders.schema["ts"]),
        *(pl.Series(name, values) for name, values in prices.items()),
        symbol=pl.lit("CCC"),
        event=pl.lit("add"),
        order_id=pl.col("seq").cast(pl.String),
        qty=2.0,
    )
    lake.append("book_events", moved.select(polars_schema(BookEvents).names()), "orders")
    found = derive_book(lake, "v", "CCC", SPAN)
    assert found.source == "book_events"
    assert found.rows["l2_events"] == 0
    assert stored(lake, "l2_quotes", "CCC").select("bid", "bid_qty", "ask", "ask_qty").rows() == [
        (99.0, 2.0, 101.0, 2.0)
    ]


def test_a_market_without_book_rows_gets_nothing(lake: Lake) -> None:
    found = derive_book(lake, "v", "NONE", SPAN)
    assert set(found.rows.values()) == {0}
    assert not lake.has("l2_events")
