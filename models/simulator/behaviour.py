"""Behaviour: what the owners of accounts decide, from their traits and from what they can see on the screen.

A view is `trend_weight * trend + lean - FUNDING_AVERSION * premium + noise`; its sign is the side wanted. The notional
wanted in a symbol is

    equity / symbols * leverage * calm * conviction     calm = (unrest ** -CALM_PULL) in [0.6, 1.3],
                                                        conviction = 0.6 + 0.4 * min(|view|, 2)

so that leverage builds up in calm, trending markets, and unrealised profit carries ever larger positions.
"""

from dataclasses import dataclass

import numpy as np

from models.simulator.accounts import OWNERS_EVERY_S, Ledger
from models.simulator.settings import HOUR_S, Floats, Ints

FUNDING_AVERSION = 400.0  # views per unit of premium: 10 bps of it weigh 0.4
CALM_PULL = 0.5
OPEN_SHARE = 0.30  # of decisions of a flat owner that open a position
TIRED_SHARE = 0.25  # of decisions of an owner with a position that close it without any other reason
PYRAMID_SHARE = 0.7
HALVE_SHARE = 0.6
OVERSIZED = 2.5  # times the notional wanted, beyond which the owner reduces
ROOM = 0.9  # of the first tier's largest leverage that an account may use
NOTIONAL_USD_MIN = 50.0
ORDER_SHARE = 0.1  # of the depth within 100 bps that one free order takes at most
WORRY = 2.0  # an owner worries when equity is below this many times the maintenance margin
WORRY_ACTION_H = 0.5  # mean time until a worried owner adds margin or reduces
REFILL_H = 10.0  # mean time until the owner of an empty account deposits again
WITHDRAWAL_H = 24.0


@dataclass(frozen=True)
class Screen:
    """What owners see, per symbol."""

    mark: Floats
    trend: Floats
    heat: Floats
    unrest: Floats
    premium: Floats
    leverage_max: Floats
    depth_usd: Floats  # within 100 bps, on the thinner side
    position_usd_max: Floats


@dataclass(frozen=True)
class Orders:
    """Market orders in signed base units; at most one per account."""

    account: Ints
    symbol: Ints
    dq: Floats


@dataclass(frozen=True)
class Desk:
    """Owners who look at one of their symbols in this step; columns of equal length beside the ledger and screen."""

    ledger: Ledger
    screen: Screen
    account: Ints
    symbol: Ints
    equity: Floats  # of the account, not below zero

    @property
    def qty(self) -> Floats:
        return np.asarray(self.ledger.qty[self.account, self.symbol])

    @property
    def notional_usd(self) -> Floats:
        return np.asarray(self.qty * self.screen.mark[self.symbol])


def decide(ledger: Ledger, screen: Screen, equity: Floats, rng: np.random.Generator) -> Orders:
    """Orders of the owners who look at their account in this minute; busy markets are looked at more often."""
    traits = ledger.traits
    busy = float(np.clip(screen.heat.mean(), 0.8, 1.3))
    account = np.flatnonzero(rng.random(traits.action_share.size) < traits.action_share * busy)
    pick, noise, luck = rng.integers(0, 3, account.size), rng.standard_normal(account.size), rng.random(account.size)
    desk = Desk(ledger, screen, account, traits.symbols[account, pick], np.maximum(equity[account], 0.0))
    goal = _goal_usd(desk, noise)
    entered = np.where(luck < OPEN_SHARE, goal, 0.0)
    return _orders(desk, np.where(desk.qty == 0, entered, _adjust_usd(desk, goal, luck)))


def _goal_usd(desk: Desk, noise: Floats) -> Floats:
    """Signed notional wanted."""
    traits, screen, account, symbol = desk.ledger.traits, desk.screen, desk.account, desk.symbol
    view = traits.trend_weight[account] * screen.trend[symbol] + traits.lean[account] + noise
    view = view - FUNDING_AVERSION * screen.premium[symbol]
    calm = np.clip(screen.unrest[symbol] ** -CALM_PULL, 0.6, 1.3)
    conviction = 0.6 + 0.4 * np.minimum(np.abs(view), 2.0)
    size = desk.equity / traits.symbol_count[account] * traits.leverage[account] * calm * conviction
    return np.asarray(np.sign(view) * np.minimum(size, screen.position_usd_max[symbol]))


def _adjust_usd(desk: Desk, goal: Floats, luck: Floats) -> Floats:
    """Change wanted by owners who hold a position: close, pyramid, or reduce."""
    traits, account, notional = desk.ledger.traits, desk.account, desk.notional_usd
    size = np.maximum(np.abs(notional), 1e-9)
    profit = (notional - desk.ledger.cost[account, desk.symbol]) / size * traits.leverage[account]
    close = (profit > traits.take_profit[account]) | (luck < TIRED_SHARE)
    agrees = goal * notional > 0
    pyramid = np.where(luck < PYRAMID_SHARE, np.sign(notional) * np.maximum(np.abs(goal) - size, 0.0), 0.0)
    change = np.where(agrees, pyramid, np.where(luck < HALVE_SHARE, -0.5 * notional, 0.0))
    change = np.where(agrees & (size > OVERSIZED * np.abs(goal)), -0.4 * notional, change)
    return np.where(close | (np.abs(notional + change) < NOTIONAL_USD_MIN), -notional, change)


def _orders(desk: Desk, change: Floats) -> Orders:
    """Orders for `change` dollars, growth cut to what free collateral allows and all of them to what the book bears.

    A whole close is exact in base units.
    """
    price, held = desk.screen.mark[desk.symbol], desk.qty
    usd = np.where(held * change >= 0, np.sign(change) * np.minimum(np.abs(change), _room_usd(desk)), change)
    most = ORDER_SHARE * desk.screen.depth_usd[desk.symbol]
    usd = np.clip(usd, -most, most)
    whole = (held != 0) & (usd == -desk.notional_usd)
    dq = np.where(whole, -held, usd / price)
    sent = whole | (np.abs(usd) >= NOTIONAL_USD_MIN)
    return Orders(desk.account[sent], desk.symbol[sent], dq[sent])


def _room_usd(desk: Desk) -> Floats:
    """Notional that may be added: initial margin of the whole account, and free cash on an isolated one."""
    ledger, account = desk.ledger, desk.account
    lever = ROOM * desk.screen.leverage_max[desk.symbol]
    gross = np.abs(ledger.qty[account] * desk.screen.mark).sum(axis=1)
    room = lever * desk.equity - gross
    own = 0.95 * ledger.cash[account] * np.minimum(ledger.traits.leverage[account], lever)
    return np.asarray(np.maximum(np.where(ledger.traits.isolated[account], np.minimum(room, own), room), 0.0))


def worried_orders(ledger: Ledger, mark: Floats, worried: Ints, rng: np.random.Generator) -> Orders:
    """Owners near their maintenance margin act at last: half of them add margin, half cut their largest position."""
    account = worried[rng.random(worried.size) < OWNERS_EVERY_S / (WORRY_ACTION_H * HOUR_S)]
    adds = rng.random(account.size) < 0.5
    _add_margin(ledger, account[adds], mark)
    account = account[~adds]
    symbol = np.abs(ledger.qty[account] * mark).argmax(axis=1)
    return Orders(account, symbol, -0.5 * ledger.qty[account, symbol])


def stop_orders(ledger: Ledger, mark: Floats, stopped: Ints) -> Orders:
    """Market orders that close every position, among the accounts `stopped`, whose loss has reached its stop."""
    row, symbol = np.nonzero(ledger.qty[stopped])
    account = stopped[row]
    qty, cost = ledger.qty[account, symbol], ledger.cost[account, symbol]
    hit = qty * mark[symbol] - cost < -ledger.traits.loss_share_max[account] * np.abs(cost)
    return Orders(account[hit], symbol[hit], -qty[hit])


def _add_margin(ledger: Ledger, account: Ints, mark: Floats) -> None:
    """Deposit a fifth of the intended equity; an isolated account locks it to its largest position."""
    usd = 0.2 * ledger.traits.equity_usd[account]
    ledger.deposit(account, usd)
    own = ledger.traits.isolated[account]
    account, usd = account[own], usd[own]
    symbol = np.abs(ledger.qty[account] * mark).argmax(axis=1)
    ledger.cash[account] -= usd
    ledger.isolated[account, symbol] += usd


def initial_orders(ledger: Ledger, screen: Screen, rng: np.random.Generator) -> Orders:
    """What about half of the owners hold when the simulation starts: one position each."""
    account = np.flatnonzero(rng.random(ledger.cash.size) < 0.5)
    symbol = ledger.traits.symbols[account, rng.integers(0, 3, account.size)]
    desk = Desk(ledger, screen, account, symbol, ledger.wealth_usd()[account])
    return _orders(desk, _goal_usd(desk, rng.standard_normal(account.size)))


def move_deposits(ledger: Ledger, elapsed_s: int, rng: np.random.Generator) -> None:
    """Owners of flat accounts refill empty ones and withdraw from those that have grown far beyond what they intend."""
    intended = ledger.traits.equity_usd
    luck = rng.random(intended.size)
    wealth = ledger.wealth_usd()
    empty = (wealth < 0.35 * intended) & (luck < elapsed_s / (REFILL_H * HOUR_S))
    rich = (wealth > 2.5 * intended) & (luck < elapsed_s / (WITHDRAWAL_H * HOUR_S))
    account = np.flatnonzero(empty | rich)
    account = account[~ledger.qty[account].any(axis=1)]
    ledger.deposit_mixed(account, intended[account] - wealth[account])
