"""The thin_book family by hand arithmetic, and the claims behind its features: a planted hole is seen, a calm or an
always thin book is not."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.exact import WINDOW_MAX
from features.inputs import usable
from features.leverage import fuel_over_depth
from features.matrix import _with_norms
from features.norms import hour_end, hours_of, norms_of
from features.schema import DEPTH_BANDS_BPS
from features.thin_book import (
    CLIFF_NONE_BPS,
    amihud_score,
    below_norm,
    cliff_bps,
    depth_curve,
    depth_drain,
    depth_drop,
    depth_eigen,
    depth_slope,
    gap_burst,
    kyle_slope,
    quote_imbalance,
    range_score,
    resilience,
    slippage_bps,
    slippage_short,
    spread_norm,
    spread_over_vol,
    spread_score,
    thin_share,
    touch_share,
    volume_imbalance,
)
from tests.features.worlds import START, bars_from

Column = list[Any]
Columns = dict[str, Column]


def last(feature: pl.Expr, columns: Columns) -> float | None:
    """The value at the last of the bars that `columns` tell."""
    told = pl.DataFrame(columns, strict=False)
    value: float | None = told.cast({pl.Null: pl.Float64}).select(feature).to_series()[-1]
    return value


def side(name: str, *depth_k: float | None) -> Columns:
    """One bar of one side: thousands of dollars within 20, 100, 200 and 500 bps."""
    return {
        f"depth_{name}_{band}bps_usd": [None if k is None else round(1_000 * k)]
        for band, k in zip(DEPTH_BANDS_BPS, depth_k, strict=True)
    }


def book(*depth_k: float | None) -> Columns:
    """One bar with the same on both sides."""
    return side("bid", *depth_k) | side("ask", *depth_k)


def both(*total_k: float) -> Columns:
    """One bar: thousands of dollars of both sides together, but for the dollar of the floor."""
    return side("bid", *(k / 2 for k in total_k)) | side("ask", *(k / 2 - (k > 0) / 1_000 for k in total_k))


def fuel(long_k: Column, short_k: Column) -> Columns:
    """One bar: thousands of dollars that a move of 100, 200, 500 bps would force, of longs and of shorts."""
    told = {"long": long_k, "short": short_k}
    return {
        f"fuel_{held}_{band}bps_usd": [None if k is None else 1_000 * k]
        for held, columns in told.items()
        for band, k in zip(DEPTH_BANDS_BPS[1:], columns, strict=True)
    }


def _prices(*returns: float) -> Column:
    return [100 * math.exp(moved) for moved in accumulate(returns, initial=0.0)]


FLAT = (200, 1_000, 2_000, 5_000)  # 10 000 USD per bp: D = 100 million USD per unit of relative price
DEEP = (20_000, 100_000, 200_000, 500_000)
NO_FUEL: Column = [0, 0, 0]
LOG2, LOG4, LOG5, LOG10 = (math.log(x) for x in (2, 4, 5, 10))
IN_HALVES = {
    f"depth_{name}_100bps_usd": [round(math.exp(12 + 2 * 0.5**i)) - 1 for i in range(6)] for name in ("bid", "ask")
}
RUNNING_DRY = {
    f"depth_{name}_100bps_usd": [round(math.exp(14 - i / 2)) - 1 for i in range(6)] for name in ("bid", "ask")
}
TO_AND_FRO = {f"depth_{name}_100bps_usd": [9_000, 99_000] * 3 for name in ("bid", "ask")}

HAND: list[tuple[str, pl.Expr, Columns, float | None]] = [
    # --- against the norm of the hour ---
    (
        "the thinner side has 9,999 + 1 where the hour has 40k: log 4 over an sd of .5",
        below_norm("depth"),
        side("bid", 1, 9.999, 99, 99)
        | side("ask", 1, 99, 99, 99)
        | {"norm_depth_mean": [math.log(40_000)], "norm_depth_sd": [0.5]},
        LOG4 / 0.5,
    ),
    (
        "an hour without scatter: the floor of .1 takes the place of its sd",
        below_norm("depth"),
        book(1, 9.999, 99, 99) | {"norm_depth_mean": [math.log(40_000)], "norm_depth_sd": [0.0]},
        LOG4 / 0.1,
    ),
    (
        "thicker than usual is below zero",
        below_norm("depth"),
        book(1, 39.999, 99, 99) | {"norm_depth_mean": [math.log(10_000)], "norm_depth_sd": [0.5]},
        -LOG4 / 0.5,
    ),
    (
        "the touch is what stands within 20 bps: 19,999 + 1 of a usual 40k",
        below_norm("touch"),
        side("bid", 99, 500, 500, 500)
        | side("ask", 19.999, 500, 500, 500)
        | {"norm_touch_mean": [math.log(40_000)], "norm_touch_sd": [0.5]},
        LOG2 / 0.5,
    ),
    (
        "3.99 + .01 bps where the hour has 2: wider is above zero",
        spread_norm(),
        {"spread_bps": [3.99], "norm_spread_mean": [LOG2], "norm_spread_sd": [0.5]},
        LOG2 / 0.5,
    ),
    (
        "an hour that is not known yet",
        below_norm("depth"),
        book(1, 9, 99, 99) | {"norm_depth_mean": [None], "norm_depth_sd": [None]},
        None,
    ),
    (
        "one side is not known",
        below_norm("depth"),
        side("bid", 1, None, 99, 99)
        | side("ask", 1, 9, 99, 99)
        | {"norm_depth_mean": [math.log(40_000)], "norm_depth_sd": [0.5]},
        None,
    ),
    # --- the shape ---
    (
        "(1,000 + 1,500) / (2,500 + 2,499 + 1)",
        touch_share(),
        side("bid", 1, 2.5, 9, 9) | side("ask", 1.5, 2.499, 9, 9),
        0.5,
    ),
    ("a touch that holds more than the wider band is all of it", touch_share(), book(9, 2, 9, 9), 1.0),
    ("5 times the band, (49,999 + 1) / (9,999 + 1) = 5 times the depth", depth_slope(), both(0, 10, 9, 50), 1.0),
    ("all that there is stands within 100 bps", depth_slope(), book(0, 4.5, 4.5, 4.5), 0.0),
    ("2, 10, 50 thousand: as steep near as far", depth_curve(), both(2, 10, 9, 50), 0.0),
    ("2, 50, 50 thousand: log 25 near, nothing far", depth_curve(), both(2, 50, 50, 50), 2.0),
    ("10, 10, 50 thousand: a touch and a wall far away", depth_curve(), both(10, 10, 9, 50), -1.0),
    ("the far band is not known", depth_curve(), book(0.5, 4.5, 9, None), None),
    # --- spreads ---
    (
        "8 bps of spread for moves of 4 bps",
        spread_over_vol(2),
        {"spread_bps": [1.0, 1.0, 7.99], "close": _prices(4e-4, -4e-4)},
        LOG2,
    ),
    (
        "a price that stands still moves half a bp",
        spread_over_vol(2),
        {"spread_bps": [1.0, 1.0, 0.99], "close": _prices(0.0, 0.0)},
        LOG2,
    ),
    ("no quote", spread_over_vol(2), {"spread_bps": [1.0, 1.0, None], "close": _prices(4e-4, -4e-4)}, None),
    (
        "1, 4, then 8 bps: (log 8 - log 2) / (log 4 / root 2)",
        spread_score(1, 2),
        {"spread_bps": [0.99, 3.99, 7.99]},
        math.sqrt(2),
    ),
    (
        "two bars of 2 after bars of 1 that never moved: log 2 over the floor",
        spread_score(2, 4),
        {"spread_bps": [0.99] * 5 + [1.99] * 2},
        LOG2 / 0.1,
    ),
    (
        "half way into the window: the mean of log 1 and log 2",
        spread_score(2, 4),
        {"spread_bps": [0.99] * 6 + [1.99]},
        LOG2 / 2 / 0.1,
    ),
    (
        "three usual spreads are not more than three; a tenth more is",
        gap_burst(2, 3),
        {"spread_bps": [1.0, 3.0, 2.0, 2.0, 2.0], "spread_bps_max": [1.0, 3.0, 9.0, 6.0, 6.1]},
        0.5,
    ),
    (
        "the usual is a median: one wild quote before does not move it",
        gap_burst(1, 3),
        {"spread_bps": [1.0, 1.0, 100.0, 1.0], "spread_bps_max": [1.0, 1.0, 100.0, 4.0]},
        1.0,
    ),
    (
        "the usual is that before the bar: the spread that is left after the hole is not in it",
        gap_burst(1, 2),
        {"spread_bps": [1.0, 1.0, 3.5], "spread_bps_max": [1.0, 1.0, 3.5]},
        1.0,
    ),
    (
        "a bar without quotes",
        gap_burst(2, 3),
        {"spread_bps": [1.0, 3.0, 2.0, 2.0, 2.0], "spread_bps_max": [1.0, 3.0, 9.0, None, 9.0]},
        None,
    ),
    # --- sides ---
    ("mean of -.5 and -.3", quote_imbalance(2), {"imbalance": [0.9, -0.5, -0.3]}, -0.4),
    ("an unknown touch", quote_imbalance(2), {"imbalance": [0.9, None, -0.3]}, None),
    (
        "30k bought, 60k sold: -30 / (90 + 10)",
        volume_imbalance(2),
        {"buy_usd": [999_999, 10_000, 20_000], "sell_usd": [0, 40_000, 20_000]},
        -0.3,
    ),
    ("silence leans to no side", volume_imbalance(2), {"buy_usd": [0, 0], "sell_usd": [0, 0]}, 0.0),
    # --- walking the book ---
    ("flat book: Q / (2 D) = 1e5 / 2e8", slippage_bps(100_000), book(*FLAT), 5.0),
    ("ten times the order", slippage_bps(1_000_000), book(*FLAT), 50.0),
    ("half of the depth: twice", slippage_bps(1_000_000), book(*(k / 2 for k in FLAT)), 100.0),
    (
        "60k at 10 bps on average, 40k of the next 80k: from 20 to 60 bps",
        slippage_bps(100_000),
        side("bid", 60, 140, 500, 900) | side("ask", *FLAT),
        (60 * 10 + 40 * 40) / 100,
    ),
    ("the worse side is the one that has less", slippage_bps(1_000_000), side("bid", *DEEP) | side("ask", *FLAT), 50.0),
    (
        "400k of a million: 100k at 10 bps, 300k between 200 and 500; the rest is not guessed",
        slippage_bps(1_000_000),
        side("bid", 100, 100, 100, 400) | side("ask", *DEEP),
        (100 * 10 + 300 * 350) / 400,
    ),
    (
        "a band that tells less than a nearer one adds none, and takes none away",
        slippage_bps(150_000),
        side("bid", 100, 50, 200, 200) | side("ask", *DEEP),
        (100 * 10 + 50 * 125) / 150,
    ),
    ("an empty side fills nothing", slippage_bps(100_000), side("bid", 0, 0, 0, 0) | side("ask", *FLAT), None),
    ("a band is not known", slippage_bps(100_000), side("bid", 200, 1_000, None, 5_000) | side("ask", *FLAT), None),
    (
        "400k are there, 600k of the million are not",
        slippage_short(1_000_000),
        side("bid", 100, 100, 100, 400) | side("ask", *DEEP),
        0.6,
    ),
    ("all of it is there", slippage_short(1_000_000), book(*FLAT), 0.0),
    ("an empty side", slippage_short(1_000_000), side("bid", 0, 0, 0, 0) | side("ask", *FLAT), 1.0),
    ("a side is not known", slippage_short(1_000_000), side("bid", 1, 1, 1, None) | side("ask", *FLAT), None),
    # --- refilling ---
    ("half of the dent is left after each bar of a minute", resilience(5, 1.0), IN_HALVES, 1.0),
    ("the same in bars of five minutes", resilience(5, 5.0), IN_HALVES, 5.0),
    (
        "a trend does not come back: phi at its cap of .99",
        resilience(5, 1.0),
        RUNNING_DRY,
        math.log(0.5) / math.log(0.99),
    ),
    ("to and fro comes back at once: phi at .01", resilience(5, 1.0), TO_AND_FRO, math.log(0.5) / math.log(0.01)),
    ("a book that does not move tells nothing", resilience(3, 1.0), {n: [9_000] * 4 for n in TO_AND_FRO}, None),
    # --- price moves per dollar ---
    (
        "9 + 1 bps after still bars of the same trading: log 10 over the floor",
        amihud_score(1, 2),
        {"close": _prices(0.0, 0.0, 9e-4), "volume_usd": [90_000] * 4},
        LOG10 / 0.1,
    ),
    (
        "nobody trades: a tenth of (90 + 10) thousand",
        amihud_score(1, 2),
        {"close": _prices(0.0, 0.0, 0.0), "volume_usd": [90_000] * 3 + [0]},
        LOG10 / 0.1,
    ),
    (
        "a range of 9 + 1 bps after none",
        range_score(1, 2),
        {"high": [100.0, 100.0, 100 * math.exp(9e-4)], "low": [100.0] * 3, "volume_usd": [90_000] * 3},
        LOG10 / 0.1,
    ),
    (
        "a million bought lifts by 5 bps, a million sold lowers by 5: 5 / (1 + .01)",
        kyle_slope(4),
        {
            "close": _prices(5e-4, -5e-4, 5e-4, -5e-4),
            "buy_usd": [0, 1_000_000, 0, 1_000_000, 0],
            "sell_usd": [0, 0, 1_000_000, 0, 1_000_000],
        },
        5 / 1.01,
    ),
    # --- all books, and the flow that would meet them ---
    ("what the market says of thin books", thin_share(), {"market_thin_share": [0.25]}, 0.25),
    ("what the market says of one breath", depth_eigen(), {"market_depth_eigen_share": [0.75]}, 0.75),
    (
        "longs 300k over bids 200k, shorts 1 over 1",
        fuel_over_depth(100),
        book(9, 200, 300, 400) | fuel([300, 0, 0], [200, 0, 0]),
        1.5,
    ),
    (
        "no bids: 3k over the floor of 1",
        fuel_over_depth(100),
        side("bid", 0, 0, 0, 0) | side("ask", *FLAT) | fuel([3, 3, 3], NO_FUEL),
        3_000.0,
    ),
    (
        "50 of 100, then 100 of 80: the second ring burns, its far edge counts",
        cliff_bps(),
        side("bid", 0, 100, 180, 900) | side("ask", *FLAT) | fuel([50, 150, 150], NO_FUEL),
        200.0,
    ),
    (
        "cumulative fuel stays below cumulative depth, the ring does not: 40 of 30",
        cliff_bps(),
        side("bid", 0, 100, 130, 900) | side("ask", *FLAT) | fuel([0, 40, 40], NO_FUEL),
        200.0,
    ),
    ("as much as there is counts", cliff_bps(), book(0, 100, 200, 300) | fuel(NO_FUEL, [100, 100, 100]), 100.0),
    ("a dollar less does not", cliff_bps(), book(0, 100, 200, 300) | fuel(NO_FUEL, [99, 99, 99]), CLIFF_NONE_BPS),
    (
        "the nearer of the two sides: longs at 500, shorts at 200",
        cliff_bps(),
        book(0, 100, 200, 300) | fuel([0, 0, 100], [0, 100, 100]),
        200.0,
    ),
    (
        "90 of 100, and no more further out: a ring without fuel does not burn",
        cliff_bps(),
        book(0, 100, 150, 300) | fuel([90, 90, 90], NO_FUEL),
        CLIFF_NONE_BPS,
    ),
    (
        "an empty ring needs the floor of 1 to burn, not nothing",
        cliff_bps(),
        book(0, 100, 100, 300) | fuel([0, 0, 0], NO_FUEL),
        CLIFF_NONE_BPS,
    ),
    ("no recent structure", cliff_bps(), book(0, 100, 200, 300) | fuel([None] * 3, [None] * 3), None),
    (
        "one band is not known, of the side without a cliff",
        cliff_bps(),
        side("bid", 0, 100, 200, 300) | side("ask", 0, 100, None, 300) | fuel([100] * 3, NO_FUEL),
        None,
    ),
]


@pytest.mark.parametrize(("feature", "columns", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(feature: pl.Expr, columns: Columns, want: float | None) -> None:
    got = last(feature, columns)
    assert got is None if want is None else got == pytest.approx(want, rel=1e-3, abs=1e-6)


# --- senseless windows ---


@pytest.mark.parametrize("feature", [spread_score, gap_burst])
def test_windows_that_make_no_sense_are_refused(feature: Callable[[int, int], pl.Expr]) -> None:
    for wrong in ((0, 10), (5, 5), (5, 4), (5, WINDOW_MAX + 1), (-1, 10)):
        with pytest.raises(ValueError, match=r"window|baseline"):
            feature(*wrong)


@pytest.mark.parametrize(
    ("feature", "least"),
    [
        *((spread_over_vol, 2), (quote_imbalance, 1), (volume_imbalance, 1), (depth_drain, 1)),
        *((kyle_slope, 2), (lambda window: resilience(window, 1.0), 3)),
    ],
)
def test_a_window_that_is_too_short_is_refused(feature: Callable[[int], pl.Expr], least: int) -> None:
    feature(least)
    with pytest.raises(ValueError, match="window must be"):
        feature(least - 1)


@pytest.mark.parametrize("feature", [slippage_bps, slippage_short])
def test_an_order_of_nothing_is_refused(feature: Callable[[int], pl.Expr]) -> None:
    with pytest.raises(ValueError, match="usd must be at least 1"):
        feature(0)


@pytest.mark.parametrize("band_bps", [20, 50, 1_000])
def test_fuel_is_known_for_three_bands(band_bps: int) -> None:
    with pytest.raises(ValueError, match="band_bps must be"):
        fuel_over_depth(band_bps)


# --- the claims ---


def _power_book(exponent: float) -> Columns:
    """Cumulative dollars that grow as distance to the power; a million of them within 100 bps."""
    return book(*(1_000 * (band / 100) ** exponent for band in DEPTH_BANDS_BPS))


@pytest.mark.parametrize(("exponent", "want"), [(1.0, 2.0), (2.0, math.sqrt(2))])
def test_half_of_the_depth_costs_what_the_shape_of_the_book_says(exponent: float, want: float) -> None:
    """2.000 on a flat book, root 2 where dollars grow with distance; four bands tell a ramp within 10 %."""
    shape = _power_book(exponent)
    whole = last(slippage_bps(1_000_000), shape)
    halved = last(slippage_bps(1_000_000), {name: [usd[0] // 2] for name, usd in shape.items()})
    assert whole is not None
    assert halved is not None
    assert halved / whole == pytest.approx(want, rel=1e-6 if exponent == 1 else 0.1)


def test_a_larger_order_never_costs_less_and_says_what_it_could_not_fill() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        columns = side("bid", *np.cumsum(rng.lognormal(4, 1, 4))) | side("ask", *np.cumsum(rng.lognormal(4, 1, 4)))
        sizes = (1_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
        paid = [last(slippage_bps(usd), columns) or math.nan for usd in sizes]
        short = [last(slippage_short(usd), columns) for usd in sizes]
        assert all(dearer > cheaper - 1e-9 for cheaper, dearer in pairwise(paid))
        assert paid[0] > 0
        assert paid[-1] <= 500
        held = min(columns[f"depth_{name}_500bps_usd"][0] for name in ("bid", "ask"))
        assert short == pytest.approx([max(0.0, 1 - held / usd) for usd in sizes])


NIGHT_HOURS = range(6)


def _nightly(days: int, noon_share: float) -> pl.DataFrame:
    """Books that hold a quarter at night; on the last day, at noon, `noon_share` of what noon usually has."""
    assert START.hour == START.minute == 0
    minutes = days * 1_440
    rng = np.random.default_rng(7)
    hour = (np.arange(minutes) // 60) % 24
    level = np.where(np.isin(hour, NIGHT_HOURS), 0.25, 1.0) * np.where(
        (hour == 12) & (np.arange(minutes) >= minutes - 1_440), noon_share, 1.0
    )
    columns: dict[str, Any] = {
        f"depth_{name}_{band}bps_usd": (level * band * 1e4 * rng.lognormal(0, 0.15, minutes)).astype(np.int64)
        for name in ("bid", "ask")
        for band in DEPTH_BANDS_BPS
    }
    return bars_from(**columns, depth_age_s=np.zeros(minutes))


def _norm_by_hour(bars: pl.DataFrame) -> list[float]:
    """Mean `depth_norm` in each hour of the last day, from norms of the days before."""
    wanted = bars.select("venue", "symbol", hour_end("ts")).unique()
    told = _with_norms(usable(bars), norms_of(hours_of(usable(bars)), wanted))
    last_day = told.with_columns(below_norm("depth")).tail(1_440)
    assert last_day["depth_norm"].null_count() == 0
    return (
        last_day.group_by(hour_end("ts"), maintain_order=True).agg(pl.col("depth_norm").mean())["depth_norm"].to_list()
    )


def test_a_book_that_is_thin_every_night_is_not_thin_at_night_but_is_at_noon() -> None:
    """Against the hours before, `depth_drop_240` sees a fall every midnight; the norm of the hour has none."""
    calm, holed = _norm_by_hour(_nightly(5, 1.0)), _norm_by_hour(_nightly(5, 0.25))
    assert max(abs(score) for score in calm) < 1
    assert holed[12] > 6
    assert max(abs(score) for hour, score in enumerate(holed) if hour != 12) < 1
    midnight = usable(_nightly(5, 1.0)).with_columns(depth_drop(240)).filter(pl.col("ts").dt.hour() == 1).tail(59)
    drop = midnight["depth_drop_240"].mean()
    assert isinstance(drop, float)
    assert drop > 0.9


def _torn(every: int, width_bps: float) -> float | None:
    """`gap_burst_15` after a calm morning at 1 bp, holes of 10 bps in each `every`th of the last 30 minutes."""
    spread = [1.0] * 270 + [width_bps] * 30
    holes = [10.0 * width_bps if i >= 270 and i % every == 0 else width for i, width in enumerate(spread)]
    return last(gap_burst(15, 240), {"spread_bps": spread, "spread_bps_max": holes})


def test_holes_that_cluster_are_seen_and_single_ones_or_a_wider_market_are_not() -> None:
    assert _torn(2, 1.0) == pytest.approx(7 / 15)
    assert _torn(15, 1.0) == pytest.approx(1 / 15)
    assert _torn(10_000, 2.0) == 0.0


def _half_life(phi: float, seed: int) -> float | None:
    """`resilience_60` of a book whose log depth keeps `phi` of each dent."""
    rng = np.random.default_rng(seed)
    dents = np.zeros(61)
    for i in range(1, 61):
        dents[i] = phi * dents[i - 1] + rng.normal(0, 0.2)
    usd = np.exp(15 + dents).astype(np.int64)
    return last(resilience(60, 1.0), {f"depth_{name}_100bps_usd": usd.tolist() for name in ("bid", "ask")})


def test_a_book_that_refills_slowly_has_the_longer_half_life() -> None:
    slow, quick, none = ([_half_life(phi, seed) for seed in range(40)] for phi in (0.9, 0.5, 0.0))
    slow_min, quick_min, none_min = (
        float(np.median([x for x in some if x is not None])) for some in (slow, quick, none)
    )
    # an hour tells a half-life of ln .5 / ln phi with a bias to the short side: 6.6 and 1.0 min are meant
    assert 2.5 < slow_min < 6.6
    assert 0.6 < quick_min < 1.1
    assert none_min < 0.4


def test_the_touch_can_leave_while_the_depth_behind_it_stays() -> None:
    """Makers step back: depth within 100 bps tells nothing, the touch and the curve do."""
    before, after = book(200, 1_000, 2_000, 5_000), book(20, 1_000, 2_000, 5_000)
    assert last(depth_slope(), before) == last(depth_slope(), after)
    share, left = last(touch_share(), before), last(touch_share(), after)
    bend, bent = last(depth_curve(), before), last(depth_curve(), after)
    assert share is not None
    assert left is not None
    assert bend is not None
    assert bent is not None
    assert left == pytest.approx(share / 10)
    assert bent > bend + 1
