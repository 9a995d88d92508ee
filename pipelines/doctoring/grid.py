"""Stamps off the grid: a series that should stand on whole multiples of its step, and mostly does."""

from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import Severity, finding, findings, lasting, share

# A stamp within this share of the step (5-minute series: 3 s) still names its grid point without doubt.
JITTER_SHARE = 0.01
ON_GRID_SHARE = 0.5  # below it there is no grid to be off from: a poll that drifts, as depth snapshots often do


def off_grid(evidence: Evidence) -> pl.DataFrame:
    """Stamps of regular series that are not whole multiples of the step since 1970.

        off = ((ts + step / 2) mod step) - step / 2

    Only series of which at least half of the stamps have |off| <= 1 % of the step. Note while all are that near (join
    with a tolerance), suspicion once one is farther. Blind to a series that is shifted as a whole by half a step.
    """
    rows = []
    for row in evidence.spacings.filter(pl.col("step_s").is_not_null()).iter_rows(named=True):
        key = row["venue"], row["symbol"]
        pieces = evidence.pieces(row["table"], key, ["ts"], paired=False)
        found = _off(pl.concat(_offsets(piece, row["step_s"]) for piece in pieces))
        if found["off"] and found["near"] >= ON_GRID_SHARE * found["stamps"]:
            rows.append(_finding(row["table"], key, row["step_s"], found))
    return findings(rows)


def _offsets(piece: pl.DataFrame, step_s: float) -> pl.DataFrame:
    """One row of counts for the stamps of a piece."""
    step_us = round(step_s * 1e6)
    since_us = piece.select("ts", us=pl.col("ts").dt.epoch("us")).unique("ts")
    off_us = since_us.with_columns(off_us=((pl.col("us") + step_us // 2) % step_us - step_us // 2).abs())
    off = pl.col("off_us") > 0
    return off_us.select(
        stamps=pl.len().cast(pl.Int64),
        near=(pl.col("off_us") <= JITTER_SHARE * step_us).sum().cast(pl.Int64),
        off=off.sum().cast(pl.Int64),
        farthest_s=pl.col("off_us").max() / 1e6,
        first=pl.col("ts").filter(off).min(),
        last=pl.col("ts").filter(off).max(),
    )


def _off(counts: pl.DataFrame) -> dict[str, Any]:
    sums = pl.col("stamps", "near", "off").sum()
    return counts.select(sums, pl.col("farthest_s", "last").max(), pl.col("first").min()).row(0, named=True)


def _finding(table: str, key: tuple[str, str], step_s: float, found: dict[str, Any]) -> dict[str, Any]:
    far = found["stamps"] - found["near"]
    what = (
        f"{found['off']:,} of {found['stamps']:,} stamps ({share(found['off'], found['stamps'])}) are off the "
        f"{lasting(step_s)} grid, by up to {lasting(found['farthest_s'])}"
    )
    what += f"; {far:,} by more than {lasting(JITTER_SHARE * step_s)}" if far else ""
    span = found["first"], found["last"]
    severity: Severity = "suspicion" if far else "note"
    mend = "join as of, never on equal stamps"
    return finding(severity, "stamps off the grid", table, key, span, rows=found["off"], what=what, mend=mend)
