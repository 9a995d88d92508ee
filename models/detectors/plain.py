"""Plain values: frozen dataclasses of numbers, texts and tuples to JSON and back, exact to the last digit."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def to_json(value: "DataclassInstance") -> str:
    """The same value gives the same bytes."""
    return json.dumps(asdict(value), sort_keys=True, allow_nan=False)


def from_json(text: str) -> dict[str, Any]:
    """The fields of `to_json`, lists turned back into tuples; what is a dataclass inside is still a dict."""
    fields = _tupled(json.loads(text))
    if not isinstance(fields, dict):
        raise ValueError(f"text must be a JSON object, was {text[:40]!r}")
    return fields


def _tupled(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tupled(item) for item in value)
    return {key: _tupled(item) for key, item in value.items()} if isinstance(value, dict) else value
