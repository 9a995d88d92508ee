"""The same backfill in this process, in two processes, on one and on two Dask workers: the same tables, in what time?

`python -m tests.bench.bench_engines [--days N] [--accounts N] [--rounds N]` simulates a venue, fills a copy of its lake
with each engine in alternating rounds, compares every table with that of this process, and tells the median wall clock
and CPU seconds (workers included). What counts are ratios: absolute times belong to the machine. Bars and features are
for the workers, scores and guard for this process: two workers halve the former at best. Nothing is written outside of
a temporary folder.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from pipelines.config import Config, DetectorConfig, SimulatorConfig
from pipelines.dask_pool import dask_pool
from pipelines.demo import START
from pipelines.lake import Lake
from pipelines.operating.backfill import backfill_venue
from pipelines.pools import HERE, Pool, processes
from pipelines.simulate import simulate_venue
from pipelines.times import Interval

WALL = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = (
    "bars", "hours", "structure", "features", "feature_health", "scores", "limits", "decisions", "account_decisions",
    "exposure_decisions", "guard_state", "pending",
)  # fmt: skip
ENGINES: dict[str, Callable[[Path], AbstractContextManager[Pool]]] = {
    "this process": lambda _: nullcontext(HERE),
    "2 processes": lambda _: processes(2),
    "1 Dask worker": lambda root: dask_pool(root, workers=1),
    "2 Dask workers": lambda root: dask_pool(root, workers=2),
}


def settings(days: int, accounts: int) -> Config:
    simulator = SimulatorConfig(accounts=accounts, days=float(days))
    return Config(simulator=simulator, detector=DetectorConfig(reference_h=12))


@contextmanager
def measured(into: list[tuple[float, float]]) -> Iterator[None]:
    """Wall clock and CPU seconds, of processes started and ended in between too."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    yield
    into.append((time.perf_counter() - wall, sum(os.times()[:4]) - cpu))


def differing(one: Lake, other: Lake) -> list[str]:
    """The tables that do not hold the same rows."""
    return [
        table
        for table in TABLES
        if not (mine := one.scan(table).collect()).sort(mine.columns).equals(_sorted(other, table, mine.columns))
    ]


def _sorted(lake: Lake, table: str, by: list[str]) -> pl.DataFrame:
    return lake.scan(table).collect().sort(by)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--days", type=int, default=4)
    asked.add_argument("--accounts", type=int, default=600)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    config, span = (
        settings(given.days, given.accounts),
        Interval(START + timedelta(days=1), START + timedelta(days=given.days)),
    )
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
        rows = Lake(Path(folder) / "rows")
        simulate_venue(rows, config, START)

        def filled(name: str, engine: str) -> Lake:
            lake = Lake(Path(folder) / name)  # a new one each time: MLflow keeps a store open by its path
            shutil.copytree(rows.root, lake.root)
            with ENGINES[engine](lake.root) as pool:
                backfill_venue(lake.root, "sim", span, config, wall=WALL, clock=lambda: WALL, pool=pool)
            return lake

        first = filled("first", "this process")  # unmeasured: imports, caches, the tables of the tracking store
        shutil.copytree(first.root / "mlflow", rows.root / "mlflow")
        found: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
        for nth in range(given.rounds):
            for engine, times in found.items():
                with measured(times):
                    lake = filled(f"{nth} {engine}", engine)
                other = differing(lake, first)
                if other:
                    raise SystemExit(f"{engine}: {', '.join(other)} differ from those of this process")
    tell(found, f"{span}, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")


def tell(found: dict[str, list[tuple[float, float]]], what: str) -> None:
    table = Table(title=f"backfill of {what}; all tables identical")
    for column in ("engine", "wall s", "CPU s", "wall, of this process"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    base = found["this process"]
    for engine, times in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(times, base, strict=True))
        table.add_row(engine, f"{wall:.1f}", f"{cpu:.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
