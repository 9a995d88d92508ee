"""Cascades: ours beside full recomputation in numpy, and beside the time it takes to read the world's columns once.

`python -m tests.bench.bench_cascade [--accounts N ...] [--shocks N] [--full]` generates accounts with three positions
in 50 symbols (lognormal leverage, tiers, both sides), draws correlated heavy-tailed shocks, asserts that all programs
find the same drops and the same dollars to the last bit, and times them in alternating rounds of one process.

numpy recomputes every account in every round, from columns laid out for it. Over many shocks it would take hours, so a
round of it is timed and multiplied by the rounds of all shocks; the table says `scaled` there. `--full` adds five
million accounts and a sweep of depth towards criticality, where fewer and fewer accounts can be left unread. What
counts are ratios: absolute times belong to the machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path as File
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from features.mechanics.impact import shape_law
from features.mechanics.profile import Fees, Path
from models.cascade.engine import Outcomes, Rules, prepare, run
from models.cascade.graph import gain_matrix, loop_gain
from models.cascade.ladder import ladders, run_ladders
from models.cascade.prepared import Prepared
from models.cascade.spectrum import spectral_radius
from models.cascade.world import Floats, Ints, World
from tests.bench.worlds import accounts, market_shocks

SYMBOLS, LEGS, SEED = 50, 3, 7
ACCOUNTS, SHOCKS = (100_000, 1_000_000), 1_000
DEPTHS = (40.0, 20.0, 10.0, 6.0, 4.0, 3.0)  # multiples of open interest per unit of relative price
WINDOW = 0.1  # of the gain matrix: a symbol alone hurts accounts with three positions only when it falls far
GRADUAL = Rules(Path("gradual", 1.1, {"share": 0.1, "notional_usd_min": 1_000.0}), Fees(0.0005, 0.005), buffer=0.02)
MARKET = Rules()
T = TypeVar("T")


class InNumpy:
    """Full recomputation: one column per leg of an account, so that sums over legs are three additions."""

    def __init__(self, world: World) -> None:
        shape = (world.units, int(np.diff(world.leg_start).max()) if world.units else 1)
        price = world.price_usd[world.leg_symbol]
        self.world = world
        self.scale = shape_law(world.books.shape, world.books.depth_usd).scale
        self.symbol, self.notional, self.profit = (
            np.ascontiguousarray(column.reshape(shape).T)
            for column in (world.leg_symbol, world.leg_qty * price, world.leg_qty * (price - world.leg_entry))
        )
        self.size = np.abs(self.notional)
        self.micro = np.rint(self.notional * 1e6).astype(np.int64)

    def run(self, shock: Floats) -> tuple[Floats, Ints, int]:
        """Drops, liquidated micro-dollars and rounds of one shock on flat books under the market path."""
        world, symbols = self.world, len(self.world.symbols)
        flow, closed = np.zeros(symbols, dtype=np.int64), np.zeros(symbols, dtype=np.int64)
        live, rounds = np.ones(world.units, dtype=np.bool_), 0
        while True:
            drop = np.minimum(shock + np.cumsum(world.spill * (self.scale * (flow / 1e6)), axis=1)[:, -1], 1.0)
            short = np.flatnonzero(self.breached(drop) & live)
            if not len(short):
                return drop, closed, rounds
            rounds += 1
            live[short] = False
            for symbol, micro in zip(self.symbol[:, short], self.micro[:, short], strict=True):
                np.add.at(flow, symbol, micro)
                np.add.at(closed, symbol, np.abs(micro))

    def breached(self, drop: Floats) -> Floats:
        equity = needed = np.zeros(1)
        rows = zip(self.symbol, self.notional, self.profit, self.size, strict=True)
        for symbol, notional, profit, size in rows:
            x = drop[symbol]
            equity = equity + (profit - notional * x)
            present = size * (1.0 - x)
            most = present * self.world.rates[0][symbol] - self.world.deductions[0][symbol]
            for rates, deductions in zip(self.world.rates[1:], self.world.deductions[1:], strict=True):
                np.maximum(most, present * rates[symbol] - deductions[symbol], out=most)
            needed = needed + most
        return np.asarray(self.world.cash_usd + equity < needed)


def read_once(world: World) -> float:
    """Sums of every column of the world: what any program that looks at all accounts has to read."""
    columns = (world.cash_usd, world.leg_start, world.leg_symbol, world.leg_qty, world.leg_entry, world.leg_closable)
    return float(sum(column.sum() for column in columns))


# --- measuring ---


class Took(NamedTuple):
    """Seconds. Wall time is what a user waits; CPU time does not see what else the machine does."""

    wall: float
    cpu: float

    def times(self, factor: float) -> "Took":
        return Took(self.wall * factor, self.cpu * factor)


def once(program: Callable[[], T]) -> tuple[T, Took]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = program()
    return found, Took(time.perf_counter() - wall, time.process_time() - cpu)


def timed(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Took]:
    """Medians over alternating rounds; each has run once before."""
    seen: dict[str, list[Took]] = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(rounds):
        for name, program in programs.items():
            seen[name].append(once(program)[1])
    return {name: median(some) for name, some in seen.items()}


def median(some: list[Took]) -> Took:
    return Took(statistics.median(took.wall for took in some), statistics.median(took.cpu for took in some))


def many(prepared: Prepared, shocks: Floats, rules: Rules, threads: int, repeats: int) -> tuple[Outcomes, Took]:
    done = [once(lambda: run(prepared, shocks, rules, threads)) for _ in range(repeats)]
    return done[0][0], median([took for _, took in done])


def agree(baseline: InNumpy, outcomes: Outcomes, shocks: Floats) -> list[int]:
    """Raise AssertionError where numpy finds another answer; returns the shocks compared: calm, typical and severe."""
    order = np.argsort(outcomes.units_hit, kind="stable")
    rows = [int(order[int(share * (len(order) - 1))]) for share in (0.25, 0.5, 0.8, 0.95)]
    for row in rows:
        drop, closed, rounds = baseline.run(shocks[row])
        assert np.array_equal(drop, outcomes.drop[row]), f"numpy found other drops for shock {row}"
        assert np.array_equal(closed, outcomes.liquidated_micro[row]), f"numpy found another flow for shock {row}"
        assert rounds == outcomes.rounds[row]
    return rows


def cross_margin(count: int, shock_count: int, repeats: int, show: Table) -> None:
    """Accounts with cross margin: one shock, many shocks, one and two threads, and a gradual path."""
    world = accounts(count, SEED, symbols=SYMBOLS, legs=LEGS)
    prepared, ready = once(lambda: prepare(world))
    shocks, baseline = market_shocks(shock_count, SYMBOLS, SEED), InNumpy(world)
    run(prepared, shocks[:8], MARKET)
    outcomes, one = many(prepared, shocks, MARKET, 1, repeats)
    same, two = many(prepared, shocks, MARKET, 2, repeats)
    assert all(np.array_equal(getattr(same, name), getattr(outcomes, name)) for name in Outcomes.__dataclass_fields__)
    row = agree(baseline, outcomes, shocks)[2]
    found = timed(
        {
            "read": lambda: read_once(world),
            "numpy": lambda: baseline.run(shocks[row]),
            "ours": lambda: run(prepared, shocks[row : row + 1], MARKET),
        },
        max(repeats, 5),
    )
    passes, all_passes = int(outcomes.rounds[row]) + 1, int((outcomes.rounds + 1).sum())
    read, base = found["read"].times(passes), found["numpy"]
    add(show, f"{count:,} accounts, one shock, {passes} rounds", read, base, read, "columns read")
    add(show, "", base, base, read, "numpy")
    add(show, "", found["ours"], base, read, "ours")
    read, base = found["read"].times(all_passes), base.times(all_passes / passes)
    add(show, f"{shock_count:,} shocks, {all_passes / shock_count:.1f} rounds", base, base, read, "numpy, scaled")
    add(show, "", one, base, read, "ours, 1 thread")
    add(show, "", two, base, read, "ours, 2 threads")
    some = shocks[:: max(shock_count // 100, 1)]
    slow, took = many(prepared, some, GRADUAL, 1, 1)
    add(show, f"{len(some)} shocks, gradual, {slow.rounds.mean():.0f} rounds", took, None, None, "ours, 1 thread")
    add(show, f"touched {outcomes.touched.mean() / count:.1%}", ready, None, None, "ours: prepare, once")
    show.add_section()


def isolated(count: int, shock_count: int, repeats: int, show: Table) -> None:
    """Isolated positions: ladders beside numpy."""
    world = accounts(count, SEED, symbols=SYMBOLS, legs=1)
    prepared, ready = once(lambda: ladders(world))
    shocks, baseline = market_shocks(shock_count, SYMBOLS, SEED), InNumpy(world)
    outcomes = run_ladders(prepared, shocks)
    row = int(np.argsort(outcomes.units_hit)[int(0.8 * shock_count)])
    drop, closed, rounds = baseline.run(shocks[row])
    assert np.allclose(drop, outcomes.drop[row], rtol=1e-9, atol=1e-15), "numpy found other drops"
    assert np.array_equal(closed, outcomes.liquidated_micro[row]), "numpy found another flow"
    found = timed(
        {
            "numpy": lambda: baseline.run(shocks[row]),
            "one": lambda: run_ladders(prepared, shocks[row : row + 1]),
            "all": lambda: run_ladders(prepared, shocks),
        },
        max(repeats, 5),
    )
    base, all_passes = found["numpy"], int((outcomes.rounds + 1).sum())
    add(show, f"{count:,} isolated, one shock, {rounds + 1} rounds", base, base, None, "numpy")
    add(show, "", found["one"], base, None, "ours: ladders")
    base = base.times(all_passes / (rounds + 1))
    add(show, f"{shock_count:,} shocks, {all_passes / shock_count:.1f} rounds", base, base, None, "numpy, scaled")
    add(show, "", found["all"], base, None, "ours: ladders")
    add(show, "", ready, None, None, "ours: sort, once")
    show.add_section()


def add(show: Table, what: str, took: Took, base: Took | None, read: Took | None, program: str) -> None:  # noqa: PLR0917  # a row of the table
    """One row: seconds, ratio to numpy in wall and in CPU time, and to the time of reading the columns."""
    ratios = ["", ""] if base is None else [_x(base.wall / took.wall), _x(base.cpu / took.cpu)]
    show.add_row(what, program, _s(took.wall), _s(took.cpu), *ratios, "" if read is None else _x(read.wall / took.wall))


def towards_criticality(count: int, shock_count: int) -> Table:
    """Depth falls, the spectral radius rises to 1 and beyond: how many accounts the bound still spares."""
    titles = ("depth / open interest", "rho", "hit, mean", "hit, 99 %", "touched", "rounds", "ours", "numpy, scaled")
    show = Table(*titles, "ratio", title=f"Towards criticality: {count:,} accounts, {shock_count:,} shocks, CPU time")
    shocks = market_shocks(shock_count, SYMBOLS, SEED)
    for depth in DEPTHS:
        world = accounts(count, SEED, symbols=SYMBOLS, legs=LEGS, depth_share=depth)
        prepared = prepare(world)
        rho = float(spectral_radius(loop_gain(world, gain_matrix(world, WINDOW), WINDOW)[None])[0])
        outcomes, ours = many(prepared, shocks, MARKET, 1, 1)
        baseline = InNumpy(world)
        row = agree(baseline, outcomes, shocks)[2]
        base = timed({"numpy": partial(baseline.run, shocks[row])}, 3)["numpy"]
        base = base.times(int((outcomes.rounds + 1).sum()) / (int(outcomes.rounds[row]) + 1))
        hit, touched = outcomes.units_hit / count, outcomes.touched.mean() / count
        cells = [f"{depth:g}", f"{rho:.2f}", f"{hit.mean():.2%}", f"{np.quantile(hit, 0.99):.1%}", f"{touched:.1%}"]
        seconds = [_s(ours.cpu), _s(base.cpu), _x(base.cpu / ours.cpu)]
        show.add_row(*cells, f"{outcomes.rounds.mean() + 1:.1f}", *seconds)
    return show


def _s(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _x(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _peak_mb() -> float:
    status = File("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, nargs="+", default=ACCOUNTS)
    parser.add_argument("--shocks", type=int, default=SHOCKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="five million accounts and the sweep of depth, too")
    given = parser.parse_args()
    counts = [*given.accounts, *([5_000_000] if given.full else [])]
    console = Console(width=150)
    for count in counts:
        table = Table("world", "program", "wall", "CPU", "x numpy, wall", "x numpy, CPU", "columns read / wall")
        cross_margin(count, given.shocks, given.rounds, table)
        isolated(count, given.shocks, given.rounds, table)
        console.print(table)
        console.print(f"peak memory {_peak_mb():,.0f} MB, the world and numpy's own columns included")
    if given.full:
        console.print(towards_criticality(min(given.accounts), given.shocks))


if __name__ == "__main__":
    main()
