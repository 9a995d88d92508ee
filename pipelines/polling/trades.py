"""Which trades of a page are new, whether the pages reach back to what is known, and how far they have come."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Trade = Mapping[str, Any]
KEPT = ("id", "timestamp", "side", "price", "amount")
OVERLAP_MS = 60_000  # a venue may publish a trade this much later than its stamp; where ids are no numbers


@dataclass(frozen=True)
class Cursor:
    """The newest trade that is known. `recent`: the known `(id, ts_ms)` up to OVERLAP_MS before it.

    Where every id is a number nothing but the largest is needed, and `recent` is empty.
    """

    id: str
    ts_ms: int
    recent: tuple[tuple[str, int], ...] = ()

    def unknown(self, page: Iterable[Trade]) -> list[Trade]:
        """The trades of `page` that are not known: larger numbers, else ids not seen and not older than the overlap.

        A trade that is later than the newest known one by more than the overlap is new whatever its number: a venue
        may begin to count again.
        """
        known, number = {name for name, _ in self.recent}, _number(self.id)

        def is_new(trade: Trade) -> bool:
            its, late_ms = _number(trade["id"]), int(trade["timestamp"] or self.ts_ms) - self.ts_ms
            if late_ms > OVERLAP_MS:
                return True
            if number is not None and its is not None:
                return its > number
            return trade["id"] not in known and late_ms >= -OVERLAP_MS

        return [trade for trade in page if is_new(trade)]

    def reached(self, page: Sequence[Trade]) -> bool:
        """Whether nothing can lie between the known trades and `page`, a run of trades without holes, in any order.

        ids that are numbers: min(id) <= id + 1. Others, and numbers that began again: a known id is there, or a trade
        before the newest known one.
        """
        number, its = _number(self.id), [_number(trade["id"]) for trade in page]
        numbers = [one for one in its if one is not None]
        if number is not None and numbers and len(numbers) == len(its) and not self._again(number, numbers, page):
            return min(numbers) <= number + 1
        known = {self.id, *(name for name, _ in self.recent)}
        return any(trade["id"] in known or int(trade["timestamp"] or self.ts_ms) < self.ts_ms for trade in page)

    def _again(self, number: int, numbers: Sequence[int], page: Sequence[Trade]) -> bool:
        """Whether the venue has begun to count again: smaller numbers at later times."""
        latest = max(int(trade["timestamp"] or 0) for trade in page)
        return max(numbers) < number and latest > self.ts_ms + OVERLAP_MS


def moved(cursor: Cursor | None, page: Iterable[Trade]) -> Cursor | None:
    """The cursor after `page`, in whatever order pages come; trades without id or stamp move nothing."""
    stamps = {} if cursor is None else {**dict(cursor.recent), cursor.id: cursor.ts_ms}
    stamps |= {str(trade["id"]): int(trade["timestamp"]) for trade in page if trade["id"] and trade["timestamp"]}
    if not stamps:
        return None
    last_ms = max(stamps.values())
    recent = {name: ts_ms for name, ts_ms in stamps.items() if ts_ms >= last_ms - OVERLAP_MS}
    if all(_number(name) is not None for name in recent):
        return Cursor(max(recent, key=int), last_ms)
    last = max(recent, key=lambda name: (recent[name], name))
    return Cursor(last, last_ms, tuple(sorted(recent.items())))


def kept(trade: Trade) -> dict[str, Any]:
    """The part of ccxt's trade that says something; the rest follows from it, or is null for public trades."""
    return {name: trade.get(name) for name in KEPT}


def oldest(page: Sequence[Trade]) -> Trade | None:
    """The trade before which an earlier page ends: the smallest number, else the earliest; None without any."""
    numbered = [trade for trade in page if _number(trade["id"]) is not None]
    if numbered and len(numbered) == len(page):
        return min(numbered, key=lambda trade: int(trade["id"]))
    return min(page, key=lambda trade: int(trade["timestamp"] or 0), default=None)


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 19 else None
