"""Generated worlds and shocks for the benchmark and the tests of the cascade engine: everything from a seed."""

import numpy as np

from features.mechanics.margin import deductions_usd
from models.cascade.world import Books, Floats, World

UPPER_USD, RATES = (50e3, 250e3, 1e6, 1e9), (0.004, 0.005, 0.01, 0.025)


def accounts(
    units: int,
    seed: int,
    *,
    symbols: int = 50,
    legs: int = 3,
    depth_share: float = 10.0,
    leverage: float = 8.0,
    longs: float = 0.65,
    shape: str = "flat",
    spill: float = 0.1,
) -> World:
    """Cross accounts with `legs` positions each: lognormal leverage and size, tiers, mixed sides.

    `depth_share` is USD of depth per unit of relative price of a symbol, as a multiple of its open interest.
    """
    rng = np.random.default_rng(seed)
    price = np.exp(rng.normal(3.0, 2.0, symbols))
    symbol = rng.permuted(np.tile(np.arange(symbols), (units, 1)), axis=1)[:, :legs] if symbols <= 8 else None
    if symbol is None:
        first = rng.integers(0, symbols, (units, 1))
        symbol = (
            first + np.cumsum(np.hstack([np.zeros((units, 1), int), _gaps(rng, units, legs, symbols)]), 1)
        ) % symbols
    symbol = np.sort(symbol, axis=1)
    notional = np.exp(rng.normal(9.0, 1.5, (units, 1)) + rng.normal(0.0, 0.7, (units, legs)))
    side = np.where(rng.random((units, legs)) < longs, 1.0, -1.0)
    lever = np.clip(np.exp(rng.normal(np.log(leverage), 0.7, units)), 1.0, 60.0)
    gross = notional.sum(1)
    entry = price[symbol] * (1 + rng.normal(0.0, 0.02, (units, legs)))
    qty = side * notional / price[symbol]
    profit = (qty * (price[symbol] - entry)).sum(1)
    cash = np.maximum(gross / lever, gross * 0.03) - profit
    interest = np.bincount(symbol.ravel(), notional.ravel(), symbols)
    books = Books(depth_share * interest, (shape,) * symbols, np.full(symbols, np.inf))
    return World(
        symbols=tuple(f"S{place:02d}" for place in range(symbols)),
        price_usd=price,
        books=books,
        spill=np.where(np.eye(symbols) > 0, 1.0, spill * 0.6),
        rates=np.repeat(np.array(RATES)[:, None], symbols, 1),
        deductions=np.repeat(np.array(deductions_usd(UPPER_USD, RATES))[:, None], symbols, 1),
        cash_usd=cash,
        leg_start=np.arange(units + 1, dtype=np.int64) * legs,
        leg_symbol=symbol.ravel().astype(np.int64),
        leg_qty=qty.ravel(),
        leg_entry=entry.ravel(),
        leg_closable=np.ones(units * legs, dtype=np.bool_),
        account=np.arange(units, dtype=np.int64),
    )


def _gaps(rng: np.random.Generator, units: int, legs: int, symbols: int) -> np.ndarray:
    """Steps between the symbols of an account, short enough that no symbol comes twice."""
    return rng.integers(1, symbols // legs, (units, legs - 1))


def market_shocks(count: int, symbols: int, seed: int, *, sigma: float = 0.02, correlation: float = 0.6) -> Floats:
    """Correlated Student (5 degrees of freedom) drops, `sigma` between 0.5 and 1.5 of the one given by symbol."""
    rng = np.random.default_rng(seed)
    own, common = rng.standard_normal((count, symbols)), rng.standard_normal((count, 1))
    heavy = np.sqrt(3.0 / rng.chisquare(5, (count, 1)))
    scale = sigma * rng.uniform(0.5, 1.5, symbols)
    return np.asarray(scale * heavy * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own))
