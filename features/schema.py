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


class BookLevels(dy.Schema):
    """One row per level that a feed restates (L2): `qty` is what rests at `price` from then on, 0 = the level is gone.

    Rows of a `snapshot` share `ts` and `seq` and replace the whole book. `seq_before` is the sequence number that the
    source says this message follows; where it is not the one before, messages were lost and the book must be doubted.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    seq = dy.Int64(primary_key=True)
    side = _one_of("bid", "ask", primary_key=True)
    price = _positive(primary_key=True)
    known_at = _time()
    qty = _non_negative()
    snapshot = dy.Bool(primary_key=True)
    seq_before = dy.Int64(nullable=True)


class Quotes(dy.Schema):
    """Best bid and ask with what rests there, in base units."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    seq = dy.Int64(primary_key=True)
    known_at = _time()
    bid = _positive()
    bid_qty = _non_negative()
    ask = _positive()
    ask_qty = _non_negative()

    @dy.rule()
    def crossed_quote(cls) -> pl.Expr:
        return pl.col("bid") < pl.col("ask")


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
    """Mark, index and last price as the venue publishes them; null where a source does not tell one.

    Two sources may complete each other: rows of one stamp that tell different prices stand side by side.
    """

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
    """Open interest, one-sided (every contract counted once). `oi_base` is null where a source tells dollars only."""

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    oi_base = _non_negative(nullable=True)
    oi_usd = _non_negative()


class Liquidations(dy.Schema):
    """One row per forced fill; `position_side` is the side of the position that was closed.

    It is `unknown` where a source does not tell; `qty` and `price` are null where it tells dollars only.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    seq = dy.Int64(primary_key=True)
    known_at = _time()
    position_side = _one_of("long", "short", "unknown")
    qty = _positive(nullable=True)
    price = _positive(nullable=True)
    notional_usd = _positive()
    path = _one_of("market", "gradual", "auction", "adl", "unknown")


class LiquidationCounts(dy.Schema):
    """How many forced fills and auto-deleveragings a source counted in `(ts - interval_s, ts]`; dollars untold.

    `symbol` is `*` where the source counts the venue as a whole.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    interval_s = dy.Int32(primary_key=True, min_exclusive=0)
    known_at = _time()
    liquidations = dy.Int64(min=0)
    adls = dy.Int64(min=0)


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
    item = dy.Int64(primary_key=True)  # 0 is the first thing the line says; a message may hold many
    venue = dy.String(nullable=True)
    symbol = dy.String(nullable=True)
    ts = _time(nullable=True)  # null where the stamp itself could not be read
    known_at = _time(nullable=True)
    reason = _name()  # machine words, strictest first, joined by "; "
    raw = dy.String()  # the row as it stood


class IngestLog(dy.Schema):
    """One row per ingested source and table: what was read, taken and refused. read = accepted + quarantined.

    `rows_silent` of the accepted carry nothing for the table (a subscription reply, an empty cell) and are not stored.
    """

    table = _name(primary_key=True)
    source = _name(primary_key=True)
    source_sha256 = _name(primary_key=True)
    adapter = _name()
    rows_read = dy.Int64(min=0)
    rows_accepted = dy.Int64(min=0)
    rows_quarantined = dy.Int64(min=0)
    rows_silent = dy.Int64(min=0)

    @dy.rule()
    def nothing_lost(cls) -> pl.Expr:
        return pl.col("rows_read") == pl.col("rows_accepted") + pl.col("rows_quarantined")


class Bars(dy.Schema):
    """One row per derivative symbol and bar, stamped with the end of its interval `(ts - interval_s, ts]`.

    The interval is a divisor of a day, 60 s unless configured otherwise; features are made for 60 s.
    Money is in whole dollars (Int64), so that rolling sums are exact. A column is null where its source table is
    absent for the symbol; a bar without trades carries the last close and a growing `trade_age_s`.
    Every slow series and the quote join as of `max(known_at, their ts) <= ts`; an age is `ts` minus the time stamp of
    the value used. `{event}_{side}_{band}bps_usd` is the part of `{event}_{side}_usd` at most `band` away from the mid
    just before the event; null where an add or cancel of the bar met no quote of its last hour.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()  # the latest of ts and the known_at of the events inside
    open = _positive(nullable=True)
    high = _positive(nullable=True)
    low = _positive(nullable=True)
    close = _positive(nullable=True)
    price_source = dy.String(nullable=True)  # "trades", or "candles" until the symbol has trades
    trades = dy.Int64(nullable=True)
    volume_usd = dy.Int64(nullable=True)
    buy_usd = dy.Int64(nullable=True)
    sell_usd = dy.Int64(nullable=True)
    trade_age_s = _non_negative(nullable=True)
    trade_ids_missing = dy.Int64(nullable=True)  # gaps in numeric trade ids that ended in this bar
    latency_ms_max = _non_negative(nullable=True)  # largest known_at - ts among the bar's trades
    adds = dy.Int64(nullable=True)
    add_bid_usd = dy.Int64(nullable=True)
    add_ask_usd = dy.Int64(nullable=True)
    cancels = dy.Int64(nullable=True)
    cancel_bid_usd = dy.Int64(nullable=True)
    cancel_ask_usd = dy.Int64(nullable=True)
    add_bid_20bps_usd = dy.Int64(nullable=True)
    add_ask_20bps_usd = dy.Int64(nullable=True)
    add_bid_100bps_usd = dy.Int64(nullable=True)
    add_ask_100bps_usd = dy.Int64(nullable=True)
    add_bid_200bps_usd = dy.Int64(nullable=True)
    add_ask_200bps_usd = dy.Int64(nullable=True)
    add_bid_500bps_usd = dy.Int64(nullable=True)
    add_ask_500bps_usd = dy.Int64(nullable=True)
    cancel_bid_20bps_usd = dy.Int64(nullable=True)
    cancel_ask_20bps_usd = dy.Int64(nullable=True)
    cancel_bid_100bps_usd = dy.Int64(nullable=True)
    cancel_ask_100bps_usd = dy.Int64(nullable=True)
    cancel_bid_200bps_usd = dy.Int64(nullable=True)
    cancel_ask_200bps_usd = dy.Int64(nullable=True)
    cancel_bid_500bps_usd = dy.Int64(nullable=True)
    cancel_ask_500bps_usd = dy.Int64(nullable=True)
    book_trade_bid_usd = dy.Int64(nullable=True)  # resting bids that trades consumed, as the book tells it
    book_trade_ask_usd = dy.Int64(nullable=True)
    bid = _positive(nullable=True)
    ask = _positive(nullable=True)
    spread_bps = _non_negative(nullable=True)  # 10 000 (ask - bid) / mid
    spread_bps_max = _non_negative(nullable=True)  # widest of the bar's quotes and the one at its end
    imbalance = dy.Float64(min=-1.0, max=1.0, nullable=True)  # (bid_qty - ask_qty) / (bid_qty + ask_qty) at the touch
    quote_age_s = _non_negative(nullable=True)
    depth_bid_20bps_usd = dy.Int64(nullable=True)
    depth_ask_20bps_usd = dy.Int64(nullable=True)
    depth_bid_100bps_usd = dy.Int64(nullable=True)
    depth_ask_100bps_usd = dy.Int64(nullable=True)
    depth_bid_200bps_usd = dy.Int64(nullable=True)
    depth_ask_200bps_usd = dy.Int64(nullable=True)
    depth_bid_500bps_usd = dy.Int64(nullable=True)
    depth_ask_500bps_usd = dy.Int64(nullable=True)
    depth_age_s = _non_negative(nullable=True)
    # how long both sides within 100 bps have stood still to the dollar, counted up to an hour
    depth_unchanged_s = _non_negative(nullable=True)
    book_gaps = dy.Int64(nullable=True)  # losses of book messages, by their sequence numbers, that ended in this bar
    book_rows_crossed = dy.Int64(nullable=True)  # book rows refused in this bar because bid >= ask
    book_rows_frozen = dy.Int64(nullable=True)  # book rows refused because a side stood still to the last digit
    rows_refused = dy.Int64(nullable=True)  # rows of any table refused in this bar
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
    """Who could be forced to trade, per symbol and positions snapshot; dollars of positions, not of margin.

    Shares and quantiles weigh accounts by their notional in the symbol. The columns from `rho` on describe the cascade
    that the snapshot could feed (`models/cascade`); they are null where its books, marks or returns are not known.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    known_at = _time()
    # notional of longs (shorts) whose trip price is within 1, 2, 5 % below (above) the mark, or past it
    fuel_long_100bps_usd = dy.Int64(nullable=True)
    fuel_short_100bps_usd = dy.Int64(nullable=True)
    fuel_long_200bps_usd = dy.Int64(nullable=True)
    fuel_short_200bps_usd = dy.Int64(nullable=True)
    fuel_long_500bps_usd = dy.Int64()
    fuel_short_500bps_usd = dy.Int64()
    position_usd = dy.Int64()  # gross notional of all positions
    overdue_usd = dy.Int64(nullable=True)  # notional of accounts that are short of margin at this mark
    leverage_p10 = _non_negative(nullable=True)  # notional-weighted quantiles of account leverage
    leverage_p25 = _non_negative(nullable=True)
    leverage_p50 = _non_negative(nullable=True)
    leverage_p75 = _non_negative(nullable=True)
    leverage_p90 = _non_negative(nullable=True)
    leverage_p99 = _non_negative(nullable=True)
    over_10x_share = dy.Float64(min=0.0, max=1.0, nullable=True)  # share of notional at an account leverage above 10
    over_20x_share = dy.Float64(min=0.0, max=1.0, nullable=True)
    over_50x_share = dy.Float64(min=0.0, max=1.0, nullable=True)
    margin_used = dy.Float64(min=0.0, max=1.0, nullable=True)  # mean of min(maintenance / equity, 1), by notional
    largest_share = _non_negative(nullable=True)  # largest account's share of gross notional
    accounts_effective = _non_negative(nullable=True)  # 1 / sum of squared shares of gross notional
    top10_long_share = dy.Float64(min=0.0, max=1.0, nullable=True)  # long share of the ten largest accounts' notional
    collateral_other_share = dy.Float64(min=0.0, max=1.0, nullable=True)  # neither dollars nor stablecoins
    stable_over_room = _non_negative(nullable=True)  # holders' stablecoins over what their equity exceeds maintenance
    depeg_bps = _non_negative(nullable=True)  # how far the worst of the holders' stablecoins trades below a dollar
    rho = _non_negative(nullable=True)  # loop gain of the venue over moves of 2 %, falls and rises together
    amplification = _non_negative(nullable=True)  # final move of the symbol per shock, worse side; null: no end
    kappa_fall = _non_negative(nullable=True)  # fuel within 2 % over the book that takes it
    kappa_rise = _non_negative(nullable=True)
    cliff_fall_bps = _non_negative(nullable=True)  # nearest drop at which fuel outweighs the book; null where none is
    cliff_rise_bps = _non_negative(nullable=True)
    distance_sd_p10 = dy.Float64(nullable=True)  # 10 % quantile of the units' distance to liquidation, in daily sd
    trigger_share = dy.Float64(min=0.0, max=1.0, nullable=True)  # of notional of units that this symbol's leg triggers
    touch_q25_s = _non_negative(nullable=True)  # s until a tenth of the notional trips, at 25 %


MEASURES = ("depth", "touch", "spread", "volume", "cancels", "range", "basis", "funding")


class Hours(dy.Schema):
    """What an hour of a symbol was like: per measure of `features/norms.py` the bars that told it, their sum and the
    sum of their squares in whole steps. Stamped with the end of the hour, `(ts - 1 h, ts]`.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    depth_n = dy.Int64(min=0)
    depth_sum = dy.Int64()
    depth_sum2 = dy.Int64(min=0)
    touch_n = dy.Int64(min=0)
    touch_sum = dy.Int64()
    touch_sum2 = dy.Int64(min=0)
    spread_n = dy.Int64(min=0)
    spread_sum = dy.Int64()
    spread_sum2 = dy.Int64(min=0)
    volume_n = dy.Int64(min=0)
    volume_sum = dy.Int64()
    volume_sum2 = dy.Int64(min=0)
    cancels_n = dy.Int64(min=0)
    cancels_sum = dy.Int64()
    cancels_sum2 = dy.Int64(min=0)
    range_n = dy.Int64(min=0)
    range_sum = dy.Int64()
    range_sum2 = dy.Int64(min=0)
    basis_n = dy.Int64(min=0)
    basis_sum = dy.Int64()
    basis_sum2 = dy.Int64(min=0)
    funding_n = dy.Int64(min=0)
    funding_sum = dy.Int64()
    funding_sum2 = dy.Int64(min=0)


class Scores(dy.Schema):
    """One row per symbol and minute, and one with symbol `*` for the venue.

    `anomaly` is the detector's surprise, -log10 of a tail probability; null inside the reference period and where every
    input is missing. `p_5m` to `p_240m` are calibrated probabilities that a cascade starts within the horizon,
    `p_60m_low` and `p_60m_high` tell how far apart calibration leaves the one that alerts; null without a model or when
    it abstains. `status` says which parts spoke, `reasons` names the leading families and features.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    available_at = _time()
    status = _name()
    anomaly = _non_negative(nullable=True)
    anomaly_threshold = _non_negative(nullable=True)
    p_5m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_15m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_30m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_60m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_240m = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_60m_low = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_60m_high = dy.Float64(min=0.0, max=1.0, nullable=True)
    p_threshold = dy.Float64(min=0.0, max=1.0, nullable=True)
    alert = dy.Bool()
    lead_family = dy.String(nullable=True)
    reasons = dy.String(nullable=True)
    missing_inputs = dy.String(nullable=True)
    detector_uri = dy.String(nullable=True)
    model_uri = dy.String(nullable=True)


class BookState(dy.Schema):
    """What is known of a level-by-level book at `ts`, so that the next day goes on from there; one fact per row.

    `level`: `qty` rests at `price`, last restated at `since`; `known` is false where messages were lost after that.
    `print`: the `qty` of a trade at `since` that no fall of a level has explained yet. Every other `item` is a mark of
    the feed (`features/mechanics/book.py`): a time or sequence number in `number`, a price or quantity in `value`.
    """

    venue = _name(primary_key=True)
    symbol = _name(primary_key=True)
    ts = _time(primary_key=True)
    row = dy.Int64(primary_key=True, min=0)
    item = _name()
    side = _one_of("bid", "ask", nullable=True)
    price = _positive(nullable=True)
    qty = _non_negative(nullable=True)
    since = _time(nullable=True)
    known = dy.Bool(nullable=True)
    number = dy.Int64(nullable=True)
    value = dy.Float64(nullable=True)


CANONICAL: dict[str, type[dy.Schema]] = {
    "trades": Trades,
    "book_events": BookEvents,
    "book_levels": BookLevels,
    "quotes": Quotes,
    "book_depth": BookDepth,
    "marks": Marks,
    "funding": Funding,
    "open_interest": OpenInterest,
    "liquidations": Liquidations,
    "liquidation_counts": LiquidationCounts,
    "candles": Candles,
    "collateral": Collateral,
    "positions": Positions,
    "instruments": Instruments,
}

DERIVED: dict[str, type[dy.Schema]] = {
    "l2_events": BookEvents,
    "l2_quotes": Quotes,
    "l2_depth": BookDepth,
    "book_state": BookState,
    "bars": Bars,
    "structure": Structure,
    "hours": Hours,
    "scores": Scores,
}


def polars_schema(schema: type[dy.Schema]) -> pl.Schema:
    """Column names and polars types of a table, in order.

    >>> polars_schema(Funding).names()
    ['venue', 'symbol', 'ts', 'known_at', 'rate', 'interval_h']
    """
    return pl.Schema({name: column.dtype for name, column in schema.columns().items()})
