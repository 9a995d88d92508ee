"""Step `features`: chunks, hours, other venues, five-minute bars, why values are missing."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.catalogue import FAMILIES, NAMES
from features.schema import Instruments, polars_schema
from pipelines import matrix as step
from pipelines.lake import Lake
from pipelines.matrix import build_features
from pipelines.times import Interval
from tests.features.worlds import START, rich

DAY = timedelta(days=1)
DAYS = 5
SYMBOLS = ("A-PERP", "B-PERP")


def listed(venue: str, settlement: str = "linear") -> pl.DataFrame:
    """Both symbols' contracts, of the assets A and B."""
    schema = polars_schema(Instruments)
    facts = {"effective_from": START - DAY, "quote": "USD", "settlement": settlement, "contract_size": 1.0}
    rows = [{"venue": venue, "symbol": symbol, "base": symbol[0], **facts} for symbol in SYMBOLS]
    frame = pl.DataFrame(rows)
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def put(lake: Lake, venue: str, bars: pl.DataFrame) -> None:
    """The venue's bars, and a trade each that makes it a venue of the lake."""
    lake.append("instruments", listed(venue), f"instruments of {venue}")
    trade = {"trade_id": "1", "side": "buy", "price": 1.0, "qty": 1.0, "notional_usd": 1.0}
    first = bars.group_by("venue", "symbol").agg(pl.col("ts", "known_at").first())
    trades = first.with_columns(pl.lit(value).alias(name) for name, value in trade.items())
    lake.append("trades", trades, f"trades of {venue}")
    lake.replace("bars", bars, venue, START, START + DAYS * DAY)


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return pl.concat([rich(DAYS * 1440, symbol) for symbol in SYMBOLS])


@pytest.fixture
def lake(tmp_path: Path, bars: pl.DataFrame) -> Lake:
    made = Lake(tmp_path / "lake")
    put(made, "test", bars)
    return made


WHOLE = Interval(START, START + DAYS * DAY)


def stored(lake: Lake, table: str) -> pl.DataFrame:
    return lake.scan(table, "test").sort("symbol", "ts").collect()


def test_days_one_by_one_and_all_at_once_give_the_same_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    build_features(lake, "test", WHOLE)
    at_once = {table: stored(lake, table) for table in ("features", "feature_health", "hours")}
    monkeypatch.setattr(step, "CHUNK_ROWS", 1)
    for day in WHOLE.days():
        build_features(lake, "test", day)
    for table, want in at_once.items():
        assert_frame_equal(stored(lake, table), want, check_exact=True)
    assert at_once["features"].height == DAYS * 1440 * len(SYMBOLS)


def test_a_run_of_minutes_gives_the_rows_of_the_day(lake: Lake) -> None:
    build_features(lake, "test", WHOLE)
    want = stored(lake, "features")
    for first in (0, 7, 63):
        start = WHOLE.end - timedelta(hours=2) + timedelta(minutes=first)
        build_features(lake, "test", Interval(start, start + timedelta(minutes=5)))
    assert_frame_equal(stored(lake, "features"), want, check_exact=True)


def test_norms_need_three_days_and_hours_are_kept_for_them(lake: Lake) -> None:
    build_features(lake, "test", WHOLE)
    norm = stored(lake, "features").select("ts", "depth_norm")
    early, late = (
        norm.filter(pl.col("ts").is_between(START + a * DAY, START + b * DAY)) for a, b in ((0, 3), (3.1, 5))
    )
    assert early["depth_norm"].null_count() == early.height
    assert late["depth_norm"].null_count() == 0
    hours = stored(lake, "hours")
    assert hours.height == DAYS * 24 * len(SYMBOLS)
    assert set(hours["depth_n"]) == {60}


def test_hours_of_days_before_the_interval_are_built_when_they_are_missing(lake: Lake) -> None:
    """A scheduled run on a lake that has bars and no hours must not differ from a backfill."""
    last = Interval(WHOLE.end - DAY, WHOLE.end)
    build_features(lake, "test", last)
    alone = stored(lake, "features")
    build_features(lake, "test", WHOLE)
    want = stored(lake, "features").filter(pl.col("ts") > last.start)
    assert_frame_equal(alone, want, check_exact=True)
    assert alone["depth_norm"].null_count() == 0


def test_bars_that_change_late_change_the_norms_of_the_next_days(lake: Lake, bars: pl.DataFrame) -> None:
    build_features(lake, "test", WHOLE)
    before = stored(lake, "features")
    first_days = Interval(START, START + 4 * DAY)
    halved = [(pl.col(name) // 2).alias(name) for name in bars.columns if name.startswith("depth_") and "usd" in name]
    lake.replace(
        "bars", bars.filter(pl.col("ts") <= first_days.end).with_columns(halved), "test", START, first_days.end
    )
    build_features(lake, "test", first_days)
    build_features(lake, "test", Interval(first_days.end, WHOLE.end))
    after = stored(lake, "features")
    last = pl.col("ts") > WHOLE.end - timedelta(hours=3)
    assert (after.filter(last)["depth_norm"] < before.filter(last)["depth_norm"]).all()


def test_other_venues_are_peers_of_the_same_asset(lake: Lake, bars: pl.DataFrame) -> None:
    build_features(lake, "test", WHOLE)
    assert stored(lake, "features")["funding_apart"].null_count() == bars.height
    elsewhere = bars.with_columns(pl.lit("other").alias("venue"), pl.col("funding_rate") - 1e-4)
    put(lake, "other", elsewhere)
    build_features(lake, "test", WHOLE)
    apart = stored(lake, "features").select(pl.col("funding_apart").round(9))["funding_apart"].drop_nulls()
    assert apart.len() > bars.height / 2
    assert set(apart) == {round(1e-4 * 8760 / 8, 9)}


def test_bars_of_five_minutes_have_the_same_features(tmp_path: Path, bars: pl.DataFrame) -> None:
    lake = Lake(tmp_path / "five")
    fifth = bars.filter(pl.col("ts").dt.minute() % 5 == 0)
    put(lake, "test", fifth)
    summary = build_features(lake, "test", WHOLE, bar_s=300)
    assert (summary.rows, summary.bar_s, summary.features) == (fifth.height, 300, len(NAMES))
    assert min(summary.told[family] for family in ("cancels", "thin_book")) > 0.6


def test_the_summary_says_why_values_are_missing(lake: Lake, bars: pl.DataFrame) -> None:
    blind = bars.with_columns(pl.lit(None, pl.Float64).alias("index"), pl.lit(1_000.0).alias("depth_age_s"))
    lake.replace("bars", blind, "test", START, WHOLE.end)
    summary = build_features(lake, "test", WHOLE, why=True)
    assert set(summary.null_reasons) == set(FAMILIES)
    assert {"index absent", "depth stale"} <= {r for counts in summary.null_reasons.values() for r in counts}
    nulls = sum(summary.null_share[name] * summary.rows for name in NAMES)
    assert sum(sum(counts.values()) for counts in summary.null_reasons.values()) == pytest.approx(nulls)
    assert "thin_book silent" in summary.sentence()


def test_running_again_changes_nothing(lake: Lake) -> None:
    day = Interval(WHOLE.end - DAY, WHOLE.end)
    one = build_features(lake, "test", day)
    first = stored(lake, "features")
    assert build_features(lake, "test", day) == one
    assert_frame_equal(stored(lake, "features"), first, check_exact=True)


def test_no_bars_no_rows(tmp_path: Path, bars: pl.DataFrame) -> None:
    lake = Lake(tmp_path / "empty")
    put(lake, "test", bars.head(0))
    never = Interval(datetime(2031, 1, 1, tzinfo=START.tzinfo), datetime(2031, 1, 2, tzinfo=START.tzinfo))
    summary = build_features(lake, "test", never)
    assert (summary.rows, summary.symbols) == (0, 0)
    assert set(summary.told.values()) == {0.0}
