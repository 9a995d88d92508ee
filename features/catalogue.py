"""The catalogue: every feature, by family, one module each. `features/matrix.py` computes them.

`FAMILIES` and what follows from it are those of bars of a minute; `catalogue(300)` has the same features, under the
same names, over bars of five minutes, for venues of which only candles are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import polars as pl

from features import cancels, context, crowding, drift, health, leverage, structural, thin_book
from features.exact import collecting
from features.feature import Feature, Step, Tail

CATALOGUE_VERSION = 3


@dataclass(frozen=True)
class Catalogue:
    """The features for one length of bars."""

    families: Mapping[str, tuple[Feature, ...]]

    @property
    def features(self) -> tuple[Feature, ...]:
        return tuple(feature for family in self.families.values() for feature in family)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def lookback_min(self) -> int:
        """Minutes before t that suffice for every feature at t."""
        return max(feature.lookback_min for feature in self.features)


@cache
def catalogue(bar_s: int = 60) -> Catalogue:
    """The catalogue for bars of `bar_s` seconds.

    >>> catalogue(60).names == catalogue(300).names
    True
    """
    return _built(Step(bar_s))


@cache
def plan(bar_s: int = 60) -> tuple[Catalogue, Mapping[str, pl.Expr]]:
    """The same catalogue over columns that are computed once, and those columns, inner ones first."""
    with collecting() as columns:
        known = _built(Step(bar_s))
    return known, dict(columns)


def _built(step: Step) -> Catalogue:
    return Catalogue(
        {
            "cancels": cancels.family(step),
            "leverage": leverage.family(step),
            "crowding": crowding.family(step),
            "thin_book": thin_book.family(step),
            "structure": structural.family(step),
            "context": context.family(step),
            "drift": drift.family(step),
            "health": health.family(step),
        }
    )


FAMILIES: Mapping[str, tuple[Feature, ...]] = catalogue().families
FEATURES: tuple[pl.Expr, ...] = tuple(feature.expr.alias(feature.name) for feature in catalogue().features)
NAMES: tuple[str, ...] = catalogue().names
LOOKBACK_MIN: int = catalogue().lookback_min
FAMILY_OF: dict[str, str] = {feature.name: family for family, members in FAMILIES.items() for feature in members}
TAILS: dict[str, Tail] = {feature.name: feature.tail for feature in catalogue().features}

# What can be unusual: the detector asks these.
WATCHED: dict[str, str] = {name: family for name, family in FAMILY_OF.items() if TAILS[name] != "none"}

NOT_OF_THE_MARKET = ("drift", "health")  # families that tell of data rather than of risk

# Where the card says which tail means risk, more of it never lowers the risk: depth, distance to maintenance, leverage,
# fuel over depth among them. Both tails, a calendar, and what tells of data rather than of the market, stay free.
MONOTONE: dict[str, Literal[-1, 1]] = {
    name: 1 if TAILS[name] == "high" else -1
    for name, family in FAMILY_OF.items()
    if TAILS[name] in ("high", "low") and family not in NOT_OF_THE_MARKET
}


def inputs_of(name: str) -> frozenset[str]:
    """Columns of bars and of what is joined to them that feature `name` reads.

    >>> sorted(inputs_of("funding_annual"))
    ['funding_interval_h', 'funding_rate']
    """
    return frozenset(FEATURES[NAMES.index(name)].meta.root_names())
