"""Fund and auto-deleveraging: to the last micro-dollar, never more than a winner has."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.insurance import (
    ADL_RULES,
    MICRO,
    adl_by_rank,
    adl_pro_rata,
    adl_score,
    cover,
    incentive_share,
    liquidation_fee,
    micro,
)

amounts = st.integers(0, 10**15)
profits = st.lists(st.integers(-(10**13), 10**13), min_size=1, max_size=30)


def test_the_fund_pays_first_then_winners_then_nobody() -> None:
    winners = np.array([50, 40])
    score = np.array([1.0, 2.0])
    rows = [(20, 30), (100, 30), (200, 30), (200, -7)]
    found = [cover(debt, fund, winners, "rank", score=score) for debt, fund in rows]
    # 20: the fund; 100 = 30 + 40 + 30; 200 = 30 + 90 + 80; a fund in debt pays nothing: 200 = 0 + 90 + 110
    assert [(c.fund_draw, c.adl.tolist(), c.uncovered) for c in found] == [
        (20, [0, 0], 0),
        (30, [30, 40], 0),
        (30, [50, 40], 80),
        (0, [50, 40], 110),
    ]


@pytest.mark.parametrize("rule", ADL_RULES)
@given(debt=amounts, fund=st.integers(-(10**12), 10**15), profit=profits, seed=st.integers(0, 2**32 - 1))
def test_money_is_conserved_to_the_last_unit(rule: str, debt: int, fund: int, profit: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    winners = np.array(profit)
    paid = cover(debt, fund, winners, rule, score=rng.random(len(profit)), cap_share=rng.random(len(profit)))
    assert debt == paid.fund_draw + int(paid.adl.sum()) + paid.uncovered
    assert 0 <= paid.fund_draw <= max(fund, 0)
    assert (paid.adl >= 0).all()
    assert (paid.adl <= np.maximum(winners, 0)).all()
    assert paid.uncovered >= 0


@given(profit=profits, need=amounts)
def test_nothing_stays_uncovered_while_a_winner_has_something(profit: list[int], need: int) -> None:
    winners = np.array(profit)
    most = min(need, int(np.maximum(winners, 0).sum()))
    assert int(adl_by_rank(need, winners, np.ones(len(profit))).sum()) == most
    assert int(adl_pro_rata(need, winners).sum()) == most


def test_rank_is_profit_share_times_effective_leverage() -> None:
    # Three winners of 10 on a cost of 100: notional 110; equity 55, 22, 11 -> leverage 2, 5, 10; .1 * leverage.
    score = adl_score(np.full(3, 10.0), np.full(3, 100.0), np.full(3, 110.0), np.array([55.0, 22.0, 11.0]))
    assert score == pytest.approx([0.2, 0.5, 1.0])
    assert adl_by_rank(15, np.full(3, 10), score).tolist() == [0, 5, 10]


def test_a_winner_without_equity_goes_first_and_a_loser_never() -> None:
    score = adl_score(np.array([10.0, 10.0, -10.0]), np.full(3, 100.0), np.full(3, 110.0), np.array([-1.0, 1.0, 1.0]))
    assert score.tolist() == [np.inf, 11.0, 0.0]


def test_pro_rata_takes_the_same_share_of_every_profit() -> None:
    assert adl_pro_rata(30, np.array([100, 200, -50])).tolist() == [10, 20, 0]


def test_pro_rata_is_water_filling_under_caps() -> None:
    # Caps 10 %, 50 %, 100 % of 100 each: 10 + 50 eta-bound. need 90: 10 fixed, eta = 80 / 200 = 40 %.
    assert adl_pro_rata(90, np.full(3, 100), np.array([0.1, 0.5, 1.0])).tolist() == [10, 40, 40]
    # need 130: 10 and 50 fixed, eta = 70 %.
    assert adl_pro_rata(130, np.full(3, 100), np.array([0.1, 0.5, 1.0])).tolist() == [10, 50, 70]
    assert adl_pro_rata(10**6, np.full(3, 100), np.array([0.1, 0.5, 1.0])).tolist() == [10, 50, 100]


@given(profit=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), need=amounts, seed=st.integers(0, 2**32 - 1))
def test_pro_rata_is_within_a_few_units_of_the_exact_water_level(profit: list[int], need: int, seed: int) -> None:
    """A slow oracle in exact fractions: the level is found by going up from cap to cap."""
    beta = [Fraction(int(b), 8) for b in np.random.default_rng(seed).integers(0, 9, len(profit))]
    caps = [int(gain * share) for gain, share in zip(profit, beta, strict=True)]
    given_ = adl_pro_rata(need, np.array(profit), np.array([float(share) for share in beta]))
    need = min(need, sum(caps))
    eta = Fraction(0)
    for level in sorted({*beta, Fraction(1)}):
        below = sum((gain * min(eta, share) for gain, share in zip(profit, beta, strict=True)), Fraction(0))
        free = sum(gain for gain, share in zip(profit, beta, strict=True) if share > eta)
        step = (need - below) / free if free else Fraction(0)
        eta = min(level, eta + max(step, Fraction(0)))
    exact = [gain * min(eta, share) for gain, share in zip(profit, beta, strict=True)]
    assert all(abs(got - want) <= len(profit) + 2 for got, want in zip(given_.tolist(), exact, strict=True))
    assert int(given_.sum()) == need


@given(profit=st.lists(st.integers(1, 10**12), min_size=2, max_size=20, unique=True), need=amounts)
def test_the_order_of_winners_is_irrelevant(profit: list[int], need: int) -> None:
    winners = np.array(profit)
    mixed = np.random.default_rng(len(profit)).permutation(len(profit))
    assert adl_pro_rata(need, winners)[mixed].tolist() == adl_pro_rata(need, winners[mixed]).tolist()
    by_rank = adl_by_rank(need, winners, winners / 3)[mixed]
    assert by_rank.tolist() == adl_by_rank(need, winners[mixed], winners[mixed] / 3).tolist()


def test_a_million_winners_share_a_hole_exactly() -> None:
    winners = np.random.default_rng(7).integers(0, 10**12, 1_000_000)
    need = int(winners.sum()) // 3
    shared = adl_pro_rata(need, winners)
    assert int(shared.sum()) == need
    assert np.abs(shared - winners / 3).max() <= 3


def test_the_liquidation_fee_takes_no_more_than_what_is_left_above_bankruptcy() -> None:
    closed = micro([1_000.0, 1_000.0, 1_000.0, 1_000_000.0])
    left = micro([80.0, 3.0, -9.0, 90_000.0])
    # .5 % of 1 000 is 5; 3 are left; nothing is left; .5 % of 1M is 5 000, capped at 4 000
    fees = liquidation_fee(closed, left, 0.005, most=4_000 * MICRO)
    assert fees.tolist() == [5 * MICRO, 3 * MICRO, 0, 4_000 * MICRO]


def test_the_incentive_grows_with_the_time_waited_and_ends() -> None:
    shares = [incentive_share(t, first=0.001, growth_per_s=0.0001, most=0.005) for t in (-5.0, 0.0, 10.0, 1e6)]
    assert shares == pytest.approx([0.001, 0.001, 0.002, 0.005])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 5e12])
def test_amounts_that_are_no_money_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        micro(bad)


def test_a_negative_debt_an_unknown_rule_and_a_missing_score_are_refused() -> None:
    nobody = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="bad_debt"):
        cover(-1, 0, nobody, "none")
    with pytest.raises(ValueError, match="must be one of"):
        cover(1, 0, nobody, "lottery")
    with pytest.raises(ValueError, match="score"):
        cover(1, 0, nobody, "rank")
