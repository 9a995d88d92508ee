"""Metrics against hand arithmetic and against scikit-learn."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from models.metrics import (
    average_precision,
    average_precision_lift,
    brier,
    calibration_in_the_large,
    corp,
    count_alarms,
    log_loss,
    roc_auc,
)

START = datetime(2025, 1, 1, tzinfo=UTC)


def at(*minutes: int) -> list[datetime]:
    return [START + timedelta(minutes=minute) for minute in minutes]


def alerts(*minutes: int, symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame(
        {"symbol": [symbol] * len(minutes), "ts": at(*minutes)},
        schema={"symbol": pl.String, "ts": pl.Datetime("us", "UTC")},
    )


def events(*onset_end: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "symbol": ["A"] * len(onset_end),
            "onset": at(*(o for o, _ in onset_end)),
            "end": at(*(e for _, e in onset_end)),
        },
        schema={"symbol": pl.String, "onset": pl.Datetime("us", "UTC"), "end": pl.Datetime("us", "UTC")},
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_average_precision_agrees_with_scikit_learn_also_on_ties(rows: list[tuple[bool, int]]) -> None:
    happened, score = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    if happened.sum() == 0:
        assert average_precision(happened, score) is None
        return
    assert average_precision(happened, score) == pytest.approx(average_precision_score(happened, score), abs=1e-12)


def test_a_constant_score_has_a_lift_of_one() -> None:
    happened = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    assert average_precision_lift(happened, np.full(5, 0.3)) == pytest.approx(1.0)


def test_brier_and_log_loss_of_a_certain_mistake() -> None:
    wrong = (np.array([1.0]), np.array([0.0]))
    assert brier(*wrong) == 1.0
    assert log_loss(*wrong) == pytest.approx(15 * np.log(10))
    assert brier(np.array([]), np.array([])) is None


# One symbol, horizon 60, refractory 60, lead at least 1 minute. Event at minute 500, over at 510, refractory to 570.
ALARMS = [
    # alerts,          hits, late, missed, episodes, false   why
    ((440,), (1, 0, 0, 1, 0), "lead 60 is the longest that counts"),
    ((439,), (0, 0, 1, 1, 1), "lead 61 is too early: missed, and a false alarm"),
    ((499,), (1, 0, 0, 1, 0), "lead 1 is the shortest that counts"),
    ((500,), (0, 1, 0, 0, 0), "at the onset it is late, neither hit nor false alarm"),
    ((510,), (0, 1, 0, 0, 0), "inside the event it is late"),
    ((511,), (0, 0, 1, 0, 0), "after the event it neither warned nor counts, within the refractory time"),
    ((571,), (0, 0, 1, 1, 1), "after the refractory time it is false"),
    ((400, 455), (1, 0, 0, 1, 0), "55 minutes apart: one episode, and it ends within the horizon"),
    ((380, 440), (1, 0, 0, 2, 1), "60 minutes apart: two episodes, the first one false"),
    ((440, 505, 600), (1, 0, 0, 2, 1), "a hit, an alert inside, a false alarm afterwards"),
    ((), (0, 0, 1, 0, 0), "silence misses"),
]


@pytest.mark.parametrize(("minutes", "expected", "why"), ALARMS, ids=[row[2] for row in ALARMS])
def test_alarms_are_counted_as_by_hand(minutes: tuple[int, ...], expected: tuple[int, ...], why: str) -> None:
    found = count_alarms(alerts(*minutes), events((500, 510)), symbol_days=2.0, horizon_min=60, refractory_min=60)
    assert (found.hits, found.late, found.missed, found.episodes, found.false_alarms) == expected, why
    assert found.hits + found.late + found.missed == found.events == 1
    assert found.false_alarms_per_symbol_day == expected[4] / 2.0


def test_an_alert_on_another_symbol_helps_nobody() -> None:
    found = count_alarms(
        alerts(480, symbol="B"), events((500, 510)), symbol_days=1.0, horizon_min=60, refractory_min=60
    )
    assert (found.hits, found.false_alarms) == (0, 1)


def test_without_events_recall_is_unknown() -> None:
    found = count_alarms(alerts(480), events(), symbol_days=1.0, horizon_min=60, refractory_min=60)
    assert found.recall is None
    assert found.false_alarms == 1


def test_coverage_must_be_positive() -> None:
    with pytest.raises(ValueError, match="symbol_days"):
        count_alarms(alerts(480), events(), symbol_days=0.0, horizon_min=60, refractory_min=60)


def test_infinite_scores_are_ties_like_any_other() -> None:
    """A baseline gives -inf to minutes it knows nothing of; inf - inf is not zero, and split that tie by row order."""
    score = np.array([1.0, -np.inf, -np.inf, -np.inf])
    for place in (1, 2, 3):
        happened = np.zeros(4)
        happened[place] = 1.0
        assert average_precision(happened, score) == pytest.approx(1 / 4)


probabilities = st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda k: k / 8)), min_size=1, max_size=40)


def split(rows: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    happened, p = zip(*rows, strict=True)
    return np.array(happened, dtype=np.float64), np.array(p)


@given(probabilities)
def test_the_parts_of_a_brier_score_sum_to_it_and_none_is_negative(rows: list[tuple[bool, float]]) -> None:
    happened, p = split(rows)
    parts = corp(happened, p)
    assert parts is not None
    assert parts.miscalibration - parts.discrimination + parts.uncertainty == pytest.approx(
        brier(happened, p), abs=1e-12
    )
    assert min(parts) >= -1e-12


@given(probabilities)
def test_the_recalibrated_brier_score_is_that_of_scikit_learns_isotonic_regression(
    rows: list[tuple[bool, float]],
) -> None:
    happened, p = split(rows)
    parts = corp(happened, p)
    assert parts is not None
    best = float(np.mean((IsotonicRegression().fit(p, happened).predict(p) - happened) ** 2))
    assert brier(happened, p) - parts.miscalibration == pytest.approx(best, abs=1e-12)


# Outcomes, p, then the three parts in order.
CORP = [
    ([0, 1], [0.0, 1.0], (0.0, 0.25, 0.25), "certain and right"),
    ([0, 1], [0.5, 0.5], (0.0, 0.0, 0.25), "says only how often"),
    ([0, 1], [0.2, 0.3], (0.265, 0.25, 0.25), "ranks perfectly, far too timid: Brier (.04 + .49) / 2"),
    ([1, 0], [0.0, 1.0], (0.75, 0.0, 0.25), "certain and wrong: Brier 1"),
    ([0, 0, 0, 1], [0.5] * 4, (0.0625, 0.0, 0.1875), "twice too loud: (.5 - .25)^2"),
]


@pytest.mark.parametrize(("happened", "p", "parts", "why"), CORP, ids=[row[3] for row in CORP])
def test_a_brier_score_is_split_as_by_hand(
    happened: list[int], p: list[float], parts: tuple[float, float, float], why: str
) -> None:
    assert corp(np.array(happened, dtype=np.float64), np.array(p)) == pytest.approx(parts), why


@given(probabilities)
def test_roc_auc_agrees_with_scikit_learn_also_on_ties(rows: list[tuple[bool, float]]) -> None:
    happened, p = split(rows)
    if not 0 < happened.sum() < happened.size:
        assert roc_auc(happened, p) is None
        return
    assert roc_auc(happened, p) == pytest.approx(roc_auc_score(happened, p), abs=1e-12)


def test_minutes_of_which_nothing_is_known_tie_at_the_bottom_of_roc_auc() -> None:
    assert roc_auc(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, -np.inf, -np.inf, -np.inf])) == 3 / 4


def test_a_mean_probability_above_the_share_that_happened_is_too_loud() -> None:
    happened = np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_in_the_large(happened, np.full(4, 0.5)) == 0.25
    assert calibration_in_the_large(happened, np.full(4, 0.125)) == -0.125


def test_without_rows_nothing_is_known_of_calibration() -> None:
    none = np.array([])
    assert (corp(none, none), roc_auc(none, none), calibration_in_the_large(none, none)) == (None, None, None)
