"""A scorer beside its baselines: the same events, the same settings, one table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from models.evaluation.evaluate import Parts, evaluate
from models.evaluation.figures import Evaluation
from models.evaluation.settings import Settings
from models.evaluation.tally import cut
from pipelines.errors import InputError
from pipelines.progress import Say, silent
from pipelines.times import show_time

if TYPE_CHECKING:
    from pipelines.evaluating.witness import Witness

ALWAYS_ON = "always_on"
NEARER = 4
FIT_SHARE = 3  # the threshold is chosen on the first third, where nothing else is said
TOLD = ("event_recall", "false_alarms_per_symbol_day", "average_precision_lift", "area_skill_score", "circular_shift_p")


@dataclass(frozen=True)
class Judged:
    """The scorer's evaluation, its baselines', and the JSON of all.

    `horizons`: the scorer by how far ahead a warning counts; `ablation`: rows of `pipelines.evaluating.ablation`.
    """

    name: str
    of: Evaluation
    baselines: Mapping[str, Evaluation]
    settings: Settings
    notes: tuple[str, ...] = ()
    label: Mapping[str, Any] | None = None
    horizons: Mapping[int, Evaluation] = field(default_factory=dict)
    ablation: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        beside = {name: one.found for name, one in self.baselines.items()}
        chosen = {name: value for name, value in asdict(self.settings).items() if value is not None}
        warnings = [*self.of.found["warnings"], *self.notes]
        head = {"scorer": self.name, "label": self.label}
        more = {
            "horizons": {str(minutes): one.found for minutes, one in self.horizons.items()},
            "ablation": list(self.ablation),
        }
        return {**head, **self.of.found, **more, "warnings": warnings, "baselines": beside, "settings": chosen}

    def sentence(self) -> str:
        """The verdict, the table, and what is to be borne in mind."""
        rows = [(self.name, self.of.found), *((name, one.found) for name, one in self.baselines.items())]
        lines = [verdict(self.name, self.of.found), "", _row("", TOLD), *(_row(n, _cells(f)) for n, f in rows)]
        return "\n".join(
            [*lines, *(f"  note: {text}" for text in (*self.of.warnings, *self.notes, *span_words(self.settings)))]
        )


def first_third(parts: Parts) -> datetime | None:
    """The moment that a third of the time lies before; None for no rows."""
    ends = pl.concat([part.select(first=pl.col("ts").min(), last=pl.col("ts").max()) for part in parts()])
    found: datetime | None = ends.select(
        pl.col("first").min() + (pl.col("last").max() - pl.col("first").min()) / FIT_SHARE
    ).item()
    return found


def always_on(parts: Parts) -> Parts:
    """The same rows, all with the same score."""
    return lambda: (part.with_columns(score=pl.when(pl.col("score").is_not_null()).then(1.0)) for part in parts())


def matched(settings: Settings, parts: Parts, share: float) -> Settings:
    """`settings` with the threshold that at most `share` of the rows of `parts` reach: no outcome is asked."""
    counted = [_counted(part) for part in parts()]
    levels = pl.concat(counted).group_by("score").agg(pl.col("rows").sum()).sort("score", descending=True)
    reached = levels.with_columns(share=pl.col("rows").cum_sum() / pl.col("rows").sum())
    within = reached.filter(pl.col("share") <= share * (1 + 1e-9))["score"]
    return replace(settings, threshold=float(within[-1]) if within.len() else float("inf"))


def _counted(part: pl.DataFrame) -> pl.DataFrame:
    known = part["score"].drop_nulls()
    return pl.DataFrame({"score": cut(known.to_numpy())}).group_by("score").agg(rows=pl.len())


@dataclass(frozen=True)
class Source:
    """What is judged: `columns` by name, the scorer first, its baselines after it; events, and where it ran.

    `horizons`: what the scorer says of each horizon in minutes, where it tells them apart; `ablation`: how it ranks on
    some of its features. `label`: what an event is, where that is known: `name, version` of its definition, and its
    parameters. `witness`: the lake that can tell the reasons of single moments, where there is one.
    """

    columns: Mapping[str, Parts]
    events: pl.DataFrame
    coverage: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()
    witness: "Witness | None" = None
    label: Mapping[str, Any] | None = None
    horizons: Mapping[int, Parts] = field(default_factory=dict)
    ablation: tuple[Mapping[str, Any], ...] = ()


def run(source: Source, settings: Settings, say: Say = silent) -> Judged:
    """Judge the scorer, its baselines, and an alarm that is always on.

    A threshold that is given is the scorer's own; a baseline then gets the one that as many of its rows reach. Raises
    InputError where nothing can be judged.
    """
    (name, scorer), *others = source.columns.items()
    try:
        say(name)
        of = evaluate(scorer, source.events, settings, source.coverage)
        share = _share_above(scorer, of.found["threshold"]) if settings.threshold is not None else None
        beside = {}
        for other, parts in others:
            say(other)
            own = settings if share is None else matched(settings, parts, share)
            beside[other] = evaluate(parts, source.events, own, source.coverage)
        on = replace(settings, threshold=0.5)
        beside[ALWAYS_ON] = evaluate(always_on(scorer), source.events, on, source.coverage)
        horizons = {}
        for minutes, parts in _horizons(source, scorer, settings).items():
            say(f"{minutes} min")
            own = at_horizon(settings if share is None else matched(settings, parts, share), minutes)
            known = minutes == settings.horizon_min and parts is scorer
            horizons[minutes] = of if known else evaluate(parts, source.events, own, source.coverage)
    except ValueError as error:
        raise InputError(f"nothing can be judged ({error})", mend="give scores and events of the same time") from None
    return Judged(name, of, beside, settings, source.notes, source.label, horizons, source.ablation)


def _horizons(source: Source, scorer: Parts, settings: Settings) -> dict[int, Parts]:
    """What is judged at each horizon, the nearest first: what the scorer says of it, else the score itself.

    A scorer that does not tell horizons apart is judged at a quarter of its horizon too: does it warn late? Horizons
    that hold no bar are left out.
    """
    told = dict(source.horizons) or {max(settings.horizon_min // NEARER, 1): scorer}
    wanted = dict(sorted((told | {settings.horizon_min: scorer}).items()))
    return {minutes: parts for minutes, parts in wanted.items() if minutes * 60 >= settings.bar_s}


def at_horizon(settings: Settings, minutes: int) -> Settings:
    """`settings` for another horizon; a lead that lies beyond it is none."""
    lead_min = settings.lead_min if settings.lead_min < minutes else 0.0
    return replace(settings, horizon_min=minutes, lead_min=lead_min)


def _share_above(parts: Parts, threshold: float) -> float:
    above = known = 0
    for part in parts():
        known += part["score"].count()
        above += int((part["score"] >= threshold).sum())
    return above / known if known else 0.0


# --- words ---


def _row(name: str, cells: tuple[str, ...]) -> str:
    return f"{name:<28}" + "".join(f"{cell:>30}" for cell in cells)


def _interval(value: float | None, bounds: tuple[float, float] | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if bounds is None else f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]")


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _interval(found["event_recall"], found["event_recall_ci"]),
        _interval(found["false_alarms_per_symbol_day"], found["false_alarms_ci"]),
        _interval(found["average_precision_lift"], found["average_precision_lift_ci"], 1),
        _interval(found["area_skill_score"], None),
        _interval(found["circular_shift_p"], None, 3),
    )


def verdict(name: str, found: Mapping[str, Any], *, words: Callable[[float], str] = "{:.0%}".format) -> str:
    """One sentence: what was warned of in time, at which price, and whether chance would have done it too."""
    if not found["events"]:
        return f"{name}: no event to warn of in {found['covered_symbol_days']:.1f} symbol-days; nothing can be said."
    low, high = found["event_recall_ci"]
    lead = found["lead_time_min"]["p50"]
    said = (
        f"{name} warned of {found['hits']} of {found['events']} events in time "
        f"({words(found['event_recall'])}, {words(low)} to {words(high)})"
        + (f", by {lead:.0f} min at the median" if lead is not None else "")
        + f", with {found['false_alarms_per_symbol_day']:.2f} false alarms a symbol-day"
    )
    p = found["circular_shift_p"]
    if found["alarm_time_share"] > 0.5:
        return f"{said}; it stands under alarm {words(found['alarm_time_share'])} of the time: that is no warning."
    if found["events"] < 5:
        return f"{said}; so few events support no claim."
    if p is None:
        return f"{said}; the period is too short to tell it from chance."
    return f"{said}; " + (
        f"chance does as well in {p:.1%} of shifts." if p <= 0.05 else f"chance may do as well (p {p:.2f})."
    )


def span_words(settings: Settings) -> tuple[str, ...]:
    until = settings.fit_until
    return () if until is None else (f"rows up to {show_time(until)} chose the threshold and are not judged",)
