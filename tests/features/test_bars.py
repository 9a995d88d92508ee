"""Bars against hand arithmetic, a slow oracle and the clock: nothing from after a minute enters it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from features.bars import MAX_AGE_S, Sources, minute_grid, symbol_bars
from features.schema import CANONICAL, Bars, Quarantine, polars_schema

T0 = datetime(2025, 1, 1, tzinfo=UTC)
VENUE, SYMBOL = "v", "S"
KEY = {"venue": VENUE, "symbol": SYMBOL}
SCHEMAS = CANONICAL | {"quarantine": Quarantine}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def table(name: str, rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame([KEY | row for row in rows], schema=polars_schema(SCHEMAS[name]))


def trade(
    s: float, number: int, price: float, usd: float = 100.0, side: str = "buy", *, late_s: float = 0
) -> dict[str, Any]:
    return {
        "ts": at(s), "trade_id": str(number), "known_at": at(s + late_s), "side": side,
        "price": price, "qty": usd / price, "notional_usd": usd,
    }  # fmt: skip


def bars(
    end_s: float, spot: list[dict[str, Any]] | None = None, start_s: float = 0, **rows: list[dict[str, Any]]
) -> pl.DataFrame:
    tables = {name: table(name, rows.get(name, [])) for name in SCHEMAS}
    first_seen = {name: min(row["ts"] for row in some) for name, some in rows.items() if some}
    sources = Sources(tables, first_seen, table("trades", spot or []), "cb:S-USD" if spot else None)
    return Bars.validate(symbol_bars(VENUE, SYMBOL, sources, at(start_s), at(end_s)).collect())


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


trades_strategy = st.lists(
    st.tuples(st.integers(0, 7200), st.sampled_from(["buy", "sell"]), st.floats(1, 100), st.floats(0, 5)),
    min_size=1, max_size=40,
)  # fmt: skip


def made(raw: list[tuple[int, str, float, float]]) -> list[dict[str, Any]]:
    return [
        trade(s, number, price, price * 3, side, late_s=late)
        for number, (s, side, price, late) in enumerate(sorted(raw))
    ]


@settings(max_examples=25, deadline=None)
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


@settings(max_examples=25, deadline=None)
@given(raw=trades_strategy, cut_min=st.integers(61, 119))
def test_two_runs_in_a_row_equal_one_long_run(raw: list[tuple[int, str, float, float]], cut_min: int) -> None:
    rows = made(raw)
    full = bars(7200, trades=rows, spot=rows)
    parts = [
        bars(60 * cut_min, trades=rows, spot=rows),
        bars(7200, start_s=60 * cut_min, trades=rows, spot=rows),
    ]
    assert pl.concat(parts).equals(full)


@settings(max_examples=25, deadline=None)
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


def test_the_grid_is_every_minute_of_the_span() -> None:
    assert minute_grid(at(0), at(180)).collect()["ts"].to_list() == [at(60), at(120), at(180)]
