"""Margin add-ons: initial margin rises while a stablecoin is below its par or the oracle is in doubt.

Both are shares of notional on top of the margin that the leverage cap asks for, in proportion to what was observed and
bounded. What cannot be observed costs the bound.
"""

import polars as pl

from guardrails import wording
from guardrails.holdings import NOT_TOLD
from guardrails.policy import Margin, Policy

DIGITS = 9  # add-ons are whole billionths, so that a leverage of 10 is not missed by the last bit of a difference


def _peg_add_on(margin: Margin) -> pl.Expr:
    lost = (margin.peg_floor - (1 - pl.col("depeg"))).clip(lower_bound=0.0)
    by_price = (margin.peg_slope * lost).round(DIGITS).clip(upper_bound=margin.peg_add_on_max)
    return (
        pl.when(_untold())
        .then(0.0)
        .when(pl.col("depeg_fault").is_null() & pl.col("depeg").is_finite())
        .then(by_price)
        .otherwise(margin.peg_add_on_max)
    )


def _untold() -> pl.Expr:
    return pl.col("depeg_fault").str.ends_with(NOT_TOLD).fill_null(False)


def _oracle_add_on(margin: Margin) -> pl.Expr:
    apart = (pl.col("divergence").abs() - margin.oracle_free).clip(lower_bound=0.0)
    by_divergence = (margin.oracle_slope * apart).round(DIGITS).clip(upper_bound=margin.oracle_add_on_max)
    return pl.when(pl.col("divergence").is_finite()).then(by_divergence).otherwise(margin.oracle_add_on_max)


def _peg_words() -> pl.Expr:
    lost = wording.sentence(
        "{} is {} below par", pl.coalesce("asset", pl.lit("a stablecoin")), wording.percent_expr(pl.col("depeg"))
    )
    return pl.coalesce("depeg_fault", lost)


def _oracle_words() -> pl.Expr:
    apart = wording.sentence("mark is {} from the index", wording.percent_expr(pl.col("divergence").abs()))
    return pl.coalesce("mark_fault", "index_fault", apart, pl.lit("divergence missing"))


def with_add_ons(facts: pl.DataFrame, pegs: pl.DataFrame | None, policy: Policy) -> pl.DataFrame:
    """`facts` with `peg_add_on`, `oracle_add_on`, their sum `add_on` (shares of notional) and `add_on_reason`.

        peg_add_on    = min(peg_slope x max(peg_floor - price, 0), peg_add_on_max)        price = 1 - depeg
        oracle_add_on = min(oracle_slope x max(divergence - oracle_free, 0), oracle_add_on_max)

    The bound where the price of a stablecoin in use, mark or index cannot be told; no peg add-on where the venue tells
    of no collateral, or of no price of any (`pegs` None, or its fault is NOT_TOLD). `add_on_reason` is null where both
    are 0.
    `pegs`: `holdings.PEGS`. Source: Derive v2, 4 x (0.99 - price); its oracle contingency, over divergence.
    """
    margin = policy.margin
    quiet = {
        "asset": pl.lit(None, pl.String),
        "depeg": pl.lit(None, pl.Float64),
        "depeg_fault": pl.lit(f"peg {NOT_TOLD}"),
    }
    joined = (
        facts.with_columns(**quiet) if pegs is None else facts.join(pegs, on="ts", how="left", maintain_order="left")
    )
    added = joined.with_columns(peg_add_on=_peg_add_on(margin), oracle_add_on=_oracle_add_on(margin))
    said = [
        pl.when(pl.col(name) > 0).then(
            wording.sentence("{}: {} more margin", words, wording.percent_expr(pl.col(name)))
        )
        for name, words in (("peg_add_on", _peg_words()), ("oracle_add_on", _oracle_words()))
    ]
    reason = pl.concat_str(said, separator=" and ", ignore_nulls=True)
    return added.with_columns(
        add_on=pl.col("peg_add_on") + pl.col("oracle_add_on"),
        add_on_reason=pl.when(reason.str.len_chars() > 0).then(reason),
    ).drop("asset", "depeg", "depeg_fault")


def with_margin(leverage: pl.Expr) -> pl.Expr:
    """The leverage that is left once the add-on stands beside the margin of `leverage`: `1 / (1 / leverage + add_on)`.

    Written so that it is `leverage` to the last bit where there is none.

    >>> rows = pl.DataFrame({"x": [50.0, 50.0, 10.0], "add_on": [0.0, 0.08, 0.1]})
    >>> rows.select(with_margin(pl.col("x"))).to_series().to_list()
    [50.0, 10.0, 5.0]
    """
    return leverage / (1 + leverage * pl.col("add_on"))
