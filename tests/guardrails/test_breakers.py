"""Each breaker just below, at and above its thresholds, and what it says."""

import math
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from guardrails.breakers import RULES, judge, resets_by_minute, signals
from guardrails.decide import decide, empty_state
from guardrails.facts import KEY
from guardrails.ladder import severity


def verdicts(bars, policy, **more):
    return decide(bars, policy, **more)


def state_at_end(bars, policy, rule):
    state = verdicts(bars, policy).state
    return state.filter(rule=rule)["state"].item()


def decision(decided, rule, after):
    return decided.decisions.filter(rule=rule, state_after=after).row(-1, named=True)


@pytest.mark.parametrize(
    ("rule", "change", "state"),
    [
        # all prices before are 100, so both references are 100 and a close of 100 + x is a move of x %
        ("price_band", {"close": 95.01}, "closed"),
        ("price_band", {"close": 95.0}, "open"),
        ("price_band", {"close": 94.99}, "open"),
        ("price_band", {"close": 104.99}, "closed"),
        ("price_band", {"close": 105.01}, "open"),
        ("price_band_hour", {"close": 90.01}, "closed"),
        ("price_band_hour", {"close": 90.0}, "open"),
        ("price_halt", {"close": 80.01}, "closed"),
        ("price_halt", {"close": 80.0}, "open"),
        ("price_halt", {"close": 120.01}, "open"),
        ("mark_index_divergence", {"mark": 98.01}, "closed"),
        ("mark_index_divergence", {"mark": 98.0}, "open"),
        ("mark_index_divergence", {"mark": 102.01}, "open"),
        # the median of the thinner side is 40 M
        ("depth_collapse", {"depth_bid_100bps_usd": 20_000_001.0}, "closed"),
        ("depth_collapse", {"depth_bid_100bps_usd": 20e6}, "open"),
        ("depth_collapse", {"depth_ask_100bps_usd": 0.0}, "open"),
        ("depth_collapse", {"depth_ask_100bps_usd": None}, "missing"),
        ("stale_feed", {"trade_age_s": 299.9}, "closed"),
        ("stale_feed", {"trade_age_s": 300.0}, "open"),
        ("stale_feed", {"depth_unchanged_s": 300.0}, "open"),
        ("stale_feed", {"index_age_s": None}, "missing"),
    ],
)
def test_a_breaker_opens_at_its_threshold_and_not_before(short_policy, calm_bars, rule, change, state):
    assert state_at_end(calm_bars(20, changes={20: change}), short_policy, rule) == state


@pytest.mark.parametrize(
    ("rule", "column", "values"),
    [
        # what trips it, what is clean to the last digit, what is just not
        ("mark_index_divergence", "mark", (97.0, 99.0, 98.99)),
        ("stale_feed", "trade_age_s", (400.0, 120.0, 120.1)),
    ],
)
def test_it_comes_back_after_the_cool_down_inside_the_exit_threshold_to_the_minute(
    policy, calm_bars, rule, column, values
):
    trip, clean_edge, not_clean = ({column: value} for value in values)

    def ends(last_minute, value):
        changes = {10: trip} | dict.fromkeys(range(11, 60), value)
        return state_at_end(calm_bars(last_minute, changes=changes), policy, rule)

    cool_down, probation = policy.breakers[rule].cool_down_min, policy.breakers[rule].probation_min
    assert ends(10 + cool_down - 1, clean_edge) == "open"
    assert ends(10 + cool_down, clean_edge) == "half_open"
    assert ends(10 + cool_down + probation - 1, clean_edge) == "half_open"
    assert ends(10 + cool_down + probation, clean_edge) == "closed"
    assert ends(59, not_clean) == "open"


def test_the_sentence_says_what_is_seen_what_the_limit_is_what_follows_and_what_clears_it(short_policy, calm_bars):
    decided = verdicts(calm_bars(20, changes={20: {"close": 92.8}}), short_policy)
    found = decision(decided, "price_band", "open")
    assert found["reason"] == (
        "price moved -7.2 % against its 5-min mean; band is 5.0 %; new positions are paused; "
        "clears after 10 min within 2.5 %"
    )
    assert found["clears_when"] == "clears after 10 min within 2.5 %, then 5 min of probation"
    assert (found["observed"], found["threshold"], found["unit"]) == (pytest.approx(0.072), 0.05, "share")
    assert (found["action"], found["limit_after"], found["data_health"]) == ("reduce_only", 0.0, "ok")


PAUSED = "new positions are paused; clears after"


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        (
            "price_halt",
            {"close": 75.0},
            "price moved -25.0 % against its 10-min mean; band is 20.0 %; trading is halted; "
            "clears after 30 min within 10.0 % and a person's reset",
        ),
        (
            "mark_index_divergence",
            {"mark": 97.0},
            f"mark is 3.0 % from the index; limit is 2.0 %; {PAUSED} 10 min within 1.0 %",
        ),
        (
            "mark_index_divergence",
            {"mark": None, "close": 97.0},
            f"last trade (no mark) is 3.0 % from the index; limit is 2.0 %; {PAUSED} 10 min within 1.0 %",
        ),
        (
            "depth_collapse",
            {"depth_bid_100bps_usd": 4e6},
            "depth within 100 bps is 4.0 M USD, 10.0 % of its 10-min median; floor is 50.0 %; "
            f"{PAUSED} 10 min at or above 70.0 %",
        ),
        (
            "stale_feed",
            {"depth_age_s": 312.0},
            f"oldest feed is 312 s old; limit is 300 s; {PAUSED} 5 min within 120 s",
        ),
    ],
)
def test_every_breaker_has_such_a_sentence(short_policy, calm_bars, rule, change, words):
    assert decision(verdicts(calm_bars(20, changes={20: change}), short_policy), rule, "open")["reason"] == words


def test_a_venue_that_never_publishes_depth_is_not_a_collapsed_book(short_policy, calm_bars):
    nothing = {
        "depth_bid_100bps_usd": None,
        "depth_ask_100bps_usd": None,
        "depth_age_s": None,
        "depth_unchanged_s": None,
    }
    unpublished = verdicts(calm_bars(30, changes=dict.fromkeys(range(1, 31), nothing)), short_policy)
    collapsed = verdicts(calm_bars(30, changes={30: {"depth_bid_100bps_usd": 0.0}}), short_policy)
    one, other = (decided.limits.row(-1, named=True) for decided in (unpublished, collapsed))
    # the same safe leverage cap, another action and another reason
    assert one["leverage_cap"] == 2.0
    assert other["leverage_cap"] <= 2.0
    assert (one["action"], other["action"]) == ("cautious", "reduce_only")
    assert "depth missing" in one["reason"]
    assert "depth missing" in one["missing"]
    assert "0.0 % of its 10-min median" in other["reason"]
    assert other["missing"] is None
    states = [decided.state.filter(rule="depth_collapse")["state"].item() for decided in (unpublished, collapsed)]
    assert states == ["missing", "open"]


def test_an_open_breaker_whose_input_goes_missing_stays_open_and_says_so(policy, calm_bars):
    changes = {10: {"mark": 97.0}} | {i: {"index": None} for i in range(11, 41)}
    decided = verdicts(calm_bars(40, changes=changes), policy)
    assert decided.state.filter(rule="mark_index_divergence")["state"].item() == "open"
    assert "index missing; limit is 2.0 %; new positions are paused" in decided.limits.row(-1, named=True)["reasons"]


def test_a_person_may_lift_the_halt_of_one_symbol_or_of_all(short_policy, calm_bars, at):
    bars = calm_bars(120, ("A", "B"), {20: {"close": 75.0}})
    # minute 21 is clean: the slow mean holds the 75 for 10 minutes but stays near 100; cool-down is over in minute 50
    nobody = verdicts(bars, short_policy).limits
    assert nobody.filter(pl.col("ts") >= at(20))["action"].unique().to_list() == ["halted"]

    def reset(symbol, minute, by="risk manager"):
        row = {"rule": ["price_halt"], "symbol": [symbol], "ts": [at(minute)], "by": [by]}
        ends = verdicts(bars, short_policy, resets=pl.DataFrame(row, schema_overrides={"by": pl.String})).limits
        return ends.filter(ts=at(120))["action"].to_list()

    assert reset("A", 50) == ["normal", "halted"]
    assert reset("A", 49.5) == ["normal", "halted"]  # within the minute that ends at 50
    assert reset("*", 60) == ["normal", "normal"]
    assert reset("A", 49) == ["halted", "halted"]  # a minute too early
    assert reset("A", 50, by="") == ["halted", "halted"]
    assert reset("A", 50, by=None) == ["halted", "halted"]


def test_the_ladder_rises_from_normal_to_halted():
    assert [severity(word) for word in ("normal", "cautious", "reduce_only", "halted")] == [0, 1, 2, 3]


def test_a_halt_can_end_although_nobody_trades_while_it_lasts(short_policy, calm_bars, at):
    """Trades stop with the halt, and their price goes stale; the mark goes on and is calm: a reset after it counts."""
    fall = {i: {"close": 75.0, "mark": 75.0, "index": 75.0} for i in range(30, 151)}
    still = {i: row | {"trade_age_s": 60.0 * (i - 30)} for i, row in fall.items() if i > 30}
    bars = calm_bars(150, changes={30: fall[30]} | still)
    resets = pl.DataFrame({"rule": ["price_halt"], "symbol": ["A"], "ts": [at(120)], "by": ["Desk Head"]})
    told = decide(bars, short_policy, resets=resets).decisions.filter(pl.col("rule") == "price_halt")
    steps = [(row["ts"], row["state_after"]) for row in told.to_dicts() if row["ts"] > at(11)]
    assert steps == [(at(30), "open"), (at(120), "half_open"), (at(150), "closed")]
    assert "mark (no trade) moved" in told.filter(pl.col("ts") == at(120))["reason"][0]


def test_without_a_mark_a_halted_market_that_does_not_trade_stays_halted(short_policy, calm_bars, at):
    fall = {i: {"close": 75.0, "mark": None, "index": 75.0} for i in range(30, 151)}
    still = {i: row | {"trade_age_s": 60.0 * (i - 30)} for i, row in fall.items() if i > 30}
    bars = calm_bars(150, changes={30: fall[30]} | still)
    resets = pl.DataFrame({"rule": ["price_halt"], "symbol": ["A"], "ts": [at(120)], "by": ["Desk Head"]})
    assert decide(bars, short_policy, resets=resets).limits["action"][-1] == "halted"


def _card(one):
    parts = (one.name, one.fact, one.unit, " ".join(one.faults), one.short, one.bound, " ".join(one.needs), one.scope)
    return " | ".join((*parts, "at least" if one.at_least else "")).rstrip(" |")


def test_the_cards_are_those_that_were_read_and_accepted():
    """Name, fact, unit, columns of faults, fault of a short window, word for the limit, tables it needs, scope."""
    written = Path(__file__).with_name("cards.txt").read_text(encoding="utf-8").splitlines()
    assert [_card(one) for one in RULES] == written


@pytest.mark.parametrize("card", RULES, ids=lambda card: card.name)
def test_what_is_not_observed_is_missing_with_the_first_fault_that_is_known(policy, card):
    def judged(value, *faults):
        told = dict(zip(card.faults, [*faults, None, None], strict=False))
        kinds = {**dict.fromkeys(KEY, pl.String), card.fact: pl.Float64, **dict.fromkeys(card.faults, pl.String)}
        row = signals(pl.DataFrame([{card.fact: value, **told}], schema=kinds), card, policy.breakers[card.name])
        return row.select("observed", "fault", "trip", "clean", "missing").row(0)

    rule = policy.breakers[card.name]
    for lost in (None, math.nan, math.inf):
        assert judged(lost) == (None, card.short, False, False, True)
    assert judged(rule.enter) == (rule.enter, None, True, False, False)
    assert judged(rule.exit) == (rule.exit, None, False, True, False)
    assert judged(-rule.enter) == (rule.enter, None, True, False, False)
    between = (rule.enter + rule.exit) / 2
    assert judged(between) == (between, None, False, False, False)
    if card.faults:
        # what is observed beside a fault does not count, but for a quantity that can only be worse
        assert judged(rule.exit, "lost") == (None, "lost", False, False, True)
        least = (rule.enter, None, True, False, False)
        assert judged(rule.enter, "lost") == (least if card.at_least else (None, "lost", False, False, True))


@pytest.mark.parametrize(
    ("name", "limit", "clean"),
    [
        ("price_band", "band is 5.0 %", "within 2.5 %"),
        ("depth_collapse", "floor is 50.0 %", "at or above 70.0 %"),
        ("stale_feed", "limit is 300 s", "within 120 s"),
        ("venue_cap", "cap is 500x", "within 400x"),
        ("price_band_sigma", "band is 5.33 sd", None),
    ],
)
def test_a_threshold_is_said_in_the_unit_of_its_rule(policy, name, limit, clean):
    (card,) = [one for one in RULES if one.name == name]
    assert card.limit(policy.breakers[name]) == limit
    assert clean in (None, card.clean(policy.breakers[name]))


def test_a_rule_lacks_what_the_venue_does_not_publish(policy_with):
    (card,) = [one for one in RULES if one.name == "open_interest_cap"]
    lacks = {
        tables: card.lacks(policy_with(inputs__not_published=list(tables)))
        for tables in ((), ("fund",), ("depth",), ("depth", "open_interest"))
    }
    assert list(lacks.values()) == ["", "", "depth", "open interest and depth"]


def test_a_verdict_that_is_off_has_the_columns_and_the_settings_of_one_that_is_not(policy_with, at):
    (card,) = [one for one in RULES if one.name == "oi_drop"]
    blank = dict.fromkeys([card.fact, *card.told_by(policy_with())], pl.Float64()) | dict.fromkeys(
        card.faults, pl.String()
    )
    facts = pl.DataFrame({"venue": ["v"], "symbol": ["A"], "ts": [at(1)]}).with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in blank.items()
    )
    on, off = (
        judge(facts, [card], policy_with(inputs__not_published=away), state=empty_state(),
              resets=resets_by_minute(None, "v"), after=None)[card.name]
        for away in ([], ["open_interest"])
    )  # fmt: skip
    assert (on["state"].item(), off["state"].item()) == ("missing", "off")
    assert dict(on.schema) == dict(off.schema)
    kept = ("rule", "limit_unit", "threshold", "unit", "reset_authority")
    assert on.select(kept).rows() == off.select(kept).rows()


def test_a_reset_counts_once_signed_at_the_first_full_minute_not_before_it(at):
    rows = [
        {"venue": "v", "rule": "r", "symbol": "A", "ts": at(1), "by": "kim"},
        {"venue": "v", "rule": "r", "symbol": "A", "ts": at(0.5), "by": "lee"},  # the same minute: one row
        {"venue": "v", "rule": "r", "symbol": "B", "ts": at(1.01), "by": "kim"},
        {"venue": "v", "rule": "r", "symbol": "F", "ts": at(1) + timedelta(microseconds=1), "by": "kim"},
        {"venue": "w", "rule": "r", "symbol": "C", "ts": at(1), "by": "kim"},
        {"venue": "v", "rule": "r", "symbol": "D", "ts": at(1), "by": "  "},
        {"venue": "v", "rule": None, "symbol": "E", "ts": at(1), "by": "kim"},
    ]
    table = pl.DataFrame(rows).cast({"ts": pl.Datetime("us", "UTC")})
    assert sorted(resets_by_minute(table, "v").rows()) == [("r", "A", at(1)), ("r", "B", at(2)), ("r", "F", at(2))]
    assert resets_by_minute(table.cast({"ts": pl.Datetime("ms", "UTC")}), "v").sort("symbol")["ts"].to_list() == [
        at(1),
        at(2),
        at(1),  # a thousandth of a second is too coarse to tell
    ]
    assert resets_by_minute(table.drop("venue"), "v").height == 4
    for nothing in (None, table.clear()):
        assert resets_by_minute(nothing, "v").schema == {
            "rule": pl.String,
            "symbol": pl.String,
            "ts": table["ts"].dtype,
        }
