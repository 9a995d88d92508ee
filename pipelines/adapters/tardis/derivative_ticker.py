"""tardis `derivative_ticker`: mark, index and last price, funding and open interest, whenever one of them changed.

A line restates every value, so that one line speaks for several tables. An empty cell says nothing.
"""

from collections.abc import Iterator

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    epoch,
    not_negative,
    number,
    plausible,
    positive,
    reasons,
    silent,
    unless_ragged,
)
from pipelines.adapters.rows import Delimited
from pipelines.adapters.tardis.funding_interval import Intervals
from pipelines.adapters.tardis.identity import IDENTITY, Check, Told, has, identified, identity_checks

PRICES = {"mark_price": "mark", "index_price": "index", "last_price": "last"}
VALUES = ("funding_rate", "open_interest", *PRICES)
TICKER = ("funding_timestamp", "funding_rate", "predicted_funding_rate", "open_interest", *PRICES)
MARKET = ("venue", "symbol")
TABLES = ("marks", "funding", "open_interest")


def _said(name: str) -> pl.Expr:
    return pl.col(f"{name}_said")


def _readable(name: str, column: str) -> Check:
    return f"unreadable_{name}", ~_said(column) | pl.col(name).is_not_null()


def _valued(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Lines with their values as numbers and, per cell, whether it says anything at all."""
    said = [(pl.col(name) != "").fill_null(False).alias(f"{name}_said") for name in (*VALUES, "funding_timestamp")]
    prices = [number(name).alias(short) for name, short in PRICES.items()]
    due = plausible(epoch("funding_timestamp", 1)).alias("due")
    rate, interest = number("funding_rate").alias("rate"), number("open_interest").alias("contracts")
    return identified(raw, origin, *prices, due, rate, interest, *said)


def _marks(rows: pl.DataFrame) -> pl.DataFrame:
    """Lines with a price, and every ragged one."""
    checks: list[Check] = []
    for column, name in PRICES.items():
        checks += [_readable(name, column), (f"{name}_not_positive", pl.col(name).is_null() | positive(name))]
    told = rows.filter(pl.col("ragged") | pl.any_horizontal(_said(column) for column in PRICES))
    return candidates("marks", told, unless_ragged(reasons(*identity_checks(), *checks)))


def _funding(rows: pl.DataFrame) -> pl.DataFrame:
    """Lines with a rate, `due` beside them: when it will be paid. The length of the interval is yet to be found."""
    fair = (pl.col("rate") >= -1) & (pl.col("rate") <= 1)
    checks = (
        _readable("rate", "funding_rate"),
        ("rate_out_of_range", pl.col("rate").is_null() | fair),
        ("unreadable_funding_timestamp", ~_said("funding_timestamp") | pl.col("due").is_not_null()),
    )
    told = rows.filter(~pl.col("ragged") & _said("funding_rate"))
    return candidates("funding", told, reasons(*identity_checks(), *checks), working=("due",))


def _open_interest(rows: pl.DataFrame) -> pl.DataFrame:
    """Lines with open interest, in the venue's unit, valued at the mark, else the last price.

    An inverse contract is dollars without any price; its `oi_base` is null then.
    """
    price = pl.coalesce(pl.when(positive(name)).then(name) for name in ("mark", "last"))
    amount = pl.col("contracts")
    told = rows.filter(~pl.col("ragged") & _said("open_interest")).with_columns(
        base_units(amount, price).alias("oi_base"), dollars(amount, price).alias("oi_usd"), price.alias("price")
    )
    checks = (
        ("unreadable_open_interest", amount.is_not_null()),
        ("open_interest_negative", amount.is_null() | not_negative("contracts")),
        ("missing_price", pl.col("price").is_not_null() | (pl.col("settlement") == "inverse")),
    )
    return candidates("open_interest", told, reasons(*identity_checks(), *checks))


def _once(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    """`rows` without acceptable ones whose stamp was told before."""
    sound = pl.col("reason").is_null()
    return pl.concat([rows.filter(~sound), told.first(rows.filter(sound))]).sort("line")


def _quiet(raw: pl.DataFrame, spoken: list[pl.DataFrame]) -> pl.DataFrame:
    """Lines that speak for no table, with the reason."""
    lines = pl.concat([frame.select("line") for frame in spoken])
    rest = raw.join(lines, on="line", how="anti", maintain_order="left")
    empty = pl.all_horizontal(pl.col(name) == "" for name in VALUES)
    return pl.concat([silent(rest.filter(empty), "no_value"), silent(rest.filter(~empty), "stamp_told_before")])


def _convert(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    told, intervals = {table: Told(*MARKET) for table in TABLES}, Intervals()
    for piece in pieces:
        rows = _valued(piece, origin)
        marks, funding = _once(_marks(rows), told["marks"]), _once(_funding(rows), told["funding"])
        interest = _once(_open_interest(rows), told["open_interest"])
        quiet = _quiet(piece, [marks, funding, interest])
        yield {"marks": marks, "funding": intervals.fill(funding), "open_interest": interest, SILENT: quiet}
    waiting = intervals.rest()
    if waiting is not None:
        yield {"funding": waiting}


DERIVATIVE_TICKER = Kind(
    name="derivative_ticker",
    tables=TABLES,
    layout=Delimited((*IDENTITY, *TICKER)),
    recognises=has(*IDENTITY, *TICKER),
    convert=_convert,
)
