"""Facts by plain arithmetic, against hand arithmetic and a slow oracle."""

import math
import re
import statistics
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardrails.facts import market_facts
from tests.examples import examples


def last(bars, policy):
    return market_facts(bars, policy).row(-1, named=True)


def test_the_reference_is_the_mean_before_the_minute_the_minute_itself_left_out(policy, calm_bars):
    prices = {56: 101.0, 57: 99.0, 58: 102.0, 59: 98.0, 60: 105.0, 61: 90.9}
    fact = last(calm_bars(61, changes={i: {"close": price} for i, price in prices.items()}), policy)
    # minutes 56-60: (101 + 99 + 102 + 98 + 105) / 5 = 101; 90.9 / 101 - 1 = -10 %
    assert fact["reference_fast"] == pytest.approx(101.0)
    assert fact["move_fast"] == pytest.approx(-0.1)
    # minutes 1-60: 55 at 100, and 505: (5500 + 505) / 60 = 100.083333
    assert fact["reference_slow"] == pytest.approx(6005 / 60)
    assert fact["move_slow"] == pytest.approx(90.9 / (6005 / 60) - 1)


def test_divergence_is_of_the_mark_and_says_when_the_last_trade_stands_in(policy, calm_bars):
    published = last(calm_bars(3, changes={3: {"mark": 97.0, "index": 100.0}}), policy)
    assert (published["divergence"], published["mark_source"]) == (pytest.approx(0.03), "venue")
    stand_in = last(calm_bars(3, changes={3: {"mark": None, "mark_age_s": None, "close": 104.0}}), policy)
    assert (stand_in["divergence"], stand_in["mark_source"]) == (pytest.approx(0.04), "last")


def test_depth_is_the_thinner_side_over_its_own_median_before_the_minute(policy, calm_bars):
    fact = last(calm_bars(241, changes={241: {"depth_bid_100bps_usd": 60e6, "depth_ask_100bps_usd": 10e6}}), policy)
    # before: min(40, 50) = 40 M in every minute; now min(60, 10) = 10 M
    assert (fact["depth_usd"], fact["depth_normal_usd"], fact["depth_ratio"]) == (10e6, 40e6, 0.25)


def test_volatility_is_the_root_of_summed_squared_returns(policy, calm_bars):
    ups = {i: {"close": 100.0 * math.exp(0.001 * (i % 2))} for i in range(1, 62)}
    fact = last(calm_bars(61, changes=ups), policy)
    # 60 returns of +-0.001: sqrt(60 x 1e-6) = 0.7746 % per hour
    assert fact["volatility_1h"] == pytest.approx(math.sqrt(60e-6), rel=1e-6)


@pytest.mark.parametrize(("seen", "told"), [(5, False), (6, True)])
def test_half_of_a_window_of_eleven_minutes_is_six(policy_with, calm_bars, seen, told):
    policy = policy_with(inputs__depth_normal_min=11)
    lost = {minute: {"depth_bid_100bps_usd": None} for minute in range(1, 12 - seen)}
    assert (last(calm_bars(12, changes=lost), policy)["depth_normal_usd"] is not None) == told


@pytest.mark.parametrize(("rows", "fault"), [(0, None), (1, "depth frozen")])
def test_one_frozen_row_of_the_book_is_a_fault_of_its_minute(policy, calm_bars, rows, fault):
    assert last(calm_bars(3, changes={3: {"book_rows_frozen": rows}}), policy)["depth_fault"] == fault


@pytest.mark.parametrize("name", ["book_rows_crossed", "book_rows_frozen"])
def test_faults_of_the_book_are_counted_from_one_row_on_and_by_symbol(policy_with, calm_bars, at, name):
    """Of B's first six minutes five have a row at fault; A's ten before them in the table are not B's."""
    policy = policy_with(inputs__book_window_min=10)
    bars = pl.concat([calm_bars(10), calm_bars(6, ("B",), {minute: {name: 1} for minute in range(1, 6)})])
    fact = market_facts(bars, policy).filter(symbol="B", ts=at(6)).row(0, named=True)
    assert fact["book_fault_share"] == pytest.approx(5 / 6)


def test_a_gap_in_prices_does_not_hide_the_jump_across_it(policy, calm_bars):
    changes = {i: {"close": None} for i in range(40, 46)} | {i: {"close": 90.0} for i in range(46, 62)}
    fact = last(calm_bars(61, changes=changes), policy)
    # of 60 minutes 54 have a return, one of them ln(0.9): sqrt(ln(0.9)^2 x 60 / 54)
    assert fact["volatility_1h"] == pytest.approx(abs(math.log(0.9)) * math.sqrt(60 / 54), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "fault", "words"),
    [
        ({"close": None}, "price_fault", "price missing"),
        ({"close": math.nan}, "price_fault", "price invalid"),
        ({"close": math.inf}, "price_fault", "price invalid"),
        ({"close": -1.0}, "price_fault", "price invalid"),
        ({"close": 0.0}, "price_fault", "price invalid"),
        ({"trade_age_s": None}, "price_fault", "price age missing"),
        ({"trade_age_s": math.nan}, "price_fault", "price age missing"),
        ({"trade_age_s": 300.0}, "price_fault", None),
        ({"trade_age_s": 300.1}, "price_fault", "price stale"),
        ({"index_age_s": 300.1}, "index_fault", "index stale"),
        ({"mark_age_s": 60.0}, "mark_fault", None),
        ({"mark_age_s": 60.1}, "mark_fault", "mark stale"),
        ({"mark": math.nan}, "mark_fault", "mark invalid"),
        ({"mark": None, "close": None}, "mark_fault", "price missing"),
        ({"depth_bid_100bps_usd": None}, "depth_fault", "depth missing"),
        ({"depth_ask_100bps_usd": -1.0}, "depth_fault", "depth invalid"),
        ({"depth_bid_100bps_usd": 0.0}, "depth_fault", None),
        ({"depth_age_s": 120.1}, "depth_fault", "depth stale"),
        ({"book_rows_crossed": 1}, "depth_fault", "depth crossed"),
        ({"book_rows_frozen": 1}, "depth_fault", "depth frozen"),
        ({"depth_unchanged_s": 300.0}, "depth_fault", None),
        ({"depth_unchanged_s": 300.1}, "depth_fault", "depth frozen"),
        ({"book_rows_crossed": None}, "depth_fault", "depth unchecked"),
        ({"oi_usd": math.nan}, "oi_fault", "open interest invalid"),
        ({"oi_age_s": 900.0}, "oi_fault", None),
        ({"oi_age_s": 900.1}, "oi_fault", "open interest stale"),
        ({"index_age_s": None}, "feed_fault", "index_age_s missing"),
        ({"index": None, "index_age_s": None}, "feed_fault", None),
        ({"close": None}, "feed_fault", "trades missing"),
        ({"trade_age_s": None}, "feed_fault", "trade_age_s missing"),
        ({"mark_age_s": -1.0}, "feed_fault", "mark_age_s missing"),
        ({"depth_age_s": math.inf}, "feed_fault", "depth_age_s missing"),
        ({"depth_unchanged_s": None}, "feed_fault", "depth_unchanged_s missing"),
        # prices and dollars from 1e-15 to 1e15; of a side of the book and of open interest nothing is a number too
        ({"close": 1e-15}, "price_fault", None),
        ({"close": 0.9e-15}, "price_fault", "price invalid"),
        ({"close": 1e15}, "price_fault", None),
        ({"close": 1.05e15}, "price_fault", "price invalid"),
        ({"index": 0.0}, "index_fault", "index invalid"),
        ({"mark": 0.0}, "mark_fault", "mark invalid"),
        ({"oi_usd": 0.0}, "oi_fault", None),
        ({"oi_usd": -1.0}, "oi_fault", "open interest invalid"),
        ({"oi_usd": None}, "oi_fault", "open interest missing"),
        ({"oi_age_s": None}, "oi_fault", "open interest age missing"),
        ({"depth_ask_100bps_usd": 0.0}, "depth_fault", None),
        ({"depth_ask_100bps_usd": None}, "depth_fault", "depth missing"),
        ({"depth_age_s": None}, "depth_fault", "depth age missing"),
        ({"depth_age_s": 120.0}, "depth_fault", None),
        ({"book_rows_frozen": None}, "depth_fault", "depth unchecked"),
        ({"depth_unchanged_s": None}, "depth_fault", "depth unchecked"),
        ({"book_rows_crossed": -1}, "depth_fault", "depth unchecked"),
        # crossed is said before frozen, and both before nothing
        ({"book_rows_crossed": 1, "book_rows_frozen": 1}, "depth_fault", "depth crossed"),
        ({"mark": None, "close": None, "trade_age_s": 1.0}, "mark_fault", "price missing"),
        ({"mark_age_s": None}, "mark_fault", "mark age missing"),
        ({"liq_long_usd": None}, "liq_fault", "liquidations missing"),
        ({"liq_short_usd": None}, "liq_fault", "liquidations missing"),
        ({"liq_long_usd": -1}, "liq_fault", "liquidations invalid"),
        ({"liq_short_usd": -1}, "liq_fault", "liquidations invalid"),
        ({"liq_long_usd": None, "liq_short_usd": -1}, "liq_fault", "liquidations missing"),
        ({}, "liq_fault", None),
        # of a last trade that is too old the mark stands in, unless it is no better
        ({"trade_age_s": 301.0}, "band_fault", None),
        ({"trade_age_s": 301.0, "mark_age_s": 61.0}, "band_fault", "price stale"),
        ({"trade_age_s": 301.0, "mark": None}, "band_fault", "price stale"),
        ({"close": -1.0}, "band_fault", "price invalid"),
        # a minute whose book was crossed is told as a fault of the book, not as a missing one
        ({"book_rows_crossed": 1}, "book_fault", None),
        ({"depth_bid_100bps_usd": None}, "book_fault", "depth missing"),
        # a book that was never there is no crossed and no frozen one
        ({"depth_bid_100bps_usd": None, "book_rows_crossed": None}, "book_fault", "depth missing"),
        ({"depth_bid_100bps_usd": None, "book_rows_frozen": None}, "book_fault", "depth missing"),
        ({"depth_bid_100bps_usd": None, "depth_unchanged_s": None}, "book_fault", "depth missing"),
    ],
)
def test_an_input_that_cannot_be_trusted_is_named(policy, calm_bars, change, fault, words):
    assert last(calm_bars(2, changes={2: change}), policy)[fault] == words


def test_the_oldest_published_feed_gives_the_age(policy, calm_bars):
    ages = {"trade_age_s": 3.0, "mark_age_s": 4.0, "index_age_s": 70.0, "depth_age_s": 6.0, "depth_unchanged_s": 65.0}
    assert last(calm_bars(1, changes={1: ages}), policy)["feed_age_s"] == 70.0
    assert last(calm_bars(1, changes={1: ages | {"index": None}}), policy)["feed_age_s"] == 65.0


def test_a_symbol_that_falls_silent_goes_stale_instead_of_disappearing(policy, calm_bars):
    bars = pl.concat([calm_bars(10, ("A", "B")).filter((pl.col("symbol") == "B") | (pl.col("ts").dt.minute() <= 3))])
    silent = market_facts(bars, policy).filter(pl.col("symbol") == "A")
    # its last bar is of minute 3, its trade 1 s old then; by minute 10 the trade is 7 x 60 + 1 s old
    assert silent["trade_age_s"].to_list() == [1.0] * 3 + [61.0, 121.0, 181.0, 241.0, 301.0, 361.0, 421.0]
    assert silent["price_fault"].to_list() == [None] * 7 + ["price stale"] * 3
    assert silent["present"].to_list() == [True] * 3 + [False] * 7


def test_a_value_older_than_the_last_bar_is_not_dug_up_in_a_gap(policy, calm_bars):
    bars = calm_bars(6, ("A", "B"), {3: {"index": None, "index_age_s": None}})
    bars = bars.filter((pl.col("symbol") == "B") | (pl.col("ts").dt.minute() <= 3))
    silent = market_facts(bars, policy).filter(pl.col("symbol") == "A")
    assert silent["index_fault"].to_list() == [None, None] + ["index missing"] * 4


def with_mark(row):
    """The price that the bands read: the mark of the venue where it stands in for a last trade that is too old."""
    return row["mark"] if row["price_fault"] is not None and row["band_fault"] is None else row["price"]


@examples(8)
@example(seed=6)  # a last trade that is too old: the mark stands in
@given(seed=st.integers(0, 10_000))
def test_windows_agree_with_a_loop_and_facts_are_never_nan(short_policy, messy_bars, seed):
    facts = market_facts(messy_bars(seed, 90), short_policy)
    numbers = facts.select(pl.selectors.float())
    assert numbers.select(pl.all().is_nan().any()).row(0).count(True) == 0
    assert numbers.select(pl.all().is_infinite().any()).row(0).count(True) == 0
    compared = 0
    for symbol in ("A", "B", "C"):
        rows = facts.filter(pl.col("symbol") == symbol).to_dicts()
        seen = [row | {"price": with_mark(row)} for row in rows]
        for i, row in enumerate(rows):
            for name, source, window in (("reference_fast", "price", 5), ("depth_normal_usd", "depth_usd", 10)):
                past = [r[source] for r in seen[max(0, i - window) : i] if r[source] is not None]
                mean = statistics.fmean if source == "price" else statistics.median
                expected = mean(past) if len(past) >= window / 2 else None
                assert row[name] == (None if expected is None else pytest.approx(expected, rel=1e-12))
                compared += expected is not None
    assert compared > 100


def returns_of(prices):
    """One-minute log returns in steps of 1e-7, each against the last price of the hour before."""
    found = []
    for i, price in enumerate(prices):
        before = next((past for past in reversed(prices[max(0, i - 61) : i]) if past is not None), None)
        known = price is not None and before is not None
        found.append(round(math.log(price / before) / 1e-7) if known else None)
    return found


def last_of(values, i, window):
    return [value for value in values[max(0, i - window + 1) : i + 1] if value is not None]


def slow_sigmas(prices, returns, i):
    """The horizon is 5 minutes, the volatility of the 10 minutes before it, the floor 1 % an hour."""
    move, past = last_of(returns, i, 5), last_of(returns[: max(0, i - 4)], i - 5, 10)
    if prices[i] is None or len(move) < 3 or len(past) < 5:
        return None
    variance = max(sum(step * step for step in past) / len(past), 1e5**2 / 60)
    return sum(move) / math.sqrt(5 * variance)


def slow_drop(units, i):
    seen = last_of(units, i, 10)
    return None if units[i] is None or len(seen) < 5 else (max(seen) - units[i]) / max(seen)


def slow_book(minutes, i):
    seen = last_of(minutes, i, 10)
    return None if minutes[i] is None or len(seen) < 5 else sum(seen) / len(seen)


def slow_forced(dollars, depth_normal, i):
    seen = last_of(dollars, i, 5)
    known = dollars[i] is not None and len(seen) >= 3 and depth_normal is not None
    return sum(seen) / depth_normal if known else None


@examples(8)
@given(seed=st.integers(0, 10_000))
def test_the_facts_of_the_flow_agree_with_a_loop(short_policy, messy_bars, seed):
    bars = messy_bars(seed, 120)
    columns = ("oi_base", "liq_long_usd", "liq_short_usd", "book_rows_crossed")
    facts = market_facts(bars, short_policy).join(
        bars.select("symbol", "ts", *columns), on=["symbol", "ts"], how="left", maintain_order="left"
    )
    compared = dict.fromkeys(("move_sigmas", "oi_drop", "book_fault_share", "liq_per_depth"), 0)
    for symbol in ("A", "B", "C"):
        rows = facts.filter(pl.col("symbol") == symbol).to_dicts()
        prices = [row["price"] for row in rows]
        returns = returns_of(prices)
        units = [row["oi_base"] if row["oi_fault"] is None else None for row in rows]
        # where units are not told, dollars stand in: another test's table
        in_units = all(row["oi_fault"] is not None or 0 <= (row["oi_base"] or -1) <= 1e15 for row in rows)
        bad = ("depth unchecked", "depth crossed", "depth frozen")
        book = [
            1 if row["present"] and (row["crossed"] or row["frozen"] or row["depth_fault"] in bad)
            else 0 if row["depth_fault"] is None else None
            for row in rows
        ]  # fmt: skip
        sides = [(row["liq_long_usd"], row["liq_short_usd"]) for row in rows]
        forced = [None if None in pair or min(pair) < 0 else sum(pair) for pair in sides]
        for i, row in enumerate(rows):
            slow = {
                "move_sigmas": slow_sigmas(prices, returns, i),
                "oi_drop": slow_drop(units, i) if in_units else row["oi_drop"],
                "book_fault_share": slow_book(book, i),
                "liq_per_depth": slow_forced(forced, row["depth_normal_usd"], i),
            }
            for name, expected in slow.items():
                assert row[name] == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-12)), name
                compared[name] += expected is not None
    assert min(compared.values()) > 100


@pytest.mark.parametrize("mistake", ["two venues", "twice", "off the minute", "null", "all"])
def test_bars_about_which_nothing_can_be_said_are_refused(policy, calm_bars, mistake):
    bars = calm_bars(2)
    first = pl.int_range(pl.len()) == 0
    broken = {
        "two venues": bars.with_columns(pl.when(first).then(pl.lit("w")).otherwise("venue").alias("venue")),
        "twice": pl.concat([bars, bars]),
        "off the minute": bars.with_columns(pl.col("ts") + timedelta(seconds=1)),
        "null": bars.with_columns(pl.when(first).then(None).otherwise("symbol").alias("symbol")),
        "all": bars.with_columns(symbol=pl.lit("*")),
    }[mistake]
    words = {
        "two venues": "bars must hold one venue, held ['v', 'w']",
        "twice": "bars must hold one row per venue, symbol and ts",
        "off the minute": "`ts` of bars must be full minutes",
        "null": "`venue`, `symbol` and `ts` of bars must not be null",
        "all": "`symbol` of bars must be a symbol's name, was *, which stands for all",
    }[mistake]
    with pytest.raises(ValueError, match=re.escape(words)):
        market_facts(broken, policy)


@pytest.mark.parametrize(
    ("ages", "silent"),
    [
        # the youngest of trade, mark and book; the index is not the venue's own voice, an unchanged book is not silent
        ({"trade_age_s": 59.9}, 0),
        ({"trade_age_s": 60.0}, 1),
        ({"trade_age_s": 119.9}, 1),
        ({"mark_age_s": 5.0}, 0),
        ({"depth_age_s": 5.0}, 0),
        ({"index_age_s": 5.0}, 10),
        ({"depth_unchanged_s": 5.0}, 10),
        ({"trade_age_s": 5.0, "close": None}, 10),
        ({"trade_age_s": -5.0}, 10),
        ({}, 10),
    ],
)
def test_silence_is_counted_in_full_minutes_since_the_youngest_feed_of_the_venue(policy, calm_bars, ages, silent):
    old = dict.fromkeys(("trade_age_s", "mark_age_s", "index_age_s", "depth_age_s", "depth_unchanged_s"), 600.0)
    assert last(calm_bars(1, changes={1: old | ages}), policy)["silent_min"] == silent


@pytest.mark.parametrize(
    ("changes", "drop"),
    [
        # 10 M units, then 8 M of them: a fifth; in units where they are told, else in dollars
        ({20: {"oi_base": 8e6}}, 0.2),
        ({20: {"oi_usd": 7e8}}, 0.0),
        ({20: {"oi_base": 8e6, "oi_usd": 7e8}}, 0.2),
        ({i: {"oi_base": None, "oi_usd": 7e8 if i == 20 else 1e9} for i in range(1, 21)}, 0.3),
        ({20: {"oi_base": -1.0, "oi_usd": 7e8}}, 0.3),
        ({20: {"oi_usd": None}}, None),
        # nothing cannot fall further
        ({i: {"oi_base": 0.0, "oi_usd": 0.0} for i in range(1, 21)}, 0.0),
        # more than before is no fall
        ({20: {"oi_base": 2e7}}, 0.0),
    ],
)
def test_open_interest_falls_against_its_highest_in_units_where_they_are_told(policy, calm_bars, changes, drop):
    found = last(calm_bars(20, changes=changes), policy)["oi_drop"]
    assert found == (None if drop is None else pytest.approx(drop))


def test_a_return_of_a_minute_counts_at_most_ten_in_logs(policy, calm_bars):
    # from 1e-10 to 100 is a log return of 27.6, down to 10: sqrt(10^2 x 60 / 40) over the 40 returns there are
    prices = {i: {"close": 1e-10} for i in range(1, 41)}
    assert last(calm_bars(41, changes=prices), policy)["volatility_1h"] == pytest.approx(10 * math.sqrt(60 / 40))
    down = {41: {"close": 1e-10}}
    assert last(calm_bars(41, changes=down), policy)["volatility_1h"] == pytest.approx(10 * math.sqrt(60 / 40))


@pytest.mark.parametrize(("gap", "known"), [(60, True), (61, False)])
def test_a_gap_of_an_hour_is_bridged_and_no_longer_one(policy, calm_bars, gap, known):
    lenient = replace(policy, inputs=replace(policy.inputs, samples_share_min=0.01))
    rows = {i: {"close": None} for i in range(2, 2 + gap)} | {2 + gap: {"close": 90.0}}
    facts = market_facts(calm_bars(2 + gap, changes=rows), lenient)
    # the one return of 60 minutes is ln(.9): sqrt(60 x ln(.9)^2)
    expected = pytest.approx(abs(math.log(0.9)) * math.sqrt(60), rel=1e-5) if known else None
    assert facts["volatility_1h"].item(-1) == expected


def test_no_bars_give_no_facts(policy, calm_bars):
    empty = market_facts(calm_bars(1).clear(), policy)
    assert empty.is_empty()
    assert empty.schema == market_facts(calm_bars(1), policy).schema
