"""Ranking metrics of predictions, their summary and their paired differences.

Predictions have one row per system and query: the targets of the query and the ranked
candidates, best first: all of them, or as many as a search was to find. `docs/evaluation.md` says
what each number means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError, RunError
from seedtalk.evaluation.intervals import Interval, intervals, paired

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["system", "conversation_id", "query"]
COUNTS = ["targets", "ranked"]


def rank(candidates: Sequence[str], *scores: NDArray[np.float64]) -> list[str]:
    """Return `candidates` best first.

    Parameters
    ----------
    candidates
        C item ids.
    scores
        Arrays of shape (C,), higher is better; each one breaks the ties of those before it.
        What is still tied goes by the lowest item id.

    Raises
    ------
    RunError
        When a score is not a finite number.
    """
    if not all(np.isfinite(score).all() for score in scores):
        raise RunError("a candidate's score is not a finite number; the model's output is broken")
    order = np.lexsort([np.asarray(candidates, dtype=str), *(-score for score in reversed(scores))])
    return [candidates[place] for place in order]


def query_metrics(
    ranking: Sequence[str], targets: Sequence[str], cutoffs: Sequence[int]
) -> dict[str, float]:
    """Return the metrics of one query.

    - ``recall@k``: share of the targets among the first k.
    - ``ndcg@k``: binary gain, sum of 1/log2(1 + rank) over the targets among the first k, over
      the same sum of a perfect ranking, which has min(k, targets) of them in front
      (Järvelin & Kekäläinen 2002).
    - ``mrr``: 1/rank of the first target, over the whole ranking; 0 when none is ranked.

    Ranks count from 1. A target that is not in the ranking is missed at every k.
    """
    wanted = dict.fromkeys(targets, np.inf)
    for number, item in enumerate(ranking, start=1):
        if item in wanted:
            wanted[item] = number
    ranks = np.sort([wanted[target] for target in targets])
    gains = 1 / np.log2(1 + ranks)
    ideal = np.cumsum(1 / np.log2(np.arange(2, len(targets) + 2)))
    values: dict[str, float] = {}
    for k in cutoffs:
        values[f"recall@{k}"] = float(np.mean(ranks <= k))
    for k in cutoffs:
        best = ideal[min(k, len(targets)) - 1]
        values[f"ndcg@{k}"] = float(gains[ranks <= k].sum() / best)
    values["mrr"] = float(1 / ranks[0])
    return values


def per_query_metrics(predictions: pd.DataFrame, cutoffs: Sequence[int]) -> pd.DataFrame:
    """Return one row of metrics per row of `predictions`, in its order.

    Parameters
    ----------
    predictions
        Columns ``system``, ``conversation_id``, ``query``, ``targets`` and ``ranking``
        (`records.PREDICTIONS`).
    cutoffs
        Values of k.

    Returns
    -------
    DataFrame
        ``system``, ``conversation_id``, ``query``, ``targets`` (how many), ``ranked`` (how many),
        then ``recall@k``, ``ndcg@k`` for each k, and ``mrr``.

    Raises
    ------
    InputError
        When a query has no target, ranks an item twice, or is there twice for one system.
    """
    import pandas as pd

    rows = []
    columns = (predictions[name] for name in (*KEYS, "targets", "ranking"))
    for system, conversation_id, query, wanted, ranked in zip(*columns, strict=True):
        targets, ranking = list(map(str, wanted)), list(map(str, ranked))
        place = f"predictions of {system}, conversation {conversation_id}, turn {query}"
        if not targets:
            raise InputError(f"{place}: no targets")
        for name, ids in (("targets", targets), ("ranking", ranking)):
            if len(set(ids)) < len(ids):
                raise InputError(f"{place}: an item is twice in its {name}")
        rows.append(
            {
                "system": system,
                "conversation_id": conversation_id,
                "query": query,
                "targets": len(targets),
                "ranked": len(ranking),
                **query_metrics(ranking, targets, cutoffs),
            }
        )
    frame = pd.DataFrame(rows, columns=[*KEYS, *COUNTS, *metric_names(cutoffs)])
    if frame.duplicated(KEYS).any():
        twice = frame[frame.duplicated(KEYS)].iloc[0]
        raise InputError(
            f"predictions of {twice['system']}: conversation {twice['conversation_id']}, "
            f"turn {twice['query']} is there twice"
        )
    return frame


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """Return the names of all metrics, in the order they are shown."""
    return [*(f"recall@{k}" for k in cutoffs), *(f"ndcg@{k}" for k in cutoffs), "mrr"]


def summarise(
    per_query: pd.DataFrame, *, resamples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Return ``{system: {metric: {"mean", "low", "high"}}}`` of `per_query_metrics`.

    Recall is the mean over (query, target) rows, as He et al. (CIKM 2023) count it: a query
    weighs as much as it has targets. NDCG and MRR are means over queries. Intervals resample
    conversations.
    """
    return {
        str(system): _by_metric(
            frame,
            intervals(
                _values(frame),
                _weights(frame),
                _conversations(frame),
                resamples=resamples,
                seed=seed,
            ),
        )
        for system, frame in per_query.groupby("system", sort=False)
    }


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, *, resamples: int, seed: int
) -> dict[str, Interval]:
    """Return ``{metric: {"mean", "low", "high"}}`` of system `a` minus system `b`.

    Parameters
    ----------
    a, b
        Rows of `per_query_metrics`, one system each, on the same queries in any order.
    resamples, seed
        As in `bootstrap_means`.

    Raises
    ------
    InputError
        When a frame has several systems or the two differ in queries, targets or metrics. How
        many items each ranked may differ: a search ranks fewer than a score of every candidate.
    """
    names = []
    for frame in (a, b):
        systems = frame["system"].unique()
        if len(systems) != 1:
            raise InputError(f"a paired difference compares two systems, got {list(systems)}")
        names.append(str(systems[0]))
    query = ["conversation_id", "query"]
    left = a.sort_values(query, ignore_index=True)
    right = b.sort_values(query, ignore_index=True)
    if list(left.columns) != list(right.columns):
        raise InputError(f"{names[0]} and {names[1]} were scored with different metrics")
    if not left[[*query, "targets"]].equals(right[[*query, "targets"]]):
        raise InputError(
            f"{names[0]} and {names[1]} were not scored on the same queries; "
            "evaluate both with the same benchmark and parameters"
        )
    return _by_metric(
        left,
        paired(
            _values(left),
            _values(right),
            _weights(left),
            _conversations(left),
            resamples=resamples,
            seed=seed,
        ),
    )


def _metrics(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame.columns if name not in KEYS and name not in COUNTS]


def _values(frame: pd.DataFrame) -> NDArray[np.float64]:
    return frame[_metrics(frame)].to_numpy(dtype=np.float64)


def _weights(frame: pd.DataFrame) -> NDArray[np.float64]:
    targets = frame["targets"].to_numpy(dtype=np.float64)
    columns = [
        targets if name.startswith("recall@") else np.ones_like(targets) for name in _metrics(frame)
    ]
    return np.stack(columns, axis=1)


def _conversations(frame: pd.DataFrame) -> NDArray[np.str_]:
    return frame["conversation_id"].to_numpy(dtype=str)


def _by_metric(frame: pd.DataFrame, found: list[Interval]) -> dict[str, Interval]:
    return dict(zip(_metrics(frame), found, strict=True))
