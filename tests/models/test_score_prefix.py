"""The whole score knows nothing of what comes after: bars, structure and norms, through features, to probabilities."""

from datetime import datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from features.catalogue import FAMILY_OF, LOOKBACK_MIN, MONOTONE, NOT_OF_THE_MARKET, TAILS, WATCHED
from features.matrix import Beside, features_and_health
from models.calibration import Floats
from models.detectors.suite import Fitted, fit
from models.fitting import Recipe, TreeSettings, fit_line, fit_trees, grow, known_features
from models.gate import prefix_probe
from models.periods import TARGETS
from models.warning import PROBABILITIES, Limits, WarningModel, feature_names, fitted
from tests.features.worlds import START, World, rich, rich_norms, rich_peers, rich_structure

SYMBOLS = ("A-PERP", "B-PERP")
MINUTES = LOOKBACK_MIN + 700
CUTS = tuple(START + timedelta(minutes=LOOKBACK_MIN + minute) for minute in (97, 240, 601))
END = START + timedelta(minutes=MINUTES)
QUICK = TreeSettings(rounds=60, leaf_rows_min=5, l2=1.0, negative_share=1.0)


@cache
def world() -> World:
    bars = pl.concat([rich(MINUTES, symbol) for symbol in SYMBOLS])
    return World(bars, rich_structure(bars), rich_norms(bars), rich_peers(bars))


@cache
def known(cut: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features and health from what was known at `cut`."""
    then = world().until(cut)
    return features_and_health(then.bars, Beside(then.structure, then.norms, then.peers))


@cache
def model(kind: str) -> WarningModel:
    """Of all features, on a random target: it needs to move, not to be right."""
    rng = np.random.default_rng(1)
    rows = known(END)[0].filter(pl.col("ts") > CUTS[0] - timedelta(minutes=90))
    rows = rows.with_columns(pl.Series(name, (rng.random(rows.height) < 0.3).astype(np.int8)) for name in TARGETS)
    offered = tuple(name for name in feature_names(rows) if FAMILY_OF[name] not in NOT_OF_THE_MARKET)
    names = known_features(rows, offered)
    if kind == "line":
        return fitted(fit_line(rows, names, 1.0, {}, TAILS), rows, rows, limits=Limits(1.0, 1.0))
    return fitted(fit_trees(rows, names, Recipe(QUICK, 7, MONOTONE, grow)), rows, rows, limits=Limits(1.0, 1.0))


def log_odds(kind: str, matrix: pl.DataFrame) -> Floats:
    return model(kind).scorer.log_odds(model(kind).values(matrix))


@cache
def detector() -> Fitted:
    return fit("ensemble", known(END)[0].filter(pl.col("ts") > CUTS[0] - timedelta(minutes=90)), WATCHED, TAILS)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", ["trees", "line"])
def test_a_score_before_the_cut_has_the_same_bits_without_what_came_after(kind: str, cut: datetime) -> None:
    prefix, whole = known(cut)[0], known(END)[0].filter(pl.col("ts") <= cut)
    assert prefix["ts"].max() == cut
    assert model(kind).predict(prefix).equals(model(kind).predict(whole), null_equal=True)
    assert np.array_equal(log_odds(kind, prefix), log_odds(kind, whole)), "calibration may join what differs"


@pytest.mark.parametrize("cut", CUTS)
def test_a_surprise_and_the_health_of_inputs_have_the_same_bits_too(cut: datetime) -> None:
    prefix, whole = (tuple(part.filter(pl.col("ts") <= cut) for part in known(when)) for when in (cut, END))
    assert detector().score(prefix[0]).equals(detector().score(whole[0]), null_equal=True)
    assert prefix[1].equals(whole[1], null_equal=True)


def test_the_scores_are_of_many_values_and_rest_on_what_stands_beside_the_bars() -> None:
    """Equal bits of one value would say nothing."""
    alone, late = features_and_health(world().bars)[0], known(END)[0].filter(pl.col("ts") > CUTS[0])
    for kind in ("trees", "line"):
        told = model(kind).predict(late)
        assert min(told[name].n_unique() for name in PROBABILITIES) > 10
        assert np.unique(log_odds(kind, late)).size > 1_000
        assert not model(kind).predict(alone).equals(model(kind).predict(known(END)[0]), null_equal=True)


def test_the_probe_of_causality_passes_for_the_score_and_fails_for_one_that_looks_a_minute_ahead() -> None:
    def score(cut: datetime, ahead: int) -> pl.DataFrame:
        matrix = known(cut)[0]
        seen = matrix.with_columns(pl.col(model("trees").features).shift(-ahead).over("symbol"))
        return model("trees").predict(seen).select("symbol", "ts", *PROBABILITIES)

    assert prefix_probe(lambda cut: score(cut, 0), (*CUTS, END)).passed
    looks = prefix_probe(lambda cut: score(cut, 1), (*CUTS, END))
    assert not looks.passed
    assert looks.observed == len(CUTS) * len(SYMBOLS), "the last row before each cut, of each symbol"
