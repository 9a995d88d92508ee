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
ALL = "*"  # the symbol of a row about the venue as a whole
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
    "oi_base",
    "oi_usd",
    "oi_age_s",
    "liq_long_usd",
    "liq_short_usd",
)
FEEDS = (  # a feed is published when its value is there; then its age must be there too
    ("close", "trade_age_s"),
    ("mark", "mark_age_s"),
    ("index", "index_age_s"),
    ("depth_bid_100bps_usd", "depth_age_s"),
    ("depth_bid_100bps_usd", "depth_unchanged_s"),
)
HEARD = (  # the venue's own voice; its index may come from another venue, and a still book is not a silent one
    ("close", "trade_age_s"),
    ("mark", "mark_age_s"),
    ("depth_bid_100bps_usd", "depth_age_s"),
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

    Raises ValueError for a null key, a symbol called `*`, more than one venue, a key that occurs twice, or a `ts` off
    the full minute.
    """
    if bars.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
        raise ValueError("`venue`, `symbol` and `ts` of bars must not be null")
    if (bars["symbol"] == ALL).any():
        raise ValueError(f"`symbol` of bars must be a symbol's name, was {ALL}, which stands for all")
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
    """Fill absent rows from the last present one, at most `FILL_MIN` minutes old; their ages grow with the gap.

    `listed` says whether there was such a row: a symbol without one is no longer a market of the venue.
    """
    carried = sorted({name for pair in FEEDS for name in pair})
    row = pl.int_range(pl.len())
    spoke = dense.with_columns(pl.when("present").then(row).alias("source"), row.alias("row"))
    spoke = spoke.with_columns(pl.col("source").forward_fill(limit=FILL_MIN).over("symbol"))
    gap_s = (pl.col("row") - pl.col("source")) * 60.0
    taken = [pl.col(name).gather(pl.col("source")) for name in carried]
    aged = [value + gap_s if name.endswith("_s") else value for name, value in zip(carried, taken, strict=True)]
    return spoke.with_columns(aged, listed=pl.col("source").is_not_null()).drop("source", "row")


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
    return pl.when(pl.col("mark").is_null()).then(pl.col("price_fault")).otherwise(_published_fault(inputs))


def _published_fault(inputs: Inputs) -> pl.Expr:
    return _fault("mark", "mark", "mark_age_s", inputs.mark_age_s_max)


def _stands_in(inputs: Inputs) -> pl.Expr:
    """Whether the venue's mark stands in for a last trade that is too old: a halted market trades no more, and a band
    that saw nothing could never be clean again.
    """
    return (pl.col("price_fault") == "price stale").fill_null(False) & _published_fault(inputs).is_null()


def _feed_fault() -> pl.Expr:
    """Names the published feeds without a usable age, and the trade feed where it never spoke."""
    missing = [
        pl.when(pl.col(value).is_not_null() & ~_usable(age)).then(pl.lit(f"{age} missing")) for value, age in FEEDS
    ]
    silent = pl.when(pl.col("close").is_null()).then(pl.lit("trades missing"))
    return pl.coalesce(silent, *missing)


def _liq_fault() -> pl.Expr:
    return (
        pl.when(pl.any_horizontal(pl.col("liq_long_usd", "liq_short_usd").is_null()))
        .then(pl.lit("liquidations missing"))
        .when(~(_usable("liq_long_usd") & _usable("liq_short_usd")))
        .then(pl.lit("liquidations invalid"))
    )


def _silent_min() -> pl.Expr:
    """Full minutes since the youngest feed of the symbol was heard; null where none has a usable age."""
    ages = [pl.when(pl.col(value).is_not_null() & _usable(age)).then(pl.col(age)) for value, age in HEARD]
    return pl.min_horizontal(*ages).floor().cast(pl.Int64) // 60


def _book_at_fault() -> pl.Expr:
    """1 in a minute whose book was crossed, frozen or unchecked, 0 where it was sound, null where there was none.

    A book whose every row was refused as crossed has no depth either: it is at fault, not only missing.
    """
    crossed, frozen = pl.col("crossed").fill_null(False), pl.col("frozen").fill_null(False)
    unchecked = pl.col("depth_fault").eq_missing(pl.lit("depth unchecked"))
    return (
        pl.when(pl.col("present") & (crossed | frozen | unchecked))
        .then(pl.lit(1, pl.Int64))
        .when(pl.col("depth_fault").is_null())
        .then(pl.lit(0, pl.Int64))
    )


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
        liq_fault=_liq_fault(),
        silent_min=_silent_min(),
    ).with_columns(mark_fault=_mark_fault(inputs), book_at_fault=_book_at_fault(), stands_in=_stands_in(inputs))
    forced = (pl.col("liq_long_usd") + pl.col("liq_short_usd")).round().cast(pl.Int64, strict=False)
    thinner = pl.min_horizontal("depth_bid_100bps_usd", "depth_ask_100bps_usd")
    return faults.with_columns(
        price=pl.when(pl.col("price_fault").is_null()).then("close"),
        band_price=pl.when(pl.col("price_fault").is_null()).then("close").when("stands_in").then("mark"),
        band_fault=pl.when(~pl.col("stands_in")).then("price_fault"),
        mark=pl.when(pl.col("mark_fault").is_null()).then(pl.coalesce("mark", "close")),
        index=pl.when(pl.col("index_fault").is_null()).then("index"),
        depth_usd=pl.when(pl.col("depth_fault").is_null()).then(thinner),
        depth_bid_usd=pl.when(pl.col("depth_fault").is_null()).then("depth_bid_100bps_usd"),
        depth_ask_usd=pl.when(pl.col("depth_fault").is_null()).then("depth_ask_100bps_usd"),
        oi_usd=pl.when(pl.col("oi_fault").is_null()).then("oi_usd"),
        oi_base=pl.when(pl.col("oi_fault").is_null() & _usable("oi_base")).then("oi_base"),
        liq_usd=pl.when(pl.col("liq_fault").is_null()).then(forced),
        book_fault=pl.when(pl.col("book_at_fault").is_null()).then("depth_fault"),
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


def _samples(inputs: Inputs, window_min: int) -> int:
    """The least number of values with which a window of so many minutes tells anything."""
    return math.ceil(inputs.samples_share_min * window_min)


def _move(inputs: Inputs) -> pl.Expr:
    """Log return over the horizon, (t - h, t], in whole steps."""
    horizon = inputs.sigma_horizon_min
    moved = pl.col("return_steps").rolling_sum(horizon, min_samples=_samples(inputs, horizon)).over("symbol")
    return pl.when(pl.col("price").is_not_null()).then(moved)


def _move_sigma(inputs: Inputs) -> pl.Expr:
    """Standard deviation of a move over the horizon h, in steps, as the minutes before the horizon had it.

        variance = mean of squared one-minute returns over (t - h - volatility_min, t - h], at least the floor's
        out[t]   = sqrt(variance x h)

    The move itself is not in it: a fast move cannot widen its own band.
    """
    past, window = pl.col("return_steps").shift(inputs.sigma_horizon_min), inputs.volatility_min
    squares = (past * past).rolling_sum(window, min_samples=1).over("symbol")
    samples = past.is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=1).over("symbol")
    floor = (inputs.sigma_floor_1h / RETURN_UNIT) ** 2 / 60
    variance = pl.max_horizontal(squares / samples, floor)
    return pl.when(samples >= inputs.samples_share_min * window).then((variance * inputs.sigma_horizon_min).sqrt())


def _forced(inputs: Inputs) -> pl.Expr:
    window = inputs.liquidation_window_min
    return pl.col("liq_usd").rolling_sum(window, min_samples=_samples(inputs, window)).over("symbol")


def _drop(name: str, inputs: Inputs) -> pl.Expr:
    """How far `name` lies below its maximum over (t - window, t], as a share of it; nothing cannot fall further."""
    window = inputs.oi_window_min
    highest = pl.col(name).rolling_max(window, min_samples=_samples(inputs, window)).over("symbol")
    fell = pl.when(highest > SMALLEST).then((highest - pl.col(name)) / highest)
    return fell.when(highest.is_not_null() & pl.col(name).is_not_null()).then(0.0)


def _book_fault_share(inputs: Inputs) -> pl.Expr:
    window = inputs.book_window_min
    faults = pl.col("book_at_fault").rolling_sum(window, min_samples=_samples(inputs, window)).over("symbol")
    seen = pl.col("book_at_fault").is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=1).over("symbol")
    return pl.when(pl.col("book_at_fault").is_not_null()).then(faults / seen)


def _relative(value: str, base: str) -> pl.Expr:
    """`value / base - 1`, by way of the difference: 90 against 100 is -0.1 to the last bit, as a band must be."""
    return (pl.col(value) - pl.col(base)) / pl.col(base)


def facts_on(dense: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Facts for the rows of `on_every_minute`; see `market_facts`."""
    inputs = policy.inputs
    share = inputs.samples_share_min
    base = _inputs(dense, inputs).with_columns(return_steps=_return_steps())
    windows = base.with_columns(
        reference_fast=_mean_before("band_price", inputs.reference_fast_min, share),
        reference_slow=_mean_before("band_price", inputs.reference_slow_min, share),
        volatility_1h=_volatility(inputs),
        depth_normal_usd=_depth_normal(inputs),
        move=_move(inputs),
        move_sigma=_move_sigma(inputs),
        liq_window_usd=pl.when(pl.col("liq_usd").is_not_null()).then(_forced(inputs)),
        oi_drop=pl.coalesce(_drop("oi_base", inputs), _drop("oi_usd", inputs)),
        book_fault_share=_book_fault_share(inputs),
    )
    normal = pl.when(pl.col("depth_normal_usd") > SMALLEST).then("depth_normal_usd")
    return windows.with_columns(
        move_fast=_relative("band_price", "reference_fast"),
        move_slow=_relative("band_price", "reference_slow"),
        divergence=_relative("mark", "index").abs(),
        **{name: pl.when(_usable(name)).then(name) for name in NUMBERS if name.endswith("_s")},
        depth_ratio=pl.col("depth_usd") / normal,
        move_horizon=(pl.col("move") * RETURN_UNIT).exp() - 1.0,
        move_sigmas=pl.col("move") / pl.col("move_sigma"),
        liq_per_depth=pl.col("liq_window_usd") / normal,
    ).select(
        *KEY, "present", "listed", "silent_min", "price", "reference_fast", "reference_slow", "move_fast", "move_slow",
        "mark", "mark_source", "index", "divergence", "depth_usd", "depth_bid_usd", "depth_ask_usd",
        "depth_normal_usd", "depth_ratio",
        "volatility_1h", "oi_usd", "feed_age_s", "trade_age_s", "mark_age_s", "index_age_s", "depth_age_s",
        "depth_unchanged_s", "oi_age_s", "crossed", "frozen",
        "move_horizon", "move_sigmas", "liq_window_usd", "liq_per_depth", "oi_drop", "book_fault_share",
        "price_fault", "band_fault", "mark_fault", "index_fault", "depth_fault", "oi_fault", "feed_fault", "liq_fault",
        "book_fault",
    )  # fmt: skip


def first_rows(bars: pl.DataFrame) -> pl.DataFrame:
    """The first minute of every symbol: `symbol, start`."""
    return bars.group_by("symbol").agg(pl.col("ts").min().alias("start")).sort("symbol")


def market_facts(bars: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """One row per venue, symbol and minute of `bars` (one venue), from a symbol's first minute to the last of all.

        reference_fast = mean of close over [t - 5 min, t)          move_fast = price / reference_fast - 1
        reference_slow = mean of close over [t - 60 min, t)         move_slow = price / reference_slow - 1
        close          = the last trade; where it is too old, the venue's mark: a halted market trades no more
        divergence     = |mark / index - 1|                         mark_source says "last" where no mark is published
        depth_usd      = thinner side within 100 bps                depth_ratio = depth_usd / median of [t - 240 min, t)
        volatility_1h  = sqrt(sum of squared one-minute log returns over (t - 60 min, t])
        feed_age_s     = age of the oldest published feed
        move_sigmas    = log return over (t - 5 min, t] / (s x sqrt(5)), s the root mean square of one-minute
                         returns over (t - 65 min, t - 5 min], at least the floor's
        liq_per_depth  = dollars liquidated in (t - 5 min, t] / median depth of [t - 240 min, t): of the book as it was,
                         so that a book that is gone or crossed neither hides forced flow nor counts it twice
        oi_drop        = 1 - open interest / its maximum over (t - 30 min, t]; in base units where they are told, since
                         dollars fall with the price though nobody closed
        book_fault_share = of the minutes of (t - 10 min, t] with a book, the share with a crossed, frozen or
                         unchecked one
        silent_min     = full minutes since the youngest feed of the symbol was heard

    Windows are policy numbers; the values above are the defaults. A fact is null where an input is missing, not
    finite, out of range, too old, crossed or frozen, and where its window is less than half full. Never NaN.

    Raises ValueError for a null or repeated key, more than one venue, or a `ts` off the full minute.
    """
    if bars.is_empty():
        keys: Shape = {"venue": pl.String, "symbol": pl.String, "ts": UTC_US, "present": pl.Boolean}
        return facts_on(
            pl.DataFrame(schema=keys | {"listed": pl.Boolean} | dict.fromkeys(NUMBERS, pl.Float64())), policy
        )
    return facts_on(on_every_minute(checked(bars), first_rows(bars)), policy)
