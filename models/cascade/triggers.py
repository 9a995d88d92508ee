"""Trigger attribution: which leg brings an account to its maintenance margin, and what it costs in distance.

A unit of margin stands `distance_sd = (equity - maintenance) / sd of its profit` from being liquidated. A small
position in a volatile, correlated contract may hold little of the notional, much of the risk and most of the distance.
"""

import numpy as np
import polars as pl

from features.mechanics.risk import LegRisk, UnitRisk, Units, covariance, portfolio_risk
from models.cascade.slack import leg_maintenance_usd, leg_unit
from models.cascade.world import Bools, Floats, World

SCHEMA = pl.Schema(
    {
        "account": pl.String(),
        "unit": pl.Int64(),
        "leg": pl.String(),
        "collateral": pl.Boolean(),
        "notional_usd": pl.Float64(),
        "share_of_notional": pl.Float64(),
        "share_of_risk": pl.Float64(),
        "share_of_distance": pl.Float64(),
        "distance_sd": pl.Float64(),
        "distance_sd_without": pl.Float64(),
        "trigger": pl.Boolean(),
    }
)


def triggers(world: World, sd: Floats, correlation: Floats, units_max: int | None = None) -> pl.DataFrame:
    """One row per leg of the `units_max` units nearest to liquidation (all by default), in the shape of `SCHEMA`.

    `sd` is the standard deviation of each symbol's return over one period; distances are in such deviations. Rows are
    sorted by distance, then by what the leg takes of it. `share_of_notional` counts open positions alone, 0 for
    `collateral` that moves with a symbol; the other shares count both. `share_of_distance` is
    `1 - distance_sd / distance_sd_without` the leg; negative for a hedge, 0 where the unit is short without the leg
    too. `trigger` marks the position that takes the most of its unit's distance (none where all are hedges). Units
    without risk (infinitely far) have no rows. Raises ValueError as `features.mechanics.risk.covariance`.
    """
    unit = leg_unit(world)
    notional = world.leg_qty * world.price_usd[world.leg_symbol]
    whole, legs = unit_risk(world, sd, correlation)
    held = pl.DataFrame(
        {
            "unit": unit,
            "account_place": world.account[unit],
            "symbol": world.leg_symbol,
            "collateral": ~world.leg_closable,
            "notional_usd": np.abs(notional),
            "share_of_risk": legs.share_of_risk,
            "share_of_distance": legs.share_of_distance,
            "distance_sd": whole.distance_sd[unit],
            "distance_sd_without": legs.distance_sd_without,
            "trigger": trigger_legs(world, legs),
        }
    )
    nearest = _nearest(held.filter(pl.col("distance_sd") < np.inf), units_max)
    return _named(nearest, world)


def unit_risk(world: World, sd: Floats, correlation: Floats) -> tuple[UnitRisk, LegRisk]:
    """Distance of every unit of margin to liquidation, and what its legs take of it; `sd` as in `triggers`."""
    unit = leg_unit(world)
    notional = world.leg_qty * world.price_usd[world.leg_symbol]
    value = world.leg_qty * (world.price_usd[world.leg_symbol] - world.leg_entry)
    equity = world.cash_usd + np.bincount(unit, weights=value, minlength=world.units)
    maintenance, _ = leg_maintenance_usd(world, np.zeros(len(unit)))
    columns = Units(world.leg_start, world.leg_symbol, notional, maintenance, equity)
    return portfolio_risk(columns, covariance(sd, correlation))


def trigger_legs(world: World, legs: LegRisk) -> Bools:
    """The position of each unit that takes the most of its distance, the first by name of equals; none if all hedge."""
    unit, taken = leg_unit(world), legs.share_of_distance
    rank = np.argsort(np.argsort(np.array(world.symbols)))
    could = np.flatnonzero(world.leg_closable & (taken > 0))
    order = could[np.lexsort((rank[world.leg_symbol[could]], -taken[could], unit[could]))]
    first = order[np.flatnonzero(np.diff(unit[order], prepend=-1))]
    out = np.zeros(len(unit), dtype=np.bool_)
    out[first] = True
    return out


def _nearest(held: pl.DataFrame, units_max: int | None) -> pl.DataFrame:
    """Rows of the nearest units, with shares of the notional of positions."""
    units = held.group_by("unit").agg(pl.col("distance_sd").first()).sort("distance_sd", "unit")
    chosen = units if units_max is None else units.head(units_max)
    open_usd = pl.when("collateral").then(0.0).otherwise("notional_usd")
    return held.join(chosen.select("unit"), on="unit", how="semi", maintain_order="left").with_columns(
        (open_usd / open_usd.sum().over("unit")).fill_nan(0.0).alias("share_of_notional")
    )


def _named(held: pl.DataFrame, world: World) -> pl.DataFrame:
    """Names for places, in the order of `SCHEMA`."""
    accounts = pl.Series(
        world.account_names or map(str, range(int(world.account.max(initial=-1)) + 1)), dtype=pl.String
    )
    rows = held.with_columns(
        accounts.gather(held["account_place"]).alias("account"),
        pl.Series(world.symbols, dtype=pl.String).gather(held["symbol"]).alias("leg"),
    ).sort("distance_sd", "account", "unit", -pl.col("share_of_distance"), "leg")
    return rows.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
