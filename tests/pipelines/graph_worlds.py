"""A small lake with positions, made by hand: marks of 100 and 10, depth 1M within 1 % on the thin side of A."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.lake import SCHEMAS, Lake

START = datetime(2025, 10, 10, tzinfo=UTC)
SNAPSHOT = START + timedelta(hours=12)
SEEN = SNAPSHOT + timedelta(seconds=2)
VENUE = "testex"
TIERS = [{"notional_usd_max": None, "maintenance_rate": 0.01, "deduction_usd": 0.0, "leverage_max": 50.0}]
Position = tuple[str, str, float, float | None]  # account, symbol, qty, isolated margin


@dataclass(frozen=True)
class LakeOf:
    """What varies. The cross account `shared` trips when A falls by .4 %, see `tests/models/cascade/test_graph.py`."""

    symbols: Sequence[str] = ("A-PERP", "B-PERP")
    positions: Sequence[Position] = (("shared", "A-PERP", 1_000.0, None), ("shared", "B-PERP", 5_000.0, None))
    collateral: Sequence[tuple[str, str, float]] = (("shared", "USDT", 1_896.0),)
    depth_usd: dict[str, float] = field(default_factory=lambda: {"A-PERP": 1e6, "B-PERP": 1e6})
    marked: Sequence[str] | None = None  # None: all
    tiers: list[dict[str, Any]] | None = field(default_factory=lambda: list(TIERS))
    haircut: float | None = None


def price_of(place: int) -> float:
    return 100.0 if place == 0 else 10.0


def _table(name: str, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMAS[name])


def _marks(of: LakeOf) -> Iterable[dict[str, Any]]:
    """Five-minute marks that end at the price; all symbols move together."""
    moves = np.random.default_rng(1).normal(0, 0.001, 145).cumsum()
    for place, name in enumerate(of.symbols):
        if of.marked is not None and name not in of.marked:
            continue
        for step, move in enumerate((moves - moves[-1]).tolist()):
            ts = START + timedelta(minutes=5 * step)
            mark = price_of(place) * float(np.exp((place + 1) * move))
            row = {"ts": ts, "known_at": ts, "mark": mark, "index": None, "last": None}
            yield {"venue": VENUE, "symbol": name} | row


def _depths(of: LakeOf) -> Iterable[dict[str, Any]]:
    for name, usd in of.depth_usd.items():
        for minutes, factor in ((30, 7.0), (1, 1.0)):  # an older row must not be taken
            ts = SNAPSHOT - timedelta(minutes=minutes)
            for side, thick in (("bid", 1.0), ("ask", 2.0)):
                for band, share in ((20, 0.3), (100, 1.0), (500, 3.0)):
                    row = {"venue": VENUE, "symbol": name, "ts": ts, "known_at": ts, "side": side, "band_bps": band}
                    yield row | {"depth_usd": usd * factor * thick * share}


def _instruments(of: LakeOf) -> Iterable[dict[str, Any]]:
    for name in of.symbols:
        row = dict.fromkeys(SCHEMAS["instruments"].names())
        named = {"venue": VENUE, "symbol": name, "effective_from": START, "base": name.split("-")[0], "quote": "USDT"}
        yield row | named | {"settlement": "linear", "contract_size": 1.0, "tiers": of.tiers, "haircut": of.haircut}


def build(root: Path, of: LakeOf | None = None) -> Lake:
    of = of or LakeOf()
    lake = Lake(root)
    places = {name: place for place, name in enumerate(of.symbols)}
    stamp = {"venue": VENUE, "ts": SNAPSHOT, "known_at": SEEN}
    positions = [
        stamp | {"account": account, "symbol": symbol, "qty": qty, "entry_price": price_of(places[symbol])}
        | {"margin_mode": "cross" if margin is None else "isolated", "isolated_margin": margin}
        for account, symbol, qty, margin in of.positions
    ]  # fmt: skip
    collateral = [stamp | {"account": a, "asset": asset, "amount": amount} for a, asset, amount in of.collateral]
    lake.append("positions", _table("positions", positions), "positions")
    lake.append("collateral", _table("collateral", collateral), "collateral")
    lake.append("marks", _table("marks", _marks(of)), "marks")
    lake.append("book_depth", _table("book_depth", _depths(of)), "book_depth")
    lake.append("instruments", _table("instruments", _instruments(of)), "instruments")
    return lake
