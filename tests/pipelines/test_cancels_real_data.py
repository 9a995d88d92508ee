"""What bars say of cancels is what a venue's own deletes say: a captured day of single orders, counted twice."""

import lzma
import math
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from features.bars import Market, Sources, bars_of
from features.cancels import cancel_branching, cancel_side, cancel_tail, cancel_to_add
from pipelines.config import Config
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake

pytestmark = pytest.mark.real_data

START, END = datetime(2015, 5, 1, tzinfo=UTC), datetime(2015, 5, 1, 6, tzinfo=UTC)
FIRST = datetime(2015, 5, 1, 0, 0, 4, 518_000, UTC)  # the first line of the capture
LAST = datetime(2015, 5, 1, 5, 4, tzinfo=UTC)  # its last whole minute
SIDES = ("bid", "ask")
EVENTS = ("add", "cancel")
SATOSHI = 1e-8
F = 10_000  # the floor of flows


@pytest.fixture(scope="module")
def lines(real_data: Path) -> pl.DataFrame:
    """The file as it is, its one repeated line once, with what the line before said of the same order."""
    told = pl.read_csv(lzma.decompress((real_data / "bitstamp-l3-2015" / "orders.csv.xz").read_bytes()))
    ts = pl.from_epoch("timestamp", "ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    return told.unique(maintain_order=True).with_columns(
        minute_of(ts), *(pl.col(name).shift().over("id").alias(f"{name}_before") for name in ("price", "volume"))
    )


def minute_of(ts: pl.Expr) -> pl.Expr:
    """The end of the minute that holds `ts`; a whole minute ends its own."""
    return ts.dt.offset_by("-1us").dt.truncate("1m").dt.offset_by("1m").alias("minute")


@pytest.fixture(scope="module")
def bars(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Bars of the capture's events; a spot market has none of its own."""
    lake = Lake(tmp_path_factory.mktemp("orders"))
    file = real_data / "bitstamp-l3-2015" / "orders.csv.xz"
    ingest("order-log", [file], lake, Config(), Choice(symbol="BTCUSD", role="spot"))
    events = lake.scan_sorted("book_events", "bitstamp", ["BTCUSD"], START, END, stored=True)["BTCUSD"]
    market = Market({"book_events": events}, {"book_events": FIRST})
    return bars_of("bitstamp", Sources({"BTCUSD": market}), START, END)


def told(lines: pl.DataFrame, event: str) -> pl.DataFrame:
    """`minute, direction, usd` of what was withdrawn (`cancel`) or came (`add`), by the file's own words.

    An order dies once, and withdraws the volume that it still carries. One whose price changes leaves its old place
    with what stays of it and comes to its new one.
    """
    usd = pl.col("volume") * SATOSHI * pl.col("price")
    moved = lines.filter(pl.col("action") == "changed", pl.col("price") != pl.col("price_before"))
    if event == "add":
        parts = [lines.filter(pl.col("action") == "created"), moved]
    else:
        gone = lines.filter(pl.col("action") == "deleted", pl.col("volume") > 0).unique("id", keep="first")
        left = pl.min_horizontal("volume", "volume_before").alias("volume")
        parts = [gone, moved.with_columns(left, price="price_before")]
    return pl.concat([part.select("minute", "direction", usd=usd) for part in parts])


@pytest.fixture(scope="module")
def both(lines: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Bars, and the file's own numbers per minute: `own_cancels`, and `own_{event}_{side}` in dollars."""
    found = bars
    for event in EVENTS:
        sides = [pl.col("usd").filter(pl.col("direction") == side).sum().alias(f"own_{event}_{side}") for side in SIDES]
        count = pl.len().cast(pl.Int64).alias(f"own_{event}s")
        own = told(lines, event).group_by(ts="minute").agg(count, *sides)
        found = found.join(own, on="ts", how="left", maintain_order="left")
    return found.with_columns(pl.col("^own_.*$").fill_null(0))


def test_every_minute_counts_the_deletes_of_the_file(both: pl.DataFrame) -> None:
    """24,338 deletes carry volume: one line stands twice, 20 orders die again after they were gone, 36 orders move."""
    assert both.height == 360
    assert both["own_cancels"].equals(both["cancels"])
    assert both["cancels"].sum() == 24_338 - 1 - 20 + 36
    assert (both["cancels"] > 0).sum() > 300


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("event", EVENTS)
def test_every_minute_has_the_dollars_of_the_file(both: pl.DataFrame, event: str, side: str) -> None:
    """Bars round a minute to whole dollars."""
    away = (pl.col(f"own_{event}_{side}") - pl.col(f"{event}_{side}_usd")).abs()
    assert both.select(away.max()).item() < 0.5 + 1e-3
    assert both[f"{event}_{side}_usd"].sum() > 10_000_000


def test_features_say_of_the_day_what_the_file_says(both: pl.DataFrame) -> None:
    """Five minutes at a time, by the file's own dollars."""
    said = both.select(cancel_side(5), cancel_to_add(5))
    own = both.select("^own_.*$").to_dict(as_series=False)
    for end in range(10, 300, 5):
        bid, ask = (math.fsum(own[f"own_cancel_{side}"][end - 5 : end]) for side in SIDES)
        came = math.fsum(usd for side in SIDES for usd in own[f"own_add_{side}"][end - 5 : end])
        want = ((bid - ask) / (bid + ask + F), math.log((bid + ask + F) / (came + F)))
        assert said.row(end - 1) == pytest.approx(want, abs=1e-4)


def test_a_dull_day_is_told_as_one(both: pl.DataFrame) -> None:
    """Makers replace 75 orders a minute: as much comes as goes, and no five minutes are rarer than one in ten."""
    day = both.select("ts", cancel_tail(5, 240), cancel_to_add(5), cancel_branching(60)).filter(pl.col("ts") <= LAST)
    tail, ratio = day["cancel_tail_5"].drop_nulls(), day["cancel_to_add_5"].drop_nulls()
    assert (tail.len(), ratio.len()) == (304 - 200, 304 - 4)  # a tail needs 5 + 4 bars and 192 of its baseline
    assert tail.to_numpy().max() < 1
    assert ratio.abs().to_numpy().max() < 0.1
    assert day["cancel_branching_60"].drop_nulls().to_numpy().max() < 0.5
