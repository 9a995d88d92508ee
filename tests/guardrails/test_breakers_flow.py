"""Breakers over volatility, forced flow, open interest, the book and loop gain: around every threshold and time."""

import math

import polars as pl
import pytest

from guardrails.decide import decide

TICK = 1e-7  # a log return is counted in whole steps of this size


def state_at_end(bars, numbers, rule, **tables):
    return decide(bars, numbers, **tables).state.filter(rule=rule)["state"].item()


def opened(decided, rule):
    return decided.decisions.filter(rule=rule, state_after="open").row(-1, named=True)


def states(decided, rule, at):
    """`(minute, state)` of every decision of a rule but that of the first minute."""
    rows = decided.decisions.filter(pl.col("ts") > at(1), rule=rule)
    return [(int((ts - at(0)).total_seconds() // 60), state) for ts, state in rows.select("ts", "state_after").rows()]


# --- price_band_sigma


def logs(*steps):
    """The price that lies so many steps of log return from 100."""
    return 100.0 * math.exp(sum(steps) * TICK)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        # a still market: the floor of 1 % an hour is .01 x sqrt(5 / 60) = .00288675 over 5 minutes
        # 5.33 of these are .01538638 in logs: 153,863.8 steps of 1e-7
        (153_863, "closed"),
        (153_864, "open"),
        (153_865, "open"),
        (-153_863, "closed"),
        (-153_864, "open"),
    ],
)
def test_in_a_still_market_the_sigma_band_is_that_of_the_floor(policy, calm_bars, steps, state):
    assert state_at_end(calm_bars(80, changes={80: {"close": logs(steps)}}), policy, "price_band_sigma") == state


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        # (15, 75] holds 60 returns of 1 %: sd .01 a minute, .01 x sqrt(5) = .02236068 over 5; 5.33 of it are .11918242
        (1_191_824, "closed"),
        (1_191_825, "open"),
        (-1_191_824, "closed"),
        (-1_191_825, "open"),
    ],
)
def test_the_sigma_band_is_as_wide_as_the_hour_before_the_move_was_volatile(policy, calm_bars, steps, state):
    restless = {i: {"close": logs(100_000 * (i % 2))} for i in range(1, 75)}
    still = {i: {"close": logs(100_000)} for i in range(75, 80)}
    bars = calm_bars(80, changes=restless | still | {80: {"close": logs(100_000, steps)}})
    assert state_at_end(bars, policy, "price_band_sigma") == state


def test_a_move_does_not_widen_its_own_band_and_counts_while_it_is_in_the_horizon(policy, calm_bars, at):
    bars = calm_bars(110, changes={i: {"close": logs(200_000)} for i in range(80, 111)})
    # 80 .. 84: the move is in (t - 5, t] and the volatility before it is the floor: 200,000 / 28,867.5 = 6.93 sd
    # from 85 on the move is 0, so minute 84 is the last that is not clean: 84 + 10 = 94, then 5 min of probation
    decided = decide(bars, policy)
    assert states(decided, "price_band_sigma", at)[-3:] == [(80, "open"), (94, "half_open"), (99, "closed")]
    assert opened(decided, "price_band_sigma")["observed"] == pytest.approx(200_000 / 28_867.513, rel=1e-6)


def test_the_sigma_band_opens_where_a_normal_says_so_and_nowhere_else(policy, policy_with):
    assert policy.breakers["price_band_sigma"].enter == 5.33
    # the normal: 99.9 % of all moves lie within 3.29 standard deviations
    policy_with(inputs__band_probability=0.999, breakers_price_band_sigma__enter=3.29)
    with pytest.raises(ValueError, match=r"must be the normal's quantile 3.29 at band_probability=0.999, was 3.3"):
        policy_with(inputs__band_probability=0.999, breakers_price_band_sigma__enter=3.3)


# --- liquidation_rate: the median of the thinner side is 40 M USD, half of it 20 M USD


@pytest.mark.parametrize(
    ("longs", "shorts", "state"),
    [
        ({20: 19_999_999}, {}, "closed"),
        ({20: 20_000_000}, {}, "open"),
        ({}, {20: 20_000_001}, "open"),
        ({20: 10_000_000}, {20: 9_999_999}, "closed"),
        ({20: 10_000_000}, {20: 10_000_000}, "open"),
        # the window is five minutes: of six times 3,999,999 it holds 19,999,995
        (dict.fromkeys(range(16, 21), 4_000_000), {}, "open"),
        (dict.fromkeys(range(15, 21), 3_999_999), {}, "closed"),
        # a minute that is not told, or told as nonsense, is missing
        ({20: None}, {}, "missing"),
        ({20: -1}, {}, "missing"),
        ({20: 2 * 10**15}, {}, "missing"),
        # what is told of a window half untold is enough to open it
        ({18: None, 19: None, 20: 20_000_000}, {}, "open"),
        ({17: None, 18: None, 19: None, 20: 20_000_000}, {}, "missing"),
    ],
)
def test_forced_flow_opens_at_half_the_book(short_policy, calm_bars, longs, shorts, state):
    changes = {i: {"liq_long_usd": longs.get(i, 0), "liq_short_usd": shorts.get(i, 0)} for i in {*longs, *shorts}}
    # the first of several minutes may open it: its state in the last one is the same, cool-down takes 10
    assert state_at_end(calm_bars(20, changes=changes), short_policy, "liquidation_rate") == state


@pytest.mark.parametrize(
    "book", [{"depth_bid_100bps_usd": None}, {"book_rows_crossed": 3}, {"depth_bid_100bps_usd": 1.0}]
)
def test_a_book_that_is_gone_crossed_or_thin_neither_hides_forced_flow_nor_doubles_it(short_policy, calm_bars, book):
    found = opened(
        decide(calm_bars(20, changes={20: {"liq_long_usd": 30_000_000, **book}}), short_policy), "liquidation_rate"
    )
    assert (found["observed"], found["data_health"]) == (0.75, "ok")  # 30 M / 40 M
    below = calm_bars(20, changes={20: {"liq_long_usd": 19_999_999, **book}})
    assert state_at_end(below, short_policy, "liquidation_rate") == "closed"


def test_forced_flow_comes_back_to_the_minute(short_policy, calm_bars, at):
    # (t - 5, t] holds minute 20 up to t = 24; 25 is clean: 24 + 10 = 34, 34 + 5 = 39
    decided = decide(calm_bars(60, changes={20: {"liq_long_usd": 20_000_000}}), short_policy)
    assert states(decided, "liquidation_rate", at)[-3:] == [(20, "open"), (34, "half_open"), (39, "closed")]
    # a tenth of the book, 4 M USD, is clean to the dollar
    edge = {20: {"liq_long_usd": 20_000_000}, 40: {"liq_long_usd": 4_000_000}}
    assert states(decide(calm_bars(60, changes={**edge, 29: {"liq_long_usd": 4_000_000}}), short_policy),
                  "liquidation_rate", at)[-1] == (39, "closed")  # fmt: skip
    above = {20: {"liq_long_usd": 20_000_000}, 29: {"liq_long_usd": 4_000_001}}
    # minutes 29 .. 33 are not clean: 33 + 10 = 43
    assert states(decide(calm_bars(60, changes=above), short_policy), "liquidation_rate", at)[-2:] == [
        (43, "half_open"), (48, "closed"),
    ]  # fmt: skip


# --- oi_drop: the maximum is 10,000,000 units


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"oi_base": 9_000_001.0}, "closed"),
        ({"oi_base": 9_000_000.0}, "open"),
        ({"oi_base": 8_999_999.0}, "open"),
        ({"oi_base": 11_000_000.0}, "closed"),
        # dollars fall with the price: nobody closed
        ({"oi_usd": 5e8}, "closed"),
        ({"oi_age_s": 900.0, "oi_base": 8e6}, "open"),
        ({"oi_age_s": 900.1, "oi_base": 8e6}, "missing"),
        ({"oi_usd": None}, "missing"),
        ({"oi_usd": math.nan}, "missing"),
        ({"oi_base": 0.0}, "open"),
    ],
)
def test_open_interest_opens_it_at_a_tenth_below_its_maximum(policy, calm_bars, change, state):
    assert state_at_end(calm_bars(40, changes={40: change}), policy, "oi_drop") == state


@pytest.mark.parametrize(("usd", "state"), [(900_000_001.0, "closed"), (900_000_000.0, "open")])
def test_where_only_dollars_are_told_open_interest_is_in_dollars(policy, calm_bars, usd, state):
    dollars = calm_bars(40, changes={40: {"oi_usd": usd}}).with_columns(oi_base=pl.lit(None, pl.Float64))
    assert state_at_end(dollars, policy, "oi_drop") == state


def test_a_market_without_any_open_interest_cannot_lose_it(policy, calm_bars):
    assert state_at_end(calm_bars(40).with_columns(oi_base=0.0, oi_usd=0.0), policy, "oi_drop") == "closed"


def test_the_maximum_of_open_interest_is_that_of_thirty_minutes(policy, calm_bars, at):
    # (t - 30, t] holds minute 39, the last of 10 M, up to t = 68; 69 is clean: 68 + 10 = 78, 78 + 5 = 83
    bars = calm_bars(100, changes={i: {"oi_base": 8e6} for i in range(40, 101)})
    assert states(decide(bars, policy), "oi_drop", at)[-3:] == [(40, "open"), (78, "half_open"), (83, "closed")]


@pytest.mark.parametrize(("units", "state"), [(9_500_000.0, "half_open"), (9_499_999.0, "open")])
def test_open_interest_is_clean_at_half_its_limit(policy, calm_bars, units, state):
    changes = {40: {"oi_base": 8e6}} | {i: {"oi_base": units} for i in range(41, 51)}
    assert state_at_end(calm_bars(50, changes=changes), policy, "oi_drop") == state


# --- book_fault: the last ten minutes are (30, 40]

CROSSED, FROZEN, STILL = {"book_rows_crossed": 1}, {"book_rows_frozen": 1}, {"depth_unchanged_s": 300.1}
UNCHECKED, GONE = {"book_rows_crossed": None}, {"depth_bid_100bps_usd": None, "depth_ask_100bps_usd": None}


@pytest.mark.parametrize("fault", [CROSSED, FROZEN, STILL, UNCHECKED, CROSSED | GONE, FROZEN | GONE])
@pytest.mark.parametrize(("minutes", "state"), [(4, "closed"), (5, "open"), (6, "open")])
def test_a_book_at_fault_in_half_the_minutes_trips_and_is_not_only_missing(policy, calm_bars, fault, minutes, state):
    bars = calm_bars(40, changes={41 - i: fault for i in range(1, minutes + 1)})
    assert state_at_end(bars, policy, "book_fault") == state


def test_a_minute_at_fault_counts_for_ten_minutes(policy, calm_bars):
    four = dict.fromkeys(range(37, 41), CROSSED)
    assert state_at_end(calm_bars(40, changes={31: CROSSED, **four}), policy, "book_fault") == "open"
    assert state_at_end(calm_bars(40, changes={30: CROSSED, **four}), policy, "book_fault") == "closed"


def test_a_book_that_was_never_there_is_missing_and_a_minute_without_one_does_not_count(policy, calm_bars):
    assert state_at_end(calm_bars(40, changes=dict.fromkeys(range(1, 41), GONE)), policy, "book_fault") == "missing"
    # of (30, 40] four minutes had no book, three of the other six were crossed
    half = dict.fromkeys(range(31, 35), GONE) | dict.fromkeys(range(38, 41), CROSSED)
    assert state_at_end(calm_bars(40, changes=half), policy, "book_fault") == "open"
    # of (30, 40] six minutes had no book: the other four tell too little
    little = dict.fromkeys(range(31, 37), GONE) | dict.fromkeys(range(37, 41), CROSSED)
    assert state_at_end(calm_bars(40, changes=little), policy, "book_fault") == "missing"


def test_a_symbol_that_falls_silent_is_missing_not_a_book_at_fault(policy, calm_bars, at):
    silent = calm_bars(40, ("A",)).filter(pl.col("ts") <= at(20))  # its age would pass for a frozen book from 26 on
    state = decide(pl.concat([silent, calm_bars(40, ("B",))]), policy).state
    assert state.filter(rule="book_fault").select("symbol", "state").rows() == [("A", "missing"), ("B", "closed")]


def test_a_ghost_bid_trips_and_does_not_keep_the_depth_rule_closed(policy, calm_bars):
    """A stale bid above every ask for an hour, as large as the real book was: depth alone would look sound."""
    ghost = {i: {"book_rows_crossed": 2, "depth_bid_100bps_usd": 40e6} for i in range(200, 261)}
    last = decide(calm_bars(260, changes=ghost), policy).limits.row(-1, named=True)
    assert (last["action"], last["binding"], last["leverage_cap"]) == ("reduce_only", "book_fault", 2.0)
    assert "depth crossed" in last["missing"]


def test_a_book_comes_back_at_a_fifth_to_the_minute(policy, calm_bars, at):
    # crossed in 36 .. 40: the share falls to 3/10 at 47 and 2/10 at 48; 47 is the last that is not clean: 57, 62
    bars = calm_bars(80, changes=dict.fromkeys(range(36, 41), CROSSED))
    assert states(decide(bars, policy), "book_fault", at)[-3:] == [(40, "open"), (57, "half_open"), (62, "closed")]


# --- loop_gain


def holdings(*rows, symbol="A"):
    """`(known at, gain)` or `(known at, gain, fault)`."""
    whole = [(symbol, ts, gain, *(fault or [None])) for ts, gain, *fault in rows]
    schema = {"symbol": pl.String, "ts": pl.Datetime("us", "UTC"), "loop_gain": pl.Float64, "loop_fault": pl.String}
    return pl.DataFrame(whole, schema=schema, orient="row")


@pytest.mark.parametrize(
    ("gain", "state"),
    [
        (0.999, "closed"), (1.0, "open"), (1.001, "open"), (0.0, "closed"),
        (None, "missing"), (math.nan, "missing"), (math.inf, "missing"), (-2.0, "missing"),
    ],
)  # fmt: skip
def test_a_loop_that_feeds_itself_opens_it(policy_with, calm_bars, at, gain, state):
    numbers = policy_with(inputs__not_published=["collateral", "fund"])
    assert state_at_end(calm_bars(20), numbers, "loop_gain", holdings=holdings((at(0), gain))) == state


@pytest.mark.parametrize(("gain", "state"), [(0.7, "half_open"), (0.701, "open")])
def test_a_loop_is_clean_at_seven_tenths(policy_with, calm_bars, at, gain, state):
    numbers = policy_with(inputs__not_published=["collateral", "fund"])
    told = holdings((at(0), 1.0), (at(10), gain))  # clean from minute 10 on: ten minutes at 19
    assert state_at_end(calm_bars(19), numbers, "loop_gain", holdings=told) == state
    assert state_at_end(calm_bars(18), numbers, "loop_gain", holdings=told) == "open"


# --- sentences


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        (
            "price_band_sigma",
            {"close": 98.0},
            "price moved -2.0 % in 5 min, 7.0 sd of the hour before; band is 5.33 sd; new positions are paused; "
            "clears after 10 min within 2.58 sd",
        ),
        (
            "liquidation_rate",
            {"liq_long_usd": 25_000_000, "liq_short_usd": 5_000_000},
            "30.0 M USD liquidated in 5 min, 0.75x the median depth within 100 bps; limit is 0.5x; "
            "new positions are paused; clears after 10 min within 0.1x",
        ),
        (
            "oi_drop",
            {"oi_base": 8e6},
            "open interest is 20.0 % below its 10-min maximum; limit is 10.0 %; new positions are paused; "
            "clears after 10 min within 5.0 %",
        ),
    ],
)
def test_every_one_says_what_is_seen_the_limit_what_follows_and_what_clears_it(
    short_policy, calm_bars, rule, change, words
):
    assert opened(decide(calm_bars(20, changes={20: change}), short_policy), rule)["reason"] == words


def test_the_book_and_the_loop_say_it_too(policy_with, calm_bars, at):
    numbers = policy_with(inputs__not_published=["collateral", "fund"])
    told = holdings((at(0), 0.2), (at(20), 1.25))
    decided = decide(calm_bars(20, changes=dict.fromkeys(range(15, 21), CROSSED)), numbers, holdings=told)
    assert opened(decided, "book_fault")["reason"] == (
        "the book was crossed, frozen or unchecked in 50.0 % of the last 10 min; limit is 50.0 %; "
        "new positions are paused; clears after 10 min within 20.0 %"
    )
    assert opened(decided, "loop_gain")["reason"] == (
        "a 1 % move would force 1.25x of what the book within 1 % takes; limit is 1x; new positions are paused; "
        "clears after 10 min within 0.7x"
    )
