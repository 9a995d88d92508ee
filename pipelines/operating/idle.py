"""A run that has nothing to do finds that out without opening the lake: reading a table costs a second of imports.

    L/schedule/idle.json   what the last run found: nothing is due before `until`, as long as these logs do not grow

New rows leave a mark in `pending`, a new venue brings instruments, whoever runs writes `runs`: where none of the three
has a new commit, no file of a source is new, and the next end of an interval has not settled, nothing has changed.
"""

import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.operating.due import floor_to, step_of
from pipelines.operating.lease import schedule_folder, write_json
from pipelines.operating.sources import anything_new

TELLING = ("pending", "instruments", "runs")


def _logs(root: Path) -> dict[str, str]:
    """The newest commit of each telling table, by its name."""
    return {table: _newest(root / "tables" / table / "_delta_log") for table in TELLING}


def _newest(log: Path) -> str:
    try:
        return max((entry.name for entry in os.scandir(log) if entry.name.endswith(".json")), default="")
    except FileNotFoundError:
        return ""


def _settings(config: Config) -> str:
    return config.schedule.model_dump_json()


def note_idle(root: Path, config: Config, now: datetime, venues: Sequence[dict[str, Any]]) -> None:
    """Keep that everything due at `now` is done; `venues` are names, and notes that still hold."""
    settled = floor_to(now - timedelta(seconds=config.schedule.settle_s), step_of(config.schedule))
    until = settled + step_of(config.schedule) + timedelta(seconds=config.schedule.settle_s)
    told = {
        "since": now.isoformat(),
        "until": until.isoformat(),
        "logs": _logs(root),
        "settings": _settings(config),
        "venues": list(venues),
    }
    write_json(schedule_folder(root) / "idle.json", told)


def still_idle(root: Path, config: Config, now: datetime) -> list[dict[str, Any]] | None:
    """What the last run said of each venue, where nothing has changed since; null where anything may have."""
    folder = schedule_folder(root)
    try:
        told = json.loads((folder / "idle.json").read_text(encoding="utf-8"))
        inside = datetime.fromisoformat(told["since"]) <= now < datetime.fromisoformat(told["until"])
        same = told["logs"] == _logs(root) and told["settings"] == _settings(config)
        venues: list[dict[str, Any]] = told["venues"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    quiet = inside and same and not (folder / "attempt.json").exists() and not anything_new(root, config)
    return venues if quiet else None
