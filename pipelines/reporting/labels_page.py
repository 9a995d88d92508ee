"""The cascades of the past as one self-contained HTML page: price and open interest around each onset, in SVG."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib import resources
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.reporting import words

SHOWN_MAX = 60  # events with a drawing, the most severe; the table holds all
WIDE, HIGH, LEFT, TOP = 520, 150, 8, 14
POINTS_MAX = 260  # of a line
LINES = (("price", "close", "#1f5f8b"), ("open interest in coins", "oi_base", "#c62f3b"))


def _percent(values: Sequence[float | None], base: float) -> list[float | None]:
    return [None if value is None else 100 * (value / base - 1) for value in values]


def line(x: Sequence[float], y: Sequence[float | None], low: float, high: float) -> str:
    """The path of `y` over `x` (shares of the width), broken where a value is missing."""
    scale = (HIGH - 2 * TOP) / (high - low)
    steps, broken = [], True
    for at, value in zip(x, y, strict=True):  # at most POINTS_MAX
        if value is not None:
            steps.append(
                f"{'M' if broken else 'L'}{LEFT + at * (WIDE - 2 * LEFT):.1f} {TOP + (high - value) * scale:.1f}"
            )
        broken = value is None
    return "".join(steps)


def _thinned(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.gather_every(-(-bars.height // POINTS_MAX)) if bars.height else bars


def drawing(bars: pl.DataFrame, event: Mapping[str, Any], before: timedelta) -> dict[str, Any]:
    """Both lines in percent of their value at the onset, the event shaded. `bars`: `ts, close, oi_base`, sorted."""
    start, end = event["onset"] - before, event["end"] + before
    at_onset = bars.filter(pl.col("ts") <= event["onset"])
    told = _thinned(bars)
    x = [(ts - start) / (end - start) for ts in told["ts"]]
    series: list[dict[str, Any]] = []
    for name, column, colour in LINES:
        base = at_onset[column].drop_nulls()[-1:].to_list()
        if base and base[0] > 0:
            series.append({"name": name, "colour": colour, "y": _percent(told[column].to_list(), base[0])})
    known = [value for one in series for value in one["y"] if value is not None]
    low, high = min([*known, -0.1]), max([*known, 0.1])
    for one in series:
        one["path"] = line(x, one.pop("y"), low, high)
    return {
        "series": series, "low": f"{low:+.1f} %", "high": f"{high:+.1f} %",
        "zero": round(TOP + high * (HIGH - 2 * TOP) / (high - low), 1),
        "onset_x": _place(event["onset"], start, end),
        "wide_x": round(max(_place(event["end"], start, end) - _place(event["onset"], start, end), 1.5), 1),
        "from": words.moment(start), "to": words.moment(end),
    }  # fmt: skip


def _place(ts: datetime, start: datetime, end: datetime) -> float:
    return round(LEFT + (ts - start) / (end - start) * (WIDE - 2 * LEFT), 1)


def _row(number: int, event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number, "symbol": event["symbol"], "onset": words.moment(event["onset"]),
        "end": words.until(event["onset"], event["end"]), "severity": f"{event['severity']:.2f}",
        "cluster": event["cluster"], "symbols": event["symbols"],
    }  # fmt: skip


def render_labels(
    events: pl.DataFrame, bars: Mapping[int, pl.DataFrame], *, headline: str, definition: str, before: timedelta
) -> str:
    """The page as text. `events`: as `clusters` gives them, by onset; `bars`: by the number of the event, from 0."""
    rows = [_row(number, event) for number, event in enumerate(events.to_dicts())]
    drawn = [
        rows[number] | drawing(bars[number], event, before)
        for number, event in enumerate(events.to_dicts())
        if number in bars
    ]
    style = resources.files("pipelines").joinpath("templates", "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("labels.html.j2").render(
        headline=headline, definition=definition, rows=rows, drawn=drawn, style=style, wide=WIDE, high=HIGH, top=TOP,
        clusters=events["cluster"].n_unique() - (events["cluster"].null_count() > 0), lines=LINES,
        hours=f"{before.total_seconds() / 3600:g}",
    )  # fmt: skip
