"""Auto-deleveraging: bankrupt positions are taken over by those who win on the other side.

Each bankrupt leg changes hands at its bankruptcy price. That is worse than the mark for whoever takes it, so only those
give who would still have a profit at that price: nobody gives more than its unrealised profit. `rank` asks them in
order of `profit share * effective leverage`, whole positions first; `pro_rata` asks all of them for the same share.
What nobody takes stays with the house, the counterparty of every position.
"""

import numpy as np

from features.mechanics.insurance import RANK, adl_score
from models.simulator.accounts import Ledger
from models.simulator.legs import Legs, Market, open_legs
from models.simulator.settings import Bools, Floats, Ints


def deleverage(ledger: Ledger, market: Market, bankrupt: Legs, price: Floats, rule: str) -> None:
    """Let winners take over the `bankrupt` legs at `price`. The bankrupt side is closed elsewhere, against the house.

    Books what winners and house give up against the mark to `ledger.adl`.
    """
    ledger.adl += float((bankrupt.qty * (price - market.mark[bankrupt.symbol])).sum())
    for symbol in np.unique(bankrupt.symbol):
        for sign in (1.0, -1.0):
            rows = np.flatnonzero((bankrupt.symbol == symbol) & (bankrupt.qty * sign > 0))
            if rows.size:
                worst = float((sign * price[rows]).max()) * sign
                winners = _winners(ledger, market, int(symbol), sign, worst)
                if winners.qty.size:
                    _hand_over(ledger, winners, np.abs(bankrupt.qty[rows]), price[rows], rule)


def _winners(ledger: Ledger, market: Market, symbol: int, sign: float, worst: float) -> Legs:
    """Positions in `symbol` against `sign` that still have a profit at `worst` and are not below maintenance."""
    held = ledger.qty[:, symbol]
    legs = open_legs(ledger, market.mark, market.tiers, np.flatnonzero(held * sign < 0))
    entry = ledger.cost[legs.account, legs.symbol] / legs.qty
    wins: Bools = (legs.symbol == symbol) & (sign * (entry - worst) > 0) & (legs.equity_usd > legs.maintenance_usd)
    return legs.rows(wins)


def _hand_over(ledger: Ledger, winners: Legs, qty: Floats, price: Floats, rule: str) -> None:
    """Close winners against `qty` at `price`, first come first matched; their profit is paid out in cash."""
    taken = _taken_by_rank(ledger, winners, qty.sum()) if rule == RANK else _taken_pro_rata(winners, qty.sum())
    gives = np.flatnonzero(taken > 0)
    winners, taken = winners.rows(gives), taken[gives]
    end = np.cumsum(taken)
    reached, spent = np.append(0.0, np.cumsum(qty)), np.append(0.0, np.cumsum(qty * price))
    paid = np.interp(end, reached, spent) - np.interp(end - taken, reached, spent)
    share = np.minimum(taken / np.abs(winners.qty), 1.0)
    pot = ledger.force(winners.account, winners.symbol, share, paid / taken)
    ledger.cash += np.bincount(winners.account, pot, ledger.cash.size)


def _taken_by_rank(ledger: Ledger, winners: Legs, need: float) -> Floats:
    """Base units each winner gives, the highest score first."""
    cost = ledger.cost[winners.account, winners.symbol]
    notional = np.abs(winners.notional_usd)
    score = adl_score(winners.notional_usd - cost, np.abs(cost), notional, winners.equity_usd)
    order: Ints = np.lexsort((winners.account, -score))
    held = np.abs(winners.qty)[order]
    taken = np.empty(held.size)
    taken[order] = np.clip(need - (np.cumsum(held) - held), 0.0, held)
    return taken


def _taken_pro_rata(winners: Legs, need: float) -> Floats:
    held = np.abs(winners.qty)
    return np.asarray(held * min(need / held.sum(), 1.0))
