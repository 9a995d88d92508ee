"""Funding and basis: what it costs to stay in a perpetual, and how far it stands from its index."""

import polars as pl

HOURS_PER_YEAR = 8_760.0


def annual_simple(rate: pl.Expr, interval_h: pl.Expr, year_h: float = HOURS_PER_YEAR) -> pl.Expr:
    """A funding rate per interval as a rate a year, without interest on it: `rate * year / interval`.

    >>> round(pl.select(annual_simple(pl.lit(0.0001), pl.lit(8.0))).item(), 6)
    0.1095
    """
    return rate * (year_h / interval_h)


def annual_compounded(rate: pl.Expr, interval_h: pl.Expr, year_h: float = HOURS_PER_YEAR) -> pl.Expr:
    """A funding rate per interval as a rate a year, reinvested: `(1 + rate) ** (year / interval) - 1`.

    Computed as `expm1(log1p(rate) * year / interval)` so that small rates keep their digits. NaN below a rate of -1.

    >>> round(pl.select(annual_compounded(pl.lit(0.0001), pl.lit(8.0))).item(), 6)
    0.115714
    """
    grown = rate.log1p() * (year_h / interval_h)
    half = grown / 2
    return 2 * half.exp() * half.sinh()  # expm1, which polars lacks


def funding_usd(qty: pl.Expr, mark: pl.Expr, rate: pl.Expr) -> pl.Expr:
    """USD that a position receives at a funding time: `-qty * mark * rate`; longs pay a positive rate.

    >>> pl.select(funding_usd(pl.lit(2.0), pl.lit(50_000.0), pl.lit(0.0001))).item()
    -10.0
    """
    return -qty * mark * rate


def basis(perp: pl.Expr, index: pl.Expr) -> pl.Expr:
    """How dear the perpetual is: `(perp - index) / index`.

    >>> round(pl.select(basis(pl.lit(100.5), pl.lit(100.0))).item(), 9)
    0.005
    """
    return (perp - index) / index
