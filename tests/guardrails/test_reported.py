"""Whether positions and collateral can be relied on: missing, stale, invalid, to the minute, and what that blocks."""

import math
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.decide import decide
from guardrails.reported import collateral_fault, positions_fault, with_account_faults

UTC_US = pl.Datetime("us", "UTC")
POSITIONS = {"account": pl.String, "symbol": pl.String, "ts": UTC_US, "known_at": UTC_US, "qty": pl.Float64,
             "entry_price": pl.Float64, "margin_mode": pl.String, "isolated_margin": pl.Float64}  # fmt: skip
COLLATERAL = {"account": pl.String, "asset": pl.String, "ts": UTC_US, "known_at": UTC_US, "amount": pl.Float64}


@pytest.fixture(scope="module")
def both_told(policy_with):
    return policy_with(inputs__not_published=["fund"])


def held(at, *rows):
    """Positions (symbol, minute of the snapshot, minute in which it is known, size)."""
    told = [
        {"account": "a", "symbol": symbol, "ts": at(ts), "known_at": at(known), "qty": qty, "entry_price": 100.0,
         "margin_mode": "cross", "isolated_margin": None}
        for symbol, ts, known, qty in rows
    ]  # fmt: skip
    return pl.DataFrame(told, schema=POSITIONS)


def deposited(at, *rows):
    """Collateral (minute in which it is known, amount)."""
    told = [
        {"account": f"a{row}", "asset": "USDT", "ts": at(known - 1 - row), "known_at": at(known), "amount": amount}
        for row, (known, amount) in enumerate(rows)
    ]
    return pl.DataFrame(told, schema=COLLATERAL)


def keys(at, minutes, symbols=("A",)):
    rows = [{"symbol": symbol, "ts": at(minute)} for symbol in symbols for minute in minutes]
    return pl.DataFrame(rows, schema={"symbol": pl.String, "ts": UTC_US})


def test_positions_are_missing_until_a_snapshot_is_known_and_stale_when_it_is_too_old(both_told, at):
    # known at minute 5, of minute 3; at most 60 minutes old: good up to minute 63 to the last microsecond of its minute
    told = positions_fault(keys(at, (4, 5, 63, 64)), held(at, ("A", 3, 5, 1.0)), both_told)
    assert told.to_list() == ["positions missing", None, None, "positions stale"]


def test_a_snapshot_counts_once_all_of_it_is_known(both_told, at):
    rows = held(at, ("A", 3, 4, 1.0), ("B", 3, 6, 1.0))
    told = positions_fault(keys(at, (4, 5, 6, 7)), rows, both_told)
    assert told.to_list() == ["positions missing", "positions missing", None, None]


@pytest.mark.parametrize("size", [None, math.nan, math.inf])
def test_a_position_without_a_size_is_at_fault_in_its_symbol_alone_until_the_next_snapshot(both_told, at, size):
    rows = held(at, ("A", 3, 3, size), ("B", 3, 3, 1.0), ("A", 8, 8, 2.0), ("B", 8, 8, 1.0))
    told = positions_fault(keys(at, (3, 7, 8), ("A", "B", "C")), rows, both_told)
    assert told.to_list() == ["positions invalid", "positions invalid", None, *[None] * 6]


def test_collateral_is_missing_until_it_is_known_and_stale_a_day_later(both_told, at):
    # at most 1440 minutes old
    told = collateral_fault(keys(at, (4, 5, 1445, 1446)), deposited(at, (5, 10.0)), both_told)
    assert told.to_list() == ["collateral missing", None, None, "collateral stale"]


@pytest.mark.parametrize("amount", [None, math.nan, -math.inf])
def test_a_report_with_an_amount_that_is_no_number_is_invalid_until_the_next_report(both_told, at, amount):
    rows = deposited(at, (2, 10.0), (5, 10.0), (5, amount), (9, 10.0))
    told = collateral_fault(keys(at, (4, 5, 8, 9)), rows, both_told)
    assert told.to_list() == [None, "collateral invalid", "collateral invalid", None]


def test_a_debt_is_a_number(both_told, at):
    assert collateral_fault(keys(at, (5,)), deposited(at, (5, -10.0)), both_told).to_list() == [None]


@pytest.mark.parametrize("given_", [None, "empty"])
def test_no_table_is_missing_unless_the_policy_says_that_it_is_not_published(both_told, policy_with, at, given_):
    positions = None if given_ is None else held(at)
    collateral = None if given_ is None else deposited(at)
    rows = with_account_faults(keys(at, (1, 2)), positions, collateral, both_told)
    assert rows["positions_fault"].to_list() == ["positions missing"] * 2
    assert rows["collateral_fault"].to_list() == ["collateral missing"] * 2
    silent = policy_with(inputs__not_published=["positions", "collateral"])
    told = with_account_faults(keys(at, (1, 2)), held(at, ("A", 1, 1, None)), deposited(at, (1, None)), silent)
    assert told.select("positions_fault", "collateral_fault").rows() == [(None, None)] * 2


@given(order=st.permutations(range(6)), cut=st.integers(1, 6))
def test_the_order_of_rows_is_irrelevant_and_so_is_what_comes_later(both_told, at, order, cut):
    positions = held(at, ("A", 1, 1, 1.0), ("B", 1, 1, None), ("A", 3, 3, math.nan), ("B", 3, 3, 1.0), ("A", 5, 5, 2.0),
                     ("B", 5, 5, 1.0))  # fmt: skip
    collateral = deposited(at, (1, 1.0), (2, None), (2, 1.0), (4, 1.0), (4, math.nan), (6, 1.0))
    asked = keys(at, range(1, 7), ("A", "B"))
    whole = with_account_faults(asked, positions, collateral, both_told)
    assert set(whole["positions_fault"]) == {None, "positions invalid"}
    assert set(whole["collateral_fault"]) == {None, "collateral invalid"}
    mixed = with_account_faults(asked, positions[order], collateral[order], both_told)
    assert mixed.equals(whole)
    until = pl.col("ts") <= at(cut)
    past = [table.filter(pl.col("known_at") <= at(cut)) for table in (positions, collateral)]
    assert with_account_faults(asked.filter(until), *past, both_told).equals(whole.filter(until))


def test_limits_say_that_nobody_is_sold_on_positions_that_nobody_knows(short_policy_with, calm_bars, at):
    policy = short_policy_with(inputs__not_published=["fund", "collateral"])
    limits = decide(calm_bars(80), policy, positions=held(at, ("A", 12, 12, 1.0))).limits
    blocked = dict(limits.select("ts", "blocked").rows())
    forced = "raise leverage, open, liquidate, loosen"
    assert blocked[at(11)] == forced
    assert blocked[at(12)] is None
    assert blocked[at(72)] is None
    assert blocked[at(73)] == forced
    why = limits.filter(ts=at(73))["blocked_why"].item()
    assert why == "positions are stale (nobody is sold on a position or a margin that nobody knows; a holder may close)"
    assert limits["ts"].max() - limits["ts"].min() == timedelta(minutes=79)
