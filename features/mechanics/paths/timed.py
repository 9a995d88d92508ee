"""Timed disposal: every step a fraction of what is left, all of it once small, never more than a share of the book.

The book side is a constant of the profile (Vega reads it from the book at each step).
"""

import math

from features.mechanics.paths.step import Floats, Param, Take, compiled

FRACTION, FULL_USD, BOOK_USD, BOOK_SHARE_MAX = 1, 2, 3, 4
PARAMS = (
    Param("fraction", 1e-6, 1.0, None, "share of what is left that a step closes"),
    Param("full_usd", 0.0, math.inf, 0.0, "at or below this size all is closed"),
    Param("book_usd", 1e-6, math.inf, math.inf, "what rests on the side of the book that takes the flow"),
    Param("book_share_max", 1e-6, 1.0, 1.0, "a step takes at most this share of it"),
)


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:  # noqa: ARG001  # one signature for all paths
    """`min(position if position <= full else fraction * position, book_share_max * book)`.

    >>> import numpy as np
    >>> rules = np.array([10.0, 0.5, 50.0, 10_000.0, 0.01])
    >>> [take(usd, 0.0, 1.0, 0, rules).close_usd for usd in (280.0, 180.0, 90.0, 45.0)]
    [100.0, 90.0, 45.0, 45.0]
    """
    wanted = position_usd if position_usd <= params[FULL_USD] else params[FRACTION] * position_usd
    return Take(min(wanted, params[BOOK_SHARE_MAX] * params[BOOK_USD], position_usd), 1.0, 0.0)
