"""One exchange of ccxt, made ready: no keys, its own throttle on, every request through our wire.

ccxt takes two seconds to import: nothing here does it before an exchange is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pipelines.config import PollConfig
from pipelines.errors import InputError
from pipelines.polling.clock import Clock

Params = dict[str, Any]


def _binance_older(oldest: Mapping[str, Any]) -> Params:
    """The page that ends right before `oldest`: aggregates are numbered one by one."""
    return {"fromId": max(0, int(oldest["id"]) - 1000)}


def _okx_older(oldest: Mapping[str, Any]) -> Params:
    return {"method": "publicGetMarketHistoryTrades", "after": str(oldest["id"])}


def _okx_index(exchange: Any, market: Mapping[str, Any]) -> Any:
    """The index of the pair behind a contract, which ccxt has no unified call for."""
    answer = exchange.publicGetMarketIndexTickers({"instId": f"{market['baseId']}-{market['quoteId']}"})
    rows = answer.get("data") or [{}]
    return exchange.parse_ticker(rows[0], market)


@dataclass(frozen=True)
class Habits:
    """What differs between exchanges: all of it from their documents, none of it a size.

    `page` and `page_older` are the most trades that one answer holds; `older` makes the parameters for the page before
    a trade (None: the exchange shows its latest trades only).
    """

    page: int = 100
    page_older: int = 100
    older: Callable[[Mapping[str, Any]], Params] | None = None
    index: Callable[[Any, Mapping[str, Any]], Any] | None = None
    options: Mapping[str, Any] | None = None


_BINANCE = Habits(page=1000, page_older=1000, older=_binance_older)
_OKX = Habits(
    page=500, page_older=100, older=_okx_older, index=_okx_index, options={"fetchMarkets": {"types": ["spot", "swap"]}}
)
HABITS: Mapping[str, Habits] = {
    "binance": _BINANCE,
    "binanceusdm": _BINANCE,
    "binancecoinm": _BINANCE,
    "bybit": Habits(page=1000, options={"fetchMarkets": {"types": ["spot", "linear", "inverse"]}}),
    "okx": _OKX,
}


def habits(exchange: str) -> Habits:
    return HABITS.get(exchange, Habits())


def library() -> ModuleType:
    """ccxt itself. InputError where it is not installed."""
    try:
        import ccxt
    except ImportError:
        mend = "install the extra: pip install 'cascadeguard[poll]'"
        raise InputError("ccxt is not installed", where="cascadeguard poll", mend=mend) from None
    return ccxt  # type: ignore[no-any-return, unused-ignore]


def check_known(polls: tuple[PollConfig, ...]) -> None:
    """InputError that names every exchange of the settings that ccxt does not know."""
    known = library().exchanges
    unknown = [poll.exchange for poll in polls if poll.exchange not in known]
    if unknown:
        mend = "use ccxt's own ids, such as binanceusdm, binancecoinm, okx, bybit"
        raise InputError(f"unknown exchange{'s' * (len(unknown) > 1)}", where=", ".join(unknown), mend=mend)


def connected(poll: PollConfig, clock: Clock) -> Any:
    """The exchange of `poll`; no request has been made. The caller closes it."""
    from pipelines.polling.wire import Wire

    settings = {"enableRateLimit": True, "session": Wire(poll.base_url, clock.now), "timeout": poll.timeout_s * 1000}
    exchange = getattr(library(), poll.exchange)(settings)
    exchange.has = {**exchange.has, "fetchCurrencies": False}  # needs a key at most venues, and nothing here uses it
    exchange.options = {**exchange.options, **(habits(poll.exchange).options or {})}
    return exchange


def market_of(exchange: Any, symbol: str, role: str) -> Any:
    """The exchange's market with the venue's id `symbol`, perpetuals before dated contracts; None where it has none."""
    found = [market for market in exchange.markets.values() if market["id"] == symbol]
    fitting = [market for market in found if bool(market["contract"]) == (role == "perp")]
    return min(fitting, key=lambda market: not market["swap"], default=None)
