"""Step `bars`: canonical events of the lake -> one-minute bars, one symbol and day at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.bars import BAR_S, MAX_AGE_S, Sources, symbol_bars
from features.schema import Bars
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.times import Interval

_EVENT_TABLES = ("trades", "book_events", "book_depth", "liquidations")
_SLOW_TABLES = ("marks", "funding", "open_interest")


@dataclass(frozen=True)
class BarsSummary:
    venue: str
    interval: str
    rows: int
    symbols: int


def derivative_venues(lake: Lake) -> list[str]:
    """Venues of the lake that have at least one instrument which is not spot."""
    known = lake.scan("instruments").filter(pl.col("settlement") != "spot").select("venue", "symbol").unique()
    seen = pl.concat([lake.scan(table).select("venue", "symbol").unique() for table in (*_EVENT_TABLES, *_SLOW_TABLES)])
    both = seen.unique().join(known, on=["venue", "symbol"], how="semi")
    return both.select(pl.col("venue").unique().sort()).collect().to_series().to_list()


def venue_span(lake: Lake, venue: str) -> Interval:
    """From before the first to after the last event of `venue`, in whole minutes."""
    spans = [
        lake.scan(table, venue).select(pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last"))
        for table in (*_EVENT_TABLES, *_SLOW_TABLES)
    ]
    first, last = pl.concat(spans).select(pl.col("first").min(), pl.col("last").max()).collect().row(0)
    if first is None:
        raise InputError("the lake holds no data of this venue", where=venue, mend="run `cascadeguard ingest` first")
    minute = timedelta(minutes=1)
    floor = first.replace(second=0, microsecond=0)
    ceiling = last.replace(second=0, microsecond=0)
    return Interval(floor, ceiling if ceiling == last else ceiling + minute)


def _first_seen(lake: Lake, venue: str) -> dict[str, dict[str, datetime]]:
    """Table -> symbol -> earliest `ts` in the lake."""
    return {
        table: dict(lake.scan(table, venue).group_by("symbol").agg(pl.col("ts").min()).collect().iter_rows())
        for table in (*_EVENT_TABLES, *_SLOW_TABLES)
    }


def _instruments(lake: Lake, venue: str, end: datetime) -> pl.DataFrame:
    """The derivative instruments of `venue` in force at `end`, one row per symbol."""
    rows = lake.scan("instruments", venue).filter(pl.col("effective_from") <= end, pl.col("settlement") != "spot")
    return rows.sort("effective_from").group_by("symbol").last().sort("symbol").collect()


def _spot(lake: Lake, references: list[str] | None, start: datetime, end: datetime) -> tuple[str | None, pl.LazyFrame]:
    """The first spot reference that the lake holds, with its trades."""
    for name in references or []:
        venue, _, symbol = name.partition(":")
        trades = lake.scan("trades", venue, start - timedelta(seconds=MAX_AGE_S["spot"]), end, symbol)
        if not trades.head(1).collect().is_empty():
            return name, trades
    return None, lake.scan("trades", "no-spot-reference")


def _sources(lake: Lake, instrument: Mapping[str, Any], first_seen: Mapping[str, datetime], span: Interval) -> Sources:
    venue, symbol = instrument["venue"], instrument["symbol"]
    tables = {}
    for table in (*_EVENT_TABLES, *_SLOW_TABLES):
        lookback = timedelta(seconds=MAX_AGE_S.get(table, BAR_S))
        tables[table] = lake.scan(table, venue, span.start - lookback, span.end, symbol)
    refused = lake.scan("quarantine", venue, span.start, span.end, symbol)
    name, spot = _spot(lake, instrument["spot_reference"], span.start, span.end)
    return Sources(tables | {"quarantine": refused}, first_seen, spot, name)


def build_bars(
    lake: Lake, venue: str, interval: Interval, progress: Callable[[str], None] = lambda _: None
) -> BarsSummary:
    """Compute the bars of every derivative symbol of `venue` in `interval` and put them in place of the old ones.

    Memory holds one symbol-day of events at a time. Idempotent. Raises InputError when the venue has no data.
    """
    venue_span(lake, venue)
    seen = _first_seen(lake, venue)
    rows, symbols = 0, set()
    for day in interval.days():
        progress(f"bars {venue} {day}")
        frames = []
        for instrument in _instruments(lake, venue, day.end).iter_rows(named=True):
            symbol = instrument["symbol"]
            first_seen = {table: since[symbol] for table, since in seen.items() if symbol in since}
            if not first_seen or min(first_seen.values()) > day.end:
                continue
            sources = _sources(lake, instrument, first_seen, day)
            plan = symbol_bars(venue, symbol, sources, day.start, day.end)
            frames.append(plan.filter(pl.col("ts") >= min(first_seen.values())).collect(engine="streaming"))
            symbols.add(symbol)
        bars = Bars.validate(pl.concat(frames) if frames else Bars.create_empty())
        with lake.writer():
            lake.replace("bars", bars, venue, day.start, day.end)
        rows += bars.height
    return BarsSummary(venue, str(interval), rows, len(symbols))
