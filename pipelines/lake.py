"""The lake: one Delta table per canonical or derived table, written atomically and exactly once.

A source file is committed under its content hash (a Delta application transaction), so a run that is killed and
repeated neither loses nor doubles a row. Derived tables are replaced interval by interval.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from features.catalogue import KEY, NAMES
from features.schema import CANONICAL, UTC_US, Bars, IngestLog, Quarantine, Scores, Structure, polars_schema
from guardrails.accounts import SCHEMA as ACCOUNT_DECISIONS
from guardrails.decide import DECISIONS, LIMITS, STATE

FEATURES_SCHEMA = pl.Schema({name: polars_schema(Bars)[name] for name in KEY} | dict.fromkeys(NAMES, pl.Float64()))
SCHEMAS: dict[str, pl.Schema] = {
    **{name: polars_schema(schema) for name, schema in CANONICAL.items()},
    "bars": polars_schema(Bars),
    "structure": polars_schema(Structure),
    "features": FEATURES_SCHEMA,
    "scores": polars_schema(Scores),
    "limits": pl.Schema(
        dict(LIMITS)
        | {"leverage_cap_hard": pl.Float64(), "leverage_cap_effective": pl.Float64(), "proposal": pl.String()}
    ),
    "decisions": pl.Schema(DECISIONS),
    "account_decisions": pl.Schema(ACCOUNT_DECISIONS),
    "guard_state": pl.Schema(STATE),
    "resets": pl.Schema(
        {"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US, "rule": pl.String(), "by": pl.String()}
    ),
    "quarantine": polars_schema(Quarantine),
    "ingest_log": polars_schema(IngestLog),
}
_NOT_BY_VENUE = frozenset({"quarantine", "ingest_log"})


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


class Lake:
    """Tables under `root/tables/`; other state of the same venue (registry, audit log, reports) lives beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, table: str) -> Path:
        return self.root / "tables" / table

    def has(self, table: str) -> bool:
        return DeltaTable.is_deltatable(str(self.path(table)))

    def version(self, table: str) -> int:
        """Version of `table`, -1 where it does not exist; grows with every commit."""
        return DeltaTable(self.path(table)).version() if self.has(table) else -1

    def committed(self, table: str, source_sha256: str) -> bool:
        """Whether `source_sha256` has already been appended to `table`."""
        return self.has(table) and DeltaTable(self.path(table)).transaction_version(source_sha256) is not None

    def append(self, table: str, frame: pl.DataFrame, source_sha256: str) -> None:
        """Append `frame` in one commit, once per source: a second call with the same hash changes nothing."""
        if self.committed(table, source_sha256):
            return
        self.path(table).mkdir(parents=True, exist_ok=True)
        write_deltalake(
            self.path(table),
            frame,
            mode="append",
            partition_by=self._partition_by(table),
            commit_properties=CommitProperties(app_transactions=[Transaction(source_sha256, 1)]),
        )

    def replace(self, table: str, frame: pl.DataFrame, venue: str, start: datetime, end: datetime) -> None:
        """Put `frame` in place of the rows of `venue` with `ts` in (start, end], in one commit."""
        predicate = f"venue = '{venue}' AND ts > '{_utc(start)}' AND ts <= '{_utc(end)}'"
        if not self.has(table):
            self._create(table)
        write_deltalake(
            self.path(table), frame, mode="overwrite", predicate=predicate, partition_by=self._partition_by(table)
        )

    def _create(self, table: str) -> None:
        self.path(table).mkdir(parents=True, exist_ok=True)
        empty = pl.DataFrame(schema=SCHEMAS[table])
        write_deltalake(self.path(table), empty, mode="ignore", partition_by=self._partition_by(table))

    @staticmethod
    def _partition_by(table: str) -> list[str] | None:
        return None if table in _NOT_BY_VENUE else ["venue"]

    def scan(
        self,
        table: str,
        venue: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        symbol: str | None = None,
    ) -> pl.LazyFrame:
        """Rows of `table` with `ts` in (start, end], in canonical types; an empty frame where the table is absent."""
        if not self.has(table):
            return pl.LazyFrame(schema=SCHEMAS[table])
        frame = pl.scan_delta(str(self.path(table)))
        if venue is not None:
            frame = frame.filter(pl.col("venue") == venue)
        if symbol is not None:
            frame = frame.filter(pl.col("symbol") == symbol)
        if start is not None:
            frame = frame.filter(pl.col("ts") > start)
        if end is not None:
            frame = frame.filter(pl.col("ts") <= end)
        return frame

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Hold the lake's single-writer lock; the kernel releases it when the process ends, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".writer.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
