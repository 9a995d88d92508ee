"""Cascades of one world under many shocks: `prepare` once, `run` thousands, `run_one` with every unit's outcome.

Sums of money are whole micro-dollars, so neither the order of units nor that of legs changes a digit. Shocks go
through the kernel eight at a time, alike ones together; what a shock does never depends on its neighbours.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from features.mechanics.impact import move
from features.mechanics.insurance import MICRO_MAX, liquidation_fee, micro
from features.mechanics.paths import budget_usd_of, kind_of, params_of
from features.mechanics.profile import Fees, Latency, Path, Profile
from models.cascade.kernel import (
    CASH,
    LANE,
    LANES,
    LEFT,
    MICRO,
    UNIT,
    Lanes,
    Market,
    Rule,
    cascade,
    equity_at_rest,
    present_drops,
)
from models.cascade.prepared import BLOCK, Prepared, prepare
from models.cascade.world import Bools, Floats, Ints, World

__all__ = ["Outcome", "Outcomes", "Rules", "prepare", "round_s", "rules_of", "run", "run_one"]


@dataclass(frozen=True)
class Rules:
    """What a venue does with units that are short of margin. `mark_lag_rounds`: rounds by which its mark is late.

    Raises ValueError for a path that does not exist, with parameters that are missing, or for a negative number.
    """

    path: Path = field(default_factory=lambda: Path("market"))
    fees: Fees = field(default_factory=lambda: Fees(0.0, 0.0))
    buffer: float = 0.0
    mark_lag_rounds: int = 0
    rounds_max: int = 20_000

    def __post_init__(self) -> None:
        params_of(self.path)
        numbers = (self.fees.taker, self.fees.liquidation, self.fees.liquidation_usd_max, self.buffer)
        if not all(number >= 0 for number in numbers) or not math.isfinite(sum(numbers[:2]) + self.buffer):
            raise ValueError(f"fees and `buffer` must be finite and not negative, were {numbers}")
        if not (self.mark_lag_rounds >= 0 and self.rounds_max >= 1):
            raise ValueError("`mark_lag_rounds` must be at least 0 and `rounds_max` at least 1")


@dataclass(frozen=True)
class Outcomes:
    """One row per shock. Drops are relative to the reference mark, shock included; a price never falls below 0.

    `liquidated_micro` counts what was closed at the reference mark, sells and buys alike, by the book or beside it;
    `flow_micro` what reached the book, sells positive. `bad_debt_micro` and `fee_micro` are before fund and ADL.
    `rounds` is the last round with flow. `exhausted`: the book is used up beyond what is known of it.
    `settled` is False where rounds ran out or a path closes nothing of units that stay short of margin.
    """

    drop: Floats  # (shocks, symbols)
    liquidated_micro: Ints  # (shocks, symbols)
    flow_micro: Ints  # (shocks, symbols)
    exhausted: Bools  # (shocks, symbols)
    units_hit: Ints  # (shocks,)
    rounds: Ints
    bad_debt_micro: Ints
    fee_micro: Ints
    touched: Ints  # units in blocks that the shock had to open
    settled: Bools

    @property
    def liquidated_usd(self) -> Floats:
        return np.asarray(self.liquidated_micro / MICRO)

    @property
    def bad_debt_usd(self) -> Floats:
        return np.asarray(self.bad_debt_micro / MICRO)

    @property
    def fee_usd(self) -> Floats:
        return np.asarray(self.fee_micro / MICRO)


@dataclass(frozen=True)
class Outcome:
    """One shock with the units that it hit, in the order of the world.

    `equity_micro` is theirs at rest, liquidation fee not yet taken; `fee_micro` is that fee; `cost_usd` is what the
    path cost them against holding everything to the end: negative where they were out before the worst.
    """

    all: Outcomes  # of one row
    unit: Ints  # places in the world
    closed_share: Floats
    equity_micro: Ints
    fee_micro: Ints
    cost_usd: Floats
    account: Ints  # distinct accounts hit


def rules_of(profile: Profile, mark_lag_rounds: int = 0) -> Rules:
    return Rules(profile.path, profile.fees, profile.buffer, mark_lag_rounds)


def round_s(path: Path, latency: Latency) -> float:
    """Length of a round: `max(step_s, book_s + mark_s + liquidation_s)`.

    >>> round_s(Path("market", 1.0), Latency(0.5, 0.25, 1.0))
    1.75
    """
    return max(path.step_s, latency.book_s + latency.mark_s + latency.liquidation_s)


def run(prepared: Prepared, shocks: Floats, rules: Rules, threads: int = 1) -> Outcomes:
    """Fixed points of all `shocks`, (shocks, symbols) of relative drops; rows come back in the order given.

    Raises ValueError unless shocks are finite, at most 1 and as wide as the world.
    """
    checked = _checked(prepared.world, shocks)
    order = np.argsort(checked.sum(axis=1), kind="stable")
    parts = [order[first : first + LANES] for first in range(0, len(order), LANES)]
    waiting = iter(sorted(parts, key=lambda part: -float(np.abs(checked[part]).sum())))  # the longest first
    if threads == 1 or len(parts) < 2:
        done = _some(prepared, checked, waiting, rules)
    else:
        with ThreadPoolExecutor(threads) as pool:  # a list's iterator gives each part to one thread
            workers = [pool.submit(_some, prepared, checked, waiting, rules) for _ in range(threads)]
            done = [row for worker in workers for row in worker.result()]
    return _joined(done, prepared.world)


def run_one(prepared: Prepared, shock: Floats, rules: Rules) -> Outcome:
    """Fixed point of one shock, (symbols,), with every unit that it hit."""
    lanes = _lanes(prepared, rules)
    whole, part = _pass(prepared, _checked(prepared.world, np.atleast_2d(shock)), rules, lanes)
    outcomes, equity = _outcomes(prepared, rules, lanes, whole, part, 1)
    order = np.argsort(prepared.unit[whole[:, UNIT]])
    row = whole[order, UNIT]
    unit, left = prepared.unit[row], part[order, LEFT]
    still = part[order]
    still[:, LEFT], still[:, CASH] = 1.0, prepared.units.cash[row]
    untouched = equity_at_rest(prepared.units, lanes, whole[order], still)
    fee = _fees(rules, prepared.units.gross[row] * (1.0 - left), equity[order])
    account = np.unique(prepared.world.account[unit])
    return Outcome(outcomes, unit, 1.0 - left, equity[order], fee, untouched - equity[order] / MICRO, account)


def _checked(world: World, shocks: Floats) -> Floats:
    found = np.asarray(shocks, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != len(world.symbols):
        raise ValueError(f"shocks must have one column per symbol ({len(world.symbols)}), had shape {found.shape}")
    if not (np.isfinite(found) & (found <= 1)).all():
        raise ValueError("shocks must be finite relative drops of at most 1")
    return found


def _some(prepared: Prepared, shocks: Floats, waiting: Iterator[Ints], rules: Rules) -> list[tuple[Ints, Outcomes]]:
    """Passes over the parts that are `waiting`, one after the other, in one set of lanes."""
    lanes, done = _lanes(prepared, rules), []
    for part in waiting:
        whole, rest = _pass(prepared, shocks[part], rules, lanes)
        done.append((part, _outcomes(prepared, rules, lanes, whole, rest, len(part))[0]))
    return done


def _lanes(prepared: Prepared, rules: Rules) -> Lanes:
    symbols, blocks = len(prepared.world.symbols), len(prepared.sieve.block_room)
    wide = (symbols, LANES)
    return Lanes(
        shock=np.zeros(wide),
        drop=np.zeros(wide),
        judged=np.zeros(wide),
        judged_single=np.zeros(wide, np.float32),
        past=np.zeros((rules.mark_lag_rounds + 1, *wide)),
        falls=np.zeros(wide),
        rises=np.zeros(wide),
        fall=np.zeros(LANES),
        rise=np.zeros(LANES),
        wild=np.zeros(LANES, np.bool_),
        flow=np.zeros(wide, np.int64),
        before=np.zeros(wide, np.int64),
        closed=np.zeros(wide, np.int64),
        asked=np.zeros(wide, np.int64),
        live=np.zeros(LANES, np.bool_),
        moved=np.zeros(LANES, np.bool_),
        waiting=np.zeros(LANES, np.bool_),
        idle=np.zeros(LANES, np.int64),
        rounds=np.zeros(LANES, np.int64),
        deadline=np.zeros((blocks, LANES)),
        seen=np.zeros((blocks, LANES), np.bool_),
        entered=np.zeros(len(prepared.unit), np.uint8),
    )


def _pass(prepared: Prepared, shocks: Floats, rules: Rules, lanes: Lanes) -> tuple[Ints, Floats]:
    """One pass of the kernel over at most `LANES` shocks, from a clean state."""
    for column in lanes:
        column[...] = 0
    lanes.shock[:, : len(shocks)] = shocks.T
    lanes.live[: len(shocks)] = True
    lanes.deadline[...] = prepared.sieve.block_room[:, None]
    params, kind = params_of(rules.path), kind_of(rules.path.kind).code
    budget = float(budget_usd_of(kind, params))
    rule = Rule(kind, params, rules.buffer, rules.fees.taker, budget, rules.mark_lag_rounds, rules.rounds_max)
    market = _market(prepared)
    whole, part = cascade(prepared.units, prepared.sieve, market, rule, lanes)
    present_drops(market, lanes)
    return whole, part


def _market(prepared: Prepared) -> Market:
    spill = np.ascontiguousarray(prepared.world.spill)
    linked = not np.array_equal(spill, np.eye(len(spill)))
    return Market(prepared.law.scale, prepared.law.exponent, spill, linked)


def _fees(rules: Rules, closed_usd: Floats, equity: Ints) -> Ints:
    """Liquidation fee of each unit in micro-dollars, from what it has left."""
    most = int(min(rules.fees.liquidation_usd_max * MICRO, MICRO_MAX))
    return liquidation_fee(micro(closed_usd), equity, rules.fees.liquidation, most)


def _outcomes(  # noqa: PLR0917  # the parts of one pass
    prepared: Prepared, rules: Rules, lanes: Lanes, whole: Ints, part: Floats, count: int
) -> tuple[Outcomes, Ints]:
    """Sums over the entries of a pass, and the equity of each entry at rest."""
    equity = micro(equity_at_rest(prepared.units, lanes, whole, part))
    debt = np.maximum(-equity, 0)
    fee = _fees(rules, prepared.units.gross[whole[:, UNIT]] * (1.0 - part[:, LEFT]), equity)
    hit, debts, fees = (np.zeros(LANES, dtype=np.int64) for _ in range(3))
    for total, value in ((hit, 1), (debts, debt), (fees, fee)):
        np.add.at(total, whole[:, LANE], value)
    moved = move(prepared.law, lanes.flow.T / MICRO)
    exhausted = (np.abs(moved) > prepared.world.books.depth_limit) | (lanes.drop.T >= 1.0)
    sizes = np.minimum(BLOCK, len(prepared.unit) - BLOCK * np.arange(len(lanes.seen)))
    settled = ~(lanes.live | lanes.waiting)
    columns = (lanes.drop.T, lanes.closed.T, lanes.flow.T, exhausted, hit, lanes.rounds, debts, fees)
    rows = (*columns, sizes @ lanes.seen, settled)
    return Outcomes(*(np.array(column[:count]) for column in rows)), equity


def _joined(done: list[tuple[Ints, Outcomes]], world: World) -> Outcomes:
    """Rows of all passes in the order in which their shocks were given."""
    if not done:
        wide, narrow = np.zeros((0, len(world.symbols))), np.zeros(0, dtype=np.int64)
        whole = wide.astype(np.int64)
        return Outcomes(wide, whole, whole, wide > 0, narrow, narrow, narrow, narrow, narrow, narrow > 0)
    place = np.argsort(np.concatenate([part for part, _ in done]))
    names = Outcomes.__dataclass_fields__
    return Outcomes(*(np.concatenate([getattr(rows, name) for _, rows in done])[place] for name in names))
