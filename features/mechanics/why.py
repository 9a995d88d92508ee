"""Why two platforms liquidate the same position at different prices.

Parts of one venue's profile are replaced by the other's: tiers; mark rule and latency; path and buffer; fees. What a
replacement moves the exit price (`bands.exit_price`) depends on what was replaced before it (a fee takes no more than
the path leaves), so a part's share is its mean over all orders (Shapley); the shares sum to the difference. They are in
USD per base unit; positive is a better exit price for the position.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, permutations
from typing import NamedTuple

from features.mechanics.bands import Position, Scenario, exit_price
from features.mechanics.profile import MarkRule, Profile

PARTS = ("tiers", "mark", "path", "fees")
FIELDS = {"tiers": ("tiers",), "mark": ("mark", "latency"), "path": ("path", "buffer"), "fees": ("fees",)}


class Why(NamedTuple):
    """Why `profile` closes a position at another exit price than `against`: parts in USD per base unit, and in words.

    Positive is a better exit price. `usd` is the difference times the position's size.
    """

    profile: str
    against: str
    parts: Mapping[str, float] | None
    price: float | None
    usd: float | None
    sentence: str


def explain(position: Position, profile: Profile, against: Profile, scenario: Scenario) -> Why:
    """The difference of two venues' exit prices, part by part; parts are None where one of them never closes it."""
    last, first = (exit_price(position, one, scenario) for one in (profile, against))
    if last is None or first is None:
        never = [one.name for one, price in ((profile, last), (against, first)) if price is None]
        sentence = f"No move can make {' and '.join(never)} liquidate this position: nothing to compare."
        return Why(profile.name, against.name, None, None, None, sentence)
    prices = {
        chosen: exit_price(position, replaced(against, profile, chosen), scenario) or 0.0
        for size in range(len(PARTS) + 1)
        for chosen in combinations(PARTS, size)
    }
    parts = {part: position.side * share for part, share in shares(prices).items()}
    price = position.side * (last - first)
    sentence = _sentence(profile, against, (first, last), parts)
    return Why(profile.name, against.name, parts, price, price * abs(position.qty), sentence)


def replaced(first: Profile, other: Profile, parts: tuple[str, ...]) -> Profile:
    """`first` with `parts` (of PARTS) of `other`."""
    return replace(first, **{field: getattr(other, field) for part in parts for field in FIELDS[part]})


def shares(values: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """Shapley shares of PARTS; `values` holds every subset of them, in the order of PARTS.

    >>> subsets = [chosen for size in range(5) for chosen in combinations(PARTS, size)]
    >>> shares({chosen: float("tiers" in chosen and "fees" in chosen) for chosen in subsets})
    {'tiers': 0.5, 'mark': 0.0, 'path': 0.0, 'fees': 0.5}
    """
    orders = list(permutations(PARTS))
    total = dict.fromkeys(PARTS, 0.0)
    for order in orders:
        for place, part in enumerate(order):
            before = tuple(one for one in PARTS if one in order[:place])
            after = tuple(one for one in PARTS if one in order[: place + 1])
            total[part] += values[after] - values[before]
    return {part: value / len(orders) for part, value in total.items()}


def _sentence(profile: Profile, against: Profile, prices: tuple[float, float], parts: Mapping[str, float]) -> str:
    def said(part: str, one: str, other: str) -> str:
        return f"{part} ({one} against {other}) {parts[part]:+,.2f}" if one != other else f"{part} {parts[part]:+,.2f}"

    first, last = prices
    apart = f"{abs(last - first):,.2f} {'above' if last > first else 'below'}" if last != first else "level with"
    words = [
        f"tiers {parts['tiers']:+,.2f}",
        said("mark", _rule(profile.mark), _rule(against.mark)),
        said("path", profile.path.kind, against.path.kind),
        f"fees {parts['fees']:+,.2f}",
    ]
    return (
        f"{profile.name} closes at {last:,.2f}, {apart} {against.name} ({first:,.2f}); in USD per unit, plus is a "
        f"better exit price: {', '.join(words)}."
    )


def _rule(mark: MarkRule) -> str:
    constant_s = mark.basis_window_s or mark.ema_s
    return f"{mark.rule} {constant_s:g} s" if constant_s else mark.rule
