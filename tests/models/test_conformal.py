"""A promised miss rate holds for exchangeable events, and only for those."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.conformal import NO_SCORE, MissControl, best_scores, control_misses
from models.metrics import count_alarms

START = datetime(2025, 1, 1, tzinfo=UTC)
REPEATS = 2_000


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def scored(*rows: tuple[str, int, float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [(symbol, at(minute), score) for symbol, minute, score in rows],
        schema={"symbol": pl.String, "ts": pl.Datetime("us", "UTC"), "score": pl.Float64},
        orient="row",
    )


def events(*rows: tuple[str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(symbol, at(minute), at(minute + 10)) for symbol, minute in rows],
        schema={"symbol": pl.String, "onset": pl.Datetime("us", "UTC"), "end": pl.Datetime("us", "UTC")},
        orient="row",
    )


# One event of A at minute 500, horizon 60, lead at least 5: minutes 440 to 495 count.
BEST = [
    ([("A", 440, 0.7)], 0.7, "60 minutes before is the earliest that counts"),
    ([("A", 439, 0.7)], NO_SCORE, "61 minutes before is too early"),
    ([("A", 495, 0.7)], 0.7, "5 minutes before is the latest that counts"),
    ([("A", 496, 0.7), ("A", 470, 0.2)], 0.2, "4 minutes before is too late to act on"),
    ([("A", 450, 0.3), ("A", 460, 0.6), ("A", 470, 0.5)], 0.6, "the highest counts"),
    ([("B", 450, 0.9)], NO_SCORE, "another symbol's score helps nobody"),
    ([("A", 450, None), ("A", 451, float("nan"))], NO_SCORE, "null and NaN are no scores"),
    ([("A", 450, float("nan")), ("A", 451, 0.1)], 0.1, "NaN is not the highest"),
    ([], NO_SCORE, "without a score it cannot be caught"),
]


@pytest.mark.parametrize(("rows", "best", "why"), BEST, ids=[row[2] for row in BEST])
def test_the_best_score_in_time_is_found_as_by_hand(
    rows: list[tuple[str, int, float | None]], best: float, why: str
) -> None:
    found = best_scores(scored(*rows), events(("A", 500)), horizon_min=60, lead_min=5)
    assert found["best"].to_list() == [best], why


def test_events_keep_their_order_and_even_twins_have_a_row_each() -> None:
    found = best_scores(
        scored(("A", 450, 0.4), ("B", 90, 0.8)), events(("B", 100), ("A", 500), ("A", 500)), horizon_min=60
    )
    assert found.rows() == [("B", at(100), 0.8), ("A", at(500), 0.4), ("A", at(500), 0.4)]


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 300), st.integers(0, 9).map(float)), max_size=40),
    st.integers(0, 9).map(float),
)
def test_an_event_is_hit_exactly_if_its_best_score_reaches_the_threshold(
    rows: list[tuple[str, int, float]], threshold: float
) -> None:
    scores, past = scored(*rows), events(("A", 150), ("B", 80), ("B", 260))
    best = best_scores(scores, past, horizon_min=60, lead_min=5)["best"]
    judged = count_alarms(
        scores.filter(pl.col("score") >= threshold),
        past,
        symbol_days=1.0,
        horizon_min=60,
        refractory_min=60,
        lead_min=5,
    )
    assert judged.hits == int((best >= threshold).sum())


# best scores, highest miss rate, k = floor(rate (n + 1)), threshold
TABLE = [
    ([0.5, 0.2, 0.9, 0.4], 0.4, 0.4, "n = 4: k = 2, the second smallest"),
    ([0.5, 0.2, 0.9, 0.4], 0.2, 0.2, "n = 4: k = 1, the smallest"),
    ([0.5, 0.2, 0.9, 0.4], 0.19, None, "n = 4 < 1 / .19 - 1 = 4.3: nothing can be promised"),
    ([0.3] * 9, 0.1, 0.3, "n = 9 = 1 / .1 - 1: just enough"),
    ([0.3] * 8, 0.1, None, "n = 8: one too few"),
    ([], 0.5, None, "no event"),
    ([float(k) for k in range(1, 100)], 0.29, 29.0, "n = 99: k = 29, though 0.29 * 100 = 28.999999999999996"),
    ([NO_SCORE, 0.2, 0.3, 0.4], 0.4, 0.2, "k = 2: one event without a score can be afforded"),
    ([float("nan"), 0.2, 0.3, 0.4], 0.4, 0.2, "NaN is no score"),
    ([NO_SCORE, NO_SCORE, 0.3, 0.4], 0.4, None, "k = 2: two events without a score cannot"),
]


@pytest.mark.parametrize(("best", "rate", "threshold", "why"), TABLE, ids=[row[3] for row in TABLE])
def test_the_threshold_is_the_order_statistic_counted_by_hand(
    best: list[float], rate: float, threshold: float | None, why: str
) -> None:
    found = control_misses(np.array(best), rate)
    assert (found.threshold, found.promised) == (threshold, threshold is not None), why
    assert (found.events, found.miss_rate_max) == (len(best), rate)


def missed(past: np.ndarray, new: np.ndarray, rate: float) -> float:
    """Share of repeats (rows of `past`, one new event each) in which the new event stays below the threshold."""
    thresholds = [control_misses(row, rate).threshold for row in past]
    return float(np.mean(new < np.array(thresholds, dtype=np.float64)))


@pytest.mark.parametrize(("n", "rate"), [(9, 0.1), (19, 0.1), (24, 0.2), (40, 0.25)])
def test_exchangeable_events_are_missed_as_often_as_promised_and_no_more(n: int, rate: float) -> None:
    """A mood per repeat makes events dependent but exchangeable. Expected: floor(rate (n + 1)) / (n + 1)."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(REPEATS, n + 1)) + rng.normal(size=(REPEATS, 1))
    expected = int(rate * (n + 1) + 1e-9) / (n + 1)
    sd = np.sqrt(expected * (1 - expected) / REPEATS)
    assert missed(scores[:, :n], scores[:, n], rate) == pytest.approx(expected, abs=3 * sd)
    assert expected <= rate


def test_ties_are_missed_less_often_than_promised_never_more() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, size=(REPEATS, 20)).astype(np.float64)
    assert missed(scores[:, :19], scores[:, 19], 0.2) <= 0.2


def test_the_promise_breaks_when_events_drift() -> None:
    """Documents the assumption: events that score one sd lower than those of the past are missed 3 times as often."""
    rng = np.random.default_rng(3)
    past, new = rng.normal(size=(REPEATS, 19)), rng.normal(size=REPEATS) - 1.0
    assert missed(past, new, 0.1) > 0.25


def test_the_promise_breaks_when_copies_of_one_cascade_count_as_many_events() -> None:
    """Documents the assumption: 19 symbols of one cascade are one event; the next is missed half the time."""
    rng = np.random.default_rng(3)
    past = rng.normal(size=(REPEATS, 1)) + 0.1 * rng.normal(size=(REPEATS, 19))
    assert missed(past, rng.normal(size=REPEATS), 0.1) > 0.4


@given(st.lists(st.floats(-5, 5), max_size=60), st.floats(0.01, 0.99))
def test_json_round_trip_is_exact_and_a_promise_is_always_finite(best: list[float], rate: float) -> None:
    found = control_misses(np.array(best), rate)
    assert MissControl.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert found.promised == (found.threshold is not None)


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_of_the_calibration_events_fewer_than_k_are_missed(best: list[float], rate: float) -> None:
    found = control_misses(np.array(best), rate)
    if found.threshold is not None:
        assert (np.array(best) < found.threshold).sum() < rate * (len(best) + 1)


def test_bad_input_is_refused() -> None:
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="miss_rate_max"):
            control_misses(np.zeros(5), rate)
    with pytest.raises(ValueError, match="lead_min"):
        best_scores(scored(), events(), horizon_min=60, lead_min=61)
