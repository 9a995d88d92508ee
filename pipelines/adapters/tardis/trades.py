"""tardis `trades`: one row per public trade. `side` is the taker's, `amount` contracts or base units."""

from collections.abc import Sequence

import polars as pl

from pipelines.adapters.adapter import (
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
    unless_ragged,
)
from pipelines.adapters.rows import Delimited
from pipelines.adapters.tardis.identity import IDENTITY, Check, identified, identity_checks

FILL = ("id", "side", "price", "amount")


def fills(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Lines of trades or liquidations with `price, amount, qty` (base units), `notional_usd`; `id`, `side` as text.

    inverse: notional_usd = amount * contract_size, qty = notional_usd / price;
    linear, spot: qty = amount * contract_size, notional_usd = qty * price.
    """
    rows = identified(raw, origin, pl.col("id"), pl.col("side"), number("price"), number("amount"))
    amount, price = pl.col("amount"), pl.col("price")
    return rows.with_columns(base_units(amount, price).alias("qty"), dollars(amount, price).alias("notional_usd"))


def fill_checks() -> tuple[Check, ...]:
    """What must hold of side, price and amount of `fills`, for `reasons`."""
    price, amount = pl.col("price"), pl.col("amount")
    return (
        ("unknown_side", pl.col("side").is_in(("buy", "sell"))),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", amount.is_not_null()),
        ("qty_not_positive", amount.is_null() | positive("amount")),
    )


def _convert(raw: pl.DataFrame, origin: Origin) -> Batch:
    rows = fills(raw, origin).rename({"id": "trade_id"})
    checks = (*identity_checks(), ("missing_trade_id", pl.col("trade_id") != ""), *fill_checks())
    return {"trades": candidates("trades", rows, unless_ragged(reasons(*checks)))}


def _recognises(name: str, fields: Sequence[str]) -> bool:
    """All columns are there; `liquidations` files have the very same ones and are told apart by their name."""
    return {*IDENTITY, *FILL} <= set(fields) and "liquidations" not in name.lower()


TRADES = Kind(
    name="trades",
    tables=("trades",),
    layout=Delimited((*IDENTITY, *FILL)),
    recognises=_recognises,
    convert=each(_convert),
)
