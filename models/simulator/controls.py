"""Controls: what is allowed at the venue for the next minutes, per symbol, and what that leaves of the owners' orders.

| action | what it does |
|---|---|
| `normal`, `cautious` | positions grow up to the caps; whoever is cautious hands in lower caps |
| `reduce_only` | positions do not grow |
| `halted` | nothing trades, nothing is liquidated; the perpetual stands still, index and mark go on |

Caps bind growth alone: nobody is made to reduce what is held. Who decides them, and why, is not known here.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.simulator.accounts import Ledger
from models.simulator.behaviour import NOTIONAL_USD_MIN, Orders
from models.simulator.settings import Bools, Floats

ACTIONS = ("normal", "cautious", "reduce_only", "halted")


@dataclass(frozen=True)
class Controls:
    """One entry per symbol, in the venue's order; infinite where there is no cap.

    Raises ValueError for an unknown action, entries that do not match in number, and a cap that is NaN or negative.

    >>> free(2).action
    ('normal', 'normal')
    >>> Controls(("paused",), np.ones(1), np.ones(1), np.ones(1))
    Traceback (most recent call last):
    ...
    ValueError: `action` must be of normal, cautious, reduce_only, halted, was paused
    """

    action: tuple[str, ...]
    leverage_cap: Floats  # gross notional over equity of an account; of an isolated position, over its margin
    exposure_cap_usd: Floats  # notional of a position
    throttle_usd_min: Floats  # forced orders that may reach the book in a minute; the rest waits

    def __post_init__(self) -> None:
        for action in self.action:
            if action not in ACTIONS:
                raise ValueError(f"`action` must be of {', '.join(ACTIONS)}, was {action}")
        for name in ("leverage_cap", "exposure_cap_usd", "throttle_usd_min"):
            values = getattr(self, name)
            if values.shape != (len(self.action),):
                raise ValueError(f"`{name}` must have {len(self.action)} entries, had shape {values.shape}")
            if not (values >= 0).all():
                raise ValueError(f"`{name}` must be at least 0, was {values.tolist()}")

    @cached_property
    def halted(self) -> Bools:
        return np.array([action == "halted" for action in self.action], dtype=np.bool_)

    @cached_property
    def growth_barred(self) -> Bools:
        return np.array([action in {"reduce_only", "halted"} for action in self.action], dtype=np.bool_)


def free(symbols: int) -> Controls:
    """No control at all."""
    none = np.full(symbols, np.inf)
    return Controls(("normal",) * symbols, none, none, none)


def allowed(
    orders: Orders, ledger: Ledger, mark: Floats, equity_usd: Floats, controls: Controls
) -> tuple[Orders, float]:
    """What of `orders` may be sent, and the dollars of growth that were refused.

        closed = part of dq against what is held                                   dropped where halted
        opened = dq - closed                                                       dropped where growth is barred
        |opened| * mark <= exposure_cap - |qty + closed| * mark
        |opened| * mark <= leverage_cap * equity - (gross notional of the account - |closed| * mark)

    Growth that is cut below `NOTIONAL_USD_MIN` is dropped. An order that is not cut is the same to the last bit.
    `equity_usd` is one per account.
    """
    account, symbol, dq = orders.account, orders.symbol, orders.dq
    price = mark[symbol]
    closed = _closed(orders, ledger)
    opened_usd = np.abs(dq - closed) * price
    room_usd = _room_usd(orders, ledger, mark, equity_usd, controls)
    room_usd = np.where(room_usd < np.minimum(opened_usd, NOTIONAL_USD_MIN), 0.0, room_usd)
    cut = opened_usd > room_usd
    left = np.where(cut, closed + np.sign(dq) * room_usd / price, dq)
    left = np.where(controls.halted[symbol], 0.0, left)
    sent = left != 0
    refused_usd = float((opened_usd - room_usd)[cut].sum())
    return Orders(account[sent], symbol[sent], left[sent]), refused_usd


def _closed(orders: Orders, ledger: Ledger) -> Floats:
    """The part of each order that is against what is held, with its sign."""
    held, dq = ledger.qty[orders.account, orders.symbol], orders.dq
    return np.where(held * dq < 0, np.sign(dq) * np.minimum(np.abs(dq), np.abs(held)), 0.0)


def _room_usd(orders: Orders, ledger: Ledger, mark: Floats, equity_usd: Floats, controls: Controls) -> Floats:
    """Dollars by which each order may grow its position."""
    account, symbol = orders.account, orders.symbol
    price, held, closed = mark[symbol], ledger.qty[account, symbol], _closed(orders, ledger)
    cap, capped = controls.leverage_cap[symbol], np.isfinite(controls.leverage_cap[symbol])
    gross = np.abs(ledger.qty[account] * mark).sum(axis=1) - np.abs(closed) * price
    by_leverage = np.where(capped, np.where(capped, cap, 0.0) * np.maximum(equity_usd[account], 0.0) - gross, np.inf)
    by_exposure = controls.exposure_cap_usd[symbol] - np.abs(held + closed) * price
    room = np.maximum(np.minimum(by_leverage, by_exposure), 0.0)
    return np.asarray(np.where(controls.growth_barred[symbol], 0.0, room))
