"""What each data fault blocks: every cell of the table, and how a fault is told from the facts."""

import math
from itertools import product

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.decide import decide
from guardrails.facts import KEY, market_facts
from guardrails.validity import ACTIONS, PAIRS, blocked, blocks, faults, with_validity
from tests.examples import examples

# Typed out by hand, not read from the code: raise leverage, open, reduce, liquidate, loosen, tighten.
CELLS = """
outage         price           x x x x x .
outage         mark            x x x x x .
outage         index           x x x x x .
outage         depth           x x x x x .
outage         open interest   x x x x x .
non-positive   price           x x x x x .
non-positive   mark            x x . x x .
non-positive   index           x . . . x .
non-positive   depth           x . . . x .
non-positive   open interest   x . . . x .
non-positive   positions       x x . x x .
non-positive   collateral      x x . x x .
insufficient   price           x x x x x .
insufficient   mark            x x . x x .
insufficient   index           x . . . x .
insufficient   depth           x . . . x .
insufficient   open interest   x . . . x .
insufficient   price history   x . . . x .
insufficient   depth history   x . . . x .
insufficient   positions       x x . x x .
insufficient   collateral      x x . x x .
stale          price           x x . . x .
stale          mark            x x . x x .
stale          index           x . . . x .
stale          depth           x . . . x .
stale          open interest   x . . . x .
stale          positions       x x . x x .
stale          collateral      x x . x x .
crossed        depth           x x . . x .
frozen         depth           x x . . x .
too uncertain  mark            x x . x x .
too volatile   price           x x . . x .
"""
ROWS = {
    (line[:15].strip(), line[15:31].strip()): dict(zip(ACTIONS, (x == "x" for x in line[31:].split()), strict=True))
    for line in CELLS.strip().splitlines()
}


@pytest.mark.parametrize(("fault", "name", "action"), [(*pair, action) for pair in ROWS for action in ACTIONS])
def test_every_cell_is_as_it_was_typed_by_hand(fault, name, action):
    assert blocks(fault, name, action) == ROWS[fault, name][action]


def test_the_hand_typed_table_is_the_whole_table():
    assert sorted(ROWS) == sorted((row.name, name) for row, name in PAIRS)
    assert len(PAIRS) == 32


def test_tightening_is_never_blocked_and_what_loosens_always_is():
    for cells in ROWS.values():
        assert (cells["tighten"], cells["loosen"], cells["raise leverage"]) == (False, True, True)


def test_reducing_is_blocked_only_where_there_is_no_price_at_all():
    silent = {pair for pair, cells in ROWS.items() if cells["reduce"]}
    assert {fault for fault, _ in silent} == {"outage", "non-positive", "insufficient"}
    assert {name for fault, name in silent if fault != "outage"} == {"price"}


@pytest.mark.parametrize("asked", [("stale", "weather", "open"), ("odd", "mark", "open"), ("stale", "mark", "pray")])
def test_what_the_table_does_not_hold_is_an_error(asked):
    with pytest.raises(ValueError, match="must be one"):
        blocks(*asked)


# --- how a fault is told from the facts


def found_after(policy, bars, minute, **more):
    facts = market_facts(bars, policy).filter(ts=minute).with_columns(**more)
    row = faults(facts, policy).drop(KEY).row(0, named=True)
    return {name for name, holds in row.items() if holds}, blocked(faults(facts, policy)).row(0, named=True)


TOLD = [
    ("price stale", {"trade_age_s": 301.0}),
    ("price stale", {"trade_age_s": None}),
    ("price non-positive", {"close": 0.0}),
    ("price non-positive", {"close": math.nan}),
    ("price non-positive", {"close": -1.0}),
    ("price non-positive", {"close": 1e300}),
    ("price insufficient", {"close": None}),
    ("mark stale", {"mark_age_s": 61.0}),
    ("mark non-positive", {"mark": -1.0}),
    ("index stale", {"index_age_s": 301.0}),
    ("index non-positive", {"index": math.inf}),
    ("index insufficient", {"index": None}),
    ("depth stale", {"depth_age_s": 121.0}),
    ("depth non-positive", {"depth_bid_100bps_usd": -1.0}),
    ("depth insufficient", {"depth_ask_100bps_usd": None}),
    ("depth insufficient", {"book_rows_crossed": None}),
    ("depth crossed", {"book_rows_crossed": 1}),
    ("depth frozen", {"book_rows_frozen": 1}),
    ("depth frozen", {"depth_unchanged_s": 301.0}),
    ("open interest stale", {"oi_age_s": 901.0}),
    ("open interest non-positive", {"oi_usd": -1.0}),
    ("open interest insufficient", {"oi_usd": None}),
]


@pytest.mark.parametrize(("fault", "change"), TOLD)
def test_a_fault_of_an_input_is_told_by_its_name(short_policy, calm_bars, at, fault, change):
    told, _ = found_after(short_policy, calm_bars(20, changes={20: change}), at(20))
    assert fault in told
    assert {name for name in told if name.split()[0] == fault.split()[0]} == {fault}


def test_a_fault_is_told_or_not_and_never_null(short_policy, calm_bars):
    """The first minute has no volatility and no depth to compare with; the second table has no flags of the book."""
    facts = market_facts(calm_bars(1), short_policy)
    unflagged = facts.with_columns(pl.lit(None, pl.Boolean).alias(name) for name in ("crossed", "frozen"))
    for table in (facts, unflagged):
        found = faults(table, short_policy).drop(KEY)
        assert found.null_count().row(0) == (0,) * found.width


def test_a_calm_minute_has_no_fault_and_blocks_nothing(short_policy, calm_bars, at):
    told, row = found_after(short_policy, calm_bars(20), at(20))
    assert told == set()
    assert (row["blocked"], row["blocked_why"], *(row[action] for action in ACTIONS)) == (None, None, *[False] * 6)


@pytest.mark.parametrize(
    ("mark", "told"),
    # index 100, limit 10 %
    [(90.1, False), (90.0, False), (89.9, True), (109.9, False), (110.0, False), (110.1, True)],
)
def test_a_mark_is_too_uncertain_beyond_its_distance_from_the_index(short_policy, calm_bars, at, mark, told):
    found, row = found_after(short_policy, calm_bars(20, changes={20: {"mark": mark}}), at(20))
    assert ("mark too uncertain" in found) == told
    assert row["liquidate"] == told


@pytest.mark.parametrize(("step", "told"), [(0.0160, False), (0.01613, False), (0.01615, True), (0.02, True)])
def test_a_price_is_too_volatile_beyond_its_standard_deviation_of_an_hour(short_policy, calm_bars, at, step, told):
    # a log return of the same size every minute: sd of an hour = step x sqrt(60); 0.125 / sqrt(60) = 0.016137
    changes = {i: {"close": 100 * math.exp(step * (i % 2))} for i in range(1, 21)}
    found, row = found_after(short_policy, calm_bars(20, changes=changes), at(20))
    assert ("price too volatile" in found) == told
    assert (row["open"], row["reduce"], row["liquidate"]) == (told, False, False)


def test_a_volatility_at_the_limit_is_not_above_it(policy_with, short_policy, calm_bars, at):
    bars = calm_bars(20, changes={i: {"close": 100 * math.exp(0.02 * (i % 2))} for i in range(1, 21)})
    row = market_facts(bars, short_policy).filter(ts=at(20))
    value = row["volatility_1h"].item()
    for limit, told in ((value, False), (math.nextafter(value, 0), True)):
        assert faults(row, policy_with(validity__volatility_1h_max=limit))["price too volatile"].item() == told


def test_a_divergence_that_nobody_can_tell_is_too_uncertain_unless_another_fault_says_why(short_policy, calm_bars, at):
    unknown = {"divergence": pl.lit(None, pl.Float64)}
    assert found_after(short_policy, calm_bars(20), at(20), **unknown)[0] == {"mark too uncertain"}
    told, _ = found_after(short_policy, calm_bars(20, changes={20: {"index": None}}), at(20))
    assert told == {"index insufficient"}
    for value in (math.nan, math.inf):
        assert found_after(short_policy, calm_bars(20), at(20), divergence=pl.lit(value))[0] == {"mark too uncertain"}


def test_one_fault_of_the_book_does_not_hide_another(short_policy, calm_bars, at):
    changes = {20: {"depth_age_s": 999.0, "book_rows_crossed": 1, "depth_unchanged_s": 999.0}}
    told, row = found_after(short_policy, calm_bars(20, changes=changes), at(20))
    assert told == {"depth stale", "depth crossed", "depth frozen"}
    assert row["open"]


def test_histories_are_insufficient_until_half_their_windows_are_there(short_policy, calm_bars, at):
    # 10 minutes each: 5 returns are there in minute 6, 5 depths before minute 6
    bars = calm_bars(20)
    for minute, told in ((5, {"price history insufficient", "depth history insufficient"}), (6, set())):
        assert found_after(short_policy, bars, at(minute))[0] == told


def test_a_minute_without_a_bar_is_an_outage_and_says_that_alone(short_policy, calm_bars, at):
    bars = calm_bars(20, ("A", "B")).filter((pl.col("symbol") == "A") | (pl.col("ts") < at(20)))
    facts = market_facts(bars, short_policy).filter(pl.col("symbol") == "B", pl.col("ts") == at(20))
    found = faults(facts, short_policy)
    held = {name for name, holds in found.drop(KEY).row(0, named=True).items() if holds}
    assert held == {f"{name} outage" for name in ("price", "mark", "index", "depth", "open interest")}
    told = blocked(found).row(0, named=True)
    assert told["blocked"] == "raise leverage, open, reduce, liquidate, loosen"
    assert told["blocked_why"].startswith("outage, no bar in this minute (there is no price at all")


@pytest.mark.parametrize("name", ["positions", "collateral"])
def test_facts_about_accounts_are_judged_where_they_are_given(short_policy, calm_bars, at, name):
    for word, fault in (("stale", "stale"), ("invalid", "non-positive"), ("missing", "insufficient")):
        given = {f"{name}_fault": pl.lit(f"{name} {word}")}
        told, row = found_after(short_policy, calm_bars(20), at(20), **given)
        assert told == {f"{name} {fault}"}
        assert row["blocked"] == "raise leverage, open, liquidate, loosen"


@pytest.mark.parametrize("words", ["mark sabotaged", "mark crossed", "mark frozen", ""])
def test_a_fault_that_the_table_does_not_hold_is_insufficient(short_policy, calm_bars, at, words):
    told, _ = found_after(short_policy, calm_bars(20), at(20), mark_fault=pl.lit(words))
    assert told == {"mark insufficient"}


# --- what it blocks


@pytest.mark.parametrize(("fault", "name"), ROWS)
def test_a_fault_alone_blocks_its_cells_and_says_so(short_policy, calm_bars, at, fault, name):
    facts = market_facts(calm_bars(20), short_policy).filter(ts=at(20))
    calm = faults(facts, short_policy)
    row = blocked(calm.with_columns(pl.lit(True).alias(f"{name} {fault}"))).row(0, named=True)
    assert {action: row[action] for action in ACTIONS} == ROWS[fault, name]
    assert row["blocked"] == ", ".join(action for action in ACTIONS if ROWS[fault, name][action])
    verb = "are" if name == "positions" else "is"
    assert fault == "outage" or f"{name} {verb} {fault} (" in row["blocked_why"]


@examples(40)
@given(given_=st.sets(st.sampled_from(sorted(ROWS))), more=st.sampled_from(sorted(ROWS)))
def test_another_fault_never_allows_more(short_policy, calm_bars, at, given_, more):
    facts = market_facts(calm_bars(12), short_policy).filter(ts=at(12))

    def held(pairs):
        flags = [pl.lit(True).alias(f"{name} {fault}") for fault, name in pairs]
        row = blocked(faults(facts, short_policy).with_columns(flags)).row(0, named=True)
        return {action for action in ACTIONS if row[action]}

    assert held(given_ | {more}) == held(given_) | held({more})


def test_limits_carry_what_is_blocked_and_why_in_their_own_order(short_policy, messy_bars):
    bars = messy_bars(5, 300)
    limits, facts = decide(bars, short_policy).limits, market_facts(bars, short_policy)
    again = with_validity(
        limits.drop("blocked", "blocked_why"), facts.sample(fraction=1, shuffle=True, seed=1), short_policy
    )
    assert again.equals(limits)
    assert limits.columns[-2:] == ["blocked", "blocked_why"]
    assert limits["blocked"].n_unique() >= 4
    assert limits["blocked"].is_null().equals(limits["blocked_why"].is_null())
    assert limits["blocked"].null_count() > 100


def test_limits_without_facts_are_blocked_as_in_an_outage(short_policy, calm_bars):
    bars = calm_bars(5)
    limits = decide(bars, short_policy).limits.drop("blocked", "blocked_why")
    bare = with_validity(limits, market_facts(bars, short_policy).clear(), short_policy)
    assert set(bare["blocked"]) == {"raise leverage, open, reduce, liquidate, loosen"}


def test_every_action_and_pair_is_tested():
    assert len(list(product(ROWS, ACTIONS))) == 192
