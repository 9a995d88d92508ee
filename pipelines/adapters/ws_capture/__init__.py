"""Captured websocket messages of Binance futures and spot, one `local_ns json` a line.

Every message goes to the reader of its event; messages of other events are silent under their name. A gap in the
sequence numbers stays visible in `seq_before`: nothing is dropped here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipelines.adapters.adapter import SILENT, Adapter, Batch, Kind, Origin, candidates
from pipelines.adapters.json_text import Fields
from pipelines.adapters.rows import JsonLines
from pipelines.adapters.ws_capture import book, prints
from pipelines.adapters.ws_capture.messages import SNAPSHOT, messages, split

TABLES = ("book_levels", "quotes", "trades", "liquidations", "marks", "funding")


@dataclass(frozen=True)
class _Seen:
    """What the file's messages have told so far: their symbols, and those whose single trades are in the file."""

    symbols: set[str] = field(default_factory=set)
    traded: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Reader:
    """How the messages of one event are read. `table` takes the lines that are no json at all."""

    event: str
    table: str
    fields: Fields
    read: Callable[[pl.DataFrame, Origin, _Seen], Batch]


def _trades(rows: pl.DataFrame, origin: Origin, seen: _Seen) -> Batch:
    seen.traded.update(rows["s"].drop_nulls().unique())
    return prints.trades(rows, origin, "t")


def _aggregates(rows: pl.DataFrame, origin: Origin, seen: _Seen) -> Batch:
    """Aggregates of trades that the file also has one by one would count them twice: silent."""
    twice = pl.col("s").is_in(sorted(seen.traded)).fill_null(False)
    batch = dict(prints.trades(rows.filter(~twice), origin, "a"))
    batch[SILENT] = pl.concat([batch[SILENT], _told(rows.filter(twice), pl.lit("aggregate_of_stored_trades"))])
    return batch


READERS = (
    _Reader("depthUpdate", "book_levels", book.DEPTH, lambda rows, origin, _: book.depth(rows, origin)),
    _Reader("bookTicker", "quotes", book.QUOTE, lambda rows, origin, _: book.quotes(rows, origin)),
    _Reader("trade", "trades", prints.TRADE, _trades),
    _Reader("aggTrade", "trades", prints.TRADE, _aggregates),
    _Reader("forceOrder", "liquidations", prints.FORCED, lambda rows, origin, _: prints.forced(rows, origin)),
    _Reader("markPriceUpdate", "marks", prints.MARK, lambda rows, origin, _: prints.marks(rows, origin)),
    _Reader(SNAPSHOT, "book_levels", book.BOOK, lambda rows, origin, seen: book.snapshot(rows, origin, seen.symbols)),
)  # in this order: a snapshot may take its symbol from the other messages


def _told(rows: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    return rows.select(pl.col("line"), pl.col("item").cast(pl.Int64), reason.alias("reason"))


def _unreadable(table: str, rows: pl.DataFrame) -> Batch:
    return {table: candidates(table, rows.select("line"), pl.lit("unreadable_json"))}


def _read(lines: pl.DataFrame, reader: _Reader, origin: Origin, seen: _Seen) -> Iterator[Batch]:
    rows = messages(lines, reader.fields)
    yield _unreadable(reader.table, rows.filter("broken"))
    whole = rows.filter(~pl.col("broken"))
    if "s" in reader.fields:
        seen.symbols.update(whole["s"].drop_nulls().unique())
    yield reader.read(whole, origin, seen)


def _other(lines: pl.DataFrame) -> Iterator[Batch]:
    """Messages that no reader takes: silent under their event's name, or no json."""
    rows = messages(lines, {"e": pl.String}).unique("line", keep="first", maintain_order=True)
    rows = rows.join(lines.select("line", "event"), on="line", how="left")
    yield _unreadable(TABLES[0], rows.filter("broken"))
    yield {SILENT: _told(rows.filter(~pl.col("broken")), pl.concat_str(pl.lit("event:"), "event"))}


def _convert(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    seen = _Seen()
    for piece in pieces:
        lines = split(piece)
        parts = lines.partition_by("event", as_dict=True, include_key=False)
        found = [(reader, parts[(reader.event,)]) for reader in READERS if (reader.event,) in parts]
        batches = [batch for reader, part in found for batch in _read(part, reader, origin, seen)]
        rest = lines.filter(~pl.col("event").is_in([reader.event for reader in READERS]))
        yield _joined([*batches, *(_other(rest) if rest.height else ())])


def _joined(batches: Sequence[Batch]) -> Batch:
    tables = dict.fromkeys(table for batch in batches for table in batch)
    joined = {table: pl.concat([batch[table] for batch in batches if table in batch]) for table in tables}
    return {table: rows for table, rows in joined.items() if rows.height}


def _recognises(_: str, fields: Sequence[str]) -> bool:
    """The first line is a stamp in nanoseconds and a json object."""
    stamp, _, text = (fields[0] if fields else "").partition(" ")
    return stamp.isdigit() and len(stamp) == 19 and text.lstrip().startswith("{")


ADAPTER = Adapter(
    name="ws-capture",
    kinds=(Kind("messages", TABLES, JsonLines(), _recognises, _convert, content_seq=("liquidations",)),),
)
