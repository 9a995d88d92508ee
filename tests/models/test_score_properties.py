"""The whole score: a halved book is never less risk, and shuffled folds lie where purged ones do not."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import polars as pl
import pytest

from features.catalogue import FAMILY_OF, MONOTONE, NOT_OF_THE_MARKET, TAILS
from models.fitting import Recipe, TreeSettings, fit_line, fit_trees, grow, known_features
from models.metrics import roc_auc
from models.periods import TARGETS
from models.warning import PROBABILITIES, Limits, WarningModel, feature_names, fitted
from tests.features.test_metamorphic import AGAINST_THE_PAST, MOTION, SHAPE, _seen

QUICK = TreeSettings(rounds=60, leaves=7, leaf_rows_min=3, l2=1.0, negative_share=1.0)
ALWAYS = Limits(1.0, 1.0)
ROUNDING = 1e-12


@cache
def books() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same market, with every raw row of depth whole and halved: the last hour of each symbol.

    Features of shape, past and motion are the same but for whole dollars (test_metamorphic says so), and are taken as
    such. The messages of the raw book are not halved with it here.
    """
    same = [*SHAPE, *AGAINST_THE_PAST, *MOTION]
    whole, half = (matrix.sort("symbol", "ts") for matrix in (_seen().before, _seen().today))
    return whole, half.with_columns(whole.select(same))


def targets(matrix: pl.DataFrame) -> pl.DataFrame:
    """Of a row, whatever the horizon: more often where the book is DEEP; only the constraint can prevent that."""
    rng = np.random.default_rng(3)
    deep = matrix["depth_norm"].fill_null(0.0).rank().to_numpy() < 0.5 * matrix.height
    happened = (rng.random(matrix.height) < np.where(deep, 0.6, 0.1)).astype(np.int8)
    return matrix.with_columns(pl.Series(name, happened) for name in TARGETS)


def inputs(rows: pl.DataFrame) -> tuple[str, ...]:
    """What a model takes: features of the market that are known here."""
    return known_features(rows, tuple(n for n in feature_names(rows) if FAMILY_OF[n] not in NOT_OF_THE_MARKET))


def model_of(kind: str, monotone: Mapping[str, int]) -> WarningModel:
    rows = targets(books()[0])
    names = inputs(rows)
    if kind == "line":
        return fitted(fit_line(rows, names, 1.0, monotone, TAILS), rows, rows, limits=ALWAYS)
    return fitted(fit_trees(rows, names, Recipe(QUICK, 7, monotone, grow)), rows, rows, limits=ALWAYS)


def rises(model: WarningModel) -> np.ndarray:
    """How much every probability of every row rises where the raw book is halved."""
    whole, half = (model.predict(matrix).select(PROBABILITIES).to_numpy() for matrix in books())
    return np.asarray(half - whole)


@pytest.mark.parametrize("kind", ["trees", "line"])
def test_half_of_the_depth_never_lowers_a_probability_by_what_reads_its_amount(kind: str) -> None:
    assert rises(model_of(kind, MONOTONE)).min() >= -ROUNDING


def test_without_the_constraints_half_of_the_book_would_lower_some() -> None:
    assert rises(model_of("trees", {})).min() < -0.01


def test_half_of_the_book_raises_some_where_thin_books_came_before_cascades() -> None:
    rows = books()[0]
    thin = rows["depth_norm"].fill_null(0.0).rank().to_numpy() > 0.5 * rows.height
    told = rows.with_columns(pl.Series(name, thin.astype(np.int8)) for name in TARGETS)
    names = inputs(told)
    model = fitted(fit_trees(told, names, Recipe(QUICK, 7, MONOTONE, grow)), told, told, limits=ALWAYS)
    found = rises(model)
    assert found.min() >= -ROUNDING
    assert found.max() > 0.01


def walks(seed: int, rows: int = 6_000, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Persistent noise, and labels that overlap: 1 over the 60 rows before events that nothing tells of."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=(rows, count)), axis=0)
    onsets = np.cumsum(rng.integers(200, 600, size=rows // 400 + 5))
    until = np.append(onsets, 10**9)[np.searchsorted(onsets, np.arange(rows))] - np.arange(rows)
    return noise, (until < 60).astype(np.float64)


def auc_of(noise: np.ndarray, happened: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    names = tuple(f"n{k}" for k in range(noise.shape[1]))
    rows = pl.DataFrame(noise, schema=list(names)).with_columns(pl.Series(name, happened) for name in TARGETS)
    scorer = fit_trees(rows[train], names, Recipe(TreeSettings(rounds=80, leaves=31, leaf_rows_min=5), 7, {}, grow))
    found = roc_auc(happened[test], scorer.log_odds(noise[test])[:, 0])
    assert found is not None
    return found


def test_shuffled_folds_find_a_signal_in_noise_that_purged_walk_forward_does_not() -> None:
    """Neighbouring rows share features and labels: a fold that is drawn at random has seen the answer."""
    shuffled, purged = [], []
    for seed in range(6):
        noise, happened = walks(seed)
        order = np.random.default_rng(seed).permutation(happened.size)
        shuffled.append(auc_of(noise, happened, order[:3_000], order[3_000:]))
        purged.append(auc_of(noise, happened, np.arange(3_000), np.arange(3_120, happened.size)))
    assert np.mean(shuffled) > 0.9
    assert abs(np.mean(purged) - 0.5) < 0.12
