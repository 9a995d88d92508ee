"""Step `labels --html`: every cascade of the past to look at, the most severe ones drawn."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from features.labels import EVENT_SCHEMA
from pipelines.config import Config
from pipelines.labels import LabelSummary, clusters
from pipelines.lake import Lake
from pipelines.pages import write_page
from pipelines.reporting.labels_page import SHOWN_MAX, render_labels

AROUND = timedelta(hours=2)  # before the onset and after the end
MEANINGS = {
    "oi_flush": "open interest falls by at least {fall_pct:g} % within {window_min} min, with a return beyond "
    "{sigmas:g} sigmas",
    "liq_share": "at least {fall_pct:g} % of open interest is liquidated within {window_min} min, with a return beyond "
    "{sigmas:g} sigmas",
    "liq_burst": "more is liquidated within {window_min} min than the {quantile:g} quantile of the day before, and "
    "{floor_usd:,.0f} USD at least; severity in percent of the larger",
    "adl": "positions are deleveraged, or {fall_pct:g} % of the insurance fund is gone within {window_min} min while "
    "the symbol is liquidated; severity in percent of open interest or of the fund",
}


def write_labels(lake: Lake, found: LabelSummary, config: Config, page: Path) -> str:
    """The page of one venue's cascades; returns where it lies. A cluster's onsets lie within the label's window."""
    chosen = config.label
    told = clusters(pl.DataFrame(found.events, schema=EVENT_SCHEMA), timedelta(minutes=chosen.window_min))
    worst = told.with_row_index("number").sort(["severity", "onset"], descending=[True, False])["number"][:SHOWN_MAX]
    bars = {number: _around(lake, found.venue, told.row(number, named=True)) for number in sorted(worst)}
    meaning = MEANINGS[found.label].format_map(chosen.model_dump())
    text = render_labels(
        told,
        bars,
        headline=f"{found.venue}: {found.cascades} cascades by {found.label} v{found.version}, {found.interval}",
        definition=f"{meaning}; the label could judge {100 * found.judged_share:.1f} % of the bars",
        before=AROUND,
    )
    write_page(page, text, "--html")
    return str(page)


def _around(lake: Lake, venue: str, event: dict) -> pl.DataFrame:  # type: ignore[type-arg]  # a row of events
    span = (event["onset"] - AROUND, event["end"] + AROUND)
    bars = lake.scan("bars", venue, *span, symbol=event["symbol"]).filter(pl.col("symbol") == event["symbol"])
    return bars.select("ts", "close", "oi_base").sort("ts").collect()
