"""Rows counted by day and score: from that table, which does not grow with rows, ranking and reliability are told.

    tally: day, score, rows, events      one row per day and distinct score; a fine tally has one day for all

Where rows are many, scores are first cut: a fine tally keeps FINE bits (16,384 steps per doubling), one by day COARSE.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.bootstrap import average_precision_of, day_weights

Floats = NDArray[np.float64]

ROWS_EXACT = 2_000_000  # up to here a score is counted as it is
FINE, COARSE = 14, 8  # bits of the mantissa that are kept beyond


@dataclass(frozen=True)
class Curve:
    """By distinct score, from the highest down: rows and events at or above it."""

    score: Floats
    rows: Floats
    events: Floats


def cut(score: Floats, bits: int = COARSE) -> Floats:
    """Scores with `bits` of mantissa, towards zero: never out of order, off by less than one in `2 ** bits`.

    >>> cut(np.array([1.0, 1.001, 1.01, -3.0]))
    array([ 1.       ,  1.       ,  1.0078125, -3.       ])
    """
    kept = np.int64(-1) << np.int64(52 - bits)
    return (np.ascontiguousarray(score, dtype=np.float64).view(np.int64) & kept).view(np.float64)


def tally(rows: pl.DataFrame, bits: int | None, *, by_day: bool = True) -> pl.DataFrame:
    """The tally of `rows` (`ts, score, happened`), its scores cut to `bits` (None: as they are).

    Rows without a score or an answer are left out. Not `by_day`: one day stands for all.
    """
    known = rows.filter(pl.col("score").is_not_nan() & pl.col("happened").is_not_null())
    score = known["score"] if bits is None else pl.Series("score", cut(known["score"].to_numpy(), bits))
    day = pl.col("ts").dt.date() if by_day else pl.lit(None, pl.Date)
    counted = known.select(day.alias("day"), score, "happened").group_by("day", "score")
    return counted.agg(rows=pl.len().cast(pl.Int64), events=pl.col("happened").cast(pl.Int64).sum())


def merged(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """One tally of several, sorted by day and score."""
    both = pl.concat(parts).group_by("day", "score").agg(pl.col("rows", "events").sum())
    return both.sort("day", "score")


class Gathered:
    """Tallies added one after another: no more than HELD rows wait to be merged."""

    HELD = 4_000_000

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []

    def add(self, part: pl.DataFrame) -> None:
        self._parts.append(part)
        if sum(one.height for one in self._parts) > self.HELD:
            self._parts = [merged(self._parts)]

    def whole(self) -> pl.DataFrame:
        return merged(self._parts)


def curve(found: pl.DataFrame) -> Curve:
    by_score = found.group_by("score").agg(pl.col("rows", "events").sum()).sort("score", descending=True)
    rows, events = (np.cumsum(by_score[name].to_numpy().astype(np.float64)) for name in ("rows", "events"))
    return Curve(by_score["score"].to_numpy(), rows, events)


def prevalence(found: pl.DataFrame) -> float | None:
    rows, events = (int(found[name].sum()) for name in ("rows", "events"))
    return events / rows if rows else None


def average_precision(found: pl.DataFrame) -> float | None:
    """As `models.metrics.average_precision`, over the rows counted. Null without an event."""
    told = curve(found)
    if not (told.events.size and told.events[-1] > 0):
        return None
    gain = np.diff(told.events, prepend=0.0)
    return float((gain * told.events / told.rows).sum() / told.events[-1])


def roc_auc(found: pl.DataFrame) -> float | None:
    """As `models.metrics.roc_auc`, over the rows counted. Null unless there are rows of both kinds."""
    told = curve(found)
    if not told.events.size:
        return None
    quiet = told.rows - told.events
    if not (told.events[-1] > 0 and quiet[-1] > 0):
        return None
    below = quiet[-1] - quiet + np.diff(quiet, prepend=0.0) / 2  # quiet rows below, ties half
    return float((np.diff(told.events, prepend=0.0) * below).sum() / (told.events[-1] * quiet[-1]))


def lift_interval(found: pl.DataFrame, *, replicates: int, seed: int, confidence: float) -> tuple[float, float] | None:
    """Of average precision over prevalence, by drawing days again. Null without an event or with one day."""
    days = found["day"].n_unique()
    if days < 2 or not found["events"].sum():
        return None
    day = (found["day"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    rows, events, score = (found[name].to_numpy().astype(np.float64) for name in ("rows", "events", "score"))
    weights = day_weights(days, replicates, seed)
    precision = average_precision_of(day, events, score, rows)(weights)
    by_day = [np.bincount(day, weights=column, minlength=days) for column in (events, rows)]
    drawn = weights @ by_day[0] / (weights @ by_day[1])
    lift = precision[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(lift, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Reliability:
    """What a probability said, what happened, and the best non-decreasing map of the one on the other, by said."""

    said: Floats
    happened: Floats
    recalibrated: Floats
    rows: Floats


def reliability(found: pl.DataFrame) -> Reliability:
    """Isotonic regression of outcomes on probabilities. Source: Dimitriadis, Gneiting and Jordan 2021."""
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - a second to import; only this split needs it

    by_score = found.group_by("score").agg(pl.col("rows", "events").sum()).sort("score")
    rows = by_score["rows"].to_numpy().astype(np.float64)
    mean = by_score["events"].to_numpy() / rows
    best = np.asarray(isotonic_regression(mean, weights=rows).x, dtype=np.float64)
    return Reliability(by_score["score"].to_numpy(), mean, best, rows)
