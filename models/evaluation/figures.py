"""The figures of an evaluation: by event, by bar, by month, by symbol, and what they do not support."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from models.evaluation import nab, tally
from models.evaluation.alarm_time import Molchan, molchan, shift_p
from models.evaluation.alarms import HIT, LATE, MISS
from models.evaluation.decision import of_history
from models.evaluation.intervals import clopper_pearson, poisson_rate
from models.evaluation.settings import DAY_S, Judging, Settings
from models.evaluation.symbol import OneSymbol
from models.evaluation.usefulness import by_preference

EVENTS_MIN = 5  # below, nothing can be claimed
TOO_GOOD_AUC = 0.99  # above, a leak is likelier than a forecast
BUDGETS = (0.1, 0.5, 1.0, 2.0)  # episodes per symbol and day
SURVIVAL_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 240)


@dataclass(frozen=True)
class Evaluation:
    """Every figure; `found` is the JSON, the rest is for pages."""

    found: dict[str, Any]
    events: pl.DataFrame
    episodes: pl.DataFrame
    tally: pl.DataFrame  # fine: one day stands for all
    days: pl.Series  # that hold a covered row, in order
    diagram: Molchan | None
    warnings: tuple[str, ...] = field(default=())


def figures(symbols: Iterable[OneSymbol], judging: Judging, fitted: Mapping[float, float]) -> Evaluation:
    """All symbols together. `fitted`: threshold by budget, empty where none was chosen."""
    by_day, fine, found, by_symbol = tally.Gathered(), tally.Gathered(), [], {}
    for one in symbols:
        by_day.add(one.tally)
        fine.add(one.fine)
        by_symbol[one.symbol] = _of_symbol(one, judging.settings)
        found.append(replace(one, tally=one.tally.clear(), fine=one.fine.clear()))
    settings, threshold = judging.settings, judging.policy.threshold
    events = pl.concat([one.events for one in found]).sort("onset", "symbol")
    runs = pl.concat([one.episodes for one in found]).sort("start", "symbol")
    daily, whole = by_day.whole(), fine.whole()
    days = pl.concat([one.days for one in found]).group_by("day").agg(pl.all().sum()).sort("day")
    standing = pl.concat([one.standing for one in found]).group_by("score").agg(pl.col("bars").sum())
    levels, bars_at = (standing[name].to_numpy().astype(np.float64) for name in ("score", "bars"))
    diagram = molchan(levels, bars_at, events["standing"].to_numpy())
    bars = sum(one.bars for one in found)
    shifted = np.sum([one.shifted for one in found], axis=0)
    told = {
        **_by_event(events, runs, bars * settings.bar_s / DAY_S, settings),
        "threshold": threshold,
        "alarm_time_share": sum(one.under_alarm for one in found) / bars,
        "area_skill_score": None if diagram is None else diagram.area_skill,
        "area_skill_chance_sd": None if diagram is None else diagram.chance_sd,
        **_by_bar(whole, daily, days, settings),
        "relative_usefulness": _useful(whole, threshold),
        "decision_value": of_history(events, runs, days["day"], settings.costs, **_sure(settings)),
        "circular_shift_p": shift_p(sum(one.met for one in found), shifted) if events.height else None,
        "nab": {
            name: nab.normalised(
                sum(one.nab_raw[name] for one in found), sum(one.nab_windows for one in found), profile
            )
            for name, profile in nab.PROFILES.items()
        },
        "recall_at_budget": {f"{budget:g}": _recall_at(events, fitted.get(budget)) for budget in BUDGETS},
        "uncovered_events": sum(one.uncovered for one in found),
        "scored_rows": bars,
        "exact_scores": judging.exact,
        "by_month": _by_month(events, runs, daily, days, settings),
        "by_symbol": by_symbol,
    }
    warnings = _warnings(told, days)
    return Evaluation(told | {"warnings": list(warnings)}, events, runs, whole, days["day"], diagram, warnings)


def _sure(settings: Settings) -> dict[str, Any]:
    """How intervals over days are drawn."""
    return {"replicates": settings.replicates, "seed": settings.seed, "confidence": settings.confidence}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _by_event(events: pl.DataFrame, runs: pl.DataFrame, symbol_days: float, settings: Settings) -> dict[str, Any]:
    count = {name: int((events["outcome"] == name).sum()) for name in (HIT, LATE, MISS)}
    false = int(runs["false"].sum())
    leads = events["lead_min"].drop_nulls()
    survival = {
        str(minutes): _share(int((leads >= minutes).sum()), events.height)
        for minutes in SURVIVAL_MIN
        if minutes <= settings.horizon_min
    }
    return {
        "events": events.height,
        "hits": count[HIT],
        "late": count[LATE],
        "misses": count[MISS],
        "event_recall": _share(count[HIT], events.height),
        "event_recall_ci": clopper_pearson(count[HIT], events.height, settings.confidence),
        "episodes": runs.height,
        "false_episodes": false,
        "covered_symbol_days": symbol_days,
        "false_alarms_per_symbol_day": false / symbol_days,
        "false_alarms_ci": poisson_rate(false, symbol_days, settings.confidence),
        "episode_precision": _share(runs.height - false, runs.height),
        "lead_time_min": {f"p{q}": leads.quantile(q / 100, "linear") for q in (10, 50, 90)} | {"survival": survival},
        "expected_cost_per_symbol_day": (
            settings.cost_false_alarm * false + settings.cost_missed * (events.height - count[HIT])
        )
        / symbol_days,
    }


def _by_bar(whole: pl.DataFrame, daily: pl.DataFrame, days: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    precision, rate = tally.average_precision(whole), tally.prevalence(whole)
    found: dict[str, Any] = {
        "prevalence": rate,
        "average_precision": precision,
        "average_precision_lift": None if precision is None or not rate else precision / rate,
        "average_precision_lift_ci": tally.lift_interval(daily, **_sure(settings)),
        "roc_auc": tally.roc_auc(whole),
        **dict.fromkeys(("brier", "brier_skill", "log_loss", "corp")),
    }
    scored = int(days["scored"].sum())
    if not scored or int(days["improper"].sum()) or rate is None:
        return found
    brier, uncertainty = float(days["squares"].sum()) / scored, rate * (1 - rate)
    skill = 1 - brier / uncertainty if uncertainty > 0 else None
    return found | {
        "brier": brier,
        "brier_skill": skill,
        "log_loss": float(days["losses"].sum()) / scored,
        "corp": _corp(whole, brier, uncertainty),
    }


def _corp(whole: pl.DataFrame, brier: float, uncertainty: float) -> dict[str, float]:
    """`miscalibration - discrimination + uncertainty = brier` (see `models.metrics.corp`)."""
    told = tally.reliability(whole)
    best = told.rows * (told.happened * (1 - told.recalibrated) ** 2 + (1 - told.happened) * told.recalibrated**2)
    least = float(best.sum() / told.rows.sum())
    return {"miscalibration": brier - least, "discrimination": uncertainty - least, "uncertainty": uncertainty}


def _useful(whole: pl.DataFrame, threshold: float) -> dict[str, float | None]:
    alert = whole.filter(pl.col("score") >= threshold)
    rows, events = (int(whole[name].sum()) for name in ("rows", "events"))
    said, right = (int(alert[name].sum()) for name in ("rows", "events"))
    if not (events and rows > events):
        return dict.fromkeys(by_preference(0, 0, 0.5))
    return by_preference(1 - right / events, (said - right) / (rows - events), events / rows)


def _recall_at(events: pl.DataFrame, threshold: float | None) -> float | None:
    """Share of the events with a score at or above `threshold` in their warning time."""
    return None if threshold is None else _share(int((events["standing"] >= threshold).sum()), events.height)


def _small(
    events: pl.DataFrame, runs: pl.DataFrame, whole: pl.DataFrame, rows: int, settings: Settings
) -> dict[str, Any]:
    told = _by_event(events, runs, rows * settings.bar_s / DAY_S, settings)
    precision, rate = tally.average_precision(whole), tally.prevalence(whole)
    lift = None if precision is None or not rate else precision / rate
    return told | {"average_precision_lift": lift, "roc_auc": tally.roc_auc(whole)}


def _of_symbol(one: OneSymbol, settings: Settings) -> dict[str, Any]:
    return _small(one.events, one.episodes, one.tally, one.bars, settings)


def _by_month(
    events: pl.DataFrame, runs: pl.DataFrame, whole: pl.DataFrame, days: pl.DataFrame, settings: Settings
) -> dict[str, Any]:
    def of(frame: pl.DataFrame, column: str, month: str) -> pl.DataFrame:
        return frame.filter(pl.col(column).dt.strftime("%Y-%m") == month)

    months = days["day"].dt.strftime("%Y-%m").unique().sort()
    return {
        month: _small(
            of(events, "onset", month),
            of(runs, "start", month),
            of(whole, "day", month),
            int(of(days, "day", month)["rows"].sum()),
            settings,
        )
        for month in months
    }


def _warnings(told: Mapping[str, Any], days: pl.DataFrame) -> tuple[str, ...]:
    events = told["events"]
    auc = told["roc_auc"]
    said = (
        (auc is not None and auc > TOO_GOOD_AUC, f"ROC-AUC {auc}: too good; look for an answer among the inputs"),
        (events < EVENTS_MIN, f"{events} events: fewer than {EVENTS_MIN} support no claim"),
        (
            told["uncovered_events"] > 0,
            f"{told['uncovered_events']} events lie where the scorer did not run, and are not judged",
        ),
        (int(days["improper"].sum()) > 0, "scores are no probabilities: nothing is said of calibration"),
        (told["alarm_time_share"] > 0.5, f"{told['alarm_time_share']:.0%} of the time stands under alarm"),
        (not told["exact_scores"], f"scores were counted with {tally.FINE} bits of mantissa"),
        (
            told["circular_shift_p"] is not None and told["circular_shift_p"] > 0.05,
            "as many hits come by chance in more than 5 % of shifts",
        ),
    )
    return tuple(text for applies, text in said if applies)
