"""The soak, `python -m tests.soak.soak --intervals 300 --seed 1`: a disturbed series of runs beside an undisturbed one.

The same market is delivered twice, interval by interval, to two lakes. One has whole files in time and a run every six
hours, which does them all; a test of its own shows that this is what a run after each would write. The other has a run
after each delivery, and dice: files late, twice, half written; runs missed, killed at random points, stopped and taken
over, short of disk, with a clock that jumps, with a registry that is down or hangs. At the end both must hold the same
rows, bars, scores, limits and decisions for every interval, and the log of the disturbed one must follow from its
inputs, byte by byte.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features.schema import CANONICAL
from pipelines.alerting.deliver import deliver
from pipelines.alerting.outbox import opened
from pipelines.audit import verify_audit
from pipelines.config import AlertsConfig, SinkConfig
from pipelines.lake import Lake
from pipelines.replay import check_replay
from tests.pipelines.alerting.worlds import Hook, hook
from tests.soak.market import MIDNIGHT, STEP, Market, Parcel, make_market

ROOT = Path(__file__).parents[2]
COMPARED = ("bars", "features", "limits", "decisions", "account_decisions", "exposure_decisions")
SCORED = ("venue", "symbol", "ts", "anomaly", "anomaly_threshold", "alert", "reasons")  # status tells of the registry
FAULTS = {  # chance per interval
    "killed": 0.15,
    "disk full": 0.04,
    "stopped and taken over": 0.02,
    "clock ahead": 0.02,
    "clock back": 0.04,
    "registry down": 0.02,
    "registry hangs": 0.01,
    "sink down": 0.03,
    "missed": 0.05,
    "two at once": 0.03,
}
FILE_FAULTS = {"late": 0.02, "twice": 0.03, "half written": 0.02}  # chance per file
TAKEOVER_S = 3.0
SINKS = AlertsConfig(sinks=(SinkConfig(name="desk", url_env="SOAK_SINK"),))
Check = Callable[["Side", "Side"], list[str]]  # the disturbed and the undisturbed side -> what is wrong


# --- processes


class Zygote:
    """Children that run `cascadeguard`; see `tests.soak.zygote`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.soak.zygote"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def ask(self, told: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    try:
        yield made
    finally:
        made.close()


@dataclass
class Side:
    """One lake with its inbox and what was done to it."""

    folder: Path
    market: Market
    zygote: Zygote
    sink: Hook
    reference_h: float = 1.5  # more than the market's past: no scores, and no seconds for MLflow
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "lake")

    @property
    def addresses(self) -> dict[str, str]:
        return {"SOAK_SINK": f"json://127.0.0.1:{self.sink.port}"}

    def prepare(self) -> None:
        (self.folder / "inbox").mkdir(parents=True)
        (self.folder / "cascadeguard.toml").write_text(
            f"""
lake = "{self.folder / "lake"}"
instruments = ["{self.market.folder / "instruments.toml"}"]
seed = 3
[detector]
reference_h = {self.reference_h}
null_share_max = 0.9
[[alerts.sinks]]
name = "desk"
url_env = "SOAK_SINK"
[schedule]
attempts_max = 50
takeover_min = {TAKEOVER_S / 60}
[[sources]]
adapter = "table"
paths = ["{self.folder / "inbox"}/*.parquet"]
mapping = "{self.market.folder / "mapping.toml"}"
"""
        )

    def deliver(self, parcel: Parcel, *, cut: float = 1.0, named: str = "") -> None:
        """Put a file into the inbox in one move; `cut` keeps the first part of its bytes only."""
        target = self.folder / "inbox" / (named or parcel.path.name)
        content = parcel.path.read_bytes()
        beside = target.with_suffix(".part")
        beside.write_bytes(content[: round(len(content) * cut)])
        beside.replace(target)

    def start(self, now: datetime, *, env: dict[str, str] | None = None, file_bytes_max: int = 0) -> int:
        argv = ["run", "--once", "--now", now.isoformat(), "--config", "cascadeguard.toml"]
        told = {
            "argv": argv,
            "env": self.addresses | (env or {}),
            "cwd": str(self.folder),
            "out": str(self.folder / "out.txt"),
        }
        self.counts["runs"] += 1
        return int(self.zygote.ask(told | {"file_bytes_max": file_bytes_max})["pid"])

    def wait(self, pid: int) -> int:
        return int(self.zygote.ask({"wait": pid})["status"])

    def run(self, now: datetime, **how: Any) -> int:
        begun = time.perf_counter()
        status = self.wait(self.start(now, **how))
        self.seconds.append(time.perf_counter() - begun)
        if status not in (0, 1):
            self.said.append((self.folder / "out.txt").read_text()[-2000:])
        return status


# --- faults


@dataclass
class Dice:
    """The disturbed side's fate, one interval after the other."""

    side: Side
    dice: random.Random
    waiting: list[tuple[datetime, Parcel]] = field(default_factory=list)  # delivered from then on
    missed_until: datetime = MIDNIGHT

    def deliver(self, end: datetime, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            fate = self._fate(FILE_FAULTS)
            if fate in ("late", "half written"):
                longest = 40 if fate == "late" else 3
                self.waiting.append((end + self.dice.randint(1, longest) * STEP, parcel))
            if fate == "half written":
                self.side.deliver(parcel, cut=self.dice.random())
            elif fate != "late":
                self.side.deliver(parcel)
            if fate == "twice":
                self.side.deliver(parcel, named=parcel.path.name.replace(".parquet", "-again.parquet"))
        self.late(end)

    def late(self, end: datetime | None = None) -> None:
        """Deliver what was held back until `end`, everything without one."""
        for at, parcel in self.waiting:
            if end is None or at <= end:
                self.side.deliver(parcel)
        self.waiting = [(at, parcel) for at, parcel in self.waiting if end is not None and at > end]

    def _fate(self, chances: dict[str, float]) -> str:
        fate, at = "", self.dice.random()
        for name, chance in chances.items():
            if not fate and at < chance:
                fate = name
            at -= chance
        if fate:
            self.side.counts[fate] += 1
        return fate

    def run(self, end: datetime) -> None:
        now = end + timedelta(seconds=30)
        if end < self.missed_until:
            return
        fate = self._fate(FAULTS)
        if fate == "missed":
            self.missed_until = end + self.dice.randint(1, 5) * STEP
        elif fate == "killed":
            for _ in range(self.dice.choice((1, 1, 1, 2, 3))):
                self._killed(now)
            self.side.run(now)
        elif fate == "disk full":
            self._disk_full(now)
        elif fate == "stopped and taken over":
            self._taken_over(now)
        elif fate in ("clock ahead", "clock back"):
            steps = self.dice.randint(1, 12) if fate == "clock ahead" else -self.dice.randint(1, 300)
            self.side.run(now + steps * STEP)
            self.side.run(now)
        elif fate == "sink down":
            self.side.sink.answers = [500]
            self.side.run(now)
            self.side.sink.answers = [200]
        elif fate in ("registry down", "registry hangs"):
            self._registry(now, hangs=fate == "registry hangs")
        elif fate == "two at once":
            both = [self.side.start(now), self.side.start(now)]
            for pid in both:
                self.side.wait(pid)
        else:
            self.side.run(now)

    def _usual_s(self) -> float:
        lately = sorted(self.side.seconds[-20:])
        return lately[len(lately) // 2] if lately else 2.0

    def _killed(self, now: datetime) -> None:
        """SIGKILL at a random moment, now and then in the very first or the last of it."""
        pid = self.side.start(now)
        time.sleep(self.dice.random() * 1.1 * self._usual_s())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.side.wait(pid)

    def _disk_full(self, now: datetime) -> None:
        """A file system with a few kilobytes left, else (not root) files that may not grow beyond a few kilobytes."""
        ballast = self.side.folder / "ballast"
        if (self.side.folder / "is-tmpfs").exists():
            free = shutil.disk_usage(self.side.folder).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - self.dice.choice((0, 8, 32, 64, 256)) * 1024))
            self.side.run(now)
            ballast.unlink()
        else:
            self.side.run(now, file_bytes_max=self.dice.choice((1, 4, 16, 64)) * 1024)
        self.side.run(now)

    def _taken_over(self, now: datetime) -> None:
        """A run is stopped in the middle, another takes over, the first wakes up again."""
        pid = self.side.start(now)
        time.sleep(self.dice.random() * self._usual_s())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(TAKEOVER_S)
        other = self.side.start(now)
        time.sleep(self._usual_s())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.side.wait(pid)
        self.side.wait(other)
        self.side.run(now)

    def _registry(self, now: datetime, *, hangs: bool) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if hangs:
                listener.listen(1)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self.side.run(now, env={"CASCADEGUARD_MLFLOW__TRACKING_URI": address})


# --- both sides


def undisturbed(side: Side) -> None:
    side.prepare()
    for parcel in side.market.parcels[MIDNIGHT]:
        side.deliver(parcel)
    for end in side.market.ends:
        for parcel in side.market.parcels[end]:
            side.deliver(parcel)
        if end in (side.market.ends[0], side.market.ends[-1]) or (not end.minute and not end.hour % 6):
            side.run(end + timedelta(seconds=30))


def disturbed(side: Side, seed: int) -> None:
    """The first interval is spared: where a schedule begins is part of what it decides."""
    side.prepare()
    dice = Dice(side, random.Random(seed))
    for parcel in side.market.parcels[MIDNIGHT]:
        side.deliver(parcel)
    for end in side.market.ends:
        parcels = side.market.parcels[end]
        if end == side.market.ends[0]:
            for parcel in parcels:
                side.deliver(parcel)
            side.run(end + timedelta(seconds=30))
            continue
        dice.deliver(end, parcels)
        dice.run(end)
        if not end.minute:
            sys.stderr.write(f"{end:%d %H:%M} {dict(side.counts)}\n")
    dice.late()
    for _ in range(3):
        side.run(side.market.ends[-1] + timedelta(seconds=30))


# --- what must hold


def rows_of(side: Side, table: str) -> pl.DataFrame:
    frame = side.lake.scan(table, None, MIDNIGHT, side.market.ends[-1]).collect()
    frame = frame.select(SCORED) if table == "scores" else frame
    return frame.sort(frame.columns)


def tables_are_equal(one: Side, other: Side) -> list[str]:
    return [
        f"{table} differs: {rows_of(one, table).height} rows, undisturbed {rows_of(other, table).height}"
        for table in (*COMPARED, "scores")
        if not rows_of(one, table).equals(rows_of(other, table))
    ]


def no_row_is_lost(one: Side, _: Side) -> list[str]:
    delivered: Counter[str] = Counter()
    for parcels in one.market.parcels.values():
        for parcel in parcels:
            delivered[parcel.table] += parcel.rows
    held = {
        table: one.lake.scan(table).select(pl.len()).collect().item() for table in CANONICAL if table != "instruments"
    }
    return [
        f"{table}: {held[table]} rows of {rows} delivered" for table, rows in delivered.items() if held[table] != rows
    ]


def every_interval_is_done(one: Side, _: Side) -> list[str]:
    runs = one.lake.scan("runs").sort("token").group_by("venue", "ts", maintain_order=True).last().collect()
    done = set(runs.filter(pl.col("state") == "ok")["ts"])
    return [f"{end} is not done" for end in one.market.ends if end not in done]


def the_log_follows(one: Side, _: Side) -> list[str]:
    verify_audit(one.lake)
    found = check_replay(one.lake)
    return [] if found.verdict == "intact" else [f"replay: {found}"]


def no_decision_twice(one: Side, _: Side) -> list[str]:
    ids = one.lake.scan("decisions").collect()["decision_id"]
    return [] if ids.n_unique() == ids.len() else ["a decision stands twice"]


def amendments_are_told(one: Side, other: Side) -> list[str]:
    """Every decision that was made and does not stand has an amendment that keeps it."""
    log = (one.folder / "lake/audit/decisions.jsonl").read_text().splitlines()
    made = {entry["decision_id"] for line in log if "decision_id" in (entry := json.loads(line)["entry"])}
    stand = set(one.lake.scan("decisions").collect()["decision_id"])
    told = set(one.lake.scan("amendments").collect()["before"].drop_nulls())
    return [f"{len(made - stand - told)} decisions vanished without an amendment"] if made - stand - told else []


def alerts_arrive_once(one: Side, _: Side) -> list[str]:
    """Every message comes to the sink; twice only one whose fate was unclear, and then it says so."""
    deliver(one.lake.root, SINKS, one.addresses, one.market.ends[-1] + timedelta(hours=2))
    with opened(one.lake.root) as box:
        waiting = [letter.title for letter in box.open_letters()]
    got = one.sink.got
    came = Counter((letter["id"], letter["attempt"]) for letter in got)
    hidden = [letter["id"] for letter in got if letter["attempt"] != "1" and "May be a repeat" not in letter["message"]]
    return [
        *(f"message {name} came {times} times as attempt {nth}" for (name, nth), times in came.items() if times > 1),
        *(f"{title} never came" for title in waiting),
        *(f"message {name} hides that it is a repeat" for name in hidden),
    ]


CHECKS: tuple[Check, ...] = (
    alerts_arrive_once,
    tables_are_equal,
    no_row_is_lost,
    every_interval_is_done,
    no_decision_twice,
    amendments_are_told,
    the_log_follows,
)


@contextlib.contextmanager
def small_disk(folder: Path, mb: int) -> Iterator[None]:
    """A file system of its own at `folder` where we may mount one: only there a disk can be filled in earnest."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mb}m", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    if mounted:
        (folder / "is-tmpfs").touch()
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def soak(
    folder: Path,
    intervals: int,
    seed: int,
    checks: Sequence[Check] = CHECKS,
    *,
    mb: int = 600,
    reference_h: float = 1.5,
) -> dict[str, Any]:
    """Both sides and all checks; `faults` is empty where everything holds."""
    market = make_market(folder / "market", intervals, seed)
    begun = time.perf_counter()
    with small_disk(folder / "disturbed", mb), zygote() as parent, hook(200) as desk, hook(200) as other:
        sides = [
            Side(folder / name, market, parent, sink, reference_h)
            for name, sink in (("disturbed", desk), ("undisturbed", other))
        ]
        undisturbed(sides[1])
        disturbed(sides[0], seed)
        faults = [fault for check in checks for fault in check(*sides)]
        runs = sides[0].lake.scan("runs").collect()
        return {
            "intervals": intervals,
            "seed": seed,
            "symbols": 2,
            "injected": dict(sorted(sides[0].counts.items())),
            "attempts": dict(sorted(runs.group_by("kind", "state").len().select(
                pl.concat_str("kind", "state", separator=" "), "len").iter_rows())),
            "decisions": sides[1].lake.scan("decisions").select(pl.len()).collect().item(),
            "amendments": sides[0].lake.scan("amendments").select(pl.len()).collect().item(),
            "rows": sum(parcel.rows for parcels in market.parcels.values() for parcel in parcels),
            "messages": len({letter["id"] for letter in desk.got}),
            "median_run_s": round(sorted(sides[0].seconds)[len(sides[0].seconds) // 2], 2),
            "seconds": round(time.perf_counter() - begun),
            "said": [text for side in sides for text in side.said][:3],
            "faults": faults,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--intervals", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="kept afterwards; default a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        found = soak(asked.folder or Path(scratch) / "soak", asked.intervals, asked.seed)
    sys.stdout.write(json.dumps(found, indent=2, default=str) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
