"""From an hour's record to canonical tables: prints, book events, depth, marks, funding, positions.

The dice here never touch the world: they only say how a step's volume is cut into prints and when they happen.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from features.bars import BAR_S, bar_end
from features.schema import CANONICAL, DEPTH_BANDS_BPS, Candles, polars_schema
from models.simulator.book import ASK, BID, VISIBLE_BPS
from models.simulator.orders import UNKNOWN, OrderQueue, Touched
from models.simulator.peg import stablecoin_symbol
from models.simulator.record import HourRecord, Snapshot
from models.simulator.settings import (
    Bools,
    Floats,
    Ints,
    VenueSettings,
    depths_100bps_usd,
    start_prices_usd,
    tick_usd,
)

SECOND_US = 1_000_000
PRINTS_MEAN = 0.7  # prints per side, step and symbol in an ordinary step, beyond which activity decides
PRINTS_MAX = 8
SIZE_TAIL = 1.4  # exponent of the sizes' Pareto tail
LATENCY_MS = 12.0
LATENCY_LOG_SD = 0.5
MARK_LATENCY_MS = 50.0
OI_LATENCY_MS = 500.0
SNAPSHOT_LATENCY_MS = 2_000.0
CHURN_USUAL = 0.0025  # of the ordinary depth within 100 bps that one side trades in an ordinary 20 s
CHURN_PROBABILITY = 0.5  # per step, symbol and side that makers also replace orders without changing the depth
CHURN_SHARE = 0.12  # of the visible depth they replace then
LEVELS_BPS = np.array([2.0, 10.0, 30.0, 80.0, 200.0, 400.0])
LEVEL_WEIGHTS = np.array([0.15, 0.2, 0.2, 0.2, 0.15, 0.1])
HOUSE = "house"
FUND = "insurance_fund"
ADL_WORD = 3
SLICE_USD = 30_000.0  # a forced order of this size goes out in about two slices, one `e` times larger in one more
SLICES_MAX = 10
PATH_WORDS = ("market", "gradual", "auction", "adl")  # every path that is neither of the others goes step by step

Columns = dict[str, Any]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Prints:
    """Trades of an hour as columns; `leg` is the row of the forced fill behind it, -1 for free trades."""

    step: Ints
    symbol: Ints
    ts_us: Ints
    buy: Bools
    price: Floats
    qty: Floats
    leg: Ints


def minute_candles(trades: pl.DataFrame) -> pl.DataFrame:
    """Candles of the minutes that hold trades, stamped with their end and known then.

    open, high, low, close = first, highest, lowest, last price; volume = sum of qty; taker_buy_volume = that of buys.
    `trades` are sorted by symbol and ts.
    """
    price, qty = pl.col("price"), pl.col("qty")
    by_minute = trades.with_columns(bar_end("ts").alias("ts")).group_by("venue", "symbol", "ts", maintain_order=True)
    candles = by_minute.agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        qty.sum().alias("volume"),
        qty.filter(pl.col("side") == "buy").sum().alias("taker_buy_volume"),
    )
    known = candles.with_columns(pl.col("ts").alias("known_at"), pl.lit(BAR_S, pl.Int32).alias("interval_s"))
    return known.select(polars_schema(Candles).names())


@dataclass(frozen=True)
class ForcedFills:
    """The hour's forced fills, joined over its steps."""

    step: Ints
    symbol: Ints
    qty: Floats
    price: Floats
    off_book: Bools
    path: Ints  # place in `PATH_WORDS`


@dataclass(frozen=True)
class BookRows:
    """Events of the book as columns, sorted by symbol and time; kinds 0 add, 1 cancel, 2 trade."""

    symbol: Ints
    side: Ints
    kind: Ints
    usd: Floats


class Emitter:
    """Turns records into tables; remembers the last trade id and book sequence number of each symbol."""

    def __init__(self, settings: VenueSettings, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        [self.slices] = rng.spawn(1)
        count = len(settings.symbols)
        self.names = pl.Series(settings.symbols, dtype=pl.String)
        self.accounts = pl.Series([*(f"a{number:06d}" for number in range(settings.accounts)), HOUSE, FUND])
        self.last_trade_id, self.last_seq = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        self.tick = tick_usd(start_prices_usd(settings))
        self.half_spread = settings.half_spread_bps / 1e4
        self.queues = {(symbol, side): OrderQueue() for symbol in range(count) for side in (BID, ASK)}
        self.step_us = settings.step_s * SECOND_US
        self.path = PATH_WORDS.index(settings.path.kind if settings.path.kind in PATH_WORDS else "gradual")

    def tables(self, record: HourRecord) -> dict[str, pl.DataFrame]:
        """All tables of the record."""
        forced = self._sliced(_join_forced(record, self.path))
        prints = self._prints(record, forced)
        lag_ms = self._latency_ms(record, prints)
        trades = self._trades(record, prints, lag_ms)
        return {
            "trades": trades,
            "candles": minute_candles(trades),
            "book_events": self._book_events(record),
            "book_depth": self._book_depth(record),
            "marks": self._marks(record),
            "funding": self._funding(record),
            "open_interest": self._open_interest(record),
            "liquidations": self._liquidations(record, forced, prints, lag_ms),
            "collateral": self._collateral(record),
            "positions": self._positions(record),
        }

    # trades and liquidations

    def _sliced(self, forced: ForcedFills) -> ForcedFills:
        """Forced orders as the market sees them: in slices of unequal size, all at the order's mean price."""
        usd = np.abs(forced.qty) * forced.price
        count = np.minimum(1 + self.slices.poisson(np.log1p(usd / SLICE_USD)), SLICES_MAX)
        row = np.repeat(np.arange(count.size), count)
        weight = self.slices.exponential(1.0, row.size) + 0.1
        share = weight / np.bincount(row, weight, count.size)[row]
        whole = {name: getattr(forced, name)[row] for name in forced.__dataclass_fields__}
        return ForcedFills(**(whole | {"qty": whole["qty"] * share}))

    def _prints(self, record: HourRecord, forced: ForcedFills) -> Prints:
        """Free prints that add up to the free volume, and one per forced fill; sorted by symbol and time."""
        free = self._free_prints(record, forced)
        step, symbol = forced.step, forced.symbol
        late = self.rng.integers(self.step_us // 2, self.step_us, step.size, endpoint=True)
        price = self._to_tick(forced.price, symbol)
        rows = np.arange(step.size)
        joined = Prints(
            step=np.concatenate([free.step, step]),
            symbol=np.concatenate([free.symbol, symbol]),
            ts_us=np.concatenate([free.ts_us, step * self.step_us + late]),
            buy=np.concatenate([free.buy, forced.qty < 0]),
            price=np.concatenate([free.price, price]),
            qty=np.concatenate([free.qty, np.abs(forced.qty)]),
            leg=np.concatenate([free.leg, rows]),
        )
        order = np.lexsort((joined.ts_us, joined.symbol))
        return Prints(*(getattr(joined, name)[order] for name in joined.__dataclass_fields__))

    def _free_prints(self, record: HourRecord, forced: ForcedFills) -> Prints:
        usd = self._free_usd(record, forced)
        usual = depths_100bps_usd(self.settings)[None, :, None] * CHURN_USUAL * self.settings.step_s / 20
        mean = PRINTS_MEAN * np.sqrt(np.minimum(usd / usual, 50.0))
        count = np.where(usd > 1.0, np.clip(self.rng.poisson(mean), 1, PRINTS_MAX), 0).ravel()
        cell = np.repeat(np.arange(count.size), count)
        weight = self.rng.pareto(SIZE_TAIL, cell.size) + 0.2
        total = np.bincount(cell, weights=weight, minlength=count.size)
        step, symbol, side = np.unravel_index(cell, usd.shape)
        offset = self.rng.integers(1, self.step_us, cell.size, endpoint=True)
        buy = side == ASK
        price = self._path(record, step, symbol, offset) * (1 + np.where(buy, 1.0, -1.0) * self.half_spread)
        price = self._to_tick(price, symbol)
        qty = usd.ravel()[cell] * weight / total[cell] / price
        return Prints(step, symbol, step * self.step_us + offset, buy, price, qty, np.full(cell.size, -1))

    def _free_usd(self, record: HourRecord, forced: ForcedFills) -> Floats:
        """Dollars taken per step, symbol and side of the book, without the forced fills."""
        usd = record.taken.copy()
        side = (forced.qty < 0).astype(np.int64)
        np.add.at(
            usd, (forced.step, forced.symbol, side), -np.where(forced.off_book, 0.0, np.abs(forced.qty) * forced.price)
        )
        return np.maximum(usd, 0.0)

    def _path(self, record: HourRecord, step: Ints, symbol: Ints, offset_us: Ints) -> Floats:
        """The mid price inside a step, on the straight line between its ends."""
        before, after = record.perp_before[step, symbol], record.perp[step, symbol]
        return np.asarray(before + (after - before) * offset_us / self.step_us)

    def _to_tick(self, price: Floats, symbol: Ints) -> Floats:
        tick = self.tick[symbol]
        return np.asarray(np.maximum(np.round(price / tick), 1.0) * tick)

    def _latency_ms(self, record: HourRecord, prints: Prints) -> Floats:
        """Time until a print is known; grows with the volatility of the moment and with what is traded."""
        busy = (np.maximum(record.heat, 0.5) ** 2 * self._load(record))[prints.step, prints.symbol]
        return np.asarray(LATENCY_MS * busy * np.exp(LATENCY_LOG_SD * self.rng.standard_normal(busy.size)))

    def _trades(self, record: HourRecord, prints: Prints, lag_ms: Floats) -> pl.DataFrame:
        columns = {
            "trade_id": pl.Series(_numbered(prints.symbol, self.last_trade_id)).cast(pl.String),
            "side": _worded(prints.buy, "sell", "buy"),
            "price": prints.price,
            "qty": prints.qty,
            "notional_usd": prints.price * prints.qty,
        }
        return _frame("trades", self._keys(record, prints.symbol, prints.ts_us, lag_ms) | columns)

    def _liquidations(self, record: HourRecord, forced: ForcedFills, prints: Prints, lag_ms: Floats) -> pl.DataFrame:
        """One row per forced fill, at the stamp, price and latency of its print."""
        rows = np.flatnonzero(prints.leg >= 0)
        leg, symbol = prints.leg[rows], prints.symbol[rows]
        columns = {
            "seq": np.arange(1, rows.size + 1, dtype=np.int64),
            "position_side": _worded(forced.qty[leg] > 0, "short", "long"),
            "qty": prints.qty[rows],
            "price": prints.price[rows],
            "notional_usd": prints.qty[rows] * prints.price[rows],
            "path": _worded(forced.path[leg], *PATH_WORDS),
        }
        return _frame("liquidations", self._keys(record, symbol, prints.ts_us[rows], lag_ms[rows]) | columns)

    # the book

    def _book_events(self, record: HourRecord) -> pl.DataFrame:
        """Adds, cancels and trades per step, symbol and side: depth after = before + adds - cancels - trades."""
        net = record.depth_after - record.depth_before + record.taken
        quoted = ~(record.halted[:, None] | record.still)[:, :, None]
        replaced = (self.rng.random(net.shape) < CHURN_PROBABILITY) & quoted
        size = CHURN_SHARE * np.exp(0.6 * self.rng.standard_normal(net.shape)) * record.heat[:, :, None]
        replaced_usd = np.where(replaced, record.depth_after * size, 0.0)
        # Two-sided volume is refilled at once: that part of `net` is an add. The rest says whether makers came or left.
        usd = np.stack(
            [np.maximum(net, 0.0) + replaced_usd, np.maximum(-net, 0.0) + replaced_usd, record.taken], axis=3
        )
        busy = np.minimum(np.abs(net) / record.depth_before * 10, 3.0)[:, :, :, None] * np.array([1.0, 1.0, 0.0])
        count = np.where(usd > 1.0, 1 + np.minimum(self.rng.poisson(busy), 4), 0)
        return self._event_rows(record, usd, count)

    def _event_rows(self, record: HourRecord, usd: Floats, count: Ints) -> pl.DataFrame:
        cell = np.repeat(np.arange(count.size), count.ravel())
        step, symbol, side, kind = np.unravel_index(cell, usd.shape)
        offset = self.rng.integers(1, self.step_us, cell.size, endpoint=True)
        level = self.rng.choice(LEVELS_BPS, cell.size, p=LEVEL_WEIGHTS) / 1e4
        away = np.where(kind == 2, self.half_spread, level) * np.where(side == ASK, 1.0, -1.0)
        price = self._to_tick(self._path(record, step, symbol, offset) * (1 + away), symbol)
        order = np.lexsort((step * self.step_us + offset, symbol))
        ts_us = (step * self.step_us + offset)[order]
        lag_ms = LATENCY_MS * (np.maximum(record.heat, 0.5) * self._load(record))[step, symbol][order]
        events = BookRows(
            symbol[order], side[order], kind[order], (usd.ravel() / np.maximum(count.ravel(), 1))[cell[order]]
        )
        touched = self._touched(record, events)
        event = touched.event
        columns = {
            "seq": _numbered(events.symbol[event], self.last_seq),
            "side": _worded(events.side[event], "bid", "ask"),
            "event": _worded(events.kind[event], "add", "cancel", "trade"),
            "price": price[order][event],
            "qty": touched.usd / price[order][event],
            "order_id": self._order_names(events.side[event], touched.order),
        }
        return _frame("book_events", self._keys(record, events.symbol[event], ts_us[event], lag_ms[event]) | columns)

    def _touched(self, record: HourRecord, events: BookRows) -> Touched:
        """Events cut into one row per order they touch; as they are where orders have no names."""
        if not self.settings.order_ids:
            return Touched(np.arange(events.usd.size), np.zeros(events.usd.size, dtype=np.int64), events.usd)
        parts = []
        for (symbol, side), queue in self.queues.items():
            rows = np.flatnonzero((events.symbol == symbol) & (events.side == side))
            queue.agree(float(record.depth_before[0, symbol, side]))
            found = queue.touch(events.kind[rows], events.usd[rows])
            parts.append(found._replace(event=rows[found.event]))
        event = np.concatenate([part.event for part in parts])
        order, usd = (np.concatenate([getattr(part, name) for part in parts]) for name in ("order", "usd"))
        sequence = np.argsort(event, kind="stable")
        return Touched(event[sequence], order[sequence], usd[sequence])

    def _order_names(self, side: Ints, order: Ints) -> pl.Series:
        """`b12` is the twelfth order on the bids of its symbol."""
        if not self.settings.order_ids:
            return pl.Series([None], dtype=pl.String).new_from_index(0, order.size)
        number = pl.Series(order).cast(pl.String)
        return (_worded(side, "b", "a") + number).set(pl.Series(order == UNKNOWN), None)

    def _load(self, record: HourRecord) -> Floats:
        """How much later things are known because so much trades: `sqrt(dollars taken / usual dollars)` in [1, 10]."""
        usual = 2 * depths_100bps_usd(self.settings) * CHURN_USUAL * self.settings.step_s / 20
        return np.asarray(np.sqrt(np.clip(record.taken.sum(axis=2) / usual, 1.0, 100.0)))

    def _book_depth(self, record: HourRecord) -> pl.DataFrame:
        step = self._sampled_steps(record)
        bands = np.array(DEPTH_BANDS_BPS, dtype=np.float64)
        share = (bands / VISIBLE_BPS) ** self.settings.depth_exponent
        usd = record.depth_after[step][:, :, :, None] * share
        row, symbol, side, band = (axis.ravel() for axis in np.indices(usd.shape))
        order = np.lexsort((band, side, row, symbol))
        ts_us = ((step[row] + 1) * self.step_us)[order]
        columns = {
            "side": _worded(side[order], "bid", "ask"),
            "band_bps": np.array(DEPTH_BANDS_BPS, dtype=np.int32)[band[order]],
            "depth_usd": usd.ravel()[order],
        }
        return _frame("book_depth", self._keys(record, symbol[order], ts_us, MARK_LATENCY_MS) | columns)

    # slow series

    def _sampled_steps(self, record: HourRecord) -> Ints:
        """The last step that ends before each full minute, so that its row is known at the minute."""
        end_s = (np.arange(record.token_price.size) + 1) * self.settings.step_s
        return np.flatnonzero(end_s // 60 != (end_s + self.settings.step_s) // 60)

    def _minutes(self, record: HourRecord) -> tuple[Ints, Ints]:
        """Step and symbol of the rows of a table that is sampled every minute."""
        step = self._sampled_steps(record)
        symbol, row = (axis.ravel() for axis in np.indices((len(self.names), step.size)))
        return step[row], symbol

    def _marks(self, record: HourRecord) -> pl.DataFrame:
        at, symbol = self._minutes(record)
        columns = {
            "mark": record.mark[at, symbol],
            "index": record.index[at, symbol],
            "last": self._to_tick(record.perp[at, symbol], symbol),
        }
        marks = _frame("marks", self._keys(record, symbol, (at + 1) * self.step_us, MARK_LATENCY_MS) | columns)
        return pl.concat([marks, self._token_marks(record)]) if self.settings.stablecoin_account_share > 0 else marks

    def _token_marks(self, record: HourRecord) -> pl.DataFrame:
        """What the stablecoin is worth, as its spot market tells it."""
        at = self._sampled_steps(record)
        columns = dict.fromkeys(("mark", "index", "last"), record.token_price[at])
        keys = self._keys(record, np.zeros(at.size, dtype=np.int64), (at + 1) * self.step_us, MARK_LATENCY_MS)
        named = pl.Series([stablecoin_symbol(self.settings)], dtype=pl.String).new_from_index(0, at.size)
        return _frame("marks", keys | columns | {"symbol": named})

    def _open_interest(self, record: HourRecord) -> pl.DataFrame:
        at, symbol = self._minutes(record)
        oi_base = record.oi_base[at, symbol]
        columns = {"oi_base": oi_base, "oi_usd": oi_base * record.mark[at, symbol]}
        return _frame("open_interest", self._keys(record, symbol, (at + 1) * self.step_us, OI_LATENCY_MS) | columns)

    def _funding(self, record: HourRecord) -> pl.DataFrame:
        count = len(self.names)
        symbol = np.repeat(np.arange(count), len(record.funding))
        at_us = np.tile(np.array([_us(end) - _us(record.start) for end, _ in record.funding], dtype=np.int64), count)
        rate = np.array([rate for _, rate in record.funding]).reshape(-1, count).T.ravel()
        columns = {"rate": rate, "interval_h": np.full(rate.size, float(self.settings.funding_interval_h))}
        return _frame("funding", self._keys(record, symbol, at_us, OI_LATENCY_MS) | columns)

    def _collateral(self, record: HourRecord) -> pl.DataFrame:
        """Cash in dollars, tokens where there are any; margin locked to isolated positions is not part of it.

        The insurance fund is an account of its own.
        """
        shots, house = record.snapshots, self.settings.accounts
        account: Ints = _joined([np.append(shot.owner, (house, house + 1)) for shot in shots], np.int64)
        cash = _joined([np.append(shot.cash_usd, (shot.house_usd, shot.fund_usd)) for shot in shots], np.float64)
        tokens = _joined([np.append(shot.tokens, (shot.house_tokens, 0.0)) for shot in shots], np.float64)
        ts_us = _joined([np.full(shot.owner.size + 2, _us(shot.end)) for shot in shots], np.int64)
        held = np.flatnonzero(tokens)
        account, amount = np.append(account, account[held]), np.append(cash, tokens[held])
        ts_us, second = np.append(ts_us, ts_us[held]), np.arange(amount.size) >= cash.size
        order = np.lexsort((second, ts_us, account))
        columns = {"asset": _worded(second[order], "USDT", self.settings.stablecoin), "amount": amount[order]}
        return _frame("collateral", self._owner_keys(account[order], ts_us[order]) | columns)

    def _positions(self, record: HourRecord) -> pl.DataFrame:
        parts = [_with_house(shot, self.settings.accounts) for shot in record.snapshots]
        account = _joined([part[0] for part in parts], np.int64)
        symbol = _joined([part[1] for part in parts], np.int64)
        qty = _joined([part[2] for part in parts], np.float64)
        entry = _joined([part[3] for part in parts], np.float64)
        margin = _joined([part[4] for part in parts], np.float64)
        ts_us = _joined(
            [np.full(part[0].size, _us(s.end)) for part, s in zip(parts, record.snapshots, strict=True)], np.int64
        )
        order = np.lexsort((account, ts_us, symbol))
        columns = {
            "symbol": self.names.gather(symbol[order]),
            "qty": qty[order],
            "entry_price": entry[order],
            "margin_mode": _worded(np.isfinite(margin[order]), "cross", "isolated"),
            "isolated_margin": pl.Series(margin[order]).fill_nan(None),
        }
        return _frame("positions", self._owner_keys(account[order], ts_us[order]) | columns)

    # keys and stamps

    def _keys(self, record: HourRecord, symbol: Ints, ts_us: Ints, lag_ms: Floats | float) -> Columns:
        """Venue, symbol and both stamps; `ts_us` counts from the start of the hour."""
        ts = _us(record.start) + ts_us
        known = ts + np.maximum(np.round(np.asarray(lag_ms) * 1_000), 1.0).astype(np.int64)
        return {
            "venue": self._venue(ts.size),
            "symbol": self.names.gather(symbol),
            "ts": _stamps(ts),
            "known_at": _stamps(known),
        }

    def _owner_keys(self, account: Ints, ts_us: Ints) -> Columns:
        known = ts_us + int(SNAPSHOT_LATENCY_MS * 1_000)
        return {
            "venue": self._venue(ts_us.size),
            "account": self.accounts.gather(account),
            "ts": _stamps(ts_us),
            "known_at": _stamps(known),
        }

    def _venue(self, rows: int) -> pl.Series:
        return pl.Series([self.settings.venue], dtype=pl.String).new_from_index(0, rows)


def _us(moment: datetime) -> int:
    return round(moment.timestamp()) * SECOND_US


def _stamps(us: Ints) -> pl.Series:
    return pl.Series(us.astype(np.int64)).cast(pl.Datetime("us", "UTC"))


def _worded(code: Ints | Bools, *words: str) -> pl.Series:
    """The word each code stands for.

    >>> _worded(np.array([True, False]), "sell", "buy").to_list()
    ['buy', 'sell']
    """
    return pl.Series(words, dtype=pl.String).gather(code.astype(np.int64))


def _joined(parts: list[npt.NDArray[Number]], dtype: type[Number]) -> npt.NDArray[Number]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _with_house(shot: Snapshot, house: int) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """Account, symbol, qty, entry price and isolated margin (NaN for cross) of all positions, the house's last."""
    held = np.flatnonzero(shot.house_qty)
    margin = np.where(shot.isolated, np.maximum(shot.margin_usd, 0.0), np.nan)
    return (
        np.append(shot.account, np.full(held.size, house)),
        np.append(shot.symbol, held),
        np.append(shot.qty, shot.house_qty[held]),
        np.append(shot.entry_price, shot.house_price[held]),
        np.append(margin, np.full(held.size, np.nan)),
    )


def _numbered(symbol: Ints, last: Ints) -> Ints:
    """Consecutive numbers per symbol that go on from `last`, which is moved; `symbol` is sorted.

    >>> last = np.array([10, 0])
    >>> _numbered(np.array([0, 0, 1]), last).tolist(), last.tolist()
    ([11, 12, 1], [12, 1])
    """
    count = np.bincount(symbol, minlength=last.size)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    numbers = last[symbol] + np.arange(symbol.size) - begin[symbol] + 1
    last += count
    return np.asarray(numbers, dtype=np.int64)


def _join_forced(record: HourRecord, path: int) -> ForcedFills:
    rows = record.forced
    step = np.repeat(np.array([row for row, _ in rows], dtype=np.int64), [fills.qty.size for _, fills in rows])
    none = np.zeros(0)
    return ForcedFills(
        step=step,
        symbol=np.concatenate([none.astype(np.int64), *(fills.symbol for _, fills in rows)]),
        qty=np.concatenate([none, *(fills.qty for _, fills in rows)]),
        price=np.concatenate([none, *(fills.price for _, fills in rows)]),
        off_book=np.concatenate([none.astype(np.bool_), *(fills.beside | fills.adl for _, fills in rows)]),
        path=np.where(np.concatenate([none.astype(np.bool_), *(fills.adl for _, fills in rows)]), ADL_WORD, path),
    )


def _frame(table: str, columns: Columns) -> pl.DataFrame:
    """Columns in the order and types of the canonical schema."""
    schema = polars_schema(CANONICAL[table])
    return pl.DataFrame({name: columns[name] for name in schema}, schema=schema)
