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

from models.calibration import sigmoid
from models.explain import (
    BASE,
    NO_REASON,
    contributions,
    explained,
    leading_intervals,
    reason_sentence,
    reasons,
    sentences,
    what_if,
)
from models.fitting import Recipe, TreeSettings, fit_line, fit_stack, fit_trees, grow, known_features
from models.metrics import average_precision_lift
from models.periods import HORIZONS_MIN, INTERVALS, TARGETS, by_horizon, count_events, periods, thin
from models.precedents import Precedent, nearest, precedents
from models.scorers import Line, Scorer, Stack, scorer_from_dict
from models.splits import Fit, walk_forward
from models.support import Support
from models.thresholds import budget_threshold
from models.warning import KEYS, PROBABILITIES, Limits, WarningModel, feature_names, fitted, labelled

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = ("A", "B", "C")
DAYS = 8
QUICK = TreeSettings(rounds=40, threads=1)
MINUTES = DAYS * 1440
EVENT_MIN = 10
REFRACTORY_MIN = 240
SEED = 7


def recipe(settings: TreeSettings = QUICK, seed: int = SEED, monotone: dict[str, int] | None = None) -> Recipe:
    return Recipe(settings, seed, monotone or {}, grow)


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
                pl.DataFrame(targets_of(onsets), schema_overrides=dict.fromkeys(TARGETS, pl.Int8))
            )
        )
    return pl.concat(matrices), pl.concat(targets)


FOLD = walk_forward(market()[0]["ts"], 1, 90, 60)[0]
FIT = Fit(FOLD.train, FOLD.calibrate, FOLD.threshold)


def model_of(
    matrix: pl.DataFrame, targets: pl.DataFrame, how: Recipe | None = None, scorer: Scorer | None = None
) -> WarningModel:
    """Trees on the train slice, unless another scorer is given, calibrated on the next."""
    rows = labelled(matrix, targets)
    train, calibrate = rows.filter(FIT.train.rows()), rows.filter(FIT.calibrate.rows())
    if scorer is None:
        scorer = fit_trees(train, known_features(train, feature_names(matrix)), how or recipe())
    dropped = tuple(name for name in feature_names(matrix) if train[name].null_count() == train.height)
    return fitted(scorer, train, calibrate, dropped=dropped, metadata={"seed": SEED})


@cache
def trained(planted: bool = True) -> WarningModel:
    return model_of(*market(planted))


@cache
def train_rows() -> pl.DataFrame:
    return labelled(*market()).filter(FIT.train.rows())


def lift_of(model: WarningModel, matrix: pl.DataFrame, targets: pl.DataFrame, horizon: int = 60) -> float:
    rows = matrix.join(targets, on=["symbol", "ts"]).filter(FOLD.test.rows() & pl.col(f"y_{horizon}m").is_not_null())
    scores = model.predict(rows)[f"p_{horizon}m"].to_numpy()
    lift = average_precision_lift(rows[f"y_{horizon}m"].cast(pl.Float64).to_numpy(), scores)
    assert lift is not None
    return lift


def test_a_planted_signal_is_found_on_every_horizon() -> None:
    assert lift_of(trained(), *market(), 60) > 3
    assert lift_of(trained(), *market(), 30) > 5
    assert lift_of(trained(), *market(), 15) > 8
    assert lift_of(trained(), *market(), 5) > 12


def test_noise_alone_scores_at_chance() -> None:
    assert 0.6 < lift_of(trained(planted=False), *market(planted=False)) < 1.6


def test_a_placebo_with_events_shifted_in_time_scores_at_chance() -> None:
    matrix, targets = market()
    shifted = targets.with_columns(pl.col(TARGETS).shift(617).over("symbol"))
    assert 0.5 < lift_of(model_of(matrix, shifted), matrix, shifted) < 1.7


def test_shuffled_targets_score_at_chance() -> None:
    matrix, targets = market()
    order = np.random.default_rng(3).permutation(targets.height)
    shuffled = targets.select("symbol", "ts").hstack(targets.select(TARGETS)[order])
    assert 0.8 < lift_of(model_of(matrix, shuffled), matrix, shuffled) < 1.25


def test_the_same_data_and_seed_give_the_same_bytes_whatever_the_order_of_rows_and_the_threads() -> None:
    matrix, targets = market()
    again = model_of(matrix.sample(fraction=1.0, shuffle=True, seed=1), targets.reverse())
    assert again.to_json() == trained().to_json()
    assert model_of(matrix, targets, recipe(replace(QUICK, threads=2))).to_json() == trained().to_json()
    assert model_of(matrix, targets, recipe(seed=8)).scorer != again.scorer


def test_rows_after_the_fit_change_nothing() -> None:
    matrix, targets = market()
    late = pl.col("ts") > FIT.calibrate.end
    spoiled = matrix.with_columns(pl.when(late).then(99.0).otherwise("signal").alias("signal"))
    flipped = targets.with_columns(pl.when(late).then(1 - pl.col("y_60m")).otherwise("y_60m").alias("y_60m"))
    assert model_of(spoiled, flipped).to_json() == trained().to_json()


def test_probabilities_are_near_the_frequencies_of_later_rows() -> None:
    """Thinning is undone: without the correction the mean probability would be about four times too high."""
    matrix, targets = market()
    rows = matrix.join(targets, on=["symbol", "ts"]).filter(FOLD.test.rows())
    for horizon in (15, 60, 240):
        known = rows.filter(pl.col(f"y_{horizon}m").is_not_null())
        found = trained().predict(known)
        assert found[f"p_{horizon}m"].mean() == pytest.approx(known[f"y_{horizon}m"].mean(), rel=0.4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-1e6, 1e6))] * 4), min_size=1, max_size=20))
def test_a_shorter_horizon_is_never_the_riskier_one(rows: list[tuple[float | None, ...]]) -> None:
    model = replace(trained(), limits=Limits(1.0, 1.0))
    matrix = with_keys(pl.DataFrame(rows, schema=dict.fromkeys(model.features, pl.Float64), orient="row"))
    for calibrators in (model.calibrators, model.calibrators[::-1]):
        found = replace(model, calibrators=calibrators).predict(matrix)
        p = found.select(PROBABILITIES).to_numpy()
        assert np.isfinite(p).all()
        assert (np.diff(p, axis=1) >= 0).all()
        assert ((p > 0) & (p <= 1)).all()


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 5), min_size=1, max_size=20))
def test_horizons_never_fall_and_equal_one_less_the_product_of_survivals(hazards: list[tuple[float, ...]]) -> None:
    h = np.array(hazards)
    p = by_horizon(h)
    assert (np.diff(p, axis=1) >= 0).all()
    assert p == pytest.approx(1 - np.cumprod(1 - h, axis=1), abs=1e-12)


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


def test_a_row_is_at_risk_only_while_nothing_happened_before() -> None:
    """Where y_15m is 1 (or unknown) a row is not at risk in (15, 30]: its y_30m must not matter there."""
    targets = market()[1]
    not_at_risk = pl.col("y_15m").fill_null(1) == 1
    spoiled = targets.with_columns(pl.when(not_at_risk).then(0).otherwise("y_30m").cast(pl.Int8).alias("y_30m"))
    place = INTERVALS.index("15_30")
    before, after = periods(targets).of(place), periods(spoiled).of(place)
    assert before.row.tolist() == after.row.tolist()
    assert before.happened.tolist() == after.happened.tolist()
    assert 0 < before.happened.sum() < len(before)


def test_thinning_keeps_every_event_row_and_its_correction_recovers_the_prevalence() -> None:
    """Per interval 3 event rows and 40 quiet ones, a quarter kept: 10. Odds 3/10, times 10/40: 3/40, the true odds."""
    y = [int(k in (5, 20, 41)) for k in range(43)]
    found = periods(pl.DataFrame(dict.fromkeys(TARGETS, y)))  # what happens within 5 min leaves nobody for later
    assert [len(found.of(k)) for k in range(5)] == [43, 40, 40, 40, 40]
    kept, shift = thin(found, 0.25, seed=1)
    first = kept.of(0)
    assert first.happened.sum() == 3
    assert len(first) == 13
    assert np.exp(np.log(3 / 10) + shift[0]) == pytest.approx(3 / 40)
    assert len(kept.of(1)) == 10
    assert shift == pytest.approx(np.log(0.25))


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_an_impossible_thinning_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        thin(periods(market()[1].head(50)), share, seed=1)


def test_trees_without_a_split_by_feature_predict_the_rate_of_each_interval() -> None:
    """Leaves larger than the data allow no split: the thinned odds, corrected, are the share of all that happened."""
    rows = train_rows()
    scorer = fit_trees(rows, ("signal", "walk"), recipe(replace(QUICK, leaf_rows_min=10**7)))
    found = periods(rows)
    happened, quiet = found.happened.sum(), (found.happened == 0).sum()
    odds = sigmoid(scorer.log_odds(np.zeros((1, 2))))[0]
    assert odds == pytest.approx(happened / (happened + quiet), rel=1e-3)
    assert scorer.importance.tolist() == [0.0, 0.0]
    model = fitted(scorer, rows, rows)
    assert model.share(np.array([[1.0, 0.0]])) == pytest.approx(0.5)


def test_the_model_abstains_where_what_it_rests_on_is_missing() -> None:
    rows = (
        market()[0]
        .head(4)
        .with_columns(pl.Series("signal", [None, 1.0, None, 2.0]), pl.lit(None, dtype=pl.Float64).alias("noise_1"))
    )
    found = trained().predict(rows)
    assert found["abstained"].to_list() == [True, False, True, False]
    assert found["abstain_reason"].to_list() == ["inputs missing", None] * 2
    for name in (*PROBABILITIES, "p_60m_low", "p_60m_high"):
        assert found[name].is_null().to_list() == [True, False, True, False]
    weight = dict(zip(trained().features, trained().importance, strict=True))
    assert weight["signal"] > 0.5
    assert found["missing_share"][0] >= weight["signal"] + weight["noise_1"] - 1e-9
    assert found["missing_share"][1] == pytest.approx(weight["noise_1"], abs=1e-9)


def test_the_model_abstains_where_its_inputs_have_left_what_the_training_saw() -> None:
    rows = market()[0].head(3).with_columns(pl.Series("signal", [0.0, 1e6, -1e6]))
    found = trained().predict(rows)
    assert found["abstain_reason"].to_list() == [None, *["inputs beyond what the training saw"] * 2]
    alone = market()[0].head(1).with_columns(pl.lit(1e6).alias("noise_2"))
    assert trained().predict(alone)["abstained"].to_list() == [False], "it hardly rests on that one"


def test_the_support_is_that_of_the_training_rows_widened() -> None:
    values = np.column_stack([np.arange(1001.0), np.full(1001, 5.0), np.full(1001, np.nan)])
    support = Support.fit(values)
    assert support.low[0] == pytest.approx(1 - 998)
    assert support.high[0] == pytest.approx(999 + 998)
    assert (support.low[1], support.high[1]) == (-1.0, 11.0)
    assert support.usual == (500.0, 5.0, 0.0)
    rows = np.array([[1998.0, 5.0, 1e300], [500.0, 12.0, np.nan]])
    assert support.outside(rows).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_the_band_holds_the_probability_and_is_wider_where_less_is_known() -> None:
    rows = market()[0].filter(FOLD.test.rows())
    found = trained().predict(rows)
    assert (found["p_60m_low"] <= found["p_60m_high"]).all()
    width = found.with_columns(width=pl.col("p_60m_high") - pl.col("p_60m_low")).sort("p_60m")["width"]
    assert width.tail(500).mean() > 2 * width.head(5000).mean()  # type: ignore[operator]


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
    assert found.columns[:8] == ["venue", "symbol", "ts", *PROBABILITIES]
    assert found.is_empty()


def test_a_monotone_feature_never_lowers_the_risk() -> None:
    model = model_of(*market(), recipe(monotone={"signal": 1, "absent": 1}))
    ladder = pl.DataFrame({"signal": np.linspace(-5, 9, 300), "noise_1": 0.0, "noise_2": 0.0, "walk": 0.0})
    p = model.predict(with_keys(ladder))["p_60m"]
    assert (p.diff().drop_nulls() >= 0).all()
    assert p.n_unique() > 5
    free = model_of(*market(), recipe(replace(QUICK, leaf_rows_min=1, leaves=31, rounds=100, l2=0.0))).predict(
        with_keys(ladder)
    )["p_60m"]
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
    renamed = json.loads(trained().to_json())
    renamed["scorer"]["features"] = ["noise_1", "signal", "noise_2", "walk"]
    with pytest.raises(ValueError, match="other features"):
        WarningModel.from_json(json.dumps(renamed))
    with pytest.raises(ValueError, match="kind must be one of trees, line, stack"):
        scorer_from_dict({"kind": "oracle"})


def test_training_refuses_what_it_cannot_learn_from() -> None:
    matrix, targets = market()
    quiet = labelled(matrix, targets.with_columns(pl.col(TARGETS) * 0)).filter(FIT.train.rows())
    for fit in (lambda: fit_trees(quiet, ("signal",), recipe()), lambda: fit_line(quiet, ("signal",), 1.0, {}, {})):
        with pytest.raises(ValueError, match="with and without an onset"):
            fit()
    with pytest.raises(ValueError, match="wholly null"):
        known_features(train_rows(), ("absent",))
    with pytest.raises(ValueError, match="one venue"):
        labelled(pl.concat([matrix, matrix.with_columns(venue=pl.lit("w"))]), targets)


# --- other scorers ---


@cache
def line() -> Line:
    return fit_line(train_rows(), ("signal", "noise_1", "walk"), 100.0, {"signal": 1}, {})


def test_a_line_finds_the_planted_signal_and_gives_noise_little_weight() -> None:
    model = model_of(*market(), scorer=line())
    assert lift_of(model, *market(), 60) > 3
    weight = dict(zip(line().features, line().weight, strict=True))
    assert weight["signal"] > 5 * abs(weight["noise_1"])
    assert model.to_json() == WarningModel.from_json(model.to_json()).to_json()


def test_a_line_equals_scikit_learns_logistic_regression() -> None:
    """The same loss on the same rows: C = 1 / l2, one level per interval without penalty (here: hardly any)."""
    from sklearn.linear_model import LogisticRegression

    rows = train_rows()
    ours = fit_line(rows, ("signal", "walk"), 30.0, {}, {})
    found = periods(rows)
    z = ours.z(rows.select("signal", "walk").to_numpy())[found.row]
    levels = np.eye(5)[found.interval] * 1e3  # a weight so cheap that its penalty is nothing
    theirs = LogisticRegression(C=1 / 30.0, fit_intercept=False, tol=1e-10, max_iter=5000)
    theirs.fit(np.column_stack([z, levels]), found.happened)
    assert ours.weight == pytest.approx(theirs.coef_[0, :2], abs=2e-3)
    assert ours.level == pytest.approx(theirs.coef_[0, 2:] * 1e3, abs=2e-2)


def test_a_feature_with_two_risky_tails_enters_a_line_by_its_distance_from_the_median() -> None:
    folded = fit_line(train_rows(), ("signal",), 1.0, {}, {"signal": "both"})
    centre = folded.centre[0]
    up, down = folded.log_odds(np.array([[centre + 1.0], [centre - 1.0]]))
    assert up == pytest.approx(down)


def test_a_bound_sign_holds_against_the_data() -> None:
    assert fit_line(train_rows(), ("signal",), 1.0, {"signal": -1}, {}).weight == (0.0,)


@cache
def stack() -> Stack:
    """The base knows the signal, from another market; the rest may be learned on top."""
    matrix, targets = market()
    base = fit_trees(labelled(matrix, targets).filter(FIT.train.rows()), ("signal",), recipe())
    return fit_stack(train_rows(), base, ("noise_1", "walk"), recipe(replace(QUICK, leaves=2, leaf_rows_min=500)))


def test_a_stack_keeps_what_its_base_knew() -> None:
    model = model_of(*market(), scorer=stack())
    assert stack().features == ("signal", "noise_1", "walk")
    assert lift_of(model, *market(), 60) > 3
    assert stack().importance[0] > 0.5
    again = scorer_from_dict(json.loads(json.dumps(stack().to_dict())))
    values = model.values(market()[0].head(50))
    assert np.array_equal(again.log_odds(values), stack().log_odds(values))


def test_few_events_learn_more_on_top_of_a_base_than_alone() -> None:
    """Two days, about a dozen cascades: trees alone find less of the signal than a base that saw six days of it."""
    matrix, targets = market()
    rows = labelled(matrix, targets)
    early, late = rows.filter(pl.col("ts") <= START + timedelta(days=4)), rows.filter(FIT.calibrate.rows())
    few = early.filter(pl.col("ts") > START + timedelta(days=3.2))
    base = fit_trees(early, ("signal",), recipe())
    names = ("noise_1", "noise_2", "walk")
    both = fit_stack(few, base, names, recipe(replace(QUICK, leaves=2, leaf_rows_min=500)))
    alone = fit_trees(few, ("signal", *names), recipe())
    lifts = [lift_of(fitted(scorer, few, late), matrix, targets) for scorer in (both, alone)]
    assert lifts[0] > lifts[1]


SCORERS = {"trees": lambda: trained().scorer, "line": line, "stack": stack}


@pytest.mark.parametrize("kind", SCORERS)
def test_contributions_sum_to_the_log_odds_of_every_interval(kind: str) -> None:
    scorer = SCORERS[kind]()
    values = market()[0].tail(200).select(scorer.features).to_numpy()
    total = scorer.log_odds(values)
    for interval in range(len(INTERVALS)):
        parts = scorer.contributions(values, interval)
        assert parts.shape == (200, len(scorer.features) + 1)
        assert parts.sum(axis=1) == pytest.approx(total[:, interval], abs=1e-6)


@pytest.mark.parametrize("kind", SCORERS)
def test_every_scorer_scores_a_row_alike_in_any_company(kind: str) -> None:
    scorer = SCORERS[kind]()
    values = market()[0].tail(60).select(scorer.features).to_numpy()
    together = scorer.log_odds(values)
    assert np.array_equal(together, np.concatenate([scorer.log_odds(values[k : k + 1]) for k in range(60)]))


def test_events_are_counted_once_per_run_and_symbol() -> None:
    rows = pl.DataFrame({"symbol": ["B", "B", "A", "A", "A"], "ts": [1, 2, 1, 2, 3], "y": [1, 1, 1, None, 1]})
    assert count_events(rows, "y") == 3


def test_contributions_of_families_sum_to_the_log_odds() -> None:
    rows = market()[0].tail(300)
    found = contributions(trained(), rows, {"signal": "one", "noise_1": "two", "noise_2": "two"}, 1)
    assert set(found["family"].unique()) == {"one", "two", "other", BASE}
    sums = found.group_by("symbol", "ts", maintain_order=True).agg(pl.col("log_odds").sum())
    log_odds = trained().scorer.log_odds(trained().values(rows))[:, 1]
    assert sums["log_odds"].to_numpy() == pytest.approx(log_odds, abs=1e-9)
    assert found.filter(pl.col("family") == "one")["log_odds"].std() > 0.5


def test_what_if_the_signal_were_as_usual() -> None:
    rows = market()[0].filter(pl.col("signal") > 4.0).head(5)
    found = what_if(trained(), rows, {"signal": "one", "noise_1": "two", "noise_2": "two", "walk": "two"})
    one, two = (found.filter(pl.col("family") == family) for family in ("one", "two"))
    assert one["p"].equals(trained().predict(rows)["p_60m"])
    assert (one["p_if_usual"] < 0.3 * one["p"]).all()
    assert (two["p_if_usual"] - two["p"]).abs().max() < (one["p"] - one["p_if_usual"]).min()  # type: ignore[operator]
    calm = rows.with_columns(pl.lit(trained().support.usual[0]).alias("signal"))
    assert one["p_if_usual"].equals(trained().predict(calm)["p_60m"])


PAST = (
    Precedent("A", "2025-01-01T10:00:00+00:00", {"one": 3.0, "two": 0.0}),
    Precedent("B", "2025-01-02T10:00:00+00:00", {"one": 0.0, "two": 3.0}),
)


def test_the_nearest_precedent_is_the_one_whose_families_added_alike() -> None:
    """(2.5, 0.4) is sqrt(.25 + .16) from A, (0, 2) is 1 from B."""
    keys = {"venue": "v", "symbol": ["S", "S", "T", "T"], "ts": [0, 0, 1, 1]}
    found = pl.DataFrame(keys | {"family": ["one", "two"] * 2, "log_odds": [2.5, 0.4, 0.0, 2.0]})
    like = nearest(found, PAST)
    assert like["like_symbol"].to_list() == ["A", "B"]
    assert like["distance"].to_list() == pytest.approx([0.41**0.5, 1.0])
    assert nearest(found, ()).is_empty()
    assert nearest(found.clear(), PAST).is_empty()


def test_a_precedent_keeps_its_own_onset_whatever_interval_explains_it() -> None:
    """Rows are explained interval by interval; that must not hand the onset of one cascade to another."""
    rows = labelled(*market()).filter(FIT.train.rows(), pl.col("y_60m") == 1)
    last = rows.filter(pl.col("y_5m") == 1).head(40)
    early = rows.filter(pl.col("y_30m") == 0).head(40)
    mixed = pl.concat([last, early]).sample(fraction=1.0, shuffle=True, seed=2).with_columns(onset="ts")
    assert np.unique(leading_intervals(trained(), mixed)).size > 1, "else nothing could be mixed up"
    found = explained(trained(), mixed, {"signal": "one"})
    assert found.select(KEYS).unique(maintain_order=True).equals(mixed.select(KEYS))
    for one, symbol, onset in zip(precedents(found, mixed), mixed["symbol"], mixed["onset"], strict=True):
        assert (one.symbol, one.onset) == (symbol, onset.isoformat())
    turned = precedents(found.reverse(), mixed)
    assert {(one.symbol, one.onset, one.log_odds["one"]) for one in turned} == {
        (one.symbol, one.onset, one.log_odds["one"]) for one in precedents(found, mixed)
    }


def test_a_reason_ends_with_the_episode_that_was_most_alike() -> None:
    rows = market()[0].filter(pl.col("signal") > 4.5).head(3)
    model = replace(trained(), precedents=(Precedent("A", "2025-01-01T10:00:00+00:00", {"thin_book": 3.0}),))
    told = reasons(model, rows, {"signal": "thin_book"})["reasons"]
    assert told.str.ends_with("; most like A of 2025-01-01 10:00Z").all()


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
    found = contributions(trained(), market()[0].head(2), {}, 0)
    with pytest.raises(ValueError, match="one row"):
        reason_sentence(found)
    assert sentences(found.clear()).is_empty()
    assert reasons(trained(), market()[0].head(0), {}).is_empty()
    assert explained(trained(), market()[0].head(0), {}).is_empty()


def test_a_threshold_from_the_calibration_slice_keeps_its_budget() -> None:
    rows = market()[0].filter(FIT.calibrate.rows())
    scores = trained().predict(rows).select("symbol", "ts", score="p_60m")
    days = (FIT.calibrate.end - FIT.calibrate.start) / timedelta(days=1)
    strict, loose = (budget_threshold(scores, days, budget, 60) for budget in (0.5, 4.0))
    assert loose < strict < 1
