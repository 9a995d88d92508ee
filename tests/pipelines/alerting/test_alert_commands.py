"""`cascadeguard alerts` as a person types it."""

import json
from pathlib import Path

import pytest

from pipelines.alerting.interval import record_interval
from tests.pipelines.alerting.letters import KEY, at
from tests.pipelines.alerting.worlds import VENUE, Market, decision, hook, settings
from tests.pipelines.servers import free_port
from tests.pipelines.test_cli import cascadeguard, refused

SETTINGS = '[alerts]\ntimeout_s = 5\n[[alerts.sinks]]\nname = "desk"\nurl_env = "DESK_URL"\n'


@pytest.fixture
def market(tmp_path: Path) -> Market:
    made = Market(tmp_path / "lake")
    breach = decision(12, "AAA", "closed", "open", "reduce_only")
    told = made.guarded(10, 15, [breach], [("AAA", "price_band", "open")])
    record_interval(made.lake, settings(made.root), VENUE, told, at(16))
    (tmp_path / "cascadeguard.toml").write_text(SETTINGS)
    return made


def test_what_lasts_is_listed_with_what_a_person_needs_to_act(market: Market, tmp_path: Path) -> None:
    done = cascadeguard("alerts", "list", "--lake", market.root, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith(
        "warning   testex AAA: price band, 5 min, reduce only, since 2025-10-10 00:12Z"
    )
    assert "cascadeguard explain AAA-price_band-12" in done.stdout


def test_an_alert_is_acknowledged_by_the_id_that_the_list_shows(market: Market, tmp_path: Path) -> None:
    listed = json.loads(cascadeguard("alerts", "list", "--lake", market.root, "--json", cwd=tmp_path).stdout)
    short = listed["alerts"][0]["id"]
    done = cascadeguard("alerts", "ack", short, "--by", "ana", "--lake", market.root, cwd=tmp_path)
    assert done.stdout == f"acknowledged by ana: {KEY}\n"
    assert "acknowledged by ana" in cascadeguard("alerts", "list", "--lake", market.root, cwd=tmp_path).stdout


def test_an_acknowledgement_until_a_past_time_is_over(market: Market, tmp_path: Path) -> None:
    words = ("alerts", "ack", KEY, "--by", "ana", "--until", "2025-10-10T01:00Z", "--lake", market.root)
    assert cascadeguard(*words, cwd=tmp_path).returncode == 0
    assert "acknowledged" not in cascadeguard("alerts", "list", "--lake", market.root, cwd=tmp_path).stdout


def test_mistakes_cost_one_line(market: Market, tmp_path: Path) -> None:
    at_lake = ("--lake", market.root)
    refused(cascadeguard("alerts", "ack", "nothing", "--by", "ana", *at_lake, cwd=tmp_path), "no such alert", "nothing")
    refused(cascadeguard("alerts", "ack", KEY, "--by", " ", *at_lake, cwd=tmp_path), "needs a name")
    refused(cascadeguard("alerts", "ack", KEY, *at_lake, cwd=tmp_path), "--by")
    refused(cascadeguard("alerts", "ack", KEY, "--by", "a", "--until", "x", *at_lake, cwd=tmp_path), "not a time")
    refused(cascadeguard("alerts", cwd=tmp_path), "Missing command")
    refused(cascadeguard("alerts", "list", "--lake", tmp_path / "nowhere", cwd=tmp_path), "there is no lake")
    refused(cascadeguard("alerts", "test", "pager", *at_lake, cwd=tmp_path), "no such sink", "desk")
    refused(cascadeguard("alerts", "test", "desk", *at_lake, cwd=tmp_path), "DESK_URL is empty")


def test_a_lake_that_never_alerted_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    done = cascadeguard("alerts", "list", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing lasts that was alerted\n")
    assert not (tmp_path / "lake" / "alerts").exists()


@pytest.mark.service
def test_a_sink_is_tried(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        done = cascadeguard("alerts", "test", "desk", "--lake", market.root, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "desk took the test message\n")
        assert desk.titles == ["INFO cascadeguard: a test, nothing has happened"]


@pytest.mark.service
def test_a_sink_that_takes_nothing_costs_exit_code_1_and_shows_no_secret(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_URL", f"json://desk:hunter2pass@127.0.0.1:{free_port()}/")
    done = cascadeguard("alerts", "test", "desk", "--lake", market.root, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("desk did not take the test message: ")
    assert "hunter2pass" not in done.stdout + done.stderr
