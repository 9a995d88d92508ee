"""A lake's own scores: by a registered model or walk-forward, with events by a label and baselines by feature."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

import polars as pl

from features.catalogue import FAMILIES, NAMES
from features.drift_rolling import rolling_drift
from features.labels import VERSIONS, events
from models.evaluation.evaluate import Parts
from models.periods import HORIZONS_MIN
from models.warning import ALERT, WarningModel
from pipelines.case import slices
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.evaluating.run import Source
from pipelines.evaluating.witness import TOLD, Witness, health_of, of_models
from pipelines.labels import label_flags, parameters
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from pipelines.progress import Say, silent
from pipelines.score import prepare, unfit
from pipelines.times import Interval
from pipelines.training import Options, load_case
from pipelines.trial import BASELINES, judged, risky

MICROSECOND = timedelta(microseconds=1)
DRIFTS = ("drift_psi", "drift_ks")  # shares of features that have drifted: computed where they are asked for
DRIFT_OF = tuple(
    feature.name for name in ("cancels", "leverage", "crowding", "thin_book") for feature in FAMILIES[name]
)
DRIFT_EVERY = timedelta(hours=1)
STANDING = "champion"  # how it is called beside the scorer


@dataclass(frozen=True)
class Asked:
    """Which time of which venue; judged beside what is asked for: the features of `also`, and the `champion` that
    stands, as a model and its address.
    """

    venue: str
    interval: Interval
    config: Config
    also: tuple[str, ...] = ()
    champion: tuple[WarningModel, str] | None = None


def features_of(names: Sequence[str]) -> tuple[str, ...]:
    """Features by their own name or by that of their family, and DRIFTS, each once, in the order given.

    Raises InputError for a name that is neither.

    >>> features_of(["drift_count", "drift"])[:3]
    ('drift_count', 'drift_depth_60', 'drift_touch_60')
    """
    known = {name: (name,) for name in (*NAMES, *DRIFTS)} | {
        family: tuple(feature.name for feature in members) for family, members in FAMILIES.items()
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=3) or sorted(FAMILIES)
        raise InputError(f"{unknown[0]} is no feature and no family of them", mend=f"such as {', '.join(near)}")
    return tuple(dict.fromkeys(feature for name in names for feature in known[name]))


def _by_symbol(rows: pl.DataFrame, score: pl.Expr) -> Parts:
    told = rows.select("symbol", "ts", available_at="known_at", score=score.cast(pl.Float64).fill_nan(None))
    finite = told.with_columns(score=pl.when(pl.col("score").is_finite()).then("score"))
    ordered = finite.sort("symbol", "ts")

    def each() -> Iterator[pl.DataFrame]:
        yield from ordered.partition_by("symbol", maintain_order=True)

    return each


def _told(rows: pl.DataFrame, named: Mapping[str, str]) -> dict[str, Parts]:
    """Features by label, each with its risky tail high; those without a value are left out."""
    known = {label: column for label, column in named.items() if rows[column].null_count() < rows.height}
    turned = {label: pl.col(column) if column in DRIFTS else risky(column) for label, column in known.items()}
    return {label: _by_symbol(rows, score) for label, score in turned.items()}


def _with_drift(rows: pl.DataFrame, names: Sequence[str], say: Say) -> pl.DataFrame:
    """`rows` with those of DRIFTS that are among `names`, each held for DRIFT_EVERY."""
    wanted = [name for name in DRIFTS if name in names]
    if not wanted:
        return rows
    say("how the features have drifted")
    told = rolling_drift(rows, DRIFT_OF, every=DRIFT_EVERY).select("symbol", "ts", *wanted)
    joined = rows.sort("ts").join_asof(
        told.sort("ts"), on="ts", by="symbol", tolerance=DRIFT_EVERY - MICROSECOND, check_sortedness=False
    )
    return joined.sort("symbol", "ts")


def _columns(name: str, rows: pl.DataFrame, asked: Asked) -> dict[str, Parts]:
    named = {**dict(BASELINES), **{feature: feature for feature in asked.also}}
    return {name: _by_symbol(rows, pl.col(ALERT)), **_told(rows, named), **_standing(name, rows, asked)}


def _standing(name: str, rows: pl.DataFrame, asked: Asked) -> dict[str, Parts]:
    """What the champion says of rows that it has not learned from; nothing where it is the scorer or keeps silent."""
    if asked.champion is None or asked.champion[1] == name:
        return {}
    model, _ = asked.champion
    new = rows.filter(pl.col("ts") > _learned_to(model))
    if new.is_empty():
        return {}
    said = new.select("symbol", "ts", "known_at", model.predict(new, asked.config.warning.threads)[ALERT])
    return {} if said[ALERT].null_count() == said.height else {STANDING: _by_symbol(said, pl.col(ALERT))}


PROBABILITIES = {minutes: f"p_{minutes}m" for minutes in HORIZONS_MIN}


def _by_horizon(rows: pl.DataFrame) -> dict[int, Parts]:
    """What a model says of each of its horizons; that of the alert is the scorer itself."""
    others = {minutes: name for minutes, name in PROBABILITIES.items() if name != ALERT}
    return {minutes: _by_symbol(rows, pl.col(name)) for minutes, name in others.items()}


def _silent(rows: pl.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    silent = [name for name in names if rows[name].null_count() == rows.height]
    return (f"without a value here, and not judged: {', '.join(silent)}",) if silent else ()


def _learned_to(model: WarningModel) -> datetime:
    return datetime.fromisoformat(model.metadata["threshold"][1])


def _overlap(model: WarningModel, interval: Interval) -> tuple[str, ...]:
    seen = _learned_to(model)
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
    said = model.predict(matrix, config.warning.threads).select("symbol", "ts", *PROBABILITIES.values())
    rows = matrix.join(said, on=["symbol", "ts"], how="left", maintain_order="left")
    rows = _with_drift(rows, asked.also, say)
    witness = of_models([(model, matrix)], lake, venue, interval)
    notes = (*_overlap(model, interval), *_silent(rows, asked.also))
    source = Source(_columns(uri, rows, asked), _events(lake, asked), notes=notes, witness=witness)
    return replace(source, label=label_of(config), horizons=_by_horizon(rows))


def label_of(config: Config) -> dict[str, Any]:
    """What a cascade is by these settings: the label's name, the version of its definition, its parameters."""
    chosen = config.label
    told = {"name": chosen.name, "version": VERSIONS[chosen.name], **parameters(chosen)}
    return told | {"refractory_min": chosen.refractory_min}


def _events(lake: Lake, asked: Asked) -> pl.DataFrame:
    flags = label_flags(lake, asked.venue, asked.interval, asked.config)
    return events(flags, asked.config.label.refractory_min)


def by_features(lake: Lake, asked: Asked, names: tuple[str, ...], say: Say = silent) -> Source:
    """Features alone, without a model: the first that has a value is the scorer, the others stand beside it.

    Raises InputError where none of them has a value.
    """
    venue, interval = asked.venue, asked.interval
    prepare(lake, venue, interval, say, bar_s=asked.config.bars.interval_s)
    wanted = tuple(dict.fromkeys((*names, *asked.also)))
    matrix = _with_drift(read_matrix(lake, venue, interval), wanted, say)
    columns = _told(matrix, {name: name for name in wanted})
    if not columns:
        raise InputError(f"without a value here: {', '.join(wanted)}", mend="`cascadeguard features --why` says why")
    witness = Witness(lambda _: TOLD.to_frame(), lambda: health_of(lake, venue, interval), str(interval))
    told = label_of(asked.config)
    return Source(columns, _events(lake, asked), notes=_silent(matrix, wanted), witness=witness, label=told)


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
    rows = _with_drift(pl.concat(parts), asked.also, say)
    pairs = [(one.model, one.rows) for one in found if one.model is not None and one.rows is not None]
    witness = of_models(pairs, lake, asked.venue, asked.interval)
    columns = _columns("walk-forward", rows, asked)
    notes, told = (*notes, *_silent(rows, asked.also)), label_of(asked.config)
    source = Source(columns, case.events, notes=notes, witness=witness)
    return replace(source, label=told, horizons=_by_horizon(rows))
