"""Trees grown on a Dask cluster: the same recipe, the rows spread over workers that agree on every split.

In: an address, or nothing for workers on this machine. Out: what `Recipe.grow` asks for. Never: our code on a machine
of the cluster; dask and LightGBM are enough there. Each worker bins some of the features from its own rows, so the
trees differ a little from those of `models.fitting.grow` and, with the order of the workers, from run to run.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from models.calibration import Floats
from models.fitting import Grow, text_of
from models.scorers import INTERVAL, lightgbm
from pipelines.clusters import connected, import_dask, local_cluster, quiet, workers_of
from pipelines.errors import InputError

PEER_MIN_MAX = 10  # LightGBM's own two hours would let one lost worker hold up the others
ESTIMATOR_NAMES = {
    "min_data_in_leaf": "min_child_samples",
    "lambda_l2": "reg_lambda",
    "feature_fraction": "colsample_bytree",
}
TAKEN_ELSEWHERE = ("feature_names", "num_threads")  # the names go to `fit`, the threads are those of a worker


@contextmanager
def dask_grow(scheduler: str | None = None, workers: int = 2) -> Iterator[Grow]:
    """What grows trees while the cluster is open: at `scheduler`, else `workers` threads here, gone afterwards.

    Raises InputError without the extra `distributed`, and within ten seconds where the address does not answer or has
    no worker.
    """
    distributed = import_dask()
    with quiet(), _client(distributed, scheduler, workers) as client:

        def grow(
            parameters: dict[str, Any], rounds: int, inputs: Floats, happened: Floats, start: Floats | None
        ) -> str:
            try:
                with quiet(), _without_talk():
                    return _grown(client, parameters, rounds, inputs, happened, start)
            except (
                OSError,
                ImportError,
                distributed.KilledWorker,
                distributed.client.FutureCancelledError,
                lightgbm().basic.LightGBMError,
            ) as error:
                raise InputError(
                    f"the Dask cluster did not finish the training ({error})",
                    where=scheduler,
                    mend="look at its workers; they need dask, numpy and lightgbm as here, and ports to one another",
                ) from error

        yield grow


@contextmanager
def _client(distributed: Any, scheduler: str | None, workers: int) -> Iterator[Any]:
    if scheduler is None:
        with _local(distributed, workers) as cluster, distributed.Client(cluster) as client:
            yield client
        return
    with connected(distributed, scheduler) as client:
        yield client


def _local(distributed: Any, workers: int) -> Any:
    """Threads, not processes: those would run the caller's script again, and import LightGBM each.

    LightGBM listens, while trees grow, on every interface (one port per worker).
    """
    return local_cluster(distributed, workers, processes=False)


@contextmanager
def _without_talk() -> Iterator[None]:
    """Nothing reaches stdout, which belongs to the answer of a command: LightGBM's own threads tell of their ports on
    it whatever `verbosity` says. What goes wrong is raised, and what is said on stderr stays.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _spread(client: Any, workers: list[str], values: Floats) -> Any:
    """`values` as a dask array of one block per worker: rows k, k + n, k + 2n, ... in their order on worker k of n.

    Neighbouring minutes are near copies; dealt out like cards, each worker sees all of the period and both outcomes.
    """
    import dask.array
    from dask import delayed

    count = len(workers)
    parts = [np.ascontiguousarray(values[k::count]) for k in range(count)]
    held = [client.scatter(part, workers=[at], hash=False) for part, at in zip(parts, workers, strict=True)]
    return dask.array.concatenate(
        [
            dask.array.from_delayed(delayed(future), shape=part.shape, dtype=part.dtype)
            for future, part in zip(held, parts, strict=True)
        ]
    )


def _estimator(client: Any, parameters: dict[str, Any], rounds: int) -> Any:
    """A regressor with the objective `binary`: the classifier would number the outcomes anew on each worker."""
    chosen = {
        ESTIMATOR_NAMES.get(name, name): value for name, value in parameters.items() if name not in TAKEN_ELSEWHERE
    }
    return lightgbm().DaskLGBMRegressor(
        client=client, n_estimators=rounds, tree_learner="data", time_out=PEER_MIN_MAX, **chosen
    )


def _grown(  # noqa: PLR0917 - those of `Grow`, and where
    client: Any, parameters: dict[str, Any], rounds: int, inputs: Floats, happened: Floats, start: Floats | None
) -> str:
    """As `models.fitting.grow`, on the workers that are there now."""
    workers = list(workers_of(client))[: inputs.shape[0]]
    rows, outcome, begun = (
        None if values is None else _spread(client, workers, values) for values in (inputs, happened, start)
    )
    names = [*parameters["feature_names"], INTERVAL]
    fitted = _estimator(client, parameters, rounds).fit(rows, outcome, init_score=begun, feature_name=names)
    return text_of(fitted.booster_)
