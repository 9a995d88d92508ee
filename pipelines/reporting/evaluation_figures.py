"""The plots of an evaluation, as plotly reads them: lead times, Molchan, precision and recall, reliability, timeline.

Every plot has its numbers in a table beside it (`pipelines.reporting.evaluation_page`); none is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta  # noqa: F401  # the doctest reads them
from math import ceil, floor, log10
from typing import Any

import numpy as np
import polars as pl

from models.evaluation import tally
from models.evaluation.alarm_time import Floats, Ints, Molchan
from models.evaluation.alarms import HIT, LATE, MISS
from models.evaluation.figures import Evaluation
from models.evaluation.settings import Settings
from pipelines.reporting.timeline import FONT, GRID, INK, MUTED, PALETTE, Figure, packed, shown

OUTCOME_COLOURS = {HIT: "#2f7a4b", LATE: "#e07b00", MISS: "#b3261e"}
OUTCOME_MARKS = {HIT: "circle", LATE: "diamond", MISS: "x"}
FALSE_COLOUR = "#8b95a3"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LEAD_BARS = 12  # of the histogram, up to the horizon
CURVE_POINTS_MAX = 600
EDGE_MIN = 1e-6  # the smallest probability that has a place of its own
SYMBOLS_MAX = 40  # rows of the timeline
EPISODES_MAX = 4_000  # marks of false episodes
ROW_PX = 26
BOUNDS = ("low", "high")


def lines_of(names: list[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and width by scorer: the first one stands out."""
    return {
        name: {
            "color": PALETTE[place % len(PALETTE)], "dash": DASHES[place % len(DASHES)], "width": 1.4 if place else 3,
        }
        for place, name in enumerate(names)
    }  # fmt: skip


def _layout(**more: Any) -> Figure:
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": GRID}
    layout = {
        "font": {"family": FONT, "size": 12, "color": INK}, "plot_bgcolor": "#fff", "paper_bgcolor": "#fff",
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48}, "showlegend": False, "hovermode": "closest",
    }  # fmt: skip
    axes = {name: axis | more.pop(name, {}) for name in ("xaxis", "yaxis")}
    return layout | axes | more


def _titled(text: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": text, "standoff": 8}, **more}


def _floats(values: Any) -> dict[str, str]:
    return packed(np.asarray(values, dtype=np.float32))


def _line(x: Any, y: Any, name: str, line: Mapping[str, Any], hover: str, **more: Any) -> Figure:
    return {
        "type": "scatter", "mode": "lines", "x": _floats(x), "y": _floats(y), "name": shown(name), "line": dict(line),
        "hovertemplate": f"{shown(name)}<br>{hover}<extra></extra>", **more,
    }  # fmt: skip


def _guide(x: list[float], y: list[float], **more: Any) -> Figure:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", **more}


def _spread(places: Ints) -> Ints:
    """Every place where they are few, else CURVE_POINTS_MAX of them, evenly, both ends kept."""
    if places.size <= CURVE_POINTS_MAX:
        return places
    return np.unique(places[np.linspace(0, places.size - 1, CURVE_POINTS_MAX).round().astype(np.int64)])


# --- lead times ---


def survival(of: Evaluation, horizon_min: float) -> tuple[Floats, Floats]:
    """P(lead >= x) over all events, as corners of steps: x in minutes, share. Empty without an event."""
    if of.events.is_empty():
        return np.zeros(0), np.zeros(0)
    leads = np.sort(of.events["lead_min"].drop_nulls().to_numpy())
    x = np.unique(np.concatenate([[0.0], leads, [horizon_min]]))
    return x, np.array([(leads >= at).sum() for at in x]) / of.events.height


def told_late(of: Evaluation) -> pl.Series:
    """Minutes from onset to the alert of late events, as negative leads where the alert came after it."""
    late = of.events.filter(pl.col("outcome") == LATE)
    return late.select((pl.col("onset") - pl.col("alerted_at")).dt.total_seconds() / 60).to_series()


def leads_figure(scorers: Mapping[str, Evaluation], settings: Settings) -> Figure:
    """Histogram of the scorer's leads, late alerts left of what can be acted on, and everyone's survival."""
    of, width = next(iter(scorers.values())), settings.horizon_min / LEAD_BARS
    lines = lines_of(list(scorers))
    data: list[Figure] = []
    for outcome, leads in ((HIT, of.events["lead_min"].drop_nulls()), (LATE, told_late(of))):
        place = (leads / width).floor()
        held = place.clip(upper_bound=LEAD_BARS - 1).value_counts(sort=False, name="count").sort(place.name)
        data.append(
            {
                "type": "bar", "x": [(at + 0.5) * width for at in held[place.name]], "y": held["count"].to_list(),
                "width": 0.92 * width, "name": outcome, "marker": {"color": OUTCOME_COLOURS[outcome], "opacity": 0.55},
                "hovertemplate": f"%{{y}} {outcome}, about %{{x:.0f}} min before the onset<extra></extra>",
            }
        )  # fmt: skip
    for name, one in scorers.items():
        x, share = survival(one, settings.horizon_min)
        line = {**lines[name], "shape": "vh"}
        data.append(_line(x, share, name, line, "%{y:.0%} had at least %{x:.1f} min", yaxis="y2"))
    most = max((count for bars in data[:2] for count in bars["y"]), default=1)
    y = _titled("events", rangemode="tozero", tickformat=",d", dtick=max(1, round(most / 5)))
    y2 = _titled(
        "events with at least this lead", overlaying="y", side="right", range=[0, 1.03], tickformat=".0%",
        tickvals=[0, 0.25, 0.5, 0.75, 1], showgrid=False, automargin=True,
    )  # fmt: skip
    x_axis = _titled("lead, minutes from alert to onset")
    return {"data": data, "layout": _layout(xaxis=x_axis, yaxis=y, yaxis2=y2, barmode="stack")}


# --- ranking ---


def molchan_points(diagram: Molchan) -> tuple[Floats, Floats]:
    """The diagram where the missed share changes, and both ends."""
    change = np.flatnonzero(np.diff(diagram.nu)) + 1
    places = np.unique(np.concatenate([[0], change - 1, change, [diagram.nu.size - 1]]))
    kept = _spread(places)
    return diagram.tau[kept], diagram.nu[kept]


def missed_within(diagram: Molchan, tau: float) -> float:
    """Share of the events missed where at most `tau` of the time stands under alarm."""
    return float(diagram.nu[np.searchsorted(diagram.tau, tau, side="right") - 1])


def molchan_figure(scorers: Mapping[str, Evaluation]) -> Figure:
    lines, data = lines_of(list(scorers)), [_guide([0, 1], [1, 0])]
    for name, one in scorers.items():
        if one.diagram is not None:
            tau, nu = molchan_points(one.diagram)
            data.append(_line(tau, nu, name, lines[name], "alarm %{x:.1%} of the time: %{y:.0%} missed"))
    name, found = next((name, one.found) for name, one in scorers.items())
    if found["event_recall"] is not None:
        where = ([found["alarm_time_share"]], [1 - found["event_recall"]])
        data.append(_operating(name, *where, lines[name]["color"], "alarm %{x:.1%} of the time: %{y:.0%} missed"))
    axes = {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return {
        "data": data,
        "layout": _layout(
            xaxis=_titled("share of the time under alarm", **axes), yaxis=_titled("events missed", **axes)
        ),
    }


def _operating(name: str, x: list[float], y: list[float], colour: str, hover: str) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "x": x, "y": y, "name": shown(name),
        "marker": {"color": colour, "size": 12, "symbol": "star", "line": {"color": "#fff", "width": 1}},
        "hovertemplate": f"{shown(name)} at its threshold<br>{hover}<extra></extra>",
    }  # fmt: skip


def precision_points(of: Evaluation) -> tuple[Floats, Floats]:
    """Recall and precision of bars at every score that an event's bar holds. Empty without one."""
    told = tally.curve(of.tally)
    places = np.flatnonzero(np.diff(told.events, prepend=0.0))
    kept = _spread(places)
    return told.events[kept] / max(float(told.events[-1:].sum()), 1.0), told.events[kept] / told.rows[kept]


def precision_at(of: Evaluation, recall: float) -> float | None:
    """The highest precision of bars at a recall of at least `recall`; null without an event."""
    told = tally.curve(of.tally)
    if not (told.events.size and told.events[-1] > 0):
        return None
    enough = told.events >= recall * told.events[-1] * (1 - 1e-12)
    return float((told.events[enough] / told.rows[enough]).max())


def precision_figure(scorers: Mapping[str, Evaluation]) -> Figure:
    lines, found = lines_of(list(scorers)), next(iter(scorers.values())).found
    data = [_guide([0, 1], [found["prevalence"]] * 2)] if found["prevalence"] else []
    for name, one in scorers.items():
        recall, precision = precision_points(one)
        if recall.size:
            data.append(_line(recall, precision, name, lines[name], "recall %{x:.0%}: precision %{y:.2%}"))
    name, of = next(iter(scorers.items()))
    told = tally.curve(of.tally)
    above = told.score >= found["threshold"]
    if above.any() and told.events[-1] > 0:
        rows, events = told.rows[above][-1], told.events[above][-1]
        where = ([events / told.events[-1]], [events / rows])
        data.append(_operating(name, *where, lines[name]["color"], "recall %{x:.0%}: precision %{y:.2%}"))
    y = _titled("precision of bars", type="log", tickformat=".2~%", dtick=1)
    x = _titled("recall of bars before events", tickformat=".0%", range=[-0.02, 1.02])
    return {"data": data, "layout": _layout(xaxis=x, yaxis=y)}


def lift_figure(scorers: Mapping[str, Evaluation]) -> Figure | None:
    """Average precision over prevalence with its interval, a row each; None where nobody has one."""
    told = [(name, one.found) for name, one in scorers.items() if one.found["average_precision_lift"] is not None]
    if not told:
        return None
    lines, data = lines_of(list(scorers)), [_guide([1, 1], [-0.6, len(told) - 0.4])]
    for row, (name, found) in enumerate(told):
        lift, between = found["average_precision_lift"], found["average_precision_lift_ci"]
        low, high = between or (lift, lift)
        error = {"type": "data", "symmetric": False, "array": [max(high - lift, 0)], "arrayminus": [max(lift - low, 0)]}
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": [lift], "y": [row], "name": shown(name),
                "marker": {"color": lines[name]["color"], "size": 10}, "error_x": {**error, "thickness": 1.6},
                "hovertemplate": f"{shown(name)}<br>%{{x:.2f}} times the prevalence<extra></extra>",
            }
        )  # fmt: skip
    rows = {"tickvals": list(range(len(told))), "ticktext": [shown(name) for name, _ in told], "showgrid": False,
            "range": [len(told) - 0.4, -0.6]}  # fmt: skip
    x = _titled("average precision / prevalence", type="log", tickformat="~g", dtick="D2")
    return {"data": data, "layout": _layout(xaxis=x, yaxis=rows)}


def ablation_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A bar per set of features: average precision over prevalence with its interval; None where nobody has one."""
    told = [row for row in rows if row["ap_lift"] is not None]
    if not told:
        return None
    lifts = [row["ap_lift"] for row in told]
    ends = [[lift if row[end] is None else row[end] for row, lift in zip(told, lifts, strict=True)] for end in BOUNDS]
    error = {
        "type": "data", "symmetric": False, "thickness": 1.6,
        "array": [max(high - lift, 0) for high, lift in zip(ends[1], lifts, strict=True)],
        "arrayminus": [max(lift - low, 0) for low, lift in zip(ends[0], lifts, strict=True)],
    }  # fmt: skip
    places = list(range(len(told)))
    bars = {
        "type": "bar", "orientation": "h", "x": lifts, "y": places, "error_x": error, "width": 0.62,
        "marker": {"color": [PALETTE[0], *[FALSE_COLOUR] * (len(told) - 1)]},
        "hovertext": [shown(row["name"]) for row in told], "hovertemplate": "%{hovertext}: %{x:.2f}<extra></extra>",
    }  # fmt: skip
    rows_axis = {
        "tickvals": places, "ticktext": [shown(row["name"]) for row in told], "showgrid": False,
        "range": [len(told) - 0.4, -0.6],
    }  # fmt: skip
    x = _titled("average precision / prevalence", rangemode="tozero")
    return {"data": [_guide([1, 1], [-0.6, len(told) - 0.4]), bars], "layout": _layout(xaxis=x, yaxis=rows_axis)}


# --- calibration ---


def reliability_bins(of: Evaluation) -> pl.DataFrame:
    """`said, rows, events` by doubling of the probability, from the lowest: `said` is the mean of what was said.

    All below EDGE_MIN are one.
    """
    doubling = pl.when(pl.col("score") >= EDGE_MIN).then(pl.col("score").log(2).floor())
    grouped = of.tally.group_by(doubling.alias("doubling")).agg(
        said=(pl.col("score") * pl.col("rows")).sum() / pl.col("rows").sum(),
        rows=pl.col("rows").sum(),
        events=pl.col("events").sum(),
    )
    return grouped.sort("doubling", nulls_last=False).drop("doubling")


def reliability_figure(of: Evaluation, bins: pl.DataFrame, bounds: list[tuple[float, float]]) -> Figure:
    """What was said against what happened, both on log scales; zero, and below EDGE_MIN, is drawn on the edge."""
    told = tally.reliability(of.tally)
    share = (bins["events"] / bins["rows"]).to_numpy()
    least = min(v for v in (*told.said, *told.recalibrated, *share, 1.0) if v > 0)
    edge = max(10.0 ** floor(log10(least)), EDGE_MIN)
    step = np.flatnonzero(np.diff(told.recalibrated, prepend=-1.0) + np.diff(told.recalibrated, append=2.0))
    kept = _spread(step)
    x, y = bins["said"].clip(lower_bound=edge).to_list(), np.maximum(share, edge).tolist()
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    error = {
        "type": "data", "symmetric": False, "thickness": 1.2,
        "array": [max(top - at, 0) for top, at in zip(high, y, strict=True)],
        "arrayminus": [at - max(bottom, edge) for bottom, at in zip(low, y, strict=True)],
    }  # fmt: skip
    text = [f"{n:,} bars, {e:,} before an event" for n, e in bins.select("rows", "events").iter_rows()]
    data = [
        _guide([edge, 1], [edge, 1]),
        _line(
            np.maximum(told.said[kept], edge), np.maximum(told.recalibrated[kept], edge), "isotonic recalibration",
            {"color": PALETTE[1], "width": 2, "dash": "dash"}, "said %{x:.2%}: recalibrated %{y:.2%}",
        ),
        {
            "type": "scatter", "mode": "markers", "x": x, "y": y, "text": text, "name": "happened",
            "marker": {"color": PALETTE[0], "size": 9}, "error_y": error,
            "hovertemplate": "said %{x:.2%}: happened %{y:.2%}<br>%{text}<extra></extra>",
        },
    ]  # fmt: skip
    decades = ceil(-log10(edge) / 4)  # between ticks
    axis = {
        "type": "log",
        "tickformat": "~%",
        "tick0": 0,
        "dtick": max(decades, 1),
        "range": [log10(edge) - 0.08, 0.08],
    }
    return {"data": data, "layout": _layout(xaxis=_titled("said", **axis), yaxis=_titled("happened", **axis))}


# --- timeline ---


def timeline_symbols(events: pl.DataFrame, episodes: pl.DataFrame) -> list[str]:
    """Symbols with events, the most first, then those with the most false episodes; at most SYMBOLS_MAX."""
    seen = pl.concat([events.select("symbol", n=1_000_000), episodes.filter("false").select("symbol", n=1)])
    counted = seen.group_by("symbol").agg(pl.col("n").sum()).sort(["n", "symbol"], descending=[True, False])
    return counted["symbol"].head(SYMBOLS_MAX).to_list()


def _marks(rows: pl.DataFrame, stamp: str, place: Mapping[str, int], text: list[str], **more: Any) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "x": rows[stamp].dt.strftime("%Y-%m-%d %H:%M:%S").to_list(),
        "y": [place[symbol] for symbol in rows["symbol"]], "text": text,
        "hovertemplate": "%{text}<br>%{x}<extra></extra>", **more,
    }  # fmt: skip


def outcome_words(row: Mapping[str, Any]) -> str:
    """
    >>> when = datetime(2025, 1, 1)
    >>> late = [{"outcome": "late", "onset": when, "alerted_at": when + timedelta(minutes=m)} for m in (-1, 0, 5)]
    >>> [outcome_words(row) for row in late]
    ['late, 1 min before', 'late, at the onset', 'late, 5 min after']
    >>> outcome_words({"outcome": "hit", "lead_min": 35.0}), outcome_words({"outcome": "miss"})
    ('hit, 35 min before', 'missed')
    """
    if row["outcome"] == MISS:
        return "missed"
    if row["outcome"] == HIT:
        return f"hit, {row['lead_min']:.3g} min before"
    after = (row["alerted_at"] - row["onset"]).total_seconds() / 60
    side = "before" if after < 0 else "after"
    return "late, at the onset" if after == 0 else f"late, {abs(after):.3g} min {side}"


def timeline_figure(events: pl.DataFrame, episodes: pl.DataFrame) -> tuple[Figure, int]:
    """Every event by outcome and every false episode of the symbols shown, and the height in pixels."""
    symbols = timeline_symbols(events, episodes)
    place = {symbol: row for row, symbol in enumerate(symbols)}
    here = pl.col("symbol").is_in(symbols)
    false = episodes.filter(here, "false").sort("peak", descending=True, nulls_last=True)[:EPISODES_MAX]
    false = false.sort("start", "symbol")
    text = [
        f"{shown(symbol)}: false alarm" + ("" if peak is None else f", score {peak:.4g}")
        for symbol, peak in false.select("symbol", "peak").iter_rows()
    ]
    tick = {"symbol": "line-ns-open", "size": 11, "color": FALSE_COLOUR, "opacity": 0.8, "line": {"width": 1.6}}
    data = [_marks(false, "start", place, text, name="false alarm", marker=tick)]
    for outcome, colour in OUTCOME_COLOURS.items():
        own = events.filter(here, pl.col("outcome") == outcome)
        said = [f"{shown(row['symbol'])}: {outcome_words(row)}" for row in own.to_dicts()]
        marker = {"symbol": OUTCOME_MARKS[outcome], "size": 11, "color": colour, "line": {"width": 1, "color": "#fff"}}
        data.append(_marks(own, "onset", place, said, name=outcome, marker=marker))
    rows = {"tickvals": list(range(len(symbols))), "ticktext": [shown(symbol) for symbol in symbols],
            "range": [len(symbols) - 0.4, -0.6], "tickfont": {"size": 11}}  # fmt: skip
    layout = _layout(xaxis={"type": "date"}, yaxis=rows)
    return {"data": data, "layout": layout}, 90 + ROW_PX * max(len(symbols), 2)
