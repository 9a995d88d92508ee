"""The vectorised breaker against a state machine one can read."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.machine import CARRY, NEVER, WAITS, step, waits
from tests.examples import examples

TRIP, CLEAN, BETWEEN, MISSING = "T", "c", "b", "m"
FRESH = {"clean_min": 0, "probation_min": None, "latched": False, "present_min": NEVER}
# (state, signal is a trip, signal is clean, cooled down, reset accepted, probation over) -> next state; None = any
TABLE = (
    ("closed", True, None, None, None, "open"),
    ("closed", False, None, None, None, "closed"),
    ("open", None, None, True, None, "half_open"),
    ("open", None, None, False, None, "open"),
    ("half_open", None, False, None, None, "open"),
    ("half_open", None, True, None, True, "closed"),
    ("half_open", None, True, None, False, "half_open"),
)


def _next(state, *conditions):
    (found,) = {
        row[-1]
        for row in TABLE
        if row[0] == state
        and all(want is None or want == is_so for want, is_so in zip(row[1:-1], conditions, strict=True))
    }
    return found


def slow_machine(signals, resets, rule):
    """One minute after the other: the list of (state, missing held)."""
    state, clean, probation, present, seen = "closed", 0, 0, NEVER, []
    for signal, reset in zip(signals, resets, strict=True):
        clean = clean + 1 if signal == CLEAN else 0
        present = 0 if signal == MISSING else present + 1
        accepted = clean >= rule.cool_down_min and (rule.reset == "timer" or reset)
        after = _next(state, signal == TRIP, signal == CLEAN, accepted, probation + 1 >= rule.probation_min)
        probation = probation + 1 if state == after == "half_open" else 0
        state = after
        seen.append((state, present < rule.missing_hold_min))
    return seen


def frame(signals, resets, symbols=None, carry=FRESH):
    table = pl.DataFrame(
        {
            "rule": ["band"] * len(signals),
            "symbol": symbols or ["A"] * len(signals),
            "trip": [signal == TRIP for signal in signals],
            "clean": [signal == CLEAN for signal in signals],
            "missing": [signal == MISSING for signal in signals],
            "reset": list(resets),
        },
        schema={
            "rule": pl.String,
            "symbol": pl.String,
            **dict.fromkeys(("trip", "clean", "missing", "reset"), pl.Boolean),
        },
    )
    return table.with_columns(pl.lit(carry[name], dtype).alias(name) for name, dtype in CARRY.items())


def stepped(table, rule):
    return step(table.with_columns(pl.lit(value, WAITS[name]).alias(name) for name, value in waits(rule).items()))


def fast_machine(signals, resets, rule):
    return stepped(frame(signals, resets), rule).select("state", "missing_held").rows()


minutes = st.lists(
    st.tuples(st.sampled_from([TRIP, CLEAN, CLEAN, CLEAN, CLEAN, BETWEEN, MISSING]), st.booleans()),
    min_size=1,
    max_size=80,
)
minutes_to_wait = st.integers(1, 5)


@pytest.fixture(scope="module")
def band(policy):
    return policy.breakers["price_band"]


@examples(300)
@given(minutes=minutes, times=st.tuples(*[minutes_to_wait] * 3), reset=st.sampled_from(["timer", "person"]))
def test_the_vectorised_machine_is_the_readable_one(band, minutes, times, reset):
    cool, probation, hold = times
    rule = replace(band, cool_down_min=cool, probation_min=probation, missing_hold_min=hold, reset=reset)
    signals, resets = zip(*minutes, strict=True)
    assert fast_machine(signals, resets, rule) == slow_machine(signals, resets, rule)


@examples(150)
@given(minutes=minutes, cut=st.integers(1, 79), reset=st.sampled_from(["timer", "person"]))
def test_two_runs_over_parts_are_one_run_over_the_whole(band, minutes, cut, reset):
    rule = replace(band, cool_down_min=3, probation_min=2, missing_hold_min=3, reset=reset)
    signals, resets = zip(*minutes, strict=True)
    whole = stepped(frame(signals, resets), rule)
    first = stepped(frame(signals[:cut], resets[:cut]), rule)
    if cut < len(signals):
        carry = first.select(*CARRY).row(-1, named=True)
        second = stepped(frame(signals[cut:], resets[cut:], carry=carry), rule)
        assert pl.concat([first, second]).equals(whole)


@examples(50)
@given(one=minutes, other=minutes)
def test_symbols_do_not_touch_each_other(band, one, other):
    rule = replace(band, cool_down_min=2, probation_min=2, missing_hold_min=2)
    parts = [tuple(zip(*part, strict=True)) for part in (one, other)]
    symbols = ["A"] * len(one) + ["B"] * len(other)
    both = stepped(frame(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1], symbols), rule)
    alone = [fast_machine(*part, rule) for part in parts]
    assert both.select("state", "missing_held").rows() == alone[0] + alone[1]


C, O, H = "closed", "open", "half_open"  # noqa: E741  # the columns of the tables below read better with one letter


@pytest.mark.parametrize(
    ("signals", "states"),
    [
        # cool-down 3, probation 2: three clean minutes reach half_open, two more close
        ("Tccccc", [O, O, O, H, H, C]),
        # a value between exit and enter starts the cool-down again
        ("Tccbccccc", [O, O, O, O, O, O, H, H, C]),
        # a missing input is not clean either
        ("Tccmccc", [O, O, O, O, O, O, H]),
        # probation ends at the first minute that is not clean, and the cool-down starts again
        ("Tcccbcccc", [O, O, O, H, O, O, O, H, H]),
        ("TcccTccc", [O, O, O, H, O, O, O, H]),
        # between exit and enter a closed breaker stays closed; so it does on a missing input, which has its own verdict
        ("cbmbc", [C, C, C, C, C]),
        # tightening is immediate: the minute of the trip is open
        ("ccT", [C, C, O]),
    ],
)
def test_every_time_is_counted_to_the_minute(band, signals, states):
    rule = replace(band, cool_down_min=3, probation_min=2)
    assert [state for state, _ in fast_machine(signals, [False] * len(signals), rule)] == states


@pytest.mark.parametrize(
    ("signals", "resets", "states"),
    [
        # without a person it stays open for ever
        ("Tcccccccc", "         ", [O] * 9),
        # a reset while the cool-down runs (third minute) counts for nothing
        ("Tcccccc", "  x    ", [O] * 7),
        # a reset in the minute the cool-down is complete, or later
        ("Tcccccc", "   x   ", [O, O, O, H, H, C, C]),
        ("Tcccccc", "     x ", [O, O, O, O, O, H, H]),
        # after a relapse the old reset is spent
        ("TcccTccccc", "   x      ", [O, O, O, H, O, O, O, O, O, O]),
        # a reset in a minute that is not clean counts for nothing
        ("TcccTcccc", "    x    ", [O] * 9),
    ],
)
def test_a_kill_waits_for_a_person(band, signals, resets, states):
    rule = replace(band, cool_down_min=3, probation_min=2, reset="person")
    assert [state for state, _ in fast_machine(signals, [mark == "x" for mark in resets], rule)] == states


def test_the_missing_verdict_is_held_to_the_minute(band):
    rule = replace(band, missing_hold_min=2)
    held = [held for _, held in fast_machine("cmccc", [False] * 5, rule)]
    assert held == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("carry", "signals", "seen"),
    [
        # one of the two minutes of probation is over (0: the minute that it began with): one more closes
        ({"probation_min": 0, "latched": True, "clean_min": 3}, "cc", [(H, 1), (C, 2)]),
        ({"probation_min": 1, "latched": True, "clean_min": 4}, "cc", [(C, 2), (C, 3)]),
        # a minute that is not clean opens it again, as if there had been no probation
        ({"probation_min": 1, "latched": True, "clean_min": 4}, "bc", [(O, None), (O, None)]),
        # two of the three minutes of cool-down are over
        ({"probation_min": None, "latched": True, "clean_min": 2}, "cc", [(H, 0), (H, 1)]),
        ({"probation_min": None, "latched": True, "clean_min": 1}, "cc", [(O, None), (H, 0)]),
        ({"probation_min": None, "latched": False, "clean_min": 9}, "cb", [(C, 0), (C, None)]),
    ],
)
def test_what_the_minute_before_left_behind_counts(band, carry, signals, seen):
    rule = replace(band, cool_down_min=3, probation_min=2)
    found = stepped(frame(signals, [False] * len(signals), carry=FRESH | carry), rule)
    assert found.select("state", "probation_min").rows() == seen


def test_a_missing_minute_before_the_first_is_still_held(band):
    rule = replace(band, missing_hold_min=3)
    found = stepped(frame("ccc", [False] * 3, carry=FRESH | {"present_min": 1}), rule)
    # present for 2, 3 and 4 minutes: held while below 3
    assert found.select("missing_held", "present_min").rows() == [(True, 2), (False, 3), (False, 4)]


def test_nothing_but_state_and_carry_is_added(band):
    signals = frame("cTc", [False] * 3)
    assert set(stepped(signals, band).columns) == {*signals.columns, *WAITS, "state", "missing_held"}


def test_the_table_has_exactly_one_answer_for_every_situation():
    for state in (C, O, H):
        for number in range(16):
            _next(state, *(bool(number >> bit & 1) for bit in range(4)))
