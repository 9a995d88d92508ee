"""The breaker as a state machine over minutes: closed -> open -> half_open -> closed.

| in state | the minute shows | next state |
|---|---|---|
| closed | a trip | open |
| closed | anything else | closed |
| open | clean for the last `cool_down_min` minutes and, where a person must, a reset in this minute | half_open |
| open | anything else | open |
| half_open | not clean (a trip, a missing input, a value between exit and enter) | open |
| half_open | clean and `probation_min` minutes since half_open began | closed |
| half_open | clean, earlier | half_open |

Opening is immediate; every way back waits. A missing input is never clean. Beside the state, a breaker is `missing`
while an input is, and for `missing_hold_min` minutes after.
"""

import polars as pl

from guardrails.facts import Shape
from guardrails.policy import Breaker

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
NEVER = 1_000_000  # minutes since an input was missing, where it never was
CARRY: Shape = {
    "clean_min": pl.Int64,
    "probation_min": pl.Int64,
    "latched": pl.Boolean,
    "present_min": pl.Int64,
}
WAITS: Shape = {
    "cool_down_wait": pl.Int64,  # minutes
    "probation_wait": pl.Int64,
    "missing_hold_wait": pl.Int64,
    "by_timer": pl.Boolean,  # whether the clean time alone resets it; else a person must too
}


def waits(rule: Breaker) -> dict[str, int | bool]:
    """The `WAITS` of one rule."""
    return {
        "cool_down_wait": rule.cool_down_min,
        "probation_wait": rule.probation_min,
        "missing_hold_wait": rule.missing_hold_min,
        "by_timer": rule.reset == "timer",
    }


def first_of_each() -> pl.Expr:
    """Whether a row is the first of its rule and symbol, in rows sorted by both."""
    return pl.any_horizontal(pl.col(name) != pl.col(name).shift(1, fill_value="") for name in ("rule", "symbol"))


def _runs(signals: pl.DataFrame) -> pl.DataFrame:
    """Number the rows, and number the runs of clean minutes; a run ends with the symbol or an unclean minute."""
    first = first_of_each()
    numbered = signals.with_columns(row=pl.int_range(pl.len()), first=first)
    return numbered.with_columns(run=(pl.col("first") | ~pl.col("clean")).cum_sum())


def _since(event: pl.Expr, carry: pl.Expr) -> pl.Expr:
    """Minutes since `event` last held, 0 in its minute; before the first one, `carry` and the minutes since."""
    at = pl.when(event).then("row").when("first").then(pl.col("row") - 1 - carry)
    return pl.col("row") - at.forward_fill()


def step(signals: pl.DataFrame) -> pl.DataFrame:
    """State of every breaker for every row of `signals`, each rule and symbol a machine of its own.

    `signals`: together what is of one `rule`, in it what is of one `symbol`, and of that one row a minute without gaps;
    Boolean `trip`, `clean`, `missing`, `reset` without nulls (`trip`, `clean`, `missing` exclude each other); `WAITS`,
    the same in all rows of a rule; and `CARRY`, what the minute before the symbol's first row left behind, repeated on
    every row.

    Adds `state`, `missing_held`, and replaces `CARRY` by what each minute leaves behind.
    """
    runs = _runs(signals)
    counted = runs.with_columns(
        clean_min=_since(~pl.col("clean"), pl.col("clean_min")),
        present_min=_since(pl.col("missing"), pl.col("present_min")),
        probation_carry="probation_min",
    )
    cooled = pl.col("clean") & (pl.col("clean_min") >= pl.col("cool_down_wait"))
    accepted = cooled & (pl.col("by_timer") | pl.col("reset"))
    begins = (
        pl.when(pl.col("first") & pl.col("clean") & pl.col("probation_carry").is_not_null())
        .then(pl.col("row") - 1 - pl.col("probation_carry"))
        .when(accepted)
        .then("row")
    )
    begun = counted.with_columns(probation_min=pl.col("row") - begins.cum_min().forward_fill().over("run"))
    latch = (
        pl.when("trip")
        .then(True)
        .when(pl.col("probation_min") >= pl.col("probation_wait"))
        .then(False)
        .when("first")
        .then("latched")
    )
    latched = begun.with_columns(latched=latch.forward_fill())
    on_probation = pl.when(pl.col("probation_min").is_null()).then(pl.lit(OPEN)).otherwise(pl.lit(HALF_OPEN))
    return latched.with_columns(
        state=pl.when("latched").then(on_probation).otherwise(pl.lit(CLOSED)),
        missing_held=pl.col("present_min") < pl.col("missing_hold_wait"),
    ).drop("row", "first", "run", "probation_carry")
