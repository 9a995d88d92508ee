"""First passage: how soon a price without drift touches a level some distance away.

A Brownian motion of `sigma_year` a year touches a level `distance` away within a time T with probability

    2 Phi(-distance / (sigma_year * sqrt(T / year)))

(reflection principle). `distance` is relative, as sigma is; the length of the year is the venue's: most take 365 days,
Vega's price bounds 365.25.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Floats = npt.NDArray[np.float64]

DAY_S: Final = 86_400.0
YEAR_DAYS: Final = 365.0


def _checked(distance: npt.ArrayLike, sigma_year: npt.ArrayLike, year_days: float) -> tuple[Floats, Floats]:
    """Distance and sigma as arrays; distances below 0 count as 0: the level has been touched."""
    d, sigma = np.asarray(distance, dtype=np.float64), np.asarray(sigma_year, dtype=np.float64)
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ValueError(f"sigma_year must be finite and positive, was {sigma.tolist()}")
    if not year_days > 0:
        raise ValueError(f"year_days must be positive, was {year_days}")
    if np.isnan(d).any():
        raise ValueError("distance must be a number, was NaN")
    return np.maximum(d, 0.0), sigma


def touch_probability(
    distance: npt.ArrayLike, sigma_year: npt.ArrayLike, horizon_s: npt.ArrayLike, year_days: float = YEAR_DAYS
) -> Floats:
    """Probability that a level `distance` away is touched within `horizon_s` seconds: in [0, 1], 1 at distance 0.

    Raises ValueError unless sigma, horizon and the year are positive and the distance is a number.

    >>> touch_probability(0.02, 0.8, [3_600, 86_400]).round(6).tolist()
    [0.01929, 0.632918]
    """
    d, sigma = _checked(distance, sigma_year, year_days)
    horizon = np.asarray(horizon_s, dtype=np.float64)
    if not (horizon > 0).all():
        raise ValueError(f"horizon_s must be positive, was {horizon.tolist()}")
    return np.asarray(2 * ndtr(-d / (sigma * np.sqrt(horizon / (year_days * DAY_S)))))


def first_passage_quantile_s(
    distance: npt.ArrayLike, sigma_year: npt.ArrayLike, quantile: npt.ArrayLike, year_days: float = YEAR_DAYS
) -> Floats:
    """Seconds within which a level `distance` away is touched with probability `quantile`.

        out = year * (distance / (sigma_year * z)) ** 2, z = -Phi^-1(quantile / 2)

    0 at distance 0. The mean is infinite: a quantile is all there is. Raises ValueError unless quantile is in (0, 1),
    sigma and the year are positive and the distance is a number.

    >>> first_passage_quantile_s(0.02, 0.8, [0.05, 0.25, 0.5]).round().tolist()
    [5131.0, 14895.0, 43325.0]
    """
    d, sigma = _checked(distance, sigma_year, year_days)
    q = np.asarray(quantile, dtype=np.float64)
    if not ((q > 0) & (q < 1)).all():
        raise ValueError(f"quantile must be in (0, 1), was {q.tolist()}")
    return np.asarray(year_days * DAY_S * (d / (sigma * -ndtri(q / 2))) ** 2)
