"""Work that waits: every span of a symbol that has new rows, however late they came, until its bars know of them.

A source marks its spans before its rows are committed: a mark too many costs a computation, a mark too few would leave
a bar that does not know of a row. A row touches the bars from its own time on for as long as its value is carried; a
row of the order book touches every later state of the book.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import polars as pl

from features.bars import LOOKBACK_S
from pipelines.lake import PENDING_SCHEMA, Lake
from pipelines.times import Interval

FEEDS_BARS = frozenset(
    {
        "trades",
        "book_events",
        "book_levels",
        "quotes",
        "book_depth",
        "marks",
        "funding",
        "open_interest",
        "liquidations",
        "candles",
    }
)
FEEDS_GUARD = frozenset({"positions", "collateral"})  # read by structure and rules beside the bars
FEEDS_BOOK = ("book_levels", "book_events", "trades")  # what the book of a symbol is derived from
BOOK = "book"  # the table of a mark that says: the derived book has changed
MICROSECOND = timedelta(microseconds=1)


# --- marking ---------------------------------------------------------------------------------------------------------


def mark_pending(lake: Lake, table: str, spans: pl.DataFrame, source_key: str) -> None:
    """Mark `venue, symbol, ts (first), last` as changed; nothing for tables that neither bars nor rules read.

    A source that was killed after its marks and is tried again marks anew, unless its marks still wait: its first ones
    may have been taken away by bars that could not see its rows.
    """
    waiting = lake.scan("pending").filter(pl.col("source_sha256") == source_key)
    if table not in FEEDS_BARS | FEEDS_GUARD or not waiting.head(1).collect().is_empty():
        return
    own = spans.with_columns(pl.lit(table).alias("table"))
    marks = pl.concat([own, _leaning_on(lake, spans)], how="diagonal") if table == "trades" else own
    named = marks.with_columns(pl.lit(source_key).alias("source_sha256"))
    lake.append("pending", named.select(PENDING_SCHEMA.names()), None)


def _leaning_on(lake: Lake, spans: pl.DataFrame) -> pl.DataFrame:
    """The spans again, for every derivative whose index is the spot market that has the new rows."""
    references = lake.scan("instruments").select("venue", "symbol", reference="spot_reference").explode("reference")
    named = spans.with_columns(pl.concat_str("venue", "symbol", separator=":").alias("reference"))
    leaning = named.drop("venue", "symbol").join(references.unique().collect(), on="reference")
    return leaning.with_columns(pl.lit("spot").alias("table"))


# --- what waits ------------------------------------------------------------------------------------------------------


def pending_marks(lake: Lake, venue: str) -> pl.DataFrame:
    """The marks of `venue`, with `until`: the last moment whose bar can know of the rows."""
    marks = lake.scan("pending", venue).collect()
    carried_s = pl.col("table").replace_strict(
        dict(LOOKBACK_S), default=max(LOOKBACK_S.values()), return_dtype=pl.Int64
    )
    return marks.with_columns((pl.col("last") + pl.duration(seconds=carried_s)).alias("until"))


def pending_interval(lake: Lake, venue: str, span: Interval, step: timedelta) -> Interval | None:
    """The interval of whole `step`s inside `span` (all data of the venue) that holds every bar to be computed.

    Null where nothing waits.
    """
    marks = pending_marks(lake, venue)
    first, until = marks["ts"].min(), marks["until"].max()
    if not isinstance(first, datetime) or not isinstance(until, datetime):
        return None
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight + (first - MICROSECOND - midnight) // step * step
    end = midnight - (midnight - until) // step * step
    return Interval(max(start, span.start), min(end, span.end))


def pending_books(lake: Lake, venue: str, marks: pl.DataFrame) -> Iterator[tuple[str, Interval]]:
    """Symbols of `venue` whose book `marks` ask to be derived again, from where on, up to their last row."""
    marks = marks.filter(pl.col("table").is_in(FEEDS_BOOK))
    if not _derives_books(lake, venue, marks):
        return
    for symbol, first in marks.group_by("symbol").agg(pl.col("ts").min()).sort("symbol").iter_rows():
        last = _last_of_book(lake, venue, symbol)
        if last is not None:
            minute = timedelta(minutes=1)
            midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
            start = midnight + (first - MICROSECOND - midnight) // minute * minute
            yield symbol, Interval(start, max(midnight - (midnight - last) // minute * minute, start + minute))


def _derives_books(lake: Lake, venue: str, marks: pl.DataFrame) -> bool:
    """Whether there is, was, or by these marks may be, a book to derive: levels, a state, or orders by their ids.

    A venue that publishes events and depth of its own has none: nothing is asked symbol by symbol.
    """
    own = pl.col("venue") == venue
    if any(lake.files(table).filter(own).height for table in ("book_levels", "book_state")):
        return True
    first, last = marks["ts"].min(), marks["last"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return False
    events = lake.scan("book_events", venue, first - MICROSECOND, last)
    return events.filter(pl.col("order_id").is_not_null()).head(1).collect().height > 0


def _last_of_book(lake: Lake, venue: str, symbol: str) -> datetime | None:
    """Last stamp of the tables that a book is derived from; null where the symbol has no book."""
    inside = (pl.col("venue") == venue) & (pl.col("symbol_min") <= symbol) & (pl.col("symbol_max") >= symbol)
    files = [lake.files(table).filter(inside) for table in FEEDS_BOOK]
    if files[0].is_empty() and files[1].is_empty():
        return None
    last = pl.concat(files)["ts_max"].max()
    return last if isinstance(last, datetime) else None


# --- done ------------------------------------------------------------------------------------------------------------


def book_derived(lake: Lake, venue: str, symbol: str, interval: Interval, known: pl.DataFrame) -> None:
    """Put one mark for the bars of `interval` in place of those of `known` that asked for the book.

    `known` are the marks read before the book was derived. The caller holds the lock.
    """
    marks = lake.scan("pending", venue).collect()
    asked = known.filter(pl.col("symbol") == symbol, pl.col("table").is_in(FEEDS_BOOK))
    mark = {"venue": venue, "symbol": symbol, "ts": interval.start + MICROSECOND, "last": interval.end}
    carried = pl.DataFrame([mark | {"table": BOOK, "source_sha256": BOOK}], schema=PENDING_SCHEMA)
    _rewrite(lake, venue, pl.concat([_without(marks, asked), carried]))


def clear_pending(lake: Lake, venue: str, interval: Interval, span: Interval, known: pl.DataFrame) -> int:
    """Take away the marks of `known` all of whose bars lie inside `interval`; returns their number.

    `known` are the marks read before the bars of `interval` were computed, under the lock: the rows of a later one may
    not be in them. The caller holds the lock again. `span` is all data of the venue: there
    is no bar before or after it.
    """
    until = pl.min_horizontal("until", pl.lit(span.end, known.schema["until"]))
    since = (pl.col("ts") > interval.start) | pl.lit(interval.start <= span.start)
    marks = lake.scan("pending", venue).collect()
    left = _without(marks, known.filter(since & (until <= interval.end)))
    if left.height < marks.height:
        _rewrite(lake, venue, left)
    return marks.height - left.height


def settle_pending(lake: Lake, venue: str, since: datetime, known: pl.DataFrame) -> None:
    """Take away all marks of `known` but those of rows up to `since`, whose bars nobody computed. Holds the lock.

    A mark that begins before and reaches beyond is cut there.
    """
    begun = known.filter(pl.col("ts") <= since, pl.col("last") > since)
    with lake.writer():
        marks = lake.scan("pending", venue).collect()
        left = _without(marks, known.filter(pl.col("last") > since))
        cut = begun.with_columns(last=pl.lit(since, known.schema["last"])).select(PENDING_SCHEMA.names())
        if left.height + cut.height != marks.height or begun.height:
            _rewrite(lake, venue, pl.concat([left, cut]))


def _without(marks: pl.DataFrame, done: pl.DataFrame) -> pl.DataFrame:
    return marks.join(done, on=PENDING_SCHEMA.names(), how="anti", nulls_equal=True)


def _rewrite(lake: Lake, venue: str, marks: pl.DataFrame) -> None:
    lake.drop("pending", lake.files("pending").filter(pl.col("venue") == venue), [marks])
