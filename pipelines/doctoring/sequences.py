"""Sequence gaps of L2 feeds: a message that does not follow the one before."""

from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, many, share

SAID = (
    ("lost", "do not follow the one before: messages between were lost"),
    ("back", "carry a lower sequence number than the one before"),
)


def _breaks(piece: pl.DataFrame) -> pl.DataFrame:
    """Messages of a piece that break the chain, and (first row) how many pairs of messages it holds."""
    message = (pl.col("ts") != pl.col("ts").shift()) | (pl.col("seq") != pl.col("seq").shift())
    first = piece.filter(message.fill_null(True))
    before = pl.col("seq").shift()
    pairs = first.select(
        "ts", lost=(pl.col("seq_before") != before).fill_null(False), back=(pl.col("seq") < before).fill_null(False)
    )
    return pairs.with_columns(messages=pl.lit(pairs.height - 1, pl.Int64)).filter(
        pl.col("lost") | pl.col("back") | (pl.int_range(pl.len()) == 0)
    )


def sequence_gaps(evidence: Evidence) -> pl.DataFrame:
    """Messages of `book_levels` whose `seq_before` is not the `seq` of the message before, in the order of `ts, seq`.

    Snapshots stand outside the chain. Also messages whose `seq` is lower than that of the one before. Blind where the
    source sends no `seq_before`.
    """
    rows = []
    columns = ["ts", "seq", "seq_before"]
    for key in evidence.series("book_levels"):
        pieces = evidence.pieces("book_levels", key, columns, then=["seq"], where=~pl.col("snapshot"))
        parts = [_breaks(piece) for piece in pieces]
        if parts:
            messages = 1 + sum(int(part["messages"][0]) for part in parts)
            broken = pl.concat(parts)
            rows += [_gaps(key, broken.filter(name), messages, said) for name, said in SAID if broken[name].any()]
    return findings(rows)


def _gaps(key: tuple[str, str], found: pl.DataFrame, messages: int, said: str) -> dict[str, Any]:
    part, first, last = share(found.height, messages), found["ts"].min(), found["ts"].max()
    what = f"{found.height:,} of {many(messages, 'message')} ({part}) {said}; the first at {clock(first)}"
    mend = "doubt the book from there to the next snapshot"
    rows = found.height
    return finding("defect", "sequence gaps", "book_levels", key, (first, last), rows=rows, what=what, mend=mend)
