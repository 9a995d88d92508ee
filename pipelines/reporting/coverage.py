"""Coverage: when each table of each symbol has rows, and when it is silent, frozen or refused, as rows of boxes.

Drawn by the template as inline SVG; here everything is counted in columns of equal width over the interval.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.schema import CANONICAL, UTC_US, VENUE_WIDE
from pipelines.doctoring.evidence import GAP_STEPS, Evidence, survey
from pipelines.doctoring.frozen import frozen_spells
from pipelines.lake import Lake
from pipelines.reporting import words
from pipelines.times import Interval

COLUMNS = 480  # columns of the plot: two pixels each on a usual screen
ROWS_MAX = 60
TICKS = 6
SERIES = ("venue", "symbol", "table")
HELD = pl.Schema(dict.fromkeys(SERIES, pl.String()) | {"column": pl.Int64(), "rows": pl.Int64()})
SPELLS = pl.Schema(dict.fromkeys((*SERIES, "kind"), pl.String()) | {"first": UTC_US, "last": UTC_US})


@dataclass(frozen=True)
class Coverage:
    """`held`: columns that have rows. `refused`: columns that have refused rows. `spells`: `silent`, `frozen`.
    `steps`: the step of series that come regularly, in seconds.

    A column is the `n`-th part of the interval, `(start + n * width, start + (n + 1) * width]`.
    """

    held: pl.DataFrame
    refused: pl.DataFrame
    spells: pl.DataFrame
    steps: pl.DataFrame


def _width_s(interval: Interval) -> float:
    return (interval.end - interval.start).total_seconds() / COLUMNS


def _column(interval: Interval) -> pl.Expr:
    since_us = (pl.col("ts") - pl.lit(interval.start)).dt.total_microseconds()
    return ((since_us - 1) / (_width_s(interval) * 1e6)).floor().cast(pl.Int64).clip(0, COLUMNS - 1)


def _counted(table: str | None, rows: pl.LazyFrame, interval: Interval) -> pl.DataFrame:
    named = rows if table is None else rows.with_columns(table=pl.lit(table))
    counted = named.group_by(*SERIES, column=_column(interval)).agg(rows=pl.len().cast(pl.Int64))
    return counted.select(HELD.names()).collect(engine="streaming").cast(dict(HELD))  # type: ignore[arg-type]  # a schema is a mapping


def _spells(evidence: Evidence) -> pl.DataFrame:
    silent = evidence.gaps.with_columns(kind=pl.lit("silent")).select(SPELLS.names())
    frozen = frozen_spells(evidence).with_columns(kind=pl.lit("frozen")).select(SPELLS.names())
    return pl.concat([silent, frozen])


def gather_coverage(lake: Lake, venues: tuple[str, ...], interval: Interval) -> Coverage:
    """Rows, refusals, silences (`evidence.survey`) and frozen spells of the canonical tables of `venues`."""
    names = [name for name in CANONICAL if lake.has(name) and {"ts", "symbol"} <= set(CANONICAL[name].column_names())]
    tables = {
        name: lake.scan(name, start=interval.start, end=interval.end).filter(pl.col("venue").is_in(venues))
        for name in names
    }
    inside = (pl.col("ts") > interval.start) & (pl.col("ts") <= interval.end) & pl.col("venue").is_in(venues)
    quarantine = lake.scan("quarantine").filter(inside)
    evidence = survey(tables, lake.scan("instruments").collect(), quarantine)
    held = [_counted(name, rows, interval) for name, rows in tables.items()]
    return Coverage(
        held=pl.concat([pl.DataFrame(schema=HELD), *held]).sort(*SERIES, "column"),
        refused=_counted(None, quarantine, interval).drop_nulls(SERIES).sort(*SERIES, "column"),
        spells=_spells(evidence).sort(*SERIES, "first"),
        steps=evidence.spacings.select(*SERIES, "step_s").drop_nulls(),
    )


def runs(columns: list[int], reach: int = 1) -> Iterator[tuple[int, int]]:
    """Neighbouring columns as `(first, how many)`; neighbours are at most `reach` apart.

    >>> list(runs([3, 4, 5, 9])), list(runs([3, 5, 9], reach=2))
    ([(3, 3), (9, 1)], [(3, 3), (9, 1)])
    """
    start, end = None, 0
    for column in columns:
        if start is not None and column - end > reach:
            yield start, end - start + 1
            start = None
        start, end = column if start is None else start, column
    if start is not None:
        yield start, end - start + 1


def _at(ts: datetime, interval: Interval) -> float:
    """Where `ts` lies between 0 and `COLUMNS`."""
    share = (ts - interval.start) / (interval.end - interval.start)
    return round(COLUMNS * min(max(share, 0.0), 1.0), 2)


def _boxes(rows: pl.DataFrame, reach: int = 1) -> list[dict[str, float]]:
    return [{"x": first, "width": many} for first, many in runs(rows["column"].to_list(), reach)]


def _spans(spells: pl.DataFrame, kind: str, interval: Interval) -> list[dict[str, Any]]:
    spans = []
    for first, last in spells.filter(pl.col("kind") == kind).select("first", "last").iter_rows():
        start, end = _at(first, interval), _at(last, interval)
        said = f"{kind} from {words.moment(first, seconds=True)} to {words.until(first, last, seconds=True)}"
        spans.append({"x": start, "width": max(round(end - start, 2), 1.0), "said": said})
    return spans


def _row(key: tuple[str, str, str], coverage: Coverage, interval: Interval) -> dict[str, Any]:
    venue, symbol, table = key
    mine = pl.all_horizontal(pl.col(name) == value for name, value in zip(SERIES, key, strict=True))
    whole = (pl.col("venue") == venue) & (pl.col("symbol") == VENUE_WIDE) & (pl.col("table") == table)
    held, refused = coverage.held.filter(mine), coverage.refused.filter(mine)
    spells = coverage.spells.filter(mine | whole)
    steps = coverage.steps.filter(mine)["step_s"].to_list()  # none for a series that does not come regularly
    reach = max([1, *(math.ceil(GAP_STEPS * step_s / _width_s(interval)) for step_s in steps)])
    silent, frozen = (_spans(spells, kind, interval) for kind in ("silent", "frozen"))
    counts = [words.plural(int(held["rows"].sum()), "row")]
    counts += [f"{words.whole(int(refused['rows'].sum()))} refused"] * bool(refused.height)
    counts += [f"{len(silent)} silent"] * bool(silent) + [f"{len(frozen)} frozen"] * bool(frozen)
    return {
        "venue": venue, "symbol": symbol, "table": words.spaced(table, {}), "said": ", ".join(counts),
        "held": _boxes(held, reach), "refused": _boxes(refused), "silent": silent, "frozen": frozen,
    }  # fmt: skip


def _ticks(interval: Interval) -> list[dict[str, Any]]:
    """Evenly spaced moments; with the date where the interval is longer than two days."""
    span = interval.end - interval.start
    form = "%Y-%m-%d" if span > timedelta(days=2) else "%H:%MZ"
    return [
        {"x": round(COLUMNS * nth / TICKS, 2), "text": (interval.start + span * nth / TICKS).strftime(form)}
        for nth in range(TICKS + 1)
    ]


def coverage_view(coverage: Coverage, interval: Interval) -> dict[str, Any]:
    """Rows of the plot by venue, symbol and table. Where there are too many, those without a fault go first."""
    every = pl.concat([coverage.held.select(SERIES), coverage.refused.select(SERIES)]).unique().sort(SERIES)
    seen = pl.concat([coverage.refused.select(SERIES), coverage.spells.select(SERIES)]).unique()
    marked = every.join(seen, on=SERIES, how="semi", maintain_order="left")
    plain = every.join(seen, on=SERIES, how="anti", maintain_order="left")
    kept = pl.concat([marked, plain]).head(ROWS_MAX).sort(SERIES)
    return {
        "rows": [_row(key, coverage, interval) for key in kept.iter_rows()],
        "left_out": every.height - kept.height,
        "ticks": _ticks(interval),
        "columns": COLUMNS,
    }
