"""Send what the outbox holds: every sink by itself, each for a bounded time, none in the way of another."""

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from pipelines.alerting.alert import CRITICAL
from pipelines.alerting.outbox import FAILED, PENDING, SENT, Letter, Outbox, opened, outbox_path
from pipelines.alerting.plain import plain
from pipelines.alerting.sinks import Outcome, configured, load, send
from pipelines.config import AlertsConfig, Config, SinkConfig
from pipelines.observing.secrets import hidden, values_of

log = structlog.get_logger()

GONE = "no sink of this name is in the settings any more"


@dataclass
class Delivered:
    """What one round of deliveries came to."""

    sent: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # sink -> why, at its last attempt
    folded: int = 0
    expired: list[str] = field(default_factory=list)  # titles of what was given up
    busy: bool = False  # another process is delivering: it takes ours along, or the next run does


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether nobody else delivers. Whoever holds this knows that an unclear message is nobody's any more."""
    path = outbox_path(root).with_name(".deliver.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@dataclass(frozen=True)
class Round:
    """One round of deliveries: where from, under which settings, with which addresses, at what time."""

    root: Path
    settings: AlertsConfig
    environment: Mapping[str, str]
    now: datetime


def deliver(root: Path, settings: AlertsConfig, environment: Mapping[str, str], now: datetime) -> Delivered:
    """Fold, give up what is too old, and try what is due: at most two `timeout_s` in all, whatever the sinks do.

    A sink that fails is left alone for the rest of the round. `now` dates what happens and decides what is due.
    """
    done, turn = Delivered(), Round(root, settings, environment, now)
    with _alone(root) as alone:
        if not alone:
            done.busy = True
            return done
        with opened(root) as box:
            done.folded = box.fold(now)
            done.expired = [letter.title for letter in box.expire(now, settings.expire_h)]
            box.forget(now)
            due = [letter for letter in box.open_letters() if letter.next_at <= now]
        known = {sink.name for sink in settings.sinks}
        done.failed |= {letter.sink: GONE for letter in due if letter.sink not in known}
        if any(letter.sink in known for letter in due):
            _all_sinks(turn, due, done)
    return done


def tried(root: Path, config: Config, environment: Mapping[str, str], now: datetime) -> list[str]:
    """One round of deliveries; what went wrong, in words without secrets, each logged as well. Never raises."""
    secrets = values_of(config, environment)
    try:
        done = deliver(root, config.alerts, environment, now)
    except Exception as error:
        why = hidden(" ".join(f"{type(error).__name__}: {error}".split())[:300], secrets)
        log.error("alerts could not be delivered", error=why)
        return [f"alerts could not be delivered: {why}"]
    failed = {sink: hidden(why, secrets) for sink, why in sorted(done.failed.items())}
    for sink, why in failed.items():
        log.warning("a sink took no alert", sink=sink, error=why)
    for title in done.expired:
        log.error("an alert was given up: no sink took it in time", title=title)
    return [*(f"sink {sink}: {why}" for sink, why in failed.items()), *(f"given up: {one}" for one in done.expired)]


def _all_sinks(turn: Round, due: list[Letter], done: Delivered) -> None:
    """One thread per sink that has something to take; `send` bounds each of them, so all of them end."""
    lock = threading.Lock()

    def run(sink: SinkConfig, own: list[Letter]) -> None:
        try:
            sent, error = _one_sink(turn, sink, own)
        except Exception as fault:  # the outbox cannot be written: what is unclear is tried again by a later run
            sent, error = 0, f"{type(fault).__name__}: {fault}"
        with lock:
            done.sent += sent
            if error:
                done.failed[sink.name] = error

    load()
    shares = [(sink, [letter for letter in due if letter.sink == sink.name]) for sink in turn.settings.sinks]
    threads = [
        threading.Thread(target=run, args=share, name=f"deliver-{share[0].name}") for share in shares if share[1]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one_sink(turn: Round, sink: SinkConfig, letters: list[Letter]) -> tuple[int, str]:
    """How many a sink took, and why it took no more; no new message is begun once `timeout_s` are over."""
    sent, began = 0, time.monotonic()
    with opened(turn.root) as box:
        for letter in letters:
            if time.monotonic() - began > turn.settings.timeout_s:
                break
            outcome = _attempt(box, sink, letter, turn)
            if outcome.state != SENT:
                return sent, outcome.error
            sent += 1
    return sent, ""


def _attempt(box: Outbox, sink: SinkConfig, letter: Letter, turn: Round) -> Outcome:
    lacking = configured(sink, turn.environment)
    if lacking is not None:
        box.finish(letter, letter.state if letter.attempts else FAILED, lacking, turn.now)
        return Outcome(FAILED, lacking)
    attempt = box.begin(letter, turn.now)
    url = turn.environment[sink.url_env].strip()
    outcome = send(sink, url, letter, attempt, turn.settings.timeout_s)
    secrets = values_of(turn.settings, turn.environment)
    box.finish(letter, outcome.state, hidden(outcome.error, secrets), turn.now)
    return outcome


def cry(settings: AlertsConfig, environment: Mapping[str, str], what: str, why: str, now: datetime) -> list[str]:
    """Tell every sink at once, past the outbox, that the outbox cannot be used; the sinks that did not take it.

    Nothing remembers it: it is said again with every run until it is mended.
    """
    title = plain(f"CRITICAL cascadeguard: {what}", 120)
    text = f"{title}\n\n  seen     {plain(why)}\n  look     cascadeguard status"
    usable = [sink for sink in settings.sinks if configured(sink, environment) is None]

    def run(sink: SinkConfig) -> Outcome:
        made = f"cry-{now:%Y%m%dT%H%M%S}"
        letter = Letter(made, sink.name, "", "opened", CRITICAL, title, text, text, (), PENDING, 0, now, now, "")
        return send(sink, environment[sink.url_env].strip(), letter, 1, settings.timeout_s)

    if not usable:
        return []
    load()
    with ThreadPoolExecutor(len(usable)) as pool:
        outcomes = list(pool.map(run, usable))
    return [sink.name for sink, outcome in zip(usable, outcomes, strict=True) if outcome.state != SENT]
