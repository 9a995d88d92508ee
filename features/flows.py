"""Streams of events to numbers per bar: compiled passes over batches of columns, in constant memory.

One stream per symbol goes in, `None` where it is absent; a frame with one row per slot of the first symbol, then of
the second and so on comes out, null where the stream says nothing. Slot 0 holds what came at or before the start; slot
`i` the bar `(start + (i - 1) bar, start + i bar]`.
Money is summed in whole micro-dollars, each row rounded once, half away from zero. Rows come in the order of their key
(`ts`, then number or sequence); a pass raises ValueError where time runs backwards, for open, close and gaps would be
wrong. Tables have canonical columns or, cheaper, the stored ones: `known_lag_us` for `known_at`, `is_buy` and `is_bid`
for `side`, `event_code` for `event`, `trade_number` for `trade_id`, a null `notional_usd` for `price * qty`.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from features.schema import DEPTH_BANDS_BPS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Streams = Sequence[pl.LazyFrame | None]  # one per symbol
F = TypeVar("F", bound=Callable[..., object])

NONE, NEVER = -(2**63), 2**63 - 1
GAP_AGE_US = 3_600_000_000  # two rows further apart than that are not compared for lost numbers
QUOTE_AGE_US = 3_600_000_000  # an older quote says nothing about an event's distance from the mid
EVENTS = ("add", "cancel", "trade")  # places are codes; whatever comes after them is no flow
_US = 1_000_000
_BANDS = np.array(DEPTH_BANDS_BPS, dtype=np.float64)

TRADES, VOLUME, BUYS, MISSING, TRADE_LAG, TRADE_KNOWN, TRADE_TS = range(7)
OPEN, HIGH, LOW, CLOSE = range(4)
PRICES = ("open", "high", "low", "close")
FLOWS = len(EVENTS) * 2  # code * 2 + is_bid
COUNT, MICRO, NEAR = 0, FLOWS, 2 * FLOWS  # NEAR: of add and cancel, one slot per band
EVENT_ROWS = NEAR + 4 * len(DEPTH_BANDS_BPS)
EVENT_KNOWN, UNPLACED = EVENT_ROWS + 1, EVENT_ROWS + 2
QUOTES, QUOTE_KNOWN, NEWEST_TS, PLACE = range(4)  # PLACE: the newest row's number in the stream, from 1
SPREAD_MAX = 4  # place among a quote's values


class Grid(NamedTuple):
    """Bars of `bar_us` microseconds that fill `(start_us, start_us + bars * bar_us]`."""

    start_us: int
    bar_us: int
    bars: int

    @property
    def slots(self) -> int:
        return self.bars + 1

    def ends(self, symbols: int = 1) -> pl.Series:
        """Time stamp of every slot of every symbol; slot 0 ends at the start."""
        stamps = self.start_us + np.arange(self.slots, dtype=np.int64) * self.bar_us
        return pl.Series("ts", np.tile(stamps, symbols)).cast(pl.Datetime("us", "UTC"))


class TradeRows(NamedTuple):
    ts: Ints
    lag: Ints
    number: Ints  # NONE where the id is no number
    is_buy: Bytes
    price: Floats
    usd: Floats


class EventRows(NamedTuple):
    ts: Ints
    lag: Ints
    is_bid: Bytes
    code: npt.NDArray[np.int8]
    price: Floats
    qty: Floats


class Mids(NamedTuple):
    ts: Ints
    known: Ints
    mid: Floats


class KnownRows(NamedTuple):
    ts: Ints
    known: Ints  # the later of ts and known_at
    values: Floats  # one row per column


class LevelRows(NamedTuple):
    ts: Ints
    seq: Ints
    seq_before: Ints  # NONE where the source has no chain
    snapshot: Bytes


def grid_of(start: datetime, end: datetime, bar_s: int) -> Grid:
    """The grid of `(start, end]`; both are bar ends.

    >>> from datetime import UTC
    >>> grid_of(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC), 60).bars
    1440

    Raises ValueError unless `bar_s` divides a day and both ends lie on the grid.
    """
    if bar_s < 1 or 86_400 % bar_s:
        raise ValueError(f"bar_s must divide 86400, was {bar_s}")
    epoch = datetime(1970, 1, 1, tzinfo=start.tzinfo)
    step = timedelta(seconds=bar_s)
    if (start - epoch) % step or (end - epoch) % step:
        raise ValueError(f"start and end must be ends of bars of {bar_s} s, were {start} and {end}")
    microsecond = timedelta(microseconds=1)
    return Grid((start - epoch) // microsecond, bar_s * _US, max((end - start) // step, 0))


def _compiled(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@_compiled
def _slot(ts: int, grid: Grid) -> int:
    return max((ts - grid.start_us - 1) // grid.bar_us + 1, 0)


@_compiled
def _micro(usd: float) -> int:
    scaled = usd * 1e6
    whole = np.floor(scaled)
    return int(whole) + (1 if scaled - whole >= 0.5 else 0)  # half away from zero: no flow is negative


@_compiled
def _trade_pass(rows: TradeRows, grid: Grid, last: Ints, whole: Ints, prices: Floats) -> bool:
    """Add a batch; `last` is (ts, number) of the trade before. False where time runs backwards."""
    slot, until = 0, grid.start_us
    for row in range(len(rows.ts)):
        ts, number, price = rows.ts[row], rows.number[row], rows.price[row]
        if ts < last[0]:
            return False
        if ts > until:  # divide once per slot, not once per row
            slot = _slot(ts, grid)
            until = grid.start_us + slot * grid.bar_us
        if slot < whole.shape[0]:
            to, seen, micro = whole[slot], prices[slot], _micro(rows.usd[row])
            if to[TRADES] == 0:
                seen[OPEN] = seen[HIGH] = seen[LOW] = price
            seen[HIGH], seen[LOW], seen[CLOSE] = max(seen[HIGH], price), min(seen[LOW], price), price
            to[TRADES] += 1
            to[VOLUME] += micro
            to[BUYS] += micro if rows.is_buy[row] else 0
            to[TRADE_LAG] = max(to[TRADE_LAG], rows.lag[row])
            to[TRADE_KNOWN] = max(to[TRADE_KNOWN], ts + rows.lag[row])
            to[TRADE_TS] = ts
            if number != NONE and last[1] != NONE and number > last[1] + 1 and ts - last[0] <= GAP_AGE_US:
                to[MISSING] += number - last[1] - 1
        last[0], last[1] = ts, number
    return True


@_compiled
def _event_pass(rows: EventRows, mids: Mids, grid: Grid, last: Ints, whole: Ints) -> int:
    """Add a batch; returns the place of the last quote used (-1: none), -2 where time runs backwards.

    The quote of an event is the last one stamped before it, if it is at most `QUOTE_AGE_US` older.
    """
    quote, placed, slot, until = -1, -1, 0, grid.start_us
    reach = np.empty(len(_BANDS))  # of each band, in price
    for row in range(len(rows.ts)):
        ts, price, code = rows.ts[row], rows.price[row], rows.code[row]
        if ts < last[0]:
            return -2
        last[0] = ts
        if ts > until:
            slot = _slot(ts, grid)
            until = grid.start_us + slot * grid.bar_us
        if slot == 0 or slot >= whole.shape[0]:
            continue
        to = whole[slot]
        to[EVENT_ROWS] += 1
        to[EVENT_KNOWN] = max(to[EVENT_KNOWN], ts + rows.lag[row])
        if not 0 <= code <= 2:
            continue
        flow, micro = code * 2 + rows.is_bid[row], _micro(price * rows.qty[row])
        to[COUNT + flow] += 1
        to[MICRO + flow] += micro
        if code == 2:
            continue
        while quote + 1 < len(mids.ts) and mids.ts[quote + 1] < ts:
            quote += 1
        if quote < 0 or ts - mids.ts[quote] > QUOTE_AGE_US:
            to[UNPLACED] += 1
            continue
        to[EVENT_KNOWN] = max(to[EVENT_KNOWN], mids.known[quote])
        mid = mids.mid[quote]
        if quote != placed:  # divide once per quote, not once per event
            placed = quote
            for band in range(len(_BANDS)):
                reach[band] = mid * _BANDS[band] / 1e4
        away = mid - price if rows.is_bid[row] else price - mid
        band = 0
        while band < len(_BANDS) and away > reach[band]:
            band += 1
        if band < len(_BANDS):
            to[NEAR + flow * len(_BANDS) + band] += micro
    return quote


@_compiled
def _known_pass(rows: KnownRows, grid: Grid, last: Ints, whole: Ints, out: Floats) -> bool:
    """Keep per slot the values of the newest row that became known in it; `last` is (ts, rows so far)."""
    for row in range(len(rows.ts)):
        ts = rows.ts[row]
        if ts < last[0]:
            return False
        last[0], last[1] = ts, last[1] + 1
        slot = _slot(rows.known[row], grid)
        if slot < whole.shape[0]:
            whole[slot, NEWEST_TS], whole[slot, PLACE] = ts, last[1]
            for column in range(rows.values.shape[0]):
                out[slot, column] = rows.values[column, row]
    return True


@_compiled
def _carry(whole: Ints, out: Floats, columns: int) -> None:
    """Give each slot the newest row known at its end, of all that became known in it or before."""
    for slot in range(1, whole.shape[0]):
        if whole[slot, PLACE] < whole[slot - 1, PLACE]:
            whole[slot, NEWEST_TS:] = whole[slot - 1, NEWEST_TS:]
            out[slot, :columns] = out[slot - 1, :columns]


@_compiled
def _spread_pass(rows: KnownRows, grid: Grid, whole: Ints, out: Floats) -> None:
    """Keep per slot the widest spread of the quotes stamped in it."""
    for row in range(len(rows.ts)):
        slot = _slot(rows.ts[row], grid)
        if slot < whole.shape[0]:
            bid, ask = rows.values[0, row], rows.values[1, row]
            whole[slot, QUOTES] += 1
            whole[slot, QUOTE_KNOWN] = max(whole[slot, QUOTE_KNOWN], rows.known[row])
            out[slot, SPREAD_MAX] = max(out[slot, SPREAD_MAX], 2e4 * (ask - bid) / (ask + bid))


@_compiled
def _gap_pass(rows: LevelRows, grid: Grid, last: Ints, gaps: Ints) -> bool:
    """Count messages that do not follow the one before; `last` is (ts, seq, whether it was a snapshot)."""
    for row in range(len(rows.ts)):
        ts, seq, before = rows.ts[row], rows.seq[row], rows.seq_before[row]
        if ts < last[0]:
            return False
        if ts == last[0] and seq == last[1]:
            continue
        chained = rows.snapshot[row] == 0 and before != NONE and last[0] != NONE
        if chained and ts - last[0] <= GAP_AGE_US and seq > last[1]:
            lost = before > last[1] if last[2] else before != last[1]
            slot = _slot(ts, grid)
            if lost and slot < len(gaps):
                gaps[slot] += 1
        last[0], last[1], last[2] = ts, seq, rows.snapshot[row]
    return True


def _either(names: list[str], stored: str, canonical: pl.Expr) -> pl.Expr:
    return (pl.col(stored) if stored in names else canonical).alias(stored)


def _lag(names: list[str]) -> pl.Expr:
    return _either(names, "known_lag_us", (pl.col("known_at") - pl.col("ts")).dt.total_microseconds())


def _number(names: list[str]) -> pl.Expr:
    number = pl.col("trade_id").cast(pl.Int64, strict=False)
    told = pl.when(number.cast(pl.String) == pl.col("trade_id")).then(number)  # 007 is a text, not seven
    return _either(names, "trade_number", told).fill_null(NONE)


def _batches(rows: pl.LazyFrame, *columns: pl.Expr) -> Iterator[list[npt.NDArray[Any]]]:
    """The columns of `rows`, `ts` first, as arrays, batch by batch in order; flags as bytes."""
    plain = rows.select(pl.col("ts").cast(pl.Int64), *columns).with_columns(pl.selectors.boolean().cast(pl.UInt8))
    for batch in plain.collect_batches(maintain_order=True, lazy=True):
        if batch.height:
            yield [column.to_numpy() for column in batch.rechunk()]


def _checked(in_order: bool, table: str) -> None:
    if not in_order:
        raise ValueError(f"rows of {table} must be in order of ts")


def _frame(values: npt.NDArray[Any], names: Sequence[str]) -> pl.DataFrame:
    """Symbols x slots x columns to one row per symbol and slot."""
    return pl.DataFrame({name: np.ascontiguousarray(values[..., place]).ravel() for place, name in enumerate(names)})


def _where(seen: pl.Expr, *names: str) -> list[pl.Expr]:
    return [pl.when(seen).then(name).alias(name) for name in names]


def trade_flows(trades: Streams, grid: Grid) -> pl.DataFrame:
    """Prices, counts and micro-dollars per slot; null where a slot has no trade.

    `missing` counts the numbers left out between two trades that are at most an hour apart.
    """
    whole, prices = np.zeros((len(trades), grid.slots, 7), np.int64), np.zeros((len(trades), grid.slots, 4))
    for place, rows in enumerate(trades):
        if rows is not None:
            _read_trades(rows, grid, whole[place], prices[place])
    counts, values = ("trades", "volume", "buys", "missing", "lag_us", "known", "last_ts"), PRICES
    flows = _frame(whole, counts).hstack(_frame(prices, values))
    return flows.select(_where(pl.col("trades") > 0, *counts, *values))


def _read_trades(trades: pl.LazyFrame, grid: Grid, whole: Ints, prices: Floats) -> None:
    names = trades.collect_schema().names()
    usd = pl.col("notional_usd").fill_null(pl.col("price") * pl.col("qty"))
    buys = _either(names, "is_buy", pl.col("side") == "buy")
    last = np.full(2, NONE, np.int64)
    for batch in _batches(trades, _lag(names), _number(names), buys, pl.col("price"), usd):
        _checked(_trade_pass(TradeRows(*batch), grid, last, whole, prices), "trades")


QUOTE = ("bid", "ask", "bid_qty", "ask_qty")
_BEST = pl.col(QUOTE)


class _QuoteFeed:
    """Quotes batch by batch beside another stream: what they say per bar, and the mids that the other stream needs."""

    def __init__(self, quotes: pl.LazyFrame | None, grid: Grid, whole: Ints, out: Floats) -> None:
        self._batches = iter(()) if quotes is None else _batches(quotes, _lag(quotes.collect_schema().names()), _BEST)
        self._grid = grid
        self._last = np.array([NONE, 0])
        self._done = False
        self.whole, self.out = whole, out
        self.ts, self.known, self.mid = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)

    def _take(self, batch: list[npt.NDArray[Any]]) -> None:
        ts, lag, *columns = batch
        rows = KnownRows(ts, ts + np.maximum(lag, 0), np.stack(columns))
        _checked(_known_pass(rows, self._grid, self._last, self.whole, self.out), "quotes")
        _spread_pass(rows, self._grid, self.whole, self.out)
        self.ts = np.concatenate([self.ts, ts])
        self.known = np.concatenate([self.known, rows.known])
        self.mid = np.concatenate([self.mid, (columns[0] + columns[1]) / 2])

    def reach(self, ts: int) -> int | None:
        """Read on until the quotes here reach `ts`; up to which stamp every quote is here, None if all are."""
        while not self._done and (not len(self.ts) or self.ts[-1] < ts):
            batch = next(self._batches, None)
            self._done = batch is None
            if batch is not None:
                self.forget(len(self.ts) - 1)
                self._take(batch)
        return None if self._done else int(self.ts[-1])

    def forget(self, before: int) -> None:
        """Drop the quotes before place `before`."""
        if before > 0:
            self.ts, self.known, self.mid = self.ts[before:], self.known[before:], self.mid[before:]


def book_flows(events: Streams, quotes: Streams, grid: Grid) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Flows of book events and state of quotes per slot.

    Flows, null where a slot has no event: count and micro-dollars per event and side; of adds and cancels also
    `{event}_{side}_{band}bps`, the micro-dollars at most `band` from the mid before the event (away from its own side:
    a bid above the mid is near). `unplaced` counts adds and cancels that met no quote. Quotes: the newest known at the
    slot's end (`last_ts` null where none is), `spread_bps_max` of those stamped in the slot.
    """
    flows = np.zeros((len(events), grid.slots, EVENT_ROWS + 3), np.int64)
    whole, out = np.zeros((len(quotes), grid.slots, 4), np.int64), np.zeros((len(quotes), grid.slots, 5))
    for place, (of_events, of_quotes) in enumerate(zip(events, quotes, strict=True)):
        feed = _QuoteFeed(of_quotes, grid, whole[place], out[place])
        if of_events is not None:
            _read_events(of_events, feed, grid, flows[place])
        feed.reach(NEVER)
        _carry(whole[place], out[place], len(QUOTE))
    return _event_frame(flows), _quote_frame(whole, out)


def _read_events(events: pl.LazyFrame, feed: "_QuoteFeed", grid: Grid, whole: Ints) -> None:
    names = events.collect_schema().names()
    codes = {name: place for place, name in enumerate(EVENTS)}
    code = pl.col("event").replace_strict(codes, default=len(EVENTS), return_dtype=pl.Int8)
    bids = _either(names, "is_bid", pl.col("side") == "bid")
    columns = (_lag(names), bids, _either(names, "event_code", code), pl.col("price"), pl.col("qty"))
    last = np.full(1, NONE, np.int64)
    for batch in _batches(events, *columns):
        at = 0
        while at < len(batch[0]):
            reached = feed.reach(int(batch[0][at]))
            inside = len(batch[0]) if reached is None else int(np.searchsorted(batch[0], reached, side="right"))
            stop = max(inside, at + 1)
            part = EventRows(*(column[at:stop] for column in batch))
            place = _event_pass(part, Mids(feed.ts, feed.known, feed.mid), grid, last, whole)
            _checked(place > -2, "book_events")
            feed.forget(place)
            at = stop


def _event_frame(whole: Ints) -> pl.DataFrame:
    sides = ("ask", "bid")
    names = [f"{event}s_{side}" for event in EVENTS for side in sides]
    names += [f"{event}_{side}" for event in EVENTS for side in sides]
    names += [f"{event}_{side}_{band}bps" for event in EVENTS[:2] for side in sides for band in DEPTH_BANDS_BPS]
    names += ["events", "known", "unplaced"]
    near = whole[..., NEAR:EVENT_ROWS]
    for band in range(1, len(_BANDS)):  # the pass adds each event to its nearest band alone
        near[..., band :: len(_BANDS)] += near[..., band - 1 :: len(_BANDS)]
    return _frame(whole, names).select(_where(pl.col("events") > 0, *names))


def _quote_frame(whole: Ints, out: Floats) -> pl.DataFrame:
    frame = _frame(whole, ("quotes", "known", "last_ts", "place")).hstack(_frame(out, (*QUOTE, "spread_bps_max")))
    newest, stamped = _where(pl.col("place") > 0, "last_ts", *QUOTE), _where(pl.col("quotes") > 0, "known")
    return frame.select(*newest, *stamped, *_where(pl.col("quotes") > 0, "spread_bps_max"))


def last_known(streams: Streams, column: str, grid: Grid) -> pl.DataFrame:
    """Per slot, `column` and stamp (`last_ts`) of the newest row known at its end; null where none is."""
    whole, out = np.zeros((len(streams), grid.slots, 4), np.int64), np.zeros((len(streams), grid.slots, 1))
    for place, rows in enumerate(streams):
        if rows is None:
            continue
        last = np.array([NONE, 0])
        for ts, lag, values in _batches(rows, _lag(rows.collect_schema().names()), pl.col(column)):
            known = KnownRows(ts, ts + np.maximum(lag, 0), values[np.newaxis])
            _checked(_known_pass(known, grid, last, whole[place], out[place]), "the reference")
        _carry(whole[place], out[place], 1)
    frame = _frame(whole[..., NEWEST_TS:], ("last_ts", "place")).hstack(_frame(out, (column,)))
    return frame.select(_where(pl.col("place") > 0, "last_ts", column))


def gap_flows(levels: Streams, grid: Grid) -> pl.DataFrame:
    """Per slot, `book_gaps`: messages of `book_levels` whose `seq_before` is not the message before's number.

    The first message after a snapshot may begin before it. Messages more than an hour apart are not compared. Zero
    where there are none: whether the stream was watched, the caller knows.
    """
    gaps = np.zeros((len(levels), grid.slots, 1), np.int64)
    columns = (pl.col("seq"), pl.col("seq_before").fill_null(NONE), pl.col("snapshot"))
    for place, rows in enumerate(levels):
        last = np.array([NONE, NONE, 0])
        for batch in () if rows is None else _batches(rows, *columns):
            _checked(_gap_pass(LevelRows(*batch), grid, last, gaps[place, :, 0]), "book_levels")
    return _frame(gaps, ("book_gaps",))
