"""Mark price: the price that decides who is liquidated, and how it differs from the price at which they are sold.

    last       last
    index      index
    median     median of (index * (1 + funding_rate * funding_left), index + mean of basis over a window, last)
    index_ema  index + EMA of basis, EMA += (1 - exp(-dt / tau)) * (basis - EMA), starting at the first basis

with `basis = mid - index`. A price path is a frame with the columns `ts` (UTC microseconds, rising), `index`, `last`,
`mid`, and for the median `funding_rate` (the last one, per interval) and `funding_left` (share of the interval until
the next, 1 to 0). Stamps may be irregular. For several symbols use `.over("symbol")`.
"""

import math
from datetime import timedelta
from typing import NamedTuple

import polars as pl

from features.mechanics.profile import MarkRule

RULES = ("last", "index", "median", "index_ema")


def basis_usd() -> pl.Expr:
    """`mid - index`, in quote units per base unit."""
    return pl.col("mid") - pl.col("index")


def ema(x: pl.Expr, tau_s: float) -> pl.Expr:
    """Exponential moving average over irregular stamps: `out += (1 - exp(-dt / tau)) * (x - out)`, first `out = x`.

    Null where `x` is; the next value then counts for the whole time since the last one.

    Raises ValueError unless `tau_s` is positive.

    >>> stamps = pl.datetime_range(*[pl.datetime(2026, 1, 1, 0, m) for m in (0, 2)], "1m", eager=True)
    >>> path = pl.DataFrame({"ts": stamps, "x": [0.0, 1.0, 1.0]})
    >>> path.select(ema(pl.col("x"), 60.0).round(6))["x"].to_list()
    [0.0, 0.632121, 0.864665]
    """
    if not tau_s > 0:
        raise ValueError(f"tau_s must be positive, was {tau_s}")
    half_life_ns = round(tau_s * math.log(2) * 1e9)
    stamps_ns = pl.col("ts").dt.timestamp("us") * 1_000
    return x.ewm_mean_by(stamps_ns, half_life=f"{half_life_ns}i")


def time_to_absorb_s(share: float, tau_s: float) -> float:
    """Seconds after which an EMA has taken up `share` of a step: `-tau * log(1 - share)`.

    Raises ValueError unless `share` is in [0, 1) and `tau_s` is positive.

    >>> [round(time_to_absorb_s(share, 150.0)) for share in (0.5, 0.9, 0.95)]
    [104, 345, 449]
    """
    if not (0 <= share < 1 and tau_s > 0):
        raise ValueError(f"share must be in [0, 1) and tau_s positive, were {share} and {tau_s}")
    return -tau_s * math.log1p(-share)


def median_of_three(a: pl.Expr, b: pl.Expr, c: pl.Expr) -> pl.Expr:
    """The middle one; null where any of them is null or not finite.

    >>> pl.select(median_of_three(pl.lit(3.0), pl.lit(1.0), pl.lit(2.0))).item()
    2.0
    """
    low, high = pl.min_horizontal(a, b), pl.max_horizontal(a, b)
    known = a.is_finite() & b.is_finite() & c.is_finite()
    return pl.when(known).then(pl.max_horizontal(low, pl.min_horizontal(high, c)))


def _median(window_s: float) -> pl.Expr:
    if not window_s > 0:
        raise ValueError(f"basis_window_s must be positive for the rule `median`, was {window_s}")
    by_funding = pl.col("index") * (1 + pl.col("funding_rate") * pl.col("funding_left"))
    usual = basis_usd().rolling_mean_by("ts", window_size=timedelta(seconds=window_s))
    return median_of_three(by_funding, pl.col("index") + usual, pl.col("last"))


def mark_price(rule: MarkRule) -> pl.Expr:
    """The mark of a price path under a venue's rule; null where what the rule needs is missing.

    Raises ValueError for an unknown rule or one without its time constant.

    >>> path = pl.DataFrame({"index": [100.0], "last": [99.0]})
    >>> [path.select(mark_price(MarkRule(rule))).item() for rule in ("index", "last")]
    [100.0, 99.0]
    """
    if rule.rule == "median":
        return _median(rule.basis_window_s)
    if rule.rule == "index_ema":
        return pl.col("index") + ema(basis_usd(), rule.ema_s)
    if rule.rule in {"last", "index"}:
        return pl.col(rule.rule)
    raise ValueError(f"mark rule must be one of {RULES}, was {rule.rule!r}")


class Touch(NamedTuple):
    """The first moment at which a mark is beyond a liquidation price; None where that never happens on the path."""

    time_s: float | None  # since the first row of the path
    mark: float | None
    last: float | None  # what the position would be sold at


NEVER = Touch(None, None, None)


class RuleGap(NamedTuple):
    """One position on one price path under two mark rules. Differences are second less first, None if one never is."""

    first: Touch
    second: Touch
    time_s: float | None
    mark: float | None
    last: float | None  # how much higher the second venue's position is sold


def first_touch(path: pl.DataFrame, rule: MarkRule, qty: float, liquidation_price: float) -> Touch:
    """When a position is liquidated: the first row whose mark is below `liquidation_price` (long) or above it (short).

    Equal is safe. A row whose mark is null cannot liquidate. Raises ValueError unless `qty` is positive or negative.
    """
    if not (qty > 0 or qty < 0):
        raise ValueError(f"qty must be positive or negative, was {qty}")
    marked = path.select("ts", "last", mark_price(rule).alias("mark"))
    beyond = (pl.col("mark") < liquidation_price) if qty > 0 else (pl.col("mark") > liquidation_price)
    touched = marked.filter(beyond & pl.col("mark").is_finite()).head(1)
    if touched.is_empty():
        return NEVER
    start, (ts, last, mark) = path["ts"][0], touched.row(0)
    return Touch((ts - start).total_seconds(), mark, last)


def compare_rules(
    path: pl.DataFrame, first: MarkRule, second: MarkRule, qty: float, liquidation_price: float
) -> RuleGap:
    """By how much two venues that differ only in their mark rule liquidate the same position apart, in time and price.

    >>> stamps = pl.datetime_range(*[pl.datetime(2026, 1, 1, 0, m) for m in (0, 2)], "1m", eager=True)
    >>> path = pl.DataFrame({"ts": stamps, "index": [100.0, 99.0, 95.0], "last": [100.0, 95.5, 94.0]})
    >>> gap = compare_rules(path, MarkRule("last"), MarkRule("index"), qty=1.0, liquidation_price=96.0)
    >>> gap.time_s, gap.mark, gap.last  # the index is there a minute later, when the market pays 1.5 less
    (60.0, -0.5, -1.5)
    """
    one, two = (first_touch(path, rule, qty, liquidation_price) for rule in (first, second))
    return RuleGap(one, two, *(None if a is None or b is None else b - a for a, b in zip(one, two, strict=True)))
