"""Venues and clocks for tests of polling."""

from collections.abc import Iterator

import ccxt
import pytest

from tests.pipelines.polling.hands import Hands
from tests.pipelines.polling.rest import Rest, serving
from tests.pipelines.polling.venues import Binance, Market, Okx, ladder, numbered


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for ccxt's throttle, but for the one that is about it."""
    monkeypatch.setattr(ccxt.Exchange, "throttle", lambda self, cost=None: None)


@pytest.fixture
def binance(hands: Hands) -> Iterator[Rest]:
    """BTCUSDT around 100 with 60 levels, 10 bps apart, of 2; five trades."""
    bids, asks = ladder(100.0, 10.0, 60, 2.0)
    with serving(
        Binance({"BTCUSDT": Market(bids, asks, numbered(1000, 5, 1_767_225_598_000))}, now_ms=hands.ms)
    ) as rest:
        yield rest


@pytest.fixture
def okx(hands: Hands) -> Iterator[Rest]:
    """BTC-USDT-SWAP, the same book in contracts of 0.01 BTC: 200 of them."""
    bids, asks = ladder(100.0, 10.0, 60, 200.0)
    markets = {"BTC-USDT-SWAP": Market(bids, asks, numbered(9000, 5, 1_767_225_598_000))}
    with serving(Okx(markets, {"BTC-USDT-SWAP": 0.01}, now_ms=hands.ms)) as rest:
        yield rest
