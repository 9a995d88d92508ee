"""Compiled passes over rows. Each row is worked on alone and in one order: its bits never depend on its batch.

A matrix product of numpy would not do: BLAS takes another path for one row than for many, and its sums differ.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.detectors.tails import Floats

Ints = NDArray[np.int32]
TOLERANCE = 1e-7
SWEEPS_MAX = 1_000


class Trees(NamedTuple):
    """All nodes of all trees in one row of columns; `starts` are the roots, `left` is -1 in a leaf."""

    starts: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    depth: Floats  # of a leaf
    deepest: Floats  # of the leaves below a node


def _times_rows(rows, matrix, out):  # type: ignore[no-untyped-def]  # compiled by numba, which infers types
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            x = rows[i, j]
            for k in range(matrix.shape[1]):
                out[i, k] += x * matrix[j, k]


def _ascend_rows(rows, covariance, tolerance, sweeps_max, out):  # type: ignore[no-untyped-def]  # as above
    width = rows.shape[1]
    for i in range(rows.shape[0]):
        weight = np.zeros(width)
        slope = rows[i].copy()
        for _ in range(sweeps_max):
            moved = 0.0
            for j in range(width):
                if weight[j] == 0.0 and slope[j] <= 0.0:
                    continue
                step = max(slope[j] / covariance[j, j], -weight[j])
                if step != 0.0:
                    weight[j] += step
                    moved = max(moved, abs(step))
                    for k in range(width):
                        slope[k] -= step * covariance[j, k]
            if moved < tolerance:
                break
        squared = 0.0
        for j in range(width):
            if weight[j] > 0.0:
                squared += weight[j] * (rows[i, j] + slope[j])
        out[i] = squared


def _gram_rows(rows, out):  # type: ignore[no-untyped-def]  # as above
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            x = rows[i, j]
            for k in range(rows.shape[1]):
                out[j, k] += x * rows[i, k]


def _walk_rows(rows, starts, feature, threshold, left, right, depth, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # as above
    for tree in range(starts.shape[0]):
        for i in range(rows.shape[0]):
            node = starts[tree]
            while left[node] >= 0:
                node = left[node] if rows[i, feature[node]] <= threshold[node] else right[node]
            out[i] += depth[node]


def _climb_rows(rows, starts, feature, threshold, left, right, depth, deepest, out):  # type: ignore[no-untyped-def]  # noqa: PLR0917  # as above
    waiting = np.empty(left.shape[0], dtype=np.int32)
    for tree in range(starts.shape[0]):
        for i in range(rows.shape[0]):
            best = -1.0
            waiting[0] = starts[tree]
            count = 1
            while count > 0:
                count -= 1
                node = waiting[count]
                while deepest[node] > best and left[node] >= 0:
                    low, high = left[node], right[node]
                    if rows[i, feature[node]] > threshold[node]:
                        node = high
                        continue
                    node = low if deepest[low] >= deepest[high] else high
                    waiting[count] = low + high - node
                    count += 1
                if left[node] < 0:
                    best = max(best, depth[node])
            out[i] += best


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(function)
    return compiled


_times, _gram, _ascend = (_compiled(one) for one in (_times_rows, _gram_rows, _ascend_rows))
_walk, _climb = (_compiled(one) for one in (_walk_rows, _climb_rows))


def times(rows: Floats, matrix: Floats) -> Floats:
    """rows @ matrix, summed over the inner index in order. Shapes (n, a), (a, b) -> (n, b), C order."""
    out = np.zeros((rows.shape[0], matrix.shape[1]))
    _times(np.ascontiguousarray(rows), np.ascontiguousarray(matrix), out)
    return out


def gram(rows: Floats) -> Floats:
    """rows.T @ rows, summed over the rows in order, whatever the number of threads. Shape (columns, columns)."""
    out = np.zeros((rows.shape[1], rows.shape[1]))
    _gram(np.ascontiguousarray(rows), out)
    return out


def ascend(rows: Floats, covariance: Floats) -> Floats:
    """max over w >= 0 of 2 w'x - w'Sw for each row x, by coordinate ascent. -inf keeps a coordinate at w = 0.

    `covariance` S is positive semidefinite with a positive diagonal. Ends when no weight of a sweep moved by TOLERANCE,
    or after SWEEPS_MAX sweeps; what it returns is reached by a feasible w, hence never above the maximum.
    """
    out = np.empty(rows.shape[0])
    _ascend(np.ascontiguousarray(rows), np.ascontiguousarray(covariance), TOLERANCE, SWEEPS_MAX, out)
    return out


def walk(rows: NDArray[np.float32], trees: Trees) -> Floats:
    """Per row, the sum over the trees of the depth of the leaf it ends in: left where value <= threshold."""
    out = np.zeros(rows.shape[0])
    _walk(np.ascontiguousarray(rows), *trees[:-1], out)
    return out


def walk_one_sided(rows: NDArray[np.float32], trees: Trees) -> Floats:
    """Per row x, the sum over the trees of the greatest depth of a leaf that some y >= x ends in.

    Where x is at or below the threshold both branches are open, the deeper one first; above it only the right one.
    """
    out = np.zeros(rows.shape[0])
    _climb(np.ascontiguousarray(rows), *trees, out)
    return out
