"""Gradual: every step sells a share of what is left, within a limit per account and step (dYdX: block by block)."""

import math

from features.mechanics.paths.step import Floats, Param, Take, compiled

SHARE, NOTIONAL_USD_MIN, LIMIT_USD = 1, 2, 3
PARAMS = (
    Param("share", 1e-6, 1.0, None, "share of the present notional that a step closes"),
    Param("notional_usd_min", 0.0, math.inf, 0.0, "a step closes at least this"),
    Param("limit_usd", 1e-6, math.inf, math.inf, "an account closes at most this per step"),
)


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:  # noqa: ARG001  # one signature for all paths
    """`min(max(notional_usd_min, share * position), limit, position)`.

    >>> import numpy as np
    >>> [take(usd, 0.0, 1.0, 0, np.array([1.1, 0.1, 1e3, 1e5])).close_usd for usd in (2e6, 5e5, 4e3, 700.0)]
    [100000.0, 50000.0, 1000.0, 700.0]
    """
    wanted = max(params[NOTIONAL_USD_MIN], params[SHARE] * position_usd)
    return Take(min(wanted, params[LIMIT_USD], position_usd), 1.0, 0.0)
