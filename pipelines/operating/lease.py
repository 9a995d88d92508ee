"""One run at a time per lake, and a number that tells an old one from the newest.

    L/schedule/lease.json            by name (run, backfill): the newest token, who holds it, since when; one counter
    L/schedule/lease.lock            held while lease.json is read and written
    L/schedule/<name>-<token>.held   held, by a kernel lock, by the process that has the token, for as long as it lives

A process that ends, however it ends, lets go of its kernel lock. One that hangs does not: after `takeover_min` another
takes over with a larger token. Should the first wake up (SIGCONT, a file server that answers again), it finds that its
token is not the newest, at the latest before its next commit, and fails there without writing.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from pipelines.durable import write_whole
from pipelines.errors import InputError
from pipelines.times import parse_time, show_time

LOCK_WAIT_S = 5.0  # lease.json is held for microseconds


class BusyError(Exception):
    """Another process is at work; `str` says since when."""


class LeaseLostError(Exception):
    """This process was taken for dead and another has gone on in its place: it must not write any more."""


@dataclass(frozen=True)
class Lease:
    """The right to write, for as long as `token` is the newest of its name."""

    folder: Path
    name: str
    token: int

    def check(self) -> None:
        """Raises LeaseLostError where another has taken over. Reads a file of a few bytes."""
        newest = _read(self.folder).get(self.name, {}).get("token")
        if newest != self.token:
            raise LeaseLostError(
                f"this process ({self.name}, token {self.token}) was silent for too long and another took over "
                f"(token {newest}): it has written nothing since"
            )


def schedule_folder(root: Path) -> Path:
    """Where the schedule keeps its own state, beside the tables of the lake."""
    return root / "schedule"


@contextmanager
def held(root: Path, name: str, at: datetime, takeover_min: float) -> Iterator[Lease]:
    """The lease `name` of the lake at `root`. `at` is the wall clock, which simulated time must not replace.

    Raises BusyError where another process is at work and has been for less than `takeover_min`.
    """
    folder = schedule_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    with _taken(folder, name, at, timedelta(minutes=takeover_min)) as lease:
        yield lease


@contextmanager
def _taken(folder: Path, name: str, at: datetime, patience: timedelta) -> Iterator[Lease]:
    with _mutex(folder):
        known = _read(folder)
        before = known.get(name)
        if before is not None and _alive(folder, name, before["token"]):
            _be_patient(name, before, at, patience)
        token = max((one["token"] for one in known.values()), default=0) + 1
        mine = _held_path(folder, name, token).open("w")
        fcntl.flock(mine, fcntl.LOCK_EX)
        entry = {"token": token, "since": at.isoformat(), "pid": os.getpid(), "host": socket.gethostname()}
        write_json(folder / "lease.json", known | {name: entry})
        if before is not None:
            _held_path(folder, name, before["token"]).unlink(missing_ok=True)
    with mine:
        yield Lease(folder, name, token)


def _be_patient(name: str, holder: dict[str, Any], at: datetime, patience: timedelta) -> None:
    """Raises BusyError for as long as the holder may still be working."""
    since = parse_time(holder["since"])
    if at - since < patience:
        who = f"process {holder['pid']} on {holder['host']}"
        raise BusyError(f"another {name} is at work since {show_time(since)} ({who})")


def _held_path(folder: Path, name: str, token: int) -> Path:
    return folder / f"{name}-{token}.held"


@contextmanager
def _mutex(folder: Path) -> Iterator[None]:
    with (folder / "lease.lock").open("w") as lock:
        _lock_soon(lock)
        yield


def _lock_soon(lock: IO[str]) -> None:
    """Take the lock, or say after LOCK_WAIT_S that a process was stopped while it held it: never wait for ever."""
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > until:
            raise BusyError("another process holds the lease's own lock and does not go on")
        time.sleep(0.02)


def _alive(folder: Path, name: str, token: int) -> bool:
    """Whether the process with that token still holds its kernel lock."""
    try:
        file = _held_path(folder, name, token).open("r+")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "lease.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        mend = "restore it from a copy, with tokens not below those of the table `runs`"
        raise InputError("the lease cannot be read", where=path, mend=mend) from None
    return found


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, sort_keys=True))
