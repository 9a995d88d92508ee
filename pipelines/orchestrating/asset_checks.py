"""The questions of `checks` as Dagster's asset checks: of the hours that a run made, else of the newest one judged."""

from datetime import UTC

import dagster as dg

from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.operating.backfill import judged_until
from pipelines.operating.due import floor_to
from pipelines.orchestrating.assets import asset_key, metadata
from pipelines.orchestrating.checks import CHECKS, Check, Found, newest_hour
from pipelines.orchestrating.hours import HOUR
from pipelines.times import Interval


def checks_of(venue: str, config: Config) -> list[dg.AssetChecksDefinition]:
    return [_check(one, venue, config) for one in CHECKS]


def _check(one: Check, venue: str, config: Config) -> dg.AssetChecksDefinition:
    severity = dg.AssetCheckSeverity.ERROR if one.error else dg.AssetCheckSeverity.WARN

    @dg.asset_check(asset=asset_key(venue, one.asset), name=one.name, description=f"sound when {one.sound_when}")
    def asked(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        lake = Lake(config.lake)
        span = _made(context, lake, venue) or newest_hour(lake, venue)
        found = Found(False, "nothing was judged yet") if span is None else one.asks(lake, venue, span, config)
        told = metadata({"of": str(span), **found.numbers})
        return dg.AssetCheckResult(passed=found.sound, severity=severity, description=found.says, metadata=told)

    return asked


def _made(context: dg.AssetCheckExecutionContext, lake: Lake, venue: str) -> Interval | None:
    """The hours that this run has made, those done along too; null where it is a run of checks alone."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return None
    window = context.partition_time_window
    judged = judged_until(lake, venue)
    along = window.end if judged is None else floor_to(judged, HOUR)
    return Interval(window.start.astimezone(UTC), max(window.end, along).astimezone(UTC))
