"""The rows of one file between reading and storing: spilled to disk piece by piece, handed back chunk by chunk.

A file can be larger than memory. Its candidate rows are written to a folder inside the lake as they are read; once the
file has proved whole they come back by symbol and time, a bounded number at a time. Nothing here is part of the lake: a
killed run leaves folders that the next one removes.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipelines.adapters.adapter import SILENT, Batch

ROWS_PER_CHUNK = 1_000_000
NAMES = ("venue", "symbol")
WHERE_FROM = ("line", "item", "venue", "symbol", "ts", "known_at", "reason")
WHERE_FROM_SCHEMA = pl.Schema(
    {
        "line": pl.Int64(),
        "item": pl.Int64(),
        "venue": pl.String(),
        "symbol": pl.String(),
        "ts": pl.Datetime("us", "UTC"),
        "known_at": pl.Datetime("us", "UTC"),
        "reason": pl.String(),
    }
)


@dataclass
class Staging:
    """Candidate rows of one file, below `folder`. Counts grow as batches are added."""

    folder: Path
    rows_read: Counter[str] = field(default_factory=Counter)  # by table, refused ones included
    silent: Counter[str] = field(default_factory=Counter)  # lines that say nothing for any table, by reason
    _sound: Counter[str] = field(default_factory=Counter)
    _names: set[tuple[str, str]] = field(default_factory=set)
    _files: int = 0

    def add(self, batch: Batch) -> None:
        for table, rows in batch.items():
            if table == SILENT:
                self.silent.update(rows["reason"].to_list())
            elif rows.height:
                self._add(table, rows)

    def _add(self, table: str, rows: pl.DataFrame) -> None:
        if "symbol" not in rows.columns:
            rows = rows.with_columns(pl.col("asset").alias("symbol"))  # what a deposit goes by
        self.rows_read[table] += rows.height
        sound = rows.filter(pl.col("reason").is_null()).drop("reason")
        self._sound[table] += sound.height
        self._names |= set(sound.select(NAMES).unique().rows())
        self._spill("sound", table, sound)
        if sound.height < rows.height:
            self.refuse(table, rows.filter(pl.col("reason").is_not_null()))

    def refuse(self, table: str, rows: pl.DataFrame) -> None:
        """Set rows aside (`line, item, venue, symbol, ts, known_at, reason`): they go to quarantine."""
        self._spill("refused", table, rows.select(WHERE_FROM))

    def _spill(self, what: str, table: str, rows: pl.DataFrame) -> None:
        folder = self.folder / what / table
        folder.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(folder / f"{self._files:08d}.parquet", compression="lz4")
        self._files += 1

    def remove(self) -> None:
        """Delete the rows; they are stored by now, or will not be."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def names(self) -> pl.DataFrame:
        """Every `venue, symbol` of the sound rows."""
        return pl.DataFrame(sorted(self._names), schema=dict.fromkeys(NAMES, pl.String()), orient="row")

    def refused(self, table: str) -> pl.DataFrame:
        """All rows set aside so far."""
        folder = self.folder / "refused" / table
        return pl.read_parquet(folder / "*.parquet") if folder.exists() else pl.DataFrame(schema=WHERE_FROM_SCHEMA)

    def chunks(self, table: str) -> Iterator[pl.DataFrame]:
        """The sound rows: by venue, symbol and hour, about `ROWS_PER_CHUNK` at a time, an hour never split."""
        if not self._sound[table]:
            return
        rows = pl.scan_parquet(self.folder / "sound" / table / "*.parquet")
        if self._sound[table] <= ROWS_PER_CHUNK:
            yield rows.collect()
            return
        hour = pl.col("ts").dt.truncate("1h").alias("_hour")
        counts = rows.group_by(*NAMES, hour).len().collect(engine="streaming").sort(*NAMES, "_hour")
        numbered = counts.with_columns((pl.col("len").cum_sum() // ROWS_PER_CHUNK).alias("_chunk"))
        for wanted in numbered.partition_by("_chunk", maintain_order=True):
            span = pl.col("ts").is_between(wanted["_hour"].min(), wanted["_hour"].max() + pl.duration(hours=1))
            inside = rows.filter(span).with_columns(hour)
            yield inside.join(wanted.lazy(), on=[*NAMES, "_hour"], how="semi").drop("_hour").collect()


def fresh_staging(root: Path) -> Staging:
    """An empty staging area below the lake's `root`, beside those of other files."""
    folder = root / "staging" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return Staging(folder)


def clear_staging(root: Path) -> None:
    """Remove what killed runs have left. The caller holds the lock, and has no file staged yet."""
    shutil.rmtree(root / "staging", ignore_errors=True)
