"""Result files in the form of the Numenta Anomaly Benchmark, scored as it does: to compare with published ones."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.evaluation import nab
from pipelines.errors import InputError

NAMES = {"standard": "standard", "reward_low_fp": "reward_low_FP_rate", "reward_low_fn": "reward_low_FN_rate"}


@dataclass(frozen=True)
class Graded:
    """`scores`: by profile, 0 for silence, 100 for perfection, over all files; `thresholds`: what a detection is.

    `raw`: S by profile, the sum over `by_file`; `by_file`: `rows, windows` and S by profile as `raw`. In the JSON an
    infinite threshold, which nothing reaches, is null.
    """

    files: int
    windows: int
    scores: dict[str, float | None]
    raw: dict[str, float]
    thresholds: dict[str, float]
    by_file: dict[str, dict[str, Any]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        reached = {name: level if math.isfinite(level) else None for name, level in self.thresholds.items()}
        return asdict(self) | {"thresholds": reached}

    def sentence(self) -> str:
        told = ", ".join(f"{name} {score:.4f}" for name, score in self.scores.items() if score is not None)
        lines = [f"{self.files} files, {self.windows} windows: {told}", *self._lines()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _lines(self) -> list[str]:
        """S of every file and their sum: what a reader compares with the benchmark's own tables."""
        wide = max(map(len, [*self.by_file, "sum"]))
        rows = [(name, str(one["rows"]), str(one["windows"]), one["raw"]) for name, one in self.by_file.items()]
        heads = "".join(f"{name:>15}" for name in self.raw)
        told = [
            f"{name:<{wide}}{count:>8}{windows:>8}" + "".join(f"{value:>15.6f}" for value in raw.values())
            for name, count, windows, raw in [*rows, ("sum", "", str(self.windows), self.raw)]
        ]
        return [f"{'':<{wide}}{'rows':>8}{'windows':>8}{heads}", *told]


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
    names = (file, f"{results.resolve().name}_{file}")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read(path: Path, windows: list[list[str]]) -> _File:
    """Rows and windows of one result. Raises InputError for a file or a window that is none, or that holds no row."""
    try:
        rows = pl.read_csv(path, columns=["timestamp", "anomaly_score"], schema_overrides={"timestamp": pl.String})
        ts, score = rows["timestamp"].str.to_datetime(time_unit="us"), rows["anomaly_score"].cast(pl.Float64)
        edges = [pl.Series(pair).str.to_datetime(time_unit="us") for pair in windows]
    except (pl.exceptions.PolarsError, OSError) as error:
        told, mend = str(error).splitlines()[0], "it needs timestamp, anomaly_score, and windows of times"
        raise InputError(told, where=path, mend=mend) from None
    within = [ts.is_between(*edge).arg_true() for edge in edges]
    spans = sorted((int(rows[0]), int(rows[-1])) for rows in within if rows.len())
    if len(spans) < len(within) or any(first <= before for (_, before), (first, _) in pairwise(spans)):
        told = "a window holds no row, or two share one"
        raise InputError(told, where=path, mend="give the windows of this file's own rows, apart from one another")
    return _File(score.fill_null(float("nan")).to_numpy(), tuple(spans))


def read_thresholds(path: Path, detector: str) -> dict[str, float]:
    """What the benchmark calls a detection of `detector`, by profile: `{detector: {profile: {"threshold": x}}}`.

    Raises InputError where the file cannot be read or does not name the detector.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))[detector]
        return {ours: float(told[theirs]["threshold"]) for ours, theirs in NAMES.items()}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        mend = (
            f'it needs {{"{detector}": {{"standard": {{"threshold": x}}, ...}}}}, by the name of the results\' folder'
        )
        raise InputError(f"no threshold can be read ({error!r})", where=path, mend=mend) from None


def _graded(file: _File, level: float, profile: nab.Profile) -> float:
    return nab.gains(file.score, file.windows, profile).at(level)


def grade(results: Path, windows: Path, thresholds: Mapping[str, float]) -> Graded:
    """Score every file that `windows` names; a profile without a threshold gets the best one, as published scores did.

        score = 100 (sum of S - sum of S_null) / (sum of S_perfect - sum of S_null)          sums over the files

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
    files = {name: _read(path, named[name]) for name, path in paths.items() if path is not None}
    return _told(files, {name: thresholds.get(name) for name in nab.PROFILES})


def _told(files: Mapping[str, _File], thresholds: Mapping[str, float | None]) -> Graded:
    chosen = {
        name: nab.best_threshold([nab.gains(one.score, one.windows, nab.PROFILES[name]) for one in files.values()])
        if level is None
        else level
        for name, level in thresholds.items()
    }
    by_file: dict[str, dict[str, Any]] = {
        file: {
            "rows": one.score.size,
            "windows": len(one.windows),
            "raw": {name: _graded(one, chosen[name], profile) for name, profile in nab.PROFILES.items()},
        }
        for file, one in files.items()
    }
    raw = {name: math.fsum(one["raw"][name] for one in by_file.values()) for name in nab.PROFILES}
    count = sum(len(one.windows) for one in files.values())
    scores = {name: nab.normalised(raw[name], count, profile) for name, profile in nab.PROFILES.items()}
    tuned = [name for name, level in thresholds.items() if level is None]
    note = f"the threshold of {', '.join(tuned)} was tuned on the files that are scored, as the benchmark does"
    return Graded(len(files), count, scores, raw, chosen, by_file, (note,) if tuned else ())
