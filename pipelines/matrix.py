"""Step `features`: bars, positions and collateral -> structure -> the feature matrix."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from features.catalogue import LOOKBACK_MIN, NAMES
from features.matrix import STRUCTURE_AGE_MIN_MAX, feature_matrix
from features.schema import Structure
from features.structure import structure
from pipelines.lake import Lake
from pipelines.times import Interval

LOOKBACK = timedelta(minutes=LOOKBACK_MIN)
_STRUCTURE_LOOKBACK = LOOKBACK + timedelta(minutes=STRUCTURE_AGE_MIN_MAX)


@dataclass(frozen=True)
class FeaturesSummary:
    venue: str
    interval: str
    rows: int
    features: int
    null_share: dict[str, float]


def build_structure(lake: Lake, venue: str, interval: Interval) -> pl.DataFrame:
    """Structure per positions snapshot in `interval`, written to the lake; empty where the venue shows no positions."""
    positions = lake.scan("positions", venue, interval.start, interval.end).collect()
    if positions.is_empty():
        return Structure.create_empty()
    collateral = lake.scan("collateral", venue, interval.start, interval.end).collect()
    marks = lake.scan("marks", venue, interval.start - timedelta(hours=1), interval.end).collect()
    rows = structure(positions, collateral, marks, lake.scan("instruments", venue).collect())
    with lake.writer():
        lake.replace("structure", rows, venue, interval.start, interval.end)
    return rows


def build_features(lake: Lake, venue: str, interval: Interval) -> FeaturesSummary:
    """Compute every feature for every bar of `interval` and put it in place of what was there. Idempotent."""
    bars = lake.scan("bars", venue, interval.start - LOOKBACK, interval.end).collect()
    rows = build_structure(lake, venue, Interval(interval.start - _STRUCTURE_LOOKBACK, interval.end))

    matrix = feature_matrix(bars, rows).filter(pl.col("ts") > interval.start)

    with lake.writer():
        lake.replace("features", matrix, venue, interval.start, interval.end)
    nulls = matrix.select(pl.col(name).null_count() / max(matrix.height, 1) for name in NAMES).row(0, named=True)
    return FeaturesSummary(venue, str(interval), matrix.height, len(NAMES), nulls)


def read_matrix(lake: Lake, venue: str, interval: Interval) -> pl.DataFrame:
    """The feature matrix of `interval` as the lake holds it, sorted by symbol and ts."""
    return lake.scan("features", venue, interval.start, interval.end).sort("symbol", "ts").collect()
