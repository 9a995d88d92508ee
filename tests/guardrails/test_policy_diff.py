"""What one policy changes of another, in words, with the direction of every setting in one table."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from guardrails.decide import decide
from guardrails.ladder import ACTIONS
from guardrails.policy import BREAKERS, FALLING
from guardrails.policy_diff import (
    CHANGES,
    FEWER,
    LOOSER,
    MEANINGS,
    MORE,
    OF_THE_RULE,
    TIGHTER,
    UNCLEAR,
    UNITS,
    Meaning,
    meaning_of,
    moved,
    policy_diff,
    settings,
)


def only(found):
    (change,) = found.changes
    return change


def test_every_setting_of_the_policy_has_its_meaning_and_no_other_has(policy):
    led = replace(policy.associated, leads={"A": ("B",)})
    names = settings(replace(policy, associated=led))
    assert [name for name in names if meaning_of(name) is None] == []
    used = {id(meaning_of(name)) for name in names}
    assert [name for name, meaning in MEANINGS.items() if id(meaning) not in used] == []


def test_every_meaning_says_old_and_new_and_what_either_way_does():
    for name, meaning in MEANINGS.items():
        places = ["{moved}"] if meaning.tighter in (FEWER, MORE) else ["{old}", "{new}"]
        assert all(place in meaning.says for place in places), name
        assert bool(meaning.if_tighter and meaning.if_looser) == (meaning.tighter != UNCLEAR), name
        assert meaning.unit in {*UNITS, OF_THE_RULE}, name


def test_the_meanings_are_those_that_were_read_and_accepted():
    """Setting, words, unit, which way is tighter, what tighter and looser do, order of words: `meanings.txt`."""
    written = Path(__file__).with_name("meanings.txt").read_text(encoding="utf-8").splitlines()
    held = [(one.says, one.unit, one.tighter, one.if_tighter, one.if_looser, " ".join(one.order))
            for one in MEANINGS.values()]  # fmt: skip
    assert [" | ".join((name, *said)).rstrip() for name, said in zip(MEANINGS, held, strict=True)] == written


def test_only_lists_come_and_go():
    assert moved(1, 2, "x") == moved("USD", ("USD",), "") == ""
    assert moved(("USD",), ("USD", "DAI"), "") == "with DAI"


def test_a_policy_differs_from_itself_in_nothing(policy):
    found = policy_diff(policy, policy)
    assert (found.changes, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("change", "direction", "words"),
    [
        ({"breakers_price_band__enter": 0.04}, TIGHTER,
         "price_band opens at 4 % instead of 5 %: tighter, it trips earlier"),
        ({"breakers_price_band__enter": 0.0501}, LOOSER,
         "price_band opens at 5.01 % instead of 5 %: looser, it trips later"),
        ({"breakers_depth_collapse__enter": 0.6}, TIGHTER,
         "depth_collapse opens at 60 % instead of 50 %: tighter, it trips earlier"),
        ({"breakers_depth_collapse__exit": 0.65}, LOOSER,
         "depth_collapse is clean at 65 % instead of 70 %: looser, it clears earlier"),
        ({"breakers_stale_feed__exit": 60}, TIGHTER,
         "stale_feed is clean at 60 s instead of 120 s: tighter, it clears later"),
        ({"breakers_price_band__cool_down_min": 5}, LOOSER,
         "price_band cools down for 5 min instead of 10 min: looser, it is half open sooner"),
        ({"breakers_price_band__action": "halted", "breakers_price_band__reset": "person"}, TIGHTER, None),
        ({"breakers_price_band__missing_action": "reduce_only"}, TIGHTER,
         "price_band demands reduce_only instead of cautious while an input is missing: tighter, less is allowed"),
        ({"breakers_price_band__reset": "person"}, TIGHTER,
         "price_band is reset by a person instead of a timer: tighter, somebody has to sign"),
        ({"caps__leverage_steps": [50, 20, 10, 5, 3, 2, 1]}, TIGHTER,
         "steps of the leverage cap: without 25x: tighter, a cap falls further to its step"),
        ({"caps__leverage_steps": [100, 50, 20, 10, 5, 3, 2, 1]}, CHANGES,
         "steps of the leverage cap: without 25x, with 100x: changes"),
        ({"caps__assets_at_par": ["USD", "USDT", "USDC", "FDUSD", "DAI", "USDE"]}, LOOSER,
         "collateral at one dollar a unit: with USDE: looser, what is new loses no haircut"),
        ({"caps__assets_at_par": ["USDT", "USD", "USDC", "FDUSD", "DAI"]}, CHANGES,
         "collateral at one dollar a unit: in another order: changes"),
        ({"caps__exposure_ceiling_usd": 30_000_000}, LOOSER,
         "an account may hold at most 30,000,000 USD of a symbol instead of 25,000,000 USD: looser, more fits"),
        ({"inputs__price_age_s_max": 200}, TIGHTER,
         "a last trade counts until it is 200 s old instead of 300 s: tighter, it is missing sooner"),
        ({"inputs__reference_slow_min": 30}, CHANGES, "the slow bands look back 30 min instead of 60 min: changes"),
        ({"ttl_min": 10}, TIGHTER, None),
    ],
)  # fmt: skip
def test_a_change_says_what_it_means_and_which_way_it_goes(policy, policy_with, change, direction, words):
    found = policy_diff(policy, policy_with(**change))
    assert {one.direction for one in found.changes} == {direction}
    assert len(found.changes) == len(change) == found.count(direction)
    assert words is None or only(found).words == words


def test_a_breaker_s_threshold_that_rises_is_looser_unless_it_measures_what_is_left(policy):
    """Every number of every breaker a quarter higher, there and back."""
    opposite = {TIGHTER: LOOSER, LOOSER: TIGHTER, CHANGES: CHANGES}
    for rule in BREAKERS:
        for name in ("enter", "exit", "cool_down_min"):
            moved = replace(policy.breakers[rule], **{name: getattr(policy.breakers[rule], name) * 1.25})
            other = replace(policy, breakers={**policy.breakers, rule: moved})
            there, back = only(policy_diff(policy, other)), only(policy_diff(other, policy))
            assert there.direction == opposite[back.direction]
            expected = name == "cool_down_min" or rule in FALLING
            assert (there.direction == TIGHTER) == expected, (rule, name)


def test_rules_that_come_and_go_are_one_change_each(policy):
    less = replace(policy, breakers={name: rule for name, rule in policy.breakers.items() if name != "stale_feed"})
    gone, come = only(policy_diff(policy, less)), only(policy_diff(less, policy))
    assert (gone.setting, gone.direction) == ("breakers.stale_feed", LOOSER)
    assert gone.words == "stale_feed is gone: looser, nobody watches for it"
    assert (come.before, come.after, come.direction) == (None, "in force", TIGHTER)


@dataclass(frozen=True)
class Grouped:
    """A policy that has lists under names of its own, such as clusters of symbols."""

    version: int
    effective_from: datetime
    clusters: dict[str, tuple[str, ...]]
    sha256: str = ""


def test_a_list_that_comes_is_looser_where_fewer_are_tighter(policy, monkeypatch):
    meaning = Meaning("cluster {name}: {moved}", "", FEWER, "less counts together", "more counts together")
    monkeypatch.setattr("guardrails.policy_diff.MEANINGS", {"clusters.*": meaning})
    none, one = (Grouped(1, policy.effective_from, clusters) for clusters in ({}, {"dogs": ("DOGE",)}))
    assert [change.words for change in policy_diff(none, one).changes] == [
        "cluster dogs: with DOGE: looser, more counts together"
    ]


def test_lists_under_names_of_their_own_share_one_meaning_and_may_come_and_go(policy, monkeypatch):
    meaning = Meaning("cluster {name}: {moved}", "", MORE, "more counts together", "less counts together")
    monkeypatch.setattr("guardrails.policy_diff.MEANINGS", {"clusters.*": meaning})
    two = Grouped(1, policy.effective_from, {"majors": ("BTC", "ETH"), "dogs": ("DOGE",)})
    one = Grouped(1, policy.effective_from, {"majors": ("BTC",)})
    assert [(change.setting, change.words) for change in policy_diff(one, two).changes] == [
        ("clusters.majors", "cluster majors: with ETH: tighter, more counts together"),
        ("clusters.dogs", "cluster dogs: with DOGE: tighter, more counts together"),
    ]
    assert [change.direction for change in policy_diff(two, one).changes] == [LOOSER, LOOSER]
    monkeypatch.setattr("guardrails.policy_diff.MEANINGS", {})
    assert [change.words for change in policy_diff(one, two).changes] == [
        "clusters.majors is BTC, ETH instead of BTC: changes",
        "clusters.dogs is new: DOGE",
    ]
    assert policy_diff(two, one).changes[1].words == "clusters.dogs is gone, it was DOGE"


def test_a_setting_without_a_meaning_is_still_told(policy, monkeypatch, policy_with):
    monkeypatch.setattr("guardrails.policy_diff.MEANINGS", {})
    change = only(policy_diff(policy, policy_with(caps__haircut_other=0.3)))
    assert change.words == "caps.haircut_other is 0.3 instead of 0.2: changes"


def test_version_and_date_are_not_changes_but_must_rise_together(policy, policy_with):
    assert policy_diff(policy, policy_with(caps__haircut_other=0.3)).notes == (
        "both are version 1: raise it with every change",
    )
    later = replace(policy, version=2, effective_from=policy.effective_from + timedelta(days=1), sha256="b")
    assert policy_diff(policy, later).notes == ()
    assert policy_diff(policy, later).b == {
        "version": 2, "effective_from": later.effective_from.isoformat(), "sha256": "b"
    }  # fmt: skip
    assert policy_diff(policy, later).changes == ()
    assert policy_diff(policy, replace(later, effective_from=policy.effective_from)).notes == (
        "version and date do not rise together: the newer version must be effective later",
    )
    assert policy_diff(later, policy).notes == ("the version falls from 2 to 1",)


MEASURED = (  # a value on the tighter side of each that the rules can be seen to obey on bars alone
    {"breakers_price_band__enter": 0.03}, {"breakers_price_band__exit": 0.01}, {"breakers_depth_collapse__enter": 0.65},
    {"breakers_depth_collapse__exit": 0.95}, {"breakers_price_band__cool_down_min": 25},
    {"breakers_price_band__probation_min": 20}, {"breakers_depth_collapse__probation_action": "reduce_only"},
    {"breakers_depth_collapse__missing_action": "reduce_only"}, {"breakers_depth_collapse__missing_hold_min": 20},
    {"breakers_price_band__action": "halted", "breakers_price_band__reset": "person"},
    {"breakers_price_band__reset": "person"},
    {"caps__leverage_steps": [50, 20, 10, 5, 2, 1]}, {"caps__leverage_floor": 1}, {"caps__leverage_untiered_max": 3},
    {"caps__sigmas_covered": 8}, {"caps__depth_ratio_full": 1.0}, {"caps__oi_per_depth_lower": 1},
    {"caps__oi_per_depth_upper": 110}, {"caps__exposure_ceiling_usd": 10_000_000}, {"caps__exposure_floor_usd": 5_000},
    {"caps__exposure_depth_share": 0.1}, {"caps__exposure_oi_share": 0.001}, {"caps__loosen_hold_min": 20},
    {"ttl_min": 10},
)  # fmt: skip
SHORT = {"inputs__reference_slow_min": 10, "inputs__volatility_min": 10, "inputs__depth_normal_min": 10,
         "caps__loosen_hold_min": 5, "caps__oi_per_depth_lower": 20}  # fmt: skip
ALONE = {"inputs__sigma_floor_1h": 1.0, "breakers_price_band_hour__enter": 0.8, "breakers_price_band_hour__exit": 0.7,
         "breakers_price_halt__enter": 0.9, "breakers_price_halt__exit": 0.8, "breakers_price_halt__reset": "timer",
         "breakers_price_halt__action": "reduce_only", "breakers_price_halt__probation_action": "cautious",
         "breakers_liquidation_rate__enter": 1e6, "breakers_oi_drop__enter": 0.99, "breakers_venue_wide__enter": 1.0,
         "breakers_open_interest_cap__enter": 1e6, "breakers_venue_cap__enter": 1e6}  # fmt: skip


@pytest.mark.parametrize("change", MEASURED, ids=lambda change: next(iter(change)))
def test_what_is_said_to_be_tighter_is_so_in_every_minute_of_a_messy_market(policy_with, messy_bars, change):
    """The table of meanings against the rules themselves: never looser, and somewhere tighter.

    The other breakers are out of the way, so that none of them hides what the changed one does.
    """
    bars = messy_bars(4, 400)
    before, after = policy_with(**SHORT | ALONE), policy_with(**SHORT | ALONE | change)
    assert {one.direction for one in policy_diff(before, after).changes} == {TIGHTER}
    decided = [decide(bars, one) for one in (before, after)]
    old, new = (one.limits.sort("symbol", "ts") for one in decided)
    strict = [
        new["action"].replace_strict(ACTIONS, range(4)) - old["action"].replace_strict(ACTIONS, range(4)),
        old["leverage_cap"] - new["leverage_cap"],
        old["exposure_cap_usd"] - new["exposure_cap_usd"],
        (old["expires_at"] - new["expires_at"]).dt.total_minutes(),
    ]
    assert all((column >= 0).all() for column in strict)
    assert any((column > 0).any() for column in strict)
