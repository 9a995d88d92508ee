"""The promotion gate: whether a challenger may replace the champion, judged on time neither has seen.

Every check must pass, and says in one sentence what was seen and what was asked. What cannot be judged does not pass:
a gate that is in doubt keeps the champion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.bootstrap import (
    Difference,
    Ints,
    Statistic,
    average_precision_of,
    chance_p_value,
    day_index,
    mean_of,
    paired_difference,
)
from models.conformal import NO_SCORE, best_scores
from models.metrics import AlarmCount, corp, count_alarms

Floats = NDArray[np.float64]

DAY_S = 86_400
COLUMNS = ("symbol", "ts", "y", "p_champion", "p_challenger")
PROBES = ("monotone", "causality")  # must be among a contest's probes
ROUNDING = 1e-12  # a probability that falls by less did not fall


@dataclass(frozen=True)
class Check:
    """One question and its answer. `observed` and `limit` are null where there is nothing to compare."""

    name: str
    passed: bool
    observed: float | None
    limit: float | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "observed": _finite(self.observed), "limit": _finite(self.limit)}


Probe = Check  # the answer of a probe that was run elsewhere


@dataclass(frozen=True)
class GateSettings:
    """What is asked of a challenger. `miscalibration_max` is a share of the uncertainty of the outcomes,
    `rate_gap_max` a share of the event rate: calibrated on other days, a sound model errs that much."""

    events_min: int = 5
    budget_episodes_per_symbol_day: float = 1.0
    miscalibration_max: float = 0.25
    rate_gap_max: float = 0.25
    replicates: int = 1000
    confidence: float = 0.9
    margin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError that names every setting out of bounds."""
        allowed = {
            "events_min must be at least 1": self.events_min >= 1,
            "budget_episodes_per_symbol_day must be positive": self.budget_episodes_per_symbol_day > 0,
            "miscalibration_max must be in (0, 1]": 0 < self.miscalibration_max <= 1,
            "rate_gap_max must be in [0, 1]": 0 <= self.rate_gap_max <= 1,
            "replicates must be at least 1": self.replicates >= 1,
            "confidence must be in (0, 1)": 0 < self.confidence < 1,
            "margin must be 0 or more": 0 <= self.margin < math.inf,
        }
        broken = [f"{rule}, was {getattr(self, rule.split()[0])}" for rule, holds in allowed.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))


@dataclass(frozen=True)
class Contest:
    """Champion and challenger on the same test rows, later than anything either was fitted, calibrated or set on.

    `rows`: `symbol, ts, y, p_champion, p_challenger`, one row per symbol and bar of `bar_s` seconds that both answered
    and whose outcome y (an onset in (ts, ts + horizon_min]: 0 or 1) is known; p_champion is null everywhere if there is
    none. `events`: `symbol, onset, end`, every event of the test period: one in bars without rows counts as missed, so
    that abstaining does not pay.

    A model alerts where its Boolean column `alert_champion` or `alert_challenger` says so (folds may have thresholds of
    their own); without that column, where its probability is at or above its threshold. Either was chosen before the
    test period.
    """

    rows: pl.DataFrame
    events: pl.DataFrame
    horizon_min: int
    refractory_min: int
    threshold_champion: float | None = None
    threshold_challenger: float | None = None
    lead_min: int = 1
    bar_s: int = 60
    settings: GateSettings = GateSettings()
    probes: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        absent = [name for name in COLUMNS if name not in self.rows.columns]
        if absent:
            raise ValueError(f"rows must hold {', '.join(COLUMNS)}, lacked {', '.join(absent)}")
        if not self.bar_s > 0:
            raise ValueError(f"bar_s must be positive, was {self.bar_s}")

    @property
    def has_champion(self) -> bool:
        return self.rows["p_champion"].null_count() < self.rows.height

    def floats(self, name: str) -> Floats:
        return np.asarray(self.rows[name].cast(pl.Float64).to_numpy(), dtype=np.float64)

    @property
    def day(self) -> Ints:
        return day_index(self.rows["ts"])


@dataclass(frozen=True)
class Verdict:
    promote: bool
    checks: tuple[Check, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        checks = [check.to_dict() for check in self.checks]
        return {"promote": self.promote, "sentence": self.sentence, "checks": checks}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _sealed(check: Check) -> Check:
    """The same check, not passed unless it says so outright and both its numbers are known."""
    known = _finite(check.observed) is not None and _finite(check.limit) is not None
    return Check(
        check.name, check.passed is True and known, _finite(check.observed), _finite(check.limit), check.sentence
    )


def _check(name: str, observed: float | None, limit: float | None, passed: bool, sentence: str) -> Check:
    return _sealed(Check(name, bool(passed), observed, limit, sentence))


def _unknown(name: str, limit: float | None, sentence: str) -> Check:
    return Check(name, passed=False, observed=None, limit=limit, sentence=sentence)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _interval(found: Difference, confidence: float) -> str:
    return f"{confidence:.0%} interval {_shown(found.low)} to {_shown(found.high)}, {found.days} days drawn again"


def _complete(contest: Contest) -> Check:
    """Every row has an outcome of 0 or 1 and probabilities in [0, 1], and no symbol and minute comes twice."""
    rows = contest.rows
    if rows.is_empty():
        return _unknown("rows", 0.0, "There is no test row to judge on.")
    scored = ["p_challenger", *(["p_champion"] if contest.has_champion else [])]
    sound = pl.all_horizontal(
        pl.col("y").cast(pl.Float64).is_in([0.0, 1.0]).fill_null(False),
        *(pl.col(name).cast(pl.Float64).is_between(0.0, 1.0).fill_null(False) for name in scored),
        pl.col("symbol").is_not_null() & pl.col("ts").is_not_null(),
        pl.struct("symbol", "ts").is_unique(),
    )
    faulty = rows.filter(~sound).height
    sentence = f"{faulty:,} of {rows.height:,} test rows lack an outcome or a probability, or come twice; none may."
    return _check("rows", faulty, 0.0, faulty == 0, sentence)


def _events(contest: Contest) -> Check:
    """Enough events of which some test row could have warned."""
    scores = contest.rows.select("symbol", "ts", score="p_challenger")
    best = best_scores(scores, contest.events, horizon_min=contest.horizon_min, lead_min=contest.lead_min)["best"]
    seen, least = int((best > NO_SCORE).sum()), contest.settings.events_min
    claim = "" if seen >= least else ": no claim can be made"
    sentence = f"The test rows could have warned of {seen} cascades; at least {least} are needed{claim}."
    return _check("events", seen, least, seen >= least, sentence)


def _difference(contest: Contest, champion: Statistic, challenger: Statistic) -> Difference:
    asked = contest.settings
    days = int(contest.day.max()) + 1
    return paired_difference(
        champion, challenger, days, replicates=asked.replicates, seed=asked.seed, confidence=asked.confidence
    )


def _ranking(contest: Contest) -> Check:
    """Average precision surely above the champion's; without a champion, surely above a constant score's."""
    day, happened, asked = contest.day, contest.floats("y"), contest.settings
    challenger = average_precision_of(day, happened, contest.floats("p_challenger"))
    if contest.has_champion:
        champion = average_precision_of(day, happened, contest.floats("p_champion"))
        found = _difference(contest, champion, challenger)
        passed = found.low is not None and found.low > -asked.margin and (found.difference or 0.0) > 0
        sentence = (
            f"Average precision is {_shown(found.difference)} above the champion's "
            f"({_interval(found, asked.confidence)}); its lower bound must exceed {0.0 - asked.margin:.4g}."
        )
        return _check("ranking", found.low, 0.0 - asked.margin, passed, sentence)
    rate = mean_of(day, happened)
    found = _difference(contest, lambda weights: np.ones(weights.shape[0]), lambda w: challenger(w) / rate(w))
    lift, low = (None if value is None else value + 1 for value in (found.difference, found.low))
    sentence = (
        f"Average precision is {_shown(lift)} times the event rate (lower bound {_shown(low)} at "
        f"{asked.confidence:.0%}, {found.days} days drawn again); the lower bound must exceed 1."
    )
    return _check("ranking", low, 1.0, low is not None and low > 1, sentence)


def _chance(contest: Contest) -> Check:
    """Average precision that copies of the score, shifted in time, hardly ever reach.

    A score worth nothing lies above the event rate when events are few: the bootstrap alone would let it pass.
    """
    asked, rows = contest.settings, contest.rows.sort("symbol", "ts")
    happened, score = (rows[name].cast(pl.Float64).to_numpy() for name in ("y", "p_challenger"))
    found, limit = (
        chance_p_value(rows["symbol"], happened, score, shifts=asked.replicates, seed=asked.seed),
        round((1 - asked.confidence) / 2, 12),
    )
    if found is None:
        return _unknown("chance", limit, "Without an event row nothing can be told from chance.")
    sentence = (
        f"{found:.1%} of copies of the challenger's score, shifted in time, rank as well; at most {limit:.1%} may."
    )
    return _check("chance", found, limit, found <= limit, sentence)


def _alerts(contest: Contest, model: str) -> pl.DataFrame | None:
    """Rows in which the model alerts; null where that is not known."""
    rows, column = contest.rows, f"alert_{model}"
    if column in rows.columns:
        return None if rows[column].null_count() else rows.filter(pl.col(column))
    threshold = contest.threshold_challenger if model == "challenger" else contest.threshold_champion
    known = threshold is not None and math.isfinite(threshold)
    return rows.filter(pl.col(f"p_{model}") >= threshold) if known else None


def _alarms(contest: Contest, model: str) -> AlarmCount | None:
    alerts = _alerts(contest, model)
    if alerts is None:
        return None
    return count_alarms(
        alerts,
        contest.events,
        symbol_days=contest.rows.height * contest.bar_s / DAY_S,
        horizon_min=contest.horizon_min,
        refractory_min=contest.refractory_min,
        lead_min=contest.lead_min,
    )


def _recall(contest: Contest) -> Check:
    """No fewer cascades warned of in time than by the champion; without a champion, at least one."""
    found = _alarms(contest, "challenger")
    if not contest.has_champion:
        least: float | None = 1 / max(contest.events.height, 1)
        compared = "at least one must be"
    else:
        standing = _alarms(contest, "champion")
        least = None if standing is None else standing.recall
        compared = f"the champion {'alerted nobody knows when' if standing is None else f'warned of {standing.hits}'}"
    if found is None or found.recall is None or least is None:
        return _unknown("recall", least, f"Cascades warned of in time cannot be counted; {compared}.")
    sentence = f"{found.hits} of {found.events} cascades were warned of in time; {compared}."
    return _check("recall", found.recall, least, found.recall >= least, sentence)


def _false_alarms(contest: Contest) -> Check:
    """The budget holds on the test period.

    charge = max(false alarms, minutes of alert with y = 0 / refractory_min) / symbol-days

    so that a permanent alarm, a single episode that some cascade follows, does not pass as free.
    """
    budget, found, alerts = (
        contest.settings.budget_episodes_per_symbol_day,
        _alarms(contest, "challenger"),
        _alerts(contest, "challenger"),
    )
    if found is None or alerts is None:
        return _unknown(
            "false_alarms", budget, "It is not known when the challenger alerts: its alarms cannot be counted."
        )
    lasting = alerts.filter(pl.col("y") == 0).height * contest.bar_s / 60 / contest.refractory_min
    charge = max(found.false_alarms, lasting) / found.symbol_days
    sentence = f"{charge:.3g} false alarms per symbol and day on the test rows; the budget is {budget:.3g}."
    return _check("false_alarms", charge, budget, charge <= budget, sentence)


def _miscalibration(contest: Contest) -> Check:
    """What a better map of the same probabilities would gain, as a share of the uncertainty."""
    parts, limit = corp(contest.floats("y"), contest.floats("p_challenger")), contest.settings.miscalibration_max
    if parts is None or not parts.uncertainty > 0:
        return _unknown("miscalibration", limit, "Without a row of each outcome calibration cannot be judged.")
    share = parts.miscalibration / parts.uncertainty
    sentence = f"Miscalibration is {share:.1%} of the uncertainty of the outcomes; at most {limit:.1%} is allowed."
    return _check("miscalibration", share, limit, share <= limit, sentence)


def _event_rate(contest: Contest) -> Check:
    """Mean probability equals the event rate, as far as drawing days again can tell, or nearly."""
    p, happened = contest.floats("p_challenger"), contest.floats("y")
    found = _difference(contest, mean_of(contest.day, happened), mean_of(contest.day, p))
    if found.difference is None or found.low is None or found.high is None:
        return _unknown("event_rate", None, "The mean probability cannot be compared with the event rate.")
    gap = abs(found.difference)
    chance = found.difference - found.low if found.difference > 0 else found.high - found.difference
    limit = max(chance, contest.settings.rate_gap_max * float(happened.mean()))
    sentence = (
        f"The mean probability is {p.mean():.3%}, {happened.mean():.3%} happened; a gap of {limit:.3%} is allowed, "
        f"{chance:.3%} of it by the days of the test."
    )
    return _check("event_rate", gap, limit, gap <= limit and bool(happened.any()), sentence)


def _probes(contest: Contest) -> tuple[Check, ...]:
    given = tuple(_sealed(probe) for probe in contest.probes)
    absent = [name for name in PROBES if name not in {probe.name for probe in given}]
    return (*given, *(_unknown(name, None, f"The probe {name} was not run.") for name in absent))


CHECKS: tuple[Callable[[Contest], Check], ...] = (
    _events, _ranking, _chance, _recall, _false_alarms, _miscalibration, _event_rate,
)  # fmt: skip


def _sentence(checks: Sequence[Check], has_champion: bool) -> str:
    failed = [check for check in checks if not check.passed]
    if not failed:
        return f"Promote the challenger: all {len(checks)} checks passed."
    keep = "Keep the champion" if has_champion else "Promote nothing"
    return f"{keep}: {len(failed)} of {len(checks)} checks failed. " + " ".join(check.sentence for check in failed)


def judge(contest: Contest) -> Verdict:
    """Promote only if every check passed: rows, events, ranking, chance, recall, false alarms, calibration, probes.

    Rows that are not sound end the judgement: then only they and the probes are reported. NaN, null, an absent probe
    or alerts that are not known are checks that failed. The same contest gives the same verdict: the seed is a setting.

    Raises ValueError where `horizon_min`, `lead_min` or `refractory_min` make no sense.
    """
    complete = _complete(contest)
    judged = tuple(check(contest) for check in CHECKS) if complete.passed else ()
    checks = (complete, *judged, *_probes(contest))
    promote = complete.passed and all(check.passed is True for check in checks)
    return Verdict(promote, checks, _sentence(checks, contest.has_champion))


def _pushed(values: pl.Series, direction: int, dice: np.random.Generator) -> pl.Series:
    """Every known value moved by the distance of two values drawn from the column; the others stay."""
    known = values.cast(pl.Float64).filter(values.cast(pl.Float64).is_finite().fill_null(False)).to_numpy()
    if not known.size:
        return values
    distance = np.abs(dice.choice(known, values.len()) - dice.choice(known, values.len()))
    return (values.cast(pl.Float64) + pl.Series(direction * distance)).alias(values.name)


def monotone_probe(
    predict: Callable[[pl.DataFrame], Floats], rows: pl.DataFrame, monotone: Mapping[str, int], seed: int
) -> Probe:
    """No probability falls when features move in their risky direction: one by one, then all together.

        pushed = x + direction |a - b|,  a and b drawn from the column's own values, row by row
        fall   = max over pushes and rows of predict(rows) - predict(pushed);  passed if fall <= ROUNDING

    `monotone` gives +1 (more is riskier) or -1 per feature, 0 for none. `predict` gives one probability per row, and
    answers every row of `rows`: NaN does not pass. Null and infinite values stay. Nothing to push does not pass.

    Raises ValueError if a constrained feature is not a column of `rows`.
    """
    directions = {name: direction for name, direction in sorted(monotone.items()) if direction != 0}
    absent = [name for name in directions if name not in rows.columns]
    if absent:
        raise ValueError(f"rows must hold every constrained feature, lacked {', '.join(absent)}")
    dice = np.random.default_rng(seed)
    pushed = {name: _pushed(rows[name], direction, dice) for name, direction in directions.items()}
    moved = {name: column for name, column in pushed.items() if not column.equals(rows[name].cast(column.dtype))}
    if not moved:
        return _unknown("monotone", ROUNDING, "No constrained feature could be pushed: monotone risk was not shown.")
    tried = [rows.with_columns(column) for column in moved.values()] + [rows.with_columns(*moved.values())]
    falls = predict(rows) - np.array([predict(frame) for frame in tried])
    fall = float(np.maximum(0.0, falls.max()))  # NaN stays NaN, which Python's max would lose
    sentence = (
        f"{len(moved)} of {len(directions)} constrained features were pushed in their risky direction over "
        f"{rows.height:,} rows; the largest fall of a probability was {_shown(_finite(fall))}."
    )
    return _check("monotone", fall, ROUNDING, fall <= ROUNDING, sentence)


def _differing(prefix: pl.DataFrame, whole: pl.DataFrame, cut: datetime) -> int:
    """Rows of the prefix that the whole, up to the cut, does not hold alike, or the reverse, whichever are more."""
    alike = {"on": prefix.columns, "how": "anti", "nulls_equal": True}
    upto = whole.filter(pl.col("ts") <= cut).select(prefix.columns)
    return max(prefix.join(upto, **alike).height, upto.join(prefix, **alike).height)  # type: ignore[arg-type]


def prefix_probe(score_upto: Callable[[datetime], pl.DataFrame], cuts: Sequence[datetime]) -> Probe:
    """Scores know nothing of what comes after: those of a prefix equal those of the whole at the same rows, exactly.

        observed = sum over cuts but the last of rows with ts <= cut that differ or exist on one side only; limit 0

    `score_upto(cut)` gives `symbol, ts` and scores, from data up to and including `cut` alone; the latest cut is the
    whole. Fewer than two cuts, or prefixes without any score, compare nothing and do not pass.

    Raises ValueError if prefix and whole have different columns.
    """
    *early, last = sorted(set(cuts)) or [datetime.min]  # noqa: DTZ901 - never scored: there is nothing before it
    if not early:
        return _unknown("causality", 0.0, "There were fewer than two cuts: causality was not shown.")
    whole = score_upto(last)
    differing = compared = 0
    for cut in early:
        prefix = score_upto(cut)
        if set(prefix.columns) != set(whole.columns):
            raise ValueError(f"scores must have the same columns at every cut, were {prefix.columns}, {whole.columns}")
        differing += _differing(prefix, whole, cut)
        compared += prefix.drop_nulls().height
    if not compared:
        return _unknown("causality", 0.0, "No prefix held a score: causality was not shown.")
    sentence = f"{differing:,} rows changed their score when later data were cut off at {len(early)} times; none may."
    return _check("causality", differing, 0.0, differing == 0, sentence)
