"""Do a training again from its record alone, and say whether the same data gave the same model, to the byte."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.case import data_sha256, slices
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.progress import Say, silent
from pipelines.times import Interval, parse_interval
from pipelines.tracking import Registry, RegistryError, RunRecord
from pipelines.train import identity
from pipelines.training import Options, load_case
from pipelines.trial import fit_model

SECTIONS = ("bars", "detector", "warning", "base", "gate", "label", "seed")  # what decides a model
SAME_CODE = ("catalogue", "labels")


@dataclass(frozen=True)
class Repeated:
    """`model_sha256` is that of the record; `same_bytes` whether training again gave it."""

    run_id: str
    venue: str
    interval: str
    model_sha256: str
    found_sha256: str
    same_bytes: bool
    notes: tuple[str, ...]

    def sentence(self) -> str:
        told = "the same model, to the byte" if self.same_bytes else "another model"
        head = f"run {self.run_id} of {self.venue}, {self.interval}, done again: {told} ({self.found_sha256[:12]})"
        return "; ".join((head, *self.notes))


def config_of(run: RunRecord, current: Config) -> Config:
    """The settings that made the model; lake, registry and all else stay those of today.

    Raises InputError where the record holds settings that this version does not know.
    """
    recorded = json.loads(run.config)
    absent = [name for name in SECTIONS if name not in recorded]
    if absent:
        raise InputError(f"its configuration lacks {', '.join(absent)}", where=f"run {run.run_id}")
    try:
        found: dict[str, Any] = {
            name: type(getattr(current, name))(**recorded[name]) for name in SECTIONS if name != "seed"
        }
    except ValueError as error:
        raise InputError(f"its configuration is not one of this version ({error})", where=f"run {run.run_id}") from None
    return current.model_copy(update=found | {"seed": recorded["seed"]})


def _span(run: RunRecord) -> Interval:
    start, _, end = run.params.get("interval", "").partition("..")
    if not end:
        raise InputError("its record names no interval", where=f"run {run.run_id}", mend="train anew")
    return parse_interval(start, end)


def repeat(lake: Lake, run_id: str, current: Config, say: Say = silent) -> Repeated:
    """Train on what the lake holds now with the settings of the record. Registers nothing.

    Raises InputError where there is no such run, or the lake holds other data than it learned from.
    """
    try:
        run = Registry(current.mlflow, lake.root).read_run(run_id)
    except RegistryError as error:
        raise InputError(str(error)) from None
    engine = run.params.get("engine", "local")
    if engine != "local":
        raise InputError(f"its trees were grown by {engine} and differ from run to run", where=f"run {run_id}")
    config, span, venue = config_of(run, current), _span(run), run.tags.get("venue", "")
    lakes = json.loads(run.params["pretrain"]) if "pretrain" in run.params else []
    options = Options(pretrain=tuple(Path(path) for path in lakes))
    case, base = load_case(lake, venue, span, config, options, say=say)
    where = f"run {run_id}, {venue} {span}"
    if base is not None and base.data_sha256 != run.params.get("base.data_sha256"):
        raise InputError("the lakes it was pretrained on hold other data now", where=where, mend="train anew")
    if data_sha256(case.matrix, case.targets, case.events) != run.tags.get("data_sha256"):
        raise InputError("the lake holds other data than the run learned from", where=where, mend="train anew")
    found = identity(case, fit_model(case, slices(case)[1]))
    other = [name for name in SAME_CODE if found[name] != run.tags.get(name)]
    notes = tuple(f"{name} was version {run.tags.get(name)}, is {found[name]}" for name in other)
    same = found["model_sha256"] == run.model_sha256
    return Repeated(run_id, venue, str(span), run.model_sha256, found["model_sha256"], same, notes)
