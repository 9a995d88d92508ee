"""Oracles of the drift family."""

import math
from functools import partial

from scipy import stats

from tests.features.oracles.past import Oracle, Past, Value, clip, mean

FLOORS = {"basis": 0.01, "funding": 0.1}


def _log(value: Value) -> Value:
    return None if value is None or value <= 0 else math.log(value)


def _thinner(past: Past, i: int, band: int) -> Value:
    bid, ask = (past.at(f"depth_{side}_{band}bps_usd", i) for side in ("bid", "ask"))
    return None if bid is None or ask is None else _log(min(bid, ask) + 1)


def _touch(past: Past, i: int) -> Value:
    return _thinner(past, i, 20)


def _depth(past: Past, i: int) -> Value:
    return _thinner(past, i, 100)


def _spread(past: Past, i: int) -> Value:
    spread = past.at("spread_bps", i)
    return None if spread is None else _log(spread + 0.01)


def _volume(past: Past, i: int) -> Value:
    volume = past.at("volume_usd", i)
    return None if volume is None else _log(volume + 10_000)


def _cancels(past: Past, i: int) -> Value:
    bid, ask = past.at("cancel_bid_usd", i), past.at("cancel_ask_usd", i)
    return None if bid is None or ask is None else _log(bid + ask + 10_000)


def _range(past: Past, i: int) -> Value:
    high, low = past.at("high", i), past.at("low", i)
    return None if high is None or low is None else _log(1e4 * math.log(high / low) + 0.5)


def _basis(past: Past, i: int) -> Value:
    perp, index, age = past.at("mark", i), past.at("index", i), past.at("trade_age_s", i)
    if perp is None and age is not None and age <= 300:
        perp = past.at("close", i)
    return None if perp is None or index is None else 100 * (perp / index - 1)


def _funding(past: Past, i: int) -> Value:
    rate, hours = past.at("funding_rate", i), past.at("funding_interval_h", i)
    return None if rate is None or hours is None else 10 * rate * 8_760 / hours


MEASURES = {
    "depth": _depth,
    "touch": _touch,
    "spread": _spread,
    "volume": _volume,
    "cancels": _cancels,
    "range": _range,
    "basis": _basis,
    "funding": _funding,
}


def _surprise(name: str, past: Past, t: int) -> Value:
    pairs: list[tuple[float, float] | None] = []
    for i in range(t - past.bars(60) + 1, t + 1):
        x = MEASURES[name](past, i) if i >= 0 else None
        usual, day_sd = past.at(f"norm_{name}_mean", i), past.at(f"norm_{name}_day_sd", i)
        pairs.append(None if x is None or usual is None or day_sd is None else (x - usual, day_sd))
    gap, width = (mean([None if pair is None else pair[part] for pair in pairs], 0.8) for part in (0, 1))
    k = past.at(f"norm_{name}_days", t)
    if t < past.bars(60) - 1 or gap is None or width is None or k is None or k < 2:
        return None
    t_value = gap / (max(width, FLOORS.get(name, 0.05)) * math.sqrt(1 + 1 / k))
    p = 2 * float(stats.t.sf(abs(t_value), k - 1))
    return math.copysign(clip(-math.log10(max(p, 1e-300)), 0.0, 6.0), t_value)


def _surprises(past: Past, t: int) -> list[float]:
    return [value for name in MEASURES if (value := _surprise(name, past, t)) is not None]


def drift_count(past: Past, t: int) -> Value:
    told = _surprises(past, t)
    return float(sum(abs(value) > 2 for value in told)) if told else None


def drift_share(past: Past, t: int) -> Value:
    told = _surprises(past, t)
    return sum(abs(value) > 2 for value in told) / len(told) if told else None


ORACLES: dict[str, Oracle] = {
    **{f"drift_{name}_60": partial(_surprise, name) for name in MEASURES},
    "drift_count": drift_count,
    "drift_share": drift_share,
}
