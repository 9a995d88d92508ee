"""The outbox: what stands and what is to be sent, in one SQLite file that survives a kill at any point.

A run's news, what they make of what stood and up to where the venue was told are one transaction: they are recorded
together or not at all. A message is recorded before it is sent and marked after; in between it is `unclear`.

| state | meaning | next |
|---|---|---|
| pending | recorded | unclear |
| unclear | being sent; or whoever sent it was killed, or the sink did not answer in time | sent, failed, unclear |
| failed | the sink said no, or could not be reached | unclear, after a pause |
| sent | the sink took it | |
| folded | later news of the same conditions go to the same sink: nobody needs this one any more | |
| expired | given up | |
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.alerting.alert import News, Standing, from_json, short_id, to_json

if TYPE_CHECKING:  # what they import takes longer than all of this
    from pipelines.alerting.lifecycle import Step
    from pipelines.alerting.message import Message

SCHEMA = """
CREATE TABLE IF NOT EXISTS standing (key TEXT PRIMARY KEY, venue TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (venue TEXT PRIMARY KEY, until TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (venue TEXT PRIMARY KEY, count INTEGER NOT NULL, until TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL, sink TEXT NOT NULL, venue TEXT NOT NULL, event TEXT NOT NULL,
  severity INTEGER NOT NULL, at TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, short TEXT NOT NULL,
  keys TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, created_at TEXT NOT NULL, next_at TEXT NOT NULL,
  changed_at TEXT NOT NULL, error TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_state ON messages (state, sink);
CREATE TABLE IF NOT EXISTS members (
  news_id TEXT NOT NULL, sink TEXT NOT NULL, key TEXT NOT NULL, message_id TEXT NOT NULL, PRIMARY KEY (news_id, sink));
CREATE INDEX IF NOT EXISTS by_message ON members (message_id);
"""
PENDING, UNCLEAR, FAILED, SENT, FOLDED, EXPIRED = "pending", "unclear", "failed", "sent", "folded", "expired"
OPEN = (PENDING, UNCLEAR, FAILED)
BUSY_WAIT_S = 5.0
SYNCHRONOUS = "FULL"  # not even a power cut makes a message that was marked sent an open one again
PAUSE_MIN_MAX = 60  # the longest pause between two attempts
KEPT_DAYS = 30  # how long a message that is done with is remembered


@dataclass(frozen=True)
class Letter:
    """A recorded message on its way to a sink."""

    id: str
    sink: str
    venue: str
    event: str
    severity: int
    title: str
    text: str
    short: str
    keys: tuple[str, ...]
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime
    error: str


LETTER = "id, sink, venue, event, severity, title, text, short, keys, state, attempts, created_at, next_at, error"


def outbox_path(root: Path) -> Path:
    return root / "alerts" / "outbox.sqlite"


def _stamp(moment: datetime) -> str:
    """Texts that sort as their times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _letter(row: Sequence[object]) -> Letter:
    values = list(row)
    values[8] = tuple(json.loads(str(values[8])))
    values[11:13] = [datetime.fromisoformat(str(value)) for value in values[11:13]]
    return Letter(*values)  # type: ignore[arg-type]  # the columns of LETTER, in its order


class Outbox:
    """An open outbox; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_WAIT_S, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def check(self) -> None:
        """Raises sqlite3.DatabaseError where the file is damaged."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    @contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- what stands

    def told_until(self, venue: str) -> datetime | None:
        row = self._db.execute("SELECT until FROM told WHERE venue = ?", (venue,)).fetchone()
        return None if row is None else datetime.fromisoformat(row[0])

    def standing(self, venue: str | None = None) -> dict[str, Standing]:
        """What stands of a venue, of all where it is None, by key."""
        wanted = "SELECT key, body FROM standing WHERE ? IS NULL OR venue = ? ORDER BY key"
        return {key: from_json(body) for key, body in self._db.execute(wanted, (venue, venue))}

    def record(self, venue: str, step: "Step", until: datetime, outgoing: "Iterable[Message]", now: datetime) -> int:
        """What a run found, all or nothing; the number of messages that are new. Failures in a row are over."""
        with self._whole() as db:
            self._put(db, venue, step.standing)
            before = self.told_until(venue)
            newest = _stamp(until if before is None else max(before, until))
            db.execute("INSERT OR REPLACE INTO told VALUES (?, ?)", (venue, newest))
            db.execute("DELETE FROM failures WHERE venue = ?", (venue,))
            return sum(self._add(db, message, now) for message in outgoing)

    def record_failure(
        self, venue: str, step: "Step", until: datetime, outgoing: "Iterable[Message]", now: datetime
    ) -> int:
        """As `record`, of a run that failed: nothing was told of the interval, and one more failure is counted."""
        with self._whole() as db:
            self._put(db, venue, step.standing)
            count = self.failures(venue, until)
            db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (venue, count, _stamp(until)))
            return sum(self._add(db, message, now) for message in outgoing)

    def failures(self, venue: str, until: datetime) -> int:
        """How many intervals in a row have failed with the one that ends at `until`; trying one again is no further."""
        row = self._db.execute("SELECT count, until FROM failures WHERE venue = ?", (venue,)).fetchone()
        if row is None:
            return 1
        return int(row[0]) + int(row[1] < _stamp(until))

    def _put(self, db: sqlite3.Connection, venue: str, standing: Mapping[str, Standing]) -> None:
        """Put what stands now in place of what stood; somebody may have acknowledged it since that was read."""
        before = self.standing(venue)
        db.execute("DELETE FROM standing WHERE venue = ?", (venue,))
        rows = [(key, venue, to_json(_acked_as(one, before.get(key)))) for key, one in standing.items()]
        db.executemany("INSERT INTO standing VALUES (?, ?, ?)", rows)

    def fresh(self, news: Iterable[News], sink: str) -> list[News]:
        """The news that this sink has no message of yet."""
        query = "SELECT 1 FROM members WHERE news_id = ? AND sink = ?"
        return [one for one in news if self._db.execute(query, (one.id, sink)).fetchone() is None]

    def _add(self, db: sqlite3.Connection, message: "Message", now: datetime) -> bool:
        """Add a message, once."""
        number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM messages").fetchone()[0]
        stamp, keys = _stamp(now), json.dumps([one.alert.key for one in message.news])
        values = (message.id, number, message.sink, message.venue, message.event, message.severity, _stamp(message.at),
                  message.title, message.text, message.short, keys, PENDING, 0, stamp, stamp, stamp, "")  # fmt: skip
        added = db.execute(f"INSERT OR IGNORE INTO messages VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        rows = [(one.id, message.sink, one.alert.key, message.id) for one in message.news]
        db.executemany("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", rows)
        return bool(added.rowcount > 0)

    # --- acknowledging

    def acknowledge(self, wanted: str, by: str, until: datetime | None) -> list[str]:
        """Acknowledge what stands under a key, its short id, or a beginning that ends in `/`; the keys it found."""
        with self._whole() as db:
            found = {key: one for key, one in self.standing().items() if _meant(wanted, key)}
            for key, one in found.items():
                body = to_json(replace(one, acked_by=by, acked_until=until))
                db.execute("UPDATE standing SET body = ? WHERE key = ?", (body, key))
        return sorted(found)

    # --- sending

    def open_letters(self, sink: str | None = None) -> list[Letter]:
        """What has not been taken yet, the worst first, then by age."""
        query = (
            f"SELECT {LETTER} FROM messages WHERE state IN (?, ?, ?) AND (? IS NULL OR sink = ?) "  # noqa: S608
            "ORDER BY severity DESC, number"
        )
        return [_letter(row) for row in self._db.execute(query, (*OPEN, sink, sink))]

    def expired(self, since: datetime) -> list[Letter]:
        """What was given up after `since`."""
        query = f"SELECT {LETTER} FROM messages WHERE state = ? AND changed_at > ? ORDER BY number"  # noqa: S608
        return [_letter(row) for row in self._db.execute(query, (EXPIRED, _stamp(since)))]

    def fold(self, now: datetime) -> int:
        """Fold the open messages all of whose conditions have later news on their way to, or at, the same sink."""
        query = """
            UPDATE messages SET state = ?, changed_at = ? WHERE state IN (?, ?, ?) AND NOT EXISTS (
              SELECT 1 FROM members mine WHERE mine.message_id = messages.id AND NOT EXISTS (
                SELECT 1 FROM members theirs JOIN messages later ON later.id = theirs.message_id
                WHERE theirs.key = mine.key AND theirs.sink = mine.sink
                  AND later.number > messages.number AND later.state IN (?, ?, ?, ?)))"""
        with self._whole() as db:
            folded: int = db.execute(query, (FOLDED, _stamp(now), *OPEN, *OPEN, SENT)).rowcount
        return folded

    def expire(self, now: datetime, expire_h: float) -> list[Letter]:
        """Give up what nobody took for `expire_h` hours; returns what that was."""
        border = _stamp(now - timedelta(hours=expire_h))
        with self._whole() as db:
            old = [one for one in self.open_letters() if _stamp(one.created_at) <= border]
            for one in old:
                self._move(db, one.id, EXPIRED, now, one.error)
        return old

    def forget(self, now: datetime) -> None:
        """Drop messages that were done with `KEPT_DAYS` ago."""
        border = _stamp(now - timedelta(days=KEPT_DAYS))
        with self._whole() as db:
            db.execute(
                "DELETE FROM messages WHERE state IN (?, ?, ?) AND changed_at < ?", (SENT, FOLDED, EXPIRED, border)
            )
            db.execute("DELETE FROM members WHERE message_id NOT IN (SELECT id FROM messages)")

    def begin(self, letter: Letter, now: datetime) -> int:
        """The attempt that now begins, from 1; until its end is known the message is unclear."""
        with self._whole() as db:
            db.execute("UPDATE messages SET attempts = attempts + 1 WHERE id = ?", (letter.id,))
            self._move(db, letter.id, UNCLEAR, now, letter.error)
        return letter.attempts + 1

    def finish(self, letter: Letter, state: str, error: str, now: datetime) -> None:
        """What became of an attempt; the next one waits 1, 2, 4, ... minutes, at most an hour."""
        pause = timedelta(minutes=min(2**letter.attempts, PAUSE_MIN_MAX))
        with self._whole() as db:
            db.execute("UPDATE messages SET next_at = ? WHERE id = ?", (_stamp(now + pause), letter.id))
            self._move(db, letter.id, state, now, error)

    @staticmethod
    def _move(db: sqlite3.Connection, message_id: str, state: str, now: datetime, error: str) -> None:
        change = "UPDATE messages SET state = ?, changed_at = ?, error = ? WHERE id = ?"
        db.execute(change, (state, _stamp(now), error, message_id))


def _acked_as(one: Standing, before: Standing | None) -> Standing:
    """`one` with the acknowledgement that is on the disk; one that got worse since has none."""
    if before is None or before.alert.since != one.alert.since or one.worst > before.worst:
        return one
    return replace(one, acked_by=before.acked_by, acked_until=before.acked_until)


def _meant(wanted: str, key: str) -> bool:
    return wanted in (key, short_id(key)) or (wanted.endswith("/") and key.startswith(wanted))


@contextmanager
def opened(root: Path) -> Iterator[Outbox]:
    box = Outbox(outbox_path(root))
    try:
        yield box
    finally:
        box.close()
