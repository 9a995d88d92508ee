"""Accounts: who they are (`Traits`), what they hold (`Ledger`), and how money moves when they trade.

Every position of an account has the house as its counterparty, so the market is closed:

    sum(qty) + house_qty = 0                                                          per symbol
    sum(cash + isolated - cost) + house_cash + fund + fees - bad_debt = deposits      in dollars, `balance_usd`
    sum(tokens) + house_tokens = deposits_tokens                                      in units of the stablecoin

with `cost = qty * entry_price`. The house stands for the makers and for all flow that is not modelled account by
account. `house_cash` is its cash after paying for its position; its equity is `house_cash + house_qty @ mark`. Tokens
of the stablecoin are collateral of cross accounts, less a haircut; who owes cash at the end of a liquidation pays with
them, and the house buys them at their price.
"""

from dataclasses import dataclass, replace

import numpy as np

from models.simulator.settings import DAY_S, Bools, Floats, Ints, VenueSettings

SYMBOLS_MAX = 3  # per account
OWNERS_EVERY_S = 60  # owners look at the market once a minute at most; stops and margin are checked every step
HASTE_LEVERAGE = 12.0  # who levers twice this acts twice as often
STOP_SHARE = 0.4  # of owners who protect every position by a stop order, at a quarter to two thirds of its margin
HOUSE_EQUITY_SHARE = 5.0  # the house starts with this many times the equity of all accounts


@dataclass(frozen=True)
class Traits:
    """What does not change about the accounts; arrays of length accounts."""

    equity_usd: Floats  # what the owner means to keep at the venue
    leverage: Floats  # target in calm markets
    isolated: Bools
    trend_weight: Floats
    lean: Floats  # constant part of the view; positive is long
    take_profit: Floats  # return on margin at which the owner closes
    loss_share_max: Floats  # loss over cost at which a stop order closes; infinite for those who have none
    action_share: Floats  # probability of a decision per minute in an ordinary regime
    symbols: Ints  # (accounts, SYMBOLS_MAX), with repeats where there are fewer
    symbol_count: Floats
    token_share: Floats  # of the equity meant to be kept in the stablecoin; 0 for isolated accounts


def draw_traits(settings: VenueSettings, rng: np.random.Generator) -> Traits:
    """Draw the population."""
    n = settings.accounts
    symbols, count = _draw_symbols(n, len(settings.symbols), rng)
    leverage = settings.leverage_median * np.exp(settings.leverage_log_sd * rng.standard_normal(n))
    leverage = np.clip(leverage, 1.0, settings.leverage_max)
    haste = np.clip(leverage / HASTE_LEVERAGE, 0.5, 3.0)
    actions = settings.actions_account_day * haste * np.exp(0.5 * rng.standard_normal(n) - 0.125)
    return Traits(
        equity_usd=settings.equity_median_usd * np.exp(settings.equity_log_sd * rng.standard_normal(n)),
        leverage=leverage,
        isolated=rng.random(n) < settings.isolated_share,
        trend_weight=settings.trend_following + 0.6 * rng.standard_normal(n),
        lean=0.15 + 0.5 * rng.standard_normal(n),
        take_profit=np.exp(0.6 * rng.standard_normal(n)),
        loss_share_max=np.where(rng.random(n) < STOP_SHARE, rng.uniform(0.25, 0.7, n), np.inf) / leverage,
        action_share=np.minimum(actions * OWNERS_EVERY_S / DAY_S, 1.0),
        symbols=symbols,
        symbol_count=count,
        token_share=np.zeros(n),
    )


def with_tokens(traits: Traits, account_share: float, rng: np.random.Generator) -> Traits:
    """Let `account_share` of the cross accounts keep 30 to 90 % of their equity in the stablecoin."""
    n = traits.equity_usd.size
    holds = (rng.random(n) < account_share) & ~traits.isolated
    return replace(traits, token_share=np.where(holds, rng.uniform(0.3, 0.9, n), 0.0))


def _draw_symbols(accounts: int, symbols: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """One to three distinct symbols per account, those of low rank more often."""
    keys = rng.random((accounts, symbols)) ** (1.0 + 0.4 * np.arange(symbols))
    ranked = np.argsort(-keys, axis=1)[:, :SYMBOLS_MAX]
    count = np.minimum(rng.choice([1, 2, 3], size=accounts, p=[0.5, 0.3, 0.2]), symbols)
    column = np.arange(SYMBOLS_MAX) % count[:, None]
    return np.take_along_axis(ranked, column, axis=1), count.astype(np.float64)


class Ledger:
    """Positions and money. Matrices are (accounts, symbols); `isolated` holds the margin locked to a position."""

    def __init__(self, settings: VenueSettings, traits: Traits, rng: np.random.Generator) -> None:
        shape = (settings.accounts, len(settings.symbols))
        self.fee_taker = settings.fee_taker
        self.traits = traits
        self.qty, self.cost, self.isolated = (np.zeros(shape) for _ in range(3))
        self.cash = traits.equity_usd * rng.uniform(0.5, 1.5, settings.accounts)
        self.house_qty = np.zeros(shape[1])
        self.house_cash = HOUSE_EQUITY_SHARE * float(self.cash.sum())
        self.fund = settings.fund_account_usd * settings.accounts
        self.fees, self.bad_debt, self.adl = 0.0, 0.0, 0.0  # `adl`: what winners and house gave up against the mark
        self.fund_draw = 0.0  # holes that the fund has covered
        self.leverage_cap = np.full(shape[1], np.inf)  # of isolated positions opened from now on
        self.tokens = traits.token_share * self.cash
        self.cash = self.cash - self.tokens
        self.house_tokens, self.token_price, self.haircut = 0.0, 1.0, settings.stablecoin_haircut
        self.deposits, self.deposits_tokens = self.balance_usd(), float(self.tokens.sum())

    def balance_usd(self) -> float:
        """Money of everybody at cost; equals `deposits` but for rounding. Bad debt counts as money that is owed."""
        accounts = float(self.cash.sum() + self.isolated.sum() - self.cost.sum())
        return accounts + self.house_cash + self.fund + self.fees - self.bad_debt

    def collateral_usd(self) -> Floats:
        """What counts as collateral of each account: `cash + tokens * token_price * (1 - haircut)`."""
        return self.cash + self.tokens * (self.token_price * (1 - self.haircut))

    def wealth_usd(self) -> Floats:
        """Cash and tokens at their price, margin locked to isolated positions not included."""
        return self.cash + self.tokens * self.token_price

    def gross_base(self) -> Floats:
        """Sum of the accounts' positions without their signs. With the house's it is twice the open interest."""
        return np.asarray(np.abs(self.qty).sum(axis=0))

    def deposit(self, account: Ints, usd: Floats) -> None:
        """Money from outside (negative: to outside). `account` holds no repeats."""
        self.cash[account] += usd
        self.deposits += float(usd.sum())

    def deposit_mixed(self, account: Ints, usd: Floats) -> None:
        """As `deposit`, but the `token_share` of what comes in is tokens."""
        tokens = self.traits.token_share[account] * np.maximum(usd, 0.0) / self.token_price
        self.deposit(account, usd - tokens * self.token_price)
        self.tokens[account] += tokens
        self.deposits_tokens += float(tokens.sum())

    def sell_tokens(self, account: Ints) -> None:
        """Sell tokens of accounts that owe cash to the house, as many as the debt needs. `account`: no repeats."""
        debt = np.maximum(-self.cash[account], 0.0)
        sold = np.minimum(self.tokens[account], debt / self.token_price)
        usd = np.where(sold < self.tokens[account], debt, sold * self.token_price)
        self.tokens[account] -= sold
        self.cash[account] += usd
        self.house_tokens += float(sold.sum())
        self.house_cash -= float(usd.sum())

    def trade(self, account: Ints, symbol: Ints, dq: Floats, price: Floats) -> None:
        """Fill `dq` (signed base units) against the house at `price`; pairs (account, symbol) hold no repeats.

        The part that closes realises `closed * (price - entry)` into cash and frees its share of isolated margin; the
        part that opens adds `opened * price` to the cost and, on an isolated account, locks `|opened| * price /
        min(leverage, leverage_cap)`. The taker fee is paid from cash.
        """
        before = self.qty[account, symbol]
        closed = np.where(before * dq < 0, np.sign(dq) * np.minimum(np.abs(dq), np.abs(before)), 0.0)
        share = np.divide(-closed, before, out=np.zeros_like(dq), where=before != 0)
        freed_cost, freed_margin = share * self.cost[account, symbol], share * self.isolated[account, symbol]
        opened = dq - closed
        leverage = np.minimum(self.traits.leverage[account], self.leverage_cap[symbol])
        locked = np.where(self.traits.isolated[account], np.abs(opened) * price / leverage, 0.0)
        self.qty[account, symbol] = before + dq
        self.cost[account, symbol] += opened * price - freed_cost
        self.isolated[account, symbol] += locked - freed_margin
        fee = self.fee_taker * np.abs(dq) * price
        gain = -closed * price - freed_cost + freed_margin - locked - fee
        self.cash += np.bincount(account, weights=gain, minlength=self.cash.size)
        self.fees += float(fee.sum())
        self._house_takes(symbol, dq, price)

    def _house_takes(self, symbol: Ints, dq: Floats, price: Floats) -> None:
        self.house_qty -= np.bincount(symbol, weights=dq, minlength=self.house_qty.size)
        self.house_cash += float((dq * price).sum())

    def force(self, account: Ints, symbol: Ints, share: Floats, price: Floats) -> Floats:
        """Close `share` in (0, 1] of positions against the house at `price`; returns each leg's pot in dollars.

        The pot of an isolated leg is its margin plus its realised profit, of a cross leg its realised profit alone; it
        is not booked: the caller says who gets it.
        """
        dq = -share * self.qty[account, symbol]
        whole = share >= 1.0
        cost, margin = self.cost[account, symbol], self.isolated[account, symbol]
        freed = np.where(whole, cost, share * cost)
        pot = -dq * price - freed + share * margin
        self.qty[account, symbol] = np.where(whole, 0.0, self.qty[account, symbol] + dq)
        self.cost[account, symbol] = np.where(whole, 0.0, cost - freed)
        self.isolated[account, symbol] = np.where(whole, 0.0, (1 - share) * margin)
        self._house_takes(symbol, dq, price)
        return pot

    def pay_funding(self, rate: Floats, mark: Floats) -> None:
        """Longs pay `qty * mark * rate`, shorts receive it; an isolated position pays from its own margin first."""
        due = self.qty * (mark * rate)
        own = np.where(self.traits.isolated[:, None], np.minimum(due, self.isolated), 0.0)
        self.isolated -= own
        self.cash -= (due - own).sum(axis=1)
        self.house_cash -= float(self.house_qty @ (mark * rate))
