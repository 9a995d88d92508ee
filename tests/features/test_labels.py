"""Labels, events and targets, by hand; and the onsets in real open interest."""

import inspect
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
    adl,
    drawdown,
    events,
    future_event_within,
    liq_burst,
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


def forced(minutes: int, usual_usd: int, changes: dict[int, int]) -> pl.DataFrame:
    """`usual_usd` liquidated in every minute but those of `changes`, of longs and shorts in turn."""
    told = [changes.get(m, usual_usd) for m in range(1, minutes + 1)]
    longs, shorts = ([usd if m % 2 == side else 0 for m, usd in enumerate(told)] for side in (0, 1))
    return bars_from(close=[100.0] * minutes, liq_long_usd=longs, liq_short_usd=shorts)


def test_liq_burst_is_more_than_usual_and_not_little() -> None:
    """A day of 1,000 USD a minute, so 30,000 in any 30 minutes is usual, and the floor of 90,000 counts."""
    bars = forced(1_600, 1_000, {1_550: 61_000, 1_560: 1_001})
    out = liq_burst(bars, quantile=0.99, floor_usd=90_000.0)
    # 29 x 1,000 + 61,000 = 90,000 from minute 1550 to 1579, a dollar more with minute 1560: the floor itself is enough
    assert out.filter("flag")["ts"].to_list() == [at(m) for m in range(1_550, 1_580)]
    assert out["severity"][1_549] == 100.0
    assert not liq_burst(bars, quantile=0.99, floor_usd=90_002.0)["flag"].any()


def test_liq_burst_is_held_against_the_quantile_of_the_day_before_its_window() -> None:
    """30 of the day's 1,440 windows, 2.1 %, held 90,000 already: that is the .99 quantile, and 30,000 the .97 one."""
    bars = forced(1_600, 1_000, {200: 61_000, 1_590: 61_000})
    lower, higher = (liq_burst(bars, quantile=q, floor_usd=1.0)["flag"][1_589] for q in (0.97, 0.99))
    assert (lower, higher) == (True, False)


def test_a_steady_flow_above_the_floor_is_no_burst_and_the_first_day_is_not_judged() -> None:
    flag = liq_burst(forced(1_600, 100_000, {}), floor_usd=90_000.0)["flag"]
    assert flag[-1] is False
    # 0.8 x 1,440 = 1,152 windows of 30 minutes, the first whole one in minute 30, then 30 minutes of the window
    assert flag.is_null().sum() == 30 + 1_152 + 30 - 2


def test_what_is_below_the_floor_is_no_burst_even_where_the_usual_is_not_known() -> None:
    flag = liq_burst(forced(100, 1_000, {}), floor_usd=90_000.0)["flag"]
    assert flag.to_list() == [None] * 29 + [False] * 71


def truth(
    minutes: int, adl_usd: dict[int, int | None] | None = None, fund: dict[int, float] | None = None
) -> pl.DataFrame:
    """100 M USD of open interest, 5 USD liquidated in minute 40; the fund's level changes at the minutes of `fund`."""
    level, held = None, []
    for m in range(1, minutes + 1):
        level = (fund or {}).get(m, level)
        held.append(level)
    bars = forced(minutes, 0, {40: 5}).with_columns(oi_usd=pl.lit(10**8), oi_age_s=pl.lit(0.0))
    told = [(adl_usd or {}).get(m, 0) for m in range(1, minutes + 1)]
    return bars.with_columns(pl.Series("adl_usd", told, pl.Int64), pl.Series("fund_usd", held, pl.Float64))


def test_adl_flags_the_window_after_a_deleveraging_of_any_size() -> None:
    out = adl(truth(100, {50: 1_000_000}), window_min=30)
    assert out.filter("flag")["ts"].to_list() == [at(m) for m in range(50, 80)]
    assert out["severity"][49] == pytest.approx(1.0)
    assert adl(truth(100, {50: 1}), window_min=30)["flag"].sum() == 30


def test_adl_flags_a_fund_that_was_drawn_upon_while_the_symbol_was_liquidated() -> None:
    """980 after 1,000 is 2 %: within 30 minutes of it and of the liquidation in minute 40."""
    out = adl(truth(100, fund={1: 1_000.0, 45: 980.0}), fall_pct=2.0, window_min=30)
    assert out.filter("flag")["ts"].to_list() == [at(m) for m in range(45, 70)]
    assert not adl(truth(100, fund={1: 1_000.0, 45: 980.1}), fall_pct=2.0, window_min=30)["flag"].any()
    assert not adl(truth(100, fund={1: 1_000.0, 75: 500.0}), window_min=30)["flag"].any()  # 40 + 30 = 70: another's


def test_a_deleveraging_that_is_known_decides_whatever_else_is_not() -> None:
    flag = adl(truth(100, {m: None for m in range(1, 61) if m != 50} | {50: 7}), window_min=30)["flag"]
    assert flag.to_list() == [None] * 49 + [True] * 30 + [None] * 10 + [False] * 11


def test_adl_is_null_where_deleveraging_is_not_told_unless_the_fund_decides() -> None:
    untold = dict.fromkeys(range(1, 101))
    assert adl(truth(100, untold), window_min=30)["flag"].is_null().all()
    flag = adl(truth(100, untold, {1: 1_000.0, 45: 900.0}), window_min=30)["flag"]
    assert (flag[43], flag[44], flag.sum()) == (None, True, 25)


GIVEN: dict[str, dict[str, Any]] = {
    "liq_burst": {"quantile": 0.5, "floor_usd": 1.0, "window_min": 30},
    "adl": {"fall_pct": 0.05, "window_min": 30},
}
WRONG = {"fall_pct": [0.0, float("nan")], "sigmas": [-1.0], "window_min": [0], "quantile": [0.0, 1.0, float("nan")]}
WRONG |= {"floor_usd": [0.0, float("nan")]}


def seen(minutes: int) -> pl.DataFrame:
    """A lively market, with what only a venue knows."""
    bars = rich(minutes)
    return bars.with_columns(
        adl_usd=pl.when(pl.int_range(pl.len()) % 500 == 7).then(10_000).otherwise(0),
        fund_usd=1e6 - 1e3 * (pl.int_range(pl.len()) // 300).cast(pl.Float64),
    )


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_causal(label: str) -> None:
    bars, given = seen(1_700), GIVEN.get(label, {"fall_pct": 0.05, "window_min": 30, "sigmas": 0.5})
    whole = LABELS[label](bars, **given)
    assert whole["flag"].sum() > 0
    assert_frame_equal(whole.head(1_600), LABELS[label](bars.head(1_600), **given))


@pytest.mark.parametrize(
    ("label", "name", "wrong"),
    [
        (label, name, wrong)
        for label in LABELS
        for name in inspect.signature(LABELS[label]).parameters
        for wrong in WRONG.get(name, ())
    ],
)
def test_labels_refuse_what_makes_no_sense(label: str, name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=name):
        LABELS[label](seen(5), **{name: wrong})


def test_what_only_a_venue_knows_must_be_given() -> None:
    with pytest.raises(ValueError, match="adl_usd and fund_usd"):
        adl(rich(5))


@pytest.mark.parametrize("label", LABELS)
def test_no_bars_give_no_flags_and_no_events(label: str) -> None:
    out = LABELS[label](seen(5).head(0))
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
