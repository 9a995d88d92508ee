"""Facts about the venue as a whole: one row per minute, its symbol `*`."""

import polars as pl

from guardrails.facts import ALL
from guardrails.known import DEPEG, FUND, with_told
from guardrails.ladder import REDUCE_ONLY, severity
from guardrails.policy import FILL_MIN, Policy


def venue_facts(
    facts: pl.DataFrame, policy: Policy, *, pegs: pl.DataFrame | None = None, fund: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One row per minute of `facts` (`market_facts` of one venue): `venue, symbol, ts` and

        outage_min    = silence in this minute or the one before; silence: full minutes since the youngest feed of any
                        symbol was heard, at most `FILL_MIN`; null where bars tell no age
        depeg, fund_drawdown and their faults: of `pegs` and `fund`, as `known.with_told` carries them
        listed        = symbols that had a bar in the last `FILL_MIN` minutes

    The first minute after a silence still sees it: no minute within it may have been given out. Longer it need not be
    seen, the breaker holds by itself.
    """
    inputs = policy.inputs
    minutes = facts.group_by("ts").agg(
        pl.col("venue").first(), silent_min=pl.col("silent_min").min(), listed=pl.col("listed").sum()
    )
    silent = pl.when(pl.col("listed") > 0).then("silent_min").otherwise(FILL_MIN).cast(pl.Float64)
    rows = minutes.sort("ts").select(
        "venue", pl.lit(ALL).alias("symbol"), "ts", pl.col("listed").cast(pl.Float64),
        outage_min=pl.when(silent.is_not_null()).then(pl.max_horizontal(silent, silent.shift(1))),
    )  # fmt: skip
    rows = with_told(rows, pegs, DEPEG, inputs.pegs_age_min_max)
    return with_told(rows, fund, FUND, inputs.fund_age_min_max)


def with_tripped_share(venue: pl.DataFrame, facts: pl.DataFrame, own: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`venue` with `tripped` and `tripped_share`, from what every symbol's own breakers say.

        tripped       = listed symbols with a severity of reduce_only or stricter
        tripped_share = tripped / max(listed, venue_symbols_min); null where no symbol is listed

    `own`: `symbol, ts, severity`. A symbol without a bar for `FILL_MIN` minutes counts neither way: it would hold the
    rule open for ever. With few symbols the share reaches `enter` only with `enter x venue_symbols_min` of them.
    """
    mine = own.select("symbol", "ts", "severity")
    listed = facts.filter("listed").select("symbol", "ts").join(mine, on=["symbol", "ts"])
    counts = listed.group_by("ts").agg(tripped=(pl.col("severity") >= severity(REDUCE_ONLY)).sum().cast(pl.Float64))
    joined = venue.join(counts, on="ts", how="left", maintain_order="left")
    share = pl.col("tripped") / pl.max_horizontal("listed", pl.lit(float(policy.inputs.venue_symbols_min)))
    return joined.with_columns(tripped_share=pl.when(pl.col("listed") > 0).then(share))
