"""Robust z by family: what `models.detector` says of one symbol, as one of the suite.

    family[f] = max(0, max over its features of -log10 P(Z[j] >= z[j]) - log10(members of f))
    score     = sum over families of family[f]

A family counts once, by its most surprising feature, corrected for how many it has (Bonferroni). Source: own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.detectors.ecod import surprises
from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import added, known_rows
from models.detectors.tails import Floats, Tail


@dataclass(frozen=True)
class RobustZ:
    """Tail and family of each feature. A null adds nothing; a row of nulls has no score."""

    tails: tuple[Tail, ...]
    families: tuple[str, ...]

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "RobustZ":
        """Raises ValueError if a feature has no value. Settings are not used."""
        return cls(tuple(Tail.fit(column) for column in z.T), tuple(families))

    def score(self, z: Floats) -> Floats:
        """Never falls as a feature turns riskier, never rises as it turns safer."""
        return np.where(known_rows(z), added(self.by_family(z)), np.nan)

    def by_family(self, z: Floats) -> Floats:
        """Shape (rows, families), in order of first appearance; 0 where a family knows nothing."""
        known = np.nan_to_num(surprises(z, self.tails), nan=0.0)
        names = np.array(self.families)
        members = [known[:, names == family] for family in dict.fromkeys(self.families)]
        return np.column_stack([np.maximum(own.max(axis=1) - np.log10(own.shape[1]), 0.0) for own in members])

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "RobustZ":
        fields = from_json(text)
        return cls(tuple(Tail(**tail) for tail in fields["tails"]), fields["families"])
