"""Other venues: what the same asset's perpetuals elsewhere pay and how far they stand from their index.

One venue's funding may be its own affair; when venues disagree, arbitrage is short of capital, and the venue that
stands apart is the crowded one.
"""

from collections.abc import Mapping
from typing import Final

import polars as pl

from features.crowding import basis_now, funding_rate_annual
from features.inputs import usable

PEERS: Final = pl.Schema(
    {
        "peer_venues": pl.Int64(),  # that told funding or basis of the asset at this bar
        "peer_funding_median": pl.Float64(),  # a year
        "peer_funding_min": pl.Float64(),
        "peer_funding_max": pl.Float64(),
        "peer_basis_median_bps": pl.Float64(),
        "peer_basis_min_bps": pl.Float64(),
        "peer_basis_max_bps": pl.Float64(),
    }
)


def peers_of(bars: pl.DataFrame, symbols_here: pl.DataFrame, base_of: Mapping[tuple[str, str], str]) -> pl.DataFrame:
    """What other venues' bars say of the assets of a venue's symbols: symbol, ts and the columns of `PEERS`.

    `bars` are bars of the other venues, `symbols_here` has `symbol, base` of the venue, `base_of` names the asset of
    (venue, symbol) elsewhere. A venue with several symbols of an asset counts with their mean. Funding and basis are
    those known at the bar, and only bars of the same `ts` meet. No rows where nobody else tells of an asset.
    Sorted by symbol, ts.
    """
    named = pl.DataFrame(
        [(venue, symbol, base) for (venue, symbol), base in base_of.items()],
        schema={"venue": pl.String, "symbol": pl.String, "base": pl.String},
        orient="row",
    )
    told = usable(bars).select("venue", "symbol", "ts", funding=funding_rate_annual(), basis_bps=basis_now())
    per_venue = (
        told.join(named, on=["venue", "symbol"])
        .sort("venue", "symbol", "ts")
        .group_by("venue", "base", "ts", maintain_order=True)
        .agg(pl.col("funding", "basis_bps").mean())
    )
    some = pl.any_horizontal(pl.col("funding", "basis_bps").is_not_null())
    rows = (
        per_venue.filter(some)
        .group_by("base", "ts")
        .agg(
            pl.len().cast(pl.Int64).alias("peer_venues"),
            *_range_of("funding", "peer_funding", ""),
            *_range_of("basis_bps", "peer_basis", "_bps"),
        )
    )
    here = rows.join(symbols_here.select("symbol", "base"), on="base").select("symbol", "ts", *PEERS.names())
    return here.sort("symbol", "ts")


def _range_of(name: str, prefix: str, unit: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Median, least and greatest over venues; the same to the bit whatever their order."""
    told = pl.col(name)
    return (
        told.median().alias(f"{prefix}_median{unit}"),
        told.min().alias(f"{prefix}_min{unit}"),
        told.max().alias(f"{prefix}_max{unit}"),
    )
