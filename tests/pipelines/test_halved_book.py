"""Halve the raw book and nothing else: no probability and no surprise falls, from raw rows of depth to the last score.

The market is that of test_metamorphic with UNIT times its book, orders and fuel: large against whole dollars, so that a
book that was always half has the same shape, past and motion but for SAME. A tree may cut between two roundings of one
number; where no row may fall these features are taken as the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

import numpy as np
import polars as pl
import pytest

from features.bars import bars_of
from features.catalogue import FAMILY_OF, MONOTONE, NOT_OF_THE_MARKET, TAILS, WATCHED
from features.inputs import usable
from features.matrix import feature_matrix
from features.norms import hour_end, hours_of, norms_of
from models.calibration import Floats
from models.detectors.suite import DETECTORS, fit
from models.fitting import Recipe, TreeSettings, fit_line, fit_trees, grow, known_features
from models.periods import TARGETS
from models.warning import PROBABILITIES, Limits, WarningModel, feature_names, fitted
from tests.features import test_metamorphic as market
from tests.features.worlds import START

UNIT = 10_000
ROUNDING = 1e-12
SAME = 1e-3  # in the feature's own unit
NEVER_SILENT = Limits(1.0, 1.0)
SEEDS = range(3)
QUICK = TreeSettings(rounds=60, leaf_rows_min=3, l2=1.0, negative_share=1.0)


@dataclass(frozen=True)
class Books:
    """Features of the last hour of three symbols, from the book as it was and from all of today's raw rows halved."""

    whole: pl.DataFrame
    half: pl.DataFrame


def _times(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    return rows.with_columns(pl.col(column) * UNIT)


@cache
def books() -> Books:
    raw = {symbol: dict(market._raw(symbol)) for symbol in market.SYMBOLS}
    for own in raw.values():
        own["book_events"] = _times(own["book_events"], "qty")
    depth = {symbol: _times(market._raw_depth(symbol), "depth_usd") for symbol in market.SYMBOLS}
    structure = pl.concat([market._fuel(symbol) for symbol in market.SYMBOLS])
    structure = structure.with_columns(pl.col("^fuel_.*_usd$") * UNIT)

    def features(after: datetime) -> pl.DataFrame:
        tables = {symbol: raw[symbol] | {"book_depth": market._halved(depth[symbol], after)} for symbol in raw}
        bars = bars_of("v", market._sources(tables), START, market.END)
        norms = norms_of(hours_of(usable(bars)), bars.select("venue", "symbol", hour_end("ts")).unique())
        return feature_matrix(bars, structure, norms=norms, since=market.SINCE)

    return Books(features(market.END), features(market.TODAY))


@cache
def exact_books() -> Books:
    same = [*market.SHAPE, *market.AGAINST_THE_PAST, *market.MOTION]
    whole, half = books().whole, books().half
    return Books(whole, half.with_columns(whole.select(same)))


def test_a_book_that_was_always_half_differs_in_shape_past_and_motion_by_rounding_alone() -> None:
    for name in (*market.SHAPE, *market.AGAINST_THE_PAST, *market.MOTION):
        assert (books().half[name] - books().whole[name]).abs().max() < SAME  # type: ignore[operator]


def _falling(found: Books, by_more_than: float) -> set[str]:
    """The features with one risky tail that move away from it somewhere."""
    fall = [(sign * (found.whole[name] - found.half[name])).max() for name, sign in MONOTONE.items()]
    return {name for name, most in zip(MONOTONE, fall, strict=True) if most is not None and most > by_more_than}  # type: ignore[operator]


def test_no_feature_moves_away_from_risk() -> None:
    assert _falling(books(), SAME) == set()


def test_none_does_where_the_book_is_told_by_levels_and_every_message_of_it_is_halved_too() -> None:
    """But for what 10,000 USD of flow in the ratios of dollars hide."""
    levels = Books(market._from_levels(1.0), market._from_levels(0.5))
    assert _falling(levels, 0.005) == set()


# --- probabilities ---

PLANTED = {"cascades in thin books": (0.1, 0.6), "cascades in deep books": (0.6, 0.1), "random": (0.35, 0.35)}


def told(planted: str, seed: int) -> pl.DataFrame:
    """The rows with a target at every horizon, drawn at one rate where the book is deep, at another where thin."""
    rows = books().whole
    deep = rows["slip_100k_bps"].rank().to_numpy() < rows.height / 2
    happened = np.random.default_rng(seed).random(rows.height) < np.where(deep, *PLANTED[planted])
    return rows.with_columns(pl.Series(name, happened.astype(np.int8)) for name in TARGETS)


@cache
def model_of(kind: str, planted: str, seed: int = 0, constrained: bool = True) -> WarningModel:
    rows, monotone = told(planted, seed), MONOTONE if constrained else {}
    offered = tuple(name for name in feature_names(rows) if FAMILY_OF[name] not in NOT_OF_THE_MARKET)
    names = known_features(rows, offered)
    line = kind == "line"
    scorer = fit_line(rows, names, 1.0, monotone, TAILS) if line else fit_trees(rows, names, _recipe(monotone))
    return fitted(scorer, rows, rows, limits=NEVER_SILENT)


def _recipe(monotone: Mapping[str, int]) -> Recipe:
    return Recipe(QUICK, 7, monotone, grow)


def rises(model: WarningModel, found: Books | None = None) -> Floats:
    """How much every probability of every row rises, from the raw rows on unless other books are given."""
    pair = found or books()
    whole, half = (model.predict(rows).select(PROBABILITIES).to_numpy() for rows in (pair.whole, pair.half))
    assert np.isfinite(whole).all()
    assert np.isfinite(half).all()
    return np.asarray(half - whole, dtype=np.float64)


@pytest.mark.parametrize("kind", ["trees", "line"])
@pytest.mark.parametrize("planted", PLANTED)
def test_no_probability_falls_whatever_was_planted(planted: str, kind: str) -> None:
    for seed in SEEDS:
        assert rises(model_of(kind, planted, seed), exact_books()).min() >= -ROUNDING


def test_with_the_rounding_of_features_a_line_falls_by_as_little_and_trees_in_hardly_any_row() -> None:
    models = [(planted, seed) for planted in PLANTED for seed in SEEDS]
    trees, line = (np.concatenate([rises(model_of(kind, *one)) for one in models]) for kind in ("trees", "line"))
    assert line.min() >= -SAME
    assert (trees.min(axis=1) < -ROUNDING).mean() < 0.01


def test_where_thin_books_came_before_cascades_half_of_the_book_is_much_riskier() -> None:
    trees, line = (rises(model_of(kind, "cascades in thin books")) for kind in ("trees", "line"))
    assert (trees.max(axis=1) > 0.01).mean() > 0.4
    assert (line >= 0).all()
    assert (line > 0).any()


def test_without_the_constraints_trees_would_believe_that_a_thin_book_is_safe() -> None:
    found = rises(model_of("trees", "cascades in deep books", constrained=False))
    assert found.min() < -0.5
    assert (found.min(axis=1) < -ROUNDING).mean() > 0.3


def test_a_line_without_bounds_would_believe_it_too() -> None:
    found = rises(model_of("line", "cascades in deep books", constrained=False))
    assert found.min() < -0.05


# --- surprises ---


MARKET = {name: family for name, family in WATCHED.items() if family not in NOT_OF_THE_MARKET}


def risen(kind: str, tails: Mapping[str, str]) -> Floats:
    """How much the surprise of every row rises, for a detector fitted on the whole book.

    Drift and health are left out: they notice any change, and would be surprised by a deeper book as well.
    """
    rows = books()
    family_of = {name: family for name, family in MARKET.items() if name in rows.whole.columns}
    one = fit(kind, rows.whole, family_of, tails)
    whole, half = (one.score(matrix)["surprise"].to_numpy() for matrix in (rows.whole, rows.half))
    assert np.isfinite(whole).all()
    return np.asarray(half - whole, dtype=np.float64)


@pytest.mark.parametrize("kind", DETECTORS)
def test_no_surprise_falls_and_half_of_them_rise(kind: str) -> None:
    """From the raw rows on: the largest of all features (robust_z) may be one that differs by its rounding."""
    found = risen(kind, TAILS)
    assert found.min() >= -1e-5
    assert (found > 1e-5).mean() > 0.4


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_that_took_deep_books_for_risk_would_be_less_surprised(kind: str) -> None:
    other = {"high": "low", "low": "high"}
    assert risen(kind, {name: other.get(tail, tail) for name, tail in TAILS.items()}).min() < -0.5


def test_the_model_rests_on_depth_and_does_not_keep_silent() -> None:
    """A model that never saw depth, or stayed silent, would pass everything above."""
    model = model_of("trees", "cascades in thin books")
    share = dict(zip(model.features, model.importance, strict=True))
    assert sum(share[name] for group in market.GROUPS for name in group if name in share) > 0.5
    assert not set(model.features) & {name for name, family in FAMILY_OF.items() if family in NOT_OF_THE_MARKET}
    usual = replace(model, limits=Limits()).predict(books().whole)
    assert not usual["abstained"].any()
