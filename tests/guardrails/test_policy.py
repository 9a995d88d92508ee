"""The policy is read whole or not at all."""

import re
from datetime import UTC, datetime

import pytest

from guardrails.breakers import RULES
from guardrails.policy import BREAKERS, FALLING, PolicyError, parse_policy


def test_the_shipped_policy_is_valid_and_has_every_breaker(shipped):
    assert shipped.version == 1
    assert set(shipped.breakers) == set(BREAKERS) == {card.name for card in RULES}


def test_every_number_of_the_shipped_policy_carries_a_comment(policy_text):
    bare = [line for line in policy_text.splitlines() if re.match(r"\w+ = [\d\[]", line) and "#" not in line]
    assert bare == []


def test_the_hash_is_of_the_content_not_of_the_text(shipped, policy_text, edited):
    without_comments = "\n".join(line.split("#")[0] for line in policy_text.splitlines())
    assert parse_policy(without_comments).sha256 == shipped.sha256
    assert parse_policy(edited(breakers_price_band__enter=0.06)).sha256 != shipped.sha256
    assert re.fullmatch("[0-9a-f]{64}", shipped.sha256)


def test_every_violation_is_listed_at_once(policy_text):
    text = (
        policy_text.replace("version = 1 ", "version = 0 ")
        .replace("leverage_floor = 2 ", "leverage_floor = nan ")
        .replace("loosen_delay_min = 10 ", "loosen_delays_min = 10 ")
        .replace("price_age_s_max = 300 ", 'price_age_s_max = "soon" ')
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert caught.value.violations == (
        "`version` must be from 1 to 1e+09, was 0",
        "`inputs.price_age_s_max` must be a finite number, was 'soon'",
        "`caps.leverage_floor` must be a finite number, was nan",
        "`proposal.loosen_delays_min` is not a setting",
        "`proposal.loosen_delay_min` is missing",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"breakers_price_band__exit": 0.05}, "`breakers.price_band.exit` must be below enter=0.05, was 0.05"),
        ({"breakers_depth_collapse__exit": 0.5}, "`breakers.depth_collapse.exit` must be above enter=0.5, was 0.5"),
        ({"breakers_price_halt__reset": "timer"}, "must be person where the action is halted"),
        ({"breakers_price_band__probation_action": "halted"}, "must not be stricter than action=reduce_only"),
        ({"breakers_price_band__missing_action": "normal"}, "must be one of cautious, reduce_only, halted"),
        ({"breakers_price_band__cool_down_min": 0}, "must be from 1 to 1440, was 0"),
        ({"breakers_price_band__cool_down_min": 1.5}, "must be a whole number, was 1.5"),
        ({"breakers_price_band__cool_down_min": True}, "must be a finite number"),
        ({"caps__leverage_steps": [50, 50, 1]}, "`caps.leverage_steps` must fall strictly"),
        ({"caps__leverage_steps": [50, 2]}, "`caps.leverage_steps` must end at 1"),
        ({"caps__leverage_steps": []}, "must be a list with at least one entry"),
        ({"caps__leverage_floor": 4}, "`caps.leverage_floor` must be a step"),
        ({"caps__oi_per_depth_upper": 100}, "must exceed oi_per_depth_lower=100"),
        ({"caps__exposure_floor_usd": 30_000_000}, "must hold exposure_floor_usd <= exposure_ceiling_usd"),
        ({"inputs__reference_fast_min": 60}, "must exceed reference_fast_min=60"),
        ({"inputs__depth_normal_min": 360}, "need 451 minutes of bars, at most 420 are kept"),
        (
            {"inputs__sigma_horizon_min": 60, "inputs__volatility_min": 120, "caps__loosen_hold_min": 240},
            "need 541 minutes of bars",
        ),
        ({"inputs__not_published": "fund"}, "`inputs.not_published` must be a list, was 'fund'"),
        ({"inputs__not_published": ["fund", "moon"]}, "`inputs.not_published` has a bad entry: 'moon'"),
        ({"inputs__not_published": [1]}, "`inputs.not_published` has a bad entry: 1"),
        ({"inputs__fund_age_min_max": 0}, "must be from 1 to 10080, was 0"),
        ({"inputs__positions_age_min_max": 421}, "must be from 1 to 420, was 421"),
        ({"breakers_price_band_sigma__enter": 5.32}, "must be the normal's quantile 5.33"),
        ({"inputs__band_probability": 0.99}, "must be the normal's quantile 2.58 at band_probability=0.99, was 5.33"),
        ({"associated__action": "normal"}, "`associated.action` must be one of cautious, reduce_only, halted"),
        ({"associated__leads": ["A"]}, "`associated.leads` must be a table, was ['A']"),
        ({"associated__leads": {"A": []}}, "`associated.leads` of A must be a list with at least one entry"),
        ({"associated__leads": {"A": "B"}}, "`associated.leads` of A must be a list with at least one entry"),
        ({"associated__leads": {"A": [""]}}, "`associated.leads` of A has a bad entry: ''"),
        ({"associated__leads": {"A": ["B", "A"]}}, "`associated.leads` of A must be other symbols, each once"),
        ({"associated__leads": {"A": ["B", "B"]}}, "`associated.leads` of A must be other symbols, each once"),
        ({"proposal__relative_change_max": 1.0}, "must be from 0 to 0.99, was 1.0"),
    ],
)
def test_a_number_that_would_make_a_rule_unsafe_is_refused(edited, change, words):
    with pytest.raises(PolicyError, match=re.escape(words)):
        parse_policy(edited(**change))


def test_the_date_is_a_time_in_utc_and_part_of_the_hash(shipped, policy_text):
    assert shipped.effective_from == datetime(2015, 1, 1, tzinfo=UTC)
    elsewhere = parse_policy(policy_text.replace("2015-01-01T00:00:00Z", "2015-01-01T05:30:00+05:30"))
    assert (elsewhere.sha256, elsewhere.effective_from.tzinfo) == (shipped.sha256, UTC)
    later = parse_policy(policy_text.replace("2015-01-01T00:00:00Z", "2015-01-01T00:01:00Z"))
    assert later.sha256 != shipped.sha256


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ("2015-01-01T00:00:00", "must be a time with a zone, such as 2026-01-05T00:00:00Z, was 2015-01-01 00:00:00"),
        ("2015-01-01", "must be a time with a zone"),
        ("true", "must be a time with a zone"),
        ('"2015-01-01T00:00:00Z"', "must be a time with a zone"),
        ("2015-01-01T00:00:30Z", "must be a full minute, was 2015-01-01 00:00:30+00:00"),
        ("2015-01-01T00:00:00.5Z", "must be a full minute"),
        ("2015-01-01T00:00:00+00:00:30", "is not TOML"),
        ("0001-01-01T00:00:00+14:00", "must lie between the years 2000 and 2999, was 0001-01-01"),
        ("9999-12-31T23:59:00-14:00", "must lie between the years 2000 and 2999"),
    ],
)
def test_a_date_without_a_zone_or_off_the_minute_is_refused(policy_text, date, words):
    with pytest.raises(PolicyError, match=re.escape(words)):
        parse_policy(policy_text.replace("2015-01-01T00:00:00Z", date))


def test_a_policy_without_a_date_is_refused(policy_text):
    without = "\n".join(line for line in policy_text.splitlines() if not line.startswith("effective_from"))
    with pytest.raises(PolicyError, match="`effective_from` must be a time with a zone"):
        parse_policy(without)


@pytest.mark.parametrize("text", ["", "version = ", "caps = 3"])
def test_a_text_that_is_no_policy_is_refused(text):
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_a_breaker_the_code_does_not_know_is_refused(policy_text):
    with pytest.raises(PolicyError, match=r"`breakers\.moon_phase` is not a rule"):
        parse_policy(policy_text + "\n[breakers.moon_phase]\nenter = 1\n")


def test_thresholds_that_fall_are_exactly_those_of_the_rules_that_measure_what_is_left():
    assert FALLING == ("depth_collapse",)


def test_what_is_not_published_may_be_nothing_and_who_leads_whom_is_kept(edited):
    parsed = parse_policy(
        edited(inputs__not_published=["fund", "mark"], associated__leads={"A": ["B", "C"], "B": ["A"]})
    )
    assert parsed.inputs.not_published == ("fund", "mark")
    assert parsed.associated.leads == {"A": ("B", "C"), "B": ("A",)}
    assert parse_policy(edited()).inputs.not_published == ()
    assert parse_policy(edited(inputs__not_published=["fund"])).sha256 != parse_policy(edited()).sha256
    assert parse_policy(edited(associated__leads={"A": ["B"]})).sha256 != parse_policy(edited()).sha256
