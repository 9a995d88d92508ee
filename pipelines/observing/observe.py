"""After a run: look once, then write the health file and the metrics, and push them. Never raises."""

import os
from collections.abc import Sequence
from datetime import datetime

import polars as pl
import structlog

from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.observing.health import write_health
from pipelines.observing.look import look
from pipelines.observing.metrics import push_metrics, registry_of, write_metrics
from pipelines.observing.secrets import hidden, values_of
from pipelines.observing.state import snapshot

log = structlog.get_logger()


def observe(lake: Lake, config: Config, now: datetime) -> list[str]:
    """Write `health.json` and `metrics/cascadeguard.prom`, push where settings say so; what went wrong, in words."""
    try:
        found = snapshot(lake.root, look(lake, now), config, now)
        registry = registry_of(found)
        write_health(lake.root, found)
        write_metrics(lake.root, registry)
        note = push_metrics(registry, config.observe, os.environ)
    except (Exception, pl.exceptions.PanicException) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        note = hidden(f"health and metrics could not be written: {why}", values_of(config, os.environ))
    if note:
        log.warning("not observed", error=note)
    return [note] if note else []


def observe_outcomes(lake: Lake, config: Config, _outcomes: Sequence[object], now: datetime) -> list[str]:
    """`observe`, as a scheduled run calls what comes after it."""
    return observe(lake, config, now)
