"""Two scorers on the same rows and events: which of them warned of what, and whether the difference is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from models.bootstrap import Difference, average_precision_of, day_index, paired_difference
from models.evaluation.alarms import HIT
from models.evaluation.evaluate import Parts, evaluate
from models.evaluation.figures import Evaluation
from models.evaluation.settings import Settings
from pipelines.evaluating.run import verdict


@dataclass(frozen=True)
class Paired:
    """`only_a`, `only_b`, `both`, `neither`: events by who warned of them in time; `p`: exact McNemar.

    `precision`: average precision of B less that of A, over days drawn again; null with an event on no row.
    """

    a: Evaluation
    b: Evaluation
    names: tuple[str, str]
    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    precision: Difference | None

    def to_json(self) -> dict[str, Any]:
        events = {name: getattr(self, name) for name in ("both", "only_a", "only_b", "neither")}
        return {
            "a": self.a.found | {"scorer": self.names[0]},
            "b": self.b.found | {"scorer": self.names[1]},
            "paired": {
                "events": events,
                "mcnemar_p": self.p,
                "average_precision_difference": None if self.precision is None else self.precision.to_dict(),
                "false_alarms_difference": _less(self.b.found, self.a.found),
            },
        }

    def sentence(self) -> str:
        a, b = self.names
        said = [
            verdict(a, self.a.found),
            verdict(b, self.b.found),
            f"Both warned of {self.both} events, {a} alone of {self.only_a}, {b} alone of {self.only_b}, neither of "
            f"{self.neither} (exact McNemar p {self.p:.2f}).",
        ]
        if self.precision is not None and self.precision.low is not None:
            one = self.precision
            said.append(
                f"Average precision of {b} less that of {a}: {one.difference:.4f} [{one.low:.4f}, {one.high:.4f}]."
            )
        return "\n".join(said)


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


def _precision(a: Parts, b: Parts, events: pl.DataFrame, settings: Settings) -> Difference | None:
    from features.labels import future_event_within

    rows = pl.concat([part.select("symbol", "ts", "score") for part in a()])
    mate = pl.concat([part.select("symbol", "ts", other="score") for part in b()])
    both = rows.join(mate, on=["symbol", "ts"]).drop_nulls()
    future = future_event_within(both.select("symbol", "ts"), events, settings.horizon_min, settings.refractory_min)
    target = pl.col(f"future_event_within_{settings.horizon_min}").cast(pl.Float64)
    told = both.join(future.select("symbol", "ts", y=target), on=["symbol", "ts"]).drop_nulls()
    if not told["y"].sum():
        return None
    day = day_index(told["ts"])
    y = told["y"].to_numpy()
    first, second = (average_precision_of(day, y, told[name].to_numpy()) for name in ("score", "other"))
    days = int(day.max()) + 1
    return paired_difference(
        first, second, days, replicates=settings.replicates, seed=settings.seed, confidence=settings.confidence
    )


def compare(a: Parts, b: Parts, events: pl.DataFrame, settings: Settings, names: tuple[str, str]) -> Paired:
    """Judge both on the rows that both answered, each by its own threshold within the same budget.

    Raises ValueError where no row is left.
    """
    first, second = _answered(a, b), _answered(b, a)
    one, two = (evaluate(parts, events, settings) for parts in (first, second))
    keys = ["symbol", "onset"]
    joined = one.events.select(*keys, hit_a=pl.col("outcome") == HIT).join(
        two.events.select(*keys, hit_b=pl.col("outcome") == HIT), on=keys
    )
    hit_a, hit_b = (joined[name].to_numpy().astype(bool) for name in ("hit_a", "hit_b"))
    both, only_a, only_b, neither = (
        int(np.sum(cell)) for cell in (hit_a & hit_b, hit_a & ~hit_b, ~hit_a & hit_b, ~hit_a & ~hit_b)
    )
    precision = _precision(first, second, events, settings)
    return Paired(one, two, names, both, only_a, only_b, neither, mcnemar(only_a, only_b), precision)
