"""Candles without volume."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import Severity, clock, finding, findings, lasting, share

# The share of empty candles of a liquid perpetual is nil. Three in a row are not chance even where 1 in 50 is empty
# (1 in 125,000), so such a run is an outage of the venue or the archive.
RUN_MIN = 3


def _runs(empty: pl.DataFrame, interval_s: int) -> pl.DataFrame:
    """`first, last, candles` of neighbouring empty candles."""
    step = pl.duration(seconds=interval_s)
    ordered = empty.sort("ts").with_columns(run=((pl.col("ts").diff() > step).fill_null(True)).cum_sum())
    runs = ordered.group_by("run").agg(first=pl.col("ts").min(), last=pl.col("ts").max(), candles=pl.len())
    return runs.sort("first")


def empty_candles(evidence: Evidence) -> pl.DataFrame:
    """Candles with volume 0 per series and interval: how many, and the longest run of them.

    Suspicion if three or more stand in a row (an outage is drawn as calm), else a note. Blind to outages that an
    archive leaves out (see `silences`).
    """
    candles = evidence.rows("candles")
    if candles is None:
        return findings([])
    by = ["venue", "symbol", "interval_s"]
    totals = candles.group_by(by).agg(total=pl.len().cast(pl.Int64)).collect(engine="streaming")
    empty = candles.filter(~(pl.col("volume") > 0)).select(*by, "ts").collect(engine="streaming")
    rows = []
    for row in totals.sort(by).iter_rows(named=True):
        mine = empty.filter(pl.col(name) == row[name] for name in by)
        if mine.is_empty():
            continue
        runs = _runs(mine, row["interval_s"])
        worst = runs.sort("candles", "first").row(-1, named=True)
        part = share(mine.height, row["total"])
        what = (
            f"{mine.height:,} of {row['total']:,} {lasting(row['interval_s'])} candles ({part}) have no volume, the "
            f"longest run {worst['candles']} at {clock(worst['first'])}"
        )
        key, span = (row["venue"], row["symbol"]), (mine["ts"].min(), mine["ts"].max())
        mend = "nobody traded or nothing was recorded: do not read a calm market from them"
        severity: Severity = "suspicion" if worst["candles"] >= RUN_MIN else "note"
        rows.append(
            finding(severity, "zero-volume candles", "candles", key, span, rows=mine.height, what=what, mend=mend)
        )
    return findings(rows)
