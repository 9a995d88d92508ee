"""Drift: the null holds where nothing has changed, a change is found, and both are known by hand."""

import math
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import signal, stats

from features.drift import (
    BINS,
    EFFECTIVE_MIN,
    TABLE,
    Sizes,
    _median_inflation,
    _pool,
    drift_count,
    drift_share,
    drift_table,
    effective_rows,
    ks,
    psi,
    psi_null,
    surprise,
)
from features.inputs import usable
from features.matrix import _with_norms
from features.norms import NORMS, hours_of, norms_of
from features.schema import MEASURES
from tests.features.worlds import START, bars_from, rich_world


def _share(told: Any) -> float:
    """Share of rows in which `told` holds."""
    return float(told.mean())


# --- by hand ---


def _hour(gap: float, day_sd: float, days: int | None, minutes: int = 60, **others: float) -> pl.DataFrame:
    """An hour of volume that stands `gap` above its norm."""
    norms: dict[str, Any] = {name: [None] * minutes for name in NORMS}
    norms |= {"norm_volume_mean": [10.0] * minutes, "norm_volume_day_sd": [day_sd] * minutes}
    norms |= {"norm_volume_days": [days] * minutes}
    norms |= {name: [value] * minutes for name, value in others.items()}
    frame = pl.DataFrame(norms, schema_overrides=dict(NORMS), strict=False)
    volume = [math.exp(10.0 + gap) - 10_000] * minutes
    return usable(bars_from(trade_age_s=[0.0] * minutes)).with_columns(volume_usd=pl.Series(volume)).hstack(frame)


T_975_6, T_995_2, T_995_6 = 2.446912, 9.924843, 3.707428  # of any table of Student's t

HAND: list[tuple[str, pl.DataFrame, float | None]] = [
    ("one in twenty of 7 days", _hour(T_975_6 * 0.5 * math.sqrt(8 / 7), 0.5, 7), -math.log10(0.05)),
    ("one in a hundred of 3 days", _hour(T_995_2 * 0.1 * math.sqrt(4 / 3), 0.1, 3), 2.0),
    ("the same below the norm", _hour(-T_995_2 * 0.1 * math.sqrt(4 / 3), 0.1, 3), -2.0),
    ("days that agree too well: the floor", _hour(T_975_6 * 0.05 * math.sqrt(8 / 7), 0.0, 7), -math.log10(0.05)),
    ("beyond a millionth", _hour(8.0, 0.05, 7), 6.0),
    ("no gap, no surprise", _hour(0.0, 0.5, 7), 0.0),
    ("no norm", _hour(1.0, 0.5, None), None),
    ("one day has no spread", _hour(1.0, 0.5, 1), None),
    ("59 minutes are no hour", _hour(1.0, 0.5, 7, minutes=59), None),
]


@pytest.mark.parametrize(("why", "frame", "want"), HAND, ids=[row[0] for row in HAND])
def test_surprise_by_hand(why: str, frame: pl.DataFrame, want: float | None) -> None:
    got = frame.select(surprise("volume", 60)).to_series()[-1]
    assert (got is None) == (want is None), why
    assert want is None or got == pytest.approx(want, abs=2e-3)


def test_each_bar_is_held_against_the_norm_of_its_own_hour() -> None:
    """Half an hour of a busy hour and half of a quiet one, both as usual, are no drift."""
    level = [12.0] * 30 + [10.0] * 30
    usual = _hour(0.0, 0.1, 7).with_columns(
        volume_usd=pl.Series([math.exp(x) - 10_000 for x in level]), norm_volume_mean=pl.Series(level)
    )
    assert usual.select(surprise("volume", 60)).to_series()[-1] == pytest.approx(0.0, abs=0.02)
    against_the_last = usual.with_columns(norm_volume_mean=pl.lit(10.0))
    assert against_the_last.select(surprise("volume", 60)).to_series()[-1] > 3


@pytest.mark.parametrize(("missing", "told"), [(12, True), (13, False)])
def test_a_fifth_of_the_hour_may_be_missing(missing: int, told: bool) -> None:
    holes = pl.when(pl.int_range(pl.len()) >= missing).then("volume_usd").alias("volume_usd")
    got = _hour(1.0, 0.5, 7).with_columns(holes).select(surprise("volume", 60)).to_series()[-1]
    assert (got is not None) == told


ALL = [surprise(name, 60) for name in MEASURES]


def test_counts_are_of_the_measures_that_are_told() -> None:
    """Volume has drifted, depth has not; the other six have no norm."""
    depth: dict[str, Any] = {"norm_depth_mean": math.log(51_000), "norm_depth_day_sd": 0.2, "norm_depth_days": 7}
    frame = _hour(T_995_6 * 0.5 * math.sqrt(8 / 7) * 1.01, 0.5, 7, **depth).with_columns(
        depth_bid_100bps_usd=pl.lit(50_000, dtype=pl.Int64), depth_ask_100bps_usd=pl.lit(90_000, dtype=pl.Int64)
    )
    told = frame.select(drift_count(ALL), drift_share(ALL)).row(-1)
    assert told == (1.0, 0.5)
    less = _hour(T_995_6 * 0.5 * math.sqrt(8 / 7) * 0.99, 0.5, 7)
    assert less.select(drift_count(ALL), drift_share(ALL)).row(-1) == (0.0, 0.0)
    assert _hour(1.0, 0.5, None).select(drift_count(ALL), drift_share(ALL)).row(-1) == (None, None)


def test_a_window_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be"):
        surprise("depth", 0)


# --- under no drift, and under drift ---

DAYS, SYMBOLS, DAY_MIN = 9, 24, 1_440


def _days(seed: int, shift: float = 0.0) -> pl.DataFrame:
    """Volume of one symbol: a course of the day, an effect of each day and hour, noise; `shift` on the last day."""
    rng = np.random.default_rng([7, seed])
    hours = np.tile(np.sin(np.arange(24) / 24 * 2 * np.pi), DAYS) + rng.normal(0, 0.3, 24 * DAYS)
    hours[-24:] += shift
    log_volume = 14 + np.repeat(hours, 60) + rng.normal(0, 0.5, DAYS * DAY_MIN)
    return bars_from(f"S{seed:02}-PERP", volume_usd=np.exp(log_volume).astype(np.int64))


def _surprises(shift: float = 0.0) -> pl.DataFrame:
    """Surprises of the last two days of all symbols, with the minute of the hour and whether the day is the last."""
    found = []
    for seed in range(SYMBOLS):
        bars = usable(_days(seed, shift))
        hours = hours_of(bars)
        told = _with_norms(bars, norms_of(hours, hours)).select("ts", surprise("volume", 60))
        found.append(told.filter(pl.col("ts") > START + timedelta(days=DAYS - 2)))
    return pl.concat(found).with_columns(
        minute=pl.col("ts").dt.minute(), last=pl.col("ts") > START + timedelta(days=DAYS - 1)
    )


@pytest.fixture(scope="module")
def stationary() -> pl.DataFrame:
    return _surprises()


def test_without_drift_one_hour_in_twenty_is_unlikely_at_5_percent(stationary: pl.DataFrame) -> None:
    """24 symbols, 48 whole hours each: 1152 independent tests."""
    hours = stationary.filter(pl.col("minute") == 0)["drift_volume_60"]
    assert hours.len() == 48 * SYMBOLS
    assert hours.null_count() == 0
    unlikely = _share(hours.abs() > -math.log10(0.05))
    assert unlikely == pytest.approx(0.05, abs=0.02)
    assert stats.kstest(10 ** -hours.abs().to_numpy(), "uniform").pvalue > 0.01


def test_between_hours_the_test_is_careful_not_bold(stationary: pl.DataFrame) -> None:
    between = stationary.filter(pl.col("minute") == 30)["drift_volume_60"]
    assert _share(between.abs() > -math.log10(0.05)) < 0.05


def test_bars_taken_for_independent_would_call_every_hour_a_drift() -> None:
    """The negative control: the spread over bars in place of that between days."""
    bars = usable(_days(0))
    hours = hours_of(bars)
    norms = norms_of(hours, hours).with_columns(norm_volume_day_sd=pl.col("norm_volume_sd") / 60**0.5)
    told = _with_norms(bars, norms).filter(pl.col("ts").dt.minute() == 0)
    bold = _with_norms(bars, norms).with_columns(surprise("volume", 60)).join(told.select("ts"), on="ts")
    assert _share(bold["drift_volume_60"].abs() > -math.log10(0.05)) > 0.2


def test_a_shifted_measure_is_found() -> None:
    """Three times the volume on the last day: 1.1 in logs, 3.4 sd of the hours."""
    shifted = _surprises(math.log(3)).filter((pl.col("minute") == 0) & pl.col("last"))["drift_volume_60"]
    assert shifted.len() == 24 * SYMBOLS
    assert _share(shifted > -math.log10(0.05)) > 0.6
    assert _share(shifted < 0) < 0.02


def test_surprises_of_the_catalogue_are_those_of_a_matrix() -> None:
    told = rich_world(300).matrix()
    columns = [f"drift_{name}_60" for name in MEASURES]
    counted = told.select(pl.sum_horizontal((pl.col(name).abs() > 2).cast(pl.Float64) for name in columns))
    assert (
        told["drift_count"].drop_nulls().to_list()
        == counted.to_series().filter(told["drift_count"].is_not_null()).to_list()
    )
    assert told["drift_count"].null_count() == 3 * 59
    assert (told["drift_count"] / 8 - told["drift_share"]).abs().max() == 0


# --- whole matrices ---


def _ar1(rng: np.random.Generator, rows: int, features: int, rho: float) -> Any:
    noise = rng.normal(size=(rows + 300, features))
    return signal.lfilter([1], [1, -rho], noise, axis=0)[300:]


def _matrix(values: Any, symbol: str = "A-PERP") -> pl.DataFrame:
    names = [f"f{i}" for i in range(values.shape[1])]
    key = pl.select(symbol=pl.lit(symbol), ts=pl.int_range(len(values)))
    return key.join(pl.DataFrame(values, schema=names).with_row_index("ts").cast({"ts": pl.Int64}), on="ts")


def _table(now: Any, reference: Any) -> pl.DataFrame:
    return drift_table(_matrix(now), _matrix(reference), [f"f{i}" for i in range(now.shape[1])])


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_what_rows_repeat_is_not_understated_in_short_series(rho: float) -> None:
    """Plain correlation of 60 ranks falls short by about .07 at .5 and .09 at .8. Tails do not matter."""
    values = _ar1(np.random.default_rng(11), 60, 2_000, rho).T
    pooled = _pool(values, np.exp(5 * values))
    assert pooled.sizes.rho_n.mean() == pytest.approx(rho or 0.05, abs=0.05)
    assert pooled.sizes.rho_m.mean() == pytest.approx(pooled.sizes.rho_n.mean(), abs=0.01)


def test_psi_by_hand() -> None:
    """Two bins, split at the median 4 of both: shares 3/4 and 1/4 against 1/4 and 3/4, each with half a row more."""
    value, _ = psi([1, 2, 3, 7], [4, 6, 5, 8], bins=2)
    p, q = 3.5 / 5, 1.5 / 5
    assert value == pytest.approx((p - q) * math.log(p / q) * 2)


def test_equal_values_stay_in_one_bin() -> None:
    zero_one = np.arange(400) % 2
    value, null = psi(zero_one, zero_one)
    assert value == 0.0
    assert null == pytest.approx(2 / 400 * stats.chi2.ppf(0.99, 1), rel=1e-6)
    assert psi(np.ones(300), np.ones(200)) == (0.0, 0.0)


def test_the_null_of_independent_rows_is_chi_square_by_hand() -> None:
    sizes = Sizes(*(np.array([x]) for x in (500.0, 250.0, 0.0, 0.0)))
    assert psi_null(sizes, np.array([10.0]), 0.99)[0] == pytest.approx((1 / 500 + 1 / 250) * 21.66599)
    repeated = Sizes(*(np.array([x]) for x in (500.0, 250.0, 0.5, 0.5)))
    one = psi_null(repeated, np.array([2.0]), 0.99)[0]  # of one order: exactly the effective sample size
    assert one == pytest.approx((3 / 500 + 3 / 250) * 6.634897)
    assert effective_rows(np.array([500.0]), np.array([0.5]))[0] == pytest.approx(500 / 3)


def test_inflation_at_the_median_by_hand() -> None:
    for rho in (0.0, 0.5, 0.9, 0.99):
        want = 1 + 4 / math.pi * sum(math.asin(rho**k) for k in range(1, 5_000))
        assert _median_inflation(np.array([rho]))[0] == pytest.approx(want, rel=5e-3)


def test_ks_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=300).round(1), rng.normal(0.2, 1, 200).round(1)
    distance, p = ks(one, two)
    want = stats.ks_2samp(one, two)
    assert distance == pytest.approx(want.statistic)
    assert p == pytest.approx(want.pvalue, abs=0.03)


def test_values_that_are_missing_are_left_out() -> None:
    rng = np.random.default_rng(2)
    one, two = rng.normal(size=300), rng.normal(size=300)
    torn = np.concatenate([two, [np.nan, np.inf, -np.inf]])
    assert psi(one, torn)[0] == pytest.approx(psi(one, two)[0])
    assert ks(one, torn)[0] == ks(one, two)[0]


@pytest.mark.parametrize("check", [psi, ks])
def test_nothing_cannot_be_compared(check: Any) -> None:
    with pytest.raises(ValueError, match="must have a value"):
        check([1.0, 2.0], [math.nan])


def test_one_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="bins must be at least 2"):
        psi([1.0], [1.0], bins=1)


FALSE = [(0.0, 60, 60), (0.0, 60, 1_440), (0.0, 1_440, 1_440), (0.5, 200, 200), (0.9, 1_440, 1_440), (0.9, 700, 2_000)]


@pytest.mark.parametrize(("rho", "now", "before"), FALSE)
def test_false_alarms_are_one_in_a_hundred_whatever_the_rows(rho: float, now: int, before: int) -> None:
    rng = np.random.default_rng([3, now, before])
    told = _table(_ar1(rng, now, 1_500, rho), _ar1(rng, before, 1_500, rho))
    assert told["drifted"].null_count() < 30
    assert 0.003 < _share(told["drifted"]) < 0.02  # 1 % has a standard error of .26 %
    assert _share(told["ks_p"] < 0.01) < 0.02


def test_a_fixed_threshold_calls_small_samples_drifted_and_is_blind_in_large_ones() -> None:
    """PSI above 0.2 is the custom; it forgets the number of rows and that they repeat each other."""
    rng = np.random.default_rng(4)
    small = _table(rng.normal(size=(60, 500)), rng.normal(size=(60, 500)))
    assert _share(small["psi"] > 0.2) > 0.3
    assert _share(small["drifted"]) < 0.03
    slow = _table(_ar1(rng, 400, 500, 0.9), _ar1(rng, 1_440, 500, 0.9))
    assert _share(slow["psi"] > 0.2) > 0.05
    large = _table(rng.normal(0.25, 1, (1_440, 200)), rng.normal(size=(10_080, 200)))
    assert _share(large["psi"] > 0.2) < 0.05
    assert _share(large["drifted"]) == 1.0


def test_rows_taken_for_independent_would_call_every_slow_feature_drifted() -> None:
    rng = np.random.default_rng(5)
    told = _table(_ar1(rng, 1_440, 300, 0.9), _ar1(rng, 1_440, 300, 0.9))
    bold = Sizes(*(np.full(300, x) for x in (1_440.0, 1_440.0, 0.0, 0.0)))
    assert (told["psi"].to_numpy() > psi_null(bold, np.full(300, float(BINS)), 0.99)).mean() > 0.5
    assert _share(told["drifted"]) < 0.03


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_drift_is_found(rho: float) -> None:
    """A shift by one sd and a doubled width, in a day against a week of minutes."""
    rng = np.random.default_rng(6)
    now, before = _ar1(rng, 1_440, 60, rho), _ar1(rng, 7 * 1_440, 60, rho)
    sd = 1 / math.sqrt(1 - rho**2)
    assert _share(_table(now + sd, before)["drifted"]) > 0.95
    assert _share(_table(2 * now, before)["drifted"]) > 0.95


def test_a_single_excursion_is_no_evidence() -> None:
    """A feature that hardly moves within a day: nothing is said, rather than an alarm or an all-clear."""
    rng = np.random.default_rng(8)
    told = _table(_ar1(rng, 200, 50, 0.99), _ar1(rng, 1_440, 50, 0.99))
    assert told.select(TABLE.names()[2:]).null_count().row(0) == (50,) * 5
    assert effective_rows(np.array([200.0]), np.array([0.99]))[0] < EFFECTIVE_MIN


def test_the_table_speaks_of_symbols_in_both_matrices_and_of_each_alone() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    now = pl.concat([_matrix(a), _matrix(b + np.array([0.0, 2.0]), "B-PERP"), _matrix(a, "NEW-PERP")])
    before = pl.concat([_matrix(b, "B-PERP"), _matrix(a), _matrix(a, "GONE-PERP")])
    told = drift_table(now.sample(fraction=1.0, shuffle=True, seed=1), before, ["f0", "f1"])
    assert told.schema == TABLE
    assert told.select("symbol", "feature", "drifted").rows() == [
        *[("A-PERP", "f0", False), ("A-PERP", "f1", False), ("B-PERP", "f0", False), ("B-PERP", "f1", True)]
    ]
    assert told["psi"][0] == 0.0
    assert drift_table(now.clear(), before, ["f0"]).schema == TABLE
    assert drift_table(now, before, []).is_empty()


def test_a_feature_that_is_null_throughout_is_null_in_the_table() -> None:
    values = np.random.default_rng(10).normal(size=(300, 2))
    told = drift_table(_matrix(values).with_columns(f1=pl.lit(None, dtype=pl.Float64)), _matrix(values), ["f0", "f1"])
    assert told.row(1)[2:] == (None,) * 5
    assert told["drifted"][0] is False
