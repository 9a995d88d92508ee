"""The market as a whole: shares of symbols and the leading eigenvalue, by hand, against numpy, in any order of rows."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.feature import Step
from features.market import LOOKBACK_MIN, MARKET, eigen_share, inputs, market_rows
from features.matrix import feature_matrix
from features.schema import DEPTH_BANDS_BPS
from tests.features.worlds import START, World, bars_from, rich_norms, rich_world

MINUTE = Step(60)
Flags = Sequence[bool | None]


def told(**flags: Flags) -> pl.DataFrame:
    """What symbols tell, bar by bar, one argument per symbol: whether they are in a burst, and thin, alike."""
    parts = [
        pl.DataFrame(
            {
                "symbol": [symbol] * len(column),
                "ts": [START + timedelta(minutes=1 + i) for i in range(len(column))],
                "burst": pl.Series(column, dtype=pl.Boolean),
                "thin": pl.Series(column, dtype=pl.Boolean),
                "depth_change": pl.Series([None] * len(column), dtype=pl.Float64),
            }
        )
        for symbol, column in flags.items()
    ]
    return pl.concat(parts)


def changing(**changes: Sequence[float | None]) -> pl.DataFrame:
    """What symbols tell of their changes of log depth, in steps; one row per value that is not None."""
    length = max(len(column) for column in changes.values())
    rows = told(**{symbol: [None] * length for symbol in changes})
    values = [value for column in changes.values() for value in column]
    return rows.with_columns(depth_change=pl.Series(values, dtype=pl.Float64)).filter(
        pl.col("depth_change").is_not_null()
    )


# --- shares of symbols ---


def _shares(name: str, step: Step = MINUTE, **flags: Flags) -> list[float | None]:
    found: list[float | None] = market_rows(told(**flags), step)[name].to_list()
    return found


@pytest.mark.parametrize("name", ["market_cancel_burst_share", "market_thin_share"])
def test_a_share_is_of_the_symbols_that_tell_and_needs_two_of_them(name: str) -> None:
    found = _shares(name, A=[True, True, True, None], B=[False, None, None, None], C=[False, True, None, None])
    assert found == [1 / 3, 1.0, None, None]


def test_the_share_before_is_the_highest_of_five_minutes_without_this_one() -> None:
    a = [True, False, False, False, False, False, False, True, False]
    found = _shares("market_cancel_burst_share_before", A=a, B=a)
    # bars 0-4 before bar 5 hold the burst of bar 0, bars 1-5 before bar 6 do not; that of bar 7 is not before bar 7
    assert found == [None] * 5 + [1.0, 0.0, 0.0, 1.0]


def test_five_minutes_are_one_bar_of_five() -> None:
    found = _shares("market_cancel_burst_share_before", Step(300), A=[True, False, False], B=[True, False, False])
    assert found == [None, 1.0, 0.0]


def test_the_share_before_is_null_while_one_of_its_bars_is_not_known() -> None:
    a: Flags = [True, None, *[False] * 6]
    assert _shares("market_cancel_burst_share_before", A=a, B=a) == [None] * 7 + [0.0]


def test_rows_of_symbols_may_be_missing() -> None:
    rows = told(A=[True] * 3, B=[False] * 3, C=[False] * 3)
    second = START + timedelta(minutes=2)
    holed = rows.filter(~((pl.col("symbol") == "C") & (pl.col("ts") == second)))
    found = market_rows(holed, MINUTE)
    assert found["market_thin_share"].to_list() == [1 / 3, 1 / 2, 1 / 3]
    assert found["ts"].to_list() == [START + timedelta(minutes=i) for i in (1, 2, 3)]


def test_no_symbols_give_no_rows() -> None:
    found = market_rows(told(A=[]), MINUTE)
    assert found.schema == pl.Schema({"ts": found.schema["ts"]} | MARKET)
    assert found.is_empty()


def _asked(name: str, **columns: Any) -> Any:
    expr = {expr.meta.output_name(): expr for expr, _ in inputs(MINUTE)}[name]
    return pl.DataFrame(columns).select(expr).to_series().to_list()


def test_a_symbol_is_thin_below_its_five_percent_quantile_for_the_hour() -> None:
    """Norm log 100k, sd .5: the quantile lies at 100k / e ** (.5 * 1.645) = 43 935 USD, the floor of 1 included."""
    edge_usd = 100_000 / math.exp(0.5 * 1.645) - 1
    found = _asked(
        "thin",
        depth_bid_100bps_usd=[math.floor(edge_usd), math.ceil(edge_usd), 900_000, None],
        depth_ask_100bps_usd=[900_000, 900_000, math.floor(edge_usd), 900_000],
        norm_depth_mean=[math.log(100_000)] * 4,
        norm_depth_sd=[0.5] * 4,
    )
    assert found == [True, False, True, None]


def test_a_change_of_depth_is_that_of_the_thinner_side_in_steps() -> None:
    found = _asked(
        "depth_change",
        depth_bid_100bps_usd=[9_999, 19_999, 99_000],
        depth_ask_100bps_usd=[99_000, 99_000, 19_999],
    )
    assert found == [None, round(math.log(20_000) / 1e-4) - round(math.log(10_000) / 1e-4), 0.0]


# --- the eigenvalue ---

BACK_AND_FORTH = np.tile([1.0, -1.0], 30) * 100
IN_PAIRS = np.tile([1.0, 1.0, -1.0, -1.0], 15) * 100  # uncorrelated with BACK_AND_FORTH
IN_FOURS = np.tile(np.repeat([1.0, -1.0], 4), 8)[:60] * 100


def _share(*columns: Any) -> float:
    return float(eigen_share(np.ascontiguousarray(np.column_stack(columns)), 60)[-1])


@pytest.mark.parametrize(
    ("what", "columns", "want"),
    [
        ("two that move as one", (BACK_AND_FORTH, 3 * BACK_AND_FORTH), 1.0),
        ("one up where the other is down is one breath too", (BACK_AND_FORTH, -BACK_AND_FORTH), 1.0),
        ("two that have nothing in common", (BACK_AND_FORTH, IN_PAIRS), 1 / 2),
        ("a pair and a third: eigenvalue 2 of 3", (BACK_AND_FORTH, BACK_AND_FORTH, IN_PAIRS), 2 / 3),
        ("one that does not move does not count", (BACK_AND_FORTH, IN_PAIRS, np.zeros(60)), 1 / 2),
        ("correlation .6: (1 + .6) / 2", (BACK_AND_FORTH, 0.6 * BACK_AND_FORTH + 0.8 * IN_PAIRS), 0.8),
        ("a steady drift is no correlation", (BACK_AND_FORTH + 1e4, IN_PAIRS + 1e4), 1 / 2),
    ],
)
def test_the_share_of_the_largest_eigenvalue_by_hand(what: str, columns: tuple[Any, ...], want: float) -> None:
    assert _share(*columns) == pytest.approx(want, abs=2e-6), what


def test_fewer_than_two_symbols_that_moved_have_no_correlation() -> None:
    hole = BACK_AND_FORTH.copy()
    hole[7] = np.nan
    assert math.isnan(_share(BACK_AND_FORTH))
    assert math.isnan(_share(BACK_AND_FORTH, np.full(60, 5.0)))
    assert math.isnan(_share(BACK_AND_FORTH, hole))
    assert _share(BACK_AND_FORTH, IN_PAIRS, hole) == pytest.approx(1 / 2)


def _factor(symbols: int, bars: int, common: float, seed: int) -> Any:
    """Changes of which the variance share `common` is that of one factor; whole steps."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 1, (bars, symbols)) * math.sqrt(1 - common)
    return np.round(1_000 * (own + math.sqrt(common) * rng.normal(0, 1, (bars, 1))))


@pytest.mark.parametrize(("common", "tolerance"), [(0.8, 2e-6), (0.3, 2e-6), (0.0, 2e-3)])
@pytest.mark.parametrize("symbols", [2, 3, 40, 120])
def test_the_share_equals_numpys_and_never_exceeds_it(symbols: int, common: float, tolerance: float) -> None:
    changes = _factor(symbols, 90, common, seed=symbols)
    found = eigen_share(changes, 60)
    assert np.isnan(found[:59]).all()
    for t in range(59, 90):
        want = np.linalg.eigvalsh(np.corrcoef(changes[t - 59 : t + 1].T))[-1] / symbols
        assert want - tolerance < found[t] < want + 1e-6


def test_a_market_that_breathes_as_one_is_told_from_one_in_which_each_goes_its_own_way() -> None:
    """Without a factor, 40 symbols over 60 bars give about (1 + root(40 / 60)) ** 2 / 40 = .08, not 1 / 40."""
    alone, together = (eigen_share(_factor(40, 60, common, seed=5), 60)[-1] for common in (0.0, 0.6))
    assert alone == pytest.approx((1 + math.sqrt(40 / 60)) ** 2 / 40, rel=0.15)
    assert together > 0.5


def _many() -> pl.DataFrame:
    """Seven symbols over 200 bars, each with flags and changes, some of them unknown."""
    rng = np.random.default_rng(11)
    rows = told(**{f"S{i}": [None] * 200 for i in range(7)})
    n = rows.height
    unknown = pl.Series(rng.random(n) < 0.004)
    values = {
        "burst": pl.Series(rng.random(n) < 0.3),
        "thin": pl.Series(rng.random(n) < 0.3),
        "depth_change": pl.Series(_factor(7, 200, 0.4, seed=2).T.ravel()),
    }
    return rows.with_columns(pl.when(~unknown).then(value).alias(name) for name, value in values.items())


def test_the_order_of_rows_has_no_effect_to_the_last_bit() -> None:
    rows = _many()
    want = market_rows(rows, MINUTE)
    assert want["market_depth_eigen_share"].n_unique() > 100
    for seed in range(3):
        assert market_rows(rows.sample(fraction=1.0, shuffle=True, seed=seed), MINUTE).equals(want)


def test_a_row_looks_back_as_far_as_is_stated_and_no_further() -> None:
    """Symbols that were gone before have no effect either: the width of the batch is not the market's."""
    rows = _many()
    gone = told(GONE=[True] * 100).with_columns(depth_change=pl.lit(7.0))
    want = market_rows(pl.concat([rows, gone]), MINUTE)
    for back, same in ((LOOKBACK_MIN, True), (LOOKBACK_MIN - 1, False)):
        newest = rows.filter(pl.col("ts") > START + timedelta(minutes=200 - back))
        assert (market_rows(newest, MINUTE).row(-1) == want.row(-1)) is same


def test_rows_that_were_never_there_are_like_unknown_ones() -> None:
    wide: list[float | None] = [None if i == 60 else change for i, change in enumerate(np.resize(BACK_AND_FORTH, 130))]
    rows = changing(A=np.resize(BACK_AND_FORTH, 130).tolist(), B=np.resize(IN_PAIRS, 130).tolist(), C=wide)
    assert rows.height == 3 * 130 - 1
    share = market_rows(rows, MINUTE)["market_depth_eigen_share"].to_list()
    assert share[59] == pytest.approx(2 / 3)
    assert share[60:120] == pytest.approx([1 / 2] * 60, abs=0.02)  # C is not known for an hour
    assert share[120] == pytest.approx(2 / 3, abs=0.02)


# --- through the matrix ---


def _books(levels: dict[str, Any], minutes: int) -> World:
    """Books of 100 000 USD per 10 bps and side with own noise, times `levels`."""
    parts = []
    for place, (symbol, level) in enumerate(levels.items()):
        rng = np.random.default_rng([3, place])
        noise = rng.lognormal(0, 0.2, minutes)
        columns = {
            f"depth_{name}_{band}bps_usd": (band * 1e4 * noise * level).astype(np.int64)
            for name in ("bid", "ask")
            for band in DEPTH_BANDS_BPS
        }
        parts.append(bars_from(symbol, **columns, depth_age_s=np.zeros(minutes)))
    bars = pl.concat(parts)
    usual = {"norm_depth_mean": math.log(1_001_000), "norm_depth_sd": 0.2}
    norms = rich_norms(bars).with_columns(pl.lit(value).alias(name) for name, value in usual.items())
    rich = rich_world(2, ("Z",))
    return World(bars, rich.structure.clear(), norms, rich.peers.clear())


def _last(world: World, name: str) -> list[float | None]:
    found = world.matrix().group_by("symbol", maintain_order=True).agg(pl.col(name).last())
    return found[name].to_list()


def test_one_thin_book_is_a_detail_and_four_are_a_market() -> None:
    names, calm, fallen = ("A", "B", "C", "D"), np.ones(70), np.where(np.arange(70) >= 60, 0.2, 1.0)
    none = _last(_books(dict.fromkeys(names, calm), 70), "thin_share")
    one = _last(_books(dict.fromkeys(names, calm) | {"B": fallen}, 70), "thin_share")
    every = _last(_books(dict.fromkeys(names, fallen), 70), "thin_share")
    assert (none, one, every) == ([0.0] * 4, [0.25] * 4, [1.0] * 4)


def test_books_that_breathe_together_raise_the_eigenvalue() -> None:
    names = [f"S{i}" for i in range(8)]
    breath = np.exp(np.random.default_rng(1).normal(0, 0.4, 70))
    (alone, *_), (together, *_) = (
        _last(_books(dict.fromkeys(names, level), 70), "depth_eigen_60") for level in (np.ones(70), breath)
    )
    assert alone is not None
    assert together is not None
    assert alone < 0.4  # by chance (1 + root(8 / 60)) ** 2 / 8 = .23
    assert together > 0.7


@pytest.mark.parametrize("new_bars", [1, 61])
def test_a_symbol_that_was_listed_or_lost_lately_leaves_runs_of_the_newest_bars_alike(new_bars: int) -> None:
    """Rows of the market are counted in the venue's bars, whoever has some: the bits are those of the full run."""
    world = rich_world(700, ("A", "B", "C", "D"))
    listed, lost = START + timedelta(minutes=660), START + timedelta(minutes=655)
    bars = world.bars.filter((pl.col("symbol") != "B") | (pl.col("ts") > listed)).filter(
        (pl.col("symbol") != "C") | (pl.col("ts") <= lost)
    )
    since = START + timedelta(minutes=700 - new_bars)
    full, newest = (
        feature_matrix(bars, world.structure, norms=world.norms, peers=world.peers, since=moment)
        for moment in (None, since)
    )
    want = full.filter(pl.col("ts") > since)
    of_the_market = ("cancel_sync", "cancel_follow_5", "thin_share", "depth_eigen_60")
    for name in of_the_market:
        assert newest[name].to_list() == want[name].to_list()
    assert want.filter(pl.col("symbol") == "A").select(of_the_market).null_count().row(0) == (0,) * 4
    assert newest.equals(want)


def test_runs_of_one_bar_of_one_symbol_have_the_bits_of_the_full_run() -> None:
    """Polars divides a column of one row by a constant, and multiplies a longer one with the inverse."""
    world = rich_world(320, ("A",))
    full = world.matrix()
    for minutes in range(312, 320):
        since = START + timedelta(minutes=minutes)
        newest = world.until(since + timedelta(minutes=1)).matrix(since=since)
        assert newest.height == 1
        assert newest.equals(full.filter(pl.col("ts") == since + timedelta(minutes=1)))
