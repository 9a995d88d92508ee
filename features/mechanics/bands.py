"""Bands: the prices and times between maintenance pressure and the end of a forced reduction, by venue profile.

    pressure      equity = maintenance * (1 + buffer)      a liquidation that reaches here is let go
    liquidation   equity = maintenance, at the mark        forced reduction begins
    exit          what a closed unit really brings: the market when the mark gets there, less slippage, discount, fees
    bankruptcy    the position's share of the equity is gone

`why.py` says why two venues close the same position at different exit prices.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.mechanics.first_passage import first_passage_quantile_s
from features.mechanics.margin import Tier, trip_price
from features.mechanics.mark_lag import touch_s
from features.mechanics.paths.schedule import SHORT_OF, Step, completion_s, play
from features.mechanics.profile import Profile

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5}


@dataclass(frozen=True)
class Position:
    """One position. `margin_usd` is its isolated margin, or the equity of its cross account at the entry price.

    `other_maintenance_usd` is what the other legs of the account need; they stand still. Raises ValueError that lists
    every violation at once.
    """

    symbol: str
    qty: float  # base units, negative for a short
    entry_price: float
    margin_usd: float
    mark_price: float
    other_maintenance_usd: float = 0.0

    def __post_init__(self) -> None:
        named = {"entry_price": self.entry_price, "mark_price": self.mark_price, "margin_usd": self.margin_usd}
        bad = [
            f"`{name}` must be finite and positive, was {value}" for name, value in named.items() if not _some(value)
        ]
        if not _some(abs(self.qty)):
            bad.append(f"`qty` must be finite and not 0, was {self.qty}")
        if not 0 <= self.other_maintenance_usd < math.inf:
            bad.append(f"`other_maintenance_usd` must be finite and not negative, was {self.other_maintenance_usd}")
        if bad:
            raise ValueError(" | ".join(bad))

    @property
    def side(self) -> float:
        return math.copysign(1.0, self.qty)

    def equity_usd(self, price: float) -> float:
        return self.margin_usd + self.qty * (price - self.entry_price)


@dataclass(frozen=True)
class Scenario:
    """What the market does meanwhile. Raises ValueError that lists every violation at once.

    `sigma_year` sets the times of first passage. The fall (for a short: rise) that tells mark rules apart goes on at
    `fall_per_min`; `local_share` of it is seen in this venue's book alone, the rest in the index too. `depth_usd` is
    what the book takes per unit of relative price, flat and full again at each step of a path; infinite: no slippage.
    """

    sigma_year: float = 0.8
    fall_per_min: float = 0.01
    local_share: float = 0.2
    depth_usd: float = math.inf

    def __post_init__(self) -> None:
        named = {"sigma_year": self.sigma_year, "fall_per_min": self.fall_per_min}
        bad = [
            f"`{name}` must be finite and positive, was {value}" for name, value in named.items() if not _some(value)
        ]
        if not 0 <= self.local_share < 1:
            bad.append(f"`local_share` must be in [0, 1), was {self.local_share}")
        if not self.depth_usd > 0:
            bad.append(f"`depth_usd` must be positive, was {self.depth_usd}")
        if bad:
            raise ValueError(" | ".join(bad))


@dataclass(frozen=True)
class Band:
    """One position at one venue. Prices are None where no fall trips the position; times are seconds.

    `time_to_touch_s` and `time_to_bankruptcy_s` are quantiles of a first passage without drift. `completion_s`: from
    the touch until all is closed, if the position stays just short of maintenance. `relief_share` is what is closed,
    and `relief_s` how long it takes, at a price that stands still. `market_price` is what the venue's book pays when
    the mark gets to `liquidation_price`, `fall_s` how long the scenario's fall takes to get there.
    """

    profile: str
    effective_from: datetime
    mark_rule: str
    path: str
    breached: bool  # liquidatable at the present mark
    pressure_price: float | None
    liquidation_price: float | None
    market_price: float | None
    exit_price: float | None
    bankruptcy_price: float | None
    fall_s: float | None
    time_to_touch_s: Mapping[str, float] | None
    time_to_bankruptcy_s: Mapping[str, float] | None
    completion_s: float | None
    relief_s: float | None
    relief_share: float | None


def _some(value: float) -> bool:
    return 0 < value < math.inf


def band(position: Position, profile: Profile, scenario: Scenario) -> Band:
    """The band of `position` under one version of a venue's rules. Raises KeyError where it has no tiers for it."""
    liquidation = liquidation_price(position, profile)
    kinds = (profile.name, profile.effective_from, profile.mark.rule, profile.path.kind)
    if liquidation is None:
        return Band(*kinds, False, *[None] * 11)
    bankruptcy = bankruptcy_price(position, profile, liquidation)
    market, fall_s = market_price(position, profile, scenario, liquidation)
    relief = _steps(position, profile, liquidation, stays=False)
    whole = _steps(position, profile, liquidation, stays=True)
    delay_s = latency_s(profile)
    return Band(
        *kinds,
        breached=(position.mark_price - liquidation) * position.side < 0,
        pressure_price=liquidation_price(position, profile, 1 + profile.buffer),
        liquidation_price=liquidation,
        market_price=market,
        exit_price=exit_price(position, profile, scenario),
        bankruptcy_price=bankruptcy,
        fall_s=fall_s,
        time_to_touch_s=_quantiles(position, profile, scenario, liquidation),
        time_to_bankruptcy_s=_quantiles(position, profile, scenario, bankruptcy),
        completion_s=delay_s + completion_s(whole),
        relief_s=delay_s + completion_s(relief),
        relief_share=sum(step.closed_usd for step in relief) / abs(position.qty * liquidation),
    )


def liquidation_price(position: Position, profile: Profile, times: float = 1.0) -> float | None:
    """Mark at which equity equals `times` the maintenance margin; None for a long that no fall can trip.

    >>> from features.mechanics.profile import Fees, MarkRule, Path
    >>> tiers = {"BTC": (Tier(0.0125, 0.0),)}
    >>> venue = Profile("v", datetime(2024, 1, 1), MarkRule("last"), Path("market"), Fees(0.0, 0.0), tiers)
    >>> round(liquidation_price(Position("BTC", 1.0, 100_000.0, 5_000.0, 100_000.0), venue), 4)
    96202.5316
    """
    tiers = tuple(Tier(tier.rate * times, tier.deduction_usd * times) for tier in profile.tiers_of(position.symbol))
    mark = position.mark_price
    equity, other = position.equity_usd(mark), position.other_maintenance_usd * times
    price = trip_price(pl.lit(position.qty), pl.lit(mark), pl.lit(equity), pl.lit(other), tiers)
    found = float(pl.select(price).item())
    return found if found > 0 else None


def bankruptcy_price(position: Position, profile: Profile, liquidation: float) -> float:
    """Price at which the leg's share of the equity, in proportion to maintenance, is used up; at least 0.

        liquidation - equity * own_maintenance / (own_maintenance + other) / qty

    For an isolated position `entry - margin / qty`.
    """
    own = _maintenance(position, profile)(abs(position.qty * liquidation))
    share = own / (own + position.other_maintenance_usd)
    return max(liquidation - position.equity_usd(liquidation) * share / position.qty, 0.0)


def market_price(position: Position, profile: Profile, scenario: Scenario, liquidation: float) -> tuple[float, float]:
    """What the venue's book pays when the mark has come to `liquidation` and the engine has seen it; after how long.

    The scenario's fall goes through the venue's mark rule, then goes on during the latency. A position that is over the
    line already meets the present mark.
    """
    delay_s = latency_s(profile)
    way = (position.mark_price - liquidation) * position.side / position.mark_price
    if not way > 0:
        return position.mark_price, delay_s
    speed = scenario.fall_per_min / 60
    fall_s = touch_s(profile.mark, way, speed, scenario.local_share) + delay_s
    return max(position.mark_price * (1 - position.side * speed * fall_s), 0.0), fall_s


def exit_price(position: Position, profile: Profile, scenario: Scenario) -> float | None:
    """What a closed unit brings: the market at the touch, less slippage and discount, less fees; None where none is.

        slippage of a step = book_usd ** 2 / (2 * depth)
        fee = min(rate * closed, most, what the fill leaves above bankruptcy)

    Below the bankruptcy price the owner has lost all and others pay.
    """
    liquidation = liquidation_price(position, profile)
    if liquidation is None:
        return None
    market, _ = market_price(position, profile, scenario, liquidation)
    steps = _steps(position, profile, liquidation, stays=False)
    closed = sum(step.closed_usd for step in steps)
    lost = sum(step.book_usd**2 / (2 * scenario.depth_usd) + step.discount_usd for step in steps)
    lost += profile.fees.taker * sum(step.book_usd for step in steps)
    above = (market - bankruptcy_price(position, profile, liquidation)) * position.side
    left = max(above * closed / liquidation - lost, 0.0)
    lost += min(profile.fees.liquidation * closed, profile.fees.liquidation_usd_max, left)
    return market - position.side * liquidation * lost / closed


def latency_s(profile: Profile) -> float:
    return profile.latency.book_s + profile.latency.mark_s + profile.latency.liquidation_s


def _maintenance(position: Position, profile: Profile) -> Callable[[float], float]:
    tiers = profile.tiers_of(position.symbol)
    return lambda notional_usd: max(tier.rate * notional_usd - tier.deduction_usd for tier in tiers)


def _steps(position: Position, profile: Profile, liquidation: float, *, stays: bool) -> list[Step]:
    """The path from the touch on: until margin is restored, or, if it `stays` short of it, to the end."""
    own = _maintenance(position, profile)
    notional = abs(position.qty * liquidation)
    if stays:
        return play(profile.path, notional, own)
    equity = SHORT_OF * (own(notional) + position.other_maintenance_usd)
    fees = profile.fees.taker + profile.fees.liquidation
    return play(
        profile.path,
        notional,
        lambda left: own(left) + position.other_maintenance_usd if left > 0 else 0.0,
        equity,
        buffer=profile.buffer,
        cost_rate=fees,
    )


def _quantiles(position: Position, profile: Profile, scenario: Scenario, price: float) -> dict[str, float]:
    distance = (position.mark_price - price) * position.side / position.mark_price
    times = first_passage_quantile_s(distance, scenario.sigma_year, list(QUANTILES.values()), profile.year_days)
    return dict(zip(QUANTILES, times.tolist(), strict=True))
