"""The early-warning model on made-up markets: a planted signal is found, a placebo is not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import Calibrator
from models.explain import BASE, NO_REASON, contributions, reason_sentence, reasons, sentences
from models.metrics import average_precision_lift
from models.splits import Fit, walk_forward
from models.thresholds import budget_threshold
from models.warning import HORIZONS_MIN, WarningModel, WarningSettings, count_events, thin, train_warning

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("A", "B", "C")
DAYS = 8
QUICK = WarningSettings(rounds=30, threads=1)
MINUTES = DAYS * 1440
EVENT_MIN = 10
REFRACTORY_MIN = 240


def drawn_onsets(seed: int) -> np.ndarray:
    """About two onsets a day, at least EVENT_MIN + REFRACTORY_MIN apart."""
    gaps = np.random.default_rng(seed).integers(EVENT_MIN + REFRACTORY_MIN, 900, size=MINUTES // 250)
    onsets = np.cumsum(gaps)
    return onsets[onsets < MINUTES]


def targets_of(onsets: np.ndarray) -> dict[str, list[int | None]]:
    """1 before an onset within the horizon, null inside an event and its refractory time and where the end is near."""
    t = np.arange(MINUTES)
    following = np.append(onsets, MINUTES + 10**6)[np.searchsorted(onsets, t, side="right")]
    last = np.insert(onsets, 0, -(10**6))[np.searchsorted(onsets, t, side="right")]
    inside = t <= last + EVENT_MIN + REFRACTORY_MIN
    found = {}
    for horizon in HORIZONS_MIN:
        happens = following - t <= horizon
        unknown = inside | (~happens & (t + horizon >= MINUTES))
        found[f"y_{horizon}m"] = [None if u else int(h) for u, h in zip(unknown, happens, strict=True)]
    return found


@cache
def market(planted: bool = True) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Matrix and targets; `signal` rises over the hour before an onset where `planted`; nothing else tells."""
    matrices, targets = [], []
    for number, symbol in enumerate(SYMBOLS):
        rng, onsets = np.random.default_rng(number), drawn_onsets(100 + number)
        ts = pl.Series("ts", [START + timedelta(minutes=k) for k in range(MINUTES)], dtype=pl.Datetime("us", "UTC"))
        until = np.append(onsets, 10**6)[np.searchsorted(onsets, np.arange(MINUTES), side="right")] - np.arange(MINUTES)
        signal = rng.normal(size=MINUTES) + (4.0 * np.clip(1 - until / 60, 0, 1) if planted else 0.0)
        keys = pl.DataFrame({"venue": "v", "symbol": symbol, "ts": ts}).with_columns(known_at=pl.col("ts"))
        matrices.append(
            keys.with_columns(
                pl.Series("signal", signal),
                pl.Series("noise_1", rng.normal(size=MINUTES)),
                pl.Series("noise_2", np.where(rng.random(MINUTES) < 0.2, np.nan, rng.normal(size=MINUTES))).fill_nan(
                    None
                ),
                pl.Series("walk", np.cumsum(rng.normal(size=MINUTES)) / 30),
                pl.lit(None, dtype=pl.Float64).alias("absent"),
            )
        )
        targets.append(
            keys.select("symbol", "ts").with_columns(
                pl.DataFrame(targets_of(onsets), schema_overrides={"y_15m": pl.Int8, "y_60m": pl.Int8})
            )
        )
    return pl.concat(matrices), pl.concat(targets)


FOLD = walk_forward(market()[0]["ts"], 1, 90, 60)[0]
FIT = Fit(FOLD.train, FOLD.calibrate)


@cache
def trained(planted: bool = True) -> WarningModel:
    return train_warning(*market(planted), FIT, QUICK, 7)


def lift_of(model: WarningModel, matrix: pl.DataFrame, targets: pl.DataFrame, horizon: int = 60) -> float:
    rows = matrix.join(targets, on=["symbol", "ts"]).filter(FOLD.test.rows() & pl.col(f"y_{horizon}m").is_not_null())
    scores = model.predict(rows)[f"p_{horizon}m"].to_numpy()
    lift = average_precision_lift(rows[f"y_{horizon}m"].cast(pl.Float64).to_numpy(), scores)
    assert lift is not None
    return lift


def test_a_planted_signal_is_found_on_both_horizons() -> None:
    assert lift_of(trained(), *market(), 60) > 3
    assert lift_of(trained(), *market(), 15) > 8


def test_noise_alone_scores_at_chance() -> None:
    assert 0.6 < lift_of(trained(planted=False), *market(planted=False)) < 1.6


def test_a_placebo_with_events_shifted_in_time_scores_at_chance() -> None:
    matrix, targets = market()
    shifted = targets.with_columns(pl.col("y_15m", "y_60m").shift(617).over("symbol"))
    assert 0.5 < lift_of(train_warning(matrix, shifted, FIT, QUICK, 7), matrix, shifted) < 1.7


def test_shuffled_targets_score_at_chance() -> None:
    matrix, targets = market()
    order = np.random.default_rng(3).permutation(targets.height)
    shuffled = targets.select("symbol", "ts").hstack(targets.select("y_15m", "y_60m")[order])
    assert 0.8 < lift_of(train_warning(matrix, shuffled, FIT, QUICK, 7), matrix, shuffled) < 1.25


def test_the_same_data_and_seed_give_the_same_bytes_whatever_the_order_of_rows() -> None:
    matrix, targets = market()
    again = train_warning(matrix.sample(fraction=1.0, shuffle=True, seed=1), targets.reverse(), FIT, QUICK, 7)
    assert again.to_json() == trained().to_json()
    other_seed = train_warning(matrix, targets, FIT, QUICK, 8)
    assert other_seed.hazards != again.hazards


def test_rows_after_the_fit_change_nothing() -> None:
    matrix, targets = market()
    late = pl.col("ts") > FIT.calibrate.end
    spoiled = matrix.with_columns(pl.when(late).then(99.0).otherwise("signal").alias("signal"))
    flipped = targets.with_columns(pl.when(late).then(1 - pl.col("y_60m")).otherwise("y_60m").alias("y_60m"))
    assert train_warning(spoiled, flipped, FIT, QUICK, 7).to_json() == trained().to_json()


def test_probabilities_are_near_the_frequencies_of_later_rows() -> None:
    """Thinning is undone: without the correction the mean probability would be about four times too high."""
    matrix, targets = market()
    rows = matrix.join(targets, on=["symbol", "ts"]).filter(FOLD.test.rows() & pl.col("y_60m").is_not_null())
    found = trained().predict(rows)
    for name in ("15m", "60m"):
        assert found[f"p_{name}"].mean() == pytest.approx(rows[f"y_{name}"].mean(), rel=0.35)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-1e6, 1e6))] * 4), min_size=1, max_size=20))
def test_the_shorter_horizon_is_never_the_riskier_one(rows: list[tuple[float | None, ...]]) -> None:
    model = replace(trained(), missing_share_max=1.0)
    matrix = with_keys(pl.DataFrame(rows, schema=dict.fromkeys(model.features, pl.Float64), orient="row"))
    for hazards in (model.hazards, model.hazards[::-1]):  # turned round, the first hazard is the larger one
        found = replace(model, hazards=hazards).predict(matrix)
        assert found["p_15m"].null_count() == 0
        assert (found["p_15m"] <= found["p_60m"]).all()
        assert found["p_15m"].is_between(0, 1, closed="none").all()
        assert found["p_60m"].is_between(0, 1, closed="none").all()


def with_keys(features: pl.DataFrame) -> pl.DataFrame:
    ts = [START + timedelta(minutes=k) for k in range(features.height)]
    return features.with_columns(
        pl.lit("v").alias("venue"), pl.lit("A").alias("symbol"), pl.Series("ts", ts, dtype=pl.Datetime("us", "UTC"))
    )


def test_a_row_is_scored_alike_in_any_company() -> None:
    rows = market()[0].filter(FOLD.test.rows()).head(80)
    together = trained().predict(rows)
    alone = pl.concat([trained().predict(rows[k : k + 1]) for k in range(rows.height)])
    assert together.equals(alone)
    assert trained().predict(rows.reverse()).reverse().equals(together)
    assert together["p_60m"].n_unique() > 10


def test_the_second_hazard_is_conditional_on_none_before() -> None:
    """Where y_15m is 1 (or unknown) a row is not at risk in (15, 60]: its y_60m must not matter."""
    matrix, targets = market()
    not_at_risk = pl.col("y_15m").fill_null(1) == 1
    spoiled = targets.with_columns(pl.when(not_at_risk).then(0).otherwise("y_60m").cast(pl.Int8).alias("y_60m"))
    assert train_warning(matrix, spoiled, FIT, QUICK, 7).hazards == trained().hazards


def test_thinning_keeps_every_event_row_and_its_correction_recovers_the_prevalence() -> None:
    """3 event rows, 40 quiet ones, a quarter kept: 10. Odds 3/10, times 10/40: 3/40, the true odds."""
    happened = np.zeros(43)
    happened[[5, 20, 41]] = 1
    kept, shift = thin(happened, 0.25, seed=1)
    assert happened[kept].sum() == 3
    assert kept.size == 13
    assert np.all(np.diff(kept) > 0)
    assert np.exp(np.log(3 / 10) + shift) == pytest.approx(3 / 40)


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_an_impossible_thinning_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        thin(np.zeros(5), share, seed=1)


def test_trees_without_a_split_predict_the_prevalence() -> None:
    """Leaves larger than the data allow no split: the thinned odds, corrected, must be the prevalence itself."""
    matrix, targets = market()
    model = train_warning(matrix, targets, FIT, replace(QUICK, leaf_rows_min=10**6), 7)
    raw = replace(model.hazards[0], calibrator=Calibrator("none"))
    train = targets.filter(FIT.train.rows() & pl.col("y_15m").is_not_null())
    assert raw.probability(model.values(matrix.head(3))) == pytest.approx(train["y_15m"].mean(), rel=1e-6)
    assert model.importance == (0.0,) * 4
    assert model.missing_share(np.array([[np.nan, 1.0, 1.0, 1.0]])) == pytest.approx(0.25)


def test_the_model_abstains_where_what_it_rests_on_is_missing() -> None:
    rows = (
        market()[0]
        .head(4)
        .with_columns(pl.Series("signal", [None, 1.0, None, 2.0]), pl.lit(None, dtype=pl.Float64).alias("noise_1"))
    )
    found = trained().predict(rows)
    assert found["abstained"].to_list() == [True, False, True, False]
    assert found["p_15m"].is_null().to_list() == found["p_60m"].is_null().to_list() == [True, False, True, False]
    weight = dict(zip(trained().features, trained().importance, strict=True))
    assert weight["signal"] > 0.5
    assert found["missing_share"][0] >= weight["signal"] + weight["noise_1"] - 1e-9
    assert 0 < found["missing_share"][1] < 0.5


def test_nan_counts_as_missing() -> None:
    rows = market()[0].head(1).with_columns(pl.lit(float("nan")).alias("signal"))
    assert trained().predict(rows)["abstained"].to_list() == [True]


def test_columns_are_matched_by_name() -> None:
    rows = market()[0].head(50)
    turned = rows.select(*reversed(rows.columns), pl.lit(1.0).alias("another"))
    assert trained().predict(turned).equals(trained().predict(rows))
    with pytest.raises(ValueError, match="lacked noise_1, walk"):
        trained().predict(rows.drop("walk", "noise_1"))


def test_wholly_null_columns_are_dropped_and_recorded() -> None:
    assert trained().dropped == ("absent",)
    assert trained().features == ("signal", "noise_1", "noise_2", "walk")


def test_no_rows_give_no_rows() -> None:
    found = trained().predict(market()[0].head(0))
    assert found.columns == ["venue", "symbol", "ts", "p_15m", "p_60m", "missing_share", "abstained"]
    assert found.is_empty()


def test_a_monotone_feature_never_lowers_the_risk() -> None:
    model = train_warning(*market(), FIT, QUICK, 7, monotone={"signal": 1, "absent": 1})
    ladder = pl.DataFrame({"signal": np.linspace(-5, 9, 300), "noise_1": 0.0, "noise_2": 0.0, "walk": 0.0})
    p = model.predict(with_keys(ladder))["p_60m"]
    assert (p.diff().drop_nulls() >= 0).all()
    assert p.n_unique() > 5
    free = train_warning(*market(), FIT, replace(QUICK, leaf_rows_min=5), 7).predict(with_keys(ladder))["p_60m"]
    assert (free.diff().drop_nulls() < 0).any(), "the constraint must have something to do"


def test_json_carries_everything() -> None:
    model = trained().with_threshold(0.123456789)
    text = model.to_json()
    again = WarningModel.from_json(text)
    assert again.to_json() == text
    assert again.threshold == 0.123456789
    rows = market()[0].tail(500)
    assert again.predict(rows).equals(model.predict(rows))
    assert json.loads(text)["metadata"]["seed"] == 7


def test_a_foreign_json_is_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        WarningModel.from_json("{}")
    renamed = json.loads(trained().to_json()) | {"features": ["noise_1", "signal", "noise_2", "walk"]}
    with pytest.raises(ValueError, match="other features"):
        WarningModel.from_json(json.dumps(renamed))


def test_training_refuses_what_it_cannot_learn_from() -> None:
    matrix, targets = market()
    quiet = targets.with_columns(pl.col("y_15m", "y_60m") * 0)
    with pytest.raises(ValueError, match="with and without an onset"):
        train_warning(matrix, quiet, FIT, QUICK, 7)
    with pytest.raises(ValueError, match="wholly null"):
        train_warning(matrix.select("venue", "symbol", "ts", "absent"), targets, FIT, QUICK, 7)
    early = matrix.filter(pl.col("ts") <= FIT.train.end)
    with pytest.raises(ValueError, match="calibrate slice"):
        train_warning(early, targets, FIT, QUICK, 7)


def test_events_are_counted_once_per_run_and_symbol() -> None:
    rows = pl.DataFrame({"symbol": ["B", "B", "A", "A", "A"], "ts": [1, 2, 1, 2, 3], "y": [1, 1, 1, None, 1]})
    assert count_events(rows, "y") == 3


def test_contributions_sum_to_the_log_odds() -> None:
    rows = market()[0].tail(300)
    found = contributions(trained(), rows, {"signal": "one", "noise_1": "two", "noise_2": "two"})
    assert set(found["family"].unique()) == {"one", "two", "other", BASE}
    values = trained().values(rows)
    for hazard in trained().hazards:
        sums = (
            found.filter(pl.col("interval") == hazard.interval)
            .group_by("symbol", "ts", maintain_order=True)
            .agg(pl.col("log_odds").sum())
        )
        assert sums["log_odds"].to_numpy() == pytest.approx(hazard.log_odds(values), abs=1e-9)
    assert found.filter(pl.col("family") == "one")["log_odds"].std() > 0.5


def test_the_reason_names_the_family_and_feature_that_was_planted() -> None:
    rows = market()[0].filter(pl.col("signal") > 4.5).head(20)
    found = reasons(trained(), rows, {"signal": "thin_book", "noise_1": "crowding"})
    assert found["lead_family"].to_list() == ["thin_book"] * 20
    first = f"(signal = {rows['signal'].round_sig_figs(3)[0]})"
    assert first in found["reasons"][0]
    assert found["reasons"].str.starts_with("thin_book +").all()


ONE = {"venue": "v", "symbol": "A", "ts": 0, "interval": "0_15"}
REASONS = [
    ([("a", 0.04, "x", 0.04, 1.0)], NO_REASON),
    ([("a", -3.0, "x", 1.0, 1.0)], NO_REASON),
    ([("base", 9.0, "base", 9.0, None)], NO_REASON),
    ([("a", 0.5, "x", 0.5, None)], "a +0.5 (x missing)"),
    ([("a", 0.5, "x", 0.2, 1.0), ("b", 0.7, "y", 0.1, 2.0)], "b +0.7, a +0.5 (x = 1.0)"),
    ([(name, size, "x", size, 1234.5678) for name, size in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 2.04))],
     "d +2.0 (x = 1230.0), c +0.3, b +0.2"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "expected"), REASONS)
def test_reasons_read_as_written_by_hand(
    rows: list[tuple[str, float, str, float, float | None]], expected: str
) -> None:
    names = ("family", "log_odds", "feature", "feature_log_odds", "value")
    frame = pl.DataFrame(
        [ONE | dict(zip(names, row, strict=True)) for row in rows], schema_overrides={"value": pl.Float64}
    )
    assert reason_sentence(frame) == expected


def test_a_sentence_speaks_of_one_row() -> None:
    found = contributions(trained(), market()[0].head(2), {})
    with pytest.raises(ValueError, match="one row"):
        reason_sentence(found)
    assert sentences(found.clear()).is_empty()
    assert reasons(trained(), market()[0].head(0), {}).is_empty()


def test_a_threshold_from_the_calibration_slice_keeps_its_budget() -> None:
    rows = market()[0].filter(FIT.calibrate.rows())
    scores = trained().predict(rows).select("symbol", "ts", score="p_60m")
    days = (FIT.calibrate.end - FIT.calibrate.start) / timedelta(days=1)
    strict, loose = (budget_threshold(scores, days, budget, 60) for budget in (0.5, 4.0))
    assert loose < strict < 1
