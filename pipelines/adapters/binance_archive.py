"""Binance archive `bookDepth` files: dollars resting within 1 .. 5 % of the mid price, a snapshot about every 30 s.

Columns: timestamp (text, UTC), percentage (negative = bid side), depth, notional, and in some years
weighted_avg_price; with or without a header. The symbol stands only in the file's name.

The archive is known to publish books that cannot be: a bid far above the asks that nobody can hit, and sides that
stand still to the last digit for hours. A snapshot must prove itself sound; else all its rows are refused.
"""

import re
from collections.abc import Sequence

import polars as pl

from features.schema import BookDepth, polars_schema
from pipelines.adapters.adapter import (
    Adapter,
    Origin,
    not_negative,
    number,
    plausible,
    reasons,
    unless_ragged,
    with_instrument,
)
from pipelines.errors import InputError

COLUMNS = ("timestamp", "percentage", "depth", "notional")
OPTIONAL = ("weighted_avg_price",)
FILE_NAME = re.compile(r"^(?P<symbol>[A-Z0-9_]+)-bookDepth-\d{4}-\d{2}-\d{2}")
FROZEN_BAND_BPS_MAX = 100
STAMP_FORMAT = "%Y-%m-%d %H:%M:%S%.f"
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)?")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
WORKING = ("depth", "notional", "average_price")  # what `judge` needs beyond the canonical columns


def _header(fields: Sequence[str]) -> bool:
    return not _STAMP.fullmatch(fields[0])


def _recognises(_: str, fields: Sequence[str]) -> bool:
    if _header(fields):
        return set(COLUMNS) <= set(fields)
    whole = len(COLUMNS) <= len(fields) <= len(COLUMNS) + len(OPTIONAL)
    return whole and all(_NUMBER.fullmatch(field) for field in fields[1:4])


def _symbol_of(name: str) -> str:
    """The symbol in a file's name.

    >>> _symbol_of("BTCUSDT-bookDepth-2025-10-10.csv.gz")
    'BTCUSDT'
    """
    found = FILE_NAME.match(name)
    if found is None:
        raise InputError(
            "file name does not tell the symbol", where=name, mend="name it SYMBOL-bookDepth-YYYY-MM-DD.csv"
        )
    return found["symbol"]


def default_venue(symbol: str) -> str:
    """Coin-margined symbols are quoted in USD, dollar-margined ones in a dollar token.

    >>> default_venue("BTCUSDT"), default_venue("BTCUSD_PERP"), default_venue("BTCUSD_251226")
    ('binance-usdm', 'binance-coinm', 'binance-coinm')
    """
    return "binance-coinm" if symbol.endswith("_PERP") or "USD_" in symbol else "binance-usdm"


def _stamp() -> pl.Expr:
    text = pl.col("timestamp")
    return text.str.to_datetime(STAMP_FORMAT, strict=False, time_unit="us", time_zone="UTC")


def _band_bps(share_pct: pl.Expr) -> pl.Expr:
    """Whole basis points of a percentage, null unless it is one and not zero."""
    bps = share_pct.abs() * 100
    whole = bps.is_finite() & ((bps - bps.round()).abs() < 1e-6) & (bps.round() >= 1) & (bps <= 10_000)
    return pl.when(whole).then(bps.round()).cast(pl.Int32)


def _named(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    symbol = str(origin.symbol)
    share_pct = number("percentage")
    return raw.select(
        "line",
        "ragged",
        pl.lit(origin.venue if origin.venue is not None else default_venue(symbol)).alias("venue"),
        pl.lit(symbol).alias("symbol"),
        plausible(_stamp()).alias("ts"),
        plausible(_stamp()).alias("known_at"),
        pl.when(share_pct < 0).then(pl.lit("bid")).when(share_pct > 0).then(pl.lit("ask")).alias("side"),
        _band_bps(share_pct).alias("band_bps"),
        number("depth").alias("depth"),
        number("notional").alias("notional"),
    )


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
    ts, depth, notional = pl.col("ts").is_not_null(), pl.col("depth"), pl.col("notional")
    return reasons(
        ("unreadable_ts", ts),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | ~ts),
        ("unreadable_percentage", pl.col("band_bps").is_not_null() & pl.col("side").is_not_null()),
        ("unreadable_depth", depth.is_not_null()),
        ("depth_negative", depth.is_null() | not_negative("depth")),
        ("unreadable_notional", notional.is_not_null()),
        ("notional_negative", notional.is_null() | not_negative("notional")),
    )


def book_depth(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Text columns -> candidate rows of `BookDepth` with `line`, `settlement`, `reason` and what `judge` needs.

    band_bps = |percentage| * 100; depth_usd = notional (linear) or depth * contract_size (inverse). The file has no
    capture stamp: `known_at` = `ts`.
    """
    rows = _valued(with_instrument(_named(raw, origin), origin.instruments))
    return rows.select(*polars_schema(BookDepth).names(), "line", "settlement", *WORKING, unless_ragged(_reason()))


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


def sound_snapshots(rows: pl.DataFrame) -> pl.DataFrame:
    """`line, reason` of every row whose snapshot (the rows of one `ts`) is refused.

    `one_sided_book`: a side is missing or empty, so nothing proves the book uncrossed.
    `crossed_book`: average price of the nearest bid band >= that of the nearest ask band.
    `frozen_book`: in every band up to 100 bps of a side, depth and notional (hence the average price) are those of the
    snapshot before. The first snapshot of a file has none before it.
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
    return rows.select("ts", "line").join(refused, on="ts", how="inner").select("line", "reason")


BINANCE_ARCHIVE = Adapter(
    name="binance-archive",
    table="book_depth",
    columns=COLUMNS,
    columns_optional=OPTIONAL,
    header=_header,
    recognises=_recognises,
    symbol_of=_symbol_of,
    candidates=book_depth,
    judge=sound_snapshots,
)
