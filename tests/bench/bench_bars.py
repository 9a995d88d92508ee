"""Bars from trades: ours beside the obvious pandas program, same rows, equal results, one run.

Run with `make bench`. The ratio of the two medians is what counts; absolute times belong to the machine.
"""

from datetime import timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from features.bars import Sources, symbol_bars
from features.schema import CANONICAL, Quarantine, polars_schema
from pipelines.times import parse_time

START = parse_time("2025-01-01T00:00Z")
END = START + timedelta(days=1)
SYMBOLS = tuple(f"S{number}" for number in range(4))
TRADES = 500_000  # of each symbol
COLUMNS = ("open", "high", "low", "close", "trades", "volume_usd", "buy_usd")


def trades_of(symbol: str) -> pl.DataFrame:
    rng = np.random.default_rng(SYMBOLS.index(symbol))
    stamps = np.sort(rng.integers(0, 86_400_000_000, TRADES)) + int(START.timestamp() * 1e6)
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-5, TRADES)))
    usd = np.floor(rng.pareto(1.5, TRADES) * 100) + 1
    frame = pl.DataFrame(
        {
            "venue": "v",
            "symbol": symbol,
            "ts": stamps,
            "trade_id": np.arange(TRADES).astype(str),
            "known_at": stamps,
            "side": np.where(rng.random(TRADES) < 0.5, "buy", "sell"),
            "price": price,
            "qty": usd / price,
            "notional_usd": usd,
        }
    )
    return frame.cast(dict(polars_schema(CANONICAL["trades"])))


@pytest.fixture(scope="module")
def trades() -> dict[str, pl.DataFrame]:
    return {symbol: trades_of(symbol) for symbol in SYMBOLS}


def ours(trades: dict[str, pl.DataFrame]) -> pl.DataFrame:
    empty = {name: pl.LazyFrame(schema=polars_schema(schema)) for name, schema in CANONICAL.items()}
    empty["quarantine"] = pl.LazyFrame(schema=polars_schema(Quarantine))
    plans = [
        symbol_bars(
            "v", symbol, Sources(empty | {"trades": rows.lazy()}, {"trades": START}, empty["trades"], None), START, END
        )
        for symbol, rows in trades.items()
    ]
    return pl.concat([plan.collect(engine="streaming") for plan in plans])


def in_pandas(trades: dict[str, pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for symbol, rows in trades.items():
        sorted_rows = rows.sort_values(["ts", "trade_id"], kind="stable")
        by_minute = sorted_rows.groupby(sorted_rows["ts"].dt.ceil("1min"))
        bars = by_minute["price"].agg(open="first", high="max", low="min", close="last")
        bars["trades"] = by_minute.size()
        bars["volume_usd"] = by_minute["notional_usd"].sum()
        buys = sorted_rows[sorted_rows["side"] == "buy"]
        bars["buy_usd"] = buys.groupby(buys["ts"].dt.ceil("1min"))["notional_usd"].sum()
        parts.append(bars.reset_index().assign(symbol=symbol))
    return pd.concat(parts)


@pytest.mark.benchmark(group="bars", min_rounds=3, warmup=True, warmup_iterations=1)
def test_ours(benchmark: BenchmarkFixture, trades: dict[str, pl.DataFrame]) -> None:
    found = benchmark(ours, trades)
    other = in_pandas({symbol: rows.to_pandas() for symbol, rows in trades.items()})
    for name in COLUMNS:  # both sorted by symbol and minute
        assert np.allclose(found[name].to_numpy(), other[name].to_numpy()), name


@pytest.mark.benchmark(group="bars", min_rounds=3, warmup=True, warmup_iterations=1)
def test_pandas(benchmark: BenchmarkFixture, trades: dict[str, pl.DataFrame]) -> None:
    frames = {symbol: rows.to_pandas() for symbol, rows in trades.items()}
    assert len(benchmark(in_pandas, frames)) == len(SYMBOLS) * 1440
