"""Small models and records for tests of the registry: nothing is trained, nothing is random."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from models.calibration import Calibrator
from models.detector import Detector, FeatureNorm, Tail
from models.scorers import INTERVALS, Line
from models.support import Support
from models.venn_abers import Band
from models.warning import WarningModel
from pipelines.tracking import Dataset, Record

START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 60
FEATURES = ("vol_ratio_15", "depth_drop_240")
LOT = Dataset(
    name="v matrix",
    digest="ab" * 32,
    source="lake/tables/features",
    rows=ROWS,
    columns=2,
    schema={"ts": "Datetime(time_unit='us', time_zone='UTC')", "vol_ratio_15": "Float64"},
    start="2025-01-01T00:00:00Z",
    end="2025-01-01T01:00:00Z",
    role="train",
)
RECORD = Record(
    params={"rounds": 5},
    metrics={"lift": [1.5, None, 2.5], "ap": 0.25},
    tags={"venue": "v"},
    artifacts={"card.md": "# A card\n"},
    datasets=(LOT, replace(LOT, role="test", digest="cd" * 32)),
    figures={"curve.png": b"\x89PNG\r\n\x1a\n", "curve.html": "<p>curve</p>"},
    config='{"seed": 7}',
    seeds={"trees": 7},
    headline="ap",
)


def matrix() -> pl.DataFrame:
    ts = [START + timedelta(minutes=k) for k in range(ROWS)]
    values = {name: np.sin(np.arange(ROWS) / (3 + place)) for place, name in enumerate(FEATURES)}
    return pl.DataFrame({"venue": "v", "symbol": "A", "ts": ts, "known_at": ts, **values}).with_columns(
        pl.col("ts", "known_at").cast(pl.Datetime("us", "UTC"))
    )


def warning_model(variant: int = 0) -> WarningModel:
    """A line over two features; another variant is another model with other probabilities."""
    ones = tuple(1.0 for _ in FEATURES)
    line = Line(
        features=FEATURES,
        low=tuple(-5.0 for _ in FEATURES),
        high=tuple(5.0 for _ in FEATURES),
        centre=tuple(0.0 for _ in FEATURES),
        scale=ones,
        folded=tuple(False for _ in FEATURES),
        weight=ones,
        level=tuple(-3.0 - variant for _ in INTERVALS),
    )
    values = matrix().select(FEATURES).to_numpy()
    calibrators = tuple(Calibrator("none") for _ in INTERVALS)
    return WarningModel(line, calibrators, Band(), Support.fit(values), threshold=0.25)


def detector() -> Detector:
    tail = Tail.fit(np.random.default_rng(2).normal(size=500))
    norm = FeatureNorm(FEATURES[0], "family", "high", {"A": 0.0}, {"A": 1.0}, tail)
    return Detector("v", "2025-01-01", (norm,), tail, tail, 3.0, 3.0, ())
