"""The early-warning model: how likely a cascade starts within 15 and within 60 minutes.

Two discrete-time hazards, gradient-boosted trees each: h1 for an onset in (t, t + 15 min], h2 for one in
(t + 15, t + 60 min] given none before. The two horizons can then never contradict each other:

    p_15m = h1,  p_60m = h1 + (1 - h1) h2 = 1 - (1 - h1)(1 - h2) >= p_15m

Classes are not weighted (that ruins probabilities): quiet minutes are thinned at a known rate, and the log-odds
corrected for it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.calibration import Calibrator, Floats, fit_calibrator, sigmoid
from models.splits import Fit, Span

HORIZONS_MIN = (15, 60)
KEYS = ("venue", "symbol", "ts")
NOT_FEATURES = (*KEYS, "known_at")
FORMAT = 1

AT_RISK: tuple[tuple[str, str, pl.Expr], ...] = (
    ("0_15", "y_15m", pl.col("y_15m").is_not_null()),
    ("15_60", "y_60m", (pl.col("y_15m") == 0) & pl.col("y_60m").is_not_null()),
)  # interval in minutes, its target, the rows that can still experience it


@dataclass(frozen=True)
class WarningSettings:
    """Small trees and large leaves: minutes before one event are near copies, so there are fewer facts than rows."""

    rounds: int = 200
    leaves: int = 7
    learning_rate: float = 0.05
    leaf_rows_min: int = 100
    l2: float = 10.0
    negative_share: float = 0.25  # of the quiet minutes kept for training
    missing_share_max: float = 0.5
    threads: int = 2


def _lightgbm() -> Any:
    import lightgbm  # noqa: PLC0415 - takes seconds to import; only training and scoring with a model need it

    return lightgbm


@lru_cache(maxsize=16)
def _booster(trees: str) -> Any:
    return _lightgbm().Booster(model_str=trees)


@dataclass(frozen=True)
class Hazard:
    """One interval's trees; `log_odds_shift` = log(share of quiet minutes kept) undoes the thinning exactly."""

    interval: str
    trees: str
    log_odds_shift: float
    calibrator: Calibrator
    threads: int

    def log_odds(self, values: Floats) -> Floats:
        """Log-odds per row, thinning undone, before calibration."""
        raw = _booster(self.trees).predict(values, raw_score=True, num_threads=self.threads)
        return np.asarray(raw + self.log_odds_shift, dtype=np.float64)

    def contributions(self, values: Floats) -> Floats:
        """Shape (rows, features + 1), log-odds; the last column is the base. A row sums to its `log_odds`."""
        parts = _booster(self.trees).predict(values, pred_contrib=True, num_threads=self.threads)
        parts = np.array(parts, dtype=np.float64)
        parts[:, -1] += self.log_odds_shift
        return parts

    def probability(self, values: Floats) -> Floats:
        return self.calibrator(sigmoid(self.log_odds(values)))

    @property
    def gain(self) -> Floats:
        """Loss reduction per feature, as shares that sum to 1; all 0 for trees without a split."""
        gain = np.asarray(_booster(self.trees).feature_importance(importance_type="gain"), dtype=np.float64)
        return np.asarray(gain / max(float(gain.sum()), np.finfo(np.float64).tiny), dtype=np.float64)


@dataclass(frozen=True)
class WarningModel:
    """Everything a prediction needs, as plain values. `dropped` columns were wholly null in training."""

    features: tuple[str, ...]
    dropped: tuple[str, ...]
    importance: tuple[float, ...]  # per feature, mean share of gain over the hazards
    hazards: tuple[Hazard, ...]
    missing_share_max: float
    threshold: float | None = None  # on p_60m; alert at or above
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def values(self, matrix: pl.DataFrame) -> Floats:
        """The model's inputs by name, in its order, nulls as NaN. Raises ValueError naming absent columns."""
        absent = [name for name in self.features if name not in matrix.columns]
        if absent:
            raise ValueError(f"matrix must hold every feature of the model, lacked {', '.join(absent)}")
        return _values(matrix, self.features)

    def missing_share(self, values: Floats) -> Floats:
        """Share of the model's importance that rests on inputs that are null in a row; in [0, 1]."""
        weight = np.array(self.importance)
        if not weight.sum() > 0:
            weight = np.ones(len(self.features))
        share = (np.isnan(values) * (weight / weight.sum())).sum(axis=1)
        return np.asarray(np.clip(share, 0.0, 1.0), dtype=np.float64)

    def predict(self, matrix: pl.DataFrame) -> pl.DataFrame:
        """One row per row of `matrix`: `venue, symbol, ts, p_15m, p_60m, missing_share, abstained`.

        p_15m <= p_60m always. Where missing_share > missing_share_max the model abstains: both are null. A row's
        result depends on that row alone.

        Raises ValueError if a feature of the model is not a column of `matrix`.
        """
        values = self.values(matrix)
        keys = matrix.select(KEYS)
        if matrix.is_empty():
            first, second, missing = np.empty(0), np.empty(0), np.empty(0)
        else:
            first, second = (hazard.probability(values) for hazard in self.hazards)
            missing = self.missing_share(values)
        answered = pl.col("missing_share") <= self.missing_share_max
        return keys.with_columns(
            pl.Series("p_15m", first),
            pl.Series("p_60m", first + (1.0 - first) * second),
            pl.Series("missing_share", missing),
        ).with_columns(
            pl.when(answered).then("p_15m").alias("p_15m"),
            pl.when(answered).then("p_60m").alias("p_60m"),
            (~answered).alias("abstained"),
        )

    def with_threshold(self, threshold: float) -> "WarningModel":
        return replace(self, threshold=threshold)

    def to_json(self) -> str:
        """The model as text: the same model gives the same bytes."""
        return json.dumps({"format": FORMAT} | asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "WarningModel":
        """The inverse of `to_json`. Raises ValueError on another format or trees that name other features."""
        values = json.loads(text)
        if not (isinstance(values, dict) and values.pop("format", None) == FORMAT):
            raise ValueError(f"warning model must be in format {FORMAT}")
        hazards = tuple(
            Hazard(**(part | {"calibrator": Calibrator.from_dict(part["calibrator"])}))
            for part in values.pop("hazards")
        )
        values |= {name: tuple(values[name]) for name in ("features", "dropped", "importance")}
        model = cls(hazards=hazards, **values)
        if any(tuple(_booster(hazard.trees).feature_name()) != model.features for hazard in hazards):
            raise ValueError("the trees name other features than the model")
        return model


def _values(frame: pl.DataFrame, features: tuple[str, ...]) -> Floats:
    return np.ascontiguousarray(frame.select(pl.col(features).cast(pl.Float64)).to_numpy(), dtype=np.float64)


def feature_names(matrix: pl.DataFrame) -> tuple[str, ...]:
    """All columns but keys and time stamps."""
    return tuple(name for name in matrix.columns if name not in NOT_FEATURES)


def thin(happened: Floats, share: float, seed: int) -> tuple[NDArray[np.intp], float]:
    """Row numbers to train on, ascending: every event row, and `share` of the others; and the log-odds correction.

        kept = max(1, round(share * quiet rows)), drawn without replacement
        correction = log(kept / quiet rows)         # odds among kept rows = true odds / (kept / quiet)

    Raises ValueError if `share` is not in (0, 1] or there is no quiet row.
    """
    quiet = np.flatnonzero(happened == 0)
    if not (0 < share <= 1 and quiet.size > 0):
        raise ValueError(f"share must be in (0, 1] and quiet rows at least 1, were {share} and {quiet.size}")
    kept = max(1, round(share * quiet.size))
    drawn = np.random.default_rng(seed).choice(quiet, size=kept, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(happened > 0), drawn])), float(np.log(kept / quiet.size))


def count_events(rows: pl.DataFrame, target: str) -> int:
    """Runs of 1 in `target` along each symbol: rows before one onset are one event.

    >>> count_events(pl.DataFrame({"symbol": ["A"] * 5, "ts": range(5), "y": [1, 1, 0, 1, None]}), "y")
    2
    """
    now = pl.col(target).fill_null(0) == 1
    opens = now & ~now.shift(1, fill_value=False).over("symbol")
    return int(rows.sort("symbol", "ts").select(opens.sum()).item())


def _parameters(settings: WarningSettings, monotone: list[int], seed: int) -> dict[str, Any]:
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


def _floats(rows: pl.DataFrame, name: str) -> Floats:
    return np.asarray(rows[name].cast(pl.Float64).to_numpy(), dtype=np.float64)


def _grow(rows: pl.DataFrame, target: str, features: tuple[str, ...], parameters: dict[str, Any], rounds: int) -> str:
    lightgbm = _lightgbm()
    data = lightgbm.Dataset(
        _values(rows, features), label=_floats(rows, target), feature_name=list(features), params=parameters
    )
    return str(lightgbm.train(parameters, data, num_boost_round=rounds).model_to_string())


def _hazard(
    interval: str,
    rows: pl.DataFrame,
    target: str,
    features: tuple[str, ...],
    settings: WarningSettings,
    **parameters: Any,
) -> Hazard:
    """Trees on the thinned rows, not calibrated yet."""
    happened = _floats(rows, target)
    if not 0 < happened.sum() < happened.size:
        raise ValueError(
            f"train slice must hold minutes with and without an onset in ({interval.replace('_', ', ')}] min"
        )
    kept, shift = thin(happened, settings.negative_share, parameters["seed"])
    trees = _grow(rows[kept], target, features, parameters, settings.rounds)
    return Hazard(interval, trees, shift, Calibrator("none"), settings.threads)


def _calibrated(hazard: Hazard, rows: pl.DataFrame, target: str, features: tuple[str, ...]) -> Hazard:
    if rows.is_empty():
        return hazard
    raw = hazard.probability(_values(rows, features))
    return replace(hazard, calibrator=fit_calibrator(raw, _floats(rows, target), count_events(rows, target)))


def _slice(data: pl.DataFrame, span: Span, name: str) -> pl.DataFrame:
    rows = data.filter(span.rows())
    if rows.is_empty():
        raise ValueError(f"{name} slice must hold rows, was empty from {span.start} to {span.end}")
    return rows


def _labelled(matrix: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Matrix and targets side by side, in canonical order, so that the order of the input does not matter."""
    columns = targets.select("symbol", "ts", *(f"y_{horizon}m" for horizon in HORIZONS_MIN))
    if not matrix["venue"].n_unique() <= 1:
        raise ValueError(f"matrix must hold one venue, held {matrix['venue'].n_unique()}")
    return matrix.join(columns, on=["symbol", "ts"], how="left", validate="1:1").sort("symbol", "ts")


def train_warning(
    matrix: pl.DataFrame,
    targets: pl.DataFrame,
    fit: Fit,
    settings: WarningSettings,
    seed: int,
    *,
    monotone: Mapping[str, int] | None = None,
) -> WarningModel:
    """Grow both hazards on `fit.train` and calibrate each on `fit.calibrate`; rows outside are not looked at.

    `matrix` has the keys `venue, symbol, ts` (one venue) and Float64 features, `targets` has `symbol, ts, y_15m, y_60m`
    (1, 0 or null; null rows are left out). `monotone` gives +1 (risk never falls) or -1 for some features. Columns
    that are wholly null in the train slice are dropped and recorded. Same input and seed: same model, to the byte.

    Raises ValueError if a slice is empty, no feature is left, or the train slice lacks one of the two outcomes.
    """
    data = _labelled(matrix, targets)
    train, calibrate = _slice(data, fit.train, "train"), _slice(data, fit.calibrate, "calibrate")
    offered = feature_names(matrix)
    features = tuple(name for name in offered if train[name].null_count() < train.height)
    if not features:
        raise ValueError("matrix must hold a feature that is not wholly null in the train slice")
    parameters = _parameters(settings, [(monotone or {}).get(name, 0) for name in features], seed)
    raw = [_hazard(name, train.filter(risk), y, features, settings, **parameters) for name, y, risk in AT_RISK]
    hazards = tuple(
        _calibrated(hazard, calibrate.filter(risk), y, features)
        for hazard, (_, y, risk) in zip(raw, AT_RISK, strict=True)
    )
    importance = np.mean([hazard.gain for hazard in hazards], axis=0)
    return WarningModel(
        features=features,
        dropped=tuple(name for name in offered if name not in features),
        importance=tuple(importance.tolist()),
        hazards=hazards,
        missing_share_max=settings.missing_share_max,
        metadata=_provenance(train, calibrate, fit, settings, seed),
    )


def _provenance(
    train: pl.DataFrame, calibrate: pl.DataFrame, fit: Fit, settings: WarningSettings, seed: int
) -> dict[str, Any]:
    return {
        "seed": seed,
        "settings": asdict(settings),
        "train": [fit.train.start.isoformat(), fit.train.end.isoformat()],
        "calibrate": [fit.calibrate.start.isoformat(), fit.calibrate.end.isoformat()],
        "train_events": count_events(train, "y_60m"),
        "calibrate_events": count_events(calibrate, "y_60m"),
        "train_rows": train.height,
        "calibrate_rows": calibrate.height,
    }
