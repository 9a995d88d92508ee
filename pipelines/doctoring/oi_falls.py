"""Open-interest changes that span a gap: they look like one step and were not."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, lasting, many

CHANGE_SHARE = 0.05  # a flush of open interest worth a label starts at 2 to 5 % of it


def changes_over_gaps(evidence: Evidence) -> pl.DataFrame:
    """Changes of `oi_usd` of 5 % and more between the two stamps around a gap (see `survey`), per series.

        change = oi_usd[last] / oi_usd[first] - 1

    A label or feature that takes neighbouring rows for neighbouring hours sees a flush there. Blind where the feed is
    not regular.
    """
    gaps = evidence.gaps.filter(pl.col("table") == "open_interest", pl.col("step_s").is_not_null())
    held = evidence.rows("open_interest")
    if held is None or gaps.is_empty():
        return findings([])
    value = held.select("venue", "symbol", "ts", "oi_usd").collect(engine="streaming").unique(["venue", "symbol", "ts"])
    before = gaps.join(value.rename({"ts": "first", "oi_usd": "from"}), on=["venue", "symbol", "first"])
    both = before.join(value.rename({"ts": "last", "oi_usd": "to"}), on=["venue", "symbol", "last"])
    changed = both.with_columns(change=pl.col("to") / pl.col("from") - 1).filter(pl.col("change").abs() >= CHANGE_SHARE)
    rows = []
    for group in changed.sort("venue", "symbol", "first").partition_by("venue", "symbol", maintain_order=True):
        worst = group.sort("change").row(0, named=True)
        falls = int((group["change"] < 0).sum())
        what = (
            f"{many(group.height, 'change')} of 5 % or more over a gap, {many(falls, 'fall')}; the "
            f"{'deepest' if falls else 'least rise'} {worst['change']:+.0%} over {lasting(worst['gap_s'])} from "
            f"{clock(worst['first'])} to {clock(worst['last'])} is not a change in {lasting(worst['step_s'])}"
        )
        key, span = (worst["venue"], worst["symbol"]), (group["first"].min(), group["last"].max())
        mend = "divide by the time that passed, or give no change over a gap"
        rows.append(
            finding(
                "suspicion", "change over a gap", "open_interest", key, span, rows=group.height, what=what, mend=mend
            )
        )
    return findings(rows)
