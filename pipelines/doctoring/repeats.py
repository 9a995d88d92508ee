"""Order events that stand twice."""

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, share

CONTENT = ("ts", "order_id", "event", "side", "price", "qty")


def repeated_events(evidence: Evidence) -> pl.DataFrame:
    """Order-level events (with `order_id`) equal to another in all but their sequence number: nothing happens twice to
    an order at one moment. Blind to L2 feeds, where two changes of a level may look alike.
    """
    rows = []
    for key in evidence.series("book_events"):
        again, total = pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC")}), 0
        ordered = pl.col("order_id").is_not_null()
        for piece in evidence.pieces("book_events", key, CONTENT, where=ordered, paired=False):
            again = pl.concat([again, piece.filter(~pl.struct(CONTENT).is_first_distinct()).select("ts")])
            total += piece.height
        if again.height:
            part, first = share(again.height, total), clock(again["ts"].min())
            what = f"{again.height:,} of {total:,} order events ({part}) repeat another; the first at {first}"
            mend = "take the event once: a cancel counted twice empties the book twice"
            span = again["ts"].min(), again["ts"].max()
            rows.append(
                finding("defect", "repeated rows", "book_events", key, span, rows=again.height, what=what, mend=mend)
            )
    return findings(rows)
