"""MLflow: runs are tracked, models registered, and found again by alias. Nothing else of the project touches it.

Without an address the store is a SQLite file inside the lake; MLflow takes seconds to import, so it is imported by the
first call that needs it. Models are stored as text (trees and numbers in JSON) behind a small script: no pickle.
"""

import fcntl
import logging
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from pipelines.config import MlflowConfig

if TYPE_CHECKING:
    import pandas as pd

    from models.warning import WarningModel

CHAMPION = "champion"
CHALLENGER = "challenger"
LOCK_WAIT_S = 5.0
TIMES = ("ts", "known_at")
UTC_US = pl.Datetime("us", "UTC")
REQUIREMENTS = ("lightgbm", "numpy", "pandas", "polars", "pyarrow", "scipy")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers for an unknown name or alias
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait made training ten times slower on busy cores
}  # set before the libraries are imported, unless the user has set them


Metric = float | Sequence[float | None]


class RegistryError(Exception):
    """The registry could not be reached, read or written; one line. Scoring goes on without the model."""


class DetectorLike(Protocol):
    """What the registry needs of a detector."""

    def to_json(self) -> str: ...

    def score(self, matrix: pl.DataFrame) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Record:
    """What is tracked beside a model. A metric given as a list is logged step by step (one per fold), None left out."""

    params: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]  # file name -> text


@dataclass(frozen=True)
class Form:
    """A model ready to be stored: its script (`<kind>_pyfunc.py`), its text, and an example of use."""

    kind: str
    text: str
    example: pl.DataFrame
    answer: pl.DataFrame


def to_wire(frame: pl.DataFrame) -> "pd.DataFrame":
    """`frame` for MLflow, which takes pandas only: times become whole microseconds since 1970."""
    times = pl.selectors.datetime()
    return frame.with_columns(times.cast(UTC_US).cast(pl.Int64)).to_pandas()


def from_wire(frame: "pd.DataFrame") -> pl.DataFrame:
    """The inverse of `to_wire`; NaN becomes null."""
    back = pl.from_pandas(frame)
    return back.with_columns(pl.col(name).cast(UTC_US) for name in TIMES if name in back.columns)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    """Whatever goes wrong in here is a RegistryError: MLflow lets errors of every library below it through.

    Its warnings (about pandas, SQLAlchemy and its own hints) are not for the people who read our output.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RegistryError:
        raise
    except Exception as error:
        raise RegistryError(f"model registry: cannot {doing} ({_one_line(error)})") from error


def prepare_environment() -> None:
    """Settings that MLflow and LightGBM read once, when they are imported: call it first."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _load_mlflow() -> Any:
    prepare_environment()
    import mlflow
    import mlflow.pyfunc

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised; a traceback beside them helps nobody
    return mlflow


class Registry:
    """Tracking and registry at `settings.tracking_uri`, or embedded in the lake. Methods raise RegistryError.

    Embedded, the store is `<lake>/mlflow/mlflow.db` and files lie in `<lake>/mlflow/artifacts`, by absolute path.
    """

    def __init__(self, settings: MlflowConfig, lake_root: Path) -> None:
        self.settings = settings
        self.home = (lake_root / "mlflow").resolve()
        self.embedded = not settings.tracking_uri
        self.uri = settings.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def exists(self) -> bool:
        """False only where an embedded store has never been written to."""
        return not self.embedded or (self.home / "mlflow.db").exists()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """First use of a fresh SQLite store from several processes at once would crash: one at a time."""
        if not self.embedded:
            yield
            return
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check_file(self) -> None:
        """Read the embedded store once: MLflow would try an unreadable one again and again, for minutes."""
        if self.embedded and self.exists:
            with closing(sqlite3.connect(self.home / "mlflow.db", timeout=LOCK_WAIT_S)) as store:
                store.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def _client(self) -> Any:
        """A client of a migrated store; the process-wide addresses point to it as well, for MLflow's own loaders."""
        with self._locked():
            self._check_file()
            mlflow = _load_mlflow()
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            client = mlflow.MlflowClient(self.uri, self.uri)
            client.search_experiments(max_results=1)  # creates the tables of a fresh store
        return client

    def _experiment_id(self, client: Any) -> str:
        with self._locked():
            found = client.get_experiment_by_name(self.settings.experiment)
            if found is not None:
                return str(found.experiment_id)
            place = (self.home / "artifacts").as_uri() if self.embedded else None
            return str(client.create_experiment(self.settings.experiment, artifact_location=place))

    def log_warning(self, model: "WarningModel", record: Record) -> str:
        """Track and register an early-warning model; returns its address `models:/NAME/VERSION`."""
        keys = {"venue": "venue", "symbol": "SYMBOL", "ts": datetime(2025, 1, 1, tzinfo=UTC)}
        example = pl.DataFrame([keys | dict.fromkeys(model.features, 0.0)], schema_overrides={"ts": UTC_US})
        form = Form("warning", model.to_json(), example, model.predict(example))
        return self._log(self.settings.warning_name, form, record)

    def log_detector(self, detector: DetectorLike, example: pl.DataFrame, record: Record) -> str:
        """Track and register a detector; `example` is a few rows of the matrix it scores. Returns its address."""
        few = example.head(2)
        form = Form("detector", detector.to_json(), few, detector.score(few))
        return self._log(self.settings.detector_name, form, record)

    def _log(self, name: str, form: Form, record: Record) -> str:
        with _reported(f"register {name}"):
            client = self._client()
            experiment_id = self._experiment_id(client)
            run_id = client.create_run(experiment_id, run_name=name, tags=dict(record.tags)).info.run_id
            stored = _store(run_id, form, record)
            return f"models:/{name}/{self._version(client, name, stored, run_id, record.tags)}"

    @staticmethod
    def _version(client: Any, name: str, stored: Any, run_id: str, tags: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            name, stored.model_uri, run_id=run_id, tags=dict(tags), model_id=stored.model_id
        )
        return str(made.version)

    def set_alias(self, name: str, version: str, alias: str = CHAMPION) -> None:
        """Let `alias` of model `name` point to `version`; it points nowhere else afterwards."""
        with _reported(f"set alias {alias} of {name}"):
            self._client().set_registered_model_alias(name, alias, version)

    def _aliased(self, name: str, alias: str) -> Any | None:
        client = self._client()
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise

    def _newest(self, name: str, tags: Mapping[str, str]) -> Any | None:
        if any(quote in value for value in tags.values() for quote in "'\"`"):
            raise ValueError(f"tags must not hold quotes, were {dict(tags)}")
        wanted = "".join(f" AND tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client().search_model_versions(
            f"name = '{name}'{wanted}", max_results=1, order_by=["version_number DESC"]
        )
        return found[0] if found else None

    def _load(self, found: Any) -> tuple[Any, str]:
        uri = f"models:/{found.name}/{found.version}"
        loaded = _load_mlflow().pyfunc.load_model(uri)
        return loaded.unwrap_python_model().model, uri

    def load_warning(self, alias: str = CHAMPION) -> "tuple[WarningModel, str] | None":
        """The early-warning model at `alias` and its address; None where there is none."""
        if not self.exists:
            return None
        with _reported(f"load {self.settings.warning_name} at {alias}"):
            found = self._aliased(self.settings.warning_name, alias)
            return None if found is None else self._load(found)

    def find_warning(self, tags: Mapping[str, str]) -> str | None:
        """Address of the newest early-warning model that carries all `tags`; None where none does."""
        if not self.exists:
            return None
        with _reported(f"search {self.settings.warning_name}"):
            found = self._newest(self.settings.warning_name, tags)
            return None if found is None else f"models:/{found.name}/{found.version}"

    def load_detector(
        self, alias: str | None = CHAMPION, tags: Mapping[str, str] | None = None
    ) -> tuple[Any, str] | None:
        """The detector at `alias` if it carries all `tags`; without alias the newest that does; None where none is."""
        if not self.exists:
            return None
        wanted = dict(tags or {})
        with _reported(f"load {self.settings.detector_name}"):
            name = self.settings.detector_name
            found = self._newest(name, wanted) if alias is None else self._aliased(name, alias)
            if found is None or not wanted.items() <= dict(found.tags).items():
                return None
            return self._load(found)

    def list_models(self) -> list[dict[str, Any]]:
        """Every registered version of ours, newest first: name, version, uri, aliases, created, run_id, tags."""
        if not self.exists:
            return []
        with _reported("list models"):
            client = self._client()
            names = (self.settings.warning_name, self.settings.detector_name)
            return [row for name in names for row in _versions(client, name)]


def _versions(client: Any, name: str) -> list[dict[str, Any]]:
    found = client.search_model_versions(f"name = '{name}'", max_results=1000, order_by=["version_number DESC"])
    aliases = client.get_registered_model(name).aliases if found else {}
    return [
        {
            "name": name,
            "version": str(row.version),
            "uri": f"models:/{name}/{row.version}",
            "aliases": sorted(alias for alias, version in aliases.items() if str(version) == str(row.version)),
            "created": datetime.fromtimestamp(row.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            "run_id": row.run_id,
            "tags": dict(row.tags),
        }
        for row in found
    ]


def _log_metrics(mlflow: Any, metrics: Mapping[str, Metric]) -> None:
    for name, value in metrics.items():
        steps = value if isinstance(value, Sequence) else [value]
        for step, one in enumerate(steps):
            if one is not None:
                mlflow.log_metric(name, one, step=step)


def _store(run_id: str, form: Form, record: Record) -> Any:
    """Write parameters, metrics, texts and the model into the run; the run is marked failed if anything fails."""
    mlflow = _load_mlflow()
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.log_params(dict(record.params))
        _log_metrics(mlflow, record.metrics)
        for name, content in record.artifacts.items():
            mlflow.log_text(content, name)
        model_file = Path(scratch) / "model.json"
        model_file.write_text(form.text, encoding="utf-8")
        example = to_wire(form.example)
        return mlflow.pyfunc.log_model(
            name=form.kind,
            python_model=str(Path(__file__).with_name(f"{form.kind}_pyfunc.py")),
            artifacts={"model": str(model_file)},
            pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
            signature=mlflow.models.infer_signature(example, to_wire(form.answer)),
            input_example=example,
        )
