"""Which rows a detector may learn from: a trailing window, never an event."""

from datetime import datetime, timedelta

import polars as pl

from features.schema import VENUE_WIDE


def trailing_reference(
    matrix: pl.DataFrame,
    events: pl.DataFrame,
    at: datetime,
    window: timedelta,
    gap: timedelta,
    *,
    refractory: timedelta,
) -> pl.DataFrame:
    """The rows of `matrix` that a detector for the minute `at` is fitted on, in their order.

        ts in (at - gap - window, at - gap]
        and for no event of the symbol, or of the venue (`*`):  onset <= ts <= end + refractory

    `events` has `symbol, onset, end`; an event without an end lasts for ever. A label says of a minute what came after
    it, so `gap` must be at least as long as the label looks forward: then every event in the window is known at `at`.
    No rows are left where all are in events. Raises ValueError unless window > 0, gap >= 0 and refractory >= 0.
    """
    if not (window > timedelta(0) and gap >= timedelta(0) and refractory >= timedelta(0)):
        raise ValueError(
            f"window must be positive, gap and refractory not negative, were {window}, {gap} and {refractory}"
        )
    end = at - gap
    rows = matrix.filter(pl.col("ts") > end - window, pl.col("ts") <= end)
    spans = events.select(
        pl.col("symbol"), pl.col("onset"), (pl.col("end") + refractory).fill_null(pl.lit(at)).alias("until")
    )
    own = rows.join_where(
        spans,
        (pl.col("symbol") == pl.col("symbol_event")) | (pl.col("symbol_event") == VENUE_WIDE),
        pl.col("ts") >= pl.col("onset"),
        pl.col("ts") <= pl.col("until"),
        suffix="_event",
    )
    return rows.join(own, on=["symbol", "ts"], how="anti", maintain_order="left")
