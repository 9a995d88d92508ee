"""Counts of liquidations and auto-deleveragings by second, as published analyses of Hyperliquid's fills hold them.

    {"event_start": "2025-10-10T21:15:03.127372+00:00",
     "timeline": [{"second": 0, "liquidations": 104, "adls": 0}, ...]}

`second` s stands for `[event_start + s, event_start + s + 1 s)`: known at its end. No dollars and no symbols are told.
"""

from collections.abc import Sequence

import polars as pl

from features.schema import VENUE_WIDE
from pipelines.adapters.adapter import Batch, Kind, Origin, candidates, each, plausible, reasons
from pipelines.adapters.json_text import TEXT, decoded
from pipelines.adapters.rows import JsonDocument

VENUE = "hyperliquid"
RECORD = {"second": TEXT, "liquidations": TEXT, "adls": TEXT}
SECONDS_MAX = 86_400 * 366


def _start(head: pl.Series) -> pl.Expr:
    """The document's `event_start`, null where it is no moment with an offset."""
    told = decoded(pl.DataFrame({"line": [1], "text": head.head(1)}), {"event_start": TEXT})["event_start"]
    moment = told.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    return pl.lit(moment.first(), pl.Datetime("us", "UTC"))


def counts(piece: pl.DataFrame, origin: Origin) -> Batch:
    """One row a second of the timeline: ts = event_start + second + 1 s, interval_s = 1, symbol `*`."""
    read = decoded(piece.select("line", pl.col("raw").alias("text")), RECORD)
    whole = [pl.col(name).cast(pl.Int64, strict=False).alias(name) for name in RECORD]
    second = pl.col("second")
    inside = pl.when(second.is_between(0, SECONDS_MAX)).then(second)
    stamped = read.with_columns(whole).with_columns(
        plausible(_start(piece["head"]) + pl.duration(seconds=inside + 1)).alias("ts")
    )
    rows = stamped.with_columns(
        pl.lit(VENUE if origin.venue is None else origin.venue).alias("venue"),
        pl.lit(VENUE_WIDE).alias("symbol"),
        pl.col("ts").alias("known_at"),
        pl.lit(1, pl.Int32).alias("interval_s"),
    )
    reason = reasons(
        ("unreadable_json", ~pl.col("broken")),
        ("unreadable_ts", pl.col("ts").is_not_null() | pl.col("broken")),
        ("unreadable_count", (pl.col("liquidations") >= 0) & (pl.col("adls") >= 0) | pl.col("broken")),
    )
    return {"liquidation_counts": candidates("liquidation_counts", rows, reason)}


def _recognises(_: str, fields: Sequence[str]) -> bool:
    return {"event_start", "timeline"} <= set(fields)


COUNTS = Kind("counts", ("liquidation_counts",), JsonDocument("timeline"), _recognises, each(counts))
