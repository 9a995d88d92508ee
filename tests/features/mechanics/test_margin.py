"""Margin over random accounts: the trip price is a root, margin is convex, legs have no order; and worked examples."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.margin import (
    Tier,
    bankruptcy_price,
    deductions_usd,
    fillable_price,
    maintenance_usd,
    peg_surcharge,
    scaled_initial_rate,
    size_premium_rate,
    trip_price,
)

EDGES = [50e3, 600e3, 3e6, 12e6, 70e6, 100e6, 230e6, 480e6, 600e6, 800e6, 1.2e9, 1.8e9]
RATES = [0.004, 0.005, 0.0065, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.15, 0.25, 0.5]
BTC = tuple(Tier(rate, cut) for rate, cut in zip(RATES, deductions_usd(EDGES, RATES), strict=True))


def need(notional_usd: float) -> float:
    """Maintenance by walking the brackets like a tax table: each slice at its own rate."""
    total, lower = 0.0, 0.0
    for edge, rate in zip([*EDGES[:-1], float("inf")], RATES, strict=True):
        total += max(min(notional_usd, edge) - lower, 0.0) * rate
        lower = edge
    return total


@given(st.floats(0.0, 3e9))
def test_maintenance_is_the_sum_of_slices_at_their_own_rates(notional: float) -> None:
    assert pl.select(maintenance_usd(pl.lit(notional), BTC)).item() == pytest.approx(need(notional), rel=1e-9, abs=1e-6)


@given(st.floats(0.0, 2e9), st.floats(0.0, 2e9), st.floats(0.0, 1.0))
def test_margin_is_monotone_and_convex_in_size(a: float, b: float, share: float) -> None:
    between = share * a + (1 - share) * b
    low, middle, high = pl.select(maintenance_usd(pl.Series([min(a, b), between, max(a, b)]), BTC)).to_series()
    assert low <= middle + 1e-6
    assert middle <= high + 1e-6
    chord = share * need(a) + (1 - share) * need(b)
    assert middle <= chord * (1 + 1e-12) + 1e-6


def accounts(seed: int, count: int) -> pl.DataFrame:
    """Accounts of three legs, long and short, 10 thousand to a billion dollars each; equity between ruin and plenty."""
    rng = np.random.default_rng(seed)
    qty = rng.choice([-1.0, 1.0], (count, 3)) * 10 ** rng.uniform(4, 9, (count, 3)) / 60_000.0
    gross = np.abs(qty).sum(axis=1) * 60_000.0
    frame = pl.DataFrame({"account": np.arange(count), "equity_usd": gross * rng.uniform(0.002, 0.9, count)})
    legs = pl.DataFrame({"account": np.repeat(np.arange(count), 3), "qty": qty.ravel(), "price": 60_000.0})
    own = maintenance_usd(pl.col("qty").abs() * pl.col("price"), BTC)
    legs = legs.with_columns(own.alias("own_usd"))
    other = pl.col("own_usd").sum().over("account") - pl.col("own_usd")
    return legs.join(frame, on="account").with_columns(other.alias("other_usd"))


def test_the_trip_price_of_any_leg_of_any_account_is_a_root() -> None:
    """Residual of equity(P) - MM(P) below 1e-9 of equity at the mark, in every tier, long and short."""
    columns = ("qty", "price", "equity_usd", "other_usd")
    legs = accounts(4, 4_000).with_columns(trip_price(*(pl.col(c) for c in columns), BTC).alias("trip"))
    then = pl.col("equity_usd") + pl.col("qty") * (pl.col("trip") - pl.col("price"))
    needed = pl.col("other_usd") + maintenance_usd(pl.col("qty").abs() * pl.col("trip"), BTC)
    legs = legs.with_columns(((then - needed) / pl.col("equity_usd")).alias("residual"))
    tripping = legs.filter(pl.col("trip") > 0)
    assert tripping.height > 8_000
    assert {-1.0, 1.0} == set(tripping["qty"].sign())
    assert tripping["residual"].abs().max() < 1e-9
    never, whatever = (legs.filter((pl.col("trip") == 0) & (pl.col("qty").sign() == sign)) for sign in (1, -1))
    assert min(never.height, whatever.height) > 10
    assert never["residual"].min() >= 0  # no fall can trip these longs
    assert whatever["residual"].max() <= 0  # no fall can save these shorts


def test_the_trip_price_does_not_depend_on_the_order_of_tiers() -> None:
    columns = ("qty", "price", "equity_usd", "other_usd")
    legs = accounts(5, 200)
    one, two = (legs.select(trip_price(*(pl.col(c) for c in columns), t)).to_series() for t in (BTC, BTC[::-1]))
    assert one.equals(two)


@given(st.sampled_from([-1.0, 1.0]), st.floats(0.01, 50.0), st.floats(0.02, 0.5), st.floats(10.0, 200.0))
def test_an_isolated_position_trips_where_the_venue_says(
    side: float, size: float, share: float, leverage: float
) -> None:
    """price - side * margin_available / size / (1 - l * side), margin available = margin - l * notional."""
    price, rate = 100_000.0, 1 / leverage
    margin = share * size * price
    available = margin - rate * size * price
    published = price - side * available / size / (1 - rate * side)
    leg = (pl.lit(side * size), pl.lit(price), pl.lit(margin), pl.lit(0.0))
    assert pl.select(trip_price(*leg, (Tier(rate, 0.0),))).item() == pytest.approx(published, rel=1e-9)


def test_the_small_leg_takes_most_of_the_room() -> None:
    """Equity 5 on 100: alone (100 - 5) / .996 = 95.381526, 4.6 % away; with another need of 4, 99 / .996: 0.6 %."""
    legs = pl.DataFrame({"other": [0.0, 4.0]})
    leg = (pl.lit(1.0), pl.lit(100.0), pl.lit(5.0), pl.col("other"))
    alone, both = legs.select(trip_price(*leg, (Tier(0.004, 0.0),))).to_series()
    assert (1 - alone / 100, 1 - both / 100) == (pytest.approx(0.0462, abs=5e-5), pytest.approx(0.0060, abs=5e-5))


@pytest.mark.parametrize(
    ("equity", "want"),
    [
        (499.0, 49_999.0),  # abr = 1 - 499/500 = .002; 50 000 * (1 - .002 * .1 * .1) = 49 999
        (0.0, 49_500.0),  # abr 1: 50 000 * (1 - .01)
        (-400.0, 49_500.0),  # never more than that
        (600.0, 50_000.0),  # not breached: no discount
    ],
)
def test_the_fillable_price_falls_with_equity_to_a_floor(equity: float, want: float) -> None:
    assert fillable_price(0.1, 50_000, 0.1, equity, 500, spread=0.1, adjustment=1) == pytest.approx(want, rel=1e-9)


def test_a_shorts_fillable_price_is_above_the_mark() -> None:
    """abr .002 as above: 50 000 * (1 + .002 * .1 * .1)."""
    assert fillable_price(-0.1, 50_000, 0.1, 499, 500, spread=0.1, adjustment=1) == pytest.approx(50_001, rel=1e-9)


def test_bankruptcy_of_the_worked_account_leg_by_leg() -> None:
    """0.004 BTC at 50 000 and 0.1 ETH at 3 000, cash -490, both 10 %: notional 200 + 300, equity 10, MM 20 + 30 = 50.

    ETH: share 10 * 30/50 = 6, so bankrupt at a notional of 294, a price of 2 940. BTC: 10 * 20/50 = 4: 196, 49 000.
    """
    eth = bankruptcy_price(0.1, 3_000, 0.1, 10, 50)
    btc = bankruptcy_price(0.004, 50_000, 0.1, 10, 50)
    assert (eth, 0.1 * eth, btc) == (pytest.approx(2_940), pytest.approx(294), pytest.approx(49_000))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1.0, 1e5)), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_legs_closed_at_their_bankruptcy_prices_use_up_the_equity(
    legs: list[tuple[float, float]], equity: float
) -> None:
    held = [(qty, price) for qty, price in legs if abs(qty) > 1e-3] or [(1.0, 100.0)]
    maintenance = sum(abs(qty) * price * 0.05 for qty, price in held)
    lost = sum(qty * (bankruptcy_price(qty, price, 0.05, equity, maintenance) - price) for qty, price in held)
    assert lost == pytest.approx(-equity, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("oi_usd", "want"),
    [
        (0.5e6, 0.2),
        (1e6, 0.2),
        (1.5e6, 0.6),  # halfway between the caps: .2 + .5 * .8
        (2e6, 1.0),
        (9e6, 1.0),
    ],
)
def test_initial_margin_grows_with_open_interest(oi_usd: float, want: float) -> None:
    assert scaled_initial_rate(0.2, oi_usd, 1e6, 2e6) == pytest.approx(want)


@pytest.mark.parametrize(
    ("price", "want"),
    [(1.0, 0.0), (0.99, 0.0), (0.98, 0.04), (0.95, 0.16)],  # 4 * (.99 - .95) = .16
)
def test_a_lost_peg_raises_initial_margin(price: float, want: float) -> None:
    assert peg_surcharge(price) == pytest.approx(want)


def test_the_size_premium_starts_where_the_base_rate_ends() -> None:
    """Rate .1, factor .002: (.2 * .1 / .002) ** 2 = 100 units; at 400: .08 + .002 * 20 = .12; shorts the same."""
    got = pl.select(size_premium_rate(0.1, pl.Series([0.0, 100.0, 400.0, -400.0, None]), 0.002)).to_series()
    assert got.to_list() == [0.1, pytest.approx(0.1), pytest.approx(0.12), pytest.approx(0.12), None]


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_initial_margin_with_a_size_premium_is_monotone_and_convex(a: float, b: float) -> None:
    sizes = pl.Series([min(a, b), (a + b) / 2, max(a, b)])
    low, middle, high = (sizes * pl.select(size_premium_rate(0.05, sizes, 0.001)).to_series()).to_list()
    assert low <= middle <= high
    assert middle <= (low + high) / 2 * (1 + 1e-12)
