"""Gaps of regular feeds, stale spells of the others."""

from typing import Any

import polars as pl

from features.schema import VENUE_WIDE
from pipelines.doctoring.evidence import SERIES, Evidence
from pipelines.doctoring.findings import clock, finding, findings, lasting, many, share

ENDS_APART_STEPS = 10  # a feed ends early if this many of its own steps are missing at an end ...
ENDS_APART_S_MIN = 86_400.0  # ... and a day, which is how far files that were cut by day differ anyway


def silences(evidence: Evidence) -> pl.DataFrame:
    """Silences `(first, last)` longer than the limit of their series (see `survey`), per series: how many, how long.

    A regular feed's finding names the stamps missing: `sum(round(gap / step) - 1)`. Cannot see a feed that is silent
    from its first or after its last row; `ends_apart` looks there.
    """
    stamps = dict(zip(evidence.spacings.select(SERIES).iter_rows(), evidence.spacings["stamps"], strict=True))
    groups = evidence.gaps.partition_by(SERIES, maintain_order=True)
    return findings([_silence(group, stamps[group.select(SERIES).row(0)]) for group in groups])


def _silence(gaps: pl.DataFrame, stamps: int) -> dict[str, Any]:
    worst = gaps.sort("gap_s", descending=True).row(0, named=True)
    step_s, key = worst["step_s"], (worst["venue"], worst["symbol"])
    longest = f"the longest {lasting(worst['gap_s'])} from {clock(worst['first'])} to {clock(worst['last'])}"
    span = gaps["first"].min(), gaps["last"].max()
    mend = "fetch the span again, or expect nulls there"
    if step_s is None:
        what = (
            f"{many(gaps.height, 'silence')} of more than {lasting(worst['limit_s'])}, ten times the usual; {longest}"
        )
        return finding("suspicion", "stale spells", worst["table"], key, span, rows=gaps.height, what=what, mend=mend)
    missing = int(((gaps["gap_s"] / step_s).round() - 1).sum())
    what = (
        f"{missing:,} stamps missing from a {lasting(step_s)} series ({share(missing, missing + stamps)}) in "
        f"{many(gaps.height, 'gap')}; {longest}"
    )
    return finding("defect", "gaps", worst["table"], key, span, rows=missing, what=what, mend=mend)


def ends_apart(evidence: Evidence) -> pl.DataFrame:
    """Tables of one venue and symbol that begin later or end earlier than another of its tables.

    Counted from `max(1 day, 10 steps)` on; compares only series that name a symbol. One note per table and venue.
    """
    ours = evidence.spacings.filter(pl.col("symbol") != VENUE_WIDE)
    widest = ours.group_by("venue", "symbol").agg(earliest=pl.col("first").min(), latest=pl.col("last").max())
    limit_s = pl.max_horizontal(ENDS_APART_S_MIN, ENDS_APART_STEPS * pl.col("step_s").fill_null(0.0))
    apart = ours.join(widest, on=["venue", "symbol"]).with_columns(
        late_s=(pl.col("first") - pl.col("earliest")).dt.total_microseconds() / 1e6,
        early_s=(pl.col("latest") - pl.col("last")).dt.total_microseconds() / 1e6,
    )
    found = apart.filter(pl.max_horizontal("late_s", "early_s") > limit_s).sort(SERIES)
    return findings([_apart(group) for group in found.partition_by("table", "venue", maintain_order=True)])


def _apart(group: pl.DataFrame) -> dict[str, Any]:
    late_s, early_s = group.select(pl.col("late_s", "early_s").max()).row(0)
    said = [f"begins up to {lasting(late_s)} after"] * (late_s > ENDS_APART_S_MIN)
    said += [f"ends up to {lasting(early_s)} before"] * (early_s > ENDS_APART_S_MIN)
    what = f"of {many(group.height, 'symbol')} the table {' and '.join(said)} another table of the same symbol"
    span = group["first"].min(), group["last"].max()
    rows, mend = int(group["stamps"].sum()), "features that need both see only the common span"
    key = group["venue"][0], VENUE_WIDE if group.height > 1 else group["symbol"][0]
    return finding("note", "ends apart", group["table"][0], key, span, rows=rows, what=what, mend=mend)
