"""Share first: of a large position a share, after a wait all of it; far below maintenance a vault takes it over.

The wait is the length of a step. The vault takes position and equity as they are; nothing reaches the book
(Hyperliquid: backstop liquidation, the maintenance margin is not returned).
"""

import math

from features.mechanics.paths.step import Floats, Param, Take, compiled

FULL_USD, SHARE, BACKSTOP_RATIO = 1, 2, 3
PARAMS = (
    Param("full_usd", 0.0, math.inf, None, "a position up to this size is closed whole at once"),
    Param("share", 1e-6, 1.0, None, "share of a larger one that the first step closes"),
    Param("backstop_ratio", 0.0, 1.0, 0.0, "below this share of maintenance the vault takes all"),
)


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:
    """`share * position` at step 0 if it is above `full_usd`, else all; the vault if `equity < ratio * maintenance`.

    >>> import numpy as np
    >>> rules = np.array([30.0, 1e5, 0.2, 2 / 3])
    >>> take(1e6, 9e3, 1e4, 0, rules).close_usd, take(8e5, 7e3, 8e3, 1, rules).close_usd
    (200000.0, 800000.0)
    >>> take(1e6, 6e3, 1e4, 0, rules)
    Take(close_usd=1000000.0, book_share=0.0, discount_usd=6000.0)
    """
    if equity_usd < params[BACKSTOP_RATIO] * maintenance_usd:
        return Take(position_usd, 0.0, max(equity_usd, 0.0))
    if step == 0 and position_usd > params[FULL_USD]:
        return Take(params[SHARE] * position_usd, 1.0, 0.0)
    return Take(position_usd, 1.0, 0.0)
