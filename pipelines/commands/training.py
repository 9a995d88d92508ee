"""Commands that train models."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.engines import Engine, SchedulerOption
from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit,
    emit_venues,
    need_lake,
    open_lake,
)
from pipelines.errors import InputError
from pipelines.progress import progress

if TYPE_CHECKING:
    from models.fitting import Grow


PretrainOption = Annotated[
    list[Path] | None,
    typer.Option("--pretrain", metavar="LAKE", help="A lake with more history to learn moves from first; repeatable."),
]


def train(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    pretrain: PretrainOption = None,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also judge the model on some of its features.")] = False,
    tune: Annotated[
        int,
        typer.Option("--tune", metavar="N", min=0, help="Search settings in N trials on the first training slice."),
    ] = 0,
    engine: Annotated[Engine, typer.Option("--engine", help="Where trees are grown.")] = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    from_run: Annotated[
        str | None,
        typer.Option("--from-run", metavar="ID", help="Do this run again from its record; registers nothing."),
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the early-warning model walk-forward, calibrate, put it past the gate, track and register it."""
    from features.feature import BAR_S_CHOICES
    from pipelines.training import Options, train_venue

    if from_run is not None:
        _repeat(
            from_run,
            config,
            lake,
            as_json,
            given=(start, end, venue, pretrain, ablate, tune, scheduler, engine is Engine.DASK),
        )
        return
    with progress("train") as say, _grower(engine, scheduler) as grow:
        options = Options(pretrain=tuple(pretrain or ()), ablate=ablate, tune=tune, grow=grow, engine=engine.value)
        summaries = [
            train_venue(store, name, span, settings, say, options=options)
            for store, name, span, settings in each_venue(config, lake, venue, start, end, lengths=BAR_S_CHOICES)
        ]
    emit_venues(summaries, as_json, lambda s: s.sentence())


def _grower(engine: Engine, scheduler: str | None) -> AbstractContextManager["Grow"]:
    if engine is Engine.DASK:
        from pipelines.distributed import dask_grow

        return dask_grow(scheduler)
    from models.fitting import grow

    if scheduler is not None:
        raise InputError("--scheduler is for --engine dask", where=scheduler)
    return nullcontext(grow)


def _repeat(run_id: str, config: Path | None, lake: Path | None, as_json: bool, *, given: tuple[object, ...]) -> None:
    from pipelines.repeating import repeat

    if any(given):
        raise InputError("--from-run takes everything from the record", mend="leave the other options out")
    settings, store = open_lake(config, lake)
    need_lake(store)
    with progress("train") as say:
        found = repeat(store, run_id, settings, say)
    emit(asdict(found), as_json, lambda _: found.sentence())
