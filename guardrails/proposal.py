"""The model's wish, bounded by the rules: it may tighten a hard limit for a while, and nothing else."""

import polars as pl

from guardrails.facts import UTC_US, Shape
from guardrails.policy import Policy, ProposalBounds

SCHEMA: Shape = {
    "venue": pl.String,
    "symbol": pl.String,
    "ts": UTC_US,
    "leverage_cap_wish": pl.Float64,
    "proposed_at": UTC_US,
    "valid_until": UTC_US,
}


def _newest(limits: pl.DataFrame, proposals: pl.DataFrame, bounds: ProposalBounds) -> pl.DataFrame:
    """`limits` with the newest proposal that could have an effect by then: `proposed_at + delay_min <= ts`.

    Of several made at the same moment the smallest wish is taken; an unusable one (null, NaN) before a usable one.
    """
    wish = pl.col("leverage_cap_wish").cast(pl.Float64, strict=False)
    known = proposals.select(
        "venue", "symbol", "valid_until", "proposed_at",
        wish=pl.when(wish.is_finite() & (wish > 0)).then(wish),
        about=pl.col("ts"),
        ts=pl.col("proposed_at") + pl.duration(minutes=bounds.delay_min),
    ).drop_nulls(["venue", "symbol", "proposed_at"])  # fmt: skip
    one = known.sort("ts", "wish", nulls_last=False).unique(
        ["venue", "symbol", "ts"], keep="first", maintain_order=True
    )
    ordered = limits.with_row_index("_order").sort("ts")
    joined = ordered.join_asof(
        one.sort("ts"), on="ts", by=["venue", "symbol"], strategy="backward", check_sortedness=False
    )
    return joined.sort("_order").drop("_order")


def _alive(bounds: ProposalBounds) -> pl.Expr:
    """The condition that allows a wish to count; null anywhere makes it false."""
    age = pl.col("ts") - pl.col("proposed_at")
    fresh = age <= pl.duration(minutes=bounds.ttl_min)
    return (fresh & (pl.col("ts") <= pl.col("valid_until")) & (pl.col("about") <= pl.col("proposed_at"))).fill_null(
        False
    )


def bounded(limits: pl.DataFrame, proposals: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`limits` with `leverage_cap_hard`, `leverage_cap_effective` and `proposal` (what became of the wish).

        lowest    = max(hard x (1 - relative_change_max), leverage_min)
        effective = min(hard, max(wish, lowest))      where the newest proposal is alive and its wish is usable
        effective = hard                              everywhere else

    Alive: `ts <= proposed_at <= t - delay_min`, `t <= valid_until`, and not older than `ttl_min`. Usable: finite and
    above zero. Every step is measured from the hard cap, so steps do not add up. All columns of `limits` stay as they
    are. `proposals`: `SCHEMA`.

    `proposal` is one of: none, expired, unusable, no tighter, bounded, taken.
    """
    bounds = policy.proposal
    if proposals.is_empty():
        proposals = pl.DataFrame(schema=SCHEMA)
    rows = _newest(limits, proposals, bounds)
    hard, wish, alive = pl.col("leverage_cap"), pl.col("wish"), _alive(bounds)
    lowest = pl.max_horizontal(hard * (1 - bounds.relative_change_max), bounds.leverage_min)
    usable = alive & wish.is_not_null()
    effective = pl.when(usable).then(pl.min_horizontal(hard, pl.max_horizontal(wish, lowest))).otherwise(hard)
    verdict = (
        pl.when(pl.col("proposed_at").is_null())
        .then(pl.lit("none"))
        .when(~alive)
        .then(pl.lit("expired"))
        .when(wish.is_null())
        .then(pl.lit("unusable"))
        .when(wish >= hard)
        .then(pl.lit("no tighter"))
        .when(wish < lowest)
        .then(pl.lit("bounded"))
        .otherwise(pl.lit("taken"))
    )
    return rows.with_columns(
        leverage_cap_hard=hard, leverage_cap_effective=effective, proposal=verdict
    ).drop("wish", "about", "proposed_at", "valid_until")  # fmt: skip
