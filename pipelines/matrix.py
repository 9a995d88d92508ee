"""Step `features`: bars, positions, collateral, other venues -> the feature matrix, with the health of what it read.

The interval is worked on in chunks of whole days: memory holds CHUNK_ROWS bars (one day at least) and the lookback
before them, however long the interval. Norms by time of day come from the table `hours`, which this step keeps up to
date beside the matrix.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import polars as pl

from features.catalogue import FAMILIES, LOOKBACK_MIN, NAMES, catalogue
from features.faults import null_reasons
from features.inputs import usable
from features.matrix import KEY, STRUCTURE_AGE_MIN_MAX, Beside, columns_read, features_and_health
from features.norms import DAYS, hour_end, hours_of, norms_of
from features.peers import peers_of
from features.schema import Structure
from features.structure import structure
from pipelines.bars import derivative_venues
from pipelines.cascade_columns import COLLATERAL_SPAN, cascade_columns
from pipelines.cascade_columns import NAMES as CASCADE_COLUMNS
from pipelines.lake import Lake
from pipelines.pools import HERE, Day, Pool, counted
from pipelines.progress import Say, silent
from pipelines.times import Interval

LOOKBACK = timedelta(minutes=LOOKBACK_MIN)
HOUR = timedelta(hours=1)
CHUNK_ROWS = 300_000  # bars computed at once: a day of 200 symbols at one minute, weeks of a small venue
NORMS_LOOKBACK = timedelta(days=DAYS + 1)
STRUCTURE_COLUMNS = frozenset(Structure.column_names()) - frozenset(KEY)


@dataclass(frozen=True)
class FeaturesSummary:
    """`told` is the share of non-null values by family, `null_share` the share of nulls by feature.

    `null_reasons` counts, by family, why values are null; empty unless it was asked for.
    """

    venue: str
    interval: str
    bar_s: int
    symbols: int
    rows: int
    features: int
    told: dict[str, float]
    null_share: dict[str, float]
    null_reasons: dict[str, dict[str, int]] = field(default_factory=dict)

    def sentence(self) -> str:
        bars = f"{self.rows:,} bars of {self.symbols} symbols"
        head = f"{self.venue}: {self.features} features of {bars}, {self.interval}"
        told = ", ".join(f"{family} {share:.0%}" for family, share in self.told.items())
        lines = [head, f"  told: {told}"]
        for family, reasons in self.null_reasons.items():
            most = sorted(reasons.items(), key=lambda item: -item[1])[:4]
            lines.append(f"  {family} silent: " + ", ".join(f"{count:,} x {reason}" for reason, count in most))
        return "\n".join(lines)


# --- what stands beside the bars ---


def reach_of(bar_s: int) -> timedelta:
    """How far features of bars of this length look back."""
    return timedelta(minutes=catalogue(bar_s).lookback_min)


def _structure_lookback(bar_s: int) -> timedelta:
    """How far before an interval a snapshot can matter: its age, and what the features that read one look back."""
    reading = [one for one in catalogue(bar_s).features if STRUCTURE_COLUMNS & set(one.expr.meta.root_names())]
    return timedelta(minutes=STRUCTURE_AGE_MIN_MAX + max((one.lookback_min for one in reading), default=0))


def build_structure(lake: Lake, venue: str, interval: Interval) -> pl.DataFrame:
    """Structure per positions snapshot in `interval`, written to the lake; empty where the venue shows no positions."""
    positions = lake.scan("positions", venue, interval.start, interval.end).collect()
    if positions.is_empty():
        return Structure.create_empty()
    collateral = lake.scan("collateral", venue, interval.start - COLLATERAL_SPAN, interval.end).collect()
    marks = lake.scan("marks", venue, interval.start - timedelta(hours=1), interval.end).collect()
    holdings = structure(positions, collateral, marks, lake.scan("instruments", venue).collect())
    cascades = cascade_columns(lake, venue, positions, holdings.select("ts", "known_at").unique())
    rows = holdings.drop(CASCADE_COLUMNS).join(cascades, on=["symbol", "ts"], how="left", maintain_order="left")
    with lake.writer():
        lake.replace("structure", rows, venue, interval.start, interval.end)
    return rows


def _structure_of(lake: Lake, venue: str, interval: Interval, changed: datetime | None) -> pl.DataFrame:
    """Structure per snapshot in `interval`: that of snapshots known up to `changed` as stored, where none is missing.

    A snapshot costs a world with all its cascades: a scheduled run has one new one and a day of old ones.
    """
    if changed is None:
        return build_structure(lake, venue, interval)
    stored = lake.scan("structure", venue, interval.start, interval.end).collect()
    known = stored.filter(pl.col("known_at") <= changed)
    snapshots = lake.scan("positions", venue, interval.start, interval.end).select(pl.col("ts").unique()).collect()
    first = snapshots.join(known, on="ts", how="anti")["ts"].min()
    if not isinstance(first, datetime):
        return stored
    fresh = build_structure(lake, venue, Interval(first - timedelta(microseconds=1), interval.end))
    return pl.concat([stored.filter(pl.col("ts") < first), fresh])


def build_hours(lake: Lake, venue: str, interval: Interval) -> None:
    """Put the `hours` of the bars of `interval`, in whole hours up to its end, in place of what was there."""
    for chunk in _chunks(lake, venue, Interval(_whole_hour(interval.start), interval.end)):
        bars = lake.scan("bars", venue, chunk.start, chunk.end).select(columns_read()).collect()
        rows = hours_of(usable(bars))
        end = -(-(chunk.end - chunk.start) // HOUR) * HOUR + chunk.start
        with lake.writer():
            lake.replace("hours", rows, venue, chunk.start, end)


def _whole_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def without_bars(lake: Lake, venue: str, span: Interval) -> list[Interval]:
    """The days of `span` of which the lake has no bar of `venue`."""
    held = _last_rows(lake, "bars", venue)
    return [day for day in span.days() if str(day.start.date()) not in held]


def _last_rows(lake: Lake, table: str, venue: str) -> dict[str, datetime]:
    """The last stamp of `table` by day, as the lake's log tells it."""
    files = lake.files(table).filter(pl.col("venue") == venue).group_by("partition").agg(pl.col("ts_max").max())
    return dict(files.iter_rows())


def _bring_hours_up_to_date(lake: Lake, venue: str, interval: Interval, built: Interval) -> None:
    """Build the hours of `built`, whose bars are new, and those of the days before that have bars but no hours yet.

    The hour in which `built` begins is written once, whole: another worker may be reading it.
    """
    build_hours(lake, venue, built)
    bars, hours = _last_rows(lake, "bars", venue), _last_rows(lake, "hours", venue)
    reach = interval.start - LOOKBACK - NORMS_LOOKBACK
    before = Interval(reach.replace(hour=0, minute=0, second=0, microsecond=0), _whole_hour(built.start))
    for day in before.days():
        last = bars.get(str(day.start.date()))
        if last is None:
            continue
        wanted = day.start - (day.start - last) // HOUR * HOUR  # the end of the hour that holds the day's last bar
        held = hours.get(str(day.start.date()), day.start)  # the hour that ends at midnight lies in the next partition
        if held < min(wanted, day.end - HOUR):
            build_hours(lake, venue, day)


def norms_at(lake: Lake, venue: str, bars: pl.DataFrame, bar_s: int) -> pl.DataFrame:
    """The norms of every hour in which `bars` lie."""
    wanted = bars.select("venue", "symbol", hour_end("ts")).unique()
    first, last = wanted["ts"].min(), wanted["ts"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return norms_of(lake.scan("hours", venue).head(0).collect(), wanted, bar_s)
    hours = lake.scan("hours", venue, first - timedelta(days=DAYS, hours=1), last - timedelta(days=1)).collect()
    return norms_of(hours, wanted, bar_s)


def _peers(lake: Lake, venue: str, others: list[str], interval: Interval, bar_s: int) -> pl.DataFrame | None:
    """What the other venues of the lake say of the same assets, from their bars of the same length."""
    if not others:
        return None
    bases = (
        lake.scan("instruments")
        .filter(pl.col("settlement") != "spot", pl.col("effective_from") <= interval.end)
        .sort("effective_from")
        .group_by("venue", "symbol", maintain_order=True)
        .agg(pl.col("base").last())
        .collect()
    )
    here = bases.filter(pl.col("venue") == venue)
    same = bases.filter(pl.col("venue").is_in(others), pl.col("base").is_in(here["base"].implode()))
    if same.is_empty():
        return None
    frames = [
        lake.scan("bars", other, interval.start, interval.end)
        .filter(pl.col("symbol").is_in(part["symbol"].implode()))
        .select(columns_read(bar_s))
        for (other,), part in same.partition_by("venue", as_dict=True).items()
    ]
    base_of = {(row[0], row[1]): row[2] for row in same.select("venue", "symbol", "base").iter_rows()}
    return peers_of(pl.concat(frames).collect(), here.select("symbol", "base"), base_of)


# --- the step ---


def _chunks(lake: Lake, venue: str, interval: Interval) -> Iterator[Interval]:
    """The interval in runs of whole days with about CHUNK_ROWS bars each, by what the lake's log says of the bars."""
    files = lake.files("bars").filter(pl.col("venue") == venue).group_by("partition").agg(pl.col("rows").sum())
    bars = dict(files.iter_rows())
    days: list[Interval] = []
    rows = 0
    for day in interval.days():
        more = bars.get(str(day.start.date()), 0)
        if days and rows + more > CHUNK_ROWS:
            yield Interval(days[0].start, days[-1].end)
            days, rows = [], 0
        days.append(day)
        rows += more
    if days:
        yield Interval(days[0].start, days[-1].end)


@dataclass(frozen=True)
class _Asked:
    """How every chunk of a call is computed."""

    bar_s: int
    others: tuple[str, ...]  # venues whose bars are held against
    changed: datetime | None


@dataclass(frozen=True)
class _Counts:
    """What a chunk's matrix came to; nulls by feature."""

    rows: int
    nulls: dict[str, int]
    symbols: tuple[str, ...]


def _put_chunk(lake: Lake, part: Day, *, asked: _Asked) -> _Counts:
    """Put matrix and health of a chunk in place of the old ones, and the structure that they read."""
    venue, chunk, bar_s = part.venue, part.span, asked.bar_s
    read = Interval(chunk.start - reach_of(bar_s), chunk.end)
    bars = lake.scan("bars", venue, read.start, read.end).select(columns_read(bar_s)).collect()
    rows = _structure_of(lake, venue, Interval(chunk.start - _structure_lookback(bar_s), chunk.end), asked.changed)
    beside = Beside(rows, norms_at(lake, venue, bars, bar_s), _peers(lake, venue, list(asked.others), read, bar_s))
    matrix, health = features_and_health(bars, beside, bar_s=bar_s, since=chunk.start)
    with lake.writer():
        lake.replace("features", matrix, venue, chunk.start, chunk.end)
        lake.replace("feature_health", health, venue, chunk.start, chunk.end)
    nulls = matrix.select(pl.col(NAMES).null_count()).row(0, named=True)
    return _Counts(matrix.height, nulls, tuple(matrix["symbol"].unique()))


def build_features(
    lake: Lake,
    venue: str,
    interval: Interval,
    say: Say = silent,
    *,
    bar_s: int = 60,
    built: Interval | None = None,
    changed: datetime | None = None,
    why: bool = False,
    pool: Pool = HERE,
) -> FeaturesSummary:
    """Compute every feature for every bar of `interval` and put it in place of what was there. Idempotent.

    `built` is where bars are new (default `interval`). With `why`, the summary counts the reasons of nulls. Rows that
    were known up to `changed` are those that structure was last computed from (default: nobody knows). Where `pool` has
    several workers they get a day each.
    """
    _bring_hours_up_to_date(lake, venue, interval, built or interval)
    spans = interval.days() if pool.workers > 1 else _chunks(lake, venue, interval)
    chunks = [Day("features", venue, span) for span in spans]
    others = tuple(name for name in derivative_venues(lake) if name != venue)
    work = partial(_put_chunk, asked=_Asked(bar_s, others, changed))
    rows, nulls, symbols = 0, Counter[str](), set[str]()
    for _, found in counted(pool.map(lake, work, chunks), len(chunks), say, f"features {venue}"):
        rows += found.rows
        nulls.update(found.nulls)
        symbols.update(found.symbols)
    reasons: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES} if why else {}
    for _, told in pool.map(lake, partial(_reasons, bar_s=bar_s), chunks) if why else ():
        for family, counts in told.items():
            reasons[family].update(counts)
    return FeaturesSummary(
        venue=venue,
        interval=str(interval),
        bar_s=bar_s,
        symbols=len(symbols),
        rows=rows,
        features=len(NAMES),
        told={family: _told(nulls, [one.name for one in members], rows) for family, members in FAMILIES.items()},
        null_share={name: nulls[name] / max(rows, 1) for name in NAMES},
        null_reasons={family: dict(counts) for family, counts in reasons.items()},
    )


def features_of_day(lake: Lake, day: Day, *, bar_s: int) -> int:
    """`build_features` of one day whose bars are new, as a pool works on it; how many rows."""
    return build_features(lake, day.venue, day.span, bar_s=bar_s, built=day.span).rows


def _told(nulls: Mapping[str, int], names: list[str], rows: int) -> float:
    cells = rows * len(names)
    return round(1 - sum(nulls[name] for name in names) / cells, 4) if cells else 0.0


def _reasons(lake: Lake, part: Day, *, bar_s: int) -> dict[str, dict[str, int]]:
    """Why features of a chunk are null: family -> reason -> count. The health of the days before is there by now."""
    venue, chunk = part.venue, part.span
    matrix = read_matrix(lake, venue, chunk)
    health = lake.scan("feature_health", venue, chunk.start - reach_of(bar_s), chunk.end).collect()
    found = {}
    for family, members in catalogue(bar_s).families.items():
        counts = null_reasons(matrix, health, members).group_by("reason").len()
        found[family] = dict(counts.iter_rows())
    return found


def read_matrix(lake: Lake, venue: str, interval: Interval) -> pl.DataFrame:
    """The feature matrix of `interval` as the lake holds it, sorted by symbol and ts."""
    return lake.scan("features", venue, interval.start, interval.end).sort("symbol", "ts").collect()
