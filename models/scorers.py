"""What turns a row of features into log-odds of each interval: trees, a line, or trees on top of trees.

All three are plain values, know their features by name and order, give a row the same number in any batch, and tell
for each feature what it added. `values` are (rows, features) in the scorer's order, NaN where a feature is null.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from models.calibration import Floats
from models.periods import INTERVALS

INTERVAL = "interval"  # the last input of trees: the place in INTERVALS


class Scorer(Protocol):
    """What a model needs of whatever scores."""

    @property
    def features(self) -> tuple[str, ...]: ...

    @property
    def importance(self) -> Floats:
        """Share of each feature in what moves the log-odds, summing to 1; all 0 where nothing does."""
        ...

    def log_odds(self, values: Floats, threads: int = 1) -> Floats:
        """Shape (rows, intervals)."""
        ...

    def contributions(self, values: Floats, interval: int, threads: int = 1) -> Floats:
        """Shape (rows, features + 1), log-odds; the last column is the base. A row sums to its `log_odds`."""
        ...

    def to_dict(self) -> dict[str, Any]: ...


def lightgbm() -> Any:
    import lightgbm as found  # noqa: PLC0415 - takes seconds to import; only training and scoring with trees need it

    return found


@lru_cache(maxsize=16)
def _booster(text: str) -> Any:
    return lightgbm().Booster(model_str=text)


def shares(amounts: Floats) -> Floats:
    """`amounts` over their sum; all 0 where nothing is there.

    >>> shares(np.array([1.0, 3.0])).tolist(), shares(np.zeros(2)).tolist()
    ([0.25, 0.75], [0.0, 0.0])
    """
    return np.asarray(amounts / max(float(amounts.sum()), np.finfo(np.float64).tiny), dtype=np.float64)


def with_interval(values: Floats, interval: Floats | float) -> Floats:
    """`values` with the interval (one, or one per row) as their last column."""
    return np.column_stack([values, np.broadcast_to(np.asarray(interval, dtype=np.float64), values.shape[0])])


@dataclass(frozen=True)
class Trees:
    """Boosted trees over features and the interval; `shift` per interval undoes the thinning of quiet rows."""

    kind: ClassVar[str] = "trees"
    features: tuple[str, ...]
    text: str
    shift: tuple[float, ...]

    @property
    def importance(self) -> Floats:
        gain = np.asarray(_booster(self.text).feature_importance(importance_type="gain"), dtype=np.float64)
        return shares(gain[:-1])

    def raw(self, rows: Floats, threads: int = 1) -> Floats:
        """Log-odds of rows that name their interval in the last column, before `shift`."""
        if not rows.shape[0]:
            return np.empty(0)
        return np.asarray(_booster(self.text).predict(rows, raw_score=True, num_threads=threads), dtype=np.float64)

    def log_odds(self, values: Floats, threads: int = 1) -> Floats:
        found = [self.raw(with_interval(values, j), threads) + self.shift[j] for j in range(len(INTERVALS))]
        return np.column_stack(found)

    def contributions(self, values: Floats, interval: int, threads: int = 1) -> Floats:
        if not values.shape[0]:
            return np.empty((0, len(self.features) + 1))
        rows = with_interval(values, interval)
        parts = np.asarray(_booster(self.text).predict(rows, pred_contrib=True, num_threads=threads), dtype=np.float64)
        base = parts[:, -1] + parts[:, -2] + self.shift[interval]  # what the interval adds belongs to nobody
        return np.column_stack([parts[:, :-2], base])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind} | asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Trees":
        """Raises ValueError where the trees name other features than the scorer."""
        found = cls(tuple(raw["features"]), raw["text"], tuple(raw["shift"]))
        if tuple(_booster(found.text).feature_name()) != (*found.features, INTERVAL):
            raise ValueError("the trees name other features than the model")
        return found


@dataclass(frozen=True)
class Line:
    """Logistic regression: one weight per feature, one level per interval.

    z[j]      = (clip(x[j], low[j], high[j]) - centre[j]) / scale[j], |z[j]| where folded; a null counts as 0
    log-odds  = level[interval] + sum_j weight[j] z[j]
    """

    kind: ClassVar[str] = "line"
    features: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    folded: tuple[bool, ...]
    weight: tuple[float, ...]
    level: tuple[float, ...]

    def z(self, values: Floats) -> Floats:
        """Inputs as the weights see them, shape as `values`."""
        z = (np.clip(values, self.low, self.high) - np.array(self.centre)) / np.array(self.scale)
        return np.where(np.isnan(z), 0.0, np.where(self.folded, np.abs(z), z))

    @property
    def importance(self) -> Floats:
        return shares(np.abs(np.array(self.weight)))

    def _parts(self, values: Floats) -> Floats:
        return np.asarray(self.z(values) * np.array(self.weight), dtype=np.float64)

    def log_odds(self, values: Floats, threads: int = 1) -> Floats:
        return np.asarray(self._parts(values).sum(axis=1)[:, None] + np.array(self.level), dtype=np.float64)

    def contributions(self, values: Floats, interval: int, threads: int = 1) -> Floats:
        return with_interval(self._parts(values), self.level[interval])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind} | asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Line":
        return cls(**{name: tuple(values) for name, values in raw.items() if name != "kind"})


@dataclass(frozen=True)
class Stack:
    """What a base learned from more history, plus what trees learned on top of it from other features.

    log-odds = base.log_odds + offset + top.log_odds
    """

    kind: ClassVar[str] = "stack"
    base: Trees
    top: Trees
    slope: float  # at least 0: how far the base is believed here
    offset: float
    base_weight: float  # how much of what moves the log-odds in training came from the base, in [0, 1]

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.base.features, *(name for name in self.top.features if name not in self.base.features))

    @property
    def importance(self) -> Floats:
        found = dict.fromkeys(self.features, 0.0)
        for part, weight in ((self.base, self.base_weight), (self.top, 1.0 - self.base_weight)):
            for name, share in zip(part.features, part.importance, strict=True):
                found[name] += weight * float(share)
        return shares(np.array(list(found.values())))

    def _places(self, part: Trees) -> list[int]:
        place = {name: k for k, name in enumerate(self.features)}
        return [place[name] for name in part.features]

    def log_odds(self, values: Floats, threads: int = 1) -> Floats:
        base, top = (part.log_odds(values[:, self._places(part)], threads) for part in (self.base, self.top))
        return np.asarray(self.slope * base + self.offset + top, dtype=np.float64)

    def contributions(self, values: Floats, interval: int, threads: int = 1) -> Floats:
        found = np.zeros((values.shape[0], values.shape[1] + 1))
        found[:, -1] = self.offset
        for part, slope in ((self.base, self.slope), (self.top, 1.0)):
            places = self._places(part)
            found[:, [*places, -1]] += slope * part.contributions(values[:, places], interval, threads)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "base": self.base.to_dict(),
            "top": self.top.to_dict(),
            "slope": self.slope,
            "offset": self.offset,
            "base_weight": self.base_weight,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Stack":
        numbers = (raw["slope"], raw["offset"], raw["base_weight"])
        return cls(Trees.from_dict(raw["base"]), Trees.from_dict(raw["top"]), *numbers)


def scorer_from_dict(raw: dict[str, Any]) -> Scorer:
    """The inverse of `to_dict`. Raises ValueError for an unknown kind."""
    known: dict[str, type[Trees] | type[Line] | type[Stack]] = {one.kind: one for one in (Trees, Line, Stack)}
    if raw.get("kind") not in known:
        raise ValueError(f"kind must be one of {', '.join(known)}, was {raw.get('kind')!r}")
    return known[raw["kind"]].from_dict(raw)
