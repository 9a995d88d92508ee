"""PCA residual: what is left of a row when the common movements of the reference are taken out, one-sided.

    V     = the first k principal components of the risky parts, the fewest that keep `variance_share` of them
    R     = I - V V'
    x     = risky part of each feature, in standard deviations above rest (`RiskyPart`)
    score = sum over i, j of max(R[i, j], 0) x[i] x[j]

The squared reconstruction error |x - V V' x|^2 is the same sum without the max. Its negative terms are excuses: two
features that move together excuse one another, and when one of them turns safe the other loses its excuse and the error
rises. Without excuses no score rises as a feature turns safer; it is never below the squared error.

Source: Jackson and Mudholkar 1979, "Control procedures for residuals associated with principal component analysis"; the
max is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.detectors.covariance import second_moments
from models.detectors.kernel import times
from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import RiskyPart, added, known_rows
from models.detectors.tails import Floats


@dataclass(frozen=True)
class PcaResidual:
    """Risky part and max(I - V V', 0). A null counts as usual and adds nothing; a row of nulls has no score."""

    part: RiskyPart
    components: int
    left_over: tuple[tuple[float, ...], ...]  # R without what is negative

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "PcaResidual":
        """Families are not used."""
        part = RiskyPart.fit(z)
        variance, vectors = _spectrum(second_moments(part.centred(z[known_rows(z)])))
        kept = np.cumsum(variance) < settings.variance_share * variance.sum()
        components = min(int(kept.sum()) + 1, variance.size - 1)
        common = vectors[:, :components]
        rest = np.maximum(np.eye(variance.size) - times(common, common.T), 0.0)
        return cls(part, components, tuple(tuple(row) for row in rest.tolist()))

    def score(self, z: Floats) -> Floats:
        """At least 0. Never falls as a feature turns riskier, never rises as it turns safer."""
        x = np.nan_to_num(self.part.raised(z), nan=0.0)
        return np.where(known_rows(z), added(times(x, np.array(self.left_over)) * x), np.nan)

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "PcaResidual":
        fields = from_json(text)
        return cls(RiskyPart(**fields["part"]), fields["components"], fields["left_over"])


def _spectrum(covariance: Floats) -> tuple[Floats, Floats]:
    """Variances, largest first, and their directions as columns; the same bits whatever the number of threads."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415 - as scikit-learn

    with threadpool_limits(limits=1):
        variance, vectors = np.linalg.eigh(covariance)
    return variance[::-1], vectors[:, ::-1]
