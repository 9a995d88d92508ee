"""Messages as they arrive: real servers on the loopback, errors, hangs, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from pipelines.alerting.deliver import Delivered, cry, deliver, tried
from pipelines.alerting.interval import record_interval
from pipelines.alerting.outbox import FAILED, PENDING, UNCLEAR, opened
from pipelines.alerting.outcomes import alert_outcomes
from pipelines.alerting.sinks import Outcome
from pipelines.config import AlertsConfig, Config, SinkConfig
from tests.pipelines.alerting.letters import KEY, at, made, stands
from tests.pipelines.alerting.worlds import VENUE, Market, decision, hook, mail, settings
from tests.pipelines.servers import free_port

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[3]
DESK = SinkConfig(name="desk", url_env="DESK_URL")


def recorded(root: Path, *minutes: float, sink: str = "desk") -> None:
    with opened(root) as box:
        for minute in minutes:
            box.record(
                "testex", stands(KEY), at(minute), [made(minute=minute, keys=(f"{KEY}{minute}",), sink=sink)], at(0)
            )


def round_of(root: Path, *sinks: SinkConfig, now: datetime | None = None, **urls: str) -> Delivered:
    return deliver(root, AlertsConfig(sinks=sinks, timeout_s=0.5), urls, now or at(1))


def states(root: Path) -> list[tuple[str, int]]:
    with opened(root) as box:
        return [(one.state, one.attempts) for one in box.open_letters()]


def test_a_webhook_gets_text_and_fields_once(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    with hook() as desk:
        done = [round_of(tmp_path, DESK, DESK_URL=desk.url) for _ in range(2)]
        (got,), (headers,) = desk.got, desk.headers
    assert [one.sent for one in done] == [1, 0]
    assert got["title"] == "WARNING testex: AAA: reduce only by price band10"
    assert got["message"].startswith(got["title"])
    assert (got["type"], got["severity"], got["event"], got["venue"]) == ("warning", "warning", "opened", "testex")
    assert (got["keys"], got["attempt"]) == (f"{KEY}10", "1")
    assert got["id"] == headers["Idempotency-Key"]
    assert "repeat" not in got["message"]


def test_a_mail_arrives_as_text_and_carries_no_markup_of_its_own(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    with mail() as (port, letters):
        url = f"mailto://127.0.0.1:{port}?from=risk@example.org&to=desk@example.org&mode=insecure&format=text"
        done = round_of(tmp_path, DESK, DESK_URL=url)
    assert (done.sent, done.failed) == (1, {})
    (letter,) = letters
    assert "Subject: WARNING testex: AAA" in letter
    assert "To: desk@example.org" in letter


def test_a_sink_that_says_no_is_tried_again_with_the_same_id_and_says_so(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    with hook(500, 200) as desk:
        first = round_of(tmp_path, DESK, DESK_URL=desk.url)
        assert states(tmp_path) == [(FAILED, 1)]
        assert round_of(tmp_path, DESK, DESK_URL=desk.url, now=at(1.9)).sent == 0  # the pause is a minute
        second = round_of(tmp_path, DESK, DESK_URL=desk.url, now=at(2))
        one, two = desk.got
    assert (first.sent, second.sent) == (0, 1)
    assert "500" in first.failed["desk"]
    assert one["id"] == two["id"]
    assert two["message"].endswith(f"May be a repeat: attempt 2 of message {two['id']}.")


def test_a_sink_that_hangs_is_left_behind_in_time_and_nobody_knows(tmp_path: Path) -> None:
    recorded(tmp_path, 10, 20)
    with hook(20.0, 200) as desk:
        began = time.monotonic()
        done = round_of(tmp_path, DESK, DESK_URL=desk.url)
        took_s = time.monotonic() - began
    assert took_s < 10  # one timeout of 0.5 s, not two: the second message is not begun
    assert done.failed == {"desk": "no answer within 0.5 s"}
    assert states(tmp_path) == [(UNCLEAR, 1), (PENDING, 0)]


def test_refused_unknown_and_unset_addresses_cost_their_own_sink_alone(tmp_path: Path) -> None:
    names = ("refused", "unknown", "unset", "fine")
    sinks = [SinkConfig(name=name, url_env=f"{name.upper()}_URL") for name in names]
    for name in names:
        recorded(tmp_path, 10, sink=name)
    with hook() as desk:
        done = round_of(
            tmp_path,
            *sinks,
            REFUSED_URL=f"json://127.0.0.1:{free_port()}",
            UNKNOWN_URL="nonsense://x",
            FINE_URL=desk.url,
        )
    assert (done.sent, sorted(done.failed)) == (1, ["refused", "unknown", "unset"])
    assert done.failed["unset"] == "the environment variable UNSET_URL is empty"
    assert done.failed["unknown"] == "the address is none that Apprise knows"
    assert "onnection" in done.failed["refused"]


def test_a_hanging_sink_does_not_hold_up_another(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    recorded(tmp_path, 10, sink="other")
    with hook(20.0) as slow, hook() as desk:
        done = round_of(
            tmp_path, DESK, SinkConfig(name="other", url_env="OTHER_URL"), DESK_URL=slow.url, OTHER_URL=desk.url
        )
        assert len(desk.got) == 1
    assert (done.sent, list(done.failed)) == (1, ["desk"])


def test_a_sink_that_left_the_settings_is_named_until_its_messages_are_given_up(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    assert round_of(tmp_path).failed == {"desk": "no sink of this name is in the settings any more"}
    assert round_of(tmp_path, now=at(24 * 60)).expired == ["WARNING testex: AAA: reduce only by price band10"]


def test_what_piled_up_while_a_sink_was_down_arrives_as_what_is_still_true(tmp_path: Path) -> None:
    """A breach, its repeats and its end, while nobody listens: one message, of the end."""
    market, desk_settings = Market(tmp_path), settings(tmp_path, DESK, timeout_s=0.5)
    spans = [market.guarded(10, 15, [decision(12, "AAA", "closed", "open", "halted")], [("AAA", "price_band", "open")])]
    spans += [market.guarded(end - 15, end, [], [("AAA", "price_band", "open")]) for end in (30, 45)]
    spans += [market.guarded(45, 60, [decision(50, "AAA", "open", "closed", "normal")])]
    spans += [market.guarded(60, 65)]
    with hook(503) as desk:
        for told in spans:
            record_interval(market.lake, desk_settings, VENUE, told, told.end)
            tried(tmp_path, desk_settings, {"DESK_URL": desk.url}, told.end)
        desk.answers[:] = [200]
        desk.got.clear()
        done = deliver(tmp_path, desk_settings.alerts, {"DESK_URL": desk.url}, at(200))
        assert (done.sent, desk.titles) == (1, ["INFO testex: cleared: AAA: halted by price band, 5 min"])
        assert "from 2025-10-10 00:12Z to 00:50Z" in desk.got[0]["message"]


def test_two_processes_do_not_deliver_the_same_message(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    with hook() as desk, (tmp_path / "alerts" / ".deliver.lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert round_of(tmp_path, DESK, DESK_URL=desk.url).busy
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert round_of(tmp_path, DESK, DESK_URL=desk.url).sent == 1


def test_an_outbox_that_cannot_be_used_is_cried_out_past_it() -> None:
    with hook() as desk, hook(500) as deaf:
        rules = AlertsConfig(sinks=(DESK, SinkConfig(name="deaf", url_env="DEAF_URL")), timeout_s=0.5)
        missed = cry(rules, {"DESK_URL": desk.url, "DEAF_URL": deaf.url}, "alerts lost", "disk full", at(1))
        assert desk.titles == ["CRITICAL cascadeguard: alerts lost"]
    assert missed == ["deaf"]


def test_an_address_never_reaches_the_outbox(tmp_path: Path) -> None:
    recorded(tmp_path, 10)
    url = f"json://desk:hunter2pass@127.0.0.1:{free_port()}/services/T0/B0/verysecret"
    round_of(tmp_path, DESK, DESK_URL=url)
    kept = b"".join(file.read_bytes() for file in (tmp_path / "alerts").iterdir())
    assert b"onnection" in kept
    assert b"hunter2pass" not in kept
    assert b"verysecret" not in kept


# --- kills

KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.alerting import deliver as module
from pipelines.alerting.outbox import Outbox, opened
from pipelines.config import AlertsConfig, SinkConfig
from tests.pipelines.alerting.letters import KEY, at, made, stands

root, point = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
send = module.send
if point == "recording":
    Outbox._add = lambda self, db, message, now: die()
if point == "sending":
    module.send = die
if point == "sent":
    module.send = lambda *given: (send(*given), die())
with opened(root) as box:
    box.record("testex", stands(KEY), at(10), [made()], at(0))
if point == "recorded":
    die()
module.deliver(root, AlertsConfig(sinks=(SinkConfig(name="desk", url_env="DESK_URL"),)), os.environ, at(1))
if point == "marked":
    die()
"""


@pytest.mark.parametrize(
    ("point", "messages", "unclear"),
    [
        ("recording", 1, False),  # nothing was recorded: the next run records and sends it
        ("recorded", 1, False),
        ("sending", 1, True),  # it never left, but nobody can know
        ("sent", 2, True),
        ("marked", 1, False),
    ],
)
def test_a_kill_at_any_point_loses_nothing_and_repeats_only_what_is_unclear(
    tmp_path: Path, point: str, messages: int, unclear: bool
) -> None:
    with hook() as desk:
        environment = {**os.environ, "DESK_URL": desk.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", KILLED, str(tmp_path), point]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        with opened(tmp_path) as box:
            box.record("testex", stands(KEY), at(10), [made()], at(2))  # the run is done again
        round_of(tmp_path, DESK, DESK_URL=desk.url, now=at(3))
        round_of(tmp_path, DESK, DESK_URL=desk.url, now=at(9))
        got = list(desk.got)
    assert len(got) == messages
    assert len({one["id"] for one in got}) == 1
    assert ("May be a repeat" in got[-1]["message"]) == unclear
    assert states(tmp_path) == []


def test_a_process_does_not_wait_for_a_sink_that_hangs(tmp_path: Path) -> None:
    """Apprise's own pool of threads would keep the process alive until the socket gives up."""
    recorded(tmp_path, 10)
    code = (
        "import os, sys; from pathlib import Path; from pipelines.alerting.deliver import deliver;"
        "from pipelines.config import AlertsConfig, SinkConfig; from tests.pipelines.alerting.letters import at;"
        "rules = AlertsConfig(timeout_s=0.2, sinks=(SinkConfig(name='desk', url_env='DESK_URL'),));"
        "import time; deliver(Path(sys.argv[1]), rules, os.environ, at(1));"
        "print(time.time())"
    )
    with hook(20.0) as desk:
        environment = {**os.environ, "DESK_URL": desk.url, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        )
        left_s = time.time() - float(done.stdout)
    assert left_s < 12  # the answer comes after twenty


# --- scheduled runs


class Tried:
    def __init__(self, told: object, error: str | None = None) -> None:
        self.venue, self.span, self.error = VENUE, told, error
        self.attempt = self


def test_a_catch_up_is_recorded_in_its_order_and_delivered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(tmp_path)
    config: Config = settings(tmp_path, DESK, timeout_s=0.5)
    spans = [
        market.guarded(10, 15, [decision(12, "AAA", "closed", "open", "halted")], [("AAA", "price_band", "open")]),
        market.guarded(15, 40, [decision(20, "AAA", "open", "closed", "normal")]),
    ]
    with hook() as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        said = alert_outcomes(market.lake, config, [Tried(one) for one in spans], at(41))  # type: ignore[arg-type]
        assert said == []
        assert desk.titles == ["INFO testex: cleared: AAA: halted by price band, 5 min"] + [
            title for title in desk.titles if "late" in title
        ]
        failed = alert_outcomes(market.lake, config, [Tried(market.guarded(40, 45), "no disk")], at(46))  # type: ignore[list-item]
        assert (failed, desk.titles[-1]) == ([], "WARNING testex: scheduled run failed")
        assert alert_outcomes(market.lake, config, [], at(47)) == []


def test_what_a_round_came_to_can_be_told_as_json(tmp_path: Path) -> None:
    assert json.dumps(vars(round_of(tmp_path))) == json.dumps(vars(Delivered()))


def test_what_a_round_says_went_wrong_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a run that found nothing else to do are printed as they are."""
    recorded(tmp_path, 10)

    def refused(_: object, url: str, *__: object) -> Outcome:
        return Outcome(FAILED, f"cannot reach {url}")

    monkeypatch.setattr("pipelines.alerting.deliver.send", refused)
    secret = {"DESK_URL": "json://127.0.0.1:1/s3cret-path-of-ours"}
    (said,) = tried(tmp_path, settings(tmp_path, DESK), secret, at(12))
    assert said.startswith("sink desk: cannot reach ")
    assert "s3cret" not in said
