"""The cancels family by hand arithmetic, and the claims behind its features: a planted withdrawal is seen; busy
quoting, uneven order flow and rates that change by themselves are not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.special import gammainc

from features import market
from features.cancels import (
    cancel_branching,
    cancel_burst,
    cancel_follow,
    cancel_near_share,
    cancel_rate_score,
    cancel_side,
    cancel_sync,
    cancel_tail,
    cancel_to_add,
    cancel_to_trade,
    net_fleeting,
    quote_stuffing,
    replenish,
)
from features.exact import WINDOW_MAX
from features.feature import Step
from features.schema import DEPTH_BANDS_BPS
from models.branching import hawkes_times, switching_poisson_times
from tests.features.worlds import bars_from

Column = list[Any]
Columns = dict[str, Column]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def told(feature: pl.Expr, columns: Columns) -> pl.Series:
    frame = pl.DataFrame(columns, strict=False)
    return frame.cast({pl.Null: pl.Int64}).select(feature).to_series()


def last(feature: pl.Expr, columns: Columns) -> float | None:
    """The value at the last of the bars that `columns` tell."""
    value = told(feature, columns)[-1]
    return None if value is None else float(value)


def cancelled(*usd: int | None, ask: Column | None = None) -> Columns:
    """Dollars of bids cancelled bar by bar, of asks `ask` or none."""
    return {"cancel_bid_usd": list(usd), "cancel_ask_usd": [0] * len(usd) if ask is None else ask}


def added(*usd: int | None, ask: Column | None = None) -> Columns:
    return {"add_bid_usd": list(usd), "add_ask_usd": [0] * len(usd) if ask is None else ask}


def stood(*usd: int | None, ask: Column | None = None) -> Columns:
    """Depth within 100 bps."""
    return {"depth_bid_100bps_usd": list(usd), "depth_ask_100bps_usd": [0] * len(usd) if ask is None else ask}


def within(bid_k: Column, ask_k: Column) -> Columns:
    """Two bars: thousands of dollars cancelled within 20, 100, 200 and 500 bps, all in the second."""
    return {
        f"cancel_{side}_{band}bps_usd": [0, None if k is None else 1_000 * k]
        for side, column in (("bid", bid_k), ("ask", ask_k))
        for band, k in zip(DEPTH_BANDS_BPS, column, strict=True)
    }


def to_and_fro(low: int, high: int, bars: int) -> Columns:
    """Counts that change between two numbers: all changes are `high - low`, their neighbours opposed."""
    return {"cancels": [(low, high)[i % 2] for i in range(bars)]}


IGNORED = 7_777_777  # outside of the window: a value that reads it is far off
LOG2, LOG5, LOG10, LOG100 = (math.log(x) for x in (2, 5, 10, 100))
NINETY = cancelled(IGNORED, 10_000, 20_000, ask=[0, 40_000, 20_000])  # 90k in two bars, with F 100k
SURPRISE_4_OF_2 = -math.log10(1 - math.exp(-2) * (1 + 2 + 2 + 8 / 6))  # Poisson: 4 or more where 2 are usual
# p = 4 / 8, r = 4: P(N = k) = C(k + 3, 3) / 2 ** (k + 4), k = 0..4
SURPRISE_5_OF_4 = -math.log10(1 - (1 / 16 + 4 / 32 + 10 / 64 + 20 / 128 + 35 / 256))
# p = 2.5 / 4.5 = 5 / 9, r = 2.5 p / (1 - p) = 25 / 8, P(0) = p ** r, P(1) = P(0) r q, P(2) = P(1) (r + 1) q / 2
SURPRISE_3_OF_2_5 = -math.log10(1 - (5 / 9) ** 3.125 * (1 + 3.125 * 4 / 9 * (1 + 4.125 * 4 / 9 / 2)))
TAKEN = {  # 90k in the two bars after the first, with F 100k
    "book_trade_bid_usd": [IGNORED, 10_000, 0, IGNORED, IGNORED],
    "book_trade_ask_usd": [0, 0, 20_000, 0, 0],
    "cancel_bid_100bps_usd": [0, 10_000, 0, 0, 0],
    "cancel_ask_100bps_usd": [0, 0, 50_000, 0, 0],
}
BACK = {  # 40k in the last two bars, with F 50k
    "add_bid_100bps_usd": [IGNORED, IGNORED, IGNORED, 15_000, 0],
    "add_ask_100bps_usd": [0, 0, 0, 0, 25_000],
}

HAND: list[tuple[str, pl.Expr, Columns, float | None]] = [
    # --- bursts ---
    (
        "logs 2, 4, then 6: (6 - 3) / root 2; both sides count",
        cancel_burst(1, 2),
        cancelled(99, 9_000, 0, ask=[0, 999, 999_999]),
        3 / math.sqrt(2),
    ),
    ("after silence the floor of .1 takes its place", cancel_burst(1, 2), cancelled(0, 0, 999), LOG10 * 30),
    (
        "the baseline ends where the window begins: its first bar is in no baseline",
        cancel_burst(2, 3),
        cancelled(0, 99, 0, 99, 0, 5_000, 4_999),
        LOG100 / 0.1,
    ),
    ("a burst wants all of its baseline", cancel_burst(1, 5), cancelled(None, 9, 99, 9, 99, 9_999), None),
    (
        "logs 1, 2, 3, 4, then 6: median 2.5, upper quartile 3.25",
        cancel_rate_score(1, 4),
        cancelled(9, 99, 999, 9_999, 999_999),
        3.5 / (0.75 / 0.6745),
    ),
    (
        "a burst in the past moves neither the median nor the quartile",
        cancel_rate_score(1, 5),
        cancelled(99, 99, 99, 99_999_999, 99, 9_999),
        LOG100 / 0.1,
    ),
    (
        "quiet bars in the past do not widen its upper half",
        cancel_rate_score(1, 5),
        cancelled(0, 0, 99, 99, 99, 9_999),
        LOG100 / 0.1,
    ),
    (
        "here too the baseline ends where the window begins",
        cancel_rate_score(2, 3),
        cancelled(0, 99, 0, 99, 0, 5_000, 4_999),
        LOG100 / 0.1,
    ),
    ("four of five bars are enough", cancel_rate_score(1, 5), cancelled(None, 99, 99, 99, 99, 9_999), LOG100 / 0.1),
    ("three of five are not", cancel_rate_score(1, 5), cancelled(None, 99, None, 99, 99, 9_999), None),
    # --- the tail ---
    ("two a bar, never more or less: Poisson", cancel_tail(1, 4), {"cancels": [2, 2, 2, 2, 4]}, SURPRISE_4_OF_2),
    ("mean 4, variance 8: negative binomial", cancel_tail(1, 2), {"cancels": [2, 6, 5]}, SURPRISE_5_OF_4),
    ("mean 2.5, variance 4.5: a little wider is wider", cancel_tail(1, 2), {"cancels": [1, 4, 3]}, SURPRISE_3_OF_2_5),
    ("as many as usual are no surprise", cancel_tail(1, 2), {"cancels": [2, 6, 4]}, 0.0),
    ("fewer are none either", cancel_tail(1, 2), {"cancels": [2, 6, 0]}, 0.0),
    ("beyond the cap a fitted tail means nothing", cancel_tail(1, 4), {"cancels": [2, 2, 2, 2, 10**5]}, 12.0),
    ("the first bar of the burst is not usual", cancel_tail(2, 3), {"cancels": [0, 2, 0, 2, 0, 4, 0]}, SURPRISE_4_OF_2),
    ("four of five bars are enough for a tail", cancel_tail(1, 5), {"cancels": [2, None, 2, 2, 2, 4]}, SURPRISE_4_OF_2),
    ("three of five tell no tail", cancel_tail(1, 5), {"cancels": [2, None, None, 2, 2, 4]}, None),
    ("nothing was cancelled before", cancel_tail(1, 4), {"cancels": [0, 0, 0, 0, 4]}, None),
    # --- against trades, adds, depth; which side; how near ---
    (
        "9 pulled and none traded: 10 / 1",
        cancel_to_trade(2),
        {"cancels": [IGNORED, 4, 5], "trades": [IGNORED, 0, 0]},
        LOG10,
    ),
    ("a bar whose trades are not known", cancel_to_trade(2), {"cancels": [0, 0, 9], "trades": [0, None, 0]}, None),
    (
        "90k pulled and 10k added: 100 / 20",
        cancel_to_add(2),
        NINETY | added(IGNORED, 0, 4_000, ask=[0, 6_000, 0]),
        LOG5,
    ),
    ("silence is balanced", cancel_to_add(2), cancelled(0, 0) | added(0, 0), 0.0),
    ("one side of the adds is not known", cancel_to_add(2), NINETY | added(0, 0, 0, ask=[0, None, 0]), None),
    (
        "80k more pulled than added, of 40k that stood two bars ago",
        net_fleeting(2),
        NINETY | added(0, 4_000, 0, ask=[0, 6_000, 0]) | stood(30_000, IGNORED, None, ask=[10_000, 0, 0]),
        2.0,
    ),
    (
        "what is added beyond what is pulled fills the book, which does not empty",
        net_fleeting(1),
        cancelled(0, 10_000) | added(0, 30_000) | stood(40_000, 0),
        0.0,
    ),
    ("no book: over the floor of 1", net_fleeting(1), cancelled(0, 8) | added(0, 0) | stood(0, 0), 8.0),
    ("more than 100 books", net_fleeting(1), cancelled(0, 800_000) | added(0, 0) | stood(0, 0), 100.0),
    ("the book was stale when it began", net_fleeting(1), cancelled(0, 8_000) | added(0, 0) | stood(None, 9), None),
    ("30k of bids, 60k of asks: -30 / (90 + 10)", cancel_side(2), NINETY, -0.3),
    ("nobody leaves", cancel_side(1), cancelled(0), 0.0),
    (
        "thousands in rings: 10 * 1 + 20 * .5 + 20 * .25 + 20 * .1 of 90 + 10",
        cancel_near_share(1),
        cancelled(IGNORED, 90_000) | within([10, 10, 20, 40], [0, 20, 30, 30]),
        0.27,
    ),
    (
        "all within 20 bps",
        cancel_near_share(1),
        cancelled(0, 40_000, ask=[0, 50_000]) | within([40] * 4, [50] * 4),
        0.9,
    ),
    ("all beyond 500 bps", cancel_near_share(1), cancelled(0, 90_000) | within([0] * 4, [0] * 4), 0.0),
    ("a cancel met no quote", cancel_near_share(1), cancelled(0, 90_000) | within([None] * 4, [0] * 4), None),
    # --- branching: F = (high - low) ** 2 / mean ---
    ("64 / 4 = 16 times Poisson: 1 - 1 / 4", cancel_branching(10), to_and_fro(0, 8, 12), 0.75),
    ("64 / 16 = 4, z = 3.6", cancel_branching(10), to_and_fro(12, 20, 12), 0.5),
    ("16 / 8 = 2, z = 1.2: an hour of luck", cancel_branching(10), to_and_fro(6, 10, 12), 0.0),
    ("16 / 8 = 2 for six times as long, z = 2.9", cancel_branching(60), to_and_fro(6, 10, 62), 1 - 1 / math.sqrt(2)),
    ("a trend", cancel_branching(10), {"cancels": list(range(0, 120, 10))}, 0.0),
    ("one jump of the rate", cancel_branching(10), {"cancels": [5] * 6 + [500] * 6}, 0.0),
    ("more even than Poisson", cancel_branching(10), {"cancels": [100] * 12}, 0.0),
    ("nothing cancelled", cancel_branching(10), {"cancels": [0] * 12}, None),
    ("a bar is missing", cancel_branching(10), {"cancels": [0, 8] * 3 + [None] + [8, 0] * 2 + [8]}, None),
    ("a window of ten needs two bars before it", cancel_branching(10), to_and_fro(0, 8, 11), None),
    # --- the market ---
    ("what the market says of bursts", cancel_sync(), {"market_cancel_burst_share": [0.25]}, 0.25),
    (
        "3 / root 2 deviations after half of the market",
        cancel_follow(1, 2),
        cancelled(99, 9_999, 999_999) | {"market_cancel_burst_share_before": [1.0, 1.0, 0.5]},
        1.5 / math.sqrt(2),
    ),
    (
        "69 deviations count as five",
        cancel_follow(1, 2),
        cancelled(0, 0, 999) | {"market_cancel_burst_share_before": [0.4] * 3},
        0.4 * 5,
    ),
    (
        "calm here, whatever others did",
        cancel_follow(1, 2),
        cancelled(999, 999, 0) | {"market_cancel_burst_share_before": [1.0] * 3},
        0.0,
    ),
    (
        "it is not known what others did",
        cancel_follow(1, 2),
        cancelled(0, 0, 999) | {"market_cancel_burst_share_before": [0.4, 0.4, None]},
        None,
    ),
    # --- refilling, messages ---
    ("40k came back of 90k: 50 / 100", replenish(2), TAKEN | BACK, -LOG2),
    ("nothing was taken, nothing came", replenish(1), {name: [0, 0] for name in TAKEN | BACK}, 0.0),
    ("what was taken is not known", replenish(2), TAKEN | BACK | {"book_trade_ask_usd": [0, None, 0, 0, 0]}, None),
    (
        "99 + 200 + 1 messages for 2 + 1 trades",
        quote_stuffing(2),
        {"adds": [IGNORED, 50, 49], "cancels": [0, 100, 100], "trades": [IGNORED, 1, 1]},
        LOG100,
    ),
    ("silence is one for one", quote_stuffing(1), {"adds": [0], "cancels": [0], "trades": [0]}, 0.0),
    ("trades are not known", quote_stuffing(1), {"adds": [5], "cancels": [5], "trades": [None]}, None),
]  # fmt: skip


@pytest.mark.parametrize(("feature", "columns", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(feature: pl.Expr, columns: Columns, want: float | None) -> None:
    got = last(feature, columns)
    assert got is None if want is None else got == pytest.approx(want, rel=1e-3, abs=1e-9)


# --- senseless windows ---


@pytest.mark.parametrize("feature", [cancel_burst, cancel_rate_score, cancel_tail, cancel_follow])
def test_windows_that_make_no_sense_are_refused(feature: Callable[[int, int], pl.Expr]) -> None:
    for wrong in ((0, 10), (5, 5), (5, 4), (5, WINDOW_MAX + 1), (-1, 10)):
        with pytest.raises(ValueError, match=r"window|baseline"):
            feature(*wrong)


@pytest.mark.parametrize(
    ("feature", "least"),
    [
        *((cancel_to_trade, 1), (cancel_to_add, 1), (cancel_near_share, 1), (net_fleeting, 1), (cancel_side, 1)),
        *((replenish, 1), (quote_stuffing, 1), (cancel_branching, 10)),
    ],
)
def test_a_window_that_is_too_short_is_refused(feature: Callable[[int], pl.Expr], least: int) -> None:
    feature(least)
    with pytest.raises(ValueError, match="window must be"):
        feature(least - 1)


# --- the claims: bursts ---


def _hours(bars: int, bursts: dict[int, float], seed: int = 1) -> Columns:
    """Cancels of about half a million dollars a minute; from each minute of `bursts` on, for 15, so many times more."""
    usd = np.random.default_rng(seed).lognormal(13, 0.3, bars)
    for start, times in bursts.items():
        usd[start : start + 15] *= times
    return cancelled(*usd.astype(np.int64).tolist())


def test_an_earlier_burst_hides_the_next_from_a_deviation_but_not_from_a_quartile() -> None:
    once, twice = _hours(300, {285: 4.0}), _hours(300, {100: 50.0, 285: 4.0})
    plain, robust = cancel_burst(15, 240), cancel_rate_score(15, 240)
    alone, hidden = last(plain, once), last(plain, twice)
    seen, still_seen = last(robust, once), last(robust, twice)
    assert alone is not None
    assert hidden is not None
    assert seen is not None
    assert still_seen is not None
    assert alone > 6
    assert hidden < 2
    assert min(seen, still_seen) > 6
    assert abs(last(robust, _hours(300, {})) or math.nan) < 2.5


def test_busy_quoting_is_a_burst_of_cancels_and_no_withdrawal() -> None:
    """Makers replace ten times as often: cancels are far above the usual, and so are adds."""
    usd = np.where(np.arange(250) < 245, 500_000, 5_000_000).tolist()
    busy = cancelled(*usd) | added(*usd) | stood(*[9_000_000] * 250)
    leaving = busy | added(*[500_000] * 250)
    assert last(cancel_burst(5, 240), busy) == pytest.approx(LOG10 / 0.1, rel=1e-3)
    assert last(cancel_to_add(5), busy) == 0.0
    assert last(net_fleeting(5), busy) == 0.0
    assert last(cancel_to_add(5), leaving) == pytest.approx(LOG10, rel=0.01)
    assert last(net_fleeting(5), leaving) == pytest.approx(22.5 / 9)


# --- the claims: the tail ---


def _alarms(counts: Ints, per: float) -> tuple[float, float]:
    """How often five minutes are called rarer than `per`: by `cancel_tail_5`, and by a Poisson law of the same mean."""
    ours = told(cancel_tail(5, 240), {"cancels": counts.tolist()}).drop_nulls()
    sums = pl.DataFrame({"n": counts}).select(pl.col("n").rolling_sum(5))
    both = sums.with_columns(mean=pl.col("n").shift(5).rolling_mean(240)).drop_nulls()
    poisson = gammainc(np.maximum(both["n"].to_numpy(), 0.5), both["mean"].to_numpy())
    return float((ours > -math.log10(per)).to_numpy().mean()), float((poisson < per).mean())


def test_poisson_cries_far_too_often_at_uneven_order_flow_and_the_negative_binomial_as_often_as_it_says() -> None:
    """Variance 220 at a mean of 20 cancels a minute."""
    uneven = np.random.default_rng(5).negative_binomial(2, 2 / 22, 40_000)
    ours, poisson = _alarms(uneven, 0.01)
    assert 0.005 < ours < 0.02
    assert poisson > 0.2
    ours, poisson = _alarms(uneven, 0.1)
    assert 0.09 < ours < 0.12
    assert poisson > 0.3


def test_on_poisson_order_flow_both_say_the_same() -> None:
    ours, poisson = _alarms(np.random.default_rng(6).poisson(20, 40_000), 0.01)
    assert 0.005 < ours <= poisson < 0.015


def test_a_planted_burst_is_in_the_tail() -> None:
    counts = np.random.default_rng(7).negative_binomial(20, 0.5, 250)
    calm = last(cancel_tail(5, 240), {"cancels": counts.tolist()})
    counts[-5:] *= 3
    burst = last(cancel_tail(5, 240), {"cancels": counts.tolist()})
    assert calm is not None
    assert burst is not None
    assert calm < 2
    assert burst > 6


# --- the claims: branching ---

HOURS = 200
SPAN_S = 3_600.0 * HOURS


def _branching(times_s: Floats) -> tuple[Floats, float]:
    """`cancel_branching_60` hour by hour, and the median of the naive `1 - 1 / sqrt(variance / mean)`."""
    counts = np.bincount((times_s // 60).astype(np.int64), minlength=60 * HOURS)
    ours = told(cancel_branching(60), {"cancels": counts.tolist()})[119::60]
    hours = counts.reshape(HOURS, 60)
    naive = 1 - 1 / np.sqrt(np.maximum(hours.var(axis=1, ddof=1) / hours.mean(axis=1), 1))
    assert ours.null_count() == 0
    return ours.to_numpy(), float(np.median(naive))


@pytest.mark.parametrize(("n", "want"), [(0.5, 0.5), (0.8, 0.8)])
def test_cancels_that_set_off_cancels_within_seconds_are_counted(n: float, want: float) -> None:
    ours, _ = _branching(hawkes_times(0.5, n, 1.0, SPAN_S, np.random.default_rng(1)))
    assert np.median(ours) == pytest.approx(want, abs=0.05)
    assert (ours > 0).mean() > 0.9


@pytest.mark.parametrize("dwell_s", [600.0, 1_200.0])
def test_a_rate_that_switches_is_not_branching_though_counts_are_as_uneven_as_if_it_were(dwell_s: float) -> None:
    ours, naive = _branching(switching_poisson_times((0.2, 2.0), dwell_s, SPAN_S, np.random.default_rng(2)))
    assert naive > 0.8
    assert np.median(ours) == 0
    assert ours.mean() < 0.05


def test_regimes_of_a_few_minutes_are_sometimes_taken_for_branching() -> None:
    """The card says so. Most hours are still told right, all of them far better than by variance over mean."""
    ours, naive = _branching(switching_poisson_times((0.2, 2.0), 180.0, SPAN_S, np.random.default_rng(2)))
    assert naive > 0.8
    assert 0.1 < (ours > 0).mean() < 0.5
    assert ours.mean() < 0.25


def test_what_is_set_off_minutes_later_is_not_seen() -> None:
    ours, _ = _branching(hawkes_times(0.5, 0.5, 1 / 600, SPAN_S, np.random.default_rng(3)))
    assert (ours == 0).mean() > 0.95


def test_about_one_poisson_window_in_a_hundred_looks_like_branching() -> None:
    counts = np.random.default_rng(4).poisson(60, 120_000)
    ours = told(cancel_branching(60), {"cancels": counts.tolist()}).drop_nulls()
    assert 0.005 < (ours > 0).to_numpy().mean() < 0.02


# --- the claims: several symbols ---

BURST_AT = 280


def _bursts(minutes: dict[str, int]) -> pl.DataFrame:
    """`symbol, minute, sync, follow` where each symbol of `minutes` begins to cancel eight times as much."""
    asked = [expr for expr, _ in market.inputs(Step())]
    norms = [pl.lit(None, pl.Float64).alias(f"norm_depth_{what}") for what in ("mean", "sd")]
    bars = []
    for place, symbol in enumerate("ABCDE"):
        usd = np.random.default_rng([8, place]).lognormal(13, 0.3, 300)
        if symbol in minutes:
            usd[minutes[symbol] :] *= 8
        one = bars_from(symbol, **cancelled(*usd.astype(np.int64).tolist()))
        bars.append(one.with_columns(norms).with_columns(asked).with_row_index("minute"))
    rows = market.market_rows(pl.concat(bars), Step())
    said = [one.join(rows, on="ts", how="left").with_columns(cancel_sync(), cancel_follow(5, 240)) for one in bars]
    return pl.concat(said).select("symbol", "minute", sync="cancel_sync", follow="cancel_follow_5")


def _at(rows: pl.DataFrame, symbol: str, minute: int) -> Any:
    """`sync, follow` of a symbol."""
    return rows.filter(pl.col("symbol") == symbol, pl.col("minute") == minute).select("sync", "follow").row(0)


def test_a_burst_after_those_of_others_is_seen_and_one_before_them_is_not() -> None:
    """A comes three minutes after the other four of five symbols, or three before them."""
    after = _bursts({"A": BURST_AT + 3} | dict.fromkeys("BCDE", BURST_AT))
    before = _bursts({"A": BURST_AT} | dict.fromkeys("BCDE", BURST_AT + 3))
    assert _at(after, "A", BURST_AT - 10) == (0.0, 0.0)
    assert _at(after, "A", BURST_AT + 3) == pytest.approx((1.0, 0.8 * 5))  # all now, four of five before
    assert _at(before, "A", BURST_AT) == pytest.approx((0.2, 0.0))
    assert _at(before, "B", BURST_AT + 3) == pytest.approx((1.0, 0.2 * 5))  # after one of five


def test_a_burst_of_one_symbol_alone_follows_nothing_but_itself() -> None:
    """Its own burst of the minutes before is one of the market's: the fewer symbols, the more that is."""
    alone = _bursts({"A": BURST_AT})
    assert _at(alone, "A", BURST_AT) == pytest.approx((0.2, 0.0))
    assert _at(alone, "A", BURST_AT + 4) == pytest.approx((0.2, 0.2 * 5))
    assert max(_at(alone, symbol, BURST_AT + 4)[1] for symbol in "BCDE") < 0.5


def test_all_at_once_is_synchrony_and_follows_nothing() -> None:
    assert _at(_bursts(dict.fromkeys("ABCDE", BURST_AT)), "A", BURST_AT) == pytest.approx((1.0, 0.0))


# --- the claims: how near, refilling, messages ---


def test_orders_far_from_the_touch_may_leave_by_the_million() -> None:
    near = cancelled(0, 5_000_000) | within([4_000, 5_000, 5_000, 5_000], [0] * 4)
    far = cancelled(0, 5_000_000) | within([0, 0, 100, 500], [0] * 4)
    assert last(cancel_near_share(1), near) == pytest.approx(0.9, abs=0.01)
    assert last(cancel_near_share(1), far) == pytest.approx(0.013, abs=0.001)


def _swept(back: float) -> float | None:
    """A sweep of a million in the five minutes before the last five, in which so much of it comes back."""
    quiet = [50_000] * 10
    taken = [50_000] * 5 + [200_000] * 5 + [50_000] * 5
    came = [50_000] * 10 + [int(200_000 * back)] * 5
    return last(
        replenish(5),
        {name: [0] * 15 for name in (*TAKEN, *BACK)}
        | {"book_trade_bid_usd": taken, "cancel_ask_100bps_usd": [*quiet, *[50_000] * 5], "add_bid_100bps_usd": came},
    )


def test_a_book_that_is_not_refilled_after_a_sweep_is_low() -> None:
    whole, half, none = _swept(1.25), _swept(0.625), _swept(0.0)
    assert whole == pytest.approx(0.0, abs=1e-6)  # 200k + 50k a bar were taken
    assert half == pytest.approx(-LOG2, abs=0.01)
    assert none is not None
    assert none < -4


def test_messages_without_trades_stand_out_and_a_busy_market_does_not() -> None:
    calm = {"adds": [100] * 5, "cancels": [100] * 5, "trades": [40] * 5}
    busy = {name: [10 * n for n in column] for name, column in calm.items()}
    stuffed = calm | {"adds": [5_000] * 5, "cancels": [5_000] * 5}
    usual = last(quote_stuffing(5), calm)
    assert last(quote_stuffing(5), busy) == pytest.approx(usual, abs=0.01)
    assert last(quote_stuffing(5), stuffed) == pytest.approx((usual or math.nan) + math.log(50), abs=0.01)
