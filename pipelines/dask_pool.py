"""Partitions worked on by a Dask cluster; a worker that is killed costs a retry, not a row.

Workers read and write the lake themselves, under its own lock, by the path that it has here: a shared file system, and
our wheel on every worker. Before anything is given out each worker is asked whether it is as we are, whether it sees
the lake, and whether the lock that is held here holds there.
"""

import logging
import platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.claims import claim, driver, held_path, is_held
from pipelines.clusters import connected, import_dask, local_cluster, quiet, workers_of
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.operating.history import code_sha256
from pipelines.pools import Elsewhere, Pool, share_cores

SAME_WHEEL = "install the same wheel, with the same versions, on every worker and here"
SHARED = "put the lake on a file system that all share, under one path"


@contextmanager
def dask_pool(root: Path, scheduler: str | None = None, workers: int = 2) -> Iterator[Pool]:
    """The cluster at `scheduler`, else `workers` processes here; for the lake at `root`, an absolute path.

    Raises InputError without the extra `distributed`, where the address does not answer or has no worker, and where a
    worker has other versions, cannot read or write the lake, or is not kept out by its lock.
    """
    distributed = import_dask()
    with quiet(), driver(root) as claims, _client(distributed, scheduler, workers) as client:
        _inspect(client, claims)
        places = sum(worker["nthreads"] for worker in workers_of(client).values())
        yield Elsewhere(client.get_executor(pure=False), places, partial(_visit, claims), distributed.KilledWorker)


@contextmanager
def _client(distributed: Any, scheduler: str | None, workers: int) -> Iterator[Any]:
    if scheduler is not None:
        with connected(distributed, scheduler) as client:
            yield client
        return
    import dask

    share_cores(workers)
    with (
        # A task that waits behind another on a worker that dies would be blamed for it.
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0}),
        local_cluster(distributed, workers, processes=True, memory_limit=0, silence_logs=logging.CRITICAL) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


# --- what a worker must be like


def versions() -> dict[str, str]:
    """What must be the same here and there, for the same rows to come out."""
    return {"python": platform.python_version(), "polars": pl.__version__, "cascadeguard": code_sha256()[:12]}


@dataclass(frozen=True)
class Seen:
    """What a worker says of itself and of the lake."""

    versions: dict[str, str]
    shared: bool  # reads what was written here, and can write beside it
    kept_out: bool  # by a lock that is held here


def look(folder: Path) -> Seen:
    """What this worker makes of the claims in `folder`, which a driver elsewhere holds."""
    held = held_path(folder)
    try:
        shared = held.read_text(encoding="utf-8") == folder.name
        (folder / uuid.uuid4().hex).touch(exist_ok=False)
    except OSError:
        return Seen(versions(), shared=False, kept_out=False)
    try:
        return Seen(versions(), shared, is_held(held))
    except OSError:  # a file system without locks
        return Seen(versions(), shared, kept_out=False)


def _inspect(client: Any, claims: Path) -> None:
    for address, seen in client.run(look, claims, on_error="return").items():
        if isinstance(seen, BaseException):  # distributed wraps what a worker without our package cannot import
            raise InputError(f"a worker cannot run cascadeguard ({seen})", where=address, mend=SAME_WHEEL)
        refuse_others(address, seen, claims.parents[2])


def refuse_others(address: str, seen: Seen, root: Path) -> None:
    """Raises InputError where a worker must not be given a partition of the lake at `root`."""
    other = _differences(seen.versions)
    if other:
        raise InputError(f"a worker is not as we are ({other})", where=address, mend=SAME_WHEEL)
    if not seen.shared:
        raise InputError(f"a worker cannot read and write the lake {root}", where=address, mend=SHARED)
    if not seen.kept_out:
        mend = "two writers at once would spoil a table: mount the file system with locks (NFS without nolock)"
        raise InputError(f"the lock of the lake {root} does not hold on a worker", where=address, mend=mend)


def _differences(theirs: dict[str, str]) -> str:
    ours = versions()
    return ", ".join(f"{name} {theirs[name]}, here {mine}" for name, mine in ours.items() if theirs[name] != mine)


# --- a partition at a worker


@dataclass(frozen=True)
class Visit:
    """Does the work over a partition at a worker: `(work, item) -> result`."""

    claims: Path
    root: Path
    fence: Callable[[], None]  # of whoever gives out the partitions
    versions: dict[str, str]

    def __call__(self, work: Callable[[Lake, Any], Any], item: Any) -> Any:
        if self.versions != versions():  # a worker that came later has not been looked at
            raise InputError("a worker has other versions than the command that it works for", mend=SAME_WHEEL)
        mine = claim(self.claims, str(item))
        return work(Lake(self.root, partial(_all_hold, (self.fence, mine.check))), item)


def _visit(claims: Path, lake: Lake) -> Visit:
    return Visit(claims, lake.root.absolute(), lake.fence, versions())


def _all_hold(fences: tuple[Callable[[], None], ...]) -> None:
    for fence in fences:
        fence()
