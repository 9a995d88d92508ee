"""The contagion graph: whom the fall of one symbol forces to trade, where, and how far that moves the others.

    G[i, j] = USD forced in symbol i per unit of relative drop of j, in the first round of the market path
    M[i, j] = relative drop of i that this flow makes, per unit of relative drop of j      (loop gain)

Cross margin and shared collateral make the off-diagonals of G, `spill` adds those of correlation to M. Both are
averages over a window: fuel comes in steps, a derivative would be 0 or infinite. Units that are short of margin before
anything moves are forced whatever j does; they are no response to it, and are counted by `overdue_usd` alone.
"""

from typing import NamedTuple

import numpy as np

from features.mechanics.impact import move, shape_law
from models.cascade.fuel import FALL, MICRO, RISE, WINDOW
from models.cascade.slack import Pairs, leg_unit, pairs_of, short_at, unit_slack_usd
from models.cascade.spectrum import amplification, leading, spectral_radius, two_sided
from models.cascade.world import Floats, Ints, World

EDGE = 1 + 1e-9

__all__ = [
    "Loop", "amplification", "forced_flows", "gain_matrix", "leading", "loop_gain", "loop_of", "overdue_usd",
    "spectral_radius", "two_sided",
]  # fmt: skip


def gain_matrix(world: World, window: float = WINDOW, pairs: Pairs | None = None) -> Floats:
    """`G[i, j]`: net USD forced in i when j alone drops by `window`, over `window`; shape (symbols, symbols).

    A negative window asks for rises. Units without a leg in j are not looked at. Positive entries drive i the way j
    went: sales per drop, purchases per rise. Exact: dollars are summed in whole micro-dollars, in any order.

    Raises ValueError for a window of 0 or not in (-1, 1).
    """
    if not 0 < abs(window) < 1:
        raise ValueError(f"window must be in (-1, 1) and not 0, was {window}")
    pairs = pairs_of(world) if pairs is None else pairs
    tripped = short_at(world, pairs, window) & ~(pairs.slack_usd < 0)
    symbols = len(world.symbols)
    micro = np.zeros(symbols * symbols, dtype=np.int64)
    source, leg = _closed(world, pairs.symbol[tripped], pairs.unit[tripped])
    np.add.at(micro, world.leg_symbol[leg] * symbols + source, _flow_micro(world, leg))
    return micro.reshape(symbols, symbols) / MICRO / window


class Loop(NamedTuple):
    """Loop gains over one window, of falls and of rises."""

    fall: Floats
    rise: Floats

    def rho(self) -> float:
        """Spectral radius of falls and rises together."""
        return float(spectral_radius(two_sided(self.fall, self.rise)[None])[0])


def forced_flows(world: World, window: float, pairs: Pairs | None = None) -> tuple[Floats, Floats]:
    """`gain_matrix` of falls and of rises by `window`; a trip at its very edge counts, whatever rounding says of it."""
    fall, rise = (gain_matrix(world, side * window * EDGE, pairs) * EDGE for side in (FALL, RISE))
    return fall, rise


def loop_of(world: World, forced: tuple[Floats, Floats], window: float) -> Loop:
    """Loop gains of what `forced_flows` found, in this world's books."""
    fall, rise = (loop_gain(world, gain, side * window) + 0.0 for side, gain in zip((FALL, RISE), forced, strict=True))
    return Loop(fall, rise)


def _closed(world: World, source: Ints, unit: Ints) -> tuple[Ints, Ints]:
    """Every leg of each of `unit`, beside the `source` that tripped it."""
    first, count = world.leg_start[unit], np.diff(world.leg_start)[unit]
    before = np.repeat(np.cumsum(count) - count, count)
    return np.repeat(source, count), np.repeat(first, count) + np.arange(count.sum()) - before


def _flow_micro(world: World, leg: Ints) -> Ints:
    usd = np.where(world.leg_closable[leg], world.leg_qty[leg] * world.price_usd[world.leg_symbol[leg]], 0.0)
    return np.rint(usd * MICRO).astype(np.int64)


def overdue_usd(world: World) -> Floats:
    """Net USD, sales positive, of the units that are short of margin before anything moves; per symbol."""
    legs = np.flatnonzero((unit_slack_usd(world) < 0)[leg_unit(world)])
    micro = np.zeros(len(world.symbols), dtype=np.int64)
    np.add.at(micro, world.leg_symbol[legs], _flow_micro(world, legs))
    return micro / MICRO


def loop_gain(world: World, gain: Floats, window: float = WINDOW) -> Floats:
    """`M = spill @ move(G * window) / window`, from the flow of `gain_matrix(world, window)`.

    On a flat book this is `spill @ diag(1 / depth) @ G`. Where impact is not proportional (ramp, sqrt), it is the
    average impact over the flow of the window, so that it depends on the window beyond G.
    """
    law = shape_law(world.books.shape, world.books.depth_usd)
    moved = [move(law, column) for column in (gain * window).T]
    return np.asarray(world.spill @ np.array(moved).T / window)
