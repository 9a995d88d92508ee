"""Accounts over their caps, at every positions snapshot: columns over accounts, no loop over them.

A row says that the account may only reduce until it is inside again; it is not a forced sale. What cannot be computed
(no collateral, no price, a number that is not finite) is over the cap, with that reason.
"""

from datetime import datetime

import polars as pl

from guardrails import wording
from guardrails.facts import UTC_US, Shape
from guardrails.policy import Policy

ALL = "*"  # the symbol of a row about the whole account
SCHEMA: Shape = {
    "venue": pl.String,
    "account": pl.String,
    "symbol": pl.String,
    "ts": UTC_US,
    "snapshot_ts": UTC_US,
    "rule": pl.String,
    "verdict": pl.String,
    "leverage": pl.Float64,
    "leverage_cap": pl.Float64,
    "notional_usd": pl.Float64,
    "exposure_cap_usd": pl.Int64,
    "excess_usd": pl.Int64,
    "action": pl.String,
    "reason": pl.String,
    "policy_version": pl.Int64,
    "policy_sha256": pl.String,
}


def _minute(known_at: str) -> pl.Expr:
    """The first full minute at which a row is known."""
    return (pl.col(known_at) - pl.duration(microseconds=1)).dt.truncate("1m") + pl.duration(minutes=1)


def _finite(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def _held(positions: pl.DataFrame, minutes: pl.Series, since: datetime | None) -> pl.DataFrame:
    """Open positions by the first of `minutes` at which they are known; an account's newest snapshot in it."""
    known = positions.with_columns(snapshot_ts=pl.col("ts"), minute=_minute("known_at").cast(SCHEMA["ts"]))
    ticks = pl.DataFrame({"tick": minutes}).sort("tick")
    known = known.sort("minute").join_asof(ticks, left_on="minute", right_on="tick", strategy="forward")
    known = known.filter(pl.col("tick").is_not_null())
    known = known if since is None else known.filter(pl.col("tick") > since)
    newest = known.filter(pl.col("snapshot_ts") == pl.col("snapshot_ts").max().over("account", "tick"))
    return newest.filter(~(pl.col("qty") == 0).fill_null(False)).select(
        "account", "symbol", "snapshot_ts", pl.col("tick").alias("ts"), "margin_mode",
        qty=_finite("qty"), entry_price=_finite("entry_price"), isolated_margin=_finite("isolated_margin"),
    ).sort("ts", "account", "symbol")  # fmt: skip


def _priced(held: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    """Positions with the price and the caps in force at their minute."""
    caps = limits.select("symbol", "ts", "price", "leverage_cap", "exposure_cap_usd")
    return held.join(caps, on=["symbol", "ts"], how="left", maintain_order="left").with_columns(
        notional_usd=(pl.col("qty") * pl.col("price")).abs(),
        profit_usd=pl.col("qty") * (pl.col("price") - pl.col("entry_price")),
    )


def collateral_usd(collateral: pl.DataFrame | None, wanted: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`wanted` (account, ts) with `deposit_usd`: the account's newest collateral known at `ts`, in dollars.

    An asset in `assets_at_par` counts one dollar a unit; another needs a `price_usd` column and loses `haircut_other`
    of its value (a debt gains it). Null where an amount or price is missing or the newest row is older than
    `collateral_age_min_max`.
    """
    if collateral is None or collateral.is_empty():
        return wanted.with_columns(deposit_usd=pl.lit(None, pl.Float64))
    caps = policy.caps
    price = _finite("price_usd") if "price_usd" in collateral.columns else pl.lit(None, pl.Float64)
    other = _finite("amount") * price
    cut = pl.when(other > 0).then(other * (1 - caps.haircut_other)).otherwise(other * (1 + caps.haircut_other))
    valued = collateral.sort("known_at", "ts").select(
        "account", "asset", pl.col("known_at").cast(SCHEMA["ts"]).alias("ts"),
        known_at=pl.col("known_at").cast(SCHEMA["ts"]),
        value=pl.when(pl.col("asset").is_in(caps.assets_at_par)).then(_finite("amount")).otherwise(cut),
    )  # fmt: skip
    pairs = wanted.join(valued.select("account", "asset").unique(), on="account").sort("ts", "account", "asset")
    newest = pairs.join_asof(valued, on="ts", by=["account", "asset"], strategy="backward", check_sortedness=False)
    newest = newest.filter(pl.col("known_at").is_not_null())
    fresh = (pl.col("ts") - pl.col("known_at")).dt.total_minutes() <= policy.inputs.collateral_age_min_max
    whole = (pl.col("value").is_not_null() & fresh).all()
    total = newest.group_by("account", "ts", maintain_order=True).agg(
        pl.when(whole).then(pl.col("value").sum()).alias("deposit_usd")
    )
    return wanted.join(total, on=["account", "ts"], how="left")


def _levered(priced: pl.DataFrame, collateral: pl.DataFrame | None, policy: Policy) -> pl.DataFrame:
    """Leverage of every position: of the whole cross account, or of the isolated position against its own margin."""
    wanted = priced.select("account", "ts").unique().sort("ts", "account")
    funded = priced.join(collateral_usd(collateral, wanted, policy), on=["account", "ts"], how="left")
    isolated = (pl.col("margin_mode") == "isolated").fill_null(False)
    cross = ["account", "ts", "margin_mode"]
    whole = pl.col("notional_usd").is_not_null().all().over(cross) & pl.col("profit_usd").is_not_null().all().over(
        cross
    )
    equity = (
        pl.when(isolated)
        .then(pl.col("isolated_margin") + pl.col("profit_usd"))
        .when(whole)
        .then(pl.col("deposit_usd") + pl.col("profit_usd").sum().over(cross))
    )
    exposed = pl.when(isolated).then("notional_usd").when(whole).then(pl.col("notional_usd").sum().over(cross))
    return funded.with_columns(equity_usd=equity, exposed_usd=exposed).with_columns(
        leverage=pl.when(pl.col("equity_usd") > 0)
        .then(pl.col("exposed_usd") / pl.col("equity_usd"))
        .when(pl.col("equity_usd") <= 0)
        .then(float("inf"))
    )


def _whole_usd(amount: pl.Expr) -> pl.Expr:
    return amount.ceil().clip(upper_bound=1e15).cast(pl.Int64)


def _breaches(levered: pl.DataFrame) -> pl.DataFrame:
    inside_leverage = (pl.col("leverage") <= pl.col("leverage_cap")).fill_null(False)
    inside_exposure = (pl.col("notional_usd") <= pl.col("exposure_cap_usd")).fill_null(False)
    known = pl.all_horizontal(pl.col("leverage", "leverage_cap", "notional_usd", "exposure_cap_usd").is_not_null())
    share = pl.when(pl.col("exposed_usd") > 0).then(pl.col("notional_usd") / pl.col("exposed_usd")).otherwise(0.0)
    over_leverage = (
        pl.col("exposed_usd") - pl.col("leverage_cap") * pl.col("equity_usd").clip(lower_bound=0.0)
    ) * share
    over_exposure = pl.col("notional_usd") - pl.col("exposure_cap_usd")
    return levered.filter(~(inside_leverage & inside_exposure)).with_columns(
        rule=pl.when(inside_leverage & ~inside_exposure).then(pl.lit("exposure_cap")).otherwise(pl.lit("leverage_cap")),
        verdict=pl.when(known).then(pl.lit("tripped")).otherwise(pl.lit("missing")),
        excess_usd=pl.when(known).then(_whole_usd(pl.max_horizontal(over_leverage, over_exposure, 0.0))),
    )


def _reason() -> pl.Expr:
    missing = pl.concat_str(
        pl.when(pl.col("price").is_null()).then(pl.lit("price")),
        pl.when(pl.col("qty").is_null()).then(pl.lit("quantity")),
        pl.when(pl.col("equity_usd").is_null()).then(pl.lit("equity")),
        pl.when(pl.col("leverage_cap").is_null()).then(pl.lit("cap in force")),
        separator=", ",
        ignore_nulls=True,
    )
    seen = wording.sentence(
        "leverage is {}, cap {}; notional is {}, cap {}; the account may only reduce until inside both",
        pl.when(pl.col("leverage").is_finite())
        .then(wording.times_expr(pl.col("leverage")))
        .otherwise(pl.lit("without equity")),
        wording.times_expr(pl.col("leverage_cap")),
        wording.usd_expr(pl.col("notional_usd")),
        wording.usd_expr(pl.col("exposure_cap_usd").cast(pl.Float64)),
    )
    return (
        pl.when(pl.col("verdict") == "missing")
        .then(wording.sentence("{} missing; safe side: the account may only reduce", missing))
        .otherwise(seen)
    )


def _above_ceiling(levered: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Accounts whose gross notional over all symbols is above the ceiling or cannot be told."""
    ceiling = policy.caps.account_ceiling_usd
    whole = pl.col("notional_usd").is_not_null().all()
    gross = levered.group_by("account", "ts", maintain_order=True).agg(
        pl.col("snapshot_ts").max(), pl.when(whole).then(pl.col("notional_usd").sum()).alias("notional_usd")
    )
    return gross.filter(~(pl.col("notional_usd") <= ceiling).fill_null(False))


def _worded_whole(over: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    ceiling = policy.caps.account_ceiling_usd
    limit = pl.select(wording.usd_expr(pl.lit(float(ceiling)))).item()
    seen = "gross notional over all symbols is {}, cap " + limit + "; the account may only reduce until inside"
    return over.with_columns(
        symbol=pl.lit(ALL), rule=pl.lit("account_ceiling"), exposure_cap_usd=pl.lit(ceiling, pl.Int64),
        leverage=pl.lit(None, pl.Float64), leverage_cap=pl.lit(None, pl.Float64),
        verdict=pl.when(pl.col("notional_usd").is_null()).then(pl.lit("missing")).otherwise(pl.lit("tripped")),
        excess_usd=_whole_usd(pl.col("notional_usd") - ceiling),
        reason=pl.coalesce(
            wording.sentence(seen, wording.usd_expr(pl.col("notional_usd"))),
            pl.lit("gross notional cannot be told; safe side: the account may only reduce"),
        ),
    )  # fmt: skip


def over_caps(
    positions: pl.DataFrame | None,
    collateral: pl.DataFrame | None,
    limits: pl.DataFrame,
    minutes: pl.Series,
    policy: Policy,
    *,
    since: datetime | None,
) -> pl.DataFrame:
    """One row per account and symbol over a cap (`SCHEMA`), for every positions snapshot known after `since`.

        notional = |qty| x price        profit = qty x (price - entry_price)     price = the bar's, at the minute
        cross:    leverage = sum of notional / (collateral + sum of profit)      over the account's cross positions
        isolated: leverage = notional / (isolated_margin + profit)
        excess_usd = max(notional - exposure cap, its share of (notional - leverage cap x equity)), rounded up;
                     null where the verdict is missing

    A snapshot is judged at the first of `minutes` (those that have bars) at which it is known, with that minute's
    `limits` (which carry `price` here); symbol `*` speaks of the whole account against `account_ceiling_usd`.
    """
    if positions is None or positions.is_empty() or limits.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    held = _held(positions, minutes, since)
    if held.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    levered = _levered(_priced(held, limits), collateral, policy)
    single, whole = _breaches(levered), _above_ceiling(levered, policy)
    worded = [single.with_columns(reason=_reason()), _worded_whole(whole, policy)]
    return pl.concat(worded, how="diagonal_relaxed").with_columns(
        venue=pl.lit(limits["venue"][0]), action=pl.lit("reduce"),
        policy_version=pl.lit(policy.version), policy_sha256=pl.lit(policy.sha256),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).sort("ts", "account", "symbol")  # fmt: skip
