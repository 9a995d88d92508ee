"""Slack of units of margin when one symbol moves alone: `equity - maintenance`, and the drop at which it is used up.

The unit of work is a pair: one unit of margin and one symbol that it has a leg in (a position, or collateral that
moves with the symbol). With every other symbol held still, its slack is a concave, piecewise linear function of the
drop x of that symbol:

    slack(x) = slack(0) - x * exposure - (maintenance of its legs in the symbol at x - at 0)

A unit is short of margin iff its slack is below 0 (0 is safe).
"""

from dataclasses import dataclass

import numpy as np

from models.cascade.world import Bools, Floats, Ints, World

NEVER = np.inf
STEPS_MAX = 200  # a root lies on one of a few lines per leg; each step leaves one line behind


@dataclass(frozen=True)
class Pairs:
    """One row per unit and symbol with a leg, by symbol; `leg_pair` gives the pair of every leg."""

    unit: Ints
    symbol: Ints
    leg_pair: Ints
    exposure_usd: Floats  # signed, collateral included
    closable_usd: Floats  # signed, what would be sold if the unit closed
    slack_usd: Floats  # of the unit, at no drop


def leg_unit(world: World) -> Ints:
    """The unit of every leg."""
    return np.repeat(np.arange(world.units), np.diff(world.leg_start))


def leg_maintenance_usd(world: World, drop: Floats, legs: Ints | slice = slice(None)) -> tuple[Floats, Floats]:
    """Maintenance of `legs` at a drop of their symbol (one per leg), and its slope over the drop; 0 for collateral."""
    symbol, closable = world.leg_symbol[legs], world.leg_closable[legs]
    notional = np.abs(world.leg_qty[legs]) * world.price_usd[symbol]
    highest, rate = np.zeros(len(symbol)), np.zeros(len(symbol))
    for rates, deductions in zip(world.rates, world.deductions, strict=True):
        line = notional * (1 - drop) * rates[symbol] - deductions[symbol]
        over = closable & (line > highest)
        highest, rate = np.where(over, line, highest), np.where(over, rates[symbol], rate)
    return highest, -notional * rate


def unit_slack_usd(world: World) -> Floats:
    """Equity less maintenance of every unit at the reference marks."""
    value = world.leg_qty * (world.price_usd[world.leg_symbol] - world.leg_entry)
    margin, _ = leg_maintenance_usd(world, np.zeros(len(world.leg_qty)))
    return world.cash_usd + _summed(leg_unit(world), value - margin, world.units)


def _summed(place: Ints, values: Floats, places: int) -> Floats:
    return np.bincount(place, weights=values, minlength=places).astype(np.float64, copy=False)


def pairs_of(world: World) -> Pairs:
    """Every pair of a unit and a symbol it has a leg in, by symbol and unit."""
    key = world.leg_symbol * world.units + leg_unit(world)
    found, leg_pair = np.unique(key, return_inverse=True)
    value = world.leg_qty * world.price_usd[world.leg_symbol]
    unit = found % max(world.units, 1)
    return Pairs(
        unit=unit,
        symbol=found // max(world.units, 1),
        leg_pair=leg_pair,
        exposure_usd=_summed(leg_pair, value, len(found)),
        closable_usd=_summed(leg_pair, np.where(world.leg_closable, value, 0.0), len(found)),
        slack_usd=unit_slack_usd(world)[unit],
    )


def pair_slack_usd(world: World, pairs: Pairs, drop: Floats, legs: Ints | slice = slice(None)) -> tuple[Floats, Floats]:
    """Slack of every pair at its own `drop`, and its slope over the drop; `legs` are the legs of `pairs`."""
    at_leg, rows = drop[pairs.leg_pair], len(pairs.unit)
    before, _ = leg_maintenance_usd(world, np.zeros_like(at_leg), legs)
    after, slope = leg_maintenance_usd(world, at_leg, legs)
    grown = _summed(pairs.leg_pair, after - before, rows)
    steeper = _summed(pairs.leg_pair, slope, rows)
    return pairs.slack_usd - drop * pairs.exposure_usd - grown, -pairs.exposure_usd - steeper


def short_at(world: World, pairs: Pairs, drop: float) -> Bools:
    """Pairs whose unit is short of margin at `drop` of the symbol alone."""
    slack, _ = pair_slack_usd(world, pairs, np.full(len(pairs.unit), drop))
    return np.asarray(slack < 0)


def trip_drops(world: World, pairs: Pairs, drop_max: float) -> Floats:
    """The drop between 0 and `drop_max` at which each pair's slack is 0; negative `drop_max` asks for rises.

    0 where the unit is short already, NEVER where it is not short at `drop_max`. Newton's method from the short side:
    on a concave function it steps towards the root, never past it, and lands on it in as many steps as there are
    lines; exact to rounding.
    """
    out = np.where(pairs.slack_usd < 0, 0.0, NEVER)
    drop = np.full(len(out), drop_max)
    slack, slope = pair_slack_usd(world, pairs, drop)
    open_ = (slack < 0) & ~(pairs.slack_usd < 0)
    part, legs = _narrowed(pairs, open_)
    slack, slope, drop = slack[open_], slope[open_], drop[open_]
    for _ in range(STEPS_MAX):
        after = drop - slack / slope
        settled = np.abs(after - drop) <= 1e-15 * abs(drop_max)
        drop = after
        if settled.all():
            break
        slack, slope = pair_slack_usd(world, part, drop, legs)
    out[open_] = drop
    return out


def _narrowed(pairs: Pairs, chosen: Bools) -> tuple[Pairs, Ints]:
    """The chosen pairs, and the legs that are theirs."""
    legs = np.flatnonzero(chosen[pairs.leg_pair])
    place = np.cumsum(chosen) - 1
    part = Pairs(
        pairs.unit[chosen],
        pairs.symbol[chosen],
        place[pairs.leg_pair[legs]],
        pairs.exposure_usd[chosen],
        pairs.closable_usd[chosen],
        pairs.slack_usd[chosen],
    )
    return part, legs
