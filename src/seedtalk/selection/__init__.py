"""Which reviews become seeds: one function, several strategies.

>>> chosen = select(X, budget=400, method="js", seed=0, clusters=32)
>>> chosen.indices, chosen.gains
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seedtalk.errors import InputError
from seedtalk.selection import baselines, facility, fisher, hybrid, js, kcenter
from seedtalk.selection.pool import Floats, Pool, Rows
from seedtalk.selection.tables import check_device
from seedtalk.signals import check_matrix

METHODS = ("js", "fisher", "hybrid", "kcenter", "facility", "random", "popularity")


@dataclass(frozen=True)
class Selection:
    """Rows in pick order and what each pick gained.

    Attributes
    ----------
    indices
        (budget,) int64 rows of X.
    gains
        (budget,) float64: js nats, fisher growth of log det A in nats or fall of tr(A^-1 F),
        hybrid combined rank, kcenter the distance to the rows selected before, facility growth
        of the coverage, popularity the item's count, random 0.
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
    groups: ArrayLike | None = None,
    min_per_group: int = 0,
    popularity: ArrayLike | None = None,
    warm_start: Sequence[int] | NDArray[np.integer] = (),
    profile: js.Profile | None = None,
    block: int = 65536,
    device: str = "cpu",
) -> Selection:
    """Select `budget` rows of X, exactly and deterministically.

    Every method picks greedily, so the first b picks are the selection of budget b; ties go to
    the lowest row. With `min_per_group` the places kept for groups depend on the budget, and a
    smaller budget need not be a prefix of a larger one.

    Parameters
    ----------
    X
        (N, d) float32 or float64, or a memory map; never copied as a whole, except that
        ``facility`` holds the distinct rows in float32, scaled to length 1, and that float64
        rows too large or small to be squared are copied for ``js``.
    budget
        Rows to select, at least 1.
    method
        ``js``, ``fisher``, ``hybrid``, ``kcenter``, ``facility``, ``random`` or ``popularity``.
        ``facility`` takes O(N^2 d) time; over `facility.MANY_ROWS` rows a `RuntimeWarning` says so.
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
    min_per_group, groups
        At least so many rows of each group (0: none asked for); (N,) group of each row, the
        same for all rows of an item.
    popularity
        (N,) popularity of each row's item, for ``popularity``.
    warm_start
        Rows selected before: never returned, but they count for the quotas, and in each method
        as its first picks do. Going on from a selection gives what the larger budget would
        have given (ties apart that rounding decides), without `min_per_group`.
    profile
        js, hybrid: the memberships where `js.profile` was run before, with these `clusters`,
        `temperature` and `seed`.
    block
        Rows read at once at most; changes memory and time, never a pick.
    device
        ``cpu``, or ``cuda``: where js, fisher and hybrid do their sums (the others always on the
        processor). What is close is settled on the processor in float64 either way.

    Raises
    ------
    InputError
        On a budget that pool or quotas cannot give, K over N, rows that are not finite or no
        floats, arrays of the wrong length or with values missing, an unknown method, a value of
        the wrong kind or out of its range, or no such device.
    """
    import scipy.linalg  # noqa: F401 - its BLAS must be loaded before it can be held to one thread
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    check_matrix(X)
    n = len(X)
    taken = _warm_rows(warm_start, n)
    codes = None if items is None else _labels(items, n, "items")
    for name, whole in (
        ("budget", budget),
        ("seed", seed),
        ("clusters", clusters),
        ("max_per_item", max_per_item),
        ("min_per_group", min_per_group),
        ("block", block),
    ):
        try:
            operator.index(whole)
        except TypeError:
            raise InputError(f"select.{name}: must be a whole number, got {whole!r}") from None
    if method not in METHODS:
        raise InputError(f"select.method: '{method}' is none of {', '.join(METHODS)}")
    if criterion not in fisher.CRITERIA:
        raise InputError(f"select.criterion: '{criterion}' is none of {', '.join(fisher.CRITERIA)}")
    for name, value, fits, rule in (
        ("budget", budget, budget >= 1, "at least 1"),
        ("seed", seed, seed >= 0, "at least 0"),
        ("max_per_item", max_per_item, max_per_item >= 0, "at least 0"),
        ("min_per_group", min_per_group, min_per_group >= 0, "at least 0"),
        ("block", block, block >= 1, "at least 1"),
        ("clusters", clusters, clusters >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature < np.inf, "at least 0"),
        ("entropy_weight", entropy_weight, 0 <= entropy_weight < np.inf, "at least 0"),
        ("ridge", ridge, 0 < ridge < np.inf, "above 0"),
        ("hybrid_weight", hybrid_weight, 0 <= hybrid_weight <= 1, "from 0 to 1"),
    ):
        if not fits:
            raise InputError(f"select.{name}: must be {rule}, got {value}")
    check_device(device)
    if max_per_item and codes is None:
        raise InputError("max_per_item: a quota needs the item of each row; pass items")
    if min_per_group and groups is None:
        raise InputError("min_per_group: a quota needs the group of each row; pass groups")
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
    if min_per_group and groups is not None:
        pool.reserve(_labels(groups, n, "groups"), min_per_group, budget, codes)
    if method in ("js", "hybrid"):
        js.check_clusters(clusters, n)

    # One thread a sum: it is taken in one order, whatever the number of cores.
    with threadpool_limits(1):
        if method == "random":
            rows, gains = baselines.random(n, budget, pool, seed)
        elif method == "popularity":
            if popularity is None:
                raise InputError("popularity: the method needs the popularity of each row's item")
            rows, gains = baselines.popularity(_numbers(popularity, n), budget, pool)
        elif method == "fisher":
            rows, gains = fisher.greedy(
                X, budget, pool, ridge, criterion, taken, block=block, device=device
            )
        elif method == "kcenter":
            rows, gains = kcenter.greedy(X, budget, pool, taken, block=block)
        elif method == "facility":
            rows, gains = facility.greedy(X, budget, pool, taken, block=block)
        else:
            if profile is None:
                profile = js.profile(X, clusters, temperature, seed, block=block, device=device)
            if len(profile.p) != n:
                raise InputError(f"profile: made of {len(profile.p)} rows, but X has {n}")
            if profile.p.shape[1] != clusters:
                raise InputError(
                    f"profile: made with {profile.p.shape[1]} clusters, but clusters={clusters}; "
                    "pass the number it was made with, or remake it by js.profile"
                )
            if method == "js":
                rows, gains = js.greedy(
                    profile.p, budget, pool, entropy_weight, taken, block=block, device=device
                )
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
                    block=block,
                    device=device,
                )
    return Selection(rows, gains)


def _aligned(values: ArrayLike, n: int, name: str) -> NDArray[np.generic]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise InputError(f"{name}: expected one value for each of {n} rows, got {array.shape}")
    return array


def _labels(values: ArrayLike, n: int, name: str) -> NDArray[np.generic]:
    """Return one label a row, none of them missing."""
    array = _aligned(values, n, name)
    if array.dtype.kind not in "Of":
        return array
    # None and NaN are no labels, and what mixes kinds has no order.
    missing = [value is None or value != value for value in array]
    if any(missing):
        row = missing.index(True)
        raise InputError(
            f"{name}: row {row} has none ({array[row]}); give every row one, such as 'unknown'"
        )
    kinds = {str if isinstance(value, str) else type(value) for value in array}
    if len(kinds) > 1:
        named = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"{name}: values of several types ({named}); make all of them strings")
    return array


def _numbers(values: ArrayLike, n: int) -> Floats:
    """Return the popularity of each row's item."""
    try:
        array = _aligned(values, n, "popularity").astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"popularity: expected numbers ({error})") from error
    bad = np.flatnonzero(np.isnan(array))
    if len(bad):
        raise InputError(f"popularity: row {bad[0]} is NaN; set it to 0 where nothing is known")
    return array


def _warm_rows(values: Sequence[int] | NDArray[np.integer], n: int) -> Rows:
    """Return rows selected before, each once and in the table."""
    array = np.asarray(values)
    if array.ndim != 1 or (len(array) and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"warm_start: expected a list of whole row numbers, got {values!r:.60}")
    taken: Rows = array.astype(np.int64)
    outside = taken[(taken < 0) | (taken >= n)]
    if len(outside):
        raise InputError(f"warm_start: row {outside[0]} is not from 0 to {n - 1}")
    rows, counts = np.unique(taken, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"warm_start: row {rows[counts > 1][0]} is named twice; drop one")
    return taken
