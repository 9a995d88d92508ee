"""Tables as CSV that a spreadsheet opens as text and numbers, never as formulas."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"  # what spreadsheets take for the beginning of a formula
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def defused(column: pl.Expr) -> pl.Expr:
    """Text that begins like a formula behind an apostrophe; numbers written as text stay as they are.

    >>> frame = pl.DataFrame({"name": ["=1+1", "-5", "-5+A1", "@x", "BTC", "\\t=1", None]})
    >>> frame.select(defused(pl.col("name")))["name"].to_list()
    ["'=1+1", '-5', "'-5+A1", "'@x", 'BTC', "'\\t=1", None]
    """
    begins = column.str.contains(FORMULA) & ~column.str.contains(NUMBER)
    return pl.when(begins).then(pl.concat_str(pl.lit("'"), column)).otherwise(column).name.keep()


def csv_of(rows: pl.DataFrame) -> str:
    """`rows` as CSV: times in ISO 8601, lists joined, formulas defused, every text in quotes."""
    lists = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.List)]
    flat = rows.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" | ") for name in lists)
    texts = [name for name, dtype in flat.schema.items() if dtype == pl.String]
    safe = flat.with_columns(defused(pl.col(name)) for name in texts)
    return safe.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.fZ", quote_style="non_numeric")


def picked(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a view as a frame of `columns` (name -> type)."""
    return pl.DataFrame([{name: row[name] for name in columns} for row in rows], schema=dict(columns))
