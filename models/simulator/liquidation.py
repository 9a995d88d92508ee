"""Liquidation: who is below maintenance margin, and how what the path takes is closed.

    maintenance(notional) = max over tiers (notional * rate - deduction)
    cross:    collateral + sum(qty * mark - cost) < sum(maintenance)      all legs of the account, one unit
    isolated: margin + qty * mark - cost < maintenance                    that leg alone, a unit of its own

What goes into the book is sold (bought) at market, units with the least equity first, each leg at the price that the
book shows at the middle of its own fill. It reaches `REACH_BPS` into the book: what does not fit waits. What is taken
over beside the book changes hands at the mark, less the discount of who takes it. The fee is
`min(fee * closed notional, what is left above bankruptcy)` and goes to the fund. A unit that is closed and ends below
zero is made whole by its account's tokens, the insurance fund, and beyond it by bad debt. With an empty fund and a rule
of auto-deleveraging, a bankrupt unit goes to winners at its bankruptcy price instead (path "adl"): see `deleveraging`.
"""

from dataclasses import dataclass

import numpy as np

from features.mechanics.insurance import NONE, RANK
from models.simulator.accounts import Ledger
from models.simulator.book import ASK, BID, REACH_BPS
from models.simulator.deleveraging import deleverage
from models.simulator.legs import Legs, Market
from models.simulator.path import Sale
from models.simulator.settings import Bools, Floats, Ints


@dataclass(frozen=True)
class Forced:
    """Forced fills; `equity_usd` and `maintenance_usd` are what the decision was taken on."""

    account: Ints
    symbol: Ints
    qty: Floats  # closed base units, with the sign of the position
    price: Floats
    book_share: Floats  # of the fill that was sold into the book
    adl: Bools
    beside: Bools  # taken over beside the book
    fresh: Bools  # the first fill of a unit since it fell below maintenance
    equity_usd: Floats
    maintenance_usd: Floats


@dataclass(frozen=True)
class Costs:
    """What a forced fill costs beside the book: half a spread, the fee to the fund; and who pays for holes."""

    half_spread: float
    fee: float
    adl: str = RANK


def liquidate(ledger: Ledger, market: Market, legs: Legs, sale: Sale, costs: Costs) -> Forced:
    """Close what the path takes of `legs`; returns the fills. The caller applies their impact."""
    adl = (legs.equity_usd < 0) & (not ledger.fund > 0) & (costs.adl != NONE)
    share = np.where(adl, 1.0, sale.share)
    bankruptcy = _bankruptcy_price(legs)
    price, share = _walk(market, costs.half_spread, legs, share, ~(adl | sale.beside))
    price = np.where(adl, bankruptcy, np.where(sale.beside, _taken_over_price(market.mark, legs, sale), price))
    filled = np.flatnonzero(share > 0)
    legs, sale, price, share, adl = legs.rows(filled), sale.rows(filled), price[filled], share[filled], adl[filled]
    pot = ledger.force(legs.account, legs.symbol, share, price)
    closed = share * legs.qty
    if adl.any():
        deleverage(ledger, market, legs.rows(adl), price[adl], costs.adl)
    _share_out(ledger, market.mark, legs, pot, costs.fee * np.abs(closed) * price * ~adl)
    book_share = np.where(adl, 0.0, sale.book_share)
    decided = (legs.equity_usd, legs.maintenance_usd)
    return Forced(legs.account, legs.symbol, closed, price, book_share, adl, sale.beside, sale.fresh, *decided)


def _bankruptcy_price(legs: Legs) -> Floats:
    """Price at which the leg's share of the equity (in proportion to maintenance) is used up."""
    part = legs.equity_usd * legs.own_maintenance_usd / legs.maintenance_usd
    return np.maximum((legs.notional_usd - part) / legs.qty, 1e-12)


def _taken_over_price(mark: Floats, legs: Legs, sale: Sale) -> Floats:
    """The mark, less the discount of whoever takes the position over."""
    qty = np.where(sale.share > 0, sale.share, 1.0) * legs.qty
    return np.maximum(mark[legs.symbol] - sale.discount_usd / qty, 1e-12)


def _walk(market: Market, half_spread: float, legs: Legs, wanted: Floats, at_market: Bools) -> tuple[Floats, Floats]:
    """Fill price and filled share of each leg; legs that are not `at_market` get what they want, at no price.

    Longs are served before shorts where `forced_usd_max` is not enough for both.
    """
    book, perp = market.book, market.perp
    price, share = np.ones(legs.qty.size), wanted.copy()
    for symbol in np.unique(legs.symbol[at_market]):
        left = np.inf if market.forced_usd_max is None else float(market.forced_usd_max[symbol])
        for side, sign in ((BID, 1.0), (ASK, -1.0)):
            rows = np.flatnonzero(at_market & (legs.symbol == symbol) & (legs.qty * sign > 0) & (wanted > 0))
            if rows.size:
                rows = rows[np.argsort(legs.equity_usd[rows] / legs.maintenance_usd[rows], kind="stable")]
                whole = np.abs(legs.qty[rows]) * perp[symbol]
                usd = whole * wanted[rows]
                reach = min(book.within_usd(REACH_BPS)[symbol, side], left)
                done = np.clip(reach - (np.cumsum(usd) - usd), 0.0, usd)
                left -= float(done.sum())
                share[rows] = np.where(done < usd, done / whole, wanted[rows])
                moved = book.impact(int(symbol), side, np.cumsum(done) - 0.5 * done)
                price[rows] = perp[symbol] * (1 - sign * (moved + half_spread))
    return price, share


def _share_out(ledger: Ledger, mark: Floats, legs: Legs, pot: Floats, fee: Floats) -> None:
    """Book pots to the accounts, take the fee from what is left above bankruptcy, cover what is missing."""
    own = legs.isolated
    missing, gain = _share_out_isolated(ledger, legs.rows(own), mark, pot[own], fee[own])
    np.add.at(ledger.cash, legs.account[~own], pot[~own])
    due = np.bincount(legs.account[~own], weights=fee[~own], minlength=ledger.cash.size)
    account = np.unique(legs.account[~own])
    unrealised = (ledger.qty[account] * mark - ledger.cost[account]).sum(axis=1)
    paid = np.clip(ledger.wealth_usd()[account] + unrealised, 0.0, due[account])
    ledger.cash[account] -= paid
    closed = account[~ledger.qty[account].any(axis=1)]
    ledger.sell_tokens(closed)
    hole = np.maximum(-ledger.cash[closed], 0.0)
    ledger.cash[closed] += hole
    _settle_fund(ledger, gain + float(paid.sum()), missing + float(hole.sum()))


def _share_out_isolated(ledger: Ledger, legs: Legs, mark: Floats, pot: Floats, fee: Floats) -> tuple[float, float]:
    """Pots of isolated legs; returns the holes and the fees paid.

    What a part of a leg leaves stays with the leg as its margin: a liquidation frees nothing before it is over. Where
    that is below zero, the entry price takes the rest, so that the equity of the leg is what it was.
    """
    at = legs.account, legs.symbol
    stays = ledger.qty[at] != 0
    pot = pot + ledger.isolated[at]
    left = pot + ledger.qty[at] * mark[legs.symbol] - ledger.cost[at]
    paid = np.clip(np.minimum(left, pot), 0.0, fee)
    margin, deficit = np.maximum(pot - paid, 0.0), np.maximum(paid - pot, 0.0)
    ledger.isolated[at] = np.where(stays, margin, 0.0)
    ledger.cost[at] += np.where(stays, deficit, 0.0)
    ledger.cash += np.bincount(legs.account, np.where(stays, 0.0, margin), ledger.cash.size)
    return float(deficit[~stays].sum()), float(paid.sum())


def _settle_fund(ledger: Ledger, gain: float, missing: float) -> None:
    ledger.fund += gain
    covered = min(ledger.fund, missing)
    ledger.fund -= covered
    ledger.fund_draw += covered
    ledger.bad_debt += missing - covered
