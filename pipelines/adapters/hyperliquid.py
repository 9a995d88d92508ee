"""Hyperliquid: hourly funding, fills with their liquidations, and asset contexts.

    funding    json of the info endpoint `fundingHistory`: {"coin", "fundingRate", "premium", "time"}
    fills      json lines of the node's `node_fills` and `node_fills_by_block`, or of `userFills`
    counts     see `hyperliquid_counts`
    contexts   csv of the archive's `asset_ctxs`: one row per coin and minute

Symbols are the venue's coins; sizes are base units; stamps are UTC.
"""

from collections.abc import Sequence

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Adapter,
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    each,
    epoch,
    not_negative,
    number,
    plausible,
    positive,
    reasons,
    silent,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.hyperliquid_counts import COUNTS
from pipelines.adapters.json_text import TEXT, Fields, decoded
from pipelines.adapters.rows import Delimited, JsonLines

VENUE = "hyperliquid"
FUNDING_INTERVAL_H = 1.0
DELEVERAGED = "Auto-Deleveraging"
CONTEXTS = ("time", "coin", "funding", "open_interest", "premium", "oracle_px", "mark_px")
RATE = dict.fromkeys(("coin", "fundingRate", "premium", "time"), TEXT)
LIQUIDATION = pl.Struct(dict.fromkeys(("liquidatedUser", "method"), TEXT))
FILL = dict.fromkeys(("user", "coin", "px", "sz", "side", "time", "dir", "tid", "crossed"), TEXT)
FILLS = pl.List(pl.Struct({**FILL, "liquidation": LIQUIDATION}))


def _placed(rows: pl.DataFrame, origin: Origin, ts: pl.Expr, known_at: pl.Expr | None = None) -> pl.DataFrame:
    """Add venue, symbol (column `coin`), `ts`, `known_at` (`ts` where none is told), and the instrument."""
    venue = VENUE if origin.venue is None else origin.venue
    told = rows.with_columns(ts.alias("ts_told"), (ts if known_at is None else known_at).alias("known_at_told"))
    return with_instrument(
        told.with_columns(
            pl.lit(venue).alias("venue"),
            pl.col("coin").alias("symbol"),
            plausible(pl.col("ts_told")).alias("ts"),
            plausible(pl.col("known_at_told")).alias("known_at"),
        ),
        origin.instruments,
    )


def _place_checks() -> tuple[tuple[str, pl.Expr], ...]:
    ts, ts_told = pl.col("ts").is_not_null(), pl.col("ts_told").is_not_null()
    known_at, known_at_told = pl.col("known_at").is_not_null(), pl.col("known_at_told").is_not_null()
    return (
        ("unreadable_ts", ts_told),
        ("ts_out_of_range", ts | ~ts_told),
        ("unreadable_known_at", known_at_told | ~ts_told),
        ("known_at_out_of_range", known_at | ~known_at_told | ~ts),
        ("missing_symbol", (pl.col("symbol") != "")),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | (pl.col("symbol") == "").fill_null(True) | ~ts),
    )


def _moment(column: str) -> pl.Expr:
    """An ISO moment with `T` or a blank between date and time, with or without `Z`; null where it is none."""
    plain = pl.col(column).str.replace("T", " ", literal=True).str.replace(r"(Z|\+00:00)$", "")
    return plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", time_zone="UTC", strict=False)


def _exploded(read: pl.DataFrame, column: str) -> pl.DataFrame:
    """One row per element of the list `column`, numbered by `item`; none for an empty or missing list."""
    count = pl.col(column).list.len()
    items = pl.int_ranges(count).cast(pl.List(pl.Int64)).alias("item")
    return read.filter(count > 0).with_columns(items).explode(column, "item", empty_as_null=True, keep_nulls=True)


def _broken(table: str, read: pl.DataFrame) -> pl.DataFrame:
    return candidates(table, read.filter("broken").select("line"), pl.lit("unreadable_json"))


def _whole(read: pl.DataFrame) -> pl.DataFrame:
    return read.filter(~pl.col("broken"))


# --- funding ---------------------------------------------------------------------------------------------------------


def funding(piece: pl.DataFrame, origin: Origin) -> Batch:
    """One record a line, or all of them in an array on one line. The rate is what was paid at `time`, for one hour.

    No table holds the premium.
    """
    raw = pl.col("raw").str.strip_chars()
    listed = pl.when(raw.str.starts_with("[")).then(raw).otherwise(pl.concat_str(pl.lit("["), raw, pl.lit("]")))
    text = pl.concat_str(pl.lit('{"rows":'), listed, pl.lit("}")).alias("text")
    read = decoded(piece.select("line", text), {"rows": pl.List(pl.Struct(RATE))})
    rows = _placed(_exploded(_whole(read), "rows").unnest("rows"), origin, epoch("time", 1000))
    rows = rows.with_columns(number("fundingRate").alias("rate"), pl.lit(FUNDING_INTERVAL_H).alias("interval_h"))
    rate = pl.col("rate")
    reason = reasons(
        *_place_checks(),
        ("unreadable_rate", rate.is_not_null()),
        ("rate_out_of_range", rate.is_null() | (rate.is_finite() & rate.is_between(-1, 1))),
    )
    nothing = _whole(read).filter((pl.col("rows").list.len() > 0).fill_null(False).not_())
    return {
        "funding": pl.concat([candidates("funding", rows, reason), _broken("funding", read)]),
        SILENT: silent(nothing, "no_records"),
    }


def _recognises_funding(_: str, fields: Sequence[str]) -> bool:
    return bool(fields) and fields[0].lstrip().startswith(("{", "[")) and '"fundingRate"' in fields[0]


# --- fills -----------------------------------------------------------------------------------------------------------


def _fill_text() -> pl.Expr:
    """Every form of a line as `{"events": [[{"user"}, fill], ...]}` or `{"flat": [fill, ...]}`.

    by block   {"local_time", "block_time", "block_number", "events": [[user, fill], ...]}
    by fill    [user, fill]
    flat       fill, or [fill, ...]
    """
    raw = pl.col("raw").str.strip_chars().str.replace_all(r'\["(0x[0-9A-Za-z]+)"\s*,\s*\{', '[{"user":"$1"},{')
    wrapped = (
        pl.when(raw.str.contains(r'^\[\s*\{"user":"0x[0-9A-Za-z]+"\},\{'))
        .then(pl.concat_str(pl.lit('{"events":['), raw, pl.lit("]}")))
        .when(raw.str.starts_with("["))
        .then(pl.concat_str(pl.lit('{"flat":'), raw, pl.lit("}")))
        .when(raw.str.contains(r'"events"\s*:'))
        .then(raw)
    )
    return wrapped.otherwise(pl.concat_str(pl.lit('{"flat":['), raw, pl.lit("]}"))).alias("text")


def _fill_rows(read: pl.DataFrame) -> pl.DataFrame:
    """One row per fill of the readable lines, `user` in lower case where the line says it."""
    pairs = _exploded(read, "events").with_columns(
        pl.col("events").list.first().struct.field("user").alias("named"), pl.col("events").list.last().alias("fill")
    )
    flat = _exploded(read, "flat").with_columns(pl.lit(None, TEXT).alias("named"), pl.col("flat").alias("fill"))
    kept = ("line", "item", "local_time", "named", "fill")
    rows = pl.concat([pairs.select(kept), flat.select(kept)]).unnest("fill").unnest("liquidation")
    return rows.with_columns(
        pl.coalesce("named", "user").str.to_lowercase().alias("user"), pl.col("liquidatedUser").str.to_lowercase()
    )


def _roles() -> tuple[pl.Expr, ...]:
    """`forced`: the leg of the position that was closed by force; `off_book`: no order of the book was met; `taker`.

    Both legs of a forced fill carry the liquidation: the forced one is that of the liquidated user, or, where a line
    does not say whose it is, the taker's.
    """
    of_liquidation = pl.col("liquidatedUser").is_not_null() | pl.col("method").is_not_null()
    taker = pl.col("crossed") == "true"
    whose = pl.col("user") == pl.col("liquidatedUser")
    off_book = (
        pl.col("dir").is_in((DELEVERAGED, "Settlement"))
        | pl.col("dir").str.starts_with("Liquidated ")
        | (pl.col("method") == "backstop")
    )
    return (
        (of_liquidation & pl.coalesce(whose, taker).fill_null(False)).alias("forced"),
        off_book.fill_null(False).alias("off_book"),
        taker.alias("taker"),
    )


def fills(piece: pl.DataFrame, origin: Origin) -> Batch:
    """A trade from its taker's leg, a liquidation from the leg of the liquidated user; every fill has both legs.

    Transfers to the backstop, deleveraging and settlement meet no order of the book: they are no trades. `path` is
    `adl` for deleveraging, `market` for liquidations in the book, `unknown` for the backstop.
    """
    shape: Fields = {"local_time": TEXT, "events": pl.List(FILLS), "flat": FILLS}
    read = decoded(piece.select("line", _fill_text()), shape)
    rows = _fill_rows(_whole(read))
    captured = pl.when(pl.col("local_time").is_null()).then(epoch("time", 1000)).otherwise(_moment("local_time"))
    rows = _sized(_placed(rows, origin, epoch("time", 1000), captured)).with_columns(*_roles())
    trade = ~pl.col("off_book") & pl.col("taker").fill_null(True)
    said = _whole(read).filter((pl.col("events").list.len().fill_null(0) + pl.col("flat").list.len().fill_null(0)) == 0)
    mute = rows.filter(~trade & ~pl.col("forced"))
    return {
        "trades": pl.concat(
            [
                candidates(
                    "trades",
                    rows.filter(trade),
                    _fill_reason("trade_id", ("unknown_taker", pl.col("taker").is_not_null())),
                ),
                _broken("trades", read),
            ]
        ),
        "liquidations": candidates("liquidations", rows.filter("forced"), _fill_reason("seq")),
        SILENT: pl.concat([silent(said, "no_fills"), silent(mute, "other_leg")]),
    }


def _sized(rows: pl.DataFrame) -> pl.DataFrame:
    buys, path = pl.col("side") == "B", pl.when(pl.col("dir") == DELEVERAGED).then(pl.lit("adl"))
    in_book = pl.col("method") == "market"
    known = pl.col("side").is_in(("A", "B"))
    rows = rows.with_columns(
        number("px").alias("price"),
        number("sz").alias("amount"),
        pl.when(known).then(pl.when(buys).then(pl.lit("short")).otherwise(pl.lit("long"))).alias("position_side"),
        pl.when(known).then(pl.when(buys).then(pl.lit("buy")).otherwise(pl.lit("sell"))).alias("side"),
        path.when(in_book).then(pl.lit("market")).otherwise(pl.lit("unknown")).alias("path"),
        pl.when(pl.col("tid").str.contains(r"^\d+$")).then("tid").alias("trade_id"),
        pl.col("tid").cast(pl.Int64, strict=False).alias("seq"),
    )
    return rows.with_columns(
        base_units(pl.col("amount"), pl.col("price")).alias("qty"),
        dollars(pl.col("amount"), pl.col("price")).alias("notional_usd"),
    )


def _fill_reason(number_column: str, *more: tuple[str, pl.Expr]) -> pl.Expr:
    price, amount = pl.col("price"), pl.col("amount")
    return reasons(
        *_place_checks(),
        ("missing_trade_id", pl.col(number_column).is_not_null()),
        *more,
        ("unknown_side", pl.col("side").is_not_null()),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", amount.is_not_null()),
        ("qty_not_positive", amount.is_null() | positive("amount")),
    )


def _recognises_fills(_: str, fields: Sequence[str]) -> bool:
    start = fields[0].lstrip() if fields else ""
    block = '"events"' in start and '"block_number"' in start
    return start.startswith(("{", "[")) and (block or all(f'"{name}"' in start for name in ("px", "sz", "tid")))


# --- contexts --------------------------------------------------------------------------------------------------------


def contexts(piece: pl.DataFrame, origin: Origin) -> Batch:
    """Mark and oracle price -> `marks`; open interest, in base units and in dollars at the mark -> `open_interest`.

    An empty cell (or "null") says nothing. The funding column is an estimate for the hour that runs; what was paid is
    in the funding history, so it is not taken from here.
    """
    names = ("mark_px", "oracle_px", "open_interest")
    absent = [pl.col(name).is_in(("", "null")).fill_null(True).alias(f"no_{name}") for name in names]
    placed = _placed(piece, origin, _moment("time")).with_columns(*absent)
    rows = placed.with_columns(
        number("mark_px").alias("mark"), number("oracle_px").alias("index"), number("open_interest").alias("contracts")
    ).with_columns(
        base_units(pl.col("contracts"), pl.col("mark")).alias("oi_base"),
        dollars(pl.col("contracts"), pl.col("mark")).alias("oi_usd"),
    )
    priced = ~(pl.col("no_mark_px") & pl.col("no_oracle_px")) | pl.col("ragged")
    open_ = ~pl.col("no_open_interest") & ~pl.col("ragged")
    return {
        "marks": candidates("marks", rows.filter(priced), unless_ragged(_mark_reason())),
        "open_interest": candidates("open_interest", rows.filter(open_), _open_reason()),
        SILENT: silent(rows.filter(~priced & ~open_), "empty_row"),
    }


def _mark_reason() -> pl.Expr:
    checks = [
        (word, check)
        for told, value in (("mark_px", "mark"), ("oracle_px", "index"))
        for word, check in (
            (f"unreadable_{value}", pl.col(f"no_{told}") | pl.col(value).is_not_null()),
            (f"{value}_not_positive", pl.col(value).is_null() | positive(value)),
        )
    ]
    return reasons(*_place_checks(), *checks)


def _open_reason() -> pl.Expr:
    return reasons(
        *_place_checks(),
        ("unreadable_qty", pl.col("contracts").is_not_null()),
        ("qty_negative", pl.col("contracts").is_null() | not_negative("contracts")),
        ("missing_price", positive("mark")),
    )


def _recognises_contexts(_: str, fields: Sequence[str]) -> bool:
    return set(CONTEXTS) <= set(fields)


ADAPTER = Adapter(
    name="hyperliquid",
    kinds=(
        Kind("contexts", ("marks", "open_interest"), Delimited(CONTEXTS), _recognises_contexts, each(contexts)),
        Kind("funding", ("funding",), JsonLines(), _recognises_funding, each(funding)),
        Kind("fills", ("trades", "liquidations"), JsonLines(), _recognises_fills, each(fills)),
        COUNTS,
    ),
)
