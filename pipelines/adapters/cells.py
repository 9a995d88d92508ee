"""Cells of a column as numbers, text and moments, whatever type the file gave the column.

A text file gives text; a columnar one gives whatever its writer chose, also for the same column of the next file. What
cannot be read is null; nothing raises, and nothing overflows into a plausible value.
"""

from typing import Literal

import polars as pl

from features.schema import UTC_US
from pipelines.adapters.adapter import TS_MAX, TS_MIN

Unit = Literal["s", "ms", "us", "ns"]
NS_PER: dict[str, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
NS_PER_DAY = 86_400 * NS_PER["s"]
NS_MIN, NS_MAX = (round(moment.timestamp()) * NS_PER["s"] for moment in (TS_MIN, TS_MAX))
WHOLE_MAX = 2**53  # above it a float does not tell neighbouring whole numbers apart
_NOTHING = pl.lit(None)


def as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    """The cells of `name` as text; null where empty, and for types other than text, numbers and truths."""
    if not dtype.is_numeric() and dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        return _NOTHING.cast(pl.String)
    text = pl.col(name).cast(pl.String, strict=False)
    return pl.when(text != "").then(text)


def as_number(name: str, dtype: pl.DataType) -> pl.Expr:
    """The cells of `name` as finite Float64, null where they are none; text is parsed exactly.

    >>> frame = pl.DataFrame({"a": ["0.1", "inf", "1e999", "x", ""]})
    >>> frame.select(as_number("a", pl.String())).to_series().to_list()
    [0.1, None, None, None, None]
    """
    if not dtype.is_numeric() and dtype not in (pl.String, pl.Categorical, pl.Enum):
        return _NOTHING.cast(pl.Float64)
    value = (pl.col(name) if dtype.is_numeric() else as_text(name, dtype)).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def as_whole(name: str, dtype: pl.DataType) -> pl.Expr:
    """The cells of `name` as Int64, null where they are no whole number; text is not rounded through a float.

    >>> frame = pl.DataFrame({"a": ["9007199254740993", "20.0", "1.5", "9e99"]})
    >>> frame.select(as_whole("a", pl.String())).to_series().to_list()
    [9007199254740993, 20, None, None]
    """
    number = as_number(name, dtype)
    rounded = pl.when((number == number.round()) & (number.abs() < WHOLE_MAX)).then(number)
    if dtype.is_float() or not (dtype.is_numeric() or dtype == pl.String):
        return rounded.cast(pl.Int64, strict=False)
    return pl.coalesce(pl.col(name).cast(pl.Int64, strict=False), rounded.cast(pl.Int64, strict=False))


def as_truth(name: str, dtype: pl.DataType) -> pl.Expr:
    """The cells of `name` as Boolean: true, 1 and false, 0; anything else is null."""
    text = as_text(name, dtype).str.to_lowercase()
    return pl.when(text.is_in(("true", "1"))).then(True).when(text.is_in(("false", "0"))).then(False)


# --- moments ---------------------------------------------------------------------------------------------------------


def _microseconds(whole: pl.Expr, ns: int) -> pl.Expr:
    """`whole` units of `ns` nanoseconds since 1970 in microseconds, null outside [TS_MIN, TS_MAX)."""
    inside = (whole >= NS_MIN // ns) & (whole < NS_MAX // ns)
    kept = pl.when(inside).then(whole)
    return kept * (ns // 1000) if ns >= 1000 else kept // (1000 // ns)


def _of_number(number: pl.Expr, ns: int) -> pl.Expr:
    """As `_microseconds`, of a number with a fraction; rounded to the microsecond."""
    inside = (number >= NS_MIN / ns) & (number < NS_MAX / ns)
    return (pl.when(inside).then(number) * (ns / 1000)).round().cast(pl.Int64, strict=False)


def _zoned(us: pl.Expr, zone: str) -> pl.Expr:
    """Wall-clock microseconds of `zone` as UTC ones; null where the clock shows a time twice or never."""
    local = us.cast(pl.Datetime("us")).dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    return local.dt.convert_time_zone("UTC").to_physical()


def _parsed(name: str, dtype: pl.DataType, text_format: str) -> pl.Expr:
    """Microseconds that a text says; as wall-clock ones where the format holds no offset."""
    return as_text(name, dtype).str.to_datetime(text_format, strict=False, time_unit="us").to_physical()


def is_naive(dtype: pl.DataType) -> bool:
    """True if the column holds wall-clock times without a zone of their own."""
    return dtype == pl.Date or (isinstance(dtype, pl.Datetime) and dtype.time_zone is None)


def as_moment(
    name: str, dtype: pl.DataType, unit: Unit | None = None, text_format: str | None = None, zone: str | None = None
) -> tuple[pl.Expr, pl.Expr]:
    """The cells of `name` as UTC microseconds, and whether they could be read at all.

    A date-time column is taken as it is, numbers count `unit` since 1970, text is read by `text_format`, else as such a
    number. Wall-clock times, and text whose format holds no offset, are of `zone`, UTC if that is null. The moment is
    null outside [TS_MIN, TS_MAX) too: readable and null is a stamp out of range.
    """
    if isinstance(dtype, pl.Datetime):
        whole, ns = pl.col(name).to_physical(), NS_PER[dtype.time_unit]
    elif dtype == pl.Date:
        whole, ns = pl.col(name).to_physical().cast(pl.Int64), NS_PER_DAY
    elif text_format is not None:
        whole, ns = _parsed(name, dtype, text_format), NS_PER["us"]
    else:
        return _of_count(name, dtype, NS_PER[unit or "ms"])
    us = _microseconds(whole, ns)
    if zone is not None and (is_naive(dtype) or not dtype.is_temporal()):
        us = _zoned(us, zone)
    return us.cast(UTC_US), whole.is_not_null()


def _of_count(name: str, dtype: pl.DataType, ns: int) -> tuple[pl.Expr, pl.Expr]:
    whole, number = as_whole(name, dtype), as_number(name, dtype)
    us = pl.when(whole.is_not_null()).then(_microseconds(whole, ns)).otherwise(_of_number(number, ns))
    return us.cast(UTC_US), number.is_not_null()
