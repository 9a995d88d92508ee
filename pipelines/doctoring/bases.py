"""Which asset a symbol is about, so that venues can be compared."""

import re

import polars as pl

_QUOTE = re.compile(r"^(?P<base>[A-Z0-9]+?)[-_/:]?(?:USDT|USDC|BUSD|USD|PERP)(?![A-Z0-9]*[a-z])")


def base_of(symbol: str) -> str:
    """The base asset of a symbol no instrument names, from how venues write it; the symbol itself where that fails.

    >>> [base_of(name) for name in ("BTCUSDT", "ETH-USD", "SOL_USDT_USDT", "AVAXUSD_PERP", "DOGE", "BTC-USDT-SWAP")]
    ['BTC', 'ETH', 'SOL', 'AVAX', 'DOGE', 'BTC']
    """
    found = _QUOTE.match(symbol)
    return found["base"] if found else symbol


def bases(days: pl.DataFrame, instruments: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, base, contract_size, quote` of every symbol that has rows; the newest instrument row counts."""
    held = days.select("venue", "symbol").unique().sort("venue", "symbol")
    newest = instruments.sort("effective_from").group_by("venue", "symbol").last()
    known = newest.select("venue", "symbol", "base", "quote", "contract_size")
    guess = pl.col("symbol").map_elements(base_of, return_dtype=pl.String)  # a few hundred names
    joined = held.join(known, on=["venue", "symbol"], how="left")
    return joined.with_columns(base=pl.coalesce("base", guess))
