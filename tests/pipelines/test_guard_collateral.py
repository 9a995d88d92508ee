"""Collateral that is no dollar is worth what its market said when the snapshot was known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from features.schema import Collateral, Instruments, Marks, polars_schema
from pipelines.config import Config
from pipelines.guard import guard_venue, priced_collateral
from pipelines.lake import Lake
from pipelines.simulate import simulate_venue
from pipelines.times import Interval

T0 = datetime(2025, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def held(asset: str, minutes: float) -> dict[str, object]:
    return {"venue": "v", "account": "a", "asset": asset, "ts": at(minutes), "known_at": at(minutes), "amount": 10.0}


def mark(symbol: str, minutes: float, price: float | None, known: float | None = None) -> dict[str, object]:
    row = {"venue": "v", "symbol": symbol, "ts": at(minutes), "mark": price, "index": None, "last": None}
    return row | {"known_at": at(minutes if known is None else known)}


MARKETS = (
    ("USDE", "USDT", "spot"),
    ("USDE", "XXX", "spot"),
    ("USDC", "USDT", "spot"),
    ("ETH", "USDT", "linear"),
    ("ETH", "USDC", "linear"),
)


def prices(collateral: list[dict[str, object]], marks: list[dict[str, object]]) -> list[float | None]:
    markets = [
        {"venue": "v", "symbol": f"{base}-{quote}", "base": base, "quote": quote, "effective_from": T0}
        | {"settlement": settlement}
        for base, quote, settlement in MARKETS
    ]
    found = priced_collateral(
        pl.DataFrame(collateral, schema=polars_schema(Collateral)),
        pl.LazyFrame(marks, schema=polars_schema(Marks)),
        pl.LazyFrame(markets, schema=polars_schema(Instruments)),
    )
    return found.sort("ts", "asset")["price_usd"].to_list()


def test_an_asset_has_the_newest_price_known_with_its_snapshot() -> None:
    told = [mark("USDE-USDT", 1, 0.99), mark("USDE-USDT", 9, 0.97, known=11), mark("USDE-XXX", 9, 5.0)]
    assert prices([held("USDE", 10), held("USDE", 12), held("ETH", 12), held("USDT", 12)], told) == [
        0.99,  # what came at 11 was not known at 10, and the first market by name counts
        None,  # ETH has a market but no price
        0.97,
        1.0,  # USDT has no market and is what the venue's contracts are quoted in
    ]


def test_what_no_contract_is_quoted_in_has_no_price_but_its_market_s() -> None:
    told = [mark("USDC-USDT", 1, 0.97)]
    assert prices([held("USDC", 10), held("XXX", 10), held("DAI", 10)], told) == [None, 0.97, None]
    assert prices([held("USDC", 90)], told) == [None]  # a contract is quoted in it too, but its market fell silent


def test_an_old_price_is_none() -> None:
    assert prices([held("USDE", 61), held("USDE", 62)], [mark("USDE-USDT", 1, 0.99)]) == [0.99, None]


def test_no_collateral_needs_no_price() -> None:
    assert prices([], [mark("USDE-USDT", 1, 0.99)]) == []


def test_holders_of_a_stablecoin_are_judged_not_missing(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    config = Config.model_validate({"simulator": {"days": 0.25, "accounts": 150, "stablecoin_account_share": 1.0}})
    simulate_venue(lake, config, T0)
    assert "USDE" in lake.scan("collateral").collect()["asset"].to_list()
    guard_venue(lake, "sim", Interval(T0 + timedelta(hours=4), T0 + timedelta(hours=6)), config)
    found = lake.scan("account_decisions").collect()
    cross = lake.scan("positions").filter(pl.col("margin_mode") == "cross").select("account").unique().collect()
    judged = found.join(cross, on="account", how="semi")
    assert judged.height > 0
    assert judged.filter(pl.col("verdict") == "missing").is_empty()
