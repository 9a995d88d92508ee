"""The same work over many partitions: in this process, in processes of this machine, or wherever an executor works.

A partition is a name: a day of a venue, a file, a seed. Names and counts travel, rows never do: whoever works opens the
lake for itself. Work over a partition can be done again, in any order, and gives the same rows.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.progress import Eta, Say
from pipelines.times import Interval

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Day:
    """A step over a UTC day of a venue, or a part of one.

    >>> from pipelines.times import parse_interval
    >>> str(Day("bars", "sim", parse_interval("2025-01-01T12:00Z", "2025-01-02T00:00Z")))
    'bars sim 2025-01-01T12:00Z..2025-01-02T00:00Z'
    """

    step: str
    venue: str
    span: Interval

    def __str__(self) -> str:
        return f"{self.step} {self.venue} {self.span}"


class Pool(Protocol):
    """Where partitions are worked on; `workers` of them at a time."""

    @property
    def workers(self) -> int: ...

    def map(
        self, lake: Lake, work: Callable[[Lake, Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with what `work` came to, as they are done. Items are drawn when there is a place for them.

        What `work` raises is raised here. Elsewhere than here, `work`, items and results must be picklable.
        """


@dataclass(frozen=True)
class Here:
    """One after the other, with the caller's own lake."""

    workers: int = 1

    def map(
        self, lake: Lake, work: Callable[[Lake, Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        return ((item, work(lake, item)) for item in items)


HERE = Here()


class OvertakenError(Exception):
    """Another worker has taken over the partition; it must be done again by whoever is left."""


@dataclass(frozen=True)
class Elsewhere:
    """By the workers of an executor. `visit(lake)` is what runs there: `(work, item) -> result`."""

    executor: Executor
    workers: int
    visit: Callable[[Lake], Callable[..., Any]]
    died: type[Exception]  # what a future raises when its worker has died, for good

    def map(
        self, lake: Lake, work: Callable[[Lake, Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        there, left = self.visit(lake), iter(items)
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(left, self.workers - len(running)):
                    running[self.executor.submit(there, work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    try:
                        found = self._result(future, item)
                    except OvertakenError:  # by one that was taken for dead and has woken up
                        running[self.executor.submit(there, work, item)] = item
                    else:
                        yield item, found
        finally:
            for future in running:
                future.cancel()

    def _result(self, future: Future[Result], item: object) -> Result:
        try:
            return future.result()
        except self.died:
            mend = "is its memory enough? What is done stays done: run the command again to go on"
            raise InputError("every worker that was given this partition died", where=item, mend=mend) from None


def _visited(root: Path, fence: Callable[[], None], work: Callable[[Lake, Item], Result], item: Item) -> Result:
    return work(Lake(root, fence), item)


def _process_visit(lake: Lake) -> Callable[..., Any]:
    return partial(_visited, lake.root, lake.fence)


@contextmanager
def processes(workers: int) -> Iterator[Pool]:
    """`workers` processes of this machine, started when they are needed; this one alone where one is enough."""
    if workers == 1:
        yield HERE
        return
    share_cores(workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield Elsewhere(executor, workers, _process_visit, BrokenProcessPool)


def share_cores(workers: int) -> None:
    """Let each of `workers` processes, started later, take its share of the cores, unless the environment says more."""
    os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def counted(done: Iterable[Result], total: int, say: Say, what: str) -> Iterator[Result]:
    """Pass on what is done, and say how many of `total` that are and how long the rest will take."""
    eta, begun = Eta(total), time.perf_counter()
    say(f"{what}, 0 of {total}")
    for one in done:
        eta.rows, eta.seconds = eta.rows + 1, time.perf_counter() - begun
        say(f"{what}, {eta.rows} of {total}, {eta.sentence()}")
        yield one
