"""Walk-forward slices in time: train, then calibrate, then test, with gaps no label can reach across.

Shuffled folds leak: neighbouring minutes share both their features and their label windows. Here every slice is a
stretch of time over all symbols at once, and whatever lies between two slices is used by neither.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl


@dataclass(frozen=True)
class Span:
    """The rows with `ts` in (start, end]."""

    start: datetime
    end: datetime

    def rows(self) -> pl.Expr:
        return (pl.col("ts") > self.start) & (pl.col("ts") <= self.end)


@dataclass(frozen=True)
class Fit:
    """What one model is fitted on: trees on `train`, probabilities on `calibrate`."""

    train: Span
    calibrate: Span


@dataclass(frozen=True)
class Fold(Fit):
    """A fit and the later stretch of time that judges it."""

    test: Span


def _edges(ts: pl.Series, blocks: int) -> list[datetime]:
    """`blocks + 1` instants that cut the distinct time stamps into equal counts; the first lies a step before all."""
    times = ts.drop_nulls().unique().sort()
    if times.len() < blocks:
        raise ValueError(f"time stamps must number at least {blocks}, were {times.len()}")
    inner = [times[times.len() * block // blocks - 1] for block in range(1, blocks + 1)]
    return [times[0] - (times[1] - times[0]), *inner]


def _shortened(span: Span, gap: timedelta) -> Span:
    if not span.end - gap > span.start:
        raise ValueError(f"slice must last longer than the gap of {gap}, was {span.end - span.start}")
    return Span(span.start, span.end - gap)


def _gap(purge_min: int, embargo_min: int) -> timedelta:
    if not (purge_min >= 0 and embargo_min >= 0):
        raise ValueError(f"purge_min and embargo_min must not be negative, were {purge_min} and {embargo_min}")
    return timedelta(minutes=purge_min + embargo_min)


def walk_forward(ts: pl.Series, folds: int, purge_min: int, embargo_min: int) -> list[Fold]:
    """Cut time into `folds + 2` blocks; fold i trains on blocks 0..i, calibrates on i + 1, is tested on i + 2.

        slices are (start, end]; train and calibrate end `purge_min + embargo_min` before the next slice begins,
        so the label window (t, t + purge_min] of a train row ends `embargo_min` before the first later slice.

    `ts` may repeat (several symbols) and need not be sorted. Blocks hold equally many distinct time stamps. Test slices
    do not overlap and follow one another.

    Raises ValueError if `folds` < 1, a gap is negative, or a block is no longer than the gap.

    >>> from datetime import UTC
    >>> hours = pl.datetime_range(datetime(2025, 1, 1), datetime(2025, 1, 2), "1h", time_zone="UTC", eager=True)
    >>> fold = walk_forward(hours, folds=2, purge_min=60, embargo_min=0)[0]
    >>> [span.end.hour for span in (fold.train, fold.calibrate, fold.test)]
    [4, 10, 17]
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, was {folds}")
    gap = _gap(purge_min, embargo_min)
    edges = _edges(ts, folds + 2)
    return [
        Fold(
            train=_shortened(Span(edges[0], edges[i + 1]), gap),
            calibrate=_shortened(Span(edges[i + 1], edges[i + 2]), gap),
            test=Span(edges[i + 2], edges[i + 3]),
        )
        for i in range(folds)
    ]


def last_fit(ts: pl.Series, folds: int, purge_min: int, embargo_min: int) -> Fit:
    """The fit for the model that goes to work: trained on all but the last of `folds + 2` blocks, calibrated on it.

    The same gap lies between the two. Raises ValueError as `walk_forward` does.
    """
    gap = _gap(purge_min, embargo_min)
    edges = _edges(ts, folds + 2)
    return Fit(train=_shortened(Span(edges[0], edges[-2]), gap), calibrate=Span(edges[-2], edges[-1]))
