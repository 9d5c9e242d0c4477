"""Diversity and information together: a convex combination of two rankings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedtalk.selection import fisher, js
from seedtalk.selection.pool import TIE, Floats, Pool, Rows, lowest_best


def greedy(
    X: NDArray[np.floating],
    p: Floats,
    budget: int,
    pool: Pool,
    *,
    ridge: float,
    criterion: str,
    entropy_weight: float,
    hybrid_weight: float,
    warm_start: Rows,
) -> tuple[Rows, Floats]:
    """Pick rows by w rank(js gain) + (1 - w) rank(fisher gain), ranked anew at every pick.

    The two gains have different units; a rank is the share of the other open rows that gain
    strictly less (0 to 1, equal gains share a rank).

    Parameters
    ----------
    X, p
        (N, d) rows and their (N, K) memberships.
    hybrid_weight
        w, the share of js, from 0 to 1.
    budget, pool, ridge, criterion, entropy_weight, warm_start
        As `js.greedy` and `fisher.greedy`.

    Returns
    -------
    rows, gains
        (budget,) int64 in pick order, and the float64 combined ranks.
    """
    entropies = js.entropy(p)
    total, count = p[warm_start].sum(axis=0), len(warm_start)
    information = fisher.Gains(X, ridge, criterion, warm_start)
    rows, gains = np.empty(budget, dtype=np.int64), np.empty(budget)
    for pick in range(budget):
        at = np.flatnonzero(pool.open)
        values, noise = information.values(pool.open)
        divergent = js.scores(p[at], entropies[at], entropy_weight, total, count)
        score = hybrid_weight * ranks(divergent, TIE)
        score += (1.0 - hybrid_weight) * ranks(values[at], noise)
        row, gains[pick] = lowest_best(at, score)
        rows[pick] = row
        pool.take(row)
        information.take(row, pool.open)
        total, count = total + p[row], count + 1
    return rows, gains


def ranks(values: Floats, tolerance: float) -> Floats:
    """Return the share of the other values that each one exceeds by more than `tolerance`."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.r_[True, np.diff(ordered) > tolerance]
    below = np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))
    share = np.empty(len(values))
    share[order] = below / max(len(values) - 1, 1)
    return share
