"""The detectors by name, each fitted and scored the same way, on one scale.

raw      = detector's score of a row
surprise = -log10 P(Raw >= raw)         # by the reference: empirical to its 95 % quantile, exponential beyond
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from models.detectors.ensemble import MEMBERS, Core, Ensemble
from models.detectors.plain import from_json, to_json
from models.detectors.settings import Settings
from models.detectors.standard import StandardTails
from models.detectors.tails import Floats, Tail

DETECTORS: Mapping[str, type[Core]] = {**MEMBERS, "ensemble": Ensemble}
FORMAT = 1


@dataclass(frozen=True)
class Fitted:
    """A fitted detector on the common scale. Immutable; `to_json` and `from_json` are exact."""

    kind: str
    venue: str
    reference: str  # the interval, for people
    inputs: StandardTails
    core: Core
    scale: Tail

    def raw(self, matrix: pl.DataFrame) -> Floats:
        """The detector's own score per row, NaN for none. Raises ValueError if `matrix` lacks a feature."""
        return self.core.score(self.inputs.turned(matrix))

    def score(self, matrix: pl.DataFrame) -> pl.DataFrame:
        """`venue, symbol, ts, available_at, raw, surprise` of every row, in the order of `matrix`.

        A row's scores depend on that row alone. Both are null where less than `known_share_min` of the features is
        known, and for a symbol that the reference did not hold. Raises ValueError if `matrix` lacks a feature.
        """
        raw = self.raw(matrix)
        keys = matrix.select("venue", "symbol", "ts", pl.col("known_at").alias("available_at"))
        scores = {"raw": raw, "surprise": self.scale.surprise(raw)}
        return keys.with_columns(pl.Series(name, values).fill_nan(None) for name, values in scores.items())

    def to_json(self) -> str:
        return to_json(_Stored(FORMAT, self))

    @classmethod
    def from_json(cls, text: str) -> "Fitted":
        """Raises ValueError on another format or an unknown kind."""
        stored = json.loads(text)
        if stored.get("format") != FORMAT:
            raise ValueError(f"detector must be in format {FORMAT}, was {stored.get('format')}")
        fields = stored["detector"]
        inputs, core, scale = (json.dumps(fields.pop(name)) for name in ("inputs", "core", "scale"))
        return cls(
            **fields,
            inputs=StandardTails(**from_json(inputs)),
            core=of_kind(fields["kind"]).from_json(core),
            scale=Tail(**from_json(scale)),
        )


@dataclass(frozen=True)
class _Stored:
    format: int
    detector: Fitted


def of_kind(kind: str) -> type[Core]:
    """Raises ValueError naming the kinds there are.

    >>> of_kind("ecod").__name__
    'Ecod'
    """
    if kind not in DETECTORS:
        raise ValueError(f"kind must be one of {', '.join(DETECTORS)}, was {kind}")
    return DETECTORS[kind]


def fit(
    kind: str,
    reference: pl.DataFrame,
    family_of: Mapping[str, str],
    tails: Mapping[str, str],
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    null_share_max: float = 0.5,
    known_share_min: float = 0.5,
) -> Fitted:
    """Fit a detector of this kind on the feature matrix of the reference of one venue.

    The same rows, settings and seed give the same bytes, whatever the number of threads. Raises ValueError on an
    unknown kind and where no feature of the reference has enough values.
    """
    made = of_kind(kind)
    inputs = StandardTails.fit(
        reference, family_of, tails, null_share_max=null_share_max, known_share_min=known_share_min
    )
    z = inputs.turned(reference)
    core = made.fit(z, inputs.families, settings)
    minute = pl.col("ts").dt.strftime("%Y-%m-%dT%H:%MZ")
    span = reference.select(pl.concat_str(minute.min(), minute.max(), separator="..")).item()
    return Fitted(kind, reference["venue"][0], span, inputs, core, Tail.fit(core.score(z)))
