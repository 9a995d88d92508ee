"""The page of `policy trial`: what a new policy would have changed, as tables and bars; no script at all."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from guardrails.ladder import ACTIONS, MEANING

SIDES = ("before", "after")


def render(trials: Sequence[Mapping[str, Any]]) -> str:
    """The page as text, a section per venue. The same trials give the same bytes."""
    style = resources.files("pipelines").joinpath("templates").joinpath("report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["count"] = "{:,}".format
    return environment.get_template("policy_trial.html.j2").render(
        trials=[dict(trial) | {"actions": with_bars(trial["actions"])} for trial in trials],
        style=style, actions=ACTIONS, meaning=MEANING, sides=SIDES,
    )  # fmt: skip


def with_bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`rows` with `bars`: per side the width of every action but normal, in percent of the most any symbol spent so.

    >>> zero = {f"{action}_{side}": 0 for action in ACTIONS for side in SIDES}
    >>> with_bars([zero | {"cautious_before": 5, "halted_after": 10}])[0]["bars"]["after"]
    [('cautious', 0.0), ('reduce_only', 0.0), ('halted', 100.0)]
    """
    spent = [sum(row[f"{action}_{side}"] for action in ACTIONS[1:]) for row in rows for side in SIDES]
    worst = max([1, *spent])
    return [
        dict(row)
        | {
            "bars": {
                side: [(action, round(100 * row[f"{action}_{side}"] / worst, 2)) for action in ACTIONS[1:]]
                for side in SIDES
            }
        }
        for row in rows
    ]
