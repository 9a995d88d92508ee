"""The model's wish, bounded by the rules: it may tighten a hard limit for a while, and nothing else.

Source: Aave's RiskSteward, which lets a risk team change a parameter by `maxPercentChange`, absolute or relative, once
per `minDelay`, never to zero and never for an asset that governance has not listed. Here the delay is for loosening
alone, and a wish expires.
"""

import hashlib

import polars as pl

from guardrails.facts import KEY, UTC_US, Shape
from guardrails.policy import Policy, ProposalBounds

SCHEMA: Shape = {
    "venue": pl.String,
    "symbol": pl.String,
    "ts": UTC_US,  # the minute the wish is about; its time to live begins here
    "leverage_cap_wish": pl.Float64,
    "exposure_cap_usd_wish": pl.Float64,
    "proposed_at": UTC_US,  # when it became known; it has no effect before
    "valid_until": UTC_US,
}
WISHES = ("leverage_cap_wish", "exposure_cap_usd_wish")
JUDGED: Shape = {"proposal_id": pl.String, **SCHEMA, "refused": pl.String}
EFFECTIVE: Shape = {
    "leverage_cap_hard": pl.Float64,
    "leverage_cap_effective": pl.Float64,
    "exposure_cap_usd_effective": pl.Int64,
    "proposal": pl.String,
}
NONE, NO_TIGHTER, BOUNDED, TAKEN = "none", "no tighter", "bounded", "taken"


def _read(proposals: pl.DataFrame, name: str) -> pl.Expr:
    """A column in its type; null where it is absent or holds something else."""
    wanted, given = SCHEMA[name], proposals.schema.get(name, pl.Null())
    if wanted == pl.Float64 and given.is_numeric():
        return pl.col(name).cast(pl.Float64, strict=False)
    if wanted == UTC_US and isinstance(given, pl.Datetime) and given.time_zone is not None:
        return pl.col(name).dt.convert_time_zone("UTC").cast(UTC_US, strict=False)
    return pl.col(name) if wanted == given else pl.lit(None, wanted).alias(name)


def _identified(proposals: pl.DataFrame) -> pl.DataFrame:
    """`proposals` in their types, usable wishes only, with `proposal_id`: what is asked, of whom, about which minute.

    When it was sent and how long it says it lives are not part of it: a wish that is sent again is the same wish.
    """
    rows = proposals.select(_read(proposals, name) for name in SCHEMA)
    usable = [pl.when(pl.col(name).is_finite() & (pl.col(name) > 0)).then(name).alias(name) for name in WISHES]
    told = rows.with_columns(usable)
    parts = [pl.col(name).cast(pl.String).fill_null("null") for name in ("venue", "symbol", *WISHES)]
    content = told.select(pl.concat_str(pl.col("ts").dt.epoch("us").cast(pl.String).fill_null("null"), *parts,
                                        separator="|")).to_series()  # fmt: skip
    ids = [hashlib.sha256(text.encode()).hexdigest()[:20] for text in content]
    return told.with_columns(pl.Series("proposal_id", ids, pl.String))


def judged(proposals: pl.DataFrame, listed: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Every proposal once (`JUDGED`), with `refused`: why it can have no effect, null where it may have one.

    `listed`: `venue, symbol, ts` of the minutes that have both a limit and a bar: nothing may be asked of another.

    Of several with one `proposal_id` the first sent counts, and of these the one that ends first: it is executed once.
    Whatever `proposals` holds (absent columns, other types, null, NaN) is refused, not raised.
    """
    ttl = pl.duration(minutes=policy.proposal.ttl_min)
    once = _identified(proposals).sort("proposed_at", "valid_until", nulls_last=True).unique(
        "proposal_id", keep="first", maintain_order=True
    )  # fmt: skip
    known = listed.select(KEY).unique().with_columns(listed=pl.lit(True))
    rows = once.join(known, on=KEY, how="left", maintain_order="left")
    end = pl.min_horizontal("valid_until", pl.col("ts") + ttl)
    causes = (
        (pl.all_horizontal(pl.col(name).is_null() for name in WISHES), "no wish is a positive number"),
        (pl.any_horizontal(pl.col(name).is_null() for name in ("proposed_at", "valid_until", *KEY)), "not complete"),
        (pl.col("listed").is_null(), "no limit or no bar of the symbol in its minute"),
        (~(pl.col("ts") <= pl.col("proposed_at")), "about a minute after it was made"),
        (~(pl.col("proposed_at") <= end), "expired before it was made"),
    )
    refused = pl.coalesce(*(pl.when(cause).then(pl.lit(words)) for cause, words in causes))
    return rows.with_columns(refused=refused).select(*JUDGED).sort("ts", "proposed_at", "proposal_id", nulls_last=True)


def _minutes(accepted: pl.DataFrame, bounds: ProposalBounds) -> pl.DataFrame:
    """The wishes in force by `venue, symbol, ts`: the smallest of those that hold in the minute.

    A wish holds from when it is made to its end: `valid_until`, `ttl_min` after its minute, or `loosen_delay_min`
    after one about a later minute has been made, which supersedes it.
    """
    own = ["venue", "symbol"]
    minutes = accepted.group_by(*own, "ts").agg(pl.col("proposed_at").min().alias("made")).sort(*own, "ts")
    later = pl.col("made").shift(-1).reverse().cum_min().reverse().over(own)
    ended = accepted.join(minutes.select(*own, "ts", superseded=later), on=[*own, "ts"])
    held_until = pl.col("superseded") + pl.duration(minutes=bounds.loosen_delay_min, microseconds=-1)
    end = pl.min_horizontal("valid_until", pl.col("ts") + pl.duration(minutes=bounds.ttl_min), held_until)
    begin = (pl.col("proposed_at") - pl.duration(microseconds=1)).dt.truncate("1m") + pl.duration(minutes=1)
    each = ended.with_columns(end=end, begin=begin).filter(pl.col("begin") <= pl.col("end"))
    grid = each.select(*own, *WISHES, ts=pl.datetime_ranges("begin", "end", "1m", time_unit="us"))
    return grid.explode("ts").group_by(*own, "ts").agg(pl.col(WISHES).min())


def _effective(hard: pl.Expr, wish: str, share: float, change: float, least: float) -> pl.Expr:
    lowest = pl.max_horizontal(hard * (1 - share), hard - change, least)
    known = pl.col(wish).is_not_null() & hard.is_not_null()
    return pl.when(known).then(pl.min_horizontal(hard, pl.max_horizontal(wish, lowest)))


def _word(pairs: list[tuple[str, pl.Expr, pl.Expr]]) -> pl.Expr:
    """What became of the wishes of a minute, of (wish, hard, effective): `bounded`, else `taken`, else `no tighter`."""
    tighter = [effective < hard for _, hard, effective in pairs]
    cut = [pl.col(wish) < effective for wish, _, effective in pairs]
    return (
        pl.when(pl.all_horizontal(pl.col(wish).is_null() for wish, _, _ in pairs)).then(pl.lit(NONE))
        .when(pl.any_horizontal(cut)).then(pl.lit(BOUNDED))
        .when(pl.any_horizontal(tighter)).then(pl.lit(TAKEN))
        .otherwise(pl.lit(NO_TIGHTER))
    )  # fmt: skip


def bounded(
    limits: pl.DataFrame, proposals: pl.DataFrame, policy: Policy, *, listed: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`limits` with `EFFECTIVE`: the caps after what a model asks for, and what became of its wish.

        lowest    = max(hard x (1 - relative_change_max), hard - change_max, min)    per cap, with the cap's own numbers
        effective = min(hard, max(smallest wish that holds, lowest))                 hard where no wish holds

    A wish holds from when it is made until `valid_until`, at most until `ttl_min` after the minute it is about; one
    about a later minute supersedes it, at once where that is tighter, and after `loosen_delay_min` where it is not.
    What has expired or was superseded never comes back, and sending it again changes nothing (see `judged`). Every
    step is measured from the hard cap, so steps do not add up. All columns of `limits` stay as they are.

    `proposals`: `SCHEMA`; whatever else it holds is refused. `listed`: see `judged`; default the rows of `limits`.
    `proposal` is one of: none, no tighter, bounded, taken.
    """
    bounds = policy.proposal
    found = judged(proposals, limits if listed is None else listed, policy)
    wishes = _minutes(found.filter(pl.col("refused").is_null()), bounds)
    rows = limits.join(wishes, on=list(KEY), how="left", maintain_order="left")
    share, leverage, exposure = bounds.relative_change_max, pl.col("leverage_cap"), pl.col("exposure_cap_usd")
    by_leverage = _effective(leverage, WISHES[0], share, bounds.leverage_change_max, bounds.leverage_min)
    by_exposure = _effective(exposure, WISHES[1], share, bounds.exposure_change_usd_max, bounds.exposure_usd_min)
    return rows.with_columns(
        leverage_cap_hard=leverage,
        leverage_cap_effective=pl.coalesce(by_leverage, leverage),
        exposure_cap_usd_effective=pl.coalesce(by_exposure.ceil().cast(pl.Int64), exposure),
        proposal=_word([(WISHES[0], leverage, by_leverage), (WISHES[1], exposure, by_exposure)]),
    ).drop(WISHES)  # fmt: skip
