"""Models go into a registry and come out the same, in this process and in a fresh one; a broken registry says so.

What needs a server, or several processes, is in test_tracking_service.py.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipelines.config import MlflowConfig
from pipelines.tracking import Dataset, Record, Registry, RegistryError, from_wire, to_wire
from pipelines.tracking.environment import code_version, surroundings
from pipelines.tracking.errors import CheckError
from tests.pipelines.registry_worlds import FEATURES, LOT, RECORD, detector, matrix, warning_model

NAME, DETECTOR = "cascadeguard-warning", "cascadeguard-detector"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One migrated store for the module: creating its tables takes seconds. Version 1 of both models is in it."""
    found = Registry(MlflowConfig(), tmp_path_factory.mktemp("lake"))
    assert found.log_warning(warning_model(), RECORD) == f"models:/{NAME}/1"
    assert found.log_detector(detector(), matrix(), RECORD) == f"models:/{DETECTOR}/1"
    return found


def own(registry: Registry, test: str) -> Registry:
    """The same store under other names, so that a test has versions of its own."""
    settings = MlflowConfig(experiment=f"e-{test}", warning_name=f"w-{test}", detector_name=f"d-{test}")
    return Registry(settings, registry.store.home.parent)


def said(call: Callable[[], object]) -> str:
    """The RegistryError that `call` raises; it is one line of our form."""
    with pytest.raises(RegistryError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("model registry: cannot ")
    assert "; " in text, "what, where; how to mend"
    return text


def test_a_warning_model_comes_back_by_its_alias(registry: Registry) -> None:
    model = warning_model()
    assert registry.load_warning("nobody") is None
    registry.set_alias(NAME, "1")
    loaded = registry.load_warning(columns=FEATURES)
    assert loaded is not None
    assert loaded[0].to_json() == model.to_json()
    assert loaded[1] == f"models:/{NAME}/1"
    assert loaded[0].predict(matrix()).equals(model.predict(matrix()))


def test_an_alias_moves_to_the_newer_version(registry: Registry) -> None:
    uri = registry.log_warning(warning_model().with_threshold(0.5), RECORD)
    version = uri.rsplit("/", 1)[1]
    registry.set_alias(NAME, version)
    loaded = registry.load_warning()
    assert loaded is not None
    assert (loaded[0].threshold, loaded[1]) == (0.5, uri)


def test_the_same_registration_is_one_version_and_one_run(registry: Registry) -> None:
    mine = own(registry, "once")
    first = mine.log_warning(warning_model(), RECORD)
    assert mine.log_warning(warning_model(), RECORD) == first
    assert len(mine.list_models()) == 1
    other = mine.log_warning(warning_model(), replace(RECORD, tags={"venue": "other"}))
    assert [row["uri"] for row in mine.list_models()] == [other, first]


def test_a_detector_is_found_by_alias_and_by_tags(registry: Registry) -> None:
    registry.set_alias(DETECTOR, "1")
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
    assert found.startswith(f"models:/{NAME}/")
    assert registry.find_warning({"venue": "another"}) is None
    assert "quotes" in said(lambda: registry.find_warning({"venue": "v' OR 'x' = 'x"}))


def test_the_list_shows_versions_with_their_aliases_and_their_metric(registry: Registry) -> None:
    registry.set_alias(NAME, "1", "challenger")
    first = next(row for row in registry.list_models() if row["uri"] == f"models:/{NAME}/1")
    assert "challenger" in first["aliases"]
    assert first["tags"]["venue"] == "v"
    assert (first["metric"], first["metric_value"]) == ("ap", 0.25)
    assert (first["gate"], first["gate_passed"], first["forced"]) == (None, None, False)
    json.dumps(registry.list_models())


def test_the_run_keeps_everything_that_was_recorded(registry: Registry) -> None:
    import mlflow

    run_id = registry.list_models()[-1]["run_id"]
    client = mlflow.MlflowClient(registry.store.uri)
    run = client.get_run(run_id)
    assert run.data.params == {"rounds": "5", "seed.trees": "7"}
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "lift")] == [(0, 1.5), (2, 2.5)]
    folder = registry.store.home / "artifacts" / run_id / "artifacts"
    assert (folder / "card.md").read_text() == "# A card\n"
    assert (folder / "config.json").read_text() == RECORD.config
    assert (folder / "figures" / "curve.png").read_bytes() == RECORD.figures["curve.png"]
    assert (folder / "figures" / "curve.html").read_text() == RECORD.figures["curve.html"]
    inputs = {given.tags[0].value: given.dataset for given in run.inputs.dataset_inputs}
    assert set(inputs) == {"train", "test"}
    assert inputs["train"].digest == LOT.digest[:32]
    assert json.loads(inputs["train"].schema)["mlflow_colspec"][0]["type"] == "datetime"


def test_the_run_says_what_made_it_and_nothing_about_the_people(registry: Registry) -> None:
    around = registry.read_run(registry.list_models()[-1]["run_id"]).environment
    assert around | {"code": ""} == surroundings() | {"code": ""}
    assert {"polars", "lightgbm", "mlflow"} <= set(around["packages"])
    assert around["python"] == ".".join(map(str, sys.version_info[:3]))
    assert around["code"].startswith(("git ", "cascadeguard "))
    home = str(Path.home())
    assert home == "/" or home not in json.dumps(around)
    assert not {"mlflow.user", "mlflow.source.name"} & set(registry.read_run(registry.list_models()[-1]["run_id"]).tags)


def test_the_code_version_is_the_commit_or_else_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.environment.ROOT", tmp_path)
    assert code_version() == "cascadeguard 0.1.0"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    clean = code_version()
    assert len(clean) == len("git ") + 40
    (tmp_path / "a.py").write_text("")
    assert code_version() == clean, "files that git does not know change nothing"
    subprocess.run([*git, "add", "a.py"], check=True)
    assert code_version() == clean + "+changes"


def test_a_run_is_read_back_with_all_that_training_it_again_needs(registry: Registry) -> None:
    row = registry.list_models()[-1]
    run = registry.read_run(row["run_id"])
    assert {lot.role: lot for lot in run.datasets} == {lot.role: lot for lot in RECORD.datasets}
    assert (run.config, run.seeds, run.experiment) == (RECORD.config, {"trees": 7}, "cascadeguard")
    assert run.params["rounds"] == "5"
    assert run.metrics == {"lift": 2.5, "ap": 0.25}
    assert run.model_sha256 == row["tags"]["model_sha256"]


def test_runs_lie_in_the_experiment_of_their_record(registry: Registry) -> None:
    mine = own(registry, "experiment")
    horizons = "cascadeguard/oi_flush-v1/5-15-30-60-240"
    mine.log_warning(warning_model(), replace(RECORD, experiment=horizons))
    assert mine.read_run(mine.list_models()[0]["run_id"]).experiment == horizons


def test_more_parameters_than_mlflow_takes_at_once_are_all_kept(registry: Registry) -> None:
    mine = own(registry, "many")
    params = {f"p{k}": k for k in range(250)}
    mine.log_warning(warning_model(), replace(RECORD, params=params))
    run = mine.read_run(mine.list_models()[0]["run_id"])
    assert {name: run.params[name] for name in params} == {name: str(k) for name, k in params.items()}


@pytest.mark.parametrize(
    ("run", "why"), [("absent", "there is no run"), ("foreign", "not recorded by cascadeguard"), ("open", "unfinished")]
)
def test_a_run_that_cannot_be_trained_again_is_one_line(registry: Registry, run: str, why: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(registry.store.uri)
    tags = {"record_format": "1", "model_sha256": "x"} if run == "open" else {}
    run_id = "0" * 32 if run == "absent" else client.create_run("0", tags=tags).info.run_id
    assert why in said(lambda: registry.read_run(run_id))


def test_a_dataset_must_have_a_known_role_and_a_digest() -> None:
    with pytest.raises(ValueError, match="`role` must be one of train, calibrate, test, was 'holdout'"):
        replace(LOT, role="holdout")
    with pytest.raises(ValueError, match="`digest`"):
        replace(LOT, digest="")
    assert Dataset.parse(LOT.profile(), LOT.columns_json()) == LOT


def test_nothing_is_pickled(registry: Registry) -> None:
    names = {path.name for path in registry.store.home.rglob("*") if path.is_file()}
    assert {"model.json", "warning_pyfunc.py", "detector_pyfunc.py"} <= names
    assert not [name for name in names if Path(name).suffix in {".pkl", ".pickle", ".joblib"}]


def test_mlflow_itself_serves_the_same_answers(registry: Registry) -> None:
    import mlflow

    registry.list_models()  # points MLflow to this store
    for name, model in ((NAME, warning_model()), (DETECTOR, detector())):
        answer = from_wire(mlflow.pyfunc.load_model(f"models:/{name}/1").predict(to_wire(matrix())))
        wanted = model.predict(matrix()) if name == NAME else model.score(matrix())
        assert answer.columns == wanted.columns
        numbers = pl.selectors.float() | pl.selectors.boolean()
        assert answer.select(numbers).equals(wanted.select(numbers))


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
    registry.set_alias(NAME, "1", "fresh")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(registry.store.home.parent)],
        cwd=tmp_path,
        env=clean,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"models:/{NAME}/1 " + warning_model().to_json()
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_an_untouched_lake_has_no_models_and_gets_no_store(tmp_path: Path) -> None:
    empty = Registry(MlflowConfig(), tmp_path)
    assert empty.load_warning() is None
    assert empty.load_detector() is None
    assert empty.list_models() == []
    assert empty.find_alias(NAME, "champion") is None
    assert list(tmp_path.iterdir()) == []


def stored(registry: Registry, name: str) -> Path:
    """The folder of version 1 of `name` in the embedded store."""
    run_id = next(row["run_id"] for row in registry.list_models() if row["name"] == name)
    [found] = [
        place.parent
        for place in registry.store.home.rglob("MLmodel")
        if f"run_id: {run_id}" in place.read_text(encoding="utf-8")
    ]
    return found


def flipped(folder: Path) -> None:
    text = (folder / "artifacts" / "model.json").read_text()
    (folder / "artifacts" / "model.json").write_text(text.replace("0.25", "0.75"))


def cut(folder: Path) -> None:
    content = (folder / "artifacts" / "model.json").read_bytes()
    (folder / "artifacts" / "model.json").write_bytes(content[: len(content) // 2])


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def textless(folder: Path) -> None:
    (folder / "artifacts" / "model.json").unlink()


def swapped(folder: Path) -> None:
    text = (folder / "MLmodel").read_text()
    first, second = FEATURES
    text = text.replace(first, "@").replace(second, first).replace("@", second)
    (folder / "MLmodel").write_text(text)


def unreadable(folder: Path) -> None:
    (folder / "MLmodel").write_text("{")


DAMAGES = [
    (flipped, "was changed or is half written"),
    (cut, "was changed or is half written"),
    (gone, "model text is not there"),
    (textless, "model text is not there"),
    (swapped, "signature names other features, or another order"),
    (unreadable, "MLmodel file cannot be read"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_damaged_model_is_found_and_named_in_one_line(
    registry: Registry, damage: Callable[[Path], None], why: str
) -> None:
    mine = own(registry, f"damage-{damage.__name__}")
    mine.log_warning(warning_model(), RECORD)
    mine.set_alias(mine.settings.warning_name, "1")
    assert mine.load_warning() is not None
    damage(stored(mine, mine.settings.warning_name))
    text = said(mine.load_warning)
    assert why in text
    assert f"version 1 of {mine.settings.warning_name}" in text
    assert "cascadeguard models promote" in text


def test_no_alias_moves_to_a_model_that_cannot_be_loaded(registry: Registry) -> None:
    mine = own(registry, "unloadable")
    name = mine.settings.warning_name
    mine.log_warning(warning_model(), RECORD)
    cut(stored(mine, name))
    assert "half written" in said(lambda: mine.set_alias(name, "1"))
    assert "has no version 9" in said(lambda: mine.set_alias(name, "9"))
    assert mine.load_warning() is None


def test_a_detector_is_checked_too_and_its_line_says_how_to_mend_it(registry: Registry) -> None:
    mine = own(registry, "damaged-detector")
    name = mine.settings.detector_name
    mine.log_detector(detector(), matrix(), RECORD)
    mine.set_alias(name, "1")
    cut(stored(mine, name))
    assert "the next run fits and registers the detector again" in said(mine.load_detector)


def test_after_a_damaged_version_is_deleted_the_same_registration_writes_it_anew(registry: Registry) -> None:
    import mlflow

    mine = own(registry, "anew")
    name = mine.settings.warning_name
    mine.log_warning(warning_model(), RECORD)
    cut(stored(mine, name))
    mlflow.MlflowClient(mine.store.uri).delete_model_version(name, "1")
    mine.set_alias(name, mine.log_warning(warning_model(), RECORD).rsplit("/", 1)[1])
    assert mine.load_warning() is not None


def test_a_text_of_another_format_is_refused_although_its_hash_is_right(registry: Registry) -> None:
    class Older:
        features = warning_model().features
        predict = staticmethod(warning_model().predict)

        @staticmethod
        def to_json() -> str:
            return json.dumps(json.loads(warning_model().to_json()) | {"format": 0})

    mine = own(registry, "format")
    mine.log_warning(Older(), RECORD)  # type: ignore[arg-type]
    assert "must be in format" in said(lambda: mine.set_alias(mine.settings.warning_name, "1"))


def test_a_version_without_its_hash_is_refused(registry: Registry) -> None:
    import mlflow

    mine = own(registry, "hashless")
    name = mine.settings.warning_name
    mine.log_warning(warning_model(), RECORD)
    mine.set_alias(name, "1")
    mlflow.MlflowClient(mine.store.uri).delete_model_version_tag(name, "1", "model_sha256")
    assert "no tag model_sha256" in said(mine.load_warning)


def test_a_model_whose_features_nothing_computes_is_refused(registry: Registry) -> None:
    mine = own(registry, "columns")
    mine.log_warning(warning_model(), RECORD)
    mine.set_alias(mine.settings.warning_name, "1")
    assert mine.load_warning(columns=[*FEATURES, "more"]) is not None
    text = said(lambda: mine.load_warning(columns=FEATURES[:1]))
    assert f"1 features of the model are not computed: {FEATURES[1]}" in text


def test_a_server_that_is_down_is_one_line_within_seconds(tmp_path: Path) -> None:
    down = Registry(MlflowConfig(tracking_uri="http://127.0.0.1:9"), tmp_path)
    begun = time.monotonic()
    assert "http://127.0.0.1:9; check `[mlflow] tracking_uri`" in said(down.load_warning)
    said(lambda: down.log_warning(warning_model(), RECORD))
    said(lambda: down.read_run("x"))
    assert time.monotonic() - begun < 10
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_one_line_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        said(Registry(MlflowConfig(tracking_uri=address), tmp_path).load_warning)
        assert time.monotonic() - begun < 10


def test_a_database_that_is_down_is_one_line_within_seconds(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    begun = time.monotonic()
    down = Registry(MlflowConfig(tracking_uri="postgresql+psycopg://cg@127.0.0.1:9/mlflow"), tmp_path)
    said(down.load_warning)
    assert time.monotonic() - begun < 10


ADDRESSES = [
    "http://me:hunter2-s3cret@127.0.0.1:9",
    "http://me:hunter2-s3cret@127.0.0.1:9/" + "x" * 300,
    "postgresql+psycopg://me:hunter2-s3cret@127.0.0.1:9/mlflow",
    "postgresql+psycopg://127.0.0.1:9/mlflow?user=me&password=hunter2-s3cret",
    "http://me:hunter2-s3cret@[broken/",
    "nonsense+driver://me:hunter2-s3cret@host/x",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_the_address_is_never_told(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from pipelines import cli

    registry = Registry(MlflowConfig(tracking_uri=address), tmp_path)
    texts = [said(registry.load_warning), registry.store.shown]
    (tmp_path / "own.toml").write_text(f'[mlflow]\ntracking_uri = "{address}"\n')
    assert cli.run(["models", "--lake", str(tmp_path / "L"), "--config", str(tmp_path / "own.toml")]) == 2
    texts += [*capfd.readouterr(), caplog.text]
    assert texts[3].startswith("error: model registry: cannot list models (")
    assert not [text for text in texts if "hunter2" in text or "s3cret" in text]


def test_a_check_that_fails_tells_no_password_either(tmp_path: Path) -> None:
    store = Registry(MlflowConfig(tracking_uri=ADDRESSES[0]), tmp_path).store

    def fail() -> None:
        with store.reported("load it"):
            raise CheckError(f"odd at {ADDRESSES[0]}", f"look at {ADDRESSES[0]}")

    assert said(fail) == (
        "model registry: cannot load it (odd at http://***@127.0.0.1:9): http://***@127.0.0.1:9; "
        "look at http://***@127.0.0.1:9"
    )


def test_a_percent_encoded_password_is_hidden_in_both_forms(tmp_path: Path) -> None:
    store = Registry(MlflowConfig(tracking_uri="http://me:p%40ss-word@h"), tmp_path).store
    assert (
        store.hidden("saw p%40ss-word and p@ss-word at http://me:p%40ss-word@h/x")
        == "saw *** and *** at http://***@h/x"
    )


@pytest.mark.parametrize("broken", ["garbage", "folder", "locked"])
def test_a_store_that_cannot_be_read_is_one_line(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.store.LOCK_WAIT_S", 0.1)
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
    said(Registry(MlflowConfig(), tmp_path).load_warning)
    if holder is not None:
        holder.close()


def test_the_wire_carries_times_and_gaps() -> None:
    rows = matrix().head(3).with_columns(pl.Series(FEATURES[0], [1.5, None, -2.0]))
    assert str(to_wire(rows)["ts"].dtype) == "int64"
    assert from_wire(to_wire(rows)).equals(rows)


def test_a_record_needs_no_more_than_it_did() -> None:
    assert Record({}, {"a": [1.0]}, {}, {}, headline="a").headline_tags() == {}
