"""The market as a whole: what all symbols of a venue do at one moment, as columns that every symbol can read.

Feature expressions see one symbol at a time. Here `inputs` are computed symbol by symbol, brought together by time, and
told back to every symbol as `market_*` columns. One thin book is a detail; all books thin at once is a market in which
nobody is left to take forced flow.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.cancels import cancel_burst
from features.exact import steps
from features.feature import Step
from features.norms import STEP, measure

Floats = NDArray[np.float64]

LOOKBACK_MIN: Final = 60  # minutes of the inputs that a row of the market looks back on
BEFORE_MIN: Final = 5  # minutes in which others may have led
EIGEN_MIN: Final = 60  # minutes of changes of depth behind the eigenvalue
SYMBOLS_MIN: Final = 2  # a share of fewer symbols says nothing of a market
BURST_MIN: Final = 2.0  # standard deviations of `cancel_burst_5` from which a symbol is in a burst
TAIL_SIGMAS: Final = 1.645  # of log depth: its 5 % quantile
ITERATIONS: Final = 1_000  # two factors of nearly one size take hundreds; most bars end in a few
CONVERGED: Final = 1e-10  # change of an eigenvalue per symbol at which the iteration ends
MARKET: Final = pl.Schema(
    {
        "market_cancel_burst_share": pl.Float64(),  # of the symbols, in a cancel burst at this bar
        "market_cancel_burst_share_before": pl.Float64(),  # the highest such share of the BEFORE_MIN before this bar
        "market_thin_share": pl.Float64(),  # of the symbols, thinner than their 5 % quantile for this hour
        "market_depth_eigen_share": pl.Float64(),  # largest eigenvalue of the correlation of depth changes / symbols
    }
)


def inputs(step: Step) -> tuple[tuple[pl.Expr, int], ...]:
    """What is asked of each symbol, with the minutes that it looks back: burst, thin, change of log depth in STEPs."""
    burst = cancel_burst(step.bars(5), step.bars(240)) > BURST_MIN
    depth = measure("depth")
    thin = depth < pl.col("norm_depth_mean") - TAIL_SIGMAS * pl.col("norm_depth_sd")
    change = steps(depth, STEP).diff()
    return (
        (burst.alias("burst"), 248),
        (thin.alias("thin"), 0),
        (change.alias("depth_change"), 1),
    )


def _share(flag: str) -> pl.Expr:
    """Share of the symbols that tell `flag` for which it holds, null where fewer than SYMBOLS_MIN tell it."""
    count = pl.col(flag).count()
    return pl.when(count >= SYMBOLS_MIN).then(pl.col(flag).sum() / count)


def market_rows(told: pl.DataFrame, step: Step) -> pl.DataFrame:
    """`told` (symbol, ts and the `inputs`, of all symbols) to `ts` and the columns of `MARKET`, sorted by ts.

    Windows are counted in bars of the venue: bars that any symbol has. Null where fewer than SYMBOLS_MIN symbols tell
    of a thing; the highest share before is null until all of its bars are known. The order of rows has no effect.
    """
    shares = (
        told.group_by("ts")
        .agg(_share("burst").alias("market_cancel_burst_share"), _share("thin").alias("market_thin_share"))
        .sort("ts")
    )
    before = pl.col("market_cancel_burst_share").shift().rolling_max(step.bars(BEFORE_MIN))
    eigen = pl.Series(eigen_share(_side_by_side(told, shares["ts"]), step.bars(EIGEN_MIN)), dtype=pl.Float64)
    return shares.with_columns(
        before.alias("market_cancel_burst_share_before"), eigen.fill_nan(None).alias("market_depth_eigen_share")
    ).select("ts", *MARKET.names())


def _side_by_side(told: pl.DataFrame, ts: pl.Series) -> Floats:
    """`depth_change` with a row per stamp of `ts` and a column per symbol, in their order; NaN where it is not told."""
    symbols = told["symbol"].unique().sort()
    row, column = np.searchsorted(ts, told["ts"]), told["symbol"].cast(pl.Enum(symbols)).to_physical().to_numpy()
    changes = np.full((ts.len(), symbols.len()), np.nan)
    changes[row, column] = told["depth_change"].cast(pl.Float64).to_numpy()
    return changes


def eigen_share(changes: Floats, window: int) -> Floats:
    """Largest eigenvalue of the correlation matrix of `changes` over `(t - window, t]`, over the number of symbols.

    `changes` has a row per bar and a column per symbol, NaN for unknown. A symbol counts where all of its changes are
    known and some differ. 1 where all move as one, about `(1 + sqrt(symbols / window)) ** 2 / symbols` where each goes
    its own way (Marchenko and Pastur). NaN below SYMBOLS_MIN symbols. Power iteration until it
    changes by less than CONVERGED, at most ITERATIONS steps, rounded to 1e-6: from below, near wherever a factor leads.

    >>> together = np.outer(np.arange(4.0) ** 2, [1.0, -2.0, 3.0])
    >>> eigen_share(together, 4).tolist()
    [nan, nan, nan, 1.0]
    """
    return np.round(_leading(changes, window, SYMBOLS_MIN, ITERATIONS), 6)


def _standardised_columns(changes, end, z):  # type: ignore[no-untyped-def]  # compiled by numba, which infers types
    """Fills columns of `z` with the symbols' changes up to bar `end`, mean 0 and length 1; returns how many have any.

    Bars are rows: a sum over bars runs side by side for all symbols, and adds in the same order for each.
    """
    window, symbols = len(z), changes.shape[1]
    mean, square = np.zeros(symbols), np.zeros(symbols)
    first = end - window + 1
    for i in range(window):
        for s in range(symbols):
            mean[s] += changes[first + i, s]
    mean /= window
    for i in range(window):
        for s in range(symbols):
            square[s] += (changes[first + i, s] - mean[s]) ** 2
    # In squared steps: less than a half is the rounding of a constant; NaN is not more.
    moved = np.flatnonzero(square > 0.5)
    length = np.sqrt(square)
    for i in range(window):
        for n, symbol in enumerate(moved):
            z[i, n] = (changes[first + i, symbol] - mean[symbol]) / length[symbol]
    return len(moved)


_standardised: Callable[[Any, int, Any], int] = numba.njit(cache=True)(_standardised_columns)


def _iterated_rows(z, by_symbol, v):  # type: ignore[no-untyped-def]  # as above
    """`z z' v`: what the symbols' factors say of each bar; `by_symbol` is `z` transposed."""
    window, symbols = z.shape
    u, w = np.zeros(symbols), np.zeros(window)
    for i in range(window):
        for s in range(symbols):
            u[s] += z[i, s] * v[i]
    for s in range(symbols):
        for i in range(window):
            w[i] += u[s] * by_symbol[s, i]
    return w


_iterated: Callable[[Any, Any, Any], Any] = numba.njit(cache=True)(_iterated_rows)


def _leading_rows(changes, window, symbols_min, iterations):  # type: ignore[no-untyped-def]  # as above
    out = np.full(len(changes), np.nan)
    buffer = np.empty((window, changes.shape[1]))
    for t in range(window - 1, len(changes)):
        n = _standardised(changes, t, buffer)
        if n < symbols_min:
            continue
        z = np.ascontiguousarray(buffer[:, :n])
        by_symbol = np.ascontiguousarray(z.T)
        v = np.cos(
            1.0 + np.arange(window) ** 2
        )  # something of everything: a start near an eigenvector would stay there
        value, before = 0.0, -1.0
        for _ in range(iterations):
            if abs(value - before) < CONVERGED * n:
                break
            before = value
            v /= np.sqrt((v * v).sum())
            w = _iterated(z, by_symbol, v)
            value = (w * v).sum()
            v = w
        out[t] = value / n
    return out


_leading: Callable[[Any, int, int, int], Floats] = numba.njit(cache=True)(_leading_rows)
