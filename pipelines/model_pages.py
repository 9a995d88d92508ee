"""One registered version told whole: its facts, its run, whether it can be loaded, and when it was champion."""

import json
import re
from dataclasses import asdict
from typing import Any

from models.warning import WarningModel
from pipelines.promotion import history
from pipelines.tracking.errors import CheckError
from pipelines.tracking.reading import run_record, run_text
from pipelines.tracking.registry import Registry, describe, uri_of
from pipelines.trial import RIVALS

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


def tell(registry: Registry, target: str) -> dict[str, Any]:
    """Everything about `target`: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or an alias or version of the
    early-warning model. Raises RegistryError where there is no such version.

    `loads` is `yes` or what is wrong; `run` is None where its run cannot be read back.
    """
    with registry.store.reported(f"show {target}"):
        if not registry.exists:
            raise CheckError("no models are registered", "run `cascadeguard train` first")
        found = _find(registry, target)
        model = registry.store.client().get_registered_model(found.name)
        told = describe(found, model.aliases) | {"loads": _loads(registry, found), "run": _run(registry, found)}
    changes = [asdict(entry) for entry in history(registry, found.name) if str(found.version) in (entry.was, entry.to)]
    return told | {"history": changes}


def load(registry: Registry, target: str) -> tuple[WarningModel, str]:
    """The early-warning model of `target`, and its address. Raises RegistryError where none can be read."""
    with registry.store.reported(f"load {target}"):
        if not registry.exists:
            raise CheckError("no models are registered", "run `cascadeguard train` first")
        found = _find(registry, target)
        if registry.kind_of(found.name) != "warning":
            raise CheckError(f"{target} is a detector", "name an early-warning model")
        model: WarningModel = registry.checked(found.name, found.version)
    return model, uri_of(found)


def trial_of(registry: Registry, target: str) -> list[dict[str, Any]]:
    """What the training of `target` found of it, of its rivals and of a part of its features; nothing where its run is
    gone. Raises RegistryError where there is no such version."""
    with registry.store.reported(f"show {target}"):
        found = _find(registry, target)
        text = run_text(registry.store.client(), found.run_id, RIVALS)
        return [] if text is None else list(json.loads(text))


def _find(registry: Registry, target: str) -> Any:
    address = _ADDRESS.fullmatch(target)
    parts = address.groupdict() if address else {}
    name = parts.get("name") or registry.settings.warning_name
    version = parts.get("version") or (target if target.isdigit() else None)
    if version is not None:
        return registry.find_version(name, version)
    alias = parts.get("alias") or target
    found = registry.find_alias(name, alias)
    if found is None:
        raise CheckError(f"{name} has no alias {alias}", "name one that `cascadeguard models` lists, or a version")
    return found


def _loads(registry: Registry, found: Any) -> str:
    try:
        registry.checked(found.name, found.version)
    except CheckError as fault:
        return registry.store.hidden(fault.why)
    return "yes"


def _run(registry: Registry, found: Any) -> dict[str, Any] | None:
    try:
        return asdict(run_record(registry.store.client(), found.run_id))
    except CheckError:
        return None
