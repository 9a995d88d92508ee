"""Steps `compact` and `retain`: fewer and ordered files, and no older days than wanted.

Both are one commit per table and partition, so that a run that is killed leaves every table whole; readers that are
under way keep their files until the sweep that ends the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from pipelines.errors import InputError
from pipelines.lake import MONTHLY, SCHEMAS, SYMBOL_ROWS_MIN, Lake, partition_columns, row_order
from pipelines.progress import Say, silent
from pipelines.times import show_time

ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class CompactSummary:
    files_before: int
    files_after: int
    files_swept: int

    def sentence(self) -> str:
        return (
            f"{self.files_before:,} files are now {self.files_after:,}; {self.files_swept:,} unreferenced files deleted"
        )


@dataclass(frozen=True)
class RetainSummary:
    rows_dropped: int
    files_dropped: int
    kept_from: dict[str, str]  # table -> first moment kept

    def sentence(self) -> str:
        kept = ", ".join(f"{table} from {moment}" for table, moment in self.kept_from.items())
        return f"{self.rows_dropped:,} rows in {self.files_dropped:,} files dropped; kept: {kept or 'everything'}"


def _crowded(files: pl.DataFrame) -> list[pl.DataFrame]:
    """The files of every venue, partition and symbol range that are more than one and so worth merging."""
    groups = files.partition_by("venue", "partition", maintain_order=True)
    return [group for group in groups if _worth_merging(group)]


def _worth_merging(group: pl.DataFrame) -> bool:
    """Whether merging would leave fewer files, or put overlapping ones in order: a second run finds nothing to do."""
    single = pl.col("symbol_min") == pl.col("symbol_max")
    alone = group.filter(single).group_by("symbol_min").len()
    return group.filter(~single.fill_null(False)).height > 1 or bool((alone["len"] > 1).any()) or _could_join(group)


def _could_join(group: pl.DataFrame) -> bool:
    """Whether several short symbols, each with a file of its own, would share one."""
    return group.filter(pl.col("rows") < SYMBOL_ROWS_MIN).height > 1


def _merged(lake: Lake, table: str, group: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows of `group` in order, long symbols one at a time."""
    rows = lake.scan_files(table, group)
    if "symbol" not in SCHEMAS[table] or group["rows"].sum() <= ROWS_AT_ONCE:
        yield rows.collect()
        return
    symbols = rows.select(pl.col("symbol").unique().sort()).collect(engine="streaming")["symbol"]
    for symbol in symbols:
        yield rows.filter(pl.col("symbol") == symbol).sort(row_order(table), nulls_last=True).collect()


def compact_lake(lake: Lake, venue: str | None = None, say: Say = silent) -> CompactSummary:
    """Merge the files of each partition by symbol and time; then delete what nothing refers to. Changes no row."""
    before = after = swept = 0
    with lake.writer():
        for table in SCHEMAS:
            files = lake.files(table)
            before += files.height
            wanted = files if venue is None else files.filter(pl.col("venue") == venue)
            for group in _crowded(wanted):
                say(f"{table} {group['venue'][0] or ''} {group['partition'][0] or ''}")
                lake.drop(table, group, _merged(lake, table, group))
            after += lake.files(table).height
            swept += lake.sweep(table)
    return CompactSummary(before, after, swept)


def _check_tables(tables: list[str]) -> None:
    dated = [name for name in SCHEMAS if "date" in partition_columns(name)]
    unknown = [name for name in tables if name not in dated]
    if unknown:
        raise InputError("no table that is kept by date", where=", ".join(unknown), mend=f"use {', '.join(dated)}")


def _floor(table: str, moment: datetime) -> datetime:
    """Start of the partition that holds `moment`."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return day.replace(day=1) if table in MONTHLY else day


def retain_days(lake: Lake, tables: list[str], days: int, now: datetime | None, venue: str | None) -> RetainSummary:
    """Drop the partitions of `tables` that end before `now` - `days`; `now` is by default the table's last stamp.

    A partition is dropped whole or not at all, so a monthly table keeps up to a month more. Bars and what is made of
    them stay: name those tables to shorten them too.
    """
    _check_tables(tables)
    dropped = pl.DataFrame(schema={"rows": pl.Int64()})
    kept: dict[str, str] = {}
    with lake.writer():
        for table in tables:
            files = lake.files(table)
            files = files if venue is None else files.filter(pl.col("venue") == venue)
            last = now if now is not None else files["ts_max"].max()
            if not isinstance(last, datetime):
                continue
            first = _floor(table, last - timedelta(days=days))
            old = files.filter(pl.col("partition") < f"{first:%Y-%m-%d}")
            lake.drop(table, old)
            lake.sweep(table)
            dropped = pl.concat([dropped, old.select("rows")])
            kept[table] = show_time(first)
    return RetainSummary(int(dropped["rows"].sum()), dropped.height, kept)
