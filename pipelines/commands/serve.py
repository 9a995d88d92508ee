"""The command of the dashboard."""

import contextlib
import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelines.commands.shared import ConfigOption, LakeOption, need_lake, open_lake


def serve(
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen; default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="Default 8010; 0: any that is free.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
) -> None:
    """Show the lake as read-only web pages: risk, breakers, decisions, graph, runs. Stop it with Ctrl-C."""
    from pipelines.serving.access import TOKEN_VARIABLE
    from pipelines.serving.server import address_of, bound, server_of

    settings, store = open_lake(config, lake)
    need_lake(store)
    said = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=said)})
    server = server_of(settings, os.environ.get(TOKEN_VARIABLE), lambda: datetime.now(UTC))
    listening = bound(settings.serve.host, settings.serve.port)
    typer.echo(f"{address_of(listening)} shows {settings.lake}; stop with Ctrl-C", err=True)
    with contextlib.suppress(KeyboardInterrupt):  # how one stops it
        server.run(sockets=[listening])
