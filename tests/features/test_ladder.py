"""The ladder of open interest by hand arithmetic, what it must not depend on, and how far it is from a venue whose
leverages are known."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.feature import Step
from features.ladder import BOLD, CAREFUL, DOUBT_FLOOR, LADDER, LEVERAGES, MAINTENANCE, READS, WINDOW_MIN, with_ladder

LAST = 300  # the bar asked for: its steps of five minutes end at 300, 295, .. 65, its window is (60, 300]
MINUTE = Step(60)
Told = tuple[float | None, float | None, float | None]


def bars(columns: dict[str, Any], symbol: str = "A") -> pl.DataFrame:
    """301 bars of a market in which nothing happens, but for `columns`."""
    still = {"oi_base": 100.0} | dict.fromkeys(("close", "high", "low"), 50.0)
    told = {name: columns.get(name, [value] * (LAST + 1)) for name, value in still.items()}
    return pl.DataFrame({"symbol": [symbol] * (LAST + 1)} | told, strict=False)


def ladder(rows: pl.DataFrame, step: Step = MINUTE) -> Told:
    """Share, side and doubt at the last bar."""
    share, side, doubt = with_ladder(rows, step).select(LADDER.names()).row(-1)
    return share, side, doubt


def path(*moves: tuple[int, float], start: float = 100.0) -> list[float]:
    """`start`, moved by a log change from each bar named on."""
    changes = np.zeros(LAST + 1)
    for bar, move in moves:
        changes[bar] += move
    return [float(x) for x in start * np.exp(np.cumsum(changes))]


def price(*moves: tuple[int, float]) -> dict[str, list[float]]:
    closes = path(*moves, start=50.0)
    return dict.fromkeys(("close", "high", "low"), closes)


def spiked(name: str, bar: int, move: float) -> dict[str, list[float]]:
    """A price that stands still, with one high or low."""
    column = [50.0] * (LAST + 1)
    column[bar] *= math.exp(move)
    return {name: column}


def want(built: float, long: tuple[float, float], short: tuple[float, float]) -> tuple[float, float, float]:
    """Share, side and doubt of `built` of open interest, half long and half short, of which these shares of the
    careful and of the bold mix are alive and near."""
    careful, bold = (built / 2 * (one + two) for one, two in zip(long, short, strict=True))
    longs, shorts = built / 2 * sum(long) / 2, built / 2 * sum(short) / 2
    return (
        (careful + bold) / 2,
        (longs - shorts) / (longs + shorts + 0.001),
        math.log((bold + 0.001) / (careful + 0.001)),
    )


# Trips lie log distances of .195, .095, .035, .015, .005 away, for leverages of 5, 10, 25, 50, 100. Of the careful mix
# hold .40, .30, .20, .07, .03 of what is opened, of the bold one .10, .20, .30, .25, .15.
ALL_NEAR = (0.30, 0.70)  # 25x, 50x and 100x
NONE = (0.0, 0.0)
BUILT = {"oi_base": path((200, math.log(1.25)))}  # 25 of 125 were built
UP, DOWN = {"oi_base": path((200, 0.25))}, {"oi_base": path((200, -0.25))}

HAND: list[tuple[str, dict[str, Any], tuple[float, float, float]]] = [
    ("nothing was built", {}, (0.0, 0.0, 0.0)),
    ("25 of 125: three leverages trip within 5 % on either side", BUILT, want(0.2, ALL_NEAR, ALL_NEAR)),
    ("what is closed builds nothing", DOWN, (0.0, 0.0, 0.0)),
    (
        "1 % up: 100x shorts were touched; 25x longs, 4.5 % away now, still count",
        BUILT | price((250, 0.01)),
        want(0.2, ALL_NEAR, (0.27, 0.55)),
    ),
    (".45 % up do not touch the shorts of 100x", BUILT | price((250, 0.0045)), want(0.2, ALL_NEAR, ALL_NEAR)),
    (".55 % do: 1 / 100 - .005", BUILT | price((250, 0.0055)), want(0.2, ALL_NEAR, (0.27, 0.55))),
    (
        "1 % down is the same on the other side",
        BUILT | price((250, -0.01)),
        want(0.2, (0.27, 0.55), ALL_NEAR),
    ),
    (
        "2 % up: 100x and 50x shorts were touched, 25x longs are 5.5 % away",
        BUILT | price((250, 0.02)),
        want(0.2, (0.10, 0.40), (0.20, 0.30)),
    ),
    (
        "6 % down: 10x longs alone are left, 3.5 % away: the careful mix has more of them than the bold one",
        BUILT | price((250, -0.06)),
        want(0.2, (0.30, 0.20), NONE),
    ),
    (
        "a move before the build touches nobody",
        BUILT | price((100, -0.06)),
        want(0.2, ALL_NEAR, ALL_NEAR),
    ),
    ("a high of 1 % that came back", BUILT | spiked("high", 250, 0.01), want(0.2, ALL_NEAR, (0.27, 0.55))),
    ("a low of 2 % that came back", BUILT | spiked("low", 250, -0.02), want(0.2, (0.20, 0.30), ALL_NEAR)),
    ("the last bar touches too", BUILT | spiked("low", LAST, -0.02), want(0.2, (0.20, 0.30), ALL_NEAR)),
    (
        "a low within the step that ends at the entry is before it",
        BUILT | spiked("low", 200, -0.02),
        want(0.2, ALL_NEAR, ALL_NEAR),
    ),
    ("one bar later it is after it", BUILT | spiked("low", 201, -0.02), want(0.2, (0.20, 0.30), ALL_NEAR)),
    (
        "a fifth closed later takes a fifth of what was built: 25 * .8 of 100",
        {"oi_base": path((200, math.log(1.25)), (250, math.log(0.8)))},
        want(0.2, ALL_NEAR, ALL_NEAR),
    ),
    (
        "a fifth closed before takes nothing of it: 20 of 100",
        {"oi_base": path((150, math.log(0.8)), (200, math.log(1.25)))},
        want(0.2, ALL_NEAR, ALL_NEAR),
    ),
    (
        "25, then half of it all closed, then 62.5 again: (12.5 + 62.5) of 125",
        {"oi_base": path((100, math.log(1.25)), (150, math.log(0.5)), (200, math.log(2)))},
        want(0.6, ALL_NEAR, ALL_NEAR),
    ),
    (
        "opened and closed within a step of five minutes is not seen",
        {"oi_base": path((201, 0.25), (204, -0.25))},
        (0.0, 0.0, 0.0),
    ),
    ("the first bar of the window is seen", {"oi_base": path((61, math.log(1.25)))}, want(0.2, ALL_NEAR, ALL_NEAR)),
    ("the bar before it is not", {"oi_base": path((60, math.log(1.25)))}, (0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("columns", "expected"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(columns: dict[str, Any], expected: tuple[float, float, float]) -> None:
    assert ladder(bars(columns)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_assumed_mixes_are_shares_and_the_bold_one_is_bolder() -> None:
    assert sum(CAREFUL) == pytest.approx(1)
    assert sum(BOLD) == pytest.approx(1)
    mean = [math.fsum(share * x for share, x in zip(mix, LEVERAGES, strict=True)) for mix in (CAREFUL, BOLD)]
    assert mean == pytest.approx([16.5, 37.5])
    assert all(1 / x > MAINTENANCE for x in LEVERAGES)  # else a position would be opened past its trip


# --- what is not known ---


def _without(name: str, bar: int) -> dict[str, Any]:
    column = list(bars(BUILT)[name].to_list())
    column[bar] = None
    return BUILT | {name: column}


@pytest.mark.parametrize(
    ("name", "bar"), [("oi_base", 65), ("oi_base", 60), ("close", 200), ("low", 62), ("high", 299), ("oi_base", LAST)]
)
def test_a_hole_in_the_window_says_nothing(name: str, bar: int) -> None:
    assert ladder(bars(_without(name, bar))) == (None, None, None)


@pytest.mark.parametrize(("name", "bar"), [("low", 60), ("high", 60), ("close", 60), ("oi_base", 59)])
def test_a_hole_before_the_window_does_not_matter(name: str, bar: int) -> None:
    assert ladder(bars(_without(name, bar))) == ladder(bars(BUILT))


def test_no_window_reaches_into_another_symbol() -> None:
    both = pl.concat([bars(BUILT), bars({}, "B")])
    told = with_ladder(both, Step(60))["ladder_share"]
    for start in (0, LAST + 1):
        assert told[start : start + WINDOW_MIN].null_count() == WINDOW_MIN
        assert told[start + WINDOW_MIN : start + LAST + 1].null_count() == 0
    assert told[LAST] > 0
    assert told[-1] == 0


# --- what it does not depend on ---


def _drawn(seed: int, symbol: str = "A", count: int = LAST + 1) -> pl.DataFrame:
    """A price that moves by percents in hours, and open interest that comes and goes."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1.5e-3, count)))
    return pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "oi_base": 1e6 * np.exp(np.cumsum(rng.normal(0, 5e-3, count))),
            "close": close,
            "high": close * np.exp(np.abs(rng.normal(0, 1e-3, count))),
            "low": close * np.exp(-np.abs(rng.normal(0, 1e-3, count))),
        }
    )


def _columns(rows: pl.DataFrame, step: Step = MINUTE) -> pl.DataFrame:
    return with_ladder(rows, step).select(LADDER.names())


def test_units_change_no_bit() -> None:
    rows = _drawn(1, count=600)
    other = rows.with_columns(pl.col("oi_base") * 4, pl.col("close", "high", "low") * 1_024)
    told = _columns(rows)
    assert told["ladder_share"].n_unique() > 100
    assert told.equals(_columns(other))


def test_a_run_over_the_newest_bars_gives_the_same_bits() -> None:
    rows = _drawn(2, count=600)
    assert _columns(rows)[-1].equals(_columns(rows.tail(WINDOW_MIN + 1))[-1])
    assert _columns(rows.tail(WINDOW_MIN))[-1].null_count().sum_horizontal().item() == len(LADDER)


def test_only_the_bars_that_are_wanted_are_told() -> None:
    rows = _drawn(3, count=600)
    wanted = pl.Series([bar % 7 == 0 for bar in range(600)])
    told, every = with_ladder(rows, MINUTE, wanted).select(LADDER.names()), _columns(rows)
    assert told.filter(wanted).equals(every.filter(wanted))
    assert told.filter(~wanted).null_count().row(0) == (told.filter(~wanted).height,) * len(LADDER)


def test_bars_of_five_minutes_tell_the_same_ladder() -> None:
    """Open interest and entries are read every five minutes, highs and lows over all of them."""
    rows = _drawn(3, count=601)
    ends = pl.int_range(pl.len()).add(4) // 5
    five = rows.group_by(ends.alias("end"), maintain_order=True).agg(
        pl.col("symbol", "oi_base", "close").last(), pl.col("high").max(), pl.col("low").min()
    )
    every_fifth = _columns(rows).gather_every(5)
    assert every_fifth["ladder_share"].null_count() == WINDOW_MIN // 5
    assert _columns(five.drop("end"), Step(300)).equals(every_fifth)


def test_the_mirrored_market_has_the_other_side_and_the_same_fuel() -> None:
    rows = _drawn(4, count=600)
    upside = rows.with_columns(close=1e4 / pl.col("close"), high=1e4 / pl.col("low"), low=1e4 / pl.col("high"))
    told, mirrored = _columns(rows).drop_nulls(), _columns(upside).drop_nulls()
    assert np.abs(told["ladder_side"].to_numpy()).max() > 0.3
    for name, sign in (("ladder_share", 1), ("ladder_side", -1), ("ladder_doubt", 1)):
        assert mirrored[name].to_numpy() == pytest.approx(sign * told[name].to_numpy(), abs=1e-9)


# --- the claims ---


def test_the_same_build_is_fuel_when_it_is_new_and_untouched_and_none_when_the_price_went_through_it() -> None:
    fresh = ladder(bars(BUILT))[0]
    swept = ladder(bars(BUILT | spiked("high", 230, 0.06) | spiked("low", 240, -0.06)))[0]
    away = ladder(bars(BUILT | price((250, 0.30))))[0]
    assert fresh == pytest.approx(0.1)
    assert swept == 0.0
    assert away == 0.0


def _venue(mix: Sequence[float], seed: int, closed_max: float = 0.0) -> tuple[pl.DataFrame, float]:
    """Bars of a venue on which everybody opens at leverages of `mix` and is liquidated when touched, and the share of
    its open interest that a move of 5 % either way would force at the end.

    .3 % of open interest are opened in a bar, and up to `closed_max` of all closed. At the start accounts without
    leverage hold all.
    """
    rng = np.random.default_rng(seed)
    count = WINDOW_MIN + 1
    close = 100 * np.exp(np.cumsum(rng.normal(0, 7e-4, count)))
    high, low = close * (1 + 3e-4), close * (1 - 3e-4)
    away = np.exp(-(1 / np.array(LEVERAGES) - MAINTENANCE))
    amount, trips, long = np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
    base, oi = 1e6, []
    for bar in range(count):
        touched = np.where(long, trips >= low[bar], trips <= high[bar])
        amount, trips, long = (x[~touched] for x in (amount, trips, long))
        left = 1 - rng.uniform(0, closed_max)
        base, amount = base * left, amount * left
        opened = rng.uniform(0, 6_000) / 2 * np.array(mix)
        amount = np.concatenate([amount, opened, opened])
        trips = np.concatenate([trips, close[bar] * away, close[bar] / away])
        long = np.concatenate([long, np.ones(5, dtype=bool), np.zeros(5, dtype=bool)])
        oi.append(base + amount.sum())
    near = np.abs(np.log(trips / close[-1])) <= 0.05
    rows = pl.DataFrame({"symbol": ["A"] * count, "oi_base": oi, "close": close, "high": high, "low": low})
    return rows, float(amount[near].sum() / oi[-1])


def _estimates(rows: pl.DataFrame) -> tuple[float, float]:
    """Fuel over open interest of the careful and of the bold mix, from their mean and the log of their ratio."""
    share, _, doubt = ladder(rows)
    assert share is not None
    assert doubt is not None
    careful = (2 * share + 2 * DOUBT_FLOOR) / (1 + math.exp(doubt)) - DOUBT_FLOOR
    return careful, 2 * share - careful


BETWEEN = [(one + two) / 2 for one, two in zip(CAREFUL, BOLD, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_of_a_venue_between_the_mixes_lies_between_what_they_say(seed: int) -> None:
    rows, truth = _venue(BETWEEN, seed)
    careful, bold = _estimates(rows)
    assert truth > 0.1
    assert careful < 0.7 * truth
    assert bold > 1.2 * truth
    assert (careful + bold) / 2 == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_what_closes_while_others_open_hides_part_of_what_is_built(seed: int) -> None:
    """The card says so: with a third as much closed as opened, six tenths of the fuel are seen."""
    rows, truth = _venue(BETWEEN, seed, closed_max=0.002)
    careful, bold = _estimates(rows)
    assert (careful + bold) / 2 == pytest.approx(0.6 * truth, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_venue_bolder_than_the_bold_mix_has_more_fuel_than_the_ladder_says(seed: int) -> None:
    """The shares are assumptions: the doubt tells how far two guesses differ, not how far both are wrong."""
    rows, truth = _venue((0.0, 0.0, 1.0, 0.0, 0.0), seed)
    assert truth > _estimates(rows)[1]
    unlevered, none = _venue((1.0, 0.0, 0.0, 0.0, 0.0), seed)
    assert none == 0.0
    assert _estimates(unlevered)[0] > 0.005


def test_the_ladder_reads_what_it_says() -> None:
    rows = _drawn(5).with_columns(volume_usd=pl.lit(1))
    assert set(READS) < set(rows.columns)
    assert _columns(rows).equals(_columns(rows.select("symbol", *READS)))
