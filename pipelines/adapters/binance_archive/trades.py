"""Trades and aggregated trades: `aggTrades` and `trades` of spot, usd-m and coin-m.

An aggregate is what one taker order filled at one price; its id counts aggregates. `is_buyer_maker` is true where the
taker sold. `quantity` and `qty` count contracts of a derivative, base units of a spot market.
"""

import polars as pl

from pipelines.adapters.adapter import (
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    number,
    positive,
    reasons,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
    and_then,
    by_columns,
    date_checks,
    dated,
    moment,
    named,
    number_checks,
    placed,
    recognised,
    symbol_check,
    table_of,
)

AGGREGATED = (
    "agg_trade_id",
    "price",
    "quantity",
    "first_trade_id",
    "last_trade_id",
    "transact_time",
    "is_buyer_maker",
)
SINGLE = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker")
SINGLE_COINM = ("id", "price", "qty", "base_qty", "time", "is_buyer_maker")
BEST_MATCH = ("is_best_match",)
TAKER = {"true": "sell", "false": "buy"}


def _sized(raw: pl.DataFrame, origin: Origin, trade_id: str, qty: str, ts: str) -> pl.DataFrame:
    rows = raw.select(
        "line",
        "ragged",
        *named(origin),
        *dated(moment(ts)),
        pl.col(trade_id).alias("trade_id"),
        pl.col(trade_id).cast(pl.Int64, strict=False).alias("number"),
        pl.col("is_buyer_maker").str.to_lowercase().replace_strict(TAKER, default=None).alias("side"),
        number("price").alias("price"),
        number(qty).alias("amount"),
    )
    amount, price = pl.col("amount"), pl.col("price")
    return with_instrument(rows, origin.instruments).with_columns(
        base_units(amount, price).alias("qty"), dollars(amount, price).alias("notional_usd"), known_at="ts"
    )


def _reason() -> pl.Expr:
    told = reasons(
        *date_checks(),
        symbol_check(),
        ("missing_trade_id", pl.col("trade_id") != ""),
        ("unreadable_trade_id", (pl.col("number") >= 0) | (pl.col("trade_id") == "")),
        ("unknown_side", pl.col("side").is_not_null()),
        *number_checks("price", "not_positive"),
        *number_checks("amount", "not_positive"),
    )
    return unless_ragged(and_then(told, "size_out_of_range", positive("qty") & positive("notional_usd")))


def _kind(name: str, columns: tuple[str, ...], trade_id: str, qty: str, ts: str, *, coinm: bool = False) -> Kind:
    def convert(raw: pl.DataFrame, origin: Origin) -> Batch:
        return {"trades": candidates("trades", _sized(raw, origin, trade_id, qty, ts), _reason())}

    archive_kind = name.removesuffix("-coinm")
    told = recognised(archive_kind, columns)
    return Kind(
        name=name,
        tables=("trades",),
        layout=table_of(columns, () if coinm else BEST_MATCH),
        recognises=lambda file, fields: told(file, fields) and ("base_qty" in fields) == coinm,
        convert=placed(convert, by_columns),
    )


AGG_TRADES = _kind("aggTrades", AGGREGATED, "agg_trade_id", "quantity", "transact_time")
TRADES = _kind("trades", SINGLE, "id", "qty", "time")
COINM_TRADES = _kind("trades-coinm", SINGLE_COINM, "id", "qty", "time", coinm=True)
