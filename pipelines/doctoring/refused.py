"""What ingest refused: every reason is a finding, with the span in which it struck."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import Severity, clock, finding, findings, share

# What a reason means and how to mend it; a reason that is not here is shown as it stands.
SAID = {
    "crossed_book": ("the best bid stands above the best ask: one side is wrong",
                     "do not use depth of this span; find which side is stuck"),
    "crossed_quote": ("bid at or above ask (crossed or locked)", "do not use quotes of this span"),
    "frozen_book": ("a side repeats the snapshot before to the last digit", "do not use depth of this span"),
    "one_sided_book": ("a side is missing or empty", "do not use depth of this span"),
    "not_answered": ("a venue that was polled gave no answer", "look the reasons up in the raw rows of `quarantine`"),
    "trades_not_joined": ("the pages of a poll did not reach back to the trades before: trades are missing",
                          "fetch the span from the venue's archive, or poll more often"),
    "duplicate_key": ("the key is in the lake already: a row repeated in the source, or a file that overlaps another",
                      "nothing to do: the first row is kept"),
}  # fmt: skip


def refused_rows(evidence: Evidence) -> pl.DataFrame:
    """One finding per table, venue, symbol and single reason of the quarantine, with its share of all rows there.

    A row with two reasons counts under both. `duplicate_key` is a note, anything else a defect. Blind to what an
    adapter never looked for.
    """
    by = ["table", "venue", "symbol", "reason"]
    split = evidence.quarantine.with_columns(pl.col("reason").str.split("; ")).explode("reason", empty_as_null=True)
    counted = split.group_by(by).agg(rows=pl.len().cast(pl.Int64), first=pl.col("ts").min(), last=pl.col("ts").max())
    held = evidence.days.group_by("table", "venue", "symbol").agg(held=pl.col("rows").sum())
    joined = counted.collect(engine="streaming").join(held, on=by[:3], how="left").sort(by)
    rows = []
    for row in joined.iter_rows(named=True):
        reason = row["reason"]
        said, mend = SAID.get(reason, (reason.replace("_", " "), "look the rows up in the table `quarantine`"))
        what = f"{row['rows']:,} rows refused as {reason}: {said}"
        if row["held"]:
            what += f" ({share(row['rows'], row['rows'] + row['held'])} of them)"
        if row["first"] is not None:
            what += f", from {clock(row['first'])} to {clock(row['last'])}"
        severity: Severity = "note" if reason == "duplicate_key" else "defect"
        key = row["venue"], row["symbol"]
        check = "duplicate rows" if reason == "duplicate_key" else "refused rows"
        span = row["first"], row["last"]
        rows.append(finding(severity, check, row["table"], key, span, rows=row["rows"], what=what, mend=mend))
    return findings(rows)
