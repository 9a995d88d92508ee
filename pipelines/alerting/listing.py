"""What people do with alerts: look at what lasts, acknowledge it, try a sink."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.alerting.alert import INFO, SEVERITIES, Standing, short_id
from pipelines.alerting.outbox import PENDING, Letter, opened, outbox_path
from pipelines.alerting.plain import name, plain
from pipelines.alerting.sinks import configured, send
from pipelines.config import Config, SinkConfig
from pipelines.errors import InputError
from pipelines.observing.secrets import hidden, values_of
from pipelines.reporting import words


def listed(root: Path, now: datetime) -> dict[str, Any]:
    """`alerts`: what lasts, the worst first; `undelivered`: messages that wait. Empty where nothing was ever told."""
    if not outbox_path(root).exists():
        return {"alerts": [], "undelivered": []}
    with opened(root) as box:
        lasting = [one for one in box.standing().values() if one.until is None]
        waiting = box.open_letters()
    ordered = sorted(lasting, key=lambda one: (-one.alert.severity, one.alert.since, one.alert.key))
    return {
        "alerts": [_row(one, now) for one in ordered],
        "undelivered": [{"sink": one.sink, "title": one.title, "attempts": one.attempts, "error": one.error,
                         "since": one.created_at.isoformat()} for one in waiting],
    }  # fmt: skip


def _row(one: Standing, now: datetime) -> dict[str, Any]:
    alert = one.alert
    return {
        "id": short_id(alert.key),
        "key": alert.key,
        "severity": SEVERITIES[alert.severity],
        "kind": alert.kind,
        "venue": alert.venue,
        "symbol": alert.symbol,
        "rule": alert.rule,
        "state": alert.state,
        "since": alert.since.isoformat(),
        "seen": alert.seen,
        "limit": alert.limit,
        "allowed": alert.allowed,
        "clears": alert.clears,
        "look": alert.look,
        "told": one.tellings,
        "acked_by": one.acked_by if one.acked(now) else "",
    }


def listing_sentence(found: Mapping[str, Any]) -> str:
    """One paragraph of two lines per condition."""
    lines = [] if found["alerts"] else ["nothing lasts that was alerted"]
    for row in found["alerts"]:
        acked = f", acknowledged by {plain(row['acked_by'], 40)}" if row["acked_by"] else ""
        since = words.moment(datetime.fromisoformat(row["since"]))
        rule, state = words.spaced(row["rule"], words.RULES), row["state"].replace("_", " ")
        lines.append(
            f"{row['id']}  {row['severity']:<8}  {row['venue']} {name(row['symbol'])}: "
            f"{rule}, {state}, since {since}{acked}"
        )
        lines.append(f"          {plain(row['seen'], 200)}; {row['look']}")
    if found["undelivered"]:
        lines.append(f"{words.plural(len(found['undelivered']), 'message')} not delivered:")
        lines += [_waiting(row) for row in found["undelivered"]]
    return "\n".join(lines)


def _waiting(row: Mapping[str, Any]) -> str:
    return f"  {row['sink']}: {row['title']} ({words.plural(row['attempts'], 'attempt')}: {row['error'] or 'new'})"


def acknowledge(root: Path, wanted: Sequence[str], by: str, until: datetime | None) -> dict[str, Any]:
    """The keys that were acknowledged. InputError for one that stands for nothing; the others before it count."""
    if not by.strip():
        raise InputError("an acknowledgement needs a name", where="--by", mend="say who has seen it")
    if not outbox_path(root).exists():
        raise InputError("nothing was ever alerted", where=root, mend="see `cascadeguard alerts list`")
    keys = list[str]()
    with opened(root) as box:
        for one in wanted:
            found = box.acknowledge(one, by.strip(), until)
            if not found:
                raise InputError("no such alert lasts", where=one, mend="see `cascadeguard alerts list`")
            keys += found
    return {"by": by.strip(), "until": None if until is None else until.isoformat(), "keys": keys}


def try_sink(config: Config, sink: str, now: datetime) -> dict[str, str]:
    """Send a test message; `state` is sent, failed or unclear. InputError for a sink that cannot be used."""
    chosen = _sink(config, sink)
    lacking = configured(chosen, os.environ)
    if lacking is not None:
        raise InputError(lacking, where=f"sink {sink}", mend="put the sink's Apprise URL there")
    title = "INFO cascadeguard: a test, nothing has happened"
    text = f"{title}\n\n  when     {words.moment(now)}\n  sink     {sink}\n  look     cascadeguard alerts list"
    letter = Letter(
        f"test-{now:%Y%m%dT%H%M%S}", sink, "", "test", INFO, title, text, text, (), PENDING, 0, now, now, ""
    )
    outcome = send(chosen, os.environ[chosen.url_env].strip(), letter, 1, config.alerts.timeout_s)
    return {"sink": sink, "state": outcome.state, "error": hidden(outcome.error, values_of(config, os.environ))}


def _sink(config: Config, wanted: str) -> SinkConfig:
    for sink in config.alerts.sinks:
        if sink.name == wanted:
            return sink
    known = ", ".join(sink.name for sink in config.alerts.sinks) or "none"
    raise InputError("no such sink in the settings", where=wanted, mend=f"`[[alerts.sinks]]` names: {known}")
