"""News of one interval as messages: grouped, so that a crash is a handful of them and not hundreds.

One message per venue, severity and sort of news. In it, what shares kind, rule and state is one paragraph: "7 symbols
reduce only by price band".
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from pipelines.alerting.alert import CLEARED, OPENED, PASSED, QUIET, REPEAT, RESET, SEVERITIES, WORSE, News, short_id
from pipelines.alerting.plain import name, plain
from pipelines.reporting import words

TITLE_MAX, TEXT_MAX, SHORT_MAX = 120, 4000, 700
NAMES_MAX = 6  # symbols of a group that are named in a headline
LINES_MAX = 5  # symbols of a group that have a line
DETAILS_MAX = 3  # groups that are told whole; of further ones the headline
HEADLINES_MAX = 12
EVENT_WORDS = {
    OPENED: "", WORSE: "worse: ", REPEAT: "still: ", PASSED: "over already: ", RESET: "reset: ", CLEARED: "cleared: ",
}  # fmt: skip
KIND_WORDS = {"breaker": "breaker", "episode": "early warning", "data": "data health", "run": "scheduled run"}
STATE_WORDS = {"reduce_only": "reduce only"}


@dataclass(frozen=True)
class Message:
    """What one sink is sent; `id` is a hash of the news in it and the sink, the same however often it is made."""

    id: str
    sink: str
    venue: str
    event: str
    severity: int
    at: datetime
    title: str
    text: str
    short: str
    news: tuple[News, ...]


def _group_key(news: News) -> tuple[int, str, str, str, bool]:
    alert = news.alert
    return -news.severity, alert.kind, alert.rule, alert.state, alert.symbol != "*"


def _message_key(news: News) -> tuple[str, int, str]:
    return news.alert.venue, -news.severity, news.event


def messages(news: Iterable[News], sink: str) -> list[Message]:
    """The messages of one interval for one sink; none without news."""
    ordered = sorted(news, key=lambda one: (*_message_key(one), *_group_key(one), one.alert.symbol))
    return [_message(tuple(part), sink) for _, part in groupby(ordered, key=_message_key)]


def _message(news: tuple[News, ...], sink: str) -> Message:
    first = news[0]
    content = "|".join([sink, *sorted(one.id for one in news)])
    groups = [_group(list(part)) for _, part in groupby(news, key=_group_key)]
    title = plain(_title(first, groups), TITLE_MAX)
    left = groups[DETAILS_MAX:]
    shown = {
        "title": title,
        "groups": groups[:DETAILS_MAX],
        "also": [group["headline"] for group in left[:HEADLINES_MAX]],
        "more": max(0, len(left) - HEADLINES_MAX),
        "quiet": first.event in QUIET,
    }
    return Message(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        sink=sink,
        venue=first.alert.venue,
        event=first.event,
        severity=first.severity,
        at=first.at,
        title=title,
        text=_cut(_template("alert.txt.j2").render(shown), TEXT_MAX),
        short=_cut(_template("alert_short.txt.j2").render(shown), SHORT_MAX),
        news=news,
    )


def _cut(text: str, most: int) -> str:
    whole = text.rstrip()
    return whole if len(whole) <= most else whole[: most - 2].rstrip() + "\n…"


@cache
def _template(which: str) -> Template:
    """Text, not a page: what `plain` lets through is safe in both, so nothing is escaped twice."""
    environment = Environment(
        loader=PackageLoader("pipelines"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=select_autoescape(("html",)), finalize=lambda value: plain(value, 1000),
    )  # fmt: skip
    return environment.get_template(which)


def _title(first: News, groups: Sequence[dict[str, object]]) -> str:
    """`CRITICAL simex: 3 symbols: halted by price halt`; good news is INFO."""
    sort = "info" if first.event in QUIET else SEVERITIES[first.severity]
    more = f"; {words.plural(len(groups) - 1, 'more finding')}" if len(groups) > 1 else ""
    return f"{sort.upper()} {first.alert.venue}: {EVENT_WORDS[first.event]}{groups[0]['headline']}{more}"


def _headline(news: Sequence[News]) -> str:
    alert = news[0].alert
    symbols = [one.alert.symbol for one in news]
    who = name(symbols[0]) if len(symbols) == 1 else words.plural(len(symbols), "symbol")
    if alert.kind == "run":
        return f"scheduled run {alert.state}"
    state = STATE_WORDS.get(alert.state, alert.state)
    by = f" by {words.spaced(alert.rule, words.RULES)}" if alert.kind == "breaker" else ""
    by = f" of the {alert.rule}" if alert.kind == "episode" else by
    return f"{who}: {state}{by}"


def _span(news: News) -> str:
    alert = news.alert
    if alert.until is None:
        return f"since {words.moment(alert.since)}"
    return f"from {words.moment(alert.since)} to {words.until(alert.since, alert.until)}"


def _group(news: Sequence[News]) -> dict[str, object]:
    worst = max(news, key=lambda one: one.severity)
    alert = worst.alert
    several = len(news) > 1
    lines = [f"{name(one.alert.symbol)}, {_span(one)}: {one.alert.seen}" for one in news[:LINES_MAX]]
    return {
        "headline": _headline(news),
        "kind": KIND_WORDS[alert.kind],
        "names": words.joined([name(one.alert.symbol) for one in news], NAMES_MAX),
        "several": several,
        "lines": lines if several else [],
        "left": max(0, len(news) - LINES_MAX) if several else 0,
        "span": _span(worst),
        "seen": alert.seen,
        "limit": alert.limit,
        "allowed": alert.allowed,
        "says": alert.allowed if alert.kind == "breaker" else "",
        "why": alert.why,
        "clears": alert.clears,
        "look": alert.look,
        "ack": _ack(news),
    }


def _ack(news: Sequence[News]) -> str:
    """What acknowledges a group: its keys, or where they are too many to type, all of the kind at the venue."""
    if len(news) > LINES_MAX:
        return f"{news[0].alert.kind}/{news[0].alert.venue}/"
    return " ".join(short_id(one.alert.key) for one in news)
