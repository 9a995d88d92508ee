"""One interval told: import os
from the lake to the outbox, again without a second alert, and never in the way of a run."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipelines.alerting.deliver import tried
from pipelines.alerting.interval import record_failure, record_interval
from pipelines.alerting.listing import listed
from pipelines.alerting.outbox import opened, outbox_path
from pipelines.config import Config, SinkConfig
from tests.pipelines.alerting.letters import at
from tests.pipelines.alerting.worlds import VENUE, Market, decision, limit, score, settings

DESK = SinkConfig(name="desk", url_env="DESK_URL")
OPEN = ("AAA", "price_band", "open")
BREACH = decision(12, "AAA", "closed", "open", "reduce_only")
OVER = decision(40, "AAA", "open", "closed", "normal")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "lake")


@pytest.fixture
def config(market: Market) -> Config:
    return settings(market.root, DESK)


def titles(market: Market) -> list[str]:
    with opened(market.root) as box:
        return [one.title for one in box.open_letters()]


def lasts(market: Market) -> list[str]:
    return [row["key"] for row in listed(market.root, at(0))["alerts"]]


def test_a_breach_is_told_once_however_often_the_interval_is_run(market: Market, config: Config) -> None:
    told = market.guarded(10, 15, [BREACH], [OPEN])
    first = record_interval(market.lake, config, VENUE, told, at(16))
    again = record_interval(market.lake, config, VENUE, told, at(17))
    assert (first.news, first.recorded, first.problems) == ({"opened": 1}, 1, [])
    assert (again.news, again.recorded, again.problems) == ({}, 0, [])
    assert titles(market) == ["WARNING testex: AAA: reduce only by price band, 5 min"]


def test_an_interval_that_told_nothing_is_made_up_for_by_the_next(market: Market, config: Config) -> None:
    """A run that died between guard and alerts: its breach would be lost if only the new interval were read."""
    record_interval(market.lake, config, VENUE, market.guarded(5, 10), at(11))
    market.guarded(10, 15, [BREACH], [OPEN])
    found = record_interval(market.lake, config, VENUE, market.guarded(15, 20, [], [OPEN]), at(21))
    assert found.news == {"opened": 1}


def test_a_breach_that_came_and_went_in_a_span_that_told_nothing_is_told(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(5, 10), at(11))
    market.guarded(10, 15, [BREACH, OVER | {"ts": at(14)}])
    assert record_interval(market.lake, config, VENUE, market.guarded(15, 20), at(21)).news == {"passed": 1}


def test_a_lake_that_is_alerted_for_the_first_time_tells_what_lasts_with_its_beginning(
    market: Market, config: Config
) -> None:
    market.guarded(0, 10, [decision(3, "AAA", "closed", "open", "reduce_only")], [OPEN])
    market.guarded(10, 15, [], [OPEN])
    record_interval(market.lake, config, VENUE, market.guarded(15, 20, [], [OPEN]), at(21))
    assert listed(market.root, at(0))["alerts"][0]["since"] == at(3).isoformat()


def test_a_breach_that_late_data_took_back_is_told_as_over(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(10, 15, [BREACH], [OPEN]), at(16))
    record_interval(market.lake, config, VENUE, market.guarded(10, 15), at(18))
    found = record_interval(market.lake, config, VENUE, market.guarded(15, 30), at(31))
    assert (found.news, lasts(market)) == ({"cleared": 1}, [])


def test_a_breach_that_late_data_brought_is_told(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(10, 15), at(16))
    found = record_interval(market.lake, config, VENUE, market.guarded(10, 15, [BREACH], [OPEN]), at(18))
    assert found.news == {"opened": 1}


def test_an_amended_past_tells_nothing_by_itself(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(10, 15), at(16))
    found = record_interval(market.lake, config, VENUE, market.guarded(5, 10, [BREACH | {"ts": at(7)}]), at(18))
    assert (found.news, found.problems) == ({}, [])


def test_a_guard_that_did_not_run_ends_no_alert_and_says_so(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(10, 15, [BREACH], [OPEN]), at(16))
    found = record_interval(market.lake, config, VENUE, type(market.guarded(0, 1))(at(15), at(30)), at(31))
    assert found.news == {"opened": 1}
    assert lasts(market) == ["data/testex/*/limits", "breaker/testex/AAA/price_band"]


def test_opening_and_recovery_take_their_time(market: Market, config: Config) -> None:
    record_interval(market.lake, config, VENUE, market.guarded(10, 15, [BREACH], [OPEN]), at(16))
    found = [
        record_interval(
            market.lake, config, VENUE, market.guarded(end - 5, end, [OVER] if end == 40 else []), at(end + 1)
        )
        for end in (40, 45, 50, 55)
    ]
    assert [one.news for one in found] == [{}, {}, {"cleared": 1}, {}]


def test_episodes_and_data_faults_are_told_beside_breakers(market: Market, config: Config) -> None:
    told = market.guarded(
        10, 15, [BREACH], [OPEN],
        limits=[limit(15, "BBB", missing="depth missing")],
        scores=[score(14, "CCC", alert=True, p_60m=0.6, p_threshold=0.2)],
    )  # fmt: skip
    found = record_interval(market.lake, config, VENUE, told, at(16))
    assert found.standing == {"info": 1, "warning": 1, "critical": 1}
    assert {one["kind"] for one in listed(market.root, at(0))["alerts"]} == {"breaker", "data", "episode"}


def test_a_sink_hears_only_of_what_it_asked_for(market: Market) -> None:
    pager = SinkConfig(name="pager", url_env="X", severity_min="critical")
    data = SinkConfig(name="data", url_env="X", kinds=("data",))
    config = settings(market.root, pager, data)
    told = market.guarded(10, 15, [BREACH], [OPEN], limits=[limit(15, "BBB", missing="depth missing")])
    record_interval(market.lake, config, VENUE, told, at(16))
    with opened(market.root) as box:
        assert [(one.sink, one.keys) for one in box.open_letters()] == [("data", ("data/testex/BBB",))]


def test_results_that_come_late_are_told_and_end_with_the_first_in_time(market: Market, config: Config) -> None:
    late = record_interval(market.lake, config, VENUE, market.guarded(10, 15), at(45))
    still = record_interval(market.lake, config, VENUE, market.guarded(15, 30), at(60))
    good = record_interval(market.lake, config, VENUE, market.guarded(30, 60), at(61))
    end = record_interval(market.lake, config, VENUE, market.guarded(60, 75), at(76))
    assert [one.news for one in (late, still, good, end)] == [{"opened": 1}, {}, {}, {"cleared": 1}]


def test_failed_runs_are_counted_and_end_with_the_next_good_one(market: Market, config: Config) -> None:
    spans = [market.guarded(start, start + 5) for start in range(10, 40, 5)]
    failed = [record_failure(market.lake, config, VENUE, one, error="no disk", now=one.end) for one in spans[:3]]
    assert [one.news for one in failed] == [{"opened": 1}, {}, {"worse": 1}]
    assert listed(market.root, at(0))["alerts"][0]["state"] == "failed, 3 in a row"
    good = [record_interval(market.lake, config, VENUE, one, one.end) for one in spans[3:]]
    assert [one.news for one in good] == [{}, {}, {"cleared": 1}]


def test_an_error_text_loses_its_secrets(market: Market, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_URL", "json://desk:hunter2@127.0.0.1/x")
    error = "psycopg: postgresql://risk:s3cret@db/lake, and json://desk:hunter2@127.0.0.1/x"
    record_failure(market.lake, config, VENUE, market.guarded(10, 15), error=error, now=at(16))
    with opened(market.root) as box:
        said = box.open_letters()[0].text + str(box.standing())
    assert "psycopg" in said
    assert not any(secret in said for secret in ("hunter2", "s3cret"))


@pytest.mark.parametrize("damage", ["table", "outbox", "folder"])
def test_nothing_that_is_broken_stops_a_run(market: Market, config: Config, damage: str) -> None:
    told = market.guarded(10, 15, [BREACH], [OPEN])
    if damage == "table":
        for file in (market.root / "tables" / "decisions").rglob("*.parquet"):
            file.write_bytes(b"no parquet")
    elif damage == "outbox":
        record_interval(market.lake, config, VENUE, told, at(16))
        outbox_path(market.root).write_bytes(b"no database" * 1000)
    else:
        outbox_path(market.root).parent.write_text("a file where a folder should be")
    with capture_logs() as logged:
        found = record_interval(market.lake, config, VENUE, told, at(17))
        tried(market.root, config, os.environ, at(17))
    said = " ".join(str(line["event"]) for line in logged)
    if damage == "outbox":
        assert found.news == {"opened": 1}  # told anew: better twice than not
        assert outbox_path(market.root).with_name("outbox.sqlite.broken").exists()
        assert "begun anew" in said
    else:
        assert found.problems[0].startswith("alerts could not be recorded: ")
        assert "alerts could not be recorded" in said


def test_a_locked_outbox_is_not_thrown_away(market: Market, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.alerting.outbox.BUSY_WAIT_S", 0.05)
    told = market.guarded(10, 15, [BREACH], [OPEN])
    record_interval(market.lake, config, VENUE, told, at(16))
    holder: Any = sqlite3.connect(outbox_path(market.root), isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")  # not even a look is allowed
    holder.execute("BEGIN EXCLUSIVE")
    found = record_interval(market.lake, config, VENUE, market.guarded(15, 20, [], [OPEN]), at(21))
    holder.execute("ROLLBACK")
    holder.close()
    assert "locked" in found.problems[0]
    assert not outbox_path(market.root).with_name("outbox.sqlite.broken").exists()
    assert lasts(market) == ["breaker/testex/AAA/price_band"]
