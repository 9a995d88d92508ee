"""Order-level captures (L3) in Bitstamp's form: what happened to each order, so that cancels and fills tell apart.

Two layouts of the same capture: `orders`, a csv of `id, timestamp, exchange.timestamp, price, volume, action,
direction`, and `log`, lines of `local_ms what json` that hold the trades and the top of the book as well.

    created            add of its volume
    changed, less      trade of what is missing: an order shrinks only by being filled
    changed, price     what stays of it leaves the old price (cancel) and rests at the new one (add)
    deleted, volume    cancel of that volume
    deleted, nothing   trade of what had rested before

Both orders of a trade are in the capture: a marketable order is an add and a trade on its own side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from pipelines.adapters.json_text import TEXT, decoded
from pipelines.adapters.rows import Delimited, JsonLines
from pipelines.errors import InputError

VENUE = "bitstamp"
COLUMNS = ("id", "timestamp", "exchange.timestamp", "price", "volume", "action", "direction")
LOT = 1e8  # volumes are whole numbers of 1e-8 base units
ACTIONS = ("created", "changed", "deleted")
SIDES = {"0": "bid", "1": "ask"}
TAKER = {"bid": "buy", "ask": "sell"}
MATCH_LINES_MAX = 50  # a trade and the changes of its two orders stand close together
MIX, IDS, MIXES = 1_000_003, 1 << 32, 1 << 27


@dataclass
class _Orders:
    """The orders that rest, as the rows last told, and those deleted in the piece before."""

    last: pl.DataFrame | None = None


def _symbol(origin: Origin) -> str:
    if origin.symbol is None:
        raise InputError("the file does not say its symbol", where=origin.name, mend="name it: --symbol BTCUSD")
    return origin.symbol


def _placed(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Add venue, symbol, the instrument, and `ts` = `known_at` = the stamp of the capture (`known`, milliseconds).

    The exchange's own stamp is the second in which the order was created, whatever happened to it now: not used.
    """
    venue = VENUE if origin.venue is None else origin.venue
    told = epoch("known", 1000).alias("told")
    named = rows.with_columns(pl.lit(venue).alias("venue"), pl.lit(_symbol(origin)).alias("symbol"), told)
    dated = named.with_columns(plausible(pl.col("told")).alias("ts"), plausible(pl.col("told")).alias("known_at"))
    return with_instrument(dated, origin.instruments)


def _place_checks() -> tuple[tuple[str, pl.Expr], ...]:
    ts, told = pl.col("ts").is_not_null(), pl.col("told").is_not_null()
    return (
        ("unreadable_ts", told),
        ("ts_out_of_range", ts | ~told),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | ~ts),
    )


# --- orders ----------------------------------------------------------------------------------------------------------


def _row_reason() -> pl.Expr:
    """What is wrong with a row by itself."""
    price, lots = pl.col("price"), pl.col("lots")
    return reasons(
        *_place_checks(),
        ("missing_order_id", pl.col("order") > 0),
        ("unknown_action", pl.col("action").is_in(ACTIONS)),
        ("unknown_side", pl.col("side").is_in(tuple(TAKER))),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", lots.is_not_null()),
        ("qty_negative", lots.is_null() | (lots >= 0)),
        ("created_empty", lots.is_null() | (lots != 0) | (pl.col("action") != "created").fill_null(True)),
    )


def _story_reason() -> pl.Expr:
    """What is wrong with an acceptable row given the row before of the same order.

    A row that repeats the one before to the letter is let through: it is the same event, and refused as a duplicate.
    """
    gone = (pl.col("action_before") == "deleted").fill_null(False)
    live = pl.col("action_before").is_not_null() & ~gone
    action, empty = pl.col("action"), pl.col("lots_before") == 0
    same = [pl.col(name) == pl.col(f"{name}_before") for name in ("ts", "action", "lots", "price")]
    repeats = pl.all_horizontal(same).fill_null(False)
    return reasons(
        ("already_deleted", ~(gone & (action == "deleted")) | repeats),
        ("changed_after_deleted", ~(gone & (action == "changed"))),
        ("created_after_filled", ~(gone & empty & (action == "created")).fill_null(False)),
        ("created_twice", ~(live & (action == "created")) | repeats),
    )


def _told(rows: pl.DataFrame, orders: _Orders) -> pl.DataFrame:
    """Acceptable rows with what the row before said of the same order: `action_before, price_before, lots_before`."""
    kept = ("order", "ts", "action", "price", "lots")
    past = rows.clear() if orders.last is None else orders.last
    told = pl.concat([past, rows], how="diagonal").with_columns(
        pl.col(name).shift(1).over("order").alias(f"{name}_before") for name in kept[1:]
    )
    last = told.filter(pl.col("order").is_last_distinct())
    fresh = last["line"].is_not_null()
    orders.last = last.filter(fresh | (last["action"] != "deleted")).select(*kept)
    return told.filter(pl.col("line").is_not_null())


def _effects(told: pl.DataFrame) -> pl.DataFrame:
    """`traded, cancelled, added` lots, the first two at `price_was`, null or not positive where there is none."""
    live = (pl.col("action_before") != "deleted").fill_null(False)
    action, lots = pl.col("action"), pl.col("lots")
    before, price_before = pl.when(live).then(pl.col("lots_before")), pl.when(live).then(pl.col("price_before"))
    created, changed, deleted = (action == name for name in ACTIONS)
    moved = (changed & (price_before != pl.col("price"))).fill_null(False)
    stays = pl.min_horizontal(lots, pl.when(before.is_not_null()).then(before))
    return told.with_columns(
        pl.when(changed | deleted).then(before - lots).alias("traded"),
        pl.when(deleted).then(lots).when(moved).then(stays).alias("cancelled"),
        pl.when(created | moved).then(lots).when(changed).then(lots - before).alias("added"),
        pl.when(moved | deleted).then(pl.coalesce(price_before, "price")).otherwise("price").alias("price_was"),
    )


def _events(effects: pl.DataFrame) -> pl.DataFrame:
    """One row per event, `item` in the order of the table above."""
    parts = [
        effects.filter(pl.col(column) > 0).with_columns(
            pl.lit(event).alias("event"), pl.col(column).alias("size"), pl.col(price).alias("price"), item=pl.lit(item)
        )
        for item, (event, column, price) in enumerate(
            (("trade", "traded", "price_was"), ("cancel", "cancelled", "price_was"), ("add", "added", "price"))
        )
    ]
    return pl.concat(parts)


def _seq() -> pl.Expr:
    """A number made of the row: the same event has the same wherever the file was cut, and no two share one at a `ts`.

    id (32 bits) | action (2 bits) | volume and price (27 bits) | item (2 bits).
    """
    cents = (pl.col("price") * 100).round().cast(pl.Int64, strict=False).fill_null(0)
    mixed = (pl.col("size") % MIXES + cents % MIXES * MIX) % MIXES
    action = pl.col("action").replace_strict({name: place for place, name in enumerate(ACTIONS)}, default=3)
    packed = (pl.col("order") % IDS * 4 + action.cast(pl.Int64)) * MIXES + mixed
    return (packed * 4 + pl.col("item")).alias("seq")


def _candidates(rows: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    size = rows["size"].cast(pl.Float64).to_numpy() / LOT  # polars multiplies by 1 / LOT, which rounds twice
    sized = rows.with_columns(pl.Series("amount", size).fill_nan(None), _seq())
    sized = sized.with_columns(base_units(pl.col("amount"), pl.col("price")).alias("qty"))
    return candidates("book_events", sized.with_columns(pl.col("order").cast(TEXT).alias("order_id")), reason)


def _refused(rows: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    blank = rows.with_columns(item=pl.lit(0), size=pl.col("lots"), event=pl.lit(None, TEXT))
    return _candidates(blank, reason)


def _book(rows: pl.DataFrame, origin: Origin, orders: _Orders) -> tuple[Batch, pl.DataFrame]:
    """Candidates, and the acceptable rows with their effects.

    `rows` hold `line, ragged, id, known, price, lots, action, side`.
    """
    placed = _placed(rows, origin).with_columns(
        number("price"), pl.col("id").cast(pl.Int64, strict=False).alias("order")
    )
    judged = placed.with_columns(unless_ragged(_row_reason()).alias("said"))
    told = _told(judged.filter(pl.col("said").is_null()), orders).with_columns(_story_reason().alias("said"))
    effects = _effects(told.filter(pl.col("said").is_null()))
    some = pl.any_horizontal((pl.col(name) > 0).fill_null(False) for name in ("traded", "cancelled", "added"))
    nothing = effects.filter(~some)
    seen = (pl.col("action_before").is_not_null()) & (pl.col("action_before") != "deleted")
    bad = (judged.filter(pl.col("said").is_not_null()), told.filter(pl.col("said").is_not_null()))
    batch = {
        "book_events": pl.concat(
            [_candidates(_events(effects), pl.lit(None, TEXT)), *(_refused(part, pl.col("said")) for part in bad)]
        ),
        SILENT: pl.concat(
            [silent(nothing.filter(seen), "nothing_changed"), silent(nothing.filter(~seen), "order_not_seen_before")]
        ),
    }
    return batch, effects


def _orders(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    orders = _Orders()
    for piece in pieces:
        rows = piece.select(
            "line", "ragged", "id", "price", "action", known="timestamp", side="direction", volume="volume"
        )
        lots = pl.col("volume").cast(pl.Int64, strict=False).alias("lots")
        yield _book(rows.with_columns(lots), origin, orders)[0]


# --- the log ---------------------------------------------------------------------------------------------------------

ORDER = dict.fromkeys(("id", "price", "amount", "order_type"), TEXT)
TRADE = dict.fromkeys(("id", "price", "amount", "type"), TEXT)
LEVELS = dict.fromkeys(("bids", "asks"), pl.List(pl.List(TEXT)))


def _split(piece: pl.DataFrame) -> pl.DataFrame:
    parts = pl.col("raw").str.splitn(" ", 3).struct
    known, what, text = (parts.field(f"field_{place}") for place in range(3))
    return piece.select("line", known.alias("known"), what.alias("what"), text.fill_null("").alias("text"))


def _log_orders(lines: pl.DataFrame, origin: Origin, orders: _Orders) -> tuple[Batch, pl.DataFrame]:
    read = decoded(lines, ORDER)
    amount = (number("amount") * LOT).round()
    rows = read.filter(~pl.col("broken")).select(
        "line",
        "id",
        "known",
        "price",
        pl.lit(False).alias("ragged"),
        pl.col("what").str.strip_prefix("order_").alias("action"),
        pl.col("order_type").replace(SIDES).alias("side"),
        amount.cast(pl.Int64, strict=False).alias("lots"),
    )
    batch, effects = _book(rows, origin, orders)
    return {**batch, "book_events": pl.concat([batch["book_events"], _broken("book_events", read)])}, effects


def _broken(table: str, read: pl.DataFrame) -> pl.DataFrame:
    return candidates(table, read.filter("broken").select("line"), pl.lit("unreadable_json"))


def _taker(trades: pl.DataFrame, effects: pl.DataFrame) -> pl.DataFrame:
    """Add `taker`: the side of the younger of the orders that lost the trade's volume within some lines of it.

    Early captures do not say it; the order that came later met the other. Null where no order fits.
    """
    fills = effects.filter(pl.col("traded") > 0).select("order", "side", lots="traded", at="line")
    near = (
        trades.select("line", "lots")
        .join(fills, on="lots")
        .filter((pl.col("at") - pl.col("line")).abs() <= MATCH_LINES_MAX)
    )
    younger = near.sort("line", "order").group_by("line", maintain_order=True).agg(pl.col("side").last())
    return trades.join(
        younger.select("line", fitting="side"), on="line", how="left", maintain_order="left"
    ).with_columns(
        pl.coalesce(pl.col("type").replace_strict(SIDES, default=None), "fitting").replace(TAKER).alias("taker")
    )


def _log_trades(lines: pl.DataFrame, origin: Origin, effects: pl.DataFrame) -> Batch:
    read = decoded(lines, TRADE)
    rows = _placed(read.filter(~pl.col("broken")), origin).with_columns(number("price"), number("amount"))
    rows = _taker(
        rows.with_columns((pl.col("amount") * LOT).round().cast(pl.Int64, strict=False).alias("lots")), effects
    )
    rows = rows.with_columns(
        pl.col("id").alias("trade_id"),
        pl.col("taker").alias("side"),
        base_units(pl.col("amount"), pl.col("price")).alias("qty"),
        dollars(pl.col("amount"), pl.col("price")).alias("notional_usd"),
    )
    reason = reasons(
        *_place_checks(),
        ("missing_trade_id", pl.col("trade_id").str.contains(r"^\d+$")),
        ("unknown_side", pl.col("side").is_not_null()),
        ("unreadable_price", pl.col("price").is_not_null()),
        ("price_not_positive", pl.col("price").is_null() | positive("price")),
        ("unreadable_qty", pl.col("amount").is_not_null()),
        ("qty_not_positive", pl.col("amount").is_null() | positive("amount")),
    )
    return {"trades": pl.concat([candidates("trades", rows, reason), _broken("trades", read)])}


def _log_books(lines: pl.DataFrame, origin: Origin) -> Batch:
    """`order_book`: the best levels of both sides, a snapshot whose `seq` is its stamp in milliseconds."""
    read = decoded(lines, LEVELS)
    rows = _placed(read.filter(~pl.col("broken")), origin).with_columns(
        pl.col("known").cast(pl.Int64, strict=False).alias("seq"), snapshot=pl.lit(True)
    )
    count = pl.col("bids").list.len().fill_null(0)
    empty = rows.filter((count + pl.col("asks").list.len().fill_null(0)) == 0)
    levels = [_levels(rows, "bid", "bids", pl.lit(0)), _levels(rows, "ask", "asks", count)]
    nothing = candidates("book_levels", empty, pl.lit("no_levels"))
    return {"book_levels": pl.concat([*levels, nothing, _broken("book_levels", read)])}


def _levels(rows: pl.DataFrame, side: str, column: str, first_item: pl.Expr) -> pl.DataFrame:
    count = pl.col(column).list.len()
    items = pl.int_ranges(first_item, first_item + count).alias("item")
    kept = ("line", "venue", "symbol", "ts", "known_at", "told", "seq", "snapshot", "settlement", "contract_size")
    exploded = rows.filter(count > 0).select(*kept, items, pl.col(column).alias("level"), pl.lit(side).alias("side"))
    exploded = exploded.explode("level", "item", empty_as_null=True, keep_nulls=True).with_columns(
        pl.col("level").list.get(0, null_on_oob=True).cast(pl.Float64, strict=False).alias("price"),
        pl.col("level").list.get(1, null_on_oob=True).cast(pl.Float64, strict=False).alias("amount"),
    )
    reason = reasons(
        *_place_checks(),
        ("unreadable_price", pl.col("price").is_not_null()),
        ("price_not_positive", pl.col("price").is_null() | positive("price")),
        ("unreadable_qty", pl.col("amount").is_not_null()),
        ("qty_negative", pl.col("amount").is_null() | not_negative("amount")),
    )
    sized = exploded.with_columns(base_units(pl.col("amount"), pl.col("price")).alias("qty"))
    return candidates("book_levels", sized, reason)


def _log_others(lines: pl.DataFrame) -> Batch:
    read = decoded(lines, {"id": TEXT})
    return {
        "book_events": _broken("book_events", read),
        SILENT: silent(read.filter(~pl.col("broken")), "other_message"),
    }


def _log(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    orders = _Orders()
    names = [f"order_{action}" for action in ACTIONS]
    for piece in pieces:
        lines = _split(piece)
        of_orders = pl.col("what").is_in(names).fill_null(False)
        others = ~of_orders & ~pl.col("what").is_in(("trade", "order_book")).fill_null(False)
        batch, effects = _log_orders(lines.filter(of_orders), origin, orders)
        rest = _log_others(lines.filter(others))
        yield {
            **_log_trades(lines.filter(pl.col("what") == "trade"), origin, effects),
            **_log_books(lines.filter(pl.col("what") == "order_book"), origin),
            **{table: pl.concat([batch[table], rest[table]]) for table in batch},
        }


# --- the adapter -----------------------------------------------------------------------------------------------------


def _recognises_orders(_: str, fields: Sequence[str]) -> bool:
    return set(COLUMNS) <= set(fields)


def _recognises_log(_: str, fields: Sequence[str]) -> bool:
    """The first line is a stamp in milliseconds, a word and a json object."""
    stamp, _, rest = (fields[0] if fields else "").partition(" ")
    what, _, text = rest.partition(" ")
    return stamp.isdigit() and len(stamp) == 13 and what.isidentifier() and text.startswith("{")


ADAPTER = Adapter(
    name="order-log",
    kinds=(
        Kind("orders", ("book_events",), Delimited(COLUMNS), _recognises_orders, _orders),
        Kind("log", ("book_events", "trades", "book_levels"), JsonLines(), _recognises_log, _log),
    ),
)
