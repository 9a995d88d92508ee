"""Past cascades as the model saw them just before: which of them does this minute look like?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from models.calibration import Floats

KEYS = ("venue", "symbol", "ts")
BASE = "base"


@dataclass(frozen=True)
class Precedent:
    """What each family added to the log-odds in the last minute before a cascade of the training period."""

    symbol: str
    onset: str  # ISO time
    log_odds: Mapping[str, float]  # by family, without the base

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _wide(found: pl.DataFrame) -> pl.DataFrame:
    """One row per key, what each family added as a column of its name."""
    return found.filter(pl.col("family") != BASE).pivot("family", index=KEYS, values="log_odds", maintain_order=True)


def _table(wide: pl.DataFrame, families: Sequence[str]) -> Floats:
    """Shape (rows, families); a family that is not a column added nothing."""
    columns = [pl.col(name) if name in wide.columns else pl.lit(0.0).alias(name) for name in families]
    return wide.select(columns).fill_null(0.0).to_numpy()


def precedents(found: pl.DataFrame, cascades: pl.DataFrame) -> tuple[Precedent, ...]:
    """One per row of `cascades` (`venue, symbol, ts, onset`), in its order, from the `contributions` of these rows."""
    names = sorted(set(found["family"].unique()) - {BASE})
    wide = _wide(found)
    rows = _table(cascades.select(*KEYS, "onset").join(wide, on=KEYS, how="left", maintain_order="left"), names)
    return tuple(
        Precedent(symbol, onset.isoformat(), dict(zip(names, map(float, row), strict=True)))
        for symbol, onset, row in zip(cascades["symbol"], cascades["onset"], rows, strict=True)
    )


def nearest(found: pl.DataFrame, past: Sequence[Precedent]) -> pl.DataFrame:
    """The precedent that is most alike by what each family adds, for every key of `found` (`contributions`).

        distance = sqrt(sum over families (log_odds - log_odds of the precedent)^2)

    Returns `venue, symbol, ts, like_symbol, like_onset, distance`; the earlier of two that are equally near. No rows
    for no rows or no precedents.
    """
    keys = found.select(KEYS).unique(maintain_order=True)
    if not past or keys.is_empty():
        return keys.head(0).with_columns(
            like_symbol=pl.lit("", dtype=pl.String),
            like_onset=pl.lit(None, dtype=pl.Datetime("us", "UTC")),
            distance=0.0,
        )
    names = sorted({*found["family"].unique(), *(name for one in past for name in one.log_odds)} - {BASE})
    here = _table(keys.join(_wide(found), on=KEYS, how="left", maintain_order="left"), names)
    there = np.array([[one.log_odds.get(name, 0.0) for name in names] for one in past])
    distance = np.sqrt(np.maximum(((here[:, None, :] - there[None, :, :]) ** 2).sum(axis=2), 0.0))
    chosen = distance.argmin(axis=1)
    onsets = pl.Series([datetime.fromisoformat(past[k].onset) for k in chosen], dtype=pl.Datetime("us", "UTC"))
    return keys.with_columns(
        pl.Series("like_symbol", [past[k].symbol for k in chosen]),
        onsets.alias("like_onset"),
        pl.Series("distance", distance[np.arange(chosen.size), chosen]),
    )
