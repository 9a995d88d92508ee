"""A perpetual-futures venue whose liquidation cascades emerge from leverage, thin books and correlated prices."""

from models.simulator.controls import Controls
from models.simulator.runs import each_seed, simulate_runs
from models.simulator.settings import VenueSettings, with_profile
from models.simulator.venue import Stretch, instruments, simulate, simulate_controlled

__all__ = [
    "Controls",
    "Stretch",
    "VenueSettings",
    "each_seed",
    "instruments",
    "simulate",
    "simulate_controlled",
    "simulate_runs",
    "with_profile",
]
