"""Norms by time of day: what a symbol is usually like in this hour of the day, by its last seven days.

Books are thin every night and thick every afternoon. A feature that asks "thinner than usual?" must ask about this
hour. Hours are kept as counts and exact sums (`Hours`), a norm is a sum of seven of them: a scheduled run reads a few
rows where a rolling window would need a week of bars.

    x[m, i]      = measure m of bar i, in whole STEPs
    mean[m], sd  = over all bars of the same hour of the DAYS days before that told m
    day_sd       = standard deviation of the hourly means between those days, days = their number

A norm is stamped with the end of its hour and holds for the bars in `(ts - 1 h, ts]`. All of it was known 23 hours
before the first of them.
"""

from typing import Final

import polars as pl

from features.crowding import basis_now, funding_rate_annual
from features.exact import finite, once, steps
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD
from features.schema import MEASURES, Hours, polars_schema

DAYS: Final = 7
DAYS_MIN: Final = 3  # fewer days make no norm
TOLD_SHARE_MIN: Final = 0.5  # of the bars of an hour that must tell a measure for the hour to count
STEP: Final = 1e-4
STEPS_MAX: Final = 500_000  # values saturate at 50; squares of a week sum far within Int64
SPREAD_FLOOR_BPS: Final = 0.01
RANGE_FLOOR_BPS: Final = 0.5
HOUR_S: Final = 3_600


def _thinner(band_bps: int) -> pl.Expr:
    bid, ask = pl.col(f"depth_bid_{band_bps}bps_usd"), pl.col(f"depth_ask_{band_bps}bps_usd")
    return ((bid + ask - (bid - ask).abs()) / 2 + DEPTH_FLOOR_USD).log()


def measure(name: str) -> pl.Expr:
    """One of `MEASURES` of a bar, over the columns of usable bars; null where its input is, and where
    it has no logarithm: a spread below zero, a high below the low.

    depth    log(thinner side within 100 bps + DEPTH_FLOOR_USD)      touch    the same within 20 bps
    spread   log(spread in bps + SPREAD_FLOOR_BPS)                   volume   log(USD traded + FLOW_FLOOR_USD)
    cancels  log(USD cancelled + FLOW_FLOOR_USD)                     range    log(log(high / low) in bps + 0.5)
    basis    basis in percent                                        funding  funding a year, in percent / 10
    """
    cancelled = pl.col("cancel_bid_usd") + pl.col("cancel_ask_usd")
    width = 1e4 * (pl.col("high") / pl.col("low")).log()
    formulas = {
        "depth": _thinner(100),
        "touch": _thinner(20),
        "spread": (pl.col("spread_bps") + SPREAD_FLOOR_BPS).log(),
        "volume": (pl.col("volume_usd") + FLOW_FLOOR_USD).log(),
        "cancels": (cancelled + FLOW_FLOOR_USD).log(),
        "range": (width + RANGE_FLOOR_BPS).log(),
        "basis": basis_now() * 0.01,
        "funding": 10 * funding_rate_annual(),
    }
    return once(finite(formulas[name]))


def hours_of(bars: pl.DataFrame) -> pl.DataFrame:
    """Usable bars of one venue to the shape of `Hours`: one row per symbol and hour that holds a bar.

    Sums are exact, so that no order of bars changes them; a faulty bar is left out. Empty for no bars.
    """
    whole = {name: steps(measure(name), STEP, STEPS_MAX).cast(pl.Int64) for name in MEASURES}
    told = bars.lazy().select("venue", "symbol", hour_end("ts"), **whole)
    sums = [
        part.alias(f"{name}_{what}")
        for name in MEASURES
        for what, part in (
            ("n", pl.col(name).count().cast(pl.Int64)),
            ("sum", pl.col(name).sum()),
            ("sum2", pl.col(name).pow(2).sum()),
        )
    ]
    rows = told.group_by("venue", "symbol", "ts").agg(sums).sort("symbol", "ts").collect()
    return rows.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(Hours).items())


def hour_end(column: str) -> pl.Expr:
    """End of the clock hour `(end - 1 h, end]` that holds a time stamp. Keeps the name of the column.

    >>> from datetime import datetime, timezone
    >>> at = [datetime(2025, 1, 1, 7, minute, tzinfo=timezone.utc) for minute in (0, 1)]
    >>> pl.DataFrame({"ts": at}).select(hour_end("ts").dt.hour())["ts"].to_list()
    [7, 8]
    """
    before = (pl.col(column) - pl.duration(microseconds=1)).dt.truncate("1h")
    return (before + pl.duration(hours=1)).alias(column)


def norms_of(hours: pl.DataFrame, wanted: pl.DataFrame, bar_s: int = 60) -> pl.DataFrame:
    """The norms of `wanted` (venue, symbol, ts = end of an hour) from `hours` of the DAYS days before each.

    Returns venue, symbol, ts and per measure m `{m}_mean`, `{m}_sd` (Float64, in the measure's unit), `{m}_day_sd`,
    `{m}_days`, all prefixed `norm_`. A day counts where it has TOLD_SHARE_MIN of the hour's bars; all but `{m}_days`
    are null below DAYS_MIN days. No row for an hour of which no day is known.

    Raises ValueError if an hour of a symbol is there twice: it would count as two days.
    """
    if hours.select(pl.struct("venue", "symbol", "ts").is_duplicated().any()).item():
        raise ValueError("hours must have one row per venue, symbol and ts, some repeat")
    least = TOLD_SHARE_MIN * HOUR_S / bar_s
    days = pl.concat([hours.with_columns(pl.col("ts") + pl.duration(days=back)) for back in range(1, DAYS + 1)]).join(
        wanted.select("venue", "symbol", "ts").unique(), on=["venue", "symbol", "ts"], how="semi"
    )
    parts = [part.alias(f"norm_{name}_{what}") for name in MEASURES for what, part in _statistics(name, least).items()]
    found = days.group_by("venue", "symbol", "ts").agg(parts).sort("symbol", "ts")
    floats = [name for name in found.columns if found.schema[name] == pl.Float64]
    return found.with_columns(pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in floats)


def _statistics(name: str, least: float) -> dict[str, pl.Expr]:
    counts = pl.col(f"{name}_n") >= least
    n, total, squares = (pl.col(f"{name}_{part}").filter(counts) for part in ("n", "sum", "sum2"))
    count = n.sum().cast(pl.Float64)
    mean = total.sum().cast(pl.Float64) / count
    spread = (squares.sum().cast(pl.Float64) / count - mean.pow(2)).clip(lower_bound=0.0).sqrt()
    # Hourly means are rounded to whole steps: their spread is then a sum of whole numbers, whatever the order of days.
    hourly = (total.cast(pl.Float64) / n).round()
    enough = counts.sum() >= DAYS_MIN
    between = hourly.count().cast(pl.Float64)
    scatter = ((hourly.pow(2).sum() - hourly.sum().pow(2) / between) / (between - 1)).clip(lower_bound=0.0).sqrt()
    return {
        "mean": pl.when(enough).then(mean * STEP),
        "sd": pl.when(enough).then(spread * STEP),
        "day_sd": pl.when(enough).then(scatter * STEP),
        "days": counts.sum().cast(pl.Int64),
    }


NORMS: Final = pl.Schema(
    {
        f"norm_{name}_{what}": pl.Int64() if what == "days" else pl.Float64()
        for name in MEASURES
        for what in ("mean", "sd", "day_sd", "days")
    }
)
