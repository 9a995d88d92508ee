"""What a simulated venue is made of: one frozen object, validated whole, and the numbers that follow from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from math import isfinite

import numpy as np
import numpy.typing as npt

from features.mechanics.insurance import ADL_RULES
from features.mechanics.paths import params_of
from features.mechanics.profile import Path, Profile
from features.structure import USD_ASSETS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAY_S = 86_400
HOUR_S = 3_600
RANKS_DISTINCT = (
    8  # five times the volatility of the first and a thirtieth of its depth; a wider venue has more of these
)
START_PRICES_USD = (60_000.0, 3_000.0, 150.0, 0.2, 25.0, 6.0)  # by rank of the symbol, repeated beyond

# Upper notional in dollars and maintenance rate; the largest leverage is that at which initial is twice maintenance.
MAJOR_TIERS = ((50_000.0, 0.01), (250_000.0, 0.0125), (1_000_000.0, 0.025), (5_000_000.0, 0.05), (np.inf, 0.10))
MINOR_TIERS = ((20_000.0, 0.0125), (100_000.0, 0.02), (500_000.0, 0.04), (2_000_000.0, 0.08), (np.inf, 0.15))
MAJOR_RANKS = 2

ROUNDS_MAX = 60  # of liquidation within one step
MARKET_PATH = Path("market")


@dataclass(frozen=True)
class VenueSettings:
    """Parameters of the simulated venue. Symbols are ranked: the first is the calmest and deepest.

    Raises ValueError that lists every violation at once.

    >>> VenueSettings(accounts=0, step_s=7)
    Traceback (most recent call last):
    ...
    ValueError: `accounts` must be at least 1, was 0 | `step_s` must divide 3600 and be at most 60, was 7
    """

    symbols: tuple[str, ...] = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "DOGE-PERP")
    accounts: int = 1500
    step_s: int = 20
    venue: str = "sim"
    # index prices
    volatility_day: float = 0.022  # standard deviation of the first symbol's daily log return in an ordinary regime
    volatility_rank_growth: float = 1.25  # each further symbol is this much wilder
    correlation: float = 0.7  # of the index returns of any two symbols
    tail_df: float = 8.0  # degrees of freedom of the innovations
    jump_rate_day: float = 0.3  # exogenous jumps common to all symbols, in an ordinary regime
    jump_size: float = 0.008  # mean absolute log jump of the first symbol
    # accounts
    equity_median_usd: float = 12_000.0
    equity_log_sd: float = 0.9
    leverage_median: float = 16.0
    leverage_log_sd: float = 0.6
    leverage_max: float = 45.0
    isolated_share: float = 0.25
    actions_account_day: float = 3.0  # decisions, most of which change nothing
    position_limit_equities: float = 0.03  # largest position, first symbol, over accounts * equity_median_usd
    trend_following: float = 0.8  # mean weight of the trend in an account's view; 0 is blind to it
    # the book
    depth_account_100bps_usd: float = 4_500.0  # one side, first symbol, per account, in an ordinary regime
    depth_rank_share: float = 0.62  # each further symbol is this much thinner
    depth_exponent: float = 0.85  # depth within x grows as x ** depth_exponent
    depth_recovery_half_life_s: float = 900.0
    depth_withdrawal_half_life_s: float = 60.0
    half_spread_bps: float = 1.0
    # rules of the venue
    mark_ema_s: float = 150.0
    funding_interval_h: int = 8
    funding_rate_max: float = 0.0075  # absolute cap per interval
    fund_account_usd: float = 150.0  # insurance fund at the start, per account
    fee_taker: float = 0.0005
    fee_liquidation: float = 0.005
    path: Path = MARKET_PATH  # how a position that lacks margin is closed: `features.mechanics.paths`
    exit_buffer: float = 0.02  # a liquidation stops at maintenance * (1 + exit_buffer)
    adl: str = "rank"  # who takes bankrupt positions when the fund is empty: rank, pro_rata; none: bad debt
    snapshot_s: int = 900  # between snapshots of positions and collateral
    # a stablecoin as collateral
    stablecoin: str = "USDE"
    stablecoin_account_share: float = 0.0  # of the cross accounts that keep a part of their equity in it
    stablecoin_haircut: float = 0.05
    depeg_rate_day: float = 0.02  # losses of its peg per day
    depeg_size: float = 0.06  # mean loss, exponential, at most a half
    depeg_recovery_half_life_s: float = 21_600.0
    # faults
    outage_rate_day: float = 0.1  # in ordinary volatility; grows with its square
    outage_median_s: float = 240.0
    halt_share: float = 0.4  # of outages that stop the matching; the others stop the feed
    # the feed
    order_ids: bool = False  # name the resting order in every book event

    def __post_init__(self) -> None:
        violations = list(_violations(self))
        if violations:
            raise ValueError(" | ".join(violations))


_AT_LEAST_ONE = ("accounts", "step_s", "volatility_rank_growth", "snapshot_s", "funding_interval_h")
_POSITIVE = (
    "volatility_day",
    "equity_median_usd",
    "leverage_median",
    "position_limit_equities",
    "actions_account_day",
    "depth_account_100bps_usd",
    "depth_exponent",
    "depth_recovery_half_life_s",
    "depth_withdrawal_half_life_s",
    "mark_ema_s",
    "depeg_recovery_half_life_s",
    "outage_median_s",
)
_NON_NEGATIVE = (
    "jump_rate_day",
    "jump_size",
    "equity_log_sd",
    "leverage_log_sd",
    "trend_following",
    "half_spread_bps",
    "funding_rate_max",
    "fund_account_usd",
    "fee_taker",
    "fee_liquidation",
    "exit_buffer",
    "depeg_rate_day",
    "depeg_size",
    "outage_rate_day",
)

_SHARES = ("correlation", "isolated_share", "stablecoin_account_share", "stablecoin_haircut", "halt_share")


def _violations(s: VenueSettings) -> Iterator[str]:
    def at_fault(name: str, rule: str) -> str:
        return f"`{name}` must be {rule}, was {getattr(s, name)!r}"

    for name in (field.name for field in fields(s) if field.type in (float, "float")):
        if not isfinite(getattr(s, name)):
            yield at_fault(name, "finite")
    for name in _AT_LEAST_ONE:
        if not getattr(s, name) >= 1:
            yield at_fault(name, "at least 1")
    yield from (at_fault(name, "positive") for name in _POSITIVE if not getattr(s, name) > 0)
    yield from (at_fault(name, "at least 0") for name in _NON_NEGATIVE if not getattr(s, name) >= 0)
    yield from (at_fault(name, "in [0, 1]") for name in _SHARES if not 0 <= getattr(s, name) <= 1)
    yield from _range_violations(s, at_fault)
    yield from _time_violations(s, at_fault)
    yield from _path_violations(s)


def _range_violations(s: VenueSettings, at_fault: Callable[[str, str], str]) -> Iterator[str]:
    if not 0 < s.depth_rank_share <= 1:
        yield at_fault("depth_rank_share", "in (0, 1]")
    if not s.tail_df > 2:
        yield at_fault("tail_df", "above 2")
    if not 1 <= s.leverage_max <= 50:
        yield at_fault("leverage_max", "in [1, 50]")
    if not s.symbols or len(set(s.symbols)) != len(s.symbols) or not all(s.symbols) or "*" in s.symbols:
        yield at_fault("symbols", "distinct names, none of them empty or '*'")
    if not s.venue:
        yield at_fault("venue", "a name")
    if s.adl not in ADL_RULES:
        yield at_fault("adl", f"one of {ADL_RULES}")
    taken = {*USD_ASSETS, *(symbol.split("-")[0] for symbol in s.symbols)}
    if not s.stablecoin or s.stablecoin in taken:
        yield at_fault("stablecoin", "a name that is neither a base nor that of an asset that counts as a dollar")


def _time_violations(s: VenueSettings, at_fault: Callable[[str, str], str]) -> Iterator[str]:
    if s.step_s >= 1 and (HOUR_S % s.step_s or s.step_s > 60):
        yield f"`step_s` must divide 3600 and be at most 60, was {s.step_s}"
    if (
        s.snapshot_s >= 1
        and s.step_s >= 1
        and not HOUR_S % s.step_s
        and (s.snapshot_s % s.step_s or HOUR_S % s.snapshot_s)
    ):
        yield at_fault("snapshot_s", "a multiple of step_s that divides 3600")
    if s.funding_interval_h >= 1 and 24 % s.funding_interval_h:
        yield at_fault("funding_interval_h", "a divisor of 24")


def _path_violations(s: VenueSettings) -> Iterator[str]:
    try:
        params_of(s.path)
    except ValueError as error:
        yield f"`path`: {error}"
    if s.step_s >= 1 and s.path.step_s != 0 and not s.path.step_s >= s.step_s / ROUNDS_MAX:
        yield f"`path`: `step_s` must be 0 or at least {s.step_s / ROUNDS_MAX:g}, was {s.path.step_s}"


def with_profile(settings: VenueSettings, profile: Profile) -> VenueSettings:
    """`settings` under the rules of a venue: its path, buffer, fees and rule of auto-deleveraging.

    The mark's averaging time is taken over where the rule is `index_ema`, the simulator's own; tiers and fund belong to
    the simulated symbols and accounts. Raises ValueError as `VenueSettings` does.
    """
    averaged = profile.mark.rule == "index_ema" and profile.mark.ema_s > 0
    return replace(
        settings,
        path=profile.path,
        exit_buffer=profile.buffer,
        fee_taker=profile.fees.taker,
        fee_liquidation=profile.fees.liquidation,
        adl=profile.adl,
        mark_ema_s=profile.mark.ema_s if averaged else settings.mark_ema_s,
    )


def ranks(symbols: int) -> Floats:
    """The rank by which each symbol differs from the first; from the last distinct one on they are alike.

    >>> ranks(10).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 7.0]
    """
    return np.minimum(np.arange(symbols, dtype=np.float64), RANKS_DISTINCT - 1)


def start_prices_usd(settings: VenueSettings) -> Floats:
    """Index prices at the start, by rank."""
    return np.resize(np.array(START_PRICES_USD), len(settings.symbols))


def tick_usd(price_usd: Floats) -> Floats:
    """Price step: the power of ten that is between 1e-6 and 1e-5 of the price.

    >>> tick_usd(np.array([60_000.0, 0.2])).tolist()
    [0.1, 1e-06]
    """
    return np.asarray(10.0 ** (np.floor(np.log10(price_usd)) - 5), dtype=np.float64)


def volatilities_day(settings: VenueSettings) -> Floats:
    """Standard deviation of the daily log return of the index in an ordinary regime, by rank."""
    growth = settings.volatility_rank_growth ** ranks(len(settings.symbols))
    return np.asarray(settings.volatility_day * growth)


def depths_100bps_usd(settings: VenueSettings) -> Floats:
    """Dollars that rest within 100 bps of the mid on one side in an ordinary regime, by rank."""
    first = settings.depth_account_100bps_usd * settings.accounts
    return np.asarray(first * settings.depth_rank_share ** ranks(len(settings.symbols)))


def position_limits_usd(settings: VenueSettings) -> Floats:
    """The largest notional an account builds up in a symbol, by rank."""
    first = settings.position_limit_equities * settings.equity_median_usd * settings.accounts
    return np.asarray(first * settings.depth_rank_share ** ranks(len(settings.symbols)))


def tiers_of_rank(rank: int) -> list[dict[str, float | None]]:
    """Maintenance tiers; `deduction_k = deduction_{k-1} + lower_k * (rate_k - rate_{k-1})` joins them continuously.

    >>> [tier["deduction_usd"] for tier in tiers_of_rank(0)]
    [0.0, 125.0, 3250.0, 28250.0, 278250.0]
    """
    table = MAJOR_TIERS if rank < MAJOR_RANKS else MINOR_TIERS
    rows: list[dict[str, float | None]] = []
    lower, rate_before, deduction = 0.0, table[0][1], 0.0
    for upper, rate in table:
        deduction = round(deduction + lower * (rate - rate_before), 6)
        rows.append(
            {
                "notional_usd_max": upper if isfinite(upper) else None,
                "maintenance_rate": rate,
                "deduction_usd": deduction,
                "leverage_max": 1 / (2 * rate),
            }
        )
        lower, rate_before = upper, rate
    return rows


def tier_arrays(settings: VenueSettings) -> tuple[Floats, Floats]:
    """Maintenance rates and deductions, each of shape (tiers, symbols)."""
    tables = [tiers_of_rank(rank) for rank in range(len(settings.symbols))]
    rates = np.array([[row["maintenance_rate"] for row in table] for table in tables], dtype=np.float64).T
    deductions = np.array([[row["deduction_usd"] for row in table] for table in tables], dtype=np.float64).T
    return rates, deductions
