"""The one way to compute features: bars and what belongs to them in, one row per symbol and bar out.

    bars + structure + norms + peers -> usable -> + market -> features

A plan per symbol would cost more than its work, and `.over()` would hold everything: symbols are stacked instead, with
empty bars between them that no window reaches across. A run that needs only the newest rows computes each feature on
no more bars than its lookback asks for: features are grouped by it, and each group sees its own tail of the bars.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from features import market
from features.catalogue import Catalogue, catalogue
from features.exact import finite
from features.faults import HEALTH_SCHEMA, input_health
from features.feature import BAR_S_CHOICES, Step
from features.inputs import SCHEMA, usable
from features.norms import NORMS, hour_end
from features.peers import PEERS
from features.schema import Structure, polars_schema

STACK_ROWS = 200_000  # bars computed at once: bounds memory, whatever the number of symbols
STRUCTURE_AGE_MIN_MAX = 90  # an older snapshot of positions is no longer used
TIERS_MIN = (0, 15, 90, 320)  # features are grouped by the least of these, or their longest, that holds their lookback
KEY = ("venue", "symbol", "ts", "known_at")
_STRUCTURE_COLUMNS = tuple(
    name for name in polars_schema(Structure).names() if name not in ("venue", "symbol", "ts", "known_at")
)


@dataclass(frozen=True)
class Beside:
    """What belongs to the bars of a venue and is not in them; each may be absent.

    `structure` has the shape of `Structure`. `norms` that of `features.norms.norms_of`: a row holds for the bars of
    its hour. `peers` that of `features.peers.peers_of`: what other venues said by `ts`.
    """

    structure: pl.DataFrame | None = None
    norms: pl.DataFrame | None = None
    peers: pl.DataFrame | None = None


def _with_structure(bars: pl.DataFrame, structure: pl.DataFrame | None) -> pl.DataFrame:
    """Bars with the newest structure that was known and is at most STRUCTURE_AGE_MIN_MAX old, and its age."""
    if structure is None or structure.is_empty():
        absent = [pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in _STRUCTURE_COLUMNS]
        return bars.with_columns(*absent, structure_age_s=pl.lit(None, dtype=pl.Float64))
    facts = [pl.col(name).cast(SCHEMA[name]) for name in _STRUCTURE_COLUMNS]
    known = structure.sort("known_at", "ts").select("symbol", "known_at", pl.col("ts").alias("structure_ts"), *facts)
    joined = bars.join_asof(
        known,
        left_on="ts",
        right_on="known_at",
        by="symbol",
        strategy="backward",
        suffix="_structure",
        check_sortedness=False,
    )
    age_s = (pl.col("ts") - pl.col("structure_ts")).dt.total_microseconds() / 1e6
    recent = age_s <= 60 * STRUCTURE_AGE_MIN_MAX
    return joined.with_columns(
        *(pl.when(recent).then(pl.col(name)).alias(name) for name in _STRUCTURE_COLUMNS), structure_age_s=age_s
    ).drop("structure_ts", "known_at_structure", strict=False)


def _with_norms(bars: pl.DataFrame, norms: pl.DataFrame | None) -> pl.DataFrame:
    if norms is None or norms.is_empty():
        return bars.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in NORMS.items())
    held = norms.select("symbol", pl.col("ts").alias("norm_hour"), *NORMS.names())
    keyed = bars.with_columns(hour_end("ts").alias("norm_hour"))
    return keyed.join(held, on=["symbol", "norm_hour"], how="left", maintain_order="left").drop("norm_hour")


def _with_peers(bars: pl.DataFrame, peers: pl.DataFrame | None) -> pl.DataFrame:
    if peers is None or peers.is_empty():
        return bars.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in PEERS.items())
    told = peers.select("symbol", "ts", *PEERS.names())
    return bars.join(told, on=["symbol", "ts"], how="left", maintain_order="left")


def _with_market(bars: pl.DataFrame, step: Step, since: datetime | None) -> pl.DataFrame:
    """Bars with what all symbols together said; from `since` on, where it is given."""
    asked = market.inputs(step)
    start = None if since is None else since - timedelta(minutes=market.LOOKBACK_MIN)
    exprs = [expr for expr, _ in asked]
    told = _computed(bars, exprs, max((minutes for _, minutes in asked), default=0), step, start)
    rows = market.market_rows(told, step)
    return bars.join(rows, on="ts", how="left", maintain_order="left")


def _stacks(parts: Sequence[pl.DataFrame], spacer_rows: int) -> Iterator[pl.DataFrame]:
    """Symbols on top of each other, `spacer_rows` empty bars after each, at most STACK_ROWS or one symbol to a stack.

    No window reaches across the empty bars, and one plan over a stack costs a fraction of a plan per symbol.
    """
    tallest = max((part.height for part in parts), default=0) + spacer_rows
    count = max(1, STACK_ROWS // max(tallest, 1))
    for first in range(0, len(parts), count):
        spacer = parts[first].clear(spacer_rows)
        yield pl.concat([rows for part in parts[first : first + count] for rows in (part, spacer)])


def _computed(
    bars: pl.DataFrame, exprs: Iterable[pl.Expr], lookback_min: int, step: Step, since: datetime | None
) -> pl.DataFrame:
    """`symbol, ts` and `exprs` for the bars after `since` (all without one), from as many bars as they look back on."""
    wanted = list(exprs)
    roots = {name for expr in wanted for name in expr.meta.root_names()}
    back = step.back(lookback_min)
    read = bars if since is None else bars.filter(pl.col("ts") > since - timedelta(seconds=back * step.bar_s))
    lean = read.select("symbol", "ts", *sorted(roots - {"symbol", "ts"}))
    parts = lean.partition_by("symbol", maintain_order=True) if back else [lean]
    after = pl.lit(True) if since is None else pl.col("ts") > since
    found = [
        stack.lazy().select("symbol", "ts", *wanted).filter(pl.col("symbol").is_not_null() & after).collect()
        for stack in _stacks(parts, back)
    ]
    return pl.concat(found) if found else lean.lazy().select("symbol", "ts", *wanted).collect()


def _tiers(known: Catalogue) -> dict[int, list[pl.Expr]]:
    """Lookback -> the features that are computed on it."""
    found: dict[int, list[pl.Expr]] = {}
    for feature in known.features:
        least = next((tier for tier in TIERS_MIN if feature.lookback_min <= tier), known.lookback_min)
        found.setdefault(least, []).append(finite(feature.expr).alias(feature.name))
    return {tier: found[tier] for tier in sorted(found)}


def _known_at(bars: pl.DataFrame, known: Catalogue, step: Step, since: datetime | None) -> pl.DataFrame:
    """When every bar that a feature looks back on was known, of any symbol, and never before `ts`."""
    stamps = bars.group_by("ts").agg(pl.max_horizontal(pl.col("ts").max(), pl.col("known_at").max()).alias("at"))
    latest = pl.col("at").cast(pl.Int64).rolling_max(step.back(known.lookback_min) + 1, min_samples=1)
    rows = stamps.sort("ts").select("ts", latest.cast(SCHEMA["known_at"]).alias("known_at"))
    return rows if since is None else rows.filter(pl.col("ts") > since)


def _prepared(bars: pl.DataFrame, beside: Beside) -> pl.DataFrame:
    """Bars in order, with structure, norms and peers joined; raw, for their health is asked for too."""
    if bars["venue"].n_unique() > 1:
        raise ValueError(f"bars must be of one venue, were of {sorted(bars['venue'].unique())}")
    ordered = bars.sort("symbol", "ts")
    if ordered.select(pl.struct("symbol", "ts").is_duplicated().any()).item():
        raise ValueError("bars must have one row per symbol and ts, some repeat")
    joined = _with_structure(ordered, beside.structure)
    return _with_peers(_with_norms(joined, beside.norms), beside.peers)


def features_and_health(
    bars: pl.DataFrame,
    beside: Beside = Beside(),
    *,
    bar_s: int = 60,
    since: datetime | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every feature of the catalogue for every bar, and the health of what they read (`features.faults`).

    `bars` has the columns of `Bars` (one venue, a complete grid of bars of `bar_s` seconds per symbol). With `since`,
    the rows after it alone, to the last bit those of a run without it: `bars` must then reach back by
    `catalogue(bar_s).reach_min`. Structure applies while it is at most STRUCTURE_AGE_MIN_MAX minutes old.

    The matrix has venue, symbol, ts, known_at and one Float64 column per feature, sorted by symbol, ts. `known_at` is
    when the last of the bars that a feature may look back on was known. Features whose inputs are absent are null;
    none is ever NaN or infinite.

    Raises ValueError for more than one venue, a repeated (symbol, ts), or bars of a length that features do not know.
    """
    if bar_s not in BAR_S_CHOICES:
        raise ValueError(f"bar_s must be one of {BAR_S_CHOICES}, was {bar_s}")
    step, known = Step(bar_s), catalogue(bar_s)
    raw = _prepared(bars, beside)
    newest = raw if since is None else raw.filter(pl.col("ts") > since)
    whole = _with_market(usable(raw), step, since)
    key = newest.select("venue", "symbol", "ts").join(
        _known_at(bars, known, step, since), on="ts", how="left", maintain_order="left"
    )
    parts = [_computed(whole, exprs, tier, step, since).drop("symbol", "ts") for tier, exprs in _tiers(known).items()]
    return pl.concat([key, *parts], how="horizontal").select(*KEY, *known.names), input_health(newest)


def feature_matrix(
    bars: pl.DataFrame,
    structure: pl.DataFrame | None = None,
    *,
    norms: pl.DataFrame | None = None,
    peers: pl.DataFrame | None = None,
    bar_s: int = 60,
    since: datetime | None = None,
) -> pl.DataFrame:
    """The matrix of `features_and_health`."""
    return features_and_health(bars, Beside(structure, norms, peers), bar_s=bar_s, since=since)[0]


__all__ = ["HEALTH_SCHEMA", "KEY", "Beside", "feature_matrix", "features_and_health"]
