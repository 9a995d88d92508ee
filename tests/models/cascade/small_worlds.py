"""Small worlds for the tests of the cascade engine: the ladder of textbooks, and random ones from a seed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.cascade.world import Books, Floats, World

RUNGS = 40
LADDER_SHOCK = 0.0101
# depth -> final drop, liquidated USD
LADDER_TABLE = {
    4.0e9: (0.0176, 30e6),
    3.0e9: (0.0101 + 4 / 300, 40e6),
    2.5e9: (0.0341, 60e6),
    2.1e9: (0.0101 + 22 / 210, 220e6),
    2.0e9: (0.2101, 400e6),
    1.0e9: (0.4101, 400e6),
}


def one_leg(  # one book, one position per unit
    qty: Sequence[float] | Floats, cash: Sequence[float] | Floats, *, depth: float = 1e9, shape: str = "flat"
) -> World:
    """Isolated positions in one symbol at 100, entered at 100, without maintenance."""
    size = np.asarray(qty, dtype=np.float64)
    return World(
        symbols=("X",),
        price_usd=np.array([100.0]),
        books=Books(np.array([depth]), (shape,), np.array([np.inf])),
        spill=np.eye(1),
        rates=np.zeros((1, 1)),
        deductions=np.zeros((1, 1)),
        cash_usd=np.asarray(cash, dtype=np.float64),
        leg_start=np.arange(len(size) + 1),
        leg_symbol=np.zeros(len(size), dtype=np.int64),
        leg_qty=size,
        leg_entry=np.full(len(size), 100.0),
        leg_closable=np.ones(len(size), dtype=np.bool_),
        account=np.arange(len(size)),
    )


def ladder_world(depth: float, scale: float = 1.0) -> World:
    """10M of longs at each of 99.5, 99.0, .. 80.0: a position of 100,000 units falls short by 0.5 per rung of cash."""
    rungs = np.arange(1, RUNGS + 1)
    return one_leg(np.full(RUNGS, 100_000.0 * scale), 100_000.0 * scale * 0.5 * rungs, depth=depth * scale)


def random_world(seed: int, units: int = 300, symbols: int = 6, shape: str = "flat", spill: float = 0.2) -> World:
    """Cross units of 1 to 5 legs, tiers, mixed sides, collateral that moves, some units already short of margin."""
    rng = np.random.default_rng(seed)
    legs = rng.integers(1, 6, units)
    start = np.concatenate([[0], np.cumsum(legs)])
    symbol = np.concatenate([rng.permutation(symbols)[:count] for count in legs])
    price = np.exp(rng.normal(3.0, 1.0, symbols))
    notional = np.exp(rng.normal(11.0, 1.5, start[-1]))
    qty = notional * np.where(rng.random(start[-1]) < 0.65, 1.0, -1.0) / price[symbol]
    closable = rng.random(start[-1]) < 0.85
    entry = price[symbol] * np.where(closable, 1 + rng.normal(0.0, 0.03, start[-1]), 1.0)
    owner = np.repeat(np.arange(units), legs)
    gross = np.bincount(owner, notional, units)
    profit = np.bincount(owner, qty * (price[symbol] - entry), units)
    interest = np.bincount(symbol, notional, symbols)
    cash = gross * np.exp(rng.normal(-2.5, 0.8, units)) - profit
    return World(
        symbols=tuple("ABCDEFGH"[:symbols]),
        price_usd=price,
        books=Books(interest * rng.uniform(3, 15, symbols), (shape,) * symbols, rng.uniform(0.01, 0.05, symbols)),
        spill=np.where(np.eye(symbols) > 0, 1.0, spill * rng.uniform(0.0, 1.0, (symbols, symbols))),
        rates=np.repeat(np.array([[0.004], [0.01], [0.05]]), symbols, 1),
        deductions=np.repeat(np.array([[0.0], [600.0], [40_600.0]]), symbols, 1),
        cash_usd=cash,
        leg_start=start,
        leg_symbol=symbol,
        leg_qty=qty,
        leg_entry=entry,
        leg_closable=closable,
        account=np.arange(units) // 2,
    )


def shuffled(world: World, seed: int) -> tuple[World, Floats]:
    """The same world with its units, and the legs of each, in another order; and where each unit came from."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(world.units)
    counts = np.diff(world.leg_start)
    spans = [world.leg_start[u] + rng.permutation(counts[u]) for u in order]
    rows = np.concatenate(spans)
    columns = {name: getattr(world, name)[rows] for name in ("leg_symbol", "leg_qty", "leg_entry", "leg_closable")}
    start = np.concatenate([[0], np.cumsum(counts[order])])
    cash, account = world.cash_usd[order], world.account[order]
    return replace(world, leg_start=start, cash_usd=cash, account=account, **columns), order
