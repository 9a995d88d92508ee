"""Collateral: what an account's assets count for.

    counts = amount * price * (1 - haircut)                          a debt (amount below 0) has no haircut

A haircut may grow with size: each slice of the value then has its own, as income has in a tax table, so that the value
that counts never falls when collateral is added.
"""

import polars as pl

from features.mechanics.profile import Haircut

NO_HAIRCUT = Haircut(((float("inf"), 0.0),))


def checked_haircut(haircut: Haircut) -> Haircut:
    """Return `haircut` if its steps make sense.

    Raises ValueError unless upper edges rise to infinity and haircuts are in [0, 1] and do not fall with size.

    >>> checked_haircut(NO_HAIRCUT) is NO_HAIRCUT
    True
    """
    edges, cuts = [edge for edge, _ in haircut.steps], [cut for _, cut in haircut.steps]
    rising = all(low < high for low, high in zip([0.0, *edges], edges, strict=False))
    if not (edges and rising and edges[-1] == float("inf")):
        raise ValueError(f"upper edges of a haircut must rise from above 0 to infinity, were {edges}")
    if not all(0 <= cut <= 1 for cut in cuts) or cuts != sorted(cuts):
        raise ValueError(f"haircuts must be in [0, 1] and not fall with size, were {cuts}")
    return haircut


def collateral_usd(amount: pl.Expr, price: pl.Expr, haircut: Haircut = NO_HAIRCUT) -> pl.Expr:
    """USD that an amount of one asset counts for in the equity of an account.

        gross = amount * price
        out   = sum over steps k of (part of gross in (upper_{k-1}, upper_k]) * (1 - haircut_k), the first from 0
        out   = gross for a debt

    Float64; null where amount or price is null, and NaN is NaN: the caller decides what the unknown is worth. Raises
    ValueError for a haircut whose steps make no sense.

    >>> steps = Haircut(((100_000.0, 0.05), (float("inf"), 0.2)))
    >>> [pl.select(collateral_usd(pl.lit(a), pl.lit(2_000.0), steps)).item() for a in (10.0, 100.0, -10.0)]
    [19000.0, 175000.0, -20000.0]
    """
    gross = amount * price
    lower, counted = 0.0, pl.lit(0.0)
    for upper, cut in checked_haircut(haircut).steps:
        counted += (gross.clip(lower, upper) - lower) * (1.0 - cut)
        lower = upper
    return pl.when(gross < 0).then(gross).otherwise(counted)
