"""What holdings tell: who would be forced next to the book, whether the collateral is worth its par, what the fund has.

Facts by plain arithmetic on positions, collateral, tiers and market facts. A breaker reads them as it reads market
facts: a value, and beside it the fault that keeps it from being observed. A table that is not given was not told.
"""

import polars as pl

from guardrails.accounts import (
    by_owner,
    collateral_usd,
    collateral_values,
    each_once,
    finite,
    first_of,
    levered,
    minute_of,
    owners,
    with_owner,
)
from guardrails.facts import LARGEST, UTC_US, Shape
from guardrails.policy import Policy

SHOCK = 0.01  # the move that counts as the next one: as far as the book of 100 bps reaches
PRICE_MAX = 10.0  # USD; no price of a dollar is above it
RATIO_MAX = 1e6  # stands for anything over an empty book
DOLLAR = "USD"  # the unit itself has no peg
NOT_TOLD = "not told"
FORCED: Shape = {
    "symbol": pl.String,
    "ts": UTC_US,
    "snapshot_ts": UTC_US,
    "forced_fall_usd": pl.Int64,
    "forced_rise_usd": pl.Int64,
    "forced_fault": pl.String,
}
DEPOSITS: Shape = {
    "account": pl.String,
    "asset": pl.String,
    "ts": UTC_US,
    "known_at": UTC_US,
    "amount": pl.Float64,
}
LOOP: Shape = {"symbol": pl.String, "ts": UTC_US, "loop_gain": pl.Float64, "loop_fault": pl.String}
PEGS: Shape = {"ts": UTC_US, "asset": pl.String, "depeg": pl.Float64, "depeg_fault": pl.String}
FUND: Shape = {"ts": UTC_US, "fund_usd": pl.Float64, "fund_drawdown": pl.Float64, "fund_fault": pl.String}


def whole_snapshots(positions: pl.DataFrame, minutes: pl.Series) -> pl.DataFrame:
    """Positions of the newest snapshot (every `ts` is one) at the first of `minutes` at which it is known whole."""
    known = positions.group_by("ts").agg(pl.col("known_at").max()).with_columns(minute=minute_of("known_at"))
    seen = known.join(first_of(minutes, known["minute"]), on="minute")
    newest = seen.filter(pl.col("ts") == pl.col("ts").max().over("tick")).select("ts", "tick")
    held = positions.join(newest, on="ts").select(
        "account", "symbol", "margin_mode", pl.col("tick").alias("ts"), pl.col("ts").alias("snapshot_ts"), "known_at",
        qty=finite("qty"), entry_price=finite("entry_price"), isolated_margin=finite("isolated_margin"),
    )  # fmt: skip
    return each_once(held.sort("ts", "account", "symbol"))


def maintenance_lines(tiers: pl.DataFrame | None, symbols: pl.Series, policy: Policy) -> pl.DataFrame:
    """One row per symbol of `symbols` with its maintenance schedule: `symbol, rate_1, deduction_1, rate_2, ...`.

    `tiers`: `symbol, maintenance_rate, deduction_usd`, one row per tier. A symbol without, or with a rate outside
    (0, 1) or an unreadable number, needs `maintenance_untiered` of its notional.
    """
    names = pl.DataFrame({"symbol": symbols.unique().sort()})
    untiered = names.with_columns(rate=pl.lit(policy.margin.maintenance_untiered), deduction=pl.lit(0.0))
    if tiers is None or tiers.is_empty() or not {"maintenance_rate", "deduction_usd"} <= set(tiers.columns):
        return untiered.rename({"rate": "rate_1", "deduction": "deduction_1"})
    lines = tiers.select("symbol", rate=finite("maintenance_rate"), deduction=finite("deduction_usd"))
    sound = (pl.col("rate").is_between(0, 1, closed="none") & (pl.col("deduction") >= 0)).fill_null(False)
    known = lines.filter(sound.all().over("symbol"), pl.col("symbol").is_in(names["symbol"].implode()))
    both = pl.concat([known, untiered.join(known, on="symbol", how="anti")])
    numbered = both.with_columns(tier=pl.int_range(1, pl.len() + 1).over("symbol"))
    count = numbered.select(pl.col("tier").max()).item() or 1
    return numbered.pivot(on="tier", on_columns=range(1, count + 1), index="symbol", values=["rate", "deduction"])


def _tiers_of(legs: pl.DataFrame) -> list[tuple[pl.Expr, pl.Expr]]:
    count = sum(name.startswith("rate_") for name in legs.columns)
    return [(pl.col(f"rate_{tier}"), pl.col(f"deduction_{tier}")) for tier in range(1, count + 1)]


def with_trip_price(legs: pl.DataFrame) -> pl.DataFrame:
    """`legs` with `maintenance_usd` and `trip`, the price of the leg at which its margin no longer suffices.

        maintenance = max over tiers of notional x rate - deduction
        trip        = (qty x price + other maintenance - deduction - equity) / (qty - rate x |qty|)
                      the highest of the tiers for a long, the lowest for a short; other legs of the account held still

    The requirement is convex, so the largest of its lines is the one in force. A long whose trip is at or above the
    price, and a short whose trip is at or below it, is past it. Null where equity or another leg cannot be told.
    """
    tiers = _tiers_of(legs)
    needed = pl.max_horizontal(pl.col("notional_usd") * rate - deduction for rate, deduction in tiers)
    isolated = (pl.col("margin_mode") == "isolated").fill_null(False)
    shared = pl.when(~isolated).then("maintenance_usd").otherwise(0.0)
    required = legs.with_columns(maintenance_usd=needed)
    of_account = by_owner(required, {"other_usd": shared}).select(pl.col("other_usd").gather(required["owner"]))
    required = required.hstack(of_account).with_columns(
        other_usd=pl.when(isolated).then(0.0).otherwise(pl.col("other_usd") - shared)
    )
    qty = pl.col("qty")
    short_of = qty * pl.col("price") + pl.col("other_usd") - pl.col("equity_usd")
    roots = [(short_of - deduction) / (qty - rate * qty.abs()) for rate, deduction in tiers]
    first = pl.when(qty > 0).then(pl.max_horizontal(roots)).otherwise(pl.min_horizontal(roots))
    return required.with_columns(trip=first)


def _legs(
    positions: pl.DataFrame, collateral: pl.DataFrame | None, tiers: pl.DataFrame | None, facts: pl.DataFrame,
    policy: Policy,
) -> pl.DataFrame:  # fmt: skip
    """Positions at the minutes of `facts` at which they became known, with price, equity and trip price."""
    snapshots = whole_snapshots(positions, facts["ts"].unique())
    held = with_owner(snapshots.filter(~(pl.col("qty") == 0).fill_null(False)))
    priced = held.join(facts.select("symbol", "ts", "price"), on=["symbol", "ts"], how="left", maintain_order="left")
    valued = priced.with_columns(
        notional_usd=(pl.col("qty") * pl.col("price")).abs(),
        profit_usd=pl.col("qty") * (pl.col("price") - pl.col("entry_price")),
    )
    given = pl.DataFrame(schema=DEPOSITS) if collateral is None else collateral
    wanted = owners(valued)
    deposits = collateral_usd(collateral_values(given, wanted, policy), wanted).select("owner", "deposit_usd")
    equity = levered(valued.join(deposits, on="owner", how="left", maintain_order="left"))
    return with_trip_price(equity.join(maintenance_lines(tiers, held["symbol"], policy), on="symbol", how="left"))


def forced(
    positions: pl.DataFrame | None,
    collateral: pl.DataFrame | None,
    tiers: pl.DataFrame | None,
    facts: pl.DataFrame,
    policy: Policy,
) -> pl.DataFrame:
    """`FORCED`: dollars of positions that a move of 1 % would force, per symbol and minute that a snapshot is known at.

        forced_fall_usd = notional of longs   with trip >= 0.99 x price
        forced_rise_usd = notional of shorts  with trip <= 1.01 x price

    Positions past their trip price count. So does a position whose equity cannot be told: as if the move forced it.
    `forced_fault` where the price, or the size of a position, cannot be told. A symbol of `facts` in which nobody holds
    a position has nothing to be forced. `facts`: `symbol, ts, price, price_fault`.
    """
    if positions is None or positions.is_empty():
        return pl.DataFrame(schema=FORCED)
    legs = _legs(positions, collateral, tiers, facts, policy)
    price, trip = pl.col("price"), pl.col("trip")
    usd = pl.col("notional_usd").clip(upper_bound=LARGEST).round().cast(pl.Int64)
    safe_long = (trip < (1 - SHOCK) * price).fill_null(False)
    safe_short = (trip > (1 + SHOCK) * price).fill_null(False)
    sums = legs.group_by("symbol", "ts").agg(
        forced_fall_usd=usd.filter((pl.col("qty") > 0) & ~safe_long).sum(),
        forced_rise_usd=usd.filter((pl.col("qty") < 0) & ~safe_short).sum(),
        forced_fault=pl.when(pl.col("qty").is_null().any()).then(pl.lit("position size missing")),
    )
    seen = whole_snapshots(positions, facts["ts"].unique()).select("ts", "snapshot_ts").unique()
    grid = facts.select("symbol", "ts", "price_fault").join(seen, on="ts").join(sums, on=["symbol", "ts"], how="left")
    return grid.select(
        "symbol", "ts", "snapshot_ts", pl.col("forced_fall_usd", "forced_rise_usd").fill_null(0),
        forced_fault=pl.coalesce("price_fault", "forced_fault"),
    ).sort("symbol", "ts").select(pl.col(name).cast(dtype) for name, dtype in FORCED.items())  # fmt: skip


def _over_book(forced_usd: str, book_usd: str) -> pl.Expr:
    usd, book = pl.col(forced_usd).cast(pl.Float64), pl.col(book_usd)
    ratio = pl.when(book > 0).then((usd / book).clip(upper_bound=RATIO_MAX))
    return ratio.otherwise(pl.when(usd == 0).then(0.0).when(book == 0).then(RATIO_MAX))


def loop_gain(
    positions: pl.DataFrame | None,
    collateral: pl.DataFrame | None,
    tiers: pl.DataFrame | None,
    facts: pl.DataFrame,
    policy: Policy,
) -> pl.DataFrame:
    """`LOOP`: how much of a book's first percent the next percent of a move would force, per row of `facts`.

        loop_gain = max(forced_fall_usd / bids within 100 bps, forced_rise_usd / asks within 100 bps)

    of the newest snapshot (`forced`) and the book of the minute: at 1 a move of 1 % forces what moves the price by
    another. Where `facts` do not tell the sides apart (`depth_bid_usd`, `depth_ask_usd`), the thinner side serves both.
    Null, with `loop_fault`, where the snapshot is older than `positions_age_min_max`, or the book or price cannot be
    told; the fault is NOT_TOLD where there are no positions at all. Source: own; contagion within one symbol (rho).
    """
    if positions is None or positions.is_empty():
        return _silent(facts.select("symbol", "ts"), LOOP, "loop_fault", f"positions {NOT_TOLD}")
    ordered = facts.sort("ts").join_asof(
        forced(positions, collateral, tiers, facts, policy).sort("ts"), on="ts", by="symbol", check_sortedness=False
    )
    sides = [name if name in facts.columns else "depth_usd" for name in ("depth_bid_usd", "depth_ask_usd")]
    stale = ~(_age_min("snapshot_ts") <= policy.inputs.positions_age_min_max)
    gains = [_over_book(usd, book) for usd, book in zip(("forced_fall_usd", "forced_rise_usd"), sides, strict=True)]
    both = pl.all_horizontal(gain.is_not_null() for gain in gains)
    fault = (
        pl.when(pl.col("snapshot_ts").is_null()).then(pl.lit("positions missing"))
        .when(stale).then(pl.lit("positions stale"))
        .otherwise(pl.coalesce("forced_fault", "depth_fault", pl.when(~both).then(pl.lit("depth missing"))))
    )  # fmt: skip
    known = ordered.with_columns(loop_fault=fault, gain=pl.max_horizontal(*gains)).sort("symbol", "ts")
    return known.select(
        "symbol", "ts", loop_gain=pl.when(pl.col("loop_fault").is_null()).then("gain"), loop_fault="loop_fault"
    )


def _peg_prices(collateral: pl.DataFrame, prices: pl.DataFrame | None) -> pl.DataFrame:
    """`asset, ts, price_usd` as known at `ts`; without `prices`, those that `collateral` carries."""
    if prices is not None:
        return prices.select("asset", pl.col("ts").cast(UTC_US), price_usd=finite("price_usd"))
    price = finite("price_usd") if "price_usd" in collateral.columns else pl.lit(None, pl.Float64)
    return collateral.select("asset", pl.col("known_at").cast(UTC_US).alias("ts"), price_usd=price)


def _in_use(collateral: pl.DataFrame, minutes: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`ts, asset`: assets at par, but the dollar, of which some account's row is not yet too old to count."""
    at_par = [asset for asset in policy.caps.assets_at_par if asset != DOLLAR]
    rows = collateral.filter(pl.col("asset").is_in(at_par), ~(pl.col("amount") == 0).fill_null(False))
    known = rows.select("asset", ts=pl.col("known_at").cast(UTC_US)).with_columns(used_at="ts")
    grid = minutes.join(known.select("asset").unique(), how="cross").sort("ts", "asset")
    seen = grid.join_asof(known.sort("ts"), on="ts", by="asset", check_sortedness=False)
    return seen.filter(_age_min("used_at") <= policy.inputs.collateral_age_min_max).select("ts", "asset")


def _age_min(since: str) -> pl.Expr:
    return (pl.col("ts") - pl.col(since)).dt.total_minutes()


def _losses(used: pl.DataFrame, quotes: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`used` with `loss`, 1 - price of the asset; null where its price is missing, old or absurd."""
    told = quotes.drop_nulls("price_usd")["asset"].unique()
    ordered = quotes.with_columns(priced_at="ts").sort("ts")
    priced = used.filter(pl.col("asset").is_in(told.implode())).join_asof(
        ordered, on="ts", by="asset", check_sortedness=False
    )
    fresh = _age_min("priced_at") <= policy.inputs.positions_age_min_max
    sound = (pl.col("price_usd").is_between(0, PRICE_MAX) & fresh).fill_null(False)
    return priced.with_columns(loss=pl.when(sound).then(1 - pl.col("price_usd")))


def _worst(losses: pl.DataFrame) -> pl.DataFrame:
    loss = pl.col("loss")
    missing = pl.col("asset").filter(loss.is_null()).sort().str.join(", ")
    by_loss = pl.col("asset").sort_by("loss", "asset", descending=[True, False], nulls_last=True)
    return losses.group_by("ts").agg(
        asset=by_loss.first(),
        depeg=loss.max(),
        depeg_fault=pl.when(loss.is_null().any()).then(pl.lit("price of ") + missing + " missing"),
    )


def _silent(minutes: pl.DataFrame, shape: Shape, fault: str, words: str) -> pl.DataFrame:
    """A row of nothing but its fault for every minute."""
    told = minutes.with_columns(pl.lit(words).alias(fault))
    return told.select(
        (pl.col(name) if name in told.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in shape.items()
    )


def pegs(
    collateral: pl.DataFrame | None, prices: pl.DataFrame | None, minutes: pl.Series, policy: Policy
) -> pl.DataFrame:
    """`PEGS`: the worst lost peg among the assets that count at par and somebody uses as collateral, at every minute.

        depeg = max over assets of 1 - price      the newest known price, at most `positions_age_min_max` old

    `asset` is the worst. `depeg_fault` names the assets whose price is missing now; `depeg` is then the worst of the
    others, null without any. An asset that has no price in the whole table is not told and left out; where that leaves
    none, or there is no collateral, the fault is NOT_TOLD. 0 where no such asset is in use. `prices`: `asset, ts,
    price_usd`; by default those that `collateral` carries in a column `price_usd`.
    """
    grid = pl.DataFrame({"ts": minutes.cast(UTC_US)}).unique().sort("ts")
    if collateral is None or collateral.is_empty():
        return _silent(grid, PEGS, "depeg_fault", f"collateral {NOT_TOLD}")
    used = _in_use(collateral, grid, policy)
    worst = _worst(_losses(used, _peg_prices(collateral, prices), policy))
    joined = grid.join(worst, on="ts", how="left").sort("ts")
    idle = ~pl.col("ts").is_in(used["ts"].unique().implode())
    untold = pl.when(pl.col("asset").is_null() & ~idle).then(pl.lit(f"peg {NOT_TOLD}"))
    return joined.with_columns(
        depeg=pl.when(idle).then(0.0).otherwise("depeg"), depeg_fault=pl.coalesce("depeg_fault", untold)
    )


def _drawdown(policy: Policy) -> pl.Expr:
    held = pl.col("fund_usd")
    highest = held.rolling_max_by("ts", f"{policy.fund.window_min}m", closed="right")
    return pl.when((highest > 0) & (held > 0)).then(1 - held / highest).when(held.is_not_null()).then(1.0)


def fund(collateral: pl.DataFrame | None, minutes: pl.Series, policy: Policy) -> pl.DataFrame:
    """`FUND`: what the insurance fund holds, and how far that is below its highest of the last day, at every minute.

        fund_usd      = collateral of the account `[fund] account`, counted as everybody's collateral is
        fund_drawdown = 1 - fund_usd / max of fund_usd over (t - window_min, t]      1 where nothing is left

    The maximum is over the minutes and the moments at which a row of the fund became known. Null, with `fund_fault`,
    where it cannot be told; NOT_TOLD where there is no such account. To be the same in every run, `collateral` must
    reach back `window_min + collateral_age_min_max` minutes before the first minute that counts.
    """
    grid = pl.DataFrame({"ts": minutes.cast(UTC_US)}).unique().sort("ts")
    account = policy.fund.account
    own = None if collateral is None else collateral.filter(pl.col("account") == account)
    if own is None or own.is_empty():
        return _silent(grid, FUND, "fund_fault", f"insurance fund {NOT_TOLD}")
    moments = pl.concat([grid["ts"], own["known_at"].cast(UTC_US)]).sort()
    wanted = owners(with_owner(pl.DataFrame({"ts": moments}).with_columns(account=pl.lit(account))))
    held = collateral_usd(collateral_values(own, wanted, policy), wanted).rename({"deposit_usd": "fund_usd"}).sort("ts")
    unknown = pl.when(pl.col("fund_usd").is_null()).then(pl.lit("insurance fund missing, stale or without a price"))
    found = held.with_columns(fund_drawdown=_drawdown(policy), fund_fault=unknown)
    return grid.join(found, on="ts", how="left").sort("ts").select(FUND.keys())
