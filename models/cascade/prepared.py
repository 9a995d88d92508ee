"""A world made ready for many shocks: units in the order in which they can breach, and what a glance at them needs.

A unit is short of margin at the drops `x` iff `E(x) < MM(x)`. Maintenance is convex in each drop, so its chord over
drops from -1 to 1 lies above it in between, and

    room(x) = room - sum over legs of weight * x  <=  (E(x) - MM(x)) / sum of |coefficients|

is a bound that is linear in the drops: a unit whose `room(x)` is positive is safe without a further look. Where a leg
stays in one tier the bound is the truth itself. Weights of a unit add up to 1 in absolute value, so its room is also
the largest drop, in whatever direction, that surely does not hurt it.

Units lie in blocks of `BLOCK`. Every block holds units with the same largest leg (symbol and side) and similar weights,
those with the least room first; so a few numbers bound the loss of a whole block:

    loss <= leg * (adverse move of its symbol) + fall * (largest fall) + rise * (largest rise)
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.mechanics.impact import Law, shape_law
from models.cascade.world import Bools, Floats, Ints, World

BLOCK = 32
BINS = 4  # of the weight of the largest leg, and of the share of falls that hurt
FLOW_USD_MAX = 4e12  # gross notional whose micro-dollars still fit Int64
ULP = 1.2e-7  # twice the rounding of single precision

Singles = npt.NDArray[np.float32]


class Units(NamedTuple):
    """Units of margin that a path can close, in the order of blocks; legs unit after unit, by symbol."""

    start: Ints  # (units + 1,)
    symbol: Ints  # (legs,), Int32
    notional: Floats  # (legs,), signed USD at the reference mark
    profit: Floats  # (legs,), unrealised USD at the reference mark
    closable: Bools  # (legs,)
    cash: Floats  # (units,)
    gross: Floats  # (units,), notional that a path can close
    beside: Bools  # (units,), holds collateral that moves with a symbol
    rates: Floats  # (tiers, symbols)
    deductions: Floats


class Sieve(NamedTuple):
    """The bound in single precision, rounded to the safe side, and its summary by block."""

    room: Singles  # (units,)
    weight: Singles  # (legs,)
    block_room: Floats  # (blocks,), the least of its units
    block_symbol: Ints  # (blocks,), symbol of the largest leg
    block_rises: Bools  # (blocks,), a rise hurts the largest leg
    block_leg: Floats  # (blocks,), least weight of the largest leg
    block_fall: Floats  # (blocks,), largest weight of all else that a fall hurts
    block_rise: Floats


@dataclass(frozen=True)
class Prepared:
    """`unit[i]` is the place in `world` of row i of `units`; units without a leg to close have no row."""

    world: World
    unit: Ints
    units: Units
    sieve: Sieve
    law: Law


class _Legs(NamedTuple):
    unit: Ints
    symbol: Ints
    notional: Floats
    profit: Floats
    closable: Bools


def prepare(world: World) -> Prepared:
    """Sort, bound and block the units of `world`; work that 1,000 shocks share.

    Raises ValueError where the gross notional is beyond `FLOW_USD_MAX`: sums would not be exact.
    """
    legs = canonical_legs(world)
    if not np.abs(legs.notional).sum() <= FLOW_USD_MAX:
        raise ValueError(f"gross notional must be at most {FLOW_USD_MAX:,.0f} USD, was {np.abs(legs.notional).sum():,}")
    constant, slope = _chords(world, legs)
    weight, room = _bounds(world, legs, constant, slope)
    largest = _largest_leg(weight, legs, world.units)
    order = _order(legs, weight, room, largest, np.bincount(legs.unit[legs.closable], minlength=world.units) > 0)
    units, rows = _gather(world, legs, order)
    sieve = _sieve(legs, rows, weight[rows], room[order], units, largest[order])
    return Prepared(world, order, units, sieve, shape_law(world.books.shape, world.books.depth_usd))


def canonical_legs(world: World) -> _Legs:
    """Legs by unit and symbol, without those of no size: the order in which a world names its legs has no effect."""
    unit = np.repeat(np.arange(world.units), np.diff(world.leg_start))
    keys = (world.leg_entry, world.leg_qty, world.leg_closable, world.leg_symbol, unit)
    step = np.diff(unit * len(world.symbols) + world.leg_symbol)
    keep = np.flatnonzero(world.leg_qty != 0) if (step > 0).all() else np.lexsort(keys)
    keep = keep[world.leg_qty[keep] != 0]
    price, qty = world.price_usd[world.leg_symbol[keep]], world.leg_qty[keep]
    profit = np.where(world.leg_closable[keep], qty * (price - world.leg_entry[keep]), 0.0)
    return _Legs(unit[keep], world.leg_symbol[keep].astype(np.int32), qty * price, profit, world.leg_closable[keep])


def maintenance_usd(world: World, symbol: Ints, notional_usd: Floats) -> Floats:
    """Maintenance of legs by tier lines; a loop over tiers, never over legs."""
    most = np.full(len(symbol), -np.inf)
    for rates, deductions in zip(world.rates, world.deductions, strict=True):
        np.maximum(most, notional_usd * rates[symbol] - deductions[symbol], out=most)
    return most


def _chords(world: World, legs: _Legs) -> tuple[Floats, Floats]:
    """`constant - slope * x` through the maintenance of a leg at drops of 1 and -1."""
    size = np.abs(legs.notional)
    doubled, gone = (maintenance_usd(world, legs.symbol, size * scale) for scale in (2.0, 0.0))
    return tuple(np.where(legs.closable, (doubled + sign * gone) / 2, 0.0) for sign in (1, -1))  # type: ignore[return-value]  # two of them


def _bounds(world: World, legs: _Legs, constant: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Weights per leg and room per unit."""
    per_drop = legs.notional - slope
    free = world.cash_usd + np.bincount(legs.unit, legs.profit - constant, world.units)
    scale = np.bincount(legs.unit, np.abs(per_drop), world.units)
    with np.errstate(divide="ignore", invalid="ignore"):
        return per_drop / scale[legs.unit], np.where(scale > 0, free / scale, np.inf)


def _largest_leg(weight: Floats, legs: _Legs, units: int) -> Ints:
    """Place of the largest leg of each unit; 0 where it has none."""
    most = np.zeros(units)
    np.maximum.at(most, legs.unit, np.abs(weight))
    place = np.zeros(units, dtype=np.int64)
    at = np.flatnonzero(np.abs(weight) == most[legs.unit])[::-1]
    place[legs.unit[at]] = at
    return place


def _order(legs: _Legs, weight: Floats, room: Floats, largest: Ints, closable: Bools) -> Ints:
    """Units that a path can close, by the kind of their block, then by room."""
    hurt_by_falls = np.bincount(legs.unit, np.maximum(weight, 0.0), len(room))
    size = np.abs(weight[largest])
    bins = np.minimum(size * BINS, BINS - 1).astype(np.int64) * (BINS + 1)
    bins += np.minimum(hurt_by_falls * BINS + 0.5, BINS).astype(np.int64)
    kind = (legs.symbol[largest].astype(np.int64) * 2 + (weight[largest] < 0)) * BINS * (BINS + 1) + bins
    order = np.lexsort((room, kind))
    return order[closable[order]]


def _gather(world: World, legs: _Legs, order: Ints) -> tuple[Units, Ints]:
    """Columns of the units in `order`, and the places of their legs."""
    count = np.bincount(legs.unit, minlength=world.units)
    first = np.cumsum(count) - count
    start = np.concatenate([[0], np.cumsum(count[order])])
    rows = np.arange(start[-1]) + np.repeat(first[order] - start[:-1], count[order])
    notional, closable = legs.notional[rows], legs.closable[rows]
    owner = np.repeat(np.arange(len(order)), count[order])
    gross = np.bincount(owner[closable], np.abs(notional[closable]), len(order)).astype(np.float64)
    symbol, profit, cash = legs.symbol[rows], legs.profit[rows], world.cash_usd[order]
    beside = np.bincount(owner, ~closable, len(order)) > 0
    return Units(start, symbol, notional, profit, closable, cash, gross, beside, world.rates, world.deductions), rows


def _sieve(legs: _Legs, rows: Ints, weight: Floats, room: Floats, units: Units, largest: Ints) -> Sieve:  # noqa: PLR0917  # the parts of a bound
    """Bounds in single precision and their summary by block; `largest` are places of legs in the world's order.

    A block that spans two kinds counts no largest leg.
    """
    count, edges = np.diff(units.start), np.arange(0, len(room), BLOCK)
    safe = (room - ULP * (count + 4) * (1 + np.abs(room))).astype(np.float32)
    if not len(edges):
        none, flags = np.zeros(0), np.zeros(0, dtype=np.bool_)
        return Sieve(safe, weight.astype(np.float32), none, none.astype(np.int64), flags, none, none, none)
    size = np.zeros(len(legs.unit))
    size[rows] = weight
    lead, symbol = size[largest], legs.symbol[largest].astype(np.int64)
    kind = symbol * 2 + (lead < 0)
    one_kind = np.maximum.reduceat(kind, edges) == np.minimum.reduceat(kind, edges)
    least = np.where(one_kind, np.minimum.reduceat(np.abs(lead), edges), 0.0)
    of_unit = np.repeat(least, np.diff(np.append(edges, len(room))))
    falls = np.add.reduceat(np.maximum(weight, 0.0), units.start[:-1])
    fall = _most(falls - np.where(lead > 0, of_unit, 0.0), edges)
    rise = _most(1.0 - falls - np.where(lead < 0, of_unit, 0.0), edges)
    least_room = np.minimum.reduceat(safe, edges).astype(np.float64)
    return Sieve(safe, weight.astype(np.float32), least_room, symbol[edges], lead[edges] < 0, least, fall, rise)


def _most(weight: Floats, edges: Ints) -> Floats:
    """Largest weight per block, rounded up."""
    return np.asarray(np.maximum(np.maximum.reduceat(weight, edges), 0.0) * (1 + 1e-9) + 1e-9)
