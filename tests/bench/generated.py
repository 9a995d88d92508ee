"""A generated venue of 20 symbols for benchmarks: trades, book events, quotes, depth and slow series of one day.

Ticks, sizes, latencies and the spread of activity over symbols are made to look like a real venue's; the files are
written by the lake's own writer, in slices of the day.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.lake import SCHEMAS, Lake
from pipelines.times import parse_time

VENUE = "bench"
START = parse_time("2025-01-01T00:00Z")
END = START + timedelta(days=1)
DAY_US = 86_400_000_000
SYMBOLS = tuple(f"SYM{place:02d}" for place in range(20))
SHARES = {"trades": 0.25, "book_events": 0.65, "quotes": 0.10}  # of all rows
SLICE_ROWS_MAX = 2_000_000
START_US = int(START.timestamp() * 1e6)
PRICES = (60_000.0, 3_000.0, 150.0, 1.0, 0.5, 20.0, 7.0, 0.08, 300.0, 90.0)


@dataclass
class Market:
    """One symbol's walk through the day; rows come slice by slice, each later than the one before."""

    symbol: str
    rows: int
    rng: np.random.Generator
    price: float
    decimals: int
    ids: int = 1_000_000_000

    def slices(self) -> list[tuple[int, int, int]]:
        """(from, to, rows) of each slice of the day, in microseconds."""
        count = -(-self.rows // SLICE_ROWS_MAX)
        ends = np.linspace(0, DAY_US, count + 1).astype(np.int64)
        return [(int(a), int(b), self.rows // count) for a, b in pairwise(ends)]

    def _stamps(self, since: int, until: int, rows: int) -> pl.Series:
        return pl.Series(np.sort(self.rng.integers(since + 1, until + 1, rows)) + START_US)

    def _walk(self, rows: int) -> np.ndarray:
        ticks = np.rint(self.price * np.exp(np.cumsum(self.rng.normal(0, 2e-6, rows))) * 10**self.decimals)
        return ticks / 10**self.decimals

    def _sizes(self, rows: int, mean: float) -> np.ndarray:
        lots = 10 ** max(0, 6 - self.decimals)
        return np.maximum(np.rint(self.rng.lognormal(mean, 1.5, rows) * 1_000 / self.price * lots), 1) / lots

    def _base(self, since: int, until: int, rows: int) -> dict[str, object]:
        stamps = self._stamps(since, until, rows)
        late = np.rint(self.rng.lognormal(9, 0.8, rows)).astype(np.int64)  # about 8 ms
        self.ids += 3 * rows
        steps = self.rng.choice([1, 1, 1, 1, 1, 1, 1, 1, 1, 2], rows)
        return {
            "venue": pl.repeat(VENUE, rows, eager=True),
            "symbol": pl.repeat(self.symbol, rows, eager=True),
            "ts": stamps,
            "known_at": stamps + late,
            "seq": self.ids - 3 * rows + np.cumsum(steps),
        }

    def _flag(self, rows: int, yes: str, no: str) -> pl.Series:
        return pl.Series(self.rng.random(rows) < 0.5).replace_strict({True: yes, False: no}, return_dtype=pl.String)

    def trades(self, since: int, until: int, rows: int) -> pl.DataFrame:
        base, price, qty = self._base(since, until, rows), self._walk(rows), self._sizes(rows, 0)
        own = {"trade_id": pl.Series(base.pop("seq")).cast(pl.String), "side": self._flag(rows, "buy", "sell")}
        return pl.DataFrame(base | own | {"price": price, "qty": qty, "notional_usd": price * qty})

    def book_events(self, since: int, until: int, rows: int) -> pl.DataFrame:
        events = pl.Series(self.rng.choice(3, rows, p=[0.5, 0.45, 0.05]))
        kinds = {0: "add", 1: "cancel", 2: "trade"}
        side = self._flag(rows, "bid", "ask")
        away = np.abs(self.rng.normal(0, 0.002, rows)) * np.where((side == "bid").to_numpy(), -1, 1)
        own = {
            "side": side,
            "event": events.replace_strict(kinds, return_dtype=pl.String),
            "price": np.round(self._walk(rows) * (1 + away), self.decimals),
            "qty": self._sizes(rows, 1),
            "order_id": pl.Series([None], dtype=pl.String).new_from_index(0, rows),
        }
        return pl.DataFrame(self._base(since, until, rows) | own)

    def quotes(self, since: int, until: int, rows: int) -> pl.DataFrame:
        bid, tick = self._walk(rows), 10.0**-self.decimals
        own = {
            "bid": bid,
            "bid_qty": self._sizes(rows, 2),
            "ask": np.round(bid + tick * self.rng.integers(1, 4, rows), self.decimals),
            "ask_qty": self._sizes(rows, 2),
        }
        return pl.DataFrame(self._base(since, until, rows) | own)


def markets(rows: int) -> list[Market]:
    """The symbols of a venue with `rows` rows in all: few busy ones, many quiet ones."""
    weights = np.array([(place + 1) ** -0.8 for place in range(len(SYMBOLS))])
    counts = (weights / weights.sum() * rows).astype(int)
    found = []
    for place, (symbol, count) in enumerate(zip(SYMBOLS, counts, strict=True)):
        price = PRICES[place % len(PRICES)]
        decimals = max(0, 4 - int(np.floor(np.log10(price))))
        found.append(Market(symbol, int(count), np.random.default_rng(place), price, decimals))
    return found


def fill(root: Path, rows: int) -> tuple[Lake, float, float, int]:
    """A lake below `root` with about `rows` rows; CPU and wall seconds that its writer took, and the rows."""
    lake, cpu_s, wall_s, written = Lake(root), 0.0, 0.0, 0
    for market in markets(rows):
        for since, until, count in market.slices():
            for table, share in SHARES.items():
                made = getattr(market, table)(since, until, int(count * share))
                frame = made.select(SCHEMAS[table].names()).cast(dict(SCHEMAS[table]))
                cpu, wall = time.process_time(), time.perf_counter()
                lake.append(table, frame, f"{table} {market.symbol} {since}")
                cpu_s, wall_s = cpu_s + time.process_time() - cpu, wall_s + time.perf_counter() - wall
                written += frame.height
    _fill_slow(lake)
    return lake, cpu_s, wall_s, written


def _fill_slow(lake: Lake) -> None:
    """Instruments, depth every 30 s, marks every 10 s, open interest every 5 min, funding every 8 h."""
    key = pl.DataFrame({"venue": VENUE, "symbol": list(SYMBOLS)})
    instruments = {
        "effective_from": START - timedelta(days=1), "base": "B", "quote": "USD", "settlement": "linear",
        "contract_size": 1.0,
    }  # fmt: skip
    _put(lake, "instruments", key.with_columns(pl.lit(value).alias(name) for name, value in instruments.items()))
    bands = pl.DataFrame({"band_bps": [20, 100, 200, 500]}).join(pl.DataFrame({"side": ["bid", "ask"]}), how="cross")
    usd = (pl.col("band_bps") * 10_000 + pl.col("ts").dt.epoch("s") % 977).cast(pl.Float64)
    _put(lake, "book_depth", _every(key, 30).join(bands, how="cross").with_columns(depth_usd=usd))
    price = 100 + pl.col("ts").dt.epoch("s") % 13
    _put(lake, "marks", _every(key, 10).with_columns(mark=price, index=price + 0.1, last=price))
    _put(lake, "open_interest", _every(key, 300).with_columns(oi_base=price * 10, oi_usd=price * 1_000))
    _put(lake, "funding", _every(key, 28_800).with_columns(rate=1e-4, interval_h=8.0))


def _every(key: pl.DataFrame, step_s: int) -> pl.DataFrame:
    step = timedelta(seconds=step_s)
    stamps = pl.datetime_range(START + step, END, step, time_unit="us", time_zone="UTC", eager=True)
    return key.join(pl.DataFrame({"ts": stamps, "known_at": stamps + timedelta(milliseconds=50)}), how="cross")


def _put(lake: Lake, table: str, rows: pl.DataFrame) -> None:
    schema = SCHEMAS[table]
    whole = rows.with_columns(pl.lit(None).alias(name) for name in schema.names() if name not in rows.columns)
    lake.append(table, whole.select(schema.names()).cast(dict(schema)), table)
