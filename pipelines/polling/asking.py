"""One question, asked until it is answered, until asking on makes no sense, or until the time is up."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipelines.polling.clock import Clock
from pipelines.polling.exchanges import library

BACKOFF_S, BACKOFF_S_MAX = 0.5, 30.0
BAN_S = 120.0  # how long an address that is refused as a whole stays silent where the venue does not say
LIMITED, BANNED = 429, 418
PASSING = (408, LIMITED, BANNED)  # refusals that a later request may not meet
TIME_IS_UP = "time is up"


class UnansweredError(Exception):
    """A question that failed for good, and why, in a few words."""


class ShutError(UnansweredError):
    """The venue wants no further question before `until`."""

    def __init__(self, why: str, until: datetime) -> None:
        super().__init__(why)
        self.until = until


@dataclass(frozen=True)
class Answer:
    value: Any
    asked_at: datetime
    answered_at: datetime


@dataclass(frozen=True)
class Patience:
    """How long a run may take (`deadline_s` on the clock's `elapsed_s`), and how often one question is asked.

    Waits before attempt n + 1: uniform in (0, min(BACKOFF_S * 2 ** n, BACKOFF_S_MAX)], drawn from `dice`; at least what
    the venue asks for.
    """

    timeout_s: float
    attempts_max: int
    deadline_s: float
    clock: Clock
    dice: random.Random

    def left_s(self) -> float:
        return self.deadline_s - self.clock.elapsed_s()

    def wait_s(self, attempt: int) -> float:
        most: float = min(BACKOFF_S * 2**attempt, BACKOFF_S_MAX)
        return most * (1.0 - self.dice.random())


def ask(exchange: Any, question: Callable[[], Any], patience: Patience) -> Answer:
    """The answer to `question`, which calls `exchange`.

    Raises UnansweredError, or ShutError where the venue asks for more silence than the run has left.
    """
    wire, clock = exchange.session, patience.clock
    for attempt in range(patience.attempts_max):
        left_s = patience.left_s()
        if not left_s > 0:
            raise UnansweredError(TIME_IS_UP)
        exchange.timeout = min(patience.timeout_s, left_s) * 1000
        wire.forget()
        asked_at = clock.now()
        try:
            value = question()
        except Exception as error:  # ccxt stumbles over odd answers in every way there is
            why, passing = _words(error, exchange)
            wait_s = _pause(patience, wire, attempt, why)
            if not passing or attempt + 1 == patience.attempts_max:
                raise UnansweredError(why) from error
            if wait_s >= patience.left_s():
                raise UnansweredError(f"{why}; {TIME_IS_UP}") from error
            clock.sleep_s(wait_s)
        else:
            return Answer(value, asked_at, wire.answered_at or clock.now())
    raise UnansweredError(TIME_IS_UP)


def _pause(patience: Patience, wire: Any, attempt: int, why: str) -> float:
    """How long to wait before the next attempt; ShutError where the venue asks for more than the run has left."""
    asked_s: float | None = wire.wait_s if wire.status in (LIMITED, BANNED, 503) else None
    if wire.status == BANNED and asked_s is None:
        asked_s = BAN_S
    if asked_s is None:
        return patience.wait_s(attempt)
    if asked_s >= patience.left_s():
        raise ShutError(f"{why}, asked to wait {asked_s:,.0f} s", patience.clock.now() + timedelta(seconds=asked_s))
    return max(float(asked_s), patience.wait_s(attempt))


def _words(error: Exception, exchange: Any) -> tuple[str, bool]:
    """What went wrong, and whether it may pass."""
    wire = exchange.session
    if wire.fault:
        return wire.fault, True
    if wire.status is not None and wire.status >= 400:
        return f"HTTP {wire.status}{_said(error, exchange)}", wire.status >= 500 or wire.status in PASSING
    if not isinstance(error, library().BaseError):
        return f"answer not understood ({type(error).__name__})", False
    return _unheard(error, exchange) if wire.status is None else _refused(error, exchange)


def _unheard(error: Exception, exchange: Any) -> tuple[str, bool]:
    """No answer came, or none was asked for."""
    ccxt, cause = library(), error.__cause__
    if isinstance(error, ccxt.RequestTimeout):
        return f"no answer within {exchange.timeout / 1000:.3g} s", True
    if type(cause).__name__ == "SSLError":
        return "certificate not accepted", False
    if isinstance(error, ccxt.NetworkError):
        never = type(next(iter(getattr(cause, "args", ())), None)).__name__ == "MaxRetryError"
        return "host unreachable" if never else "connection cut", True
    return f"cannot be asked{_said(error, exchange)}", False


def _refused(error: Exception, exchange: Any) -> tuple[str, bool]:
    """The venue answered that it will not; a ccxt that stumbled over a sound answer says so here too."""
    return f"refused{_said(error, exchange)}", isinstance(error, library().OperationFailed)


def _said(error: Exception, exchange: Any) -> str:
    """What the venue, or where nothing was heard ccxt, says of it, in one short line in brackets."""
    wire = exchange.session
    words = wire.said if wire.status is not None else " ".join(str(error).removeprefix(exchange.id).split())[:160]
    return f" ({words})" if words else ""
