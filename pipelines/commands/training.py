"""Commands that train models."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit_venues,
)
from pipelines.progress import progress

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
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the early-warning model walk-forward, calibrate, put it past the gate, track and register it."""
    from features.feature import BAR_S_CHOICES
    from pipelines.training import Options, train_venue

    options = Options(pretrain=tuple(pretrain or ()), ablate=ablate)
    with progress("train") as say:
        summaries = [
            train_venue(store, name, span, settings, say, options=options)
            for store, name, span, settings in each_venue(config, lake, venue, start, end, lengths=BAR_S_CHOICES)
        ]
    emit_venues(summaries, as_json, lambda s: s.sentence())
