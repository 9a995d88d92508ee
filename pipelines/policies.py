"""The policies of the settings: one file or a directory of them, each in force from its date until the next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any

from guardrails.examples import check_examples
from guardrails.policy import Policy, PolicyError, parse_policy
from guardrails.policy_diff import Difference, policy_diff
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.times import Interval, parse_time, show_time

SHIPPED = "guardrails/policy.toml"
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class PolicyFile:
    """A policy and where it came from."""

    where: str
    text: str
    policy: Policy


@dataclass(frozen=True)
class CheckSummary:
    policies: tuple[dict[str, Any], ...]  # file, version, effective_from, sha256, examples by rule

    def sentence(self) -> str:
        return "\n".join(_checked_line(one) for one in self.policies)


def _sources(path: Path | None) -> list[tuple[str, Path | Traversable]]:
    """Where the policies are: the shipped one, a file, or every `.toml` of a directory by name."""
    if path is None:
        return [(SHIPPED, resources.files("guardrails").joinpath("policy.toml"))]
    if not path.is_dir():
        return [(str(path), path)]
    files = sorted(path.glob("*.toml"))
    if not files:
        raise InputError("the directory holds no policy", where=path, mend="put policies into it as .toml files")
    return [(str(file), file) for file in files]


def _read(path: Path | None) -> tuple[list[PolicyFile], list[str]]:
    """The policies that are valid alone, the earliest first, and the violations of all files together."""
    sources = _sources(path)
    found, violations = list[PolicyFile](), list[str]()
    for where, source in sources:
        try:
            text = source.read_text(encoding="utf-8")
            found.append(PolicyFile(where, text, parse_policy(text)))
        except PolicyError as error:
            violations += _told(where, error.violations, len(sources))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the policy cannot be read ({error})", where=where, mend="name a policy file, or see `policy --help`"
            ) from None
    in_time = sorted(found, key=lambda file: (file.policy.effective_from, file.policy.version))
    return in_time, violations + _order_faults(in_time)


def _told(where: str, violations: Iterable[str], files: int) -> list[str]:
    """Each violation behind the name of its file, where there are several."""
    return [f"{Path(where).name}: {violation}" if files > 1 else violation for violation in violations]


def _refuse(violations: Sequence[str], path: Path | None) -> None:
    if violations:
        told = f"{len(violations)} violation{'s' * (len(violations) != 1)}: {' | '.join(violations)}"
        raise InputError(f"the policy is not valid: {told}", where=path or SHIPPED)


def _order_faults(in_time: Sequence[PolicyFile]) -> list[str]:
    """What is wrong with policies beside each other: one date or version twice, a version that falls with time."""
    faults = []
    for earlier, later in pairwise(in_time):
        names = f"{Path(earlier.where).name} and {Path(later.where).name}"
        a, b = earlier.policy, later.policy
        if a.effective_from == b.effective_from:
            faults.append(f"{names} have the same `effective_from` {show_time(a.effective_from)}")
        if a.version == b.version:
            faults.append(f"{names} have the same `version` {a.version}")
        elif a.version > b.version:
            faults.append(f"{names}: `version` must rise with `effective_from`, fell from {a.version} to {b.version}")
    return faults


def policy_files(config: Config) -> tuple[PolicyFile, ...]:
    """The policies of the settings with their texts, the earliest first; else the one that comes with the package.

    Raises InputError that lists every violation of every file, two policies with one date or version, and versions
    that do not rise with their dates.
    """
    files, violations = _read(config.policy)
    _refuse(violations, config.policy)
    return tuple(files)


def read_policies(config: Config) -> tuple[Policy, ...]:
    """The policies of `policy_files`."""
    return tuple(file.policy for file in policy_files(config))


def read_policy(path: Path) -> Policy:
    """The policy of one file; InputError lists every violation."""
    if path.is_dir():
        raise InputError("a policy must be a file here", where=path, mend="name one of the files in it")
    files, violations = _read(path)
    _refuse(violations, path)
    return files[0].policy


def policy_in_force(policies: Sequence[Policy], moment: datetime) -> Policy:
    """The newest policy with `effective_from <= moment`; `policies` are in the order of their dates.

    Raises InputError before the first one.
    """
    begun = [policy for policy in policies if policy.effective_from <= moment]
    if not begun:
        raise InputError(
            f"no policy is in force at {show_time(moment)}",
            where=f"the first is effective from {show_time(policies[0].effective_from)}",
            mend="start later, or add the policy that was in force then to the directory that `policy` names",
        )
    return begun[-1]


def in_force_over(policies: Sequence[Policy], interval: Interval) -> list[tuple[Interval, Policy]]:
    """`interval` cut where another policy takes over, each part with the policy that judges its minutes.

    A minute is judged by the policy in force at its end, so a part begins a minute before the policy's date.
    Raises InputError where the interval begins before the first policy.
    """
    policy_in_force(policies, interval.start + MINUTE)
    dates = [policy.effective_from - MINUTE for policy in policies]
    cuts = [interval.start, *(date for date in dates if interval.start < date < interval.end), interval.end]
    return [(Interval(a, b), policy_in_force(policies, b)) for a, b in pairwise(cuts)]


def policy_summary(policy: Policy) -> dict[str, Any]:
    return {"version": policy.version, "sha256": policy.sha256}


def check_policies(path: Path | None) -> CheckSummary:
    """Validate the policies at `path` whole and run the worked examples in their comments.

    Raises InputError that lists every violation; an example that comes out otherwise names its line, its rule and
    what came out.
    """
    files, violations = _read(path)
    checked = [check_examples(file.text, file.policy) for file in files]
    many = len(_sources(path))
    wrong = [_told(file.where, one.violations, many) for file, one in zip(files, checked, strict=True)]
    _refuse(violations + [violation for told in wrong for violation in told], path)
    rows = [
        {"file": file.where, **policy_summary(file.policy), "effective_from": file.policy.effective_from.isoformat(),
         "examples": dict(one.held)}
        for file, one in zip(files, checked, strict=True)
    ]  # fmt: skip
    return CheckSummary(tuple(rows))


def _checked_line(row: dict[str, Any]) -> str:
    held, rules = sum(row["examples"].values()), len(row["examples"])
    since = show_time(parse_time(row["effective_from"]))
    examples = f"all {held} worked examples of {rules} rules hold" if held else "it has no worked examples"
    return f"policy {row['version']} is valid, effective from {since}, {examples}, sha256 {row['sha256']}"


def diff_sentence(found: Difference) -> str:
    """The difference as lines: the two policies, how many settings, then one sentence each."""
    lines = [f"{_named(found.a)} -> {_named(found.b)}"]
    if not found.changes:
        lines.append("every setting is the same")
    else:
        counts = [(found.count(word), word) for word in ("tighter", "looser")]
        open_ = found.count("changes")
        told = [f"{count} {word}" for count, word in counts if count] + [f"{open_} either way"] * bool(open_)
        lines.append(f"{len(found.changes)} setting{'s' * (len(found.changes) != 1)}: {', '.join(told)}")
    width = max((len(change.setting) for change in found.changes), default=0)
    lines += [f"  {change.setting:<{width}}  {change.words}" for change in found.changes]
    return "\n".join(lines + [f"  note: {note}" for note in found.notes])


def _named(policy: Any) -> str:
    since = show_time(parse_time(policy["effective_from"]))
    return f"policy {policy['version']} from {since} ({policy['sha256'][:12]})"


def diff_files(a: Path, b: Path) -> Difference:
    """What the policy in file `b` changes of the one in `a`."""
    return policy_diff(read_policy(a), read_policy(b))
