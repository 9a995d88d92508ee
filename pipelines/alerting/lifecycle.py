"""From what was seen to what is told: once when it begins, again with a cadence, once when it is over.

| the condition | was told before | news |
|---|---|---|
| lasts | no, or another spell that is over | opened |
| began and ended between two runs | no | passed |
| lasts, worse than all that was told of this spell | yes | worse; an acknowledgement ends |
| lasts, `repeat_min` of its severity after the last telling | yes, and nobody has acknowledged it | repeat |
| is reset by a person, and on probation | yes | reset |
| is gone | yes | nothing, until it is gone for `recover_hold_min`; back within that, it is the same spell |
| is gone for `recover_hold_min` | yes | cleared, and forgotten |
| was not judged | yes | as before: what lasted lasts, what had gone stays gone |

Time is that of the data: the end of the interval. Running an interval again finds the same news with the same ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipelines.alerting.alert import (
    CLEARED,
    OPENED,
    PASSED,
    REPEAT,
    RESET,
    SEVERITIES,
    WORSE,
    Alert,
    News,
    Standing,
    news_of,
)
from pipelines.alerting.seen import RESET_STATE, Sight, merged
from pipelines.config import AlertsConfig


@dataclass(frozen=True)
class Step:
    """What a run makes of what stood: what stands now, by key, and what is told."""

    standing: dict[str, Standing]
    news: tuple[News, ...]


def advance(
    standing: Mapping[str, Standing],
    sights: Mapping[str, Sight],
    at: datetime,
    until: datetime | None,
    rules: AlertsConfig,
) -> Step:
    """One interval that ends at `at`; `sights` by kind, `until` is the end of the last interval that was told.

    A spell that ended at `until` or before is old: it was told, or it is none of this interval's.
    """
    fresh = [alert for alert in merged(sights.values()) if _is_news(alert, standing, until)]
    seen = {alert.key: alert for alert in fresh}
    after, news = dict[str, Standing](), list[News]()
    for key in sorted({*standing, *seen}):
        known = standing.get(key)
        stands, told = _one(known, seen.get(key), _gone(known, sights), at, rules)
        news += [told] if told is not None else []
        if stands is not None:
            after[key] = stands
    return Step(after, tuple(news))


def _is_news(alert: Alert, standing: Mapping[str, Standing], until: datetime | None) -> bool:
    return alert.until is None or alert.key in standing or until is None or alert.until > until


def _gone(known: Standing | None, sights: Mapping[str, Sight]) -> bool:
    """Whether what stood is over: it is judged and not in force, or it had gone before and nobody has seen it since."""
    if known is None:
        return False
    sight = sights.get(known.alert.kind)
    if sight is None or sight.in_force is None:
        return known.until is not None
    return known.alert.key not in sight.in_force


def _one(
    known: Standing | None, seen: Alert | None, gone: bool, at: datetime, rules: AlertsConfig
) -> tuple[Standing | None, News | None]:
    if known is None:
        return _first(seen, at) if seen is not None else (None, None)
    if seen is not None and seen.until is not None:
        return _leaving(known, seen.until, at, rules)
    if gone:
        return _leaving(known, known.until or at, at, rules)
    return _lasting(known, known.alert if seen is None else replace(seen, since=known.alert.since), at, rules)


def _first(seen: Alert, at: datetime) -> tuple[Standing | None, News]:
    if seen.until is not None:
        return None, news_of(PASSED, at, seen.severity, seen, 0)
    return Standing(seen, seen.severity, at, 1), news_of(OPENED, at, seen.severity, seen, 0)


def _leaving(
    known: Standing, until: datetime, at: datetime, rules: AlertsConfig
) -> tuple[Standing | None, News | None]:
    """Gone since `until`, told once it has been gone for long enough."""
    if at - until < timedelta(minutes=rules.recover_hold_min):
        return replace(known, until=until), None
    over = replace(known.alert, until=until)
    return None, news_of(CLEARED, at, known.worst, over, known.tellings)


def _lasting(known: Standing, alert: Alert, at: datetime, rules: AlertsConfig) -> tuple[Standing, News | None]:
    stands = replace(known, alert=alert, until=None)
    if alert.severity > known.worst:
        told = replace(stands, worst=alert.severity, acked_by="", acked_until=None)
        return _told(told, WORSE, alert.severity, at)
    if alert.state == RESET_STATE != known.alert.state:
        return _told(stands, RESET, known.worst, at)
    if _due(stands, at, rules):
        return _told(stands, REPEAT, alert.severity, at)
    return stands, None


def _told(stands: Standing, event: str, severity: int, at: datetime) -> tuple[Standing, News]:
    news = news_of(event, at, severity, stands.alert, stands.tellings)
    return replace(stands, told_at=at, tellings=stands.tellings + 1), news


def _due(stands: Standing, at: datetime, rules: AlertsConfig) -> bool:
    minutes = int(getattr(rules.repeat_min, SEVERITIES[stands.alert.severity]))
    return minutes > 0 and not stands.acked(at) and at - stands.told_at >= timedelta(minutes=minutes)


def chosen(news: Iterable[News], severity_min: int, kinds: Sequence[str]) -> list[News]:
    """The news that somebody wants who asks for these kinds, from this severity on.

    >>> chosen([], 0, ["breaker"])
    []
    """
    return [one for one in news if one.severity >= severity_min and one.alert.kind in kinds]
