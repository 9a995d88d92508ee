"""Labels, events and targets, by hand; and the onsets in real open interest."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.labels import (
    EVENT_SCHEMA,
    FLAG_SCHEMA,
    LABELS,
    drawdown,
    events,
    future_event_within,
    liq_share,
    oi_flush,
)
from tests.features.worlds import START, bars_from, rich, with_schema

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def at(minute: float) -> Any:
    return START + timedelta(minutes=minute)


def flags(minutes: list[int], symbol: str = "A") -> pl.DataFrame:
    rows = {"symbol": [symbol] * len(minutes), "ts": [at(m) for m in minutes], "severity": [float(m) for m in minutes]}
    return pl.DataFrame(rows).with_columns(label=pl.lit("x"), flag=pl.lit(True), venue=pl.lit("v"))


def index(minutes: int, symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame({"symbol": [symbol] * minutes, "ts": [at(m) for m in range(1, minutes + 1)]})


def crash(oi_fall: float, price_fall: float, minutes: int = 1_600) -> pl.DataFrame:
    """A day of small steps, then both fall over the last ten minutes."""
    close = [100.0 * (1 + 2e-4 * (t % 2)) for t in range(minutes)]
    oi = [1e6] * minutes
    for k in range(10):
        close[minutes - 10 + k] = 100.0 * (1 - price_fall * (k + 1) / 10)
        oi[minutes - 10 + k] = 1e6 * (1 - oi_fall * (k + 1) / 10)
    return bars_from(close=close, oi_base=oi, oi_usd=[10**8] * minutes, oi_age_s=[0.0] * minutes)


@pytest.mark.parametrize(
    ("oi_fall", "price_fall", "flagged"),
    [
        (0.05, 0.03, True),
        (0.05, 0.0, False),  # positions move elsewhere, the price does not care
        (0.0, 0.03, False),  # the price moves, nobody is flushed
        (0.05, -0.03, True),  # a short squeeze flushes too
        (0.019, 0.03, False),  # below 2 %
    ],
)
def test_oi_flush_needs_both_a_fall_of_open_interest_and_a_move(
    oi_fall: float, price_fall: float, flagged: bool
) -> None:
    out = oi_flush(crash(oi_fall, price_fall))
    assert out["flag"][-1] is flagged
    assert out.schema == FLAG_SCHEMA
    assert out["severity"][-1] == pytest.approx(100 * oi_fall)


def test_oi_flush_flags_the_first_minute_in_which_the_fall_is_complete() -> None:
    """Half a percent a minute: 2 % is reached in the fourth minute, minute 1594."""
    assert events(oi_flush(crash(0.05, 0.05)))["onset"].to_list() == [at(1594)]


def test_a_stale_open_interest_has_no_flag() -> None:
    """A gap that ends far below looks like a flush; the stale value at its start must not count."""
    bars = crash(0.05, 0.03).with_columns(
        pl.when(pl.col("ts") < at(1590)).then(1e5).otherwise(0.0).alias("oi_age_s"),
    )
    flag = oi_flush(bars)["flag"]
    assert flag[-1] is None
    assert flag.sum() == 0


def test_liq_share_is_liquidations_over_the_open_interest_before() -> None:
    bars = crash(0.0, 0.0, 100).with_columns(
        pl.when(pl.col("ts") == at(80)).then(1_500_000).otherwise(0).alias("liq_long_usd"),
        pl.when(pl.col("ts") == at(85)).then(500_000).otherwise(0).alias("liq_short_usd"),
    )
    out = liq_share(bars, fall_pct=2.0, window_min=30)
    assert out.filter("flag")["ts"].to_list() == [at(m) for m in range(85, 101)]
    assert out["severity"][84] == pytest.approx(2.0)


def test_drawdown_is_the_fall_from_the_highest_close_of_the_window() -> None:
    bars = bars_from(close=[100.0, 110.0, 104.5, 104.0, 104.0, 104.0])
    assert drawdown(bars, fall_pct=5.0, window_min=2)["flag"].to_list() == [None, None, True, True, False, False]


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_causal(label: str) -> None:
    bars = rich(1_700)
    whole = LABELS[label](bars, fall_pct=0.05, window_min=30, sigmas=0.5)
    assert whole["flag"].sum() > 0
    assert_frame_equal(whole.head(1_600), LABELS[label](bars.head(1_600), fall_pct=0.05, window_min=30, sigmas=0.5))


@pytest.mark.parametrize("wrong", [{"fall_pct": 0.0}, {"sigmas": -1.0}, {"window_min": 0}, {"fall_pct": float("nan")}])
@pytest.mark.parametrize("label", LABELS)
def test_labels_refuse_what_makes_no_sense(label: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LABELS[label](rich(5), **wrong)


@pytest.mark.parametrize("label", LABELS)
def test_no_bars_give_no_flags_and_no_events(label: str) -> None:
    out = LABELS[label](rich(5).head(0))
    assert out.schema == FLAG_SCHEMA
    assert events(out).schema == EVENT_SCHEMA


def test_flags_within_the_refractory_time_are_one_event_and_symbols_stay_apart() -> None:
    both = pl.concat([flags([10, 11, 251, 492]), flags([12], "B")])
    assert events(both, refractory_min=240).select("symbol", "onset", "end", "severity").rows() == [
        ("A", at(10), at(251), 251.0),  # 11 -> 251 is 240 apart: the same
        ("A", at(492), at(492), 492.0),  # 251 -> 492 is 241 apart: another
        ("B", at(12), at(12), 12.0),
    ]


def target(minutes: int, onsets: list[int], horizon: int, refractory: int = 5) -> list[int | None]:
    found = events(flags(onsets), refractory) if onsets else events(flags([1]).head(0))
    column = f"future_event_within_{horizon}"
    return future_event_within(index(minutes), found, horizon, refractory)[column].to_list()


def test_the_target_is_one_before_an_onset_null_in_it_and_null_where_the_future_is_unknown() -> None:
    """Onset at 10, refractory 5, horizon 3, bars 1..20: ones at 7, 8, 9; null 10..15; null 18..20."""
    want = [0] * 6 + [1] * 3 + [None] * 6 + [0] * 2 + [None] * 3
    assert target(20, [10], 3) == want


def test_the_refractory_time_counts_from_the_end_of_an_event() -> None:
    """Flags at 10 and 14, refractory 5: null from 10 to 19."""
    assert target(30, [10, 14], 1) == [0] * 8 + [1] + [None] * 10 + [0] * 10 + [None]


def test_without_events_the_target_is_zero_where_the_future_is_known() -> None:
    assert target(6, [], 2) == [0, 0, 0, 0, None, None]


def test_an_onset_of_another_symbol_is_no_onset() -> None:
    out = future_event_within(index(10), events(flags([5], "B")), 2)
    assert out["future_event_within_2"].sum() == 0


def test_a_null_flag_in_the_horizon_hides_the_answer_unless_an_onset_is_seen() -> None:
    unknown = index(12).with_columns(flag=pl.when(pl.col("ts") == at(6)).then(None).otherwise(False))
    column = "future_event_within_2"
    assert future_event_within(unknown, events(flags([1]).head(0)), 2)[column].to_list() == [
        *(0, 0, 0, None, None, 0, 0, 0, 0, 0),
        *(None, None),
    ]
    assert future_event_within(unknown, events(flags([5])), 2, 3)[column].to_list()[:4] == [0, 0, 1, 1]


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.exists(), reason="no market data in ../shared/data")
def test_oi_flush_on_minutes_finds_the_onsets_that_five_minute_rows_show() -> None:
    """BTC ETH SOL AVAX, December 2025 to 10 February 2026: the label written out on the archive's own 5 min rows."""
    minutes = pl.concat(_real(coin) for coin in ("BTC", "ETH", "SOL", "AVAX"))
    rows = minutes.filter(pl.col("ts").dt.minute() % 5 == 0)
    fall = 1 - pl.col("oi_base") / pl.col("oi_base").shift(6)
    move = (pl.col("close") / pl.col("close").shift(6)).log().abs()
    square = (pl.col("close") / pl.col("close").shift(1)).log() ** 2
    ordinary = (square.rolling_mean(288).shift(6) * 6).sqrt()
    plain = rows.with_columns(
        ((fall >= 0.02) & (move > 4 * ordinary)).over("symbol").alias("flag"),
        pl.lit("x").alias("label"),
        pl.lit(0.0).alias("severity"),
    )
    want, got = events(plain), events(oi_flush(minutes))
    assert want.height >= 10
    assert got.select("symbol", "onset").equals(want.select("symbol", "onset"))


def _real(coin: str) -> pl.DataFrame:
    """Minutes with the last 5 min close and open interest; a candle's stamp is its start, an archive's its end."""
    candles = pl.read_ipc(DATA / "bybit-5m-2025-2026" / f"{coin}_USDT_USDT-5m-futures.feather")
    closes = candles.select(pl.col("date").cast(pl.Datetime("us", "UTC")).dt.offset_by("5m").alias("ts"), "close").sort(
        "ts"
    )
    published = pl.read_csv(DATA / "hlreaper-binance-oi-5m" / f"{coin}_oi_5m.csv.gz")
    stamp = pl.from_epoch(pl.col("t"), "ms").cast(pl.Datetime("us", "UTC"))
    oi = published.select(stamp.alias("oi_ts"), pl.col("oi").cast(pl.Float64).alias("oi_base")).sort("oi_ts")
    minutes = pl.datetime_range(oi["oi_ts"][0], oi["oi_ts"][-1], "1m", eager=True, time_zone="UTC").alias("ts")
    grid = minutes.cast(pl.Datetime("us", "UTC")).to_frame()
    joined = grid.join_asof(closes, on="ts").join_asof(oi, left_on="ts", right_on="oi_ts")
    age = (pl.col("ts") - pl.col("oi_ts")).dt.total_seconds().alias("oi_age_s")
    key = [pl.lit("v").alias("venue"), pl.lit(coin).alias("symbol"), pl.col("ts").alias("known_at")]
    return with_schema(joined.with_columns(age, *key))
