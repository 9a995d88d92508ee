"""Files of the Binance archive (data.binance.vision), and captures of its forced-order stream."""

from dataclasses import replace

from pipelines.adapters.adapter import Adapter
from pipelines.adapters.binance_archive.depth import BOOK_DEPTH
from pipelines.adapters.binance_archive.klines import CANDLES, INDEXES, MARKS, PREMIUM
from pipelines.adapters.binance_archive.liquidations import FORCE_ORDERS, LIQUIDATION_SNAPSHOT
from pipelines.adapters.binance_archive.quotes import BOOK_TICKER
from pipelines.adapters.binance_archive.slow import FUNDING_RATE, OPEN_INTEREST
from pipelines.adapters.binance_archive.trades import AGG_TRADES, COINM_TRADES, TRADES

_KINDS = (
    AGG_TRADES,
    COINM_TRADES,
    TRADES,
    BOOK_DEPTH,
    BOOK_TICKER,
    MARKS,
    INDEXES,
    PREMIUM,
    CANDLES,
    FUNDING_RATE,
    OPEN_INTEREST,
    LIQUIDATION_SNAPSHOT,
    FORCE_ORDERS,
)
# The archive's folders tell what its names do not: the market, and which sort of klines a file holds.
ADAPTER = Adapter("binance-archive", tuple(replace(kind, by_folder=True) for kind in _KINDS))

__all__ = ["ADAPTER"]
