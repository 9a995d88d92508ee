"""Metrics in Prometheus' text format: a file for node_exporter's textfile collector, and a push where one is named.

Every run is a process of its own, so nothing is counted in memory: values are read from the lake, and are gauges,
except what only grows with the lake.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit, urlunsplit

from prometheus_client import CollectorRegistry, Gauge, generate_latest, push_to_gateway
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import basic_auth_handler
from prometheus_client.registry import Collector

from guardrails.ladder import ACTIONS
from pipelines.config import ObserveConfig
from pipelines.durable import write_whole
from pipelines.observing.bounded import in_time
from pipelines.observing.secrets import hidden, values_of
from pipelines.observing.state import LATE, OK, Snapshot, VenueFacts

JOB = "cascadeguard"
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {  # name -> what it is, labels
    "cascadeguard_health": ("0 ok, 1 late, 2 failing", ()),
    "cascadeguard_written_timestamp_seconds": ("When these metrics were written", ()),
    "cascadeguard_last_good_interval_timestamp_seconds": ("End of the last interval done well", ("venue",)),
    "cascadeguard_lag_seconds": ("Since the end of the last interval done well", ("venue",)),
    "cascadeguard_interval_duration_seconds": ("Wall time of the last interval done well", ("venue",)),
    "cascadeguard_step_duration_seconds": ("Wall time of a step of that interval", ("venue", "step")),
    "cascadeguard_interval_rows_ingested": ("Rows that the last interval done well took in", ("venue",)),
    "cascadeguard_interval_alert_episodes": ("Alert episodes in the last interval done well", ("venue",)),
    "cascadeguard_interval_decisions": ("Decisions of the last interval done well", ("venue", "rule", "action")),
    "cascadeguard_runs_failed_24h": ("Failed attempts in the last 24 hours", ("venue",)),
    "cascadeguard_symbols": ("Symbols by the action in force", ("venue", "action")),
    "cascadeguard_breakers_tripped": ("Breakers that are open or on probation", ("venue", "rule", "state")),
    "cascadeguard_leverage_cap_effective_min": ("The lowest leverage cap in force", ("venue",)),
    "cascadeguard_limits_expire_timestamp_seconds": ("When the newest limits expire", ("venue",)),
    "cascadeguard_data_faults": ("Symbols with a missing input or a blocked action", ("venue",)),
    "cascadeguard_champion_info": ("The early-warning champion, always 1", ("model", "version")),
    "cascadeguard_alerts_standing": ("Alerted conditions that last", ("venue", "severity")),
    "cascadeguard_sink_messages_undelivered": ("Alert messages that wait for another attempt", ("sink",)),
    "cascadeguard_sink_messages_given_up_24h": ("Alert messages given up in the last 24 hours", ("sink",)),
    "cascadeguard_sink_failing": ("1 where the last attempt of a sink failed", ("sink",)),
    "cascadeguard_disk_free_bytes": ("Free on the lake's disk", ()),
}
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cascadeguard_rows_accepted_total": ("Rows that were accepted, over the whole lake", ("table",)),
    "cascadeguard_rows_quarantined_total": ("Rows that were refused, over the whole lake", ("table",)),
}

Sample: TypeAlias = tuple[str, tuple[str, ...], float]  # name, values of its labels, value


class _Rows(Collector):
    """Counters whose values come from the lake's own log of what it took in."""

    def __init__(self, rows: Mapping[str, tuple[int, int]]) -> None:
        self._rows = rows

    def collect(self) -> Iterator[CounterMetricFamily]:
        for place, (name, (text, labels)) in enumerate(COUNTERS.items()):
            family = CounterMetricFamily(name, text, labels=labels)
            for table, counts in self._rows.items():
                family.add_metric([table], counts[place])
            yield family


def registry_of(found: Snapshot) -> CollectorRegistry:
    """All metrics of a snapshot, in a registry of their own; what is not known has no sample."""
    registry = CollectorRegistry()
    gauges = {name: Gauge(name, text, labels, registry=registry) for name, (text, labels) in GAUGES.items()}
    for name, labels, value in samples(found):
        gauge = gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)
    registry.register(_Rows(found.facts.rows))
    return registry


def samples(found: Snapshot) -> list[Sample]:
    """Every value of every gauge that is known."""
    whole: list[Sample] = [
        ("cascadeguard_health", (), 0 if found.state == OK else 1 if found.state == LATE else 2),
        ("cascadeguard_written_timestamp_seconds", (), found.now.timestamp()),
        ("cascadeguard_disk_free_bytes", (), found.disk_free_bytes),
    ]
    if found.champion[1]:
        whole.append(("cascadeguard_champion_info", found.champion, 1))
    whole += [("cascadeguard_alerts_standing", key, count) for key, count in found.standing.items()]
    whole += _of_sinks(found)
    return whole + [sample for one in found.facts.venues for sample in _of_venue(found, one)]


def _of_sinks(found: Snapshot) -> list[Sample]:
    names = dict.fromkeys((*found.sinks, *found.undelivered, *found.given_up))
    rows: list[Sample] = []
    for sink in names:
        waiting, why = found.undelivered.get(sink, (0, ""))
        rows += [
            ("cascadeguard_sink_messages_undelivered", (sink,), waiting),
            ("cascadeguard_sink_messages_given_up_24h", (sink,), found.given_up.get(sink, 0)),
            ("cascadeguard_sink_failing", (sink,), bool(why)),
        ]
    return rows


def _of_venue(found: Snapshot, one: VenueFacts) -> list[Sample]:
    venue = (one.venue,)
    known: dict[str, float | None] = {
        "cascadeguard_last_good_interval_timestamp_seconds": _stamp(one.last_good),
        "cascadeguard_lag_seconds": found.lag_s(one),
        "cascadeguard_interval_duration_seconds": one.seconds,
        "cascadeguard_interval_rows_ingested": one.rows_ingested if one.last_good else None,
        "cascadeguard_interval_alert_episodes": one.episodes if one.last_good else None,
        "cascadeguard_runs_failed_24h": found.failed_24h(one),
        "cascadeguard_leverage_cap_effective_min": one.leverage_cap_min,
        "cascadeguard_limits_expire_timestamp_seconds": _stamp(one.limits_until),
        "cascadeguard_data_faults": one.faults,
    }
    tripped = [(row.rule, row.state) for row in one.tripped]
    rows: list[Sample] = [(name, venue, value) for name, value in known.items() if value is not None]
    rows += [("cascadeguard_step_duration_seconds", (*venue, step), value) for step, value in one.steps.items()]
    rows += [
        ("cascadeguard_interval_decisions", (*venue, rule, action), count) for rule, action, count in one.decisions
    ]
    rows += [("cascadeguard_symbols", (*venue, action), one.symbols.get(action, 0)) for action in ACTIONS]
    rows += [("cascadeguard_breakers_tripped", (*venue, *key), tripped.count(key)) for key in dict.fromkeys(tripped)]
    return rows


def _stamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def metrics_path(root: Path) -> Path:
    return root / "metrics" / "cascadeguard.prom"


def write_metrics(root: Path, registry: CollectorRegistry) -> None:
    """The file that node_exporter reads: whole or not at all."""
    write_whole(metrics_path(root), generate_latest(registry).decode())


def push_metrics(registry: CollectorRegistry, settings: ObserveConfig, environment: Mapping[str, str]) -> str:
    """Push to the gateway that the settings name; returns what went wrong, empty where nothing did or none is named.

    Never raises: metrics that cannot be pushed cost a note.
    """
    if not settings.push_url_env:
        return ""
    url = environment.get(settings.push_url_env, "").strip()
    if not url:
        return f"metrics not pushed: the environment variable {settings.push_url_env} is empty"
    error = in_time(lambda: _push(url, registry, settings.push_timeout_s), settings.push_timeout_s)
    why = f"no answer within {settings.push_timeout_s:g} s" if error is None else error
    return hidden(f"metrics not pushed: {why}", values_of(settings, environment)) if why else ""


def _push(url: str, registry: CollectorRegistry, timeout_s: float) -> str:
    parts = urlsplit(url)
    place = url if parts.username is None else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def handler(**request: Any) -> Callable[[], None]:
        user, password = (unquote(word) if word else word for word in (parts.username, parts.password))
        return basic_auth_handler(**request, username=user, password=password)

    try:
        push_to_gateway(place, job=JOB, registry=registry, timeout=timeout_s, handler=handler)
    except Exception as error:  # of urllib, sockets, TLS, and what the address says
        return f"{type(error).__name__}: {error}"
    return ""
