"""Walk-forward trial: fit on the past, judge on what came after, beside the rivals that a model must beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from features.catalogue import CATALOGUE_VERSION, FAMILY_OF, MONOTONE, NOT_OF_THE_MARKET, TAILS
from models.bootstrap import average_precision_of, day_index, day_weights
from models.calibration import Floats
from models.conformal import best_scores, control_misses
from models.explain import explained
from models.fitting import TOP, Recipe, TreeSettings, fit_line, fit_stack, fit_trees, known_features
from models.metrics import average_precision_lift, brier, count_alarms, log_loss, roc_auc
from models.periods import HORIZONS_MIN, count_events
from models.precedents import Precedent, precedents
from models.scorers import Scorer
from models.scores import AlertPolicy, Trailing
from models.splits import Fit, Fold
from models.thresholds import budget_threshold, cost_threshold
from models.warning import ALERT, ALERT_HORIZON_MIN, Limits, WarningModel, feature_names, fitted
from pipelines.case import Case, within
from pipelines.config import Config

LINE_L2 = 100.0  # of the ridge: a standard deviation of 0.1 is expected of a weight on a standardised feature
DAY_MIN = 1_440
KEYS = ["symbol", "ts"]
Y = f"y_{ALERT_HORIZON_MIN}m"
BASELINES: tuple[tuple[str, str], ...] = (
    ("volatility_ratio", "vol_ratio_15"),
    ("volatility_alone", "vol_annual_60"),
    ("funding_alone", "funding_annual"),
    ("basis_alone", "basis_score_5"),
    ("crowding_combined", "crowding_score_15"),
    ("oi_change", "oi_change_30"),
    ("oi_score", "oi_score_30"),
    ("liquidations", "liq_over_volume_15"),
    ("structure_alone", "rho_now"),
)


@dataclass(frozen=True)
class Variant:
    """What is fitted: which scorer, on which features."""

    kind: str
    keeps: Callable[[str], bool] = lambda _: True
    with_base: bool = True


@dataclass(frozen=True)
class FoldReport:
    """One walk-forward fold on time after its training; `metrics` are empty where it could not be judged.

    `metrics`: ap_lift, brier and log_loss by horizon, roc_auc_60m, threshold, recall, false_alarms_per_symbol_day,
    abstained_share. `baselines`: AP lift at 60 min of one column alone; always-on is 1.
    """

    fold: int
    test: str
    events: int
    note: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def ap_lift_60m(self) -> float | None:
        return self.metrics.get("ap_lift_60m")


@dataclass(frozen=True)
class Judged:
    """A fold's report, its model, and its test rows with probabilities (null where it abstained) and `alert`."""

    report: FoldReport
    model: WarningModel | None = None
    rows: pl.DataFrame | None = None


# --- fitting ---


def tree_settings(case: Case) -> TreeSettings:
    chosen = case.config.warning
    return TreeSettings(
        rounds=chosen.rounds,
        leaves=chosen.leaves,
        learning_rate=chosen.learning_rate,
        leaf_rows_min=chosen.leaf_rows_min,
        l2=chosen.l2,
        negative_share=chosen.negative_share,
        threads=chosen.threads,
    )


def _scorer(case: Case, train: pl.DataFrame, offered: tuple[str, ...], variant: Variant) -> Scorer:
    market = (name for name in offered if FAMILY_OF.get(name) not in NOT_OF_THE_MARKET)
    names = known_features(train, tuple(name for name in market if variant.keeps(name)))
    if variant.kind == "line":
        return fit_line(train, names, LINE_L2, MONOTONE, TAILS)
    if case.base is None or not variant.with_base:
        return fit_trees(train, names, Recipe(tree_settings(case), case.config.seed, MONOTONE, case.grow))
    chosen = case.config.warning
    new = tuple(name for name in names if name not in case.base.features and TAILS.get(name) != "none")
    if not new:
        return case.base
    settings = replace(TOP, threads=chosen.threads, negative_share=chosen.negative_share)
    return fit_stack(train, case.base, new, Recipe(settings, case.config.seed, MONOTONE, case.grow))


def fit_model(case: Case, fit: Fit, variant: Variant | None = None) -> WarningModel:
    """Scorer, calibration, band and threshold from one fit's slices. Raises ValueError where they hold too little."""
    chosen = case.config.warning
    train, calibrate = (case.rows.filter(span.rows()) for span in (fit.train, fit.calibrate))
    for name, rows in (("train", train), ("calibrate", calibrate)):
        if rows.is_empty():
            raise ValueError(f"{name} slice must hold rows, was empty")
    offered = feature_names(case.matrix)
    scorer = _scorer(case, train, offered, variant or Variant(chosen.kind))
    model = fitted(
        scorer,
        train,
        calibrate,
        limits=Limits(chosen.missing_share_max, chosen.outside_share_max),
        dropped=tuple(name for name in offered if train[name].null_count() == train.height),
        metadata=_provenance(train, calibrate, fit, case),
        threads=chosen.threads,
    )
    remembered = replace(model, precedents=_precedents(model, train, case))
    return remembered.with_threshold(_threshold(model, fit, case))


def _precedents(model: WarningModel, train: pl.DataFrame, case: Case) -> tuple[Precedent, ...]:
    """The cascades of the training slice as the model sees their last row before the onset."""
    before = train.filter(pl.col(Y) == 1).sort("ts")
    onsets = case.events.select("symbol", "onset").sort("onset")
    ahead = before.join_asof(
        onsets, left_on="ts", right_on="onset", by="symbol", strategy="forward", check_sortedness=False
    )
    last = ahead.group_by("symbol", "onset", maintain_order=True).last().sort("onset", "symbol")
    if last.is_empty():
        return ()
    return precedents(explained(model, last, FAMILY_OF), last)


def _provenance(train: pl.DataFrame, calibrate: pl.DataFrame, fit: Fit, case: Case) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(tree_settings(case)).items() if name != "threads"}
    spans = {
        name: [span.start.isoformat(), span.end.isoformat()]
        for name, span in (("train", fit.train), ("calibrate", fit.calibrate), ("threshold", fit.threshold))
    }
    return spans | {
        "seed": case.config.seed,
        "settings": settings,
        "bar_s": case.config.bars.interval_s,
        "catalogue": CATALOGUE_VERSION,
        "train_events": count_events(train, Y),
        "calibrate_events": count_events(calibrate, Y),
        "train_rows": train.height,
        "calibrate_rows": calibrate.height,
    }


def _threshold(model: WarningModel, fit: Fit, case: Case) -> float:
    """The alert threshold on the alert horizon, by the settings' policy, from the threshold slice alone."""
    chosen, span = case.config.warning, fit.threshold
    if chosen.threshold_by == "cost":
        return cost_threshold(chosen.cost_false_alarm, chosen.cost_missed)
    rows = case.rows.filter(span.rows())
    scores = model.predict(rows, chosen.threads).select(*KEYS, score=ALERT)
    if chosen.threshold_by == "miss_rate":
        best = best_scores(scores, within(case.events, span), horizon_min=ALERT_HORIZON_MIN)
        control = control_misses(floats(best, "best"), chosen.miss_rate_max)
        if control.threshold is None:
            raise ValueError(f"{control.events} cascades in the threshold slice cannot promise a miss rate")
        return control.threshold
    days = (span.end - span.start) / timedelta(days=1)
    return budget_threshold(
        scores,
        days,
        chosen.budget_episodes_per_symbol_day,
        case.config.detector.refractory_min,
        case.config.bars.interval_s,
    )


# --- judging ---


def floats(rows: pl.DataFrame, column: str | pl.Expr) -> Floats:
    chosen = pl.col(column) if isinstance(column, str) else column
    return np.asarray(rows.select(chosen.cast(pl.Float64)).to_series().to_numpy(), dtype=np.float64)


def risky(name: str) -> pl.Expr:
    """A feature turned so that its risky tail is high; null counts as least risky."""
    turned = {"high": pl.col(name), "low": -pl.col(name), "both": pl.col(name).abs(), "none": pl.col(name)}[TAILS[name]]
    return turned.fill_null(float("-inf"))


def present_baselines(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """The baselines whose column holds a value in `rows`."""
    return [
        (label, name) for label, name in BASELINES if name in rows.columns and rows[name].null_count() < rows.height
    ]


def _baselines(rows: pl.DataFrame) -> dict[str, float]:
    """AP lift at 60 minutes of each baseline column alone; columns without a value are left out."""
    happened = floats(rows, Y)
    lifts = {
        label: average_precision_lift(happened, floats(rows, risky(name))) for label, name in present_baselines(rows)
    }
    return {label: lift for label, lift in lifts.items() if lift is not None}


def _by_horizon(rows: pl.DataFrame) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for horizon in HORIZONS_MIN:
        known = rows.filter(pl.col(f"y_{horizon}m").is_not_null())
        happened, p = floats(known, f"y_{horizon}m"), floats(known, f"p_{horizon}m")
        found[f"ap_lift_{horizon}m"] = average_precision_lift(happened, p)
        found[f"brier_{horizon}m"] = brier(happened, p)
        found[f"log_loss_{horizon}m"] = log_loss(happened, p)
    return found


def alerted(model: WarningModel, rows: pl.DataFrame, case: Case) -> pl.DataFrame:
    """What the model says of `rows`, with `alert`: by the policy of production.

    A trailing threshold begins with what the model says of the case's bars of the `trailing_days` before them.
    """
    chosen = case.config.warning
    policy = AlertPolicy(chosen.episodes_per_symbol_day_max, case.config.detector.refractory_min)
    if chosen.threshold_by == "trailing":
        age = pl.col("ts") - pl.lit(rows["ts"].min())
        past = case.rows.filter(age < timedelta(0), age >= -timedelta(days=chosen.trailing_days))
        earlier = model.predict(past, chosen.threads).select(*KEYS, score=ALERT)
        policy = replace(policy, trailing=trailing(earlier, case.config))
    told = policy.alerted(model.predict(rows, chosen.threads), model.threshold)
    return told.rename({"model_alert": "alert"}).drop("p_threshold")


def trailing(earlier: pl.DataFrame, config: Config) -> Trailing:
    """The trailing threshold of the settings; told from a third of its window on. `earlier`: `symbol, ts, score`."""
    chosen = config.warning
    window_min = chosen.trailing_days * DAY_MIN
    samples_min = window_min * 60 // config.bars.interval_s // 3
    return Trailing(chosen.trailing_share, window_min, samples_min, earlier)


def scored_rows(case: Case, fold: Fold, model: WarningModel) -> pl.DataFrame:
    """The test rows with their targets, what the model said and whether it alerted."""
    rows = case.rows.filter(fold.test.rows())
    said = alerted(model, rows, case)
    return rows.join(said, on=["venue", *KEYS], how="left", maintain_order="left")


def judged(case: Case, number: int, fold: Fold, variant: Variant | None = None) -> Judged:
    """Fit the fold and measure it on its test slice; a fold that cannot be judged says why and stops nothing.

    Alerts are taken from minutes that can still see an onset: not from inside an event or its refractory time.
    """
    events = within(case.events, fold.test)
    span = f"({fold.test.start:%Y-%m-%dT%H:%M}, {fold.test.end:%Y-%m-%dT%H:%M}]"
    blank = FoldReport(number, span, events.height)
    if events.is_empty():
        blank = replace(blank, note="no cascade in its test period")
    try:
        model = fit_model(case, fold, variant)
    except ValueError as error:
        return Judged(replace(blank, note=blank.note or str(error)))
    rows = scored_rows(case, fold, model)
    answered = rows.filter(pl.col(Y).is_not_null() & pl.col(ALERT).is_not_null())
    if answered.is_empty():
        return Judged(replace(blank, note="the model abstained on every minute", metrics={"abstained_share": 1.0}))
    if blank.note:
        return Judged(blank, model, rows)
    alarms = count_alarms(
        answered.filter("alert"),
        events,
        symbol_days=answered.height / case.bars_per_day,
        horizon_min=ALERT_HORIZON_MIN,
        refractory_min=case.config.detector.refractory_min,
    )
    metrics = _by_horizon(answered) | {
        "roc_auc_60m": roc_auc(floats(answered, Y), floats(answered, ALERT)),
        "threshold": model.threshold,
        "recall": alarms.recall,
        "false_alarms_per_symbol_day": alarms.false_alarms_per_symbol_day,
        "abstained_share": float(floats(rows, "abstained").mean()),
    }
    return Judged(replace(blank, metrics=metrics, baselines=_baselines(answered)), model, rows)


# --- all folds together ---


@dataclass(frozen=True)
class Ranking:
    """How well one score ranks the test minutes of all folds at 60 minutes; the interval is over days drawn again."""

    name: str
    ap_lift: float | None
    low: float | None
    high: float | None
    roc_auc: float | None
    rows: int


def ranking(name: str, rows: pl.DataFrame, score: Floats, seed: int, replicates: int = 1000) -> Ranking:
    """`rows` has `ts` and the target; `score` is finite or -inf (null counts as least risky)."""
    happened = floats(rows, Y)
    day = day_index(rows["ts"])
    days = int(day.max()) + 1 if day.size else 0
    if not happened.any():
        return Ranking(name, None, None, None, None, rows.height)
    weights = day_weights(days, replicates, seed)
    share = weights @ np.bincount(day, weights=happened, minlength=days) / (weights @ np.bincount(day, minlength=days))
    drawn = average_precision_of(day, happened, score)(weights)
    lifts = np.divide(drawn, share, out=np.full_like(drawn, np.nan), where=share > 0)
    low, high = np.nanquantile(lifts, (0.05, 0.95))
    lift = average_precision_lift(happened, score)
    return Ranking(name, lift, float(low), float(high), roc_auc(happened, score), rows.height)


def together(found: Sequence[Judged]) -> pl.DataFrame | None:
    """Test rows of all folds that could still see an onset and were answered; null where no fold answered."""
    told = pl.col(Y).is_not_null() & pl.col(ALERT).is_not_null()
    parts = [one.rows.filter(told) for one in found if one.rows is not None]
    return pl.concat(parts).sort(KEYS) if parts else None


def lift_of(reports: Sequence[FoldReport]) -> float | None:
    """Median over the folds that could be judged of the AP lift at 60 minutes."""
    lifts = [fold.ap_lift_60m for fold in reports if fold.ap_lift_60m is not None]
    return median(lifts) if lifts else None


def rivals(case: Case, folds: Sequence[Fold], found: Sequence[Judged]) -> tuple[Ranking, ...]:
    """The model, each baseline column and each rival model on the same test rows, best first.

    A rival is judged where the model answered; minutes in which only the rival was silent count as least risky for it.
    """
    rows = together(found)
    if rows is None:
        return ()
    seed = case.config.seed
    table = [ranking("model", rows, floats(rows, ALERT), seed)]
    table += [ranking(label, rows, floats(rows, risky(name)), seed) for label, name in present_baselines(rows)]
    for name, variant in _rival_models(case).items():
        other = together([judged(case, k, fold, variant) for k, fold in enumerate(folds)])
        if other is not None:
            table.append(_of_other(name, rows, other, seed))
    return tuple(sorted(table, key=lambda one: -(one.ap_lift or 0.0)))


def _of_other(name: str, rows: pl.DataFrame, other: pl.DataFrame, seed: int) -> Ranking:
    """What another model said of the same `rows`; where it was silent a minute counts as least risky."""
    said = rows.select(*KEYS, Y).join(other.select(*KEYS, ALERT), on=KEYS, how="left", maintain_order="left")
    return ranking(name, said, floats(said, pl.col(ALERT).fill_null(float("-inf"))), seed)


def _rival_models(case: Case) -> dict[str, Variant]:
    kind = case.config.warning.kind
    found = {"logistic model": Variant("line")} if kind != "line" else {"trees": Variant("trees")}
    if any(FAMILY_OF.get(name) == "structure" for name in case.matrix.columns):
        found["structure model"] = Variant("line", lambda name: FAMILY_OF.get(name) == "structure")
    if case.base is not None:
        base = set(case.base.features)
        found |= {"base alone": Variant("trees", base.__contains__), "without base": Variant("trees", with_base=False)}
    return found


FUNDING = ("funding_",)
BASIS = ("basis_",)
VOLATILITY = ("vol_", "parkinson_", "jump_", "range_", "shock_")
CROWDING = (*FUNDING, *BASIS, *VOLATILITY, "crowding_", "carry_")
RIVALS = "rivals.json"  # of a training's run: all rankings, the model first
ABLATIONS: dict[str, Callable[[str], bool]] = {
    "funding only": lambda name: name.startswith(FUNDING),
    "basis only": lambda name: name.startswith(BASIS),
    "volatility only": lambda name: name.startswith(VOLATILITY),
    "funding, basis and volatility": lambda name: name.startswith(CROWDING),
    "without structure": lambda name: FAMILY_OF.get(name) != "structure",
    "without cancels": lambda name: FAMILY_OF.get(name) != "cancels",
    "without leverage": lambda name: FAMILY_OF.get(name) != "leverage",
    "without thin books": lambda name: FAMILY_OF.get(name) != "thin_book",
}


def ablations(case: Case, folds: Sequence[Fold], found: Sequence[Judged]) -> tuple[Ranking, ...]:
    """The same trial on some of the features, on the same test rows as the model; in the order of ABLATIONS.

    Each is trained anew from the period alone: what a base learned cannot be taken out of it.
    """
    rows = together(found)
    if rows is None:
        return ()
    table = []
    for name, keeps in ABLATIONS.items():
        variant = Variant(case.config.warning.kind, keeps, with_base=False)
        other = together([judged(case, k, fold, variant) for k, fold in enumerate(folds)])
        if other is not None:
            table.append(_of_other(name, rows, other, case.config.seed))
    return tuple(table)
