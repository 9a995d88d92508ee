"""The command of the closed loop."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.shared import ConfigOption, JsonOption, emit, open_lake, parse_seeds


def loop(
    seeds: Annotated[str, typer.Option("--seeds", metavar="LIST", help="Such as 1-8 or 1,3,5.")] = "1-8",
    days: Annotated[float, typer.Option("--days", help="Length of each seed, after four hours of warm-up.")] = 1.0,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="A policy; default the one in force.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Seeds that run at the same time.", min=1)] = 1,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FOLDER", help="Keep finished seeds there, and do not run again what is there."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page too.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate the same days with and without guardrails: what each rule saves, and what it costs."""
    from pipelines.closed_loop_table import run_loop, sentence, worked
    from pipelines.pages import write_page
    from pipelines.progress import progress
    from pipelines.reporting.closed_loop_page import render

    settings, _ = open_lake(config, None)
    chosen = settings if policy is None else settings.model_copy(update={"policy": policy})
    wanted = parse_seeds(seeds)
    with progress("loop", total=len(wanted)) as say:
        summary, runs = run_loop(chosen, wanted, days, workers=workers, keep=keep, say=say)
    if html is not None:
        write_page(html, render(summary, *worked(runs)), "--html")
    emit(summary, as_json, sentence)
