"""What a lake can say of single moments and of a period: reasons, and which inputs were missing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.catalogue import FAMILY_OF
from features.schema import UTC_US
from models.explain import reasons
from models.warning import WarningModel
from pipelines.features_page import faults
from pipelines.lake import Lake
from pipelines.times import Interval

TOLD = pl.Schema({"symbol": pl.String(), "ts": UTC_US, "reasons": pl.String()})


@dataclass(frozen=True)
class Witness:
    """`reasons`: from `symbol, ts` to `symbol, ts, reasons`; `health`: per input the share of bars with each fault.

    No input is told of where nothing is known of them.
    """

    reasons: Callable[[pl.DataFrame], pl.DataFrame]
    health: Callable[[], list[dict[str, Any]]]
    interval: str


def health_of(lake: Lake, venue: str, interval: Interval) -> list[dict[str, Any]]:
    """Empty where the lake holds no health of the interval: nothing known is not nothing missing."""
    rows = lake.scan("feature_health", venue, interval.start, interval.end).select(pl.len()).collect().item()
    return faults(lake, venue, interval) if rows else []


def of_models(
    explained: Iterable[tuple[WarningModel, pl.DataFrame]], lake: Lake, venue: str, interval: Interval
) -> Witness:
    """Models, each with the rows of the feature matrix that it judged: only the moments asked for are explained."""
    pairs = tuple(explained)

    def told(moments: pl.DataFrame) -> pl.DataFrame:
        parts = [(model, rows.join(moments, on=["symbol", "ts"], how="semi")) for model, rows in pairs]
        said = [reasons(model, rows, FAMILY_OF).select(*TOLD) for model, rows in parts if rows.height]
        return pl.concat([TOLD.to_frame(), *said])

    return Witness(told, lambda: health_of(lake, venue, interval), str(interval))


def of_scores(lake: Lake, venue: str, interval: Interval) -> Witness:
    """The reasons that were written with the scores of the lake, at the time."""

    def told(moments: pl.DataFrame) -> pl.DataFrame:
        if moments.is_empty():
            return TOLD.to_frame()
        scores = lake.scan("scores", venue, interval.start, interval.end).select(*TOLD)
        wanted = moments.lazy().select("symbol", "ts")
        return scores.join(wanted, on=["symbol", "ts"], how="semi").drop_nulls("reasons").collect()

    return Witness(told, lambda: health_of(lake, venue, interval), str(interval))
