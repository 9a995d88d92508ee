"""Mark lag: how long after the market a mark gets to a price, while a fall goes on.

Part of the fall is seen in the venue's own book alone (its basis), the rest in the index too. `last` sees all of it at
once, an index none of the venue's own part, the rules between them more of it the longer it lasts.
"""

import math
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import polars as pl

from features.mechanics.marks import mark_price
from features.mechanics.profile import MarkRule

ROWS_FALL, ROWS_MAX = 1_000, 5_000  # of the price path that asks the rule
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # only differences of stamps count


@lru_cache(maxsize=256)  # the same rules meet again when parts of venues are exchanged
def touch_s(rule: MarkRule, way: float, speed: float, local_share: float) -> float:
    """Seconds until a mark has fallen by `way`, while the book falls by `speed` and the index by the rest of it.

    The rule sees a calm market first, for as long as it looks back. Between two rows the mark is taken as a line.

    >>> [round(touch_s(MarkRule(rule), 0.04, 0.0001, 0.2)) for rule in ("last", "index")]
    [400, 500]
    """
    fall_s = way / (speed * (1 - local_share)) * (1 + 1e-6)  # the index alone: no rule is later
    step_s = max(fall_s / ROWS_FALL, (rule.basis_window_s + fall_s) / ROWS_MAX)
    time_s = np.arange(-math.ceil(rule.basis_window_s / step_s), math.ceil(fall_s / step_s) + 1) * step_s
    fallen = np.maximum(time_s, 0.0) * speed
    path = pl.DataFrame(
        {
            "ts": pl.Series(np.rint(time_s * 1e6).astype(np.int64)).cast(pl.Duration("us")) + EPOCH,
            "index": 1 - (1 - local_share) * fallen,
            "last": 1 - fallen,
            "mid": 1 - fallen,
            "funding_rate": np.zeros(len(time_s)),
            "funding_left": np.zeros(len(time_s)),
        }
    )
    mark = path.select(mark_price(rule)).to_series().to_numpy()
    after = int(np.argmax(mark <= 1 - way))
    before = after - 1
    return float(
        time_s[before] + (mark[before] - (1 - way)) / (mark[before] - mark[after]) * (time_s[after] - time_s[before])
    )
