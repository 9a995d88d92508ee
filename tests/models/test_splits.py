"""No label window of a train or calibrate row may reach a later slice."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.splits import Fit, Fold, Span, last_fit, venue_events, walk_forward

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
        parts = [taken(ts, fold, part) for part in ("train", "calibrate", "threshold", "test")]
        assert all(part.len() > 0 for part in parts)
        for earlier, later in pairwise(parts):
            label_window_end = earlier.max() + timedelta(minutes=purge_min)
            assert label_window_end + timedelta(minutes=embargo_min) <= later.min()


def walk_or_skip(ts: pl.Series, folds: int, purge_min: int, embargo_min: int) -> list[Fold]:
    distinct = ts.unique().sort()
    shortest = (distinct.len() // (folds + 3) - 1) * (distinct[1] - distinct[0])
    assume(shortest > timedelta(minutes=purge_min + embargo_min))
    return walk_forward(ts, folds, purge_min, embargo_min)


@settings(deadline=None)
@given(stamps, st.integers(1, 4))
def test_every_row_after_the_third_block_is_tested_exactly_once(ts: pl.Series, folds: int) -> None:
    found = walk_forward(ts, folds, 0, 0)
    tested = pl.concat([taken(ts, fold, "test") for fold in found])
    assert tested.len() == tested.to_frame("ts").filter(pl.col("ts") > found[0].threshold.end).height
    assert tested.max() == ts.max()
    assert tested.len() == ts.filter(ts > found[0].threshold.end).len()


def test_training_grows_and_never_reaches_beyond_the_test() -> None:
    folds = walk_forward(minutes(1000), 3, 15, 5)
    assert [fold.train.end < fold.calibrate.start < fold.calibrate.end < fold.test.start for fold in folds] == [
        True
    ] * 3
    assert all(earlier.train.end < later.train.end for earlier, later in pairwise(folds))


def test_the_gap_is_purge_plus_embargo_by_hand() -> None:
    """120 minutes 0..119 in 6 blocks of 20: the first ends at minute 19, so training ends 3 + 2 minutes earlier."""
    fold = walk_forward(minutes(120), 3, 3, 2)[0]
    assert fold.train.end == START + timedelta(minutes=14)
    assert fold.calibrate.start == START + timedelta(minutes=19)
    assert fold.threshold.start == START + timedelta(minutes=39)
    assert fold.threshold.end == START + timedelta(minutes=54)
    assert fold.test.start == START + timedelta(minutes=59)
    assert fold.test.end == START + timedelta(minutes=79)


def test_the_last_fit_uses_everything_up_to_the_end() -> None:
    ts = minutes(120)
    fit = last_fit(ts, 3, 3, 2)
    assert taken(ts, fit, "threshold").max() == ts.max()
    assert taken(ts, fit, "calibrate").max() == START + timedelta(minutes=99 - 5)
    assert taken(ts, fit, "train").max() == START + timedelta(minutes=79 - 5)


def test_no_border_cuts_an_event_of_the_venue() -> None:
    """Blocks of 20 minutes; A at 17..21 and B at 24..25, 3 minutes after: one event to 25 + 4. Border 19 moves."""
    at = [START + timedelta(minutes=minute) for minute in (17, 21, 24, 25)]
    found = pl.DataFrame({"symbol": ["A", "B"], "onset": [at[0], at[2]], "end": [at[1], at[3]]})
    together = venue_events(found, 0, 4)
    assert together == [Span(at[0], START + timedelta(minutes=29))]
    fold = walk_forward(minutes(120), 3, 3, 2, together)[0]
    assert fold.train.end == START + timedelta(minutes=29 - 5)
    assert fold.calibrate.start == START + timedelta(minutes=29)
    assert fold.threshold.start == START + timedelta(minutes=39), "the other borders stay"


def test_a_border_does_not_move_by_more_than_half_a_block() -> None:
    """Blocks of 20 minutes: an event from 17 to 31 moves no border, one to 29 does."""
    for end, moved in ((31, 19), (29, 29)):
        span = Span(START + timedelta(minutes=17), START + timedelta(minutes=end))
        fold = walk_forward(minutes(120), 3, 0, 0, [span])[0]
        assert fold.calibrate.start == START + timedelta(minutes=moved)


def test_events_that_lie_apart_stay_apart() -> None:
    at = [START + timedelta(minutes=minute) for minute in (0, 1, 10, 11)]
    found = pl.DataFrame({"symbol": ["B", "A"], "onset": [at[2], at[0]], "end": [at[3], at[1]]})
    assert [span.start for span in venue_events(found, 0, 5)] == [at[0], at[2]]
    assert len(venue_events(found, 5, 5)) == 1
    assert venue_events(found.clear(), 5, 5) == []


@pytest.mark.parametrize(
    ("count", "folds", "purge_min", "embargo_min", "message"),
    [
        (3, 3, 0, 0, "at least 6"),
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
