"""Every feature equals its slow oracle, bar by bar, nulls included, in markets that hypothesis draws."""

import math
from functools import cache
from importlib import import_module

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.catalogue import FAMILIES, NAMES, catalogue
from tests.features.oracles.past import Oracle, Past, pasts
from tests.features.worlds import five_minutes, holed, rich_world

ORACLES: dict[str, Oracle] = {
    name: oracle
    for family in FAMILIES
    for name, oracle in import_module(f"tests.features.oracles.{family}").ORACLES.items()
}
SEEDS = (1, 2)
LENGTHS = {60: 2_000, 300: 2_500}


@cache
def _drawn(seed: int, bar_s: int, holes: bool) -> tuple[pl.DataFrame, dict[str, Past]]:
    world = rich_world(LENGTHS[bar_s], seed=seed)
    if bar_s == 300:
        world = five_minutes(world)
    if holes:
        world = holed(world, seed)
    return world.matrix(), pasts(world)


def test_every_feature_has_an_oracle_and_no_oracle_stands_alone() -> None:
    assert set(ORACLES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_feature_equals_its_slow_oracle(name: str, data: st.DataObject) -> None:
    seed, bar_s = data.draw(st.sampled_from(SEEDS)), data.draw(st.sampled_from((60, 300)))
    matrix, told = _drawn(seed, bar_s, data.draw(st.booleans()))
    symbol = data.draw(st.sampled_from(sorted(told)))
    column = matrix.filter(pl.col("symbol") == symbol)[name]
    t = data.draw(st.integers(0, len(column) - 1))
    got, want = column[t], ORACLES[name](told[symbol], t)
    assert (got is None) == (want is None), (symbol, t, got, want)
    assert want is None or got == pytest.approx(want, rel=2e-3, abs=2e-3), (symbol, t)


@pytest.mark.parametrize("bar_s", [60, 300])
def test_the_oracles_worlds_tell_every_feature(bar_s: int) -> None:
    """The test above could pass on nulls alone."""
    matrix = _drawn(SEEDS[0], bar_s, False)[0].tail(100)
    lookback = catalogue(bar_s).lookback_min * 60 / bar_s
    assert matrix.height == 100
    assert LENGTHS[bar_s] * 60 / bar_s > lookback or bar_s == 300
    assert [name for name in NAMES if matrix[name].null_count() > 50] == []
    assert math.isfinite(lookback)
