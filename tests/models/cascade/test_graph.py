"""Loop gain, fuel and cliffs: the ladder and the matrices of the literature, small worlds by hand, a slow oracle."""

from dataclasses import replace

import numpy as np
import pytest

from models.cascade.fuel import (
    FALL,
    RISE,
    book_usd,
    burnt_usd,
    cliff_price,
    density_usd,
    fuel,
    fuel_over_depth,
    kappa,
)
from models.cascade.graph import forced_flows, gain_matrix, loop_gain, loop_of, overdue_usd
from models.cascade.slack import pairs_of, trip_drops, unit_slack_usd
from models.cascade.spectrum import amplification, debtrank_matrix, growth, leading, spectral_radius, two_sided
from models.cascade.world import RAMP, SQRT, Floats, World
from tests.models.cascade import small_worlds
from tests.models.cascade.graph_worlds import cash_to_trip, ladder, random_world, world

TWO = np.array([[0.4, 0.02], [0.2, 0.6]])


def _slack(of: World, unit: int, drop: Floats) -> float:
    """Equity less maintenance of one unit at drops per symbol, leg by leg."""
    total = of.cash_usd[unit]
    for leg in range(of.leg_start[unit], of.leg_start[unit + 1]):
        s = of.leg_symbol[leg]
        price = of.price_usd[s] * (1 - drop[s])
        total += of.leg_qty[leg] * (price - of.leg_entry[leg])
        if of.leg_closable[leg]:
            notional = abs(of.leg_qty[leg]) * price
            total -= max(notional * of.rates[k, s] - of.deductions[k, s] for k in range(len(of.rates)))
    return float(total)


def _gain(of: World, window: float) -> Floats:
    """Every unit looked at for every symbol."""
    symbols, still = len(of.symbols), np.zeros(len(of.symbols))
    out = np.zeros((symbols, symbols))
    for j in range(symbols):
        drop = np.where(np.arange(symbols) == j, window, 0.0)
        for unit in range(of.units):
            if _slack(of, unit, still) < 0 or not _slack(of, unit, drop) < 0:
                continue
            for leg in range(of.leg_start[unit], of.leg_start[unit + 1]):
                if of.leg_closable[leg]:
                    s = of.leg_symbol[leg]
                    out[s, j] += of.leg_qty[leg] * of.price_usd[s] / window
    return out


# --- matrices ---


def test_the_amplification_of_two_symbols() -> None:
    # trace 1, determinant .24 - .004 = .236: eigenvalues (1 +- sqrt(1 - .944)) / 2 = .618322, .381678
    assert spectral_radius(TWO[None]) == pytest.approx([0.618322], abs=5e-7)
    found = amplification(TWO)
    assert found is not None
    # I - M = [[.6, -.02], [-.2, .4]], determinant .24 - .004 = .236: .4/.236, .02/.236, .2/.236, .6/.236
    assert found == pytest.approx(np.array([[1.694915, 0.084746], [0.847458, 2.542373]]), abs=5e-7)


def test_at_half_the_depth_the_same_market_runs_away() -> None:
    # half the depth, twice the impact: 2 * .618322 = 1.236643 (from the unrounded root)
    assert spectral_radius(2 * TWO[None]) == pytest.approx([1.236643], abs=5e-7)
    assert amplification(2 * TWO) is None


def test_a_matrix_at_exactly_one_has_no_end() -> None:
    assert amplification(np.eye(2)) is None


def test_debtrank_of_a_circle_of_debts() -> None:
    # around the circle: 4/3 * 3/3 * 2/1 = 8/3; a cycle of three: rho = (8/3)^(1/3)
    owed = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
    rho = spectral_radius(debtrank_matrix(owed, np.array([1.0, 3.0, 3.0]))[None])
    assert rho == pytest.approx([(8 / 3) ** (1 / 3)], rel=1e-12)
    assert rho == pytest.approx([1.386723], abs=5e-7)


@pytest.mark.parametrize("kind", ["dense", "sparse", "diagonal", "periodic", "signed", "nilpotent", "zero"])
def test_power_iteration_finds_the_largest_eigenvalue_of_every_kind_of_matrix(kind: str) -> None:
    rng = np.random.default_rng(5)
    dense = rng.random((30, 6, 6))
    made = {
        "dense": dense,
        "sparse": dense * (rng.random(dense.shape) < 0.3),
        "diagonal": dense * np.eye(6),
        "periodic": dense * np.roll(np.eye(6), 1, axis=0),
        "signed": dense - 0.5,
        "nilpotent": dense * np.tri(6, k=-1),
        "zero": dense * 0,
    }[kind]
    exact = np.abs(np.linalg.eigvals(made)).max(axis=1)
    assert spectral_radius(made) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_a_matrix_with_a_hole_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        spectral_radius(np.array([[[np.nan]]]))


def test_sources_start_and_victims_suffer() -> None:
    # A drives B and B drives nobody: only A's shock feeds the mode of rho .5, and of it B takes twice what A takes
    source, victim = leading(np.array([[0.5, 0.0], [0.2, 0.4]]))
    assert source == pytest.approx([1, 0], abs=1e-12)
    assert victim == pytest.approx([1 / 3, 2 / 3])


def test_victims_are_where_many_rounds_put_the_drops_and_sources_weigh_where_they_began() -> None:
    matrix = np.random.default_rng(2).random((5, 5))
    rho = spectral_radius(matrix[None])[0]
    source, victim = leading(matrix)
    rounds = np.linalg.matrix_power(matrix / rho, 200)  # column j: the drops that a shock of j ends in
    assert rounds / rounds.sum(axis=0) == pytest.approx(np.tile(victim[:, None], 5))
    assert rounds.sum(axis=0) / rounds.sum() == pytest.approx(source)


def test_without_any_gain_nobody_is_a_source() -> None:
    assert [part.tolist() for part in leading(np.zeros((2, 2)))] == [[0, 0], [0, 0]]


def test_a_fall_that_makes_another_symbol_rise_can_come_back() -> None:
    # the fall of A makes B rise by .5, the rise of B makes A fall by .5: rho = sqrt(.25)
    falls, rises = np.array([[0.0, 0.0], [-0.5, 0.0]]), np.array([[0.0, -0.5], [0.0, 0.0]])
    assert spectral_radius(two_sided(falls, rises)[None]) == pytest.approx([0.5])
    assert spectral_radius(falls[None]) == pytest.approx([0.0])


# --- gain ---


def test_a_shared_account_drags_the_other_symbol_along_and_isolated_margin_does_not() -> None:
    # cross: 1,000 of A and 500 of B at 100, trips when A alone falls by .4 %:
    # cash = 100,000 * .004 + 100,000 * .996 * .01 + 50,000 * .01 = 400 + 996 + 500 = 1,896
    shared = world([(1_896, [(0, 1_000), (1, 500)])], [1e7, 1e7])
    gain = gain_matrix(shared, 0.01)
    # B falls by 1 %: 1,896 - 50,000 * .01 - 50,000 * .99 * .01 - 1,000 = -99: both trip it, and 100,000 of A and
    # 50,000 of B are sold over 1 %
    assert gain.tolist() == [[1e7, 1e7], [5e6, 5e6]]
    assert loop_gain(shared, gain, 0.01).tolist() == [[1.0, 1.0], [0.5, 0.5]]
    apart = world([(1_396, [(0, 1_000)]), (500 + 498, [(1, 500)])], [1e7, 1e7])
    off = gain_matrix(apart, 0.01)
    assert off[0, 1] == off[1, 0] == 0
    assert off[0, 0] == 1e7  # 1,396 = 400 + 996


def test_an_account_short_of_the_falling_symbols_neighbour_buys_it() -> None:
    # 1,000 of A long, 500 of B short: the fall of A forces a purchase of B, which rises
    hedged = world([(1_896, [(0, 1_000), (1, -500)])], [1e7, 1e7])
    assert gain_matrix(hedged, 0.01)[:, 0].tolist() == [1e7, -5e6]


def test_rises_force_shorts_to_buy() -> None:
    short = world([(cash_to_trip(-1_000, -0.004), [(0, -1_000)])], [1e7])
    assert gain_matrix(short, 0.01).tolist() == [[0.0]]
    assert gain_matrix(short, -0.01).tolist() == [[1e7]]


def test_shared_collateral_drags_positions_of_other_symbols() -> None:
    # 505 of collateral, some of it 10 of A, against 50,000 of B that need 500; A falls by 1 %: 505 - 10 = 495 < 500
    backed = world([(505, [(1, 500), (0, 10, False)])], [1e7, 1e7])
    gain = gain_matrix(backed, 0.01)
    assert gain[:, 0].tolist() == [0.0, 5e6]  # the collateral itself is not sold
    assert unit_slack_usd(backed).tolist() == [5.0]


def test_a_unit_at_the_line_is_safe_and_one_short_already_is_overdue_not_a_response() -> None:
    line = world([(1_000, [(0, 1_000)]), (999, [(0, 1_000)])], [1e7])
    assert unit_slack_usd(line).tolist() == [0.0, -1.0]
    assert gain_matrix(line, 0.01).tolist() == [[1e7]]  # the first only
    assert overdue_usd(line).tolist() == [1e5]


def test_a_unit_that_ends_exactly_at_the_line_is_safe() -> None:
    # half the price gone: equity 75 - 50 = 25, maintenance 50 * .5 = 25, all exact in binary
    made = world([(75.0, [(0, 1.0)])], [1e6], tiers=((0.5, 0.0),))
    assert gain_matrix(made, 0.5).tolist() == [[0.0]]
    assert gain_matrix(made, 0.5 + 1e-9).item() > 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", [0.01, 0.05, -0.05, -0.2])
def test_gain_is_what_looking_at_every_unit_for_every_symbol_finds(seed: int, window: float) -> None:
    made = random_world(seed)
    expected = _gain(made, window)
    assert np.abs(expected).sum() > 0 or abs(window) < 0.05
    assert gain_matrix(made, window) == pytest.approx(expected, rel=1e-9, abs=1e-3)


@pytest.mark.parametrize("window", [0.0, 1.0, -1.5, np.nan])
def test_a_window_that_is_none_is_refused(window: float) -> None:
    with pytest.raises(ValueError, match="window"):
        gain_matrix(ladder(1e9), window)


def test_the_order_of_units_changes_not_a_bit() -> None:
    made = random_world(3)
    order = np.random.default_rng(0).permutation(made.units)
    legs = np.concatenate([np.arange(*made.leg_start[u : u + 2]) for u in order])
    turned = replace(
        made,
        cash_usd=made.cash_usd[order],
        leg_start=np.cumsum([0, *np.diff(made.leg_start)[order]]),
        **{name: getattr(made, name)[legs] for name in ("leg_symbol", "leg_qty", "leg_entry", "leg_closable")},
    )
    assert np.array_equal(gain_matrix(made, 0.05), gain_matrix(turned, 0.05))
    assert cliff_price(made, fuel(made, FALL)) == cliff_price(turned, fuel(turned, FALL))


def test_fuel_and_depth_scaled_together_change_nothing_and_half_the_depth_doubles_a_flat_book() -> None:
    made = random_world(1)
    gain = gain_matrix(made, 0.05)
    assert gain.any()
    loop = loop_gain(made, gain, 0.05)
    thick = replace(made, books=replace(made.books, depth_usd=made.books.depth_usd * 8))
    assert loop_gain(thick, gain * 8, 0.05) == pytest.approx(loop)
    thin = replace(made, books=replace(made.books, depth_usd=made.books.depth_usd / 2))
    assert loop_gain(thin, gain, 0.05) == pytest.approx(2 * loop)


@pytest.mark.parametrize("shape", [RAMP, SQRT])
def test_half_the_depth_of_a_curved_book_costs_a_root_of_two(shape: str) -> None:
    made, thin = ladder(2e9, shape), ladder(1e9, shape)
    gain = gain_matrix(made, 0.0101)
    assert gain.item() == pytest.approx(2e7 / 0.0101)
    assert loop_gain(thin, gain, 0.0101) / loop_gain(made, gain, 0.0101) == pytest.approx(np.array([[1.414214]]))


def test_loop_gain_of_a_ramp_is_its_average_impact_over_the_window() -> None:
    # two rungs, 20M, into Q = D I^2 / (2 * .01) with D 2e9: I = sqrt(2e7 * .02 / 2e9) = .0141421
    made = ladder(2e9, RAMP)
    assert loop_gain(made, gain_matrix(made, 0.0101), 0.0101).item() == pytest.approx(np.sqrt(0.0002) / 0.0101)


def test_impact_spills_over_to_correlated_symbols() -> None:
    made = world([(cash_to_trip(1_000, 0.004), [(0, 1_000)])], [1e7, 1e7], spill=0.3)
    assert loop_gain(made, gain_matrix(made, 0.01), 0.01).tolist() == [[1.0, 0.0], [0.3, 0.0]]


# --- fuel, kappa, cliff ---


@pytest.mark.parametrize(
    ("depth_usd", "ratio"), [(4e9, 0.5), (3e9, 2 / 3), (2.5e9, 0.8), (2.1e9, 20 / 21), (2e9, 1.0), (1e9, 2.0)]
)
def test_kappa_of_the_ladder(depth_usd: float, ratio: float) -> None:
    # any 1 % of the ladder holds two rungs of 10M, and 1 % of D: 20M / (.01 D)
    made = ladder(depth_usd)
    found = fuel(made, FALL)
    for distance in (0.005, 0.05, 0.1, 0.0731):
        assert kappa(made, found, distance) == pytest.approx([ratio], rel=1e-9)
    # at 2e9 kappa is 1 from the first rung on: a cliff at 99.5; at more depth there is none
    assert cliff_price(made, found) == ((99.5,) if ratio >= 1 else (None,))


def test_a_cliff_lies_where_the_fuel_gets_dense() -> None:
    # 1M at 2 %, then 30M within one per cent from 7 % on; depth 1e9 holds 10M per per cent
    units = [(cash_to_trip(qty, drop), [(0, qty)]) for qty, drop in ((1e4, 0.02), (1.5e5, 0.07), (1.5e5, 0.075))]
    made = world(units, [1e9])
    assert list(cliff_price(made, fuel(made, FALL))) == pytest.approx([93.0])


def test_the_nearest_cliff_of_both_sides_is_told() -> None:
    near_short, far_long = (cash_to_trip(-1e5, -0.03), [(0, -1e5)]), (cash_to_trip(1e5, 0.08), [(0, 1e5)])
    made = world([near_short, far_long], [1e8])
    falls, rises = fuel(made, FALL), fuel(made, RISE)
    assert list(cliff_price(made, falls)) == pytest.approx([92.0])
    assert list(cliff_price(made, falls, rises)) == pytest.approx([103.0])


def test_units_that_are_short_already_are_a_cliff_at_the_mark() -> None:
    made = world([(0.0, [(0, 1e5)])], [1e8])
    assert cliff_price(made, fuel(made, FALL)) == (100.0,)


def test_fuel_beyond_the_known_levels_meets_no_book_and_is_no_cliff() -> None:
    made = world([(cash_to_trip(1.0, 0.08), [(0, 1.0)])], [1e12], depth_limit=0.05)
    assert book_usd(made, 0.2).tolist() == [5e10]
    assert kappa(made, fuel(made, FALL), 0.08).tolist() == [np.inf]
    assert kappa(made, fuel(made, FALL), 0.2).tolist() == [0.0]
    assert cliff_price(made, fuel(made, FALL)) == (None,)  # unknown, not a cliff


def test_fuel_over_depth_counts_all_to_a_distance() -> None:
    # within 2.2 %: 4 rungs of 10M over .022 * 4e9
    made = ladder(4e9)
    found = fuel(made, FALL)
    assert fuel_over_depth(made, found, 0.022) == pytest.approx([4e7 / 8.8e7])
    assert fuel_over_depth(made, found, 0.0).tolist() == [0.0]
    assert burnt_usd(found, 1.0).tolist() == [4e8]
    assert density_usd(found, 0, np.array([0.0, 0.01, 0.02])) == pytest.approx([1e9, 2e9])  # [.005], [.01, .015]


@pytest.mark.parametrize("side", [FALL, RISE])
@pytest.mark.parametrize("seed", range(4))
def test_a_trip_is_a_root_and_lies_where_the_unit_stops_being_safe(side: int, seed: int) -> None:
    made = random_world(seed)
    pairs = pairs_of(made)
    drops = trip_drops(made, pairs, side * 0.5)
    inside = np.isfinite(drops) & (drops != 0)
    assert 20 < inside.sum() < len(drops)
    for row, (unit, symbol, drop) in enumerate(zip(pairs.unit, pairs.symbol, drops, strict=True)):
        alone = np.where(np.arange(len(made.symbols)) == symbol, 1.0, 0.0)
        if inside[row]:
            scale = np.abs(made.cash_usd[unit]) + 1
            assert abs(_slack(made, unit, drop * alone)) < 1e-9 * scale
            assert _slack(made, unit, 0.999 * drop * alone) > 0 > _slack(made, unit, 1.001 * drop * alone)
        elif drop == 0:
            assert _slack(made, unit, 0 * alone) < 0
        else:
            assert _slack(made, unit, side * 0.5 * alone) >= 0


def test_trips_agree_with_the_formula_for_one_leg() -> None:
    # P = (size * mark + other maintenance - equity) / (size - rate * |size|): 95.381526 alone, 99.397590 with 4 more
    alone = world([(5.0, [(0, 1.0)])], [1e6], tiers=((0.004, 0.0),))
    burdened = world([(5.0, [(0, 1.0), (1, 10.0)])], [1e6, 1e6], tiers=((0.004, 0.0),))
    found = [100 * (1 - trip_drops(made, pairs_of(made), 0.5)[0]) for made in (alone, burdened)]
    assert found == pytest.approx([95.381526, 99.397590], abs=5e-7)


def test_an_empty_world_has_no_fuel_and_no_gain() -> None:
    made = world([], [1e6])
    assert gain_matrix(made).tolist() == [[0.0]]
    assert cliff_price(made, fuel(made, FALL)) == (None,)
    assert overdue_usd(made).tolist() == [0.0]


def test_a_trip_at_the_very_edge_of_the_window_counts_whatever_rounding_says() -> None:
    """Rungs at .5, 1, 1.5 and 2 % hold 10M each: 40M over 2 %, before a book of 4e9 a gain of .5, of 2e9 one of 1."""
    made = small_worlds.ladder_world(4e9)
    forced = forced_flows(made, 0.02)
    assert forced[0][0, 0] == pytest.approx(2e9, rel=1e-8)
    assert loop_of(made, forced, 0.02).rho() == pytest.approx(0.5, rel=1e-8)
    half = loop_of(made.with_depth(0.5), forced, 0.02).rho()
    assert half == pytest.approx(1.0, rel=1e-8)
    assert growth(half * (1 - 1e-12)) is None, "a gain of 1 has no end, whatever rounding says"
