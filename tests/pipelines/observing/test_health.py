"""How the runs stand: late, failing or well, on a terminal, as JSON, at once."""

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.alerting.interval import record_interval
from pipelines.config import Config, SinkConfig
from pipelines.observing.health import as_json, health_path, kept_facts, status_sentence, write_health
from pipelines.observing.look import look
from pipelines.observing.observe import observe
from pipelines.observing.state import FAILING, LATE, OK, Snapshot, snapshot
from tests.pipelines.alerting.letters import at
from tests.pipelines.alerting.worlds import VENUE, Market, limit, settings, span
from tests.pipelines.observing.worlds import days, ran, run_row, tripped
from tests.pipelines.test_cli import cascadeguard, refused


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "lake")


def seen(market: Market, now: datetime, config: Config | None = None) -> Snapshot:
    chosen = config or settings(market.root)
    return snapshot(market.root, look(market.lake, now), chosen, now)


def test_a_venue_whose_last_interval_is_recent_is_well(market: Market) -> None:
    tripped(market)
    found = seen(market, at(12))
    (one,) = found.facts.venues
    assert (found.state, found.reasons) == (OK, ())
    assert (one.last_good, found.lag_s(one), one.seconds) == (at(10), 120, 30)
    assert (one.steps, one.rows_ingested, one.episodes) == ({"bars": 0.5, "score": 1.25, "guard": 0.75}, 12, 2)
    assert (one.symbols, one.leverage_cap_min, one.faults) == ({"normal": 1, "reduce_only": 1}, 2.0, 1)
    assert (one.decisions, one.limits_until) == ((("price_band", "reduce_only", 1),), at(25))
    (breaker,) = one.tripped
    assert (breaker.symbol, breaker.rule, breaker.since, breaker.action) == ("AAA", "price_band", at(7), "reduce_only")


@pytest.mark.parametrize(("now", "state"), [(25, OK), (25.1, LATE)])
def test_late_begins_beyond_the_lag_that_is_allowed(market: Market, now: float, state: str) -> None:
    tripped(market)
    assert seen(market, at(now)).state == state


def test_the_newest_attempt_says_how_an_interval_stands(market: Market) -> None:
    tripped(market)
    ran(market.lake, run_row(10, 15, "failed"))
    found = seen(market, at(17))
    (one,) = found.facts.venues
    assert (found.state, found.reasons) == (FAILING, ("testex: the last attempt failed: no disk",))
    assert (one.last_good, found.failed_24h(one)) == (at(10), 1)
    ran(market.lake, run_row(10, 15, started_at=at(17), finished_at=at(18)))
    found = seen(market, at(19))
    assert (found.state, found.facts.venues[0].last_good) == (OK, at(15))


def test_an_amendment_that_failed_takes_the_interval_back(market: Market) -> None:
    tripped(market)
    ran(market.lake, run_row(5, 10, "failed", started_at=at(20), finished_at=at(21)))
    assert seen(market, at(22)).facts.venues[0].last_good == at(5)


def test_failures_are_counted_for_a_day(market: Market) -> None:
    ran(market.lake, run_row(0, 5, "failed"), run_row(5, 10))
    counts = [found.failed_24h(found.facts.venues[0]) for found in (seen(market, days(1)), seen(market, days(1.01)))]
    assert counts == [1, 0]


def test_a_venue_that_stopped_long_ago_still_has_its_last_good_interval(market: Market) -> None:
    tripped(market)
    found = seen(market, days(30))
    assert (found.state, found.facts.venues[0].last_good) == (LATE, at(10))


def test_a_breaker_that_has_been_open_for_weeks_still_says_since_when(market: Market) -> None:
    tripped(market)
    end = 60 * 24 * 30
    market.guarded(end - 5, end, [], [("AAA", "price_band", "open")])
    assert [one.since for one in seen(market, at(end + 1)).facts.venues[0].tripped] == [at(7)]


def test_what_was_never_run_is_not_well(market: Market, tmp_path: Path) -> None:
    assert seen(market, at(0)).reasons == ("nothing was ever run on this lake",)
    market.guarded(0, 5)
    assert seen(market, at(6)).reasons == ("testex: no interval was done well yet",)


def test_alerts_that_do_not_get_out_are_a_failure(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(market.root, SinkConfig(name="desk", url_env="UNSET_URL"))
    told = market.guarded(5, 10, limits=[limit(10, "AAA", missing="depth missing")])
    ran(market.lake, run_row(5, 10))
    record_interval(market.lake, config, VENUE, told, at(11))
    assert seen(market, at(12), config).state == OK  # recorded, and not tried yet
    from pipelines.alerting.deliver import tried

    tried(market.root, config, os.environ, at(12))
    found = seen(market, at(13), config)
    assert found.reasons == ("sink desk takes no alerts: the environment variable UNSET_URL is empty",)
    tried(market.root, config, os.environ, days(1.1))
    gone = snapshot(market.root, look(market.lake, at(10)), config, days(1.2))
    assert "sink desk: 1 alerts given up in 24 h" in gone.reasons


def test_a_full_disk_is_a_failure(market: Market) -> None:
    tripped(market)
    config = Config(lake=market.root, observe={"disk_free_gb_min": 1e9})  # type: ignore[arg-type]  # as the file gives it
    assert "GB free" in seen(market, at(12), config).reasons[0]


def test_an_outbox_that_cannot_be_read_is_a_failure_and_nothing_worse(market: Market) -> None:
    tripped(market)
    (market.root / "alerts").mkdir()
    (market.root / "alerts" / "outbox.sqlite").write_bytes(b"no database" * 500)
    assert seen(market, at(12)).reasons[0].startswith("sink outbox takes no alerts: cannot be read")


def test_the_champion_is_read_from_the_registrys_file(market: Market) -> None:
    tripped(market)
    assert seen(market, at(12)).champion == ("cascadeguard-warning", "")
    (market.root / "mlflow").mkdir()
    with sqlite3.connect(market.root / "mlflow" / "mlflow.db") as store:
        store.execute("CREATE TABLE registered_model_aliases (alias TEXT, version INTEGER, name TEXT, workspace TEXT)")
        store.execute("INSERT INTO registered_model_aliases VALUES ('champion', 4, 'cascadeguard-warning', 'default')")
    store.close()
    assert seen(market, at(12)).champion == ("cascadeguard-warning", "4")


# --- what is kept


def test_what_a_run_kept_gives_the_same_answer_at_any_later_moment(market: Market) -> None:
    tripped(market)
    ran(market.lake, run_row(10, 15, "failed"))
    config = settings(market.root)
    assert observe(market.lake, config, at(17)) == []
    kept = kept_facts(market.root)
    assert kept is not None
    for now in (at(17), at(40), days(3)):
        assert snapshot(market.root, kept, config, now).facts == kept
        fresh = as_json(seen(market, now, config))
        assert as_json(snapshot(market.root, kept, config, now)) | {"disk_free_bytes": 0} == fresh | {
            "disk_free_bytes": 0
        }


@pytest.mark.parametrize("change", ["runs", "limits", "scores", "file", "form"])
def test_what_was_kept_counts_only_while_no_table_has_changed(market: Market, change: str) -> None:
    tripped(market)
    observe(market.lake, settings(market.root), at(12))
    assert kept_facts(market.root) is not None
    if change == "runs":
        ran(market.lake, run_row(10, 15))
    elif change == "file":
        health_path(market.root).write_text("{")
    elif change == "form":
        told = json.loads(health_path(market.root).read_text())
        health_path(market.root).write_text(json.dumps(told | {"form": 0}))
    else:
        market.guarded(10, 15)
    assert kept_facts(market.root) is None


def test_the_health_file_is_whole_or_not_there(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    tripped(market)
    found = seen(market, at(12))
    write_health(market.root, found)
    before = health_path(market.root).read_text()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_health(market.root, found)
    assert health_path(market.root).read_text() == before
    assert [path.name for path in market.root.glob(".health*")] == []
    assert observe(market.lake, settings(market.root), at(13))[0].startswith("health and metrics could not be written")


# --- words


def test_the_status_says_all_of_it_in_a_hundred_columns(market: Market) -> None:
    tripped(market)
    ran(market.lake, run_row(10, 15, "failed", error="x" * 500 + " <b>\nnew line"))
    record_interval(market.lake, settings(market.root), VENUE, span(5, 10), at(11))
    text = status_sentence(seen(market, at(40)))
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    for words in (
        "failing at 2025-10-10 00:40Z",
        "testex: the last good interval ended 30 min ago",
        "last good 2025-10-10 00:10Z, 30 min ago; took 30 s; 12 rows taken in",
        "failed 1 attempt in 24 h",
        "limits expired at 2025-10-10 00:25Z; symbols: 1 normal, 1 reduce only",
        "data 1 symbol with a fault",
        "breakers 1 tripped",
        "AAA reduce only by price band, 5 min since 2025-10-10 00:07Z: price moved -7.2 %",
        "champion none known here",
        "no sink is configured",
    ):
        assert words in said, words
    assert "<b>" not in text


def test_the_command_tells_monitoring_by_its_exit_code(market: Market, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    end = (now - timedelta(minutes=20) - at(0)) / timedelta(minutes=1)
    market.guarded(end - 5, end)
    ran(market.lake, run_row(end - 5, end))
    late = cascadeguard("status", "--lake", market.root, cwd=tmp_path)
    well = cascadeguard("status", "--lake", market.root, "--max-lag", "30m", "--json", cwd=tmp_path)
    assert (late.returncode, late.stdout.split()[0]) == (1, "late")
    assert (well.returncode, json.loads(well.stdout)["state"]) == (0, "ok")
    refused(cascadeguard("status", "--max-lag", "soon", cwd=tmp_path), "not a length of time", "soon")
    refused(cascadeguard("status", "--max-lag", "-5m", cwd=tmp_path), "not a length of time")
    file = tmp_path / "file"
    file.write_text("")
    refused(cascadeguard("status", "--lake", file, cwd=tmp_path), "not a directory")


def test_a_lake_that_is_not_there_is_not_well_and_not_made(tmp_path: Path) -> None:
    done = cascadeguard("status", "--lake", tmp_path / "nowhere", cwd=tmp_path)
    assert (done.returncode, "nothing was ever run" in done.stdout) == (1, True)
    assert not (tmp_path / "nowhere").exists()


def test_a_status_of_what_was_kept_imports_no_table_library(market: Market, tmp_path: Path) -> None:
    """A monitor asks every minute; imports of tables and features alone would cost more than a second of CPU."""
    tripped(market)
    observe(market.lake, settings(market.root), at(12))
    heavy = ["polars", "deltalake", "numba", "mlflow", "features", "apprise", "plotly"]
    code = (
        "import sys; from pipelines import cli; code = cli.run(['status', '--lake', sys.argv[1]]);"
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(market.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.splitlines()[-1] == "1 []"
