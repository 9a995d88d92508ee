"""The one way to compute features: bars and what belongs to them in, one row per symbol and bar out.

    bars + structure + norms + peers -> usable -> + market -> features

A plan per symbol would cost more than its work, and `.over()` would hold everything: symbols are stacked instead, with
empty bars between them that no window reaches across. A run that needs only the newest rows computes each feature on
no more bars than its lookback asks for: features are grouped by it, and each group reads its own tail of the bars.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from types import MappingProxyType

import polars as pl

from features import ladder, market
from features.catalogue import Catalogue, catalogue, plan
from features.exact import collecting, finite
from features.faults import HEALTH_SCHEMA, health_exprs, input_health
from features.feature import BAR_S_CHOICES, Step
from features.inputs import SCHEMA, usable, usable_exprs
from features.norms import NORMS, hour_end, measure
from features.peers import PEERS
from features.schema import MEASURES, Bars, Structure, polars_schema

STACK_ROWS = 200_000  # bars computed at once: bounds memory, whatever the number of symbols
STRUCTURE_AGE_MIN_MAX = 90  # an older snapshot of positions is no longer used
TIERS_MIN = (
    0,
    15,
    90,
    280,
    512,
)  # features are grouped by the least of these, or their longest, that holds their lookback
KEY = ("venue", "symbol", "ts", "known_at")
FILTER_LAST = pl.QueryOptFlags(predicate_pushdown=False)  # see `_planned`
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


@dataclass(frozen=True)
class Inputs:
    """Ordered raw bars and what belongs to them; `read` gives usable columns for as many bars as are asked for."""

    bars: pl.DataFrame
    beside: Beside
    step: Step
    since: datetime | None
    market: pl.DataFrame | None = None

    def read(self, columns: set[str], lookback_min: int) -> pl.DataFrame:
        """`symbol, ts` and usable `columns` of the bars after `since` and of those that lie within the lookback."""
        joins = {
            "structure": (_with_structure, self.beside.structure, {*_STRUCTURE_COLUMNS, "structure_age_s"}),
            "norms": (_with_norms, self.beside.norms, set(NORMS.names())),
            "peers": (_with_peers, self.beside.peers, set(PEERS.names())),
        }
        asked = [(join, frame) for join, frame, held in joins.values() if held & columns]
        rows = self._bars(columns, lookback_min)
        for join, frame in asked:
            rows = join(rows, frame)
        if self.market is not None and set(self.market.columns) & columns:
            rows = rows.join(self.market, on="ts", how="left", maintain_order="left")
        told = usable(rows)
        if set(ladder.LADDER.names()) & columns:
            told = ladder.with_ladder(told, self.step)
        return told.select("symbol", "ts", *sorted(columns - {"symbol", "ts"}))

    def _bars(self, columns: set[str], lookback_min: int) -> pl.DataFrame:
        columns = columns | (set(ladder.READS) if set(ladder.LADDER.names()) & columns else set())
        helpers = {name for expr in usable_exprs(sorted(columns)) for name in expr.meta.root_names()}
        kept = [name for name in self.bars.columns if name in columns | helpers | {"symbol", "ts"}]
        lean = self.bars.select(kept)
        if self.since is None:
            return lean
        first = self.since - timedelta(seconds=self.step.back(lookback_min) * self.step.bar_s)
        return lean.filter(pl.col("ts") > first)


def _with_structure(bars: pl.DataFrame, structure: pl.DataFrame | None) -> pl.DataFrame:
    """Bars with the newest structure that was known and is at most STRUCTURE_AGE_MIN_MAX old, and its age."""
    if structure is None or structure.is_empty():
        absent = [pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in _STRUCTURE_COLUMNS]
        return bars.with_columns(*absent, structure_age_s=pl.lit(None, dtype=pl.Float64))
    facts = [pl.col(name).cast(SCHEMA[name]) for name in _STRUCTURE_COLUMNS]
    known = structure.sort("known_at", "ts").select("symbol", "known_at", pl.col("ts").alias("structure_ts"), *facts)
    joined = bars.join_asof(
        known, left_on="ts", right_on="known_at", by="symbol", strategy="backward", check_sortedness=False
    )
    age_s = (pl.col("ts") - pl.col("structure_ts")).dt.total_microseconds().cast(pl.Float64) * 1e-6
    recent = age_s <= 60 * STRUCTURE_AGE_MIN_MAX
    return joined.with_columns(
        *(pl.when(recent).then(pl.col(name)).alias(name) for name in _STRUCTURE_COLUMNS), structure_age_s=age_s
    )


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
    if bars["ts"].len():
        told = told.filter(pl.col("ts") >= bars["ts"].min())
    return bars.join(told, on=["symbol", "ts"], how="left", maintain_order="left")


def _with_market(inputs: Inputs) -> Inputs:
    """What all symbols together said, from `since` on where it is given."""
    with collecting() as columns:
        asked = market.inputs(inputs.step)
    start = None if inputs.since is None else inputs.since - timedelta(minutes=market.LOOKBACK_MIN)
    earlier = replace(inputs, since=start)
    lookback_min = max((minutes for _, minutes in asked), default=0)
    told = _computed(earlier, [expr for expr, _ in asked], lookback_min, dict(columns))
    return replace(inputs, market=market.market_rows(told, inputs.step))


def _stacks(parts: Sequence[pl.DataFrame], spacer_rows: int) -> Iterator[pl.DataFrame]:
    """Symbols on top of each other, `spacer_rows` empty bars after each, at most STACK_ROWS or one symbol to a stack.

    No window reaches across the empty bars, and one plan over a stack costs a fraction of a plan per symbol.
    """
    tallest = max((part.height for part in parts), default=0) + spacer_rows
    count = max(1, STACK_ROWS // max(tallest, 1))
    for first in range(0, len(parts), count):
        some = parts[first : first + count]
        if spacer_rows:
            spacer = some[0].clear(spacer_rows)
            yield pl.concat([rows for part in some for rows in (part, spacer)])
        else:
            yield pl.concat(some)


def _computed(
    inputs: Inputs, exprs: Sequence[pl.Expr], lookback_min: int, columns: Mapping[str, pl.Expr] = MappingProxyType({})
) -> pl.DataFrame:
    """`symbol, ts` and `exprs` for the bars after `since` (all without one), from as many bars as they look back on.

    `columns` are computed first where `exprs` read them. Symbols with enough bars before `since` need no empty bars
    between them: a window that reaches into the symbol before belongs to a bar that is not asked for.
    """
    levels = _levels(exprs, columns)
    roots = {name for level in (*levels, exprs) for expr in level for name in expr.meta.root_names()}
    rows, back = inputs.read(roots - set(columns), lookback_min), inputs.step.back(lookback_min)
    if inputs.since is None or rows.is_empty():
        return _on_stacks(rows, levels, exprs, back, pl.lit(True))
    wanted = pl.col("ts") > inputs.since
    before = rows.group_by("symbol", maintain_order=True).agg((~wanted).sum().alias("rows"))
    short = before.filter(pl.col("rows") < back)["symbol"]
    if short.is_empty():
        return _on_stacks(rows, levels, exprs, 0, wanted)
    young = pl.col("symbol").is_in(short.implode())
    old = _on_stacks(rows.filter(~young), levels, exprs, 0, wanted)
    return pl.concat([old, _on_stacks(rows.filter(young), levels, exprs, back, wanted)]).sort("symbol", "ts")


def _levels(exprs: Sequence[pl.Expr], columns: Mapping[str, pl.Expr]) -> list[list[pl.Expr]]:
    """The `columns` that `exprs` read, directly or through others, in steps that read earlier ones alone."""
    level: dict[str, int] = {}
    needed = {name for expr in exprs for name in expr.meta.root_names() if name in columns}
    for name, expr in list(columns.items())[::-1]:
        if name in needed:
            needed.update(root for root in expr.meta.root_names() if root in columns)
    for name, expr in columns.items():
        if name in needed:
            level[name] = 1 + max((level[root] for root in expr.meta.root_names() if root in level), default=-1)
    return [
        [columns[name].alias(name) for name, place in level.items() if place == step]
        for step in range(max(level.values(), default=-1) + 1)
    ]


def _on_stacks(
    rows: pl.DataFrame, levels: Sequence[Sequence[pl.Expr]], exprs: Sequence[pl.Expr], spacer_rows: int, wanted: pl.Expr
) -> pl.DataFrame:
    """`symbol, ts` and `exprs` where `wanted`; `rows` by symbol and ts."""
    parts = rows.partition_by("symbol", maintain_order=True) if spacer_rows else _slices(rows)
    stacks = _stacks(parts, spacer_rows) if parts else [rows]
    plans = (_planned(stack, levels, exprs, wanted) for stack in stacks)
    return pl.concat([plan.collect(engine="in-memory", optimizations=FILTER_LAST) for plan in plans])


def _planned(
    stack: pl.DataFrame, levels: Sequence[Sequence[pl.Expr]], exprs: Sequence[pl.Expr], wanted: pl.Expr
) -> pl.LazyFrame:
    """`symbol, ts` and `exprs` of the rows of `stack` that are `wanted`, to be collected in memory with FILTER_LAST.

    Polars evaluates arithmetic piece by piece, and divides a piece of one row by a constant where it multiplies a
    longer one with the inverse. In one chunk with an empty row to spare, which the streaming engine and an early filter
    would cut up again, no last bit depends on the batch.
    """
    lazy = pl.concat([stack, stack.clear(1)]).rechunk().lazy()
    for level in levels:
        lazy = lazy.with_columns(level)
    return lazy.select("symbol", "ts", *exprs).filter(wanted & pl.col("symbol").is_not_null())


def _slices(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """`rows` cut between symbols into pieces of about STACK_ROWS."""
    starts = (rows["symbol"] != rows["symbol"].shift()).fill_null(True).arg_true().to_list()
    pieces, start = [], 0
    for here, after in pairwise([*starts, rows.height]):
        if after - start > STACK_ROWS and here > start:
            pieces.append(rows.slice(start, here - start))
            start = here
    return [*pieces, rows.slice(start)] if rows.height else []


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


def columns_read(bar_s: int = 60) -> list[str]:
    """The columns of `Bars` that features and their health read; a run need not read the others."""
    exprs = [feature.expr for feature in catalogue(bar_s).features]
    exprs += [expr for expr, _ in market.inputs(Step(bar_s))] + [measure(name) for name in MEASURES]
    exprs += health_exprs() + usable_exprs(polars_schema(Bars).names())
    roots = {name for expr in exprs for name in expr.meta.root_names()} | set(KEY)
    return [name for name in polars_schema(Bars).names() if name in roots]


def _in_order(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars of one venue by symbol and ts. Raises ValueError for more venues, and where a bar repeats."""
    if bars["venue"].n_unique() > 1:
        raise ValueError(f"bars must be of one venue, were of {sorted(bars['venue'].unique())}")
    symbol, ts = pl.col("symbol"), pl.col("ts")
    later = (symbol > symbol.shift()) | ((symbol == symbol.shift()) & (ts > ts.shift()))
    if bars.select(later.fill_null(True).all()).item():
        return bars
    if bars.select(pl.struct("symbol", "ts").is_duplicated().any()).item():
        raise ValueError("bars must have one row per symbol and ts, some repeat")
    return bars.sort("symbol", "ts")


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
    `catalogue(bar_s).lookback_min`. Structure applies while it is at most STRUCTURE_AGE_MIN_MAX minutes old.

    The matrix has venue, symbol, ts, known_at and one Float64 column per feature, sorted by symbol, ts. `known_at` is
    when the last of the bars that a feature may look back on was known. Features whose inputs are absent are null;
    none is ever NaN or infinite.

    Raises ValueError for more than one venue, a repeated (symbol, ts), or bars of a length that features do not know.
    """
    if bar_s not in BAR_S_CHOICES:
        raise ValueError(f"bar_s must be one of {BAR_S_CHOICES}, was {bar_s}")
    step, known = Step(bar_s), catalogue(bar_s)
    ordered = _in_order(bars.select(columns_read(bar_s)))
    inputs = _with_market(Inputs(ordered, beside, step, since))
    newest = ordered if since is None else ordered.filter(pl.col("ts") > since)
    key = newest.select("venue", "symbol", "ts").join(
        _known_at(ordered, known, step, since), on="ts", how="left", maintain_order="left"
    )
    planned, columns = plan(bar_s)
    parts = [_computed(inputs, exprs, tier, columns).drop("symbol", "ts") for tier, exprs in _tiers(planned).items()]
    matrix = pl.concat([key, *parts], how="horizontal").select(*KEY, *known.names)
    return matrix, input_health(_with_structure(newest, beside.structure))


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
