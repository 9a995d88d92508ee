"""The crowding family by hand, and the claims behind it: a planted crowd is seen, a market without one is not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.crowding import (
    basis_apart_bps,
    basis_dispersion_bps,
    basis_trend,
    carry_bleed,
    crowding_agreed,
    crowding_apart,
    crowding_score,
    funding_apart,
    funding_change,
    funding_dispersion,
    funding_predicted_gap,
    funding_saturation,
)
from features.exact import WINDOW_MAX
from features.volatility import (
    garman_klass_sigma,
    parkinson_sigma,
    rogers_satchell_sigma,
    vol_annual,
    vol_gap_share,
    vol_of_vol,
    vol_one_way,
    vol_short_long,
    vol_wick,
)

Column = list[Any]
BAR: dict[str, Column] = {"open": [100.0], "high": [110.0], "low": [95.0], "close": [105.0]}


def last(feature: pl.Expr, **columns: Column) -> float | None:
    height = max(map(len, columns.values()))
    whole = {name: values * (height if len(values) == 1 else 1) for name, values in columns.items()}
    frame = pl.DataFrame(whole, strict=False).cast(pl.Float64)
    value: float | None = frame.select(feature).to_series()[-1]
    return value


def perp(*basis_bps: float | None) -> dict[str, Column]:
    """A mark that stands so far above an index of 100."""
    marks = [None if bps is None else 100 * (1 + bps / 1e4) for bps in basis_bps]
    return {"mark": marks, "index": [100.0], "close": [100.0], "trade_age_s": [900.0]}


def pays(rate: float | None, hours: float = 8.0) -> dict[str, Column]:
    return {"funding_rate": [rate], "funding_interval_h": [hours]}


def walk(*returns: float) -> dict[str, Column]:
    """Closes from 100 on by these log returns."""
    return {"close": [100 * math.exp(sum(returns[:i])) for i in range(len(returns) + 1)]}


def candles(*moves: tuple[float, float]) -> dict[str, Column]:
    """After a close of 100, bars of (gap, body) in logs without wicks."""
    columns: dict[str, Column] = {name: [100.0] for name in ("open", "high", "low", "close")}
    for gap, body in moves:
        opened = columns["close"][-1] * math.exp(gap)
        closed = opened * math.exp(body)
        for name, price in zip(columns, (opened, max(opened, closed), min(opened, closed), closed), strict=True):
            columns[name].append(price)
    return columns


HAND: list[tuple[str, pl.Expr, dict[str, Column], float | None]] = [
    # 10 bps a premium: .001 + clip(.0001 - .001) = .001 - .0005 = .0005 per 8 h, .5475 a year; less .1095.
    ("a premium beyond the band costs what is beyond", funding_predicted_gap(1), perp(10) | pays(1e-4), 0.438),
    ("a premium within the band costs the interest alone", funding_predicted_gap(1), perp(3) | pays(1e-4), 0.0),
    ("a discount of 10 bps: -.0005 per 8 h", funding_predicted_gap(1), perp(-10) | pays(1e-4), -0.657),
    ("an hour pays an eighth of the rule", funding_predicted_gap(1), perp(10) | pays(0.0005 / 8, 1.0), 0.0),
    ("the mean of the window counts: 4 and 16 are 10", funding_predicted_gap(2), perp(4, 16) | pays(1e-4), 0.438),
    ("eight bars of ten are enough", funding_predicted_gap(10), perp(*[None] * 2, *[10] * 8) | pays(1e-4), 0.438),
    ("seven bars of ten are not", funding_predicted_gap(10), perp(*[None] * 3, *[10] * 7) | pays(1e-4), None),
    ("nothing paid, nothing to compare with", funding_predicted_gap(1), perp(10) | pays(None), None),
    ("half of .75 % per 8 h", funding_saturation(), pays(0.00375), 0.5),
    ("who pays does not matter", funding_saturation(), pays(-0.00375), 0.5),
    ("an hour's cap is an eighth: .0375 / .09375", funding_saturation(), pays(0.000375, 1.0), 0.4),
    ("beyond the assumed cap", funding_saturation(), pays(0.02), 1.0),
    ("unknown rate", funding_saturation(), pays(None), None),
    (
        "from .01 to .03 % per 8 h: .0002 * 1095",
        funding_change(2),
        {"funding_rate": [1e-4, 2e-4, 3e-4], "funding_interval_h": [8.0]},
        0.219,
    ),
    (
        "the same rate, paid twice as often",
        funding_change(1),
        {"funding_rate": [1e-4], "funding_interval_h": [8.0, 4.0]},
        0.1095,
    ),
    ("no rate then", funding_change(1), {"funding_rate": [None, 1e-4], "funding_interval_h": [8.0]}, None),
    ("from a mean of 2 to one of 7", basis_trend(2, 2), perp(1, 3, 6, 8), 5.0),
    ("no basis then", basis_trend(2, 2), perp(None, 3, 6, 8), None),
    ("10.95 % here, 5 % there", funding_apart(), pays(1e-4) | {"peer_funding_median": [0.05]}, 0.0595),
    ("nobody else", funding_apart(), pays(1e-4) | {"peer_funding_median": [None]}, None),
    ("12 here, 20 there", basis_apart_bps(), perp(12) | {"peer_basis_median_bps": [20.0]}, -8.0),
    ("no own basis", basis_apart_bps(), perp(None) | {"peer_basis_median_bps": [20.0]}, None),
    (
        "own above the others: .1095 - (-.2)",
        funding_dispersion(),
        pays(1e-4) | {"peer_funding_min": [-0.2], "peer_funding_max": [0.1]},
        0.3095,
    ),
    (
        "own between the others: .3 - .05",
        funding_dispersion(),
        pays(1e-4) | {"peer_funding_min": [0.05], "peer_funding_max": [0.3]},
        0.25,
    ),
    (
        "own below the others: 7 - (-4)",
        basis_dispersion_bps(),
        perp(-4) | {"peer_basis_min_bps": [2.0], "peer_basis_max_bps": [7.0]},
        11.0,
    ),
    (
        "one's own alone has no range",
        basis_dispersion_bps(),
        perp(-4) | {"peer_basis_min_bps": [None], "peer_basis_max_bps": [None]},
        None,
    ),
    (
        "that of others alone is not of all",
        funding_dispersion(),
        pays(None) | {"peer_funding_min": [0.0], "peer_funding_max": [1.0]},
        None,
    ),
    ("three times .01 % a day, levered ten times", carry_bleed(), pays(1e-4) | {"leverage_p50": [10.0]}, 0.003),
    ("shorts pay every hour: 24 * -.0001 * 5", carry_bleed(), pays(-1e-4, 1.0) | {"leverage_p50": [5.0]}, -0.012),
    ("unknown leverage", carry_bleed(), pays(1e-4) | {"leverage_p50": [None]}, None),
    ("10 bps a minute: .001 * sqrt(525 600)", vol_annual(2), walk(0.001, -0.001), 0.724983),
    ("10 bps in five minutes: .001 * sqrt(105 120)", vol_annual(2, 300), walk(0.001, -0.001), 0.324222),
    ("a window that begins before the first close", vol_annual(3), walk(0.001, -0.001), None),
    (
        # Ranges of .02: .02 / sqrt(4 log 2) = .0120112 against returns of .01.
        "ranges twice as wide as the returns",
        vol_wick(2),
        walk(0.01, -0.01) | {"low": [100.0], "high": [100 * math.exp(0.02)]},
        math.log(1.20112),
    ),
    ("no price moves", vol_wick(2), {name: [100.0] * 3 for name in BAR}, 0.0),
    ("the bar of the worked example", vol_one_way(2), {k: v * 2 for k, v in BAR.items()}, 0.0133698),
    # Open = low, close = high: Rogers-Satchell sees nothing; Garman-Klass sqrt(.113706) * .1 = .0337203 over 5e-5.
    ("every bar runs one way", vol_one_way(2), candles((0, 0.1), (0, 0.1)), math.log(0.0337203 / 5e-5)),
    ("unknown open", vol_one_way(2), {k: v * 2 for k, v in BAR.items()} | {"open": [None, 100.0]}, None),
    ("all of it lies between bars", vol_gap_share(2), candles((0.01, 0), (-0.01, 0)), 1.0),
    ("none of it lies between bars", vol_gap_share(2), candles((0, 0.01), (0, -0.01)), 0.0),
    # k = .34 / (1.34 + 3) = .0783410; gaps 2e-4, bodies 8e-4 without wicks: 2e-4 / (2e-4 + k * 8e-4).
    ("gaps of 1 %, bodies of 2 %", vol_gap_share(2), candles((0.01, 0.02), (-0.01, -0.02)), 0.761403),
    ("a flat market has no gaps", vol_gap_share(2), candles((0, 0), (0, 0)), None),
    # Log volatilities over (.001, .001), (.001, .002), (.002, .002): 0, .458145, .693147 above the first.
    ("volatility doubles", vol_of_vol(2, 3), walk(0.001, 0.001, 0.001, 0.002, 0.002), 0.352510),
    ("volatility stays", vol_of_vol(2, 3), walk(*[0.001] * 5), 0.0),
    ("volatility is that of the two before", vol_short_long(1, 2), walk(0.002, 0.001, -0.001, 0.001), 0.0),
    ("twice that of the two before", vol_short_long(1, 2), walk(0.001, -0.001, 0.002), math.log(2)),
]


@pytest.mark.parametrize(("feature", "columns", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(feature: pl.Expr, columns: dict[str, Column], want: float | None) -> None:
    got = last(feature, **columns)
    assert got is None if want is None else got == pytest.approx(want, abs=2e-5)


def test_rolling_estimators_equal_those_of_one_bar() -> None:
    """Of n bars like that of the worked example the root mean is the root of the one."""
    got = [last(s(3), **{k: v * 3 for k, v in BAR.items()}) for s in (parkinson_sigma, garman_klass_sigma)]
    got.append(last(rogers_satchell_sigma(3), **{k: v * 3 for k, v in BAR.items()}))
    assert got == pytest.approx([math.sqrt(v) for v in (0.0077518092, 0.0098267233, 0.0095674414)], rel=1e-6)


WINDOWED: list[tuple[Callable[..., pl.Expr], tuple[int, ...]]] = [
    *((feature, (wrong,)) for feature in (funding_predicted_gap, funding_change, basis_trend) for wrong in (0, -1)),
    *((feature, (1,)) for feature in (vol_annual, vol_wick, vol_one_way, vol_gap_share)),
    *((feature, (WINDOW_MAX + 1,)) for feature in (vol_annual, funding_change)),
    *((feature, (5, 5)) for feature in (vol_short_long, vol_of_vol, crowding_agreed, crowding_apart)),
    *((feature, (0, 5)) for feature in (vol_short_long, vol_of_vol, crowding_agreed, crowding_apart)),
    (crowding_apart, (2, 5, 0)),
    (basis_trend, (5, 0)),
]


@pytest.mark.parametrize(("feature", "windows"), WINDOWED)
def test_windows_that_make_no_sense_are_refused(feature: Callable[..., pl.Expr], windows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be from"):
        feature(*windows)


# --- the combination ---

BARS = 20


def crowd(
    basis_bps: float, funding: float, busy: float = 1.0, *, elsewhere: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Column]:
    """A market at its index whose last two bars have this basis and are `busy` times as volatile.

    `funding` is in units of 30 % a year; `elsewhere` is (basis, funding) of the other venues.
    """
    sizes = [1e-3 * (busy if i >= BARS - 2 else 1.0) * (-1) ** i for i in range(BARS)]
    there_bps, there = elsewhere
    return (
        perp(*[0.0] * (BARS - 1), basis_bps, basis_bps)
        | walk(*sizes)
        | pays(funding * 0.30 / 1095)
        | {"peer_basis_median_bps": [there_bps], "peer_funding_median": [0.30 * there]}
    )


AGREED, APART, SCORE = crowding_agreed(2, 10, 2), crowding_apart(2, 10, 2), crowding_score(2, 10, 2)


def told(feature: pl.Expr, columns: dict[str, Column]) -> float:
    value = last(feature, **columns)
    assert value is not None
    return value


COMBINED: list[tuple[str, pl.Expr, dict[str, Column], float]] = [
    # 5 bps is a lean of 1, and so is 30 % a year; the cube root of 1 * 1 * 1.
    ("all three are one", AGREED, crowd(5, 1), math.tanh(0.5)),
    ("cube root of 2 * 2 * 2, shorts", AGREED, crowd(-10, -2, 2.0), -math.tanh(1.0)),
    ("each at its bound: cube root of 5 * 5 * 3", AGREED, crowd(90, 9, 50.0), math.tanh(75 ** (1 / 3) / 2)),
    ("calm weighs a third at least", AGREED, crowd(5, 1, 0.01), math.tanh((1 / 3) ** (1 / 3) / 2)),
    ("funding says longs, the basis says shorts", AGREED, crowd(-50, 5, 3.0), 0.0),
    ("5 bps and 30 % above the others: (1 + 1) / 4", APART, crowd(25, 3, elsewhere=(20, 2)), math.tanh(0.5)),
    ("below the others in a market twice as wild", APART, crowd(0, 0, 2.0, elsewhere=(5, 1)), -math.tanh(1.0)),
    ("the basis counts 5 at most: (5 - 4) / 4", APART, crowd(200, -4), math.tanh(0.25)),
    ("funding counts 5 at most: (-4 + 5) / 4", APART, crowd(-20, 20), math.tanh(0.25)),
    ("heat counts 3 at most: 3 * (1 + 0) / 4", APART, crowd(5, 0, 50.0), math.tanh(0.75)),
]


@pytest.mark.parametrize(
    ("feature", "columns", "want"), [row[1:] for row in COMBINED], ids=[row[0] for row in COMBINED]
)
def test_combinations_by_hand(feature: pl.Expr, columns: dict[str, Column], want: float) -> None:
    assert told(feature, columns) == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize("busy", [0.1, 1.0, 3.0, 100.0])
def test_a_neutral_market_is_exactly_zero_however_wild_it_is(busy: float) -> None:
    assert [told(feature, crowd(0, 0, busy)) for feature in (AGREED, APART, SCORE)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("basis", "funding"), [(0, 5), (50, 0), (50, -5), (-1, 5)])
def test_one_leg_alone_is_loud_in_the_sum_and_silent_in_the_product(basis: float, funding: float) -> None:
    columns = crowd(basis, funding, 3.0)
    assert told(AGREED, columns) == 0.0
    assert basis == -funding * 10 or abs(told(SCORE, columns)) > 0.9


def test_a_crowd_that_is_everywhere_is_not_apart() -> None:
    everywhere, here = crowd(40, 4, 3.0, elsewhere=(40, 4)), crowd(40, 4, 3.0)
    assert told(SCORE, everywhere) > 0.9
    assert told(APART, everywhere) == pytest.approx(0.0, abs=1e-3)
    assert told(APART, here) > 0.9


leans = st.floats(-30, 30).filter(lambda x: x == 0 or abs(x) > 0.05)


@settings(max_examples=80, deadline=None)
@given(leans, leans, st.floats(0.05, 20))
def test_combinations_are_bounded_odd_and_signed_by_the_crowded_side(basis: float, lean: float, busy: float) -> None:
    funding = lean / 5
    for feature in (AGREED, APART):
        longs, shorts = told(feature, crowd(basis, funding, busy)), told(feature, crowd(-basis, -funding, busy))
        assert -1 <= longs <= 1
        # A basis is summed in whole units: half a unit is rounded to an even one, and one is worth 1e-4 here.
        assert shorts == pytest.approx(-longs, abs=2e-4)
        if basis * funding > 0:
            assert longs * basis > 0
    if basis * funding <= 0:
        assert told(AGREED, crowd(basis, funding, busy)) == 0.0


@pytest.mark.parametrize("feature", [AGREED, APART], ids=["agreed", "apart"])
def test_combinations_grow_with_each_part(feature: pl.Expr) -> None:
    base = told(feature, crowd(3, 0.5))
    for stronger in (crowd(6, 0.5), crowd(3, 1.0), crowd(3, 0.5, 2.0)):
        assert told(feature, stronger) > base + 0.02


@pytest.mark.parametrize("missing", ["funding_rate", "index", "close"])
def test_the_product_is_null_if_one_of_the_three_is_missing(missing: str) -> None:
    columns = crowd(5, 1)
    assert last(AGREED, **columns) is not None
    assert last(AGREED, **(columns | {missing: [None]})) is None


@pytest.mark.parametrize("missing", ["funding_rate", "index", "close", "peer_funding_median", "peer_basis_median_bps"])
def test_apart_is_null_if_one_of_its_parts_is_missing(missing: str) -> None:
    columns = crowd(5, 1)
    assert last(APART, **columns) is not None
    assert last(APART, **(columns | {missing: [None]})) is None


# --- the claims ---


def ticks(seed: int, bars: int = 240, drift: float = 0.0, back: float = 0.0, gap: float = 0.0) -> pl.DataFrame:
    """Bars of 200 ticks of 1e-4. `back` pulls the second half of each bar to where the first began; `drift` is added
    to every tick with the sign of the bar, `gap` is the spread of what lies between bars."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1e-4, (bars, 200)) + drift * rng.choice([-1, 1], (bars, 1))
    steps[:, 100:] -= back * steps[:, :100]
    inside = np.cumsum(steps, axis=1)
    starts = np.concatenate([[0.0], np.cumsum(inside[:, -1] + rng.normal(0, gap, bars))[:-1]])
    path = 100 * np.exp(np.concatenate([starts[:, None], starts[:, None] + inside], axis=1))
    prices = {"open": path[:, 0], "high": path.max(axis=1), "low": path.min(axis=1), "close": path[:, -1]}
    return pl.DataFrame(prices)


def middle(feature: pl.Expr, frame: pl.DataFrame) -> float:
    values = frame.select(feature).to_series().drop_nulls()
    assert len(values) > 100
    return float(np.median(values.to_numpy()))


def test_wicks_are_seen_and_a_walk_has_none() -> None:
    assert abs(middle(vol_wick(60), ticks(1))) < 0.1
    assert middle(vol_wick(60), ticks(1, back=1.0)) > 0.3


def test_bars_of_one_direction_are_seen_and_a_walk_is_not() -> None:
    assert abs(middle(vol_one_way(60), ticks(2))) < 0.1
    assert middle(vol_one_way(60), ticks(2, drift=3e-5)) > 0.3
    assert abs(middle(vol_one_way(60), ticks(2, gap=2e-3))) < 0.1  # gaps are no drift


def test_gaps_are_seen_and_a_walk_without_them_has_none() -> None:
    """200 ticks of 1e-4 are 1.41e-3 a bar; gaps as large are half of the variance."""
    assert middle(vol_gap_share(60), ticks(3)) == pytest.approx(0.0, abs=1e-6)
    assert middle(vol_gap_share(60), ticks(3, gap=1.41e-3)) == pytest.approx(0.5, abs=0.1)


def test_annual_volatility_is_that_of_the_walk_at_any_length_of_bars() -> None:
    """200 ticks of 1e-4 a minute: sqrt(200 * 1e-8 * 525 600) = 1.0253 a year."""
    minutes = ticks(4, bars=3_000)
    fives = minutes.gather_every(5, offset=4)
    assert middle(vol_annual(60), minutes) == pytest.approx(1.0253, rel=0.05)
    assert middle(vol_annual(60, 300), fives) == pytest.approx(1.0253, rel=0.05)


def test_volatility_that_comes_in_spells_is_restless_and_a_steady_one_is_not() -> None:
    steady, spells = ticks(5, bars=600), ticks(5, bars=600)
    returns = spells["close"].log().diff().fill_null(0.0).to_numpy() * np.repeat([0.5, 3.0] * 10, 30)
    spells = pl.DataFrame({"close": 100 * np.exp(np.cumsum(returns))})
    assert middle(vol_of_vol(15, 240), spells) > 3 * middle(vol_of_vol(15, 240), steady)


def _settled(seed: int) -> pl.DataFrame:
    """A venue by its own rule: at the end of 8 hours the rate is set from their mean premium; the premium wanders."""
    rng = np.random.default_rng(seed)
    basis = np.repeat(rng.normal(0, 12, 41), 480)[:-480] + rng.normal(0, 2, 40 * 480)
    premium = basis.reshape(40, 480).mean(axis=1) / 1e4
    rates = premium + np.clip(1e-4 - premium, -5e-4, 5e-4)
    paid = np.repeat(np.concatenate([[1e-4], rates[:-1]]), 480)  # what was set before
    columns = {"mark": 100 * (1 + basis / 1e4), "funding_rate": paid}
    fixed = {"index": 100.0, "close": 100.0, "trade_age_s": 0.0, "funding_interval_h": 8.0}
    return pl.DataFrame(columns).with_columns(pl.lit(value).alias(name) for name, value in fixed.items())


def test_the_predicted_gap_says_where_the_next_rate_goes_hours_before_it_is_set() -> None:
    frame = _settled(6)
    annual = frame["funding_rate"].to_numpy() * 1095
    gap = frame.select(funding_predicted_gap(60)).to_series().to_numpy()
    early = np.arange(1, 39) * 480 + 120  # two hours after the last rate was set, six before the next
    change = annual[early + 480] - annual[early]
    assert np.corrcoef(gap[early], change)[0, 1] > 0.95
    assert abs(np.corrcoef(gap[early], np.roll(change, 7))[0, 1]) < 0.5
