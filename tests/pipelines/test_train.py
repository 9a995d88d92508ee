"""Training end to end: walk-forward figures, champion or challenger, and clear words where data are too few."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.warning import WarningModel
from pipelines.config import Config, MlflowConfig, WarningConfig
from pipelines.errors import InputError
from pipelines.tracking import Record, Registry, RegistryError
from pipelines.train import FoldReport, TrainSummary, targets_of, train_warning_model

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("A", "B", "C")
MINUTES = 8 * 1440
CONFIG = Config(warning=WarningConfig(rounds=30, folds=3, threads=1, budget_episodes_per_symbol_day=6.0))
TAGS = {"venue": "v"}


@dataclass
class Memory:
    """A registry that remembers; the real one has its own tests."""

    logged: list[tuple[WarningModel, Record]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def log_warning(self, model: WarningModel, record: Record) -> str:
        self.logged.append((model, record))
        return f"models:/cascadeguard-warning/{len(self.logged)}"

    def find_warning(self, tags: dict[str, str]) -> str | None:
        found = [k for k, (_, record) in enumerate(self.logged, 1) if tags.items() <= record.tags.items()]
        return f"models:/cascadeguard-warning/{found[-1]}" if found else None

    def set_alias(self, name: str, version: str, alias: str) -> None:
        self.aliases[alias] = f"{name}/{version}"


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


@cache
def outcome() -> tuple[TrainSummary, Memory]:
    registry = Memory()
    return train_warning_model(*market(), CONFIG, registry, TAGS), registry


def test_a_planted_signal_makes_a_champion() -> None:
    summary, registry = outcome()
    assert registry.aliases == {"champion": "cascadeguard-warning/1"}
    assert summary.alias == "champion"
    assert summary.ap_lift_60m is not None
    assert summary.ap_lift_60m > 3
    assert summary.n_events == market()[1].height
    assert summary.notes == ()


def test_every_fold_is_judged_against_the_baselines() -> None:
    folds = outcome()[0].folds
    assert len(folds) == 3
    for fold in folds:
        assert fold.note == ""
        assert fold.ap_lift_60m is not None
        assert fold.baselines is not None
        assert set(fold.baselines) == {"volatility_ratio", "funding_alone"}, "a wholly null column is no baseline"
        assert fold.ap_lift_60m > 2 * max(fold.baselines.values())
        assert all(0.5 < lift < 1.6 for lift in fold.baselines.values())
        assert fold.recall is not None
        assert fold.recall > 0.3
        assert fold.brier_60m is not None
        assert fold.brier_60m < 0.09


def test_what_is_tracked_can_be_read_without_the_code() -> None:
    summary, registry = outcome()
    model, record = registry.logged[0]
    assert model.threshold == summary.threshold
    assert json.loads(record.artifacts["importance.json"])["depth_drop_240"] > 0.5
    assert len(json.loads(record.artifacts["folds.json"])) == 3
    card = record.artifacts["card.md"]
    assert "# Early-warning model" in card
    assert "oi_change_30" in card
    assert card.count("2025-01-0") > 6
    assert record.params["seed"] == CONFIG.seed
    assert len(record.tags["data_sha256"]) == 64
    assert record.tags["venue"] == "v"
    assert len(record.metrics["ap_lift_60m"]) == 3  # type: ignore[arg-type]  # one per fold


def test_training_again_gives_the_same_model() -> None:
    again = Memory()
    train_warning_model(*market(), CONFIG, again, TAGS)
    assert again.logged[0][0].to_json() == outcome()[1].logged[0][0].to_json()
    assert again.logged[0][1] == outcome()[1].logged[0][1]


def test_training_twice_registers_once() -> None:
    registry = Memory()
    first, second = (train_warning_model(*market(), CONFIG, registry, TAGS) for _ in range(2))
    assert first == second
    assert len(registry.logged) == 1
    reseeded = CONFIG.model_copy(update={"seed": 8})
    assert train_warning_model(*market(), reseeded, registry, TAGS).version == "2"


def test_a_model_judged_on_few_cascades_says_so() -> None:
    """Two cascades in the test periods that can be judged: figures are printed, a claim is not made."""
    matrix, events = market()
    first_test = START + timedelta(days=8 * 2 / 5)
    few = pl.concat([events.filter(pl.col("onset") < first_test), events.filter(pl.col("onset") > first_test).head(2)])
    summary = train_warning_model(matrix, few, CONFIG, Memory(), TAGS)
    assert any("judged on 2 cascades only" in note for note in summary.notes)


def test_a_placebo_is_near_chance_on_the_whole() -> None:
    """Events of another draw: their times have nothing to do with the features."""
    lifts = []
    for seed in (1, 2):
        summary = train_warning_model(market()[0], market(seed)[1], CONFIG, Memory(), TAGS)
        lifts += [fold.ap_lift_60m for fold in summary.folds if fold.ap_lift_60m is not None]
    assert len(lifts) == 6
    assert 0.7 < float(np.median(lifts)) < 1.4


def test_a_model_below_chance_is_registered_as_challenger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.train.CHANCE_LIFT", 1000.0)
    registry = Memory()
    summary = train_warning_model(*market(), CONFIG, registry, TAGS)
    assert summary.alias == "challenger"
    assert list(registry.aliases) == ["challenger"]
    assert "did not rank better than chance" in summary.sentence()


def test_a_budget_too_small_for_any_alert_is_said_so() -> None:
    tight = CONFIG.model_copy(
        update={"warning": CONFIG.warning.model_copy(update={"budget_episodes_per_symbol_day": 0.01})}
    )
    summary = train_warning_model(*market(), tight, Memory(), TAGS)
    assert any("will not alert" in note for note in summary.notes)
    assert [fold.recall for fold in summary.folds] == [0.0, 0.0, 0.0]


def test_too_few_cascades_are_refused_before_any_work() -> None:
    matrix, events = market()
    registry = Memory()
    with pytest.raises(InputError, match="at least 5 cascades, the period holds 4"):
        train_warning_model(matrix, events.head(4), CONFIG, registry, TAGS)
    assert registry.logged == []


def test_cascades_outside_the_matrix_do_not_count() -> None:
    matrix, events = market()
    elsewhere = events.with_columns(pl.lit("Z").alias("symbol"))
    later = events.with_columns(pl.col("onset", "end") + pl.duration(days=100))
    with pytest.raises(InputError, match="holds 0"):
        train_warning_model(matrix, pl.concat([elsewhere, later]), CONFIG, Memory(), TAGS)


def test_a_short_period_is_refused_with_a_way_out() -> None:
    matrix, events = market()
    hours = matrix.filter(pl.col("ts") < START + timedelta(hours=10))
    busy = events.head(5).with_columns(onset=pl.lit(START + timedelta(hours=1)).dt.cast_time_unit("us"))
    with pytest.raises(InputError, match="too short for 3 walk-forward folds"):
        train_warning_model(hours, busy, CONFIG, Memory(), TAGS)


def test_cascades_only_at_the_end_give_a_note_or_a_clear_error() -> None:
    matrix, events = market()
    late = events.filter(pl.col("onset") > START + timedelta(days=6, hours=12))
    assert late.height >= 5
    with pytest.raises(InputError, match="no early-warning model can be fitted"):
        train_warning_model(matrix, late, CONFIG, Memory(), TAGS)


def test_a_fold_without_a_cascade_is_noted_and_the_rest_goes_on() -> None:
    matrix, events = market()
    third = (START + timedelta(days=8 * 2 / 5), START + timedelta(days=8 * 3 / 5))
    gap = events.filter(~pl.col("onset").is_between(*third))
    summary = train_warning_model(matrix, gap, CONFIG, Memory(), TAGS)
    assert summary.folds[0].note == "no cascade in its test period"
    assert summary.folds[0].ap_lift_60m is None
    assert summary.folds[2].ap_lift_60m is not None
    assert any("fold 0 was not judged" in note for note in summary.notes)
    assert isinstance(summary.folds[1], FoldReport)


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


def test_a_registry_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = Registry(MlflowConfig(tracking_uri="http://127.0.0.1:9"), tmp_path)
    with pytest.raises(RegistryError, match="model registry: cannot search"):
        train_warning_model(*market(), CONFIG, down, TAGS)


@pytest.mark.slow
def test_the_champion_is_found_in_a_real_registry(tmp_path: Path) -> None:
    registry = Registry(MlflowConfig(), tmp_path)
    summary = train_warning_model(*market(), CONFIG, registry, TAGS)
    loaded = registry.load_warning()
    assert loaded is not None
    assert loaded[1] == summary.uri
    assert loaded[0].to_json() == outcome()[1].logged[0][0].to_json()
