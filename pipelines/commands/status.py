"""The command that says how the scheduled runs stand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.shared import ConfigOption, JsonOption, LakeOption, emit
from pipelines.config import load_config
from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.observing.state import Facts


def status(
    max_lag: Annotated[
        str | None, typer.Option("--max-lag", metavar="TIME", help="Late from then on, such as 15m or 2h.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how the scheduled runs stand: last good interval, lag, failures, breakers, alerts. Exit code 1: not well."""
    from pipelines.observing.health import as_json as snapshot_json
    from pipelines.observing.health import kept_facts, status_sentence, well
    from pipelines.observing.logs import configure_logs, environment_secrets
    from pipelines.observing.state import snapshot

    settings = load_config(config, lake=lake)
    configure_logs(settings.observe.log_format, environment_secrets(settings))
    if settings.lake.exists() and not settings.lake.is_dir():
        raise InputError("the lake is not a directory", where=settings.lake, mend="name a directory with --lake")
    if max_lag is not None:
        observe = settings.observe.model_copy(update={"lag_min_max": minutes(max_lag)})
        settings = settings.model_copy(update={"observe": observe})
    now = datetime.now(UTC)
    found = snapshot(settings.lake, kept_facts(settings.lake) or _looked(settings.lake, now), settings, now)
    emit(snapshot_json(found) if as_json else found, as_json, status_sentence)
    if not well(found):
        raise typer.Exit(1)


def _looked(root: Path, now: datetime) -> "Facts":
    """What the lake tells now: a second of imports, spared where nothing has changed since the last run."""
    from pipelines.lake import Lake
    from pipelines.observing.look import look

    return look(Lake(root), now)


def minutes(text: str) -> float:
    """A length of time in minutes.

    >>> minutes("15m"), minutes("2h"), minutes("90s"), minutes("1d")
    (15.0, 120.0, 1.5, 1440.0)
    """
    units = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    try:
        length = float(text[:-1]) * units[text[-1:]] / timedelta(minutes=1)
    except (ValueError, KeyError, OverflowError):
        length = 0.0
    if not 0 < length < 366 * 1440:
        raise InputError("not a length of time", where=repr(text), mend="write it like 15m, 2h or 90s")
    return length
