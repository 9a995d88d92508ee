"""What features may read from a bar: a value counts only while it is plausible and fresh, else it is null.

`usable` runs once before all features, so that a feature reads plain columns.
"""

from functools import cache

import polars as pl

from features.schema import Bars, Structure, polars_schema

USD_MAX = 10**15  # a bar beyond this is a fault; below it a day of bars sums within Int64
COUNT_MAX = 10**9
PRICE_MIN, PRICE_MAX = 1e-12, 1e12
OI_MAX = 1e18
AGE_S_MAX = 86_400.0  # ages saturate at a day
LATENCY_MS_MAX = 1e9
PRICE_AGE_S_MAX = 300.0  # an older mark or index says nothing about a basis
DEPTH_AGE_S_MAX = 300.0
DEPTH_STILL_S_MAX = 300.0  # both sides still to the dollar for longer: a frozen feed, not a calm market
REFUSED_AGE_S = 60.0  # book rows were refused and none was taken for so long: what is carried on is in doubt
QUOTE_AGE_S_MAX = 300.0
OI_AGE_S_MAX = 3_900.0  # hourly publications still count, a lost feed does not
FUNDING_AGE_INTERVALS_MAX = 2.0
DEPTH_FLOOR_USD = 1  # keeps ratios to depth finite; no more, so that half of a book is half of it however thin
FLOW_FLOOR_USD = 10_000  # keeps ratios to traded or quoted dollars calm in silence

SCHEMA = polars_schema(Structure) | polars_schema(Bars)
_PRICES = ("open", "high", "low", "close", "bid", "ask", "mark", "index")
_QUOTED = ("bid", "ask", "spread_bps", "imbalance")


@cache
def _plausible(name: str, dtype: pl.DataType) -> pl.Expr | None:
    """Column `name` with impossible values turned into null; None if its values need no check."""
    col = pl.col(name)
    if name.endswith("_usd"):
        allowed = col.is_between(0, USD_MAX)
    elif name in _PRICES:
        allowed = col.is_between(PRICE_MIN, PRICE_MAX)
    elif name == "oi_base":
        allowed = col.is_between(PRICE_MIN, OI_MAX)
    elif name == "funding_interval_h":
        allowed = col.is_between(1e-3, 8_760.0)
    elif name == "largest_share":
        allowed = col.is_between(0.0, 1.0)
    elif dtype == pl.Int64:
        allowed = col.is_between(0, COUNT_MAX)
    elif dtype == pl.Float64:
        allowed = col.is_finite()
    else:
        return None
    return pl.when(allowed).then(col).alias(name)


def implausible(name: str) -> pl.Expr:
    """Whether raw column `name` holds a value that `usable` turns into null for being impossible.

    >>> pl.DataFrame({"mark": [1.0, -1.0, None]}).select(implausible("mark"))["mark"].to_list()
    [False, True, False]
    """
    checked = _plausible(name, SCHEMA[name])
    kept = pl.col(name) if checked is None else checked
    return pl.col(name).is_not_null() & kept.is_null()


def _refused_now(rows: str) -> pl.Expr:
    return ((pl.col(rows) > 0) & (pl.col("depth_age_s") > REFUSED_AGE_S).fill_null(True)).fill_null(False)


def book_crossed_now() -> pl.Expr:
    """Whether the book of this bar was refused as crossed, with no good snapshot in its last REFUSED_AGE_S."""
    return _refused_now("book_rows_crossed")


def book_frozen_now() -> pl.Expr:
    """Whether the book stands still for longer than DEPTH_STILL_S_MAX, or was refused as frozen in this bar."""
    still = (pl.col("depth_unchanged_s") > DEPTH_STILL_S_MAX).fill_null(False)
    return still | _refused_now("book_rows_frozen")


@cache
def _fresh(name: str) -> pl.Expr | None:
    """Whether the source of column `name` can be believed; None for columns that do not go stale."""
    if name.startswith("depth_") and name.endswith("_usd"):
        return (pl.col("depth_age_s") <= DEPTH_AGE_S_MAX) & ~book_crossed_now() & ~book_frozen_now()
    if name in _QUOTED:
        return pl.col("quote_age_s") <= QUOTE_AGE_S_MAX
    if name in ("mark", "index"):
        return pl.col(f"{name}_age_s") <= PRICE_AGE_S_MAX
    if name in ("oi_base", "oi_usd"):
        return pl.col("oi_age_s") <= OI_AGE_S_MAX
    if name == "funding_rate":
        return pl.col("funding_age_s") <= FUNDING_AGE_INTERVALS_MAX * 3600 * pl.col("funding_interval_h")
    return None


def usable(rows: pl.DataFrame) -> pl.DataFrame:
    """Bars or structure with every implausible or stale value turned into null; columns of neither are kept as is.

    Dollars outside [0, USD_MAX], prices outside [PRICE_MIN, PRICE_MAX], negative counts, NaN and infinities are
    faults. Depth, quotes, mark, index, open interest and funding count only while their age is known and within its
    limit, depth only while the book is neither crossed nor frozen.

    >>> bars = pl.DataFrame({"volume_usd": [0, -1, 10**16], "mark": [1.0, 2.0, 3.0], "mark_age_s": [1.0, None, 301.0]})
    >>> usable(bars)["volume_usd", "mark"].rows()
    [(0, 1.0), (None, None), (None, None)]
    """
    plausible = rows.lazy().with_columns(_plausible_exprs(rows.columns))
    return plausible.with_columns(_fresh_exprs(rows.columns)).collect(engine="in-memory")


def _plausible_exprs(columns: list[str]) -> list[pl.Expr]:
    held = [(name, dtype) for name, dtype in SCHEMA.items() if name in columns]
    return [expr for name, dtype in held if (expr := _plausible(name, dtype)) is not None]


def _fresh_exprs(columns: list[str]) -> list[pl.Expr]:
    rules = {name: rule for name in columns if (rule := _fresh(name)) is not None}
    return [pl.when(rule).then(pl.col(name)).alias(name) for name, rule in rules.items()]


def usable_exprs(columns: list[str]) -> list[pl.Expr]:
    """What `usable` asks of freshness for `columns`, to know what else it reads."""
    return _fresh_exprs(columns)


def balance(first: pl.Expr, second: pl.Expr, floor: float) -> pl.Expr:
    """`(first - second) / (first + second + floor)`, in (-1, 1) for amounts of 0 or more."""
    return (first - second) / (first + second + floor)
