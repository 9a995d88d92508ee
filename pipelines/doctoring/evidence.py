"""What the checks look at: canonical tables as lazy frames, how many rows each holds per day, and their spacing.

Memory is bounded by one piece: a feed is read per venue and symbol, in pieces of whole days of at most `piece_rows_max`
rows (one day is never split), and only the columns that a check names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from features.schema import UTC_US, VENUE_WIDE

PIECE_ROWS_MAX = 4_000_000  # about 100 MB for three columns of eight bytes
# One stream per venue, not per symbol: rows come when something happens to somebody, so only the silence of all of
# them says anything about the feed.
FEED_WIDE = frozenset({"liquidations", "collateral", "positions"})
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 28800, 43200, 86400)
STEP_TOLERANCE = 0.1  # a gap this close to the step is the step: a feed polled every 30 s comes after 28 to 32 s
REGULAR_SHARE = 0.5  # a feed is regular if most of its gaps are the step
GAP_STEPS = 1.5  # halfway between one step and two: beyond it at least one stamp is missing
# Of the gaps of a Poisson feed 1 in 100 exceeds 4.6 means; the largest of a million is about 14 means, three times
# that. Ten times leaves room for a market that is three times quieter at night.
SILENCE_P99 = 10
SILENCE_S_MIN = 60.0  # shorter silences than the shortest bar hurt nobody
STAMPS_MIN = 100  # below it the 99th percentile of the gaps is not known
OCTAVE_PARTS = 8  # gaps are counted in classes of 9 % width, which is how exact their percentiles are
LONGEST_KEPT = 2_000  # gaps kept per series, longest first; the number beyond is still counted

SERIES = ("table", "venue", "symbol")
DAYS = pl.Schema(
    {"table": pl.String(), "venue": pl.String(), "symbol": pl.String(), "day": pl.Date(), "rows": pl.Int64(),
     "first": UTC_US, "last": UTC_US}
)  # fmt: skip
SPACINGS = pl.Schema(
    {"table": pl.String(), "venue": pl.String(), "symbol": pl.String(), "stamps": pl.Int64(), "first": UTC_US,
     "last": UTC_US, "p50_s": pl.Float64(), "p99_s": pl.Float64(), "step_s": pl.Float64(), "limit_s": pl.Float64()}
)  # fmt: skip
GAPS = pl.Schema(
    {"table": pl.String(), "venue": pl.String(), "symbol": pl.String(), "first": UTC_US, "last": UTC_US,
     "gap_s": pl.Float64(), "limit_s": pl.Float64(), "step_s": pl.Float64()}
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """`days`: rows per table, venue, symbol and day. `spacings`: per series its usual spacing and the limit beyond
    which a silence is a gap. `gaps`: the silences beyond it, `(first, last)` being the stamps around them.
    """

    tables: Mapping[str, pl.LazyFrame]
    instruments: pl.DataFrame
    quarantine: pl.LazyFrame
    days: pl.DataFrame
    spacings: pl.DataFrame
    gaps: pl.DataFrame
    piece_rows_max: int = PIECE_ROWS_MAX

    def rows(self, table: str) -> pl.LazyFrame | None:
        """The rows of `table`, None where the lake does not hold it."""
        return self.tables.get(table)

    def series(self, table: str) -> list[tuple[str, str]]:
        """Venue and symbol of every series of `table`, in order."""
        held = self.days.filter(pl.col("table") == table).select("venue", "symbol").unique()
        return sorted(held.iter_rows())

    def pieces(
        self,
        table: str,
        key: tuple[str, str],
        columns: Sequence[str],
        *,
        then: Sequence[str] = (),
        where: pl.Expr | None = None,
        paired: bool = True,
    ) -> Iterator[pl.DataFrame]:
        """`columns` of one series in the order of `ts`, then `then`, piece by piece.

        If `paired`, every piece but the first begins with the last row of the one before, so each pair of neighbours
        stands in exactly one piece; else each row does. Rows outside `where` are left out before the pairing.
        """
        days = self.days.filter(pl.col("table") == table, pl.col("venue") == key[0], pl.col("symbol") == key[1])
        mine = self.tables[table].filter(pl.col("venue") == key[0])
        mine = mine if key[1] == VENUE_WIDE else mine.filter(pl.col("symbol") == key[1])
        mine = (mine if where is None else mine.filter(where)).select(columns)
        before: pl.DataFrame | None = None
        for start, end in _chunks(days, self.piece_rows_max):
            inside = (pl.col("ts") >= pl.lit(start, UTC_US)) & (pl.col("ts") < pl.lit(end, UTC_US))
            piece = mine.filter(inside).collect(engine="streaming")
            if piece.height:
                piece = piece.sort("ts", *then) if then or not piece["ts"].is_sorted() else piece
                yield piece if before is None else pl.concat([before, piece])
                before = piece.tail(1) if paired else None


def _chunks(days: pl.DataFrame, most: int) -> Iterator[tuple[datetime, datetime]]:
    """`[start, end)` of runs of days that hold at most `most` rows together, one day at least."""
    held = days.group_by("day").agg(pl.col("rows").sum()).sort("day")
    start, end, rows = None, None, 0
    for day, count in held.iter_rows():
        if start is not None and end is not None and rows + count > most:
            yield start, end
            start, rows = None, 0
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        start = midnight if start is None else start
        end, rows = midnight + timedelta(days=1), rows + count
    if start is not None and end is not None:
        yield start, end


# --- the survey ------------------------------------------------------------------------------------------------------


def _per_day(table: str, rows: pl.LazyFrame) -> pl.DataFrame:
    """Rows per series and day; feeds that are one stream per venue have the symbol `*`."""
    symbol = pl.lit(VENUE_WIDE).alias("symbol") if table in FEED_WIDE else pl.col("symbol")
    counted = rows.group_by("venue", symbol, day=pl.col("ts").dt.date()).agg(
        rows=pl.len().cast(pl.Int64), first=pl.col("ts").min(), last=pl.col("ts").max()
    )
    return counted.select(pl.lit(table).alias("table"), pl.exclude("table")).collect(engine="streaming")


def _classes(gaps_us: pl.Series) -> pl.DataFrame:
    """How many gaps fall into each class of 9 % width: `nth, count`."""
    nth = (gaps_us.log(2.0) * OCTAVE_PARTS).floor().cast(pl.Int32).alias("nth")
    return nth.to_frame().group_by("nth").agg(count=pl.len().cast(pl.Int64))


def _quantile_s(classes: pl.DataFrame, share: float) -> float:
    """Quantile of counted gaps: the middle of the class that holds it, so within 5 %."""
    ordered = classes.sort("nth").with_columns(below=pl.col("count").cum_sum())
    nth = ordered.filter(pl.col("below") >= math.ceil(share * int(ordered["count"].sum())))["nth"][0]
    return float(2 ** ((nth + 0.5) / OCTAVE_PARTS) / 1e6)


def step_of(p50_s: float, classes: pl.DataFrame) -> float | None:
    """The regular step of a feed in seconds: the usual one next to its median gap; None if too few gaps are near it."""
    step = min(STEPS_S, key=lambda seconds: abs(math.log(seconds / p50_s)))
    middle_s = 2 ** ((classes["nth"].to_numpy() + 0.5) / OCTAVE_PARTS) / 1e6
    near = np.abs(np.log2(middle_s / step)) <= STEP_TOLERANCE + 0.5 / OCTAVE_PARTS
    counts = classes["count"].to_numpy()
    return float(step) if counts[near].sum() >= REGULAR_SHARE * counts.sum() else None


def _silence_limit_s(step_s: float | None, p99_s: float, stamps: int) -> float | None:
    if step_s is not None:
        return GAP_STEPS * step_s
    return None if stamps < STAMPS_MIN else max(SILENCE_S_MIN, SILENCE_P99 * p99_s)


def _spaced(table: str, key: tuple[str, str], pieces: Iterator[pl.DataFrame]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The spacing of one series and its gaps. Rows of one stamp count once."""
    classes, longest, stamps = [], [], 0
    for piece in pieces:
        pairs = piece.select(first=pl.col("ts").shift(), last="ts").filter(pl.col("last") > pl.col("first"))
        gap = (pairs["last"] - pairs["first"]).dt.total_microseconds().alias("gap_us")
        classes.append(_classes(gap))
        longest.append(pairs.with_columns(gap).top_k(LONGEST_KEPT, by="gap_us"))
        stamps += pairs.height
    counted = pl.concat(classes).group_by("nth").agg(pl.col("count").sum())
    if not stamps:
        return pl.DataFrame(schema=SPACINGS), pl.DataFrame(schema=GAPS)
    p50_s, p99_s = _quantile_s(counted, 0.5), _quantile_s(counted, 0.99)
    step_s = step_of(p50_s, counted)
    limit_s = _silence_limit_s(step_s, p99_s, stamps)
    named = dict(zip(SERIES, (table, *key), strict=True))
    row = named | {"stamps": stamps + 1, "p50_s": p50_s, "p99_s": p99_s, "step_s": step_s, "limit_s": limit_s}
    kept = pl.concat(longest).top_k(LONGEST_KEPT, by="gap_us").filter(pl.col("gap_us") > (limit_s or math.inf) * 1e6)
    gaps = kept.sort("first").select(
        *(pl.lit(value).alias(name) for name, value in named.items()), "first", "last",
        gap_s=pl.col("gap_us") / 1e6, limit_s=pl.lit(limit_s, pl.Float64), step_s=pl.lit(step_s, pl.Float64),
    )  # fmt: skip
    return pl.DataFrame([row], schema=SPACINGS), gaps


def survey(
    tables: Mapping[str, pl.LazyFrame],
    instruments: pl.DataFrame,
    quarantine: pl.LazyFrame,
    piece_rows_max: int = PIECE_ROWS_MAX,
) -> Evidence:
    """Count and time every table that has `venue` and `ts`: two streaming passes, the second over `ts` only.

    A feed is regular, with a step of `STEPS_S`, if at least half of its gaps are within 10 % of it; its limit is 1.5
    steps. Any other feed of 100 stamps or more has the limit `max(60 s, 10 * p99 of its gaps)`; smaller ones none.
    """
    empty = [pl.DataFrame(schema=DAYS)]
    days = pl.concat(empty + [_per_day(name, rows) for name, rows in tables.items()], how="vertical_relaxed")
    days = days.sort(*SERIES, "day")
    bare = Evidence(tables, instruments, quarantine, days, *_unspaced(), piece_rows_max)
    finest = _finest_candles(tables)
    found = [
        _spaced(table, key, bare.pieces(table, key, ["ts"], where=finest.get(key) if table == "candles" else None))
        for table in sorted(tables)
        for key in bare.series(table)
    ]
    ends = days.group_by(SERIES).agg(pl.col("first").min(), pl.col("last").max())
    spacings = pl.concat([pl.DataFrame(schema=SPACINGS), *(row for row, _ in found)]).drop("first", "last")
    spacings = spacings.join(ends, on=SERIES, how="left").select(SPACINGS.names()).sort(SERIES)
    gaps = pl.concat([pl.DataFrame(schema=GAPS), *(rows for _, rows in found)])
    return Evidence(tables, instruments, quarantine, days, spacings, gaps, piece_rows_max)


def _finest_candles(tables: Mapping[str, pl.LazyFrame]) -> dict[tuple[str, str], pl.Expr]:
    """Per symbol, the candles of its shortest interval: hours among five-minute ones are no series of their own."""
    if "candles" not in tables:
        return {}
    shortest = tables["candles"].group_by("venue", "symbol").agg(pl.col("interval_s").min()).collect(engine="streaming")
    return {(venue, symbol): pl.col("interval_s") == step for venue, symbol, step in shortest.iter_rows()}


def _unspaced() -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.DataFrame(schema=SPACINGS), pl.DataFrame(schema=GAPS)
