"""What `cascadeguard run --once` does: the lease, new files, and for every venue what is late and what is due.

    poll -> ingest -> late rows: bars, scores, guard amended -> bars, features, scores, guard -> alerts, metrics, health

Each venue is on its own: one that fails keeps no other from running.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.operating.due import Due, due, step_of, together
from pipelines.operating.idle import note_idle, still_idle
from pipelines.operating.lease import BusyError, Lease, LeaseLostError, held
from pipelines.operating.sources import Intake, take_new
from pipelines.progress import Say, silent
from pipelines.times import Interval

if TYPE_CHECKING:
    from pipelines.lake import Lake
    from pipelines.operating.due import History
    from pipelines.operating.history import Attempt, Outcome
    from pipelines.operating.late import Late

# What is done with an outcome once its row is written: alerts, metrics, health. What it raises costs a note in the
# summary, never the run. It is called for failed outcomes too, and once more with none where nothing was due.
After: TypeAlias = "Callable[[Lake, Config, Sequence[Outcome], datetime], Sequence[str]]"


Idle: TypeAlias = Callable[[Path, Config, datetime], Sequence[str]]  # what is done where the lake is not opened


def never_mind(_root: Path, _config: Config, _now: datetime) -> Sequence[str]:
    """What does nothing where there is nothing to do."""
    return ()


def nothing_more(_lake: "Lake", _config: Config, _outcomes: "Sequence[Outcome]", _now: datetime) -> Sequence[str]:
    """The hook that does nothing."""
    return ()


@dataclass(frozen=True)
class VenueRun:
    """What became of one venue in one run."""

    venue: str
    done: tuple[str, ...]  # intervals
    amended: tuple[str, ...]
    failed: tuple[str, ...]
    alerts: int
    decisions: int
    seconds: float
    notes: tuple[str, ...]
    standing: tuple[str, ...] = ()  # those of the notes that hold until somebody does something about them


@dataclass(frozen=True)
class RunSummary:
    """What one run did; `busy` says that another one is at work, and then this one did nothing."""

    now: str
    token: int | None
    busy: str | None
    files: int = 0
    rows_accepted: int = 0
    rows_quarantined: int = 0
    notes: tuple[str, ...] = ()
    venues: tuple[VenueRun, ...] = field(default=())

    @property
    def failed(self) -> bool:
        return any(one.failed for one in self.venues)

    def sentence(self) -> str:
        if self.busy is not None:
            return self.busy
        took = f"{self.rows_accepted:,} rows of {self.files} files" if self.files else "no new files"
        lines = [f"{self.now}: {took}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join([*lines, *(_told(one) for one in self.venues)])


def _told(one: VenueRun) -> str:
    parts = [
        f"{len(names)} {word} ({names[0]}{' ..' if len(names) > 1 else ''})"
        for word, names in (("done", one.done), ("amended", one.amended), ("FAILED", one.failed))
        if names
    ]
    said = f"{', '.join(parts)}, {one.decisions:,} decisions, {one.alerts} alert episodes, {one.seconds:.1f} s"
    head = f"  {one.venue}: {said if parts else 'nothing is due'}"
    return "\n".join([head, *(f"    note: {note}" for note in one.notes)])


def run_once(
    root: Path,
    config: Config,
    now: datetime,
    *,
    wall: datetime,
    venue: str | None = None,
    clock: Callable[[], datetime] | None = None,
    alerts: After = nothing_more,
    observe: After = nothing_more,
    idle: Idle = never_mind,
    say: Say = silent,
) -> RunSummary:
    """Do all that is due at `now`, once. Another run at work is no error: it does the same.

    `wall` is the wall clock, by which a hanging run is told from a working one; `clock` (default: `now` stands still)
    stamps rows of `runs`.
    """
    from pipelines.times import show_time

    try:
        with held(root, "run", wall, config.schedule.takeover_min) as lease:
            run = _Run(config, now, lease, clock or (lambda: now), alerts, observe, idle, say)
            return run.everything(root, venue)
    except BusyError as busy:
        return RunSummary(show_time(now), None, str(busy))


@dataclass(frozen=True)
class _Run:
    config: Config
    now: datetime
    lease: Lease
    clock: Callable[[], datetime]
    alerts: After
    observe: After
    idle: Idle
    say: Say

    def everything(self, root: Path, venue: str | None) -> RunSummary:
        from pipelines.times import show_time

        idle = still_idle(root, self.config, self.now) if venue is None and not self.config.polls else None
        if idle is not None:
            told = tuple(
                VenueRun(one["venue"], (), (), (), 0, 0, 0.0, tuple(one["notes"]), tuple(one["notes"])) for one in idle
            )
            notes = self._guarded(self.idle, root, self.config, self.now)
            return RunSummary(show_time(self.now), self.lease.token, None, notes=tuple(notes), venues=told)
        done = self._everything(root, venue)
        if venue is None and not done.failed:
            kept = [{"venue": one.venue, "notes": one.standing} for one in done.venues]
            note_idle(root, self.config, self.now, kept)
        return done

    def _everything(self, root: Path, venue: str | None) -> RunSummary:
        from pipelines.lake import Lake
        from pipelines.operating.history import settle_killed
        from pipelines.times import show_time

        lake = Lake(root, self.lease.check)
        killed = settle_killed(lake, self.now)
        taken = self._polled(lake).plus(take_new(lake, self.config, self.say))
        notes = [*taken.notes]
        if killed is not None:
            notes.append(f"the run before was killed at {killed.span} of {killed.venue}: it is done again")
        venues, outcomes = [], []
        for name in self._venues(lake, venue):
            summary, came = self._venue(lake, name, taken)
            venues.append(summary)
            outcomes += came
        for hook in (self.alerts, self.observe):
            notes += self._guarded(hook, lake, self.config, outcomes, self.now)
        counts = taken.files, taken.rows_accepted, taken.rows_quarantined
        return RunSummary(show_time(self.now), self.lease.token, None, *counts, tuple(notes), tuple(venues))

    def _polled(self, lake: "Lake") -> Intake:
        """Ask the venues of `[[polls]]`; what they answered is in the lake then, what went wrong is a note."""
        if not self.config.polls:
            return Intake()
        from pipelines.poll import poll
        from pipelines.polling.clock import real_clock

        try:
            asked = poll(lake, self.config, clock=real_clock(self.now), progress=self.say).venues
        except LeaseLostError:
            raise
        except Exception as error:
            return Intake(notes=(f"no venue was polled ({type(error).__name__}: {error})",))
        return Intake(
            sum(one.capture is not None for one in asked),
            sum(one.rows_accepted for one in asked),
            sum(one.rows_quarantined for one in asked),
            tuple(f"{one.venue}: {note}" for one in asked for note in one.notes),
        )

    @staticmethod
    def _venues(lake: "Lake", venue: str | None) -> list[str]:
        """The chosen venue, or all; none, and no error, before the first file has come."""
        from pipelines.operating.venues import venues_at_work

        known = venues_at_work(lake)
        if venue is not None and known and venue not in known:
            raise InputError(
                "the lake holds no derivative of this venue", where=venue, mend=f"it holds: {', '.join(known)}"
            )
        return known if venue is None else [name for name in known if name == venue]

    @staticmethod
    def _guarded(hook: Callable[..., Sequence[str]], *given: object) -> list[str]:
        """What a hook says; what it raises is a note, but for a lease that is lost."""
        try:
            return list(hook(*given))
        except LeaseLostError:
            raise
        except Exception as error:
            return [f"{hook.__module__}.{getattr(hook, '__name__', 'hook')} failed ({type(error).__name__}: {error})"]

    # --- one venue

    def _venue(self, lake: "Lake", venue: str, taken: Intake) -> "tuple[VenueRun, list[Outcome]]":
        from pipelines.operating.history import read_history

        settings = self.config.schedule
        step = step_of(settings)
        window = timedelta(hours=max(settings.catch_up_h_max, settings.late_h_max) + 25)
        history = read_history(lake, venue, self.now - window, step)
        wanted = due(settings, history, self.now)
        late = self._late(lake, venue, history, step)
        outcomes: list[Outcome] = []
        old = [one for one in wanted.intervals if history.newest is not None and one.end < history.newest]
        if late.touched or old:
            outcomes.append(self._again(lake, venue, history, late=late, old=old, rows=taken.rows_accepted))
        fresh = tuple(one for one in wanted.intervals if one not in old)
        for group in together(fresh, history.failed):
            outcomes.append(self._group(lake, venue, group, 0 if outcomes else taken.rows_accepted))
        return _summary(venue, wanted, late, outcomes), outcomes

    def _late(self, lake: "Lake", venue: str, history: "History", step: timedelta) -> "Late":
        """Late rows, looked for only where anything waits: a listing of files where nothing does."""
        import polars as pl

        from pipelines.operating.late import Late, floor_of, late_rows

        if history.newest is None or lake.files("pending").filter(pl.col("venue") == venue).is_empty():
            return Late()
        marks = lake.scan("pending", venue).collect()
        return late_rows(marks, history, floor_of(history.newest, self.config), step)

    def _again(
        self, lake: "Lake", venue: str, history: "History", *, late: "Late", old: Sequence[Interval], rows: int
    ) -> "Outcome":
        """Judge again from the first interval that was touched, or had failed, to the newest one that is done."""
        from pipelines.operating.history import AMENDED, CAUGHT_UP

        touched = tuple(one for one in late.touched if one not in old)
        answers = tuple(sorted((*touched, *old), key=lambda one: one.end))
        span = Interval(answers[0].start, history.newest or answers[-1].end)
        planned = self._planned(venue, span, answers, AMENDED if touched else CAUGHT_UP)
        return self._attempt(lake, planned, late.why or f"{old[0]} was caught up", rows)

    def _group(self, lake: "Lake", venue: str, group: tuple[Interval, ...], rows: int) -> "Outcome":
        from pipelines.operating.history import CAUGHT_UP, DUE

        recent = self.now - group[-1].end < 2 * step_of(self.config.schedule) and len(group) == 1
        span = Interval(group[0].start, group[-1].end)
        return self._attempt(lake, self._planned(venue, span, group, DUE if recent else CAUGHT_UP), "", rows)

    def _planned(self, venue: str, span: Interval, ends: tuple[Interval, ...], kind: str) -> "Attempt":
        from pipelines.operating.history import Attempt

        return Attempt(venue, span, ends, kind, self.lease.token, self.clock())

    def _attempt(self, lake: "Lake", attempt: "Attempt", why: str, rows: int) -> "Outcome":
        """Say durably what is about to be done, do it, write its row."""
        from pipelines.observing.logs import bound
        from pipelines.operating.history import append_outcome, begin, ended, run_id
        from pipelines.operating.interval import attempt_at

        self.say(f"{attempt.venue} {attempt.span}")
        begin(lake, attempt)
        with bound(venue=attempt.venue, interval=str(attempt.span), token=attempt.token):
            outcome = attempt_at(lake, attempt, self.config, clock=self.clock, why=why, rows=rows, say=self.say)
        identity = run_id("interval", lake, attempt.venue, attempt.span, self.config)
        named = replace(outcome, attempt=replace(attempt, run_id=identity))
        append_outcome(lake, named)
        ended(lake)
        return named


def _summary(venue: str, wanted: Due, late: "Late", outcomes: "Sequence[Outcome]") -> VenueRun:
    def named(*, kinds: tuple[str, ...], state: str) -> tuple[str, ...]:
        fitting = [one for one in outcomes if one.attempt.kind in kinds and one.state == state]
        return tuple(str(end) for one in fitting for end in one.attempt.ends)

    errors = [f"{one.attempt.span} FAILED: {one.error}" for one in outcomes if one.error is not None]
    notes = [*wanted.notes, *late.notes, *errors, *(note for one in outcomes for note in one.notes)]
    return VenueRun(
        venue,
        named(kinds=("due", "caught_up"), state="ok"),
        named(kinds=("amended",), state="ok"),
        named(kinds=("due", "caught_up", "amended"), state="failed"),
        sum(one.alerts for one in outcomes),
        sum(one.decisions for one in outcomes),
        round(sum(step["s"] for one in outcomes for step in one.steps.values()), 3),
        tuple(dict.fromkeys(notes)),
        (*wanted.notes, *late.notes),
    )
