"""The demo end to end on a small venue: what it promises in `--json`, and that a second run changes nothing."""

import json
from pathlib import Path

import pytest

from pipelines.config import Config, LabelConfig, SimulatorConfig, WarningConfig
from pipelines.demo import DemoSummary, demo_sentence, run_demo
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.report import write_report
from pipelines.tracking import Registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config() -> Config:
    simulator = SimulatorConfig(accounts=400, days=3, step_s=60)
    label = LabelConfig(fall_pct=1.0, sigmas=2.0)  # small moves count: three days of a small venue hold few large ones
    return Config(simulator=simulator, warning=WarningConfig(rounds=40, folds=2), label=label, seed=11)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(tmp_path_factory.mktemp("demo") / "lake")


@pytest.fixture(scope="module")
def summary(config: Config, lake: Lake) -> DemoSummary:
    return run_demo(lake, config)


def test_the_demo_reports_what_it_did(summary: DemoSummary) -> None:
    page = Path(summary.report).read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert summary.rows_ingested > 100_000
    assert summary.symbols == 4
    assert summary.cascades >= 5
    assert summary.decisions > 0
    assert summary.detector_uri == "models:/cascadeguard-detector/1"
    assert summary.report in demo_sentence(summary)


def test_the_model_is_registered_whether_or_not_it_became_champion(
    summary: DemoSummary, config: Config, lake: Lake
) -> None:
    rows = Registry(config.mlflow, lake.root).list_models()
    warning = [row for row in rows if row["name"] == config.mlflow.warning_name]
    assert [row["version"] for row in warning] == ["1"]
    champion = warning[0]["aliases"] == ["champion"]
    assert summary.model_uri == (warning[0]["uri"] if champion else None)
    assert ("is champion" in summary.trained) == champion


def test_a_second_demo_changes_nothing(summary: DemoSummary, config: Config, lake: Lake) -> None:
    page = Path(summary.report).read_bytes()
    assert run_demo(lake, config) == summary
    assert Path(summary.report).read_bytes() == page


def test_a_page_of_an_interval_without_scores_is_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report(Lake(tmp_path), config, None, None, None)


def test_a_simulation_without_cascades_says_how_to_mend_it(tmp_path: Path) -> None:
    short = Config(simulator=SimulatorConfig(accounts=20, days=0.5, step_s=60))
    with pytest.raises(InputError, match="train on a longer period"):
        run_demo(Lake(tmp_path), short)


def test_the_summary_is_plain_json(summary: DemoSummary) -> None:
    keys = {"report", "rows_ingested", "symbols", "cascades", "alerts", "decisions", "model_uri"}
    assert keys <= set(json.loads(json.dumps(vars(summary))))
