"""How a model ranks on some of its features: what `train --ablate` found, from a file or from the model's run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import InputError
from pipelines.trial import ABLATIONS

NUMBERS = ("ap_lift", "low", "high", "roc_auc")
MEND = "give what `train --ablate --json` printed, or a list of name, ap_lift, low, high, roc_auc"


def read_ablation(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Rows of `name` and NUMBERS (null where unknown): the whole model first, where the file tells it.

    `path` holds what `train --ablate --json` printed of one venue, or a list of such rows. Raises InputError else.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = _rows(told)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no ablation can be read ({error!r})", where=path, mend=MEND) from None
    if not found:
        raise InputError("the file holds no ablation", where=path, mend="train with --ablate")
    return found


def of_run(told: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The rows of a run's rankings, the model first, that are of some of its features; none where it has none."""
    part = [_row(one) for one in told[1:] if one["name"] in ABLATIONS]
    return (_row(told[0]), *part) if part else ()


def _rows(told: Any) -> tuple[Mapping[str, Any], ...]:
    if isinstance(told, list):
        return tuple(_row(one) for one in told)
    (venue,) = told["venues"]
    part = [_row(one) for one in venue["ablations"]]
    return tuple([_row(one) for one in venue["rivals"][:1]] + part) if part else ()


def _row(told: Mapping[str, Any]) -> Mapping[str, Any]:
    numbers = {name: None if told[name] is None else float(told[name]) for name in NUMBERS}
    return {"name": str(told["name"])} | numbers
