"""Oracles of the crowding family."""

import math
import statistics
from collections.abc import Callable

from tests.features.oracles.past import Oracle, Past, Value, clip, log_return, mean, rms, score, spread, whole

SIGMA_FLOOR = 5e-5
YEAR_S = 31_536_000


# --- basis and funding ---


def _basis(past: Past, t: int) -> Value:
    """bps, of the mark, else of a last trade that is at most 300 s old."""
    age = past.at("trade_age_s", t)
    last = past.at("close", t) if age is not None and age <= 300 else None
    perp = last if past.at("mark", t) is None else past.at("mark", t)
    index = past.at("index", t)
    return None if perp is None or index is None else 10_000 * (perp - index) / index


def _bases(past: Past, t: int, bars: int) -> list[Value]:
    return [_basis(past, i) for i in range(t - bars + 1, t + 1)]


def _minus(one: Value, two: Value) -> Value:
    return None if one is None or two is None else one - two


def basis_bps_5(past: Past, t: int) -> Value:
    return mean(_bases(past, t, past.bars(5)))


def basis_score_5(past: Past, t: int) -> Value:
    return score(lambda i: basis_bps_5(past, i), t, past.bars(5), past.bars(240), 1.0)


def basis_trend_60(past: Past, t: int) -> Value:
    return _minus(basis_bps_5(past, t), basis_bps_5(past, t - past.bars(60)))


def funding_annual(past: Past, t: int) -> Value:
    rate, hours = past.at("funding_rate", t), past.at("funding_interval_h", t)
    return None if rate is None or hours is None else rate * 365 * 24 / hours


def funding_change_480(past: Past, t: int) -> Value:
    return _minus(funding_annual(past, t), funding_annual(past, t - past.bars(480)))


def funding_predicted_gap(past: Past, t: int) -> Value:
    premium_bps, now = mean(_bases(past, t, past.bars(60)), 0.8), funding_annual(past, t)
    if premium_bps is None or now is None:
        return None
    premium = premium_bps / 10_000
    per_8h = premium + clip(0.0001 - premium, -0.0005, 0.0005)
    return per_8h * 3 * 365 - now


def funding_saturation(past: Past, t: int) -> Value:
    rate, hours = past.at("funding_rate", t), past.at("funding_interval_h", t)
    return None if rate is None or hours is None else min(abs(rate) / (0.0075 * hours / 8), 1.0)


def carry_bleed(past: Past, t: int) -> Value:
    rate, hours = past.at("funding_rate", t), past.at("funding_interval_h", t)
    leverage = past.at("leverage_p50", t)
    return None if rate is None or hours is None or leverage is None else rate * (24 / hours) * leverage


# --- other venues ---


def funding_apart(past: Past, t: int) -> Value:
    return _minus(funding_annual(past, t), past.at("peer_funding_median", t))


def basis_apart_bps(past: Past, t: int) -> Value:
    return _minus(_basis(past, t), past.at("peer_basis_median_bps", t))


def _range(own: Value, least: Value, greatest: Value) -> Value:
    every = whole([own, least, greatest])
    return None if every is None else max(every) - min(every)


def funding_dispersion(past: Past, t: int) -> Value:
    return _range(funding_annual(past, t), past.at("peer_funding_min", t), past.at("peer_funding_max", t))


def basis_dispersion_bps(past: Past, t: int) -> Value:
    return _range(_basis(past, t), past.at("peer_basis_min_bps", t), past.at("peer_basis_max_bps", t))


# --- volatility ---


def _sigma(past: Past, t: int, bars: int) -> Value:
    return rms([log_return(past, i) for i in range(t - bars + 1, t + 1)])


def _log_ratio(above: Value, below: Value) -> Value:
    if above is None or below is None:
        return None
    return math.log(max(above, SIGMA_FLOOR) / max(below, SIGMA_FLOOR))


def vol_ratio_15(past: Past, t: int) -> Value:
    m = past.bars
    return _log_ratio(_sigma(past, t, m(15)), _sigma(past, t - m(15), m(240)))


def vol_short_long_5(past: Past, t: int) -> Value:
    m = past.bars
    return _log_ratio(_sigma(past, t, m(5)), _sigma(past, t - m(5), m(60)))


def vol_annual_60(past: Past, t: int) -> Value:
    sigma = _sigma(past, t, past.bars(60))
    return None if sigma is None else sigma * math.sqrt(YEAR_S / past.bar_s)


def _log_sigma_15(past: Past, t: int) -> Value:
    sigma = _sigma(past, t, past.bars(15))
    return None if sigma is None else math.log(max(sigma, SIGMA_FLOOR))


def vol_score_15(past: Past, t: int) -> Value:
    return score(lambda i: _log_sigma_15(past, i), t, past.bars(15), past.bars(240), 0.1)


def vol_of_vol_240(past: Past, t: int) -> Value:
    return spread([_log_sigma_15(past, i) for i in range(t - past.bars(240) + 1, t + 1)])


def jump_share_60(past: Past, t: int) -> Value:
    n = past.bars(60)
    r = whole([log_return(past, i) for i in range(t - n + 1, t + 1)])
    if r is None or sum(x * x for x in r) < n * SIGMA_FLOOR**2:
        return None
    bipower = math.pi / 2 * sum(abs(r[i] * r[i - 1]) for i in range(1, n))
    return max(1 - bipower / sum(x * x for x in r), 0.0)


Bar = tuple[float, float, float, float]


def _candles(past: Past, t: int, bars: int) -> list[Bar] | None:
    """Logs of open, high, low, close of the bars (t - bars, t]; None where one is missing."""
    found = []
    for i in range(t - bars + 1, t + 1):
        prices = whole([past.at(name, i) for name in ("open", "high", "low", "close")])
        if prices is None:
            return None
        o, h, low, c = map(math.log, prices)
        found.append((o, h, low, c))
    return found


def _of_mean(variance: Callable[[Bar], float], bars: list[Bar] | None) -> Value:
    return None if bars is None else math.sqrt(max(statistics.fmean(map(variance, bars)), 0.0))


def _garman_klass(bar: Bar) -> float:
    o, h, low, c = bar
    return (h - low) ** 2 / 2 - (2 * math.log(2) - 1) * (c - o) ** 2


def _rogers_satchell(bar: Bar) -> float:
    o, h, low, c = bar
    return (h - c) * (h - o) + (low - c) * (low - o)


def _parkinson_sigma(past: Past, t: int, bars: int) -> Value:
    high, low = whole(past.window("high", t, bars)), whole(past.window("low", t, bars))
    if high is None or low is None:
        return None
    squares = [math.log(top / bottom) ** 2 for top, bottom in zip(high, low, strict=True)]
    return math.sqrt(statistics.fmean(squares) / (4 * math.log(2)))


def parkinson_ratio_15(past: Past, t: int) -> Value:
    m = past.bars
    return _log_ratio(_parkinson_sigma(past, t, m(15)), _parkinson_sigma(past, t - m(15), m(240)))


def vol_wick_60(past: Past, t: int) -> Value:
    n = past.bars(60)
    return _log_ratio(_parkinson_sigma(past, t, n), _sigma(past, t, n))


def vol_one_way_60(past: Past, t: int) -> Value:
    bars = _candles(past, t, past.bars(60))
    return _log_ratio(_of_mean(_garman_klass, bars), _of_mean(_rogers_satchell, bars))


def vol_gap_share_60(past: Past, t: int) -> Value:
    n = past.bars(60)
    bars, before = _candles(past, t, n), past.at("close", t - n)
    if bars is None or before is None:
        return None
    closes = [math.log(before), *(c for _, _, _, c in bars)]
    gap = statistics.variance(bar[0] - closes[i] for i, bar in enumerate(bars))
    body = statistics.variance(c - o for o, _, _, c in bars)
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    total = gap + k * body + (1 - k) * statistics.fmean(map(_rogers_satchell, bars))
    return gap / total if total >= SIGMA_FLOOR**2 else None


# --- the combination ---


def _heat(past: Past, t: int, baseline: int) -> Value:
    ratio = _log_ratio(_sigma(past, t, past.bars(15)), _sigma(past, t - past.bars(15), baseline))
    return None if ratio is None else clip(math.exp(ratio), 1 / 3, 3.0)


def _basis_lean(past: Past, t: int, baseline: int) -> Value:
    now, usual = basis_bps_5(past, t), rms(_bases(past, t - past.bars(5), baseline), 0.8)
    return None if now is None or usual is None else clip(now / max(usual, 5.0), -5.0, 5.0)


def _funding_lean(past: Past, t: int) -> Value:
    annual = funding_annual(past, t)
    return None if annual is None else clip(annual / 0.3, -5.0, 5.0)


def basis_heat_15(past: Past, t: int) -> Value:
    n = past.bars(240)
    parts = whole([_heat(past, t, n), _basis_lean(past, t, n)])
    return None if parts is None else math.tanh(parts[0] * parts[1] / 4)


def crowding_score_15(past: Past, t: int) -> Value:
    n = past.bars(240)
    parts = whole([_heat(past, t, n), _basis_lean(past, t, n), _funding_lean(past, t)])
    return None if parts is None else math.tanh(parts[0] * (parts[1] + parts[2]) / 4)


def crowding_agreed_1440(past: Past, t: int) -> Value:
    n = past.bars(1440)
    parts = whole([_heat(past, t, n), _basis_lean(past, t, n), _funding_lean(past, t)])
    if parts is None:
        return None
    heat, basis, funding = parts
    if basis * funding <= 0:
        return 0.0
    return math.copysign(math.tanh((heat * basis * funding) ** (1 / 3) / 2), basis)


def crowding_apart_15(past: Past, t: int) -> Value:
    recent = [basis_apart_bps(past, i) for i in range(t - past.bars(5) + 1, t + 1)]
    parts = whole([_heat(past, t, past.bars(240)), mean(recent), funding_apart(past, t)])
    if parts is None:
        return None
    heat, basis, funding = parts
    return math.tanh(heat * (clip(basis / 5.0, -5.0, 5.0) + clip(funding / 0.3, -5.0, 5.0)) / 4)


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(basis_bps_5, basis_score_5, funding_annual, vol_ratio_15, parkinson_ratio_15, vol_score_15, jump_share_60),
        *(crowding_score_15, basis_heat_15, funding_predicted_gap, funding_saturation, funding_change_480),
        *(basis_trend_60, funding_apart, basis_apart_bps, funding_dispersion, basis_dispersion_bps, carry_bleed),
        *(vol_annual_60, vol_wick_60, vol_one_way_60, vol_gap_share_60, vol_of_vol_240, vol_short_long_5),
        *(crowding_agreed_1440, crowding_apart_15),
    )
}
