"""Liquidation: who is below maintenance margin, and how the position goes through the book.

    maintenance(notional) = max over tiers (notional * rate - deduction)
    cross:    cash + sum(qty * mark - cost) < sum(maintenance)         all legs of the account
    isolated: margin + qty * mark - cost < maintenance                 that leg alone

Breached legs are sold (bought) at market, those with the least equity first, each at the price that the book shows at
the middle of its own fill. They reach `REACH_BPS` into the book: what does not fit waits. An account that ends below
zero is made whole by the insurance fund, beyond it by bad debt. With an empty fund a bankrupt position goes to the
house at its bankruptcy price instead (path "adl") and touches no book.
"""

from dataclasses import dataclass

import numpy as np

from models.simulator.accounts import Ledger
from models.simulator.book import ASK, BID, REACH_BPS, Book
from models.simulator.settings import Bools, Floats, Ints


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


@dataclass(frozen=True)
class Forced:
    """Forced fills; `equity_usd` and `maintenance_usd` are what the decision was taken on."""

    account: Ints
    symbol: Ints
    qty: Floats  # closed base units, with the sign of the position
    price: Floats
    adl: Bools
    equity_usd: Floats
    maintenance_usd: Floats


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
    shared_equity = ledger.cash + np.bincount(account, weights=profit, minlength=size)
    shared_margin = np.bincount(account, weights=own, minlength=size)
    equity = np.where(isolated, ledger.isolated[account, symbol] + profit, shared_equity[account])
    margin = np.where(isolated, own, shared_margin[account])
    return Legs(account, symbol, qty, notional, equity, margin, own, isolated)


def liquidate(ledger: Ledger, book: Book, perp: Floats, breached: Legs, *, half_spread: float, fee: float) -> Forced:
    """Close `breached` legs; returns the fills. The caller applies their impact.

    `fee` is the share of the notional that goes to the fund, as far as the account has it.
    """
    adl = (breached.equity_usd < 0) & (not ledger.fund > 0)
    price, share = _walk(book, perp, half_spread, breached, ~adl)
    price = np.where(adl, _bankruptcy_price(breached), price)
    filled = np.flatnonzero(share > 0)
    legs, price, share = breached.rows(filled), price[filled], share[filled]
    pot = ledger.force(legs.account, legs.symbol, share, price)
    closed = share * legs.qty
    _share_out(ledger, legs, pot, fee * np.abs(closed) * price * ~adl[filled])
    return Forced(legs.account, legs.symbol, closed, price, adl[filled], legs.equity_usd, legs.maintenance_usd)


def _bankruptcy_price(legs: Legs) -> Floats:
    """Price at which the leg's share of the equity (in proportion to maintenance) is used up."""
    part = legs.equity_usd * legs.own_maintenance_usd / legs.maintenance_usd
    return np.maximum((legs.notional_usd - part) / legs.qty, 1e-12)


def _walk(book: Book, perp: Floats, half_spread: float, legs: Legs, at_market: Bools) -> tuple[Floats, Floats]:
    """Fill price and filled share of each leg; legs that are not `at_market` are filled whole, at no price."""
    price, share = np.ones(legs.qty.size), np.ones(legs.qty.size)
    for symbol in np.unique(legs.symbol[at_market]):
        for side, sign in ((BID, 1.0), (ASK, -1.0)):
            rows = np.flatnonzero(at_market & (legs.symbol == symbol) & (legs.qty * sign > 0))
            if rows.size:
                rows = rows[np.argsort(legs.equity_usd[rows] / legs.maintenance_usd[rows], kind="stable")]
                usd = np.abs(legs.qty[rows]) * perp[symbol]
                reach = book.within_usd(REACH_BPS)[symbol, side]
                share[rows] = np.clip((reach - (np.cumsum(usd) - usd)) / usd, 0.0, 1.0)
                done = usd * share[rows]
                moved = book.impact(int(symbol), side, np.cumsum(done) - 0.5 * done)
                price[rows] = perp[symbol] * (1 - sign * (moved + half_spread))
    return price, share


def _share_out(ledger: Ledger, legs: Legs, pot: Floats, fee: Floats) -> None:
    """Book pots to the accounts, take the fee from what is left, cover what is missing."""
    size = ledger.cash.size
    own = legs.isolated
    kept = np.where(own, pot - np.clip(pot, 0.0, fee), pot)
    fund_gain = float((pot - kept).sum())
    missing = float(-np.minimum(kept[own], 0.0).sum())
    kept = np.where(own, np.maximum(kept, 0.0), kept)
    ledger.cash += np.bincount(legs.account, weights=kept, minlength=size)
    account = np.unique(legs.account[~own])
    due = np.bincount(legs.account[~own], weights=fee[~own], minlength=size)[account]
    closed = ~ledger.qty[account].any(axis=1)
    paid = np.where(closed, np.clip(ledger.cash[account], 0.0, due), due)
    ledger.cash[account] -= paid
    hole = np.where(closed, np.maximum(-ledger.cash[account], 0.0), 0.0)
    ledger.cash[account] += hole
    _settle_fund(ledger, fund_gain + float(paid.sum()), missing + float(hole.sum()))


def _settle_fund(ledger: Ledger, gain: float, missing: float) -> None:
    ledger.fund += gain
    covered = min(ledger.fund, missing)
    ledger.fund -= covered
    ledger.bad_debt += missing - covered
