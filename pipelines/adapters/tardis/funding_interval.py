"""How long a funding interval is, read from the moments at which funding is due.

A ticker says when the rate will be paid (`due`), not for how long it counts. When `due` moves on from one moment to the
next, the interval that ends at the later one is as long as the move: also while a venue changes its intervals.
"""

from datetime import timedelta

import polars as pl

# Standard intervals by the venues' own documents, for tickers that tell none. Binance: "every eight hours (this time
# period may change based on market conditions)", COIN-M and USD-M contract specifications. Hyperliquid pays hourly.
STANDARD_H = {"binance-usdm": 8.0, "binance-coinm": 8.0, "hyperliquid": 1.0}
INTERVAL_H_MAX = 24
HOUR = timedelta(hours=1)
EARLY = timedelta(minutes=5)  # how long before a payment, or off the hour, a venue may show the next one
MARKET = ("venue", "symbol")


def _with_moves(rows: pl.DataFrame) -> pl.DataFrame:
    """`interval_h` by the latest move of `due` seen in the same market; as it was, else null, before the first.

    A move is one interval only if it was seen around the payment: from `EARLY` before it to the middle of the move. A
    feed that slept through a payment would otherwise make two intervals one.
    """
    before = pl.col("due").shift().over(MARKET)
    move, since = pl.col("due") - before, pl.col("ts") - before
    hours = (move / HOUR).round()
    whole = (move - hours * HOUR).abs() <= EARLY
    seen = (since >= -EARLY) & (since < move / 2) & whole & (hours >= 1) & (hours <= INTERVAL_H_MAX)
    told = pl.coalesce("interval_h", pl.when(seen).then(hours))
    return rows.with_columns(told.forward_fill().over(MARKET).alias("interval_h"))


def _standard() -> pl.Expr:
    """The venue's standard interval, where `due`, if told, lies on its grid since midnight UTC."""
    hours = pl.col("venue").replace_strict(STANDARD_H, default=None, return_dtype=pl.Float64)
    on_grid = pl.col("due").is_null() | (pl.col("due").dt.epoch("s") % (hours * 3600) == 0)
    return pl.when(on_grid).then(hours)


def _judged(rows: pl.DataFrame) -> pl.DataFrame:
    """Refuse a row without an interval, or whose payment lies further ahead than one interval."""
    fits = pl.col("due").is_null() | (pl.col("due") - pl.col("ts") <= pl.col("interval_h") * HOUR + EARLY)
    wrong = (
        pl.when(pl.col("interval_h").is_null())
        .then(pl.lit("unknown_funding_interval"))
        .when(~fits)
        .then(pl.lit("funding_interval_contradicted"))
    )
    return rows.with_columns(pl.coalesce("reason", wrong).alias("reason")).drop("due")


class Intervals:
    """Fills in `interval_h`, piece by piece of one file; rows before a market's first move wait for it.

    At most one interval of rows waits for each market, or the whole file where `due` never moves.
    """

    def __init__(self) -> None:
        self._held: pl.DataFrame | None = None
        self._last: pl.DataFrame | None = None

    def fill(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Candidates of `funding` with their interval, of this piece and of those that waited for it."""
        waiting = rows.filter(pl.col("reason").is_null() & pl.col("due").is_not_null())
        others = rows.join(waiting, on="line", how="anti")
        told = self._moved(waiting)
        known = told.filter(pl.col("interval_h").is_not_null())
        released = self._released(told.filter(pl.col("interval_h").is_null()), known)
        standard = others.with_columns(_standard().alias("interval_h"))
        return _judged(pl.concat([released, known, standard])).sort("line")

    def rest(self) -> pl.DataFrame | None:
        """Rows that still wait at the end of the file, by the venue's standard; null before the first piece."""
        if self._held is None:
            return None
        return _judged(self._held.with_columns(_standard().alias("interval_h")))

    def _moved(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` with the intervals seen so far; remembers the last row of every market."""
        carried = rows.clear() if self._last is None else self._last
        told = _with_moves(pl.concat([carried, rows]))
        self._last = told.unique(MARKET, keep="last", maintain_order=True)
        return told.slice(carried.height)

    def _released(self, unknown: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """Held rows whose market now tells an interval, with the first it tells; the others stay held."""
        held = unknown if self._held is None else pl.concat([self._held, unknown])
        first = known.unique(MARKET, keep="first", maintain_order=True).select(*MARKET, "interval_h")
        self._held = held.join(first, on=MARKET, how="anti", maintain_order="left")
        return held.drop("interval_h").join(first, on=MARKET, maintain_order="left").select(held.columns)
