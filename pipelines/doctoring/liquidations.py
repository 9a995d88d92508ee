"""What liquidation feeds leave out: one side, all but one order per second, small orders, or they repeat themselves."""

import math
from datetime import timedelta
from typing import Any

import polars as pl

from features.schema import VENUE_WIDE
from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import Severity, finding, findings, many, share

RECORDING_ENDS = timedelta(days=1)
ROWS_MIN = 100  # below it no share is known well enough
ALL_SHARE = 0.98  # a feed with one side missing; two-sided markets never come near it over 100 forced orders
MOST_SHARE = 0.6
DAY_ROWS_MIN = 20  # fewer say nothing about which side leads a day
CHANCE = 0.001  # that a fair coin gives one side so many of the days
# A feed that sends at most one order per symbol and second shows many pairs 1 to 2 s apart and none closer. Orders that
# come independently would be at least as dense below 1 s as above it.
THROTTLE_S = 1.0
CLOSE_SHARE_MAX = 0.01
PAIRS_MIN = 30  # with none below 1 s and 30 in the second above, chance has (1/2) ** 30
# Sizes of forced orders spread over four powers of ten. A floor that reaches half of the median is not a market.
FLOOR_OF_MEDIAN = 0.5
FLOOR_USD_MIN = 1_000.0  # a minimum order of a few dollars is not a floor that matters
REPEAT_SHARE = 0.05  # equal fills of one order happen; a twentieth of a feed is a recording that stands twice


def _feeds(evidence: Evidence) -> list[pl.DataFrame]:
    """Liquidations per venue and recording, in memory: a few dozen bytes for each forced order.

    A day without any ends a recording: two that one venue holds may have been captured in different ways.
    """
    rows = evidence.rows("liquidations")
    if rows is None:
        return []
    columns = ["venue", "symbol", "ts", "position_side", "qty", "price", "notional_usd"]
    held = rows.select(columns).collect(engine="streaming").sort("venue", "ts", "symbol")
    ends = (pl.col("ts").diff() >= RECORDING_ENDS).fill_null(True)
    numbered = held.with_columns(recording=ends.cum_sum().over("venue", order_by="ts"))
    return numbered.partition_by("venue", "recording", maintain_order=True)


def _row(check: str, severity: Severity, feed: pl.DataFrame, what: str, mend: str) -> dict[str, Any]:
    """A finding about all rows of `feed`."""
    key, span = (feed["venue"][0], VENUE_WIDE), (feed["ts"].min(), feed["ts"].max())
    return finding(severity, check, "liquidations", key, span, rows=feed.height, what=what, mend=mend)


def tail(heads: int, throws: int) -> float:
    """Probability that a fair coin shows one face at least `heads` times in `throws`, either face.

    >>> round(tail(14, 14), 6), tail(7, 14)
    (0.000122, 1.0)
    """
    return min(1.0, 2 * float(sum(math.comb(throws, k) for k in range(heads, throws + 1))) / float(2**throws))


def one_sided(evidence: Evidence) -> pl.DataFrame:
    """Feeds that show one side only, or lean to it day after day.

    Defect: 98 % of at least 100 rows on one side. Suspicion: at least 60 %, and that side leads on so many of the days
    with 20 rows that a fair coin would do so in 1 of 1000 cases. Blind below that, and a long trend of the market looks
    the same: compare with another venue.
    """
    told = [feed.filter(pl.col("position_side") != "unknown") for feed in _feeds(evidence)]
    found = [_side(feed) for feed in told if feed.height >= ROWS_MIN]
    return findings([row for row in found if row is not None])


def _side(feed: pl.DataFrame) -> dict[str, Any] | None:
    longs = feed.filter(pl.col("position_side") == "long").height / feed.height
    side, most = ("long", longs) if longs >= 0.5 else ("short", 1 - longs)
    mine = pl.col("position_side") == side
    daily = feed.group_by(pl.col("ts").dt.date()).agg(n=pl.len(), led=mine.mean() > 0.5)
    days = daily.filter(pl.col("n") >= DAY_ROWS_MIN)
    led = int(days["led"].sum())
    balance = f"{100 * most:.1f} % of {feed.height:,} liquidations are {side}s"
    said = f"{balance}, which lead on {led} of {many(days.height, 'day')}"
    mend = "do not read the balance of sides from it"
    if most >= ALL_SHARE:
        return _row("one-sided liquidations", "defect", feed, f"{said}: the other side is missing", mend)
    if most >= MOST_SHARE and tail(led, days.height) <= CHANCE:
        return _row("one-sided liquidations", "suspicion", feed, f"{said}: the feed leans to one side", mend)
    return None


def throttled(evidence: Evidence) -> pl.DataFrame:
    """Feeds that send at most one order per symbol and second.

    Gaps between different stamps of a symbol: at most 1 % as many below 1 s as within 1 to 2 s, of which there are at
    least 30. Blind to feeds too sparse for that.
    """
    rows = []
    for feed in _feeds(evidence):
        gap_s = (pl.col("ts").diff().over("symbol").dt.total_microseconds() / 1e6).alias("gap_s")
        gaps = feed.select("symbol", "ts").unique().sort("symbol", "ts").select(gap_s).drop_nulls()["gap_s"]
        below, above = int((gaps < THROTTLE_S).sum()), int(((gaps >= THROTTLE_S) & (gaps < 2 * THROTTLE_S)).sum())
        if above >= PAIRS_MIN and below <= CLOSE_SHARE_MAX * above:
            what = (
                f"orders of a symbol come 1 to 2 s apart {above:,} times and closer than 1 s {below} times: the feed "
                "sends at most one per symbol and second, the rest is lost"
            )
            mend = "counts and dollars are lower bounds, most so in a cascade"
            rows.append(_row("throttled liquidations", "defect", feed, what, mend))
    return findings(rows)


def merged(evidence: Evidence) -> pl.DataFrame:
    """Feeds without small orders: the first percentile of `notional_usd` is at least half of the median and 1,000 USD.

    Per venue and UTC day with 100 rows, so that a good recording beside a bad one does not hide it. Such records are
    several forced orders added up, or the small ones were left out; the rows do not say which.
    """
    rows = []
    for feed in _feeds(evidence):
        usd = pl.col("notional_usd")
        daily = feed.group_by(day=pl.col("ts").dt.date()).agg(n=pl.len(), floor=usd.quantile(0.01), median=usd.median())
        known = daily.filter(pl.col("n") >= ROWS_MIN)
        bad = known.filter(pl.col("floor") >= FLOOR_OF_MEDIAN * pl.col("median"), pl.col("floor") >= FLOOR_USD_MIN)
        if bad.height:
            mine = feed.filter(pl.col("ts").dt.date().is_in(bad["day"].implode()))
            low, floor, median = mine.select(low=usd.min(), floor=usd.quantile(0.01), median=usd.median()).row(0)
            what = (
                f"on {bad.height} of {many(known.height, 'day')} no record is below {low:,.0f} USD (1 % are below "
                f"{floor:,.0f}, half below {median:,.0f}): records add up forced orders, or small ones are left out"
            )
            mend = "count dollars, not records; nothing is known below the floor"
            rows.append(_row("merged liquidations", "suspicion", mine, what, mend))
    return findings(rows)


def repeated(evidence: Evidence) -> pl.DataFrame:
    """Liquidations equal in symbol, stamp, side, size and price: a recording that stands twice.

    Suspicion from 5 % of the feed on, else a note: several equal fills of one order look the same. Rows refused as
    `duplicate_key` are under `refused_rows`.
    """
    rows = []
    for feed in _feeds(evidence):
        content = ["symbol", "ts", "position_side", "qty", "price", "notional_usd"]
        again = feed.filter(~pl.struct(content).is_first_distinct())
        if again.height:
            part = share(again.height, feed.height)
            what = f"{again.height:,} of {feed.height:,} records ({part}) repeat another to the digit"
            severity: Severity = "suspicion" if again.height >= REPEAT_SHARE * feed.height else "note"
            mend = "if a file was recorded twice, ingest one of the two"
            rows.append(_row("repeated rows", severity, again, what, mend))
    return findings(rows)
