"""Step `score`: feature matrix, detector and early-warning model -> scores."""

from dataclasses import dataclass, replace
from datetime import timedelta

import polars as pl

from features.bars import BAR_S
from features.catalogue import CATALOGUE_VERSION, FAMILY_OF, NAMES, TAILS, WATCHED
from features.labels import events
from features.schema import VENUE_WIDE, Scores
from models.detector import Detector, fit_detector
from models.detectors.reference import trailing_reference
from models.scores import AlertPolicy, above_threshold, compose
from models.thresholds import episodes
from models.warning import ALERT, WarningModel
from pipelines.bars import build_bars, build_days, derivative_venues, venue_span
from pipelines.case import data_sha256
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.labels import label_flags
from pipelines.lake import Lake
from pipelines.matrix import (
    LOOKBACK,
    NORMS_LOOKBACK,
    FeaturesSummary,
    build_features,
    read_matrix,
    without_bars,
)
from pipelines.pools import HERE, Pool
from pipelines.progress import Say, silent
from pipelines.times import Interval
from pipelines.tracking import Record, Registry, RegistryError
from pipelines.trial import trailing

NO_MODEL = "no early-warning model registered"


@dataclass(frozen=True)
class ScoreSummary:
    venue: str
    interval: str
    reference: str
    rows: int
    symbols: int
    alerts: int  # episodes, symbols and venue together
    venue_alerts: int
    episodes: list[dict[str, str | int]]
    threshold: float
    venue_threshold: float
    detector_uri: str | None
    model_uri: str | None
    notes: list[str]


def prepare(
    lake: Lake,
    venue: str,
    interval: Interval,
    say: Say = silent,
    *,
    bar_s: int = BAR_S,
    why: bool = False,
    pool: Pool = HERE,
) -> FeaturesSummary:
    """Bring bars and features of `interval` up to date, with the lookback that the lake can give.

    Bars of the days that norms look back on are built where there are none yet.
    """
    span = venue_span(lake, venue, bar_s)
    start = max(interval.start - LOOKBACK, min(span.start, interval.start))
    if bar_s != BAR_S:  # lookbacks are not whole bars of every length
        start = interval.start - -(-(interval.start - start) // timedelta(seconds=bar_s)) * timedelta(seconds=bar_s)
    built = Interval(start, interval.end)
    missing = without_bars(lake, venue, Interval(max(start - NORMS_LOOKBACK, span.start), start))
    build_days(lake, venue, missing, say, bar_s=bar_s, pool=pool)
    build_bars(lake, venue, built, say, bar_s=bar_s, pool=pool)
    return build_features(lake, venue, interval, say, bar_s=bar_s, built=built, why=why, pool=pool)


def reference_of(lake: Lake, venue: str, interval: Interval, config: Config, chosen: Interval | None) -> Interval:
    """The period that defines normal: the chosen one, else that of the settings.

    `first`: the first `detector.reference_h` hours of the interval; `trailing`: the last ones, `gap_min` before it.
    """
    if chosen is not None:
        return chosen
    if config.detector.reference == "trailing":
        return _before(lake, venue, interval, config)
    end = interval.start + timedelta(hours=config.detector.reference_h)
    if end >= interval.end:
        raise InputError(
            f"the interval is not longer than the reference period of {config.detector.reference_h:g} h",
            where=str(interval),
            mend="score a longer interval, or name the reference with --reference-from and --reference-to",
        )
    return Interval(interval.start, end)


def _before(lake: Lake, venue: str, interval: Interval, config: Config) -> Interval:
    end = interval.start - timedelta(minutes=config.detector.gap_min)
    span, known = Interval(end - timedelta(hours=config.detector.reference_h), end), venue_span(lake, venue)
    if span.start < known.start:
        raise InputError(
            f"a trailing reference of {config.detector.reference_h:g} h reaches before the first row, {known.start}",
            where=str(interval),
            mend='score a later interval, or set `[detector] reference = "first"`',
        )
    return span


def _reference(lake: Lake, venue: str, span: Interval, config: Config) -> pl.DataFrame:
    """The rows that say what is normal; cascades are left out of a trailing reference."""
    rows = read_matrix(lake, venue, span)
    if config.detector.reference != "trailing" or rows.is_empty():
        return rows
    found = events(label_flags(lake, venue, span, config), config.label.refractory_min)
    refractory = timedelta(minutes=config.label.refractory_min)
    nothing = timedelta(0)
    return trailing_reference(rows, found, span.end, span.end - span.start, nothing, refractory=refractory)


def _fit(reference: pl.DataFrame, venue: str, span: Interval, config: Config) -> Detector:
    try:
        return fit_detector(
            reference,
            WATCHED,
            TAILS,
            null_share_max=config.detector.null_share_max,
            budget_per_symbol_day=config.detector.budget_episodes_per_symbol_day,
            refractory_min=config.detector.refractory_min,
            bar_s=config.bars.interval_s,
            kind=config.detector.kind,
            seed=config.seed,
        )
    except ValueError as error:
        raise InputError(
            f"no detector can be fitted on the reference period of {venue} ({error})", where=str(span)
        ) from None


def fitted_detector(
    lake: Lake, venue: str, span: Interval, config: Config, registry: Registry
) -> tuple[Detector, str | None, list[str]]:
    """The detector of this reference period: from the registry by alias, fitted and registered first where it is new.

    A registry that does not answer costs the record, not the score: the detector is fitted here and a note says so.
    """
    reference = _reference(lake, venue, span, config)
    tags = {
        "venue": venue,
        "reference": str(span),
        "data_sha256": data_sha256(reference),
        "settings": config.detector.model_dump_json(),
        "catalogue": str(CATALOGUE_VERSION),
    }
    alias = f"champion-{venue}"
    try:
        found = registry.load_detector(alias, tags)
        if found is None:
            detector = _fit(reference, venue, span, config)
            uri = registry.log_detector(detector, reference, _record(detector, config, tags))
            registry.set_alias(config.mlflow.detector_name, uri.rsplit("/", 1)[-1], alias)
            found = registry.load_detector(alias, tags)
    except RegistryError as error:
        return _fit(reference, venue, span, config), None, [str(error)]
    if found is None:
        return _fit(reference, venue, span, config), None, ["another run moved the detector's alias meanwhile"]
    return found[0], found[1], []


def _record(detector: Detector, config: Config, tags: dict[str, str]) -> Record:
    used = {norm.name: norm.family for norm in detector.norms}
    return Record(
        params=config.detector.model_dump() | {"features": len(used), "unused": len(detector.unused)},
        metrics={"threshold": detector.threshold, "venue_threshold": detector.venue_threshold},
        tags=tags,
        artifacts={"features.txt": "\n".join(f"{family}: {name}" for name, family in used.items())},
    )


def unfit(model: WarningModel, bar_s: int) -> str:
    """Why the model may not be asked here, "" where it may: it was made for other bars, or learned other features."""
    made_for = model.metadata.get("bar_s", BAR_S)
    if made_for != bar_s:
        return f"was made for bars of {made_for} s, these are of {bar_s} s"
    learned = model.metadata.get("catalogue", CATALOGUE_VERSION)
    if learned != CATALOGUE_VERSION:
        return f"learned the features of catalogue {learned}, these are of {CATALOGUE_VERSION}"
    return ""


def champion(registry: Registry, bar_s: int) -> tuple[WarningModel | None, str | None, str]:
    """The early-warning champion, its address, and a note that says why there is none.

    A registry that is down, a model that cannot be read, that asks for other features, learned other ones or was made
    for other bars: the model part is silent, with that note; everything else goes on.
    """
    try:
        found = registry.load_warning(columns=NAMES)
    except RegistryError as error:
        return None, None, str(error)
    return fitting(found, bar_s)


def fitting(found: tuple[WarningModel, str] | None, bar_s: int) -> tuple[WarningModel | None, str | None, str]:
    """A model and its address with an empty note; without one, or with one that is unfit here, the note says why."""
    if found is None:
        return None, None, NO_MODEL
    fault = unfit(found[0], bar_s)
    return (None, None, f"{found[1]} {fault}: train anew") if fault else (*found, "")


def alert_policy(lake: Lake, venue: str, interval: Interval, config: Config, model_uri: str | None) -> AlertPolicy:
    """The cap of the settings, with what the model said since the midnight before the last one.

    A trailing threshold reads what this model said before, of no other.
    """
    midnight = interval.start.replace(hour=0, minute=0, second=0, microsecond=0)
    before = lake.scan("scores", venue, midnight - timedelta(days=1), interval.start)
    chosen = config.warning
    policy = AlertPolicy(
        chosen.episodes_per_symbol_day_max, config.detector.refractory_min, above_threshold(before).collect()
    )
    if chosen.threshold_by != "trailing":
        return policy
    said = lake.scan("scores", venue, interval.start - timedelta(days=chosen.trailing_days), interval.start)
    own = said.filter(pl.col("symbol") != VENUE_WIDE, pl.col("model_uri") == model_uri)
    return replace(policy, trailing=trailing(own.select("symbol", "ts", score=ALERT).collect(), config))


def _episodes(scores: pl.DataFrame, refractory_min: int, bar_s: int) -> list[dict[str, str | int]]:
    found = episodes(scores.filter("alert"), refractory_min)
    opening = found.join(scores, left_on=["symbol", "start"], right_on=["symbol", "ts"], how="left")
    minute = "%Y-%m-%dT%H:%MZ"
    return opening.select(
        "symbol",
        pl.col("start", "end").dt.strftime(minute),
        pl.col("alerts").cast(pl.Int64),
        (pl.col("alerts").cast(pl.Int64) * bar_s // 60).alias("minutes"),
        "lead_family",
        "reasons",
    ).to_dicts()


def score_venue(
    lake: Lake,
    venue: str,
    interval: Interval,
    config: Config,
    *,
    reference: Interval | None = None,
    say: Say = silent,
) -> ScoreSummary:
    """Score every minute of `interval`: prepare, fit or load, predict, write. Running it again gives the same rows."""
    span, bar_s = reference_of(lake, venue, interval, config, reference), config.bars.interval_s
    prepare(lake, venue, Interval(min(span.start, interval.start), interval.end), say, bar_s=bar_s)
    registry = Registry(config.mlflow, lake.root)
    say(f"detector {venue}")
    detector = fitted_detector(lake, venue, span, config, registry)
    say(f"scores {venue}")
    told = champion(registry, bar_s)
    return write_scores(lake, venue, interval, config, span=span, fitted=detector, told=told)


def write_scores(
    lake: Lake,
    venue: str,
    interval: Interval,
    config: Config,
    *,
    span: Interval,
    fitted: tuple[Detector, str | None, list[str]],
    told: tuple[WarningModel | None, str | None, str],
) -> ScoreSummary:
    """Score the features of `interval` as the lake holds them: `fitted` on the reference `span`, `told` as champion."""
    detector, detector_uri, notes = fitted
    model, model_uri, model_note = told
    bars = lake.scan("bars", venue, interval.start, interval.end).collect()

    scores = compose(
        read_matrix(lake, venue, interval),
        bars,
        detector,
        model,
        FAMILY_OF,
        reference_end=span.end,
        model_note=model_note,
        detector_uri=detector_uri,
        model_uri=model_uri,
        policy=alert_policy(lake, venue, interval, config, model_uri),
    )

    with lake.writer():
        lake.replace("scores", Scores.validate(scores), venue, interval.start, interval.end)
    found = _episodes(scores, config.detector.refractory_min, config.bars.interval_s)
    return ScoreSummary(
        venue=venue,
        interval=str(interval),
        reference=str(span),
        rows=scores.height,
        symbols=bars["symbol"].n_unique(),
        alerts=len(found),
        venue_alerts=sum(episode["symbol"] == VENUE_WIDE for episode in found),
        episodes=found,
        threshold=detector.threshold,
        venue_threshold=detector.venue_threshold,
        detector_uri=detector_uri,
        model_uri=model_uri,
        notes=[*notes, model_note] if model_note else notes,
    )


def venues_to_run(lake: Lake, venue: str | None) -> list[str]:
    """The chosen venue, or every venue of the lake with a derivative. Raises InputError where there is none."""
    known = derivative_venues(lake)
    if venue is not None and venue not in known:
        shown = ", ".join(known) or "none"
        raise InputError("the lake holds no derivative of this venue", where=venue, mend=f"it holds: {shown}")
    if not known:
        raise InputError("the lake holds no derivative", where=lake.root, mend="run `cascadeguard ingest` first")
    return known if venue is None else [venue]
