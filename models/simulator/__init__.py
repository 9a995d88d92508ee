"""A perpetual-futures venue whose liquidation cascades emerge from leverage, thin books and correlated prices."""

from models.simulator.settings import VenueSettings
from models.simulator.venue import instruments, simulate

__all__ = ["VenueSettings", "instruments", "simulate"]
