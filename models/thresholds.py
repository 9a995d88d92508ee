"""Alert episodes, and the threshold that keeps them within what a desk can look at."""

from collections.abc import Sequence

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


def charges(scores: pl.DataFrame, refractory_min: int) -> pl.DataFrame:
    """What alerting from each score on would cost: `score, rows, opened, before`, sorted; tables of parts add up.

        rows   = rows with that score
        opened = those above the highest score of the symbol in (t - refractory_min, t): they may open an episode
        before = rows that opened, whose highest score before was that

    `scores` has `symbol, ts, score`; null scores are left out. A part must hold whole symbols.
    """
    known = scores.select("symbol", "ts", "score").filter(pl.col("score").is_not_nan()).sort("symbol", "ts")
    before = pl.col("score").rolling_max_by("ts", window_size=f"{refractory_min}m", closed="none")
    known = known.with_columns(before=before.over("symbol").fill_null(-np.inf))
    opening = known.filter(pl.col("score") > pl.col("before"))
    none = {name: pl.lit(0, pl.Int64) for name in ("rows", "opened", "before")}
    parts = [
        known.select("score", **none | {"rows": pl.lit(1, pl.Int64)}),
        opening.select("score", **none | {"opened": pl.lit(1, pl.Int64)}),
        opening.select(score="before", **none | {"before": pl.lit(1, pl.Int64)}),
    ]
    return added(parts)


def added(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One table of `charges` of several."""
    whole = pl.concat(parts).group_by("score").agg(pl.col("rows", "opened", "before").sum())
    return whole.sort("score")


def threshold_within(charged: pl.DataFrame, allowed: float, refractory_min: int, bar_s: float = 60.0) -> float:
    """The smallest score from which upwards no score is charged more than `allowed` episodes (see budget_threshold).

    Raises ValueError if there is no score.
    """
    if not charged["rows"].sum():
        raise ValueError("scores must hold at least one score, were all null")
    at_or_above = charged.reverse().select(pl.col("rows", "opened", "before").cum_sum()).reverse()
    rows, opened, before = (at_or_above[name].to_numpy() for name in ("rows", "opened", "before"))
    charge = np.maximum(opened - before, rows * (bar_s / 60 / refractory_min))
    own = charged["rows"].to_numpy() > 0
    candidates, charge = charged["score"].to_numpy()[own], charge[own]
    over = np.flatnonzero(~(charge <= allowed))
    first_free = int(over[-1]) + 1 if over.size else 0
    if first_free == candidates.size:
        return float(np.nextafter(candidates[-1], np.inf))
    return float(candidates[first_free])


def budget_threshold(
    scores: pl.DataFrame, days: float, budget_per_symbol_day: float, refractory_min: int, bar_s: float = 60.0
) -> float:
    """The smallest score at which to alert (`score >= threshold`) without overrunning the budget.

        allowed         = budget_per_symbol_day * days * symbols
        episodes(theta) = #{rows with m < theta <= score},  m = highest score of the symbol in (t - refractory_min, t)
        charge(theta)   = max(episodes(theta), minutes with score >= theta / refractory_min)
        threshold       = smallest score from which upwards no score is charged more than allowed

    The second charge keeps a permanent alarm from passing as one cheap episode: an alarm that lasts costs one more for
    every refractory time. `scores` has `symbol, ts, score`, one row per bar of `bar_s`, over the period the threshold
    is chosen on; null scores are left out. Where even the highest score overruns (ties), the next number above it.

    Raises ValueError if there is no score, or `days`, the budget or `refractory_min` is not positive.
    """
    if not (days > 0 and budget_per_symbol_day > 0 and refractory_min > 0):
        raise ValueError(
            "days, budget_per_symbol_day and refractory_min must be positive, "
            f"were {days}, {budget_per_symbol_day}, {refractory_min}"
        )
    symbols = scores.filter(pl.col("score").is_not_nan())["symbol"].n_unique()
    charged = charges(scores, refractory_min)
    return threshold_within(charged, budget_per_symbol_day * days * symbols, refractory_min, bar_s)


def cost_threshold(cost_false_alarm: float, cost_missed: float) -> float:
    """The probability from which alerting is cheaper than not: `cost_false_alarm / (cost_false_alarm + cost_missed)`.

    Costs are of one row: an alert without an event within the horizon, and no alert before one. The probability must
    be calibrated. Raises ValueError unless both are positive. Source: Elkan 2001.

    >>> cost_threshold(1.0, 99.0)
    0.01
    """
    if not (cost_false_alarm > 0 and cost_missed > 0):
        raise ValueError(f"costs must be positive, were {cost_false_alarm} and {cost_missed}")
    return cost_false_alarm / (cost_false_alarm + cost_missed)


def trailing_threshold(scores: pl.DataFrame, share: float, window_min: int, samples_min: int) -> pl.DataFrame:
    """For every row the score that only `share` of the symbol's own recent rows exceeded: it moves with the market.

        threshold[t] = the 1 - share quantile (the higher neighbour) of the scores in [t - window_min, t)

    `scores` has `symbol, ts, score`. Adds `threshold`, sorted by symbol and ts; null below `samples_min` known scores.
    The row itself is never part of its own threshold. Under drift a quantile alone overruns a budget (a market that
    heats up every day stands above its own past every day): `capped` holds what it promises.

    Raises ValueError unless 0 < share < 1 and `window_min`, `samples_min` are positive.
    """
    if not (0 < share < 1 and window_min > 0 and samples_min > 0):
        raise ValueError(
            f"share must be in (0, 1), window_min and samples_min positive, were {share}, {window_min}, {samples_min}"
        )
    past = (
        pl.col("score")
        .fill_nan(None)
        .rolling_quantile_by(
            "ts", f"{window_min}m", quantile=1 - share, interpolation="higher", min_samples=samples_min, closed="left"
        )
    )
    ordered = scores.sort("symbol", "ts")
    return ordered.with_columns(threshold=past.over("symbol"))


def capped(alerts: pl.DataFrame, per_symbol_day: int, refractory_min: int) -> pl.DataFrame:
    """The alerts of the first `per_symbol_day` episodes that a symbol opens on a UTC day; the others are muted.

    `alerts` has `symbol, ts`, one row per alerting minute. An episode belongs to the day of its first alert. Causal:
    whether a row is kept depends on rows up to its own. Sorted by symbol and ts.

    Raises ValueError if `per_symbol_day` or `refractory_min` < 1.

    >>> minutes = pl.Series([0, 1, 100, 300, 1500]) * 60_000_000
    >>> alerts = pl.DataFrame({"symbol": "A", "ts": minutes.cast(pl.Datetime("us", "UTC"))})
    >>> [moment.strftime("%d %H:%M") for moment in capped(alerts, 2, 60)["ts"]]
    ['01 00:00', '01 00:01', '01 01:40', '02 01:00']
    """
    if per_symbol_day < 1:
        raise ValueError(f"per_symbol_day must be at least 1, was {per_symbol_day}")
    opening = episodes(alerts, refractory_min)
    number = pl.int_range(pl.len()).over("symbol", pl.col("start").dt.date())
    kept = opening.with_columns(number=number).filter(pl.col("number") < per_symbol_day)
    ordered = alerts.sort("symbol", "ts")
    joined = ordered.join_asof(
        kept.select("symbol", "start", "end").sort("start"),
        left_on="ts",
        right_on="start",
        by="symbol",
        check_sortedness=False,
    )
    return joined.filter(pl.col("ts") <= pl.col("end")).select(alerts.columns)
