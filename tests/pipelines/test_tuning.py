"""Tuning: looks at nothing that is judged later, stops and goes on without a trace, never ends worse than it began."""

import fcntl
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.scorers import Trees
from models.warning import ALERT
from pipelines import tuning
from pipelines.case import Case, case_of, slices
from pipelines.config import BarsConfig, Config, WarningConfig
from pipelines.errors import InputError
from pipelines.trial import Y, fit_model
from pipelines.tuning import RANGES, Tuned, inner_folds, objective, tune, visible

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("A", "B", "C")
BAR_MIN = 5
BARS = 20 * 288
WARNING = WarningConfig(rounds=20, folds=2, threads=1, leaf_rows_min=20)
CONFIG = Config(warning=WARNING, bars=BarsConfig(interval_s=300))


def made(name: str, values: np.ndarray[Any, Any]) -> pl.Series:
    return pl.Series(name, [START + timedelta(minutes=int(k)) for k in values], dtype=pl.Datetime("us", "UTC"))


@cache
def case() -> Case:
    """Three symbols, two or three cascades a day each, bars of 5 min; `depth_drop_240` rises over the hour before."""
    matrices, events = [], []
    minute = np.arange(BARS) * BAR_MIN
    for number, symbol in enumerate(SYMBOLS):
        rng = np.random.default_rng([1, number])
        onsets = np.cumsum(rng.integers(50, 180, size=200)) * BAR_MIN
        onsets = onsets[onsets < minute[-1] - 20]
        until = np.append(onsets, 10**6)[np.searchsorted(onsets, minute, side="right")] - minute
        matrices.append(
            pl.DataFrame({"venue": "v", "symbol": symbol, "ts": made("ts", minute)}).with_columns(
                pl.Series("depth_drop_240", rng.normal(size=BARS) + 3 * np.clip(1 - until / 60, 0, 1)),
                pl.Series("vol_ratio_15", rng.normal(size=BARS)),
                known_at="ts",
            )
        )
        onset = made("onset", onsets)
        events.append(
            pl.DataFrame({"symbol": symbol, "onset": onset}).with_columns(end=pl.col("onset") + pl.duration(minutes=10))
        )
    return case_of(pl.concat(matrices), pl.concat(events), CONFIG)


@pytest.fixture(autouse=True)
def _early_tpe(monkeypatch: pytest.MonkeyPatch) -> None:
    """TPE learns from the third trial on, so that six trials reach it."""
    monkeypatch.setattr(tuning, "STARTUP", 2)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "STARTUP", 2)
        return tune(case(), 6, tmp_path_factory.mktemp("once") / "tuning.db")


def counting(monkeypatch: pytest.MonkeyPatch, fail: Any = lambda number: None) -> list[dict[str, float]]:
    """Settings of every trial that is run from here on; `fail(number)` may raise instead."""
    seen: list[dict[str, float]] = []
    real = tuning.objective

    def counted(inner: Case, folds: Any, settings: dict[str, float]) -> float:
        seen.append(settings)
        fail(len(seen) - 1)
        return real(inner, folds, settings)

    monkeypatch.setattr(tuning, "objective", counted)
    return seen


def stored(store: Path, name: str) -> list[Any]:
    """The trials of a study as the store has them."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{store}")
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return list(trials)


def test_the_settings_as_configured_are_the_first_trial_and_the_best_is_never_worse(once: Tuned) -> None:
    first = once.table.row(0, named=True)
    assert {name: first[name] for name in RANGES} == {name: getattr(WARNING, name) for name in RANGES}
    values = once.table["log_loss"].to_list()
    assert len(values) == once.trials_done == 6
    assert min(values) <= values[0]
    row = once.table.row(int(np.argmin(values)), named=True)
    assert once.best == {name: row[name] for name in RANGES}
    assert {name: getattr(once.config.warning, name) for name in RANGES} == once.best
    assert len({tuple(one[name] for name in RANGES) for one in once.table.to_dicts()}) == 6


def test_only_the_tuned_settings_differ_in_what_comes_back(once: Tuned) -> None:
    untouched = once.config.warning.model_copy(update={name: getattr(WARNING, name) for name in RANGES})
    assert once.config.model_copy(update={"warning": untouched}) == CONFIG


def test_every_trial_lies_in_its_range_and_every_range_is_allowed_by_the_configuration(once: Tuned) -> None:
    for name, chosen in RANGES.items():
        assert once.table[name].is_between(chosen.low, chosen.high).all(), name
    for end in ("low", "high"):
        WarningConfig.model_validate({name: getattr(chosen, end) for name, chosen in RANGES.items()})
    assert all(chosen.holds(getattr(WarningConfig(), name)) for name, chosen in RANGES.items())


def test_stopping_after_three_and_going_on_to_six_gives_the_bytes_of_six_in_one_go(once: Tuned, tmp_path: Path) -> None:
    half = tune(case(), 3, tmp_path / "tuning.db")
    whole = tune(case(), 6, tmp_path / "tuning.db")
    assert half.table.equals(once.table.head(3))
    assert whole.to_json() == once.to_json()
    assert whole.params() == once.params()


def test_asking_again_trains_nothing_more_and_asking_for_fewer_gives_the_first(
    once: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = tune(case(), 4, tmp_path / "tuning.db")
    run = counting(monkeypatch)
    assert tune(case(), 4, tmp_path / "tuning.db").to_json() == four.to_json()
    assert tune(case(), 2, tmp_path / "tuning.db").table.equals(once.table.head(2))
    assert run == []


@pytest.mark.parametrize("killed", [0, 1, 4])
def test_a_killed_trial_is_run_again_with_the_same_settings(
    killed: int, once: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(number: int) -> None:
        if number == killed:
            raise KeyboardInterrupt

    run = counting(monkeypatch, kill)
    with pytest.raises(KeyboardInterrupt):
        tune(case(), 6, tmp_path / "tuning.db")
    again = tune(case(), 6, tmp_path / "tuning.db")
    assert run[killed] == run[killed + 1]
    assert len(run) == 7
    assert again.to_json() == once.to_json()
    states = [one.state.name for one in stored(tmp_path / "tuning.db", once.study)]
    assert sorted(states) == ["COMPLETE"] * 6 + ["FAIL"]


def test_a_run_killed_before_its_first_trial_began_starts_with_the_settings_as_configured(
    once: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial is queued, then asked for: killed between the two, it must be queued once, not twice."""
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_sampler", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune(case(), 3, tmp_path / "tuning.db")
    assert tune(case(), 3, tmp_path / "tuning.db").table.equals(once.table.head(3))


def test_nothing_after_the_first_training_slice_changes_a_trial(once: Tuned, tmp_path: Path) -> None:
    """Beyond the slice features are turned round, targets too, and the cascades are gone."""
    whole = case()
    first = slices(whole)[0][0]
    later = pl.col("ts") > first.train.end
    names = ("depth_drop_240", "vol_ratio_15")
    targets = [name for name in whole.targets.columns if name.startswith("y_")]
    other = replace(
        whole,
        matrix=whole.matrix.with_columns(pl.when(later).then(7.0 - pl.col(n)).otherwise(n).alias(n) for n in names),
        targets=whole.targets.with_columns(pl.when(later).then(1 - pl.col(n)).otherwise(n).alias(n) for n in targets),
        events=whole.events.filter(pl.col("onset") <= first.calibrate.start),
    )
    assert slices(other)[0][0].train == first.train
    assert not other.rows.equals(whole.rows)
    assert tune(other, 6, tmp_path / "tuning.db").to_json() == once.to_json()


def test_something_within_the_first_training_slice_is_another_study(once: Tuned, tmp_path: Path) -> None:
    whole = case()
    inside = slices(whole)[0][0].train.rows() & (pl.col("symbol") == "A")
    moved = pl.when(inside).then(1.0 - pl.col("depth_drop_240")).otherwise("depth_drop_240").alias("depth_drop_240")
    found = tune(replace(whole, matrix=whole.matrix.with_columns(moved)), 1, tmp_path / "tuning.db")
    assert found.study != once.study
    assert found.table["log_loss"][0] != once.table["log_loss"][0]


def test_inner_folds_judge_every_row_once_and_after_all_that_was_learned() -> None:
    seen = visible(case())
    outer = slices(case())[0][0].train
    gap = timedelta(minutes=240 + CONFIG.label.window_min + WARNING.embargo_min)
    folds = inner_folds(seen)
    assert len(folds) == 2
    for fit, span in folds:
        assert outer.start <= fit.train.start < fit.train.end <= fit.calibrate.start - gap
        assert fit.calibrate.end <= span.start - gap
        assert span.end <= outer.end
    assert folds[0][1].end <= folds[1][1].start
    assert folds[-1][1].end == seen.targets.filter(pl.col(Y).is_not_null())["ts"].max()
    assert seen.matrix["ts"].max() == seen.targets["ts"].max() == outer.end
    assert seen.events["onset"].max() <= outer.end  # type: ignore[operator]


def test_the_value_is_the_log_loss_of_all_judged_rows_together(once: Tuned) -> None:
    """An oracle in plain steps: fit, predict without abstaining, and take the mean over rows, not over folds."""
    seen = visible(case())
    happened, p = [], []
    for fit, span in inner_folds(seen):
        model = replace(fit_model(seen, fit), limits=tuning.SILENT_NEVER)
        rows = seen.rows.filter(span.rows()).drop_nulls(Y)
        happened += rows[Y].to_list()
        p += model.predict(rows)[ALERT].to_list()
    plain = -np.mean([np.log(q) if y else np.log(1 - q) for y, q in zip(happened, p, strict=True)])
    assert once.table["log_loss"][0] == pytest.approx(float(plain), rel=1e-12)
    assert sum(happened) > 0


def test_a_model_cannot_win_by_keeping_silent() -> None:
    """With a strict limit the model abstains where its best input is missing; the value must not know of it."""
    hole = pl.when(pl.int_range(pl.len()) % 7 > 0).then("depth_drop_240").alias("depth_drop_240")
    seen = visible(replace(case(), matrix=case().matrix.with_columns(hole)))
    folds = inner_folds(seen)
    strict = WARNING.model_copy(update={"missing_share_max": 0.0})
    silent = replace(seen, config=CONFIG.model_copy(update={"warning": strict}))
    fit, span = folds[-1]
    assert fit_model(silent, fit).predict(seen.rows.filter(span.rows()))["abstained"].any()
    settings = {name: getattr(WARNING, name) for name in RANGES}
    assert objective(silent, folds, settings) == objective(seen, folds, settings)


@pytest.mark.parametrize("policy", ["cost", "miss_rate", "budget"])
def test_the_policy_of_the_alert_threshold_does_not_matter(policy: str, once: Tuned) -> None:
    """A miss rate of 1 % cannot be promised on so few cascades; no promise is asked for."""
    policies = {"threshold_by": policy, "miss_rate_max": 0.01}
    chosen = CONFIG.model_copy(update={"warning": WARNING.model_copy(update=policies)})
    seen = visible(replace(case(), config=chosen))
    settings = {name: getattr(WARNING, name) for name in RANGES}
    assert objective(seen, inner_folds(seen), settings) == once.table["log_loss"][0]


def test_better_settings_are_found_on_a_planted_signal(once: Tuned, tmp_path: Path) -> None:
    """Two rounds' worth of learning know nothing: nearly any other trial is better by far."""
    slow = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"learning_rate": 0.01, "leaves": 2})})
    found = tune(replace(case(), config=slow), 6, tmp_path / "tuning.db")
    assert found.chosen["trial"] > 0
    assert found.chosen["log_loss"] < 0.97 * found.table["log_loss"][0]


def test_another_seed_is_another_search(once: Tuned, tmp_path: Path) -> None:
    other = tune(replace(case(), config=CONFIG.model_copy(update={"seed": 8})), 2, tmp_path / "tuning.db")
    assert other.study != once.study
    assert other.table["rounds"][0] == once.table["rounds"][0]
    assert other.table["learning_rate"][1] != once.table["learning_rate"][1]


def test_values_that_other_code_found_are_not_gone_on_with(
    once: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = visible(case())
    assert tuning.study_name(seen) == once.study
    for name, value in (("code_sha256", lambda: "other"), ("CATALOGUE_VERSION", -1), ("STARTUP", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, name, value)
            assert tuning.study_name(seen) != once.study, name


def test_the_number_of_threads_is_the_same_search(once: Tuned, tmp_path: Path) -> None:
    two = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"threads": 2})})
    found = tune(replace(case(), config=two), 3, tmp_path / "tuning.db")
    assert found.study == once.study
    assert found.table.equals(once.table.head(3))


def test_a_trial_that_cannot_be_fitted_has_a_reason_counts_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        if number in {0, 2}:
            raise ValueError(f"no leaf {number}")

    run = counting(monkeypatch, fail)
    found = tune(case(), 4, tmp_path / "tuning.db")
    assert found.table["reason"].to_list() == ["no leaf 0", None, "no leaf 2", None]
    assert found.table["log_loss"].is_null().to_list() == [True, False, True, False]
    assert found.chosen["trial"] in {1, 3}
    assert "as configured could not be fitted" in found.sentence()
    assert json.loads(found.to_json())["trials"][0]["log_loss"] is None
    assert tune(case(), 4, tmp_path / "tuning.db").to_json() == found.to_json()
    assert len(run) == 4


def test_where_no_trial_can_be_fitted_the_first_reason_and_a_way_out_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        raise ValueError(f"no leaf {number}")

    counting(monkeypatch, fail)
    with pytest.raises(InputError, match=r"none of 2 trials could be fitted \(no leaf 0\); train on a longer period"):
        tune(case(), 2, tmp_path / "tuning.db")


def test_equal_values_go_to_the_earlier_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "objective", lambda *_: 0.5)
    found = tune(case(), 4, tmp_path / "tuning.db")
    assert found.chosen["trial"] == 0
    assert found.config == CONFIG


def test_progress_says_which_trial_and_how_good_so_far(tmp_path: Path) -> None:
    said: list[str] = []
    found = tune(case(), 2, tmp_path / "tuning.db", said.append)
    assert said == ["tuning, 1 of 2 trials", f"tuning, 2 of 2 trials, best log loss {found.table['log_loss'][0]:.6f}"]


def test_the_library_keeps_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import optuna

    def fail(number: int) -> None:
        if number == 0:
            raise ValueError("no leaf")

    counting(monkeypatch, fail)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    with caplog.at_level("INFO"):
        tune(case(), 2, tmp_path / "tuning.db")
    optuna.logging.disable_propagation()
    assert [one for one in caplog.records if one.name.startswith("optuna")] == []


def test_what_is_told_of_it_can_be_read(once: Tuned) -> None:
    told = once.params()
    assert told["tune.trials"] == 6
    assert told["tune.best_log_loss"] <= told["tune.configured_log_loss"]  # type: ignore[operator]
    assert f"trial {told['tune.best_trial']} has log loss {told['tune.best_log_loss']:.6f}" in once.sentence()
    assert f"on {once.cascades} cascades" in once.sentence()
    assert once.sentence().endswith("; on so few cascades chance may have chosen")
    assert replace(once, cascades=100).sentence().endswith(")")


def test_two_searches_at_once_in_one_store_are_refused(tmp_path: Path) -> None:
    with (tmp_path / ".tuning.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another training is tuning.*wait until it has ended"):
            tune(case(), 1, tmp_path / "tuning.db")


def test_a_store_that_is_no_store_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "tuning.db").write_text("no database at all " * 100)
    with pytest.raises(InputError, match=r"cannot be read .*tuning\.db; move it away"):
        tune(case(), 1, tmp_path / "tuning.db")


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        tune(case(), 1, tmp_path / "file" / "tuning.db")


def test_settings_outside_their_ranges_are_all_named(tmp_path: Path) -> None:
    wide = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"rounds": 5000, "l2": 0.0})})
    with pytest.raises(InputError, match=r"`warning.rounds` must lie in 20 .. 500, was 5000; `warning.l2` must"):
        tune(replace(case(), config=wide), 1, tmp_path / "tuning.db")


def test_a_model_without_settings_is_refused(tmp_path: Path) -> None:
    line = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"kind": "line"})})
    with pytest.raises(InputError, match="a line has no settings to tune"):
        tune(replace(case(), config=line), 1, tmp_path / "tuning.db")
    with pytest.raises(InputError, match="without --pretrain"):
        tune(replace(case(), base=Trees((), "", ())), 1, tmp_path / "tuning.db")


def test_no_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`--tune` must be at least 1, was 0"):
        tune(case(), 0, tmp_path / "tuning.db")


def test_too_short_a_slice_is_refused_with_a_way_out(tmp_path: Path) -> None:
    many = CONFIG.model_copy(update={"warning": WARNING.model_copy(update={"folds": 12})})
    with pytest.raises(InputError, match=r"too short to tune in.*leave out --tune"):
        tune(replace(case(), config=many), 1, tmp_path / "tuning.db")


def test_too_few_cascades_to_judge_by_are_refused(tmp_path: Path) -> None:
    """The judged spans of the first slice keep their rows, but none of them is followed by a cascade."""
    quiet = pl.when(pl.col(Y) == 1).then(0).otherwise(pl.col(Y)).cast(pl.Int8).alias(Y)
    with pytest.raises(InputError, match="at least 5 cascades, the first training slice leaves 0"):
        tune(replace(case(), targets=case().targets.with_columns(quiet)), 1, tmp_path / "tuning.db")
