"""Many intervals with faults injected: what is told is what an undisturbed run tells, and once."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from pipelines.alerting import deliver as module
from pipelines.alerting import outbox
from pipelines.alerting.deliver import deliver
from pipelines.alerting.lifecycle import advance
from pipelines.alerting.message import messages
from pipelines.alerting.outbox import FAILED, SENT, UNCLEAR, Letter, Outbox, opened
from pipelines.alerting.seen import Sight
from pipelines.alerting.sinks import Outcome
from pipelines.config import AlertsConfig, SinkConfig
from tests.pipelines.alerting.letters import alert, at

KEYS = [f"breaker/testex/{symbol}/price_band" for symbol in ("AAA", "BBB", "CCC")]
INTERVALS = 150
RULES = AlertsConfig(sinks=(SinkConfig(name="desk", url_env="DESK_URL"),), expire_h=24 * 30)


class Killed(BaseException):
    """The process is gone: nothing below catches it."""


def market(seed: int) -> list[Sight]:
    """What is in force at the end of every interval: each breaker opens, worsens, eases and closes at random."""
    dice, severity, since = random.Random(seed), dict.fromkeys(KEYS, -1), dict.fromkeys(KEYS, 0.0)
    sights = []
    for number in range(INTERVALS):
        for key in KEYS:
            if dice.random() < 0.15:
                since[key] = 5.0 * number if severity[key] < 0 else since[key]
                severity[key] = dice.choice((-1, -1, 0, 1, 2))
        held = [alert(key, severity[key], since[key]) for key in KEYS if severity[key] >= 0]
        sights.append(Sight(tuple(held), frozenset(one.key for one in held)))
    return sights


class Desk:
    """A sink that takes, refuses, hangs, or sees its sender die before or after it took the message."""

    def __init__(self, dice: random.Random | None) -> None:
        self.dice, self.got, self.unclear = dice, list[str](), set[str]()

    def send(self, _sink: object, _url: str, letter: Letter, _attempt: int, _timeout_s: float) -> Outcome:
        fault = "" if self.dice is None else self.dice.choice(("", "", "no", "hang", "killed before", "killed after"))
        if fault == "no":
            return Outcome(FAILED, "503")
        if fault in ("hang", "killed before"):
            self.unclear.add(letter.id)
        if fault == "killed before":
            raise Killed
        if fault != "hang" or (self.dice is not None and self.dice.random() < 0.5):
            self.got.append(letter.id)
        if fault == "killed after":
            self.unclear.add(letter.id)
            raise Killed
        return Outcome(UNCLEAR, "no answer") if fault == "hang" else Outcome(SENT)


def interval(box: Outbox, number: int, sight: Sight) -> None:
    end = at(5 * (number + 1))
    step = advance(box.standing("testex"), {"breaker": sight}, end, box.told_until("testex"), RULES)
    box.record("testex", step, end, messages(box.fresh(step.news, "desk"), "desk"), end)


def soak(root: Path, sights: list[Sight], desk: Desk, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Run every interval, again where it was killed; returns the message and the state in which each news ended."""
    monkeypatch.setattr(outbox, "SYNCHRONOUS", "OFF")  # nobody pulls the plug here, and a disk is slow
    monkeypatch.setattr(module, "send", desk.send)
    monkeypatch.setattr(module, "_all_sinks", _in_this_thread)
    record = Outbox._add
    for number, sight in enumerate(sights):
        dying = desk.dice is not None and desk.dice.random() < 0.2
        if dying:
            monkeypatch.setattr(Outbox, "_add", _dies)
        with opened(root) as box:
            try:
                interval(box, number, sight)
            except Killed:
                monkeypatch.setattr(Outbox, "_add", record)
                interval(box, number, sight)
        monkeypatch.setattr(Outbox, "_add", record)
        with opened(root) as box:
            interval(box, number, sight)  # every interval is run a second time
        _round(root, 5 * (number + 1) + 1)
    desk.dice = None
    for hour in range(3):
        _round(root, 5 * INTERVALS + 61 * (hour + 1))
    query = "SELECT news_id, message_id, state FROM members JOIN messages ON messages.id = members.message_id"
    with sqlite3.connect(root / "alerts" / "outbox.sqlite") as file:
        found = {news: (made, state) for news, made, state in file.execute(query)}
    file.close()
    return found


def _dies(*_: object) -> bool:
    raise Killed


def _in_this_thread(turn: module.Round, due: list[Letter], done: module.Delivered) -> None:
    """A kill is an exception here, and one in another thread would be lost."""
    done.sent, _ = module._one_sink(turn, turn.settings.sinks[0], due)


def _round(root: Path, minute: float) -> None:
    try:
        deliver(root, RULES, {"DESK_URL": "json://x"}, at(minute))
    except Killed:
        return


def test_faults_change_nothing_of_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sights, calm, rough = market(1), Desk(None), Desk(random.Random(1))
    quiet = soak(tmp_path / "calm", sights, calm, monkeypatch)
    loud = soak(tmp_path / "rough", sights, rough, monkeypatch)
    assert len(quiet) > 50
    assert len(rough.unclear) > 10
    assert set(loud) == set(quiet)  # no news is lost, none is invented
    assert {state for _, state in quiet.values()} == {SENT}
    assert {state for _, state in loud.values()} == {SENT, "folded"}
    assert {made for made, state in loud.values() if state == SENT} <= set(rough.got)
    assert max(Counter(calm.got).values()) == 1
    repeated = {made for made, times in Counter(rough.got).items() if times > 1}
    assert repeated <= rough.unclear
