"""Two venues' public REST endpoints in their documented wire formats, over a small market made up here.

Nothing is recorded from a venue: names and types of fields are those of the documents, every figure is ours. Binance
USD-M sends numbers as text in bare objects; OKX wraps rows into `{"code", "msg", "data"}` and counts contracts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

T0_MS = 1_767_225_600_000  # 2026-01-01T00:00Z
HOUR_MS = 3_600_000
Query = Mapping[str, str]


@dataclass
class Market:
    """What a venue would say of one market right now. `trades`: (id, ts_ms, side, price, amount), oldest first."""

    bids: Sequence[tuple[float, float]] = ()
    asks: Sequence[tuple[float, float]] = ()
    trades: list[tuple[int, int, str, float, float]] = field(default_factory=list)
    mark: float | None = 100.0
    index: float | None = 100.5
    last: float = 99.5
    rate: float = 0.0001
    interval_h: int = 8
    oi: float = 2000.0  # in contracts
    ts_ms: int = T0_MS


def ladder(mid: float, step_bps: float, levels: int, amount: float) -> tuple[list[Any], list[Any]]:
    """Bids and asks of equal amounts, the first half a step from `mid`, then a step apart."""
    away = [(n + 0.5) * step_bps / 10_000 for n in range(levels)]
    return [(mid * (1 - x), amount) for x in away], [(mid * (1 + x), amount) for x in away]


def numbered(first: int, count: int, start_ms: int, step_ms: int = 100) -> list[tuple[int, int, str, float, float]]:
    """Trades with consecutive ids, buys and sells in turn at 100, of 3 contracts each."""
    return [(first + n, start_ms + n * step_ms, ("buy", "sell")[n % 2], 100.0, 3.0) for n in range(count)]


def _texts(levels: Sequence[tuple[float, float]], count: int, *more: str) -> list[list[str]]:
    return [[repr(price), repr(amount), *more] for price, amount in levels[:count]]


def _snake(path: str) -> str:
    """`aggTrades` -> `agg_trades`, `ticker/24hr` -> `ticker_24hr`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in path).replace("/", "_")


# --- Binance USD-M ---------------------------------------------------------------------------------------------------


@dataclass
class Binance:
    """`https://fapi.binance.com`: paths below `/fapi/v1/`."""

    markets: dict[str, Market]
    listed_h: dict[str, int] = field(default_factory=dict)  # symbols with an adjusted interval
    now_ms: Callable[[], int] = lambda: T0_MS

    def answer(self, path: str, query: Query) -> Any:
        what = path.removeprefix("/fapi/v1/")
        if what in ("exchangeInfo", "time", "fundingInfo"):
            return getattr(self, "_" + _snake(what))()
        market = self.markets.get(query.get("symbol", ""))
        if market is None:
            return {"code": -1121, "msg": "Invalid symbol."}
        return getattr(self, "_" + _snake(what))(query["symbol"], market, query)

    def _time(self) -> Any:
        return {"serverTime": self.now_ms()}

    def _exchange_info(self) -> Any:
        return {"timezone": "UTC", "serverTime": self.now_ms(), "rateLimits": [], "exchangeFilters": [],
                "symbols": [self._listing(symbol) for symbol in self.markets]}  # fmt: skip

    @staticmethod
    def _listing(symbol: str) -> Any:
        filters = [
            {"filterType": "PRICE_FILTER", "minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.1"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
        ]
        return {"symbol": symbol, "pair": symbol, "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
                "onboardDate": 1569398400000, "status": "TRADING", "baseAsset": symbol.removesuffix("USDT"),
                "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 2, "quantityPrecision": 3,
                "filters": filters, "orderTypes": ["LIMIT", "MARKET"], "timeInForce": ["GTC"]}  # fmt: skip

    def _funding_info(self) -> Any:
        rest = {"adjustedFundingRateCap": "0.02", "adjustedFundingRateFloor": "-0.02", "disclaimer": False}
        return [{"symbol": symbol, "fundingIntervalHours": hours} | rest for symbol, hours in self.listed_h.items()]

    def _premium_index(self, symbol: str, market: Market, _: Query) -> Any:
        due = (market.ts_ms // (8 * HOUR_MS) + 1) * 8 * HOUR_MS
        told = {"symbol": symbol, "estimatedSettlePrice": "100", "lastFundingRate": repr(market.rate),
                "interestRate": "0.0001", "nextFundingTime": due, "time": market.ts_ms}  # fmt: skip
        told |= {} if market.mark is None else {"markPrice": repr(market.mark)}
        return told | ({} if market.index is None else {"indexPrice": repr(market.index)})

    def _ticker_24hr(self, symbol: str, market: Market, _: Query) -> Any:
        return {"symbol": symbol, "priceChange": "1", "priceChangePercent": "1", "weightedAvgPrice": "99",
                "lastPrice": repr(market.last), "lastQty": "1", "openPrice": "98", "highPrice": "101",
                "lowPrice": "97", "volume": "1000", "quoteVolume": "99000", "openTime": market.ts_ms - 86_400_000,
                "closeTime": market.ts_ms, "firstId": 1, "lastId": 2, "count": 2}  # fmt: skip

    def _open_interest(self, symbol: str, market: Market, _: Query) -> Any:
        return {"symbol": symbol, "openInterest": repr(market.oi), "time": market.ts_ms}

    def _depth(self, _: str, market: Market, query: Query) -> Any:
        count = int(query.get("limit", "500"))
        return {"lastUpdateId": 7, "E": market.ts_ms + 3, "T": market.ts_ms,
                "bids": _texts(market.bids, count), "asks": _texts(market.asks, count)}  # fmt: skip

    def _agg_trades(self, _: str, market: Market, query: Query) -> Any:
        limit, start = int(query.get("limit", "500")), int(query.get("fromId", "-1"))
        rows = [row for row in market.trades if row[0] >= start][:limit] if start >= 0 else market.trades[-limit:]
        return [{"a": number, "p": repr(price), "q": repr(amount), "f": number, "l": number, "T": ts,
                 "m": side == "sell"} for number, ts, side, price, amount in rows]  # fmt: skip


# --- OKX -------------------------------------------------------------------------------------------------------------


@dataclass
class Okx:
    """`https://www.okx.com`: paths below `/api/v5/`. `sizes` are base units a contract."""

    markets: dict[str, Market]
    sizes: dict[str, float]
    now_ms: Callable[[], int] = lambda: T0_MS

    def answer(self, path: str, query: Query) -> Any:
        what = path.removeprefix("/api/v5/").replace("/", "_").replace("-", "_")
        if what in ("public_instruments", "public_time"):
            return self._wrapped(getattr(self, "_" + what)(query))
        symbol = query.get("instId", "")
        market = self.markets.get(symbol if what != "market_index_tickers" else f"{symbol}-SWAP")
        if market is None:
            return {"code": "51001", "msg": "Instrument ID does not exist", "data": []}
        return self._wrapped(getattr(self, "_" + what)(symbol, market, query))

    @staticmethod
    def _wrapped(rows: Any) -> Any:
        return {"code": "0", "msg": "", "data": rows}

    def _public_time(self, _: Query) -> Any:
        return [{"ts": str(self.now_ms())}]

    def _public_instruments(self, query: Query) -> Any:
        if query.get("instType") != "SWAP":
            return []
        return [{"instType": "SWAP", "instId": symbol, "uly": symbol.removesuffix("-SWAP"), "baseCcy": "",
                 "instFamily": symbol.removesuffix("-SWAP"), "quoteCcy": "", "settleCcy": "USDT", "ctType": "linear",
                 "ctVal": repr(self.sizes[symbol]), "ctMult": "1", "ctValCcy": symbol.split("-")[0], "tickSz": "0.1",
                 "lotSz": "0.01", "minSz": "0.01", "lever": "100", "state": "live", "listTime": "1573557408000",
                 "expTime": "", "stk": "", "optType": ""} for symbol in self.markets]  # fmt: skip

    def _market_books(self, _: str, market: Market, query: Query) -> Any:
        count = int(query.get("sz", "1"))
        return [{"bids": _texts(market.bids, count, "0", "1"), "asks": _texts(market.asks, count, "0", "1"),
                 "ts": str(market.ts_ms), "seqId": 12}]  # fmt: skip

    def _market_books_full(self, symbol: str, market: Market, query: Query) -> Any:
        return self._market_books(symbol, market, query)

    def _market_ticker(self, symbol: str, market: Market, _: Query) -> Any:
        return [{"instType": "SWAP", "instId": symbol, "last": repr(market.last), "lastSz": "1", "askPx": "100.1",
                 "askSz": "1", "bidPx": "99.9", "bidSz": "1", "open24h": "98", "high24h": "101", "low24h": "97",
                 "volCcy24h": "10", "vol24h": "1000", "ts": str(market.ts_ms)}]  # fmt: skip

    def _public_mark_price(self, symbol: str, market: Market, _: Query) -> Any:
        row = {"instType": "SWAP", "instId": symbol, "ts": str(market.ts_ms + 1)}
        return [row | ({} if market.mark is None else {"markPx": repr(market.mark)})]

    def _market_index_tickers(self, symbol: str, market: Market, _: Query) -> Any:
        return [{"instId": symbol, "idxPx": repr(market.index), "high24h": "101", "low24h": "97", "open24h": "98",
                 "ts": str(market.ts_ms + 2)}]  # fmt: skip

    def _public_funding_rate(self, symbol: str, market: Market, _: Query) -> Any:
        step = market.interval_h * HOUR_MS
        due = (market.ts_ms // step + 1) * step
        return [{"instType": "SWAP", "instId": symbol, "method": "current_period", "fundingRate": repr(market.rate),
                 "nextFundingRate": "", "fundingTime": str(due), "nextFundingTime": str(due + step),
                 "premium": "0.0001", "settState": "settled", "ts": str(market.ts_ms + 4)}]  # fmt: skip

    def _public_open_interest(self, symbol: str, market: Market, _: Query) -> Any:
        base = market.oi * self.sizes[symbol]
        return [{"instType": "SWAP", "instId": symbol, "oi": repr(market.oi), "oiCcy": repr(base),
                 "oiUsd": repr(base * 100.25), "ts": str(market.ts_ms + 5)}]  # fmt: skip

    def _market_trades(self, symbol: str, market: Market, query: Query) -> Any:
        return self._rows(symbol, market.trades[-int(query.get("limit", "100")) :])

    def _market_history_trades(self, symbol: str, market: Market, query: Query) -> Any:
        before = [row for row in market.trades if row[0] < int(query["after"])]
        return self._rows(symbol, before[-int(query.get("limit", "100")) :])

    @staticmethod
    def _rows(symbol: str, trades: Sequence[tuple[int, int, str, float, float]]) -> Any:
        return [{"instId": symbol, "tradeId": str(number), "px": repr(price), "sz": repr(amount), "side": side,
                 "ts": str(ts)} for number, ts, side, price, amount in reversed(trades)]  # fmt: skip
