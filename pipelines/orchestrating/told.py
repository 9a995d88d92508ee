"""What the lake holds of each hour, as facts that stand beside a partition."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import polars as pl

from pipelines.lake import Lake
from pipelines.times import Interval

STEPS = ("bars", "features", "scores", "decisions")  # tables that are assets, in the order of data
TRIPS_MAX = 20  # sentences of breakers that an hour repeats
Facts: TypeAlias = "Mapping[str, float | str]"  # by what they are called


def _by_hour(lake: Lake, table: str, venue: str, span: Interval) -> pl.LazyFrame:
    """The rows of `span` with the start of the hour `(start, start + 1 h]` that holds them."""
    start = pl.col("ts").dt.offset_by("-1us").dt.truncate("1h")
    return lake.scan(table, venue, span.start, span.end).with_columns(hour=start)


def _counted(rows: pl.LazyFrame, *more: pl.Expr) -> dict[datetime, dict[str, int]]:
    found = rows.group_by("hour").agg(pl.len().cast(pl.Int64).alias("rows"), *more).collect()
    return {row.pop("hour"): row for row in found.to_dicts()}


def _trips(decisions: pl.LazyFrame) -> dict[datetime, list[str]]:
    """`minute entity rule: reason` of every breaker that opened, by hour."""
    began = (pl.col("state_after") == "open") & pl.col("state_before").ne_missing("open")
    opened = decisions.filter(began).sort("ts", "entity")
    minute = pl.col("ts").dt.strftime("%H:%M")
    said = pl.format("{} {} {}: {}", minute, "entity", "rule", pl.col("reason").fill_null("no reason given"))
    found = opened.select("hour", said=said).group_by("hour", maintain_order=True).agg("said").collect()
    return dict(found.iter_rows())


def facts_of(lake: Lake, venue: str, span: Interval) -> dict[str, dict[datetime, Facts]]:
    """Per step, and per hour of `span` that holds any of its rows: rows, and what else a desk asks of that step."""
    symbols, alerts = pl.col("symbol").n_unique().cast(pl.Int64).alias("symbols"), pl.col("alert").sum().cast(pl.Int64)
    decided = _by_hour(lake, "decisions", venue, span)
    limits = _counted(_by_hour(lake, "limits", venue, span))
    decisions, trips = _counted(decided), _trips(decided)
    return {
        "bars": {**_counted(_by_hour(lake, "bars", venue, span), symbols)},
        "features": {**_counted(_by_hour(lake, "features", venue, span))},
        "scores": {**_counted(_by_hour(lake, "scores", venue, span), alerts.alias("alert minutes"))},
        "decisions": {
            hour: {
                "rows": decisions.get(hour, {}).get("rows", 0),
                "symbol minutes with limits": limits[hour]["rows"],
                "breakers opened": len(trips.get(hour, [])),
                "tripped": listed(trips.get(hour, [])),
            }
            for hour in limits
        },
    }


def listed(lines: list[str]) -> str:
    """Lines as a list in markdown; what a venue or a file wrote into them stays text.

    >>> listed(["05:01 <b> price_band: fell"]), listed([])
    ('- `05:01 <b> price_band: fell`', 'none')
    """
    shown = [f"- `{' '.join(line.replace('`', ' ').split())}`" for line in lines[:TRIPS_MAX]]
    more = [f"- and {len(lines) - TRIPS_MAX} more"] if len(lines) > TRIPS_MAX else []
    return "\n".join([*shown, *more]) or "none"
