"""Reads of the lake, kept until a table they stand on has a new version. Never the writer's lock, never a write."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import polars as pl
from deltalake.exceptions import DeltaError

from pipelines.lake import LOG, Lake

KEPT_MAX = 32  # answers kept at a time
TROUBLES = (OSError, DeltaError, pl.exceptions.ComputeError)  # what a table that is changed or gone can raise

Kept = TypeVar("Kept")
Stamps: TypeAlias = tuple[tuple[int, int], ...]


class UnreadableError(Exception):
    """The lake cannot be read now: what is wrong, and what would help."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


class Reader:
    """A lake to look at, from several threads.

    `kept` computes a thing again only where a table of it has a new version. A table may be compacted, replaced or
    deleted while it is read, or since its files were listed: the read is done once more on a fresh look, where a table
    that is gone is empty; then `UnreadableError` says so.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lake = Lake(root)
        self._folder = 0, 0  # what tells the lake's folder from one that was made anew
        self._answers: OrderedDict[Hashable, tuple[Stamps, Any]] = OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def lake(self) -> Lake:
        """The lake; UnreadableError where it is gone. One that was made anew is known from the one before."""
        try:
            folder = _identity(self.root)
        except OSError:
            raise UnreadableError(f"There is no lake at {self.root}.", "cascadeguard ingest") from None
        if folder != self._folder:
            self._lake, self._folder = Lake(self.root), folder
        return self._lake

    def stamps(self, tables: Sequence[str]) -> Stamps:
        """What changes with every commit to one of `tables`: a listing of directories, no read of a table."""
        lake = self.lake()
        return tuple(_stamp(lake, table) for table in tables)

    def kept(self, name: str, tables: Sequence[str], make: Callable[[Lake], Kept], key: Hashable = None) -> Kept:
        """What `make` reads of `tables`, at most as old as their newest versions. `name` and `key` say what it is.

        Things of one name are made one at a time, so that many who ask at once read once.
        """
        with self._lock(name):
            stamps = self.stamps(tables)
            found = self._answers.get((name, key))
            if found is not None and found[0] == stamps:
                return found[1]  # type: ignore[no-any-return]  # what `make` of this name gave
            made = self.read(make)
            self._keep((name, key), stamps, made)
            return made

    def read(self, make: Callable[[Lake], Kept]) -> Kept:
        """What `make` reads now, not kept."""
        try:
            return make(self.lake())
        except TROUBLES:
            self._lake = Lake(self.root)  # what it knew of files no longer holds
        try:
            return make(self.lake())
        except TROUBLES as error:
            what = f"The lake at {self.root} cannot be read just now ({type(error).__name__})."
            raise UnreadableError(what, "cascadeguard doctor") from error

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def _keep(self, key: Hashable, stamps: Stamps, made: Any) -> None:
        with self._guard:
            self._answers[key] = stamps, made
            self._answers.move_to_end(key)
            while len(self._answers) > KEPT_MAX:
                self._answers.popitem(last=False)


class Batches:
    """What was taken of the files of one table, kept while the table holds them: a file never changes.

    A run every five minutes leaves 288 small files a day; of a day that is looked at again only the new ones are read.
    Not for use by several threads at once.
    """

    def __init__(self, table: str, take: Callable[[pl.LazyFrame], pl.LazyFrame]) -> None:
        self._table, self._take = table, take
        self._read: list[tuple[frozenset[str], pl.DataFrame]] = []  # files that were read together, and their rows

    def rows(self, lake: Lake, start: datetime) -> pl.DataFrame:
        """What `take` leaves of the rows with `ts` after `start`, of every venue."""
        listed = lake.files(self._table)
        held, wanted = set(listed["path"]), listed.filter((pl.col("ts_max") > start).fill_null(value=True))
        chosen = set(wanted["path"])
        self._read = [(paths, rows) for paths, rows in self._read if paths <= held and paths & chosen]
        known = {path for paths, _ in self._read for path in paths}
        new = wanted.filter(~pl.col("path").is_in(list(known)))
        if new.height or not self._read:
            self._read.append((frozenset(new["path"]), self._take(lake.scan_files(self._table, new)).collect()))
        return pl.concat([rows for _, rows in self._read]).filter(pl.col("ts") > start)


def _identity(root: Path) -> tuple[int, int]:
    """The inode of the lake's folder, which one made anew may inherit, and when its list of tables last changed."""
    tables = root / "tables"
    return root.stat().st_ino, tables.stat().st_ctime_ns if tables.exists() else 0


def _stamp(lake: Lake, table: str) -> tuple[int, int]:
    """The version of `table` and when it was committed; (-1, 0) where there is none."""
    version = lake.version(table)
    try:
        return version, (lake.path(table) / LOG / f"{version:020}.json").stat().st_mtime_ns
    except OSError:
        return version, 0


def ends(lake: Lake, table: str) -> dict[str, datetime]:
    """The newest `ts` of every venue of `table`, from the log alone."""
    newest = lake.files(table).group_by("venue").agg(pl.col("ts_max").max()).drop_nulls()
    return dict(newest.sort("venue").iter_rows())
