"""Step `bars`: canonical events of the lake -> bars, one symbol and day at a time.

Where a symbol has book events, quotes or depth of its own feed, bars read those, else what the step `book` derived.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.bars import BAR_S, LOOKBACK_S, Sources, symbol_bars
from features.schema import Bars
from pipelines.book import derive_book
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pending import book_derived, clear_pending, pending_books, pending_interval, pending_marks
from pipelines.times import Interval

STREAMS = ("trades", "book_events", "quotes", "book_levels")  # read in order, batch by batch
SERIES = ("book_depth", "liquidations", "marks", "funding", "open_interest", "candles")
DERIVED = {"book_events": "l2_events", "quotes": "l2_quotes", "book_depth": "l2_depth"}  # in place of an absent feed
READ = (*STREAMS, *SERIES, *DERIVED.values())


@dataclass(frozen=True)
class BarsSummary:
    venue: str
    interval: str
    rows: int
    symbols: int


def _held(lake: Lake, table: str, venue: str | None = None) -> pl.DataFrame:
    """`venue, symbol, first, last` of every symbol that `table` holds; only files of several symbols are opened."""
    files = lake.files(table)
    files = files if venue is None else files.filter(pl.col("venue") == venue)
    alone = (pl.col("symbol_min") == pl.col("symbol_max")).fill_null(False)
    told = files.filter(alone).select("venue", symbol="symbol_min", first="ts_min", last="ts_max")
    mixed = lake.scan_files(table, files.filter(~alone)).select("venue", "symbol", first="ts", last="ts")
    spans = pl.concat([told.lazy(), mixed]).group_by("venue", "symbol")
    return spans.agg(pl.col("first").min(), pl.col("last").max()).collect()


def derivative_venues(lake: Lake) -> list[str]:
    """Venues of the lake that have at least one instrument which is not spot."""
    known = lake.scan("instruments").filter(pl.col("settlement") != "spot").select("venue", "symbol").unique().collect()
    seen = pl.concat([_held(lake, table).select("venue", "symbol") for table in READ])
    return seen.unique().join(known, on=["venue", "symbol"], how="semi")["venue"].unique().sort().to_list()


def venue_span(lake: Lake, venue: str, bar_s: int = BAR_S) -> Interval:
    """From before the first to after the last event of `venue`, in whole bars."""
    files = pl.concat([lake.files(table).filter(pl.col("venue") == venue) for table in READ])
    first, last = files["ts_min"].min(), files["ts_max"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise InputError("the lake holds no data of this venue", where=venue, mend="run `cascadeguard ingest` first")
    step, midnight = timedelta(seconds=bar_s), first.replace(hour=0, minute=0, second=0, microsecond=0)
    return Interval(midnight + (first - midnight) // step * step, midnight - (midnight - last) // step * step)


def _seen(lake: Lake, venue: str) -> dict[str, dict[str, Interval]]:
    """Symbol -> table -> first and last `ts` in the lake, of all tables that bars read and that hold the symbol.

    A symbol of which nothing but liquidations is known has no bars: there is no price to hold them against.
    """
    found: dict[str, dict[str, Interval]] = {}
    for table in READ:
        for _, symbol, first, last in _held(lake, table, venue).iter_rows():
            found.setdefault(symbol, {})[table] = Interval(first, last)
    return {symbol: tables for symbol, tables in found.items() if set(tables) != {"liquidations"}}


def _alive(tables: Mapping[str, Interval], day: Interval) -> bool:
    """Whether a row of the symbol can be felt in `day`: none has bars before its first row or long after its last."""
    carried = timedelta(seconds=max(LOOKBACK_S.values()))
    return any(held.start <= day.end and held.end + carried > day.start for held in tables.values())


def _instruments(lake: Lake, venue: str, end: datetime) -> pl.DataFrame:
    """The derivative instruments of `venue` in force at `end`, one row per symbol."""
    rows = lake.scan("instruments", venue).filter(pl.col("effective_from") <= end, pl.col("settlement") != "spot")
    return rows.sort("effective_from").group_by("symbol").last().sort("symbol").collect()


def _spots(lake: Lake, references: list[str] | None, start: datetime, end: datetime) -> dict[str, pl.LazyFrame]:
    """The trades of every spot reference that the lake holds, first choice first."""
    markets = {name: name.partition(":") for name in references or []}
    since = start - timedelta(seconds=LOOKBACK_S["spot"])
    return {
        name: lake.scan_sorted("trades", venue, symbol, since, end, stored=True)
        for name, (venue, _, symbol) in markets.items()
        if lake.reaches("trades", venue, since, end, symbol)
    }


def _sources(lake: Lake, instrument: Mapping[str, Any], seen: Mapping[str, Interval], span: Interval) -> Sources:
    """The rows of one symbol, from its own feed or derived, under the names of the feed's tables."""
    venue, symbol = instrument["venue"], instrument["symbol"]
    tables, first_seen = {}, {}
    for table in (*STREAMS, *SERIES):
        stored = table if table in seen else DERIVED.get(table, table)
        if stored not in seen:
            continue
        since = span.start - timedelta(seconds=LOOKBACK_S.get(table, 0))
        first_seen[table] = seen[stored].start
        tables[table] = (
            lake.scan_sorted(stored, venue, symbol, since, span.end, stored=True)
            if table in STREAMS
            else lake.scan(stored, venue, since, span.end, symbol)
        )
    tables["quarantine"] = lake.scan("quarantine", venue, span.start, span.end, symbol)
    return Sources(tables, first_seen, _spots(lake, instrument["spot_reference"], span.start, span.end))


def build_bars(
    lake: Lake,
    venue: str,
    interval: Interval,
    progress: Callable[[str], None] = lambda _: None,
    *,
    bar_s: int = BAR_S,
) -> BarsSummary:
    """Compute the bars of every derivative symbol of `venue` in `interval` and put them in place of the old ones.

    Memory holds a few batches of one symbol's events at a time. Idempotent. Raises InputError when the venue has no
    data or the interval does not begin and end at ends of bars.
    """
    span = venue_span(lake, venue, bar_s)
    if _off_grid(interval, bar_s):
        raise InputError(f"--from and --to must be ends of bars of {bar_s} s", where=str(interval))
    bring_books_up_to_date(lake, venue, progress)
    known = _marks(lake, venue)
    seen = _seen(lake, venue)
    rows, symbols = 0, set()
    for day in interval.days():
        progress(f"bars {venue} {day}")
        frames = []
        for instrument in _instruments(lake, venue, day.end).iter_rows(named=True):
            symbol = instrument["symbol"]
            if not _alive(seen.get(symbol, {}), day):
                continue
            first = min(held.start for held in seen[symbol].values())
            sources = _sources(lake, instrument, seen[symbol], day)
            bars = symbol_bars(venue, symbol, sources, day.start, day.end, bar_s=bar_s)
            frames.append(bars.filter(pl.col("ts") >= first))
            symbols.add(symbol)
        day_bars = Bars.validate(pl.concat(frames) if frames else Bars.create_empty())
        with lake.writer():
            lake.replace("bars", day_bars, venue, day.start, day.end)
        rows += day_bars.height
    with lake.writer():
        clear_pending(lake, venue, interval, span, known)
    return BarsSummary(venue, str(interval), rows, len(symbols))


def build_pending(
    lake: Lake, venue: str, progress: Callable[[str], None] = lambda _: None, *, bar_s: int = BAR_S
) -> BarsSummary:
    """Compute the bars that new rows ask for, however late those came; none where none wait."""
    bring_books_up_to_date(lake, venue, progress)
    interval = pending_interval(lake, venue, venue_span(lake, venue, bar_s), timedelta(seconds=bar_s))
    if interval is None or not interval.start < interval.end:
        return BarsSummary(venue, "nothing waits", 0, 0)
    return build_bars(lake, venue, interval, progress, bar_s=bar_s)


def bring_books_up_to_date(lake: Lake, venue: str, progress: Callable[[str], None] = lambda _: None) -> None:
    """Derive the book again of every symbol of `venue` whose levels, orders or trades have new rows."""
    known = _marks(lake, venue)
    for symbol, interval in list(pending_books(lake, venue, known)):
        derive_book(lake, venue, symbol, interval, progress)
        with lake.writer():
            book_derived(lake, venue, symbol, interval, known)


def _marks(lake: Lake, venue: str) -> pl.DataFrame:
    """What waits, read under the lock: whoever holds it has marked rows that are not there yet."""
    with lake.writer():
        return pending_marks(lake, venue)


def _off_grid(interval: Interval, bar_s: int) -> bool:
    return any(int(moment.timestamp() * 1_000_000) % (bar_s * 1_000_000) for moment in (interval.start, interval.end))
