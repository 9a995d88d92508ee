"""Instruments: what every symbol is, from when on, read from TOML files and validated whole.

The shipped files lie in `pipelines/instrument_files`; a user adds files with the setting `instruments`. A file holds
`[[instrument]]` tables; `[defaults]` are values for all of them. A change of a contract is a new row with a later
`effective_from`, never an edit: stored rows were sized with the old one.

A symbol that holds `{base}` names a family: every symbol of that form which no table names by itself is an instrument
with these values, its base read from the symbol. A venue lists hundreds of contracts that differ in nothing else.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import AwareDatetime, Field, ValidationError

from features.schema import Instruments, polars_schema
from pipelines.config import Config, Section
from pipelines.errors import InputError
from pipelines.lake import Lake

DOLLARS = ("USD", "USDT", "USDC", "BUSD")  # each counts as one dollar
KEY = ("venue", "symbol", "effective_from")
DEDUCTION_TOLERANCE_USD = 0.01
BASE = "{base}"


class Tier(Section):
    """One maintenance bracket; a missing deduction is computed so that the requirement is continuous."""

    notional_usd_max: float | None = Field(None, gt=0)
    maintenance_rate: float = Field(gt=0, lt=1)
    deduction_usd: float | None = Field(None, ge=0)
    leverage_max: float = Field(ge=1)


class Instrument(Section):
    """One `[[instrument]]` table."""

    venue: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    symbol: str = Field(pattern=r"^[^\s'\"\\*,]+$")
    effective_from: AwareDatetime
    base: str = Field("", description="read from the symbol in a family, required elsewhere")
    quote: Literal["USD", "USDT", "USDC", "BUSD"]
    settlement: Literal["spot", "linear", "inverse"]
    contract_size: float = Field(gt=0)
    tick: float | None = Field(None, gt=0)
    tiers: tuple[Tier, ...] | None = Field(None, min_length=1)
    mark_rule: str | None = Field(None, min_length=1)
    path: str | None = Field(None, min_length=1)
    fee_taker: float | None = Field(None, gt=-1, lt=1)
    fee_liquidation: float | None = Field(None, ge=0, lt=1)
    haircut: float | None = Field(None, ge=0, le=1)
    spot_reference: tuple[str, ...] | None = Field(None, min_length=1)


@dataclass(frozen=True)
class InstrumentBook:
    """Everything the instrument files say: rows of schema `Instruments`, and families for symbols that no row names."""

    rows: pl.DataFrame
    families: tuple[Instrument, ...] = ()

    def of(self, names: pl.DataFrame) -> pl.DataFrame:
        """The rows of every `venue, symbol` in `names`, each version; a family's where no row names the symbol.

        Where several families fit, the longest symbol pattern wins. Unknown names have no row.
        """
        wanted = names.select("venue", "symbol").drop_nulls().unique()
        named = self.rows.join(wanted, on=["venue", "symbol"], how="semi")
        unnamed = wanted.join(named, on=["venue", "symbol"], how="anti")
        grown = [self._grown(venue, symbol) for venue, symbol in unnamed.sort("venue", "symbol").iter_rows()]
        rows = [_row(item) for items in grown for item in items]
        return pl.concat([named, pl.DataFrame(rows, schema=self.rows.schema)]).sort(KEY)

    def _grown(self, venue: str, symbol: str) -> list[Instrument]:
        """The family's versions for one symbol."""
        fitting = [(item, found) for item in self._of_venue.get(venue, ()) if (found := _fits(item.symbol, symbol))]
        longest = max((len(item.symbol) for item, _ in fitting), default=0)
        return [
            item.model_copy(update={"symbol": symbol, "base": found})
            for item, found in fitting
            if len(item.symbol) == longest
        ]

    @cached_property
    def _of_venue(self) -> dict[str, list[Instrument]]:
        by_venue: dict[str, list[Instrument]] = {}
        for item in self.families:
            by_venue.setdefault(item.venue, []).append(item)
        return by_venue

    def symbol_of(self, venue: str, base: str, quote: str, settlement: str) -> str | None:
        """What `venue` calls its market of `base` in `quote`; null where no row and no family says so."""
        asked = [pl.col("venue") == venue, pl.col("base") == base]
        asked += [pl.col("quote") == quote, pl.col("settlement") == settlement]
        named = self.rows.filter(*asked).sort("effective_from")
        if named.height:
            return str(named["symbol"][-1])
        for item in self._of_venue.get(venue, ()):
            if (item.quote, item.settlement) == (quote, settlement):
                return item.symbol.replace(BASE, base)
        return None


def _fits(pattern: str, symbol: str) -> str | None:
    """The base of `symbol` in a family's pattern, null where it is not of that form.

    >>> _fits("{base}USDT", "1000PEPEUSDT"), _fits("{base}-USD", "BTC-USDT")
    ('1000PEPE', None)
    """
    before, after = map(re.escape, pattern.split(BASE))
    found = re.fullmatch(f"{before}([A-Za-z0-9]+){after}", symbol)
    return None if found is None else found[1]


def expected_deductions(bounds: Sequence[float], rates: Sequence[float]) -> list[float]:
    """`deduction_k = deduction_{k-1} + lower_k * (rate_k - rate_{k-1})`, the first 0 (continuity at the edges).

    `bounds` are the upper notionals of all tiers but the last.

    >>> expected_deductions([50e3, 600e3], [0.004, 0.005, 0.0065])
    [0.0, 50.0, 950.0]
    """
    deductions = [0.0]
    for lower, rate, rate_before in zip(bounds, rates[1:], rates[:-1], strict=True):
        deductions.append(round(deductions[-1] + lower * (rate - rate_before), 6))
    return deductions


def _tier_faults(tiers: Sequence[Tier]) -> Iterator[str]:
    bounds = [tier.notional_usd_max for tier in tiers]
    rates = [tier.maintenance_rate for tier in tiers]
    inner = [bound for bound in bounds[:-1] if bound is not None]
    if len(inner) < len(bounds) - 1:
        yield "`tiers`: only the last may have no `notional_usd_max`"
        return
    finite = [bound for bound in bounds if bound is not None]
    if finite != sorted(set(finite)):
        yield f"`tiers`: `notional_usd_max` must rise, was {finite}"
    if rates != sorted(rates):
        yield f"`tiers`: `maintenance_rate` must not fall, was {rates}"
    for tier, expected in zip(tiers, expected_deductions(inner, rates), strict=True):
        given = tier.deduction_usd
        if given is not None and not abs(given - expected) <= DEDUCTION_TOLERANCE_USD:
            yield f"`tiers`: `deduction_usd` at rate {tier.maintenance_rate} must be {expected}, was {given}"


def _row(instrument: Instrument) -> dict[str, Any]:
    row = instrument.model_dump()
    row["effective_from"] = instrument.effective_from.astimezone(UTC)
    if instrument.tiers is not None:
        inner = [tier.notional_usd_max or 0.0 for tier in instrument.tiers[:-1]]
        deductions = expected_deductions(inner, [tier.maintenance_rate for tier in instrument.tiers])
        for tier, deduction in zip(row["tiers"], deductions, strict=True):
            tier["deduction_usd"] = deduction if tier["deduction_usd"] is None else tier["deduction_usd"]
    return row


def _name_faults(instrument: Instrument) -> Iterator[str]:
    """A family takes its base from the symbol, everything else must name it."""
    places = instrument.symbol.count(BASE)
    if places > 1:
        yield f"`symbol`: {BASE} may stand once, was {instrument.symbol!r}"
    if places and instrument.base:
        yield f"`base`: a family reads it from the symbol, was {instrument.base!r}"
    if not places and not instrument.base:
        yield "`base`: Field required"


def _said(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a field of an instrument"
    was = "" if error["type"] == "missing" else f", was {error['input']!r}"
    return f"`{name}`: {error['msg']}{was}"


def _parsed(name: str, text: str) -> Iterator[Instrument | str]:
    """Every instrument of one file, or a sentence for what is wrong with it."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        yield f"{name}: not TOML ({error})"
        return
    tables, defaults = content.get("instrument"), content.get("defaults", {})
    if set(content) - {"instrument", "defaults"} or not isinstance(defaults, dict):
        yield f"{name}: holds only [defaults] and [[instrument]] tables, was {sorted(content)}"
        return
    if not isinstance(tables, list) or not tables:
        yield f"{name}: holds no [[instrument]] table"
        return
    for nth, table in enumerate(tables, start=1):
        values = defaults | table if isinstance(table, dict) else {}
        where = f"{name} instrument {nth} ({values.get('venue')}:{values.get('symbol')})"
        try:
            instrument = Instrument(**values)
        except ValidationError as error:
            yield from (f"{where}: {_said(item)}" for item in error.errors(include_url=False))
            continue
        yield from (f"{where}: {fault}" for fault in _name_faults(instrument))
        if instrument.tiers is not None:
            yield from (f"{where}: {fault}" for fault in _tier_faults(instrument.tiers))
        yield instrument


def _cross_faults(instruments: Sequence[Instrument]) -> Iterator[str]:
    """Keys given twice, and spot references that name no spot instrument."""
    seen: set[tuple[Any, ...]] = set()
    spots = {f"{item.venue}:{item.symbol}" for item in instruments if item.settlement == "spot"}
    for item in instruments:
        key = (item.venue, item.symbol, item.effective_from)
        if key in seen:
            yield f"{item.venue}:{item.symbol} from {item.effective_from.isoformat()} is defined twice"
        seen.add(key)
        for reference in item.spot_reference or ():
            if reference not in spots:
                yield f"{item.venue}:{item.symbol}: `spot_reference` {reference!r} is no spot instrument"


def parse_instruments(files: Sequence[tuple[str, str]]) -> InstrumentBook:
    """`(name, text)` of TOML files -> rows of schema `Instruments`, sorted by key, and families.

    Raises InputError that lists every violation of every file at once.
    """
    parsed = [item for name, text in files for item in _parsed(name, text)]
    instruments = [item for item in parsed if isinstance(item, Instrument)]
    faults = [item for item in parsed if isinstance(item, str)]
    faults += _cross_faults(instruments)
    if faults:
        raise InputError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in instrument files", where=" | ".join(faults))
    named = [_row(item) for item in instruments if BASE not in item.symbol]
    rows = pl.DataFrame(named, schema=polars_schema(Instruments))
    families = tuple(item for item in instruments if BASE in item.symbol)
    return InstrumentBook(Instruments.validate(rows.sort(KEY)), families)


def shipped_files() -> list[tuple[str, str]]:
    """Name and text of the instrument files that come with the package."""
    folder = resources.files("pipelines").joinpath("instrument_files")
    found = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return [(item.name, item.read_text(encoding="utf-8")) for item in found]


def _user_file(path: Path) -> tuple[str, str]:
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        mend = "mend `instruments` in the configuration"
        raise InputError(f"instrument file cannot be read ({error})", where=path, mend=mend) from None


def load_instruments(config: Config) -> InstrumentBook:
    """The shipped instruments and those of `config.instruments`."""
    return parse_instruments([*shipped_files(), *(_user_file(path) for path in config.instruments)])


def content_hash(instruments: pl.DataFrame) -> str:
    """SHA-256 of the rows, whatever their order."""
    return hashlib.sha256(instruments.sort(KEY).write_ndjson().encode()).hexdigest()


def write_instruments(lake: Lake, instruments: pl.DataFrame) -> int:
    """Append the rows that the lake does not hold yet; returns their number. The caller holds the writer's lock.

    Raises InputError if the lake holds another content under the same venue, symbol and `effective_from`.
    """
    stored = lake.scan("instruments").collect().select(instruments.columns)
    known = instruments.join(stored, on=KEY, how="semi").sort(KEY)
    before = stored.join(instruments, on=KEY, how="semi").sort(KEY)
    if not known.equals(before):
        changed = [":".join(new[:2]) for new, old in zip(known.rows(), before.rows(), strict=True) if new != old]
        mend = "leave the old row as it was and add one with a later effective_from"
        raise InputError("instrument differs from what the lake holds", where=", ".join(changed), mend=mend)
    new = instruments.join(stored, on=KEY, how="anti").sort(KEY)
    if new.height:
        lake.append("instruments", new, content_hash(new))
    return new.height
