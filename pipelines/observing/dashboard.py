"""An example Grafana dashboard, made from the metrics' names: `grafana.json` is what `dashboard_text` gives.

python -m pipelines.observing.dashboard > pipelines/observing/grafana.json
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 24, 7
SOURCE = {"type": "prometheus", "uid": "${source}"}
VENUE = '{venue=~"$venue"}'


@dataclass(frozen=True)
class Panel:
    """One panel; `queries` are expressions with their legends, `width` is out of 24."""

    title: str
    kind: str  # stat, timeseries, table
    unit: str
    width: int
    queries: tuple[tuple[str, str], ...]


PANELS = (
    Panel("Health: 0 ok, 1 late, 2 failing", "stat", "none", 4, (("cascadeguard_health", ""),)),
    Panel("Last good interval", "stat", "dateTimeAsIso", 8, (
        (f"cascadeguard_last_good_interval_timestamp_seconds{VENUE} * 1000", "{{venue}}"),)),
    Panel("Since the last run", "stat", "s", 4, (("time() - cascadeguard_written_timestamp_seconds", ""),)),
    Panel("Champion", "table", "none", 4, (("cascadeguard_champion_info", "{{model}} {{version}}"),)),
    Panel("Limits are good for", "stat", "s", 4, (
        (f"cascadeguard_limits_expire_timestamp_seconds{VENUE} - time()", "{{venue}}"),)),
    Panel("Breakers tripped", "timeseries", "none", 8, (
        (f"cascadeguard_breakers_tripped{VENUE}", "{{venue}} {{rule}} {{state}}"),)),
    Panel("Symbols by action", "timeseries", "none", 8, ((f"cascadeguard_symbols{VENUE}", "{{venue}} {{action}}"),)),
    Panel("Lowest leverage cap", "timeseries", "none", 8, (
        (f"cascadeguard_leverage_cap_effective_min{VENUE}", "{{venue}}"),)),
    Panel("Alerts that last", "timeseries", "none", 8, (
        (f"cascadeguard_alerts_standing{VENUE}", "{{venue}} {{severity}}"),)),
    Panel("Alert episodes of an interval", "timeseries", "none", 8, (
        (f"cascadeguard_interval_alert_episodes{VENUE}", "{{venue}}"),)),
    Panel("Decisions of an interval", "timeseries", "none", 8, (
        (f"cascadeguard_interval_decisions{VENUE}", "{{venue}} {{rule}} {{action}}"),)),
    Panel("Lag", "timeseries", "s", 8, ((f"cascadeguard_lag_seconds{VENUE}", "{{venue}}"),)),
    Panel("An interval takes", "timeseries", "s", 8, (
        (f"cascadeguard_interval_duration_seconds{VENUE}", "{{venue}}"),
        (f"cascadeguard_step_duration_seconds{VENUE}", "{{venue}} {{step}}"))),
    Panel("Failed attempts in 24 h", "timeseries", "none", 8, (
        (f"cascadeguard_runs_failed_24h{VENUE}", "{{venue}}"),)),
    Panel("Rows of an interval", "timeseries", "none", 8, (
        (f"cascadeguard_interval_rows_ingested{VENUE}", "{{venue}}"),)),
    Panel("Rows accepted and refused", "timeseries", "cps", 8, (
        ("rate(cascadeguard_rows_accepted_total[1h])", "{{table}} accepted"),
        ("rate(cascadeguard_rows_quarantined_total[1h])", "{{table}} refused"))),
    Panel("Symbols with a data fault", "timeseries", "none", 8, ((f"cascadeguard_data_faults{VENUE}", "{{venue}}"),)),
    Panel("Alert messages not delivered", "timeseries", "none", 16, (
        ("cascadeguard_sink_messages_undelivered", "{{sink}} waiting"),
        ("cascadeguard_sink_messages_given_up_24h", "{{sink}} given up in 24 h"),
        ("cascadeguard_sink_failing", "{{sink}} failing"))),
    Panel("Disk free", "timeseries", "bytes", 8, (("cascadeguard_disk_free_bytes", ""),)),
)  # fmt: skip


def _placed() -> list[tuple[Panel, dict[str, int]]]:
    """Panels from left to right, a new row where one does not fit."""
    x = y = 0
    placed = []
    for panel in PANELS:
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        placed.append((panel, {"x": x, "y": y, "w": panel.width, "h": HEIGHT}))
        x += panel.width
    return placed


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": legend,
         "instant": panel.kind != "timeseries"}
        for index, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; the data source and the venue are chosen on the page."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    venue = {
        "name": "venue",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(cascadeguard_data_faults, venue)",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }
    return {
        "title": "cascadeguard",
        "uid": "cascadeguard",
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [source, venue]},
        "panels": [_panel(number, panel, place) for number, (panel, place) in enumerate(_placed(), start=1)],
    }


def dashboard_text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(dashboard_text())
