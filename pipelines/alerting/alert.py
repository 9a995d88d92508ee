"""One condition worth telling, what stands of it between runs, and the news that a run makes of it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

SEVERITIES = ("info", "warning", "critical")
INFO, WARNING, CRITICAL = range(3)
OPENED, WORSE, REPEAT, PASSED, RESET, CLEARED = "opened", "worse", "repeat", "passed", "reset", "cleared"
EVENTS = (OPENED, WORSE, REPEAT, PASSED, RESET, CLEARED)
QUIET = frozenset({PASSED, RESET, CLEARED})  # good news: told at the lowest severity, to those who heard the bad
TIMES = ("since", "until", "told_at", "acked_until")


@dataclass(frozen=True)
class Alert:
    """A condition as one run saw it. `key` names it however often it is seen; `since` tells one spell from the next.

    `until` is None while it lasts. `severity` is a place in `SEVERITIES`. The rest is told to people.
    """

    key: str
    kind: str  # episode, breaker, data, run
    venue: str
    symbol: str  # `*`: the venue as a whole
    rule: str  # what judged: a rule of the guardrails, `detector`, `model`, `inputs`, `failed`, `late`
    severity: int
    since: datetime
    until: datetime | None
    state: str  # the rule's state or the step of the ladder; the same state is grouped
    seen: str
    limit: str
    allowed: str
    why: str
    clears: str
    look: str  # a command


@dataclass(frozen=True)
class Standing:
    """What is remembered of a condition from its first news to its last."""

    alert: Alert
    worst: int  # severity told so far
    told_at: datetime
    tellings: int
    until: datetime | None = None  # when it went; it may come back while that is not told
    acked_by: str = ""
    acked_until: datetime | None = None

    def acked(self, at: datetime) -> bool:
        return bool(self.acked_by) and (self.acked_until is None or at < self.acked_until)


@dataclass(frozen=True)
class News:
    """One thing to tell of one condition; `id` is the same whenever the same thing is found again."""

    id: str
    event: str
    at: datetime  # the end of the interval that it was found in
    severity: int  # decides who is told
    alert: Alert


def key_of(kind: str, venue: str, symbol: str, *rest: str) -> str:
    """
    >>> key_of("breaker", "simex", "BTC-PERP", "price_halt"), key_of("run", "simex", "*", "late")
    ('breaker/simex/BTC-PERP/price_halt', 'run/simex/*/late')
    """
    return "/".join((kind, venue, symbol, *rest))


def short_id(key: str) -> str:
    """Eight characters that stand for a key where people type it.

    >>> short_id("run/simex/*/late")
    'f2448355'
    """
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def news_of(event: str, at: datetime, severity: int, alert: Alert, telling: int) -> News:
    """News whose id is a hash of the condition, its spell, the event and its number within the spell."""
    content = f"{alert.key}|{alert.since.isoformat()}|{event}|{telling}"
    return News(hashlib.sha256(content.encode()).hexdigest()[:16], event, at, severity, alert)


def to_json(standing: Standing) -> str:
    return json.dumps(asdict(standing), default=datetime.isoformat, sort_keys=True)


def _timed(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in TIMES and value is not None else value
        for name, value in values.items()
    }


def from_json(text: str) -> Standing:
    values = json.loads(text)
    return Standing(**_timed(values) | {"alert": Alert(**_timed(values["alert"]))})
