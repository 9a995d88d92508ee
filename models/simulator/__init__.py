"""A perpetual-futures venue whose liquidation cascades emerge from leverage, thin books and correlated prices."""

from models.simulator.runs import simulate_runs
from models.simulator.settings import VenueSettings, with_profile
from models.simulator.venue import instruments, simulate

__all__ = ["VenueSettings", "instruments", "simulate", "simulate_runs", "with_profile"]
