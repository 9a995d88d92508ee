"""An evaluation as a tracked run: its figures as metrics, its settings as parameters, its JSON and page as files."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pipelines.evaluating.run import Judged
from pipelines.tracking import Record

HEADLINE = "event_recall"
BESIDE = ("event_recall", "false_alarms_per_symbol_day", "average_precision_lift", "area_skill_score")
LEFT_OUT = ("by_month", "by_symbol", "warnings")
_FOREIGN = re.compile(r"[^\w./ -]")  # characters that MLflow takes in no metric's name


def _numbers(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested figures by its dotted name; what is not known is left out.

    >>> dict(_numbers({"nab": {"standard": -1.5}, "corp": None, "ci": (0.1, 0.2), "exact": True}))
    {'nab.standard': -1.5, 'ci.low': 0.1, 'ci.high': 0.2}
    """
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}.")
        elif isinstance(value, tuple):
            yield from _numbers(dict(zip(("low", "high"), value, strict=True)), f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + name, float(value)


def record_of(judged: Judged, page: str) -> Record:
    """What is tracked of an evaluation; `page` is its HTML."""
    own = {name: value for name, value in judged.of.found.items() if name not in LEFT_OUT}
    beside = {
        f"baseline.{_FOREIGN.sub('_', name)}.{figure}": one.found[figure]
        for name, one in judged.baselines.items()
        for figure in BESIDE
    }
    return Record(
        params={"scorer": judged.name, **{n: v for n, v in asdict(judged.settings).items() if v is not None}},
        metrics=dict(_numbers(own | beside)),
        tags={"kind": "evaluation", "scorer": judged.name},
        artifacts={"evaluation.json": json.dumps(judged.to_json(), default=str, indent=1, sort_keys=True)},
        figures={"evaluation.html": page},
        seeds={"evaluation": judged.settings.seed},
        headline=HEADLINE,
    )
