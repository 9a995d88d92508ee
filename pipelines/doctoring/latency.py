"""Latency: `known_at - ts`, its percentiles, negative ones, and spells in which it grows."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, lasting, share

LATENCY = pl.Schema(
    {"table": pl.String(), "venue": pl.String(), "rows": pl.Int64(), "negative": pl.Int64()}
    | {f"{name}_ms": pl.Float64() for name in ("min", "p50", "p95", "p99", "max")}
)
NEGATIVE_MS = 1.0  # clocks kept by network time differ by less than this
LATE_MS = 1000.0  # a capture that is a second late is late for a one-minute bar at its edge ...
LATE_TIMES = 10.0  # ... if it is also ten times the usual: an archive that always publishes later is not late


def _counted(table: str, rows: pl.LazyFrame) -> pl.DataFrame:
    """How many rows of each venue have which latency, in whole milliseconds."""
    latency = (pl.col("known_at") - pl.col("ts")).dt.total_microseconds()
    counted = rows.group_by("venue", ms=(latency / 1000).floor().cast(pl.Int64)).agg(
        rows=pl.len().cast(pl.Int64), first=pl.col("ts").min(), last=pl.col("ts").max()
    )
    return counted.with_columns(table=pl.lit(table)).collect(engine="streaming")


def _quantile(share_of: float) -> pl.Expr:
    reached = pl.col("below") >= (share_of * pl.col("rows").sum()).ceil()
    return pl.col("ms").filter(reached).min().cast(pl.Float64)


def latency_counts(evidence: Evidence) -> pl.DataFrame:
    """`table, venue, ms, rows, first, last` of every table that has `known_at`."""
    held = [_counted(name, rows) for name, rows in evidence.tables.items() if "known_at" in rows.collect_schema()]
    empty = {"venue": pl.String(), "ms": pl.Int64(), "rows": pl.Int64()}
    ends = dict.fromkeys(("first", "last"), evidence.days.schema["first"]) | {"table": pl.String()}
    return pl.concat([pl.DataFrame(schema=empty | ends), *held])


def percentiles(counts: pl.DataFrame) -> pl.DataFrame:
    """Percentiles of `known_at - ts` per table and venue, in milliseconds, rounded down to whole ones."""
    ordered = counts.sort("table", "venue", "ms").with_columns(
        below=pl.col("rows").cum_sum().over("table", "venue", order_by="ms")
    )
    found = ordered.group_by("table", "venue").agg(
        pl.col("rows").sum(),
        pl.col("rows").filter(pl.col("ms") < -NEGATIVE_MS).sum().alias("negative"),
        min_ms=pl.col("ms").min().cast(pl.Float64),
        p50_ms=_quantile(0.5),
        p95_ms=_quantile(0.95),
        p99_ms=_quantile(0.99),
        max_ms=pl.col("ms").max().cast(pl.Float64),
    )
    return found.select(LATENCY.names()).cast(dict(LATENCY)).sort("table", "venue")  # type: ignore[arg-type]  # a schema is a mapping


def _row(counts: pl.DataFrame, row: dict[str, float], venue: str, table: str) -> dict[str, object] | None:
    key = venue, "*"
    if row["negative"]:
        early = counts.filter(pl.col("ms") < -NEGATIVE_MS)
        what = (
            f"{int(row['negative']):,} rows ({share(row['negative'], row['rows'])}) were known before they happened: "
            f"median latency {lasting(row['p50_ms'] / 1000)}, lowest {lasting(row['min_ms'] / 1000)}; the capture "
            "clock was behind the venue's"
        )
        mend = "joins take the later of ts and known_at; set the capture clock by network time"
        span = early["first"].min(), early["last"].max()
        return finding("defect", "negative latency", table, key, span, rows=int(row["negative"]), what=what, mend=mend)
    limit_ms = max(LATE_MS, LATE_TIMES * row["p50_ms"])
    late = counts.filter(pl.col("ms") > limit_ms)
    if late.is_empty():
        return None
    worst = late.sort("ms").row(-1, named=True)
    rows = int(late["rows"].sum())
    what = (
        f"{rows:,} rows ({share(rows, row['rows'])}) were known more than {lasting(limit_ms / 1000)} after they "
        f"happened, the usual is {lasting(row['p50_ms'] / 1000)}; the worst {lasting(worst['ms'] / 1000)} at "
        f"{clock(worst['first'])}"
    )
    mend = "trust `known_at`: what came late was not known in time"
    span = late["first"].min(), late["last"].max()
    return finding("suspicion", "late capture", table, key, span, rows=rows, what=what, mend=mend)


def latencies(evidence: Evidence) -> pl.DataFrame:
    """Rows known before they happened (`known_at < ts - 1 ms`), and rows known `max(1 s, 10 * median)` after.

    Per table and venue. Blind where an archive carries no capture stamp and `known_at` is made from `ts`.
    """
    counts = latency_counts(evidence)
    rows = []
    for row in percentiles(counts).iter_rows(named=True):
        mine = counts.filter(pl.col("table") == row["table"], pl.col("venue") == row["venue"])
        rows.append(_row(mine, row, row["venue"], row["table"]))
    return findings([row for row in rows if row is not None])
