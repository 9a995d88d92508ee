"""Who pays for holes: the liquidation fee, the insurance fund, then winners by auto-deleveraging. Whole micro-dollars.

    bad_debt = fund_draw + sum(adl) + uncovered                      to the last unit

A winner never gives more than its unrealised profit. Two rules say who gives how much:

    rank      whole profits in order of `profit share * effective leverage`, the highest first, until it is enough
    pro_rata  the same share eta of every profit, capped per winner: `profit_i * min(eta, beta_i)` (water-filling)
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MICRO = 1_000_000  # micro-dollars in a dollar
MICRO_MAX = 2**62
RANK, PRO_RATA, NONE = "rank", "pro_rata", "none"
ADL_RULES = (RANK, PRO_RATA, NONE)
FLOAT_SLACK = 8 * np.finfo(np.float64).eps  # bounds the error of a product of two rounded numbers


class Cover(NamedTuple):
    """How a hole was paid, in micro-dollars; `adl` is one amount per winner."""

    fund_draw: int
    adl: Ints
    uncovered: int


def micro(usd: npt.ArrayLike) -> Ints:
    """Dollars as whole micro-dollars, rounded half to even.

    Raises ValueError for what is not finite or does not fit.

    >>> micro([1.5, -0.0000004]).tolist()
    [1500000, 0]
    """
    scaled = np.rint(np.asarray(usd, dtype=np.float64) * MICRO)
    if not (np.abs(scaled) < MICRO_MAX).all():
        raise ValueError(f"amounts must be finite and below {MICRO_MAX // MICRO:,} USD")
    return np.asarray(scaled, dtype=np.int64)


def liquidation_fee(closed: Ints, left: Ints, rate: float, most: int = MICRO_MAX) -> Ints:
    """Fee to the fund: `min(rate * closed, most, what is left above bankruptcy)`, rounded down, never below 0.

    `closed` is the closed notional, `left` the equity after the fills.

    >>> liquidation_fee(np.array([1_000_000, 1_000_000, 1_000_000]), np.array([9_000, 2_000, -5]), 0.005).tolist()
    [5000, 2000, 0]
    """
    asked = np.minimum(np.floor(closed * rate), most).astype(np.int64)
    return np.asarray(np.clip(left, 0, asked), dtype=np.int64)


def incentive_share(waited_s: float, first: float, growth_per_s: float, most: float) -> float:
    """Reward of whoever liquidates, as a share of notional; grows while nobody does: `min(first + growth * t, most)`.

    >>> round(incentive_share(60.0, first=0.001, growth_per_s=0.0001, most=0.005), 9)
    0.005
    """
    return min(first + growth_per_s * max(waited_s, 0.0), most)


def draw_fund(fund: int, bad_debt: int) -> int:
    """What the fund pays of `bad_debt`: as far as it reaches.

    >>> draw_fund(70, 100), draw_fund(-5, 100)
    (70, 0)
    """
    return max(min(fund, bad_debt), 0)


def adl_score(profit_usd: Floats, cost_usd: Floats, notional_usd: Floats, equity_usd: Floats) -> Floats:
    """Rank of a winner: profit share times effective leverage, `profit / cost * notional / equity`.

    `cost_usd` is what the position was worth when it was opened, `notional_usd` what it is worth now. 0 where there is
    no profit, infinite where a winner has no equity of its own: it goes first.

    >>> profit, equity = np.array([10.0, 10.0, -1.0]), np.array([55.0, 11.0, 9.0])
    >>> adl_score(profit, np.full(3, 100.0), np.full(3, 110.0), equity).tolist()
    [0.2, 1.0, 0.0]
    """
    leverage = np.full(profit_usd.shape, np.inf)
    np.divide(notional_usd, equity_usd, out=leverage, where=equity_usd > 0)
    share = np.maximum(profit_usd, 0.0) / cost_usd
    return np.where(share > 0, share * np.where(share > 0, leverage, 0.0), 0.0)


def adl_by_rank(need: int, profit: Ints, score: Floats) -> Ints:
    """Whole profits in order of `score`, the larger profit first where scores tie, the last one in part.

    Gives `min(need, sum of positive profits)` together.

    >>> adl_by_rank(120, np.array([100, 50, -9, 80]), np.array([1.0, 3.0, 9.0, 2.0])).tolist()
    [0, 50, 0, 70]
    """
    given = np.maximum(profit, 0)
    order = np.lexsort((-given, -score))
    before = np.cumsum(given[order]) - given[order]
    taken = np.empty_like(given)
    taken[order] = np.clip(need - before, 0, given[order])
    return taken


def adl_pro_rata(need: int, profit: Ints, cap_share: Floats | None = None) -> Ints:
    """The same share `eta` of every positive profit, at most `cap_share` (default 1) of it: `min(eta, beta_i)`.

        eta solves  sum(profit_i * min(eta, beta_i)) = need;  each amount is rounded down, lost units go one by one to
        those with room, the largest profit first

    Gives `min(need, sum(floor(beta_i * profit_i)))` together.

    >>> adl_pro_rata(90, np.array([100, 100, -5, 50]), np.array([0.1, 1.0, 1.0, 1.0])).tolist()
    [10, 54, 0, 26]
    """
    gains = np.maximum(profit, 0)
    beta = np.ones(gains.shape) if cap_share is None else np.clip(cap_share, 0.0, 1.0)
    cap = np.minimum(np.floor(gains * beta).astype(np.int64), gains)
    need = int(min(need, int(cap.sum())))
    if need <= 0:
        return np.zeros_like(gains)
    eta = _water_level(need, gains.astype(np.float64), beta)
    wanted = gains * eta
    taken = np.clip(np.floor(wanted * (1 - FLOAT_SLACK)).astype(np.int64), 0, cap)
    return _spread(need - int(taken.sum()), taken, cap, np.lexsort((-(wanted - taken), -gains)))


def _water_level(need: int, gains: Floats, beta: Floats) -> float:
    """`eta` of `sum(gains * min(eta, beta)) = need`: between two caps the sum is a line in eta."""
    order = np.argsort(beta, kind="stable")
    gains, beta = gains[order], beta[order]
    capped = np.concatenate([[0.0], np.cumsum(gains * beta)[:-1]])
    free = np.cumsum(gains[::-1])[::-1]
    reached = capped + free * beta
    first = min(int(np.searchsorted(reached, need)), len(beta) - 1)
    return float((need - capped[first]) / free[first]) if free[first] > 0 else float(beta[first])


def _spread(units: int, taken: Ints, cap: Ints, order: Ints) -> Ints:
    """Add `units` (or take them back), as evenly as room allows, in `order`."""
    taken = taken.copy()
    while units != 0:
        room = (cap - taken if units > 0 else taken)[order]
        open_ = order[room > 0]
        each = max(abs(units) // len(open_), 1)
        chosen = open_[: abs(units) // each]
        step = np.minimum(each, cap[chosen] - taken[chosen] if units > 0 else taken[chosen])
        taken[chosen] += np.sign(units) * step
        units -= int(np.sign(units)) * int(step.sum())
    return taken


def cover(
    bad_debt: int, fund: int, profit: Ints, rule: str, *, score: Floats | None = None, cap_share: Floats | None = None
) -> Cover:
    """Pay `bad_debt`: the fund first, then winners by `rule` (of `ADL_RULES`), the rest stays uncovered.

    `rank` needs `score`. Raises ValueError for a negative debt, an unknown rule or a missing score.

    >>> paid = cover(100, 30, np.array([50, 40]), "rank", score=np.array([1.0, 2.0]))
    >>> paid.fund_draw, paid.adl.tolist(), paid.uncovered
    (30, [30, 40], 0)
    """
    if not bad_debt >= 0:
        raise ValueError(f"`bad_debt` must not be negative, was {bad_debt}")
    if rule not in ADL_RULES:
        raise ValueError(f"`rule` must be one of {ADL_RULES}, was {rule!r}")
    if rule == RANK and score is None:
        raise ValueError("`score` is missing: rank orders winners by it")
    paid = draw_fund(fund, bad_debt)
    rest = bad_debt - paid
    adl = np.zeros_like(profit)
    if rule == RANK and score is not None:
        adl = adl_by_rank(rest, profit, score)
    elif rule == PRO_RATA:
        adl = adl_pro_rata(rest, profit, cap_share)
    return Cover(paid, adl, rest - int(adl.sum()))
