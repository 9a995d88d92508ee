"""Tables as MLflow takes them: pandas only, times as whole microseconds."""

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import pandas as pd

TIMES = ("ts", "known_at")
UTC_US = pl.Datetime("us", "UTC")


def to_wire(frame: pl.DataFrame) -> "pd.DataFrame":
    """`frame` for MLflow, which takes pandas only: times become whole microseconds since 1970."""
    times = pl.selectors.datetime()
    return frame.with_columns(times.cast(UTC_US).cast(pl.Int64)).to_pandas()


def from_wire(frame: "pd.DataFrame") -> pl.DataFrame:
    """The inverse of `to_wire`; NaN becomes null."""
    back = pl.from_pandas(frame)
    return back.with_columns(pl.col(name).cast(UTC_US) for name in TIMES if name in back.columns)
