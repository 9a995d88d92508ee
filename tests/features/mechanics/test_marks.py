"""Mark rules against hand arithmetic and slow loops, and by how much two rules liquidate one position apart."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.mechanics.marks import (
    NEVER,
    compare_rules,
    ema,
    first_touch,
    mark_price,
    median_of_three,
    time_to_absorb_s,
)
from features.mechanics.profile import MarkRule
from tests.features.worlds import START

LAST, INDEX = MarkRule("last"), MarkRule("index")
EMA_150 = MarkRule("index_ema", ema_s=150.0)


def path(seconds: list[float], **columns: Any) -> pl.DataFrame:
    stamps = pl.Series([START + timedelta(seconds=s) for s in seconds], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"ts": stamps} | columns)


@pytest.mark.parametrize(("share", "want_s"), [(0.5, 104), (0.9, 345), (0.95, 449), (0.0, 0)])
def test_how_long_a_150_s_average_takes_to_absorb_a_step(share: float, want_s: int) -> None:
    """-150 * ln(1 - share): 150 * .693147 = 103.97; 150 * 2.302585 = 345.39; 150 * 2.995732 = 449.36."""
    assert round(time_to_absorb_s(share, 150.0)) == want_s


def test_the_mark_itself_follows_those_times() -> None:
    """A basis of 1 appears between two seconds: the EMA holds 1 - exp(-t / 150) of it t seconds after the last 0."""
    frame = path(list(range(600)), index=[100.0] * 600, mid=[100.0] + [101.0] * 599)
    mark = frame.select(mark_price(EMA_150)).to_series().to_numpy() - 100.0
    assert mark == pytest.approx(1 - np.exp(-np.arange(600) / 150), rel=1e-9)
    assert [int(np.argmax(mark >= share)) for share in (0.5, 0.9, 0.95)] == [104, 346, 450]  # first whole second after


def test_an_average_over_irregular_stamps_equals_the_recursion_and_skips_nulls() -> None:
    rng = np.random.default_rng(2)
    seconds = np.cumsum(rng.exponential(20.0, 300)).round(6).tolist()
    values = [None if rng.random() < 0.2 else float(v) for v in rng.normal(size=300)]
    got = path(seconds, x=values).select(ema(pl.col("x"), 60.0)).to_series().to_list()
    out, when = None, 0.0
    for second, value, found in zip(seconds, values, got, strict=True):
        if value is None:
            assert found is None
            continue
        out = value if out is None else out + (1 - np.exp(-(second - when) / 60.0)) * (value - out)
        when = second
        assert found == pytest.approx(out, rel=1e-6, abs=1e-9)


def test_the_average_does_not_depend_on_how_often_a_level_is_reported() -> None:
    often, rarely = path(list(range(101)), x=[0.0] + [1.0] * 100), path([0.0, 100.0], x=[0.0, 1.0])
    last = [frame.select(ema(pl.col("x"), 60.0)).to_series()[-1] for frame in (often, rarely)]
    assert last[0] == pytest.approx(last[1], rel=1e-9)


def test_the_median_of_three_prices() -> None:
    """Row 3, funding .001 with half the interval to go: 100 * 1.0005 = 100.05.

    Basis over (t - 20 s, t]: rows 2 and 3, (.2 + .6) / 2 = .4: 100.4. Last 103 (a spike). The median is 100.4.
    Row 2: 100 * (1 + .001 * .6) = 100.06; basis (.1 + .2) / 2 = .15: 100.15; last 99: the median is 100.06.
    """
    frame = path(
        [0, 10, 20],
        index=[100.0] * 3,
        mid=[100.1, 100.2, 100.6],
        last=[100.1, 99.0, 103.0],
        funding_rate=[0.001] * 3,
        funding_left=[0.7, 0.6, 0.5],
    )
    mark = frame.select(mark_price(MarkRule("median", basis_window_s=20.0))).to_series()
    assert mark.to_list() == pytest.approx([100.1, 100.06, 100.4], rel=1e-12)


def test_a_median_without_one_of_its_three_is_unknown() -> None:
    columns = [pl.Series([1.0, None, 1.0]), pl.Series([2.0, 2.0, float("nan")]), pl.Series([3.0, 3.0, 3.0])]
    assert pl.select(median_of_three(*(pl.lit(c) for c in columns))).to_series().to_list() == [2.0, None, None]


def test_the_median_is_the_middle_in_every_order() -> None:
    orders = [(a, b, c) for a in (1.0, 2.0, 3.0) for b in (1.0, 2.0, 3.0) for c in (1.0, 2.0, 3.0)]
    frame = pl.DataFrame(orders, schema=["a", "b", "c"], orient="row")
    got = frame.select(median_of_three(pl.col("a"), pl.col("b"), pl.col("c"))).to_series().to_list()
    assert got == [sorted(order)[1] for order in orders]


@pytest.mark.parametrize("rule", [LAST, INDEX, EMA_150, MarkRule("median", basis_window_s=30.0)])
def test_cutting_the_future_off_changes_no_mark(rule: MarkRule) -> None:
    rng = np.random.default_rng(5)
    walk = 100 + np.cumsum(rng.normal(size=200))
    columns = {"index": walk, "mid": walk + rng.normal(size=200), "last": walk + rng.normal(size=200)}
    frame = path(list(range(0, 2_000, 10)), **columns, funding_rate=[0.0001] * 200, funding_left=[0.5] * 200)
    whole, part = (f.select(mark_price(rule)).to_series() for f in (frame, frame.head(120)))
    assert whole.null_count() == 0
    assert whole.head(120).equals(part)


# By how much two venues differ.


def wick() -> pl.DataFrame:
    """The perpetual trades 6 below an index of 100 for a minute, then comes back."""
    perp = [100.0] * 11 + [94.0] * 6 + [100.0] * 20
    return path(list(range(0, 370, 10)), index=[100.0] * 37, mid=perp, last=perp)


def test_a_wick_liquidates_at_one_venue_and_never_at_the_other() -> None:
    """Long with its line at 96. Last: at 110 s, sold at 94. Index + EMA(150 s): 100 - 6 * (1 - e^-.4) = 98.02."""
    gap = compare_rules(wick(), LAST, EMA_150, qty=1.0, liquidation_price=96.0)
    assert gap.first == (110.0, 94.0, 94.0)
    assert gap.second == NEVER
    assert (gap.time_s, gap.mark, gap.last) == (None, None, None)


def test_an_average_liquidates_later_and_on_this_path_cheaper() -> None:
    """The perpetual falls 6 below the index for good, and a dollar more every 100 s from 100 s on.

    Line at 97. Last: at 10 s, 94. EMA(150 s) of a basis of -6 would pass -3 after 104 s; it grows a little sooner, so
    the recursion in the test says when. The position is sold a dollar lower there.
    """
    seconds = list(range(0, 400, 10))
    perp = [100.0] + [94.0 - max((s - 100) // 100 + 1, 0) for s in seconds[1:]]
    frame = path(seconds, index=[100.0] * 40, mid=perp, last=perp)
    gap = compare_rules(frame, LAST, EMA_150, qty=2.0, liquidation_price=97.0)
    average, when = 0.0, None
    for k in range(1, 40):
        average += (1 - np.exp(-10 / 150)) * (perp[k] - 100 - average)
        if when is None and 100 + average < 97:
            when = k
    assert when is not None
    assert gap.time_s == seconds[when] - 10
    assert gap.last == perp[when] - 94.0 == -1.0


def test_equal_to_the_line_is_safe_and_shorts_look_up() -> None:
    frame = path([0, 1, 2], last=[100.0, 96.0, 95.9], index=[100.0] * 3)
    assert first_touch(frame, LAST, 1.0, 96.0) == (2.0, 95.9, 95.9)
    assert first_touch(frame, LAST, -1.0, 100.0) == NEVER
    assert first_touch(frame, LAST, -1.0, 99.0) == (0.0, 100.0, 100.0)


def test_an_unknown_mark_liquidates_nobody() -> None:
    frame = path([0, 1, 2], last=[None, float("nan"), 90.0], index=[100.0] * 3)
    for qty, line in ((1.0, 95.0), (-1.0, 85.0)):
        assert first_touch(frame, LAST, qty, line).time_s == 2.0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (MarkRule("oracle"), "mark rule must be one of"),
        (MarkRule("index_ema"), "tau_s must be positive"),
        (MarkRule("median"), "basis_window_s must be positive"),
    ],
)
def test_rules_that_say_too_little_are_refused(rule: MarkRule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mark_price(rule)


def test_a_position_of_nothing_and_a_share_of_all_are_refused() -> None:
    with pytest.raises(ValueError, match="qty must be"):
        first_touch(wick(), LAST, 0.0, 96.0)
    with pytest.raises(ValueError, match="share must be"):
        time_to_absorb_s(1.0, 150.0)
