"""Sizes in contracts or in dollars where they should be in base units, seen by comparing venues."""

from typing import Any

import numpy as np
import polars as pl

from pipelines.doctoring.bases import bases
from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import finding, findings

# A venue's share of the market differs from asset to asset, by a factor of 140 in the widest case seen (a young venue,
# BTC against DOGE). Contract sizes differ between assets by 100,000 (0.01 BTC, 1,000 DOGE), prices by 1,000,000.
SPREAD_TIMES = 1000.0
ALONE_TIMES = 10_000.0  # a venue with one common asset: no venue trades 10,000 times the median of the others
DAYS_MIN = 3
# What is compared per venue and base: table, the day's figure, how days become one.
MEASURES: tuple[tuple[str, pl.Expr, str], ...] = (
    ("candles", pl.col("volume").sum() / (pl.col("interval_s").n_unique()), "volume"),
    ("trades", pl.col("qty").sum(), "qty"),
    ("open_interest", pl.col("oi_base").mean(), "oi_base"),
    ("liquidations", pl.col("notional_usd").mean(), "notional_usd"),
)
FACTORS = pl.Schema({"venue": pl.String(), "base": pl.String(), "times": pl.Float64(), "others": pl.Int64()})


def _daily(rows: pl.LazyFrame, figure: pl.Expr, known: pl.DataFrame) -> pl.DataFrame:
    daily = rows.group_by("venue", "symbol", day=pl.col("ts").dt.date()).agg(figure=figure.cast(pl.Float64))
    based = daily.collect(engine="streaming").join(known.select("venue", "symbol", "base"), on=["venue", "symbol"])
    return based.group_by("venue", "base", "day").agg(pl.col("figure").sum()).filter(pl.col("figure") > 0)


def factors(daily: pl.DataFrame) -> pl.DataFrame:
    """`times`: per venue and base the median over days of its figure over the median of the other venues' that day."""
    rows: list[dict[str, Any]] = []
    for group in daily.partition_by("base", maintain_order=True):
        for venue in sorted(group["venue"].unique()):
            others = (
                group.filter(pl.col("venue") != venue)
                .group_by("day")
                .agg(other=pl.col("figure").median(), venues=pl.len().cast(pl.Int64))
            )
            joined = group.filter(pl.col("venue") == venue).join(others, on="day")
            if joined.height >= DAYS_MIN:
                times = joined.select((pl.col("figure") / pl.col("other")).median()).item()
                rows.append(
                    {"venue": venue, "base": group["base"][0], "times": times, "others": joined["venues"].max()}
                )
    return pl.DataFrame(rows, schema=FACTORS)


def _finding(table: str, column: str, group: pl.DataFrame, span: tuple[Any, Any], rows: int) -> dict[str, Any] | None:
    ordered = group.sort("times", descending=True)
    high, low = ordered.row(0, named=True), ordered.row(-1, named=True)
    spread = high["times"] / low["times"]
    if (group.height > 1 and spread < SPREAD_TIMES) or (group.height == 1 and high["times"] < ALONE_TIMES):
        return None
    said = ", ".join(f"{base} {times:,.2g} x" for base, times in ordered.select("base", "times").iter_rows())
    what = f"`{column}` against the other venues: {said}"
    what += f", {spread:,.0f} times apart" if group.height > 1 else ""
    what += ": sizes are in contracts (or dollars), not in base units"
    mend = "give the contract size per symbol and ingest again"
    return finding("suspicion", "size units", table, (group["venue"][0], "*"), span, rows=rows, what=what, mend=mend)


def _culprits(compared: pl.DataFrame) -> list[pl.DataFrame]:
    """Venues by the spread of their factors, the widest first; each is compared again without those before it.

    A venue in wrong units moves the median that the others are held against, so it must leave before they are judged.
    """
    groups = compared.partition_by("venue", maintain_order=True)
    return sorted(groups, key=lambda group: -_spread(group))


def _spread(group: pl.DataFrame) -> float:
    times = group["times"].to_numpy()
    return float(times.max() / times.min()) if times.size > 1 else float(times.max() / np.sqrt(ALONE_TIMES))


def size_units(evidence: Evidence) -> pl.DataFrame:
    """Venues whose sizes against the other venues differ by 1,000 x and more between assets.

        times[venue, base] = median over days of figure[venue, base, day] / median(figure[other, base, day])

    figure: the day's candle volume, traded qty, mean `oi_base`, mean dollars of a liquidation. A venue's share of the
    market is its own, but it is about the same for every asset; the size of a contract, or the price, is not. A venue
    with one asset in common is flagged from 10,000 x on. The worst venue leaves before the next is judged. With two
    venues it says that they differ, not who is wrong. Blind where contract sizes are alike.
    """
    known = bases(evidence.days, evidence.instruments)
    known = known.vstack(_liquidation_symbols(evidence, known))
    rows = []
    for table, figure, column in MEASURES:
        held = evidence.rows(table)
        if held is None:
            continue
        daily = _daily(held, figure, known)
        while daily["venue"].n_unique() > 1:
            groups = _culprits(factors(daily))
            days = evidence.days.filter(pl.col("table") == table)
            mine = days.filter(pl.col("venue") == groups[0]["venue"][0]) if groups else days
            span = mine["first"].min(), mine["last"].max()
            found = _finding(table, column, groups[0], span, int(mine["rows"].sum())) if groups else None
            if found is None:
                break
            rows.append(found)
            daily = daily.filter(pl.col("venue") != found["venue"])
    return findings(rows)


def _liquidation_symbols(evidence: Evidence, known: pl.DataFrame) -> pl.DataFrame:
    """Symbols that only the liquidations name: their days are counted venue-wide."""
    rows = evidence.rows("liquidations")
    if rows is None:
        return known.clear()
    held = rows.select("venue", "symbol").unique().collect(engine="streaming")
    named = bases(held, evidence.instruments)
    return named.join(known, on=["venue", "symbol"], how="anti").select(known.columns)
