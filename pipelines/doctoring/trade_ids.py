"""Trade ids that are missing: a venue that numbers the trades of a symbol one by one gives every loss away."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, many, share

IDS = pl.Schema(
    {"venue": pl.String(), "symbol": pl.String(), "ids_missing": pl.Int64(), "rows": pl.Int64(),
     "worst_hour": pl.Datetime("us", "UTC"), "worst_hour_missing": pl.Int64()}
)  # fmt: skip


def missing_ids(trades: pl.LazyFrame) -> pl.DataFrame:
    """Per venue and symbol: numeric ids missing, trades, and the hour with most of them.

        reach[h]   = largest id up to the end of hour h
        missing[h] = reach[h] - reach[h - 1] - trades[h],   summed: largest - smallest + 1 - trades

    Needs no order within the hour. An id that arrives an hour late is missing in the one and negative in the other.
    Where more ids are missing than there are trades, the venue does not number each symbol by itself: left out.
    """
    numbered = trades.select("venue", "symbol", "ts", number=pl.col("trade_id").cast(pl.Int64, strict=False))
    hours = (
        numbered.filter(pl.col("number").is_not_null())
        .group_by("venue", "symbol", hour=pl.col("ts").dt.truncate("1h"))
        .agg(rows=pl.len().cast(pl.Int64), low=pl.col("number").min(), high=pl.col("number").max())
        .collect(engine="streaming")
        .sort("venue", "symbol", "hour")
    )
    by = ["venue", "symbol"]
    reach = pl.col("high").cum_max().over(by, order_by="hour")
    before = reach.shift().over(by, order_by="hour").fill_null(pl.col("low").min().over(by) - 1)
    counted = hours.with_columns(missing=reach - before - pl.col("rows"))
    found = counted.group_by(by).agg(
        ids_missing=pl.col("missing").sum(),
        rows=pl.col("rows").sum(),
        worst_hour=pl.col("hour").get(pl.col("missing").arg_max()),
        worst_hour_missing=pl.col("missing").max(),
    )
    kept = found.filter(pl.col("ids_missing") > 0, pl.col("ids_missing") <= pl.col("rows"))
    return kept.select(IDS.names()).sort(by)


def lost_trades(evidence: Evidence) -> pl.DataFrame:
    """Symbols whose numeric trade ids have gaps. Blind where ids are not numbers or count the whole venue."""
    trades = evidence.rows("trades")
    if trades is None:
        return findings([])
    rows = []
    for row in missing_ids(trades).iter_rows(named=True):
        part = share(row["ids_missing"], row["ids_missing"] + row["rows"])
        what = (
            f"{many(row['ids_missing'], 'trade id')} missing ({part} of the trades), "
            f"{share(row['worst_hour_missing'], row['ids_missing'])} of them in the hour from "
            f"{clock(row['worst_hour'])}"
        )
        mend = "volumes of that hour are lower bounds; fetch the day from another source"
        key, span = (row["venue"], row["symbol"]), (row["worst_hour"], row["worst_hour"])
        rows.append(
            finding("defect", "missing trade ids", "trades", key, span, rows=row["ids_missing"], what=what, mend=mend)
        )
    return findings(rows)
