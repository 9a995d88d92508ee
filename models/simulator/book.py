"""The book: how many dollars rest near the mid, what an order does to the price, and when makers leave.

    depth(side, x bps) = depth_100bps_usd * state(side) * (x / 100) ** depth_exponent
    impact(q) = 100 bps * (q / (depth_100bps_usd * state)) ** (1 / depth_exponent)

`state` is 1 in an ordinary regime. Makers aim at

    goal(side) = exp(mood - VOLATILITY_PULL * stress - INVENTORY_PULL * inventory(side) - FLOW_PULL * flow(side))

and approach it quickly when it lies below (cancels) and slowly when it lies above (adds). Column 0 is the bid, 1 the
ask. `flow(side)` is the net dollars that hit the side in the last minutes, `inventory(side)` what makers have taken on
there and not yet passed on, both over the side's ordinary depth. Two-sided flow is refilled within the step.
"""

import numpy as np

from models.simulator.prices import kept
from models.simulator.settings import Floats, VenueSettings, depths_100bps_usd

BID, ASK = 0, 1
REACH_BPS = 250.0  # forced orders reach no further in one round: the rest waits
VISIBLE_BPS = 500.0  # book events tell of the dollars within this distance
VOLATILITY_PULL = 0.75
OWN_SHARE = 0.6  # of a symbol's own stress in its makers' stress; the rest is the venue's mean
INVENTORY_PULL = 0.5
FLOW_PULL = 1.0
INVENTORY_HALF_LIFE_S = 1800.0
FLOW_HALF_LIFE_S = 120.0
MOOD_SD = 0.22
MOOD_HALF_LIFE_S = 5400.0
STATE_MIN = 0.15
GOAL_MAX = 1.6


class Book:
    """Depth of every symbol; arrays are (symbols, 2) with bid and ask columns."""

    def __init__(self, settings: VenueSettings) -> None:
        self.exponent = settings.depth_exponent
        self.ordinary_usd = depths_100bps_usd(settings)[:, None]
        self.state = np.ones((len(settings.symbols), 2))
        self.mood, self.flow, self.inventory = (np.zeros_like(self.state) for _ in range(3))
        step_s = float(settings.step_s)
        self.withdrawal = 1 - kept(step_s, settings.depth_withdrawal_half_life_s)
        self.recovery = 1 - kept(step_s, settings.depth_recovery_half_life_s)
        self.mood_kept = kept(step_s, MOOD_HALF_LIFE_S)
        self.flow_kept = kept(step_s, FLOW_HALF_LIFE_S)
        self.inventory_kept = kept(step_s, INVENTORY_HALF_LIFE_S)

    def within_usd(self, bps: float) -> Floats:
        """Dollars within `bps` of the mid, per symbol and side."""
        return np.asarray(self.ordinary_usd * self.state * (bps / 100.0) ** self.exponent)

    def impact(self, symbol: int | slice, side: int, usd: Floats) -> Floats:
        """Relative move of the price after `usd` have been taken from `side`."""
        depth = self.ordinary_usd[symbol, 0] * self.state[symbol, side]
        return np.asarray(0.01 * (usd / depth) ** (1 / self.exponent))

    def eat(self, taken_usd: Floats) -> None:
        """Remove the one-sided part of `taken_usd` (symbols, 2) from the book; remember it as flow and inventory."""
        net_usd = np.maximum(taken_usd - taken_usd[:, ::-1], 0.0)
        left = 1 - np.minimum(net_usd / self.within_usd(VISIBLE_BPS), 0.9)
        self.state = np.maximum(self.state * left, STATE_MIN)
        share = net_usd / self.ordinary_usd
        self.flow = self.flow + share
        self.inventory = np.maximum(self.inventory + share - share[:, ::-1], 0.0)

    def requote(self, stress: Floats, noise: Floats) -> None:
        """Let makers move toward their goal; `stress` (symbols,) is the log of volatility over its ordinary level."""
        self.mood = self.mood_kept * self.mood + np.sqrt(1 - self.mood_kept**2) * MOOD_SD * noise
        felt = np.maximum(OWN_SHARE * stress + (1 - OWN_SHARE) * stress.mean(), -0.4)[:, None]
        pull = VOLATILITY_PULL * felt + INVENTORY_PULL * np.minimum(self.inventory, 2.0) + FLOW_PULL * self.flow
        goal = np.clip(np.exp(self.mood - pull), STATE_MIN, GOAL_MAX)
        speed = np.where(goal < self.state, self.withdrawal, self.recovery)
        self.state = self.state + speed * (goal - self.state)
        self.flow = self.flow_kept * self.flow
        self.inventory = self.inventory_kept * self.inventory
