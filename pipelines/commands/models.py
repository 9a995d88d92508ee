"""Commands over the registered models: list, show, promote, roll back, and why one says what it says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.shared import (
    ConfigOption,
    JsonOption,
    LakeOption,
    VenueOption,
    emit,
    need_lake,
    open_lake,
)
from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.tracking import Registry

WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; kept in the history.")]
LISTED = ("uri", "aliases", "gate", "metric", "created")

models = typer.Typer(name="models", help="The registered models: list, show, promote, roll back, why.")


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context, config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False
) -> None:
    """The registered models with their aliases, gate and metric; `show`, `promote` and `rollback` act on one."""
    context.obj = (config, lake, as_json)
    if context.invoked_subcommand is None:
        with _registry(config, lake) as registry:
            found = registry.list_models()
        emit({"models": found}, as_json, lambda _: _table(found) if found else "no models")


@models.command()
def show(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="URI|ALIAS|VERSION", help="models:/NAME/3, champion, or 3.")],
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """One version: what it was made of, how it did, whether it can be loaded, and its history."""
    from pipelines.model_pages import tell

    config, lake, as_json = _given(context, config, lake, as_json)
    with _registry(config, lake) as registry:
        told = tell(registry, target)
    emit(told, as_json, _page)


@models.command()
def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version of the early-warning model.")],
    why: WhyOption = "",
    force: Annotated[bool, typer.Option("--force", help="Although its gate was not passed; needs --why.")] = False,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version score from now on. The former champion stays one `rollback` away."""
    from pipelines import promotion

    config, lake, as_json = _given(context, config, lake, as_json)
    with _registry(config, lake) as registry:
        if not registry.exists:
            raise InputError("no models registered", where=registry.store.shown, mend="run `cascadeguard train` first")
        name = registry.settings.warning_name
        change = promotion.promote(registry, name, version, why, at=datetime.now(UTC), force=force)
    emit(asdict(change), as_json, lambda _: change.sentence())


@models.command()
def rollback(
    context: typer.Context,
    why: WhyOption = "",
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back to the champion before the present one; again, to the one before that."""
    from pipelines import promotion

    config, lake, as_json = _given(context, config, lake, as_json)
    with _registry(config, lake) as registry:
        change = promotion.rollback(registry, registry.settings.warning_name, why, at=datetime.now(UTC))
    emit(asdict(change), as_json, lambda _: change.sentence())


@models.command()
def why(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL")],
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="End of the bar, e.g. 2025-10-10T21:00Z.")],
    model: Annotated[str, typer.Option("--model", metavar="URI|ALIAS|VERSION", help="Whose word.")] = "champion",
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a model says what it says of one bar: families, what if each were as usual, the cascade most like it."""
    from pipelines.model_pages import load
    from pipelines.score import venues_to_run
    from pipelines.times import parse_time
    from pipelines.why import explain_row, row_at

    config, lake, as_json = _given(context, config, lake, as_json)
    settings, store = open_lake(config, lake)
    need_lake(store)
    with _registry(config, lake) as registry:
        found, uri = load(registry, model)
    of = venues_to_run(store, venue)
    if len(of) > 1:
        raise InputError("the lake holds several venues", mend=f"name one with --venue: {', '.join(of)}")
    told = explain_row(found, uri, row_at(store, of[0], symbol, parse_time(at), settings))
    emit(told, as_json, lambda _: told.sentence())


def _given(
    context: typer.Context, config: Path | None, lake: Path | None, as_json: bool
) -> tuple[Path | None, Path | None, bool]:
    """Options may stand before or after the word `show`, `promote`, `rollback`, `why`."""
    first_config, first_lake, first_json = context.obj
    return config or first_config, lake or first_lake, as_json or first_json


@contextmanager
def _registry(config: Path | None, lake: Path | None) -> "Iterator[Registry]":
    from pipelines.tracking import Registry, RegistryError

    settings, store = open_lake(config, lake)
    try:
        yield Registry(settings.mlflow, store.root)
    except RegistryError as error:
        raise InputError(str(error)) from None


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [LISTED, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(LISTED))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    metric = "-" if row["metric"] is None else f"{row['metric']} {row['metric_value']:.4g}"
    return row["uri"], ", ".join(row["aliases"]) or "-", _gate(row), metric, row["created"]


def _gate(row: dict[str, Any]) -> str:
    said = {None: "-", True: "passed", False: "not passed"}[row["gate_passed"]]
    return f"{said}, forced" if row["forced"] else said


def _page(told: dict[str, Any]) -> str:
    lines = [told["uri"]]
    for name in ("aliases", "created", "run_id"):
        lines.append(f"  {name}: {', '.join(told[name]) if isinstance(told[name], list) else told[name]}")
    lines += [f"  gate: {_gate(told)}", f"  loads: {told['loads']}"]
    run = told["run"]
    if run is not None:
        lines.append(f"  experiment: {run['experiment']}")
        lines.append(f"  code: {run['environment'].get('code', '-')}")
        lines += [f"  {_dataset(dataset)}" for dataset in run["datasets"]]
        lines += [f"  metric {name}: {value:.6g}" for name, value in sorted(run["metrics"].items())]
        lines += [f"  {name}: {value}" for name, value in sorted(run["params"].items())]
    lines += [f"  history {_entry(entry)}" for entry in told["history"]]
    return "\n".join(lines)


def _dataset(row: dict[str, Any]) -> str:
    size = f"{row['rows']:,} rows x {row['columns']} columns"
    return f"{row['role']}: {row['name']} {row['start']} to {row['end']}, {size}, {row['digest'][:12]}"


def _entry(entry: dict[str, Any]) -> str:
    was = entry["was"] or "none"
    how = f"{entry['kind']}{', forced' if entry['forced'] else ''}"
    return f"{entry['at']} {was} -> {entry['to']} ({how}): {entry['why'] or 'no reason given'}"
