"""Oracles of the cancels family."""

import math
from itertools import pairwise

import numpy as np
from scipy import stats

from tests.features.oracles.past import Oracle, Past, Value, added, clip, mean, score, spread, told, total

F = 10_000


def _sum(past: Past, names: list[str], t: int, bars: int, lag: int = 0) -> Value:
    return added(*(total(past.window(name, t, bars, lag)) for name in names))


def _cancelled(past: Past, t: int, bars: int) -> Value:
    return _sum(past, ["cancel_bid_usd", "cancel_ask_usd"], t, bars)


def _log1p(value: Value) -> Value:
    return None if value is None else math.log1p(value)


def _log_ratio(above: Value, below: Value, floor: float = F) -> Value:
    return None if above is None or below is None else math.log((above + floor) / (below + floor))


def cancel_burst_5(past: Past, t: int) -> Value:
    m = past.bars
    return score(lambda i: _log1p(_cancelled(past, i, m(5))), t, m(5), m(240), 0.1, share=1.0)


def cancel_rate_score_15(past: Past, t: int) -> Value:
    m = past.bars
    now = _log1p(_cancelled(past, t, m(15)))
    kept = told([_log1p(_cancelled(past, i, m(15))) for i in range(t - m(15) - m(240) + 1, t - m(15) + 1)])
    if now is None or kept is None:
        return None
    middle, high = np.quantile(kept, [0.5, 0.75])
    return float((now - middle) / max((high - middle) / 0.6745, 0.1))


def cancel_tail_5(past: Past, t: int) -> Value:
    m = past.bars

    def count(i: int) -> Value:
        return total(past.window("cancels", i, m(5)))

    now, before = count(t), [count(i) for i in range(t - m(5) - m(240) + 1, t - m(5) + 1)]
    middle, width = mean(before, 0.8), spread(before)
    if now is None or middle is None or width is None or middle == 0:
        return None
    if now <= middle:
        return 0.0
    if width**2 > middle:
        p = middle / width**2
        log10 = stats.nbinom.logsf(now - 1, middle * p / (1 - p), p) / math.log(10)
    else:
        log10 = stats.poisson.logsf(now - 1, middle) / math.log(10)
    return clip(-float(log10), 0.0, 12.0)


def cancel_to_trade_5(past: Past, t: int) -> Value:
    cancelled, trades = (total(past.window(name, t, past.bars(5))) for name in ("cancels", "trades"))
    return None if cancelled is None or trades is None else math.log((cancelled + 1) / (trades + 1))


def cancel_to_add_5(past: Past, t: int) -> Value:
    return _log_ratio(_cancelled(past, t, past.bars(5)), _sum(past, ["add_bid_usd", "add_ask_usd"], t, past.bars(5)))


def cancel_near_share_5(past: Past, t: int) -> Value:
    bars, everything = past.bars(5), _cancelled(past, t, past.bars(5))
    within = [_sum(past, [f"cancel_bid_{b}bps_usd", f"cancel_ask_{b}bps_usd"], t, bars) for b in (20, 100, 200, 500)]
    c20, c100, c200, c500 = within
    if everything is None or c20 is None or c100 is None or c200 is None or c500 is None:
        return None
    rings = c20 + 0.5 * (c100 - c20) + 0.25 * (c200 - c100) + 0.1 * (c500 - c200)
    return rings / (everything + F)


def net_fleeting_5(past: Past, t: int) -> Value:
    bars = past.bars(5)
    cancelled, came = _cancelled(past, t, bars), _sum(past, ["add_bid_usd", "add_ask_usd"], t, bars)
    stood = added(past.at("depth_bid_100bps_usd", t - bars), past.at("depth_ask_100bps_usd", t - bars))
    if cancelled is None or came is None or stood is None:
        return None
    return clip((cancelled - came) / max(stood, 1), 0.0, 100.0)


def cancel_side_5(past: Past, t: int) -> Value:
    bid, ask = (total(past.window(f"cancel_{side}_usd", t, past.bars(5))) for side in ("bid", "ask"))
    return None if bid is None or ask is None else (bid - ask) / (bid + ask + F)


def cancel_branching_60(past: Past, t: int) -> Value:
    k = past.bars(60)
    counts = past.window("cancels", t, k + 2)
    if any(c is None for c in counts) or sum(counts[2:]) == 0:
        return None
    changes = [after - before for before, after in pairwise(counts)]
    noise = -sum(one * two for one, two in pairwise(changes)) / k
    dispersion = noise / (sum(counts[2:]) / k)
    return 1 - 1 / math.sqrt(dispersion) if (dispersion - 1) / math.sqrt(7 / k) > 2.33 else 0.0


def _burst_share(past: Past, t: int) -> Value:
    scores = [other for one in past.others.values() if (other := cancel_burst_5(one, t)) is not None]
    return sum(value > 2 for value in scores) / len(scores) if len(scores) >= 2 else None


def cancel_sync(past: Past, t: int) -> Value:
    return _burst_share(past, t)


def cancel_follow_5(past: Past, t: int) -> Value:
    own = cancel_burst_5(past, t)
    before = [_burst_share(past, i) if i >= 0 else None for i in range(t - past.bars(5), t)]
    known = [value for value in before if value is not None]
    return None if own is None or len(known) < len(before) else clip(own, 0.0, 5.0) * max(known)


def replenish_5(past: Past, t: int) -> Value:
    bars = past.bars(5)
    names = ["book_trade_bid_usd", "book_trade_ask_usd", "cancel_bid_100bps_usd", "cancel_ask_100bps_usd"]
    taken = _sum(past, names, t, bars, lag=bars)
    return _log_ratio(_sum(past, ["add_bid_100bps_usd", "add_ask_100bps_usd"], t, bars), taken)


def quote_stuffing_5(past: Past, t: int) -> Value:
    return _log_ratio(
        _sum(past, ["adds", "cancels"], t, past.bars(5)), total(past.window("trades", t, past.bars(5))), 1
    )


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(cancel_burst_5, cancel_rate_score_15, cancel_tail_5, cancel_to_trade_5, cancel_to_add_5),
        *(cancel_near_share_5, net_fleeting_5, cancel_side_5, cancel_branching_60, cancel_sync, cancel_follow_5),
        *(replenish_5, quote_stuffing_5),
    )
}
