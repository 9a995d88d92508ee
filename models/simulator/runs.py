"""Many runs at once: one venue per seed, in processes of their own, with the results of one after the other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar, overload

import polars as pl

from models.simulator.settings import VenueSettings
from models.simulator.venue import simulate

Hour = dict[str, pl.DataFrame]
Found = TypeVar("Found")


def whole_run(hours: Iterable[Hour]) -> Hour:
    """The hours of a run joined, table by table; no tables for no hours."""
    parts = list(hours)
    return {name: pl.concat([part[name] for part in parts]) for name in parts[0]} if parts else {}


@overload
def simulate_runs(
    settings: VenueSettings, seeds: Sequence[int], start: datetime, hours: int, *, workers: int = 1
) -> Iterator[tuple[int, Hour]]: ...


@overload
def simulate_runs(
    settings: VenueSettings,
    seeds: Sequence[int],
    start: datetime,
    hours: int,
    *,
    keep: Callable[[Iterable[Hour]], Found],
    workers: int = 1,
) -> Iterator[tuple[int, Found]]: ...


def simulate_runs(
    settings: VenueSettings,
    seeds: Sequence[int],
    start: datetime,
    hours: int,
    *,
    keep: Callable[[Iterable[Hour]], Any] = whole_run,
    workers: int = 1,
) -> Iterator[tuple[int, Any]]:
    """Yield `(seed, keep(simulate(settings, seed, start, hours)))` in the order of `seeds`, whatever `workers` is.

    `keep` sees the hours of a run one by one and returns what is wanted of them, by default all tables joined. With
    more than one worker it must be a function that a fresh process can import, and what it returns is copied between
    processes. At most `workers + 1` results wait. Raises ValueError if `workers` is below 1, and as `simulate` does.

    >>> from datetime import UTC
    >>> start = datetime(2025, 1, 1, tzinfo=UTC)
    >>> list(simulate_runs(VenueSettings(accounts=5), (1, 2), start, 0))
    [(1, {}), (2, {})]
    """
    simulate(settings, 0, start, hours)  # refuses what cannot be simulated here and now
    return each_seed(partial(_kept, keep, settings, start, hours), seeds, workers=workers)


def each_seed(work: Callable[[int], Found], seeds: Sequence[int], *, workers: int = 1) -> Iterator[tuple[int, Found]]:
    """Yield `(seed, work(seed))` in the order of `seeds`, whatever `workers` is.

    With more than one, `work` must be something that a fresh process can import. Raises ValueError if `workers` is
    below 1.
    """
    if not workers >= 1:
        raise ValueError(f"`workers` must be at least 1, was {workers}")
    return ((seed, work(seed)) for seed in seeds) if workers == 1 else _in_parallel(work, seeds, workers)


def _kept(
    keep: Callable[[Iterable[Hour]], Any], settings: VenueSettings, start: datetime, hours: int, seed: int
) -> Any:
    return keep(simulate(settings, seed, start, hours))


def _in_parallel(work: Callable[[int], Any], seeds: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    left = iter(seeds)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = deque((seed, pool.submit(work, seed)) for seed in islice(left, workers + 1))
        while waiting:
            first, future = waiting.popleft()
            found = future.result()
            waiting.extend((seed, pool.submit(work, seed)) for seed in islice(left, 1))
            yield first, found
