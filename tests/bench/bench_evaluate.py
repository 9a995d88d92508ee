"""Evaluation: a venue of minute scores judged from a file, beside a bare scan of it and scikit-learn on a slice.

`python -m tests.bench.bench_evaluate [--symbols N] [--days N] [--rounds N] [--full]` writes a file of scores sorted by
symbol and time, and runs each program in fresh processes, in alternating rounds, for CPU (user and system), wall and
peak memory. `scan` reads every column once and adds it up; `evaluate` is the whole job: threshold, events, episodes,
alarm time, ranking, calibration, intervals. scikit-learn is given the bars of one symbol in memory and asked for
average precision, ROC-AUC, Brier and log loss; `ours, the same` counts that slice and tells the same four, and both
must agree. `--full` is a year of 200 symbols (105 M rows) beside a quarter of its days and a quarter of its symbols:
one symbol is in memory at a time, so memory must not grow with symbols.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from models.evaluation import tally
from models.evaluation.evaluate import evaluate
from models.evaluation.settings import Settings
from pipelines.evaluating.files import read_events, read_scores
from pipelines.evaluating.run import first_third

SYMBOLS, DAYS, FULL_DAYS, EVENTS = 200, 30, 364, 4  # events per symbol and 30 days
DAY_MIN = 1_440
START = datetime(2025, 1, 1, tzinfo=UTC)
AGREE = 1e-4


def fill(folder: Path, symbols: int, days: int) -> tuple[Path, Path, int]:
    """Scores (parquet, a row group per symbol) and events (csv) of a venue; the number of rows."""
    folder.mkdir()
    rows, told = days * DAY_MIN, []
    ts = pl.Series("ts", [START], dtype=pl.Datetime("us", "UTC"))[0] + pl.int_range(rows, eager=True) * timedelta(
        minutes=1
    )
    parts = folder / "parts"
    parts.mkdir()
    for number in range(symbols):
        rng = np.random.default_rng(number)
        onsets = np.sort(rng.choice(np.arange(600, rows - 600, 600), max(1, EVENTS * days // 30), replace=False))
        ahead = np.append(onsets, 10**9)[np.searchsorted(onsets, np.arange(rows), side="right")] - np.arange(rows)
        score = rng.random(rows) ** 6 * 0.2 + 0.1 * (ahead <= 60) * rng.random(rows)
        name = f"S{number:04}"
        pl.DataFrame({"symbol": name, "ts": ts, "score": score}).write_parquet(parts / f"{name}.parquet")
        told += [(name, ts[int(m)], ts[int(m) + 20]) for m in onsets]
    pl.scan_parquet(parts).sink_parquet(folder / "scores.parquet", row_group_size=rows, maintain_order=True)
    pl.DataFrame(told, schema=["symbol", "onset", "end"], orient="row").write_csv(folder / "events.csv")
    return folder / "scores.parquet", folder / "events.csv", symbols * rows


def scan(scores: Path, _: Path) -> Any:
    read = pl.scan_parquet(scores).select(pl.col("score").sum(), pl.col("ts").max(), pl.col("symbol").max())
    return read.collect(engine="streaming").row(0)


def ours(scores: Path, events: Path) -> Any:
    found = read_scores(scores)
    settings = Settings(bar_s=found.bar_s, fit_until=first_third(found.parts()))
    return evaluate(found.parts(), read_events(events), settings).found["average_precision_lift"]


PROGRAMS: dict[str, Callable[[Path, Path], Any]] = {"scan": scan, "evaluate": ours}


def fresh(program: str, scores: Path, events: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_evaluate", "--program", program, str(scores), str(events)]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


def measured(program: str, scores: Path, events: Path) -> dict[str, float]:
    """CPU of this process without its imports, wall, and largest resident size."""
    cpu, wall = time.process_time(), time.perf_counter()
    PROGRAMS[program](scores, events)
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return took | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_rounds(scores: Path, events: Path, rounds: int) -> dict[str, dict[str, float]]:
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name in PROGRAMS:
            seen[name].append(fresh(name, scores, events))
    return {name: {key: statistics.median(one[key] for one in some) for key in some[0]} for name, some in seen.items()}


# --- a slice, beside scikit-learn ---


def slice_of(rows: int) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
    rng = np.random.default_rng(1)
    happened = rng.random(rows) < 0.01
    score = np.clip(rng.random(rows) ** 4 * 0.3 + 0.2 * happened * rng.random(rows), 1e-6, 1)
    ts = pl.Series("ts", [START], dtype=pl.Datetime("us", "UTC"))[0] + pl.int_range(rows, eager=True) * timedelta(
        minutes=1
    )
    return happened, score, pl.DataFrame({"ts": ts, "score": score, "happened": happened.astype(np.int8)})


def by_sklearn(happened: np.ndarray, score: np.ndarray) -> tuple[float, ...]:
    from sklearn import metrics as sk

    measures = (sk.average_precision_score, sk.roc_auc_score, sk.brier_score_loss, sk.log_loss)
    return tuple(float(measure(happened, score)) for measure in measures)


def by_tally(rows: pl.DataFrame) -> tuple[float | None, ...]:
    from models.evaluation.symbol import _by_day

    found, days = tally.merged([tally.tally(rows, tally.FINE, by_day=False)]), _by_day(rows)
    scored = days["scored"].sum()
    return (
        tally.average_precision(found),
        tally.roc_auc(found),
        days["squares"].sum() / scored,
        days["losses"].sum() / scored,
    )


def beside_sklearn(rows: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of both over alternating rounds, once they agree."""
    happened, score, frame = slice_of(rows)
    for own, theirs in zip(by_tally(frame), by_sklearn(happened, score), strict=True):
        assert own is not None and abs(own - theirs) <= AGREE * abs(theirs), (own, theirs)  # noqa: PT018 - one check
    seen: dict[str, list[float]] = {"ours, the same": [], "scikit-learn": []}
    for _ in range(rounds):
        for name, program in (
            ("ours, the same", lambda: by_tally(frame)),
            ("scikit-learn", lambda: by_sklearn(happened, score)),
        ):
            cpu = time.process_time()
            program()
            seen[name].append(time.process_time() - cpu)
    return {name: statistics.median(some) for name, some in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=SYMBOLS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="a year beside quarters of it, one round")
    parser.add_argument("--program", nargs=3, metavar=("NAME", "SCORES", "EVENTS"), help="run one program once")
    given = parser.parse_args()
    if given.program:
        name, scores, events = given.program
        print(json.dumps(measured(name, Path(scores), Path(events))))
        return
    table = Table("rows", "program", "CPU s", "wall s", "M rows / CPU s", "x scan, CPU", "peak MB")
    symbols, days = given.symbols, given.days
    year = ((symbols, FULL_DAYS // 4), (symbols // 4, FULL_DAYS), (symbols, FULL_DAYS))
    for place, (width, length) in enumerate(year if given.full else ((symbols, days), (symbols * 4, days))):
        with tempfile.TemporaryDirectory(prefix="bench-evaluate-") as folder:
            scores, events, rows = fill(Path(folder) / "venue", width, length)
            found = in_rounds(scores, events, 1 if given.full or place else given.rounds)
        for name, took in found.items():
            ratio = took["cpu_s"] / found["scan"]["cpu_s"]
            cells = [
                f"{took['cpu_s']:.2f}",
                f"{took['wall_s']:.2f}",
                f"{rows / took['cpu_s'] / 1e6:.1f}",
                f"{ratio:.1f}",
            ]
            table.add_row(f"{rows:,} = {width} x {length} d", name, *cells, f"{took['peak_mb']:.0f}")
    slice_rows = 365 * DAY_MIN
    for name, cpu_s in beside_sklearn(slice_rows, given.rounds).items():
        table.add_row(f"{slice_rows:,} (slice)", name, f"{cpu_s:.2f}", "", f"{slice_rows / cpu_s / 1e6:.1f}", "", "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
