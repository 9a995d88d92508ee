"""The health file, and `status`: the same snapshot for machines and for people.

The file also keeps what the lake told, with the versions of the tables it told it at. While these are the newest, a
later `status` judges what is kept instead of reading the lake again: the answer is the same, and comes at once.
"""

import json
import textwrap
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.alerting.plain import name, plain
from pipelines.durable import write_whole
from pipelines.observing.state import OK, Facts, Snapshot, Tripped, VenueFacts, length, versions_of
from pipelines.reporting import words

WIDTH = 100
BREAKERS_MAX = 20
FORM = 1  # of what is kept; another one is not read


def health_path(root: Path) -> Path:
    return root / "health.json"


def as_json(found: Snapshot) -> dict[str, Any]:
    """What `status --json` and the head of the health file say."""
    return {
        "state": found.state,
        "at": found.now.isoformat(),
        "reasons": list(found.reasons),
        "venues": {one.venue: _venue_json(found, one) for one in found.facts.venues},
        "champion": {"name": found.champion[0], "version": found.champion[1], "scored_by": found.facts.scored_by},
        "alerts": {f"{venue}/{severity}": count for (venue, severity), count in found.standing.items()},
        "undelivered": {sink: {"messages": count, "error": why} for sink, (count, why) in found.undelivered.items()},
        "given_up_24h": dict(found.given_up),
        "disk_free_bytes": found.disk_free_bytes,
    }


def _venue_json(found: Snapshot, one: VenueFacts) -> dict[str, Any]:
    told = {key: value for key, value in asdict(one).items() if key not in ("venue", "failures")}
    return told | {"lag_s": found.lag_s(one), "failed_24h": found.failed_24h(one)}


# --- the file, written and read


def write_health(root: Path, found: Snapshot) -> None:
    told = as_json(found) | {"form": FORM, "kept": asdict(found.facts)}
    write_whole(health_path(root), json.dumps(told, default=datetime.isoformat, indent=1, sort_keys=True) + "\n")


def kept_facts(root: Path) -> Facts | None:
    """What the last run kept, None where tables have changed since, or where it cannot be read."""
    try:
        told = json.loads(health_path(root).read_text(encoding="utf-8"))
        kept = told["kept"]
        if told["form"] != FORM or kept["versions"] != versions_of(root):
            return None
        venues = tuple(map(_venue_facts, kept["venues"]))
        rows = {table: (int(counts[0]), int(counts[1])) for table, counts in kept["rows"].items()}
        return Facts(kept["versions"], venues, rows, kept["scored_by"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _venue_facts(told: dict[str, Any]) -> VenueFacts:
    times = {key: _moment(told[key]) for key in ("last_good", "limits_until")}
    lists = {
        "failures": tuple(map(datetime.fromisoformat, told["failures"])),
        "decisions": tuple((rule, action, count) for rule, action, count in told["decisions"]),
        "tripped": tuple(Tripped(**row | {"since": _moment(row["since"])}) for row in told["tripped"]),
    }
    return VenueFacts(**told | times | lists)


# --- words


def _row(label: str, text: str) -> str:
    """`label` in a column of its own, the text beside it, no line longer than `WIDTH`."""
    return textwrap.fill(text, WIDTH, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14)


def status_sentence(found: Snapshot) -> str:
    """The state first, then why, then every venue, then what they share."""
    lines = [f"{found.state} at {words.moment(found.now)}"]
    lines += [_row("because", plain(reason, 400)) for reason in found.reasons]
    for one in found.facts.venues:
        lines += [plain(one.venue), *_run_lines(found, one), *_limit_lines(found, one)]
    shared = ("champion", _champion(found)), ("alerts", _alerts(found)), ("disk", _disk(found))
    return "\n".join([*lines, "all", *(_row(label, text) for label, text in shared)])


def _run_lines(found: Snapshot, one: VenueFacts) -> list[str]:
    failed = found.failed_24h(one)
    if one.last_good is None:
        lines = [_row("last good", "never")]
    else:
        took = f"took {words.duration(one.seconds)}; {words.plural(one.rows_ingested, 'row')} taken in"
        lines = [_row("last good", f"{words.moment(one.last_good)}, {length(found.lag_s(one))} ago; {took}")]
    why = f"; the last: {plain(one.last_error)}" if one.last_error else "; the newest went well"
    return [*lines, _row("failed", f"{words.plural(failed, 'attempt')} in 24 h{why}")] if failed else lines


def _limit_lines(found: Snapshot, one: VenueFacts) -> list[str]:
    if one.limits_until is None:
        return [_row("limits", "none yet")]
    by = ", ".join(f"{count} {words.spaced(action, words.ACTIONS)}" for action, count in one.symbols.items())
    until = "expired at" if one.limits_until < found.now else "good until"
    tripped = [_row("", _breaker(row)) for row in one.tripped[:BREAKERS_MAX]]
    left = len(one.tripped) - BREAKERS_MAX
    return [
        _row("limits", f"{until} {words.moment(one.limits_until)}; symbols: {by}"),
        _row("data", f"{words.plural(one.faults, 'symbol')} with a fault" if one.faults else "every input is there"),
        _row("breakers", f"{len(one.tripped)} tripped" if one.tripped else "none tripped"),
        *tripped,
        *([_row("", f"and {left} more")] if left > 0 else []),
    ]


def _breaker(row: Tripped) -> str:
    since = f" since {words.moment(row.since)}" if row.since is not None else ""
    rule, action = words.spaced(row.rule, words.RULES), words.spaced(row.action, words.ACTIONS)
    return f"{name(row.symbol)} {action} by {rule}{since}: {plain(words.without_clearing(row.reason))}"


def _champion(found: Snapshot) -> str:
    model, version = found.champion
    known = f"{model} version {version}" if version else "none known here"
    by = found.facts.scored_by
    return f"{known}; the newest scores are by {by}" if by else f"{known}; the newest scores name no model"


def _alerts(found: Snapshot) -> str:
    counts = [f"{count} {severity} at {plain(venue)}" for (venue, severity), count in found.standing.items()]
    waiting = sum(count for count, _ in found.undelivered.values())
    sent = f"{words.plural(waiting, 'message')} not delivered" if waiting else "all messages delivered"
    return f"{', '.join(counts) or 'nothing lasts'}; {sent if found.sinks or waiting else 'no sink is configured'}"


def _disk(found: Snapshot) -> str:
    return f"{found.disk_free_bytes / 1e9:,.1f} GB free"


def well(found: Snapshot) -> bool:
    return found.state == OK
