"""Why active selection may do no better than chance: clusters, embedding, picks, strategies.

docs/diagnostics.md says how to read each number and what to do about it. Numbers over all pairs
of rows are taken on a seeded sample of `SAMPLE` rows; on a smaller pool they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.progress import track
from seedtalk.selection import METHODS, Selection, js, select
from seedtalk.selection.facility import copies
from seedtalk.selection.pool import Floats, Rows
from seedtalk.signals import unit_rows

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 4096  # rows that stand for the pool where pairs are counted
NEIGHBOURS = 10  # k of hubness and of the density of outliers
ONE_HOT = 0.95  # largest membership over it: one-hot for all that js can see
OUTLIER = 0.95  # quantile of the pool beyond which a row is an outlier
RANDOM_SEEDS = 20  # random selections that an interval is made of
INTERVAL = 0.95  # share of them it holds
SWEEP = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the budget that are looked at
# A compared strategy that would take longer than all else is left out; the chosen one never is.
FACILITY_ROWS = 20_000  # rows of the pool, of O(N^2)
COMPARED_STEPS = 10**9  # rows times budget, of every other strategy that scores rows
_CHUNK = 4096


@dataclass(frozen=True)
class Sample:
    """The rows that stand for the pool, and each one's nearest others among them.

    Attributes
    ----------
    rows
        (P,) int64 rows of X, in order.
    unit
        (P, d) float32, scaled to length 1.
    neighbours
        (P, k) int64 places in `rows` of the most similar others, by cosine.
    reach
        (P,) float64 cosine distance 1 - cos to the k-th of them.
    """

    rows: Rows
    unit: NDArray[np.float32]
    neighbours: Rows
    reach: Floats

    @property
    def border(self) -> float:
        """The reach beyond which a row is an outlier, 1 - cos (0 to 2)."""
        return float(np.quantile(self.reach, OUTLIER, method="inverted_cdf"))


def sample(X: NDArray[np.floating], seed: int) -> Sample:
    """Draw at most `SAMPLE` rows of X and find their neighbours.

    Parameters
    ----------
    X
        (N, d) rows, or a memory map.
    seed
        Of the draw.
    """
    rows = np.arange(len(X))
    if len(X) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(len(X), SAMPLE, replace=False))
    unit = unit_rows(np.asarray(X[rows], dtype=np.float32))
    k = min(NEIGHBOURS, len(rows) - 1)
    neighbours, reach = np.empty((len(rows), k), dtype=np.int64), np.zeros(len(rows))
    for begin in range(0, len(rows), 512):
        similar = (unit[begin : begin + 512] @ unit.T).astype(np.float64).round(6)
        own = np.arange(len(similar))
        similar[own, begin + own] = -np.inf
        # The order among equals must not hang on rounding: the lowest row first.
        near = np.argsort(-similar, axis=1, kind="stable")[:, :k]
        neighbours[begin : begin + 512] = near
        if k:
            reach[begin : begin + 512] = 1.0 - similar[own, near[:, -1]]
    return Sample(rows, unit, neighbours, reach)


def cluster_quality(X: NDArray[np.floating], profile: js.Profile, drawn: Sample) -> dict[str, Any]:
    """Return how well the clusters separate, and what is left of them in p.

    Returns
    -------
    dict
        ``silhouette``: mean over the sample of (b - a) / max(a, b), with a the mean Euclidean
        distance to the row's own cluster and b to the nearest other one; -1 to 1, null for
        fewer than two clusters (Rousseeuw 1987).
        ``occupied``: exp of the entropy of the clusters' shares of the pool: as many clusters of
        equal size would be as even, 1 to K.
        ``smallest``, ``largest``: rows of a cluster.
        ``mean_entropy``: mean of H(p), nats; ``entropy_share``: of ln K, 0 to 1.
        ``one_hot_share``: of rows with max p > `ONE_HOT`, 0 to 1.
    """
    from sklearn.metrics import silhouette_score

    k = profile.p.shape[1]
    sizes = np.bincount(profile.labels, minlength=k)
    labels = profile.labels[drawn.rows]
    silhouette = None
    if 1 < len(np.unique(labels)) < len(labels):
        rows = np.asarray(X[drawn.rows], dtype=np.float64)
        silhouette = _rounded(silhouette_score(rows, labels))
    return {
        "silhouette": silhouette,
        "occupied": _rounded(np.exp(js.entropy(sizes / sizes.sum()))),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "mean_entropy": _rounded(profile.mean_entropy),
        "entropy_share": _rounded(profile.mean_entropy / np.log(k)) if k > 1 else 0.0,
        "one_hot_share": _rounded((profile.p.max(axis=1) > ONE_HOT).mean()),
    }


def embedding_audit(X: NDArray[np.floating], drawn: Sample) -> dict[str, Any]:
    """Return what makes vectors hard to tell apart.

    Returns
    -------
    dict
        ``mean_cosine``: of two different rows of the sample, -1 to 1; 0 where directions are
        spread evenly (Ethayarajh 2019, anisotropy).
        ``effective_rank``: (sum l)^2 / sum l^2 over the eigenvalues l of the sample's
        covariance, 1 to d: the participation ratio, how many directions carry the variance.
        ``features``: d.
        ``hubness``: skewness of N_k, how often a row is among the k nearest of others; 0 where
        all are alike, null where none differ (Radovanović, Nanopoulos and Ivanović 2010).
        ``duplicate_share``: of the pool's rows that are copies of an earlier row, 0 to 1.
    """
    p = len(drawn.rows)
    total = drawn.unit.sum(axis=0, dtype=np.float64)
    lengths = np.einsum("ij,ij->", drawn.unit, drawn.unit, dtype=np.float64)
    rows = np.asarray(X[drawn.rows], dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    gram = centred.T @ centred if X.shape[1] <= p else centred @ centred.T
    squares = float((gram**2).sum())
    seen = np.bincount(drawn.neighbours.ravel(), minlength=p).astype(np.float64)
    away = seen - seen.mean()
    spread = float((away**2).mean())
    group, first = copies(X)
    return {
        "mean_cosine": _rounded((total @ total - lengths) / (p * (p - 1))) if p > 1 else None,
        "effective_rank": _rounded(np.trace(gram) ** 2 / squares) if squares > 0 else 0.0,
        "features": int(X.shape[1]),
        "hubness": _rounded((away**3).mean() / spread**1.5) if spread > 0 else None,
        "duplicate_share": _rounded(1.0 - len(first) / len(group)),
    }


@dataclass(frozen=True)
class Scorer:
    """What every selection out of one pool is measured with.

    Attributes
    ----------
    X
        (N, d) rows of the pool.
    drawn
        The sample that stands for them.
    profile
        Memberships of the rows.
    items, groups
        (N,) item and group of each row.
    ridge
        lambda of the log-determinant.
    """

    X: NDArray[np.floating]
    drawn: Sample
    profile: js.Profile
    items: NDArray[np.generic]
    groups: NDArray[np.generic]
    ridge: float

    def numbers(self, rows: Rows) -> dict[str, Any]:
        """Return the numbers of a selection.

        Parameters
        ----------
        rows
            (b,) rows of X that are selected.

        Returns
        -------
        dict
            ``log_det``: log det(I + X_S' X_S / lambda), nats: what fisher maximises.
            ``js_to_pool``: JS(mean p of the picks || mean p of the pool), nats, 0 to ln 2.
            ``coverage``: mean over the sample of the largest cosine to a pick, at least 0, to 1:
            what facility maximises, by row.
            ``radius``: largest 1 - cos of a row of the sample to its nearest pick, 0 to 2.
            ``outlier_share``: of picks whose k-th most similar row of the sample is farther than
            it is for `OUTLIER` of the sample, 0 to 1; of the pool about 1 - `OUTLIER`.
            ``distinct_items``, ``groups``: how many the picks touch; ``most_per_item``.
            ``item_entropy``: entropy of the picks' items over ln min(b, items of the pool), 0
            (one item) to 1 (as even as can be).
            ``item_gini``: Gini coefficient of the picks per item over all items of the pool, 0
            (as many of each) to 1.
        """
        picked = np.asarray(self.X[rows], dtype=np.float64)
        information = np.eye(picked.shape[1]) + picked.T @ picked / self.ridge
        best, reach = self._similarities(rows)
        counts = np.unique(self.items[rows], return_counts=True)[1]
        share = counts / counts.sum()
        in_pool = len(np.unique(self.items))
        most = min(len(rows), in_pool)
        mean = self.profile.p[rows].mean(axis=0)
        return {
            "log_det": _rounded(np.linalg.slogdet(information)[1]),
            "js_to_pool": _rounded(js.divergence(mean, self.profile.p.mean(axis=0))),
            "coverage": _rounded(best.clip(min=0.0).mean()),
            "radius": _rounded(1.0 - best.min()),
            "outlier_share": _rounded((reach > self.drawn.border).mean()),
            "distinct_items": len(counts),
            "most_per_item": int(counts.max()),
            "item_entropy": _rounded(js.entropy(share) / np.log(most)) if most > 1 else 0.0,
            "item_gini": _rounded(_gini(counts, in_pool)),
            "groups": len(np.unique(self.groups[rows])),
        }

    def _similarities(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return the largest cosine of each sampled row to a pick, and the reach of each pick."""
        best, reach = np.full(len(self.drawn.rows), -np.inf), np.empty(len(rows))
        place = np.full(len(self.X), -1)
        place[self.drawn.rows] = np.arange(len(self.drawn.rows))
        k = self.drawn.neighbours.shape[1]
        for begin in range(0, len(rows), 512):
            part = rows[begin : begin + 512]
            unit = unit_rows(np.asarray(self.X[part], dtype=np.float32))
            similar = (unit @ self.drawn.unit.T).astype(np.float64).round(6)
            best = np.maximum(best, similar.max(axis=0))
            inside = np.flatnonzero(place[part] >= 0)
            similar[inside, place[part[inside]]] = -np.inf  # no row is its own neighbour
            reach[begin : begin + len(part)] = (
                1.0 - np.partition(similar, -k, axis=1)[:, -k] if k else 0.0
            )
        return best, reach


def _gini(counts: NDArray[np.integer], total: int) -> float:
    """Return the Gini coefficient of `counts` and as many zeros as make `total` values."""
    values = np.concatenate([np.zeros(total - len(counts)), np.sort(counts)])
    rank = np.arange(1, total + 1)
    return float(2 * (rank * values).sum() / (total * values.sum()) - (total + 1) / total)


def strategies(
    chosen: Selection, X: NDArray[np.floating], method: str, compare: Sequence[str], **options: Any
) -> tuple[dict[str, Selection], dict[str, str]]:
    """Select as every compared strategy would, beside what was chosen.

    Parameters
    ----------
    chosen
        What `method` selected.
    X, method
        As of `select`.
    compare
        Strategies; the chosen one counts always.
    options
        What else `select` was given, ``budget`` among it.

    Returns
    -------
    selections, skipped
        By name, in the order of `METHODS`; and why a strategy was left out.
    """
    selections, skipped = {}, {}
    names = [name for name in METHODS if name == method or name in compare]
    for name in track(names, "comparing strategies"):
        steps = len(X) * options["budget"]
        if name == method:
            selections[name] = chosen
        elif name == "facility" and len(X) > FACILITY_ROWS:
            skipped[name] = f"over {FACILITY_ROWS} rows it takes longer than all else: {len(X)}"
        elif name not in ("random", "popularity") and steps > COMPARED_STEPS:
            skipped[name] = f"over {COMPARED_STEPS:.0e} rows times budget: {steps:.0e}"
        else:
            selections[name] = select(X, method=name, **options)
    return selections, skipped


def random_interval(
    scorer: Scorer, warm_start: Rows, seed: int, **options: Any
) -> dict[str, list[float]]:
    """Return [low, high] of each number over `RANDOM_SEEDS` random selections.

    The bounds hold the middle `INTERVAL` of them: quantiles, by linear interpolation.

    Parameters
    ----------
    scorer
        What measures.
    warm_start
        Rows selected before, measured along with the random ones.
    seed
        The selections have the seeds after it.
    options
        What else `select` is given: budget and quotas.
    """
    made = []
    # Chance sees nothing but the number of rows: a blank table is checked faster than X.
    blank = np.zeros((len(scorer.X), 1), dtype=np.float32)
    for number in track(range(RANDOM_SEEDS), "random selections"):
        drawn = select(
            blank, method="random", seed=seed + 1 + number, warm_start=warm_start, **options
        )
        made.append(scorer.numbers(np.concatenate([warm_start, drawn.indices])))
    tail = (1.0 - INTERVAL) / 2
    return {
        name: [_rounded(v) for v in np.quantile([one[name] for one in made], [tail, 1.0 - tail])]
        for name in made[0]
    }


def overlap(selections: Mapping[str, Selection]) -> pd.DataFrame:
    """Return how many picks two strategies share, for parts of the budget.

    Returns
    -------
    pandas.DataFrame
        ``a``, ``b`` (names, each pair once), ``budget`` (the first so many picks of both),
        ``shared`` (picks of both) and ``jaccard`` (shared over those of either, 0 to 1).
    """
    import pandas as pd

    rows = []
    for (a, first), (b, second) in combinations(selections.items(), 2):
        for budget in budgets(len(first.indices)):
            shared = len(np.intersect1d(first.indices[:budget], second.indices[:budget]))
            rows.append((a, b, budget, shared, _rounded(shared / (2 * budget - shared))))
    return pd.DataFrame(rows, columns=["a", "b", "budget", "shared", "jaccard"])


def chance_overlap(budget: int, n: int) -> float:
    """Return the Jaccard similarity to expect of two random selections, b / (2 N - b)."""
    return budget / (2 * n - budget)


def gain_curves(
    selections: Mapping[str, Selection],
    warm: bool = False,
    before: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """Return ``method``, ``rank``, ``gain`` and ``share`` (of the reference) of every pick.

    ``share`` is by `reference_gain`, null where a strategy has no gains (random) or they are no
    amounts (hybrid's ranks). Units of ``gain`` as of `Selection.gains`. `warm` and `before`, by
    name, as of `reference_gain`.
    """
    import pandas as pd

    frames = []
    for name, chosen in selections.items():
        reference = reference_gain(name, chosen.gains, warm, (before or {}).get(name, ()))
        share = chosen.gains / reference if reference else np.full(len(chosen.gains), np.nan)
        frames.append(
            pd.DataFrame(
                {
                    "method": name,
                    "rank": np.arange(len(chosen.gains)),
                    "gain": chosen.gains.round(9),
                    "share": share.round(9),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def budgets(budget: int) -> list[int]:
    """Return the budgets of a sweep: `SWEEP` of the whole, at least 1, each once."""
    return sorted({max(1, round(share * budget)) for share in SWEEP})


def sweep(scorer: Scorer, warm_start: Rows, chosen: Selection) -> list[dict[str, Any]]:
    """Return the numbers of every budget of a sweep; one selection gives them all.

    Parameters
    ----------
    scorer
        What measures.
    warm_start
        Rows selected before, measured along.
    chosen
        The picks.

    Returns
    -------
    list
        Of `Scorer.numbers` with ``budget`` and ``gain`` (of all picks so far).
    """
    return [
        {
            "budget": budget,
            "gain": _rounded(chosen.gains[:budget].sum()),
            **scorer.numbers(np.concatenate([warm_start, chosen.indices[:budget]])),
        }
        for budget in budgets(len(chosen.indices))
    ]


def reference_gain(
    method: str, gains: Floats, warm: bool = False, before: Sequence[float] | Floats = ()
) -> float | None:
    """Return the gain that others are held against, or None where there is none.

    The first gain, but the second of js and kcenter: their first pick is none of divergence or
    distance to a selection.

    Parameters
    ----------
    method, gains
        A strategy, and (b,) gains of its new picks.
    warm
        Whether rows had been selected before: the first new gain then is one like the others.
    before
        What those rows gained when this strategy selected them, in pick order, where that is
        known. The selection began with them, so the reference is theirs; the first new gain of
        a long selection is small, and a share of it would advise to go on for ever.
    """
    whole = np.concatenate([np.asarray(before, dtype=np.float64), gains])
    began = len(before) > 0 or not warm
    at = 1 if method in ("js", "kcenter") and began else 0
    if method in ("hybrid", "random", "popularity") or len(whole) <= at or whole[at] <= 0:
        return None
    return float(whole[at])


def stopping(
    method: str,
    gains: Floats,
    share: float,
    warm: bool = False,
    before: Sequence[float] | Floats = (),
) -> dict[str, Any]:
    """Return after how many picks to stop: from there on none gains `share` of the reference.

    Gains of facility and of fisher's logdet, and distances of kcenter, never rise, so that this
    is where they first fall under the share. Those of js and of fisher's trace may rise again; a
    dip alone does not count.

    Parameters
    ----------
    method, gains
        What was selected, and (b,) gains.
    share
        Of `reference_gain`, 0 to 1; 0 never advises.
    warm, before
        As of `reference_gain`.

    Returns
    -------
    dict
        ``share``; ``reference`` (the gain held against, in its own unit; null where the strategy
        has no amounts); ``budget`` (new picks worth taking, 0 where those before were enough;
        null where the gains never stay under the share); ``last_share`` (of the last pick).
    """
    reference = reference_gain(method, gains, warm, before)
    if reference is None:
        return {"share": share, "reference": None, "budget": None, "last_share": None}
    enough = np.flatnonzero(gains >= share * reference)
    worth = int(enough[-1]) + 1 if len(enough) else 0
    return {
        "share": share,
        "reference": _rounded(reference),
        "budget": worth if worth < len(gains) else None,
        "last_share": _rounded(gains[-1] / reference),
    }


def group_counts(groups: NDArray[np.generic], rows: Rows) -> dict[str, dict[str, int]]:
    """Return ``pool`` and ``picks`` of each group, by name."""
    names, codes = np.unique(groups, return_inverse=True)
    pool = np.bincount(codes, minlength=len(names)).tolist()
    picks = np.bincount(codes[rows], minlength=len(names)).tolist()
    return {
        str(name): {"pool": of_pool, "picks": of_picks}
        for name, of_pool, of_picks in zip(names, pool, picks, strict=True)
    }


def _rounded(value: Any) -> float:
    return round(float(value), 6) + 0.0  # no negative zero
