"""Collateral against hand arithmetic, and what adding collateral may never do."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.collateral import NO_HAIRCUT, collateral_usd
from features.mechanics.profile import Haircut

INF = float("inf")
FLAT = Haircut(((INF, 0.1),))
STEPS = Haircut(((100_000.0, 0.05), (1_000_000.0, 0.2), (INF, 1.0)))


@pytest.mark.parametrize(
    ("amount", "price", "haircut", "want"),
    [
        (2.0, 3_000.0, NO_HAIRCUT, 6_000.0),
        (2.0, 3_000.0, FLAT, 5_400.0),  # 6 000 * .9
        (-2.0, 3_000.0, FLAT, -6_000.0),  # a debt counts whole
        (0.0, 3_000.0, FLAT, 0.0),
        (50.0, 2_000.0, STEPS, 95_000.0),  # 100 000 * .95, the edge belongs to the first step
        (100.0, 2_000.0, STEPS, 175_000.0),  # 95 000 + 100 000 * .8
        (2_000.0, 2_000.0, STEPS, 815_000.0),  # 95 000 + 900 000 * .8; what is above a million counts nothing
        (-100.0, 2_000.0, STEPS, -200_000.0),
        (None, 2_000.0, STEPS, None),
        (1.0, None, FLAT, None),
    ],
)
def test_what_an_asset_counts_for(amount: float | None, price: float | None, haircut: Haircut, want: float) -> None:
    frame = pl.DataFrame({"amount": [amount], "price": [price]}, schema={"amount": pl.Float64, "price": pl.Float64})
    got = frame.select(collateral_usd(pl.col("amount"), pl.col("price"), haircut)).item()
    assert got is None if want is None else got == pytest.approx(want, rel=1e-12)


def test_an_amount_that_is_no_number_counts_as_no_number() -> None:
    assert pl.select(collateral_usd(pl.lit(float("nan")), pl.lit(1.0), STEPS).is_nan()).item()


@given(st.floats(-1e7, 1e7), st.floats(0.0, 1e7))
def test_more_collateral_never_counts_less_and_never_more_than_it_is(amount: float, more: float) -> None:
    amounts = pl.Series([amount, amount + more])
    less, all_of_it = pl.select(collateral_usd(amounts, pl.lit(1.0), STEPS)).to_series()
    assert less <= all_of_it
    assert all_of_it - less <= (amounts[1] - amounts[0]) * (1 + 1e-9) + 1e-6


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((), "rise from above 0 to infinity"),
        (((100.0, 0.1),), "to infinity"),
        (((100.0, 0.1), (50.0, 0.2), (INF, 0.3)), "rise"),
        (((0.0, 0.1), (INF, 0.3)), "above 0"),
        (((INF, 1.2),), r"in \[0, 1\]"),
        (((INF, float("nan")),), r"in \[0, 1\]"),
        (((100.0, 0.2), (INF, 0.1)), "not fall with size"),
    ],
)
def test_haircuts_that_make_no_sense_are_refused(steps: tuple[tuple[float, float], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collateral_usd(pl.lit(1.0), pl.lit(1.0), Haircut(steps))
