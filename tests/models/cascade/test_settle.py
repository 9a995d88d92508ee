"""Settlement: the fund, then winners, then nobody; money is conserved to the last micro-dollar."""

from dataclasses import replace

import numpy as np
import pytest

from features.mechanics.insurance import ADL_RULES, micro
from features.mechanics.profile import Fees, Path
from models.cascade.engine import Rules, prepare, run_one
from models.cascade.settle import Settlement, at_rest, settle
from models.cascade.world import World
from tests.bench.worlds import market_shocks
from tests.models.cascade.small_worlds import one_leg, random_world

RULES = Rules(fees=Fees(0.0005, 0.0002), buffer=0.02)  # a small fee: holes must reach the winners
GRADUAL = replace(RULES, path=Path("gradual", 1.0, {"share": 0.25, "notional_usd_min": 1_000.0}))


def balanced(found: Settlement) -> bool:
    paid = found.fund_draw_micro + found.adl_micro + found.uncovered_micro
    fund = found.fund_before_micro + found.fee_micro - found.fund_draw_micro
    drawn = min(found.fund_before_micro + found.fee_micro, found.bad_debt_micro)
    return (found.bad_debt_micro, found.fund_after_micro, found.fund_draw_micro) == (paid, fund, drawn) and fund >= 0


def test_a_hole_is_paid_by_the_fund_then_by_the_winner_then_by_nobody() -> None:
    """A long of 10M with 200k of cash falls by 3 %, is filled at 3.5 % (D = 1e9): 150k of bad debt. A short of 1M with
    500k of cash ends at 4 %: 40k of profit. The fund holds 100k: it pays all of it, the short 40k, and 10k are open.
    """
    prepared = prepare(one_leg([100_000.0, -10_000.0], [200_000.0, 500_000.0]))
    outcome = run_one(prepared, np.array([0.03]), Rules())
    found = settle(prepared, outcome, 100_000.0)
    exact = [
        found.bad_debt_micro,
        found.fund_draw_micro,
        found.adl_micro,
        found.uncovered_micro,
        found.fund_after_micro,
    ]
    assert exact == [150_000 * 10**6, 100_000 * 10**6, 40_000 * 10**6, 10_000 * 10**6, 0]
    assert (found.winner.tolist(), found.adl_by_winner.tolist()) == ([1], [40_000 * 10**6])
    rich = settle(prepared, outcome, 1e6)
    assert (rich.fund_draw_micro, rich.adl_micro, rich.fund_after_micro) == (150_000 * 10**6, 0, 850_000 * 10**6)
    none = settle(prepared, outcome, 0.0, "none")
    assert (none.adl_micro, none.uncovered_micro) == (0, 150_000 * 10**6)


def test_the_winner_with_the_most_profit_and_leverage_goes_first() -> None:
    """Two shorts of 1M; the one with 50k of cash is ten times more levered than the one with 500k, and pays first."""
    prepared = prepare(one_leg([100_000.0, -10_000.0, -10_000.0], [300_000.0, 500_000.0, 60_000.0]))
    found = settle(prepared, run_one(prepared, np.array([0.03]), Rules(fees=Fees(0.0, 0.0))), 25_000.0)
    # shock 3 %: 300k - 300k = 0 of equity is not short of 0 maintenance; nothing happens
    assert found.bad_debt_micro == 0
    found = settle(prepared, run_one(prepared, np.array([0.031]), Rules()), 25_000.0)
    # fill at 3.6 %: 60k of bad debt, 25k by the fund, 35k of the 41k that the levered short has won
    assert (found.winner.tolist(), found.adl_micro) == ([2], pytest.approx(35_000 * 10**6, abs=1))


def world_and_shock(seed: int) -> tuple[World, np.ndarray]:
    world = random_world(seed)
    return world, np.abs(market_shocks(1, 6, seed, sigma=0.05))[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rules", [RULES, GRADUAL], ids=["market", "gradual"])
@pytest.mark.parametrize("adl", ADL_RULES)
def test_money_is_conserved_to_the_last_micro_dollar(seed: int, rules: Rules, adl: str) -> None:
    """Equity of all units and the fund, before and after: they differ by what nobody covered, and by nothing else."""
    world, shock = world_and_shock(seed)
    prepared = prepare(world)
    outcome = run_one(prepared, shock, rules)
    assert outcome.all.bad_debt_micro[0] > 0
    assert outcome.all.fee_micro[0] > 0
    for fund_usd in (0.0, float(outcome.all.bad_debt_usd[0]) / 2, 1e9):
        found = settle(prepared, outcome, fund_usd, adl)
        assert balanced(found)
        book = at_rest(prepared, outcome)
        before = book.equity_micro.copy()
        place = np.zeros(world.units, dtype=np.int64)
        place[prepared.unit] = np.arange(len(prepared.unit))
        before[place[outcome.unit]] = outcome.equity_micro
        after = book.equity_micro.copy()
        after[place[found.winner]] -= found.adl_by_winner
        assert np.array_equal(after[place[outcome.unit]], found.equity_micro)
        gained = int(after.sum()) + found.fund_after_micro - int(before.sum()) - found.fund_before_micro
        assert gained == found.uncovered_micro
        profit = np.maximum(micro(book.profit_usd), 0)[place[found.winner]]
        assert (found.adl_by_winner <= profit).all()
        assert (found.equity_micro >= 0).all()
    assert (adl == "none") or settle(prepared, outcome, 0.0, adl).adl_micro > 0
