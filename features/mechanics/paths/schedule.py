"""A path played in time: one position that lacks margin, step by step, at a price that stands still."""

from collections.abc import Callable
from typing import NamedTuple

from features.mechanics.paths import budget_usd_of, kind_of, params_of, take_of
from features.mechanics.profile import Path

DUST_USD = 0.01  # a remainder below a cent counts as closed
STEPS_MAX = 1_000_000
SHORT_OF = 1 - 1e-9  # of maintenance: what an account holds that stays just below the line


class Step(NamedTuple):
    """What one step closed and what is left; `book_usd` of it went into the book. Steps that close nothing are none."""

    time_s: float
    closed_usd: float
    left_usd: float
    book_usd: float
    discount_usd: float


def play(
    path: Path,
    position_usd: float,
    maintenance_usd: Callable[[float], float],
    equity_usd: float | None = None,
    *,
    buffer: float = 0.0,
    cost_rate: float = 0.0,
) -> list[Step]:
    """Steps until `equity >= maintenance(left) * (1 + buffer)`, or nothing is left.

        equity falls by `cost_rate * closed + discount` per step; step n happens at `n * path.step_s`

    `maintenance_usd` is the requirement of a notional. Without `equity_usd` the account stays just below maintenance
    whatever is closed, as if the price followed: the position is closed whole. An account that is not short of
    maintenance has no steps. Raises ValueError for a bad path and after STEPS_MAX steps.

    >>> hyperliquid = Path("share_first", 30.0, {"full_usd": 1e5, "share": 0.2, "backstop_ratio": 2 / 3})
    >>> [step[:3] for step in play(hyperliquid, 1e6, lambda usd: 0.01 * usd)]
    [(0.0, 200000.0, 800000.0), (30.0, 800000.0, 0.0)]
    >>> [step[:3] for step in play(hyperliquid, 1e6, lambda usd: 0.01 * usd, 9_900.0, buffer=0.02)]
    [(0.0, 200000.0, 800000.0)]
    """
    params, code = params_of(path), kind_of(path.kind).code
    budget = budget_usd_of(code, params)
    steps: list[Step] = []
    left = float(position_usd)
    equity = SHORT_OF * maintenance_usd(left) if equity_usd is None else float(equity_usd)
    if not equity < maintenance_usd(left):
        return steps
    for n in range(STEPS_MAX):
        needed = maintenance_usd(left)
        taken = take_of(code, left, equity, needed, n, params)
        closed = min(taken.close_usd, budget)
        closed = left if left - closed < DUST_USD else closed
        left -= closed
        if closed > 0:
            steps.append(Step(n * path.step_s, closed, left, closed * taken.book_share, taken.discount_usd))
        stays = equity_usd is None
        equity = SHORT_OF * maintenance_usd(left) if stays else equity - cost_rate * closed - taken.discount_usd
        if not left > 0 or equity >= maintenance_usd(left) * (1 + buffer):
            return steps
    raise ValueError(f"{path.kind} closes no position of {position_usd} USD within {STEPS_MAX} steps")


def completion_s(steps: list[Step]) -> float:
    """Seconds from the first step until the last; 0 where there is none.

    >>> completion_s([])
    0.0
    """
    return steps[-1].time_s if steps else 0.0
