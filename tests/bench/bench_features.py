"""Bars to features: the catalogue beside pandas, tsfresh and tsflex, a scheduled minute beside a day, and memory.

`python -m tests.bench.bench_features [--symbols N] [--rounds N] [--full]` makes a venue-day of 200 symbols at one
minute (a few random markets under many names, with structure, norms and peers), compares ours with pandas by value,
and then runs every program in fresh processes, in alternating rounds, for CPU (user and system), wall and peak memory.
A cell is one feature of one bar; what counts are ratios of cells per CPU second. `--full` adds the cost of each feature
alone. tsfresh and tsflex live in an environment of their own, `.venv-bench`, made on first use; where that fails the
table says so. They are given a slice and roll statistics, not features: their ratios are of cost per cell.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from features import matrix as ours
from features.catalogue import Catalogue, catalogue, plan
from features.exact import STEP, finite, rolling_mean, rolling_quantile, rolling_std, steps
from features.faults import input_health
from features.feature import Step
from features.matrix import Beside, columns_read, features_and_health
from features.plans import Plan, plan_of, plans_of
from tests.bench.features_in_pandas import TWINS, in_pandas
from tests.bench.rolling_others import STATISTICS
from tests.features.worlds import START, World, rich_world

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ROOT / ".venv-bench"
PINS = ("numpy==2.4.6", "pandas==3.1.1", "tsfresh==0.21.2", "tsflex==0.4.1")
BASE = ("A-PERP", "B-PERP", "C-PERP", "D-PERP")
SYMBOLS = 200
DAY_MIN = 1_440
DAYS = (1, 2, 4)
LOOKBACK = timedelta(minutes=catalogue().lookback_min)
STRUCTURE_REACH = timedelta(minutes=ours.STRUCTURE_AGE_MIN_MAX + 15)
WINDOW = 240
ROLLED = ("imbalance", "spread_bps", "quote_age_s")
SLICE_BARS = 600
TARGETS = {"pandas": 20.0, "tsfresh": 150.0, "tsflex": 6.0}
MINUTE_TARGET = 0.02
Found = dict[str, Any]


# --- the world ---


def write_world(folder: Path, days: int) -> None:
    """A few markets, long enough for `days` whole days after the longest lookback."""
    world = rich_world(catalogue().lookback_min + days * DAY_MIN, BASE)
    bars = world.bars.select(columns_read())
    for name, frame in (("bars", bars), ("structure", world.structure), ("norms", world.norms), ("peers", world.peers)):
        frame.write_parquet(folder / f"{name}.parquet")


@dataclass(frozen=True)
class Venue:
    """Where the markets lie, and as how many symbols they are read."""

    folder: Path
    symbols: int

    def read(self, end_min: int, new_min: int) -> World:
        """What a run of the `new_min` minutes before `end_min` (after the first lookback) reads of the lake."""
        end = START + LOOKBACK + timedelta(minutes=end_min)
        first = end - timedelta(minutes=new_min) - LOOKBACK
        starts = {"bars": first, "structure": first - STRUCTURE_REACH, "norms": first, "peers": first}
        ends = {"bars": end, "structure": end, "norms": end + timedelta(hours=1), "peers": end}
        frames = {
            name: self._tiled(
                pl.scan_parquet(self.folder / f"{name}.parquet").filter(
                    pl.col("ts") > start, pl.col("ts") <= ends[name]
                )
            )
            for name, start in starts.items()
        }
        return World(frames["bars"], frames["structure"], frames["norms"], frames["peers"])

    def _tiled(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """The markets under as many names as asked; columns of their own, so that memory is what it would be."""
        held, copies = rows.collect(), -(-self.symbols // len(BASE))
        parts = [
            held.filter(pl.col("symbol") == symbol).with_columns(pl.lit(f"{symbol}{place:03}").alias("symbol"))
            for symbol in BASE
            for place in range(copies)
        ]
        return pl.concat(parts[: self.symbols], rechunk=True)


def since_of(world: World) -> Any:
    """The start of the new bars: the first bar lies a lookback before them."""
    first: Any = world.bars["ts"].min()
    return first - timedelta(minutes=1) + LOOKBACK


def beside_of(world: World) -> Beside:
    return Beside(world.structure, world.norms, world.peers)


# --- the programs: a world in, features out ---


def whole(world: World) -> pl.DataFrame:
    """Every feature and the health of its inputs, as the step `features` runs it."""
    return features_and_health(world.bars, beside_of(world), since=since_of(world))[0]


def same_names() -> list[str]:
    return [name for name in catalogue().names if name in TWINS]


def only(world: World, names: Sequence[str], since: Any) -> pl.DataFrame:
    """`symbol, ts` and some features, without those that read the market as a whole, and without health."""
    planned, columns = plan()
    some = Catalogue({"some": tuple(feature for feature in planned.features if feature.name in names)})
    inputs = ours.Inputs(ours._in_order(world.bars), beside_of(world), Step(), since)
    key = inputs.bars.select("symbol", "ts")
    key = key if since is None else key.filter(pl.col("ts") > since)
    parts = [ours._computed(inputs, one).drop("symbol", "ts") for one in plans_of(some, columns)]
    return pl.concat([key, *parts], how="horizontal").select("symbol", "ts", *names)


def new_bars(world: World) -> pl.DataFrame:
    return only(world, same_names(), since_of(world))


def every_bar(world: World) -> pl.DataFrame:
    return only(world, same_names(), None)


def twins(world: World) -> Callable[[], Any]:
    """pandas on frames that are pandas' already."""
    frames = world.bars.to_pandas(), world.structure.to_pandas()
    return lambda: in_pandas(*frames, same_names())


def statistics_of(bars: pl.DataFrame) -> pl.DataFrame:
    """What `rolling_others` rolls, by the exact windows that features are made of, read and stacked as they are."""
    exprs = []
    for name in ROLLED:
        x = pl.col(name)
        told = {
            "mean": rolling_mean(x, WINDOW),
            "std": rolling_std(x, WINDOW) * ((WINDOW - 1) / WINDOW) ** 0.5,
            "sum": steps(x).rolling_sum(WINDOW) * STEP,
            "max": x.rolling_max(WINDOW),
            "min": x.rolling_min(WINDOW),
            "median": rolling_quantile(x, 0.5, WINDOW),
        }
        exprs += [finite(told[what]).alias(f"{name}_{what}") for what in STATISTICS]
    return ours._computed(ours.Inputs(ours._in_order(bars), Beside(), Step(), None), plan_of(exprs, WINDOW))


PROGRAMS: dict[str, Callable[[World], Callable[[], Any]]] = {
    "ours: every feature": lambda world: partial(whole, world),
    "ours: the same, new bars": lambda world: partial(new_bars, world),
    "ours: the same, every bar": lambda world: partial(every_bar, world),
    "pandas": twins,
    "ours: statistics": lambda world: partial(statistics_of, world.bars),
}


# --- what runs in a process of its own ---


@contextmanager
def timing(into: list[tuple[float, float]]) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    into.append((time.process_time() - cpu, time.perf_counter() - wall))


def peak_mb() -> float:
    """Largest resident size so far. `getrusage` would say that of the parent too: it outlives an exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_program(venue: Venue, name: str) -> Found:
    """One run over a venue-day, after a run over a few symbols that compiles and imports."""
    PROGRAMS[name](Venue(venue.folder, len(BASE)).read(DAY_MIN, DAY_MIN))()
    run, seen = PROGRAMS[name](venue.read(DAY_MIN, DAY_MIN)), list[tuple[float, float]]()
    with timing(seen):
        found = run()
    return {"cpu_s": seen[0][0], "wall_s": seen[0][1], "peak_mb": peak_mb(), "rows": len(found)}


def run_minutes(venue: Venue, rounds: int) -> Found:
    """A day, five minutes and one minute in turn; CPU seconds of each round."""
    worlds = {minutes: venue.read(DAY_MIN, minutes) for minutes in (DAY_MIN, 5, 1)}
    whole(worlds[1])
    seen: dict[int, list[tuple[float, float]]] = {minutes: [] for minutes in worlds}
    for _ in range(rounds):
        for minutes, world in worlds.items():
            with timing(seen[minutes]):
                whole(world)
    return {str(minutes): times for minutes, times in seen.items()}


def run_parts(venue: Venue, rounds: int) -> Found:
    """Median CPU seconds of each step of a run over a day and over a minute, and of each family's features alone."""
    worlds = {minutes: venue.read(DAY_MIN, minutes) for minutes in (DAY_MIN, 1)}
    whole(worlds[1])
    return {
        str(minutes): {name: statistics.median(_cpu_s(part) for _ in range(rounds)) for name, part in _parts(world)}
        for minutes, world in worlds.items()
    }


def _cpu_s(run: Callable[[], Any]) -> float:
    seen: list[tuple[float, float]] = []
    with timing(seen):
        run()
    return seen[0][0]


def _parts(world: World) -> Iterator[tuple[str, Callable[[], Any]]]:
    step, since, (known, columns) = Step(), since_of(world), plan()
    ordered = ours._in_order(world.bars.select(columns_read()))
    bare = ours.Inputs(ordered, beside_of(world), step, since)
    inputs = ours._with_market(bare)
    newest = ordered.filter(pl.col("ts") > since)
    yield "order", lambda: ours._in_order(world.bars.select(columns_read()))
    yield "market", lambda: ours._with_market(bare)
    yield "known_at", lambda: ours._known_at(ordered, known, step, since)
    yield "health", lambda: input_health(ours._with_structure(newest, world.structure))
    for one in plans_of(known, columns):
        tier = f"tier {one.lookback_min} min"
        yield f"{tier}: {len(one.exprs)} features", partial(ours._computed, inputs, one)
        yield f"{tier}, of which reading", partial(inputs.read, one.reads, one.lookback_min)
    for family, members in known.families.items():
        plans = plans_of(Catalogue({family: members}), columns) if members else ()
        yield f"family {family}: {len(members)}", partial(_family, inputs, plans)


def _family(inputs: ours.Inputs, plans: Sequence[Plan]) -> None:
    for one in plans:
        ours._computed(inputs, one)


def run_days(venue: Venue, days: int) -> Found:
    """Days one after the other, as the step `features` takes them: read, compute, write, forget."""
    with tempfile.TemporaryDirectory() as folder:
        for day in range(1, days + 1):
            whole(venue.read(day * DAY_MIN, DAY_MIN)).write_parquet(Path(folder) / f"{day}.parquet")
    return {"peak_mb": peak_mb()}


def run_each(venue: Venue, rounds: int) -> Found:
    """Median CPU ms of each feature alone over usable bars of a day and its lookback, and their number."""
    world = venue.read(DAY_MIN, DAY_MIN)
    inputs = ours._with_market(ours.Inputs(ours._in_order(world.bars), beside_of(world), Step(), None))
    planned, columns = plan()
    rows = inputs.read({name for feature in catalogue().features for name in feature.expr.meta.root_names()}, 0)
    told = {
        feature.name: 1e3
        * statistics.median(_cpu_s(partial(_alone, rows, feature.expr, columns)) for _ in range(rounds))
        for feature in planned.features
    }
    return {"rows": rows.height, "cpu_ms": told}


def _alone(rows: pl.DataFrame, expr: pl.Expr, columns: Mapping[str, pl.Expr]) -> pl.DataFrame:
    told = finite(expr).alias("told")
    one = plan_of([told], 0, columns)
    return ours._on_stacks(rows.select("symbol", "ts", *sorted(one.reads - {"symbol", "ts"})), one, 0, pl.lit(True))


# --- comparing ---


def run_agreement(venue: Venue) -> Found:
    """Raise AssertionError where pandas' features are not ours: the same nulls, values within 1e-3."""
    world = Venue(venue.folder, len(BASE)).read(DAY_MIN, DAY_MIN)
    mine, theirs = every_bar(world), twins(world)()
    assert mine["symbol"].to_list() == theirs["symbol"].to_list()
    for name in same_names():
        left, right = mine[name].to_numpy(), theirs[name].to_numpy(dtype="float64", na_value=np.nan)
        told = np.isfinite(left)
        assert told.mean() > 0.4, f"{name} tells too little to be compared"
        assert (told == np.isfinite(right)).all(), f"{name} is null at {(told != np.isfinite(right)).sum()} other bars"
        off = ~np.isclose(left[told], right[told], rtol=1e-3, atol=1e-3)
        assert not off.any(), f"{name} differs at {off.sum()} bars of {told.sum()}"
    return {"features": len(same_names())}


def others_ready() -> str | None:
    """Make `.venv-bench` where it is not there; the reason where it cannot be made."""
    python = OTHERS / "bin" / "python"
    probe = [str(python), "-c", "import tsfresh, tsflex"]
    if python.exists() and subprocess.run(probe, check=False, capture_output=True).returncode == 0:
        return None
    for command in (
        [sys.executable, "-m", "venv", str(OTHERS)],
        [str(python), "-m", "pip", "install", "--quiet", *PINS],
        probe,
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            return f"{' '.join(command[1:4])}: {lines[-1][:100]}"
    return None


def run_others(venue: Venue, folder: Path, name: str) -> Found:
    """One of `rolling_others` over a slice of one symbol; AssertionError where its statistics are not ours."""
    bars = Venue(venue.folder, 1).read(DAY_MIN, DAY_MIN).bars.head(SLICE_BARS + WINDOW - 1)
    source, target = folder / "slice.npz", folder / "found.npz"
    np.savez(source, x=bars.select(ROLLED).to_numpy())
    command = [OTHERS / "bin" / "python", Path(__file__).with_name("rolling_others.py"), source, target, name, WINDOW]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    found = np.load(target)["found"]
    mine = statistics_of(bars).drop("symbol", "ts").tail(SLICE_BARS).to_numpy()
    assert np.allclose(found.reshape(SLICE_BARS, -1), mine, rtol=1e-3, atol=1e-4), f"{name} rolls something else"
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- in rounds ---

JOBS: dict[str, Callable[..., Found]] = {
    "agreement": run_agreement,
    "program": run_program,
    "minutes": run_minutes,
    "parts": run_parts,
    "days": run_days,
    "each": run_each,
}


def alone(venue: Venue, job: str, *args: str | int) -> Found:
    """What `job` found in a fresh process."""
    asked = json.dumps({"folder": str(venue.folder), "symbols": venue.symbols, "job": job, "args": args})
    command = [sys.executable, "-m", "tests.bench.bench_features", "--job", asked]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{job} {args} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def medians(found: Sequence[Found]) -> Found:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def side_by_side(venue: Venue, rounds: int) -> dict[str, Found]:
    seen: dict[str, list[Found]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, found in seen.items():
            found.append(alone(venue, "program", name))
    return {name: medians(found) for name, found in seen.items()}


def show_catalogue(venue: Venue, found: dict[str, Found]) -> Table:
    titles = ("program", "bars told", "features", "CPU s", "wall s", "M cells / CPU s", "x pandas, CPU", "target")
    table = Table(*titles, "peak MB", title=f"a venue-day, {venue.symbols} symbols at one minute")
    new = venue.symbols * DAY_MIN
    shown = {name: one for name, one in found.items() if name != "ours: statistics"}
    told = {name: (one["rows"] if name == "ours: the same, every bar" else new) for name, one in shown.items()}
    told["pandas"] = shown["pandas"]["rows"]
    counts = {name: len(catalogue().names if name == "ours: every feature" else same_names()) for name in shown}
    # pandas computes the lookback's bars too: against a run of new bars, it is credited with the new bars alone.
    rate = {name: told[name] * counts[name] / one["cpu_s"] for name, one in shown.items()}
    for name, one in shown.items():
        credited = rate["pandas"] * (1 if name in ("pandas", "ours: the same, every bar") else new / told["pandas"])
        cells = [f"{told[name]:,.0f}", f"{counts[name]}", f"{one['cpu_s']:.2f}", f"{one['wall_s']:.2f}"]
        same = name.startswith("ours: the same")
        target, ratio = (f"{TARGETS['pandas']:.0f}", f"{rate[name] / credited:.1f}") if same else ("", "")
        table.add_row(name, *cells, f"{rate[name] / 1e6:.1f}", ratio, target, f"{one['peak_mb']:,.0f}")
    return table


def show_others(venue: Venue, mine: Found, rounds: int) -> Table:
    columns = ("program", "windows", "CPU s", "M cells / CPU s", "ours x, CPU, per cell", "target")
    title = f"rolling {', '.join(STATISTICS)} over {WINDOW} bars of {len(ROLLED)} columns; a slice where it says so"
    table = Table(*columns, title=title)
    each = len(ROLLED) * len(STATISTICS)
    rate = mine["rows"] * each / mine["cpu_s"]
    table.add_row("ours, all bars", f"{mine['rows']:,.0f}", f"{mine['cpu_s']:.2f}", f"{rate / 1e6:.2f}", "", "")
    missing = others_ready()
    if missing is not None:
        table.add_row("tsfresh, tsflex", f"not to be had here: {missing}")
        return table
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tsfresh", "tsflex", "tsflex-vectorised"):
            found = medians([run_others(venue, Path(folder), name) for _ in range(rounds)])
            theirs = SLICE_BARS * each / found["cpu_s"]
            target = TARGETS[name.removesuffix("-vectorised")]
            cells = [f"{SLICE_BARS:,}", f"{found['cpu_s']:.3f}", f"{theirs / 1e6:.4f}", f"{rate / theirs:,.0f}"]
            table.add_row(f"{name}, a slice", *cells, f"{target:.0f}")
    return table


def show_minutes(venue: Venue, rounds: int) -> Table:
    found = alone(venue, "minutes", rounds)
    table = Table("new bars per symbol", "CPU s", "wall s", "of the day, CPU", "target", title="newest bars alone")
    day = statistics.median(cpu for cpu, _ in found[str(DAY_MIN)])
    for minutes, times in found.items():
        cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
        target = f"{MINUTE_TARGET:.0%}" if minutes == "1" else ""
        table.add_row(minutes, f"{cpu:.3f}", f"{wall:.3f}", f"{cpu / day:.2%}", target)
    return table


def show_parts(venue: Venue, rounds: int) -> Table:
    found = alone(venue, "parts", rounds)
    table = Table("where the time goes", "day, CPU ms", "minute, CPU ms", title="steps of a run; families alone")
    for name, cpu_s in found[str(DAY_MIN)].items():
        table.add_row(name, f"{1e3 * cpu_s:,.1f}", f"{1e3 * found['1'][name]:,.1f}")
    return table


def show_days(venue: Venue) -> Table:
    table = Table("days, one at a time", "peak MB", title=f"memory, {venue.symbols} symbols")
    for days in DAYS:
        table.add_row(str(days), f"{alone(venue, 'days', days)['peak_mb']:,.0f}")
    return table


def show_each(venue: Venue, rounds: int) -> Table:
    found = alone(venue, "each", rounds)
    lookback = {feature.name: feature.lookback_min for feature in catalogue().features}
    table = Table("feature alone", "lookback min", "CPU ms", title=f"{found['rows']:,} bars, usable columns ready")
    for name, cpu_ms in sorted(found["cpu_ms"].items(), key=lambda item: -item[1]):
        table.add_row(name, str(lookback[name]), f"{cpu_ms:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=SYMBOLS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the cost of each feature alone, too")
    parser.add_argument("--job", help="what a fresh process is asked for, as JSON")
    given = parser.parse_args()
    if given.job:
        asked = json.loads(given.job)
        found = JOBS[asked["job"]](Venue(Path(asked["folder"]), asked["symbols"]), *asked["args"])
        print(json.dumps(found))
        return
    console = Console(width=150)
    with tempfile.TemporaryDirectory(prefix="bench-features-") as folder:
        write_world(Path(folder), max(DAYS))
        venue = Venue(Path(folder), given.symbols)
        agreed = alone(venue, "agreement")["features"]
        lost = sorted(TWINS.keys() - set(catalogue().names))
        note = f"; no longer in the catalogue: {', '.join(lost)}" if lost else ""
        console.print(f"{agreed} features of {len(catalogue().names)} agree with pandas to 1e-3{note}")
        found = side_by_side(venue, given.rounds)
        console.print(show_catalogue(venue, found))
        console.print(show_others(venue, found["ours: statistics"], given.rounds))
        console.print(show_minutes(venue, max(5, given.rounds)))
        console.print(show_parts(venue, given.rounds))
        console.print(show_days(venue))
        if given.full:
            console.print(show_each(venue, given.rounds))


if __name__ == "__main__":
    main()
