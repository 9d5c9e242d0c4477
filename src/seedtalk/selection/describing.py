"""What a selection looks like from outside: its numbers, and a map of pool and seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.selection.js import Profile

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.selection import Selection

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


def gain_curve(chosen: Selection) -> pd.DataFrame:
    """Return ``rank`` (from 0), ``gain`` and ``cumulative`` gain of every pick."""
    import pandas as pd

    gains = pd.DataFrame({"rank": np.arange(len(chosen.gains)), "gain": chosen.gains})
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
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

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
