"""The moments that a page looks at: what was said at most before each event and during each episode of alerts."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from features.schema import UTC_US
from models.evaluation.alarms import HIT
from models.evaluation.evaluate import Parts
from models.evaluation.figures import Evaluation
from models.evaluation.settings import Settings

WORST_MAX = 12  # of each kind
PEAKS = pl.Schema({"number": pl.UInt32(), "peak": pl.Float64(), "peak_at": UTC_US})


@dataclass(frozen=True)
class Moments:
    """`events` and `episodes` of an evaluation with `peak`, the highest score, and `peak_at`, the bar that held it.

    Of an event: among the bars known in [onset - horizon, onset - lead], where two events' times overlap those of the
    first; of an episode: among the bars known in [start, end]. Null where no bar scored. `events` also carry
    `severity`, null where the events given do not.
    """

    events: pl.DataFrame
    episodes: pl.DataFrame

    def worst_misses(self) -> pl.DataFrame:
        """Events without a hit, the most severe first; equally severe or unknown ones by time."""
        missed = self.events.filter(pl.col("outcome") != HIT)
        return missed.sort("severity", "onset", "symbol", descending=[True, False, False], nulls_last=True)[:WORST_MAX]

    def worst_false(self) -> pl.DataFrame:
        """False episodes with the highest score first, then the longest."""
        false = self.episodes.filter("false").with_columns(length=pl.col("end") - pl.col("start"))
        order = [pl.col("peak").fill_null(-float("inf")), "length", "start", "symbol"]
        return false.sort(order, descending=[True, True, False, False])[:WORST_MAX].drop("length")

    def longest_false(self) -> pl.DataFrame:
        """False episodes that lasted longest, those of `worst_false` left out."""
        false = self.episodes.filter("false").join(self.worst_false(), on=["symbol", "start"], how="anti")
        length = (pl.col("end") - pl.col("start")).alias("length")
        return false.sort([length, "start", "symbol"], descending=[True, False, False])[: WORST_MAX // 2]

    def looked_at(self) -> pl.DataFrame:
        """`symbol, ts` of the bars whose reasons a reader wants, each once."""
        parts = [found.select("symbol", ts="peak_at") for found in (self.worst_misses(), self.worst_false())]
        longest = self.longest_false().select("symbol", ts="peak_at")
        return pl.concat([*parts, longest]).drop_nulls().unique().sort("symbol", "ts")


def _known(part: pl.DataFrame) -> pl.DataFrame:
    """Scored rows by the moment at which they could be known: `known, ts, score`."""
    scored = part.filter(pl.col("score").is_not_null() & pl.col("score").is_not_nan())
    known = pl.max_horizontal("ts", "available_at") if "available_at" in part.columns else pl.col("ts")
    return scored.select("ts", "score", known=known).sort("known", "ts")


def _peaks(rows: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    """`spans` (`number, first, last`) with the highest score known in [first, last] and the first bar that held it."""
    within = rows.join_asof(spans.sort("last"), left_on="known", right_on="last", strategy="forward")
    inside = within.filter((pl.col("known") >= pl.col("first")).fill_null(value=False))
    top = inside.sort("number", "score", "ts", descending=[False, True, False]).group_by("number", maintain_order=True)
    return top.first().select("number", peak="score", peak_at="ts")


def _with_peaks(found: pl.DataFrame, spans: pl.DataFrame, parts: Parts) -> pl.DataFrame:
    numbered = spans.with_row_index("number")
    peaks = [PEAKS.to_frame()]
    for part in parts():
        own = numbered.filter(pl.col("symbol") == part["symbol"][0]) if part.height else numbered.clear()
        if own.height:
            peaks.append(_peaks(_known(part), own.drop("symbol")))
    return found.with_row_index("number").join(pl.concat(peaks), on="number", how="left").sort("number").drop("number")


def moments(of: Evaluation, parts: Parts, events: pl.DataFrame, settings: Settings) -> Moments:
    """What `parts` said before the events and in the episodes of `of`; `events` as given, for their severity."""
    severity = pl.col("severity").cast(pl.Float64) if "severity" in events.columns else pl.lit(None, pl.Float64)
    told = events.select("symbol", "onset", severity.alias("severity"))
    judged = of.events.drop("severity", strict=False).join(
        told, on=["symbol", "onset"], how="left", maintain_order="left"
    )
    ahead = judged.select(
        "symbol",
        first=pl.col("onset") - timedelta(minutes=settings.horizon_min),
        last=pl.col("onset") - timedelta(minutes=settings.lead_min),
    )
    standing = of.episodes.select("symbol", first="start", last="end")
    return Moments(_with_peaks(judged, ahead, parts), _with_peaks(of.episodes, standing, parts))
