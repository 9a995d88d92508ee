"""Step `ingest`: venue files -> canonical tables in the lake; refused rows go to quarantine with a reason.

A source file is one unit, known by the SHA-256 of its bytes, and taken exactly once: quarantine, then table, then
`ingest_log`, each an atomic commit under that hash. A file is done when the log has it, so a run that was killed
anywhere is completed by running it again. A file's text is streamed; its canonical rows are held and sorted as a whole,
about 0.5 kB of memory each at the peak (1.6 GB for a file of 3.3 M trades).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.schema import CANONICAL, IngestLog, Quarantine, polars_schema
from pipelines.adapters import Adapter, Origin, adapter_named
from pipelines.adapters.lines import first_fields, numbered_lines, with_fields
from pipelines.adapters.tardis import VENUE_NAME
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments, write_instruments
from pipelines.lake import Lake
from pipelines.progress import Say, silent

SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".zip")  # of files looked at inside a directory
ROLES = ("perp", "spot")
MENDS = {
    "unknown_symbol": "add it to a file named by the setting `instruments`, or correct --venue",
    "duplicate_key": "these rows are in the lake already",
    "ts_out_of_range": "stamps must be microseconds since 1970",
}


@dataclass(frozen=True)
class FileReport:
    """What became of one file; `reasons` counts rows per reason, a row with two reasons under both."""

    path: str
    sha256: str
    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    reasons: dict[str, int]
    symbols: tuple[str, ...]  # as `venue:symbol`


@dataclass(frozen=True)
class IngestSummary:
    """Sums over the files ingested by this call. `skipped` were in the lake already, `ignored` are of another kind."""

    adapter: str
    table: str
    files: int
    rows_read: int
    rows_accepted: int
    rows_quarantined: int
    reasons: dict[str, int]
    symbols: tuple[str, ...]  # as `venue:symbol`
    per_file: tuple[FileReport, ...]
    skipped: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """What every file of one call shares."""

    adapter: Adapter
    lake: Lake
    instruments: pl.DataFrame
    venue: str | None
    role: str

    @property
    def key(self) -> list[str]:
        return CANONICAL[self.adapter.table].primary_key()


# --- which files -----------------------------------------------------------------------------------------------------


def _recognised(path: Path, adapter: Adapter) -> bool:
    """Whether a file found in a directory is this adapter's; one that cannot be read is, so that it is reported."""
    try:
        _, fields = first_fields(path)
    except InputError:
        return True
    return adapter.recognises(path.name, _lower(fields))


def _lower(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(field.lower() for field in fields)


def _inside(folder: Path, adapter: Adapter) -> tuple[list[Path], list[Path]]:
    """Recognised and ignored files below `folder`, by name. Raises InputError if none is recognised."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    taken = [path for path in files if _recognised(path, adapter)]
    if not taken:
        seen = f"{len(files)} csv, gz or zip file{'s' * (len(files) != 1)} there, none with the columns"
        raise InputError(f"no {adapter.name} file in directory", where=folder, mend=f"{seen} {_expected(adapter)}")
    return taken, [path for path in files if path not in set(taken)]


def _expected(adapter: Adapter) -> str:
    return ",".join(adapter.columns)


def _collect(paths: Sequence[Path], adapter: Adapter) -> tuple[list[Path], list[Path], list[str]]:
    """Files to ingest in the order given, files ignored, and what is wrong with paths that give no file."""
    taken: list[Path] = []
    ignored: list[Path] = []
    faults: list[str] = []
    for path in paths:
        if not path.is_dir():
            taken.append(path)
            continue
        try:
            found, other = _inside(path, adapter)
        except InputError as error:
            faults.append(str(error))
            continue
        taken += found
        ignored += other
    return list(dict.fromkeys(taken)), ignored, faults


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("no such file", where=path, mend="check the path") from None
    except OSError as error:
        raise InputError(f"file cannot be read ({error.strerror or error})", where=path) from None


# --- from text to candidate rows -------------------------------------------------------------------------------------


def _names(path: Path, adapter: Adapter) -> tuple[int, tuple[str, ...]]:
    """Line number of the header (0 without one) and the names of the file's columns."""
    line, fields = first_fields(path)
    fields = _lower(fields)
    if not adapter.header(fields):
        names = (*adapter.columns, *adapter.columns_optional)[: len(fields)]
        return 0, _checked(path, adapter, names)
    return line, _checked(path, adapter, fields)


def _checked(path: Path, adapter: Adapter, names: Sequence[str]) -> tuple[str, ...]:
    missing = [name for name in adapter.columns if name not in names]
    expected = f"a {adapter.name} file has {_expected(adapter)}"
    if missing:
        raise InputError(f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, mend=expected)
    if len(set(names)) < len(names):
        raise InputError("a column name stands twice in the header", where=path, mend=expected)
    if not adapter.recognises(path.name, names):
        raise InputError(f"not a {adapter.name} {adapter.table} file by its name or content", where=path)
    return tuple(names)


def _candidates(path: Path, job: _Job) -> pl.DataFrame:
    """Candidate rows of the whole file, in file order; only their text is let go."""
    header, names = _names(path, job.adapter)
    origin = Origin(path.name, job.venue, job.adapter.symbol_of(path.name), job.instruments)
    pieces = [
        job.adapter.candidates(with_fields(lines.filter(pl.col("line") != header), names), origin)
        for lines in numbered_lines(path)
    ]
    rows = pl.concat(pieces)
    if rows.is_empty():
        raise InputError("file holds a header and no row", where=path)
    return rows


def _check_role(rows: pl.DataFrame, path: Path, role: str) -> None:
    """Spot files must hold spot instruments only, perp files none: a mixed-up leg would poison the basis."""
    spot = pl.col("settlement") == "spot"
    wrong = rows.filter(~spot if role == "spot" else spot)
    if wrong.is_empty():
        return
    name, settlement = ":".join(wrong.select("venue", "symbol").row(0)), wrong["settlement"][0]
    mend = "leave out --role spot" if role == "spot" else "use --role spot"
    raise InputError(f"--role {role} does not fit {name}, whose settlement is {settlement}", where=path, mend=mend)


# --- refusing --------------------------------------------------------------------------------------------------------


def _refuse(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Set `reason` of the lines in `found` (line, reason) that have none yet."""
    if found.is_empty():
        return rows
    joined = rows.join(found, on="line", how="left", suffix="_found", maintain_order="left")
    return joined.with_columns(pl.coalesce("reason", "reason_found").alias("reason")).drop("reason_found")


def _sound(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("reason").is_null())


def _because(lines: pl.DataFrame, reason: str) -> pl.DataFrame:
    return lines.select("line", pl.lit(reason).alias("reason"))


def _repeated(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """Rows whose key stood in the file before: the first is kept."""
    return _because(rows.filter(~pl.struct(key).is_first_distinct()), "duplicate_key")


def _in_lake(rows: pl.DataFrame, job: _Job) -> pl.DataFrame:
    """Rows whose key the lake holds. Reads key columns of the same venues and symbols, of the rows' span only."""
    if rows.is_empty() or not job.lake.has(job.adapter.table):
        return _because(rows.clear(), "duplicate_key")
    first, last = rows["ts"].min(), rows["ts"].max()
    span = pl.col("ts").is_between(pl.lit(first, rows.schema["ts"]), pl.lit(last, rows.schema["ts"]))
    names = [pl.col(name).is_in(rows[name].unique().to_list()) for name in ("venue", "symbol")]
    stored = job.lake.scan(job.adapter.table).filter(*names, span).select(job.key).collect()
    return _because(rows.join(stored, on=job.key, how="semi", maintain_order="left"), "duplicate_key")


def _off_schema(rows: pl.DataFrame, job: _Job) -> pl.DataFrame:
    """Rows that the canonical schema refuses, with its rule names: the last gate."""
    schema = CANONICAL[job.adapter.table]
    _, failure = schema.filter(rows.select(polars_schema(schema).names()))
    if not failure.counts():
        return _because(rows.clear(), "")
    details = failure.details()
    rules = [name for name in details.columns if name not in polars_schema(schema)]
    words = [pl.when(pl.col(rule) == "invalid").then(pl.lit(rule)) for rule in rules]
    named = details.select(*job.key, pl.concat_str(words, separator="; ", ignore_nulls=True).alias("reason"))
    return rows.select(*job.key, "line").join(named, on=job.key, how="inner", nulls_equal=True).select("line", "reason")


def _standing(job: _Job, sha256: str) -> pl.DataFrame:
    """Lines of this very file that an earlier, killed run has put into quarantine, with their reasons."""
    mine = (pl.col("source_sha256") == sha256) & (pl.col("table") == job.adapter.table)
    return job.lake.scan("quarantine").filter(mine).select("line", "reason").collect()


def _judged(rows: pl.DataFrame, job: _Job, sha256: str) -> pl.DataFrame:
    """Rows with their final reason.

    What an earlier run of this file has refused stays refused; where that run had already stored the rest, that
    is final and nothing is checked again (the rows would only find themselves in the lake).
    """
    standing = _standing(job, sha256)
    if job.lake.committed(job.adapter.table, sha256):
        return _refuse(rows.with_columns(pl.lit(None, pl.String).alias("reason")), standing)
    rows = _refuse(rows, standing)
    rows = _refuse(rows, _repeated(_sound(rows), job.key))
    rows = _refuse(rows, job.adapter.judge(_sound(rows)))
    rows = _refuse(rows, _in_lake(_sound(rows), job))
    return _refuse(rows, _off_schema(_sound(rows), job))


# --- storing ---------------------------------------------------------------------------------------------------------


def _with_text(refused: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Add `raw`, the lines as they stood: the file is read a second time, so that sound rows need no text."""
    lines = refused.select("line")
    found = [frame.join(lines, on="line", how="semi") for frame in numbered_lines(path)]
    return refused.join(pl.concat(found), on="line", how="inner", validate="1:1").sort("line")


def _quarantine(rows: pl.DataFrame, path: Path, job: _Job, sha256: str) -> pl.DataFrame:
    """Refused rows in the shape of `Quarantine`."""
    refused = rows.filter(pl.col("reason").is_not_null())
    if refused.is_empty():
        return Quarantine.create_empty()
    source = {"table": job.adapter.table, "source": path.name, "source_sha256": sha256}
    texts = _with_text(refused, path).with_columns(pl.lit(value).alias(name) for name, value in source.items())
    return Quarantine.validate(texts.select(polars_schema(Quarantine).names()))


def _ordered(rows: pl.DataFrame, job: _Job) -> pl.DataFrame:
    """Rows in lake order: symbol, ts, then the rest of the key, trade ids by their number where they are numbers."""
    rest = [name for name in job.key if name not in ("venue", "symbol", "ts")]
    by_number = [pl.col("trade_id").cast(pl.Int64, strict=False)] if "trade_id" in rest else []
    order = [pl.col("symbol"), pl.col("ts"), *by_number, *(pl.col(name) for name in rest)]
    return rows.sort(order, nulls_last=True).select(polars_schema(CANONICAL[job.adapter.table]).names())


def _store(rows: pl.DataFrame, path: Path, job: _Job, sha256: str) -> None:
    """Commit quarantine, table and log, in that order; each is a no-operation where it was committed before."""
    accepted = _ordered(_sound(rows), job)
    refused = _quarantine(rows, path, job, sha256)
    standing = _standing(job, sha256)
    new = refused.join(standing, on="line", how="anti")
    log = {"table": job.adapter.table, "source": path.name, "source_sha256": sha256, "adapter": job.adapter.name}
    counts = {"rows_read": rows.height, "rows_accepted": accepted.height, "rows_quarantined": refused.height}
    line = IngestLog.validate(pl.DataFrame([log | counts], schema=polars_schema(IngestLog)))
    if new.height:
        job.lake.append("quarantine", new, f"{sha256}+{standing.height}")
    job.lake.append(job.adapter.table, accepted, sha256)
    job.lake.append("ingest_log", line, sha256)


# --- one file, all files ---------------------------------------------------------------------------------------------


def _reason_counts(rows: pl.DataFrame) -> dict[str, int]:
    words = rows.select(pl.col("reason").drop_nulls().str.split("; ").explode())["reason"]
    return dict(sorted(Counter(words.to_list()).items(), key=lambda item: (-item[1], item[0])))


def _refuse_all(rows: pl.DataFrame, path: Path, reasons: dict[str, int]) -> InputError:
    worst = next(iter(reasons))
    example = rows.filter(pl.col("reason").str.contains(worst, literal=True)).row(0, named=True)
    what = f"every one of {rows.height} rows was refused, most often {worst} ({reasons[worst]} rows, first line "
    what += f"{example['line']}, {example['venue']}:{example['symbol']})"
    return InputError(what, where=path, mend=MENDS.get(worst))


def _unchanged(path: Path, sha256: str) -> None:
    if _sha256(path) != sha256:
        raise InputError("file changed while it was read", where=path, mend="wait until it is complete")


def _ingest_file(path: Path, sha256: str, job: _Job) -> FileReport:
    """Read, judge and store one file. Raises InputError, with nothing of the file stored, if it is refused."""
    candidates = _candidates(path, job)
    _check_role(candidates, path, job.role)
    rows = _judged(candidates, job, sha256)
    reasons = _reason_counts(rows)
    accepted = _sound(rows)
    if accepted.is_empty():
        raise _refuse_all(rows, path, reasons)
    _unchanged(path, sha256)
    _store(rows, path, job, sha256)
    symbols = accepted.select(pl.concat_str("venue", "symbol", separator=":").unique().sort()).to_series().to_list()
    quarantined = rows.height - accepted.height
    return FileReport(str(path), sha256, rows.height, accepted.height, quarantined, reasons, tuple(symbols))


def _done(job: _Job) -> set[str]:
    logged = job.lake.scan("ingest_log").filter(pl.col("table") == job.adapter.table)
    return set(logged.select("source_sha256").collect().to_series().to_list())


def _run(files: Sequence[Path], job: _Job, progress: Say) -> tuple[list[FileReport], list[str], list[str]]:
    """Reports, skipped files and faults; one bad file does not keep the others out."""
    done = _done(job)
    reports: list[FileReport] = []
    skipped: list[str] = []
    faults: list[str] = []
    for path in files:
        progress(path.name)
        try:
            sha256 = _sha256(path)
            if sha256 in done:
                skipped.append(str(path))
                continue
            reports.append(_ingest_file(path, sha256, job))
            done.add(sha256)
        except InputError as error:
            faults.append(str(error))
    return reports, skipped, faults


def _check_arguments(paths: Sequence[Path], venue: str | None, role: str) -> None:
    if not paths:
        raise InputError("no file to ingest", mend="name files or directories")
    if role not in ROLES:
        raise InputError(f"`role` must be one of {', '.join(ROLES)}, was {role!r}")
    if venue is not None and not VENUE_NAME.fullmatch(venue):
        raise InputError(f"venue must match {VENUE_NAME.pattern}, was {venue!r}", mend="for example binance-coinm")


def _raise_faults(faults: list[str], ingested: int, skipped: int) -> None:
    """One error for all refused files; a single file's own error stands for itself."""
    if not faults:
        return
    if len(faults) == 1 and ingested + skipped == 0:
        raise InputError(faults[0])
    rest = f"{ingested} other{'s' * (ingested != 1)} ingested, {skipped} already there"
    what = f"{len(faults)} file{'s' * (len(faults) > 1)} refused, {rest}"
    raise InputError(what, where=" | ".join(faults), mend="mend them and run again, the others are skipped then")


def _summary(job: _Job, reports: list[FileReport], skipped: list[str], ignored: list[Path]) -> IngestSummary:
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.reasons)
    return IngestSummary(
        adapter=job.adapter.name,
        table=job.adapter.table,
        files=len(reports),
        rows_read=sum(report.rows_read for report in reports),
        rows_accepted=sum(report.rows_accepted for report in reports),
        rows_quarantined=sum(report.rows_quarantined for report in reports),
        reasons=dict(reasons.most_common()),
        symbols=tuple(sorted({symbol for report in reports for symbol in report.symbols})),
        per_file=tuple(reports),
        skipped=tuple(skipped),
        ignored=tuple(str(path) for path in ignored),
    )


def ingest(
    adapter: str,
    paths: Sequence[Path],
    lake: Lake,
    config: Config,
    *,
    venue: str | None = None,
    role: str = "perp",
    progress: Callable[[str], None] | None = None,
) -> IngestSummary:
    """Ingest files, and the files of this kind below directories, into `lake`; each exactly once, whatever is killed.

    `venue` overrides what the file says; `role` is `perp` or `spot` and must fit the instruments' settlement.
    `progress` is called with the name of each file. Holds the lake's writer lock: the caller must not.

    Raises InputError that names every refused file; the others have been ingested by then, and a rerun skips them.
    """
    _check_arguments(paths, venue, role)
    chosen = adapter_named(adapter)
    instruments = load_instruments(config)
    files, ignored, faults = _collect([Path(path) for path in paths], chosen)
    if not any(path.exists() for path in files):
        _raise_faults([*faults, *(f"no such file: {path}" for path in files)], 0, 0)
    job = _Job(chosen, lake, instruments, venue, role)
    with lake.writer():
        write_instruments(lake, instruments)
        reports, skipped, unread = _run(files, job, progress if progress is not None else silent)
    _raise_faults([*faults, *unread], len(reports), len(skipped))
    return _summary(job, reports, skipped, ignored)
