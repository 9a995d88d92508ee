"""10 October 2025 through every step, and the same day cut off at a minute: nothing earlier may change."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from features.schema import CANONICAL
from pipelines.config import Config
from pipelines.features_page import first_unusual, fitted, surprises
from pipelines.guard import guard_venue
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from pipelines.score import score_venue
from pipelines.times import Interval, parse_time

pytestmark = [pytest.mark.real_data, pytest.mark.slow]
DAY = Interval(parse_time("2025-10-10T00:00Z"), parse_time("2025-10-11T00:00Z"))
PERPS = ("AVAX", "DOT", "TRX", "WLD")  # a third of the day's symbols, so that the test stays quick
OUTPUTS = ("scores", "limits", "decisions")
VENUES = ("binance-coinm", "binance-usdm")
CASCADE = parse_time("2025-10-10T21:12Z")


def at(clock: str) -> object:
    return parse_time(f"2025-10-10T{clock}Z")


def run(lake: Lake, interval: Interval) -> None:
    for venue in VENUES:
        score_venue(lake, venue, interval, Config())
        guard_venue(lake, venue, interval, Config())


@pytest.fixture(scope="module")
def day(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("day") / "lake")
    folder = real_data / "oct10-binance-coinm-trades"
    perps = [path for path in sorted(folder.iterdir()) if any(f"_{name}USD_" in path.name for name in PERPS)]
    spots = [path for path in sorted((real_data / "oct10-spot-trades").iterdir()) if any(p in path.name for p in PERPS)]
    ingest("tardis", perps, lake, Config(), Choice(venue="binance-coinm"))
    ingest("tardis", [*spots, *(real_data / "oct10-spot-trades").glob("*BTCUSD*")], lake, Config(), Choice(role="spot"))
    ingest("binance-archive", [real_data / "oct10-binance-bookdepth"], lake, Config())
    run(lake, DAY)
    return lake


def rows(lake: Lake, table: str, until: object) -> pl.DataFrame:
    found = lake.scan(table).filter(pl.col("ts") <= until).collect()
    return found.sort(found.columns[:4])


@pytest.mark.parametrize("clock", ["14:57", "21:16"])
def test_cutting_the_day_off_changes_no_earlier_score_limit_or_decision(day: Lake, tmp_path: Path, clock: str) -> None:
    cut = parse_time(f"2025-10-10T{clock}Z")
    short = Lake(tmp_path / "short")
    for table in (*(name for name in CANONICAL if day.has(name)), "quarantine"):
        past = day.scan(table) if table == "instruments" else day.scan(table).filter(pl.col("ts") <= cut)
        short.append(table, past.collect(), "past")
    run(short, Interval(DAY.start, cut))
    for table in OUTPUTS:
        found = rows(short, table, cut)
        assert found.height > 0
        assert found.equals(rows(day, table, cut)), table


def test_every_symbol_and_the_venue_alert_before_the_cascade(day: Lake) -> None:
    before = pl.col("ts").is_between(CASCADE - timedelta(minutes=22), CASCADE, closed="left")
    alerts = day.scan("scores", "binance-coinm").filter("alert", before).collect()
    assert set(alerts["symbol"]) == {"*", *(f"{name}USD_PERP" for name in PERPS)}


def test_the_reference_period_is_never_scored(day: Lake) -> None:
    early = day.scan("scores").filter(pl.col("ts") <= at("12:00")).collect()
    assert early.height > 0
    assert early["anomaly"].null_count() == early.height


def test_the_ghost_bid_is_refused_and_holds_no_depth_rule_closed(day: Lake) -> None:
    refused = day.scan("quarantine").filter(pl.col("reason").str.contains("crossed_book")).collect()
    assert refused.height == 9_690  # 969 snapshots of ten rows
    assert refused["ts"].min() == at("15:30:42")
    limits = day.scan("limits", "binance-usdm").filter(pl.col("ts") > at("17:00")).collect()
    assert limits.height > 400
    assert (limits["action"] != "normal").all()


def test_the_ghost_bid_trips_its_own_rule_five_minutes_after_it_came_and_never_clears_it(day: Lake) -> None:
    """From 15:30:42 on every snapshot is crossed: at 15:35 that is 5 of the last 10 minutes, the limit of 50 %."""
    changes = day.scan("decisions", "binance-usdm").filter(rule="book_fault").collect().sort("ts")
    opened = changes.filter(pl.col("state_after") == "open")
    assert opened.select("ts", "action", "observed").rows() == [(at("15:35"), "reduce_only", 0.5)]
    assert changes["ts"].max() == at("15:35")
    limits = day.scan("limits", "binance-usdm").filter(pl.col("ts") >= at("15:35")).collect()
    assert set(limits["action"]) == {"reduce_only"}
    assert limits["ts"].max() > at("23:58")
    assert limits["blocked"].str.contains("open").all()


def test_a_depth_rule_that_was_open_when_the_ghost_came_stays_open(day: Lake) -> None:
    """The bid alone would have read a deep book; the thinner half had fallen to a third at 15:24."""
    changes = day.scan("decisions", "binance-usdm").filter(rule="depth_collapse").collect().sort("ts")
    assert changes.select("ts", "state_after").rows()[-1] == (at("15:24"), "open")


def test_the_quiet_hours_trip_what_moves_and_what_is_silent_alone(day: Lake) -> None:
    quiet = pl.col("ts") <= at("20:00")
    opened = day.scan("decisions", "binance-coinm").filter(pl.col("state_after") == "open", quiet).collect()
    assert set(opened["rule"]) <= {"price_band_sigma", "stale_feed"}
    paused = day.scan("limits", "binance-coinm").filter(quiet).collect()["action"].is_in(["reduce_only", "halted"])
    assert 0 < paused.mean() < 0.05  # type: ignore[operator]  # a share: the day is not empty


def test_breakers_trip_in_the_cascade(day: Lake) -> None:
    opened = day.scan("decisions", "binance-coinm").filter(
        pl.col("state_after") == "open", pl.col("ts").is_between(CASCADE, CASCADE + timedelta(minutes=15))
    )  # fmt: skip
    assert {"price_band", "mark_index_divergence", "price_halt"} <= set(opened.collect()["rule"])


def test_crowding_stays_unusual_in_every_symbol_before_the_first_liquidation(day: Lake) -> None:
    """Judged by the hours before 20:00 alone; the first liquidation is at 21:15:03."""
    known, shown = (
        Interval(parse_time(f"2025-10-10T{start}Z"), parse_time(f"2025-10-10T{end}Z"))
        for start, end in (("00:00", "20:00"), ("20:00", "21:30"))
    )
    matrix = read_matrix(day, "binance-coinm", shown)
    told = surprises(fitted(read_matrix(day, "binance-coinm", known), Config(), known), matrix)
    crowding = first_unusual(told, matrix).filter(pl.col("family") == "crowding", pl.col("since") < at("21:15"))
    assert set(crowding["symbol"]) == {f"{name}USD_PERP" for name in PERPS}
    assert crowding["since"].min() > at("20:30")  # type: ignore[operator]  # a moment
