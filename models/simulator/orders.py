"""Order identifiers: which resting order an event of the book is about, so that true cancels are apart from fills.

Every add is an order of its own. Cancels and trades of a side take from its orders, the oldest first; one row of
dollars becomes one row per order it touches. So each order is created once, then changed, cancelled or filled, and
never heard of again once nothing of it is left. Orders follow the mid as makers move their quotes: what is conserved
are dollars.
Orders that rested before the first hour have no add.
"""

from typing import NamedTuple

import numpy as np

from models.simulator.settings import Floats, Ints

ADD = 0  # the kind of an event that adds; all others take away
OPENING_ORDERS = 200  # that rest on a side before the first hour
DUST_USD = 0.005
UNKNOWN = 0  # the order of dollars that no order holds; never in an ordinary run


class Touched(NamedTuple):
    """One row per event and order, in the order of events."""

    event: Ints  # place of the event among those given
    order: Ints
    usd: Floats


class OrderQueue:
    """The living orders of one side of one book, oldest first."""

    def __init__(self) -> None:
        self.order = np.arange(1, OPENING_ORDERS + 1)
        self.usd = np.full(OPENING_ORDERS, 1.0)
        self.last = OPENING_ORDERS

    def agree(self, depth_usd: float) -> None:
        """Scale what rests to `depth_usd`: amounts too small to be printed are not known order by order."""
        if not self.usd.size:
            self.last += 1
            self.order, self.usd = np.array([self.last]), np.ones(1)
        self.usd = self.usd * (depth_usd / self.usd.sum())

    def touch(self, kind: Ints, usd: Floats) -> Touched:
        """Split events in time order over orders: the dollars taken so far against the dollars that came so far.

        >>> queue = OrderQueue()
        >>> queue.order, queue.usd = np.array([7, 9]), np.array([30.0, 50.0])
        >>> touched = queue.touch(np.array([1, 0, 2]), np.array([20.0, 5.0, 40.0]))  # cancel, add, trade
        >>> touched.event.tolist(), touched.order.tolist(), touched.usd.tolist()
        ([0, 1, 2, 2], [7, 201, 7, 9], [20.0, 5.0, 10.0, 30.0])
        >>> queue.order.tolist(), queue.usd.tolist()
        ([9, 201], [20.0, 5.0])
        """
        adds, takes = np.flatnonzero(kind == ADD), np.flatnonzero(kind != ADD)
        created = self.last + 1 + np.arange(adds.size)
        self.last += adds.size
        order, held = np.append(self.order, created), np.append(self.usd, usd[adds])
        came, taken = np.append(np.cumsum(held), np.inf), np.cumsum(usd[takes])
        edges = np.unique(np.append(came[:-1], taken))
        edges = edges[edges <= taken[-1]] if takes.size else edges[:0]
        part = np.diff(edges, prepend=0.0)
        middle, part = (edges - part / 2)[part > DUST_USD], part[part > DUST_USD]
        by = np.searchsorted(came, middle)
        left = held - np.bincount(by, part, held.size + 1)[:-1]
        event = np.append(adds, takes[np.searchsorted(taken, middle)])
        sequence = np.argsort(event, kind="stable")
        touched = np.append(created, np.append(order, UNKNOWN)[by])[sequence]
        self.order, self.usd = order[left > DUST_USD], left[left > DUST_USD]
        return Touched(event[sequence], touched, np.append(usd[adds], part)[sequence])
