"""`evaluate` on files, paired, on benchmark files, on itself; and what it says of input that is not right."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from models.evaluation import selftest
from models.evaluation.settings import Settings
from pipelines.cli import app, run
from pipelines.errors import InputError
from pipelines.evaluating.benchmark import grade
from pipelines.evaluating.files import read_coverage, read_events, read_scores
from pipelines.evaluating.paired import compare, mcnemar
from pipelines.evaluating.run import ALWAYS_ON, Source, first_third, matched
from pipelines.evaluating.run import run as judge
from tests.models.evaluation.test_evaluate import at, events, line, parts

T0 = datetime(2025, 1, 1, tzinfo=UTC)
KEYS = {
    *("events", "hits", "late", "misses", "event_recall", "event_recall_ci", "episodes", "false_episodes"),
    *("covered_symbol_days", "false_alarms_per_symbol_day", "false_alarms_ci", "episode_precision", "lead_time_min"),
    *("threshold", "alarm_time_share", "area_skill_score", "average_precision", "average_precision_lift", "roc_auc"),
    *("brier", "brier_skill", "log_loss", "relative_usefulness", "circular_shift_p", "nab", "baselines", "by_month"),
    *("by_symbol", "warnings"),
}


def market(seed: int = 0, days: int = 6) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two symbols; `score` rises in the half hour before each onset, `other` knows nothing."""
    rng, frames, rows = np.random.default_rng(seed), [], []
    minutes = days * 1440
    for symbol in ("A", "B"):
        onsets = np.sort(rng.choice(np.arange(300, minutes - 100, 700), size=8, replace=False))
        ahead = np.append(onsets, 10**6)[np.searchsorted(onsets, np.arange(minutes), side="right")] - np.arange(minutes)
        frame = {"symbol": symbol, "ts": at(*range(minutes))}
        told = {"score": 0.4 * rng.random(minutes) + 0.5 * (ahead <= 30), "other": rng.random(minutes)}
        frames.append(pl.DataFrame(frame | told))
        rows += [(symbol, float(m), float(m + 10)) for m in onsets]
    return pl.concat(frames), events(*rows)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    scores, found = market()
    scores.write_parquet(tmp_path / "rival.parquet")
    found.write_csv(tmp_path / "events.csv")
    return tmp_path / "rival.parquet", tmp_path / "events.csv"


def told(*given: object) -> dict:
    result = CliRunner().invoke(app, ["evaluate", *map(str, given), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(capsys: pytest.CaptureFixture[str], *given: object) -> str:
    assert run(["evaluate", *map(str, given)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    return error[0]


def test_a_rivals_file_is_judged_with_every_key_others_rely_on(files: tuple[Path, Path]) -> None:
    found = told("--scores", files[0], "--events", files[1], "--budget", 2)
    assert found.keys() >= KEYS
    assert set(found["baselines"]) == {"other", ALWAYS_ON}
    assert found["baselines"]["other"].keys() >= KEYS - {"baselines"}
    assert found["event_recall"] > 0.9
    assert found["circular_shift_p"] < 0.05 < found["baselines"]["other"]["circular_shift_p"]
    assert found["baselines"][ALWAYS_ON]["alarm_time_share"] > 0.9
    assert set(found["nab"]) == {"standard", "reward_low_fp", "reward_low_fn"}


def test_text_begins_with_the_verdict_and_shows_the_baselines(files: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--scores", str(files[0]), "--events", str(files[1])])
    lines = result.output.splitlines()
    assert lines[0].startswith("rival warned of ")
    assert [line.split()[0] for line in lines[3:6]] == ["rival", "other", ALWAYS_ON]
    assert any("chose the threshold" in line for line in lines)


def test_csv_and_parquet_are_judged_alike(files: tuple[Path, Path], tmp_path: Path) -> None:
    pl.read_parquet(files[0]).write_csv(tmp_path / "rival.csv")
    assert told("--scores", tmp_path / "rival.csv", "--events", files[1]) == told(
        "--scores", files[0], "--events", files[1]
    )


def test_order_of_rows_and_symbols_is_irrelevant(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    pl.read_parquet(files[0]).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "b" / "rival.parquet")
    shuffled = told("--scores", tmp_path / "b" / "rival.parquet", "--events", files[1], "--bar", "1m")
    assert shuffled == told("--scores", files[0], "--events", files[1])


def test_a_given_threshold_judges_every_row_and_baselines_alert_as_often(files: tuple[Path, Path]) -> None:
    found = told("--scores", files[0], "--events", files[1], "--threshold", 0.5)
    assert found["threshold"] == 0.5
    assert found["events"] == 16
    other = found["baselines"]["other"]
    share = pl.read_parquet(files[0]).select(
        (pl.col("score") >= 0.5).mean(), (pl.col("other") >= other["threshold"]).mean()
    )
    assert share["other"][0] == pytest.approx(share["score"][0], rel=0.05)


def test_coverage_is_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "ran.csv").write_text("symbol,start,end\nA,2025-01-01T00:00Z,2025-01-03T00:00Z\n")
    found = told("--scores", files[0], "--events", files[1], "--coverage", tmp_path / "ran.csv", "--threshold", 0.5)
    assert found["covered_symbol_days"] == pytest.approx(2.0)
    assert set(found["by_symbol"]) == {"A"}


def test_one_horizon_of_several_is_judged(files: tuple[Path, Path], tmp_path: Path) -> None:
    rows = pl.read_parquet(files[0]).drop("other")
    both = pl.concat(
        [rows.with_columns(horizon_min=pl.lit(60)), rows.with_columns(pl.col("score") * 0, horizon_min=pl.lit(15))]
    )
    both.write_parquet(tmp_path / "both.parquet")
    assert told("--scores", tmp_path / "both.parquet", "--events", files[1], "--budget", 2)["event_recall"] > 0.9
    silent = told("--scores", tmp_path / "both.parquet", "--events", files[1], "--horizon", "15m", "--threshold", 0.5)
    assert silent["event_recall"] == 0


REFUSED = [
    (["--scores", "nowhere.csv", "--events", "EVENTS"], "there is no such file"),
    (["--scores", "EVENTS", "--events", "EVENTS"], "the file lacks ts, score"),
    (["--scores", "SCORES"], "--events is missing"),
    (["--scores", "SCORES", "--events", "SCORES"], "the file lacks onset, end"),
    (["--scores", "SCORES", "--events", "EVENTS", "--horizon", "soon"], "--horizon must be a time"),
    (["--scores", "SCORES", "--events", "EVENTS", "--lead-min", "2h"], "`lead_min` must be from 0 to the horizon"),
    (["--scores", "SCORES", "--events", "EVENTS", "--threshold", "1", "--budget", "1"], "stands for itself"),
    (["--scores", "SCORES", "--events", "EVENTS", "--fit-to", "2030-01-01"], "nothing can be judged"),
    (["--nab", "."], "--windows is missing"),
    (["--lake", "nowhere"], "there is no lake"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED)
def test_what_is_not_right_is_said_in_one_line(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    paths = {"SCORES": str(files[0]), "EVENTS": str(files[1])}
    assert says in refused(capsys, *(paths.get(word, word) for word in given))


BAD_FILES = [
    ("symbol,ts,score\nA,2025-01-01T00:00Z,1\nA,2025-01-01T00:00Z,2\n", "two of the same"),
    ("symbol,ts,score\nA,2025-01-01T00:00Z,inf\nA,2025-01-01T00:01Z,2\n", "infinite"),
    ("symbol,ts,score\nA,2025-01-01T00:00Z,high\n", "must hold numbers"),
    ("symbol,ts,score\nA,noon,1\n", "cannot be read"),
    ("symbol,ts,score\nA,2025-01-01T00:00Z,1\n", "length of a bar"),
    ("symbol,ts,score\n", "empty"),
]


@pytest.mark.parametrize(("text", "says"), BAD_FILES)
def test_scores_that_cannot_be_judged_are_named(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    assert says in refused(capsys, "--scores", tmp_path / "bad.csv", "--events", files[1])


BAD_EVENTS = [
    ("symbol,onset,end\nA,2025-01-01T01:00Z,2025-01-01T00:00Z\n", "row 2"),
    ("symbol,onset,end\nA,2025-01-01T01:00Z,2025-01-01T02:00Z\nA,2025-01-01T01:00Z,2025-01-01T02:00Z\n", "twice"),
    ("symbol,onset,end\n,2025-01-01T01:00Z,2025-01-01T02:00Z\n", "not whole"),
]


@pytest.mark.parametrize(("text", "says"), BAD_EVENTS)
def test_events_that_are_not_whole_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_events(tmp_path / "events.csv")


def test_coverage_that_overlaps_is_named(tmp_path: Path) -> None:
    (tmp_path / "ran.csv").write_text("symbol,start,end\nA,2025-01-01,2025-01-03\nA,2025-01-02,2025-01-04\n")
    with pytest.raises(InputError, match="overlap"):
        read_coverage(tmp_path / "ran.csv")


def test_nan_is_no_score_and_symbols_come_one_at_a_time(tmp_path: Path) -> None:
    frame = pl.DataFrame({"symbol": ["B", "A", "A"], "ts": at(0, 1, 0), "score": [1.0, float("nan"), 2.0]})
    frame.write_parquet(tmp_path / "s.parquet")
    found = read_scores(tmp_path / "s.parquet")
    assert found.bar_s == 60.0
    assert [part["symbol"].unique().to_list() for part in found.parts()()] == [["A"], ["B"]]
    assert next(found.parts()())["score"].to_list() == [2.0, None]


def test_a_third_of_the_time_chooses_the_threshold() -> None:
    assert first_third(parts(line("A", range(0, 301), set()))) == T0 + timedelta(minutes=100)


def test_a_matched_threshold_is_reached_by_no_more_rows() -> None:
    rows = line("A", range(100), set()).with_columns(score=pl.int_range(100).cast(pl.Float64) // 10)
    settings = Settings(threshold=0.0)
    assert [matched(settings, parts(rows), share).threshold for share in (0.1, 0.19, 0.2, 1.0)] == [9, 9, 8, 0]
    assert matched(settings, parts(rows), 0.05).threshold == float("inf")


def test_two_files_are_compared_on_the_same_events(files: tuple[Path, Path], tmp_path: Path) -> None:
    pl.read_parquet(files[0]).select("symbol", "ts", score="other").write_parquet(tmp_path / "noise.parquet")
    found = told("--compare", files[0], tmp_path / "noise.parquet", "--events", files[1], "--budget", 2)
    paired = found["paired"]
    assert paired["events"]["only_a"] > 5
    assert paired["events"]["only_b"] == 0
    assert paired["mcnemar_p"] < 0.05
    assert paired["average_precision_difference"]["high"] < 0
    same = told("--compare", files[0], files[0], "--events", files[1])["paired"]
    assert (same["mcnemar_p"], same["false_alarms_difference"]) == (1.0, 0.0)


def test_only_rows_that_both_answered_are_compared() -> None:
    scores, found = market()
    a, b = scores.select("symbol", "ts", "score"), scores.select("symbol", "ts", score="other")
    half = a.filter(pl.col("symbol") == "A")
    whole = parts(*b.partition_by("symbol", maintain_order=True))
    told_of = compare(parts(half), whole, found, Settings(threshold=0.5), ("a", "b"))
    assert told_of.b.found["scored_rows"] == half.height
    with pytest.raises(ValueError, match="judged row"):
        compare(parts(half), parts(b.filter(pl.col("symbol") == "B")), found, Settings(threshold=0.5), ("a", "b"))


def test_mcnemar_by_hand() -> None:
    """Five to none: 2 / 2 ** 5."""
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(0, 0) == 1.0


# --- the benchmark's files ---


def benchmark(folder: Path, detected: list[int]) -> tuple[Path, Path]:
    results = folder / "rival"
    (results / "realX").mkdir(parents=True)
    stamps = pl.datetime_range(datetime(2025, 1, 1), datetime(2025, 1, 1, 16, 39), "1m", eager=True)  # noqa: DTZ001
    assert stamps.len() == 1000
    rows = pl.DataFrame({"timestamp": stamps.dt.strftime("%Y-%m-%d %H:%M:%S")})
    rows = rows.with_columns(anomaly_score=pl.int_range(1000).is_in(detected).cast(pl.Float64))
    rows.write_csv(results / "realX" / "rival_machine.csv")
    windows = folder / "windows.json"
    windows.write_text(
        json.dumps({"realX/machine.csv": [["2025-01-01 06:40:00.000000", "2025-01-01 08:19:00.000000"]]})
    )
    return results, windows


def test_perfect_and_silent_results_score_a_hundred_and_none(tmp_path: Path) -> None:
    for name, detected, want in (("a", [400], 100.0), ("b", [], 0.0)):
        found = grade(
            *benchmark(tmp_path / name, detected), {"standard": 0.5, "reward_low_fp": 0.5, "reward_low_fn": 0.5}
        )
        assert found.scores == pytest.approx({"standard": want, "reward_low_fp": want, "reward_low_fn": want})
        assert found.notes == ()


def test_without_a_threshold_the_best_one_is_taken_and_that_is_said(tmp_path: Path) -> None:
    found = grade(*benchmark(tmp_path, [400, 900]), {})
    assert found.scores["standard"] == pytest.approx(100 * (2 - 0.11) / 2)
    assert "tuned on the files that are scored" in found.notes[0]


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    results, windows = benchmark(tmp_path, [400])
    windows.write_text(json.dumps({"realX/machine.csv": [], "realX/other.csv": []}))
    with pytest.raises(InputError, match=r"1 of 2 results are missing, the first is realX/other\.csv"):
        grade(results, windows, {})


# --- itself ---


def test_the_suite_tells_every_known_scorer_what_it_is() -> None:
    found = selftest.self_test()
    assert [one.name for one in found if not one.seen] == []
    assert len(found) == 7


def test_a_suite_that_could_not_tell_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placebo that is really the signal must be seen as wrongly named."""
    planted, placebo = selftest.SCORERS[:2]
    wrong = selftest.Scorer(placebo.name, planted.score, placebo.says, placebo.saw)
    monkeypatch.setattr(selftest, "SCORERS", (wrong,))
    assert CliRunner().invoke(app, ["evaluate", "--self-test"]).exit_code == 1


def test_what_a_source_notes_is_told() -> None:
    scores, found = market()
    columns = {"one": parts(*scores.drop("other").partition_by("symbol", maintain_order=True))}
    judged = judge(Source(columns, found, notes=("half of it is missing",)), Settings(threshold=0.5))
    assert "half of it is missing" in judged.to_json()["warnings"]
    assert "half of it is missing" in judged.sentence()
