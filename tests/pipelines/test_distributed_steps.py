"""Steps on several workers: the tables of one process, whoever dies, is late or is not as we are."""

import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.bars import bars_of_day, build_pending
from pipelines.claims import Claim, RevokedError, claim, driver, held_path, is_held
from pipelines.clusters import local_cluster
from pipelines.config import Config, DetectorConfig, SimulatorConfig
from pipelines.dask_pool import Seen, Visit, dask_pool, look, refuse_others, versions
from pipelines.errors import InputError
from pipelines.ingest import Choice, ingest_sound
from pipelines.lake import Lake, unfenced
from pipelines.operating.backfill import backfill_venue
from pipelines.operating.lease import LeaseLostError
from pipelines.pools import HERE, Day, Elsewhere, OvertakenError, Pool, counted, processes
from pipelines.score import prepare
from pipelines.simulate import simulate_venue, simulate_venues
from pipelines.times import Interval, parse_time
from tests.pipelines.dying_workers import Stopping
from tests.pipelines.test_cli import cascadeguard, refused

MIDNIGHT = parse_time("2025-01-02T00:00Z")
WALL = datetime(2026, 1, 1, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)
EVER = Interval(datetime(2000, 1, 1, tzinfo=UTC), WALL)
SPAN = Interval(MIDNIGHT - HALF_HOUR, MIDNIGHT + HALF_HOUR)  # parts of two days
CONFIG = Config(
    simulator=SimulatorConfig(symbols=("AAA-PERP", "BBB-PERP"), accounts=40, days=5 / 24, step_s=60),
    seed=3,
    detector=DetectorConfig(reference_h=24),  # longer than what is known: no scores, which are made here in any case
)
BUILT = ("bars", "hours", "structure", "features", "feature_health", "pending")
JUDGED = ("limits", "decisions", "account_decisions", "exposure_decisions", "guard_state", "amendments")


def rows(lake: Lake, table: str, span: Interval = EVER) -> pl.DataFrame:
    found = lake.scan(table).collect()
    inside = found.filter(pl.col("ts") > span.start, pl.col("ts") <= span.end) if "ts" in found.columns else found
    return inside.sort(found.columns)


def same(one: Lake, other: Lake, tables: Iterable[str], span: Interval = EVER) -> None:
    for table in tables:
        assert rows(one, table, span).equals(rows(other, table, span)), table


def copy_of(lake: Lake, target: Path) -> Lake:
    shutil.copytree(lake.root, target)
    return Lake(target)


def backfill(lake: Lake, pool: Pool = HERE) -> None:
    backfill_venue(lake.root, "sim", SPAN, CONFIG, wall=WALL, clock=lambda: WALL, pool=pool)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("steps") / "lake")
    simulate_venue(lake, CONFIG, MIDNIGHT - timedelta(hours=4))
    return lake


@pytest.fixture(scope="module")
def undisturbed(simulated: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """All of a backfill in this process."""
    lake = copy_of(simulated, tmp_path_factory.mktemp("undisturbed") / "lake")
    backfill(lake)
    return lake


@pytest.fixture
def site(simulated: Lake, tmp_path: Path) -> Lake:
    """Rows alone."""
    return copy_of(simulated, tmp_path / "lake")


# --- in any order, in this process


@dataclass(frozen=True)
class Backwards:
    """The last item first, each with a lake of its own, and nothing but what can travel."""

    workers: int = 2

    def map(self, lake: Lake, work: Callable[[Lake, Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for item in reversed(list(items)):
            there = pickle.loads(pickle.dumps((work, lake.root, lake.fence, item)))
            yield item, pickle.loads(pickle.dumps(there[0](Lake(*there[1:3]), there[3])))


def test_bars_and_features_do_not_depend_on_the_order_of_the_days(simulated: Lake, tmp_path: Path) -> None:
    lakes = [copy_of(simulated, tmp_path / name) for name in ("here", "there")]
    found = [
        prepare(lake, "sim", SPAN, why=True, pool=pool) for lake, pool in zip(lakes, (HERE, Backwards()), strict=True)
    ]
    assert found[0] == found[1]
    assert found[0].rows == 120
    same(*lakes, BUILT)
    left = [build_pending(lake, "sim", pool=pool) for lake, pool in zip(lakes, (HERE, Backwards()), strict=True)]
    assert left[0] == left[1]
    same(*lakes, BUILT)


def test_the_hour_in_which_a_backfill_begins_is_whole_in_the_table_of_hours(undisturbed: Lake) -> None:
    """It was written anew from the minutes before the backfill alone, or not, by which day was done first."""
    hours = rows(undisturbed, "hours").filter(pl.col("ts") == MIDNIGHT)
    assert hours["depth_n"].to_list() == [60, 60]


TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"


def trades(path: Path, ids: Iterable[int], price: float) -> Path:
    start = 1760054400_000000
    lines = [f"binance-delivery,AVAXUSD_PERP,{start + i * 1000},{start + i * 1000 + 5},{i},buy,{price},3" for i in ids]
    path.write_bytes(gzip.compress("\n".join([TRADES, *lines, ""]).encode(), mtime=0))
    return path


def test_of_two_files_with_the_same_trades_the_first_one_given_is_kept(tmp_path: Path) -> None:
    """Trades 5 to 9 are told by both, at other prices; the file between cannot be read."""
    bad = tmp_path / "b.csv"
    bad.write_text("no,columns\n")
    paths = [trades(tmp_path / "a.csv.gz", range(10), 20.5), bad, trades(tmp_path / "c.csv.gz", range(5, 15), 21.5)]
    lakes = [Lake(tmp_path / name) for name in ("here", "there")]
    found = [
        ingest_sound("tardis", paths, lake, Config(), Choice(kind="trades"), pool=pool)
        for lake, pool in zip(lakes, (HERE, Backwards()), strict=True)
    ]
    assert found[0] == found[1]
    assert (found[0][0].rows_accepted, found[0][0].rows_quarantined, len(found[0][1])) == (15, 5, 1)
    same(*lakes, ("trades", "quarantine", "pending", "ingest_log", "instruments"))
    assert [list((lake.root / "staging").iterdir()) for lake in lakes] == [[], []]


def test_every_seed_is_a_venue_of_its_own(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"simulator": CONFIG.simulator.model_copy(update={"days": 1 / 24})})
    lakes = [Lake(tmp_path / name) for name in ("here", "there")]
    told = [
        simulate_venues(lake, config, MIDNIGHT, (2, 3), pool=pool)
        for lake, pool in zip(lakes, (HERE, Backwards()), strict=True)
    ]
    assert told[0] == told[1]
    assert [one.venue for one in told[0]] == ["sim-2", "sim-3"]
    same(*lakes, ("trades", "marks", "positions", "ingest_log"))
    alone = Lake(tmp_path / "alone")
    simulate_venue(alone, config, MIDNIGHT)
    marks = rows(lakes[0], "marks").filter(pl.col("venue") == "sim-3").drop("venue")
    assert marks.equals(rows(alone, "marks").drop("venue")), "seed 3 is that of the settings"


def test_what_is_done_is_counted_with_the_time_left() -> None:
    said: list[str] = []
    assert list(counted("ab", 2, said.append, "bars v")) == ["a", "b"]
    assert said == ["bars v, 0 of 2", "bars v, 1 of 2, about 0 s left", "bars v, 2 of 2, about 0 s left"]


# --- who may write


def put(lake: Lake, day: Day) -> int:
    return bars_of_day(lake, day, bar_s=60)


def test_a_worker_that_wakes_up_after_its_partition_was_done_elsewhere_writes_nothing(site: Lake) -> None:
    day = Day("bars", "sim", Interval(SPAN.start, MIDNIGHT))
    versions_of: list[int] = []

    def sleeping(lake: Lake, part: Day) -> int:
        visit(put, part)  # meanwhile
        versions_of.append(lake.version("bars"))
        return put(lake, part)

    with driver(site.root) as claims:
        visit = Visit(claims, site.root, unfenced, versions())
        with pytest.raises(OvertakenError, match="taken for dead"):
            visit(sleeping, day)
    assert versions_of == [site.version("bars")]
    assert site.scan("bars").collect().height == 60


def threads(executor: Executor) -> Elsewhere:
    return Elsewhere(executor, 2, lambda lake: lambda work, item: work(lake, item), BrokenProcessPool)


def test_a_partition_that_was_overtaken_by_one_that_woke_up_is_done_again(tmp_path: Path) -> None:
    """A zombie that had not begun takes the claim of the worker that has; the rightful one is not left without."""
    begun: list[str] = []

    def overtaken_once(_: Lake, item: str) -> str:
        begun.append(item)
        if begun.count("b") == 1 and item == "b":
            raise OvertakenError
        return item.upper()

    with ThreadPoolExecutor(2) as executor:
        found = dict(threads(executor).map(Lake(tmp_path), overtaken_once, "abc"))
    assert found == {"a": "A", "b": "B", "c": "C"}
    assert sorted(begun) == ["a", "b", "b", "c"]


def test_the_lease_of_whoever_gives_out_the_work_is_asked_at_the_worker_too(site: Lake) -> None:
    def lost() -> None:
        raise LeaseLostError("another backfill has taken over")

    with driver(site.root) as claims, pytest.raises(LeaseLostError):
        Visit(claims, site.root, lost, versions())(put, Day("bars", "sim", SPAN))
    assert not site.has("bars")


def test_nobody_may_write_once_the_command_has_ended(tmp_path: Path) -> None:
    with driver(tmp_path) as claims:
        mine = claim(claims, "bars sim")
        mine.check()
    with pytest.raises(RevokedError):
        mine.check()
    with pytest.raises(RevokedError):
        claim(claims, "bars sim")
    assert list(claims.parent.iterdir()) == []


def test_claims_of_a_command_that_was_killed_are_revoked_by_the_next_and_those_of_one_at_work_are_not(
    tmp_path: Path,
) -> None:
    with driver(tmp_path) as living:
        killed = living.with_name("killed")
        killed.mkdir()
        held_path(killed).write_text("killed")  # nobody holds it
        theirs, orphaned = claim(living, "bars sim"), claim(killed, "bars sim")
        with driver(tmp_path):
            theirs.check()
            with pytest.raises(RevokedError):
                orphaned.check()
    assert isinstance(theirs, Claim)


# --- what a worker must be like


def test_a_worker_is_kept_out_by_a_lock_that_is_held_here(tmp_path: Path) -> None:
    with driver(tmp_path) as claims:
        assert look(claims) == Seen(versions(), shared=True, kept_out=True)
        lying = claims.with_name("lying")
        lying.mkdir()
        held_path(lying).write_text("lying")  # a file system on which locks do not hold looks like this
        assert look(lying) == Seen(versions(), shared=True, kept_out=False)
        assert not is_held(held_path(lying))


def test_a_worker_that_does_not_see_the_lake_says_so(tmp_path: Path) -> None:
    assert look(tmp_path / "elsewhere") == Seen(versions(), shared=False, kept_out=False)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            Seen(versions() | {"polars": "1.0"}, shared=True, kept_out=True),
            "a worker is not as we are (polars 1.0, here",
        ),
        (Seen(versions(), shared=False, kept_out=False), "a worker cannot read and write the lake /l: tcp://w:1; put"),
        (Seen(versions(), shared=True, kept_out=False), "the lock of the lake /l does not hold on a worker: tcp://w:1"),
    ],
)
def test_a_worker_that_will_not_do_is_told_in_one_line(seen: Seen, said: str) -> None:
    with pytest.raises(InputError) as told:
        refuse_others("tcp://w:1", seen, Path("/l"))
    assert said in str(told.value)
    refuse_others("tcp://w:1", Seen(versions(), shared=True, kept_out=True), Path("/l"))


def test_a_worker_that_came_later_with_other_versions_is_given_nothing(site: Lake) -> None:
    with driver(site.root) as claims, pytest.raises(InputError, match="other versions"):
        Visit(claims, site.root, unfenced, versions() | {"cascadeguard": "old"})(put, Day("bars", "sim", SPAN))
    assert not site.has("bars")


# --- processes


def test_partitions_are_drawn_when_there_is_a_place_for_them_and_the_rest_is_left_when_one_fails(
    tmp_path: Path,
) -> None:
    drawn: list[int] = []

    def fails(_: Lake, item: int) -> None:
        raise InputError("planted", where=item)

    with ThreadPoolExecutor(2) as executor, pytest.raises(InputError, match="planted: 0"):
        list(threads(executor).map(Lake(tmp_path), fails, (drawn.append(n) or n for n in [0] * 100)))  # type: ignore[func-returns-value]
    assert len(drawn) == 2


def test_workers_that_died_are_told_in_one_line_with_what_they_were_at(tmp_path: Path) -> None:
    def broken(_: Lake, __: Day) -> None:
        raise BrokenProcessPool

    with ThreadPoolExecutor(2) as executor, pytest.raises(InputError, match="died: bars sim 2025-01-01T23:30Z"):
        list(threads(executor).map(Lake(tmp_path), broken, [Day("bars", "sim", SPAN)]))


def test_processes_open_the_lake_for_themselves(undisturbed: Lake) -> None:
    with processes(2) as pool:
        assert list(pool.map(undisturbed, Lake.version, ["bars"])) == [("bars", undisturbed.version("bars"))]


# --- a cluster of processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers, of which a partition may cost one."""
    import dask
    import distributed

    with (
        pytest.MonkeyPatch.context() as patched,
        dask.config.set({"distributed.scheduler.allowed-failures": 1, "distributed.scheduler.worker-saturation": 1.0}),
    ):
        patched.setenv("POLARS_MAX_THREADS", "1")
        with local_cluster(distributed, 2, processes=True, memory_limit=0, silence_logs=50) as cluster:
            yield cluster


@contextmanager
def on(cluster: Any, lake: Lake, workers: int) -> Iterator[Pool]:
    """The pool of a cluster that has as many workers by now."""
    import distributed

    cluster.scale(workers)
    with distributed.Client(cluster.scheduler_address) as client:
        client.wait_for_workers(workers, timeout=60)
    with dask_pool(lake.root, cluster.scheduler_address) as pool:
        assert pool.workers == workers
        yield pool


@pytest.mark.service
def test_a_backfill_on_a_worker_started_here_gives_the_tables_of_one_in_this_process_and_leaves_nothing(
    site: Lake, undisturbed: Lake
) -> None:
    with dask_pool(site.root, workers=1) as pool:
        assert pool.workers == 1
        backfill(site, pool)
    same(site, undisturbed, [*BUILT, *JUDGED])
    assert all(rows(site, table).height for table in ("bars", "features", "structure", "limits"))
    assert list((site.root / "schedule" / "claims").iterdir()) == []
    assert active_children() == []


@pytest.mark.service
def test_a_command_on_a_cluster_prints_what_it_prints_without(cluster: Any, site: Lake, tmp_path: Path) -> None:
    """Also of a file that is refused: the same line, the same exit code."""
    here = copy_of(site, tmp_path / "here")
    engines = ((here, ()), (site, ("--engine", "dask", "--scheduler", cluster.scheduler_address)))
    asked = ("--from", "2025-01-01T23:30Z", "--to", "2025-01-02T00:30Z", "--json")
    told = [cascadeguard("bars", "--lake", lake.root, *asked, *how, cwd=tmp_path) for lake, how in engines]
    assert told[0].stdout == told[1].stdout
    assert json.loads(told[1].stdout)["venues"][0]["rows"] == 120, told[1].stderr
    bad = trades(tmp_path / "bad.csv.gz", range(1, 3), -1.0)
    faults = [cascadeguard("ingest", "tardis", bad, "--lake", lake.root, *how, cwd=tmp_path) for lake, how in engines]
    refused(faults[1], "every one of 2 rows was refused")
    assert faults[0].stderr == faults[1].stderr


@pytest.mark.service
def test_a_worker_that_is_killed_in_the_middle_of_a_backfill_costs_a_retry_and_not_a_row(
    cluster: Any, site: Lake, undisturbed: Lake, tmp_path: Path
) -> None:
    """It dies between the two commits of a day, with the lock of the lake in its hands."""
    told = tmp_path / "told"
    killer = threading.Thread(target=kill_when_told, args=(told,))
    killer.start()
    with on(cluster, site, 2) as pool:
        backfill(site, Watched(pool, told))
    killer.join()
    assert not Path(f"/proc/{told.read_text()}").exists()
    same(site, undisturbed, [*BUILT, *JUDGED])


@dataclass(frozen=True)
class Watched:
    """A pool one of whose workers stops in the middle of a day."""

    pool: Pool
    told: Path
    workers: int = 2

    def map(self, lake: Lake, work: Callable[[Lake, Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        return self.pool.map(lake, Stopping(work, self.told), items)


def kill_when_told(told: Path) -> None:
    until = time.monotonic() + 120
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(int(told.read_text()), signal.SIGKILL)


@pytest.mark.service
def test_a_worker_without_our_wheel_is_refused(site: Lake, tmp_path: Path) -> None:
    import distributed

    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise ModuleNotFoundError('No module named pipelines')\n")
    with local_cluster(distributed, 0, processes=False, silence_logs=50) as bare, ExitStack() as stack:
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                bare.scheduler_address,
                "--no-nanny",
                "--no-dashboard",
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        with distributed.Client(bare.scheduler_address) as client:
            client.wait_for_workers(1, timeout=60)
        with (
            pytest.raises(InputError, match=r"a worker cannot run cascadeguard \(ModuleNotFoundError"),
            dask_pool(site.root, bare.scheduler_address),
        ):
            pass


# --- the command line


@pytest.mark.parametrize(
    "command", [("bars",), ("features",), ("backfill",), ("simulate",), ("ingest", "tardis", "x.csv")]
)
def test_engines_that_cannot_be_had_are_told_in_one_line(command: tuple[str, ...], site: Lake, tmp_path: Path) -> None:
    asked = (*command, "--lake", site.root)
    refused(cascadeguard(*asked, "--scheduler", "tcp://x:1", cwd=tmp_path), "--scheduler is for --engine dask")
    dask = (*asked, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1")
    refused(cascadeguard(*dask, cwd=tmp_path), "no Dask scheduler answers: tcp://127.0.0.1:1")
    refused(cascadeguard(*dask, "--workers", 2, cwd=tmp_path), "--workers is for workers of this machine")
    assert not list((site.root / "schedule" / "claims").glob("*"))
