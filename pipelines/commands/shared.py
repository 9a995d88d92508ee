"""What the commands have in common: options, opening the lake, printing a summary."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.config import Config, load_config
from pipelines.errors import InputError
from pipelines.times import Interval, parse_interval

if TYPE_CHECKING:
    from pipelines.lake import Lake

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file; default cascadeguard.toml if it exists.")
]
LakeOption = Annotated[Path | None, typer.Option("--lake", metavar="DIR", help="The lake; default from the settings.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Start (exclusive), such as 2025-10-10T00:00Z.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End (inclusive).")]
VenueOption = Annotated[
    str | None, typer.Option("--venue", metavar="NAME", help="One venue; default every venue of the lake.")
]
SEEDS_MAX = 1_000


class Label(StrEnum):
    OI_FLUSH = "oi_flush"
    LIQ_SHARE = "liq_share"
    LIQ_BURST = "liq_burst"
    ADL = "adl"


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds as a list of numbers and ranges. Raises InputError for anything else, and for a seed named twice.

    >>> parse_seeds("1-3,7")
    (1, 2, 3, 7)
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise InputError("seeds cannot be read", where=repr(part), mend="write --seeds 1-8 or --seeds 1,3,5")
        if int(last or first) - int(first) >= SEEDS_MAX:
            raise InputError(f"more than {SEEDS_MAX} seeds", where=repr(part))
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found):
        raise InputError("a seed is named twice", where=text)
    return tuple(found)


def open_lake(config_path: Path | None, lake: Path | None) -> tuple[Config, "Lake"]:
    from pipelines.lake import Lake
    from pipelines.observing.logs import configure_logs, environment_secrets

    config = load_config(config_path, lake=lake)
    configure_logs(config.observe.log_format, environment_secrets(config))
    if config.lake.exists() and not config.lake.is_dir():
        raise InputError("the lake is not a directory", where=config.lake, mend="name a directory with --lake")
    return config, Lake(config.lake)


def need_lake(lake: "Lake") -> None:
    if not lake.root.is_dir():
        raise InputError(
            "there is no lake", where=lake.root, mend="run `cascadeguard ingest` or `cascadeguard demo` first"
        )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def emit(summary: Any, as_json: bool, sentence: Callable[[Any], str]) -> None:
    """Print the summary: JSON for machines, one or a few sentences for people."""
    if as_json:
        typer.echo(json.dumps(_plain(summary), default=str))
    else:
        typer.echo(sentence(summary))


def emit_venues(summaries: list[Any], as_json: bool, sentence: Callable[[Any], str]) -> None:
    """One summary per venue: `{"venues": [...]}` for machines, one paragraph each for people."""
    emit({"venues": _plain(summaries)} if as_json else summaries, as_json, lambda all_: "\n".join(map(sentence, all_)))


def span_text(start: str | None, end: str | None) -> Interval | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise InputError("--from and --to go together")
    return parse_interval(start, end)


def each_venue(
    config: Path | None,
    lake: Path | None,
    venue: str | None,
    start: str | None,
    end: str | None,
    *,
    lengths: tuple[int, ...] | None = (60,),
) -> Iterator[tuple["Lake", str, Interval, Config]]:
    """Every venue to run with its interval: the given one, else all that the lake holds of the venue.

    `lengths` are the bars, in seconds, that the command is made for (None: any); InputError for others.
    """
    from pipelines.bars import venue_span
    from pipelines.score import venues_to_run

    settings, store = open_lake(config, lake)
    need_lake(store)
    bar_s = settings.bars.interval_s
    if lengths is not None and bar_s not in lengths:
        known = " or ".join(map(str, lengths))
        what = f"this command is made for bars of {known} s, not of {bar_s} s"
        raise InputError(what, where="`[bars] interval_s`", mend=f"set it to {known}, or use `cascadeguard bars` alone")
    chosen = span_text(start, end)
    for name in venues_to_run(store, venue):
        yield store, name, chosen or venue_span(store, name, bar_s), settings
