"""What of the features must be computed for which bars.

A feature of the newest minute asks for hours of bars, but most of its arithmetic does not: of a score, the sums behind
it need every bar, the rest only the bars that are asked for. A plan tells the two apart, for features of about the same
lookback; plans of the catalogue are made once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import polars as pl

from features import catalogue, market
from features.catalogue import Catalogue
from features.exact import LOOKS_BACK, collecting, finite
from features.feature import Step

TIERS_MIN = (0, 90, 280, 512)  # features are grouped by the least of these, or their longest, that holds their lookback
# Of polars, in the text of an expression: what reads other bars than its own.
_OTHER_BARS = re.compile(
    r"\.(shift|diff|pct_change|rolling\w*|cum\w*|ewm\w*|fill_null_with_strategy|interpolate|over)\("
)


@dataclass(frozen=True)
class Plan:
    """How expressions are computed. Columns come in steps, each of which reads the inputs and earlier steps."""

    lookback_min: int
    reads: frozenset[str]  # of the inputs
    behind: tuple[tuple[pl.Expr, ...], ...]  # columns that look back, and what they read: for every bar
    carried: tuple[str, ...]  # of the inputs and of `behind`, what the rest reads
    columns: tuple[tuple[pl.Expr, ...], ...]  # for the bars that are asked for alone
    exprs: tuple[pl.Expr, ...]  # as columns


def plan_of(exprs: Sequence[pl.Expr], lookback_min: int, columns: Mapping[str, pl.Expr] = MappingProxyType({})) -> Plan:
    """The plan of named `exprs`, which may read `columns`, inner ones first.

    >>> planned = plan_of([(pl.col("x").shift().alias("before") + pl.col("y")).alias("sum"), pl.col("z").log()], 1)
    >>> planned.carried, [len(step) for step in planned.behind], planned.columns
    (('window of sum', 'z'), [1], ())
    """
    back = {expr.meta.output_name(): expr for expr in exprs if looks_back(expr)}
    known = {**columns, **{f"{LOOKS_BACK} of {name}": expr for name, expr in back.items()}}
    names = [expr.meta.output_name() for expr in exprs]
    told = [
        pl.col(f"{LOOKS_BACK} of {name}").alias(name) if name in back else expr
        for name, expr in zip(names, exprs, strict=True)
    ]
    needed = _with_read(_roots(told), known)
    behind = _with_read([name for name in needed if name.startswith(LOOKS_BACK) or looks_back(known[name])], known)
    after = [name for name in needed if name not in behind]
    return Plan(
        lookback_min,
        frozenset(_roots([*told, *(known[name] for name in needed)]) - set(known)),
        _steps(behind, known),
        tuple(sorted(_roots([*told, *(known[name] for name in after)]) - set(after))),
        _steps(after, known),
        tuple(told),
    )


def looks_back(expr: pl.Expr) -> bool:
    """Whether polars reads other bars for a bar of `expr`.

    >>> looks_back(pl.col("x").diff().abs()), looks_back(pl.col("x").abs() + 1)
    (True, False)
    """
    return _OTHER_BARS.search(str(expr)) is not None


def _roots(exprs: Iterable[pl.Expr]) -> set[str]:
    return {name for expr in exprs for name in expr.meta.root_names()}


def _with_read(names: Iterable[str], columns: Mapping[str, pl.Expr]) -> list[str]:
    """Those of `names` that are `columns`, and all that they read, directly or through others; inner ones first."""
    found = set(names)
    for name in list(columns)[::-1]:
        if name in found:
            found |= _roots([columns[name]])
    return [name for name in columns if name in found]


def _steps(names: Sequence[str], columns: Mapping[str, pl.Expr]) -> tuple[tuple[pl.Expr, ...], ...]:
    place: dict[str, int] = {}
    for name in names:
        place[name] = 1 + max((place[root] for root in _roots([columns[name]]) if root in place), default=-1)
    return tuple(
        tuple(columns[name].alias(name) for name in names if place[name] == step)
        for step in range(max(place.values(), default=-1) + 1)
    )


def plans_of(known: Catalogue, columns: Mapping[str, pl.Expr]) -> tuple[Plan, ...]:
    """The features of a catalogue over its `columns`, in groups by lookback."""
    tiers: dict[int, list[pl.Expr]] = {}
    longest_min = known.lookback_min
    for feature in known.features:
        least = next((tier for tier in TIERS_MIN if feature.lookback_min <= tier), longest_min)
        tiers.setdefault(least, []).append(finite(feature.expr).alias(feature.name))
    return tuple(plan_of(exprs, tier, columns) for tier, exprs in sorted(tiers.items()))


@cache
def plans(bar_s: int) -> tuple[Plan, ...]:
    """The plans of the catalogue for bars of `bar_s` seconds."""
    return plans_of(*catalogue.plan(bar_s))


@cache
def market_plan(step: Step) -> Plan:
    """The plan of what is asked of each symbol for the market as a whole."""
    with collecting() as columns:
        asked = market.inputs(step)
    return plan_of([expr for expr, _ in asked], max((minutes for _, minutes in asked), default=0), columns)
