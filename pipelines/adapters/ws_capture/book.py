"""Book messages: level changes and snapshots -> `book_levels`, best quotes -> `quotes`."""

import re

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Origin,
    base_units,
    candidates,
    not_negative,
    number,
    positive,
    reasons,
    silent,
)
from pipelines.adapters.json_text import TEXT, Fields
from pipelines.adapters.ws_capture.messages import place_checks, placed

LEVELS = pl.List(pl.List(TEXT))
DEPTH: Fields = dict.fromkeys(("E", "T", "s", "ps", "U", "u", "pu"), TEXT) | {"b": LEVELS, "a": LEVELS}
BOOK: Fields = dict.fromkeys(("lastUpdateId", "E", "T", "symbol", "pair"), TEXT) | {"bids": LEVELS, "asks": LEVELS}
QUOTE: Fields = dict.fromkeys(("E", "T", "s", "ps", "u", "b", "B", "a", "A"), TEXT)
PARTIAL = r"@depth(5|10|20)(@|$)"  # streams that send the top of the book each time, not its changes
PLACE = ("line", "venue", "symbol", "ts", "known_at", "settlement", "contract_size")
REPEATED = (*PLACE, "seq", "seq_before", "snapshot", "said")
VENUES = ("binance-usdm", "binance-coinm", "binance")


def _whole(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Int64, strict=False)


def _stamped(rows: pl.DataFrame) -> pl.DataFrame:
    """`at`: when the book changed: `T`, the moment of the transaction, else `E`, of the message (spot has no `T`)."""
    return rows.with_columns(pl.coalesce("T", "E").alias("at"))


def depth(rows: pl.DataFrame, origin: Origin) -> Batch:
    """`depthUpdate`: the levels that changed; a stream of the top of the book is a snapshot each time.

    `seq` is `u`; `seq_before` is `pu`, and `U - 1` on spot, which has none: where it is not the `seq` of the message
    before, messages were lost.
    """
    rows = placed(_stamped(rows), origin, "at", pl.col("pu").is_null())
    snapshot = pl.col("stream").str.contains(PARTIAL).fill_null(False)
    before = pl.when(~snapshot).then(pl.coalesce(_whole("pu"), _whole("U") - 1))
    return _levels(rows.with_columns(snapshot.alias("snapshot"), before.alias("seq_before"), _whole("u").alias("seq")))


def snapshot(rows: pl.DataFrame, origin: Origin, seen: set[str]) -> Batch:
    """An answer of the depth endpoint, `{"lastUpdateId", "bids", "asks", ...}`; `seq` is `lastUpdateId`.

    Linear futures and spot do not name the symbol: see `only_symbol`.
    """
    named = rows.rename({"bids": "b", "asks": "a", "pair": "ps"}).with_columns(
        pl.coalesce("symbol", pl.when(pl.col("stream").is_null()).then(pl.lit(only_symbol(origin, seen)))).alias("s")
    )
    placed_rows = placed(_stamped(named.drop("symbol")), origin, "at", pl.col("at").is_null())
    return _levels(
        placed_rows.with_columns(
            pl.lit(True).alias("snapshot"),
            pl.lit(None, pl.Int64).alias("seq_before"),
            _whole("lastUpdateId").alias("seq"),
        )
    )


def only_symbol(origin: Origin, seen: set[str]) -> str | None:
    """The one symbol the file is about: the user's, else the one its name starts with if an instrument is called so,
    else the only one its messages have named so far; null where that leaves a doubt."""
    if origin.symbol is not None:
        return origin.symbol
    found = re.match(r"[A-Z0-9]+(_PERP|_\d{6}(?!\d))?", origin.name.upper())
    venues = VENUES if origin.venue is None else (origin.venue,)
    if found and (found[0] in seen or not seen):
        asked = pl.DataFrame({"venue": venues, "symbol": [found[0]] * len(venues)})
        if origin.instruments.of(asked).height:
            return found[0]
    return next(iter(seen)) if len(seen) == 1 else None


def _levels(rows: pl.DataFrame) -> Batch:
    """Messages with `b` and `a` -> a candidate per level; `item` counts them, bids first."""
    bids, asks = pl.col("b").list.len(), pl.col("a").list.len()
    empty = (bids.fill_null(0) + asks.fill_null(0)) == 0
    checks = (
        *place_checks(),
        ("unreadable_seq", pl.col("seq").is_not_null()),
        ("unreadable_seq_before", pl.col("snapshot") | pl.col("seq_before").is_not_null()),
        ("unreadable_levels", bids.is_not_null() & asks.is_not_null()),
    )
    judged = rows.with_columns(reasons(*checks).alias("said"), empty.alias("empty"))
    faulty = judged.filter(pl.col("empty") & pl.col("said").is_not_null())
    nothing = judged.filter(pl.col("empty") & pl.col("said").is_null())
    full = judged.filter(~pl.col("empty"))
    sides = [_side(full, "bid", "b", pl.lit(0)), _side(full, "ask", "a", bids.fill_null(0))]
    return {
        "book_levels": pl.concat([*sides, candidates("book_levels", faulty, pl.col("said"))]),
        SILENT: silent(nothing.with_columns(item=pl.lit(0)), "no_levels"),
    }


def _side(rows: pl.DataFrame, side: str, column: str, first_item: pl.Expr) -> pl.DataFrame:
    """Only what a level needs is repeated for each: the other side's levels would make it quadratic."""
    levels, count = pl.col(column).alias("level"), pl.col(column).list.len()
    items = pl.int_ranges(first_item, first_item + count).alias("item")
    exploded = (
        rows.filter(count > 0)
        .select(*REPEATED, levels, items)
        .explode("level", "item", empty_as_null=True, keep_nulls=True)
        .with_columns(
            pl.lit(side).alias("side"),
            pl.col("level").list.get(0, null_on_oob=True).cast(pl.Float64, strict=False).alias("price"),
            pl.col("level").list.get(1, null_on_oob=True).cast(pl.Float64, strict=False).alias("amount"),
        )
    )
    sized = exploded.with_columns(base_units(pl.col("amount"), pl.col("price")).alias("qty"))
    return candidates("book_levels", sized, _level_reason())


def _level_reason() -> pl.Expr:
    price, amount = pl.col("price"), pl.col("amount")
    level = reasons(
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", amount.is_not_null()),
        ("qty_negative", amount.is_null() | not_negative("amount")),
    )
    joined = pl.concat_str("said", level, separator="; ", ignore_nulls=True)
    return pl.when(joined != "").then(joined)


def quotes(rows: pl.DataFrame, origin: Origin) -> Batch:
    """`bookTicker`: best bid and ask. Spot sends neither event nor moments: `ts` is then the moment of capture."""
    rows = placed(_stamped(rows), origin, "at", pl.col("at").is_null())
    rows = rows.with_columns(*(number(name) for name in ("b", "B", "a", "A")), _whole("u").alias("seq"))
    rows = rows.with_columns(
        pl.col("b").alias("bid"),
        pl.col("a").alias("ask"),
        base_units(pl.col("B"), pl.col("b")).alias("bid_qty"),
        base_units(pl.col("A"), pl.col("a")).alias("ask_qty"),
    )
    prices, amounts = ("bid", "ask"), ("B", "A")
    checks = (
        *place_checks(),
        ("unreadable_seq", pl.col("seq").is_not_null()),
        ("unreadable_price", pl.all_horizontal(pl.col(name).is_not_null() for name in prices)),
        ("price_not_positive", pl.all_horizontal(pl.col(name).is_null() | positive(name) for name in prices)),
        ("unreadable_qty", pl.all_horizontal(pl.col(name).is_not_null() for name in amounts)),
        ("qty_negative", pl.all_horizontal(pl.col(name).is_null() | not_negative(name) for name in amounts)),
    )
    return {"quotes": candidates("quotes", rows, reasons(*checks))}
