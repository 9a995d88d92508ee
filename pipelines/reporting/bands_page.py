"""The page of `bands`: prices, times and reasons per venue, one self-contained HTML file."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from pipelines.reporting.page import json_for_html, script_hash
from pipelines.reporting.timeline import FONT, GRID, INK, MUTED, shown

Figure: TypeAlias = dict[str, Any]
Rows: TypeAlias = Sequence[Mapping[str, Any]]

ROW_PX, AROUND_PX = 46, 110
SECONDS_MIN = 0.5  # the time axis is logarithmic: what is faster is drawn here
TICKS_S = {1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3_600: "1 h", 21_600: "6 h", 86_400: "1 d",
           604_800: "1 wk", 2_592_000: "30 d", 31_536_000: "1 y"}  # fmt: skip
PART_COLOURS = {"tiers": "#1f5f8b", "mark": "#e07b00", "path": "#c62f3b", "fees": "#8a5a3c"}
PART_WORDS = {"tiers": "maintenance tiers", "mark": "mark rule and latency", "path": "path and buffer", "fees": "fees"}


def render(summary: Mapping[str, Any]) -> str:
    """The page as text; the same summary gives the same bytes."""
    rows = summary["profiles"]
    figures = [price_figure(rows, summary), time_figure(rows)]
    figures += [why_figure(summary["why"])] if any(row["parts"] for row in summary["why"]) else []
    folder = resources.files("pipelines").joinpath("templates")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "plots.js"))
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"price": _price, "seconds": duration, "signed": _signed}
    plotly = get_plotlyjs()
    return environment.get_template("bands.html.j2").render(
        it=summary, figures=json_for_html(figures), heights=[figure["layout"]["height"] for figure in figures],
        parts=PART_WORDS, colours=PART_COLOURS, style=style, script=script, plotly=plotly,
        script_sources=" ".join(script_hash(text) for text in (plotly, script)),
    )  # fmt: skip


def price_figure(rows: Rows, summary: Mapping[str, Any]) -> Figure:
    """Per venue the way from maintenance pressure to bankruptcy, with the mark, the market and the exit on it."""
    tripped = [row for row in rows if row["liquidation_price"] is not None]
    names = [shown(row["profile"]) for row in tripped]
    band = {
        "type": "bar", "orientation": "h", "name": "pressure to bankruptcy", "y": names, "width": 0.34,
        "base": [row["pressure_price"] for row in tripped], "marker": {"color": "#f3c9bd"},
        "x": [row["bankruptcy_price"] - row["pressure_price"] for row in tripped],
        "hovertemplate": "%{base:,.2f} to %{x:,.2f}<extra>pressure to bankruptcy</extra>",
    }  # fmt: skip
    marks = [
        _points("liquidation (mark)", names, [row["liquidation_price"] for row in tripped], "line-ns-open", "#b3261e"),
        _points("market when the mark is there", names, [row["market_price"] for row in tripped], "circle", "#1f5f8b"),
        _points("exit, all costs in", names, [row["exit_price"] for row in tripped], "diamond", "#2b2f36"),
    ]
    figure = _figure([band, *marks], len(tripped), {"title": {"text": "price, USD"}, "tickformat": ",~f"})
    figure["layout"]["shapes"] = [
        {"type": "line", "x0": summary["mark_price"], "x1": summary["mark_price"], "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": MUTED, "dash": "dot", "width": 1}}
    ]  # fmt: skip
    figure["layout"]["annotations"] = [
        {"x": summary["mark_price"], "y": 0, "yref": "paper", "yanchor": "bottom", "text": "mark now",
         "showarrow": False, "font": {"size": 11, "color": MUTED}}
    ]  # fmt: skip
    return figure


def time_figure(rows: Rows) -> Figure:
    """Per venue when the mark may touch the liquidation price, and how long the reduction then takes; log seconds."""
    tripped = [row for row in rows if row["liquidation_price"] is not None]
    names = [shown(row["profile"]) for row in tripped]
    traces = [
        _span("to bankruptcy, 5 to 50 %", names, [row["time_to_bankruptcy_s"] for row in tripped], "#e3e6eb", 0.5),
        _span("to liquidation, 5 to 50 %", names, [row["time_to_touch_s"] for row in tripped], "#f4914e", 0.26),
        _points("25 %", names, [_drawn(row["time_to_touch_s"]["q25"]) for row in tripped], "line-ns-open", INK),
        _points("all closed after", names, [_drawn(row["completion_s"]) for row in tripped], "diamond", "#1f5f8b"),
    ]
    ticks = {"type": "log", "tickvals": list(TICKS_S), "ticktext": list(TICKS_S.values())}
    return _figure(traces, len(tripped), {**ticks, "title": {"text": "seconds, logarithmic"}})


def why_figure(reasons: Rows) -> Figure:
    """What each part of the rules does to the exit price, per venue against the first."""
    known = [row for row in reasons if row["parts"]]
    names = [shown(row["profile"]) for row in known]
    bars = [
        {"type": "bar", "orientation": "h", "name": words, "y": names, "x": [row["parts"][part] for row in known],
         "marker": {"color": PART_COLOURS[part]},
         "hovertemplate": "%{x:+,.2f} USD per unit<extra>" + words + "</extra>"}
        for part, words in PART_WORDS.items()
    ]  # fmt: skip
    total = _points("together", names, [row["price"] for row in known], "diamond", "#2b2f36")
    axis = {"title": {"text": "USD per unit, right: a better exit price"}, "zeroline": True, "zerolinecolor": MUTED}
    figure = _figure([*bars, total], len(known), axis)
    figure["layout"]["barmode"] = "relative"
    return figure


def _points(name: str, names: list[str], x: list[Any], symbol: str, colour: str) -> Figure:
    marker = {"symbol": symbol, "size": 18 if symbol.startswith("line") else 9, "color": colour,
              "line": {"width": 3 if symbol.startswith("line") else 0, "color": colour}}  # fmt: skip
    return {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": names, "marker": marker}


def _span(name: str, names: list[str], times: list[Mapping[str, float]], colour: str, width: float) -> Figure:
    """A bar from the 5 % to the 50 % quantile."""
    start = [_drawn(time["q05"]) for time in times]
    length = [max(_drawn(time["q50"]) - first, 0.05) for time, first in zip(times, start, strict=True)]
    return {"type": "bar", "orientation": "h", "name": name, "y": names, "base": start, "x": length, "width": width,
            "marker": {"color": colour}, "hoverinfo": "name+y"}  # fmt: skip


def _drawn(seconds: float) -> float:
    return max(seconds, SECONDS_MIN)


def _figure(traces: list[Figure], rows: int, xaxis: Mapping[str, Any]) -> Figure:
    layout = {
        "height": AROUND_PX + ROW_PX * rows, "barmode": "overlay", "margin": {"l": 110, "r": 24, "t": 40, "b": 48},
        "font": {"family": FONT, "size": 12, "color": INK}, "plot_bgcolor": "#fff", "paper_bgcolor": "#fff",
        "xaxis": {"gridcolor": GRID, "zeroline": False, "automargin": True, **xaxis},
        "yaxis": {"autorange": "reversed", "type": "category", "fixedrange": True},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _price(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+,.2f}".replace("-", "−")


def duration(value: float | None) -> str:
    """Seconds as a person says them.

    >>> [duration(value) for value in (None, 0.0, 58.3, 5_131.0, 43_325.0, 2.6e6)]
    ['–', '0 s', '58 s', '86 min', '12.0 h', '30.1 d']
    """
    if value is None or not math.isfinite(value):
        return "–"
    for unit, name, places in ((172_800, "d", 1), (7_200, "h", 1), (120, "min", 0)):
        if value >= unit:
            return f"{value / {'d': 86_400, 'h': 3_600, 'min': 60}[name]:,.{places}f} {name}"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
