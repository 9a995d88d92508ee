"""The caps: how much leverage a new position may have, and how much notional one account may hold, per symbol.

Both fall at once and rise only after the looser value has been allowed for `loosen_hold_min` minutes. Both move on a
ladder, so that they move rarely. With an input missing they are at the policy's floor, with that reason.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from guardrails import wording
from guardrails.margin import with_add_ons, with_margin
from guardrails.policy import Caps, Policy

LEVERAGE_CAP, EXPOSURE_CAP = "leverage_cap", "exposure_cap"
TIGHT = "tight"


def stepped(value: pl.Expr, steps: Sequence[float]) -> pl.Expr:
    """The largest step that is not above `value`; the smallest step below them all, and for null.

    >>> steps = (50, 20, 10, 1)
    >>> pl.DataFrame({"x": [49.9, 20.0, 0.2, None]}).select(stepped(pl.col("x"), steps))["x"].to_list()
    [20.0, 20.0, 1.0, 1.0]
    """
    rising = sorted(steps)
    found = pl.lit(float(rising[0]))
    for size in rising[1:]:
        found = pl.when(value >= size).then(pl.lit(float(size))).otherwise(found)
    return found.alias(value.meta.output_name())


def usd_steps(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times every power of ten between `low` and `high`, and these two, falling.

    >>> usd_steps(10_000, 60_000)
    (60000.0, 50000.0, 20000.0, 10000.0)
    """
    rungs = {float(lead * 10**power) for power in range(13) for lead in (1, 2, 5)}
    return tuple(sorted({rung for rung in rungs if low < rung < high} | {float(low), float(high)}, reverse=True))


def exposure_steps(caps: Caps) -> tuple[float, ...]:
    """The steps of the exposure cap, from its ceiling down to its floor."""
    return usd_steps(caps.exposure_floor_usd, caps.exposure_ceiling_usd)


def with_tiers(facts: pl.DataFrame, tiers: pl.DataFrame | None) -> pl.DataFrame:
    """`facts` with `tier`: the largest `leverage_max` of the symbol's tiers, null where it is not known.

    `tiers`: `symbol, leverage_max`, one row per tier (other columns are not read).
    """
    if tiers is None or tiers.is_empty():
        return facts.with_columns(tier=pl.lit(None, pl.Float64))
    usable = tiers.select("symbol", pl.col("leverage_max").cast(pl.Float64, strict=False))
    usable = usable.filter(pl.col("leverage_max").is_between(1.0, 1000.0))
    largest = usable.group_by("symbol").agg(pl.col("leverage_max").max().alias("tier"))
    return facts.join(largest, on="symbol", how="left", maintain_order="left")


def _leverage_parts(caps: Caps) -> list[pl.Expr]:
    """The leverage that each input alone would allow.

        tier          = the venue's maximum, `leverage_untiered_max` where it is not known
        by_volatility = 1 / (sigmas_covered x volatility of one hour)      margin covers that move
        by_depth      = tier x min(1, depth_ratio / depth_ratio_full)
        by_oi         = 1 / min(1, b + (1 - b) x clamp((oi / depth - lower) / (upper - lower))),  b = 1 / tier

    Source: by_oi has the form of dYdX's open-interest scaled initial margin, over depth instead of dollars.
    """
    tier = pl.col("tier").fill_null(caps.leverage_untiered_max)
    per_depth = pl.when(pl.col("depth_usd") > 0).then(pl.col("oi_usd") / pl.col("depth_usd")).otherwise(
        pl.when(pl.col("depth_usd").is_not_null() & pl.col("oi_usd").is_not_null()).then(float("inf"))
    )  # fmt: skip
    lower, upper = caps.oi_per_depth_lower, caps.oi_per_depth_upper
    crowded = ((per_depth - lower) / (upper - lower)).clip(0.0, 1.0)
    margin = 1 / tier + (1 - 1 / tier) * crowded
    return [
        tier.alias("tier_leverage"),
        (1 / (caps.sigmas_covered * pl.col("volatility_1h").clip(lower_bound=1e-9))).alias("by_volatility"),
        (tier * (pl.col("depth_ratio") / caps.depth_ratio_full).clip(upper_bound=1.0)).alias("by_depth"),
        (1 / margin).alias("by_oi"),
        per_depth.alias("oi_per_depth"),
    ]


def _faults(*faults: pl.Expr) -> pl.Expr:
    """All faults joined by a comma, null where there is none."""
    joined = pl.concat_str(*faults, separator=", ", ignore_nulls=True)
    return pl.when(joined.str.len_chars() > 0).then(joined)


def _fault_of(fact: str, short: str, *faults: str) -> pl.Expr:
    return pl.coalesce(*faults, pl.when(pl.col(fact).is_null()).then(pl.lit(short)))


def _leverage_seen(caps: Caps) -> pl.Expr:
    tightest = pl.min_horizontal("by_volatility", "by_depth", "by_oi", "tier_leverage")
    untiered = pl.when(pl.col("tier").is_null()).then(pl.lit("tier unknown, ")).otherwise(pl.lit(""))
    hour = wording.percent_expr(pl.col("volatility_1h"))
    seen = (
        pl.when(pl.col("tier_leverage") <= tightest)
        .then(wording.sentence("{}the tier allows {}", untiered, wording.times_expr(pl.col("tier_leverage"))))
        .when(pl.col("by_volatility") <= tightest)
        .then(wording.sentence("{}an hour's volatility is {}; margin covers {} of it", untiered, hour,
                        pl.lit(f"{caps.sigmas_covered:g} sd")))
        .when(pl.col("by_depth") <= tightest)
        .then(wording.sentence("{}depth is {} of its median; {} would be full", untiered,
                        wording.percent_expr(pl.col("depth_ratio")), pl.lit(wording.percent(caps.depth_ratio_full))))
        .otherwise(wording.sentence("{}open interest is {} the depth within 100 bps; margin rises above {}", untiered,
                        wording.times_expr(pl.col("oi_per_depth")), pl.lit(f"{caps.oi_per_depth_lower:g}x")))
    )  # fmt: skip
    added = wording.sentence("{}; {}", seen, pl.col("add_on_reason"))
    return pl.coalesce(added, seen)


def _held(name: str, caps: Caps) -> pl.Expr:
    """The smallest value of the last `loosen_hold_min` minutes: down at once, up only after the hold."""
    return pl.col(name).rolling_min(caps.loosen_hold_min + 1, min_samples=1).over("symbol")


def leverage_cap(
    facts: pl.DataFrame, tiers: pl.DataFrame | None, policy: Policy, pegs: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The verdict of the leverage cap for every row of `facts`: `limit` is the highest leverage of a new position.

    The tightest of what tier, volatility, depth and open interest allow; with the margin add-ons of peg and oracle on
    top, `1 / (1 / allowed + add_on)`; down to a step of the ladder; at most `leverage_floor` with an input missing; and
    no looser than at any minute of the last `loosen_hold_min`. `pegs`: `holdings.PEGS`; None: no peg is judged.
    """
    caps = policy.caps
    parts = with_tiers(with_add_ons(facts, pegs, policy), tiers).with_columns(
        fault=_faults(
            _fault_of("volatility_1h", "price history short", "price_fault"),
            _fault_of("depth_ratio", "depth history short", "depth_fault"),
            pl.col("oi_fault"),
        ),
    )
    parts = parts.with_columns(_leverage_parts(caps))
    allowed = with_margin(pl.min_horizontal("tier_leverage", "by_volatility", "by_depth", "by_oi"))
    safe = pl.when(pl.col("fault").is_null()).then(allowed).otherwise(pl.min_horizontal(allowed, caps.leverage_floor))
    now = parts.with_columns(now=stepped(safe, caps.leverage_steps)).with_columns(
        limit=_held("now", caps), full=stepped(pl.col("tier_leverage"), caps.leverage_steps)
    )
    return _cap_verdict(
        now, LEVERAGE_CAP, caps, seen=_leverage_seen(caps), amount=wording.times_expr(pl.col("limit")),
        limit_unit="x", observed=safe, threshold=pl.col("tier_leverage"), unit="x",
        floor=f"{caps.leverage_floor:g}x",
    )  # fmt: skip


def exposure_cap(facts: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """The verdict of the exposure cap for every row of `facts`: `limit` is the most USD one account may hold.

        min(exposure_ceiling_usd, exposure_depth_share x depth_usd, exposure_oi_share x oi_usd)

    down to a step of 1-2-5 times a power of ten, never below `exposure_floor_usd`, at that floor with an input
    missing, and no looser than at any minute of the last `loosen_hold_min`.
    """
    caps = policy.caps
    by_depth = pl.col("depth_usd") * caps.exposure_depth_share
    by_oi = pl.col("oi_usd") * caps.exposure_oi_share
    allowed = pl.min_horizontal(by_depth, by_oi, pl.lit(float(caps.exposure_ceiling_usd)))
    parts = facts.with_columns(fault=_faults(pl.col("depth_fault"), pl.col("oi_fault")))
    safe = pl.when(pl.col("fault").is_null()).then(allowed).otherwise(float(caps.exposure_floor_usd))
    now = parts.with_columns(now=stepped(safe, exposure_steps(caps))).with_columns(
        limit=_held("now", caps), full=pl.lit(float(caps.exposure_ceiling_usd))
    )
    seen = (
        pl.when(by_depth <= by_oi)
        .then(wording.sentence("{} of the {} within 100 bps", pl.lit(wording.percent(caps.exposure_depth_share)),
                        wording.usd_expr(pl.col("depth_usd"))))
        .otherwise(wording.sentence("{} of the open interest of {}", pl.lit(wording.percent(caps.exposure_oi_share)),
                             wording.usd_expr(pl.col("oi_usd"))))
    )  # fmt: skip
    return _cap_verdict(
        now, EXPOSURE_CAP, caps, seen=seen, amount=wording.usd_expr(pl.col("limit")), limit_unit="USD",
        observed=safe, threshold=pl.lit(float(caps.exposure_ceiling_usd)), unit="USD",
        floor=f"{caps.exposure_floor_usd:,} USD",
    )  # fmt: skip


def _cap_verdict(
    rows: pl.DataFrame, rule: str, caps: Caps, *, seen: pl.Expr, amount: pl.Expr, limit_unit: str,
    observed: pl.Expr, threshold: pl.Expr, unit: str, floor: str,
) -> pl.DataFrame:  # fmt: skip
    missing, tight = pl.col("fault").is_not_null(), pl.col("limit") < pl.col("full")
    name = rule.replace("_", " ")
    held = pl.col("limit") < pl.col("now")
    why = pl.when(held).then(pl.lit(f"held until more has been allowed for {caps.loosen_hold_min} min")).otherwise(seen)
    return rows.select(
        "venue", "symbol", "ts",
        rule=pl.lit(rule),
        state=pl.when(missing).then(pl.lit("missing")).when(tight).then(pl.lit(TIGHT)).otherwise(pl.lit("clear")),
        verdict=pl.when(missing).then(pl.lit("missing")).when(tight).then(pl.lit("tripped")).otherwise(pl.lit("clear")),
        severity=pl.lit(0),
        limit="limit", limit_unit=pl.lit(limit_unit),
        observed=pl.when(~missing).then(observed), threshold=threshold, unit=pl.lit(unit), fault="fault",
        reason=pl.when(missing)
        .then(wording.sentence(name + " is {}: {}; safe side is at most " + floor, amount, pl.col("fault")))
        .when(tight)
        .then(wording.sentence(name + " is {}: {}", amount, why)),
        clears_when=pl.when(missing)
        .then(pl.lit(f"rises {caps.loosen_hold_min} min after every input is present"))
        .when(tight)
        .then(pl.lit(f"rises after {caps.loosen_hold_min} min that allow more")),
        reset_authority=pl.lit("timer"),
    )  # fmt: skip


def judge(
    facts: pl.DataFrame,
    tiers: pl.DataFrame | None,
    policy: Policy,
    after: datetime | None,
    pegs: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Verdicts of both caps for the rows with `ts` after `after`; the rows before serve the windows."""
    verdicts = leverage_cap(facts, tiers, policy, pegs), exposure_cap(facts, policy)
    if after is None:
        return verdicts
    leverage, exposure = (verdict.filter(pl.col("ts") > after) for verdict in verdicts)
    return leverage, exposure
