"""Backfill: what scheduled runs would have done over a period, day by day, resumable, and the same row for row.

Three passes over the UTC days of the period: bars, features (both in any order, so by several workers), then scores
and guard in the order of time, since alerts, breakers and caps carry what they have seen.

    L/schedule/backfill.json   what is done: venue, pass, day -> hash of input files, code and settings; rows

A backfill that is killed goes on behind the last partition that is done; a partition whose inputs, code or settings
have changed is done again. It has a lease of its own: scheduled runs go on beside it, one commit at a time.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.bars import bars_of_day, bring_books_up_to_date, venue_span
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import LOOKBACK, NORMS_LOOKBACK, features_of_day, without_bars
from pipelines.operating.history import BACKFILL, READ, Attempt, Outcome, append_outcome, run_id
from pipelines.operating.interval import Steps, failure_line
from pipelines.operating.lease import LeaseLostError, held, schedule_folder, write_json
from pipelines.operating.models import scheduled
from pipelines.pools import HERE, Day, Pool
from pipelines.progress import Eta, Say, silent
from pipelines.times import Interval, show_time

INPUTS = {  # what a pass reads of the lake
    "bars": tuple(name for name in READ if name not in ("positions", "collateral", "resets")),
    "features": ("bars", "positions", "collateral", "marks", "instruments"),
    "judged": ("bars", "positions", "collateral", "marks", "instruments", "resets"),  # features follow from them
}
AGAIN = "a backfill judged these minutes again"
LOOKS_BACK = {"bars": timedelta(days=1), "features": LOOKBACK, "judged": timedelta(days=1)}


@dataclass(frozen=True)
class BackfillSummary:
    venue: str
    interval: str
    days: int
    days_skipped: int  # done before, with the same inputs, code and settings
    bars: int
    features: int
    decisions: int
    amended: int
    seconds: float
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        skipped = f", {self.days_skipped} of them done before" if self.days_skipped else ""
        head = (
            f"{self.venue}: {self.days} days{skipped}, {self.interval}: {self.bars:,} bars, {self.features:,} rows of "
        )
        head += f"features, {self.decisions:,} decisions, {self.amended:,} amended, {self.seconds:.0f} s"
        return "\n".join([head, *(f"  note: {note}" for note in self.notes)])


# --- what is done


@dataclass
class Ledger:
    """Partitions that are done, by pass and day; written after each."""

    lake: Lake
    venue: str
    config: Config
    done: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return schedule_folder(self.lake.root) / "backfill.json"

    def read(self) -> "Ledger":
        try:
            self.done = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self.done = {}
        return self

    def _key(self, name: str, day: Interval) -> str:
        return f"{self.venue} {name} {day}"

    def identity(self, name: str, day: Interval) -> str:
        read = Interval(day.start - LOOKS_BACK[name], day.end)
        return run_id(f"{name} {day}", self.lake, self.venue, read, self.config, tables=INPUTS[name])

    def has(self, name: str, day: Interval) -> bool:
        found = self.done.get(self._key(name, day))
        return found is not None and found["run_id"] == self.identity(name, day)

    def mark(self, name: str, day: Interval, rows: int, seconds: float) -> None:
        told = {"run_id": self.identity(name, day), "rows": rows, "s": round(seconds, 3)}
        self.done[self._key(name, day)] = told
        self.lake.fence()
        write_json(self.path, self.done)

    def rows(self, name: str, days: Sequence[Interval]) -> int:
        """Rows counted by the partitions of `days` that this ledger knows."""
        return sum(self.done.get(self._key(name, day), {}).get("rows", 0) for day in days)


# --- how much a day is


def weight(lake: Lake, venue: str, day: Interval) -> int:
    """Rows of events in a day, by the tables' logs; a file of many days counts for the share of it that lies inside."""
    total = 1.0
    for table in INPUTS["bars"]:
        files = lake.files(table).filter(
            pl.col("venue") == venue, pl.col("ts_max") > day.start, pl.col("ts_min") <= day.end
        )
        for rows, first, last in files.select("rows", "ts_min", "ts_max").iter_rows():
            inside = min(last, day.end) - max(first, day.start)
            share = inside / (last - first) if last > first else 1.0
            total += rows * max(0.0, min(1.0, share))
    return round(total)


# --- the passes


def _in_any_order(
    ledger: Ledger, name: str, days: Sequence[Interval], work: Callable[[Lake, Day], int], *, pool: Pool, say: Say
) -> None:
    """Do the partitions that are not done; each is marked as soon as it is."""
    left = [Day(name, ledger.venue, day) for day in days if not ledger.has(name, day)]
    weights = {day: weight(ledger.lake, ledger.venue, day.span) for day in left}
    eta, begun, nth = Eta(sum(weights.values())), time.perf_counter(), len(days) - len(left)
    for day, (rows, seconds) in pool.map(ledger.lake, partial(_measured, work), left):
        ledger.mark(name, day.span, rows, seconds)
        nth += 1
        eta.rows, eta.seconds = eta.rows + weights[day], time.perf_counter() - begun
        say(f"{name} {nth} of {len(days)} days, {eta.sentence()}")


def _measured(work: Callable[[Lake, Day], int], lake: Lake, day: Day) -> tuple[int, float]:
    begun = time.perf_counter()
    return work(lake, day), time.perf_counter() - begun


def _days_before(lake: Lake, venue: str, start: datetime, config: Config) -> list[Interval]:
    """The days that features of `start` look back on, and of which there are no bars: they are built too."""
    first = venue_span(lake, venue, config.bars.interval_s).start
    reach = start - timedelta(hours=config.detector.reference_h + 48) - LOOKBACK - NORMS_LOOKBACK
    since = max(reach.replace(hour=0, minute=0, second=0, microsecond=0), first)
    return without_bars(lake, venue, Interval(since, start)) if since < start else []


def _judged(
    ledger: Ledger, days: Sequence[Interval], token: int, clock: Callable[[], datetime], say: Say
) -> Iterator[Outcome]:
    """Scores and decisions, day by day in order: from the first day that is not done on, none is skipped."""
    lake, venue, config = ledger.lake, ledger.venue, ledger.config
    skip = 0
    while skip < len(days) and ledger.has("judged", days[skip]):
        skip += 1
    left = days[skip:]
    eta = Eta(sum(ledger.rows("features", [day]) or 1 for day in left))
    for nth, day in enumerate(left, start=skip + 1):
        begun, started = time.perf_counter(), clock()
        steps, error = Steps(lake, venue, config, started, say), None
        log = steps.log
        try:
            steps.scores_if_they_can_be_had(day, features=False)
            steps.decisions(day, AGAIN, whole=True)
        except LeaseLostError:
            raise
        except (Exception, pl.exceptions.PanicException) as failure:
            error = failure_line(failure)
        named = Attempt(venue, day, (day,), BACKFILL, token, started, ledger.identity("judged", day))
        outcome = Outcome(named, clock(), log.steps, 0, log.alerts, log.decisions, tuple(log.notes), error)
        append_outcome(lake, outcome)
        if error is None:
            ledger.mark("judged", day, log.decisions, time.perf_counter() - begun)
        eta.done(ledger.rows("features", [day]) or 1, time.perf_counter() - begun)
        say(f"judged {nth} of {len(days)} days, {eta.sentence()}")
        yield outcome
        if error is not None:
            raise InputError(f"the backfill stops at a day that fails ({error})", where=str(day))


# --- the step


def backfill_venue(
    root: Path,
    venue: str,
    interval: Interval | None,
    config: Config,
    *,
    wall: datetime,
    clock: Callable[[], datetime],
    pool: Pool = HERE,
    say: Say = silent,
) -> BackfillSummary:
    """Bars, features, scores and decisions of `interval` (default: all that the lake holds of the venue).

    Raises BusyError where another backfill is at work, InputError where a day fails; days done before stay done.
    """
    begun = time.perf_counter()
    with held(root, "backfill", wall, config.schedule.takeover_min) as lease:
        lake, settings = Lake(root, lease.check), scheduled(config)
        span = interval if interval is not None else venue_span(lake, venue, config.bars.interval_s)
        days = list(span.days())
        ledger = Ledger(lake, venue, settings).read()
        amended = lake.scan("amendments", venue, span.start, span.end).select(pl.len()).collect().item()
        before = [*_days_before(lake, venue, span.start, settings)]
        skipped = sum(ledger.has("judged", day) for day in days)
        bring_books_up_to_date(lake, venue, say)  # each day on the one before: else every worker would do all of them
        bars, features = (partial(work, bar_s=config.bars.interval_s) for work in (bars_of_day, features_of_day))
        _in_any_order(ledger, "bars", [*before, *days], bars, pool=pool, say=say)
        _in_any_order(ledger, "features", days, features, pool=pool, say=say)
        outcomes = list(_judged(ledger, days, lease.token, clock, say))
        now = lake.scan("amendments", venue, span.start, span.end).select(pl.len()).collect().item()
        return BackfillSummary(
            venue, str(span), len(days), skipped, ledger.rows("bars", days), ledger.rows("features", days),
            ledger.rows("judged", days), now - amended, round(time.perf_counter() - begun, 3),
            tuple(dict.fromkeys([*(note for one in outcomes for note in one.notes), *_after(lake, venue, span)])),
        )  # fmt: skip


def judged_until(lake: Lake, venue: str) -> datetime | None:
    """The newest minute of `venue` that has limits, by the table's log; null where nothing was judged."""
    last = lake.files("limits").filter(pl.col("venue") == venue)["ts_max"].max()
    return last if isinstance(last, datetime) else None


def _after(lake: Lake, venue: str, span: Interval) -> Iterator[str]:
    """Minutes behind the period that were judged before: their state may be another now."""
    last = judged_until(lake, venue)
    if last is not None and last > span.end:
        yield (
            f"minutes after {show_time(span.end)} were judged before this backfill, from the state of then: "
            f"`cascadeguard backfill --from {show_time(span.end)} --to {show_time(last)}` judges them from this one"
        )
