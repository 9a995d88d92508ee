"""Isolation forest: how few random cuts set this row apart from the reference? One-sided.

    depth(y) = mean over trees of (cuts until y is in a leaf + c(rows of the reference in that leaf))
    plain    = 2 ** -(depth(x) / c(sample_rows)),    c(n) = 2 H(n - 1) - 2 (n - 1) / n
    score    = the same with, in each tree, the greatest depth of any y >= x

Cuts know no direction: a row can be easy to set apart because one feature is safer than its company. So each tree is
asked for the most ordinary row that is at least as risky in every feature; no score rises as a feature turns safer.
Grown by scikit-learn, kept as plain numbers, walked by our own kernel: a stored forest does not depend on a version.

Source: Liu, Ting and Zhou 2008, "Isolation Forest"; the one-sided depth is our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.detectors.kernel import Ints, Trees, walk, walk_one_sided
from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import bounded, known_rows
from models.detectors.tails import Floats


def risky(z: Floats) -> Floats:
    """What the trees see: `bounded`; a null counts as usual (0)."""
    return bounded(np.nan_to_num(z, nan=0.0))


@dataclass(frozen=True)
class IsolationForest:
    """All nodes of all trees, one after the other. A null counts as usual; a row of nulls has no score."""

    starts: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    depth: tuple[float, ...]  # of a leaf, with what the rows in it would still have needed
    usual_depth: float

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "IsolationForest":
        """Raises ValueError if fewer than two rows hold a number. Families are not used."""
        rows = risky(z[known_rows(z)])
        if rows.shape[0] < 2:
            raise ValueError(f"reference must hold at least 2 rows with values, held {rows.shape[0]}")
        forest = grown(rows, settings)
        trees = [tree.tree_ for tree in forest.estimators_]
        starts = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]])
        moved = [
            [np.where(child < 0, -1, child + start) for child in (tree.children_left, tree.children_right)]
            for tree, start in zip(trees, starts, strict=True)
        ]
        depth = [tree.compute_node_depths() - 1 + usual_depth(tree.n_node_samples) for tree in trees]
        return cls(
            starts=tuple(starts.tolist()),
            feature=_joined([tree.feature for tree in trees]),
            threshold=_joined([tree.threshold for tree in trees]),
            left=_joined([left for left, _ in moved]),
            right=_joined([right for _, right in moved]),
            depth=_joined(depth),
            usual_depth=float(usual_depth(np.array([forest.max_samples_]))[0]),
        )

    @property
    def trees(self) -> Trees:
        whole = (np.array(numbers, dtype=np.int32) for numbers in (self.starts, self.feature, self.left, self.right))
        starts, feature, left, right = whole
        depth = np.array(self.depth)
        return Trees(starts, feature, np.array(self.threshold), left, right, depth, deepest(left, right, depth))

    def score(self, z: Floats) -> Floats:
        """In (0, 1). Never falls as a feature turns riskier, never rises as it turns safer."""
        return self._anomaly(z, walk_one_sided)

    def plain(self, z: Floats) -> Floats:
        """The score of the paper and of scikit-learn; it may rise as a feature turns safer. Never below `score`."""
        return self._anomaly(z, walk)

    def _anomaly(self, z: Floats, walked: Callable[[NDArray[np.float32], Trees], Floats]) -> Floats:
        depth = walked(risky(z).astype(np.float32), self.trees) / (len(self.starts) * self.usual_depth)
        return np.where(known_rows(z), 2.0**-depth, np.nan)

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "IsolationForest":
        return cls(**from_json(text))


def deepest(left: Ints, right: Ints, depth: Floats) -> Floats:
    """Per node, the greatest depth of a leaf below it; children come after their parents."""
    reached = depth.copy()
    for node in np.flatnonzero(left >= 0)[::-1]:
        reached[node] = max(reached[left[node]], reached[right[node]])
    return reached


def grown(rows: Floats, settings: Settings):  # type: ignore[no-untyped-def]  # of a library without types
    """scikit-learn's forest on rows without nulls; the same for any number of threads."""
    from sklearn import ensemble  # noqa: PLC0415 - takes seconds to import; only fitting needs it

    return ensemble.IsolationForest(
        n_estimators=settings.trees,
        max_samples=min(settings.sample_rows, rows.shape[0]),
        random_state=settings.seed,
        n_jobs=settings.threads,
    ).fit(rows)


def usual_depth(rows: np.ndarray) -> Floats:
    """c(n): mean depth of an unsuccessful search in a binary tree of n rows; 0 for one, 1 for two.

    >>> usual_depth(np.array([1, 2, 256])).round(3).tolist()
    [0.0, 1.0, 10.245]
    """
    n = np.maximum(rows, 3).astype(np.float64)
    many = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, many))


def _joined(parts: list[np.ndarray]) -> tuple:  # type: ignore[type-arg]  # of integers or of floats, as the parts
    return tuple(np.concatenate(parts).tolist())
