"""The audit log: one JSON line per entry, each carrying the hash of the line before. Pure functions over lines."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GENESIS = "0" * 64  # the hash before the first line


@dataclass(frozen=True, slots=True)
class Seal:
    """Where a log ended when its last writer had finished: so many entries, the last with this hash."""

    entries: int = 0
    sha256: str = GENESIS


class BrokenLogError(ValueError):
    """The first line that breaks a log, 1 for the first of all, and what is wrong with it."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(f"line {line} {reason}")


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
    body = _canonical({"entry": dict(entry), "previous": previous, "seq": seq})
    own = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"sha256":"{own}"}}', own  # the last of the names, in their order


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


def _read(line: str, seq: int, previous: str) -> tuple[str | None, str, dict[str, Any]]:
    """What is wrong with a line that should be number `seq` after `previous`, its hash, and its entry."""
    nothing: dict[str, Any] = {}
    try:
        content = json.loads(line)
    except ValueError:
        return "not JSON", previous, nothing
    if not isinstance(content, dict) or content.keys() != {"entry", "previous", "seq", "sha256"}:
        return "must hold entry, previous, seq and sha256 and nothing else", previous, nothing
    fault = _order_fault(content, seq, previous)
    if fault is not None:
        return fault, previous, nothing
    try:
        sealed, own = _sealed(seq, previous, content["entry"])
    except ValueError:
        return "entry holds NaN or infinity", previous, nothing
    if sealed != line.removesuffix("\n"):
        return "content does not match its hash", previous, nothing
    return None, own, content["entry"]


def _against(seal: Seal, seq: int, own: str, fault: str | None) -> str | None:
    """What the seal says against line number `seq` with the hash `own`, else its own `fault`."""
    if seq >= seal.entries:
        return f"was never sealed: {seal.entries:,} entries were, and then a writer was killed here or it was forged"
    if fault is None and seq == seal.entries - 1 and own != seal.sha256:
        return "is not the line that was sealed last: it or one before it was written anew"
    return fault


def walk(
    lines: Iterable[str], previous_hash: str = GENESIS, *, first_seq: int = 0, seal: Seal | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Entry and hash of every line, each only once the line is known to be sound. See `verify`.

    Raises BrokenLogError at the first that is not.
    """
    previous, seq = previous_hash, first_seq
    for line in lines:
        fault, own, entry = _read(line, seq, previous)
        reason = fault if seal is None else _against(seal, seq, own, fault)
        if reason is not None:
            raise BrokenLogError(seq - first_seq + 1, reason)
        previous, seq = own, seq + 1
        yield entry, own
    if seal is not None and seq < seal.entries:
        reason = f"missing: {seal.entries:,} entries were sealed, the log ends after {seq:,}"
        raise BrokenLogError(seq - first_seq + 1, reason)


def verify(
    lines: Iterable[str], previous_hash: str = GENESIS, *, first_seq: int = 0, seal: Seal | None = None
) -> AuditReport:
    """Whether `lines` are a chain from `previous_hash` on that ends at `seal`; names the first broken line.

    Lines cut off at the end leave a sound chain: only a seal, kept beside the log, tells.

    >>> lines = chain([{"n": 1}, {"n": 2}])
    >>> seal = Seal(2, verify(lines).last_hash)
    >>> verify(lines[:1]).ok, verify(lines[:1], seal=seal).reason
    (True, 'missing: 2 entries were sealed, the log ends after 1')
    """
    entries, last = 0, previous_hash
    try:
        for _, own in walk(lines, previous_hash, first_seq=first_seq, seal=seal):
            entries, last = entries + 1, own
    except BrokenLogError as broken:
        return AuditReport(False, entries, last, broken.line, broken.reason)
    return AuditReport(True, entries, last)
