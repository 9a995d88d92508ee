"""The portfolio view of an account against hand arithmetic and a slow oracle."""

import time

import numpy as np
import pytest

from features.mechanics.risk import LegRisk, UnitRisk, Units, covariance, portfolio_risk

PAIR = covariance([0.008, 0.06], [[1.0, 0.8], [0.8, 1.0]])


def risk_of(
    exposures: list[float], maintenance: list[float], equity: float, symbols: list[int] | None = None
) -> tuple[UnitRisk, LegRisk]:
    legs = symbols if symbols is not None else list(range(len(exposures)))
    columns = (np.array([0, len(legs)]), np.array(legs, dtype=np.int64), np.array(exposures), np.array(maintenance))
    return portfolio_risk(Units(*columns, np.array([equity])), PAIR)


def test_a_tenth_of_the_notional_holds_two_fifths_of_the_risk() -> None:
    """Equity 6 000; 100 000 (sd .8 %, MM 2 %) and 10 000 (sd 6 %, MM 10 %), correlation .8.

    Room 6 000 - 2 000 - 1 000 = 3 000. Risks 800 and 600: variance 640 000 + 360 000 + 2 * .8 * 800 * 600 = 1 768 000,
    sigma 1 329.6616, distance 3 000 / 1 329.6616 = 2.256213. Euler shares 1 024 000 / 1 329.6616 = 770.1208 and
    744 000 / 1 329.6616 = 559.5409 (640 + 384, 360 + 384 thousand). Without the small leg: room 4 000, sigma 800: 5.0,
    so it takes 1 - 2.256213 / 5 = 54.88 %. Without the large one: 5 000 / 600 = 8.333333, so that takes 72.93 %.
    """
    unit, leg = risk_of([100_000.0, 10_000.0], [2_000.0, 1_000.0], 6_000.0)
    assert unit.room_usd.tolist() == [3_000.0]
    assert unit.sigma_usd == pytest.approx([1_329.6616], abs=5e-5)
    assert unit.distance_sd == pytest.approx([2.256213], abs=5e-7)
    assert leg.risk_usd == pytest.approx([770.1208, 559.5409], abs=5e-5)
    assert leg.share_of_risk == pytest.approx([0.579, 0.421], abs=5e-4)
    assert leg.share_of_notional == pytest.approx([10 / 11, 1 / 11], rel=1e-12)
    assert leg.distance_sd_without == pytest.approx([8.333333, 5.0], abs=5e-7)
    assert leg.share_of_distance == pytest.approx([0.7293, 0.5488], abs=5e-5)


def test_a_hedge_has_a_negative_share_and_gives_distance() -> None:
    """Short 10 000 of the second: variance 640 000 + 360 000 - 768 000 = 232 000, sigma 481.6638.

    Its Euler share is (360 000 - 384 000) / 481.6638 = -49.8273. Distance 3 000 / 481.6638 = 6.228411 against 5.0.
    """
    unit, leg = risk_of([100_000.0, -10_000.0], [2_000.0, 1_000.0], 6_000.0)
    assert unit.distance_sd == pytest.approx([6.228411], abs=5e-7)
    assert leg.risk_usd[1] == pytest.approx(-49.8273, abs=5e-5)
    assert leg.share_of_distance[1] == pytest.approx(1 - 6.228411 / 5, abs=5e-7)


def test_an_only_leg_takes_the_whole_distance() -> None:
    unit, leg = risk_of([100_000.0], [2_000.0], 6_000.0)
    assert unit.distance_sd == pytest.approx([5.0])
    assert (leg.share_of_risk.tolist(), leg.share_of_distance.tolist()) == ([1.0], [1.0])
    assert leg.distance_sd_without.tolist() == [np.inf]


def test_a_perfect_hedge_has_no_risk_and_no_rounding_is_taken_for_it() -> None:
    unit, leg = risk_of([0.1 + 0.2, -0.3], [0.0, 0.0], 6_000.0, symbols=[0, 0])
    assert (unit.sigma_usd.tolist(), unit.distance_sd.tolist()) == ([0.0], [np.inf])
    assert leg.share_of_risk.tolist() == [0.0, 0.0]
    assert leg.share_of_distance == pytest.approx([-np.inf, -np.inf])  # either alone would have a finite distance


@pytest.mark.parametrize(("equity", "want"), [(100.0, np.inf), (0.0, 0.0), (-100.0, -np.inf)])
def test_units_without_legs(equity: float, want: float) -> None:
    assert risk_of([], [], equity)[0].distance_sd.tolist() == [want]


def test_beyond_maintenance_the_distance_is_negative() -> None:
    unit, leg = risk_of([100_000.0, 10_000.0], [2_000.0, 1_000.0], 2_000.0)
    assert unit.distance_sd == pytest.approx([-1_000 / 1_329.6616], rel=1e-6)
    assert leg.share_of_distance[1] == 0.0  # without it the room is 0: there was no distance to take


def world(seed: int, count: int) -> tuple[Units, np.ndarray]:
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(6, 6))
    c = loadings @ loadings.T
    sd = np.sqrt(np.diag(c))
    correlation = (c / np.outer(sd, sd) + (c / np.outer(sd, sd)).T) / 2
    np.fill_diagonal(correlation, 1.0)
    legs = rng.integers(0, 5, count)
    start = np.concatenate([[0], np.cumsum(legs)])
    exposure = rng.choice([-1.0, 1.0], start[-1]) * 10 ** rng.uniform(3, 6, start[-1])
    columns = (start, rng.integers(0, 6, start[-1]), exposure, np.abs(exposure) * 0.02)
    return Units(*columns, rng.uniform(1e3, 1e6, count)), covariance(rng.uniform(0.005, 0.05, 6), correlation)


def test_columns_equal_a_slow_oracle_unit_by_unit() -> None:
    units, c = world(3, 300)
    unit, leg = portfolio_risk(units, c)
    checked = 0
    for u in range(300):
        part = slice(units.leg_start[u], units.leg_start[u + 1])
        symbol, e = units.leg_symbol[part], units.exposure_usd[part]
        sub = c[np.ix_(symbol, symbol)]
        sigma = np.sqrt(max(e @ sub @ e, 0.0))
        assert unit.sigma_usd[u] == pytest.approx(sigma, rel=1e-9)
        assert unit.room_usd[u] == pytest.approx(units.equity_usd[u] - units.leg_maintenance_usd[part].sum())
        for i in range(e.size if e.size > 1 else 0):
            rest = np.delete(np.arange(e.size), i)
            without = np.sqrt(e[rest] @ sub[np.ix_(rest, rest)] @ e[rest])
            room = units.equity_usd[u] - units.leg_maintenance_usd[part][rest].sum()
            assert leg.distance_sd_without[part][i] == pytest.approx(room / without, rel=1e-6)
            assert leg.risk_usd[part][i] == pytest.approx(e[i] * (sub @ e)[i] / sigma, rel=1e-9)
            checked += 1
    assert checked > 400


def test_euler_shares_add_up_and_the_order_of_legs_is_irrelevant() -> None:
    units, c = world(4, 300)
    unit, leg = portfolio_risk(units, c)
    owner = np.repeat(np.arange(300), np.diff(units.leg_start))
    assert np.bincount(owner, leg.risk_usd, 300) == pytest.approx(unit.sigma_usd, rel=1e-9)
    turned = np.lexsort((-np.arange(owner.size), owner))  # every unit's legs backwards
    assert not np.array_equal(turned, np.arange(owner.size))
    legs = (units.leg_symbol[turned], units.exposure_usd[turned], units.leg_maintenance_usd[turned])
    unit_turned, leg_turned = portfolio_risk(Units(units.leg_start, *legs, units.equity_usd), c)
    assert unit_turned.distance_sd == pytest.approx(unit.distance_sd, rel=1e-9)
    assert leg_turned.share_of_risk == pytest.approx(leg.share_of_risk[turned], rel=1e-9)


def test_two_hundred_thousand_accounts_are_one_call() -> None:
    units, c = world(5, 200_000)
    started = time.process_time()
    unit, _ = portfolio_risk(units, c)
    assert np.isfinite(unit.distance_sd).mean() > 0.7
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize(
    ("sigma", "correlation", "message"),
    [
        ([0.1, -0.1], [[1.0, 0.0], [0.0, 1.0]], "sigma must be"),
        ([0.1, float("nan")], [[1.0, 0.0], [0.0, 1.0]], "sigma must be"),
        ([0.1, 0.1], [[1.0, 0.5], [0.4, 1.0]], "symmetric"),
        ([0.1, 0.1], [[0.9, 0.5], [0.5, 1.0]], "diagonal of ones"),
        ([0.1, 0.1], [[1.0]], "2 x 2"),
        ([0.1, 0.1], [[1.0, 1.5], [1.5, 1.0]], "no negative eigenvalue"),
        ([0.1] * 3, [[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], "no negative eigenvalue"),
    ],
)
def test_what_cannot_be_a_covariance_is_refused(
    sigma: list[float], correlation: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        covariance(sigma, correlation)
