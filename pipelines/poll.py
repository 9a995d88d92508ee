"""Step `poll`: ask venues' public endpoints once, keep every answer as a capture, take the captures into the lake.

    state names the capture  ->  capture written whole  ->  state moves on  ->  usual ingest  ->  state lets it go

A run that is killed anywhere loses at most the answers it had not written yet: the next one takes the captures that
wait, and asks for trades from where the captures end. Nothing here touches a canonical table.
"""

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.config import Config, PollConfig
from pipelines.errors import InputError
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake
from pipelines.polling.asking import TIME_IS_UP, Patience, ShutError, UnansweredError
from pipelines.polling.captures import (
    Line,
    State,
    folder_of,
    fresh_name,
    only_one,
    read_state,
    stamp,
    write_capture,
    write_state,
)
from pipelines.polling.clock import Clock
from pipelines.polling.exchanges import check_known, connected
from pipelines.polling.round import Round, moment, play
from pipelines.polling.trades import Cursor, moved
from pipelines.progress import Say, silent

REFUSED_MAX = 24  # captures that are tried again: two hours of five minutes; `ingest ccxt FOLDER` takes older ones
GRACE_S = 1.0  # for a round to notice that its time is up and to close its connection, before it is left behind


@dataclass(frozen=True)
class VenuePoll:
    """What one venue was asked and what came of it; `gaps` are things that could not be had, each with why."""

    venue: str
    exchange: str
    answers: int
    trades: int
    gaps: int
    capture: str | None
    clock_offset_s: float | None
    rows_accepted: int
    rows_quarantined: int
    tables: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    seconds: float

    def sentence(self) -> str:
        """A line, and one for every note."""
        said = f"{self.venue}: {self.answers} answers, {self.trades:,} new trades, {self.gaps} gaps"
        said += f"; {self.rows_accepted:,} rows accepted, {self.rows_quarantined:,} quarantined, {self.seconds:.1f} s"
        return "\n".join([said, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class PollSummary:
    """One entry per venue asked."""

    venues: tuple[VenuePoll, ...]

    @property
    def answered(self) -> bool:
        """Whether any venue answered anything."""
        return any(venue.answers for venue in self.venues)

    def sentence(self) -> str:
        return "\n".join(venue.sentence() for venue in self.venues)


def chosen_polls(config: Config, venue: str | None) -> tuple[PollConfig, ...]:
    """The polls to make. InputError where there are none, or none of that venue."""
    if not config.polls:
        raise InputError("no venue is set up for polling", mend="add a [[polls]] table to the settings")
    found = tuple(poll for poll in config.polls if venue in (None, poll.venue))
    if not found:
        known = ", ".join(poll.venue for poll in config.polls)
        raise InputError("no [[polls]] table is of this venue", where=repr(venue), mend=f"use one of: {known}")
    return found


# --- asking one venue ------------------------------------------------------------------------------------------------


@dataclass
class _Asked:
    """What a round has come to so far; filled by its thread, read when it is over or its time is."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unoffered: frozenset[str] = frozenset()
    shut_until: datetime | None = None
    clock_offset_s: float | None = None


def _play(poll: PollConfig, patience: Patience, cursors: dict[str, Cursor], told: "queue.SimpleQueue[Any]") -> None:
    """A round from the first to the last request; everything it says goes into `told`, None last of all."""
    exchange = None
    try:
        exchange = connected(poll, patience.clock)
        round_ = Round(exchange, poll, patience, told.put)
        try:
            play(round_, cursors)
        finally:
            told.put(round_)
    except UnansweredError as error:
        told.put(error)
    except Exception as error:  # one venue's failure never costs another
        told.put(UnansweredError(f"internal failure, please report it: {type(error).__name__}: {error}"))
    finally:
        if exchange is not None:
            exchange.close()
        told.put(None)


def _asked(poll: PollConfig, patience: Patience, cursors: dict[str, Cursor]) -> Callable[[], _Asked]:
    """Start a round; the function returned waits for its end, or for the end of its time.

    It runs in a thread that nobody waits for longer: a venue that sends a byte a minute would hold a request for ever.
    """
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_play, args=(poll, patience, cursors, told), daemon=True).start()

    def heard() -> _Asked:
        asked = _Asked()
        while True:
            try:
                item = told.get(timeout=max(patience.left_s(), 0.0) + GRACE_S)
            except queue.Empty:
                asked.notes.append(TIME_IS_UP)
                break
            if item is None:
                break
            _note(asked, item)
        return asked

    return heard


def _note(asked: _Asked, item: Any) -> None:
    if isinstance(item, ShutError):
        asked.shut_until = item.until
    if isinstance(item, UnansweredError):
        asked.notes.append(str(item))
    elif isinstance(item, Round):
        asked.notes += item.notes
        asked.unoffered = frozenset(item.unoffered)
        asked.clock_offset_s = item.clock_offset_s
    else:
        asked.lines.append(item)


def _untold(poll: PollConfig, state: State, asked: _Asked, clock: Clock) -> Iterator[Line]:
    """A gap for every symbol and kind that no line speaks of, and for trades that were still to be joined.

    The round ended before it came to them. `state` is the one before this run.
    """
    spoken = {(line["symbol"], _kind(line)) for line in asked.lines}
    now, why = stamp(clock.now()), asked.notes[-1] if asked.notes else TIME_IS_UP
    head = {"poll": 1, "exchange": poll.exchange, "venue": poll.venue, "kind": "gap"}
    head |= {"asked_at": now, "answered_at": now}
    for symbol in poll.symbols:
        for kind in poll.kinds:
            if (symbol, kind) not in spoken and kind not in asked.unoffered:
                yield {**head, "symbol": symbol, "gap": {"of": kind, "from": now, "to": now, "why": why}}
    for symbol, (since, until) in _unjoined(state, asked).items():
        gap = {"of": "trades", "from": since, "to": until, "why": f"not joined: {why}"}
        yield {**head, "symbol": symbol, "gap": gap}


def _unjoined(state: State, asked: _Asked) -> dict[str, tuple[str, str]]:
    """Per symbol the hole between the newest trade known before and the oldest new one, if nothing speaks of it yet."""
    pages: dict[str, list[Line]] = {}
    for line in asked.lines:
        if line["kind"] == "trades":
            pages.setdefault(line["symbol"], []).append(line)
    told = {line["symbol"] for line in asked.lines if line["kind"] == "gap" and line["gap"]["of"] == "trades"}
    holes = {}
    for symbol in pages.keys() & state.trades.keys() - told:
        if not pages[symbol][-1]["joined"]:
            stamps = [trade["timestamp"] for page in pages[symbol] for trade in page["trades"] if trade["timestamp"]]
            since = state.trades[symbol].ts_ms
            holes[symbol] = moment(since), moment(min(stamps, default=since))
    return dict(sorted(holes.items()))


def _kind(line: Line) -> str:
    kind = line["gap"]["of"] if line["kind"] == "gap" else line["kind"]
    return "marks" if kind == "ticker" else str(kind)


# --- one venue -------------------------------------------------------------------------------------------------------


def _captured(poll: PollConfig, folder: Path, state: State, asked: _Asked, clock: Clock) -> str:
    """Write what was heard; the state knows of the capture before it is there, and moves on after."""
    name = fresh_name(folder, clock.now())
    now = stamp(clock.now())
    run = {"poll": 1, "exchange": poll.exchange, "venue": poll.venue, "kind": "run", "symbol": "*", "asked_at": now}
    run |= {"answered_at": now, "clock_offset_s": asked.clock_offset_s, "notes": asked.notes}
    state.waiting.append(name)
    state.not_before = asked.shut_until
    write_state(folder, state)
    write_capture(folder, name, [run, *asked.lines])
    for line in asked.lines:
        if line["kind"] == "trades":
            cursor = moved(state.trades.get(line["symbol"]), line["trades"])
            state.trades |= {} if cursor is None else {line["symbol"]: cursor}
    write_state(folder, state)
    return name


@dataclass
class _Taken:
    """What ingest said of a venue's captures."""

    tables: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, fate: str) -> int:
        return sum(counts[fate] for counts in self.tables.values())


def _taken(poll: PollConfig, folder: Path, state: State, lake: Lake, config: Config) -> _Taken:
    """Take the captures that wait. Refused ones are said, and the latest of them tried again: settings get mended."""
    taken, refused = _Taken(), {}
    for name in state.waiting:
        try:
            found = ingest("ccxt", [folder / name], lake, config, Choice(role=poll.role))
        except InputError as error:
            refused[name] = str(error)
            continue
        for table, counts in found.tables.items():
            taken.tables.setdefault(table, Counter()).update(counts)
    if refused:
        said = f"{len(refused)} capture{'s' * (len(refused) > 1)} refused, the latest: {list(refused.values())[-1]}"
        taken.notes.append(said)
    if state.waiting:
        state.waiting = list(refused)[-REFUSED_MAX:]
        write_state(folder, state)
    return taken


def _gap_notes(asked: _Asked) -> Iterator[str]:
    """What there is to say of a round, then every reason for gaps once, with the kinds that it cost."""
    gaps = [(str(line["gap"]["why"]), _kind(line)) for line in asked.lines if line["kind"] == "gap"]
    times = Counter(why for why, _ in gaps)
    yield from (note for note in asked.notes if note not in times)
    for why, count in times.most_common():
        kinds = dict.fromkeys(kind for reason, kind in gaps if reason == why)
        yield f"{', '.join(kinds)}: {why}{f' ({count} times)' if count > 1 else ''}"


def _summary(poll: PollConfig, asked: _Asked, capture: str | None, taken: _Taken, seconds: float) -> VenuePoll:
    kinds = Counter(line["kind"] for line in asked.lines)
    return VenuePoll(
        venue=poll.venue,
        exchange=poll.exchange,
        answers=kinds.total() - kinds["gap"] - kinds["intervals"],
        trades=sum(len(line["trades"]) for line in asked.lines if line["kind"] == "trades"),
        gaps=kinds["gap"],
        capture=capture,
        clock_offset_s=asked.clock_offset_s,
        rows_accepted=taken.count("accepted"),
        rows_quarantined=taken.count("quarantined"),
        tables={table: dict(counts) for table, counts in sorted(taken.tables.items())},
        notes=(*_gap_notes(asked), *taken.notes),
        seconds=round(seconds, 3),
    )


@dataclass
class _Begun:
    """A venue whose round is under way, or one that is left alone and why."""

    poll: PollConfig
    folder: Path
    state: State = field(default_factory=State)
    heard: Callable[[], _Asked] | None = None
    why: str = ""


def _begun(poll: PollConfig, lake: Lake, clock: Clock, seed: int, locks: ExitStack) -> _Begun:
    """Start a venue's round, unless another process is at it or the venue has asked for silence."""
    folder = folder_of(lake.root, poll.venue)
    if not locks.enter_context(only_one(folder)):
        return _Begun(poll, folder, why="another poll of this venue is at work")
    state = read_state(folder, poll.symbols)
    if state.not_before is not None and clock.now() < state.not_before:
        return _Begun(poll, folder, state, why=f"the venue asked for silence until {stamp(state.not_before)}")
    dice = random.Random(f"{seed}/{poll.venue}")  # noqa: S311 (spreads retries, guards nothing)
    patience = Patience(poll.timeout_s, poll.attempts_max, clock.elapsed_s() + poll.seconds_max, clock, dice)
    return _Begun(poll, folder, state, _asked(poll, patience, dict(state.trades)))


def _finished(begun: _Begun, lake: Lake, config: Config, clock: Clock) -> VenuePoll:
    """Wait for the round, write its capture, and take what waits."""
    poll, asked, capture = begun.poll, _Asked(notes=[begun.why] if begun.why else []), None
    if begun.heard is not None:
        asked = begun.heard()
        asked.lines += list(_untold(poll, begun.state, asked, clock))
        capture = str(begun.folder / _captured(poll, begun.folder, begun.state, asked, clock))
    taken = _taken(poll, begun.folder, begun.state, lake, config)
    return _summary(poll, asked, capture, taken, clock.elapsed_s())


def poll(
    lake: Lake, config: Config, venue: str | None = None, *, clock: Clock, progress: Callable[[str], None] | None = None
) -> PollSummary:
    """Ask every venue of `config.polls`, or the one named, once; all of them at the same time.

    Ends within the longest `seconds_max` and the time that ingest takes. `config.seed` draws the waits between
    attempts. Holds the lake's writer lock while it ingests: the caller must not.

    Raises InputError for settings that cannot be polled; a venue that fails is told in its summary.
    """
    polls = chosen_polls(config, venue)
    check_known(polls)
    say: Say = progress if progress is not None else silent
    with ExitStack() as locks:
        begun = [_begun(one, lake, clock, config.seed, locks) for one in polls]
        found = []
        for one in begun:
            say(one.poll.venue)
            found.append(_finished(one, lake, config, clock))
    return PollSummary(tuple(found))
