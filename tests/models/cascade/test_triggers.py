"""Which leg brings an account to liquidation: the worked example, hedges, collateral, order."""

import numpy as np
import polars as pl
import pytest

from models.cascade.triggers import SCHEMA, triggers
from models.cascade.world import Books, World
from tests.models.cascade.graph_worlds import random_world, world

CORRELATION = np.array([[1.0, 0.8], [0.8, 1.0]])


def _seed_world() -> World:
    """Equity 6,000; 100,000 of A (2 %) and 10,000 of B (10 %)."""
    return World(
        symbols=("A", "B"), price_usd=np.array([100.0, 10.0]),
        books=Books(np.array([1e7, 1e6]), ("flat", "flat"), np.full(2, np.inf)), spill=np.eye(2),
        rates=np.array([[0.02, 0.1]]), deductions=np.zeros((1, 2)), cash_usd=np.array([6_000.0]),
        leg_start=np.array([0, 2]), leg_symbol=np.array([0, 1]), leg_qty=np.array([1_000.0, 1_000.0]),
        leg_entry=np.array([100.0, 10.0]), leg_closable=np.array([True, True]), account=np.array([0]),
        account_names=("seed",),
    )  # fmt: skip


def test_a_small_position_in_a_correlated_contract_is_the_trigger() -> None:
    rows = triggers(_seed_world(), np.array([0.008, 0.06]), CORRELATION).sort("leg")
    # room 6,000 - 2,000 - 1,000 = 3,000; sd sqrt(800^2 + 600^2 + 2 * .8 * 800 * 600) = 1,329.6616
    assert rows["distance_sd"].to_list() == pytest.approx([2.256213] * 2, abs=5e-7)
    # risk: (640,000 + 384,000) and (360,000 + 384,000) of 1,768,000
    assert rows["share_of_risk"].to_list() == pytest.approx([0.579186, 0.420814], abs=5e-7)
    assert rows["share_of_notional"].to_list() == pytest.approx([10 / 11, 1 / 11])
    # without B: room 4,000, sd 800: 5.0; 1 - 2.256213 / 5 = 55 %. Without A: 5,000 / 600 = 8.333333: 73 %
    assert rows["distance_sd_without"].to_list() == pytest.approx([25 / 3, 5.0])
    assert rows["share_of_distance"].to_list() == pytest.approx([0.729254, 0.548757], abs=5e-7)


def test_the_leg_that_takes_the_most_comes_first_and_is_marked() -> None:
    rows = triggers(_seed_world(), np.array([0.008, 0.06]), CORRELATION)
    assert rows["leg"].to_list() == ["A", "B"]
    assert rows["trigger"].to_list() == [True, False]
    assert rows.schema == SCHEMA


def test_accounts_are_told_from_the_nearest_on_and_only_as_many_as_asked_for() -> None:
    near, far = (1_100.0, [(0, 1_000.0)]), (5_000.0, [(0, 1_000.0)])
    made = world([far, near], [1e7])
    sd = np.array([0.01])
    # room 100 and 4,000 over 100,000 * .01 = 1,000
    rows = triggers(made, sd, np.eye(1))
    assert rows.select("account", "distance_sd").rows() == [("a001", pytest.approx(0.1)), ("a000", pytest.approx(4.0))]
    assert triggers(made, sd, np.eye(1), 1)["account"].to_list() == ["a001"]


def test_collateral_carries_risk_but_no_notional_and_is_no_trigger() -> None:
    made = world([(3_000.0, [(0, 1_000.0), (1, 900.0, False)])], [1e7, 1e7])
    rows = triggers(made, np.array([0.01, 0.02]), np.eye(2)).sort("leg")
    assert rows["collateral"].to_list() == [False, True]
    assert rows["share_of_notional"].to_list() == [1.0, 0.0]
    assert rows["share_of_risk"][1] == pytest.approx(1.8**2 / (1 + 1.8**2))
    assert rows["trigger"].to_list() == [True, False]


def test_a_hedge_takes_no_distance() -> None:
    made = world([(3_000.0, [(0, 1_000.0), (1, -500.0)])], [1e7, 1e7])
    rows = triggers(made, np.array([0.01, 0.01]), np.array([[1.0, 0.95], [0.95, 1.0]])).sort("leg")
    assert rows["share_of_distance"][1] < 0 < rows["share_of_distance"][0]
    assert rows["share_of_risk"].sum() == pytest.approx(1.0)


def test_units_without_risk_have_no_rows() -> None:
    made = world([(3_000.0, [(0, 1_000.0)])], [1e7])
    assert triggers(made, np.array([0.0]), np.eye(1)).is_empty()


@pytest.mark.parametrize("seed", range(3))
def test_shares_add_up_and_each_unit_has_at_most_one_trigger(seed: int) -> None:
    made = random_world(seed)
    rows = triggers(made, np.array([0.01, 0.02, 0.03, 0.04]), np.full((4, 4), 0.5) + 0.5 * np.eye(4))
    sums = rows.group_by("unit").agg(pl.col("share_of_notional", "share_of_risk", "trigger").sum())
    assert sums.height == made.units
    assert sums["share_of_notional"].to_list() == pytest.approx([1.0] * made.units)
    assert sums["share_of_risk"].to_list() == pytest.approx([1.0] * made.units)
    assert set(sums["trigger"]) <= {0, 1}
    assert rows["distance_sd"].is_sorted()
