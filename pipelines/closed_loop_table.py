"""What the closed loop found: every arm against nobody, every rule against its absence, told in a few sentences.

A difference is taken seed by seed, so that what the seeds have in common drops out; its interval is a bootstrap over
seeds: the middle 90 % of the means of as many seeds, drawn with replacement.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from guardrails.policy import Policy
from models.bootstrap import day_weights
from models.evaluation.decision import STATED, Costs, break_even_usd, of_loop
from pipelines.closed_loop import (
    EVERY_MIN,
    GUARDED,
    MODEL,
    NONE,
    WARM_MIN,
    WITHOUT,
    ArmRun,
    Setting,
    run_seeds,
    volatility_score,
)
from pipelines.closed_loop_kept import Kept, key_of
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.policies import policy_in_force, read_policies
from pipelines.progress import Say, silent
from pipelines.simulate import venue_settings

HARM = ("liquidated_usd", "adl_usd", "bad_debt_usd", "fund_draw_usd", "worst_dip", "worst_hour")
COST = ("restricted_min", "paused_min", "refused_usd", "decisions", "tightened_min")
MEASURES = (*HARM, *COST)
REPLICATES, CONFIDENCE = 2_000, 0.9
DAYS_MAX = 365
MODEL_RULE = "the model's wish"
SEEDS_LEAST = 5  # below, an interval says nothing
MATERIAL = 0.01  # of what is liquidated while nobody steers; a smaller mean hardly matters
NEVER, SAVES, HARMS, UNTOLD = "changed nothing", "saves", "harms", "not told from zero"
HARDLY, FEW = "hardly matters", "too few seeds"


@dataclass(frozen=True)
class Estimate:
    """Mean of paired differences, and the bounds of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmRow:
    """One arm. `median` of the seeds' numbers; `less_none` their differences to nobody; `mean` to draw them."""

    arm: str
    median: Mapping[str, float]
    mean: Mapping[str, float]
    less_none: Mapping[str, Estimate]


@dataclass(frozen=True)
class RuleRow:
    """One rule. `saved`: harm without it less harm with it; `cost`: restraint with it less without it."""

    rule: str
    seeds: int  # in which anything is different without it
    saved: Mapping[str, Estimate]
    cost: Mapping[str, Estimate]
    verdict: str  # by what is liquidated, see `_judged`


@dataclass(frozen=True)
class ValueRow:
    """What one arm is worth against another, a seed, in dollars at stated prices.

    `value = avoided - restraint`; `break_even_min_usd`: the price of a restricted symbol-minute at which that is 0, the
    other prices as they are, null where the arm adds no such minute.
    """

    arm: str
    against: str
    value_usd: Estimate
    avoided_usd: Estimate
    restraint_usd: Estimate
    restricted_min: Estimate
    break_even_min_usd: float | None


@dataclass(frozen=True)
class LoopSummary:
    """The keys of `loop --json`."""

    seeds: Sequence[int]
    days: float
    warm_min: int
    every_min: int
    venue: Mapping[str, Any]
    policy_version: int
    policy_sha256: str
    symbol_minutes: int  # of one seed
    arms: Sequence[ArmRow]
    rules: Sequence[RuleRow]
    decision_value: Sequence[ValueRow]
    costs: Mapping[str, float]
    runs: Sequence[Mapping[str, Any]]
    verdict: str  # one sentence
    detail: str  # its interval, and what it costs


def paired(with_it: Sequence[float], without_it: Sequence[float]) -> Estimate:
    """Mean of `with_it - without_it` and its bootstrap interval; the same numbers give the same interval.

    >>> paired([1.0, 2.0], [2.0, 4.0])
    Estimate(mean=-1.5, low=-2.0, high=-1.0)
    """
    difference = np.asarray(with_it, dtype=np.float64) - np.asarray(without_it, dtype=np.float64)
    means = day_weights(difference.size, REPLICATES, 0) @ difference / difference.size
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return Estimate(float(difference.mean()), float(low), float(high))


def summary_of(
    setting: Setting, policy: Policy, runs: Sequence[Sequence[ArmRun]], costs: Costs = STATED
) -> LoopSummary:
    """Tell the runs of all seeds; every seed has the same arms in the same order."""
    by_arm = {arm.arm: [seed[place].numbers for seed in runs] for place, arm in enumerate(runs[0])}
    arms = tuple(_arm_row(name, numbers, by_arm[NONE]) for name, numbers in by_arm.items())
    rules = [
        _rule_row(name.removeprefix(WITHOUT), by_arm[GUARDED], numbers, by_arm[NONE])
        for name, numbers in by_arm.items()
        if name.startswith(WITHOUT)
    ]
    modelled = [_rule_row(MODEL_RULE, by_arm[MODEL], by_arm[GUARDED], by_arm[NONE])] if MODEL in by_arm else []
    minutes = setting.hours * 60 * len(setting.venue.symbols)
    return LoopSummary(
        seeds=[seed[0].seed for seed in runs],
        days=setting.hours / 24,
        warm_min=WARM_MIN,
        every_min=setting.every_min,
        venue=asdict(setting.venue),
        policy_version=policy.version,
        policy_sha256=policy.sha256,
        symbol_minutes=minutes,
        arms=arms,
        rules=(*rules, *modelled),
        decision_value=_values(by_arm, costs),
        costs=asdict(costs),
        runs=[{"seed": run.seed, "arm": run.arm, **run.numbers} for seed in runs for run in seed],
        verdict=_verdict(arms, len(runs)),
        detail=_detail(arms, len(runs), minutes),
    )


def _values(by_arm: Mapping[str, Sequence[Mapping[str, float]]], costs: Costs) -> tuple[ValueRow, ...]:
    """The rules against nobody, and the model with the rules against the rules alone."""
    pairs = [(GUARDED, NONE), *([(MODEL, GUARDED)] if MODEL in by_arm else [])]
    return tuple(_value_row(arm, against, by_arm[arm], by_arm[against], costs) for arm, against in pairs)


def _value_row(
    arm: str, against: str, present: Sequence[Mapping[str, float]], absent: Sequence[Mapping[str, float]], costs: Costs
) -> ValueRow:
    told = [of_loop(one, other, costs) for one, other in zip(present, absent, strict=True)]
    avoided, restraint = [pair[0] for pair in told], [pair[1] for pair in told]
    nothing = [0.0] * len(told)
    minutes = paired(_column(present, "restricted_min"), _column(absent, "restricted_min"))
    refused = paired(_column(present, "refused_usd"), _column(absent, "refused_usd")).mean
    saved = paired(avoided, nothing)
    return ValueRow(
        arm=arm,
        against=against,
        value_usd=paired(avoided, restraint),
        avoided_usd=saved,
        restraint_usd=paired(restraint, nothing),
        restricted_min=minutes,
        break_even_min_usd=break_even_usd(saved.mean, refused, minutes.mean, costs),
    )


def _column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]


def _arm_row(name: str, numbers: Sequence[Mapping[str, float]], nobody: Sequence[Mapping[str, float]]) -> ArmRow:
    return ArmRow(
        arm=name,
        median={measure: float(np.median(_column(numbers, measure))) for measure in MEASURES},
        mean={measure: float(np.mean(_column(numbers, measure))) for measure in MEASURES},
        less_none={measure: paired(_column(numbers, measure), _column(nobody, measure)) for measure in MEASURES},
    )


def _rule_row(
    rule: str,
    present: Sequence[Mapping[str, float]],
    absent: Sequence[Mapping[str, float]],
    nobody: Sequence[Mapping[str, float]],
) -> RuleRow:
    saved = {name: paired(_column(absent, name), _column(present, name)) for name in HARM}
    cost = {name: paired(_column(present, name), _column(absent, name)) for name in COST}
    changed = [dict(one) != dict(other) for one, other in zip(present, absent, strict=True)]
    material = MATERIAL * float(np.mean(_column(nobody, "liquidated_usd")))
    return RuleRow(rule, sum(changed), saved, cost, _judged(changed, saved["liquidated_usd"], material))


def _judged(changed: Sequence[bool], saved: Estimate, material: float) -> str:
    """What a rule is worth by what is liquidated: the first of these that is true.

    | verdict | when |
    |---|---|
    | changed nothing | every day is the same without it |
    | too few seeds | fewer than `SEEDS_LEAST` |
    | hardly matters | the mean is below `MATERIAL` of what is liquidated while nobody steers |
    | saves, harms | the interval lies above, below zero |
    | not told from zero | it does not |
    """
    if not any(changed):
        return NEVER
    if len(changed) < SEEDS_LEAST:
        return FEW
    if abs(saved.mean) < material:
        return HARDLY
    if saved.low > 0:
        return SAVES
    return HARMS if saved.high < 0 else UNTOLD


def run_loop(
    config: Config, seeds: Sequence[int], days: float, *, workers: int = 1, keep: Path | None = None, say: Say = silent
) -> tuple[LoopSummary, list[list[ArmRun]]]:
    """Run every arm of every seed at the simulator of the settings, and tell it.

    Seeds that are finished are kept in the folder `keep`, and those that are there are not run again. Raises InputError
    for a policy or settings that are refused, for days of less than an hour, and for a folder that cannot be used.
    """
    hours = round(days * 24) if 0 < days <= DAYS_MAX else 0
    if hours < 1:
        raise InputError(f"--days must be from an hour to {DAYS_MAX} days", where=days)
    setting = Setting(venue_settings(config), hours)
    policy = policy_in_force(read_policies(config), setting.opens)
    if 60 * EVERY_MIN % setting.venue.step_s:
        raise InputError("a run of the guard must hold whole steps", where=f"step_s = {setting.venue.step_s}")
    memory = None if keep is None else Kept(keep, key_of(setting, policy, volatility_score)).seed
    runs = []
    for seed, found in run_seeds(setting, policy, seeds, workers=workers, memory=memory):
        say(f"seed {seed}")
        runs.append(found)
    return summary_of(setting, policy, runs, Costs(**config.costs.model_dump())), runs


# --- for people ---


def _verdict(arms: Sequence[ArmRow], seeds: int) -> str:
    rows = {row.arm: row for row in arms}
    change, dip = (rows[GUARDED].less_none[name] for name in ("liquidated_usd", "worst_dip"))
    before = rows[NONE].mean["liquidated_usd"]
    share = f" ({change.mean / before:+.0%})" if before > 0 else ""
    told = change.high < 0 or change.low > 0
    doubt = ", of too few seeds to tell" if seeds < SEEDS_LEAST else "" if told else ", a difference not told from zero"
    return (
        f"With the guardrails {usd(abs(change.mean))} {'less' if change.mean <= 0 else 'more'} is liquidated a seed"
        f"{share}{doubt}; the deepest dip below the index is {abs(dip.mean):.2%} "
        f"{'shallower' if dip.mean <= 0 else 'deeper'}."
    )


def _detail(arms: Sequence[ArmRow], seeds: int, symbol_minutes: int) -> str:
    guarded = next(row for row in arms if row.arm == GUARDED)
    change, dip = (guarded.less_none[name] for name in ("liquidated_usd", "worst_dip"))
    restricted, refused = guarded.mean["restricted_min"], guarded.mean["refused_usd"]
    return (
        f"{CONFIDENCE:.0%} intervals over {seeds} seed{'s' * (seeds != 1)}: liquidated {usd(change.low)} to "
        f"{usd(change.high)}, dip {dip.low:+.2%} to {dip.high:+.2%}. The price, a seed: {restricted:,.0f} restricted "
        f"minutes x symbols ({restricted / symbol_minutes:.1%}) and {usd(refused)} of growth refused."
    )


def usd(value: float) -> str:
    """Dollars in the unit that reads best.

    >>> [usd(value) for value in (0.0, 950.0, -12_345.0, 2.345e6)]
    ['0 USD', '950 USD', '-12 k USD', '2.35 M USD']
    """
    for least, unit, word, places in ((1e6, 1e6, "M USD", 2), (1e4, 1e3, "k USD", 0)):
        if abs(value) >= least:
            return f"{value / unit:,.{places}f} {word}"
    return f"{value:,.0f} USD"


def sentence(found: LoopSummary) -> str:
    """The verdict, a line per arm, and what each rule is worth."""
    tables = (_arm_table(found), _rule_table(found), _value_table(found))
    return "\n".join([found.verdict, found.detail, *(part for table in tables for part in ("", _printed(table)))])


def worth(row: ValueRow) -> str:
    """One sentence: what the arm is worth, and up to which price of restraint.

    >>> one = Estimate(-5.0, -9.0, 2.0)
    >>> worth(ValueRow("model", "rules", one, one, one, one, None))
    'model is worth -5 USD a seed [-9 USD, 2 USD] against rules.'
    """
    said = f"{row.arm} is worth {interval(row.value_usd)} against {row.against}".replace(" [", " a seed [", 1)
    price = row.break_even_min_usd
    if price is None:
        return f"{said}."
    at = f"below {price:,.2f} USD a restricted symbol-minute" if price > 0 else "at no price of a restricted minute"
    return f"{said}; it pays {at}."


def _value_table(found: LoopSummary) -> Table:
    title = f"decision value at the stated prices, mean [{CONFIDENCE:.0%}]"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for name in ("arm", "against", "value", "loss avoided", "cost of restraint", "restricted", "pays below, a minute"):
        table.add_column(name, justify="left" if name in {"arm", "against"} else "right")
    for row in found.decision_value:
        price = "-" if row.break_even_min_usd is None else f"{row.break_even_min_usd:,.2f} USD"
        told = (interval(part) for part in (row.value_usd, row.avoided_usd, row.restraint_usd))
        table.add_row(row.arm, row.against, *told, f"{row.restricted_min.mean:+,.0f}", price)
    return table


def _arm_table(found: LoopSummary) -> Table:
    table = Table(box=None, header_style="bold", title="medians over seeds", title_justify="left")
    names = (
        "arm",
        "liquidated",
        "to nobody, mean [90 %]",
        "dip",
        "fall 1 h",
        "bad debt",
        "fund",
        "restricted",
        "refused",
    )
    for name in names:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in found.arms:
        at, change = row.median, row.less_none["liquidated_usd"]
        table.add_row(
            row.arm, usd(at["liquidated_usd"]), interval(change), f"{at['worst_dip']:.2%}", f"{at['worst_hour']:.2%}",
            usd(at["bad_debt_usd"]), usd(at["fund_draw_usd"]), f"{at['restricted_min']:,.0f}", usd(at["refused_usd"]),
        )  # fmt: skip
    return table


def _rule_table(found: LoopSummary) -> Table:
    table = Table(box=None, header_style="bold", title="worth and cost of each rule, mean [90 %]", title_justify="left")
    for name in ("rule", "seeds", "liquidated saved", "dip saved", "restricted", "refused", "verdict"):
        table.add_column(name, justify="left" if name in {"rule", "verdict"} else "right")
    for row in found.rules:
        dip = row.saved["worst_dip"].mean
        minutes, refused = row.cost["restricted_min"].mean, row.cost["refused_usd"].mean
        table.add_row(
            row.rule, str(row.seeds), interval(row.saved["liquidated_usd"]), f"{dip:+.2%}", f"{minutes:+,.0f}",
            usd(refused), row.verdict,
        )  # fmt: skip
    return table


def interval(found: Estimate) -> str:
    return f"{usd(found.mean)} [{usd(found.low)}, {usd(found.high)}]"


def _printed(table: Table) -> str:
    page = io.StringIO()
    Console(file=page, width=170).print(table)
    return page.getvalue().rstrip()


def worked(runs: Sequence[Sequence[ArmRun]]) -> tuple[int, str, Mapping[str, pl.DataFrame]]:
    """The seed and the symbol with the most liquidated while nobody steers, and the symbol's minutes by arm."""
    most = max(runs, key=lambda seed: _of(seed, NONE).numbers["liquidated_usd"])
    by_symbol = _of(most, NONE).minutes.group_by("symbol").agg(pl.col("liquidated_usd").sum())
    symbol = str(by_symbol.sort("liquidated_usd", "symbol", descending=[True, False])["symbol"][0])
    return (
        most[0].seed,
        symbol,
        {name: _of(most, name).minutes.filter(pl.col("symbol") == symbol).sort("ts") for name in (NONE, GUARDED)},
    )


def _of(seed: Sequence[ArmRun], name: str) -> ArmRun:
    return next(run for run in seed if run.arm == name)
