"""Commands over the registered models."""

from typing import Any

from pipelines.commands.shared import ConfigOption, JsonOption, LakeOption, emit, open_lake
from pipelines.errors import InputError


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
