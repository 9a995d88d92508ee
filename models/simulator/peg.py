"""The stablecoin: near a dollar nearly always, rarely far below, and back after hours.

    price = exp(noise - loss)

`noise` reverts to 0 with a standard deviation of `NOISE_SD`. Losses of the peg come at `depeg_rate_day` from dice of
their own, whatever the market does. `owed` jumps by an exponential size and fades with the recovery's half-life; `loss`
approaches it within minutes.
"""

from dataclasses import dataclass

import numpy as np

from models.simulator.prices import kept
from models.simulator.settings import DAY_S, Floats, VenueSettings

NOISE_SD = 0.0005
NOISE_HALF_LIFE_S = 3600.0
FALL_HALF_LIFE_S = 600.0
LOSS_MAX = 0.5  # of the price
STABLECOIN_QUOTE = "USDT"


@dataclass(frozen=True)
class PegDraws:
    """One hour of dice, one per step."""

    at: Floats  # uniform; the peg is lost where it is below the rate of the step
    size: Floats  # exponential, mean 1
    noise: Floats


def draw_peg(steps: int, rng: np.random.Generator) -> PegDraws:
    return PegDraws(rng.random(steps), rng.exponential(1.0, steps), rng.standard_normal(steps))


class Peg:
    def __init__(self, settings: VenueSettings) -> None:
        step_s = float(settings.step_s)
        self.size, self.share = settings.depeg_size, settings.depeg_rate_day * step_s / DAY_S
        self.recovered = kept(step_s, settings.depeg_recovery_half_life_s)
        self.fallen, self.noise_kept = kept(step_s, FALL_HALF_LIFE_S), kept(step_s, NOISE_HALF_LIFE_S)
        self.noise, self.owed, self.loss = 0.0, 0.0, 0.0

    def advance(self, draws: PegDraws, row: int) -> float:
        """The price after one more step."""
        fresh = np.sqrt(1 - self.noise_kept**2) * NOISE_SD
        self.noise = self.noise_kept * self.noise + float(fresh * draws.noise[row])
        self.owed *= self.recovered
        if draws.at[row] < self.share:
            self.owed = min(self.owed + self.size * float(draws.size[row]), -float(np.log(LOSS_MAX)))
        self.loss += (1 - self.fallen) * (self.owed - self.loss)
        return float(np.exp(self.noise - self.loss))


def stablecoin_symbol(settings: VenueSettings) -> str:
    """The spot market that prices the token.

    >>> stablecoin_symbol(VenueSettings())
    'USDE-USDT'
    """
    return f"{settings.stablecoin}-{STABLECOIN_QUOTE}"
