"""Klines: candles of trades, and the mark and index price at the end of each interval.

All sorts of klines have the same twelve columns. The stamp is the interval's START; rows are stamped with its end,
`close_time` plus one unit of the stamp, and known then. The premium index, (impact price - index) / index, is a share
without a price: no table holds it, its rows are silent.
"""

from collections.abc import Iterator

import polars as pl

from pipelines.adapters.adapter import (
    SILENT,
    Batch,
    Kind,
    Origin,
    candidates,
    each,
    not_negative,
    number,
    reasons,
    silent,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.binance_archive.files import (
    COINM,
    MICROSECONDS_FROM,
    by_stamps,
    date_checks,
    dated,
    file_name,
    futures_venue,
    moment,
    named,
    number_checks,
    placed,
    recognised,
    symbol_check,
    table_of,
)

COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "close_time")
OPTIONAL = ("quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume", "ignore")
PRICES = ("open", "high", "low", "close")
INTERVAL_S_MAX = 31 * 86_400
ROUNDING = 1e-9  # of the volume, when it is compared with a part of itself


def _end() -> pl.Expr:
    """`close_time` is the last millisecond or microsecond of the interval."""
    micro = pl.col("close_time").cast(pl.Int64, strict=False) >= MICROSECONDS_FROM
    unit = pl.when(micro).then(pl.duration(microseconds=1)).otherwise(pl.duration(milliseconds=1))
    return moment("close_time") + unit


def _timed(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Columns `ts` (the end), `known_at`, `interval_s` (null unless whole seconds and what the name says), prices."""
    told = file_name(origin.name)
    named_s = told.interval_s if told is not None else None
    start = moment("open_time")
    length_us = (_end() - start).dt.total_microseconds()
    length_s = length_us // 1_000_000
    fits = (length_us % 1_000_000 == 0) & length_s.is_between(1, INTERVAL_S_MAX)
    fits = fits if named_s is None else fits & (length_s == named_s)
    rows = raw.with_columns(
        *named(origin),
        *dated(pl.when(start.is_not_null()).then(_end())),
        pl.when(fits).then(length_s).cast(pl.Int32).alias("interval_s"),
        *(number(name).alias(name) for name in PRICES),
    )
    return with_instrument(rows, origin.instruments).with_columns(known_at="ts")


def _time_checks() -> tuple[tuple[str, pl.Expr], ...]:
    fits = pl.col("interval_s").is_not_null() | pl.col("ts").is_null()
    return *date_checks(), ("bad_interval", fits), symbol_check()


# --- candles ---------------------------------------------------------------------------------------------------------


def _text(raw: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in raw.columns else pl.lit("", pl.String)


def _volumes(raw: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Base units. Coin-m files count contracts in `volume` and say base units where the others say quote units."""
    coinm = origin.venue == COINM
    volume, taker = ("quote_volume", "taker_buy_quote_volume") if coinm else ("volume", "taker_buy_volume")
    return raw.with_columns(
        _text(raw, volume).cast(pl.Float64, strict=False).alias("volume"),
        (_text(raw, taker) == "").alias("taker_absent"),
        _text(raw, taker).cast(pl.Float64, strict=False).alias("taker_buy_volume"),
        _text(raw, "count").cast(pl.Int64, strict=False).fill_null(0).alias("count"),
    )


def _without_trades() -> pl.Expr:
    """Rows whose price moved, or that count trades, without volume; all rows where no row has any volume.

    That is what mark, index and premium klines look like.
    """
    moved = (pl.col("high") > pl.col("low")) | (pl.col("count") > 0)
    alone = (pl.col("volume") == 0) & moved
    nowhere = ~(pl.col("volume") > 0).any() & alone.any()
    return (alone | nowhere).fill_null(False)


def _candle_reason() -> pl.Expr:
    taker = pl.col("taker_buy_volume")
    no_taker = taker.is_null()
    return unless_ragged(
        reasons(
            *_time_checks(),
            *(check for name in PRICES for check in number_checks(name, "not_positive")),
            *number_checks("volume", "negative", not_negative),
            ("unreadable_taker_buy_volume", ~no_taker | pl.col("taker_absent")),
            ("taker_buy_volume_negative", not_negative("taker_buy_volume") | no_taker),
            ("taker_buy_exceeds_volume", (taker <= pl.col("volume") * (1 + ROUNDING)) | no_taker),
            ("not_trade_candles", ~_without_trades()),
        )
    )


def candles(raw: pl.DataFrame, origin: Origin) -> Batch:
    """Text columns -> candidate rows of `Candles`, volume in base units."""
    rows = _timed(_volumes(raw, origin), origin)
    return {"candles": candidates("candles", rows, _candle_reason())}


# --- marks -----------------------------------------------------------------------------------------------------------


def _perpetual(origin: Origin) -> Origin:
    """The index of a coin-m pair (`BTCUSD`) stands for its perpetual; usd-m pairs are named as their symbols.

    `BTCBUSD` is a usd-m symbol quoted in BUSD, `BNBUSD` a coin-m pair.
    """
    symbol = str(origin.symbol)
    pair = symbol.endswith("USD") and (symbol == "BNBUSD" or not symbol.endswith("BUSD"))
    return Origin(origin.name, origin.venue, origin.instruments, f"{symbol}_PERP" if pair else symbol)


def _marks(column: str, raw: pl.DataFrame, origin: Origin) -> Batch:
    """Candidate rows of `Marks`: the kline's close is the `column` price at its end."""
    rows = _timed(raw, origin)
    reason = reasons(*_time_checks(), *number_checks("close", "not_positive"))
    priced = rows.with_columns(pl.col("close").alias(column))
    return {"marks": candidates("marks", priced, unless_ragged(reason))}


def marks(raw: pl.DataFrame, origin: Origin) -> Batch:
    """`markPriceKlines` -> `Marks` with `mark`."""
    return _marks("mark", raw, origin)


def indexes(raw: pl.DataFrame, origin: Origin) -> Batch:
    """`indexPriceKlines` -> `Marks` with `index`."""
    return _marks("index", raw, origin)


def _pair_venue(_: pl.DataFrame, origin: Origin) -> str:
    return futures_venue(str(_perpetual(origin).symbol))


def _index_pieces(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    return placed(lambda raw, known: indexes(raw, _perpetual(known)), _pair_venue)(pieces, origin)


def premium(raw: pl.DataFrame, _: Origin) -> Batch:
    """`premiumIndexKlines`: every line silent."""
    return {SILENT: silent(raw, "premium_has_no_table")}


LAYOUT = table_of(COLUMNS, OPTIONAL)
CANDLES = Kind("klines", ("candles",), LAYOUT, recognised("klines", COLUMNS), placed(candles, by_stamps))
MARKS = Kind("markPriceKlines", ("marks",), LAYOUT, recognised("markPriceKlines"), placed(marks, _pair_venue))
INDEXES = Kind("indexPriceKlines", ("marks",), LAYOUT, recognised("indexPriceKlines"), _index_pieces)
PREMIUM = Kind("premiumIndexKlines", ("marks",), LAYOUT, recognised("premiumIndexKlines"), each(premium))
