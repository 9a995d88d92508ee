"""From the views to one self-contained HTML page."""

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from guardrails.ladder import ACTIONS, MEANING
from pipelines.config import Config
from pipelines.reporting import words
from pipelines.reporting.episodes import alert_episodes, episode_rows
from pipelines.reporting.gather import Material
from pipelines.reporting.health import health_view
from pipelines.reporting.risk import risk_rows, symbol_states
from pipelines.reporting.rules import decision_view
from pipelines.reporting.timeline import ACTION_COLOURS, HEAT, Panel, panels, why_no_probability
from pipelines.reporting.verdict import verdict_view

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d(?::\d\d)?Z)?")
CALM_SHOWN_MAX = 15  # more calm symbols than this are folded away


@dataclass(frozen=True)
class Page:
    """The finished page and the counts its summary repeats."""

    text: str
    symbols_at_risk: int
    alerts: int
    decisions: int


def json_for_html(value: Any) -> str:
    """JSON that can stand inside a script element whatever its strings hold.

    >>> json_for_html({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, sort_keys=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def script_hash(text: str) -> str:
    """The source expression that lets a browser run exactly this inline script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def dated(text: str) -> Markup:
    """`text`, escaped, with its dates and times kept on one line.

    >>> str(dated("<b> since 2025-10-10 21:12Z"))
    '&lt;b&gt; since <span class="nowrap">2025-10-10 21:12Z</span>'
    """
    return Markup(_DATE.sub(r'<span class="nowrap">\g<0></span>', str(escape(text))))  # noqa: S704  # escaped right here


def _provenance(material: Material, config: Config) -> dict[str, Any]:
    rows = []
    for row in material.provenance.to_dicts():
        start, end = row["reference_start"], row["reference_end"]
        rows.append(
            {
                "venue": row["venue"],
                "detectors": row["detectors"] or ["not registered"],
                "models": row["models"] or [f"none: {why_no_probability(material, row['venue'])}"],
                "reference": f"{words.moment(start)} to {words.moment(end)}" if end else "outside this interval",
                "threshold": ", ".join(words.decimal(value, 2) for value in row["thresholds"]) or words.NOTHING,
                "venue_threshold": ", ".join(words.decimal(value, 2) for value in row["venue_thresholds"])
                or words.NOTHING,
                "p_threshold": ", ".join(words.percent(value, 1) for value in row["p_thresholds"]) or words.NOTHING,
            }
        )
    return {
        "rows": rows,
        "policies": material.policies.to_dicts(),
        "refractory": config.detector.refractory_min,
        "start": words.moment(material.interval.start),
        "end": words.moment(material.interval.end),
        "venues": list(material.venues),
    }


def _text_of(panel: Panel) -> dict[str, Any]:
    names = [entry | {"text": html.unescape(entry["name"])} for entry in panel.names]
    return {
        "title": panel.title, "caption": panel.caption, "absent": panel.absent, "legend": panel.legend,
        "names": names, "drawn": panel.figure is not None, "height": panel.height_px,
    }  # fmt: skip


def _merged(rows: list[Panel]) -> list[Panel]:
    """The panels with those that are absent for the same kind of reason next to each other at the end."""
    return [panel for panel in rows if panel.figure is not None] + [panel for panel in rows if panel.figure is None]


def _risk_view(rows: list[dict[str, Any]]) -> dict[str, Any]:
    calm = [row for row in rows if not row["at_risk"] and not row["whole_venue"]]
    folded = len(calm) > CALM_SHOWN_MAX
    return {
        "rows": [row for row in rows if row["at_risk"] or row["whole_venue"] or not folded],
        "calm": calm if folded else [],
        "probabilities": any(row["p_15m"] != words.NOTHING or row["p_60m"] != words.NOTHING for row in rows),
        "several_venues": len({row["venue"] for row in rows}) > 1,
    }


def views(material: Material, config: Config) -> dict[str, Any]:
    """Everything the template shows, as plain values; `figures` are the plots in the order of `panels`."""
    found = alert_episodes(material.alerts, material.interval, config.detector.refractory_min)
    states = symbol_states(material, found)
    health = health_view(material)
    plots = _merged(panels(material, states, found))
    return {
        "verdict": verdict_view(material, states, found, health["refused_total"]),
        "risk": _risk_view(risk_rows(states)),
        "panels": [_text_of(panel) for panel in plots],
        "figures": [panel.figure for panel in plots if panel.figure is not None],
        "episodes": episode_rows(found, material),
        "decisions": decision_view(material),
        "health": health,
        "provenance": _provenance(material, config),
        "no_probability": why_no_probability(material),
        "symbols_at_risk": states.filter(~pl.col("whole_venue"))["at_risk"].sum(),
        "scored": not material.last_scores.is_empty(),
        "guarded": not material.last_limits.is_empty(),
    }


def render(material: Material, config: Config) -> Page:
    """The page as text: the same material and config give the same bytes."""
    shown = views(material, config)
    folder = resources.files("pipelines").joinpath("templates")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    plotly = get_plotlyjs()
    figures = shown.pop("figures")
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["dated"] = dated
    text = environment.get_template("report.html.j2").render(
        **shown, style=style, script=script, plotly=plotly if figures else "", figures=json_for_html(figures),
        script_sources=" ".join(script_hash(text) for text in (plotly, script)),
        actions=[
            {"name": action, "word": words.spaced(action, words.ACTIONS), "colour": colour, "meaning": MEANING[action]}
            for action, colour in zip(ACTIONS, ACTION_COLOURS, strict=True)
        ],
        heat=", ".join(f"{colour} {100 * stop:.1f}%" for stop, colour in HEAT),
    )  # fmt: skip
    return Page(text, int(shown["symbols_at_risk"]), len(shown["episodes"]), shown["decisions"]["total"])
