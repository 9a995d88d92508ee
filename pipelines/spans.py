"""From when to when the lake holds each symbol of a table, without opening the same files at every step.

The log of a table tells symbols apart only where a file holds one alone. Files of several are opened once and what they
hold is kept, by partition, in `L/spans/<table>.parquet`: a copy that may be deleted at any time. Files are never
changed, so a partition's spans hold for as long as its files are still there; new ones are added, and where one is gone
(merged, replaced, dropped) the partition is read again.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl

from features.schema import UTC_US
from pipelines.lake import Lake

SPANS = pl.Schema({"venue": pl.String(), "symbol": pl.String(), "first": UTC_US, "last": UTC_US})
KEPT = pl.Schema({"partition": pl.String(), "path": pl.String(), **SPANS})  # a row is a file, or the span of a symbol


def symbol_spans(lake: Lake, table: str, venue: str | None = None) -> pl.DataFrame:
    """`venue, symbol, first, last` of the rows of `table`; a symbol may have several rows. Sorted by nothing."""
    files = lake.files(table)
    files = files if venue is None else files.filter(pl.col("venue") == venue)
    alone = (pl.col("symbol_min") == pl.col("symbol_max")).fill_null(value=False)
    told = files.filter(alone).select("venue", symbol="symbol_min", first="ts_min", last="ts_max")
    return pl.concat([told.cast(SPANS), _of_mixed(lake, table, files.filter(~alone))])


def _of_mixed(lake: Lake, table: str, files: pl.DataFrame) -> pl.DataFrame:
    if files.is_empty():
        return pl.DataFrame(schema=SPANS)
    kept = _read(_path(lake, table))
    parts = list(_brought_up_to_date(lake, table, files, kept))
    now = pl.concat([part for part, _ in parts])
    if any(changed for _, changed in parts):
        others = kept.join(files.select("venue", "partition").unique(), on=["venue", "partition"], how="anti")
        _write(_path(lake, table), pl.concat([others, now]))
    return now.filter(pl.col("symbol").is_not_null()).select(SPANS.names())


def _brought_up_to_date(
    lake: Lake, table: str, files: pl.DataFrame, kept: pl.DataFrame
) -> Iterator[tuple[pl.DataFrame, bool]]:
    """The rows to keep of every partition, and whether they are others than those that were kept."""
    for (venue, partition), group in files.partition_by("venue", "partition", as_dict=True).items():
        known = kept.filter(pl.col("venue") == venue, pl.col("partition") == partition)
        seen = set(known["path"].drop_nulls())
        if not seen <= set(group["path"]):
            known, seen = known.clear(), set()
        new = group.filter(~pl.col("path").is_in(list(seen)))
        yield (_with(lake, table, known, new), True) if new.height else (known, False)


def _with(lake: Lake, table: str, known: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    rows = lake.scan_files(table, new).select("venue", "symbol", first="ts", last="ts")
    read = rows.group_by("venue", "symbol").agg(pl.col("first").min(), pl.col("last").max()).collect()
    spans = pl.concat([known.filter(pl.col("symbol").is_not_null()).select(SPANS.names()), read.cast(SPANS)])
    merged = spans.group_by("venue", "symbol").agg(pl.col("first").min(), pl.col("last").max())
    told = merged.with_columns(partition=pl.lit(new["partition"][0]))
    paths = pl.concat([known.filter(pl.col("path").is_not_null()).select("venue", "partition", "path"),
                       new.select("venue", "partition", "path")])  # fmt: skip
    return pl.concat([pl.DataFrame(schema=KEPT), paths, told], how="diagonal_relaxed").select(KEPT.names())


def _path(lake: Lake, table: str) -> Path:
    return lake.root / "spans" / f"{table}.parquet"


def _read(path: Path) -> pl.DataFrame:
    """The copy; nothing where there is none, or none that can be read."""
    try:
        found = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):
        return pl.DataFrame(schema=KEPT)
    return found if found.schema == KEPT else pl.DataFrame(schema=KEPT)


def _write(path: Path, rows: pl.DataFrame) -> None:
    """Keep the copy if that can be done: a full disk, or a lake that may only be read, costs time later on."""
    with suppress(OSError, pl.exceptions.PolarsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        rows.write_parquet(beside)
        beside.replace(path)
