"""Tail probabilities: what "surprise" means for one number, and which side of it is risk."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL_SHARE = 0.05  # the far tail that is extrapolated: the top 5 % of the reference
SURPRISE_MAX = 12.0  # -log10 p; beyond it an extrapolated tail means nothing
MAD_TO_SIGMA = 1.4826
_GRID = np.linspace(0.0, 1.0 - TAIL_SHARE, 39)


@dataclass(frozen=True)
class Tail:
    """Upper-tail probability learned from a sample: empirical up to its 95 % quantile, exponential beyond.

    A value that is common in the sample (a counter that rests at zero) has no surprise: P(X >= value) counts ties.

    >>> import numpy as np
    >>> tail = Tail.fit(np.arange(1000.0))
    >>> [round(float(s), 3) for s in tail.surprise(np.array([-1.0, 500.0, 949.05, np.nan]))]
    [0.0, 0.301, 1.301, nan]
    """

    quantiles: tuple[float, ...]
    excess_mean: float

    @classmethod
    def fit(cls, sample: Floats) -> "Tail":
        """Raises ValueError if the sample holds no number."""
        known = sample[np.isfinite(sample)]
        if known.size == 0:
            raise ValueError("sample must hold at least one number, was all null")
        quantiles = np.quantile(known, _GRID)
        excess = known[known > quantiles[-1]] - quantiles[-1]
        spread = float(excess.mean()) if excess.size else 0.0
        return cls(tuple(float(q) for q in quantiles), max(spread, 1e-9))

    def surprise(self, values: Floats) -> Floats:
        """-log10 P(X >= value), in [0, SURPRISE_MAX]; NaN stays NaN."""
        edges = np.asarray(self.quantiles)
        steps, first = np.unique(edges, return_index=True)
        within = np.abs(np.log10(1.0 - np.interp(values, steps, _GRID[first])))
        beyond = -np.log10(TAIL_SHARE) + (values - edges[-1]) / (self.excess_mean * np.log(10.0))
        far = values > edges[-1]
        return np.where(np.isnan(values), np.nan, np.clip(np.where(far, beyond, within), 0.0, SURPRISE_MAX))


def one_sided(z: Floats, side: str) -> Floats:
    """`z` turned so that risk is positive: z for `high`, -z for `low`, |z| for `both`."""
    return np.abs(z) if side == "both" else (-z if side == "low" else z)
