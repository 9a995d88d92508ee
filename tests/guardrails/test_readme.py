"""The package's README is complete: every rule and every number of the policy stands in its table."""

import re
import tomllib
from datetime import datetime
from pathlib import Path

import pytest

import guardrails
from guardrails.breakers import RULES as RULES_BY_CARD
from guardrails.decide import RULES
from guardrails.ladder import ACTIONS, MEANING
from guardrails.policy import TABLES
from guardrails.validity import markdown

README = Path(str(guardrails.__file__)).with_name("README.md").read_text(encoding="utf-8")
POLICY = tomllib.loads(Path(str(guardrails.__file__)).with_name("policy.toml").read_text(encoding="utf-8"))
ROWS = {line.split("|")[1].strip().strip("`"): line for line in README.splitlines() if line.startswith("| `")}
SECTIONS = {"policy": {name: POLICY[name] for name in ("version", "effective_from", "ttl_min")},
            "inputs": POLICY["inputs"], "proposal": POLICY["proposal"], "associated": POLICY["associated"],
            "margin": POLICY["margin"], "throttle": POLICY["throttle"], "fund": POLICY["fund"],
            "clusters": POLICY["clusters"], "validity": POLICY["validity"], **POLICY["breakers"]}  # fmt: skip
CAPS = ("leverage_cap", "exposure_cap", "cluster_cap", "collateral_cap", "venue_collateral_cap", "concentration",
        "account_ceiling")  # fmt: skip


def said(name, value):
    if isinstance(value, datetime):
        return f"`{name} = {value:%Y-%m-%dT%H:%M:%SZ}`"
    return f"`{name} = {'[' + ', '.join(map(str, value)) + ']' if isinstance(value, list) else value}`"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_row(rule):
    assert rule in ROWS


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_a_section_stands_in_its_row(section):
    missing = [said(name, value) for name, value in SECTIONS[section].items() if said(name, value) not in ROWS[section]]
    assert missing == []


def test_every_number_of_the_caps_stands_in_the_row_of_a_cap():
    rows = "".join(ROWS[name] for name in CAPS)
    assert [said(name, value) for name, value in POLICY["caps"].items() if said(name, value) not in rows] == []


def test_every_action_is_explained():
    assert [action for action in ACTIONS if MEANING[action] not in ROWS[action]] == []


def test_the_table_of_what_is_off_is_what_the_breakers_need():
    needed = {table: {card.name for card in RULES_BY_CARD if table in card.needs} for table in TABLES}
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in README.splitlines() if line.startswith("| ")}
    assert {table: set(re.findall(r"`(\w+)`", rows[table])) for table in TABLES} == needed


def test_the_table_of_what_each_fault_blocks_is_the_one_in_the_code():
    assert markdown() in README
