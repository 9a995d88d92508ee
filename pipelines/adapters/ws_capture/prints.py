"""Messages about what was done and what it is worth: trades, forced orders, mark prices with the funding rate."""

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Origin,
    base_units,
    candidates,
    dollars,
    epoch,
    number,
    positive,
    reasons,
    silent,
)
from pipelines.adapters.json_text import TEXT, Fields
from pipelines.adapters.ws_capture.messages import MS, place_checks, placed

TRADE: Fields = dict.fromkeys(("E", "T", "s", "ps", "t", "a", "p", "q", "m", "M", "X"), TEXT)
ORDER = pl.Struct(dict.fromkeys(("s", "ps", "S", "ap", "z", "T"), TEXT))
FORCED: Fields = {"E": TEXT, "o": ORDER}
MARK: Fields = dict.fromkeys(("E", "T", "s", "ps", "p", "i", "r"), TEXT)
FUNDING_INTERVAL_H = 8.0  # the venue's default; the message does not say it


def _amount_checks(price: str, amount: str) -> tuple[tuple[str, pl.Expr], ...]:
    return (
        ("unreadable_price", pl.col(price).is_not_null()),
        ("price_not_positive", pl.col(price).is_null() | positive(price)),
        ("unreadable_qty", pl.col(amount).is_not_null()),
        ("qty_not_positive", pl.col(amount).is_null() | positive(amount)),
    )


def trades(rows: pl.DataFrame, origin: Origin, id_column: str) -> Batch:
    """`trade` (`id_column` "t") and `aggTrade` ("a"): `m`, the buyer was the maker, means that the taker sold.

    Fills of another kind than MARKET (insurance fund, deleveraging) took nothing from the book: silent. Only spot
    messages have the key `M`.
    """
    rows = rows.with_columns(pl.coalesce("T", "E").alias("at"), pl.lit(None, TEXT).alias("stream"))
    rows = placed(rows, origin, "at", pl.col("M").is_not_null()).with_columns(number("p"), number("q"))
    side = pl.when(pl.col("m") == "true").then(pl.lit("sell")).when(pl.col("m") == "false").then(pl.lit("buy"))
    rows = rows.with_columns(
        pl.col(id_column).alias("trade_id"),
        side.alias("side"),
        pl.col("p").alias("price"),
        base_units(pl.col("q"), pl.col("p")).alias("qty"),
        dollars(pl.col("q"), pl.col("p")).alias("notional_usd"),
    )
    checks = (
        *place_checks(),
        ("missing_trade_id", pl.col("trade_id").str.contains(r"^\d+$")),
        ("unknown_side", pl.col("side").is_not_null()),
        *_amount_checks("p", "q"),
    )
    market = pl.col("X").is_null() | (pl.col("X") == "MARKET")
    return {
        "trades": candidates("trades", rows.filter(market), reasons(*checks)),
        SILENT: silent(rows.filter(~market), "fill_off_the_book"),
    }


def forced(rows: pl.DataFrame, origin: Origin) -> Batch:
    """`forceOrder`: what was filled (`z`) at the average price (`ap`); an order that sells closes a long."""
    rows = rows.drop("ps", "s", strict=False).with_columns(pl.col("o").struct.unnest())
    rows = rows.with_columns(pl.coalesce("T", "E").alias("at"), pl.lit(None, TEXT).alias("stream"))
    rows = placed(rows, origin, "at", pl.lit(False)).with_columns(number("ap"), number("z"))
    side = pl.when(pl.col("S") == "SELL").then(pl.lit("long")).when(pl.col("S") == "BUY").then(pl.lit("short"))
    rows = rows.with_columns(
        side.alias("position_side"),
        pl.col("ap").alias("price"),
        base_units(pl.col("z"), pl.col("ap")).alias("qty"),
        dollars(pl.col("z"), pl.col("ap")).alias("notional_usd"),
        pl.lit("market").alias("path"),
    )
    checks = (
        *place_checks(),
        ("unknown_side", pl.col("position_side").is_not_null()),
        *_amount_checks("ap", "z"),
    )
    unfilled = (pl.col("z") == 0).fill_null(False)
    return {
        "liquidations": candidates("liquidations", rows.filter(~unfilled), reasons(*checks)),
        SILENT: silent(rows.filter(unfilled), "nothing_filled"),
    }


def marks(rows: pl.DataFrame, origin: Origin) -> Batch:
    """`markPriceUpdate`: mark, index, and the funding rate of the interval that ends at `T`.

    The rate is the venue's estimate until `T`; it is stored as known at the moment it was sent. The message does not
    say how long an interval is: 8 h where `T` lies on the 8 h grid, else the row is refused. Contracts without
    funding send an empty rate.
    """
    rows = placed(rows.with_columns(pl.lit(None, TEXT).alias("stream")), origin, "E", pl.lit(False))
    given = pl.col("r").is_not_null() & (pl.col("r") != "")
    rows = rows.with_columns(
        given.alias("funded"),
        number("p").alias("mark"),
        number("i").alias("index"),
        number("r").alias("rate"),
        pl.lit(FUNDING_INTERVAL_H).alias("interval_h"),
        epoch("T", MS).alias("due"),
        pl.col("E").is_not_null().alias("dated"),
    )
    dated = ("missing_ts", pl.col("dated"))
    mark = reasons(
        *place_checks(),
        dated,
        ("unreadable_price", pl.col("mark").is_not_null()),
        ("price_not_positive", pl.col("mark").is_null() | positive("mark")),
        ("index_not_positive", pl.col("i").is_null() | positive("index")),
    )
    due_us = pl.col("due").dt.epoch("us")
    rate = reasons(
        *place_checks(),
        dated,
        ("unreadable_rate", pl.col("rate").is_not_null()),
        (
            "rate_out_of_range",
            pl.col("rate").is_null() | (pl.col("rate").is_finite() & pl.col("rate").is_between(-1, 1)),
        ),
        ("funding_interval_unknown", due_us % int(FUNDING_INTERVAL_H * 3_600_000_000) == 0),
    )
    return {
        "marks": candidates("marks", rows, mark),
        "funding": candidates("funding", rows.filter(pl.col("funded")), rate),
    }
