"""Two policies side by side, in words: every setting that differs, and whether that is tighter or looser.

Tighter means that less is allowed, or the same is allowed later, on the same facts. Where that depends on the market,
or on what a model asks for, a change is said to be a change and no more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from guardrails.breakers import RULES
from guardrails.ladder import ACTIONS
from guardrails.policy import FALLING, Policy

TIGHTER, LOOSER, CHANGES = "tighter", "looser", "changes"
LOWER, HIGHER, FEWER, MORE, UNCLEAR = "lower", "higher", "fewer", "more", "unclear"  # which way is tighter
ORDERS = {"action": ACTIONS, "reset": ("timer", "person")}  # words from the mildest to the strictest
IDENTITY = ("version", "effective_from", "sha256")  # what a policy is called, not what it demands
UNITS = {"share": " %", "s": " s", "min": " min", "x": "x", "USD": " USD", "": ""}
RULE_UNITS = {card.name: card.unit for card in RULES}
OF_THE_RULE = "rule"  # the unit is that of what the rule observes


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a setting means: `says` in words, its unit, which way is tighter, and what a change that way does.

    `says` has places `{rule}`, `{old}`, `{new}`; for a list `{name}`, and `{moved}` for what it has lost and won.
    """

    says: str
    unit: str
    tighter: str
    if_tighter: str = ""
    if_looser: str = ""
    order: tuple[str, ...] = ()


def _age(what: str) -> Meaning:
    says = what + " counts until it is {new} old instead of {old}"
    return Meaning(says, "s", LOWER, "it is missing sooner", "it is missing later")


def _window(what: str, unit: str = "min") -> Meaning:
    return Meaning(what + " instead of {old}", unit, UNCLEAR)


def _word(says: str, order: tuple[str, ...], if_tighter: str, if_looser: str) -> Meaning:
    return Meaning(says, "", HIGHER, if_tighter, if_looser, order)


def _size(what: str, unit: str, tighter: str, if_tighter: str = "less fits", if_looser: str = "more fits") -> Meaning:
    return Meaning(what + " instead of {old}", unit, tighter, if_tighter, if_looser)


MEANINGS: Mapping[str, Meaning] = {
    "ttl_min": _size("a decision may be relied on for {new}", "min", LOWER,
                     "a guard that stopped is noticed sooner", "a guard that stopped is noticed later"),
    "inputs.price_age_s_max": _age("a last trade"),
    "inputs.mark_age_s_max": _age("a mark"),
    "inputs.index_age_s_max": _age("an index"),
    "inputs.depth_age_s_max": _age("a depth snapshot"),
    "inputs.depth_unchanged_s_max": Meaning("a book that stands still counts as frozen after {new} instead of {old}",
                                            "s", LOWER, "depth is missing sooner", "depth is missing later"),
    "inputs.oi_age_s_max": _age("an open interest"),
    "inputs.collateral_age_min_max": Meaning("collateral counts until it is {new} old instead of {old}", "min", LOWER,
                                             "it is missing sooner", "it is missing later"),
    "inputs.reference_fast_min": _window("the fast band looks back {new}"),
    "inputs.reference_slow_min": _window("the slow bands look back {new}"),
    "inputs.volatility_min": _window("volatility is taken over {new}"),
    "inputs.depth_normal_min": _window("normal depth is the median of {new}"),
    "inputs.samples_share_min": _size("a window counts when {new} of it hold a value", "share", HIGHER,
                                      "facts are missing more often", "facts are missing less often"),
    "breakers.*.enter": Meaning("{rule} opens at {new} instead of {old}", OF_THE_RULE, LOWER,
                                "it trips earlier", "it trips later"),
    "breakers.*.exit": Meaning("{rule} is clean at {new} instead of {old}", OF_THE_RULE, LOWER,
                               "it clears later", "it clears earlier"),
    "breakers.*.cool_down_min": Meaning("{rule} cools down for {new} instead of {old}", "min", HIGHER,
                                        "it stays open longer", "it is half open sooner"),
    "breakers.*.probation_min": Meaning("{rule} is on probation for {new} instead of {old}", "min", HIGHER,
                                        "it closes later", "it closes sooner"),
    "breakers.*.action": _word("{rule} demands {new} instead of {old} while it is open", ACTIONS,
                               "less is allowed", "more is allowed"),
    "breakers.*.probation_action": _word("{rule} demands {new} instead of {old} on probation", ACTIONS,
                                         "less is allowed", "more is allowed"),
    "breakers.*.missing_action": _word("{rule} demands {new} instead of {old} while an input is missing", ACTIONS,
                                       "less is allowed", "more is allowed"),
    "breakers.*.missing_hold_min": Meaning(
        "{rule} holds a missing input against the symbol for {new} instead of {old} after it is back", "min", HIGHER,
        "it is lifted later", "it is lifted sooner"),
    "breakers.*.reset": _word("{rule} is reset by a {new} instead of a {old}", ORDERS["reset"],
                              "somebody has to sign", "nobody has to sign"),
    "caps.leverage_steps": Meaning("steps of the leverage cap: {moved}", "x", FEWER,
                                   "a cap falls further to its step", "a cap falls less far to its step"),
    "caps.leverage_floor": _size("new positions get at most {new} under any action and with an input missing", "x",
                                 LOWER, "less leverage", "more leverage"),
    "caps.leverage_untiered_max": _size("a symbol without tiers gets at most {new}", "x", LOWER,
                                        "less leverage", "more leverage"),
    "caps.sigmas_covered": _size("margin covers {new} standard deviations of an hour", "", HIGHER,
                                 "less leverage at the same volatility", "more leverage at the same volatility"),
    "caps.depth_ratio_full": _size("leverage falls with depth below {new} of its median", "share", HIGHER,
                                   "it falls earlier", "it falls later"),
    "caps.oi_per_depth_lower": _size("margin rises from an open interest of {new} the depth on", "x", LOWER,
                                     "it rises earlier", "it rises later"),
    "caps.oi_per_depth_upper": _size("margin is 100 % at an open interest of {new} the depth", "x", LOWER,
                                     "it rises faster", "it rises slower"),
    "caps.exposure_ceiling_usd": _size("an account may hold at most {new} of a symbol", "USD", LOWER),
    "caps.exposure_floor_usd": _size("an account may hold {new} of a symbol with an input missing", "USD", LOWER),
    "caps.exposure_depth_share": _size("an account may hold {new} of the thinner side of the book", "share", LOWER),
    "caps.exposure_oi_share": _size("an account may hold {new} of the open interest", "share", LOWER),
    "caps.account_ceiling_usd": _size("an account may hold at most {new} over all symbols", "USD", LOWER),
    "caps.loosen_hold_min": _size("a looser cap is given after {new}", "min", HIGHER,
                                  "caps rise later", "caps rise sooner"),
    "caps.assets_at_par": Meaning("collateral at one dollar a unit: {moved}", "", FEWER,
                                  "what is gone loses a haircut", "what is new loses no haircut"),
    "caps.haircut_other": _size("other collateral loses {new} of its value", "share", HIGHER,
                                "it carries less", "it carries more"),
    "proposal.relative_change_max": _window("a model may take up to {new} off a cap", "share"),
    "proposal.leverage_min": _window("a model may not ask for less than {new}", "x"),
    "proposal.ttl_min": _window("a model's wish lives {new}"),
    "inputs.sigma_horizon_min": _window("the sigma band judges a move of {new}"),
    "inputs.sigma_floor_1h": _size("the sigma band counts a volatility of an hour of at least {new}", "share", LOWER,
                                   "it is narrower in calm", "it is wider in calm"),
    "inputs.band_probability": _window("the sigma band holds a normal move with probability {new}", ""),
    "inputs.liquidation_window_min": _window("liquidations are added up over {new}"),
    "inputs.oi_window_min": _window("open interest is held against its maximum of {new}"),
    "inputs.book_window_min": _window("faults of the book are counted over {new}"),
    "inputs.positions_age_min_max": Meaning("positions count until they are {new} old instead of {old}", "min", LOWER,
                                            "they are missing sooner", "they are missing later"),
    "inputs.pegs_age_min_max": Meaning("a price of collateral counts until it is {new} old instead of {old}", "min",
                                       LOWER, "it is missing sooner", "it is missing later"),
    "inputs.fund_age_min_max": Meaning("the insurance fund counts until it is {new} old instead of {old}", "min",
                                       LOWER, "it is missing sooner", "it is missing later"),
    "inputs.venue_symbols_min": _size("a venue counts as one of at least {new} symbols", "", LOWER,
                                      "fewer trips halt the venue", "more trips are needed to halt the venue"),
    "inputs.not_published": Meaning("tables the venue does not publish: {moved}", "", FEWER,
                                    "breakers that need them are on", "breakers that need them are off"),
    "associated.action": _word("a follower gets {new} instead of {old} while its lead is paused", ACTIONS,
                               "less is allowed", "more is allowed"),
    "associated.missing_action": _word("a follower gets {new} instead of {old} while its lead is not known", ACTIONS,
                                       "less is allowed", "more is allowed"),
    "associated.leads.*": Meaning("followers of {name}: {moved}", "", MORE,
                                  "they are paused with it", "they are no longer paused with it"),
    "caps.cluster_ceiling_usd": _size("an account may hold at most {new} of a cluster", "USD", LOWER),
    "caps.cluster_symbol_caps": _size("an account may hold {new} the largest exposure cap of a cluster", "x", LOWER),
    "caps.collateral_share_account_max": _size("an account may have {new} of its collateral in one asset", "share",
                                               LOWER),
    "caps.collateral_share_venue_max": _size("all accounts may have {new} of their collateral in one asset", "share",
                                             LOWER),
    "caps.concentration_share_max": _size("one account may hold {new} of a symbol's open interest", "share", LOWER),
    "caps.accounts_effective_min": _size("a symbol counts as concentrated below {new} equal accounts", "", HIGHER,
                                         "more symbols do", "fewer symbols do"),
    "margin.peg_floor": _size("margin rises with a stablecoin below {new}", "USD", HIGHER,
                              "it rises earlier", "it rises later"),
    "margin.peg_slope": _size("margin rises {new} a lost peg", "x", HIGHER, "it rises faster", "it rises slower"),
    "margin.peg_add_on_max": _size("a lost peg adds at most {new} of notional", "share", HIGHER,
                                   "more margin", "less margin"),
    "margin.oracle_free": _size("a divergence of {new} costs no margin", "share", LOWER,
                                "margin rises earlier", "margin rises later"),
    "margin.oracle_slope": _size("margin rises {new} a divergence", "x", HIGHER, "it rises faster", "it rises slower"),
    "margin.oracle_add_on_max": _size("a doubtful oracle adds at most {new} of notional", "share", HIGHER,
                                      "more margin", "less margin"),
    "margin.maintenance_untiered": _size("a symbol without tiers needs {new} of notional", "share", HIGHER,
                                         "more margin", "less margin"),
    "throttle.depth_share_per_min": _window("forced flow may take {new} of the thinner side a minute", "share"),
    "throttle.window_min": _window("forced flow counts for {new}"),
    "throttle.min_usd": _window("forced flow of {new} goes through in any case", "USD"),
    "fund.account": _window("the insurance fund is the account {new}", ""),
    "fund.window_min": _window("the insurance fund is held against its highest of {new}"),
    "clusters.*": Meaning("cluster {name}: {moved}", "", MORE, "more counts together", "less counts together"),
    "proposal.leverage_change_max": _window("a model may take up to {new} off a leverage cap", "x"),
    "proposal.exposure_change_usd_max": _window("a model may take up to {new} off an exposure cap", "USD"),
    "proposal.exposure_usd_min": _window("a model may not ask for an exposure cap below {new}", "USD"),
    "proposal.loosen_delay_min": _window("a model's tighter wish holds {new} after a newer one"),
    "validity.volatility_1h_max": _size("a price is too volatile from {new} an hour on", "share", LOWER,
                                        "more is blocked", "less is blocked"),
    "validity.divergence_max": _size("a mark is too uncertain from {new} off the index on", "share", LOWER,
                                     "more is blocked", "less is blocked"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs; `before` or `after` is None where only the other policy has it."""

    setting: str
    before: Any
    after: Any
    direction: str
    words: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What `b` changes of `a`; `notes` say what is wrong with the way from one to the other."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def count(self, direction: str) -> int:
        return sum(change.direction == direction for change in self.changes)


def settings(policy: Policy) -> dict[str, Any]:
    """Every setting by its dotted name, without version, date and hash."""
    return {name: value for name, value in _leaves("", policy) if name not in IDENTITY}


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """
    >>> dict(_leaves("", {"a": {"b": 1}, "c": (2, 3)}))
    {'a.b': 1, 'c': (2, 3)}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {spec.name: getattr(value, spec.name) for spec in fields(value)}
    if not isinstance(value, Mapping):
        yield where, value
        return
    for name, part in value.items():
        yield from _leaves(f"{where}.{name}" if where else name, part)


def meaning_of(setting: str) -> Meaning | None:
    """The entry of `MEANINGS` for a dotted name; what stands under names of its own shares that of `*`.

    >>> meaning_of("breakers.price_band.enter").unit, meaning_of("moon.phase")
    ('rule', None)
    """
    section, _, rest = setting.partition(".")
    shared = (setting, f"{setting.rpartition('.')[0]}.*", f"{section}.*.{rest.rpartition('.')[2]}")
    return next((MEANINGS[name] for name in shared if name in MEANINGS), None)


def _rule(setting: str) -> str:
    parts = setting.split(".")
    return parts[1] if len(parts) == 3 else ""


def shown(value: Any, unit: str) -> str:
    """A value with its unit, every digit of it.

    >>> shown(0.0475, "share"), shown(300, "s"), shown(25_000_000, "USD"), shown((20.0, 1.0), "x"), shown("halted", "")
    ('4.75 %', '300 s', '25,000,000 USD', '20x, 1x', 'halted')
    """
    if isinstance(value, tuple | list):
        return ", ".join(shown(item, unit) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value * (100 if unit == 'share' else 1):,.12g}{UNITS.get(unit, f' {unit}')}"


def _rank(value: Any, meaning: Meaning) -> float:
    return float(meaning.order.index(value)) if meaning.order else float(value)


def _direction(setting: str, meaning: Meaning | None, before: Any, after: Any) -> str:
    if meaning is None or meaning.tighter == UNCLEAR:
        return CHANGES
    if meaning.tighter in (FEWER, MORE):
        fewer, more = (TIGHTER, LOOSER) if meaning.tighter == FEWER else (LOOSER, TIGHTER)
        old, new = set(before), set(after)
        return fewer if new < old else more if new > old else CHANGES
    rises = _rank(after, meaning) > _rank(before, meaning)
    tighter_up = meaning.tighter == HIGHER
    if meaning.unit == OF_THE_RULE and _rule(setting) in FALLING:
        tighter_up = not tighter_up
    return TIGHTER if rises == tighter_up else LOOSER


def moved(before: Any, after: Any, unit: str) -> str:
    """
    >>> moved(("USD", "DAI"), ("USD", "USDE"), ""), moved((2, 1), (1, 2), "x")
    ('without DAI, with USDE', 'in another order')
    """
    if not isinstance(before, tuple | list) or not isinstance(after, tuple | list):
        return ""
    gone, come = [[item for item in one if item not in other] for one, other in ((before, after), (after, before))]
    said = [f"{word} {shown(items, unit)}" for word, items in (("without", gone), ("with", come)) if items]
    return ", ".join(said) if said else "in another order"


def _words(setting: str, meaning: Meaning | None, before: Any, after: Any, direction: str) -> str:
    if meaning is None:
        return f"{setting} is {shown(after, '')} instead of {shown(before, '')}: {direction}"
    unit = RULE_UNITS.get(_rule(setting), "") if meaning.unit == OF_THE_RULE else meaning.unit
    said = meaning.says.format(
        rule=_rule(setting), name=setting.rpartition(".")[2], moved=moved(before, after, unit),
        old=shown(before, unit), new=shown(after, unit),
    )  # fmt: skip
    effect = {TIGHTER: meaning.if_tighter, LOOSER: meaning.if_looser}.get(direction, "")
    return f"{said}: {direction}, {effect}" if effect else f"{said}: {direction}"


def _change(setting: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    meaning = meaning_of(setting)
    if meaning is not None and meaning.tighter in (FEWER, MORE):
        before, after = old.get(setting, ()), new.get(setting, ())  # a list that is not there holds nothing
    elif setting not in new:
        return Change(setting, old[setting], None, CHANGES, f"{setting} is gone, it was {shown(old[setting], '')}")
    elif setting not in old:
        return Change(setting, None, new[setting], CHANGES, f"{setting} is new: {shown(new[setting], '')}")
    else:
        before, after = old[setting], new[setting]
    direction = _direction(setting, meaning, before, after)
    return Change(setting, before, after, direction, _words(setting, meaning, before, after, direction))


def _rules(policy: Policy) -> set[str]:
    """The tables of settings that a policy may have more or fewer of: `breakers.price_band`."""
    tables = [(spec.name, getattr(policy, spec.name)) for spec in fields(policy)]
    return {
        f"{where}.{name}"
        for where, table in tables
        if isinstance(table, Mapping)
        for name, part in table.items()
        if is_dataclass(part)
    }


def _whole_rules(a: Policy, b: Policy) -> dict[str, Change]:
    """Rules that only one of the two has: one change each, instead of one per number."""
    had, has = _rules(a), _rules(b)
    gone = {
        table: Change(
            table, "in force", None, LOOSER, f"{table.rpartition('.')[2]} is gone: looser, nobody watches for it"
        )
        for table in had - has
    }
    come = {
        table: Change(table, None, "in force", TIGHTER, f"{table.rpartition('.')[2]} is new: tighter, it can trip too")
        for table in has - had
    }
    return gone | come


def _identity(policy: Policy) -> dict[str, Any]:
    since = policy.effective_from.isoformat()
    return {"version": policy.version, "effective_from": since, "sha256": policy.sha256}


def _notes(a: Policy, b: Policy) -> Iterator[str]:
    if a.sha256 != b.sha256 and a.version == b.version:
        yield f"both are version {a.version}: raise it with every change"
    if a.version > b.version:
        yield f"the version falls from {a.version} to {b.version}"
    if a.version < b.version and not a.effective_from < b.effective_from:
        yield "version and date do not rise together: the newer version must be effective later"


def policy_diff(a: Policy, b: Policy) -> Difference:
    """Every setting in which `b` differs from `a`, in the order of the policy, with what it means."""
    old, new, whole = settings(a), settings(b), _whole_rules(a, b)
    names = [name for name in {**old, **new} if name.rpartition(".")[0] not in whole]
    changes = [_change(name, old, new) for name in names if name not in old or old[name] != new.get(name)]
    rules = [whole[table] for table in sorted(whole)]
    return Difference(_identity(a), _identity(b), (*rules, *changes), tuple(_notes(a, b)))
