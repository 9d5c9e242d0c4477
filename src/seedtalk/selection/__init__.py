"""Which reviews become seeds: one function, several strategies.

>>> chosen = select(X, budget=400, method="js", seed=0, clusters=32)
>>> chosen.indices, chosen.gains
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seedtalk.errors import InputError
from seedtalk.selection import baselines, fisher, hybrid, js
from seedtalk.selection.pool import Pool
from seedtalk.signals import check_matrix

METHODS = ("js", "fisher", "hybrid", "random", "popularity")


@dataclass(frozen=True)
class Selection:
    """Rows in pick order and what each pick gained.

    Attributes
    ----------
    indices
        (budget,) int64 rows of X.
    gains
        (budget,) float64: js nats, fisher growth of log det A in nats or fall of tr(A^-1 F),
        hybrid combined rank, popularity the item's count, random 0.
    """

    indices: NDArray[np.int64]
    gains: NDArray[np.float64]


def select(
    X: NDArray[np.floating],
    budget: int,
    method: str = "js",
    seed: int = 0,
    *,
    ridge: float = 1.0,
    criterion: str = "logdet",
    clusters: int = 32,
    temperature: float = 0.0,
    entropy_weight: float = 0.1,
    hybrid_weight: float = 0.5,
    max_per_item: int = 0,
    items: ArrayLike | None = None,
    popularity: ArrayLike | None = None,
    warm_start: Sequence[int] | NDArray[np.integer] = (),
    profile: js.Profile | None = None,
) -> Selection:
    """Select `budget` rows of X, exactly and deterministically.

    Every method picks greedily, so the first b picks are the selection of budget b; ties go to
    the lowest row.

    Parameters
    ----------
    X
        (N, d) float32, or a memory map.
    budget
        Rows to select, at least 1.
    method
        ``js``, ``fisher``, ``hybrid``, ``random`` or ``popularity``.
    seed
        Of k-means and of ``random``.
    ridge, criterion
        fisher: lambda of A = lambda I + sum x x'; ``logdet`` or ``trace``.
    clusters, temperature, entropy_weight
        js: K, tau (0: from the data) and lambda.
    hybrid_weight
        hybrid: share of js against fisher.
    max_per_item, items
        At most so many rows of an item (0: no limit); (N,) item of each row.
    popularity
        (N,) popularity of each row's item, for ``popularity``.
    warm_start
        Rows selected before: never returned, but they count for the quota, as part of the
        mean of js and of the information of fisher.
    profile
        js, hybrid: the memberships where `js.profile` was run before, with these `clusters`,
        `temperature` and `seed`.

    Raises
    ------
    InputError
        On a budget that pool or quota cannot give, K over N, rows that are not finite,
        arrays of the wrong length, an unknown method or a value out of its range.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    check_matrix(X)
    n = len(X)
    taken = np.asarray(warm_start, dtype=np.int64)
    codes = None if items is None else _aligned(items, n, "items")
    if method not in METHODS:
        raise InputError(f"select.method: '{method}' is none of {', '.join(METHODS)}")
    if criterion not in fisher.CRITERIA:
        raise InputError(f"select.criterion: '{criterion}' is none of {', '.join(fisher.CRITERIA)}")
    for name, value, fits, rule in (
        ("budget", budget, budget >= 1, "at least 1"),
        ("max_per_item", max_per_item, max_per_item >= 0, "at least 0"),
        ("clusters", clusters, clusters >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature < np.inf, "at least 0"),
        ("entropy_weight", entropy_weight, 0 <= entropy_weight < np.inf, "at least 0"),
        ("ridge", ridge, 0 < ridge < np.inf, "above 0"),
        ("hybrid_weight", hybrid_weight, 0 <= hybrid_weight <= 1, "from 0 to 1"),
    ):
        if not fits:
            raise InputError(f"select.{name}: must be {rule}, got {value}")
    if len(np.unique(taken)) != len(taken) or ((taken < 0) | (taken >= n)).any():
        raise InputError(f"warm_start: rows must be distinct and from 0 to {n - 1}")
    if max_per_item and codes is None:
        raise InputError("max_per_item: a quota needs the item of each row; pass items")
    if budget > n - len(taken):
        raise InputError(
            f"select.budget: {budget} seeds are over the pool of {n - len(taken)} reviews; "
            "lower select.budget, or widen the pool (select.min_rating, ingest.max_reviews)"
        )
    pool = Pool(n, codes, max_per_item, taken)
    if budget > (reachable := pool.reachable()):
        raise InputError(
            f"select.budget: {budget} seeds, but select.max_per_item={max_per_item} leaves "
            f"{reachable} of {n} reviews; lower select.budget or raise select.max_per_item"
        )
    if method in ("js", "hybrid"):
        js.check_clusters(clusters, n)

    # One thread: sums are taken in one order, whatever the number of cores.
    with threadpool_limits(1):
        if method == "random":
            rows, gains = baselines.random(n, budget, pool, seed)
        elif method == "popularity":
            if popularity is None:
                raise InputError("popularity: the method needs the popularity of each row's item")
            rows, gains = baselines.popularity(
                _aligned(popularity, n, "popularity").astype(np.float64), budget, pool
            )
        elif method == "fisher":
            rows, gains = fisher.greedy(X, budget, pool, ridge, criterion, taken)
        else:
            if profile is None:
                profile = js.profile(X, clusters, temperature, seed)
            if len(profile.p) != n:
                raise InputError(f"profile: made of {len(profile.p)} rows, but X has {n}")
            if method == "js":
                rows, gains = js.greedy(profile.p, budget, pool, entropy_weight, taken)
            else:
                rows, gains = hybrid.greedy(
                    X,
                    profile.p,
                    budget,
                    pool,
                    ridge=ridge,
                    criterion=criterion,
                    entropy_weight=entropy_weight,
                    hybrid_weight=hybrid_weight,
                    warm_start=taken,
                )
    return Selection(rows, gains)


def _aligned(values: ArrayLike, n: int, name: str) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise InputError(f"{name}: expected one value for each of {n} rows, got {array.shape}")
    return array
