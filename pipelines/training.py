"""Step `train`: what the lake holds of one venue -> a registered early-warning model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features.labels import events
from features.matrix import Beside, columns_read, features_and_health
from models.fitting import Grow, grow, known_features
from models.gate import Probe, prefix_probe
from models.warning import WarningModel, feature_names
from pipelines.case import Case, case_of
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.labels import label_flags
from pipelines.lake import Lake
from pipelines.matrix import norms_at, reach_of, read_matrix
from pipelines.pretraining import Base, pretrain
from pipelines.progress import Say, silent
from pipelines.score import prepare
from pipelines.times import Interval
from pipelines.tracking import Registry, RegistryError
from pipelines.train import Causality, TrainSummary, train_case
from pipelines.tuning import tune

PROBED = timedelta(hours=6)  # of the end of the period, scored again with less and less of it
CUTS = (timedelta(hours=3), timedelta(minutes=30), timedelta(0))


@dataclass(frozen=True)
class Options:
    """How to train, beside the configuration."""

    pretrain: tuple[Path, ...] = ()
    ablate: bool = False
    tune: int = 0  # trials; 0: settings as configured
    grow: Grow = grow
    engine: str = "local"  # where `grow` grows, for the record


def causality_of(lake: Lake, venue: str, interval: Interval, config: Config) -> Causality:
    """Scores the last hours of `interval` from bars cut off ever earlier: nothing before a cut may move."""
    bar_s = config.bars.interval_s
    read = Interval(interval.end - PROBED - reach_of(bar_s), interval.end)

    def probe(model: WarningModel) -> Probe:
        bars = lake.scan("bars", venue, read.start, read.end).select(columns_read(bar_s)).sort("symbol", "ts").collect()
        structure = lake.scan("structure", venue, read.start, read.end).collect()
        norms = norms_at(lake, venue, bars, bar_s)

        def score_upto(cut: datetime) -> pl.DataFrame:
            beside = Beside(structure.filter(pl.col("known_at") <= cut), norms)
            seen = bars.filter(pl.col("ts") <= cut)
            matrix, _ = features_and_health(seen, beside, bar_s=bar_s, since=interval.end - PROBED)
            return model.predict(matrix).drop("venue", "abstain_reason")

        return prefix_probe(score_upto, [interval.end - cut for cut in CUTS])

    return probe


def load_case(
    lake: Lake, venue: str, interval: Interval, config: Config, options: Options, *, say: Say = silent
) -> tuple[Case, Base | None]:
    """Bars, features and labels of `interval`, and the base if lakes to pretrain on are named."""
    prepare(lake, venue, interval, say, bar_s=config.bars.interval_s)
    flags = label_flags(lake, venue, interval, config)
    found = events(flags, config.label.refractory_min)
    matrix = read_matrix(lake, venue, interval)
    say(f"training {venue}: {found.height} cascades")
    case = case_of(matrix, found, config, flags, grow=options.grow)
    if not options.pretrain:
        return case, None
    told = case.rows.filter(pl.col("y_60m").is_not_null())
    known = known_features(told, feature_names(matrix), config.base.known_share_min)
    base = pretrain(options.pretrain, told["ts"].min(), known, config, say, grow=options.grow)  # type: ignore[arg-type]
    return case_of(matrix, found, config, flags, base=base.trees, grow=options.grow), base


def _extra(interval: Interval, options: Options, base: Base | None) -> dict[str, Any]:
    told: dict[str, Any] = {"interval": str(interval), "engine": options.engine}
    if base is not None:
        told |= {"pretrain": json.dumps([str(path) for path in options.pretrain]), **base.params()}
    return told


def train_venue(
    lake: Lake,
    venue: str,
    interval: Interval,
    config: Config,
    say: Say = silent,
    *,
    options: Options = Options(),
    at: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrainSummary:
    """Bars, features and labels of `interval`, then walk-forward training, calibration, the gate and registration."""
    case, base = load_case(lake, venue, interval, config, options, say=say)
    tuned = tune(case, options.tune, lake.root / "mlflow" / "tuning.db", say) if options.tune else None
    if tuned is not None:
        case = replace(case, config=tuned.config)
    told = {"venue": venue, "interval": str(interval)} | dict(tags or {})
    if base is not None:
        told["base_sha256"] = base.data_sha256
    try:
        return train_case(
            case,
            Registry(config.mlflow, lake.root),
            told,
            at=at or datetime.now(UTC),
            causality=causality_of(lake, venue, interval, config),
            ablate=options.ablate,
            extra=_extra(interval, options, base) | (tuned.params() if tuned else {}),
            artifacts={"tuning.json": tuned.to_json()} if tuned else {},
        )
    except RegistryError as error:
        raise InputError(str(error)) from None
