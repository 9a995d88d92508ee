"""Alerts and messages made by hand; light enough to be imported by a process that is there to be killed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.alerting.alert import OPENED, Alert, Standing, key_of, news_of
from pipelines.alerting.lifecycle import Step
from pipelines.alerting.message import Message, messages

START = datetime(2025, 10, 10, tzinfo=UTC)


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def alert(
    key: str = "breaker/testex/AAA/price_band",
    severity: int = 1,
    since: float = 10,
    until: float | None = None,
    **more: Any,
) -> Alert:
    kind, venue, symbol, *rest = key.split("/")
    made = {
        "key": key, "kind": kind, "venue": venue, "symbol": symbol, "rule": rest[0] if rest else "detector",
        "severity": severity, "since": at(since), "until": None if until is None else at(until),
        "state": "reduce_only", "seen": "price moved -7.2 %", "limit": "band is 5.0 %",
        "allowed": "new positions are paused",
        "why": "rule price band", "clears": "after 10 min", "look": "cascadeguard explain abc",
    }  # fmt: skip
    return Alert(**made | more)  # type: ignore[arg-type]  # every field is there


KEY = key_of("breaker", "testex", "AAA", "price_band")


def made(event: str = OPENED, minute: float = 10, keys: tuple[str, ...] = (KEY,), sink: str = "desk") -> Message:
    news = [news_of(event, at(minute), 1, alert(key), int(minute)) for key in keys]
    return messages(news, sink)[0]


def stands(*keys: str) -> Step:
    return Step({key: Standing(alert(key), 1, at(10), 1) for key in keys}, ())
