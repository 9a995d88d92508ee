"""Walk-forward slices in time: train, calibrate, threshold, test, with gaps no label can reach across.

Shuffled folds leak: neighbouring minutes share both their features and their label windows. Here every slice is a
stretch of time over all symbols at once, and whatever lies between two slices is used by neither. A venue-wide event
that hits several symbols within hours is one fact: no border cuts through it.
"""

from collections.abc import Sequence
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
    """What one model is fitted on: scorer on `train`, probabilities on `calibrate`, alert level on `threshold`."""

    train: Span
    calibrate: Span
    threshold: Span


@dataclass(frozen=True)
class Fold(Fit):
    """A fit and the later stretch of time that judges it."""

    test: Span


SLICES_BESIDE = 3  # calibrate, threshold, test


def venue_events(events: pl.DataFrame, before_min: int, after_min: int) -> list[Span]:
    """Stretches of time that belong to one event of the venue: [onset - before, end + after] of any symbol, joined.

    `events` has `onset, end`. Sorted, none touches another.

    >>> from datetime import UTC
    >>> noon = datetime(2025, 1, 1, 12, tzinfo=UTC)
    >>> later = [noon + timedelta(minutes=minutes) for minutes in (20, 30)]
    >>> near = pl.DataFrame({"onset": [noon, later[0]], "end": [noon, later[1]]})
    >>> [(span.start.strftime("%H:%M"), span.end.strftime("%H:%M")) for span in venue_events(near, 10, 60)]
    [('11:50', '13:30')]
    """
    around = events.select(
        start=pl.col("onset") - pl.duration(minutes=before_min), end=pl.col("end") + pl.duration(minutes=after_min)
    ).sort("start")
    apart = pl.col("start") > pl.col("end").cum_max().shift()
    joined = (
        around.with_columns(apart.fill_null(value=True).cum_sum().alias("event"))
        .group_by("event", maintain_order=True)
        .agg(pl.col("start").min(), pl.col("end").max())
    )
    return [Span(start, end) for _, start, end in joined.iter_rows()]


def _edges(ts: pl.Series, blocks: int) -> list[datetime]:
    """`blocks + 1` instants that cut the distinct time stamps into equal counts; the first lies a step before all."""
    times = ts.drop_nulls().unique().sort()
    if times.len() < blocks:
        raise ValueError(f"time stamps must number at least {blocks}, were {times.len()}")
    inner = [times[times.len() * block // blocks - 1] for block in range(1, blocks + 1)]
    return [times[0] - (times[1] - times[0]), *inner]


def _moved(edge: datetime, together: Sequence[Span], room: timedelta) -> datetime:
    """The edge, or the end of the event that it would cut, if that lies within `room` of it."""
    return next((span.end for span in together if span.start < edge < span.end <= edge + room), edge)


def _shortened(span: Span, gap: timedelta) -> Span:
    if not span.end - gap > span.start:
        raise ValueError(f"slice must last longer than the gap of {gap}, was {span.end - span.start}")
    return Span(span.start, span.end - gap)


def _gap(purge_min: int, embargo_min: int) -> timedelta:
    if not (purge_min >= 0 and embargo_min >= 0):
        raise ValueError(f"purge_min and embargo_min must not be negative, were {purge_min} and {embargo_min}")
    return timedelta(minutes=purge_min + embargo_min)


def _borders(ts: pl.Series, blocks: int, together: Sequence[Span]) -> list[datetime]:
    """Edges of blocks, moved to the ends of events by at most half a block: what lasts longer is not one event."""
    first, *inner, last = _edges(ts, blocks)
    return [first, *(_moved(edge, together, (last - first) / blocks / 2) for edge in inner), last]


def walk_forward(
    ts: pl.Series, folds: int, purge_min: int, embargo_min: int, together: Sequence[Span] = ()
) -> list[Fold]:
    """Cut time into `folds + 3` blocks; fold i trains on blocks 0..i, calibrates on i + 1, sets its threshold on i + 2
    and is tested on i + 3.

        slices are (start, end]; all but the test end `purge_min + embargo_min` before the next slice begins,
        so the label window (t, t + purge_min] of their rows ends `embargo_min` before the first later slice.

    `ts` may repeat (several symbols) and need not be sorted. Blocks hold equally many distinct time stamps, but for
    borders that would cut one of `together` (see `venue_events`): these move to its end, by half a block at most. Test
    slices do not overlap.

    Raises ValueError if `folds` < 1, a gap is negative, or a block is no longer than the gap.

    >>> from datetime import UTC
    >>> hours = pl.datetime_range(datetime(2025, 1, 1), datetime(2025, 1, 2), "1h", time_zone="UTC", eager=True)
    >>> fold = walk_forward(hours, folds=1, purge_min=60, embargo_min=0)[0]
    >>> [span.end.hour for span in (fold.train, fold.calibrate, fold.threshold, fold.test)]
    [4, 10, 16, 0]
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, was {folds}")
    gap = _gap(purge_min, embargo_min)
    edges = _borders(ts, folds + SLICES_BESIDE, together)
    return [
        Fold(
            train=_shortened(Span(edges[0], edges[i + 1]), gap),
            calibrate=_shortened(Span(edges[i + 1], edges[i + 2]), gap),
            threshold=_shortened(Span(edges[i + 2], edges[i + 3]), gap),
            test=Span(edges[i + 3], edges[i + 4]),
        )
        for i in range(folds)
    ]


def last_fit(ts: pl.Series, folds: int, purge_min: int, embargo_min: int, together: Sequence[Span] = ()) -> Fit:
    """The fit for the model that goes to work: as the last fold's, one block later, so that nothing is left to test on.

    The same gaps lie between its slices. Raises ValueError as `walk_forward` does.
    """
    gap = _gap(purge_min, embargo_min)
    edges = _borders(ts, folds + SLICES_BESIDE, together)
    return Fit(
        train=_shortened(Span(edges[0], edges[-3]), gap),
        calibrate=_shortened(Span(edges[-3], edges[-2]), gap),
        threshold=Span(edges[-2], edges[-1]),
    )
