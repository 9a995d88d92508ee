"""First passage against the published figures, its own inverse and simulated walks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.first_passage import first_passage_quantile_s, touch_probability


def test_two_percent_away_at_eighty_percent_a_year() -> None:
    """sigma over 1 h = .8 / sqrt(8 760) = .00854750; 2 Phi(-.02 / .00854750) = 2 Phi(-2.339865) = .019290."""
    assert touch_probability(0.02, 0.8, [3_600, 86_400]) == pytest.approx([0.019290, 0.632918], abs=5e-7)


def test_quantile_times_of_the_same_position() -> None:
    """q50: z = .674490; (.02 / (.8 * .674490)) ** 2 = .00137382 years of 31 536 000 s = 43 325 s."""
    assert first_passage_quantile_s(0.02, 0.8, [0.05, 0.25, 0.5]) == pytest.approx([5_131, 14_895, 43_325], abs=0.5)


def test_the_length_of_the_year_is_the_venues() -> None:
    """365.25 days instead of 365: every time is longer by 365.25 / 365, as sigma is spread over more of it."""
    ratio = first_passage_quantile_s(0.02, 0.8, 0.5, year_days=365.25) / first_passage_quantile_s(0.02, 0.8, 0.5)
    assert ratio == pytest.approx(365.25 / 365, rel=1e-12)


@given(st.floats(1e-4, 0.5), st.floats(0.05, 3.0), st.floats(0.001, 0.99))
def test_quantile_and_probability_are_inverses(distance: float, sigma: float, quantile: float) -> None:
    time_s = first_passage_quantile_s(distance, sigma, quantile)
    assert touch_probability(distance, sigma, time_s) == pytest.approx(quantile, rel=1e-9)


def test_a_level_that_is_touched_takes_no_time() -> None:
    assert first_passage_quantile_s([0.0, -0.1], 0.8, 0.5).tolist() == [0.0, 0.0]
    assert touch_probability([0.0, -0.1], 0.8, 60.0).tolist() == [1.0, 1.0]


def test_random_walks_touch_as_often_as_the_formula_says() -> None:
    """Walks of 2 000 steps miss touches between steps: the level is moved out by .5826 steps (Broadie et al., 1997)."""
    rng = np.random.default_rng(7)
    steps, walks = 2_000, 4_000
    sigma_step = 0.8 * np.sqrt(86_400 / steps / (365 * 86_400))
    lowest = np.zeros(walks)
    now = np.zeros(walks)
    for _ in range(steps):
        now += rng.normal(scale=sigma_step, size=walks)
        np.minimum(lowest, now, out=lowest)
    touched = (lowest <= -(0.02 - 0.5826 * sigma_step)).mean()
    assert touched == pytest.approx(touch_probability(0.02, 0.8, 86_400).item(), abs=4 * np.sqrt(0.25 / walks))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.02, 0.0, 0.5), "sigma_year"),
        ((0.02, float("nan"), 0.5), "sigma_year"),
        ((float("nan"), 0.8, 0.5), "distance"),
        ((0.02, 0.8, 0.0), "quantile"),
        ((0.02, 0.8, 1.0), "quantile"),
        ((0.02, 0.8, 0.5, 0.0), "year_days"),
    ],
)
def test_what_is_no_distance_volatility_or_quantile_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        first_passage_quantile_s(*arguments)


def test_a_horizon_must_be_positive() -> None:
    with pytest.raises(ValueError, match="horizon_s"):
        touch_probability(0.02, 0.8, 0.0)
