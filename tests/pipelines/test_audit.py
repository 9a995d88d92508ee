"""The audit log on disk: what was taken away, changed or forged is named; a killed run leaves nothing behind."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from guardrails.audit import chain
from guardrails.decide import DECISIONS
from pipelines import audit
from pipelines.audit import Run, append_run, audit_path, content_of, keep_policy, kept_policy, read_head, verify_audit
from pipelines.demo import START
from pipelines.errors import InputError
from pipelines.guard import guard_venue
from pipelines.lake import Lake
from pipelines.times import Interval
from tests.pipelines.conftest import World


def decisions(first: int, count: int, venue: str = "v") -> pl.DataFrame:
    """Decision number n falls into minute n."""
    rows = [
        {"decision_id": f"{venue}{n}", "venue": venue, "entity": "A", "rule": "price_band", "ts": START + n * MINUTE,
         "reason": "ümläut | pipe", "observed": n / 7}
        for n in range(first, first + count)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=DECISIONS)


MINUTE = timedelta(minutes=1)


def run_over(first: int, count: int, venue: str = "v", **more: object) -> Run:
    span = Interval(START + (first - 1) * MINUTE, START + (first + count - 1) * MINUTE)
    told = {"policy_version": 1, "policy_sha256": "p", "inputs": {}, "outputs": {}, "versions": {"bars": 1}} | more
    return Run(venue, span, **told)  # type: ignore[arg-type]


def append(lake: Lake, first: int, count: int, venue: str = "v", **more: object) -> int:
    with lake.writer():
        return append_run(lake, decisions(first, count, venue), run_over(first, count, venue, **more)).decisions


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two runs: lines 1 to 5 are four decisions and their run, lines 6 to 9 three and theirs."""
    found = Lake(tmp_path / "lake")
    assert append(found, 1, 4) == 4
    assert append(found, 5, 3) == 3
    return found


def lines_of(lake: Lake) -> list[str]:
    return audit_path(lake).read_text(encoding="utf-8").splitlines(keepends=True)


def forged(lines: list[str]) -> str:
    """A line that fits: its number, the hash before and its own are right."""
    entry = {"decision_id": "forged", "venue": "v"}
    return chain([entry], json.loads(lines[-1])["sha256"], first_seq=len(lines))[0] + "\n"


SPOILED: dict[str, tuple[Callable[[list[str]], list[str]], int, str]] = {
    "a byte edited": (lambda o: [*o[:2], o[2].replace("price", "prize", 1), *o[3:]], 3, "does not match its hash"),
    "a byte of the last line edited": (lambda o: [*o[:8], o[8].replace('"v"', '"w"')], 9, "does not match its hash"),
    "a line dropped": (lambda o: [*o[:3], *o[4:]], 4, "number must be 3, was 4"),
    "two lines swapped": (lambda o: [*o[:1], o[2], o[1], *o[3:]], 2, "number must be 1, was 2"),
    "a line twice": (lambda o: [*o[:3], *o[2:]], 4, "number must be 3, was 2"),
    "the last line cut off": (lambda o: o[:8], 9, "missing: 9 entries were sealed, the log ends after 8"),
    "the last run cut off": (lambda o: o[:5], 6, "missing: 9 entries were sealed, the log ends after 5"),
    "all cut off": (lambda _: [], 1, "missing: 9 entries were sealed, the log ends after 0"),
    "half of the last line": (lambda o: [*o[:8], o[8][:40]], 9, "not JSON"),
    "a forged line appended": (lambda o: [*o, forged(o)], 10, "was never sealed: 9 entries were"),
    "half a line appended": (lambda o: [*o, forged(o)[:30]], 10, "was never sealed: 9 entries were"),
    "the last line forged anew": (lambda o: [*o[:8], forged(o[:8])], 9, "is not the line that was sealed last"),
    "all forged anew": (
        lambda o: [line + "\n" for line in chain([{"decision_id": "x", "venue": "v"}] * len(o))], 9,
        "is not the line that was sealed last: it or one before it was written anew",
    ),
    "a line forged in the middle": (lambda o: [*o[:2], forged(o[:2]), *o[3:]], 4, "does not follow the line before"),
    "a line of something else": (
        lambda o: [*o[:2], chain([{"x": 1}], json.loads(o[1])["sha256"], first_seq=2)[0] + "\n"], 3,
        "is neither a decision nor a run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_what_was_done_to_the_log_is_found_and_the_first_broken_entry_named(lake: Lake, how: str) -> None:
    assert verify_audit(lake) == {
        "ok": True, "entries": 9, "decisions": 7, "runs": 2, "last_hash": json.loads(lines_of(lake)[-1])["sha256"]
    }  # fmt: skip
    spoil, line, reason = SPOILED[how]
    audit_path(lake).write_text("".join(spoil(lines_of(lake))), encoding="utf-8")
    with pytest.raises(InputError, match=f"broken at line {line} .*{reason}"):
        verify_audit(lake)


@pytest.mark.parametrize("how", [how for how in SPOILED if "appended" not in how])
def test_nothing_is_chained_to_a_log_that_is_broken(lake: Lake, how: str) -> None:
    """Minutes judged before: the whole log is read anyway. New ones: its end alone, so that appending stays cheap."""
    spoil, line, _ = SPOILED[how]
    audit_path(lake).write_text("".join(spoil(lines_of(lake))), encoding="utf-8")
    before = audit_path(lake).read_bytes()
    with pytest.raises(InputError, match=f"broken at line {line} "):
        append(lake, 1, 7)
    if how not in ("two lines swapped", "a byte edited"):  # of the same length, and not the last line
        with pytest.raises(InputError, match=f"broken at line {line} "):
            append(lake, 8, 1)
        assert audit_path(lake).read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"entries": 9}', "null", "x"])
def test_a_seal_that_cannot_be_read_stops_everything(lake: Lake, text: str) -> None:
    audit_path(lake).with_name("head.json").write_text(text)
    for act in (lambda: verify_audit(lake), lambda: append(lake, 8, 1)):
        with pytest.raises(InputError, match="the seal of the audit log cannot be read"):
            act()


def test_a_log_without_its_seal_is_not_trusted_and_a_seal_without_its_log_neither(lake: Lake) -> None:
    head = audit_path(lake).with_name("head.json")
    kept = head.read_text()
    head.unlink()
    for act in (lambda: verify_audit(lake), lambda: append(lake, 8, 1)):
        with pytest.raises(InputError, match="no seal beside it"):
            act()
    head.write_text(kept)
    audit_path(lake).unlink()
    for act in (lambda: verify_audit(lake), lambda: append(lake, 8, 1)):
        with pytest.raises(InputError, match="missing: 9 entries were sealed"):
            act()
    with pytest.raises(InputError, match="there is no audit log"):
        verify_audit(Lake(lake.root / "elsewhere"))


def test_a_log_and_a_seal_cut_back_together_are_found_by_the_decisions_of_the_lake(lake: Lake) -> None:
    lake.append("decisions", decisions(1, 7), None)
    verify_audit(lake)
    kept = lines_of(lake)[:5]
    audit_path(lake).write_text("".join(kept), encoding="utf-8")
    length = audit_path(lake).stat().st_size
    seal = {"entries": 5, "bytes": length, "sha256": json.loads(kept[-1])["sha256"], "until": {}}
    audit_path(lake).with_name("head.json").write_text(json.dumps(seal))
    with pytest.raises(InputError, match=r"lacks 3 decisions of the lake, the first v5 \(v A, price_band"):
        verify_audit(lake)


# --- exactly once


def test_a_decision_and_a_run_are_logged_once_however_often_they_are_made(lake: Lake) -> None:
    before = audit_path(lake).read_bytes()
    assert append(lake, 1, 4) == append(lake, 5, 3) == 0
    assert audit_path(lake).read_bytes() == before
    assert append(lake, 5, 3, versions={"bars": 9}) == 0  # the tables were written again with the same rows
    assert audit_path(lake).read_bytes() == before
    assert append(lake, 3, 6) == 1  # 3 to 7 are held, 8 is new; the run is another
    assert verify_audit(lake)["decisions"] == 8
    assert append(lake, 3, 6, inputs={"bars": {"rows": 1}}) == 0  # other inputs, the same decisions: a run of its own
    assert verify_audit(lake)["runs"] == 4


def test_judging_old_minutes_anew_does_not_make_later_ones_new(lake: Lake) -> None:
    assert append(lake, 1, 4, inputs={"bars": {"rows": 1}}) == 0
    assert append(lake, 5, 3) == 0
    assert read_head(lake).until == {"v": (START + 7 * MINUTE).isoformat()}


def test_venues_are_judged_apart(lake: Lake) -> None:
    assert append(lake, 1, 4, "w") == 4
    assert append(lake, 5, 3, "w") == 3
    assert append(lake, 1, 7, "w") == append(lake, 1, 7) == 0
    assert read_head(lake).until == {"v": (START + 7 * MINUTE).isoformat(), "w": (START + 7 * MINUTE).isoformat()}


def test_appending_new_minutes_does_not_read_what_is_there(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Lake) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr(audit, "entries", read)
    assert append(lake, 8, 2) == 2
    with pytest.raises(AssertionError):
        append(lake, 8, 2)


def test_a_last_line_longer_than_a_chunk_is_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "CHUNK", 7)
    assert append(lake, 8, 2) == 2
    monkeypatch.undo()
    append(lake, 10, 1, inputs={"bars": {"rows": 1, "sha256": "x" * 200_000}})
    assert append(lake, 11, 1) == 1
    assert verify_audit(lake)["decisions"] == 11


def test_a_policy_is_kept_once_as_it_stood(lake: Lake) -> None:
    keep_policy(lake, "abc", "version = 1  # first\n")
    keep_policy(lake, "abc", "version = 1  # the same content, other words\n")
    assert kept_policy(lake, "abc") == "version = 1  # first\n"
    assert kept_policy(lake, "other") is None


def test_the_hash_of_a_table_is_of_its_rows_in_any_order() -> None:
    frame = pl.DataFrame({"a": ["x", None, ""], "b": [1.5, float("nan"), -0.25]})
    one = content_of({"t": frame})
    assert content_of({"t": frame.reverse()}) == one == content_of({"t": pl.concat([frame[1:], frame[:1]])})
    for other in (
        frame.with_columns(b=pl.col("b").fill_nan(None)),
        frame.with_columns(a=pl.col("a").fill_null("")),
        frame.rename({"a": "c"}),
        frame.head(2),
        frame.with_columns(b=pl.col("b") + 1e-15),
    ):
        assert content_of({"t": other}) != one


# --- killed


@pytest.mark.parametrize("seed", range(12))
def test_what_a_killed_run_left_is_cut_off_and_written_again_once(lake: Lake, seed: int) -> None:
    """Killed at any byte of its lines, or with all of them written and not sealed."""
    path, head = audit_path(lake), audit_path(lake).with_name("head.json")
    before, seal = path.read_bytes(), head.read_bytes()
    append(lake, 8, 5)
    whole, sealed = path.read_bytes(), head.read_bytes()
    end = random.Random(seed).randint(len(before) + 1, len(whole)) if seed else len(whole)
    path.write_bytes(whole[:end])
    head.write_bytes(seal)
    with pytest.raises(InputError, match=r"broken at line 10 .*a writer was killed here"):
        verify_audit(lake)
    with lake.writer():
        done = append_run(lake, decisions(8, 5), run_over(8, 5))
    assert (done.decisions, done.cut) == (5, len(whole[len(before) : end].splitlines()))
    assert (path.read_bytes(), head.read_bytes()) == (whole, sealed)
    assert append(lake, 8, 5) == 0


MORTAL = """
import os, signal, sys
from pathlib import Path
from pipelines import audit
from pipelines.lake import Lake
from tests.pipelines.test_audit import append
root, plans = Path(sys.argv[1]), sys.argv[2:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def mortal(name, call):
    left, real = iter(range(int(call))), getattr(os, name)
    def act(*args):
        return real(*args) if next(left, None) is not None else die()
    setattr(os, name, act)

def half(path, text):
    with path.open("ab") as file:
        file.write(text.encode()[:int(value)])
    die()

for plan in plans:
    kind, _, value = plan.partition(":")
    child = os.fork()
    if child == 0:
        if kind == "bytes":
            append(Lake(root / plan), 1, 4)
            audit._write = half
        else:
            mortal("fsync", value)
        append(Lake(root / plan), 1, 4)
        append(Lake(root / plan), 5, 3)
        os._exit(0)
    print(plan, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_real_kill_leaves_nothing_that_the_next_run_does_not_mend(lake: Lake, tmp_path: Path) -> None:
    """Before each time that something is put on disk, and with part of the second run's lines written."""
    plans = [f"fsync:{call}" for call in range(9)] + [f"bytes:{size}" for size in (1, 400, 1500, 9999)]
    arguments = [sys.executable, "-c", MORTAL, str(tmp_path), *plans]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=True)
    fates = dict(line.split() for line in ended.stdout.splitlines())
    # eight fsyncs: the empty seal and its folder, then the lines, the seal and its folder of two runs; no ninth
    assert fates == dict.fromkeys(plans, "-9") | {"fsync:8": "0"}
    for plan in plans:
        mended = Lake(tmp_path / plan)
        append(mended, 1, 4)
        append(mended, 5, 3)
        assert audit_path(mended).read_bytes() == audit_path(lake).read_bytes(), plan
        assert verify_audit(mended)["decisions"] == 7


def test_guard_tells_what_it_cut_off_and_goes_on(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    whole = audit_path(lake).read_bytes()
    with audit_path(lake).open("ab") as file:
        file.write(b'{"entry": {"rule"')
    found = guard_venue(lake, world.venue, world.interval, world.config)
    assert found.notes == ["1 line that a killed run had left at the end of the audit log cut off"]
    assert audit_path(lake).read_bytes() == whole


def test_guard_logs_first_and_writes_tables_then(
    world: World, copied: Callable[[], Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, a run leaves decisions that are logged and not in force: never the other way round."""
    lake = copied()
    last = Interval(world.interval.end - timedelta(hours=2), world.interval.end)
    expected = lake.scan("limits").collect().sort("symbol", "ts")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "replace", fail)
        with pytest.raises(RuntimeError, match="killed"):
            guard_venue(lake, world.venue, last, world.config)
    assert verify_audit(lake)["runs"] == 2
    guard_venue(lake, world.venue, last, world.config)
    assert verify_audit(lake)["runs"] == 2
    assert lake.scan("limits").collect().sort("symbol", "ts").equals(expected)
