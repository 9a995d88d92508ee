"""Models go into a registry and come out the same, in this process and in a fresh one; a broken registry says so."""

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.detector import Detector, FeatureNorm, Tail
from models.splits import Fit, Span
from models.warning import WarningModel, WarningSettings, train_warning
from pipelines.config import MlflowConfig
from pipelines.tracking import Record, Registry, RegistryError, from_wire, to_wire

START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 900
RECORD = Record(
    params={"rounds": 5}, metrics={"lift": [1.5, 2.5]}, tags={"venue": "v"}, artifacts={"card.md": "# A card\n"}
)


def matrix() -> pl.DataFrame:
    ts = [START + timedelta(minutes=k) for k in range(ROWS)]
    x = np.random.default_rng(1).normal(size=ROWS)
    return pl.DataFrame({"venue": "v", "symbol": "A", "ts": ts, "known_at": ts, "x": x}).with_columns(
        pl.col("ts", "known_at").cast(pl.Datetime("us", "UTC"))
    )


def warning_model() -> WarningModel:
    rows = matrix()
    targets = rows.select("symbol", "ts", y_15m=(pl.col("x") > 1).cast(pl.Int8), y_60m=(pl.col("x") > 0).cast(pl.Int8))
    middle, end = START + timedelta(minutes=600), START + timedelta(minutes=ROWS)
    fit = Fit(Span(START - timedelta(minutes=1), middle), Span(middle, end))
    settings = WarningSettings(rounds=5, leaf_rows_min=20, threads=1)
    return train_warning(rows, targets, fit, settings, 1).with_threshold(0.25)


def detector() -> Detector:
    tail = Tail.fit(np.random.default_rng(2).normal(size=500))
    norm = FeatureNorm("x", "family", "high", {"A": 0.0}, {"A": 1.0}, tail)
    return Detector("v", "2025-01-01", (norm,), tail, tail, 3.0, 3.0, ())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One migrated store for the module: creating its tables takes seconds. Version 1 of both models is in it."""
    found = Registry(MlflowConfig(), tmp_path_factory.mktemp("lake"))
    assert found.log_warning(warning_model(), RECORD) == "models:/cascadeguard-warning/1"
    assert found.log_detector(detector(), matrix(), RECORD) == "models:/cascadeguard-detector/1"
    return found


def test_a_warning_model_comes_back_by_its_alias(registry: Registry) -> None:
    model = warning_model()
    assert registry.load_warning("nobody") is None
    registry.set_alias("cascadeguard-warning", "1")
    loaded = registry.load_warning()
    assert loaded is not None
    assert loaded[0].to_json() == model.to_json()
    assert loaded[1] == "models:/cascadeguard-warning/1"
    assert loaded[0].predict(matrix()).equals(model.predict(matrix()))


def test_an_alias_moves_to_the_newer_version(registry: Registry) -> None:
    uri = registry.log_warning(warning_model().with_threshold(0.5), RECORD)
    version = uri.rsplit("/", 1)[1]
    registry.set_alias("cascadeguard-warning", version)
    loaded = registry.load_warning()
    assert loaded is not None
    assert (loaded[0].threshold, loaded[1]) == (0.5, uri)


def test_a_detector_is_found_by_alias_and_by_tags(registry: Registry) -> None:
    registry.set_alias("cascadeguard-detector", "1")
    loaded = registry.load_detector(tags={"venue": "v"})
    assert loaded is not None
    assert loaded[0].to_json() == detector().to_json()
    assert loaded[0].score(matrix()).equals(detector().score(matrix()))
    assert registry.load_detector(None, {"venue": "v"}) is not None
    assert registry.load_detector(None, {"venue": "another"}) is None
    assert registry.load_detector(tags={"venue": "another"}) is None


def test_a_warning_model_is_found_by_its_tags(registry: Registry) -> None:
    found = registry.find_warning({"venue": "v"})
    assert found is not None
    assert found.startswith("models:/cascadeguard-warning/")
    assert registry.find_warning({"venue": "another"}) is None
    with pytest.raises(RegistryError, match="quotes"):
        registry.find_warning({"venue": "v' OR 'x' = 'x"})


def test_the_list_shows_versions_with_their_aliases(registry: Registry) -> None:
    registry.set_alias("cascadeguard-warning", "1", "challenger")
    first = next(row for row in registry.list_models() if row["uri"] == "models:/cascadeguard-warning/1")
    assert "challenger" in first["aliases"]
    assert first["tags"] == {"venue": "v"}
    json.dumps(registry.list_models())


def test_the_run_keeps_parameters_steps_and_texts_and_nothing_about_the_machine(registry: Registry) -> None:
    import mlflow

    run_id = registry.list_models()[-1]["run_id"]
    client = mlflow.MlflowClient(registry.uri)
    run = client.get_run(run_id)
    assert run.data.params == {"rounds": "5"}
    assert [point.value for point in client.get_metric_history(run_id, "lift")] == [1.5, 2.5]
    assert set(run.data.tags) == {"venue", "mlflow.runName"}
    assert (registry.home / "artifacts" / run_id / "artifacts" / "card.md").read_text() == "# A card\n"


def test_nothing_is_pickled(registry: Registry) -> None:
    names = {path.name for path in registry.home.rglob("*") if path.is_file()}
    assert {"model.json", "warning_pyfunc.py", "detector_pyfunc.py"} <= names
    assert not [name for name in names if Path(name).suffix in {".pkl", ".pickle", ".joblib"}]


FRESH = """
import sys
from pathlib import Path
from pipelines.config import MlflowConfig
from pipelines.tracking import Registry
assert "mlflow" not in sys.modules and "lightgbm" not in sys.modules, "imports must wait for the first use"
model, uri = Registry(MlflowConfig(), Path(sys.argv[1])).load_warning("fresh")
sys.stdout.write(uri + " " + model.to_json())
"""


@pytest.mark.slow
def test_a_fresh_process_loads_the_same_model_and_prints_nothing_else(registry: Registry, tmp_path: Path) -> None:
    registry.set_alias("cascadeguard-warning", "1", "fresh")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(registry.home.parent)],
        cwd=tmp_path,
        env=clean,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "models:/cascadeguard-warning/1 " + warning_model().to_json()
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_an_untouched_lake_has_no_models_and_gets_no_store(tmp_path: Path) -> None:
    empty = Registry(MlflowConfig(), tmp_path)
    assert empty.load_warning() is None
    assert empty.load_detector() is None
    assert empty.list_models() == []
    assert list(tmp_path.iterdir()) == []


def one_line(error: pytest.ExceptionInfo[RegistryError]) -> bool:
    return "\n" not in str(error.value) and str(error.value).startswith("model registry: cannot ")


def test_a_server_that_is_down_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = Registry(MlflowConfig(tracking_uri="http://127.0.0.1:9"), tmp_path)
    with pytest.raises(RegistryError) as error:
        down.load_warning()
    assert one_line(error)
    with pytest.raises(RegistryError):
        down.log_warning(warning_model(), RECORD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["garbage", "folder", "locked"])
def test_a_store_that_cannot_be_read_is_one_line(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.LOCK_WAIT_S", 0.1)
    store = tmp_path / "mlflow" / "mlflow.db"
    store.parent.mkdir()
    holder = None
    if broken == "garbage":
        store.write_bytes(b"this is no database " * 100)
    elif broken == "folder":
        store.mkdir()
    else:
        holder = sqlite3.connect(store, isolation_level=None)
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RegistryError) as error:
        Registry(MlflowConfig(), tmp_path).load_warning()
    if holder is not None:
        holder.close()
    assert one_line(error)


def test_the_wire_carries_times_and_gaps() -> None:
    rows = matrix().head(3).with_columns(pl.Series("x", [1.5, None, -2.0]))
    assert str(to_wire(rows)["ts"].dtype) == "int64"
    assert from_wire(to_wire(rows)).equals(rows)
