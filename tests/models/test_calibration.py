"""Calibrated probabilities are frequencies, keep the order of scores, and are never certain."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from models.calibration import EVENTS_FOR_ISOTONIC, Calibrator, fit_calibrator, logit, sigmoid
from models.metrics import log_loss

scores = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=2, max_size=60)
kinds = st.sampled_from([5, EVENTS_FOR_ISOTONIC])


def drawn(slope: float, offset: float, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Raw probabilities whose true log-odds are slope * logit(raw) + offset."""
    rng = np.random.default_rng(5)
    raw = sigmoid(rng.normal(-2.0, 1.0, rows))
    return raw, (rng.random(rows) < sigmoid(slope * logit(raw) + offset)).astype(np.float64)


def split(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    raw, happened = zip(*rows, strict=True)
    return np.array(raw), np.array(happened, dtype=np.float64)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, -1.0), (2.0, 1.0)])
def test_platt_recovers_the_curve_that_was_planted(slope: float, offset: float) -> None:
    found = fit_calibrator(*drawn(slope, offset), n_events=EVENTS_FOR_ISOTONIC - 1)
    assert found.kind == "platt"
    assert found.y == pytest.approx((slope, offset), abs=0.2)


def test_few_events_move_the_model_less_than_many() -> None:
    """The same rows told by 1, 5 and 50 events: from what the model says by itself, (1, 0), towards (0.5, -1)."""
    rows = drawn(0.5, -1.0)
    slopes, offsets = zip(*(fit_calibrator(*rows, n_events=count).y for count in (1, 5, 50)), strict=True)
    assert 1 > slopes[0] > slopes[1] > slopes[2] > 0.5
    assert 0 > offsets[0] > offsets[1] > offsets[2] > -1
    assert slopes[0] > 0.8
    assert slopes[2] < 0.6


@pytest.mark.parametrize("n_events", [20, EVENTS_FOR_ISOTONIC])
def test_calibration_beats_overconfident_raw_scores(n_events: int) -> None:
    raw, happened = drawn(0.4, -1.0)
    mapped = fit_calibrator(raw[:10_000], happened[:10_000], n_events)(raw[10_000:])
    better, worse = log_loss(happened[10_000:], mapped), log_loss(happened[10_000:], raw[10_000:])
    assert better is not None
    assert worse is not None
    assert better < worse - 0.01
    assert mapped.mean() == pytest.approx(happened[10_000:].mean(), abs=0.02)


def test_isotonic_agrees_with_scikit_learn_between_its_bounds() -> None:
    raw, happened = drawn(0.5, 0.0, rows=3000)
    found = fit_calibrator(raw, happened, EVENTS_FOR_ISOTONIC)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(raw, happened).predict(raw)
    assert found.kind == "isotonic"
    assert found(raw) == pytest.approx(np.clip(oracle, found.floor, 1 - found.floor), abs=1e-12)


@settings(deadline=None)
@given(scores, kinds)
def test_the_order_of_scores_is_kept_and_nothing_is_certain(rows: list[tuple[float, bool]], n_events: int) -> None:
    found = fit_calibrator(*split(rows), n_events)
    grid = found(np.linspace(0, 1, 101))
    assert np.all(np.diff(grid) >= 0)
    assert 0 < grid.min() <= grid.max() < 1


@settings(deadline=None)
@given(scores, kinds)
def test_json_round_trip_is_exact(rows: list[tuple[float, bool]], n_events: int) -> None:
    found = fit_calibrator(*split(rows), n_events)
    assert Calibrator.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_isotonic_never_emits_the_zero_it_found() -> None:
    """100 quiet rows, then 100 of events: the raw fit is 0 and 1; half an event in 201 is the floor."""
    found = fit_calibrator(np.arange(200) / 200, np.repeat([0.0, 1.0], 100), EVENTS_FOR_ISOTONIC)
    assert found(np.array([0.0, 1.0])).tolist() == [0.5 / 201, 1 - 0.5 / 201]


def test_a_score_that_points_the_wrong_way_becomes_the_prevalence() -> None:
    raw = np.array([0.9, 0.8, 0.7, 0.2, 0.1] * 20)
    found = fit_calibrator(raw, np.array([0.0, 0.0, 0.0, 1.0, 1.0] * 20), n_events=20)
    assert found(np.array([0.1, 0.9])) == pytest.approx([0.4, 0.4], abs=0.01)


def test_without_events_the_raw_probability_stays() -> None:
    found = fit_calibrator(np.array([0.1, 0.2]), np.zeros(2), n_events=0)
    assert found(np.array([0.1, 0.2])).tolist() == [0.1, 0.2]


def test_a_slice_without_an_event_lowers_what_was_too_loud_if_the_rows_of_an_event_are_known() -> None:
    """1,000 quiet rows at p = .1, 10 rows an event: ten events were expected, none came."""
    raw = np.full(1000, 0.1)
    found = fit_calibrator(raw, np.zeros(1000), n_events=0, rows_per_event=10.0)
    assert found.kind == "platt"
    assert found(raw)[0] < 0.05
    few = fit_calibrator(raw[:20], np.zeros(20), n_events=0, rows_per_event=10.0)
    assert 0.05 < few(raw)[0] < 0.1, "a fifth of an event that did not come tells little"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        fit_calibrator(np.zeros(2), np.zeros(3), 1)
    with pytest.raises(ValueError, match="finite"):
        fit_calibrator(np.array([np.nan]), np.zeros(1), 1)
    with pytest.raises(ValueError, match="kind"):
        Calibrator("magic")(np.zeros(1))
