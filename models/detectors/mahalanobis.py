"""One-sided Mahalanobis: the largest standard score that any non-negative weighting of the features reaches.

    x     = risky part of each feature, in standard deviations above its mean (`RiskyPart`)
    S     = covariance of x in the reference, shrunk (Ledoit-Wolf)
    score = max over w >= 0 of w'x / sqrt(w'S w)

Without w >= 0 this is the Mahalanobis distance, which rises when one of two features that move together is safe: the
book is too deep for this leverage. With it, it is the distance of x from the nearest row that is at least as risky in
every feature, min over y >= x of sqrt(y' inverse(S) y), and never rises as a feature turns safer.

Source: Kudo 1963, "A multivariate analogue of the one-sided test"; Perlman 1969.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.detectors.covariance import second_moments, shrunk
from models.detectors.kernel import ascend
from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import RiskyPart, known_rows
from models.detectors.tails import Floats


@dataclass(frozen=True)
class Mahalanobis:
    """Risky part and shrunk covariance. A null has weight 0, exactly as if it had not been a feature."""

    part: RiskyPart
    covariance: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "Mahalanobis":
        """Families and settings are not used."""
        part = RiskyPart.fit(z)
        x = part.centred(z[known_rows(z)])
        found = shrunk(x, second_moments(x))
        found[np.diag_indices_from(found)] += np.array(part.inverse_sd) == 0
        return cls(part, tuple(tuple(row) for row in found.tolist()))

    def score(self, z: Floats) -> Floats:
        """At least 0; 0 where nothing is riskier than its mean."""
        x = self.part.centred(z)
        squared = ascend(np.where(np.isfinite(x), x, -np.inf), np.array(self.covariance))
        return np.where(known_rows(z), np.sqrt(squared), np.nan)

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Mahalanobis":
        fields = from_json(text)
        return cls(RiskyPart(**fields["part"]), fields["covariance"])
