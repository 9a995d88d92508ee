"""Features against slow oracles in plain Python, written from their docstrings, and against hand arithmetic."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from features.cancels import cancel_burst, cancel_side, cancel_to_trade, net_fleeting
from features.crowding import basis_bps, basis_heat, basis_score, crowding_score, funding_annual
from features.exact import WINDOW_MAX, rolling_std, standard_score
from features.health import book_crossed, feed_stale_s, latency_ratio, trade_gap_share
from features.leverage import (
    fuel_over_depth,
    leverage_change,
    liq_over_volume,
    oi_change,
    oi_over_volume,
    oi_quadrant,
    oi_score,
)
from features.matrix import feature_matrix
from features.thin_book import (
    amihud_score,
    depth_drain,
    depth_drop,
    depth_imbalance,
    kyle_score,
    kyle_slope,
    range_score,
)
from features.volatility import bipower_variance, jump_share, parkinson_ratio, realised_variance, vol_ratio, vol_score
from tests.features.worlds import bars_from, rich, rich_structure

Column = list[Any]
BARS = rich(420, seed=3)
B: dict[str, Column] = BARS.to_dict(as_series=False)
MATRIX = feature_matrix(BARS, rich_structure(BARS))
TESTED = (250, 300, 333, 419)


def z(x: Callable[[int], float], t: int, lag: int, baseline: int, floor: float) -> float:
    past = [x(i) for i in range(t - lag - baseline + 1, t - lag + 1)]
    return (x(t) - statistics.mean(past)) / max(statistics.stdev(past), floor)


def window(column: str, t: int, minutes: int) -> Column:
    return B[column][t - minutes + 1 : t + 1]


def returns(t: int, minutes: int) -> list[float]:
    return [math.log(B["close"][i] / B["close"][i - 1]) for i in range(t - minutes + 1, t + 1)]


def rms(values: list[float]) -> float:
    return math.sqrt(statistics.mean(v * v for v in values))


def log_cancelled(t: int) -> float:
    return math.log1p(sum(window("cancel_bid_usd", t, 5)) + sum(window("cancel_ask_usd", t, 5)))


def basis(t: int, minutes: int = 5) -> float:
    return statistics.mean(1e4 * (B["mark"][i] / B["index"][i] - 1) for i in range(t - minutes + 1, t + 1))


def heat(t: int) -> float:
    ratio = max(rms(returns(t, 15)), 5e-5) / max(rms(returns(t - 15, 240)), 5e-5)
    return min(max(ratio, 1 / 3), 3.0)


def basis_lean(t: int) -> float:
    usual = rms([basis(i, 1) for i in range(t - 5 - 240 + 1, t - 5 + 1)])
    return min(max(basis(t) / max(usual, 5.0), -5.0), 5.0)


def crowding(t: int) -> float:
    funding = B["funding_rate"][t] * 8760 / B["funding_interval_h"][t] / 0.30
    return math.tanh(heat(t) * (basis_lean(t) + min(max(funding, -5.0), 5.0)) / 4)


def illiquidity(t: int) -> float:
    return math.log((1e4 * sum(map(abs, returns(t, 15))) + 1) / (sum(window("volume_usd", t, 15)) + 10_000))


def slope(t: int) -> float:
    flows = [b - s for b, s in zip(window("buy_usd", t, 60), window("sell_usd", t, 60), strict=True)]
    q = [math.copysign(math.sqrt(abs(f) / 1e6), f) for f in flows]
    r = [1e4 * v for v in returns(t, 60)]
    return statistics.covariance(r, q) * 59 / 60 / (statistics.pvariance(q) + 0.01)


ORACLES: dict[str, Callable[[int], float]] = {
    "cancel_burst_5": lambda t: z(log_cancelled, t, 5, 240, 0.1),
    "oi_change_30": lambda t: math.log(B["oi_base"][t] / B["oi_base"][t - 30]),
    "basis_bps_5": basis,
    "crowding_score_15": crowding,
    "basis_heat_15": lambda t: math.tanh(heat(t) * basis_lean(t) / 4),
    "kyle_slope_60": slope,
}
LONGER: dict[str, Callable[[int], float]] = {
    "basis_score_5": lambda t: z(basis, t, 5, 240, 1.0),
    "amihud_score_15": lambda t: z(illiquidity, t, 15, 240, 0.1),
    "kyle_score_60": lambda t: z(lambda i: math.log(max(slope(i), 0) + 0.1), t, 60, 240, 0.1),
    "vol_score_15": lambda t: z(lambda i: math.log(max(rms(returns(i, 15)), 5e-5)), t, 15, 240, 0.1),
}


@pytest.mark.parametrize("t", TESTED[1:])
@pytest.mark.parametrize("name", ORACLES)
def test_feature_equals_its_slow_oracle(name: str, t: int) -> None:
    assert MATRIX[name][t] == pytest.approx(ORACLES[name](t), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", LONGER)
def test_score_equals_its_slow_oracle(name: str) -> None:
    assert MATRIX[name][419] == pytest.approx(LONGER[name](419), rel=2e-3, abs=2e-3)


def test_oi_score_equals_its_slow_oracle() -> None:
    bars = rich(1600, seed=5)
    oi = bars["oi_base"].to_list()
    want = z(lambda i: math.log(oi[i] / oi[i - 30]), 1599, 30, 1440, 0.002)
    assert feature_matrix(bars)["oi_score_30"][1599] == pytest.approx(want, rel=1e-3)


def test_cancel_burst_is_null_until_both_windows_are_full_and_where_one_holds_a_null() -> None:
    burst = MATRIX["cancel_burst_5"]
    assert burst.is_not_null().arg_true()[0] == 248  # 5 + 5 + 240 - 2: the baseline's first window ends at bar 4
    hole = BARS.with_columns(pl.when(pl.int_range(pl.len()) != 300).then("cancel_bid_usd").alias("cancel_bid_usd"))
    holed = feature_matrix(hole)["cancel_burst_5"]
    assert holed[299] is not None
    assert holed[300:].null_count() == 120


# Hand arithmetic: one column of numbers in, one value out.


def last(feature: pl.Expr, **columns: Column) -> float | None:
    return pl.DataFrame(columns).select(feature).to_series()[-1]


def _log(x: float) -> float:
    return math.log(x)


HAND: list[tuple[str, pl.Expr, dict[str, Column], float | None]] = [
    (
        "4 cancelled to 9 trades, each and one more: half",
        cancel_to_trade(2),
        {"cancels": [3, 1], "trades": [9, 0]},
        _log(5 / 10),
    ),
    (
        "60 000 leave, 20 000 come, 80 000 stood before",
        net_fleeting(1),
        {
            "cancel_bid_usd": [0, 50_000],
            "cancel_ask_usd": [0, 10_000],
            "add_bid_usd": [0, 20_000],
            "add_ask_usd": [0, 0],
            "depth_bid_100bps_usd": [50_000, 1],
            "depth_ask_100bps_usd": [30_000, 1],
        },
        0.5,
    ),
    (
        "only bids leave: (90 - 0) / (90 + 10)",
        cancel_side(1),
        {"cancel_bid_usd": [90_000], "cancel_ask_usd": [0]},
        0.9,
    ),
    ("longs build", oi_quadrant(1), {"oi_base": [100.0, 101.0], "close": [100.0, 101.0]}, 2.0),
    ("shorts cover", oi_quadrant(1), {"oi_base": [100.0, 99.0], "close": [100.0, 101.0]}, 1.0),
    ("longs unwind", oi_quadrant(1), {"oi_base": [100.0, 99.0], "close": [100.0, 99.0]}, -1.0),
    ("shorts build", oi_quadrant(1), {"oi_base": [100.0, 101.0], "close": [100.0, 99.0]}, -2.0),
    ("price stands still", oi_quadrant(1), {"oi_base": [100.0, 101.0], "close": [100.0, 100.0]}, 0.0),
    ("open interest stands still", oi_quadrant(1), {"oi_base": [100.0, 100.0], "close": [100.0, 99.0]}, 0.0),
    ("unknown open interest", oi_quadrant(1), {"oi_base": [None, 100.0], "close": [100.0, 99.0]}, None),
    ("90 held, 0 traded: log(100 / 10)", oi_over_volume(1), {"oi_usd": [90_000], "volume_usd": [0]}, _log(10)),
    (
        "longs 3 over bids 2, shorts 1 over asks 1",
        fuel_over_depth(),
        {
            "fuel_long_500bps_usd": [3_000_000],
            "fuel_short_500bps_usd": [1_000_000],
            "depth_bid_500bps_usd": [2_000_000],
            "depth_ask_500bps_usd": [1_000_000],
        },
        1.5,
    ),
    ("leverage from 9.9 to 19.9", leverage_change(1), {"leverage_p90": [9.9, 19.9]}, _log(2)),
    (
        "100 forced in 90 traded: log((100 + 90 + 10) / 100)",
        liq_over_volume(1),
        {"liq_long_usd": [60_000], "liq_short_usd": [40_000], "volume_usd": [90_000]},
        _log(2),
    ),
    (
        "0.01 % per 8 h is 10.95 % a year",
        funding_annual(),
        {"funding_rate": [1e-4], "funding_interval_h": [8.0]},
        0.1095,
    ),
    (
        "bids fell to a quarter, asks to half: the worse side",
        depth_drain(1),
        {"depth_bid_100bps_usd": [39_999, 9_999], "depth_ask_100bps_usd": [39_999, 19_999]},
        _log(4),
    ),
    (
        "the thinner side has halved against its usual",
        depth_drop(2),
        {"depth_bid_100bps_usd": [39_999, 39_999, 19_999], "depth_ask_100bps_usd": [39_999] * 3},
        _log(2),
    ),
    (
        "bids 2, asks 6, in thousands",
        depth_imbalance(),
        {"depth_bid_100bps_usd": [2_000], "depth_ask_100bps_usd": [5_999]},
        -3_999 / 8_000,
    ),
    ("1 missing of 4", trade_gap_share(2), {"trade_ids_missing": [0, 1], "trades": [2, 1]}, 0.25),
    ("nothing traded", trade_gap_share(2), {"trade_ids_missing": [0, 0], "trades": [0, 0]}, None),
    ("delay 190 after 90: doubled", latency_ratio(1, 2), {"latency_ms_max": [90.0, 90.0, 190.0]}, _log(2)),
    ("3 crossed rows", book_crossed(2), {"book_rows_crossed": [1, 2]}, _log(4)),
    (
        "the oldest of those that exist",
        feed_stale_s(),
        {"trade_age_s": [3.0] * 2, "depth_age_s": [70.0] * 2, "mark_age_s": [90.0, None], "index_age_s": [1.0] * 2},
        70.0,
    ),
]


@pytest.mark.parametrize(("feature", "columns", "want"), [row[1:] for row in HAND], ids=[row[0] for row in HAND])
def test_hand_arithmetic(feature: pl.Expr, columns: dict[str, Column], want: float | None) -> None:
    got = last(feature, **columns)
    assert got is None if want is None else got == pytest.approx(want, abs=1e-4)


def test_realised_and_bipower_variance_of_the_worked_example() -> None:
    close = [100.0]
    for r in (0.01, -0.02, 0.015, -0.05, 0.01):
        close.append(close[-1] * math.exp(r))
    assert last(realised_variance(5), close=close) == pytest.approx(0.003325, rel=1e-6)
    assert last(bipower_variance(5), close=close) == pytest.approx(0.00274889, rel=1e-5)
    assert last(jump_share(5), close=close) == pytest.approx(0.173265, rel=1e-5)


# The combination.


def _crowd(basis_bps: float, funding: float, busy: float, minutes: int = 300) -> float | None:
    """Crowding at the end of a calm market whose last 15 minutes are `busy` times as volatile."""
    size = [2e-4 * (busy if t >= minutes - 15 else 1.0) for t in range(minutes)]
    close = [100.0 * math.exp(size[t] * (t % 2)) for t in range(minutes)]
    columns: dict[str, Column] = {
        "close": close,
        "mark": [c * (1 + basis_bps / 1e4) for c in close],
        "index": close,
        "trade_age_s": [0.0] * minutes,
        "mark_age_s": [0.0] * minutes,
        "index_age_s": [0.0] * minutes,
        "funding_rate": [funding] * minutes,
        "funding_interval_h": [8.0] * minutes,
        "funding_age_s": [0.0] * minutes,
    }
    return feature_matrix(bars_from(**columns))["crowding_score_15"][-1]


def test_crowding_is_zero_when_funding_and_basis_are_neutral_however_wild_the_market() -> None:
    assert _crowd(0.0, 0.0, 1.0) == 0.0
    assert _crowd(0.0, 0.0, 5.0) == 0.0


def test_crowding_is_odd_and_its_sign_is_the_crowded_side() -> None:
    longs, shorts = _crowd(8.0, 3e-4, 2.0), _crowd(-8.0, -3e-4, 2.0)
    assert longs is not None
    assert shorts is not None
    assert 0 < longs < 1
    assert shorts == pytest.approx(-longs)


def test_crowding_grows_with_each_of_its_three_parts() -> None:
    base = _crowd(2.0, 1e-4, 1.0)
    assert base is not None
    for stronger in (_crowd(4.0, 1e-4, 1.0), _crowd(2.0, 2e-4, 1.0), _crowd(2.0, 1e-4, 2.0)):
        assert stronger is not None
        assert stronger > base + 0.01


@pytest.mark.parametrize("missing", ["funding_rate", "index", "close"])
def test_crowding_is_null_if_one_of_the_three_is_missing(missing: str) -> None:
    holed = BARS.with_columns(pl.lit(None, dtype=BARS.schema[missing]).alias(missing))
    assert MATRIX["crowding_score_15"][-1] is not None
    assert feature_matrix(holed)["crowding_score_15"].null_count() == holed.height


def test_basis_falls_back_to_the_last_trade_while_that_is_fresh() -> None:
    columns: dict[str, Column] = {"mark": [None], "close": [101.0], "index": [100.0], "trade_age_s": [300.0]}
    assert last(basis_bps(1), **columns) == pytest.approx(100.0)
    assert last(basis_bps(1), **(columns | {"trade_age_s": [301.0]})) is None


# Windows.

WINDOWED: list[Callable[[int, int], pl.Expr]] = [
    cancel_burst,
    oi_score,
    basis_score,
    vol_ratio,
    vol_score,
    parkinson_ratio,
    amihud_score,
    range_score,
    kyle_score,
    crowding_score,
    basis_heat,
    latency_ratio,
]


@pytest.mark.parametrize("feature", WINDOWED)
def test_windows_that_make_no_sense_are_refused(feature: Callable[[int, int], pl.Expr]) -> None:
    for wrong in ((0, 10), (5, 5), (5, 4), (5, WINDOW_MAX + 1), (-1, 10)):
        with pytest.raises(ValueError, match=r"window|baseline"):
            feature(*wrong)


@pytest.mark.parametrize("feature", [oi_change, kyle_slope, depth_drain, net_fleeting])
def test_a_window_below_one_is_refused(feature: Callable[[int], pl.Expr]) -> None:
    with pytest.raises(ValueError, match="window must be"):
        feature(0)


# Exactness.


def test_what_has_left_the_window_leaves_no_trace() -> None:
    """Plain float rolling sums keep residue of a spike; a score out of the silence after it would be huge."""
    quiet = [0.1, 0.3, 0.2, 0.1] * 10
    spiked = pl.DataFrame({"x": [45.0, -45.0, *quiet]})
    calm = pl.DataFrame({"x": [0.2, 0.1, *quiet]})
    for expr in (rolling_std(pl.col("x"), 8), standard_score(pl.col("x"), 2, 8, 0.01)):
        assert spiked.select(expr).tail(30).equals(calm.select(expr).tail(30))


def test_a_score_out_of_silence_is_large_but_finite() -> None:
    x = pl.DataFrame({"x": [0.0] * 20 + [1.0]})
    assert x.select(standard_score(pl.col("x"), 1, 10, 0.1))["x"][-1] == pytest.approx(10.0)
