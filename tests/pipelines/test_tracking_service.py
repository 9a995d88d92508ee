"""The same registry on the embedded store and on a real MLflow server with PostgreSQL: clients at once, and kills.

Clients are processes of their own (`registry_clients`); the server is killed with SIGKILL while one registers.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from models.warning import WarningModel
from pipelines import cli
from pipelines.config import MlflowConfig
from pipelines.promotion import GateReport, history, promote, rollback
from pipelines.tracking import Registry, RegistryError
from tests.pipelines.registry_clients import Job, Point, Run, clients, watched
from tests.pipelines.registry_worlds import FEATURES, RECORD, START, detector, matrix, warning_model
from tests.pipelines.servers import MlflowServer, missing, mlflow_server

PASSWORD = "hunter2-s3cret"
PASSED = GateReport("contest", True, '{"promote": true}')
REGISTERING = (
    Point("create_run", "after"),
    Point("log_inputs", "before"),
    Point("_create_logged_model", "after"),
    Point("finalize_logged_model", "before"),
    Point("create_model_version", "before"),
    Point("create_model_version", "after"),
)
PROMOTING = (
    Point("set_registered_model_tag", "after"),
    Point("set_registered_model_alias", "before"),
    Point("set_registered_model_alias", "after"),
)
STORES = ["embedded", pytest.param("server", marks=pytest.mark.service)]
names = count()


@pytest.fixture(scope="session")
def starting() -> Iterator[MlflowServer]:
    """The server, begun early: it starts while the tests of the embedded store run."""
    if reason := missing():
        pytest.skip(reason)
    with mlflow_server() as found:
        yield found


@pytest.fixture(scope="session")
def server(starting: MlflowServer) -> MlflowServer:
    starting.wait()
    return starting


@pytest.fixture(scope="session", autouse=True)
def begun(request: pytest.FixtureRequest) -> None:
    if missing() is None and any(item.get_closest_marker("service") for item in request.session.items):
        request.getfixturevalue("starting")


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    with clients() as found:
        yield found


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(params=STORES)
def registry(request: pytest.FixtureRequest, embedded: Path) -> Registry:
    """Names of the test's own in one of the two stores."""
    uri = "" if request.param == "embedded" else request.getfixturevalue("server").uri("cg", PASSWORD)
    number = next(names)
    settings = MlflowConfig(
        tracking_uri=uri, experiment=f"e{number}", warning_name=f"w{number}", detector_name=f"d{number}"
    )
    return Registry(settings, embedded)


@pytest.fixture
def on_server(server: MlflowServer, tmp_path: Path) -> Registry:
    number = next(names)
    settings = MlflowConfig(tracking_uri=server.uri("cg", PASSWORD), experiment=f"e{number}", warning_name=f"w{number}")
    return Registry(settings, tmp_path)


@dataclass(frozen=True)
class Subject:
    """A registry with its champion, variant 0 in version 1."""

    registry: Registry

    @property
    def name(self) -> str:
        return self.registry.settings.warning_name

    def job(self, what: str, subject: int | str, killed_at: Point | None = None) -> Job:
        settings = {key: str(value) for key, value in self.registry.settings.model_dump().items()}
        return Job(what, str(subject), str(self.registry.store.home.parent), settings, killed_at)  # type: ignore[arg-type]

    def register(self, variant: int) -> str:
        return version_of(self.registry.log_warning(warning_model(variant), RECORD))

    def promote(self, version: str) -> str:
        return promote(self.registry, self.name, version, "a test", PASSED, at=START).champion

    def champion(self) -> WarningModel:
        loaded = self.registry.load_warning(columns=FEATURES)
        assert loaded is not None
        return loaded[0]

    def is_registered_once(self, variant: int, version: str) -> None:
        """One version, which loads; one finished run; none that seems to run still."""
        import mlflow

        client = mlflow.MlflowClient(self.registry.store.uri)
        rows = [row for row in self.registry.list_models() if row["name"] == self.name]
        [row] = [row for row in rows if row["version"] == version]
        key = row["tags"]["registration"]
        assert [other["version"] for other in rows if other["tags"]["registration"] == key] == [version]
        assert self.registry.checked(self.name, version).to_json() == warning_model(variant).to_json()
        experiment = client.get_experiment_by_name(self.registry.settings.experiment).experiment_id
        runs = client.search_runs([experiment], f"tags.registration = '{key}'")
        states = [run.info.status for run in runs]
        assert states.count("FINISHED") == 1
        assert "RUNNING" not in states
        assert self.registry.read_run(row["run_id"]).model_sha256 == row["tags"]["model_sha256"]


def version_of(uri: str | None) -> str:
    assert uri is not None
    assert uri.startswith("models:/"), uri
    return uri.rsplit("/", 1)[1]


def crowned(registry: Registry) -> Subject:
    subject = Subject(registry)
    assert subject.promote(subject.register(0)) == "1"
    return subject


def test_registered_promoted_scored_by_alias_and_rolled_back(registry: Registry) -> None:
    subject = crowned(registry)
    assert subject.promote(subject.register(1)) == "2"
    assert subject.champion().predict(matrix()).equals(warning_model(1).predict(matrix()))
    assert rollback(registry, subject.name, "worse", at=START).champion == "1"
    assert subject.champion().predict(matrix()).equals(warning_model(0).predict(matrix()))
    assert [entry.kind for entry in history(registry, subject.name)] == ["promote", "promote", "rollback"]
    uri = registry.log_detector(detector(), matrix(), RECORD)
    registry.set_alias(registry.settings.detector_name, version_of(uri), "champion-v")
    loaded = registry.load_detector("champion-v", {"venue": "v"})
    assert loaded is not None
    assert loaded[0].score(matrix()).equals(detector().score(matrix()))


def test_a_run_comes_back_whole(registry: Registry) -> None:
    registry.log_warning(warning_model(), RECORD)
    run = registry.read_run(registry.list_models()[0]["run_id"])
    assert {lot.role: lot for lot in run.datasets} == {lot.role: lot for lot in RECORD.datasets}
    assert (run.config, run.seeds, run.metrics) == (RECORD.config, {"trees": 7}, {"lift": 2.5, "ap": 0.25})
    with pytest.raises(RegistryError, match="there is no run"):
        registry.read_run("0" * 32)


def test_two_clients_registering_the_same_model_at_once_make_one_version(registry: Registry, run: Run) -> None:
    subject = crowned(registry)
    answers = run(subject.job("register", 1), subject.job("register", 1))
    assert len(set(answers)) == 1
    assert version_of(answers[0]) in {row["version"] for row in registry.list_models()}
    assert len(registry.list_models()) == 2


def test_two_clients_registering_and_promoting_at_once_leave_one_whole_champion(registry: Registry, run: Run) -> None:
    subject = crowned(registry)
    versions = {version_of(uri) for uri in run(subject.job("register", 1), subject.job("register", 2))}
    assert len(versions) == 2
    promoted = {version_of(uri) for uri in run(*(subject.job("promote", version) for version in sorted(versions)))}
    assert promoted == versions
    assert subject.champion().to_json() in {warning_model(1).to_json(), warning_model(2).to_json()}
    assert sorted(entry.to for entry in history(registry, subject.name)) == ["1", *sorted(versions)]
    assert rollback(registry, subject.name, "back", at=START).champion in {"1", *versions}


def test_a_client_killed_while_it_registers_leaves_the_champion_and_can_do_it_again(
    registry: Registry, run: Run
) -> None:
    subject = crowned(registry)
    points = REGISTERING if registry.store.embedded else (REGISTERING[0], REGISTERING[-1])
    assert run(*(subject.job("register", k, point) for k, point in enumerate(points, 1))) == [None] * len(points)
    assert subject.champion().to_json() == warning_model(0).to_json()
    for variant in range(1, len(points) + 1):
        subject.is_registered_once(variant, subject.register(variant))
    assert subject.champion().to_json() == warning_model(0).to_json()


def test_a_client_killed_while_it_promotes_leaves_the_old_or_the_new_champion(registry: Registry, run: Run) -> None:
    subject = crowned(registry)
    version = subject.register(1)
    for point in PROMOTING:
        assert run(subject.job("promote", version, point)) == [None]
        moved = point == PROMOTING[-1]
        assert subject.champion().to_json() == warning_model(int(moved)).to_json()
    assert subject.promote(version) == version
    assert rollback(registry, subject.name, "back", at=START).champion == "1"


def struck(server: MlflowServer, point: Point, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From here on the server dies at `point`; clients have one second of patience."""
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    method = watched(getattr(mlflow.MlflowClient, point.method), point, server.strike)
    monkeypatch.setattr(mlflow.MlflowClient, point.method, method)
    return monkeypatch


@pytest.mark.service
@pytest.mark.parametrize("point", REGISTERING[1:], ids=str)
def test_a_server_killed_while_a_client_registers_has_no_half_champion_and_completes_it_once(
    on_server: Registry, server: MlflowServer, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = crowned(on_server)
    with monkeypatch.context() as patched:
        struck(server, point, patched)
        try:
            with pytest.raises(RegistryError) as error:
                subject.register(1)
        finally:
            server.revive()
    assert "\n" not in str(error.value)
    assert PASSWORD not in str(error.value)
    assert subject.champion().to_json() == warning_model(0).to_json()
    subject.is_registered_once(1, subject.register(1))
    assert subject.champion().to_json() == warning_model(0).to_json()


@pytest.mark.service
@pytest.mark.parametrize("point", PROMOTING, ids=str)
def test_a_server_killed_while_a_client_promotes_has_the_old_or_the_new_champion(
    on_server: Registry, server: MlflowServer, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = crowned(on_server)
    version = subject.register(1)
    with monkeypatch.context() as patched:
        struck(server, point, patched)
        try:
            with pytest.raises(RegistryError):
                subject.promote(version)
        finally:
            server.revive()
    moved = point == PROMOTING[-1]
    assert subject.champion().to_json() == warning_model(int(moved)).to_json()
    assert subject.promote(version) == version
    assert rollback(on_server, subject.name, "back", at=START).champion == "1"


@pytest.mark.service
def test_a_password_reaches_neither_the_database_nor_the_artifacts(on_server: Registry, server: MlflowServer) -> None:
    config = f'{{"mlflow": {{"tracking_uri": "{on_server.store.uri}"}}}}'
    record = replace(
        RECORD,
        config=config,
        params={"mlflow": on_server.store.uri},
        tags={"where": on_server.store.uri},
        artifacts={"card.md": f"written to {on_server.store.uri}"},
    )
    uri = on_server.log_warning(warning_model(), record)
    gate = GateReport("contest", True, config)
    promote(on_server, on_server.settings.warning_name, version_of(uri), on_server.store.uri, gate, at=START)
    assert "***@127.0.0.1" in on_server.read_run(on_server.list_models()[0]["run_id"]).config
    assert PASSWORD not in server.database.run("pg_dump", "mlflow")
    held = [path for path in server.folder.rglob("*") if path.is_file()]
    assert any(path.name == "config.json" for path in held)
    assert not [path for path in held if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.service
def test_a_server_that_was_killed_is_one_line_within_seconds_and_comes_back_with_everything(
    on_server: Registry, server: MlflowServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last test of this file: the server is started a second time."""
    subject = crowned(on_server)
    settings = tmp_path / "own.toml"
    lines = [f'{key} = "{value}"' for key, value in on_server.settings.model_dump().items()]
    settings.write_text("\n".join(["[mlflow]", *lines]))
    server.kill()
    capfd.readouterr()
    for words in (["models"], ["models", "promote", "1"], ["models", "rollback"], ["models", "show", "champion"]):
        begun = time.monotonic()
        code = cli.run([*words, "--config", str(settings), "--lake", str(tmp_path / "L")])
        assert time.monotonic() - begun < 10
        out, err = capfd.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: model registry: cannot ")
        assert f"http://***@127.0.0.1:{server.port}; check `[mlflow] tracking_uri`" in err
    server.start()
    server.wait()
    assert subject.champion().to_json() == warning_model(0).to_json()
