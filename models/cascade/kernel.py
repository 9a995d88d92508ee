"""The fixed point, compiled: up to eight shocks go through the same units at once.

`LANES` shocks share one pass, so that the legs of a unit are read once for all of them. A round of a pass:

    move     drops from the flow so far: x = shock + spill @ move(flow)
    look     blocks whose bound allows a breach are opened; units that are short of margin get an entry
    judge    every open entry asks its path how much is closed now
    ration   a budget per symbol and step scales what was asked
    close    entries shrink, flow grows by whole micro-dollars, so that no order of sums matters
    fill     what was closed is booked at the mean of the walk through the book

A block is looked at again only once the drops have travelled as far as the least room its units had left; an entry is
looked at in every round of its lane. `models.cascade.reference` says the same in numpy, recomputing everything.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from features.mechanics.paths import AUCTION, take_of
from models.cascade.prepared import BLOCK, Sieve, Singles, Units
from models.cascade.world import Bools, Floats, Ints

LANES = 8
MICRO = 1e6
DUST_USD = 0.01  # a step that would leave less than this closes all
IDLE_MAX = 1_000  # rounds without flow after which a path that closes nothing is given up
REACH = 1.0  # drops within it are covered by the bounds of the sieve

UNIT, LANE, STEP, INSIDE = range(4)  # whole columns of an entry
LEFT, CASH, ASKED, DISCOUNT, BOOK = range(5)  # and the others
EQUITY, NEEDED, POSITION = ASKED, DISCOUNT, BOOK  # of an entry that no round has judged yet
FRESH = 2  # value of INSIDE of such an entry
F = TypeVar("F", bound=Callable[..., Any])


class Market(NamedTuple):
    """What flow does: the law of each book, and what an impact on one symbol moves in another."""

    scale: Floats
    exponent: Floats
    spill: Floats
    linked: bool  # spill is not the identity


class Rule(NamedTuple):
    """What a path does, as the kernel reads it."""

    kind: int
    params: Floats
    buffer: float
    taker: float
    budget_usd: float
    lag: int  # rounds by which the mark is late
    rounds_max: int


class Lanes(NamedTuple):
    """State of the shocks of a pass; (symbols, LANES) where nothing else is said."""

    shock: Floats
    drop: Floats  # present
    judged: Floats  # what a late mark shows
    judged_single: Singles
    past: Floats  # (lag + 1, symbols, LANES)
    falls: Floats  # travel of the judged drop, downwards in price
    rises: Floats
    fall: Floats  # (LANES,), travel of the fastest symbol of each round
    rise: Floats
    wild: Bools  # (LANES,), a drop is beyond the reach of the bounds
    flow: Ints  # micro-dollars, sells positive
    before: Ints  # flow at the start of the round
    closed: Ints  # micro-dollars, without sign
    asked: Ints
    live: Bools  # (LANES,)
    moved: Bools  # (LANES,)
    waiting: Bools  # (LANES,)
    idle: Ints  # (LANES,)
    rounds: Ints  # (LANES,), the last round with flow
    deadline: Floats  # (blocks, LANES)
    seen: Bools  # (blocks, LANES), the lane itself had to open the block
    entered: npt.NDArray[np.uint8]  # (units,), a bit per lane


def compiled(function: F) -> F:
    """numba's compiler without the interpreter's lock, cached on disk, typed as the identity."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))


@compiled
def move_at(flow_usd: float, scale: float, exponent: float) -> float:
    """`sign(Q) * scale * |Q| ** exponent`, as `features.mechanics.impact.move`.

    >>> move_at(-1e7, 1e-9, 1.0), round(move_at(1e7, 1e-6, 0.5), 9)
    (-0.01, 0.003162278)
    """
    if exponent == 1.0:
        return float(scale * flow_usd)
    size = float(scale * abs(flow_usd) ** exponent)
    return size if flow_usd > 0.0 else -size


@compiled
def mean_move_at(before_usd: float, after_usd: float, scale: float, exponent: float) -> float:
    """Mean of the move over a walk, as `features.mechanics.impact.mean_move`.

    >>> round(mean_move_at(1e7, 3e7, 1e-9, 1.0), 12), round(mean_move_at(0.0, 9.0, 1.0, 0.5), 12)
    (0.02, 2.0)
    """
    if exponent == 1.0 or before_usd == after_usd:
        return 0.5 * (move_at(before_usd, scale, exponent) + move_at(after_usd, scale, exponent))
    power = 1.0 + exponent
    if before_usd * after_usd < 0.0:
        walked = abs(after_usd) ** power - abs(before_usd) ** power
        return float(scale * walked / (power * (after_usd - before_usd)))
    far, near = (after_usd, before_usd) if abs(after_usd) > abs(before_usd) else (before_usd, after_usd)
    u = near / far - 1.0
    if u <= -1.0:
        return move_at(far, scale, exponent) / power
    return float(move_at(far, scale, exponent) * np.expm1(power * np.log1p(u)) / (power * u))


# --- one unit of margin at one lane's drops ---


@compiled
def _margin(units: Units, u: int, left: float, cash: float, drops: Floats, lane: int) -> tuple[float, float, float]:  # noqa: PLR0917  # compiled code takes no keywords
    """Equity, maintenance and notional that can still be closed, at present marks."""
    open_profit, beside, needed, position = 0.0, 0.0, 0.0, 0.0
    for leg in range(units.start[u], units.start[u + 1]):
        s = units.symbol[leg]
        x = drops[s, lane]
        profit = units.profit[leg] - units.notional[leg] * x
        if not units.closable[leg]:
            beside += profit
            continue
        open_profit += profit
        size = left * abs(units.notional[leg]) * (1.0 - x)
        position += size
        most = size * units.rates[0, s] - units.deductions[0, s]
        for k in range(1, units.rates.shape[0]):
            most = max(most, size * units.rates[k, s] - units.deductions[k, s])
        needed += most
    return cash + beside + left * open_profit, needed, position


@compiled
def _realised(units: Units, u: int, drops: Floats, lane: int) -> float:
    """Profit of all that a path can close, were it closed at `drops`."""
    profit = 0.0
    for leg in range(units.start[u], units.start[u + 1]):
        if units.closable[leg]:
            profit += units.profit[leg] - units.notional[leg] * drops[units.symbol[leg], lane]
    return profit


# --- move ---


@compiled
def _move(market: Market, lanes: Lanes, now: int) -> None:
    """Present drops, the drops that the mark shows, and how far these have travelled."""
    symbols, slots = lanes.drop.shape[0], lanes.past.shape[0]
    moves = np.empty(symbols)
    for lane in range(LANES):
        if not lanes.live[lane]:
            continue
        for s in range(symbols):
            moves[s] = move_at(lanes.flow[s, lane] / MICRO, market.scale[s], market.exponent[s])
        fall, rise = 0.0, 0.0
        for s in range(symbols):
            x = min(lanes.shock[s, lane] + spilled(market, moves, s), 1.0)
            lanes.drop[s, lane] = x
            lanes.past[now % slots, s, lane] = x
            shown = lanes.past[(now + 1) % slots, s, lane]
            step = shown - lanes.judged[s, lane]
            lanes.judged[s, lane] = shown
            lanes.judged_single[s, lane] = shown
            lanes.falls[s, lane] += max(step, 0.0)
            lanes.rises[s, lane] += max(-step, 0.0)
            fall, rise = max(fall, step), max(rise, -step)
            lanes.wild[lane] |= not abs(shown) <= REACH
        lanes.fall[lane] += fall
        lanes.rise[lane] += rise


@compiled
def present_drops(market: Market, lanes: Lanes) -> None:
    """Drops after all flow, where rounds ran out before a lane came to rest."""
    if lanes.live.any():
        _move(market, lanes, 0)


@compiled
def spilled(market: Market, moves: Floats, s: int) -> float:
    """What the moves of all symbols do to symbol `s`, summed symbol after symbol."""
    if not market.linked:
        return float(moves[s])
    total = 0.0
    for other in range(len(moves)):
        total += market.spill[s, other] * moves[other]
    return float(total)


# --- look ---


@compiled
def _due_blocks(sieve: Sieve, lanes: Lanes, clock: Floats, places: Ints) -> int:
    """Blocks that some lane must open, into `places`; returns how many. `clock` has a row for each of them.

    The clock of a block and lane is the most that one of its units can have lost since the start, as a share of its
    weight. It only grows; a block is due when it has reached the deadline set at the last look.
    """
    bias = np.zeros(LANES)
    for lane in range(LANES):
        if not lanes.live[lane]:
            bias[lane] = -np.inf
        elif lanes.wild[lane]:
            bias[lane] = np.inf
    falls, rises, fall, rise = lanes.falls, lanes.rises, lanes.fall, lanes.rise
    deadline, count = lanes.deadline, 0
    for block in range(len(sieve.block_room)):
        s, leg = sieve.block_symbol[block], sieve.block_leg[block]
        beside_fall, beside_rise = sieve.block_fall[block], sieve.block_rise[block]
        own, some = rises if sieve.block_rises[block] else falls, False
        for lane in range(LANES):
            at = leg * own[s, lane] + beside_fall * fall[lane] + beside_rise * rise[lane]
            clock[count, lane] = at
            some |= at + bias[lane] >= deadline[block, lane]
        if not some:
            continue
        for lane in range(LANES):
            lanes.seen[block, lane] |= clock[count, lane] + bias[lane] >= deadline[block, lane]
        places[count] = block
        count += 1
    return count


@compiled
def _rooms(  # noqa: PLR0917  # compiled code takes no keywords
    start: Ints, symbol: Ints, weight: Singles, room: Singles, drops: Singles, first: int, slack: Singles
) -> None:
    """Bound on the room of a block's units, from unit `first` on, at all lanes; (units, LANES) into `slack`."""
    for row in range(min(BLOCK, len(room) - first)):
        for lane in range(LANES):
            slack[row, lane] = room[first + row]
        for leg in range(start[first + row], start[first + row + 1]):
            share, s = weight[leg], symbol[leg]
            for lane in range(LANES):
                slack[row, lane] -= share * drops[s, lane]


@compiled
def _look(units: Units, sieve: Sieve, lanes: Lanes, whole: Ints, part: Floats, size: int) -> tuple[Ints, Floats, int]:  # noqa: PLR0917  # compiled code takes no keywords
    """Open the blocks that are due; append an entry for each unit and lane that is short of margin."""
    blocks = len(sieve.block_room)
    clock, places = np.empty((blocks + 1, LANES)), np.empty(blocks, dtype=np.int64)
    least, slack = np.empty(LANES, dtype=np.float32), np.empty((BLOCK, LANES), dtype=np.float32)
    wild, dead = lanes.wild.any(), np.uint8(0)
    for lane in range(LANES):
        dead |= np.uint8((not lanes.live[lane]) << lane)
    for at in range(_due_blocks(sieve, lanes, clock, places)):
        first = places[at] * BLOCK
        _rooms(units.start, units.symbol, sieve.weight, sieve.room, lanes.judged_single, first, slack)
        if size + BLOCK * LANES > len(whole):
            whole, part = _doubled(whole), _doubled(part)
        least[:] = np.inf
        for row in range(min(BLOCK, len(sieve.room) - first)):
            done, short = lanes.entered[first + row] | dead, wild
            for lane in range(LANES):
                if done >> lane & 1:
                    slack[row, lane] = np.inf
                short |= not slack[row, lane] > 0.0
            if short:
                size = _look_closely(units, lanes, first + row, slack[row], whole, part, size)
            for lane in range(LANES):
                least[lane] = min(least[lane], slack[row, lane])
        for lane in range(LANES):
            lanes.deadline[places[at], lane] = clock[at, lane] + least[lane]
    return whole, part, size


@compiled
def _doubled(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    more = np.empty((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    more[: rows.shape[0]] = rows
    return more


@compiled
def _look_closely(units: Units, lanes: Lanes, u: int, slack: Singles, whole: Ints, part: Floats, size: int) -> int:  # noqa: PLR0917  # compiled code takes no keywords
    """Exact margin of one unit at the lanes where the bound does not say safe.

    `slack` is corrected: infinite where the unit has an entry now, 0 where it needs another look in every round.
    """
    for lane in range(LANES):
        if not slack[lane] > 0.0 or (lanes.wild[lane] and slack[lane] < np.inf):
            equity, needed, position = _margin(units, u, 1.0, units.cash[u], lanes.judged, lane)
            slack[lane] = 0.0
            if equity < needed:
                slack[lane] = np.inf
                whole[size, UNIT], whole[size, LANE], whole[size, INSIDE] = u, lane, FRESH
                part[size, LEFT], part[size, CASH] = 1.0, units.cash[u]
                part[size, EQUITY], part[size, NEEDED], part[size, POSITION] = equity, needed, position
                lanes.entered[u] |= np.uint8(1 << lane)
                size += 1
    return size


# --- judge, ration, close, fill: open entries ---


@compiled
def _judge(units: Units, rule: Rule, lanes: Lanes, entries: Ints, whole: Ints, part: Floats) -> None:  # noqa: PLR0917  # compiled code takes no keywords
    """What each open entry asks its path to close, as a share of the unit."""
    lanes.asked[:] = 0
    for lane in range(LANES):
        lanes.waiting[lane] &= not lanes.live[lane]
    for e in entries:
        lane, u, left = whole[e, LANE], whole[e, UNIT], part[e, LEFT]
        if not lanes.live[lane]:
            part[e, ASKED] = 0.0
            continue
        if whole[e, INSIDE] == FRESH:
            equity, needed, position = part[e, EQUITY], part[e, NEEDED], part[e, POSITION]
            whole[e, INSIDE] = 0
        else:
            equity, needed, position = _margin(units, u, left, part[e, CASH], lanes.judged, lane)
        part[e, ASKED] = 0.0
        if whole[e, INSIDE] and equity >= needed * (1.0 + rule.buffer):
            whole[e, INSIDE] = 0
        elif not whole[e, INSIDE] and equity < needed:
            whole[e, INSIDE], whole[e, STEP] = 1, 0
        if not whole[e, INSIDE]:
            continue
        lanes.waiting[lane] = True
        take = take_of(rule.kind, position, equity, needed, whole[e, STEP], rule.params)
        whole[e, STEP] += 1
        rest = position - take.close_usd
        part[e, ASKED] = left if not rest >= DUST_USD else left * (take.close_usd / position)
        part[e, DISCOUNT], part[e, BOOK] = take.discount_usd, take.book_share
        if rule.budget_usd < np.inf:
            _ask(units, lanes, u, lane, part[e, ASKED])


@compiled
def _ask(units: Units, lanes: Lanes, u: int, lane: int, share: float) -> None:
    for leg in range(units.start[u], units.start[u + 1]):
        if units.closable[leg]:
            lanes.asked[units.symbol[leg], lane] += np.int64(np.rint(abs(share * units.notional[leg]) * MICRO))


@compiled
def _ration(units: Units, rule: Rule, lanes: Lanes, entries: Ints, whole: Ints, part: Floats) -> None:  # noqa: PLR0917  # compiled code takes no keywords
    """Scale what was asked to the budget of each symbol; a unit's legs shrink together, by the scarcest of them."""
    if not rule.budget_usd < np.inf:
        return
    for e in entries:
        u, lane, scale = whole[e, UNIT], whole[e, LANE], 1.0
        for leg in range(units.start[u], units.start[u + 1]):
            if units.closable[leg]:
                asked = lanes.asked[units.symbol[leg], lane] / MICRO
                scale = min(scale, rule.budget_usd / max(asked, rule.budget_usd))
        part[e, ASKED] *= scale
        part[e, DISCOUNT] *= scale


@compiled
def _close(units: Units, lanes: Lanes, entries: Ints, whole: Ints, part: Floats) -> None:
    """Shrink the entries; flow and closed notional grow by whole micro-dollars."""
    lanes.before[:] = lanes.flow
    lanes.moved[:] = False
    for e in entries:
        share, u, lane = part[e, ASKED], whole[e, UNIT], whole[e, LANE]
        if not share > 0.0:
            continue
        part[e, LEFT] -= share
        for leg in range(units.start[u], units.start[u + 1]):
            if not units.closable[leg]:
                continue
            s, usd = units.symbol[leg], share * units.notional[leg]
            closed = np.int64(np.rint(abs(usd) * MICRO))
            lanes.closed[s, lane] += closed
            lanes.flow[s, lane] += np.int64(np.rint(part[e, BOOK] * usd * MICRO))
            lanes.moved[lane] |= closed > 0


@compiled
def _fill_drops(market: Market, lanes: Lanes, drops: Floats) -> None:
    """Drop at which this round's flow is filled: the mean of its own walk, on top of shock and spill at its start."""
    for s in range(drops.shape[0]):
        for lane in range(LANES):
            before, after = lanes.before[s, lane] / MICRO, lanes.flow[s, lane] / MICRO
            deeper = 0.0
            if before != after:
                mean = mean_move_at(before, after, market.scale[s], market.exponent[s])
                deeper = mean - move_at(before, market.scale[s], market.exponent[s])
            drops[s, lane] = min(lanes.drop[s, lane] + deeper, 1.0)


@compiled
def _fill(units: Units, rule: Rule, lanes: Lanes, entries: Ints, whole: Ints, part: Floats, drops: Floats) -> Ints:  # noqa: PLR0917  # compiled code takes no keywords
    """Book what was closed; returns the entries that still hold something in a lane that goes on.

    What does not reach the book changes hands at the mark that the path was judged on; in an auction all of it does.
    """
    kept = 0
    for e in entries:
        share, u, lane = part[e, ASKED], whole[e, UNIT], whole[e, LANE]
        if share > 0.0:
            book = 0.0 if rule.kind == AUCTION else part[e, BOOK]
            profit = 0.0
            if book > 0.0:
                profit += book * _realised(units, u, drops, lane)
            if book < 1.0:
                profit += (1.0 - book) * _realised(units, u, lanes.judged, lane)
            fee = rule.taker * book * share * units.gross[u]
            part[e, CASH] += share * profit - fee - part[e, DISCOUNT]
        if part[e, LEFT] > 0.0 and lanes.live[lane]:
            entries[kept] = e
            kept += 1
    return entries[:kept]


@compiled
def _retire(rule: Rule, lanes: Lanes, now: int) -> bool:
    """Take lanes out that have come to rest; says whether any goes on."""
    some = False
    for lane in range(LANES):
        if not lanes.live[lane]:
            continue
        lanes.idle[lane] = 0 if lanes.moved[lane] else lanes.idle[lane] + 1
        if lanes.moved[lane]:
            lanes.rounds[lane] = now
        patience = IDLE_MAX if lanes.waiting[lane] else rule.lag
        lanes.live[lane] = lanes.idle[lane] <= patience
        some |= lanes.live[lane]
    return some


@compiled
def cascade(units: Units, sieve: Sieve, market: Market, rule: Rule, lanes: Lanes) -> tuple[Ints, Floats]:
    """Run the lanes that are live to their fixed points; returns the entries, (entries, 4) and (entries, 5).

    A lane that is still live afterwards has used up its rounds; one that is `waiting` has given up on its path.
    """
    whole, part = np.empty((1024, 4), dtype=np.int64), np.empty((1024, 5))
    entries, drops = np.empty(0, dtype=np.int64), np.empty_like(lanes.drop)
    size = 0
    for now in range(1, rule.rounds_max + 1):
        _move(market, lanes, now)
        known = size
        whole, part, size = _look(units, sieve, lanes, whole, part, size)
        entries = np.concatenate((entries, np.arange(known, size)))
        _judge(units, rule, lanes, entries, whole, part)
        _ration(units, rule, lanes, entries, whole, part)
        _close(units, lanes, entries, whole, part)
        _fill_drops(market, lanes, drops)
        entries = _fill(units, rule, lanes, entries, whole, part, drops)
        if not _retire(rule, lanes, now):
            break
    return whole[:size], part[:size]


@compiled
def equity_at_rest(units: Units, lanes: Lanes, whole: Ints, part: Floats) -> Floats:
    """Equity in USD of each entry at the present drops of its lane."""
    equity = np.empty(len(whole))
    for e in range(len(whole)):
        u = whole[e, UNIT]
        if part[e, LEFT] == 0.0 and not units.beside[u]:
            equity[e] = part[e, CASH]
        else:
            equity[e] = _margin(units, u, part[e, LEFT], part[e, CASH], lanes.drop, whole[e, LANE])[0]
    return equity
