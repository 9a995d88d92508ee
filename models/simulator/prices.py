"""Prices: a correlated index with moving volatility, and the perpetual that pulls away from it and returns.

    perp = index * exp(premium + push)        push: what net flow has moved, transient; premium: crowding, slow
    mark = index + EMA(perp - index)

The push decays: part of it vanishes, at a rate that grows as `1 + (push / PUSH_SCALE) ** 2` because a wide gap calls
arbitrageurs, and part of it is carried into the index.
"""

from dataclasses import dataclass

import numpy as np

from models.simulator.settings import DAY_S, Bools, Floats, VenueSettings, ranks, start_prices_usd, volatilities_day

REGIME_COMMON_SD = 0.2  # of the log volatility that all symbols share
REGIME_OWN_SD = 0.1
REGIME_HALF_LIFE_S = 8 * 3600.0
SEASON_SHARE = 0.1  # how much the volatility swings with the hour of the day
SEASON_PEAK_H = 15.0
DRIFT_DAY_SD = 0.6  # of the slow drift, in daily volatilities
DRIFT_HALF_LIFE_S = 10 * 3600.0
BURST_GAIN = 0.002  # how much one step's surprise lifts the variance of those that follow
BURST_HALF_LIFE_S = 1800.0
BURST_MAX = 8.0
SURPRISE_MAX = 25.0  # variances; a single step counts for no more
PUSH_HALF_LIFE_S = 2400.0  # of the part of the push that vanishes, when the push is small
PUSH_SCALE = 0.009  # a push of this size calls as many arbitrageurs again, a larger one more still
PASS_HALF_LIFE_S = 1500.0  # of the part that arbitrage carries into the index
PREMIUM_HALF_LIFE_S = 3600.0
PREMIUM_CROWD = 0.0012  # premium when every open position of the accounts is long
PREMIUM_NOISE_SD = 0.0002
FAST_HALF_LIFE_S = 600.0
SLOW_HALF_LIFE_S = 1.5 * 86_400.0
CALM_HALF_LIFE_S = 3 * 3600.0
TREND_HALF_LIFE_S = 4 * 3600.0
JUMP_COMMON_SHARE = 0.8  # of a jump's size that all symbols share


def kept(step_s: float, half_life_s: float) -> float:
    """Share that is left of a quantity with `half_life_s` after `step_s`.

    >>> kept(60.0, 60.0)
    0.5
    """
    return float(0.5 ** (step_s / half_life_s))


@dataclass
class Shocks:
    """One hour of exogenous innovations, drawn at once; rows are steps, columns symbols."""

    common: Floats  # (steps,) of the shared regime
    own: Floats  # of each symbol's regime
    index: Floats  # correlated, fat-tailed, unit variance
    jump_at: Floats  # (steps,) uniform; a jump happens where it is below the rate of the step
    jump: Floats  # log size of the jump if one happens
    drift: Floats
    premium: Floats


def draw_shocks(settings: VenueSettings, steps: int, rng: np.random.Generator) -> Shocks:
    """Draw `steps` rows of innovations; the fat tails of one step are shared by the symbols."""
    shape = (steps, len(settings.symbols))
    shared, own = rng.standard_normal((steps, 1)), rng.standard_normal(shape)
    normal = np.sqrt(settings.correlation) * shared + np.sqrt(1 - settings.correlation) * own
    df = settings.tail_df
    tail = np.sqrt((df - 2) / rng.chisquare(df, (steps, 1)))
    size = rng.laplace(0.0, settings.jump_size, (steps, 1))
    grown = settings.volatility_rank_growth ** ranks(shape[1])
    jump = grown * (JUMP_COMMON_SHARE * size + (1 - JUMP_COMMON_SHARE) * rng.laplace(0.0, settings.jump_size, shape))
    return Shocks(
        common=rng.standard_normal(steps),
        own=rng.standard_normal(shape),
        index=normal * tail,
        jump_at=rng.random(steps),
        jump=jump,
        drift=rng.standard_normal((steps, 1)) * 0.7 + rng.standard_normal(shape) * 0.7,
        premium=rng.standard_normal(shape),
    )


class Prices:
    """State of all prices; `advance` moves the world one step, `push_by` lets flow move the perpetual."""

    def __init__(self, settings: VenueSettings) -> None:
        count, step_s = len(settings.symbols), float(settings.step_s)
        self.step_s = step_s
        self.base_var = volatilities_day(settings) ** 2 * step_s / DAY_S
        self.jump_share = settings.jump_rate_day * step_s / DAY_S
        self.index = start_prices_usd(settings)
        self.premium, self.push, self.drift = np.zeros(count), np.zeros(count), np.zeros(count)
        self.regime_common, self.regime_own = 0.0, np.zeros(count)
        self.burst = np.ones(count)
        self.latent_var = self.base_var.copy()
        self.fast_var, self.calm_var, self.slow_var = (self.base_var * 1.3 for _ in range(3))
        self.perp = self.index.copy()
        self.perp_before = self.perp.copy()
        self.anchor = np.log(self.perp)
        self.basis_ema = np.zeros(count)
        self.mark_gain = 1.0 - float(np.exp(-step_s / settings.mark_ema_s))
        self._keep_drawn_constants(step_s)

    def _keep_drawn_constants(self, step_s: float) -> None:
        self.regime_kept = kept(step_s, REGIME_HALF_LIFE_S)
        self.drift_kept = kept(step_s, DRIFT_HALF_LIFE_S)
        self.burst_kept = kept(step_s, BURST_HALF_LIFE_S)
        self.premium_kept = kept(step_s, PREMIUM_HALF_LIFE_S)
        self.passed = 1.0 - kept(step_s, PASS_HALF_LIFE_S)
        self.push_kept = kept(step_s, PUSH_HALF_LIFE_S)
        self.fast_gain = 1.0 - kept(step_s, FAST_HALF_LIFE_S)
        self.calm_gain = 1.0 - kept(step_s, CALM_HALF_LIFE_S)
        self.slow_gain = 1.0 - kept(step_s, SLOW_HALF_LIFE_S)
        self.trend_gain = 1.0 - kept(step_s, TREND_HALF_LIFE_S)

    def advance(self, shocks: Shocks, row: int, hour_of_day: float, crowding: Floats) -> None:
        """Move regime, index and premium by one step; `crowding` is net over gross positions of the accounts."""
        self._advance_regime(shocks, row, hour_of_day)
        self._advance_index(shocks, row)
        level = np.sqrt(1 - self.premium_kept**2) * PREMIUM_NOISE_SD
        goal = PREMIUM_CROWD * crowding
        self.premium = goal + self.premium_kept * (self.premium - goal) + level * shocks.premium[row]
        self.perp_before = self.perp
        self.perp = self.index * np.exp(self.premium + self.push)

    def _advance_regime(self, shocks: Shocks, row: int, hour_of_day: float) -> None:
        fresh = np.sqrt(1 - self.regime_kept**2)
        self.regime_common = self.regime_kept * self.regime_common + fresh * shocks.common[row]
        self.regime_own = self.regime_kept * self.regime_own + fresh * shocks.own[row]
        season = 1 + SEASON_SHARE * np.cos((hour_of_day - SEASON_PEAK_H) * np.pi / 12)
        regime = np.exp(2 * (REGIME_COMMON_SD * self.regime_common + REGIME_OWN_SD * self.regime_own))
        self.latent_var = self.base_var * season**2 * regime * self.burst

    def _advance_index(self, shocks: Shocks, row: int) -> None:
        fresh = np.sqrt(1 - self.drift_kept**2)
        self.drift = self.drift_kept * self.drift + fresh * shocks.drift[row]
        drift_step = DRIFT_DAY_SD * self.drift * np.sqrt(self.base_var * self.step_s / DAY_S)
        moved = drift_step + np.sqrt(self.latent_var) * shocks.index[row]
        heat = float(np.mean(self.latent_var / self.base_var))
        if shocks.jump_at[row] < self.jump_share * min(heat, BURST_MAX):
            moved = moved + shocks.jump[row]
        carried = self.passed * self.push
        hunted = 1 + (self.push / PUSH_SCALE) ** 2
        self.push = self.push_kept**hunted * (self.push - carried)
        self.index = self.index * np.exp(moved + carried)

    def push_by(self, log_move: Floats) -> None:
        """Let flow move the perpetual by `log_move`."""
        self.push = self.push + log_move
        self.perp = self.perp * np.exp(log_move)

    def hold(self, where: Bools | bool = True) -> None:
        """Keep the perpetual of the symbols `where` (default all) where it was before the step: nothing trades."""
        self.perp = np.where(where, self.perp_before, self.perp)

    @property
    def mark(self) -> Floats:
        """Index plus the moving average of the basis, the present basis included."""
        return self.index + self.basis_ema + self.mark_gain * (self.perp - self.index - self.basis_ema)

    def settle_step(self) -> None:
        """Take the step's final price into the averages."""
        self.basis_ema = self.mark - self.index
        squared = np.log(self.perp / self.perp_before) ** 2
        surprise = np.minimum(squared / self.slow_var, SURPRISE_MAX) - 1
        self.burst = np.clip(1 + self.burst_kept * (self.burst - 1) + BURST_GAIN * surprise, 0.3, BURST_MAX)
        self.fast_var = self.fast_var + self.fast_gain * (squared - self.fast_var)
        self.calm_var = self.calm_var + self.calm_gain * (squared - self.calm_var)
        self.slow_var = self.slow_var + self.slow_gain * (squared - self.slow_var)
        self.anchor = self.anchor + self.trend_gain * (np.log(self.perp) - self.anchor)

    @property
    def heat(self) -> Floats:
        """Realised volatility of the last minutes over that of the last day."""
        return np.asarray(np.sqrt(self.fast_var / self.slow_var))

    @property
    def unrest(self) -> Floats:
        """Realised volatility of the last hours over that of the last day: what owners size their positions by."""
        return np.asarray(np.sqrt(self.calm_var / self.slow_var))

    @property
    def trend(self) -> Floats:
        """Distance of the price from its moving average, in standard deviations of a move over the half-life."""
        return (np.log(self.perp) - self.anchor) / np.sqrt(self.slow_var * TREND_HALF_LIFE_S / self.step_s)
