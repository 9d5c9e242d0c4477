"""Jensen–Shannon selection: reviews whose cluster profile is unlike the seeds' so far.

Formulas in nats, as docs/method.md derives them; Jensen–Shannon divergence as in Lin (1991).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.progress import bar
from seedtalk.selection.pool import TIE, Floats, Front, Pool, Rows, lowest_best
from seedtalk.selection.tables import Table, power_of_two, table
from seedtalk.signals import check_matrix

# Share of ln K that the mean entropy gets where the temperature is set from the data: halfway
# between one-hot (distances saturate the softmax) and uniform (every review looks the same).
TARGET_ENTROPY = 0.5
SAMPLE = 2**15  # rows that k-means sees of a larger pool, or SAMPLE_PER_CLUSTER for each centre
SAMPLE_PER_CLUSTER = 256
_STARTS = 3  # k-means++ starts
_LN2 = math.log(2)
_SQUARED = 400  # exponent up to which float64 is squared without running over or under
_PIECE = 8192  # rows of a softmax at once: fixed, since the order of a sum shows in its bits


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
        return float(table(self.p, _PIECE, "cpu").entropy().mean())


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
    return np.clip(value, 0.0, _LN2)


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
    X: NDArray[np.floating],
    clusters: int,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    block: int = 65536,
    device: str = "cpu",
) -> Profile:
    """Cluster the rows and turn distances into soft memberships.

    K-means into K clusters, d_ij = ||x_i - c_j||, p_i = softmax(-d_i / tau) (docs/method.md).
    Of a pool over `SAMPLE` rows (or `SAMPLE_PER_CLUSTER` K, if that is more) k-means sees a
    seeded sample of that size; distances, memberships and labels are those of every row.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    clusters
        K, at most N.
    temperature
        tau; 0 sets it so that the mean entropy is half of ln K.
    seed
        Of the sample and of the k-means++ starts.
    block
        Rows read at once at most; changes memory and time only.
    device
        ``cpu``, or ``cuda``: where the distances are computed.

    Raises
    ------
    InputError
        When K is over N, a row is not finite, or the device is not there.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    check_matrix(X)
    n = len(X)
    check_clusters(clusters, n)
    shrink = power_of_two(X)
    if not 2.0**-_SQUARED < shrink < 2.0**_SQUARED:  # float64 that cannot be squared: a copy
        found = profile(
            X * shrink, clusters, temperature * shrink, seed, block=block, device=device
        )
        return Profile(found.p, found.labels, found.temperature / shrink)
    seen = max(SAMPLE, SAMPLE_PER_CLUSTER * clusters)
    rows = np.asarray(X)
    if n > seen:
        rows = rows[np.sort(np.random.default_rng(seed).choice(n, seen, replace=False))]
    # A power of two changes no digit, and keeps squares of float32 from running over or under.
    scale = 2.0 ** -np.frexp(max(float(rows.max()), -float(rows.min())))[1]
    # Threads add their shares of a centre in the order they end, so one thread: the same
    # centres, bit for bit, on every run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        means = KMeans(clusters, n_init=_STARTS, random_state=seed).fit(
            rows * rows.dtype.type(scale)
        )
        # Direct differences: the quadratic expansion loses small distances, and equal rows
        # could end up with unequal ones.
        centres = means.cluster_centers_.astype(np.float64) / scale
        distances = table(X, block, device).distances(centres)
    tau = temperature or balanced_temperature(distances)
    labels = np.empty(n, dtype=np.int64)
    for at in _pieces(n):
        labels[at] = distances[at].argmin(axis=1)
        distances[at] = _memberships(distances[at], tau)
    return Profile(distances, labels, tau)


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

    n, k = distances.shape
    spread = math.fsum(float(np.ptp(distances[at], axis=1).sum()) for at in _pieces(n)) / n
    if k == 1 or spread == 0.0:
        return 1.0

    def excess(log_tau: float) -> float:
        tau = math.exp(log_tau)
        total = math.fsum(float(_softmax_entropy(distances[at], tau).sum()) for at in _pieces(n))
        share: float = total / n / math.log(k)
        return share - target

    low, high = math.log(spread) + math.log(1e-4), math.log(spread) + math.log(1e4)
    if excess(low) >= 0:
        return math.exp(low)
    if excess(high) <= 0:
        return math.exp(high)
    root: float = brentq(excess, low, high, xtol=1e-9)
    return math.exp(root)


class Divergences:
    """JS(p_i || m) + lambda H(p_i) of any rows, and what is known of it from older means.

    JS is convex in m and at most ln 2, and the mean of t memberships mixes the mean of s of them,
    at s / t, with the mean of the rest. So t (ln 2 - JS(p_i || m_t)) never falls as the selection
    grows: what was known of it at an older mean bounds JS to every later one.

    Parameters
    ----------
    p
        (N, K) memberships.
    entropy_weight
        lambda.
    block, device
        As `select`.
    """

    def __init__(self, p: Floats, entropy_weight: float, block: int, device: str) -> None:
        self._table: Table = table(p, block, device)
        self.entropies = self._table.entropy()
        self._bonus = entropy_weight * self.entropies
        self._highest = _LN2 + self._bonus
        self._top = float(self._highest.max())
        self._short = np.zeros(len(p))  # t (ln 2 - JS), as last evaluated
        self.tie = TIE * (1.0 + entropy_weight)

    def meet(self, mean: Floats, count: int) -> None:
        """Take `mean`, of `count` memberships, as m."""
        self._mean, self._count = mean, count
        self._half = float(entropy(mean)) / 2

    def values(self, at: Rows) -> Floats:
        """Return JS(p_i || m) + lambda H(p_i) of the rows `at`."""
        js = self._table.entropy(at, self._mean)
        js -= self.entropies[at] / 2
        js -= self._half
        np.clip(js, 0.0, _LN2, out=js)
        self._short[at] = self._count * (_LN2 - js)
        return js + self._bonus[at]

    def bounds(self, at: Rows | slice) -> Floats:
        """Return what `values` is at most."""
        return self._highest[at] - self._short[at] / self._count

    def later(self, bound: float, count: int) -> float:
        """Return what any bound is at most that was `bound` or less at a mean of `count`."""
        kept = count / self._count
        return kept * bound + (1.0 - kept) * self._top


def greedy(
    p: Floats,
    budget: int,
    pool: Pool,
    entropy_weight: float,
    warm_start: Rows,
    *,
    block: int = 65536,
    device: str = "cpu",
) -> tuple[Rows, Floats]:
    """Pick rows by JS(p_i || mean of the selected p) + lambda H(p_i), exactly.

    The first pick, without a mean, is the row of highest entropy. Of the others only rows
    whose bound (`Divergences`) reaches the best value are evaluated.

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
    block, device
        As `select`.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order, and float64 scores in nats (of the first pick: H).
    """
    state = Divergences(p, entropy_weight, block, device)
    front = Front(state.bounds, state.values, len(p))
    chosen_at = 0  # picks in the mean when the front was chosen
    total, count = p[warm_start].sum(axis=0), len(warm_start)
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)

    def outside(bound: float) -> float:
        return state.later(bound, chosen_at)

    with bar("select", budget) as shown:
        for pick in range(budget):
            if count == 0:
                at = np.flatnonzero(pool.open)
                row, gains[pick] = lowest_best(at, state.entropies[at])
            else:
                state.meet(total / count, count)
                at, values, renewed = front.contenders(pool.open, outside, state.tie)
                chosen_at = count if renewed else chosen_at
                row, gains[pick] = lowest_best(at, values, state.tie)
            rows[pick] = row
            pool.take(row)
            total, count = total + p[row], count + 1
            shown.advance()
    return rows, gains


def _pieces(n: int) -> list[slice]:
    return [slice(begin, begin + _PIECE) for begin in range(0, n, _PIECE)]


def _memberships(distances: Floats, tau: float) -> Floats:
    p: Floats = np.exp((distances.min(axis=1, keepdims=True) - distances) / tau)
    p /= p.sum(axis=1, keepdims=True)
    return p


def _softmax_entropy(distances: Floats, tau: float) -> Floats:
    """Return H of softmax(-d / tau): ln Z - sum e z / Z with z = (least d - d) / tau, e = exp z."""
    z = (distances.min(axis=1, keepdims=True) - distances) / tau
    e = np.exp(z)
    whole = e.sum(axis=1)
    value: Floats = np.log(whole) - np.einsum("ij,ij->i", e, z) / whole
    return value
