"""Oracles of the leverage family."""

import math
from collections.abc import Callable

import numpy as np

from tests.features.oracles.past import Oracle, Past, Value, added, clip, log_return, score, total, whole

D, F = 1, 10_000


def _oi_change(past: Past, t: int, bars: int) -> Value:
    now, before = past.at("oi_base", t), past.at("oi_base", t - bars)
    return None if now is None or before is None else math.log(now / before)


def oi_change_30(past: Past, t: int) -> Value:
    return _oi_change(past, t, past.bars(30))


def oi_score_30(past: Past, t: int) -> Value:
    m = past.bars
    return score(lambda i: _oi_change(past, i, m(30)), t, m(30), m(1440), 0.002)


def oi_over_volume_60(past: Past, t: int) -> Value:
    held, traded = past.at("oi_usd", t), total(past.window("volume_usd", t, past.bars(60)))
    return None if held is None or traded is None else math.log((held + F) / (traded + F))


def oi_over_depth(past: Past, t: int) -> Value:
    held, bid, ask = (past.at(name, t) for name in ("oi_usd", "depth_bid_100bps_usd", "depth_ask_100bps_usd"))
    return None if held is None or bid is None or ask is None else math.log((held + F) / (min(bid, ask) + D))


def oi_quadrant_30(past: Past, t: int) -> Value:
    oi, move = _oi_change(past, t, past.bars(30)), log_return(past, t, past.bars(30))
    if oi is None or move is None:
        return None
    weight = 2.0 if oi >= 0.001 else 1.0 if oi <= -0.001 else 0.0
    return weight * (math.copysign(1.0, move) if abs(move) >= 0.001 else 0.0)


def oi_build_side_240(past: Past, t: int) -> Value:
    signed, everything = 0.0, 0.0
    for i in range(t - past.bars(240) + 1, t + 1):
        change, move = _oi_change(past, i, 1), log_return(past, i, past.bars(5))
        if change is None or move is None:
            return None
        built = max(change, 0.0)
        signed, everything = signed + built * float(np.sign(move)), everything + built
    return signed / (everything + 0.001)


def oi_drawdown_240(past: Past, t: int) -> Value:
    held = whole(past.window("oi_base", t, past.bars(240)))
    return None if held is None else math.log(max(held) / held[-1])


def _ladder(past: Past, t: int) -> dict[str, tuple[float, float]] | None:
    """Fuel of longs and shorts over open interest, of the careful and the bold mix."""
    step, window = past.bars(5), past.bars(240)
    held = whole([past.at("oi_base", i) for i in range(t - window, t + 1, step)])
    prices = whole([past.at("close", i) for i in range(t - window + step, t + 1, step)])
    lows, highs = whole(past.window("low", t, window)), whole(past.window("high", t, window))
    if t < window or held is None or prices is None or lows is None or highs is None:
        return None
    found = {}
    for name, shares in (("careful", (0.40, 0.30, 0.20, 0.07, 0.03)), ("bold", (0.10, 0.20, 0.30, 0.25, 0.15))):
        fuel = [0.0, 0.0]
        for k, price in enumerate(prices):
            after = (k + 1) * step  # bars of the window up to and with the one of this price
            left = math.prod(min(held[j + 1] / held[j], 1.0) for j in range(k + 1, len(prices)))
            built = max(held[k + 1] - held[k], 0.0) * left / held[-1]
            for leverage, share in zip((5, 10, 25, 50, 100), shares, strict=True):
                away = 1 / leverage - 0.005
                for side, trip in ((0, price * math.exp(-away)), (1, price * math.exp(away))):
                    touched = (
                        min(lows[after:], default=math.inf) <= trip
                        if side == 0
                        else max(highs[after:], default=0) >= trip
                    )
                    log_away = math.log(prices[-1] / trip) * (1 if side == 0 else -1)
                    if not touched and 0 <= log_away <= 0.05:
                        fuel[side] += 0.5 * built * share
        found[name] = (fuel[0], fuel[1])
    return found


def ladder_share_240(past: Past, t: int) -> Value:
    found = _ladder(past, t)
    return None if found is None else (sum(found["careful"]) + sum(found["bold"])) / 2


def ladder_side_240(past: Past, t: int) -> Value:
    found = _ladder(past, t)
    if found is None:
        return None
    long, short = ((one + two) / 2 for one, two in zip(found["careful"], found["bold"], strict=True))
    return (long - short) / (long + short + 0.001)


def ladder_doubt_240(past: Past, t: int) -> Value:
    found = _ladder(past, t)
    return None if found is None else math.log((sum(found["bold"]) + 0.001) / (sum(found["careful"]) + 0.001))


def fuel_over_depth(past: Past, t: int) -> Value:
    names = [f"fuel_{held}_500bps_usd" for held in ("long", "short")]
    names += [f"depth_{side}_500bps_usd" for side in ("bid", "ask")]
    facts = whole([past.at(name, t) for name in names])
    return None if facts is None else min(max(facts[0] / max(facts[2], D), facts[1] / max(facts[3], D)), 1e6)


def fuel_side(past: Past, t: int) -> Value:
    long, short = past.at("fuel_long_500bps_usd", t), past.at("fuel_short_500bps_usd", t)
    return None if long is None or short is None else (long - short) / (long + short + F)


def _structure(name: str, seen: Callable[[float], float] = float) -> Oracle:
    def oracle(past: Past, t: int) -> Value:
        value = past.at(name, t)
        return None if value is None else seen(value)

    return oracle


def leverage_change_60(past: Past, t: int) -> Value:
    now, before = past.at("leverage_p90", t), past.at("leverage_p90", t - past.bars(60))
    return None if now is None or before is None else math.log((now + 0.1) / (before + 0.1))


def _quantile_moves(past: Past, t: int) -> tuple[list[float], list[float]] | None:
    levels = [10, 25, 50, 75, 90, 99]
    now, before = ([past.at(f"leverage_p{q}", i) for q in levels] for i in (t, t - past.bars(60)))
    here, there = whole(now), whole(before)
    if here is None or there is None:
        return None
    return levels, [math.log((a + 0.1) / (b + 0.1)) for a, b in zip(here, there, strict=True)]


def leverage_shift_60(past: Past, t: int) -> Value:
    found = _quantile_moves(past, t)
    return None if found is None else float(np.trapezoid(np.abs(found[1]), found[0]) / 89)


def leverage_tilt_60(past: Past, t: int) -> Value:
    found = _quantile_moves(past, t)
    return None if found is None else float(np.trapezoid(found[1], found[0]) / 89)


def _over_positions(past: Past, t: int, usd: Value) -> Value:
    gross = past.at("position_usd", t)
    return None if usd is None or gross is None or gross == 0 else clip(usd / gross, 0.0, 1.0)


def at_risk_200(past: Past, t: int) -> Value:
    return _over_positions(past, t, added(past.at("fuel_long_200bps_usd", t), past.at("fuel_short_200bps_usd", t)))


def overdue_share(past: Past, t: int) -> Value:
    return _over_positions(past, t, past.at("overdue_usd", t))


def top_side_change_60(past: Past, t: int) -> Value:
    now, before = past.at("top10_long_share", t), past.at("top10_long_share", t - past.bars(60))
    return None if now is None or before is None else 2 * (now - before)


def liq_over_volume_15(past: Past, t: int) -> Value:
    bars = past.bars(15)
    forced = added(total(past.window("liq_long_usd", t, bars)), total(past.window("liq_short_usd", t, bars)))
    traded = total(past.window("volume_usd", t, bars))
    return None if forced is None or traded is None else math.log((forced + traded + F) / (traded + F))


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(oi_change_30, oi_score_30, oi_over_volume_60, oi_over_depth, oi_quadrant_30, oi_build_side_240),
        *(oi_drawdown_240, ladder_share_240, ladder_side_240, ladder_doubt_240, fuel_over_depth, fuel_side),
        *(leverage_change_60, leverage_shift_60, leverage_tilt_60, at_risk_200, overdue_share, top_side_change_60),
        liq_over_volume_15,
    )
} | {
    "leverage_p90_now": _structure("leverage_p90"),
    "over_20x": _structure("over_20x_share"),
    "margin_used_now": _structure("margin_used"),
    "collateral_other": _structure("collateral_other_share"),
    "peg_sensitivity": _structure("stable_over_room", math.log1p),
    "largest_account": _structure("largest_share"),
    "accounts_effective_log": _structure("accounts_effective", math.log),
    "top_long_side": _structure("top10_long_share", lambda share: 2 * share - 1),
}
