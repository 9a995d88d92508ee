"""What cascade each snapshot of positions could feed: the columns of `Structure` from `rho` on.

One snapshot is one world (`pipelines.worlds`), taken at the moment at which the snapshot was known whole; nothing that
became known later is read. Tables are read once for all snapshots: of every table the rows that became known between
two moments are thinned to those that a world can see, and worlds follow each other on what they have in common.

A venue's numbers are told where books and marks of symbols with KNOWN_SHARE_MIN of its notional are known; what is not
known of the rest stands outside of them. A symbol's are told where its own book and mark are known, and those that
need a deviation where its own returns are. Everything else is null: no default stands in for a measurement.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import polars as pl

from features.mechanics.first_passage import DAY_S, YEAR_DAYS, first_passage_quantile_s
from features.schema import Structure, polars_schema
from models.cascade.fuel import FALL, REACH, RISE, Fuel, cliff_distances, fuel, kappa
from models.cascade.graph import Loop, forced_flows, loop_of
from models.cascade.slack import leg_unit, pairs_of
from models.cascade.spectrum import amplification, two_sided
from models.cascade.triggers import trigger_legs, unit_risk
from models.cascade.world import Bools, Floats, World
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.worlds import (
    AGE_MAX,
    BAND,
    DEPTH_TABLES,
    RETURN_S,
    RETURNS_SPAN,
    WINDOW,
    Known,
    LakeWorld,
    instruments_at,
    open_positions,
    priced,
    world_of,
)

NAMES: Final = tuple(polars_schema(Structure).names()[polars_schema(Structure).names().index("rho") :])
SCHEMA: Final = pl.Schema({name: polars_schema(Structure)[name] for name in ("symbol", "ts", *NAMES)})
KNOWN_SHARE_MIN: Final = 0.95
TENTH: Final = 0.1
TOUCH_CHANCE: Final = 0.25
TOUCH_S_MAX: Final = YEAR_DAYS * DAY_S  # what would take longer, or lies beyond REACH
DISTANCE_SD_MAX: Final = 1_000.0  # a unit without risk stands infinitely far
COLLATERAL_SPAN: Final = timedelta(days=7)  # an amount that was not restated for longer is not looked for
QUOTES_SPAN: Final = RETURNS_SPAN + AGE_MAX


def cascade_columns(lake: Lake, venue: str, positions: pl.DataFrame, snapshots: pl.DataFrame) -> pl.DataFrame:
    """The columns NAMES of every symbol of every snapshot: symbol, ts, and one column each, by symbol and ts.

    `positions` are all rows of the `snapshots` (ts, known_at: when the snapshot was known whole, one row each).

        M                = loop gains of falls and rises of WINDOW, of the known symbols alone
        rho              = spectral radius of two_sided(M)
        amplification    = diagonal of (I - two_sided(M))^-1, the larger of fall and rise; null where rho >= 1
        kappa_{side}     = fuel within WINDOW over the book that takes it, 0 or more
        cliff_{side}_bps = nearest trip from which on fuel outweighs the book; null where none does
        distance_sd_p10  = distance to liquidation in daily deviations that a tenth of the notional is at most away,
                           within +-DISTANCE_SD_MAX
        trigger_share    = share of the notional whose own leg takes the most of its unit's distance
        touch_q25_s      = seconds within which the price moves with a chance of TOUCH_CHANCE as far as one way trips
                           a tenth of the notional, at most TOUCH_S_MAX

    A snapshot without a world (no book known on both sides) has nulls.
    """
    moments = snapshots.sort("known_at", "ts")
    held = positions.partition_by("ts", as_dict=True)
    parts = [
        _columns_of(known, venue, at, ts)
        for (ts, at), known in zip(
            moments.select("ts", "known_at").iter_rows(),
            _known(lake, venue, moments, [held[(ts,)] for ts in moments["ts"]]),
            strict=True,
        )
    ]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts]).sort("symbol", "ts")


# --- what was known, moment by moment ---


def _known(lake: Lake, venue: str, snapshots: pl.DataFrame, held: Sequence[pl.DataFrame]) -> Iterator[Known]:
    """What was known at each of `snapshots`, by known_at; `held` are their positions."""
    if snapshots.is_empty():
        return
    moments = snapshots["known_at"]
    first, last = moments[0], moments[-1]
    marks = priced(lake.scan("marks", venue, first - QUOTES_SPAN, last))
    grid = pl.col("ts").dt.truncate(f"{RETURN_S}s").alias("grid")
    quotes = newest_at_each(marks.with_columns(grid), moments, ["symbol", "grid"], ["price"], QUOTES_SPAN)
    cash = newest_at_each(
        lake.scan("collateral", venue, first - COLLATERAL_SPAN, last),
        moments,
        ["account", "asset"],
        ["amount"],
        COLLATERAL_SPAN,
    )
    depth = pl.concat(
        [lake.scan(table, venue, first - AGE_MAX, last).with_columns(table=pl.lit(table)) for table in DEPTH_TABLES]
    )
    bands = newest_at_each(depth, moments, ["table", *BAND], ["depth_usd"], AGE_MAX)
    contracts = lake.scan("instruments", venue).collect()
    for at, rows, quote, amount, band in zip(moments, held, quotes, cash, bands, strict=True):
        yield Known(
            positions=open_positions(rows),
            collateral=amount,
            instruments=instruments_at(contracts, at),
            quotes=quote.sort("symbol", "ts"),
            bands=band,
        )


def newest_at_each(
    rows: pl.LazyFrame, moments: pl.Series, keys: Sequence[str], values: Sequence[str], age_max: timedelta
) -> Iterator[pl.DataFrame]:
    """For each of the rising `moments` the newest row of each of `keys` known by then and not older than `age_max`.

    The frames hold keys, ts, known_at, values, in no order: what `pipelines.worlds.newest` gives, at the cost of one
    pass. A row counts from `max(ts, known_at)` on.
    """
    columns = [*keys, "ts", "known_at", *values]
    place = pl.lit(moments).search_sorted(pl.max_horizontal("ts", "known_at"), side="left").alias("place")
    seen = rows.select(*columns, place).filter(pl.col("place") < len(moments))
    thin = seen.sort("ts", "known_at").group_by("place", *keys, maintain_order=True).last().select("place", *columns)
    collected = thin.collect()
    came = collected.partition_by("place", as_dict=True, include_key=False)
    state = collected.select(columns).clear()
    for number, at in enumerate(moments):
        more = came.get((number,))
        if more is not None:
            both = pl.concat([state, more]).lazy().sort("ts", "known_at")
            state = both.group_by(keys, maintain_order=True).last().collect()
        if state.height:
            state = state.filter(pl.col("ts") > at - age_max)
        yield state


# --- one snapshot ---


def _columns_of(known: Known, venue: str, at: datetime, ts: datetime) -> pl.DataFrame:
    symbols = known.positions["symbol"].unique().sort()
    try:
        values = _values(world_of(known, venue, at, ts)) if len(symbols) else {}
    except InputError:  # no book is known: nothing is told of this snapshot
        values = {}
    facts = {"symbol": pl.Series(symbols, dtype=pl.String), **values} if values else {"symbol": symbols}
    frame = pl.DataFrame(facts).with_columns(pl.lit(ts).alias("ts"))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SCHEMA.items()
    )


def _values(found: LakeWorld) -> dict[str, pl.Series]:
    """The columns of the symbols that are held, by name of the symbol."""
    world = found.scene.world
    doubted = {*found.doubts.unpriced, *found.doubts.bookless}
    known = np.array([name not in doubted for name in world.symbols])
    moved = known & np.array([name not in found.doubts.unmoved for name in world.symbols])
    usd = _notional_usd(world)
    venue_known = bool(usd[known].sum() >= KNOWN_SHARE_MIN * usd.sum())
    sd_day = found.scene.sd_day
    columns = _gains(world, known, sd_day) | _risk(world, sd_day, found.scene.correlation)
    told = {name: known & venue_known if name in ("rho", "amplification") else known for name in columns}
    told |= dict.fromkeys(("distance_sd_p10", "trigger_share", "touch_q25_s"), moved)
    order = [place for place in np.argsort(np.array(world.symbols)) if usd[place] > 0]
    return {
        name: pl.Series(np.where(told[name] & np.isfinite(values), values, np.nan)[order], nan_to_null=True)
        for name, values in columns.items()
    }


def _notional_usd(world: World) -> Floats:
    """Gross notional of all positions, per symbol."""
    usd = np.bincount(world.leg_symbol, weights=_leg_usd(world), minlength=len(world.symbols))
    return usd.astype(np.float64, copy=False)


def _leg_usd(world: World) -> Floats:
    """Notional of positions; 0 for collateral."""
    usd = np.abs(world.leg_qty) * world.price_usd[world.leg_symbol]
    return np.where(world.leg_closable, usd, 0.0)


def _gains(world: World, known: Bools, sd_day: Floats) -> dict[str, Floats]:
    """Columns that need books: infinite where they have no end, or there is none."""
    pairs = pairs_of(world)
    whole = loop_of(world, forced_flows(world, WINDOW, pairs), WINDOW)
    places = np.flatnonzero(known)
    gains = Loop(whole.fall[np.ix_(places, places)], whole.rise[np.ix_(places, places)])
    final = amplification(two_sided(gains.fall, gains.rise))
    grown = np.full(len(known), np.inf)
    if final is not None:
        grown[places] = np.diag(final).reshape(2, -1).max(axis=0)
    fall, rise = (fuel(world, side, REACH, pairs) for side in (FALL, RISE))
    columns = {"rho": np.full(len(known), gains.rho() if len(places) else np.nan), "amplification": grown}
    for side, trips in (("fall", fall), ("rise", rise)):
        columns[f"kappa_{side}"] = kappa(world, trips, 0.0, WINDOW).clip(0.0)
        columns[f"cliff_{side}_bps"] = 1e4 * cliff_distances(world, trips, WINDOW)
    near = np.minimum(_tenth_trips(world, fall), _tenth_trips(world, rise))
    seconds = first_passage_quantile_s(near, sd_day * np.sqrt(YEAR_DAYS), TOUCH_CHANCE)
    return columns | {"touch_q25_s": np.minimum(seconds, TOUCH_S_MAX)}


def _tenth_trips(world: World, trips: Fuel) -> Floats:
    """How far each symbol must move for a tenth of its notional to trip; infinite beyond REACH."""
    usd, out = _notional_usd(world), np.full(len(world.symbols), np.inf)
    for place in range(len(out)):
        first, last = trips.start[place : place + 2]
        burnt = np.cumsum(np.abs(trips.usd[first:last]))
        reached = int(np.searchsorted(burnt, TENTH * usd[place]))
        if reached < len(burnt):
            out[place] = trips.distance[first + reached]
    return out


def _risk(world: World, sd_day: Floats, correlation: Floats) -> dict[str, Floats]:
    """Columns that need deviations and no books."""
    units, legs = unit_risk(world, sd_day, correlation)
    usd, symbols = _leg_usd(world), len(world.symbols)
    own = np.where(trigger_legs(world, legs), usd, 0.0)
    whole = np.maximum(_notional_usd(world), np.finfo(np.float64).tiny)
    distance = units.distance_sd.clip(-DISTANCE_SD_MAX, DISTANCE_SD_MAX)[leg_unit(world)]
    return {
        "trigger_share": np.bincount(world.leg_symbol, weights=own, minlength=symbols) / whole,
        "distance_sd_p10": _tenths(world, distance, usd),
    }


def _tenths(world: World, values: Floats, usd: Floats) -> Floats:
    """The least of `values` that a tenth of each symbol's `usd` does not exceed; both are per leg."""
    out = np.full(len(world.symbols), np.nan)
    order = np.lexsort((values, world.leg_symbol))
    starts = np.searchsorted(world.leg_symbol[order], np.arange(len(out) + 1))
    for place in range(len(out)):
        some = order[starts[place] : starts[place + 1]]
        reached = np.cumsum(usd[some])
        if len(some) and reached[-1] > 0:
            out[place] = values[some[np.searchsorted(reached, TENTH * reached[-1])]]
    return out
