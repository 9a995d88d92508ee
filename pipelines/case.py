"""What a model is trained and judged on: the matrix, what was to come, and the slices of time."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from features.labels import future_event_within
from models.fitting import Grow, grow
from models.periods import HORIZONS_MIN
from models.scorers import Trees
from models.splits import Fit, Fold, Span, last_fit, venue_events, walk_forward
from models.warning import labelled
from pipelines.config import Config
from pipelines.errors import InputError

EVENTS_MIN = 5  # below, nothing can be claimed about a model


@dataclass(frozen=True)
class Case:
    """Data and settings of one training; `base` is what more history taught, `grow` where trees are grown."""

    matrix: pl.DataFrame
    targets: pl.DataFrame
    events: pl.DataFrame
    config: Config
    base: Trees | None = None
    grow: Grow = grow

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The matrix with its targets beside it, sorted by symbol and ts."""
        return labelled(self.matrix, self.targets)

    @property
    def bars_per_day(self) -> float:
        return 86_400 / self.config.bars.interval_s


def targets_of(
    matrix: pl.DataFrame, events: pl.DataFrame, config: Config, flags: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`symbol, ts, y_5m .. y_240m` for every row of `matrix`.

    Null where `flags` cannot tell (see the label), and, where they have a `severity`, in minutes without one: a label
    that is blind at a minute says nothing about it, not even that it was quiet.
    """
    index, told = matrix.select("symbol", "ts"), pl.lit(value=True)
    if flags is not None:
        judged = flags.select("symbol", "ts", pl.col("^(flag|severity)$"))
        index = index.join(judged, on=["symbol", "ts"], how="left", maintain_order="left")
    if "severity" in index.columns:
        told = pl.col("severity").is_not_null()
    found = index.select("symbol", "ts", told=told)
    for horizon in HORIZONS_MIN:
        future = future_event_within(index.drop("severity", strict=False), events, horizon, config.label.refractory_min)
        renamed = future.rename({f"future_event_within_{horizon}": f"y_{horizon}m"})
        found = found.join(renamed, on=["symbol", "ts"], how="left", maintain_order="left")
    names = [f"y_{horizon}m" for horizon in HORIZONS_MIN]
    return found.select("symbol", "ts", *(pl.when("told").then(name).alias(name) for name in names))


def covered(matrix: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """The events of the matrix's symbols whose onset lies in its time."""
    inside = pl.col("onset").is_between(matrix["ts"].min(), matrix["ts"].max())
    return events.filter(inside).join(matrix.select("symbol").unique(), on="symbol", how="semi")


def case_of(
    matrix: pl.DataFrame,
    events: pl.DataFrame,
    config: Config,
    flags: pl.DataFrame | None = None,
    *,
    base: Trees | None = None,
    grow: Grow = grow,
) -> Case:
    """Raises InputError where fewer than EVENTS_MIN cascades lie in the matrix."""
    found = covered(matrix, events)
    if found.height < EVENTS_MIN:
        raise InputError(
            f"an early-warning model needs at least {EVENTS_MIN} cascades, the period holds {found.height}",
            mend="train on a longer period, or loosen the [label] settings",
        )
    return Case(matrix, targets_of(matrix, found, config, flags), found, config, base, grow)


def slices(case: Case) -> tuple[list[Fold], Fit]:
    """Walk-forward folds and the fit of the model that goes to work; no border cuts a cascade of the venue."""
    chosen = case.config.warning
    purge_min = max(HORIZONS_MIN) + case.config.label.window_min
    together = venue_events(case.events, 0, case.config.label.refractory_min)
    told = case.targets.filter(pl.col("y_60m").is_not_null())["ts"]
    try:
        folds = walk_forward(told, chosen.folds, purge_min, chosen.embargo_min, together)
        return folds, last_fit(told, chosen.folds, purge_min, chosen.embargo_min, together)
    except ValueError as error:
        raise InputError(
            f"the period is too short for {chosen.folds} walk-forward folds ({error})",
            mend="train on a longer period, or lower `warning.folds`",
        ) from None


def within(events: pl.DataFrame, span: Span) -> pl.DataFrame:
    return events.filter((pl.col("onset") > span.start) & (pl.col("onset") <= span.end))


def data_sha256(*frames: pl.DataFrame) -> str:
    """Hash of the frames' contents, names and types, in order."""
    buffer = io.BytesIO()
    for frame in frames:
        frame.write_ipc(buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()
