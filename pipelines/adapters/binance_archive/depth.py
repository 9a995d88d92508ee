"""Binance archive `bookDepth` files: dollars resting within 1 .. 5 % of the mid price, a snapshot about every 30 s.

Columns: timestamp (text, UTC), percentage (negative = bid side), depth, notional, and in some years
weighted_avg_price; with or without a header. The symbol stands only in the file's name.

The archive is known to publish books that cannot be: a bid far above the asks that nobody can hit, and sides that
stand still to the last digit for hours. A snapshot must prove itself sound; else all its rows are refused.
"""

import re
from collections.abc import Sequence

import polars as pl

from pipelines.adapters.adapter import (
    Batch,
    Kind,
    Origin,
    candidates,
    not_negative,
    number,
    reasons,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
    dated,
    file_name,
    futures_only,
    named,
    number_checks,
    placed,
    recognised,
    symbol_check,
    table_of,
    text_moment,
)

COLUMNS = ("timestamp", "percentage", "depth", "notional")
OPTIONAL = ("weighted_avg_price",)
FROZEN_BAND_BPS_MAX = 100
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)?")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
WORKING = ("depth", "notional", "average_price")  # what `sound_snapshots` needs beyond the canonical columns


def _recognises(name: str, fields: Sequence[str]) -> bool:
    """The name or the header says so; of a file without either, the shape of its first line."""
    if file_name(name) is not None or not _STAMP.fullmatch(fields[0] if fields else ""):
        return recognised("bookDepth", COLUMNS)(name, fields)
    whole = len(COLUMNS) <= len(fields) <= len(COLUMNS) + len(OPTIONAL)
    return whole and all(_NUMBER.fullmatch(field) for field in fields[1:4])


def _band_bps(share_pct: pl.Expr) -> pl.Expr:
    """Whole basis points of a percentage, null unless it is one and not zero."""
    bps = share_pct.abs() * 100
    whole = bps.is_finite() & ((bps - bps.round()).abs() < 1e-6) & (bps.round() >= 1) & (bps <= 10_000)
    return pl.when(whole).then(bps.round()).cast(pl.Int32)


def _named(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    share_pct = number("percentage")
    return raw.select(
        "line",
        "ragged",
        *named(origin),
        *dated(text_moment("timestamp")),
        pl.when(share_pct < 0).then(pl.lit("bid")).when(share_pct > 0).then(pl.lit("ask")).alias("side"),
        _band_bps(share_pct).alias("band_bps"),
        number("depth").alias("depth"),
        number("notional").alias("notional"),
    ).with_columns(known_at="ts")


def _valued(rows: pl.DataFrame) -> pl.DataFrame:
    """Dollars and average price. Linear: depth is base units, notional dollars; inverse: contracts, base units."""
    inverse = pl.col("settlement") == "inverse"
    contracts_usd = pl.col("depth") * pl.col("contract_size")
    known = pl.col("contract_size").is_not_null()
    return rows.with_columns(
        pl.when(inverse).then(contracts_usd).when(known).then(pl.col("notional")).alias("depth_usd"),
        pl.when(inverse)
        .then(contracts_usd / pl.col("notional"))
        .otherwise(pl.col("notional") / pl.col("depth"))
        .alias("average_price"),
    )


def _reason() -> pl.Expr:
    return reasons(
        ("unreadable_ts", pl.col("ts").is_not_null()),
        symbol_check(),
        ("unreadable_percentage", pl.col("band_bps").is_not_null() & pl.col("side").is_not_null()),
        *number_checks("depth", "negative", not_negative),
        *number_checks("notional", "negative", not_negative),
    )


def book_depth(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Text columns -> candidate rows of `BookDepth`, and what `sound_snapshots` needs.

    band_bps = |percentage| * 100; depth_usd = notional (linear) or depth * contract_size (inverse). The file has no
    capture stamp: `known_at` = `ts`.
    """
    rows = _valued(with_instrument(_named(raw, origin), origin.instruments))
    return {"book_depth": candidates("book_depth", rows, unless_ragged(_reason()), WORKING)}


def _standing_still(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `falls` (depth below the next narrower band's) and `still` (same digits as in the snapshot before)."""
    ordered = rows.sort("ts", "side", "band_bps").with_columns(pl.col("ts").rank("dense").cast(pl.Int64).alias("nth"))
    before = {name: pl.col(name).shift(1).over("side", "band_bps") for name in ("nth", "depth", "notional")}
    same = (pl.col("depth") == before["depth"]) & (pl.col("notional") == before["notional"])
    fall = [pl.col(name).diff().over("ts", "side") < 0 for name in ("depth", "notional")]
    return ordered.with_columns(
        (same & (pl.col("nth") == before["nth"] + 1)).fill_null(False).alias("still"),
        pl.any_horizontal(*fall).fill_null(False).alias("falls"),
    )


def _side_frozen(side: str) -> pl.Expr:
    """Every band up to 100 bps of `side` stands still, there is one, and it is not empty."""
    near = (pl.col("side") == side) & (pl.col("band_bps") <= FROZEN_BAND_BPS_MAX)
    still = pl.col("still").filter(near)
    return still.all() & (still.len() > 0) & (pl.col("depth").filter(near) > 0).any()


def _nearest_average(side: str) -> pl.Expr:
    """Average price of the nearest band of `side` that holds anything, null where none does."""
    held = (pl.col("side") == side) & (pl.col("depth") > 0) & (pl.col("notional") > 0)
    return pl.col("average_price").filter(held).first()


def sound_snapshots(_: str, rows: pl.DataFrame) -> pl.DataFrame:
    """`line, item, reason` of every row whose snapshot (the rows of one `ts`) is refused.

    `one_sided_book`: a side is missing or empty, so nothing proves the book uncrossed.
    `crossed_book`: average price of the nearest bid band >= that of the nearest ask band.
    `frozen_book`: in every band up to 100 bps of a side, depth and notional (hence the average price) are those of the
    snapshot before. The first snapshot of a day has none before it.
    `non_monotone_depth`: depth or notional falls with a wider band.
    """
    snapshots = (
        _standing_still(rows)
        .group_by("ts", maintain_order=True)
        .agg(
            _nearest_average("bid").alias("bid"),
            _nearest_average("ask").alias("ask"),
            (_side_frozen("bid") | _side_frozen("ask")).alias("frozen"),
            pl.col("falls").any(),
        )
    )
    two_sided = pl.col("bid").is_not_null() & pl.col("ask").is_not_null()
    found = snapshots.select(
        "ts",
        reasons(
            ("one_sided_book", two_sided),
            ("crossed_book", ~two_sided | (pl.col("bid") < pl.col("ask"))),
            ("frozen_book", ~pl.col("frozen")),
            ("non_monotone_depth", ~pl.col("falls")),
        ),
    )
    refused = found.filter(pl.col("reason").is_not_null())
    return rows.select("ts", "line", "item").join(refused, on="ts", how="inner").select("line", "item", "reason")


BOOK_DEPTH = Kind(
    name="bookDepth",
    tables=("book_depth",),
    layout=table_of(COLUMNS, OPTIONAL),
    recognises=_recognises,
    convert=placed(book_depth, futures_only),
    judge=sound_snapshots,
)
