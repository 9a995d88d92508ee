"""Symbols that follow a lead."""

import polars as pl
import pytest

from guardrails.decide import decide


@pytest.fixture(scope="module")
def following(short_policy_with):
    def leading(**leads):
        return short_policy_with(associated__leads=leads)

    return leading


def moved(calm_bars, symbols, minutes=20, **changes):
    """Calm bars of `symbols`, with `{minute: change}` for those that are named."""
    return pl.concat([calm_bars(minutes, (name,), changes.get(name)) for name in symbols])


OFF = {20: {"mark": 97.0}}  # 3 % from the index: reduce_only by mark_index_divergence


def actions(decided, at, minute):
    return dict(decided.limits.filter(ts=at(minute)).select("symbol", "action").rows())


def test_what_follows_is_paused_with_its_lead_and_says_why(following, calm_bars, at):
    decided = decide(moved(calm_bars, "ABC", A=OFF), following(A=["B"]))
    assert actions(decided, at, 20) == {"A": "reduce_only", "B": "reduce_only", "C": "normal"}
    row = decided.limits.filter(ts=at(20), symbol="B").row(0, named=True)
    assert (row["binding"], row["reason"]) == (
        "associated",
        "its lead A is reduce_only by mark_index_divergence; limit is reduce_only; new positions are paused; "
        "clears after its lead",
    )
    found = decided.decisions.filter(rule="associated", state_after="open").row(0, named=True)
    assert (found["scope"], found["entity"], found["ts"]) == ("symbol", "B", at(20))
    assert (found["action"], found["limit_after"], found["reset_authority"]) == ("reduce_only", 0.0, "the lead's")
    assert found["clears_when"] == "clears when the breakers of A are milder than reduce_only"


def test_it_clears_in_the_minute_in_which_its_lead_is_milder(following, calm_bars, at):
    decided = decide(moved(calm_bars, "AB", 40, A=OFF), following(A=["B"]))
    # the lead is open 20 .. 29 and on probation, cautious, from 30 on
    rows = decided.decisions.filter(rule="associated", entity="B").select("ts", "state_after").rows()
    assert rows == [(at(1), "closed"), (at(20), "open"), (at(30), "closed")]


def test_what_follows_never_leads(following, calm_bars, at):
    decided = decide(moved(calm_bars, "ABC", A=OFF), following(A=["B"], B=["C", "A"]))
    assert actions(decided, at, 20) == {"A": "reduce_only", "B": "reduce_only", "C": "normal"}


def test_the_strictest_of_several_leads_decides_then_the_first_by_name(following, calm_bars, at):
    bars = moved(calm_bars, "ABCZ", A=OFF, B={20: {"close": 75.0}}, C=OFF)
    numbers = following(A=["Z"], C=["Z"])
    assert "its lead A is reduce_only" in decide(bars, numbers).limits.filter(ts=at(20), symbol="Z")["reason"].item()
    numbers = following(A=["Z"], B=["Z"], C=["Z"], M=["Z"])
    row = decide(bars, numbers).limits.filter(ts=at(20), symbol="Z").row(0, named=True)
    assert "its lead B is halted by price_halt" in row["reason"]
    assert row["action"] == "reduce_only"  # at least the action of `associated`: the halt is the lead's own


def test_a_lead_without_bars_is_missing_and_the_safe_side(following, calm_bars, at):
    decided = decide(moved(calm_bars, "AB"), following(M=["B"], A=["B"]))
    row = decided.limits.filter(ts=at(20), symbol="B").row(0, named=True)
    assert (row["action"], row["binding"], row["missing"]) == ("cautious", "associated", "lead M missing")
    assert "lead M missing; safe side: new positions only up to the leverage floor" in row["reason"]
    assert actions(decided, at, 20)["A"] == "normal"
    assert decided.decisions.filter(rule="associated", entity="B")["clears_when"].to_list() == [
        "clears when M has bars again"
    ]


def test_a_lead_that_is_only_cautious_leads_nobody(following, calm_bars, at):
    decided = decide(moved(calm_bars, "AB", A={20: {"index": None}}), following(A=["B"]))
    assert actions(decided, at, 20) == {"A": "cautious", "B": "normal"}


def test_a_symbol_under_its_own_stricter_rule_keeps_it(following, calm_bars, at):
    decided = decide(moved(calm_bars, "AB", A=OFF, B={20: {"close": 75.0}}), following(A=["B"]))
    assert actions(decided, at, 20)["B"] == "halted"


def test_a_policy_may_give_what_follows_a_milder_action(short_policy_with, calm_bars, at):
    numbers = short_policy_with(associated__leads={"A": ["B"]}, associated__action="cautious")
    row = decide(moved(calm_bars, "AB", A=OFF), numbers).limits.filter(ts=at(20), symbol="B").row(0, named=True)
    assert (row["action"], row["leverage_cap"]) == ("cautious", 2.0)
