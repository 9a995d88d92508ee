"""How scorers are grown: trees alone, trees on top of a base, or a line. Same rows, settings and seed: same bytes.

Classes are not weighted (that ruins probabilities): quiet rows are thinned at a known rate and the log-odds corrected.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from models.calibration import Floats, logit, platt, sigmoid
from models.periods import INTERVALS, TARGETS, Periods, count_events, periods, thin
from models.scorers import INTERVAL, Line, Stack, Trees, lightgbm, shares, with_interval

CLIP_SHARES = (0.005, 0.995)  # beyond these quantiles an input of a line counts as the quantile
NEWTON_STEPS_MAX = 50
LEVEL_TOLERANCE = 1e-12

Grow = Callable[[dict[str, Any], int, Floats, Floats, Floats | None], str]


@dataclass(frozen=True)
class TreeSettings:
    """Small trees and large leaves: minutes before one event are near copies, so there are fewer facts than rows."""

    rounds: int = 200
    leaves: int = 7
    learning_rate: float = 0.05
    leaf_rows_min: int = 100
    l2: float = 10.0
    negative_share: float = 0.25  # of the quiet rows kept for training
    threads: int = 1


@dataclass(frozen=True)
class Recipe:
    """How trees are grown. `monotone`: +1 where more of a feature never lowers the risk, -1 where never raises it."""

    settings: TreeSettings
    seed: int
    monotone: Mapping[str, int]
    grow: Grow

    def grown(self, inputs: Floats, happened: Floats, features: tuple[str, ...], start: Floats | None = None) -> str:
        """Trees over `features` and the interval, the last column of `inputs`."""
        signs = [*(self.monotone.get(name, 0) for name in features), 0]
        chosen = parameters(self.settings, signs, self.seed) | {"feature_names": features}
        if start is not None:
            chosen |= {"boost_from_average": False}
        return self.grow(chosen, self.settings.rounds, inputs, happened, start)

    def drawn(self, rows: pl.DataFrame) -> tuple[Periods, Floats]:
        """The rows to learn from and the correction for those left out."""
        return thin(_checked(periods(rows)), self.settings.negative_share, self.seed)


TOP = TreeSettings(rounds=100, leaves=2, leaf_rows_min=500, l2=50.0)  # what few events may add to a base
BASE = TreeSettings(rounds=200, leaves=15, leaf_rows_min=500)


def parameters(settings: TreeSettings, monotone: list[int], seed: int) -> dict[str, Any]:
    """LightGBM's parameters; the bytes of the trees do not depend on `threads` (see the tests)."""
    return {
        "objective": "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.leaf_rows_min,
        "lambda_l2": settings.l2,
        "feature_fraction": 1.0,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": settings.threads,
        "seed": seed,
        "verbosity": -1,
    } | ({"monotone_constraints": monotone} if any(monotone) else {})


def text_of(booster: Any) -> str:
    """The trees without the settings they were grown with: those are recorded elsewhere, and name the threads."""
    return str(booster.model_to_string()).split("\nparameters:", maxsplit=1)[0] + "\n"


def grow(parameters: dict[str, Any], rounds: int, inputs: Floats, happened: Floats, start: Floats | None) -> str:
    """Trees on this machine; the last column of `inputs` is the interval, `start` the log-odds to begin from."""
    names = [*parameters["feature_names"], INTERVAL]
    chosen = {name: value for name, value in parameters.items() if name != "feature_names"}
    data = lightgbm().Dataset(inputs, label=happened, init_score=start, feature_name=names, params=chosen)
    return text_of(lightgbm().train(chosen, data, num_boost_round=rounds))


def values_of(frame: pl.DataFrame, features: tuple[str, ...]) -> Floats:
    """Shape (rows, features), nulls as NaN."""
    return np.ascontiguousarray(frame.select(pl.col(features).cast(pl.Float64)).to_numpy(), dtype=np.float64)


def _checked(found: Periods) -> Periods:
    if not 0 < found.happened.sum() < found.happened.size:
        raise ValueError("train slice must hold minutes with and without an onset within the longest horizon")
    return found


def _inputs(rows: pl.DataFrame, features: tuple[str, ...], drawn: Periods) -> Floats:
    return with_interval(values_of(rows, features)[drawn.row], drawn.interval.astype(np.float64))


def fit_trees(rows: pl.DataFrame, features: tuple[str, ...], recipe: Recipe) -> Trees:
    """One booster for all intervals. `rows` has `features` and the targets.

    Raises ValueError without both outcomes.
    """
    drawn, shift = recipe.drawn(rows)
    text = recipe.grown(_inputs(rows, features, drawn), drawn.happened, features)
    return Trees(features, text, tuple(shift.tolist()))


def _level(log_odds: Floats, happened: Floats) -> float:
    """The constant that makes the mean of sigmoid(log_odds + constant) the share of what happened (Newton)."""
    level = float(logit(np.array([happened.mean()]))[0] - logit(np.array([sigmoid(log_odds).mean()]))[0])
    for _ in range(NEWTON_STEPS_MAX):
        p = sigmoid(log_odds + level)
        step = float((happened.mean() - p.mean()) / max(float((p * (1 - p)).mean()), np.finfo(np.float64).tiny))
        level += float(np.clip(step, -2.0, 2.0))
        if abs(step) < LEVEL_TOLERANCE:
            break
    return level


def fit_stack(rows: pl.DataFrame, base: Trees, features: tuple[str, ...], recipe: Recipe) -> Stack:
    """Trees that start from what `base` says and may use only `features`: those that the base has not seen.

    Few events cannot teach again what much history has taught; they can teach what is new, how often it happens here,
    and how far to believe the base (`models.calibration.platt`, each event of `rows` counted once).
    """
    drawn, shift = recipe.drawn(rows)
    threads = recipe.settings.threads
    said = base.log_odds(values_of(rows, base.features), threads)[drawn.row, drawn.interval]
    thinned = shift[drawn.interval]
    level = _level(said + thinned, drawn.happened)
    weight = min(1.0, count_events(rows, TARGETS[-1]) / float(drawn.happened.sum()))
    slope, rest = platt(said + level, drawn.happened, weight, thinned)
    offset = slope * level + rest
    start = slope * said + offset + thinned  # as it stands among the thinned rows
    inputs = _inputs(rows, features, drawn)
    text = recipe.grown(inputs, drawn.happened, features, start)
    top = Trees(features, text, (0.0,) * len(INTERVALS))
    spread = shares(np.array([slope * np.std(said), np.std(top.raw(inputs, threads))]))
    return Stack(base, top, slope, offset, float(spread[0]))


def _standard(values: Floats, tails: list[str]) -> dict[str, tuple[Any, ...]]:
    """Clip, centre, scale by feature; a feature without spread has scale 1."""
    low, high = np.nanquantile(values, CLIP_SHARES, axis=0)
    held = np.clip(values, low, high)
    centre, scale = np.nanmedian(held, axis=0), np.nanstd(held, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    columns = {"low": low, "high": high, "centre": centre, "scale": scale}
    return {name: tuple(column.tolist()) for name, column in columns.items()} | {
        "folded": tuple(tail == "both" for tail in tails)
    }


def fit_line(
    rows: pl.DataFrame, features: tuple[str, ...], l2: float, monotone: Mapping[str, int], tails: Mapping[str, str]
) -> Line:
    """Logistic regression with a ridge on the weights, one level per interval, on all rows (no thinning).

    minimises  sum log(1 + exp(u)) - y u + l2 / 2 sum weight ** 2,   u = level[interval] + weight . z

    A feature whose both tails mean risk enters by its distance from the median. `monotone` bounds the sign of a weight.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - a second to import; only fitting needs it

    found = _checked(periods(rows))
    values = values_of(rows, features)
    blank = Line(features, **_standard(values, [tails.get(name, "high") for name in features]), weight=(), level=())
    z, y, j = blank.z(values)[found.row], found.happened, found.interval
    count, wide = len(features), len(INTERVALS)

    def loss(beta: Floats) -> tuple[float, Floats]:
        u = z @ beta[:count] + beta[count:][j]
        miss = sigmoid(u) - y
        value = float(np.logaddexp(0.0, u).sum() - y @ u + 0.5 * l2 * beta[:count] @ beta[:count])
        return value, np.concatenate([z.T @ miss + l2 * beta[:count], np.bincount(j, weights=miss, minlength=wide)])

    rates = np.array([found.of(k).happened.mean() if len(found.of(k)) else 0.5 for k in range(wide)])
    signs = [monotone.get(name, 0) for name in features]
    bounds = [(0.0 if sign > 0 else None, 0.0 if sign < 0 else None) for sign in signs] + [(-30.0, 30.0)] * wide
    start = np.concatenate([np.zeros(count), np.clip(logit(rates), -30, 30)])
    beta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    return Line(
        features,
        blank.low,
        blank.high,
        blank.centre,
        blank.scale,
        blank.folded,
        weight=tuple(beta[:count].tolist()),
        level=tuple(beta[count:].tolist()),
    )


def known_features(rows: pl.DataFrame, offered: tuple[str, ...], share_min: float = 0.0) -> tuple[str, ...]:
    """Those of `offered` with more than `share_min` values in `rows`. Raises ValueError where there is none."""
    nulls = rows.select(pl.col(offered).null_count()).row(0) if offered and rows.height else ()
    found = tuple(
        name for name, count in zip(offered, nulls, strict=bool(nulls)) if count < (1.0 - share_min) * rows.height
    )
    if not found:
        raise ValueError("matrix must hold a feature that is not wholly null in the train slice")
    return found
