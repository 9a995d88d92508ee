"""Step `features --html`: which family of features was unusual, where and since when, as one page.

How unusual is told by the detector's own measure, fitted on what the lake holds before the interval: the surprise of a
family is -log10 of a tail probability, corrected for the number of its features. 2 is one bar in a hundred.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features.catalogue import FAMILIES, FAMILY_OF, TAILS, WATCHED
from features.faults import INPUTS
from models.detector import Detector, fit_detector
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import FeaturesSummary, read_matrix
from pipelines.pages import write_page
from pipelines.reporting.features_page import render
from pipelines.times import Interval

REFERENCE_MAX = timedelta(days=14)
REFERENCE_BARS_MIN = 240  # of a venue; less is no reference
UNUSUAL = 2.0  # surprise: one bar in a hundred
SUSTAINED, WITHIN = 3, 5  # bars that must be unusual, of as many
KEY = ["venue", "symbol", "ts"]


@dataclass(frozen=True)
class PageSummary:
    page: str
    reference: str
    interval: str
    unusual: list[dict[str, Any]]  # symbol, family, since, feature, value; the first of each symbol and family
    share_unusual: dict[str, dict[str, float | None]]  # family -> reference, interval: share of bars with surprise >= 2


def reference_of(venue: str, interval: Interval, held: Interval) -> Interval:
    """What defines normal: all that the lake holds before `interval`, at most REFERENCE_MAX.

    `held` is all data of the venue. Raises InputError where nothing lies before.
    """
    first = max(held.start, interval.start - REFERENCE_MAX)
    if not first < interval.start:
        raise InputError(
            "the lake holds nothing before the interval, so that nothing says what is normal",
            where=f"{venue} {interval}",
            mend="give a later --from",
        )
    return Interval(first, interval.start)


def fitted(reference: pl.DataFrame, config: Config, span: Interval) -> Detector:
    """The detector of a reference. Raises InputError where that holds too few bars."""
    bars = reference["ts"].n_unique() if reference.height else 0
    if bars < REFERENCE_BARS_MIN:
        raise InputError(
            f"the reference holds {bars} bars, fewer than {REFERENCE_BARS_MIN}",
            where=str(span),
            mend="give a later --from",
        )
    return fit_detector(
        reference,
        WATCHED,
        TAILS,
        null_share_max=config.detector.null_share_max,
        budget_per_symbol_day=config.detector.budget_episodes_per_symbol_day,
        refractory_min=config.detector.refractory_min,
    )


def surprises(detector: Detector, matrix: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, ts, family, surprise, lead` of every symbol, bar and family of the detector."""
    scored = detector.score(matrix).filter(pl.col("symbol") != "*")
    parts = [
        scored.select(
            *KEY,
            family=pl.lit(family),
            surprise=pl.col(f"family_{family}"),
            lead=pl.col(f"lead_{family}").cast(pl.String),
        )
        for family in detector.families
    ]
    return pl.concat(parts)


def first_unusual(told: pl.DataFrame, matrix: pl.DataFrame) -> pl.DataFrame:
    """The first bar of each symbol and family at which SUSTAINED of the last WITHIN bars are unusual.

    Returns `symbol, family, since, feature, value`, the value of the family's leading feature at that bar.
    """
    hot = (pl.col("surprise") >= UNUSUAL).fill_null(value=False)
    count = hot.cast(pl.Int64).rolling_sum(WITHIN, min_samples=1).over("symbol", "family")
    first = (
        told.sort("symbol", "family", "ts")
        .with_columns(sustained=hot & (count >= SUSTAINED))
        .filter("sustained")
        .group_by("symbol", "family", maintain_order=True)
        .first()
    )
    names = [name for name in matrix.columns if name in FAMILY_OF]
    seen = matrix.join(first.select("symbol", "ts"), on=["symbol", "ts"], how="semi").unpivot(
        names, index=["symbol", "ts"], variable_name="lead", value_name="value"
    )
    joined = first.join(seen, on=["symbol", "ts", "lead"], how="left")
    return joined.select(
        "symbol", "family", pl.col("ts").alias("since"), pl.col("lead").alias("feature"), "value"
    ).sort("since", "symbol", "family")


def share_unusual(told: pl.DataFrame) -> dict[str, float | None]:
    """Family -> share of the bars with a surprise for which it is UNUSUAL; null where none has one."""
    shares = told.group_by("family").agg((pl.col("surprise") >= UNUSUAL).mean().alias("share"))
    found = dict(shares.iter_rows())
    return {family: found.get(family) for family in FAMILIES}


def hourly(told: pl.DataFrame) -> pl.DataFrame:
    """`hour, family, share`: share of unusual bars by hour."""
    hour = (pl.col("ts") - pl.duration(microseconds=1)).dt.truncate("1h").alias("hour")
    return (
        told.group_by(hour, "family").agg((pl.col("surprise") >= UNUSUAL).mean().alias("share")).sort("hour", "family")
    )


def faults(lake: Lake, venue: str, interval: Interval) -> list[dict[str, Any]]:
    """Per input, the share of bars with each fault."""
    health = lake.scan("feature_health", venue, interval.start, interval.end).collect()
    rows = []
    for name in INPUTS:
        column = health[f"{name.replace(' ', '_')}_fault"]
        shares = {} if health.is_empty() else dict(column.drop_nulls().value_counts(normalize=False).iter_rows())
        rows.append(
            {"input": name, "faults": {fault: count / health.height for fault, count in sorted(shares.items())}}
        )
    return rows


def build_page(
    lake: Lake, summary: FeaturesSummary, interval: Interval, reference: Interval, config: Config, *, page: Path
) -> PageSummary:
    """Read the matrix of reference and interval, judge, and write the page in one piece."""
    venue = summary.venue
    before, shown = read_matrix(lake, venue, reference), read_matrix(lake, venue, interval)
    detector = fitted(before, config, reference)
    told = surprises(detector, shown)
    first = first_unusual(told, shown)
    shares = {"reference": share_unusual(surprises(detector, before)), "interval": share_unusual(told)}
    text = render(
        venue=venue,
        reference=str(reference),
        interval=str(interval),
        told=told,
        first=first,
        shares=shares,
        hours=hourly(told),
        faults=faults(lake, venue, interval),
        reasons=summary.null_reasons,
        families={family: [one.name for one in members] for family, members in FAMILIES.items()},
        used={norm.name for norm in detector.norms},
    )
    write_page(page, text, "--html")
    return PageSummary(
        page=str(page),
        reference=str(reference),
        interval=str(interval),
        unusual=first.with_columns(pl.col("since").dt.strftime("%Y-%m-%dT%H:%MZ")).to_dicts(),
        share_unusual={
            family: {"reference": shares["reference"][family], "interval": shares["interval"][family]}
            for family in FAMILIES
        },
    )
