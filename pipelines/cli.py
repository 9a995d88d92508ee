"""The command line: arguments in, one step called, a summary out. Steps are imported when they are run."""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from typer.exceptions import TyperException

from pipelines.config import Config, load_config
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import Interval, parse_interval, parse_time

if TYPE_CHECKING:
    from pipelines.lake import Lake

app = typer.Typer(
    name="cascadeguard",
    help="Early warning and guardrails for liquidation cascades at perpetual-futures venues.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

START, DATA, MODELS, OPERATE, DEFEND = "Start here", "Data", "Models", "Score, guard, report", "Explain and defend"

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file; default cascadeguard.toml if it exists.")
]
LakeOption = Annotated[Path | None, typer.Option("--lake", metavar="DIR", help="The lake; default from the settings.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Start (exclusive), such as 2025-10-10T00:00Z.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End (inclusive).")]
VenueOption = Annotated[
    str | None, typer.Option("--venue", metavar="NAME", help="One venue; default every venue of the lake.")
]


class Role(StrEnum):
    PERP = "perp"
    SPOT = "spot"


def _configure_logs() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _open(config_path: Path | None, lake: Path | None) -> tuple[Config, "Lake"]:
    from pipelines.lake import Lake

    config = load_config(config_path, lake=lake)
    if config.lake.exists() and not config.lake.is_dir():
        raise InputError("the lake is not a directory", where=config.lake, mend="name a directory with --lake")
    return config, Lake(config.lake)


def _need_lake(lake: "Lake") -> None:
    if not lake.root.is_dir():
        raise InputError(
            "there is no lake", where=lake.root, mend="run `cascadeguard ingest` or `cascadeguard demo` first"
        )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _emit(summary: Any, as_json: bool, sentence: Callable[[Any], str]) -> None:
    """Print the summary: JSON for machines, one or a few sentences for people."""
    if as_json:
        typer.echo(json.dumps(_plain(summary), default=str))
    else:
        typer.echo(sentence(summary))


def _emit_venues(summaries: list[Any], as_json: bool, sentence: Callable[[Any], str]) -> None:
    """One summary per venue: `{"venues": [...]}` for machines, one paragraph each for people."""
    _emit({"venues": _plain(summaries)} if as_json else summaries, as_json, lambda all_: "\n".join(map(sentence, all_)))


def _fail(message: str, code: int) -> int:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    return code


@app.command(rich_help_panel=START)
def demo(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Simulate a venue, train on its past, score, guard and report its last days."""
    from pipelines.demo import demo_sentence, run_demo

    chosen = lake if lake is not None or config is not None else Path("demo-lake")
    settings, store = _open(config, chosen)
    with progress("demo") as say:
        summary = run_demo(store, settings, say)
    _emit(summary, as_json, demo_sentence)


@app.command(rich_help_panel=DATA)
def simulate(
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="First simulated minute.")
    ] = "2025-01-01T00:00Z",
    days: Annotated[float | None, typer.Option("--days", help="Length; default from the settings.")] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a venue and write its canonical tables to the lake."""
    from pipelines.simulate import simulate_venue

    settings, store = _open(config, lake)
    if days is not None:
        settings = settings.model_copy(update={"simulator": settings.simulator.model_copy(update={"days": days})})
    with progress("simulate") as say:
        summary = simulate_venue(store, settings, parse_time(start), say)
    _emit(summary, as_json, lambda s: f"{s.rows:,} rows of {s.symbols} symbols at venue {s.venue}, {s.interval}")


@app.command(rich_help_panel=DATA)
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
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read venue files into the lake; refused rows go to quarantine with a reason."""
    from pipelines.ingest import Choice
    from pipelines.ingest import ingest as run_ingest

    settings, store = _open(config, lake)
    choice = Choice(venue, symbol, role.value, kind, mapping)
    with progress("ingest") as say:
        summary = run_ingest(adapter, paths, store, settings, choice, progress=say)
    _emit(summary, as_json, _ingest_sentence)


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


@app.command(rich_help_panel=DATA)
def compact(
    venue: VenueOption = None, config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False
) -> None:
    """Merge the lake's small and overlapping files, and delete files that nothing refers to."""
    from pipelines.housekeeping import compact_lake

    _, store = _open(config, lake)
    _need_lake(store)
    with progress("compact") as say:
        summary = compact_lake(store, venue, say)
    _emit(summary, as_json, lambda s: s.sentence())


@app.command(rich_help_panel=DATA)
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

    _, store = _open(config, lake)
    _need_lake(store)
    summary = retain_days(store, tables, days, parse_time(now) if now is not None else None, venue)
    _emit(summary, as_json, lambda s: s.sentence())


@app.command(rich_help_panel=DATA)
def doctor(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Say what the lake holds, per table: rows, span, gaps, refused rows and why."""
    from pipelines.doctor import doctor_sentence, examine

    _, store = _open(config, lake)
    _need_lake(store)
    _emit(examine(store), as_json, doctor_sentence)


@app.command(rich_help_panel=DATA)
def bars(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build bars: of new and late rows, or of an interval."""
    from pipelines.bars import build_bars, build_pending

    with progress("bars") as say:
        if start is None and end is None:
            summaries = [
                build_pending(store, name, say, bar_s=settings.bars.interval_s)
                for store, name, _, settings in _each_venue(config, lake, venue, None, None, any_bars=True)
            ]
        else:
            summaries = [
                build_bars(store, name, span, say, bar_s=settings.bars.interval_s)
                for store, name, span, settings in _each_venue(config, lake, venue, start, end, any_bars=True)
            ]
    _emit_venues(summaries, as_json, lambda s: f"{s.venue}: {s.rows:,} bars of {s.symbols} symbols, {s.interval}")


@app.command(rich_help_panel=DATA)
def features(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build bars and compute every feature of the catalogue."""
    from pipelines.score import prepare

    summaries = []
    with progress("features") as say:
        for store, name, span, _ in _each_venue(config, lake, venue, start, end):
            summaries.append(prepare(store, name, span, say))
    _emit_venues(summaries, as_json, lambda s: f"{s.venue}: {s.features} features of {s.rows:,} bars, {s.interval}")


@app.command(rich_help_panel=DATA)
def labels(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cascades of the past: onset, end, severity, by the label of the settings."""
    from pipelines.labels import label_events

    found = [
        label_events(store, name, span, settings)
        for store, name, span, settings in _each_venue(config, lake, venue, start, end)
    ]
    _emit_venues(found, as_json, lambda s: s.sentence())


@app.command(rich_help_panel=MODELS)
def train(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the early-warning model walk-forward, calibrate, track and register it."""
    from pipelines.training import train_venue

    with progress("train") as say:
        summaries = [
            train_venue(store, name, span, settings, say)
            for store, name, span, settings in _each_venue(config, lake, venue, start, end)
        ]
    _emit_venues(summaries, as_json, lambda s: s.sentence())


@app.command(rich_help_panel=MODELS)
def models(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the registered models with their aliases."""
    from pipelines.tracking import Registry, RegistryError

    settings, store = _open(config, lake)
    try:
        found = Registry(settings.mlflow, store.root).list_models()
    except RegistryError as error:
        raise InputError(str(error), mend="check `[mlflow] tracking_uri`") from None
    _emit({"models": found}, as_json, lambda _: "\n".join(map(_model_line, found)) or "no models")


def _model_line(row: dict[str, Any]) -> str:
    return f"{row['uri']}  {', '.join(row['aliases'])}  {row['created']}"


@app.command(rich_help_panel=OPERATE)
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
    from pipelines.score import score_venue

    if (reference_from is None) != (reference_to is None):
        raise InputError("--reference-from and --reference-to go together")
    reference = parse_interval(reference_from, reference_to) if reference_from and reference_to else None
    summaries = []
    with progress("score") as say:
        for store, name, span, settings in _each_venue(config, lake, venue, start, end):
            summaries.append(score_venue(store, name, span, settings, reference=reference, say=say))
    _emit_venues(summaries, as_json, _score_sentence)


def _score_sentence(summary: Any) -> str:
    lines = [
        f"{summary.venue}: {summary.rows:,} scores of {summary.symbols} symbols, {summary.interval}, "
        f"{summary.alerts} alert episodes"
    ]
    lines += [f"  {e['start']} {e['symbol']:<16} {e['alerts']:>4} min  {e['reasons'] or ''}" for e in summary.episodes]
    return "\n".join(lines + [f"  note: {note}" for note in summary.notes])


@app.command(rich_help_panel=OPERATE)
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

    _, opened = _open(config, lake)
    _need_lake(opened)
    if resets is not None:
        add_resets(opened, resets)
    summaries = [
        guard_venue(store, name, span, settings)
        for store, name, span, settings in _each_venue(config, lake, venue, start, end)
    ]
    _emit_venues(summaries, as_json, guard_sentence)


@app.command(rich_help_panel=OPERATE)
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

    settings, store = _open(config, lake)
    _need_lake(store)
    summary = write_report(store, settings, venue, _span_text(start, end), out)
    _emit(summary, as_json, lambda s: f"report: {s.report}")


@app.command(rich_help_panel=DEFEND)
def policy(
    file: Annotated[Path | None, typer.Argument(help="A policy file; default the one in force.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a guardrail policy whole and print its version and hash."""
    from pipelines.guard import policy_summary, read_policy

    settings, _ = _open(config, None)
    chosen = read_policy(settings if file is None else settings.model_copy(update={"policy": file}))
    _emit(policy_summary(chosen), as_json, lambda s: f"policy {s['version']} is valid, sha256 {s['sha256']}")


@app.command(rich_help_panel=DEFEND)
def replay(
    verify: Annotated[bool, typer.Option("--verify", help="Check the audit log's hash chain.")] = False,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the audit log: every entry, in order, unchanged."""
    from pipelines.guard import verify_audit

    if not verify:
        raise InputError("say what to replay", mend="use `cascadeguard replay --verify`")
    _, store = _open(config, lake)
    _need_lake(store)
    _emit(verify_audit(store), as_json, lambda s: f"audit log intact: {s['entries']:,} entries")


@app.command(rich_help_panel=DEFEND)
def explain(
    decision_id: Annotated[str, typer.Argument(help="From the report, or `guard --json`.")],
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell one decision in a minute: what was seen, the limit, what is allowed, why, what would clear it."""
    from pipelines.guard import explain_decision, explain_sentence

    _, store = _open(config, lake)
    _need_lake(store)
    _emit(explain_decision(store, decision_id), as_json, explain_sentence)


def _span_text(start: str | None, end: str | None) -> Interval | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise InputError("--from and --to go together")
    return parse_interval(start, end)


def _each_venue(
    config: Path | None,
    lake: Path | None,
    venue: str | None,
    start: str | None,
    end: str | None,
    *,
    any_bars: bool = False,
) -> Iterator[tuple["Lake", str, Interval, Config]]:
    """Every venue to run with its interval: the given one, else all that the lake holds of the venue.

    Everything after the bars is made for bars of a minute: InputError for others, unless `any_bars`.
    """
    from features.bars import BAR_S
    from pipelines.bars import venue_span
    from pipelines.score import venues_to_run

    settings, store = _open(config, lake)
    _need_lake(store)
    if not any_bars and settings.bars.interval_s != BAR_S:
        what = f"features, models and guardrails are made for bars of {BAR_S} s, not of {settings.bars.interval_s} s"
        raise InputError(what, where="`[bars] interval_s`", mend=f"set it to {BAR_S}, or use `cascadeguard bars` alone")
    chosen = _span_text(start, end)
    for name in venues_to_run(store, venue):
        yield store, name, chosen or venue_span(store, name), settings


def run(argv: list[str]) -> int:
    """Run one command; 0 on success, 2 on bad usage or input (one line), 1 on an internal failure."""
    _configure_logs()
    try:
        result = app(argv, prog_name="cascadeguard", standalone_mode=False)
    except InputError as error:
        return _fail(str(error), 2)
    except TyperException as error:
        return _fail(f"{error.format_message()} See `cascadeguard --help`.", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; run the same command again to go on", 1)
    except BrokenPipeError:
        return 1
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return _fail(f"internal failure, please report it: {type(error).__name__}: {error}", 1)
    return result if isinstance(result, int) else 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))
