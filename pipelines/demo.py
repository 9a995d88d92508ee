"""The demo: a simulated venue through every step, from events to the report."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.guard import guard_venue
from pipelines.labels import label_events
from pipelines.lake import Lake
from pipelines.progress import Say, silent
from pipelines.report import write_report
from pipelines.score import score_venue
from pipelines.simulate import simulate_venue
from pipelines.times import Interval, parse_time
from pipelines.training import train_venue

START = parse_time("2025-01-01T00:00Z")
SCORED_SHARE = 0.2  # of the simulated time: its end; the rest is for training and is the detector's reference
SCORED_MIN = timedelta(hours=6)


@dataclass(frozen=True)
class DemoSummary:
    report: str
    rows_ingested: int
    symbols: int
    cascades: int  # labelled in the whole simulation
    cascades_scored: int  # of them in the scored interval
    alerts: int  # episodes in the scored interval
    decisions: int
    account_decisions: int
    model_uri: str | None
    detector_uri: str | None
    trained: str
    scored: str
    notes: list[str]


def _cut(whole: Interval) -> tuple[Interval, Interval]:
    """The simulation cut into past and present, on a full hour."""
    length = max(SCORED_SHARE * (whole.end - whole.start), SCORED_MIN)
    cut = (whole.end - length).replace(minute=0, second=0, microsecond=0)
    if not cut > whole.start:
        raise InputError("the simulation is too short for a demo", mend="set `[simulator] days` to 1 or more")
    return Interval(whole.start, cut), Interval(cut, whole.end)


def run_demo(lake: Lake, config: Config, say: Say = silent) -> DemoSummary:
    """Simulate, train on the first part, score, guard and report the rest. Repeating it changes nothing."""
    simulated = simulate_venue(lake, config, START, say)
    whole = Interval(START, START + timedelta(hours=round(config.simulator.days * 24)))
    past, present = _cut(whole)
    venue = simulated.venue
    trained = train_venue(lake, venue, past, config, say)
    scored = score_venue(lake, venue, present, config, reference=past, say=say)
    say("guardrails")
    guarded = guard_venue(lake, venue, present, config)
    cascades = label_events(lake, venue, whole, config)
    say("report")
    page = write_report(lake, config, venue, present, None)
    return DemoSummary(
        report=page.report,
        rows_ingested=lake.scan("ingest_log").select(pl.col("rows_accepted").sum()).collect().item(),
        symbols=simulated.symbols,
        cascades=cascades.cascades,
        cascades_scored=sum(event["onset"] > present.start for event in cascades.events),
        alerts=scored.alerts,
        decisions=guarded.decisions,
        account_decisions=guarded.account_decisions,
        model_uri=scored.model_uri,
        detector_uri=scored.detector_uri,
        trained=trained.sentence(),
        scored=scored.interval,
        notes=scored.notes,
    )


def demo_sentence(summary: DemoSummary) -> str:
    return "\n".join(
        [
            f"{summary.rows_ingested:,} simulated rows of {summary.symbols} symbols, {summary.cascades} cascades",
            f"trained: {summary.trained}",
            f"scored {summary.scored}: {summary.alerts} alert episodes, {summary.cascades_scored} cascades, "
            f"{summary.decisions:,} decisions",
            f"report: {summary.report}",
        ]
    )
