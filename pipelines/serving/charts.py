"""Lines over time as SVG, made here: no script draws them, so they stand in print, in the dark and without JavaScript.

A plot is a plain value that `templates/charts.html.j2` writes; colours are classes, which the style sheet fills.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from pipelines.times import Interval

WIDTH, HEIGHT = 960, 150
TOP, BOTTOM = 14, 22  # labels of the time axis stand below the lines; those of the values on their grid lines
EDGE = 0.025  # of the width; a label nearer to an edge would be cut off
Y_TICKS = 4
X_TICKS_MAX = 8
X_STEPS_H = (1, 2, 3, 6, 12, 24, 48)
HEADROOM = 0.06  # of the span, above and below the lines


@dataclass(frozen=True)
class Line:
    """One line: `column` of the frame; `css` is its class; `step` holds a value until the next one."""

    column: str
    name: str
    css: str
    step: bool = False


@dataclass(frozen=True)
class Scale:
    """From values to pixels: `low` stands at the bottom, `high` at the top."""

    interval: Interval
    low: float
    high: float

    def x(self) -> pl.Expr:
        width_us = (self.interval.end - self.interval.start) / timedelta(microseconds=1)
        since_us = (pl.col("ts") - pl.lit(self.interval.start)).dt.total_microseconds()
        return (WIDTH * since_us / width_us).round(1)

    def x_at(self, ts: datetime) -> float:
        share = (ts - self.interval.start) / (self.interval.end - self.interval.start)
        return round(WIDTH * min(max(share, 0.0), 1.0), 1)

    def y(self, value: pl.Expr) -> pl.Expr:
        return (TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)).round(1)

    def y_at(self, value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low), 1)


def nice_ticks(low: float, high: float, count: int = Y_TICKS) -> list[float]:
    """About `count` round numbers within [low, high].

    >>> nice_ticks(0.0, 10.0), nice_ticks(0.13, 0.31)
    ([0.0, 5.0, 10.0], [0.15, 0.2, 0.25, 0.3])
    """
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    digits = max(0, 1 - math.floor(math.log10(step)))
    first = math.ceil(low / step - 1e-9)
    return [round(step * place, digits) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def bounds(rows: pl.DataFrame, columns: Sequence[str], *, zero: bool) -> tuple[float, float] | None:
    """The span of the axis: of all values, with headroom, from 0 on where `zero`; None where there is no value."""
    values = [rows[name].drop_nulls() for name in columns]
    known = [(float(part.min()), float(part.max())) for part in values if part.len()]  # type: ignore[arg-type]  # numbers
    if not known:
        return None
    low, high = min(first for first, _ in known), max(last for _, last in known)
    low = min(low, 0.0) if zero else low
    room = HEADROOM * (high - low) or abs(high) * 0.01 or 1.0
    return (low if zero and low == 0 else low - room), high + room


def path(rows: pl.DataFrame, line: Line, scale: Scale) -> str:
    """The line as path data; it breaks where a value is missing."""
    points = rows.select(x=scale.x(), y=scale.y(pl.col(line.column)))
    pen = pl.when(pl.col("y").shift(1).is_null()).then(pl.lit("M")).otherwise(pl.lit("L"))
    across = pl.format("L{} {}", "x", pl.col("y").shift(1)) if line.step else pl.lit("")
    drawn = pl.concat_str(pl.when(pen == "L").then(across).otherwise(pl.lit("")), pen, pl.format("{} {}", "x", "y"))
    return str(points.select(drawn).drop_nulls().to_series().str.join("").item())


def area(rows: pl.DataFrame, low: str, high: str, scale: Scale) -> str:
    """The band between two columns as path data, of the rows that hold both."""
    points = rows.select(x=scale.x(), low=scale.y(pl.col(low)), high=scale.y(pl.col(high)), ts="ts").drop_nulls()
    runs = (points["ts"].diff() > timedelta(minutes=5)).fill_null(value=False).cum_sum()
    return "".join(_ring(part) for part in points.with_columns(run=runs).partition_by("run", maintain_order=True))


def _ring(part: pl.DataFrame) -> str:
    there = part.select(pl.format("{} {}", "x", "high")).to_series().str.join("L").item()
    back = part.reverse().select(pl.format("{} {}", "x", "low")).to_series().str.join("L").item()
    return f"M{there}L{back}Z" if part.height else ""


def x_ticks(scale: Scale) -> list[dict[str, Any]]:
    """Full hours, few enough to stand apart; with the date at midnight and on the first."""
    hours = (scale.interval.end - scale.interval.start) / timedelta(hours=1)
    step = next((step for step in X_STEPS_H if hours / step <= X_TICKS_MAX), X_STEPS_H[-1])
    first = scale.interval.start.replace(minute=0, second=0, microsecond=0)
    moments = (first + timedelta(hours=n) for n in range(int(hours) + 2))
    shown = [m for m in moments if scale.interval.start <= m <= scale.interval.end and m.hour % min(step, 24) == 0]
    placed = [(scale.x_at(m), m) for m in shown]
    return [
        {"x": x, "at": round(100 * x / WIDTH, 2), "text": m.strftime("%H:%M") if m.hour else m.strftime("%d %b")}
        for x, m in placed
        if EDGE < x / WIDTH < 1 - EDGE
    ]


def plot(
    title: str,
    rows: pl.DataFrame,
    interval: Interval,
    lines: Sequence[Line],
    said: Any,
    *,
    zero: bool = False,
    band: tuple[str, str, str] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One plot of the columns of `rows` (sorted by `ts`) over `interval`.

    `said` writes a value of the axis and the legend; `band`: low and high column, and its name. A plot without a
    value is `drawn` False, and `note` says why.
    """
    columns = [line.column for line in lines] + ([*band[:2]] if band else [])
    span = bounds(rows, columns, zero=zero)
    if span is None:
        return {"title": title, "drawn": False, "note": note}
    scale = Scale(interval, *span)
    known = [line for line in lines if rows[line.column].drop_nulls().len()]
    shaded = area(rows, band[0], band[1], scale) if band else ""
    return {
        "title": title, "drawn": True, "note": "",
        "lines": [{"path": path(rows, line, scale), "css": line.css} for line in known],
        "legend": [{"name": line.name, "css": line.css, "last": said(_last(rows, line.column))} for line in known],
        "band": shaded, "band_name": band[2] if band and shaded else "",
        "y_ticks": [{"y": scale.y_at(value), "text": said(value).removesuffix(".00")} for value in nice_ticks(*span)],
        "x_ticks": x_ticks(scale),
        "said": ", ".join(f"{line.name} {said(_last(rows, line.column))}" for line in known),
    }  # fmt: skip


def _last(rows: pl.DataFrame, column: str) -> float | None:
    value = rows[column].drop_nulls().tail(1)
    return float(value.item()) if value.len() else None


def spans(rows: pl.DataFrame, of: str, interval: Interval, step: timedelta) -> list[dict[str, Any]]:
    """Neighbouring minutes with the same value of `of` as boxes `x, width, value`; nothing where it is null."""
    scale = Scale(interval, 0.0, 1.0)
    changed = (pl.col(of).ne_missing(pl.col(of).shift(1))) | (pl.col("ts").diff() > 2 * step)
    runs = rows.with_columns(run=changed.fill_null(value=True).cum_sum()).group_by("run", maintain_order=True)
    told = runs.agg(pl.col(of).first(), first=pl.col("ts").first(), last=pl.col("ts").last()).drop_nulls(of)
    return [
        {"x": (x := scale.x_at(row["first"] - step)), "width": round(max(scale.x_at(row["last"]) - x, 0.8), 1),
         "value": row[of], "first": row["first"], "last": row["last"]}
        for row in told.to_dicts()
    ]  # fmt: skip
