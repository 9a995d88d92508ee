"""No label window of a train or calibrate row may reach a later slice."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.splits import Fit, Fold, last_fit, walk_forward

START = datetime(2025, 1, 1, tzinfo=UTC)


def minutes(count: int, step_min: int = 1) -> pl.Series:
    return pl.Series(
        "ts", [START + timedelta(minutes=k * step_min) for k in range(count)], dtype=pl.Datetime("us", "UTC")
    )


def taken(ts: pl.Series, fold: Fit, part: str) -> pl.Series:
    return ts.to_frame("ts").filter(getattr(fold, part).rows())["ts"]


stamps = st.integers(200, 600).flatmap(
    lambda count: st.integers(1, 5).map(lambda step: pl.concat([minutes(count, step)] * 2).shuffle(seed=count))
)


@settings(deadline=None)
@given(stamps, st.integers(1, 4), st.integers(0, 30), st.integers(0, 30))
def test_no_label_window_touches_a_later_slice(ts: pl.Series, folds: int, purge_min: int, embargo_min: int) -> None:
    found = walk_or_skip(ts, folds, purge_min, embargo_min)
    assert len(found) == folds
    for fold in found:
        parts = [taken(ts, fold, part) for part in ("train", "calibrate", "test")]
        assert all(part.len() > 0 for part in parts)
        for earlier, later in pairwise(parts):
            label_window_end = earlier.max() + timedelta(minutes=purge_min)
            assert label_window_end + timedelta(minutes=embargo_min) <= later.min()


def walk_or_skip(ts: pl.Series, folds: int, purge_min: int, embargo_min: int) -> list[Fold]:
    distinct = ts.unique().sort()
    shortest = (distinct.len() // (folds + 2) - 1) * (distinct[1] - distinct[0])
    assume(shortest > timedelta(minutes=purge_min + embargo_min))
    return walk_forward(ts, folds, purge_min, embargo_min)


@settings(deadline=None)
@given(stamps, st.integers(1, 4))
def test_every_row_after_the_second_block_is_tested_exactly_once(ts: pl.Series, folds: int) -> None:
    found = walk_forward(ts, folds, 0, 0)
    tested = pl.concat([taken(ts, fold, "test") for fold in found])
    assert tested.len() == tested.to_frame("ts").filter(pl.col("ts") > found[0].calibrate.end).height
    assert tested.max() == ts.max()
    assert tested.len() == ts.filter(ts > found[0].calibrate.end).len()


def test_training_grows_and_never_reaches_beyond_the_test() -> None:
    folds = walk_forward(minutes(1000), 3, 15, 5)
    assert [fold.train.end < fold.calibrate.start < fold.calibrate.end < fold.test.start for fold in folds] == [
        True
    ] * 3
    assert all(earlier.train.end < later.train.end for earlier, later in pairwise(folds))


def test_the_gap_is_purge_plus_embargo_by_hand() -> None:
    """100 minutes 0..99 in 5 blocks of 20: the first ends at minute 19, so training ends 3 + 2 minutes earlier."""
    fold = walk_forward(minutes(100), 3, 3, 2)[0]
    assert fold.train.end == START + timedelta(minutes=14)
    assert fold.calibrate.start == START + timedelta(minutes=19)
    assert fold.test.start == START + timedelta(minutes=39)
    assert fold.test.end == START + timedelta(minutes=59)


def test_the_last_fit_uses_everything_up_to_the_end() -> None:
    ts = minutes(100)
    fit = last_fit(ts, 3, 3, 2)
    assert taken(ts, fit, "calibrate").max() == ts.max()
    assert taken(ts, fit, "train").max() == START + timedelta(minutes=79 - 5)


@pytest.mark.parametrize(
    ("count", "folds", "purge_min", "embargo_min", "message"),
    [
        (3, 3, 0, 0, "at least 5"),
        (100, 0, 0, 0, "folds"),
        (100, 3, 20, 0, "longer than the gap"),
        (100, 3, -1, 0, "negative"),
    ],
)
def test_impossible_splits_say_what_is_wrong(
    count: int, folds: int, purge_min: int, embargo_min: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        walk_forward(minutes(count), folds, purge_min, embargo_min)
