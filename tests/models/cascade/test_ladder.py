"""Ladders of isolated positions: the same answers as the engine, without touching an account."""

from dataclasses import replace

import numpy as np
import pytest

from models.cascade.engine import Rules, prepare, run
from models.cascade.ladder import ladders, run_ladders
from models.cascade.world import Books, World
from tests.bench.worlds import accounts, market_shocks
from tests.models.cascade.small_worlds import LADDER_SHOCK, LADDER_TABLE, ladder_world, random_world


def isolated(units: int, seed: int, shape: str = "flat", spill: float = 0.1) -> World:
    return accounts(units, seed, legs=1, symbols=9, depth_share=6.0, shape=shape, spill=spill)


@pytest.mark.parametrize("depth", LADDER_TABLE)
def test_the_ladder_comes_out_as_by_hand(depth: float) -> None:
    drop, liquidated = LADDER_TABLE[depth]
    outcome = run_ladders(ladders(ladder_world(depth)), np.array([[LADDER_SHOCK]]))
    assert outcome.drop[0, 0] == pytest.approx(drop, rel=1e-12)
    assert outcome.liquidated_micro[0, 0] == liquidated * 1e6
    assert outcome.units_hit[0] == liquidated / 10e6


@pytest.mark.parametrize(("shape", "spill"), [("flat", 0.0), ("flat", 0.3), ("ramp", 0.1)])
def test_isolated_positions_agree_with_the_engine(shape: str, spill: float) -> None:
    world = isolated(3_000, 1, shape, spill)
    shocks = market_shocks(40, 9, 2, sigma=0.03)
    ours, engine = run_ladders(ladders(world), shocks), run(prepare(world), shocks, Rules())
    assert engine.units_hit.max() > 100
    assert (engine.flow_micro < 0).any()
    assert np.allclose(ours.drop, engine.drop, rtol=1e-12, atol=1e-18)
    for name in ("liquidated_micro", "flow_micro", "units_hit", "rounds", "exhausted"):
        assert np.array_equal(getattr(ours, name), getattr(engine, name)), name


def test_units_short_of_margin_at_the_reference_recover_with_the_price() -> None:
    """Equity of each is 1 % below its need at the reference; a price that rises by 5 % saves longs, not shorts."""
    world = isolated(200, 3)
    notional = world.leg_qty * world.price_usd[world.leg_symbol]
    profit = world.leg_qty * (world.price_usd[world.leg_symbol] - world.leg_entry)
    poor = replace(
        world, cash_usd=np.abs(notional) * 0.001 - profit, books=replace(world.books, depth_usd=np.full(9, 1e15))
    )
    shocks = np.array([np.full(9, -0.05), np.full(9, 0.05)])
    ours, engine = run_ladders(ladders(poor), shocks), run(prepare(poor), shocks, Rules())
    assert ours.units_hit.tolist() == engine.units_hit.tolist() == [(notional < 0).sum(), (notional > 0).sum()]


def test_a_book_that_ends_is_said_to_end() -> None:
    world = ladder_world(4.0e9)
    limited = replace(world, books=Books(world.books.depth_usd, world.books.shape, np.array([0.0074])))
    assert run_ladders(ladders(limited), np.array([[LADDER_SHOCK]])).exhausted.all()
    assert not run_ladders(ladders(world), np.array([[LADDER_SHOCK]])).exhausted.any()


def test_cross_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="isolated"):
        ladders(random_world(0))
