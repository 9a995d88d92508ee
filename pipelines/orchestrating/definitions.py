"""What Dagster loads: `dagster-webserver -m pipelines.orchestrating.definitions`, and its daemon the same way.

Settings and lake come from the environment: `CASCADEGUARD_CONFIG` names the file of settings (default
`cascadeguard.toml` of the working directory), `CASCADEGUARD_LAKE` the lake. Venues are those that the lake holds now.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from pipelines.bars import venue_span
from pipelines.config import Config, load_config
from pipelines.lake import Lake
from pipelines.operating.venues import venues_at_work
from pipelines.orchestrating.asset_checks import checks_of
from pipelines.orchestrating.assets import assets_of
from pipelines.orchestrating.hours import known_hours
from pipelines.orchestrating.scheduled import job_of, schedule_of
from pipelines.orchestrating.units import CONFIG_VARIABLE


def definitions_of(config: Config, now: datetime) -> dg.Definitions:
    """All of the lake that `config` names; of a lake without rows the schedule alone."""
    lake = Lake(config.lake)
    venues = {venue: _hours(lake, venue, config, now) for venue in venues_at_work(lake)}
    due = job_of(config)
    checks = [check for venue in venues for check in checks_of(venue, config)]
    return dg.Definitions(
        assets=[assets_of(venue, config, hours) for venue, hours in venues.items()],
        asset_checks=checks,
        jobs=[due],
        schedules=[schedule_of(config, due), *([_newest()] if checks else [])],
        executor=dg.in_process_executor,  # the default one pays a process and its imports for every step
    )


def _hours(lake: Lake, venue: str, config: Config, now: datetime) -> dg.HourlyPartitionsDefinition:
    first, last = known_hours(venue_span(lake, venue, config.bars.interval_s), now)
    return dg.HourlyPartitionsDefinition(start_date=first, end_date=last, timezone="UTC")


def _newest() -> dg.ScheduleDefinition:
    """The checks of the newest hour, ten minutes after each; off until somebody switches it on."""
    checks = dg.define_asset_job("check_newest", dg.AssetSelection.all_asset_checks())
    return dg.ScheduleDefinition(
        name="check_newest",
        job=checks,
        cron_schedule="10 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def _file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


defs = definitions_of(load_config(_file()), datetime.now(UTC))
