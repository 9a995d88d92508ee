"""Margin: what a position must hold, and the price at which an account no longer holds it.

Maintenance margin is a convex, piecewise linear function of notional. That convexity is what makes the formulas short:
the requirement is the largest of its tiers' lines, so a trip price is the first of the tiers' trip prices, and no
search for the right tier is needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl


class Tier(NamedTuple):
    """One line of a maintenance schedule: `notional * rate - deduction_usd`."""

    rate: float
    deduction_usd: float


def deductions_usd(notional_usd_max: Sequence[float], rates: Sequence[float]) -> list[float]:
    """Deductions that make the requirement continuous at tier edges.

        deduction_k = deduction_{k-1} + lower_k * (rate_k - rate_{k-1}), the first 0

    `notional_usd_max[k]` is the upper edge of tier k, the lower edge of tier k + 1; the last is not read.

    >>> deductions_usd([50_000, 600_000, 3e6], [0.004, 0.005, 0.0065])
    [0.0, 50.0, 950.0]
    """
    found = [0.0]
    for lower, before, rate in zip(notional_usd_max[: len(rates) - 1], rates[:-1], rates[1:], strict=True):
        found.append(round(found[-1] + lower * (rate - before), 9))
    return found


def tiers_from(rows: Sequence[dict[str, float]] | None) -> tuple[Tier, ...] | None:
    """The tiers of an instrument (column `tiers` of `Instruments`) as lines; None where it names none.

    Raises ValueError if rates are not in (0, 1) or fall from one tier to the next: the formulas need convexity.

    >>> tiers_from([{"maintenance_rate": 0.01, "deduction_usd": 0.0}])
    (Tier(rate=0.01, deduction_usd=0.0),)
    """
    if not rows:
        return None
    tiers = tuple(Tier(float(row["maintenance_rate"]), float(row["deduction_usd"])) for row in rows)
    rates = [tier.rate for tier in tiers]
    if not all(0 < rate < 1 for rate in rates) or rates != sorted(rates):
        raise ValueError(f"maintenance rates must be in (0, 1) and rise from tier to tier, were {rates}")
    return tiers


def maintenance_usd(notional_usd: pl.Expr, tiers: Sequence[Tier]) -> pl.Expr:
    """Maintenance margin of a notional (0 or more): `max over tiers of notional * rate - deduction`.

    >>> tiers = (Tier(0.004, 0.0), Tier(0.005, 50.0))
    >>> pl.select(maintenance_usd(pl.lit(100_000.0), tiers)).item()
    450.0
    """
    return pl.max_horizontal(notional_usd * tier.rate - tier.deduction_usd for tier in tiers)


def trip_price(
    qty: pl.Expr, price: pl.Expr, equity_usd: pl.Expr, other_maintenance_usd: pl.Expr, tiers: Sequence[Tier]
) -> pl.Expr:
    """Price of one leg at which its account's equity equals its maintenance margin, the other legs held still.

        P_k = (qty * price + other_maintenance - deduction_k - equity) / (qty - rate_k * |qty|)
        out = max over k for a long, min over k for a short, at least 0

    `equity_usd` is the equity at `price`. For an isolated position it is the margin with its profit, and
    `other_maintenance_usd` is 0. A long that trips above `price`, or a short below it, is already over the line.
    0 for a long that no fall can trip, and for a short that no fall can save. Null for qty 0.

    >>> one = {"qty": 1.0, "price": 100.0, "equity": 5.0}
    >>> columns = [pl.lit(value) for value in one.values()]
    >>> [round(pl.select(trip_price(*columns, pl.lit(other), (Tier(0.004, 0.0),))).item(), 6) for other in (0.0, 4.0)]
    [95.381526, 99.39759]
    """
    needed = qty * price + other_maintenance_usd - equity_usd
    roots = [(needed - tier.deduction_usd) / (qty - tier.rate * qty.abs()) for tier in tiers]
    first = pl.when(qty > 0).then(pl.max_horizontal(roots)).when(qty < 0).then(pl.min_horizontal(roots))
    return first.clip(lower_bound=0.0)


def fillable_price(
    qty: float,
    price: float,
    rate: float,
    equity_usd: float,
    maintenance_usd: float,
    *,
    spread: float,
    adjustment: float,
) -> float:
    """Worst price at which a breached leg may be sold (dYdX: clob/keeper, fillable price).

        abr = clamp(adjustment * (1 - equity / maintenance), 0, 1)
        out = price * (1 - abr * spread * rate * sign(qty))

    `spread` scales the maintenance margin of the position, `rate` is its maintenance rate.

    >>> round(fillable_price(0.1, 50_000, 0.1, 499, 500, spread=0.1, adjustment=1), 6)
    49999.0
    """
    abr = min(max(adjustment * (1 - equity_usd / maintenance_usd), 0.0), 1.0)
    return (qty * price - abr * spread * abs(qty) * price * rate) / qty


def bankruptcy_price(qty: float, price: float, rate: float, equity_usd: float, maintenance_usd: float) -> float:
    """Price at which a leg has used up its share of the account's equity, shared in proportion to maintenance margin.

        out = price - equity * (|qty| * price * rate / maintenance) / qty

    >>> round(bankruptcy_price(0.1, 3_000, 0.1, 10, 50), 6)
    2940.0
    """
    return price - equity_usd * (abs(qty) * price * rate / maintenance_usd) / qty


def scaled_initial_rate(base: float, oi_usd: float, lower_usd: float, upper_usd: float) -> float:
    """Initial margin rate that grows with open interest: `min(base + clamp((OI - l) / (u - l)) * (1 - base), 1)`.

    >>> round(scaled_initial_rate(0.2, 1.5e6, 1e6, 2e6), 6)
    0.6
    """
    share = min(max((oi_usd - lower_usd) / (upper_usd - lower_usd), 0.0), 1.0)
    return min(base + share * (1 - base), 1.0)


def size_premium_rate(rate: float, qty: pl.Expr, factor: float) -> pl.Expr:
    """Initial margin rate that grows with the size of a position: `max(rate, .8 * rate + factor * sqrt(|qty|))`.

    `rate` holds up to `|qty| = (.2 * rate / factor) ** 2`; the margin `notional * out` stays convex in size. Null for a
    null qty. Source: Drift v2, size premium of a liability weight.

    >>> [round(pl.select(size_premium_rate(0.1, pl.lit(qty), 0.002)).item(), 6) for qty in (50.0, 100.0, -400.0)]
    [0.1, 0.1, 0.12]
    """
    grown = 0.8 * rate + factor * qty.abs().sqrt()
    return pl.when(qty.is_not_null()).then(pl.max_horizontal(pl.lit(rate), grown))


def peg_surcharge(price: float) -> float:
    """Initial margin rate added when a stablecoin loses its peg: `4 * (0.99 - price)` below 0.99 (Derive v2).

    >>> round(peg_surcharge(0.97), 6), peg_surcharge(1.0)
    (0.08, 0.0)
    """
    return max(4 * (0.99 - price), 0.0)
