"""The page of `loop`: what guardrails save and what they cost, rule by rule, and one day with and without them."""

import html
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, TypeAlias

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from guardrails.ladder import ACTIONS, severity
from pipelines.closed_loop import GUARDED, MODEL, NONE
from pipelines.closed_loop_table import CONFIDENCE, ArmRow, Estimate, LoopSummary, usd, worth
from pipelines.reporting.page import json_for_html, script_hash
from pipelines.reporting.timeline import ACTION_COLOURS, FONT, GRID, INK, shown

_MINUS = re.compile(r"(?<![\w)])-(?=\d)")

Figure: TypeAlias = dict[str, Any]
Day: TypeAlias = Mapping[str, pl.DataFrame]  # minutes of one symbol by arm

FRONTIER_PX, DAY_PX = 440, 560
COLOURS = {NONE: "#c62f3b", GUARDED: "#1f5f8b", MODEL: "#8e4fa8"}
PALETTE = ("#e07b00", "#2a9d8f", "#b58900", "#4c8c2b", "#e86fa0", "#8a5a3c", "#00a2c7", "#3d2f9b", "#555f6b")
INDEX_COLOUR = "#9aa4b2"
BAR_MIN = 10  # minutes per bar of liquidations


def render(found: LoopSummary, seed: int, symbol: str, day: Day) -> str:
    """The page as text; the same numbers give the same bytes. `day`: the arms `none` and `guardrails`."""
    figures = [frontier(found.arms, "liquidated_usd"), frontier(found.arms, "worst_dip"), day_figure(day)]
    folder = resources.files("pipelines").joinpath("templates")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "plots.js"))
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "minus": lambda text: _MINUS.sub("−", text),
        "usd": _signless(usd), "share": _signless("{:.2%}".format), "count": _signless("{:,.0f}".format),
        "usd_range": _range(usd), "share_range": _range("{:.2%}".format), "count_range": _range("{:,.0f}".format),
        "price": _signless("{:,.2f} USD".format),
    }  # fmt: skip
    plotly = get_plotlyjs()
    return environment.get_template("closed_loop.html.j2").render(
        it=found, worth=worth, seed=seed, symbol=symbol, seeds=_seeds(found.seeds), confidence=f"{CONFIDENCE:.0%}",
        heights=[figure["layout"]["height"] for figure in figures], figures=json_for_html(figures),
        actions=list(zip(ACTIONS, ACTION_COLOURS, strict=True)), style=style, script=script, plotly=plotly,
        script_sources=" ".join(script_hash(text) for text in (plotly, script)),
    )  # fmt: skip


def frontier(arms: Sequence[ArmRow], harm: str) -> Figure:
    """A point per arm: restricted minutes x symbols to the right, harm upwards; means over seeds.

    Arms that lie on one point share it: a rule that changed nothing is where all rules are. Later ones are smaller, so
    that those which all but coincide show.
    """
    placed: dict[tuple[float, float], list[str]] = {}
    for row in arms:
        placed.setdefault((row.mean["restricted_min"], row.mean[harm]), []).append(row.arm)
    share = harm == "worst_dip"
    height = "%{y:.2%}" if share else "%{y:,.0f} USD"
    traces = [
        {
            "type": "scatter", "mode": "markers", "x": [x], "y": [y], "name": shown(_label(names)),
            "cliponaxis": False,
            "marker": {"size": max(18 - 2 * place, 8), "color": COLOURS.get(names[0], PALETTE[place % len(PALETTE)])},
            "hovertext": ["<br>".join(html.escape(name, quote=False) for name in names)],
            "hovertemplate": "%{hovertext}<br>%{x:,.0f} minutes x symbols<br>" + height + "<extra></extra>",
        }
        for place, ((x, y), names) in enumerate(placed.items())
    ]  # fmt: skip
    title = "deepest dip below the index" if share else "liquidated, USD a seed"
    layout = _layout(FRONTIER_PX) | {
        "showlegend": True, "margin": {"l": 80, "r": 30, "t": 16, "b": 48},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "font": {"size": 11}},
        "xaxis": _axis("restricted minutes x symbols, a seed") | {"rangemode": "tozero"},
        "yaxis": _axis(title) | {"tickformat": ".2%" if share else "~s", "rangemode": "tozero"},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _label(names: Sequence[str]) -> str:
    """The first name, and how many more share the point."""
    return names[0] if len(names) == 1 else f"{names[0]} (+{len(names) - 1})"


def day_figure(day: Day) -> Figure:
    """Price with and without, dollars liquidated with and without, and what was in force."""
    nobody, guarded = day[NONE], day[GUARDED]
    traces = [
        _line("index, without", nobody, "index", INDEX_COLOUR, "dot"),
        _line("price, without guardrails", nobody, "price", COLOURS[NONE], "solid"),
        _line("price, with", guarded, "price", COLOURS[GUARDED], "solid"),
        _forced("liquidated, without", nobody, COLOURS[NONE]),
        _forced("liquidated, with", guarded, COLOURS[GUARDED]),
        _ribbon(guarded),
    ]
    layout = _layout(DAY_PX) | {
        "barmode": "group", "bargap": 0.1, "margin": {"l": 70, "r": 24, "t": 40, "b": 40},
        "xaxis": {"type": "date", "anchor": "y3", "gridcolor": GRID},
        "yaxis": _axis("price, USD") | {"domain": [0.45, 1.0], "tickformat": ",~r"},
        "yaxis2": _axis(f"liquidated in {BAR_MIN} min, USD") | {"domain": [0.1, 0.4], "tickformat": "~s"},
        "yaxis3": {"domain": [0.0, 0.05], "showticklabels": False, "fixedrange": True, "showgrid": False, "ticks": ""},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _line(name: str, minutes: pl.DataFrame, column: str, colour: str, dash: str) -> Figure:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": _stamps(minutes["ts"]),
        "y": [_rounded(value) for value in minutes[column]], "line": {"color": colour, "width": 1.3, "dash": dash},
    }  # fmt: skip


def _forced(name: str, minutes: pl.DataFrame, colour: str) -> Figure:
    per_bar = minutes.group_by(pl.col("ts").dt.offset_by("-1us").dt.truncate(f"{BAR_MIN}m"), maintain_order=True).agg(
        pl.col("liquidated_usd").sum()
    )
    return {
        "type": "bar", "name": name, "x": _stamps(per_bar["ts"]),
        "y": [round(value) for value in per_bar["liquidated_usd"]], "yaxis": "y2", "marker": {"color": colour},
        "showlegend": False,
    }  # fmt: skip


def _ribbon(minutes: pl.DataFrame) -> Figure:
    """The action in force, minute by minute, in the colours of the report."""
    steps = len(ACTION_COLOURS)
    scale = [[edge / steps, colour] for at, colour in enumerate(ACTION_COLOURS) for edge in (at, at + 1)]
    levels = [severity(action) for action in minutes["action"]]
    return {
        "type": "heatmap", "x": _stamps(minutes["ts"]), "y": ["action"], "z": [levels], "yaxis": "y3", "zmin": -0.5,
        "zmax": steps - 0.5, "colorscale": scale, "showscale": False,
        "text": [[action.replace("_", " ") for action in minutes["action"]]],
        "hovertemplate": "%{x}<br>%{text}<extra></extra>",
    }  # fmt: skip


def _stamps(ts: pl.Series) -> list[str]:
    return ts.dt.strftime("%Y-%m-%d %H:%M").to_list()


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 14}, "gridcolor": GRID, "zeroline": False, "automargin": True}


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height, "font": {"family": FONT, "size": 12, "color": INK}, "plot_bgcolor": "#fff",
        "paper_bgcolor": "#fff", "hoverlabel": {"font": {"size": 11}},
    }  # fmt: skip


def _seeds(seeds: Sequence[int]) -> str:
    """Consecutive seeds as a range.

    >>> _seeds([1, 2, 3]), _seeds([1, 3])
    ('1 to 3', '1, 3')
    """
    row = list(seeds)
    if len(row) > 2 and row == list(range(row[0], row[-1] + 1)):
        return f"{row[0]} to {row[-1]}"
    return ", ".join(map(str, row))


def _signless(write: Any) -> Any:
    """As `write`, with a minus sign that is one."""
    return lambda value: write(value).replace("-", "−")


def _range(write: Any) -> Any:
    """The bounds of an interval."""

    def told(found: Estimate) -> str:
        low, high = (write(bound).removesuffix(" USD").replace("-", "−") for bound in (found.low, found.high))
        return f"{low} to {high}"

    return told
