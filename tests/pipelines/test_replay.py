"""Every logged decision follows from stored inputs and the stored policy, or the first that does not is named."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from guardrails.audit import chain
from pipelines import audit, replay
from pipelines.audit import audit_path, verify_audit
from pipelines.cli import run
from pipelines.config import Config
from pipelines.demo import START
from pipelines.errors import InputError
from pipelines.explain import explain_decision, explain_sentence
from pipelines.guard import add_resets, guard_venue
from pipelines.lake import Lake
from pipelines.replay import check_replay, check_sentence
from pipelines.times import Interval
from tests.pipelines.conftest import World

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def guarded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world guarded anew in three runs of ten hours, with a log of their own."""
    root, start = tmp_path_factory.mktemp("parts") / "lake", world.interval.start
    shutil.copytree(world.lake.root / "tables", root / "tables")
    for table in ("limits", "decisions", "account_decisions", "guard_state"):
        shutil.rmtree(root / "tables" / table)
    for k in range(3):
        part = Interval(start + 10 * k * HOUR, start + 10 * (k + 1) * HOUR)
        guard_venue(Lake(root), world.venue, part, world.config)
    return root


@pytest.fixture
def parts(guarded: Path, tmp_path: Path) -> Lake:
    """A copy of it that may be changed."""
    shutil.copytree(guarded, tmp_path / "parts")
    return Lake(tmp_path / "parts")


def hours(world: World, first: float, last: float) -> Interval:
    """Hours before the world's end."""
    return Interval(world.interval.end - first * HOUR, world.interval.end - last * HOUR)


def rewrite(lake: Lake, change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> None:
    """Forge the log as one who knows how: entries changed, every hash and the seal made to fit."""
    path = audit_path(lake)
    entries = [json.loads(line)["entry"] for line in path.read_text(encoding="utf-8").splitlines()]
    lines = chain(change(entries))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    head = audit.read_head(lake)
    audit._seal(lake, audit.Head(len(lines), path.stat().st_size, json.loads(lines[-1])["sha256"], head.until))


def late(lake: Lake, world: World, interval: Interval, factor: float) -> None:
    """Late data: the closing prices of `interval` become others."""
    bars = lake.scan("bars", world.venue, interval.start, interval.end).collect()
    lake.replace("bars", bars.with_columns(pl.col("close") * factor), world.venue, interval.start, interval.end)


def test_a_log_of_several_runs_follows_to_the_byte(parts: Lake) -> None:
    found = check_replay(parts)
    assert (found.verdict, found.runs, found.older_inputs, found.first) == ("intact", 3, 0, None)
    assert found.decisions == verify_audit(parts)["decisions"] > 10
    assert check_sentence(found).startswith(f"intact: {found.decisions} decisions of 3 runs follow")


def test_a_part_of_the_log_can_be_checked_alone(world: World, parts: Lake) -> None:
    assert check_replay(parts, hours(world, 20, 10)).runs == 1
    assert check_replay(parts, hours(world, 20.1, 10)).runs == 2
    assert check_replay(parts, hours(world, 30, 0)).runs == 3
    with pytest.raises(InputError, match="no run of the log judged a minute"):
        check_replay(parts, hours(world, 0, -1))


@pytest.mark.parametrize(
    ("column", "value"),
    [("observed", 0.123), ("reason", "all is well"), ("action", "normal!"), ("limit_after", 49.0), ("expires_at", "x"),
     ("policy_version", 2), ("reason", None)],
)  # fmt: skip
def test_a_decision_that_was_forged_with_fitting_hashes_does_not_follow(
    parts: Lake, column: str, value: object
) -> None:
    forged = 5
    rewrite(parts, lambda held: [entry | ({column: value} if n == forged else {}) for n, entry in enumerate(held)])
    verify_audit(parts)
    found = check_replay(parts)
    assert found.verdict == "does not follow"
    assert found.first is not None
    assert (found.first.line, found.first.column) == (forged + 1, column)
    assert found.first.logged == (value if isinstance(value, str) else json.dumps(value))
    assert "what the log says was not made from them" in found.first.why
    assert found.first.what in check_sentence(found)


@pytest.mark.parametrize("how", ["dropped", "added", "swapped"])
def test_a_decision_that_is_not_there_or_one_too_many_does_not_follow(parts: Lake, how: str) -> None:
    parts.replace("decisions", parts.scan("decisions").collect().clear(), "sim", START, START + timedelta(days=9))

    def change(entries: list[dict[str, object]]) -> list[dict[str, object]]:
        return {
            "dropped": [*entries[:3], *entries[4:]],
            "added": [*entries[:3], entries[3] | {"decision_id": "more"}, *entries[3:]],
            "swapped": [*entries[:3], entries[4], entries[3], *entries[5:]],
        }[how]

    logged = [json.loads(line)["entry"] for line in audit_path(parts).read_text().splitlines()]
    rewrite(parts, change)
    verify_audit(parts)
    found = check_replay(parts)
    assert found.verdict == "does not follow"
    assert found.first is not None
    assert found.first.what == ("more" if how == "added" else logged[4 if how == "swapped" else 3]["decision_id"])
    assert (found.first.logged == "no decision") == (how == "dropped")
    assert (found.first.recomputed == "no decision") == (how == "added")


def test_late_data_is_told_from_a_forgery(world: World, parts: Lake) -> None:
    """While the version that was read is kept, decisions still follow from it; once it is swept, nobody can tell."""
    late(parts, world, hours(world, 11, 10), 1.2)
    found = check_replay(parts)
    assert (found.verdict, found.older_inputs) == ("intact", 2)  # the last run looks back on the same minutes
    assert "read as the lake was then" in check_sentence(found)
    with parts.writer():
        assert parts.sweep("bars") > 0
    found = check_replay(parts)
    assert found.verdict == "inputs changed"
    assert found.first is not None
    assert found.first.why.startswith(
        "the run read other bars than the lake holds, and the version it read is not kept"
    )


def test_a_run_with_late_data_is_a_run_of_its_own_and_both_follow(world: World, parts: Lake) -> None:
    late(parts, world, hours(world, 11, 10), 1.2)
    again = guard_venue(parts, world.venue, hours(world, 20, 10), world.config)
    assert again.new_audit_entries > 0
    found = check_replay(parts)
    assert (found.verdict, found.runs) == ("intact", 4)
    told = [entry["decision_id"] for entry in audit.entries(parts) if "run" not in entry]
    gone = set(told) - set(parts.scan("decisions").collect()["decision_id"])
    superseded = explain_decision(parts, sorted(gone)[0])
    assert superseded["superseded"]
    assert "a later run over this minute decided otherwise" in explain_sentence(superseded)


def test_inputs_that_changed_without_changing_an_outcome_are_no_difference(world: World, parts: Lake) -> None:
    """A mark that was a little younger, an hour before the end: it is not the oldest feed."""
    last = hours(world, 1, 1 - 1 / 60)
    bars = parts.scan("bars", world.venue, last.start, last.end).collect()
    parts.replace("bars", bars.with_columns(pl.col("mark_age_s") * 0.99), world.venue, last.start, last.end)
    with parts.writer():
        parts.sweep("bars")
    found = check_replay(parts)
    assert (found.verdict, found.older_inputs) == ("intact", 0)


def test_resets_are_stored_inputs(world: World, parts: Lake, tmp_path: Path) -> None:
    path = tmp_path / "resets.csv"
    ts = (world.interval.end - HOUR).isoformat()
    path.write_text(f"venue,symbol,ts,rule,by\nsim,*,{ts},price_halt,Desk Head\n")
    add_resets(parts, path)
    guard_venue(parts, world.venue, hours(world, 10, 0), world.config)
    found = check_replay(parts)
    assert (found.verdict, found.runs, found.older_inputs) == ("intact", 4, 1)


def test_another_policy_has_runs_of_its_own_and_is_kept(parts: Lake, world: World, tmp_path: Path) -> None:
    text = Path("guardrails/policy.toml").read_text(encoding="utf-8").replace("enter = 0.05 ", "enter = 0.001 ")
    (tmp_path / "p.toml").write_text(text.replace("exit = 0.025 ", "exit = 0.0005 "), encoding="utf-8")
    other = world.config.model_copy(update={"policy": tmp_path / "p.toml"})
    guard_venue(parts, world.venue, hours(world, 10, 0), other)
    assert check_replay(parts).verdict == "intact"
    assert len(list((audit_path(parts).parent / "policies").iterdir())) == 2
    tripped = parts.scan("decisions").filter(pl.col("rule") == "price_band", pl.col("state_after") == "open").collect()
    assert "enter = 0.001" in explain_sentence(explain_decision(parts, tripped["decision_id"][-1]))


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (lambda path: path.unlink(), "the text of the policy is not kept"),
        (
            lambda path: path.write_text(path.read_text().replace("enter = 0.05 ", "enter = 0.06 ")),
            "its text was changed",
        ),
        (lambda path: path.write_text("version = 1"), "cannot be read by this version: `ttl_min` must be"),
    ],
)
def test_a_policy_that_is_not_what_the_log_names_is_said(parts: Lake, do: Callable[[Path], object], why: str) -> None:
    do(next((audit_path(parts).parent / "policies").iterdir()))
    found = check_replay(parts)
    assert found.first is not None
    assert (found.verdict, found.first.column) == ("does not follow", "text")
    assert why in found.first.why


def test_other_rules_are_told_from_a_forgery(parts: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "rules_sha256", lambda: "other")
    assert check_replay(parts).verdict == "intact"
    rewrite(parts, lambda entries: [entry | ({"observed": 9.0} if n == 3 else {}) for n, entry in enumerate(entries)])
    found = check_replay(parts)
    assert found.first is not None
    assert (found.verdict, found.first.column) == ("rules changed", "observed")


@pytest.mark.parametrize("table", ["limits", "account_decisions", "state"])
def test_the_tables_beside_the_decisions_are_compared_too(parts: Lake, table: str) -> None:
    def change(entries: list[dict[str, object]]) -> list[dict[str, object]]:
        text = json.dumps(entries)
        first = next(entry["run"] for entry in entries if "run" in entry)
        own = first["outputs"][table]["sha256"]  # type: ignore[index]
        changed: list[dict[str, object]] = json.loads(text.replace(own, "0" * 64, 1))
        return changed

    rewrite(parts, change)
    found = check_replay(parts)
    assert found.first is not None
    assert (found.verdict, found.first.what, found.first.column) == ("does not follow", table, "content")


def test_a_broken_chain_is_not_replayed(parts: Lake) -> None:
    lines = audit_path(parts).read_text(encoding="utf-8").splitlines(keepends=True)
    audit_path(parts).write_text("".join([*lines[:2], *lines[3:]]), encoding="utf-8")
    with pytest.raises(InputError, match="broken at line 3"):
        check_replay(parts)


def test_decisions_without_a_run_are_not_believed(parts: Lake) -> None:
    rewrite(parts, lambda entries: entries[:-1])
    with pytest.raises(InputError, match="no run vouches for the last"):
        check_replay(parts)


# --- the command


def test_the_command_says_intact_or_the_first_difference(parts: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--lake", str(parts.root)]
    assert run(["replay", "--verify", *place]) == 0
    assert "keep its last hash" in capsys.readouterr().out
    assert run(["replay", "--check", *place]) == 0
    assert capsys.readouterr().out.startswith("intact: ")
    rewrite(parts, lambda entries: [entry | ({"observed": 9.0} if n == 3 else {}) for n, entry in enumerate(entries)])
    assert run(["replay", "--check", "--json", *place]) == 1
    assert json.loads(capsys.readouterr().out)["first"]["column"] == "observed"
    decision_id = parts.scan("decisions").collect()["decision_id"][0]
    assert run(["explain", decision_id, *place]) == 0
    assert run(["explain", decision_id, "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["decision"]["decision_id"] == decision_id


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to replay"),
        (["--verify", "--check"], "say what to replay"),
        (["--verify", "--from", "2025-01-01", "--to", "2025-01-02"], "the chain is verified whole"),
        (["--check", "--from", "2025-01-01"], "--from and --to go together"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    world: World, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", *arguments, "--lake", str(world.lake.root)]) == 2
    assert said in capsys.readouterr().err


def test_a_lake_without_a_log_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Config().lake is not None
    for how in ("--verify", "--check"):
        assert run(["replay", how, "--lake", str(tmp_path)]) == 2
        assert "there is no audit log" in capsys.readouterr().err
