"""One-minute bars of one symbol: events in, one row per minute out.

Every function is one symbol's lazy plan. A bar at `t` holds the events with `ts` in `(t - 60 s, t]`; a slow series
joins as of `known_at <= t`, its last value carried for at most its `MAX_AGE_S`. Because nothing is carried further than
that, a run that starts at `t` needs only so much of each table before it to give the rows of a run over all history.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from features.schema import DEPTH_BANDS_BPS, UTC_US, Bars, polars_schema

BAR_S = 60
MAX_AGE_S: Mapping[str, int] = {
    "trades": 3_600,
    "spot": 3_600,
    "book_depth": 3_600,
    "marks": 3_600,
    "open_interest": 21_600,
    "funding": 86_400,
}
_US = 1_000_000


@dataclass(frozen=True)
class Sources:
    """The canonical rows of one symbol from its `MAX_AGE_S` before the start on, and since when each table has rows.

    `first_seen[table]` is the earliest `ts` the lake holds for this symbol: from then on a silent minute counts as
    zero, before it as null. `spot` holds the trades of the spot market that stands for the index, named `spot_name`.
    """

    tables: Mapping[str, pl.LazyFrame]
    first_seen: Mapping[str, datetime]
    spot: pl.LazyFrame
    spot_name: str | None


def bar_end(column: str) -> pl.Expr:
    """End of the minute `(t - 60 s, t]` that holds a time stamp.

    >>> from datetime import datetime, timezone
    >>> stamps = [datetime(2025, 1, 1, 0, 1, 0, us, tzinfo=timezone.utc) for us in (0, 1)]
    >>> pl.DataFrame({"ts": stamps}).select(bar_end("ts")).to_series().dt.minute().to_list()
    [1, 2]
    """
    step = BAR_S * _US
    return (((pl.col(column).dt.epoch("us") + (step - 1)) // step) * step).cast(UTC_US)


def _age_s(bar: str, stamp: str) -> pl.Expr:
    """Seconds from `stamp` to `bar`, to the microsecond.

    Rounded because a quotient's last bit depends on the length of the column it is computed in.
    """
    age_us = (pl.col(bar) - pl.col(stamp)).dt.total_microseconds().clip(lower_bound=0)
    return (age_us / _US).round(6)


def _usd(expr: pl.Expr) -> pl.Expr:
    return expr.round().cast(pl.Int64)


def _usd_sum(expr: pl.Expr) -> pl.Expr:
    """Whole dollars of a sum that is exact in micro-dollars: a float sum depends on the order of its terms."""
    micro = (expr * 1e6).round().cast(pl.Int64).sum()
    return (micro + 500_000) // 1_000_000


def trade_bars(trades: pl.LazyFrame) -> pl.LazyFrame:
    """Prices, signed volume, id gaps and capture latency per minute; only minutes that hold trades."""
    number = pl.col("trade_id").cast(pl.Int64, strict=False)
    usd = pl.col("notional_usd")
    return (
        trades.with_columns(number=number)
        .sort("ts", "number", "trade_id")
        .with_columns(
            bar=bar_end("ts"),
            missing=(pl.col("number").diff() - 1).clip(lower_bound=0),
            latency_us=(pl.col("known_at") - pl.col("ts")).dt.total_microseconds().clip(lower_bound=0),
        )
        .group_by("bar")
        .agg(
            pl.col("price").first().alias("open"),
            pl.col("price").max().alias("high"),
            pl.col("price").min().alias("low"),
            pl.col("price").last().alias("close"),
            pl.len().cast(pl.Int64).alias("trades"),
            _usd_sum(usd).alias("volume_usd"),
            _usd_sum(usd.filter(pl.col("side") == "buy")).alias("buy_usd"),
            _usd_sum(usd.filter(pl.col("side") == "sell")).alias("sell_usd"),
            pl.col("missing").sum().alias("trade_ids_missing"),
            (pl.col("latency_us").max() / 1_000).round(3).alias("latency_ms_max"),
            pl.col("ts").max().alias("last_trade_ts"),
            pl.col("known_at").max().alias("trades_known_at"),
        )
    )


def book_event_bars(events: pl.LazyFrame) -> pl.LazyFrame:
    """Counts and dollars of orders added and cancelled per minute and side."""
    usd = pl.col("price") * pl.col("qty")
    wanted = [(event, side) for event in ("add", "cancel") for side in ("bid", "ask")]
    return (
        events.with_columns(bar=bar_end("ts"))
        .group_by("bar")
        .agg(
            *((pl.col("event") == event).sum().cast(pl.Int64).alias(f"{event}s") for event in ("add", "cancel")),
            *(
                _usd_sum(usd.filter((pl.col("event") == event) & (pl.col("side") == side))).alias(f"{event}_{side}_usd")
                for event, side in wanted
            ),
            pl.col("known_at").max().alias("book_known_at"),
        )
    )


def depth_snapshots(depth: pl.LazyFrame) -> pl.LazyFrame:
    """One row per book snapshot, one column per side and band, and since when the 100 bps depth has stood still."""
    columns = [(side, band, f"depth_{side}_{band}bps_usd") for band in DEPTH_BANDS_BPS for side in ("bid", "ask")]
    inside = ["depth_bid_100bps_usd", "depth_ask_100bps_usd"]
    moved = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in inside)
    return (
        depth.group_by("ts")
        .agg(
            pl.col("known_at").max(),
            *(
                _usd(pl.col("depth_usd").filter((pl.col("side") == side) & (pl.col("band_bps") == band)).first()).alias(
                    name
                )
                for side, band, name in columns
            ),
        )
        .sort("ts")
        .with_columns(moved_ts=pl.when(moved).then(pl.col("ts")).forward_fill())
    )


def liquidation_bars(liquidations: pl.LazyFrame) -> pl.LazyFrame:
    """Count and dollars of forced fills per minute, by the side of the position that was closed."""
    usd = pl.col("notional_usd")
    return (
        liquidations.with_columns(bar=bar_end("ts"))
        .group_by("bar")
        .agg(
            pl.len().cast(pl.Int64).alias("liqs"),
            _usd_sum(usd.filter(pl.col("position_side") == "long")).alias("liq_long_usd"),
            _usd_sum(usd.filter(pl.col("position_side") == "short")).alias("liq_short_usd"),
            pl.col("known_at").max().alias("liqs_known_at"),
        )
    )


def refused_bars(quarantine: pl.LazyFrame) -> pl.LazyFrame:
    """Rows refused per minute, and those of the book that were refused as crossed or frozen."""
    reason = pl.col("reason")
    return (
        quarantine.filter(pl.col("ts").is_not_null())
        .with_columns(bar=bar_end("ts"))
        .group_by("bar")
        .agg(
            pl.len().cast(pl.Int64).alias("rows_refused"),
            reason.str.contains("crossed_book", literal=True).sum().cast(pl.Int64).alias("book_rows_crossed"),
            reason.str.contains("frozen_book", literal=True).sum().cast(pl.Int64).alias("book_rows_frozen"),
        )
    )


def _as_of(bars: pl.LazyFrame, slow: pl.LazyFrame, name: str, columns: Mapping[str, str], age: str) -> pl.LazyFrame:
    """Join the last row of `slow` known at each bar, null once older than `MAX_AGE_S[name]`; `age` in seconds."""
    stamp = f"{name}_ts"
    values = slow.sort("known_at", "ts").select(
        pl.col("known_at").alias("slow_known_at"),
        pl.col("ts").alias(stamp),
        *(pl.col(old).alias(new) for old, new in columns.items()),
    )
    joined = bars.join_asof(values, left_on="ts", right_on="slow_known_at", strategy="backward")
    aged = joined.drop("slow_known_at").with_columns(_age_s("ts", stamp).alias(age))
    fresh = pl.col(age) <= MAX_AGE_S[name]
    return aged.with_columns(pl.when(fresh).then(new).alias(new) for new in (*columns.values(), age)).drop(stamp)


def _zero_since(first: datetime | None, columns: tuple[str, ...]) -> list[pl.Expr]:
    if first is None:
        return []
    return [
        pl.when(pl.col("ts") >= first).then(pl.col(name).fill_null(0)).otherwise(pl.col(name)).alias(name)
        for name in columns
    ]


def _with_trades(bars: pl.LazyFrame, sources: Sources) -> pl.LazyFrame:
    joined = bars.join(
        trade_bars(sources.tables["trades"]), left_on="ts", right_on="bar", how="left", maintain_order="left"
    )
    carried = joined.with_columns(pl.col("close", "last_trade_ts").forward_fill())
    aged = carried.with_columns(trade_age_s=_age_s("ts", "last_trade_ts"))
    fresh = pl.col("trade_age_s") <= MAX_AGE_S["trades"]
    fading = aged.with_columns(pl.when(fresh).then(name).alias(name) for name in ("close", "trade_age_s"))
    return fading.with_columns(
        *(pl.col(name).fill_null(pl.col("close")) for name in ("open", "high", "low")),
        *_zero_since(sources.first_seen.get("trades"), ("trades", "volume_usd", "buy_usd", "sell_usd")),
    )


def _with_book(bars: pl.LazyFrame, sources: Sources) -> pl.LazyFrame:
    flows = ("adds", "add_bid_usd", "add_ask_usd", "cancels", "cancel_bid_usd", "cancel_ask_usd")
    bars = bars.join(
        book_event_bars(sources.tables["book_events"]), left_on="ts", right_on="bar", how="left", maintain_order="left"
    )
    bars = bars.with_columns(_zero_since(sources.first_seen.get("book_events"), flows))
    bands = [f"depth_{side}_{band}bps_usd" for band in DEPTH_BANDS_BPS for side in ("bid", "ask")]
    wanted = {name: name for name in bands} | {"moved_ts": "moved_ts"}
    joined = _as_of(bars, depth_snapshots(sources.tables["book_depth"]), "book_depth", wanted, "depth_age_s")
    still = _age_s("ts", "moved_ts") - pl.col("depth_age_s")
    return joined.with_columns(depth_unchanged_s=still.clip(lower_bound=0))


def _with_slow_series(bars: pl.LazyFrame, sources: Sources) -> pl.LazyFrame:
    tables = sources.tables
    marks = tables["marks"].filter(pl.col("mark").is_not_null())
    indices = tables["marks"].filter(pl.col("index").is_not_null())
    bars = _as_of(bars, marks, "marks", {"mark": "mark"}, "mark_age_s")
    bars = _as_of(bars, indices, "marks", {"index": "venue_index"}, "venue_index_age_s")
    bars = _as_of(bars, sources.spot, "spot", {"price": "spot"}, "spot_age_s")
    funding = {"rate": "funding_rate", "interval_h": "funding_interval_h"}
    bars = _as_of(bars, tables["funding"], "funding", funding, "funding_age_s")
    interest = {"oi_base": "oi_base", "oi_usd": "oi_usd"}
    bars = _as_of(bars, tables["open_interest"], "open_interest", interest, "oi_age_s")
    own = pl.col("venue_index").is_not_null()
    spot_name = pl.lit(sources.spot_name, dtype=pl.String)
    return bars.with_columns(
        index=pl.coalesce("venue_index", "spot"),
        index_age_s=pl.when(own).then("venue_index_age_s").otherwise("spot_age_s"),
        index_source=pl.when(own).then(pl.lit("venue")).when(pl.col("spot").is_not_null()).then(spot_name),
        oi_usd=_usd(pl.col("oi_usd")),
    )


def _with_forced_and_refused(bars: pl.LazyFrame, sources: Sources) -> pl.LazyFrame:
    bars = bars.join(
        liquidation_bars(sources.tables["liquidations"]),
        left_on="ts",
        right_on="bar",
        how="left",
        maintain_order="left",
    )
    bars = bars.join(
        refused_bars(sources.tables["quarantine"]), left_on="ts", right_on="bar", how="left", maintain_order="left"
    )
    forced = ("liqs", "liq_long_usd", "liq_short_usd")
    return bars.with_columns(
        *_zero_since(sources.first_seen.get("liquidations"), forced),
        *(pl.col(name).fill_null(0) for name in ("rows_refused", "book_rows_crossed", "book_rows_frozen")),
    )


def minute_grid(start: datetime, end: datetime) -> pl.LazyFrame:
    """Every bar end in (start, end], as column `ts`."""
    step = timedelta(seconds=BAR_S)
    ends = pl.datetime_range(start, end, step, time_unit="us", time_zone="UTC", eager=True)
    return pl.LazyFrame({"ts": ends}).with_columns(bar_end("ts")).filter(pl.col("ts") > start, pl.col("ts") <= end)


def symbol_bars(venue: str, symbol: str, sources: Sources, start: datetime, end: datetime) -> pl.LazyFrame:
    """Bars of one symbol with `ts` in (start, end], columns and types of `Bars`; a row for every minute of the span."""
    carry_in = timedelta(seconds=MAX_AGE_S["trades"])
    bars = minute_grid(start - carry_in, end).with_columns(venue=pl.lit(venue), symbol=pl.lit(symbol))
    for step in (_with_trades, _with_book, _with_slow_series, _with_forced_and_refused):
        bars = step(bars, sources)
    known = pl.max_horizontal("ts", "trades_known_at", "book_known_at", "liqs_known_at")
    schema = polars_schema(Bars)
    return (
        bars.with_columns(known_at=known)
        .filter(pl.col("ts") > start, pl.col("ts") <= end)
        .select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    )
