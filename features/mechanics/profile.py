"""Venue profiles: what a liquidation is at one venue, from a date on. Plain frozen values; files are read elsewhere.

A profile says how the mark is made, what margin is asked, by which path a position is closed, what it costs, who pays
for holes. `sources` names, for every constant by its dotted name, the document it was taken from, or `assumed` with a
reason where the venue does not publish it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from features.mechanics.margin import Tier

_QUOTE = re.compile(r"[-_/:]?(PERP|USDT|USDC|BUSD|USD)$")


def base_of(symbol: str) -> str:
    """The asset a perpetual is about: its symbol without quote and contract type.

    >>> [base_of(name) for name in ("BTCUSDT", "ETH-USD", "SOL-PERP", "BTC_USDC-PERP", "USDC", "kPEPE")]
    ['BTC', 'ETH', 'SOL', 'BTC', 'USDC', 'kPEPE']
    """
    shorter = _QUOTE.sub("", symbol)
    return symbol if shorter in {symbol, ""} else base_of(shorter)


@dataclass(frozen=True)
class MarkRule:
    """How the mark price is made: `last`, `index`, `median` (of three) or `index_ema` (index + EMA of the basis)."""

    rule: str
    ema_s: float = 0.0  # time constant of the EMA, `index_ema`
    basis_window_s: float = 0.0  # moving average of the basis, `median`


@dataclass(frozen=True)
class Path:
    """How a position is closed: a kind of `features.mechanics.paths` and its parameters by name."""

    kind: str  # market, gradual, share_first, velocity, timed, auction
    step_s: float = 0.0
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fees:
    taker: float  # share of notional
    liquidation: float  # share of closed notional, to the fund
    liquidation_usd_max: float = float("inf")


@dataclass(frozen=True)
class Latency:
    """Seconds until the book, the mark and the liquidation engine have seen a change."""

    book_s: float = 0.0
    mark_s: float = 0.0
    liquidation_s: float = 0.0


@dataclass(frozen=True)
class Haircut:
    """Share of an asset's value that does not count, by size: `(usd_max, haircut)` steps, the last unbounded."""

    steps: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Profile:
    """One version of a venue's rules, in force from `effective_from`.

    `tiers` are maintenance lines by symbol or base asset, `*` for every other. `adl` is a rule of
    `features.mechanics.insurance`.
    """

    name: str
    effective_from: datetime
    mark: MarkRule
    path: Path
    fees: Fees
    tiers: Mapping[str, tuple[Tier, ...]]
    latency: Latency = Latency()
    buffer: float = 0.0  # equity must reach maintenance * (1 + buffer) before a liquidation stops
    haircuts: Mapping[str, Haircut] = field(default_factory=dict)
    fund_usd: float = 0.0
    adl: str = "rank"
    year_days: float = 365.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def tiers_of(self, symbol: str) -> tuple[Tier, ...]:
        """The maintenance lines of `symbol`, else of its base asset, else of `*`; KeyError where there is none."""
        for name in (symbol, base_of(symbol)):
            if name in self.tiers:
                return self.tiers[name]
        return self.tiers["*"]
