"""Compiled windows against the polars expressions that say the same, to the last bit."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.exact import (
    STEP,
    STEPS_MAX,
    collecting,
    rolling_mean,
    rolling_quantile,
    rolling_rms,
    rolling_std,
    samples_min,
    standard_score,
    steps,
)

# --- what they stand for, in polars ---


def _slow_mean(x: pl.Expr, window: int, full: float) -> pl.Expr:
    return steps(x).rolling_mean(window, min_samples=samples_min(window, full)) * STEP


def _slow_rms(x: pl.Expr, window: int, full: float) -> pl.Expr:
    return steps(x).pow(2).rolling_mean(window, min_samples=samples_min(window, full)).sqrt() * STEP


def _slow_std(x: pl.Expr, window: int, full: float) -> pl.Expr:
    least = samples_min(window, full)
    mean, square = (steps(x).pow(power).rolling_mean(window, min_samples=least) for power in (1, 2))
    return (square - mean.pow(2)).clip(lower_bound=0.0).sqrt() * (STEP * math.sqrt(window / (window - 1)))


def _slow_score(x: pl.Expr, lag: int, window: int, full: float) -> pl.Expr:
    past = x.shift(lag)
    return (x - _slow_mean(past, window, full)) / _slow_std(past, window, full).clip(lower_bound=0.1)


def _slow_quantile(x: pl.Expr, q: float, window: int, full: float) -> pl.Expr:
    return x.rolling_quantile(q, "linear", window_size=window, min_samples=samples_min(window, full))


# Values that tie, that fall on halves of a step, that saturate, and that are faults.
numbers = st.one_of(
    st.floats(-60, 60),
    st.integers(-5, 5).map(float),
    st.integers(-9, 9).map(lambda halves: halves * STEP / 2),
    st.sampled_from([1e300, -1e300, 0.0, -0.0]),
)
gaps = st.one_of(numbers, st.none())
faulty = st.one_of(numbers, numbers, st.none(), st.sampled_from([math.nan, math.inf, -math.inf]))
windows = st.integers(2, 12)
shares = st.sampled_from([0.3, 0.8, 1.0])


def _same(values: list[Any], fast: pl.Expr, slow: pl.Expr) -> None:
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)})
    got, want = frame.select(fast).to_series(), frame.select(slow).to_series()
    assert got.equals(want, null_equal=True, check_names=True), (got.to_list(), want.to_list())


@settings(max_examples=200, deadline=None)
@given(st.lists(faulty, min_size=2, max_size=60), windows, shares)
@pytest.mark.parametrize(
    ("fast", "slow"), [(rolling_mean, _slow_mean), (rolling_rms, _slow_rms), (rolling_std, _slow_std)]
)
def test_moments_are_those_of_polars_to_the_last_bit(
    fast: Callable[..., pl.Expr], slow: Callable[..., pl.Expr], values: list[Any], window: int, full: float
) -> None:
    _same(values, fast(pl.col("x"), window, full=full), slow(pl.col("x"), window, full))


@settings(max_examples=200, deadline=None)
@given(st.lists(faulty, min_size=2, max_size=60), st.integers(0, 20), windows, shares)
def test_scores_are_those_of_polars_to_the_last_bit(values: list[Any], lag: int, window: int, full: float) -> None:
    x = pl.col("x")
    _same(values, standard_score(x, lag, window, 0.1, full=full), _slow_score(x, lag, window, full))


@settings(max_examples=200, deadline=None)
@given(st.lists(gaps, min_size=2, max_size=60), st.sampled_from([0.0, 0.1, 0.5, 0.75, 1.0]), windows, shares)
def test_quantiles_are_those_of_polars_to_the_last_bit(values: list[Any], q: float, window: int, full: float) -> None:
    x = pl.col("x")
    _same(values, rolling_quantile(x, q, window, full=full), _slow_quantile(x, q, window, full))


def test_the_widest_window_of_saturated_values_is_exact() -> None:
    """The sum of squares is the largest that is allowed: 1440 values of STEPS_MAX, just below 2 ** 53."""
    rng = np.random.default_rng(0)
    values = rng.choice([-60.0, 60.0, 49.99998], 3_000).tolist()
    assert STEPS_MAX**2 * 1_440 < 2**53
    _same(values, rolling_std(pl.col("x"), 1_440), _slow_std(pl.col("x"), 1_440, 1.0))


def test_a_window_that_two_ask_for_is_one_column() -> None:
    """Two calls build two functions: without their rule beside them they would be two columns, computed twice."""
    with collecting() as columns:
        one, two = (standard_score(pl.col("x"), 5, 240, 0.1) for _ in range(2))
        other = standard_score(pl.col("x"), 5, 240, 0.2)
    assert one.meta.eq(two)
    assert not one.meta.eq(other)
    assert len(columns) == 2
