"""Step `labels`: bars -> the cascades of the past, by the label of the settings."""

import inspect
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from features.labels import LABELS, VERSIONS, events
from pipelines.config import Config, LabelConfig
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import LOOKBACK
from pipelines.times import Interval
from pipelines.venue_truth import with_truth


@dataclass(frozen=True)
class LabelSummary:
    """`clusters`: cascades of several symbols that began together, `onset, end, symbols, events`, by onset."""

    venue: str
    interval: str
    label: str
    version: int  # of the label's definition
    cascades: int
    judged_share: float  # of symbol minutes in which the label could say yes or no
    events: list[dict[str, Any]]
    clusters: list[dict[str, Any]]

    def sentence(self) -> str:
        head = f"{self.venue}: {self.cascades} cascades by {self.label} v{self.version}, {self.interval}"
        rows = [
            f"  {row['onset']:%Y-%m-%dT%H:%MZ} .. {row['end']:%H:%MZ} {row['symbol']:<16} {row['severity']:.1f} %"
            for row in self.events
        ]
        wide = [
            f"  together: {', '.join(one['symbols'])}, {one['onset']:%Y-%m-%dT%H:%MZ} .. {one['end']:%H:%MZ}"
            for one in self.clusters
        ]
        return "\n".join([head, *rows, *wide])


def labelled_by(config: Config, label: str | None) -> Config:
    """The settings with another label. None: as they are."""
    if label is None:
        return config
    return config.model_copy(update={"label": config.label.model_copy(update={"name": label})})


def parameters(chosen: LabelConfig) -> dict[str, Any]:
    """The settings that the chosen label reads, by name."""
    asked = inspect.signature(LABELS[chosen.name]).parameters
    return {name: value for name, value in chosen.model_dump().items() if name in asked}


def label_flags(lake: Lake, venue: str, interval: Interval, config: Config) -> pl.DataFrame:
    """The label's flag for every bar of `interval`; null where it cannot tell. Needs bars."""
    chosen, bar_s = config.label, config.bars.interval_s
    bars = lake.scan("bars", venue, interval.start - LOOKBACK, interval.end).collect()
    if bars.is_empty():
        raise InputError("no bars to label", where=f"{venue} {interval}", mend="run `cascadeguard features` first")
    if chosen.name == "adl":
        bars = with_truth(bars, lake, venue, bar_s=bar_s, fund_account=chosen.fund_account)
    try:
        flags = LABELS[chosen.name](bars, **parameters(chosen), bar_s=bar_s)
    except ValueError as error:
        raise InputError(str(error), where="`[label]`", mend="state `window_min` in whole bars") from None
    return flags.filter(pl.col("ts") > interval.start)


def clusters(events: pl.DataFrame, gap: timedelta) -> pl.DataFrame:
    """`events` with `cluster`: the number, from 1, of the chain of onsets at most `gap` apart that holds several
    symbols; null for an event that stands alone. `symbols`: how many there are in the chain."""
    chained = events.sort("onset", "symbol").with_columns(
        chain=(pl.col("onset").diff() > gap).fill_null(True).cum_sum()
    )
    counted = chained.with_columns(symbols=pl.col("symbol").n_unique().over("chain"))
    wide = pl.when(pl.col("symbols") > 1).then(pl.col("chain"))
    return counted.with_columns(cluster=wide.rank("dense").cast(pl.Int64)).drop("chain")


def _told(found: pl.DataFrame, gap: timedelta) -> list[dict[str, Any]]:
    """The clusters of events, one row each."""
    wide = clusters(found, gap).filter(pl.col("cluster").is_not_null())
    together = wide.group_by("cluster", maintain_order=True).agg(
        pl.col("onset").min(), pl.col("end").max(), pl.col("symbol").unique().sort().alias("symbols"), events=pl.len()
    )
    return together.drop("cluster").to_dicts()


def label_events(lake: Lake, venue: str, interval: Interval, config: Config) -> LabelSummary:
    """The cascades of `interval`: `symbol, onset, end, label, severity`, sorted by onset."""
    flags = label_flags(lake, venue, interval, config)
    found = events(flags, config.label.refractory_min).sort("onset", "symbol")
    judged = 1 - flags["flag"].null_count() / flags.height
    name, told = config.label.name, _told(found, timedelta(minutes=config.label.window_min))
    return LabelSummary(venue, str(interval), name, VERSIONS[name], found.height, judged, found.to_dicts(), told)
