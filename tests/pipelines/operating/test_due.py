"""Which intervals are due: by hand, and as properties of any history under any clock."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import Config, ScheduleConfig
from pipelines.operating.due import History, due, grid, holding, together
from pipelines.times import Interval, parse_time

SETTINGS = ScheduleConfig()
STEP = timedelta(minutes=5)
NOON = parse_time("2025-01-02T12:00Z")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ends(found: tuple[Interval, ...]) -> list[str]:
    return [f"{one.end:%H:%M}" for one in found]


def done(*minutes: int, failed: dict[int, int] | None = None) -> History:
    stamps = [at(minute) for minute in minutes]
    tries = {at(minute): count for minute, count in (failed or {}).items()}
    everything = [*stamps, *tries]
    return History(min(everything), max(stamps, default=None), frozenset(stamps), tries)


def test_an_interval_is_due_once_its_rows_have_settled_and_not_a_second_before() -> None:
    assert ends(due(SETTINGS, done(0), at(5) + timedelta(seconds=19.9)).intervals) == []
    found = due(SETTINGS, done(0), at(5) + timedelta(seconds=20))
    assert found.intervals == (Interval(at(0), at(5)),)
    assert found.notes == ()


def test_a_first_run_takes_the_last_whole_interval_and_no_history() -> None:
    assert ends(due(SETTINGS, History(), at(7)).intervals) == ["12:05"]


def test_missed_intervals_are_caught_up_oldest_first() -> None:
    assert ends(due(SETTINGS, done(0), at(16)).intervals) == ["12:05", "12:10", "12:15"]


def test_what_was_missed_too_long_ago_is_named_with_the_command_that_does_it() -> None:
    """Down for 26 hours with 24 to catch up: 288 intervals are due, the two hours before are told."""
    found = due(SETTINGS, done(0), at(26 * 60) + timedelta(seconds=30))
    assert len(found.intervals) == 24 * 12
    assert found.intervals[0].start == at(2 * 60)
    assert found.too_old == Interval(at(0), at(2 * 60))
    assert "backfill --from 2025-01-02T12:00Z --to 2025-01-02T14:00Z" in found.notes[0]


def test_a_clock_that_was_put_back_makes_nothing_due_twice_and_is_named() -> None:
    found = due(SETTINGS, done(*range(-60, 15, 5)), at(-30))
    assert found.intervals == ()
    assert "the clock was put back" in found.notes[0]


def test_a_first_run_under_a_clock_that_had_run_ahead_does_not_stop_the_schedule() -> None:
    """Otherwise nothing would be due until the wrong clock's time has come, perhaps in a year."""
    found = due(SETTINGS, done(500_000), at(7))
    assert ends(found.intervals) == ["12:05"]
    assert "had run ahead" in found.notes[0]


def test_an_interval_that_failed_is_due_again_until_it_has_failed_often_enough() -> None:
    again = due(SETTINGS, done(0, 10, failed={5: 2}), at(16))
    assert ends(again.intervals) == ["12:05", "12:15"]
    enough = due(SETTINGS, done(0, 10, failed={5: 3}), at(16))
    assert ends(enough.intervals) == ["12:15"]
    assert ends(enough.given_up) == ["12:05"]
    assert "FAILED 3 times" in enough.notes[0]


def test_neighbours_run_together_but_not_over_midnight_and_none_that_has_failed() -> None:
    run = tuple(grid(parse_time("2025-01-02T23:50Z"), parse_time("2025-01-03T00:15Z"), STEP))
    assert [ends(group) for group in together(run, {})] == [["23:50", "23:55", "00:00"], ["00:05", "00:10", "00:15"]]
    alone = together(run[:3], {run[1].end: 1})
    assert [ends(group) for group in alone] == [["23:50"], ["23:55"], ["00:00"]]
    assert [ends(group) for group in together((run[0], run[2]), {})] == [["23:50"], ["00:00"]]


def test_a_stamp_on_an_end_belongs_to_the_interval_that_ends_there() -> None:
    assert holding(at(5), STEP) == Interval(at(0), at(5))
    assert holding(at(5) + timedelta(microseconds=1), STEP) == Interval(at(5), at(10))


def test_the_grid_holds_every_full_hour() -> None:
    with pytest.raises(ValueError, match="must divide 60"):
        ScheduleConfig(interval_min=7)
    assert Config(schedule={"interval_min": 15}).schedule.interval_min == 15  # type: ignore[arg-type]


@given(
    st.sets(st.integers(-400, 400), max_size=30),
    st.dictionaries(st.integers(-400, 400), st.integers(1, 6), max_size=10),
    st.floats(-3000, 3000),
)
def test_nothing_is_due_that_is_done_or_not_over_or_out_of_order(
    steps: set[int], tries: dict[int, int], clock: float
) -> None:
    tries = {nth: count for nth, count in tries.items() if nth not in steps}
    history = (
        History()
        if not steps and not tries
        else done(*(5 * n for n in steps), failed={5 * n: c for n, c in tries.items()})
    )
    now = at(clock)
    found = due(SETTINGS, history, now).intervals
    assert not {one.end for one in found} & history.done
    assert all(one.end + timedelta(seconds=20) <= now for one in found)
    assert all(now - one.end <= timedelta(hours=24) for one in found)
    assert list(found) == sorted(found, key=lambda one: one.end)
    assert all(one.end - one.start == STEP and one.end.minute % 5 == 0 for one in found)
    assert all(history.failed.get(one.end, 0) < SETTINGS.attempts_max for one in found)
