"""The defects that real files are known to hold, found without being told: the doctor over frames shaped from them."""

import gzip
import json
import lzma
from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from features.schema import CANONICAL, polars_schema
from pipelines.doctoring.checks import examined
from tests.pipelines.doctor_worlds import evidence

pytestmark = pytest.mark.real_data


def shaped(table: str, frame: pl.DataFrame, **more: pl.Expr) -> pl.DataFrame:
    """`frame` in the canonical columns of `table`: those of `more`, those it has, null for the rest."""
    wide = frame.with_columns(**more)
    wide = wide.with_columns(known_at="ts") if "known_at" not in wide.columns else wide
    schema = polars_schema(CANONICAL[table])
    return wide.select(
        (pl.col(name) if name in wide.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in schema.items()
    )


def utc(column: str, unit: str) -> pl.Expr:
    return pl.from_epoch(pl.col(column), unit).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")  # type: ignore[arg-type]  # ms or us


def found(check: str, **tables: pl.DataFrame) -> pl.DataFrame:
    return examined(evidence(**tables)).filter(pl.col("check") == check)


def coin_margined(folder: Path) -> pl.DataFrame:
    files = sorted(folder.glob("*.csv.gz"))
    raw = pl.concat([pl.read_csv(path, schema_overrides={"id": pl.String, "price": pl.Float64}) for path in files])
    usd = pl.col("amount").cast(pl.Float64) * 10
    return shaped(
        "trades", raw.with_columns(ts=utc("timestamp", "us"), known_at=utc("local_timestamp", "us")),
        venue=pl.col("exchange"), trade_id=pl.col("id"), notional_usd=usd, qty=usd / pl.col("price"),
    )  # fmt: skip


def test_the_crash_loses_12_359_trade_ids_in_one_hour_and_is_seen_seconds_late(real_data: Path) -> None:
    trades = coin_margined(real_data / "oct10-binance-coinm-trades")
    feed = examined(evidence(trades=trades))
    lost = feed.filter(pl.col("check") == "missing trade ids")
    assert (lost.height, lost["rows"].sum()) == (12, 12_359)
    assert lost["first"].dt.hour().unique().to_list() == [21]
    late = feed.filter(pl.col("check") == "late capture")
    assert "the worst 7.06 s at 2025-10-10 21:17:02Z" in late["what"][0]


def test_the_ghost_bid_of_10_october_is_dated(real_data: Path) -> None:
    raw = pl.read_csv(real_data / "oct10-binance-bookdepth" / "BTCUSDT-bookDepth-2025-10-10.csv.gz")
    stamp = pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC")
    side = pl.when(pl.col("percentage") < 0).then(pl.lit("bid")).otherwise(pl.lit("ask"))
    depth = shaped(
        "book_depth", raw.with_columns(ts=stamp), venue=pl.lit("b"), symbol=pl.lit("BTCUSDT"), side=side,
        band_bps=pl.col("percentage").abs() * 100, depth_usd=pl.col("notional"),
    )  # fmt: skip
    feed = examined(evidence(book_depth=depth))
    begins = feed.filter(pl.col("check") == "lopsided depth").row(0, named=True)["first"]
    assert (begins.hour, begins.minute) == (15, 30)
    anchored = feed.filter(pl.col("check") == "anchored book")
    assert anchored["severity"].to_list() == ["defect"]
    assert "bid depth within 100 bps stood still" in anchored["what"][0]


@pytest.fixture(scope="module")
def several_venues(real_data: Path) -> pl.DataFrame:
    folder = real_data / "groupm-hl-hourly-oi"
    names = {"timestamp": "ts", "coin": "symbol"}
    per_hour = pl.col("venue").is_in(["dydx", "hyperliquid", "kraken", "lighter"])
    read = {path.stem: pl.read_parquet(path).rename(names) for path in folder.glob("*.parquet")}
    size = {"qty": pl.col("size_usd") / pl.col("price"), "notional_usd": pl.col("size_usd")}
    return examined(
        evidence(
            funding=shaped(
                "funding", read["funding_rates"], rate=pl.col("funding_rate"),
                interval_h=pl.when(per_hour).then(1.0).otherwise(8.0),
            ),
            open_interest=shaped("open_interest", read["open_interest"]),
            candles=shaped(
                "candles", read["candles"].rename({"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}),
                interval_s=pl.lit(3600),
            ),
            liquidations=shaped(
                "liquidations", read["liquidations"], position_side=pl.lit("long"), seq=pl.int_range(pl.len()),
                path=pl.lit("unknown"), **size,
            ),
        )
    )  # fmt: skip


def test_the_one_venue_whose_funding_is_in_percent_is_named(several_venues: pl.DataFrame) -> None:
    units = several_venues.filter(pl.col("check") == "funding units")
    assert units["venue"].to_list() == ["lighter"]
    assert "percent taken as a share" in units["what"][0]


def test_the_venue_that_counts_in_contracts_is_named(several_venues: pl.DataFrame) -> None:
    sizes = several_venues.filter(pl.col("check") == "size units")
    assert sizes.select("venue", "table").rows() == [("okx", "candles")]


def test_the_gap_of_19_hours_that_looks_like_a_flush_is_told(several_venues: pl.DataFrame) -> None:
    falls = several_venues.filter(pl.col("check") == "change over a gap", pl.col("venue") == "hyperliquid")
    assert "-33% over 19 h from 2026-01-18 23:00:00Z" in " ".join(falls["what"])
    gaps = several_venues.filter(
        pl.col("check") == "gaps", pl.col("table") == "open_interest", pl.col("venue") == "hyperliquid"
    )
    assert gaps["rows"].to_list() == [18] * 5


def test_the_feed_that_shows_one_side_only_is_told(several_venues: pl.DataFrame) -> None:
    sides = several_venues.filter(pl.col("check") == "one-sided liquidations")
    assert sides.select("venue", "severity").rows() == [("hyperliquid", "defect")]


def test_merged_and_biased_liquidations_and_the_stray_row_are_found(real_data: Path) -> None:
    raw = pl.read_csv(real_data / "binance-liqs-jan2023" / "liqs.csv").rename({"s": "symbol"})
    stamp = pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z").dt.convert_time_zone("UTC")
    side = pl.when(pl.col("S") == "SELL").then(pl.lit("long")).otherwise(pl.lit("short"))
    rows = shaped(
        "liquidations", raw.with_columns(ts=stamp), venue=pl.lit("b"), seq=pl.int_range(pl.len()), position_side=side,
        notional_usd=pl.col("liq_amount"), path=pl.lit("market"),
    )  # fmt: skip
    feed = examined(evidence(liquidations=rows))
    checks = feed["check"].to_list()
    assert {"merged liquidations", "one-sided liquidations", "stray rows"} <= set(checks)
    stray = feed.filter(pl.col("check") == "stray rows").row(0, named=True)
    assert (stray["rows"], f"{stray['first']:%m-%d}") == (1, "01-03")


def test_captures_of_forced_orders_are_throttled_and_one_of_them_stands_twice(real_data: Path) -> None:
    for path in sorted((real_data / "binance-forceorder-sessions").glob("*.csv")):
        names = ["symbol", "S", "type", "tif", "q", "p", "ap", "state", "last", "filled", "t", "usd"]
        raw = pl.read_csv(path, has_header=False, new_columns=names, infer_schema=False, truncate_ragged_lines=True)
        number = raw.with_columns(pl.col("q", "p").cast(pl.Float64), pl.col("t").cast(pl.Int64))
        side = pl.when(pl.col("S") == "SELL").then(pl.lit("long")).otherwise(pl.lit("short"))
        rows = shaped(
            "liquidations", number.with_columns(ts=utc("t", "ms")), venue=pl.lit("b"), seq=pl.int_range(pl.len()),
            position_side=side, qty=pl.col("q"), price=pl.col("p"), notional_usd=pl.col("q") * pl.col("p"),
            path=pl.lit("market"),
        )  # fmt: skip
        assert found("throttled liquidations", liquidations=rows).height >= 1, path.name
        twice = found("repeated rows", liquidations=rows)["rows"].sum()
        assert twice == (1673 if path.name.startswith("2025-01-26") else 0)


def test_stamps_a_second_or_two_off_the_five_minute_grid_are_counted(real_data: Path) -> None:
    raw = pl.read_csv(real_data / "hlreaper-binance-oi-5m" / "BTC_oi_5m.csv.gz")
    rows = shaped(
        "open_interest",
        raw.with_columns(ts=utc("t", "ms")),
        venue=pl.lit("b"),
        symbol=pl.lit("BTC"),
        oi_base=pl.col("oi"),
    )
    row = found("stamps off the grid", open_interest=rows).row(0, named=True)
    assert row["rows"] == 5
    assert "by up to 2 s" in row["what"]


@pytest.mark.parametrize(
    ("file", "empty"),
    [
        ("bybit-5m-2025-2026/APE_USDT_USDT", 3),
        ("okx-5m-2022/BTC_USDT_USDT", 189),
        ("hyperliquid-5m-2025/BTC_USDC_USDC", 15),
    ],
)
def test_candles_without_volume_are_counted(real_data: Path, file: str, empty: int) -> None:
    raw = pl.read_ipc(real_data / f"{file}-5m-futures.feather")
    rows = shaped(
        "candles", raw, venue=pl.lit("v"), symbol=pl.lit("S"), interval_s=pl.lit(300),
        ts=pl.col("date").dt.cast_time_unit("us") + pl.duration(minutes=5),
    )  # fmt: skip
    assert found("zero-volume candles", candles=rows.with_columns(known_at="ts"))["rows"].to_list() == [empty]


def test_funding_that_jitters_by_milliseconds_is_told(real_data: Path) -> None:
    raw = pl.read_ipc(real_data / "hyperliquid-5m-2025" / "BTC_USDC_USDC-1h-funding_rate.feather")
    stamp = pl.col("date").dt.cast_time_unit("us")
    rows = shaped(
        "funding", raw.with_columns(ts=stamp), venue=pl.lit("h"), symbol=pl.lit("BTC"), rate=pl.col("open"),
        interval_h=pl.lit(1.0),
    )  # fmt: skip
    assert found("stamps off the grid", funding=rows)["rows"].to_list() == [18_638]


def test_a_capture_clock_that_is_1_26_s_slow_is_told(real_data: Path) -> None:
    rows = []
    with gzip.open(real_data / "binance-l2-diffs-2024" / "btcusd_perp_20240809.gz", "rt") as lines:
        for line in islice(lines, 10_000):
            local_ns, text = line.split(" ", 1)
            data = json.loads(text).get("data", {})
            if data.get("e") == "bookTicker":
                rows.append((data["T"] * 1000, int(local_ns) // 1000, data["u"], *(float(data[key]) for key in "bBaA")))
    names = ["t", "known", "seq", "bid", "bid_qty", "ask", "ask_qty"]
    raw = pl.DataFrame(rows, schema=names, orient="row")
    quotes = shaped(
        "quotes",
        raw.with_columns(ts=utc("t", "us"), known_at=utc("known", "us")),
        venue=pl.lit("b"),
        symbol=pl.lit("S"),
    )
    row = found("negative latency", quotes=quotes).row(0, named=True)
    assert (row["severity"], row["rows"]) == ("defect", quotes.height)
    assert "median latency -1.26 s" in row["what"]


def test_the_order_event_that_stands_twice_is_found(real_data: Path) -> None:
    raw = pl.read_csv(lzma.decompress((real_data / "bitstamp-l3-2015" / "orders.csv.xz").read_bytes()))
    event = pl.col("action").replace_strict({"created": "add", "changed": "trade", "deleted": "cancel"})
    rows = shaped(
        "book_events", raw.with_columns(ts=utc("timestamp", "ms")), venue=pl.lit("b"), symbol=pl.lit("BTCUSD"),
        seq=pl.int_range(pl.len()), side=pl.col("direction"), event=event, qty=pl.col("volume") / 1e8,
        order_id=pl.col("id").cast(pl.String),
    )  # fmt: skip
    assert found("repeated rows", book_events=rows)["rows"].to_list() == [1]
