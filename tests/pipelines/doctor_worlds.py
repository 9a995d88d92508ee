"""Small feeds for the doctor, made by hand: what is sound gives no finding, and each fault is planted on its own."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from features.schema import CANONICAL, Instruments, Quarantine, polars_schema
from pipelines.doctoring.evidence import PIECE_ROWS_MAX, Evidence, survey

T0 = datetime(2025, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def table(name: str, rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    """Rows of a canonical table: `t` is seconds after T0, `known_at` is `ts` unless given, `same` holds for all."""
    filled = []
    for nth, row in enumerate(rows):
        ts = at(row["t"])
        base = {"venue": "v", "symbol": "BTCUSDT", "ts": ts, "known_at": ts, "seq": nth, "trade_id": str(nth)}
        filled.append(base | same | {key: value for key, value in row.items() if key != "t"})
    schema = polars_schema(CANONICAL[name])
    return pl.DataFrame([{key: row.get(key) for key in schema} for row in filled], schema=schema)


def trades(seconds: Sequence[float], **same: Any) -> pl.DataFrame:
    plain = {"side": "buy", "price": 100.0, "qty": 1.0, "notional_usd": 100.0}
    return table("trades", [{"t": t} for t in seconds], **(plain | same))


def liquidations(rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    plain = {"position_side": "long", "qty": 1.0, "price": 100.0, "notional_usd": 100.0, "path": "market"}
    return table("liquidations", rows, **(plain | same))


def open_interest(rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    return table("open_interest", rows, **({"oi_base": 1.0, "oi_usd": 100.0} | same))


def funding(days: int, rate: float, hours: float = 8.0, **same: Any) -> pl.DataFrame:
    stamps = [{"t": hours * 3600 * nth} for nth in range(int(days * 24 / hours))]
    return table("funding", stamps, **({"rate": rate, "interval_h": hours} | same))


def candles(volumes: Sequence[float], interval_s: int = 300, **same: Any) -> pl.DataFrame:
    rows = [{"t": interval_s * (nth + 1), "volume": volume} for nth, volume in enumerate(volumes)]
    prices = dict.fromkeys(("open", "high", "low", "close"), 100.0)
    return table("candles", rows, **(prices | {"interval_s": interval_s} | same))


def instrument(venue: str, symbol: str, base: str, contract_size: float) -> pl.DataFrame:
    row = {"venue": venue, "symbol": symbol, "effective_from": T0, "base": base, "quote": "USDT",
           "settlement": "linear", "contract_size": contract_size}  # fmt: skip
    schema = polars_schema(Instruments)
    return pl.DataFrame([{name: row.get(name) for name in schema}], schema=schema)


def refusal(line: int, t: float, reason: str, **same: Any) -> dict[str, Any]:
    return {
        "table": "book_depth", "source": "f", "source_sha256": "x", "line": line, "item": 0, "venue": "v",
        "symbol": "BTCUSDT", "ts": at(t), "known_at": at(t), "reason": reason, "raw": "",
    } | same  # fmt: skip


def evidence(
    *,
    instruments: pl.DataFrame | None = None,
    refused: Sequence[Mapping[str, Any]] = (),
    piece_rows_max: int = PIECE_ROWS_MAX,
    **tables: pl.DataFrame,
) -> Evidence:
    frames = {name: frame.lazy() for name, frame in tables.items()}
    known = pl.DataFrame(schema=polars_schema(Instruments)) if instruments is None else instruments
    quarantine = pl.LazyFrame(refused, schema=polars_schema(Quarantine))
    return survey(frames, known, quarantine, piece_rows_max)
