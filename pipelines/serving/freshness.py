"""How old the data is, venue by venue: quiet while it is fresh, loud when it is not."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pipelines.reporting import words
from pipelines.serving.standing import Standing


def age(span: timedelta) -> str:
    """
    >>> [age(timedelta(minutes=minutes)) for minutes in (0.4, 14, 185, 2 * 1440 + 60)]
    ['less than a minute', '14 min', '3 h 5 min', '2 days']
    """
    minutes = int(span / timedelta(minutes=1))
    if minutes < 1:
        return "less than a minute"
    if minutes >= 2 * 1440:
        return words.plural(minutes // 1440, "day")
    return words.duration(60.0 * minutes)


def freshness(standing: Standing, now: datetime, stale_min: int, venue: str = "") -> dict[str, Any]:
    """How old the data of `venue` is ("": of all): `headline` where it is stale, `lines` of what else one must know.

    `newest`: the newest minute. A clock that lags behind the data counts as fresh.
    """
    chosen = [name for name in standing.venues if venue in ("", name)]
    kinds = (("scores", "score", standing.scored), ("limits", "guard", standing.guarded))
    late = [
        row
        for name in chosen
        for what, command, ends in kinds
        if (row := _late(f"{what} of {name}", command, ends.get(name), now, stale_min)) is not None
    ]
    oldest = max((row["age"] for row in late if row["age"] is not None), default=None)
    known = [ends[name] for _, _, ends in kinds for name in chosen if name in ends]
    return {
        "newest": words.moment(max(known, default=None)),
        "headline": f"data is {age(oldest)} old" if oldest is not None else "",
        "lines": [row["said"] for row in late] + _expired(standing, now, chosen),
    }


def _late(what: str, command: str, end: datetime | None, now: datetime, stale_min: int) -> dict[str, Any] | None:
    if end is None:
        return {"age": None, "said": f"There are no {what}: run `cascadeguard {command}`."}
    old = now - end
    if old <= timedelta(minutes=stale_min):
        return None
    return {"age": old, "said": f"{what[0].upper()}{what[1:]} end at {words.moment(end)}, {age(old)} ago."}


def _expired(standing: Standing, now: datetime, chosen: list[str]) -> list[str]:
    rows = (
        standing.last_limits.filter(pl.col("venue").is_in(chosen))
        .group_by("venue")
        .max()
        .sort("venue")
        .select("venue", "expires_at")
        .iter_rows()
    )
    return [
        f"Limits of {venue} expired at {words.moment(end)}; they may not be relied on."
        for venue, end in rows
        if end is not None and end < now
    ]
