"""Where runs and models are kept: an embedded SQLite file, or a server; reached in seconds or said to be down."""

import fcntl
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipelines.config import MlflowConfig
from pipelines.errors import InputError
from pipelines.tracking.environment import load_mlflow
from pipelines.tracking.errors import CheckError, RegistryError, UnusableModelError, hidden, one_line, secrets_of

LOCK_WAIT_S = 5.0
ANSWER_WAIT_S = 3  # MLflow's own patience is minutes; whole seconds, as it wants them
TAKEN = "RESOURCE_ALREADY_EXISTS"


class Store:
    """Tracking and registry at `settings.tracking_uri`, or embedded in the lake.

    Embedded, the store is `<lake>/mlflow/mlflow.db` and files lie in `<lake>/mlflow/artifacts`, by absolute path.
    """

    def __init__(self, settings: MlflowConfig, lake_root: Path) -> None:
        self.settings = settings
        self.home = (lake_root / "mlflow").resolve()
        self.embedded = not settings.tracking_uri
        self.uri = settings.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"
        self._migrated = not self.embedded

    @property
    def exists(self) -> bool:
        """False only where an embedded store has never been written to."""
        return not self.embedded or (self.home / "mlflow.db").exists()

    @property
    def shown(self) -> str:
        """The address as people may see it: without user and password."""
        return str(self.home / "mlflow.db") if self.embedded else hidden(self.uri, secrets_of(self.uri))

    def hidden(self, text: str) -> str:
        """`text` without the passwords of this store."""
        return hidden(text, secrets_of(self.uri))

    @contextmanager
    def reported(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong in here is a RegistryError: MLflow lets errors of every library below it through.

        What a check of ours finds is the UnusableModelError among them. MLflow's warnings (about pandas, SQLAlchemy and
        its own hints) are not for the people who read our output, nor is the original error, which may hold a password.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (RegistryError, InputError):
            raise
        except CheckError as fault:
            why, mend = self.hidden(fault.why), self.hidden(fault.mend)
            raise UnusableModelError(doing, why, where=self.shown, mend=mend) from None
        except Exception as error:
            why = one_line(error, secrets_of(self.uri))
            raise RegistryError(doing, why, where=self.shown, mend=self._mend()) from None

    def _mend(self) -> str:
        if self.embedded:
            return "check that the lake can be written, and that the file is what MLflow left there"
        return "check `[mlflow] tracking_uri`, and that the server is up"

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
        if self.exists:
            with closing(sqlite3.connect(self.home / "mlflow.db", timeout=LOCK_WAIT_S)) as store:
                store.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def _reach(self) -> None:
        """Ask for any answer at all, once, with little patience."""
        if self.embedded:
            self._check_file()
        elif self.uri.startswith(("http://", "https://")):
            _reach_server(self.uri)
        elif self.uri.startswith("postgresql"):
            _reach_database(self.uri)

    def client(self) -> Any:
        """A client of a migrated store; the process-wide addresses point to it as well, for MLflow's own loaders."""
        mlflow = load_mlflow()
        with self._locked():
            self._reach()
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            client = mlflow.MlflowClient(self.uri, self.uri)
            if not self._migrated:
                client.search_experiments(max_results=1)  # creates the tables of a fresh store
                self._migrated = True
        return client

    def experiment_id(self, client: Any, name: str | None = None) -> str:
        """The experiment of this name (default: that of the settings), made where there is none yet."""
        wanted = name or self.settings.experiment
        with self._locked():
            found = client.get_experiment_by_name(wanted)
            return str(found.experiment_id) if found is not None else self._make_experiment(client, wanted)

    def _make_experiment(self, client: Any, name: str) -> str:
        from mlflow.exceptions import MlflowException

        place = (self.home / "artifacts").as_uri() if self.embedded else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != TAKEN:  # another client was faster
                raise
            return str(client.get_experiment_by_name(name).experiment_id)


def _reach_server(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    host = get_default_host_creds(uri)
    http_request(host, "/health", "GET", max_retries=0, timeout=ANSWER_WAIT_S, raise_on_status=False)


def _reach_database(uri: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": ANSWER_WAIT_S})
    try:
        engine.connect().close()
    finally:
        engine.dispose()
