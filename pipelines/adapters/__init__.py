"""Adapters: one small module per kind of venue file. The tuple is the registry; each has its card in the README."""

from pathlib import Path

from pipelines.adapters.adapter import VENUE_NAME, Adapter, Kind, Origin
from pipelines.adapters.binance_archive import ADAPTER as BINANCE_ARCHIVE
from pipelines.adapters.ccxt import ADAPTER as CCXT
from pipelines.adapters.freqtrade import ADAPTER as FREQTRADE
from pipelines.adapters.hyperliquid import ADAPTER as HYPERLIQUID
from pipelines.adapters.order_log import ADAPTER as ORDER_LOG
from pipelines.adapters.table import table_adapter
from pipelines.adapters.tardis import ADAPTER as TARDIS
from pipelines.adapters.ws_capture import ADAPTER as WS_CAPTURE
from pipelines.errors import InputError

ADAPTERS: tuple[Adapter, ...] = (TARDIS, BINANCE_ARCHIVE, FREQTRADE, WS_CAPTURE, ORDER_LOG, HYPERLIQUID, CCXT)
TABLE = "table"  # its kinds come from a mapping

__all__ = ["ADAPTERS", "TABLE", "VENUE_NAME", "Adapter", "Kind", "Origin", "adapter_named"]


def adapter_named(name: str, mapping: Path | None = None) -> Adapter:
    """The adapter called `name`. Raises InputError that lists the known ones.

    >>> adapter_named("tardis").kinds[0].name
    'trades'
    """
    if name == TABLE:
        if mapping is None:
            raise InputError("the adapter table needs a mapping", mend="name one with --mapping")
        return table_adapter(mapping)
    if mapping is not None:
        raise InputError(f"--mapping is for the adapter {TABLE}, not for {name}", mend="leave it out")
    for adapter in ADAPTERS:
        if adapter.name == name:
            return adapter
    known = ", ".join([*(adapter.name for adapter in ADAPTERS), TABLE])
    raise InputError("unknown adapter", where=repr(name), mend=f"use one of: {known}")
