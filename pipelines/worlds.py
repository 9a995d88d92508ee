"""The lake at a moment as a world: who holds what, worth what, against which books. Nothing later is read.

| part | what is taken |
|---|---|
| positions | the newest snapshot that was known whole: the latest `known_at` of its rows |
| collateral | the newest amount of each account and asset |
| marks | the newest mark, else index, else last trade, of the last hour; the mean entry price where there is none |
| contracts | the instrument in force; tiers of 5 % where it names none |
| depth | the newest of the last hour, thinner side, density within the band nearest to 1 %, flat; ends at the widest |
| returns | of marks every five minutes over the last day: standard deviation a day, correlation |

What is unknown counts on the unsafe side, and `notes` say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from features.mechanics.margin import Tier, tiers_from
from features.mechanics.profile import Fees, MarkRule, Path, Profile
from features.structure import UNKNOWN_TIERS, USD_ASSETS
from models.cascade.world import FLAT, Floats
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.stress_files import Scene, scene_of
from pipelines.stress_market import Asset, Market, SymbolTable
from pipelines.times import show_time

AGE_MAX = timedelta(hours=1)
RETURNS_SPAN = timedelta(days=1)
RETURN_S = 300
WINDOW = 0.02  # the size of the move that graph and structure describe
RETURNS_MIN = 12
BAND_BPS = 100  # density is taken within the band nearest to this
SD_DAY_UNKNOWN = 0.1  # assumed: of a symbol with too few marks
NO_RULES = Profile("lake", datetime(1970, 1, 1, tzinfo=UTC), MarkRule("mark"), Path("market"), Fees(0.0, 0.0), {})


@dataclass(frozen=True)
class Known:
    """What was known of a venue at a moment, each table reduced to its newest rows.

    `positions`: account, symbol, qty, entry_price, isolated, isolated_margin; open ones alone. `collateral`: account,
    asset, amount. `instruments`: one row per symbol. `quotes`: symbol, ts, price, at least the last of every RETURN_S,
    by symbol and ts. `bands`: symbol, side, band_bps, depth_usd; one row each per table of depth.
    """

    positions: pl.DataFrame
    collateral: pl.DataFrame
    instruments: pl.DataFrame
    quotes: pl.DataFrame
    bands: pl.DataFrame


@dataclass(frozen=True)
class Doubts:
    """The symbols (of `worthless`: the assets) of which something is not known, and another value stands in."""

    unpriced: tuple[str, ...] = ()
    bookless: tuple[str, ...] = ()
    untiered: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    worthless: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        said = (
            (self.unpriced, "no mark within the hour, the mean entry price stands in"),
            (self.bookless, "no depth within the hour, the thinnest book of the venue is taken"),
            (self.untiered, "no maintenance tiers, 5 % is taken"),
            (
                self.unmoved,
                f"too few marks of the last day, {SD_DAY_UNKNOWN:.0%} a day and no correlation are taken",
            ),
            (self.worthless, "collateral without a price or fully cut, counted as nothing"),
        )
        return tuple(f"{', '.join(names)}: {what}" for names, what in said if names)


@dataclass(frozen=True)
class LakeWorld:
    """A scene and where it was taken from. `scene.sd_day` and `scene.correlation` are complete."""

    scene: Scene
    venue: str
    at: datetime
    positions_at: datetime
    notes: tuple[str, ...]
    doubts: Doubts = Doubts()


def world_from_lake(
    lake: Lake, venue: str, at: datetime | None = None, *, profile: Profile | None = None, spill: float | None = None
) -> LakeWorld:
    """The world of `venue` as it was known at `at` (default: when its last snapshot of positions was known).

    `profile` is not asked for what the lake says itself: tiers and haircuts. `spill` as in `scene_of`.
    Raises InputError where the venue has no positions or no depth by then.
    """
    positions, positions_at, moment = _positions(lake, venue, at)
    collateral = newest(lake.scan("collateral", venue), moment, ["account", "asset"], None).collect()
    known = Known(
        positions=positions,
        collateral=collateral,
        instruments=instruments_at(lake.scan("instruments", venue).collect(), moment),
        quotes=_quotes(lake, venue, moment),
        bands=_bands(lake, venue, moment),
    )
    return world_of(known, venue, moment, positions_at, profile=profile, spill=spill)


def world_of(
    known: Known,
    venue: str,
    at: datetime,
    positions_at: datetime,
    *,
    profile: Profile | None = None,
    spill: float | None = None,
) -> LakeWorld:
    """The world that `known` describes at `at`. Raises InputError where no book is known on both sides."""
    positions, instruments, quotes = known.positions, known.instruments, known.quotes
    holders = positions["account"].unique().implode()
    collateral = known.collateral.filter(pl.col("account").is_in(holders), pl.col("amount") != 0)
    links = _links(collateral, instruments)
    symbols = sorted({*positions["symbol"], *links.values()})
    fresh = _fresh(quotes, at)
    marks = _entries(positions) | fresh
    depths, bookless = _depths(known.bands, symbols)
    if not depths:
        raise InputError(
            "the lake holds no depth of this venue's books on both sides within the hour",
            where=f"{venue} at {show_time(at)}",
            mend="`cascadeguard ingest` book depth, or choose a moment with --at",
        )
    sd_day, correlation, unmoved = _returns(quotes, symbols, at)
    tiers, untiered = _tiers(instruments, symbols)
    market = Market(
        symbols={
            name: SymbolTable(mark_price=marks.get(name, 1.0), volatility=sd)
            for name, sd in zip(symbols, sd_day.tolist(), strict=True)
        },
        tiers=tiers,
        assets=_assets(collateral, instruments, links, marks),
        correlation=correlation,
    )
    scene = scene_of(
        positions, collateral.select("account", "asset", "amount"), market, depths, profile or NO_RULES, spill=spill
    )
    doubts = Doubts(
        unpriced=tuple(sorted(set(symbols) - set(fresh))),
        bookless=tuple(bookless),
        untiered=tuple(untiered),
        unmoved=tuple(unmoved),
        worthless=tuple(n for n, asset in market.assets.items() if asset.haircut == 1.0 and asset.symbol is None),
    )
    late = () if at - positions_at <= AGE_MAX else (f"positions are those of {show_time(positions_at)}",)
    return LakeWorld(scene, venue, at, positions_at, (*late, *doubts.notes(), *scene.notes), doubts)


def _positions(lake: Lake, venue: str, at: datetime | None) -> tuple[pl.DataFrame, datetime, datetime]:
    """Open positions of the newest snapshot known whole, its time, and the moment asked for."""
    seen = lake.scan("positions", venue).group_by("ts").agg(pl.col("known_at").max()).sort("ts").collect()
    snapshots = seen if at is None else seen.filter(pl.col("known_at") <= at)
    if snapshots.is_empty():
        when = "" if at is None else f" known at {show_time(at)}"
        raise InputError(
            f"the lake holds no positions of this venue{when}", where=venue, mend="ingest them: no public feed has them"
        )
    ts, known_at = snapshots.select("ts", "known_at").row(-1)
    rows = lake.scan("positions", venue, ts - timedelta(microseconds=1), ts).collect()
    held = open_positions(rows)
    if held.is_empty():
        raise InputError("nobody holds a position at this venue", where=f"{venue} at {show_time(ts)}")
    return held, ts, known_at if at is None else at


def open_positions(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of `Positions` that hold something, in the shape that `Known` asks for."""
    held = rows.filter(pl.col("qty").is_finite() & (pl.col("qty") != 0))
    isolated = (pl.col("margin_mode") == "isolated").alias("isolated")
    return held.select("account", "symbol", "qty", "entry_price", isolated, "isolated_margin")


def newest(rows: pl.LazyFrame, at: datetime, keys: list[str], age_max: timedelta | None) -> pl.LazyFrame:
    """The newest row of each of `keys` known at `at`, not older than `age_max`."""
    known = rows.filter(pl.max_horizontal("ts", "known_at") <= at)
    recent = known if age_max is None else known.filter(pl.col("ts") > at - age_max)
    return recent.sort("ts", "known_at").group_by(keys).last().sort(keys)


def instruments_at(rows: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """The instrument in force of each symbol."""
    begun = rows.lazy().filter(pl.col("effective_from") <= at).sort("effective_from")
    return begun.group_by("symbol", maintain_order=True).last().sort("symbol").collect()


def _links(collateral: pl.DataFrame, instruments: pl.DataFrame) -> dict[str, str]:
    """The symbol that each asset follows: the first by name with that base; none for dollars."""
    bases = instruments.sort("symbol").group_by("base").agg(pl.col("symbol").first())
    followed = dict(bases.iter_rows())
    assets = collateral["asset"].unique().sort()
    return {name: followed[name] for name in assets if name in followed and name not in USD_ASSETS}


def _quotes(lake: Lake, venue: str, at: datetime) -> pl.DataFrame:
    """Prices of the last day known at `at`: symbol, ts, price."""
    rows = lake.scan("marks", venue, at - RETURNS_SPAN - AGE_MAX, at).filter(pl.col("known_at") <= at)
    return priced(rows.sort("symbol", "ts", "known_at")).select("symbol", "ts", "price").collect()


def priced(marks: pl.LazyFrame) -> pl.LazyFrame:
    """Adds the `price` that a row tells: mark, else index, else last trade; without the rows that tell none."""
    return marks.with_columns(pl.coalesce("mark", "index", "last").alias("price")).filter(pl.col("price").is_not_null())


def _fresh(quotes: pl.DataFrame, at: datetime) -> dict[str, float]:
    """The newest price of each symbol of the last hour before `at`."""
    recent = quotes.lazy().filter(pl.col("ts") > at - AGE_MAX)
    last = recent.group_by("symbol", maintain_order=True).agg(pl.col("price").last())
    return dict(last.collect().iter_rows())


def _entries(positions: pl.DataFrame) -> dict[str, float]:
    """The mean entry price of each symbol, by size."""
    size = pl.col("qty").abs()
    entries = positions.group_by("symbol").agg((pl.col("entry_price") * size).sum() / size.sum())
    return dict(entries.iter_rows())


DEPTH_TABLES = ("book_depth", "l2_depth")
BAND = ["symbol", "side", "band_bps"]


def _bands(lake: Lake, venue: str, at: datetime) -> pl.DataFrame:
    """The newest depth of each table of the last hour."""
    tables = [newest(lake.scan(table, venue, at - AGE_MAX, at), at, BAND, AGE_MAX) for table in DEPTH_TABLES]
    return pl.concat([table.select(*BAND, "depth_usd") for table in tables]).collect()


def _depths(bands: pl.DataFrame, symbols: Sequence[str]) -> tuple[dict[str, tuple[float, str, float]], list[str]]:
    """Depth by symbol as `scene_of` wants it, and the symbols whose depth is unknown; nothing if that is every one."""
    usable = bands.lazy().filter((pl.col("depth_usd") > 0) & pl.col("symbol").is_in(list(symbols)))
    thinner = usable.group_by("symbol", "band_bps").agg(pl.col("depth_usd").min(), pl.col("side").n_unique())
    known = thinner.filter(pl.col("side") == 2).with_columns((pl.col("band_bps") - BAND_BPS).abs().alias("off"))
    density = (pl.col("depth_usd") * 1e4 / pl.col("band_bps")).first().alias("density")
    chosen = known.sort("off", "band_bps").group_by("symbol", maintain_order=True)
    rows = (
        chosen.agg(density, (pl.col("band_bps").max() / 1e4).alias("reach"))
        .sort("symbol")
        .select("symbol", "density", pl.lit(FLAT), "reach")
        .collect()
    )
    found = {str(row[0]): (float(row[1]), FLAT, float(row[3])) for row in rows.iter_rows()}
    unknown = [name for name in symbols if name not in found]
    if not found:
        return {}, unknown
    thinnest = min(found.values(), key=lambda book: book[0])
    return found | dict.fromkeys(unknown, thinnest), unknown


def _returns(quotes: pl.DataFrame, symbols: Sequence[str], at: datetime) -> tuple[Floats, Floats, list[str]]:
    """Standard deviation a day and correlation of five-minute returns, and the symbols with too few of them."""
    every = f"{RETURN_S}s"
    grid = (
        quotes.lazy()
        .filter(pl.col("ts") > at - RETURNS_SPAN)
        .with_columns(pl.col("ts").dt.truncate(every))
        .group_by("symbol", "ts")
        .agg(pl.col("price").last())
        .sort("symbol", "ts")
        .with_columns(pl.col("price").log().diff().over("symbol").alias("return"))
        .drop_nulls()
        .collect()
    )
    columns = grid.pivot("symbol", index="ts", values="return", aggregate_function="first").sort("ts")
    counts = {name: columns[name].count() for name in symbols if name in columns.columns}
    unknown = [name for name in symbols if not counts.get(name, 0) >= RETURNS_MIN]
    blank = pl.lit(0.0, dtype=pl.Float64)
    moved = columns.select(
        (blank if name in unknown else pl.col(name).fill_null(0.0)).alias(name) for name in symbols
    ).to_numpy()
    per_day = 86_400 / RETURN_S
    variance = np.array([np.mean(column**2) if column.size else 0.0 for column in moved.T]) * per_day
    sd = np.where([name in unknown for name in symbols], SD_DAY_UNKNOWN, np.sqrt(variance))
    return np.where(sd > 0, sd, SD_DAY_UNKNOWN), _correlation(moved), unknown


def _correlation(returns: Floats) -> Floats:
    """`sum(r_i r_j) / sqrt(sum(r_i^2) sum(r_j^2))`, ones on the diagonal, 0 with a symbol that did not move."""
    products = returns.T @ returns
    norm = np.sqrt(np.diag(products))
    scale = norm[:, None] * norm[None, :]
    out = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0).clip(-1.0, 1.0)
    out = (out + out.T) / 2
    np.fill_diagonal(out, 1.0)
    return np.asarray(out)


def _tiers(instruments: pl.DataFrame, symbols: Sequence[str]) -> tuple[dict[str, tuple[Tier, ...]], list[str]]:
    named = dict(instruments.select("symbol", "tiers").iter_rows())
    found = {name: tiers_from(named.get(name)) for name in symbols}
    return {name: lines or UNKNOWN_TIERS for name, lines in found.items()}, [n for n in symbols if not found[n]]


def _assets(
    collateral: pl.DataFrame, instruments: pl.DataFrame, links: Mapping[str, str], marks: Mapping[str, float]
) -> dict[str, Asset]:
    """Price, haircut and symbol of every asset; what has no price is wholly cut."""
    rows = instruments.drop_nulls("haircut").group_by("base").agg(pl.col("haircut").max())
    cuts = dict(rows.iter_rows())
    found: dict[str, Asset] = {}
    for name in collateral["asset"].unique().sort():
        if name in USD_ASSETS:
            found[name] = Asset(1.0, cuts.get(name, 0.0), None)
        elif name in links and links[name] in marks:
            found[name] = Asset(marks[links[name]], cuts.get(name, 0.0), links[name])
        else:
            found[name] = Asset(1.0, 1.0, None)
    return found
