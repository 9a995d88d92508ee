"""The audit log: one JSON line per entry, each carrying the hash of the line before. Pure functions over lines."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GENESIS = "0" * 64  # the hash before the first line


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify` found. `entries` counts the sound lines before the first broken one; `line` is 1 for the first."""

    ok: bool
    entries: int
    last_hash: str
    line: int | None = None
    reason: str | None = None


def _said(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"an entry must hold text, numbers, true, false, null and times, held {value!r}")


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_said)


def _sealed(seq: int, previous: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """The line of an entry and its hash: sha256 of the line's canonical content without the hash itself."""
    body = {"entry": dict(entry), "previous": previous, "seq": seq}
    own = hashlib.sha256(_canonical(body).encode()).hexdigest()
    return _canonical({**body, "sha256": own}), own


def chain(entries: Sequence[Mapping[str, Any]], previous_hash: str = GENESIS, *, first_seq: int = 0) -> list[str]:
    """The lines that append `entries` to a log whose last hash is `previous_hash` and next number `first_seq`.

    Raises ValueError for NaN or infinity, TypeError for what JSON cannot hold.

    >>> lines = chain([{"rule": "price_band"}, {"rule": "stale_feed"}])
    >>> verify(lines).ok, verify([lines[1], lines[0]]).reason
    (True, 'number must be 0, was 1: a line is missing or out of order')
    """
    lines, previous = [], previous_hash
    for seq, entry in enumerate(entries, start=first_seq):
        line, previous = _sealed(seq, previous, entry)
        lines.append(line)
    return lines


def _order_fault(content: Mapping[str, Any], seq: int, previous: str) -> str | None:
    if content["seq"] != seq:
        return f"number must be {seq}, was {content['seq']}: a line is missing or out of order"
    if content["previous"] != previous:
        return "does not follow the line before: that line was changed, or one is missing"
    return None if isinstance(content["entry"], dict) else "entry must be a table"


def _fault(line: str, seq: int, previous: str) -> tuple[str | None, str]:
    """What is wrong with a line that should be number `seq` after `previous`, and its hash."""
    try:
        content = json.loads(line)
    except ValueError:
        return "not JSON", previous
    if not isinstance(content, dict) or content.keys() != {"entry", "previous", "seq", "sha256"}:
        return "must hold entry, previous, seq and sha256 and nothing else", previous
    fault = _order_fault(content, seq, previous)
    if fault is not None:
        return fault, previous
    try:
        sealed, own = _sealed(seq, previous, content["entry"])
    except ValueError:
        return "entry holds NaN or infinity", previous
    return (None, own) if sealed == line.removesuffix("\n") else ("content does not match its hash", previous)


def verify(lines: Iterable[str], previous_hash: str = GENESIS, *, first_seq: int = 0) -> AuditReport:
    """Whether `lines` are a chain from `previous_hash` on; names the first broken line.

    Lines cut off at the end leave a sound chain: compare `entries` and `last_hash` with what was noted elsewhere.
    """
    previous, seq = previous_hash, first_seq
    for line in lines:
        reason, previous = _fault(line, seq, previous)
        if reason is not None:
            return AuditReport(False, seq - first_seq, previous, seq - first_seq + 1, reason)
        seq += 1
    return AuditReport(True, seq - first_seq, previous)
