"""The market of a stress test: prices, maintenance tiers, assets and correlations from TOML, depth from a table.

Everything is validated whole: a reader yields what is wrong, and the caller raises once.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator

from features.mechanics.margin import Tier, deductions_usd
from features.mechanics.profile import Profile, base_of
from features.structure import USD_ASSETS
from models.cascade.world import FLAT, SHAPES, Books, Floats
from pipelines.config import Section
from pipelines.errors import InputError
from pipelines.stress_table import Faults, Input

DOLLARS = (*USD_ASSETS, "USDE", "USDS", "USDP", "PYUSD", "GUSD")  # worth one dollar where no price is given
DEDUCTION_TOLERANCE_USD = 0.01
EIGENVALUE_MIN = -1e-8
SPILL = 0.1  # assumed, no venue publishes it: an impact moves a fully correlated symbol a tenth as much as its own


class TierRow(Section):
    """One maintenance bracket; a missing deduction is computed so that the requirement is continuous."""

    notional_usd_max: float | None = Field(None, gt=0)
    maintenance_rate: float = Field(gt=0, lt=1, validation_alias=AliasChoices("maintenance_rate", "rate"))
    deduction_usd: float | None = Field(None, ge=0)
    leverage_max: float | None = Field(None, ge=1)

    @field_validator("notional_usd_max", mode="before")
    @classmethod
    def _unbounded(cls, value: Any) -> Any:
        return None if value == float("inf") else value


class SymbolTable(Section):
    """One `[symbols.NAME]`."""

    mark_price: float = Field(gt=0, validation_alias=AliasChoices("mark_price", "price", "mark"))
    tiers: tuple[TierRow, ...] | None = Field(None, min_length=1)
    maintenance_rate: float | None = Field(None, gt=0, lt=1)
    contract_size: float = Field(1.0, gt=0)
    volatility: float | None = Field(None, gt=0, description="standard deviation of daily returns")
    base: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_schedule(self) -> "SymbolTable":
        if self.tiers is not None and self.maintenance_rate is not None:
            raise ValueError("give `tiers` or `maintenance_rate`, not both")
        for fault in _tier_faults(self.tiers or ()):
            raise ValueError(fault)
        return self

    def lines(self) -> tuple[Tier, ...] | None:
        """The maintenance schedule as lines; None where the file names none."""
        if self.maintenance_rate is not None:
            return (Tier(self.maintenance_rate, 0.0),)
        if self.tiers is None:
            return None
        return tuple(
            Tier(row.maintenance_rate, expected if row.deduction_usd is None else row.deduction_usd)
            for row, expected in zip(self.tiers, _expected(self.tiers), strict=True)
        )


class AssetTable(Section):
    """One `[assets.NAME]`; `symbol` is the market whose price it follows."""

    price: float | None = Field(None, gt=0, validation_alias=AliasChoices("price", "mark_price"))
    haircut: float | None = Field(None, ge=0, le=1)
    symbol: str | None = Field(None, min_length=1)


def _expected(tiers: tuple[TierRow, ...]) -> list[float]:
    bounds = [row.notional_usd_max or 0.0 for row in tiers]
    return deductions_usd(bounds, [row.maintenance_rate for row in tiers])


def _tier_faults(tiers: tuple[TierRow, ...]) -> Iterator[str]:
    bounds = [row.notional_usd_max for row in tiers]
    finite = [bound for bound in bounds if bound is not None]
    if None in bounds[:-1]:
        yield "`tiers`: only the last may have no `notional_usd_max`"
        return
    if finite != sorted(set(finite)):
        yield f"`tiers`: `notional_usd_max` must rise, was {finite}"
    rates = [row.maintenance_rate for row in tiers]
    if rates != sorted(rates):
        yield f"`tiers`: `maintenance_rate` must not fall, was {rates}"
        return
    for row, expected in zip(tiers, _expected(tiers) if tiers else (), strict=True):
        if row.deduction_usd is not None and not abs(row.deduction_usd - expected) <= DEDUCTION_TOLERANCE_USD:
            yield f"`tiers`: `deduction_usd` at {row.maintenance_rate} must be {expected}, was {row.deduction_usd}"


@dataclass(frozen=True)
class Asset:
    """Price in dollars, haircut where the file gives one, and the symbol whose price it follows."""

    price_usd: float
    haircut: float | None
    symbol: str | None


@dataclass(frozen=True)
class Market:
    """What the instruments file says, in the file's order. `correlation` is None where the file has none.

    `named` are all names of tables, of faulty ones too: whoever refers to one of those is not at fault.
    """

    symbols: Mapping[str, SymbolTable]
    tiers: Mapping[str, tuple[Tier, ...]]
    assets: Mapping[str, Asset]
    correlation: Floats | None
    spill: float | None = None
    named: frozenset[str] = frozenset()


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("cannot read the instruments", where=f"{path} ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("the instruments are not TOML", where=f"{path}: {error}") from None


def _tables(content: Any, key: str, faults: Faults) -> dict[str, Any]:
    """`[key.NAME]` tables, or `[[key]]` with a `name` or `symbol`, as one dict by name."""
    if isinstance(content, dict):
        return content
    named = [dict(row) for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    word = "symbol" if key == "symbols" else "asset"
    pairs = [(row.pop("name", None) or row.pop(word, None), row) for row in named]
    names = [name for name, _ in pairs]
    if not isinstance(content, list) or None in names or len(set(names)) < len(content):
        faults.add(f"`{key}` must be tables [{key}.NAME], each name once")
        return {}
    return {str(name): row for name, row in pairs}


def _said(where: str, error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        name = ".".join([where, *map(str, item["loc"])])
        if item["type"] == "extra_forbidden":
            yield f"`{name}` is not known here"
        elif item["type"] == "missing":
            yield f"`{name}` is missing"
        else:
            yield f"`{name}`: {item['msg'].removeprefix('Value error, ')}, was {item['input']!r}"


def _parsed(kind: type[Section], tables: Mapping[str, Any], key: str, faults: Faults) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in tables.items():
        try:
            found[name] = kind.model_validate(values)
        except ValidationError as error:
            faults.extend(_said(f"{key}.{name}", error))
    return found


def _lines_of(name: str, table: SymbolTable, profile: Profile, faults: Faults) -> tuple[Tier, ...]:
    """The file's tiers, else the profile's for the symbol, its base or every other."""
    lines = table.lines()
    if lines is not None:
        return lines
    for key in (name, table.base or base_of(name), "*"):
        if key in profile.tiers:
            return profile.tiers[key]
    faults.add(f"`symbols.{name}` has neither `tiers` nor `maintenance_rate`, and profile {profile.name} has none")
    return (Tier(0.05, 0.0),)


def _asset(
    name: str, table: AssetTable, symbols: Mapping[str, SymbolTable], markets: Mapping[str, Any], faults: Faults
) -> Asset:
    """An asset follows the symbol it names, else the symbol of its own name; dollars are worth 1."""
    symbol = table.symbol or (name if name in markets else None)
    if symbol is not None and symbol not in markets:
        faults.add(f"`assets.{name}.symbol` must be one of {', '.join(markets)}, was {symbol!r}")
    followed = symbols[symbol].mark_price if symbol is not None and symbol in symbols else None
    price = table.price if table.price is not None else followed
    if price is None and symbol is None and name.upper() not in DOLLARS:
        faults.add(f"`assets.{name}.price` is missing")
    return Asset(1.0 if price is None else price, table.haircut, symbol)


def _matrix(content: Any, symbols: tuple[str, ...], faults: Faults) -> Floats | None:
    """The correlation in the order of `symbols`; symbols that it does not name are uncorrelated."""
    given = {"matrix": content} if isinstance(content, list) else content
    if not isinstance(given, dict):
        faults.add("`correlation` must be a table or a matrix")
        return None
    if "matrix" in given:
        return _square(given.get("symbols", list(symbols)), given["matrix"], symbols, faults)
    return _paired({key: value for key, value in given.items() if key != "symbols"}, symbols, faults)


def _square(names: Any, rows: Any, symbols: tuple[str, ...], faults: Faults) -> Floats | None:
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if not isinstance(names, list) or matrix.shape != (len(names), len(names)) or len(set(names)) < len(names):
        faults.add("`correlation.matrix` must be a square of numbers, one row per name in `correlation.symbols`")
        return None
    unknown = [str(name) for name in names if name not in symbols]
    if unknown:
        faults.add(f"`correlation.symbols` must be of {', '.join(symbols)}, was {', '.join(unknown)}")
        return None
    if not (np.abs(matrix) <= 1).all() or not np.array_equal(matrix, matrix.T) or not (np.diag(matrix) == 1).all():
        faults.add("`correlation.matrix` must be symmetric, in [-1, 1], with ones on its diagonal")
        return None
    places = [symbols.index(name) for name in names]
    whole = np.eye(len(symbols))
    whole[np.ix_(places, places)] = matrix
    return _possible(whole, faults)


def _paired(pairs: Mapping[str, Any], symbols: tuple[str, ...], faults: Faults) -> Floats | None:
    whole = np.eye(len(symbols))
    seen: set[frozenset[str]] = set()
    for key, value in pairs.items():
        names = key.split("/")
        if len(names) != 2 or not set(names) <= set(symbols) or len(set(names)) < 2 or frozenset(names) in seen:
            faults.add(f'`correlation."{key}"` must be two of {", ".join(symbols)}, such as "A/B", each pair once')
        elif isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
            faults.add(f'`correlation."{key}"` must be in [-1, 1], was {value!r}')
        else:
            first, second = map(symbols.index, names)
            whole[first, second] = whole[second, first] = value
            seen.add(frozenset(names))
    return _possible(whole, faults)


def _possible(matrix: Floats, faults: Faults) -> Floats:
    least = float(np.linalg.eigvalsh(matrix)[0])
    if not least >= EIGENVALUE_MIN:
        faults.add(f"`correlation` must be positive semi-definite, its smallest eigenvalue was {least:.4g}")
    return matrix


def read_market(path: Path, profile: Profile, faults: Faults) -> Market:
    """Read the instruments file; what is wrong in it is added to `faults`."""
    content = _document(path)
    faults = faults.of(path)
    unknown = sorted(set(content) - {"symbols", "assets", "correlation", "description"})
    if unknown:
        faults.add(f"sections must be `symbols`, `assets`, `correlation`, was {', '.join(unknown)}")
    markets = _tables(content.get("symbols", {}), "symbols", faults)
    owned = _tables(content.get("assets", {}), "assets", faults)
    symbols = _parsed(SymbolTable, markets, "symbols", faults)
    if not content.get("symbols"):
        faults.add("there is no [symbols.NAME] table")
    assets = _parsed(AssetTable, owned, "assets", faults)
    tiers = {name: _lines_of(name, table, profile, faults) for name, table in symbols.items()}
    correlation, spill = content.get("correlation"), None
    if isinstance(correlation, dict) and "spill" in correlation:
        spill = spill_share(correlation["spill"], faults)
        correlation = {key: value for key, value in correlation.items() if key != "spill"}
    matrix = None if correlation is None else _matrix(correlation, tuple(markets), faults)
    return Market(
        symbols,
        tiers,
        {name: _asset(name, table, symbols, markets, faults) for name, table in assets.items()},
        matrix,
        spill,
        frozenset(markets) | frozenset(owned),
    )


def spill_share(value: Any, faults: Faults) -> float | None:
    """The share of an impact that a fully correlated symbol feels, in [0, 1]."""
    if not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    faults.add(f"`spill` must be in [0, 1], was {value!r}")
    return None


def spilled(correlation: Floats | None, spill: float, symbols: int) -> Floats:
    """What an impact of 1 on symbol j moves symbol i: `spill * correlation[i, j]`, 1 on the diagonal.

    >>> spilled(np.array([[1.0, 0.8], [0.8, 1.0]]), 0.5, 2).tolist()
    [[1.0, 0.4], [0.4, 1.0]]
    """
    if correlation is None:
        return np.eye(symbols)
    moved = spill * correlation
    np.fill_diagonal(moved, 1.0)
    return moved


def read_depth(path: Path, market: Market, faults: Faults) -> dict[str, tuple[float, str, float]]:
    """Depth by symbol: dollars per unit of relative price, shape, and the relative price where knowledge ends."""
    table = Input.of(path, faults.of(path))
    levels = {"side", "price"} <= set(table.frame.columns)
    found = _from_levels(table, market) if levels else _from_rows(table)
    return {name: values for name, values in found.items() if name in market.symbols}


def _from_rows(table: Input) -> dict[str, tuple[float, str, float]]:
    """One row per symbol."""
    if not table.need("symbol", "depth_usd_per_unit"):
        return {}
    table = table.text("symbol").numbers("depth_usd_per_unit").optional_numbers("depth_limit")
    shaped = table.optional_text("shape").with_columns(pl.col("shape").str.to_lowercase().fill_null(FLAT))
    shaped.refuse(~(pl.col("depth_usd_per_unit") > 0), "`depth_usd_per_unit` must be positive")
    shaped.refuse(~(pl.col("depth_limit") > 0), "`depth_limit` must be positive")
    shaped.refuse(~pl.col("shape").is_in(SHAPES), f"`shape` must be one of {', '.join(SHAPES)}")
    shaped.refuse(~pl.struct("symbol").is_first_distinct(), "a symbol has two rows")
    rows = shaped.frame.select("symbol", "depth_usd_per_unit", "shape", pl.col("depth_limit").fill_null(float("inf")))
    return {str(name): (depth, shape, limit) for name, depth, shape, limit in rows.iter_rows()}


def _from_levels(table: Input, market: Market) -> dict[str, tuple[float, str, float]]:
    """Levels of a book: the thinner side's average density up to its last level, flat up to there."""
    size = "usd" if "usd" in table.frame.columns else "qty"
    if not table.need("symbol", "side", "price", size):
        return {}
    table = table.text("symbol", "side").numbers("price", size)
    table = table.with_columns(
        pl.col("side").str.to_lowercase().replace({"buy": "bid", "bids": "bid", "sell": "ask", "asks": "ask"})
    )
    table.refuse(~pl.col("side").is_in(("bid", "ask")), "`side` must be bid or ask")
    table.refuse(~(pl.col("price") > 0), "`price` must be positive")
    table.refuse(~(pl.col(size) >= 0), f"`{size}` must be at least 0")
    table.refuse(~pl.struct("symbol", "side", "price").is_first_distinct(), "a level has two rows")
    marks = pl.DataFrame(
        {"symbol": list(market.symbols), "mark": [float(item.mark_price) for item in market.symbols.values()]},
        schema={"symbol": pl.String, "mark": pl.Float64},
    )
    usd = pl.col("usd") if size == "usd" else pl.col("qty") * pl.col("price")
    sides = _densities(table.frame.with_columns(usd.alias("usd")).join(marks, on="symbol"))
    for symbol in sides.filter(pl.col("crossed"))["symbol"].unique().sort():
        table.faults.add(f"the book of {symbol} is crossed: its best bid is not below its best ask")
    thinless = sides.filter(~pl.col("crossed"), ~(pl.col("density") > 0) | ~pl.col("density").is_finite())
    for symbol in thinless["symbol"].unique().sort():
        table.faults.add(f"the book of {symbol} has a side without depth or without distance from the middle")
    thin = sides.sort("symbol", "density", "side").group_by("symbol", maintain_order=True).first()
    rows = thin.select("symbol", "density", "reach").iter_rows()
    return {str(symbol): (density, FLAT, reach) for symbol, density, reach in rows}


def _densities(levels: pl.DataFrame) -> pl.DataFrame:
    """Per symbol and side: reach of the last level from the middle (the mark for one side alone), USD per reach."""
    best = pl.col("price")
    tops = levels.group_by("symbol").agg(
        best.filter(pl.col("side") == "bid").max().alias("bid"),
        best.filter(pl.col("side") == "ask").min().alias("ask"),
        pl.col("mark").first(),
    )
    middle = tops.select(
        "symbol",
        ((pl.col("bid") + pl.col("ask")) / 2).fill_null(pl.col("mark")).alias("middle"),
        (pl.col("bid") >= pl.col("ask")).fill_null(False).alias("crossed"),
    )
    reach = (pl.col("price") / pl.col("middle") - 1) * pl.when(pl.col("side") == "bid").then(-1.0).otherwise(1.0)
    sides = (
        levels.join(middle, on="symbol")
        .group_by("symbol", "side")
        .agg(pl.col("usd").sum(), reach.max().alias("reach"), pl.col("crossed").first())
    )
    return sides.with_columns((pl.col("usd") / pl.col("reach")).alias("density"))


def books_of(depths: Mapping[str, tuple[float, str, float]], symbols: tuple[str, ...]) -> Books:
    """Books in the order of `symbols`; every symbol must have a depth."""
    rows = [depths[symbol] for symbol in symbols]
    return Books(
        depth_usd=np.array([depth for depth, _, _ in rows], dtype=np.float64),
        shape=tuple(shape for _, shape, _ in rows),
        depth_limit=np.array([limit for _, _, limit in rows], dtype=np.float64),
    )
