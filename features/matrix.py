"""The one way to compute features: bars and what belongs to them in, one row per symbol and bar out.

    bars + structure + norms + peers -> usable -> + market -> features

A plan per symbol would cost more than its work, and `.over()` would hold everything: symbols are stacked instead, with
empty bars between them that no window reaches across. A run that needs only the newest rows computes each feature on
no more bars than its lookback asks for (`features.plans`): each group of features reads its own tail of the bars.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

import polars as pl

from features import ladder, market
from features.catalogue import Catalogue, catalogue
from features.faults import HEALTH_SCHEMA, health_exprs, input_health
from features.feature import BAR_S_CHOICES, Step
from features.inputs import SCHEMA, usable, usable_exprs
from features.norms import NORMS, hour_end, measure
from features.peers import PEERS
from features.plans import Plan, market_plan, plans
from features.schema import MEASURES, Bars, Structure, polars_schema

STACK_ROWS = 200_000  # bars computed at once: bounds memory, whatever the number of symbols
STRUCTURE_AGE_MIN_MAX = 90  # an older snapshot of positions is no longer used
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


@dataclass(frozen=True)
class Inputs:
    """Ordered raw bars and what belongs to them; `read` gives usable columns for as many bars as are asked for."""

    bars: pl.DataFrame
    beside: Beside
    step: Step
    since: datetime | None
    market: pl.DataFrame | None = None

    def read(self, columns: Collection[str], lookback_min: int) -> pl.DataFrame:
        """`symbol, ts` and usable `columns` of the bars after `since` and of those that lie within the lookback."""
        columns = set(columns)
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
            told = ladder.with_ladder(told, self.step, told["ts"] > self.since if self.since is not None else None)
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
    start = None if inputs.since is None else inputs.since - timedelta(minutes=market.LOOKBACK_MIN)
    told = _computed(replace(inputs, since=start), market_plan(inputs.step))
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


def _computed(inputs: Inputs, plan: Plan) -> pl.DataFrame:
    """`symbol, ts` and what is planned for the bars after `since` (all without one), from as many as they look back on.

    Symbols with enough bars before `since` need no empty bars between them: a window that reaches into the symbol
    before belongs to a bar that is not asked for.
    """
    rows, back = inputs.read(plan.reads, plan.lookback_min), inputs.step.back(plan.lookback_min)
    if inputs.since is None or rows.is_empty():
        return _on_stacks(rows, plan, back, pl.lit(True))
    wanted = pl.col("ts") > inputs.since
    before = rows.select(pl.col("symbol").filter(~wanted).rle()).unnest("symbol")
    enough = before.filter(pl.col("len") >= back)["value"].implode()
    asked = rows.select(pl.col("symbol").filter(wanted).unique())
    young = asked.filter(~pl.col("symbol").is_in(enough))["symbol"]
    if young.is_empty():
        return _on_stacks(rows, plan, 0, wanted)
    short = pl.col("symbol").is_in(young.implode())
    old = _on_stacks(rows.filter(~short), plan, 0, wanted)
    return pl.concat([old, _on_stacks(rows.filter(short), plan, back, wanted)]).sort("symbol", "ts")


def _on_stacks(rows: pl.DataFrame, plan: Plan, spacer_rows: int, wanted: pl.Expr) -> pl.DataFrame:
    """`symbol, ts` and what is planned where `wanted`; `rows` by symbol and ts."""
    parts = rows.partition_by("symbol", maintain_order=True) if spacer_rows else _slices(rows)
    stacks = _stacks(parts, spacer_rows) if parts else [rows]
    return pl.concat([_told(stack, plan, wanted) for stack in stacks])


def _told(stack: pl.DataFrame, plan: Plan, wanted: pl.Expr) -> pl.DataFrame:
    carried = [pl.col(name) for name in plan.carried if name not in ("symbol", "ts")]
    every = _evaluated(stack, plan.behind, [pl.col("symbol", "ts"), *carried])
    asked = every.filter(wanted & pl.col("symbol").is_not_null())
    return _evaluated(asked, plan.columns, [pl.col("symbol", "ts"), *plan.exprs])


def _evaluated(rows: pl.DataFrame, steps: Sequence[Sequence[pl.Expr]], exprs: Sequence[pl.Expr]) -> pl.DataFrame:
    """`exprs` of `rows`, which may read the columns of `steps`.

    Polars evaluates arithmetic piece by piece, and divides a piece of one row by a constant where it multiplies a
    longer one with the inverse. In one piece of at least two rows, which the streaming engine would cut up again, no
    last bit depends on the batch.
    """
    alone = rows.height == 1
    lazy = (pl.concat([rows, rows]) if alone else rows).rechunk().lazy()
    for step in steps:
        lazy = lazy.with_columns(step)
    told = lazy.select(exprs).collect(engine="in-memory")
    return told.head(1) if alone else told


def _slices(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """`rows` cut between symbols into pieces of about STACK_ROWS."""
    if rows.height <= STACK_ROWS:
        return [rows] if rows.height else []
    pieces, start, end = [], 0, 0
    for height in rows["symbol"].rle().struct.field("len"):
        if end + height - start > STACK_ROWS and end > start:
            pieces.append(rows.slice(start, end - start))
            start = end
        end += height
    return [*pieces, rows.slice(start)]


def _known_at(bars: pl.DataFrame, known: Catalogue, step: Step, since: datetime | None) -> pl.DataFrame:
    """When every bar that a feature looks back on was known, of any symbol, and never before `ts`."""
    stamps = bars.group_by("ts").agg(pl.max_horizontal(pl.col("ts").max(), pl.col("known_at").max()).alias("at"))
    latest = pl.col("at").cast(pl.Int64).rolling_max(step.back(known.lookback_min) + 1, min_samples=1)
    rows = stamps.sort("ts").select("ts", latest.cast(SCHEMA["known_at"]).alias("known_at"))
    return rows if since is None else rows.filter(pl.col("ts") > since)


@cache
def columns_read(bar_s: int = 60) -> tuple[str, ...]:
    """The columns of `Bars` that features and their health read; a run need not read the others."""
    exprs = [feature.expr for feature in catalogue(bar_s).features]
    exprs += [expr for expr, _ in market.inputs(Step(bar_s))] + [measure(name) for name in MEASURES]
    exprs += health_exprs() + usable_exprs(polars_schema(Bars).names())
    roots = {name for expr in exprs for name in expr.meta.root_names()} | set(KEY)
    return tuple(name for name in polars_schema(Bars).names() if name in roots)


def _in_order(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars of one venue by symbol and ts. Raises ValueError for more venues, and where a bar repeats."""
    if bars.select((pl.col("venue") != pl.col("venue").first()).any()).item():
        raise ValueError(f"bars must be of one venue, were of {sorted(bars['venue'].unique())}")
    symbol, ts = pl.col("symbol"), pl.col("ts")
    first = symbol.ne_missing(symbol.shift())
    firsts = bars.select(symbol.filter(first)).to_series()
    if bars.select((first | (ts > ts.shift())).all()).item() and firsts.is_sorted() and firsts.is_unique().all():
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
    parts = [_computed(inputs, plan).drop("symbol", "ts") for plan in plans(bar_s)]
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
