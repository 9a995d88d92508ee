"""Commands that bring data into the lake and prepare it."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.engines import Engine, EngineOption, SchedulerOption, WorkersOption, pool_of
from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    Label,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit,
    emit_venues,
    need_lake,
    open_lake,
    parse_seeds,
)
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import parse_time


class Role(StrEnum):
    PERP = "perp"
    SPOT = "spot"


def simulate(
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="First simulated minute.")
    ] = "2025-01-01T00:00Z",
    days: Annotated[float | None, typer.Option("--days", help="Length; default from the settings.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="LIST", help="A venue each, such as 1-8; default that of the settings."),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FILE", help="Write a page: stylised facts, real beside simulated."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="DIR", help="For --facts: the lake of real markets.")
    ] = None,
    engine: EngineOption = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a venue, or one per seed, and write canonical tables to the lake."""
    from pipelines.facts import build_facts
    from pipelines.lake import Lake
    from pipelines.simulate import simulate_venues

    if facts is not None and seeds is not None:
        raise InputError("--facts is of one venue", mend="leave --seeds out")
    if (facts is None) != (against is None):
        raise InputError("--facts and --against go together", mend="name a page, and the lake of real markets")
    real = None if against is None else Lake(against)
    if real is not None:
        need_lake(real)
    settings, store = open_lake(config, lake)
    if days is not None:
        settings = settings.model_copy(update={"simulator": settings.simulator.model_copy(update={"days": days})})
    chosen = None if seeds is None else parse_seeds(seeds)
    with progress("simulate") as say, pool_of(engine, scheduler, workers, store) as pool:
        summaries = simulate_venues(store, settings, parse_time(start), chosen, say=say, pool=pool)
        compared = None if real is None or facts is None else build_facts(real, store, facts)
    if chosen is not None:
        emit_venues(summaries, as_json, lambda s: _simulated(asdict(s), None))
        return
    emit(
        {**asdict(summaries[0]), "facts": None if compared is None else asdict(compared)},
        as_json,
        lambda s: _simulated(s, s["facts"]),
    )


def _simulated(summary: Any, facts: Any) -> str:
    said = "{rows:,} rows of {symbols} symbols at venue {venue}, {interval}".format(**summary)
    if facts is None:
        return said
    judged = facts["within"] + facts["beyond"]
    return f"{said}\n{facts['within']} of {judged} facts within the real range: {facts['page']}"


def ingest(
    adapter: Annotated[str, typer.Argument(help="The format of the files: tardis, binance-archive, ..., table.")],
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders of files.")],
    venue: Annotated[str | None, typer.Option("--venue", help="Venue name; default from the files.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Symbol, where the files do not tell it.")] = None,
    role: Annotated[Role, typer.Option("--role", help="spot: these trades are the index leg.")] = Role.PERP,
    kind: Annotated[str | None, typer.Option("--kind", help="Read every file as this kind.")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping", metavar="FILE", help="For the adapter table: a mapping file, or a shipped one's name."
        ),
    ] = None,
    engine: EngineOption = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read venue files into the lake; refused rows go to quarantine with a reason."""
    from pipelines.ingest import Choice
    from pipelines.ingest import ingest as run_ingest

    settings, store = open_lake(config, lake)
    if scheduler is not None:  # a worker is at home in another folder
        paths = [path.absolute() for path in paths]
        mapping = mapping.absolute() if mapping is not None and mapping.exists() else mapping
    choice = Choice(venue, symbol, role.value, kind, mapping)
    with progress("ingest") as say, pool_of(engine, scheduler, workers, store) as pool:
        summary = run_ingest(adapter, paths, store, settings, choice, progress=say, pool=pool)
    emit(summary, as_json, _ingest_sentence)


def _ingest_sentence(summary: Any) -> str:
    counts = f"{summary.rows_accepted:,} accepted + {summary.rows_quarantined:,} quarantined"
    skipped = f", {len(summary.skipped)} in the lake already" if summary.skipped else ""
    lines = [
        f"{summary.rows_read:,} rows read = {counts}, {len(summary.symbols)} symbols, {summary.files} files{skipped}"
    ]
    lines += [f"  {row['accepted']:>12,} {table}" for table, row in summary.tables.items()]
    lines += [f"  {rows:>12,} refused: {reason}" for reason, rows in sorted(summary.reasons.items())]
    lines += [f"  {rows:>12,} accepted, nothing to store: {reason}" for reason, rows in sorted(summary.silent.items())]
    return "\n".join(lines)


def poll(
    venue: Annotated[
        str | None, typer.Option("--venue", metavar="NAME", help="One venue; default every one of the settings.")
    ] = None,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="What the clock says; default the machine's.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the public endpoints of the venues in the settings once; answers go into the lake."""
    from pipelines.poll import poll as run_poll
    from pipelines.polling.clock import real_clock

    settings, store = open_lake(config, lake)
    clock = real_clock(None if now is None else parse_time(now))
    with progress("poll") as say:
        summary = run_poll(store, settings, venue, clock=clock, progress=say)
    emit(summary, as_json, lambda s: s.sentence())
    if not summary.answered:
        raise typer.Exit(1)


def compact(
    venue: VenueOption = None, config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False
) -> None:
    """Merge the lake's small and overlapping files, and delete files that nothing refers to."""
    from pipelines.housekeeping import compact_lake

    _, store = open_lake(config, lake)
    need_lake(store)
    with progress("compact") as say:
        summary = compact_lake(store, venue, say)
    emit(summary, as_json, lambda s: s.sentence())


def retain(
    days: Annotated[int, typer.Option("--days", min=1, help="Keep this many days before --now.")],
    tables: Annotated[list[str], typer.Option("--table", help="A table to shorten; may be given more than once.")],
    now: Annotated[str | None, typer.Option("--now", metavar="TIME", help="Default the last day of the table.")] = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete partitions of a table that are older than a number of days."""
    from pipelines.housekeeping import retain_days

    _, store = open_lake(config, lake)
    need_lake(store)
    summary = retain_days(store, tables, days, parse_time(now) if now is not None else None, venue)
    emit(summary, as_json, lambda s: s.sentence())


def doctor(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Say what the lake holds, per table: rows, span, gaps, refused rows and why."""
    from pipelines.doctor import doctor_sentence, examine

    _, store = open_lake(config, lake)
    need_lake(store)
    emit(examine(store), as_json, doctor_sentence)


def bars(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    engine: EngineOption = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build bars: of new and late rows, or of an interval."""
    from pipelines.bars import build_bars, build_pending

    asked = list(each_venue(config, lake, venue, start, end, lengths=None))
    with progress("bars") as say, pool_of(engine, scheduler, workers, asked[0][0]) as pool:
        summaries = [
            build_pending(store, name, say, bar_s=settings.bars.interval_s, pool=pool)
            if start is None and end is None
            else build_bars(store, name, span, say, bar_s=settings.bars.interval_s, pool=pool)
            for store, name, span, settings in asked
        ]
    emit_venues(summaries, as_json, lambda s: f"{s.venue}: {s.rows:,} bars of {s.symbols} symbols, {s.interval}")


def features(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    why: Annotated[bool, typer.Option("--why", help="Count why values are missing, by family.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page: what was unusual in the interval.")
    ] = None,
    engine: EngineOption = Engine.LOCAL,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build bars and compute every feature of the catalogue."""
    from features.feature import BAR_S_CHOICES
    from pipelines.bars import venue_span
    from pipelines.features_page import build_page, reference_of
    from pipelines.score import prepare

    asked = list(each_venue(config, lake, venue, start, end, lengths=BAR_S_CHOICES))
    if html is not None and len(asked) > 1:
        raise InputError("a page is of one venue", where=f"the lake holds {len(asked)}", mend="name one with --venue")
    summaries, pages = [], []
    with progress("features") as say, pool_of(engine, scheduler, workers, asked[0][0]) as pool:
        for store, name, span, settings in asked:
            bar_s = settings.bars.interval_s
            if html is not None:
                before = reference_of(name, span, venue_span(store, name, bar_s))
                prepare(store, name, before, say, bar_s=bar_s, pool=pool)
            found = prepare(store, name, span, say, bar_s=bar_s, why=why or html is not None, pool=pool)
            summaries.append(found)
            if html is not None:
                say(f"page {name}")
                pages.append(build_page(store, found, span, before, settings, page=html))
    summary = {"venues": [asdict(found) for found in summaries]} | ({"page": asdict(pages[0])} if pages else {})
    emit(summary, as_json, lambda _: "\n".join([*(s.sentence() for s in summaries), *(p.page for p in pages)]))


def labels(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="A page to look at each event; one venue.")
    ] = None,
    label: Annotated[Label | None, typer.Option("--label", help="Another label than that of the settings.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the cascades of the past: onset, end, severity, what began together, by a label and its version."""
    from features.feature import BAR_S_CHOICES
    from pipelines.labels import label_events, labelled_by

    asked = [
        (store, name, span, labelled_by(settings, label))
        for store, name, span, settings in each_venue(config, lake, venue, start, end, lengths=BAR_S_CHOICES)
    ]
    if html is not None and len(asked) > 1:
        raise InputError("a page is of one venue", where=f"the lake holds {len(asked)}", mend="name one with --venue")
    found = [label_events(store, name, span, settings) for store, name, span, settings in asked]
    if html is not None:
        from pipelines.labels_page import write_labels

        write_labels(asked[0][0], found[0], asked[0][3], html)
    emit_venues(found, as_json, lambda s: s.sentence())
