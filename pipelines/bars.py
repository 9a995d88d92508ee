"""Step `bars`: canonical events of the lake -> bars, day by day, streams symbol by symbol.

Where a symbol has book events, quotes or depth of its own feed, bars read those, else what the step `book` derived.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl

from features.bars import BAR_S, LOOKBACK_S, Market, Sources, bars_of
from features.schema import Bars
from pipelines.book import derive_book
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pending import book_derived, clear_pending, pending_books, pending_interval, pending_marks
from pipelines.pools import HERE, Day, Pool, counted
from pipelines.spans import symbol_spans
from pipelines.times import Interval

STREAMS = ("trades", "book_events", "quotes", "book_levels")  # read in order, batch by batch
SERIES = ("book_depth", "liquidations", "marks", "funding", "open_interest", "candles")
DERIVED = {"book_events": "l2_events", "quotes": "l2_quotes", "book_depth": "l2_depth"}  # in place of an absent feed
SYMBOLS_AT_ONCE = 50  # a plan has a fixed cost; the bars of as many symbols a day are 60 MB
READ = (*STREAMS, *SERIES, *DERIVED.values())


@dataclass(frozen=True)
class BarsSummary:
    venue: str
    interval: str
    rows: int
    symbols: int


def _held(lake: Lake, venue: str | None = None) -> pl.DataFrame:
    """`table, venue, symbol, first, last` of every symbol that the lake holds."""
    parts = [symbol_spans(lake, table, venue).select(pl.lit(table).alias("table"), pl.all()) for table in READ]
    spans = pl.concat(parts).group_by("table", "venue", "symbol")
    return spans.agg(pl.col("first").min(), pl.col("last").max())


def derivative_venues(lake: Lake) -> list[str]:
    """Venues of the lake that have at least one instrument which is not spot."""
    known = lake.scan("instruments").filter(pl.col("settlement") != "spot").select("venue", "symbol").unique().collect()
    return _held(lake).join(known, on=["venue", "symbol"], how="semi")["venue"].unique().sort().to_list()


def venue_span(lake: Lake, venue: str, bar_s: int = BAR_S) -> Interval:
    """From before the first to after the last event of `venue`, in whole bars."""
    files = pl.concat([lake.files(table).filter(pl.col("venue") == venue) for table in READ])
    first, last = files["ts_min"].min(), files["ts_max"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise InputError("the lake holds no data of this venue", where=venue, mend="run `cascadeguard ingest` first")
    step, midnight = timedelta(seconds=bar_s), first.replace(hour=0, minute=0, second=0, microsecond=0)
    before = first - timedelta(microseconds=1)  # a row on the end of a bar is in that bar
    return Interval(midnight + (before - midnight) // step * step, midnight - (midnight - last) // step * step)


def _seen(lake: Lake, venue: str) -> dict[str, dict[str, Interval]]:
    """Symbol -> table -> first and last `ts` in the lake, of all tables that bars read and that hold the symbol.

    A symbol of which nothing but liquidations is known has no bars: there is no price to hold them against.
    """
    found: dict[str, dict[str, Interval]] = {}
    for table, _, symbol, first, last in _held(lake, venue).iter_rows():
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


def _markets(
    lake: Lake, instruments: Sequence[Mapping[str, Any]], seen: Mapping[str, Mapping[str, Interval]], span: Interval
) -> dict[str, Market]:
    """The streams of each symbol, from its own feed or derived, under the names of the feed's tables."""
    venue, found = instruments[0]["venue"], {}
    streams = {table: _streams(lake, venue, table, seen, span) for table in STREAMS}
    spots = _spots(lake, [name for row in instruments for name in row["spot_reference"] or ()], span)
    for row in instruments:
        symbol = row["symbol"]
        stored = {table: _stored(table, seen[symbol]) for table in (*STREAMS, *SERIES)}
        found[symbol] = Market(
            {table: streams[table][symbol] for table in STREAMS if symbol in streams[table]},
            {table: seen[symbol][name].start for table, name in stored.items() if name is not None},
            {name: spots[name] for name in row["spot_reference"] or () if name in spots},
        )
    return found


def _stored(table: str, seen: Mapping[str, Interval]) -> str | None:
    """The table that holds a symbol's rows of `table`: itself, else the derived one, null where there are none."""
    return next((name for name in (table, DERIVED.get(table)) if name in seen), None)


def _by_stored(table: str, seen: Mapping[str, Mapping[str, Interval]]) -> dict[str, list[str]]:
    """The symbols of `seen` by the table that holds their rows of `table`."""
    found: dict[str, list[str]] = {}
    for symbol, tables in seen.items():
        name = _stored(table, tables)
        if name is not None:
            found.setdefault(name, []).append(symbol)
    return found


def _since(table: str, span: Interval) -> datetime:
    return span.start - timedelta(seconds=LOOKBACK_S.get(table, 0))


def _streams(
    lake: Lake, venue: str, table: str, seen: Mapping[str, Mapping[str, Interval]], span: Interval
) -> dict[str, pl.LazyFrame]:
    found: dict[str, pl.LazyFrame] = {}
    for stored, symbols in _by_stored(table, seen).items():
        found |= lake.scan_sorted(stored, venue, symbols, _since(table, span), span.end, stored=True)
    return found


def _spots(lake: Lake, references: Iterable[str], span: Interval) -> dict[str, pl.LazyFrame]:
    """The trades of every spot reference, `venue:symbol`, that the lake holds."""
    venues: dict[str, set[str]] = {}
    for venue, _, symbol in (name.partition(":") for name in references):
        venues.setdefault(venue, set()).add(symbol)
    return {
        f"{venue}:{symbol}": rows
        for venue, symbols in venues.items()
        for symbol, rows in lake.scan_sorted(
            "trades", venue, symbols, _since("spot", span), span.end, stored=True
        ).items()
    }


def _series(
    lake: Lake, venue: str, seen: Mapping[str, Mapping[str, Interval]], span: Interval
) -> dict[str, pl.LazyFrame]:
    """The slow series of the symbols in `seen`, their own or derived."""
    found = {}
    for table in SERIES:
        since = _since(table, span)
        parts = [
            lake.scan(stored, venue, since, span.end).filter(pl.col("symbol").is_in(symbols))
            for stored, symbols in _by_stored(table, seen).items()
            if lake.reaches(stored, venue, since, span.end)
        ]
        if parts:
            found[table] = pl.concat(parts)
    refused = lake.scan("quarantine", venue, span.start, span.end)
    return found | {"quarantine": refused.filter(pl.col("symbol").is_in(list(seen)))}


def _day_bars(
    lake: Lake, venue: str, seen: Mapping[str, Mapping[str, Interval]], day: Interval, bar_s: int
) -> Iterator[pl.DataFrame]:
    """The bars of `day`, some symbols at a time, each symbol from its first row on."""
    alive = [
        row
        for row in _instruments(lake, venue, day.end).iter_rows(named=True)
        if _alive(seen.get(row["symbol"], {}), day)
    ]
    for at in range(0, len(alive), SYMBOLS_AT_ONCE):
        some = alive[at : at + SYMBOLS_AT_ONCE]
        held = {row["symbol"]: seen[row["symbol"]] for row in some}
        sources = Sources(_markets(lake, some, held, day), _series(lake, venue, held, day))
        bars = bars_of(venue, sources, day.start, day.end, bar_s=bar_s)
        first = {symbol: min(table.start for table in tables.values()) for symbol, tables in held.items()}
        yield bars.filter(pl.col("ts") >= pl.col("symbol").replace_strict(first, return_dtype=bars.schema["ts"]))


def build_bars(
    lake: Lake,
    venue: str,
    interval: Interval,
    progress: Callable[[str], None] = lambda _: None,
    *,
    bar_s: int = BAR_S,
    pool: Pool = HERE,
) -> BarsSummary:
    """Compute the bars of every derivative symbol of `venue` in `interval` and put them in place of the old ones.

    Memory holds a few batches of one symbol's events at a time, and the bars of a day. Idempotent. Books are derived
    here, each day on the one before; the days of bars are for `pool`. Raises InputError when the venue has no data or
    the interval does not begin and end at ends of bars.
    """
    span = venue_span(lake, venue, bar_s)
    if _off_grid(interval, bar_s):
        raise InputError(f"--from and --to must be ends of bars of {bar_s} s", where=str(interval))
    bring_books_up_to_date(lake, venue, progress)
    known = _marks(lake, venue)
    days = [Day("bars", venue, span) for span in interval.days()]
    work = partial(_put_day, bar_s=bar_s, seen=_seen(lake, venue))
    rows, symbols = 0, set[str]()
    for _, (more, names) in counted(pool.map(lake, work, days), len(days), progress, f"bars {venue}"):
        rows += more
        symbols.update(names)
    with lake.writer():
        clear_pending(lake, venue, interval, span, known)
    return BarsSummary(venue, str(interval), rows, len(symbols))


def _put_day(lake: Lake, day: Day, *, bar_s: int, seen: Mapping[str, Mapping[str, Interval]]) -> tuple[int, list[str]]:
    """Put the bars of a day in place of the old ones; how many, of which symbols."""
    frames = list(_day_bars(lake, day.venue, seen, day.span, bar_s))
    bars = Bars.validate(pl.concat(frames) if frames else Bars.create_empty())
    with lake.writer():
        lake.replace("bars", bars, day.venue, day.span.start, day.span.end)
    return bars.height, bars["symbol"].unique().to_list()


def build_days(
    lake: Lake,
    venue: str,
    days: Sequence[Interval],
    progress: Callable[[str], None] = lambda _: None,
    *,
    bar_s: int = BAR_S,
    pool: Pool = HERE,
) -> None:
    """`build_bars` of days that need not be neighbours, each by itself."""
    if not days:
        return
    bring_books_up_to_date(lake, venue, progress)
    parts = [Day("bars", venue, span) for span in days]
    for _ in counted(pool.map(lake, partial(bars_of_day, bar_s=bar_s), parts), len(parts), progress, f"bars {venue}"):
        pass


def bars_of_day(lake: Lake, day: Day, *, bar_s: int) -> int:
    """`build_bars` of one day, as a pool works on it; how many bars."""
    return build_bars(lake, day.venue, day.span, bar_s=bar_s).rows


def build_pending(
    lake: Lake,
    venue: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    bar_s: int = BAR_S,
    pool: Pool = HERE,
) -> BarsSummary:
    """Compute the bars that new rows ask for, however late those came; none where none wait."""
    bring_books_up_to_date(lake, venue, progress)
    interval = pending_interval(lake, venue, venue_span(lake, venue, bar_s), timedelta(seconds=bar_s))
    if interval is None or not interval.start < interval.end:
        return BarsSummary(venue, "nothing waits", 0, 0)
    return build_bars(lake, venue, interval, progress, bar_s=bar_s, pool=pool)


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
