"""Small synthetic markets for the feature tests: complete minute grids in the shape of `Bars` and `Structure`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from features.matrix import feature_matrix
from features.norms import NORMS, hour_end
from features.peers import PEERS
from features.schema import DEPTH_BANDS_BPS, MEASURES, Bars, Structure, polars_schema

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
    opened *= 1 + np.random.default_rng([seed, sum(symbol.encode()), 1]).normal(0, 5e-5, minutes)  # gaps between bars
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
    columns |= {"adds": rng.poisson(100 * busy), "cancels": rng.poisson(100 * busy)}
    for what, side in product(("add", "cancel"), ("bid", "ask")):
        shares = np.sort(rng.uniform(0.05, 1.0, (len(DEPTH_BANDS_BPS), minutes)), axis=0)
        for band, share in zip(DEPTH_BANDS_BPS, shares, strict=True):
            columns[f"{what}_{side}_{band}bps_usd"] = (columns[f"{what}_{side}_usd"] * share).astype(np.int64)
    columns |= {f"book_trade_{side}_usd": usd(2e5) for side in ("bid", "ask")}
    half = rng.lognormal(-9.5, 0.4, minutes) * busy
    columns |= {"bid": close * (1 - half), "ask": close * (1 + half), "quote_age_s": rng.uniform(0, 5, minutes)}
    columns["spread_bps"] = 2e4 * (columns["ask"] - columns["bid"]) / (columns["ask"] + columns["bid"])
    columns["spread_bps_max"] = columns["spread_bps"] * (1 + rng.exponential(0.5, minutes))
    columns["imbalance"] = rng.uniform(-0.9, 0.9, minutes)
    columns["book_gaps"] = rng.poisson(0.05, minutes)
    columns["oi_usd"] = (columns["oi_base"] * close).astype(np.int64)
    return bars_from(symbol, **columns)


def rich_structure(bars: pl.DataFrame, seed: int = 0, every_min: int = 15) -> pl.DataFrame:
    """A snapshot of structure every `every_min` minutes, known a minute later."""
    rng = np.random.default_rng(seed)
    rows = bars.filter(pl.col("ts").dt.epoch("s") // 60 % every_min == 0).select("venue", "symbol", "ts")
    n = rows.height
    fuel = np.sort(rng.lognormal(14, 1, (2, 3, n)), axis=1).astype(np.int64)
    facts = {
        f"fuel_{side}_{band}bps_usd": fuel[i, j]
        for i, side in enumerate(("long", "short"))
        for j, band in enumerate((100, 200, 500))
    }
    leverage = np.sort(rng.lognormal(1.8, 0.6, (6, n)), axis=0)
    facts |= {f"leverage_p{q}": leverage[i] for i, q in enumerate((10, 25, 50, 75, 90, 99))}
    facts |= {f"over_{x}x_share": rng.uniform(0.0, 1.0, n) for x in (10, 20, 50)}
    facts |= {
        "position_usd": rng.lognormal(18, 0.2, n).astype(np.int64),
        "overdue_usd": rng.lognormal(10, 1, n).astype(np.int64),
        "margin_used": rng.uniform(0.05, 0.9, n),
        "largest_share": rng.uniform(0.01, 0.3, n),
        "accounts_effective": rng.uniform(3, 60, n),
        "top10_long_share": rng.uniform(0.2, 0.8, n),
        "collateral_other_share": rng.uniform(0.0, 0.6, n),
        "stable_over_room": rng.lognormal(-1, 0.5, n),
        "depeg_bps": rng.uniform(0, 40, n),
        "rho": rng.lognormal(-1, 0.4, n),
        "amplification": 1 + rng.lognormal(-1, 0.5, n),
        "kappa_fall": rng.lognormal(-1, 0.5, n),
        "kappa_rise": rng.lognormal(-1, 0.5, n),
        "cliff_fall_bps": rng.uniform(50, 2_000, n),
        "cliff_rise_bps": rng.uniform(50, 2_000, n),
        "distance_sd_p10": rng.uniform(0.2, 4, n),
        "trigger_share": rng.uniform(0, 0.5, n),
        "touch_q25_s": rng.lognormal(9, 1, n),
    }
    known = rows.with_columns((pl.col("ts") + timedelta(minutes=1)).alias("known_at"))
    return (
        known.hstack(pl.DataFrame(facts)).select(polars_schema(Structure).names()).cast(dict(polars_schema(Structure)))
    )


def rich_norms(bars: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Norms for every hour of `bars`, near what `rich` is like."""
    rng = np.random.default_rng([seed, 1])
    rows = bars.select("venue", "symbol", hour_end("ts")).unique().sort("symbol", "ts")
    centre = {"depth": 13.8, "touch": 12.2, "spread": 0.4, "volume": 13.0, "cancels": 13.8, "range": 1.6}
    facts: dict[str, Any] = {}
    for name in MEASURES:
        facts[f"norm_{name}_mean"] = centre.get(name, 0.0) + rng.normal(0, 0.2, rows.height)
        facts[f"norm_{name}_sd"] = rng.uniform(0.2, 0.8, rows.height)
        facts[f"norm_{name}_day_sd"] = rng.uniform(0.05, 0.4, rows.height)
        facts[f"norm_{name}_days"] = rng.integers(3, 8, rows.height)
    return rows.hstack(pl.DataFrame(facts)).select("venue", "symbol", "ts", *NORMS.names()).cast(dict(NORMS))


def rich_peers(bars: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """What three other venues say of the same assets."""
    rng = np.random.default_rng([seed, 2])
    rows = bars.select("symbol", "ts")
    funding = np.sort(rng.normal(0.1, 0.1, (3, rows.height)), axis=0)
    basis = np.sort(rng.normal(0, 3, (3, rows.height)), axis=0)
    facts: dict[str, Any] = {"peer_venues": np.full(rows.height, 3)}
    for place, how in enumerate(("min", "median", "max")):
        facts |= {f"peer_funding_{how}": funding[place], f"peer_basis_{how}_bps": basis[place]}
    return rows.hstack(pl.DataFrame(facts)).select("symbol", "ts", *PEERS.names()).cast(dict(PEERS))


@dataclass(frozen=True)
class World:
    """Everything features may read, of one venue."""

    bars: pl.DataFrame
    structure: pl.DataFrame
    norms: pl.DataFrame
    peers: pl.DataFrame
    bar_s: int = 60

    def matrix(self, since: datetime | None = None) -> pl.DataFrame:
        return feature_matrix(
            self.bars, self.structure, norms=self.norms, peers=self.peers, bar_s=self.bar_s, since=since
        )

    def until(self, moment: datetime) -> "World":
        """What was known at `moment`: a norm is known before its hour begins."""
        known = {"bars": "ts", "structure": "known_at", "peers": "ts"}
        frames = {name: getattr(self, name).filter(pl.col(column) <= moment) for name, column in known.items()}
        return World(**frames, norms=self.norms.filter(pl.col("ts") - timedelta(hours=1) <= moment), bar_s=self.bar_s)

    def each(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> "World":
        """The same change to every table."""
        parts = (self.bars, self.structure, self.norms, self.peers)
        return World(*(change(part) for part in parts), bar_s=self.bar_s)


def rich_world(minutes: int, symbols: tuple[str, ...] = ("A-PERP", "B-PERP", "C-PERP"), seed: int = 0) -> World:
    """A venue with every table present."""
    bars = pl.concat([rich(minutes, symbol, seed) for symbol in symbols])
    return World(bars, rich_structure(bars, seed), rich_norms(bars, seed), rich_peers(bars, seed))


def five_minutes(world: World) -> World:
    """The world's bars of five minutes: every fifth bar of a minute, called one of five."""
    bars = world.bars.filter(pl.int_range(pl.len()).over("symbol") % 5 == 4)
    later = pl.lit(START) + pl.duration(minutes=5 * pl.int_range(1, pl.len() + 1).over("symbol"))
    bars = bars.with_columns(later.cast(bars.schema["ts"]).alias("ts")).with_columns(known_at=pl.col("ts"))
    return World(bars, rich_structure(bars), rich_norms(bars), rich_peers(bars), bar_s=300)


def holed(world: World, seed: int, share: float = 0.002) -> World:
    """The world with runs of a few bars missing here and there, column by column, and books that go stale."""
    rng = np.random.default_rng([seed, 3])
    columns = [name for name in world.bars.columns if name not in ("venue", "symbol", "ts", "known_at")]
    n = world.bars.height

    def spells() -> Any:
        return np.convolve(rng.random(n) < share, np.ones(4), mode="same") < 0.5

    bars = world.bars.with_columns(pl.when(pl.Series(spells())).then(pl.col(name)).alias(name) for name in columns)
    stale = pl.Series(spells())
    bars = bars.with_columns(pl.when(stale).then(pl.col("depth_age_s")).otherwise(1_000.0).alias("depth_age_s"))
    return World(bars, world.structure, world.norms, world.peers, world.bar_s)


# --- the same market, seen otherwise ---

_SIDES = (("bid", "ask"), ("long", "short"), ("buy", "sell"), ("fall", "rise"))


def _other_side(name: str) -> str:
    words = name.split("_")
    swaps = {one: two for pair in _SIDES for one, two in (pair, pair[::-1])}
    return name if name == "top10_long_share" else "_".join(swaps.get(word, word) for word in words)


def mirrored(world: World) -> World:
    """Rises are falls, bids are asks, longs are shorts; prices are seen upside down, `10 000 / price`."""
    bars = world.bars.select(
        pl.col(_other_side(name) if name not in ("bid", "ask") else name).alias(name) for name in world.bars.columns
    )
    upside = {"open": "open", "high": "low", "low": "high", "close": "close", "bid": "ask", "ask": "bid"}
    upside |= {"mark": "mark", "index": "index"}
    bars = bars.with_columns((1e4 / pl.col(source)).alias(name) for name, source in upside.items())
    bars = bars.with_columns(-pl.col("funding_rate"), -pl.col("imbalance"))
    structure = world.structure.select(pl.col(_other_side(name)).alias(name) for name in world.structure.columns)
    structure = structure.with_columns((1 - pl.col("top10_long_share")).alias("top10_long_share"))
    norms = world.norms.with_columns(-pl.col("norm_basis_mean"), -pl.col("norm_funding_mean"))
    ends = {"min": "max", "max": "min", "median": "median"}
    peers = world.peers.with_columns(
        (-pl.col(f"peer_{what}_{old}{unit}")).alias(f"peer_{what}_{new}{unit}")
        for what, unit in (("funding", ""), ("basis", "_bps"))
        for new, old in ends.items()
    )
    return World(bars, structure, norms, peers, world.bar_s)


def scaled(world: World, k: int) -> World:
    """Every amount of dollars and of contracts multiplied by `k`."""

    def grown(frame: pl.DataFrame) -> pl.DataFrame:
        usd = [name for name in frame.columns if name.endswith("_usd")]
        logs = [f"norm_{name}_mean" for name in ("depth", "touch", "volume", "cancels")]
        return frame.with_columns(
            *(pl.col(name) * k for name in usd),
            *(pl.col(name) * float(k) for name in ("oi_base",) if name in frame.columns),
            *(pl.col(name) + math.log(k) for name in logs if name in frame.columns),
        )

    return world.each(grown)
