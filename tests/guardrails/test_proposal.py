"""A model's wish can tighten within its bounds, for a while, and can do nothing else."""

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.proposal import SCHEMA, bounded

T = datetime(2026, 1, 5, 12, tzinfo=UTC)
HARD = (50.0, 20.0, 5.0, 2.0, 1.0)


def limits(*caps, symbol="A"):
    rows = {
        "venue": "v",
        "symbol": symbol,
        "leverage_cap": list(caps),
        "ts": [T + timedelta(minutes=i) for i in range(len(caps))],
    }
    return pl.DataFrame(rows, schema_overrides={"ts": pl.Datetime("us", "UTC"), "leverage_cap": pl.Float64})


def proposals(*rows):
    """(wish, proposed at minute, valid until minute)."""
    return pl.DataFrame(
        [
            {"venue": "v", "symbol": "A", "ts": T + timedelta(minutes=at), "leverage_cap_wish": wish,
             "proposed_at": T + timedelta(minutes=at), "valid_until": T + timedelta(minutes=until)}
            for wish, at, until in rows
        ],
        schema=SCHEMA,
    )  # fmt: skip


def effective(table, *rows, policy):
    found = bounded(table, proposals(*rows), policy)
    return list(zip(found["leverage_cap_effective"], found["proposal"], strict=True))


@pytest.mark.parametrize(
    ("wish", "cap", "word"),
    [
        # hard 20x; a wish may take away half: not below 10x
        (15.0, 15.0, "taken"),
        (10.0, 10.0, "taken"),
        (9.9, 10.0, "bounded"),
        (1e-9, 10.0, "bounded"),
        (20.0, 20.0, "no tighter"),
        (125.0, 20.0, "no tighter"),
        (0.0, 20.0, "unusable"),
        (-5.0, 20.0, "unusable"),
        (None, 20.0, "unusable"),
        (math.nan, 20.0, "unusable"),
        (math.inf, 20.0, "unusable"),
        (-math.inf, 20.0, "unusable"),
    ],
)
def test_a_wish_is_bounded_by_the_hard_cap_and_half_of_it(policy, wish, cap, word):
    assert effective(limits(20.0), (wish, 0, 10), policy=policy) == [(cap, word)]


def test_a_wish_never_reaches_zero(policy):
    # half of 1x would be 0.5x, the least is 1x
    assert effective(limits(1.0, 2.0), (0.01, 0, 10), policy=policy) == [(1.0, "bounded"), (1.0, "bounded")]


def test_a_proposal_ends_when_it_says_so_and_at_the_latest_after_its_time_to_live(policy):
    found = effective(limits(*[20.0] * 40), (15.0, 2, 5), policy=policy)
    assert [cap for cap, _ in found[:8]] == [20, 20, 15, 15, 15, 15, 20, 20]
    assert [word for _, word in found[:8]] == ["none"] * 2 + ["taken"] * 4 + ["expired"] * 2
    forever = effective(limits(*[20.0] * 40), (15.0, 2, 10_000), policy=policy)
    # 30 minutes to live: minutes 2 to 32
    assert [cap for cap, _ in forever] == [20.0] * 2 + [15.0] * 31 + [20.0] * 7


def test_the_newest_proposal_counts_and_an_unusable_one_does_not_revive_an_older(policy):
    found = effective(limits(*[20.0] * 4), (12.0, 0, 30), (15.0, 1, 30), (math.nan, 2, 30), policy=policy)
    assert found == [(12.0, "taken"), (15.0, "taken"), (20.0, "unusable"), (20.0, "unusable")]


def test_steps_do_not_add_up(policy):
    found = effective(limits(*[20.0] * 5), *((0.1, i, 30) for i in range(5)), policy=policy)
    assert [cap for cap, _ in found] == [10.0] * 5


def test_a_proposal_waits_for_its_delay(policy_with):
    found = effective(limits(*[20.0] * 4), (15.0, 0, 30), policy=policy_with(proposal__delay_min=2))
    assert [cap for cap, _ in found] == [20.0, 20.0, 15.0, 15.0]


def test_a_score_from_the_future_and_another_symbols_proposal_have_no_effect(policy):
    later = proposals((10.0, 0, 30)).with_columns(ts=pl.col("ts") + pl.duration(minutes=1))
    assert bounded(limits(20.0, 20.0), later, policy)["leverage_cap_effective"].to_list() == [20.0, 20.0]
    assert effective(limits(20.0, symbol="B"), (10.0, 0, 30), policy=policy) == [(20.0, "none")]


wishes = st.one_of(st.none(), st.floats())
moments = st.integers(-50, 60)
row = st.tuples(wishes, moments, moments)


@settings(max_examples=150, deadline=None)
@given(caps=st.lists(st.sampled_from(HARD), min_size=1, max_size=30), rows=st.lists(row, max_size=8))
def test_no_proposal_ever_loosens_a_hard_limit_or_tightens_beyond_its_bounds(policy, caps, rows):
    table = limits(*caps)
    found = bounded(table, proposals(*rows), policy)
    assert found.select(table.columns).equals(table)
    assert found["leverage_cap_hard"].to_list() == caps
    for hard, soft in found.select("leverage_cap_hard", "leverage_cap_effective").rows():
        assert soft is not None
        assert min(hard, max(hard * 0.5, 1.0)) <= soft <= hard


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=8), order=st.randoms())
def test_the_order_of_proposals_is_irrelevant(policy, rows, order):
    mixed = list(rows)
    order.shuffle(mixed)
    table = limits(*[20.0] * 30)
    one, other = (bounded(table, proposals(*given_rows), policy) for given_rows in (rows, mixed))
    if len({at for _, at, _ in rows}) == len(rows):
        assert one.equals(other)
    assert one["leverage_cap_hard"].equals(other["leverage_cap_hard"])


def test_the_effective_cap_moves_at_all(policy):
    assert effective(limits(50.0, 20.0), (15.0, 0, 30), policy=policy) == [(25.0, "bounded"), (15.0, "taken")]


def test_limits_keep_their_order_and_no_proposals_change_nothing(policy):
    table = limits(*HARD).sort("ts", descending=True)
    found = bounded(table, pl.DataFrame(schema=SCHEMA), policy)
    assert found.select(table.columns).equals(table)
    assert found["leverage_cap_effective"].to_list() == table["leverage_cap"].to_list()
