"""The fixed point in plain numpy: every unit is computed anew in every round. The oracle of the compiled engine.

Sums run leg after leg and symbol after symbol as the kernel's do, so that under the market path and flat books the two
agree to the last bit; elsewhere they agree within rounding, and on which units are hit.
"""

from dataclasses import dataclass

import numba
import numpy as np

from features.mechanics.impact import mean_move, move, shape_law
from features.mechanics.paths import AUCTION, MARKET, budget_usd_of, kind_of, params_of, take_of
from models.cascade.engine import Rules
from models.cascade.kernel import DUST_USD, IDLE_MAX, MICRO
from models.cascade.prepared import canonical_legs
from models.cascade.world import Bools, Floats, Ints, World


@dataclass(frozen=True)
class Reference:
    """One shock: drops and sums per symbol, and columns over all units of the world."""

    drop: Floats
    closed_micro: Ints
    flow_micro: Ints
    rounds: int
    hit: Bools
    left: Floats  # share of each unit that no path has closed
    equity_usd: Floats  # at rest, liquidation fee not yet taken


class _Legs:
    """Legs as columns, and sums of them by unit in their order."""

    def __init__(self, world: World) -> None:
        legs = canonical_legs(world)
        self.world, self.unit, self.symbol = world, legs.unit, legs.symbol
        self.notional, self.profit, self.closable = legs.notional, legs.profit, legs.closable
        self.size = np.abs(legs.notional)
        self.gross = self.by_unit(self.size * self.closable)

    def by_unit(self, values: Floats) -> Floats:
        return np.asarray(np.bincount(self.unit, values, self.world.units), dtype=np.float64)

    def micro(self, usd: Floats) -> Ints:
        """Sums by symbol in whole micro-dollars."""
        whole = np.zeros(len(self.world.symbols), dtype=np.int64)
        np.add.at(whole, self.symbol, np.rint(usd * MICRO).astype(np.int64))
        return whole

    def profits(self, drop: Floats) -> tuple[Floats, Floats]:
        """Profit by unit at `drop`: of what a path can close, and of what lies beside it."""
        profit = self.profit - self.notional * drop[self.symbol]
        return self.by_unit(np.where(self.closable, profit, 0.0)), self.by_unit(np.where(self.closable, 0.0, profit))

    def margin(self, left: Floats, cash: Floats, drop: Floats) -> tuple[Floats, Floats, Floats]:
        """Equity, maintenance and notional that can still be closed, by unit."""
        mine, beside = self.profits(drop)
        size = left[self.unit] * self.size * (1.0 - drop[self.symbol])
        most = np.full(len(size), -np.inf)
        for rates, deductions in zip(self.world.rates, self.world.deductions, strict=True):
            np.maximum(most, size * rates[self.symbol] - deductions[self.symbol], out=most)
        needed = self.by_unit(np.where(self.closable, most, 0.0))
        return cash + beside + left * mine, needed, self.by_unit(np.where(self.closable, size, 0.0))


def run_reference(world: World, shock: Floats, rules: Rules) -> Reference:
    """The fixed point of one shock, as `engine.run_one` finds it."""
    legs, law = _Legs(world), shape_law(world.books.shape, world.books.depth_usd)
    kind, params = kind_of(rules.path.kind).code, params_of(rules.path)
    budget = float(budget_usd_of(kind, params))
    can_close = legs.by_unit(legs.closable.astype(np.float64)) > 0
    left, cash = np.ones(world.units), world.cash_usd.copy()
    inside, hit = np.zeros(world.units, dtype=np.bool_), np.zeros(world.units, dtype=np.bool_)
    step = np.zeros(world.units, dtype=np.int64)
    flow, closed = np.zeros(len(world.symbols), dtype=np.int64), np.zeros(len(world.symbols), dtype=np.int64)
    past = [np.zeros(len(world.symbols))] * rules.mark_lag_rounds
    rounds = idle = 0
    for now in range(1, rules.rounds_max + 1):
        before = flow / MICRO
        drop = _drops(world, shock, move(law, before))
        past.append(drop)
        shown = past.pop(0)
        equity, needed, position = legs.margin(left, cash, shown)
        leaves = inside & (equity >= needed * (1.0 + rules.buffer))
        enters = can_close & ~inside & (left > 0) & (equity < needed)
        inside = (inside & ~leaves) | enters
        step[enters] = 0
        hit |= enters
        asked, discount, book = _asked(kind, params, inside, left, (position, equity, needed), step)
        step += inside
        scale = _scale(legs, asked, budget)
        asked, discount = asked * scale, discount * scale
        left = left - asked
        usd = asked[legs.unit] * legs.notional * legs.closable
        gone = legs.micro(np.abs(usd))
        closed, flow = closed + gone, flow + legs.micro(book[legs.unit] * usd)
        filled = np.minimum(drop + (mean_move(law, before, flow / MICRO) - move(law, before)), 1.0)
        if kind == AUCTION:
            book = np.zeros(world.units)
        profit = book * legs.profits(filled)[0] + (1.0 - book) * legs.profits(shown)[0]
        cash = cash + asked * profit - rules.fees.taker * book * asked * legs.gross - discount
        waiting = bool(inside.any())
        inside &= left > 0
        rounds, idle = (now, 0) if gone.any() else (rounds, idle + 1)
        if idle > (IDLE_MAX if waiting else rules.mark_lag_rounds):
            break
    drop = _drops(world, shock, move(law, flow / MICRO))
    equity, _, _ = legs.margin(left, cash, drop)
    return Reference(drop, closed, flow, rounds, hit, left, equity)


def _drops(world: World, shock: Floats, moves: Floats) -> Floats:
    """`shock + spill @ moves`, summed symbol after symbol; a price does not fall below 0."""
    return np.asarray(np.minimum(shock + np.cumsum(world.spill * moves, axis=1)[:, -1], 1.0))


def _asked(  # noqa: PLR0917  # the state of a round
    kind: int, params: Floats, inside: Bools, left: Floats, margin: tuple[Floats, Floats, Floats], step: Ints
) -> tuple[Floats, Floats, Floats]:
    """Share of each unit to close now, equity given away with it, and the share that reaches the book."""
    if kind == MARKET:
        return np.where(inside, left, 0.0), np.zeros(len(left)), inside.astype(np.float64)
    rows = np.flatnonzero(inside)
    position, equity, needed = (column[rows] for column in margin)
    takes = np.array(_takes(kind, params, position, equity, needed, step[rows])).reshape(3, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = left[rows] * (takes[0] / position)
    asked, discount, book = (np.zeros(len(left)) for _ in range(3))
    asked[rows] = np.where(position - takes[0] >= DUST_USD, part, left[rows])
    discount[rows], book[rows] = takes[2], takes[1]
    return asked, discount, book


@numba.njit(cache=True)
def _takes(kind, params, position, equity, needed, step):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # compiled by numba: it infers types, takes no keywords
    found = np.empty((3, len(position)))
    for row in range(len(position)):
        take = take_of(kind, position[row], equity[row], needed[row], step[row], params)
        found[0, row], found[1, row], found[2, row] = take.close_usd, take.book_share, take.discount_usd
    return found


def _scale(legs: _Legs, asked: Floats, budget_usd: float) -> Floats:
    """Share of what a unit asked that the scarcest budget of its symbols leaves it."""
    if not budget_usd < np.inf:
        return np.ones(len(asked))
    usd = legs.micro(np.abs(asked[legs.unit] * legs.notional) * legs.closable) / MICRO
    scale = np.ones(len(asked))
    of_leg = np.where(legs.closable, (budget_usd / np.maximum(usd, budget_usd))[legs.symbol], 1.0)
    np.minimum.at(scale, legs.unit, of_leg)
    return scale
