"""Captures on disk: one file a run, written whole or not at all, and beside them what the next run must know.

    captured/VENUE/2026-01-31/20260131T120000000000Z.jsonl     one line an answer
    captured/VENUE/.state.json     the newest trade of every symbol, captures that wait for ingest, a venue's ban

The state is a convenience: without it everything is read again from the captures, and nothing is lost.
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.durable import write_whole
from pipelines.polling.trades import Cursor, Trade, moved

Line = dict[str, Any]
STATE = ".state.json"


@dataclass
class State:
    """`waiting`: captures, by their names below the folder, that are not known to be in the lake."""

    trades: dict[str, Cursor] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    not_before: datetime | None = None


def stamp(moment: datetime) -> str:
    """A moment as a capture's lines write it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def folder_of(lake_root: Path, venue: str) -> Path:
    return lake_root / "captured" / venue


def fresh_name(folder: Path, now: datetime) -> str:
    """The name of a capture begun at `now`; the next free microsecond where the clock was set back."""
    moment = now.astimezone(UTC)
    while True:
        name = f"{moment:%Y-%m-%d}/{moment:%Y%m%dT%H%M%S%fZ}.jsonl"
        if not (folder / name).exists():
            return name
        moment += timedelta(microseconds=1)


def names(folder: Path) -> list[str]:
    """Every capture below `folder`, oldest first."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.jsonl"))


def encoded(line: Line) -> str:
    """One line of a capture. Raises ValueError for a number that json does not have."""
    return json.dumps(line, allow_nan=False, separators=(",", ":"))


def write_capture(folder: Path, name: str, lines: Iterable[Line]) -> None:
    write_whole(folder / name, "".join(f"{encoded(line)}\n" for line in lines))


# --- state -----------------------------------------------------------------------------------------------------------


def write_state(folder: Path, state: State) -> None:
    trades = {symbol: asdict(cursor) for symbol, cursor in state.trades.items()}
    not_before = None if state.not_before is None else stamp(state.not_before)
    write_whole(folder / STATE, json.dumps({"trades": trades, "waiting": state.waiting, "not_before": not_before}))


def read_state(folder: Path, symbols: Iterable[str]) -> State:
    """What the last run left, brought up to the captures that it did not live to take note of.

    A state that is missing or unreadable is made anew: every capture waits, and the newest trades are looked for in
    the captures, from the latest back to where every symbol was met.
    """
    state, missing = _stored(folder), set(symbols)
    if state is not None:
        for name in state.waiting:
            _move(state, folder / name)
        return state
    state = State(waiting=names(folder))
    for name in reversed(state.waiting):
        _move(state, folder / name)
        if missing <= state.trades.keys():
            break
    return state


def _move(state: State, path: Path) -> None:
    for symbol, page in _trades_of(path):
        cursor = moved(state.trades.get(symbol), page)
        if cursor is not None:
            state.trades[symbol] = cursor


def _stored(folder: Path) -> State | None:
    try:
        told = json.loads((folder / STATE).read_text(encoding="utf-8"))
        trades = {symbol: _cursor(cursor) for symbol, cursor in told["trades"].items()}
        until = told["not_before"]
        not_before = None if until is None else datetime.fromisoformat(until)
        waiting = [name for name in told["waiting"] if (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return State(trades, waiting, not_before)


def _cursor(told: Mapping[str, Any]) -> Cursor:
    return Cursor(told["id"], int(told["ts_ms"]), tuple((str(name), int(ts)) for name, ts in told["recent"]))


def _trades_of(path: Path) -> Iterator[tuple[str, list[Trade]]]:
    """The pages of a capture; lines that cannot be read are ingest's to refuse."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"kind":"trades"' in text:
            try:
                line = json.loads(text)
                yield line["symbol"], line["trades"]
            except (ValueError, KeyError, TypeError):
                continue


@contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Whether this process alone polls the venue; the kernel lets go when it ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
