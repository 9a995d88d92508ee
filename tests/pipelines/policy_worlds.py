"""Policies with other numbers, and lakes of bars on which a trip can be placed to the minute."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features.schema import Bars, Instruments, Marks, polars_schema
from pipelines.lake import Lake
from pipelines.times import parse_time

SHIPPED = Path(__file__).parents[2] / "guardrails" / "policy.toml"
T0 = parse_time("2025-06-01T00:00Z")
UNPUBLISHED = 'not_published = ["positions", "collateral", "fund", "liquidations"]'  # by the lakes made here
CALM = {
    "trade_age_s": 1.0, "mark": 100.0, "mark_age_s": 1.0, "index": 100.0, "index_age_s": 1.0,
    "depth_bid_100bps_usd": 40_000_000, "depth_ask_100bps_usd": 50_000_000, "depth_age_s": 5.0,
    "depth_unchanged_s": 5.0, "book_rows_crossed": 0, "book_rows_frozen": 0, "oi_usd": 1_000_000_000, "oi_age_s": 60.0,
}  # fmt: skip


def text(version: int = 1, since: str = "2015-01-01T00:00:00Z", *changes: tuple[str, str]) -> str:
    """The shipped policy with another version, date and lines, for the venue of `stored`."""
    written = SHIPPED.read_text(encoding="utf-8").replace("not_published = []", UNPUBLISHED)
    written = written.replace("sigma_floor_1h = 0.01", "sigma_floor_1h = 1")  # that band speaks of the same moves
    for old, new in (("version = 1 ", f"version = {version} "), ("2015-01-01T00:00:00Z", since), *changes):
        assert written.count(old) == 1, old
        written = written.replace(old, new)
    return written


def folder(path: Path, *texts: str) -> Path:
    path.mkdir(exist_ok=True)
    for number, written in enumerate(texts, 1):
        (path / f"{number}.toml").write_text(written, encoding="utf-8")
    return path


def stored(path: Path, minutes: int, closes: dict[str, dict[int, float]], first: datetime = T0) -> Lake:
    """A lake of bars from the first minute after `first`, at a price of 100 but in the minutes of `closes`.

    One mark makes the lake hold the venue.
    """
    rows = [
        CALM | {"venue": "v", "symbol": symbol, "ts": first + timedelta(minutes=i), "close": moved.get(i, 100.0)}
        for symbol, moved in closes.items()
        for i in range(1, minutes + 1)
    ]
    named = {"base": "X", "quote": "USD", "settlement": "linear", "contract_size": 1.0, "effective_from": first}
    symbols = [{"venue": "v", "symbol": symbol, **named} for symbol in closes]
    mark = {"venue": "v", "symbol": "A", "ts": first + timedelta(minutes=1), "mark": 100.0, "known_at": first}
    lake = Lake(path)
    with lake.writer():
        lake.append("marks", shaped([mark], polars_schema(Marks)), "mark")
        lake.replace("bars", shaped(rows, polars_schema(Bars)), "v", first, first + timedelta(minutes=minutes))
        lake.append("instruments", shaped(symbols, polars_schema(Instruments)), "symbols")
    return lake


def shaped(rows: list[dict[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """The rows as a table, null in every column that they lack."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(lacking).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
