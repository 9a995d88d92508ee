"""The parts of the suite against libraries and plain code: forest, covariance, weights, residual, inputs."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detectors.covariance import second_moments, shrunk
from models.detectors.ensemble import MEMBERS
from models.detectors.isolation_forest import IsolationForest, grown, risky
from models.detectors.kernel import ascend, gram, times
from models.detectors.mahalanobis import Mahalanobis
from models.detectors.pca_residual import PcaResidual
from models.detectors.settings import Settings
from models.detectors.standard import Z_MAX, StandardTails
from tests.models.detectors.worlds import FAMILY_OF, TAILS, iid

RNG = np.random.default_rng(1)
SHARED = RNG.normal(size=(2_000, 3))
Z = SHARED @ RNG.normal(size=(3, 8)) + RNG.standard_t(4, size=(2_000, 8))
FAMILIES = ("f",) * 8


def test_the_plain_forest_is_that_of_scikit_learn() -> None:
    forest = IsolationForest.fit(Z, FAMILIES, Settings(seed=3))
    fresh = np.vstack([Z[:500], 4 * Z[500:900], -Z[:100]])
    theirs = -grown(risky(Z), Settings(seed=3)).score_samples(risky(fresh))
    assert np.abs(forest.plain(fresh) - theirs).max() < 1e-12
    assert np.ptp(theirs) > 0.2


def test_the_one_sided_forest_takes_the_deepest_leaf_of_all_that_is_at_least_as_risky() -> None:
    """Plain code that follows both branches wherever a riskier row could."""
    forest = IsolationForest.fit(Z, FAMILIES, Settings(trees=5, sample_rows=64))
    left, right, depth, threshold, feature = forest.left, forest.right, forest.depth, forest.threshold, forest.feature

    def deepest(node: int, x: np.ndarray) -> float:
        if left[node] < 0:
            return depth[node]
        open_left = np.float32(x[feature[node]]) <= threshold[node]
        return max(deepest(right[node], x), deepest(left[node], x) if open_left else 0.0)

    rows = risky(2 * Z[:200])
    found = [sum(deepest(start, x) for start in forest.starts) / 5 / forest.usual_depth for x in rows]
    assert np.abs(forest.score(2 * Z[:200]) - 2.0 ** -np.array(found)).max() < 1e-12
    assert (forest.score(Z) <= forest.plain(Z)).all()
    assert (forest.score(Z) < forest.plain(Z) - 1e-6).any()


def test_the_shrunk_covariance_is_that_of_scikit_learn() -> None:
    from sklearn.covariance import ledoit_wolf

    for rows in (40, 2_000):
        x = Z[:rows] - Z[:rows].mean(axis=0)
        theirs, share = ledoit_wolf(x, assume_centered=True)
        assert np.allclose(shrunk(x, second_moments(x)), theirs, rtol=1e-10, atol=1e-12)
        assert share > 0


def test_noise_is_shrunk_to_the_identity_and_never_beyond() -> None:
    x = np.vstack([np.eye(4), -np.eye(4)]) * 2.0
    assert np.allclose(shrunk(x, second_moments(x)), np.eye(4))


def test_the_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    fitted = PcaResidual.fit(Z, FAMILIES, Settings(variance_share=0.7))
    x = fitted.part.centred(Z)
    theirs = PCA(n_components=0.7, svd_solver="full").fit(x)
    rest = np.eye(8) - theirs.components_.T @ theirs.components_
    assert fitted.components == theirs.n_components_ < 7
    assert np.allclose(np.array(fitted.left_over), np.maximum(rest, 0.0), rtol=0, atol=1e-10)


def test_without_excuses_the_residual_is_at_least_the_squared_reconstruction_error() -> None:
    """Hand arithmetic of one row beside it: R = [[.5, -.2], [-.2, .4]], x = (1, 2) -> .5 + 4 * .4 = 2.1."""
    fitted = PcaResidual.fit(Z, FAMILIES, Settings(variance_share=0.7))
    x = fitted.part.raised(Z)
    values, vectors = np.linalg.eigh(second_moments(fitted.part.centred(Z)))
    common = vectors[:, ::-1][:, : fitted.components]
    assert (fitted.score(Z) >= ((x - x @ common @ common.T) ** 2).sum(axis=1) - 1e-9).all()
    by_hand = PcaResidual(type(fitted.part)((0.0, 0.0), (1.0, 1.0)), 1, ((0.5, 0.0), (0.0, 0.4)))
    assert by_hand.score(np.array([[1.0, 2.0]])).tolist() == pytest.approx([2.1])
    assert values.size == 8


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_best_weighting_is_that_of_non_negative_least_squares(seed: int) -> None:
    """max over w >= 0 of 2 w'x - w'S w = |b|^2 - min over w >= 0 of |L'w - b|^2, S = L L', b = inverse(L) x."""
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(6, 6))
    covariance = loads @ loads.T + 0.2 * np.eye(6)
    x = rng.normal(scale=3.0, size=6)
    lower = np.linalg.cholesky(covariance)
    b = np.linalg.solve(lower, x)
    _, distance = nnls(lower.T, b)
    assert ascend(x[np.newaxis], covariance)[0] == pytest.approx(b @ b - distance**2, rel=1e-9, abs=1e-9)


def test_one_feature_alone_is_its_standard_score_and_two_that_move_together_count_once() -> None:
    """S = [[1, .9], [.9, 1]]: x = (3, 0) -> 3; (3, 3) -> 6 / sqrt(3.8) = 3.0779; (-1, -1) -> 0."""
    together = np.array([[1.0, 0.9], [0.9, 1.0]])
    rows = np.array([[3.0, 0.0], [3.0, 3.0], [-1.0, -1.0], [3.0, -np.inf]])
    assert np.sqrt(ascend(rows, together)).tolist() == pytest.approx([3.0, 6 / np.sqrt(3.8), 0.0, 3.0])


def test_a_null_is_to_mahalanobis_as_if_it_had_not_been_a_feature() -> None:
    whole = Mahalanobis.fit(Z, FAMILIES, Settings())
    kept = [0, 2, 3, 5, 6, 7]
    part = type(whole.part)(
        *(tuple(np.array(side)[kept].tolist()) for side in (whole.part.mean, whole.part.inverse_sd))
    )
    marginal = np.array(whole.covariance)[np.ix_(kept, kept)]
    less = Mahalanobis(part, tuple(tuple(row) for row in marginal.tolist()))
    blinded = Z[:100].copy()
    blinded[:, [1, 4]] = np.nan
    assert np.allclose(whole.score(blinded), less.score(Z[:100][:, kept]), rtol=1e-9)


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_feature_that_never_moved_in_the_reference_breaks_nothing(kind: str) -> None:
    still = np.column_stack([Z, np.full(len(Z), -1.0)])
    core = MEMBERS[kind].fit(still, (*FAMILIES, "g"), Settings())
    fresh = np.column_stack([Z[:50], np.full(50, 3.0)])
    assert np.isfinite(core.score(fresh)).all()
    assert np.isnan(core.score(np.full((1, 9), np.nan))).all()


def test_products_and_sums_of_rows_are_those_of_numpy() -> None:
    assert np.allclose(times(Z, Z[:8].T), Z @ Z[:8].T, rtol=1e-12)
    assert np.allclose(gram(Z), Z.T @ Z, rtol=1e-12, atol=1e-9)


def test_features_are_standardised_by_the_symbols_own_median_and_mad_and_turned_to_risk() -> None:
    """S0: 1 2 3 4 100, median 3, MAD 1; S1: 0 0 0 0 5, MAD 0, standard deviation sqrt(5); S2: constant, scale 1."""
    values = {"S0": [1.0, 2, 3, 4, 100], "S1": [0.0, 0, 0, 0, 5], "S2": [7.0] * 5}
    frame = pl.concat(
        pl.DataFrame({"symbol": symbol, "up": rows, "down": rows, "off": rows}) for symbol, rows in values.items()
    )
    tails = {"up": "high", "down": "low", "off": "none"}
    inputs = StandardTails.fit(frame, dict.fromkeys(tails, "f"), tails)
    assert inputs.features == ("up", "down")
    last = pl.DataFrame({"symbol": ["S0", "S1", "S2", "S3"], "up": [5.0, 5, 9, 9], "down": [5.0, None, 5, 9]})
    z = inputs.turned(last)
    assert z[:, 0].tolist() == pytest.approx([2 / 1.4826, 5**0.5, 2.0, np.nan], nan_ok=True)
    assert z[:, 1].tolist() == pytest.approx([-2 / 1.4826, np.nan, 2.0, np.nan], nan_ok=True)


def test_the_risky_part_is_bounded_on_both_sides() -> None:
    inputs = StandardTails.fit(iid(500, seed=2), FAMILY_OF, TAILS)
    far = iid(3, seed=2).with_columns(burst=pl.lit(1e9), thin=pl.lit(1e9))
    seen = risky(inputs.turned(far))
    assert set(seen[:, 0]) == {Z_MAX}
    assert set(seen[:, 2]) == {0.0}
