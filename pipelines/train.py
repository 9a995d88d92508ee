"""Train: judge walk-forward, fit on everything, ask the gate, track, register, and promote what passed.

The gate judges the recipe on the test rows of its folds, later than anything a fold learned from; the champion, a
finished model, is compared on those that are later than anything it learned from.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import polars as pl

from features.catalogue import CATALOGUE_VERSION, MONOTONE
from features.labels import VERSIONS
from models.calibration import Floats
from models.gate import Contest, GateSettings, Probe, Verdict, judge, monotone_probe
from models.periods import HORIZONS_MIN
from models.splits import Fit
from models.warning import ALERT, ALERT_HORIZON_MIN, Limits, WarningModel
from pipelines.case import Case, data_sha256, slices
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.model_card import card, plots
from pipelines.promotion import GateReport, promote, record_gate
from pipelines.score import unfit
from pipelines.tracking import (
    CHALLENGER,
    CHAMPION,
    Dataset,
    Metric,
    Record,
    Registry,
    UnusableModelError,
    prepare_environment,
)
from pipelines.tracking.records import Role
from pipelines.trial import (
    KEYS,
    RIVALS,
    FoldReport,
    Judged,
    Ranking,
    Y,
    ablations,
    alerted,
    fit_model,
    floats,
    judged,
    lift_of,
    rivals,
    together,
)

PROBE_ROWS = 2_000
Causality = Callable[[WarningModel], Probe]


@dataclass(frozen=True)
class TrainSummary:
    uri: str
    version: str
    alias: str
    n_events: int
    threshold: float
    calibrator: tuple[str, ...]  # by interval
    ap_lift_60m: float | None  # median over the folds that could be judged
    folds: tuple[FoldReport, ...]
    rivals: tuple[Ranking, ...]
    ablations: tuple[Ranking, ...]
    gate: dict[str, Any]
    model_sha256: str
    notes: tuple[str, ...]

    def sentence(self) -> str:
        lift = "not known" if self.ap_lift_60m is None else f"{self.ap_lift_60m:.1f} times the prevalence"
        head = f"{self.uri} is {self.alias}: {self.n_events} events, walk-forward average precision {lift}"
        return "; ".join((head, *self.notes, self.gate["sentence"]))


@dataclass(frozen=True)
class Trained:
    """A model with all that was found out about it."""

    case: Case
    model: WarningModel
    fit: Fit
    found: tuple[Judged, ...]
    ranked: tuple[Ranking, ...]
    ablated: tuple[Ranking, ...]
    verdict: Verdict

    @property
    def folds(self) -> tuple[FoldReport, ...]:
        return tuple(one.report for one in self.found)


# --- the gate ---


@dataclass(frozen=True)
class Standing:
    """The champion that stands, if it can be compared; `doubt` says why it cannot."""

    model: WarningModel | None = None
    doubt: str = ""


def _standing(registry: Registry, bar_s: int) -> Standing:
    """A champion that cannot be read or asked here is no reason not to train; it is one not to promote."""
    try:
        found = registry.load_warning()
    except UnusableModelError as error:
        return Standing(doubt=str(error))
    if found is None:
        return Standing()
    model, uri = found
    fault = unfit(model, bar_s)
    return Standing(doubt=f"{uri} {fault}") if fault else Standing(model)


def _certain(model: WarningModel) -> WarningModel:
    """The same model without abstention: the probe pushes inputs beyond what the training saw."""
    return replace(model, limits=Limits(1.0, 1.0))


def _monotone(model: WarningModel, rows: pl.DataFrame, seed: int) -> Probe:
    sample = rows.sample(min(PROBE_ROWS, rows.height), seed=seed) if rows.height else rows
    certain = _certain(model)

    def predict(frame: pl.DataFrame) -> Floats:
        return floats(certain.predict(frame), ALERT)

    return monotone_probe(predict, sample, {name: MONOTONE.get(name, 0) for name in model.features}, seed)


def _unseen(champion: WarningModel) -> pl.Expr:
    """The rows later than anything the champion learned from."""
    return pl.col("ts") > datetime.fromisoformat(champion.metadata["threshold"][1])


def _contest(
    case: Case, found: Sequence[Judged], champion: WarningModel | None, probes: tuple[Probe, ...]
) -> Contest | None:
    """Both on the rows that both answered; null where no fold answered.

    Raises ValueError where the champion wants features that are not there.
    """
    rows = together(found)
    if rows is None:
        return None
    alert, said = pl.lit(value=False), pl.lit(None, dtype=pl.Float64)
    columns = rows.select(
        *KEYS, y=Y, p_challenger=ALERT, alert_challenger="alert", p_champion=said, alert_champion=alert
    )
    if champion is not None:
        later = rows.filter(_unseen(champion))
        told = alerted(champion, later, case).select(*KEYS, p_champion=ALERT, alert_champion="alert")
        columns = columns.drop("p_champion", "alert_champion").join(told, on=KEYS, how="inner")
        columns = columns.filter(pl.col("p_champion").is_not_null())
    first = (rows if columns.is_empty() else columns)["ts"].min()
    events = case.events.filter(pl.col("onset").is_between(first, rows["ts"].max()))
    chosen, config = case.config.gate, case.config
    return Contest(
        rows=columns,
        events=events,
        horizon_min=ALERT_HORIZON_MIN,
        refractory_min=config.detector.refractory_min,
        bar_s=config.bars.interval_s,
        settings=GateSettings(
            events_min=chosen.events_min,
            budget_episodes_per_symbol_day=config.warning.budget_episodes_per_symbol_day,
            miscalibration_max=chosen.miscalibration_max,
            replicates=chosen.replicates,
            confidence=chosen.confidence,
            margin=chosen.margin,
            seed=config.seed,
        ),
        probes=probes,
    )


def _verdict(case: Case, found: Sequence[Judged], standing: Standing, probes: tuple[Probe, ...]) -> Verdict:
    if standing.doubt:
        return Verdict(False, probes, f"Keep the champion: {standing.doubt}.")
    try:
        contest = _contest(case, found, standing.model, probes)
    except ValueError as error:
        return Verdict(False, probes, f"Keep the champion: it cannot be compared ({error}).")
    if contest is None:
        return Verdict(False, probes, "Promote nothing: no fold could be judged.")
    return judge(contest)


# --- what is tracked ---


def _dataset(case: Case, name: str, rows: pl.DataFrame, span: tuple[str, str], role: Role) -> Dataset:
    schema = {column: str(dtype) for column, dtype in rows.schema.items()}
    source = f"features of {', '.join(case.matrix['venue'].unique().sort())}"
    return Dataset(name, data_sha256(rows), source, rows.height, rows.width, schema, *span, role)


def _datasets(done: Trained) -> tuple[Dataset, ...]:
    roles: dict[str, Role] = {"train": "train", "calibrate": "calibrate", "threshold": "calibrate"}
    spans = {name: getattr(done.fit, name) for name in roles}
    return tuple(
        _dataset(
            done.case,
            name,
            done.case.rows.filter(span.rows()),
            (span.start.isoformat(), span.end.isoformat()),
            roles[name],
        )
        for name, span in spans.items()
    )


def _metrics(done: Trained) -> dict[str, Metric]:
    names = sorted({name for fold in done.folds for name in fold.metrics})
    found: dict[str, Metric] = {f"fold_{name}": [fold.metrics.get(name) for fold in done.folds] for name in names}
    for one in done.ranked:
        if one.ap_lift is not None:
            found[f"lift_{_plain(one.name)}"] = one.ap_lift
    lift = lift_of(done.folds)
    return found | ({} if lift is None else {"ap_lift_60m_median": lift})


def _plain(name: str) -> str:
    return name.replace(" ", "_").replace(",", "")


def _params(done: Trained, extra: Mapping[str, Any]) -> dict[str, Any]:
    config, meta = done.case.config, done.model.metadata
    sections = {"warning": config.warning, "label": config.label, "base": config.base, "gate": config.gate}
    named = {f"{name}.{key}": value for name, part in sections.items() for key, value in part.model_dump().items()}
    return {
        **named,
        **{name: " to ".join(meta[name]) for name in ("train", "calibrate", "threshold")},
        "seed": config.seed,
        "bar_s": config.bars.interval_s,
        "features": len(done.model.features),
        "events": done.case.events.height,
        "rows": done.case.matrix.height,
        **extra,
    }


def model_sha256(model: WarningModel) -> str:
    return hashlib.sha256(model.to_json().encode()).hexdigest()


def identity(case: Case, model: WarningModel) -> dict[str, str]:
    """Tags that tell one model from another: the same data, code tables and settings give the same ones."""
    return {
        "data_sha256": data_sha256(case.matrix, case.targets, case.events),
        "model_sha256": model_sha256(model),
        "catalogue": str(CATALOGUE_VERSION),
        "labels": str(VERSIONS[case.config.label.name]),
    }


def experiment_of(config: Config) -> str:
    """One experiment per label, its version, and the set of horizons."""
    horizons = "-".join(map(str, HORIZONS_MIN))
    return f"{config.mlflow.experiment}/{config.label.name}-v{VERSIONS[config.label.name]}/{horizons}"


def _record(done: Trained, tags: Mapping[str, str], extra: Mapping[str, Any], artifacts: Mapping[str, str]) -> Record:
    importance = dict(zip(done.model.features, done.model.importance, strict=True))
    return Record(
        params=_params(done, extra),
        metrics=_metrics(done),
        tags=tags,
        artifacts={
            "card.md": card(
                done.case,
                done.model,
                done.folds,
                ranked=done.ranked,
                ablated=done.ablated,
                verdict=done.verdict.sentence,
            ),
            "importance.json": json.dumps(importance, indent=1, sort_keys=True),
            "folds.json": json.dumps([asdict(fold) for fold in done.folds], indent=1),
            RIVALS: json.dumps([asdict(one) for one in (*done.ranked, *done.ablated)], indent=1),
            **artifacts,
        },
        datasets=_datasets(done),
        figures=plots(together(done.found)),
        config=done.case.config.model_dump_json(),
        seeds={"seed": done.case.config.seed},
        experiment=experiment_of(done.case.config),
        headline="ap_lift_60m_median",
    )


# --- the step ---


def _notes(done: Trained) -> tuple[str, ...]:
    found = [f"fold {fold.fold} was not judged: {fold.note}" for fold in done.folds if fold.note]
    if any(calibrator.kind == "none" for calibrator in done.model.calibrators):
        found.append("an interval without a cascade in the calibration period: its hazard is not calibrated")
    rows = done.case.rows.filter(done.fit.threshold.rows())
    scores = done.model.predict(rows)[ALERT]
    if done.model.threshold is None or not bool((scores >= done.model.threshold).any()):
        found.append("its threshold lies above all it said in the threshold period: it may not alert at all")
    return tuple(found)


def trained(
    case: Case, champion: WarningModel | None, causality: Causality | None, *, ablate: bool = False, doubt: str = ""
) -> Trained:
    """Judge walk-forward, fit on everything, and ask the gate. Touches no registry.

    `doubt` says why a champion that stands cannot be compared: then it stays.

    Raises InputError where the period is too short or holds too little to fit on.
    """
    folds, fit = slices(case)
    found = tuple(judged(case, number, fold) for number, fold in enumerate(folds))
    try:
        model = fit_model(case, fit)
    except ValueError as error:
        raise InputError(
            f"no early-warning model can be fitted ({error})", mend="train on a longer period with more cascades"
        ) from None
    rows = case.rows.filter(fit.threshold.rows())
    probes = (_monotone(model, rows, case.config.seed), *([causality(model)] if causality else []))
    return Trained(
        case,
        model,
        fit,
        found,
        rivals(case, folds, found),
        ablations(case, folds, found) if ablate else (),
        _verdict(case, found, Standing(champion, doubt), probes),
    )


def _champion(registry: Registry, name: str, version: str) -> bool:
    found = registry.find_alias(name, CHAMPION)
    return found is not None and str(found.version) == version


def register(
    done: Trained,
    registry: Registry,
    tags: Mapping[str, str],
    *,
    at: datetime,
    extra: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> TrainSummary:
    """Track and register; champion if the gate was passed, else challenger. Again on the same data: no new version."""
    name = done.case.config.mlflow.warning_name
    known = dict(tags) | identity(done.case, done.model)
    uri = registry.find_warning(known) or registry.log_warning(done.model, _record(done, known, extra, artifacts))
    version = uri.rsplit("/", 1)[1]
    gate = GateReport("walk-forward", done.verdict.promote, json.dumps(done.verdict.to_dict(), indent=1))
    if done.verdict.promote:
        promote(registry, name, version, done.verdict.sentence, gate, at=at)
    elif not _champion(registry, name, version):
        record_gate(registry, name, version, gate)
        registry.set_alias(name, version, CHALLENGER)
    alias = CHAMPION if _champion(registry, name, version) else CHALLENGER
    return TrainSummary(
        uri=uri,
        version=version,
        alias=alias,
        n_events=done.case.events.height,
        threshold=float(done.model.threshold or 0.0),
        calibrator=tuple(one.kind for one in done.model.calibrators),
        ap_lift_60m=lift_of(done.folds),
        folds=done.folds,
        rivals=done.ranked,
        ablations=done.ablated,
        gate=done.verdict.to_dict(),
        model_sha256=known["model_sha256"],
        notes=_notes(done),
    )


def train_case(
    case: Case,
    registry: Registry,
    tags: Mapping[str, str],
    *,
    at: datetime,
    causality: Causality | None = None,
    ablate: bool = False,
    extra: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, str] | None = None,
) -> TrainSummary:
    """Train and register; `extra` parameters and `artifacts` are tracked beside.

    Raises InputError as `trained`, RegistryError where the registry does not answer.
    """
    prepare_environment()
    standing = _standing(registry, case.config.bars.interval_s)
    done = trained(case, standing.model, causality, ablate=ablate, doubt=standing.doubt)
    return register(done, registry, tags, at=at, extra=extra or {}, artifacts=artifacts or {})
