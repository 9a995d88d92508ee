"""Which early-warning model scores: promotion past a gate, and the way back, one step at a time.

Order of writes: the gate's report, the history entry, the alias `champion`, the alias `previous`. The one write that
changes what scores is atomic, and the version was loaded and checked before it: whatever is killed wherever, the
champion is the old model or the new one, whole. History is tags of the registered model, written once, never changed.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from pipelines.errors import InputError
from pipelines.tracking.errors import CheckError
from pipelines.tracking.reading import found_or_none
from pipelines.tracking.registry import CHAMPION, Registry, uri_of

PREVIOUS = "previous"
HISTORY = "history."
WHY_CHARACTERS_MAX = 4000


@dataclass(frozen=True)
class GateReport:
    """What a gate said of a version: its name, its answer, and its whole report as JSON text."""

    name: str
    passed: bool
    report: str

    @property
    def file(self) -> str:
        """Where the report lies in the run; another report gets another file."""
        return f"gate/{hashlib.sha256(self.report.encode()).hexdigest()[:12]}.json"


@dataclass(frozen=True)
class Entry:
    """One change of the champion as it was meant; `was` is None for the first. It happened if what follows says so."""

    number: int
    kind: Literal["promote", "rollback"]
    at: str
    was: str | None
    to: str
    why: str
    forced: bool = False

    def tag(self) -> tuple[str, str]:
        """Key and value; two clients at once write two keys."""
        value = json.dumps(asdict(self), sort_keys=True)
        return f"{HISTORY}{self.number:05d}.{hashlib.sha256(value.encode()).hexdigest()[:8]}", value


@dataclass(frozen=True)
class Change:
    """What `promote` and `rollback` did: champion and former champion as versions; unchanged where it was so before."""

    name: str
    champion: str
    previous: str | None
    was: str | None
    why: str
    forced: bool
    changed: bool
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        verb = "is now" if self.changed else "was already"
        way_back = f"version {self.previous}" if self.previous else "none"
        head = f"models:/{self.name}/{self.champion} {verb} the {CHAMPION}{' (forced)' if self.forced else ''}"
        return "; ".join((f"{head}, the way back is {way_back}", *self.notes))


def standing(entries: Sequence[Entry], champion: str | None) -> tuple[str, ...]:
    """The champions under the present one, oldest first, the present one last: where `rollback` goes, step by step.

    An entry was void (its client was killed before the alias moved) where what follows still starts from its `was`.
    A champion that no entry made was set by hand and counts like a promotion.

    >>> up, down = Entry(1, "promote", "t", "1", "2", ""), Entry(2, "rollback", "t", "2", "1", "")
    >>> standing([up], "2"), standing([up], "1"), standing([up, down], "1"), standing([up, down], "2")
    (('1', '2'), ('1',), ('1',), ('1', '2'))
    """
    stack: list[str] = []
    following = [entry.was for entry in entries[1:]]
    for entry, after in zip(entries, (*following, champion), strict=False):
        _on_top(stack, entry.was)
        if after == entry.was:
            continue
        if entry.kind == "rollback" and len(stack) > 1:
            stack.pop()
        _on_top(stack, entry.to)
    _on_top(stack, champion)
    return tuple(stack)


def _on_top(stack: list[str], version: str | None) -> None:
    if version is not None and (not stack or stack[-1] != version):
        stack.append(version)


def history(registry: Registry, name: str) -> tuple[Entry, ...]:
    """Every entry, oldest first; empty where nothing was promoted. Raises RegistryError."""
    if not registry.exists:
        return ()
    with registry.store.reported(f"read the history of {name}"):
        return _entries(registry.store.client(), name)


def _entries(client: Any, name: str) -> tuple[Entry, ...]:
    model = found_or_none(lambda: client.get_registered_model(name))
    values: Iterable[str] = (
        () if model is None else (value for key, value in model.tags.items() if key.startswith(HISTORY))
    )
    try:
        found = [Entry(**json.loads(value)) for value in values]
    except (TypeError, ValueError) as error:
        raise CheckError(f"a tag {HISTORY}* of {name} was changed, {error}", "delete that tag in MLflow") from None
    return tuple(sorted(found, key=lambda entry: (entry.number, entry.at, entry.to)))


def record_gate(registry: Registry, name: str, version: str, gate: GateReport) -> None:
    """Keep the gate's report in the version's run, its name and answer as tags of the version. Idempotent."""
    with registry.store.reported(f"record the gate of {name} {version}"):
        found = registry.find_version(name, version)
        client = registry.store.client()
        client.log_text(found.run_id, registry.store.hidden(gate.report), gate.file)
        tags = {"gate_report": gate.file, "gate": gate.name, "gate_passed": str(gate.passed).lower()}
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)


def promote(
    registry: Registry,
    name: str,
    version: str,
    why: str,
    report: GateReport | None = None,
    *,
    at: datetime,
    force: bool = False,
) -> Change:
    """Let `version` score from now on; the former champion becomes `previous`. Idempotent.

    `report` is recorded first; without one the gate that was recorded before counts. A version whose gate is unknown or
    was not passed needs `force` and a reason, and is tagged as forced. `at` is the time of the change.

    Raises InputError where the gate or the reason is missing, RegistryError where the version is not there, cannot be
    loaded, or the registry does not answer: the champion is then what it was.
    """
    why = _reason(why, needed=force)
    if report is not None:
        record_gate(registry, name, version, report)
    with registry.store.reported(f"promote {name} {version}"):
        found = registry.find_version(name, version)
        forced = not _passed(found, force)
        registry.checked(name, version)
        client = registry.store.client()
        if forced:
            client.set_model_version_tag(name, version, "forced", "true")
            client.set_model_version_tag(name, version, "forced_why", why)
        return _move(registry, client, name, str(found.version), kind="promote", why=why, at=at, forced=forced)


def rollback(registry: Registry, name: str, why: str, *, at: datetime) -> Change:
    """Back to the champion before; again, to the one before that.

    Raises InputError where there is none, RegistryError where it cannot be loaded any more: nothing changes then.
    """
    why = _reason(why, needed=False)
    if not registry.exists:
        raise _nothing_before(name, None)
    with registry.store.reported(f"roll back {name}"):
        client = registry.store.client()
        champion = _champion(registry, name)
        stack = standing(_entries(client, name), champion)
        if champion is None or len(stack) < 2:
            raise _nothing_before(name, champion)
        registry.checked(name, stack[-2])
        return _move(registry, client, name, stack[-2], kind="rollback", why=why, at=at)


def _nothing_before(name: str, champion: str | None) -> InputError:
    what = "there is no champion" if champion is None else f"version {champion} is the first champion"
    return InputError(f"nothing to roll back, {what}", where=name, mend="see `cascadeguard models`")


def _reason(why: str, *, needed: bool) -> str:
    text = " ".join(why.split())
    if needed and not text:
        raise InputError("forcing a promotion needs a reason", where="--force", mend='say it with --why "..."')
    if len(text) > WHY_CHARACTERS_MAX:
        raise InputError(f"a reason has at most {WHY_CHARACTERS_MAX} characters, this one {len(text)}", where="--why")
    return text


def _passed(found: Any, force: bool) -> bool:
    """Whether the gate was passed. Raises InputError where it was not and nobody insists."""
    answer = found.tags.get("gate_passed")
    if answer != "true" and not force:
        said = "no gate has judged this version" if answer is None else f"it did not pass its gate {found.tags['gate']}"
        raise InputError(said, where=uri_of(found), mend='promote it all the same with --force --why "..."')
    return bool(answer == "true")


def _champion(registry: Registry, name: str) -> str | None:
    found = registry.find_alias(name, CHAMPION)
    return None if found is None else str(found.version)


def _move(
    registry: Registry,
    client: Any,
    name: str,
    to: str,
    *,
    kind: Literal["promote", "rollback"],
    why: str,
    at: datetime,
    forced: bool = False,
) -> Change:
    """History, champion, previous, in this order; `to` was loaded by the caller."""
    was = _champion(registry, name)
    before = _entries(client, name)
    if was != to:
        number = before[-1].number + 1 if before else 1
        entry = Entry(number, kind, at.isoformat(timespec="microseconds"), was, to, registry.store.hidden(why), forced)
        client.set_registered_model_tag(name, *entry.tag())
        client.set_registered_model_alias(name, CHAMPION, to)
        before = (*before, entry)
    stack = standing(before, to)
    previous, notes = _set_previous(registry, client, name, stack[-2] if len(stack) > 1 else None)
    return Change(name, to, previous, was, why, forced, was != to, notes)


def _set_previous(
    registry: Registry, client: Any, name: str, version: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """The alias `previous` on the champion before, if that can be loaded; else no such alias, and a note says why."""
    notes: tuple[str, ...] = ()
    if version is not None:
        try:
            registry.checked(name, version)
        except CheckError as fault:
            version, notes = None, (f"no alias {PREVIOUS}: {fault.why}",)
    if version is not None:
        client.set_registered_model_alias(name, PREVIOUS, version)
    elif registry.find_alias(name, PREVIOUS) is not None:
        client.delete_registered_model_alias(name, PREVIOUS)
    return version, notes
