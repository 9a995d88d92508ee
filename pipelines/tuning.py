"""Tuning: the trees' settings, searched inside the training period alone.

Whatever is judged later must not have been looked at, so the search sees one stretch only: the train slice of the first
walk-forward fold. Every fold and the model that goes to work train on it anyway; no calibrate, threshold or test slice
of any of them reaches into it. It is cut out of the case before anything else happens.

    inner folds   walk_forward(cut, INNER_FOLDS): scorer on train, calibration on calibrate, judged on what is later,
                  every row once: on threshold, and in the last fold on to the end of the cut
    value         log loss at 60 min of the calibrated probabilities, judged rows of all inner folds together; less is
                  better
    trial 0       the settings as configured, so that the best is never worse than they are, by this value
    trial k       TPE with the seed (seed, k) on the finished trials before it: stopping and going on changes nothing

Log loss and not average precision: it is a proper score that every row of the few cascades moves by a little, where
average precision jumps with the rank of single rows; and it punishes certainty, which is what too large trees add. Rows
on which a model would abstain count too, or a trial could win by keeping silent.

Few cascades tell little. On six simulated markets (15 to 69 cascades judged, 16 settings each) the value's rank
correlation with the log loss of the outer tests was 0.12 to 0.77, on average 0.47, and the best of the 16 was better
there than the defaults in two of six. The outer folds judge what was found; the value does not.
"""

import fcntl
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import models
from features.catalogue import CATALOGUE_VERSION
from features.labels import VERSIONS
from models.metrics import log_loss
from models.periods import HORIZONS_MIN, count_events
from models.splits import Fit, Span, venue_events, walk_forward
from models.warning import ALERT, Limits
from pipelines.case import EVENTS_MIN, Case, data_sha256, slices
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.progress import Say, silent
from pipelines.trial import Y, fit_model, floats

INNER_FOLDS = 2
CASCADES_MANY = 100  # below, a sentence says that chance may have chosen
STARTUP = 10  # trials drawn at random before TPE has something to learn from
REASON = "reason"  # why a trial could not be fitted; a failed trial without one was killed and is run again
SILENT_NEVER = Limits(1.0, 1.0)

Settings = dict[str, float]


@dataclass(frozen=True)
class Range:
    """What a setting may be, both ends included; searched on a logarithmic scale unless `even`."""

    low: float
    high: float
    whole: bool = False
    even: bool = False

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=not self.even)
        return FloatDistribution(self.low, self.high, log=not self.even)


RANGES: Mapping[str, Range] = {
    "rounds": Range(20, 500, whole=True),
    "leaves": Range(2, 31, whole=True),
    "learning_rate": Range(0.01, 0.3),
    "leaf_rows_min": Range(20, 1000, whole=True),
    "l2": Range(0.1, 100.0),
    "negative_share": Range(0.1, 1.0, even=True),
}


@dataclass(frozen=True)
class Tuned:
    """What a search found. `table`: `trial, log_loss, reason` and one column per setting, one row per trial.

    `log_loss` is null and `reason` says why where the settings could not be fitted. The value of the best is no
    estimate of how good a model is: the best was chosen by it.
    """

    config: Config
    best: Settings
    trials_done: int
    study: str
    table: pl.DataFrame
    cascades: int  # that the trials were judged on

    @property
    def chosen(self) -> dict[str, Any]:
        """The row of the best trial."""
        return self.table.sort("log_loss", "trial", nulls_last=True).row(0, named=True)

    def sentence(self) -> str:
        first = self.table["log_loss"][0]
        before = "could not be fitted" if first is None else f"had {first:.6f}"
        found = ", ".join(f"{name} {value:.4g}" for name, value in self.best.items())
        doubt = "; on so few cascades chance may have chosen" if self.cascades < CASCADES_MANY else ""
        return (
            f"tuned in {self.trials_done} trials on {self.cascades} cascades of the first training slice: trial "
            f"{self.chosen['trial']} has log loss {self.chosen['log_loss']:.6f}, the settings as configured {before} "
            f"({found}){doubt}"
        )

    def params(self) -> dict[str, str | int | float]:
        """What a tracked run says of it."""
        return {
            "tune.trials": self.trials_done,
            "tune.study": self.study,
            "tune.best_trial": self.chosen["trial"],
            "tune.best_log_loss": self.chosen["log_loss"],
            "tune.configured_log_loss": "-" if self.table["log_loss"][0] is None else self.table["log_loss"][0],
            "tune.cascades": self.cascades,
            "tune.trials_sha256": hashlib.sha256(self.to_json().encode()).hexdigest(),
        }

    def to_json(self) -> str:
        """The search as text: the same data, settings, seed and number of trials give the same bytes."""
        plain = {"study": self.study, "best": self.best, "cascades": self.cascades, "trials": self.table.to_dicts()}
        return json.dumps(plain, indent=1, sort_keys=True, allow_nan=False)


# --- what a trial may see ---


def visible(case: Case) -> Case:
    """The case as if it ended with the train slice of its first fold: rows, targets and cascades beyond are gone."""
    span = slices(case)[0][0].train
    return replace(
        case,
        matrix=case.matrix.filter(span.rows()),
        targets=case.targets.filter(span.rows()),
        events=case.events.filter(pl.col("onset") <= span.end),
    )


def inner_folds(seen: Case) -> list[tuple[Fit, Span]]:
    """What each inner fold learns from, and the later span that judges it.

    Raises InputError where the slice is too short or holds too few cascades to judge by.
    """
    label, embargo_min = seen.config.label, seen.config.warning.embargo_min
    told = seen.targets.filter(pl.col(Y).is_not_null())["ts"]
    apart = venue_events(seen.events, 0, label.refractory_min)
    mend = "train on a longer period, lower `warning.folds`, or leave out --tune"
    try:
        folds = walk_forward(told, INNER_FOLDS, max(HORIZONS_MIN) + label.window_min, embargo_min, apart)
    except ValueError as error:
        raise InputError(f"the first training slice is too short to tune in ({error})", mend=mend) from None
    found: list[tuple[Fit, Span]] = [(fold, fold.threshold) for fold in folds[:-1]]
    found.append((folds[-1], Span(folds[-1].threshold.start, folds[-1].test.end)))
    events = cascades(seen, found)
    if events < EVENTS_MIN:
        what = f"tuning must be judged on at least {EVENTS_MIN} cascades, the first training slice leaves {events}"
        raise InputError(what, mend=mend)
    return found


def cascades(seen: Case, folds: list[tuple[Fit, Span]]) -> int:
    """Cascades in the judged spans that a row there could have warned of."""
    return sum(count_events(seen.rows.filter(span.rows()), Y) for _, span in folds)


def with_settings(case: Case, settings: Mapping[str, float | str]) -> Case:
    """The same case with these `[warning]` settings."""
    warning = case.config.warning.model_copy(update=dict(settings))
    return replace(case, config=case.config.model_copy(update={"warning": warning}))


def objective(seen: Case, folds: list[tuple[Fit, Span]], settings: Settings) -> float:
    """The value of `settings` (see above). Raises ValueError where a fold cannot be fitted."""
    # an alert level is not judged here; by cost it needs no rows
    case = with_settings(seen, {**settings, "threshold_by": "cost"})
    happened, p = [], []
    for fit, span in folds:
        model = replace(fit_model(case, fit), limits=SILENT_NEVER)
        rows = case.rows.filter(span.rows() & pl.col(Y).is_not_null())
        happened.append(floats(rows, Y))
        p.append(floats(model.predict(rows, case.config.warning.threads), ALERT))
    value = log_loss(np.concatenate(happened), np.concatenate(p))
    if value is None or not math.isfinite(value):
        raise ValueError(f"log loss must be finite, was {value}")
    return value


# --- the study ---


def _configured(config: Config) -> Settings:
    """The tuned settings as they are set. Raises InputError naming all that lie outside their range."""
    found: Settings = {name: getattr(config.warning, name) for name in RANGES}
    outside = [
        f"`warning.{name}` must lie in {chosen.low:g} .. {chosen.high:g}, was {found[name]:g}"
        for name, chosen in RANGES.items()
        if not chosen.holds(found[name])
    ]
    if outside:
        raise InputError(
            "; ".join(outside), mend="tuning starts from the settings: set them within, or leave out --tune"
        )
    return found


@cache
def code_sha256() -> str:
    """Hash of the code that gives a trial its value: what other code found is not compared with what this one finds."""
    files = [*sorted(Path(models.__file__ or "").parent.glob("*.py")), Path(__file__).with_name("trial.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in (*files, Path(__file__)))).hexdigest()


def study_name(seen: Case) -> str:
    """Hash of all that a trial depends on: data, label, settings, seed, code and its tables, libraries."""
    config = seen.config
    told = {
        "data": data_sha256(seen.matrix, seen.targets, seen.events),
        "label": config.label.model_dump(),
        "warning": config.warning.model_dump(exclude={"threads"}),  # the tuned ones are where trial 0 starts
        "bar_s": config.bars.interval_s,
        "seed": config.seed,
        "versions": [CATALOGUE_VERSION, VERSIONS[config.label.name], version("lightgbm"), version("optuna")],
        "code": code_sha256(),
        "search": [INNER_FOLDS, STARTUP, {name: repr(chosen) for name, chosen in RANGES.items()}],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One search at a time in a store: a trial that is still running elsewhere must not be taken for a killed one."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        lock = store.with_name(f".{store.name}.lock").open("w")
    except OSError as error:
        raise InputError(f"the store of tuning cannot be written ({error})", where=store) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another training is tuning", where=store, mend="wait until it has ended") from None
        yield


@contextmanager
def _study(store: Path, name: str) -> Iterator[Any]:
    """The study of this name, made where there is none; trials that a killed run left behind are failed."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{store.resolve()}")
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        mend = "move it away: only the trials in it are lost"
        raise InputError(f"the store of tuning cannot be read ({why})", where=store, mend=mend) from None
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
        for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _counted(study: Any) -> list[Any]:
    """Trials with a value or a reason, in order. Those of a killed run have neither."""
    from optuna.trial import TrialState

    found = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    return [one for one in found if one.state == TrialState.COMPLETE or REASON in one.user_attrs]


def _sampler(seed: int, trial: int) -> Any:
    """TPE anew for every trial: its dice depend on the seed and the trial, not on how often the search was stopped."""
    from optuna.samplers import TPESampler

    own = int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])
    return TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=False, seed=own)


def _asked(study: Any, seed: int, trial: int, start: Settings) -> Any:
    """The next trial with its settings; the first has those of `start`."""
    from optuna.trial import TrialState

    if trial == 0 and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial(start)
    study.sampler = _sampler(seed, trial)
    return study.ask({name: chosen.distribution() for name, chosen in RANGES.items()})


def _run(study: Any, seen: Case, folds: list[tuple[Fit, Span]], trials: int, say: Say) -> None:
    """Trials until `trials` are counted."""
    from optuna.trial import TrialState

    start = _configured(seen.config)
    for number in range(len(_counted(study)), trials):
        values = [one.value for one in _counted(study) if one.value is not None]
        best = f", best log loss {min(values):.6f}" if values else ""
        say(f"tuning, {number + 1} of {trials} trials{best}")
        trial = _asked(study, seen.config.seed, number, start)
        try:
            study.tell(trial, objective(seen, folds, trial.params))
        except ValueError as error:
            trial.set_user_attr(REASON, str(error))
            study.tell(trial, state=TrialState.FAIL)


def _table(trials: list[Any]) -> pl.DataFrame:
    schema = {"trial": pl.Int64, "log_loss": pl.Float64, "reason": pl.String} | {
        name: pl.Int64 if chosen.whole else pl.Float64 for name, chosen in RANGES.items()
    }
    rows = [
        [number, one.value, one.user_attrs.get(REASON), *(one.params[name] for name in RANGES)]
        for number, one in enumerate(trials)
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def tune(case: Case, trials: int, store: Path, say: Say = silent) -> Tuned:
    """Search the settings in RANGES, `trials` in all; those that `store` (a SQLite file) holds are not run again.

    The result depends on the first `trials` trials of the study, however many it holds. Of equal values the earlier
    trial is the best. A setting that cannot be fitted is a trial with a reason and without a value.

    Raises InputError if `trials` < 1, for a model without settings to tune, for settings outside their range, too short
    a slice or too few cascades in it, a store that cannot be used, and where no trial could be fitted.
    """
    if trials < 1:
        raise InputError(f"`--tune` must be at least 1, was {trials}")
    if case.config.warning.kind != "trees" or case.base is not None:
        what = "a line" if case.base is None else "trees on top of what more history taught"
        raise InputError(f"{what} has no settings to tune", mend="leave out --tune, or train trees without --pretrain")
    start, seen = _configured(case.config), visible(case)
    folds, name = inner_folds(seen), study_name(seen)
    with _alone(store), _study(store, name) as study:
        _run(study, seen, folds, trials, say)
        table = _table(_counted(study)[:trials])
    if table["log_loss"].null_count() == trials:
        raise InputError(
            f"none of {trials} trials could be fitted ({table['reason'][0]})",
            mend="train on a longer period with more cascades, or leave out --tune",
        )
    row = table.sort("log_loss", "trial", nulls_last=True).row(0, named=True)
    best: Settings = {setting: row[setting] for setting in start}
    return Tuned(with_settings(case, best).config, best, trials, name, table, cascades(seen, folds))
