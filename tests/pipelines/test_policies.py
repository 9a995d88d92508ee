"""Policies with dates: read whole, in force one after the other, each judging its own minutes."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.audit import audit_path
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.guard import guard_sentence, guard_venue
from pipelines.lake import Lake
from pipelines.orchestrating.told import facts_of
from pipelines.policies import check_policies, in_force_over, policy_in_force, read_policies, read_policy
from pipelines.times import Interval, parse_time
from tests.pipelines.conftest import World
from tests.pipelines.policy_worlds import SHIPPED, T0, folder, stored, text
from tests.pipelines.test_cli import cascadeguard, refused

GUARDED = ("limits", "decisions", "account_decisions", "guard_state")


def at(moment: str) -> datetime:
    return parse_time(moment)


def span(start: str, end: str) -> Interval:
    return Interval(at(start), at(end))


def test_without_a_setting_the_shipped_policy_is_in_force_from_its_date_on() -> None:
    (shipped,) = read_policies(Config())
    assert shipped == read_policy(SHIPPED)
    assert policy_in_force([shipped], datetime(2015, 1, 1, tzinfo=UTC)) is shipped
    with pytest.raises(InputError) as caught:
        policy_in_force([shipped], datetime(2014, 12, 31, 23, 59, tzinfo=UTC))
    said = str(caught.value)
    assert said.startswith(
        "no policy is in force at 2014-12-31T23:59Z: the first is effective from 2015-01-01T00:00Z; "
    )


def test_each_policy_is_in_force_from_its_date_until_the_next(tmp_path: Path) -> None:
    # the names of the files do not matter
    path = folder(tmp_path / "p", text(2, "2025-03-01T12:00:00Z"), text(1), text(3, "2025-03-02T00:00:00Z"))
    policies = read_policies(Config(policy=path))
    assert [policy.version for policy in policies] == [1, 2, 3]
    moments = ("2025-03-01T11:59Z", "2025-03-01T12:00Z", "2025-03-01T23:59Z", "2025-03-02T00:00Z", "2030-01-01T00:00Z")
    assert [policy_in_force(policies, at(moment)).version for moment in moments] == [1, 2, 2, 3, 3]
    cut = in_force_over(policies, span("2025-03-01T11:00Z", "2025-03-02T01:00Z"))
    # a minute is stamped with its end: the one that ends at 12:00 is the second policy's first
    assert [(str(part), policy.version) for part, policy in cut] == [
        ("2025-03-01T11:00Z..2025-03-01T11:59Z", 1),
        ("2025-03-01T11:59Z..2025-03-01T23:59Z", 2),
        ("2025-03-01T23:59Z..2025-03-02T01:00Z", 3),
    ]


def test_an_interval_that_begins_a_minute_before_the_first_policy_has_no_minute_before_it() -> None:
    """Its first minute ends where the policy begins."""
    (shipped,) = read_policies(Config())
    assert len(in_force_over([shipped], span("2014-12-31T23:59Z", "2015-01-01T01:00Z"))) == 1
    with pytest.raises(InputError, match="no policy is in force at 2014-12-31T23:59Z"):
        in_force_over([shipped], span("2014-12-31T23:58Z", "2015-01-01T01:00Z"))


@pytest.mark.parametrize(
    ("start", "end", "versions"),
    [("11:00", "11:59", [1]), ("11:00", "12:00", [1, 2]), ("11:59", "12:30", [2]), ("12:00", "12:30", [2])],
)
def test_the_cut_is_at_the_minute(tmp_path: Path, start: str, end: str, versions: list[int]) -> None:
    policies = read_policies(Config(policy=folder(tmp_path / "p", text(1), text(2, "2025-03-01T12:00:00Z"))))
    cut = in_force_over(policies, span(f"2025-03-01T{start}Z", f"2025-03-01T{end}Z"))
    assert [policy.version for _, policy in cut] == versions
    assert cut[0][0].start == at(f"2025-03-01T{start}Z")
    assert cut[-1][0].end == at(f"2025-03-01T{end}Z")


def test_every_violation_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "p",
        text(1, "2015-01-01T00:00:00"),
        text(2, "2025-01-01T00:00:00Z", ("ttl_min = 15 ", "ttl_min = 0 "),
             ("leverage_floor = 2 ", "leverage_floor = 4 ")),
        text(3, "2026-01-01T00:00:00Z"),
        text(3, "2026-01-01T00:00:00Z", ("haircut_other = 0.2 ", "haircut_other = 0.3 ")),
        text(2, "2027-01-01T00:00:00Z"),
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        read_policies(Config(policy=path))
    said = str(caught.value)
    assert said.startswith("the policy is not valid: 6 violations: 1.toml: `effective_from` must be a time with a zone")
    for one in (
        "2.toml: `ttl_min` must be from 1 to 1440, was 0",
        "2.toml: `caps.leverage_floor` must be a step, was 4",
        "3.toml and 4.toml have the same `effective_from` 2026-01-01T00:00Z",
        "3.toml and 4.toml have the same `version` 3",
        "4.toml and 5.toml: `version` must rise with `effective_from`, fell from 3 to 2",
    ):
        assert one in said


def test_versions_that_are_the_same_though_not_side_by_side_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "p", *(text(v, f"202{v}-0{i}-01T00:00:00Z") for i, v in enumerate((1, 2, 1), 1)))
    (path / "3.toml").write_text(text(1, "2025-01-01T00:00:00Z"))
    with pytest.raises(InputError, match="must rise with `effective_from`, fell from 2 to 1"):
        read_policies(Config(policy=path))


def test_a_directory_without_policies_and_one_where_a_file_is_wanted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no policy: .*; put policies into it as \.toml files"):
        read_policies(Config(policy=tmp_path))
    with pytest.raises(InputError, match="must be a file here"):
        read_policy(tmp_path)
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(InputError, match=r"cannot be read .*x\.toml"):
        read_policies(Config(policy=tmp_path))


# --- guard over a change ---


def rows(lake: Lake, table: str) -> pl.DataFrame:
    found = lake.scan(table).collect()
    return found.sort(found.columns[:4])


def emptied(lake: Lake, world: World) -> Lake:
    for table in GUARDED:
        lake.replace(table, rows(lake, table).head(0), world.venue, world.interval.start - timedelta(days=1),
                     world.interval.end)  # fmt: skip
    shutil.rmtree(audit_path(lake).parent, ignore_errors=True)
    return lake


# Trips often, so that there is something to carry over.
TIGHT = (("enter = 0.05 ", "enter = 0.004 "), ("exit = 0.025 ", "exit = 0.002 "))


@pytest.fixture
def change(world: World, tmp_path: Path) -> tuple[datetime, Config]:
    """The middle of the interval, and settings under which another policy takes over there."""
    middle = world.interval.start + timedelta(hours=17)
    later = text(2, middle.strftime("%Y-%m-%dT%H:%M:%SZ"), ("enter = 0.05 ", "enter = 0.006 "),
                 ("exit = 0.025 ", "exit = 0.002 "))  # fmt: skip
    path = folder(tmp_path / "policies", text(1, "2015-01-01T00:00:00Z", *TIGHT), later)
    return middle, world.config.model_copy(update={"policy": path})


def test_guard_over_a_change_gives_each_minute_its_own_policy_and_says_which(
    world: World, copied: Callable[[], Lake], change: tuple[datetime, Config]
) -> None:
    middle, config = change
    lake = emptied(copied(), world)
    summary = guard_venue(lake, world.venue, world.interval, config)
    for table in ("limits", "decisions"):
        stamped = rows(lake, table).group_by("policy_version").agg(first=pl.col("ts").min(), last=pl.col("ts").max())
        old, new = stamped.sort("policy_version").to_dicts()
        assert old["last"] < middle <= new["first"]
    assert rows(lake, "limits").filter(pl.col("ts") == middle)["policy_version"].to_list() == [2, 2]
    assert (summary.policy_version, summary.earlier_policies) == (2, (1,))
    assert f"policy 1, then policy 2 ({summary.policy_sha256[:12]})" in guard_sentence(summary)
    decided = rows(lake, "decisions")
    assert (summary.rows, summary.decisions) == (rows(lake, "limits").height, decided.height)
    assert summary.by_rule == dict(decided.group_by("rule").len().sort("rule").iter_rows())
    assert summary.account_decisions == rows(lake, "account_decisions").height
    assert summary.new_audit_entries == decided.height
    opened = decided.filter(pl.col("state_after") == "open", pl.col("state_before").ne_missing("open"))
    first = opened.group_by("entity", "rule").agg(pl.col("ts").min()).sort("ts", "entity")
    assert [(trip["entity"], trip["ts"]) for trip in summary.tripped] == [
        (entity, f"{ts:%Y-%m-%dT%H:%MZ}") for entity, _, ts in first.iter_rows()
    ]


def test_a_breaker_that_opens_in_the_first_minute_of_all_is_told(tmp_path: Path) -> None:
    """It has no state before that one: by the run, and by the orchestrator's hour."""
    lake = stored(tmp_path / "lake", 5, {"A": {}})
    bars = rows(lake, "bars").with_columns(mark=pl.lit(95.0))  # 5 % from the index
    span = Interval(T0, T0 + timedelta(minutes=5))
    with lake.writer():
        lake.replace("bars", bars, "v", span.start, span.end)
    summary = guard_venue(lake, "v", span, Config(policy=folder(tmp_path / "policies", text())))
    assert [(trip["entity"], trip["rule"], trip["ts"]) for trip in summary.tripped] == [
        ("A", "mark_index_divergence", f"{T0 + timedelta(minutes=1):%Y-%m-%dT%H:%MZ}")
    ]
    hour = facts_of(lake, "v", span)["decisions"][T0]
    assert hour["breakers opened"] == 1
    assert "00:01 A mark_index_divergence: mark is 5.0 % from the index" in str(hour["tripped"])


def decided(lake: Lake) -> list[Any]:
    """The decisions of the audit log; what it says of runs holds the versions of the tables that were read."""
    lines = audit_path(lake).read_text(encoding="utf-8").splitlines()
    return [entry for entry in (json.loads(line)["entry"] for line in lines) if "run" not in entry]


def test_guard_over_a_change_equals_two_runs_that_meet_there(
    world: World, copied: Callable[[], Lake], change: tuple[datetime, Config]
) -> None:
    middle, config = change
    lake = emptied(copied(), world)
    guard_venue(lake, world.venue, world.interval, config)
    once, log = {table: rows(lake, table) for table in GUARDED}, decided(lake)
    emptied(lake, world)
    cut = middle - timedelta(minutes=1)
    guard_venue(lake, world.venue, Interval(world.interval.start, cut), config)
    guard_venue(lake, world.venue, Interval(cut, world.interval.end), config)
    for table in ("limits", "decisions", "account_decisions"):
        assert rows(lake, table).equals(once[table]), table
    assert decided(lake) == log


def test_a_new_policy_with_the_same_numbers_changes_nothing_though_a_breaker_is_open(
    world: World, copied: Callable[[], Lake], tmp_path: Path
) -> None:
    """The state carries over: without it the open breaker would be closed in the new policy's first minute."""
    path, lake = folder(tmp_path / "p", text(1, "2015-01-01T00:00:00Z", *TIGHT)), emptied(copied(), world)
    config = world.config.model_copy(update={"policy": path})
    guard_venue(lake, world.venue, world.interval, config)
    once = {table: rows(lake, table) for table in GUARDED}
    opened = once["decisions"].filter(pl.col("rule") == "price_band", pl.col("state_after") == "open")
    change = opened["ts"].max() + timedelta(minutes=1)  # type: ignore[operator]  # a moment
    folder(path, text(1, "2015-01-01T00:00:00Z", *TIGHT), text(2, f"{change:%Y-%m-%dT%H:%M:%SZ}", *TIGHT))
    guard_venue(emptied(lake, world), world.venue, world.interval, config)
    stamps = ["policy_version", "policy_sha256", "decision_id"]
    for table in ("limits", "decisions", "account_decisions"):
        frame = once[table]
        now, before = (one.drop(stamps, strict=False).sort(pl.all()) for one in (rows(lake, table), frame))
        assert now.equals(before), table
    assert rows(lake, "limits")["policy_version"].n_unique() == 2


@pytest.mark.parametrize("cuts", [(795,), (792, 795, 799), (790,), (830,)])
def test_a_halt_goes_on_though_the_venue_is_silent_where_one_run_ends_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...]
) -> None:
    """It would have been lifted in the next run: no state was left in the very minute in which that begins."""
    monkeypatch.setattr("pipelines.guard.build_bars", lambda *_: None)  # the silence is made by taking bars away
    lake = stored(tmp_path / "lake", 900, {"A": {300: 75.0}})
    lake.replace("bars", rows(lake, "bars").head(0), "v", T0 + timedelta(minutes=790), T0 + timedelta(minutes=800))
    for start, end in pairwise((260, *cuts, 900)):
        guard_venue(lake, "v", Interval(T0 + timedelta(minutes=start), T0 + timedelta(minutes=end)), Config())
    late = rows(lake, "limits").filter(pl.col("ts") >= T0 + timedelta(minutes=300))
    assert late.height == 591  # 300 to 900 without ten silent minutes
    assert late["action"].unique().to_list() == ["halted"]
    assert not rows(lake, "guard_state").select("symbol", "rule", "ts").is_duplicated().any()


def test_a_halt_goes_on_under_a_new_policy(tmp_path: Path) -> None:
    """It is older than all bars that the first run of the new policy looks back to."""
    lake, change = stored(tmp_path / "lake", 900, {"A": {300: 75.0}}), T0 + timedelta(minutes=850)
    config = Config(policy=folder(tmp_path / "p", text(1), text(2, f"{change:%Y-%m-%dT%H:%M:%SZ}")))
    guard_venue(lake, "v", Interval(T0 + timedelta(minutes=260), T0 + timedelta(minutes=900)), config)
    found = rows(lake, "limits").filter(pl.col("ts") >= T0 + timedelta(minutes=300))
    assert dict(found.group_by("policy_version", "action").len().sort("policy_version").drop("action").iter_rows()) == {
        1: 550, 2: 51,  # 300 to 849, 850 to 900
    }  # fmt: skip
    assert found["action"].unique().to_list() == ["halted"]


def test_guard_before_the_first_policy_is_refused_and_writes_nothing(
    world: World, copied: Callable[[], Lake], tmp_path: Path
) -> None:
    lake = copied()
    (tmp_path / "late.toml").write_text(text(1, "2026-01-01T00:00:00Z"))
    before = {table: rows(lake, table) for table in GUARDED}
    with pytest.raises(
        InputError, match=r"no policy is in force at 2025-01-01T00:01Z: the first is effective from 2026"
    ):
        guard_venue(
            lake, world.venue, world.interval, world.config.model_copy(update={"policy": tmp_path / "late.toml"})
        )
    assert all(rows(lake, table).equals(frame) for table, frame in before.items())


# --- commands ---


def test_policy_alone_says_version_and_hash_of_a_file_or_of_the_one_in_force(tmp_path: Path) -> None:
    shipped = read_policy(SHIPPED)
    said = f"policy 1 is valid, sha256 {shipped.sha256}\n"
    assert cascadeguard("policy", cwd=tmp_path).stdout == said
    assert cascadeguard("policy", SHIPPED, cwd=tmp_path).stdout == said
    folder(tmp_path / "p", text(1), text(2, "2020-01-01T00:00:00Z"), text(3, "2999-01-01T00:00:00Z"))
    (tmp_path / "own.toml").write_text('policy = "p"\n')
    in_force = cascadeguard("policy", "--config", "own.toml", "--json", cwd=tmp_path)
    assert json.loads(in_force.stdout)["version"] == 2
    refused(cascadeguard("policy", "p", cwd=tmp_path), "must be a file here")


def test_check_runs_the_examples_and_says_how_many_hold(tmp_path: Path) -> None:
    done = cascadeguard("policy", "check", cwd=tmp_path)
    assert re.fullmatch(
        r"policy 1 is valid, effective from 2015-01-01T00:00Z, all \d+ worked examples of \d+ rules hold, "
        r"sha256 [0-9a-f]{64}\n",
        done.stdout,
    )
    (row,) = json.loads(cascadeguard("policy", "check", SHIPPED, "--json", cwd=tmp_path).stdout)["policies"]
    assert set(row) == {"file", "version", "sha256", "effective_from", "examples"}
    assert row["examples"]["price_band"] >= 2
    bare = "\n".join(line for line in text().splitlines() if not line.startswith("#>"))
    (tmp_path / "bare.toml").write_text(bare)
    assert "it has no worked examples" in cascadeguard("policy", "check", "bare.toml", cwd=tmp_path).stdout


def test_check_names_the_line_the_rule_and_what_came_out_of_a_wrong_example(tmp_path: Path) -> None:
    wrong = text(
        1, "2015-01-01T00:00:00Z", ("price_halt: observed 20 % -> open", "price_halt: observed 20 % -> closed")
    )
    (tmp_path / "wrong.toml").write_text(wrong)
    line = next(i for i, said in enumerate(wrong.splitlines(), 1) if "-> closed, halted" in said)
    told = f"1 violation: line {line}: price_halt: `observed 20 %` gives open, halted, the example says closed, halted"
    refused(cascadeguard("policy", "check", "wrong.toml", cwd=tmp_path), told, "wrong.toml")
    assert cascadeguard("policy", "wrong.toml", cwd=tmp_path).returncode == 0  # the policy itself is valid


def test_check_of_a_directory_tells_violations_and_wrong_examples_of_all_files(tmp_path: Path) -> None:
    folder(tmp_path / "p", text(1), text(2, "2025-01-01T00:00:00Z", ("enter = 0.05 ", "enter = 0.04 ")))
    refused(
        cascadeguard("policy", "check", "p", cwd=tmp_path), "1 violation: 2.toml: line ", "`observed 4.9 %` gives open"
    )
    (tmp_path / "p" / "3.toml").write_text("ttl_min = 0")
    refused(cascadeguard("policy", "check", "p", cwd=tmp_path), "3.toml: `caps` is missing", "2.toml: line ")
    folder(tmp_path / "q", text(1), text(2, "2025-01-01T00:00:00Z"))
    assert cascadeguard("policy", "check", "q", cwd=tmp_path).stdout.count("is valid") == 2
    assert [row["version"] for row in check_policies(tmp_path / "q").policies] == [1, 2]


def test_diff_tells_every_change_in_words_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text(1))
    (tmp_path / "b.toml").write_text(
        text(2, "2025-01-01T00:00:00Z", ("enter = 0.05 ", "enter = 0.04 "),
             ("volatility_min = 60 ", "volatility_min = 90 "),
             ("loosen_hold_min = 30 ", "loosen_hold_min = 20 "))
    )  # fmt: skip
    a, b = (read_policy(tmp_path / name).sha256[:12] for name in ("a.toml", "b.toml"))
    done = cascadeguard("policy", "diff", "a.toml", "b.toml", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        f"policy 1 from 2015-01-01T00:00Z ({a}) -> policy 2 from 2025-01-01T00:00Z ({b})",
        "3 settings: 1 tighter, 1 looser, 1 either way",
        "  inputs.volatility_min      volatility is taken over 90 min instead of 60 min: changes",
        "  breakers.price_band.enter  price_band opens at 4 % instead of 5 %: tighter, it trips earlier",
        "  caps.loosen_hold_min       a looser cap is given after 20 min instead of 30 min: looser, caps rise sooner",
    ]
    found: dict[str, Any] = json.loads(
        cascadeguard("policy", "diff", "a.toml", "b.toml", "--json", cwd=tmp_path).stdout
    )
    assert set(found) == {"a", "b", "changes", "notes"}
    assert [(one["setting"], one["before"], one["after"], one["direction"]) for one in found["changes"]] == [
        ("inputs.volatility_min", 60, 90, "changes"),
        ("breakers.price_band.enter", 0.05, 0.04, "tighter"),
        ("caps.loosen_hold_min", 30, 20, "looser"),
    ]
    same = cascadeguard("policy", "diff", "a.toml", "a.toml", cwd=tmp_path)
    assert (same.returncode, same.stdout.splitlines()[1]) == (0, "every setting is the same")
    refused(cascadeguard("policy", "diff", "a.toml", cwd=tmp_path), "B")
    refused(cascadeguard("policy", "diff", "a.toml", "none.toml", cwd=tmp_path), "policy cannot be read", "none.toml")


def test_the_help_of_policy_tells_its_commands_in_order(tmp_path: Path) -> None:
    told = cascadeguard("policy", "--help", cwd=tmp_path).stdout
    places = [told.index(f"│ {name} ") for name in ("check", "diff", "trial")]
    assert places == sorted(places)
    assert "│ show " not in told
