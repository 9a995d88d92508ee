"""Lopsided depth: one side of the book all but gone while the other stands."""

from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, many, share

# Sides of a book that is alive stay within a factor of ten of each other near the touch, in crashes too; makers quote
# both. A fiftieth, again and again, is a band that is measured from a price away from the market.
LOPSIDED_SHARE = 0.02
SNAPSHOTS_MIN = 10


def lopsided_depth(evidence: Evidence) -> pl.DataFrame:
    """Snapshots of `book_depth` whose narrowest band holds on one side less than 2 % of the other's dollars.

    From 10 snapshots on. The bands of a side hang on its best price: a bid left far above the market (a ghost) leaves
    nothing within 1 % of it. Blind to a ghost with size, and to both sides gone at once.
    """
    rows = []
    for key in evidence.series("book_depth"):
        pieces = evidence.pieces("book_depth", key, ["ts", "side", "band_bps", "depth_usd"], paired=False)
        counted = [_sides(piece) for piece in pieces]
        snapshots = sum(part.height for part in counted)
        for side, other in (("bid", "ask"), ("ask", "bid")):
            thin = pl.concat([part.filter(pl.col(side) < LOPSIDED_SHARE * pl.col(other)) for part in counted])
            if thin.height >= SNAPSHOTS_MIN:
                rows.append(_lopsided(key, side, thin, snapshots))
    return findings(rows)


def _sides(piece: pl.DataFrame) -> pl.DataFrame:
    """`ts, bid, ask`: dollars of both sides in the narrowest band that the snapshot has for both."""
    both = piece.group_by("ts", "band_bps").agg(
        bid=pl.col("depth_usd").filter(pl.col("side") == "bid").first(),
        ask=pl.col("depth_usd").filter(pl.col("side") == "ask").first(),
    )
    narrowest = pl.col("band_bps") == pl.col("band_bps").min().over("ts")
    return both.drop_nulls().filter(narrowest).sort("ts").select("ts", "bid", "ask")


def _lopsided(key: tuple[str, str], side: str, thin: pl.DataFrame, snapshots: int) -> dict[str, Any]:
    part, first, last = share(thin.height, snapshots), thin["ts"].min(), thin["ts"].max()
    what = (
        f"in {thin.height:,} of {many(snapshots, 'snapshot')} ({part}) the {side} side holds less than "
        f"{LOPSIDED_SHARE:.0%} of the other near the touch, {clock(first)} to {clock(last)}: its bands hang on a price "
        "away from the market"
    )
    mend, rows = "do not use depth of this span", thin.height
    return finding("suspicion", "lopsided depth", "book_depth", key, (first, last), rows=rows, what=what, mend=mend)
