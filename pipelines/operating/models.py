"""Who scores in a schedule: one detector a day, the champion as the registry told it last.

A scheduled run scores a few minutes and must say of them what a backfill of the whole day says. So the detector's
reference hangs on the day alone: the trailing `reference_h` hours that end `gap_min` before the midnight that opens it.

    L/schedule/models/detector-<venue>-<day>.json   the day's detector, with the key of all it was fitted on
    L/schedule/models/champion.json                 the champion's text as it was last told

Both are copies: MLflow takes seconds to import, which a run of five minutes has no use for. A registry that is down
costs the record of a detector, and a newly promoted champion waits until it answers; neither costs a score.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from features.catalogue import CATALOGUE_VERSION
from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.operating.history import hash_of, reaching
from pipelines.operating.lease import schedule_folder, write_json
from pipelines.times import Interval

if TYPE_CHECKING:
    from models.detector import Detector
    from models.warning import WarningModel

DETECTORS_KEPT = 8
Champion: TypeAlias = "tuple[WarningModel | None, str | None, str]"  # the model, its address, a note
Fitted: TypeAlias = "tuple[Detector, str | None, list[str]]"  # the detector, its address, notes


def scheduled(config: Config) -> Config:
    """The settings under which a schedule scores: a trailing reference, whatever single scores use."""
    return config.model_copy(update={"detector": config.detector.model_copy(update={"reference": "trailing"})})


def reference_of_day(moment: datetime, config: Config) -> Interval:
    """The reference of the day that `moment` opens or lies in.

    >>> from pipelines.times import parse_time
    >>> str(reference_of_day(parse_time("2025-01-02T13:05Z"), Config()))
    '2025-01-01T11:00Z..2025-01-01T23:00Z'
    """
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    end = midnight - timedelta(minutes=config.detector.gap_min)
    return Interval(end - timedelta(hours=config.detector.reference_h), end)


def _folder(lake: Lake) -> Path:
    return schedule_folder(lake.root) / "models"


def _kept(path: Path) -> Mapping[str, Any]:
    """A copy, whole and unchanged since it was written; empty where there is none: it is made again."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        text = found.get("text")
        sound = text is None or hashlib.sha256(text.encode()).hexdigest() == found["sha256"]
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return {}
    return found if sound else {}


def _keep(path: Path, text: str | None, **told: Any) -> None:
    sha256 = None if text is None else hashlib.sha256(text.encode()).hexdigest()
    write_json(path, told | {"text": text, "sha256": sha256})


def _waits(found: Mapping[str, Any], now: datetime, config: Config) -> bool:
    """Whether the registry was asked so recently that it is not asked again."""
    since = now - datetime.fromisoformat(found["asked_at"])
    return since < timedelta(minutes=config.schedule.registry_min)


# --- the detector of a day


def detector_of_day(lake: Lake, venue: str, span: Interval, config: Config, now: datetime) -> Fitted:
    """The detector of the reference `span`: the copy, else fitted and registered as `cascadeguard score` does.

    InputError where the reference gives none.
    """
    from models.detector import Detector

    path = _folder(lake) / f"detector-{venue}-{span.end:%Y-%m-%d}.json"
    found, key = _kept(path), _detector_key(lake, venue, span, config)
    if found.get("key") == key and (found["uri"] is not None or _waits(found, now, config)):
        return Detector.from_json(found["text"]), found["uri"], []
    from pipelines.score import fitted_detector
    from pipelines.tracking import Registry

    detector, uri, notes = fitted_detector(lake, venue, span, config, Registry(config.mlflow, lake.root))
    _keep(path, detector.to_json(), key=key, uri=uri, asked_at=now.isoformat())
    for old in sorted(_folder(lake).glob(f"detector-{venue}-????-??-??.json"))[:-DETECTORS_KEPT]:
        old.unlink(missing_ok=True)
    return detector, uri, notes


def _detector_key(lake: Lake, venue: str, span: Interval, config: Config) -> str:
    """All that a detector hangs on: the files with its rows, the settings, the features."""
    rows = [reaching(lake, table, venue, span) for table in ("features", "bars")]
    settings = [config.detector.model_dump(), config.label.model_dump(), config.bars.interval_s, config.seed]
    return hash_of([str(span), rows, settings, CATALOGUE_VERSION])


# --- the champion


def champion_of_schedule(lake: Lake, config: Config, now: datetime) -> Champion:
    """The early-warning champion, its address, and a note that says why there is none, or that it may be an old one.

    A store in the lake is looked into only where it has changed, a server every `registry_min` minutes.
    """
    from models.warning import WarningModel
    from pipelines.score import NO_MODEL, fitting
    from pipelines.tracking import Registry, RegistryError
    from pipelines.tracking.errors import UnusableModelError

    path, stamp = _folder(lake) / "champion.json", _store_stamp(lake, config)
    found = _kept(path)
    if stamp == "nothing":
        return None, None, NO_MODEL
    fresh = found.get("stamp") == stamp and (not config.mlflow.tracking_uri or _waits(found, now, config))
    note = str(found.get("note", "")) if fresh else ""
    if not fresh:
        try:
            told = Registry(config.mlflow, lake.root).load_warning(columns=_columns())
            text, uri = (None, None) if told is None else (told[0].to_json(), told[1])
        except UnusableModelError as error:
            text, uri, note = None, None, str(error)
        except RegistryError as error:
            text, uri = found.get("text"), found.get("uri")
            note = str(error) if text is None else f"{error}; {uri} scores, the champion it told last"
            stamp = stamp if config.mlflow.tracking_uri else "not told"  # a file is asked again at once
        _keep(path, text, uri=uri, stamp=stamp, asked_at=now.isoformat(), note=note)
        found = {"text": text, "uri": uri}
    if found["text"] is None:
        return None, None, note or NO_MODEL
    model, uri, unfit = fitting((WarningModel.from_json(found["text"]), str(found["uri"])), config.bars.interval_s)
    return model, uri, unfit or note


def _columns() -> tuple[str, ...]:
    from features.catalogue import NAMES

    return tuple(NAMES)


def _store_stamp(lake: Lake, config: Config) -> str:
    """What changes with an embedded store; the address, hashed, of a server."""
    if config.mlflow.tracking_uri:
        return hashlib.sha256(config.mlflow.tracking_uri.encode()).hexdigest()[:16]
    try:
        stat = (lake.root / "mlflow" / "mlflow.db").stat()
    except FileNotFoundError:
        return "nothing"
    return f"{stat.st_mtime_ns}:{stat.st_size}"


def features_are_whole(lake: Lake, venue: str, span: Interval) -> bool:
    """Whether every bar of `span` has its features."""
    bars, rows = (
        lake.scan(table, venue, span.start, span.end).select(pl.len()).collect().item()
        for table in ("bars", "features")
    )
    return bool(bars and bars == rows)
