"""The policy is read whole or not at all."""

import re
from dataclasses import fields
from datetime import UTC, datetime

import pytest

from guardrails.breakers import RULES
from guardrails.policy import (
    BREAKERS,
    FALLING,
    Breaker,
    Caps,
    Fund,
    Inputs,
    Margin,
    PolicyError,
    ProposalBounds,
    Throttle,
    Validity,
    parse_policy,
)


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


RANGES = {  # what a setting may be at least and at most: a change here is a change of what a policy may say
    "inputs": {
        "price_age_s_max": (1, 86_400),
        "mark_age_s_max": (1, 86_400),
        "index_age_s_max": (1, 86_400),
        "depth_age_s_max": (1, 86_400),
        "depth_unchanged_s_max": (1, 86_400),
        "oi_age_s_max": (1, 86_400),
        "collateral_age_min_max": (1, 10_080),
        "reference_fast_min": (1, 60),
        "reference_slow_min": (2, 120),
        "volatility_min": (10, 120),
        "depth_normal_min": (10, 360),
        "samples_share_min": (0.1, 1),
        "sigma_horizon_min": (1, 60),
        "sigma_floor_1h": (1e-5, 1),
        "band_probability": (0.9, 0.999999999),
        "liquidation_window_min": (1, 60),
        "oi_window_min": (2, 120),
        "book_window_min": (1, 60),
        "positions_age_min_max": (1, 420),
        "pegs_age_min_max": (1, 420),
        "fund_age_min_max": (1, 10_080),
        "venue_symbols_min": (1, 1_000),
    },
    "breakers_price_band": {
        "enter": (1e-6, 1e6),
        "exit": (1e-6, 1e6),
        "cool_down_min": (1, 1_440),
        "probation_min": (1, 1_440),
        "missing_hold_min": (1, 1_440),
    },
    "caps": {
        "leverage_floor": (1, 200),
        "leverage_untiered_max": (1, 200),
        "sigmas_covered": (1, 20),
        "depth_ratio_full": (0.01, 1),
        "oi_per_depth_lower": (0.1, 1e6),
        "oi_per_depth_upper": (0.1, 1e6),
        "exposure_ceiling_usd": (1, 10**12),
        "exposure_floor_usd": (1, 10**12),
        "exposure_depth_share": (0.001, 10),
        "exposure_oi_share": (0.0001, 1),
        "account_ceiling_usd": (1, 10**12),
        "cluster_ceiling_usd": (1, 10**12),
        "cluster_symbol_caps": (1, 100),
        "collateral_share_account_max": (0, 1),
        "collateral_share_venue_max": (0, 1),
        "concentration_share_max": (0.001, 1),
        "accounts_effective_min": (1, 1_000),
        "loosen_hold_min": (1, 240),
        "haircut_other": (0, 1),
    },
    "margin": {
        "peg_floor": (0.5, 1),
        "peg_slope": (0, 20),
        "peg_add_on_max": (0, 1),
        "oracle_free": (0, 1),
        "oracle_slope": (0, 20),
        "oracle_add_on_max": (0, 1),
        "maintenance_untiered": (0.001, 0.99),
    },
    "throttle": {
        "depth_share_per_min": (0.001, 1),
        "window_min": (1, 60),
        "min_usd": (1, 10**12),
    },
    "fund": {
        "window_min": (1, 10_080),
    },
    "proposal": {
        "relative_change_max": (0, 0.99),
        "leverage_change_max": (0, 200),
        "exposure_change_usd_max": (0, 10**12),
        "leverage_min": (0.1, 200),
        "exposure_usd_min": (1, 10**12),
        "loosen_delay_min": (0, 1_440),
        "ttl_min": (1, 1_440),
    },
    "validity": {
        "volatility_1h_max": (0.001, 10),
        "divergence_max": (0.001, 1),
    },
}


@pytest.mark.parametrize("section", RANGES)
def test_every_number_has_its_range_and_is_refused_outside(edited, section):
    where = section.replace("breakers_", "breakers.")
    for high_side in (False, True):
        changes = {
            f"{section}__{name}": high * 10 if high_side else low - 1 for name, (low, high) in RANGES[section].items()
        }
        with pytest.raises(PolicyError) as caught:
            parse_policy(edited(**changes))
        found = [fault for fault in caught.value.violations if f"`{where}." in fault]
        assert found == [
            f"`{where}.{name}` must be from {low:g} to {high:g}, was {changes[f'{section}__{name}']!r}"
            for name, (low, high) in RANGES[section].items()
        ]


def test_every_number_of_the_policy_is_in_the_table_of_ranges():
    kinds = (Inputs, Breaker, Caps, Margin, Throttle, Fund, ProposalBounds, Validity)
    numbers = {spec.name for kind in kinds for spec in fields(kind) if "low" in spec.metadata}
    assert numbers - {"leverage_steps"} == {name for ranges in RANGES.values() for name in ranges}


@pytest.mark.parametrize(
    "change",
    [
        # both ends belong to the range
        {"inputs__price_age_s_max": 1},
        {"inputs__price_age_s_max": 86_400},
        {"inputs__samples_share_min": 1},
        {"proposal__relative_change_max": 0},
        {"proposal__relative_change_max": 0.99},
        {"ttl_min": 1},
        {"ttl_min": 1_440},
        {"version": 10**9},
        # what must not be below may be equal
        {"caps__exposure_floor_usd": 25_000_000},
        {"caps__exposure_ceiling_usd": 50_000_000},
        {"caps__account_ceiling_usd": 25_000_000},
        {"breakers_price_band__probation_action": "reduce_only"},
        # the longest window that bars are kept for: 420 = 329 + 60 + 30 + 1
        {"inputs__depth_normal_min": 329},
        # 120 + 60 + 60 + 179 + 1 = 420
        {
            "inputs__sigma_horizon_min": 60, "inputs__volatility_min": 120, "inputs__depth_normal_min": 10,
            "caps__loosen_hold_min": 179,
        },
        {"inputs__reference_fast_min": 59},
        # a ladder of one step; its ends
        {"caps__leverage_steps": [1], "caps__leverage_floor": 1},
        {"caps__leverage_steps": [200, 2.5, 2, 1]},
        {"effective_from": "2000-01-01T00:00:00Z"},
        {"effective_from": "2999-12-31T23:59:00Z"},
        {"clusters__majors": ["A", "B"]},
    ],
)  # fmt: skip
def test_what_is_just_inside_is_a_policy(edited, change):
    text = edited(**change)
    parse_policy(text.replace(f'"{change.get("effective_from")}"', str(change.get("effective_from"))))


@pytest.mark.parametrize("moment", ["1999-12-31T23:59:00Z", "3000-01-01T00:00:00Z"])
def test_a_policy_is_of_these_times(edited, moment):
    text = edited(effective_from=moment).replace(f'"{moment}"', moment)
    with pytest.raises(PolicyError, match="`effective_from` must lie between the years 2000 and 2999"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 10**10}, "`version` must be from 1 to 1e+09, was 10000000000"),
        ({"ttl_min": 0}, "`ttl_min` must be from 1 to 1440, was 0"),
        ({"ttl_min": 1_441}, "`ttl_min` must be from 1 to 1440, was 1441"),
        ({"caps__leverage_steps": [201, 1]}, "`caps.leverage_steps` has a bad entry: 201"),
        ({"caps__leverage_steps": [2, 0.5]}, "`caps.leverage_steps` has a bad entry: 0.5"),
        ({"caps__leverage_steps": [50, 2]}, "`caps.leverage_steps` must end at 1, ended at 2"),
        ({"caps__leverage_steps": [1, 2]}, "`caps.leverage_steps` must fall strictly"),
        ({"caps__leverage_floor": 4}, "`caps.leverage_floor` must be a step, was 4"),
        ({"caps__oi_per_depth_upper": 100}, "`caps.oi_per_depth_upper` must exceed oi_per_depth_lower=100, was 100"),
        ({"caps__exposure_floor_usd": 25_000_001}, "must hold exposure_floor_usd <= exposure_ceiling_usd <= account"),
        ({"caps__account_ceiling_usd": 24_999_999}, "must hold exposure_floor_usd <= exposure_ceiling_usd <= account"),
        (
            {"caps__exposure_ceiling_usd": 50_000_001},
            "`caps.cluster_ceiling_usd` must not be below exposure_ceiling_usd=50000001, was 50000000",
        ),
        ({"caps__assets_at_par": []}, "`caps.assets_at_par` must be a list with at least one entry, was []"),
        ({"breakers_price_halt__reset": "timer"}, "`breakers.price_halt.reset` must be person where the action is "
                                                   "halted, was timer"),
        ({"breakers_price_band__reset": "nobody"}, "must be one of timer, person, was 'nobody'"),
        (
            {"breakers_price_band__probation_action": "halted"},
            "`breakers.price_band.probation_action` must not be stricter than action=reduce_only, was halted",
        ),
        ({"breakers_price_band__action": "normal"}, "must be one of cautious, reduce_only, halted, was 'normal'"),
        ({"associated__missing_action": "normal"}, "must be one of cautious, reduce_only, halted, was 'normal'"),
        ({"inputs__depth_normal_min": 330}, "`inputs` windows with `caps.loosen_hold_min` need 421 minutes of bars"),
        ({"inputs__oi_window_min": 120, "inputs__depth_normal_min": 10, "caps__loosen_hold_min": 240},
         "need 421 minutes"),
        ({"inputs__reference_slow_min": 120, "inputs__depth_normal_min": 10, "caps__loosen_hold_min": 240},
         "need 421 minutes"),
        ({"inputs__reference_fast_min": 60},
         "`inputs.reference_slow_min` must exceed reference_fast_min=60, was 60"),
        ({"fund__account": " "}, "`fund.account` must be a name, was ' '"),
        ({"fund__account": 7}, "`fund.account` must be a name, was 7"),
        ({"clusters__majors": ["A"]}, "`clusters.majors` must hold two symbols"),
        ({"clusters__majors": ["A", "A"]}, "`clusters` must hold A once, held it 2 times"),
        ({"clusters__majors": "A"}, "`clusters.majors` must be a list with at least one entry, was 'A'"),
        ({"clusters__majors": ["A", 3]}, "`clusters.majors` has a bad entry: 3"),
        ({"associated__leads": {"A": ["B", "A"]}},
         "`associated.leads` of A must be other symbols, each once, was ['B', 'A']"),
    ],
)  # fmt: skip
def test_what_is_just_outside_is_refused_in_words(edited, change, words):
    with pytest.raises(PolicyError, match=re.escape(words)) as caught:
        parse_policy(edited(**change))
    assert str(caught.value).startswith(("1 violation: `", "2 violations: `"))


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ("inputs", "`inputs` is missing"),
        ("breakers.price_band", "`breakers.price_band` is missing"),
        ("associated", "`associated` is missing"),
        ("caps", "`caps` is missing"),
        ("margin", "`margin` is missing"),
        ("throttle", "`throttle` is missing"),
        ("fund", "`fund` is missing"),
        ("clusters", "`clusters` is missing"),
        ("proposal", "`proposal` is missing"),
        ("validity", "`validity` is missing"),
    ],
)
def test_a_section_that_is_missing_is_the_one_violation(policy_text, drop, words):
    sections = re.split(r"^(?=\[)", policy_text, flags=re.MULTILINE)
    text = "".join(part for part in sections if not part.startswith(f"[{drop}]"))
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert caught.value.violations == (words,)


def test_what_is_no_table_or_no_toml_says_so():
    with pytest.raises(PolicyError) as caught:
        parse_policy("caps = 3\nclusters = 4\nmoon = 5")
    assert {"`caps` must be a table, was 3", "`clusters` must be a table, was 4", "`moon` is not a setting"} <= set(
        caught.value.violations
    )
    with pytest.raises(PolicyError, match="the policy is not TOML: "):
        parse_policy("version = ")


def test_numbers_lists_and_times_are_kept_in_their_types(shipped):
    assert isinstance(shipped.caps.leverage_floor, float)
    assert isinstance(shipped.caps.loosen_hold_min, int)
    assert shipped.caps.leverage_steps == (50, 25, 20, 10, 5, 3, 2, 1)
    assert shipped.clusters["majors"][:2] == ("BTCUSDT", "ETHUSDT")


@pytest.mark.parametrize("change", [
    {"version": 2}, {"ttl_min": 14}, {"inputs__oi_window_min": 31}, {"associated__action": "halted"},
    {"caps__haircut_other": 0.3}, {"margin__peg_slope": 5}, {"throttle__window_min": 6}, {"fund__window_min": 1_000},
    {"clusters__majors": ["A", "B"]}, {"proposal__ttl_min": 31}, {"validity__divergence_max": 0.9},
])  # fmt: skip
def test_every_section_is_part_of_the_hash(shipped, edited, change):
    assert parse_policy(edited(**change)).sha256 != shipped.sha256
