"""The policy: every number a guardrail uses, in one TOML text, frozen, typed and validated whole."""

import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, TypeVar

from guardrails.ladder import ACTIONS, severity

T = TypeVar("T")

LOOKBACK_MIN = 420  # minutes of bars before `since` that a run needs to give the same rows as one long run
FILL_MIN = 60  # a gap in prices or ages is bridged for this long, never longer
BREAKERS = (
    "price_band",
    "price_band_hour",
    "price_halt",
    "mark_index_divergence",
    "depth_collapse",
    "stale_feed",
    "price_band_sigma",
    "liquidation_rate",
    "oi_drop",
    "book_fault",
    "loop_gain",
    "outage",
    "collateral_depeg",
    "fund_drawdown",
    "venue_wide",
    "open_interest_cap",
    "venue_cap",
)
TABLES = (  # what a venue may be declared not to publish
    "positions",
    "collateral",
    "fund",
    "liquidations",
    "open_interest",
    "mark",
    "index",
    "depth",
)
FALLING = ("depth_collapse",)  # these trip when the observed value falls to `enter`; the others when it rises to it


class PolicyError(ValueError):
    """The policy text breaks its rules; `violations` lists every breach.

    >>> PolicyError(["`version` must be at least 1, was 0", "`caps` is missing"]).violations[1]
    '`caps` is missing'
    """

    def __init__(self, violations: list[str]) -> None:
        self.violations = tuple(violations)
        super().__init__(f"{len(violations)} violation{'s' * (len(violations) != 1)}: " + " | ".join(violations))


def _number(low: float, high: float) -> Any:
    return field(metadata={"low": low, "high": high})


def _word(*allowed: str) -> Any:
    return field(metadata={"allowed": allowed})


def _numbers(low: float, high: float) -> Any:
    return field(metadata={"low": low, "high": high, "many": True})


def _names(among: tuple[str, ...] | None = None, *, least: int = 1) -> Any:
    return field(metadata={"names": True, "among": among, "least": least})


def _lists() -> Any:
    return field(metadata={"lists": True})


def _text() -> Any:
    return field(metadata={"text": True})


@dataclass(frozen=True, slots=True)
class Inputs:
    """How old an input may be, and over which windows the facts are taken."""

    price_age_s_max: float = _number(1, 86_400)
    mark_age_s_max: float = _number(1, 86_400)
    index_age_s_max: float = _number(1, 86_400)
    depth_age_s_max: float = _number(1, 86_400)
    depth_unchanged_s_max: float = _number(1, 86_400)
    oi_age_s_max: float = _number(1, 86_400)
    collateral_age_min_max: int = _number(1, 10_080)
    reference_fast_min: int = _number(1, 60)
    reference_slow_min: int = _number(2, 120)
    volatility_min: int = _number(10, 120)
    depth_normal_min: int = _number(10, 360)
    samples_share_min: float = _number(0.1, 1)
    sigma_horizon_min: int = _number(1, 60)
    sigma_floor_1h: float = _number(1e-5, 1)
    band_probability: float = _number(0.9, 0.999999999)
    liquidation_window_min: int = _number(1, 60)
    oi_window_min: int = _number(2, 120)
    book_window_min: int = _number(1, 60)
    positions_age_min_max: int = _number(1, LOOKBACK_MIN)
    pegs_age_min_max: int = _number(1, LOOKBACK_MIN)
    fund_age_min_max: int = _number(1, 10_080)
    venue_symbols_min: int = _number(1, 1_000)
    not_published: tuple[str, ...] = _names(TABLES, least=0)


@dataclass(frozen=True, slots=True)
class Breaker:
    """One circuit breaker. `enter` and `exit` are in the rule's own unit (see the README)."""

    enter: float = _number(1e-6, 1e6)
    exit: float = _number(1e-6, 1e6)
    cool_down_min: int = _number(1, 1_440)
    probation_min: int = _number(1, 1_440)
    action: str = _word(*ACTIONS[1:])
    probation_action: str = _word(*ACTIONS[1:])
    missing_action: str = _word(*ACTIONS[1:])
    missing_hold_min: int = _number(1, 1_440)
    reset: str = _word("timer", "person")


@dataclass(frozen=True, slots=True)
class Associated:
    """Which symbols follow a lead: while its own breakers say reduce_only or stricter, they get at least `action`."""

    action: str = _word(*ACTIONS[1:])
    missing_action: str = _word(*ACTIONS[1:])
    leads: Mapping[str, tuple[str, ...]] = _lists()


@dataclass(frozen=True, slots=True)
class Caps:
    """Leverage and exposure caps."""

    leverage_steps: tuple[float, ...] = _numbers(1, 200)
    leverage_floor: float = _number(1, 200)
    leverage_untiered_max: float = _number(1, 200)
    sigmas_covered: float = _number(1, 20)
    depth_ratio_full: float = _number(0.01, 1)
    oi_per_depth_lower: float = _number(0.1, 1e6)
    oi_per_depth_upper: float = _number(0.1, 1e6)
    exposure_ceiling_usd: int = _number(1, 10**12)
    exposure_floor_usd: int = _number(1, 10**12)
    exposure_depth_share: float = _number(0.001, 10)
    exposure_oi_share: float = _number(0.0001, 1)
    account_ceiling_usd: int = _number(1, 10**12)
    cluster_ceiling_usd: int = _number(1, 10**12)
    cluster_symbol_caps: float = _number(1, 100)
    collateral_share_account_max: float = _number(0, 1)
    collateral_share_venue_max: float = _number(0, 1)
    concentration_share_max: float = _number(0.001, 1)
    accounts_effective_min: float = _number(1, 1_000)
    loosen_hold_min: int = _number(1, 240)
    assets_at_par: tuple[str, ...] = _names()
    haircut_other: float = _number(0, 1)


@dataclass(frozen=True, slots=True)
class Margin:
    """What is added to initial margin while a peg or an oracle is in doubt, and what a symbol without tiers needs."""

    peg_floor: float = _number(0.5, 1)
    peg_slope: float = _number(0, 20)
    peg_add_on_max: float = _number(0, 1)
    oracle_free: float = _number(0, 1)
    oracle_slope: float = _number(0, 20)
    oracle_add_on_max: float = _number(0, 1)
    maintenance_untiered: float = _number(0.001, 0.99)


@dataclass(frozen=True, slots=True)
class Throttle:
    """How much forced flow the book of a symbol may be given."""

    depth_share_per_min: float = _number(0.001, 1)
    window_min: int = _number(1, 60)
    min_usd: int = _number(1, 10**12)


@dataclass(frozen=True, slots=True)
class Fund:
    """The insurance fund: the account that holds it, and the window of its highest balance."""

    account: str = _text()
    window_min: int = _number(1, 10_080)


@dataclass(frozen=True, slots=True)
class ProposalBounds:
    """How far and for how long a model's wish may tighten a hard limit."""

    relative_change_max: float = _number(0, 0.99)
    leverage_change_max: float = _number(0, 200)
    exposure_change_usd_max: int = _number(0, 10**12)
    leverage_min: float = _number(0.1, 200)
    exposure_usd_min: int = _number(1, 10**12)
    loosen_delay_min: int = _number(0, 1_440)
    ttl_min: int = _number(1, 1_440)


@dataclass(frozen=True, slots=True)
class Validity:
    """From which number on a price counts as too volatile, and a mark as too uncertain."""

    volatility_1h_max: float = _number(0.001, 10)
    divergence_max: float = _number(0.001, 1)


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole policy. `sha256` is of its content: comments, spacing and the order of keys do not change it.

    `effective_from` is the first minute that it judges: bars stamped then or later, until a newer policy takes over.
    """

    version: int
    effective_from: datetime
    ttl_min: int
    inputs: Inputs
    breakers: Mapping[str, Breaker]
    associated: Associated
    caps: Caps
    margin: Margin
    throttle: Throttle
    fund: Fund
    clusters: Mapping[str, tuple[str, ...]]
    proposal: ProposalBounds
    validity: Validity
    sha256: str


def _number_fault(value: Any, whole: bool, low: float, high: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"must be a finite number, was {value!r}"
    if whole and not isinstance(value, int):
        return f"must be a whole number, was {value!r}"
    return None if low <= value <= high else f"must be from {low:g} to {high:g}, was {value!r}"


def _date_fault(value: Any) -> str | None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return f"must be a time with a zone, such as 2026-01-05T00:00:00Z, was {value}"
    if not 2000 <= value.year <= 2999:
        return f"must lie between the years 2000 and 2999, was {value}"
    return f"must be a full minute, was {value}" if value.second or value.microsecond else None


def _list_fault(values: Any, spec: Mapping[str, Any]) -> str | None:
    least, among = spec.get("least", 1), spec.get("among")
    if not isinstance(values, list) or len(values) < least:
        return f"must be a list{' with at least one entry' if least else ''}, was {values!r}"
    if among is not None:
        bad = [value for value in values if value not in among]
    elif "names" in spec:
        bad = [value for value in values if not isinstance(value, str) or not value]
    else:
        bad = [value for value in values if _number_fault(value, False, spec["low"], spec["high"]) is not None]
    return f"has a bad entry: {bad[0]!r}" if bad else None


def _leads_fault(leads: Any) -> str | None:
    """Why `leads` is not a table of lists; a lead cannot follow itself."""
    if not isinstance(leads, dict):
        return f"must be a table, was {leads!r}"
    for lead, followers in leads.items():
        fault = _list_fault(followers, {"names": True})
        if fault is not None:
            return f"of {lead} {fault}"
        if lead in followers or len(set(followers)) < len(followers):
            return f"of {lead} must be other symbols, each once, was {followers!r}"
    return None


def _value_fault(value: Any, spec: Field[Any]) -> str | None:
    rule = spec.metadata
    if "lists" in rule:
        return _leads_fault(value)
    if "names" in rule or "many" in rule:
        return _list_fault(value, rule)
    if "text" in rule:
        return None if isinstance(value, str) and value.strip() else f"must be a name, was {value!r}"
    if "allowed" in rule:
        return None if value in rule["allowed"] else f"must be one of {', '.join(rule['allowed'])}, was {value!r}"
    return _number_fault(value, spec.type is int, rule["low"], rule["high"])


def _section(kind: type[T], where: str, given: Any, violations: list[str]) -> T | None:
    if not isinstance(given, dict):
        violations.append(f"`{where}` is missing" if given is None else f"`{where}` must be a table, was {given!r}")
        return None
    specs = {spec.name: spec for spec in fields(kind)}  # type: ignore[arg-type]  # every section is a dataclass
    before = len(violations)
    violations += [f"`{where}.{name}` is not a setting" for name in sorted(given.keys() - specs.keys())]
    violations += [f"`{where}.{name}` is missing" for name in specs if name not in given]
    for name in (name for name in specs if name in given):
        fault = _value_fault(given[name], specs[name])
        if fault is not None:
            violations.append(f"`{where}.{name}` {fault}")
    if len(violations) > before:
        return None
    return kind(**{name: _typed(specs[name], value) for name, value in given.items()})


def _typed(spec: Field[Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: tuple(entries) for name, entries in value.items()}
    if isinstance(value, list):
        return tuple(value)
    return float(value) if spec.type is float else value


def _breaker_faults(name: str, rule: Breaker) -> list[str]:
    falling = name in FALLING
    inside = rule.exit > rule.enter if falling else rule.exit < rule.enter
    where = f"`breakers.{name}"
    return [
        fault
        for broken, fault in (
            (
                not inside,
                f"{where}.exit` must be {'above' if falling else 'below'} enter={rule.enter}, was {rule.exit}",
            ),
            (
                severity(rule.probation_action) > severity(rule.action),
                f"{where}.probation_action` must not be stricter than action={rule.action}, "
                f"was {rule.probation_action}",
            ),
            (
                rule.action == "halted" and rule.reset != "person",
                f"{where}.reset` must be person where the action is halted, was {rule.reset}",
            ),
        )
        if broken
    ]


def _caps_faults(caps: Caps) -> list[str]:
    steps = caps.leverage_steps
    return [
        fault
        for broken, fault in (
            (list(steps) != sorted(set(steps), reverse=True), "`caps.leverage_steps` must fall strictly"),
            (steps[-1] != 1, f"`caps.leverage_steps` must end at 1, ended at {steps[-1]:g}"),
            (caps.leverage_floor not in steps, f"`caps.leverage_floor` must be a step, was {caps.leverage_floor:g}"),
            (
                not caps.oi_per_depth_lower < caps.oi_per_depth_upper,
                f"`caps.oi_per_depth_upper` must exceed oi_per_depth_lower={caps.oi_per_depth_lower:g}, "
                f"was {caps.oi_per_depth_upper:g}",
            ),
            (
                not caps.exposure_floor_usd <= caps.exposure_ceiling_usd <= caps.account_ceiling_usd,
                "`caps` must hold exposure_floor_usd <= exposure_ceiling_usd <= account_ceiling_usd",
            ),
            (
                not caps.exposure_ceiling_usd <= caps.cluster_ceiling_usd,
                f"`caps.cluster_ceiling_usd` must not be below exposure_ceiling_usd={caps.exposure_ceiling_usd}, "
                f"was {caps.cluster_ceiling_usd}",
            ),
        )
        if broken
    ]


def _clusters(given: Any, violations: list[str]) -> dict[str, tuple[str, ...]]:
    """The clusters by name; a symbol is in at most one, and a cluster holds at least two."""
    if not isinstance(given, dict):
        violations.append("`clusters` is missing" if given is None else f"`clusters` must be a table, was {given!r}")
        return {}
    faults = {name: _list_fault(symbols, {"names": True}) for name, symbols in given.items()}
    violations += [f"`clusters.{name}` {fault}" for name, fault in faults.items() if fault is not None]
    clusters = {name: tuple(given[name]) for name, fault in faults.items() if fault is None}
    violations += [f"`clusters.{name}` must hold two symbols" for name, members in clusters.items() if len(members) < 2]
    counted = Counter(symbol for members in clusters.values() for symbol in members)
    violations += [f"`clusters` must hold {symbol} once, held it {n} times" for symbol, n in counted.items() if n > 1]
    return clusters


def _window_faults(inputs: Inputs, caps: Caps) -> list[str]:
    longest = max(
        inputs.reference_slow_min,
        inputs.volatility_min + inputs.sigma_horizon_min,
        inputs.depth_normal_min,
        inputs.oi_window_min,
    )
    needed = longest + FILL_MIN + caps.loosen_hold_min + 1
    faults = [] if needed <= LOOKBACK_MIN else [f"`inputs` windows with `caps.loosen_hold_min` need {needed} minutes "
                                                f"of bars, at most {LOOKBACK_MIN} are kept"]  # fmt: skip
    if inputs.reference_fast_min >= inputs.reference_slow_min:
        faults.append(
            f"`inputs.reference_slow_min` must exceed reference_fast_min={inputs.reference_fast_min}, "
            f"was {inputs.reference_slow_min}"
        )
    return faults


def _quantile_faults(inputs: Inputs, breakers: Mapping[str, Breaker]) -> list[str]:
    """The sigma band must open where a normal says so: two-sided, to two decimals.

    >>> round(NormalDist().inv_cdf((1 + 0.9999999) / 2), 2)
    5.33
    """
    quantile = round(NormalDist().inv_cdf((1 + inputs.band_probability) / 2), 2)
    enter = breakers["price_band_sigma"].enter if "price_band_sigma" in breakers else quantile
    return [] if enter == quantile else [
        f"`breakers.price_band_sigma.enter` must be the normal's quantile {quantile} at "
        f"band_probability={inputs.band_probability}, was {enter}"
    ]  # fmt: skip


def _breakers(given: Any, violations: list[str]) -> dict[str, Breaker]:
    table = given if isinstance(given, dict) else {}
    violations += [f"`breakers.{name}` is not a rule" for name in sorted(table.keys() - set(BREAKERS))]
    parsed = {name: _section(Breaker, f"breakers.{name}", table.get(name), violations) for name in BREAKERS}
    return {name: rule for name, rule in parsed.items() if rule is not None}


def _content_sha256(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_policy(text: str) -> Policy:
    """The policy written in `text` (TOML).

    Raises PolicyError that lists every violation at once: unknown and missing settings, values of the wrong type or
    out of range, an exit threshold that is not inside its enter threshold, a halt that a timer could lift.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([f"the policy is not TOML: {error}"]) from None
    sections = (
        "version", "effective_from", "ttl_min", "inputs", "breakers", "associated", "caps", "margin", "throttle",
        "fund", "clusters", "proposal", "validity",
    )  # fmt: skip
    violations = [f"`{name}` is not a setting" for name in sorted(given.keys() - set(sections))]
    for name, high in (("version", 10**9), ("ttl_min", 1_440)):
        fault = _number_fault(given.get(name), True, 1, high)
        if fault is not None:
            violations.append(f"`{name}` {fault}")
    fault = _date_fault(given.get("effective_from"))
    violations += [] if fault is None else [f"`effective_from` {fault}"]
    inputs = _section(Inputs, "inputs", given.get("inputs"), violations)
    breakers = _breakers(given.get("breakers"), violations)
    associated = _section(Associated, "associated", given.get("associated"), violations)
    caps = _section(Caps, "caps", given.get("caps"), violations)
    margin = _section(Margin, "margin", given.get("margin"), violations)
    throttle = _section(Throttle, "throttle", given.get("throttle"), violations)
    fund = _section(Fund, "fund", given.get("fund"), violations)
    clusters = _clusters(given.get("clusters"), violations)
    proposal = _section(ProposalBounds, "proposal", given.get("proposal"), violations)
    validity = _section(Validity, "validity", given.get("validity"), violations)
    violations += [fault for name, rule in breakers.items() for fault in _breaker_faults(name, rule)]
    violations += _caps_faults(caps) if caps is not None else []
    violations += _window_faults(inputs, caps) if inputs is not None and caps is not None else []
    violations += _quantile_faults(inputs, breakers) if inputs is not None else []
    if (
        violations
        or inputs is None
        or associated is None
        or caps is None
        or proposal is None
        or margin is None
        or throttle is None
        or fund is None
        or validity is None
    ):
        raise PolicyError(violations)
    since = given["effective_from"].astimezone(UTC)
    content = {
        "version": given["version"],
        "effective_from": since.isoformat(),
        "ttl_min": given["ttl_min"],
        "inputs": asdict(inputs),
        "breakers": {name: asdict(rule) for name, rule in breakers.items()},
        "associated": asdict(associated),
        "caps": asdict(caps),
        "margin": asdict(margin),
        "throttle": asdict(throttle),
        "fund": asdict(fund),
        "clusters": clusters,
        "proposal": asdict(proposal),
        "validity": asdict(validity),
    }
    return Policy(
        version=given["version"], effective_from=since, ttl_min=given["ttl_min"], inputs=inputs, breakers=breakers,
        associated=associated, caps=caps, margin=margin, throttle=throttle, fund=fund, clusters=clusters,
        proposal=proposal, validity=validity, sha256=_content_sha256(content),
    )  # fmt: skip
