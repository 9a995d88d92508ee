"""Small synthetic markets for the feature tests: complete minute grids in the shape of `Bars` and `Structure`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from features.schema import Bars, Structure, polars_schema

START = datetime(2025, 1, 1, tzinfo=UTC)


def grid(minutes: int, symbol: str = "A-PERP", venue: str = "test") -> pl.DataFrame:
    """Key columns and nothing else: every other column of `Bars` is null."""
    ts = pl.datetime_range(START + timedelta(minutes=1), START + timedelta(minutes=minutes), "1m", eager=True)
    key = pl.DataFrame({"ts": ts.cast(pl.Datetime("us", "UTC"))}).select(
        pl.lit(venue).alias("venue"), pl.lit(symbol).alias("symbol"), "ts", pl.col("ts").alias("known_at")
    )
    return with_schema(key)


def with_schema(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with every column of `Bars`, in order and of the right type; absent columns are null."""
    schema = polars_schema(Bars)
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def bars_from(symbol: str = "A-PERP", **columns: Any) -> pl.DataFrame:
    """Bars of one symbol from the columns given; the rest is null."""
    minutes = len(next(iter(columns.values())))
    values = pl.DataFrame(columns, strict=False)
    return with_schema(grid(minutes, symbol).drop(list(columns)).hstack(values))


def rich(minutes: int, symbol: str = "A-PERP", seed: int = 0) -> pl.DataFrame:
    """A market with every table present, quiet and busy spells, and a price that leaves its index."""
    rng = np.random.default_rng([seed, sum(symbol.encode())])
    busy = np.exp(np.repeat(rng.normal(0, 0.7, minutes // 30 + 1), 30)[:minutes])
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, minutes) * 3e-4 * busy))
    opened = np.concatenate([close[:1], close[:-1]])
    spread = np.abs(rng.normal(0, 2e-4, (2, minutes)))

    def usd(scale: float) -> Any:
        return (rng.lognormal(np.log(scale), 0.5, minutes) * busy).astype(np.int64)

    buy, sell = usd(2e5), usd(2e5)
    columns: dict[str, Any] = {
        "open": opened,
        "close": close,
        "high": np.maximum(opened, close) * (1 + spread[0]),
        "low": np.minimum(opened, close) * (1 - spread[1]),
        "trades": rng.poisson(40 * busy) + 1,
        "volume_usd": buy + sell,
        "buy_usd": buy,
        "sell_usd": sell,
        "trade_age_s": rng.uniform(0, 5, minutes),
        "trade_ids_missing": rng.poisson(0.3 * busy),
        "latency_ms_max": rng.lognormal(4, 0.5, minutes),
        "mark": close * (1 + rng.normal(0, 1e-4, minutes)),
        "mark_age_s": rng.uniform(0, 3, minutes),
        "index": close * (1 + np.cumsum(rng.normal(0, 2e-5, minutes))),
        "index_age_s": rng.uniform(0, 3, minutes),
        "depth_age_s": rng.uniform(0, 30, minutes),
        "depth_unchanged_s": rng.uniform(0, 60, minutes),
        "book_rows_crossed": rng.poisson(0.1, minutes),
        "book_rows_frozen": rng.poisson(0.1, minutes),
        "rows_refused": rng.poisson(0.2, minutes),
        "funding_rate": np.repeat(rng.normal(1e-4, 1e-4, minutes // 480 + 1), 480)[:minutes],
        "funding_interval_h": np.full(minutes, 8.0),
        "funding_age_s": (np.arange(minutes) % 480) * 60.0,
        "oi_base": 1e6 * np.exp(np.cumsum(rng.normal(0, 3e-4, minutes))),
        "oi_age_s": (np.arange(minutes) % 5) * 60.0,
        "liqs": rng.poisson(0.2, minutes),
        "liq_long_usd": rng.poisson(0.2, minutes) * 10_000,
        "liq_short_usd": rng.poisson(0.2, minutes) * 10_000,
    }
    columns |= {
        f"depth_{side}_{band}bps_usd": usd(band * 1e4) for side in ("bid", "ask") for band in (20, 100, 200, 500)
    }
    columns |= {f"{what}_{side}_usd": usd(5e5) for side in ("bid", "ask") for what in ("add", "cancel")}
    columns |= {"adds": rng.poisson(100, minutes), "cancels": rng.poisson(100, minutes)}
    columns["oi_usd"] = (columns["oi_base"] * close).astype(np.int64)
    return bars_from(symbol, **columns)


def rich_structure(bars: pl.DataFrame, seed: int = 0, every_min: int = 15) -> pl.DataFrame:
    """A snapshot of structure every `every_min` minutes, known a minute later."""
    rng = np.random.default_rng(seed)
    rows = bars.filter(pl.col("ts").dt.epoch("s") // 60 % every_min == 0).select("venue", "symbol", "ts")
    n = rows.height
    facts = {
        "fuel_long_500bps_usd": rng.lognormal(14, 1, n).astype(np.int64),
        "fuel_short_500bps_usd": rng.lognormal(14, 1, n).astype(np.int64),
        "position_usd": rng.lognormal(18, 0.2, n).astype(np.int64),
        "leverage_p50": rng.uniform(2, 6, n),
        "leverage_p90": rng.uniform(8, 20, n),
        "largest_share": rng.uniform(0.01, 0.3, n),
    }
    known = rows.with_columns((pl.col("ts") + timedelta(minutes=1)).alias("known_at"))
    return (
        known.hstack(pl.DataFrame(facts)).select(polars_schema(Structure).names()).cast(dict(polars_schema(Structure)))
    )
