"""Builders that the guardrail tests share: bars in a calm market, a policy with other numbers, a messy market."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import guardrails
from guardrails.policy import Policy, parse_policy

T0 = datetime(2026, 1, 5, tzinfo=UTC)
SCHEMA = {
    "venue": pl.String, "symbol": pl.String, "ts": pl.Datetime("us", "UTC"),
    "close": pl.Float64, "trade_age_s": pl.Float64,
    "mark": pl.Float64, "mark_age_s": pl.Float64,
    "index": pl.Float64, "index_age_s": pl.Float64,
    "depth_bid_100bps_usd": pl.Float64, "depth_ask_100bps_usd": pl.Float64,
    "depth_age_s": pl.Float64, "depth_unchanged_s": pl.Float64,
    "book_rows_crossed": pl.Int64, "book_rows_frozen": pl.Int64,
    "oi_base": pl.Float64, "oi_usd": pl.Float64, "oi_age_s": pl.Float64,
    "liq_long_usd": pl.Int64, "liq_short_usd": pl.Int64,
}  # fmt: skip
CALM = {
    "close": 100.0, "trade_age_s": 1.0, "mark": 100.0, "mark_age_s": 1.0, "index": 100.0, "index_age_s": 1.0,
    "depth_bid_100bps_usd": 40e6, "depth_ask_100bps_usd": 50e6, "depth_age_s": 5.0, "depth_unchanged_s": 5.0,
    "book_rows_crossed": 0, "book_rows_frozen": 0, "oi_base": 1e7, "oi_usd": 1e9, "oi_age_s": 60.0,
    "liq_long_usd": 0, "liq_short_usd": 0,
}  # fmt: skip
BARS_ONLY = ["positions", "collateral", "fund"]
SHORT = {
    "inputs__reference_slow_min": 10, "inputs__volatility_min": 10, "inputs__depth_normal_min": 10,
    "inputs__oi_window_min": 10, "caps__loosen_hold_min": 5,
}  # fmt: skip


def _calm_bars(minutes: int, symbols: tuple[str, ...] = ("A",), changes: dict[int, dict[str, Any]] | None = None):
    """`minutes` rows per symbol from 00:01 on; `changes[i]` replaces values in minute i, the first being 1."""
    rows = [
        {"venue": "v", "symbol": symbol, "ts": T0 + timedelta(minutes=i), **CALM, **(changes or {}).get(i, {})}
        for symbol in symbols
        for i in range(1, minutes + 1)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _messy_bars(seed: int, minutes: int, symbols: tuple[str, ...] = ("A", "B", "C"), gaps: int = 3) -> pl.DataFrame:
    """A market in which everything goes wrong at times: jumps, thin books, faults, silent symbols, `gaps` silences."""
    dice = random.Random(seed)
    silent_minutes = {
        m for start in dice.sample(range(20, minutes), gaps) for m in range(start, start + dice.randint(1, 8))
    }
    rows = []
    for symbol in symbols:
        row, price, depth, oi = dict(CALM), 100.0, 40e6, 1e9
        silent_until = broken_until = 0
        broken: dict[str, Any] = {}
        for i in range(1, minutes + 1):
            price *= (
                1 + dice.gauss(0, 0.002) + (dice.choice((-1, 1)) * dice.uniform(0.02, 0.15) * (dice.random() < 0.006))
            )
            depth = 40e6 * dice.choice((0.3, 0.6, 1.0)) if dice.random() < 0.02 else depth
            oi *= (1 + dice.gauss(0, 0.002)) * (0.8 if dice.random() < 0.005 else 1.0)
            row = CALM | {"close": price, "mark": price * (1 + dice.gauss(0, 0.004)), "index": price,
                          "oi_base": oi / 100, "oi_usd": oi,
                          "liq_long_usd": 3 * 10**7 if dice.random() < 0.01 else 0,
                          "depth_bid_100bps_usd": round(depth * dice.uniform(0.9, 1.1))}  # fmt: skip
            if dice.random() < 0.01:
                name = dice.choice(list(CALM))
                broken = {
                    name: dice.choice((None, float("nan"), -1.0, 1e4))
                    if SCHEMA[name] != pl.Int64
                    else dice.choice((None, 2))
                }
                broken_until = i + dice.randint(1, 12)
            row |= broken if i < broken_until else {}
            silent_until = i + dice.randint(2, 15) if dice.random() < 0.004 else silent_until
            if i >= silent_until and i not in silent_minutes:
                rows.append({"venue": "v", "symbol": symbol, "ts": T0 + timedelta(minutes=i), **row})
    return pl.DataFrame(rows, schema=SCHEMA)


def _toml(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(entries)}" for key, entries in value.items()) + "}"


def _edited(text: str, **changes: Any) -> str:
    """The policy text with other values; a key is `section__setting`, a section `breakers.name` is `breakers_name`."""
    wanted, section, lines = dict(changes), "", []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]").replace(".", "_")
        name = line.split("=")[0].strip()
        key = f"{section}__{name}" if section else name
        if "=" in line and not line.startswith("#") and key in wanted:
            value = wanted.pop(key)
            line = f"{name} = {_toml(value)}"  # noqa: PLW2901  # rewritten on purpose
        lines.append(line)
    assert not wanted, f"no such setting: {sorted(wanted)}"
    return "\n".join(lines)


@pytest.fixture(scope="session")
def policy_text() -> str:
    return Path(str(guardrails.__file__)).with_name("policy.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def shipped(policy_text: str) -> Policy:
    return parse_policy(policy_text)


@pytest.fixture(scope="session")
def policy_with(policy_text: str) -> Callable[..., Policy]:
    """The shipped policy with other numbers, for a venue that publishes bars and nothing else."""
    return lambda **changes: parse_policy(_edited(policy_text, **{"inputs__not_published": BARS_ONLY} | changes))


@pytest.fixture(scope="session")
def policy(policy_with: Callable[..., Policy]) -> Policy:
    return policy_with()


@pytest.fixture(scope="session")
def edited(policy_text: str) -> Callable[..., str]:
    return lambda **changes: _edited(policy_text, **changes)


@pytest.fixture(scope="session")
def short_policy_with(policy_with: Callable[..., Policy]) -> Callable[..., Policy]:
    """Short windows, so that a small table shows everything: facts are complete from minute 11 on."""
    return lambda **changes: policy_with(**SHORT | changes)


@pytest.fixture(scope="session")
def short_policy(short_policy_with: Callable[..., Policy]) -> Policy:
    return short_policy_with()


@pytest.fixture(scope="session")
def calm_bars() -> Callable[..., pl.DataFrame]:
    return _calm_bars


@pytest.fixture(scope="session")
def messy_bars() -> Callable[..., pl.DataFrame]:
    return _messy_bars


@pytest.fixture(scope="session")
def at() -> Callable[[float], datetime]:
    return lambda minute: T0 + timedelta(minutes=minute)
