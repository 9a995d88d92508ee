"""`bookTicker`: best bid and ask at every change, with the venue's update number (usd-m, coin-m).

`transaction_time` is when the book changed, `event_time` when the venue sent it: the earliest moment it could be known.
"""

import polars as pl

from pipelines.adapters.adapter import (
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    not_negative,
    number,
    reasons,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
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

COLUMNS = (
    "update_id",
    "best_bid_price",
    "best_bid_qty",
    "best_ask_price",
    "best_ask_qty",
    "transaction_time",
    "event_time",
)


def _sized(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    rows = raw.select(
        "line",
        "ragged",
        *named(origin),
        *dated(moment("transaction_time")),
        *dated(moment("event_time"), "known_at"),
        pl.col("update_id").cast(pl.Int64, strict=False).alias("seq"),
        number("best_bid_price").alias("bid"),
        number("best_ask_price").alias("ask"),
        number("best_bid_qty").alias("bid_amount"),
        number("best_ask_qty").alias("ask_amount"),
    )
    return with_instrument(rows, origin.instruments).with_columns(
        base_units(pl.col("bid_amount"), pl.col("bid")).alias("bid_qty"),
        base_units(pl.col("ask_amount"), pl.col("ask")).alias("ask_qty"),
    )


def _reason() -> pl.Expr:
    told = reasons(
        *date_checks(),
        *date_checks("known_at"),
        symbol_check(),
        ("unreadable_seq", pl.col("seq") >= 0),
        *number_checks("bid", "not_positive"),
        *number_checks("ask", "not_positive"),
        *number_checks("bid_amount", "negative", not_negative),
        *number_checks("ask_amount", "negative", not_negative),
    )
    sized = and_then(told, "size_out_of_range", not_negative("bid_qty") & not_negative("ask_qty"))
    return unless_ragged(and_then(sized, "crossed_quote", pl.col("bid") < pl.col("ask")))


def quotes(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Text columns -> candidate rows of `Quotes`; quantities in base units (coin-m files count contracts)."""
    return {"quotes": candidates("quotes", _sized(raw, origin), _reason())}


BOOK_TICKER = Kind(
    name="bookTicker",
    tables=("quotes",),
    layout=table_of(COLUMNS),
    recognises=recognised("bookTicker", COLUMNS),
    convert=placed(quotes, futures_only),
)
