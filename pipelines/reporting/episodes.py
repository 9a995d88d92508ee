"""Alert episodes of the interval: when each began, how long it lasted, what was seen first, how far it went."""

from datetime import timedelta
from typing import Any

import polars as pl

from models.thresholds import episodes
from pipelines.reporting import words
from pipelines.reporting.gather import KEY, Material
from pipelines.times import Interval

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "venue": pl.String, "symbol": pl.String, "start": pl.Datetime("us", "UTC"), "end": pl.Datetime("us", "UTC"),
    "alerts": pl.UInt32, "open": pl.Boolean, "lead_family": pl.String, "reasons": pl.String, "ratio_max": pl.Float64,
}  # fmt: skip


def alert_episodes(alerts: pl.DataFrame, interval: Interval, refractory_min: int) -> pl.DataFrame:
    """Episodes that touch `interval`, by start: `SCHEMA`.

    Alerts of one symbol closer than `refractory_min` are one episode; it is `open` while a next alert would still
    belong to it at the end of the interval. `lead_family` and `reasons` are those of its first minute,
    `ratio_max` the largest anomaly over its threshold.
    """
    parts = [
        episodes(part, refractory_min).with_columns(venue=pl.lit(venue))
        for (venue,), part in alerts.partition_by("venue", as_dict=True).items()
    ]
    if not parts:
        return pl.DataFrame(schema=SCHEMA)
    ratio = pl.col("anomaly") / pl.col("anomaly_threshold")
    each = alerts.select(*KEY, "ts", "lead_family", "reasons", ratio=ratio).sort("ts")
    found = pl.concat(parts).sort("start")
    found = found.join(each.drop("ratio"), left_on=[*KEY, "start"], right_on=[*KEY, "ts"], how="left")
    worst = (
        each.join_asof(
            found.select(*KEY, "start"), left_on="ts", right_on="start", by=list(KEY), check_sortedness=False
        )
        .group_by(*KEY, "start")
        .agg(ratio_max=pl.col("ratio").max())
    )
    still = pl.col("end") > interval.end - timedelta(minutes=refractory_min)
    touching = found.join(worst, on=[*KEY, "start"], how="left").filter(pl.col("end") > interval.start)
    marked = touching.with_columns(open=still)
    return marked.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).sort("start", *KEY)


def episode_rows(found: pl.DataFrame, material: Material) -> list[dict[str, Any]]:
    """The rows of the table, one per episode."""
    return [
        {
            "start": words.moment(row["start"]),
            "end": words.until(row["start"], row["end"]),
            "open": row["open"],
            "before": row["start"] <= material.interval.start,
            "venue": row["venue"],
            "symbol": row["symbol"],
            "whole_venue": row["symbol"] == "*",
            "minutes": words.whole(row["alerts"]),
            "lead": words.spaced(row["lead_family"] or "", words.FAMILIES) or words.NOTHING,
            "reasons": words.reasons(row["reasons"]),
            "ratio_max": words.times(row["ratio_max"]),
        }
        for row in found.to_dicts()
    ]
