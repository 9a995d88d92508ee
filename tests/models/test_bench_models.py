"""What the benchmark of the models compares is comparable: its world holds a signal, and all programs find it."""

import numpy as np
import pytest

from models.fitting import TreeSettings
from models.periods import HORIZONS_MIN
from tests.bench.bench_cascade import Took
from tests.bench.bench_models import SEED, TITLES, Rows, falls, lifts, markdown, probabilities, row, trainers, world

QUICK = TreeSettings(rounds=30, threads=1)


def test_targets_of_the_world_never_fall_with_the_horizon_and_the_seed_decides() -> None:
    happened = Rows.of(world(3_000, SEED)).happened
    assert (np.diff(happened, axis=1) >= 0).all()
    assert (happened.mean(axis=0) > 0).all()
    assert world(500, 1).equals(world(500, 1))
    assert not world(500, 1).equals(world(500, 2))


@pytest.mark.parametrize("name", trainers(QUICK, full=False))
def test_every_program_finds_the_planted_signal_on_every_horizon(name: str) -> None:
    train, calibrate, test = (Rows.of(world(rows, SEED + k)) for k, rows in enumerate((20_000, 5_000, 20_000)))
    p = probabilities(trainers(QUICK, full=False)[name](train), train, calibrate)(test.values)
    assert p.shape == (20_000, len(HORIZONS_MIN))
    assert all(lift is not None and lift > 2 for lift in lifts(p, test.happened))
    if name.startswith("ours"):
        assert falls(p) == 0


def test_contradicting_horizons_are_counted_by_row() -> None:
    """Of four rows one falls once and one twice."""
    p = np.array([[0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1]])
    assert falls(p) == 0.5


def test_a_row_of_the_table_tells_cost_as_a_multiple_of_ours() -> None:
    """6 s of CPU against 2 s, 8 s of wall against 2 s; 12 rows in 6 s."""
    cells = row("train", "other", 12, Took(8.0, 6.0), Took(2.0, 2.0), "1.0", "0%")
    assert cells == ["train", "other", "12", "8", "6", "2", "3.00", "4.00", "1.0", "0%"]
    assert len(row("detector", "ecod", 12, Took(8.0, 6.0))) == len(TITLES)
    assert {line.count("|") for line in markdown([cells]).splitlines()} == {len(TITLES) + 1}
