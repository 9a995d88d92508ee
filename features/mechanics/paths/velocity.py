"""Velocity: at most a budget per window and symbol; the window refills (Synthetix v3).

One account alone may take the whole budget of a window, whose length is that of a step. Where several want it,
`take` bounds each of them and `paths.budget_usd_of` their sum; `queue` plays them in order of arrival.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from features.mechanics.paths.step import Floats, Param, Take, compiled

BUDGET_USD = 1
PARAMS = (Param("budget_usd", 1e-6, math.inf, None, "closed per window and symbol at most"),)


class Close(NamedTuple):
    """What one call of the liquidation closed: of which position, when, how much, and what is left of it."""

    time_s: float
    position: int
    closed_usd: float
    left_usd: float


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:  # noqa: ARG001  # one signature for all paths
    """`min(position, budget)`.

    >>> import numpy as np
    >>> take(150.0, 0.0, 1.0, 0, np.array([10.0, 100.0])).close_usd
    100.0
    """
    return Take(min(position_usd, params[BUDGET_USD]), 1.0, 0.0)


def queue(
    positions_usd: Sequence[float], times_s: Sequence[float], *, budget_usd: float, window_s: float
) -> list[Close]:
    """Positions in order of arrival, closed by calls at `times_s` as far as the window has room.

        room(t) = budget - sum of what was closed in (t - window, t]

    Raises ValueError if times do not rise.

    >>> [(c.time_s, c.position, c.closed_usd) for c in queue([150.0], [0, 6, 11], budget_usd=100, window_s=10)]
    [(0, 0, 100), (11, 0, 50.0)]
    """
    if list(times_s) != sorted(times_s):
        raise ValueError(f"`times_s` must rise, was {list(times_s)}")
    left, closed = list(positions_usd), list[Close]()
    for now in times_s:
        room = budget_usd - sum(done.closed_usd for done in closed if now - window_s < done.time_s)
        for place, usd in enumerate(left):
            sold = min(usd, room)
            if sold > 0:
                room, left[place] = room - sold, usd - sold
                closed.append(Close(now, place, sold, left[place]))
    return closed
