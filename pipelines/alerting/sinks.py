"""One message to one sink through Apprise: taken, refused, or no answer in time. Nothing is ever raised.

The address stands in an environment variable. Apprise speaks to chats, mail, pagers and webhooks and says whether it
worked; a thread that hangs in a socket is left behind and dies with the process.
"""

import logging
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import quote, urlencode

from pipelines.alerting.alert import CRITICAL, QUIET, WARNING
from pipelines.alerting.outbox import FAILED, SENT, UNCLEAR, Letter
from pipelines.config import SinkConfig
from pipelines.observing.bounded import in_time

STRUCTURED = ("json://", "jsons://", "form://", "forms://")  # webhooks that take fields beside the text
REPEATED = "May be a repeat: attempt {} of message {}."


@dataclass(frozen=True)
class Outcome:
    state: str  # sent, failed, unclear
    error: str = ""


@dataclass
class _Said(logging.Handler):
    """What Apprise logs while it sends: its only word about why it failed."""

    thread: int
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.lines.append(record.getMessage())


def configured(sink: SinkConfig, environment: Mapping[str, str]) -> str | None:
    """Why the sink cannot be used, None where it can."""
    if not environment.get(sink.url_env, "").strip():
        return f"the environment variable {sink.url_env} is empty"
    return None


def _address(url: str, letter: Letter, attempt: int) -> str:
    """The address; a webhook also gets the message's id, for its own sake and as a header, and what it is about."""
    if not url.lower().startswith(STRUCTURED):
        return url
    told = {
        "id": letter.id,
        "venue": letter.venue,
        "event": letter.event,
        "severity": ("info", "warning", "critical")[letter.severity],
        "keys": " ".join(letter.keys),
        "attempt": str(attempt),
    }
    fields = {f":{name}": value for name, value in told.items()} | {"+Idempotency-Key": letter.id}
    return f"{url}{'&' if '?' in url else '?'}{urlencode(fields, quote_via=quote)}"


def _body(sink: SinkConfig, letter: Letter, attempt: int) -> str:
    text = letter.short if sink.form == "short" else letter.text
    return text if attempt == 1 else f"{text}\n\n{REPEATED.format(attempt, letter.id)}"


@cache
def load() -> None:
    """Import Apprise and its two hundred services, most of a second; call it before threads that send are started.

    Their warnings about their own libraries are not for the people who read our output.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import apprise

        apprise.Apprise.instantiate("json://localhost")


def _notify(url: str, title: str, body: str, letter: Letter) -> Outcome:
    """Through the service itself: `Apprise.notify` uses a pool of threads that the process waits for at its end."""
    import apprise

    said = _Said(threading.get_ident())
    logger = logging.getLogger("apprise")
    logger.addHandler(said)
    try:
        service = apprise.Apprise.instantiate(url)
        if service is None:
            return Outcome(FAILED, "the address is none that Apprise knows")
        text, kind = apprise.NotifyFormat.TEXT, apprise.NotifyType(_type(letter))
        done = service.notify(body=body, title=title, notify_type=kind, body_format=text)
    finally:
        logger.removeHandler(said)
    return Outcome(SENT) if done else Outcome(FAILED, " ".join(" ".join(said.lines).split())[:300] or "refused")


def _type(letter: Letter) -> str:
    if letter.event in QUIET:
        return "success"
    return "failure" if letter.severity == CRITICAL else "warning" if letter.severity == WARNING else "info"


def send(sink: SinkConfig, url: str, letter: Letter, attempt: int, timeout_s: float) -> Outcome:
    """Send one message and wait at most `timeout_s`: after that nobody knows whether it arrived."""
    load()
    address, body = _address(url, letter, attempt), _body(sink, letter, attempt)

    def run() -> Outcome:
        try:
            return _notify(address, letter.title, body, letter)
        except Exception as error:  # Apprise promises not to; a plugin may
            return Outcome(FAILED, f"{type(error).__name__}: {error}")

    return in_time(run, timeout_s) or Outcome(UNCLEAR, f"no answer within {timeout_s:g} s")
