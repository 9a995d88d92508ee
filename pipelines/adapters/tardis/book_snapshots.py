"""tardis `book_snapshot_5`, `book_snapshot_25`: the best levels of both sides after every change of them.

A line is a whole picture: the best quote, and the dollars within every band that the visible levels reach across.
"""

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from features.schema import DEPTH_BANDS_BPS
from pipelines.adapters.adapter import (
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    not_negative,
    number,
    positive,
    reasons,
    unless_ragged,
)
from pipelines.adapters.rows import Delimited
from pipelines.adapters.tardis.identity import IDENTITY, Check, Told, capture_seq, identified, identity_checks

SIDES = ("ask", "bid")
DEPTH_KEY = ("venue", "symbol", "side", "band_bps")


def _cell(side: str, level: int, part: str) -> str:
    return f"{side}s[{level}].{part}"


def columns(levels: int) -> tuple[str, ...]:
    """Columns of `levels` levels, best first, as the files order them.

    >>> columns(1)
    ('asks[0].price', 'asks[0].amount', 'bids[0].price', 'bids[0].amount')
    """
    return tuple(_cell(side, k, part) for k in range(levels) for side in SIDES for part in ("price", "amount"))


def _readable(side: str, level: int) -> pl.Expr:
    """A level is two numbers, or two empty cells where the book has no more levels."""
    price, amount = _cell(side, level, "price"), _cell(side, level, "amount")
    return (pl.col(price).is_not_null() & pl.col(amount).is_not_null()) | pl.col(f"{side}_{level}_empty")


def _sound(side: str, level: int) -> pl.Expr:
    price, amount = _cell(side, level, "price"), _cell(side, level, "amount")
    return (pl.col(price).is_null() | positive(price)) & (pl.col(amount).is_null() | not_negative(amount))


def _behind(side: str, level: int) -> pl.Expr:
    """The level lies further from the mid than the one before it, or is not there."""
    price, better = pl.col(_cell(side, level, "price")), pl.col(_cell(side, level - 1, "price"))
    return price.is_null() | (price > better if side == "ask" else price < better)


def _checks(levels: int) -> tuple[Check, ...]:
    every = [(side, level) for side in SIDES for level in range(levels)]
    ask, bid = pl.col("ask"), pl.col("bid")
    missing = ask.is_null() | bid.is_null()
    return (
        ("unreadable_level", pl.all_horizontal(_readable(*place) for place in every)),
        ("level_not_positive", pl.all_horizontal(_sound(*place) for place in every)),
        ("one_sided_book", ~missing),
        ("levels_out_of_order", pl.all_horizontal(_behind(*place) for place in every if place[1])),
        ("crossed_book", missing | (bid < ask)),
    )


def _empty(side: str, level: int) -> pl.Expr:
    price, amount = pl.col(_cell(side, level, "price")), pl.col(_cell(side, level, "amount"))
    return ((price == "") & (amount == "")).alias(f"{side}_{level}_empty")


def _best(side: str) -> tuple[pl.Expr, pl.Expr]:
    """`ask, ask_qty` or `bid, bid_qty` of the canonical quote."""
    price, amount = pl.col(_cell(side, 0, "price")), pl.col(_cell(side, 0, "amount"))
    return price.alias(side), base_units(amount, price).alias(f"{side}_qty")


def _pictures(raw: pl.DataFrame, origin: Origin, levels: int) -> pl.DataFrame:
    """Lines with every level as numbers, the best quote in base units, and `reason`."""
    places = [(side, level) for side in SIDES for level in range(levels)]
    numbers = [number(name) for name in columns(levels)]
    rows = identified(raw, origin, *numbers, *(_empty(*place) for place in places))
    rows = rows.with_columns(*_best("ask"), *_best("bid"), capture_seq())
    return rows.with_columns(unless_ragged(reasons(*identity_checks(), *_checks(levels))))


def _within(side: str, band_bps: int, levels: int) -> pl.Expr:
    """Dollars within `band_bps` of the mid; null where the levels do not reach the band's edge on both sides."""
    mid, share = (pl.col("ask") + pl.col("bid")) / 2, band_bps / 10_000
    edges = {"ask": mid * (1 + share), "bid": mid * (1 - share)}
    prices = {name: [pl.col(_cell(name, k, "price")) for k in range(levels)] for name in SIDES}
    reached = (pl.max_horizontal(prices["ask"]) >= edges["ask"]) & (pl.min_horizontal(prices["bid"]) <= edges["bid"])
    near = [price <= edges["ask"] if side == "ask" else price >= edges["bid"] for price in prices[side]]
    usd = [dollars(pl.col(_cell(side, k, "amount")), price) for k, price in enumerate(prices[side])]
    resting = pl.sum_horizontal(pl.when(inside).then(value) for inside, value in zip(near, usd, strict=True))
    return pl.when(reached).then(resting)


def _depth(pictures: pl.DataFrame, levels: int) -> pl.DataFrame:
    """Rows of `book_depth` of the acceptable pictures, `item` counting the bands and sides of a line, in file order."""
    bands = [(side, band_bps) for band_bps in DEPTH_BANDS_BPS for side in SIDES]
    sound = pictures.filter(pl.col("reason").is_null()).with_columns(
        _within(side, band_bps, levels).alias(f"within_{item}") for item, (side, band_bps) in enumerate(bands)
    )
    place = ("line", "venue", "symbol", "ts", "known_at")
    rows = [
        sound.select(
            *place,
            pl.lit(item, pl.Int64).alias("item"),
            pl.lit(side).alias("side"),
            pl.lit(band_bps, pl.Int32).alias("band_bps"),
            pl.col(f"within_{item}").alias("depth_usd"),
        ).drop_nulls("depth_usd")
        for item, (side, band_bps) in enumerate(bands)
    ]
    return pl.concat(rows).sort("line", "item")


def _converter(levels: int) -> Callable[[Iterator[pl.DataFrame], Origin], Iterator[Batch]]:
    """Every line is a candidate of `quotes`; an acceptable one also tells `book_depth`, once per stamp."""

    def convert(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
        told = Told(*DEPTH_KEY)
        for piece in pieces:
            pictures = _pictures(piece, origin, levels)
            depth = told.first(_depth(pictures, levels))
            yield {
                "quotes": candidates("quotes", pictures, pl.col("reason")),
                "book_depth": candidates("book_depth", depth, pl.lit(None, pl.String)),
            }

    return convert


def _recogniser(levels: int) -> Callable[[str, Sequence[str]], bool]:
    last, next_one = _cell("ask", levels - 1, "price"), _cell("ask", levels, "price")
    return lambda _, fields: {*IDENTITY, last} <= set(fields) and next_one not in fields


def _kind(levels: int) -> Kind:
    return Kind(
        name=f"book_snapshot_{levels}",
        tables=("quotes", "book_depth"),
        layout=Delimited((*IDENTITY, *columns(levels))),
        recognises=_recogniser(levels),
        convert=_converter(levels),
    )


BOOK_SNAPSHOTS_5 = _kind(5)
BOOK_SNAPSHOTS_25 = _kind(25)
