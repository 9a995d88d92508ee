"""What the training saw of each feature, so that a model can say when it is asked about something else."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.calibration import Floats

TAIL_SHARE = 0.001  # the rarest values on either side do not define the range
SLACK = 1.0  # the range is widened on both sides by this share of itself: markets may be wilder, units may not change


@dataclass(frozen=True)
class Support:
    """Per feature the range and the median of training values; a value outside was never learned from."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    usual: tuple[float, ...]  # the median; 0 for a feature without a value

    @classmethod
    def fit(cls, values: Floats) -> "Support":
        """From training rows, shape (rows, features); a feature without a value has no range.

        low, high = the TAIL_SHARE and 1 - TAIL_SHARE quantiles, widened by SLACK times their distance
        """
        known = np.where(np.isfinite(values), values, np.nan)
        held = np.isfinite(known).any(axis=0)
        low, high = np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
        usual = np.zeros(values.shape[1])
        if held.any():
            usual[held] = np.nanmedian(known[:, held], axis=0)
            low[held], high[held] = np.nanquantile(known[:, held], (TAIL_SHARE, 1 - TAIL_SHARE), axis=0)
        room = SLACK * np.where(held, high - low, 0.0)
        room = np.where(room > 0, room, np.abs(np.where(held, high, 0.0)) + 1.0)  # of a constant
        return cls(_plain(low - room), _plain(high + room), _plain(usual))

    def outside(self, values: Floats) -> Floats:
        """1 where a known value lies outside the range, else 0; shape as `values`."""
        return np.asarray((values < np.array(self.low)) | (values > np.array(self.high)), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Support":
        return cls(tuple(raw["low"]), tuple(raw["high"]), tuple(raw["usual"]))


def _plain(values: Floats) -> tuple[float, ...]:
    """Finite numbers only, so that JSON can carry them."""
    largest = np.finfo(np.float64).max
    return tuple(np.clip(values, -largest, largest).tolist())
