"""A run and its model go in: parameters, metrics, datasets, texts and figures first, the registered version last.

The same registration (name, model text, tags) done again, whatever was killed before, ends in one version.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.tracking.environment import load_mlflow, surroundings
from pipelines.tracking.reading import MODEL_FILE, stored_text
from pipelines.tracking.records import Dataset, Metric, Record
from pipelines.tracking.store import TAKEN, Store
from pipelines.tracking.wire import to_wire

RECORD_FORMAT = "1"
PARAMS_PER_CALL = 100  # as many as MLflow takes at once
DIGEST_CHARACTERS = 32  # MLflow's field holds 36; the whole digest stands in the profile
REQUIREMENTS = ("lightgbm", "numpy", "pandas", "polars", "pyarrow", "scipy")
SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Form:
    """A model ready to be stored: its script (`<kind>_pyfunc.py`), its text, and an example of use."""

    kind: str
    text: str
    example: pl.DataFrame
    answer: pl.DataFrame

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Registration:
    """A model under its name with its record. Two are the same where name, model text and tags are."""

    name: str
    form: Form
    record: Record

    @cached_property
    def key(self) -> str:
        same = [self.name, self.form.sha256, sorted(self.record.tags.items())]
        return hashlib.sha256(json.dumps(same).encode()).hexdigest()

    @property
    def tags(self) -> dict[str, str]:
        return {**self.record.tags, "registration": self.key, "model_sha256": self.form.sha256}


def register(store: Store, wanted: Registration) -> str:
    """Track and register; returns the version. What a killed attempt left behind is completed, not repeated."""
    client = store.client()
    found = registered(client, wanted.name, wanted.key)
    if found:
        return str(found[0].version)
    experiment = store.experiment_id(client, wanted.record.experiment)
    run_id, model_id = _finished(client, experiment, wanted) or _write(store, client, experiment, wanted)
    tags = _hidden(store, wanted.tags | wanted.record.headline_tags())
    version = _version(client, wanted, run_id, model_id, tags)
    _close_abandoned(client, experiment, wanted.key, run_id)
    return version


def registered(client: Any, name: str, key: str) -> list[Any]:
    """Versions of this registration, oldest first."""
    wanted = f"name = '{name}' AND tags.`registration` = '{key}'"
    found = client.search_model_versions(wanted, max_results=100)
    return sorted(found, key=lambda row: int(row.version))


def _finished(client: Any, experiment: str, wanted: Registration) -> tuple[str, str] | None:
    """A run of this registration that was written whole but never registered, and its model; None where none is."""
    query = f"tags.registration = '{wanted.key}' AND attributes.status = 'FINISHED'"
    for run in client.search_runs([experiment], query, max_results=10):
        for output in run.outputs.model_outputs:
            if stored_text(f"models:/{output.model_id}") == wanted.form.text:
                return run.info.run_id, output.model_id
    return None


def _write(store: Store, client: Any, experiment: str, wanted: Registration) -> tuple[str, str]:
    """Everything but the version: run and model. The run is marked failed if anything fails."""
    mlflow, around = load_mlflow(), surroundings()
    run_id = _begun(store, client, experiment, wanted.name, {**wanted.tags, **_made_by(around)})
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        _log_record(store, client, run_id, wanted.record, Path(scratch))
        return run_id, _log_model(mlflow, Path(scratch), wanted.form)


def log_run(store: Store, name: str, record: Record) -> str:
    """Track a record that has no model; returns the run. The same record under the same name is logged once."""
    client, mlflow, around = store.client(), load_mlflow(), surroundings()
    experiment = store.experiment_id(client, record.experiment)
    same = [name, *(sorted(part.items()) for part in (record.tags, record.params, record.metrics, record.artifacts))]
    key = hashlib.sha256(json.dumps(same, default=str).encode()).hexdigest()
    found = client.search_runs([experiment], f"tags.record = '{key}' AND attributes.status = 'FINISHED'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run_id = _begun(store, client, experiment, name, {**record.tags, "record": key, **_made_by(around)})
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        _log_record(store, client, run_id, record, Path(scratch))
    return run_id


def _made_by(around: Mapping[str, Any]) -> dict[str, str]:
    return {"record_format": RECORD_FORMAT, "code": around["code"], "python": around["python"]}


def _begun(store: Store, client: Any, experiment: str, name: str, tags: Mapping[str, Any]) -> str:
    return str(client.create_run(experiment, run_name=store.hidden(name), tags=_hidden(store, tags)).info.run_id)


def _log_record(store: Store, client: Any, run_id: str, record: Record, scratch: Path) -> None:
    mlflow = load_mlflow()
    _log_values(mlflow, store, record)
    client.log_inputs(run_id, datasets=[_input(dataset) for dataset in record.datasets])
    _write_files(scratch / "run", _files(store, record, surroundings()))
    mlflow.log_artifacts(str(scratch / "run"))


def _files(store: Store, record: Record, around: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the run by name, texts without passwords."""
    texts = {
        **record.artifacts,
        **{f"figures/{name}": content for name, content in record.figures.items()},
        "config.json": record.config or "{}",
        "environment.json": json.dumps(around, indent=1, sort_keys=True),
    }
    return {name: _cleaned(store, content) for name, content in texts.items()}


def _cleaned(store: Store, content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else store.hidden(content).encode()


def _hidden(store: Store, values: Mapping[str, Any]) -> dict[str, str]:
    return {name: store.hidden(str(value)) for name, value in values.items()}


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _in_parts(values: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    items = iter(values.items())
    while part := dict(islice(items, size)):
        yield part


def _log_values(mlflow: Any, store: Store, record: Record) -> None:
    seeds = {f"seed.{part}": seed for part, seed in record.seeds.items()}
    for part in _in_parts(_hidden(store, {**record.params, **seeds}), PARAMS_PER_CALL):
        mlflow.log_params(part)
    _log_metrics(mlflow, record.metrics)


def _log_metrics(mlflow: Any, metrics: Mapping[str, Metric]) -> None:
    """One call per step: all metrics that are known there."""
    rows = {name: value if isinstance(value, Sequence) else [value] for name, value in metrics.items()}
    for step in range(max(map(len, rows.values()), default=0)):
        known = {name: row[step] for name, row in rows.items() if step < len(row) and row[step] is not None}
        if known:
            mlflow.log_metrics(known, step=step)


def _input(dataset: Dataset) -> Any:
    """The dataset as an input of the run, its role as the context; MLflow tells inputs apart by name and digest."""
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag

    entity = Entity(
        name=f"{dataset.name}-{dataset.role}",
        digest=dataset.digest[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        schema=dataset.columns_json(),
        profile=dataset.profile(),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.role)])


def _log_model(mlflow: Any, scratch: Path, form: Form) -> str:
    model_file = scratch / MODEL_FILE
    model_file.write_text(form.text, encoding="utf-8")
    example = to_wire(form.example)
    stored = mlflow.pyfunc.log_model(
        name=form.kind,
        python_model=str(SCRIPTS / f"{form.kind}_pyfunc.py"),
        artifacts={"model": str(model_file)},
        pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
        signature=mlflow.models.infer_signature(example, to_wire(form.answer)),
        input_example=example,
    )
    return str(stored.model_id)


def _version(client: Any, wanted: Registration, run_id: str, model_id: str, tags: dict[str, str]) -> str:
    """The version of this registration: of several (a lost answer asked for again, another client) the oldest stays.

    Only versions of our own run are taken back.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(wanted.name)
    except MlflowException as error:
        if error.error_code != TAKEN:
            raise
    client.create_model_version(wanted.name, f"models:/{model_id}", run_id=run_id, tags=tags, model_id=model_id)
    first, *others = registered(client, wanted.name, wanted.key)
    for other in others:
        if other.run_id == run_id:
            client.delete_model_version(wanted.name, other.version)
    return str(first.version)


def _close_abandoned(client: Any, experiment: str, key: str, run_id: str) -> None:
    """Runs of this registration that still seem to run: whoever wrote them was killed, or closes them itself."""
    wanted = f"tags.registration = '{key}' AND attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], wanted, max_results=100):
        if run.info.run_id != run_id:
            client.set_terminated(run.info.run_id, status="KILLED")
