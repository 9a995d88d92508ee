"""Calibration: turn a model's raw probability into one that can be read as a frequency.

With few events a two-parameter curve (Platt) is safer than isotonic regression, which then emits exact zeros; with
very few even its two parameters must be held near what the model says by itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVENTS_FOR_ISOTONIC = 100  # below, Platt had the better log loss
NEWTON_STEPS_MAX = 100
NEWTON_TOLERANCE = 1e-10
PRIOR_SD = 1.0  # of slope and offset, in log-odds: a model whose thinning is undone is expected to be nearly right
RAW_FLOOR = 1e-9  # raw probabilities are held this far from 0 and 1 before their log-odds are taken

Floats = NDArray[np.float64]


def logit(p: Floats) -> Floats:
    """log(p / (1 - p)), with p held within [RAW_FLOOR, 1 - RAW_FLOOR].

    >>> logit(np.array([0.5])).tolist()
    [0.0]
    """
    held = np.clip(p, RAW_FLOOR, 1.0 - RAW_FLOOR)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)


@dataclass(frozen=True)
class Calibrator:
    """A non-decreasing map from raw to calibrated probability.

    `platt`: sigmoid(y[0] * logit(raw) + y[1]), y[0] >= 0. `isotonic`: linear between the knots (x, y), flat outside.
    `none`: the raw probability. Results lie in [floor, 1 - floor].
    """

    kind: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    floor: float = RAW_FLOOR

    def __call__(self, raw: Floats) -> Floats:
        if self.kind == "platt":
            mapped = sigmoid(self.y[0] * logit(raw) + self.y[1])
        elif self.kind == "isotonic":
            mapped = np.interp(raw, self.x, self.y)
        elif self.kind == "none":
            mapped = np.asarray(raw, dtype=np.float64)
        else:
            raise ValueError(f"kind must be platt, isotonic or none, was {self.kind!r}")
        return np.asarray(np.clip(mapped, self.floor, 1.0 - self.floor), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "x": list(self.x), "y": list(self.y), "floor": self.floor}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibrator":
        """The inverse of `to_dict`; floats survive JSON exactly."""
        return cls(values["kind"], tuple(values["x"]), tuple(values["y"]), values["floor"])


def platt(log_odds: Floats, happened: Floats, weight: float, given: Floats | float = 0.0) -> tuple[float, float]:
    """The most likely slope and offset, by Newton's method, where each event counts once and few events move little.

        minimise  weight * sum log loss(y, sigmoid(slope * log_odds + offset + given))
                  + ((slope - 1)^2 + offset^2) / (2 PRIOR_SD^2)

    `weight` is one over the rows of one event: these are near copies. Without facts the log-odds stay as they are;
    without an event only the offset moves, as nothing tells of the slope. A negative slope would turn the ranking
    round: then slope 0 and the prevalence.
    """
    free = np.array([float(happened.any()), 1.0])
    design = np.column_stack([log_odds, np.ones(log_odds.size)])
    beta = expected = np.array([1.0, 0.0])
    for _ in range(NEWTON_STEPS_MAX):
        p = sigmoid(design @ beta + given)
        curvature = weight * (design * (p * (1 - p))[:, None]).T @ design + np.eye(2) / PRIOR_SD**2
        pull = weight * design.T @ (happened - p) - (beta - expected) / PRIOR_SD**2
        step = np.linalg.solve(curvature * np.outer(free, free) + np.diag(1.0 - free), pull * free)
        beta = beta + np.clip(step, -2.0, 2.0)  # a far start must not overshoot
        if float(np.abs(step).max()) < NEWTON_TOLERANCE:
            break
    if not beta[0] > 0:
        return 0.0, float(logit(np.array([happened.mean()]))[0] - np.mean(given))
    return float(beta[0]), float(beta[1])


def _isotonic(raw: Floats, happened: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Pool adjacent violators on distinct scores; only the ends of each level are kept as knots."""
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - a second to import; only fitting needs it

    x, inverse, count = np.unique(raw, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=happened) / count
    y = np.asarray(isotonic_regression(mean, weights=count).x, dtype=np.float64)
    changes = np.flatnonzero(np.diff(y) != 0)
    knots = np.unique(np.concatenate([[0], changes, changes + 1, [x.size - 1]]))
    return tuple(x[knots].tolist()), tuple(y[knots].tolist())


def fit_calibrator(raw: Floats, happened: Floats, n_events: int, rows_per_event: float | None = None) -> Calibrator:
    """Platt below EVENTS_FOR_ISOTONIC events, isotonic from there on; `none` where nothing can be told.

        floor = 0.5 / (rows + 1)      # half an event more than was seen: never exactly 0 or 1

    `raw` and `happened` (0 or 1) are of equal length, without NaN. `n_events` counts events, not rows: rows of one
    event are near copies of one another, `rows_per_event` of them on average (default: as `happened` tells). Rows
    without any event say that the model is too loud, if `rows_per_event` is known from elsewhere; else, as without a
    row or a quiet row, the kind is `none`.

    Raises ValueError on unequal lengths or NaN. Source: Platt 1999; Zadrozny and Elkan 2002; prior and weight are ours.

    >>> fit_calibrator(np.array([0.1, 0.2]), np.array([0.0, 0.0]), n_events=0).kind
    'none'
    """
    if raw.shape != happened.shape:
        raise ValueError(f"raw and happened must be of equal length, were {raw.size} and {happened.size}")
    if not (np.isfinite(raw).all() and np.isfinite(happened).all()):
        raise ValueError("raw and happened must be finite")
    seen = float(happened.sum())
    if rows_per_event is None and n_events > 0:
        rows_per_event = max(1.0, seen / n_events)
    if rows_per_event is None or not seen < happened.size:
        return Calibrator("none")
    floor = 0.5 / (raw.size + 1)
    if n_events < EVENTS_FOR_ISOTONIC:
        return Calibrator("platt", y=platt(logit(raw), happened, 1 / rows_per_event), floor=floor)
    x, y = _isotonic(raw, happened)
    return Calibrator("isotonic", x=x, y=y, floor=floor)
