"""The Numenta benchmark through the command: files in its form, scored by hand and against what was published."""

import json
import math
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from models.evaluation.nab import PROFILES, normalised
from pipelines.cli import app, run

START = pl.datetime(2015, 9, 8, time_unit="us")
THEIRS = {"standard": "standard", "reward_low_fp": "reward_low_FP_rate", "reward_low_fn": "reward_low_FN_rate"}


def s(y: float) -> float:
    return 2 / (1 + math.exp(5 * y)) - 1


def minute(number: int) -> str:
    return f"2015-09-{8 + number // 1440:02} {number // 60 % 24:02}:{number % 60:02}:00"


def result(folder: Path, name: str, rows: int, high: dict[int, float]) -> None:
    """A result file of `rows` minutes that scores `high`, and 0.1 elsewhere, with columns that the benchmark adds."""
    group, file = name.split("/")
    (folder / group).mkdir(parents=True, exist_ok=True)
    ts = pl.datetime_range(START, START + pl.duration(minutes=rows - 1), "1m", eager=True)
    score = [high.get(number, 0.1) for number in range(rows)]
    frame = pl.DataFrame({"timestamp": ts.dt.strftime("%Y-%m-%d %H:%M:%S"), "value": 7, "anomaly_score": score})
    frame.with_columns(label=0).write_csv(folder / group / f"{folder.name}_{file}")


def windows(path: Path, told: dict[str, list[tuple[int, int]]]) -> Path:
    edges = {name: [[f"{minute(row)}.000000" for row in pair] for pair in pairs] for name, pairs in told.items()}
    path.write_text(json.dumps(edges))
    return path


def graded(results: Path, spans: Path, *more: object) -> dict:
    told = CliRunner().invoke(
        app, ["evaluate", "--nab", str(results), "--windows", str(spans), *map(str, more), "--json"]
    )
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


SPANS = {"real/a.csv": [(400, 499), (700, 799)], "real/b.csv": [(1000, 1199)], "made/c.csv": []}


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path]:
    """Files of 1000, 2000 and 300 rows: probation 150, 300 and 45."""
    results = tmp_path / "mine"
    result(results, "real/a.csv", 1000, {100: 0.9, 300: 0.9, 450: 0.9, 520: 0.9})
    result(results, "real/b.csv", 2000, {1000: 0.6, 1100: 0.9, 1900: 0.6})
    result(results, "made/c.csv", 300, {44: 0.9, 200: 0.9})
    return results, windows(tmp_path / "windows.json", SPANS)


def test_files_are_summed_and_then_normalised_by_hand(three: tuple[Path, Path]) -> None:
    found = graded(*three, "--threshold", 0.9)
    for name, (fp, fn) in {"standard": (0.11, 1), "reward_low_fp": (0.22, 1), "reward_low_fn": (0.11, 2)}.items():
        # a: row 100 is in probation, 300 comes before any window, 450 hits at its middle, 520 lies 21 rows of 99 after
        a = -fp + s(-50 / 100) / s(-1) + fp * s(21 / 99) - fn
        # b: row 1100 is the middle of 200;   c: row 44 is in probation, 200 has no window before it
        b, c = s(-100 / 200) / s(-1), -fp
        raw = [found["by_file"][file]["raw"][name] for file in SPANS]
        assert raw == pytest.approx([a, b, c])
        assert found["raw"][name] == pytest.approx(a + b + c)
        # three windows: S_null = -3 fn, S_perfect = 3
        assert found["scores"][name] == pytest.approx(100 * (a + b + c + 3 * fn) / (3 + 3 * fn))
    assert [(one["rows"], one["windows"]) for one in found["by_file"].values()] == [(1000, 2), (2000, 1), (300, 0)]


def test_silence_scores_nothing_and_perfection_a_hundred_over_many_files(tmp_path: Path) -> None:
    spans = windows(tmp_path / "windows.json", SPANS)
    for folder, at in (("null", lambda _: {}), ("perfect", lambda pairs: {first: 1.0 for first, _ in pairs})):
        for name, rows in (("real/a.csv", 1000), ("real/b.csv", 2000), ("made/c.csv", 300)):
            result(tmp_path / folder, name, rows, at(SPANS[name]))
    null, perfect = (graded(tmp_path / name, spans, "--threshold", 0.5)["scores"] for name in ("null", "perfect"))
    assert null == dict.fromkeys(PROFILES, 0.0)
    assert perfect == pytest.approx(dict.fromkeys(PROFILES, 100.0))


def test_a_tuned_threshold_is_the_best_of_all(three: tuple[Path, Path]) -> None:
    found = graded(*three)
    tried = {level: graded(*three, "--threshold", level)["scores"] for level in (0.05, 0.1, 0.6, 0.9, 2.0)}
    for name in PROFILES:
        assert found["scores"][name] == pytest.approx(max(one[name] for one in tried.values()))
        assert tried[found["thresholds"][name]][name] == pytest.approx(found["scores"][name])
    assert "tuned on the files that are scored" in found["notes"][0]


def test_thresholds_of_the_benchmarks_own_file_hold_by_profile(three: tuple[Path, Path], tmp_path: Path) -> None:
    levels = {"standard": 0.9, "reward_low_fp": 2.0, "reward_low_fn": 0.6}
    own = {THEIRS[name]: {"threshold": level, "score": 0.0} for name, level in levels.items()}
    (tmp_path / "thresholds.json").write_text(json.dumps({"mine": own, "other": {}}))
    found = graded(*three, "--thresholds", tmp_path / "thresholds.json")
    assert found["thresholds"] == levels
    for name, level in levels.items():
        assert found["scores"][name] == graded(*three, "--threshold", level)["scores"][name]


def test_a_detector_that_only_harms_is_silenced_and_json_stays_json(tmp_path: Path) -> None:
    result(tmp_path / "bad", "real/a.csv", 1000, {200: 0.9})
    found = graded(tmp_path / "bad", windows(tmp_path / "w.json", {"real/a.csv": []}))
    assert found["thresholds"] == dict.fromkeys(PROFILES)
    assert found["scores"] == dict.fromkeys(PROFILES)
    assert found["raw"] == dict.fromkeys(PROFILES, 0.0)


def test_a_published_result_file_is_scored_as_published(tmp_path: Path) -> None:
    """Facts of relativeEntropy's results on realTraffic/speed_7578: rows, windows, detections and scores of each.

    numenta/NAB, results/relativeEntropy: 1127 rows; four windows of 29 rows; detected are rows 14 and 15 of the first,
    13 of the second, 17 of the third, 14 of the fourth, and the ninth row after it; one more in probation.
    """
    spans = [(330, 358), (730, 758), (900, 928), (936, 964)]
    rows = (100, 330 + 14, 330 + 15, 730 + 13, 900 + 17, 936 + 14, 964 + 9)
    result(tmp_path / "relativeEntropy", "realTraffic/speed_7578.csv", 1127, dict.fromkeys(rows, 1.0))
    told = windows(tmp_path / "windows.json", {"realTraffic/speed_7578.csv": spans})
    raw = graded(tmp_path / "relativeEntropy", told, "--threshold", 0.5)["raw"]
    earned = 0.871604206333 + 0.892746785547 + 0.786224155844 + 0.871604206333
    assert raw["standard"] == pytest.approx(3.34891620107, abs=1e-11)
    assert raw["standard"] == pytest.approx(earned - 0.0732631529854, abs=1e-11)
    assert raw["reward_low_fp"] == pytest.approx(earned - 0.146526305971, abs=1e-11)


PUBLISHED = {
    "null": ((-116.0, -116.0, -232.0), (0.0, 0.0, 0.0)),
    "numenta": (
        (46.634450197137596, 30.431072517124093, 26.634450197137568),
        (70.10105611943965, 63.11684160219828, 74.3202443095115),
    ),
    "relativeEntropy": (
        (10.7711775285, -5.57182391716, -27.2288224715),
        (54.64274893469828, 47.598351759844824, 58.84229239324713),
    ),
    "skyline": (
        (-33.206059646391715, -53.17159266153103, -77.20605964639174),
        (35.687043255862065, 27.08121005969828, 44.4810173429885),
    ),
}  # numenta/NAB: sums over the 58 files from config/thresholds.json, totals from results/final_results.json


@pytest.mark.parametrize("detector", PUBLISHED)
def test_published_sums_give_the_published_totals(detector: str) -> None:
    sums, totals = PUBLISHED[detector]
    found = [normalised(raw, 116, profile) for raw, profile in zip(sums, PROFILES.values(), strict=True)]
    assert found == pytest.approx(totals, abs=1e-9)


REFUSED = [
    ({"real/a.csv": [(5000, 5100)]}, (), "a window holds no row"),
    ({"real/a.csv": [(400, 499), (450, 600)]}, (), "two share one"),
    ({"real/z.csv": []}, (), "1 of 1 results are missing"),
    (SPANS, ("--thresholds", "WINDOWS"), "no threshold can be read"),
    (SPANS, ("--thresholds", "WINDOWS", "--threshold", "1"), "stands for itself"),
]


@pytest.mark.parametrize(("spans", "more", "says"), REFUSED)
def test_what_cannot_be_graded_is_said_in_one_line(
    three: tuple[Path, Path], capsys: pytest.CaptureFixture[str], spans: dict, more: tuple[str, ...], says: str
) -> None:
    told = windows(three[1], spans)
    given = [str(told) if word == "WINDOWS" else word for word in more]
    assert run(["evaluate", "--nab", str(three[0]), "--windows", str(told), *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert says in error[0]
