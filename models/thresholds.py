"""Alert episodes, and the threshold that keeps them within what a desk can look at."""

import numpy as np
import polars as pl


def episodes(alerts: pl.DataFrame, refractory_min: int) -> pl.DataFrame:
    """Join alerts of one symbol that follow one another in less than `refractory_min` into one episode.

    `alerts` has one row per alerting symbol and minute: `symbol, ts`, in any order. Returns one row per episode,
    sorted: `symbol, start` (first alert), `end` (last alert), `alerts` (count). No alerts give no episodes.

    Raises ValueError if `refractory_min` < 1.

    >>> minutes = pl.Series([0, 10, 100]) * 60_000_000
    >>> alerts = pl.DataFrame({"symbol": "A", "ts": minutes.cast(pl.Datetime("us", "UTC"))})
    >>> episodes(alerts, refractory_min=60)["alerts"].to_list()
    [2, 1]
    """
    if refractory_min < 1:
        raise ValueError(f"refractory_min must be at least 1, was {refractory_min}")
    pause = pl.col("ts").diff().over("symbol")
    opens = pause.is_null() | (pause >= pl.duration(minutes=refractory_min))
    return (
        alerts.select("symbol", "ts")
        .sort("symbol", "ts")
        .with_columns(opens.cum_sum().alias("episode"))
        .group_by("symbol", "episode", maintain_order=True)
        .agg(start=pl.col("ts").min(), end=pl.col("ts").max(), alerts=pl.len())
        .drop("episode")
    )


def _at_or_above(values: pl.Series, thresholds: np.ndarray) -> np.ndarray:
    """How many of `values` are >= each of `thresholds`."""
    ordered = np.sort(values.to_numpy())
    return np.asarray(ordered.size - np.searchsorted(ordered, thresholds, side="left"))


def budget_threshold(scores: pl.DataFrame, days: float, budget_per_symbol_day: float, refractory_min: int) -> float:
    """The smallest score at which to alert (`score >= threshold`) without overrunning the budget.

        allowed         = budget_per_symbol_day * days * symbols
        episodes(theta) = #{rows with m < theta <= score},  m = highest score of the symbol in (t - refractory_min, t)
        charge(theta)   = max(episodes(theta), rows with score >= theta / refractory_min)
        threshold       = smallest score from which upwards no score is charged more than allowed

    The second charge keeps a permanent alarm from passing as one cheap episode: an alarm that lasts costs one more for
    every refractory time. `scores` has `symbol, ts, score`, one row per minute, over the period the threshold is
    chosen on; null scores are left out. Where even the highest score overruns (ties), the next number above it.

    Raises ValueError if there is no score, or `days`, the budget or `refractory_min` is not positive.
    """
    if not (days > 0 and budget_per_symbol_day > 0 and refractory_min > 0):
        raise ValueError(
            "days, budget_per_symbol_day and refractory_min must be positive, "
            f"were {days}, {budget_per_symbol_day}, {refractory_min}"
        )
    known = scores.select("symbol", "ts", "score").filter(pl.col("score").is_not_nan()).sort("symbol", "ts")
    if known.is_empty():
        raise ValueError("scores must hold at least one score, were all null")
    before = pl.col("score").rolling_max_by("ts", window_size=f"{refractory_min}m", closed="none")
    known = known.with_columns(before=before.over("symbol").fill_null(-np.inf))
    candidates = known["score"].unique().sort().to_numpy()
    opening = known.filter(pl.col("score") > pl.col("before"))
    count = _at_or_above(opening["score"], candidates) - _at_or_above(opening["before"], candidates)
    charge = np.maximum(count, _at_or_above(known["score"], candidates) / refractory_min)
    over = np.flatnonzero(~(charge <= budget_per_symbol_day * days * known["symbol"].n_unique()))
    first_free = int(over[-1]) + 1 if over.size else 0
    if first_free == candidates.size:
        return float(np.nextafter(candidates[-1], np.inf))
    return float(candidates[first_free])
