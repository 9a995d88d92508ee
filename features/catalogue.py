"""The catalogue: every feature, by family, and the one way to compute them."""

from collections.abc import Iterator
from typing import Literal

import polars as pl

from features.cancels import cancel_burst, cancel_side, cancel_to_trade, net_fleeting
from features.crowding import basis_bps, basis_heat, basis_score, crowding_score, funding_annual
from features.exact import finite
from features.health import (
    book_crossed,
    book_frozen,
    book_still_s,
    feed_stale_s,
    latency_ratio,
    rows_refused,
    trade_gap_share,
)
from features.inputs import SCHEMA, usable
from features.leverage import (
    fuel_over_depth,
    fuel_side,
    largest_account,
    leverage_change,
    leverage_p90,
    liq_over_volume,
    oi_change,
    oi_over_volume,
    oi_quadrant,
    oi_score,
)
from features.schema import Structure, polars_schema
from features.thin_book import (
    amihud_score,
    depth_drain,
    depth_drop,
    depth_imbalance,
    kyle_score,
    kyle_slope,
    range_score,
    touch_share,
)
from features.volatility import jump_share, parkinson_ratio, vol_ratio, vol_score

Tail = Literal["high", "low", "both"]

CATALOGUE_VERSION = 1
USUAL = 240  # bars of the everyday baseline: half a trading session
DAY = 1440
LOOKBACK_MIN = 1500  # bars before t that suffice for every feature at t
STACK_ROWS = 200_000  # bars computed at once: bounds memory, whatever the number of symbols
STRUCTURE_AGE_MIN_MAX = 90  # an older snapshot of positions is no longer used

FAMILIES: dict[str, tuple[pl.Expr, ...]] = {
    "cancels": (
        cancel_burst(5, USUAL),
        cancel_to_trade(5),
        net_fleeting(5),
        cancel_side(5),
    ),
    "leverage": (
        oi_change(30),
        oi_score(30, DAY),
        oi_over_volume(60),
        oi_quadrant(30),
        fuel_over_depth(),
        fuel_side(),
        leverage_p90(),
        leverage_change(60),
        largest_account(),
        liq_over_volume(15),
    ),
    "crowding": (
        basis_bps(5),
        basis_score(5, USUAL),
        funding_annual(),
        vol_ratio(15, USUAL),
        parkinson_ratio(15, USUAL),
        vol_score(15, USUAL),
        jump_share(60),
        crowding_score(15, USUAL),
        basis_heat(15, USUAL),
    ),
    "thin_book": (
        depth_drop(USUAL),
        depth_drain(5),
        depth_imbalance(),
        touch_share(),
        amihud_score(15, USUAL),
        range_score(15, USUAL),
        kyle_slope(60),
        kyle_score(60, USUAL),
    ),
    "health": (
        trade_gap_share(5),
        latency_ratio(5, USUAL),
        book_still_s(),
        book_crossed(5),
        book_frozen(5),
        feed_stale_s(),
        rows_refused(5),
    ),
}

FEATURES: tuple[pl.Expr, ...] = tuple(feature for family in FAMILIES.values() for feature in family)
NAMES: tuple[str, ...] = tuple(feature.meta.output_name() for feature in FEATURES)
FAMILY_OF: dict[str, str] = {
    feature.meta.output_name(): family for family, members in FAMILIES.items() for feature in members
}

_TAIL_EXCEPTIONS: dict[str, Tail] = {
    "cancel_side_5": "both",
    "oi_change_30": "both",
    "oi_score_30": "both",
    "oi_quadrant_30": "both",
    "fuel_side": "both",
    "leverage_change_60": "both",
    "basis_bps_5": "both",
    "basis_score_5": "both",
    "funding_annual": "both",
    "crowding_score_15": "both",
    "basis_heat_15": "both",
    "depth_imbalance": "both",
    "touch_share": "low",
}
TAILS: dict[str, Tail] = {name: _TAIL_EXCEPTIONS.get(name, "high") for name in NAMES}  # which tail means risk

MONOTONE: dict[str, Literal[-1, 1]] = {  # where theory fixes the direction of risk; nowhere else
    "fuel_over_depth": 1,
    "leverage_p90_now": 1,
    "depth_drop_240": 1,
}

KEY = ("venue", "symbol", "ts", "known_at")
_STRUCTURE_COLUMNS = tuple(
    name for name in polars_schema(Structure).names() if name not in ("venue", "symbol", "ts", "known_at")
)


def inputs_of(name: str) -> frozenset[str]:
    """Columns of bars and structure that feature `name` reads.

    >>> sorted(inputs_of("funding_annual"))
    ['funding_interval_h', 'funding_rate']
    """
    return frozenset(FEATURES[NAMES.index(name)].meta.root_names())


def _with_structure(bars: pl.DataFrame, structure: pl.DataFrame | None) -> pl.DataFrame:
    """Bars of one symbol with the newest structure that was known and is at most STRUCTURE_AGE_MIN_MAX old."""
    if structure is None:
        return bars.with_columns(pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in _STRUCTURE_COLUMNS)
    facts = [pl.col(name).cast(SCHEMA[name]) for name in _STRUCTURE_COLUMNS]
    known = structure.sort("known_at", "ts").select("known_at", pl.col("ts").alias("structure_ts"), *facts)
    joined = bars.join_asof(known, left_on="ts", right_on="known_at", strategy="backward", suffix="_structure")
    recent = pl.col("ts") - pl.col("structure_ts") <= pl.duration(minutes=STRUCTURE_AGE_MIN_MAX)
    return joined.with_columns(pl.when(recent).then(pl.col(name)).alias(name) for name in _STRUCTURE_COLUMNS)


def _known_at() -> pl.Expr:
    """When every bar that a feature looks back on was known, and never before `ts`."""
    latest = pl.max_horizontal("ts", "known_at").cast(pl.Int64).rolling_max(LOOKBACK_MIN + 1, min_samples=1)
    return latest.cast(SCHEMA["known_at"]).alias("known_at")


def _stacks(parts: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Symbols on top of each other, LOOKBACK_MIN empty bars after each, at most STACK_ROWS or one symbol to a stack.

    No window reaches across the empty bars, and one plan over a stack costs a fraction of a plan per symbol.
    """
    tallest = max((part.height for part in parts), default=0) + LOOKBACK_MIN
    count = max(1, STACK_ROWS // tallest)
    for first in range(0, len(parts), count):
        spacer = parts[first].clear(LOOKBACK_MIN)
        yield pl.concat([rows for part in parts[first : first + count] for rows in (part, spacer)])


def _features(stack: pl.DataFrame) -> pl.DataFrame:
    values = stack.lazy().select("venue", "symbol", "ts", _known_at(), *FEATURES).collect()
    return values.filter(pl.col("symbol").is_not_null())


def _parts(bars: pl.DataFrame, structure: pl.DataFrame | None) -> list[pl.DataFrame]:
    known = {} if structure is None else usable(structure).partition_by("symbol", as_dict=True)
    parts = usable(bars).partition_by("symbol", as_dict=True, maintain_order=True)
    return [_with_structure(part, known.get(key)) for key, part in parts.items()]


def feature_matrix(bars: pl.DataFrame, structure: pl.DataFrame | None = None) -> pl.DataFrame:
    """Every feature of `FEATURES` for every bar.

    `bars` has the columns of `Bars` (one venue, a complete minute grid per symbol), `structure` those of `Structure`;
    the newest structure with `known_at <= ts` applies while it is at most STRUCTURE_AGE_MIN_MAX minutes old.
    Rows are bars, so a missing minute would stretch every window: the grid must be complete.

    Returns venue, symbol, ts, known_at and one Float64 column per feature, sorted by symbol, ts. `known_at` is when
    the last of the bars that a feature may look back on was known. Features whose inputs are absent are null; none is
    ever NaN or infinite. Raises ValueError for more than one venue or a repeated (symbol, ts).
    """
    if bars["venue"].n_unique() > 1:
        raise ValueError(f"bars must be of one venue, were of {sorted(bars['venue'].unique())}")
    ordered = bars.sort("symbol", "ts")
    if ordered.select(pl.struct("symbol", "ts").is_duplicated().any()).item():
        raise ValueError("bars must have one row per symbol and ts, some repeat")
    empty = pl.DataFrame(schema={**{name: SCHEMA[name] for name in KEY}, **dict.fromkeys(NAMES, pl.Float64)})
    matrix = pl.concat([empty, *(_features(stack) for stack in _stacks(_parts(ordered, structure)))])
    return matrix.with_columns(finite(pl.col(name)).alias(name) for name in NAMES)
