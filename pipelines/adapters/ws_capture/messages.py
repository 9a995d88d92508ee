"""The lines of a capture as frames of messages: split, told apart by event, decoded, and placed at a venue and moment.

A line is `local_ns json`: nanoseconds since 1970 (UTC) at which it was received, and the message as it came, bare or
in a combined stream (`{"stream": ..., "data": ...}`).
"""

import polars as pl

from pipelines.adapters.adapter import Origin, epoch, plausible, with_instrument
from pipelines.adapters.json_text import TEXT, Fields, decoded

NS, MS = 0.001, 1000
COIN_MARGINED = r"USD_(PERP|\d{6})$"
SNAPSHOT, UNNAMED = "snapshot", "unnamed"
EVENT = r'"e"\s*:\s*"([^"\\]{1,40})"'


def split(piece: pl.DataFrame) -> pl.DataFrame:
    """`line, raw` -> `line, stamp, text, event, many`: the stamp, the json as a combined message, its event, and
    whether its data is an array.

    The event is the message's `e`; messages that have none are told by their keys. A line without a stamp is all json.

    >>> raw = ['17 {"e":"trade","t":1}', '18 {"lastUpdateId":3}', '{"stream":"s","data":[{"e":"x"}]}']
    >>> frame = split(pl.DataFrame({"line": [1, 2, 3], "raw": raw}))
    >>> frame.select("stamp", "event", "many").rows()
    [('17', 'trade', False), ('18', 'snapshot', False), (None, 'x', True)]
    """
    stamp = pl.col("raw").str.extract(r"^(\d+)[ \t]", 1)
    rows = piece.select("line", "raw", stamp.alias("stamp"))
    body = pl.when(pl.col("stamp").is_null()).then(pl.col("raw"))
    rows = rows.with_columns(body.otherwise(pl.col("raw").str.slice(pl.col("stamp").str.len_chars())).alias("body"))
    combined = pl.col("body").str.contains(r'"stream"\s*:') & pl.col("body").str.contains(r'"data"\s*:')
    bare = pl.concat_str(pl.lit('{"data":'), "body", pl.lit("}"))
    text = pl.when(combined).then(pl.col("body")).otherwise(bare).alias("text")
    many = pl.col("text").str.contains(r'"data"\s*:\s*\[').alias("many")
    return rows.select("line", "stamp", _event().alias("event"), text).with_columns(many)


def _event() -> pl.Expr:
    def has(*keys: str) -> pl.Expr:
        return pl.all_horizontal(pl.col("body").str.contains(f'"{key}"', literal=True) for key in keys)

    unnamed = pl.when(has("lastUpdateId")).then(pl.lit(SNAPSHOT)).when(has("u", "s", "b", "B", "a", "A"))
    return pl.col("body").str.extract(EVENT, 1).fill_null(unnamed.then(pl.lit("bookTicker")).otherwise(pl.lit(UNNAMED)))


def messages(lines: pl.DataFrame, fields: Fields) -> pl.DataFrame:
    """`line, item, stamp, broken, stream` and `fields` of the messages; an array of messages counts them by `item`."""
    parts = []
    for (many,), part in (
        lines.drop("event", strict=False).partition_by("many", as_dict=True, include_key=False).items()
    ):
        data = pl.Struct(fields)
        rows = decoded(part, {"stream": TEXT, "data": pl.List(data) if many else data})
        item = pl.int_ranges(pl.col("data").list.len().fill_null(0)) if many else pl.lit(0)
        rows = rows.with_columns(item.cast(pl.List(pl.Int64) if many else pl.Int64).alias("item"))
        rows = rows.explode("data", "item", empty_as_null=True, keep_nulls=True) if many else rows
        parts.append(rows.unnest("data").with_columns(pl.col("item").fill_null(0)))
    return pl.concat(parts)


def placed(rows: pl.DataFrame, origin: Origin, stamp: str, spot: pl.Expr) -> pl.DataFrame:
    """Add `venue, symbol, ts, known_at`, what was unreadable of them, and the instrument.

    Text columns `stamp` (milliseconds; where it is null, `ts` is the moment of capture), `s` and `ps` must be there.
    The venue is the user's, else told by the message: coin-margined by its pair or symbol, `spot` by what only spot
    messages have or lack.
    """
    symbol = pl.coalesce("s", pl.col("stream").str.extract(r"^([a-z0-9_]+)@", 1).str.to_uppercase())
    coin = pl.col("ps").is_not_null() | symbol.str.contains(COIN_MARGINED)
    told = pl.when(coin).then(pl.lit("binance-coinm")).when(spot).then(pl.lit("binance"))
    venue = told.otherwise(pl.lit("binance-usdm")) if origin.venue is None else pl.lit(origin.venue)
    known_at = epoch("stamp", NS).alias("known_at_told")
    ts = pl.when(pl.col(stamp).is_null()).then(known_at).otherwise(epoch(stamp, MS)).alias("ts_told")
    named = rows.with_columns(venue.alias("venue"), symbol.alias("symbol"), known_at, ts).with_columns(
        plausible(pl.col("ts_told")).alias("ts"), plausible(pl.col("known_at_told")).alias("known_at")
    )
    return with_instrument(named, origin.instruments)


def place_checks() -> tuple[tuple[str, pl.Expr], ...]:
    """Checks of what `placed` adds."""
    ts, ts_told = pl.col("ts").is_not_null(), pl.col("ts_told").is_not_null()
    known_at, known_at_told = pl.col("known_at").is_not_null(), pl.col("known_at_told").is_not_null()
    return (
        ("unreadable_ts", ts_told),
        ("ts_out_of_range", ts | ~ts_told),
        ("unreadable_known_at", known_at_told),
        ("known_at_out_of_range", known_at | ~known_at_told),
        ("missing_symbol", pl.col("symbol").is_not_null()),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | pl.col("symbol").is_null() | ~ts),
    )
