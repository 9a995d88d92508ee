"""Funding a year and basis against hand arithmetic."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.funding import annual_compounded, annual_simple, basis, funding_usd


def test_a_basis_point_per_eight_hours() -> None:
    """1 095 intervals a year: .0001 * 1 095 = 10.95 %; 1.0001 ** 1 095 - 1 = 11.5714 %."""
    rate, hours = pl.lit(0.0001), pl.lit(8.0)
    assert pl.select(annual_simple(rate, hours)).item() == pytest.approx(0.1095, rel=1e-9)
    assert pl.select(annual_compounded(rate, hours)).item() == pytest.approx(0.115714, abs=5e-7)


@given(st.floats(-0.01, 0.01), st.sampled_from([1.0, 4.0, 8.0]))
def test_compounding_is_repeated_interest_and_never_less_than_simple(rate: float, hours: float) -> None:
    compounded = pl.select(annual_compounded(pl.lit(rate), pl.lit(hours))).item()
    assert compounded == pytest.approx((1 + rate) ** (8_760 / hours) - 1, rel=1e-9, abs=1e-10)
    assert compounded >= pl.select(annual_simple(pl.lit(rate), pl.lit(hours))).item() - 1e-12


def test_the_smallest_rates_keep_their_digits() -> None:
    assert pl.select(annual_compounded(pl.lit(1e-14), pl.lit(8.0))).item() == pytest.approx(1.095e-11, rel=1e-9, abs=0)


def test_longs_pay_a_positive_rate_and_shorts_receive_it() -> None:
    """2 units at 50 000 and .01 %: 10 dollars."""
    got = pl.select(funding_usd(pl.Series([2.0, -2.0]), pl.lit(50_000.0), pl.lit(0.0001))).to_series()
    assert got.to_list() == [pytest.approx(-10.0), pytest.approx(10.0)]


def test_basis_is_relative_to_the_index() -> None:
    """(99.5 - 100) / 100 = -.005, not / 99.5; null without an index."""
    frame = pl.DataFrame({"perp": [99.5, 101.0], "index": [100.0, None]})
    assert frame.select(basis(pl.col("perp"), pl.col("index"))).to_series().to_list() == [pytest.approx(-0.005), None]
