"""The detector: what is learned, what is only scored, and that a row never depends on its company."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import FAMILIES, KINDS, Detector, fit_detector
from models.detectors.tails import SURPRISE_MAX, Tail
from models.thresholds import episodes

FAMILY_OF = {"burst": "cancels", "thin": "thin_book", "tilt": "crowding"}
TAILS = {"burst": "high", "thin": "low", "tilt": "both"}
SYMBOLS = ("A", "B", "C")
T0 = datetime(2025, 1, 1, tzinfo=UTC)


def quiet(minutes: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    stamps = [T0 + timedelta(minutes=i + 1) for i in range(minutes)]
    frames = [
        pl.DataFrame(
            {"venue": "v", "symbol": symbol, "ts": stamps, "known_at": stamps}
            | {name: rng.normal(level, 2.0, minutes) for level, name in enumerate(FAMILY_OF)},
            schema_overrides={"ts": pl.Datetime("us", "UTC"), "known_at": pl.Datetime("us", "UTC")},
        )
        for symbol in SYMBOLS
    ]
    return pl.concat(frames)


def fit(reference: pl.DataFrame) -> Detector:
    return fit_detector(
        reference, FAMILY_OF, TAILS, null_share_max=0.5, budget_per_symbol_day=0.5, refractory_min=60
    )  # fmt: skip


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit(quiet(720, seed=1))


def shifted(frame: pl.DataFrame, name: str, by: float, symbol: str = "A") -> pl.DataFrame:
    moved = pl.when(pl.col("symbol") == symbol).then(pl.col(name) + by).otherwise(pl.col(name))
    return frame.with_columns(moved.alias(name))


def anomaly(detector: Detector, frame: pl.DataFrame, symbol: str = "A") -> pl.Series:
    return detector.score(frame).filter(pl.col("symbol") == symbol)["anomaly"]


@pytest.mark.parametrize(("name", "risky"), [("burst", 20.0), ("thin", -20.0), ("tilt", 20.0), ("tilt", -20.0)])
def test_the_risky_tail_of_every_feature_is_found(detector: Detector, name: str, risky: float) -> None:
    frame = quiet(30, seed=2)
    assert anomaly(detector, shifted(frame, name, risky)).min() > detector.threshold
    assert detector.score(shifted(frame, name, risky)).filter("alert", symbol="A").height == 30


@pytest.mark.parametrize(("name", "harmless"), [("burst", -20.0), ("thin", 20.0)])
def test_the_other_tail_is_no_risk(detector: Detector, name: str, harmless: float) -> None:
    frame = quiet(200, seed=3)
    calm, deep = anomaly(detector, frame), anomaly(detector, shifted(frame, name, harmless))
    assert (deep <= calm + 1e-9).all()


def test_the_threshold_keeps_the_reference_within_its_budget(detector: Detector) -> None:
    """Half a day of three symbols at 0.5 per symbol-day allows 0.75 episodes: none."""
    scores = detector.score(quiet(720, seed=1)).filter(pl.col("symbol") != "*")
    assert episodes(scores.filter("alert"), 60).height == 0
    assert scores["anomaly"].max() > 0


def test_surprise_is_honest_on_fresh_quiet_data(detector: Detector) -> None:
    """An anomaly above 2 should come in about one row of a hundred."""
    fresh = detector.score(quiet(5_000, seed=4)).filter(pl.col("symbol") != "*")["anomaly"]
    assert 0.003 < (fresh > 2).mean() < 0.03


def test_a_row_scores_the_same_alone_and_in_company(detector: Detector) -> None:
    frame = quiet(60, seed=5)
    together = detector.score(frame).filter(pl.col("symbol") != "*")
    apart = pl.concat(
        [detector.score(frame[i : i + 1]).filter(pl.col("symbol") != "*") for i in range(frame.height)]
    ).sort("symbol", "ts")
    assert together.equals(apart)


def test_many_symbols_at_once_raise_the_venue_more_than_one(detector: Detector) -> None:
    frame = quiet(20, seed=6)
    one = shifted(frame, "burst", 12.0)
    everyone = shifted(shifted(one, "burst", 12.0, "B"), "burst", 12.0, "C")
    venue = [detector.score(f).filter(pl.col("symbol") == "*")["anomaly"].mean() for f in (frame, one, everyone)]
    assert venue[0] < venue[1] < venue[2]


def test_a_null_feature_adds_nothing_and_all_null_has_no_score(detector: Detector) -> None:
    frame = quiet(10, seed=7)
    blind = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in FAMILY_OF)
    assert anomaly(detector, blind).null_count() == 10
    without = anomaly(detector, frame.with_columns(burst=pl.lit(None, dtype=pl.Float64)))
    assert (without <= anomaly(detector, frame)).all()


def test_a_symbol_that_the_reference_did_not_hold_has_no_score(detector: Detector) -> None:
    stranger = quiet(5, seed=8).filter(pl.col("symbol") == "A").with_columns(symbol=pl.lit("Z"))
    assert anomaly(detector, stranger, "Z").null_count() == 5


def test_features_without_data_in_the_reference_are_left_out_and_named() -> None:
    reference = quiet(720, seed=1).with_columns(thin=pl.lit(None, dtype=pl.Float64))
    found = fit(reference)
    assert found.unused == ("thin",)
    assert [norm.name for norm in found.norms] == ["burst", "tilt"]


def test_a_reference_without_any_feature_is_refused() -> None:
    empty = quiet(10, seed=1).with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in FAMILY_OF)
    with pytest.raises(ValueError, match="at least one feature with values"):
        fit(empty)


def test_a_matrix_without_a_feature_is_refused_by_name(detector: Detector) -> None:
    with pytest.raises(ValueError, match="lacks thin"):
        detector.score(quiet(5, seed=1).drop("thin"))


def test_json_keeps_every_digit(detector: Detector) -> None:
    again = Detector.from_json(detector.to_json())
    assert again == detector
    frame = quiet(50, seed=9)
    assert again.score(frame).equals(detector.score(frame))


def test_what_comes_after_the_reference_cannot_change_it() -> None:
    """The same reference rows give the same detector; nothing else is an argument."""
    assert fit(quiet(720, seed=1)).to_json() == fit(quiet(720, seed=1)).to_json()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20)
)
def test_surprise_never_falls_as_the_value_rises(sample: list[float], values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    surprise = Tail.fit(np.array(sample)).surprise(ordered)
    assert (np.diff(surprise) >= -1e-12).all()
    assert ((surprise >= 0) & (surprise <= SURPRISE_MAX)).all()


def test_a_counter_at_rest_has_no_surprise() -> None:
    """95 % zeros: P(X >= 0) = 1, so a zero says nothing. Interpolating to the upper end of the tie said 0.5."""
    assert Tail.fit(np.array([0.0] * 95 + [3.0] * 5)).surprise(np.array([0.0])).tolist() == [0.0]


# --- other judges ---


def judged_by(kind: str, reference: pl.DataFrame) -> Detector:
    return fit_detector(
        reference, FAMILY_OF, TAILS, null_share_max=0.5, budget_per_symbol_day=0.5, refractory_min=60, kind=kind, seed=3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_judges_a_row_far_in_the_risky_tails_is_an_anomaly_and_its_mirror_is_none(kind: str) -> None:
    judged = judged_by(kind, quiet(720, seed=1))
    frame = quiet(30, seed=2)
    risky = shifted(shifted(frame, "burst", 20.0), "thin", -20.0)
    calm = shifted(shifted(frame, "burst", -20.0), "thin", 20.0)
    assert anomaly(judged, risky).min() > judged.threshold
    assert anomaly(judged, calm).max() < judged.threshold


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_judges_the_venue_is_alarmed_by_all_symbols_at_once_more_than_by_one(kind: str) -> None:
    judged = judged_by(kind, quiet(720, seed=1))
    frame = quiet(30, seed=2)
    one = shifted(frame, "burst", 20.0)
    everything = shifted(shifted(one, "burst", 20.0, "B"), "burst", 20.0, "C")
    assert (anomaly(judged, everything, "*") > anomaly(judged, one, "*")).all()
    assert anomaly(judged, everything, "*").min() > judged.venue_threshold


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_judges_a_stored_detector_says_the_same_of_a_row_in_any_company(kind: str) -> None:
    judged = judged_by(kind, quiet(720, seed=1))
    again = Detector.from_json(judged.to_json())
    assert again == judged
    frame = shifted(quiet(20, seed=4), "tilt", 9.0)
    together = again.score(frame).filter(pl.col("symbol") == "A")
    alone = [again.score(frame[row : row + 1]).filter(pl.col("symbol") == "A") for row in range(20)]
    assert pl.concat(alone).equals(together)


def test_reasons_come_from_families_whoever_judges() -> None:
    frame = shifted(quiet(20, seed=4), "burst", 20.0)
    other = judged_by("mahalanobis", quiet(720, seed=1)).score(frame)
    own = judged_by(FAMILIES, quiet(720, seed=1)).score(frame)
    families = [name for name in own.columns if name.startswith(("family_", "lead_"))]
    own, other = (told.filter(pl.col("symbol") != "*") for told in (own, other))
    assert other.select(families).equals(own.select(families))
    assert not other["anomaly"].equals(own["anomaly"])


def test_an_unknown_judge_is_named() -> None:
    with pytest.raises(ValueError, match="ensemble, was oracle"):
        judged_by("oracle", quiet(60, seed=1))
