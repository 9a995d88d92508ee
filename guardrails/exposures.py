"""What all accounts together may hold: open interest over the book, one symbol in few hands, one collateral asset.

Open interest over the book is a fact per minute: two breakers read it, of the symbol and of the venue. Concentration
and collateral are known at snapshots of positions and judged there; a row says what was over or could not be told.
"""

from datetime import datetime

import polars as pl

from guardrails import wording
from guardrails.accounts import collateral_values, held_at, owners, with_owner
from guardrails.facts import LARGEST, UTC_US, Shape
from guardrails.ladder import CAUTIOUS
from guardrails.policy import Policy

RATIO_MAX = 1e6  # x; stands for open interest over an empty book
REFUSE = "refuse"  # further deposits of the asset do not count; what is deposited stays
SCHEMA: Shape = {
    "venue": pl.String,
    "scope": pl.String,  # symbol, asset
    "entity": pl.String,
    "ts": UTC_US,
    "rule": pl.String,
    "verdict": pl.String,
    "observed": pl.Float64,
    "limit": pl.Float64,
    "unit": pl.String,
    "largest_account": pl.String,
    "accounts_effective": pl.Float64,
    "excess_usd": pl.Int64,
    "action": pl.String,
    "reason": pl.String,
    "clears_when": pl.String,
    "policy_version": pl.Int64,
    "policy_sha256": pl.String,
}


def _ratio(oi_usd: pl.Expr, book_usd: pl.Expr) -> pl.Expr:
    known = oi_usd.is_not_null() & (book_usd >= 0)
    over = pl.when(book_usd > 0).then((oi_usd / book_usd).clip(upper_bound=RATIO_MAX)).otherwise(RATIO_MAX)
    return pl.when(known).then(over)


def book_usd() -> pl.Expr:
    """The book that is trusted: the depth or its own median, the smaller, for what has just filled up may empty again.

    The depth alone where its history is short; null where the depth is missing.
    """
    return pl.when(pl.col("depth_usd").is_not_null()).then(pl.min_horizontal("depth_usd", "depth_normal_usd"))


def _worst(window_min: int) -> tuple[pl.Expr, pl.Expr]:
    """Open interest and book in whole USD; where one is missing now, its largest and smallest of the window."""
    most = pl.col("oi_usd").rolling_max(window_min, min_samples=1).over("symbol")
    least = pl.col("depth_usd").rolling_min(window_min, min_samples=1).over("symbol")
    counted, trusted = pl.coalesce("oi_usd", most), pl.coalesce("book_usd", least)
    return counted.round().cast(pl.Int64), trusted.round().cast(pl.Int64)


def with_open_interest(facts: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`facts` (by symbol and minute, without gaps) with open interest over the book, of the symbol and of the venue.

        book_usd          = min(depth_usd, depth_normal_usd)
        oi_per_book       = oi_usd / book_usd
        venue_oi_per_book = sum of oi_usd / sum of book_usd         over the symbols of the minute

    A ratio is null where an input is missing, RATIO_MAX over an empty book. In the venue's sums a missing open interest
    counts as its largest and a missing book as its smallest of the last `depth_normal_min` minutes, so that what goes
    missing does not loosen; a symbol that has not told both for that long is not counted. `venue_fault` where none is.
    """
    oi_counted, book_counted = _worst(policy.inputs.depth_normal_min)
    symbols = facts.with_columns(book_usd=book_usd()).with_columns(
        oi_per_book=_ratio(pl.col("oi_usd"), pl.col("book_usd")), oi_counted=oi_counted, book_counted=book_counted
    )
    counted = pl.col("oi_counted").is_not_null() & pl.col("book_counted").is_not_null()
    sums = [pl.col(name).filter(counted).sum().over("ts").cast(pl.Float64) for name in ("oi_counted", "book_counted")]
    told = counted.any().over("ts")
    return symbols.with_columns(
        venue_oi_per_book=pl.when(told).then(_ratio(*sums)),
        venue_fault=pl.when(~told).then(pl.lit("open interest or depth of every symbol missing")),
    ).drop("oi_counted", "book_counted")


def _concentration(held: pl.DataFrame) -> pl.DataFrame:
    """Per symbol and minute: the largest account, its notional, and how many equal accounts were as concentrated.

    accounts_effective = (sum of notional)^2 / sum of notional^2      null where a position cannot be told
    """
    usd = pl.col("notional_usd")
    largest = usd.max()
    known = usd.is_not_null().all()
    return (
        held.group_by("symbol", "ts", maintain_order=True)
        .agg(
            largest_usd=pl.when(known).then(largest),
            largest_account=pl.when(known).then(pl.col("account").filter(usd == largest).first()),
            accounts_effective=pl.when(known & (largest > 0)).then(usd.sum().pow(2) / usd.pow(2).sum()),
        )
        .with_columns(pl.col("accounts_effective").fill_nan(None))
    )


def _over_concentration(held: pl.DataFrame, facts: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    caps = policy.caps
    found = _concentration(held).join(facts.select("symbol", "ts", "oi_usd"), on=["symbol", "ts"], how="left")
    share = pl.col("largest_usd") / pl.when(pl.col("oi_usd") > 0).then("oi_usd")
    small = (pl.col("largest_usd") <= caps.exposure_floor_usd).fill_null(False)
    spread = share.is_between(0, caps.concentration_share_max) & (
        pl.col("accounts_effective") >= caps.accounts_effective_min
    )
    excess = pl.col("largest_usd") - caps.concentration_share_max * pl.col("oi_usd")
    known = share.is_not_null() & pl.col("accounts_effective").is_not_null()
    told = wording.sentence(
        "the largest account holds {} of the open interest, cap {}; positions are as concentrated as those of {} equal "
        "accounts, at least {}; new positions only up to the leverage floor",
        wording.percent_expr(share), pl.lit(wording.percent(caps.concentration_share_max)),
        pl.col("accounts_effective").round(1), pl.lit(f"{caps.accounts_effective_min:g}"),
    )  # fmt: skip
    return found.filter(~(small | spread.fill_null(False))).select(
        "ts", "largest_account", "accounts_effective",
        scope=pl.lit("symbol"), entity="symbol", rule=pl.lit("concentration"),
        verdict=pl.when(known).then(pl.lit("tripped")).otherwise(pl.lit("missing")),
        observed=share, limit=pl.lit(caps.concentration_share_max), unit=pl.lit("share"),
        excess_usd=excess.clip(0, LARGEST).ceil().cast(pl.Int64),
        action=pl.lit(CAUTIOUS),
        reason=pl.when(known).then(told).otherwise(
            pl.lit("open interest or a position cannot be told; safe side: new positions only up to the leverage floor")
        ),
        clears_when=pl.lit("clears at the first snapshot inside both"),
    )  # fmt: skip


def _over_collateral(values: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Assets not at par whose share of all accounts' collateral is above the cap or cannot be told."""
    cap = policy.caps.collateral_share_venue_max
    worth = pl.col("worth_usd").clip(lower_bound=0.0).round().cast(pl.Int64)
    by_asset = values.group_by("ts", "asset").agg(worth=worth.sum(), unknown=worth.is_null().sum(), holdings=pl.len())
    share = pl.col("worth") / pl.when(pl.col("total") > 0).then("total")
    whole = by_asset.with_columns(total=pl.col("worth").sum().over("ts"), unknowns=pl.col("unknown").sum().over("ts"))
    other = whole.filter(~pl.col("asset").is_in(policy.caps.assets_at_par)).with_columns(
        share=pl.when(pl.col("unknowns") == 0).then(pl.when(pl.col("total") > 0).then(share).otherwise(0.0))
    )
    over = other.filter(~pl.col("share").is_between(0, cap).fill_null(False))
    known = pl.col("share").is_not_null()
    told = wording.sentence(
        "{} is {} of all collateral, cap {}; further deposits of it do not count",
        "asset", wording.percent_expr(pl.col("share")), pl.lit(wording.percent(cap)),
    )  # fmt: skip
    lost = wording.sentence(
        "the worth of {} deposits cannot be told; safe side: further deposits of {} do not count", "unknowns", "asset"
    )
    return over.select(
        "ts", scope=pl.lit("asset"), entity="asset", rule=pl.lit("venue_collateral_cap"),
        verdict=pl.when(known).then(pl.lit("tripped")).otherwise(pl.lit("missing")),
        observed="share", limit=pl.lit(cap), unit=pl.lit("share"),
        excess_usd=pl.when(known).then((pl.col("worth") - cap * pl.col("total")).ceil().cast(pl.Int64)),
        action=pl.lit(REFUSE), reason=pl.when(known).then(told).otherwise(lost),
        clears_when=pl.lit("clears at the first snapshot inside the cap"),
    )  # fmt: skip


def over_limits(
    positions: pl.DataFrame | None,
    collateral: pl.DataFrame | None,
    facts: pl.DataFrame,
    minutes: pl.Series,
    policy: Policy,
    *,
    since: datetime | None,
) -> pl.DataFrame:
    """One row per symbol or asset over a cap of all accounts together (`SCHEMA`), at positions snapshots after `since`.

        concentration        = notional of the largest account / open interest, and its accounts_effective; a symbol in
                               which nobody holds more than exposure_floor_usd is inside
        venue_collateral_cap = worth of an asset that is not at par / worth of all collateral, the insurance fund apart

    A snapshot is judged at the first of `minutes` at which it is known. `facts`: `venue, symbol, ts, price, oi_usd`.
    One account's share of a symbol's open interest is also `exposure_cap` (`exposure_oi_share`), account by account.
    """
    if positions is None or positions.is_empty() or facts.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    held = held_at(positions, minutes, since).join(
        facts.select("symbol", "ts", "price"), on=["symbol", "ts"], how="left"
    )
    if held.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    sized = held.sort("ts", "account", "symbol").with_columns(notional_usd=(pl.col("qty") * pl.col("price")).abs())
    found = [_over_concentration(sized, facts, policy)]
    if collateral is not None and not collateral.is_empty():
        customers = collateral.filter(pl.col("account") != policy.fund.account)
        pairs = customers.select("account").unique().join(sized.select("ts").unique(), how="cross")
        wanted = owners(with_owner(pairs.sort("ts", "account")))
        found.append(_over_collateral(collateral_values(customers, wanted, policy), policy))
    return pl.concat(found, how="diagonal_relaxed").with_columns(
        venue=pl.lit(facts["venue"][0]), policy_version=pl.lit(policy.version), policy_sha256=pl.lit(policy.sha256),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).sort("ts", "scope", "entity")  # fmt: skip
