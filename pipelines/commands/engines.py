"""Where the work of a command is done: its options, and the pool that they name."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.lake import Lake
    from pipelines.pools import Pool

DASK_WORKERS = 2  # where none are asked for


class Engine(StrEnum):
    LOCAL = "local"
    DASK = "dask"


EngineOption = Annotated[Engine, typer.Option("--engine", help="Where the work is done.")]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="With --engine dask: a cluster; else one here.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Processes of this machine; default 1, of dask 2.")
]


@contextmanager
def pool_of(engine: Engine, scheduler: str | None, workers: int | None, lake: "Lake") -> Iterator["Pool"]:
    """What the options ask for, open. Raises InputError where they do not go together."""
    if scheduler is not None and engine is not Engine.DASK:
        raise InputError("--scheduler is for --engine dask", where=scheduler)
    if scheduler is not None and workers is not None:
        raise InputError("--workers is for workers of this machine", where=scheduler, mend="leave one of the two out")
    if engine is Engine.DASK:
        from pipelines.dask_pool import dask_pool

        with dask_pool(lake.root.absolute(), scheduler, workers or DASK_WORKERS) as pool:
            yield pool
        return
    from pipelines.pools import processes

    with processes(workers or 1) as pool:
        yield pool
