"""What a file of the archive tells besides its rows: kind, symbol, interval and venue.

The archive names its files `SYMBOL-KIND-YYYY-MM[-DD]`, and klines of every sort `SYMBOL-INTERVAL-YYYY-MM[-DD]` in a
folder that names the sort (`markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip`). Folders are looked at where `name`
has them. Source: the archive's own repository, binance/binance-public-data.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain

import polars as pl

from features.schema import UTC_US
from pipelines.adapters.adapter import Batch, Origin, plausible, positive
from pipelines.adapters.rows import Delimited
from pipelines.errors import InputError

USDM, COINM, SPOT = "binance-usdm", "binance-coinm", "binance"
MARKETS = {"um": USDM, "cm": COINM, "spot": SPOT}  # the archive's folders
KLINES = ("markPriceKlines", "indexPriceKlines", "premiumIndexKlines", "klines")
PLAIN = ("aggTrades", "trades", "bookDepth", "bookTicker", "fundingRate", "metrics", "liquidationSnapshot")
MICROSECONDS_FROM = (
    10**14
)  # a stamp in milliseconds reaches this in the year 5138, one in microseconds passed it in 1973
SPOT_MICROSECONDS_SINCE = datetime(2025, 1, 1, tzinfo=UTC)  # spot files stamp microseconds from here on

_DATE = r"-\d{4}-\d{2}(-\d{2})?(?!\d)"
_PLAIN = re.compile(rf"(?P<symbol>[^\s-]+)-(?P<kind>{'|'.join(PLAIN)}){_DATE}")
_KLINES = re.compile(rf"(?P<symbol>[^\s-]+)-((?P<kind>{'|'.join(KLINES)})-)?(?P<interval>\d+(s|mo|m|h|d|w|M)){_DATE}")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class FileName:
    """What a name says; `interval_s` is null where it is no kline file, or a month, which has no fixed length."""

    kind: str
    symbol: str
    interval_s: int | None = None


def file_name(name: str) -> FileName | None:
    """The parts of `name` (with or without folders), null where it is none of the archive's.

    >>> file_name("BTCUSDT-aggTrades-2024-01-01.zip")
    FileName(kind='aggTrades', symbol='BTCUSDT', interval_s=None)
    >>> file_name("um/daily/markPriceKlines/BTCUSDT/5m/BTCUSDT-5m-2024-01.zip")
    FileName(kind='markPriceKlines', symbol='BTCUSDT', interval_s=300)
    """
    *folders, base = name.replace("\\", "/").split("/")
    if base.lower().endswith(".checksum"):
        return None
    if found := _PLAIN.match(base):
        return FileName(found["kind"], found["symbol"])
    if found := _KLINES.match(base):
        in_folder = [folder for folder in folders if folder in KLINES]
        kind = found["kind"] or (in_folder[-1] if in_folder else "klines")
        return FileName(kind, found["symbol"], _seconds(found["interval"]))
    return None


def _seconds(interval: str) -> int | None:
    """
    >>> _seconds("15m"), _seconds("1mo"), _seconds("1M")
    (900, None, None)
    """
    unit = interval.lstrip("0123456789")
    return int(interval.removesuffix(unit)) * _UNIT_S[unit] if unit in _UNIT_S else None


def recognised(kind: str, columns: Sequence[str] = ()) -> Callable[[str, Sequence[str]], bool]:
    """A `Kind.recognises`: the name says `kind`, or it says nothing and the header holds all of `columns`."""

    def recognises(name: str, fields: Sequence[str]) -> bool:
        told = file_name(name)
        if told is not None:
            return told.kind == kind
        return bool(columns) and set(columns) <= set(fields)

    return recognises


def table_of(columns: tuple[str, ...], columns_optional: tuple[str, ...] = ()) -> Delimited:
    """A comma-separated layout; the first line is a header where it names any of the columns."""
    names = {*columns, *columns_optional}
    return Delimited(columns, columns_optional, header=lambda fields: not names.isdisjoint(fields))


# --- venue and symbol ------------------------------------------------------------------------------------------------


def futures_venue(symbol: str) -> str:
    """Coin-margined symbols are quoted in USD, dollar-margined ones in a dollar token.

    >>> futures_venue("BTCUSDT"), futures_venue("BTCUSD_PERP"), futures_venue("BTCUSD_251226")
    ('binance-usdm', 'binance-coinm', 'binance-coinm')
    """
    return COINM if "USD_" in symbol else USDM


def folder_venue(name: str) -> str | None:
    """
    >>> folder_venue("data/futures/um/daily/trades/BTCUSDT/BTCUSDT-trades-2024-01-01.zip"), folder_venue("a.zip")
    ('binance-usdm', None)
    """
    found = [MARKETS[folder] for folder in name.replace("\\", "/").split("/")[:-1] if folder in MARKETS]
    return found[0] if found else None


def futures_only(_: pl.DataFrame, origin: Origin) -> str:
    """The venue of files that only futures have."""
    return futures_venue(str(origin.symbol))


def by_columns(first: pl.DataFrame, origin: Origin) -> str:
    """The venue of trades: only spot files say whether a trade was the best match."""
    symbol = str(origin.symbol)
    return SPOT if "is_best_match" in first.columns and futures_venue(symbol) == USDM else futures_venue(symbol)


def by_stamps(first: pl.DataFrame, origin: Origin) -> str:
    """The venue of klines: microseconds are spot, milliseconds after spot left them are usd-m.

    Raises InputError for an older file: spot and usd-m files of one symbol cannot be told apart there.
    """
    if futures_venue(str(origin.symbol)) == COINM:
        return COINM
    stamp = first["open_time"].cast(pl.Int64, strict=False).median()
    if isinstance(stamp, float) and stamp >= MICROSECONDS_FROM:
        return SPOT
    if isinstance(stamp, float) and stamp < SPOT_MICROSECONDS_SINCE.timestamp() * 1000:
        mend = f"name it with --venue {SPOT} or --venue {USDM}"
        raise InputError("klines from before 2025 do not tell spot from usd-m", where=origin.name, mend=mend)
    return USDM


def placed(
    convert: Callable[[pl.DataFrame, Origin], Batch], venue_of: Callable[[pl.DataFrame, Origin], str]
) -> Callable[[Iterator[pl.DataFrame], Origin], Iterator[Batch]]:
    """A `Kind.convert` that settles venue and symbol from name and first piece, then treats every piece by itself.

    What the user named wins, then the name, then `venue_of`. Raises InputError where nothing tells the symbol.
    """

    def converted(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
        for first in pieces:
            known = replace(origin, symbol=_symbol(origin))
            venue = known.venue or folder_venue(origin.name) or venue_of(first, known)
            for piece in chain([first], pieces):
                yield convert(piece, replace(known, venue=venue))

    return converted


def _symbol(origin: Origin) -> str:
    told = file_name(origin.name)
    if origin.symbol is not None:
        return origin.symbol
    if told is None:
        mend = "name it SYMBOL-KIND-YYYY-MM-DD.csv as the archive does, or say --symbol"
        raise InputError("file name does not tell the symbol", where=origin.name, mend=mend)
    return told.symbol


# --- columns ---------------------------------------------------------------------------------------------------------


def named(origin: Origin) -> tuple[pl.Expr, pl.Expr]:
    """Columns `venue` and `symbol` of a file of one symbol."""
    return pl.lit(origin.venue, pl.String).alias("venue"), pl.lit(origin.symbol, pl.String).alias("symbol")


def moment(column: str) -> pl.Expr:
    """A stamp in milliseconds or microseconds, told apart by size; null where it is no whole number.

    >>> frame = pl.DataFrame({"t": ["1735689600000", "1735689600000001", "x"]})
    >>> frame.select(moment("t"))["t"].dt.epoch("us").to_list()
    [1735689600000000, 1735689600000001, None]
    """
    stamp = pl.col(column).cast(pl.Int64, strict=False)
    us = pl.when(stamp.is_between(0, MICROSECONDS_FROM - 1)).then(stamp * 1000).otherwise(stamp)
    return us.cast(UTC_US).alias(column)


def text_moment(column: str) -> pl.Expr:
    """`YYYY-MM-DD hh:mm:ss` in UTC; null where it is none."""
    text = pl.col(column)
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us", time_zone="UTC")


def dated(ts: pl.Expr, name: str = "ts") -> tuple[pl.Expr, pl.Expr]:
    """Columns `name`, null outside plausible years, and `{name}_unreadable`, for `date_checks`."""
    return plausible(ts).alias(name), ts.is_null().alias(f"{name}_unreadable")


def date_checks(name: str = "ts") -> tuple[tuple[str, pl.Expr], ...]:
    """The checks of a column made by `dated`."""
    unreadable = pl.col(f"{name}_unreadable")
    return (
        (f"unreadable_{name}", ~unreadable),
        (f"{name}_out_of_range", pl.col(name).is_not_null() | unreadable),
    )


def symbol_check() -> tuple[str, pl.Expr]:
    """An instrument is in force at `ts`; a row without `ts` is not blamed for that."""
    return "unknown_symbol", pl.col("contract_size").is_not_null() | pl.col("ts").is_null()


def number_checks(
    column: str, fault: str, holds: Callable[[str], pl.Expr] = positive
) -> tuple[tuple[str, pl.Expr], ...]:
    """`unreadable_{column}` where it is no number, `{column}_{fault}` where it is one that does not hold."""
    there = pl.col(column).is_not_null()
    return (f"unreadable_{column}", there), (f"{column}_{fault}", holds(column) | ~there)


def and_then(reason: pl.Expr, word: str, holds: pl.Expr) -> pl.Expr:
    """`reason`, and `word` for a row that passed everything so far and does not hold this. Null does not hold."""
    late = pl.when(~holds.fill_null(False)).then(pl.lit(word))
    return pl.coalesce(reason, late).alias("reason")
