"""Files to a world: positions, collateral, instruments and depth that somebody wrote, validated whole.

A unit of margin is a cross account or an isolated position. Collateral counts `amount * price * (1 - haircut)`, a debt
without haircut. Collateral whose price follows a symbol becomes a leg that moves with it; what follows none is kept
beside the world (`Scene.held_*`), so that a shock of the asset can be laid on the cash of the accounts that hold it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from features.mechanics.collateral import NO_HAIRCUT, collateral_usd
from features.mechanics.margin import Tier
from features.mechanics.profile import Haircut, Profile, base_of
from models.cascade.world import Floats, Ints, World
from pipelines.stress_market import DOLLARS, SPILL, Asset, Market, books_of, read_depth, read_market, spilled
from pipelines.stress_table import Faults, Input

CROSS, ISOLATED = "cross", "isolated"
MODES = (CROSS, ISOLATED)
CLEAN = {"account": pl.String, "symbol": pl.String, "qty": pl.Float64, "entry_price": pl.Float64,
         "isolated": pl.Boolean, "isolated_margin": pl.Float64}  # fmt: skip
HELD = {"account": pl.String, "asset": pl.String, "amount": pl.Float64}


@dataclass(frozen=True)
class Files:
    """Where the parts of a scene lie; collateral may be missing where every position is isolated."""

    positions: Path
    instruments: Path
    depth: Path
    collateral: Path | None = None


@dataclass(frozen=True)
class Scene:
    """A world, and what is needed to lay a shock on it by name.

    `held_usd[k]` dollars of asset `assets[held_asset[k]]`, after haircut, are part of the cash of unit `held_unit[k]`;
    only collateral that follows no symbol is listed. `moves` says, by the name a shock may use, the symbols and assets
    that it moves. `sd_day` is NaN for a symbol whose volatility is unknown.
    """

    world: World
    assets: tuple[str, ...]
    held_unit: Ints
    held_asset: Ints
    held_usd: Floats
    moves: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    sd_day: Floats
    correlation: Floats
    spill: float
    notes: tuple[str, ...] = ()

    def shocked(self, asset_drop: Floats) -> World:
        """The world after assets without a symbol lost `asset_drop` (per asset, positive = falls) of their value."""
        lost = np.bincount(
            self.held_unit, weights=self.held_usd * asset_drop[self.held_asset], minlength=self.world.units
        )
        return replace(self.world, cash_usd=self.world.cash_usd - lost)


def read_scene(files: Files, profile: Profile, *, spill: float | None = None) -> Scene:
    """Read all files into a scene; `spill` wins over the instruments file's.

    Raises InputError that lists every fault of every file at once.
    """
    faults = Faults()
    market = read_market(files.instruments, profile, faults)
    depths = read_depth(files.depth, market, faults)
    positions = _positions(files.positions, market, set(depths), faults)
    collateral = _collateral(files.collateral, market, faults)
    if files.collateral is None and not positions["isolated"].all():
        faults.of(files.positions).add("there are cross positions: give their collateral with --collateral")
    held = set(collateral["asset"].unique())
    for name, asset in market.assets.items():
        if name in held and asset.symbol in market.symbols and asset.symbol not in depths:
            faults.of(files.depth).add(f"{asset.symbol} has no depth, though collateral {name} follows it")
    faults.raise_any()
    return scene_of(positions, collateral, market, depths, profile, spill=spill)


def _positions(path: Path, market: Market, deep: set[str], faults: Faults) -> pl.DataFrame:
    """Open positions in base units, by CLEAN; a number of `contracts` is multiplied by the contract size."""
    table = Input.of(path, faults.of(path))
    size = "contracts" if "contracts" in table.frame.columns else "qty"
    if {"contracts", "qty"} <= set(table.frame.columns):
        table.faults.add("give `qty` in base units or `contracts`, not both")
    if not table.need("account", "symbol", size, "entry_price"):
        return pl.DataFrame(schema=CLEAN)
    table = table.text("account", "symbol").numbers(size, "entry_price").optional_numbers("isolated_margin")
    table = table.optional_text("margin_mode").with_columns(pl.col("margin_mode").str.to_lowercase())
    table.refuse(~(pl.col("entry_price") > 0), "`entry_price` must be positive")
    table.refuse(~pl.col("margin_mode").is_in(MODES), f"`margin_mode` must be {' or '.join(MODES)}")
    table.refuse(~(pl.col("isolated_margin") >= 0), "`isolated_margin` must be at least 0")
    bare = (pl.col("margin_mode") == ISOLATED) & pl.col("isolated_margin").is_null()
    table.refuse(bare, "an isolated position needs `isolated_margin`")
    table.refuse((pl.col("margin_mode") == CROSS) & (pl.col("isolated_margin") > 0), "a cross position has no margin")
    _refuse_names(table, "symbol", set(market.symbols) | market.named, "is not in the instruments")
    held = replace(table, frame=table.frame.filter(pl.col(size) != 0))
    _refuse_names(held, "symbol", deep, "has positions but no depth", within=set(market.symbols))
    table.refuse(~pl.struct("account", "symbol").is_first_distinct(), "an account has two positions in a symbol")
    mode = pl.when(pl.col("isolated_margin") > 0).then(pl.lit(ISOLATED)).otherwise(pl.lit(CROSS))
    sizes = {name: item.contract_size if size == "contracts" else 1.0 for name, item in market.symbols.items()}
    rows = table.frame.filter(pl.col(size) != 0).select(
        "account",
        "symbol",
        (pl.col(size) * _lookup("symbol", sizes, pl.Float64)).alias("qty"),
        "entry_price",
        (pl.col("margin_mode").fill_null(mode) == ISOLATED).alias("isolated"),
        "isolated_margin",
    )
    if rows.is_empty():
        table.faults.add("there is no open position")
    return rows


def _refuse_names(table: Input, column: str, known: set[str], what: str, within: set[str] | None = None) -> None:
    """One fault per name of `column` that is not known; of the names in `within` only, where that is given."""
    names = table.frame.group_by(column).agg(pl.col("row_number").min().alias("first")).drop_nulls().sort("first")
    for name, first in names.iter_rows():
        if name not in known and name and (within is None or name in within):
            table.faults.add(f"{name} {what}, {table.unit} {first}")


def _collateral(path: Path | None, market: Market, faults: Faults) -> pl.DataFrame:
    """Amounts by account and asset, by HELD; repeated rows are a fault."""
    if path is None:
        return pl.DataFrame(schema=HELD)
    table = Input.of(path, faults.of(path))
    if not table.need("account", "asset", "amount"):
        return pl.DataFrame(schema=HELD)
    table = table.text("account", "asset").numbers("amount")
    table.refuse(~pl.struct("account", "asset").is_first_distinct(), "an account has two rows of an asset")
    unpriced = set(table.frame["asset"].drop_nulls().unique()) - set(market.assets)
    dollars = {name for name in unpriced if name.upper() in DOLLARS}
    _refuse_names(
        table, "asset", set(market.assets) | market.named | dollars, "has no [assets.NAME] table with its price"
    )
    return table.frame.select(*HELD)


def scene_of(
    positions: pl.DataFrame,
    collateral: pl.DataFrame,
    market: Market,
    depths: Mapping[str, tuple[float, str, float]],
    profile: Profile,
    *,
    spill: float | None = None,
) -> Scene:
    """Clean tables as a scene. Symbols without depth are left out: nobody holds them.

    The order of rows does not matter: units are sorted by account, then cross before isolated by symbol.
    """
    symbols = tuple(name for name in market.symbols if name in depths)
    prices = np.array([market.symbols[name].mark_price for name in symbols])
    assets = {**{name: Asset(1.0, None, None) for name in collateral["asset"].unique().sort()}, **market.assets}
    accounts = positions.select(pl.col("account").unique().sort()).with_row_index("owner")
    held = _valued(collateral, assets, profile).join(accounts, on="account")
    own = _own_legs(positions, accounts, symbols)
    legs = _in_order(pl.concat([own, _following_legs(held, own, assets, symbols, prices)]), len(symbols))
    units = _units(legs)
    backing = _backing(units, held, assets)
    loose = backing.filter(pl.col("place").is_in([n for n, item in enumerate(assets.values()) if item.symbol is None]))
    places = [list(market.symbols).index(name) for name in symbols]
    whole = np.eye(len(market.symbols)) if market.correlation is None else market.correlation
    correlation = whole[np.ix_(places, places)]
    share = next((value for value in (spill, market.spill) if value is not None), SPILL)
    rates, deductions = _tier_arrays([market.tiers[name] for name in symbols])
    world = World(
        symbols=symbols,
        price_usd=prices,
        books=books_of(depths, symbols),
        spill=spilled(None if market.correlation is None else correlation, share, len(symbols)),
        rates=rates,
        deductions=deductions,
        cash_usd=_cash(units, backing),
        leg_start=np.append(0, units["legs"].cum_sum().to_numpy()).astype(np.int64),
        leg_symbol=legs["place"].to_numpy().astype(np.int64),
        leg_qty=legs["qty"].to_numpy(),
        leg_entry=legs["entry_price"].to_numpy(),
        leg_closable=legs["closable"].to_numpy(),
        account=units["owner"].to_numpy().astype(np.int64),
        account_names=tuple(accounts["account"].to_list()),
    )
    return Scene(
        world=world,
        assets=tuple(assets),
        held_unit=loose["unit"].to_numpy().astype(np.int64),
        held_asset=loose["place"].to_numpy().astype(np.int64),
        held_usd=loose["usd"].to_numpy(),
        moves=_moves(market, symbols, assets),
        sd_day=np.array([market.symbols[name].volatility or np.nan for name in symbols]),
        correlation=correlation,
        spill=share if market.correlation is not None else 0.0,
        notes=_notes(market, symbols),
    )


def _valued(collateral: pl.DataFrame, assets: Mapping[str, Asset], profile: Profile) -> pl.DataFrame:
    """Adds `usd`: what the amount counts for; the file's haircut, else the profile's, else none."""
    if collateral.is_empty():
        return collateral.with_columns(pl.lit(None, dtype=pl.Float64).alias("usd"))
    parts = [
        part.with_columns(_worth(str(name), assets[str(name)], profile).alias("usd"))
        for (name,), part in collateral.partition_by("asset", as_dict=True).items()
    ]
    return pl.concat(parts)


def _worth(name: str, asset: Asset, profile: Profile) -> pl.Expr:
    flat = None if asset.haircut is None else Haircut(((float("inf"), asset.haircut),))
    return collateral_usd(pl.col("amount"), pl.lit(asset.price_usd), flat or profile.haircuts.get(name, NO_HAIRCUT))


def _lookup(column: str, values: Mapping[str, int] | Mapping[str, float], dtype: type[pl.DataType]) -> pl.Expr:
    """The value of each name, null where there is none."""
    found = pl.col(column).replace_strict(values, default=None, return_dtype=dtype) if values else pl.lit(None)
    return found.cast(dtype)


def _place(column: str, names: Iterable[str]) -> pl.Expr:
    """The place of each name in `names`."""
    return _lookup(column, {name: place for place, name in enumerate(names)}, pl.Int64)


def _own_legs(positions: pl.DataFrame, accounts: pl.DataFrame, symbols: tuple[str, ...]) -> pl.DataFrame:
    """Positions as legs: owner, place of the symbol, what they were entered at, margin of an isolated one."""
    return positions.join(accounts, on="account").select(
        "owner",
        "isolated",
        _place("symbol", symbols).alias("place"),
        "qty",
        "entry_price",
        pl.lit(True).alias("closable"),
        pl.col("isolated_margin").fill_null(0.0).alias("margin"),
    )


def _following_legs(
    held: pl.DataFrame, own: pl.DataFrame, assets: Mapping[str, Asset], symbols: tuple[str, ...], prices: Floats
) -> pl.DataFrame:
    """Collateral of cross accounts that follows a symbol, entered at the mark: it gains and loses, and never closes."""
    places = {name: symbols.index(item.symbol) for name, item in assets.items() if item.symbol is not None}
    backing = held.filter(pl.col("asset").is_in(list(places)), pl.col("usd") != 0).sort("asset")
    cross = own.filter(~pl.col("isolated")).select("owner").unique()
    mark = pl.col("place").replace_strict(dict(enumerate(prices.tolist())), return_dtype=pl.Float64)
    return (
        backing.join(cross, on="owner", how="semi", maintain_order="left")
        .with_columns(_lookup("asset", places, pl.Int64).alias("place"))
        .select(
            "owner",
            pl.lit(False).alias("isolated"),
            "place",
            (pl.col("usd") / mark).alias("qty"),
            mark.alias("entry_price"),
            pl.lit(False).alias("closable"),
            pl.lit(0.0).alias("margin"),
        )
    )


def _in_order(legs: pl.DataFrame, symbols: int) -> pl.DataFrame:
    """Legs sorted by unit, those that can be closed first; `code` is the same for the legs of one unit.

    One whole number says it all: owner, cross before isolated by symbol, collateral last, symbol.
    """
    own = pl.when("isolated").then(pl.col("place") + 1).otherwise(0)
    unit = pl.col("owner").cast(pl.Int64) * (symbols + 1) + own
    rank = (unit * 2 + (~pl.col("closable")).cast(pl.Int64)) * symbols + pl.col("place")
    return legs.with_columns(unit.alias("code"), rank.alias("rank")).sort("rank", maintain_order=True)


def _units(legs: pl.DataFrame) -> pl.DataFrame:
    """Units in the order of their sorted legs: owner, number of legs, isolated or not, margin."""
    runs = legs["code"].rle().struct.unnest()
    first = (runs["len"].cum_sum() - runs["len"]).cast(pl.UInt32)
    heads = legs.select("owner", "isolated", "margin")[first]
    return heads.with_columns(runs["len"].cast(pl.Int64).alias("legs")).with_row_index("unit")


def _backing(units: pl.DataFrame, held: pl.DataFrame, assets: Mapping[str, Asset]) -> pl.DataFrame:
    """Collateral of cross units: unit, place of the asset, dollars; sorted, so that sums do not depend on rows."""
    crossed = units.filter(~pl.col("isolated")).select("owner", "unit")
    joined = held.join(crossed, on="owner").select("unit", _place("asset", assets).alias("place"), "usd")
    return joined.sort(pl.col("unit").cast(pl.Int64) * len(assets) + pl.col("place"))


def _cash(units: pl.DataFrame, backing: pl.DataFrame) -> Floats:
    """Collateral after haircuts of a cross unit, the margin of an isolated one."""
    summed = np.bincount(backing["unit"].to_numpy(), weights=backing["usd"].to_numpy(), minlength=units.height)
    return np.asarray(units["margin"].to_numpy() + summed)


def _tier_arrays(schedules: list[tuple[Tier, ...]]) -> tuple[Floats, Floats]:
    """Rates and deductions of shape (tiers, symbols); a shorter schedule repeats its last line."""
    longest = max(map(len, schedules))
    filled = [(*lines, *(lines[-1:] * (longest - len(lines)))) for lines in schedules]
    return (
        np.array([[line.rate for line in lines] for lines in filled], dtype=np.float64).T.copy(),
        np.array([[line.deduction_usd for line in lines] for lines in filled], dtype=np.float64).T.copy(),
    )


def _moves(
    market: Market, symbols: tuple[str, ...], assets: Mapping[str, Asset]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By name: the symbols and the assets that a shock of it moves. A followed symbol moves for its asset."""
    moved: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    bases = {name: market.symbols[name].base or base_of(name) for name in symbols}
    for base in sorted(set(bases.values())):
        moved[base] = (tuple(name for name in symbols if bases[name] == base), ())
    for name, asset in assets.items():
        based = moved.get(name, ((), ()))[0]
        moved[name] = (based, (name,)) if asset.symbol is None else (tuple(dict.fromkeys((*based, asset.symbol))), ())
    for name in symbols:
        moved[name] = ((name,), tuple(n for n in (name,) if n in assets and assets[n].symbol is None))
    return moved


def _notes(market: Market, symbols: tuple[str, ...]) -> tuple[str, ...]:
    left_out = [name for name in market.symbols if name not in symbols]
    if not left_out:
        return ()
    return (f"{', '.join(left_out)}: no depth and no positions, left out",)
