"""Isolated positions as ladders: per symbol and side, sorted trip drops and the flow that has been forced up to each.

A unit with one leg trips at one drop of its own symbol, whatever else moves. Under the market path the fixed point is
then a search in sorted arrays, and no account is touched at all:

    long    x > min over tiers of (free + deduction - size * rate) / (size * (1 - rate))
    short   x < max over tiers of (size * rate - deduction - free) / (size * (1 + rate))

with `free = cash + unrealised profit` and `size = |notional|`, both at the reference mark. Who was closed stays closed,
so each side needs the furthest drop of all rounds only.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from features.mechanics.impact import Law, move, shape_law
from models.cascade.kernel import MICRO
from models.cascade.prepared import FLOW_USD_MAX
from models.cascade.world import Bools, Floats, Ints, World


@dataclass(frozen=True)
class Side:
    """One side of one symbol: trips ascending, and the micro-dollars of those before each place (one more than trips).

    Trips of shorts are rises, the negative of drops.
    """

    trip: Floats
    micro: Ints


@dataclass(frozen=True)
class Ladders:
    longs: tuple[Side, ...]  # one per symbol
    shorts: tuple[Side, ...]
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
    micro = np.rint(np.abs(notional) * MICRO).astype(np.int64)
    sides: list[list[Side]] = [[], []]
    order = np.lexsort((trip, notional < 0, world.leg_symbol))
    group = (world.leg_symbol * 2 + (notional < 0))[order]
    edges = np.searchsorted(group, np.arange(2 * len(world.symbols) + 1))
    for kind, (first, last) in enumerate(pairwise(edges.tolist())):
        rows = order[first:last]
        sides[kind % 2].append(Side(trip[rows], np.concatenate([[0], np.cumsum(micro[rows])])))
    law = shape_law(world.books.shape, world.books.depth_usd)
    return Ladders(tuple(sides[0]), tuple(sides[1]), law, world.spill, world.books.depth_limit)


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
    """Fixed points of all `shocks`, (shocks, symbols), under the market path; all of them at once, round by round."""
    count, symbols = shocks.shape
    drop, furthest = shocks.copy(), np.full((2, count, symbols), -np.inf)
    flow, closed, hits = (np.zeros((count, symbols), dtype=np.int64) for _ in range(3))
    rounds, live = np.zeros(count, dtype=np.int64), np.arange(count)
    for now in range(1, rounds_max + 1):
        drop[live] = _drops(prepared, shocks[live], flow[live])
        furthest[0, live] = np.maximum(furthest[0, live], drop[live])
        furthest[1, live] = np.maximum(furthest[1, live], -drop[live])
        before = closed[live]
        flow[live], closed[live], hits[live] = _forced(prepared, furthest[:, live])
        moved = (closed[live] != before).any(axis=1)
        live = live[moved]
        rounds[live] = now
        if not len(live):
            break
    exhausted = (np.abs(move(prepared.law, flow / MICRO)) > prepared.depth_limit) | (drop >= 1.0)
    return LadderOutcomes(drop, closed, flow, exhausted, hits.sum(axis=1), rounds)


def _drops(prepared: Ladders, shocks: Floats, flow: Ints) -> Floats:
    """`min(shock + spill @ move(flow), 1)`, summed symbol after symbol as the kernel does."""
    moves, total = move(prepared.law, flow / MICRO), np.zeros(shocks.shape)
    for place in range(shocks.shape[1]):
        total += prepared.spill[:, place] * moves[:, place : place + 1]
    return np.asarray(np.minimum(shocks + total, 1.0))


def _forced(prepared: Ladders, furthest: Floats) -> tuple[Ints, Ints, Ints]:
    """Net and gross micro-dollars and units forced by the furthest moves; a loop over symbols, never over units."""
    net, gross, hits = (np.zeros(furthest.shape[1:], dtype=np.int64) for _ in range(3))
    for sides, sign, moved in ((prepared.longs, 1, furthest[0]), (prepared.shorts, -1, furthest[1])):
        for place, side in enumerate(sides):
            reached = np.searchsorted(side.trip, moved[:, place], side="left")
            net[:, place] += sign * side.micro[reached]
            gross[:, place] += side.micro[reached]
            hits[:, place] += reached
    return net, gross, hits
