"""The command that judges early warnings: ours, a rival's, a baseline's."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    open_lake,
)
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import parse_time

if TYPE_CHECKING:
    from models.evaluation.evaluate import Parts
    from models.evaluation.settings import Settings
    from pipelines.config import Config
    from pipelines.evaluating.lake import Asked
    from pipelines.evaluating.run import Judged, Source
    from pipelines.lake import Lake
    from pipelines.progress import Say
    from pipelines.tracking import Registry

DURATION = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, "d": 1440.0}
BUDGET = 0.5
Asking = tuple[Path | None, Path | None, str | None, str | None, str | None]  # config, lake, venue, from, to


@dataclass(frozen=True)
class _Wanted:
    """What of a lake is judged: features alone, a registered model, or walk-forward where neither is named."""

    model: str | None
    features: tuple[str, ...]
    also: tuple[str, ...]
    label: Label | None
    pretrain: tuple[Path, ...]

    def __post_init__(self) -> None:
        if self.features and (self.model is not None or self.pretrain):
            raise InputError("--feature asks no model", mend="name features beside a model with --also")


def minutes(text: str, option: str) -> float:
    """
    >>> minutes("90s", "--x"), minutes("2m", "--x"), minutes("1h", "--x"), minutes("15", "--x")
    (1.5, 2.0, 60.0, 15.0)
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip() or "m"
    try:
        return float(number) * DURATION[unit]
    except (ValueError, KeyError):
        raise InputError(f"{option} must be a time such as 90s, 2m or 1h, was {text}") from None


def evaluate(
    scores: Annotated[
        Path | None, typer.Option("--scores", metavar="FILE", help="symbol, ts, score; other numbers are baselines.")
    ] = None,
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help="symbol, onset, end.")] = None,
    coverage: Annotated[
        Path | None, typer.Option("--coverage", metavar="FILE", help="symbol, start, end: when the scorer ran.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", metavar="A B", help="Two files of scores, paired.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="URI|ALIAS|VERSION", help="With --lake: a registered model.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="NAME", help="With --lake: a feature or family alone, no model; repeatable."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="NAME", help="With --lake: a feature or family as a baseline; repeatable."),
    ] = None,
    label: Annotated[Label | None, typer.Option("--label", help="With --lake: what a cascade is.")] = None,
    pretrain: Annotated[
        list[Path] | None, typer.Option("--pretrain", metavar="LAKE", help="With --lake, walk-forward; repeatable.")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", metavar="X", help="Alert from it on.")] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", min=0.001, help="Episodes per symbol-day that choose the threshold; default 0.5."),
    ] = None,
    fit_to: Annotated[
        str | None,
        typer.Option("--fit-to", metavar="TIME", help="Rows up to it choose the threshold; default the first third."),
    ] = None,
    horizon: Annotated[str, typer.Option("--horizon", help="How far ahead a warning counts.")] = "60m",
    lead_min: Annotated[str, typer.Option("--lead-min", help="The shortest lead somebody can act on.")] = "2m",
    refractory: Annotated[str, typer.Option("--refractory", help="Closer alerts are one episode.")] = "4h",
    persistence: Annotated[int, typer.Option("--persistence", min=1, help="Bars in a row before an alert.")] = 1,
    cap: Annotated[int | None, typer.Option("--cap", min=1, help="Episodes per symbol and day.")] = None,
    bar: Annotated[str | None, typer.Option("--bar", help="Length of a bar; default the most common step.")] = None,
    nab: Annotated[
        Path | None, typer.Option("--nab", metavar="DIR", help="Result files of the Numenta benchmark instead.")
    ] = None,
    windows: Annotated[Path | None, typer.Option("--windows", metavar="FILE", help="With --nab: its windows.")] = None,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", metavar="FILE", help="With --nab: its thresholds, by detector.")
    ] = None,
    ablation: Annotated[
        Path | None,
        typer.Option(
            "--ablation", metavar="FILE", help="What `train --ablate --json` printed; else that of the model."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="A page of it; with --scores, --lake adds reasons.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Track the figures, their JSON and the page with MLflow.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Judge scorers whose worth is known; fails where one is misjudged.")
    ] = False,
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge early warnings: files of scores against events, a lake's own model, two scorers paired."""
    if (html is not None and (self_test or nab is not None)) or (log and (self_test or nab or compare)):
        told = "--html is of scorers, --log of one beside its baselines"
        raise InputError(told, mend="leave out --nab, --self-test, and --compare with --log")
    if self_test:
        return _self_test(as_json)
    if nab is not None:
        return _benchmark(nab, windows, threshold, thresholds, as_json)
    if threshold is not None and (budget is not None or fit_to is not None):
        raise InputError("--threshold stands for itself", mend="leave out --budget and --fit-to")
    given: dict[str, Any] = {
        "horizon_min": round(minutes(horizon, "--horizon")),
        "lead_min": minutes(lead_min, "--lead-min"),
        "refractory_min": round(minutes(refractory, "--refractory")),
        "threshold": threshold,
        "budget": budget or BUDGET,
        "persistence": persistence,
        "episodes_per_symbol_day_max": cap,
    }
    bar_s = None if bar is None else minutes(bar, "--bar") * 60
    settings, _ = open_lake(config, lake)
    wanted = _Wanted(model, tuple(feature or ()), tuple(also or ()), label, tuple(pretrain or ()))
    if (scores is not None or compare is not None) and (wanted.features or wanted.also):
        raise InputError("--feature and --also are of a lake", mend="other columns of a file of scores are baselines")
    if compare is not None:
        return _compare(compare, _need(events, "--events"), given, (fit_to, bar_s), settings, html, as_json)
    with progress("evaluate") as say:
        if scores is not None:
            source, bar_s = _from_files(scores, _need(events, "--events"), coverage, given["horizon_min"], bar_s)
            if lake is not None and (html is not None or log):
                source = _witnessed(source, (config, lake, venue, start, end))
        else:
            asked = (config, lake, venue, start, end)
            source, bar_s = _from_lake(asked, wanted, say)
        from pipelines.evaluating.run import run

        if ablation is not None:
            from pipelines.evaluating.ablation import read_ablation

            source = replace(source, ablation=read_ablation(ablation))
        found = run(source, _settings(given, next(iter(source.columns.values())), fit_to, bar_s, settings), say)
        more = _kept(found, source, html, settings if log else None, say)
    emit({**found.to_json(), **more} if as_json else found, as_json, lambda told: told.sentence())
    return None


def _need(path: Path | None, option: str) -> Path:
    if path is None:
        raise InputError(f"{option} is missing", mend="name a file of symbol, onset, end")
    return path


def _settings(given: dict[str, Any], parts: "Parts", fit_to: str | None, bar_s: float, config: "Config") -> "Settings":
    from models.evaluation.decision import Costs
    from models.evaluation.settings import Settings
    from pipelines.evaluating.run import first_third

    chosen = config.warning
    until = None if given["threshold"] is not None else (parse_time(fit_to) if fit_to else first_third(parts))
    given |= {"cost_false_alarm": chosen.cost_false_alarm, "cost_missed": chosen.cost_missed}
    given |= {"costs": Costs(**config.costs.model_dump())}
    try:
        return Settings(**given, bar_s=bar_s, fit_until=until, seed=config.seed)
    except ValueError as error:
        raise InputError(str(error)) from None


def _from_files(
    scores: Path, events: Path, coverage: Path | None, horizon_min: int, bar_s: float | None
) -> tuple["Source", float]:
    from pipelines.evaluating.files import label_in, read_coverage, read_events, read_scores
    from pipelines.evaluating.run import Source

    found = read_scores(scores, horizon_min, bar_s)
    columns = {scores.stem if name == "score" else name: found.parts(name) for name in found.columns}
    ran = None if coverage is None else read_coverage(coverage)
    told = read_events(events)
    unknown = told.filter(~told["symbol"].is_in(list(found.symbols))).height
    notes = (f"{unknown} events are of symbols without a score, and are not judged",) if unknown else ()
    return Source(columns, told, ran, notes, label=label_in(told)), found.bar_s


def _witnessed(source: "Source", asked: Asking) -> "Source":
    """The source with the lake that tells the reasons of its moments."""
    from features.feature import BAR_S_CHOICES
    from pipelines.evaluating.witness import of_scores

    store, name, interval, _ = _one_venue(list(each_venue(*asked, lengths=BAR_S_CHOICES)))
    return replace(source, witness=of_scores(store, name, interval))


def _kept(found: "Judged", source: "Source", html: Path | None, log: "Config | None", say: "Say") -> dict[str, str]:
    """The page written and the evaluation tracked, where that was asked for: `run_id` of the latter."""
    if html is None and log is None:
        return {}
    from pipelines.pages import write_page
    from pipelines.reporting.evaluation_page import render_evaluation

    say("page")
    page = render_evaluation(found, source)
    if html is not None:
        write_page(html, page, "--html")
    return {} if log is None else {"run_id": _tracked(found, page, log)}


def _tracked(found: "Judged", page: str, config: "Config") -> str:
    from pipelines.evaluating.logged import record_of
    from pipelines.tracking import Registry, RegistryError

    try:
        return Registry(config.mlflow, config.lake).log_run(f"evaluation of {found.name}", record_of(found, page))
    except RegistryError as error:
        raise InputError(str(error)) from None


def _one_venue(found: list[Any]) -> Any:
    if len(found) > 1:
        raise InputError(
            "the lake holds several venues", mend=f"name one with --venue: {', '.join(one[1] for one in found)}"
        )
    return found[0]


def _from_lake(asked: Asking, wanted: _Wanted, say: "Say") -> tuple["Source", float]:
    from features.feature import BAR_S_CHOICES
    from pipelines.evaluating.lake import Asked, by_features, features_of
    from pipelines.labels import labelled_by
    from pipelines.score import NO_MODEL, champion
    from pipelines.tracking import Registry

    named, also = features_of(wanted.features), features_of(wanted.also)
    store, name, interval, settings = _one_venue(list(each_venue(*asked, lengths=BAR_S_CHOICES)))
    what, bar_s = Asked(name, interval, labelled_by(settings, wanted.label), also), float(settings.bars.interval_s)
    if named:
        return by_features(store, what, named, say), bar_s
    registry = Registry(settings.mlflow, store.root)
    model, address, why_none = champion(registry, settings.bars.interval_s)
    what = replace(what, champion=None if model is None or address is None else (model, address))
    without = () if why_none in ("", NO_MODEL) else (f"no champion stands beside it: {why_none}",)
    source = _of_models(store, what, wanted, registry, say)
    return replace(source, notes=(*source.notes, *without)), bar_s


def _of_models(store: "Lake", what: "Asked", wanted: _Wanted, registry: "Registry", say: "Say") -> "Source":
    """Walk-forward, or the model that is wanted."""
    from pipelines.evaluating.ablation import of_run
    from pipelines.evaluating.lake import by_model, walk_forward
    from pipelines.model_pages import load, trial_of
    from pipelines.tracking import RegistryError
    from pipelines.training import Options

    if wanted.model is None:
        return walk_forward(store, what, Options(pretrain=wanted.pretrain), say)
    try:
        (chosen, uri), trial = load(registry, wanted.model), trial_of(registry, wanted.model)
    except RegistryError as error:
        raise InputError(str(error)) from None
    return replace(by_model(store, what, chosen, uri, say), ablation=of_run(trial))


def _compare(
    files: tuple[Path, Path],
    events: Path,
    given: dict[str, Any],
    times: tuple[str | None, float | None],
    config: "Config",
    html: Path | None,
    as_json: bool,
) -> None:
    from pipelines.evaluating.files import read_events, read_scores
    from pipelines.evaluating.paired import compare

    fit_to, bar_s = times
    a, b = (read_scores(path, given["horizon_min"], bar_s) for path in files)
    settings = _settings(given, a.parts(), fit_to, a.bar_s, config)
    names = (files[0].stem, files[1].stem if files[1].stem != files[0].stem else str(files[1]))
    try:
        found = compare(a.parts(), b.parts(), read_events(events), settings, names)
    except ValueError as error:
        raise InputError(f"the two cannot be compared ({error})", mend="give scores of the same bars") from None
    if html is not None:
        from pipelines.pages import write_page
        from pipelines.reporting.compare_page import render_compare

        write_page(html, render_compare(found), "--html")
    emit(found.to_json() if as_json else found, as_json, lambda told: told.sentence())


def _benchmark(
    results: Path, windows: Path | None, threshold: float | None, thresholds: Path | None, as_json: bool
) -> None:
    from models.evaluation.nab import PROFILES
    from pipelines.evaluating.benchmark import grade, read_thresholds

    if windows is None:
        raise InputError("--windows is missing", mend="name the file that holds the windows of each result")
    if threshold is not None and thresholds is not None:
        raise InputError("--threshold stands for itself", mend="leave out --thresholds")
    one = {} if threshold is None else dict.fromkeys(PROFILES, threshold)
    found = grade(results, windows, one if thresholds is None else read_thresholds(thresholds, results.resolve().name))
    emit(found.to_json() if as_json else found, as_json, lambda told: told.sentence())


def _self_test(as_json: bool) -> None:
    from models.evaluation.selftest import self_test

    found = self_test()
    if as_json:
        typer.echo(json.dumps({one.name: {"seen": one.seen, **one.found} for one in found}, default=str))
    else:
        typer.echo("\n".join(f"{'ok   ' if one.seen else 'WRONG'} {one.name:<16} {one.says}" for one in found))
    if not all(one.seen for one in found):
        raise typer.Exit(1)
