"""Loop gain as a matrix: does a cascade sustain itself, how much does it amplify, who starts it, who suffers.

`M[i, j]` is the relative drop of i that a relative drop of 1 of j makes in one round. Rounds repeat, so that a shock
ends at `(I - M)^-1 @ shock` if the spectral radius `rho` of M is below 1, and runs away otherwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from models.cascade.world import Floats

SELF_SUSTAINING = 1 - 1e-9  # rounding must not decide whether a loop gain of 1 has an end
ITERATIONS_MAX = 200
TOLERANCE = 1e-10  # relative distance of the bounds at which a spectral radius is taken


class Ranking(NamedTuple):
    """Columns over symbols, each summing to 1 (all 0 where nothing is forced)."""

    source: Floats  # left eigenvector: how much of the runaway a shock of this symbol starts
    victim: Floats  # right eigenvector: how much of the runaway's drops this symbol takes


def spectral_radius(matrices: Floats) -> Floats:
    """Spectral radius of each of `matrices` (n, s, s); shape (n,).

    Power iteration; a nonnegative matrix is done when its Collatz-Wielandt bounds, which enclose rho, meet:
        min over v_i > 0 of (M v)_i / v_i <= rho <= max of (M v)_i / v_i, v > 0
    Matrices with a negative entry, and those that have not met after ITERATIONS_MAX (periodic or decoupled ones), take
    all their eigenvalues instead. 1,000 dense matrices 50 x 50 take a 40th to a 60th of the time of batched
    eigenvalues; up to twice that time where all are decoupled. Raises ValueError where an entry is not finite.

    >>> spectral_radius(np.array([[[0.4, 0.02], [0.2, 0.6]], [[0.8, 0.04], [0.4, 1.2]]])).round(6).tolist()
    [0.618322, 1.236643]
    """
    if not np.isfinite(matrices).all():
        raise ValueError("matrices must be finite")
    found = np.full(len(matrices), np.nan)
    _compiled(np.ascontiguousarray(matrices, dtype=np.float64), found)
    rest = np.isnan(found)
    if rest.any():
        found[rest] = np.abs(np.linalg.eigvals(matrices[rest])).max(axis=1, initial=0.0)
    return found


def _iterate(matrices, found):  # type: ignore[no-untyped-def]  # compiled by numba: it infers types
    """Power iteration on each matrix by itself, so that it stays in the cache; `found` keeps NaN where it gives up."""
    size = matrices.shape[1]
    before, after = np.ones(size), np.ones(size)
    for n in range(len(matrices)):
        matrix = matrices[n]
        if size == 0 or matrix.min() < 0:
            continue
        before[:] = 1.0
        for _ in range(ITERATIONS_MAX):
            after[:] = 0.0
            for j in range(size):  # the transposed matrix has the same rho, and its product runs along rows
                for i in range(size):
                    after[i] += matrix[j, i] * before[j]
            low, high, largest = np.inf, 0.0, 0.0
            for i in range(size):
                largest = max(largest, after[i])
                if before[i] > 0:
                    low, high = min(low, after[i] / before[i]), max(high, after[i] / before[i])
                else:  # without an upper bound, unless nothing is left at all
                    high = np.inf
            if largest == 0.0 or high <= (1 + TOLERANCE) * low:
                found[n] = 0.0 if largest == 0.0 else (low + high) / 2
                break
            for i in range(size):
                before[i] = after[i] / largest


_compiled: Callable[..., None] = numba.njit(cache=True, fastmath={"reassoc", "contract"})(_iterate)


def amplification(matrix: Floats) -> Floats | None:
    """`(I - M)^-1`: entry (i, j) is the final drop of i per shock of j. None where rho >= 1: there is no end.

    >>> amplification(np.array([[0.4, 0.02], [0.2, 0.6]])).round(6).tolist()
    [[1.694915, 0.084746], [0.847458, 2.542373]]
    >>> amplification(np.array([[0.8, 0.04], [0.4, 1.2]])) is None
    True
    """
    if not spectral_radius(matrix[None])[0] < SELF_SUSTAINING:
        return None
    return np.asarray(np.linalg.inv(np.eye(len(matrix)) - matrix), dtype=np.float64)


def growth(rho: float) -> float | None:
    """What a small shock along the leading direction ends as, `1 / (1 - rho)`; None where a cascade sustains itself.

    >>> growth(0.5), growth(1.0), growth(1.5)
    (2.0, None, None)
    """
    return 1 / (1 - rho) if rho < SELF_SUSTAINING else None


def two_sided(falls: Floats, rises: Floats) -> Floats:
    """One nonnegative matrix (2s, 2s) over "symbol falls" (first s) and "symbol rises", from the gains of either side.

        [[max(F, 0), max(-R, 0)], [max(-F, 0), max(R, 0)]]

    `falls[i, j]` is the drop of i per drop of j, `rises[i, j]` the rise of i per rise of j; a negative entry is a
    symbol that moves the other way. Moves against each other are not netted, so that rho is on the safe side.

    >>> two_sided(np.array([[0.5]]), np.array([[-0.1]])).tolist()
    [[0.5, 0.1], [0.0, 0.0]]
    """
    blocks = [[falls.clip(0.0), (-rises).clip(0.0)], [(-falls).clip(0.0), rises.clip(0.0)]]
    return np.block(blocks) + 0.0


def leading(matrix: Floats) -> Ranking:
    """Sources and victims of the mode that grows fastest.

    Rounds are `x' = M @ x`. After many of them `x ~ rho^n * right * (left . shock)`: the left eigenvector weighs where
    the shock was (sources), the right one says how the drops are spread (victims). `matrix` should be nonnegative.

    Here symbol 0 drives symbol 1 and nothing drives symbol 0: rho .5 is its own, so it is the only source; of a drop v
    the second takes `.2 + .4 v = .5 v`, twice that of the first:

    >>> source, victim = leading(np.array([[0.5, 0.0], [0.2, 0.4]]))
    >>> source.round(6).tolist(), victim.round(6).tolist()
    ([1.0, 0.0], [0.333333, 0.666667])
    """
    return Ranking(_leading_right(matrix.T), _leading_right(matrix))


def _leading_right(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eig(matrix)
    place = int(np.argmax(np.abs(values)))
    if not np.abs(values[place]) > 0:
        return np.zeros(len(matrix))
    weight = np.abs(vectors[:, place])
    return np.asarray(weight / weight.sum(), dtype=np.float64)


def debtrank_matrix(liabilities: Floats, equity_usd: Floats) -> Floats:
    """Linear DebtRank: `M[i, j] = liabilities[j, i] / equity[i]`, relative loss of equity of i per that of j.

    `liabilities[j, i]` is what j owes i.

    >>> owed = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
    >>> round(float(spectral_radius(debtrank_matrix(owed, np.array([1.0, 3.0, 3.0]))[None])[0]), 6)
    1.386723
    """
    return np.asarray(liabilities.T / equity_usd[:, None], dtype=np.float64)
