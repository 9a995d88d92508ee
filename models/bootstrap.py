"""How sure is what was measured? Days of the whole venue are drawn again, for both models alike.

Events cluster: minutes of one event are near copies, and one cascade strikes many symbols. So a day is drawn with all
its symbols and minutes, and both models are judged on the same draw. A statistic is a function of how often each day
was drawn, which lets a thousand replicates be one matrix product.

Against chance this is not enough: average precision of a score worth nothing lies above the event rate when events are
few. There the score is shifted in time instead, which keeps its habits and breaks its tie to the events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]  # weights (replicates, days) -> value per replicate, NaN where undefined

CELLS_MAX = 4_000_000  # of a temporary matrix; replicates are taken in batches that stay below
ROUNDING = 1e-12  # precisions this near are equal: they are sums of the same terms in another order


@dataclass(frozen=True)
class Difference:
    """Challenger less champion. Null where undefined; `undefined` replicates count against any claim."""

    difference: float | None
    low: float | None
    high: float | None
    share_above_zero: float
    replicates: int
    undefined: int
    days: int

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def day_index(ts: pl.Series) -> Ints:
    """Number of each row's UTC day among the days that occur, from 0, in order of time. Null is refused.

    >>> from datetime import UTC, datetime
    >>> day_index(pl.Series([datetime(2025, 1, day, 12, tzinfo=UTC) for day in (3, 1, 3)])).tolist()
    [1, 0, 1]

    Raises ValueError if a time stamp is null.
    """
    if ts.null_count():
        raise ValueError("ts must not be null")
    return np.asarray((ts.dt.date().rank("dense") - 1).to_numpy(), dtype=np.int64)


def day_weights(days: int, replicates: int, seed: int) -> Floats:
    """How often each day is drawn: `days` draws with replacement per replicate. Shape (replicates, days).

    The same seed gives the same draws. Raises ValueError unless days and replicates are positive.
    """
    if not (days > 0 and replicates > 0):
        raise ValueError(f"days and replicates must be positive, were {days} and {replicates}")
    drawn = np.random.default_rng(seed).multinomial(days, np.full(days, 1.0 / days), size=replicates)
    return drawn.astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def ratio_of_sums(numerator: Floats, denominator: Floats) -> Statistic:
    """A statistic whose per-day sums suffice: sum of numerators over sum of denominators, over the days drawn.

    One value per day each. NaN where the denominators drawn sum to 0. A mean has the rows per day as denominator.

    >>> ratio_of_sums(np.array([1.0, 2.0]), np.array([10.0, 10.0]))(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist()
    [0.15, 0.1]
    """
    return lambda weights: _ratio((weights * numerator).sum(axis=1), (weights * denominator).sum(axis=1))


def mean_of(day: Ints, values: Floats) -> Statistic:
    """Mean of `values` over the rows of the days drawn; `day` numbers each row's day."""
    return ratio_of_sums(np.bincount(day, weights=values).astype(np.float64), np.bincount(day).astype(np.float64))


def _counted(step: Ints, day: Ints, shape: tuple[int, int], count: Floats) -> Floats:
    """Rows at or before each step, by day."""
    cells = np.bincount(step * shape[1] + day, weights=count, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(np.cumsum(cells, axis=0), dtype=np.float64)


def average_precision_of(day: Ints, happened: Floats, score: Floats, count: Floats | None = None) -> Statistic:
    """Average precision (`models.metrics.average_precision`) over the rows of the days drawn, NaN without an event.

        precision = events at or above / rows at or above,  at each distinct score of an event, counted by day once
        AP        = sum of precision times the gain in recall

    A row may stand for `count` rows of one score, of which `happened` did. Scores are sorted once; a score without an
    event adds nothing to recall and needs no step of its own. Counts are whole numbers, hence exact in any order.

    Raises ValueError if a score is NaN.
    """
    if np.isnan(score).any():
        raise ValueError("score must not be NaN")
    with_event = np.unique(score[happened > 0])[::-1]  # steps, from the highest down
    shape = (with_event.size, int(day.max()) + 1)
    step = np.searchsorted(-with_event, -score)  # the first step that takes the row in
    reached = step < with_event.size
    many = np.ones(score.size) if count is None else count
    rows = _counted(step[reached], day[reached], shape, many[reached])
    events = _counted(step[happened > 0], day[happened > 0], shape, happened[happened > 0])

    def one_batch(weights: Floats) -> Floats:
        hits, seen = events @ weights.T, rows @ weights.T
        gain = np.diff(hits, axis=0, prepend=0.0)
        return _ratio((gain * hits / np.maximum(seen, 1.0)).sum(axis=0), hits[-1])

    def statistic(weights: Floats) -> Floats:
        if not with_event.size:
            return np.full(weights.shape[0], np.nan)
        batches = -(-weights.shape[0] * with_event.size // CELLS_MAX)
        return np.concatenate([one_batch(batch) for batch in np.array_split(weights, batches)])

    return statistic


def _bound(drawn: Floats, share: float, undefined: float, method: str) -> float | None:
    """The order statistic outside `share`; undefined replicates lie at the far end, and there the bound is null."""
    bound = float(np.quantile(np.where(np.isnan(drawn), undefined, drawn), share, method=method))  # type: ignore[call-overload]
    return bound if np.isfinite(bound) else None


def paired_difference(
    champion: Statistic, challenger: Statistic, days: int, *, replicates: int, seed: int, confidence: float = 0.9
) -> Difference:
    """Challenger less champion over all days, with a percentile interval over days drawn with replacement.

        difference       = challenger(1, ..., 1) - champion(1, ..., 1)
        low, high        = (1 - confidence) / 2 and (1 + confidence) / 2 quantiles over replicates, the outer neighbour
        share_above_zero = replicates with a difference above 0 / replicates

    Both statistics see the same draws. A replicate in which either is undefined (no event drawn) counts as the lowest
    for `low`, as the highest for `high`, and as not above zero: with few days of events the interval has no end (null).
    Days are taken as exchangeable. With few days of events a percentile interval covers less often than it says.

    Raises ValueError unless days and replicates are positive and confidence in (0, 1). Source: Efron 1979; Kuensch 1989
    (blocks).

    >>> loud, quiet = (mean_of(np.array([0, 1]), np.array(values)) for values in ([1.0, 1.0], [0.5, 0.5]))
    >>> paired_difference(quiet, loud, 2, replicates=10, seed=0).low
    0.5
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), was {confidence}")
    weights = day_weights(days, replicates, seed)
    whole = float((challenger(np.ones((1, days))) - champion(np.ones((1, days))))[0])
    drawn = challenger(weights) - champion(weights)
    return Difference(
        difference=whole if np.isfinite(whole) else None,
        low=_bound(drawn, (1 - confidence) / 2, -np.inf, "lower"),
        high=_bound(drawn, (1 + confidence) / 2, np.inf, "higher"),
        share_above_zero=float(np.mean(drawn > 0)),
        replicates=replicates,
        undefined=int(np.isnan(drawn).sum()),
        days=days,
    )


def _precision_at(reach: Ints) -> float:
    """Average precision of event rows, each given the number of rows that score as high or higher."""
    ordered = np.sort(reach)
    hits = np.searchsorted(ordered, ordered, side="right")
    return float(np.mean(hits / ordered))


def chance_p_value(symbol: pl.Series, happened: Floats, score: Floats, *, shifts: int, seed: int) -> float | None:
    """How often the same score, shifted in time against the events, would rank as well. Null without an event.

        p = (1 + shifts whose average precision >= the observed one) / (1 + shifts)

    A shift rolls the scores of every symbol by the same number of rows, drawn from 1 to the rows of the longest symbol
    less 1, so that persistence and the company of symbols stay. Rows are sorted by symbol, then time.

    Raises ValueError if `shifts` < 1, a score is NaN, or a symbol's rows do not follow one another.
    """
    if shifts < 1 or np.isnan(score).any():
        raise ValueError(f"shifts must be at least 1, was {shifts}, and score must not be NaN")
    runs = symbol.rle().struct.unnest()
    if runs["value"].n_unique() < runs.height:
        raise ValueError("rows must be sorted by symbol")
    if not happened.any():
        return None
    rows = runs["len"].to_numpy().astype(np.int64)
    length, start = np.repeat(rows, rows), np.repeat(np.cumsum(rows) - rows, rows)
    reach = score.size - np.searchsorted(np.sort(score), score, side="left")
    event = np.flatnonzero(happened > 0)
    within, length, start = event - start[event], length[event], start[event]
    drawn = np.random.default_rng(seed).integers(1, max(int(length.max()), 2), size=shifts)
    observed = _precision_at(reach[event])
    shifted = [_precision_at(reach[start + (within - k) % length]) for k in drawn]
    return (1 + int(np.sum(np.array(shifted) >= observed - ROUNDING))) / (1 + shifts)
