"""Decision value by hand: what hits save, what acting on alerts costs, and where the two meet."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from models.evaluation.decision import Costs, break_even_usd, of_history, of_loop

T0 = datetime(2025, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
COSTS = Costs(restricted_min_usd=2.0, event_usd=1_000.0, avoided_share=0.5, action_min=30)
SURE = {"replicates": 400, "seed": 1, "confidence": 0.95}
DAYS = pl.Series([date(2025, 1, 1), date(2025, 1, 2), date(2025, 1, 3)])


def stamps(*minutes: float) -> pl.Series:
    return pl.Series([T0 + timedelta(minutes=m) for m in minutes], dtype=TIME)


EVENTS = pl.DataFrame(
    {"onset": stamps(100, 1500, 3000), "outcome": ["hit", "late", "hit"], "severity": [2.0, 4.0, 6.0]}
)
EPISODES = pl.DataFrame({"start": stamps(60, 2000), "end": stamps(80, 2000)})


def test_history_by_hand() -> None:
    """Weights 2 / 4 and 6 / 4 of the two hits: 2 of .5 x 1000 are avoided; (20 + 30) + 30 minutes cost 2 each."""
    found = of_history(EVENTS, EPISODES, DAYS, COSTS, **SURE)
    assert found is not None
    assert found["avoided_usd"] == pytest.approx(0.5 * 1_000 * (0.5 + 1.5))
    assert (found["restricted_min"], found["restriction_usd"]) == (80.0, 160.0)
    assert found["value_usd"] == pytest.approx(1_000 - 160)
    assert found["break_even_min"] == pytest.approx(80 / (0.5 * 2))  # 2 hits' worth of events, half of each avoided


def test_its_interval_is_that_of_days_drawn_again() -> None:
    """Days are worth 250 - 100, -60 and 750: three alike draws of one day bound every replicate."""
    low, high = of_history(EVENTS, EPISODES, DAYS, COSTS, **SURE)["value_usd_ci"]  # type: ignore[index]
    assert 3 * -60 <= low < 840 < high <= 3 * 750
    one = of_history(EVENTS, EPISODES, DAYS[:1], COSTS, **SURE)
    assert one is not None
    assert one["value_usd_ci"] == (one["value_usd"], one["value_usd"])  # one day: nothing to draw


def test_without_a_known_severity_events_weigh_alike() -> None:
    for events in (EVENTS.drop("severity"), EVENTS.with_columns(severity=pl.lit(None, pl.Float64))):
        found = of_history(events, EPISODES, DAYS, COSTS, **SURE)
        assert found is not None
        assert found["avoided_usd"] == pytest.approx(0.5 * 1_000 * 2)


def test_never_alerting_is_worth_nothing_and_has_no_break_even() -> None:
    missed = EVENTS.with_columns(outcome=pl.lit("miss"))
    found = of_history(missed, EPISODES.clear(), DAYS, COSTS, **SURE)
    assert found is not None
    assert (found["value_usd"], found["restricted_min"], found["break_even_min"]) == (0.0, 0.0, None)
    assert of_history(EVENTS, EPISODES, DAYS.clear(), COSTS, **SURE) is None


def test_at_its_break_even_the_value_is_zero() -> None:
    at = of_history(EVENTS, EPISODES, DAYS, COSTS, **SURE)["break_even_min"]  # type: ignore[index]
    priced = Costs(restricted_min_usd=2.0, event_usd=2.0 * at, avoided_share=0.5, action_min=30)
    assert of_history(EVENTS, EPISODES, DAYS, priced, **SURE)["value_usd"] == pytest.approx(0.0)  # type: ignore[index]


def test_a_closed_loop_by_hand() -> None:
    """10 000 less liquidated at 1 %, 50 less bad debt at 1, 1 000 more deleveraged at 1 %; 40 minutes at 10, and 2 000
    refused at 0.05 %. A draw on the fund is part of the bad debt and is not counted again.
    """
    without = {"liquidated_usd": 30_000.0, "adl_usd": 0.0, "bad_debt_usd": 80.0, "fund_draw_usd": 70.0}
    present = {"liquidated_usd": 20_000.0, "adl_usd": 1_000.0, "bad_debt_usd": 30.0, "fund_draw_usd": 0.0}
    nothing = {"restricted_min": 0.0, "refused_usd": 0.0}
    avoided, restraint = of_loop(present | {"restricted_min": 40.0, "refused_usd": 2_000.0}, without | nothing, Costs())
    assert (avoided, restraint) == pytest.approx((100 + 50 - 10, 400 + 1))
    # (140 - 1) / 40 a minute; an arm that adds no minute has no price to state
    assert break_even_usd(avoided, 2_000.0, 40.0, Costs()) == pytest.approx(139 / 40)
    assert break_even_usd(avoided, 2_000.0, 0.0, Costs()) is None


def test_prices_that_are_none_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"`adl_share` must be at least 0.*`avoided_share` must be at most 1, was 2"):
        Costs(adl_share=-1.0, avoided_share=2.0)
    with pytest.raises(ValueError, match="`event_usd`"):
        Costs(event_usd=float("nan"))
