"""Canonical tables: the only shapes in which market data travels through cascadeguard.

Time stamps are UTC microseconds. `ts` is when a row's subject happened, `known_at` when it could be known; every join
is as of `known_at`. Columns that end in `_usd` are dollars, in `_bps` hundredths of a percent, in `_s` seconds.
"""

from typing import Any

import dataframely as dy
import polars as pl

UTC_US = pl.Datetime("us", "UTC")
DEPTH_BANDS_BPS = (20, 100, 200, 500)  # the bands that bars carry; the lake keeps every band a venue publishes
VENUE_WIDE = "*"  # the symbol of a row that speaks for the venue as a whole


def _name(**kwargs: Any) -> dy.String:
    return dy.String(min_length=1, **kwargs)


def _time(**kwargs: Any) -> dy.Datetime:
    return dy.Datetime(time_zone="UTC", time_unit="us", **kwargs)


def _one_of(*values: str, **kwargs: Any) -> dy.String:
    return dy.String(check={"unknown_value": lambda col: col.is_in(values)}, **kwargs)


def _positive(**kwargs: Any) -> dy.Float64:
    return dy.Float64(min_exclusive=0.0, **kwargs)


def _non_negative(**kwargs: Any) -> dy.Float64:
    return dy.Float64(min=0.0, **kwargs)


class Trades(dy.Schema):
    """One row per public trade; `side` is the taker's, `qty` is in base units whatever the contract."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    trade_id = _name(primary_key=True)
    known_at = _time()
    side = _one_of("buy", "sell")
    price = _positive()
    qty = _positive()
    notional_usd = _positive()


class BookEvents(dy.Schema):
    """One row per change of the book; `order_id` is null where the source aggregates by level (L2)."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    seq = dy.Int64(primary_key=True)
    known_at = _time()
    side = _one_of("bid", "ask")
    event = _one_of("add", "cancel", "trade", "snapshot")
    price = _positive()
    qty = _non_negative()
    order_id = _name(nullable=True)


class BookDepth(dy.Schema):
    """Dollars resting within `band_bps` of the mid price on one side, cumulative from the touch."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    side = _one_of("bid", "ask", primary_key=True)
    band_bps = dy.Int32(primary_key=True, min_exclusive=0)
    known_at = _time()
    depth_usd = _non_negative()


class Marks(dy.Schema):
    """Mark, index and last price as the venue publishes them; null where it does not publish one."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    mark = _positive(nullable=True)
    index = _positive(nullable=True)
    last = _positive(nullable=True)


class Funding(dy.Schema):
    """Funding rate per interval of `interval_h` hours, positive when longs pay."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    rate = dy.Float64(min=-1.0, max=1.0)
    interval_h = _positive()


class OpenInterest(dy.Schema):
    """Open interest, one-sided (every contract counted once)."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    oi_base = _non_negative()
    oi_usd = _non_negative()


class Liquidations(dy.Schema):
    """One row per forced fill; `position_side` is the side of the position that was closed."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    seq = dy.Int64(primary_key=True)
    known_at = _time()
    position_side = _one_of("long", "short")
    qty = _positive()
    price = _positive()
    notional_usd = _positive()
    path = _one_of("market", "gradual", "auction", "adl", "unknown")


class Candles(dy.Schema):
    """One row per candle, stamped with the end of its interval `(ts - interval_s, ts]`."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    interval_s = dy.Int32(primary_key=True, min_exclusive=0)
    known_at = _time()
    open = _positive()
    high = _positive()
    low = _positive()
    close = _positive()
    volume = _non_negative()
    taker_buy_volume = _non_negative(nullable=True)

    @dy.rule()
    def high_is_highest(cls) -> pl.Expr:
        return pl.col("high") >= pl.max_horizontal("open", "low", "close")

    @dy.rule()
    def low_is_lowest(cls) -> pl.Expr:
        return pl.col("low") <= pl.min_horizontal("open", "high", "close")


class Collateral(dy.Schema):
    """What an account has deposited, in units of `asset`; negative is a debt."""

    venue = _name(primary_key=True)
    account = _name(primary_key=True)
    asset = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    amount = dy.Float64()


class Positions(dy.Schema):
    """Signed position in base units; `isolated_margin` is in dollars and null for cross margin."""

    venue = _name(primary_key=True)
    account = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    qty = dy.Float64()
    entry_price = _positive()
    margin_mode = _one_of("cross", "isolated")
    isolated_margin = _non_negative(nullable=True)


class Instruments(dy.Schema):
    """What a symbol is, from `effective_from` on. Null where the venue's document does not say.

    `settlement` is `spot`, `linear` (contract_size in base units) or `inverse` (contract_size in dollars).
    `tiers` rows are ordered: upper notional in dollars (null = no upper bound), maintenance rate, deduction, maximum
    leverage.
    `spot_reference` names the spot markets that stand for the index, as `venue:symbol`, first choice first.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    effective_from = _time(primary_key=True)
    base = _name()
    quote = _name()
    settlement = _one_of("spot", "linear", "inverse")
    contract_size = _positive()
    tick = _positive(nullable=True)
    tiers = dy.List(
        dy.Struct(
            {
                "notional_usd_max": dy.Float64(nullable=True),
                "maintenance_rate": dy.Float64(),
                "deduction_usd": dy.Float64(),
                "leverage_max": dy.Float64(),
            }
        ),
        nullable=True,
    )
    mark_rule = _name(nullable=True)
    path = _name(nullable=True)
    fee_taker = dy.Float64(nullable=True)
    fee_liquidation = dy.Float64(nullable=True)
    haircut = dy.Float64(nullable=True)
    spot_reference = dy.List(_name(), nullable=True)


class Quarantine(dy.Schema):
    """A row that was refused, with where it came from and why; nothing is dropped silently."""

    table = _name(primary_key=True)
    source = _name(primary_key=True)  # file name
    source_sha256 = _name(primary_key=True)
    line = dy.Int64(primary_key=True)  # 1 is the first line of the file, the header included
    venue = dy.String(nullable=True)
    symbol = dy.String(nullable=True)
    ts = _time(nullable=True)  # null where the stamp itself could not be read
    known_at = _time(nullable=True)
    reason = _name()  # machine words, strictest first, joined by "; "
    raw = dy.String()  # the row as it stood


class IngestLog(dy.Schema):
    """One row per ingested source and table: what was read, taken and refused. read = accepted + quarantined."""

    table = _name(primary_key=True)
    source = _name(primary_key=True)
    source_sha256 = _name(primary_key=True)
    adapter = _name()
    rows_read = dy.Int64(min=0)
    rows_accepted = dy.Int64(min=0)
    rows_quarantined = dy.Int64(min=0)

    @dy.rule()
    def nothing_lost(cls) -> pl.Expr:
        return pl.col("rows_read") == pl.col("rows_accepted") + pl.col("rows_quarantined")


class Bars(dy.Schema):
    """One row per derivative symbol and minute, stamped with the end of the minute `(ts - 60 s, ts]`.

    Money is in whole dollars (Int64), so that rolling sums are exact. A column is null where its source table is
    absent for the symbol; a minute without trades carries the last close and a growing `trade_age_s`.
    Every slow series joins as of `known_at <= ts`; its age is `ts` minus the time stamp of the value used.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()  # the latest of ts and the known_at of the events inside
    open = _positive(nullable=True)
    high = _positive(nullable=True)
    low = _positive(nullable=True)
    close = _positive(nullable=True)
    trades = dy.Int64(nullable=True)
    volume_usd = dy.Int64(nullable=True)
    buy_usd = dy.Int64(nullable=True)
    sell_usd = dy.Int64(nullable=True)
    trade_age_s = _non_negative(nullable=True)
    trade_ids_missing = dy.Int64(nullable=True)  # gaps in numeric trade ids that ended in this minute
    latency_ms_max = _non_negative(nullable=True)  # largest known_at - ts among the minute's trades
    adds = dy.Int64(nullable=True)
    add_bid_usd = dy.Int64(nullable=True)
    add_ask_usd = dy.Int64(nullable=True)
    cancels = dy.Int64(nullable=True)
    cancel_bid_usd = dy.Int64(nullable=True)
    cancel_ask_usd = dy.Int64(nullable=True)
    depth_bid_20bps_usd = dy.Int64(nullable=True)
    depth_ask_20bps_usd = dy.Int64(nullable=True)
    depth_bid_100bps_usd = dy.Int64(nullable=True)
    depth_ask_100bps_usd = dy.Int64(nullable=True)
    depth_bid_200bps_usd = dy.Int64(nullable=True)
    depth_ask_200bps_usd = dy.Int64(nullable=True)
    depth_bid_500bps_usd = dy.Int64(nullable=True)
    depth_ask_500bps_usd = dy.Int64(nullable=True)
    depth_age_s = _non_negative(nullable=True)
    depth_unchanged_s = _non_negative(
        nullable=True
    )  # how long both sides within 100 bps have stood still to the dollar
    book_rows_crossed = dy.Int64(nullable=True)  # book rows refused in this minute because bid >= ask
    book_rows_frozen = dy.Int64(nullable=True)  # book rows refused because a side stood still to the last digit
    rows_refused = dy.Int64(nullable=True)  # rows of any table refused in this minute
    mark = _positive(nullable=True)
    mark_age_s = _non_negative(nullable=True)
    index = _positive(nullable=True)  # the venue's index, else the last trade of the spot reference
    index_age_s = _non_negative(nullable=True)
    index_source = dy.String(nullable=True)  # "venue" or the spot market's "venue:symbol"
    funding_rate = dy.Float64(nullable=True)
    funding_interval_h = _positive(nullable=True)
    funding_age_s = _non_negative(nullable=True)
    oi_base = _non_negative(nullable=True)
    oi_usd = dy.Int64(nullable=True)
    oi_age_s = _non_negative(nullable=True)
    liqs = dy.Int64(nullable=True)
    liq_long_usd = dy.Int64(nullable=True)
    liq_short_usd = dy.Int64(nullable=True)


class Structure(dy.Schema):
    """Who could be forced to trade, per symbol and positions snapshot; dollars of positions, not of margin."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    fuel_long_500bps_usd = dy.Int64()  # notional of longs whose trip price is within 5 % below the mark
    fuel_short_500bps_usd = dy.Int64()  # notional of shorts whose trip price is within 5 % above the mark
    position_usd = dy.Int64()  # gross notional of all positions
    leverage_p50 = _non_negative(nullable=True)  # notional-weighted quantiles of account leverage
    leverage_p90 = _non_negative(nullable=True)
    largest_share = _non_negative(nullable=True)  # largest account's share of gross notional


class Scores(dy.Schema):
    """One row per symbol and minute, and one with symbol `*` for the venue.

    `anomaly` is the detector's surprise, -log10 of a tail probability; null inside the reference period and where every
    input is missing. `p_15m`, `p_60m` are calibrated probabilities that a cascade starts within the horizon; null
    without a model or when it abstains. `status` says which parts spoke, `reasons` names the leading families and
    features.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    available_at = _time()
    status = _name()
    anomaly = _non_negative(nullable=True)
    anomaly_threshold = _non_negative(nullable=True)
    p_15m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_60m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_threshold = dy.Float64(min=0.0, max=1.0, nullable=True)
    alert = dy.Bool()
    lead_family = dy.String(nullable=True)
    reasons = dy.String(nullable=True)
    missing_inputs = dy.String(nullable=True)
    detector_uri = dy.String(nullable=True)
    model_uri = dy.String(nullable=True)


CANONICAL: dict[str, type[dy.Schema]] = {
    "trades": Trades,
    "book_events": BookEvents,
    "book_depth": BookDepth,
    "marks": Marks,
    "funding": Funding,
    "open_interest": OpenInterest,
    "liquidations": Liquidations,
    "candles": Candles,
    "collateral": Collateral,
    "positions": Positions,
    "instruments": Instruments,
}


def polars_schema(schema: type[dy.Schema]) -> pl.Schema:
    """Column names and polars types of a table, in order.

    >>> polars_schema(Funding).names()
    ['venue', 'symbol', 'ts', 'known_at', 'rate', 'interval_h']
    """
    return pl.Schema({name: column.dtype for name, column in schema.columns().items()})
