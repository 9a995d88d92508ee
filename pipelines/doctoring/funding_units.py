"""Funding in other units than the rest of the market, or with an interval that its own stamps contradict."""

from typing import Any

import polars as pl

from features.schema import VENUE_WIDE
from pipelines.doctoring.bases import bases
from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import clock, finding, findings, lasting, many

# Units go wrong by 8 (per hour for per 8 h), 10 or 100 (percent). Venues pay funding of the same asset within a factor
# of three of each other, as arbitrage between them is open to all; five lies between.
OFF_TIMES = 5.0
ROWS_MIN = 30  # ten days of 8-hour funding
SAME_INTERVAL = 1.25  # intervals a venue uses differ by 2 at least (1, 2, 4, 8 h)
FACTORS = pl.Schema({"venue": pl.String(), "base": pl.String(), "times": pl.Float64(), "others": pl.Int64()})
HINTS = ((100.0, "percent taken as a share"), (8.0, "a rate per other interval"), (10.0, "a rate in tenths"))


def _hint(times: float) -> str:
    """What the nearest usual mistake is, in ratio.

    >>> _hint(96.0), _hint(0.12), _hint(9.6)
    ('percent taken as a share', 'a rate per other interval', 'a rate in tenths')
    """
    size = max(times, 1 / times)
    return min(HINTS, key=lambda hint: abs(size / hint[0] - 1))[1]


def _sizes(evidence: Evidence, funding: pl.LazyFrame) -> pl.DataFrame:
    """`venue, symbol, day, size, rows, base`: the mean size of a day's hourly rate.

    Where `interval_h` contradicts the spacing, the spacing counts: `funding_interval` says so, and once is enough.
    """
    known = bases(evidence.days, evidence.instruments).select("venue", "symbol", "base")
    spaced = evidence.spacings.filter(pl.col("table") == "funding").select(
        "venue", "symbol", hours=pl.col("step_s") / 3600
    )
    daily = funding.group_by("venue", "symbol", "interval_h", day=pl.col("ts").dt.date()).agg(
        size=pl.col("rate").abs().mean(), rows=pl.len()
    )
    joined = daily.collect(engine="streaming").join(known, on=["venue", "symbol"]).join(spaced, on=["venue", "symbol"])
    apart = pl.col("hours") / pl.col("interval_h")
    agree = apart.is_null() | apart.is_between(1 / SAME_INTERVAL, SAME_INTERVAL)
    hours = pl.when(agree).then("interval_h").otherwise("hours")
    return joined.with_columns(size=pl.col("size") / hours)


def off_market(sizes: pl.DataFrame) -> pl.DataFrame:
    """A venue's hourly rate over the median of the other venues' on its days.

    size[venue]  = 75th percentile over days of mean |rate / interval_h|
    times[venue] = size[venue] / median(size[other] over the same days)
    """
    rows: list[dict[str, Any]] = []
    for group in sizes.partition_by("base", maintain_order=True):
        for venue in sorted(group["venue"].unique()):
            mine = group.filter(pl.col("venue") == venue)
            others = group.filter(pl.col("venue") != venue).join(mine.select("day").unique(), on="day", how="semi")
            other = (
                others.group_by("venue").agg(pl.col("size").quantile(0.75), days=pl.len()).filter(pl.col("days") >= 5)
            )
            own, median = mine["size"].quantile(0.75), other["size"].median()
            if mine["rows"].sum() >= ROWS_MIN and own and isinstance(median, float) and median > 0:
                row = {"venue": venue, "base": group["base"][0], "times": own / median, "others": other.height}
                rows.append(row)
    return pl.DataFrame(rows, schema=FACTORS)


def funding_units(evidence: Evidence) -> pl.DataFrame:
    """A venue whose hourly funding is 5 x or 1/5 of the other venues', in the median over the assets they share.

    The unit belongs to the feed, so one finding per venue, and one odd asset alone (funding of a thin market can be
    anything) is none, unless it is the only one. The worst venue leaves before the next is judged, because it moves the
    median. With two venues it says that they differ, not who is wrong.
    """
    funding = evidence.rows("funding")
    if funding is None:
        return findings([])
    sizes, rows = _sizes(evidence, funding), []
    while sizes["venue"].n_unique() > 1:
        compared = off_market(sizes)
        venues = compared.group_by("venue").agg(pl.col("times").median(), pl.col("others").max())
        worst = venues.sort(pl.col("times").log().abs(), "venue", descending=[True, False]).head(1)
        if worst.is_empty() or 1 / OFF_TIMES < worst["times"][0] < OFF_TIMES:
            break
        rows.append(_units(evidence, worst.row(0, named=True), compared))
        sizes = sizes.filter(pl.col("venue") != worst["venue"][0])
    return findings(rows)


def _units(evidence: Evidence, worst: dict[str, Any], compared: pl.DataFrame) -> dict[str, Any]:
    venue, times = worst["venue"], worst["times"]
    mine = compared.filter(pl.col("venue") == venue).sort("base").select("base", "times")
    said = ", ".join(f"{base} {factor:,.3g} x" for base, factor in mine.iter_rows())
    what = (
        f"funding per hour is {times:,.3g} x that of {many(worst['others'], 'other venue')} ({said}): looks like "
        f"{_hint(times)}"
    )
    days = evidence.days.filter(pl.col("table") == "funding", pl.col("venue") == venue)
    span, rows = (days["first"].min(), days["last"].max()), int(days["rows"].sum())
    mend = "set the unit in the mapping and ingest again"
    return finding("suspicion", "funding units", "funding", (venue, VENUE_WIDE), span, rows=rows, what=what, mend=mend)


def funding_interval(evidence: Evidence) -> pl.DataFrame:
    """Series whose `interval_h` is not their spacing: median gap over median `interval_h` off by more than 25 %.

    A rate per 8 hours that is read as one per hour is eight times too large in every feature. Blind to a venue that
    publishes a running rate more often than it is paid, which looks the same: hence a suspicion.
    """
    funding = evidence.rows("funding")
    if funding is None:
        return findings([])
    stated = funding.group_by("venue", "symbol").agg(hours=pl.col("interval_h").mean()).collect()
    spaced = evidence.spacings.filter(pl.col("table") == "funding", pl.col("step_s").is_not_null())
    rows = []
    for row in spaced.join(stated, on=["venue", "symbol"]).sort("venue", "symbol").iter_rows(named=True):
        times = row["step_s"] / 3600 / row["hours"]
        if not 1 / SAME_INTERVAL < times < SAME_INTERVAL:
            what = (
                f"`interval_h` says {row['hours']:g} h, the rows stand {lasting(row['step_s'])} apart, "
                f"{clock(row['first'])} to {clock(row['last'])}"
            )
            key, span = (row["venue"], row["symbol"]), (row["first"], row["last"])
            mend = "state the interval the rate is for"
            rows.append(
                finding("suspicion", "funding interval", "funding", key, span, rows=row["stamps"], what=what, mend=mend)
            )
    return findings(rows)
