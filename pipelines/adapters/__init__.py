"""Adapters: one small module per kind of venue file. The tuple is the registry; each has its card in the README."""

from pipelines.adapters.adapter import Adapter, Origin
from pipelines.adapters.binance_archive import BINANCE_ARCHIVE
from pipelines.adapters.tardis import TARDIS
from pipelines.errors import InputError

ADAPTERS: tuple[Adapter, ...] = (TARDIS, BINANCE_ARCHIVE)

__all__ = ["ADAPTERS", "Adapter", "Origin", "adapter_named"]


def adapter_named(name: str) -> Adapter:
    """The adapter called `name`. Raises InputError that lists the known ones.

    >>> adapter_named("tardis").table
    'trades'
    """
    for adapter in ADAPTERS:
        if adapter.name == name:
            return adapter
    known = ", ".join(adapter.name for adapter in ADAPTERS)
    raise InputError("unknown adapter", where=repr(name), mend=f"use one of: {known}")
