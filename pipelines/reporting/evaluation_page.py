"""How early warnings were judged, as one self-contained HTML page: the verdict, the table, curves, the worst moments.

Every plot has its numbers in a table beside it, so the page tells the same without scripts, to a screen reader and on
paper. The same evaluation gives the same bytes; nothing is loaded from anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from models.evaluation.decision import Costs
from models.evaluation.figures import EVENTS_MIN, Evaluation
from models.evaluation.intervals import clopper_pearson
from pipelines.evaluating.moments import Moments, moments
from pipelines.evaluating.run import ALWAYS_ON, Judged, Source, span_words, verdict
from pipelines.reporting import evaluation_figures as draw
from pipelines.reporting import words
from pipelines.reporting.page import dated, json_for_html, script_hash
from pipelines.reporting.timeline import Figure, shown

TAUS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RECALLS = (0.1, 0.25, 0.5, 0.75, 1.0)
LISTED_MAX = 200  # events in the table; what is beyond is counted
ALARM_TIME_MAX = 0.5
P_MAX = 0.05
SETTINGS = {
    "horizon_min": ("a warning counts this far ahead", "min"), "lead_min": ("the shortest lead that counts", "min"),
    "refractory_min": ("closer alerts are one episode", "min"), "bar_s": ("a bar", "s"),
    "threshold": ("threshold given", ""), "budget": ("budget that chose the threshold, episodes a symbol-day", ""),
    "fit_until": ("rows up to here chose the threshold and are not judged", ""),
    "persistence": ("bars in a row before an alert", ""), "episodes_per_symbol_day_max": ("cap of episodes a day", ""),
    "cost_false_alarm": ("cost of a false alarm", ""), "cost_missed": ("cost of a missed event", ""),
    "confidence": ("confidence of intervals", ""), "replicates": ("replicates", ""), "seed": ("seed", ""),
}  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a lake adds: `reasons` of moments (`symbol, ts, reasons`), faults by input, and of which interval."""

    reasons: pl.DataFrame
    health: Sequence[Mapping[str, Any]]
    interval: str


# --- numbers ---


def number(value: float | None) -> str:
    """Three significant digits.

    >>> [number(v) for v in (None, 0.0, 0.5864, -2.6, 0.0712, 8.6434, 1078.06, 0.0001998)]
    ['–', '0', '0.586', '-2.6', '0.0712', '8.64', '1,080', '0.0002']
    """
    if value is None:
        return words.NOTHING
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):.6g}"


def share(value: float | None) -> str:
    """
    >>> [share(v) for v in (None, 0.0, 0.5, 0.0386, 1.0, 0.00197)]
    ['–', '0 %', '50 %', '3.86 %', '100 %', '0.197 %']
    """
    return words.NOTHING if value is None else f"{number(100 * value)} %"


def between(bounds: Sequence[float] | None, text: Any = number) -> str:
    """
    >>> between((0.187, 0.813), share), between(None)
    ('18.7 % to 81.3 %', '')
    """
    return "" if bounds is None else f"{text(bounds[0])} to {text(bounds[1])}"


def _score(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.4g}"


# --- verdict ---


def best_rival(judged: Judged) -> tuple[str, float] | None:
    """The baseline whose average precision lift is highest, always-on left out; None where none has one."""
    told = {name: one.found["average_precision_lift"] for name, one in judged.baselines.items() if name != ALWAYS_ON}
    known = [(name, float(lift)) for name, lift in told.items() if lift is not None]
    return max(known, key=lambda item: item[1], default=None)


def kind(judged: Judged) -> str:
    """`calm`: better than chance and than every baseline; `danger`: as good as chance; `unknown`: else."""
    found, rival = judged.of.found, best_rival(judged)
    if found["alarm_time_share"] > ALARM_TIME_MAX:
        return "danger"
    if found["events"] < EVENTS_MIN or found["circular_shift_p"] is None:
        return "unknown"
    if found["circular_shift_p"] > P_MAX:
        return "danger"
    own = found["average_precision_lift"]
    return "calm" if own is not None and (rival is None or own > rival[1]) else "unknown"


def beside(judged: Judged) -> str:
    """One sentence: how the best of the baselines ranks; empty where none can be ranked."""
    own, rival = judged.of.found["average_precision_lift"], best_rival(judged)
    if own is None or rival is None:
        return ""
    name, lift = rival
    if lift >= own:
        ranks = f"The baseline {name} ranks as well or better: its average precision is"
        return f"{ranks} {number(lift)} times the prevalence, the scorer's {number(own)}."
    bounds = judged.of.found["average_precision_lift_ci"]
    doubt = "; its interval does not exclude that" if bounds is not None and bounds[0] <= lift else ""
    ranks = f"The best baseline, {name}, has an average precision of {number(lift)} times the prevalence"
    return f"{ranks}, the scorer {number(own)}{doubt}."


def _tiles(found: Mapping[str, Any]) -> list[Row]:
    lead, chance = found["lead_time_min"], found["area_skill_chance_sd"]
    told = (
        ("event recall", share(found["event_recall"]), between(found["event_recall_ci"], share)),
        ("false alarms a symbol-day", number(found["false_alarms_per_symbol_day"]), between(found["false_alarms_ci"])),
        ("lead at the median, min", number(lead["p50"]), between((lead["p10"], lead["p90"])) if lead["p50"] else ""),
        ("episodes followed by an event", share(found["episode_precision"]),
         f"{found['episodes'] - found['false_episodes']} of {found['episodes']}"),
        ("time under alarm", share(found["alarm_time_share"]), f"{number(found['covered_symbol_days'])} symbol-days"),
        ("area skill, chance is 0.5", number(found["area_skill_score"]),
         "" if chance is None else f"chance ± {number(chance)}"),
    )  # fmt: skip
    return [{"name": name, "value": value, "more": more} for name, value, more in told]


# --- tables ---


def main_row(name: str, found: Mapping[str, Any]) -> Row:
    cells = [
        (share(found["event_recall"]), between(found["event_recall_ci"], share)),
        (f"{found['hits']} / {found['late']} / {found['misses']}", ""),
        (number(found["false_alarms_per_symbol_day"]), between(found["false_alarms_ci"])),
        (share(found["episode_precision"]), f"{found['episodes']} episodes"),
        (number(found["lead_time_min"]["p50"]), ""),
        (share(found["alarm_time_share"]), ""),
        (number(found["area_skill_score"]), ""),
        (number(found["average_precision_lift"]), between(found["average_precision_lift_ci"])),
        (number(found["roc_auc"]), ""),
        (number(found["circular_shift_p"]), ""),
        (number(found["expected_cost_per_symbol_day"]), ""),
        (_score(found["threshold"]), ""),
    ]
    return {"name": name, "cells": [{"value": value, "more": more} for value, more in cells], "grey": False}


def _horizon_row(minutes: int, found: Mapping[str, Any]) -> Row:
    cells = [
        (share(found["event_recall"]), between(found["event_recall_ci"], share)),
        (f"{found['hits']} / {found['late']} / {found['misses']}", ""),
        (number(found["false_alarms_per_symbol_day"]), between(found["false_alarms_ci"])),
        (number(found["lead_time_min"]["p50"]), ""),
        (share(found["alarm_time_share"]), ""),
        (number(found["area_skill_score"]), ""),
        (number(found["average_precision_lift"]), between(found["average_precision_lift_ci"])),
        (share(found["prevalence"]), ""),
        (number(found["brier_skill"]), ""),
        (number(found["circular_shift_p"]), ""),
        (_score(found["threshold"]), ""),
    ]
    return {
        "name": f"{minutes} min", "cells": [{"value": value, "more": more} for value, more in cells], "grey": False,
    }  # fmt: skip


def _value_row(name: str, found: Mapping[str, Any] | None) -> Row:
    told = found or {}
    even = told.get("break_even_min")
    cells = [
        (usd(told["value_usd"]) if told else words.NOTHING, between(told.get("value_usd_ci"), usd)),
        (usd(told["avoided_usd"]) if told else words.NOTHING, ""),
        (usd(told["restriction_usd"]) if told else words.NOTHING, ""),
        (number(told.get("restricted_min")), ""),
        (number(even), "restricted minutes" if even is not None else ""),
    ]
    return {"name": name, "cells": [{"value": value, "more": more} for value, more in cells], "grey": False}


def usd(value: float) -> str:
    """
    >>> usd(-1234.4), usd(2_500_000.0)
    ('-1,234 USD', '2,500,000 USD')
    """
    return f"{value:,.0f} USD"


def assumed(costs: Costs) -> list[str]:
    """Every assumption behind the decision value, one sentence each."""
    return [
        "There is no closed loop in history: nobody knows what an action would have changed. The command loop measures "
        "it at the simulator, the model with the guardrails against the guardrails alone.",
        f"Every alert is acted upon: its symbol is restricted from the first alert of an episode until "
        f"{costs.action_min} min after the last, at {costs.restricted_min_usd:,.2f} USD a minute.",
        f"A cascade of average severity costs {costs.event_usd:,.0f} USD, others in proportion to their severity; "
        "where severity is unknown, all alike.",
        f"An action before a cascade that was warned of in time avoids {costs.avoided_share:.0%} of its loss; a late "
        "one avoids nothing.",
        "The guardrails would act on facts either way: what they avoid and cost is the same on both sides, and drops "
        "out.",
    ]


def _plain(name: str, cells: Sequence[str], *, grey: bool = False) -> Row:
    return {"name": name, "cells": [{"value": value, "more": ""} for value in cells], "grey": grey}


def lead_rows(scorers: Mapping[str, Evaluation], minutes: Sequence[str]) -> list[Row]:
    return [
        _plain(
            name,
            [
                *(number(one.found["lead_time_min"][q]) for q in ("p10", "p50", "p90")),
                *(share(one.found["lead_time_min"]["survival"][m]) for m in minutes),
            ],
        )
        for name, one in scorers.items()
    ]


def _molchan_rows(scorers: Mapping[str, Evaluation]) -> list[Row]:
    return [
        _plain(name, [share(draw.missed_within(one.diagram, tau)) if one.diagram else words.NOTHING for tau in TAUS])
        for name, one in scorers.items()
    ]


def _precision_rows(scorers: Mapping[str, Evaluation]) -> list[Row]:
    return [
        _plain(
            name,
            [share(draw.precision_at(one, recall)) for recall in RECALLS]
            + [number(one.found["average_precision"]), share(one.found["prevalence"])],
        )
        for name, one in scorers.items()
    ]


def _keyed_rows(scorers: Mapping[str, Evaluation], key: str, text: Any) -> tuple[list[str], list[Row]]:
    """A row per scorer of a figure that is told by several keys: the keys, and the rows."""
    keys = list(next(iter(scorers.values())).found[key])
    return keys, [_plain(name, [text(one.found[key][k]) for k in keys]) for name, one in scorers.items()]


def _part_row(name: str, found: Mapping[str, Any]) -> Row:
    cells = [
        str(found["events"]), f"{found['hits']} / {found['late']} / {found['misses']}", share(found["event_recall"]),
        between(found["event_recall_ci"], share), str(found["episodes"]), str(found["false_episodes"]),
        number(found["false_alarms_per_symbol_day"]), number(found["lead_time_min"]["p50"]),
        number(found["average_precision_lift"]), number(found["roc_auc"]), number(found["covered_symbol_days"]),
    ]  # fmt: skip
    return _plain(name, cells, grey=found["events"] < EVENTS_MIN)


def _by_symbol(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The most events first, then the most false episodes."""
    order = sorted(found, key=lambda name: (-found[name]["events"], -found[name]["false_episodes"], name))
    return [_part_row(name, found[name]) for name in order]


# --- calibration ---


def _calibration(of: Evaluation, confidence: float) -> Row | None:
    """The parts of the Brier score, the bins and their bounds; None where scores are no probabilities."""
    found = of.found
    if found["corp"] is None:
        return None
    bins = draw.reliability_bins(of)
    bounds = [clopper_pearson(e, n, confidence) or (0.0, 1.0) for n, e in bins.select("rows", "events").iter_rows()]
    rows = [
        _plain(share(said), [f"{n:,}", f"{e:,}", share(e / n), between(bound, share)])
        for (said, n, e), bound in zip(bins.iter_rows(), bounds, strict=True)
    ]
    names = ("brier", "brier_skill", "log_loss")
    parts = {name.replace("_", " "): found[name] for name in names} | found["corp"]
    return {"bins": bins, "bounds": bounds, "rows": rows, "parts": {n: number(v) for n, v in parts.items()}}


# --- moments ---


def _lasted(start: datetime, end: datetime) -> str:
    return words.duration((end - start).total_seconds()) if end > start else "one bar"


def _events_rows(events: pl.DataFrame) -> list[Row]:
    return [
        {
            "onset": words.moment(row["onset"]), "symbol": row["symbol"], "outcome": row["outcome"],
            "said": draw.outcome_words(row), "length": _lasted(row["onset"], row["end"]),
            "severity": number(row["severity"]), "peak": _score(row["peak"]), "peak_at": words.moment(row["peak_at"]),
        }
        for row in events.to_dicts()
    ]  # fmt: skip


def _with_reasons(rows: pl.DataFrame, seen: Seen | None) -> list[list[Row] | None]:
    """The reasons at the `peak_at` of every row; None where nobody told any."""
    if seen is None:
        return [None] * rows.height
    told = seen.reasons.unique(["symbol", "ts"], keep="first", maintain_order=True).select(
        "symbol", "reasons", peak_at="ts"
    )
    found = rows.join(told, on=["symbol", "peak_at"], how="left", maintain_order="left")
    return [words.reasons(text) or None for text in found["reasons"]]


def _missed_rows(found: Moments, seen: Seen | None) -> list[Row]:
    worst = found.worst_misses()
    told = zip(_events_rows(worst), _with_reasons(worst, seen), strict=True)
    return [row | {"reasons": reasons} for row, reasons in told]


def _false_rows(episodes: pl.DataFrame, seen: Seen | None) -> list[Row]:
    told = zip(episodes.to_dicts(), _with_reasons(episodes, seen), strict=True)
    return [
        {
            "start": words.moment(row["start"]), "symbol": row["symbol"], "alerts": f"{row['alerts']:,}",
            "length": _lasted(row["start"], row["end"]), "peak": _score(row["peak"]),
            "peak_at": words.moment(row["peak_at"]), "reasons": reasons,
        }
        for row, reasons in told
    ]  # fmt: skip


# --- the whole ---


def _period(of: Evaluation) -> str:
    days = of.days.to_list()
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}" if days else words.NOTHING


def _settings(judged: Judged) -> list[Row]:
    rows = []
    for name, value in asdict(judged.settings).items():
        if value is not None and name in SETTINGS:
            said, unit = SETTINGS[name]
            text = words.moment(value) if name == "fit_until" else f"{value:g} {unit}".strip()
            rows.append({"name": name, "said": said, "value": text})
    return rows


def _drawn(
    scorers: Mapping[str, Evaluation], judged: Judged, found: Moments, calibration: Row | None
) -> dict[str, tuple[Figure | None, int]]:
    """Figure and height by panel; None where there is nothing to draw."""
    of = judged.of
    events = bool(of.found["events"])
    timeline, height = draw.timeline_figure(found.events, found.episodes)
    reliable = calibration and draw.reliability_figure(of, calibration["bins"], calibration["bounds"])
    return {
        "lift": (draw.lift_figure(scorers), 100 + 26 * len(scorers)),
        "leads": (draw.leads_figure(scorers, judged.settings) if events else None, 360),
        "molchan": (draw.molchan_figure(scorers) if events else None, 380),
        "precision": (draw.precision_figure(scorers) if of.found["average_precision"] is not None else None, 380),
        "reliability": (reliable or None, 400),
        "ablation": (draw.ablation_figure(judged.ablation), 100 + 26 * len(judged.ablation)),
        "timeline": (timeline if found.events.height + found.episodes.height else None, height),
    }


def _numbered(drawn: Mapping[str, tuple[Figure | None, int]]) -> tuple[dict[str, Row], list[Figure]]:
    figures = [figure for figure, _ in drawn.values() if figure is not None]
    present = [name for name, (figure, _) in drawn.items() if figure is not None]
    plots = {
        name: {"drawn": name in present, "number": present.index(name) if name in present else 0, "height": height}
        for name, (_, height) in drawn.items()
    }
    return plots, figures


def legend_of(names: Sequence[str]) -> list[Row]:
    lines = draw.lines_of(list(names))
    return [{"name": shown(name), "text": name, "colour": lines[name]["color"]} for name in names]


def views(judged: Judged, found: Moments, seen: Seen | None) -> dict[str, Any]:
    """Everything the template shows, as plain values; `figures` are the plots."""
    of, told = judged.of, judged.of.found
    scorers = {judged.name: of, **judged.baselines}
    calibration = _calibration(of, judged.settings.confidence)
    plots, figures = _numbered(_drawn(scorers, judged, found, calibration))
    minutes = list(told["lead_time_min"]["survival"])
    budgets, at_budget = _keyed_rows(scorers, "recall_at_budget", share)
    preferences, useful = _keyed_rows(scorers, "relative_usefulness", number)
    profiles, nab = _keyed_rows(scorers, "nab", number)
    return {
        "name": judged.name, "period": _period(of), "kind": kind(judged), "figures": figures, "plots": plots,
        "verdict": verdict(judged.name, told), "beside": beside(judged), "tiles": _tiles(told),
        "legend": legend_of(list(scorers)), "table_rows": [main_row(name, one.found) for name, one in scorers.items()],
        "survival_heads": [f"≥ {minute} min" for minute in minutes], "leads": lead_rows(scorers, minutes),
        "events": told["events"], "hits": told["hits"],
        "late": told["late"], "misses": told["misses"], "taus": [share(tau) for tau in TAUS],
        "molchan": _molchan_rows(scorers), "recalls": [share(recall) for recall in RECALLS],
        "precision": _precision_rows(scorers), "calibration": calibration,
        "listed": _events_rows(found.events[:LISTED_MAX]), "more": max(found.events.height - LISTED_MAX, 0),
        "severe": found.events["severity"].null_count() < found.events.height,
        "missed": _missed_rows(found, seen), "false_alarms": _false_rows(found.worst_false(), seen),
        "longest": _false_rows(found.longest_false(), seen), "seen": seen is not None,
        "false_episodes": told["false_episodes"], "by_month": [_part_row(*item) for item in told["by_month"].items()],
        "by_symbol": _by_symbol(told["by_symbol"]), "events_min": EVENTS_MIN,
        "symbols_left_out": max(len(told["by_symbol"]) - draw.SYMBOLS_MAX, 0),
        "budgets": budgets, "at_budget": at_budget, "preferences": preferences, "useful": useful,
        "horizons": [_horizon_row(minutes, one.found) for minutes, one in judged.horizons.items()],
        "ablation": [
            _plain(row["name"], [number(row["ap_lift"]), _bounds(row), number(row["roc_auc"])])
            for row in judged.ablation
        ],
        "value": [_value_row(name, one.found["decision_value"]) for name, one in scorers.items()],
        "assumed": assumed(judged.settings.costs), "label": _label(judged),
        "profiles": [profile.replace("_", " ") for profile in profiles], "nab": nab,
        "health": _health(seen), "interval": "" if seen is None else seen.interval,
        "warnings": [*of.warnings, *judged.notes], "notes": span_words(judged.settings), "settings": _settings(judged),
        "threshold": _score(told["threshold"]), "rows": f"{told['scored_rows']:,}",
    }  # fmt: skip


def _bounds(row: Mapping[str, Any]) -> str:
    return words.NOTHING if row["low"] is None or row["high"] is None else between((row["low"], row["high"]))


def _label(judged: Judged) -> str:
    """What an event is, and by which version of its definition."""
    told = dict(judged.label or {})
    name, version = told.pop("name", None), told.pop("version", None)
    if name is None:
        return ""
    more = ", ".join(f"{setting} {value}" for setting, value in told.items())
    return f"{name}" + ("" if version is None else f" v{version}") + (f" ({more})" if more else "")


def _health(seen: Seen | None) -> list[Row]:
    return [
        {
            "input": row["input"], "missing": share(sum(row["faults"].values())),
            "said": ", ".join(f"{fault} {share(part)}" for fault, part in row["faults"].items()) or "none",
            "hot": sum(row["faults"].values()) >= 0.05,
        }
        for row in (() if seen is None else seen.health)
    ]  # fmt: skip


def rendered(template: str, figures: list[Any], **values: Any) -> str:
    """A page with plots as text: style, scripts and plotly stand in it, and only those scripts may run."""
    folder = resources.files("pipelines").joinpath("templates")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "evaluation.js"))
    plotly = get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["dated"] = dated
    return environment.get_template(template).render(
        **values, style=style, script=script, plotly=plotly, figures=json_for_html(figures),
        script_sources=" ".join(script_hash(text) for text in (plotly, script)),
    )  # fmt: skip


def render_evaluation(judged: Judged, source: Source) -> str:
    """The page as text. `source` is what was judged: its scores tell the peaks, its lake, if any, the reasons."""
    found = moments(judged.of, source.columns[judged.name], source.events, judged.settings)
    witness = source.witness
    seen = None if witness is None else Seen(witness.reasons(found.looked_at()), witness.health(), witness.interval)
    values = views(judged, found, seen)
    return rendered("evaluation.html.j2", values.pop("figures"), **values)
