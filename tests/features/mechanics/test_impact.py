"""Impact against hand arithmetic, walks against tiny slices, and books that end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.impact import (
    EXPONENTS,
    WIDTH,
    Law,
    flow_to,
    marginal_move,
    mean_move,
    move,
    power_law,
    shape_law,
    slippage_when_depth_changes,
    square_root_move,
    walk_book,
)

SHAPES = tuple(EXPONENTS)
FLOWS = st.floats(-1e9, 1e9)


def test_the_three_shapes_at_a_billion_of_depth() -> None:
    """D = 1e9, w = .01, Q = 20M. flat: .02. ramp: sqrt(2 * .01 * .02) = .02. sqrt: .01 * sqrt(2e7 / 1e7) = .014142."""
    law = shape_law(SHAPES, [1e9] * 3)
    assert move(law, 2e7) == pytest.approx([0.02, 0.02, 0.0141421356], rel=1e-8)
    assert move(law, -2e7) == pytest.approx([-0.02, -0.02, -0.0141421356], rel=1e-8)
    assert move(law, 0.0).tolist() == [0.0, 0.0, 0.0]


def test_scale_and_exponent_are_those_of_the_shapes() -> None:
    """flat 1 / D; ramp sqrt(2 w / D) = sqrt(2e-11); sqrt sqrt(w / D) = sqrt(1e-11)."""
    scale, exponent = shape_law(SHAPES, [1e9] * 3)
    assert scale == pytest.approx([1e-9, np.sqrt(2e-11), np.sqrt(1e-11)], rel=1e-12, abs=0)
    assert exponent.tolist() == [1.0, 0.5, 0.5]


def test_a_ramp_has_its_depth_at_the_width_and_none_at_the_touch() -> None:
    """Density is 1 / marginal: at w it is D; at no flow the marginal move is infinite."""
    law = shape_law("ramp", 1e9)
    assert 1 / marginal_move(law, flow_to(law, WIDTH)) == pytest.approx([1e9], rel=1e-9)
    assert marginal_move(law, 0.0).tolist() == [np.inf]


def test_flat_slippage_is_half_the_marginal_walk() -> None:
    """Q / (2 D) on average, Q / D at the end: 1e7 / 2e9 = .005, 1e7 / 1e9 = .01; marginal 1 / D per dollar."""
    law = shape_law("flat", 1e9)
    assert mean_move(law, 0.0, 1e7) == pytest.approx([0.005], rel=1e-12)
    assert move(law, 1e7) == pytest.approx([0.01], rel=1e-12)
    assert marginal_move(law, 1e7) == pytest.approx([1e-9], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("exponent", "ratio"),
    [(1.0, 2.0), (0.5, 1.414214), (0.861, 1.816297), (0.875, 1.834008), (0.6, 1.515717)],  # 2 ** exponent
)
def test_what_halved_depth_does_to_slippage(exponent: float, ratio: float) -> None:
    assert slippage_when_depth_changes(exponent) == pytest.approx(ratio, abs=5e-7)
    thick, thin = power_law(1e9, exponent), power_law(0.5e9, exponent)
    assert mean_move(thin, 0.0, 3e6) / mean_move(thick, 0.0, 3e6) == pytest.approx(ratio, abs=5e-7)


@pytest.mark.parametrize(("shape", "ratio"), [("flat", 2.0), ("ramp", 1.414214), ("sqrt", 1.414214)])
def test_halved_depth_by_shape(shape: str, ratio: float) -> None:
    thick, thin = shape_law(shape, 1e9), shape_law(shape, 0.5e9)
    assert mean_move(thin, 0.0, 3e6) / mean_move(thick, 0.0, 3e6) == pytest.approx(ratio, abs=5e-7)
    assert move(thin, 3e6) / move(thick, 3e6) == pytest.approx(ratio, abs=5e-7)


@given(st.sampled_from([1.0, 0.5, 0.6, 0.875]), FLOWS, FLOWS)
def test_the_mean_of_a_walk_is_the_mean_of_its_slices(exponent: float, before: float, after: float) -> None:
    law = power_law(1e9, exponent)
    middles = before + (after - before) * (np.arange(20_000) + 0.5) / 20_000
    slices = move(law, middles).mean()
    assert mean_move(law, before, after) == pytest.approx(slices, rel=1e-4, abs=2e-6)


@given(st.sampled_from(SHAPES), FLOWS, FLOWS, FLOWS)
def test_a_walk_costs_the_same_in_one_piece_or_in_two(shape: str, a: float, b: float, c: float) -> None:
    law = shape_law(shape, 1e9)
    pieces = mean_move(law, a, b) * (b - a) + mean_move(law, b, c) * (c - b)
    assert mean_move(law, a, c) * (c - a) == pytest.approx(pieces, rel=1e-9, abs=1e-3)


def test_a_walk_of_a_dollar_after_a_billion_is_exact() -> None:
    """The plain difference of powers would lose nine digits: the mean lies at the half dollar."""
    law = shape_law("ramp", 1e9)
    assert mean_move(law, 1e9, 1e9 + 1) == pytest.approx(move(law, 1e9 + 0.5), rel=1e-14)
    assert mean_move(law, 1e9, 1e9) == pytest.approx(move(law, 1e9), rel=1e-14)
    assert mean_move(law, 0.0, 0.0).tolist() == [0.0]


@given(st.sampled_from(SHAPES), FLOWS)
def test_flow_to_is_the_inverse_and_buys_mirror_sells(shape: str, flow: float) -> None:
    law = shape_law(shape, 2e9)
    assert flow_to(law, move(law, flow)) == pytest.approx([flow], rel=1e-9, abs=1e-9)
    assert move(law, -flow).tolist() == (-move(law, flow)).tolist()


@given(st.sampled_from(SHAPES), FLOWS, st.floats(0.0, 1e8), st.floats(1.0, 10.0))
def test_more_flow_and_less_depth_never_move_less(shape: str, flow: float, more: float, thicker: float) -> None:
    law = shape_law(shape, 1e9)
    assert move(law, flow + more) >= move(law, flow)
    assert abs(move(shape_law(shape, 1e9 * thicker), flow)) <= abs(move(law, flow)) * (1 + 1e-12)
    assert move(shape_law(shape, 1e9 * thicker), flow * thicker) == pytest.approx(move(law, flow), rel=1e-9, abs=1e-15)


def test_the_square_root_law_of_volume() -> None:
    """Y sigma sqrt(Q / V) = .5 * .04 * sqrt(.01) = .002."""
    assert square_root_move(1e6, 1e8, 0.04, 0.5) == pytest.approx(0.002, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "depth", "message"),
    [
        ("cliff", [1e9], "shape must be one of"),
        (["flat", "ramp"], [1e9], "one shape per depth"),
        ("flat", [0.0], "depth must be finite and positive"),
        ("flat", [float("nan")], "depth must be finite and positive"),
        ("flat", [float("inf")], "depth must be finite and positive"),
    ],
)
def test_books_that_cannot_be_are_refused(shape: str | list[str], depth: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_law(shape, depth)


def test_an_exponent_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"exponent must be in \(0, 1\]"):
        power_law(1e9, 1.2)


def test_a_law_is_one_value_per_book() -> None:
    law = shape_law(["flat", "ramp"], [1e9, 4e9])
    assert isinstance(law, Law)
    assert move(law, [[1e7, 1e7], [2e7, 0.0]]).shape == (2, 2)


# Levels.


def test_a_walk_over_three_levels() -> None:
    """1 at 100, 2 at 99, 1 at 95. Of 3.5: (100 + 198 + .5 * 95) / 3.5 = 345.5 / 3.5 = 98.714286, the worst 95."""
    walk = walk_book([100.0, 99.0, 95.0], [1.0, 2.0, 1.0], [0.0, 1.0, 3.5, 4.0, 4.5])
    assert walk.average_price[1:] == pytest.approx([100.0, 345.5 / 3.5, 393 / 4, 393 / 4], rel=1e-12)
    assert walk.worst_price[1:].tolist() == [100.0, 95.0, 95.0, 95.0]
    assert walk.filled_qty.tolist() == [0.0, 1.0, 3.5, 4.0, 4.0]
    assert walk.exhausted.tolist() == [False, False, False, False, True]
    assert np.isnan([walk.average_price[0], walk.worst_price[0]]).all()


def test_an_empty_book_fills_nothing_and_says_so() -> None:
    walk = walk_book([], [], [1.0, 0.0])
    assert (walk.filled_qty.tolist(), walk.exhausted.tolist()) == ([0.0, 0.0], [True, False])
    assert np.isnan(walk.average_price).all()


@given(st.integers(0, 2**32 - 1))
def test_walks_equal_a_loop_over_levels_on_either_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 8))
    price = 100.0 + rng.choice([-1.0, 1.0]) * np.cumsum(rng.uniform(0.01, 1.0, count))
    qty = rng.choice([0.0, 1.0, 2.5], count)
    want = float(rng.uniform(0.1, 12.0))
    left, cost = want, 0.0
    for p, q in zip(price, qty, strict=True):
        taken = min(left, q)
        left, cost = left - taken, cost + taken * p
    walk = walk_book(price, qty, want)
    assert walk.exhausted.item() == (left > 1e-12)
    assert walk.filled_qty.item() == pytest.approx(want - left)
    assert walk.filled_qty.item() == 0 or walk.average_price.item() == pytest.approx(cost / (want - left))


@pytest.mark.parametrize(
    ("price", "qty", "order", "message"),
    [
        ([100.0, 99.0, 99.5], [1.0, 1.0, 1.0], 1.0, "run one way"),
        ([100.0, float("nan")], [1.0, 1.0], 1.0, "finite, positive"),
        ([100.0, 99.0], [1.0, -1.0], 1.0, "quantities must be"),
        ([100.0, 99.0], [1.0], 1.0, "one quantity per price"),
        ([100.0, 99.0], [1.0, 1.0], -1.0, "orders must be"),
        ([100.0, 99.0], [1.0, 1.0], float("nan"), "orders must be"),
    ],
)
def test_books_and_orders_that_make_no_sense_are_refused(
    price: list[float], qty: list[float], order: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        walk_book(price, qty, order)
