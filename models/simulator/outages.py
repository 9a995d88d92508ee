"""Outages: for minutes the matching stands still, or the feed does. More likely when it is rough.

    rate = outage_rate_day * min(variance ratio, HEAT_MAX)          variance ratio: present over ordinary variance

A halt stops trading, liquidation and makers; the index goes on, and the perpetual jumps when it ends. While the feed
stands still the venue goes on: rows are either delivered when it is back (`late`) or never (`missing`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from models.simulator.settings import DAY_S, HOUR_S, Floats, VenueSettings

HEAT_MAX = 8.0
LENGTH_LOG_SD = 0.7
LATE_SHARE = 0.5  # of the outages of the feed after which everything is delivered
LATE_ALWAYS = frozenset({"funding"})  # the venue tells it again
INTERNAL = frozenset({"positions", "collateral"})  # the venue's own, not part of the feed
HALT, LATE, MISSING = "halt", "late", "missing"


@dataclass(frozen=True)
class OutageDraws:
    """One hour of dice, one per step."""

    at: Floats  # uniform; an outage begins where it is below the rate of the step
    length: Floats  # normal
    kind: Floats  # uniform
    late: Floats  # uniform


def draw_outages(steps: int, rng: np.random.Generator) -> OutageDraws:
    return OutageDraws(rng.random(steps), rng.standard_normal(steps), rng.random(steps), rng.random(steps))


@dataclass(frozen=True)
class Outage:
    """`(start_s, end_s]` counted in seconds since the simulation began; `kind` is halt, late or missing."""

    kind: str
    start_s: int
    end_s: int


class Outages:
    """At most one at a time; `now` is None in between."""

    def __init__(self, settings: VenueSettings) -> None:
        self.settings = settings
        self.now: Outage | None = None
        self.share = settings.outage_rate_day * settings.step_s / DAY_S

    def advance(self, draws: OutageDraws, row: int, start_s: int, variance_ratio: Floats) -> Outage | None:
        """The outage of the step that begins at `start_s`, if there is one; `variance_ratio` is one per symbol."""
        if self.now is not None and start_s >= self.now.end_s:
            self.now = None
        if self.now is None and draws.at[row] < self.share * HEAT_MAX:
            likely = draws.at[row] < self.share * min(float(variance_ratio.mean()), HEAT_MAX)
            self.now = self._begin(draws, row, start_s) if likely else None
        return self.now

    def _begin(self, draws: OutageDraws, row: int, start_s: int) -> Outage:
        step_s = self.settings.step_s
        length = self.settings.outage_median_s * np.exp(LENGTH_LOG_SD * draws.length[row])
        steps = max(round(min(float(length), HOUR_S) / step_s), 1)
        feed = LATE if draws.late[row] < LATE_SHARE else MISSING
        kind = HALT if draws.kind[row] < self.settings.halt_share else feed
        return Outage(kind, start_s, start_s + steps * step_s)


def withhold(tables: dict[str, pl.DataFrame], outages: list[Outage], epoch_us: int) -> dict[str, pl.DataFrame]:
    """The tables as the feed delivers them; `epoch_us` is when the simulation began.

    Rows with `ts` inside an outage of the feed are known at its end plus their own latency, or dropped. `ts`, numbers
    and the order of rows stay what they are: what is missing shows as a gap.
    """
    for outage in outages:
        if outage.kind != HALT:
            tables = {name: _withheld(name, frame, outage, epoch_us) for name, frame in tables.items()}
    return tables


def _withheld(name: str, frame: pl.DataFrame, outage: Outage, epoch_us: int) -> pl.DataFrame:
    if name in INTERNAL:
        return frame
    start, end = (
        pl.lit(epoch_us + second * 1_000_000).cast(pl.Datetime("us", "UTC"))
        for second in (outage.start_s, outage.end_s)
    )
    inside = (pl.col("ts") > start) & (pl.col("ts") <= end)
    if outage.kind == MISSING and name not in LATE_ALWAYS:
        return frame.filter(~inside)
    late = pl.max_horizontal(pl.col("known_at"), end + (pl.col("known_at") - pl.col("ts")))
    return frame.with_columns(pl.when(inside).then(late).otherwise("known_at").alias("known_at"))
