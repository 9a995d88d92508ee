"""Tables that other steps observed, carried forward to the minutes in which they were known."""

from dataclasses import dataclass

import polars as pl

from guardrails.facts import UTC_US, Shape


@dataclass(frozen=True, slots=True)
class Told:
    """One observed quantity of such a table: its columns, and what its faults are called."""

    table: str  # the keyword under which `decide` takes it
    value: str
    fault: str  # why the table could not tell the value, null where it could
    what: str  # what is missing or stale where the table does not speak
    by: tuple[str, ...] = ()  # empty: the venue as a whole
    words: tuple[str, ...] = ()  # further columns of words, for the sentence
    at_least: bool = False  # a value beside a fault is the least it can be; one below 0 is as good as 0


LOOP_GAIN = Told("holdings", "loop_gain", "loop_fault", "positions", by=("symbol",))
DEPEG = Told("pegs", "depeg", "depeg_fault", "collateral prices", words=("asset",), at_least=True)
FUND = Told("fund", "fund_drawdown", "fund_fault", "insurance fund")


def _checked(table: pl.DataFrame | None, told: Told) -> pl.DataFrame:
    """The columns of `told` alone. ValueError for a column that is absent, a null key or a key that occurs twice."""
    key = [*told.by, "ts"]
    words: Shape = dict.fromkeys((*told.by, told.fault, *told.words), pl.String)
    if table is None:
        return pl.DataFrame(schema={"ts": UTC_US, told.value: pl.Float64, **words})
    lacking = sorted({*key, told.value, told.fault, *told.words} - set(table.columns))
    if lacking:
        raise ValueError(f"`{told.table}` must have the columns {', '.join(lacking)}, had {', '.join(table.columns)}")
    keys = table.select(key)
    if keys.is_duplicated().any() or sum(keys.null_count().row(0)):
        raise ValueError(f"`{told.table}` must hold one row per {' and '.join(key)}, held null or repeated ones")
    texts = [pl.col(name).cast(kind) for name, kind in words.items()]
    return table.select(pl.col("ts").cast(UTC_US), pl.col(told.value).cast(pl.Float64, strict=False), *texts)


def with_told(rows: pl.DataFrame, table: pl.DataFrame | None, told: Told, age_min_max: int) -> pl.DataFrame:
    """`rows` (sorted by `told.by` and ts) with the value, fault and words of the newest row of `table` at or before ts.

        fault = `<what> missing` without such a row, `<what> stale` where it is older than `age_min_max` minutes,
                what the table says, `<value> invalid` where the value is null, not finite or negative; else null

    The value is null where there is a fault, but for a quantity that `at_least` speaks of: what the worst collateral
    has lost is no less for a price that is missing beside it, and a collateral above its peg has lost nothing.

    `table`: one row per `told.by` and ts, the moment at which it was known.

    Raises ValueError for a column that is absent, a null key or a key that occurs twice.
    """
    known = _checked(table, told).with_columns(told_at="ts").sort(*told.by, "ts")
    joined = rows.join_asof(known, on="ts", by=list(told.by) or None, strategy="backward", check_sortedness=False)
    fresh = pl.col("ts") - pl.col("told_at") <= pl.duration(minutes=age_min_max)
    value = pl.col(told.value).clip(lower_bound=0.0) if told.at_least else pl.col(told.value)
    sound = (value.is_finite() & (value >= 0)).fill_null(False)
    fault = (
        pl.when(pl.col("told_at").is_null())
        .then(pl.lit(f"{told.what} missing"))
        .when(~fresh)
        .then(pl.lit(f"{told.what} stale"))
        .when(pl.col(told.fault).is_not_null())
        .then(told.fault)
        .when(~sound)
        .then(pl.lit(f"{told.value.replace('_', ' ')} invalid"))
    )
    usable = fresh & sound if told.at_least else fault.is_null()
    return joined.with_columns(fault.alias(told.fault), pl.when(usable).then(value).alias(told.value)).drop("told_at")
