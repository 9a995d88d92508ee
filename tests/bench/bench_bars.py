"""Events to bars: ours beside a bare scan of the same files, pandas, DuckDB, a numba pass and a lazy polars plan.

`python -m tests.bench.bench_bars [--rows N] [--full]` generates a venue of 20 symbols in a temporary lake, compares
the answers of all programs to the last micro-dollar, times them in alternating rounds of one process, and then runs
each in a fresh process for its peak memory. `--full` repeats the memory part with five times the rows. What counts are
ratios: absolute times belong to the machine. Nothing is written outside of the temporary folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from features.flows import book_flows, grid_of, trade_flows
from pipelines.bars import build_bars
from pipelines.lake import Lake
from pipelines.times import Interval
from tests.bench.generated import END, SHARES, START, START_US, SYMBOLS, VENUE, fill

ROWS = 20_000_000
COLUMNS = {
    "trades": ["ts", "known_lag_us", "trade_number", "is_buy", "price", "qty", "notional_usd"],
    "book_events": ["ts", "known_lag_us", "is_bid", "event_code", "price", "qty"],
    "quotes": ["ts", "known_lag_us", "bid", "ask", "bid_qty", "ask_qty"],
}
SLOW = {
    "book_depth": ["ts", "known_lag_us", "is_bid", "band_bps", "depth_usd"],
    "marks": ["ts", "known_at", "mark", "index"],
    "funding": ["ts", "known_at", "rate", "interval_h"],
    "open_interest": ["ts", "known_at", "oi_base", "oi_usd"],
}
ANSWER = ("open", "high", "low", "close", "trades", "volume", "buys", "missing")
FLOWS = tuple(f"{event}_{side}" for event in ("add", "cancel") for side in ("ask", "bid"))
BAR_US = 60_000_000
GRID = grid_of(START, END, 60)


@cache
def paths(lake: Lake, table: str, symbol: str) -> list[str]:
    """The files of one symbol in order of time; listed once, so that no program pays for it but the step itself."""
    files = lake.files(table).filter(pl.col("symbol_min") == symbol).sort("ts_min")
    return [str(lake.path(table) / path) for path in files["path"]]


def stored(lake: Lake, table: str, symbol: str) -> pl.LazyFrame:
    return pl.scan_parquet(paths(lake, table, symbol), hive_partitioning=False)


# --- the programs: a lake in, one row per symbol and bar out ---


def ours(lake: Lake) -> pl.DataFrame:
    """Bars alone: what each bar's trades and book events say, without any join."""
    trades = trade_flows([stored(lake, "trades", symbol) for symbol in SYMBOLS], GRID)
    events, _ = book_flows([stored(lake, "book_events", symbol) for symbol in SYMBOLS], [None] * len(SYMBOLS), GRID)
    symbols = pl.Series("symbol", [symbol for symbol in SYMBOLS for _ in range(GRID.slots)])
    found = trades.select(ANSWER).hstack(events.select(FLOWS)).with_columns(symbols, GRID.ends(len(SYMBOLS)))
    return found.filter(pl.col("ts") > START, pl.col("trades").is_not_null())


def whole_job(lake: Lake) -> pl.DataFrame:
    """Step `bars` as users run it: as-of joins of quotes, depth, marks, funding and open interest; writes the table."""
    build_bars(lake, VENUE, Interval(START, END))
    return lake.scan("bars", VENUE).collect()


def _reduced(lake: Lake, tables: tuple[str, ...]) -> list[pl.LazyFrame]:
    return [
        stored(lake, table, symbol).select(pl.col(COLUMNS[table]).max().cast(pl.Float64))
        for table in tables
        for symbol in SYMBOLS
    ]


def scan(lake: Lake) -> pl.DataFrame:
    """The maximum of every column that `ours` reads."""
    return pl.concat(_reduced(lake, ("trades", "book_events")), how="diagonal").collect(engine="streaming")


def scan_all(lake: Lake) -> pl.DataFrame:
    """The maximum of every column that `whole_job` reads, of streams and of slow series."""
    plans = _reduced(lake, ("trades", "book_events", "quotes"))
    for table, columns in SLOW.items():
        files = [lake.path(table) / path for path in lake.files(table)["path"]]
        plans.append(pl.scan_parquet(files, hive_partitioning=False).select(pl.col(columns).max().cast(pl.Float64)))
    return pl.concat(plans, how="diagonal").collect(engine="streaming")


def _micro(usd: np.ndarray) -> np.ndarray:
    scaled = usd * 1e6
    whole = np.floor(scaled)
    return (whole + (scaled - whole >= 0.5)).astype(np.int64)


def in_pandas(lake: Lake) -> pl.DataFrame:
    """The obvious program: read a symbol's files, group by the minute."""
    found = []
    for symbol in SYMBOLS:
        trades = pd.read_parquet(paths(lake, "trades", symbol), columns=COLUMNS["trades"])
        micro = pd.Series(_micro((trades["price"] * trades["qty"]).to_numpy()))
        missing = trades["trade_number"].diff().sub(1).clip(lower=0).fillna(0).astype("int64")
        trades = trades.assign(bar=trades["ts"].dt.ceil("1min"), micro=micro, missing=missing)
        by_bar = trades.groupby("bar")
        bars = by_bar["price"].agg(open="first", high="max", low="min", close="last")
        bars["trades"], bars["volume"], bars["missing"] = by_bar.size(), by_bar["micro"].sum(), by_bar["missing"].sum()
        bars["lag_us"] = by_bar["known_lag_us"].max()
        bars["buys"] = trades[trades["is_buy"]].groupby("bar")["micro"].sum()
        events = pd.read_parquet(paths(lake, "book_events", symbol), columns=COLUMNS["book_events"])
        events = events.assign(
            bar=events["ts"].dt.ceil("1min"), micro=_micro((events["price"] * events["qty"]).to_numpy())
        )
        wide = events.pivot_table(index="bar", columns=["event_code", "is_bid"], values="micro", aggfunc="sum")
        for place, name in enumerate(FLOWS):
            bars[name] = wide[place // 2, bool(place % 2)]
        stamps = (
            pl.Series("ts", bars.index.tz_convert(None).to_numpy()).dt.replace_time_zone("UTC").dt.cast_time_unit("us")
        )
        found.append(pl.from_pandas(bars.fillna(0).reset_index(drop=True)).with_columns(stamps, symbol=pl.lit(symbol)))
    return pl.concat(found, how="vertical_relaxed")


TRADE_SQL = """
select ((epoch_us(ts) - 1) // 60000000 + 1) * 60000000 as us, arg_min(price, trade_number) as open, max(price) as high,
  min(price) as low, arg_max(price, trade_number) as close, count(*) as trades, sum(micro)::bigint as volume,
  (sum(micro) filter (is_buy))::bigint as buys, sum(greatest(gap - 1, 0))::bigint as missing,
  max(known_lag_us) as lag_us
from (select *, cast(round(price * qty * 1e6) as bigint) as micro,
  trade_number - lag(trade_number) over (order by trade_number) as gap from read_parquet(?)) group by us"""
EVENT_SQL = """
select ((epoch_us(ts) - 1) // 60000000 + 1) * 60000000 as us, max(known_lag_us) as lag_us, {flows}
from (select *, cast(round(price * qty * 1e6) as bigint) as micro from read_parquet(?)) group by us""".format(
    flows=", ".join(
        f"(sum(micro) filter (event_code = {place // 2} and is_bid = {bool(place % 2)}))::bigint as {name}"
        for place, name in enumerate(FLOWS)
    )
)


def in_duckdb(lake: Lake) -> pl.DataFrame:
    """The same aggregation in SQL, a symbol at a time, over the same files."""
    import duckdb

    found = []
    with duckdb.connect() as connection:
        for symbol in SYMBOLS:
            trades = connection.sql(TRADE_SQL, params=[paths(lake, "trades", symbol)]).to_arrow_table()
            events = connection.sql(EVENT_SQL, params=[paths(lake, "book_events", symbol)]).to_arrow_table()
            left, right = (pl.DataFrame(table).drop("lag_us") for table in (trades, events))
            bars = left.join(right, on="us", how="left")
            stamp = pl.col("us").cast(pl.Datetime("us", "UTC")).alias("ts")
            found.append(bars.select(pl.lit(symbol).alias("symbol"), stamp, pl.exclude("us")))
    return pl.concat(found)


@numba.njit(cache=True)
def _bare_trades(columns, whole, prices):  # type: ignore[no-untyped-def]  # numba infers the types
    ts, lag, number, is_buy, price, qty = columns
    before = number[0]
    for row in range(len(ts)):
        bar = (ts[row] - START_US - 1) // BAR_US
        scaled = price[row] * qty[row] * 1e6
        floor = np.floor(scaled)
        micro = int(floor) + (1 if scaled - floor >= 0.5 else 0)
        if whole[bar, 0] == 0:
            prices[bar, 0] = prices[bar, 1] = prices[bar, 2] = price[row]
        prices[bar, 1], prices[bar, 2] = max(prices[bar, 1], price[row]), min(prices[bar, 2], price[row])
        prices[bar, 3] = price[row]
        whole[bar, 0] += 1
        whole[bar, 1] += micro
        whole[bar, 2] += micro * is_buy[row]
        whole[bar, 3] += max(number[row] - before - 1, 0)
        whole[bar, 4] = max(whole[bar, 4], lag[row])
        before = number[row]


@numba.njit(cache=True)
def _bare_events(columns, whole):  # type: ignore[no-untyped-def]  # numba infers the types
    ts, lag, is_bid, code, price, qty = columns
    for row in range(len(ts)):
        bar = (ts[row] - START_US - 1) // BAR_US
        scaled = price[row] * qty[row] * 1e6
        floor = np.floor(scaled)
        whole[bar, code[row] * 2 + is_bid[row]] += int(floor) + (1 if scaled - floor >= 0.5 else 0)
        whole[bar, 6] = max(whole[bar, 6], lag[row])


def in_numba(lake: Lake) -> pl.DataFrame:
    """A single compiled pass over columns read whole, a symbol at a time: no order check, no null, no carry."""
    found = []
    for symbol in SYMBOLS:
        whole, prices, flows = np.zeros((1440, 5), np.int64), np.zeros((1440, 4)), np.zeros((1440, 7), np.int64)
        _bare_trades(_arrays(lake, "trades", symbol), whole, prices)
        _bare_events(_arrays(lake, "book_events", symbol), flows)
        names = ["trades", "volume", "buys", "missing"]
        bars = pl.DataFrame(prices, schema=["open", "high", "low", "close"], orient="row").hstack(
            pl.DataFrame(np.hstack([whole[:, :4], flows[:, :4]]), schema=[*names, *FLOWS], orient="row")
        )
        found.append(bars.with_columns(GRID.ends()[1:], symbol=pl.lit(symbol)).filter(pl.col("trades") > 0))
    return pl.concat(found)


def _arrays(lake: Lake, table: str, symbol: str) -> tuple[np.ndarray, ...]:
    columns = [name for name in COLUMNS[table] if name != "notional_usd"]
    frame = pl.DataFrame(ds.dataset(paths(lake, table, symbol)).to_table(columns=columns))
    flags = pl.selectors.boolean().cast(pl.UInt8)
    return tuple(column.to_physical().to_numpy() for column in frame.with_columns(flags))


def lazily(lake: Lake) -> pl.DataFrame:
    """One lazy plan per symbol, grouped by its sorted minute in the streaming engine."""
    bar = ((pl.col("ts").dt.epoch("us") - 1) // BAR_US + 1).set_sorted().alias("us")
    micro = (pl.col("price") * pl.col("qty") * 1e6).round().cast(pl.Int64)
    number, price, usd = pl.col("trade_number"), pl.col("price"), pl.col("micro")
    gap = (number - number.shift() - 1).clip(0).alias("gap")
    trades, events = [], []
    for symbol in SYMBOLS:
        of_symbol = stored(lake, "trades", symbol).select(bar, "price", "is_buy", "known_lag_us", gap, micro=micro)
        aggregates = (
            price.first().alias("open"), price.max().alias("high"), price.min().alias("low"),
            price.last().alias("close"), pl.len().cast(pl.Int64).alias("trades"), usd.sum().alias("volume"),
            usd.filter("is_buy").sum().alias("buys"), pl.col("gap").sum().alias("missing"),
            pl.col("known_lag_us").max(),
        )  # fmt: skip
        trades.append(of_symbol.group_by("us").agg(*aggregates).with_columns(symbol=pl.lit(symbol)))
        flow = (pl.col("event_code") * 2 + pl.col("is_bid").cast(pl.Int8)).alias("flow")
        of_book = stored(lake, "book_events", symbol).select(bar, flow, "known_lag_us", micro=micro)
        sums = [usd.filter(pl.col("flow") == place).sum().alias(name) for place, name in enumerate(FLOWS)]
        events.append(
            of_book.group_by("us").agg(*sums, pl.col("known_lag_us").max()).with_columns(symbol=pl.lit(symbol))
        )
    left, right = (pl.concat(plans).collect(engine="streaming").drop("known_lag_us") for plans in (trades, events))
    stamp = (pl.col("us") * BAR_US).cast(pl.Datetime("us", "UTC")).alias("ts")
    return left.join(right, on=["symbol", "us"], how="left").with_columns(stamp)


PROGRAMS: dict[str, Callable[[Lake], pl.DataFrame]] = {
    "scan of the same columns": scan,
    "ours: bars alone": ours,
    "numba, whole columns": in_numba,
    "polars, lazy group-by": lazily,
    "DuckDB": in_duckdb,
    "pandas": in_pandas,
    "scan, quotes too": scan_all,
    "ours: step bars": whole_job,
}
ALONE = "scan of the same columns", "ours: bars alone"
WHOLE = "scan, quotes too", "ours: step bars"


# --- measuring ---


def agree(lake: Lake, names: list[str]) -> None:
    """Raise AssertionError where a program's bars are not ours: prices and micro-dollars to the last digit."""
    order = ["symbol", "ts", *ANSWER, *FLOWS]
    expected = ours(lake).select(order).sort("symbol", "ts")
    for name in names:
        found = PROGRAMS[name](lake)
        if "close" not in found.columns or name == WHOLE[1]:
            continue
        priced = found.filter(pl.col("trades") > 0)
        same = priced.select(order).cast(dict(expected.schema)).with_columns(pl.col(*FLOWS, "buys").fill_null(0))
        whole = expected.filter(pl.col("trades").is_not_null()).with_columns(pl.col(*FLOWS, "buys").fill_null(0))
        assert same.sort("symbol", "ts").equals(whole), f"{name} found other bars"


def timed(lake: Lake, names: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds of each program over alternating rounds."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            cpu, wall = time.process_time(), time.perf_counter()
            PROGRAMS[name](lake)
            seen[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(cpu for cpu, _ in some), statistics.median(wall for _, wall in some))
        for name, some in seen.items()
    }


def peak_mb(root: Path, name: str) -> float:
    """Largest resident size of a fresh process that runs one program, imports included."""
    command = [sys.executable, "-m", "tests.bench.bench_bars", "--program", name, "--lake", str(root)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak_mb"])


def _own_peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _known_programs() -> list[str]:
    try:
        import duckdb  # noqa: F401 - only whether it is there
    except ImportError:
        print("DuckDB is not installed: left out", file=sys.stderr)
        return [name for name in PROGRAMS if name != "DuckDB"]
    return list(PROGRAMS)


def _show(rows: int, found: dict[str, tuple[float, float]], peaks: list[dict[str, float]]) -> Table:
    titles = ["program", "CPU s", "wall s", "M rows / CPU s", "scan CPU / CPU", "scan wall / wall"]
    table = Table(*titles, *(f"peak MB{' x 5' * place}" for place in range(len(peaks))))
    for name, (cpu, wall) in found.items():
        base_cpu, base_wall = found[WHOLE[0] if name in WHOLE else ALONE[0]]
        read = rows if name in WHOLE else rows * (1 - SHARES["quotes"])
        cells = [f"{cpu:.2f}", f"{wall:.2f}", f"{read / cpu / 1e6:.1f}", f"{base_cpu / cpu:.2f}"]
        table.add_row(name, *cells, f"{base_wall / wall:.2f}", *(f"{peak[name]:.0f}" for peak in peaks))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="memory with five times the rows, too")
    parser.add_argument("--program", help="run one program once and print its peak memory")
    parser.add_argument("--lake", type=Path)
    given = parser.parse_args()
    if given.program:
        PROGRAMS[given.program](Lake(given.lake))
        print(json.dumps({"peak_mb": _own_peak_mb()}))
        return
    names = _known_programs()
    with tempfile.TemporaryDirectory(prefix="bench-bars-") as folder:
        lake, cpu_s, wall_s, rows = fill(Path(folder) / "lake", given.rows)
        size = sum(lake.files(table)["bytes"].sum() for table in SHARES)
        print(
            f"ingest: {rows:,} rows through the lake's writer in {cpu_s:.1f} CPU s, {wall_s:.1f} s: "
            f"{rows / cpu_s / 1e6:.2f} M rows per CPU second, {size / rows:.1f} bytes a row",
            flush=True,
        )
        agree(lake, names)
        found = timed(lake, names, given.rounds)
        peaks = [{name: peak_mb(lake.root, name) for name in names}]
        if given.full:
            large, *_ = fill(Path(folder) / "large", given.rows * 5)
            peaks.append({name: peak_mb(large.root, name) for name in names})
        Console(width=140).print(_show(rows, found, peaks))


if __name__ == "__main__":
    main()
