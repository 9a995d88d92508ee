"""Models and runs come out, checked: nothing is scored with that is not, to the byte, what was registered.

The stored script is not run: the text is read by our own class.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pipelines.tracking.environment import load_mlflow
from pipelines.tracking.errors import CheckError, one_line
from pipelines.tracking.records import Dataset, RunRecord

MODEL_FILE = "model.json"
KEYS = ("venue", "symbol", "ts")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers for an unknown name or alias
ANOTHER = "promote another version with `cascadeguard models promote`, or delete this one and train again"
REFIT = "delete this version in MLflow; the next run fits and registers the detector again"


def found_or_none(ask: Callable[[], Any]) -> Any | None:
    """The answer of `ask`, or None where MLflow says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def stored_text(uri: str) -> str | None:
    """The model text below `uri`; None where it is not there."""
    with tempfile.TemporaryDirectory() as scratch:
        return _text_in(_fetched(uri, scratch))


def _fetched(uri: str, scratch: str) -> Path:
    """A copy of all files below `uri`; an empty folder where there are none."""
    fetch = load_mlflow().artifacts.download_artifacts
    try:
        got = found_or_none(lambda: fetch(artifact_uri=uri, dst_path=scratch))
    except FileNotFoundError:
        got = None
    return Path(scratch if got is None else got)


def _text_in(folder: Path) -> str | None:
    place = folder / "artifacts" / MODEL_FILE
    return place.read_text(encoding="utf-8", errors="replace") if place.is_file() else None


def _inputs_in(folder: Path, where: str, mend: str) -> tuple[str, ...]:
    """The names of the stored signature, in order; none where it cannot be read."""
    try:
        signature = load_mlflow().models.Model.load(str(folder)).signature
    except Exception as error:
        raise CheckError(f"{where}: its MLmodel file cannot be read, {one_line(error)}", mend) from None
    return tuple(signature.inputs.input_names()) if signature is not None else ()


def load_version(found: Any, kind: str) -> Any:
    """The model of a registered version, its text held against the hash and its features against the signature.

    Raises CheckError where anything is missing, changed, of another format, or does not fit.
    """
    mend = ANOTHER if kind == "warning" else REFIT
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fetched(f"models:/{found.name}/{found.version}", scratch)
        text = _text_in(folder)
        where = f"version {found.version} of {found.name}"
        if text is None:
            raise CheckError(f"{where}: its model text is not there", mend)
        _check_hash(text, found.tags.get("model_sha256"), where, mend)
        inputs = _inputs_in(folder, where, mend)
    model = _parsed(text, kind, where, mend)
    _check_signature(model, kind, inputs, where, mend)
    return model


def _check_hash(text: str, told: str | None, where: str, mend: str) -> None:
    if not told:
        raise CheckError(f"{where}: it has no tag model_sha256 to hold its text against", mend)
    seen = hashlib.sha256(text.encode()).hexdigest()
    if seen != told:
        what = f"its text was changed or is half written, sha256 is {seen[:12]}, registered was {told[:12]}"
        raise CheckError(f"{where}: {what}", mend)


def _parsed(text: str, kind: str, where: str, mend: str) -> Any:
    from models.detector import Detector
    from models.warning import WarningModel

    read: Callable[[str], Any] = WarningModel.from_json if kind == "warning" else Detector.from_json
    try:
        return read(text)
    except Exception as error:  # whatever an old format trips over
        raise CheckError(f"{where}: this code cannot read its text, {one_line(error)}", mend) from None


def _check_signature(model: Any, kind: str, inputs: tuple[str, ...], where: str, mend: str) -> None:
    """An early-warning model takes its keys and features in its order; a detector takes a matrix that has its own."""
    if kind == "warning":
        fits = inputs == (*KEYS, *model.features)
    else:
        fits = {norm.name for norm in model.norms} <= set(inputs)
    if not fits:
        raise CheckError(f"{where}: its MLflow signature names other features, or another order, than the model", mend)


def check_columns(features: Collection[str], columns: Collection[str] | None) -> None:
    """Raises CheckError where the model wants features that nothing computes (any more)."""
    absent = [] if columns is None else sorted(set(features) - set(columns))
    if absent:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise CheckError(f"{len(absent)} features of the model are not computed: {shown}", f"train again; {ANOTHER}")


def run_record(client: Any, run_id: str) -> RunRecord:
    """A finished run of ours. Raises CheckError where there is none, where it is another's, or unfinished."""
    run = found_or_none(lambda: client.get_run(run_id))
    other = "name a run that `cascadeguard models show` tells"
    if run is None:
        raise CheckError(f"there is no run {run_id}", other)
    tags = dict(run.data.tags)
    if "record_format" not in tags or "model_sha256" not in tags:
        raise CheckError(f"run {run_id} was not recorded by cascadeguard", other)
    if run.info.status != "FINISHED":
        raise CheckError(f"run {run_id} is unfinished, its status is {run.info.status}", other)
    params = dict(run.data.params)
    return RunRecord(
        run_id=run_id,
        experiment=client.get_experiment(run.info.experiment_id).name,
        params=params,
        metrics=dict(run.data.metrics),
        tags=tags,
        config=_run_text(run, "config.json"),
        environment=json.loads(_run_text(run, "environment.json")),
        seeds={name.removeprefix("seed."): int(params[name]) for name in params if name.startswith("seed.")},
        datasets=tuple(_dataset(given.dataset) for given in run.inputs.dataset_inputs),
        model_sha256=tags["model_sha256"],
    )


def run_text(client: Any, run_id: str, name: str) -> str | None:
    """The text of a run's file; None where the run, or the file, is not there."""
    run = found_or_none(lambda: client.get_run(run_id))
    held = [] if run is None else found_or_none(lambda: client.list_artifacts(run_id)) or []
    return _run_text(run, name) if any(file.path == name for file in held) else None


def _run_text(run: Any, name: str) -> str:
    return str(load_mlflow().artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def _dataset(entity: Any) -> Dataset:
    return Dataset.parse(entity.profile, entity.schema)
