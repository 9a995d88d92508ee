"""Fuel: what would be forced to trade in a symbol at every distance from its mark, against the book that takes it.

Each unit of margin trips at the drop of the symbol that uses up its slack while all else stands still, and sells what
it holds of the symbol. With x the distance from the mark in the direction asked for (falls or rises):

    FOD(x)       = fuel within x / depth within x
    kappa(x; w)  = fuel in [x, x + w) / depth in [x, x + w)
    cliff        = the nearest trip with kappa >= 1

Fuel comes in steps, so the marginal ratio needs a window w: with a smaller one than the usual gap between trips kappa
jumps between 0 and large values, a larger one blurs. Depth is not extended beyond `depth_limit`: fuel that lies
further out meets no known book: kappa there is infinite, and no cliff is told of it.
"""

from dataclasses import dataclass

import numpy as np

from features.mechanics.impact import flow_to, shape_law
from models.cascade.slack import Pairs, pairs_of, trip_drops
from models.cascade.world import Floats, Ints, World

WINDOW = 0.01
REACH = 0.5  # how far trips are looked for
DECIMALS = 12  # distances that differ by less are one
ENOUGH = 1 - 1e-9
FALL, RISE = 1, -1
MICRO = 1e6


@dataclass(frozen=True)
class Fuel:
    """Trips of one direction by symbol, nearest first: those of symbol s are `start[s] : start[s + 1]`.

    `usd` counts flow that drives the price on (sales in a fall, purchases in a rise); what works against it is
    negative. `burnt_usd` has a leading 0 and sums `usd` exactly.
    """

    side: int  # FALL or RISE
    reach: float
    start: Ints
    distance: Floats  # from the mark, 0 or more; 0 for units that are short already
    usd: Floats
    burnt_usd: Floats

    def of(self, place: int) -> tuple[Floats, Floats]:
        """Distances of a symbol's trips, and what is burnt before each and after the last."""
        first, last = self.start[place : place + 2]
        return self.distance[first:last], self.burnt_usd[first : last + 1] - self.burnt_usd[first]


def fuel(world: World, side: int, reach: float = REACH, pairs: Pairs | None = None) -> Fuel:
    """Every trip within `reach` of the marks when symbols fall (`side` FALL) or rise (RISE), one at a time."""
    pairs = pairs_of(world) if pairs is None else pairs
    distance = np.round(side * trip_drops(world, pairs, side * reach), DECIMALS)
    kept = np.flatnonzero((np.abs(distance) <= reach) & (pairs.closable_usd != 0))
    order = kept[np.lexsort((distance[kept], pairs.symbol[kept]))]
    micro = np.rint(side * pairs.closable_usd[order] * MICRO).astype(np.int64)
    return Fuel(
        side=side,
        reach=reach,
        start=np.searchsorted(pairs.symbol[order], np.arange(len(world.symbols) + 1)).astype(np.int64),
        distance=distance[order] + 0.0,
        usd=micro / MICRO,
        burnt_usd=np.append(0, np.cumsum(micro)) / MICRO,
    )


def burnt_usd(found: Fuel, distance: float) -> Floats:
    """Fuel that trips before `distance`, per symbol (a trip at it has not)."""
    return np.array([_burnt(*found.of(place), distance) for place in range(len(found.start) - 1)])


def _burnt(distances: Floats, burnt: Floats, distance: float) -> float:
    return float(burnt[np.searchsorted(distances, round(distance, DECIMALS), side="left")])


def book_usd(world: World, distance: float | Floats) -> Floats:
    """Depth within `distance` of the mark, per symbol; what lies beyond `depth_limit` is not counted."""
    law = shape_law(world.books.shape, world.books.depth_usd)
    return flow_to(law, np.minimum(distance, world.books.depth_limit))


def fuel_over_depth(world: World, found: Fuel, distance: float) -> Floats:
    """`FOD(distance)` per symbol: all fuel to there over all depth to there; 0 at no distance."""
    depth = book_usd(world, distance)
    return np.divide(burnt_usd(found, distance), depth, out=np.zeros(len(depth)), where=depth > 0)


def kappa(world: World, found: Fuel, distance: float, window: float = WINDOW) -> Floats:
    """`kappa(distance; window)` per symbol; infinite where there is fuel and no depth, 0 where there is no fuel."""
    return np.array(
        [_kappas(world, found, place, np.array([distance]), window)[0] for place in range(len(world.symbols))]
    )


def _kappas(world: World, found: Fuel, place: int, distances: Floats, window: float) -> Floats:
    trips, burnt = found.of(place)
    near, far = np.round(distances, DECIMALS), np.round(distances + window, DECIMALS)
    usd = burnt[np.searchsorted(trips, far)] - burnt[np.searchsorted(trips, near)]
    law = shape_law(world.books.shape[place], world.books.depth_usd[place])
    limit = world.books.depth_limit[place]
    depth = flow_to(law, np.minimum(far, limit)) - flow_to(law, np.minimum(near, limit))
    without = np.where(usd > 0, np.inf, 0.0)
    return np.divide(usd, depth, out=without, where=depth > 0)


def cliff_distances(world: World, found: Fuel, window: float = WINDOW) -> Floats:
    """Distance of the nearest trip from which on kappa reaches 1, per symbol; infinite where none does in reach.

    Only windows that end within `depth_limit` count: a book that is not known is no cliff.
    """
    out = np.full(len(world.symbols), np.inf)
    for place in range(len(world.symbols)):
        trips, _ = found.of(place)
        trips = trips[np.round(trips + window, DECIMALS) <= world.books.depth_limit[place]]
        over = np.flatnonzero(_kappas(world, found, place, trips, window) >= ENOUGH)
        if len(over):
            out[place] = trips[over[0]]
    return out


def cliff_price(
    world: World, falls: Fuel, rises: Fuel | None = None, window: float = WINDOW
) -> tuple[float | None, ...]:
    """The nearest price of each symbol at which kappa reaches 1, of either direction; None where it does in neither."""
    down = cliff_distances(world, falls, window)
    up = cliff_distances(world, rises, window) if rises is not None else np.full(len(down), np.inf)
    drop = np.where(down <= up, down, -up)
    prices = world.price_usd * (1 - drop)
    return tuple(float(price) if np.isfinite(price) else None for price in prices)


def density_usd(found: Fuel, place: int, edges: Floats) -> Floats:
    """Liquidation density of a symbol: fuel per unit of relative price between each two of the rising `edges`."""
    trips, burnt = found.of(place)
    within = burnt[np.searchsorted(trips, np.round(edges, DECIMALS), side="left")]
    return np.asarray(np.diff(within) / np.diff(edges))
