"""Who pays in the end: liquidation fees to the fund, the fund for bad debt, winners for the rest. Whole micro-dollars.

    bad_debt = fund_draw + adl + uncovered
    fund_after = fund + fees - fund_draw

so that equity of all units plus the fund grows by `uncovered` and by nothing else: money nobody had to pay with.
"""

from dataclasses import dataclass

import numpy as np

from features.mechanics.insurance import RANK, adl_score, cover, micro
from models.cascade.engine import Outcome
from models.cascade.prepared import Prepared
from models.cascade.world import Floats, Ints


@dataclass(frozen=True)
class Settlement:
    """Micro-dollars. `equity_micro` is what each unit hit holds when all is done, in the order of `Outcome.unit`;
    `winner` are places in the world, `adl_by_winner` what each of them gave.
    """

    bad_debt_micro: int
    fee_micro: int
    fund_before_micro: int
    fund_draw_micro: int
    fund_after_micro: int
    adl_micro: int
    uncovered_micro: int
    equity_micro: Ints
    winner: Ints
    adl_by_winner: Ints


@dataclass(frozen=True)
class Book:
    """All units of a `Prepared` at rest, in its order."""

    profit_usd: Floats  # unrealised, of what no path has closed
    cost_usd: Floats  # what that was worth when it was opened
    notional_usd: Floats
    equity_micro: Ints  # after liquidation fees, bad debt as 0


def settle(prepared: Prepared, outcome: Outcome, fund_usd: float, adl: str = RANK) -> Settlement:
    """Settle one shock. `adl` is a rule of `features.mechanics.insurance`.

    A winner gives at most its unrealised profit, and at most its equity. Raises ValueError for an unknown rule.

    A unit is ranked as a whole: profit share and effective leverage of all it holds.
    """
    bad_debt, fees = int(outcome.all.bad_debt_micro[0]), int(outcome.all.fee_micro[0])
    fund = int(micro(fund_usd))
    book = at_rest(prepared, outcome)
    profit = np.minimum(np.maximum(micro(book.profit_usd), 0), np.maximum(book.equity_micro, 0))
    can = np.flatnonzero(profit > 0)
    columns = (book.profit_usd, book.cost_usd, book.notional_usd, book.equity_micro / 1e6)
    score = adl_score(*(column[can] for column in columns))
    paid = cover(bad_debt, fund + fees, profit[can], adl, score=score)
    gave = np.flatnonzero(paid.adl)
    left = np.maximum(outcome.equity_micro, 0) - outcome.fee_micro
    given = np.zeros(prepared.world.units, dtype=np.int64)
    winner, amount = prepared.unit[can[gave]], paid.adl[gave]
    given[winner] = amount
    return Settlement(
        bad_debt, fees, fund, paid.fund_draw, fund + fees - paid.fund_draw, int(paid.adl.sum()), paid.uncovered,
        left - given[outcome.unit], winner, amount,
    )  # fmt: skip


def at_rest(prepared: Prepared, outcome: Outcome) -> Book:
    """Every unit at the final drops: one pass over all legs."""
    units, drop = prepared.units, outcome.all.drop[0]
    owner = np.repeat(np.arange(len(prepared.unit)), np.diff(units.start))
    row = np.zeros(prepared.world.units, dtype=np.int64)
    row[prepared.unit] = np.arange(len(prepared.unit))
    left = np.ones(len(prepared.unit))
    left[row[outcome.unit]] = 1.0 - outcome.closed_share
    x, mine = drop[units.symbol], units.closable
    profit = units.profit - units.notional * x

    def by_unit(values: Floats) -> Floats:
        return np.asarray(np.bincount(owner, values, len(left)), dtype=np.float64)

    held = by_unit(profit * mine) * left
    equity = micro(units.cash + held + by_unit(profit * ~mine))
    equity[row[outcome.unit]] = np.maximum(outcome.equity_micro, 0) - outcome.fee_micro
    cost = by_unit(np.abs(units.notional - units.profit) * mine) * left
    return Book(held, cost, by_unit(np.abs(units.notional) * (1.0 - x) * mine) * left, equity)
