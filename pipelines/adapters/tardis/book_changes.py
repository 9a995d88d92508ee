"""tardis `incremental_book_L2`: every change of the book by price level, and the snapshots it starts from.

`amount` is what rests at `price` from then on, 0 = the level is gone. Rows with `is_snapshot` restate the whole book.
"""

import polars as pl

from pipelines.adapters.adapter import (
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    each,
    not_negative,
    number,
    positive,
    reasons,
    unless_ragged,
)
from pipelines.adapters.rows import Delimited
from pipelines.adapters.tardis.identity import IDENTITY, Check, capture_seq, has, identified, identity_checks

LEVEL = ("is_snapshot", "side", "price", "amount")
TRUTH = {"true": True, "false": False}


def _level_checks() -> tuple[Check, ...]:
    price, amount = pl.col("price"), pl.col("amount")
    return (
        ("unreadable_snapshot_mark", pl.col("snapshot").is_not_null()),
        ("unknown_side", pl.col("side").is_in(("bid", "ask"))),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", amount.is_not_null()),
        ("qty_negative", amount.is_null() | not_negative("amount")),
    )


def _convert(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Lines -> `book_levels`. inverse: qty = amount * contract_size / price, else qty = amount * contract_size."""
    snapshot = pl.col("is_snapshot").str.to_lowercase().replace_strict(TRUTH, default=None).alias("snapshot")
    rows = identified(raw, origin, snapshot, pl.col("side"), number("price"), number("amount")).with_columns(
        base_units(pl.col("amount"), pl.col("price")).alias("qty"), capture_seq()
    )
    reason = unless_ragged(reasons(*identity_checks(), *_level_checks()))
    return {"book_levels": candidates("book_levels", rows, reason)}


BOOK_CHANGES = Kind(
    name="incremental_book_L2",
    tables=("book_levels",),
    layout=Delimited((*IDENTITY, *LEVEL)),
    recognises=has(*IDENTITY, *LEVEL),
    convert=each(_convert),
)
