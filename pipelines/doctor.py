"""`doctor`: what the lake holds, what was refused and why, and what looks wrong in what was taken."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features.schema import CANONICAL
from pipelines.errors import InputError
from pipelines.lake import Lake


@dataclass(frozen=True)
class DoctorSummary:
    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    tables: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    trade_ids: list[dict[str, Any]]


def _tables(lake: Lake) -> list[dict[str, Any]]:
    """Rows, symbols and span of every canonical table and venue."""
    held = [name for name in CANONICAL if lake.has(name) and "ts" in CANONICAL[name].column_names()]
    found = []
    for name in held:
        rows = lake.scan(name)
        thing = "symbol" if "symbol" in rows.collect_schema().names() else "asset"
        spans = rows.group_by("venue").agg(
            rows=pl.len().cast(pl.Int64),
            symbols=pl.col(thing).n_unique().cast(pl.Int64),
            first=pl.col("ts").min(),
            last=pl.col("ts").max(),
        )
        found += spans.sort("venue").with_columns(table=pl.lit(name)).collect().to_dicts()
    return found


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


def _trade_ids(lake: Lake) -> list[dict[str, Any]]:
    """Symbols whose numeric trade ids have gaps: how many are missing, and in which hour most of them.

    Where more ids are missing than there are trades, the venue does not number each symbol by itself: left out.
    """
    trades = lake.scan("trades").select("venue", "symbol", "ts", number=pl.col("trade_id").cast(pl.Int64, strict=False))
    gaps = (
        trades.filter(pl.col("number").is_not_null())
        .sort("venue", "symbol", "number")
        .with_columns(
            missing=(pl.col("number").diff().over("venue", "symbol") - 1), hour=pl.col("ts").dt.truncate("1h")
        )
        .group_by("venue", "symbol", "hour")
        .agg(pl.col("missing").filter(pl.col("missing") > 0).sum(), rows=pl.len())
    )
    worst = pl.col("missing").arg_max()
    by_symbol = gaps.group_by("venue", "symbol").agg(
        pl.col("missing").sum().alias("ids_missing"),
        pl.col("rows").sum(),
        worst_hour=pl.col("hour").get(worst),
        worst_hour_missing=pl.col("missing").max(),
    )
    numbered = by_symbol.filter(pl.col("ids_missing") > 0, pl.col("ids_missing") <= pl.col("rows"))
    return numbered.sort("venue", "symbol").collect().to_dicts()


def examine(lake: Lake) -> DoctorSummary:
    """Look at every canonical table. Raises InputError for an empty lake."""
    log = lake.scan("ingest_log").select(pl.col("rows_read", "rows_accepted", "rows_quarantined").sum()).collect()
    if not lake.has("ingest_log"):
        raise InputError("the lake is empty", where=lake.root, mend="run `cascadeguard ingest` first")
    read, accepted, quarantined = (int(value) for value in log.row(0))
    return DoctorSummary(read, accepted, quarantined, _tables(lake), _quarantine(lake), _trade_ids(lake))


def _span(row: dict[str, Any]) -> str:
    def shown(moment: datetime | None) -> str:
        return "?" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"

    return f"{shown(row['first'])} .. {shown(row['last'])}"


def doctor_sentence(found: DoctorSummary) -> str:
    lines = [
        f"{found.rows_read:,} rows read = {found.rows_accepted:,} accepted + {found.rows_quarantined:,} quarantined"
    ]
    lines += [
        f"  {row['table']:<14} {row['venue']:<16} {row['rows']:>12,} rows {row['symbols']:>4} symbols  {_span(row)}"
        for row in found.tables
    ]
    lines += ["refused:"] * bool(found.quarantine)
    lines += [
        f"  {row['table']:<14} {row['symbol'] or '?':<16} {row['rows']:>12,} {row['reason']}  {_span(row)}"
        for row in found.quarantine
    ]
    lines += ["missing trade ids:"] * bool(found.trade_ids)
    lines += [
        f"  {row['venue']:<16} {row['symbol']:<16} {row['ids_missing']:>12,}, of them {row['worst_hour_missing']:,} "
        f"in the hour from {row['worst_hour']:%H:%MZ}"
        for row in found.trade_ids
    ]
    return "\n".join(lines)
