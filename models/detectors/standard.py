"""What every detector reads: standardised features, turned so that more is riskier.

    z[j]    = +-(x[j] - median[symbol, j]) / scale[symbol, j]   # - where the low tail is risk, |.| where both are
    part[j] = min(max(z[j], 0), Z_MAX) / sd[j]                  # the risky part: "unusually deep" is not in it

Medians and scales (MAD, where that is 0 the standard deviation, else 1) are the symbol's own, in the reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.detectors.tails import MAD_TO_SIGMA, Floats, one_sided

Z_MAX = 10.0  # robust deviations; a bound on what one feature can do to all others
SD_MIN = 1e-9  # a risky part that moved less in the reference is not used


@dataclass(frozen=True)
class StandardTails:
    """Median and scale of each feature by symbol; `median[j][s]` is NaN where symbol s had no value of feature j."""

    features: tuple[str, ...]
    families: tuple[str, ...]
    sides: tuple[str, ...]  # high, low or both
    symbols: tuple[str, ...]
    median: tuple[tuple[float | None, ...], ...]
    scale: tuple[tuple[float | None, ...], ...]
    known_share_min: float

    @classmethod
    def fit(
        cls,
        reference: pl.DataFrame,
        family_of: Mapping[str, str],
        tails: Mapping[str, str],
        *,
        null_share_max: float = 0.5,
        known_share_min: float = 0.5,
    ) -> "StandardTails":
        """Features of `family_of` with a tail and at most `null_share_max` nulls in the reference, in its order.

        Raises ValueError if that leaves none.
        """
        watched = [name for name in family_of if tails[name] != "none"]
        nulls = reference.select(pl.col(name).is_null().mean() for name in watched).row(0, named=True)
        features = [name for name in watched if nulls[name] is not None and nulls[name] <= null_share_max]
        if not features:
            raise ValueError("reference must hold at least one feature with values, had none")
        stats = _stats(reference, features)
        return cls(
            tuple(features),
            tuple(family_of[name] for name in features),
            tuple(tails[name] for name in features),
            tuple(stats["symbol"].to_list()),
            tuple(tuple(stats[f"median_{name}"].to_list()) for name in features),
            tuple(tuple(stats[f"scale_{name}"].to_list()) for name in features),
            known_share_min,
        )

    def turned(self, matrix: pl.DataFrame) -> Floats:
        """z, shape (rows, features), NaN for null; a whole row is NaN where too little of it is known.

        Too little: fewer than `known_share_min` of the features, or a symbol that the reference did not hold.
        Raises ValueError naming the features that `matrix` lacks.
        """
        missing = [name for name in self.features if name not in matrix.columns]
        if missing:
            raise ValueError(f"matrix must hold the detector's features, lacks {', '.join(missing)}")
        places = range(len(self.symbols))
        rows = matrix["symbol"].replace_strict(self.symbols, places, default=len(places), return_dtype=pl.Int64)
        codes = rows.to_numpy()
        z = np.empty((matrix.height, len(self.features)), order="F")
        for j, name in enumerate(self.features):
            centre, scale = (_with_stranger(numbers[j])[codes] for numbers in (self.median, self.scale))
            z[:, j] = one_sided((matrix[name].cast(pl.Float64).to_numpy() - centre) / scale, self.sides[j])
        z[np.isfinite(z).mean(axis=1) < self.known_share_min] = np.nan
        return z


def _with_stranger(numbers: Sequence[float | None]) -> Floats:
    return np.array([*numbers, None], dtype=np.float64)


def _stats(reference: pl.DataFrame, features: Sequence[str]) -> pl.DataFrame:
    """`symbol, median_<name>, scale_<name>` for every feature, sorted by symbol."""
    raw: list[pl.Expr] = []
    for name in features:
        x = pl.col(name).cast(pl.Float64)
        mad = (x - x.median()).abs().median() * MAD_TO_SIGMA
        scale = pl.when(mad > 0).then(mad).when(x.std() > 0).then(x.std()).otherwise(pl.lit(1.0))
        raw += [x.median().alias(f"median_{name}"), scale.alias(f"scale_{name}")]
    return reference.group_by("symbol").agg(raw).sort("symbol")


def bounded(z: Floats) -> Floats:
    """min(max(z, 0), Z_MAX); NaN stays NaN."""
    return np.clip(z, 0.0, Z_MAX)


@dataclass(frozen=True)
class RiskyPart:
    """Mean and spread of `bounded(z)` in the reference. `inverse_sd` is 0 for a feature that never moved."""

    mean: tuple[float, ...]
    inverse_sd: tuple[float, ...]

    @classmethod
    def fit(cls, z: Floats) -> "RiskyPart":
        mean, inverse_sd = zip(*(_moments(column) for column in z.T), strict=True)
        return cls(mean, inverse_sd)

    def raised(self, z: Floats) -> Floats:
        """In standard deviations above rest, at least 0; NaN stays NaN. Shape of `z`."""
        return np.asarray(bounded(z) * np.array(self.inverse_sd))

    def centred(self, z: Floats) -> Floats:
        """In standard deviations above its mean in the reference; NaN stays NaN. Shape of `z`."""
        return np.asarray((bounded(z) - np.array(self.mean)) * np.array(self.inverse_sd))


def _moments(column: Floats) -> tuple[float, float]:
    known = bounded(column[np.isfinite(column)])
    if known.size == 0:
        return 0.0, 0.0
    sd = float(known.std())
    return float(known.mean()), (1.0 / sd if sd > SD_MIN else 0.0)


def known_rows(z: Floats) -> NDArray[np.bool_]:
    """Which rows hold a number."""
    return np.asarray(np.isfinite(z).any(axis=1))


def added(columns: Floats) -> Floats:
    """Sum of each row, left to right: the same bits however many rows there are and however they lie in memory."""
    total = np.zeros(columns.shape[0])
    for column in columns.T:
        total += column
    return total
