"""From scores to alerts, and what became of every event and every episode of alerts."""

from dataclasses import dataclass

import polars as pl

from models.thresholds import capped, episodes

HIT, LATE, MISS = "hit", "late", "miss"
KEYS = ("symbol", "ts")


@dataclass(frozen=True)
class AlarmPolicy:
    """When scores become alerts: the same for every scorer, and the same as in production.

    A row alerts where the score has been at or above `threshold` for `persistence` rows of the symbol in a row; of a
    UTC day only the first `episodes_per_symbol_day_max` episodes of a symbol count (None: all). Alerts closer than
    `merge_min` are one episode.
    """

    threshold: float
    persistence: int = 1
    merge_min: int = 240
    episodes_per_symbol_day_max: int | None = None

    def alerts(self, scores: pl.DataFrame) -> pl.DataFrame:
        """The rows of `scores` (`symbol, ts, score`, sorted) that alert: `symbol, ts`. A null score is below."""
        above = (pl.col("score") >= self.threshold).fill_null(value=False)
        run = above.cast(pl.Int64).rolling_sum(self.persistence).over("symbol") == self.persistence
        found = scores.filter(run.fill_null(value=False)).select(KEYS)
        if self.episodes_per_symbol_day_max is None:
            return found
        return capped(found, self.episodes_per_symbol_day_max, self.merge_min)


def _next(left: pl.DataFrame, on: str, right: pl.DataFrame, key: str) -> pl.DataFrame:
    """`left` with the columns of the first row of `right` of the same symbol at or after `left[on]`, else null."""
    return left.sort(on, maintain_order=True).join_asof(
        right.sort(key),
        left_on=on,
        right_on=key,
        by="symbol",
        strategy="forward",
        coalesce=False,
        check_sortedness=False,  # both were sorted just now
    )


def _outside(alerts: pl.DataFrame, events: pl.DataFrame, refractory_min: int) -> pl.DataFrame:
    """Alerts that lie neither inside an event nor in its refractory time."""
    last = alerts.sort("ts").join_asof(
        events.sort("onset"), left_on="ts", right_on="onset", by="symbol", check_sortedness=False
    )
    inside = pl.col("ts") <= pl.col("end") + pl.duration(minutes=refractory_min)
    return last.filter(~inside.fill_null(value=False)).select(KEYS)


def judged_events(alerts: pl.DataFrame, events: pl.DataFrame, *, horizon_min: float, lead_min: float) -> pl.DataFrame:
    """What became of every event (`symbol, onset, end`; alerts `symbol, ts`), sorted by onset and symbol.

        hit  = an alert whose lead, onset - ts, lies in [lead_min, horizon_min]; of several, the first one's lead counts
        late = no hit, but an alert with a smaller lead, or up to the event's end
        miss = neither

    Adds `outcome`, `alerted_at` (null for a miss) and `lead_min` (minutes; null but for a hit).
    """
    reach = events.with_columns(reach=pl.col("onset") - pl.duration(seconds=round(horizon_min * 60)))
    first = _next(reach, "reach", alerts.select("symbol", alerted_at="ts"), "alerted_at").drop(
        "symbol_right", strict=False
    )
    seen = (pl.col("alerted_at") <= pl.col("end")).fill_null(value=False)
    told = first.with_columns(alerted_at=pl.when(seen).then("alerted_at"))
    lead = (pl.col("onset") - pl.col("alerted_at")).dt.total_seconds() / 60
    hit = (lead >= lead_min).fill_null(value=False)
    outcome = pl.when(hit).then(pl.lit(HIT)).when(seen).then(pl.lit(LATE)).otherwise(pl.lit(MISS))
    return told.with_columns(outcome=outcome, lead_min=pl.when(hit).then(lead)).drop("reach").sort("onset", "symbol")


def judged_episodes(
    alerts: pl.DataFrame, events: pl.DataFrame, *, horizon_min: float, refractory_min: int, merge_min: int
) -> pl.DataFrame:
    """Every episode of alerts: `symbol, start, end, alerts, onset, false`, sorted by symbol and start.

    `false`: no onset in [start, end + horizon_min]; else `onset` is the first. Alerts in [onset, end + refractory_min]
    of an event open no episode.
    """
    runs = episodes(_outside(alerts, events, refractory_min), merge_min)
    onsets = events.select("symbol", "onset")
    found = _next(runs, "start", onsets, "onset").drop("symbol_right", strict=False)
    follows = pl.col("onset") <= pl.col("end") + pl.duration(seconds=round(horizon_min * 60))
    told = found.with_columns(onset=pl.when(follows).then("onset"))
    return told.with_columns(false=pl.col("onset").is_null()).sort("symbol", "start")
