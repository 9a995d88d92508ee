"""Hours of a small simulated lake through Dagster: the rows of a backfill, in any order, by one writer at a time."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from pipelines import tracking
from pipelines.audit import audit_path
from pipelines.config import Config, DetectorConfig, ScheduleConfig, SimulatorConfig
from pipelines.lake import Lake
from pipelines.operating.history import Attempt, Outcome, append_outcome
from pipelines.operating.lease import held
from pipelines.operating.run import RunSummary, VenueRun
from pipelines.orchestrating import definitions, scheduled
from pipelines.orchestrating.assets import asset_key
from pipelines.orchestrating.checks import CHECKS, newest_hour
from pipelines.orchestrating.hours import hours_of, key_of
from pipelines.orchestrating.told import STEPS
from pipelines.orchestrating.units import CONFIG_VARIABLE, MODULE, SETTINGS
from pipelines.pending import mark_pending
from pipelines.simulate import simulate_venue
from pipelines.times import Interval, parse_time
from tests.pipelines.operating.test_runs import Site, copy_of, same
from tests.pipelines.servers import free_port

MIDNIGHT = parse_time("2025-01-02T00:00Z")  # of the day that has the evening before for its reference
HOUR = timedelta(hours=1)
TWO = Interval(MIDNIGHT, MIDNIGHT + 2 * HOUR)
KEYS = [key_of(hour.start) for hour in hours_of(TWO)]
ROOT = Path(__file__).parents[3]
UP_WAIT_S = 90.0


class OneRegistry:
    """Keeps one detector in memory: MLflow takes seconds to import and is not what is tested here."""

    def __init__(self, *_: object) -> None:
        self.kept: tuple[Any, str] | None = None

    def load_detector(self, *_: object) -> tuple[Any, str] | None:
        return self.kept

    def log_detector(self, detector: Any, *_: object) -> str:
        self.kept = detector, "models:/planted/1"
        return self.kept[1]

    def set_alias(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two symbols from 20:00 to 02:00. Five minutes were judged, so the day has its detector."""
    simulator = SimulatorConfig(symbols=("AAA-PERP", "BBB-PERP"), accounts=60, days=6 / 24, step_s=60)
    config = Config(simulator=simulator, seed=3, detector=DetectorConfig(reference_h=2))
    lake = Lake(tmp_path_factory.mktemp("site") / "lake")
    site = Site(lake, config, simulate_venue(lake, config, MIDNIGHT - 4 * HOUR).venue)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracking, "Registry", OneRegistry)
        site.backfill(Interval(MIDNIGHT, MIDNIGHT + timedelta(minutes=5)))
    return site


def at(site: Site, target: Path) -> Site:
    copy = copy_of(site, target)
    copy.config = site.config.model_copy(update={"lake": copy.lake.root})
    return copy


@pytest.fixture(scope="module")
def backfilled(begun: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The three hours as `cascadeguard backfill` does them."""
    site = at(begun, tmp_path_factory.mktemp("backfilled") / "lake")
    site.backfill(TWO)
    return site


def defined(site: Site) -> dg.Definitions:
    return definitions.definitions_of(site.config, datetime.now(UTC))


def launched(site: Site, instance: dg.DagsterInstance, first: int, last: int) -> dg.ExecuteInProcessResult:
    """The hours from the `first` to the `last` one of KEYS, in one run, with all checks behind them."""
    job = defined(site).resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": KEYS[first], "dagster/asset_partition_range_end": KEYS[last]}
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def checked(done: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in done.get_asset_check_evaluations()}


def why(done: dg.ExecuteInProcessResult) -> str:
    """The line with which a run failed."""
    assert not done.success
    failure = next(event for event in done.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def materialized(instance: dg.DagsterInstance, site: Site, step: str) -> list[str]:
    return sorted(instance.get_materialized_partitions(asset_key(site.venue, step)))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's folder, with the settings that `schedule --print dagster` prints."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def made(begun: Site, home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, dg.ExecuteInProcessResult]:
    """Both hours in one run, told to the instance of `home`."""
    site = at(begun, tmp_path_factory.mktemp("made") / "lake")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return site, launched(site, instance, 0, 1)


# --- parity


def test_a_range_of_hours_is_one_backfill_and_gives_its_rows(
    made: tuple[Site, dg.ExecuteInProcessResult], backfilled: Site
) -> None:
    """Row for row; one call leaves one row of `runs`."""
    site, done = made
    assert done.success
    same(site, backfilled, TWO)
    assert site.rows("decisions", TWO).height > 0
    told = ("ts", "start", "kind", "state", "token")
    runs = [one.lake.scan("runs").sort("token").select(told).collect() for one in (site, backfilled)]
    assert runs[0].equals(runs[1])
    assert runs[0].height == 2, "five minutes, and the range"


def test_every_hour_tells_its_own_rows(made: tuple[Site, dg.ExecuteInProcessResult]) -> None:
    site, done = made
    events = [event.materialization for event in done.get_asset_materialization_events()]
    told = {(one.asset_key.path[-1], one.partition): one.metadata for one in events}
    assert set(told) == {(step, key) for step in STEPS for key in KEYS}
    assert [told["bars", key]["rows"].value for key in KEYS] == [120, 120]  # 2 symbols x 60 minutes
    assert [told["scores", key]["rows"].value for key in KEYS] == [180, 180]  # and the venue as a whole
    decided = [site.rows("decisions", hour).height for hour in hours_of(TWO)]
    assert [told["decisions", key]["rows"].value for key in KEYS] == decided
    assert decided[0] != decided[1], "or one hour's number could stand at the other"
    assert "no early-warning model registered" in str(told["scores", KEYS[0]]["notes"].value)


def test_all_checks_of_a_sound_backfill_pass(made: tuple[Site, dg.ExecuteInProcessResult]) -> None:
    assert {name for name, one in checked(made[1]).items() if one.passed} == {one.name for one in CHECKS}


def test_hours_out_of_order_end_in_the_state_of_hours_in_order(
    begun: Site, backfilled: Site, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The second hour goes on from 00:05 first; without what is done along it would keep that for ever."""
    site, second = at(begun, tmp_path / "lake"), Interval(MIDNIGHT + HOUR, TWO.end)
    assert launched(site, instance, 1, 1).success
    assert not site.rows("limits", second).equals(backfilled.rows("limits", second)), "or nothing is shown"
    assert materialized(instance, site, "decisions") == KEYS[1:]
    first = launched(site, instance, 0, 0)
    assert first.success
    same(site, backfilled, TWO)
    assert checked(first)["bars_complete"].metadata["of"].value == str(TWO), "what was done along is checked too"
    again = [event.materialization for event in first.get_asset_materialization_events()]
    assert {(one.asset_key.path[-1], one.partition) for one in again} == {(s, k) for s in STEPS for k in KEYS}
    states = [one.lake.scan("guard_state").filter(pl.col("ts") == TWO.end).collect() for one in (site, backfilled)]
    assert states[0].sort(pl.all()).equals(states[1].sort(pl.all()))


# --- failures


def test_a_second_writer_is_refused_with_one_line_and_writes_nothing(
    begun: Site, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    site = at(begun, tmp_path / "lake")
    with held(site.lake.root, "backfill", datetime.now(UTC), 30):
        done = launched(site, instance, 0, 0)
    said = why(done)
    assert said.startswith("another backfill is at work since")
    assert "\n" not in said
    assert site.rows("bars", TWO).equals(begun.rows("bars", TWO))
    assert materialized(instance, site, "bars") == []


# --- the schedule


def test_a_scheduled_run_completes_its_hour_and_a_feed_that_went_stale_in_it_is_a_warning(
    begun: Site, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Marks end at 00:30; older than 300 s they say nothing: stale in 00:36 to 01:00, 25 minutes of two symbols."""
    site = at(begun, tmp_path / "lake")
    site.config = site.config.model_copy(update={"schedule": ScheduleConfig(interval_min=60)})
    marks = site.lake.scan("marks", site.venue).head(0).collect()
    site.lake.replace("marks", marks, site.venue, MIDNIGHT + timedelta(minutes=30), TWO.end)
    told = {"ops": {"run_once": {"config": {"now": "2025-01-02T01:00:30Z"}}}}
    run = defined(site).resolve_job_def("run_due").execute_in_process(instance=instance, run_config=told)
    assert run.success
    assert [materialized(instance, site, step) for step in STEPS] == [KEYS[:1]] * 4
    assert (site.lake.root / "health.json").exists()
    events = {event.asset_key: event.materialization.metadata for event in run.get_asset_materialization_events()}
    facts = events[asset_key(site.venue, "decisions")]
    assert facts["breakers opened"].value == 2
    assert str(facts["tripped"].value).startswith("- `00:35 AAA-PERP stale_feed: oldest feed is 300 s old")

    done = defined(site).resolve_job_def("check_newest").execute_in_process(instance=instance)
    assert done.success
    found = checked(done)
    assert {name for name, one in found.items() if not one.passed} == {"feeds_fresh"}
    assert found["feeds_fresh"].severity is dg.AssetCheckSeverity.WARN
    said = str(found["feeds_fresh"].description)
    assert "mark stale of AAA-PERP 25" in said
    assert "mark stale of BBB-PERP 25" in said


def test_an_hour_is_complete_when_all_of_its_intervals_are_done(tmp_path: Path) -> None:
    """In either order: 00:00 to 00:30 and 00:30 to 01:00, intervals of half an hour."""
    config = Config(schedule=ScheduleConfig(interval_min=30))
    for name, order in (("forth", (0, 1)), ("back", (1, 0))):
        lake, found = Lake(tmp_path / name), []
        for token, nth in enumerate(order):
            end = MIDNIGHT + (nth + 1) * HOUR / 2
            one = Interval(end - HOUR / 2, end)
            append_outcome(lake, Outcome(Attempt("v", one, (one,), "due", token, MIDNIGHT), MIDNIGHT))
            run = VenueRun("v", (str(one),), (), (), 0, 0, 0.0, ())
            summary = RunSummary("now", token, None, venues=(run,))
            found.append([event.partition for event in scheduled.completed(lake, summary, config)])
        assert found == [[], KEYS[:1] * 4]


def test_a_failed_interval_fails_the_run_of_the_schedule_and_a_busy_lake_does_not(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(lake=tmp_path / "lake")
    job = definitions.definitions_of(config, MIDNIGHT).resolve_job_def("run_due")
    with held(config.lake, "run", datetime.now(UTC), 30):
        assert job.execute_in_process(instance=instance).success
    broken = VenueRun("v", (), (), ("00:00..00:05",), 0, 0, 0.0, ("00:00..00:05 FAILED: planted",))
    summary = RunSummary("now", 1, None, venues=(broken,))
    monkeypatch.setattr(scheduled, "run_due", lambda *_, **__: summary)
    done = job.execute_in_process(instance=instance, raise_on_error=False)
    assert why(done) == "v: 00:00..00:05 FAILED: planted"


def test_definitions_can_be_loaded_and_nothing_runs_by_itself(begun: Site, tmp_path: Path) -> None:
    for config in (Config(lake=tmp_path / "none"), begun.config.model_copy(update={"lake": begun.lake.root})):
        defs = definitions.definitions_of(config, datetime.now(UTC))
        dg.Definitions.validate_loadable(defs)
        for schedule in defs.schedules or ():
            assert isinstance(schedule, dg.ScheduleDefinition)
            assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    hours = defs.resolve_assets_def(asset_key(begun.venue, "bars")).partitions_def
    assert hours is not None
    assert hours.get_partition_keys() == ["2025-01-01-20:00", "2025-01-01-21:00", "2025-01-01-22:00",
                                          "2025-01-01-23:00", *KEYS]  # fmt: skip


# --- health


def unsound(site: Site, span: Interval) -> dict[str, str]:
    """Name -> sentence of the checks that fail."""
    found = {one.name: one.asks(site.lake, site.venue, span, site.config) for one in CHECKS}
    return {name: one.says for name, one in found.items() if not one.sound}


def cut(site: Site, table: str, span: Interval, gone: pl.Expr) -> None:
    rows = site.lake.scan(table, site.venue, span.start, span.end).filter(~gone).collect()
    site.lake.replace(table, rows, site.venue, span.start, span.end)


def test_each_kind_of_damage_fails_the_check_that_is_for_it(
    made: tuple[Site, dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    site, hour = at(made[0], tmp_path / "lake"), Interval(MIDNIGHT + HOUR, TWO.end)
    assert newest_hour(site.lake, site.venue) == hour
    assert unsound(site, hour) == {}
    aaa, minute = pl.col("symbol") == "AAA-PERP", pl.col("ts").dt.minute()

    cut(site, "limits", hour, aaa & minute.is_between(10, 12))
    assert unsound(site, hour) == {"limits_complete": "3 minutes have no limits: AAA-PERP 3"}
    cut(site, "bars", hour, aaa & minute.is_between(10, 13))
    assert unsound(site, hour) == {"bars_complete": "4 bars lack: AAA-PERP 4"}
    cut(site, "bars", hour, aaa)  # a symbol that is gone whole, in the middle of a day
    assert unsound(site, hour) == {"bars_complete": "60 bars lack: AAA-PERP 60"}

    rows = site.lake.scan("marks", site.venue).sort("ts").tail(1).select("venue", "symbol", "ts", last="ts").collect()
    mark_pending(site.lake, "marks", rows, "late")
    assert unsound(site, hour)["nothing_waits"].startswith("rows of marks in 2025-01-02T02:00Z..")
    cut(site, "feature_health", hour, pl.lit(value=True))
    assert unsound(site, hour)["feeds_fresh"].startswith("nothing is known of the feeds")
    text = audit_path(site.lake).read_text()
    audit_path(site.lake).write_text(text.replace("AAA-PERP", "AAB-PERP", 1))
    assert "the audit log is broken at line" in unsound(site, hour)["log_intact"]


def test_an_hour_of_which_nothing_is_known_is_not_sound(made: tuple[Site, dg.ExecuteInProcessResult]) -> None:
    site, never = made[0], Interval(TWO.end, TWO.end + HOUR)
    assert set(unsound(site, never)) == {"bars_complete", "limits_complete", "feeds_fresh"}
    assert newest_hour(Lake(site.lake.root / "none"), site.venue) is None


# --- the web server


def asked(port: int, question: str) -> Any:
    body = json.dumps({"query": question}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]


@pytest.fixture(scope="module")
def served(made: tuple[Site, dg.ExecuteInProcessResult], home: Path) -> Iterator[int]:
    """The port of a real web server over the lake; it and its code server are gone afterwards."""
    port = free_port()
    (home / "site.toml").write_text("[detector]\nreference_h = 2\n")
    told = {"DAGSTER_HOME": str(home), "CASCADEGUARD_LAKE": str(made[0].lake.root),
            CONFIG_VARIABLE: str(home / "site.toml"), "DAGSTER_DISABLE_TELEMETRY": "yes"}  # fmt: skip
    command = [str(Path(sys.executable).with_name("dagster-webserver")), "-m", MODULE, "-d", str(ROOT)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)], env=os.environ | told, cwd=ROOT, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(port, process, home / "log")
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it might have left behind
        process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + UP_WAIT_S
    while True:
        try:
            asked(port, "{ version }")
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)


@pytest.mark.service
def test_the_web_server_shows_the_assets_and_the_hours_that_are_made(served: int) -> None:
    nodes = asked(served, "{ assetNodes { assetKey { path } groupName partitionStats { numMaterialized numFailed } } }")
    found = {tuple(one["assetKey"]["path"]): one["partitionStats"] for one in nodes["assetNodes"]}
    venue = nodes["assetNodes"][0]["groupName"]
    assert found == {(venue, step): {"numMaterialized": 2, "numFailed": 0} for step in STEPS}
    assert [path[0] for path in found] == [venue] * 4
