"""freqtrade data folders: candles, mark and index prices as candles, funding rates; feather, parquet, json, json.gz.

The market stands in the file's name, `BASE_QUOTE_SETTLE-5m-futures.feather` or `BASE_QUOTE-5m.feather` (spot); the
venue stands only in the name of the folder, so the user names it. Columns: date (the START of the candle), open,
high, low, close, volume (base units). In funding files `date` is the settlement and `open` the rate.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import polars as pl

from pipelines.adapters.adapter import (
    Adapter,
    Batch,
    Kind,
    Origin,
    candidates,
    not_negative,
    positive,
    reasons,
    unless_ragged,
    with_instrument,
)
from pipelines.adapters.cells import as_moment, as_number
from pipelines.adapters.gaps import MEMORY, with_interval_h
from pipelines.adapters.rows import Columnar, JsonTable, Layout
from pipelines.errors import InputError

COLUMNS = ("date", "open", "high", "low", "close", "volume")
PRICES = ("open", "high", "low", "close")
SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SUFFIXES = {Columnar: ("feather", "parquet"), JsonTable: ("json", "json.gz")}
FILE_NAME = re.compile(
    r"(?P<base>[A-Za-z0-9]+)_(?P<quote>[A-Z]+)(_(?P<settle>[A-Z0-9]+))?-(?P<count>[1-9]\d{0,3})(?P<unit>[mhdw])"
    r"(-(?P<candle>futures|mark|index|funding_rate))?\.(?P<suffix>feather|parquet|json|json\.gz)"
)


@dataclass(frozen=True)
class Market:
    """What a file's name says: pair, settlement, and the candle's length in seconds."""

    base: str
    quote: str
    settlement: str | None
    candle: str
    interval_s: int
    suffix: str


def market_of(name: str) -> Market | None:
    """The market in a file's name, null if it is no such name.

    >>> market_of("BTC_USDT_USDT-5m-futures.feather")
    Market(base='BTC', quote='USDT', settlement='linear', candle='futures', interval_s=300, suffix='feather')
    >>> market_of("ETH_BTC-1d.json.gz")
    Market(base='ETH', quote='BTC', settlement='spot', candle='spot', interval_s=86400, suffix='json.gz')
    """
    found = FILE_NAME.fullmatch(PurePath(name).name)
    if found is None or (found["settle"] is None) != (found["candle"] is None):
        return None
    settlements = {None: "spot", found["quote"]: "linear", found["base"]: "inverse"}
    interval_s = int(found["count"]) * SECONDS[found["unit"]]
    settlement = settlements.get(found["settle"])
    return Market(found["base"], found["quote"], settlement, found["candle"] or "spot", interval_s, found["suffix"])


def _named(origin: Origin) -> tuple[str, str, Market]:
    """Venue, symbol and market of a file. Raises InputError where the name or the user does not say them."""
    market = market_of(origin.name)
    if market is None:
        mend = "name it BASE_QUOTE_SETTLE-5m-futures.feather, as freqtrade does"
        raise InputError("file name does not tell the market", where=origin.name, mend=mend)
    if origin.venue is None:
        mend = "name the venue, for example --venue bybit"
        raise InputError("freqtrade files do not tell their venue", where=origin.name, mend=mend)
    asked = (origin.venue, market.base, market.quote, str(market.settlement))
    symbol = origin.symbol if origin.symbol is not None else origin.instruments.symbol_of(*asked)
    if symbol is None:
        what = f"no {asked[3]} market of {market.base} in {market.quote} is known at {origin.venue}"
        raise InputError(what, where=origin.name, mend="add it to an instrument file")
    return origin.venue, symbol, market


def _rows(piece: pl.DataFrame, origin: Origin, *, shifted: bool) -> pl.DataFrame:
    """`line, ragged, venue, symbol, ts, known_at`, every price and the volume as numbers, and the instrument.

    `shifted`: the stamp is the start of the interval; ts = known_at = its end.
    """
    venue, symbol, market = _named(origin)
    moment, readable = as_moment("date", piece.schema["date"], unit="ms")
    ts = moment + pl.duration(seconds=market.interval_s if shifted else 0)
    ragged = pl.col("ragged") if "ragged" in piece.columns else pl.lit(False)
    rows = piece.select(
        "line",
        ragged.alias("ragged"),
        pl.lit(venue).alias("venue"),
        pl.lit(symbol).alias("symbol"),
        ts.alias("ts"),
        ts.alias("known_at"),
        readable.alias("readable"),
        pl.lit(market.interval_s).alias("interval_s"),
        *(as_number(name, piece.schema[name]).alias(name) for name in COLUMNS[1:] if name in piece.columns),
    )
    return with_instrument(rows, origin.instruments)


def _reason(*checks: tuple[str, pl.Expr]) -> pl.Expr:
    dated = pl.col("ts").is_not_null()
    placed: list[tuple[str, pl.Expr]] = [
        ("unreadable_ts", pl.col("readable")),
        ("ts_out_of_range", dated | ~pl.col("readable")),
        ("unknown_symbol", pl.col("contract_size").is_not_null() | ~dated),
    ]
    return unless_ragged(reasons(*placed, *checks))


def _price_checks(names: Iterable[str]) -> list[tuple[str, pl.Expr]]:
    checks = []
    for name in names:
        there = pl.col(name).is_not_null()
        checks += [(f"unreadable_{name}", there), (f"{name}_not_positive", ~there | positive(name))]
    return checks


def candles(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    """`candles`: the stamp is shifted from the start to the end of the interval; known then."""
    there = pl.col("volume").is_not_null()
    volume = [("unreadable_volume", there), ("volume_negative", ~there | not_negative("volume"))]
    reason = _reason(*_price_checks(PRICES), *volume)
    for piece in pieces:
        yield {"candles": candidates("candles", _rows(piece, origin, shifted=True), reason)}


def _marks(column: str, pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    reason = _reason(*_price_checks(("close",)))
    for piece in pieces:
        rows = _rows(piece, origin, shifted=True).with_columns(pl.col("close").alias(column))
        yield {"marks": candidates("marks", rows, reason)}


def marks(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    """`marks`: mark = the close of a candle of mark prices, at the end of its interval."""
    return _marks("mark", pieces, origin)


def indexes(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    """`marks`: index = the close of a candle of index prices, at the end of its interval."""
    return _marks("index", pieces, origin)


def funding(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    """`funding`: rate = `open`, ts = known_at = the settlement as it stands, interval_h from the gaps."""
    reason = _reason(
        ("unreadable_rate", pl.col("open").is_not_null()),
        ("unknown_interval", pl.col("interval_h").is_not_null() | pl.col("ts").is_null()),
    )
    memory = MEMORY.to_frame()
    for piece in pieces:
        rows, memory = with_interval_h(_rows(piece, origin, shifted=False), memory)
        yield {"funding": candidates("funding", rows.with_columns(pl.col("open").alias("rate")), reason)}


def _recognises(name: str, fields: Sequence[str], candle_types: Sequence[str], layout: Layout) -> bool:
    market = market_of(name)
    if market is None or not isinstance(layout, (Columnar, JsonTable)):
        return False
    suffixes = SUFFIXES[type(layout)]
    return market.candle in candle_types and market.suffix in suffixes and set(layout.columns) <= set(fields)


def _kinds() -> Iterator[Kind]:
    """Each kind of file in its columnar and its json form."""
    described = (
        ("candles", "candles", ("spot", "futures"), candles, COLUMNS),
        ("mark", "marks", ("mark",), marks, ("date", "close")),
        ("index", "marks", ("index",), indexes, ("date", "close")),
        ("funding", "funding", ("funding_rate",), funding, ("date", "open")),
    )
    for name, table, candle_types, convert, columns in described:
        layouts: tuple[tuple[str, Layout], ...] = ((name, Columnar(columns)), (f"{name}-json", JsonTable(COLUMNS)))
        for called, layout in layouts:

            def recognises(
                file: str, fields: Sequence[str], of: Sequence[str] = candle_types, layout: Layout = layout
            ) -> bool:
                return _recognises(file, fields, of, layout)

            yield Kind(called, (table,), layout, recognises, convert)


ADAPTER = Adapter("freqtrade", tuple(_kinds()))
