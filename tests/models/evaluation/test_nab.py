"""The benchmark's score by hand, and what its rules make of silence, perfection and a clock."""

import math

import numpy as np
import pytest

from models.evaluation.nab import PROFILES, normalised, probation, raw_score, sigma

STANDARD = PROFILES["standard"]


def flags(rows: int, *detected: int) -> np.ndarray:
    return np.isin(np.arange(rows), detected)


def s(y: float) -> float:
    return 2 / (1 + math.exp(5 * y)) - 1


# 1000 rows, probation 150; a window of 100 rows from 400 to 499
HAND = [
    ("nothing: the window is missed", [], -1.0),
    ("its first row earns all", [400], 1.0),
    ("its middle: sigma(-50 / 100) / sigma(-1)", [450], s(-0.5) / s(-1)),
    ("its last row: sigma(-1 / 100) / sigma(-1)", [499], s(-0.01) / s(-1)),
    ("of several the best counts", [450, 499, 480], s(-0.5) / s(-1)),
    ("before the window a false alarm costs all of .11", [300], -1.0 - 0.11),
    ("a row after it little: sigma(1 / 99)", [500], -1.0 + 0.11 * s(1 / 99)),
    ("far after it all, beyond y = 3", [900], -1.0 - 0.11),
    ("in probation nothing counts", [149], -1.0),
    ("the first row after it does", [150], -1.0 - 0.11),
]


@pytest.mark.parametrize(("detected", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_by_hand(detected: list[int], want: float) -> None:
    assert raw_score(flags(1000, *detected), [(400, 499)], STANDARD) == pytest.approx(want)


def test_two_windows_and_a_false_alarm_between_them_is_measured_from_the_first() -> None:
    found = raw_score(flags(1000, 400, 560, 800), [(400, 499), (800, 899)], STANDARD)
    assert found == pytest.approx(1.0 + 1.0 + 0.11 * s(61 / 99))


def test_profiles_weigh_false_alarms_and_misses() -> None:
    detected = flags(1000, 300)
    got = {name: raw_score(detected, [(400, 499)], profile) for name, profile in PROFILES.items()}
    assert got == pytest.approx({"standard": -1.11, "reward_low_fp": -1.22, "reward_low_fn": -2.11})


def test_silence_is_null_and_perfection_a_hundred_in_every_profile() -> None:
    for profile in PROFILES.values():
        silent, perfect = (raw_score(flags(1000, *at), [(400, 499)], profile) for at in ([], [400]))
        assert normalised(silent, 1, profile) == 0.0
        assert normalised(perfect, 1, profile) == pytest.approx(100.0)
    assert normalised(0.0, 0, STANDARD) is None


def test_without_windows_every_detection_is_false() -> None:
    assert raw_score(flags(1000, 200, 900), [], STANDARD) == pytest.approx(-0.22)


def test_sigma_and_probation() -> None:
    assert sigma(np.array([3.0, 3.1])) == pytest.approx([s(3.0), -1.0])
    assert [probation(rows) for rows in (0, 100, 4999, 5001)] == [0, 15, 749, 750]
