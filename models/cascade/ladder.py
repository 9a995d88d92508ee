"""Isolated positions as ladders: per symbol and side, sorted trip drops and the flow that has been forced up to each.

A unit with one leg trips at one drop of its own symbol, whatever else moves. Under the market path the fixed point is
then a search in sorted arrays, and no account is touched at all:

    long    x > min over tiers of (free + deduction - size * rate) / (size * (1 - rate))
    short   x < max over tiers of (size * rate - deduction - free) / (size * (1 + rate))

with `free = cash + unrealised profit` and `size = |notional|`, both at the reference mark. Who was closed stays closed,
so each side needs the furthest drop of all rounds only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from features.mechanics.impact import Law, move, shape_law
from models.cascade.kernel import MICRO, Market, compiled, move_at, spilled
from models.cascade.prepared import FLOW_USD_MAX
from models.cascade.world import Bools, Floats, Ints, World


class Rungs(NamedTuple):
    """Trips of all sides, ascending within each: side `2 * symbol` holds the longs, the next one the shorts.

    Trips of shorts are rises, the negative of drops.
    """

    trip: Floats  # (units,)
    burnt: Ints  # (units + 1,), micro-dollars of all rungs before each place
    start: Ints  # (2 * symbols + 1,)


@dataclass(frozen=True)
class Ladders:
    rungs: Rungs
    law: Law
    spill: Floats
    depth_limit: Floats


@dataclass(frozen=True)
class LadderOutcomes:
    """As `engine.Outcomes`, without what depends on each account's own fill."""

    drop: Floats  # (shocks, symbols)
    liquidated_micro: Ints
    flow_micro: Ints
    exhausted: Bools
    units_hit: Ints  # (shocks,)
    rounds: Ints


def ladders(world: World) -> Ladders:
    """Sort the units of `world` once.

    Raises ValueError unless every unit is one leg that a path can close.
    """
    if not ((np.diff(world.leg_start) == 1).all() and world.leg_closable.all()):
        raise ValueError("every unit must be one isolated position: ladders know no cross margin")
    if not np.abs(world.leg_qty * world.price_usd[world.leg_symbol]).sum() <= FLOW_USD_MAX:
        raise ValueError(f"gross notional must be at most {FLOW_USD_MAX:,.0f} USD")
    notional = world.leg_qty * world.price_usd[world.leg_symbol]
    trip = _trips(world, notional)
    side = world.leg_symbol * 2 + (notional < 0)
    order = np.lexsort((trip, side))
    micro = np.rint(np.abs(notional[order]) * MICRO).astype(np.int64)
    start = np.searchsorted(side[order], np.arange(2 * len(world.symbols) + 1)).astype(np.int64)
    rungs = Rungs(trip[order], np.concatenate([[0], np.cumsum(micro)]), start)
    law = shape_law(world.books.shape, world.books.depth_usd)
    return Ladders(rungs, law, np.ascontiguousarray(world.spill), world.books.depth_limit)


def _trips(world: World, notional: Floats) -> Floats:
    """Drop (long) or rise (short) beyond which each unit is short of margin; a loop over tiers, never over units."""
    size, long = np.abs(notional), notional > 0
    free = world.cash_usd + world.leg_qty * (world.price_usd[world.leg_symbol] - world.leg_entry)
    trip = np.full(world.units, np.inf)
    for rates, deductions in zip(world.rates, world.deductions, strict=True):
        rate, deduction = rates[world.leg_symbol], deductions[world.leg_symbol]
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = (free + deduction - size * rate) / np.where(long, size * (1 - rate), size * (1 + rate))
        trip = np.fmin(trip, needed)
    return np.where(size > 0, trip, np.inf)


def run_ladders(prepared: Ladders, shocks: Floats, rounds_max: int = 20_000) -> LadderOutcomes:
    """Fixed points of all `shocks`, (shocks, symbols), under the market path."""
    count, symbols = shocks.shape
    drop, rounds, hits = np.zeros((count, symbols)), np.zeros(count, np.int64), np.zeros(count, np.int64)
    flow, closed = (np.zeros((count, symbols), np.int64) for _ in range(2))
    linked = not np.array_equal(prepared.spill, np.eye(symbols))
    market = Market(prepared.law.scale, prepared.law.exponent, prepared.spill, linked)
    found = Climb(drop, flow, closed, hits, rounds)
    _climb(prepared.rungs, market, np.ascontiguousarray(shocks, dtype=np.float64), rounds_max, found)
    exhausted = (np.abs(move(prepared.law, flow / MICRO)) > prepared.depth_limit) | (drop >= 1.0)
    return LadderOutcomes(drop, closed, flow, exhausted, hits, rounds)


class Climb(NamedTuple):
    """Where the results of each shock are written; (shocks, symbols), then (shocks,)."""

    drop: Floats
    flow: Ints
    closed: Ints
    hits: Ints
    rounds: Ints


@compiled
def _climb(rungs: Rungs, market: Market, shocks: Floats, rounds_max: int, out: Climb) -> None:
    """Shock by shock, round by round: drops from the flow so far, then every side up to its drop."""
    symbols = shocks.shape[1]
    moves, reached = np.empty(symbols), np.empty(2 * symbols, np.int64)
    for shock in range(len(shocks)):
        reached[:] = rungs.start[:-1]
        for now in range(1, rounds_max + 1):
            for s in range(symbols):
                moves[s] = move_at(out.flow[shock, s] / MICRO, market.scale[s], market.exponent[s])
            for s in range(symbols):
                out.drop[shock, s] = min(shocks[shock, s] + spilled(market, moves, s), 1.0)
            moved = False
            for side in range(2 * symbols):
                s, sign = side // 2, 1 - 2 * (side % 2)
                place = _first_not_below(rungs.trip, reached[side], rungs.start[side + 1], sign * out.drop[shock, s])
                micro = rungs.burnt[place] - rungs.burnt[reached[side]]
                out.hits[shock] += place - reached[side]
                out.flow[shock, s] += sign * micro
                out.closed[shock, s] += micro
                reached[side] = place
                moved |= micro > 0
            if not moved:
                break
            out.rounds[shock] = now


@compiled
def _first_not_below(values: Floats, first: int, last: int, bound: float) -> int:
    """The first place in the ascending `values[first:last]` whose value is not below `bound`; `last` if all are.

    >>> _first_not_below(np.array([9.0, 1.0, 2.0, 2.0, 3.0]), 1, 5, 2.0)
    2
    """
    while first < last:
        middle = (first + last) // 2
        if values[middle] < bound:
            first = middle + 1
        else:
            last = middle
    return first
