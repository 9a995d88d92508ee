"""The model broken in every way: hard limits, decisions and audit log are the same to the byte."""

import math
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import guard, tracking
from pipelines.audit import audit_path
from pipelines.config import MlflowConfig
from pipelines.guard import GuardSummary, guard_sentence, guard_venue
from pipelines.lake import Lake
from tests.pipelines.conftest import World

TABLES = ("limits", "decisions", "account_decisions", "guard_state")
WISHED = ["leverage_cap_effective", "exposure_cap_usd_effective", "proposal"]


@pytest.fixture
def lake(world: World, copied: Callable[[], Lake]) -> Lake:
    """The world's lake with scores, and nothing that guard writes."""
    found = copied()
    shutil.rmtree(found.root / "audit")
    for table in TABLES:
        shutil.rmtree(found.path(table))
    return found


def rows(lake: Lake, table: str) -> pl.DataFrame:
    found = lake.scan(table).collect().drop(WISHED, strict=False)
    return found.sort([name for name in ("symbol", "ts", "rule", "account") if name in found.columns] or found.columns)


def guarded_as_ever(world: World, lake: Lake) -> GuardSummary:
    """Guard, and find what the world's own run has written: rows of every table, bytes of the log."""
    summary = guard_venue(lake, world.venue, world.interval, world.config)
    for table in TABLES:
        found, expected = rows(lake, table), rows(world.lake, table)
        assert expected.height > 0
        assert found.rows() == expected.rows(), table
    own, other = (decisions_of(audit_path(one)) for one in (lake, world.lake))
    assert own == other
    return summary


def decisions_of(path: Path) -> list[bytes]:
    """The lines of decisions; a run's own line names the versions of the lake's tables, which a copy shares."""
    return path.read_bytes().splitlines()[:-1]


@pytest.mark.parametrize("value", [None, math.nan, 0.0, 1.0, -1.0, math.inf, 1e308, "noise"])
def test_whatever_the_scores_say(world: World, lake: Lake, value: float | str | None) -> None:
    scores = lake.scan("scores").collect()
    noise = pl.Series(np.random.default_rng(0).normal(size=scores.height))
    said = noise if value == "noise" else pl.lit(value, dtype=pl.Float64)
    broken = scores.with_columns(
        alert=pl.lit(value=True), **dict.fromkeys(("anomaly", "anomaly_threshold", "p_15m", "p_60m"), said)
    )
    lake.replace("scores", broken, world.venue, world.interval.start, world.interval.end)
    summary = guarded_as_ever(world, lake)
    assert not any("cannot be read" in note for note in summary.notes)
    limits = lake.scan("limits").collect()
    assert (limits["leverage_cap_effective"] <= limits["leverage_cap_hard"]).all()
    assert (limits["exposure_cap_usd_effective"] <= limits["exposure_cap_usd"]).all()


def no_files(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        path.unlink()


def garbage(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        path.write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")


def other_types(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        pl.DataFrame({"symbol": [1.5], "ts": ["soon"], "alert": ["yes"], "anomaly": [b"x"]}).write_parquet(path)


def no_log(folder: Path) -> None:
    for path in (folder / "_delta_log").iterdir():
        path.write_text("{")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no table")


@pytest.mark.parametrize("spoil", [no_files, garbage, other_types, no_log, a_file], ids=lambda how: how.__name__)
def test_scores_that_cannot_be_read_cost_the_wishes_and_one_line(
    world: World, lake: Lake, spoil: Callable[[Path], None]
) -> None:
    spoil(lake.path("scores"))
    summary = guarded_as_ever(world, Lake(lake.root))
    if spoil is not a_file:  # a lake that was never scored has no wishes and nothing to say
        assert len(summary.notes) == 1
        assert summary.notes[0].startswith("no wish of a model counts, the scores cannot be read (")
        assert "\n" not in summary.notes[0]
        assert summary.notes[0] in guard_sentence(summary)
    assert lake.scan("limits").collect()["proposal"].unique().to_list() == ["none"]


def test_no_scores_at_all_are_no_trouble(world: World, lake: Lake) -> None:
    shutil.rmtree(lake.path("scores"))
    assert guarded_as_ever(world, Lake(lake.root)).notes == []


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), pl.exceptions.PanicException("boom"), OSError(5, "io")]
)
def test_an_exception_while_scores_are_read_stops_nothing(
    world: World, lake: Lake, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    real = Lake.scan

    def scan(self: Lake, table: str, *args: object, **more: object) -> pl.LazyFrame:
        if table == "scores":
            raise error
        return real(self, table, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Lake, "scan", scan)
    summary = guarded_as_ever(world, lake)
    assert type(error).__name__ in summary.notes[0]


def test_an_exception_while_wishes_are_made_stops_nothing(
    world: World, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(guard, "wishes", fail)
    assert "ZeroDivisionError" in guarded_as_ever(world, lake).notes[0]


# --- the registry


@pytest.fixture
def hung() -> Iterator[str]:
    """The address of a registry that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for one in held:
            one.close()
        assert not held  # nobody asked


def test_a_hung_registry_is_never_asked(world: World, lake: Lake, hung: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise AssertionError("guard asked the registry")

    monkeypatch.setattr(tracking.Registry, "__init__", ask)
    config = world.config.model_copy(update={"mlflow": MlflowConfig(tracking_uri=hung)})
    summary = guarded_as_ever(
        World(world.lake, config, world.venue, world.interval, world.simulated, world.scored, world.guarded), lake
    )
    assert summary.notes == []


def test_the_command_does_not_even_load_what_could_ask(lake: Lake, hung: str, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(f'lake = "{lake.root}"\n[mlflow]\ntracking_uri = "{hung}"\n')
    code = (
        "import sys; from pipelines.cli import run; code = run(['guard', '--config', sys.argv[1]]);"
        "print(code, *(name for name in ('mlflow', 'lightgbm', 'sklearn', 'torch') if name in sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(settings)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0"
