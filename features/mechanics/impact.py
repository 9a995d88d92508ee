"""Impact: how far forced flow moves the price of a book, and at what price it is filled.

    move(Q) = sign(Q) * scale * |Q| ** exponent                      relative to the price before the flow

`Q` is the flow in USD at the price before it, sells positive; a positive move is a fall. Every shape of a book is such
a power; with D USD of depth per unit of relative price, and w the width at which D is quoted (WIDTH):

    flat   Q = D * move                 depth is the same everywhere
    ramp   Q = D * move ** 2 / (2 w)    depth grows with distance and reaches D at w
    sqrt   Q = D * move ** 2 / w        the square-root law; D * w within w
    power  Q = D * w * (move / w) ** (1 / exponent)

A law knows no end of the book. Where levels are known, `walk_book` says when they are used up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WIDTH = 0.01  # relative price; where a ramp has reached the depth it is given
EXPONENTS = {"flat": 1.0, "ramp": 0.5, "sqrt": 0.5}
DENSITY = {"flat": 1.0, "ramp": 0.5, "sqrt": 1.0}  # dollars within WIDTH, as a share of D * WIDTH


class Law(NamedTuple):
    """`move(Q) = sign(Q) * scale * |Q| ** exponent`, one value per book."""

    scale: Floats
    exponent: Floats


def power_law(depth_usd: npt.ArrayLike, exponent: npt.ArrayLike) -> Law:
    """The law of a book that holds `depth_usd * WIDTH` within WIDTH and yields with `exponent`.

        move = WIDTH * (Q / (depth * WIDTH)) ** exponent

    Raises ValueError unless depth is finite and positive and the exponent in (0, 1].

    >>> law = power_law([1e9], [0.5])
    >>> move(law, [1e7]).round(9).tolist()  # all that lies within 1 %
    [0.01]
    """
    depth, e = np.broadcast_arrays(np.asarray(depth_usd, dtype=np.float64), np.asarray(exponent, dtype=np.float64))
    if not (np.isfinite(depth) & (depth > 0)).all():
        raise ValueError(f"depth must be finite and positive, was {depth.tolist()}")
    if not ((e > 0) & (e <= 1)).all():
        raise ValueError(f"exponent must be in (0, 1], was {e.tolist()}")
    return Law(WIDTH ** (1 - e) * depth**-e, e.copy())


def shape_law(shape: str | Sequence[str], depth_usd: npt.ArrayLike) -> Law:
    """The law of books by shape: `flat`, `ramp` or `sqrt`, one for all or one for each.

    `depth_usd` is USD of depth per unit of relative price. Raises ValueError for an unknown shape, for lengths that
    differ and for depth that is not finite and positive.

    >>> law = shape_law(["flat", "ramp", "sqrt"], [1e9, 1e9, 1e9])
    >>> move(law, 1e7).round(9).tolist()  # 10M of selling: 1 %; a ramp is half as thick near the touch
    [0.01, 0.014142136, 0.01]
    """
    depth = np.atleast_1d(np.asarray(depth_usd, dtype=np.float64))
    names = [shape] * depth.size if isinstance(shape, str) else list(shape)
    unknown = sorted(set(names) - set(EXPONENTS))
    if unknown:
        raise ValueError(f"shape must be one of {tuple(EXPONENTS)}, was {unknown}")
    if len(names) != depth.size:
        raise ValueError(f"there must be one shape per depth ({depth.size}), were {len(names)}")
    held = np.array([DENSITY[name] for name in names])
    return power_law(depth * held, [EXPONENTS[name] for name in names])


def move(law: Law, flow_usd: npt.ArrayLike) -> Floats:
    """Relative move after `flow_usd`: `sign(Q) * scale * |Q| ** exponent`; the same size for buys, negative."""
    flow = np.asarray(flow_usd, dtype=np.float64)
    return np.asarray(np.sign(flow) * law.scale * np.abs(flow) ** law.exponent)


def flow_to(law: Law, moved: npt.ArrayLike) -> Floats:
    """Flow in USD that makes a relative move: the inverse of `move`, `sign(m) * (|m| / scale) ** (1 / exponent)`.

    >>> flow_to(shape_law("ramp", 1e9), move(shape_law("ramp", 1e9), 1e7)).round(3).tolist()
    [10000000.0]
    """
    m = np.asarray(moved, dtype=np.float64)
    return np.asarray(np.sign(m) * (np.abs(m) / law.scale) ** (1 / law.exponent))


def marginal_move(law: Law, flow_usd: npt.ArrayLike) -> Floats:
    """Relative move per further USD after `flow_usd`: `scale * exponent * |Q| ** (exponent - 1)`.

    Flat: `1 / D` everywhere. Infinite at no flow for the shapes that are empty at the touch.

    >>> marginal_move(shape_law("flat", 2e9), [0.0, 1e9]).tolist()
    [5e-10, 5e-10]
    """
    flow = np.abs(np.asarray(flow_usd, dtype=np.float64))
    with np.errstate(divide="ignore"):
        return np.asarray(law.scale * law.exponent * flow ** (law.exponent - 1))


def mean_move(law: Law, before_usd: npt.ArrayLike, after_usd: npt.ArrayLike) -> Floats:
    """Average relative move over the walk from one cumulated flow to another: how much worse than before it is filled.

        out = integral of move(q) dq from `before` to `after` / (after - before); move(before) where they are equal

    From nothing to Q it is `move(Q) / (1 + exponent)`: half the move on a flat book. Exact to rounding however short
    the walk. Walks may go either way and through zero.

    >>> law = shape_law("flat", 1e9)
    >>> mean_move(law, [0.0, 1e7], [1e7, 3e7]).round(9).tolist()
    [0.005, 0.02]
    """
    a, b = np.broadcast_arrays(np.asarray(before_usd, dtype=np.float64), np.asarray(after_usd, dtype=np.float64))
    same_side = np.sign(a) * np.sign(b) >= 0
    return np.asarray(np.where(same_side, _mean_one_side(law, a, b), _mean_through_zero(law, a, b)))


def _mean_one_side(law: Law, a: Floats, b: Floats) -> Floats:
    """`move(far) * expm1(p * log1p(u)) / (p * u)`, p = 1 + exponent, far the larger of the two, u = near / far - 1."""
    p = 1 + law.exponent
    far = np.where(np.abs(a) > np.abs(b), a, b)
    near = np.where(np.abs(a) > np.abs(b), b, a)
    u = np.where(far != 0, (near - far) / np.where(far != 0, far, 1.0), 0.0).clip(min=-1.0)
    with np.errstate(divide="ignore"):  # log1p(-1) is -inf for a walk from nothing, as it should
        share = np.where(u != 0, np.expm1(p * np.log1p(u)) / (p * np.where(u != 0, u, 1.0)), 1.0)
    return move(law, far) * share


def _mean_through_zero(law: Law, a: Floats, b: Floats) -> Floats:
    p = 1 + law.exponent
    length = np.where(a != b, b - a, 1.0)
    return np.asarray(law.scale * (np.abs(b) ** p - np.abs(a) ** p) / (p * length))


def slippage_when_depth_changes(exponent: npt.ArrayLike, depth_ratio: npt.ArrayLike = 0.5) -> Floats:
    """What slippage is multiplied by when depth is: `depth_ratio ** -exponent`. State the shape with the number.

    >>> slippage_when_depth_changes([EXPONENTS["flat"], EXPONENTS["ramp"]]).round(6).tolist()
    [2.0, 1.414214]
    """
    return np.asarray(np.asarray(depth_ratio, dtype=np.float64) ** -np.asarray(exponent, dtype=np.float64))


def square_root_move(
    flow_usd: npt.ArrayLike, volume_usd: npt.ArrayLike, sigma: npt.ArrayLike, factor: float = 1.0
) -> Floats:
    """The square-root law from volume: `factor * sigma * sqrt(Q / V)`, sigma and V over the same time.

    >>> square_root_move(1e6, 1e8, 0.02).round(6).item()
    0.002
    """
    ratio = np.asarray(flow_usd, dtype=np.float64) / np.asarray(volume_usd, dtype=np.float64)
    return np.asarray(factor * np.asarray(sigma) * np.sqrt(ratio))


class Walk(NamedTuple):
    """Orders filled against one side of a book, one value per order. Prices are NaN where nothing was filled."""

    filled_qty: Floats
    average_price: Floats
    worst_price: Floats
    exhausted: Bools  # the order was larger than all levels together; the rest has no price


def walk_book(level_price: npt.ArrayLike, level_qty: npt.ArrayLike, order_qty: npt.ArrayLike) -> Walk:
    """Fill orders, each alone, against the levels of one side, best first; quantities in base units.

    What the levels do not hold stays unfilled and is flagged: the book is never extrapolated.

    Raises ValueError unless levels run one way from the best, with finite positive prices and quantities of 0 or more,
    and orders are finite and 0 or more.

    >>> walk = walk_book([100.0, 99.0], [1.0, 2.0], [1.0, 2.0, 4.0])
    >>> walk.average_price.round(4).tolist(), walk.filled_qty.tolist(), walk.exhausted.tolist()
    ([100.0, 99.5, 99.3333], [1.0, 2.0, 3.0], [False, False, True])
    """
    price, qty = _levels(level_price, level_qty)
    want = np.atleast_1d(np.asarray(order_qty, dtype=np.float64))
    if not (np.isfinite(want) & (want >= 0)).all():
        raise ValueError("orders must be finite and 0 or more")
    depth = np.concatenate([[0.0], np.cumsum(qty)])
    cost = np.concatenate([[0.0], np.cumsum(price * qty)])
    filled = np.minimum(want, depth[-1])
    last = np.searchsorted(depth[1:], filled, side="left")  # the level in which the order ends
    some = filled > 0
    worst = np.full(filled.size, np.nan)
    average = np.full(filled.size, np.nan)
    worst[some] = price[last[some]]
    average[some] = (cost[last[some]] + (filled[some] - depth[last[some]]) * worst[some]) / filled[some]
    return Walk(filled, average, worst, want > depth[-1])


def _levels(level_price: npt.ArrayLike, level_qty: npt.ArrayLike) -> tuple[Floats, Floats]:
    price = np.atleast_1d(np.asarray(level_price, dtype=np.float64))
    qty = np.atleast_1d(np.asarray(level_qty, dtype=np.float64))
    if price.shape != qty.shape:
        raise ValueError(f"levels must have one quantity per price, were {price.size} prices and {qty.size} quantities")
    steps = np.diff(price)
    if not (np.isfinite(price) & (price > 0)).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("level prices must be finite, positive and run one way from the best")
    if not (np.isfinite(qty) & (qty >= 0)).all():
        raise ValueError("level quantities must be finite and 0 or more")
    return price, qty
