"""Stray rows: a handful far away in time from all the rest of their feed."""

from datetime import timedelta
from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, lasting, many

AWAY = timedelta(days=1)  # a day without a row of any symbol ends a recording
STRAY_SHARE = 0.001  # of the recording next to it: a recording of its own has more
STRAY_ROWS_MAX = 10


def stray_rows(evidence: Evidence) -> pl.DataFrame:
    """Groups of at most 10 rows, and at most 0.1 % of the nearest other group, a day or more away from it.

    A group is the rows of one venue and table, all symbols, without a silence of a day. Blind to strays within a day of
    the rest, and to a wrong stamp that falls inside the recording.
    """
    rows = []
    for held in evidence.days.partition_by("table", "venue", maintain_order=True):
        groups = _groups(held)
        for nth, row in enumerate(groups):
            others = [group for group in groups[max(nth - 1, 0) : nth + 2] if group is not row]
            if not others or row["rows"] > STRAY_ROWS_MAX:
                continue
            near = min(others, key=lambda other: max(other["first"] - row["last"], row["first"] - other["last"]))
            if row["rows"] <= STRAY_SHARE * near["rows"]:
                away = max(near["first"] - row["last"], row["first"] - near["last"]).total_seconds()
                what = (
                    f"{many(row['rows'], 'row')} at {clock(row['first'])}, {lasting(away)} away from the nearest "
                    f"{near['rows']:,} rows ({clock(near['first'])} to {clock(near['last'])})"
                )
                key, span = (held["venue"][0], "*"), (row["first"], row["last"])
                mend = "a wrong stamp or a leftover: leave it out of any span that is counted"
                rows.append(
                    finding(
                        "suspicion", "stray rows", held["table"][0], key, span, rows=row["rows"], what=what, mend=mend
                    )
                )
    return findings(rows)


def _groups(days: pl.DataFrame) -> list[dict[str, Any]]:
    """Recordings of a feed, from its rows per series and day; a day of silence ends one."""
    daily = days.group_by("day").agg(pl.col("first").min(), pl.col("last").max(), pl.col("rows").sum()).sort("day")
    begins = (pl.col("first") - pl.col("last").shift() >= AWAY).fill_null(True)
    groups = daily.with_columns(group=begins.cum_sum()).group_by("group", maintain_order=True)
    return groups.agg(pl.col("first").min(), pl.col("last").max(), pl.col("rows").sum()).drop("group").to_dicts()
