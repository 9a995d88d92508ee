"""The audit log on disk: what every run of `guard` decided, and from what; appended, sealed, verified in one pass.

    audit/decisions.jsonl          one chained line per decision, and after a run's decisions one line about the run
    audit/head.json                the seal: where the log ended when its last run had finished
    audit/policies/<sha256>.toml   every policy that decided anything, as it stood, under the hash that decisions carry

A run writes its lines, then the seal. Lines after the seal are of a run that was killed: the next run cuts them off
and, judging the same minutes, writes them again. Lines missing before the seal were taken away. Whoever can write both
files can forge both: keep the hash that `replay --verify` prints elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from guardrails.audit import GENESIS, BrokenLogError, Seal, chain, walk
from pipelines.durable import write_whole
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.times import Interval

RESTORE = "restore it from a copy; decisions are not appended to a log that cannot be trusted"
CHUNK = 1 << 16  # bytes read at a time to find the last line


@dataclass(frozen=True)
class Head:
    """The seal, the length of the log in bytes, and up to which minute each venue has been judged."""

    entries: int = 0
    bytes: int = 0
    sha256: str = GENESIS
    until: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a run read and what came of it: enough to do it again. Frames are given by rows and content hash."""

    venue: str
    interval: Interval
    policy_version: int
    policy_sha256: str
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, int]  # of the lake's tables when they were read

    def entry(self) -> dict[str, Any]:
        told = {
            "venue": self.venue,
            "start": self.interval.start.isoformat(),
            "end": self.interval.end.isoformat(),
            "policy_version": self.policy_version,
            "policy_sha256": self.policy_sha256,
            "rules_sha256": rules_sha256(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "versions": self.versions,
        }
        return {"run": told}


@dataclass(frozen=True)
class Appended:
    decisions: int
    cut: int  # lines that a killed run had left, whole or not


@cache
def rules_sha256() -> str:
    """Hash of the rules' source: the same inputs and policy give the same decisions only under the same rules."""
    files = sorted(resources.files("guardrails").iterdir(), key=lambda file: file.name)
    parts = [file.name.encode() + file.read_bytes() for file in files if file.name.endswith(".py")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def content_of(frames: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, Any]]:
    """`{name: {rows, sha256}}`; the hash is of names and values, whatever the order of rows."""
    return {name: {"rows": frame.height, "sha256": _frame_sha256(frame)} for name, frame in frames.items()}


def _frame_sha256(frame: pl.DataFrame) -> str:
    return hashlib.sha256(frame.sort(pl.all()).write_csv().encode()).hexdigest()


# --- files


def audit_path(lake: Lake) -> Path:
    return lake.root / "audit" / "decisions.jsonl"


def _head_path(lake: Lake) -> Path:
    return audit_path(lake).with_name("head.json")


def _policy_path(lake: Lake, sha256: str) -> Path:
    return audit_path(lake).with_name("policies") / f"{sha256}.toml"


def keep_policy(lake: Lake, sha256: str, text: str) -> None:
    """Keep the text of a policy, once: the first that has this content."""
    path = _policy_path(lake, sha256)
    if not path.exists():
        write_whole(path, text)


def kept_policy(lake: Lake, sha256: str) -> str | None:
    path = _policy_path(lake, sha256)
    return path.read_text(encoding="utf-8") if path.exists() else None


def read_head(lake: Lake) -> Head:
    """The seal; InputError where it is missing beside a log, or is no seal."""
    path = _head_path(lake)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Head(int(found["entries"]), int(found["bytes"]), str(found["sha256"]), dict(found["until"]))
    except FileNotFoundError:
        if not audit_path(lake).exists():
            return Head()
        mend = "restore it from a copy; a log of an older version has none: move that log aside and guard again"
        raise InputError("the audit log has no seal beside it", where=path, mend=mend) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the seal of the audit log cannot be read ({error!r})", where=path, mend=RESTORE) from None


def _lines(lake: Lake) -> Iterator[str]:
    with audit_path(lake).open(encoding="utf-8", errors="replace", newline="\n") as file:
        yield from file


def entries(lake: Lake) -> Iterator[dict[str, Any]]:
    """The entries of the log one by one, each once its line is known to be sound.

    Raises InputError where there is no log, and at the first broken line, which it names.
    """
    path, head = audit_path(lake), read_head(lake)
    if not path.exists() and not head.entries:
        raise InputError("there is no audit log", where=path, mend="run `cascadeguard guard` first")
    seal = Seal(head.entries, head.sha256)
    try:
        for line, (entry, _) in enumerate(walk(_lines(lake) if path.exists() else (), seal=seal), start=1):
            if not _is_ours(entry):
                raise BrokenLogError(line, "is neither a decision nor a run")
            yield entry
    except BrokenLogError as broken:
        raise _broken(lake, f"at line {broken.line} ({broken.reason})") from None


def _is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a run, or a decision, of a venue."""
    told = entry.get("run", entry)
    return isinstance(told, dict) and "venue" in told and ("run" in entry or "decision_id" in entry)


def _broken(lake: Lake, how: str) -> InputError:
    return InputError(f"the audit log is broken {how}", where=audit_path(lake), mend=RESTORE)


# --- appending


def append_run(lake: Lake, decisions: pl.DataFrame, run: Run) -> Appended:
    """Append the decisions that the log does not hold yet and the run that made them, all or none.

    Time and memory grow with what is new: the log is read only where the run judges minutes that were judged before.
    The caller holds the lake's lock. Raises InputError when the log does not end as it was sealed: nothing is ever
    chained to a log that cannot be trusted.
    """
    path, head = audit_path(lake), read_head(lake)
    if head == Head() and not path.exists():
        _seal(lake, head)
    cut = _cut_unsealed(lake, head)
    start, end = run.interval.start.isoformat(), run.interval.end.isoformat()
    until = head.until.get(run.venue, "")
    held = _held(lake, head.sha256) if start < until else frozenset[str]()
    fresh = decisions.filter(~pl.col("decision_id").is_in(list(held))).to_dicts()
    entries = fresh if _run_id(run.entry()) in held else [*fresh, run.entry()]
    if entries:
        lines = chain(entries, head.sha256, first_seq=head.entries)
        lake.fence()
        size = _write(path, "".join(f"{line}\n" for line in lines))
        sealed = dict(head.until) | {run.venue: max(until, end)}
        sha256 = json.loads(lines[-1])["sha256"]
        _seal(lake, Head(head.entries + len(lines), size, sha256, sealed))
        if held:
            lake.logged = sha256, held | {_named(entry) for entry in entries}
    return Appended(len(fresh), cut)


def _write(path: Path, text: str) -> int:
    """Append and put on disk; the file's length after it."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _seal(lake: Lake, head: Head) -> None:
    told = {"entries": head.entries, "bytes": head.bytes, "sha256": head.sha256, "until": dict(head.until)}
    write_whole(_head_path(lake), json.dumps(told, sort_keys=True) + "\n")


def _cut_unsealed(lake: Lake, head: Head) -> int:
    """Cut off what a killed run left after the seal; the number of lines, the last perhaps half written."""
    path = audit_path(lake)
    if head.bytes == 0 and not path.exists():
        return 0
    if not path.exists() or _last_hash(path, head.bytes) != head.sha256:
        for _ in entries(lake):
            pass  # raises at the first broken line
        raise _broken(lake, f"somewhere before byte {head.bytes:,}, where it was sealed")
    with path.open("r+b") as file:
        file.seek(head.bytes)
        left = file.read()
        if left:
            file.truncate(head.bytes)
            os.fsync(file.fileno())
    return len(left.splitlines())


def _last_hash(path: Path, end: int) -> str | None:
    """The hash of the line that ends at byte `end`, None where no sound line does; without reading what is before."""
    if end == 0:
        return GENESIS
    text, start = b"", end
    with path.open("rb") as file:
        while start > 0 and text[:-1].count(b"\n") < 1:
            start = max(0, start - CHUNK)
            file.seek(start)
            text = file.read(end - start)
    last = text[:-1].rpartition(b"\n")[2].decode(errors="replace")
    if len(text) != end - start or not text.endswith(b"\n"):
        return None
    try:
        content = json.loads(last)
        sealed = chain([content["entry"]], content["previous"], first_seq=content["seq"])
    except (ValueError, KeyError, TypeError):
        return None
    return str(content["sha256"]) if sealed == [last] else None


def _run_id(entry: Mapping[str, Any]) -> str:
    """What makes a run that run: all but the tables' versions, which grow with every rewrite of the same rows."""
    told = {name: value for name, value in entry["run"].items() if name != "versions"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _named(entry: Mapping[str, Any]) -> str:
    return _run_id(entry) if "run" in entry else str(entry["decision_id"])


def _held(lake: Lake, sealed: str) -> frozenset[str]:
    """The ids of the decisions and runs that the log holds; InputError where it is broken anywhere.

    Read once for a series of runs over old minutes: while the log ends, `sealed`, where this process left it.
    """
    if lake.logged[0] != sealed:
        lake.logged = sealed, frozenset(_named(entry) for entry in entries(lake))
    return lake.logged[1]


# --- reading


def verify_audit(lake: Lake) -> dict[str, Any]:
    """Check the whole chain, its seal, and that no decision of the lake is missing from it.

    InputError names the first broken entry, or the first decision that the log does not hold.
    """
    held, runs = set[str](), 0
    for entry in entries(lake):
        if "run" in entry:
            runs += 1
        else:
            held.add(entry["decision_id"])
    _all_logged(lake, held)
    head = read_head(lake)
    return {"ok": True, "entries": head.entries, "decisions": head.entries - runs, "runs": runs,
            "last_hash": head.sha256}  # fmt: skip


def _all_logged(lake: Lake, held: set[str]) -> None:
    known = pl.LazyFrame({"decision_id": sorted(held)}, schema={"decision_id": pl.String})
    stray = lake.scan("decisions").join(known, on="decision_id", how="anti").sort("ts", "decision_id").collect()
    if stray.height:
        first = stray.row(0, named=True)
        raise InputError(
            f"the audit log lacks {stray.height:,} decisions of the lake, the first {first['decision_id']} "
            f"({first['venue']} {first['entity']}, {first['rule']}, {first['ts']:%Y-%m-%d %H:%MZ})",
            where=audit_path(lake),
            mend="entries were taken away, or the decisions were not made by `cascadeguard guard`",
        )


def runs_of(lake: Lake) -> Iterator[tuple[int, Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Every run in the log's order: its line, what it says of itself, and the decisions it added.

    Raises InputError as `entries` does, and where decisions have no run.
    """
    own: list[Mapping[str, Any]] = []
    for line, entry in enumerate(entries(lake), start=1):
        if "run" in entry:
            yield line, entry["run"], own
            own = []
        else:
            own.append(entry)
    if own:
        raise _broken(lake, f"at its end (no run vouches for the last {len(own):,} decisions)")
