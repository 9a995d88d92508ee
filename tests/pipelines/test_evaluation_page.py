"""The page of an evaluation: the figures of the JSON, the moments that are looked at, and what it must not hold."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from features.catalogue import FAMILY_OF
from models.evaluation import tally
from models.evaluation.alarm_time import molchan
from models.evaluation.evaluate import evaluate
from models.evaluation.settings import Settings
from models.explain import reasons
from pipelines.cli import app, run
from pipelines.config import Config
from pipelines.evaluating.moments import moments
from pipelines.evaluating.run import ALWAYS_ON, Judged, Source
from pipelines.evaluating.run import run as judge
from pipelines.evaluating.witness import Witness, of_models, of_scores
from pipelines.lake import Lake
from pipelines.reporting import evaluation_figures as draw
from pipelines.reporting.evaluation_page import best_rival, kind, number, render_evaluation, share
from pipelines.tracking import Registry
from tests.models.evaluation.test_evaluate import HOUR, at, events, line, parts
from tests.pipelines.conftest import World
from tests.pipelines.registry_worlds import matrix, warning_model
from tests.pipelines.test_evaluate_step import market

HOSTILE = "</script><img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
CLOSE = 0.0051  # three significant digits
SETTINGS = Settings(horizon_min=60, lead_min=2, refractory_min=240, threshold=0.5, replicates=200)


class Tables(HTMLParser):
    """Every table of a page by the label of its region: rows of cells, the text of `small` apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.label, self.cell, self.small = "", False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if told.get("role") == "region":
            self.label = str(told["aria-label"])
            self.found[self.label] = []
        rows = self.found.get(self.label, [])
        if tag == "tr":
            rows.append([])
        self.small = self.small or tag == "small"
        if tag in ("td", "th") and rows:
            self.cell = True
            rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.small = self.small and tag != "small"
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell and not self.small:
            self.found[self.label][-1][-1] += data


def tables(text: str) -> dict[str, list[list[str]]]:
    parser = Tables()
    parser.feed(text)
    return parser.found


def value(cell: str) -> float | None:
    if cell == "–":
        return None
    told = float(cell.replace(",", "").replace("%", "").strip())
    return told / 100 if "%" in cell else told


def same(cell: str, told: float | None) -> bool:
    return value(cell) is None if told is None else value(cell) == pytest.approx(told, rel=CLOSE, abs=1e-12)


def source(witness: Witness | None = None, hostile: str = "B", *, first: str = "rival") -> Source:
    """`market` with severities: `rival` forewarns, `other` knows nothing; B may bear a hostile name."""
    scores, found = market()
    renamed = pl.col("symbol").replace("B", hostile)
    scores, found = scores.with_columns(renamed), found.with_columns(renamed, severity=pl.int_range(pl.len()) * 1.5)

    def of(column: str) -> Any:
        ordered = scores.select("symbol", "ts", score=column)
        return lambda: iter(ordered.partition_by("symbol", maintain_order=True))

    columns = {"rival": of("score"), "other": of("other")}
    return Source({first: columns[first], **columns}, found, witness=witness)


def page(given: Source) -> tuple[str, Judged]:
    judged = judge(given, SETTINGS)
    return render_evaluation(judged, given), judged


@pytest.fixture(scope="module")
def shown() -> tuple[str, Judged]:
    return page(source())


# --- the figures ---


def test_the_tables_hold_the_figures_of_the_json(shown: tuple[str, Judged]) -> None:
    text, judged = shown
    told = json.loads(json.dumps(judged.to_json(), default=str))
    scorers = {"rival": told, **told["baselines"]}
    rows = {row[0]: row[1:] for row in tables(text)["Scorer and baselines"][1:]}
    assert list(rows) == ["rival", "other", ALWAYS_ON]
    for name, found in scorers.items():
        cells = rows[name]
        assert cells[1] == f"{found['hits']} / {found['late']} / {found['misses']}"
        expected = [
            *(found["event_recall"], found["false_alarms_per_symbol_day"], found["episode_precision"]),
            *(found["lead_time_min"]["p50"], found["alarm_time_share"], found["area_skill_score"]),
            *(found["average_precision_lift"], found["roc_auc"], found["circular_shift_p"]),
            *(found["expected_cost_per_symbol_day"], found["threshold"]),
        ]
        assert all(same(cell, figure) for cell, figure in zip([cells[0], *cells[2:]], expected, strict=True)), name
        bounds = (found["event_recall_ci"], found["false_alarms_ci"], found["average_precision_lift_ci"])
        said = [f"{share(bounds[0][0])} to {share(bounds[0][1])}"]
        said += [f"{number(low)} to {number(high)}" for low, high in bounds[1:]]
        assert all(one in text for one in said)


@pytest.mark.parametrize(
    ("label", "key"),
    [("Recall at budgets", "recall_at_budget"), ("Relative usefulness", "relative_usefulness"), ("NAB score", "nab")],
)
def test_figures_told_by_several_keys_are_told_for_every_scorer(
    shown: tuple[str, Judged], label: str, key: str
) -> None:
    text, judged = shown
    head, *rows = tables(text)[label]
    assert [name.replace(" ", "_") for name in head[1:]] == list(judged.of.found[key])
    for row, found in zip(rows, (judged.of.found, *(one.found for one in judged.baselines.values())), strict=True):
        assert all(same(cell, figure) for cell, figure in zip(row[1:], found[key].values(), strict=True))


def test_months_and_symbols_are_told_and_those_of_few_events_are_grey(shown: tuple[str, Judged]) -> None:
    text, judged = shown
    for label, key in (("By month", "by_month"), ("By symbol", "by_symbol")):
        rows = {row[0]: row for row in tables(text)[label][1:]}
        assert set(rows) == set(judged.of.found[key])
        for name, found in judged.of.found[key].items():
            cells = rows[name]
            figures = (found["events"], found["event_recall"], found["episodes"], found["false_episodes"])
            assert all(same(cells[k], told) for k, told in zip((1, 3, 5, 6), figures, strict=True))
            assert same(cells[9], found["average_precision_lift"])
    assert 'class="few"' not in text
    few = Source(source().columns, source().events[:4])
    assert page(few)[0].count('class="few"') == 3  # one month and two symbols


def test_lead_times_and_calibration_are_told(shown: tuple[str, Judged]) -> None:
    text, judged = shown
    found = judged.of.found
    row = tables(text)["Lead times"][1]
    told = [*(found["lead_time_min"][q] for q in ("p10", "p50", "p90")), *found["lead_time_min"]["survival"].values()]
    assert all(same(cell, figure) for cell, figure in zip(row[1:], told, strict=True))
    parts_told = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    expected = {"brier": found["brier"], "log loss": found["log_loss"], **found["corp"]}
    assert all(same(parts_told[name], figure) for name, figure in expected.items())
    bins = tables(text)["Reliability"][1:]
    assert sum(int(row[1].replace(",", "")) for row in bins) == judged.of.tally["rows"].sum()
    assert sum(int(row[2].replace(",", "")) for row in bins) == judged.of.tally["events"].sum() > 0


def test_every_event_is_listed_with_what_became_of_it(shown: tuple[str, Judged]) -> None:
    text, judged = shown
    rows = tables(text)["Events"][1:]
    assert len(rows) == judged.of.found["events"] == 16
    kinds = [row[2].split(",")[0] for row in rows]
    assert (kinds.count("hit"), kinds.count("missed")) == (judged.of.found["hits"], judged.of.found["misses"])


def test_the_verdict_comes_first_and_the_settings_last(shown: tuple[str, Judged]) -> None:
    text, judged = shown
    body = text[text.index("<main>") :]
    assert re.search(r"<h1>([^<]*)</h1>", body).group(1) == judged.sentence().splitlines()[0]  # type: ignore[union-attr]
    ids = re.findall(r'<section id="(\w+)"', body)
    assert (ids[0], ids[-1]) == ("verdict", "settings")
    assert all(f'href="#{name}"' in text for name in ids)


def test_a_baseline_that_ranks_better_is_said_and_takes_the_green_away(shown: tuple[str, Judged]) -> None:
    judged = shown[1]
    assert kind(judged) == "calm"
    assert best_rival(judged)[0] == "other"  # type: ignore[index]
    text, turned = page(source(first="other"))
    assert kind(turned) == "danger"
    assert "The baseline rival ranks as well or better" in text


@pytest.mark.parametrize(
    ("changed", "rival_lift", "expected"),
    [
        ({}, 1.0, "calm"),
        ({"average_precision_lift": 2.0}, 2.0, "unknown"),  # a baseline ranks as well
        ({"average_precision_lift": 2.01}, 2.0, "calm"),
        ({"events": 4}, 1.0, "unknown"),
        ({"circular_shift_p": None}, 1.0, "unknown"),
        ({"circular_shift_p": 0.051}, 1.0, "danger"),
        ({"alarm_time_share": 0.51}, 1.0, "danger"),
    ],
)
def test_the_stripe_is_green_only_for_warnings_better_than_chance_and_than_every_baseline(
    shown: tuple[str, Judged], changed: dict[str, Any], rival_lift: float, expected: str
) -> None:
    of, other = shown[1].of, shown[1].baselines["other"]
    rival = replace(other, found=other.found | {"average_precision_lift": rival_lift})
    always = {ALWAYS_ON: replace(other, found=other.found | {"average_precision_lift": 99.0})}  # is never a rival
    judged = replace(shown[1], of=replace(of, found=of.found | changed), baselines={"other": rival, **always})
    assert kind(judged) == expected


# --- what it must not hold ---


def test_hostile_names_stay_text() -> None:
    text = page(source(hostile=HOSTILE))[0]
    assert HOSTILE not in text
    assert "<img" not in text.split("<script", maxsplit=1)[0]
    assert "&lt;/script&gt;&lt;img" in text
    assert text.count("<script") == 3 + text.count("\\u003cscript")  # in JSON the sign is never literal
    assert "\\u0026lt;/script" in text  # plotly reads HTML in its labels


def test_nothing_is_loaded_from_anywhere(shown: tuple[str, Judged]) -> None:
    text = re.sub(r"<script>.*?</script>", "", shown[0], flags=re.DOTALL)
    assert re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', text) == []
    assert re.findall(r"https?://|url\(|@import", text) == []
    assert "default-src 'none'" in text


def test_the_same_input_gives_the_same_bytes(shown: tuple[str, Judged]) -> None:
    given = source()
    shuffled = Source(given.columns, given.events.sample(fraction=1.0, shuffle=True, seed=3))
    assert page(shuffled)[0] == shown[0]


# --- moments ---

# A: scores of .1 but .3 at minute 150, .4 at 170, .45 at 199 (an event at 200 sees [140, 198]: .4 at 170); .9 at 400
# and .95 at 405 (an episode from 400 to 405, false: the next event is at 700).
SPOKE = line("A", range(1000), set(), quiet=0.1).with_columns(
    score=pl.col("ts").replace_strict(at(150, 170, 199, 400, 405), [0.3, 0.4, 0.45, 0.9, 0.95], default=0.1)
)
TOLD = events(("A", 200, 210), ("A", 700, 700))


def test_the_peak_before_an_event_lies_within_its_warning_time() -> None:
    of = evaluate(parts(SPOKE), TOLD, HOUR)
    found = moments(of, parts(SPOKE), TOLD, HOUR)
    assert found.events.select("peak", "peak_at").rows() == [(0.4, at(170)[0]), (0.1, at(640)[0])]
    assert found.episodes.select("false", "peak", "peak_at").rows() == [(True, 0.95, at(405)[0])]


def test_a_score_counts_from_the_moment_it_was_known() -> None:
    late = SPOKE.with_columns(available_at=pl.col("ts") + timedelta(minutes=30))
    of = evaluate(parts(late), TOLD, HOUR)
    found = moments(of, parts(late), TOLD, HOUR)
    assert found.events["peak_at"][0] == at(150)[0]  # 170 was known at 200, after the last moment that counts: 198
    assert found.episodes.select("start", "peak_at").rows() == [(at(430)[0], at(405)[0])]


def test_the_worst_are_the_most_severe_misses_and_the_highest_false_alarms() -> None:
    rows = line("A", range(3000), {100, 900, 901, 1700, 2500})
    rows = rows.with_columns(score=pl.when(pl.col("ts") == at(1700)[0]).then(0.99).otherwise("score"))
    told = events(("A", 500, 500), ("A", 1300, 1300), ("A", 2100, 2100)).with_columns(
        severity=pl.Series([1.0, None, 9.0])
    )
    found = moments(evaluate(parts(rows), told, HOUR), parts(rows), told, HOUR)
    assert found.worst_misses()["severity"].to_list() == [9.0, 1.0, None]
    assert found.worst_false()["start"].to_list() == list(at(1700, 900, 100, 2500))  # highest, longest, earliest
    assert found.looked_at().height == 7


def test_only_the_moments_that_are_shown_are_asked_for_reasons() -> None:
    asked: list[pl.DataFrame] = []

    def reasons(wanted: pl.DataFrame) -> pl.DataFrame:
        asked.append(wanted)
        return wanted.with_columns(reasons=pl.lit("crowding +1.2 (basis_bps_5 = -89.1)"))

    faults = [{"input": "funding", "faults": {"absent": 0.25, "stale": 0.05}}]
    text, _ = page(source(Witness(reasons, lambda: faults, "some days"), first="other"))
    shown_false = tables(text)["False alarms with the highest score"][1:]
    assert "perp 89 bps below spot" in text
    assert len(asked) == 1
    assert asked[0].height <= 12 + 12 + 6
    assert all("crowding" in row[-1] for row in shown_false)
    assert tables(text)["Data health"][1] == ["funding", "30 %", "absent 25 %, stale 5 %"]


def test_a_scored_lake_tells_the_reasons_it_wrote(world: World) -> None:
    scores = world.lake.scan("scores", world.venue).filter(pl.col("reasons").is_not_null(), pl.col("symbol") != "*")
    some = scores.select("symbol", "ts", "reasons").head(3).collect()
    assert some.height == 3
    witness = of_scores(world.lake, world.venue, world.interval)
    assert witness.reasons(some.select("symbol", "ts")).sort("symbol", "ts").equals(some.sort("symbol", "ts"))
    assert {row["input"] for row in witness.health()} >= {"trades", "funding"}


def test_a_model_explains_the_rows_it_judged_and_no_others(tmp_path: Path, world: World) -> None:
    rows, model = matrix(), warning_model()
    whole = reasons(model, rows, FAMILY_OF)
    witness = of_models([(model, rows[:50]), (model, rows[50:])], Lake(tmp_path), "v", world.interval)
    wanted = rows.select("symbol", "ts")[[3, 55]]
    assert witness.reasons(wanted).equals(whole.select("symbol", "ts", "reasons")[[3, 55]])
    assert whole["reasons"][[3, 55]].null_count() == 0
    assert witness.reasons(wanted[:0]).is_empty()


def test_a_lake_without_health_says_that_nothing_is_known(tmp_path: Path, world: World) -> None:
    witness = of_scores(Lake(tmp_path), world.venue, world.interval)
    text = page(source(witness))[0]
    assert "The lake holds no health of this period" in text


# --- curves ---


def test_points_of_the_curves_by_hand() -> None:
    # 10 bars at levels 3 (1 bar), 2 (4 bars), 1 (5 bars); events met at 3 and at 1.
    diagram = molchan(np.array([3.0, 2.0, 1.0]), np.array([1.0, 4.0, 5.0]), np.array([3.0, 1.0]))
    assert diagram is not None
    tau, nu = draw.molchan_points(diagram)
    assert (tau.tolist(), nu.tolist()) == ([0.0, 0.1, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0])
    assert [draw.missed_within(diagram, x) for x in (0.0, 0.09, 0.1, 0.99, 1.0)] == [1.0, 1.0, 0.5, 0.5, 0.0]


def test_precision_and_bins_by_hand() -> None:
    of = evaluate(parts(SPOKE), TOLD, HOUR)
    rows = pl.DataFrame(
        {"day": [at(0)[0].date()] * 3, "score": [0.9, 0.3, 0.26], "rows": [2, 2, 4], "events": [1, 0, 1]}
    )
    small = type(of)(of.found, of.events, of.episodes, rows, of.days, of.diagram)
    recall, precision = draw.precision_points(small)
    assert (recall.tolist(), precision.tolist()) == ([0.5, 1.0], [0.5, 0.25])
    assert [draw.precision_at(small, r) for r in (0.5, 0.51, 1.0)] == [0.5, 0.25, 0.25]
    bins = draw.reliability_bins(small)  # [0.25, 0.5) holds 6 bars, said (2 x .3 + 4 x .26) / 6; [0.5, 1) two
    assert bins.select("rows", "events").rows() == [(6, 1), (2, 1)]
    assert bins["said"].to_list() == pytest.approx([1.64 / 6, 0.9])


def test_probabilities_too_small_for_a_place_share_one_bin() -> None:
    of = evaluate(parts(SPOKE), TOLD, HOUR)
    scores = [0.0, 1e-40, 9.9e-7, 1e-6, 1.0]
    rows = pl.DataFrame({"day": [at(0)[0].date()] * 5, "score": scores, "rows": [1] * 5, "events": [0, 1, 0, 0, 1]})
    small = type(of)(of.found, of.events, of.episodes, rows, of.days, of.diagram)
    assert draw.reliability_bins(small).select("rows", "events").rows() == [(3, 1), (1, 0), (1, 1)]


def test_survival_counts_missed_events_as_no_lead() -> None:
    rows = line("A", range(3000), {150, 980})
    told = events(("A", 200, 200), ("A", 1000, 1000), ("A", 2000, 2000))  # leads 50, 20, none
    x, left = draw.survival(evaluate(parts(rows), told, HOUR), 60)
    assert x.tolist() == [0, 20, 50, 60]
    assert left.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])


def test_curves_of_many_points_are_thinned_and_keep_their_ends() -> None:
    kept = draw._spread(np.arange(5_000))
    assert (kept.size, kept[0], kept[-1]) == (draw.CURVE_POINTS_MAX, 0, 4_999)


# --- odd input ---


def test_no_event_no_alert_and_no_probability_are_each_said() -> None:
    rows = line("A", range(500), set(), quiet=3.0)
    told = events(("A", 400, 410))
    for given, settings in ((told[:0], HOUR), (told, HOUR), (told, Settings(threshold=9.0, replicates=100))):
        asked = Source({"s": parts(rows)}, given)
        text = render_evaluation(judge(asked, settings), asked)
        assert "no probabilities" in text
        assert ("There is no event." in text) == given.is_empty()
    assert "There was no false alarm." in text


def test_only_what_was_judged_is_tallied_where_every_score_is_zero() -> None:
    rows = line("A", range(500), set(), quiet=0.0)
    asked = Source({"s": parts(rows)}, events(("A", 400, 410)))
    text = render_evaluation(judge(asked, HOUR), asked)
    assert tables(text)["Reliability"][1][0] == "0 %"
    assert tally.prevalence(judge(asked, HOUR).of.tally) is not None


# --- the command ---


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    scores, found = market()
    scores.write_parquet(tmp_path / "rival.parquet")
    found.write_csv(tmp_path / "events.csv")
    return tmp_path / "rival.parquet", tmp_path / "events.csv"


def test_the_command_writes_the_page_beside_its_json(files: tuple[Path, Path], tmp_path: Path) -> None:
    given = ["evaluate", "--scores", str(files[0]), "--events", str(files[1]), "--json"]
    plain = CliRunner().invoke(app, given).stdout
    made = CliRunner().invoke(app, [*given, "--html", str(tmp_path / "deep" / "page.html")])
    assert made.exit_code == 0, made.output
    assert made.stdout == plain
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert same(tables(text)["Scorer and baselines"][1][1], json.loads(plain)["event_recall"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--self-test", "--html", "x.html"], "--html is of scorers, --log of one"),
        (["--html", "/proc/no/x.html"], "cannot be written"),
    ],
)
def test_a_page_that_cannot_be_is_refused(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert run(["evaluate", "--scores", str(files[0]), "--events", str(files[1]), *more]) == 2
    assert said in capsys.readouterr().err


def test_the_evaluation_is_tracked_once_with_its_json_and_its_page(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "cascadeguard.toml").write_text(f'lake = "{tmp_path / "lake"}"\n')
    given = ["evaluate", "--scores", str(files[0]), "--events", str(files[1]), "--log", "--json"]
    given += ["--config", str(tmp_path / "cascadeguard.toml")]
    told, again = (json.loads(CliRunner().invoke(app, given).stdout) for _ in range(2))
    assert again == told
    store = Registry(Config().mlflow, tmp_path / "lake").store
    run = store.client().get_run(told["run_id"])
    assert run.data.metrics["event_recall"] == told["event_recall"]
    assert run.data.metrics["event_recall_ci.low"] == told["event_recall_ci"][0]
    lift = told["baselines"]["other"]["average_precision_lift"]
    assert run.data.metrics["baseline.other.average_precision_lift"] == lift
    assert run.data.params["scorer"] == "rival"
    folder = Path(unquote(urlsplit(run.info.artifact_uri).path))
    kept = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert kept == {name: value for name, value in told.items() if name != "run_id"}
    assert "<h1>rival warned of" in (folder / "figures" / "evaluation.html").read_text(encoding="utf-8")
