"""Legs: open positions as columns, with what the unit of margin they belong to has and needs.

A unit of margin is a cross account, or one isolated position.
"""

from dataclasses import dataclass

import numpy as np

from models.simulator.accounts import Ledger
from models.simulator.book import Book
from models.simulator.settings import Bools, Floats, Ints


@dataclass(frozen=True)
class Market:
    """What positions are judged and closed at, one entry per symbol; `tiers` as in `settings.tier_arrays`."""

    mark: Floats
    perp: Floats
    tiers: tuple[Floats, Floats]
    book: Book
    forced_usd_max: Floats | None = None  # that may still be sold into the book; None: as much as it bears


@dataclass(frozen=True)
class Legs:
    """Open positions as columns, with the equity and maintenance margin that decide about each of them."""

    account: Ints
    symbol: Ints
    qty: Floats
    notional_usd: Floats
    equity_usd: Floats  # of the account (cross) or of the leg (isolated)
    maintenance_usd: Floats
    own_maintenance_usd: Floats  # of the leg itself
    isolated: Bools

    def rows(self, keep: Bools | Ints) -> "Legs":
        return Legs(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def maintenance_usd(notional_usd: Floats, rates: Floats, deductions: Floats) -> Floats:
    """Tiered maintenance margin; `rates` and `deductions` are (tiers, ...) and broadcast against the notional.

    >>> rates, deductions = np.array([[0.01], [0.0125]]), np.array([[0.0], [125.0]])
    >>> maintenance_usd(np.array([50_000.0, 100_000.0]), rates, deductions).tolist()
    [500.0, 1125.0]
    """
    return np.asarray((rates * notional_usd - deductions).max(axis=0))


def open_legs(ledger: Ledger, mark: Floats, tiers: tuple[Floats, Floats], among: Ints | slice = slice(None)) -> Legs:
    """Every open position of the accounts `among` (default all of them) at `mark`."""
    rates, deductions = tiers
    account, symbol = np.nonzero(ledger.qty[among])
    account = account if isinstance(among, slice) else among[account]
    qty = ledger.qty[account, symbol]
    notional = qty * mark[symbol]
    profit = notional - ledger.cost[account, symbol]
    own = maintenance_usd(np.abs(notional), rates[:, symbol], deductions[:, symbol])
    isolated = ledger.traits.isolated[account]
    size = ledger.cash.size
    shared_equity = ledger.collateral_usd() + np.bincount(account, weights=profit, minlength=size)
    shared_margin = np.bincount(account, weights=own, minlength=size)
    equity = np.where(isolated, ledger.isolated[account, symbol] + profit, shared_equity[account])
    margin = np.where(isolated, own, shared_margin[account])
    return Legs(account, symbol, qty, notional, equity, margin, own, isolated)
