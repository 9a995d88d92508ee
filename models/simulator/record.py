"""What one simulated hour leaves behind, as numpy columns, before it becomes tables."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from models.simulator.accounts import Ledger
from models.simulator.liquidation import Forced
from models.simulator.outages import Outage
from models.simulator.settings import Bools, Floats, Ints, VenueSettings


@dataclass(frozen=True)
class Snapshot:
    """Open positions and collateral at `end`; the house is marked to market: its entry price is the mark."""

    end: datetime
    account: Ints
    symbol: Ints
    qty: Floats
    entry_price: Floats
    isolated: Bools
    margin_usd: Floats
    owner: Ints  # accounts with an open position
    cash_usd: Floats
    tokens: Floats
    house_qty: Floats
    house_price: Floats
    house_usd: float
    house_tokens: float
    fund_usd: float  # of the insurance fund


class HourRecord:
    """An hour, or a part of it. Rows are steps, then symbols, then (where a third axis exists) bid and ask."""

    def __init__(self, start: datetime, settings: VenueSettings, steps: int) -> None:
        shape = (steps, len(settings.symbols))
        self.start = start
        self.perp_before, self.perp, self.mark, self.index, self.heat, self.oi_base = (
            np.zeros(shape) for _ in range(6)
        )
        self.taken, self.depth_before, self.depth_after = (np.zeros((*shape, 2)) for _ in range(3))
        self.token_price, self.halted = np.ones(steps), np.zeros(steps, dtype=np.bool_)
        self.still = np.zeros(shape, dtype=np.bool_)  # halted by controls, symbol by symbol
        self.outages: list[Outage] = []  # those that touch the hour
        self.forced: list[tuple[int, Forced]] = []
        self.funding: list[tuple[datetime, Floats]] = []
        self.snapshots: list[Snapshot] = []

    def take_snapshot(self, end: datetime, ledger: Ledger, mark: Floats) -> None:
        account, symbol = np.nonzero(ledger.qty)
        qty = ledger.qty[account, symbol]
        owner = np.unique(account)
        self.snapshots.append(
            Snapshot(
                end=end,
                account=account,
                symbol=symbol,
                qty=qty,
                entry_price=ledger.cost[account, symbol] / qty,
                isolated=ledger.traits.isolated[account],
                margin_usd=ledger.isolated[account, symbol],
                owner=owner,
                cash_usd=ledger.cash[owner],
                tokens=ledger.tokens[owner],
                house_qty=ledger.house_qty.copy(),
                house_price=mark.copy(),
                house_usd=ledger.house_cash + float(ledger.house_qty @ mark),
                house_tokens=ledger.house_tokens,
                fund_usd=ledger.fund,
            )
        )
