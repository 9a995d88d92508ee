"""Data health travels with every feature: how old each input is, and why a feature is silent.

A feature that reads a stale, frozen or crossed input is null. `input_health` says which input was at fault, bar by
bar; `null_reasons` says for a feature that is null which of its inputs was, at that bar or within its lookback.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

from features.feature import Feature
from features.inputs import (
    AGE_S_MAX,
    DEPTH_AGE_S_MAX,
    FUNDING_AGE_INTERVALS_MAX,
    OI_AGE_S_MAX,
    PRICE_AGE_S_MAX,
    QUOTE_AGE_S_MAX,
    book_crossed_now,
    book_frozen_now,
    implausible,
)
from features.schema import UTC_US

KEY = ("venue", "symbol", "ts")

# input -> the column that is null while it is absent, the column of its age (None: it has none)
INPUTS: Mapping[str, tuple[str, str | None]] = {
    "trades": ("close", "trade_age_s"),
    "book events": ("cancels", None),
    "quotes": ("bid", "quote_age_s"),
    "depth": ("depth_bid_100bps_usd", "depth_age_s"),
    "mark": ("mark", "mark_age_s"),
    "index": ("index", "index_age_s"),
    "funding": ("funding_rate", "funding_age_s"),
    "open interest": ("oi_usd", "oi_age_s"),
    "liquidations": ("liqs", None),
    "structure": ("position_usd", "structure_age_s"),
}
INPUT_SCHEMA = pl.Schema(
    {f"{name.replace(' ', '_')}_age_s": pl.Float64() for name, (_, age) in INPUTS.items() if age is not None}
    | {f"{name.replace(' ', '_')}_fault": pl.String() for name in INPUTS}
)
REASON_SCHEMA = pl.Schema(
    {"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US, "feature": pl.String(), "reason": pl.String()}
)
HEALTH_SCHEMA = pl.Schema({"venue": pl.String(), "symbol": pl.String(), "ts": UTC_US} | dict(INPUT_SCHEMA))


def _stale(name: str) -> pl.Expr | None:
    """Whether an input that is there is too old to be read; None for inputs that do not age."""
    age = INPUTS[name][1]
    limits = {
        "quotes": pl.lit(QUOTE_AGE_S_MAX),
        "depth": pl.lit(DEPTH_AGE_S_MAX),
        "mark": pl.lit(PRICE_AGE_S_MAX),
        "index": pl.lit(PRICE_AGE_S_MAX),
        "funding": FUNDING_AGE_INTERVALS_MAX * 3600 * pl.col("funding_interval_h"),
        "open interest": pl.lit(OI_AGE_S_MAX),
    }
    return None if age is None or name not in limits else (pl.col(age) > limits[name]).fill_null(True)


def _fault(name: str) -> pl.Expr:
    """The first that applies: crossed, frozen (of the book), absent, implausible, stale; null for a usable input."""
    column, _ = INPUTS[name]
    stale = _stale(name)
    faults = {"absent": pl.col(column).is_null(), "implausible": implausible(column)}
    faults |= {} if stale is None else {"stale": stale}
    if name == "depth":
        faults = {"crossed": book_crossed_now(), "frozen": book_frozen_now()} | faults
    if name == "structure":  # one that is too old is not joined, but its age is
        faults = {"stale": pl.col(column).is_null() & pl.col("structure_age_s").is_not_null()} | faults
    told = (pl.when(applies).then(pl.lit(fault)) for fault, applies in faults.items())
    return pl.coalesce(*told).alias(f"{name.replace(' ', '_')}_fault")


def input_health(bars: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, ts`, per input its age and its fault: crossed, frozen, absent, implausible, stale, or null.

    `bars` are raw bars with the columns of the structure that was known and `structure_age_s` joined to them. Ages are
    seconds, at most a day, null where nothing was ever there.
    """
    return bars.select(*KEY, *health_exprs()).select(HEALTH_SCHEMA.names())


def health_exprs() -> list[pl.Expr]:
    """Age and fault of every input, in one column each."""
    ages = [
        pl.col(age).clip(0.0, AGE_S_MAX).alias(f"{name.replace(' ', '_')}_age_s")
        for name, (_, age) in INPUTS.items()
        if age is not None
    ]
    return [*ages, *(_fault(name) for name in INPUTS)]


def inputs_read(feature: Feature) -> tuple[str, ...]:
    """The inputs of which a feature reads a column, by the columns' names.

    >>> from features.leverage import oi_change
    >>> inputs_read(Feature("oi_change_30", oi_change(30), 30))
    ('open interest',)
    """
    return tuple(dict.fromkeys(name for column in feature.expr.meta.root_names() for name in _source(column)))


_PREFIXES: tuple[tuple[str, str], ...] = (
    ("depth_", "depth"),
    ("add", "book events"),
    ("cancel", "book events"),
    ("book_trade", "book events"),
    ("mark", "mark"),
    ("index", "index"),
    ("funding", "funding"),
    ("oi_", "open interest"),
    ("ladder_", "open interest"),
    ("liq", "liquidations"),
    ("bid", "quotes"),
    ("ask", "quotes"),
    ("spread", "quotes"),
    ("imbalance", "quotes"),
    ("quote", "quotes"),
    ("norm_", "norms"),
    ("market_", "other symbols"),
    ("peer_", "other venues"),
)
_TRADES = (
    *("open", "high", "low", "close", "trades", "volume_usd", "buy_usd", "sell_usd"),
    *("trade_age_s", "trade_ids_missing", "latency_ms_max"),
)


def _source(column: str) -> tuple[str, ...]:
    if column in _TRADES:
        return ("trades",)
    if column in ("venue", "symbol", "ts", "known_at") or column.startswith(("book_rows", "book_gaps", "rows_")):
        return ()
    return (next((name for prefix, name in _PREFIXES if column.startswith(prefix)), "structure"),)


def null_reasons(matrix: pl.DataFrame, health: pl.DataFrame, features: Sequence[Feature]) -> pl.DataFrame:
    """`venue, symbol, ts, feature, reason` of every null of `features` in `matrix`, one row each.

    The reason is the latest fault among the feature's inputs within its lookback, such as "depth frozen" (of faults of
    one bar that of the input it reads first); else "history shorter than the window" where there are fewer bars before;
    else "too little known of norms" and the like where it reads more than bars; else "not defined here": a ratio of
    nothing, too few samples, a column missing of an input that is there. `health` must reach back as far as the reasons
    are asked for. Rows feature by feature, in the order of `matrix`.
    """
    seen = health.sort("symbol", "ts").select(*KEY, pl.col("ts").min().over("symbol").alias("first_ts"), *_latest())
    bars = matrix.select(KEY).join(seen, on=list(KEY), how="left", maintain_order="left")
    found = [_reasons(bars, matrix[feature.name], feature) for feature in features]
    return pl.concat(found) if found else pl.DataFrame(schema=REASON_SCHEMA)


def _latest() -> list[pl.Expr]:
    """Per input, when it last had a fault up to each bar, and which."""
    parts: list[pl.Expr] = []
    for name in INPUTS:
        fault = pl.col(f"{name.replace(' ', '_')}_fault")
        told = pl.lit(f"{name} ") + fault
        parts.append(pl.when(fault.is_not_null()).then("ts").forward_fill().over("symbol").alias(f"{name} at"))
        parts.append(told.forward_fill().over("symbol").cast(pl.Categorical).alias(f"{name} told"))
    return parts


def _reasons(bars: pl.DataFrame, values: pl.Series, feature: Feature) -> pl.DataFrame:
    since = pl.col("ts") - timedelta(minutes=feature.lookback_min)
    read = inputs_read(feature)
    known, others = [name for name in read if name in INPUTS], [name for name in read if name not in INPUTS]
    newest = pl.max_horizontal(f"{name} at" for name in known) if known else pl.lit(None, dtype=UTC_US)
    told = [pl.when(pl.col(f"{name} at") == newest).then(pl.col(f"{name} told").cast(pl.String)) for name in known]
    fault = pl.when(newest >= since).then(pl.coalesce(told)) if told else pl.lit(None, dtype=pl.String)
    rest = (
        pl.when(pl.col("first_ts") > since)
        .then(pl.lit("history shorter than the window"))
        .otherwise(pl.lit(f"too little known of {', '.join(others)}" if others else "not defined here"))
    )
    columns = [*KEY, "first_ts", *(f"{name} {what}" for name in known for what in ("at", "told"))]
    nulls = bars.select(columns).filter(values.is_null())
    return nulls.select(*KEY, feature=pl.lit(feature.name), reason=pl.coalesce(fault, rest))
