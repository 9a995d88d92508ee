"""Crossed and locked books, and books anchored away from where the market trades."""

from typing import Any

import polars as pl

from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings

# A resting order 2 % through the trades of the same minute would have been filled; no quote that is alive stands there,
# and a minute in which the market itself runs 2 % away is covered by taking the minute's high and low.
ANCHOR_SHARE = 0.02
ANCHOR_MINUTES = 5  # one or two minutes may be the edge of a crash


def crossed_quotes(evidence: Evidence) -> pl.DataFrame:
    """Quotes with bid > ask (crossed) or bid = ask (locked) that are in the lake. Refused ones: see `refused_rows`."""
    quotes = evidence.rows("quotes")
    if quotes is None:
        return findings([])
    bad = quotes.filter(pl.col("bid") >= pl.col("ask"))
    counted = bad.group_by("venue", "symbol").agg(
        rows=pl.len().cast(pl.Int64), locked=(pl.col("bid") == pl.col("ask")).sum(),
        first=pl.col("ts").min(), last=pl.col("ts").max(),
    )  # fmt: skip
    rows = []
    for row in counted.collect(engine="streaming").sort("venue", "symbol").iter_rows(named=True):
        what = f"{row['rows']:,} quotes have the bid at or above the ask, {row['locked']:,} of them equal"
        key, span = (row["venue"], row["symbol"]), (row["first"], row["last"])
        mend = "do not use quotes of this span"
        rows.append(finding("defect", "crossed quotes", "quotes", key, span, rows=row["rows"], what=what, mend=mend))
    return findings(rows)


def _crossed_messages(piece: pl.DataFrame) -> pl.DataFrame:
    resting = piece.filter(pl.col("qty") > 0)
    best = resting.group_by("ts", "seq").agg(
        bid=pl.col("price").filter(pl.col("side") == "bid").max(),
        ask=pl.col("price").filter(pl.col("side") == "ask").min(),
    )
    return best.filter(pl.col("bid") >= pl.col("ask")).select("ts")


def crossed_messages(evidence: Evidence) -> pl.DataFrame:
    """Messages of `book_levels` that restate a bid at or above an ask of the same message. No book is built here."""
    rows = []
    columns = ["ts", "seq", "side", "price", "qty"]
    for key in evidence.series("book_levels"):
        pieces = evidence.pieces("book_levels", key, columns, paired=False)
        found = pl.concat([pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC")}), *map(_crossed_messages, pieces)])
        if found.height:
            what = (
                f"{found.height:,} messages restate a bid at or above an ask; the first at {clock(found['ts'].min())}"
            )
            mend = "doubt the book from there to the next snapshot"
            span = found["ts"].min(), found["ts"].max()
            rows.append(
                finding("defect", "crossed book", "book_levels", key, span, rows=found.height, what=what, mend=mend)
            )
    return findings(rows)


# --- anchored away from the market -----------------------------------------------------------------------------------

MINUTE = ("venue", "symbol", "minute")


def _by_minute(rows: pl.LazyFrame, low: pl.Expr, high: pl.Expr) -> pl.LazyFrame:
    return rows.group_by("venue", "symbol", minute=pl.col("ts").dt.truncate("1m")).agg(
        low=low, high=high, rows=pl.len().cast(pl.Int64)
    )


def _book_by_minute(table: str, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Lowest ask and highest bid of every minute."""
    if table == "quotes":
        return _by_minute(rows, pl.col("ask").min(), pl.col("bid").max())
    ask, bid = pl.col("side") == "ask", pl.col("side") == "bid"
    resting = rows.filter(pl.col("qty") > 0)
    return _by_minute(resting, pl.col("price").filter(ask).min(), pl.col("price").filter(bid).max())


def _anchored(table: str, key: tuple[str, str], side: str, found: pl.DataFrame, minutes: int) -> dict[str, Any]:
    worst = found.sort("away").row(-1, named=True)
    where = "above the highest" if side == "bid" else "below the lowest"
    what = (
        f"in {found.height:,} of {minutes:,} minutes a {side} rests more than {ANCHOR_SHARE:.0%} {where} trade of the "
        f"minute, by up to {worst['away']:.1%} (at {clock(worst['minute'])}): a ghost that was never removed"
    )
    mend = "do not use this side; start the book again from a snapshot"
    span = found["minute"].min(), found["minute"].max()
    return finding("defect", "anchored book", table, key, span, rows=found.height, what=what, mend=mend)


def anchored_books(evidence: Evidence) -> pl.DataFrame:
    """Bids over 2 % above the minute's highest trade, asks over 2 % below its lowest, in at least 5 minutes.

    For `quotes` and `book_levels` against `trades` of the same symbol. Blind in minutes without trades, for prices away
    from the touch on the right side, and for `book_depth`, which carries no price (see `refused_rows`, `frozen`).
    """
    trades = evidence.rows("trades")
    if trades is None:
        return findings([])
    market = _by_minute(trades, pl.col("price").min(), pl.col("price").max()).rename(
        {"low": "lowest", "high": "highest"}
    )
    rows = []
    for table in ("quotes", "book_levels"):
        book = evidence.rows(table)
        if book is None:
            continue
        joined = _book_by_minute(table, book).join(market, on=MINUTE).collect(engine="streaming").sort(MINUTE)
        away = {"bid": pl.col("high") / pl.col("highest") - 1, "ask": 1 - pl.col("low") / pl.col("lowest")}
        for group in joined.partition_by("venue", "symbol", maintain_order=True):
            for side, distance in away.items():
                found = group.with_columns(away=distance).filter(pl.col("away") > ANCHOR_SHARE)
                if found.height >= ANCHOR_MINUTES:
                    key = group["venue"][0], group["symbol"][0]
                    rows.append(_anchored(table, key, side, found, group.height))
    return findings(rows)
