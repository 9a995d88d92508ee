"""Scheduled runs on a small simulated venue: parity, late rows, failures, what is left behind."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import guard as guard_module
from pipelines.audit import verify_audit
from pipelines.config import Config, DetectorConfig, SimulatorConfig, SourceConfig
from pipelines.explain import explain_decision, explain_sentence
from pipelines.lake import Lake
from pipelines.operating import interval as steps
from pipelines.operating.backfill import backfill_venue
from pipelines.operating.history import KILLED, Attempt, begin
from pipelines.operating.lease import BusyError, held
from pipelines.operating.run import RunSummary, _Run, run_once
from pipelines.pending import mark_pending
from pipelines.replay import INTACT, check_replay
from pipelines.simulate import simulate_venue
from pipelines.times import Interval, parse_time

TABLES = (
    "bars",
    "features",
    "feature_health",
    "scores",
    "limits",
    "decisions",
    "account_decisions",
    "exposure_decisions",
)
FIRST = parse_time("2025-01-02T05:00Z")  # of the day that has the evening before for its reference
HOUR = Interval(FIRST, FIRST + timedelta(hours=1))
WALL = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Site:
    """A lake with the rows of the world, and the settings of its schedule."""

    lake: Lake
    config: Config
    venue: str

    def run(self, hhmm: str, day: int = 2, **how: Any) -> RunSummary:
        now = parse_time(f"2025-01-{day:02d}T{hhmm}Z") + timedelta(seconds=30)
        return run_once(self.lake.root, self.config, now, wall=WALL, **how)

    def backfill(self, span: Interval, **how: Any) -> Any:
        return backfill_venue(self.lake.root, self.venue, span, self.config, wall=WALL, clock=lambda: WALL, **how)

    def rows(self, table: str, span: Interval) -> pl.DataFrame:
        found = self.lake.scan(table, None, span.start, span.end).collect()
        return found.sort(found.columns)


@pytest.fixture(scope="module")
def rows_alone(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two symbols from the evening before on; nothing is computed yet."""
    simulator = SimulatorConfig(symbols=("AAA-PERP", "BBB-PERP"), accounts=80, days=0.5, step_s=60)
    config = Config(simulator=simulator, seed=3, detector=DetectorConfig(reference_h=3))
    lake = Lake(tmp_path_factory.mktemp("site") / "lake")
    simulated = simulate_venue(lake, config, FIRST - timedelta(hours=11))
    return Site(lake, config, simulated.venue)


def copy_of(site: Site, target: Path) -> Site:
    shutil.copytree(site.lake.root, target)
    return Site(Lake(target), site.config, site.venue)


@pytest.fixture(scope="module")
def begun(rows_alone: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """After the first scheduled run, at 05:05."""
    site = copy_of(rows_alone, tmp_path_factory.mktemp("begun") / "lake")
    site.run("05:05")
    return site


@pytest.fixture(scope="module")
def backfilled(rows_alone: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The hour from 05:00 on as a backfill does it: what scheduled runs must come to."""
    site = copy_of(rows_alone, tmp_path_factory.mktemp("backfilled") / "lake")
    site.backfill(HOUR)
    return site


@pytest.fixture
def site(begun: Site, tmp_path: Path) -> Site:
    return copy_of(begun, tmp_path / "lake")


def same(one: Site, other: Site, span: Interval) -> None:
    for table in TABLES:
        mine, theirs = one.rows(table, span), other.rows(table, span)
        assert mine.equals(theirs), table
    assert one.rows("scores", span)["anomaly"].null_count() == 0


def test_single_runs_a_caught_up_hour_and_a_backfill_give_the_same_rows(site: Site, backfilled: Site) -> None:
    """Parity, row for row: every table, the addresses of models included."""
    for hhmm in ("05:10", "05:15", "05:20"):
        assert site.run(hhmm).venues[0].done != ()
    caught_up = site.run("06:00")
    assert len(caught_up.venues[0].done) == 8
    same(site, backfilled, HOUR)
    assert site.rows("decisions", HOUR).height > 0


def test_a_run_with_nothing_due_does_nothing_and_says_so(site: Site) -> None:
    before = {path: path.stat().st_mtime_ns for path in (site.lake.root / "tables").rglob("*") if path.is_file()}
    found = site.run("05:05")
    assert "nothing is due" in found.sentence()
    assert {
        path: path.stat().st_mtime_ns for path in (site.lake.root / "tables").rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize("what", ["nothing", "a new row", "a new file", "the next interval", "a clock put back"])
def test_a_run_opens_the_lake_only_where_something_has_changed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Opening it costs a second of imports; not opening it where something is new would miss an interval."""

    def opened(*_: object) -> None:
        raise RuntimeError("opened")

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "README").write_text("not a file of this source")
    site.config = site.config.model_copy(
        update={"sources": (SourceConfig(adapter="tardis", paths=(str(tmp_path / "in"),)),)}
    )
    site.run("05:10")
    if what == "a new row":
        mark(site, "marks", site.lake.scan("marks", site.venue).head(1).collect(), "new")
    if what == "a new file":
        (tmp_path / "in" / "other").write_text("other")
    monkeypatch.setattr(_Run, "_everything", opened)
    at = {"the next interval": "05:15", "a clock put back": "05:05"}.get(what, "05:10")
    if what == "nothing":
        assert "nothing is due" in site.run(at).sentence()
    else:
        with pytest.raises(RuntimeError, match="opened"):
            site.run(at)


def test_a_run_beside_another_does_nothing_and_is_no_failure(site: Site) -> None:
    with held(site.lake.root, "run", WALL, 30):
        found = site.run("05:10")
    assert found.sentence().startswith("another run is at work since 2026-01-01T00:00Z")
    assert not found.failed
    assert found.venues == ()


def test_every_attempt_leaves_a_row(site: Site) -> None:
    site.run("05:10")
    rows = site.lake.scan("runs").sort("ts").collect()
    assert rows.select("kind", "state", pl.col("ts").dt.strftime("%H:%M")).rows() == [
        ("due", "ok", "05:05"), ("due", "ok", "05:10"),
    ]  # fmt: skip
    assert rows["token"].to_list() == [1, 2]
    assert rows["run_id"].n_unique() == 2
    assert '"guard"' in rows["steps"][1]


# --- failures


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


def test_guard_runs_whatever_happens_to_scores(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build_features", broken)
    found = site.run("05:10").venues[0]
    assert found.failed == ()
    assert "no scores: RuntimeError: planted" in found.notes
    span = Interval(FIRST + timedelta(minutes=5), FIRST + timedelta(minutes=10))
    assert site.rows("limits", span).height == 10
    assert site.rows("scores", span).is_empty()


def test_a_failed_interval_is_tried_again_alone_and_what_came_after_it_is_judged_anew(
    site: Site, backfilled: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the second judgement the breakers of 05:15 would have gone on from a state that skipped 05:10."""
    with monkeypatch.context() as patched:
        patched.setattr(steps, "guard_venue", broken)
        assert site.run("05:10").venues[0].failed == ("2025-01-02T05:05Z..2025-01-02T05:10Z",)
    found = site.run("05:15").venues[0]
    assert found.done == ("2025-01-02T05:05Z..2025-01-02T05:10Z", "2025-01-02T05:10Z..2025-01-02T05:15Z")
    same(site, backfilled, Interval(FIRST, FIRST + timedelta(minutes=15)))


def test_an_interval_that_kills_its_process_is_given_up_in_the_end(site: Site) -> None:
    """A killed process writes no row: the intention that it left behind counts as an attempt."""
    dead = Interval(FIRST + timedelta(minutes=5), FIRST + timedelta(minutes=10))
    for token in (7, 8, 9):
        begin(site.lake, Attempt(site.venue, dead, (dead,), "due", token, WALL))
        site.run("05:06")
    rows = site.lake.scan("runs").filter(pl.col("state") == "failed").collect()
    assert rows["error"].to_list() == [KILLED] * 3
    found = site.run("05:15").venues[0]
    assert found.done == ("2025-01-02T05:10Z..2025-01-02T05:15Z",)
    assert any("FAILED 3 times" in note for note in found.notes)


def test_a_hook_that_fails_costs_a_note(site: Site) -> None:
    def alerts(*_: object) -> list[str]:
        raise RuntimeError("planted")

    seen: list[int] = []

    def observe(_lake: Lake, _config: Config, outcomes: Any, _now: datetime) -> list[str]:
        seen.append(len(outcomes))
        return []

    found = site.run("05:10", alerts=alerts, observe=observe)
    assert not found.failed
    assert "planted" in found.notes[0]
    assert seen == [1]


# --- late rows


def hold_back(site: Site, table: str, since: datetime, until: datetime) -> pl.DataFrame:
    """Take the rows of `(since, until]` out of the lake, as if they had not come yet: bars do not know of them."""
    rows = site.lake.scan(table, site.venue, since, until).collect()
    mark(site, table, rows, "taken away")
    site.lake.replace(table, rows.head(0), site.venue, since, until)
    return rows


def deliver(site: Site, table: str, rows: pl.DataFrame) -> None:
    mark(site, table, rows, "late")
    site.lake.append(table, rows, "late")


def mark(site: Site, table: str, rows: pl.DataFrame, why: str) -> None:
    spans = rows.group_by("venue", "symbol").agg(
        pl.col("ts").min(), pl.col("ts").max().alias("last"), pl.len().alias("rows")
    )
    mark_pending(site.lake, table, spans, why)


@pytest.fixture(scope="module")
def lacking(begun: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, pl.DataFrame]:
    """All intervals up to 05:45 are judged without the open interest of 05:10 to 05:35; with the rows that lack."""
    site = copy_of(begun, tmp_path_factory.mktemp("lacking") / "lake")
    start = FIRST + timedelta(minutes=10)
    rows = hold_back(site, "open_interest", start, start + timedelta(minutes=25))
    site.run("05:45")
    return site, rows


@pytest.fixture(scope="module")
def amended(lacking: tuple[Site, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, pl.DataFrame]:
    """The rows have come after all, and the next run found them; with the decisions as they stood before."""
    site = copy_of(lacking[0], tmp_path_factory.mktemp("amended") / "lake")
    before = site.rows("decisions", HOUR)
    deliver(site, "open_interest", lacking[1])
    found = site.run("05:50").venues[0]
    assert len(found.amended) == 5
    assert found.done == ("2025-01-02T05:45Z..2025-01-02T05:50Z",)
    return site, before


def test_late_rows_amend_and_the_end_is_as_if_they_had_come_in_time(
    amended: tuple[Site, pl.DataFrame], backfilled: Site
) -> None:
    site, before = amended
    span = Interval(FIRST, FIRST + timedelta(minutes=50))
    assert not site.rows("decisions", span).equals(before), "the late rows must matter, or nothing is shown"
    same(site, backfilled, span)
    assert site.lake.scan("pending").collect().is_empty()


def test_an_amended_decision_stays_to_be_seen_and_the_log_still_follows(amended: tuple[Site, pl.DataFrame]) -> None:
    site, before = amended
    stand = set(site.lake.scan("decisions").collect()["decision_id"])
    gone = before.filter(~pl.col("decision_id").is_in(list(stand)))
    assert gone.height > 0
    told = site.lake.scan("amendments").collect()
    assert set(gone["decision_id"]) <= set(told["before"])
    assert told["why"].unique().to_list() == ["late rows of open_interest"]
    assert set(told["after"].drop_nulls()) <= stand
    one = explain_decision(site.lake, gone["decision_id"][0])
    assert one["superseded"]
    assert "late rows of open_interest" in explain_sentence(one)
    assert verify_audit(site.lake)["ok"]
    assert check_replay(site.lake).verdict == INTACT


def test_an_amendment_that_was_killed_before_its_tables_is_told_once(
    lacking: tuple[Site, pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = copy_of(lacking[0], tmp_path / "lake")
    deliver(site, "open_interest", lacking[1])
    replace = Lake.replace

    def dies(self: Lake, table: str, *arguments: Any, **named: Any) -> None:
        if table == "limits":
            raise KeyboardInterrupt
        replace(self, table, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            site.run("05:45")
    site.run("05:45")
    told = site.lake.scan("amendments").collect()
    assert told.height > 0
    assert told.select("before", "after").is_unique().all()


def test_rows_that_come_too_late_are_named_and_judge_nothing(site: Site) -> None:
    old = parse_time("2024-12-30T00:00Z")
    rows = site.lake.scan("marks", site.venue).head(1).collect().with_columns(ts=pl.lit(old, pl.Datetime("us", "UTC")))
    deliver(site, "marks", rows)
    found = site.run("05:10").venues[0]
    assert found.amended == ()
    assert any("rows of marks back to 2024-12-30T00:00Z came too late" in note for note in found.notes)


# --- backfill


def test_a_backfill_that_was_stopped_goes_on_where_it_was(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    midnight = FIRST - timedelta(hours=5)
    span = Interval(midnight - timedelta(minutes=10), midnight + timedelta(minutes=10))  # parts of two days
    judged: list[str] = []
    guard = guard_module.guard_venue

    def counting(lake: Lake, venue: str, part: Interval, *rest: Any, **named: Any) -> Any:
        judged.append(str(part))
        if len(judged) == 2:
            raise KeyboardInterrupt
        return guard(lake, venue, part, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(steps, "guard_venue", counting)
        with pytest.raises(KeyboardInterrupt):
            site.backfill(span)
    said: list[str] = []
    done = site.backfill(span, say=said.append)
    assert (done.days, done.days_skipped) == (2, 1)
    assert [text.split(",")[0] for text in said if "of 2 days" in text] == ["judged 2 of 2 days"]
    again = site.backfill(span)
    assert again.days_skipped == 2
    runs = site.lake.scan("runs").filter(pl.col("kind") == "backfill").collect()
    assert runs["state"].to_list() == ["ok", "ok"]


def test_scheduled_runs_go_on_beside_a_backfill_and_a_second_backfill_waits(site: Site) -> None:
    with held(site.lake.root, "backfill", WALL, 30):
        assert site.run("05:10").venues[0].done != ()
        with pytest.raises(BusyError, match="another backfill is at work"):
            site.backfill(Interval(FIRST, FIRST + timedelta(minutes=5)))
