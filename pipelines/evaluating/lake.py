"""A lake's own scores: by a registered model or walk-forward, with events by a label and baselines by feature."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from features.labels import events
from models.evaluation.evaluate import Parts
from models.warning import ALERT, WarningModel
from pipelines.case import slices
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.evaluating.run import Source
from pipelines.evaluating.witness import of_models
from pipelines.labels import label_flags
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from pipelines.progress import Say, silent
from pipelines.score import prepare, unfit
from pipelines.times import Interval
from pipelines.training import Options, load_case
from pipelines.trial import BASELINES, judged, risky


@dataclass(frozen=True)
class Asked:
    """Which time of which venue."""

    venue: str
    interval: Interval
    config: Config


def labelled_by(config: Config, label: str | None) -> Config:
    """The settings with another label. Raises InputError for one that is not known."""
    if label is None:
        return config
    return config.model_copy(update={"label": config.label.model_copy(update={"name": label})})


def _by_symbol(rows: pl.DataFrame, score: pl.Expr) -> Parts:
    told = rows.select("symbol", "ts", available_at="known_at", score=score.cast(pl.Float64).fill_nan(None))
    finite = told.with_columns(score=pl.when(pl.col("score").is_finite()).then("score"))
    ordered = finite.sort("symbol", "ts")

    def each() -> Iterator[pl.DataFrame]:
        yield from ordered.partition_by("symbol", maintain_order=True)

    return each


def _columns(name: str, rows: pl.DataFrame) -> dict[str, Parts]:
    known = [(label, column) for label, column in BASELINES if rows[column].null_count() < rows.height]
    return {name: _by_symbol(rows, pl.col(ALERT))} | {label: _by_symbol(rows, risky(column)) for label, column in known}


def _overlap(model: WarningModel, interval: Interval) -> tuple[str, ...]:
    seen = datetime.fromisoformat(model.metadata["threshold"][1])
    if seen <= interval.start:
        return ()
    return (f"the model learned from rows up to {seen:%Y-%m-%dT%H:%MZ}: what it says of them is no warning",)


def by_model(lake: Lake, asked: Asked, model: WarningModel, uri: str, say: Say = silent) -> Source:
    """The scores of one model over the interval. Raises InputError where it was made for other bars or features."""
    venue, interval, config = asked.venue, asked.interval, asked.config
    fault = unfit(model, config.bars.interval_s)
    if fault:
        raise InputError(f"{uri} {fault}", mend="train anew, or name another with --model")
    prepare(lake, venue, interval, say, bar_s=config.bars.interval_s)
    matrix = read_matrix(lake, venue, interval)
    said = model.predict(matrix, config.warning.threads).select("symbol", "ts", ALERT)
    rows = matrix.join(said, on=["symbol", "ts"], how="left", maintain_order="left")
    found = events(label_flags(lake, venue, interval, config), config.label.refractory_min)
    witness = of_models([(model, matrix)], lake, venue, interval)
    return Source(_columns(uri, rows), found, notes=_overlap(model, interval), witness=witness)


def walk_forward(lake: Lake, asked: Asked, options: Options, say: Say = silent) -> Source:
    """What models said of time after their training, fold after fold. InputError where no fold could be judged."""
    case, _ = load_case(lake, asked.venue, asked.interval, asked.config, options, say=say)
    folds, _ = slices(case)
    found = []
    for number, fold in enumerate(folds):
        say(f"fold {number + 1} of {len(folds)}")
        found.append(judged(case, number, fold))
    parts = [one.rows for one in found if one.rows is not None]
    if not parts:
        raise InputError("no fold could be judged", where=str(asked.interval), mend="give a longer interval")
    notes = tuple(f"fold {n}: {one.report.note}" for n, one in enumerate(found) if one.report.note)
    pairs = [(one.model, one.rows) for one in found if one.model is not None and one.rows is not None]
    witness = of_models(pairs, lake, asked.venue, asked.interval)
    return replace(Source(_columns("walk-forward", pl.concat(parts)), case.events), notes=notes, witness=witness)
