"""A small sound file of every kind that an adapter reads."""

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pipelines.ingest import Choice

T0 = datetime(2025, 6, 1, 12, tzinfo=UTC)
MS = int(T0.timestamp()) * 1000
US = MS * 1000
MAPPING = """
[[table]]
name = "funding"
table = "funding"
files = "{coin}_rates*"
ts = { column = "t", unit = "ms" }
[table.values]
venue = { constant = "binance-usdm" }
symbol = { template = "{coin}USDT" }
rate = { column = "rate", scale = 0.01 }
interval_h = { constant = 8 }
"""


FROM_THE_FILES = Choice()


@dataclass(frozen=True)
class Sample:
    """One file: which adapter and kind read it, and with which options."""

    adapter: str
    kind: str
    name: str
    content: bytes
    choice: Choice = FROM_THE_FILES


def _csv(header: str, *lines: str) -> bytes:
    return "".join(f"{line}\n" for line in ([header] if header else []) + list(lines)).encode()


def _tardis(kind: str, columns: str, *lines: str) -> Sample:
    header = f"exchange,symbol,timestamp,local_timestamp,{columns}"
    rows = [
        f"binance-futures,BTCUSDT,{US + nth * 1000},{US + nth * 1000 + 700},{line}" for nth, line in enumerate(lines)
    ]
    return Sample("tardis", kind, f"binance-futures_{kind}_2025-06-01_BTCUSDT.csv", _csv(header, *rows))


def _polled() -> bytes:
    """A capture of a poll: every kind of line, three minutes long."""
    lines = []
    for nth in range(3):
        at = f"2025-06-01T12:0{nth}:01.000000Z"
        stamp = MS + nth * 60_000
        head = {"poll": 1, "exchange": "binanceusdm", "venue": "binance-usdm", "symbol": "BTCUSDT", "answered_at": at}
        sides = {side: [[100 + sign * (1 + n), 2.5] for n in range(6)] for side, sign in (("bids", -1), ("asks", 1))}
        trades = [{"id": str(9 * nth + n), "timestamp": stamp + n, "side": "buy", "price": 100.5, "amount": 3.0}
                  for n in range(3)]  # fmt: skip
        funding = {"timestamp": stamp, "fundingRate": 0.0001, "interval": "8h", "fundingTimestamp": MS, "info": {}}
        interest = {"timestamp": stamp, "openInterestAmount": 2000.0, "openInterestValue": None}
        payloads = {
            "run": {"notes": []},
            "intervals": {"intervals": [{"symbol": "ETHUSDT", "interval": "4h"}]},
            "ticker": {"ticker": {"timestamp": stamp, "last": 100.5, "markPrice": 100.0, "indexPrice": None}},
            "book": {"contract_size": 1.0, "book": {"timestamp": stamp, **sides}},
            "funding": {"funding": funding},
            "open_interest": {"contract_size": 1.0, "open_interest": interest},
            "trades": {"contract_size": 1.0, "trades": trades},
        }
        lines += [json.dumps({**head, "kind": kind, **payload}) for kind, payload in payloads.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def _ladder(levels: int) -> tuple[str, str]:
    """Columns and cells of a picture of the first levels of a book around 100000."""
    names = [
        f"{side}[{nth}].{what}" for nth in range(levels) for side in ("asks", "bids") for what in ("price", "amount")
    ]
    cells = [cell for nth in range(levels) for cell in (100001 + nth, 1.5, 100000 - nth, 2)]
    return ",".join(names), ",".join(map(str, cells))


def _archive(kind: str, name: str, header: str, *lines: str) -> Sample:
    return Sample("binance-archive", kind, name, _csv(header, *lines))


def _kline(nth: int) -> str:
    start = MS + nth * 60_000
    return f"{start},10,12,9,11,100,{start + 59_999},1050,7,40,420,0"


def _table(*columns: object) -> pl.DataFrame:
    return pl.DataFrame(dict(zip(("date", "open", "high", "low", "close", "volume"), columns, strict=True)))


def _feather(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def _lines(*messages: object) -> bytes:
    stamp = US * 1000
    return "".join(
        f"{stamp + nth * 1_000_000} {json.dumps(message)}\n" for nth, message in enumerate(messages)
    ).encode()


KLINE = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
CANDLES = _table(
    [T0 + timedelta(minutes=5 * nth) for nth in range(8)], [10.0] * 8, [12.0] * 8, [9.0] * 8, [11.0] * 8, [5.0] * 8
)
RATES = _table(
    [T0 + timedelta(hours=8 * nth) for nth in range(8)], [0.0001] * 8, [0.0] * 8, [0.0] * 8, [0.0] * 8, [0.0] * 8
)
JSON_CANDLES = json.dumps([[MS + nth * 300_000, 10.0, 12.0, 9.0, 11.0, 5.0] for nth in range(8)]).encode()
BYBIT = Choice(venue="bybit")


def _fill(nth: int) -> list[object]:
    """The taker's record of one fill that liquidated him."""
    fill = {"coin": "BTC", "px": "100000", "sz": "0.5", "side": "A", "time": MS + nth, "dir": "Close Long", "tid": nth}
    told = {"liquidatedUser": "0xa", "markPx": "100000", "method": "market"}
    return ["0xa", fill | {"crossed": True, "hash": "0x1", "oid": 5, "fee": "0.1", "liquidation": told}]


def _orders(*rows: str) -> bytes:
    return _csv("id,timestamp,exchange.timestamp,price,volume,action,direction", *rows)


SAMPLES: tuple[Sample, ...] = (
    _tardis("trades", "id,side,price,amount", *(f"{nth},buy,100000.5,0.25" for nth in range(8))),
    _tardis("liquidations", "id,side,price,amount", *(f"{nth},sell,100000.5,0.25" for nth in range(8))),
    _tardis(
        "incremental_book_L2",
        "is_snapshot,side,price,amount",
        "true,bid,100000,1",
        "true,ask,100001,2",
        *(f"false,{side},{price},{amount}" for side, price, amount in [("bid", 99999, 3), ("ask", 100002, 0)] * 3),
    ),
    _tardis("book_snapshot_5", _ladder(5)[0], *[_ladder(5)[1]] * 5),
    _tardis("book_snapshot_25", _ladder(25)[0], *[_ladder(25)[1]] * 5),
    _tardis(
        "derivative_ticker",
        "funding_timestamp,funding_rate,predicted_funding_rate,open_interest,last_price,index_price,mark_price",
        *(f"{US + 4 * 3_600_000_000},0.0001,,{1000 + nth},100000,100001.5,100000.5" for nth in range(6)),
    ),
    _archive(
        "aggTrades",
        "BTCUSDT-aggTrades-2025-06-01.csv",
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
        *(f"{nth},60000,0.5,{nth},{nth},{MS + nth},true" for nth in range(8)),
    ),
    _archive(
        "trades",
        "BTCUSDT-trades-2025-06-01.csv",
        "id,price,qty,quote_qty,time,is_buyer_maker",
        *(f"{nth},60000,0.5,30000,{MS + nth},false" for nth in range(8)),
    ),
    _archive(
        "trades-coinm",
        "AVAXUSD_PERP-trades-2025-06-01.csv",
        "id,price,qty,base_qty,time,is_buyer_maker",
        *(f"{nth},20,3,1.5,{MS + nth},true" for nth in range(8)),
    ),
    _archive(
        "bookDepth",
        "BTCUSDT-bookDepth-2025-06-01.csv",
        "timestamp,percentage,depth,notional",
        *(
            f"2025-06-01 12:00:{second:02d},{percent},{depth + second},{(depth + second) * price}"
            for second in (0, 30)
            for percent, depth, price in ((-5, 30, 95), (-1, 10, 99.5), (1, 12, 100.5), (5, 40, 104))
        ),
    ),
    _archive(
        "bookTicker",
        "BTCUSDT-bookTicker-2025-06-01.csv",
        "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
        *(f"{nth},60000,1.5,60001,2,{MS + nth},{MS + nth + 5}" for nth in range(8)),
    ),
    _archive("klines", "BTCUSDT-1m-2025-06-01.csv", KLINE, *map(_kline, range(8))),
    _archive("klines", "BTCUSDT-1m-2025-06-02.csv", "", *map(_kline, range(8))),
    _archive("markPriceKlines", "BTCUSDT-markPriceKlines-1m-2025-06-01.csv", KLINE, *map(_kline, range(8))),
    _archive("indexPriceKlines", "BTCUSDT-indexPriceKlines-1m-2025-06-01.csv", KLINE, *map(_kline, range(8))),
    _archive("premiumIndexKlines", "BTCUSDT-premiumIndexKlines-1m-2025-06-01.csv", KLINE, *map(_kline, range(8))),
    _archive(
        "fundingRate",
        "BTCUSDT-fundingRate-2025-06.csv",
        "calc_time,funding_interval_hours,last_funding_rate",
        *(f"{MS + nth * 28_800_000},8,-0.00012" for nth in range(8)),
    ),
    _archive(
        "metrics",
        "BTCUSDT-metrics-2025-06-01.csv",
        "create_time,symbol,sum_open_interest,sum_open_interest_value",
        *(f"2025-06-01 12:{5 * nth:02d}:00,BTCUSDT,82795.5,4967730000" for nth in range(8)),
    ),
    _archive(
        "liquidationSnapshot",
        "BTCUSDT-liquidationSnapshot-2025-06-01.csv",
        "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,last_fill_quantity,"
        "accumulated_fill_quantity",
        *(f"{MS + nth * 1000},SELL,LIMIT,IOC,8,19,20,FILLED,1,3" for nth in range(8)),
    ),
    _archive(
        "forceOrders",
        "capture.csv",
        "",
        *(f"BTC,BUY,LIMIT,IOC,2,61000,60000,FILLED,1,2,{MS + nth * 1000},120000" for nth in range(8)),
    ),
    Sample("ccxt", "polled", "20250601T120301000000Z.jsonl", _polled()),
    Sample("freqtrade", "candles", "BTC_USDT_USDT-5m-futures.feather", _feather(CANDLES), BYBIT),
    Sample("freqtrade", "mark", "BTC_USDT_USDT-5m-mark.feather", _feather(CANDLES), BYBIT),
    Sample("freqtrade", "funding", "BTC_USDT_USDT-8h-funding_rate.feather", _feather(RATES), BYBIT),
    Sample("freqtrade", "candles-json", "BTC_USDT_USDT-5m-futures.json", JSON_CANDLES, BYBIT),
    Sample("freqtrade", "mark-json", "BTC_USDT_USDT-5m-mark.json", JSON_CANDLES, BYBIT),
    Sample(
        "freqtrade",
        "funding-json",
        "BTC_USDT_USDT-5m-funding_rate.json",
        JSON_CANDLES.replace(b"10.0", b"0.0001"),
        BYBIT,
    ),
    Sample(
        "ws-capture",
        "messages",
        "btcusdt_20250601.gz",
        _lines(
            {
                "stream": "btcusdt@depth",
                "data": {
                    "e": "depthUpdate",
                    "E": MS,
                    "T": MS,
                    "s": "BTCUSDT",
                    "U": 5,
                    "u": 7,
                    "pu": 4,
                    "b": [["100000", "1"]],
                    "a": [["100001", "0"]],
                },
            },
            {"lastUpdateId": 7, "E": MS + 1, "T": MS + 1, "bids": [["100000", "1"]], "asks": [["100001", "2"]]},
            {
                "stream": "btcusdt@bookTicker",
                "data": {
                    "e": "bookTicker",
                    "u": 8,
                    "s": "BTCUSDT",
                    "b": "100000",
                    "B": "1",
                    "a": "100001",
                    "A": "2",
                    "T": MS + 2,
                    "E": MS + 2,
                },
            },
            {
                "stream": "btcusdt@trade",
                "data": {
                    "e": "trade",
                    "E": MS + 3,
                    "T": MS + 3,
                    "s": "BTCUSDT",
                    "t": 9,
                    "p": "100001",
                    "q": "0.5",
                    "X": "MARKET",
                    "m": False,
                },
            },
            {
                "stream": "btcusdt@forceOrder",
                "data": {
                    "e": "forceOrder",
                    "E": MS + 4,
                    "o": {
                        "s": "BTCUSDT",
                        "S": "SELL",
                        "o": "LIMIT",
                        "f": "IOC",
                        "q": "0.014",
                        "p": "99990",
                        "ap": "99991",
                        "X": "FILLED",
                        "l": "0.014",
                        "z": "0.014",
                        "T": MS + 4,
                    },
                },
            },
            {
                "stream": "btcusdt@markPrice",
                "data": {
                    "e": "markPriceUpdate",
                    "E": MS + 5,
                    "s": "BTCUSDT",
                    "p": "100000.5",
                    "i": "100001",
                    "P": "100000",
                    "r": "0.0001",
                    "T": MS + 14_400_000,
                },
            },
            {"result": None, "id": 1},
        ),
    ),
    Sample("freqtrade", "index", "BTC_USDT_USDT-5m-index.feather", _feather(CANDLES), BYBIT),
    Sample("freqtrade", "index-json", "BTC_USDT_USDT-5m-index.json", JSON_CANDLES, BYBIT),
    Sample(
        "hyperliquid",
        "contexts",
        "20250601.csv",
        _csv(
            "time,coin,funding,open_interest,prev_day_px,day_ntl_vlm,premium,oracle_px,mark_px,mid_px",
            *(
                f"2025-06-01T12:{nth:02d}:00Z,BTC,0.00001,1000.5,99000,1000000,0.0001,100000,100001,100000.5"
                for nth in range(8)
            ),
        ),
    ),
    Sample(
        "hyperliquid",
        "funding",
        "funding.jsonl",
        "".join(
            json.dumps({"coin": "BTC", "fundingRate": "0.0000125", "premium": "0.0001", "time": MS + nth * 3_600_000})
            + "\n"
            for nth in range(8)
        ).encode(),
    ),
    Sample("hyperliquid", "fills", "fills.jsonl", "".join(json.dumps(_fill(nth)) + "\n" for nth in range(8)).encode()),
    Sample(
        "hyperliquid",
        "counts",
        "timing.json",
        json.dumps(
            {
                "event_start": "2025-10-10T21:15:03.127372+00:00",
                "timeline": [{"second": nth, "liquidations": 10 * nth, "adls": nth} for nth in range(8)],
            }
        ).encode(),
    ),
    Sample(
        "order-log",
        "log",
        "orders.log",
        "".join(
            f"{MS + stamp} {what} {json.dumps(facts)}\n"
            for stamp, what, facts in (
                (0, "order_created", {"price": "236.47", "amount": "2.0", "datetime": "1", "id": 1, "order_type": 0}),
                (5, "order_created", {"price": "236.47", "amount": "0.5", "datetime": "1", "id": 2, "order_type": 1}),
                (6, "order_changed", {"price": "236.47", "amount": "1.5", "datetime": "1", "id": 1, "order_type": 0}),
                (6, "order_deleted", {"price": "236.47", "amount": "0", "datetime": "1", "id": 2, "order_type": 1}),
                (7, "trade", {"price": 236.47, "amount": 0.5, "id": 8}),
                (9, "order_book", {"bids": [["236.47", "1.5"]], "asks": [["236.9", "3"]]}),
            )
        ).encode(),
        Choice(venue="bitstamp", symbol="BTCUSD", role="spot"),
    ),
    Sample(
        "order-log",
        "orders",
        "orders.csv",
        _orders(
            f"1,{MS},{MS},236.47,200000000,created,bid",
            f"2,{MS + 5},{MS},236.5,300000000,created,ask",
            f"1,{MS + 10},{MS},236.47,150000000,changed,bid",
            f"1,{MS + 20},{MS},236.47,150000000,deleted,bid",
            f"2,{MS + 30},{MS},236.5,0,deleted,ask",
        ),
        Choice(venue="bitstamp", symbol="BTCUSD", role="spot"),
    ),
    Sample(
        "table",
        "funding",
        "BTC_rates.csv",
        _csv("t,rate", *(f"{MS + nth * 28_800_000},0.01" for nth in range(8))),
        Choice(mapping=Path("mapping.toml")),
    ),
)
