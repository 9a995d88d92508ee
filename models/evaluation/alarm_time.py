"""Alarm time: how much of the time stands under alarm, how many onsets fall into it, and is that more than luck?

An alert at t declares the bars `[t + lead_min, t + horizon_min]`: an onset there was warned of in time. So

    standing[i] = highest score of bars i - h .. i - l         l, h = lead and horizon in bars
    tau(x)      = share of the covered bars with standing >= x
    nu(x)       = share of the events with standing at their onset < x
    area skill  = 1 - integral of nu over tau                  1/2 chance, 1 perfect

Standing at a random bar is what an onset out of the blue meets, so chance is 1/2 whatever the score's habits.
Source: Molchan 1990; Zechar and Jordan 2008.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """How far ahead an alert warns, in bars: from `first` to `last`."""

    first: int
    last: int

    @classmethod
    def of(cls, lead_min: float, horizon_min: float, bar_s: float) -> "Window":
        """Raises ValueError where no bar lies between lead and horizon."""
        first, last = ceil(lead_min * 60 / bar_s), floor(horizon_min * 60 / bar_s)
        if not 0 <= first <= last:
            raise ValueError(f"a bar of {bar_s:g} s must lie in [{lead_min:g}, {horizon_min:g}] min ahead")
        return cls(first, last)

    def standing(self, score: Floats) -> Floats:
        """Highest score of the bars that warn of each bar; -inf where none does. `score`: by bar, -inf for none."""
        width = self.last - self.first + 1
        padded = np.concatenate([np.full(self.first, -np.inf), score])[: score.size]
        highest = pl.Series(padded).rolling_max(width, min_samples=1)
        return np.asarray(highest.to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Molchan:
    """The diagram: alarm-time share and missed-event share, from no alarm to permanent alarm, and the skill."""

    tau: Floats
    nu: Floats
    area_skill: float
    events: int

    @property
    def chance_sd(self) -> float:
        """Of the area skill of a score worth nothing."""
        return float(np.sqrt(1 / (12 * self.events)))


def molchan(levels: Floats, bars: Floats, at_onset: Floats) -> Molchan | None:
    """The diagram of `bars` covered bars with standing `levels` (one per distinct level) and the events' standing.

    Ties between an event and bars count half. Null without an event or a bar. -inf is a level: no score at all.
    """
    total = bars.sum()
    if not (total > 0 and at_onset.size):
        return None
    order = np.argsort(-levels)
    level, above = levels[order], np.cumsum(bars[order])
    met = np.searchsorted(-level, -at_onset, side="left")
    tau_of = np.concatenate([[0.0], above / total])
    upper = tau_of[np.minimum(np.searchsorted(-level, -at_onset, side="right"), level.size)]
    skill = float(1 - np.mean((tau_of[met] + upper) / 2))
    hit = np.searchsorted(np.sort(-at_onset), -level, side="right") / at_onset.size
    return Molchan(tau_of, np.concatenate([[1.0], 1 - hit]), skill, int(at_onset.size))


def shifted_hits(region: Bools, onsets: Ints, shifts: Ints) -> Ints:
    """How many of `onsets` (bar numbers) would fall into `region` (one per bar), rolled by each of `shifts` bars.

    Bars are those that the scorer covered, so that a gap is neither alarm nor quiet.
    """
    if not onsets.size:
        return np.zeros(shifts.size, dtype=np.int64)
    places = (onsets[None, :] - shifts[:, None]) % region.size
    return np.asarray(region[places].sum(axis=1), dtype=np.int64)


def drawn_shifts(bars: int, window: Window, replicates: int, seed: int) -> Ints:
    """Shifts at least a horizon from none, in bars. Empty where the period is too short for one."""
    low, high = window.last + 1, bars - window.last
    if high <= low:
        return np.zeros(0, dtype=np.int64)
    return np.random.default_rng(seed).integers(low, high, size=replicates)


def shift_p(observed: int, shifted: Ints) -> float | None:
    """`(1 + shifts with at least as many hits) / (1 + shifts)`; null without shifts."""
    return (1 + int((shifted >= observed).sum())) / (1 + shifted.size) if shifted.size else None
