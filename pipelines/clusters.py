"""A Dask cluster reached at its address, or started here; what is wrong with it is one line, within seconds."""

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import InputError

ANSWER_S_MAX = 4.0  # for the scheduler, and again for its first worker
HELLO_BYTES_MAX = 2**20


def import_dask() -> Any:
    """The package `distributed`. Raises InputError without the extra."""
    try:
        import dask.array  # noqa: F401 - what the rows of a training travel in
        import distributed
    except ImportError:
        mend = "pip install 'cascadeguard[distributed]'"
        raise InputError("the engine dask needs packages that are not installed", mend=mend) from None
    return distributed


@contextmanager
def quiet() -> Iterator[None]:
    """Dask and LightGBM warn and tell of what they chose: threads, sizes of messages, workers that come and go."""
    for name in ("distributed", "distributed.scheduler", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(dask|distributed|lightgbm|tornado)(\.|$)")
        yield


def local_cluster(distributed: Any, workers: int, **how: Any) -> Any:
    """Workers of this machine with a thread each; Dask listens on the loopback alone."""
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # 8787 may be another cluster's
        **how,
    )


def connected(distributed: Any, scheduler: str) -> Any:
    """A client of the cluster at `scheduler`. Raises InputError where none answers, or where it has no worker."""
    mend = "start one with `dask scheduler` and `dask worker`, or leave --scheduler out for workers on this machine"
    try:
        _knock(distributed, scheduler)
        client = distributed.Client(scheduler, timeout=ANSWER_S_MAX)
    except (OSError, ValueError, OverflowError):
        raise InputError("no Dask scheduler answers", where=scheduler, mend=mend) from None
    try:
        client.wait_for_workers(1, timeout=ANSWER_S_MAX)
    except TimeoutError:
        client.close()
        raise InputError("the Dask scheduler has no worker", where=scheduler, mend=mend) from None
    return client


def _knock(distributed: Any, scheduler: str) -> None:
    """Raises OSError, ValueError or OverflowError where nothing listens or whatever does is no scheduler.

    A client would try again and again, or wait for a greeting for ever. A scheduler greets first: the length of its
    message in eight bytes, the least one first. One behind TLS waits to be greeted, and is only knocked at.
    """
    scheme, place = distributed.comm.parse_address(scheduler)
    distributed.comm.registry.get_backend(scheme)
    host, port = distributed.comm.addressing.parse_host_port(place)
    with socket.create_connection((host, port), timeout=ANSWER_S_MAX) as heard:
        if scheme == "tcp" and not 0 < int.from_bytes(heard.recv(8, socket.MSG_WAITALL), "little") < HELLO_BYTES_MAX:
            raise ConnectionError("what listens is no scheduler")


def workers_of(client: Any) -> dict[str, Any]:
    """What the scheduler knows of each worker, by address."""
    known: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return dict(sorted(known.items()))
