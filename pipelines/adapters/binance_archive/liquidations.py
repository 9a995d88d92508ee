"""Forced orders: the archive's `liquidationSnapshot`, and captures of the `forceOrder` stream as csv without a header.

A forced order that sells closes a long. `accumulated_fill_quantity` is what was filled of it, `average_price` at what;
`price` is the order's limit, which lies beyond the market. Both sources repeat rows: the archive gives every row twice,
a capture that runs twice writes every order twice. The stream tells at most one order per symbol and second, so an
order that is told again with every figure the same is the same order.
"""

from collections.abc import Sequence

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    each,
    number,
    positive,
    reasons,
    silent,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
    COINM,
    USDM,
    and_then,
    date_checks,
    dated,
    futures_only,
    moment,
    named,
    number_checks,
    placed,
    recognised,
    symbol_check,
    table_of,
)
from pipelines.adapters.rows import Delimited

ORDER = (
    "side",
    "order_type",
    "time_in_force",
    "original_quantity",
    "price",
    "average_price",
    "order_status",
    "last_fill_quantity",
    "accumulated_fill_quantity",
)
SNAPSHOT = ("time", *ORDER)
CAPTURE = ("symbol", *ORDER, "time", "dollars")
CLOSED = {"SELL": "long", "BUY": "short"}
NO_AVERAGE = ("", "None", "null")  # how captures write that the stream told none
WORKING = ("limit_price", "original", "last_filled")
SAME_ORDER = ("ts", "position_side", "qty", "price", *WORKING)
WHOLE_SYMBOL = r"^.+(USD[TC]|USD[TC]?_(PERP|\d{6}))$"


def _filled(raw: pl.DataFrame, names: Sequence[pl.Expr], origin: Origin) -> pl.DataFrame:
    told_average = ~pl.col("average_price").is_in(NO_AVERAGE)
    rows = raw.select(
        "line",
        "ragged",
        *names,
        *dated(moment("time")),
        pl.col("side").str.to_uppercase().replace_strict(CLOSED, default=None).alias("position_side"),
        number("original_quantity").alias("original"),
        number("price").alias("limit_price"),
        pl.when(told_average).then(number("average_price")).otherwise(number("price")).alias("price"),
        number("last_fill_quantity").alias("last_filled"),
        number("accumulated_fill_quantity").alias("filled"),
    )
    filled, price = pl.col("filled"), pl.col("price")
    return with_instrument(rows, origin.instruments).with_columns(
        base_units(filled, price).alias("qty"),
        dollars(filled, price).alias("notional_usd"),
        pl.lit("market").alias("path"),
        known_at="ts",
    )


def _reason() -> pl.Expr:
    told = reasons(
        *date_checks(),
        symbol_check(),
        ("unknown_side", pl.col("position_side").is_not_null()),
        *number_checks("price", "not_positive"),
        *number_checks("filled", "not_positive"),
    )
    return unless_ragged(and_then(told, "size_out_of_range", positive("qty") & positive("notional_usd")))


def _batch(rows: pl.DataFrame) -> Batch:
    """Orders of which nothing was filled are no liquidation: silent."""
    unfilled = (pl.col("filled") == 0) & ~pl.col("ragged")
    spoken = rows.filter(~unfilled.fill_null(False))
    return {
        "liquidations": candidates("liquidations", spoken, _reason(), WORKING),
        SILENT: silent(rows.filter(unfilled), "nothing_filled"),
    }


def snapshot(raw: pl.DataFrame, origin: Origin) -> Batch:
    """`liquidationSnapshot` -> candidate rows of `Liquidations`. Coin-m quantities are contracts."""
    return _batch(_filled(raw, named(origin), origin))


def _capture_symbol() -> pl.Expr:
    """The venue's symbol of what a capture wrote, which strips "USDT".

    >>> frame = pl.DataFrame({"symbol": ["BTC", "BTCUSDC", "ETH_250627", "USDC", "BTCUSD_PERP"]})
    >>> frame.select(_capture_symbol())["symbol"].to_list()
    ['BTCUSDT', 'BTCUSDC', 'ETHUSDT_250627', 'USDCUSDT', 'BTCUSD_PERP']
    """
    told = pl.col("symbol")
    full = told.str.replace(r"^(.*?)(_\d{6})?$", "${1}USDT${2}")
    return pl.when(told.str.contains(WHOLE_SYMBOL)).then(told).otherwise(full).alias("symbol")


def captured(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Rows of a `forceOrder` capture -> candidate rows of `Liquidations`."""
    symbol = _capture_symbol()
    venue = pl.when(symbol.str.contains("USD_", literal=True)).then(pl.lit(COINM)).otherwise(pl.lit(USDM))
    names = (symbol, (venue if origin.venue is None else pl.lit(origin.venue)).alias("venue"))
    return _batch(_filled(raw, names, origin))


def _is_capture(_: str, fields: Sequence[str]) -> bool:
    """The first line holds a whole order: side, LIMIT, IOC, and a stamp in milliseconds in its place."""
    if len(fields) < len(CAPTURE):
        return False
    order = dict(zip(CAPTURE, fields, strict=False))
    stamp = order["time"]
    return (
        order["side"] in {"buy", "sell"}
        and order["order_type"] == "limit"
        and order["time_in_force"] == "ioc"
        and len(stamp) == 13
        and stamp.isdecimal()
    )


def told_again(_: str, rows: pl.DataFrame) -> pl.DataFrame:
    """`line, item, reason` of every order that stood on an earlier line, every figure of it the same."""
    again = ~pl.struct(*SAME_ORDER).is_first_distinct()
    return rows.sort("line", "item").filter(again).select("line", "item", pl.lit("duplicate_row").alias("reason"))


LIQUIDATION_SNAPSHOT = Kind(
    name="liquidationSnapshot",
    tables=("liquidations",),
    layout=table_of(SNAPSHOT),
    recognises=recognised("liquidationSnapshot", SNAPSHOT),
    convert=placed(snapshot, futures_only),
    judge=told_again,
    content_seq=("liquidations",),
)
FORCE_ORDERS = Kind(
    name="forceOrders",
    tables=("liquidations",),
    layout=Delimited(CAPTURE, header=lambda _: False),
    recognises=_is_capture,
    convert=each(captured),
    judge=told_again,
    content_seq=("liquidations",),
)
