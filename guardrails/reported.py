"""Whether accounts are known: what keeps positions and collateral from being relied on, per symbol and minute.

A fault of a table is said here, for `guardrails.validity`; a fault of one account's row stays that account's own
(`guardrails.accounts`).
"""

import polars as pl

from guardrails.facts import UTC_US, Shape
from guardrails.holdings import whole_snapshots
from guardrails.policy import Policy

SNAPSHOTS: Shape = {"ts": UTC_US, "snapshot_ts": UTC_US}
UNSIZED: Shape = {"symbol": pl.String, "snapshot_ts": UTC_US, "invalid": pl.Boolean}
REPORTS: Shape = {"ts": UTC_US, "reported_at": UTC_US, "invalid": pl.Boolean}


def _shaped(table: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    return table.select(pl.col(name).cast(dtype) for name, dtype in shape.items())


def _fault(what: str, since: str, age_min_max: int) -> pl.Expr:
    """Written as the condition that allows: reported, fresh and valid."""
    fresh = (pl.col("ts") - pl.col(since)).dt.total_minutes() <= age_min_max
    return (
        pl.when(pl.col(since).is_null())
        .then(pl.lit(f"{what} missing"))
        .when(~fresh)
        .then(pl.lit(f"{what} stale"))
        .when(pl.col("invalid").fill_null(False))
        .then(pl.lit(f"{what} invalid"))
    )


def positions_fault(keys: pl.DataFrame, positions: pl.DataFrame | None, policy: Policy) -> pl.Series:
    """What is at fault with the positions, for every row of `keys` (`symbol, ts`), in their order; null where nothing.

        positions missing = no snapshot was known whole at or before ts
        positions stale   = the newest such snapshot is older than `positions_age_min_max` minutes
        positions invalid = it holds a position in the symbol whose size is no finite number

    None and an empty table are the same: nothing is known. Null throughout where the policy says that the venue does
    not publish positions.
    """
    if "positions" in policy.inputs.not_published:
        return pl.Series("positions_fault", [None] * keys.height, pl.String)
    snapshots, unsized = pl.DataFrame(schema=SNAPSHOTS), pl.DataFrame(schema=UNSIZED)
    if positions is not None and not positions.is_empty():
        legs = whole_snapshots(positions, keys["ts"].unique())
        snapshots = _shaped(legs.select(*SNAPSHOTS).unique().sort("ts"), SNAPSHOTS)
        lost = legs.filter(pl.col("qty").is_null()).select("symbol", "snapshot_ts").unique()
        unsized = _shaped(lost.with_columns(invalid=True), UNSIZED)
    seen = keys.with_row_index("_row").sort("ts").join_asof(snapshots, on="ts", check_sortedness=False)
    known = seen.join(unsized, on=["symbol", "snapshot_ts"], how="left").sort("_row")
    return known.select(
        positions_fault=_fault("positions", "snapshot_ts", policy.inputs.positions_age_min_max)
    ).to_series()


def collateral_fault(keys: pl.DataFrame, collateral: pl.DataFrame | None, policy: Policy) -> pl.Series:
    """What is at fault with the collateral, for every row of `keys` (`ts`), in their order; null where nothing.

        collateral missing = no report was known at or before ts      a report: the rows that became known together
        collateral stale   = the newest is older than `collateral_age_min_max` minutes
        collateral invalid = it holds an amount that is no finite number

    None and an empty table are the same: nothing is known. Null throughout where the policy says that the venue does
    not publish collateral.
    """
    if "collateral" in policy.inputs.not_published:
        return pl.Series("collateral_fault", [None] * keys.height, pl.String)
    reports = pl.DataFrame(schema=REPORTS)
    if collateral is not None and not collateral.is_empty():
        sound = pl.col("amount").cast(pl.Float64, strict=False).is_finite().fill_null(False)
        told = collateral.group_by(ts="known_at").agg(invalid=~sound.all()).drop_nulls("ts").sort("ts")
        reports = _shaped(told.with_columns(reported_at="ts"), REPORTS)
    seen = keys.with_row_index("_row").sort("ts").join_asof(reports, on="ts", check_sortedness=False).sort("_row")
    return seen.select(
        collateral_fault=_fault("collateral", "reported_at", policy.inputs.collateral_age_min_max)
    ).to_series()


def with_account_faults(
    facts: pl.DataFrame, positions: pl.DataFrame | None, collateral: pl.DataFrame | None, policy: Policy
) -> pl.DataFrame:
    """`facts` with `positions_fault` and `collateral_fault`, which `validity.faults` reads."""
    keys = facts.select("symbol", "ts")
    return facts.with_columns(positions_fault(keys, positions, policy), collateral_fault(keys, collateral, policy))
