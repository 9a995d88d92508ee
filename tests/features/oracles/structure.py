"""Oracles of the structure family."""

import math

from tests.features.oracles.past import Oracle, Past, Value, clip


def kappa_worse(past: Past, t: int) -> Value:
    fall, rise = past.at("kappa_fall", t), past.at("kappa_rise", t)
    return None if fall is None or rise is None else max(fall, rise)


def kappa_side(past: Past, t: int) -> Value:
    fall, rise = past.at("kappa_fall", t), past.at("kappa_rise", t)
    return None if fall is None or rise is None else (fall - rise) / (fall + rise + 0.01)


def rho_now(past: Past, t: int) -> Value:
    value: Value = past.at("rho", t)
    return value


def rho_change_60(past: Past, t: int) -> Value:
    now, before = past.at("rho", t), past.at("rho", t - past.bars(60))
    return None if now is None or before is None else now - before


def loop_amplification(past: Past, t: int) -> Value:
    rho, amplification = past.at("rho", t), past.at("amplification", t)
    if rho is None:
        return None
    if rho >= 1 - 1e-9:
        return 10.0
    return None if amplification is None else clip(math.log(max(amplification, 1.0)), 0.0, 10.0)


def cliff_distance_bps(past: Past, t: int) -> Value:
    if kappa_worse(past, t) is None:
        return None
    cliffs = [past.at(f"cliff_{side}_bps", t) for side in ("fall", "rise")]
    return min([cliff for cliff in cliffs if cliff is not None] + [10_000.0])


def margin_distance_sd(past: Past, t: int) -> Value:
    value: Value = past.at("distance_sd_p10", t)
    return value


def trigger_leg_share(past: Past, t: int) -> Value:
    value: Value = past.at("trigger_share", t)
    return value


def depeg_bps_now(past: Past, t: int) -> Value:
    value: Value = past.at("depeg_bps", t)
    return value


def _mass(past: Past, t: int, near: int, far: int) -> Value:
    """Share of positions that trips between `near` and `far`; 0 stands for the mark."""
    within = {0: 0}
    for band in (near, far):
        sides = [past.at(f"fuel_{side}_{band}bps_usd", t) if band else 0 for side in ("long", "short")]
        if any(usd is None for usd in sides):
            return None
        within[band] = sum(sides)
    held = past.at("position_usd", t)
    return None if held is None or held <= 0 else clip((within[far] - within[near]) / held, 0.0, 1.0)


def band_mass_100(past: Past, t: int) -> Value:
    return _mass(past, t, 0, 100)


def band_mass_200_500(past: Past, t: int) -> Value:
    return _mass(past, t, 200, 500)


def touch_q25_log_s(past: Past, t: int) -> Value:
    seconds = past.at("touch_q25_s", t)
    return None if seconds is None else math.log(max(seconds, 1.0))


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(kappa_worse, kappa_side, rho_now, rho_change_60, loop_amplification, cliff_distance_bps),
        *(margin_distance_sd, trigger_leg_share, depeg_bps_now, band_mass_100, band_mass_200_500, touch_q25_log_s),
    )
}
