"""Finished seeds of the closed loop, kept in a folder: a run that was cut off goes on where it stood.

A file is one seed, whole or not there. Its name tells the seed and a hash of all that its numbers follow from: the
venue, the length, the policy, the score and our own source. What other code or another policy found stays beside it.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from guardrails.policy import Policy
from pipelines.closed_loop import ArmRun, Score, Setting, Work
from pipelines.durable import write_whole
from pipelines.errors import InputError
from pipelines.operating.history import code_sha256, hash_of


def key_of(setting: Setting, policy: Policy, score: Score | None) -> str:
    """Hash of all that decides what a seed comes to."""
    named = None if score is None else f"{score.__module__}.{score.__qualname__}"
    return hash_of([asdict(setting), policy.sha256, named, code_sha256()])[:20]


@dataclass(frozen=True)
class Kept:
    """The seeds of one `key_of` in `folder`."""

    folder: Path
    key: str

    def path(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}-{self.key}.parquet"

    def seed(self, work: Work, seed: int) -> list[ArmRun]:
        """What is kept of `seed`; where nothing is, what `work` comes to, which is then kept.

        Raises InputError where the folder cannot be written or a file in it cannot be read.
        """
        path = self.path(seed)
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return _read(path)
        runs = work(seed)
        with self._told():
            write_whole(path, _written(runs))
        return runs

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"seeds cannot be kept ({error.strerror or error})", where=self.folder) from None


def _written(runs: Sequence[ArmRun]) -> bytes:
    """One row per arm; its minutes are a table of their own in it, as bytes."""
    rows = [
        {"arm": run.arm, "seed": run.seed, "numbers": json.dumps(run.numbers), "minutes": _bytes(run.minutes)}
        for run in runs
    ]
    return _bytes(pl.DataFrame(rows))


def _read(path: Path) -> list[ArmRun]:
    try:
        return [
            ArmRun(row["arm"], row["seed"], json.loads(row["numbers"]), pl.read_parquet(io.BytesIO(row["minutes"])))
            for row in pl.read_parquet(path.read_bytes()).iter_rows(named=True)
        ]
    except (pl.exceptions.PolarsError, ValueError, KeyError):
        raise InputError("not a finished seed of `loop`", where=path, mend="delete it: it is run again") from None


def _bytes(table: pl.DataFrame) -> bytes:
    held = io.BytesIO()
    table.write_parquet(held)
    return held.getvalue()
