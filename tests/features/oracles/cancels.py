"""Oracles of the cancels family."""

import math

from tests.features.oracles.past import Oracle, Past, Value, added, score, total


def _cancelled(past: Past, t: int, bars: int) -> Value:
    return added(total(past.window("cancel_bid_usd", t, bars)), total(past.window("cancel_ask_usd", t, bars)))


def cancel_burst_5(past: Past, t: int) -> Value:
    m = past.bars

    def x(i: int) -> Value:
        usd = _cancelled(past, i, m(5))
        return None if usd is None else math.log1p(usd)

    return score(x, t, m(5), m(240), 0.1, share=1.0)


def cancel_to_trade_5(past: Past, t: int) -> Value:
    cancelled, traded = _cancelled(past, t, past.bars(5)), total(past.window("volume_usd", t, past.bars(5)))
    return None if cancelled is None or traded is None else math.log((cancelled + 10_000) / (traded + 10_000))


ORACLES: dict[str, Oracle] = {
    "cancel_burst_5": cancel_burst_5,
    "cancel_to_trade_5": cancel_to_trade_5,
}
