"""Market facts: the few observed quantities that rules judge, by plain arithmetic on bars.

An input that cannot be trusted is null and its `*_fault` says why in two words; a fact built on it is null too.
Nothing here knows a score, and nothing here looks at a later minute.
"""

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import TypeAlias

import polars as pl

from guardrails.policy import FILL_MIN, Inputs, Policy

Shape: TypeAlias = dict[str, pl.DataType | type[pl.DataType]]  # column names and types of a table

UTC_US = pl.Datetime("us", "UTC")
KEY = ("venue", "symbol", "ts")
MINUTE = "1m"
RETURN_UNIT = 1e-7  # squared returns are summed as whole multiples of its square: exact wherever the window starts
SMALLEST, LARGEST = (
    1e-15,
    1e15,
)  # prices and dollars outside are a fault of the feed; ratios of what is inside are finite
RETURN_CAP = 10.0  # log return per minute; keeps the whole-number sum in range
NUMBERS = (
    "close",
    "trade_age_s",
    "mark",
    "mark_age_s",
    "index",
    "index_age_s",
    "depth_bid_100bps_usd",
    "depth_ask_100bps_usd",
    "depth_age_s",
    "depth_unchanged_s",
    "book_rows_crossed",
    "book_rows_frozen",
    "oi_usd",
    "oi_age_s",
)
FEEDS = (  # a feed is published when its value is there; then its age must be there too
    ("close", "trade_age_s"),
    ("mark", "mark_age_s"),
    ("index", "index_age_s"),
    ("depth_bid_100bps_usd", "depth_age_s"),
    ("depth_bid_100bps_usd", "depth_unchanged_s"),
)


def _numbers(bars: pl.DataFrame) -> pl.DataFrame:
    """Keys and the columns that rules read, as Float64; a column that is absent or not a number is null."""
    present = [
        pl.col(name).cast(pl.Float64, strict=False) if name in bars.columns else pl.lit(None, pl.Float64).alias(name)
        for name in NUMBERS
    ]
    return bars.select(*KEY, *present)


def checked(bars: pl.DataFrame) -> pl.DataFrame:
    """`bars` after the checks without which a verdict would mean nothing.

    Raises ValueError for a null key, more than one venue, a key that occurs twice, or a `ts` off the full minute.
    """
    if bars.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
        raise ValueError("`venue`, `symbol` and `ts` of bars must not be null")
    venues = bars["venue"].unique().sort().to_list()
    if len(venues) > 1:
        raise ValueError(f"bars must hold one venue, held {venues}")
    if bars.select(KEY).is_duplicated().any():
        raise ValueError("bars must hold one row per venue, symbol and ts")
    if bars.select((pl.col("ts").dt.truncate(MINUTE) != pl.col("ts")).any()).item():
        raise ValueError("`ts` of bars must be full minutes")
    return bars


def on_every_minute(bars: pl.DataFrame, starts: pl.DataFrame) -> pl.DataFrame:
    """One row per symbol and minute from its start (`symbol, start`) to the last minute of `bars`.

    A minute in which a symbol has no row becomes a row of nulls (`present` false) whose ages keep growing for
    `FILL_MIN` minutes, so that a symbol that falls silent goes stale instead of disappearing. Sorted by symbol and ts.
    """
    venue, end = bars["venue"][0], bars["ts"].max()
    grid = starts.select("symbol", pl.datetime_ranges("start", pl.lit(end), MINUTE, time_unit="us").alias("ts"))
    grid = grid.explode("ts").drop_nulls("ts").with_columns(pl.lit(venue).alias("venue")).select(KEY).sort(KEY)
    rows = _numbers(bars).with_columns(pl.lit(True).alias("present"))
    dense = grid.join(rows, on=KEY, how="left", maintain_order="left")
    return _aged(dense.with_columns(pl.col("present").fill_null(False)))


def _aged(dense: pl.DataFrame) -> pl.DataFrame:
    """Fill absent rows from the last present one, at most `FILL_MIN` minutes old; their ages grow with the gap."""
    carried = sorted({name for pair in FEEDS for name in pair})
    row = pl.int_range(pl.len())
    spoke = dense.with_columns(pl.when("present").then(row).alias("source"), row.alias("row"))
    spoke = spoke.with_columns(pl.col("source").forward_fill(limit=FILL_MIN).over("symbol"))
    gap_s = (pl.col("row") - pl.col("source")) * 60.0
    taken = [pl.col(name).gather(pl.col("source")) for name in carried]
    aged = [value + gap_s if name.endswith("_s") else value for name, value in zip(carried, taken, strict=True)]
    return spoke.with_columns(aged).drop("source", "row")


def _usable(name: str, least: float = 0.0) -> pl.Expr:
    """Whether a value may be used; false for null, NaN, infinite, negative and absurdly large."""
    return pl.col(name).is_between(least, LARGEST).fill_null(False)


def _fault(name: str, value: str, age: str, age_s_max: float, least: float = SMALLEST) -> pl.Expr:
    """Why the input cannot be used: `<name> missing | invalid | age missing | stale`, null where it can."""
    return (
        pl.when(pl.col(value).is_null())
        .then(pl.lit(f"{name} missing"))
        .when(~_usable(value, least))
        .then(pl.lit(f"{name} invalid"))
        .when(~_usable(age))
        .then(pl.lit(f"{name} age missing"))
        .when(~(pl.col(age) <= age_s_max))
        .then(pl.lit(f"{name} stale"))
    )


def _depth_fault(inputs: Inputs) -> pl.Expr:
    side_faults = [
        _fault("depth", f"depth_{side}_100bps_usd", "depth_age_s", inputs.depth_age_s_max, least=0.0)
        for side in ("bid", "ask")
    ]
    checks = _usable("book_rows_crossed") & _usable("book_rows_frozen") & _usable("depth_unchanged_s")
    book = (
        pl.when(~checks)
        .then(pl.lit("depth unchecked"))
        .when(pl.col("book_rows_crossed") > 0)
        .then(pl.lit("depth crossed"))
        .when((pl.col("book_rows_frozen") > 0) | ~(pl.col("depth_unchanged_s") <= inputs.depth_unchanged_s_max))
        .then(pl.lit("depth frozen"))
    )
    return pl.coalesce(*side_faults, book)


def _mark_fault(inputs: Inputs) -> pl.Expr:
    published = _fault("mark", "mark", "mark_age_s", inputs.mark_age_s_max)
    return pl.when(pl.col("mark").is_null()).then(pl.col("price_fault")).otherwise(published)


def _feed_fault() -> pl.Expr:
    """Names the published feeds without a usable age, and the trade feed where it never spoke."""
    missing = [
        pl.when(pl.col(value).is_not_null() & ~_usable(age)).then(pl.lit(f"{age} missing")) for value, age in FEEDS
    ]
    silent = pl.when(pl.col("close").is_null()).then(pl.lit("trades missing"))
    return pl.coalesce(silent, *missing)


def _inputs(dense: pl.DataFrame, inputs: Inputs) -> pl.DataFrame:
    faults = dense.with_columns(
        price_fault=_fault("price", "close", "trade_age_s", inputs.price_age_s_max),
        index_fault=_fault("index", "index", "index_age_s", inputs.index_age_s_max),
        depth_fault=_depth_fault(inputs),
        oi_fault=_fault("open interest", "oi_usd", "oi_age_s", inputs.oi_age_s_max, least=0.0),
        feed_fault=_feed_fault(),
        crossed=pl.col("book_rows_crossed") > 0,
        frozen=(pl.col("book_rows_frozen") > 0) | (pl.col("depth_unchanged_s") > inputs.depth_unchanged_s_max),
        mark_source=pl.when(pl.col("mark").is_null()).then(pl.lit("last")).otherwise(pl.lit("venue")),
    ).with_columns(mark_fault=_mark_fault(inputs))
    thinner = pl.min_horizontal("depth_bid_100bps_usd", "depth_ask_100bps_usd")
    return faults.with_columns(
        price=pl.when(pl.col("price_fault").is_null()).then("close"),
        mark=pl.when(pl.col("mark_fault").is_null()).then(pl.coalesce("mark", "close")),
        index=pl.when(pl.col("index_fault").is_null()).then("index"),
        depth_usd=pl.when(pl.col("depth_fault").is_null()).then(thinner),
        oi_usd=pl.when(pl.col("oi_fault").is_null()).then("oi_usd"),
        feed_age_s=pl.when(pl.col("feed_fault").is_null()).then(_oldest_feed()),
        row=pl.int_range(pl.len()).over("symbol"),
    )


def _oldest_feed() -> pl.Expr:
    return pl.max_horizontal(*(pl.when(pl.col(value).is_not_null()).then(pl.col(age)) for value, age in FEEDS))


def _sum(terms: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(add, terms)


def _mean_before(name: str, window_min: int, samples_share_min: float) -> pl.Expr:
    """Mean over the minutes [t - window, t), the current one left out; null with too few values.

    The terms are added in a fixed order, so the last bit does not depend on where the table starts.
    """
    past = [pl.when(pl.col("row") >= back).then(pl.col(name).shift(back)) for back in range(1, window_min + 1)]
    samples = _sum(value.is_not_null().cast(pl.Int32) for value in past)
    total = _sum(value.fill_null(0.0) for value in past)
    return pl.when(samples >= samples_share_min * window_min).then(total / samples)


def _return_steps() -> pl.Expr:
    """One-minute log return in whole multiples of `RETURN_UNIT`; across a gap, against the last price before it."""
    last = pl.col("price").forward_fill(limit=FILL_MIN).shift(1).over("symbol")
    return ((pl.col("price") / last).log().clip(-RETURN_CAP, RETURN_CAP) / RETURN_UNIT).round().cast(pl.Int64)


def _volatility(inputs: Inputs) -> pl.Expr:
    """Standard deviation per hour: root of the summed squared one-minute log returns, scaled to 60 minutes."""
    steps, window = pl.col("return_steps"), inputs.volatility_min
    squares = (steps * steps).rolling_sum(window, min_samples=1).over("symbol")
    samples = steps.is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=1).over("symbol")
    return pl.when(samples >= inputs.samples_share_min * window).then((squares * 60 / samples).sqrt() * RETURN_UNIT)


def _depth_normal(inputs: Inputs) -> pl.Expr:
    samples = math.ceil(inputs.samples_share_min * inputs.depth_normal_min)
    return pl.col("depth_usd").shift(1).rolling_median(inputs.depth_normal_min, min_samples=samples).over("symbol")


def _relative(value: str, base: str) -> pl.Expr:
    """`value / base - 1`, by way of the difference: 90 against 100 is -0.1 to the last bit, as a band must be."""
    return (pl.col(value) - pl.col(base)) / pl.col(base)


def facts_on(dense: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Facts for the rows of `on_every_minute`; see `market_facts`."""
    inputs = policy.inputs
    share = inputs.samples_share_min
    base = _inputs(dense, inputs).with_columns(return_steps=_return_steps())
    windows = base.with_columns(
        reference_fast=_mean_before("price", inputs.reference_fast_min, share),
        reference_slow=_mean_before("price", inputs.reference_slow_min, share),
        volatility_1h=_volatility(inputs),
        depth_normal_usd=_depth_normal(inputs),
    )
    return windows.with_columns(
        move_fast=_relative("price", "reference_fast"),
        move_slow=_relative("price", "reference_slow"),
        divergence=_relative("mark", "index").abs(),
        **{name: pl.when(_usable(name)).then(name) for name in NUMBERS if name.endswith("_s")},
        depth_ratio=pl.col("depth_usd") / pl.when(pl.col("depth_normal_usd") > SMALLEST).then("depth_normal_usd"),
    ).select(
        *KEY, "present", "price", "reference_fast", "reference_slow", "move_fast", "move_slow",
        "mark", "mark_source", "index", "divergence", "depth_usd", "depth_normal_usd", "depth_ratio",
        "volatility_1h", "oi_usd", "feed_age_s", "trade_age_s", "mark_age_s", "index_age_s", "depth_age_s",
        "depth_unchanged_s", "oi_age_s", "crossed", "frozen",
        "price_fault", "mark_fault", "index_fault", "depth_fault", "oi_fault", "feed_fault",
    )  # fmt: skip


def first_rows(bars: pl.DataFrame) -> pl.DataFrame:
    """The first minute of every symbol: `symbol, start`."""
    return bars.group_by("symbol").agg(pl.col("ts").min().alias("start")).sort("symbol")


def market_facts(bars: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """One row per venue, symbol and minute of `bars` (one venue), from a symbol's first minute to the last of all.

        reference_fast = mean of close over [t - 5 min, t)          move_fast = price / reference_fast - 1
        reference_slow = mean of close over [t - 60 min, t)         move_slow = price / reference_slow - 1
        divergence     = |mark / index - 1|                         mark_source says "last" where no mark is published
        depth_usd      = thinner side within 100 bps                depth_ratio = depth_usd / median of [t - 240 min, t)
        volatility_1h  = sqrt(sum of squared one-minute log returns over (t - 60 min, t])
        feed_age_s     = age of the oldest published feed

    Windows are policy numbers; the values above are the defaults. A fact is null where an input is missing, not
    finite, out of range, too old, crossed or frozen, and where its window is less than half full. Never NaN.

    Raises ValueError for a null or repeated key, more than one venue, or a `ts` off the full minute.
    """
    if bars.is_empty():
        keys: Shape = {"venue": pl.String, "symbol": pl.String, "ts": UTC_US, "present": pl.Boolean}
        return facts_on(pl.DataFrame(schema=keys | dict.fromkeys(NUMBERS, pl.Float64())), policy)
    return facts_on(on_every_minute(checked(bars), first_rows(bars)), policy)
