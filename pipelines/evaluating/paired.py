"""Two scorers on the same rows and events: which of them warned of what, and whether the difference is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from models.bootstrap import (
    Difference,
    Floats,
    Statistic,
    average_precision_of,
    paired_difference,
    ratio_of_sums,
)
from models.evaluation.alarms import HIT
from models.evaluation.decision import daily_value
from models.evaluation.evaluate import Parts, evaluate
from models.evaluation.figures import Evaluation
from models.evaluation.settings import DAY_S, Settings
from pipelines.evaluating.run import verdict

KEYS = ("symbol", "onset", "end")


@dataclass(frozen=True)
class Paired:
    """`only_a`, `only_b`, `both`, `neither`: events by who warned of them in time; `p`: exact McNemar.

    `differences`: B less A by figure, with intervals from days drawn again; a figure that no row tells is left out.
    `events`: `symbol, onset, end` with `outcome` and `lead_min` of each, `_a` and `_b`.
    """

    a: Evaluation
    b: Evaluation
    names: tuple[str, str]
    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    differences: Mapping[str, Difference]
    events: pl.DataFrame
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        events = {name: getattr(self, name) for name in ("both", "only_a", "only_b", "neither")}
        told = {name: one.to_dict() for name, one in self.differences.items()}
        return {
            "a": self.a.found | {"scorer": self.names[0]},
            "b": self.b.found | {"scorer": self.names[1]},
            "paired": {
                "events": events,
                "mcnemar_p": self.p,
                "average_precision_difference": told.get("average_precision"),
                "false_alarms_difference": _less(self.b.found, self.a.found),
                "differences": told,
            },
        }

    def sentence(self) -> str:
        a, b = self.names
        said = [verdict(a, self.a.found), verdict(b, self.b.found), self.headline()]
        for name, one in self.differences.items():
            bounds = "" if one.low is None or one.high is None else f" [{one.low:.4f}, {one.high:.4f}]"
            if one.difference is not None:
                said.append(f"{FIGURES[name]} of {b} less that of {a}: {one.difference:.4f}{bounds}.")
        return "\n".join(said)

    def headline(self) -> str:
        """Who warned of what, and whether the two are told apart."""
        a, b = self.names
        return (
            f"Both warned of {self.both} events, {a} alone of {self.only_a}, {b} alone of {self.only_b}, neither of "
            f"{self.neither} (exact McNemar p {self.p:.2f})."
        )


FIGURES = {
    "event_recall": "Event recall",
    "false_alarms_per_symbol_day": "False alarms a symbol-day",
    "average_precision": "Average precision",
    "decision_value_usd": "Decision value a day, USD,",
}


def _less(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return float(one["false_alarms_per_symbol_day"] - other["false_alarms_per_symbol_day"])


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p that A and B are as likely to be the one that alone warns.

    >>> mcnemar(0, 5), mcnemar(2, 2)
    (0.0625, 1.0)
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _answered(parts: Parts, other: Parts) -> Parts:
    """The rows of `parts` that `other` answered too."""

    def each() -> Any:
        known = {str(part["symbol"][0]): part for part in other() if part.height}
        for part in parts():
            mate = known.get(str(part["symbol"][0])) if part.height else None
            if mate is not None:
                yield part.join(mate.filter(pl.col("score").is_not_null()), on="ts", how="semi", maintain_order="left")

    return each


@dataclass(frozen=True)
class _Days:
    """The days that hold a row, in order; statistics over them, of A and of B."""

    days: pl.Series
    settings: Settings

    def sums(self, rows: pl.DataFrame, ts: str, weight: pl.Expr) -> Floats:
        """Sums of `weight` by day; what lies outside of all days counts with the nearest."""
        told = rows.select(day=pl.col(ts).dt.date(), weight=weight.cast(pl.Float64))
        place = np.clip(self.days.search_sorted(told["day"], "left").to_numpy(), 0, self.days.len() - 1)
        return np.bincount(place, weights=told["weight"].to_numpy(), minlength=self.days.len()).astype(np.float64)

    def difference(self, a: Statistic, b: Statistic) -> Difference:
        own = self.settings
        return paired_difference(
            a, b, self.days.len(), replicates=own.replicates, seed=own.seed, confidence=own.confidence
        )


def _differences(one: Evaluation, two: Evaluation, rows: pl.DataFrame, settings: Settings) -> dict[str, Difference]:
    """By figure, B less A. `rows`: `symbol, ts, score, other, y` that both answered."""
    over = _Days(rows["ts"].dt.date().unique().sort(), settings)
    bars = over.sums(rows, "ts", pl.lit(settings.bar_s / DAY_S))
    hit, false, each = (pl.col("outcome") == HIT), pl.col("false"), pl.lit(1.0)
    recall = [
        ratio_of_sums(over.sums(of.events, "onset", hit), over.sums(of.events, "onset", each)) for of in (one, two)
    ]
    alarms = [ratio_of_sums(over.sums(of.episodes, "start", false), bars) for of in (one, two)]
    worth = [ratio_of_sums(_daily_value(of, over), np.ones(over.days.len())) for of in (one, two)]
    told = {"event_recall": recall, "false_alarms_per_symbol_day": alarms, "decision_value_usd": worth}
    known = rows.drop_nulls()
    if known["y"].sum():
        day, y = over.days.search_sorted(known["ts"].dt.date()).to_numpy(), known["y"].to_numpy()
        told["average_precision"] = [
            average_precision_of(day, y, known[name].to_numpy()) for name in ("score", "other")
        ]
    if not one.events.height:
        told.pop("event_recall")
    return {name: over.difference(*told[name]) for name in FIGURES if name in told}


def _daily_value(of: Evaluation, over: _Days) -> Floats:
    return daily_value(of.events, of.episodes, over.days, over.settings.costs)


def _rows(a: Parts, b: Parts, events: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    from features.labels import future_event_within

    rows = pl.concat([part.select("symbol", "ts", "score") for part in a()])
    mate = pl.concat([part.select("symbol", "ts", other="score") for part in b()])
    both = _judged(rows.join(mate, on=["symbol", "ts"]).drop_nulls(), settings)
    future = future_event_within(both.select("symbol", "ts"), events, settings.horizon_min, settings.refractory_min)
    target = pl.col(f"future_event_within_{settings.horizon_min}").cast(pl.Float64)
    return both.join(future.select("symbol", "ts", y=target), on=["symbol", "ts"], how="left").sort("ts")


def _judged(rows: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    return rows if settings.fit_until is None else rows.filter(pl.col("ts") > settings.fit_until)


def compare(a: Parts, b: Parts, events: pl.DataFrame, settings: Settings, names: tuple[str, str]) -> Paired:
    """Judge both on the rows that both answered, each by its own threshold within the same budget.

    Raises ValueError where no row is left.
    """
    first, second = _answered(a, b), _answered(b, a)
    one, two = (evaluate(parts, events, settings) for parts in (first, second))
    told = ("outcome", "lead_min")
    joined = one.events.select(*KEYS, *(pl.col(name).alias(f"{name}_a") for name in told)).join(
        two.events.select("symbol", "onset", *(pl.col(name).alias(f"{name}_b") for name in told)),
        on=["symbol", "onset"],
    )
    hit_a, hit_b = (joined[f"outcome_{which}"] == HIT for which in "ab")
    both, only_a, only_b, neither = (
        int(cell.sum()) for cell in (hit_a & hit_b, hit_a & ~hit_b, ~hit_a & hit_b, ~hit_a & ~hit_b)
    )
    differences = _differences(one, two, _rows(first, second, events, settings), settings)
    return Paired(
        one, two, names, both, only_a, only_b, neither, mcnemar(only_a, only_b), differences, joined, settings
    )
