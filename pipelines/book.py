"""Step `book`: level rows (L2) or an order log (L3) of the lake -> events, best quotes and depth of one market.

The rows of `l2_events`, `l2_quotes`, `l2_depth` in the interval are put in place of the old ones, day by day, with the
state of the book at the end of each day in `book_state`, from which the next day goes on. Rows that arrive late change
the book from their day on: derive from there to the end of the data (`BookSummary.end_changed` says when it may stop).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce

import polars as pl

from features.mechanics.book import Derived, Market, Tally, derive_levels, derive_orders, unknown_book
from pipelines.lake import Lake
from pipelines.times import Interval

PIECE_ROWS_MAX = 2_000_000  # level rows in memory at a time, but for a single minute with more
MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
OUTPUTS = {"l2_events": "events", "l2_quotes": "quotes", "l2_depth": "depth", "book_state": "state"}


@dataclass(frozen=True)
class BookSummary:
    """What was derived for one market. `end_changed`: the book at the end is not the one stored there before."""

    venue: str
    symbol: str
    interval: str
    source: str  # "book_levels" or "book_events"
    rows: dict[str, int]  # by table
    tally: Tally
    end_changed: bool


def derive_book(
    lake: Lake, venue: str, symbol: str, interval: Interval, say: Callable[[str], None] = lambda _: None
) -> BookSummary:
    """Derive the book of one market over `interval`, from the latest state stored before it. Idempotent.

    An order log (`book_events` with order ids) gives quotes and depth and goes before level rows; a market with neither
    loses what was derived for it before. The caller does not hold the lake's lock. Memory: one piece of rows, one day
    of results.
    """
    market = Market(venue, symbol)
    source = _source(lake, market)
    before = _stored_state(lake, market, interval.end)
    state = _state_at(lake, market, source, interval.start)
    counts, tally = dict.fromkeys(OUTPUTS, 0), Tally()
    for day in interval.days():
        say(f"book {venue} {symbol} {day}")
        derived = _derive(lake, market, source, day, state)
        state = derived.state
        with lake.writer():
            for table, part in OUTPUTS.items():
                rows = getattr(derived, part)
                _put(lake, table, rows, market, day)
                counts[table] += rows.height
        tally += derived.tally
    changed = not state.equals(before)
    return BookSummary(venue, symbol, str(interval), source, counts, tally, changed)


def _put(lake: Lake, table: str, rows: pl.DataFrame, market: Market, day: Interval) -> None:
    """Replace the market's rows of the day; where there are none and were none, nothing is written."""
    if rows.height or lake.reaches(table, market.venue, day.start, day.end, market.symbol):
        lake.replace(table, rows, market.venue, day.start, day.end, symbol=market.symbol)


def _source(lake: Lake, market: Market) -> str:
    """The table to derive from: an order log if there is one."""
    orders = lake.scan("book_events", market.venue, symbol=market.symbol).filter(pl.col("order_id").is_not_null())
    return "book_levels" if orders.head(1).collect().is_empty() else "book_events"


def _rows(lake: Lake, market: Market, source: str, start: datetime | None, end: datetime) -> pl.LazyFrame:
    rows = lake.scan(source, market.venue, start, end, market.symbol)
    return rows.filter(pl.col("order_id").is_not_null()) if source == "book_events" else rows


def _stored_state(lake: Lake, market: Market, at: datetime) -> pl.DataFrame:
    """The state at exactly `at`, else one of which nothing is known."""
    stored = lake.scan("book_state", market.venue, at - MICROSECOND, at, market.symbol).sort("row").collect()
    return stored if stored.height else unknown_book()


def _state_at(lake: Lake, market: Market, source: str, start: datetime) -> pl.DataFrame:
    """The book at `start`: the latest state before it, and what happened since; from the first row without a state."""
    states = lake.scan("book_state", market.venue, end=start, symbol=market.symbol)
    latest = states.select(pl.col("ts").max()).collect().item()
    if latest == start:
        return _stored_state(lake, market, start)
    first = _rows(lake, market, source, None, start).select(pl.col("ts").min()).collect().item()
    if first is None:
        return unknown_book()
    state = unknown_book() if latest is None else _stored_state(lake, market, latest)
    since = first.replace(second=0, microsecond=0) - MINUTE if latest is None else latest
    for day in Interval(since, start).days():
        state = _derive(lake, market, source, day, state).state
    return state


def _pieces(lake: Lake, market: Market, source: str, span: Interval) -> Iterator[Interval]:
    """`span` cut at whole minutes into pieces of at most PIECE_ROWS_MAX rows, a longer minute by itself."""
    minute = pl.col("ts").dt.offset_by("-1us").dt.truncate("1m").dt.offset_by("1m").alias("minute")
    counted = _rows(lake, market, source, span.start, span.end).select(minute).group_by("minute").len().sort("minute")
    start, rows, reached = span.start, 0, span.start
    for end, count in counted.collect(engine="streaming").iter_rows():
        if rows and rows + count > PIECE_ROWS_MAX:
            yield Interval(start, reached)
            start, rows = reached, 0
        rows, reached = rows + count, end
    yield Interval(start, span.end)


def _derive_piece(lake: Lake, market: Market, source: str, piece: Interval, state: pl.DataFrame) -> Derived:
    rows = _rows(lake, market, source, piece.start, piece.end).collect()
    if source == "book_events":
        return derive_orders(rows, state, market, piece.end)
    trades = lake.scan("trades", market.venue, piece.start, piece.end, market.symbol)
    if rows.is_empty() and state.is_empty():
        trades = trades.head(0)
    return derive_levels(rows, trades.collect(), state, market, piece.end)


def _derive(lake: Lake, market: Market, source: str, day: Interval, state: pl.DataFrame) -> Derived:
    """All of one day; the state goes from piece to piece."""
    parts: list[Derived] = []
    for piece in _pieces(lake, market, source, day):
        parts.append(_derive_piece(lake, market, source, piece, state))
        state = parts[-1].state
    return Derived(
        pl.concat([part.events for part in parts]),
        pl.concat([part.quotes for part in parts]),
        pl.concat([part.depth for part in parts]),
        state,
        reduce(Tally.__add__, (part.tally for part in parts)),
    )
