"""Result files in the form of the Numenta Anomaly Benchmark, scored as it does: to compare with published ones."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.evaluation import nab
from pipelines.errors import InputError


@dataclass(frozen=True)
class Graded:
    """`scores`: by profile, 0 for silence, 100 for perfection; `thresholds`: by profile, what a detection is."""

    files: int
    windows: int
    scores: dict[str, float | None]
    thresholds: dict[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        told = ", ".join(f"{name} {score:.4f}" for name, score in self.scores.items() if score is not None)
        lines = [f"{self.files} files, {self.windows} windows: {told}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class _File:
    score: NDArray[np.float64]
    windows: tuple[tuple[int, int], ...]


def read_windows(path: Path) -> dict[str, list[list[str]]]:
    """`{"folder/file.csv": [[from, to], ...]}`. Raises InputError for anything else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): [[str(edge) for edge in pair] for pair in pairs] for name, pairs in told.items()}
    except (OSError, UnicodeDecodeError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"windows cannot be read ({error})", where=path, mend='give {"folder/file.csv": [[from, to], ...]}'
        ) from None


def _found(results: Path, name: str) -> Path | None:
    """The result of a data file: the same name, or that name after a detector's and `_`."""
    folder, file = (results / name).parent, Path(name).name
    names = (file, f"{results.name}_{file}")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read(path: Path, windows: list[list[str]]) -> _File:
    try:
        rows = pl.read_csv(path, columns=["timestamp", "anomaly_score"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"the result cannot be read ({error})", where=path, mend="it needs timestamp, anomaly_score"
        ) from None
    ts = rows["timestamp"].str.to_datetime(time_unit="us")
    edges = [pl.Series(pair).str.to_datetime(time_unit="us") for pair in windows]
    spans = tuple(
        (int(ts.search_sorted(edge[0], "left")), int(ts.search_sorted(edge[1], "right")) - 1) for edge in edges
    )
    return _File(rows["anomaly_score"].cast(pl.Float64).fill_null(0.0).to_numpy(), spans)


def _total(files: list[_File], threshold: float, profile: nab.Profile) -> float:
    return sum(nab.raw_score(one.score >= threshold, one.windows, profile) for one in files)


def _best(files: list[_File], profile: nab.Profile) -> float:
    """The threshold with the highest total: the benchmark tunes it on what it scores."""
    levels = np.unique(np.concatenate([one.score for one in files]))
    return float(max((*levels.tolist(), np.inf), key=lambda level: _total(files, level, profile)))


def grade(results: Path, windows: Path, thresholds: Mapping[str, float]) -> Graded:
    """Score every file that `windows` names; a profile without a threshold gets the best one, as published scores did.

    Raises InputError where a result is missing or cannot be read.
    """
    named = read_windows(windows)
    paths = {name: _found(results, name) for name in named}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(named)} results are missing, the first is {missing[0]}", where=results,
            mend="results lie as RESULTS/folder/NAME_file.csv, NAME being that of RESULTS",
        )  # fmt: skip
    files = [_read(path, named[name]) for name, path in paths.items() if path is not None]
    tuned = [name for name in nab.PROFILES if name not in thresholds]
    used = {name: thresholds.get(name, None) for name in nab.PROFILES}
    chosen = {name: _best(files, nab.PROFILES[name]) if level is None else level for name, level in used.items()}
    count = sum(len(one.windows) for one in files)
    scores = {
        name: nab.normalised(_total(files, chosen[name], profile), count, profile)
        for name, profile in nab.PROFILES.items()
    }
    note = f"the threshold of {', '.join(tuned)} was tuned on the files that are scored, as the benchmark does"
    return Graded(len(files), count, scores, chosen, (note,) if tuned else ())
