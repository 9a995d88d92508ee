"""A small simulated lake that has been scored and guarded once; tests copy it before they change anything."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.config import Config, SimulatorConfig
from pipelines.demo import START
from pipelines.guard import GuardSummary, guard_venue
from pipelines.lake import Lake
from pipelines.score import ScoreSummary, score_venue
from pipelines.simulate import SimulateSummary, simulate_venue
from pipelines.times import Interval

HOURS = 30


@dataclass(frozen=True)
class World:
    lake: Lake
    config: Config
    venue: str
    interval: Interval
    simulated: SimulateSummary
    scored: ScoreSummary
    guarded: GuardSummary


@pytest.fixture(scope="session")
def small_config() -> Config:
    simulator = SimulatorConfig(symbols=("AAA-PERP", "BBB-PERP"), accounts=150, days=HOURS / 24, step_s=60)
    return Config(simulator=simulator, seed=3)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, small_config: Config) -> World:
    lake = Lake(tmp_path_factory.mktemp("world") / "lake")
    interval = Interval(START, START + timedelta(hours=HOURS))
    simulated = simulate_venue(lake, small_config, START)
    venue = simulated.venue
    scored = score_venue(lake, venue, interval, small_config)
    guarded = guard_venue(lake, venue, interval, small_config)
    return World(lake, small_config, venue, interval, simulated, scored, guarded)


@pytest.fixture
def copied(world: World, tmp_path: Path) -> Callable[[], Lake]:
    """A fresh copy of the world's lake, tables and audit log only."""

    def copy() -> Lake:
        target = tmp_path / "copy"
        for part in ("tables", "audit"):
            shutil.copytree(world.lake.root / part, target / part)
        return Lake(target)

    return copy
