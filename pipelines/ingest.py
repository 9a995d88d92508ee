"""Step `ingest`: venue files -> canonical tables in the lake; refused rows go to quarantine with a reason.

A source file is one unit, known by the SHA-256 of its bytes and the kind it is read as, and taken exactly once. Which
files are taken is decided here; what becomes of one is `pipelines.intake`. A file is streamed, spilled to disk, and
stored in chunks: memory does not grow with its length.

Files are read in any order, by as many workers as there are. They are judged and stored by this process alone and in
the order given: of two rows with one key the first is kept, and which one that is must not depend on who was faster.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from pipelines.adapters import VENUE_NAME, Adapter, Kind, Origin, adapter_named
from pipelines.adapters.lines import first_line
from pipelines.adapters.rows import Columnar, Delimited, fields
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import InstrumentBook, load_instruments
from pipelines.intake import FileReport, Source, stage, take
from pipelines.lake import Lake
from pipelines.pools import HERE, Pool
from pipelines.progress import Say, silent
from pipelines.staging import Staging, clear_staging

ROLES = ("perp", "spot")
FILES_AHEAD = 8  # per worker: so many are read before the first of them must be stored; what waits, waits on disk
DATA_SUFFIXES = (".csv", ".gz", ".xz", ".zip", ".json", ".jsonl", ".feather", ".parquet")


@dataclass(frozen=True)
class Choice:
    """What the user says about the files besides their names; null leaves it to the files."""

    venue: str | None = None
    symbol: str | None = None
    role: str = "perp"
    kind: str | None = None
    mapping: Path | None = None


@dataclass(frozen=True)
class IngestSummary:
    """Sums over the files ingested by this call. `skipped` were in the lake already, `ignored` are of another kind."""

    adapter: str
    files: int
    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    tables: dict[str, dict[str, int]]
    reasons: dict[str, int]
    silent: dict[str, int]
    symbols: tuple[str, ...]  # as `venue:symbol`
    per_file: tuple[FileReport, ...]
    skipped: tuple[str, ...]
    ignored: tuple[str, ...]


# --- which files -----------------------------------------------------------------------------------------------------


def _kinds_of(path: Path, adapter: Adapter) -> list[Kind]:
    """The kinds that a file is of: the first that recognises it, or all of them where the adapter says so.

    Raises InputError where no layout of the adapter can read the file at all.
    """
    faults: list[InputError] = []
    found: list[Kind] = []
    first = cache(first_line)
    for kind in adapter.kinds:
        try:
            seen = fields(path, kind.layout, first)
        except InputError as error:
            faults.append(error)
            continue
        if kind.recognises(kind.name_of(path), seen):
            found.append(kind)
    if not found and len(faults) == len(adapter.kinds):
        raise faults[0]
    return found[:1]


def _inside(folder: Path, adapter: Adapter) -> tuple[list[tuple[Path, Kind]], list[Path], list[str]]:
    """Files below `folder` with their kinds, files ignored, and faults. InputError if there is none of either."""
    taken: list[tuple[Path, Kind]] = []
    ignored: list[Path] = []
    faults: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            kinds = _kinds_of(path, adapter)
        except InputError as error:
            kinds = []
            faults += [str(error)] * path.name.lower().endswith(DATA_SUFFIXES)
        taken += [(path, kind) for kind in kinds]
        ignored += [path] * (not kinds)
    if not taken and not faults:
        what = f"no {adapter.name} file in directory, {len(ignored)} of other kinds"
        raise InputError(what, where=folder, mend=_expected(adapter))
    return taken, ignored, faults


def _expected(adapter: Adapter) -> str:
    return f"kinds of {adapter.name} files: {', '.join(kind.name for kind in adapter.kinds)} (each has its card)"


def _named(path: Path, adapter: Adapter) -> list[tuple[Path, Kind]]:
    """A file that was named itself must be of a kind; else the error says which kind is nearest, and what it lacks."""
    kinds = _kinds_of(path, adapter)
    if kinds:
        return [(path, kind) for kind in kinds]
    what = f"not a {adapter.name} file by its name and columns"
    near = sorted(_lacking(path, adapter), key=lambda item: len(item[1]))
    if near and near[0][1]:
        kind, missing = near[0]
        what += f"; for {kind.name} it is missing column{'s' * (len(missing) > 1)} {', '.join(missing)}"
    raise InputError(what, where=path, mend=_expected(adapter))


def _lacking(path: Path, adapter: Adapter) -> Iterator[tuple[Kind, list[str]]]:
    """The kinds of which the file has some columns, with those that it has not."""
    for kind in adapter.kinds:
        if isinstance(kind.layout, (Delimited, Columnar)):
            with suppress(InputError):
                seen = fields(path, kind.layout)
                missing = [name for name in kind.layout.columns if name not in seen]
                if len(missing) < len(kind.layout.columns):
                    yield kind, missing


def _collect(paths: Sequence[Path], adapter: Adapter) -> tuple[list[tuple[Path, Kind]], list[Path], list[str]]:
    """Files to ingest in the order given, files ignored, and what is wrong with paths that give no file.

    In a directory, a file that cannot be read is a fault if its name says that it holds data, else it is ignored.
    """
    taken: list[tuple[Path, Kind]] = []
    ignored: list[Path] = []
    faults: list[str] = []
    for path in paths:
        try:
            if path.is_dir():
                found, other, broken = _inside(path, adapter)
                ignored += other
                faults += broken
            else:
                found = _named(path, adapter)
            taken += [item for item in found if item not in taken]
        except InputError as error:
            faults.append(str(error))
    return taken, ignored, faults


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("no such file", where=path, mend="check the path") from None
    except OSError as error:
        raise InputError(f"file cannot be read ({error.strerror or error})", where=path) from None


def _unchanged(path: Path, sha256: str) -> None:
    if _sha256(path) != sha256:
        raise InputError("file changed while it was read", where=path, mend="wait until it is complete")


# --- reading them: anywhere ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file to be read as one kind, by their names."""

    path: Path
    kind: str

    def __str__(self) -> str:
        return f"ingest {self.path} as {self.kind}"


@dataclass(frozen=True)
class _Reading:
    """What every file of a call is read by; adapters are named, for they do not travel."""

    adapter: str
    choice: Choice
    book: InstrumentBook

    def chosen(self) -> Adapter:
        return _forced(adapter_named(self.adapter, self.choice.mapping), self.choice.kind)

    def source(self, file: _File, sha256: str) -> Source:
        adapter = self.chosen()
        return Source(file.path, sha256, adapter, next(kind for kind in adapter.kinds if kind.name == file.kind))

    def origin(self, source: Source) -> Origin:
        return Origin(source.kind.name_of(source.path), self.choice.venue, self.book, self.choice.symbol)


@dataclass(frozen=True)
class _Read:
    """A file that was read; `staging` is null where the lake holds it already, `fault` says why it was refused."""

    sha256: str = ""
    staging: Staging | None = None
    fault: str | None = None


def _read(lake: Lake, file: _File, *, by: _Reading, done: Set[tuple[str, str]] | None) -> _Read:
    """Read one file, unless it is in `done`; without that, unless the lake says that it holds it."""
    try:
        source = by.source(file, _sha256(file.path))
        known = lake.committed("ingest_log", source.key("log")) if done is None else source.known_as in done
        return _Read(source.sha256, None if known else stage(source, by.origin(source), lake))
    except InputError as error:
        return _Read(fault=str(error))


def _in_order(files: Sequence[_File], read: Iterable[tuple[_File, _Read]]) -> Iterator[tuple[_File, _Read]]:
    """What was read in any order, in the order of `files`; what comes early waits on disk."""
    early: dict[_File, _Read] = {}
    left = iter(files)
    wanted = next(left, None)
    for file, found in read:
        early[file] = found
        while wanted is not None and wanted in early:
            yield wanted, early.pop(wanted)
            wanted = next(left, None)


# --- storing them: here, one after the other -------------------------------------------------------------------------


@dataclass
class _Run:
    """One call of `ingest`: what it has done so far."""

    lake: Lake
    by: _Reading
    done: set[tuple[str, str]] = field(default_factory=set)
    reports: list[FileReport] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def file(self, file: _File, read: _Read) -> None:
        """Take one file; a bad one is a fault and does not keep the others out."""
        if read.fault is not None:
            self.faults.append(read.fault)
            return
        source = self.by.source(file, read.sha256)
        if read.staging is None or source.known_as in self.done:
            self.skipped.append(str(file.path))
        else:
            self._take(source, read.staging)
        if read.staging is not None:
            read.staging.remove()

    def _take(self, source: Source, staging: Staging) -> None:
        def unchanged() -> None:
            _unchanged(source.path, source.sha256)

        try:
            origin = self.by.origin(source)
            self.reports.append(take(source, staging, origin, self.lake, self.by.choice.role, unchanged))
            self.done.add(source.known_as)
        except InputError as error:
            self.faults.append(str(error))


def _done(lake: Lake) -> set[tuple[str, str]]:
    return set(lake.scan("ingest_log").select("source_sha256", "adapter").unique().collect().rows())


def _check(paths: Sequence[Path], choice: Choice) -> None:
    if not paths:
        raise InputError("no file to ingest", mend="name files or directories")
    if choice.role not in ROLES:
        raise InputError(f"`role` must be one of {', '.join(ROLES)}, was {choice.role!r}")
    if choice.venue is not None and not VENUE_NAME.fullmatch(choice.venue):
        raise InputError(
            f"venue must match {VENUE_NAME.pattern}, was {choice.venue!r}", mend="for example binance-coinm"
        )


def _forced(adapter: Adapter, kind: str | None) -> Adapter:
    """The adapter with the one kind that the user named, which then takes every file it can read."""
    if kind is None:
        return adapter
    chosen = [item for item in adapter.kinds if item.name == kind]
    if not chosen:
        known = ", ".join(item.name for item in adapter.kinds)
        raise InputError("unknown kind of file", where=f"{adapter.name} {kind!r}", mend=f"use one of: {known}")
    return adapter.only(chosen[0])


def _raise_faults(faults: list[str], ingested: int, skipped: int) -> None:
    """One error for all refused files; a single file's own error stands for itself."""
    if not faults:
        return
    if len(faults) == 1 and ingested + skipped == 0:
        raise InputError(faults[0])
    rest = f"{ingested} other{'s' * (ingested != 1)} ingested, {skipped} already there"
    what = f"{len(faults)} file{'s' * (len(faults) > 1)} refused, {rest}"
    raise InputError(what, where=" | ".join(faults), mend="mend them and run again, the others are skipped then")


def _added(counts: Iterator[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())


def _summary(run: _Run, ignored: list[Path]) -> IngestSummary:
    reports = run.reports
    tables = sorted({table for report in reports for table in report.tables})
    return IngestSummary(
        adapter=run.by.adapter,
        files=len(reports),
        rows_read=sum(report.rows_read for report in reports),
        rows_accepted=sum(report.rows_accepted for report in reports),
        rows_quarantined=sum(report.rows_quarantined for report in reports),
        tables={name: _added(report.tables.get(name, {}) for report in reports) for name in tables},
        reasons=_added(report.reasons for report in reports),
        silent=_added(report.silent for report in reports),
        symbols=tuple(sorted({symbol for report in reports for symbol in report.symbols})),
        per_file=tuple(reports),
        skipped=tuple(run.skipped),
        ignored=tuple(str(path) for path in ignored),
    )


def ingest(
    adapter: str,
    paths: Sequence[Path],
    lake: Lake,
    config: Config,
    choice: Choice | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    pool: Pool = HERE,
) -> IngestSummary:
    """Ingest files, and the files of this adapter below directories, into `lake`; each once, whatever is killed.

    `choice.venue` and `choice.symbol` override what the files say; `choice.role` is `perp` or `spot` and must fit the
    instruments' settlement; `choice.kind` reads every file as that kind; the adapter `table` needs `choice.mapping`.
    `progress` is called with the name of each file. Files are read by `pool`. Holds the lake's writer lock: the caller
    must not.

    Raises InputError that names every refused file; the others have been ingested by then, and a rerun skips them.
    """
    summary, faults = ingest_sound(adapter, paths, lake, config, choice, progress=progress, pool=pool)
    _raise_faults(faults, summary.files, len(summary.skipped))
    return summary


def ingest_sound(
    adapter: str,
    paths: Sequence[Path],
    lake: Lake,
    config: Config,
    choice: Choice | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    pool: Pool = HERE,
) -> tuple[IngestSummary, list[str]]:
    """`ingest`, that tells refused files, one sentence each, beside what was taken instead of raising."""
    choice = choice if choice is not None else Choice()
    _check(paths, choice)
    by = _Reading(adapter, choice, load_instruments(config))
    found, ignored, faults = _collect([Path(path) for path in paths], by.chosen())
    run = _Run(lake, by)
    files = [_File(path, kind.name) for path, kind in found]
    if not files:
        return _summary(run, ignored), faults
    with lake.writer():
        clear_staging(lake.root)
        run.done = _done(lake)
        done = run.done if pool is HERE else None  # as long as the log: it stays here, and a worker asks the lake
        for some in _batched(files, FILES_AHEAD * pool.workers):
            read = pool.map(lake, partial(_read, by=by, done=done), _named_as_drawn(some, progress))
            for file, content in _in_order(some, read):
                run.file(file, content)
    return _summary(run, ignored), [*faults, *run.faults]


def _batched(items: Sequence[_File], size: int) -> Iterator[Sequence[_File]]:
    """`items` in order, `size` of them at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _named_as_drawn(files: Sequence[_File], progress: Say | None) -> Iterator[_File]:
    say = progress if progress is not None else silent
    for file in files:
        say(file.path.name)
        yield file
