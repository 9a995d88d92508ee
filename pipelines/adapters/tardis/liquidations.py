"""tardis `liquidations`: one row per forced order that the exchange published.

`side` is the side of the forced order: `sell` closes a long, `buy` a short. tardis turns the sides of exchanges that
publish the position's side (Bybit) into this form.
"""

from collections.abc import Sequence

import polars as pl

from pipelines.adapters.adapter import Batch, Kind, Origin, candidates, each, reasons, unless_ragged
from pipelines.adapters.rows import Delimited
from pipelines.adapters.tardis.identity import IDENTITY, identity_checks
from pipelines.adapters.tardis.trades import FILL, fill_checks, fills

CLOSED = {"sell": "long", "buy": "short"}


def _convert(raw: pl.DataFrame, origin: Origin) -> Batch:
    """`path` is unknown: the file does not say how the position was closed; `id` is empty at most exchanges."""
    rows = fills(raw, origin).with_columns(
        pl.col("side").replace_strict(CLOSED, default=None).alias("position_side"), pl.lit("unknown").alias("path")
    )
    reason = unless_ragged(reasons(*identity_checks(), *fill_checks()))
    return {"liquidations": candidates("liquidations", rows, reason)}


def _recognises(name: str, fields: Sequence[str]) -> bool:
    """The columns of `trades`, and `liquidations` in the file's name."""
    return {*IDENTITY, *FILL} <= set(fields) and "liquidations" in name.lower()


LIQUIDATIONS = Kind(
    name="liquidations",
    tables=("liquidations",),
    layout=Delimited((*IDENTITY, *FILL)),
    recognises=_recognises,
    convert=each(_convert),
    content_seq=("liquidations",),
)
