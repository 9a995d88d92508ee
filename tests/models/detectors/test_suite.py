"""Every detector of the suite: one scale, one direction, one row at a time."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import fit_detector
from models.detectors.ecod import Ecod
from models.detectors.ensemble import MEMBERS, Ensemble
from models.detectors.settings import Settings
from models.detectors.suite import DETECTORS, Fitted
from tests.models.detectors.worlds import FAMILY_OF, HARMLESS, NAMES, T0, TAILS, fitted, heavy, iid, opposed, table

KINDS = tuple(DETECTORS)
SEEN, UNSEEN = 2.0, 1.3  # p of 1 % and of 5 %
BLIND = pl.lit(None, dtype=pl.Float64)


@pytest.fixture(scope="module")
def suite() -> dict[str, Fitted]:
    reference = iid(3_000, seed=1)
    return {kind: fitted(kind, reference) for kind in KINDS}


def surprise(detector: Fitted, matrix: pl.DataFrame) -> pl.Series:
    return detector.score(matrix)["surprise"]


def at_rest(*raised: tuple[str, float]) -> pl.DataFrame:
    """One row of S0 with every feature at 0 but for those named."""
    row = np.zeros((1, len(NAMES)))
    for name, value in raised:
        row[0, NAMES.index(name)] = value
    return table({"S0": row})


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_scores_the_same_alone_and_in_any_company(suite: dict[str, Fitted], kind: str) -> None:
    matrix = iid(61, seed=2).with_columns(pl.when(pl.col("gap") > 1).then("gap").alias("gap"))
    whole = suite[kind].score(matrix)
    alone = pl.concat([suite[kind].score(matrix[i : i + 1]) for i in range(matrix.height)])
    assert whole.equals(alone)
    assert suite[kind].score(matrix[::-1])[::-1].equals(whole)
    assert suite[kind].score(matrix[7:90]).equals(whole[7:90])
    assert whole["surprise"].is_not_null().all()
    assert whole["surprise"].n_unique() > 100


@pytest.mark.parametrize("kind", KINDS)
def test_forty_features_are_summed_in_one_order_however_many_rows_there_are(kind: str) -> None:
    """Sums of numpy along a row are cut in eight for one row, and run column by column for many."""
    z = np.asfortranarray(np.random.default_rng(16).normal(size=(300, 40)))
    core = DETECTORS[kind].fit(z, ("f",) * 20 + ("g",) * 20, Settings(trees=10))
    alone = [core.score(z[i : i + 1]).item() for i in range(300)]
    assert core.score(z).tolist() == core.score(np.ascontiguousarray(z)).tolist() == alone


def test_an_ecod_fitted_on_the_rows_it_scores_depends_on_its_batch(suite: dict[str, Fitted]) -> None:
    z = suite["ecod"].inputs.turned(iid(60, seed=2))
    families = suite["ecod"].inputs.families
    whole, half = (Ecod.fit(rows, families, Settings()).score(rows)[:90] for rows in (z, z[:90]))
    assert (np.abs(whole - half) > 0.01).mean() > 0.9
    assert (suite["ecod"].core.score(z)[:90] == suite["ecod"].core.score(z[:90])).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HARMLESS)
def test_no_score_rises_as_a_feature_turns_safer(suite: dict[str, Fitted], kind: str, name: str) -> None:
    stressed = heavy(300, seed=3)
    before = suite[kind].raw(stressed)
    for step in (0.3, 3.0, 300.0):
        after = suite[kind].raw(stressed.with_columns(pl.col(name) + HARMLESS[name] * step))
        assert (after <= before * (1 + 1e-12)).all()
    assert (after < before).any()


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.lists(st.lists(st.floats(-20, 20), min_size=6, max_size=6), min_size=1, max_size=20),
    safer=st.lists(st.floats(0, 40), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_no_score_rises_as_several_features_turn_safer_at_once(
    suite: dict[str, Fitted], kind: str, rows: list[list[float]], safer: list[float]
) -> None:
    z = np.array(rows)
    core = suite[kind].core
    assert (core.score(z - np.array(safer)) <= core.score(z) * (1 + 1e-12) + 1e-9).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"robust_z", "ecod", "ensemble"}])
def test_an_unusually_deep_book_scores_as_a_usual_one(suite: dict[str, Fitted], kind: str) -> None:
    usual, deep = at_rest(("lever", 2.5)), at_rest(("lever", 2.5), ("thin", 50.0))
    median = suite[kind].inputs.median[NAMES.index("thin")][0]
    assert median is not None
    assert (suite[kind].raw(usual.with_columns(thin=pl.lit(median))) == suite[kind].raw(deep)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_never_raises_a_score(suite: dict[str, Fitted], kind: str) -> None:
    stressed = heavy(200, seed=4)
    before = suite[kind].raw(stressed)
    for name in NAMES:
        after = suite[kind].raw(stressed.with_columns(BLIND.alias(name)))
        assert (after <= before * (1 + 1e-12)).all()
    assert (after < before).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_which_less_than_half_is_known_has_no_score(suite: dict[str, Fitted], kind: str) -> None:
    matrix = iid(5, seed=5)
    half = matrix.with_columns(BLIND.alias(name) for name in NAMES[:3])
    less = matrix.with_columns(BLIND.alias(name) for name in NAMES[:4])
    assert surprise(suite[kind], half).null_count() == 0
    scores = suite[kind].score(less)
    assert scores["surprise"].null_count() == scores["raw"].null_count() == less.height
    assert scores["ts"].null_count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_symbol_that_the_reference_did_not_hold_has_no_score(suite: dict[str, Fitted], kind: str) -> None:
    both = pl.concat([iid(4, seed=6, symbols=1), iid(4, seed=6, symbols=1).with_columns(symbol=pl.lit("stranger"))])
    assert surprise(suite[kind], both).is_null().to_list() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_rows(suite: dict[str, Fitted], kind: str) -> None:
    assert suite[kind].score(iid(5, seed=1).clear()).height == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [iid, heavy], ids=["independent", "autocorrelated with heavy tails"])
def test_one_fresh_row_in_a_hundred_has_a_surprise_of_two(kind: str, world: object) -> None:
    """Between 0.6 and 1.6 % where the reference held 24,000 rows; between 7 and 13 % have one of 1."""
    said = surprise(fitted(kind, world(8_000, seed=7)), world(16_000, seed=8))  # type: ignore[operator]
    assert 0.006 < (said >= 2).mean() < 0.016
    assert 0.07 < (said >= 1).mean() < 0.13


def test_a_joint_anomaly_that_no_feature_shows_is_seen_by_those_who_know_what_goes_together() -> None:
    reference = opposed(5_000, seed=9)
    both = at_rest(("burst", 2.0), ("pull", 2.0))
    said = {kind: surprise(fitted(kind, reference), both).item() for kind in MEMBERS}
    alone = {
        kind: surprise(fitted(kind, reference), at_rest(("burst", 2.0), ("pull", -2.0))).item() for kind in MEMBERS
    }
    assert min(said["mahalanobis"], said["pca_residual"]) > SEEN
    assert said["robust_z"] < UNSEEN
    assert max(alone["mahalanobis"], alone["pca_residual"]) < SEEN


def test_an_anomaly_of_one_feature_is_seen_by_those_who_look_at_each() -> None:
    reference = opposed(5_000, seed=9)
    said = {kind: surprise(fitted(kind, reference), at_rest(("gap", 5.0))).item() for kind in MEMBERS}
    assert min(said["robust_z"], said["ecod"]) > SEEN


def test_robust_z_says_what_the_detector_of_scoring_says() -> None:
    reference, fresh = iid(2_000, seed=10), iid(500, seed=11)
    scoring = fit_detector(
        reference, FAMILY_OF, TAILS, null_share_max=0.5, budget_per_symbol_day=0.5, refractory_min=60
    )
    theirs = scoring.score(fresh).filter(pl.col("symbol") != "*").sort("symbol", "ts")["anomaly"]
    ours = fitted("robust_z", reference).score(fresh).sort("symbol", "ts")["surprise"]
    assert np.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert ours.max() > 2


@pytest.mark.parametrize("kind", KINDS)
def test_json_keeps_every_digit(suite: dict[str, Fitted], kind: str) -> None:
    again = Fitted.from_json(suite[kind].to_json())
    assert again == suite[kind]
    assert again.to_json() == suite[kind].to_json()
    assert type(again.core).from_json(again.core.to_json()) == suite[kind].core
    matrix = iid(40, seed=12)
    assert again.score(matrix).equals(suite[kind].score(matrix))


def test_another_format_is_refused(suite: dict[str, Fitted]) -> None:
    stored = json.loads(suite["ecod"].to_json()) | {"format": 2}
    with pytest.raises(ValueError, match="detector must be in format 1, was 2"):
        Fitted.from_json(json.dumps(stored))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_byte(kind: str) -> None:
    """A covariance by BLAS did: its sums are cut by the number of threads (for 100 columns, not for 120)."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(13)
    wide = rng.normal(size=(1_000, 100))
    texts = set()
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            core = DETECTORS[kind].fit(wide, ("f",) * 100, Settings(trees=10, threads=threads))
        texts.add(core.to_json())
    assert len(texts) == 1


def test_the_seed_changes_the_forest_and_nothing_else(suite: dict[str, Fitted]) -> None:
    reference = iid(3_000, seed=1)
    for kind in MEMBERS:
        other = fitted(kind, reference, settings=Settings(seed=1))
        assert (other == suite[kind]) == (kind != "isolation_forest")


def test_what_the_ensemble_says_is_made_of_what_its_members_say(suite: dict[str, Fitted]) -> None:
    matrix = iid(200, seed=14)
    members = np.column_stack([surprise(suite[kind], matrix) for kind in MEMBERS])
    assert np.allclose(suite["ensemble"].raw(matrix), members.mean(axis=1), rtol=0, atol=1e-12)
    highest = fitted("ensemble", iid(3_000, seed=1), settings=Settings(combine="max"))
    assert (highest.raw(matrix) == members.max(axis=1)).all()
    assert isinstance(highest.core, Ensemble)


def test_a_feature_without_a_tail_or_without_values_is_not_used() -> None:
    reference = iid(500, seed=15).with_columns(BLIND.alias("gap"), clock=pl.col("lever"))
    detector = fitted("ecod", reference)
    assert detector.inputs.features == ("burst", "pull", "thin", "lever", "tilt")
    assert detector.reference == "2025-01-01T00:01Z..2025-01-01T08:20Z"
    assert detector.score(reference)["ts"].min() > T0


def test_what_cannot_be_fitted_or_scored_is_refused_by_name(suite: dict[str, Fitted]) -> None:
    reference = iid(10, seed=1)
    with pytest.raises(ValueError, match="kind must be one of robust_z, isolation_forest, ecod"):
        fitted("oracle", reference)
    with pytest.raises(ValueError, match="lacks thin"):
        suite["ecod"].score(reference.drop("thin"))
    with pytest.raises(ValueError, match="at least one feature with values"):
        fitted("ecod", reference.with_columns(BLIND.alias(name) for name in NAMES))
    with pytest.raises(ValueError, match="at least one feature with values"):
        fitted("ecod", reference.clear())
    with pytest.raises(ValueError, match="trees must be at least 1, was 0; combine must be mean or max, was sum"):
        Settings(trees=0, combine="sum")
