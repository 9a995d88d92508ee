"""Step `simulate`: a simulated venue's canonical tables, written to the lake like any other source."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import dataframely as dy
import polars as pl

from features.schema import CANONICAL, IngestLog, polars_schema
from models.simulator import VenueSettings, instruments, simulate, with_profile
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pools import HERE, Pool, counted
from pipelines.profiles import load_profile
from pipelines.progress import Say, silent
from pipelines.times import Interval

_HOURS_PER_COMMIT = 24


@dataclass(frozen=True)
class SimulateSummary:
    venue: str
    interval: str
    seed: int
    symbols: int
    rows: int
    rows_by_table: dict[str, int]


def venue_settings(config: Config) -> VenueSettings:
    """The simulator's settings; InputError lists what it refuses."""
    chosen = config.simulator
    try:
        settings = VenueSettings(**chosen.model_dump(exclude={"days", "profile"}))
        return with_profile(settings, load_profile(chosen.profile)) if chosen.profile else settings
    except ValueError as error:
        raise InputError(f"the simulator refuses its settings ({error})", mend="see `[simulator]`") from None


def _days(hours: Iterator[dict[str, pl.DataFrame]]) -> Iterator[dict[str, pl.DataFrame]]:
    """Join the simulator's hours to days: one commit per table and day."""
    waiting: list[dict[str, pl.DataFrame]] = []
    for hour in hours:
        waiting.append(hour)
        if len(waiting) == _HOURS_PER_COMMIT:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(hours: list[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    names = dict.fromkeys(name for hour in hours for name in hour)
    return {name: pl.concat([hour[name] for hour in hours if name in hour]) for name in names}


def _append(lake: Lake, table: str, frame: pl.DataFrame, source: str) -> int:
    """Validate and append one table of one source, exactly once, with its line in the ingest log."""
    source_sha256 = hashlib.sha256(source.encode()).hexdigest()
    schema = CANONICAL[table]
    rows = schema.validate(frame.select(polars_schema(schema).names()).sort(_order(schema)))
    lake.append(table, rows, source_sha256)
    line = {"table": table, "source": source, "source_sha256": source_sha256, "adapter": "simulator"}
    counts = {"rows_read": rows.height, "rows_accepted": rows.height, "rows_quarantined": 0, "rows_silent": 0}
    entry = pl.DataFrame([line | counts], schema=polars_schema(IngestLog))
    lake.append("ingest_log", entry, hashlib.sha256(f"{source}/{table}".encode()).hexdigest())
    return rows.height


def _order(schema: type[dy.Schema]) -> list[str]:
    """Symbol first where there is one: files that are sorted by it can be skipped by readers of one symbol."""
    return sorted(schema.primary_key(), key=lambda name: name != "symbol")


@dataclass(frozen=True)
class Seeded:
    """A venue of the simulator: a seed always gives the same one."""

    settings: VenueSettings
    seed: int

    def __str__(self) -> str:
        return f"simulate {self.settings.venue} seed {self.seed}"


def simulate_venue(lake: Lake, config: Config, start: datetime, say: Say = silent) -> SimulateSummary:
    """Simulate `config.simulator.days` days from `start`. Same settings and seed write the same rows, once."""
    return simulate_venues(lake, config, start, say=say)[0]


def simulate_venues(
    lake: Lake,
    config: Config,
    start: datetime,
    seeds: Sequence[int] | None = None,
    *,
    say: Say = silent,
    pool: Pool = HERE,
) -> list[SimulateSummary]:
    """A venue per seed, that of seed 3 called `sim-3`, in the order of `seeds`; without those the settings' own."""
    settings = venue_settings(config)
    asked = [Seeded(settings, config.seed)]
    if seeds is not None:
        asked = [Seeded(replace(settings, venue=f"{settings.venue}-{seed}"), seed) for seed in seeds]
    days = say if pool is HERE else silent  # what is said at a worker nobody hears
    work = partial(_written, start=start, hours=_hours(config), say=days)
    done = counted(pool.map(lake, work, asked), len(asked), say, "venues")
    found = {one.seed: summary for one, summary in done}
    return [found[one.seed] for one in asked]


def _hours(config: Config) -> int:
    return max(1, round(config.simulator.days * 24))


def _written(lake: Lake, asked: Seeded, *, start: datetime, hours: int, say: Say) -> SimulateSummary:
    settings, seed = asked.settings, asked.seed
    name = f"simulator seed={seed} {settings} {start.isoformat()}"
    written: dict[str, int] = {}
    with lake.writer():
        written["instruments"] = _append(lake, "instruments", instruments(settings, start), f"{name} instruments")
    for number, day in enumerate(_days(simulate(settings, seed, start, hours))):
        say(f"day {number + 1}")
        with lake.writer():
            for table, frame in day.items():
                rows = _append(lake, table, frame, f"{name} {table} day {number}")
                written[table] = written.get(table, 0) + rows
    span = Interval(start, start + timedelta(hours=hours))
    return SimulateSummary(settings.venue, str(span), seed, len(settings.symbols), sum(written.values()), written)
