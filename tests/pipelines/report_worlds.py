"""A small lake for the report: one venue, two symbols, four hours, every number made by hand.

| minutes | AAA-PERP | BBB-PERP | venue |
|---|---|---|---|
| 1-60 | reference period | reference period | reference period |
| 100-104 | | alerts (twice the threshold) | |
| 121-150 | alerts (four times the threshold) | | alerts |
| 125 | price band opens, probation at 140, open again from 142 | | |
| 205-240 | alerts, 55 minutes after the last one | | alerts |

BBB-PERP is cautious throughout because depth is missing; its stale feed opens at 50 and is clear at 65.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.lake import SCHEMAS, Lake
from pipelines.times import Interval

START = datetime(2025, 10, 10, tzinfo=UTC)
MINUTES = 240
VENUE = "testex"
A, B, WHOLE = "AAA-PERP", "BBB-PERP", "*"
POLICY = {"policy_version": 3, "policy_sha256": "ab" * 32}
NO_MODEL = "no early-warning model registered"


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


SPAN = Interval(START, at(MINUTES))


@dataclass(frozen=True)
class World:
    """What varies between lakes; the defaults are the table above."""

    venue: str = VENUE
    a: str = A
    b: str = B
    tables: tuple[str, ...] = ("scores", "limits", "decisions", "bars", "quarantine", "ingest_log", "account_decisions")
    probabilities: bool = False
    anomaly: bool = True
    minutes: int = MINUTES
    extra_symbols: tuple[str, ...] = ()
    accounts: bool = False
    reasons: str = "crowding 4.4 (basis_bps_5 = -31.2), thin_book 2.1 (kyle_score_60 = 6.3)"
    extra: dict[str, Any] = field(default_factory=dict)


def table(name: str, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMAS[name])


def _alerts(world: World, symbol: str, minute: int) -> bool:
    if symbol == world.b:
        return 100 <= minute <= 104
    return symbol in (world.a, WHOLE) and (121 <= minute <= 150 or 205 <= minute <= 240)


def _score(world: World, symbol: str, minute: int) -> dict[str, Any]:
    reference, alert = minute <= 60, _alerts(world, symbol, minute) and world.anomaly
    surprise = (4.0 if symbol == world.b else 8.0) if alert else 1.0
    spoke = "reference period" if reference else "detector" if world.anomaly else "detector has no input"
    p_15m = (0.4 if alert else 0.02) if world.probabilities else None
    return {
        "venue": world.venue, "symbol": symbol, "ts": at(minute), "available_at": at(minute),
        "status": f"{spoke}; {'model' if world.probabilities else NO_MODEL}",
        "anomaly": surprise if world.anomaly and not reference else None, "anomaly_threshold": 2.0,
        "p_15m": p_15m, "p_60m": None if p_15m is None else 1.5 * p_15m,
        "p_threshold": 0.25 if world.probabilities else None,
        "alert": alert, "lead_family": "crowding" if alert else None, "reasons": world.reasons if alert else None,
        "missing_inputs": None if symbol == WHOLE else "funding, liquidations",
        "detector_uri": "models:/cascadeguard-detector/7",
        "model_uri": "models:/cascadeguard-warning/2" if world.probabilities else None,
    }  # fmt: skip


def symbols(world: World) -> tuple[str, ...]:
    return (world.a, world.b, *world.extra_symbols)


def _limit(world: World, symbol: str, minute: int) -> dict[str, Any]:
    breached = symbol == world.a and minute >= 125
    held = symbol == world.b
    action = "reduce_only" if breached else "cautious" if held else "normal"
    reason = {
        "reduce_only": "price moved -7.2 % against its 5-min mean; band is 5.0 %; new positions are paused; "
        "clears after 10 min within 2.5 %",
        "cautious": "depth missing; safe side: new positions only up to the leverage floor",
        "normal": "all rules are clear",
    }[action]
    return {
        "venue": world.venue, "symbol": symbol, "ts": at(minute), "action": action, "leverage_cap": 10.0,
        "exposure_cap_usd": 10_000 if held else 2_500_000,
        "binding": "price_band" if breached else "depth_collapse" if held else "none",
        "reason": reason, "reasons": reason, "missing": "depth missing" if held else None,
        "expires_at": at(minute + 15), **POLICY, "leverage_cap_hard": 10.0,
        "leverage_cap_effective": 5.0 if breached else 10.0, "proposal": "bounded" if breached else "none",
        "blocked": "raise leverage, loosen" if held else None,
        "blocked_why": "depth is insufficient (floored)" if held else None,
        "throttle_usd_min": 100_000,
        "throttle_reason": "depth missing; safe side: 100,000 USD may be forced in the next minute" if held else None,
    }  # fmt: skip


DECISIONS = (
    # minute, symbol, rule, before, after, action, observed, limit
    (1, "a", "price_band", None, "missing", "cautious", None, 2.0),
    (1, "b", "depth_collapse", None, "missing", "cautious", None, 2.0),
    (8, "a", "price_band", "missing", "closed", "normal", 0.001, None),
    (50, "b", "stale_feed", "closed", "open", "reduce_only", 304.0, 0.0),
    (60, "b", "stale_feed", "open", "half_open", "cautious", 20.0, 2.0),
    (65, "b", "stale_feed", "half_open", "closed", "normal", 5.0, None),
    (125, "a", "price_band", "closed", "open", "reduce_only", 0.072, 0.0),
    (140, "a", "price_band", "open", "half_open", "cautious", 0.02, 2.0),
    (142, "a", "price_band", "half_open", "open", "reduce_only", 0.051, 0.0),
)


def _decision(world: World, row: tuple[Any, ...]) -> dict[str, Any]:
    minute, who, rule, before, after, action, observed, limit = row
    seconds = rule == "stale_feed"
    return {
        "decision_id": f"id-{minute}-{who}", "venue": world.venue, "scope": "symbol",
        "entity": {"a": world.a, "b": world.b}[who], "ts": at(minute), "rule": rule, "state_before": before,
        "state_after": after, "action": action, "limit_after": limit, "limit_unit": "x of new positions",
        "observed": observed, "threshold": 300.0 if seconds else 0.05, "unit": "s" if seconds else "share",
        "reason": f"{rule} said so; clears after 10 min", "clears_when": f"clears after 10 min of {rule}",
        "reset_authority": "timer", "expires_at": at(minute + 15), "data_health": "ok", **POLICY,
    }  # fmt: skip


def _bar(world: World, symbol: str, minute: int) -> dict[str, Any]:
    fallen = symbol == world.a and minute >= 125
    close = 90.0 if fallen else 100.0
    return {
        "venue": world.venue, "symbol": symbol, "ts": at(minute), "known_at": at(minute), "close": close,
        "index": 100.0, "index_age_s": 3.0, "trades": 50, "trade_age_s": 400.0 if minute == 130 else 2.0,
        "trade_ids_missing": 30 if symbol == world.a and 126 <= minute <= 129 else 0,
        "latency_ms_max": 7_000.0 if minute == 127 else 40.0,
        "depth_bid_100bps_usd": 5_000 if symbol == world.a and minute <= 180 else None,
        "book_rows_crossed": 0, "book_rows_frozen": 0, "rows_refused": 0,
    }  # fmt: skip


def _refused(world: World) -> Iterable[dict[str, Any]]:
    both = "crossed_book; frozen_book"
    times = [(100.5, "crossed_book"), (101.0, both), (102.0, both), (MINUTES + 60.0, both), (None, "unreadable_ts")]
    for line, (minute, reason) in enumerate(times, start=2):
        yield {
            "table": "book_depth", "source": "book.csv", "source_sha256": "cd" * 32, "line": line,
            "venue": world.venue, "symbol": world.b, "ts": None if minute is None else at(minute),
            "known_at": None, "reason": reason, "raw": "…",
        }  # fmt: skip


def _ingest(world: World) -> Iterable[dict[str, Any]]:
    for name, read, refused in (("trades", 12_000, 0), ("book_depth", 4_005, 5)):
        yield {
            "table": name, "source": f"{name}.csv", "source_sha256": "cd" * 32, "adapter": "tardis",
            "rows_read": read, "rows_accepted": read - refused, "rows_quarantined": refused,
        }  # fmt: skip


def _account(world: World, account: str, excess_usd: int) -> dict[str, Any]:
    return {
        "venue": world.venue, "account": account, "symbol": world.a, "ts": at(MINUTES), "snapshot_ts": at(MINUTES - 1),
        "rule": "leverage_cap", "verdict": "tripped", "leverage": 12.0, "leverage_cap": 10.0, "notional_usd": 1e6,
        "exposure_cap_usd": 2_500_000, "excess_usd": excess_usd, "action": "reduce", "reason": "leverage is 12x",
        **POLICY,
    }  # fmt: skip


def rows_of(world: World, name: str) -> pl.DataFrame:
    minutes = range(1, world.minutes + 1)
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "scores": (_score(world, symbol, minute) for symbol in (WHOLE, *symbols(world)) for minute in minutes),
        "limits": (_limit(world, symbol, minute) for symbol in symbols(world) for minute in minutes),
        "decisions": (_decision(world, row) for row in DECISIONS if row[0] <= world.minutes),
        "bars": (_bar(world, symbol, minute) for symbol in symbols(world) for minute in minutes),
        "quarantine": _refused(world),
        "ingest_log": _ingest(world),
        "account_decisions": [_account(world, "small", 10), _account(world, "large", 50_000)] if world.accounts else [],
    }
    return table(name, rows[name])


def build(root: Path, *worlds: World) -> Lake:
    """A lake under `root` that holds `worlds`."""
    lake = Lake(root)
    for world in worlds or (World(),):
        for name in world.tables:
            frame = rows_of(world, name)
            if name in ("quarantine", "ingest_log"):
                lake.append(name, frame, f"{world.venue}-{name}")
            else:
                lake.replace(name, frame, world.venue, START, at(world.minutes + 1))
    return lake
