"""What only a venue knows: dollars deleveraged in each bar, and what the insurance fund held at its end."""

from datetime import datetime, timedelta

import polars as pl

from features.bars import bar_end
from pipelines.guard import PRICE_AGE_MAX, priced_collateral
from pipelines.lake import Lake

FUND_AGE_MAX = timedelta(days=1)  # funds are published at least daily


def with_truth(bars: pl.DataFrame, lake: Lake, venue: str, *, bar_s: int, fund_account: str) -> pl.DataFrame:
    """`bars` of one venue, not empty, with `adl_usd` and `fund_usd`.

    adl_usd: notional of liquidations whose path is `adl`, in the bar. Null in bars without a liquidation feed, and in
    all of them where the feed tells no path. fund_usd: the collateral of `fund_account`, as it was last known; null
    where it is older than FUND_AGE_MAX or an asset of it has no price.
    """
    start: datetime = bars["ts"].min()  # type: ignore[assignment]  # a datetime: the table is not empty
    end: datetime = bars["ts"].max()  # type: ignore[assignment]
    since = start - timedelta(seconds=bar_s)
    forced = lake.scan("liquidations", venue, since, end).filter(pl.col("path") != "unknown")
    told = forced.select("symbol", "path", "notional_usd", ts=bar_end("ts", bar_s)).collect()
    closed = told.filter(path="adl").group_by("symbol", "ts").agg(adl_usd=pl.col("notional_usd").sum())
    joined = bars.join(closed, on=["symbol", "ts"], how="left", maintain_order="left")
    published = pl.col("liq_long_usd").is_not_null() & pl.lit(not told.is_empty())
    fund = _fund(lake, venue, since - FUND_AGE_MAX, end, fund_account)
    return joined.with_columns(pl.when(published).then(pl.col("adl_usd").fill_null(0.0))).join(
        _as_of(bars, fund), on="ts", how="left", maintain_order="left"
    )


def _fund(lake: Lake, venue: str, start: datetime, end: datetime, account: str) -> pl.DataFrame:
    """`known_at, fund_usd` of every snapshot of the fund."""
    own = lake.scan("collateral", venue, start, end).filter(account=account).collect()
    marks = lake.scan("marks", venue, start - PRICE_AGE_MAX, end)
    priced = priced_collateral(own, marks, lake.scan("instruments", venue))
    usd = pl.col("amount") * pl.col("price_usd")
    snapshots = priced.group_by("ts").agg(
        pl.col("known_at").max(), fund_usd=pl.when(usd.is_not_null().all()).then(usd.sum())
    )
    return snapshots.sort("known_at", "ts").select("known_at", "fund_usd")


def _as_of(bars: pl.DataFrame, fund: pl.DataFrame) -> pl.DataFrame:
    ends = bars.select(pl.col("ts").unique().sort())
    joined = ends.join_asof(fund, left_on="ts", right_on="known_at", tolerance=FUND_AGE_MAX)
    return joined.select("ts", "fund_usd")
