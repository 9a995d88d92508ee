"""The cascade engine: the textbook's ladder, the oracle's answers, and what no order or scale may change."""

from dataclasses import replace

import numpy as np
import pytest

from features.mechanics.profile import Fees, Latency, Path
from models.cascade.engine import Outcomes, Rules, prepare, round_s, run, run_one
from models.cascade.kernel import LANES
from models.cascade.reference import run_reference
from models.cascade.world import Books, Floats, World
from tests.bench.bench_cascade import InNumpy
from tests.bench.bench_cascade import agree as compare
from tests.bench.worlds import accounts, market_shocks
from tests.models.cascade.small_worlds import (
    LADDER_SHOCK,
    LADDER_TABLE,
    ladder_world,
    one_leg,
    random_world,
    shuffled,
)

MARKET = Rules()
COSTLY = Rules(fees=Fees(0.0005, 0.005), buffer=0.02)
PATHS = (
    Path("gradual", 1.0, {"share": 0.1, "notional_usd_min": 1_000.0, "limit_usd": 100_000.0}),
    Path("share_first", 30.0, {"full_usd": 100_000.0, "share": 0.2, "backstop_ratio": 2 / 3}),
    Path("velocity", 10.0, {"budget_usd": 300_000.0}),
    Path("timed", 10.0, {"fraction": 0.5, "full_usd": 5_000.0, "book_usd": 1e7, "book_share_max": 0.01}),
    Path("auction", 10.0, {"buffer": 0.1, "cutoff": 0.8, "fast_s": 60.0, "slow_s": 120.0, "hedge_share": 0.4}),
)


def shocks_for(world: World, seed: int, count: int = 20) -> Floats:
    return market_shocks(count, len(world.symbols), seed, sigma=0.03)


@pytest.mark.parametrize("depth", LADDER_TABLE)
def test_the_ladder_comes_out_as_by_hand(depth: float) -> None:
    """Depth 4e9: the shock of 1.01 % takes the rungs at .5 and 1 %, 20M of flow, another .5 %: 1.51 takes the one at
    1.5 %, 10M, another .25 %: 1.76 takes none. Two rounds, 30M.
    """
    drop, liquidated = LADDER_TABLE[depth]
    world = ladder_world(depth)
    outcome = run(prepare(world), np.array([[LADDER_SHOCK]]), MARKET)
    oracle = run_reference(world, np.array([LADDER_SHOCK]), MARKET)

    assert outcome.drop[0, 0] == pytest.approx(drop, rel=1e-12)
    assert outcome.liquidated_usd[0, 0] == liquidated
    assert outcome.units_hit[0] == liquidated / 10e6
    assert outcome.settled.all()
    assert oracle.drop[0] == outcome.drop[0, 0]
    assert oracle.closed_micro[0] == liquidated * 1e6
    assert (depth != 4.0e9) or outcome.rounds[0] == oracle.rounds == 2


@pytest.mark.parametrize("seed", range(4))
def test_market_path_on_flat_books_agrees_with_the_oracle_to_the_last_bit(seed: int) -> None:
    world = random_world(seed)
    shocks = shocks_for(world, seed)
    outcomes = run(prepare(world), shocks, MARKET)

    assert outcomes.units_hit.max() > 20, "nothing was liquidated: the comparison says nothing"
    assert (outcomes.flow_micro < 0).any()
    assert outcomes.exhausted.any()
    for row, shock in enumerate(shocks):
        oracle = run_reference(world, shock, MARKET)
        assert np.array_equal(outcomes.drop[row], oracle.drop)
        assert np.array_equal(outcomes.liquidated_micro[row], oracle.closed_micro)
        assert np.array_equal(outcomes.flow_micro[row], oracle.flow_micro)
        assert (outcomes.units_hit[row], outcomes.rounds[row]) == (oracle.hit.sum(), oracle.rounds)


@pytest.mark.parametrize("shape", ["ramp", "sqrt"])
def test_thin_touch_books_agree_with_the_oracle(shape: str) -> None:
    world = random_world(11, shape=shape)
    prepared = prepare(world)
    hits = [agree(run(prepared, shock[None], COSTLY), world, shock, COSTLY) for shock in shocks_for(world, 5, 8)]
    assert max(hits) > 20


@pytest.mark.parametrize("path", PATHS, ids=[path.kind for path in PATHS])
@pytest.mark.parametrize("lag", [0, 2])
def test_every_path_agrees_with_the_oracle_unit_by_unit(path: Path, lag: int) -> None:
    rules = replace(COSTLY, path=path, mark_lag_rounds=lag, rounds_max=4_000)
    world = random_world(7)
    prepared = prepare(world)
    partial = hits = 0
    for shock in shocks_for(world, 3, 5):
        outcome = run_one(prepared, shock, rules)
        oracle = run_reference(world, shock, rules)
        hits += agree(outcome.all, world, shock, rules)
        assert np.array_equal(outcome.unit, np.flatnonzero(oracle.hit))
        assert np.allclose(outcome.closed_share, 1 - oracle.left[outcome.unit], rtol=1e-9, atol=1e-12)
        assert np.allclose(outcome.equity_micro, oracle.equity_usd[outcome.unit] * 1e6, rtol=1e-9, atol=2.0)
        partial += int(((outcome.closed_share > 0) & (outcome.closed_share < 1)).sum())
    assert hits > 20
    assert partial > 0 or path.kind in {"share_first", "velocity"}


def agree(outcomes: Outcomes, world: World, shock: Floats, rules: Rules) -> int:
    """The same units hit, sums within rounding, money to the micro-dollar per unit hit. Returns how many were hit."""
    oracle = run_reference(world, shock, rules)
    assert np.allclose(outcomes.drop[0], oracle.drop, rtol=1e-9, atol=1e-15)
    assert np.allclose(outcomes.liquidated_micro[0], oracle.closed_micro, rtol=1e-9, atol=1_000)
    assert outcomes.units_hit[0] == oracle.hit.sum()
    assert outcomes.rounds[0] == oracle.rounds
    debt = -np.minimum(oracle.equity_usd[oracle.hit], 0).sum() * 1e6
    assert outcomes.bad_debt_micro[0] == pytest.approx(debt, rel=1e-9, abs=1_000)
    return int(oracle.hit.sum())


def test_large_worlds_agree_with_the_oracle() -> None:
    world = accounts(20_000, 4, depth_share=5.0)
    shocks = market_shocks(24, 50, 9)
    outcomes = run(prepare(world), shocks, COSTLY, threads=2)
    assert 0 < outcomes.touched.mean() < 0.6 * world.units, "the bound must spare most units"
    assert outcomes.units_hit.max() > 100
    for row in (0, 5, int(outcomes.units_hit.argmax())):
        oracle = run_reference(world, shocks[row], COSTLY)
        assert np.array_equal(outcomes.drop[row], oracle.drop)
        assert outcomes.units_hit[row] == oracle.hit.sum()


def test_the_program_that_the_benchmark_compares_with_finds_the_same() -> None:
    world = accounts(3_000, 5, depth_share=5.0)
    shocks = market_shocks(16, 50, 2)
    outcomes = run(prepare(world), shocks, MARKET)
    rows = compare(InNumpy(world), outcomes, shocks)
    assert len({int(outcomes.units_hit[row]) for row in rows}) > 1
    wrong = replace(outcomes, drop=outcomes.drop + 1e-15)
    with pytest.raises(AssertionError, match="numpy found other drops"):
        compare(InNumpy(world), wrong, shocks)


def test_a_drop_beyond_the_reach_of_the_bounds_is_still_exact() -> None:
    """A book so thin that shorts buy themselves up by more than 100 %: the bounds hold only up to there."""
    world = replace(random_world(3), books=replace(random_world(3).books, depth_usd=np.full(6, 2e6)))
    for size in (0.05, -0.05):
        shock = np.full(6, size)
        outcomes = run(prepare(world), shock[None], MARKET)
        oracle = run_reference(world, shock, MARKET)
        assert np.array_equal(outcomes.drop[0], oracle.drop)
        assert np.abs(oracle.drop).max() >= 1.0
        assert oracle.drop.max() <= 1.0
        assert outcomes.exhausted[0].any()


def test_rows_do_not_depend_on_their_neighbours_or_on_threads() -> None:
    world = random_world(5)
    prepared, shocks = prepare(world), shocks_for(world, 8, 2 * LANES + 3)
    together = run(prepared, shocks, COSTLY)
    same(together, run(prepared, shocks, COSTLY, threads=2))
    for row in (0, 7, 18):
        same(run(prepared, shocks[row : row + 1], COSTLY), together, row)
    assert len(np.unique(together.units_hit)) > 5


def same(found: Outcomes, expected: Outcomes, row: int | None = None) -> None:
    for name in Outcomes.__dataclass_fields__:
        value = getattr(expected, name)
        assert np.array_equal(getattr(found, name), value if row is None else value[row : row + 1]), name


@pytest.mark.parametrize("path", [Path("market"), PATHS[0], PATHS[2]], ids=["market", "gradual", "velocity"])
def test_the_order_of_units_and_legs_changes_nothing(path: Path) -> None:
    rules = replace(COSTLY, path=path)
    world = random_world(21)
    other, order = shuffled(world, 1)
    shocks = shocks_for(world, 4, 10)
    one, two = run(prepare(world), shocks, rules), run(prepare(other), shocks, rules)
    assert one.units_hit.max() > 20
    same(replace(one, touched=two.touched), two)
    hit, moved = run_one(prepare(world), shocks[0], rules), run_one(prepare(other), shocks[0], rules)
    back = np.argsort(order[moved.unit])
    assert np.array_equal(order[moved.unit][back], hit.unit)
    assert np.array_equal(moved.cost_usd[back], hit.cost_usd), "not even the last bit of a float may change"


def test_scaling_fuel_and_depth_together_changes_nothing() -> None:
    """With maintenance in proportion to notional, twice everything hits the same units and moves prices alike."""
    world = replace(random_world(2), rates=np.full((1, 6), 0.01), deductions=np.zeros((1, 6)))
    double = replace(
        world, leg_qty=world.leg_qty * 2, cash_usd=world.cash_usd * 2,
        books=replace(world.books, depth_usd=world.books.depth_usd * 2),
    )  # fmt: skip
    shocks = shocks_for(world, 6)
    one, two = run(prepare(world), shocks, MARKET), run(prepare(double), shocks, MARKET)
    assert one.units_hit.max() > 20
    assert np.array_equal(one.units_hit, two.units_hit)
    assert np.allclose(one.drop, two.drop, rtol=1e-9, atol=1e-14)  # flow is rounded to the micro-dollar
    assert np.allclose(one.liquidated_micro * 2, two.liquidated_micro, rtol=0, atol=3 * two.units_hit.max())
    for depth, (drop, liquidated) in LADDER_TABLE.items():
        outcome = run(prepare(ladder_world(depth, 3.0)), np.array([[LADDER_SHOCK]]), MARKET)
        assert outcome.drop[0, 0] == pytest.approx(drop, rel=1e-12)
        assert outcome.liquidated_usd[0, 0] == 3 * liquidated


def longs_only(seed: int) -> World:
    world = random_world(seed)
    return replace(world, leg_qty=np.abs(world.leg_qty), cash_usd=np.abs(world.cash_usd))


@pytest.mark.parametrize("seed", range(3))
def test_longs_alone_are_monotone_in_shock_fuel_and_thinness(seed: int) -> None:
    world = longs_only(seed)
    base = np.abs(shocks_for(world, seed, 1))
    steps = np.linspace(0.0, 2.0, 16)[:, None]
    by_shock = run(prepare(world), base * steps, MARKET)
    assert (np.diff(by_shock.liquidated_micro, axis=0) >= 0).all()
    assert (np.diff(by_shock.drop, axis=0) >= 0).all()
    assert by_shock.units_hit[-1] > by_shock.units_hit[0]

    def at_depth(scale: float) -> Outcomes:
        books = replace(world.books, depth_usd=world.books.depth_usd / scale)
        return run(prepare(replace(world, books=books)), base, MARKET)

    thinner = [at_depth(scale) for scale in (0.5, 1.0, 2.0, 4.0)]
    totals = [int(row.liquidated_micro.sum()) for row in thinner]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]
    drops = np.array([row.drop[0] for row in thinner])
    assert (np.diff(drops, axis=0) >= 0).all()

    half = world.units // 2
    legs = int(world.leg_start[half])
    names = ("leg_symbol", "leg_qty", "leg_entry", "leg_closable")
    less = replace(
        world, leg_start=world.leg_start[: half + 1], cash_usd=world.cash_usd[:half], account=world.account[:half],
        **{name: getattr(world, name)[:legs] for name in names},
    )  # fmt: skip
    assert (run(prepare(less), base, MARKET).drop <= at_depth(1.0).drop).all()


def test_the_sums_by_symbol_are_those_of_the_units_to_the_last_micro_dollar() -> None:
    world = random_world(13)
    outcome = run_one(prepare(world), shocks_for(world, 2, 1)[0], COSTLY)
    owner = np.repeat(np.arange(world.units), np.diff(world.leg_start))
    mine = np.isin(owner, outcome.unit) & world.leg_closable
    usd = world.leg_qty * world.price_usd[world.leg_symbol]
    net, gross = np.zeros(6, dtype=np.int64), np.zeros(6, dtype=np.int64)
    np.add.at(net, world.leg_symbol[mine], np.rint(usd[mine] * 1e6).astype(np.int64))
    np.add.at(gross, world.leg_symbol[mine], np.rint(np.abs(usd[mine]) * 1e6).astype(np.int64))
    assert np.array_equal(outcome.all.flow_micro[0], net)
    assert np.array_equal(outcome.all.liquidated_micro[0], gross)
    assert outcome.all.bad_debt_micro[0] == -np.minimum(outcome.equity_micro, 0).sum()
    assert outcome.all.fee_micro[0] == outcome.fee_micro.sum() > 0
    assert np.array_equal(outcome.account, np.unique(world.account[outcome.unit]))


def test_fills_are_the_middle_of_the_walk_and_fees_are_taken_from_what_is_left() -> None:
    """One long of 10M at 100 with 200k of cash, shock 3 %, D = 1e9.

    It is short by 100k, is sold whole: the book falls by another 1 %, the fill is the middle of it, 3.5 %. Loss 350k,
    taker fee 0.05 % of 10M = 5k: 155k of bad debt. With 400k of cash and maintenance at 2 %: 3 % of loss leaves 100k <
    2 % of 9.7M = 194k; 400k - 350k - 5k = 45k are left, the liquidation fee of 0.5 % (50k) takes them all.
    """
    rules = Rules(fees=Fees(0.0005, 0.005))
    shock = np.array([0.03])
    poor = run_one(prepare(one_leg([100_000.0], [200_000.0])), shock, rules)
    assert (poor.all.drop[0, 0], poor.all.bad_debt_usd[0], poor.all.fee_micro[0]) == (
        pytest.approx(0.04, rel=1e-12), pytest.approx(155_000.0, abs=1e-6), 0,
    )  # fmt: skip
    rich = replace(one_leg([100_000.0], [400_000.0]), rates=np.full((1, 1), 0.02))
    outcome = run_one(prepare(rich), shock, rules)
    assert outcome.equity_micro[0] == pytest.approx(45_000 * 10**6, abs=1)
    assert outcome.fee_micro[0] == outcome.equity_micro[0]


def test_equal_margin_is_safe() -> None:
    """Equity 1M - 10M * 6.25 % = 375k is exactly the maintenance of 4 % of 9.375M: equal to the last bit, not short."""
    world = replace(one_leg([100_000.0], [1_000_000.0]), rates=np.full((1, 1), 0.04))
    shocks = np.array([[0.0625], [np.nextafter(0.0625, 1)]])
    assert run(prepare(world), shocks, MARKET).units_hit.tolist() == [0, 1]


def test_a_gradual_path_stops_once_the_buffer_is_reached() -> None:
    """Long 10M, cash 502k, maintenance 5 %, no impact to speak of (D = 1e15), shock 1 %.

    E = 402k, MM = 495k. Selling keeps E and lowers MM by the share sold, 10 % of what is left each step. After two MM
    is 400 950, below E, but with the buffer of 2 % it is 408 969; after three 368 072: 27.1 % are closed in 3 rounds.
    """
    world = replace(one_leg([100_000.0], [502_000.0], depth=1e15), rates=np.full((1, 1), 0.05))
    rules = Rules(Path("gradual", 1.0, {"share": 0.1}), buffer=0.02)
    outcome = run_one(prepare(world), np.array([0.01]), rules)
    assert outcome.closed_share.tolist() == [pytest.approx(0.271, rel=1e-12)]
    assert outcome.all.rounds[0] == 3
    assert outcome.all.settled[0]


def test_a_velocity_window_is_shared_in_proportion_and_refills() -> None:
    """Two longs of 150 USD, a budget of 100 per window: 3 windows. What each gets of a window is its share."""
    world = one_leg([1.5, 1.5], [0.5, 0.5], depth=1e15)
    rules = Rules(Path("velocity", 10.0, {"budget_usd": 100.0}))
    outcome = run_one(prepare(world), np.array([0.01]), rules)
    assert outcome.all.rounds[0] == 3
    assert outcome.all.liquidated_usd[0, 0] == pytest.approx(300.0, abs=1e-5)
    first = run(prepare(world), np.array([[0.01]]), replace(rules, rounds_max=1))
    assert first.liquidated_micro[0, 0] == 100 * 10**6
    assert not first.settled[0]


def test_the_backstop_takes_a_position_without_touching_the_book() -> None:
    """Long 10M, cash 500k, maintenance 5 %: at a drop of 3 % equity 200k is below 2/3 of 485k; the vault takes it."""
    world = replace(one_leg([100_000.0], [500_000.0]), rates=np.full((1, 1), 0.05))
    rules = Rules(Path("share_first", 30.0, {"full_usd": 1e5, "share": 0.2, "backstop_ratio": 2 / 3}))
    outcome = run_one(prepare(world), np.array([0.03]), rules)
    assert outcome.all.drop[0, 0] == 0.03
    assert (outcome.all.flow_micro[0, 0], outcome.all.liquidated_usd[0, 0]) == (0, 10e6)
    assert outcome.equity_micro.tolist() == [0]


def test_only_what_bidders_hedge_reaches_the_book() -> None:
    """No equity is left at a drop of 6 %: sold whole, for nothing, and 40 % of 10M is hedged: 4M / 1e9 = 0.4 %."""
    world = replace(one_leg([100_000.0], [500_000.0]), rates=np.full((1, 1), 0.05))
    outcome = run_one(prepare(world), np.array([0.06]), Rules(PATHS[4]))
    assert outcome.all.flow_micro[0, 0] == 4_000_000 * 10**6
    assert outcome.all.drop[0, 0] == pytest.approx(0.064, rel=1e-12)
    assert outcome.all.bad_debt_usd[0] == pytest.approx(100_000.0, abs=1e-6)  # 500k - 600k: bidders carry the slippage


def test_a_late_mark_liquidates_later_and_at_worse_prices() -> None:
    """Rungs of the ladder, lag 2: nothing in rounds 1 and 2, and all that the shock trips is filled later."""
    world = ladder_world(4.0e9)
    now, late = (run_one(prepare(world), np.array([LADDER_SHOCK]), Rules(mark_lag_rounds=lag)) for lag in (0, 2))
    assert (now.all.rounds[0], late.all.rounds[0]) == (2, 6)  # round 3 for the shock, its impact shows 3 rounds later
    assert late.all.drop[0, 0] == now.all.drop[0, 0]


def test_collateral_that_falls_trips_its_account() -> None:
    """A short of 1M in X, 1M of collateral that moves with Y, a debt of 850k: when Y falls by 20 %, 50k are missing."""
    world = World(
        symbols=("X", "Y"),
        price_usd=np.array([100.0, 10.0]),
        books=Books(np.array([1e9, 1e9]), ("flat", "flat"), np.array([np.inf, np.inf])),
        spill=np.eye(2),
        rates=np.full((1, 2), 0.004),
        deductions=np.zeros((1, 2)),
        cash_usd=np.array([150_000.0]),
        leg_start=np.array([0, 2]),
        leg_symbol=np.array([0, 1]),
        leg_qty=np.array([-10_000.0, 100_000.0]),
        leg_entry=np.array([100.0, 10.0]),
        leg_closable=np.array([True, False]),
        account=np.array([0]),
    )
    prepared = prepare(world)
    shocks = np.array([[0.0, 0.0], [0.0, 0.2], [0.0, -0.2]])
    outcomes = run(prepared, shocks, MARKET)
    assert outcomes.units_hit.tolist() == [0, 1, 0]
    assert outcomes.flow_micro[1].tolist() == [-(10**12), 0]  # the short is bought back, collateral is never sold
    assert outcomes.drop[1].tolist() == [-0.001, 0.2]
    # 1M * .8 - 850k = -50k, and the short was bought back at 0.05 % above 100: 500 more
    assert outcomes.bad_debt_usd[1] == pytest.approx(50_500.0, abs=1e-6)


def test_books_say_when_they_are_used_up() -> None:
    world = ladder_world(4.0e9)
    limits = [replace(world.books, depth_limit=np.array([limit])) for limit in (0.0076, 0.0074)]
    found = [run(prepare(replace(world, books=books)), np.array([[LADDER_SHOCK]]), MARKET) for books in limits]
    assert [bool(row.exhausted[0, 0]) for row in found] == [False, True]  # 30M / 4e9 = 0.75 %


def test_a_path_that_never_closes_is_given_up_and_said_so() -> None:
    """Bidders who never come. The second long is bankrupt at 2 % and sold at once, so that the second shock is given up
    a round after the first, which must not forget that it was.
    """
    world = replace(one_leg([100_000.0, 100_000.0], [500_000.0, 150_000.0]), rates=np.full((1, 1), 0.05))
    phases = {"buffer": 0.1, "cutoff": 0.8, "fast_s": 60.0, "slow_s": 60.0, "bidder_edge": 0.5}
    outcomes = run(prepare(world), np.array([[0.01], [0.02], [0.0]]), Rules(Path("auction", 0.0, phases)))
    assert outcomes.settled.tolist() == [False, False, False]
    assert outcomes.liquidated_usd[:, 0].tolist() == [0.0, 10e6, 0.0]


def test_no_units_and_no_shocks_are_answers_too() -> None:
    nobody = prepare(one_leg([], []))
    outcomes = run(nobody, np.array([[0.5]]), MARKET)
    assert (outcomes.drop.tolist(), outcomes.units_hit.tolist(), outcomes.rounds.tolist()) == ([[0.5]], [0], [0])
    assert run(nobody, np.zeros((0, 1)), MARKET).drop.shape == (0, 1)
    assert run_one(nobody, np.array([0.1]), MARKET).unit.tolist() == []


@pytest.mark.parametrize(
    "shock", [np.array([[np.nan]]), np.array([[1.5]]), np.array([[0.1, 0.1]]), np.array([[np.inf]])]
)
def test_shocks_that_mean_nothing_are_refused(shock: Floats) -> None:
    with pytest.raises(ValueError, match="shocks must"):
        run(prepare(one_leg([1.0], [1.0])), shock, MARKET)


def test_rules_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="buffer"):
        Rules(buffer=float("nan"))
    with pytest.raises(ValueError, match="kind"):
        Rules(Path("magic"))
    with pytest.raises(ValueError, match="mark_lag_rounds"):
        Rules(mark_lag_rounds=-1)
    with pytest.raises(ValueError, match="gross notional"):
        prepare(one_leg([1e11], [1.0]))


def test_a_round_lasts_as_long_as_its_slowest_part() -> None:
    assert round_s(Path("gradual", 30.0), Latency(1.0, 1.0, 1.0)) == 30.0
    assert round_s(Path("market"), Latency(1.0, 2.0, 0.5)) == 3.5
