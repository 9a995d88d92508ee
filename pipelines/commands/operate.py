"""Commands of the daily run: score, guard, report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit,
    emit_venues,
    need_lake,
    open_lake,
    span_text,
)
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import parse_interval


def score(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    reference_from: Annotated[
        str | None, typer.Option("--reference-from", help="Start of the period that is normal.")
    ] = None,
    reference_to: Annotated[
        str | None, typer.Option("--reference-to", help="End of the period that is normal.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every minute: bars, features, detector and early-warning model."""
    from features.feature import BAR_S_CHOICES
    from pipelines.score import score_venue

    if (reference_from is None) != (reference_to is None):
        raise InputError("--reference-from and --reference-to go together")
    reference = parse_interval(reference_from, reference_to) if reference_from and reference_to else None
    summaries = []
    with progress("score") as say:
        for store, name, span, settings in each_venue(config, lake, venue, start, end, lengths=BAR_S_CHOICES):
            summaries.append(score_venue(store, name, span, settings, reference=reference, say=say))
    emit_venues(summaries, as_json, _score_sentence)


def _score_sentence(summary: Any) -> str:
    lines = [
        f"{summary.venue}: {summary.rows:,} scores of {summary.symbols} symbols, {summary.interval}, "
        f"{summary.alerts} alert episodes"
    ]
    lines += [f"  {e['start']} {e['symbol']:<16} {e['minutes']:>4} min  {e['reasons'] or ''}" for e in summary.episodes]
    return "\n".join(lines + [f"  note: {note}" for note in summary.notes])


def guard(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    resets: Annotated[
        Path | None, typer.Option("--resets", metavar="FILE", help="A person's resets: csv venue,symbol,ts,rule,by.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply the guardrail policy to observed facts: limits, decisions, audit log. No model is read for hard limits."""
    from pipelines.guard import add_resets, guard_sentence, guard_venue

    _, opened = open_lake(config, lake)
    need_lake(opened)
    if resets is not None:
        add_resets(opened, resets)
    summaries = [
        guard_venue(store, name, span, settings)
        for store, name, span, settings in each_venue(config, lake, venue, start, end)
    ]
    emit_venues(summaries, as_json, guard_sentence)


def report(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to; default a file in the lake.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page: what is at risk, since when, why, what the guardrails demand."""
    from pipelines.report import write_report

    settings, store = open_lake(config, lake)
    need_lake(store)
    summary = write_report(store, settings, venue, span_text(start, end), out)
    emit(summary, as_json, lambda s: f"report: {s.report}")
