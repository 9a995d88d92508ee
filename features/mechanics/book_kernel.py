"""The pass over a level-by-level book: compiled loops over arrays, no frames, no names.

Prices are ranks: `Book.price` holds every price of the piece in rising order, a level is `(side, rank)`. The pass keeps
what rests, which of it is known, and the touch, and writes events, quotes and depth samples by the row that caused
them. The rules are those of `book.py`; the tests hold a plain-Python twin against it.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.int8]
F = TypeVar("F", bound=Callable[..., object])

NONE = -(2**63)  # no such time, no such sequence number
BID, ASK = 0, 1
ADD, CANCEL, TRADE, SNAPSHOT = 0, 1, 2, 3
SECOND_US = 1_000_000
MATCH_US = 250_000  # a fall is explained by trades in (t - 250 ms, t]
CROSS_US = 1_000_000  # a book crossed for so long has lost a message: the older of the two levels goes
SETTLE_US = 5_000_000  # a touch without a snapshot is believed after so long without a contradiction
FILL_US = 300_000_000  # after so long without a loss, restated levels cover what no snapshot covered
FORGET_US = 86_400_000_000  # an empty level is remembered for a day
ROUNDING = 1e-13  # share of a level's quantity below which a difference is float noise

# Slots of `Book.clock`.
ERA, FLOOR, ERA_TS, ERA_SEQ, SEQ, SEQUENCED, AFTER, WHOLE, CLEAN_TS, SETTLED, CROSSED_TS, PRINT_FLOOR = range(12)
# Slots of `Book.mark`: how far the snapshot reached on each side, and the last quote.
REACH, QUOTE = 0, 2
# Slots of `Book.tally`.
MESSAGES, GAPS, STALE, CROSSED, DROPPED, DOUBTED = range(6)
APPLY, SKIP, REPLACE, FILL = range(4)


class Book(NamedTuple):
    """What is known of the book; everything is changed in place.

    `era` counts losses and snapshots: a level restated in the present era is known, one of an era since the last
    snapshot (`clock[FLOOR]`) may still rest, an older one is gone.
    """

    price: Floats
    qty: Floats  # (side, rank)
    since: Ints  # (side, rank), when last restated
    era: Ints  # (side, rank), 0 = never mentioned
    best: Ints  # rank of the touch per side; -1 (bid) or size (ask) where the side is empty
    clock: Ints
    mark: Floats
    tally: Ints


class Prints(NamedTuple):
    """Trades in order of time; `rest` is what no fall has claimed. `head` and `then` chain those of one level."""

    ts: Ints
    rest: Floats
    head: Ints  # (side, rank)
    then: Ints


class Feed(NamedTuple):
    """Level rows in order: time, snapshot first, sequence."""

    ts: Ints
    seq: Ints
    seq_before: Ints  # NONE where the source has no chain
    snapshot: npt.NDArray[np.bool_]
    side: Bytes
    rank: Ints
    qty: Floats  # what rests from now on; of an order log, by how much it changes
    orders: bool  # whether this is an order log
    prints: Prints


class Out(NamedTuple):
    """What the pass found, by row of the feed; `size` says how much of each is filled."""

    event_row: Ints
    event_kind: Bytes
    event_qty: Floats
    quote_row: Ints
    quote: Floats  # bid, bid_qty, ask, ask_qty
    depth_row: Ints
    depth_slot: Ints  # side * bands + band
    depth_usd: Floats
    size: Ints  # events, quotes, depths
    bands: Floats  # shares of the mid price, rising


def compiled(function: F) -> F:
    """numba's compiler with its cache on disk, typed as the identity.

    `_nrt=False`: nothing here allocates, and counting references to the arrays took six sevenths of the time.
    """
    return cast("F", numba.njit(cache=True, _nrt=False)(function))


@compiled
def tidy(value: float, scale: float) -> float:
    """`value` at 14 significant digits of `scale`: undoes the noise that subtracting decimals leaves."""
    if not scale > 0.0:
        return value
    places = min(12.0, 13.0 - np.floor(np.log10(scale)))
    if places < 0.0:
        return value
    unit = np.power(10.0, places)
    return float(np.rint(value * unit) / unit)


@compiled
def chain(side: Bytes, rank: Ints, head: Ints, then: Ints) -> None:
    """Link the trades of each level: `head` is the first of `(side, rank)`, `then` the next after each, -1 = none."""
    for k in range(side.size - 1, -1, -1):
        then[k] = head[side[k], rank[k]]
        head[side[k], rank[k]] = k


@compiled
def _rest(book: Book, side: int, rank: int) -> float:
    """What may rest at a level."""
    return float(book.qty[side, rank]) if book.era[side, rank] >= book.clock[FLOOR] else 0.0


@compiled
def _sink(book: Book, side: int, rank: int) -> None:
    """Move the touch of `side` to the next level at or behind `rank` where something rests."""
    step = 1 if side == ASK else -1
    while 0 <= rank < book.price.size and not _rest(book, side, rank) > 0.0:
        rank += step
    book.best[side] = rank


@compiled
def _put(book: Book, side: int, rank: int, qty: float, ts: int) -> None:
    """State that `qty` rests at a level from `ts` on."""
    book.qty[side, rank], book.since[side, rank], book.era[side, rank] = qty, ts, book.clock[ERA]
    if qty > 0.0:
        book.best[side] = min(book.best[side], rank) if side == ASK else max(book.best[side], rank)
    elif book.best[side] == rank:
        _sink(book, side, rank)


@compiled
def _in_reach(book: Book, side: int, price: float) -> bool:
    """Whether the snapshot of this era said what rests at `price`, be it nothing."""
    if book.clock[WHOLE] == 0:
        return False
    reach = book.mark[REACH + side]
    return bool(price <= reach) if side == ASK else bool(price >= reach)


@compiled
def _known(book: Book, side: int, rank: int, ts: int) -> bool:
    """Whether it is known what rested at a level until now."""
    if _in_reach(book, side, book.price[rank]):
        return True
    if book.era[side, rank] != book.clock[ERA]:
        return False
    return bool(book.qty[side, rank] > 0.0 or book.since[side, rank] > ts - FORGET_US)


@compiled
def _new_era(book: Book, ts: int, seq_before: int) -> None:
    """Begin to doubt: what rests is kept, but known only when restated."""
    clock = book.clock
    clock[ERA] += 1
    clock[ERA_TS], clock[ERA_SEQ] = ts, seq_before
    clock[WHOLE], clock[SETTLED], clock[CLEAN_TS], clock[CROSSED_TS] = 0, 0, NONE, NONE


@compiled
def _admit_snapshot(book: Book, seq: int) -> int:
    clock = book.clock
    if clock[SEQUENCED] == 0 or seq >= clock[SEQ]:
        return REPLACE
    return FILL if clock[WHOLE] == 0 and clock[ERA_SEQ] <= seq else SKIP


@compiled
def _admit(book: Book, ts: int, seq: int, seq_before: int) -> int:
    """Whether a message of changes follows what is known; begins a new era where one before it is missing."""
    clock = book.clock
    if seq_before == NONE:
        clock[SEQUENCED] = 0
        if clock[ERA] == 0:
            _new_era(book, ts, NONE)
        return APPLY
    clock[SEQUENCED] = 1
    straddles = clock[AFTER] == 1 and seq_before <= clock[SEQ] < seq
    if clock[SEQ] == NONE:
        _new_era(book, ts, seq_before)
    elif seq_before != clock[SEQ] and not straddles:
        if seq <= clock[SEQ]:
            return SKIP
        book.tally[GAPS] += 1
        _new_era(book, ts, seq_before)
    return APPLY


@compiled
def _event(out: Out, row: int, kind: int, qty: float, scale: float) -> None:
    n = out.size[0]
    out.event_row[n], out.event_kind[n], out.event_qty[n] = row, kind, tidy(qty, scale)
    out.size[0] = n + 1


@compiled
def _claim(book: Book, feed: Feed, row: int, fall: float) -> float:
    """Take up to `fall` from the level's unclaimed trades in (t - MATCH_US, t], oldest first; returns what is left.

    What is left below ROUNDING of what rested is none.
    """
    side, rank, ts, prints = feed.side[row], feed.rank[row], feed.ts[row], feed.prints
    oldest, noise = max(ts - MATCH_US, book.clock[PRINT_FLOOR]), ROUNDING * (fall + feed.qty[row])
    k = prints.head[side, rank]
    while k >= 0 and fall > noise and prints.ts[k] <= ts:
        if prints.ts[k] > oldest:
            taken = min(fall, prints.rest[k])
            fall -= taken
            prints.rest[k] -= taken
        if prints.ts[k] <= oldest or not prints.rest[k] > noise:
            k = prints.then[k]
            prints.head[side, rank] = k
    return fall if fall > noise else 0.0


@compiled
def _change(book: Book, feed: Feed, out: Out, row: int) -> None:
    """One level of a message of changes: what it explains becomes events, if what rested before is known."""
    side, rank, after, ts = feed.side[row], feed.rank[row], feed.qty[row], feed.ts[row]
    if _known(book, side, rank, ts):
        before = _rest(book, side, rank)
        scale = max(before, after)
        if after - before > ROUNDING * scale:
            _event(out, row, ADD, after - before, scale)
        elif before - after > ROUNDING * scale:
            left = _claim(book, feed, row, before - after)
            if left < before - after:
                _event(out, row, TRADE, before - after - left, scale)
            if left > 0.0:
                _event(out, row, CANCEL, left, scale)
    _put(book, side, rank, after, ts)


@compiled
def _grow(book: Book, feed: Feed, row: int) -> None:
    """One order's change: the level is the sum of its orders, never below zero."""
    side, rank = feed.side[row], feed.rank[row]
    before, by = _rest(book, side, rank), feed.qty[row]
    scale = max(before, abs(by))
    after = tidy(before + by, scale)
    _put(book, side, rank, after if after > 1e-9 * scale else 0.0, feed.ts[row])


@compiled
def _restart(book: Book, feed: Feed, row: int) -> None:
    """Forget the book: a snapshot follows."""
    _new_era(book, feed.ts[row], feed.seq[row])
    book.clock[FLOOR], book.clock[PRINT_FLOOR] = book.clock[ERA], feed.ts[row]
    book.best[BID], book.best[ASK] = -1, book.price.size


@compiled
def _rest_of_snapshot(book: Book, feed: Feed, out: Out, first: int, end: int) -> None:
    """Put in place what a snapshot lists, but for levels that were restated in this era: they are newer."""
    ts = feed.ts[first]
    book.mark[REACH + BID], book.mark[REACH + ASK] = np.inf, -np.inf
    era = book.clock[ERA]
    for row in range(first, end):
        side, rank, qty = feed.side[row], feed.rank[row], feed.qty[row]
        known = book.era[side, rank] == era
        if not known or (feed.orders and book.since[side, rank] == ts):
            _put(book, side, rank, qty + (book.qty[side, rank] if known else 0.0), ts)
            if qty > 0.0 and not feed.orders:
                _event(out, row, SNAPSHOT, qty, qty)
        price = book.price[rank]
        reach = book.mark[REACH + side]
        book.mark[REACH + side] = max(reach, price) if side == ASK else min(reach, price)


@compiled
def _snapshot(book: Book, feed: Feed, out: Out, first: int, end: int) -> bool:
    """Take a snapshot in; False where the book is already newer."""
    verdict = _admit_snapshot(book, feed.seq[end - 1])
    if verdict == SKIP:
        return False
    if verdict == REPLACE:
        _restart(book, feed, first)
        book.clock[SEQ], book.clock[AFTER] = feed.seq[end - 1], 1
    else:
        book.clock[FLOOR] = book.clock[ERA]
        _sink(book, BID, book.price.size - 1)
        _sink(book, ASK, 0)
    _rest_of_snapshot(book, feed, out, first, end)
    book.clock[WHOLE] = 1
    return True


@compiled
def _crossed(book: Book) -> bool:
    bid, ask = book.best[BID], book.best[ASK]
    return bool(bid >= 0 and ask < book.price.size and book.price[bid] >= book.price[ask])


@compiled
def _uncross(book: Book, ts: int) -> bool:
    """Whether the book stays crossed; one crossed for CROSS_US loses the level that was restated longer ago."""
    clock = book.clock
    if not _crossed(book):
        clock[CROSSED_TS] = NONE
        return False
    if clock[CROSSED_TS] == NONE:
        clock[CROSSED_TS] = ts
    while _crossed(book) and ts - clock[CROSSED_TS] >= CROSS_US:
        bid_since, ask_since = book.since[BID, book.best[BID]], book.since[ASK, book.best[ASK]]
        if bid_since == ask_since:
            return True
        side = BID if bid_since < ask_since else ASK
        book.tally[DROPPED] += 1
        book.qty[side, book.best[side]], book.era[side, book.best[side]] = 0.0, 0
        _sink(book, side, book.best[side])
    return _crossed(book)


@compiled
def _sure(book: Book, ts: int) -> bool:
    """Whether the touch can be believed after the message at `ts`."""
    clock, bid, ask = book.clock, book.best[BID], book.best[ASK]
    crossed = _uncross(book, ts)
    book.tally[CROSSED] += crossed
    bid, ask = book.best[BID], book.best[ASK]
    both = bid >= 0 and ask < book.price.size
    clean = both and not crossed and book.era[BID, bid] == clock[ERA] == book.era[ASK, ask]
    if not clean:
        clock[CLEAN_TS] = NONE
    elif clock[CLEAN_TS] == NONE:
        clock[CLEAN_TS] = ts
    if clean and ts - clock[CLEAN_TS] >= SETTLE_US:
        clock[SETTLED] = 1
    sure = clean and (clock[WHOLE] == 1 or clock[SETTLED] == 1)
    book.tally[DOUBTED] += not sure and not crossed
    return bool(sure)


@compiled
def _quote(book: Book, out: Out, row: int, sure: bool) -> None:
    """Write the touch where it changed; a quote after a doubt is always written."""
    mark, bid, ask = book.mark, book.best[BID], book.best[ASK]
    if not sure:
        mark[QUOTE : QUOTE + 4] = np.nan
        return
    now = (book.price[bid], book.qty[BID, bid], book.price[ask], book.qty[ASK, ask])
    changed = False
    for k in range(4):
        changed |= mark[QUOTE + k] != now[k]
        mark[QUOTE + k] = now[k]
    if changed:
        n = out.size[1]
        out.quote_row[n] = row
        for k in range(4):
            out.quote[n, k] = now[k]
        out.size[1] = n + 1


@compiled
def _farthest(book: Book, side: int) -> int:
    """Rank of the known level farthest from the touch."""
    rank, step = (book.price.size - 1, -1) if side == ASK else (0, 1)
    while rank != book.best[side] and not (book.era[side, rank] == book.clock[ERA] and book.qty[side, rank] > 0.0):
        rank += step
    return rank


@compiled
def _sample_side(book: Book, out: Out, row: int, side: int, filled: bool) -> None:
    """Dollars of known levels within each band, summed from the touch outward, for the bands that are covered."""
    mid = (book.price[book.best[BID]] + book.price[book.best[ASK]]) / 2
    step, sign = (1, 1.0) if side == ASK else (-1, -1.0)
    farthest = book.price[_farthest(book, side)]
    bands, rank, usd = out.bands, book.best[side], 0.0
    for band in range(bands.size):
        edge = mid * (1 + sign * bands[band])
        while 0 <= rank < book.price.size and sign * book.price[rank] <= sign * edge:
            if book.era[side, rank] == book.clock[ERA]:
                usd += book.price[rank] * book.qty[side, rank]
            rank += step
        if _in_reach(book, side, edge) or (filled and sign * farthest >= sign * edge):
            n = out.size[2]
            out.depth_row[n], out.depth_slot[n], out.depth_usd[n] = row, side * bands.size + band, usd
            out.size[2] = n + 1


@compiled
def _sample(book: Book, feed: Feed, out: Out, row: int) -> None:
    filled = feed.ts[row] - book.clock[ERA_TS] >= FILL_US
    _sample_side(book, out, row, BID, filled)
    _sample_side(book, out, row, ASK, filled)


@compiled
def _message_end(feed: Feed, first: int) -> int:
    """One past the last row of a message: same time and, where the source numbers its messages, same number."""
    end = first + 1
    while (
        end < feed.ts.size
        and feed.ts[end] == feed.ts[first]
        and feed.snapshot[end] == feed.snapshot[first]
        and (feed.seq[end] == feed.seq[first] or feed.seq_before[first] == feed.seq_before[end] == NONE)
    ):
        end += 1
    return end


@compiled
def _apply(book: Book, feed: Feed, out: Out, first: int, end: int) -> bool:
    """Take one message in; False where it says nothing new."""
    if feed.snapshot[first]:
        return _snapshot(book, feed, out, first, end)
    if _admit(book, feed.ts[first], feed.seq[end - 1], feed.seq_before[first]) == SKIP:
        return False
    for row in range(first, end):
        if feed.orders:
            _grow(book, feed, row)
        else:
            _change(book, feed, out, row)
    book.clock[SEQ], book.clock[AFTER] = feed.seq[end - 1], 0
    return True


@compiled
def run(book: Book, feed: Feed, out: Out) -> None:
    """Take the whole feed in."""
    first, last, sure = 0, -1, False
    while first < feed.ts.size:
        end = _message_end(feed, first)
        ts = feed.ts[first]
        if sure and (ts - 1) // SECOND_US != (feed.ts[last] - 1) // SECOND_US:
            _sample(book, feed, out, last)
            sure = False
        book.tally[MESSAGES] += 1
        if _apply(book, feed, out, first, end):
            sure, last = _sure(book, ts), end - 1
            _quote(book, out, last, sure)
        else:
            book.tally[STALE] += 1
        first = end
    if sure:
        _sample(book, feed, out, last)
