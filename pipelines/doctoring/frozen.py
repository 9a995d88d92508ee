"""Frozen feeds: the same value again and again where it used to change."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import Severity, clock, finding, findings, lasting

# What is read of each table, and what orders rows of one stamp. Funding is left out (a rate rests at its clamp for
# days), trades too (equal prices are normal).
WATCHED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "open_interest": (("oi_base", "oi_usd"), ()),
    "marks": (("mark", "index", "last"), ()),
    "quotes": (("bid", "bid_qty", "ask", "ask_qty"), ("seq",)),
}
CHANCE = 1e-6  # how likely a run this long may be, over the whole series, if each reading changed by itself
READINGS_MIN = 5
LASTS_S_MIN = 60.0  # nothing that lasts less than a bar is called frozen
RUNS = pl.Schema({"first": pl.Datetime("us", "UTC"), "last": pl.Datetime("us", "UTC"), "readings": pl.Int64()})
SPELLS = pl.Schema(
    {name: pl.String() for name in ("table", "venue", "symbol", "of")} | dict(RUNS) | {"change": pl.Float64()}
)


def readings_min(readings: int, change: float) -> int:
    """How many equal readings in a row are too many: `readings * (1 - change) ** n <= CHANCE`, at least 5.

    `change` is the share of readings that change.

    >>> readings_min(10_000, 0.99), readings_min(10_000, 0.5), readings_min(10_000, 0.01)
    (6, 34, 2292)
    """
    still = min(max(1 - change, 1 / readings), 1 - 1 / readings)
    return max(READINGS_MIN, math.ceil(math.log(CHANCE / readings) / math.log(still)))


def _changes(pieces: Iterator[pl.DataFrame], columns: Sequence[str]) -> tuple[pl.DataFrame, int, int]:
    """Runs of at least `READINGS_MIN` equal readings, the number of readings, and of changes.

    A run is `(first, last)`, the stamps of its first and last reading.
    """
    runs, readings, changes = [pl.DataFrame(schema=RUNS)], 0, 0
    held = pl.DataFrame(schema={"ts": RUNS["first"], "nth": pl.Int64()})  # where the run that is still open began
    last: pl.DataFrame | None = None
    for piece in pieces:
        offset = readings - 1 if readings else 0
        changed = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in columns)
        first = pl.int_range(pl.len()) == 0
        numbered = piece.select("ts", nth=pl.int_range(pl.len(), dtype=pl.Int64) + offset,
                                changed=(changed & ~first) | (first & pl.lit(readings == 0)),
                                before=pl.col("ts").shift())  # fmt: skip
        starts = pl.concat([held.with_columns(before=pl.lit(None, RUNS["first"])),
                            numbered.filter("changed").select("ts", "nth", "before")])  # fmt: skip
        runs.append(_long(starts))
        changes += int(numbered["changed"].sum())
        readings = offset + piece.height
        held, last = starts.tail(1).select("ts", "nth"), piece.tail(1)
    if last is not None:
        end = pl.DataFrame(
            {"ts": [None], "nth": [readings], "before": last["ts"]}, schema_overrides={"ts": RUNS["first"]}
        )
        runs.append(_long(pl.concat([held.with_columns(before=pl.lit(None, RUNS["first"])), end])))
    return pl.concat(runs), readings, changes - 1 if changes else 0


def _long(starts: pl.DataFrame) -> pl.DataFrame:
    """Runs between neighbouring starts that hold at least `READINGS_MIN` readings."""
    pairs = starts.select(first="ts", last=pl.col("before").shift(-1), readings=pl.col("nth").shift(-1) - pl.col("nth"))
    return pairs.filter(pl.col("readings") >= READINGS_MIN)


def _frozen(pieces: Iterator[pl.DataFrame], columns: Sequence[str]) -> pl.DataFrame:
    """Runs that chance does not explain and that last a minute or more, and `change`, the share that changes.

    The share is that outside the runs: a feed that is frozen half the day did not use to change half the time.
    """
    runs, readings, changes = _changes(pieces, columns)
    lasts = pl.col("last") - pl.col("first") >= pl.duration(seconds=LASTS_S_MIN)
    outside = readings - 1 - int((runs["readings"] - 1).sum())
    change = changes / max(outside, 1)
    long = runs.filter(pl.col("readings") >= readings_min(max(readings, 2), change), lasts)
    return long.with_columns(change=pl.lit(change))


def _spells(evidence: Evidence, table: str, key: tuple[str, str]) -> Iterator[tuple[str, pl.DataFrame]]:
    """What was watched of a series, and its frozen spells."""
    if table != "book_depth":
        columns, then = WATCHED[table]
        yield ", ".join(columns), _frozen(evidence.pieces(table, key, ["ts", *columns, *then], then=then), columns)
        return
    mine = evidence.tables[table].filter(pl.col("venue") == key[0], pl.col("symbol") == key[1])
    narrowest = mine.select(pl.col("band_bps").min()).collect(engine="streaming").item()
    for side in ("bid", "ask"):
        where = (pl.col("band_bps") == narrowest) & (pl.col("side") == side)
        pieces = evidence.pieces(table, key, ["ts", "depth_usd"], where=where)
        yield f"{side} depth within {narrowest} bps", _frozen(pieces, ["depth_usd"])


def frozen_spells(evidence: Evidence) -> pl.DataFrame:
    """Runs of equal readings that chance does not explain (`readings_min`) and that last a minute or more, one a row.

    Read: `open_interest`, `marks`, `quotes` (price and size on both sides) and, side by side, the narrowest band of
    `book_depth`.
    """
    found = [pl.DataFrame(schema=SPELLS)]
    for table in (*WATCHED, "book_depth"):
        for key in evidence.series(table):
            for of, long in _spells(evidence, table, key):
                named = {"table": table, "venue": key[0], "symbol": key[1], "of": of}
                found.append(long.with_columns(pl.lit(value).alias(name) for name, value in named.items()))
    return pl.concat([spells.select(SPELLS.names()) for spells in found])


def _finding(long: pl.DataFrame, *, alone: bool) -> dict[str, Any]:
    """About the spells of one series; `alone`: of one side of the book while the other moves on."""
    worst = long.sort("readings", "first").row(-1, named=True)
    lasted = lasting((worst["last"] - worst["first"]).total_seconds())
    what = (
        f"{worst['of']} stood still for {worst['readings']:,} readings, {lasted} from {clock(worst['first'])} to "
        f"{clock(worst['last'])}, where {100 * worst['change']:.0f} % of the others change"
    )
    what += f"; {long.height:,} such spells, the first at {clock(long['first'].min())}" if long.height > 1 else ""
    what += "; the other side moves on" if alone else ""
    check = "anchored book" if alone else "frozen feed"
    severity: Severity = "defect" if alone else "suspicion"
    span, rows = (long["first"].min(), long["last"].max()), int(long["readings"].sum())
    key, mend = (worst["venue"], worst["symbol"]), "treat the value as stale from the first of them on"
    return finding(severity, check, worst["table"], key, span, rows=rows, what=what, mend=mend)


def frozen_feeds(evidence: Evidence) -> pl.DataFrame:
    """`frozen_spells`, one finding per series (of `book_depth`: per side).

    A defect where one side of the depth stands still and the other does not: it is anchored on a level that no longer
    follows the market, such as a bid left far above it. Blind to a feed that always repeats itself, to one that is
    frozen but for noise, and to a ghost whose size changes.
    """
    rows = []
    for series in frozen_spells(evidence).partition_by("table", "venue", "symbol", maintain_order=True):
        alone = series["table"][0] == "book_depth" and series["of"].n_unique() == 1
        rows += [_finding(long, alone=alone) for long in series.partition_by("of", maintain_order=True)]
    return findings(rows)
