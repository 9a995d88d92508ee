"""Breakers of the venue as a whole: outage, pegs, the insurance fund, and many symbols at once."""

import math
from datetime import timedelta

import polars as pl
import pytest

from guardrails.decide import decide

UTC_US = pl.Datetime("us", "UTC")
TEN = tuple("ABCDEFGHIJ")


def state_at_end(bars, numbers, rule, **tables):
    return decide(bars, numbers, **tables).state.filter(rule=rule)["state"].item()


def opened(decided, rule):
    return decided.decisions.filter(rule=rule, state_after="open").row(-1, named=True)


def states(decided, rule, at):
    rows = decided.decisions.filter(pl.col("ts") > at(1), rule=rule)
    return [(int((ts - at(0)).total_seconds() // 60), state) for ts, state in rows.select("ts", "state_after").rows()]


# --- outage


def without(bars, at, first, last):
    """No row of any symbol in the minutes from `first` to `last`."""
    return bars.filter(~pl.col("ts").is_between(at(first), at(last)))


@pytest.mark.parametrize(("last", "state"), [(23, "closed"), (24, "closed"), (25, "open"), (26, "open")])
def test_five_minutes_without_a_row_of_any_symbol_are_an_outage(policy, calm_bars, at, last, state):
    # the youngest feed is 1 s old in minute 20, so it is k x 60 + 1 s old k minutes later: k full minutes
    bars = without(calm_bars(last + 1, ("A", "B")), at, 21, last)
    assert state_at_end(bars, policy, "outage") == state


def test_one_symbol_that_speaks_is_no_outage(policy, calm_bars, at):
    bars = pl.concat([without(calm_bars(40, ("A",)), at, 21, 30), calm_bars(40, ("B",))])
    assert state_at_end(bars, policy, "outage") == "closed"


@pytest.mark.parametrize(
    ("ages", "state"),
    [
        ({"trade_age_s": 299.9, "mark_age_s": 400.0, "depth_age_s": 400.0}, "closed"),
        ({"trade_age_s": 300.0, "mark_age_s": 400.0, "depth_age_s": 400.0}, "open"),
        ({"trade_age_s": 400.0, "mark_age_s": 59.0, "depth_age_s": 400.0}, "closed"),
        ({"trade_age_s": 400.0, "mark_age_s": 400.0, "depth_age_s": 10.0}, "closed"),
        # an index may be another venue's, so it is no word of this one; a value without an age is none either
        ({"trade_age_s": 400.0, "mark_age_s": 400.0, "depth_age_s": 400.0, "index_age_s": 1.0}, "open"),
        ({"trade_age_s": 400.0, "mark_age_s": math.nan, "depth_age_s": -1.0}, "open"),
        ({"trade_age_s": 400.0, "mark": None, "mark_age_s": 1.0, "depth_age_s": 400.0}, "open"),
        ({"trade_age_s": None, "mark_age_s": None, "depth_age_s": None}, "missing"),
    ],
)
def test_rows_in_which_nothing_is_new_are_silence_too(policy, calm_bars, ages, state):
    assert state_at_end(calm_bars(20, ("A", "B"), {20: ages}), policy, "outage") == state


def test_an_outage_opens_in_the_first_minute_that_is_there_again_and_is_clean_after_it(policy, calm_bars, at):
    # no rows in 21 .. 25, and 26 still sees that: 26 + 10 = 36, 36 + 10 = 46
    decided = decide(without(calm_bars(70, ("A", "B")), at, 21, 25), policy)
    assert states(decided, "outage", at) == [(26, "open"), (36, "half_open"), (46, "closed")]
    first = opened(decided, "outage")
    assert (first["scope"], first["entity"], first["observed"]) == ("venue", "*", 5.0)
    assert first["reason"] == (
        "no symbol of the venue was heard for 5 min; limit is 5 min; new positions are paused; "
        "clears after 10 min within 2 min"
    )
    back = decided.limits.filter(ts=at(26))
    assert back.select("symbol", "action", "leverage_cap").rows() == [
        ("A", "reduce_only", 2.0),
        ("B", "reduce_only", 2.0),
    ]


def test_a_silence_of_two_minutes_is_clean_and_of_three_is_not(policy, calm_bars, at):
    bars = without(calm_bars(80, ("A",)), at, 21, 25)
    assert states(decide(without(bars, at, 31, 32), policy), "outage", at)[1] == (36, "half_open")
    # 31 .. 33: three minutes in minute 33, which minute 34 still sees; 34 + 10 = 44
    assert states(decide(without(bars, at, 31, 33), policy), "outage", at)[1] == (44, "half_open")


def test_a_silence_of_hours_keeps_it_open(policy, calm_bars, at):
    decided = decide(without(calm_bars(700, ("A",)), at, 21, 640), policy)
    assert states(decided, "outage", at)[:1] == [(641, "open")]
    assert opened(decided, "outage")["observed"] == 60.0  # counted for FILL_MIN minutes


# --- collateral_depeg and fund_drawdown


def told(value, *rows):
    """`(known at, value)` or `(known at, value, fault)`; a peg names its asset."""
    whole = [(ts, number, *(fault or [None])) for ts, number, *fault in rows]
    fault = {"depeg": "depeg_fault", "fund_drawdown": "fund_fault"}[value]
    table = pl.DataFrame(whole, schema={"ts": UTC_US, value: pl.Float64, fault: pl.String}, orient="row")
    return table.with_columns(asset=pl.lit("USDC")) if value == "depeg" else table


@pytest.fixture(scope="module")
def numbers(policy_with):
    return policy_with(inputs__not_published=["positions"])


TABLES = {"collateral_depeg": ("pegs", "depeg"), "fund_drawdown": ("fund", "fund_drawdown")}


@pytest.fixture(scope="module")
def ends(numbers, calm_bars, at):
    """The state of a rule after so many minutes, its table telling `{minute: value}`."""

    def state(rule, minutes, values):
        table, column = TABLES[rule]
        rows = told(column, *((at(minute), value) for minute, value in values.items()))
        return state_at_end(calm_bars(minutes), numbers, rule, **{table: rows})

    return state


@pytest.mark.parametrize(
    ("rule", "value", "state"),
    [
        ("collateral_depeg", 0.0199, "closed"),
        ("collateral_depeg", 0.02, "open"),
        ("collateral_depeg", 0.0201, "open"),
        ("fund_drawdown", 0.149, "closed"),
        ("fund_drawdown", 0.15, "open"),
        ("fund_drawdown", 0.151, "open"),
        *[(rule, bad, "missing") for rule in TABLES for bad in (None, math.nan, math.inf)],
        ("fund_drawdown", -0.1, "missing"),
        ("collateral_depeg", -0.1, "closed"),  # above its peg
    ],
)
def test_a_peg_or_a_fund_opens_it_at_its_limit(ends, rule, value, state):
    assert ends(rule, 20, {0: 0.0, 20: value}) == state


@pytest.mark.parametrize(
    ("rule", "tripped", "clean", "not_clean"),
    [("collateral_depeg", 0.03, 0.01, 0.0101), ("fund_drawdown", 0.5, 0.05, 0.051)],
)
def test_it_comes_back_after_thirty_minutes_inside_its_exit(ends, rule, tripped, clean, not_clean):
    # clean from minute 10 on: the thirtieth clean minute is 39
    found = [ends(rule, minutes, {0: tripped, 10: clean}) for minutes in (38, 39, 68, 69)]
    assert found == ["open", "half_open", "half_open", "closed"]
    assert ends(rule, 69, {0: tripped, 10: not_clean}) == "open"


def test_a_lost_peg_is_no_smaller_for_a_price_that_is_missing_beside_it(numbers, calm_bars, at):
    def ends(lost):
        pegs = told("depeg", (at(0), 0.0), (at(20), lost, "price of DAI missing"))
        last = decide(calm_bars(20), numbers, pegs=pegs).decisions.filter(rule="collateral_depeg").row(-1, named=True)
        return last["state_after"], last["observed"], last["data_health"]

    assert ends(0.0199) == ("missing", None, "price of DAI missing")
    assert ends(0.02) == ("open", 0.02, "ok")


@pytest.mark.parametrize(("window_min", "said"), [(60, "1-h"), (90, "90-min"), (1440, "24-h")])
def test_the_fund_is_held_against_the_window_of_the_policy_in_words_too(policy_with, calm_bars, at, window_min, said):
    policy = policy_with(inputs__not_published=["positions", "collateral"], fund__window_min=window_min)
    decided = decide(calm_bars(6), policy, fund=told("fund_drawdown", (at(0), 0.3)))
    assert f"is 30.0 % below its {said} maximum" in opened(decided, "fund_drawdown")["reason"]


def test_what_is_known_in_part_never_clears(numbers, calm_bars, at):
    pegs = told("depeg", (at(0), 0.03), (at(10), 0.0, "price of DAI missing"))
    assert state_at_end(calm_bars(100), numbers, "collateral_depeg", pegs=pegs) == "open"


def test_they_say_what_is_wrong_and_bind_every_symbol(numbers, calm_bars, at):
    tables = {"pegs": told("depeg", (at(5), 0.124)), "fund": told("fund_drawdown", (at(0), 0.05), (at(6), 0.3))}
    decided = decide(calm_bars(6, ("A", "B")), numbers, **tables)
    assert opened(decided, "collateral_depeg")["reason"] == (
        "collateral USDC is 12.4 % below its peg; limit is 2.0 %; new positions are paused; "
        "clears after 30 min within 1.0 %"
    )
    assert opened(decided, "fund_drawdown")["reason"] == (
        "the insurance fund is 30.0 % below its 24-h maximum; limit is 15.0 %; new positions are paused; "
        "clears after 30 min within 5.0 %"
    )
    last = decided.limits.filter(ts=at(6))
    assert last["action"].to_list() == ["reduce_only"] * 2
    assert last["binding"].to_list() == ["collateral_depeg"] * 2
    venue = decided.decisions.filter(scope="venue", state_after="open")
    assert venue.select("entity", "rule", "ts").rows() == [
        ("*", "collateral_depeg", at(5)),
        ("*", "fund_drawdown", at(6)),
    ]


def test_a_person_resets_a_rule_of_the_venue_with_the_star(policy_with, calm_bars, at):
    numbers = policy_with(inputs__not_published=["positions", "fund"], breakers_collateral_depeg__reset="person")
    pegs = told("depeg", (at(0), 0.03), (at(10), 0.0))

    def ends(symbol, minute):
        row = {"rule": ["collateral_depeg"], "symbol": [symbol], "ts": [at(minute)], "by": ["risk manager"]}
        return state_at_end(calm_bars(50), numbers, "collateral_depeg", pegs=pegs, resets=pl.DataFrame(row))

    assert [ends("*", 39), ends("*", 38), ends("A", 39)] == ["half_open", "open", "open"]


# --- venue_wide


def diverging(calm_bars, symbols, tripped):
    """`tripped` of the symbols have a mark 3 % off the index in minute 20: their own breaker is reduce_only."""
    sound = calm_bars(20, symbols[tripped:]) if symbols[tripped:] else calm_bars(20).clear()
    return pl.concat([calm_bars(20, symbols[:tripped], {20: {"mark": 97.0}}), sound])


@pytest.mark.parametrize(
    ("symbols", "tripped", "state"),
    [
        # ten symbols: 3 / 10 = .3
        (10, 2, "closed"), (10, 3, "open"), (10, 4, "open"),
        # twenty: 5 / 20 = .25, 6 / 20 = .3
        (20, 5, "closed"), (20, 6, "open"),
        # four count as ten: two of them are 2 / 10, three 3 / 10
        (4, 2, "closed"), (4, 3, "open"), (2, 2, "closed"), (1, 1, "closed"),
    ],
)  # fmt: skip
def test_three_of_ten_symbols_are_the_venue(policy, calm_bars, symbols, tripped, state):
    names = tuple(f"S{i:02}" for i in range(symbols))
    assert state_at_end(diverging(calm_bars, names, tripped), policy, "venue_wide") == state


def test_the_verdict_counts_for_the_symbols_that_are_sound_themselves(policy, calm_bars, at):
    decided = decide(diverging(calm_bars, TEN, 3), policy)
    last = decided.limits.filter(ts=at(20))
    assert last["action"].to_list() == ["reduce_only"] * 10
    assert last["binding"].to_list() == ["mark_index_divergence"] * 3 + ["venue_wide"] * 7
    found = opened(decided, "venue_wide")
    assert (found["scope"], found["entity"], found["observed"], found["threshold"]) == ("venue", "*", 0.3, 0.3)
    assert found["reason"] == (
        "3 of 10 symbols are paused by their own breakers, 30.0 % of at least 10; limit is 30.0 %; "
        "new positions are paused; clears after 15 min within 10.0 %"
    )


def test_it_comes_back_when_one_of_ten_is_left_to_the_minute(policy, calm_bars, at):
    # off the index: A in 20 .. 59, B in 20 .. 25, C in 20 .. 22; each breaker is open for ten minutes, less the
    # first clean one: A up to 68, B up to 34, C up to 31; from 35 on it is one of ten: 34 + 15 = 49, 49 + 15 = 64
    off = {"A": 59, "B": 25, "C": 22}
    bars = pl.concat([
        *(calm_bars(70, (name,), {i: {"mark": 97.0} for i in range(20, last + 1)}) for name, last in off.items()),
        calm_bars(70, TEN[3:]),
    ])  # fmt: skip
    assert states(decide(bars, policy), "venue_wide", at) == [(20, "open"), (49, "half_open"), (64, "closed")]


def test_a_symbol_that_is_gone_counts_neither_way(policy, calm_bars, at):
    gone = calm_bars(5, TEN[:5])
    decided = decide(pl.concat([gone, calm_bars(120, TEN[5:])]), policy)
    by_minute = decided.limits.filter(pl.col("symbol") == "J").select("ts", "action", "binding")
    # silent since minute 6: stale in 10, paused; listed up to minute 65, so five of ten until then
    assert by_minute.filter(ts=at(65)).row(0)[1:] == ("reduce_only", "venue_wide")
    assert states(decided, "venue_wide", at)[-2:] == [(80, "half_open"), (95, "closed")]


def test_a_halt_counts_and_a_caution_does_not(short_policy, calm_bars):
    def ends(change):
        sound = calm_bars(20, TEN[3:])
        return state_at_end(pl.concat([calm_bars(20, TEN[:3], {20: change}), sound]), short_policy, "venue_wide")

    assert ends({"close": 75.0}) == "open"
    assert ends({"index": None}) == "closed"  # missing: cautious


def test_bars_of_a_symbol_named_like_the_venue_are_refused(policy, calm_bars):
    with pytest.raises(ValueError, match=r"`symbol` of bars must be a symbol's name, was \*"):
        decide(calm_bars(3, ("A", "*")), policy)


def test_a_venue_is_judged_by_the_minute_not_by_its_symbols(policy, calm_bars):
    decided = decide(calm_bars(30, TEN), policy)
    assert decided.decisions.filter(scope="venue").height == 4  # each rule once, in the first minute
    assert decided.state.filter(symbol="*").height == 4
    assert "*" not in decided.limits["symbol"].to_list()
    assert (decided.decisions["ts"].max() - decided.decisions["ts"].min()) < timedelta(minutes=30)
