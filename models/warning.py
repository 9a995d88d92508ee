"""The early-warning model: how likely a cascade starts within 5, 15, 30, 60 and 240 minutes.

One hazard model over five intervals, so that the horizons can never contradict each other:

    h[j]   = P(onset in interval j | none before)          # scorer, then a calibrator per interval
    p(H)   = 1 - prod (1 - h[j])  over the intervals up to H
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from models.calibration import Calibrator, Floats, fit_calibrator, sigmoid
from models.fitting import values_of
from models.periods import HORIZONS_MIN, TARGETS, by_horizon, count_events, periods
from models.precedents import Precedent
from models.scorers import Scorer, scorer_from_dict
from models.support import Support
from models.venn_abers import Band, fit_band

KEYS = ("venue", "symbol", "ts")
NOT_FEATURES = (*KEYS, "known_at")
FORMAT = 2
ALERT_HORIZON_MIN = 60
ALERT = f"p_{ALERT_HORIZON_MIN}m"
PROBABILITIES = tuple(f"p_{horizon}m" for horizon in HORIZONS_MIN)
BAND = (f"{ALERT}_low", f"{ALERT}_high")
ABSTAINS = ("inputs missing", "inputs beyond what the training saw")


@dataclass(frozen=True)
class Limits:
    """When the model keeps silent, by the share of its importance that is missing, or outside the training range."""

    missing_share_max: float = 0.5
    outside_share_max: float = 0.5


@dataclass(frozen=True)
class WarningModel:
    """Everything a prediction needs, as plain values. `dropped` features were wholly null in training."""

    scorer: Scorer
    calibrators: tuple[Calibrator, ...]
    band: Band
    support: Support
    limits: Limits = Limits()
    dropped: tuple[str, ...] = ()
    threshold: float | None = None  # on the alert horizon; alert at or above
    precedents: tuple[Precedent, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        return self.scorer.features

    @property
    def importance(self) -> tuple[float, ...]:
        return tuple(self.scorer.importance.tolist())

    def values(self, matrix: pl.DataFrame) -> Floats:
        """The model's inputs by name, in its order, nulls as NaN. Raises ValueError naming absent columns."""
        absent = [name for name in self.features if name not in matrix.columns]
        if absent:
            raise ValueError(f"matrix must hold every feature of the model, lacked {', '.join(absent)}")
        return values_of(matrix, self.features)

    def share(self, marked: Floats) -> Floats:
        """Share of the model's importance that rests on `marked` inputs (0 or 1), by row; in [0, 1]."""
        weight = self.scorer.importance
        if not weight.sum() > 0:
            weight = np.full(len(self.features), 1.0)
        return np.asarray(np.clip((marked * (weight / weight.sum())).sum(axis=1), 0.0, 1.0), dtype=np.float64)

    def hazards(self, values: Floats, threads: int = 1) -> Floats:
        """Calibrated hazard of every interval; shape (rows, intervals)."""
        raw = sigmoid(self.scorer.log_odds(values, threads))
        return np.column_stack([calibrate(raw[:, j]) for j, calibrate in enumerate(self.calibrators)])

    def predict(self, matrix: pl.DataFrame, threads: int = 1) -> pl.DataFrame:
        """One row per row of `matrix`: `venue, symbol, ts`, PROBABILITIES, BAND, and why it abstained if it did.

        Probabilities never fall with the horizon. Where `missing_share` or `outside_share` exceeds its limit the model
        abstains: probabilities and band are null, `abstained` is true and `abstain_reason` says which. A row's result
        depends on that row alone.

        Raises ValueError if a feature of the model is not a column of `matrix`.
        """
        values = self.values(matrix)
        p = by_horizon(self.hazards(values, threads))
        low, high = self.band(p[:, HORIZONS_MIN.index(ALERT_HORIZON_MIN)])
        missing, outside = self.share(np.isnan(values).astype(np.float64)), self.share(self.support.outside(values))
        reason = np.select(
            [~(missing <= self.limits.missing_share_max), ~(outside <= self.limits.outside_share_max)], ABSTAINS, ""
        )
        told = [*zip(PROBABILITIES, p.T, strict=True), *zip(BAND, (low, high), strict=True)]
        return (
            matrix.select(KEYS)
            .with_columns(
                *(pl.Series(name, column) for name, column in told),
                pl.Series("missing_share", missing),
                pl.Series("outside_share", outside),
                pl.Series("abstain_reason", reason.tolist(), dtype=pl.String).replace("", None),
            )
            .with_columns(abstained=pl.col("abstain_reason").is_not_null())
            .with_columns(pl.when(~pl.col("abstained")).then(name).alias(name) for name, _ in told)
        )

    def with_threshold(self, threshold: float) -> "WarningModel":
        return replace(self, threshold=threshold)

    def to_json(self) -> str:
        """The model as text: the same model gives the same bytes."""
        plain = {
            "format": FORMAT,
            "scorer": self.scorer.to_dict(),
            "calibrators": [one.to_dict() for one in self.calibrators],
            "band": self.band.to_dict(),
            "support": self.support.to_dict(),
            "limits": {"missing": self.limits.missing_share_max, "outside": self.limits.outside_share_max},
            "dropped": self.dropped,
            "threshold": self.threshold,
            "precedents": [one.to_dict() for one in self.precedents],
            "metadata": self.metadata,
        }
        return json.dumps(plain, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "WarningModel":
        """The inverse of `to_json`. Raises ValueError on another format or trees that name other features."""
        raw = json.loads(text)
        if not (isinstance(raw, dict) and raw.get("format") == FORMAT):
            raise ValueError(f"warning model must be in format {FORMAT}")
        return cls(
            scorer=scorer_from_dict(raw["scorer"]),
            calibrators=tuple(Calibrator.from_dict(one) for one in raw["calibrators"]),
            band=Band.from_dict(raw["band"]),
            support=Support.from_dict(raw["support"]),
            limits=Limits(raw["limits"]["missing"], raw["limits"]["outside"]),
            dropped=tuple(raw["dropped"]),
            threshold=raw["threshold"],
            precedents=tuple(Precedent(**one) for one in raw["precedents"]),
            metadata=raw["metadata"],
        )


def feature_names(matrix: pl.DataFrame) -> tuple[str, ...]:
    """All columns but keys, time stamps and targets."""
    return tuple(name for name in matrix.columns if name not in (*NOT_FEATURES, *TARGETS))


def labelled(matrix: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Matrix and targets side by side, in canonical order, so that the order of the input does not matter.

    Raises ValueError for more than one venue.
    """
    if not matrix["venue"].n_unique() <= 1:
        raise ValueError(f"matrix must hold one venue, held {matrix['venue'].n_unique()}")
    columns = targets.select("symbol", "ts", *TARGETS)
    return matrix.join(columns, on=["symbol", "ts"], how="left", validate="1:1").sort("symbol", "ts")


def rows_per_event(rows: pl.DataFrame) -> tuple[float | None, ...]:
    """For every interval how many of `rows` tell of one event there, on average; null without an event."""
    at_risk = periods(rows)
    parts = [at_risk.of(j) for j in range(len(TARGETS))]
    counts = [count_events(rows[part.row], target) for part, target in zip(parts, TARGETS, strict=True)]
    return tuple(
        max(1.0, float(part.happened.sum()) / count) if count else None
        for part, count in zip(parts, counts, strict=True)
    )


def calibrated(scorer: Scorer, train: pl.DataFrame, rows: pl.DataFrame, threads: int = 1) -> tuple[Calibrator, ...]:
    """One calibrator per interval from `rows` (features and targets) that the scorer was not grown on.

    `train`, that it was grown on, tells how many rows one event has.
    """
    raw = sigmoid(scorer.log_odds(values_of(rows, scorer.features), threads))
    at_risk, copies = periods(rows), rows_per_event(train)
    found = []
    for j, target in enumerate(TARGETS):
        part = at_risk.of(j)
        events = count_events(rows[part.row], target)
        found.append(fit_calibrator(raw[part.row, j], part.happened, events, copies[j]))
    return tuple(found)


def fitted(
    scorer: Scorer,
    train: pl.DataFrame,
    calibrate: pl.DataFrame,
    *,
    limits: Limits = Limits(),
    dropped: tuple[str, ...] = (),
    metadata: Mapping[str, Any] | None = None,
    threads: int = 1,
) -> WarningModel:
    """Calibration, band and support around a scorer that was grown on `train`.

    `calibrate` holds later rows with targets; empty intervals there stay uncalibrated.
    """
    support = Support.fit(values_of(train, scorer.features))
    model = WarningModel(
        scorer, calibrated(scorer, train, calibrate, threads), Band(), support, limits, dropped, metadata=metadata or {}
    )
    known = calibrate.filter(pl.col(f"y_{ALERT_HORIZON_MIN}m").is_not_null())
    p = by_horizon(model.hazards(values_of(known, scorer.features), threads))
    happened = np.asarray(known[f"y_{ALERT_HORIZON_MIN}m"].cast(pl.Float64).to_numpy(), dtype=np.float64)
    return replace(model, band=fit_band(p[:, HORIZONS_MIN.index(ALERT_HORIZON_MIN)], happened, widen_share=0.01))
