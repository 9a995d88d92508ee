"""Oracles of the thin_book family."""

import math
import statistics

import numpy as np

from tests.features.oracles.past import (
    Oracle,
    Past,
    Value,
    added,
    clip,
    log_return,
    mean,
    rms,
    score,
    total,
    whole,
)

D, F = 1, 10_000
BANDS = (20, 100, 200, 500)
SIDES = ("bid", "ask")


def _log(value: Value, floor: float) -> Value:
    return None if value is None else math.log(value + floor)


def _depths(past: Past, t: int, band: int) -> tuple[Value, Value]:
    return past.at(f"depth_bid_{band}bps_usd", t), past.at(f"depth_ask_{band}bps_usd", t)


def _thinner(past: Past, t: int, band: int) -> Value:
    sides = whole(_depths(past, t, band))
    return None if sides is None else math.log(min(sides) + D)


def _log_both(past: Past, t: int, band: int) -> Value:
    return _log(added(*_depths(past, t, band)), D)


def _worse(one: Value, two: Value) -> Value:
    return None if one is None or two is None else max(one, two)


def _norm(past: Past, t: int, name: str, x: Value) -> Value:
    middle, sd = past.at(f"norm_{name}_mean", t), past.at(f"norm_{name}_sd", t)
    return None if x is None or middle is None or sd is None else (middle - x) / max(sd, 0.1)


def depth_norm(past: Past, t: int) -> Value:
    return _norm(past, t, "depth", _thinner(past, t, 100))


def touch_norm(past: Past, t: int) -> Value:
    return _norm(past, t, "touch", _thinner(past, t, 20))


def _log_spread(past: Past, t: int) -> Value:
    return _log(past.at("spread_bps", t), 0.01)


def spread_norm(past: Past, t: int) -> Value:
    below = _norm(past, t, "spread", _log_spread(past, t))
    return None if below is None else -below


def depth_drop_240(past: Past, t: int) -> Value:
    bars = past.bars(240)

    def fallen(side: str) -> Value:
        logs = [_log(past.at(f"depth_{side}_100bps_usd", i), D) for i in range(t - bars, t + 1)]
        usual = mean(logs[:-1], 0.8)
        return None if usual is None or logs[-1] is None else usual - logs[-1]

    return _worse(fallen("bid"), fallen("ask"))


def depth_drain_5(past: Past, t: int) -> Value:
    def fallen(side: str) -> Value:
        now, before = (_log(past.at(f"depth_{side}_100bps_usd", i), D) for i in (t, t - past.bars(5)))
        return None if now is None or before is None else before - now

    return _worse(fallen("bid"), fallen("ask"))


def depth_imbalance(past: Past, t: int) -> Value:
    bid, ask = _depths(past, t, 100)
    return None if bid is None or ask is None else (bid - ask) / (bid + ask + D)


def touch_share(past: Past, t: int) -> Value:
    near, wide = added(*_depths(past, t, 20)), added(*_depths(past, t, 100))
    return None if near is None or wide is None else clip(near / (wide + D), 0.0, 1.0)


def depth_slope(past: Past, t: int) -> Value:
    far, near = _log_both(past, t, 500), _log_both(past, t, 100)
    return None if far is None or near is None else (far - near) / math.log(5)


def depth_curve(past: Past, t: int) -> Value:
    d20, d100, d500 = (_log_both(past, t, band) for band in (20, 100, 500))
    if d20 is None or d100 is None or d500 is None:
        return None
    return (d100 - d20) / math.log(5) - (d500 - d100) / math.log(5)


def spread_over_vol_15(past: Past, t: int) -> Value:
    spread, sigma = _log_spread(past, t), rms([log_return(past, i) for i in range(t - past.bars(15) + 1, t + 1)])
    return None if spread is None or sigma is None else spread - math.log(1e4 * max(sigma, 5e-5))


def spread_score_15(past: Past, t: int) -> Value:
    m = past.bars

    def x(i: int) -> Value:
        return mean([_log_spread(past, j) for j in range(i - m(15) + 1, i + 1)])

    return score(x, t, m(15), m(240), 0.1)


def gap_burst_15(past: Past, t: int) -> Value:
    m, torn = past.bars, []
    for i in range(t - m(15) + 1, t + 1):
        widest, before = past.at("spread_bps_max", i), whole(past.window("spread_bps", i, m(240), lag=1))
        if widest is None or before is None:
            return None
        torn.append(widest > 3 * statistics.median(before))
    return sum(torn) / len(torn)


def quote_imbalance_5(past: Past, t: int) -> Value:
    return mean(past.window("imbalance", t, past.bars(5)))


def volume_imbalance_15(past: Past, t: int) -> Value:
    buys, sells = (total(past.window(f"{side}_usd", t, past.bars(15))) for side in ("buy", "sell"))
    return None if buys is None or sells is None else (buys - sells) / (buys + sells + F)


def _book(past: Past, t: int, side: str) -> list[float] | None:
    depths = whole([past.at(f"depth_{side}_{band}bps_usd", t) for band in BANDS])
    return None if depths is None else np.maximum.accumulate(depths).tolist()


def _walk(past: Past, t: int, side: str, usd: float) -> Value:
    """Dollar by dollar: what a thousand equal slices of the order pay, each at its place in the book."""
    book = _book(past, t, side)
    if book is None or book[-1] <= 0:
        return None
    filled = min(usd, book[-1])
    places = (np.arange(20_000) + 0.5) / 20_000 * filled
    return float(np.mean(np.interp(places, [0.0, *book], [0.0, *BANDS])))


def slip_100k_bps(past: Past, t: int) -> Value:
    return _worse(*(_walk(past, t, side, 1e5) for side in SIDES))


def slip_1m_bps(past: Past, t: int) -> Value:
    return _worse(*(_walk(past, t, side, 1e6) for side in SIDES))


def slip_1m_short(past: Past, t: int) -> Value:
    books = [_book(past, t, side) for side in SIDES]
    return _worse(*(None if book is None else 1 - min(book[-1] / 1e6, 1.0) for book in books))


def resilience_60(past: Past, t: int) -> Value:
    bars = past.bars(60)
    x = whole([_thinner(past, i, 100) for i in range(t - bars, t + 1)])
    if x is None or statistics.pvariance(x[:-1]) == 0:
        return None
    phi = statistics.covariance(x[1:], x[:-1]) / statistics.variance(x[:-1])
    return past.bar_s / 60 * math.log(0.5) / math.log(clip(phi, 0.01, 0.99))


def _per_dollar(past: Past, t: int, moves: list[Value]) -> Value:
    path, traded = total(moves), total(past.window("volume_usd", t, past.bars(15)))
    return None if path is None or traded is None else math.log((1e4 * path + 1) / (traded + F))


def amihud_score_15(past: Past, t: int) -> Value:
    m = past.bars

    def x(i: int) -> Value:
        returns = [log_return(past, j) for j in range(i - m(15) + 1, i + 1)]
        return _per_dollar(past, i, [None if r is None else abs(r) for r in returns])

    return score(x, t, m(15), m(240), 0.1)


def range_score_15(past: Past, t: int) -> Value:
    m = past.bars

    def width(i: int) -> Value:
        high, low = past.at("high", i), past.at("low", i)
        return None if high is None or low is None else math.log(high / low)

    return score(lambda i: _per_dollar(past, i, [width(j) for j in range(i - m(15) + 1, i + 1)]), t, m(15), m(240), 0.1)


def kyle_slope_60(past: Past, t: int) -> Value:
    bars = past.bars(60)
    pairs = zip(past.window("buy_usd", t, bars), past.window("sell_usd", t, bars), strict=True)
    flows = [None if b is None or s is None else b - s for b, s in pairs]
    q = whole([None if f is None else math.copysign(math.sqrt(abs(f) / 1e6), f) for f in flows])
    r = whole([log_return(past, i) for i in range(t - bars + 1, t + 1)])
    if q is None or r is None:
        return None
    moves = [round(1e4 * v / 0.005) * 0.005 for v in r]  # counted in steps of half a hundredth of a bp
    roots = [round(v / 1e-4) * 1e-4 for v in q]  # counted in steps of a ten-thousandth of a square-root million dollars
    covariance = statistics.covariance(moves, roots) * (bars - 1) / bars
    return covariance / (statistics.pvariance(roots) + 0.01)


def kyle_score_60(past: Past, t: int) -> Value:
    m = past.bars

    def x(i: int) -> Value:
        slope = kyle_slope_60(past, i)
        return None if slope is None else math.log(max(slope, 0.0) + 0.1)

    return score(x, t, m(60), m(240), 0.1)


def thin_share(past: Past, t: int) -> Value:
    flags = []
    for one in past.others.values():
        x, middle, sd = _thinner(one, t, 100), one.at("norm_depth_mean", t), one.at("norm_depth_sd", t)
        if x is not None and middle is not None and sd is not None:
            flags.append(x < middle - 1.645 * sd)
    return sum(flags) / len(flags) if len(flags) >= 2 else None


def depth_eigen_60(past: Past, t: int) -> Value:
    bars, columns = past.bars(60), []
    for one in past.others.values():
        x = whole([_thinner(one, i, 100) for i in range(t - bars, t + 1)])
        if x is not None and len(set(x)) > 1:
            columns.append(np.diff(x))
    if len(columns) < 2:
        return None
    return float(np.linalg.eigvalsh(np.corrcoef(columns))[-1] / len(columns))


def fuel_over_depth_100(past: Past, t: int) -> Value:
    long, short = past.at("fuel_long_100bps_usd", t), past.at("fuel_short_100bps_usd", t)
    bid, ask = _depths(past, t, 100)
    if long is None or short is None or bid is None or ask is None:
        return None
    return min(max(long / max(bid, D), short / max(ask, D)), 1e6)


def cliff_bps(past: Past, t: int) -> Value:
    found = []
    for held, side in (("long", "bid"), ("short", "ask")):
        fuel = whole([past.at(f"fuel_{held}_{band}bps_usd", t) for band in BANDS[1:]])
        depth = whole([past.at(f"depth_{side}_{band}bps_usd", t) for band in BANDS[1:]])
        if fuel is None or depth is None:
            return None
        burnt, stands = np.diff([0, *fuel]), np.maximum(np.diff([0, *depth]), D)
        found.append(next((float(b) for b, f, d in zip(BANDS[1:], burnt, stands, strict=True) if f >= d), 1_000.0))
    return min(found)


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(depth_norm, touch_norm, spread_norm, depth_drop_240, depth_drain_5, depth_imbalance, touch_share),
        *(depth_slope, depth_curve, spread_over_vol_15, spread_score_15, gap_burst_15, quote_imbalance_5),
        *(volume_imbalance_15, slip_100k_bps, slip_1m_bps, slip_1m_short, resilience_60, amihud_score_15),
        *(range_score_15, kyle_slope_60, kyle_score_60, thin_share, depth_eigen_60, fuel_over_depth_100, cliff_bps),
    )
}
