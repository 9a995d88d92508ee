"""The report: what it says of a small lake made by hand (tests/pipelines/report_worlds.py)."""

import base64
import html
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import NAMES
from guardrails.decide import RULES
from pipelines.config import Config, DetectorConfig
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.report import write_report
from pipelines.reporting import words
from pipelines.reporting.episodes import alert_episodes
from pipelines.reporting.gather import Material, gather
from pipelines.reporting.health import busiest, health_view
from pipelines.reporting.page import json_for_html, render, script_hash, views
from pipelines.reporting.risk import risk_rows, symbol_states
from pipelines.reporting.rules import first_breaches, in_force
from pipelines.reporting.timeline import Axis, shown
from pipelines.reporting.verdict import guardrail_sentence
from pipelines.times import Interval
from tests.pipelines.report_worlds import MINUTES, NO_MODEL, SPAN, START, VENUE, WHOLE, A, B, World, at, build, rows_of

CONFIG = Config()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return build(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def material(lake: Lake) -> Material:
    return gather(lake, None, None)


@pytest.fixture(scope="module")
def shown_views(material: Material) -> dict[str, Any]:
    return views(material, CONFIG)


def _states(material: Material) -> pl.DataFrame:
    return symbol_states(material, alert_episodes(material.alerts, material.interval, 60))


def _row(rows: list[dict[str, Any]], symbol: str) -> dict[str, Any]:
    return next(row for row in rows if row["symbol"] == symbol)


# What the lake holds


def test_the_interval_is_all_that_is_scored(material: Material) -> None:
    assert (material.venues, material.interval) == ((VENUE,), SPAN)


def test_an_empty_lake_says_which_steps_are_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither scores nor limits.*`cascadeguard score` and `cascadeguard guard`"):
        write_report(Lake(tmp_path), CONFIG, None, None, None)


def test_an_unknown_venue_is_named_with_the_known_ones(lake: Lake) -> None:
    with pytest.raises(InputError, match=rf"elsewhere; it holds: {VENUE}"):
        gather(lake, "elsewhere", None)


def test_an_interval_without_rows_says_what_there_is(lake: Lake) -> None:
    later = Interval(at(MINUTES), at(MINUTES + 10))
    with pytest.raises(InputError, match="it holds 2025-10-10T00:01Z to 2025-10-10T04:00Z"):
        gather(lake, None, later)


def test_one_venue_can_be_chosen(tmp_path: Path) -> None:
    two = build(tmp_path, World(), World(venue="other", a="CCC", b="DDD"))
    chosen = gather(two, "other", None)
    assert chosen.venues == ("other",)
    assert set(chosen.last_limits["symbol"]) == {"CCC", "DDD"}


# Episodes


def test_alerts_closer_than_the_refractory_time_are_one_episode(material: Material) -> None:
    def starts(refractory_min: int) -> list[tuple[str, datetime]]:
        found = alert_episodes(material.alerts, SPAN, refractory_min)
        return [(row["symbol"], row["start"]) for row in found.to_dicts()]

    # 150 -> 205 is 55 minutes
    assert starts(60) == [(B, at(100)), (WHOLE, at(121)), (A, at(121))]
    assert starts(55) == [(B, at(100)), (WHOLE, at(121)), (A, at(121)), (WHOLE, at(205)), (A, at(205))]


def test_the_settings_decide_what_one_episode_is(material: Material) -> None:
    short = Config(detector=DetectorConfig(refractory_min=55))
    assert render(material, short).alerts == 5
    assert render(material, CONFIG).alerts == 3


def test_an_episode_tells_its_first_reasons_its_peak_and_whether_it_is_open(material: Material) -> None:
    found = {row["symbol"]: row for row in alert_episodes(material.alerts, SPAN, 60).to_dicts()}
    assert (found[A]["alerts"], found[A]["ratio_max"], found[A]["open"]) == (30 + 36, 4.0, True)
    assert (found[B]["alerts"], found[B]["ratio_max"], found[B]["open"]) == (5, 2.0, False)
    assert found[A]["reasons"].startswith("crowding 4.4")


def test_an_episode_that_began_before_the_interval_keeps_its_start(lake: Lake) -> None:
    tail = gather(lake, None, Interval(at(210), at(240)))
    found = alert_episodes(tail.alerts, tail.interval, 60)
    assert [(row["symbol"], row["start"]) for row in found.to_dicts()] == [(WHOLE, at(121)), (A, at(121))]


def test_no_alert_gives_no_episode() -> None:
    assert alert_episodes(rows_of(World(), "scores").clear(), SPAN, 60).is_empty()


# Risk


def test_at_risk_are_open_alerts_and_observed_breaches_only(material: Material) -> None:
    states = {row["symbol"]: row for row in _states(material).to_dicts()}
    assert (states[A]["at_risk"], states[A]["since"]) == (True, at(121))  # alert at 121, breach at 125
    assert (states[B]["at_risk"], states[B]["since"]) == (False, None)  # cautious, only because depth is missing


def test_a_breach_without_an_alert_is_a_risk_since_the_breach(tmp_path: Path) -> None:
    unscored = gather(build(tmp_path, World(tables=("limits", "decisions", "bars"))), None, None)
    state = _row(_states(unscored).to_dicts(), A)
    assert (state["at_risk"], state["since"]) == (True, at(125))  # not 142, when it opened again from probation


def test_venues_come_first_and_then_the_most_severe(material: Material) -> None:
    assert _states(material)["symbol"].to_list() == [WHOLE, A, B]


def test_a_row_says_what_is_seen_what_is_allowed_why_and_what_clears_it(material: Material) -> None:
    row = _row(risk_rows(_states(material)), A)
    assert (row["bar"]["width"], row["bar"]["over"], row["bar"]["times"]) == (100.0, True, "4× threshold")
    assert (row["since"], row["cause"]) == ("2025-10-10 02:01Z", "alert")
    assert row["leverage"] == {"hard": "10×", "effective": "5×", "note": "by alert, bounded"}
    assert row["exposure"] == "2,500,000"
    assert (row["kind"], row["kind_since"], row["rule"]) == (
        "observed breach",
        "2025-10-10 02:05Z",
        "price band, 5 min",
    )
    assert row["why"] == "price moved -7.2 % against its 5-min mean; band is 5.0 %; new positions are paused"
    assert row["clears"] == "after 10 min of price_band"
    assert [reason["text"] for reason in row["reasons"]] == [
        "perp 31 bps below spot",
        "price impact 6.3 sd above the usual",
    ]


def test_an_alert_that_fell_silent_says_when_it_last_spoke(lake: Lake) -> None:
    # alerts at 121-150; at 180 the episode is still open and the symbol silent
    silent = gather(lake, None, Interval(START, at(180)))
    row = _row(risk_rows(_states(silent)), A)
    assert (row["since"], row["cause"], row["lead_then"]) == ("2025-10-10 02:01Z", "alert, last 02:30Z", "crowding")
    assert views(silent, CONFIG)["verdict"]["sentences"][0].startswith(
        "In alert as a whole: testex since 2025-10-10 02:01Z (crowding)."
    )


def test_inputs_that_every_symbol_lacks_are_told_once(material: Material) -> None:
    rows = risk_rows(_states(material))
    assert _row(rows, WHOLE)["missing"] == ["funding", "liquidations"]
    assert _row(rows, A)["missing"] == []
    assert _row(rows, B)["missing"] == ["book depth"]


def test_what_a_data_fault_blocks_is_told_once_where_it_is_the_same_in_every_symbol(material: Material) -> None:
    blocked, flow = "raise leverage, loosen: depth is insufficient (floored)", "depth missing; safe side"
    rows = risk_rows(_states(material))
    assert [_row(rows, symbol)["blocked"] for symbol in (WHOLE, A, B)] == ["", "", blocked]
    assert (_row(rows, A)["throttle"], _row(rows, B)["throttle"][: len(flow)]) == ("", flow)
    everywhere = _states(material).with_columns(pl.when(~pl.col("whole_venue")).then(pl.lit(blocked)).alias("blocked"))
    assert [_row(risk_rows(everywhere), symbol)["blocked"] for symbol in (WHOLE, A, B)] == [blocked, "", ""]
    assert f"<b>Blocked</b> {blocked}." in render(material, CONFIG).text


# Rules


def test_a_breaker_is_in_force_since_its_breach_not_since_it_flapped(material: Material) -> None:
    force = {(row["entity"], row["rule"]): row for row in in_force(material.decisions).to_dicts()}
    assert (force[A, "price_band"]["state_after"], force[A, "price_band"]["since"]) == ("open", at(125))
    assert force[B, "stale_feed"]["state_after"] == "closed"


def test_the_first_breaches_are_openings_only(material: Material) -> None:
    found = first_breaches(material.decisions)
    assert found["decision_id"].to_list() == ["id-50-b", "id-125-a"]


def test_opening_again_from_probation_is_no_first_breach(lake: Lake) -> None:
    late = gather(lake, None, Interval(at(141), at(240)))  # the breach was at 125, it opened again at 142
    assert views(late, CONFIG)["decisions"]["first"] == []
    assert late.decisions.filter(pl.col("ts") > at(141))["decision_id"].to_list() == ["id-142-a"]


def test_changes_tell_breaches_from_missing_inputs(shown_views: dict[str, Any]) -> None:
    changes = {row["id"]: row for row in shown_views["decisions"]["changes"]}
    assert len(changes) == 9
    assert (changes["id-1-b"]["kind"], changes["id-1-b"]["measured"]) == ("input missing", False)
    breach = changes["id-125-a"]
    assert (breach["kind"], breach["observed"], breach["threshold"]) == ("observed breach", "7.2 %", "5.0 %")
    assert breach["limit"] == "no new positions"
    assert changes["id-60-b"]["kind"] == "on probation"


def test_more_changes_than_a_page_holds_are_announced(monkeypatch: pytest.MonkeyPatch, material: Material) -> None:
    monkeypatch.setattr("pipelines.reporting.rules.CHANGES_MAX", 4)
    found = views(material, CONFIG)["decisions"]
    assert (len(found["changes"]), found["older"], found["total"]) == (4, 5, 9)
    assert "5 older ones are in the lake" in render(material, CONFIG).text


def test_accounts_over_a_cap_are_listed_by_excess(tmp_path: Path) -> None:
    found = views(gather(build(tmp_path, World(accounts=True)), None, None), CONFIG)["decisions"]
    assert [(row["account"], row["excess"]) for row in found["accounts"]] == [("large", "50,000"), ("small", "10")]


# Verdict


def test_the_verdict_says_what_since_when_and_the_strictest_guardrail(shown_views: dict[str, Any]) -> None:
    verdict = shown_views["verdict"]
    assert verdict["headline"] == "1 of 2 symbols is at risk at 2025-10-10 04:00Z"
    assert verdict["sentences"] == [
        "In alert as a whole: testex since 2025-10-10 02:01Z (crowding). Most severe: AAA-PERP.",
        "The strictest guardrail in force is “reduce only” (new positions are paused) on 1 symbol since "
        "2025-10-10 02:05Z, after observed breaches of the rule price band, 5 min: AAA-PERP.",
    ]
    assert verdict["tone"] == "danger"


def test_a_limit_that_a_missing_input_holds_is_not_called_a_breach(material: Material) -> None:
    held = _states(material).filter(pl.col("symbol") == B)
    assert "because inputs are missing, not because of an observed breach" in guardrail_sentence(held)


def test_tiles_count_what_the_tables_show(shown_views: dict[str, Any]) -> None:
    tiles = {tile["label"]: (tile["value"], tile["note"]) for tile in shown_views["verdict"]["tiles"]}
    assert tiles["symbols at risk"] == ("1", "of 2")
    assert tiles["alert episodes"] == ("3", "2 still open")
    assert tiles["breakers open"] == ("1", "observed breaches; 0 on probation")
    assert tiles["held by missing data"][0] == "1"
    assert tiles["refused rows"][0] == "4"


@pytest.mark.parametrize(
    ("tables", "headline", "note"),
    [
        (("limits", "decisions"), "1 of 2 symbols is at risk", "Nothing was scored in this interval"),
        (("limits",), "No breaker is open at 2025-10-10 04:00Z, but nothing was scored", "Nothing was scored"),
        (("scores",), "1 of 2 symbols is at risk", "Nothing was guarded in this interval"),
    ],
)
def test_half_a_lake_gives_a_page_that_says_which_half(
    tmp_path: Path, tables: tuple[str, ...], headline: str, note: str
) -> None:
    half = gather(build(tmp_path, World(tables=tables)), None, None)
    text = re.sub(r"</?span[^>]*>", "", render(half, CONFIG).text)
    assert headline in text
    assert note in text


def test_calm_is_never_claimed_where_nothing_was_guarded(tmp_path: Path) -> None:
    calm = build(tmp_path, World(tables=("scores",), minutes=90))
    verdict = views(gather(calm, None, None), CONFIG)["verdict"]
    assert verdict["headline"] == "No alert episode is open at 2025-10-10 01:30Z, but nothing was guarded"
    assert verdict["tone"] == "unknown"


def test_expired_limits_and_scores_that_stopped_are_noted(lake: Lake) -> None:
    late = gather(lake, None, Interval(START, at(MINUTES + 60)))
    notes = views(late, CONFIG)["verdict"]["notes"]
    assert "Scores of testex end at 2025-10-10 04:00Z." in notes
    assert "Limits of testex expired at 2025-10-10 04:15Z; they may not be relied on." in notes


def test_symbols_without_an_anomaly_at_the_end_are_named(tmp_path: Path) -> None:
    blind = gather(build(tmp_path, World(anomaly=False)), None, None)
    assert any(
        "(detector has no input): AAA-PERP and BBB-PERP" in note for note in views(blind, CONFIG)["verdict"]["notes"]
    )


# Data health


def test_refused_rows_are_told_in_a_sentence_with_first_and_last_time(shown_views: dict[str, Any]) -> None:
    # the row an hour after the end is outside; the one without a readable stamp counts
    assert shown_views["health"]["sentences"][0] == (
        "4 rows of book depth of BBB-PERP (testex) were refused: 3 as crossed (bid at or above ask) from 2025-10-10 "
        "01:40:30Z to 01:42:00Z; 2 as frozen (a side stood still to the last digit) from 2025-10-10 01:41:00Z to "
        "01:42:00Z; 1 as unreadable ts (time stamps unreadable)."
    )


def test_missing_trade_ids_are_told_with_how_concentrated_they_are(shown_views: dict[str, Any]) -> None:
    # 30 in each of the minutes 126 to 129; windows are (until - 10 min, until]
    assert (
        "120 trade ids are missing over 1 symbol; 100 % of them in the 10 minutes"
        in shown_views["health"]["sentences"][1]
    )
    row = _row(shown_views["health"]["symbols"], A)
    assert row["ids"][0] == "120 (0.99 % of trades)"  # 120 / (120 + 240 * 50)
    assert _row(shown_views["health"]["symbols"], B)["ids"][0] == "none"


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=1, max_size=20, unique_by=lambda x: x[0]))
def test_the_busiest_ten_minutes_are_those_of_a_slow_count(found: list[tuple[int, int]]) -> None:
    gaps = pl.DataFrame(
        [{"venue": VENUE, "symbol": A, "ts": at(minute), "trade_ids_missing": count} for minute, count in found],
        schema_overrides={"ts": pl.Datetime("us", "UTC")},
    )
    slow = max(sum(count for minute, count in found if end - 10 < minute <= end) for end, _ in found)
    assert busiest(gaps)["busy"].to_list() == [slow]


def test_worst_delay_stalest_value_and_missing_tables_are_per_symbol(shown_views: dict[str, Any]) -> None:
    row = _row(shown_views["health"]["symbols"], A)
    assert row["latency"] == ("7.0 s", "at 2025-10-10 02:07Z")
    assert row["stale"] == ("trades 6 min 40 s", "at 2025-10-10 02:10Z")
    assert row["never"] == "book events, mark, funding, open interest, liquidations"
    assert row["partly"] == ["book depth: 60 of 240 min without, last 2025-10-10 03:00Z"]
    assert "book depth" in _row(shown_views["health"]["symbols"], B)["never"]


def test_the_ingest_log_adds_up_in_words(material: Material) -> None:
    text = render(material, CONFIG).text
    assert "16,005 rows read = 16,000 accepted + 5 quarantined, from 2 files." in text
    assert health_view(material)["ingest"]["adds_up"]


# Timeline


def _drawn(found: dict[str, Any]) -> dict[str, int]:
    """Title -> number of traces of the panels that are drawn."""
    drawn = [panel["title"] for panel in found["panels"] if panel["drawn"]]
    return {title: len(figure["data"]) for title, figure in zip(drawn, found["figures"], strict=True)}


def test_every_figure_is_one_that_plotly_accepts(tmp_path: Path) -> None:
    found = views(gather(build(tmp_path, World(probabilities=True)), None, None), CONFIG)
    assert len(found["figures"]) == 6
    for figure in found["figures"]:
        go.Figure(figure)  # raises ValueError for a property that plotly does not know


def test_what_has_no_data_is_a_sentence_and_not_an_empty_plot(shown_views: dict[str, Any]) -> None:
    absent = {panel["title"]: panel["absent"] for panel in shown_views["panels"] if not panel["drawn"]}
    assert absent == {"Probability of a cascade": f"No plot: {NO_MODEL}."}
    assert list(_drawn(shown_views)) == [
        "Anomaly of the venue testex",
        "Anomaly relative to its threshold",
        "Prices relative to the start",
        "Perpetual against spot",
        "Guardrail actions",
    ]


def test_a_lake_of_nulls_draws_no_plot_and_says_why(tmp_path: Path) -> None:
    blind = build(tmp_path, World(anomaly=False, tables=("scores",)))
    found = views(gather(blind, None, None), CONFIG)
    assert found["figures"] == []
    assert all(panel["absent"].startswith("No plot: ") for panel in found["panels"])
    assert len(found["panels"]) == 6


def test_probabilities_are_drawn_and_shown_when_there_are_some(tmp_path: Path) -> None:
    found = views(gather(build(tmp_path, World(probabilities=True)), None, None), CONFIG)
    assert _drawn(found)["Probability of a cascade, testex"] == 2
    row = _row(found["risk"]["rows"], A)
    assert (row["p_15m"], row["p_60m"], row["p_over"]) == ("40 %", "60 %", True)
    assert found["provenance"]["rows"][0]["models"] == ["models:/cascadeguard-warning/2"]


def test_plots_share_time_range_and_margin(shown_views: dict[str, Any]) -> None:
    axes = {(*figure["layout"]["xaxis"]["range"], figure["layout"]["margin"]["l"]) for figure in shown_views["figures"]}
    assert len(axes) == 1
    assert next(iter(axes))[:2] == ("2025-10-10 00:00:00", "2025-10-10 04:00:00")


def _unpacked(array: dict[str, str]) -> Any:
    values = np.frombuffer(base64.b64decode(array["bdata"]), dtype="<f4")
    return values.reshape([int(size) for size in array["shape"].split(", ")]) if "shape" in array else values


def test_heat_maps_and_lines_hold_what_the_lake_holds(shown_views: dict[str, Any]) -> None:
    venue, heat, prices, basis, actions = shown_views["figures"]
    # column 119 is minute 120, the last calm one; 120 is minute 121, the first in alert: 8 / 2
    assert heat["data"][0]["y"] == ["venue testex", A, B]
    assert _unpacked(heat["data"][0]["z"])[:, 119:121].tolist() == [[0.5, 4.0], [0.5, 4.0], [0.5, 0.5]]
    assert np.isnan(_unpacked(heat["data"][0]["z"])[:, :60]).all()  # the reference period
    assert _unpacked(venue["data"][0]["y"])[119:121].tolist() == [1.0, 8.0]
    assert _unpacked(prices["data"][0]["y"])[123:125].tolist() == [0.0, -10.0]
    assert _unpacked(basis["data"][0]["customdata"])[123:125].tolist() == [0.0, -1000.0]
    by_action = [_unpacked(trace["z"])[:, 123:125] for trace in actions["data"]]
    assert [np.isfinite(cells).tolist() for cells in by_action] == [
        [[True, False], [False, False]],  # normal: A at 124
        [[False, False], [True, True]],  # cautious: B at both
        [[False, True], [False, False]],  # reduce only: A at 125
        [[False, False], [False, False]],  # halted
    ]


def test_the_reference_period_is_shaded_in_every_line_plot(shown_views: dict[str, Any]) -> None:
    shades = [
        [
            shape
            for shape in figure["layout"]["shapes"]
            if shape["type"] == "rect" and shape["x1"] == "2025-10-10 01:00:00"
        ]
        for figure in shown_views["figures"]
    ]
    assert [len(found) for found in shades] == [1] * 5


def test_every_alert_episode_is_marked_on_its_price(shown_views: dict[str, Any]) -> None:
    prices = next(figure for figure in shown_views["figures"] if figure["data"][-1].get("mode") == "markers")
    marks = {trace["name"]: trace["x"] for trace in prices["data"] if trace["mode"] == "markers"}
    assert marks == {A: ["2025-10-10 02:01:00"], B: ["2025-10-10 01:40:00"]}


@given(st.integers(1, 4000), st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 9)), max_size=30))
def test_a_grid_holds_what_a_slow_count_puts_into_it(minutes: int, found: list[tuple[int, float]]) -> None:
    axis = Axis.of(Interval(START, at(minutes)))
    inside = [(minute, value) for minute, value in found if minute <= minutes]
    frame = pl.DataFrame(
        {"venue": VENUE, "symbol": A, "ts": [at(minute) for minute, _ in inside], "x": [value for _, value in inside]},
        schema={"venue": pl.String, "symbol": pl.String, "ts": pl.Datetime("us", "UTC"), "x": pl.Float64},
    )
    rows = pl.DataFrame({"venue": [VENUE], "symbol": [A], "row": [0]})
    slow = np.full((1, axis.columns), np.nan, dtype=np.float32)
    for minute, value in inside:
        column = -(-minute // axis.step_min) - 1  # the column whose end is the first not before the minute
        slow[0, column] = np.fmax(slow[0, column], np.float32(value))
    np.testing.assert_array_equal(axis.grid(frame, rows, pl.col("x").max()), slow)


def test_one_minute_of_alarm_stays_visible_in_a_month() -> None:
    axis = Axis.of(Interval(START, START + timedelta(days=30)))
    frame = pl.DataFrame({"venue": VENUE, "symbol": A, "ts": [at(5), at(6), at(7)], "x": [0.1, 9.0, 0.1]})
    rows = pl.DataFrame({"venue": [VENUE], "symbol": [A], "row": [0]})
    assert float(np.nanmax(axis.grid(frame, rows, pl.col("x").max()))) == 9.0


def test_rows_that_do_not_fit_a_plot_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.reporting.timeline.ROWS_MAX", 2)
    panels = views(gather(build(tmp_path), None, None), CONFIG)["panels"]
    caption = next(panel["caption"] for panel in panels if panel["title"] == "Anomaly relative to its threshold")
    assert "The 2 most severe rows are drawn, 1 more are left out." in caption


# Words


def test_every_feature_has_words() -> None:
    unknown = [name for name in NAMES if words.feature(f"{name} = 1.5") == f"{name} = 1.5".replace("_", " ")]
    assert unknown == []
    assert [
        name for name in NAMES if "{" in words.feature(f"{name} = 1.5") or "= 1.5" in words.feature(f"{name} = 1.5")
    ] == []


def test_every_rule_has_words() -> None:
    assert set(RULES) <= set(words.RULES)


@given(st.text(max_size=60))
def test_any_text_of_a_reason_is_shown_and_none_fails(text: str) -> None:
    rows = words.reasons(text)
    assert bool(rows) == bool(text)


# The page


def test_the_same_lake_gives_the_same_bytes_and_a_plain_summary(lake: Lake, tmp_path: Path) -> None:
    first = write_report(lake, CONFIG, None, None, tmp_path / "first.html")
    second = write_report(lake, CONFIG, None, None, tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
    assert (first.venues, first.interval) == ((VENUE,), "2025-10-10T00:00Z..2025-10-10T04:00Z")
    assert (first.symbols_at_risk, first.alerts, first.decisions) == (1, 3, 9)
    assert (first.report, second.bytes) == (str(tmp_path / "first.html"), (tmp_path / "second.html").stat().st_size)


def test_the_default_file_lies_in_the_lake_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    store = build(tmp_path)
    summary = write_report(store, CONFIG, None, None, None)
    expected = tmp_path / "reports" / "cascadeguard-20251010T0000Z-20251010T0400Z.html"
    assert summary.report == str(expected)
    assert list((tmp_path / "reports").iterdir()) == [expected]


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"the page cannot be written .*--out"):
        write_report(lake, CONFIG, None, None, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


HOSTILE = "<script>alert(1)</script>"


def test_text_of_the_data_never_becomes_markup(tmp_path: Path) -> None:
    world = World(a=HOSTILE, reasons=f"crowding 4.4 (basis_bps_5 = {HOSTILE})", venue="v<b>")
    text = render(gather(build(tmp_path, world), None, None), CONFIG).text
    assert HOSTILE not in text
    assert "<b>v<b>" not in text
    assert html.escape(HOSTILE) in text  # in the tables
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None
    assert "<" not in figures[1]
    assert html.escape(HOSTILE)[:20] in json.dumps(json.loads(figures[1]))  # plotly would read it as markup otherwise


@given(st.text(max_size=40))
def test_plot_labels_and_embedded_json_are_harmless(text: str) -> None:
    assert not set(shown(text)) & {"<", ">"}
    embedded = json_for_html({"name": text})
    assert not set(embedded) & {"<", ">", "&"}
    assert json.loads(embedded) == {"name": text}


def test_the_page_asks_for_nothing_outside_itself(material: Material) -> None:
    text = render(material, CONFIG).text
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|action)=(?!"#|"data:)|url\(|@import""", markup) == []
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert re.findall(r"'sha256-[^']*'", html.unescape(policy[1])) == [script_hash(script) for script in scripts]
    assert text.count("plotly.js v") == 1


def test_many_calm_symbols_are_folded_away(tmp_path: Path) -> None:
    names = tuple(f"CALM-{number:02d}" for number in range(20))
    found = views(gather(build(tmp_path, World(extra_symbols=names, minutes=130)), None, None), CONFIG)["risk"]
    assert [row["symbol"] for row in found["rows"]] == [WHOLE, A, B][: len(found["rows"])]
    assert {row["symbol"] for row in found["calm"]} >= set(names)


def test_a_symbol_on_two_venues_has_two_rows_in_the_plots(tmp_path: Path) -> None:
    two = build(tmp_path, World(), replace(World(), venue="other"))
    found = views(gather(two, None, None), CONFIG)
    heat = next(figure for figure in found["figures"] if figure["data"][0]["type"] == "heatmap")
    labels = heat["data"][0]["y"]
    assert "AAA-PERP (other) and AAA-PERP (testex)" in found["verdict"]["sentences"][0]
    assert len(labels) == len(set(labels)) == 6
    assert {"AAA-PERP other", "AAA-PERP testex"} <= set(labels)
