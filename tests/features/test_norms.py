"""Norms by time of day: hand arithmetic, what counts as a day, order, causality, size."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.inputs import usable
from features.norms import DAYS, DAYS_MIN, STEP, hour_end, hours_of, measure, norms_of
from features.schema import MEASURES, Hours, polars_schema
from tests.features.worlds import START, bars_from, rich

DAY_MIN = 1_440
HOUR = timedelta(hours=1)


def _wanted(day: int, hour: int, symbol: str = "A-PERP") -> pl.DataFrame:
    """The hour that ends `hour` hours into day `day`, counted from 0."""
    ts = pl.Series([START + timedelta(days=day, hours=hour)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"venue": ["test"], "symbol": [symbol], "ts": ts})


def _volumes(days: Sequence[Sequence[int | None]]) -> pl.DataFrame:
    """A first hour of each day with these volumes, the rest of the day silent."""
    return bars_from(volume_usd=[v for day in days for v in [*day, *[None] * (DAY_MIN - len(day))]])


def _log(volume: float) -> float:
    return math.log(volume + 10_000)


def test_an_hour_by_hand() -> None:
    """30 minutes of log(20 000), 30 of log(40 000), in steps of 1e-4."""
    bars = _volumes([[10_000] * 30 + [30_000] * 30])
    row = hours_of(usable(bars)).row(0, named=True)
    one, two = round(_log(10_000) / STEP), round(_log(30_000) / STEP)
    assert (one, two) == (99_035, 105_966)
    assert row["ts"] == START + HOUR
    assert row["volume_n"] == 60
    assert row["volume_sum"] == 30 * one + 30 * two
    assert row["volume_sum2"] == 30 * one**2 + 30 * two**2
    assert (row["depth_n"], row["depth_sum"]) == (0, 0)


def test_three_days_by_hand() -> None:
    """Hours of 20 000, 40 000 and 80 000: logs are log 2 apart, mean log 40 000, between days sd log 2."""
    norms = norms_of(hours_of(usable(_volumes([[10_000] * 60, [30_000] * 60, [70_000] * 60]))), _wanted(3, 1))
    row = norms.row(0, named=True)
    assert row["norm_volume_days"] == 3
    assert row["norm_volume_mean"] == pytest.approx(math.log(40_000), abs=STEP)
    assert row["norm_volume_day_sd"] == pytest.approx(math.log(2), abs=2 * STEP)
    assert row["norm_volume_sd"] == pytest.approx(math.log(2) * math.sqrt(2 / 3), abs=2 * STEP)
    assert row["norm_depth_days"] == 0
    assert row["norm_depth_mean"] is None


def test_a_day_with_half_its_bars_missing_does_not_count() -> None:
    for told, days in ((30, 4), (29, 3)):
        half = [10_000] * told + [None] * (60 - told)
        hours = hours_of(usable(_volumes([[70_000] * 60] * 3 + [half])))
        row = norms_of(hours, _wanted(4, 1)).row(0, named=True)
        assert row["norm_volume_days"] == days
        assert (row["norm_volume_mean"] == pytest.approx(_log(70_000), abs=STEP)) == (days == 3)


def test_fewer_days_than_the_least_make_no_norm() -> None:
    hours = hours_of(usable(_volumes([[10_000] * 60] * (DAYS_MIN - 1))))
    row = norms_of(hours, _wanted(DAYS_MIN - 1, 1)).row(0, named=True)
    assert row["norm_volume_days"] == DAYS_MIN - 1
    assert [row[f"norm_volume_{what}"] for what in ("mean", "sd", "day_sd")] == [None] * 3


def test_bars_of_five_minutes_need_half_of_twelve() -> None:
    bars = _volumes([[10_000] * 60] * 3).filter(pl.col("ts").dt.minute() % 5 == 0)
    hours = hours_of(usable(bars))
    assert hours["volume_n"].max() == 12
    assert norms_of(hours, _wanted(3, 1), bar_s=300)["norm_volume_days"].item() == 3
    assert norms_of(hours, _wanted(3, 1), bar_s=60)["norm_volume_days"].item() == 0


def test_a_week_is_seven_days_and_the_eighth_is_forgotten() -> None:
    hours = hours_of(usable(_volumes([[10**9] * 60] + [[10_000] * 60] * DAYS)))
    row = norms_of(hours, _wanted(DAYS + 1, 1)).row(0, named=True)
    assert row["norm_volume_days"] == DAYS
    assert row["norm_volume_mean"] == pytest.approx(_log(10_000), abs=STEP)
    assert row["norm_volume_day_sd"] == 0.0


def test_the_order_of_rows_changes_no_bit() -> None:
    bars = usable(pl.concat([rich(4 * DAY_MIN, symbol) for symbol in ("A-PERP", "B-PERP")]))
    hours = hours_of(bars)
    wanted = hours.filter(pl.col("ts") > START + timedelta(days=3)).select("venue", "symbol", "ts")
    norms = norms_of(hours, wanted)
    assert norms.height == 48
    assert norms["norm_depth_mean"].null_count() == 0
    for seed in range(3):
        mixed = hours_of(bars.sample(fraction=1.0, shuffle=True, seed=seed))
        assert mixed.equals(hours)
        assert norms_of(mixed.sample(fraction=1.0, shuffle=True, seed=seed), wanted).equals(norms)


def test_hours_in_pieces_are_the_hours_of_the_whole() -> None:
    bars = usable(rich(DAY_MIN))
    cut = pl.col("ts") <= START + timedelta(hours=7)
    pieces = pl.concat([hours_of(bars.filter(cut)), hours_of(bars.filter(~cut))])
    assert pieces.equals(hours_of(bars))
    assert pieces.columns == polars_schema(Hours).names()


def test_what_a_day_says_changes_no_norm_of_that_day() -> None:
    bars = usable(rich(5 * DAY_MIN))
    last_day = pl.col("ts") > START + timedelta(days=4)
    changed = bars.with_columns(pl.when(last_day).then(pl.col("volume_usd") * 100).otherwise(pl.col("volume_usd")))
    wanted = bars.filter(last_day).select("venue", "symbol", hour_end("ts")).unique()
    before = norms_of(hours_of(bars), wanted)
    assert before.height == 24
    assert norms_of(hours_of(changed), wanted).equals(before)
    next_day = wanted.with_columns(pl.col("ts") + timedelta(days=1))
    assert not norms_of(hours_of(changed), next_day).equals(norms_of(hours_of(bars), next_day))


@pytest.mark.parametrize(("column", "value", "name"), [("high", 1.0, "range"), ("spread_bps", -5.0, "spread")])
def test_a_bar_that_has_no_logarithm_is_left_out(column: str, value: float, name: str) -> None:
    """A high below its low, or a spread below zero, once stopped the hours of the whole venue."""
    wrong = pl.when(pl.int_range(pl.len()) == 5).then(value).otherwise(pl.col(column)).alias(column)
    hours = hours_of(usable(rich(60).with_columns(wrong)))
    assert hours[f"{name}_n"].to_list() == [59]
    assert hours["volume_n"].to_list() == [60]


def test_an_hour_that_is_there_twice_is_refused() -> None:
    hours = hours_of(usable(rich(60)))
    with pytest.raises(ValueError, match="some repeat"):
        norms_of(pl.concat([hours, hours]), _wanted(1, 1))


def test_nothing_in_gives_nothing_out() -> None:
    assert hours_of(usable(rich(1).clear())).is_empty()
    assert norms_of(hours_of(usable(rich(1).clear())), _wanted(1, 1)).is_empty()


HAND: list[tuple[str, dict[str, list[Any]], float | None]] = [
    ("depth", {"depth_bid_100bps_usd": [9_999], "depth_ask_100bps_usd": [50_000]}, math.log(10_000)),
    ("touch", {"depth_bid_20bps_usd": [9_000], "depth_ask_20bps_usd": [4_999]}, math.log(5_000)),
    ("spread", {"spread_bps": [1.99]}, math.log(2)),
    ("volume", {"volume_usd": [10_000]}, math.log(20_000)),
    ("cancels", {"cancel_bid_usd": [10_000], "cancel_ask_usd": [20_000]}, math.log(40_000)),
    ("range", {"high": [math.exp(1e-3)], "low": [1.0]}, math.log(10.5)),
    ("range", {"high": [0.9], "low": [1.0]}, None),
    ("basis", {"mark": [101.0], "index": [100.0], "trade_age_s": [0.0], "close": [50.0]}, 1.0),
    ("funding", {"funding_rate": [1e-4], "funding_interval_h": [8.0]}, 1.095),
]


@pytest.mark.parametrize(("name", "columns", "want"), HAND, ids=[row[0] for row in HAND])
def test_measure_by_hand(name: str, columns: dict[str, list[Any]], want: float | None) -> None:
    assert pl.DataFrame(columns).select(measure(name)).item() == (want if want is None else pytest.approx(want))


def test_every_measure_is_tried_by_hand() -> None:
    assert {name for name, *_ in HAND} == set(MEASURES)


def test_the_hour_of_a_bar_is_the_one_it_ends_in() -> None:
    at = [datetime(2025, 1, 1, 7, 0, tzinfo=UTC), datetime(2025, 1, 1, 23, 59, tzinfo=UTC)]
    ends = pl.DataFrame({"ts": at}).select(hour_end("ts"))["ts"].to_list()
    assert ends == [at[0], datetime(2025, 1, 2, tzinfo=UTC)]


def test_norms_of_200_symbols_take_seconds() -> None:
    """8 days of hours of 200 symbols, the norms of a day: 38,400 rows in, 4,800 out."""
    one = hours_of(usable(rich(8 * DAY_MIN)))
    hours = pl.concat([one.with_columns(symbol=pl.lit(f"S{number:03}")) for number in range(200)])
    wanted = hours.filter(pl.col("ts") > START + timedelta(days=7)).select("venue", "symbol", "ts")
    begun = time.perf_counter()
    norms = norms_of(hours, wanted)
    assert time.perf_counter() - begun < 10
    assert norms.height == wanted.height == 200 * 24
    assert norms.estimated_size() < 4e6
    assert np.unique(norms["norm_depth_mean"].to_numpy()).size == 24
