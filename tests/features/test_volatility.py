"""Estimators that need a run of bars, against plain loops."""

import math

import numpy as np
import polars as pl
import pytest

from features.volatility import (
    garman_klass_variance,
    parkinson_variance,
    rogers_satchell_variance,
    yang_zhang_variance,
    yang_zhang_weight,
)


def bars(seed: int, count: int, drift: float = 0.0) -> pl.DataFrame:
    """Bars of 60 ticks, with a gap between one's close and the next one's open."""
    rng = np.random.default_rng(seed)
    ticks = rng.normal(drift, 1e-4, (count, 60))
    ticks[:, 0] = 0.0
    gaps = rng.normal(0.0, 5e-4, count)
    inside = np.cumsum(ticks, axis=1)
    price = 100 * np.exp(inside + np.cumsum(gaps + np.concatenate([[0.0], inside[:-1, -1]]))[:, None])
    columns = {"open": price[:, 0], "high": price.max(axis=1), "low": price.min(axis=1), "close": price[:, -1]}
    return pl.DataFrame(columns)


def test_one_bar_of_four_prices() -> None:
    """O 100 H 110 L 95 C 105. Logs: H/L .146603, C/O .048790, H/C .046520, H/O .095310, L/C -.100083, L/O -.051293.

    Parkinson .146603^2 / 2.772589; Garman-Klass .5 * .146603^2 - .386294 * .048790^2; Rogers-Satchell
    .046520 * .095310 + .100083 * .051293.
    """
    bar = pl.DataFrame({"open": [100.0], "high": [110.0], "low": [95.0], "close": [105.0]})
    got = [bar.select(v()).item() for v in (parkinson_variance, garman_klass_variance, rogers_satchell_variance)]
    assert got == pytest.approx([0.0077518092, 0.0098267233, 0.0095674414], abs=5e-11)


def test_the_weight_of_the_open_to_close_variance() -> None:
    """n = 10: .34 / (1.34 + 11/9) = .34 / 2.562222; n = 30: .34 / (1.34 + 31/29) = .34 / 2.408966."""
    assert (yang_zhang_weight(10), yang_zhang_weight(30)) == pytest.approx((0.132697, 0.141139), abs=5e-7)


def test_yang_zhang_equals_a_loop_over_bars() -> None:
    frame, n = bars(1, 60), 10
    o, h, low, c = (np.log(frame[name].to_numpy()) for name in ("open", "high", "low", "close"))
    got = frame.select(yang_zhang_variance(n)).to_series().to_list()
    assert got[:n] == [None] * n
    assert got[n] is not None
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    for t in range(n, 60):
        window = range(t - n + 1, t + 1)
        gap, body = [o[i] - c[i - 1] for i in window], [c[i] - o[i] for i in window]
        inside = [(h[i] - c[i]) * (h[i] - o[i]) + (low[i] - c[i]) * (low[i] - o[i]) for i in window]
        want = np.var(gap, ddof=1) + k * np.var(body, ddof=1) + (1 - k) * np.mean(inside)
        assert got[t] == pytest.approx(want, rel=1e-4)  # steps of 1e-8 on gaps of 5e-4


def test_yang_zhang_sees_gaps_that_ranges_do_not_and_is_blind_to_drift() -> None:
    """Sixty ticks (59 steps) of 1e-4 and a gap of 5e-4: 59e-8 + 25e-8 = 8.4e-7 a bar, drift or not.

    The range of 59 steps misses what lies between them, so the estimate is somewhat low, as every one from ranges is.
    """
    still, drifting = bars(2, 1_400), bars(2, 1_400, 2e-5)
    ours = [frame.select(yang_zhang_variance(1_300)).to_series()[-1] for frame in (still, drifting)]
    ranges = [frame.select(parkinson_variance().mean()).item() for frame in (still, drifting)]
    assert ours == pytest.approx([8.4e-7, 8.4e-7], rel=0.15)
    assert ranges[0] < 0.75 * ours[0]  # no gaps in it
    assert ranges[1] > 1.3 * ours[1]  # the drift is in it


def test_yang_zhang_forgets_what_has_left_the_window() -> None:
    frame = bars(3, 100)
    shaken = frame.with_columns(pl.when(pl.int_range(pl.len()) < 40).then(pl.all() * 1.5).otherwise(pl.all()))
    one, two = (f.select(yang_zhang_variance(20)).to_series()[70:].to_list() for f in (frame, shaken))
    assert one == two


def test_yang_zhang_needs_two_bars() -> None:
    with pytest.raises(ValueError, match="bars must be from 2"):
        yang_zhang_variance(1)
    flat = pl.DataFrame({name: [100.0] * 4 for name in ("open", "high", "low", "close")})
    assert flat.select(yang_zhang_variance(2)).to_series().to_list() == [None, None, 0.0, 0.0]
    assert math.isfinite(yang_zhang_weight(2))
