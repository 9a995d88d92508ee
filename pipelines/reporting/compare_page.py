"""Two scorers on the same rows and events, as one self-contained HTML page: the differences first, then both."""

from collections.abc import Mapping
from typing import Any

from models.bootstrap import Difference
from models.evaluation.alarms import MISS
from models.evaluation.figures import EVENTS_MIN, Evaluation
from pipelines.evaluating.paired import FIGURES, Paired
from pipelines.evaluating.run import span_words, verdict
from pipelines.reporting import evaluation_figures as draw
from pipelines.reporting import words
from pipelines.reporting.evaluation_page import (
    RECALLS,
    TAUS,
    between,
    lead_rows,
    legend_of,
    main_row,
    number,
    rendered,
    share,
)
from pipelines.reporting.evaluation_page import assumed as assumptions
from pipelines.reporting.timeline import Figure

LISTED_MAX = 200
BETTER = {"event_recall": 1, "false_alarms_per_symbol_day": -1, "average_precision": 1, "decision_value_usd": 1}


def told(one: Difference, name: str, names: tuple[str, str]) -> str:
    """Who is better, where the interval lies on one side of zero.

    >>> half = Difference(0.5, 0.1, 0.9, 0.99, 100, 0, 9)
    >>> told(half, "event_recall", ("a", "b")), told(half, "false_alarms_per_symbol_day", ("a", "b"))
    ('b is better', 'a is better')
    """
    if one.low is None or one.high is None or one.low <= 0 <= one.high:
        return "not told apart"
    return f"{names[1] if one.low * BETTER[name] > 0 else names[0]} is better"


def decided(found: Paired) -> str:
    """`calm` where some difference is told, `unknown` else: that says nothing of which of them is good."""
    told_apart = [told(one, name, found.names) != "not told apart" for name, one in found.differences.items()]
    return "calm" if any(told_apart) and found.a.found["events"] >= EVENTS_MIN else "unknown"


def _difference_rows(found: Paired) -> list[dict[str, Any]]:
    ends = {name: (found.a.found.get(name), found.b.found.get(name)) for name in FIGURES}
    ends["decision_value_usd"] = (_a_day(found.a), _a_day(found.b))
    rows = []
    for name, one in found.differences.items():
        bounds = None if one.low is None or one.high is None else (one.low, one.high)
        cells = [*map(number, ends[name]), number(one.difference), between(bounds) or words.NOTHING]
        plain = [{"value": cell, "more": ""} for cell in (*cells, told(one, name, found.names))]
        rows.append({"name": FIGURES[name].rstrip(","), "cells": plain, "grey": False})
    return rows


def _a_day(of: Evaluation) -> float | None:
    value = of.found["decision_value"]
    return None if value is None else value["value_usd"] / of.days.len()


def _side(outcome: str, lead_min: float | None) -> tuple[str, str]:
    """The outcome, and the same in words."""
    if lead_min is None:
        return outcome, "missed" if outcome == MISS else outcome
    return outcome, f"{outcome}, {lead_min:.0f} min before"


def _event_rows(found: Paired) -> list[dict[str, Any]]:
    return [
        {
            "onset": words.moment(row["onset"]), "symbol": row["symbol"],
            "sides": [_side(row[f"outcome_{side}"], row[f"lead_min_{side}"]) for side in "ab"],
        }
        for row in found.events.sort("onset", "symbol")[:LISTED_MAX].to_dicts()
    ]  # fmt: skip


def _drawn(scorers: Mapping[str, Evaluation], found: Paired) -> list[tuple[str, str, Figure | None, int]]:
    events = bool(found.a.found["events"])
    settings, precise = found.settings, found.a.found["average_precision"] is not None
    return [
        ("Lead times", "Bars: hits of the first (green) and its late alerts (orange). Lines: share of all events.",
         draw.leads_figure(scorers, settings) if events else None, 360),
        ("Molchan diagram", "Events missed against time under alarm; lower left is better, the star is the first's.",
         draw.molchan_figure(scorers) if events else None, 380),
        ("Precision and recall of bars", "On a log scale; upper right is better.",
         draw.precision_figure(scorers) if precise else None, 380),
    ]  # fmt: skip


def render_compare(found: Paired) -> str:
    """The page as text; the same figures give the same bytes."""
    scorers = dict(zip(found.names, (found.a, found.b), strict=True))
    drawn = _drawn(scorers, found)
    figures = [figure for _, _, figure, _ in drawn if figure is not None]
    plots = [
        {"title": title, "caption": caption, "height": height} for title, caption, figure, height in drawn if figure
    ]
    days, minutes = found.a.days.to_list(), list(found.a.found["lead_time_min"]["survival"])
    return rendered(
        "compare.html.j2", figures,
        names=found.names, kind=decided(found), headline=found.headline(),
        period=f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}", verdicts=[verdict(*item) for item in
        ((name, one.found) for name, one in scorers.items())], differences=_difference_rows(found),
        counts=[found.both, found.only_a, found.only_b, found.neither], p=number(found.p),
        table_rows=[main_row(name, one.found) for name, one in scorers.items()],
        survival=[f"≥ {minute} min" for minute in minutes], leads=lead_rows(scorers, minutes),
        molchan=[(name, [share(draw.missed_within(one.diagram, tau)) if one.diagram else words.NOTHING for tau in TAUS])
                 for name, one in scorers.items()], taus=[share(tau) for tau in TAUS],
        precision=[(name, [share(draw.precision_at(one, recall)) for recall in RECALLS]) for name, one in
                   scorers.items()], recalls=[share(recall) for recall in RECALLS],
        listed=_event_rows(found), more=max(found.events.height - LISTED_MAX, 0), plots=plots,
        legend=legend_of(list(scorers)), assumed=assumptions(found.settings.costs),
        confidence=f"{found.settings.confidence:.0%}", replicates=found.settings.replicates,
        notes=[*dict.fromkeys((*found.a.warnings, *found.b.warnings)), *span_words(found.settings)],
    )  # fmt: skip
