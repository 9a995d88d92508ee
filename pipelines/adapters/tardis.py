"""tardis.dev `trades` files: one row per public trade, with the moment it was captured.

Columns: exchange, symbol, timestamp, local_timestamp (microseconds since 1970, UTC), id, side (the taker's), price,
amount (contracts of a derivative, base units of a spot market).
"""

import re
from collections.abc import Sequence

import polars as pl

from features.schema import UTC_US, Trades, polars_schema
from pipelines.adapters.adapter import (
    Adapter,
    Origin,
    no_judgement,
    number,
    plausible,
    positive,
    reasons,
    unless_ragged,
    with_instrument,
)

COLUMNS = ("exchange", "symbol", "timestamp", "local_timestamp", "id", "side", "price", "amount")
VENUES = {"binance-delivery": "binance-coinm", "binance-futures": "binance-usdm"}  # their name -> ours; others as is
VENUE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def _header(_: Sequence[str]) -> bool:
    return True


def _recognises(name: str, fields: Sequence[str]) -> bool:
    """All columns are there; `liquidations` files have the very same ones and are told apart by their name."""
    return set(COLUMNS) <= set(fields) and "liquidations" not in name.lower()


def _symbol_of(_: str) -> None:
    return None


def _stamp(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Int64, strict=False).cast(UTC_US)


def _named(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Columns of `Trades` as far as the text alone says them."""
    venue = pl.lit(origin.venue) if origin.venue is not None else pl.col("exchange").replace(VENUES)
    return raw.select(
        "line",
        "ragged",
        venue.alias("venue"),
        "symbol",
        plausible(_stamp("timestamp")).alias("ts"),
        plausible(_stamp("local_timestamp")).alias("known_at"),
        pl.col("id").alias("trade_id"),
        "side",
        number("price").alias("price"),
        number("amount").alias("amount"),
        _stamp("timestamp").is_null().alias("ts_unreadable"),
        _stamp("local_timestamp").is_null().alias("known_at_unreadable"),
    )


def _sized(rows: pl.DataFrame) -> pl.DataFrame:
    """qty and dollars: inverse contracts are worth `contract_size` dollars each, all others that many base units."""
    inverse = pl.col("settlement") == "inverse"
    contracts = pl.col("amount") * pl.col("contract_size")
    return rows.with_columns(
        pl.when(inverse).then(contracts / pl.col("price")).otherwise(contracts).alias("qty"),
        pl.when(inverse).then(contracts).otherwise(contracts * pl.col("price")).alias("notional_usd"),
    )


def _reason() -> pl.Expr:
    ts, known_at = pl.col("ts").is_not_null(), pl.col("known_at").is_not_null()
    price, amount = pl.col("price"), pl.col("amount")
    return reasons(
        ("unreadable_ts", ~pl.col("ts_unreadable")),
        ("ts_out_of_range", ts | pl.col("ts_unreadable")),
        ("unreadable_known_at", ~pl.col("known_at_unreadable")),
        ("known_at_out_of_range", known_at | pl.col("known_at_unreadable")),
        ("bad_venue_name", pl.col("venue").str.contains(f"^{VENUE_NAME.pattern}$")),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | ~ts),
        ("missing_trade_id", pl.col("trade_id") != ""),
        ("unknown_side", pl.col("side").is_in(("buy", "sell"))),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", amount.is_not_null()),
        ("qty_not_positive", amount.is_null() | positive("amount")),
    )


def trades(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Text columns -> candidate rows of `Trades` with `line`, `settlement` and `reason`, in file order.

    inverse: qty = amount * contract_size / price, notional_usd = amount * contract_size;
    linear, spot: qty = amount * contract_size, notional_usd = qty * price. `known_at` is the capture stamp as it
    stands, also where the two clocks disagree and it lies before `ts`.
    """
    rows = _sized(with_instrument(_named(raw, origin), origin.instruments))
    return rows.select(*polars_schema(Trades).names(), "line", "settlement", unless_ragged(_reason()))


TARDIS = Adapter(
    name="tardis",
    table="trades",
    columns=COLUMNS,
    columns_optional=(),
    header=_header,
    recognises=_recognises,
    symbol_of=_symbol_of,
    candidates=trades,
    judge=no_judgement,
)
