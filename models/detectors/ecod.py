"""ECOD: the tail probabilities of all features, multiplied as if they were independent.

    score = sum over features of -log10 P(Z[j] >= z[j])

The distributions are those of the reference, so a row's score does not depend on its batch. ECOD as published estimates
them on the rows it scores. One-sided: the tail that means risk is known, where ECOD lets skewness choose it.

Source: Li et al. 2022, "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import added, known_rows
from models.detectors.tails import Floats, Tail


def surprises(z: Floats, tails: Sequence[Tail]) -> Floats:
    """Column by column, shape of `z`; NaN stays NaN."""
    out = np.empty_like(z, order="F")
    for j, tail in enumerate(tails):
        out[:, j] = tail.surprise(z[:, j])
    return out


@dataclass(frozen=True)
class Ecod:
    """The tail of each feature. A null adds nothing; a row of nulls has no score."""

    tails: tuple[Tail, ...]

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "Ecod":
        """Raises ValueError if a feature has no value. Families and settings are not used."""
        return cls(tuple(Tail.fit(column) for column in z.T))

    def score(self, z: Floats) -> Floats:
        """Never falls as a feature turns riskier, never rises as it turns safer."""
        total = added(np.nan_to_num(surprises(z, self.tails), nan=0.0))
        return np.where(known_rows(z), total, np.nan)

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Ecod":
        return cls(tuple(Tail(**tail) for tail in from_json(text)["tails"]))
