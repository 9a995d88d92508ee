"""Drift as a score in time: how many features are not what they were, the last hours against the days before."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from features.drift import drift_table

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
KS_P_MAX: Final = 0.01
SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "ts": pl.Datetime("us", "UTC"),
        "drift_psi": pl.Float64(),
        "drift_ks": pl.Float64(),
    }
)


def rolling_drift(
    matrix: pl.DataFrame,
    names: Sequence[str],
    *,
    current: timedelta = timedelta(hours=6),
    reference: timedelta = timedelta(hours=72),
    every: timedelta = timedelta(hours=1),
) -> pl.DataFrame:
    """`symbol, ts, drift_psi, drift_ks`: at every whole `every`, the shares of `names` that have drifted.

        now, before  = rows of (t - current, t], rows of (t - current - reference, t - current]
        drift_psi[t] = share of features with psi > psi_null_99
        drift_ks[t]  = share of features with ks_p < KS_P_MAX

    Causal. Shares of the features that `drift_table` can tell; null where it can tell none. The first moment is the
    first with a whole reference. `matrix` has symbol, ts and `names`. Rows by symbol and ts.
    Raises ValueError for a span that is not positive.
    """
    if not min(current, reference, every) > timedelta(0):
        raise ValueError(f"current, reference and every must be positive, were {current}, {reference}, {every}")
    ordered = matrix.select("symbol", "ts", *names).sort("ts")
    parts = [_at(ordered, names, at, current, reference) for at in _moments(ordered["ts"], current + reference, every)]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts]).sort("symbol", "ts")


def _moments(ts: pl.Series, reach: timedelta, every: timedelta) -> Iterator[datetime]:
    """Whole `every` from `reach` after the first bar to the last."""
    first, last = ts.min(), ts.max()
    if isinstance(first, datetime) and isinstance(last, datetime):
        at = EPOCH - (EPOCH - first - reach) // every * every
        while at <= last:
            yield at
            at += every


def _at(
    matrix: pl.DataFrame, names: Sequence[str], at: datetime, current: timedelta, reference: timedelta
) -> pl.DataFrame:
    since = at - current
    now, before = (
        matrix.filter(pl.col("ts") > start, pl.col("ts") <= end)
        for start, end in ((since, at), (since - reference, since))
    )
    shares = (
        drift_table(now, before, names)
        .group_by("symbol")
        .agg(
            drift_psi=pl.col("drifted").cast(pl.Float64).mean(),
            drift_ks=(pl.col("ks_p") < KS_P_MAX).cast(pl.Float64).mean(),
        )
    )
    return shares.select("symbol", pl.lit(at, pl.Datetime("us", "UTC")).alias("ts"), "drift_psi", "drift_ks")
