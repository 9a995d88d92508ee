"""Structure: who would be forced to trade, into which book, per symbol and snapshot of positions.

Positions tell what a market cannot: how much notional trips its maintenance margin within the next few percent, how
levered the accounts behind it are, and whether one of them is the market.
"""

from functools import reduce

import polars as pl

from features.mechanics.margin import Tier, maintenance_usd, tiers_from, trip_price
from features.schema import Structure, polars_schema

USD_ASSETS = ("USD", "USDT", "USDC", "FDUSD", "BUSD", "DAI", "TUSD")  # one dollar a unit
STABLECOINS = (
    *USD_ASSETS[1:],
    "USDE",
    "USDS",
    "PYUSD",
    "FRAX",
    "GUSD",
    "UST",
    "USTC",
)  # promise a dollar, may break it
BANDS_BPS = (100, 200, 500)  # how far a price moves before the trips that count
QUANTILES = (10, 25, 50, 75, 90, 99)  # of account leverage, in percent of notional
LEVERS = (10, 20, 50)  # leverages above which notional is counted
TOP = 10  # accounts that count as the largest
PEG_OVER_ROOM_MAX = 1e6
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
    lost = pl.when(pl.col("asset").is_in(STABLECOINS)).then(1e4 * (1 - pl.col("quote")).clip(lower_bound=0.0))
    return cut.join(quotes, on=LEG, how="left").select(
        "venue", "asset", "ts", unit.alias("unit_usd"), pl.col("haircut").fill_null(0.0), lost.alias("depeg_bps")
    )


def _cash(
    owners: pl.DataFrame, collateral: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame
) -> pl.DataFrame:
    """Dollars of collateral per venue, account, ts: `sum(amount * unit * (1 - haircut))`, debts without haircut.

    `deposit_usd` is what of it is no debt, `coin_usd` its part that is neither dollars nor stablecoins, `stable_usd`
    the stablecoins, `depeg_bps` the worst of their lost pegs that is known.
    """
    assets = collateral.select("venue", "account", "asset").unique()
    pairs = owners.join(assets, on=["venue", "account"]).sort("seen_at")
    known = collateral.select("venue", "account", "asset", "known_at", "amount").sort("known_at")
    keys = ["venue", "account", "asset"]
    held = pairs.join_asof(known, left_on="seen_at", right_on="known_at", by=keys, check_sortedness=False)
    valued = held.drop_nulls("amount").join(_unit_values(pairs, marks, instruments), on=["venue", "asset", "ts"])
    kept = pl.when(pl.col("amount") > 0).then(1.0 - pl.col("haircut")).otherwise(1.0)
    value = pl.col("amount") * pl.col("unit_usd") * kept
    deposit = value.clip(lower_bound=0.0)
    stable, dollar = pl.col("asset").is_in(STABLECOINS), pl.col("asset") == USD_ASSETS[0]
    return (
        valued.sort(*OWNER, "asset")
        .group_by(OWNER, maintain_order=True)
        .agg(
            value.sum().alias("cash_usd"),
            deposit.sum().alias("deposit_usd"),
            deposit.filter(~stable & ~dollar).sum().alias("coin_usd"),
            deposit.filter(stable).sum().alias("stable_usd"),
            pl.col("depeg_bps").filter(pl.col("amount") > 0).max().alias("depeg_bps"),
        )
    )


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


def _fuel(side: str, band_bps: int) -> pl.Expr:
    """Notional of one side whose trip price lies within `band_bps` of the price, or past it."""
    near = band_bps / 1e4
    long = (pl.col("qty") > 0) & (pl.col("trip") >= (1 - near) * pl.col("price"))
    short = (pl.col("qty") < 0) & (pl.col("trip") <= (1 + near) * pl.col("price"))
    usd = pl.col("notional_usd").round().cast(pl.Int64)
    return usd.filter(long if side == "long" else short).sum().alias(f"fuel_{side}_{band_bps}bps_usd")


def _by_leverage(legs: pl.DataFrame) -> pl.DataFrame:
    """Sums and quantiles over the legs of each venue, symbol, ts."""
    notional, leverage = pl.col("notional_usd"), pl.col("leverage")
    reached = notional.cum_sum() / notional.sum()
    needed = pl.col("maintenance_usd") + pl.col("other_usd")
    used = pl.when(pl.col("equity_usd") > 0).then((needed / pl.col("equity_usd")).clip(0.0, 1.0)).otherwise(1.0)
    usd = notional.round().cast(pl.Int64)
    return (
        legs.sort(*LEG, "leverage", "account")
        .group_by(LEG, maintain_order=True)
        .agg(
            pl.col("seen_at").first().alias("known_at"),
            *(_fuel(side, band) for side in ("long", "short") for band in BANDS_BPS),
            usd.sum().alias("position_usd"),
            usd.filter(needed > pl.col("equity_usd")).sum().alias("overdue_usd"),
            *(leverage.filter(reached >= q / 100).first().round(6).alias(f"leverage_p{q}") for q in QUANTILES),
            *((notional.filter(leverage > x).sum() / notional.sum()).alias(f"over_{x}x_share") for x in LEVERS),
            ((used * notional).sum() / notional.sum()).round(9).alias("margin_used"),
        )
    )


def _by_account(legs: pl.DataFrame) -> pl.DataFrame:
    """Concentration over the accounts of each venue, symbol, ts, and which side the TOP largest are on."""
    usd = pl.col("notional_usd").round().cast(pl.Int64)
    accounts = legs.group_by(*LEG, "account").agg(
        usd.sum().alias("account_usd"), usd.filter(pl.col("qty") > 0).sum().alias("long_usd")
    )
    share = pl.col("account_usd") / pl.col("account_usd").sum()
    top_long, top = (pl.col(name).head(TOP).sum() for name in ("long_usd", "account_usd"))
    found = (
        accounts.sort(*LEG, "account_usd", "account", descending=[False, False, False, True, False])
        .group_by(LEG, maintain_order=True)
        .agg(
            share.max().alias("largest_share"),
            (1 / share.pow(2).sum()).alias("accounts_effective"),
            (top_long / top).alias("top10_long_share"),
        )
    )
    names = ("largest_share", "accounts_effective", "top10_long_share")
    return found.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in names)


def _by_collateral(legs: pl.DataFrame) -> pl.DataFrame:
    """What the cross accounts of each venue, symbol, ts rely on: coins, stablecoins, and the pegs of those."""
    room = (pl.col("equity_usd") - pl.col("maintenance_usd") - pl.col("other_usd")).clip(lower_bound=0.0)
    holders = (
        legs.filter("cross")
        .sort(*LEG, "account")
        .group_by(*LEG, "account", maintain_order=True)
        .agg(pl.col("deposit_usd", "coin_usd", "stable_usd", "depeg_bps").first(), room.first().alias("room_usd"))
    )
    deposit, stable, free = (pl.col(name).sum() for name in ("deposit_usd", "stable_usd", "room_usd"))
    relied = pl.when(free > 0).then((stable / free).clip(upper_bound=PEG_OVER_ROOM_MAX))
    return holders.group_by(LEG, maintain_order=True).agg(
        pl.when(deposit > 0).then((pl.col("coin_usd").sum() / deposit).clip(0.0, 1.0)).alias("collateral_other_share"),
        relied.otherwise(pl.when(stable > 0).then(PEG_OVER_ROOM_MAX).otherwise(0.0)).alias("stable_over_room"),
        pl.col("depeg_bps").max().round(6).alias("depeg_bps"),
    )


def _summary(legs: pl.DataFrame) -> pl.DataFrame:
    """One row per venue, symbol, ts; `legs` carry trip price, notional, leverage and their account's collateral."""
    parts = (_by_leverage(legs), _by_account(legs), _by_collateral(legs))
    return reduce(lambda left, right: left.join(right, on=LEG, how="left", maintain_order="left"), parts)


def structure(
    positions: pl.DataFrame, collateral: pl.DataFrame, marks: pl.DataFrame, instruments: pl.DataFrame
) -> pl.DataFrame:
    """Who could be forced to trade, per snapshot of positions and symbol, in the shape of `Structure`.

    Every `ts` of `positions` is a whole snapshot. Prices, collateral and instruments are those known at the time. A
    position's trip price is where its account (if cross; the other legs held still) or its own margin (if isolated)
    equals its maintenance margin; it is fuel of a band if that lies within it, or if it is already past it. Collateral
    does not contain isolated margin: what accounts rely on is told of cross accounts alone, null without one. What is
    unknown counts on the unsafe side: an account without collateral has none, a contract without tiers needs 5 %, an
    asset without price is worth nothing. Dollars of inverse contracts are approximated by the linear formula. No rows
    for no positions.
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
