"""What more history teaches first: a base, grown on moves of the price in lakes that need not know open interest.

In: lakes of the past, the moment before which all of it must lie. Out: trees over features of the market that both the
past and the venue to be warned of know. Never: a row that reaches into the period it will be judged on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from features.catalogue import FAMILY_OF, MONOTONE, NOT_OF_THE_MARKET, TAILS
from features.labels import events, move
from models.fitting import BASE, Grow, Recipe, fit_trees, grow, known_features
from models.periods import HORIZONS_MIN, count_events
from models.scorers import Trees
from models.warning import feature_names
from pipelines.bars import derivative_venues, venue_span
from pipelines.case import data_sha256, targets_of
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import LOOKBACK, read_matrix
from pipelines.progress import Say, silent
from pipelines.score import prepare
from pipelines.times import Interval


@dataclass(frozen=True)
class Base:
    """The trees, and where they come from."""

    trees: Trees
    sources: tuple[str, ...]
    rows: int
    moves: int
    data_sha256: str

    def params(self) -> dict[str, str | int]:
        return {
            "base.sources": "; ".join(self.sources),
            "base.rows": self.rows,
            "base.moves": self.moves,
            "base.data_sha256": self.data_sha256,
            "base.trees_sha256": hashlib.sha256(self.trees.text.encode()).hexdigest(),
        }


def _market(name: str) -> bool:
    """Features that tell of the market; those of feeds and calendars differ from venue to venue."""
    return FAMILY_OF.get(name) not in NOT_OF_THE_MARKET and TAILS.get(name) != "none"


def _moves(lake: Lake, venue: str, span: Interval, config: Config) -> pl.DataFrame:
    """The flag of a move for every bar of `span`."""
    chosen, bar_s = config.base, config.bars.interval_s
    bars = lake.scan("bars", venue, span.start - LOOKBACK, span.end).collect()
    flags = move(bars, chosen.fall_pct, chosen.window_min, chosen.sigmas, bar_s=bar_s)
    return flags.filter(pl.col("ts") > span.start)


def _priced_span(lake: Lake, venue: str, bar_s: int, end: datetime) -> Interval | None:
    """From the first to the last day of trades or candles, up to `end`; rates may reach further, and teach nothing.

    Null where that is empty.
    """
    held = [lake.files(table).filter(pl.col("venue") == venue) for table in ("trades", "candles")]
    priced = pl.concat([files.select("ts_min", "ts_max") for files in held])
    first, last = priced["ts_min"].dt.truncate("1d").min(), priced["ts_max"].dt.truncate("1d").max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return None
    whole = venue_span(lake, venue, bar_s)
    start, stop = max(whole.start, first), min(whole.end, last + timedelta(days=1), end)
    return Interval(start, stop) if start < stop else None


def _of_venue(lake: Lake, venue: str, end: datetime, config: Config, say: Say) -> pl.DataFrame | None:
    """Matrix and targets of one venue up to `end`, where a price was known; null where there is nothing before it."""
    bar_s = config.bars.interval_s
    span = _priced_span(lake, venue, bar_s, end)
    if span is None:
        return None
    prepare(lake, venue, span, say, bar_s=bar_s)
    say(f"moves of {venue} in {lake.root}")
    flags = _moves(lake, venue, span, config)
    matrix = read_matrix(lake, venue, span)
    found = events(flags, config.label.refractory_min)
    priced = flags.filter(pl.col("severity").is_not_null()).select("symbol", "ts")
    rows = matrix.join(priced, on=["symbol", "ts"], how="semi", maintain_order="left")
    if rows.is_empty():
        return None
    told = targets_of(rows, found, config, flags)
    source = pl.lit(f"{lake.root.name}/{venue}")
    return rows.join(told, on=["symbol", "ts"], how="left", maintain_order="left").with_columns(source=source)


def pretrain(
    lakes: Sequence[Path],
    before: datetime,
    known: Sequence[str],
    config: Config,
    say: Say = silent,
    *,
    grow: Grow = grow,
) -> Base:
    """Trees over those of the `known` features that the past knows as well, from rows whose labels end before `before`.

    Raises InputError where a lake is missing or nothing in them can be learned from.
    """
    end = before - timedelta(minutes=max(HORIZONS_MIN) + config.base.window_min + config.warning.embargo_min)
    bar = timedelta(seconds=config.bars.interval_s)
    end -= (end - datetime(1970, 1, 1, tzinfo=UTC)) % bar
    frames = []
    for root in lakes:
        if not root.is_dir():
            raise InputError("this lake does not exist", where=root, mend="name a lake with --pretrain")
        lake = Lake(root)
        found = [_of_venue(lake, venue, end, config, say) for venue in derivative_venues(lake)]
        frames += [frame for frame in found if frame is not None]
    if not frames:
        raise InputError(
            f"nothing in the lakes to pretrain on lies before {end:%Y-%m-%dT%H:%MZ}",
            where=", ".join(map(str, lakes)),
            mend="name lakes with more history, or train on a later period",
        )
    rows = pl.concat(frames, how="diagonal_relaxed").sort("source", "symbol", "ts")
    say(f"pretraining on {rows.height:,} bars")
    settings, offered = BASE, tuple(name for name in feature_names(rows) if name in known and _market(name))
    try:
        features = known_features(rows, offered, config.base.known_share_min)
        trees = fit_trees(rows, features, Recipe(settings, config.seed, MONOTONE, grow))
    except ValueError as error:
        raise InputError(f"no base can be learned ({error})", where=", ".join(map(str, lakes))) from None
    return Base(
        trees,
        tuple(rows["source"].unique().sort()),
        rows.height,
        count_events(rows.with_columns(symbol=pl.concat_str("source", "symbol")), "y_60m"),
        data_sha256(rows.select(*features, *(f"y_{horizon}m" for horizon in HORIZONS_MIN))),
    )
