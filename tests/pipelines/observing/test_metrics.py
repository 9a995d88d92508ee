"""Metrics that Prometheus reads, under names it likes, written whole, pushed where somebody listens."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.alerting.interval import record_interval
from pipelines.config import Config, ObserveConfig, SinkConfig
from pipelines.observing.dashboard import PANELS, WIDTH, dashboard, dashboard_text
from pipelines.observing.metrics import COUNTERS, GAUGES, metrics_path, push_metrics, registry_of
from pipelines.observing.observe import observe
from pipelines.observing.state import Snapshot
from tests.pipelines.alerting.letters import at
from tests.pipelines.alerting.worlds import VENUE, Market, hook, settings, span
from tests.pipelines.observing.test_health import seen
from tests.pipelines.observing.worlds import ran, run_row, tripped
from tests.pipelines.servers import free_port

NAME = re.compile(r"cascadeguard_[a-z0-9_]+")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    made = Market(tmp_path / "lake")
    tripped(made)
    return made


def told(market: Market) -> dict[tuple[str, ...], float]:
    """Every sample of the file: name and labels in their order -> value."""
    families = text_string_to_metric_families(metrics_path(market.root).read_text())
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_file_says_what_the_lake_holds(market: Market) -> None:
    ran(market.lake, run_row(10, 15, "failed"))
    config = settings(market.root, SinkConfig(name="desk", url_env="UNSET_URL"))
    record_interval(market.lake, config, VENUE, span(5, 10), at(11))
    assert observe(market.lake, config, at(17)) == []
    found = told(market)
    own = f"venue={VENUE}"
    wanted = {
        ("cascadeguard_health",): 2,
        ("cascadeguard_last_good_interval_timestamp_seconds", own): at(10).timestamp(),
        ("cascadeguard_lag_seconds", own): 420,  # 17 - 10 minutes
        ("cascadeguard_interval_duration_seconds", own): 30,
        ("cascadeguard_step_duration_seconds", "step=score", own): 1.25,
        ("cascadeguard_interval_rows_ingested", own): 12,
        ("cascadeguard_interval_alert_episodes", own): 2,
        ("cascadeguard_interval_decisions", "action=reduce_only", "rule=price_band", own): 1,
        ("cascadeguard_runs_failed_24h", own): 1,
        ("cascadeguard_symbols", "action=reduce_only", own): 1,
        ("cascadeguard_symbols", "action=halted", own): 0,
        ("cascadeguard_breakers_tripped", "rule=price_band", "state=open", own): 1,
        ("cascadeguard_leverage_cap_effective_min", own): 2,
        ("cascadeguard_data_faults", own): 1,
        ("cascadeguard_alerts_standing", "severity=warning", own): 1,
        ("cascadeguard_sink_messages_undelivered", "sink=desk"): 2,  # the breach, and the fault
        ("cascadeguard_sink_failing", "sink=desk"): 0,
    }
    assert {key: found.get(key) for key in wanted} == wanted


def test_every_metric_stands_in_the_readme_with_its_labels() -> None:
    text = (Path(__file__).parents[3] / "pipelines" / "observing" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(cascadeguard_\w+)` \|(.*)\|$", text, re.MULTILINE)
    assert {name: labels.strip() for name, labels in rows} == {
        name: ", ".join(labels) for name, (_, labels) in (GAUGES | COUNTERS).items()
    }


def test_names_keep_to_the_conventions() -> None:
    for name, (text, labels) in (GAUGES | COUNTERS).items():
        assert NAME.fullmatch(name)
        assert text
        assert name.endswith("_total") == (name in COUNTERS)
        assert not name.endswith(("_ms", "_min_s", "_hours", "_minutes", "_mb"))
        assert set(labels) <= {
            "venue",
            "rule",
            "action",
            "state",
            "step",
            "severity",
            "sink",
            "table",
            "model",
            "version",
        }


def test_a_venue_with_any_name_gives_a_file_that_can_be_read(market: Market) -> None:
    ran(market.lake, run_row(0, 5, venue='a"b\\c'))
    observe(market.lake, settings(market.root), at(6))
    assert told(market)["cascadeguard_lag_seconds", 'venue=a"b\\c'] == 60


def test_what_is_not_known_has_no_sample(tmp_path: Path) -> None:
    market = Market(tmp_path / "new")
    market.root.mkdir()
    observe(market.lake, settings(market.root), at(6))
    assert {key[0] for key in told(market)} == {
        "cascadeguard_health", "cascadeguard_written_timestamp_seconds", "cascadeguard_disk_free_bytes"}  # fmt: skip


# --- push


def pushed(found: Snapshot, **urls: str) -> str:
    return push_metrics(registry_of(found), ObserveConfig(push_url_env="PUSH_URL", push_timeout_s=0.5), urls)


@pytest.mark.service
def test_a_gateway_is_told_the_same_as_the_file_and_gets_its_password(market: Market) -> None:
    with hook() as gateway:
        note = pushed(seen(market, at(12)), PUSH_URL=f"http://risk:p%40ss@127.0.0.1:{gateway.port}")
        (got,), (headers,), (path,) = gateway.got, gateway.headers, gateway.paths
    assert (note, path) == ("", "/metrics/job/cascadeguard")
    assert headers["Authorization"] == "Basic cmlzazpwQHNz"  # risk:p@ss
    assert b'cascadeguard_lag_seconds{venue="testex"} 120.0' in got["raw"]


@pytest.mark.service
def test_a_gateway_that_does_not_take_them_costs_a_note_without_secrets(market: Market) -> None:
    found = seen(market, at(12))
    with hook(503) as angry, hook(20.0) as slow:
        notes = [
            pushed(found, PUSH_URL=f"http://risk:hunter2pass@127.0.0.1:{port}")
            for port in (angry.port, slow.port, free_port())
        ]
    assert "503" in notes[0]
    assert all(note.startswith("metrics not pushed: ") for note in notes)
    assert not any("hunter2pass" in note for note in notes)
    assert pushed(found) == "metrics not pushed: the environment variable PUSH_URL is empty"
    assert pushed(found, PUSH_URL="no address at all").startswith("metrics not pushed: ")
    assert push_metrics(registry_of(found), Config().observe, {}) == ""


# --- the dashboard


def test_every_metric_is_in_a_panel_and_every_panel_shows_metrics_that_exist() -> None:
    queried = {name for panel in PANELS for query, _ in panel.queries for name in NAME.findall(query)}
    assert queried == set(GAUGES) | set(COUNTERS)


def test_every_label_that_a_legend_names_is_one_of_its_metric() -> None:
    known = {name: set(labels) for name, (_, labels) in (GAUGES | COUNTERS).items()}
    for panel in PANELS:
        for query, legend in panel.queries:
            (name,) = NAME.findall(query)
            assert set(re.findall(r"{{(\w+)}}", legend)) <= known[name], panel.title
            assert ("$venue" in query) <= ("venue" in known[name]), panel.title


def test_panels_do_not_overlap_and_fill_their_rows() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < WIDTH


def test_the_file_in_the_tree_is_what_the_code_makes() -> None:
    path = Path(__file__).parents[3] / "pipelines" / "observing" / "grafana.json"
    assert path.read_text(encoding="utf-8") == dashboard_text()
    assert json.loads(dashboard_text())["title"] == "cascadeguard"
