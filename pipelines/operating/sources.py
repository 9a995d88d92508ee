"""The files that runs take by themselves: `[[sources]]`, looked at by size and time, read only where those are new.

    L/schedule/files.json   path -> source, size, time of change, and what became of it

A file that was taken, or refused, is left alone until its size or time changes; what its bytes are known by is the
business of `pipelines.ingest`. A bad file costs a note, never the run.
"""

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import Config, SourceConfig
from pipelines.errors import InputError
from pipelines.operating.lease import LeaseLostError, schedule_folder, write_json
from pipelines.progress import Say, silent

if TYPE_CHECKING:
    from pipelines.lake import Lake

TAKEN, REFUSED = "taken", "refused"


@dataclass(frozen=True)
class Seen:
    """One file of one source as the disk shows it."""

    source: str
    path: Path
    size: int
    changed_ns: int

    @property
    def key(self) -> str:
        return f"{self.source}:{self.path}"

    @property
    def stamp(self) -> list[int]:
        return [self.size, self.changed_ns]


@dataclass(frozen=True)
class Intake:
    """What one look at files, or at venues, came to."""

    files: int = 0
    rows_accepted: int = 0
    rows_quarantined: int = 0
    notes: tuple[str, ...] = ()

    def plus(self, other: "Intake") -> "Intake":
        """Both together.

        >>> Intake(1, 20, 3, ("a",)).plus(Intake(notes=("b",)))
        Intake(files=1, rows_accepted=20, rows_quarantined=3, notes=('a', 'b'))
        """
        return Intake(
            self.files + other.files,
            self.rows_accepted + other.rows_accepted,
            self.rows_quarantined + other.rows_quarantined,
            (*self.notes, *other.notes),
        )


def source_key(source: SourceConfig) -> str:
    """What tells sources apart: everything but where their files lie."""
    return hashlib.sha256(source.model_dump_json(exclude={"paths"}).encode()).hexdigest()[:12]


def _matched(pattern: str) -> list[Path]:
    """Files of a pattern; of a folder all files below it, hidden ones left out."""
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute patterns too
    inside = [path for folder in found if folder.is_dir() for path in sorted(folder.rglob("*"))]
    return [path for path in (*found, *inside) if not path.name.startswith(".")]


def seen_files(source: SourceConfig) -> Iterator[Seen]:
    """The files of a source; one that vanishes while we look is not there."""
    for path in dict.fromkeys(path for pattern in source.paths for path in _matched(pattern)):
        try:
            stat = path.stat()
        except OSError:
            continue
        if path.is_file():
            yield Seen(source_key(source), path, stat.st_size, stat.st_mtime_ns)


def read_ledger(root: Path) -> dict[str, Any]:
    """What became of every file; empty where nothing is known: the files are then read, and known by their content."""
    try:
        found: dict[str, Any] = json.loads((schedule_folder(root) / "files.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def anything_new(root: Path, config: Config) -> bool:
    """Whether a run would find a file to take, a file gone, or a source without any: a look at names and stamps."""
    ledger = read_ledger(root)
    looked = [list(seen_files(source)) for source in config.sources]
    seen = {file.key: file.stamp for files in looked for file in files}
    return not all(looked) or seen != {key: told["stamp"] for key, told in ledger.items()}


def take_new(lake: "Lake", config: Config, say: Say = silent) -> Intake:
    """Ingest the files that are new or have changed since the last look; none of the others is opened."""
    ledger = read_ledger(lake.root)
    kept: dict[str, Any] = {}
    found = Intake()
    for source in config.sources:
        files = list(seen_files(source))
        new = [file for file in files if ledger.get(file.key, {}).get("stamp") != file.stamp]
        kept |= {file.key: ledger[file.key] for file in files if file not in new}
        if not files:
            found = found.plus(Intake(notes=(f"no file of {source.adapter} at {', '.join(source.paths)}",)))
        if new:
            taken, became = _taken(lake, config, source, new, say=say)
            found = found.plus(taken)
            kept |= {file.key: {"stamp": file.stamp, "became": word} for file, word in became}
    if kept != ledger:
        write_json(schedule_folder(lake.root) / "files.json", kept)
    return found


def _taken(
    lake: "Lake", config: Config, source: SourceConfig, files: Sequence[Seen], *, say: Say
) -> tuple[Intake, list[tuple[Seen, str]]]:
    """What the files come to, and what became of each; nothing became of them where the machine failed, not they."""
    from pipelines.ingest import Choice, ingest_sound

    choice = Choice(source.venue, source.symbol, source.role, source.kind, source.mapping)
    try:
        done, faults = ingest_sound(source.adapter, [file.path for file in files], lake, config, choice, progress=say)
    except InputError as error:  # the source itself is wrong: its adapter, its mapping, an instruments file
        return Intake(notes=(f"source {source.adapter}: {error}",)), []
    except LeaseLostError:
        raise
    except Exception as error:  # a full disk, a stalled server: the next run tries again
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Intake(notes=(f"source {source.adapter}: {len(files)} files not taken whole ({why})",)), []
    sound = {report.path for report in done.per_file} | {*done.skipped, *done.ignored}
    notes = tuple(f"source {source.adapter}: {fault}; it is tried again when the file changes" for fault in faults)
    intake = Intake(done.files, done.rows_accepted, done.rows_quarantined, notes)
    return intake, [(file, TAKEN if str(file.path) in sound else REFUSED) for file in files]
