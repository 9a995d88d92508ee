"""One run of neighbouring intervals of a venue through its steps: bars, features and scores, guard.

Guard needs bars and nothing else: whatever becomes of scores and registry, it runs. Every step can be done again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pipelines.bars import build_bars, venue_span
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.guard import guard_venue
from pipelines.lake import Lake
from pipelines.matrix import LOOKBACK, NORMS_LOOKBACK, build_features, without_bars
from pipelines.operating.history import Attempt, Outcome
from pipelines.operating.late import floor_of, judged_from, pieces
from pipelines.operating.lease import LeaseLostError
from pipelines.operating.models import (
    Champion,
    champion_of_schedule,
    detector_of_day,
    features_are_whole,
    reference_of_day,
    scheduled,
)
from pipelines.pending import pending_marks, settle_pending
from pipelines.progress import Say, silent
from pipelines.times import Interval, show_time

Clock = Callable[[], datetime]
MICROSECOND = timedelta(microseconds=1)
SAID_MAX = 20  # sentences of breakers that a row of `runs` repeats


@dataclass
class Log:
    """What the steps of an attempt say, gathered as they go."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    alerts: int = 0
    decisions: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure a step, also one that fails; what is put into the yielded dictionary stands beside its seconds."""
        begun, told = time.perf_counter(), self.steps.setdefault(name, {})
        try:
            yield told
        finally:
            told["s"] = round(told.get("s", 0.0) + time.perf_counter() - begun, 3)


@dataclass(frozen=True)
class Steps:
    """The steps over one venue, with what all of them need; `now` is when the attempt began."""

    lake: Lake
    venue: str
    config: Config
    now: datetime
    say: Say = silent
    log: Log = field(default_factory=Log)

    # --- bars

    def bars(self, span: Interval) -> None:
        """Bars of all rows that wait, and of `span` in any case, to the end of the data.

        Rows up to `floor_of` the end still wait afterwards. A venue that has no bars yet gets them from there on.
        """
        bar_s, venue = self.config.bars.interval_s, self.venue
        with self.log.step("bars") as told:
            known, floor = venue_span(self.lake, venue, bar_s), floor_of(span.end, self.config)
            with self.lake.writer():
                marks = pending_marks(self.lake, venue)
            start = self._first_bar(span, marks, max(floor, known.start))
            if start is not None:
                built = Interval(start, max(known.end, span.end))
                told["rows"] = build_bars(self.lake, venue, built, self.say, bar_s=bar_s).rows
                settle_pending(self.lake, venue, floor, marks)

    def _first_bar(self, span: Interval, marks: pl.DataFrame, floor: datetime) -> datetime | None:
        """Where bars must be computed from: the first row that waits, else the end of the stored; null if nowhere."""
        stored = self.lake.files("bars").filter(pl.col("venue") == self.venue)
        if stored.is_empty():
            return min(floor, span.start)
        waiting = marks.filter(pl.col("last") > floor)["ts"].min()
        if isinstance(waiting, datetime):
            step, midnight = timedelta(seconds=self.config.bars.interval_s), _midnight(waiting)
            before = midnight + (waiting - MICROSECOND - midnight) // step * step
            return min(max(before, floor), span.start)
        until = stored["ts_max"].max()
        return span.start if not isinstance(until, datetime) or until < span.end else None

    def _older_bars(self, before: datetime) -> None:
        """Bars of the days that features look back on, where a day has none at all."""
        bar_s = self.config.bars.interval_s
        since = max(_midnight(before - LOOKBACK - NORMS_LOOKBACK), venue_span(self.lake, self.venue, bar_s).start)
        if since < _midnight(before):
            for day in without_bars(self.lake, self.venue, Interval(since, _midnight(before))):
                build_bars(self.lake, self.venue, day, self.say, bar_s=bar_s)

    # --- scores

    def features(self, span: Interval) -> None:
        """Features of `span`, for which bars are there."""
        bar_s = self.config.bars.interval_s
        with self.log.step("features") as told:
            self._older_bars(span.start)
            done = [
                build_features(self.lake, self.venue, day, self.say, bar_s=bar_s, built=day, changed=span.start)
                for day in span.days()
            ]
            told["rows"] = sum(one.rows for one in done)

    def scores(self, span: Interval) -> None:
        """Scores of `span`, for which features are there, day by day: each day has a reference of its own."""
        settings = scheduled(self.config)
        with self.log.step("score") as told:
            champion = champion_of_schedule(self.lake, settings, self.now)
            told["rows"] = sum(self._scores_of_day(day, settings, champion) for day in span.days())

    def _scores_of_day(self, day: Interval, settings: Config, champion: Champion) -> int:
        """Scores of a part of one day; returns how many."""
        from pipelines.score import write_scores

        reference, bar_s = reference_of_day(day.start, settings), settings.bars.interval_s
        first = venue_span(self.lake, self.venue, bar_s).start
        if reference.start < first:
            self._note(f"no scores: their reference, {reference}, begins before the first row, {show_time(first)}")
            return 0
        if not features_are_whole(self.lake, self.venue, reference):
            self._older_bars(reference.start)
            build_features(self.lake, self.venue, reference, self.say, bar_s=bar_s, built=reference)
        fitted = detector_of_day(self.lake, self.venue, reference, settings, self.now)
        self.say(f"scores {self.venue} {day}")
        summary = write_scores(self.lake, self.venue, day, settings, span=reference, fitted=fitted, told=champion)
        self.log.alerts += summary.alerts
        self._note(*summary.notes)
        return summary.rows

    # --- guard

    def decisions(self, span: Interval, why: str, *, whole: bool = False) -> None:
        """Judge `span` from the newest state before it, piece by piece; `whole` at once, for a past nobody amends."""
        step = timedelta(minutes=self.config.schedule.interval_min)
        with self.log.step("guard") as told:
            since = Interval(judged_from(self.lake, self.venue, span.start), span.end)
            cut = [since] if whole else pieces(since, step)
            judged = [guard_venue(self.lake, self.venue, one, self.config, why=why, at=self.now) for one in cut]
            self.log.decisions = sum(one.decisions for one in judged)
            self._note(*(note for one in judged for note in one.notes))
            tripped = [trip for one in judged for trip in one.tripped]
            told["rows"] = sum(one.rows for one in judged)
            told["new"] = sum(one.new_audit_entries for one in judged)
            told["says"] = [f"{trip['entity']} {trip['rule']}: {trip['reason']}" for trip in tripped[:SAID_MAX]]

    def _note(self, *notes: str) -> None:
        self.log.notes += [note for note in dict.fromkeys(notes) if note not in self.log.notes]

    # --- an attempt

    def all_of(self, span: Interval, why: str) -> str | None:
        """All steps over `span`; null where they went well, else why not. A lost lease alone is raised.

        Where scores fail, decisions are made all the same and the attempt counts as done, with a note: scores are
        computed again with the next late row, by a backfill, or by `cascadeguard score`.
        """
        try:
            self.bars(span)
            self.scores_if_they_can_be_had(span)
            self.decisions(span, why)
        except LeaseLostError:
            raise
        except (Exception, pl.exceptions.PanicException) as failure:
            return failure_line(failure)
        return None

    def scores_if_they_can_be_had(self, span: Interval, *, features: bool = True) -> None:
        """Features (unless they are there) and scores; whatever goes wrong is a note."""
        try:
            if features:
                self.features(span)
            self.scores(span)
        except LeaseLostError:
            raise
        except InputError as error:
            self._note(f"no scores: {error}")
        except (Exception, pl.exceptions.PanicException) as failure:
            self._note(f"no scores: {failure_line(failure)}")


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def attempt_at(
    lake: Lake, attempt: Attempt, config: Config, *, clock: Clock, why: str = "", rows: int = 0, say: Say = silent
) -> Outcome:
    """Run an attempt's steps and tell what came of it."""
    steps = Steps(lake, attempt.venue, config, clock(), say)
    error = steps.all_of(attempt.span, why)
    log = steps.log
    return Outcome(attempt, clock(), log.steps, rows, log.alerts, log.decisions, tuple(log.notes), error)


def failure_line(failure: BaseException) -> str:
    return " ".join(f"{type(failure).__name__}: {failure}".split())[:500]
