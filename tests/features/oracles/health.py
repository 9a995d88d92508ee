"""Oracles of the health family."""

import math

from tests.features.oracles.past import Oracle, Past, Value, clip, mean, total

DAY_S = 86_400.0


def trade_gap_share_5(past: Past, t: int) -> Value:
    missing, came = (total(past.window(name, t, past.bars(5))) for name in ("trade_ids_missing", "trades"))
    return None if missing is None or came is None or missing + came == 0 else missing / (missing + came)


def latency_ratio_5(past: Past, t: int) -> Value:
    def delay(i: int) -> Value:
        value = past.at("latency_ms_max", i)
        return None if value is None else math.log(clip(value, 0.0, 1e9) + 10.0)

    k, baseline = past.bars(5), past.bars(240)
    worst = [value for i in range(t - k + 1, t + 1) if (value := delay(i)) is not None]
    usual = mean([delay(i) for i in range(t - k - baseline + 1, t - k + 1)], 0.5)
    return None if not worst or usual is None else max(worst) - usual


def _age(past: Past, name: str, t: int) -> Value:
    age = past.at(name, t)
    return None if age is None else clip(age, 0.0, DAY_S)


def book_still_s(past: Past, t: int) -> Value:
    return _age(past, "depth_unchanged_s", t)


def _log_count(past: Past, name: str, t: int) -> Value:
    count = total(past.window(name, t, past.bars(5)))
    return None if count is None else math.log(1 + count)


def book_crossed_5(past: Past, t: int) -> Value:
    return _log_count(past, "book_rows_crossed", t)


def book_frozen_5(past: Past, t: int) -> Value:
    return _log_count(past, "book_rows_frozen", t)


def feed_stale_s(past: Past, t: int) -> Value:
    ages = [_age(past, f"{name}_age_s", t) for name in ("trade", "depth", "mark", "index")]
    return max((age for age in ages if age is not None), default=None)


def rows_refused_5(past: Past, t: int) -> Value:
    return _log_count(past, "rows_refused", t)


def book_gaps_5(past: Past, t: int) -> Value:
    return _log_count(past, "book_gaps", t)


def quote_age_s(past: Past, t: int) -> Value:
    return _age(past, "quote_age_s", t)


def structure_age_min(past: Past, t: int) -> Value:
    age = _age(past, "structure_age_s", t)
    return None if age is None else age / 60


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(trade_gap_share_5, latency_ratio_5, book_still_s, book_crossed_5, book_frozen_5, feed_stale_s),
        *(rows_refused_5, book_gaps_5, quote_age_s, structure_age_min),
    )
}
