"""The job and the schedule of `cascadeguard run --once`, and the hours that a run completes."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipelines.config import Config, ScheduleConfig
from pipelines.lake import Lake
from pipelines.observing.logs import configure_logs, environment_secrets
from pipelines.operating.due import floor_to, holding, step_of
from pipelines.operating.history import read_history
from pipelines.operating.run import RunSummary, VenueRun
from pipelines.operating.scheduled import run_due
from pipelines.operating.units import whole_minutes
from pipelines.orchestrating.assets import asset_key, metadata, told_in_one_line
from pipelines.orchestrating.hours import HOUR, key_of
from pipelines.orchestrating.told import STEPS, facts_of, listed
from pipelines.times import Interval, parse_time

RUN_POOL = "cascadeguard_run"
WAIT_S_MAX = 60.0  # a crontab has whole minutes: what is left of `settle_s` is waited for


class As(dg.Config):
    """As if it were this time; default the clock's."""

    now: str | None = None


def unsettled_s(now: datetime, settings: ScheduleConfig) -> float:
    """Seconds until the rows of the last interval have settled; 0 where they have, or where it is long.

    >>> unsettled_s(parse_time("2025-01-02T05:05:08Z"), ScheduleConfig(settle_s=20))
    12.0
    >>> unsettled_s(parse_time("2025-01-02T05:06:08Z"), ScheduleConfig(settle_s=20))
    0.0
    """
    settled = floor_to(now, step_of(settings)) + timedelta(seconds=settings.settle_s)
    left_s = (settled - now).total_seconds()
    return left_s if 0.0 < left_s <= WAIT_S_MAX else 0.0


def job_of(settings: Config) -> dg.JobDefinition:
    """What is due, once. A failed interval fails the run; another run at work does not."""

    @dg.op(pool=RUN_POOL, out=dg.Out(dg.Nothing))
    def run_once(context: dg.OpExecutionContext, config: As) -> None:
        configure_logs(settings.observe.log_format, environment_secrets(settings))
        with told_in_one_line():
            summary = run_due(settings, _now(config.now, settings.schedule), say=context.log.info)
        context.log.info(summary.sentence())
        context.add_output_metadata(_facts(summary))
        for event in completed(Lake(settings.lake), summary, settings):
            context.log_event(event)
        if summary.failed:
            raise dg.Failure(_failures(summary), allow_retries=False)

    @dg.job(name="run_due", description="what `cascadeguard run --once` does", executor_def=dg.in_process_executor)
    def due() -> None:
        run_once()

    return due


def _now(told: str | None, settings: ScheduleConfig) -> datetime:
    """The clock's time, once the rows of the last interval have settled."""
    if told is not None:
        return parse_time(told)
    time.sleep(unsettled_s(datetime.now(UTC), settings))
    return datetime.now(UTC)


def _failures(summary: RunSummary) -> str:
    """The failed intervals and why, in one line."""
    failed = [one for one in summary.venues if one.failed]
    return " | ".join(f"{one.venue}: {note}" for one in failed for note in one.notes if "FAILED" in note)


def _facts(summary: RunSummary) -> dict[str, dg.MetadataValue]:
    numbers = {"files": summary.files, "rows": summary.rows_accepted, "rows refused": summary.rows_quarantined}
    numbers["decisions"] = sum(one.decisions for one in summary.venues)
    notes = [*summary.notes, *(f"{one.venue}: {note}" for one in summary.venues for note in one.notes)]
    said = {"says": summary.sentence().splitlines()[0], "notes": listed(notes)}
    return metadata({**numbers, **said})


def completed(lake: Lake, summary: RunSummary, config: Config) -> Iterator[dg.AssetMaterialization]:
    """The hours that hold an interval which this run did, and all of whose intervals are done by now."""
    for one in summary.venues:
        for hour in _whole_hours(lake, one, config):
            facts = facts_of(lake, one.venue, hour)
            for step in STEPS:
                told = metadata(facts[step].get(hour.start, {"rows": 0}))
                yield dg.AssetMaterialization(asset_key(one.venue, step), partition=key_of(hour.start), metadata=told)


def _whole_hours(lake: Lake, one: VenueRun, config: Config) -> list[Interval]:
    ends = [parse_time(name.partition("..")[2]) for name in (*one.done, *one.amended)]
    touched = sorted({holding(end, HOUR).start for end in ends})
    if not touched:
        return []
    step = step_of(config.schedule)
    done = read_history(lake, one.venue, touched[0], step).done
    wanted = [Interval(start, start + HOUR) for start in touched]
    return [hour for hour in wanted if all(hour.end - nth * step in done for nth in range(HOUR // step))]


def schedule_of(config: Config, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Every `interval_min`, off until somebody switches it on."""

    @dg.schedule(
        name="run_due",
        job=job,
        cron_schedule=f"{whole_minutes(config.schedule)} * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def due() -> dg.RunRequest:
        return dg.RunRequest()

    return due
