"""What a selection looks like from outside: its numbers, what they say, and a map of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.records import Seed
from seedtalk.selection import Selection, diagnostics
from seedtalk.selection.js import Profile
from seedtalk.selection.pool import Rows

if TYPE_CHECKING:
    import pandas as pd

# Where a number is worth a warning. Lines drawn here, by the measure's own scale.
FEW_ONE_HOT = 0.5  # share of the pool's rows
FLAT_ENTROPY = 0.95  # share of ln K
SILHOUETTE = 0.05
TINY_CLUSTER = 0.1  # of the pool's share of a cluster
ANISOTROPIC = 0.5  # mean cosine
FEW_DIRECTIONS = 0.05  # effective rank over features
HUBS = 2.0  # skewness
COPIES = 0.01  # share of the pool
OUTLIERS = 2.0  # times the pool's share
ALIKE = 0.9  # Jaccard similarity of two strategies
SHARED_BY_CHANCE = 0.25  # Jaccard similarity to expect of two random selections
BETTER_HIGH = ("coverage", "log_det", "distinct_items")  # held against random selections
LARGE_GROUP = 0.02  # share of the pool

MAP_ROWS = 4000  # of the pool, drawn beside the seeds


def summary(chosen: Selection, profile: Profile, items: NDArray[np.generic]) -> dict[str, Any]:
    """Return the numbers of a selection for ``results/selection.json``.

    Parameters
    ----------
    chosen
        Picks out of the pool.
    profile
        Clusters of the pool's rows.
    items
        (N,) item of each row of the pool.

    Returns
    -------
    dict
        ``pool``, ``pool_items``, ``clusters``, ``temperature``, ``mean_entropy`` (of p, nats),
        ``entropy_share`` (of ln K), ``distinct_items``, ``most_per_item``,
        ``pool_per_cluster`` and ``picks_per_cluster``.
    """
    k = profile.p.shape[1]
    of_items = np.unique(items[chosen.indices], return_counts=True)[1]
    entropy = profile.mean_entropy
    return {
        "pool": len(items),
        "pool_items": len(np.unique(items)),
        "clusters": k,
        "temperature": round(profile.temperature, 9),
        "mean_entropy": round(entropy, 9),
        "entropy_share": round(entropy / np.log(k), 9) if k > 1 else 0.0,
        "distinct_items": len(of_items),
        "most_per_item": int(of_items.max()),
        "pool_per_cluster": np.bincount(profile.labels, minlength=k).tolist(),
        "picks_per_cluster": np.bincount(profile.labels[chosen.indices], minlength=k).tolist(),
    }


@dataclass(frozen=True)
class Diagnosis:
    """What ``results/selection.json`` says beside `summary`, and two tables.

    Attributes
    ----------
    numbers
        ``diagnostics`` (``clusters``, ``embedding``, ``sample``, ``chance_overlap``,
        ``warnings``), ``stopping``, ``sweep``, ``strategies`` (by name), ``random_interval``,
        ``skipped`` and ``groups``.
    overlap, gains
        As of `diagnostics.overlap` and `diagnostics.gain_curves`.
    """

    numbers: dict[str, Any]
    overlap: pd.DataFrame
    gains: pd.DataFrame


def diagnose(
    X: NDArray[np.floating],
    chosen: Selection,
    profile: Profile,
    *,
    method: str,
    compare: Sequence[str],
    stop_share: float,
    seed: int,
    items: NDArray[np.generic],
    groups: NDArray[np.generic],
    popularity: NDArray[np.generic],
    warm_start: Rows,
    before: Sequence[float] = (),
    **options: Any,
) -> Diagnosis:
    """Hold a selection against the other strategies and against chance.

    Parameters
    ----------
    X, chosen, profile
        (N, d) rows of the pool, what `method` picked, and the memberships it was picked by.
    method, compare
        The strategy, and those held beside.
    stop_share
        Share of the reference gain under which the stopping advice stops.
    before
        What the rows of the warm start gained, in pick order: a strategy's reference gain is that
        of its whole selection. Other strategies than `method` have no such gains and are held
        against their first new one.
    seed, items, groups, popularity, warm_start, options
        As of `select`; ``budget``, ``max_per_item``, ``min_per_group`` and ``ridge`` among the
        options.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    budget, warm = options["budget"], len(warm_start) > 0
    # One value an item, instead of its name, is compared faster.
    items = np.unique(items, return_inverse=True)[1]
    shared: dict[str, Any] = {"seed": seed, "items": items, "groups": groups}
    shared["warm_start"] = warm_start
    with threadpool_limits(1):  # one order of summation, whatever the number of cores
        selections, skipped = diagnostics.strategies(
            chosen, X, method, compare, popularity=popularity, profile=profile, **shared, **options
        )
        drawn = diagnostics.sample(X, seed)
        scorer = diagnostics.Scorer(X, drawn, profile, items, groups, options["ridge"])
        quotas = {name: options[name] for name in ("budget", "max_per_item", "min_per_group")}
        numbers: dict[str, Any] = {
            "diagnostics": {
                "clusters": diagnostics.cluster_quality(X, profile, drawn),
                "embedding": diagnostics.embedding_audit(X, drawn),
                "sample": len(drawn.rows),
                "chance_overlap": round(diagnostics.chance_overlap(budget, len(X)), 6),
            },
            "stopping": diagnostics.stopping(method, chosen.gains, stop_share, warm, before),
            "sweep": diagnostics.sweep(scorer, warm_start, chosen),
            "strategies": {
                name: scorer.numbers(np.concatenate([warm_start, other.indices]))
                for name, other in selections.items()
            },
            "random_interval": diagnostics.random_interval(scorer, **shared, **quotas),
            "skipped": skipped,
            "groups": diagnostics.group_counts(
                groups, np.concatenate([warm_start, chosen.indices])
            ),
        }
    overlap = diagnostics.overlap(selections)
    numbers["diagnostics"]["warnings"] = warnings(method, len(X), profile, numbers, overlap)
    curves = diagnostics.gain_curves(selections, warm, {method: before})
    return Diagnosis(numbers, overlap, curves)


def warnings(
    method: str,
    pool: int,
    profile: Profile,
    numbers: Mapping[str, Any],
    overlap: pd.DataFrame,
) -> list[str]:
    """Return what stands in the way of an active selection, in words and numbers.

    Parameters
    ----------
    method
        What chose.
    pool
        N.
    profile
        Memberships.
    numbers, overlap
        Of a `Diagnosis`.
    """
    clusters, vectors = (numbers["diagnostics"][name] for name in ("clusters", "embedding"))
    own, k = numbers["strategies"][method], profile.p.shape[1]
    told = []
    if k > 1:
        told += _cluster_warnings(clusters, pool, k)
    if (cosine := vectors["mean_cosine"]) is not None and cosine > ANISOTROPIC:
        told.append(
            f"the embedding is anisotropic: two reviews have a cosine of {cosine:.2f} on "
            "average, so that distances say little; try another embed.encoder or embed.pooling"
        )
    if vectors["effective_rank"] < FEW_DIRECTIONS * vectors["features"]:
        told.append(
            f"the variance lies in about {vectors['effective_rank']:.1f} of "
            f"{vectors['features']} directions; try another embed.encoder or embed.pooling"
        )
    if (skew := vectors["hubness"]) is not None and skew > HUBS:
        told.append(
            f"the embedding has hubs: a few reviews are near everything (skewness {skew:.1f}), "
            "and facility and js lean on them"
        )
    if (copies := vectors["duplicate_share"]) > COPIES:
        told.append(f"{copies:.0%} of the pool are copies of another review; clean the source")
    usual = 1.0 - diagnostics.OUTLIER
    if (odd := own["outlier_share"]) >= OUTLIERS * usual:
        told.append(
            f"picks of {method} are outliers {odd / usual:.1f} times as often as the pool "
            f"({odd:.0%} of them): rare wording rather than rare taste; raise "
            "ingest.min_review_chars, or mix by select.method=hybrid or facility"
        )
    if method != "random":
        told += _chance_warnings(method, own, numbers["random_interval"])
    whole = overlap[overlap["budget"] == overlap["budget"].max()]
    for a, b, jaccard in zip(whole["a"], whole["b"], whole["jaccard"], strict=True):
        if jaccard >= ALIKE and method in (a, b):
            told.append(f"{a} and {b} pick nearly the same (Jaccard {jaccard:.2f})")
    if (expected := numbers["diagnostics"]["chance_overlap"]) > SHARED_BY_CHANCE:
        told.append(
            f"the budget takes so much of the pool of {pool} that two random selections share "
            f"{expected:.0%}; strategies can differ little: lower select.budget or widen the pool"
        )
    missed = [
        f"{name} ({count['pool'] / pool:.0%} of the pool)"
        for name, count in numbers["groups"].items()
        if not count["picks"] and count["pool"] >= LARGE_GROUP * pool
    ]
    if missed:
        told.append(f"no seed from {', '.join(missed)}; set select.min_per_group")
    return told


def _chance_warnings(
    method: str, own: Mapping[str, float], chance: Mapping[str, Sequence[float]]
) -> list[str]:
    below: list[str] = []
    like: list[str] = []
    for name in BETTER_HIGH:
        low, high = chance[name]
        if own[name] <= high:
            which = below if own[name] < low else like
            which.append(f"{name} {own[name]:.4g} (random {low:.4g} to {high:.4g})")
    told = []
    if below:
        told.append(f"{method} is worse than chance in {', '.join(below)}")
    if like:
        told.append(f"{method} is no better than chance in {', '.join(like)}")
    return told


def _cluster_warnings(clusters: Mapping[str, Any], pool: int, k: int) -> list[str]:
    told = []
    if (sharp := clusters["one_hot_share"]) > FEW_ONE_HOT:
        told.append(
            f"the temperature collapses p to one-hot: {sharp:.0%} of the pool have a membership "
            f"over {diagnostics.ONE_HOT}, the mean entropy is {clusters['entropy_share']:.0%} of "
            "ln K; raise select.temperature, or set it to 0"
        )
    if (flat := clusters["entropy_share"]) > FLAT_ENTROPY:
        told.append(
            f"p is nearly uniform: the mean entropy is {flat:.0%} of ln K, so that js sees no "
            "difference; lower select.temperature, or set it to 0"
        )
    if (width := clusters["silhouette"]) is not None and width < SILHOUETTE:
        told.append(
            f"the {k} clusters hardly separate (silhouette {width:.2f}); js goes by distances to "
            "their centres all the same, but lower select.clusters if its picks look arbitrary"
        )
    if clusters["smallest"] < TINY_CLUSTER * pool / k:
        told.append(
            f"the smallest of {k} clusters has {clusters['smallest']} of {pool} reviews; fewer "
            "select.clusters keep js from spending seeds on it"
        )
    return told


def seeds(
    chosen: Selection, review_ids: NDArray[np.generic], items: NDArray[np.generic]
) -> list[Seed]:
    """Return the picks as records; `review_ids` and `items` are of the (N,) rows of the pool."""
    return [
        Seed(rank=rank, review_id=str(review_ids[row]), item_id=str(items[row]), score=float(score))
        for rank, (row, score) in enumerate(zip(chosen.indices, chosen.gains, strict=True))
    ]


def gain_curve(chosen: Selection, first: int = 0) -> pd.DataFrame:
    """Return ``rank`` (from `first`), ``gain`` and ``cumulative`` gain of every pick."""
    import pandas as pd

    ranks = first + np.arange(len(chosen.gains))
    gains = pd.DataFrame({"rank": ranks, "gain": chosen.gains})
    return gains.assign(cumulative=gains["gain"].cumsum()).round(9)


def cluster_map(
    X: NDArray[np.float32],
    review_ids: NDArray[np.generic],
    chosen: Selection,
    profile: Profile,
    seed: int,
) -> pd.DataFrame:
    """Project pool and seeds onto the pool's first two principal components.

    Parameters
    ----------
    X, review_ids
        (N, d) rows of the pool and their ids.
    chosen, profile
        Picks, and clusters of the rows.
    seed
        Of the sample of at most `MAP_ROWS` rows that is drawn and gives the components; all
        seeds are drawn.

    Returns
    -------
    pandas.DataFrame
        ``review_id``, ``x``, ``y`` (float32), ``cluster`` (int32) and ``rank`` (int32 from 0,
        null where not selected), in the order of the pool.
    """
    import pandas as pd
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    n = len(X)
    sample = np.arange(n)
    if n > MAP_ROWS:
        sample = np.sort(np.random.default_rng(seed).choice(n, MAP_ROWS, replace=False))
    shown = np.union1d(sample, chosen.indices)
    place = np.zeros((len(shown), 2))
    if len(sample) > 1:
        axes = min(2, X.shape[1])
        with threadpool_limits(1):
            model = PCA(axes, svd_solver="covariance_eigh").fit(np.asarray(X[sample], np.float64))
            place[:, :axes] = model.transform(np.asarray(X[shown], np.float64))
    ranks = np.full(n, -1)
    ranks[chosen.indices] = np.arange(len(chosen.indices))
    frame = pd.DataFrame(
        {
            "review_id": review_ids[shown],
            "x": place[:, 0].round(6).astype(np.float32),
            "y": place[:, 1].round(6).astype(np.float32),
            "cluster": profile.labels[shown].astype(np.int32),
            "rank": pd.array(ranks[shown], dtype="Int32"),
        }
    )
    frame.loc[frame["rank"] < 0, "rank"] = pd.NA
    return frame
