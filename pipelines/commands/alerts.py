"""Commands of alerts: what stands, who has seen it, whether a sink works."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pipelines.commands.shared import ConfigOption, JsonOption, LakeOption, emit, need_lake, open_lake
from pipelines.times import parse_time

alerts = typer.Typer(
    name="alerts",
    help="What was alerted and lasts: list it, acknowledge it, test a sink.",
    no_args_is_help=False,
)


@alerts.command("list")
def alerts_list(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the conditions that last, the worst first, and the messages that no sink has taken yet."""
    from pipelines.alerting.listing import listed, listing_sentence

    _, store = open_lake(config, lake)
    need_lake(store)
    emit(listed(store.root, datetime.now(UTC)), as_json, listing_sentence)


@alerts.command("ack")
def alerts_ack(
    keys: Annotated[
        list[str], typer.Argument(metavar="KEY...", help="A key or its short id; KEY/ means all that begin so.")
    ],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who has seen it.")],
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Repeat it again from then on; default never.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Acknowledge conditions: they are not repeated until they get worse or begin anew."""
    from pipelines.alerting.listing import acknowledge

    _, store = open_lake(config, lake)
    need_lake(store)
    found = acknowledge(store.root, keys, by, parse_time(until) if until is not None else None)
    emit(found, as_json, lambda f: "\n".join(f"acknowledged by {f['by']}: {key}" for key in f["keys"]))


@alerts.command("test")
def alerts_test(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="Its name in the settings.")],
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a test message to one sink; exit code 1 where it is not taken."""
    from pipelines.alerting.listing import try_sink

    settings, _ = open_lake(config, lake)
    outcome = try_sink(settings, sink, datetime.now(UTC))
    emit(outcome, as_json, _tested)
    if outcome["state"] != "sent":
        raise typer.Exit(1)


def _tested(outcome: dict[str, Any]) -> str:
    if outcome["state"] == "sent":
        return f"{outcome['sink']} took the test message"
    return f"{outcome['sink']} did not take the test message: {outcome['error']}"
