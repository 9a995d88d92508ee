"""Structure: who would be forced to trade, into which book, per symbol and snapshot of positions.

Positions tell what a market cannot: how much notional trips its maintenance margin within the next few percent, how
levered the accounts behind it are, and whether one of them is the market.
"""

from functools import reduce

import polars as pl

from features.mechanics.margin import Tier, maintenance_usd, tiers_from, trip_price
from features.schema import Structure, polars_schema

USD_ASSETS = ("USD", "USDT", "USDC", "FDUSD", "BUSD", "DAI", "TUSD")  # one dollar a unit
NEAR = 0.05  # how far a price must move before its trips no longer count
LEVERAGE_MAX = 1_000.0  # stands for equity of 0 or less
MARK_AGE_MAX = "1h"
UNKNOWN_TIERS = (Tier(0.05, 0.0),)  # a contract without tiers is taken for a demanding one
SNAPSHOT = ("venue", "ts")
LEG = ("venue", "symbol", "ts")
OWNER = ("venue", "account", "ts")


def _seen(positions: pl.DataFrame, collateral: pl.DataFrame) -> pl.DataFrame:
    """When each snapshot of positions was known whole: the latest `known_at` of its rows, collateral included."""
    stamps = pl.concat([frame.select(*SNAPSHOT, "known_at") for frame in (positions, collateral)])
    latest = stamps.group_by(SNAPSHOT).agg(pl.col("known_at").max().alias("seen_at"))
    return positions.select(SNAPSHOT).unique().join(latest, on=SNAPSHOT).sort("seen_at")


def _quotes(wanted: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
    """Newest price known at `seen_at` for each venue, symbol, ts of `wanted`; null beyond MARK_AGE_MAX."""
    prices = marks.select("venue", "symbol", "known_at", pl.coalesce("mark", "index", "last").alias("quote"))
    return (
        wanted.unique()
        .sort("seen_at")
        .join_asof(
            prices.drop_nulls().sort("known_at"),
            left_on="seen_at",
            right_on="known_at",
            by=["venue", "symbol"],
            tolerance=MARK_AGE_MAX,
            check_sortedness=False,
        )
        .select(*LEG, "quote")
    )


def _with_contract(legs: pl.DataFrame, instruments: pl.DataFrame) -> pl.DataFrame:
    """Adds the row number of the instrument in force at `ts`, -1 where none is known."""
    numbered = instruments.with_row_index("contract").select("venue", "symbol", "effective_from", "contract")
    return (
        legs.sort("ts")
        .join_asof(
            numbered.with_columns(pl.col("contract").cast(pl.Int64)).sort("effective_from"),
            left_on="ts",
            right_on="effective_from",
            by=["venue", "symbol"],
            check_sortedness=False,
        )
        .with_columns(pl.col("contract").fill_null(-1))
    )


def _tiers(instruments: pl.DataFrame) -> dict[int, tuple[Tier, ...]]:
    """Tiers by row number of `instruments`; UNKNOWN_TIERS where an instrument names none."""
    return {row: tiers_from(tiers) or UNKNOWN_TIERS for row, tiers in enumerate(instruments["tiers"].to_list())}


def _by_contract(legs: pl.DataFrame, tiers: dict[int, tuple[Tier, ...]], column: str) -> pl.DataFrame:
    """Adds `column`, computed per contract with its own tiers: maintenance margin or trip price."""
    formulas = {
        "maintenance_usd": lambda lines: maintenance_usd(pl.col("notional_usd"), lines),
        "trip": lambda lines: trip_price(
            pl.col("qty"), pl.col("price"), pl.col("equity_usd"), pl.col("other_usd"), lines
        ),
    }
    parts = [
        part.with_columns(formulas[column](tiers.get(int(part["contract"][0]), UNKNOWN_TIERS)).alias(column))
        for part in legs.partition_by("contract", maintain_order=True)
    ]
    return pl.concat(parts)


def _legs(positions: pl.DataFrame, seen: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame) -> pl.DataFrame:
    """Open positions with price, notional, profit and maintenance margin; the entry price stands in for no mark."""
    held = positions.drop("known_at").join(seen, on=SNAPSHOT)
    quoted = held.join(_quotes(held.select(*LEG, "seen_at"), marks), on=LEG, how="left")
    priced = quoted.with_columns(pl.coalesce("quote", "entry_price").alias("price")).with_columns(
        (pl.col("qty").abs() * pl.col("price")).alias("notional_usd"),
        (pl.col("qty") * (pl.col("price") - pl.col("entry_price"))).alias("profit_usd"),
        (pl.col("margin_mode") == "cross").alias("cross"),
    )
    return _by_contract(_with_contract(priced, instruments), _tiers(instruments), "maintenance_usd")


def _unit_values(pairs: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame) -> pl.DataFrame:
    """Dollars a unit of each asset is worth as collateral, and its haircut, per venue, asset, ts.

    USD_ASSETS count 1 each, others the mark of the first symbol (by name) with that base; 0 without one.
    """
    wanted = pairs.select("venue", "asset", "ts", "seen_at").unique()
    symbols = instruments.group_by("venue", pl.col("base").alias("asset")).agg(pl.col("symbol").min())
    named = wanted.join(symbols, on=["venue", "asset"], how="left")
    quotes = _quotes(named.drop_nulls("symbol").select(*LEG, "seen_at"), marks)
    cuts = instruments.select("venue", pl.col("base").alias("asset"), "effective_from", "haircut").drop_nulls()
    cut = named.sort("ts").join_asof(
        cuts.sort("effective_from", "haircut"),
        left_on="ts",
        right_on="effective_from",
        by=["venue", "asset"],
        check_sortedness=False,
    )
    unit = pl.when(pl.col("asset").is_in(USD_ASSETS)).then(1.0).otherwise(pl.col("quote").fill_null(0.0))
    return cut.join(quotes, on=LEG, how="left").select(
        "venue", "asset", "ts", unit.alias("unit_usd"), pl.col("haircut").fill_null(0.0)
    )


def _cash(
    owners: pl.DataFrame, collateral: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame
) -> pl.DataFrame:
    """Dollars of collateral per venue, account, ts: `sum(amount * unit * (1 - haircut))`, debts without haircut."""
    assets = collateral.select("venue", "account", "asset").unique()
    pairs = owners.join(assets, on=["venue", "account"]).sort("seen_at")
    known = collateral.select("venue", "account", "asset", "known_at", "amount").sort("known_at")
    keys = ["venue", "account", "asset"]
    held = pairs.join_asof(known, left_on="seen_at", right_on="known_at", by=keys, check_sortedness=False)
    valued = held.drop_nulls("amount").join(_unit_values(pairs, marks, instruments), on=["venue", "asset", "ts"])
    kept = pl.when(pl.col("amount") > 0).then(1.0 - pl.col("haircut")).otherwise(1.0)
    value = pl.col("amount") * pl.col("unit_usd") * kept
    return valued.sort(*OWNER, "asset").group_by(OWNER, maintain_order=True).agg(value.sum().alias("cash_usd"))


def _with_equity(legs: pl.DataFrame, cash: pl.DataFrame) -> pl.DataFrame:
    """Adds equity, the other legs' maintenance margin and leverage: of the account if cross, of the leg if isolated."""
    cross = legs.filter("cross").sort(*OWNER, "symbol").group_by(OWNER, maintain_order=True)
    sums = cross.agg(pl.col("profit_usd", "maintenance_usd", "notional_usd").sum().name.prefix("account_"))
    own = pl.col("isolated_margin").fill_null(0.0) + pl.col("profit_usd")
    shared = pl.col("cash_usd").fill_null(0.0) + pl.col("account_profit_usd")
    other = pl.col("account_maintenance_usd") - pl.col("maintenance_usd")
    gross = pl.when("cross").then("account_notional_usd").otherwise("notional_usd")
    leverage = pl.when(pl.col("equity_usd") > 0).then(gross / pl.col("equity_usd")).otherwise(LEVERAGE_MAX)
    joined = reduce(lambda left, right: left.join(right, on=OWNER, how="left"), (cash, sums), legs)
    return joined.with_columns(
        pl.when("cross").then(shared).otherwise(own).alias("equity_usd"),
        pl.when("cross").then(other).otherwise(0.0).alias("other_usd"),
    ).with_columns(leverage.clip(0.0, LEVERAGE_MAX).alias("leverage"))


def _summary(legs: pl.DataFrame) -> pl.DataFrame:
    """One row per venue, symbol, ts; `legs` carry trip price, notional and leverage."""
    long = (pl.col("qty") > 0) & (pl.col("trip") >= (1 - NEAR) * pl.col("price"))
    short = (pl.col("qty") < 0) & (pl.col("trip") <= (1 + NEAR) * pl.col("price"))
    usd = pl.col("notional_usd").round().cast(pl.Int64)
    reached = pl.col("notional_usd").cum_sum() / pl.col("notional_usd").sum()
    by_account = legs.group_by(*LEG, "account").agg(usd.sum().alias("account_usd"))
    largest = by_account.group_by(LEG).agg((pl.col("account_usd").max() / pl.col("account_usd").sum()).alias("largest"))
    rows = (
        legs.sort(*LEG, "leverage", "account")
        .group_by(LEG, maintain_order=True)
        .agg(
            pl.col("seen_at").first().alias("known_at"),
            usd.filter(long).sum().alias("fuel_long_500bps_usd"),
            usd.filter(short).sum().alias("fuel_short_500bps_usd"),
            usd.sum().alias("position_usd"),
            pl.col("leverage").filter(reached >= 0.5).first().round(6).alias("leverage_p50"),
            pl.col("leverage").filter(reached >= 0.9).first().round(6).alias("leverage_p90"),
        )
    )
    share = pl.when(pl.col("largest").is_finite()).then(pl.col("largest")).alias("largest_share")
    return rows.join(largest, on=LEG).with_columns(share)


def structure(
    positions: pl.DataFrame, collateral: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame
) -> pl.DataFrame:
    """Who could be forced to trade, per snapshot of positions and symbol, in the shape of `Structure`.

    Every `ts` of `positions` is a whole snapshot. Prices, collateral and instruments are those known at the time. A
    position's trip price is where its account (if cross; the other legs held still) or its own margin (if isolated)
    equals its maintenance margin; it is fuel if that lies within 5 %, or if it is already past it. Collateral does not
    contain isolated margin. What is unknown counts on the unsafe side: an account without collateral has none, a
    contract without tiers needs 5 %, an asset without price is worth nothing. Dollars of inverse contracts are
    approximated by the linear formula. No rows for no positions.
    """
    schema = polars_schema(Structure)
    held = positions.filter(pl.col("qty").is_finite() & (pl.col("qty") != 0))
    if held.is_empty():
        return pl.DataFrame(schema=schema)
    legs = _legs(held, _seen(positions, collateral), marks, instruments)
    owners = legs.select(*OWNER, "seen_at").unique()
    funded = _with_equity(legs, _cash(owners, collateral, marks, instruments))
    tripped = _by_contract(funded, _tiers(instruments), "trip")
    found = _summary(tripped)
    return found.select(
        (pl.col(name) if name in found.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    ).sort("symbol", "ts")
