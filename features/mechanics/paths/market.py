"""Market: the whole position goes into the book at once."""

from features.mechanics.paths.step import Floats, Param, Take, compiled

PARAMS: tuple[Param, ...] = ()


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:  # noqa: ARG001  # one signature for all paths
    """All of it.

    >>> import numpy as np
    >>> take(280.0, 1.0, 2.0, 0, np.array([0.0]))
    Take(close_usd=280.0, book_share=1.0, discount_usd=0.0)
    """
    return Take(position_usd, 1.0, 0.0)
