"""Measures of stylised facts against slow oracles, hand arithmetic and worlds whose answer is known."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.branching import hawkes_times, switching_poisson_times
from models.facts import (
    FACTS,
    Floats,
    Series,
    autocorrelation,
    borel_law,
    cancel_to_trade,
    cluster_facts,
    clustered_slope,
    clusters,
    decay_exponent,
    depth_volatility,
    excess_kurtosis,
    forced_orders,
    judged,
    rank_correlation,
    real_range,
    regime_law,
    regular,
    summed,
    tail_index,
)

START = datetime(2025, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def with_gaps(rng: np.random.Generator, size: int) -> Floats:
    values = rng.standard_t(4, size)
    values[rng.random(size) < 0.1] = np.nan
    return np.asarray(values)


# --- returns ---


def slow_tail_index(values: Floats, share: float) -> float:
    known = sorted((float(v) for v in values if not math.isnan(v)), reverse=True)
    k = math.floor(share * len(known))
    return 1 / (sum(math.log(known[i]) - math.log(known[k]) for i in range(k)) / k)


@pytest.mark.parametrize("seed", range(5))
def test_the_tail_index_equals_the_slow_sum_whatever_the_order_scale_and_gaps(seed: int) -> None:
    values = with_gaps(np.random.default_rng(seed), 1500)
    expected = slow_tail_index(values, 0.05)
    assert tail_index(values) == pytest.approx(expected, rel=1e-12)
    assert tail_index(values[::-1] * 7) == pytest.approx(expected, rel=1e-12)


def test_the_tail_index_finds_the_exponent_of_a_pareto_law() -> None:
    values = np.random.default_rng(1).pareto(3.0, 200_000) + 1
    assert tail_index(values) == pytest.approx(3.0, rel=0.03)  # standard error 3 / sqrt(10,000) = 1 %


def test_a_tail_of_too_few_values_of_one_value_or_of_gains_alone_has_no_index() -> None:
    assert tail_index(np.arange(1.0, 200.0)) is None  # 5 % of 199 is 9
    assert tail_index(np.ones(1000)) is None
    assert tail_index(-np.arange(1.0, 1000.0)) is None
    assert tail_index(np.full(1000, np.nan)) is None


def slow_autocorrelation(values: Floats, lag: int) -> float:
    known = [v for v in values if not math.isnan(v)]
    mean = sum(known) / len(known)
    variance = sum((v - mean) ** 2 for v in known) / len(known)
    pairs = [(a - mean) * (b - mean) for a, b in zip(values, values[lag:], strict=False) if not math.isnan(a + b)]
    return sum(pairs) / len(pairs) / variance


@pytest.mark.parametrize("seed", range(3))
def test_autocorrelation_equals_the_slow_sum_over_pairs_without_gaps(seed: int) -> None:
    values = with_gaps(np.random.default_rng(seed), 300)
    expected = [slow_autocorrelation(values, lag) for lag in range(1, 21)]
    assert autocorrelation(values, 20) == pytest.approx(expected, abs=1e-12)


def test_autocorrelation_is_unknown_for_a_constant_for_gaps_and_beyond_the_data() -> None:
    assert np.isnan(autocorrelation(np.ones(100), 3)).all()
    assert np.isnan(autocorrelation(np.full(100, np.nan), 3)).all()
    found = autocorrelation(np.arange(12.0), 5)
    assert np.isfinite(found[:2]).all()  # 11 and 10 pairs
    assert np.isnan(found[2:]).all()


def test_a_correlation_that_is_mostly_negative_has_no_decay() -> None:
    assert decay_exponent(np.array([0.5, -0.1, -0.1, -0.1])) is None
    assert decay_exponent(np.array([0.5, 0.25, -0.1, -0.1])) == pytest.approx(1.0)  # halves from lag 1 to lag 2


@pytest.mark.parametrize("seed", range(3))
def test_kurtosis_and_rank_correlation_equal_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = np.round(with_gaps(rng, 400), 1), np.round(with_gaps(rng, 400), 1)  # rounded: ties
    both = np.isfinite(one) & np.isfinite(other)
    assert excess_kurtosis(one) == pytest.approx(stats.kurtosis(one[np.isfinite(one)]))
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one[both], other[both]).statistic, abs=1e-11)


def test_sums_of_returns_without_memory_lose_their_kurtosis() -> None:
    returns = np.random.default_rng(3).laplace(size=240_000)  # excess kurtosis 3; a twelfth of it in sums of 12
    assert excess_kurtosis(returns) == pytest.approx(3.0, abs=0.2)
    assert excess_kurtosis(summed(returns, 12)) == pytest.approx(0.25, abs=0.1)
    ratio = {fact.name: fact.measure for fact in FACTS}["kurtosis_hour_ratio"]
    assert ratio is not None
    assert ratio(Series(returns, returns)) == pytest.approx(1 / 12, abs=0.04)


def test_bars_are_joined_to_five_minutes_and_a_gap_or_a_silent_bar_has_no_return() -> None:
    rows = [
        # minute of the end, close, volume
        (1, 90.0, 1.0), (5, 100.0, 2.0),  # ends at 5: 100, 90 + 200 = 290 dollars
        (10, 110.0, 1.0),  # log 1.1
        (15, 110.0, 0.0),  # nobody traded: no return here, none after it
        (20, 121.0, 1.0),
        (25, 133.1, 1.0),  # log 1.1
        (40, 140.0, 1.0),  # the bars before are missing
    ]  # fmt: skip
    candles = pl.DataFrame(
        [{"venue": "v", "symbol": "s", "ts": at(m), "close": c, "volume": v} for m, c, v in rows]
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    found = regular(candles.reverse())
    assert found["ts"].to_list() == [at(m) for m in (5, 10, 15, 20, 25, 40)]
    ln = math.log(1.1)
    assert found["ret"].to_list() == [None, pytest.approx(ln), None, None, pytest.approx(ln), None]
    assert found["volume_usd"].to_list() == pytest.approx([290.0, 110.0, 0.0, 121.0, 133.1, 140.0])


# --- book ---


def test_cancels_count_where_trades_are_near_and_only_in_minutes_that_have_any() -> None:
    rows = [
        (0.1, "trade", 100.0, 2.0),  # 200 dollars
        (0.2, "cancel", 101.0, 10.0),  # 1,010
        (0.3, "cancel", 105.1, 99.0),  # 5.1 % away
        (0.4, "add", 100.0, 99.0),
        (0.5, "cancel", 95.0, 2.0),  # 190, just near
        (1.5, "cancel", 100.0, 99.0),  # a minute without trades
    ]
    events = pl.DataFrame([{"ts": at(m), "event": e, "price": p, "qty": q} for m, e, p, q in rows])
    assert cancel_to_trade(events) == {"orders": 2.0, "usd": pytest.approx(6.0)}  # 1,200 / 200
    assert cancel_to_trade(events.filter(pl.col("event") != "trade")) is None
    assert cancel_to_trade(events.filter(pl.col("event") == "trade")) == {"orders": 0.0, "usd": 0.0}


def slow_slope(y: Floats, x: Floats, cluster: list[int]) -> tuple[float, float]:
    c = [v - sum(x) / len(x) for v in x]
    spread = sum(v * v for v in c)
    slope = sum(a * b for a, b in zip(c, y, strict=True)) / spread
    level = sum(y) / len(y)
    scores: dict[int, float] = {}
    for a, b, g in zip(c, y, cluster, strict=True):
        scores[g] = scores.get(g, 0.0) + a * (b - level - slope * a)
    correction = len(scores) / (len(scores) - 1) * (len(x) - 1) / (len(x) - 2)
    return slope, math.sqrt(correction * sum(v * v for v in scores.values())) / spread


def test_the_slope_and_its_clustered_error_equal_the_slow_sums() -> None:
    rng = np.random.default_rng(4)
    x, cluster = rng.normal(size=60), np.arange(60) // 7
    y = -0.5 * x + rng.normal(size=60) + rng.normal(size=9)[cluster]
    found = clustered_slope(y, x, cluster)
    assert found is not None
    assert (found.value, found.error) == pytest.approx(slow_slope(y, x, cluster.tolist()))
    assert (found.clusters, found.rows) == (9, 60)


def test_rows_told_ten_times_inside_their_cluster_make_no_slope_more_certain() -> None:
    rng = np.random.default_rng(5)
    x, y, cluster = rng.normal(size=40), rng.normal(size=40), np.arange(40)
    once, often = clustered_slope(y, x, cluster), clustered_slope(*(np.repeat(v, 10) for v in (y, x, cluster)))
    apart = clustered_slope(np.repeat(y, 10), np.repeat(x, 10), np.arange(400))
    assert once is not None
    assert often is not None
    assert apart is not None
    assert often.error == pytest.approx(once.error, rel=0.02)
    assert apart.error < 0.4 * once.error  # what independent errors would claim


def test_a_slope_needs_rows_clusters_and_a_regressor_that_moves() -> None:
    x = np.arange(20.0)
    assert clustered_slope(x, x, np.zeros(20, dtype=np.int64)) is None
    assert clustered_slope(x, np.ones(20), np.arange(20)) is None
    assert clustered_slope(x[:9], x[:9], np.arange(9)) is None


def test_depth_that_answers_volatility_by_a_square_root_has_a_slope_of_minus_a_half() -> None:
    rng = np.random.default_rng(6)
    sigma = np.exp(np.repeat(rng.normal(size=48), 6)) * 1e-3  # 48 half hours
    returns = pl.DataFrame({"ts": [at(5 * (i + 1)) for i in range(288)], "ret": sigma * rng.choice([-1, 1], 288)})
    volatility = returns.select(pl.col("ret").pow(2).rolling_sum(12).sqrt()).to_series().fill_null(1.0)
    depth = pl.concat(
        [
            pl.DataFrame({"ts": returns["ts"], "side": side, "band_bps": 100, "depth_usd": volatility**-0.5 * 1e6})
            for side in ("bid", "ask")
        ]
    )
    found = depth_volatility(depth, returns, "1h")
    assert found is not None
    assert found.value == pytest.approx(-0.5, abs=1e-9)
    assert found.rows == 277  # the first eleven hours are not full
    assert depth_volatility(depth.filter(pl.col("side") == "bid"), returns, "1h") is None  # half a book is none


# --- clusters ---


def slow_clusters(times: list[float], gap_s: float) -> list[int]:
    sizes: list[int] = []
    before = -math.inf
    for time in times:
        if time - before < gap_s:
            sizes[-1] += 1
        else:
            sizes.append(1)
        before = time
    return sizes


@given(st.lists(st.integers(0, 60).map(lambda n: 30 * n), max_size=40))  # many are just a gap apart
def test_clusters_equal_the_slow_walk_and_lose_no_order_and_no_dollar(stamps: list[int]) -> None:
    times = np.sort(np.array(stamps, dtype=np.float64))
    usd = np.arange(1.0, times.size + 1)
    many, dollars = clusters(times, usd)
    assert many.tolist() == slow_clusters(times.tolist(), 60.0)
    assert many.sum() == times.size
    assert dollars.sum() == usd.sum()


def test_fills_of_one_stamp_and_side_are_one_order_and_deleveraging_is_none() -> None:
    rows = [
        ("a", 0, "long", 10.0, "market"), ("a", 0, "long", 5.0, "market"), ("a", 0, "short", 1.0, "market"),
        ("a", 1, "long", 2.0, "adl"), ("b", 0, "long", 3.0, "unknown"),
    ]  # fmt: skip
    fills = pl.DataFrame(
        [
            {"venue": "v", "symbol": s, "ts": at(m), "position_side": side, "notional_usd": u, "path": p}
            for s, m, side, u, p in rows
        ]
    )
    orders = forced_orders(fills)
    assert orders["notional_usd"].to_list() == [15.0, 1.0, 3.0]
    assert orders["symbol"].to_list() == ["a", "a", "b"]


def test_the_regime_law_is_what_orders_thrown_into_their_hours_show() -> None:
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 120, 300)
    times = np.sort(np.concatenate([3600 * (hour + rng.random(n)) for hour, n in enumerate(counts)]))
    many, _ = clusters(times, times)
    law = regime_law(times)
    assert law is not None
    assert many.mean() == pytest.approx(law.mean, rel=0.03)
    assert (many == 1).mean() == pytest.approx(law.single_share, rel=0.05)


def orders_at(times: Floats) -> pl.DataFrame:
    stamps = pl.Series((times * 1e6).astype(np.int64)).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"ts": stamps, "notional_usd": np.exp(np.sin(times))})


def test_busy_hours_alone_look_clustered_and_only_branching_exceeds_them() -> None:
    rng = np.random.default_rng(8)
    busy = cluster_facts(orders_at(switching_poisson_times((0.001, 0.02), 20_000.0, 4e6, rng)))
    branching = cluster_facts(orders_at(hawkes_times(0.002, 0.7, 0.1, 4e6, rng)))
    assert busy["cluster_size_mean"] > 1.5  # a naive reading would take it for branching
    assert busy["cluster_regime_mean"] == pytest.approx(1.0, abs=0.1)
    assert branching["cluster_regime_mean"] > 1.8


def test_sparse_families_of_a_branching_process_follow_the_borel_law() -> None:
    times = hawkes_times(0.00005, 0.5, 0.5, 4e8, np.random.default_rng(9))  # a family every 20,000 s
    many, _ = clusters(times, times)
    law = borel_law(2.0)
    assert law is not None
    assert many.mean() == pytest.approx(2.0, rel=0.05)
    assert many.var() == pytest.approx(law.variance, rel=0.2)
    assert (many == 1).mean() == pytest.approx(law.single_share, rel=0.03)


def test_a_dozen_orders_have_no_distribution_and_no_orders_no_law() -> None:
    assert cluster_facts(orders_at(np.arange(9.0) * 1000)) == {}
    assert regime_law(np.empty(0)) is None
    assert borel_law(0.5) is None
    single = cluster_facts(orders_at(np.arange(50.0) * 1000))
    assert single["cluster_single_share"] == 1.0
    assert "cluster_borel_variance" not in single  # a law without variance divides nothing


# --- judgement ---


def test_the_real_range_leaves_out_the_twentieths_only_where_there_are_twenty() -> None:
    assert real_range(np.arange(19.0)) == (0.0, 18.0)
    assert real_range(np.arange(21.0)) == (1.0, 19.0)
    assert real_range(np.empty(0)) is None


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 10))
def test_a_value_is_within_exactly_if_it_lies_between_the_bounds(value: float, low: float, width: float) -> None:
    assert (judged(value, (low, low + width)) == "within the real range") == (low <= value <= low + width)


def test_an_unknown_value_is_never_within() -> None:
    assert judged(float("nan"), (-1.0, 1.0)) == "not measured"


def test_facts_have_names_of_their_own() -> None:
    assert len({fact.name for fact in FACTS}) == len(FACTS)
