"""Step `labels`: bars -> the cascades of the past, by the label of the settings."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from features.labels import LABELS, events
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import LOOKBACK
from pipelines.times import Interval


@dataclass(frozen=True)
class LabelSummary:
    venue: str
    interval: str
    label: str
    cascades: int
    judged_share: float  # of symbol minutes in which the label could say yes or no
    events: list[dict[str, Any]]

    def sentence(self) -> str:
        head = f"{self.venue}: {self.cascades} cascades by {self.label}, {self.interval}"
        rows = [
            f"  {row['onset']:%Y-%m-%dT%H:%MZ} .. {row['end']:%H:%MZ} {row['symbol']:<16} {row['severity']:.1f} %"
            for row in self.events
        ]
        return "\n".join([head, *rows])


def label_flags(lake: Lake, venue: str, interval: Interval, config: Config) -> pl.DataFrame:
    """The label's flag for every bar of `interval`; null where it cannot tell. Needs bars."""
    chosen = config.label
    bars = lake.scan("bars", venue, interval.start - LOOKBACK, interval.end).collect()
    if bars.is_empty():
        raise InputError("no bars to label", where=f"{venue} {interval}", mend="run `cascadeguard features` first")
    label, bar_s = LABELS[chosen.name], config.bars.interval_s
    try:
        flags = label(bars, chosen.fall_pct, chosen.window_min, chosen.sigmas, bar_s=bar_s)
    except ValueError as error:
        raise InputError(str(error), where="`[label]`", mend="state `window_min` in whole bars") from None
    return flags.filter(pl.col("ts") > interval.start)


def label_events(lake: Lake, venue: str, interval: Interval, config: Config) -> LabelSummary:
    """The cascades of `interval`: `symbol, onset, end, label, severity`, sorted by onset."""
    flags = label_flags(lake, venue, interval, config)
    found = events(flags, config.label.refractory_min).sort("onset", "symbol")
    judged = 1 - flags["flag"].null_count() / flags.height
    return LabelSummary(venue, str(interval), config.label.name, found.height, judged, found.to_dicts())
