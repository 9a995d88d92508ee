"""The lake: one Delta table per canonical or derived table, written atomically and exactly once.

A table is partitioned by venue and date; its files are parquet, each sorted by symbol and time, and hold one symbol
alone where that is long enough. Files are written first and become part of the table in one commit of the Delta log,
so a run that is killed leaves the old state (and files that nobody refers to: `cascadeguard compact` removes them).

A source is committed under its content hash (a Delta application transaction), so that it is taken once, however often
it is tried. Derived tables are replaced interval by interval.
"""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.transaction import AddAction, RemoveAction

from features.catalogue import NAMES
from features.matrix import HEALTH_SCHEMA, KEY
from features.schema import CANONICAL, DERIVED, UTC_US, Bars, IngestLog, Quarantine, polars_schema
from guardrails.accounts import SCHEMA as ACCOUNT_DECISIONS
from guardrails.decide import DECISIONS, LIMITS, STATE
from guardrails.exposures import SCHEMA as EXPOSURE_DECISIONS
from guardrails.proposal import EFFECTIVE
from pipelines.encoding import decode, encode, physical_schema, write

FEATURES_SCHEMA = pl.Schema({name: polars_schema(Bars)[name] for name in KEY} | dict.fromkeys(NAMES, pl.Float64()))
PENDING_SCHEMA = pl.Schema(
    {
        "venue": pl.String(),
        "symbol": pl.String(),
        "ts": UTC_US,  # the first row's
        "last": UTC_US,
        "table": pl.String(),
        "source_sha256": pl.String(),
    }
)
RUNS_SCHEMA = pl.Schema(  # one row per attempt at an interval of the schedule, failed ones too; appended, never changed
    {
        "venue": pl.String(),
        "ts": UTC_US,  # the interval's end
        "start": UTC_US,  # the interval's start, exclusive
        "run_id": pl.String(),  # hash of step, interval, inputs, code and settings
        "token": pl.Int64(),  # the fencing token of the process that ran it
        "kind": pl.String(),  # due, caught_up, amended, backfill
        "state": pl.String(),  # ok, failed
        "started_at": UTC_US,
        "finished_at": UTC_US,
        "steps": pl.String(),  # JSON: step -> {"s": seconds, "rows": how many, "says": [sentences]}
        "rows_ingested": pl.Int64(),
        "alerts": pl.Int64(),  # episodes that the scores of the interval hold
        "decisions": pl.Int64(),
        "notes": pl.List(pl.String()),
        "error": pl.String(),  # null where the run went well
    }
)
AMENDMENTS_SCHEMA = pl.Schema(  # one row per decision that a later run over its minute took back, changed or added
    {
        "venue": pl.String(),
        "ts": UTC_US,  # the decision's minute
        "entity": pl.String(),
        "rule": pl.String(),
        "before": pl.String(),  # decision_id as it was; null where there was none
        "after": pl.String(),  # decision_id that stands now; null where none does
        "why": pl.String(),
        "amended_at": UTC_US,  # null where a person judged again and no clock was told
        "original": pl.String(),  # JSON: the decision as it was, whole; null where there was none
    }
)
SCHEMAS: dict[str, pl.Schema] = {
    **{name: polars_schema(schema) for name, schema in (CANONICAL | DERIVED).items()},
    "features": FEATURES_SCHEMA,
    "feature_health": HEALTH_SCHEMA,
    "limits": pl.Schema(LIMITS | EFFECTIVE),
    "decisions": pl.Schema(DECISIONS),
    "account_decisions": pl.Schema(ACCOUNT_DECISIONS),
    "exposure_decisions": pl.Schema(EXPOSURE_DECISIONS),
    "guard_state": pl.Schema(STATE),
    "resets": pl.Schema(
        {"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US, "rule": pl.String(), "by": pl.String()}
    ),
    "pending": PENDING_SCHEMA,
    "runs": RUNS_SCHEMA,
    "amendments": AMENDMENTS_SCHEMA,
    "quarantine": polars_schema(Quarantine),
    "ingest_log": polars_schema(IngestLog),
}
# Rows that come slowly lie in one partition a month: a day of them would be a file of a few rows.
MONTHLY = frozenset(
    {
        "marks",
        "funding",
        "open_interest",
        "liquidations",
        "liquidation_counts",
        "candles",
        "collateral",
        "positions",
    }
)
UNDATED = frozenset({"instruments", "resets", "pending"})
WHOLE = frozenset({"quarantine", "ingest_log"})  # neither by venue nor by date
SYMBOL_ROWS_MIN = 20_000  # a symbol with as many rows in a partition has files of its own
LOG = "_delta_log"
COMMIT = re.compile(r"\d{20}\.json")
FILES = pl.Schema(
    {
        "path": pl.String(),
        "venue": pl.String(),
        "rows": pl.Int64(),
        "symbol_min": pl.String(),
        "symbol_max": pl.String(),
        "ts_min": UTC_US,
        "ts_max": UTC_US,
        "partition": pl.String(),
        "bytes": pl.Int64(),
    }
)


def partition_columns(table: str) -> list[str]:
    """What a table is partitioned by.

    >>> partition_columns("trades"), partition_columns("instruments"), partition_columns("quarantine")
    (['venue', 'date'], ['venue'], [])
    """
    if table in WHOLE:
        return []
    return ["venue"] if table in UNDATED else ["venue", "date"]


def _date(table: str) -> pl.Expr:
    day = pl.col("ts").dt.date()
    return (day.dt.month_start() if table in MONTHLY else day).alias("date")


def row_order(table: str) -> list[pl.Expr]:
    """The order of rows inside a file: symbol, ts, then the rest of the key, trade ids by their number if they are one.

    A table whose schema names no key is ordered by symbol and ts alone.
    """
    schema = (CANONICAL | DERIVED).get(table)
    given = SCHEMAS[table].names()
    lead = [name for name in ("symbol", "ts") if name in given]
    rest = [name for name in schema.primary_key() if name not in ("venue", *lead)] if schema is not None else []
    number = [pl.col("trade_id").cast(pl.Int64, strict=False)] if "trade_id" in rest else []
    return [*(pl.col(name) for name in lead), *number, *(pl.col(name) for name in rest)]


class File(NamedTuple):
    """One row of `Lake.files`."""

    path: str
    venue: str | None
    rows: int
    symbol_min: str | None
    symbol_max: str | None
    ts_min: datetime | None
    ts_max: datetime | None
    partition: str | None
    bytes: int


class Span(NamedTuple):
    """Rows asked for: `ts` in (start, end], of one symbol; null means all."""

    start: datetime | None = None
    end: datetime | None = None
    symbol: str | None = None

    def leaves_out(self, file: File) -> bool:
        """Whether a file may hold rows beside those asked for."""
        return (
            (self.symbol is not None and not file.symbol_min == file.symbol_max == self.symbol)
            or (self.start is not None and not (file.ts_min and file.ts_min > self.start))
            or (self.end is not None and not (file.ts_max and file.ts_max <= self.end))
        )

    def rows(self) -> list[pl.Expr]:
        """What a row must satisfy."""
        wanted = [pl.col("symbol") == self.symbol] if self.symbol is not None else []
        wanted += [pl.col("ts") > self.start] if self.start is not None else []
        return wanted + ([pl.col("ts") <= self.end] if self.end is not None else [])


def _files(listed: pl.DataFrame) -> list[File]:
    return [File(*row) for row in listed.iter_rows()]


def _by_symbol_held(files: Sequence[File], symbols: Iterable[str]) -> dict[str, list[File]]:
    """The files that may hold rows of each symbol, in their order; no symbol without any."""
    held: dict[str, list[File]] = {symbol: [] for symbol in symbols}
    for file in files:
        if file.symbol_min is not None and file.symbol_min == file.symbol_max:
            some = [file.symbol_min] if file.symbol_min in held else []
        else:
            first, last = file.symbol_min, file.symbol_max
            some = [symbol for symbol in held if first is None or last is None or first <= symbol <= last]
        for symbol in some:
            held[symbol].append(file)
    return {symbol: some for symbol, some in held.items() if some}


def unfenced() -> None:
    """Nobody can take over: writing is always allowed."""


class Lake:
    """Tables under `root/tables/`; other state of the same venue (registry, audit log, reports) lives beside them.

    `fence` is called when the writer's lock has been taken and again before each commit: it raises where this process
    may no longer write (`pipelines.operating.lease`).
    """

    def __init__(self, root: Path, fence: Callable[[], None] = unfenced) -> None:
        self.root = root
        self.fence = fence
        self.logged: tuple[str, frozenset[str]] = ("", frozenset())  # what `pipelines.audit` has read of its log
        self._listed: dict[str, tuple[str, pl.DataFrame]] = {}
        self._opened: dict[str, DeltaTable] = {}
        self._fixed: dict[str, pl.DataFrame] = {}  # the files of tables that are read as they once were

    # --- what there is ---

    def path(self, table: str) -> Path:
        return self.root / "tables" / table

    def has(self, table: str) -> bool:
        return DeltaTable.is_deltatable(str(self.path(table)))

    def version(self, table: str) -> int:
        """Version of `table`, -1 where it does not exist; grows with every commit."""
        newest = _newest_commit(self.path(table) / LOG)
        return int(Path(newest).stem) if newest else -1

    def _delta(self, table: str) -> DeltaTable:
        """The table as it stands now; its log is read once, afterwards what was added to it."""
        if table in self._opened:
            self._opened[table].update_incremental()
        else:
            self._opened[table] = DeltaTable(self.path(table))
        return self._opened[table]

    def committed(self, table: str, source_sha256: str) -> bool:
        """Whether `source_sha256` has already been appended to `table`."""
        return self.has(table) and self._delta(table).transaction_version(source_sha256) is not None

    def files(self, table: str) -> pl.DataFrame:
        """The files of `table` with what they hold (columns of `FILES`), in no particular order."""
        if table in self._fixed:
            return self._fixed[table]
        newest = _newest_commit(self.path(table) / LOG)
        known, listed = self._listed.get(table, ("", pl.DataFrame(schema=FILES)))
        if newest != known:
            listed = _listing(self._delta(table)) if newest else pl.DataFrame(schema=FILES)
            self._listed[table] = newest, listed
        return listed

    def as_of(self, versions: Mapping[str, int]) -> "Lake":
        """The lake with some tables as they were at a version, for reading; fails where their files were swept."""
        then = Lake(self.root)
        for table, version in versions.items():
            gone = pl.DataFrame(schema=FILES)
            then._fixed[table] = gone if version < 0 else _listing(DeltaTable(self.path(table), version=version))
        return then

    def reaches(self, table: str, venue: str, start: datetime, end: datetime, symbol: str | None = None) -> bool:
        """Whether a file of `table` may hold rows with `ts` in (start, end]. Reads the log alone."""
        return self._chosen(table, venue, start, end, symbol).height > 0

    # --- reading ---

    def scan(
        self,
        table: str,
        venue: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        symbol: str | None = None,
    ) -> pl.LazyFrame:
        """Rows of `table` with `ts` in (start, end], in canonical types; an empty frame where the table is absent."""
        files = _files(self._chosen(table, venue, start, end, symbol))
        span = Span(start, end, symbol)
        return self._read(table, sorted(files, key=lambda file: (str(file.venue), span.leaves_out(file))), span)

    def scan_sorted(
        self, table: str, venue: str, symbols: Iterable[str], start: datetime, end: datetime, *, stored: bool = False
    ) -> dict[str, pl.LazyFrame]:
        """The rows of each symbol in the order of `row_order`, `ts` in (start, end]; only symbols that a file may hold.

        With `stored`, the columns as they lie in the files (see `pipelines.encoding`), which is faster to read.
        Files whose times do not overlap are read one after the other, in constant memory; overlapping ones (late
        rows, until the table is compacted) are sorted first, which takes memory for the rows asked for.
        """
        chosen = self._chosen(table, venue, start, end, None).sort("ts_min", "ts_max", "path")
        held = _by_symbol_held(_files(chosen), symbols)
        return {
            symbol: self._in_order(table, files, Span(start, end, symbol), stored=stored)
            for symbol, files in held.items()
        }

    def _in_order(self, table: str, files: list[File], span: Span, *, stored: bool) -> pl.LazyFrame:
        apart = all(one.ts_max < other.ts_min for one, other in pairwise(files) if one.ts_max and other.ts_min)
        if apart and stored:
            return self._read(table, files, span, stored=True)
        rows = self._read(table, files, span)
        ordered = rows if apart else rows.sort(row_order(table), nulls_last=True)
        return encode(table, ordered.collect()).lazy() if stored else ordered

    def scan_files(self, table: str, files: pl.DataFrame) -> pl.LazyFrame:
        """All rows of some of the files of `self.files(table)`."""
        return self._read(table, _files(files), Span())

    def _chosen(
        self, table: str, venue: str | None, start: datetime | None, end: datetime | None, symbol: str | None
    ) -> pl.DataFrame:
        """The files that can hold rows asked for."""
        wanted = [pl.col("venue") == venue] if venue is not None and "venue" in partition_columns(table) else []
        if symbol is not None:
            inside = (pl.col("symbol_min") <= symbol) & (pl.col("symbol_max") >= symbol)
            wanted.append(inside.fill_null(True))
        wanted += [(pl.col("ts_max") > start).fill_null(True)] if start is not None else []
        wanted += [(pl.col("ts_min") <= end).fill_null(True)] if end is not None else []
        return self.files(table).filter(*wanted)

    def _read(self, table: str, files: Sequence[File], span: Span, *, stored: bool = False) -> pl.LazyFrame:
        """The rows of `files`, filtered only where a file holds others too; canonical, or `stored` as they lie."""
        frames = [
            self._stored(table, list(group)).filter(*(span.rows() if mixed else ()))
            for (_, mixed), group in groupby(files, lambda file: (file.venue, span.leaves_out(file)))  # keeps the order
        ]
        if not frames:
            empty = pl.DataFrame(schema=SCHEMAS[table])
            return (encode(table, empty) if stored else empty).lazy()
        whole = frames if stored else [decode(table, frame).select(SCHEMAS[table].names()) for frame in frames]
        return whole[0] if len(whole) == 1 else pl.concat(whole)

    def _stored(self, table: str, files: Sequence[File]) -> pl.LazyFrame:
        """All rows of files of one venue, or of a table that is not partitioned, as they lie."""
        rows = pl.scan_parquet(
            [self.path(table) / file.path for file in files],
            schema=self._stored_schema(table),
            missing_columns="insert",
            extra_columns="ignore",
            hive_partitioning=False,
        )
        by_venue = "venue" in partition_columns(table)
        return rows.with_columns(pl.lit(files[0].venue).alias("venue")) if by_venue else rows

    @staticmethod
    def _stored_schema(table: str) -> pl.Schema:
        partitions = partition_columns(table)
        return pl.Schema({n: t for n, t in physical_schema(table, SCHEMAS[table]).items() if n not in partitions})

    # --- writing ---

    def append(self, table: str, frames: pl.DataFrame | Iterable[pl.DataFrame], source_sha256: str | None) -> None:
        """Append `frames` in one commit, once per source: a second call with the same hash changes nothing.

        Without a source every call appends.

        Frames are taken one at a time, so an iterator of them is as good as a table that does not fit into memory.
        """
        if source_sha256 is not None and self.committed(table, source_sha256):
            return
        parts = [frames] if isinstance(frames, pl.DataFrame) else frames
        added = [action for frame in parts for action in self._write(table, frame)]
        once = [] if source_sha256 is None else [Transaction(source_sha256, 1)]
        self._commit(table, added, [], CommitProperties(app_transactions=once))

    def replace(
        self, table: str, frame: pl.DataFrame, venue: str, start: datetime, end: datetime, *, symbol: str | None = None
    ) -> None:
        """Put `frame` in place of the rows of `venue` (and `symbol`) with `ts` in (start, end], in one commit."""
        touched, span = self._chosen(table, venue, start, end, symbol), Span(start, end, symbol)
        rest = [file for file in _files(touched) if span.leaves_out(file)]
        kept = self._read(table, rest, Span()).filter(~pl.all_horizontal(span.rows())).collect()
        added = [*self._write(table, kept), *self._write(table, frame)]
        self._commit(table, added, _removals(touched))

    def drop(self, table: str, files: pl.DataFrame, rows: Iterable[pl.DataFrame] = ()) -> None:
        """Take `files` (rows of `self.files(table)`) out of the table and put `rows` in their place, in one commit."""
        added = [action for frame in rows for action in self._write(table, frame)]
        if added or files.height:
            self._commit(table, added, _removals(files))

    def sweep(self, table: str) -> int:
        """Delete the files that `table` no longer refers to; returns their number. The caller holds the lock."""
        kept = {self.path(table) / path for path in self.files(table)["path"]}
        stray = [path for path in self.path(table).rglob("*.parquet") if path not in kept and LOG not in path.parts]
        for path in stray:
            path.unlink()
        return len(stray)

    def _write(self, table: str, frame: pl.DataFrame) -> Iterator[AddAction]:
        """Write the rows of `frame` to files that nobody refers to yet."""
        partitions = partition_columns(table)
        dated = frame.select(SCHEMAS[table].names())
        if "date" in partitions:
            dated = dated.with_columns(_date(table))
        for group in dated.partition_by(partitions, maintain_order=True) if partitions else [dated]:
            values = {name: str(group[name][0]) for name in partitions} if group.height else {}
            for part in _by_symbol(group.sort(row_order(table), nulls_last=True)):
                yield self._write_file(table, part.select(SCHEMAS[table].names()), values)

    def _write_file(self, table: str, rows: pl.DataFrame, values: dict[str, str]) -> AddAction:
        name = Path(*(f"{column}={value}" for column, value in values.items()), f"{uuid.uuid4().hex}.parquet")
        target = self.path(table) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write(table, encode(table, rows).drop(*values, strict=False), target)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        return AddAction(str(name), target.stat().st_size, values, now_ms, True, _statistics(rows))

    def _commit(
        self,
        table: str,
        added: Sequence[AddAction],
        removed: Sequence[RemoveAction],
        properties: CommitProperties | None = None,
    ) -> None:
        if not self.has(table):
            self.fence()
            self._opened.pop(table, None)
            self._create(table)
        delta = self._delta(table)
        self.fence()
        delta.create_write_transaction(
            [*added, *removed], "append", delta.schema(), partition_columns(table), commit_properties=properties
        )

    def _create(self, table: str) -> None:
        self.path(table).mkdir(parents=True, exist_ok=True)
        schema = dict(physical_schema(table, SCHEMAS[table])) | {
            name: SCHEMAS[table].get(name, pl.Date()) for name in partition_columns(table)
        }
        write_deltalake(
            self.path(table), pl.DataFrame(schema=schema), mode="ignore", partition_by=partition_columns(table) or None
        )

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Hold the lake's single-writer lock; the kernel releases it when the process ends, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".writer.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.fence()
            yield


def _newest_commit(log: Path) -> str:
    """The name of the last commit in a Delta log, empty where there is none: a listing, not a read of the table."""
    try:
        return max((entry.name for entry in os.scandir(log) if COMMIT.fullmatch(entry.name)), default="")
    except FileNotFoundError:
        return ""


def _listing(delta: DeltaTable) -> pl.DataFrame:
    """The add actions of a Delta table in the shape of `FILES`."""
    found = pl.DataFrame(delta.get_add_actions(flatten=True))
    names = {
        "path": "path",
        "partition.venue": "venue",
        "num_records": "rows",
        "min.symbol": "symbol_min",
        "max.symbol": "symbol_max",
        "min.ts": "ts_min",
        "max.ts": "ts_max",
        "partition.date": "partition",
        "size_bytes": "bytes",
    }
    listed = found.select(
        (pl.col(old) if old in found.columns else pl.lit(None)).cast(FILES[new]).alias(new)
        for old, new in names.items()
    )
    # The log writes a path as part of an address: "<" as "%3C". On disk it has its own name.
    return listed.with_columns(pl.Series("path", [unquote(path) for path in listed["path"]], dtype=pl.String))


def _by_symbol(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Long symbols by themselves, the short ones together; `rows` are sorted by symbol."""
    if "symbol" not in rows.columns or rows.height < SYMBOL_ROWS_MIN:
        if rows.height:
            yield rows
        return
    groups = rows.partition_by("symbol", maintain_order=True)
    yield from (group for group in groups if group.height >= SYMBOL_ROWS_MIN)
    short = [group for group in groups if group.height < SYMBOL_ROWS_MIN]
    if short:
        yield pl.concat(short)


def _statistics(rows: pl.DataFrame) -> str:
    """Delta statistics of the columns that readers choose files by."""
    kept = [name for name in ("symbol", "ts") if name in rows.columns and not rows[name].is_null().any()]
    first, last = rows.select(pl.col(kept).min()), rows.select(pl.col(kept).max())

    def shown(bounds: pl.DataFrame) -> dict[str, Any]:
        moment = pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        return bounds.with_columns(moment).row(0, named=True) if "ts" in kept else bounds.to_dicts()[0] if kept else {}

    counts = {"numRecords": rows.height, "nullCount": {name: int(rows[name].null_count()) for name in kept}}
    return json.dumps(counts | {"minValues": shown(first), "maxValues": shown(last)})


def _removals(files: pl.DataFrame) -> list[RemoveAction]:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    return [RemoveAction(row["path"], True, now_ms, row["bytes"], _partition_values(row)) for row in files.to_dicts()]


def _partition_values(row: dict[str, Any]) -> dict[str, str | None]:
    values = {"venue": row["venue"], "date": row["partition"]}
    return {name: value for name, value in values.items() if value is not None}
