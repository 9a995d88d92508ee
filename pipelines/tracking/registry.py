"""The registry: models are logged, listed and loaded by alias. What goes wrong is a RegistryError of one line.

`checked` and `find_version` are for use inside `Store.reported`: they raise CheckError, and MLflow's own errors.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from pipelines.config import MlflowConfig
from pipelines.tracking.errors import CheckError
from pipelines.tracking.reading import check_columns, found_or_none, load_version, run_record
from pipelines.tracking.records import Record, RunRecord
from pipelines.tracking.store import Store
from pipelines.tracking.wire import UTC_US
from pipelines.tracking.writing import Form, Registration, log_run, register

if TYPE_CHECKING:
    from models.warning import WarningModel

CHAMPION = "champion"
CHALLENGER = "challenger"


class DetectorLike(Protocol):
    """What the registry needs of a detector."""

    def to_json(self) -> str: ...

    def score(self, matrix: pl.DataFrame) -> pl.DataFrame: ...


class Registry:
    """Models by name, version and alias, in the store at `settings.tracking_uri`, or embedded in the lake."""

    def __init__(self, settings: MlflowConfig, lake_root: Path) -> None:
        self.settings = settings
        self.store = Store(settings, lake_root)

    @property
    def exists(self) -> bool:
        """False only where an embedded store has never been written to."""
        return self.store.exists

    def log_warning(self, model: "WarningModel", record: Record) -> str:
        """Track and register an early-warning model; returns its address `models:/NAME/VERSION`.

        The same model with the same tags is registered once, however often it is tried.
        """
        keys = {"venue": "venue", "symbol": "SYMBOL", "ts": datetime(2025, 1, 1, tzinfo=UTC)}
        example = pl.DataFrame([keys | dict.fromkeys(model.features, 0.0)], schema_overrides={"ts": UTC_US})
        form = Form("warning", model.to_json(), example, model.predict(example))
        return self._log(self.settings.warning_name, form, record)

    def log_detector(self, detector: DetectorLike, example: pl.DataFrame, record: Record) -> str:
        """Track and register a detector; `example` is a few rows of the matrix it scores. Returns its address."""
        few = example.head(2)
        form = Form("detector", detector.to_json(), few, detector.score(few))
        return self._log(self.settings.detector_name, form, record)

    def log_run(self, name: str, record: Record) -> str:
        """Track a record that has no model, such as an evaluation; returns its run. The same one is logged once."""
        with self.store.reported(f"log {name}"):
            return log_run(self.store, name, record)

    def _log(self, name: str, form: Form, record: Record) -> str:
        with self.store.reported(f"register {name}"):
            return f"models:/{name}/{register(self.store, Registration(name, form, record))}"

    def kind_of(self, name: str) -> str:
        return "detector" if name == self.settings.detector_name else "warning"

    def checked(self, name: str, version: str) -> Any:
        """The model of this version, loaded and checked. Raises CheckError where there is none or it is not whole."""
        return load_version(self.find_version(name, version), self.kind_of(name))

    def find_version(self, name: str, version: str) -> Any:
        """MLflow's own row of this version. Raises CheckError where there is none."""
        client = self.store.client()
        found = found_or_none(lambda: client.get_model_version(name, version))
        if found is None:
            raise CheckError(f"{name} has no version {version}", "name one that `cascadeguard models` lists")
        return found

    def find_alias(self, name: str, alias: str) -> Any | None:
        """MLflow's own row of the version at `alias`; None where there is none."""
        if not self.exists:
            return None
        with self.store.reported(f"find {alias} of {name}"):
            return self._aliased(name, alias)

    def _aliased(self, name: str, alias: str) -> Any | None:
        client = self.store.client()
        return found_or_none(lambda: client.get_model_version_by_alias(name, alias))

    def set_alias(self, name: str, version: str, alias: str = CHAMPION) -> None:
        """Let `alias` of model `name` point to `version`; it points nowhere else afterwards.

        The version is loaded first: no alias ever points to a model that cannot be.
        """
        with self.store.reported(f"set alias {alias} of {name}"):
            self.checked(name, version)
            self.store.client().set_registered_model_alias(name, alias, version)

    def _newest(self, name: str, tags: Mapping[str, str]) -> Any | None:
        if any(quote in value for value in tags.values() for quote in "'\"`"):
            raise ValueError(f"tags must not hold quotes, were {dict(tags)}")
        wanted = "".join(f" AND tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.store.client().search_model_versions(
            f"name = '{name}'{wanted}", max_results=1, order_by=["version_number DESC"]
        )
        return found[0] if found else None

    def load_warning(
        self, alias: str = CHAMPION, columns: Collection[str] | None = None
    ) -> "tuple[WarningModel, str] | None":
        """The early-warning model at `alias` and its address; None where there is none.

        `columns` are the features that can be computed: a model that wants others is refused.
        """
        if not self.exists:
            return None
        name = self.settings.warning_name
        with self.store.reported(f"load {name} at {alias}"):
            found = self._aliased(name, alias)
            if found is None:
                return None
            model: WarningModel = load_version(found, "warning")
            check_columns(model.features, columns)
            return model, uri_of(found)

    def find_warning(self, tags: Mapping[str, str]) -> str | None:
        """Address of the newest early-warning model that carries all `tags`; None where none does."""
        if not self.exists:
            return None
        with self.store.reported(f"search {self.settings.warning_name}"):
            found = self._newest(self.settings.warning_name, tags)
            return None if found is None else uri_of(found)

    def load_detector(
        self, alias: str | None = CHAMPION, tags: Mapping[str, str] | None = None
    ) -> tuple[Any, str] | None:
        """The detector at `alias` if it carries all `tags`; without alias the newest that does; None where none is."""
        if not self.exists:
            return None
        wanted = dict(tags or {})
        name = self.settings.detector_name
        with self.store.reported(f"load {name}" + (f" at {alias}" if alias else "")):
            found = self._newest(name, wanted) if alias is None else self._aliased(name, alias)
            if found is None or not wanted.items() <= dict(found.tags).items() or "model_sha256" not in found.tags:
                return None
            return load_version(found, "detector"), uri_of(found)

    def list_models(self) -> list[dict[str, Any]]:
        """Every registered version of ours, newest first: name, version, uri, aliases, gate, metric, tags."""
        if not self.exists:
            return []
        with self.store.reported("list models"):
            client = self.store.client()
            names = (self.settings.warning_name, self.settings.detector_name)
            return [row for name in names for row in _versions(client, name)]

    def read_run(self, run_id: str) -> RunRecord:
        """A finished run of ours with everything that is needed to train it again."""
        with self.store.reported(f"read run {run_id}"):
            return run_record(self.store.client(), run_id)


def uri_of(found: Any) -> str:
    return f"models:/{found.name}/{found.version}"


def _versions(client: Any, name: str) -> list[dict[str, Any]]:
    found = client.search_model_versions(f"name = '{name}'", max_results=1000, order_by=["version_number DESC"])
    aliases = client.get_registered_model(name).aliases if found else {}
    return [describe(row, aliases) for row in found]


def describe(found: Any, aliases: Mapping[str, str]) -> dict[str, Any]:
    """A version as plain values; `gate_passed` and `metric_value` are None where they are not known."""
    tags = dict(found.tags)
    return {
        "name": found.name,
        "version": str(found.version),
        "uri": uri_of(found),
        "aliases": sorted(alias for alias, version in aliases.items() if str(version) == str(found.version)),
        "created": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "run_id": found.run_id,
        "gate": tags.get("gate"),
        "gate_passed": {"true": True, "false": False}.get(tags.get("gate_passed", "")),
        "forced": tags.get("forced") == "true",
        "metric": tags.get("metric"),
        "metric_value": float(tags["metric_value"]) if "metric_value" in tags else None,
        "tags": tags,
    }
