"""Clients of a registry as processes of their own: they run at once, and any can be killed at any call it makes.

`python -m tests.pipelines.registry_clients` imports what is slow once, then forks one child per job: a line of JSON
in (a list of jobs), a line of JSON out (their answers; null where a child was killed).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Point:
    """A moment in a client's work: before or after the `nth` call of an MlflowClient method."""

    method: str
    side: Literal["before", "after"]
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.side} {self.method} {self.nth}"


@dataclass(frozen=True)
class Job:
    """`register` variant k of the test model (`subject`), or `promote` version k."""

    what: Literal["register", "promote"]
    subject: str
    lake: str
    settings: dict[str, str]
    killed_at: Point | None = None


def watched(original: Callable[..., Any], point: Point, strike: Callable[[], None]) -> Callable[..., Any]:
    """`original`, with `strike` at `point`."""
    calls = 0

    @wraps(original)
    def method(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.nth and point.side == "before":
            strike()
        answer = original(*arguments, **named)
        if calls == point.nth and point.side == "after":
            strike()
        return answer

    return method


def work(job: Job) -> str:
    """What a client does; its answer is an address."""
    from pipelines.config import MlflowConfig
    from pipelines.promotion import promote
    from pipelines.tracking import Registry
    from tests.pipelines.registry_worlds import RECORD, START, warning_model

    registry = Registry(MlflowConfig(**job.settings), Path(job.lake))
    if job.what == "register":
        return registry.log_warning(warning_model(int(job.subject)), RECORD)
    change = promote(registry, registry.settings.warning_name, job.subject, "a test", at=START, force=True)
    return f"models:/{change.name}/{change.champion}"


def _child(job: Job, answer: int) -> None:
    import mlflow

    if job.killed_at is not None:
        name = job.killed_at.method
        suicide = watched(
            getattr(mlflow.MlflowClient, name), job.killed_at, lambda: os.kill(os.getpid(), signal.SIGKILL)
        )
        setattr(mlflow.MlflowClient, name, suicide)
    try:
        said = work(job)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(answer, said.encode())
    os._exit(0)


def _fork(job: Job) -> tuple[int, int]:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        _child(job, writes)
    os.close(writes)
    return pid, reads


def _answer(pid: int, reads: int) -> str | None:
    with os.fdopen(reads, "rb") as source:
        said = source.read().decode()
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else said


def main() -> None:
    from pipelines.tracking import prepare_environment

    prepare_environment()
    import mlflow.pyfunc.model
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from sqlalchemy.orm import configure_mappers

    import models.detector  # noqa: F401
    import pipelines.promotion  # noqa: F401
    import tests.pipelines.registry_worlds  # noqa: F401

    configure_mappers()

    for line in sys.stdin:
        jobs = [
            Job(**(raw | {"killed_at": raw["killed_at"] and Point(**raw["killed_at"])})) for raw in json.loads(line)
        ]
        answers = [_answer(*child) for child in [_fork(job) for job in jobs]]
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


Run = Callable[..., list[str | None]]


@contextmanager
def clients() -> Iterator[Run]:
    """A function that runs jobs at once and gives their answers, None for a killed one."""
    command = [sys.executable, "-m", "tests.pipelines.registry_clients"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*jobs: Job) -> list[str | None]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        process.stdin.flush()
        found: list[str | None] = json.loads(process.stdout.readline())
        return found

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main()
