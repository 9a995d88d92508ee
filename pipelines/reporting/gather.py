"""Reads what the report needs from the lake, aggregated where the page shows aggregates. Nothing is judged here."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from guardrails.ladder import ACTIONS
from models.scores import INPUT_TABLES
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.reporting.coverage import Coverage, gather_coverage
from pipelines.times import Interval, show_time

KEY = ("venue", "symbol")
REFERENCE_STATUS = "reference period"  # how the status of a score begins where the detector learns
FEED_AGES = {"trades": "trade_age_s", "book depth": "depth_age_s", "mark": "mark_age_s", "index": "index_age_s"}


@dataclass(frozen=True)
class Material:
    """Everything the page is made of, for `venues` in `interval`; every frame has its columns even when empty.

    `alerts` and `decisions` reach back before the interval, because what is in force at its end may have begun there.
    """

    venues: tuple[str, ...]
    interval: Interval
    scores: pl.DataFrame  # every minute: venue, symbol, ts, anomaly, anomaly_threshold, p_15m, p_60m, p_threshold
    last_scores: pl.DataFrame  # the last row of every symbol, whole
    provenance: pl.DataFrame  # per venue: addresses of the models, reference period, thresholds
    alerts: pl.DataFrame  # every alerting minute up to the end of the interval
    limits: pl.DataFrame  # every minute: venue, symbol, ts, severity
    last_limits: pl.DataFrame  # the last row of every symbol, whole
    policies: pl.DataFrame  # policy_version, policy_sha256 in force during the interval
    decisions: pl.DataFrame  # every change up to the end of the interval
    accounts: pl.DataFrame  # account decisions of the last snapshot, per venue
    prices: pl.DataFrame  # every minute: venue, symbol, ts, price (mark, else last trade), index
    health: pl.DataFrame  # per symbol: minutes, minutes with each input, worst delays and ages
    gaps: pl.DataFrame  # minutes in which trade ids are missing
    refused: pl.DataFrame  # quarantined rows by venue, symbol, table and reason
    coverage: Coverage  # when each canonical table of each symbol has rows, is silent, frozen or refused
    ingest: pl.DataFrame  # rows read, accepted, quarantined by table and adapter, over the whole lake


def _held(lake: Lake) -> pl.DataFrame:
    """`table, venue, first, last` of the tables the report stands on."""
    spans = [
        lake.scan(table)
        .group_by("venue")
        .agg(first=pl.col("ts").min(), last=pl.col("ts").max())
        .select(pl.lit(table).alias("table"), "venue", "first", "last")
        for table in ("scores", "limits")
    ]
    return pl.concat(spans).collect().sort("table", "venue")


def _whole_span(held: pl.DataFrame) -> Interval:
    """From one minute before the first score to the last; of the limits where nothing was scored."""
    scored = held.filter(pl.col("table") == "scores")
    first, last = (scored if scored.height else held).select(pl.col("first").min(), pl.col("last").max()).row(0)
    return Interval(first - timedelta(minutes=1), last)


def scope(lake: Lake, venue: str | None, interval: Interval | None) -> tuple[tuple[str, ...], Interval]:
    """The venues and the interval to report: those chosen, else all that has scores or limits.

    Raises InputError where there is neither in the lake, of the venue, or in the interval.
    """
    held = _held(lake)
    if held.is_empty():
        raise InputError(
            "there is nothing to report, the lake holds neither scores nor limits",
            where=lake.root,
            mend="run `cascadeguard score` and `cascadeguard guard` first",
        )
    known = ", ".join(held["venue"].unique().sort())
    chosen = held if venue is None else held.filter(pl.col("venue") == venue)
    if chosen.is_empty():
        raise InputError(
            "the lake holds neither scores nor limits of this venue", where=venue, mend=f"it holds: {known}"
        )
    span = _whole_span(chosen) if interval is None else interval
    inside = chosen.filter(pl.col("last") > span.start, pl.col("first") <= span.end)
    if inside.is_empty():
        raise InputError(
            "the lake holds neither scores nor limits in this interval",
            where=span,
            mend=f"it holds {show_time(chosen['first'].min())} to {show_time(chosen['last'].max())}",  # type: ignore[arg-type]  # times: not empty
        )
    return tuple(inside["venue"].unique().sort()), span


def _last_rows(rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.sort("ts").group_by(KEY).last().collect().sort(KEY)


def _provenance(scores: pl.LazyFrame) -> pl.DataFrame:
    learned = pl.col("status").str.starts_with(REFERENCE_STATUS)
    whole = pl.col("symbol") == "*"
    return (
        scores.group_by("venue")
        .agg(
            detectors=pl.col("detector_uri").drop_nulls().unique().sort(),
            models=pl.col("model_uri").drop_nulls().unique().sort(),
            thresholds=pl.col("anomaly_threshold").filter(~whole).drop_nulls().unique().sort(),
            venue_thresholds=pl.col("anomaly_threshold").filter(whole).drop_nulls().unique().sort(),
            p_thresholds=pl.col("p_threshold").drop_nulls().unique().sort(),
            statuses=pl.col("status").unique().sort(),
            reference_start=pl.col("ts").filter(learned).min() - pl.duration(minutes=1),
            reference_end=pl.col("ts").filter(learned).max(),
        )
        .sort("venue")
        .collect()
    )


def _health(bars: pl.LazyFrame) -> pl.DataFrame:
    """Per symbol: minutes, per input the minutes that have it and the last of them, worst delay and worst ages."""
    seen = [pl.col(column).is_not_null().sum().alias(f"minutes:{table}") for table, column in INPUT_TABLES.items()]
    last = [
        pl.col("ts").filter(pl.col(column).is_not_null()).max().alias(f"last:{table}")
        for table, column in INPUT_TABLES.items()
    ]
    worst = {**{f"age:{feed}": column for feed, column in FEED_AGES.items()}, "latency": "latency_ms_max"}
    largest = [pl.col(column).max().alias(name) for name, column in worst.items()]
    when = [
        pl.col("ts").filter(pl.col(column) == pl.col(column).max()).first().alias(f"{name}:at")
        for name, column in worst.items()
    ]
    counts = [pl.col("trades").sum().alias("trades"), pl.col("trade_ids_missing").sum().alias("ids_missing")]
    return bars.group_by(KEY).agg(pl.len().alias("minutes"), *seen, *last, *largest, *when, *counts).collect().sort(KEY)


def _refused(lake: Lake, venues: tuple[str, ...], interval: Interval) -> pl.DataFrame:
    """Refused rows of the interval; rows whose time stamp could not be read count too. One row per single reason."""
    inside = (pl.col("ts") > interval.start) & (pl.col("ts") <= interval.end)
    ours = pl.col("venue").is_in(venues) | pl.col("venue").is_null()
    known = lake.scan("quarantine").filter(ours, inside | pl.col("ts").is_null())
    totals = known.group_by(*KEY, "table").agg(total=pl.len())
    each = known.select(*KEY, "table", "ts", pl.col("reason").str.split("; ")).explode("reason")
    counted = each.group_by(*KEY, "table", "reason").agg(
        rows=pl.len(), first=pl.col("ts").min(), last=pl.col("ts").max()
    )
    joined = counted.join(totals, on=[*KEY, "table"], nulls_equal=True).collect()
    return joined.sort("total", "rows", *KEY, "table", "reason", descending=[True, True, *[False] * 4])


def _ingest(lake: Lake) -> pl.DataFrame:
    counts = ("rows_read", "rows_accepted", "rows_quarantined")
    grouped = lake.scan("ingest_log").group_by("table", "adapter").agg(pl.len().alias("files"), pl.col(counts).sum())
    return grouped.collect().sort("table", "adapter")


def _accounts(rows: pl.LazyFrame) -> pl.DataFrame:
    newest = rows.filter(pl.col("ts") == pl.col("ts").max().over("venue")).collect()
    return newest.sort("excess_usd", "venue", "account", "symbol", descending=[True, False, False, False])


def gather(lake: Lake, venue: str | None, interval: Interval | None) -> Material:
    """Read everything the page shows. Raises InputError where there is nothing to show."""
    venues, span = scope(lake, venue, interval)

    def rows(table: str, start: datetime | None = span.start) -> pl.LazyFrame:
        return lake.scan(table, start=start, end=span.end).filter(pl.col("venue").is_in(venues))

    numbers = ("anomaly", "anomaly_threshold", "p_15m", "p_60m", "p_threshold")
    severity = pl.col("action").replace_strict(list(ACTIONS), list(range(len(ACTIONS))), return_dtype=pl.Int8)
    gap = pl.col("trade_ids_missing")
    return Material(
        venues=venues,
        interval=span,
        scores=rows("scores").select(*KEY, "ts", *numbers).collect().sort(*KEY, "ts"),
        last_scores=_last_rows(rows("scores")),
        provenance=_provenance(rows("scores")),
        alerts=rows("scores", None).filter("alert").collect().sort(*KEY, "ts"),
        limits=rows("limits").select(*KEY, "ts", severity=severity).collect().sort(*KEY, "ts"),
        last_limits=_last_rows(rows("limits")),
        policies=rows("limits").select("policy_version", "policy_sha256").unique().collect().sort(pl.all()),
        decisions=rows("decisions", None).collect().sort("ts", "venue", "entity", "rule"),
        accounts=_accounts(rows("account_decisions")),
        prices=rows("bars").select(*KEY, "ts", "index", price=pl.coalesce("mark", "close")).collect().sort(*KEY, "ts"),
        health=_health(rows("bars")),
        gaps=rows("bars").filter(gap > 0).select(*KEY, "ts", gap).collect().sort(*KEY, "ts"),
        refused=_refused(lake, venues, span),
        coverage=gather_coverage(lake, venues, span),
        ingest=_ingest(lake),
    )
