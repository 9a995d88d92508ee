"""`fundingRate` (the rate of every funding time) and `metrics` (open interest every five minutes): futures only."""

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Kind,
    Origin,
    candidates,
    each,
    not_negative,
    number,
    reasons,
    silent,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
    COINM,
    USDM,
    date_checks,
    dated,
    futures_only,
    moment,
    named,
    number_checks,
    placed,
    recognised,
    symbol_check,
    table_of,
    text_moment,
)

FUNDING = ("calc_time", "funding_interval_hours", "last_funding_rate")
METRICS = ("create_time", "symbol", "sum_open_interest", "sum_open_interest_value")
RATIOS = (
    "count_toptrader_long_short_ratio",
    "sum_toptrader_long_short_ratio",
    "count_long_short_ratio",
    "sum_taker_long_short_vol_ratio",
)


def funding(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Text columns -> candidate rows of `Funding`. The rate is settled, and known, at `calc_time`."""
    rows = raw.select(
        "line",
        "ragged",
        *named(origin),
        *dated(moment("calc_time")),
        number("last_funding_rate").alias("rate"),
        number("funding_interval_hours").alias("interval_h"),
    )
    reason = reasons(
        *date_checks(),
        symbol_check(),
        *number_checks("rate", "out_of_range", lambda name: pl.col(name).is_between(-1, 1)),
        *number_checks("interval_h", "not_positive"),
    )
    known = with_instrument(rows, origin.instruments).with_columns(known_at="ts")
    return {"funding": candidates("funding", known, unless_ragged(reason))}


def _interest(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """usd-m: base units and dollars; coin-m: contracts of `contract_size` dollars and base units."""
    venue = pl.when(pl.col("symbol").str.contains("USD_", literal=True)).then(pl.lit(COINM)).otherwise(pl.lit(USDM))
    rows = raw.select(
        "line",
        "ragged",
        "symbol",
        (venue if origin.venue is None else pl.lit(origin.venue)).alias("venue"),
        *dated(text_moment("create_time")),
        number("sum_open_interest").alias("contracts"),
        number("sum_open_interest_value").alias("value"),
        *((pl.col(name) == "").alias(f"{name}_empty") for name in ("sum_open_interest", "sum_open_interest_value")),
    )
    inverse, sized = pl.col("settlement") == "inverse", pl.col("contracts") * pl.col("contract_size")
    return with_instrument(rows, origin.instruments).with_columns(
        pl.when(inverse).then(pl.col("value")).otherwise(sized).alias("oi_base"),
        pl.when(inverse).then(sized).otherwise(pl.col("value")).alias("oi_usd"),
        known_at="ts",
    )


def _interest_reason() -> pl.Expr:
    """Dollars must be there, base units may be absent (an empty cell), but not unreadable."""
    inverse = pl.col("settlement") == "inverse"
    empty_base = pl.when(inverse).then("sum_open_interest_value_empty").otherwise("sum_open_interest_empty")
    known = pl.col("contract_size").is_not_null()
    return reasons(
        *date_checks(),
        symbol_check(),
        ("unreadable_oi_base", pl.col("oi_base").is_not_null() | empty_base | ~known),
        ("oi_base_negative", not_negative("oi_base") | pl.col("oi_base").is_null()),
        ("unreadable_oi_usd", pl.col("oi_usd").is_not_null() | ~known),
        ("oi_usd_negative", not_negative("oi_usd") | pl.col("oi_usd").is_null()),
    )


def open_interest(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Text columns -> candidate rows of `OpenInterest`.

    A line with neither figure speaks of ratios only, which have no table: silent.
    """
    rows = _interest(raw, origin)
    empty = pl.col("sum_open_interest_empty") & pl.col("sum_open_interest_value_empty") & ~pl.col("ragged")
    spoken = rows.filter(~empty.fill_null(False))
    return {
        "open_interest": candidates("open_interest", spoken, unless_ragged(_interest_reason())),
        SILENT: silent(rows.filter(empty), "no_open_interest"),
    }


FUNDING_RATE = Kind(
    name="fundingRate",
    tables=("funding",),
    layout=table_of(FUNDING),
    recognises=recognised("fundingRate", FUNDING),
    convert=placed(funding, futures_only),
)
OPEN_INTEREST = Kind(
    name="metrics",
    tables=("open_interest",),
    layout=table_of(METRICS, RATIOS),
    recognises=recognised("metrics", METRICS),
    convert=each(open_interest),
)
