"""Real servers for tests: PostgreSQL and `mlflow server` on it, on free loopback ports, torn down without orphans."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql/15/bin")
OWNERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root
UP_WAIT_S = 90.0


def missing() -> str | None:
    """Why the servers cannot be started here; None where they can."""
    if not (BINARIES / "initdb").exists():
        return f"PostgreSQL 15 is not there ({BINARIES}): `make postgres` installs it where it can"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (extra `services`)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "as root PostgreSQL needs setpriv to run as another user"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_owner(folder: Path) -> list[str]:
    """The words before a command that let it run as the owner of the data; `folder` becomes theirs."""
    if os.geteuid() != 0:
        return []
    for owner in OWNERS:
        try:
            shutil.chown(folder, owner)
        except LookupError:
            continue
        return ["setpriv", f"--reuid={owner}", "--clear-groups", "--pdeathsig=QUIT", "--"]
    raise LookupError(f"none of the users {', '.join(OWNERS)} is there")


def _until(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_WAIT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Database:
    port: int

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg://cg@127.0.0.1:{self.port}/mlflow"

    def run(self, program: str, *arguments: str) -> str:
        command = [str(BINARIES / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "cg", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def postgres() -> Iterator[Database]:
    """A fresh PostgreSQL with an empty database `mlflow`; its folder is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cascadeguard-pg-"))
    owner = _as_owner(folder)
    data, log, port = folder / "data", folder / "log", free_port()
    make = [*owner, str(BINARIES / "initdb"), "-D", str(data), "-U", "cg", "--auth=trust", "-E", "UTF8", "--no-sync"]
    serve = [*owner, str(BINARIES / "postgres"), "-D", str(data), "-p", str(port), "-c", "fsync=off"]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    try:
        subprocess.run([*make, "--locale=C"], check=True, capture_output=True, cwd=folder)
        with log.open("wb") as sink:
            process = subprocess.Popen(serve, stdout=sink, stderr=sink, cwd=folder, start_new_session=True)
        database = Database(port)
        try:
            ready = [str(BINARIES / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            _until("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0, process, log)
            database.run("createdb", "mlflow")
            yield database
        finally:
            process.send_signal(signal.SIGQUIT)  # immediate shutdown: takes its own children along
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class MlflowServer:
    """`mlflow server` in a process group of its own: its command, the master that holds the port, one worker."""

    database: Database
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def uri(self, user: str, password: str) -> str:
        return f"http://{user}:{password}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to start; `wait` says when it answers."""
        command: Sequence[str] = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command = [*command, "--port", str(self.port), "--backend-store-uri", self.database.uri, "--serve-artifacts"]
        command = [*command, "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        command = [*command, "--gunicorn-opts", "--preload"]  # a killed worker is followed by one that need not import
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "_MLFLOW"))}
        told = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        with (self.folder / "log").open("ab") as sink:
            self.process = subprocess.Popen(
                command,
                env=plain | told | {"HOME": str(self.folder)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def wait(self) -> None:
        assert self.process is not None
        _until("mlflow server", self.answers, self.process, self.folder / "log")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _master(self) -> int:
        assert self.process is not None
        return _children(self.process.pid)[0]

    def strike(self) -> None:
        """SIGKILL the worker, and let the master give no new one yet: whoever asks now gets no answer."""
        master = self._master()
        os.kill(master, signal.SIGSTOP)
        for worker in _children(master):
            os.kill(worker, signal.SIGKILL)

    def revive(self) -> None:
        os.kill(self._master(), signal.SIGCONT)
        self.wait()

    def kill(self) -> None:
        """SIGKILL everything: whoever asks now is refused."""
        if self.process is not None:
            _kill_group(self.process)
            self.process = None


@contextmanager
def mlflow_server() -> Iterator[MlflowServer]:
    """PostgreSQL and an `mlflow server` on it that serves the artifacts too. Starting: `wait()` before use."""
    folder = Path(tempfile.mkdtemp(prefix="cascadeguard-mlflow-"))
    try:
        with postgres() as database:
            server = MlflowServer(database, folder)
            server.start()
            try:
                yield server
            finally:
                server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
