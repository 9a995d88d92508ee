"""The world a cascade runs in: units of margin, their legs, and the books that take forced flow.

A unit of margin is a cross account, or one isolated position. Legs lie unit after unit, so that a unit's legs are
`leg_start[u] : leg_start[u + 1]`. Money is in USD, prices are USD per base unit, drops are relative to `price_usd`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FLAT, RAMP, SQRT = "flat", "ramp", "sqrt"
SHAPES = (FLAT, RAMP, SQRT)
RATE_MAX = 1.0


@dataclass(frozen=True)
class Books:
    """One book per symbol: USD of depth per unit of relative price, its shape, and where the known levels end."""

    depth_usd: Floats
    shape: tuple[str, ...]
    depth_limit: Floats  # relative price beyond which nothing is known of the book; infinite where it is not limited


@dataclass(frozen=True)
class World:
    """Accounts x symbols as columns.

    `rates` and `deductions` are (tiers, symbols): maintenance of a leg is `max over tiers of notional * rate -
    deduction`; a symbol with fewer tiers repeats its last. `spill[i, j]` is what an impact of 1 on j moves i (diagonal
    1). A leg that is not `leg_closable` is collateral that moves with a symbol: it has no maintenance, is never closed,
    and its entry price is the reference price. `cash_usd` is collateral after haircuts, or the isolated margin.

    Raises ValueError that lists every violation at once.
    """

    symbols: tuple[str, ...]
    price_usd: Floats  # (symbols,), the reference mark
    books: Books
    spill: Floats  # (symbols, symbols)
    rates: Floats  # (tiers, symbols)
    deductions: Floats  # (tiers, symbols)
    cash_usd: Floats  # (units,)
    leg_start: Ints  # (units + 1,)
    leg_symbol: Ints  # (legs,)
    leg_qty: Floats  # (legs,), signed base units
    leg_entry: Floats  # (legs,), USD per base unit
    leg_closable: Bools  # (legs,)
    account: Ints  # (units,), the account a unit belongs to, as a place in `account_names`
    account_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        violations = list(_violations(self))
        if violations:
            raise ValueError(" | ".join(violations))

    @property
    def units(self) -> int:
        return len(self.cash_usd)

    def with_depth(self, times: float) -> "World":
        """The same world before books of `times` the depth."""
        return replace(self, books=replace(self.books, depth_usd=self.books.depth_usd * times))


def _violations(world: World) -> Iterator[str]:
    symbols, units, legs = len(world.symbols), len(world.cash_usd), len(world.leg_qty)
    shapes = {
        "price_usd": (symbols,),
        "spill": (symbols, symbols),
        "rates": (len(world.rates), symbols),
        "deductions": (len(world.rates), symbols),
        "leg_start": (units + 1,),
        "leg_symbol": (legs,),
        "leg_entry": (legs,),
        "leg_closable": (legs,),
        "account": (units,),
    }
    for name, shape in shapes.items():
        if getattr(world, name).shape != shape:
            yield f"`{name}` must have shape {shape}, was {getattr(world, name).shape}"
            return
    if symbols == 0 or len(set(world.symbols)) != symbols:
        yield f"`symbols` must be distinct and at least one, was {world.symbols}"
    for name in ("price_usd", "leg_entry"):
        values = getattr(world, name)
        if not (np.isfinite(values) & (values > 0)).all():
            yield f"`{name}` must be finite and positive"
    for name in ("cash_usd", "leg_qty", "spill", "deductions"):
        if not np.isfinite(getattr(world, name)).all():
            yield f"`{name}` must be finite"
    if not ((world.rates >= 0) & (world.rates < RATE_MAX)).all() or (np.diff(world.rates, axis=0) < 0).any():
        yield "`rates` must be in [0, 1) and rise from tier to tier"
    if not np.array_equal(np.diag(world.spill), np.ones(symbols)):
        yield "`spill` must have a diagonal of ones"
    if legs and not ((world.leg_symbol >= 0) & (world.leg_symbol < symbols)).all():
        yield "`leg_symbol` must be places in `symbols`"
    if (np.diff(world.leg_start) < 0).any() or world.leg_start[0] != 0 or world.leg_start[-1] != legs:
        yield "`leg_start` must rise from 0 to the number of legs"
    yield from _book_violations(world.books, symbols)


def _book_violations(books: Books, symbols: int) -> Iterator[str]:
    if books.depth_usd.shape != (symbols,) or books.depth_limit.shape != (symbols,) or len(books.shape) != symbols:
        yield f"`books` must have one entry per symbol ({symbols})"
        return
    if not (np.isfinite(books.depth_usd) & (books.depth_usd > 0)).all():
        yield "`depth_usd` must be finite and positive: without a book there is no fixed point"
    if not (books.depth_limit > 0).all():
        yield "`depth_limit` must be positive"
    unknown = sorted(set(books.shape) - set(SHAPES))
    if unknown:
        yield f"`shape` must be one of {SHAPES}, was {unknown}"
