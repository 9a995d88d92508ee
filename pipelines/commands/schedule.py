"""Commands of scheduled operation: one run, a backfill, the unit files that call runs."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.engines import Engine, EngineOption, SchedulerOption, WorkersOption, pool_of
from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    emit,
    emit_venues,
    need_lake,
    open_lake,
    span_text,
)
from pipelines.config import DEFAULT_FILE, Config, load_config
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import parse_time

if TYPE_CHECKING:
    from pipelines.operating.units import Place


class Printed(StrEnum):
    SYSTEMD = "systemd"
    CRON = "cron"
    DAGSTER = "dagster"


def run(
    once: Annotated[bool, typer.Option("--once", help="Do what is due and end.")] = False,
    venue: VenueOption = None,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="As if it were this time; default the clock's.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run what is due: new files, bars, scores, guardrails, alerts; for cron or systemd, every few minutes."""
    from pipelines.observing.logs import configure_logs, environment_secrets
    from pipelines.operating.scheduled import run_due

    if not once:
        raise InputError(
            "`run` does what is due and ends", mend="say --once; `cascadeguard schedule` prints units that call it"
        )
    settings = load_config(config, lake=lake)
    configure_logs(settings.observe.log_format, environment_secrets(settings))
    if settings.lake.exists() and not settings.lake.is_dir():
        raise InputError("the lake is not a directory", where=settings.lake, mend="name a directory with --lake")
    moment = datetime.now(UTC) if now is None else parse_time(now)
    with progress("run") as say:
        summary = run_due(settings, moment, venue=venue, say=say)
    emit(summary, as_json, lambda s: s.sentence())
    if summary.failed:
        raise typer.Exit(1)


def backfill(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    engine: EngineOption = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do for a period of the past what scheduled runs would have done; a killed backfill goes on where it was."""
    from pipelines.operating.backfill import backfill_venue
    from pipelines.operating.lease import BusyError
    from pipelines.score import venues_to_run

    settings, store = open_lake(config, lake)
    need_lake(store)
    chosen, wall = span_text(start, end), datetime.now(UTC)
    summaries = []
    try:
        with progress("backfill") as say, pool_of(engine, scheduler, workers, store) as pool:
            for name in venues_to_run(store, venue):
                summaries.append(
                    backfill_venue(
                        store.root.absolute(),
                        name,
                        chosen,
                        settings,
                        wall=wall,
                        clock=lambda: datetime.now(UTC),
                        pool=pool,
                        say=say,
                    )
                )
    except BusyError as busy:
        raise InputError(str(busy), mend="wait for it, it goes on by itself") from None
    emit_venues(summaries, as_json, lambda s: s.sentence())


def schedule(
    printed: Annotated[Printed, typer.Option("--print", help="Which scheduler the text is for.")],
    environment: Annotated[
        Path, typer.Option("--environment", metavar="FILE", help="Where secrets will lie; not read.")
    ] = Path("/etc/cascadeguard/environment"),
    config: ConfigOption = None,
    lake: LakeOption = None,
) -> None:
    """Print the unit files, or the crontab line, that call `cascadeguard run --once`; or the units of Dagster."""
    from pipelines.operating.units import cron, systemd
    from pipelines.orchestrating.units import dagster

    settings = load_config(config, lake=lake)
    texts = {Printed.SYSTEMD: systemd, Printed.CRON: cron, Printed.DAGSTER: dagster}
    typer.echo(texts[printed](_place(settings, config, environment), settings.schedule), nl=False)


def _place(settings: Config, config: Path | None, environment: Path) -> "Place":
    """This interpreter, this folder, and the files that the settings name, by absolute paths."""
    from pipelines.operating.units import Place

    file = config if config is not None else (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    folders = dict.fromkeys(
        Path(pattern.split("*")[0]).absolute() for source in settings.sources for pattern in source.paths
    )
    reads = tuple(dict.fromkeys(path if path.is_dir() else path.parent for path in folders))
    chosen = None if file is None else file.absolute()
    return Place(Path(sys.executable), Path.cwd(), settings.lake.absolute(), chosen, environment, reads)
