"""Training end to end: walk-forward figures, the gate, champion or challenger, clear words where data are too few."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.catalogue import CATALOGUE_VERSION
from models.gate import Check, Probe
from models.warning import WarningModel
from pipelines.case import case_of, data_sha256, slices, targets_of
from pipelines.config import Config, GateConfig, MlflowConfig, WarningConfig
from pipelines.errors import InputError
from pipelines.model_card import reliability
from pipelines.model_pages import trial_of
from pipelines.score import champion
from pipelines.tracking import Registry, RegistryError, UnusableModelError
from pipelines.train import Trained, TrainSummary, experiment_of, train_case, trained
from pipelines.trial import ABLATIONS, FoldReport

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("A", "B", "C")
MINUTES = 8 * 1440
WARNING = WarningConfig(
    rounds=30, folds=3, threads=1, budget_episodes_per_symbol_day=6.0, episodes_per_symbol_day_max=12
)
CONFIG = Config(warning=WARNING, gate=GateConfig(replicates=200))
TAGS = {"venue": "v"}
NOW = datetime(2025, 2, 1, tzinfo=UTC)


def causal(_: WarningModel) -> Probe:
    """The probe of causality needs a lake; here it is taken as passed."""
    return Check("causality", True, 0.0, 0.0, "no row changed its score")


@cache
def market(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three symbols, about two cascades a day each; `depth_drop_240` rises over the hour before, the rest is noise."""
    matrices, events = [], []
    for number, symbol in enumerate(SYMBOLS):
        rng = np.random.default_rng([seed, number])
        onsets = np.cumsum(rng.integers(250, 900, size=60))
        onsets = onsets[onsets < MINUTES - 20]
        ts = pl.Series("ts", [START + timedelta(minutes=k) for k in range(MINUTES)], dtype=pl.Datetime("us", "UTC"))
        until = np.append(onsets, 10**6)[np.searchsorted(onsets, np.arange(MINUTES), side="right")] - np.arange(MINUTES)
        matrices.append(
            pl.DataFrame({"venue": "v", "symbol": symbol, "ts": ts}).with_columns(
                pl.Series("depth_drop_240", rng.normal(size=MINUTES) + 4 * np.clip(1 - until / 60, 0, 1)),
                pl.Series("vol_ratio_15", rng.normal(size=MINUTES)),
                pl.Series("funding_annual", rng.normal(size=MINUTES)),
                pl.lit(None, dtype=pl.Float64).alias("oi_change_30"),
                known_at="ts",
            )
        )
        onset = pl.Series([START + timedelta(minutes=int(k)) for k in onsets], dtype=pl.Datetime("us", "UTC"))
        events.append(
            pl.DataFrame({"onset": onset}).with_columns(
                symbol=pl.lit(symbol), end=pl.col("onset") + pl.duration(minutes=10)
            )
        )
    return pl.concat(matrices), pl.concat(events).select("symbol", "onset", "end")


def done_of(
    matrix: pl.DataFrame, events: pl.DataFrame, config: Config = CONFIG, champion: WarningModel | None = None
) -> Trained:
    return trained(case_of(matrix, events, config), champion, causal)


@cache
def outcome() -> Trained:
    return done_of(*market())


def registered(folder: Path, config: Config = CONFIG, seed: int = 0) -> tuple[TrainSummary, Registry]:
    registry = Registry(MlflowConfig(), folder)
    return train_case(case_of(*market(seed), config), registry, TAGS, at=NOW, causality=causal), registry


def test_a_planted_signal_passes_the_gate() -> None:
    done = outcome()
    assert done.verdict.promote, done.verdict.sentence
    assert {check.name for check in done.verdict.checks} >= {
        "ranking",
        "chance",
        "false_alarms",
        "monotone",
        "causality",
    }
    lifts = [fold.ap_lift_60m for fold in done.folds]
    assert min(lift for lift in lifts if lift is not None) > 3


def test_every_fold_is_judged_against_the_baselines() -> None:
    folds = outcome().folds
    assert len(folds) == 3
    for fold in folds:
        assert fold.note == ""
        assert fold.ap_lift_60m is not None
        assert set(fold.baselines) == {"volatility_ratio", "funding_alone"}, "a wholly null column is no baseline"
        assert fold.ap_lift_60m > 2 * max(fold.baselines.values())
        assert all(0.5 < lift < 1.7 for lift in fold.baselines.values())
        assert fold.metrics["recall"] is not None
        assert fold.metrics["recall"] > 0.3
        assert {
            f"{name}_{horizon}m" for name in ("ap_lift", "brier", "log_loss") for horizon in (5, 15, 30, 60, 240)
        } < set(fold.metrics)


def test_rivals_are_ranked_on_the_same_minutes_with_their_intervals() -> None:
    found = {one.name: one for one in outcome().ranked}
    assert set(found) == {"model", "volatility_ratio", "funding_alone", "logistic model"}
    assert len({one.rows for one in found.values()}) == 1
    for one in found.values():
        assert one.low is not None
        assert one.high is not None
        assert one.ap_lift is not None
        assert one.low <= one.ap_lift <= one.high
    assert found["model"].low > found["funding_alone"].high  # type: ignore[operator]
    assert found["funding_alone"].roc_auc == pytest.approx(0.5, abs=0.1)


def test_ablations_tell_which_features_carry_the_signal() -> None:
    """The signal is `depth_drop_240`: without thin books nothing is left, volatility alone has nothing."""
    quick = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"folds": 2, "rounds": 15})})
    done = trained(case_of(*market(), quick), None, causal, ablate=True)
    found = {one.name: one.ap_lift for one in done.ablated}
    assert set(found) == set(ABLATIONS) - {"basis only"}, "no feature of the basis: nothing to judge"
    model = next(one.ap_lift for one in done.ranked if one.name == "model")
    assert found["without thin books"] < 1.7  # type: ignore[operator]
    assert model > 3  # type: ignore[operator]
    assert found["volatility only"] < 1.7  # type: ignore[operator]
    assert found["without cancels"] == model


def test_what_is_tracked_can_be_read_without_the_code(tmp_path: Path) -> None:
    summary, registry = registered(tmp_path)
    assert summary.alias == "champion"
    loaded = registry.load_warning()
    assert loaded is not None
    assert loaded[1] == summary.uri
    assert loaded[0].to_json() == outcome().model.to_json()
    listed = registry.list_models()[0]
    run = registry.read_run(listed["run_id"])
    assert run.experiment == experiment_of(CONFIG) == "cascadeguard/oi_flush-v1/5-15-30-60-240"
    assert run.model_sha256 == summary.model_sha256
    assert json.loads(run.config)["seed"] == CONFIG.seed
    assert [one.name for one in run.datasets] == ["train", "calibrate", "threshold"]
    assert run.datasets[0].digest == data_sha256(outcome().case.rows.filter(outcome().fit.train.rows()))
    assert run.params["warning.folds"] == "3"
    files = {path.name for path in registry.store.home.rglob("*") if listed["run_id"] in str(path)}
    assert {"card.md", "importance.json", "folds.json", "rivals.json", "reliability_60m.png"} <= files
    told = trial_of(registry, "champion")
    assert [row["name"] for row in told] == [one.name for one in outcome().ranked]
    next(path for path in registry.store.home.rglob("rivals.json")).unlink()
    assert trial_of(registry, "champion") == []
    card = next(path for path in registry.store.home.rglob("card.md")).read_text()
    assert "| volatility_ratio |" in card
    assert "oi_change_30" in card


def test_training_twice_registers_once_and_another_seed_anew(tmp_path: Path) -> None:
    first, _ = registered(tmp_path)
    second, registry = registered(tmp_path)
    assert second.uri == first.uri
    assert second.alias == "champion", "the standing champion stays, though it cannot beat itself"
    reseeded = CONFIG.model_copy(update={"seed": 8})
    third, _ = registered(tmp_path, reseeded)
    assert third.version == "2"
    assert third.alias == "challenger"
    assert third.gate["promote"] is False
    assert registry.load_warning()[1] == first.uri  # type: ignore[index]


def test_a_champion_is_compared_only_on_time_it_has_not_seen() -> None:
    """The standing champion learned from everything: nothing is left to compare on, and it stays."""
    again = done_of(*market(), CONFIG, outcome().model)
    assert not again.verdict.promote
    rows = next(check for check in again.verdict.checks if check.name == "rows")
    assert not rows.passed


class Holding(Registry):
    """A registry whose champion is what a test says: a model, or an error on loading it."""

    def __init__(self, folder: Path, champion: WarningModel | Exception) -> None:
        super().__init__(MlflowConfig(), folder)
        self.champion = champion

    def load_warning(self, *_: object, **__: object) -> tuple[WarningModel, str]:
        if isinstance(self.champion, Exception):
            raise self.champion
        return self.champion, "models:/cascadeguard-warning/1"


def test_a_champion_that_cannot_be_read_stops_no_training_and_stays(tmp_path: Path) -> None:
    """What an older version of this code registered would else keep the new one from ever training."""
    broken = UnusableModelError("load it", "another format", where="here", mend="promote another")
    summary = train_case(case_of(*market(), CONFIG), Holding(tmp_path, broken), TAGS, at=NOW, causality=causal)
    assert summary.alias == "challenger"
    assert "Keep the champion" in summary.gate["sentence"]
    assert "another format" in summary.gate["sentence"]


OTHERS = [
    ({"bar_s": 300}, "was made for bars of 300 s, these are of 60 s"),
    ({"catalogue": 1}, f"learned the features of catalogue 1, these are of {CATALOGUE_VERSION}"),
]


@pytest.mark.parametrize(("other", "fault"), OTHERS)
def test_a_champion_of_other_bars_or_features_is_neither_compared_nor_asked_and_stays(
    tmp_path: Path, other: dict[str, int], fault: str
) -> None:
    model = replace(outcome().model, metadata=dict(outcome().model.metadata) | other)
    summary = train_case(case_of(*market(), CONFIG), Holding(tmp_path, model), TAGS, at=NOW, causality=causal)
    assert summary.alias == "challenger"
    assert fault in summary.gate["sentence"]
    assert champion(Holding(tmp_path, model), 60) == (None, None, f"models:/cascadeguard-warning/1 {fault}: train anew")
    assert champion(Holding(tmp_path, outcome().model), 60)[0] == outcome().model


def test_a_registry_that_is_down_does_stop_a_training(tmp_path: Path) -> None:
    down = RegistryError("load it", "no answer", where="here", mend="start it")
    with pytest.raises(RegistryError, match="no answer"):
        train_case(case_of(*market(), CONFIG), Holding(tmp_path, down), TAGS, at=NOW, causality=causal)


def test_a_better_model_replaces_a_champion_that_knows_nothing() -> None:
    """The champion learned its probabilities before the tests began, from noise; the challenger knows the signal."""
    matrix, events = market()
    blind = done_of(matrix.with_columns(pl.col("depth_drop_240").shuffle(seed=1)), events).model
    early = replace(blind, metadata=dict(blind.metadata) | {"threshold": [START.isoformat(), START.isoformat()]})
    done = done_of(matrix, events, CONFIG, early)
    ranking = next(check for check in done.verdict.checks if check.name == "ranking")
    assert ranking.passed, done.verdict.sentence
    assert done.verdict.promote, done.verdict.sentence


def test_without_the_probe_of_causality_nothing_is_promoted() -> None:
    done = trained(case_of(*market(), CONFIG), None, None)
    assert not done.verdict.promote
    assert "causality" in done.verdict.sentence


def test_a_placebo_is_near_chance_and_is_not_promoted() -> None:
    """Events of another draw: their times have nothing to do with the features."""
    lifts = []
    for seed in (1, 2):
        done = done_of(market()[0], market(seed)[1])
        lifts += [fold.ap_lift_60m for fold in done.folds if fold.ap_lift_60m is not None]
        assert not done.verdict.promote
    assert len(lifts) == 6
    assert 0.7 < float(np.median(lifts)) < 1.4


def test_a_model_judged_on_few_cascades_makes_no_claim() -> None:
    """Two cascades in the test periods that can be judged: figures are printed, a claim is not made."""
    matrix, events = market()
    first_test = slices(case_of(matrix, events, CONFIG))[0][0].test.start
    few = pl.concat([events.filter(pl.col("onset") < first_test), events.filter(pl.col("onset") > first_test).head(2)])
    done = done_of(matrix, few)
    assert not done.verdict.promote
    assert "no claim can be made" in done.verdict.sentence


def test_too_few_cascades_are_refused_before_any_work() -> None:
    matrix, events = market()
    with pytest.raises(InputError, match="at least 5 cascades, the period holds 4"):
        case_of(matrix, events.head(4), CONFIG)


def test_cascades_outside_the_matrix_do_not_count() -> None:
    matrix, events = market()
    elsewhere = events.with_columns(pl.lit("Z").alias("symbol"))
    later = events.with_columns(pl.col("onset", "end") + pl.duration(days=100))
    with pytest.raises(InputError, match="holds 0"):
        case_of(matrix, pl.concat([elsewhere, later]), CONFIG)


def test_a_short_period_is_refused_with_a_way_out() -> None:
    matrix, events = market()
    hours = matrix.filter(pl.col("ts") < START + timedelta(hours=20))
    busy = events.head(5).with_columns(onset=pl.lit(START + timedelta(hours=1)).dt.cast_time_unit("us"))
    with pytest.raises(InputError, match="too short for 3 walk-forward folds"):
        done_of(hours, busy)


def test_cascades_only_at_the_end_give_a_clear_error() -> None:
    matrix, events = market()
    late = events.filter(pl.col("onset") > START + timedelta(days=6, hours=12))
    assert late.height >= 5
    with pytest.raises(InputError, match="no early-warning model can be fitted"):
        done_of(matrix, late)


def test_a_fold_without_a_cascade_is_noted_and_the_rest_goes_on() -> None:
    matrix, events = market()
    first = slices(case_of(matrix, events, CONFIG))[0][0].test
    gap = events.filter(~pl.col("onset").is_between(first.start, first.end))
    done = done_of(matrix, gap)
    quiet = next(fold for fold in done.folds if fold.note)
    assert quiet.note == "no cascade in its test period"
    assert quiet.ap_lift_60m is None
    assert any(fold.ap_lift_60m is not None for fold in done.folds)
    assert isinstance(done.folds[1], FoldReport)


@pytest.mark.parametrize("policy", ["cost", "miss_rate"])
def test_a_threshold_can_come_from_costs_or_from_a_promised_miss_rate(policy: str) -> None:
    warning = WARNING.model_copy(update={"threshold_by": policy, "cost_missed": 9.0, "miss_rate_max": 0.5})
    done = done_of(*market(), CONFIG.model_copy(update={"warning": warning}))
    if policy == "cost":
        assert done.model.threshold == pytest.approx(0.1)
    recalls = [fold.metrics["recall"] for fold in done.folds]
    assert np.mean([recall for recall in recalls if recall is not None]) > 0.3


def test_reliability_groups_by_probability() -> None:
    """Ten rows to a group: p 0 .. 99, what happened from 50 on."""
    p = np.arange(100.0)
    found = reliability((p >= 50).astype(float), p)
    assert found["rows"].to_list() == [10] * 10
    assert found["share"].to_list() == [0.0] * 5 + [1.0] * 5
    assert found["p"][0] == 4.5


def test_targets_are_one_before_an_onset_and_unknown_inside_and_at_the_end() -> None:
    matrix, events = market()
    targets = targets_of(matrix, events, CONFIG)
    symbol, onset, end = events.row(0)
    at = {row["ts"]: row for row in targets.filter(pl.col("symbol") == symbol).to_dicts()}
    minute = timedelta(minutes=1)
    read = {name: [at[onset - k * minute][name] for k in (61, 60, 16, 15, 1, 0)] for name in ("y_15m", "y_60m")}
    assert read["y_15m"] == [0, 0, 0, 1, 1, None]
    assert read["y_60m"] == [0, 1, 1, 1, 1, None]
    assert at[end + minute]["y_60m"] is None
    assert targets.select("symbol", "ts").equals(matrix.select("symbol", "ts"))


def test_minutes_the_label_could_not_judge_are_left_out() -> None:
    matrix, events = market()
    flags = matrix.select("symbol", "ts", flag=pl.when(pl.col("ts") > START + timedelta(days=1)).then(False))
    targets = targets_of(matrix, events.clear(), CONFIG, flags)
    early = pl.col("ts") <= START + timedelta(days=1) - timedelta(minutes=1)
    assert targets.filter(early)["y_60m"].null_count() == targets.filter(early).height
    assert targets.filter(~early)["y_60m"].null_count() == 3 * 60


def test_minutes_in_which_the_label_was_blind_are_no_quiet_minutes() -> None:
    """Where open interest is missing and the price rests, the flag is False, but nobody looked: severity is null."""
    matrix, events = market()
    blind = pl.col("ts") <= START + timedelta(days=1)
    flags = matrix.select("symbol", "ts", flag=pl.lit(value=False), severity=pl.when(~blind).then(0.0))
    targets = targets_of(matrix, events.clear(), CONFIG, flags)
    assert targets.filter(blind)["y_60m"].null_count() == targets.filter(blind).height
    assert targets.filter(~blind)["y_60m"].null_count() == 3 * 60


def test_a_registry_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    down = Registry(MlflowConfig(tracking_uri="http://127.0.0.1:9"), tmp_path)
    with pytest.raises(RegistryError, match="model registry"):
        train_case(case_of(*market(), CONFIG), down, TAGS, at=NOW, causality=causal)
