"""The market as a whole: what all symbols of a venue do at one moment, as columns that every symbol can read.

Feature expressions see one symbol at a time. Here `INPUTS` are computed symbol by symbol, brought together by time, and
told back to every symbol as `market_*` columns.
"""

from typing import Final

import polars as pl

from features.feature import Step

LOOKBACK_MIN: Final = 65  # minutes of the inputs that a row of the market looks back on
MARKET: Final = pl.Schema({})


def inputs(step: Step) -> tuple[tuple[pl.Expr, int], ...]:
    """What is asked of each symbol, with the minutes that it looks back."""
    del step
    return ()


def market_rows(told: pl.DataFrame, step: Step) -> pl.DataFrame:
    """`told` (symbol, ts and the inputs, of all symbols) to `ts` and the columns of `MARKET`, sorted by ts."""
    del step
    return told.select("ts").unique().sort("ts")
