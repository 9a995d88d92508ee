"""The funding interval, where a file holds settlements but does not say how far they lie apart."""

import polars as pl

from features.schema import UTC_US

INTERVALS_H = (1.0, 2.0, 4.0, 8.0)  # what venues use; any other gap is a hole in the file
US_PER_HOUR = 3_600_000_000
MEMORY = pl.Schema(
    {"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US, "gap_h": pl.Float64(), "interval_h": pl.Float64()}
)


def with_interval_h(rows: pl.DataFrame, memory: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add `interval_h` to rows with `venue, symbol, ts`, and the memory for the rows that follow.

        gap[t] = round((ts[t] - ts[before]) / 1 h)            per venue and symbol, in time order
        interval_h[t] = gap[t] if it is in INTERVALS_H and (gap[t] <= gap[before] or gap[t] == gap[after])
                        else interval_h[before]

    A gap that grows for one row alone is a hole in the file, not an interval. A market's first row takes the next
    row's. Null where no gap is an interval, or `ts` is null. `memory` is the last row of every market so far (schema
    MEMORY, empty at the start). Rows keep their order.
    """
    market = ("venue", "symbol")
    placed = rows.with_row_index("_place")
    dated = placed.filter(pl.col("ts").is_not_null()).select("_place", *market, "ts")
    ordered = pl.concat([memory, dated], how="diagonal").sort("ts", maintain_order=True)
    gap_h = (pl.col("ts").diff().over(market).dt.total_microseconds() / US_PER_HOUR).round()
    measured = ordered.with_columns(pl.coalesce("gap_h", pl.when(gap_h > 0).then(gap_h)).alias("gap_h"))
    accepted = measured.with_columns(pl.coalesce("interval_h", _accepted(market)).alias("interval_h"))
    filled = accepted.with_columns(pl.col("interval_h").forward_fill().backward_fill().over(market))
    found = filled.filter(pl.col("_place").is_not_null()).select("_place", "interval_h")
    joined = placed.join(found, on="_place", how="left", maintain_order="left").drop("_place")
    return joined, filled.group_by(market, maintain_order=True).last().select(MEMORY.names())


def _accepted(market: tuple[str, str]) -> pl.Expr:
    """The gap where it is an interval, else null."""
    gap = pl.col("gap_h")
    before, after = gap.shift(1).over(market), gap.shift(-1).over(market)
    steady = (before.is_null() | (gap <= before) | (gap == after)).fill_null(False)
    return pl.when(gap.is_in(INTERVALS_H) & steady).then(gap)
