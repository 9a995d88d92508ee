"""Small worlds whose trips can be read off: one tier of 1 % unless told otherwise, marks of 100."""

from collections.abc import Sequence

import numpy as np

from models.cascade.world import FLAT, Books, World

RATE = 0.01
Leg = tuple[int, float] | tuple[int, float, bool]  # symbol, qty, closable


def world(
    units: Sequence[tuple[float, Sequence[Leg]]],
    depth_usd: Sequence[float],
    *,
    shape: str = FLAT,
    spill: float = 0.0,
    depth_limit: float = np.inf,
    tiers: Sequence[tuple[float, float]] = ((RATE, 0.0),),
) -> World:
    """`units` are (cash, legs), entered at the mark; `depth_usd` one per symbol; `spill` off the diagonal."""
    symbols = len(depth_usd)
    legs = [(leg[0], leg[1], leg[2] if len(leg) > 2 else True) for _, own in units for leg in own]
    spilled = np.full((symbols, symbols), spill)
    np.fill_diagonal(spilled, 1.0)
    return World(
        symbols=tuple("ABCDEFGHIJ"[:symbols]),
        price_usd=np.full(symbols, 100.0),
        books=Books(np.array(depth_usd, dtype=float), (shape,) * symbols, np.full(symbols, depth_limit)),
        spill=spilled,
        rates=np.array([[rate] * symbols for rate, _ in tiers]),
        deductions=np.array([[deduction] * symbols for _, deduction in tiers]),
        cash_usd=np.array([cash for cash, _ in units], dtype=float),
        leg_start=np.cumsum([0, *(len(own) for _, own in units)]),
        leg_symbol=np.array([leg[0] for leg in legs], dtype=np.int64),
        leg_qty=np.array([leg[1] for leg in legs], dtype=float),
        leg_entry=np.full(len(legs), 100.0),
        leg_closable=np.array([leg[2] for leg in legs], dtype=bool),
        account=np.arange(len(units)),
        account_names=tuple(f"a{number:03d}" for number in range(len(units))),
    )


def cash_to_trip(qty: float, drop: float, rate: float = RATE) -> float:
    """Cash with which a lone leg trips at `drop`: `cash - qty * 100 x = |qty| * 100 (1 - x) * rate`."""
    return qty * 100 * drop + abs(qty) * 100 * (1 - drop) * rate


def ladder(depth_usd: float, shape: str = FLAT) -> World:
    """10M of longs at every 0.5 below 99.5, 40 rungs: drops .005, .010, ... .200."""
    rungs = [0.005 * step for step in range(1, 41)]
    return world([(cash_to_trip(1e5, drop), [(0, 1e5)]) for drop in rungs], [depth_usd], shape=shape)


def random_world(seed: int, units: int = 60, symbols: int = 4) -> World:
    """Cross units of one to four legs of either side, some of them collateral, three tiers."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(units):
        chosen = rng.choice(symbols, size=rng.integers(1, symbols + 1), replace=False)
        legs: list[Leg] = [(int(s), float(rng.normal() * 300)) for s in chosen]
        if rng.random() < 0.3:
            legs.append((int(rng.integers(symbols)), float(rng.random() * 100), False))
        gross = 100 * sum(abs(leg[1]) for leg in legs if len(leg) == 2)
        made.append((gross * float(rng.lognormal(-2.5, 0.8)), legs))
    tiers = ((0.01, 0.0), (0.02, 100.0), (0.05, 1_000.0))
    return world(made, list(rng.lognormal(15, 0.5, symbols)), spill=0.2, tiers=tiers)
