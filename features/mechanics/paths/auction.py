"""Dutch auction: a share of the account is sold at a falling price; bidders carry the risk, not the book (Derive v2).

    BM = equity - maintenance * (1 + buffer)                         buffer margin, what the account lacks
    d(t) falls from `start` to `cutoff` in `fast_s`, from there to 0 in `slow_s`, each linearly
    bid = equity * d + reserve * (1 - d)                             price of the whole account
    f   = BM / (BM - bid)                                            share that leaves BM = 0 behind

An account without equity is sold whole, for nothing. Bidders come once the discount `1 - d` pays them, and hedge
`hedge_share` of what they take over in the book.
"""

import math

from features.mechanics.paths.step import STEP_S, Floats, Param, Take, compiled

BUFFER, START, CUTOFF, FAST_S, SLOW_S, RESERVE_USD, BIDDER_EDGE, HEDGE_SHARE = range(1, 9)
ROUNDING = 1e-12  # 1 - 0.9 is a little less than 0.1
PARAMS = (
    Param("buffer", 0.0, 10.0, None, "share of maintenance that the auction restores beyond it"),
    Param("start", 0.0, 1.0, 1.0, "first bid, as a share of equity"),
    Param("cutoff", 0.0, 1.0, None, "bid at which the fast phase ends, as a share of equity"),
    Param("fast_s", 1e-6, math.inf, None, "length of the fast phase"),
    Param("slow_s", 1e-6, math.inf, None, "length of the slow phase"),
    Param("reserve_usd", 0.0, math.inf, 0.0, "cash of the account that is not for sale"),
    Param("bidder_edge", 0.0, 1.0, 0.0, "discount at which bidders come"),
    Param("hedge_share", 0.0, 1.0, 1.0, "share of what they take over that bidders sell into the book"),
)


@compiled
def discount(time_s: float, params: Floats) -> float:
    """`d(t)`, the bid as a share of equity, `time_s` after the start.

    >>> import numpy as np
    >>> rules = np.array([10.0, 0.1, 1.0, 0.8, 100.0, 400.0, 0.0, 0.0, 1.0])
    >>> [round(discount(t, rules), 12) for t in (0.0, 50.0, 100.0, 300.0, 900.0)]
    [1.0, 0.9, 0.8, 0.4, 0.0]
    """
    if time_s < params[FAST_S]:
        return float(params[START] - (params[START] - params[CUTOFF]) * time_s / params[FAST_S])
    return float(params[CUTOFF] * max(1.0 - (time_s - params[FAST_S]) / params[SLOW_S], 0.0))


@compiled
def sold_share(equity_usd: float, maintenance_usd: float, d: float, params: Floats) -> float:
    """`f` at discount `d`: 0 where nothing is lacking, 1 where the account has no equity.

    >>> import numpy as np
    >>> rules = np.array([10.0, 0.1, 1.0, 0.8, 100.0, 400.0, 0.0, 0.0, 1.0])
    >>> [round(sold_share(300.0, 400.0, d, rules), 6) for d in (1.0, 0.9)]  # BM = 300 - 400 * 1.1 = -140
    [0.318182, 0.341463]
    """
    lacking = maintenance_usd * (1.0 + params[BUFFER]) - equity_usd
    if not lacking > 0.0:
        return 0.0
    if not equity_usd > 0.0:
        return 1.0
    bid = equity_usd * d + params[RESERVE_USD] * (1.0 - d)
    return float(lacking / (lacking + bid))


@compiled
def take(position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats) -> Take:
    """`f * position` once bidders come; they pay `f * bid` for `f * equity`.

    >>> import numpy as np
    >>> rules = np.array([50.0, 0.1, 1.0, 0.8, 100.0, 400.0, 0.0, 0.05, 0.5])
    >>> take(4_000.0, 300.0, 400.0, 0, rules)
    Take(close_usd=0.0, book_share=0.5, discount_usd=0.0)
    >>> [round(value, 3) for value in take(4_000.0, 300.0, 400.0, 1, rules)]  # d = .9, f = .341463, pays 92.195
    [1365.854, 0.5, 10.244]
    """
    d = discount(step * params[STEP_S], params)
    if equity_usd > 0.0 and 1.0 - d < params[BIDDER_EDGE] - ROUNDING:
        return Take(0.0, params[HEDGE_SHARE], 0.0)
    f = sold_share(equity_usd, maintenance_usd, d, params)
    bid = equity_usd * d + params[RESERVE_USD] * (1.0 - d)
    return Take(f * position_usd, params[HEDGE_SHARE], f * max(equity_usd - bid, 0.0))
