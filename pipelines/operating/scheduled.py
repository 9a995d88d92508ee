"""A scheduled run with all that comes after it, as whoever keeps the clock calls it: cron, systemd, an orchestrator."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import Config
from pipelines.operating.run import RunSummary, run_once
from pipelines.progress import Say, silent

if TYPE_CHECKING:
    from pipelines.lake import Lake
    from pipelines.operating.history import Outcome


def run_due(config: Config, now: datetime, *, venue: str | None = None, say: Say = silent) -> RunSummary:
    """`run_once` on the lake of `config` as if it were `now`, with alerts, metrics and health behind it."""
    wall = datetime.now(UTC)
    return run_once(
        config.lake,
        config,
        now,
        wall=wall,
        venue=venue,
        clock=lambda: now + (datetime.now(UTC) - wall),
        alerts=_alerts,
        observe=_observe,
        idle=_try_again,
        say=say,
    )


def _alerts(lake: "Lake", config: Config, outcomes: "Sequence[Outcome]", now: datetime) -> Sequence[str]:
    from pipelines.alerting.outcomes import alert_outcomes

    return alert_outcomes(lake, config, outcomes, now)


def _observe(lake: "Lake", config: Config, outcomes: "Sequence[Outcome]", now: datetime) -> Sequence[str]:
    from pipelines.observing.observe import observe_outcomes

    return observe_outcomes(lake, config, outcomes, now)


def _try_again(root: Path, config: Config, now: datetime) -> Sequence[str]:
    """Messages that no sink has taken yet; without opening the lake."""
    from pipelines.alerting.outbox import outbox_path

    if not outbox_path(root).exists():
        return ()
    from pipelines.alerting.deliver import tried

    return tried(root, config, os.environ, now)
