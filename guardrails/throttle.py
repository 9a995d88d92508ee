"""The liquidation throttle: how much forced flow the book of a symbol can take in the next minute.

Forced orders come faster than a thin book refills. Each window lets through a share of the book; what was forced in the
window counts against it, and the window refills as that grows old. Something always goes through: an account that
cannot be liquidated keeps losing, and its loss becomes everybody's.
"""

import polars as pl

from guardrails import wording
from guardrails.caps import stepped, usd_steps
from guardrails.exposures import book_usd
from guardrails.facts import KEY, LARGEST, UTC_US, Shape
from guardrails.policy import Policy

CAPACITY_MAX_USD = 1e12  # the highest step
SCHEMA: Shape = {
    "venue": pl.String,
    "symbol": pl.String,
    "ts": UTC_US,
    "capacity_usd": pl.Int64,  # what a window lets through
    "used_usd": pl.Int64,  # of it, in the window that ends now; null where it cannot be told
    "left_usd": pl.Int64,  # what may be forced in the next minute
    "verdict": pl.String,  # clear, tripped, missing
    "fault": pl.String,
    "reason": pl.String,
    "clears_when": pl.String,
    "policy_version": pl.Int64,
    "policy_sha256": pl.String,
}


def _forced(bars: pl.DataFrame) -> pl.DataFrame:
    """Dollars forced in each bar; null where the bar does not tell both sides as numbers of 0 or more."""
    sides = [
        pl.col(name).cast(pl.Float64, strict=False) if name in bars.columns else pl.lit(None, pl.Float64)
        for name in ("liq_long_usd", "liq_short_usd")
    ]
    usable = [pl.when(side.is_between(0, LARGEST)).then(side.round().cast(pl.Int64)) for side in sides]
    return bars.select(*KEY, forced_usd=usable[0] + usable[1])


def _capacity(policy: Policy) -> pl.Expr:
    """What a window lets through: down to a step of 1-2-5, the least with the book missing, up only after the hold."""
    rule = policy.throttle
    share = book_usd() * rule.depth_share_per_min * rule.window_min
    steps = stepped(share.alias("capacity"), usd_steps(rule.min_usd, CAPACITY_MAX_USD))
    return steps.rolling_min(policy.caps.loosen_hold_min + 1, min_samples=1).over("symbol").cast(pl.Int64)


def throttle(facts: pl.DataFrame, bars: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`SCHEMA`: what may be forced in the next minute, for every row of `facts` (by symbol and minute, without gaps).

        capacity = depth_share_per_min x window_min x book      the thinner side within 100 bps now, or its own median
        used     = liq_long_usd + liq_short_usd over the bars (t - window_min, t]
        left     = max(capacity - used, min_usd)

    Capacity is down to a step, no higher than at any minute of the last `loosen_hold_min`, and `min_usd` with the book
    missing; `left` is `min_usd` where what was used cannot be told. Never 0. `tripped` where the window is used up.
    Source: Synthetix v3 liquidation windows, Vega's share of the book side; dYdX's limits per block.
    """
    window, least = policy.throttle.window_min, policy.throttle.min_usd
    joined = facts.join(_forced(bars), on=KEY, how="left", maintain_order="left")
    known = joined.with_columns(
        capacity_usd=_capacity(policy),
        used_usd=pl.col("forced_usd").rolling_sum(window, min_samples=window).over("symbol"),
    )
    left = pl.max_horizontal(pl.col("capacity_usd") - pl.col("used_usd"), least)
    untold = pl.when(pl.col("used_usd").is_null()).then(pl.lit("forced flow missing"))
    fault = pl.concat_str("depth_fault", untold, separator=", ", ignore_nulls=True)
    judged = known.with_columns(
        left_usd=pl.when(pl.col("used_usd").is_not_null()).then(left).otherwise(least),
        fault=pl.when(fault.str.len_chars() > 0).then(fault),
    )
    return _worded(judged, policy)


def _worded(judged: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    window = policy.throttle.window_min
    missing, spent = pl.col("fault").is_not_null(), ~(pl.col("used_usd") < pl.col("capacity_usd"))
    left, used, capacity = (
        wording.usd_expr(pl.col(name).cast(pl.Float64)) for name in ("left_usd", "used_usd", "capacity_usd")
    )
    seen = wording.sentence(
        f"{{}} forced in {window} min, the book takes {{}}; {{}} may be forced in the next minute", used, capacity, left
    )
    return judged.select(
        *KEY, "capacity_usd", "used_usd", "left_usd",
        verdict=pl.when(missing).then(pl.lit("missing")).when(spent).then(pl.lit("tripped")).otherwise(pl.lit("clear")),
        fault="fault",
        reason=pl.when(missing)
        .then(wording.sentence("{}; safe side: {} may be forced in the next minute", "fault", left))
        .when(spent)
        .then(seen),
        clears_when=pl.when(missing)
        .then(pl.lit("clears when every input is present"))
        .when(spent)
        .then(pl.lit(f"clears as flow grows older than {window} min")),
        policy_version=pl.lit(policy.version), policy_sha256=pl.lit(policy.sha256),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())  # fmt: skip
