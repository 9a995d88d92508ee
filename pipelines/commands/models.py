"""Commands that train, track and list models."""

from typing import Any

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
    open_lake,
)
from pipelines.errors import InputError
from pipelines.progress import progress


def train(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the early-warning model walk-forward, calibrate, track and register it."""
    from pipelines.training import train_venue

    with progress("train") as say:
        summaries = [
            train_venue(store, name, span, settings, say)
            for store, name, span, settings in each_venue(config, lake, venue, start, end)
        ]
    emit_venues(summaries, as_json, lambda s: s.sentence())


def models(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the registered models with their aliases."""
    from pipelines.tracking import Registry, RegistryError

    settings, store = open_lake(config, lake)
    try:
        found = Registry(settings.mlflow, store.root).list_models()
    except RegistryError as error:
        raise InputError(str(error), mend="check `[mlflow] tracking_uri`") from None
    emit({"models": found}, as_json, lambda _: "\n".join(map(_model_line, found)) or "no models")


def _model_line(row: dict[str, Any]) -> str:
    return f"{row['uri']}  {', '.join(row['aliases'])}  {row['created']}"
