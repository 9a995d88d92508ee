"""Replay: recompute what the audit log says from what it says it was made of, and compare byte by byte."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from guardrails.audit import chain
from guardrails.policy import Policy, PolicyError, parse_policy
from pipelines.audit import content_of, kept_policy, rules_sha256, runs_of
from pipelines.errors import InputError
from pipelines.guard import judge, observed, outputs
from pipelines.lake import Lake
from pipelines.times import Interval, parse_time

INTACT, CHANGED, OTHER_RULES, BROKEN = "intact", "inputs changed", "rules changed", "does not follow"
SEVERITY = (INTACT, CHANGED, OTHER_RULES, BROKEN)  # the worst last
NOTHING = "no decision"
Decision: TypeAlias = Mapping[str, Any]  # an entry of the log


@dataclass(frozen=True)
class Difference:
    """The first thing that a run's recomputation gives differently, and what may explain it."""

    verdict: str  # of SEVERITY
    line: int
    what: str  # a decision's id, or the table that came out differently
    column: str
    logged: str
    recomputed: str
    why: str


@dataclass(frozen=True)
class Checked:
    verdict: str  # the worst of all runs
    interval: str
    runs: int
    decisions: int
    older_inputs: int  # runs whose inputs have changed since and were read as they were then
    first: Difference | None


@dataclass(frozen=True)
class _Logged:
    """A run of the log, with the ids that were in the log before it."""

    line: int
    run: Mapping[str, Any]
    decisions: Sequence[Decision]
    held: Set[str]

    @property
    def interval(self) -> Interval:
        return Interval(parse_time(self.run["start"]), parse_time(self.run["end"]))

    def line_of(self, decision_id: str) -> int:
        """The line of a decision of this run, else its own."""
        ids = [decision["decision_id"] for decision in self.decisions]
        return self.line - len(ids) + ids.index(decision_id) if decision_id in ids else self.line


class _Found(NamedTuple):
    """What a recomputation gives differently: a decision's id or a table, its column, and both values."""

    what: str
    column: str
    logged: Any
    recomputed: Any


def check_replay(lake: Lake, span: Interval | None = None) -> Checked:
    """Recompute every run of the log (that overlaps `span`) and compare its decisions and tables byte by byte.

    Inputs are read as the lake holds them now; where they are not what the run read, as they were in the version it
    read. Raises InputError where the log itself is broken.
    """
    runs = decisions = older = 0
    first: Difference | None = None
    for logged in _logged(lake):
        if span is not None and not (logged.interval.start < span.end and span.start < logged.interval.end):
            continue
        found, then = _recompute(lake, logged)
        runs, decisions, older = runs + 1, decisions + len(logged.decisions), older + then
        if found is not None and (first is None or SEVERITY.index(found.verdict) > SEVERITY.index(first.verdict)):
            first = found
    if span is not None and not runs:
        raise InputError("no run of the log judged a minute of this interval", where=str(span))
    verdict = INTACT if first is None else first.verdict
    return Checked(verdict, "all" if span is None else str(span), runs, decisions, older, first)


def _logged(lake: Lake) -> Iterator[_Logged]:
    held: dict[str, set[str]] = {}
    for line, run, decisions in runs_of(lake):
        own = held.setdefault(run["venue"], set())
        yield _Logged(line, run, decisions, own)
        own |= {decision["decision_id"] for decision in decisions}


def _recompute(lake: Lake, logged: _Logged) -> tuple[Difference | None, bool]:
    """What a run's recomputation gives differently, and whether its inputs had to be read as they were then."""
    policy = _policy_then(lake, logged.run["policy_sha256"])
    if isinstance(policy, str):
        found = _Found("policy", "text", logged.run["policy_sha256"], policy)
        return _difference(logged, found, BROKEN, policy), False
    seen, changed, then = _inputs_then(lake, logged, policy)
    decided = judge(seen, policy, logged.interval.start)
    fresh = [row for row in decided.decisions.iter_rows(named=True) if row["decision_id"] not in logged.held]
    different = _first_difference(logged, fresh, content_of(outputs(decided)))
    return None if different is None else _difference(logged, different, *_why(changed, logged.run)), then


def _policy_then(lake: Lake, sha256: str) -> Policy | str:
    """The policy that the log names; a sentence where it is not kept, or not what its name says."""
    text = kept_policy(lake, sha256)
    if text is None:
        return "the text of the policy is not kept"
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        return f"the policy that is kept cannot be read by this version: {error.violations[0]}"
    return policy if policy.sha256 == sha256 else "the policy that is kept has another hash: its text was changed"


def _inputs_then(lake: Lake, logged: _Logged, policy: Policy) -> tuple[dict[str, pl.DataFrame], list[str], bool]:
    """The inputs of a run, which of them are not what it read, and whether they are of the lake's past."""
    seen = observed(lake, logged.run["venue"], logged.interval, policy)
    changed = _changed(seen, logged.run)
    if not changed:
        return seen, [], False
    try:
        past = observed(lake.as_of(logged.run["versions"]), logged.run["venue"], logged.interval, policy)
    except Exception:  # files of an old version are swept in time; whatever cannot be read is not there
        return seen, changed, False
    return (seen, changed, False) if _changed(past, logged.run) else (past, [], True)


def _changed(seen: Mapping[str, pl.DataFrame], run: Mapping[str, Any]) -> list[str]:
    now, then = content_of(seen), run["inputs"]
    return sorted(name for name in {*now, *then} if now.get(name) != then.get(name))


def _why(changed: Sequence[str], run: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict on a difference, and what may explain it."""
    if changed:
        read = f"the run read other {', '.join(changed)} than the lake holds, and the version it read is not kept"
        return CHANGED, f"{read}: late data, or a table was changed; nobody can tell any more"
    if run["rules_sha256"] != rules_sha256():
        return OTHER_RULES, "inputs and policy are those of the run, the rules' code is not: check with that version"
    return BROKEN, "inputs, policy and rules are those of the run: what the log says was not made from them"


def _difference(logged: _Logged, found: _Found, verdict: str, why: str) -> Difference:
    line, values = logged.line_of(found.what), (_shown(found.logged), _shown(found.recomputed))
    return Difference(verdict, line, found.what, found.column, *values, why)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _first_difference(logged: _Logged, fresh: Sequence[Decision], content: Mapping[str, Any]) -> _Found | None:
    """The first difference: decisions in their order, then the tables."""
    for before, after in zip_longest(logged.decisions, map(_as_logged, fresh)):
        if before is None or after is None or before["decision_id"] != after["decision_id"]:
            return _unpaired(logged, fresh, before, after)
        for column in sorted(before.keys() | after.keys()):
            if json.dumps(before.get(column)) != json.dumps(after.get(column)):
                return _Found(before["decision_id"], column, before.get(column), after.get(column))
    said = logged.run["outputs"]
    tables = (_Found(name, "content", said.get(name), made) for name, made in content.items())
    return next((one for one in tables if one.logged != one.recomputed), None)


def _as_logged(decision: Mapping[str, Any]) -> dict[str, Any]:
    """A decision as it reads when it comes back from the log."""
    found: dict[str, Any] = json.loads(chain([decision])[0])["entry"]
    return found


def _unpaired(
    logged: _Logged,
    fresh: Sequence[Decision],
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> _Found:
    """Two decisions that should be one: the one that the log lacks, the one that does not follow, or both misplaced."""
    held, made = ({one["decision_id"] for one in some} for some in (logged.decisions, fresh))
    if before is None or (after is not None and after["decision_id"] not in held):
        named = after or {}
        return _Found(str(named.get("decision_id")), "decision", NOTHING, _brief(named))
    alone = before["decision_id"] not in made
    return _Found(str(before["decision_id"]), "decision", _brief(before), NOTHING if alone else _brief(after or {}))


def _brief(decision: Mapping[str, Any]) -> str:
    return " ".join(str(decision.get(name)) for name in ("decision_id", "ts", "entity", "rule", "reason"))


def check_sentence(found: Checked) -> str:
    runs = f"{found.runs:,} run" + "s" * (found.runs != 1)
    told = f"{found.decisions:,} decisions of {runs}"
    past = f"; {found.older_inputs:,} read as the lake was then, its inputs have changed since"
    past = past if found.older_inputs else ""
    if found.first is None:
        return f"intact: {told} follow from the stored inputs and policies, byte by byte{past}"
    one = found.first
    return "\n".join(
        (
            f"{found.verdict}: {told} recomputed{past}; the first difference is in line {one.line:,} of the log",
            f"  {one.what}, {one.column}",
            f"  logged:     {one.logged}",
            f"  recomputed: {one.recomputed}",
            f"  {one.why}",
        )
    )
