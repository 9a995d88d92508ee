"""Step `train`: judge the early-warning model walk-forward, fit it on everything, track it, register it.

The newest model becomes champion only if it ranked minutes better than chance on time it had not seen.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from features.catalogue import CATALOGUE_VERSION, FAMILY_OF, MONOTONE, TAILS
from features.labels import LABELS_VERSION, future_event_within
from models.metrics import Floats, average_precision_lift, brier, count_alarms, log_loss
from models.splits import Fit, Fold, Span, last_fit, walk_forward
from models.thresholds import budget_threshold
from models.warning import HORIZONS_MIN, WarningModel, WarningSettings, train_warning
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.tracking import CHALLENGER, CHAMPION, Metric, Record, Registry, prepare_environment

EVENTS_MIN = 5  # below, nothing can be claimed about a model
CHANCE_LIFT = 1.0  # average precision of a constant score over the prevalence
MINUTES_PER_DAY = 1440
BASELINES: tuple[tuple[str, str], ...] = (
    ("volatility_ratio", "vol_ratio_15"),
    ("funding_alone", "funding_annual"),
    ("oi_change", "oi_change_30"),
    ("oi_score", "oi_score_30"),
    ("liquidations", "liq_over_volume_15"),
)


@dataclass(frozen=True)
class FoldReport:
    """One walk-forward fold on time after its training and calibration; null where it could not be judged."""

    fold: int
    test: str
    events: int
    note: str = ""
    ap_lift_15m: float | None = None
    ap_lift_60m: float | None = None
    brier_15m: float | None = None
    brier_60m: float | None = None
    log_loss_15m: float | None = None
    log_loss_60m: float | None = None
    threshold: float | None = None
    recall: float | None = None
    false_alarms_per_symbol_day: float | None = None
    abstained_share: float | None = None
    baselines: Mapping[str, float] | None = None  # AP lift at 60 min of one column alone; always-on is 1


@dataclass(frozen=True)
class TrainSummary:
    uri: str
    version: str
    alias: str
    n_events: int
    threshold: float
    calibrator: Mapping[str, str]  # by hazard interval
    ap_lift_60m: float | None  # median over the folds that could be judged
    folds: tuple[FoldReport, ...]
    notes: tuple[str, ...]

    def sentence(self) -> str:
        lift = "not known" if self.ap_lift_60m is None else f"{self.ap_lift_60m:.1f} times the prevalence"
        head = f"{self.uri} is {self.alias}: {self.n_events} events, walk-forward average precision {lift}"
        return "; ".join((head, *self.notes))


@dataclass(frozen=True)
class Case:
    """What a model is trained and judged on; `rows` is the matrix with its targets beside it."""

    matrix: pl.DataFrame
    targets: pl.DataFrame
    events: pl.DataFrame
    config: Config

    @property
    def rows(self) -> pl.DataFrame:
        return self.matrix.join(self.targets, on=["symbol", "ts"], how="left", maintain_order="left")


def targets_of(
    matrix: pl.DataFrame, events: pl.DataFrame, config: Config, flags: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`symbol, ts, y_15m, y_60m` for every row of `matrix`; null where `flags` cannot tell (see the label)."""
    index = matrix.select("symbol", "ts")
    if flags is not None:
        index = index.join(flags.select("symbol", "ts", "flag"), on=["symbol", "ts"], how="left")
    found = matrix.select("symbol", "ts")
    for horizon in HORIZONS_MIN:
        future = future_event_within(index, events, horizon, config.label.refractory_min)
        renamed = future.rename({f"future_event_within_{horizon}": f"y_{horizon}m"})
        found = found.join(renamed, on=["symbol", "ts"], how="left", maintain_order="left")
    return found


def _covered(matrix: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """The events of the matrix's symbols whose onset lies in its time."""
    inside = pl.col("onset").is_between(matrix["ts"].min(), matrix["ts"].max())
    return events.filter(inside).join(matrix.select("symbol").unique(), on="symbol", how="semi")


def _case(matrix: pl.DataFrame, events: pl.DataFrame, config: Config, flags: pl.DataFrame | None) -> Case:
    covered = _covered(matrix, events)
    if covered.height < EVENTS_MIN:
        raise InputError(
            f"an early-warning model needs at least {EVENTS_MIN} cascades, the period holds {covered.height}",
            mend="train on a longer period, or loosen the [label] settings",
        )
    return Case(matrix, targets_of(matrix, events, config, flags), covered, config)


def _slices(ts: pl.Series, config: Config) -> tuple[list[Fold], Fit]:
    chosen = config.warning
    purge_min = max(HORIZONS_MIN) + config.label.window_min
    try:
        folds = walk_forward(ts, chosen.folds, purge_min, chosen.embargo_min)
        return folds, last_fit(ts, chosen.folds, purge_min, chosen.embargo_min)
    except ValueError as error:
        raise InputError(
            f"the period is too short for {chosen.folds} walk-forward folds ({error})",
            mend="train on a longer period, or lower `warning.folds`",
        ) from None


def _threshold(model: WarningModel, rows: pl.DataFrame, calibrate: Span, config: Config) -> float:
    """The alert threshold on p_60m that keeps the budget over the calibration slice."""
    return budget_threshold(
        model.predict(rows.filter(calibrate.rows())).select("symbol", "ts", score="p_60m"),
        (calibrate.end - calibrate.start) / timedelta(days=1),
        config.warning.budget_episodes_per_symbol_day,
        config.detector.refractory_min,
    )


def _fitted(case: Case, fit: Fit) -> WarningModel:
    """Trees, calibration and threshold from one fit's slices. Raises ValueError where they hold too little."""
    chosen = case.config.warning
    settings = WarningSettings(rounds=chosen.rounds, threads=chosen.threads, missing_share_max=chosen.missing_share_max)
    model = train_warning(case.matrix, case.targets, fit, settings, case.config.seed, monotone=MONOTONE)
    return model.with_threshold(_threshold(model, case.matrix, fit.calibrate, case.config))


def _floats(rows: pl.DataFrame, column: pl.Expr) -> Floats:
    return np.asarray(rows.select(column.cast(pl.Float64)).to_series().to_numpy(), dtype=np.float64)


def _risky(name: str) -> pl.Expr:
    """A feature turned so that its risky tail is high; null counts as least risky."""
    turned = {"high": pl.col(name), "low": -pl.col(name), "both": pl.col(name).abs(), "none": pl.col(name)}[TAILS[name]]
    return turned.fill_null(float("-inf"))


def _baselines(rows: pl.DataFrame) -> dict[str, float]:
    """AP lift at 60 minutes of each baseline column alone; columns without a value are left out."""
    happened = _floats(rows, pl.col("y_60m"))
    present = [
        (label, name) for label, name in BASELINES if name in rows.columns and rows[name].null_count() < rows.height
    ]
    lifts = {label: average_precision_lift(happened, _floats(rows, _risky(name))) for label, name in present}
    return {label: lift for label, lift in lifts.items() if lift is not None}


def _by_horizon(rows: pl.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for horizon in HORIZONS_MIN:
        known = rows.filter(pl.col(f"y_{horizon}m").is_not_null())
        happened, p = _floats(known, pl.col(f"y_{horizon}m")), _floats(known, pl.col(f"p_{horizon}m"))
        found[f"ap_lift_{horizon}m"] = average_precision_lift(happened, p)
        found[f"brier_{horizon}m"] = brier(happened, p)
        found[f"log_loss_{horizon}m"] = log_loss(happened, p)
    return found


def _judged(report: FoldReport, case: Case, fold: Fold) -> FoldReport:
    """Fit the fold and measure it on its test slice.

    Alerts are taken from minutes that can still see an onset: not from inside an event or its refractory time.
    """
    model = _fitted(case, fold)
    rows = case.rows.filter(fold.test.rows())
    scored = rows.join(model.predict(rows), on=["venue", "symbol", "ts"], how="left", maintain_order="left")
    answered = scored.filter(pl.col("y_60m").is_not_null() & pl.col("p_60m").is_not_null())
    if answered.is_empty() or model.threshold is None:
        return replace(report, note="the model abstained on every minute", abstained_share=1.0)
    alarms = count_alarms(
        answered.filter(pl.col("p_60m") >= model.threshold),
        _within(case.events, fold.test),
        symbol_days=answered.height / MINUTES_PER_DAY,
        horizon_min=max(HORIZONS_MIN),
        refractory_min=case.config.detector.refractory_min,
    )
    return replace(
        report,
        **_by_horizon(answered),
        threshold=model.threshold,
        recall=alarms.recall,
        false_alarms_per_symbol_day=alarms.false_alarms_per_symbol_day,
        abstained_share=_mean(scored["abstained"]),
        baselines=_baselines(answered),
    )


def _mean(values: pl.Series) -> float:
    return float(_floats(values.to_frame("x"), pl.col("x")).mean())


def _within(events: pl.DataFrame, span: Span) -> pl.DataFrame:
    return events.filter((pl.col("onset") > span.start) & (pl.col("onset") <= span.end))


def _report(number: int, case: Case, fold: Fold) -> FoldReport:
    """A fold that cannot be judged says why; it never stops the training."""
    events = _within(case.events, fold.test).height
    blank = FoldReport(number, f"({fold.test.start:%Y-%m-%dT%H:%M}, {fold.test.end:%Y-%m-%dT%H:%M}]", events)
    if events == 0:
        return replace(blank, note="no cascade in its test period")
    try:
        return _judged(blank, case, fold)
    except ValueError as error:
        return replace(blank, note=str(error))


def _final(case: Case, fit: Fit) -> WarningModel:
    try:
        return _fitted(case, fit)
    except ValueError as error:
        raise InputError(
            f"no early-warning model can be fitted ({error})", mend="train on a longer period with more cascades"
        ) from None


def data_sha256(*frames: pl.DataFrame) -> str:
    """Hash of the frames' contents, names and types, in order."""
    buffer = io.BytesIO()
    for frame in frames:
        frame.write_ipc(buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _lift(folds: Sequence[FoldReport]) -> float | None:
    lifts = [fold.ap_lift_60m for fold in folds if fold.ap_lift_60m is not None]
    return median(lifts) if lifts else None


def _silent(case: Case, model: WarningModel, calibrate: Span) -> bool:
    """Whether the budget left room for no alert at all in the calibration slice (too few distinct scores on top)."""
    scores = model.predict(case.matrix.filter(calibrate.rows()))["p_60m"]
    return model.threshold is None or not bool((scores >= model.threshold).any())


def _notes(model: WarningModel, lift: float | None, folds: Sequence[FoldReport], *, silent: bool) -> tuple[str, ...]:
    found = [f"fold {fold.fold} was not judged: {fold.note}" for fold in folds if fold.note]
    judged = sum(fold.events for fold in folds if fold.ap_lift_60m is not None)
    if 0 < judged < EVENTS_MIN:
        found.append(f"judged on {judged} cascades only: no claim can be made about it")
    if lift is None:
        found.append("no fold could be judged, so it is not the champion")
    elif not lift > CHANCE_LIFT:
        found.append("it did not rank better than chance, so it is not the champion")
    if any(hazard.calibrator.kind == "none" for hazard in model.hazards):
        found.append("no cascade in the calibration period: its probabilities are not calibrated")
    if silent:
        found.append("the alert budget left no room for its highest scores, so it will not alert: raise the budget")
    return tuple(found)


FOLD_METRICS = (
    "ap_lift_15m", "ap_lift_60m", "brier_15m", "brier_60m", "log_loss_15m", "log_loss_60m", "recall",
    "false_alarms_per_symbol_day", "abstained_share", "events",
)  # fmt: skip


def _metrics(model: WarningModel, lift: float | None, folds: Sequence[FoldReport]) -> dict[str, Metric]:
    found: dict[str, Metric] = {name: [getattr(fold, name) for fold in folds] for name in FOLD_METRICS}
    for label, _ in BASELINES:
        found[f"baseline_{label}_ap_lift_60m"] = [(fold.baselines or {}).get(label) for fold in folds]
    return found | {"threshold": [model.threshold], "ap_lift_60m_median": [lift]}


def _params(case: Case, model: WarningModel) -> dict[str, Any]:
    config = case.config
    return {
        **{f"warning.{name}": value for name, value in config.warning.model_dump().items()},
        **{f"label.{name}": value for name, value in config.label.model_dump().items()},
        **{f"model.{name}": value for name, value in model.metadata["settings"].items()},
        "seed": config.seed,
        "train": " to ".join(model.metadata["train"]),
        "calibrate": " to ".join(model.metadata["calibrate"]),
        "features": len(model.features),
        "events": case.events.height,
        "rows": case.matrix.height,
    }


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _card(case: Case, model: WarningModel, lift: float | None, folds: Sequence[FoldReport]) -> str:
    """The model card: what it is, on what it was judged, what it must not be used for."""
    columns = ("test", "events", *FOLD_METRICS[:4], "recall", "false_alarms_per_symbol_day")
    table = [
        " | ".join(("", *columns, "note", "")).strip(),
        " | ".join(("", *(["---"] * (len(columns) + 1)), "")).strip(),
        *(
            f"| {fold.test} | {fold.events} | "
            + " | ".join(_shown(getattr(fold, name)) for name in columns[2:])
            + f" | {fold.note} |"
            for fold in folds
        ),
    ]
    best = sorted(zip(model.importance, model.features, strict=True), reverse=True)[:10]
    lines = [
        "# Early-warning model",
        "",
        "Probability that a liquidation cascade starts within 15 and within 60 minutes, per symbol and minute.",
        "Two discrete-time hazards of gradient-boosted trees, calibrated on time after their training.",
        "",
        f"- venue: {', '.join(case.matrix['venue'].unique().sort())}; symbols: {case.matrix['symbol'].n_unique()}",
        f"- label: {case.config.label.model_dump_json()}",
        f"- cascades: {case.events.height}, of them {model.metadata['train_events']} in training and "
        f"{model.metadata['calibrate_events']} in calibration (those with a minute that could still be warned)",
        f"- training {' to '.join(model.metadata['train'])}; calibration {' to '.join(model.metadata['calibrate'])}",
        f"- calibration: {', '.join(f'{hazard.interval} {hazard.calibrator.kind}' for hazard in model.hazards)}",
        f"- alert at p_60m >= {model.threshold:.6g}: at most "
        f"{case.config.warning.budget_episodes_per_symbol_day:g} episodes per symbol-day in calibration",
        f"- median walk-forward average precision at 60 minutes over prevalence: {_shown(lift)} (chance is 1)",
        f"- wholly null in training, not used: {', '.join(model.dropped) or 'none'}",
        "",
        "## Walk-forward",
        "",
        *table,
        "",
        "AP lift at 60 minutes of one column alone, by fold:",
        "",
        *(f"- {fold.test}: {_baseline_text(fold)}" for fold in folds),
        "",
        "## What it rests on (share of gain)",
        "",
        *(f"- {name} ({FAMILY_OF.get(name, 'other')}): {share:.3f}" for share, name in best),
        "",
        "## Limits",
        "",
        "It abstains where most of what it rests on is missing. It proposes; hard limits never depend on it.",
        "Fewer than 100 cascades: read the figures as an indication, not as a claim.",
        "",
    ]
    return "\n".join(lines)


def _baseline_text(fold: FoldReport) -> str:
    found = fold.baselines or {}
    return ", ".join(f"{name} {lift:.2f}" for name, lift in found.items()) or "none could be computed"


def _artifacts(case: Case, model: WarningModel, lift: float | None, folds: Sequence[FoldReport]) -> dict[str, str]:
    importance = dict(zip(model.features, model.importance, strict=True))
    return {
        "card.md": _card(case, model, lift, folds),
        "importance.json": json.dumps(importance, indent=1, sort_keys=True),
        "folds.json": json.dumps([asdict(fold) for fold in folds], indent=1),
    }


def _identity(case: Case, model: WarningModel) -> dict[str, str]:
    """Tags that tell one model from another: the same data, code tables and settings give the same ones."""
    return {
        "data_sha256": data_sha256(case.matrix, case.targets, case.events),
        "model_sha256": hashlib.sha256(model.to_json().encode()).hexdigest(),
        "catalogue": str(CATALOGUE_VERSION),
        "labels": str(LABELS_VERSION),
    }


def train_warning_model(
    matrix: pl.DataFrame,
    events: pl.DataFrame,
    config: Config,
    registry: Registry,
    data_tags: Mapping[str, str],
    *,
    flags: pl.DataFrame | None = None,
) -> TrainSummary:
    """Judge walk-forward, fit, choose the threshold, register, and name champion or challenger.

    `matrix` is the feature matrix of one venue; `events` has `symbol, onset, end`, `flags` the label's
    `symbol, ts, flag` if minutes it could not judge are to be left out. Champion only if the median over
    the folds of the AP lift at 60 minutes exceeds CHANCE_LIFT; else `challenger`, and a note says why.

    Training again on the same data with the same settings finds the registered version and adds none.

    Raises InputError where the period is too short or holds fewer than EVENTS_MIN cascades, RegistryError where the
    registry does not answer.
    """
    prepare_environment()
    case = _case(matrix, events, config, flags)
    folds, fit = _slices(matrix["ts"], config)
    reports = tuple(_report(number, case, fold) for number, fold in enumerate(folds))
    lift = _lift(reports)
    model = _final(case, fit)
    alias = CHAMPION if lift is not None and lift > CHANCE_LIFT else CHALLENGER
    tags = dict(data_tags) | _identity(case, model)
    record = Record(_params(case, model), _metrics(model, lift, reports), tags, _artifacts(case, model, lift, reports))
    uri = registry.find_warning(tags) or registry.log_warning(model, record)
    version = uri.rsplit("/", 1)[1]
    registry.set_alias(config.mlflow.warning_name, version, alias)
    return TrainSummary(
        uri=uri,
        version=version,
        alias=alias,
        n_events=case.events.height,
        threshold=float(model.threshold or 0.0),
        calibrator={hazard.interval: hazard.calibrator.kind for hazard in model.hazards},
        ap_lift_60m=lift,
        folds=reports,
        notes=_notes(model, lift, reports, silent=_silent(case, model, fit.calibrate)),
    )
