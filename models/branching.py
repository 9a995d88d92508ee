"""Branching of forced trades: how many further ones each of them sets off, and whether that is more than a busy hour.

In a Hawkes process every event brings `n = alpha / beta` further events, `rate = mu + sum of alpha * exp(-beta * age)`.
An event and all that follow from it make a cluster, of a size that follows the Borel law.

Naive estimates read n from how unevenly events lie. But a Poisson process whose rate switches between calm and busy
regimes has n = 0 and lies unevenly too: naive fits take it for n near 1. `clustering` therefore finds the regimes first
and asks what is left: within a regime, given the number of events, their places are uniform if nothing branches. What
a regime is must be said (`regime_s`): a burst that is shorter counts as a cluster, a cluster that is longer as a
regime. The moment estimate is that of Hardiman and Bouchaud (2014), on pairs instead of variance; regimes by optimal
partition of the Poisson likelihood.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlogy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

EVENTS_MIN = 20  # below this there is nothing to say of clustering
SPLIT_COST = 2.0  # times log(events): what one more regime must gain in log likelihood
GRID = 8  # cells per shortest regime


def _checked_ratio(n: float) -> float:
    if not 0 <= n < 1:
        raise ValueError(f"branching ratio must be in [0, 1), was {n}")
    return n


def branching_ratio(alpha: float, beta: float) -> float:
    """Further events per event of an exponential Hawkes process: `alpha / beta`.

    Raises ValueError unless alpha is 0 or more and beta positive.

    >>> branching_ratio(0.05, 0.1)
    0.5
    """
    if not (alpha >= 0 and beta > 0):
        raise ValueError(f"alpha must be 0 or more and beta positive, were {alpha} and {beta}")
    return alpha / beta


def cluster_mean(n: float) -> float:
    """Mean size of a cluster: `1 / (1 - n)`. Raises ValueError unless n is in [0, 1).

    >>> cluster_mean(0.5)
    2.0
    """
    return 1 / (1 - _checked_ratio(n))


def cluster_variance(n: float) -> float:
    """Variance of the size of a cluster: `n / (1 - n) ** 3`. Raises ValueError unless n is in [0, 1).

    >>> cluster_variance(0.5)
    4.0
    """
    return n / (1 - _checked_ratio(n)) ** 3


def borel_pmf(size: npt.ArrayLike, n: float) -> Floats:
    """Probability that a cluster has `size` events: `exp(-n k) (n k) ** (k - 1) / k!` for k = 1, 2, ...; 0 below 1.

    Computed in logarithms, so that sizes of thousands keep their digits. Raises ValueError unless n is in [0, 1).

    >>> borel_pmf([1, 2, 3], 0.5).round(6).tolist()
    [0.606531, 0.18394, 0.083674]
    """
    _checked_ratio(n)
    k = np.asarray(size, dtype=np.float64)
    safe = np.where(k >= 1, k, 1.0)
    log_p = -n * safe + xlogy(safe - 1, n * safe) - gammaln(safe + 1)
    return np.asarray(np.where(k >= 1, np.exp(log_p), 0.0))


def branching_from_excess(excess: float) -> float:
    """Branching ratio from the mean excess of later events after an event: `1 - 1 / sqrt(1 + 2 * excess)`.

    For a Hawkes process the excess over all times is `n (2 - n) / (2 (1 - n) ** 2)`. Less excess than none is 0. NaN
    for NaN.

    >>> branching_from_excess(0.5 * 1.5 / (2 * 0.5**2))
    0.5
    """
    return 1 - 1 / math.sqrt(1 + 2 * max(excess, 0.0))


def hawkes_times(mu: float, n: float, beta: float, span_s: float, rng: np.random.Generator) -> Floats:
    """Event times in [0, span_s) of a Hawkes process, built generation by generation; `mu` spontaneous events a second.

    It starts empty: the first few `1 / (beta (1 - n))` seconds are thinner than the rest.

    >>> times = hawkes_times(0.01, 0.5, 0.1, 1e6, np.random.default_rng(1))
    >>> 19_000 < times.size < 21_000  # mu * span / (1 - n)
    True
    """
    _checked_ratio(n)
    parents = rng.uniform(0.0, span_s, rng.poisson(mu * span_s))
    born = [parents]
    while parents.size:
        parents = np.repeat(parents, rng.poisson(n, parents.size))
        parents = parents + rng.exponential(1 / beta, parents.size)
        parents = parents[parents < span_s]
        born.append(parents)
    return np.sort(np.concatenate(born))


def switching_poisson_times(
    rates: tuple[float, float], dwell_s: float, span_s: float, rng: np.random.Generator
) -> Floats:
    """Event times in [0, span_s) of a Poisson process that changes between two rates after exponential dwell times.

    No event causes another: n = 0. It starts at `rates[0]`.

    >>> times = switching_poisson_times((0.01, 0.03), 1_000.0, 1e6, np.random.default_rng(1))
    >>> 18_000 < times.size < 22_000
    True
    """
    dwells = rng.exponential(dwell_s, int(2 * span_s / dwell_s) + 100)
    edges = np.minimum(np.concatenate([[0.0], np.cumsum(dwells)]), span_s)
    edges[-1] = span_s
    rate = np.where(np.arange(edges.size - 1) % 2 == 0, *rates)
    count = rng.poisson(rate * np.diff(edges))
    times = np.repeat(edges[:-1], count) + rng.uniform(size=count.sum()) * np.repeat(np.diff(edges), count)
    return np.sort(times)


def rate_regimes(times_s: Floats, span_s: float, regime_s: float) -> Floats:
    """Edges of the stretches of [0, span_s) over which the rate of ordered events holds still, 0 and span_s included.

        cost(stretch) = n - n * log(n / T)                                  minus the log likelihood of its best rate
        out = the cut with the least sum of `cost + SPLIT_COST * log(events)`, every stretch at least `regime_s` long

    Cut on a grid of `regime_s / GRID` seconds (pruned dynamic programming, Killick et al., 2012), then every edge moves
    to where, between its neighbours, the two rates fit best.

    >>> busy, calm = np.arange(0.5, 100.0, 1.0), np.arange(115.0, 1_000.0, 30.0)
    >>> rate_regimes(np.concatenate([busy, calm]), 1_000.0, 50.0).round(1).tolist()
    [0.0, 99.5, 1000.0]
    """
    cells = max(int(span_s // (regime_s / GRID)), 1)
    grid = np.linspace(0.0, span_s, cells + 1)
    before = np.searchsorted(times_s, grid).astype(np.float64)
    cuts = _cheapest_cuts(before, span_s / cells, GRID, SPLIT_COST * math.log(max(times_s.size, 2)))
    edges = grid[np.flatnonzero(cuts)]
    for k in range(1, edges.size - 1):
        edges[k] = _best_edge(times_s, edges[k - 1], edges[k + 1], edges[k], regime_s / GRID)
    return edges


def _cut_rows(before, cell_s, least, penalty):  # type: ignore[no-untyped-def]  # compiled by numba, which infers types
    size = before.size
    best, start = np.full(size, np.inf), np.zeros(size, dtype=np.int64)
    best[0] = -penalty
    alive, lives = np.zeros(size, dtype=np.int64), 0
    for end in range(least, size):
        alive[lives] = end - least
        lives += 1
        for row in range(lives):
            n = before[end] - before[alive[row]]
            cost = best[alive[row]] + penalty
            cost += n - n * np.log(n / (cell_s * (end - alive[row]))) if n > 0 else 0.0
            if cost < best[end]:
                best[end], start[end] = cost, alive[row]
        kept = 0
        for row in range(lives):
            n = before[end] - before[alive[row]]
            cost = best[alive[row]] + (n - n * np.log(n / (cell_s * (end - alive[row]))) if n > 0 else 0.0)
            if cost <= best[end] + penalty:
                alive[kept] = alive[row]
                kept += 1
        lives = kept
    cuts = np.zeros(size, dtype=np.bool_)
    cuts[0] = cuts[-1] = True
    end = size - 1
    while start[end] > 0:
        end = start[end]
        cuts[end] = True
    return cuts


_cheapest_cuts: Callable[[Floats, float, int, float], Bools] = numba.njit(cache=True)(_cut_rows)


def _best_edge(times: Floats, low: float, high: float, edge: float, reach: float) -> float:
    """Where within `reach` of `edge`, just before or after an event, the stretches to `low` and `high` fit best."""
    inside = times[np.searchsorted(times, low) : np.searchsorted(times, high)]
    n, n1 = inside.size, np.concatenate([np.arange(inside.size), np.arange(1, inside.size + 1)])
    at = np.concatenate([inside, np.nextafter(inside, high)])
    near = (np.abs(at - edge) <= reach) & (at > low) & (at < high)
    at, n1 = at[near], n1[near]
    if not at.size:
        return edge
    t1, t2 = at - low, high - at
    return float(at[np.argmax(xlogy(n1, n1 / t1) + xlogy(n - n1, (n - n1) / t2))])


class Clustering(NamedTuple):
    """How clustered events are, against a constant rate (naive) and against a rate that switches between regimes."""

    events: int
    regimes: int
    pairs: int  # (event, later event) with a lag of at most `lag_s`
    pairs_poisson: float  # expected at one constant rate
    pairs_null: float  # expected where nothing branches and the rate is that of the regimes
    branching_naive: float
    branching: float
    p_value: float  # that such a process shows as many pairs


def clustering(
    times_s: npt.ArrayLike,
    span_s: float,
    *,
    lag_s: float,
    regime_s: float,
    rng: np.random.Generator,
    draws: int = 199,
) -> Clustering:
    """Branching ratio of events in [0, span_s), with regimes of the rate taken out, and the test against n = 0.

        pairs           = #{(i, j): 0 < t_j - t_i <= lag, i before j}
        null            = the same after each event was thrown uniformly into its own regime, mean over `draws`
        branching_naive = branching_from_excess((pairs - pairs_poisson) / events)
        branching       = branching_from_excess((pairs - pairs_null) / events)
        p_value         = (1 + #{draws with at least as many pairs}) / (1 + draws)

    `lag_s` should be several times the time in which one event sets off the next, `regime_s` several times the lag:
    what does not fit into them makes n too small. Below EVENTS_MIN events the ratios and the p-value are NaN: nothing
    is known.

    Raises ValueError unless 0 < lag <= regime <= span, draws is positive and times are finite and in [0, span_s).
    """
    times = np.sort(np.asarray(times_s, dtype=np.float64))
    if not (0 < lag_s <= regime_s <= span_s and draws > 0):
        raise ValueError(f"0 < lag <= regime <= span must hold and draws be positive, were {lag_s, regime_s, span_s}")
    if not ((times >= 0) & (times < span_s)).all():
        raise ValueError("times must be finite and in [0, span_s)")
    pairs, events = _pairs_within(times, lag_s), times.size
    homogeneous = events * (events - 1) / span_s**2 * (lag_s * span_s - lag_s**2 / 2)
    if events < EVENTS_MIN:
        return Clustering(events, 0, pairs, homogeneous, *[math.nan] * 4)
    edges = rate_regimes(times, span_s, regime_s)
    null = np.array([_pairs_within(_scattered(times, edges, rng), lag_s) for _ in range(draws)])
    return Clustering(
        events=events,
        regimes=edges.size - 1,
        pairs=pairs,
        pairs_poisson=homogeneous,
        pairs_null=float(null.mean()),
        branching_naive=branching_from_excess((pairs - homogeneous) / events),
        branching=branching_from_excess((pairs - float(null.mean())) / events),
        p_value=float((1 + (null >= pairs).sum()) / (1 + draws)),
    )


def _pairs_within(times: Floats, lag_s: float) -> int:
    """Ordered times: how many pairs lie at most `lag_s` apart."""
    reach = np.searchsorted(times, times + lag_s, side="right")
    return int((reach - np.arange(1, times.size + 1)).sum())


def _scattered(times: Floats, edges: Floats, rng: np.random.Generator) -> Floats:
    """As many events in each regime as there are, at uniform places."""
    regime = np.searchsorted(edges, times, side="right") - 1
    return np.sort(edges[regime] + rng.uniform(size=times.size) * np.diff(edges)[regime])
