"""A decision is told on one screen, with what stood around it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.audit import audit_path
from pipelines.demo import START
from pipelines.errors import InputError
from pipelines.explain import explain_decision, explain_sentence, section
from pipelines.lake import Lake
from tests.pipelines.conftest import World

HOUR = timedelta(hours=1)


def test_a_decision_is_told_on_one_screen(world: World) -> None:
    opened = world.lake.scan("decisions").filter(pl.col("state_after") == "open").collect()
    for decision_id in (*opened["decision_id"][:3], *world.lake.scan("decisions").collect()["decision_id"][:20]):
        told = explain_sentence(explain_decision(world.lake, decision_id)).splitlines()
        labels = [line.split(":")[0] for line in told if not line.startswith(" ")][1:]
        assert labels == ["seen", "limit", "allowed", "why", "clears", "reset by", "data health", "in force", "minute",
                          "before", "policy"]  # fmt: skip
        assert len(told) <= 24
        assert max(map(len, told)) <= 110
    with pytest.raises(InputError, match="no such decision"):
        explain_decision(world.lake, "nothing")


def test_the_decision_before_is_the_one_before(world: World) -> None:
    rows = world.lake.scan("decisions").filter(pl.col("rule") == "leverage_cap").sort("ts").collect()
    entity = rows["entity"][0]
    ids = rows.filter(entity=entity)["decision_id"].to_list()
    assert len(ids) > 2
    found = [explain_decision(world.lake, decision_id)["before"] for decision_id in ids[:3]]
    assert [one and one["decision_id"] for one in found] == [None, *ids[:2]]


def test_the_facts_of_the_minute_are_those_the_rule_saw(world: World) -> None:
    rows = world.lake.scan("decisions").filter(pl.col("observed").is_not_null()).collect()
    facts = {"price_band": "move_fast", "depth_collapse": "depth_ratio", "stale_feed": "feed_age_s",
             "mark_index_divergence": "divergence"}  # fmt: skip
    checked = 0
    for row in rows.filter(pl.col("rule").is_in(list(facts))).head(40).iter_rows(named=True):
        seen = explain_decision(world.lake, row["decision_id"])["facts"]
        assert abs(seen[facts[row["rule"]]]) == row["observed"]
        checked += 1
    assert checked > 5


def test_what_is_no_longer_there_is_said(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    decision_id = lake.scan("decisions").collect()["decision_id"][0]
    for table in ("bars", "limits"):
        lake.replace(table, lake.scan(table).collect().clear(), world.venue, START - HOUR, world.interval.end)
    next((audit_path(lake).parent / "policies").iterdir()).unlink()
    told = explain_sentence(explain_decision(lake, decision_id))
    for words in ("no limits of this minute any more", "no bars of this minute any more", "its text is not kept"):
        assert words in told


def test_a_cap_shows_its_own_settings() -> None:
    text = Path("guardrails/policy.toml").read_text(encoding="utf-8")
    assert section(text, "exposure_cap")[0] == "exposure_ceiling_usd = 25000000"
    assert section(text, "leverage_cap")[0] == "leverage_steps = [50, 25, 20, 10, 5, 3, 2, 1]"
    assert section(text, "price_halt")[:2] == ["enter = 0.20", "exit = 0.10"]
    assert not set(section(text, "exposure_cap")) & set(section(text, "price_halt"))
