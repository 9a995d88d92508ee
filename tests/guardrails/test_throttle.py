"""The liquidation throttle, with hand arithmetic."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.facts import market_facts
from guardrails.policy import LOOKBACK_MIN
from guardrails.throttle import SCHEMA, throttle
from tests.examples import examples


@pytest.fixture(scope="session")
def throttled(policy, calm_bars):
    """The throttle over `minutes` of a calm market: `forced` and `changes` by minute; the thinner side is 40 M USD."""

    def run(minutes, forced=None, changes=None, policy=policy):
        bars = calm_bars(minutes, changes=changes)
        flow = [(forced or {}).get(i, 0) for i in range(1, minutes + 1)]
        told = bars.with_columns(liq_long_usd=pl.Series(flow, dtype=pl.Float64), liq_short_usd=pl.lit(0.0))
        return throttle(market_facts(bars, policy), told, policy)

    return run


# 6 % a minute for 5 minutes of 40 M is 12 M: the step is 10 M


@pytest.mark.parametrize(
    ("forced", "used", "left", "verdict"),
    [
        ({}, 0, 10_000_000, "clear"),
        ({20: 4e6}, 4_000_000, 6_000_000, "clear"),
        ({16: 2e6, 20: 4e6}, 6_000_000, 4_000_000, "clear"),
        # minute 15 is no longer in the window (15, 20]
        ({15: 9e6, 20: 4e6}, 4_000_000, 6_000_000, "clear"),
        ({20: 9_899_999}, 9_899_999, 100_001, "clear"),
        ({20: 9_900_000}, 9_900_000, 100_000, "clear"),
        ({20: 9_900_001}, 9_900_001, 100_000, "clear"),
        ({20: 9_999_999}, 9_999_999, 100_000, "clear"),
        ({20: 10e6}, 10_000_000, 100_000, "tripped"),
        ({20: 1e9}, 1_000_000_000, 100_000, "tripped"),
        # what is not a number of dollars is not told: as if all of it were used
        ({20: None}, None, 100_000, "missing"),
        ({17: math.nan}, None, 100_000, "missing"),
        ({17: -1.0}, None, 100_000, "missing"),
        ({17: math.inf}, None, 100_000, "missing"),
        ({15: None}, 0, 10_000_000, "clear"),
    ],
)
def test_what_was_forced_in_the_window_counts_against_what_the_book_takes(throttled, forced, used, left, verdict):
    row = throttled(20, forced).row(-1, named=True)
    assert (row["capacity_usd"], row["used_usd"], row["left_usd"], row["verdict"]) == (10_000_000, used, left, verdict)


@pytest.mark.parametrize(
    ("depth", "capacity"),
    [
        # 30 % of the side: 20 M is 6 M -> 5 M; 66.7 M, but its median is 40 M: 12 M -> 10 M
        (20e6, 5_000_000),
        (66.7e6, 10_000_000),
        (16.7e6, 5_000_000),
        (16.6e6, 2_000_000),
        # 333 334 is 100 000.2; what is below is the least, and so is an empty book
        (333_334.0, 100_000),
        (1.0, 100_000),
        (0.0, 100_000),
        (None, 100_000),
        (math.nan, 100_000),
        (-1.0, 100_000),
    ],
)
def test_capacity_is_a_share_of_the_book_in_steps_and_never_nothing(throttled, depth, capacity):
    row = throttled(130, changes={130: {"depth_bid_100bps_usd": depth, "depth_ask_100bps_usd": 100e6}}).row(
        -1, named=True
    )
    assert (row["capacity_usd"], row["left_usd"]) == (capacity, capacity)


def test_the_sentences_say_what_was_seen_and_what_is_left(throttled):
    spent = throttled(20, {20: 11e6}).row(-1, named=True)
    assert spent["reason"] == (
        "11.0 M USD forced in 5 min, the book takes 10.0 M USD; 100.0 k USD may be forced in the next minute"
    )
    assert spent["clears_when"] == "clears as flow grows older than 5 min"
    lost = throttled(20, {20: None}, {20: {"book_rows_crossed": 1}}).row(-1, named=True)
    assert lost["reason"] == (
        "depth crossed, forced flow missing; safe side: 100.0 k USD may be forced in the next minute"
    )
    assert throttled(20).row(-1, named=True)["reason"] is None


@pytest.mark.parametrize(
    ("long", "short", "used"),
    [
        (2e6, 1e6, 3_000_000),
        (0.4, 0.4, 0),
        (0.6, 0.6, 2),
        (1e15, 0.0, 10**15),
        (1.05e15, 0.0, None),
        (0.0, 1.05e15, None),
        (None, 1e6, None),
        (1e6, None, None),
        (-1.0, 1e6, None),
        (1e6, -1.0, None),
        ("x", 1e6, None),
    ],
)
def test_both_sides_are_forced_flow_in_whole_dollars(policy, calm_bars, at, *, long, short, used):
    bars = calm_bars(5)
    here = pl.col("ts") == at(5)
    text = isinstance(long, str)
    sides = {
        "liq_long_usd": pl.when(here).then(pl.lit(long)).otherwise(pl.lit("0" if text else 0.0)),
        "liq_short_usd": pl.when(here).then(pl.lit(short)).otherwise(0.0),
    }
    row = throttle(market_facts(bars, policy), bars.with_columns(**sides), policy).row(-1, named=True)
    assert (row["used_usd"], row["fault"]) == (used, "forced flow missing" if used is None else None)


def test_a_book_beyond_the_last_step_is_at_it(policy, calm_bars):
    # 30 % of 1e14 is 3e13; the last step is 1e12
    bars = calm_bars(1, changes={1: {"depth_bid_100bps_usd": 1e14, "depth_ask_100bps_usd": 1e14}})
    assert throttle(market_facts(bars, policy), bars, policy)["capacity_usd"].item() == 10**12


def test_a_row_says_where_when_and_by_which_policy(throttled, policy, at):
    row = throttled(5).row(-1, named=True)
    assert (row["venue"], row["symbol"], row["ts"]) == ("v", "A", at(5))
    assert (row["policy_version"], row["policy_sha256"]) == (policy.version, policy.sha256)
    assert row["clears_when"] is None
    assert throttled(5, {5: None}).row(-1, named=True)["clears_when"] == "clears when every input is present"


def test_flow_and_capacity_of_one_symbol_are_not_those_of_the_next(policy, calm_bars, at):
    bars = pl.concat([calm_bars(6, ("A",), {i: {"depth_bid_100bps_usd": 4e6, "liq_long_usd": 10**6} for i in (5, 6)}),
                      calm_bars(6, ("B",))])  # fmt: skip
    found = throttle(market_facts(bars, policy), bars, policy).filter(symbol="B")
    # A ends at 1 M of capacity with 2 M used; B begins untold, and is clear with its fifth minute
    assert found["capacity_usd"].to_list() == [10_000_000] * 6
    assert found["used_usd"].to_list() == [None] * 4 + [0, 0]


def test_capacity_falls_at_once_and_rises_after_the_hold_to_the_minute(throttled):
    found = throttled(60, changes={20: {"depth_bid_100bps_usd": 4e6}})["capacity_usd"].to_list()
    # 30 % of 4 M is 1.2 M -> 1 M at minute 20, until 50
    assert [found[i - 1] for i in (19, 20, 50, 51)] == [10_000_000, 1_000_000, 1_000_000, 10_000_000]


def test_a_window_that_is_not_yet_whole_is_not_told(throttled):
    assert throttled(5)["fault"].to_list() == ["forced flow missing"] * 4 + [None]


def test_a_venue_without_liquidations_is_throttled_to_the_least(policy, calm_bars):
    bars = calm_bars(10).drop("liq_long_usd", "liq_short_usd")
    found = throttle(market_facts(bars, policy), bars, policy)
    assert found.schema == pl.Schema(SCHEMA)
    assert found["left_usd"].unique().to_list() == [100_000]
    assert found["fault"].unique().to_list() == ["forced flow missing"]


def test_a_silent_minute_is_not_a_minute_without_liquidations(policy, calm_bars, at):
    told = calm_bars(10, ("A", "B")).with_columns(liq_long_usd=pl.lit(0), liq_short_usd=pl.lit(0))
    told = told.filter(~((pl.col("symbol") == "A") & (pl.col("ts") == at(8))))
    last = throttle(market_facts(told, policy), told, policy).filter(ts=at(10))
    assert last["fault"].to_list() == ["forced flow missing", None]


FLOWS = st.lists(st.one_of(st.none(), st.integers(0, 12_000_000)), min_size=8, max_size=8)


@examples(40)
@given(
    flows=FLOWS,
    more=st.integers(0, 12_000_000),
    depth=st.floats(0, 1e8),
    worse=st.sampled_from(["flow", "no flow", "depth", "no depth"]),
)
def test_no_more_may_be_forced_when_an_input_gets_worse_or_goes_missing(throttled, flows, more, depth, worse):
    forced = {i + 1: usd for i, usd in enumerate(flows)}
    book = {8: {"depth_bid_100bps_usd": depth, "depth_ask_100bps_usd": depth}}
    before = throttled(8, forced, book)["left_usd"].item(-1)
    last = forced[8]
    changed = {"flow": None if last is None else last + more, "no flow": None}.get(worse, last)
    thinner = {"depth": depth / 2, "no depth": None}.get(worse, depth)
    book = {8: {"depth_bid_100bps_usd": thinner, "depth_ask_100bps_usd": thinner}}
    after = throttled(8, {**forced, 8: changed}, book)["left_usd"].item(-1)
    assert 100_000 <= after <= before


def test_no_minute_depends_on_a_later_one(throttled):
    forced, changes = {3: 2e6, 9: 5e6}, {7: {"depth_bid_100bps_usd": 5e6}}
    whole = throttled(20, forced, changes)
    assert all(throttled(cut, forced, changes).equals(whole.head(cut)) for cut in (4, 8, 19))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_lookback_of_bars_gives_the_rows_of_the_whole(policy, messy_bars, at, seed):
    bars = messy_bars(seed, 900)
    told = bars.with_columns(liq_long_usd=(pl.col("close") * 1e4).round(), liq_short_usd=pl.lit(0.0))
    whole = throttle(market_facts(bars, policy), told, policy).filter(pl.col("ts") > at(800))
    late = pl.col("ts") > at(800 - LOOKBACK_MIN)
    part = throttle(market_facts(bars.filter(late), policy), told.filter(late), policy).filter(pl.col("ts") > at(800))
    assert part.equals(whole)
    assert whole["capacity_usd"].n_unique() > 1
