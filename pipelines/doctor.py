"""`doctor`: what the lake holds, what was refused and why, and what looks wrong in what was taken."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features.schema import CANONICAL, VENUE_WIDE
from pipelines.doctoring.checks import examined
from pipelines.doctoring.evidence import Evidence, survey
from pipelines.doctoring.findings import SEVERITIES, clock, lasting
from pipelines.doctoring.latency import latency_counts, percentiles
from pipelines.doctoring.trade_ids import missing_ids
from pipelines.errors import InputError
from pipelines.lake import Lake

SAID_MAX = 2  # symbols told in full per check, table and venue; the others are named, and in the JSON whole


@dataclass(frozen=True)
class DoctorSummary:
    """`tables` has a row per table and venue; `findings` those of every check, the worst first."""

    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    tables: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    trade_ids: list[dict[str, Any]]
    findings: list[dict[str, Any]]


def gather_evidence(lake: Lake) -> Evidence:
    """Every canonical table that the lake holds and that has time stamps, surveyed."""
    held = [name for name in CANONICAL if lake.has(name) and "ts" in CANONICAL[name].column_names()]
    instruments = lake.scan("instruments").collect()
    return survey({name: lake.scan(name) for name in held}, instruments, lake.scan("quarantine"))


def _symbols(table: str, rows: pl.LazyFrame) -> pl.DataFrame:
    """`table, venue, symbols`: how many symbols (of collateral: assets) a venue has there."""
    thing = "symbol" if "symbol" in rows.collect_schema() else "asset"
    counted = rows.group_by("venue").agg(symbols=pl.col(thing).n_unique().cast(pl.Int64))
    return counted.select(pl.lit(table).alias("table"), "venue", "symbols").collect(engine="streaming")


def table_rows(evidence: Evidence) -> pl.DataFrame:
    """Per table and venue: rows, symbols, span, gaps and stale spells, the longest of them, latency percentiles."""
    by = ["table", "venue"]
    things = [_symbols(name, rows) for name, rows in evidence.tables.items()]
    spans = evidence.days.group_by(by).agg(pl.col("rows").sum(), pl.col("first").min(), pl.col("last").max())
    gaps = evidence.gaps.group_by(by).agg(gaps=pl.len().cast(pl.Int64), gap_longest_s=pl.col("gap_s").max())
    refused = evidence.quarantine.filter(pl.col("reason").str.contains("duplicate_key")).group_by(by)
    repeats = refused.agg(duplicates_refused=pl.len().cast(pl.Int64)).collect(engine="streaming")
    late = (
        percentiles(latency_counts(evidence))
        .drop("rows")
        .rename(lambda name: name if name in by else f"latency_{name}")
    )
    joined = spans
    for more in (pl.concat(things), gaps, repeats, late):
        joined = joined.join(more, on=by, how="left")
    counts = pl.col("gaps", "duplicates_refused", "latency_negative").fill_null(0)
    return joined.with_columns(counts).select(*by, "rows", "symbols", pl.exclude(*by, "rows", "symbols")).sort(by)


def _quarantine(lake: Lake) -> list[dict[str, Any]]:
    """Refused rows by table, venue, symbol and reason, with the span they were refused in."""
    by = ["table", "venue", "symbol", "reason"]
    spans = (
        lake.scan("quarantine")
        .group_by(by)
        .agg(
            rows=pl.len().cast(pl.Int64),
            first=pl.col("ts").min(),
            last=pl.col("ts").max(),
            source=pl.col("source").first(),
        )
    )
    return spans.sort(by).collect().to_dicts()


def examine(lake: Lake) -> DoctorSummary:
    """Look at every canonical table with every check. Raises InputError for an empty lake."""
    if not lake.has("ingest_log"):
        raise InputError("the lake is empty", where=lake.root, mend="run `cascadeguard ingest` first")
    log = lake.scan("ingest_log").select(pl.col("rows_read", "rows_accepted", "rows_quarantined").sum()).collect()
    read, accepted, quarantined = (int(value) for value in log.row(0))

    evidence = gather_evidence(lake)
    trades = evidence.rows("trades")
    ids = [] if trades is None else missing_ids(trades).to_dicts()
    found = examined(evidence).to_dicts()

    return DoctorSummary(read, accepted, quarantined, table_rows(evidence).to_dicts(), _quarantine(lake), ids, found)


# --- in words --------------------------------------------------------------------------------------------------------


def _span(first: datetime | None, last: datetime | None) -> str:
    return f"{clock(first)} .. {clock(last)}"


def _latency(row: dict[str, Any]) -> str:
    if row["latency_p50_ms"] is None:
        return ""
    said = [lasting(row[f"latency_{name}_ms"] / 1000) for name in ("p50", "p95", "p99", "max")]
    return f"; latency p50 {said[0]}, p95 {said[1]}, p99 {said[2]}, max {said[3]}"


def _table(row: dict[str, Any]) -> str:
    gaps = f"; {row['gaps']:,} gaps, the longest {lasting(row['gap_longest_s'])}" if row["gaps"] else "; no gap"
    repeats = f"; {row['duplicates_refused']:,} duplicates refused" if row["duplicates_refused"] else ""
    return (
        f"  {row['table']:<14} {row['venue']:<16} {row['rows']:>12,} rows {row['symbols']:>4} symbols  "
        f"{_span(row['first'], row['last'])}{gaps}{repeats}{_latency(row)}"
    )


def _finding(row: dict[str, Any]) -> str:
    return (
        f"  {row['check']}: {row['table']} {row['venue'] or '?'} {row['symbol'] or '?'}: {row['what']}; {row['mend']}"
    )


def _findings(found: list[dict[str, Any]]) -> list[str]:
    """Findings by severity; of one check, table and venue the first symbols in full, the others by name."""
    lines: list[str] = []
    for severity in SEVERITIES:
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in found:
            if row["severity"] == severity:
                groups.setdefault((row["check"], row["table"], row["venue"]), []).append(row)
        lines += [f"{severity}s:"] * bool(groups)
        for (check, table, venue), rows in groups.items():
            lines += [_finding(row) for row in rows[:SAID_MAX]]
            more = sorted({row["symbol"] or "?" for row in rows[SAID_MAX:]})
            where = f"{len(rows) - SAID_MAX} more spans" if more == [VENUE_WIDE] else ", ".join(more)
            lines += [f"  {check}: {table} {venue or '?'}: the like in {where}"] * bool(more)
    return lines or ["nothing looks wrong"]


def doctor_sentence(found: DoctorSummary) -> str:
    """What `examine` found, for a terminal."""
    first = f"{found.rows_read:,} rows read = {found.rows_accepted:,} accepted + {found.rows_quarantined:,} quarantined"
    return "\n".join([first, *(_table(row) for row in found.tables), *_findings(found.findings)])
