"""Jensen–Shannon selection: reviews whose cluster profile is unlike the seeds' so far.

Formulas in nats, as docs/method.md derives them; Jensen–Shannon divergence as in Lin (1991),
the triangle inequality of its square root as in Endres and Schindelin (2003).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.selection.pool import TIE, Floats, Pool, Rows, contenders, lowest_best
from seedtalk.signals import check_matrix

# Share of ln K that the mean entropy gets where the temperature is set from the data: halfway
# between one-hot (distances saturate the softmax) and uniform (every review looks the same).
TARGET_ENTROPY = 0.5
_STARTS = 3  # k-means++ starts
# Rounding of the entropies, as seen under the square root of the bound.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Profile:
    """How each row spreads over the clusters.

    Attributes
    ----------
    p
        (N, K) float64, rows sum to 1.
    labels
        (N,) int64, the nearest cluster.
    temperature
        tau of the softmax.
    """

    p: Floats
    labels: NDArray[np.int64]
    temperature: float

    @property
    def mean_entropy(self) -> float:
        """Mean of H(p) over the rows, in nats (0 to ln K)."""
        return float(entropy(self.p).mean())


def entropy(p: Floats) -> Floats:
    """Return H(p) = -sum p ln p over the last axis, in nats; 0 ln 0 is 0."""
    from scipy.special import entr

    total: Floats = entr(p).sum(axis=-1)
    return total


def divergence(p: Floats, q: Floats, entropy_p: Floats | None = None) -> Floats:
    """Return JS(p || q) = H((p + q) / 2) - H(p) / 2 - H(q) / 2 over the last axis.

    In nats, from 0 to ln 2; symmetric (Lin 1991, eq. 4.1).
    """
    first = entropy(p) if entropy_p is None else entropy_p
    value = entropy((p + q) / 2) - first / 2 - entropy(q) / 2
    return np.clip(value, 0.0, math.log(2))


def check_clusters(clusters: int, n: int) -> None:
    """Refuse more clusters than rows.

    Raises
    ------
    InputError
        When K is over N; names both and the keys.
    """
    if clusters > n:
        raise InputError(
            f"select.clusters: {clusters} clusters are over the {n} reviews of the pool; "
            "lower select.clusters or widen the pool (select.min_rating, ingest.max_reviews)"
        )


def profile(
    X: NDArray[np.floating], clusters: int, temperature: float = 0.0, seed: int = 0
) -> Profile:
    """Cluster the rows and turn distances into soft memberships.

    K-means into K clusters, d_ij = ||x_i - c_j||, p_i = softmax(-d_i / tau) (docs/method.md).

    Parameters
    ----------
    X
        (N, d) rows.
    clusters
        K, at most N.
    temperature
        tau; 0 sets it so that the mean entropy is half of ln K.
    seed
        Of the k-means++ starts.

    Raises
    ------
    InputError
        When K is over N, or a row is not finite.
    """
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    check_matrix(X)
    check_clusters(clusters, len(X))
    # Threads add their shares of a centre in the order they end, so one thread: the same
    # centres, bit for bit, on every run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        means = KMeans(clusters, n_init=_STARTS, random_state=seed).fit(np.asarray(X))
    # Direct differences: the quadratic expansion loses small distances, and equal rows could
    # end up with unequal ones.
    distances = cdist(X, means.cluster_centers_)
    tau = temperature or balanced_temperature(distances)
    return Profile(_memberships(distances, tau), distances.argmin(axis=1), tau)


def balanced_temperature(distances: Floats, target: float = TARGET_ENTROPY) -> float:
    """Return the tau at which the mean of H(p_i) is `target` times ln K.

    The entropy of softmax(-d / tau) grows with tau, so that the root is unique; it is
    bracketed and found on a log scale (Brent). Where it does not exist (one cluster, or all
    distances of a row alike) the nearest end of the bracket is returned.

    Parameters
    ----------
    distances
        (N, K) distances to the centres.
    target
        Share of ln K, above 0 and below 1.
    """
    from scipy.optimize import brentq

    k = distances.shape[1]
    spread = float(np.ptp(distances, axis=1).mean())
    if k == 1 or spread == 0.0:
        return 1.0

    def excess(log_tau: float) -> float:
        p = _memberships(distances, math.exp(log_tau))
        return float(entropy(p).mean()) / math.log(k) - target

    low, high = math.log(spread * 1e-4), math.log(spread * 1e4)
    if excess(low) >= 0:
        return math.exp(low)
    if excess(high) <= 0:
        return math.exp(high)
    return math.exp(float(brentq(excess, low, high, xtol=1e-9)))


def greedy(
    p: Floats, budget: int, pool: Pool, entropy_weight: float, warm_start: Rows
) -> tuple[Rows, Floats]:
    """Pick rows by JS(p_i || mean of the selected p) + lambda H(p_i), exactly.

    The first pick, without a mean, is the row of highest entropy. JS to the moving mean m is
    bounded by an older evaluation through the triangle inequality of sqrt(JS):
    sqrt(JS(p, m')) <= sqrt(JS(p, m)) + sqrt(JS(m, m')). Only rows whose bound reaches the best
    are evaluated again.

    Parameters
    ----------
    p
        (N, K) memberships.
    budget
        Rows to pick; the pool must hold as many.
    pool
        Open rows; its rows are closed as they are picked.
    entropy_weight
        lambda, at least 0.
    warm_start
        Rows that count as selected before.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order, and float64 scores in nats (of the first pick: H).
    """
    n, k = p.shape
    entropies = entropy(p)
    bonus = entropy_weight * entropies
    total, count = p[warm_start].sum(axis=0), len(warm_start)
    means, known = np.empty((budget, k)), 0  # every mean the rows were compared with
    root = np.full(n, math.sqrt(math.log(2)))  # bound of sqrt(JS) to means[stamp]
    stamp = np.zeros(n, dtype=np.int64)
    rows, scores = np.empty(budget, dtype=np.int64), np.empty(budget)

    for pick in range(budget):
        if count == 0:
            candidates = np.flatnonzero(pool.open)
            row, score = lowest_best(candidates, entropies[candidates])
        else:
            mean = means[known] = total / count
            drift = np.sqrt(divergence(means[: known + 1], mean) + _ROUNDING)
            upper = np.minimum((root + drift[stamp]) ** 2, math.log(2)) + bonus
            upper[~pool.open] = -np.inf

            def evaluate(at: Rows, mean: Floats = mean, known: int = known) -> Floats:
                value = divergence(p[at], mean, entropies[at])
                root[at], stamp[at] = np.sqrt(value + _ROUNDING), known
                return value + bonus[at]

            row, score = lowest_best(*contenders(upper, evaluate, TIE))
            known += 1
        rows[pick], scores[pick] = row, score
        pool.take(row)
        total, count = total + p[row], count + 1
    return rows, scores


def scores(
    p: Floats, entropies: Floats, entropy_weight: float, total: Floats, count: int
) -> Floats:
    """Return the score of every row against the mean ``total / count`` (H where count is 0)."""
    if count == 0:
        return entropies
    return divergence(p, total / count, entropies) + entropy_weight * entropies


def _memberships(distances: Floats, tau: float) -> Floats:
    from scipy.special import softmax

    nearest = distances.min(axis=1, keepdims=True)
    p: Floats = softmax((nearest - distances) / tau, axis=1)
    return p
