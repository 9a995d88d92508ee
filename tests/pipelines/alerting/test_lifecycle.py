"""Told once when it begins, with a cadence while it lasts, once when it is over, never twice."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines.alerting.alert import CLEARED, OPENED, PASSED, REPEAT, RESET, WORSE, Alert, Standing, from_json, to_json
from pipelines.alerting.lifecycle import Step, advance
from pipelines.alerting.seen import RESET_STATE, Sight
from pipelines.config import AlertsConfig
from tests.pipelines.alerting.letters import KEY, alert, at

RULES = AlertsConfig()


def lasting(*alerts: Alert) -> dict[str, Sight]:
    return {"breaker": Sight(alerts, frozenset(one.key for one in alerts if one.until is None))}


GONE = lasting()
UNJUDGED = {"breaker": Sight((), None)}


def told(step: Step) -> list[str]:
    return [one.event for one in step.news]


def walk(*minutes: tuple[float, dict[str, Sight]], rules: AlertsConfig = RULES) -> list[tuple[float, list[str]]]:
    """What is told at the end of each interval."""
    stands: dict[str, Standing] = {}
    until, found = None, []
    for minute, sights in minutes:
        step = advance(stands, sights, at(minute), until, rules)
        stands, until = step.standing, at(minute)
        found.append((minute, told(step)))
    return found


def test_a_warning_is_told_at_once_and_again_every_hour() -> None:
    seen = lasting(alert())
    found = walk(*((minute, seen) for minute in range(10, 151, 10)))
    assert [minute for minute, events in found if events] == [10, 70, 130]
    assert [events for _, events in found if events] == [[OPENED], [REPEAT], [REPEAT]]


def test_critical_is_repeated_every_quarter_of_an_hour_and_info_never() -> None:
    found = walk(*((minute, lasting(alert(severity=2))) for minute in range(10, 45, 5)))
    assert [minute for minute, events in found if events] == [10, 25, 40]
    found = walk(*((minute, lasting(alert(severity=0))) for minute in range(10, 6000, 60)))
    assert [minute for minute, events in found if events] == [10]


def test_what_was_acknowledged_is_silent_until_it_gets_worse() -> None:
    first = advance({}, lasting(alert()), at(10), None, RULES)
    acked = {KEY: replace(first.standing[KEY], acked_by="ana")}
    assert told(advance(acked, lasting(alert()), at(300), at(295), RULES)) == []
    worse = advance(acked, lasting(alert(severity=2)), at(300), at(295), RULES)
    assert told(worse) == [WORSE]
    assert worse.standing[KEY].acked_by == ""
    assert told(advance(worse.standing, lasting(alert(severity=2)), at(315), at(310), RULES)) == [REPEAT]


def test_an_acknowledgement_ends_when_it_says() -> None:
    first = advance({}, lasting(alert()), at(10), None, RULES).standing[KEY]
    acked = {KEY: replace(first, acked_by="ana", acked_until=at(200))}
    assert told(advance(acked, lasting(alert()), at(199), at(194), RULES)) == []
    assert told(advance(acked, lasting(alert()), at(200), at(199), RULES)) == [REPEAT]


def test_milder_is_not_told_and_as_bad_as_before_is_not_worse() -> None:
    bad, mild = lasting(alert(severity=1)), lasting(alert(severity=0))
    assert walk((10, bad), (15, mild), (20, bad), (25, mild)) == [(10, [OPENED]), (15, []), (20, []), (25, [])]


def test_recovery_is_told_once_after_the_hold() -> None:
    found = walk((10, lasting(alert())), (15, GONE), (20, GONE), (25, GONE), (30, GONE))
    assert found == [(10, [OPENED]), (15, []), (20, []), (25, [CLEARED]), (30, [])]


def test_what_comes_back_within_the_hold_is_the_same_spell() -> None:
    seen = lasting(alert())
    found = walk((10, seen), (15, GONE), (20, seen), (25, GONE), (30, GONE), (35, GONE))
    assert [(minute, events) for minute, events in found if events] == [(10, [OPENED]), (35, [CLEARED])]  # 25 + 10


def test_the_recovery_says_from_when_to_when_and_reaches_whoever_heard_the_worst() -> None:
    over = lasting(alert(severity=0, until=40))
    first = advance({}, lasting(alert(severity=2)), at(10), None, RULES)
    (news,) = advance(first.standing, over, at(55), at(10), RULES).news
    assert (news.event, news.severity, news.alert.since, news.alert.until) == (CLEARED, 2, at(10), at(40))


def test_a_spell_between_two_runs_is_told_once_and_not_remembered() -> None:
    brief = lasting(alert(until=40))
    step = advance({}, brief, at(60), at(0), RULES)
    assert (told(step), step.standing) == ([PASSED], {})
    assert told(advance({}, brief, at(120), at(60), RULES)) == []


def test_what_was_not_judged_is_not_gone() -> None:
    found = walk((10, lasting(alert())), (15, UNJUDGED), (40, UNJUDGED), (70, UNJUDGED), (75, GONE), (85, GONE))
    assert [(minute, events) for minute, events in found if events] == [(10, [OPENED]), (70, [REPEAT]), (85, [CLEARED])]


def test_what_has_gone_does_not_come_back_because_nobody_looked() -> None:
    found = walk((10, lasting(alert())), (15, lasting(alert(until=14))), (20, UNJUDGED), (25, UNJUDGED))
    assert [(minute, events) for minute, events in found if events] == [(10, [OPENED]), (25, [CLEARED])]  # 14 + 10


def test_a_persons_reset_is_told_once() -> None:
    freed = lasting(alert(severity=0, state=RESET_STATE))
    assert walk((10, lasting(alert(severity=2))), (15, freed), (20, freed)) == [(10, [OPENED]), (15, [RESET]), (20, [])]


def test_every_telling_has_an_id_of_its_own_and_a_rerun_the_same_ones() -> None:
    first = advance({}, lasting(alert()), at(10), None, RULES)
    again = advance({}, lasting(alert()), at(10), None, RULES)
    repeat = advance(first.standing, lasting(alert()), at(70), at(10), RULES)
    third = advance(repeat.standing, lasting(alert()), at(130), at(70), RULES)
    later = advance({}, lasting(alert(since=65)), at(70), at(10), RULES)
    assert first.news == again.news
    assert len({one.id for step in (first, repeat, third, later) for one in step.news}) == 4


def test_a_spell_keeps_its_beginning_however_little_later_runs_can_see_of_it() -> None:
    first = advance({}, lasting(alert(since=10)), at(10), None, RULES)
    later = advance(first.standing, lasting(alert(since=65, severity=2)), at(70), at(10), RULES)
    assert later.standing[KEY].alert.since == later.news[0].alert.since == at(10)


def test_what_stands_survives_the_disk() -> None:
    stands = advance({}, lasting(alert(until=None)), at(10), None, RULES).standing[KEY]
    full = replace(stands, acked_by="ana", acked_until=at(99), until=at(12))
    assert from_json(to_json(full)) == full


@given(st.lists(st.sampled_from(["none", 0, 1, 2]), min_size=1, max_size=60))
def test_whatever_a_condition_does_each_spell_has_one_opening_and_at_most_one_end(seen: list[str | int]) -> None:
    """Events alternate: opened (worse | repeat)* cleared; repeats keep their distance; nothing lasts untold."""
    stands: dict[str, Standing] = {}
    is_open, last = False, -1000.0
    for step_no, severity in enumerate(seen):
        minute = 5.0 * (step_no + 3)
        sights = GONE if severity == "none" else lasting(alert(severity=int(severity), since=minute))
        step = advance(stands, sights, at(minute), at(minute - 5), RULES)
        for event in told(step):
            assert (event == OPENED) == (not is_open)
            assert event != REPEAT or minute - last >= 15
            is_open, last = event != CLEARED, minute
        stands = step.standing
        assert is_open == (KEY in stands)
        assert severity == "none" or is_open
