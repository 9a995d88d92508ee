"""Episodes and the alert budget, against a slow oracle that tries every threshold."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.thresholds import budget_threshold, episodes

START = datetime(2025, 1, 1, tzinfo=UTC)
REFRACTORY_MIN = 10


def frame(rows: list[tuple[str, int, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(symbol, START + timedelta(minutes=minute), score) for symbol, minute, score in rows],
        schema={"symbol": pl.String, "ts": pl.Datetime("us", "UTC"), "score": pl.Float64},
        orient="row",
    )


def oracle_episodes(rows: list[tuple[str, int]], refractory_min: int) -> list[list[int]]:
    found: list[list[int]] = []
    last: tuple[str, int] | None = None
    for symbol, minute in sorted(rows):
        if last is not None and last[0] == symbol and minute - last[1] < refractory_min:
            found[-1].append(minute)
        else:
            found.append([minute])
        last = symbol, minute
    return found


def oracle_charge(rows: list[tuple[str, int, float]], threshold: float) -> float:
    alerts = [(symbol, minute) for symbol, minute, score in rows if score >= threshold]
    return max(len(oracle_episodes(alerts, REFRACTORY_MIN)), len(alerts) / REFRACTORY_MIN)


def oracle_threshold(rows: list[tuple[str, int, float]], allowed: float) -> float | None:
    best = None
    for threshold in sorted({score for _, _, score in rows}, reverse=True):
        if not oracle_charge(rows, threshold) <= allowed:
            break
        best = threshold
    return best


minutes = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 60)), unique=True, min_size=1, max_size=40)
scored = st.dictionaries(
    st.tuples(st.sampled_from("AB"), st.integers(0, 60)),
    st.integers(0, 8).map(lambda k: k / 8),
    min_size=1,
    max_size=50,
).map(lambda found: [(symbol, minute, score) for (symbol, minute), score in found.items()])


@settings(deadline=None)
@given(minutes)
def test_episodes_equal_a_loop_over_alerts(rows: list[tuple[str, int]]) -> None:
    found = episodes(frame([(symbol, minute, None) for symbol, minute in rows]), REFRACTORY_MIN)
    slow = oracle_episodes(rows, REFRACTORY_MIN)
    assert found["alerts"].to_list() == [len(run) for run in slow]
    assert found["start"].to_list() == [START + timedelta(minutes=run[0]) for run in slow]
    assert found["end"].to_list() == [START + timedelta(minutes=run[-1]) for run in slow]


def test_no_alerts_make_no_episodes() -> None:
    assert episodes(frame([]), REFRACTORY_MIN).is_empty()


@settings(deadline=None)
@given(scored, st.floats(0.5, 10))
def test_the_threshold_equals_trying_every_score_from_the_top(
    rows: list[tuple[str, int, float]], allowed: float
) -> None:
    symbols = len({symbol for symbol, _, _ in rows})
    found = budget_threshold(frame(rows), 1.0, allowed / symbols, REFRACTORY_MIN)
    slow = oracle_threshold(rows, allowed / symbols * symbols)
    if slow is None:
        assert found > max(score for _, _, score in rows)
    else:
        assert found == slow


@settings(deadline=None)
@given(scored, st.floats(0.5, 10))
def test_episodes_never_exceed_the_budget(rows: list[tuple[str, int, float]], budget: float) -> None:
    scores = frame(rows)
    threshold = budget_threshold(scores, 2.0, budget, REFRACTORY_MIN)
    runs = episodes(scores.filter(pl.col("score") >= threshold), REFRACTORY_MIN)
    assert runs.height <= budget * 2.0 * scores["symbol"].n_unique()


@settings(deadline=None)
@given(scored, st.floats(0.5, 5), st.floats(0.0, 5))
def test_a_larger_budget_never_raises_the_threshold(
    rows: list[tuple[str, int, float]], budget: float, more: float
) -> None:
    scores = frame(rows)
    tight = budget_threshold(scores, 1.0, budget, REFRACTORY_MIN)
    assert budget_threshold(scores, 1.0, budget + more, REFRACTORY_MIN) <= tight


def test_a_permanent_alarm_is_not_one_cheap_episode() -> None:
    """A day of equal scores is one episode of 1,440 minutes; it would pass a budget of one a day."""
    scores = frame([("A", minute, 0.2) for minute in range(1440)])
    assert budget_threshold(scores, 1.0, 1.0, REFRACTORY_MIN) > 0.2


def test_null_scores_are_left_out_and_no_score_at_all_is_refused() -> None:
    assert budget_threshold(frame([("A", 0, None), ("A", 1, 0.4)]), 1.0, 1.0, REFRACTORY_MIN) == 0.4
    with pytest.raises(ValueError, match="at least one score"):
        budget_threshold(frame([("A", 0, None)]), 1.0, 1.0, REFRACTORY_MIN)


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan")])
def test_a_period_without_length_is_refused(days: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        budget_threshold(frame([("A", 0, 0.4)]), days, 1.0, REFRACTORY_MIN)
