"""The lease: one at a time, let go of by every death, taken over from the stopped, who then cannot write."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.errors import InputError
from pipelines.lake import SCHEMAS, Lake
from pipelines.operating.lease import BusyError, LeaseLostError, held, schedule_folder

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from pipelines.lake import SCHEMAS, Lake
from pipelines.operating.lease import LeaseLostError, held
import polars as pl
with held(Path(sys.argv[1]), "run", datetime.now(UTC), 30) as lease:
    print("holds", flush=True)
    sys.stdin.readline()
    try:
        Lake(Path(sys.argv[1]), lease.check).append("pending", pl.DataFrame(schema=SCHEMAS["pending"]), None)
        print("written", flush=True)
    except LeaseLostError as error:
        print("lost:", error, flush=True)
"""


@contextmanager
def another_process(root: Path) -> Iterator["subprocess.Popen[str]"]:
    """A real process that holds the lease and writes when it is told to."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_second_process_is_told_since_when_the_first_is_at_work_and_leaves_it_alone(tmp_path: Path) -> None:
    with another_process(tmp_path) as first:
        with (
            pytest.raises(BusyError, match=f"another run is at work since .* .process {first.pid} on"),
            held(tmp_path, "run", datetime.now(UTC), 30),
        ):
            pass
        assert told(first) == "written\n"


def test_a_process_that_was_killed_holds_nothing_and_tokens_only_grow(tmp_path: Path) -> None:
    with another_process(tmp_path) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with held(tmp_path, "run", datetime.now(UTC), 30) as second:
        assert second.token == 2
    with (
        held(tmp_path, "backfill", datetime.now(UTC), 30) as third,
        held(tmp_path, "run", datetime.now(UTC), 30) as fourth,
    ):
        assert (third.token, fourth.token) == (3, 4)
        third.check()
        fourth.check()
    assert sorted(path.name for path in schedule_folder(tmp_path).glob("*.held")) == ["backfill-3.held", "run-4.held"]


def test_a_stopped_process_whose_lease_was_taken_over_fails_and_does_not_write(tmp_path: Path) -> None:
    """Without the fence the first would wake up and commit beside, or over, what the second has written."""
    later = datetime.now(UTC) + timedelta(minutes=31)
    with another_process(tmp_path) as first:
        os.kill(first.pid, signal.SIGSTOP)
        with held(tmp_path, "run", later, 30) as second:
            os.kill(first.pid, signal.SIGCONT)
            said = told(first)
            assert said.startswith("lost: this process (run, token 1)")
            assert not Lake(tmp_path).has("pending")
            Lake(tmp_path, second.check).append("pending", pl.DataFrame(schema=SCHEMAS["pending"]), None)
    assert Lake(tmp_path).has("pending")


def test_the_fence_is_looked_at_again_before_each_commit(tmp_path: Path) -> None:
    """A process stopped inside the writer's lock passes no check at its door any more."""
    asked: list[int] = []

    def fence() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise LeaseLostError("taken over")

    lake = Lake(tmp_path, fence)
    with pytest.raises(LeaseLostError), lake.writer():
        lake.append("pending", pl.DataFrame(schema=SCHEMAS["pending"]), None)
    assert len(asked) == 2


def test_a_lease_that_cannot_be_read_is_named_and_not_begun_anew(tmp_path: Path) -> None:
    """A counter that began at 1 again would let an old process pass for the newest."""
    schedule_folder(tmp_path).mkdir()
    (schedule_folder(tmp_path) / "lease.json").write_text('{"run": {"tok')
    with pytest.raises(InputError, match="the lease cannot be read"), held(tmp_path, "run", datetime.now(UTC), 30):
        pass
