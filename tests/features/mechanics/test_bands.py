"""Bands: known liquidation prices, what mark rules and paths add, and parts that sum to the difference."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.mechanics.bands import Position, Scenario, band, bankruptcy_price, exit_price, liquidation_price
from features.mechanics.margin import Tier
from features.mechanics.mark_lag import touch_s
from features.mechanics.profile import Fees, Latency, MarkRule, Path, Profile
from features.mechanics.why import PARTS, explain

FORTY = (Tier(1 / 80, 0.0),)  # maintenance at 40x: half of the initial margin


def venue(name: str = "venue", **changes: object) -> Profile:
    plain = Profile(
        name, datetime(2025, 1, 1, tzinfo=UTC), MarkRule("last"), Path("market"), Fees(0.0, 0.0), {"*": FORTY}
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields by name


def long_one(margin: float = 5_000.0, **changes: float) -> Position:
    return replace(Position("BTC", 1.0, 100_000.0, margin, 100_000.0), **changes)  # type: ignore[arg-type]


CALM = Scenario(fall_per_min=0.01, local_share=0.0)


def test_one_btc_at_20x_is_liquidated_at_96_202_53_and_bankrupt_at_95_000() -> None:
    # 100 000 - 5 000 margin; (100 000 - 5 000) / (1 - 1 / 80) = 96 202.5316
    found = band(long_one(), venue(), CALM)
    assert found.liquidation_price == pytest.approx(96_202.5316, abs=5e-5)
    assert found.bankruptcy_price == pytest.approx(95_000.0, rel=1e-12)
    assert found.market_price == pytest.approx(found.liquidation_price, rel=1e-9)  # `last` does not lag
    assert found.exit_price == pytest.approx(found.liquidation_price, rel=1e-9)  # no depth, no fees
    assert not found.breached


def test_a_short_is_the_mirror_image() -> None:
    # 5x short at 10, maintenance 1 % less .01: equity 2 + 10 - P = .01 P - .01  ->  P = 12.01 / 1.01 = 11.8910891
    short = Position("X", -1.0, 10.0, 2.0, 10.0)
    found = band(short, venue(tiers={"*": (Tier(0.01, 0.01),)}), CALM)
    assert found.liquidation_price == pytest.approx(11.89108910891089, rel=1e-12)
    assert found.bankruptcy_price == pytest.approx(12.0)
    assert found.time_to_touch_s is not None
    assert found.time_to_touch_s["q05"] > 0


def test_another_leg_brings_liquidation_nearer_and_takes_its_share_of_the_equity() -> None:
    # MECHANICS of margin: mark 100, equity 5, rate .004: 95.381526 alone, 99.397590 beside a leg that needs 4.
    thin = venue(tiers={"*": (Tier(0.004, 0.0),)})
    alone = Position("A", 1.0, 100.0, 5.0, 100.0)
    beside = replace(alone, other_maintenance_usd=4.0)
    assert liquidation_price(alone, thin) == pytest.approx(95.381526, abs=5e-7)
    price = liquidation_price(beside, thin)
    assert price == pytest.approx(99.397590, abs=5e-7)
    # Own maintenance .39759 of 4.39759; equity there 4.39759: the leg's share is .39759.
    assert bankruptcy_price(beside, thin, price) == pytest.approx(price - 0.004 * price, rel=1e-9)


def test_time_to_touch_is_a_first_passage() -> None:
    # 2 % away at sigma .8: 5 131, 14 895, 43 325 s
    two_percent = Position("A", 1.0, 100.0, 100.0 - 98.0 * (1 - 1 / 80), 100.0)
    found = band(two_percent, venue(), Scenario(sigma_year=0.8))
    assert found.liquidation_price == pytest.approx(98.0)
    assert found.time_to_touch_s is not None
    assert [round(time) for time in found.time_to_touch_s.values()] == [5_131, 14_895, 43_325]
    longer = band(two_percent, venue(year_days=365.25), Scenario(sigma_year=0.8))
    assert longer.time_to_touch_s is not None
    assert longer.time_to_touch_s["q50"] == pytest.approx(found.time_to_touch_s["q50"] * 365.25 / 365)


def test_a_position_over_the_line_is_liquidatable_now() -> None:
    found = band(long_one(margin=1_000.0), venue(), CALM)  # needs 1 250
    assert found.breached
    assert found.time_to_touch_s == {"q05": 0.0, "q25": 0.0, "q50": 0.0}
    assert found.market_price == 100_000.0


def test_a_long_that_is_paid_in_full_is_never_liquidated() -> None:
    found = band(long_one(margin=120_000.0), venue(), CALM)
    assert (found.liquidation_price, found.exit_price, found.time_to_touch_s, found.completion_s) == (None,) * 4
    why = explain(long_one(margin=120_000.0), venue("b"), venue("a"), CALM)
    assert why.parts is None
    assert why.sentence == "No move can make b and a liquidate this position: nothing to compare."


def test_pressure_lies_before_liquidation_by_the_buffer() -> None:
    found = band(long_one(), venue(buffer=0.02), CALM)
    # 95 000 / (1 - .0125 * 1.02)
    assert found.pressure_price == pytest.approx(95_000 / (1 - 0.01275), rel=1e-12)


def test_an_index_mark_comes_later_by_the_local_share() -> None:
    # The mark has to fall by w; the index falls 1 - .2 as fast as the book: the book is at w / .8.
    found = band(long_one(), venue(mark=MarkRule("index")), Scenario(local_share=0.2))
    way = 1 - found.liquidation_price / 100_000
    assert found.market_price == pytest.approx(100_000 * (1 - way / 0.8), rel=1e-9)
    assert found.fall_s == pytest.approx(way / 0.8 / 0.01 * 60)


def test_an_ema_mark_lies_between_last_and_index_by_its_response_to_a_ramp() -> None:
    # mark(t) = 1 - speed * ((1 - s) t + s (t - tau (1 - exp(-t / tau)))); solved by bisection.
    speed, share, tau, way = 0.0002, 0.2, 150.0, 0.04
    low, high = way / speed, way / speed / (1 - share)
    for _ in range(80):
        t = (low + high) / 2
        fallen = speed * ((1 - share) * t + share * (t - tau * (1 - math.exp(-t / tau))))
        low, high = (t, high) if fallen < way else (low, t)
    found = touch_s(MarkRule("index_ema", ema_s=tau), way, speed, share)
    assert found == pytest.approx(low, rel=1e-3)
    assert touch_s(MarkRule("last"), way, speed, share) < found < touch_s(MarkRule("index"), way, speed, share)


def test_a_median_mark_sees_the_mean_of_the_basis() -> None:
    # Index < index + mean basis < last in a fall seen from below: the middle one. Window 60 s, basis s v t:
    # its mean over the window is s v (t - 30): mark = v (t - 30 s).
    speed, share, way = 0.0002, 0.2, 0.04
    assert touch_s(MarkRule("median", basis_window_s=60.0), way, speed, share) == pytest.approx(
        way / speed + 30 * share, rel=1e-3
    )


def test_latency_is_paid_at_the_speed_of_the_fall() -> None:
    slow = venue(latency=Latency(1.0, 2.0, 3.0))
    found, prompt = band(long_one(), slow, CALM), band(long_one(), venue(), CALM)
    assert prompt.market_price - found.market_price == pytest.approx(100_000 * 0.01 / 60 * 6)
    assert (prompt.completion_s, found.completion_s) == (0.0, 6.0)


def test_the_market_path_pays_half_of_its_own_impact() -> None:
    found = band(long_one(), venue(), replace(CALM, depth_usd=1e7))
    notional = found.liquidation_price
    assert found.exit_price == pytest.approx(notional * (1 - notional / (2 * 1e7)), rel=1e-9)  # Q / (2 D)


def test_a_gradual_path_restores_margin_with_less_and_cheaper() -> None:
    steps = Path("gradual", 1.1, {"share": 0.1})
    scenario = replace(CALM, depth_usd=1e7)
    found, whole = band(long_one(), venue(path=steps), scenario), band(long_one(), venue(), scenario)
    assert found.relief_share == pytest.approx(0.1)
    assert whole.relief_share == pytest.approx(1.0)
    assert found.exit_price > whole.exit_price
    assert found.completion_s > found.relief_s == 0.0


def test_a_short_pays_its_costs_above_the_market() -> None:
    short = Position("BTC", -1.0, 100_000.0, 5_000.0, 100_000.0)
    found = band(short, venue(fees=Fees(0.001, 0.0)), replace(CALM, depth_usd=1e8))
    notional = 105_000 / (1 + 1 / 80)  # where 5 000 - (P - 100 000) = P / 80
    assert found.liquidation_price == pytest.approx(notional, rel=1e-12)
    assert found.exit_price == pytest.approx(notional * (1 + notional / 2e8 + 0.001), rel=1e-9)


def test_a_fee_takes_no_more_than_what_is_above_bankruptcy() -> None:
    charged = exit_price(long_one(), venue(fees=Fees(0.0, 0.5)), CALM)
    assert charged == pytest.approx(95_000.0, rel=1e-9)
    capped = exit_price(long_one(), venue(fees=Fees(0.0, 0.5, 100.0)), CALM)
    assert capped == pytest.approx(96_202.5316 - 100, abs=1e-3)


CHANGES = {
    "tiers": {"tiers": {"*": (Tier(0.03, 0.0),)}},
    "mark": {"mark": MarkRule("index"), "latency": Latency(mark_s=3.0)},
    "path": {"path": Path("gradual", 1.1, {"share": 0.1}), "buffer": 0.02},
    "fees": {"fees": Fees(0.0005, 0.001)},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_difference_in_one_part_is_told_as_that_part(part: str) -> None:
    scenario = Scenario(depth_usd=1e7)
    why = explain(long_one(), venue("b", **CHANGES[part]), venue("a"), scenario)
    assert why.parts is not None
    assert why.parts[part] != 0
    assert why.parts[part] == pytest.approx(why.price, rel=1e-9)
    assert [name for name, share in why.parts.items() if abs(share) > 1e-6] == [part]


@given(side=st.sampled_from((1.0, -1.0)), margin=st.floats(4_000, 20_000), qty=st.floats(0.1, 50.0))
@settings(max_examples=15, deadline=None)
def test_parts_sum_to_the_difference(side: float, margin: float, qty: float) -> None:
    position = Position("BTC", side * qty, 100_000.0, margin * qty, 100_000.0)
    other = venue("b", **{field: value for change in CHANGES.values() for field, value in change.items()})
    scenario = Scenario(depth_usd=1e8)
    why = explain(position, other, venue("a"), scenario)
    first, last = (exit_price(position, one, scenario) for one in (venue("a"), other))
    assert sum(why.parts.values()) == pytest.approx(side * (last - first), rel=1e-9, abs=1e-6)
    assert why.usd == pytest.approx(why.price * qty)


@given(margin=st.floats(2_000, 50_000), other=st.floats(0, 500), more=st.floats(1, 500))
@settings(max_examples=50, deadline=None)
def test_more_margin_elsewhere_never_moves_liquidation_away(margin: float, other: float, more: float) -> None:
    position = long_one(margin, other_maintenance_usd=other)
    nearer = replace(position, other_maintenance_usd=other + more)
    assert liquidation_price(nearer, venue()) >= liquidation_price(position, venue())


def test_all_faults_of_a_position_and_a_scenario_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="entry_price") as told:
        Position("A", 0.0, -1.0, float("nan"), 1.0, -3.0)
    for name in ("`entry_price`", "`margin_usd`", "`qty`", "`other_maintenance_usd`"):
        assert name in str(told.value)
    with pytest.raises(ValueError, match="sigma_year") as told:
        Scenario(0.0, -1.0, 1.0, float("nan"))
    for name in ("`fall_per_min`", "`local_share`", "`depth_usd`"):
        assert name in str(told.value)
