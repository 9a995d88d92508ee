"""What must hold for every feature of the tuple, found out by itself for each: nobody has to remember it."""

from datetime import timedelta

import polars as pl
import pytest

from features.catalogue import NAMES, catalogue
from features.feature import Feature
from tests.features.worlds import START, World, five_minutes, mirrored, rich_world, scaled

LAST = 2_000
CUT = 1_700
FEATURES = {feature.name: feature for feature in catalogue().features}


@pytest.fixture(scope="module")
def world() -> World:
    return rich_world(LAST)


@pytest.fixture(scope="module")
def full(world: World) -> pl.DataFrame:
    return world.matrix()


def _after(minutes: int) -> pl.Expr:
    return pl.col("ts") > START + timedelta(minutes=minutes)


# --- lookback and increments ---


def _tail(world: World, bars: int) -> World:
    """The last `bars` bars of each symbol."""
    return World(world.bars.filter(_after(LAST - bars)), world.structure, world.norms, world.peers, world.bar_s)


LOOKBACKS = sorted({feature.lookback_min for feature in FEATURES.values()})


@pytest.fixture(scope="module")
def tails(world: World) -> dict[int, pl.DataFrame]:
    """The last row of each symbol from lookback + 1 bars, and from one less, for every lookback that is stated."""
    last = _after(LAST - 1)
    return {bars: _tail(world, bars).matrix().filter(last) for back in LOOKBACKS for bars in (back + 1, back) if bars}


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_lookback_suffices_to_the_last_bit(
    full: pl.DataFrame, tails: dict[int, pl.DataFrame], name: str
) -> None:
    want = full.filter(_after(LAST - 1))[name].to_list()
    assert tails[FEATURES[name].lookback_min + 1][name].to_list() == want
    assert None not in want


@pytest.mark.parametrize("name", [name for name, feature in FEATURES.items() if feature.lookback_min])
def test_no_shorter_lookback_would_do(full: pl.DataFrame, tails: dict[int, pl.DataFrame], name: str) -> None:
    want = full.filter(_after(LAST - 1))[name].to_list()
    assert tails[FEATURES[name].lookback_min][name].to_list() != want


@pytest.mark.parametrize("new_bars", [1, 5, 61])
def test_a_run_of_what_is_new_equals_the_full_run(world: World, full: pl.DataFrame, new_bars: int) -> None:
    since = START + timedelta(minutes=LAST - new_bars)
    reach = catalogue().lookback_min + new_bars
    got = _tail(world, reach).matrix(since=since)
    assert got.equals(full.filter(pl.col("ts") > since))


def test_runs_that_follow_each_other_equal_one_run(world: World, full: pl.DataFrame) -> None:
    """Parity: a backfill over a period is the scheduled runs over it, row for row."""
    parts = []
    for start in range(CUT, LAST, 100):
        end = START + timedelta(minutes=start + 100)
        seen = world.until(end)
        parts.append(seen.matrix(since=START + timedelta(minutes=start)))
    assert pl.concat(parts).sort("symbol", "ts").equals(full.filter(_after(CUT)))


def test_lookbacks_of_five_minute_bars_suffice() -> None:
    world = five_minutes(rich_world(9_000))
    full, since = world.matrix(), START + timedelta(minutes=9_000 - 10)
    read = World(
        world.bars.filter(_after(9_000 - 10 - catalogue(300).lookback_min - 5)),
        world.structure,
        world.norms,
        world.peers,
        300,
    )
    got = read.matrix(since=since)
    assert got.height == 6
    assert got.equals(full.filter(pl.col("ts") > since))


# --- the same market, seen otherwise ---


@pytest.fixture(scope="module")
def mirror(world: World) -> pl.DataFrame:
    return mirrored(world).matrix()


def _near(one: pl.Series, two: pl.Series, tolerance: float = 2e-3) -> bool:
    """Equal but for rounding of prices seen upside down: within the tolerance in 99 rows of 100."""
    assert one.null_count() < one.len()
    same_nulls = (one.is_null() == two.is_null()).mean()
    close = ((one - two).abs() <= tolerance * (1 + one.abs())).mean()
    return bool(same_nulls is not None and same_nulls > 0.99 and close is not None and close > 0.99)


@pytest.mark.parametrize("name", [name for name, feature in FEATURES.items() if feature.mirror != "none"])
def test_signed_features_flip_in_the_mirrored_market_and_the_others_do_not(
    full: pl.DataFrame, mirror: pl.DataFrame, name: str
) -> None:
    got = -mirror[name] if FEATURES[name].mirror == "flip" else mirror[name]
    assert _near(full[name], got), (full[name].tail(3).to_list(), got.tail(3).to_list())


@pytest.mark.parametrize("name", [name for name, feature in FEATURES.items() if feature.mirror == "none"])
def test_a_feature_with_a_sided_constant_neither_flips_nor_stays(
    full: pl.DataFrame, mirror: pl.DataFrame, name: str
) -> None:
    assert not _near(full[name], mirror[name])
    assert not _near(full[name], -mirror[name])


@pytest.fixture(scope="module")
def sizes(world: World) -> tuple[pl.DataFrame, pl.DataFrame]:
    return scaled(world, 100).matrix(), scaled(world, 100 * SCALE).matrix()


SCALE = 64
SCALED = [name for name, feature in FEATURES.items() if feature.scale != "stated"]


@pytest.mark.parametrize("name", SCALED)
def test_more_dollars_everywhere_do_what_the_card_says(sizes: tuple[pl.DataFrame, pl.DataFrame], name: str) -> None:
    small, large = (frame[name] for frame in sizes)
    log_k = pl.select(pl.lit(float(SCALE)).log()).item()
    undone = {
        "same": large,
        "log": large - log_k,
        "-log": large + log_k,
        "1/root": large * SCALE**0.5,
    }[FEATURES[name].scale]
    assert _near(small, undone, 6e-3), (small.tail(3).to_list(), undone.tail(3).to_list())


@pytest.mark.parametrize("name", [name for name, feature in FEATURES.items() if feature.scale == "stated"])
def test_a_feature_that_compares_with_stated_dollars_does_see_more_dollars(
    full: pl.DataFrame, sizes: tuple[pl.DataFrame, pl.DataFrame], name: str
) -> None:
    assert not full[name].equals(sizes[1][name])


def test_a_wrong_card_is_seen(full: pl.DataFrame, mirror: pl.DataFrame) -> None:
    """The tests above rest on this: a feature with the wrong card fails them."""
    flips = [name for name, feature in FEATURES.items() if feature.mirror == "flip"]
    assert len(flips) > 5
    assert not any(_near(full[name], mirror[name]) for name in flips)


def test_feature_records_are_complete() -> None:
    assert all(isinstance(feature, Feature) and feature.lookback_min >= 0 for feature in FEATURES.values())
    assert max(feature.lookback_min for feature in FEATURES.values()) == catalogue().lookback_min
