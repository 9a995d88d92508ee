"""The venue's own path: which units of margin are in liquidation, and how much of each is closed now.

A unit enters when its equity falls below maintenance and leaves when it reaches `maintenance * (1 + exit_buffer)`. It
acts at once and then every `path.step_s`; all legs of a unit are closed by the same share. The rules of each path are
those of `features.mechanics.paths`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np

from features.mechanics.paths import AUCTION, MARKET, budget_usd_of, kind_of, params_of, take_of
from models.simulator.legs import Legs
from models.simulator.settings import Bools, Floats, Ints, VenueSettings

MARKET_ROUNDS = 2  # of liquidation within one step, for a path without steps of its own


@dataclass(frozen=True)
class Sale:
    """What the path takes of each leg now, columns beside `Legs`."""

    share: Floats  # of the position
    book_share: Floats  # of that share, sold into the book
    beside: Bools  # filled at the mark less the discount: who takes it over carries the risk
    discount_usd: Floats
    fresh: Bools  # the unit's first step in the path

    def rows(self, keep: Bools | Ints) -> "Sale":
        return Sale(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def whole_sale(legs: Legs) -> Sale:
    """Everything at once into the book."""
    count = legs.qty.size
    one, none = np.ones(count), np.zeros(count, dtype=np.bool_)
    return Sale(one, one, none, np.zeros(count), ~none)


class Desk:
    """Units in liquidation. `keys` is sorted; `since` is the tick at which each of them entered.

    A tick is one round of liquidation: `rounds` of them make a step of the venue.
    """

    def __init__(self, settings: VenueSettings) -> None:
        path = settings.path
        self.kind, self.params = kind_of(path.kind).code, params_of(path)
        steps = path.step_s / settings.step_s
        self.rounds = max(round(1 / steps), 1) if steps > 0 else MARKET_ROUNDS
        self.every = max(round(steps), 1) if steps > 0 else 1
        self.buffer = settings.exit_buffer
        self.budget_usd = budget_usd_of(self.kind, self.params)
        self.symbols = len(settings.symbols)
        self.keys, self.since = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def accounts(self) -> Ints:
        """Accounts with a unit in liquidation."""
        return np.unique(self.keys // (self.symbols + 1))

    def sales(self, legs: Legs, tick: int) -> tuple[Legs, Sale]:
        """Of `legs`, those that act at `tick`, and what is taken of each. Units that recovered are forgotten.

        `legs` holds every leg of every unit that is below maintenance or in liquidation.
        """
        unit = legs.account * (self.symbols + 1) + np.where(legs.isolated, legs.symbol, self.symbols)
        inside = np.isin(unit, self.keys)
        held = legs.equity_usd < legs.maintenance_usd * np.where(inside, 1 + self.buffer, 1.0)
        legs, unit, inside = legs.rows(held), unit[held], inside[held]
        keys, first, of = np.unique(unit, return_index=True, return_inverse=True)
        since = np.full(keys.size, tick)
        since[inside[first]] = self.since[np.isin(self.keys, keys)]
        self.keys, self.since = keys, since
        waited = tick - since
        acts = np.flatnonzero((waited % self.every == 0)[of])
        return legs.rows(acts), self._sale(legs, of, first, waited).rows(acts)

    def _sale(self, legs: Legs, of: Ints, first: Ints, waited: Ints) -> Sale:
        notional = np.abs(legs.notional_usd)
        position = np.bincount(of, notional, minlength=first.size).astype(np.float64)  # integers if there are none
        columns = (position, legs.equity_usd[first], legs.maintenance_usd[first], waited // self.every)
        close, book, discount = takes(self.kind, columns, self.params)
        share = np.clip(close / position, 0.0, 1.0)[of] * self._budgeted(legs.symbol, notional, (close / position)[of])
        beside = (self.kind == AUCTION) | ~(book > 0)
        part = notional / position[of]
        return Sale(share, book[of], beside[of], discount[of] * part, waited[of] == 0)

    def _budgeted(self, symbol: Ints, notional: Floats, share: Floats) -> Floats:
        """Factor that scales the flow of each symbol down to the budget of one step."""
        usd = np.bincount(symbol, notional * share, minlength=self.symbols)
        return np.asarray(np.minimum(self.budget_usd / np.maximum(usd, 1e-9), 1.0)[symbol])


def takes(kind: int, units: tuple[Floats, Floats, Floats, Ints], params: Floats) -> tuple[Floats, Floats, Floats]:
    """Dollars closed, share of them that reaches the book, and discount, per unit: position, equity, maintenance, step.

    >>> one = np.array([1e6]), np.array([9e3]), np.array([1e4]), np.array([0])
    >>> [column.tolist() for column in takes(MARKET, one, np.array([0.0]))]
    [[1000000.0], [1.0], [0.0]]
    """
    size = units[0].size
    if kind == MARKET:
        return units[0], np.ones(size), np.zeros(size)
    out = np.zeros(size), np.zeros(size), np.zeros(size)
    _compiled()(kind, *units, params, *out)
    return out


def _take_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba: it infers types, takes no keywords
    kind, position, equity, maintenance, step, params, close, book, discount
):
    for u in range(position.size):
        taken = take_of(kind, position[u], equity[u], maintenance[u], step[u], params)
        close[u], book[u], discount[u] = taken.close_usd, taken.book_share, taken.discount_usd


@cache
def _compiled() -> Callable[..., None]:
    """Compiled on first use and not kept on disk: numba would not notice that a path has changed."""
    kernel: Callable[..., None] = numba.njit(_take_rows)
    return kernel
