"""Step `bars` on a real lake: how rows came into it changes nothing, and feeds go before what was derived."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.bars import build_bars, derivative_venues, venue_span
from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.lake import SCHEMAS, Lake
from pipelines.times import Interval

T0 = datetime(2025, 1, 1, 23, 30, tzinfo=UTC)  # the hour after it holds a midnight
HOUR = Interval(T0, T0 + timedelta(hours=1))
KEY = {"venue": "v", "symbol": "S"}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def rows_of(table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([KEY | row for row in rows], schema=SCHEMAS[table])


def instrument(**changes: Any) -> dict[str, Any]:
    return {
        "effective_from": at(-86_400), "base": "S", "quote": "USD", "settlement": "linear", "contract_size": 1.0,
    } | changes  # fmt: skip


def lake_of(root: Path, **tables: list[dict[str, Any]]) -> Lake:
    lake = Lake(root)
    lake.append("instruments", rows_of("instruments", [instrument()]), "instruments")
    for table, rows in tables.items():
        lake.append(table, rows_of(table, rows), table)
    return lake


def trade(s: float, number: int, price: float) -> dict[str, Any]:
    return {
        "ts": at(s), "trade_id": str(number), "known_at": at(s + 1), "side": "buy" if number % 3 else "sell",
        "price": price, "qty": 3.0, "notional_usd": price * 3,
    }  # fmt: skip


def event(s: float, seq: int, price: float) -> dict[str, Any]:
    kind, side = ("add", "cancel")[seq % 2], ("bid", "ask")[seq % 3 == 0]
    return {"ts": at(s), "seq": seq, "known_at": at(s), "side": side, "event": kind, "price": price, "qty": 1.0}


def quote(s: float, seq: int, bid: float) -> dict[str, Any]:
    return {
        "ts": at(s), "seq": seq, "known_at": at(s + 0.5), "bid": bid, "bid_qty": 1.0, "ask": bid + 1, "ask_qty": 2.0,
    }  # fmt: skip


def bars_of(lake: Lake, interval: Interval = HOUR, bar_s: int = 60) -> pl.DataFrame:
    build_bars(lake, "v", interval, bar_s=bar_s)
    return lake.scan("bars", "v").collect().sort("symbol", "ts")


MOMENTS = st.lists(st.tuples(st.integers(1, 3600), st.integers(90, 110)), min_size=4, max_size=30)
ROWS = {"trades": trade, "book_events": event, "quotes": quote}


@settings(max_examples=4, deadline=None)
@given(moments=MOMENTS, pieces=st.integers(2, 5), dice=st.randoms(use_true_random=False))
def test_any_split_into_files_in_any_order_gives_the_same_bars(
    moments: list[tuple[int, int]], pieces: int, dice: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = {
        table: [make(s, place, float(price)) for place, (s, price) in enumerate(sorted(moments))]
        for table, make in ROWS.items()
    }
    whole = lake_of(tmp_path_factory.mktemp("whole"), **made)
    split = lake_of(tmp_path_factory.mktemp("split"))
    parts = [(table, rows[place::pieces]) for table, rows in made.items() for place in range(pieces)]
    dice.shuffle(parts)
    for number, (table, rows) in enumerate(parts):
        dice.shuffle(rows)
        split.append(table, rows_of(table, rows), str(number))
    found = bars_of(whole)
    assert bars_of(split).equals(found)
    assert found["trades"].sum() == len(moments)
    assert (found["adds"] + found["cancels"]).sum() == len(moments)


def test_scheduled_runs_give_the_bars_of_a_backfill(tmp_path: Path) -> None:
    rows = {table: [make(37 * place, place, 100.0 + place % 5) for place in range(97)] for table, make in ROWS.items()}
    backfill = bars_of(lake_of(tmp_path / "backfill", **rows))
    lake = lake_of(tmp_path / "scheduled", **rows)
    for minute in range(0, 60, 12):
        build_bars(lake, "v", Interval(at(60 * minute), at(60 * (minute + 12))))
    assert lake.scan("bars", "v").collect().sort("symbol", "ts").equals(backfill)
    assert backfill["cancel_bid_500bps_usd"].sum() > 0


def test_what_was_derived_from_levels_is_read_where_the_feed_has_none(tmp_path: Path) -> None:
    derived = bars_of(lake_of(tmp_path / "derived", l2_events=[event(5, 2, 100.0)], l2_quotes=[quote(1, 1, 99.0)]))
    assert (derived["adds"][0], derived["bid"][0], derived["add_bid_100bps_usd"][0]) == (1, 99.0, 100)
    both = lake_of(tmp_path / "both", l2_events=[event(5, 2, 100.0)], book_events=[event(5, 2, 50.0)])
    assert bars_of(both)["add_bid_usd"][0] == 50


def test_the_first_spot_reference_with_a_price_stands_for_the_index(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, trades=[trade(s, s, 100.0) for s in range(1, 600, 20)])
    lake.append(
        "instruments",
        rows_of("instruments", [instrument(effective_from=at(-10), spot_reference=["a:X", "b:X", "c:X"])]),
        "newer",
    )
    for venue, s in (("b", 70), ("c", 5)):
        lake.append(
            "trades",
            rows_of("trades", [trade(s, 1, float(s))]).with_columns(venue=pl.lit(venue), symbol=pl.lit("X")),
            venue,
        )
    found = bars_of(lake)
    assert found["index"].head(3).to_list() == [5.0, 70.0, 70.0]
    assert found["index_source"].head(3).to_list() == ["c:X", "b:X", "b:X"]


def test_the_span_of_a_venue_is_in_whole_bars_and_only_derivatives_count(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, trades=[trade(61, 1, 1.0), trade(3599, 2, 1.0)])
    assert venue_span(lake, "v") == Interval(at(60), at(3600))
    assert venue_span(lake, "v", 1800) == Interval(at(0), at(3600))
    assert derivative_venues(lake) == ["v"]
    sharp = lake_of(tmp_path / "sharp", trades=[trade(60, 1, 1.0), trade(120, 2, 1.0)])
    assert venue_span(sharp, "v") == Interval(at(0), at(120)), "a row on the end of a bar is in that bar"
    spot = Lake(tmp_path / "spot")
    spot.append("instruments", rows_of("instruments", [instrument(settlement="spot")]), "instruments")
    spot.append("trades", rows_of("trades", [trade(1, 1, 1.0)]), "trades")
    assert derivative_venues(spot) == []
    assert bars_of(spot).is_empty()


def test_bars_of_five_minutes_hold_what_their_minutes_hold(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, trades=[trade(37 * place, place, 100.0 + place % 5) for place in range(97)])
    minutes, fives = bars_of(lake), bars_of(lake, bar_s=300)
    assert fives.height == 12
    assert fives["volume_usd"].to_list() == [int(minutes["volume_usd"][at_ : at_ + 5].sum()) for at_ in range(0, 60, 5)]
    with pytest.raises(InputError, match="must be ends of bars of 3600 s"):
        build_bars(lake, "v", HOUR, bar_s=3600)


def test_a_length_that_does_not_divide_a_day_is_refused_by_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[bars]\ninterval_s = 7\n")
    with pytest.raises(InputError, match=r"`bars.interval_s`: must divide 86400, was 7"):
        load_config(file)
