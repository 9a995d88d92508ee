"""Venue profiles from TOML: every version validated whole, every violation listed at once, every constant sourced.

A file has a `name` and `[[version]]` tables, each in force from its `effective_from` until the next one's. A version's
`sources` name, for every number and rule it gives, the document it was taken from, or `assumed: why`; a name stands for
everything below it (`fees` for `fees.taker`). `template.toml` explains every line.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from features.mechanics import paths
from features.mechanics.margin import Tier, deductions_usd
from features.mechanics.profile import Fees, Haircut, Latency, MarkRule, Profile
from features.mechanics.profile import Path as ClosePath
from pipelines.config import Section
from pipelines.errors import InputError

FOLDER = "profile_files"
TEMPLATE = "template"
ASSUMED = "assumed:"
REASON_LENGTH_MIN = 10
UNSOURCED = ("effective_from",)  # the version's own date, and what it is called


class TierLine(Section):
    """One maintenance tier; the last has no upper bound."""

    notional_usd_max: float | None = Field(None, gt=0)
    rate: float = Field(gt=0, lt=1)


class HaircutStep(Section):
    usd_max: float | None = Field(None, gt=0)
    haircut: float = Field(ge=0, le=1)


class MarkSection(Section):
    rule: Literal["last", "index", "median", "index_ema"]
    ema_s: float = Field(0.0, ge=0)
    basis_window_s: float = Field(0.0, ge=0)


class PathSection(Section):
    kind: str
    step_s: float = Field(0.0, ge=0)
    params: dict[str, float] = Field(default_factory=dict)


class FeesSection(Section):
    taker: float = Field(gt=-1, lt=1)
    liquidation: float = Field(ge=0, lt=1)
    liquidation_usd_max: float | None = Field(None, ge=0)


class LatencySection(Section):
    book_s: float = Field(0.0, ge=0)
    mark_s: float = Field(0.0, ge=0)
    liquidation_s: float = Field(0.0, ge=0)


class Version(Section):
    """One `[[version]]` table."""

    effective_from: AwareDatetime
    mark: MarkSection
    path: PathSection
    fees: FeesSection
    tiers: dict[str, tuple[TierLine, ...]] = Field(min_length=1)
    latency: LatencySection = LatencySection()
    buffer: float = Field(0.0, ge=0, le=10)
    haircuts: dict[str, tuple[HaircutStep, ...]] = Field(default_factory=dict)
    fund_usd: float = Field(0.0, ge=0)
    adl: Literal["rank", "pro_rata", "none"] = "rank"
    year_days: float = Field(365.0, ge=360, le=366)
    sources: dict[str, str]


def load_profile(name: str, on: datetime | None = None) -> Profile:
    """The profile `name`, one that is shipped or a path to a file, as in force at `on` (default: its newest version).

    Raises InputError for an unknown name, a bad file, and a time before the first version.
    """
    return in_force(load_versions(name), on)


def load_versions(name: str) -> tuple[Profile, ...]:
    """Every version of a shipped profile, or of a file, the oldest first."""
    if name in shipped_names():
        return parse_profile(name, _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    path = Path(name)
    if path.suffix != ".toml":
        known = ", ".join(shipped_names())
        raise InputError("unknown venue profile", where=name, mend=f"use one of {known}, or a path to a .toml file")
    try:
        return parse_profile(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        mend = "name a file that can be read"
        raise InputError(f"venue profile cannot be read ({error})", where=path, mend=mend) from None


def shipped_names() -> tuple[str, ...]:
    """Profiles that come with the package, by name; the template is none.

    >>> shipped_names()
    ('binance-usdm', 'derive', 'dydx', 'hyperliquid', 'synthetix', 'vega')
    """
    names = (item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))
    return tuple(sorted(name for name in names if name != TEMPLATE))


def template_text() -> str:
    """The documented template for one's own venue; a valid profile as it stands."""
    return _folder().joinpath(f"{TEMPLATE}.toml").read_text(encoding="utf-8")


def in_force(versions: tuple[Profile, ...], on: datetime | None = None) -> Profile:
    """The version in force at `on` (UTC), the newest without one. Raises InputError before the first."""
    valid = [version for version in versions if on is None or version.effective_from <= on]
    if not valid:
        first = versions[0]
        what = f"profile {first.name} begins {first.effective_from.isoformat()}"
        raise InputError(what, where=on, mend="ask for a later day, or add an earlier version to a file of your own")
    return valid[-1]


def parse_profile(where: str, text: str) -> tuple[Profile, ...]:
    """The versions of one file, the oldest first. Raises InputError that lists every violation of the file at once."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"venue profile is not TOML ({error})", where=where) from None
    name, tables = content.get("name"), content.get("version")
    if not isinstance(name, str) or not name or not isinstance(tables, list) or not tables or len(content) > 2:
        raise InputError("a venue profile holds `name` and [[version]] tables, nothing else", where=where)
    parsed = [_version(name, nth, table) for nth, table in enumerate(tables, start=1)]
    faults = [fault for item in parsed if isinstance(item, list) for fault in item]
    profiles = [item for item in parsed if isinstance(item, Profile)]
    faults += _order_faults(profiles)
    if faults:
        raise InputError(f"{len(faults)} fault{'s' * (len(faults) > 1)}: {' | '.join(faults)}", where=where)
    return tuple(profiles)


def _folder() -> Traversable:
    return resources.files("pipelines").joinpath(FOLDER)


def _order_faults(profiles: list[Profile]) -> Iterator[str]:
    stamps = [profile.effective_from for profile in profiles]
    if stamps != sorted(set(stamps)):
        yield f"`effective_from` must rise from version to version, was {[stamp.isoformat() for stamp in stamps]}"


def _version(name: str, nth: int, table: object) -> Profile | list[str]:
    """One version as a profile, or everything that is wrong with it."""
    try:
        version = Version.model_validate(table)
    except ValidationError as error:
        return [f"version {nth}: {_said(item)}" for item in error.errors(include_url=False)]
    faults = [*_tier_faults(version), *_rule_faults(version), *_source_faults(table, version.sources)]
    return [f"version {nth}: {fault}" for fault in faults] or _profile(name, version)


def _said(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "version"
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a setting of a profile"
    return f"`{name}`: {error['msg']}" + ("" if error["type"] == "missing" else f", was {error['input']!r}")


def _bound_faults(name: str, bounds: list[float | None]) -> Iterator[str]:
    inner = [bound for bound in bounds[:-1] if bound is not None]
    if not bounds or len(inner) < len(bounds) - 1 or bounds[-1] is not None or inner != sorted(set(inner)):
        yield f"`{name}`: upper bounds must rise and only the last may, and must, be missing, was {bounds}"


def _tier_faults(version: Version) -> Iterator[str]:
    for symbol, lines in version.tiers.items():
        yield from _bound_faults(f"tiers.{symbol}", [line.notional_usd_max for line in lines])
        rates = [line.rate for line in lines]
        if rates != sorted(rates):
            yield f"`tiers.{symbol}`: `rate` must not fall from tier to tier, was {rates}"
    for asset, steps in version.haircuts.items():
        yield from _bound_faults(f"haircuts.{asset}", [step.usd_max for step in steps])


def _rule_faults(version: Version) -> Iterator[str]:
    """What the mark rule and the path need."""
    needed = {"median": "basis_window_s", "index_ema": "ema_s"}.get(version.mark.rule)
    if needed is not None and not getattr(version.mark, needed) > 0:
        yield f"`mark.{needed}` must be positive for the rule {version.mark.rule}"
    try:
        paths.params_of(_path(version))
    except ValueError as error:
        yield from (f"`path`: {fault}" for fault in str(error).split(" | "))
    restored = version.path.params.get("buffer") if version.path.kind == "auction" else None
    if restored is not None and restored != version.buffer:
        yield f"`buffer` must be what the auction restores, `path.params.buffer` {restored}, was {version.buffer}"


def constants(table: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted names of everything a version gives; a list (tiers, haircut steps) is one constant.

    >>> list(constants({"buffer": 0.02, "fees": {"taker": 0.0005}, "effective_from": 0, "sources": {}}))
    ['buffer', 'fees.taker']
    """
    for key, value in table.items():
        if above or key not in {*UNSOURCED, "sources"}:
            if isinstance(value, Mapping):
                yield from constants(value, f"{above}{key}.")
            else:
                yield f"{above}{key}"


def _source_faults(table: Any, sources: Mapping[str, str]) -> Iterator[str]:
    names = list(constants(table))
    for name in names:
        if not any(name == known or name.startswith(f"{known}.") for known in sources):
            yield f"`{name}` has no source: name a document in `sources`, or `assumed: why`"
    for known, text in sources.items():
        if not any(name == known or name.startswith(f"{known}.") for name in names):
            yield f"`sources`: {known!r} is no constant of this version"
        if len(text.removeprefix(ASSUMED).strip()) < REASON_LENGTH_MIN:
            yield f"`sources.{known}` must name a document, or `assumed:` with a reason, was {text!r}"


def _path(version: Version) -> ClosePath:
    return ClosePath(version.path.kind, version.path.step_s, version.path.params)


def _lines(lines: tuple[TierLine, ...]) -> tuple[Tier, ...]:
    rates = [line.rate for line in lines]
    deductions = deductions_usd([line.notional_usd_max or 0.0 for line in lines], rates)
    return tuple(Tier(rate, deduction) for rate, deduction in zip(rates, deductions, strict=True))


def _profile(name: str, version: Version) -> Profile:
    fees, infinite = version.fees, float("inf")
    most = infinite if fees.liquidation_usd_max is None else fees.liquidation_usd_max
    steps = {
        asset: Haircut(tuple((infinite if step.usd_max is None else step.usd_max, step.haircut) for step in found))
        for asset, found in version.haircuts.items()
    }
    return Profile(
        name=name,
        effective_from=version.effective_from.astimezone(UTC),
        mark=MarkRule(**version.mark.model_dump()),
        path=_path(version),
        fees=Fees(fees.taker, fees.liquidation, most),
        tiers={symbol: _lines(lines) for symbol, lines in version.tiers.items()},
        latency=Latency(**version.latency.model_dump()),
        buffer=version.buffer,
        haircuts=steps,
        fund_usd=version.fund_usd,
        adl=version.adl,
        year_days=version.year_days,
        sources=version.sources,
    )
