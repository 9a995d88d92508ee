"""Oracles of the context family."""

import math
from collections.abc import Callable

from tests.features.oracles.past import Oracle, Past, Value, log_return, rms, total

F = 10_000
SIGMA_FLOOR = 5e-5


def _minute(past: Past, t: int) -> float:
    ts = past.at("ts", t)
    return float(60 * ts.hour + ts.minute + ts.second / 60)


def hour_sin(past: Past, t: int) -> Value:
    return math.sin(2 * math.pi * _minute(past, t) / 1_440)


def hour_cos(past: Past, t: int) -> Value:
    return math.cos(2 * math.pi * _minute(past, t) / 1_440)


def weekend(past: Past, t: int) -> Value:
    return float(past.at("ts", t).strftime("%a") in ("Sat", "Sun"))


def funding_due_min(past: Past, t: int) -> Value:
    hours = past.at("funding_interval_h", t)
    if hours is None:
        return None
    interval = round(60 * hours)
    if interval < 1 or 1_440 % interval:
        return None
    return float(min(k * interval - _minute(past, t) for k in range(1, 1_441) if k * interval > _minute(past, t)))


def _decay(past: Past, t: int, event: Callable[[int], bool | None], reach: int) -> Value:
    if t < reach:
        return None
    told = [(i, event(i)) for i in range(t - past.bars(240) + 1, t + 1)]
    known = [(i, happened) for i, happened in told if happened is not None]
    if len(known) < math.ceil(0.8 * past.bars(240)):
        return None
    last = max((i for i, happened in known if happened), default=None)
    return 0.0 if last is None else math.exp(-(t - last) * past.bar_s / 3_600)


def _forced(past: Past, i: int, share: float) -> bool | None:
    names = ("liq_long_usd", "liq_short_usd", "volume_usd")
    longs, shorts, traded = (total(past.window(name, i, past.bars(5))) for name in names)
    both = [(a, b) for a, b in zip(*(past.window(name, i, past.bars(5)) for name in names[:2]), strict=True)]
    if longs is None or shorts is None or traded is None or any(a is None or b is None for a, b in both):
        return None
    return longs + shorts > share * (traded + F)


def _moved(past: Past, i: int, bars: int) -> bool | None:
    move = log_return(past, i, bars)
    before = [log_return(past, j) if j >= 0 else None for j in range(i - bars - past.bars(240) + 1, i - bars + 1)]
    usual = rms(before, 0.8)
    return None if move is None or usual is None else abs(move) > 4 * math.sqrt(bars) * max(usual, SIGMA_FLOOR)


def shock_decay_240(past: Past, t: int) -> Value:
    k, baseline = past.bars(5), past.bars(240)

    def shock(i: int) -> bool | None:
        told = [_moved(past, i, 1), _moved(past, i, k)]
        if _forced(past, i, 0.05) or any(told):
            return True
        return None if None in told else False

    return _decay(past, t, shock, baseline - 1 + k + baseline)


def liq_decay_240(past: Past, t: int) -> Value:
    return _decay(past, t, lambda i: _forced(past, i, 0.01), past.bars(240) + past.bars(5) - 2)


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle for oracle in (hour_sin, hour_cos, weekend, funding_due_min, shock_decay_240, liq_decay_240)
}
