"""Accounts over their caps, at every positions snapshot: columns over accounts, no loop over them.

A row says that the account may only reduce until it is inside again; it is not a forced sale. What cannot be computed
(no collateral, no price, a number that is not finite) is over the cap, with that reason. Every cap is one Boolean
expression over all accounts; sentences are made only for those that are not inside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from guardrails import wording
from guardrails.facts import LARGEST, UTC_US, Shape
from guardrails.policy import Policy

ALL = "*"  # the symbol of a row about the whole account
CLUSTER, ASSET = "cluster:", "asset:"  # how the symbol of a row about a cluster or a collateral asset begins
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
VALUES: Shape = {
    "owner": pl.UInt32,
    "account": pl.String,
    "ts": UTC_US,
    "asset": pl.String,
    "worth_usd": pl.Float64,
    "counted_usd": pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Cap:
    """One cap over a table: kept while column `observed` is from 0 to column `limit`, both in USD or both a ratio.

    Written as the condition that allows: null, NaN, infinite or negative on either side is not kept.
    """

    rule: str
    observed: str
    limit: str
    what: str = ""  # "gross notional over all symbols": how a sentence begins
    subject: str | None = None  # `symbol` of its rows; None: the rows have one

    def inside(self) -> pl.Expr:
        """Whether a row is inside; null where one of the two is."""
        limit = pl.col(self.limit)
        return pl.col(self.observed).is_between(0.0, limit) & (limit <= LARGEST)

    def kept(self) -> pl.Expr:
        """Whether a row is inside, never null.

        >>> rows = pl.DataFrame({"x": [5.0, 5.1, None, float("nan"), -1.0, 1.0], "cap": [5.0] * 5 + [float("nan")]})
        >>> rows.select(Cap("r", "x", "cap").kept()).to_series().to_list()
        [True, False, False, False, False, False]
        """
        return self.inside().fill_null(False)


LEVERAGE = Cap("leverage_cap", "leverage", "leverage_cap")
EXPOSURE = Cap("exposure_cap", "notional_usd", "exposure_cap_usd")
COLLATERAL = Cap("collateral_cap", "worth_usd", "worth_usd_max", "collateral in one asset")


def minute_of(known_at: str) -> pl.Expr:
    """The first full minute at which a row is known, in whatever unit that was told."""
    return (pl.col(known_at).cast(UTC_US) - pl.duration(microseconds=1)).dt.truncate("1m") + pl.duration(minutes=1)


def finite(name: str) -> pl.Expr:
    """Column `name` as Float64, null where it is not a finite number."""
    value = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def with_owner(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows`, sorted by ts and account, with `owner`: 0, 1, ... for each account and minute.

    >>> with_owner(pl.DataFrame({"ts": [1, 1, 1, 2], "account": ["x", "x", "y", "x"]}))["owner"].to_list()
    [0, 0, 1, 2]
    """
    changed = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in ("ts", "account"))
    return rows.with_columns(owner=changed.cum_sum() - 1)


def by_owner(rows: pl.DataFrame, sums: dict[str, pl.Expr]) -> pl.DataFrame:
    """The sum of each of `sums` (finite numbers) over an owner, one row per owner in their order; null where a term is.

    NaN stands for null on the way, because a sum keeps it.
    """
    terms = rows.select(pl.col("owner").set_sorted(), **{name: term.fill_null(math.nan) for name, term in sums.items()})
    return terms.group_by("owner", maintain_order=True).agg(pl.all().sum()).fill_nan(None)


def owners(rows: pl.DataFrame) -> pl.DataFrame:
    """`owner, account, ts`, once each, of rows `with_owner`."""
    first = pl.col("owner").ne_missing(pl.col("owner").shift(1))
    return rows.select("owner", "account", "ts").filter(first)


def first_of(minutes: pl.Series, wanted: pl.Series) -> pl.DataFrame:
    """`minute, tick`: for every one of `wanted` the first of `minutes` that is not before it; none, no row."""
    asked = pl.DataFrame({"minute": wanted.unique().sort()})
    ticks = pl.DataFrame({"tick": minutes.cast(UTC_US).unique().sort()})
    return asked.join_asof(ticks, left_on="minute", right_on="tick", strategy="forward").drop_nulls("tick")


def each_once(held: pl.DataFrame) -> pl.DataFrame:
    """`held`, sorted by ts, account and symbol, with one row for each: what a snapshot told twice counts as told last.

    Of two that became known together the larger counts, and one whose size cannot be told before both.
    """
    key = ("ts", "account", "symbol")
    again = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in key)
    if held.select(again.any()).item():
        ranked = held.sort(*key, "known_at", pl.col("qty").abs(), nulls_last=True)
        held = ranked.unique(key, keep="last", maintain_order=True)
    return held.drop("known_at")


def held_at(positions: pl.DataFrame, minutes: pl.Series, since: datetime | None) -> pl.DataFrame:
    """Open positions by the first of `minutes` at which they are known; an account's newest snapshot in it.

    Sorted by ts, account and symbol, `with_owner`.
    """
    known = positions.with_columns(snapshot_ts=pl.col("ts"), minute=minute_of("known_at"))
    ticks = first_of(minutes, known["minute"])
    known = known.join(ticks if since is None else ticks.filter(pl.col("tick") > since), on="minute")
    newest = known.filter(pl.col("snapshot_ts") == pl.col("snapshot_ts").max().over("account", "tick"))
    held = newest.select(
        "account", "symbol", "snapshot_ts", pl.col("tick").alias("ts"), "known_at", "margin_mode",
        qty=finite("qty"), entry_price=finite("entry_price"), isolated_margin=finite("isolated_margin"),
    )  # fmt: skip
    once = each_once(held.sort("ts", "account", "symbol"))
    return with_owner(once.filter(~(pl.col("qty") == 0).fill_null(False)))


def _priced(held: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    """Positions with the price and the caps in force at their minute."""
    caps = limits.select("symbol", "ts", "price", "leverage_cap", "exposure_cap_usd")
    return held.join(caps, on=["symbol", "ts"], how="left", maintain_order="left").with_columns(
        notional_usd=(pl.col("qty") * pl.col("price")).abs(),
        profit_usd=pl.col("qty") * (pl.col("price") - pl.col("entry_price")),
    )


def collateral_values(collateral: pl.DataFrame, wanted: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`VALUES`: the newest collateral known at `ts` of every `owner, account, ts` of `wanted`, by asset.

    An asset in `assets_at_par` is worth one dollar a unit and counts whole; another needs a `price_usd` column, and
    `haircut_other` of its worth does not count (of a debt, it counts on top). Null where an amount or price is missing,
    absurdly large, or the row is older than `collateral_age_min_max`.
    """
    caps = policy.caps
    price = finite("price_usd") if "price_usd" in collateral.columns else pl.lit(None, pl.Float64)
    at_par = pl.col("asset").is_in(caps.assets_at_par)
    valued = collateral.sort("known_at", "ts").select(
        "account", "asset", pl.col("known_at").cast(SCHEMA["ts"]).alias("ts"),
        known_at=pl.col("known_at").cast(SCHEMA["ts"]),
        worth_usd=finite("amount") * pl.when(at_par).then(1.0).otherwise(price),
    )  # fmt: skip
    pairs = wanted.join(valued.select("account", "asset").unique(), on="account").sort("owner", "asset")
    newest = pairs.join_asof(valued, on="ts", by=["account", "asset"], strategy="backward", check_sortedness=False)
    age_min = (pl.col("ts") - pl.col("known_at")).dt.total_minutes()
    sound = (age_min <= policy.inputs.collateral_age_min_max) & pl.col("worth_usd").is_between(-LARGEST, LARGEST)
    worth = pl.when(sound).then("worth_usd")
    cut = pl.when(at_par).then(0.0).when(worth > 0).then(caps.haircut_other).otherwise(-caps.haircut_other)
    return newest.filter(pl.col("known_at").is_not_null()).select(
        "owner", "account", "ts", "asset", worth_usd=worth, counted_usd=worth * (1 - cut)
    )


def collateral_usd(values: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """`wanted` (`owner`) with `deposit_usd`: what its `collateral_values` count; null without one, or if one is."""
    total = by_owner(values, {"deposit_usd": pl.col("counted_usd")})
    return wanted.join(total, on="owner", how="left", maintain_order="left")


def _funded(priced: pl.DataFrame, collateral: pl.DataFrame | None, policy: Policy) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Positions with their account's `deposit_usd`, and the values it is made of."""
    if collateral is None or collateral.is_empty():
        return priced.with_columns(deposit_usd=pl.lit(None, pl.Float64)), pl.DataFrame(schema=VALUES)
    values = collateral_values(collateral, owners(priced), policy)
    deposits = collateral_usd(values, owners(priced)).select("owner", "deposit_usd")
    return priced.join(deposits, on="owner", how="left", maintain_order="left"), values


def levered(funded: pl.DataFrame) -> pl.DataFrame:
    """Equity and leverage of every position: of the cross account as a whole, or of an isolated position by itself."""
    isolated = (pl.col("margin_mode") == "isolated").fill_null(False)
    shared = {name: pl.when(~isolated).then(name).otherwise(0.0) for name in ("notional_usd", "profit_usd")}
    of_account = by_owner(funded, shared).select(pl.exclude("owner").gather(funded["owner"]).name.prefix("account_"))
    whole = pl.all_horizontal(pl.col("account_notional_usd", "account_profit_usd").is_not_null())
    equity = (
        pl.when(isolated)
        .then(pl.col("isolated_margin") + pl.col("profit_usd"))
        .when(whole)
        .then(pl.col("deposit_usd") + pl.col("account_profit_usd"))
    )
    exposed = pl.when(isolated).then("notional_usd").when(whole).then("account_notional_usd")
    funded = funded.hstack(of_account)
    return funded.with_columns(equity_usd=equity, exposed_usd=exposed).with_columns(
        leverage=pl.when(pl.col("equity_usd") > 0)
        .then(pl.col("exposed_usd") / pl.col("equity_usd"))
        .when(pl.col("equity_usd") <= 0)
        .then(float("inf"))
    )


def _whole_usd(amount: pl.Expr) -> pl.Expr:
    return amount.ceil().clip(upper_bound=1e15).cast(pl.Int64)


def _breaches(levered: pl.DataFrame) -> pl.DataFrame:
    inside_leverage, inside_exposure = LEVERAGE.kept(), EXPOSURE.kept()
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


def cluster_caps(limits: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """The cap of every cluster of the policy at every `ts` of `limits`: `ts, cap:<name>...`, in USD.

        min(cluster_ceiling_usd, cluster_symbol_caps x the largest exposure cap in force of its symbols)

    `exposure_floor_usd` stands in where none of its symbols has a cap.
    """
    caps = policy.caps
    largest = [
        pl.col("exposure_cap_usd").filter(pl.col("symbol").is_in(symbols)).max().fill_null(caps.exposure_floor_usd)
        .cast(pl.Float64).mul(caps.cluster_symbol_caps).clip(upper_bound=caps.cluster_ceiling_usd).alias(f"cap:{name}")
        for name, symbols in policy.clusters.items()
    ]  # fmt: skip
    return limits.group_by("ts").agg(largest)


def _whole_accounts(positions: pl.DataFrame, limits: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """One row per account and minute: gross notional over all symbols and per cluster, and the caps of both."""
    names = {symbol: name for name, symbols in policy.clusters.items() for symbol in symbols}
    cluster = pl.col("symbol").replace_strict(names, default="", return_dtype=pl.String)
    sums = {"gross_usd": pl.col("notional_usd")} | {
        f"usd:{name}": pl.when(pl.col("cluster") == name).then("notional_usd").otherwise(0.0)
        for name in policy.clusters
    }
    gross = by_owner(positions.with_columns(cluster=cluster), sums).drop("owner")
    snapshots = positions.group_by(pl.col("owner").set_sorted(), maintain_order=True).agg(pl.col("snapshot_ts").max())
    gross = owners(positions).hstack(gross.hstack([snapshots["snapshot_ts"]]))
    ceiling = pl.lit(float(policy.caps.account_ceiling_usd)).alias("gross_usd_max")
    return gross.join(cluster_caps(limits, policy), on="ts", how="left").with_columns(ceiling)


def account_caps(policy: Policy) -> tuple[Cap, ...]:
    """The caps of an account as a whole: its ceiling, and one for each cluster of the policy."""
    whole = Cap("account_ceiling", "gross_usd", "gross_usd_max", "gross notional over all symbols", ALL)
    clusters = (
        Cap("cluster_cap", f"usd:{name}", f"cap:{name}", f"gross notional in {name}", CLUSTER + name)
        for name in policy.clusters
    )
    return whole, *clusters


def _assets(values: pl.DataFrame, snapshots: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """What every account holds in each asset that is not at par, and the most of it that may stand behind positions.

        worth_usd_max = max(collateral_share_account_max x worth of all its deposits, exposure_floor_usd)

    A debt is worth 0 here. Null where the worth of a deposit cannot be told.
    """
    caps = policy.caps
    worth = pl.col("worth_usd").clip(lower_bound=0.0)
    at_par = pl.col("asset").is_in(caps.assets_at_par)
    mixed = values.join(values.filter(~at_par).select("owner"), on="owner", how="semi")
    total = pl.when(worth.is_not_null().all()).then(worth.sum()).over("owner")
    allowed = pl.when(total.is_not_null()).then(
        pl.max_horizontal(total * caps.collateral_share_account_max, float(caps.exposure_floor_usd))
    )
    held = mixed.with_columns(worth_usd=worth, worth_usd_max=allowed).filter(~at_par)
    return held.join(snapshots, on="owner").with_columns(symbol=ASSET + pl.col("asset"))


def _broken(over: pl.DataFrame, cap: Cap) -> pl.DataFrame:
    """The rows that do not keep one cap, with what was `seen`, its `limit`, and in words `what` that is."""
    return over.filter(~cap.kept()).select(
        "account", "ts", "snapshot_ts",
        symbol=pl.col("symbol") if cap.subject is None else pl.lit(cap.subject),
        rule=pl.lit(cap.rule), what=pl.lit(cap.what), seen=cap.observed, limit=cap.limit,
    )  # fmt: skip


def _worded(broken: pl.DataFrame) -> pl.DataFrame:
    """Rows of `SCHEMA` about caps that are not kept."""
    seen, limit = pl.col("seen"), pl.col("limit")
    known = seen.is_finite() & limit.is_finite()
    told = wording.sentence("{} is {}, cap {}; the account may only reduce until inside",
                            "what", wording.usd_expr(seen), wording.usd_expr(limit))  # fmt: skip
    untold = wording.sentence("{} cannot be told; safe side: the account may only reduce", "what")
    return broken.select(
        "account", "ts", "snapshot_ts", "symbol", "rule",
        verdict=pl.when(known).then(pl.lit("tripped")).otherwise(pl.lit("missing")),
        notional_usd=seen, exposure_cap_usd=limit.cast(pl.Int64, strict=False),
        excess_usd=pl.when(known).then(_whole_usd(seen - limit)),
        reason=pl.when(known).then(told).otherwise(untold),
    )  # fmt: skip


def breaches(rows: pl.DataFrame, caps: Sequence[Cap]) -> pl.DataFrame:
    """One row per row of `rows` and cap that it does not keep: `account, ts, snapshot_ts, symbol, rule, verdict`, the
    observed and allowed USD, the excess and a sentence.

    The caps are judged over all rows at once; what follows is done for the rows that broke one.
    """
    inside = pl.all_horizontal(cap.inside() for cap in caps).fill_null(False)
    over = rows[rows.select((~inside).arg_true()).to_series()]
    return _worded(pl.concat([_broken(over, cap) for cap in caps]))


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
    `limits` (which carry `price` here). Symbol `*` speaks of the whole account against `account_ceiling_usd`,
    `cluster:<name>` of its positions in a cluster against the cluster's cap (`cluster_caps`), and `asset:<name>` of its
    collateral in one asset that is not at par (`notional_usd` is then the worth of it). A position that was told twice
    in one snapshot counts as told last.
    """
    if positions is None or positions.is_empty() or limits.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    held = held_at(positions, minutes, since)
    if held.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    funded, values = _funded(_priced(held, limits), collateral, policy)
    whole = _whole_accounts(funded, limits, policy)
    found = [
        _breaches(levered(funded)).with_columns(reason=_reason()),
        breaches(whole, account_caps(policy)),
        breaches(_assets(values, whole.select("owner", "snapshot_ts"), policy), (COLLATERAL,)),
    ]
    return pl.concat(found, how="diagonal_relaxed").with_columns(
        venue=pl.lit(limits["venue"][0]), action=pl.lit("reduce"),
        policy_version=pl.lit(policy.version), policy_sha256=pl.lit(policy.sha256),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).sort("ts", "account", "symbol")  # fmt: skip
