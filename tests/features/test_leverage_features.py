"""The leverage family by hand arithmetic, and the claims behind its features: positions that are built, borrowed
against or concentrated are seen, a price that moves alone is not."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.exact import WINDOW_MAX
from features.leverage import (
    QUANTILES,
    accounts_effective,
    at_risk,
    collateral_other,
    fuel_over_depth,
    fuel_side,
    ladder,
    largest_account,
    leverage_change,
    leverage_p90,
    leverage_shift,
    leverage_tilt,
    liq_over_volume,
    margin_used,
    oi_build_side,
    oi_change,
    oi_drawdown,
    oi_over_depth,
    oi_over_volume,
    oi_quadrant,
    oi_score,
    over_20x,
    overdue,
    peg_sensitivity,
    top_long_side,
    top_side_change,
)

Column = list[Any]
Columns = dict[str, Column]
LOG2, LOG4, LOG5, LOG10 = (math.log(x) for x in (2, 4, 5, 10))


def last(feature: pl.Expr, columns: Columns) -> float | None:
    """The value at the last of the bars that `columns` tell."""
    told = pl.DataFrame(columns, strict=False)
    value: float | None = told.cast({pl.Null: pl.Float64}).select(feature).to_series()[-1]
    return value


def held(*changes: float) -> Columns:
    """Open interest after each of the log changes, 100 before them."""
    return {"oi_base": [100 * math.exp(moved) for moved in accumulate(changes, initial=0.0)]}


def leverages(*bars: dict[int, float]) -> Columns:
    """Quantiles of leverage, .9 where a bar does not name them: 1 with the floor of .1."""
    levels = [round(100 * q) for q in QUANTILES]
    return {f"leverage_p{q}": [bar.get(q, 0.9) for bar in bars] for q in levels}


def thousands(**columns: float | None) -> Columns:
    return {name: [None if k is None else round(1_000 * k)] for name, k in columns.items()}


ALL_TWICE = dict.fromkeys((10, 25, 50, 75, 90, 99), 1.9)  # 2 with the floor
FIVE_BARS = {"close": [100.0, 100.0, 100.0, 102.0, 101.0, 101.0]}  # up, up, down over two bars each

HAND: list[tuple[str, pl.Expr, Columns, float | None]] = [
    # --- open interest ---
    ("100 to 105 to 110: a tenth was built", oi_change(2), {"oi_base": [100.0, 105.0, 110.0]}, math.log(1.1)),
    ("no open interest two bars ago", oi_change(2), {"oi_base": [None, 105.0, 110.0]}, None),
    ("what lies between does not matter", oi_change(2), {"oi_base": [100.0, None, 50.0]}, -LOG2),
    ("changes of 1, 2, 3 %, then 6: (6 - 2) / 1", oi_score(1, 3), held(0.01, 0.02, 0.03, 0.06), 4.0),
    (
        "changes of .1 % that never moved, then 1.1: 1 % over the floor of .2",
        oi_score(1, 3),
        held(0.001, 0.001, 0.001, 0.011),
        5.0,
    ),
    (
        "90k + 10k held, 4k + 6k + 10k traded",
        oi_over_volume(2),
        {"oi_usd": [None, None, 90_000], "volume_usd": [70_000, 4_000, 6_000]},
        LOG5,
    ),
    ("trading is not known", oi_over_volume(2), {"oi_usd": [90_000] * 2, "volume_usd": [None, 6_000]}, None),
    (
        "90k + 10k before the thinner side of 9,999 + 1",
        oi_over_depth(),
        thousands(oi_usd=90, depth_bid_100bps_usd=9.999, depth_ask_100bps_usd=99),
        LOG10,
    ),
    (
        "the ask is the thinner side",
        oi_over_depth(),
        thousands(oi_usd=90, depth_bid_100bps_usd=99, depth_ask_100bps_usd=24.999),
        LOG4,
    ),
    (
        "one side of the book is not known",
        oi_over_depth(),
        thousands(oi_usd=90, depth_bid_100bps_usd=9, depth_ask_100bps_usd=None),
        None,
    ),
    ("longs build over two bars", oi_quadrant(2), held(0.01, 0.0) | {"close": [100.0, 99.0, 101.0]}, 2.0),
    ("shorts cover over two bars", oi_quadrant(2), held(-0.01, 0.0) | {"close": [100.0, 99.0, 101.0]}, 1.0),
    ("5 bps of a price have no direction", oi_quadrant(1), held(0.01) | {"close": [100.0, 100.05]}, 0.0),
    ("15 bps have one", oi_quadrant(1), held(0.01) | {"close": [100.0, 99.85]}, -2.0),
    ("5 bps of open interest are no build", oi_quadrant(1), held(0.0005) | {"close": [100.0, 101.0]}, 0.0),
    ("15 bps of open interest are closed", oi_quadrant(1), held(-0.0015) | {"close": [100.0, 99.0]}, -1.0),
    (
        "1 % was built in a rise, 3 % in a fall, what was closed does not count: (1 - 3) / (4 + .1)",
        oi_build_side(3, 2),
        held(0.0, 0.0, 0.01, -0.02, 0.03) | FIVE_BARS,
        -0.02 / 0.041,
    ),
    (
        "the first bar of a window of two has left it: -3 / 3.1",
        oi_build_side(2, 2),
        held(0.0, 0.0, 0.01, -0.02, 0.03) | FIVE_BARS,
        -0.03 / 0.031,
    ),
    (
        "1 % while the price rose, 3 % while it stood still: 1 / (4 + .1)",
        oi_build_side(2, 1),
        held(0.01, 0.03) | {"close": [100.0, 101.0, 101.0]},
        0.01 / 0.041,
    ),
    ("nothing was built", oi_build_side(2, 1), held(-0.01, -0.03) | {"close": [100.0, 101.0, 101.0]}, 0.0),
    (
        "open interest is missing in the window",
        oi_build_side(2, 1),
        {"oi_base": [100.0, None, 101.0], "close": [100.0, 101.0, 102.0]},
        None,
    ),
    ("half of the high was closed", oi_drawdown(3), {"oi_base": [100.0, 200.0, 150.0, 100.0]}, LOG2),
    ("a higher one before the window is forgotten", oi_drawdown(3), {"oi_base": [400.0, 200.0, 150.0, 100.0]}, LOG2),
    ("at the high", oi_drawdown(3), {"oi_base": [100.0, 150.0, 200.0]}, 0.0),
    ("open interest is missing", oi_drawdown(3), {"oi_base": [200.0, None, 100.0]}, None),
    ("the ladder as it stands", ladder("side", 240), {"ladder_side": [0.25]}, 0.25),
    ("no ladder", ladder("share", 240), {"ladder_share": [None]}, None),
    (
        "10k + 0 forced of 0 traded: (10 + 10) / 10",
        liq_over_volume(2),
        {"liq_long_usd": [9_000, 4_000, 1_000], "liq_short_usd": [9_000, 0, 5_000], "volume_usd": [9_000, 0, 0]},
        LOG2,
    ),
    # --- forced flow ---
    (
        "longs: 300 of 100; shorts: 100 of 20, the worse side",
        fuel_over_depth(),
        thousands(
            fuel_long_500bps_usd=300, fuel_short_500bps_usd=100, depth_bid_500bps_usd=100, depth_ask_500bps_usd=20
        ),
        5.0,
    ),
    (
        "no book at all: 3k over the floor of 1",
        fuel_over_depth(100),
        thousands(fuel_long_100bps_usd=3, fuel_short_100bps_usd=1, depth_bid_100bps_usd=0, depth_ask_100bps_usd=0),
        3_000.0,
    ),
    (
        "one side of the book is not known",
        fuel_over_depth(),
        thousands(
            fuel_long_500bps_usd=300, fuel_short_500bps_usd=0, depth_bid_500bps_usd=100, depth_ask_500bps_usd=None
        ),
        None,
    ),
    ("(30 - 10) / (30 + 10 + 10)", fuel_side(), thousands(fuel_long_500bps_usd=30, fuel_short_500bps_usd=10), 0.4),
    ("no fuel has no side", fuel_side(), thousands(fuel_long_500bps_usd=0, fuel_short_500bps_usd=0), 0.0),
    (
        "(30 + 10) of 100 trip within 2 %",
        at_risk(200),
        thousands(fuel_long_200bps_usd=30, fuel_short_200bps_usd=10, position_usd=100),
        0.4,
    ),
    (
        "no positions are not a share",
        at_risk(200),
        thousands(fuel_long_200bps_usd=0, fuel_short_200bps_usd=0, position_usd=0),
        None,
    ),
    (
        "positions that are not known",
        at_risk(200),
        thousands(fuel_long_200bps_usd=1, fuel_short_200bps_usd=1, position_usd=None),
        None,
    ),
    ("25 of 100 are short of margin", overdue(), thousands(overdue_usd=25, position_usd=100), 0.25),
    ("no positions, none short of margin", overdue(), thousands(overdue_usd=0, position_usd=0), None),
    # --- leverage ---
    ("a tenth is levered above 25", leverage_p90(), {"leverage_p90": [25.0]}, 25.0),
    ("9.9 to 19.9 over two bars", leverage_change(2), {"leverage_p90": [9.9, None, 19.9]}, LOG2),
    ("every quantile doubles: log 2", leverage_shift(1), leverages({}, ALL_TWICE), LOG2),
    ("and tilts by as much", leverage_tilt(1), leverages({}, ALL_TWICE), LOG2),
    ("every quantile halves: a distance is positive", leverage_shift(1), leverages(ALL_TWICE, {}), LOG2),
    ("a tilt is not", leverage_tilt(1), leverages(ALL_TWICE, {}), -LOG2),
    (
        "the highest percent weighs (.99 - .90) / 2 of .89",
        leverage_shift(1),
        leverages({}, {99: 1.9}),
        0.045 / 0.89 * LOG2,
    ),
    ("the median weighs (.75 - .25) / 2", leverage_tilt(1), leverages({50: 1.9}, {}), -0.25 / 0.89 * LOG2),
    (
        "a quarter up, a quarter down: (.2 + .2) / .89",
        leverage_shift(2),
        leverages({75: 1.9}, {}, {25: 1.9}),
        0.4 / 0.89 * LOG2,
    ),
    ("and no tilt", leverage_tilt(2), leverages({75: 1.9}, {}, {25: 1.9}), 0.0),
    ("no structure an hour ago", leverage_shift(1), leverages({}, {}) | {"leverage_p25": [None, 0.9]}, None),
    ("a third is levered above 20", over_20x(), {"over_20x_share": [1 / 3]}, 1 / 3),
    ("maintenance takes half of equity", margin_used(), {"margin_used": [0.5]}, 0.5),
    # --- whose ---
    ("a fifth is no dollars", collateral_other(), {"collateral_other_share": [0.2]}, 0.2),
    ("stablecoins are e - 1 times the room", peg_sensitivity(), {"stable_over_room": [math.e - 1]}, 1.0),
    ("no stablecoins", peg_sensitivity(), {"stable_over_room": [0.0]}, 0.0),
    ("the largest holds .3", largest_account(), {"largest_share": [0.3]}, 0.3),
    ("as ten equal accounts", accounts_effective(), {"accounts_effective": [10.0]}, LOG10),
    ("a single account", accounts_effective(), {"accounts_effective": [1.0]}, 0.0),
    ("three quarters are long: 2 * .75 - 1", top_long_side(), {"top10_long_share": [0.75]}, 0.5),
    ("a quarter to three quarters", top_side_change(2), {"top10_long_share": [0.25, 0.5, 0.75]}, 1.0),
    ("no structure an hour ago", top_side_change(1), {"top10_long_share": [None, 0.75]}, None),
]


@pytest.mark.parametrize(("feature", "columns", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(feature: pl.Expr, columns: Columns, want: float | None) -> None:
    got = last(feature, columns)
    assert got is None if want is None else got == pytest.approx(want, rel=1e-4, abs=1e-6)


# --- senseless windows ---


def test_a_baseline_that_makes_no_sense_is_refused() -> None:
    for wrong in ((0, 10), (5, 5), (5, 4), (5, WINDOW_MAX + 1), (-1, 10)):
        with pytest.raises(ValueError, match=r"window|baseline"):
            oi_score(*wrong)


@pytest.mark.parametrize(
    "feature",
    [
        *(oi_change, oi_over_volume, oi_quadrant, oi_drawdown, leverage_change, leverage_shift, leverage_tilt),
        *(top_side_change, liq_over_volume, lambda window: oi_build_side(window, 1)),
    ],
)
def test_a_window_of_nothing_is_refused(feature: Callable[[int], pl.Expr]) -> None:
    feature(1)
    for wrong in (0, -1, WINDOW_MAX + 1):
        with pytest.raises(ValueError, match="window must be"):
            feature(wrong)


def test_a_move_over_no_bars_is_refused() -> None:
    with pytest.raises(ValueError, match="move_bars must be"):
        oi_build_side(240, 0)


# --- the claims ---


def _market(price: Any, oi: Any) -> Columns:
    return {"close": price.tolist(), "oi_base": oi.tolist()}


def test_a_price_that_falls_alone_is_no_deleveraging() -> None:
    """Open interest in dollars falls with the price; in base units only what is closed does."""
    falling, still = 100 * np.exp(np.linspace(0, -0.1, 246)), np.full(246, 1e6)
    alone = _market(falling, still)
    assert last(oi_change(30), alone) == last(oi_drawdown(240), alone) == last(oi_build_side(240, 5), alone) == 0.0
    assert last(oi_quadrant(30), alone) == 0.0
    closed = _market(falling, 1e6 * np.exp(np.linspace(0, -0.05, 246)))
    assert last(oi_drawdown(240), closed) == pytest.approx(0.05 * 239 / 245)
    assert last(oi_quadrant(30), closed) == -1.0


def _build_side(seed: int, answer: float) -> float:
    """`oi_build_side_240` where open interest takes `answer` of each move of the price and some noise."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 5e-4, 246)
    drift = np.convolve(moves, np.ones(5))[:246]  # what is built follows the last five minutes
    oi = 1e6 * np.exp(np.cumsum(answer * drift + rng.normal(0, 5e-4, 246)))
    value = last(oi_build_side(240, 5), _market(100 * np.exp(np.cumsum(moves)), oi))
    assert value is not None
    return value


def test_builds_that_follow_the_price_are_of_longs_and_those_that_do_not_are_of_nobody() -> None:
    with_it, against, apart = (np.array([_build_side(s, answer) for s in range(40)]) for answer in (1.0, -1.0, 0.0))
    assert with_it.min() > 0.5
    assert against.max() < -0.5
    assert abs(apart.mean()) < 0.1
    assert np.abs(apart).max() < 0.6


def test_closing_in_rises_and_falls_says_nothing_of_who_built() -> None:
    """Only increases count: an unwinding of longs in a fall is not taken for a build of shorts."""
    rng = np.random.default_rng(2)
    price = 100 * np.exp(np.cumsum(rng.normal(-1e-4, 5e-4, 246)))
    closing = _market(price, 1e6 * np.exp(np.linspace(0, -0.1, 246)))
    assert last(oi_build_side(240, 5), closing) == 0.0


def test_leverage_that_spreads_is_a_shift_without_a_tilt() -> None:
    """The careful become more careful, the bold bolder: no mean and no median tells it."""
    apart = leverages({}, {10: 0.35, 25: 0.5, 75: 1.9 * 0.8, 90: 1.9, 99: 1.9})
    shift, tilt = last(leverage_shift(1), apart), last(leverage_tilt(1), apart)
    assert shift is not None
    assert tilt is not None
    assert shift > 0.3
    assert abs(tilt) < shift / 3


def test_the_body_of_accounts_levers_up_below_an_unchanged_tail() -> None:
    body = leverages({90: 9.9, 99: 9.9}, {10: 1.9, 25: 1.9, 50: 1.9, 75: 1.9, 90: 9.9, 99: 9.9})
    assert last(leverage_change(1), body) == 0.0
    assert last(leverage_tilt(1), body) == pytest.approx((0.075 + 0.2 + 0.25 + 0.2) / 0.89 * LOG2)


def test_the_distance_is_that_of_the_sorted_accounts() -> None:
    """Wasserstein-1 in one dimension: mean distance of the k-th of each. The quantiles tell it within a tenth."""
    rng = np.random.default_rng(5)
    before, after = (np.sort(rng.lognormal(mean, sd, 4_000)) for mean, sd in ((1.5, 0.5), (2.0, 0.7)))
    now = {round(100 * q): float(np.quantile(after, q)) for q in QUANTILES}
    then = {round(100 * q): float(np.quantile(before, q)) for q in QUANTILES}
    middle = slice(400, 3_960)  # the quantiles from 10 to 99 %
    want = float(np.abs(np.log(after[middle] + 0.1) - np.log(before[middle] + 0.1)).mean())
    assert last(leverage_shift(1), leverages(then, now)) == pytest.approx(want, rel=0.1)


def test_the_same_open_interest_before_half_the_book_is_log_two_more() -> None:
    before = thousands(oi_usd=500_000, depth_bid_100bps_usd=99_999, depth_ask_100bps_usd=300_000)
    one_side = before | thousands(depth_bid_100bps_usd=49_999)
    other_side = before | thousands(depth_ask_100bps_usd=150_000)
    usual = last(oi_over_depth(), before)
    assert usual is not None
    assert last(oi_over_depth(), one_side) == pytest.approx(usual + LOG2, abs=1e-4)
    assert last(oi_over_depth(), other_side) == usual  # not the thinner one
