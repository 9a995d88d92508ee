"""Margin of every account in one pass: its equity, whether it is near or below maintenance, whether a stop is hit.

`scan` is a compiled loop over accounts and symbols; `liquidation.open_legs` says the same in numpy columns and is what
tests compare it with. Cost and qty are as in `accounts`; an account without position is `FINE`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from models.simulator.accounts import Ledger
from models.simulator.settings import Bools, Floats, Ints

FINE, WORRIED, BREACHED = 0, 1, 2


class Scan(NamedTuple):
    """Columns over accounts. `BREACHED`: equity below maintenance; `WORRIED`: below `worry` times maintenance."""

    equity_usd: Floats  # tokens less their haircut and locked margins included
    health: Ints
    stopped: Bools  # a position has lost more than `stop_loss * cost / leverage`


def scan(ledger: Ledger, mark: Floats, tiers: tuple[Floats, Floats], worry: float) -> Scan:
    """Equity, health and stops of every account at `mark`."""
    size, traits = ledger.cash.size, ledger.traits
    out = Scan(np.zeros(size), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.bool_))
    collateral = ledger.collateral_usd()
    columns = (ledger.qty, ledger.cost, ledger.isolated, collateral, traits.isolated, traits.loss_share_max)
    _compiled(*columns, mark, *tiers, worry, *out)
    return out


def _scan_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba: it infers types, takes no keywords
    qty, cost, locked, cash, isolated, loss_share_max, mark, rates, deductions, worry, equity, health, stopped
):
    tiers, symbols = rates.shape
    for a in range(cash.size):
        total, shared, shared_margin, worst = cash[a], cash[a], 0.0, 0
        for s in range(symbols):
            total += locked[a, s]
            if qty[a, s] == 0.0:
                continue
            notional = qty[a, s] * mark[s]
            profit = notional - cost[a, s]
            total += profit
            stopped[a] |= profit < -loss_share_max[a] * abs(cost[a, s])
            margin = -1.0
            for k in range(tiers):
                margin = max(margin, abs(notional) * rates[k, s] - deductions[k, s])
            if isolated[a]:
                room = locked[a, s] + profit
                worst = max(worst, 2 if room < margin else (1 if room < worry * margin else 0))
            else:
                shared += profit
                shared_margin += margin
        if shared_margin > 0.0:
            worst = 2 if shared < shared_margin else (1 if shared < worry * shared_margin else 0)
        equity[a] = total
        health[a] = worst


_compiled: Callable[..., None] = numba.njit(cache=True)(_scan_rows)
