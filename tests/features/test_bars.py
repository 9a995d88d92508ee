"""Bars against hand arithmetic, a slow oracle and the clock: nothing from after a minute enters it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.bars import LOOKBACK_S, MAX_AGE_S, Market, Sources, bars_of
from features.flows import grid_of
from features.schema import CANONICAL, Bars, Quarantine, polars_schema
from pipelines.encoding import encode

T0 = datetime(2025, 1, 1, tzinfo=UTC)
VENUE, SYMBOL = "v", "S"
KEY = {"venue": VENUE, "symbol": SYMBOL}
STREAMS = ("trades", "book_events", "quotes", "book_levels")
SCHEMAS = CANONICAL | {"quarantine": Quarantine}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def table(name: str, rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame([KEY | row for row in rows], schema=polars_schema(SCHEMAS[name]))


def in_order(name: str, rows: pl.LazyFrame) -> pl.LazyFrame:
    number = [pl.col("trade_id").cast(pl.Int64, strict=False)] if name == "trades" else []
    rest = [key for key in SCHEMAS[name].primary_key() if key not in ("venue", "symbol", "ts")]
    return rows.sort("ts", *number, *rest) if "ts" in SCHEMAS[name].columns() else rows


def sources_of(
    tables: dict[str, pl.LazyFrame], first_seen: dict[str, datetime], spots: dict[str, pl.LazyFrame] | None = None
) -> Sources:
    """One symbol's."""
    streams = {name: rows for name, rows in tables.items() if name in STREAMS}
    series = {name: rows for name, rows in tables.items() if name not in STREAMS}
    return Sources({SYMBOL: Market(streams, first_seen, spots or {})}, series)


def trade(
    s: float, number: int, price: float, usd: float = 100.0, side: str = "buy", *, late_s: float = 0
) -> dict[str, Any]:
    return {
        "ts": at(s), "trade_id": str(number), "known_at": at(s + late_s), "side": side,
        "price": price, "qty": usd / price, "notional_usd": usd,
    }  # fmt: skip


def bars(
    end_s: float,
    spot: list[dict[str, Any]] | None = None,
    start_s: float = 0,
    bar_s: int = 60,
    **rows: list[dict[str, Any]],
) -> pl.DataFrame:
    tables = {name: in_order(name, table(name, some)) for name, some in rows.items()}
    first_seen = {name: min(row["ts"] for row in some) for name, some in rows.items() if some}
    spots = {"cb:S-USD": in_order("trades", table("trades", spot))} if spot else {}
    return Bars.validate(bars_of(VENUE, sources_of(tables, first_seen, spots), at(start_s), at(end_s), bar_s=bar_s))


def test_a_bar_holds_the_half_open_minute_before_its_stamp() -> None:
    """(t - 60 s, t]: a trade at 60.0 s belongs to the first bar, one at 60.000001 s to the second."""
    found = bars(120, trades=[trade(60, 1, 10.0), trade(60.000001, 2, 20.0)])
    assert found["ts"].to_list() == [at(60), at(120)]
    assert found["close"].to_list() == [10.0, 20.0]


def test_prices_flows_gaps_and_latency_of_one_minute_by_hand() -> None:
    trades = [
        trade(10, 1, 10.0, 100, "buy"),
        trade(20, 2, 12.0, 300, "sell", late_s=2),
        trade(20, 5, 9.0, 100, "buy"),  # ids 3 and 4 are missing; same stamp: the id decides the order
    ]
    row = bars(60, trades=trades[::-1]).row(0, named=True)
    assert (row["open"], row["high"], row["low"], row["close"]) == (10.0, 12.0, 9.0, 9.0)
    assert (row["trades"], row["volume_usd"], row["buy_usd"], row["sell_usd"]) == (3, 500, 200, 300)
    assert row["trade_ids_missing"] == 2
    assert row["latency_ms_max"] == 2000.0
    assert row["trade_age_s"] == 40.0
    assert row["known_at"] == at(60)


def test_a_late_trade_delays_when_the_bar_was_known() -> None:
    row = bars(60, trades=[trade(59, 1, 10.0, late_s=3)]).row(0, named=True)
    assert row["known_at"] == at(62)


def test_a_silent_minute_carries_the_price_with_its_age_and_counts_zero() -> None:
    row = bars(180, trades=[trade(30, 1, 10.0)]).row(2, named=True)
    assert (row["close"], row["open"], row["trade_age_s"]) == (10.0, 10.0, 150.0)
    assert (row["trades"], row["volume_usd"]) == (0, 0)
    assert row["cancels"] is None  # no book feed at all is not a book without cancels


def test_a_price_is_not_carried_further_than_its_age_limit() -> None:
    found = bars(MAX_AGE_S["trades"] + 300, trades=[trade(30, 1, 10.0)])
    carried = found.filter(pl.col("close").is_not_null())["trade_age_s"]
    assert carried.max() <= MAX_AGE_S["trades"]
    assert found["close"].tail(1).item() is None


def test_slow_series_join_as_of_when_they_were_known() -> None:
    """A funding rate stamped 00:00:30 but published at 00:01:30 is not in the bar of 00:01:00."""
    funding = [{"ts": at(30), "known_at": at(90), "rate": 0.001, "interval_h": 8.0}]
    found = bars(120, trades=[trade(1, 1, 10.0)], funding=funding)
    assert found["funding_rate"].to_list() == [None, 0.001]
    assert found["funding_age_s"].to_list() == [None, 90.0]


def test_the_spot_reference_stands_in_for_a_missing_index() -> None:
    marks = [{"ts": at(100), "known_at": at(100), "mark": 11.0, "index": 10.5, "last": None}]
    found = bars(120, spot=[trade(5, 1, 9.9)], trades=[trade(1, 1, 10.0)], marks=marks)
    assert found["index"].to_list() == [9.9, 10.5]
    assert found["index_source"].to_list() == ["cb:S-USD", "venue"]
    assert found["index_age_s"].to_list() == [55.0, 20.0]


def test_depth_is_the_last_known_snapshot_with_age_and_stillness() -> None:
    def snapshot(s: float, usd: float) -> list[dict[str, Any]]:
        return [
            {"ts": at(s), "known_at": at(s), "side": side, "band_bps": 100, "depth_usd": usd} for side in ("bid", "ask")
        ]

    depth = snapshot(10, 5e6) + snapshot(40, 6e6) + snapshot(70, 6e6) + snapshot(100, 6e6)
    found = bars(120, book_depth=depth)
    assert found["depth_bid_100bps_usd"].to_list() == [6_000_000, 6_000_000]
    assert found["depth_age_s"].to_list() == [20.0, 20.0]
    assert found["depth_unchanged_s"].to_list() == [0.0, 60.0]  # 6e6 since 40 s, seen last at 40 s and at 100 s


def test_refused_book_rows_are_counted_in_their_minute() -> None:
    refused = [
        {"table": "book_depth", "source": "f", "source_sha256": "0", "line": line, "ts": at(70), "known_at": at(70),
         "reason": reason, "raw": ""}
        for line, reason in enumerate(["crossed_book", "crossed_book; frozen_book", "bad_number"])
    ]  # fmt: skip
    found = bars(120, trades=[trade(1, 1, 10.0)], quarantine=refused)
    assert found["rows_refused"].to_list() == [0, 3]
    assert found["book_rows_crossed"].to_list() == [0, 2]
    assert found["book_rows_frozen"].to_list() == [0, 1]


def test_book_events_and_liquidations_by_hand() -> None:
    def event(s: float, seq: int, kind: str, side: str) -> dict[str, Any]:
        return {"ts": at(s), "seq": seq, "known_at": at(s), "side": side, "event": kind, "price": 10.0, "qty": 7.0}

    events = [
        event(1, 1, "add", "bid"),
        event(2, 2, "cancel", "ask"),
        event(3, 3, "cancel", "ask"),
        event(4, 4, "trade", "ask"),
    ]
    forced = [
        {"ts": at(5), "seq": 1, "known_at": at(5), "position_side": "long", "qty": 1.0, "price": 9.0,
         "notional_usd": 9.4, "path": "market"}
    ]  # fmt: skip
    row = bars(60, book_events=events, liquidations=forced).row(0, named=True)
    assert (row["adds"], row["add_bid_usd"], row["add_ask_usd"]) == (1, 70, 0)
    assert (row["cancels"], row["cancel_bid_usd"], row["cancel_ask_usd"]) == (2, 0, 140)
    assert (row["liqs"], row["liq_long_usd"], row["liq_short_usd"]) == (1, 9, 0)


def event(s: float, seq: int, kind: str, side: str, price: float = 10.0, *, qty: float = 7.0) -> dict[str, Any]:
    return {"ts": at(s), "seq": seq, "known_at": at(s), "side": side, "event": kind, "price": price, "qty": qty}


def quote(
    s: float, bid: float, ask: float, sizes: tuple[float, float] = (1, 1), *, late_s: float = 0
) -> dict[str, Any]:
    return {
        "ts": at(s), "seq": int(s * 1e6), "known_at": at(s + late_s),
        "bid": bid, "bid_qty": sizes[0], "ask": ask, "ask_qty": sizes[1],
    }  # fmt: skip


def test_the_quote_at_the_end_with_its_spread_lean_and_age_by_hand() -> None:
    """At 60 s: mid 100, spread 0.2 / 100 = 20 bps, the widest of the bar 2 / 100 = 200 bps, (3 - 1) / 4 = 0.5."""
    found = bars(120, quotes=[quote(10, 99, 101), quote(45, 99.9, 100.1, (3, 1))])
    first, second = found.rows(named=True)
    assert (first["bid"], first["ask"], first["quote_age_s"]) == (99.9, 100.1, 15.0)
    assert round(first["spread_bps"], 9) == 20.0
    assert round(first["spread_bps_max"], 9) == 200.0
    assert first["imbalance"] == 0.5
    assert round(second["spread_bps_max"], 9) == 20.0  # no new quote: the one in force
    assert second["quote_age_s"] == 75.0


def test_a_quote_is_used_once_known_and_never_replaces_a_newer_one() -> None:
    """The quote of 50 s is known at 130 s, in the third bar, when that of 70 s is there already."""
    found = bars(180, quotes=[quote(5, 9, 11), quote(50, 1, 2, late_s=80), quote(70, 19, 21)])
    assert found["bid"].to_list() == [9.0, 19.0, 19.0]
    assert found["known_at"][0] == at(130)  # the widest spread of the first bar leans on it


def test_of_two_quotes_of_one_moment_the_later_in_order_counts_whenever_it_is_known() -> None:
    """Would have caught a tie that a long run and a short one broke differently."""
    first, second = quote(30, 9, 11, late_s=40), quote(30, 19, 21) | {"seq": 30_000_001}
    assert bars(120, quotes=[first, second])["bid"].to_list() == [19.0, 19.0]
    assert bars(120, start_s=60, quotes=[first, second])["bid"].to_list() == [19.0]


def test_ids_are_not_compared_across_more_than_an_hour() -> None:
    trades = [trade(1, 1, 10.0), trade(3601, 5, 10.0), trade(7202, 9, 10.0)]
    assert bars(7260, trades=trades)["trade_ids_missing"].sum() == 3  # 2 to 4; nothing is said of 6 to 8


def test_a_quote_older_than_an_hour_is_not_carried() -> None:
    assert bars(3720, quotes=[quote(60, 9, 11)])["bid"].to_list() == [9.0] * 61 + [None]


def test_flows_near_the_mid_by_hand() -> None:
    """Mid 1000: a bid at 998 is 20 bps away, at 990 100 bps, at 979 210 bps; an ask at 900 is on the near side."""
    prices = [(998.0, "bid"), (990.0, "bid"), (979.0, "bid"), (900.0, "ask"), (1060.0, "ask")]
    events = [event(10 + place, place, "cancel", side, price, qty=1.0) for place, (price, side) in enumerate(prices)]
    row = bars(60, book_events=events, quotes=[quote(1, 999, 1001)]).row(0, named=True)
    near = [row[f"cancel_bid_{band}bps_usd"] for band in (20, 100, 200, 500)]
    assert near == [998, 1988, 1988, 2967]
    assert [row[f"cancel_ask_{band}bps_usd"] for band in (20, 100, 200, 500)] == [900, 900, 900, 900]
    assert row["cancel_ask_usd"] == 1960
    assert row["add_bid_500bps_usd"] == 0


def test_the_mid_of_an_event_is_the_one_before_it_not_the_one_it_makes() -> None:
    """At 20 s the mid goes from 1000 to 2000 at the same stamp as the add at 999: 10 bps from the mid before."""
    row = bars(
        60,
        book_events=[event(20, 1, "add", "bid", 999.0, qty=1.0)],
        quotes=[quote(1, 999, 1001), quote(20, 1999, 2001)],
    ).row(0, named=True)
    assert row["add_bid_20bps_usd"] == 999


def test_without_a_fresh_quote_the_distance_is_unknown_and_the_total_is_not() -> None:
    events = [event(s, place, "cancel", "bid", 10.0, qty=1.0) for place, s in enumerate((5, 65, 3670))]
    found = bars(3720, book_events=events, quotes=[quote(10, 9, 11)])
    near = found["cancel_bid_500bps_usd"].to_list()
    assert near == [None, 10, *[0] * 59, None]  # before the first quote, and 3660 s after the last
    assert found["cancel_bid_usd"].to_list() == [10, 10, *[0] * 59, 10]
    assert bars(60, book_events=events[:1])["cancel_bid_20bps_usd"].to_list() == [None]


def test_what_trades_took_from_the_book_is_told_by_side() -> None:
    row = bars(60, book_events=[event(1, 1, "trade", "bid"), event(2, 2, "trade", "ask", 20.0)]).row(0, named=True)
    assert (row["book_trade_bid_usd"], row["book_trade_ask_usd"]) == (70, 140)
    assert (row["adds"], row["cancels"]) == (0, 0)


def candle(
    s: float, interval_s: int, close: float, volume: float, taken: float | None = None, *, late_s: float = 0
) -> dict[str, Any]:
    return {
        "ts": at(s), "interval_s": interval_s, "known_at": at(s + late_s), "open": close, "high": close + 1,
        "low": close - 1, "close": close, "volume": volume, "taker_buy_volume": taken,
    }  # fmt: skip


def test_the_coarsest_candles_that_divide_the_bar_stand_in_for_trades() -> None:
    """Of 20 s, 30 s and 45 s candles the two of 30 s count: 2 * 10 + 3 * 20 = 80 USD, taker 1 * 10 + 1 * 20 = 30."""
    candles = [candle(30, 30, 10, 2, 1), candle(60, 30, 20, 3, 1), candle(45, 45, 99, 9)]
    candles += [candle(s, 20, 50, 1) for s in (20, 40, 60)]
    row = bars(60, candles=candles).row(0, named=True)
    assert (row["open"], row["high"], row["low"], row["close"]) == (10.0, 21.0, 9.0, 20.0)
    assert (row["volume_usd"], row["buy_usd"], row["sell_usd"]) == (80, 30, 50)
    assert (row["price_source"], row["trade_age_s"], row["trades"]) == ("candles", 0.0, None)


def test_candles_without_the_takers_side_leave_it_unknown() -> None:
    row = bars(60, candles=[candle(60, 60, 10, 2)]).row(0, named=True)
    assert (row["volume_usd"], row["buy_usd"], row["sell_usd"]) == (20, None, None)


def test_a_candle_longer_than_the_bar_is_a_price_from_its_end_on_and_no_volume() -> None:
    found = bars(420, candles=[candle(300, 300, 10, 2, late_s=5)])
    assert found["close"].to_list() == [None] * 5 + [10.0, 10.0]
    assert found["trade_age_s"].to_list() == [None] * 5 + [60.0, 120.0]
    assert found["volume_usd"].null_count() == 7


def test_from_its_first_trade_on_a_symbol_is_priced_by_trades() -> None:
    candles = [candle(60 * minute, 60, 50, 1) for minute in range(1, 5)]
    found = bars(240, candles=candles, trades=[trade(130, 1, 10.0)])
    assert found["close"].to_list() == [50.0, 50.0, 10.0, 10.0]
    assert found["price_source"].to_list() == ["candles", "candles", "trades", "trades"]
    assert found["volume_usd"].to_list() == [50, 50, 100, 0]


def level(s: float, seq: int, before: int | None, *, snapshot: bool = False, price: float = 9.0) -> dict[str, Any]:
    return {
        "ts": at(s), "seq": seq, "side": "bid", "price": price, "known_at": at(s), "qty": 1.0,
        "snapshot": snapshot, "seq_before": before,
    }  # fmt: skip


def test_lost_book_messages_are_counted_in_the_bar_where_the_chain_goes_on() -> None:
    levels = [
        level(1, 10, 9), level(1, 10, 9, price=8.0), level(2, 12, 10),  # one message of two rows, then the next
        level(70, 20, 15),  # 13 to 15 were lost
        level(80, 30, None, snapshot=True), level(81, 33, 28),  # begins before the snapshot, as venues document
        level(130, 40, 35), level(131, 41, 40),  # 34 and 35 were lost
    ]  # fmt: skip
    assert bars(180, book_levels=levels)["book_gaps"].to_list() == [0, 1, 1]
    assert bars(60, trades=[trade(1, 1, 10.0)])["book_gaps"].to_list() == [None]


def test_stillness_is_counted_for_an_hour_and_does_not_outlast_a_gap() -> None:
    def snapshot(s: float, usd: float) -> list[dict[str, Any]]:
        return [
            {"ts": at(s), "known_at": at(s), "side": side, "band_bps": 100, "depth_usd": usd} for side in ("bid", "ask")
        ]

    still = [row for minute in range(0, 150, 10) for row in snapshot(60 * minute + 1, 5e6)]
    assert bars(9000, book_depth=still)["depth_unchanged_s"].max() == 3600.0
    apart = bars(9000, book_depth=snapshot(1, 5e6) + snapshot(7000, 5e6))
    assert apart["depth_unchanged_s"].tail(1).item() == 0.0


@pytest.mark.parametrize("bar_s", [1, 300, 3600])
def test_bars_of_another_length_hold_the_same_trades(bar_s: int) -> None:
    trades = [trade(s + 0.5, s, 10.0 + s % 7, 100) for s in range(0, 7200, 11)]
    found, minutes = bars(7200, trades=trades, bar_s=bar_s), bars(7200, trades=trades)
    assert found.height == 7200 // bar_s
    assert found["volume_usd"].sum() == minutes["volume_usd"].sum() == 100 * len(trades)
    assert found["high"].max() == minutes["high"].max() == 16.0
    assert found["ts"][0] == at(bar_s)


@pytest.mark.parametrize(("start_s", "bar_s"), [(0, 7), (0, 0), (30, 60)])
def test_bars_that_do_not_fill_a_day_evenly_are_refused(start_s: int, bar_s: int) -> None:
    with pytest.raises(ValueError, match=r"bar_s must divide 86400|must be ends of bars"):
        grid_of(at(start_s), at(86_400), bar_s)


@pytest.mark.parametrize("name", ["trades", "book_events", "quotes", "book_levels"])
def test_rows_out_of_order_are_refused_rather_than_counted_wrongly(name: str) -> None:
    made_rows = {
        "trades": [trade(2, 1, 10.0), trade(1, 2, 10.0)],
        "book_events": [event(2, 1, "add", "bid"), event(1, 2, "add", "bid")],
        "quotes": [quote(2, 9, 11), quote(1, 9, 11)],
        "book_levels": [level(2, 1, None), level(1, 2, None)],
    }
    sources = sources_of({name: table(name, made_rows[name])}, {name: at(1)})
    with pytest.raises(ValueError, match="must be in order of ts"):
        bars_of(VENUE, sources, at(0), at(60))


SECONDS = st.integers(0, 3000).map(lambda step: step * 3.0)  # 0 .. 9000 s: further than most things are carried
PRICED = st.tuples(
    SECONDS, st.sampled_from(["bid", "ask"]), st.integers(900, 1100), st.sampled_from([0.0, 1.0, 400.0, 4000.0])
)
WORLDS = st.fixed_dictionaries(
    {
        "events": st.lists(st.tuples(PRICED, st.sampled_from(["add", "cancel", "trade", "snapshot"])), max_size=25),
        "quotes": st.lists(PRICED, max_size=12),
        "marks": st.lists(PRICED, max_size=6),
        "depth": st.lists(PRICED, max_size=8),
        "candles": st.lists(st.tuples(st.integers(1, 150), st.integers(900, 1100)), max_size=6),
    }
)


def world_of(raw: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table that carries something on, known up to more than an hour late."""
    world = {
        "book_events": [
            event(s, place, kind, side, float(price), qty=1.0) | {"known_at": at(s + late)}
            for place, ((s, side, price, late), kind) in enumerate(raw["events"])
        ],
        "quotes": [
            quote(s, price - 1.0, price + 1.0, late_s=late) | {"seq": place}
            for place, (s, _, price, late) in enumerate(raw["quotes"])
        ],
        "marks": [
            {"ts": at(s), "known_at": at(s + late), "mark": float(price), "index": None, "last": None}
            for s, _, price, late in {row[0]: row for row in raw["marks"]}.values()
        ],
        "book_depth": [
            {"ts": at(s), "known_at": at(s + late), "side": side, "band_bps": 100, "depth_usd": float(price // 100)}
            for s, side, price, late in {row[:2]: row for row in raw["depth"]}.values()
        ],
        "candles": [candle(60 * minute, 60, float(price), 1) for minute, price in dict(raw["candles"]).items()],
    }
    return {name: rows for name, rows in world.items() if rows}


def since(world: dict[str, list[dict[str, Any]]], start_s: float) -> dict[str, list[dict[str, Any]]]:
    """What a run that starts at `start_s` reads of `world`."""
    reach = {name: at(start_s) - timedelta(seconds=LOOKBACK_S.get(name, 0)) for name in world}
    return {name: [row for row in rows if row["ts"] > reach[name]] for name, rows in world.items()}


def world_bars(
    world: dict[str, list[dict[str, Any]]], start_s: float, end_s: float, whole: dict[str, list[dict[str, Any]]]
) -> pl.DataFrame:
    tables = {name: in_order(name, table(name, rows)) for name, rows in since(world, start_s).items()}
    first_seen = {name: min(row["ts"] for row in rows) for name, rows in whole.items()}
    return bars_of(VENUE, sources_of(tables, first_seen), at(start_s), at(end_s))


@settings(max_examples=15, deadline=None)
@given(raw=WORLDS, cut_min=st.integers(1, 149))
def test_a_run_that_starts_later_gives_the_rows_of_a_long_one(raw: Any, cut_min: int) -> None:
    """Every table is read only `LOOKBACK_S` before the start, as the step does."""
    world = world_of(raw)
    full = world_bars(world, 0, 9000, world)
    assert world_bars(world, 60 * cut_min, 9000, world).equals(full.filter(pl.col("ts") > at(60 * cut_min)))


@settings(max_examples=15, deadline=None)
@given(raw=WORLDS, cut_min=st.integers(1, 149))
def test_cutting_any_table_off_changes_no_earlier_bar(raw: Any, cut_min: int) -> None:
    world = world_of(raw)
    early = {name: [row for row in rows if row["ts"] <= at(60 * cut_min)] for name, rows in world.items()}
    early = {name: rows for name, rows in early.items() if rows}
    full = world_bars(world, 0, 9000, world)
    assert world_bars(early, 0, 60 * cut_min, early).equals(full.filter(pl.col("ts") <= at(60 * cut_min)))


@settings(max_examples=15, deadline=None)
@given(raw=WORLDS)
def test_flows_near_the_mid_equal_a_slow_loop(raw: Any) -> None:
    world = world_of(raw)
    quotes = sorted(world.get("quotes", []), key=lambda row: (row["ts"], row["seq"]))
    for bar in world_bars(world, 0, 9000, world).iter_rows(named=True):
        expected, known = 0.0, bool(quotes) and "book_events" in world
        known = known and max(quotes[0]["ts"], min(row["ts"] for row in world["book_events"])) <= bar["ts"]
        for row in world.get("book_events", []):
            if not bar["ts"] - timedelta(seconds=60) < row["ts"] <= bar["ts"] or row["event"] not in ("add", "cancel"):
                continue
            before = [other for other in quotes if other["ts"] < row["ts"]]
            known &= bool(before) and row["ts"] - before[-1]["ts"] <= timedelta(hours=1)
            if known and (row["event"], row["side"]) == ("cancel", "ask"):
                mid = (before[-1]["bid"] + before[-1]["ask"]) / 2
                expected += row["price"] if row["price"] - mid <= mid * 200 / 1e4 else 0
        assert bar["cancel_ask_200bps_usd"] == (expected if known else None)


@settings(max_examples=15, deadline=None)
@given(raw=WORLDS)
def test_stored_columns_give_the_bars_of_canonical_ones(raw: Any) -> None:
    world = world_of(raw) | {"trades": [trade(s, s, 10.0 + s, 5.0) for s in range(1, 9000, 500)]}
    tables = {name: in_order(name, table(name, rows)) for name, rows in world.items()}
    streams = ("trades", "book_events", "quotes")
    stored = {name: encode(name, rows.collect()).lazy() if name in streams else rows for name, rows in tables.items()}
    first_seen = {name: min(row["ts"] for row in rows) for name, rows in world.items()}
    canonical = bars_of(VENUE, sources_of(tables, first_seen), at(0), at(9000))
    assert bars_of(VENUE, sources_of(stored, first_seen), at(0), at(9000)).equals(canonical)
    assert canonical["volume_usd"].sum() > 0


trades_strategy = st.lists(
    st.tuples(st.integers(0, 7200), st.sampled_from(["buy", "sell"]), st.floats(1, 100), st.floats(0, 5)),
    min_size=1, max_size=40,
)  # fmt: skip


def made(raw: list[tuple[int, str, float, float]]) -> list[dict[str, Any]]:
    return [
        trade(s, number, price, price * 3, side, late_s=late)
        for number, (s, side, price, late) in enumerate(sorted(raw))
    ]


@settings(max_examples=12, deadline=None)
@given(raw=trades_strategy, cut_min=st.integers(1, 119))
def test_cutting_the_future_off_changes_no_earlier_bar(raw: list[tuple[int, str, float, float]], cut_min: int) -> None:
    rows = made(raw)
    cut = at(60 * cut_min)
    full = bars(7200, trades=rows, spot=rows)
    early = [row for row in rows if row["ts"] <= cut]
    if not early:
        return
    short = bars(60 * cut_min, trades=early, spot=early)
    assert short.equals(full.filter(pl.col("ts") <= cut))


@settings(max_examples=12, deadline=None)
@given(raw=trades_strategy, cut_min=st.integers(61, 119))
def test_two_runs_in_a_row_equal_one_long_run(raw: list[tuple[int, str, float, float]], cut_min: int) -> None:
    rows = made(raw)
    full = bars(7200, trades=rows, spot=rows)
    parts = [
        bars(60 * cut_min, trades=rows, spot=rows),
        bars(7200, start_s=60 * cut_min, trades=rows, spot=rows),
    ]
    assert pl.concat(parts).equals(full)


@settings(max_examples=12, deadline=None)
@given(raw=trades_strategy, seed=st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter_and_flows_equal_a_slow_loop(raw: Any, seed: Any) -> None:
    rows = made(raw)
    mixed = rows.copy()
    seed.shuffle(mixed)
    found = bars(7200, trades=mixed)
    assert found.equals(bars(7200, trades=rows))
    for bar in found.iter_rows(named=True):
        inside = [row for row in rows if bar["ts"] - timedelta(seconds=60) < row["ts"] <= bar["ts"]]
        assert bar["trades"] == len(inside) or bar["ts"] < rows[0]["ts"]
        if inside:
            assert abs(bar["volume_usd"] - sum(row["notional_usd"] for row in inside)) <= 0.500_001
            assert bar["high"] == max(row["price"] for row in inside)
            assert bar["close"] == inside[-1]["price"]


def test_the_grid_is_every_bar_end_of_the_span() -> None:
    assert grid_of(at(0), at(180), 60).ends().to_list() == [at(0), at(60), at(120), at(180)]
