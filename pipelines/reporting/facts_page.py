"""The page that holds the simulator against real markets: a table, three curves, and a plot for every fact."""

from importlib import resources
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from models.facts import WITHIN
from pipelines.reporting.page import json_for_html, script_hash
from pipelines.reporting.timeline import FONT, GRID, INK, PALETTE, Figure, packed, shown

REAL, SIMULATED = PALETTE[0], PALETTE[1]
CURVE_TITLES = {
    "volatility_acf": (
        "Volatility clustering",
        "Autocorrelation of |5 min return| by lag; real: 5 to 95 % and median.",
    ),
    "funding_acf": ("Funding", "Autocorrelation of the 8 h funding rate by lag; real: 5 to 95 % and median."),
    "cluster_sizes": (
        "Clusters of liquidations",
        "Share of clusters with more than so many orders, a line per symbol.",
    ),
}
CURVE_AXES = {"volatility_acf": "lag, 5 min", "funding_acf": "lag, 8 h", "cluster_sizes": "orders"}


def _number(value: float | None) -> str:
    """
    >>> [_number(value) for value in (None, 0.0, 0.0712, -2.6, 125.2, 1078.06)]
    ['–', '0', '0.0712', '-2.6', '125', '1,080']
    """
    if value is None:
        return "–"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{_number(low)} to {_number(high)}"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    judged = row["real_low"] is not None and row["simulated"] is not None
    return {
        "name": _spaced(row["fact"]), "says": row["says"], "real": _number(row["real_median"]),
        "band": _between(row["real_low"], row["real_high"]), "real_n": row["real_n"],
        "real_from": row["real_from"] or "–", "simulated": _number(row["simulated"]),
        "spread": _between(row["simulated_low"], row["simulated_high"]), "simulated_n": row["simulated_n"],
        "verdict": row["verdict"], "judged": judged, "missed": judged and row["verdict"] != WITHIN,
    }  # fmt: skip


def _layout(**more: Any) -> Figure:
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    layout = {
        "font": {"family": FONT, "size": 12, "color": INK}, "plot_bgcolor": "#fff", "paper_bgcolor": "#fff",
        "margin": {"l": 46, "r": 12, "t": 12, "b": 40}, "showlegend": False, "hovermode": "closest",
    }  # fmt: skip
    axes = {name: axis | more.pop(name, {}) for name in ("xaxis", "yaxis")}
    return layout | axes | more


def _packed(values: pl.Series) -> dict[str, str]:
    return packed(values.to_numpy().astype(np.float32))


def _line(rows: pl.DataFrame, y: str, name: str, colour: str, **more: Any) -> Figure:
    line = {"color": colour, "width": more.pop("width", 2)}
    x = {"x": _packed(rows["x"]), "y": _packed(rows[y])}
    return {"type": "scatter", "mode": "lines", **x, "name": name, "line": line, **more}


def _banded(real: pl.DataFrame, simulated: pl.DataFrame) -> list[Figure]:
    """The real band and median, and the simulated median with the curve of every symbol and window behind it."""
    y = pl.col("y")
    at = real.group_by("x").agg(low=y.quantile(0.05), middle=y.median(), high=y.quantile(0.95)).sort("x")
    drawn = [
        _line(at, "low", "5 %", REAL, width=0.5),
        _line(at, "high", "95 %", REAL, width=0.5, fill="tonexty", fillcolor="rgba(31,95,139,0.15)"),
        _line(at, "middle", "real, median", REAL),
    ]
    here = simulated.group_by("x").agg(y=y.median()).sort("x")
    return [*(drawn if real.height else []), _line(here, "y", "simulated, median", SIMULATED)]


def _each(rows: pl.DataFrame, colour: str, side: str) -> list[Figure]:
    parts = rows.filter(pl.col("y") > 0).partition_by("venue", "symbol", as_dict=True, maintain_order=True).items()
    return [
        _line(part, "y", shown(f"{side} {venue} {symbol}"), colour, width=1.3, mode="lines+markers", marker={"size": 4})
        for (venue, symbol), part in parts
    ]


def curve_figure(name: str, real: pl.DataFrame, simulated: pl.DataFrame) -> Figure:
    """One of `CURVE_TITLES`, both sides over each other: blue is real, orange simulated."""
    one, other = (side.filter(pl.col("curve") == name) for side in (real, simulated))
    if name == "cluster_sizes":
        data = [*_each(one, REAL, "real"), *_each(other, SIMULATED, "simulated")]
        scale: dict[str, Any] = {"type": "log"}
    else:
        data, scale = _banded(one, other), {}
    return {"data": data, "layout": _layout(xaxis=scale | {"title": {"text": CURVE_AXES[name]}}, yaxis=scale)}


def strip_figure(fact: str, real: pl.DataFrame, simulated: pl.DataFrame) -> Figure:
    """Values of one fact: a box per venue, every value as a dot where there are few."""

    def boxes(rows: pl.DataFrame, colour: str) -> list[Figure]:
        mine = rows.filter(pl.col("fact") == fact).partition_by("venue", as_dict=True, maintain_order=True)
        return [
            {"type": "box", "name": shown(str(venue)), "y": _packed(part["value"]),
             "line": {"color": colour, "width": 1.2}, "marker": {"color": colour, "size": 4}, "jitter": 0.4,
             "pointpos": 0, "boxpoints": "all" if part.height <= 40 else False}
            for (venue,), part in mine.items()
        ]  # fmt: skip

    return {"data": [*boxes(real, REAL), *boxes(simulated, SIMULATED)], "layout": _layout()}


def _panels(
    found: pl.DataFrame, real: pl.DataFrame, simulated: pl.DataFrame, curves: tuple[pl.DataFrame, pl.DataFrame]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Figure]]:
    """The texts of the curves and strips, each with the number of its figure, and the figures."""
    figures: list[Figure] = []
    lines, strips = [], []
    for name, (title, caption) in CURVE_TITLES.items():
        if any(side.filter(pl.col("curve") == name).height for side in curves):
            lines.append({"title": title, "caption": caption, "figure": len(figures)})
            figures.append(curve_figure(name, *curves))
    for fact, says, verdict in found.select("fact", "says", "verdict").iter_rows():  # a few dozen facts
        strips.append({"title": _spaced(fact), "caption": f"{says}: {verdict}", "figure": len(figures)})
        figures.append(strip_figure(fact, real, simulated))
    return lines, strips, figures


def render_facts(
    found: pl.DataFrame,
    values: tuple[pl.DataFrame, pl.DataFrame],
    curves: tuple[pl.DataFrame, pl.DataFrame],
    days: int,
) -> str:
    """The page as text. `found`: `VERDICTS`; `values`, `curves`: real and simulated; `days`: length of a window.

    The same frames give the same bytes; nothing is loaded from anywhere.
    """
    rows = [_row(row) for row in found.to_dicts()]
    lines, strips, figures = _panels(found, *values, curves)
    folder = resources.files("pipelines").joinpath("templates")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "plots.js"))
    plotly = get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("facts.html.j2").render(
        rows=rows, curves=lines, strips=strips, days=days, style=style, script=script, plotly=plotly,
        figures=json_for_html(figures), script_sources=" ".join(script_hash(text) for text in (plotly, script)),
        within=sum(row["verdict"] == WITHIN for row in rows), judged=sum(row["judged"] for row in rows),
        missed=[f"{row['name']} ({row['verdict']})" for row in rows if row["missed"]],
        unjudged=[row["name"] for row in rows if not row["judged"]],
    )  # fmt: skip
