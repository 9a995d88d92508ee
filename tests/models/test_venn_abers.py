"""The band is what two isotonic fits per row give, and of its two ends the right one is calibrated."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from models.calibration import sigmoid
from models.venn_abers import Band, fit_band

rows = st.lists(st.tuples(st.integers(0, 12).map(lambda k: k / 12), st.booleans()), min_size=1, max_size=40)
GRID = np.arange(-1, 27) / 24  # on, between, below and above the scores that are drawn


def split(drawn: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    raw, happened = zip(*drawn, strict=True)
    return np.array(raw), np.array(happened, dtype=np.float64)


def planted(rows: int, mean: float = -3.0, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores that are the true probabilities."""
    rng = np.random.default_rng(seed)
    raw = sigmoid(rng.normal(mean, 1.5, rows))
    return raw, (rng.random(rows) < raw).astype(np.float64)


def fitted_twice(raw: np.ndarray, happened: np.ndarray, new: float) -> list[float]:
    """The definition: isotonic regression with the new row as quiet, then as an event."""
    return [
        float(IsotonicRegression().fit(np.append(raw, new), np.append(happened, outcome)).predict([new])[0])
        for outcome in (0.0, 1.0)
    ]


@given(rows)
def test_the_band_is_that_of_two_isotonic_fits_per_row(drawn: list[tuple[float, bool]]) -> None:
    raw, happened = split(drawn)
    slow = np.array([fitted_twice(raw, happened, new) for new in GRID])
    low, high = fit_band(raw, happened)(GRID)
    assert low == pytest.approx(slow[:, 0], abs=1e-12)
    assert high == pytest.approx(slow[:, 1], abs=1e-12)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # the package's own
@pytest.mark.parametrize("rows", [3, 50, 2000])
def test_the_band_agrees_with_the_package_venn_abers(rows: int) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):  # the package sets both for the whole process
        from venn_abers import VennAbers

        raw, happened = planted(rows, mean=-0.5)
        grid = np.concatenate([raw, np.linspace(-0.1, 1.1, 200)])
        oracle = VennAbers()
        oracle.fit(np.column_stack([1 - raw, raw]), happened)
        _, both = oracle.predict_proba(np.column_stack([1 - grid, grid]))
    low, high = fit_band(raw, happened)(grid)
    assert low == pytest.approx(both[:, 0], abs=1e-12)
    assert high == pytest.approx(both[:, 1], abs=1e-12)


# Scores .1 .2 .3 with outcomes 0 0 1. At .1 the three rows at or below pool: (.1, .1 again, .2) with one event: 1/3.
# At .3 a quiet row pools with the event there: 1/2; an event gives 1. Between .2 and .3: low of .2, high of .3.
HAND = [(0.0, 0.0, 1 / 3), (0.1, 0.0, 1 / 3), (0.2, 0.0, 1 / 2), (0.25, 0.0, 1.0), (0.3, 1 / 2, 1.0), (0.9, 1 / 2, 1.0)]


@pytest.mark.parametrize(("raw", "low", "high"), HAND)
def test_three_rows_by_hand(raw: float, low: float, high: float) -> None:
    found = fit_band(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 1.0]))(np.array([raw]))
    assert found == (pytest.approx(low), pytest.approx(high))


@given(rows)
def test_of_the_two_ends_the_one_that_goes_with_the_outcome_is_perfectly_calibrated(
    drawn: list[tuple[float, bool]],
) -> None:
    """Take each row of a bag in turn as the new one. Among the rows with the value v, exactly a share v happened."""
    raw, happened = split(drawn)
    right = np.empty(raw.size)
    for row in range(raw.size):
        rest = np.arange(raw.size) != row
        low, high = fit_band(raw[rest], happened[rest])(raw[row : row + 1])
        right[row] = high[0] if happened[row] else low[0]
    for value in np.unique(right.round(9)):
        assert happened[right.round(9) == value].mean() == pytest.approx(value, abs=1e-8)


@given(rows)
def test_both_ends_rise_with_the_score_and_never_cross(drawn: list[tuple[float, bool]]) -> None:
    low, high = fit_band(*split(drawn))(GRID)
    assert np.all(np.diff(low) >= 0)
    assert np.all(np.diff(high) >= 0)
    assert np.all((low >= 0) & (low < high) & (high <= 1))


@given(rows, st.sampled_from([0.0, 0.01]))
def test_json_round_trip_is_exact(drawn: list[tuple[float, bool]], widen_share: float) -> None:
    found = fit_band(*split(drawn), widen_share)
    assert Band.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(rows)
def test_no_step_is_stored_twice(drawn: list[tuple[float, bool]]) -> None:
    found = fit_band(*split(drawn))
    for steps in ((0.0, *found.low), (*found.high, 1.0)):
        assert all(before < after for before, after in pairwise(steps))


@pytest.mark.parametrize(("raw", "happened"), [planted(100_000), planted(100_000, mean=-5.0)])
def test_a_hundred_thousand_rows_store_hundreds_of_steps_that_only_ever_widen(
    raw: np.ndarray, happened: np.ndarray
) -> None:
    exact, coarse = fit_band(raw, happened), fit_band(raw, happened, widen_share=0.01)
    assert max(len(exact.low), len(exact.high)) < 20_000
    assert max(len(coarse.low), len(coarse.high)) < 1_000
    (low, high), (lower, higher) = exact(raw), coarse(raw)
    assert np.all((lower <= low) & (low <= lower * 1.01 + 1e-15))
    assert np.all((higher >= high) & (high >= higher / 1.01 - 1e-15))


@given(rows, st.sampled_from([0.05, 1.0]))
def test_widening_never_narrows(drawn: list[tuple[float, bool]], share: float) -> None:
    raw, happened = split(drawn)
    (low, high), (lower, higher) = fit_band(raw, happened)(GRID), fit_band(raw, happened, share)(GRID)
    assert np.all((lower <= low) & (high <= higher))


def test_copies_of_rows_narrow_the_band_though_they_tell_nothing_new() -> None:
    """Documents what is not guaranteed: 60 minutes before one event are one fact, and the band counts them as 60."""
    raw, happened = planted(300, mean=-1.0)
    low, high = fit_band(raw, happened)(raw)
    copied_low, copied_high = fit_band(np.repeat(raw, 60), np.repeat(happened, 60))(raw)
    assert np.mean(copied_high - copied_low) < np.mean(high - low) / 10


def test_the_true_probability_may_lie_outside_the_band() -> None:
    """Documents what is not guaranteed: with 100,000 rows the band is narrower than the error of its own middle."""
    raw, happened = planted(100_000)
    low, high = fit_band(raw, happened)(raw)
    assert np.mean((raw < low) | (raw > high)) > 0.5
    assert np.mean(np.abs(fit_band(raw, happened).middle(raw) - raw)) < 0.01


def test_the_middle_lies_within_the_band() -> None:
    found = fit_band(*planted(500))
    low, high = found(GRID)
    assert np.all((low <= found.middle(GRID)) & (found.middle(GRID) <= high))


def test_nothing_known_is_the_widest_band_and_an_unknown_score_stays_unknown() -> None:
    assert fit_band(np.empty(0), np.empty(0)) == Band()
    assert Band()(np.array([0.5])) == (np.array([0.0]), np.array([1.0]))
    low, high = fit_band(*planted(50))(np.array([np.nan, 0.5]))
    assert np.isnan([low[0], high[0]]).all()
    assert np.isfinite([low[1], high[1]]).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        fit_band(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="raw must be finite"):
        fit_band(np.array([np.nan]), np.zeros(1))
    with pytest.raises(ValueError, match="0 or 1"):
        fit_band(np.zeros(1), np.array([np.nan]))
    with pytest.raises(ValueError, match="widen_share"):
        fit_band(np.zeros(1), np.zeros(1), widen_share=float("nan"))
