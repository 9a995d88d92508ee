"""Bars of a venue's symbols: events in, one row per symbol and interval out.

A bar at `t` holds the events with `ts` in `(t - bar_s, t]`; a slow series joins as of `max(ts, known_at) <= t`, its
last value carried for at most its `MAX_AGE_S`. Because nothing is carried further than that, a run that starts at `t`
needs only so much of each table before it to give the rows of a run over all history. The streams of events are read
symbol by symbol in constant memory (`flows.py`); what they leave, one row per bar, is joined with the slow series of
all symbols at once, for a plan costs the same whether it joins one symbol or fifty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import polars as pl

from features.flows import QUOTE, Grid, Streams, book_flows, gap_flows, grid_of, last_known, trade_flows
from features.schema import CANONICAL, DEPTH_BANDS_BPS, UTC_US, Bars, Quarantine, polars_schema

BAR_S = 60
MAX_AGE_S: Mapping[str, int] = {
    "trades": 3_600,
    "candles": 3_600,
    "spot": 3_600,
    "quotes": 3_600,  # a feed of changes says nothing while nothing changes
    "book_depth": 3_600,
    "book_levels": 3_600,
    "marks": 3_600,
    "open_interest": 21_600,
    "funding": 86_400,
}
# How far before a bar each table is read, and thus how far on a late row is felt. Depth: a value of an hour ago may
# have stood still for an hour more, and to know that takes the row before.
LOOKBACK_S: Mapping[str, int] = {**MAX_AGE_S, "book_depth": 10_800}
STILL_S_MAX = 3_600
WATCHED = ("trades", "book_events", "quotes", "book_levels", "liquidations")  # silence of these says something
SIDES = ("bid", "ask")
NEAR = tuple(f"{event}_{side}_{band}bps" for event in ("add", "cancel") for band in DEPTH_BANDS_BPS for side in SIDES)
_US = 1_000_000
_DOLLAR = 1_000_000  # in micro-dollars


@dataclass(frozen=True)
class Market:
    """The streams of one symbol from `LOOKBACK_S` before the start on, and since when each of its tables has rows.

    `tables` are `trades`, `book_events`, `quotes` and `book_levels`, those that there are, and `spots` the trades of
    the spot markets that stand for the index, first choice first: in the order of their keys, with canonical or stored
    columns (`flows.py`). `first_seen[table]` is the earliest `ts` the lake holds for this symbol, of series too: from
    then on a silent bar counts as zero, before it as null.
    """

    tables: Mapping[str, pl.LazyFrame]
    first_seen: Mapping[str, datetime]
    spots: Mapping[str, pl.LazyFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """The streams of every symbol and the slow series, rows of all symbols in any order, from `LOOKBACK_S` before."""

    markets: Mapping[str, Market]
    series: Mapping[str, pl.LazyFrame] = field(default_factory=dict)

    def streams(self, table: str) -> Streams:
        return [market.tables.get(table) for market in self.markets.values()]

    def rows(self, table: str) -> pl.LazyFrame:
        """The rows of a series, none where it is absent."""
        if table in self.series:
            return self.series[table]
        schema = Quarantine if table == "quarantine" else CANONICAL[table]
        return pl.LazyFrame(schema=polars_schema(schema))


def bar_end(column: str, bar_s: int = BAR_S) -> pl.Expr:
    """End of the interval `(t - bar_s, t]` that holds a time stamp.

    >>> from datetime import datetime, timezone
    >>> stamps = [datetime(2025, 1, 1, 0, 1, 0, us, tzinfo=timezone.utc) for us in (0, 1)]
    >>> pl.DataFrame({"ts": stamps}).select(bar_end("ts")).to_series().dt.minute().to_list()
    [1, 2]
    """
    step = bar_s * _US
    return (((pl.col(column).dt.epoch("us") + (step - 1)) // step) * step).cast(UTC_US)


def _age_s(bar: str, stamp: str) -> pl.Expr:
    """Seconds from `stamp` to `bar`, to the microsecond.

    Rounded because a quotient's last bit depends on the length of the column it is computed in.
    """
    age_us = (pl.col(bar) - pl.col(stamp)).dt.total_microseconds().clip(lower_bound=0)
    return (age_us / _US).round(6)


def _usd(expr: pl.Expr) -> pl.Expr:
    return expr.round().cast(pl.Int64)


def _whole(micro: str | pl.Expr) -> pl.Expr:
    """Whole dollars of micro-dollars, halves up."""
    column = pl.col(micro) if isinstance(micro, str) else micro
    return (column + _DOLLAR // 2) // _DOLLAR


def _usd_sum(expr: pl.Expr) -> pl.Expr:
    """Whole dollars of a sum that is exact in micro-dollars: a float sum depends on the order of its terms."""
    return _whole((expr * 1e6).round().cast(pl.Int64).sum())


def _moment(us: str) -> pl.Expr:
    return pl.col(us).cast(UTC_US)


def trade_bars(flows: pl.DataFrame) -> pl.DataFrame:
    """Prices, signed volume, id gaps and capture latency per slot, null where it has no trade."""
    return flows.select(
        *("open", "high", "low", "close", "trades"),
        _whole("volume").alias("volume_usd"),
        _whole("buys").alias("buy_usd"),
        _whole(pl.col("volume") - pl.col("buys")).alias("sell_usd"),
        pl.col("missing").alias("trade_ids_missing"),
        (pl.col("lag_us").clip(lower_bound=0) / 1_000).round(3).alias("latency_ms_max"),
        _moment("last_ts").alias("price_ts"),
        _moment("known").alias("trades_known_at"),
    )


def book_event_bars(flows: pl.DataFrame) -> pl.DataFrame:
    """Counts and dollars of orders added, cancelled and traded per slot, by side and near the mid."""
    placed = pl.col("unplaced") == 0
    return flows.select(
        *((pl.col(f"{event}s_bid") + pl.col(f"{event}s_ask")).alias(f"{event}s") for event in ("add", "cancel")),
        *(_whole(f"{event}_{side}").alias(f"{event}_{side}_usd") for event in ("add", "cancel") for side in SIDES),
        *(_whole(f"trade_{side}").alias(f"book_trade_{side}_usd") for side in SIDES),
        *(pl.when(placed).then(_whole(name)).alias(f"{name}_usd") for name in NEAR),
        pl.col("unplaced"),
        _moment("known").alias("book_known_at"),
    )


def quote_bars(state: pl.DataFrame) -> pl.DataFrame:
    """The newest quote known at the end of each slot, and the widest spread stamped in it."""
    return state.select(
        *QUOTE,
        "spread_bps_max",
        _moment("last_ts").alias("quotes_ts"),
        _moment("known").alias("quotes_known_at"),
    )


def spot_bars(sources: Sources, grid: Grid) -> pl.DataFrame:
    """`spot_0`, `spot_0_ts`, `spot_0_name`, then those of the second choice: the newest trade known in each slot."""
    found = [pl.DataFrame()]
    for place in range(max((len(market.spots) for market in sources.markets.values()), default=0)):
        chosen = [list(market.spots.items())[place : place + 1] for market in sources.markets.values()]
        last = last_known([some[0][1] if some else None for some in chosen], "price", grid)
        names = pl.Series([some[0][0] if some else None for some in chosen], dtype=pl.String)
        found.append(
            last.select(
                pl.col("price").alias(f"spot_{place}"),
                _moment("last_ts").alias(f"spot_{place}_ts"),
                names.gather(np.arange(len(chosen)).repeat(grid.slots)).alias(f"spot_{place}_name"),
            )
        )
    return pl.concat(found, how="horizontal")


def stream_bars(venue: str, sources: Sources, grid: Grid) -> pl.DataFrame:
    """What the streams say, one row per symbol and slot; `since_{table}` is the symbol's `first_seen`."""
    symbols = pl.Series("symbol", list(sources.markets), dtype=pl.String)
    places = np.arange(len(symbols)).repeat(grid.slots)
    since = {
        f"since_{table}": pl.Series([m.first_seen.get(table) for m in sources.markets.values()], dtype=UTC_US)
        for table in WATCHED
    }
    named = pl.DataFrame({"symbol": symbols} | since)[places]
    events, quotes = book_flows(sources.streams("book_events"), sources.streams("quotes"), grid)
    return pl.concat(
        [
            named.with_columns(grid.ends(len(symbols)), venue=pl.lit(venue)),
            trade_bars(trade_flows(sources.streams("trades"), grid)),
            book_event_bars(events),
            quote_bars(quotes),
            gap_flows(sources.streams("book_levels"), grid),
            spot_bars(sources, grid),
        ],
        how="horizontal",
    )


# --- slow series: rows of all symbols ---


def candle_bars(candles: pl.LazyFrame, bar_s: int) -> pl.LazyFrame:
    """Prices and volume per bar from the candles of the coarsest interval that divides it; only bars that hold any.

    A candle ends in the bar that holds its `ts`. `volume_usd` is the whole-dollar sum of volume * close, `buy_usd` and
    `sell_usd` are null unless the taker's volume of every candle is known.
    """
    taken, volume, close = pl.col("taker_buy_volume"), pl.col("volume"), pl.col("close")
    per_interval = (
        candles.filter(bar_s % pl.col("interval_s") == 0)
        .with_columns(bar=bar_end("ts", bar_s))
        .sort("symbol", "bar", "interval_s", "ts")
        .group_by("symbol", "bar", "interval_s", maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            close.last(),
            _usd_sum(volume * close).alias("volume_usd"),
            pl.when(taken.is_not_null().all()).then(_usd_sum(taken * close)).alias("buy_usd"),
            pl.when(taken.is_not_null().all()).then(_usd_sum((volume - taken) * close)).alias("sell_usd"),
            pl.col("ts").max().alias("price_ts"),
            pl.col("known_at").max().alias("trades_known_at"),
        )
    )
    return per_interval.group_by("symbol", "bar", maintain_order=True).last().drop("interval_s")


def depth_snapshots(depth: pl.LazyFrame) -> pl.LazyFrame:
    """One row per book snapshot, one column per side and band, and since when the 100 bps depth has stood still.

    Depth that was not seen for longer than its `MAX_AGE_S` counts as moved.
    """
    columns = {
        f"depth_{side}_{band}bps_usd": (pl.col("side") == side) & (pl.col("band_bps") == band)
        for band in DEPTH_BANDS_BPS
        for side in SIDES
    }
    snapshots = (
        depth.with_columns(pl.when(own).then(_usd(pl.col("depth_usd"))).alias(name) for name, own in columns.items())
        .group_by("symbol", "ts")
        .agg(pl.col("known_at", *columns).max())  # one row each, by the table's key
        .sort("symbol", "ts")
    )
    inside = ["depth_bid_100bps_usd", "depth_ask_100bps_usd"]
    other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in ("symbol", *inside))
    unseen = (pl.col("ts") - pl.col("ts").shift()) > pl.duration(seconds=MAX_AGE_S["book_depth"])
    return snapshots.with_columns(moved_ts=pl.when(other | unseen).then(pl.col("ts")).forward_fill())


def liquidation_bars(liquidations: pl.LazyFrame, bar_s: int) -> pl.LazyFrame:
    """Count and dollars of forced fills per bar, by the side of the position that was closed."""
    usd = pl.col("notional_usd")
    return (
        liquidations.with_columns(bar=bar_end("ts", bar_s))
        .group_by("symbol", "bar")
        .agg(
            pl.len().cast(pl.Int64).alias("liqs"),
            _usd_sum(usd.filter(pl.col("position_side") == "long")).alias("liq_long_usd"),
            _usd_sum(usd.filter(pl.col("position_side") == "short")).alias("liq_short_usd"),
            pl.col("known_at").max().alias("liqs_known_at"),
        )
    )


def refused_bars(quarantine: pl.LazyFrame, bar_s: int) -> pl.LazyFrame:
    """Rows refused per bar, and those of the book that were refused as crossed or frozen."""
    reason = pl.col("reason")
    return (
        quarantine.filter(pl.col("ts").is_not_null())
        .with_columns(bar=bar_end("ts", bar_s))
        .group_by("symbol", "bar")
        .agg(
            pl.len().cast(pl.Int64).alias("rows_refused"),
            reason.str.contains("crossed_book", literal=True).sum().cast(pl.Int64).alias("book_rows_crossed"),
            reason.str.contains("frozen_book", literal=True).sum().cast(pl.Int64).alias("book_rows_frozen"),
        )
    )


def _as_of(
    bars: pl.LazyFrame, slow: pl.LazyFrame, name: str, columns: Mapping[str, str], age: str, *order: str
) -> pl.LazyFrame:
    """Join the newest row of `slow` known at each bar, null once older than `MAX_AGE_S[name]`; `age` in seconds.

    A row is known at `max(ts, known_at)`. Newest is the latest `ts` (a row that comes late does not replace a newer
    one), of the same `ts` the one known last, then the last by `order`.
    """
    stamp = f"{name}_ts"
    known = pl.max_horizontal("ts", "known_at").alias("slow_known_at")
    wanted = {stamp: pl.col("ts")} | {new: pl.col(old) for old, new in columns.items()}
    values = (
        slow.with_columns(known)
        .sort("symbol", "slow_known_at", "ts", *order)
        .filter(pl.col("ts") >= pl.col("ts").cum_max().over("symbol"))
        .select("symbol", "slow_known_at", **wanted)
    )
    joined = bars.join_asof(
        values, left_on="ts", right_on="slow_known_at", by="symbol", strategy="backward", check_sortedness=False
    )
    return _fading(joined.drop("slow_known_at"), name, stamp, (*columns.values(),), age)


def _fading(bars: pl.LazyFrame, name: str, stamp: str, columns: tuple[str, ...], age: str) -> pl.LazyFrame:
    """Add `age` of the moment in `stamp`; it and `columns` are null once older than `MAX_AGE_S[name]`."""
    aged = bars.with_columns(_age_s("ts", stamp).alias(age))
    fresh = pl.col(age) <= MAX_AGE_S[name]
    return aged.with_columns(pl.when(fresh).then(column).alias(column) for column in (*columns, age)).drop(stamp)


def _zero_since(table: str, columns: tuple[str, ...]) -> list[pl.Expr]:
    """Zero in place of null in `columns` since the first row of `table`."""
    return [
        pl.when(pl.col("ts") >= pl.col(f"since_{table}"))
        .then(pl.col(name).fill_null(0))
        .otherwise(pl.col(name))
        .alias(name)
        for name in columns
    ]


PRICES = ("open", "high", "low", "close", "volume_usd", "buy_usd", "sell_usd", "price_ts", "trades_known_at")


def _with_prices(bars: pl.LazyFrame, sources: Sources, bar_s: int) -> pl.LazyFrame:
    told = pl.when(pl.col("close").is_not_null()).then(pl.lit("trades"))
    carried = bars.with_columns(told.alias("price_source")).with_columns(
        pl.col("close", "price_ts", "price_source").forward_fill().over("symbol")
    )
    priced = _with_candles(carried, sources, bar_s)
    faded = _fading(priced, "trades", "price_ts", ("close", "price_source"), "trade_age_s")
    return faded.with_columns(
        *(pl.col(name).fill_null(pl.col("close")) for name in ("open", "high", "low")),
        *_zero_since("trades", ("trades", "volume_usd", "buy_usd", "sell_usd")),
    )


def _with_candles(bars: pl.LazyFrame, sources: Sources, bar_s: int) -> pl.LazyFrame:
    """Prices from candles in the bars before the first trade.

    Where no candle divides the bar, the close of the last candle known at its end is the price.
    """
    if "candles" not in sources.series:
        return bars
    candles = sources.rows("candles")
    own = candle_bars(candles, bar_s).rename({"bar": "ts"} | {name: f"candle_{name}" for name in PRICES})
    bars = bars.join(own, on=["symbol", "ts"], how="left", maintain_order="left")
    known = candles.with_columns(close_ts=pl.col("ts"), shorter=-pl.col("interval_s"))
    wanted = {"close": "late_close", "close_ts": "late_ts"}
    bars = _as_of(bars, known, "candles", wanted, "late_age_s", "shorter")
    bars = bars.with_columns(
        candle_close=pl.coalesce("candle_close", "late_close"),
        candle_price_ts=pl.coalesce("candle_price_ts", "late_ts"),
    )
    traded = (pl.col("ts") >= pl.col("since_trades")).fill_null(False)
    told = pl.col("candle_close").is_not_null() & ~traded
    return bars.with_columns(
        *(pl.when(told).then(f"candle_{name}").otherwise(name).alias(name) for name in PRICES),
        price_source=pl.when(told).then(pl.lit("candles")).otherwise("price_source"),
    )


def _with_book(bars: pl.LazyFrame, sources: Sources, _: int) -> pl.LazyFrame:
    near = tuple(f"{name}_usd" for name in NEAR)
    flows = [f"{event}_{side}_usd" for event in ("add", "cancel", "book_trade") for side in SIDES]
    bars = bars.with_columns(_zero_since("book_events", ("adds", "cancels", *flows)))
    seen = (pl.col("ts") >= pl.col("since_book_events")) & (pl.col("ts") >= pl.col("since_quotes"))
    silent = pl.col("unplaced").is_null()
    bars = bars.with_columns(pl.when(seen & silent).then(0).when(seen).then(name).alias(name) for name in near)
    gaps = pl.when(pl.col("ts") >= pl.col("since_book_levels")).then("book_gaps").alias("book_gaps")
    return _with_depth(_with_quotes(bars.with_columns(gaps)), sources)


def _with_quotes(bars: pl.LazyFrame) -> pl.LazyFrame:
    bars = _fading(bars, "quotes", "quotes_ts", QUOTE, "quote_age_s")
    resting = pl.col("bid_qty") + pl.col("ask_qty")
    spread = 2e4 * (pl.col("ask") - pl.col("bid")) / (pl.col("ask") + pl.col("bid"))
    return bars.with_columns(
        spread_bps=spread,
        spread_bps_max=pl.max_horizontal("spread_bps_max", spread),
        imbalance=pl.when(resting > 0).then((pl.col("bid_qty") - pl.col("ask_qty")) / resting),
    )


def _with_depth(bars: pl.LazyFrame, sources: Sources) -> pl.LazyFrame:
    bands = [f"depth_{side}_{band}bps_usd" for band in DEPTH_BANDS_BPS for side in SIDES]
    wanted = {name: name for name in bands} | {"moved_ts": "moved_ts"}
    joined = _as_of(bars, depth_snapshots(sources.rows("book_depth")), "book_depth", wanted, "depth_age_s")
    still = _age_s("ts", "moved_ts") - pl.col("depth_age_s")
    return joined.with_columns(depth_unchanged_s=still.clip(0, STILL_S_MAX))


def _with_spot(bars: pl.LazyFrame, places: int) -> pl.LazyFrame:
    """Add `spot`, `spot_age_s`, `spot_name` of the first reference that has a price at the bar."""
    for place in range(places):
        bars = _fading(bars, "spot", f"spot_{place}_ts", (f"spot_{place}", f"spot_{place}_name"), f"spot_{place}_age_s")
    dtypes = {"": pl.Float64, "_age_s": pl.Float64, "_name": pl.String}
    return bars.with_columns(
        pl.coalesce(*(f"spot_{place}{part}" for place in range(places)), pl.lit(None, dtype)).alias(f"spot{part}")
        for part, dtype in dtypes.items()
    )


def _with_slow_series(bars: pl.LazyFrame, sources: Sources, _: int) -> pl.LazyFrame:
    marks = sources.rows("marks").filter(pl.col("mark").is_not_null())
    indices = sources.rows("marks").filter(pl.col("index").is_not_null())
    bars = _as_of(bars, marks, "marks", {"mark": "mark"}, "mark_age_s")
    bars = _as_of(bars, indices, "marks", {"index": "venue_index"}, "venue_index_age_s")
    bars = _with_spot(bars, max((len(market.spots) for market in sources.markets.values()), default=0))
    funding = {"rate": "funding_rate", "interval_h": "funding_interval_h"}
    bars = _as_of(bars, sources.rows("funding"), "funding", funding, "funding_age_s")
    interest = {"oi_base": "oi_base", "oi_usd": "oi_usd"}
    bars = _as_of(bars, sources.rows("open_interest"), "open_interest", interest, "oi_age_s")
    own = pl.col("venue_index").is_not_null()
    return bars.with_columns(
        index=pl.coalesce("venue_index", "spot"),
        index_age_s=pl.when(own).then("venue_index_age_s").otherwise("spot_age_s"),
        index_source=pl.when(own).then(pl.lit("venue")).otherwise("spot_name"),
        oi_usd=_usd(pl.col("oi_usd")),
    )


def _with_forced_and_refused(bars: pl.LazyFrame, sources: Sources, bar_s: int) -> pl.LazyFrame:
    for found in (
        liquidation_bars(sources.rows("liquidations"), bar_s),
        refused_bars(sources.rows("quarantine"), bar_s),
    ):
        bars = bars.join(found.rename({"bar": "ts"}), on=["symbol", "ts"], how="left", maintain_order="left")
    return bars.with_columns(
        *_zero_since("liquidations", ("liqs", "liq_long_usd", "liq_short_usd")),
        *(pl.col(name).fill_null(0) for name in ("rows_refused", "book_rows_crossed", "book_rows_frozen")),
    )


def bars_of(venue: str, sources: Sources, start: datetime, end: datetime, *, bar_s: int = BAR_S) -> pl.DataFrame:
    """Bars with `ts` in (start, end] of every symbol of `sources`: columns and types of `Bars`.

    A row for every symbol and bar, in the order of `sources.markets` and of time.

    Raises ValueError unless `bar_s` divides a day and start and end are bar ends, and where rows are not in order.
    """
    bars = stream_bars(venue, sources, grid_of(start, end, bar_s)).lazy()
    for step in (_with_prices, _with_book, _with_slow_series, _with_forced_and_refused):
        bars = step(bars, sources, bar_s)
    known = pl.max_horizontal("ts", "trades_known_at", "book_known_at", "quotes_known_at", "liqs_known_at")
    schema = polars_schema(Bars)
    return (
        bars.with_columns(known_at=known)
        .filter(pl.col("ts") > start)
        .select(pl.col(name).cast(dtype) for name, dtype in schema.items())
        .collect(engine="in-memory")  # a row per bar: the streaming engine's start-up would cost more
    )
