"""What an interval shows that is worth telling: columns in, alerts out."""

from typing import Any

import pytest

from pipelines.alerting import seen
from pipelines.alerting.alert import CRITICAL, INFO, WARNING
from tests.pipelines.alerting.letters import at
from tests.pipelines.alerting.worlds import VENUE, decision, limit, score, span, state, table


def shown(*rows: dict[str, Any], held: tuple[tuple[str, str, str], ...] = (), end: float = 60) -> seen.Sight:
    return seen.breakers(table("decisions", rows), table("guard_state", state(end, *held)), at(end))


def test_a_breaker_that_opened_lasts_and_says_what_a_desk_asks() -> None:
    found = shown(decision(20, "AAA", "closed", "open", "reduce_only"), held=(("AAA", "price_band", "open"),))
    (one,) = found.alerts
    assert found.in_force == {"breaker/testex/AAA/price_band"}
    assert (one.key, one.since, one.until, one.severity) == (
        "breaker/testex/AAA/price_band", at(20), None, WARNING)  # fmt: skip
    assert (one.seen, one.limit) == ("price moved -7.2 % against its 5-min mean", "band is 5.0 %")
    assert one.allowed == "new positions are paused (no new positions)"
    assert one.clears == "after 10 min within 2.5 %, then 5 min of probation"
    assert one.look == "cascadeguard explain AAA-price_band-20"


def test_probation_and_a_second_breach_belong_to_the_same_spell() -> None:
    rows = (
        decision(20, "AAA", "closed", "open", "reduce_only"),
        decision(30, "AAA", "open", "half_open", "cautious"),
        decision(32, "AAA", "half_open", "open", "halted"),
        decision(40, "AAA", "open", "half_open", "cautious"),
    )
    (one,) = shown(*rows).alerts
    assert (one.since, one.until, one.severity, one.state) == (at(20), None, INFO, "cautious")


def test_a_spell_that_is_over_shows_its_strictest_decision_and_when_it_ended() -> None:
    rows = (
        decision(20, "AAA", "closed", "open", "reduce_only"),
        decision(25, "AAA", "open", "open", "halted"),
        decision(40, "AAA", "open", "half_open", "cautious"),
        decision(45, "AAA", "half_open", "closed", "normal"),
    )
    (one,) = shown(*rows).alerts
    assert (one.since, one.until, one.severity) == (at(20), at(45), CRITICAL)
    assert one.look == "cascadeguard explain AAA-price_band-25"


def test_only_the_newest_of_several_spells_is_shown() -> None:
    rows = [decision(m, "AAA", a, b, "halted" if m == 5 else "reduce_only") for m, a, b in
            ((5, "closed", "open"), (15, "open", "closed"), (40, "closed", "open"))]  # fmt: skip
    (one,) = shown(*rows).alerts
    assert (one.since, one.until, one.severity) == (at(40), None, WARNING)


def test_a_spell_that_began_before_the_first_row_counts_from_now() -> None:
    (one,) = shown(decision(40, "AAA", "open", "half_open", "cautious")).alerts
    assert one.since == at(60)


@pytest.mark.parametrize(
    ("symbol", "action", "severity"),
    [
        ("AAA", "cautious", INFO),
        ("AAA", "reduce_only", WARNING),
        ("AAA", "halted", CRITICAL),
        ("*", "cautious", CRITICAL),
    ],
)
def test_severity_follows_the_ladder_and_the_venue_as_a_whole_is_critical(
    symbol: str, action: str, severity: int
) -> None:
    (one,) = shown(decision(20, symbol, "closed", "open", action, "outage" if symbol == "*" else "price_band")).alerts
    assert one.severity == severity


def test_a_missing_input_is_no_breach() -> None:
    rows = (decision(20, "AAA", "closed", "missing", "cautious"), decision(30, "AAA", "missing", "closed", "normal"))
    assert shown(*rows).alerts == ()


def test_a_persons_reset_is_told_from_the_clocks() -> None:
    opened = decision(20, "AAA", "closed", "open", "halted", reset_authority="person")
    freed = decision(50, "AAA", "open", "half_open", "cautious", reset_authority="person")
    assert shown(opened, freed).alerts[0].state == seen.RESET_STATE
    assert shown(opened, freed | {"reset_authority": "timer"}).alerts[0].state == "cautious"


def test_without_a_state_of_the_guard_nothing_may_be_called_gone() -> None:
    assert seen.breakers(table("decisions", ()), table("guard_state", ()), at(5)).in_force is None


# --- episodes


def episodes(*rows: dict[str, Any], end: float = 120, start: float = 60) -> seen.Sight:
    return seen.alert_episodes(table("scores", rows), span(start, end), 30, 0.5, 2.0)


def test_an_episode_is_open_while_a_next_alert_would_still_belong_to_it() -> None:
    quiet = [score(m, "AAA") for m in range(61, 121)]
    (one,) = episodes(*quiet, score(91, "BBB", alert=True)).alerts  # 91 > 120 - 30
    assert (one.key, one.since, one.until) == ("episode/testex/BBB", at(91), None)
    (one,) = episodes(*quiet, score(89, "BBB", alert=True), score(80, "BBB", alert=True)).alerts
    assert (one.since, one.until) == (at(80), at(89))


def test_alerts_just_before_the_interval_belong_to_the_episode() -> None:
    (one,) = episodes(score(45, "AAA", alert=True), score(70, "AAA", alert=True), score(95, "AAA", alert=True)).alerts
    assert (one.since, one.until) == (at(45), None)


@pytest.mark.parametrize(
    ("symbol", "more", "severity"),
    [
        ("AAA", {"anomaly": 3.9}, INFO),  # 3.9 / 2 is below twice the threshold
        ("AAA", {"anomaly": 4.0}, WARNING),
        ("*", {"anomaly": 2.1}, WARNING),
        ("AAA", {"p_60m": 0.3, "p_threshold": 0.25}, WARNING),
        ("AAA", {"p_60m": 0.2, "p_threshold": 0.25}, INFO),
        ("AAA", {"p_60m": 0.5, "p_threshold": 0.25}, CRITICAL),
        ("AAA", {"p_60m": 0.6, "p_threshold": 0.7}, INFO),
        ("AAA", {"anomaly": None}, INFO),
    ],
)
def test_severity_follows_the_anomaly_and_the_chance(symbol: str, more: dict[str, Any], severity: int) -> None:
    (one,) = episodes(score(100, symbol, alert=True, **more)).alerts
    assert one.severity == severity


def test_an_interval_that_was_not_scored_says_nothing_of_episodes() -> None:
    assert episodes(score(50, "AAA", alert=True)) == seen.Sight((), None)


# --- data and runs


def test_a_data_fault_counts_from_its_unbroken_run() -> None:
    rows = [limit(m, "AAA", missing="depth missing" if m in (1, 2, 4, 5) else None) for m in range(1, 6)]
    (one,) = seen.data_faults(table("limits", rows), VENUE, span(0, 5)).alerts
    assert (one.key, one.since, one.severity, one.seen) == ("data/testex/AAA", at(4), INFO, "depth missing")


def test_a_fault_that_is_over_at_the_end_is_no_news() -> None:
    rows = [limit(m, "AAA", missing="depth missing" if m < 5 else None) for m in range(1, 6)]
    assert seen.data_faults(table("limits", rows), VENUE, span(0, 5)) == seen.Sight((), frozenset())


def test_no_price_at_all_is_a_warning_and_no_limits_at_all_are_critical() -> None:
    blocked = limit(
        5, "AAA", blocked="raise leverage, open, reduce, liquidate, loosen", blocked_why="there is no price"
    )
    (one,) = seen.data_faults(table("limits", [blocked]), VENUE, span(0, 5)).alerts
    assert (one.severity, one.why) == (WARNING, "there is no price")
    milder = limit(5, "AAA", blocked="raise leverage, loosen", blocked_why="stale")
    assert seen.data_faults(table("limits", [milder]), VENUE, span(0, 5)).alerts[0].severity == INFO
    (one,) = seen.data_faults(table("limits", []), VENUE, span(0, 5)).alerts
    assert (one.severity, one.key) == (CRITICAL, "data/testex/*/limits")


@pytest.mark.parametrize(("done", "severity"), [(20, None), (20.1, WARNING), (65, WARNING), (65.1, CRITICAL)])
def test_late_is_more_than_the_lag_that_is_allowed(done: float, severity: int | None) -> None:
    found = seen.late(VENUE, span(0, 5), at(done), 15)  # 5 + 15 = 20, 5 + 4 x 15 = 65
    assert [one.severity for one in found.alerts] == ([] if severity is None else [severity])


def test_failures_in_a_row_become_critical() -> None:
    assert [seen.failed(VENUE, span(0, 5), "no disk", count, 3).severity for count in (1, 2, 3)] == [1, 1, 2]
