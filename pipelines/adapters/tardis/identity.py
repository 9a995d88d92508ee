"""What every tardis file says of a line: which market, when it happened, when it was captured."""

from collections.abc import Callable, Sequence

import polars as pl

from features.schema import UTC_US
from pipelines.adapters.adapter import VENUE_NAME, Origin, epoch, plausible, with_instrument

IDENTITY = ("exchange", "symbol", "timestamp", "local_timestamp")
VENUES = {"binance-delivery": "binance-coinm", "binance-futures": "binance-usdm"}  # their name -> ours; others as is
Check = tuple[str, pl.Expr]


def has(*columns: str) -> Callable[[str, Sequence[str]], bool]:
    """A `Kind.recognises`: all of `columns` are there, whatever the file is called."""
    wanted = frozenset(columns)
    return lambda _, fields: wanted <= set(fields)


def identified(raw: pl.DataFrame, origin: Origin, *columns: pl.Expr) -> pl.DataFrame:
    """`line, ragged, venue, symbol, ts, known_at` and the instrument in force of every line, and `columns`.

    ts = timestamp, known_at = local_timestamp as it stands, also where the two clocks disagree and it lies before `ts`;
    both null where unreadable (then `ts_unreadable`, `known_at_unreadable`) or out of range. A venue or symbol that the
    user named wins over the columns.
    """
    venue = pl.col("exchange").replace(VENUES) if origin.venue is None else pl.lit(origin.venue)
    symbol = pl.col("symbol") if origin.symbol is None else pl.lit(origin.symbol)
    happened, captured = epoch("timestamp", 1), epoch("local_timestamp", 1)
    rows = raw.select(
        "line",
        "ragged",
        venue.alias("venue"),
        symbol.alias("symbol"),
        plausible(happened).cast(UTC_US).alias("ts"),
        plausible(captured).cast(UTC_US).alias("known_at"),
        happened.is_null().alias("ts_unreadable"),
        captured.is_null().alias("known_at_unreadable"),
        *columns,
    )
    return with_instrument(rows, origin.instruments)


def identity_checks() -> tuple[Check, ...]:
    """What must hold of the columns of `identified`, for `reasons`."""
    ts, known_at = pl.col("ts").is_not_null(), pl.col("known_at").is_not_null()
    return (
        ("unreadable_ts", ~pl.col("ts_unreadable")),
        ("ts_out_of_range", ts | pl.col("ts_unreadable")),
        ("unreadable_known_at", ~pl.col("known_at_unreadable")),
        ("known_at_out_of_range", known_at | pl.col("known_at_unreadable")),
        ("bad_venue_name", pl.col("venue").str.contains(f"^{VENUE_NAME.pattern}$")),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | ~ts),
    )


def capture_seq() -> pl.Expr:
    """`seq`: the capture stamp in microseconds. Lines of one message share it, and it does not depend on the file."""
    return pl.col("known_at").dt.epoch("us").alias("seq")


class Told:
    """Which stamps of each market were told before, over the pieces of one file.

    Several lines may carry one exchange stamp, and the tables without a sequence number keep one row for it: the first.
    The lines after it say nothing for that table; the next stamp restates what they would have said.
    """

    def __init__(self, *key: str) -> None:
        self._key = key
        self._last: pl.DataFrame | None = None

    def first(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` (`ts` and the key, in file order) without those whose stamp was told for the same key before."""
        stamp = (*self._key, "ts")
        new = rows.unique(stamp, keep="first", maintain_order=True)
        if self._last is not None:
            new = new.join(self._last, on=stamp, how="anti", maintain_order="left")
        seen = new.select(stamp) if self._last is None else pl.concat([self._last, new.select(stamp)])
        self._last = seen.unique(self._key, keep="last", maintain_order=True)
        return new
