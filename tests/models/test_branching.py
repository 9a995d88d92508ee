"""Branching against the Borel law, and the null that fools naive fits: a rate that switches, nothing that branches."""

import numpy as np
import pytest

from models.branching import (
    EVENTS_MIN,
    borel_pmf,
    branching_from_excess,
    branching_ratio,
    cluster_mean,
    cluster_variance,
    clustering,
    hawkes_times,
    rate_regimes,
    switching_poisson_times,
)


def test_the_borel_law_at_one_half() -> None:
    """P(1) = e^-.5 = .606531; P(2) = e^-1 / 2 = .183940; P(3) = e^-1.5 * 1.5^2 / 6 = .083674; mean 2, variance 4."""
    assert borel_pmf([1, 2, 3], 0.5) == pytest.approx([0.606531, 0.183940, 0.083674], abs=5e-7)
    assert (cluster_mean(0.5), cluster_variance(0.5)) == (2.0, 4.0)


@pytest.mark.parametrize("n", [0.0, 0.3, 0.5, 0.9])
def test_the_law_sums_to_one_and_has_the_stated_mean_and_variance(n: float) -> None:
    k = np.arange(1, 20_000)
    p = borel_pmf(k, n)
    assert p.sum() == pytest.approx(1.0, abs=1e-9)
    assert p @ k == pytest.approx(cluster_mean(n), rel=1e-6)
    assert p @ (k - cluster_mean(n)) ** 2 == pytest.approx(cluster_variance(n), rel=1e-4, abs=1e-12)
    assert borel_pmf([0, -1], n).tolist() == [0.0, 0.0]


def test_simulated_clusters_follow_the_law() -> None:
    """One immigrant at a time: the size of what it leaves behind, 4 000 times."""
    rng = np.random.default_rng(3)
    sizes = []
    for _ in range(4_000):
        alive = size = 1
        while alive:
            alive = int(rng.poisson(0.5 * alive))
            size += alive
        sizes.append(size)
    shares = [np.mean(np.array(sizes) == k) for k in (1, 2, 3)]
    assert shares == pytest.approx(borel_pmf([1, 2, 3], 0.5), abs=0.025)


def test_hawkes_events_are_as_many_and_as_uneven_as_theory_says() -> None:
    """mu / (1 - n) = .02 / .5 = .04 a second; counts over long windows have variance / mean = 1 / (1 - n)^2 = 4."""
    times = hawkes_times(0.02, 0.5, 0.5, 1e6, np.random.default_rng(1))
    assert times.size == pytest.approx(40_000, rel=0.03)
    counts = np.histogram(times, np.arange(0, 1e6 + 1, 500))[0]
    assert counts.var() / counts.mean() == pytest.approx(4.0, rel=0.15)
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 1e6


def test_a_switching_poisson_process_spends_half_its_time_at_either_rate() -> None:
    times = switching_poisson_times((0.01, 0.05), 1_000.0, 2e6, np.random.default_rng(1))
    assert times.size == pytest.approx(0.03 * 2e6, rel=0.1)
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 2e6


@pytest.mark.parametrize("n", [0.0, 0.2, 0.5, 0.9])
def test_the_excess_of_a_hawkes_process_gives_its_ratio_back(n: float) -> None:
    assert branching_from_excess(n * (2 - n) / (2 * (1 - n) ** 2)) == pytest.approx(n, abs=1e-12)
    assert branching_from_excess(-3.0) == 0.0
    assert np.isnan(branching_from_excess(float("nan")))


@pytest.mark.parametrize(("mu", "n"), [(0.02, 0.5), (0.01, 0.8)])
def test_true_branching_is_found(mu: float, n: float) -> None:
    times = hawkes_times(mu, n, 0.5, 2e5, np.random.default_rng(0))
    found = clustering(times, 2e5, lag_s=20.0, regime_s=200.0, rng=np.random.default_rng(1), draws=49)
    assert found.branching == pytest.approx(n, abs=0.08)
    assert found.p_value == 1 / 50


def test_regimes_fool_the_naive_ratio_and_not_ours() -> None:
    """Forty markets whose rate switches 100-fold every 2 000 s: n = 0, and a naive fit says .4 to a lag of 10 s."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        times = switching_poisson_times((0.002, 0.2), 2_000.0, 4e4, rng)
        found.append(clustering(times, 4e4, lag_s=10.0, regime_s=100.0, rng=rng, draws=99))
    assert np.mean([f.branching_naive for f in found]) > 0.3
    assert np.mean([f.branching for f in found]) < 0.03
    assert max(f.branching for f in found) < 0.1
    assert np.mean([f.p_value < 0.05 for f in found]) <= 0.15  # five of a hundred by right, some for short regimes


def test_a_naive_fit_over_long_lags_comes_near_one() -> None:
    """Counts of 500 s in regimes of 1 000 s at .002 and .5: variance over mean beyond 50, so 1 - 1 / sqrt(50) > .85."""
    times = switching_poisson_times((0.002, 0.5), 1_000.0, 1e5, np.random.default_rng(0))
    counts = np.histogram(times, np.arange(0, 1e5 + 1, 500))[0]
    assert 1 - 1 / np.sqrt(counts.var() / counts.mean()) > 0.85
    rng = np.random.default_rng(1)
    assert clustering(times, 1e5, lag_s=10.0, regime_s=100.0, rng=rng, draws=19).branching < 0.1


def test_a_constant_rate_has_one_regime_and_no_branching() -> None:
    rng = np.random.default_rng(8)
    found = [
        clustering(rng.uniform(0, 2e4, 800), 2e4, lag_s=10.0, regime_s=200.0, rng=rng, draws=99) for _ in range(40)
    ]
    assert [f.regimes for f in found] == [1] * 40
    assert np.mean([f.branching for f in found]) < 0.03
    assert np.mean([f.p_value < 0.05 for f in found]) <= 0.15


def test_pairs_are_counted_as_a_double_loop_counts_them() -> None:
    rng = np.random.default_rng(4)
    times = np.sort(rng.uniform(0, 1_000, 60))
    slow = sum(0 < later - t <= 7.0 for k, t in enumerate(times) for later in times[k + 1 :])
    found = clustering(rng.permutation(times), 1_000.0, lag_s=7.0, regime_s=100.0, rng=rng, draws=9)
    assert (found.events, found.pairs) == (60, slow)
    # 60 * 59 / 2 pairs, each within 7 of 1 000 with probability 2 * .007 - .007^2.
    assert found.pairs_poisson == pytest.approx(60 * 59 / 2 * (2 * 0.007 - 0.007**2))


def test_regimes_are_cut_where_the_rate_changes() -> None:
    rng = np.random.default_rng(6)
    parts = [rng.uniform(0, 3_025, 30), rng.uniform(3_025, 4_025, 1_000), rng.uniform(4_025, 10_000, 60)]
    edges = rate_regimes(np.sort(np.concatenate(parts)), 10_000.0, 400.0)
    assert edges == pytest.approx([0.0, 3_025.0, 4_025.0, 10_000.0], abs=5.0)  # the grid of 50 s alone misses by 25
    assert rate_regimes(np.array([]), 10_000.0, 400.0).tolist() == [0.0, 10_000.0]


def test_a_burst_shorter_than_a_regime_is_a_cluster() -> None:
    rng = np.random.default_rng(6)
    times = np.sort(np.concatenate([rng.uniform(0, 1e4, 100), rng.uniform(5_000, 5_020, 40)]))
    found = clustering(times, 1e4, lag_s=20.0, regime_s=500.0, rng=rng, draws=99)
    assert found.p_value == 0.01
    assert np.diff(rate_regimes(times, 1e4, 500.0)).min() > 400


def test_few_events_say_nothing() -> None:
    times = np.linspace(0, 10, EVENTS_MIN - 1)
    found = clustering(times, 100.0, lag_s=1.0, regime_s=10.0, rng=np.random.default_rng(0))
    assert np.isnan([found.branching, found.branching_naive, found.p_value, found.pairs_null]).all()


def test_the_same_dice_give_the_same_answer() -> None:
    times = hawkes_times(0.02, 0.5, 0.5, 2e4, np.random.default_rng(0))
    one, two = (
        clustering(times, 2e4, lag_s=20.0, regime_s=200.0, rng=np.random.default_rng(1), draws=19) for _ in range(2)
    )
    assert one == two


def test_a_ratio_of_alpha_to_beta() -> None:
    assert branching_ratio(0.3, 0.6) == 0.5
    for alpha, beta in ((-0.1, 1.0), (0.1, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="alpha must be"):
            branching_ratio(alpha, beta)


@pytest.mark.parametrize("n", [1.0, 1.5, -0.1, float("nan")])
def test_clusters_that_never_end_have_no_size(n: float) -> None:
    for law in (cluster_mean, cluster_variance, lambda ratio: borel_pmf(1, ratio)):
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            law(n)


@pytest.mark.parametrize(
    ("times", "lag", "regime", "message"),
    [
        ([1.0], 20.0, 10.0, "0 < lag <= regime <= span"),
        ([1.0], 0.0, 10.0, "0 < lag"),
        ([1.0], 1.0, 1_000.0, "<= span"),
        ([-1.0], 1.0, 10.0, "times must be"),
        ([100.0], 1.0, 10.0, "times must be"),
        ([float("nan")], 1.0, 10.0, "times must be"),
    ],
)
def test_times_and_lags_that_make_no_sense_are_refused(
    times: list[float], lag: float, regime: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        clustering(times, 100.0, lag_s=lag, regime_s=regime, rng=np.random.default_rng(0))
