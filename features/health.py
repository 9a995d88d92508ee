"""Health of what we see: gaps, delays, frozen and crossed books, refused rows.

A venue under stress loses, delays and freezes its data, often just before and during a cascade. These features are
signals; whether bad data blocks an action is decided elsewhere, from facts.
"""

import polars as pl

from features.exact import checked, rolling_mean, rolling_usd
from features.feature import Feature, Step
from features.inputs import AGE_S_MAX, LATENCY_MS_MAX

LATENCY_FLOOR_MS = 10.0
BASELINE_FULL = 0.5  # quiet symbols have no trades, hence no latency, in many minutes
AGES = ("trade_age_s", "depth_age_s", "mark_age_s", "index_age_s")


def _age(name: str) -> pl.Expr:
    return pl.col(name).clip(0.0, AGE_S_MAX)


def trade_gap_share(window: int) -> pl.Expr:
    """Share of trades that never arrived: `missing / (missing + received)` over `(t - window, t]`.

    Returns `trade_gap_share_{window}`: Float64 in [0, 1]. Null until the window is full, where it holds a null, and
    where nothing traded. Raises ValueError if `window` < 1.
    """
    missing = rolling_usd(pl.col("trade_ids_missing"), checked("window", window))
    total = missing + rolling_usd(pl.col("trades"), window)
    return pl.when(total > 0).then(missing / total).alias(f"trade_gap_share_{window}")


def latency_ratio(window: int, baseline: int) -> pl.Expr:
    """Log ratio of the worst capture delay to its trailing norm.

        l = log(latency_ms_max + LATENCY_FLOOR_MS)
        out[t] = max(l over (t - window, t]) - mean(l over (t - window - baseline, t - window])

    Returns `latency_ratio_{window}`: Float64, .69 when the delay has doubled. Minutes without trades have no delay
    and are left out; null when the window has none or less than half of the baseline is there.
    Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    delay = (pl.col("latency_ms_max").clip(0.0, LATENCY_MS_MAX) + LATENCY_FLOOR_MS).log()
    usual = rolling_mean(delay.shift(window), baseline, full=BASELINE_FULL)
    return (delay.rolling_max(window, min_samples=1) - usual).alias(f"latency_ratio_{window}")


def book_still_s() -> pl.Expr:
    """Seconds for which both sides of the book have stood still to the dollar, at most a day.

    Returns `book_still_s`: Float64. Null without a book.
    """
    return _age("depth_unchanged_s").alias("book_still_s")


def book_crossed(window: int) -> pl.Expr:
    """Book rows refused in `(t - window, t]` because bid >= ask: `log(1 + count)`.

    Returns `book_crossed_{window}`: Float64, 0 when none. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    return rolling_usd(pl.col("book_rows_crossed"), checked("window", window)).log1p().alias(f"book_crossed_{window}")


def book_frozen(window: int) -> pl.Expr:
    """Book rows refused in `(t - window, t]` because a side stood still to the last digit: `log(1 + count)`.

    Returns `book_frozen_{window}`: Float64, 0 when none. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    return rolling_usd(pl.col("book_rows_frozen"), checked("window", window)).log1p().alias(f"book_frozen_{window}")


def feed_stale_s() -> pl.Expr:
    """Age of the oldest fast feed in seconds, at most a day: trades, book, mark, index, those that exist.

    Returns `feed_stale_s`: Float64. Null where none exists. Open interest and funding are slow by nature and left out.
    """
    return pl.max_horizontal(_age(name) for name in AGES).alias("feed_stale_s")


def rows_refused(window: int) -> pl.Expr:
    """Rows of any table refused in `(t - window, t]`: `log(1 + count)`.

    Returns `rows_refused_{window}`: Float64, 0 when none. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    return rolling_usd(pl.col("rows_refused"), checked("window", window)).log1p().alias(f"rows_refused_{window}")


def book_gaps(window: int) -> pl.Expr:
    """Losses of book messages that ended in `(t - window, t]`, by their sequence numbers: `log(1 + count)`.

    Returns `book_gaps_{window}`: Float64, 0 when none. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    return rolling_usd(pl.col("book_gaps"), checked("window", window)).log1p().alias(f"book_gaps_{window}")


def quote_age_s() -> pl.Expr:
    """Age of the best bid and ask in seconds, at most a day.

    Returns `quote_age_s`: Float64. Null without quotes.
    """
    return _age("quote_age_s").alias("quote_age_s")


def structure_age_min() -> pl.Expr:
    """Age of the newest known snapshot of positions in minutes, at most a day; also of one too old to be used.

    Returns `structure_age_min`: Float64. Null where there never was one.
    """
    return (_age("structure_age_s") * (1 / 60)).alias("structure_age_min")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("trade_gap_share_5", trade_gap_share(m(5)), 4),
        Feature("latency_ratio_5", latency_ratio(m(5), m(240)), 244),
        Feature("book_still_s", book_still_s(), 0),
        Feature("book_crossed_5", book_crossed(m(5)), 4),
        Feature("book_frozen_5", book_frozen(m(5)), 4),
        Feature("feed_stale_s", feed_stale_s(), 0),
        Feature("rows_refused_5", rows_refused(m(5)), 4),
        Feature("book_gaps_5", book_gaps(m(5)), 4),
        Feature("quote_age_s", quote_age_s(), 0),
        Feature("structure_age_min", structure_age_min(), 0),
    )
