"""Ensemble: what the detectors say together, on their common scale.

score = mean (or max) over the members of -log10 P(Raw[m] >= raw[m])       # each by the reference
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from models.detectors.ecod import Ecod
from models.detectors.isolation_forest import IsolationForest
from models.detectors.mahalanobis import Mahalanobis
from models.detectors.pca_residual import PcaResidual
from models.detectors.plain import from_json, to_json
from models.detectors.robust_z import RobustZ
from models.detectors.settings import Settings
from models.detectors.standard import added
from models.detectors.tails import Floats, Tail


class Core(Protocol):
    """What a detector is: rows of z (`StandardTails.turned`) to one raw score each, larger is stranger."""

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "Core": ...
    def score(self, z: Floats) -> Floats: ...
    def to_json(self) -> str: ...
    @classmethod
    def from_json(cls, text: str) -> "Core": ...


MEMBERS: Mapping[str, type[Core]] = {
    "robust_z": RobustZ,
    "isolation_forest": IsolationForest,
    "ecod": Ecod,
    "pca_residual": PcaResidual,
    "mahalanobis": Mahalanobis,
}


@dataclass(frozen=True)
class Member:
    """A detector and the tail of its raw scores in the reference."""

    kind: str
    core: Core
    scale: Tail

    def surprise(self, z: Floats) -> Floats:
        return self.scale.surprise(self.core.score(z))


@dataclass(frozen=True)
class Ensemble:
    """All of `MEMBERS`. No score where no member has one."""

    members: tuple[Member, ...]
    combine: str  # mean or max

    @classmethod
    def fit(cls, z: Floats, families: Sequence[str], settings: Settings) -> "Ensemble":
        members = []
        for kind, made in MEMBERS.items():
            core = made.fit(z, families, settings)
            members.append(Member(kind, core, Tail.fit(core.score(z))))
        return cls(tuple(members), settings.combine)

    def score(self, z: Floats) -> Floats:
        said = np.column_stack([member.surprise(z) for member in self.members])
        return said.max(axis=1) if self.combine == "max" else added(said) / len(self.members)

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Ensemble":
        fields = json.loads(text)
        return cls(tuple(_member(one) for one in fields["members"]), fields["combine"])


def _member(fields: dict[str, Any]) -> Member:
    core, scale = (json.dumps(fields[name]) for name in ("core", "scale"))
    return Member(fields["kind"], MEMBERS[fields["kind"]].from_json(core), Tail(**from_json(scale)))
