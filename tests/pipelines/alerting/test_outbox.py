"""The outbox: all or nothing, told once, folded, tried again, given up loudly."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.alerting.alert import CLEARED, OPENED, REPEAT, news_of
from pipelines.alerting.lifecycle import Step
from pipelines.alerting.message import Message, messages
from pipelines.alerting.outbox import FAILED, SENT, UNCLEAR, Outbox, opened
from tests.pipelines.alerting.letters import KEY, alert, at, made, stands

OTHER = "breaker/testex/BBB/price_band"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    with opened(tmp_path) as made:
        yield made


def waiting(box: Outbox) -> list[tuple[str, str]]:
    return [(one.event, one.state) for one in box.open_letters()]


def test_what_a_run_found_is_recorded_once_however_often_it_is_tried(box: Outbox) -> None:
    assert box.record("testex", stands(KEY), at(10), [made()], at(11)) == 1
    assert box.record("testex", stands(KEY), at(10), [made()], at(12)) == 0
    assert waiting(box) == [(OPENED, "pending")]
    assert box.told_until("testex") == at(10)
    assert list(box.standing("testex")) == [KEY]


def test_what_cannot_be_recorded_whole_is_not_recorded_at_all(box: Outbox) -> None:
    def breaks() -> Iterator[Message]:
        yield made()
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        box.record("testex", stands(KEY), at(10), breaks(), at(11))
    assert (waiting(box), box.standing(), box.told_until("testex")) == ([], {}, None)


def test_a_venue_leaves_what_stands_of_another_alone(box: Outbox) -> None:
    box.record("testex", stands(KEY), at(10), [], at(11))
    box.record("other", stands(), at(10), [], at(11))
    assert list(box.standing()) == [KEY]


def test_told_until_never_goes_back(box: Outbox) -> None:
    for minute in (20, 10):
        box.record("testex", stands(), at(minute), [], at(21))
    assert box.told_until("testex") == at(20)


def test_an_attempt_is_unclear_until_its_end_is_known(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(11))
    assert box.begin(box.open_letters()[0], at(11)) == 1
    assert waiting(box) == [(OPENED, UNCLEAR)]
    assert box.begin(box.open_letters()[0], at(12)) == 2
    box.finish(box.open_letters()[0], SENT, "", at(12))
    assert waiting(box) == []


def test_pauses_double_up_to_an_hour(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(0))
    pauses = []
    for _ in range(8):
        (letter,) = box.open_letters()
        box.begin(letter, at(0))
        box.finish(letter, FAILED, "no", at(0))
        pauses.append((box.open_letters()[0].next_at - at(0)).total_seconds() / 60)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_opening_that_nobody_took_is_folded_into_its_recovery(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(10))
    assert box.fold(at(11)) == 0
    box.record("testex", stands(), at(40), [made(CLEARED, 40)], at(40))
    assert box.fold(at(41)) == 1
    assert waiting(box) == [(CLEARED, "pending")]


def test_repeats_that_pile_up_are_folded_into_the_newest(box: Outbox) -> None:
    for minute in (10, 25, 40):
        box.record("testex", stands(), at(minute), [made(REPEAT, minute)], at(minute))
    assert box.fold(at(41)) == 2
    assert [one.created_at for one in box.open_letters()] == [at(40)]


def test_a_message_is_kept_while_one_of_its_conditions_has_no_later_news(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made(keys=(KEY, OTHER))], at(10))
    box.record("testex", stands(), at(40), [made(CLEARED, 40)], at(40))
    assert box.fold(at(41)) == 0
    box.record("testex", stands(), at(50), [made(CLEARED, 50, (OTHER,))], at(50))
    assert box.fold(at(51)) == 1


def test_one_sink_is_not_folded_by_the_news_of_another(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(10))
    box.record("testex", stands(), at(40), [made(CLEARED, 40, sink="pager")], at(40))
    assert box.fold(at(41)) == 0


def test_what_was_given_up_does_not_fold_what_came_before(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(600))
    box.record("testex", stands(), at(40), [made(CLEARED, 40)], at(40))
    assert [one.event for one in box.expire(at(40 + 60), 1.0)] == [CLEARED]
    assert box.fold(at(601)) == 0


def test_what_nobody_took_in_time_is_given_up_and_named(box: Outbox) -> None:
    box.record("testex", stands(), at(10), [made()], at(10))
    assert box.expire(at(69), 1.0) == []
    assert [one.title for one in box.expire(at(70), 1.0)] == [made().title]
    assert (waiting(box), len(box.expired(at(69))), len(box.expired(at(70)))) == ([], 1, 0)


def test_the_worst_goes_first_then_the_oldest(box: Outbox) -> None:
    for minute, severity in ((10, 0), (20, 1), (30, 2), (40, 1)):
        news = [news_of(OPENED, at(minute), severity, alert(severity=severity), minute)]
        box.record("testex", stands(), at(minute), messages(news, "desk"), at(minute))
    assert [(one.severity, one.created_at) for one in box.open_letters()] == [
        (2, at(30)), (1, at(20)), (1, at(40)), (0, at(10))]  # fmt: skip


@pytest.mark.parametrize("wanted", [KEY, "breaker/", "breaker/testex/AAA/"])
def test_an_alert_is_acknowledged_by_its_key_or_what_it_begins_with(box: Outbox, wanted: str) -> None:
    box.record("testex", stands(KEY), at(10), [], at(11))
    assert box.acknowledge(wanted, "ana", at(99)) == [KEY]
    assert (box.standing()[KEY].acked_by, box.standing()[KEY].acked_until) == ("ana", at(99))


def test_an_acknowledgement_that_comes_while_a_run_looks_is_not_lost(box: Outbox) -> None:
    box.record("testex", stands(KEY), at(10), [], at(11))
    looked = stands(KEY)
    box.acknowledge(KEY, "ana", None)
    box.record("testex", looked, at(15), [], at(16))
    assert box.standing()[KEY].acked_by == "ana"
    worse = Step({KEY: replace(looked.standing[KEY], worst=2)}, ())
    box.record("testex", worse, at(20), [], at(21))
    assert box.standing()[KEY].acked_by == ""


@pytest.mark.parametrize("wanted", ["breaker", "", "nothing", "AAA"])
def test_what_stands_for_nothing_acknowledges_nothing(box: Outbox, wanted: str) -> None:
    box.record("testex", stands(KEY), at(10), [], at(11))
    assert box.acknowledge(wanted, "ana", None) == []


def test_old_messages_are_forgotten_and_their_news_with_them(box: Outbox, tmp_path: Path) -> None:
    box.record("testex", stands(), at(10), [made()], at(10))
    box.finish(box.open_letters()[0], SENT, "", at(10))
    box.forget(at(60 * 24 * 29))
    box.forget(at(60 * 24 * 31))
    with sqlite3.connect(tmp_path / "alerts" / "outbox.sqlite") as file:
        assert [file.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("messages", "members")] == [
            (0,), (0,)]  # fmt: skip
    file.close()


def test_failures_in_a_row_are_counted_by_interval_until_one_goes_well(box: Outbox) -> None:
    counts = []
    for minute in (5, 5, 10, 15):
        counts.append(box.failures("testex", at(minute)))
        box.record_failure("testex", stands(), at(minute), [], at(minute))
    assert counts == [1, 1, 2, 3]
    box.record("testex", stands(), at(20), [], at(20))
    assert box.failures("testex", at(25)) == 1
