"""Days are drawn for both models alike, and the matrix products are what slow resampling gives."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.bootstrap import (
    CELLS_MAX,
    Difference,
    average_precision_of,
    chance_p_value,
    day_index,
    day_weights,
    mean_of,
    paired_difference,
    ratio_of_sums,
)
from models.metrics import average_precision

rows = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4).map(float)), min_size=1, max_size=40)
DRAWN = {"replicates": 300, "seed": 0}
draws = st.lists(st.integers(0, 3), min_size=4, max_size=4)


def columns(drawn: list[tuple[int, bool, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Day, outcome and score; four days, of which the last always has a row."""
    day, happened, score = zip(*[*drawn, (3, False, 0.0)], strict=True)
    return np.array(day), np.array(happened, dtype=np.float64), np.array(score)


def case(days: int, events_per_day: float, lift: float, seed: int) -> tuple[np.ndarray, ...]:
    """Day, outcome and two scores; 60 rows of one event share their outcome, and the second score sees it better."""
    rng = np.random.default_rng(seed)
    hours = days * 24
    happened = np.repeat(rng.random(hours) < events_per_day / 24, 60).astype(np.float64)
    day = np.repeat(np.arange(days), 24 * 60)
    champion = np.repeat(rng.normal(size=hours), 60) + 1.5 * happened
    challenger = np.repeat(rng.normal(size=hours), 60) + (1.5 + lift) * happened
    return day, happened, champion, challenger


@given(rows, draws)
def test_average_precision_of_drawn_days_is_that_of_the_rows_written_out(
    drawn: list[tuple[int, bool, float]], chosen: list[int]
) -> None:
    day, happened, score = columns(drawn)
    weights = np.bincount(chosen, minlength=4)[None, :].astype(np.float64)
    written_out = np.concatenate([np.flatnonzero(day == one) for one in chosen])
    slow = average_precision(happened[written_out], score[written_out])
    found = average_precision_of(day, happened, score)(weights)
    assert found == pytest.approx([np.nan if slow is None else slow], abs=1e-12, nan_ok=True)


@given(rows, draws)
def test_a_mean_over_drawn_days_is_that_of_the_rows_written_out(
    drawn: list[tuple[int, bool, float]], chosen: list[int]
) -> None:
    day, _, score = columns(drawn)
    weights = np.bincount(chosen, minlength=4)[None, :].astype(np.float64)
    written_out = np.concatenate([np.flatnonzero(day == one) for one in chosen])
    slow = score[written_out].mean() if written_out.size else np.nan
    assert mean_of(day, score)(weights) == pytest.approx([slow], abs=1e-12, nan_ok=True)


def test_the_interval_is_that_of_plain_resampling_written_out_slowly() -> None:
    day, happened, champion, challenger = case(days=8, events_per_day=2.0, lift=0.5, seed=1)
    found = paired_difference(
        average_precision_of(day, happened, champion),
        average_precision_of(day, happened, challenger),
        8,
        replicates=99,
        seed=5,
    )
    slow = []
    for weight in day_weights(8, 99, 5):
        taken = np.concatenate([np.tile(np.flatnonzero(day == one), int(weight[one])) for one in range(8)])
        better, worse = (average_precision(happened[taken], score[taken]) for score in (challenger, champion))
        assert better is not None
        assert worse is not None
        slow.append(better - worse)
    ordered = sorted(slow)  # 98 gaps: 5 % of them is 4.9, outwards 4; 95 % is 93.1, outwards 94
    assert (found.low, found.high) == (pytest.approx(ordered[4]), pytest.approx(ordered[94]))
    assert found.share_above_zero == np.mean(np.array(slow) > 0)
    assert 0 < found.share_above_zero < 1


@given(rows)
def test_a_challenger_equal_to_the_champion_differs_by_exactly_nothing(drawn: list[tuple[int, bool, float]]) -> None:
    day, happened, score = columns(drawn)
    both = (average_precision_of(day, happened, score), average_precision_of(day, happened, score.copy()))
    found = paired_difference(*both, 4, replicates=50, seed=0)
    assert found.difference == (0.0 if happened.any() else None)
    assert found.low in {0.0, None}
    assert found.share_above_zero == 0.0


def test_a_score_and_any_rising_map_of_it_differ_by_exactly_nothing() -> None:
    day, happened, score, _ = case(days=20, events_per_day=1.0, lift=0.0, seed=2)
    found = paired_difference(
        average_precision_of(day, happened, score),
        average_precision_of(day, happened, np.exp(score)),
        20,
        replicates=200,
        seed=0,
    )
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_same_draws_judge_both_models() -> None:
    """A constant shift has no spread if the draws are the same; drawn apart, the days would differ."""
    day, values = np.arange(30), np.random.default_rng(0).normal(size=30) * 100
    found = paired_difference(mean_of(day, values), mean_of(day, values + 1.0), 30, replicates=200, seed=0)
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_days_are_drawn_with_replacement_and_the_seed_fixes_them() -> None:
    weights = day_weights(10, 500, seed=4)
    assert np.all(weights.sum(axis=1) == 10)
    assert weights.max() > 1
    assert weights.min() == 0
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.2)
    assert np.array_equal(weights, day_weights(10, 500, seed=4))
    assert not np.array_equal(weights, day_weights(10, 500, seed=5))


def test_a_day_carries_all_its_symbols_and_minutes() -> None:
    """Rows of one event are copies: sixty per hour may not make the interval narrower than one per hour does."""
    day, happened, champion, challenger = case(days=30, events_per_day=1.0, lift=0.5, seed=3)
    minutes, hours = (
        paired_difference(mean_of(day[::step], champion[::step]), mean_of(day[::step], challenger[::step]), 30, **DRAWN)
        for step in (1, 60)
    )
    assert happened.any()
    assert minutes.low == pytest.approx(hours.low)
    assert minutes.high == pytest.approx(hours.high)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    """200 simulated periods of 60 days, whose hours share a mood of the day: 90 % should cover; 3 sd of 200 are 6 %."""
    covered = 0
    day = np.repeat(np.arange(60), 24)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        mood = np.repeat(rng.normal(size=60), 24)
        champion, challenger = mood + rng.normal(size=day.size), 2 * mood + 0.3 + rng.normal(size=day.size)
        found = paired_difference(mean_of(day, champion), mean_of(day, challenger), 60, replicates=400, seed=seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered / 200 == pytest.approx(0.9, abs=0.065)


def test_replicates_without_an_event_count_against_the_claim() -> None:
    """Events on one of 3 days: (2/3)^3 = 30 % of draws hold none. The better model's lower bound is then unknown."""
    day, happened = np.repeat([0, 1, 2], 10), np.zeros(30)
    happened[:5] = 1.0
    found = paired_difference(
        average_precision_of(day, happened, np.zeros(30)),
        average_precision_of(day, happened, happened),
        3,
        replicates=1000,
        seed=0,
    )
    assert found.difference == pytest.approx(1 - 5 / 30)
    assert found.undefined / 1000 == pytest.approx(8 / 27, abs=0.05)
    assert (found.low, found.high) == (None, None)
    assert found.share_above_zero <= 1 - found.undefined / 1000


def test_without_an_event_nothing_is_claimed() -> None:
    nothing = average_precision_of(np.array([0, 1]), np.zeros(2), np.array([0.1, 0.2]))
    found = paired_difference(nothing, nothing, 2, replicates=10, seed=0)
    assert found == Difference(None, None, None, 0.0, 10, undefined=10, days=2)


def test_many_replicates_are_taken_in_batches_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    day, happened, score, _ = case(days=10, events_per_day=3.0, lift=0.0, seed=6)
    weights = day_weights(10, 64, seed=0)
    whole = average_precision_of(day, happened, score)(weights)
    assert np.unique(score[happened > 0]).size * 64 < CELLS_MAX
    monkeypatch.setattr("models.bootstrap.CELLS_MAX", 100)
    assert np.array_equal(average_precision_of(day, happened, score)(weights), whole)


def test_infinite_scores_are_ranked_like_any_other() -> None:
    day, happened = np.zeros(4, dtype=np.int64), np.array([0.0, 1.0, 0.0, 1.0])
    found = average_precision_of(day, happened, np.array([np.inf, np.inf, -np.inf, -np.inf]))(np.ones((1, 1)))
    assert found == pytest.approx([1 / 2 * 1 / 2 + 1 / 2 * 2 / 4])


def test_days_are_numbered_in_order_of_time_without_gaps() -> None:
    start = datetime(2025, 1, 1, 23, 59, tzinfo=UTC)
    stamps = [start, start + timedelta(minutes=1), start + timedelta(days=5), start]
    assert day_index(pl.Series(stamps)).tolist() == [0, 1, 2, 0]


def test_the_result_is_plain_json() -> None:
    statistic = ratio_of_sums(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    found = paired_difference(statistic, statistic, 2, replicates=20, seed=0)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["difference"] == 0.0


def shifted_slowly(symbol: pl.Series, happened: np.ndarray, score: np.ndarray, shifts: int, seed: int) -> float:
    sizes = [int((symbol == one).sum()) for one in symbol.unique(maintain_order=True)]
    edges = np.cumsum([0, *sizes])
    observed, reached = average_precision(happened, score), 0
    for k in np.random.default_rng(seed).integers(1, max(sizes), size=shifts):
        rolled = np.concatenate([np.roll(score[a:b], k) for a, b in pairwise(edges)])
        reached += average_precision(happened, rolled) >= observed - 1e-12
    return (1 + reached) / (1 + shifts)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5).map(float)), min_size=5, max_size=40), st.integers(0, 9))
@example([(False, 0.0), (True, 1.0), (True, 1.0), (False, 3.0), (True, 2.0)], 0)  # equal, but for the order of a sum
def test_the_chance_of_a_ranking_is_that_of_scores_rolled_slowly(drawn: list[tuple[bool, float]], seed: int) -> None:
    happened, score = (np.array(column, dtype=np.float64) for column in zip(*[*drawn, (True, 2.0)], strict=True))
    symbol = pl.Series(["A"] * 3 + ["B"] * (happened.size - 3))
    found = chance_p_value(symbol, happened, score, shifts=20, seed=seed)
    assert found == shifted_slowly(symbol, happened, score, 20, seed)


def test_a_score_that_sees_the_events_is_reached_by_no_shift_and_a_constant_one_by_all() -> None:
    happened = np.zeros(600)
    happened[100:130] = happened[400:430] = 1.0
    symbol = pl.Series(["A"] * 600)
    noise = np.random.default_rng(0).normal(size=600)
    assert chance_p_value(symbol, happened, noise + 5 * happened, shifts=99, seed=0) == 0.01
    assert chance_p_value(symbol, happened, np.zeros(600), shifts=99, seed=0) == 1.0


def test_persistent_noise_beats_its_shifts_as_rarely_as_the_level_says() -> None:
    """Hours of noise against hours of events at other edges: 5 % of 400 are 20, 3 sd are 13."""
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        score, happened = (np.repeat(column, 60) for column in (rng.normal(size=120), rng.random(120) < 0.05))
        symbol = pl.Series(["A"] * score.size)
        rolled = np.roll(score, int(rng.integers(60)))
        found.append(chance_p_value(symbol, happened.astype(np.float64), rolled, shifts=99, seed=seed))
    known = np.array([value for value in found if value is not None])
    assert known.size > 380
    assert np.mean(known <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / known.size)


def test_without_an_event_chance_is_unknown_and_rows_out_of_order_are_refused() -> None:
    assert chance_p_value(pl.Series(["A", "A"]), np.zeros(2), np.zeros(2), shifts=9, seed=0) is None
    with pytest.raises(ValueError, match="sorted by symbol"):
        chance_p_value(pl.Series(["A", "B", "A"]), np.ones(3), np.zeros(3), shifts=9, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        chance_p_value(pl.Series(["A"]), np.ones(1), np.array([np.nan]), shifts=9, seed=0)


def test_bad_input_is_refused() -> None:
    statistic = ratio_of_sums(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="confidence"):
        paired_difference(statistic, statistic, 2, replicates=20, seed=0, confidence=1.0)
    with pytest.raises(ValueError, match="positive"):
        paired_difference(statistic, statistic, 0, replicates=20, seed=0)
    with pytest.raises(ValueError, match="null"):
        day_index(pl.Series([None], dtype=pl.Datetime("us", "UTC")))
    with pytest.raises(ValueError, match="NaN"):
        average_precision_of(np.zeros(1, dtype=np.int64), np.ones(1), np.array([np.nan]))
