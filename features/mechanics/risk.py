"""Risk of an account as a portfolio: how far it stands from its maintenance margin, and which leg takes the distance.

    room     = equity - sum of maintenance
    sigma    = sqrt(e' C e), e = signed notionals, C = covariance of returns
    distance = room / sigma                                         in standard deviations of one period
    Euler share of leg i = e_i (C e)_i / sigma                      the shares add up to sigma

A small position in a correlated contract can become the trigger: it may hold a tenth of the notional and half the risk.
Units of margin lie in columns as in `leg_start[u] : leg_start[u + 1]`, so that a million of them is one call.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_VARIANCE = 1e-12  # share of the undiversified variance below which what is left is rounding
NOT_PSD = -1e-9  # an eigenvalue below this is no rounding


class Units(NamedTuple):
    """Units of margin and their legs as columns; a unit may have no leg."""

    leg_start: Ints  # (units + 1,)
    leg_symbol: Ints  # (legs,), places in the covariances
    exposure_usd: Floats  # (legs,), qty * price, signed
    leg_maintenance_usd: Floats  # (legs,)
    equity_usd: Floats  # (units,)


class UnitRisk(NamedTuple):
    """One value per unit. `distance_sd` is infinite for room without risk, negative beyond maintenance."""

    room_usd: Floats
    sigma_usd: Floats
    distance_sd: Floats


class LegRisk(NamedTuple):
    """One value per leg. Shares of a unit without notional or risk are 0."""

    risk_usd: Floats  # Euler share, negative for a hedge
    share_of_notional: Floats
    share_of_risk: Floats
    distance_sd_without: Floats  # of the unit, were the leg closed at the mark
    share_of_distance: Floats  # 1 - distance / without; negative for a hedge; 0 where without is not positive


def covariance(sigma: npt.ArrayLike, correlation: npt.ArrayLike) -> Floats:
    """`C_ij = sigma_i * sigma_j * correlation_ij`; sigma per symbol over one period.

    Raises ValueError unless sigma is finite and 0 or more, and the correlation symmetric with a diagonal of ones and
    no negative eigenvalue.

    >>> covariance([0.1, 0.2], [[1.0, 0.5], [0.5, 1.0]]).round(9).tolist()
    [[0.01, 0.01], [0.01, 0.04]]
    """
    s, rho = np.asarray(sigma, dtype=np.float64), np.asarray(correlation, dtype=np.float64)
    if not (np.isfinite(s) & (s >= 0)).all():
        raise ValueError(f"sigma must be finite and 0 or more, was {s.tolist()}")
    if rho.shape != (s.size, s.size) or not np.array_equal(rho, rho.T) or not (np.diag(rho) == 1).all():
        raise ValueError(f"correlation must be {s.size} x {s.size}, symmetric, with a diagonal of ones")
    if not (np.linalg.eigvalsh(rho) >= NOT_PSD).all():
        raise ValueError("correlation must have no negative eigenvalue: no returns have such correlations")
    return np.asarray(s[:, None] * rho * s[None, :])


def portfolio_risk(units: Units, covariances: Floats) -> tuple[UnitRisk, LegRisk]:
    """Room, risk and distance of every unit of margin, and what each of its legs contributes.

    Units and legs come out in the order they went in; the order of a unit's legs does not matter beyond rounding.

    >>> one = Units(np.array([0, 2]), np.array([0, 1]), np.array([1e5, 1e4]), np.array([2e3, 1e3]), np.array([6e3]))
    >>> unit, leg = portfolio_risk(one, covariance([0.008, 0.06], [[1.0, 0.8], [0.8, 1.0]]))
    >>> unit.room_usd.item(), round(unit.sigma_usd.item(), 4), round(unit.distance_sd.item(), 6)
    (3000.0, 1329.6616, 2.256213)
    >>> leg.risk_usd.round(4).tolist(), leg.share_of_notional.round(3).tolist(), leg.share_of_distance.round(2).tolist()
    ([770.1208, 559.5409], [0.909, 0.091], [0.73, 0.55])
    """
    count, exposure = units.equity_usd.size, units.exposure_usd
    unit = np.repeat(np.arange(count), np.diff(units.leg_start))
    with_unit = _covariance_with_unit(units, unit, covariances)
    own_variance = exposure**2 * covariances[units.leg_symbol, units.leg_symbol]
    gross = _per_unit(unit, np.sqrt(own_variance), count) ** 2
    variance = _without_residue(_per_unit(unit, exposure * with_unit, count), gross)
    room = units.equity_usd - _per_unit(unit, units.leg_maintenance_usd, count)
    sigma = np.sqrt(variance)
    whole = UnitRisk(room, sigma, _distance(room, sigma))

    risk = _ratio(exposure * with_unit, sigma[unit])
    left = variance[unit] - 2 * exposure * with_unit + own_variance
    sigma_without = np.sqrt(_without_residue(left, gross[unit]))
    without = _distance(room[unit] + units.leg_maintenance_usd, sigma_without)
    notional = np.abs(exposure)
    shares = (_ratio(notional, _per_unit(unit, notional, count)[unit]), _ratio(risk, sigma[unit]))
    return whole, LegRisk(risk, *shares, without, _share_taken(whole.distance_sd[unit], without))


def _per_unit(unit: Ints, values: Floats, count: int) -> Floats:
    return np.bincount(unit, weights=values, minlength=count).astype(np.float64, copy=False)


def _covariance_with_unit(units: Units, unit: Ints, covariances: Floats) -> Floats:
    """`(C e)_i` for every leg: one vector step per place in the longest unit, however many units there are."""
    first, count = units.leg_start[unit], np.diff(units.leg_start)[unit]
    out = np.zeros(units.exposure_usd.size)
    rows = np.arange(out.size)
    place = 0
    while (rows := rows[count[rows] > place]).size:
        other = first[rows] + place
        out[rows] += covariances[units.leg_symbol[rows], units.leg_symbol[other]] * units.exposure_usd[other]
        place += 1
    return out


def _without_residue(variance: Floats, gross_variance: Floats) -> Floats:
    """What rounding leaves of a variance that cancels is taken for nothing."""
    return np.where(variance > NO_VARIANCE * gross_variance, variance, 0.0)


def _distance(room: Floats, sigma: Floats) -> Floats:
    """`room / sigma`; without risk infinite with the sign of the room, 0 for no room."""
    still = np.where(room == 0, 0.0, np.copysign(np.inf, room))
    return np.where(sigma > 0, room / np.where(sigma > 0, sigma, 1.0), still)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def _share_taken(distance: Floats, without: Floats) -> Floats:
    open_end = np.isinf(without)
    share = 1 - distance / np.where(open_end | ~(without > 0), 1.0, without)
    return np.where(without > 0, np.where(open_end, np.where(np.isinf(distance), 0.0, 1.0), share), 0.0)
