"""The command line: arguments in, one step called, a summary out. Steps are imported when they are run."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pipelines.commands import (
    alerts,
    data,
    defend,
    judge,
    loop,
    models,
    operate,
    schedule,
    serve,
    start,
    status,
    training,
)
from pipelines.errors import InputError
from pipelines.observing.logs import configure_logs, mask_in_use, traceback_text

COMMANDS = (  # in the order data flows
    ("Start here", (start.demo,)),
    (
        "Data",
        (
            data.simulate,
            data.ingest,
            data.poll,
            data.compact,
            data.retain,
            data.doctor,
            data.bars,
            data.features,
            data.labels,
        ),
    ),
    ("Models", (training.train, judge.evaluate, models.models)),
    (
        "Scheduled",
        (
            schedule.run,
            operate.score,
            operate.guard,
            schedule.backfill,
            schedule.schedule,
            status.status,
            operate.report,
            serve.serve,
            alerts.alerts,
        ),
    ),
    (
        "Explain and defend",
        (defend.policy, defend.replay, defend.explain, defend.bands, defend.stress, loop.loop, defend.graph),
    ),
)

NAMES = [
    command.info.name if isinstance(command, typer.Typer) else command.__name__
    for _, commands in COMMANDS
    for command in commands
]


class InOrder(TyperGroup):
    """Lists commands as `COMMANDS` does; typer alone lists those that hold others after the rest."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=NAMES.index)


app = typer.Typer(
    name="cascadeguard",
    cls=InOrder,
    help="Early warning and guardrails for liquidation cascades at perpetual-futures venues.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for panel, commands in COMMANDS:
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(command)


def _fail(message: str, code: int) -> int:
    sys.stderr.write("error: " + " ".join(mask_in_use().text(message).split()) + "\n")
    return code


def run(argv: list[str]) -> int:
    """Run one command; 0 on success, 2 on bad usage or input (one line), 1 on an internal failure."""
    configure_logs()
    try:
        result = app(argv, prog_name="cascadeguard", standalone_mode=False)
    except InputError as error:
        return _fail(str(error), 2)
    except TyperException as error:
        return _fail(f"{error.format_message()} See `cascadeguard --help`.", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; run the same command again to go on", 1)
    except BrokenPipeError:
        return 1
    except Exception as error:
        sys.stderr.write(traceback_text(error))
        return _fail(f"internal failure, please report it: {type(error).__name__}: {error}", 1)
    return result if isinstance(result, int) else 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))
