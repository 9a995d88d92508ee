"""Decision value: what acting on alerts saves, less what it costs, for prices that the user states.

Two forms of one sum, `value = loss avoided - cost of restraint`. Where a loop was closed, both sides are measured: the
same days with the model and without it. In history nobody knows what an action would have changed: the loss avoided is
assumed, by `avoided_share`. Each form comes with its break-even, which needs fewer prices than the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.bootstrap import day_weights
from models.evaluation.alarms import HIT

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Prices. Shares are dollars lost per dollar; `event_usd` is the loss in a cascade of average severity.

    Raises ValueError that lists every violation at once.
    """

    restricted_min_usd: float = 10.0  # of one symbol-minute under an action
    refused_share: float = 0.0005  # per dollar of growth that was refused
    liquidated_share: float = 0.01  # per dollar liquidated
    adl_share: float = 0.01  # per dollar deleveraged
    bad_debt_share: float = 1.0  # per dollar of bad debt
    event_usd: float = 100_000.0
    avoided_share: float = 0.1  # of an event's loss, where it was warned of in time
    action_min: int = 60  # how long an alert that is acted upon restricts its symbol

    def __post_init__(self) -> None:
        wrong = [
            f"`{name}` must be at least 0, was {value}" for name, value in vars(self).items() if not 0 <= value < np.inf
        ]
        if not self.avoided_share <= 1:
            wrong.append(f"`avoided_share` must be at most 1, was {self.avoided_share}")
        if wrong:
            raise ValueError(" | ".join(wrong))

    def loss_usd(self, numbers: Mapping[str, float]) -> float:
        """Of `liquidated_usd, adl_usd, bad_debt_usd`; a draw on the fund is not counted again."""
        return (
            self.liquidated_share * numbers["liquidated_usd"]
            + self.adl_share * numbers["adl_usd"]
            + self.bad_debt_share * numbers["bad_debt_usd"]
        )

    def restraint_usd(self, numbers: Mapping[str, float]) -> float:
        """Of `restricted_min` (symbol-minutes) and `refused_usd`."""
        return self.restricted_min_usd * numbers["restricted_min"] + self.refused_share * numbers["refused_usd"]


STATED = Costs()


def _weighted(events: pl.DataFrame) -> pl.DataFrame:
    """`day, weight` of every event that was warned of: its severity over the mean of all, 1 where none is known."""
    known = "severity" in events.columns and bool((events["severity"].mean() or 0.0) > 0)  # type: ignore[operator]
    weight = pl.col("severity") / pl.col("severity").mean() if known else pl.lit(1.0)
    told = events.with_columns(weight=weight.fill_null(1.0))
    return told.filter(pl.col("outcome") == HIT).select("weight", day=pl.col("onset").dt.date())


def _by_day(days: pl.Series, rows: pl.DataFrame, column: str) -> Floats:
    """Sums of `column` by day, in the order of `days`; what lies outside counts with the nearest of them."""
    at = days.search_sorted(rows["day"], "left").to_numpy()
    place = np.clip(at, 0, days.len() - 1)
    told = np.bincount(place, weights=rows[column].to_numpy().astype(np.float64), minlength=days.len())
    return told.astype(np.float64)


def _parts(events: pl.DataFrame, episodes: pl.DataFrame, days: pl.Series, costs: Costs) -> tuple[Floats, Floats]:
    """By day: average events' losses that are avoided, and restricted minutes."""
    hold = timedelta(minutes=costs.action_min)
    acted = episodes.select(
        day=pl.col("start").dt.date(), minutes=(pl.col("end") - pl.col("start") + hold).dt.total_seconds() / 60
    )
    spared = costs.avoided_share * _by_day(days, _weighted(events), "weight")
    return spared, _by_day(days, acted, "minutes")


def daily_value(events: pl.DataFrame, episodes: pl.DataFrame, days: pl.Series, costs: Costs) -> Floats:
    """Dollars by day, as `of_history` sums them."""
    spared, minutes = _parts(events, episodes, days, costs)
    return costs.event_usd * spared - costs.restricted_min_usd * minutes


def of_history(
    events: pl.DataFrame,
    episodes: pl.DataFrame,
    days: pl.Series,
    costs: Costs,
    *,
    replicates: int,
    seed: int,
    confidence: float,
) -> dict[str, Any] | None:
    """The expected value of acting on every alert, over `days` (in order); null without a day.

        restricted_min = sum over episodes of (end - start + action_min)
        avoided_usd    = avoided_share event_usd sum over events warned of in time of severity / mean severity
        value_usd      = avoided_usd - restricted_min_usd restricted_min      its interval: days drawn again
        break_even_min = restricted_min / (avoided_usd / event_usd)           null where nothing is avoided

    `break_even_min`: an average event must cost more than so many restricted minutes; it needs no price in dollars.
    `events`: `onset, outcome` and perhaps `severity`; `episodes`: `start, end`.
    """
    if days.is_empty():
        return None
    spared, minutes = _parts(events, episodes, days, costs)
    daily = daily_value(events, episodes, days, costs)
    drawn = day_weights(days.len(), replicates, seed) @ daily
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {
        "value_usd": float(daily.sum()),
        "value_usd_ci": (float(low), float(high)),
        "avoided_usd": float(costs.event_usd * spared.sum()),
        "restricted_min": float(minutes.sum()),
        "restriction_usd": float(costs.restricted_min_usd * minutes.sum()),
        "break_even_min": float(minutes.sum() / spared.sum()) if spared.sum() > 0 else None,
    }


def of_loop(with_it: Mapping[str, float], without: Mapping[str, float], costs: Costs) -> tuple[float, float]:
    """Dollars avoided and dollars of restraint added by an arm, against the same seed without it."""
    avoided = costs.loss_usd(without) - costs.loss_usd(with_it)
    return avoided, costs.restraint_usd(with_it) - costs.restraint_usd(without)


def break_even_usd(avoided_usd: float, refused_usd: float, restricted_min: float, costs: Costs) -> float | None:
    """The price of a restricted symbol-minute at which an arm is worth nothing; null where it adds no minute.

        (avoided_usd - refused_share refused_usd) / restricted_min          below it the arm is worth its restraint

    >>> break_even_usd(1_000.0, 0.0, 50.0, Costs())
    20.0
    """
    return (avoided_usd - costs.refused_share * refused_usd) / restricted_min if restricted_min > 0 else None
