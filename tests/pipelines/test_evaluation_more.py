"""What stands beside the figures: horizons, ablation, decision value, the label; and two scorers on one page."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from features.labels import VERSIONS
from models.evaluation.decision import Costs
from models.evaluation.evaluate import evaluate
from models.evaluation.settings import Settings
from pipelines.cli import app, run
from pipelines.config import Config
from pipelines.evaluating.ablation import of_run, read_ablation
from pipelines.evaluating.files import label_in
from pipelines.evaluating.lake import label_of
from pipelines.evaluating.paired import compare
from pipelines.evaluating.run import Source
from pipelines.evaluating.run import run as judge
from pipelines.reporting.compare_page import render_compare
from pipelines.reporting.evaluation_page import render_evaluation
from tests.models.evaluation.test_evaluate import HOUR, events, line, parts
from tests.pipelines.test_evaluate_step import files, market
from tests.pipelines.test_evaluation_page import HOSTILE, page, source, tables
from tests.pipelines.test_report_page import CUT_OFF, OVERLAPS, Opened, _open, browser

__all__ = ["browser", "files"]  # fixtures
A = line("A", range(1440), {150, 499, 1000, 1060})
EVENTS = events(("A", 200, 210), ("A", 500, 510), ("A", 800, 810), ("A", 1100, 1105))
ROWS = [
    {"name": "the model", "ap_lift": 9.0, "low": 5.0, "high": 14.0, "roc_auc": 0.9, "rows": 10},
    {"name": f"funding alone {HOSTILE}", "ap_lift": 1.1, "low": 0.8, "high": None, "roc_auc": 0.5, "rows": 10},
    {"name": "nothing", "ap_lift": None, "low": None, "high": None, "roc_auc": None, "rows": 0},
]


# --- horizons ---


def test_a_score_that_tells_no_horizons_is_judged_at_a_quarter_of_its_own() -> None:
    """Leads of 50, 1 and 40 minutes: two hits of four within an hour, none within a quarter of one."""
    found = judge(Source({"one": parts(A)}, EVENTS), HOUR).to_json()["horizons"]
    assert [(minutes, one["hits"], one["late"]) for minutes, one in found.items()] == [("15", 0, 1), ("60", 2, 1)]


def test_what_is_said_of_a_horizon_is_judged_at_that_horizon() -> None:
    """A second column that warns ten minutes ahead of two events is the one that counts at fifteen minutes."""
    near = line("A", range(1440), {190, 790})
    judged = judge(Source({"one": parts(A)}, EVENTS, horizons={15: parts(near), 240: parts(A)}), HOUR)
    assert list(judged.horizons) == [15, 60, 240]
    assert judged.horizons[15].found == evaluate(parts(near), EVENTS, replace(HOUR, horizon_min=15)).found | {
        "threshold": judged.horizons[15].found["threshold"]
    }
    assert judged.horizons[60] is judged.of
    assert judged.horizons[15].found["hits"] == 2


def test_a_horizon_shorter_than_a_bar_is_left_out() -> None:
    bars = line("A", range(0, 1440, 30), {150})
    judged = judge(Source({"one": parts(bars)}, EVENTS), replace(HOUR, bar_s=1800.0))
    assert list(judged.horizons) == [60]


# --- ablation ---


def test_what_train_printed_and_a_list_of_rows_are_both_read(tmp_path: Path) -> None:
    printed = {"venues": [{"rivals": [ROWS[0], ROWS[1]], "ablations": [ROWS[2]]}]}
    for name, told, names in (("list", ROWS, 3), ("train", printed, 2)):
        (tmp_path / name).write_text(json.dumps(told))
        found = read_ablation(tmp_path / name)
        assert [row["name"] for row in found] == [ROWS[0]["name"], *(row["name"] for row in ROWS[3 - names + 1 :])]
        assert found[0] == {name: value for name, value in ROWS[0].items() if name != "rows"}


def test_of_a_run_s_rankings_the_model_and_what_it_is_on_a_part_of_its_features_are_shown() -> None:
    told = [{**ROWS[0], "name": name} for name in ("model", "volatility_ratio", "funding only", "without cancels")]
    assert [row["name"] for row in of_run(told)] == ["model", "funding only", "without cancels"]
    assert of_run(told[:2]) == of_run([]) == ()


@pytest.mark.parametrize("text", ["{", "[1]", '{"venues": []}', '[{"name": "x"}]', "[]"])
def test_an_ablation_that_is_none_is_one_line(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    given = ["--scores", str(files[0]), "--events", str(files[1]), "--ablation", str(tmp_path / "a.json")]
    assert run(["evaluate", *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "ablation" in error[0]


# --- decision value, on the page ---


def test_the_page_tells_value_horizons_and_ablation_with_every_assumption() -> None:
    given = replace(source(), ablation=tuple(ROWS), label={"name": "oi_flush", "version": 3, "fall_pct": 2.0})
    text, judged = page(given)
    told = judged.to_json()
    found = tables(text)
    value = told["decision_value"]
    rows = {row[0]: row[1:] for row in found["Decision value"][1:]}
    assert set(rows) == {"rival", "other", "always_on"}
    assert rows["rival"][:2] == [f"{value['value_usd']:,.0f} USD", f"{value['avoided_usd']:,.0f} USD"]
    assert [row[0] for row in found["Horizons"][1:]] == ["15 min", "60 min"]
    assert [row[1] for row in found["Ablation"][1:]] == ["9", "1.1", "–"]
    assert "<img" not in text
    costs = Costs()
    for said in (f"{costs.action_min} min after", "100,000 USD", "avoids 10%", "no closed loop", "drops out"):
        assert said in text
    assert "oi_flush v3 (fall_pct 2.0)" in text
    assert told["label"]["version"] == 3


def test_prices_of_the_settings_change_the_value_and_nothing_else() -> None:
    cheap, dear = (
        judge(source(), Settings(threshold=0.5, replicates=200, costs=costs)).of.found
        for costs in (Costs(), Costs(restricted_min_usd=1e6))
    )
    assert cheap["decision_value"]["value_usd"] > 0 > dear["decision_value"]["value_usd"]
    assert cheap["decision_value"]["break_even_min"] == dear["decision_value"]["break_even_min"]
    assert {n: v for n, v in cheap.items() if n != "decision_value"} == {
        n: v for n, v in dear.items() if n != "decision_value"
    }


def test_the_command_reads_its_prices_from_the_settings(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[costs]\nrestricted_min_usd = 0.0\nevent_usd = 10.0\navoided_share = 0.5\n")
    given = ["--scores", str(files[0]), "--events", str(files[1]), "--config", str(tmp_path / "c.toml"), "--json"]
    told = CliRunner().invoke(app, ["evaluate", *given])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["decision_value"]["value_usd"] == pytest.approx(5.0 * found["hits"])


def test_a_severe_event_that_was_warned_of_is_worth_more() -> None:
    """Severities 1, 1, 1 and 5: hits are the first and the last, (1 + 5) / 2 = 3 average events instead of 2."""
    told = EVENTS.with_columns(severity=pl.Series([1.0, 1.0, 1.0, 5.0]))
    plain, weighed = (evaluate(parts(A), one, HOUR).found["decision_value"]["avoided_usd"] for one in (EVENTS, told))
    assert (plain, weighed) == pytest.approx((20_000.0, 30_000.0))


# --- labels ---


def test_the_label_of_a_lake_is_named_with_its_version_and_parameters() -> None:
    told = label_of(Config())
    assert (told["name"], told["version"], told["fall_pct"]) == ("oi_flush", VERSIONS["oi_flush"], 2.0)


def test_the_label_of_a_file_is_what_its_events_say() -> None:
    one = EVENTS.with_columns(label=pl.lit("adl"))
    assert label_in(EVENTS) is None
    assert label_in(one) == {"name": "adl", "version": None}
    mixed = one.with_columns(label=pl.Series(["adl", "adl", "adl", "oi_flush"]))
    assert label_in(mixed) is None


# --- two scorers ---


def paired_page() -> str:
    scores, found = market()
    a, b = scores.select("symbol", "ts", "score"), scores.select("symbol", "ts", score=0.4 * pl.col("other"))
    both = (parts(*one.partition_by("symbol", maintain_order=True)) for one in (a, b))
    names = ("rival", HOSTILE)
    return render_compare(compare(*both, found, Settings(threshold=0.45, refractory_min=60, replicates=200), names))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "page.html"
    path.write_text(paired_page(), encoding="utf-8")
    return path


def test_differences_are_those_of_the_figures_and_their_days_are_drawn_together() -> None:
    """The second scorer answers what the first does, an hour late: it misses what the first hits; against itself, 0."""
    late = A.with_columns(score=pl.col("score").shift(60).fill_null(0.1))
    found = compare(parts(A), parts(late), EVENTS, HOUR, ("a", "b"))
    told = {name: one.difference for name, one in found.differences.items()}
    days = found.a.found["covered_symbol_days"]
    assert told["event_recall"] == found.b.found["event_recall"] - found.a.found["event_recall"] < 0
    false = found.b.found["false_episodes"] - found.a.found["false_episodes"]
    assert told["false_alarms_per_symbol_day"] == pytest.approx(false / days)
    value = found.b.found["decision_value"]["value_usd"] - found.a.found["decision_value"]["value_usd"]
    assert told["decision_value_usd"] == pytest.approx(value)
    same = compare(parts(A), parts(A), EVENTS, HOUR, ("a", "b")).differences
    assert {name: (one.low, one.difference, one.high) for name, one in same.items()} == dict.fromkeys(same, (0, 0, 0))
    assert set(same) == {"event_recall", "false_alarms_per_symbol_day", "average_precision", "decision_value_usd"}


def test_average_precision_is_compared_on_the_judged_rows_alone() -> None:
    """Scores that are perfect only in the rows that chose the threshold must not win by them."""
    scores, found = market()
    until = scores["ts"].min() + (scores["ts"].max() - scores["ts"].min()) / 3  # type: ignore[operator]
    rng = np.random.default_rng(1)
    noise = pl.Series(rng.random(scores.height))
    early = scores.select("symbol", "ts", score=pl.when(pl.col("ts") <= until).then("score").otherwise(noise))
    none = scores.select("symbol", "ts", score=pl.Series(rng.random(scores.height)))
    both = [parts(*one.partition_by("symbol", maintain_order=True)) for one in (none, early)]
    settings = Settings(fit_until=until, budget=2, replicates=200)
    one = compare(both[0], both[1], found, settings, ("a", "b")).differences["average_precision"]
    assert one.difference is not None
    assert abs(one.difference) < 0.01


def test_the_page_of_two_names_who_is_better_and_holds_no_code_of_others(compared: Path) -> None:
    text = compared.read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in tables(text)["Differences"][1:]}
    assert rows["Event recall"][-1] == "rival is better"
    assert rows["Average precision"][-1] == "rival is better"
    assert "<img" not in text
    assert 'section id="verdict" class="calm"' in text
    assert len(tables(text)["Events"]) == 1 + 16


def test_the_command_writes_the_page_of_two(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "two.html"
    pl.read_parquet(files[0]).select("symbol", "ts", score="other").write_parquet(tmp_path / "noise.parquet")
    given = ["--compare", str(files[0]), str(tmp_path / "noise.parquet"), "--events", str(files[1]), "--html", str(out)]
    assert CliRunner().invoke(app, ["evaluate", *given]).exit_code == 0
    assert "rival and noise on the same rows" in out.read_text(encoding="utf-8")
    assert run(["evaluate", *given, "--log"]) == 2


@pytest.fixture(scope="module")
def opened(browser: Any, compared: Path) -> Iterator[Opened]:
    found = _open(browser, compared)
    yield found
    found.page.close()


@pytest.mark.service
@pytest.mark.parametrize("width_px", [1280, 420])
def test_the_page_of_two_opens_alone_and_fits(opened: Opened, width_px: int) -> None:
    shown = opened.at_width(width_px)
    assert (opened.complaints, opened.requests) == ([], [])
    assert shown.evaluate("window.hacked") is None
    assert shown.evaluate(OVERLAPS) == []
    assert shown.evaluate(CUT_OFF) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width_px


@pytest.mark.service
def test_bars_of_an_ablation_are_drawn_and_fit(browser: Any, tmp_path: Path) -> None:
    given = replace(source(), ablation=tuple(ROWS))
    judged = judge(given, Settings(threshold=0.5, replicates=200))
    (tmp_path / "page.html").write_text(render_evaluation(judged, given), encoding="utf-8")
    shown = _open(browser, tmp_path / "page.html")
    for width_px in (1280, 420):
        at = shown.at_width(width_px)
        assert at.evaluate("document.querySelectorAll('#ablation .plot .bars .point').length") == 2
        assert at.evaluate(CUT_OFF) == []
        assert at.evaluate("document.documentElement.scrollWidth") <= width_px
    assert shown.complaints == []
    shown.page.close()
